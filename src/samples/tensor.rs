//! A value of a graph input or output: an n-dimensional array of one of ONNX's element types.

use half::f16;
use ndarray::{ArcArray, ArrayD, IxDyn};

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
            u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64, bool => Bool);

impl Tensor {
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

    /// Whether the elements are floating-point numbers.
    pub fn is_float(&self) -> bool {
        matches!(self, Tensor::Float(_) | Tensor::Float16(_) | Tensor::Double(_))
    }

    /// The elements as `f64`, in the same shape: exact but for 64-bit integers beyond 2^53. A bool is 0 or 1.
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
        }
    }

    /// The elements as `f32`, in the same shape; rounded where `f32` cannot hold them.
    pub fn to_f32(&self) -> ArrayD<f32> {
        match self {
            Tensor::Float(a) => a.to_owned(),
            other => other.to_f64().mapv(|v| v as f32),
        }
    }

    /// The elements as `i64`, in the same shape; `None` for floats.
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
            Tensor::Float(_) | Tensor::Float16(_) | Tensor::Double(_) => return None,
        })
    }
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
    fn conversions_keep_shape_and_values() {
        let t = Tensor::from(array![[true, false]].into_dyn());
        assert_eq!(t.shape(), [1, 2]);
        assert_eq!(t.to_f32(), array![[1., 0.]].into_dyn());
        assert_eq!(t.to_i64(), Some(array![[1, 0]].into_dyn()));
        assert_eq!(Tensor::from(array![1.5f64].into_dyn()).to_i64(), None);
    }
}
