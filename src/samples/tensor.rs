//! A value of a graph input or output: an n-dimensional array of one of ONNX's element types.

use crate::error::Result;
use crate::onnx::tensor::is_external;
use crate::onnx::{ElementType, Model, TensorProto};
use half::f16;
use ndarray::{ArcArray, ArrayD, Axis, IxDyn, Slice, StrideShape};
use std::ops::Range;

/// Shared data: a clone copies no elements.
type Shared<T> = ArcArray<T, IxDyn>;

/// An array with its element type. Cloning is cheap. Made by `Tensor::from(array)`, which also puts the elements in
/// row-major order, ONNX's own.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants bear ONNX's own names of element types")]
pub enum Tensor {
    Float(Shared<f32>),
    Float16(Shared<f16>),
    Double(Shared<f64>),
    Int8(Shared<i8>),
    Int16(Shared<i16>),
    Int32(Shared<i32>),
    Int64(Shared<i64>),
    Uint8(Shared<u8>),
    Uint16(Shared<u16>),
    Uint32(Shared<u32>),
    Uint64(Shared<u64>),
    Bool(Shared<bool>),
    String(Shared<String>),
}

/// Evaluates one expression for whatever array the tensor holds.
macro_rules! each {
    ($tensor:expr, $a:ident => $body:expr) => {
        match $tensor {
            Tensor::Float($a) => $body,
            Tensor::Float16($a) => $body,
            Tensor::Double($a) => $body,
            Tensor::Int8($a) => $body,
            Tensor::Int16($a) => $body,
            Tensor::Int32($a) => $body,
            Tensor::Int64($a) => $body,
            Tensor::Uint8($a) => $body,
            Tensor::Uint16($a) => $body,
            Tensor::Uint32($a) => $body,
            Tensor::Uint64($a) => $body,
            Tensor::Bool($a) => $body,
            Tensor::String($a) => $body,
        }
    };
}

macro_rules! from_array {
    ($($t:ty => $variant:ident),*) => {$(
        impl From<ArrayD<$t>> for Tensor {
            fn from(array: ArrayD<$t>) -> Tensor {
                let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
                Tensor::$variant(array.into_shared())
            }
        }
    )*};
}

from_array!(f32 => Float, f16 => Float16, f64 => Double, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
            u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64, bool => Bool, String => String);

/// Bytes of an array of this shape, with empty axes counted as of size 1; `None` where no machine holds so many, or for
/// strings.
pub(super) fn bytes(element: ElementType, shape: &[usize]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &size| product.checked_mul((size as u64).max(1)))?;
    element.payload_bytes(elements).filter(|&bytes| bytes <= isize::MAX as u64)
}

impl Tensor {
    /// The value of a tensor that a model stores.
    ///
    /// # Errors
    /// Those of reading its side file; [`ErrorKind::Samples`](crate::error::ErrorKind) for an element type without a form here.
    pub fn stored(model: &Model, tensor: &TensorProto) -> Result<Tensor> {
        let mut inline = tensor.clone();
        if is_external(tensor) {
            inline.raw_data = Some(model.payload(tensor)?);
            inline.data_location = None;
            inline.external_data.clear();
        }
        super::read::from_proto(&inline)
    }

    /// Bytes of the elements.
    pub(super) fn bytes(&self) -> u64 {
        self.element().payload_bytes(self.len() as u64).unwrap_or(u64::MAX)
    }

