//! Tensors (`TensorProto`): element types, checked shapes, stored values.
//!
//! A tensor keeps its values in `raw_data` (little endian), in the typed field of its element type, or in a side file
//! ([`external_data`](super::external_data)). A *payload* is what `raw_data` would hold, wherever the values are.
//! Every size is computed with checked arithmetic before anything is allocated.

use bytes::Bytes;
use half::{bf16, f16};

use super::proto::TensorProto;
use super::proto::tensor_proto::DataLocation;
/// Type of a tensor's elements: `TensorProto.DataType` of the specification.
pub use super::proto::tensor_proto::DataType as ElementType;
use crate::error::{Error, ErrorKind, Result};

impl ElementType {
    /// The element type of a tensor.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) for a type that the specification does not define.
    pub fn of(tensor: &TensorProto) -> Result<Self> {
        match ElementType::try_from(tensor.data_type()) {
            Ok(ElementType::Undefined) | Err(_) => {
                Err(malformed(tensor, format!("element type {} does not exist in ONNX", tensor.data_type())))
            }
            Ok(element) => Ok(element),
        }
    }

    /// Bits of one element in a payload; `None` for strings, which have no payload. Elements under 8 bits are packed
    /// without gaps.
    pub fn bits(self) -> Option<u32> {
        use ElementType::*;
        Some(match self {
            Undefined | String => return None,
            Uint2 | Int2 => 2,
            Uint4 | Int4 | Float4e2m1 => 4,
            Float6e2m3 | Float6e3m2 => 6,
            Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 => 8,
            Uint16 | Int16 | Float16 | Bfloat16 => 16,
            Float | Int32 | Uint32 => 32,
            Double | Int64 | Uint64 | Complex64 => 64,
            Complex128 => 128,
        })
    }

    /// Bytes of a payload of so many elements; `None` for strings and on overflow.
    pub fn payload_bytes(self, elements: u64) -> Option<u64> {
        elements.checked_mul(u64::from(self.bits()?)).map(|bits| bits.div_ceil(8))
    }

    /// Whether [`Model::floats`](super::Model::floats) reads it.
    pub fn is_float(self) -> bool {
        matches!(self, ElementType::Float | ElementType::Float16 | ElementType::Bfloat16 | ElementType::Double)
    }
}

/// Product of `dims`, the number of elements.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) for a negative dimension or a product beyond 2^63.
pub fn element_count(dims: &[i64]) -> Result<u64> {
    let mut count = 1u64;
    let mut empty = false;
    for &dim in dims {
        let dim = u64::try_from(dim)
            .map_err(|_| Error::new(ErrorKind::Malformed, format!("dimensions {dims:?}: {dim} is negative")))?;
        empty |= dim == 0;
        count = count
            .checked_mul(dim.max(1))
            .filter(|&n| n <= i64::MAX as u64)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("dimensions {dims:?}: their product overflows")))?;
    }
    Ok(if empty { 0 } else { count })
}

/// The dimensions of a tensor as sizes.
///
/// # Errors
/// As [`element_count`], with the tensor's name.
pub fn shape(tensor: &TensorProto) -> Result<Vec<usize>> {
    element_count(&tensor.dims).map_err(|e| e.at_tensor(tensor.name()))?;
    tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| malformed(tensor, "a dimension does not fit this machine")))
        .collect()
}

/// Bytes that dimensions and element type call for: the length of the payload.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) for bad dimensions or element types, and for strings.
pub fn payload_bytes(tensor: &TensorProto) -> Result<u64> {
    let elements = element_count(&tensor.dims).map_err(|e| e.at_tensor(tensor.name()))?;
    let element = ElementType::of(tensor)?;
    element.payload_bytes(elements).ok_or_else(|| {
        malformed(tensor, format!("no payload of {elements} elements of type {}", element.as_str_name()))
    })
}

/// Bytes of the values in their own element type, wherever they are stored; 0 for a tensor that is not sound.
pub fn stored_bytes(tensor: &TensorProto) -> u64 {
    payload_bytes(tensor).unwrap_or(0)
}

/// Whether the values are in a side file.
pub fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

