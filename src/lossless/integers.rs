//! Tables of indices as the narrowest integers that every runtime casts, and a Cast back, which runtimes fold.
//!
//! ```text
//! table u8 - Cast int64 - Gather, ScatterND, ...
//! ```
//! Only what is data or indices of the Gather and Scatter operators: shapes, axes, pads and ranges some runtimes want as
//! literals.

use super::constants::{free, may_decode};
use crate::error::Result;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{
    AttributeProto, ElementType, Model, NodeProto, Rewriter, TensorProto, Values, message_bytes, tensor,
};

/// Bytes of a Cast node with short names, and of the name of the table.
const CAST_BYTES: i64 = 40;
/// tract folds a node only if its output takes at most this.
pub(super) const FOLDED_BYTES: u64 = 4 << 20;

/// Stores tables of indices as narrow integers.
pub(super) fn narrow(model: &mut Model) -> Result<()> {
    if !may_decode(model) {
        return Ok(());
    }
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let mut rewriter = Rewriter::new(model);
    for constant in free(&source, &values) {
        let wide =
            [ElementType::Int64, ElementType::Int32].into_iter().find(|e| *e as i32 == constant.tensor.data_type());
        let Some(wide) = wide.filter(|_| tensor::stored_bytes(constant.tensor) <= FOLDED_BYTES) else { continue };
        if !constant.is_read_by(&source, takes_indices) {
            continue;
        }
        let Some(table) = narrowed(&source, constant.tensor, wide) else { continue };
        if message_bytes(&table) + CAST_BYTES >= message_bytes(&super::packing::packed(constant.tensor)) {
            continue;
        }
        let stored = rewriter.fresh(&format!("{}/narrow", constant.name));
        let value = rewriter.fresh(constant.name);
        rewriter.add_constant(&constant.scope, TensorProto { name: Some(stored.clone()), ..table });
        rewriter.add_node(&constant.scope, cast(&stored, &value, wide));
        constant.replace(&mut rewriter, &value);
    }
    rewriter.finish()?;
    Ok(())
}

/// Whether an input of a node is data or indices of a look-up.
fn takes_indices(node: &NodeProto, input: usize) -> bool {
    match node.op_type() {
        "Gather" | "GatherElements" | "GatherND" => input <= 1,
        "Scatter" | "ScatterElements" | "ScatterND" => input == 1,
        _ => false,
    }
}

/// The table as the narrowest integers.
fn narrowed(model: &Model, wide: &TensorProto, element: ElementType) -> Option<TensorProto> {
    let integers = model.integers(wide).ok()?;
    let shape = tensor::shape(wide).ok()?;
    let all = |fits: fn(i64) -> bool| integers.iter().all(|&v| fits(v));
    if all(|v| u8::try_from(v).is_ok()) {
        return Some(tensor::uint8("", &shape, &integers.iter().map(|&v| v as u8).collect::<Vec<_>>()));
    }
    if all(|v| i8::try_from(v).is_ok()) {
        return Some(tensor::int8("", &shape, &integers.iter().map(|&v| v as i8).collect::<Vec<_>>()));
    }
    let fits = element == ElementType::Int64 && all(|v| i32::try_from(v).is_ok());
    fits.then(|| tensor::int32("", &shape, &integers.iter().map(|&v| v as i32).collect::<Vec<_>>()))
}

/// A Cast node.
pub(super) fn cast(input: &str, output: &str, to: ElementType) -> NodeProto {
    NodeProto {
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        op_type: Some("Cast".to_owned()),
        attribute: vec![AttributeProto {
            name: Some("to".to_owned()),
            r#type: Some(AttributeType::Int as i32),
            i: Some(to as i64),
            ..Default::default()
        }],
        ..Default::default()
    }
}