    /// Sizes of the axes; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        each!(self, a => a.shape())
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        each!(self, a => a.len())
    }

    /// Whether an axis is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        match self {
            Tensor::Float(_) => ElementType::Float,
            Tensor::Float16(_) => ElementType::Float16,
            Tensor::Double(_) => ElementType::Double,
            Tensor::Int8(_) => ElementType::Int8,
            Tensor::Int16(_) => ElementType::Int16,
            Tensor::Int32(_) => ElementType::Int32,
            Tensor::Int64(_) => ElementType::Int64,
            Tensor::Uint8(_) => ElementType::Uint8,
            Tensor::Uint16(_) => ElementType::Uint16,
            Tensor::Uint32(_) => ElementType::Uint32,
            Tensor::Uint64(_) => ElementType::Uint64,
            Tensor::Bool(_) => ElementType::Bool,
            Tensor::String(_) => ElementType::String,
        }
    }

    /// Zeros, or false; `None` for an element type that no tensor here has, and for a shape that no machine can hold.
    pub fn zeros(element: ElementType, shape: &[usize]) -> Option<Tensor> {
        bytes(element, shape)?;
        let shape = IxDyn(shape);
        Some(match element {
            ElementType::Float => Tensor::Float(Shared::zeros(shape)),
            ElementType::Float16 => Tensor::Float16(Shared::from_elem(shape, f16::ZERO)),
            ElementType::Double => Tensor::Double(Shared::zeros(shape)),
            ElementType::Int8 => Tensor::Int8(Shared::zeros(shape)),
            ElementType::Int16 => Tensor::Int16(Shared::zeros(shape)),
            ElementType::Int32 => Tensor::Int32(Shared::zeros(shape)),
            ElementType::Int64 => Tensor::Int64(Shared::zeros(shape)),
            ElementType::Uint8 => Tensor::Uint8(Shared::zeros(shape)),
            ElementType::Uint16 => Tensor::Uint16(Shared::zeros(shape)),
            ElementType::Uint32 => Tensor::Uint32(Shared::zeros(shape)),
            ElementType::Uint64 => Tensor::Uint64(Shared::zeros(shape)),
            ElementType::Bool => Tensor::Bool(Shared::from_elem(shape, false)),
            _ => return None,
        })
    }

    /// A tensor from its elements as little-endian bytes, a bool being 0 or not. `None` for an element type that no
    /// tensor here has, and if shape and bytes do not agree.
    pub fn from_little_endian(
        element: ElementType,
        shape: impl Into<StrideShape<IxDyn>>,
        bytes: &[u8],
    ) -> Option<Tensor> {
        macro_rules! numbers {
            ($t:ty) => {{
                let (chunks, []) = bytes.as_chunks() else { return None };
                let elements = chunks.iter().map(|&b| <$t>::from_le_bytes(b)).collect();
                ArrayD::from_shape_vec(shape, elements).ok()?.into()
            }};
        }
        Some(match element {
            ElementType::Float => numbers!(f32),
            ElementType::Float16 => numbers!(f16),
            ElementType::Double => numbers!(f64),
            ElementType::Int8 => numbers!(i8),
            ElementType::Int16 => numbers!(i16),
            ElementType::Int32 => numbers!(i32),
            ElementType::Int64 => numbers!(i64),
            ElementType::Uint8 => numbers!(u8),
            ElementType::Uint16 => numbers!(u16),
            ElementType::Uint32 => numbers!(u32),
            ElementType::Uint64 => numbers!(u64),
            ElementType::Bool => ArrayD::from_shape_vec(shape, bytes.iter().map(|&b| b != 0).collect()).ok()?.into(),
            _ => return None,
        })
    }

    /// The part at `index` of axis 0, without that axis. Shares the elements.
    ///
    /// # Panics
    /// If there is no axis 0, or it is not that long.
    pub fn row(&self, index: usize) -> Tensor {
        macro_rules! row {
            ($($variant:ident),*) => {
                match self {
                    $(Tensor::$variant(a) => Tensor::$variant(a.clone().index_axis_move(Axis(0), index)),)*
                }
            };
        }
        row!(Float, Float16, Double, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool, String)
    }

    /// The part `range` of axis 0.
    ///
    /// # Panics
    /// If there is no axis 0, or it is not that long.
    pub fn slice(&self, range: Range<usize>) -> Tensor {
        macro_rules! slice {
            ($($variant:ident),*) => {
                match self {
                    $(Tensor::$variant(a) => {
                        let mut a = a.clone();
                        a.slice_axis_inplace(Axis(0), Slice::from(range));
                        Tensor::$variant(a)
                    })*
                }
            };
        }
        slice!(Float, Float16, Double, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool, String)
    }

    /// Index of the first element that is NaN or infinite.
    pub fn find_non_finite(&self) -> Option<Vec<usize>> {
        fn find<T: Copy>(a: &Shared<T>, finite: impl Fn(T) -> bool) -> Option<Vec<usize>> {
            let mut rest = a.iter().position(|&v| !finite(v))?;
            let mut index = vec![0; a.ndim()];
            for (i, &size) in index.iter_mut().zip(a.shape()).rev() {
                (*i, rest) = (rest % size, rest / size);
            }
            Some(index)
        }
        match self {
            Tensor::Float(a) => find(a, f32::is_finite),
            Tensor::Float16(a) => find(a, f16::is_finite),
            Tensor::Double(a) => find(a, f64::is_finite),
            _ => None,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(&self) -> bool {
        matches!(self, Tensor::Float(_) | Tensor::Float16(_) | Tensor::Double(_))
    }

    /// The elements as `f64`, in the same shape: exact but for 64-bit integers beyond 2^53. A bool is 0 or 1, a string a
    /// number below 2^53 that tells it from others.
    pub fn to_f64(&self) -> ArrayD<f64> {
        match self {
            Tensor::Float(a) => a.mapv(f64::from),
            Tensor::Float16(a) => a.mapv(f64::from),
            Tensor::Double(a) => a.to_owned(),
            Tensor::Int8(a) => a.mapv(f64::from),
            Tensor::Int16(a) => a.mapv(f64::from),
            Tensor::Int32(a) => a.mapv(f64::from),
            Tensor::Int64(a) => a.mapv(|v| v as f64),
            Tensor::Uint8(a) => a.mapv(f64::from),
            Tensor::Uint16(a) => a.mapv(f64::from),
            Tensor::Uint32(a) => a.mapv(f64::from),
            Tensor::Uint64(a) => a.mapv(|v| v as f64),
            Tensor::Bool(a) => a.mapv(|v| f64::from(u8::from(v))),
            Tensor::String(a) => a.map(|v| fingerprint(v) as f64),
        }
    }

    /// The elements as `f32`, in the same shape; rounded where `f32` cannot hold them.
    pub fn to_f32(&self) -> ArrayD<f32> {
        match self {
            Tensor::Float(a) => a.to_owned(),
            other => other.to_f64().mapv(|v| v as f32),
        }
    }

    /// The elements as `i64`, in the same shape, strings as in [`to_f64`](Self::to_f64); `None` for floats.
    pub fn to_i64(&self) -> Option<ArrayD<i64>> {
        Some(match self {
            Tensor::Int8(a) => a.mapv(i64::from),
            Tensor::Int16(a) => a.mapv(i64::from),
            Tensor::Int32(a) => a.mapv(i64::from),
            Tensor::Int64(a) => a.to_owned(),
            Tensor::Uint8(a) => a.mapv(i64::from),
            Tensor::Uint16(a) => a.mapv(i64::from),
            Tensor::Uint32(a) => a.mapv(i64::from),
            Tensor::Uint64(a) => a.mapv(|v| v as i64),
            Tensor::Bool(a) => a.mapv(i64::from),
            Tensor::String(a) => a.map(|v| fingerprint(v)),
            Tensor::Float(_) | Tensor::Float16(_) | Tensor::Double(_) => return None,
        })
    }
}

/// A number below 2^53 for a string: FNV-1a, cut.
fn fingerprint(text: &str) -> i64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    (text.bytes().fold(0xCBF2_9CE4_8422_2325, step) >> 11) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn elements_are_row_major_whatever_came_in() {
        let transposed = array![[1f32, 2.], [3., 4.]].reversed_axes().into_dyn();
        let Tensor::Float(a) = Tensor::from(transposed) else { unreachable!() };
        assert_eq!(a.as_slice().unwrap(), [1., 3., 2., 4.]);
    }

    #[test]
    fn rows_and_slices_are_of_axis_0() {
        let t = Tensor::from(array![[1u8, 2], [3, 4], [5, 6]].into_dyn());
        assert_eq!(t.row(1), Tensor::from(array![3u8, 4].into_dyn()));
        assert_eq!(t.slice(1..3), Tensor::from(array![[3u8, 4], [5, 6]].into_dyn()));
    }

    #[test]
    fn finds_what_is_not_finite() {
        let t = Tensor::from(array![[1f32, 2.], [f32::NAN, f32::INFINITY]].into_dyn());
        assert_eq!(t.find_non_finite(), Some(vec![1, 0]));
        assert_eq!(Tensor::from(array![1i64].into_dyn()).find_non_finite(), None);
    }

    #[test]
    fn conversions_keep_shape_and_values() {
        let t = Tensor::from(array![[true, false]].into_dyn());
        assert_eq!(t.shape(), [1, 2]);
        assert_eq!(t.to_f32(), array![[1., 0.]].into_dyn());
        assert_eq!(t.to_i64(), Some(array![[1, 0]].into_dyn()));
        assert_eq!(Tensor::from(array![1.5f64].into_dyn()).to_i64(), None);
    }
}