/// The payload of a tensor whose values are in the message itself. Without a copy if they are in `raw_data`.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) if the values do not match dimensions and element type, or stand in two fields.
pub fn inline_payload(tensor: &TensorProto) -> Result<Bytes> {
    let need = payload_bytes(tensor)?;
    let element = ElementType::of(tensor)?;
    if tensor.segment.is_some() {
        return Err(
            Error::new(ErrorKind::Unsupported, "stored in segments, which no runtime reads").at_tensor(tensor.name())
        );
    }
    let payload = match only_field(tensor)? {
        Field::Raw(raw) => raw,
        Field::Float => {
            expect_field(tensor, element, &[ElementType::Float, ElementType::Complex64], "float_data")?;
            little_endian(&tensor.float_data, |v| v.to_le_bytes())
        }
        Field::Double => {
            expect_field(tensor, element, &[ElementType::Double, ElementType::Complex128], "double_data")?;
            little_endian(&tensor.double_data, |v| v.to_le_bytes())
        }
        Field::Int64 => {
            expect_field(tensor, element, &[ElementType::Int64], "int64_data")?;
            little_endian(&tensor.int64_data, |v| v.to_le_bytes())
        }
        Field::Uint64 => match element {
            ElementType::Uint64 => little_endian(&tensor.uint64_data, |v| v.to_le_bytes()),
            _ => {
                expect_field(tensor, element, &[ElementType::Uint32], "uint64_data")?;
                let values: Vec<u32> = tensor
                    .uint64_data
                    .iter()
                    .map(|&v| u32::try_from(v).map_err(|_| out_of_range(tensor, v as i128, element)))
                    .collect::<Result<_>>()?;
                little_endian(&values, |v| v.to_le_bytes())
            }
        },
        Field::Int32 => narrow(tensor, element)?,
    };
    if payload.len() as u64 != need {
        return Err(malformed(
            tensor,
            format!("{} bytes of data, but {:?} of {} needs {need}", payload.len(), tensor.dims, element.as_str_name()),
        ));
    }
    Ok(payload)
}

/// Where the values of an inline tensor are.
enum Field {
    Raw(Bytes),
    Float,
    Double,
    Int32,
    Int64,
    Uint64,
}

fn only_field(tensor: &TensorProto) -> Result<Field> {
    let raw = tensor.raw_data.clone().unwrap_or_default();
    let mut found: Vec<Field> = Vec::new();
    let typed = [
        (tensor.float_data.is_empty(), Field::Float),
        (tensor.double_data.is_empty(), Field::Double),
        (tensor.int32_data.is_empty(), Field::Int32),
        (tensor.int64_data.is_empty(), Field::Int64),
        (tensor.uint64_data.is_empty(), Field::Uint64),
    ];
    found.extend(typed.into_iter().filter(|(empty, _)| !empty).map(|(_, field)| field));
    if !raw.is_empty() || found.is_empty() {
        found.push(Field::Raw(raw));
    }
    match (found.pop(), found.is_empty() && tensor.string_data.is_empty()) {
        (Some(field), true) => Ok(field),
        _ => Err(malformed(tensor, "values in more than one field")),
    }
}

fn expect_field(tensor: &TensorProto, element: ElementType, carried: &[ElementType], field: &str) -> Result<()> {
    if carried.contains(&element) {
        return Ok(());
    }
    Err(malformed(
        tensor,
        format!("values of type {} stand in {field}, which does not carry it", element.as_str_name()),
    ))
}

/// `int32_data` carries every type of up to 32 bits but `FLOAT` and `UINT32`: one element a value, packed bytes for
/// types of 2 and 4 bits, bit patterns for the small floats. The 6-bit floats, unpacked there, are not read.
fn narrow(tensor: &TensorProto, element: ElementType) -> Result<Bytes> {
    match element.bits() {
        Some(32) if element == ElementType::Int32 => Ok(little_endian(&tensor.int32_data, |v| v.to_le_bytes())),
        Some(16) => cut::<2>(tensor, element),
        Some(2 | 4 | 8) => cut::<1>(tensor, element),
        _ => Err(malformed(
            tensor,
            format!("values of type {} stand in int32_data, which does not carry it", element.as_str_name()),
        )),
    }
}

