//! Values on the way into tract and out of it.

use crate::samples::Tensor;
use half::f16;
use ndarray::ArrayD;
use tract_onnx::prelude as tract;
use tract_onnx::prelude::Datum;

/// The same value as tract has it.
pub(super) fn to_tract(tensor: &Tensor) -> tract::Tensor {
    match tensor {
        Tensor::Float(a) => a.to_owned().into(),
        Tensor::Float16(a) => a.to_owned().into(),
        Tensor::Double(a) => a.to_owned().into(),
        Tensor::Int8(a) => a.to_owned().into(),
        Tensor::Int16(a) => a.to_owned().into(),
        Tensor::Int32(a) => a.to_owned().into(),
        Tensor::Int64(a) => a.to_owned().into(),
        Tensor::Uint8(a) => a.to_owned().into(),
        Tensor::Uint16(a) => a.to_owned().into(),
        Tensor::Uint32(a) => a.to_owned().into(),
        Tensor::Uint64(a) => a.to_owned().into(),
        Tensor::Bool(a) => a.to_owned().into(),
        Tensor::String(a) => a.to_owned().into(),
    }
}

/// The element type that tract must expect.
pub(super) fn datum_type(tensor: &Tensor) -> tract::DatumType {
    match tensor {
        Tensor::Float(_) => f32::datum_type(),
        Tensor::Float16(_) => f16::datum_type(),
        Tensor::Double(_) => f64::datum_type(),
        Tensor::Int8(_) => i8::datum_type(),
        Tensor::Int16(_) => i16::datum_type(),
        Tensor::Int32(_) => i32::datum_type(),
        Tensor::Int64(_) => i64::datum_type(),
        Tensor::Uint8(_) => u8::datum_type(),
        Tensor::Uint16(_) => u16::datum_type(),
        Tensor::Uint32(_) => u32::datum_type(),
        Tensor::Uint64(_) => u64::datum_type(),
        Tensor::Bool(_) => bool::datum_type(),
        Tensor::String(_) => String::datum_type(),
    }
}

/// The same value as the library has it. tract's own types of dimensions and of quantized numbers become what they
/// stand for in ONNX.
pub(super) fn from_tract(tensor: &tract::Tensor) -> tract::TractResult<Tensor> {
    fn array<T: Datum + Clone>(tensor: &tract::Tensor) -> tract::TractResult<ArrayD<T>> {
        Ok(tensor.to_plain_array_view::<T>()?.to_owned())
    }
    use tract::DatumType as D;
    Ok(match tensor.datum_type().unquantized() {
        D::F32 => array::<f32>(tensor)?.into(),
        D::F16 => array::<f16>(tensor)?.into(),
        D::F64 => array::<f64>(tensor)?.into(),
        D::I8 => array::<i8>(tensor)?.into(),
        D::I16 => array::<i16>(tensor)?.into(),
        D::I32 => array::<i32>(tensor)?.into(),
        D::U8 => array::<u8>(tensor)?.into(),
        D::U16 => array::<u16>(tensor)?.into(),
        D::U32 => array::<u32>(tensor)?.into(),
        D::U64 => array::<u64>(tensor)?.into(),
        D::Bool => array::<bool>(tensor)?.into(),
        D::String => array::<String>(tensor)?.into(),
        _ => array::<i64>(tensor.cast_to::<i64>()?.as_ref())?.into(),
    })
}
