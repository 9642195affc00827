//! Values of integer tensors in the shorter of two fields: `raw_data`, of fixed width, or the typed field of their element
//! type, which has one byte for each value from 0 to 127. Readers know both.

use crate::error::Result;
use crate::onnx::graph::for_each_tensor_mut;
use crate::onnx::{ElementType, Model, TensorProto, message_bytes, tensor};

/// Moves the values of every tensor to the field that takes the fewest bytes.
pub(super) fn pack(model: &mut Model) -> Result<()> {
    for_each_tensor_mut(&mut model.proto, &mut |tensor| {
        let packed = packed(tensor);
        if message_bytes(&packed) < message_bytes(tensor) {
            *tensor = packed;
        }
        Ok(())
    })
}

/// The tensor with its values in the shorter field; the tensor itself if it is not understood.
pub(super) fn packed(tensor: &TensorProto) -> TensorProto {
    let same = || tensor.clone();
    if tensor::is_external(tensor) || !tensor.string_data.is_empty() {
        return same();
    }
    let Ok(payload) = tensor::inline_payload(tensor) else { return same() };
    let element = ElementType::of(tensor).unwrap_or(ElementType::Undefined);
    let empty = TensorProto {
        raw_data: None,
        float_data: Vec::new(),
        double_data: Vec::new(),
        int32_data: Vec::new(),
        int64_data: Vec::new(),
        uint64_data: Vec::new(),
        ..tensor.clone()
    };
    if payload.is_empty() {
        return same();
    }
    let typed = match element {
        ElementType::Int64 => {
            let values = payload.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("chunks of eight")));
            TensorProto { int64_data: values.collect(), ..empty.clone() }
        }
        ElementType::Int32 => {
            let values = payload.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("chunks of four")));
            TensorProto { int32_data: values.collect(), ..empty.clone() }
        }
        _ => same(),
    };
    let raw = TensorProto { raw_data: Some(payload), ..empty };
    [typed, raw].into_iter().fold(
        same(),
        |best, next| {
            if message_bytes(&next) < message_bytes(&best) { next } else { best }
        },
    )
}