/// The low `N` bytes of each value; both the signed and the unsigned reading of a pattern occur in files.
fn cut<const N: usize>(tensor: &TensorProto, element: ElementType) -> Result<Bytes> {
    let (low, high) = (-(1i64 << (8 * N - 1)), 1i64 << (8 * N));
    let mut out = Vec::with_capacity(tensor.int32_data.len() * N);
    for &v in &tensor.int32_data {
        if !(low..high).contains(&i64::from(v)) {
            return Err(out_of_range(tensor, i128::from(v), element));
        }
        out.extend_from_slice(&v.to_le_bytes()[..N]);
    }
    Ok(out.into())
}

fn out_of_range(tensor: &TensorProto, value: i128, element: ElementType) -> Error {
    malformed(tensor, format!("value {value} is out of range for {}", element.as_str_name()))
}

fn malformed(tensor: &TensorProto, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message).at_tensor(tensor.name())
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut out = Vec::with_capacity(values.len() * N);
    for &v in values {
        out.extend_from_slice(&bytes(v));
    }
    out.into()
}

/// Floats of a payload. `element` is one of those that [`ElementType::is_float`] names, else `None`.
pub(super) fn floats(element: ElementType, payload: &[u8]) -> Option<Vec<f32>> {
    Some(match element {
        ElementType::Float => elements(payload, f32::from_le_bytes),
        ElementType::Float16 => elements(payload, |b| f16::from_le_bytes(b).to_f32()),
        ElementType::Bfloat16 => elements(payload, |b| bf16::from_le_bytes(b).to_f32()),
        ElementType::Double => elements(payload, |b| f64::from_le_bytes(b) as f32),
        _ => return None,
    })
}

/// Integers of a payload, booleans as 0 and 1; `None` for other types and for a `uint64` beyond `i64`.
pub(super) fn integers(element: ElementType, payload: &[u8]) -> Option<Vec<i64>> {
    Some(match element {
        ElementType::Int64 => elements(payload, i64::from_le_bytes),
        ElementType::Int32 => elements(payload, |b| i32::from_le_bytes(b).into()),
        ElementType::Int16 => elements(payload, |b| i16::from_le_bytes(b).into()),
        ElementType::Int8 => elements(payload, |b| i8::from_le_bytes(b).into()),
        ElementType::Uint32 => elements(payload, |b| u32::from_le_bytes(b).into()),
        ElementType::Uint16 => elements(payload, |b| u16::from_le_bytes(b).into()),
        ElementType::Uint8 | ElementType::Bool => elements(payload, |b| u8::from_le_bytes(b).into()),
        ElementType::Uint64 => {
            let wide = elements(payload, u64::from_le_bytes);
            wide.into_iter().map(i64::try_from).collect::<std::result::Result<_, _>>().ok()?
        }
        _ => return None,
    })
}

fn elements<T, const N: usize>(payload: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    payload.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
}

/// A tensor from its payload.
///
/// # Panics
/// If the payload's length is not what shape and element type call for: that is a mistake of the caller.
pub fn from_payload(name: &str, element: ElementType, shape: &[usize], payload: impl Into<Bytes>) -> TensorProto {
    let payload = payload.into();
    let tensor = TensorProto {
        dims: shape.iter().map(|&d| d as i64).collect(),
        data_type: Some(element as i32),
        name: Some(name.to_owned()),
        raw_data: Some(payload.clone()),
        ..Default::default()
    };
    assert_eq!(payload_bytes(&tensor).ok(), Some(payload.len() as u64), "tensor '{name}' of shape {shape:?}");
    tensor
}

/// A `FLOAT` tensor. Panics as [`from_payload`], like all of its kind.
pub fn float(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    from_payload(name, ElementType::Float, shape, little_endian(values, f32::to_le_bytes))
}

/// A `FLOAT16` tensor.
pub fn float16(name: &str, shape: &[usize], values: &[f16]) -> TensorProto {
    from_payload(name, ElementType::Float16, shape, little_endian(values, f16::to_le_bytes))
}

/// A tensor of an element type that weights have, of values that are rounded to it: floats, or bytes in their range.
pub fn rounded(name: &str, element: ElementType, shape: &[usize], values: &[f32]) -> TensorProto {
    match element {
        ElementType::Float16 => {
            float16(name, shape, &values.iter().map(|&value| f16::from_f32(value)).collect::<Vec<_>>())
        }
        ElementType::Int8 => int8(name, shape, &values.iter().map(|&value| value as i8).collect::<Vec<_>>()),
        ElementType::Uint8 => uint8(name, shape, &values.iter().map(|&value| value as u8).collect::<Vec<_>>()),
        _ => float(name, shape, values),
    }
}

/// A `UINT8` tensor.
pub fn uint8(name: &str, shape: &[usize], values: &[u8]) -> TensorProto {
    from_payload(name, ElementType::Uint8, shape, values.to_vec())
}

/// An `INT8` tensor.
pub fn int8(name: &str, shape: &[usize], values: &[i8]) -> TensorProto {
    from_payload(name, ElementType::Int8, shape, little_endian(values, i8::to_le_bytes))
}

/// An `INT32` tensor.
pub fn int32(name: &str, shape: &[usize], values: &[i32]) -> TensorProto {
    from_payload(name, ElementType::Int32, shape, little_endian(values, i32::to_le_bytes))
}

/// An `INT64` tensor.
pub fn int64(name: &str, shape: &[usize], values: &[i64]) -> TensorProto {
    from_payload(name, ElementType::Int64, shape, little_endian(values, i64::to_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_counts_are_checked() {
        assert_eq!(element_count(&[]).ok(), Some(1));
        assert_eq!(element_count(&[2, 0, 3]).ok(), Some(0));
        assert!(element_count(&[1, -32, 6]).is_err());
        assert!(element_count(&[1, 8_589_934_592, 8_589_934_592]).is_err());
        assert!(element_count(&[0, i64::MAX, i64::MAX]).is_err(), "an empty tensor of absurd size is no excuse");
    }

    #[test]
    fn small_types_pack() {
        assert_eq!(ElementType::Int4.payload_bytes(3), Some(2));
        assert_eq!(ElementType::Uint2.payload_bytes(5), Some(2));
        assert_eq!(ElementType::String.payload_bytes(5), None);
    }

    #[test]
    fn typed_fields_give_the_payload_of_raw_data() {
        let typed = |element: ElementType, dims: &[i64], fill: &dyn Fn(&mut TensorProto)| {
            let mut t = TensorProto { dims: dims.to_vec(), data_type: Some(element as i32), ..TensorProto::default() };
            fill(&mut t);
            inline_payload(&t).map(|b| b.to_vec())
        };
        let one = f16::from_f32(-1.0);
        assert_eq!(typed(ElementType::Float, &[1], &|t| t.float_data = vec![1.5]).unwrap(), 1.5f32.to_le_bytes());
        assert_eq!(
            typed(ElementType::Float16, &[1], &|t| t.int32_data = vec![one.to_bits().into()]).unwrap(),
            one.to_le_bytes()
        );
        assert_eq!(typed(ElementType::Int8, &[2], &|t| t.int32_data = vec![-1, 127]).unwrap(), [255, 127]);
        assert_eq!(typed(ElementType::Bool, &[2], &|t| t.int32_data = vec![1, 0]).unwrap(), [1, 0]);
        assert_eq!(typed(ElementType::Uint32, &[1], &|t| t.uint64_data = vec![7]).unwrap(), [7, 0, 0, 0]);
        assert!(typed(ElementType::Uint32, &[1], &|t| t.uint64_data = vec![1 << 40]).is_err());
        assert!(typed(ElementType::Uint8, &[1], &|t| t.int32_data = vec![256]).is_err());
        assert!(typed(ElementType::Float, &[1], &|t| t.int32_data = vec![1]).is_err());
        assert!(typed(ElementType::Float, &[2], &|t| t.float_data = vec![1.0]).is_err());
        assert!(
            typed(ElementType::Float, &[1], &|t| {
                t.float_data = vec![1.0];
                t.raw_data = Some(Bytes::from_static(&[0; 4]));
            })
            .is_err()
        );
    }

    #[test]
    fn payloads_become_floats_and_integers() {
        assert_eq!(floats(ElementType::Bfloat16, &bf16::from_f32(2.5).to_le_bytes()), Some(vec![2.5]));
        assert_eq!(floats(ElementType::Double, &0.25f64.to_le_bytes()), Some(vec![0.25]));
        assert_eq!(floats(ElementType::Int8, &[1]), None);
        assert_eq!(integers(ElementType::Int8, &[255]), Some(vec![-1]));
        assert_eq!(integers(ElementType::Uint64, &u64::MAX.to_le_bytes()), None);
    }
}
