//! The vendor form: `com.microsoft.DynamicQuantizeLSTM` in place of an LSTM, for those who run onnxruntime only.
//!
//! ```text
//! codes - ... - levels i8 [D, G*H, n] - Transpose - W i8 [D, n, G*H], with scales [D, G*H] and zero points of 0
//! ```
//! The operator quantises X and, at each step, H to eight bits, as the [fast form](super::fast) does, and keeps all
//! attributes and inputs of the LSTM. There is no such operator for a GRU.

use super::writer::{ints, runs};
use super::{Home, Layer, Stored, Writer};
use crate::onnx::{ElementType, NodeProto, tensor};
use crate::recurrent::RecurrentNode;

/// The domain of the operator.
pub const DOMAIN: &str = "com.microsoft";
/// Its name.
pub const OPERATOR: &str = "DynamicQuantizeLSTM";
/// Hidden size from which on it was measured to pay.
pub const PAYS_FROM: usize = 128;

/// Why a node cannot be written so.
pub(super) fn refusal(node: &RecurrentNode) -> Option<String> {
    if node.attributes.layout == 1 {
        return Some(format!("{OPERATOR} has no layout = 1"));
    }
    (node.w.element != ElementType::Float).then(|| format!("{OPERATOR} has no float16 weights"))
}

/// Writes the nodes that take the place of the layer's node. Its outputs keep their names.
pub fn write(writer: &mut Writer<'_, '_>, layer: &Layer<'_>) {
    let [w, r] = [layer.w, layer.r].map(|(stored, home)| matrix(writer, stored, home));
    let input = |index: usize| layer.input(index).unwrap_or_default().to_owned();
    let mut inputs = vec![input(0), w.levels, r.levels];
    inputs.extend((3..8).map(input));
    inputs.extend([w.scales, w.zeros, r.scales, r.zeros]);
    // `layout` is 0 and an attribute of the standard operator only.
    let attribute = layer.proto.attribute.iter().filter(|a| a.name() != "layout").cloned().collect();
    writer.push_node(NodeProto {
        domain: Some(DOMAIN.to_owned()),
        op_type: Some(OPERATOR.to_owned()),
        input: inputs,
        attribute,
        ..layer.proto.clone()
    });
}

struct Matrix {
    levels: String,
    scales: String,
    zeros: String,
}

fn matrix(writer: &mut Writer<'_, '_>, stored: &Stored<'_>, home: Home<'_>) -> Matrix {
    let rows = stored.rows();
    let name = &stored.name;
    let parts = runs(stored, usize::MAX);
    let levels = if parts.len() == 1 {
        writer.levels(stored, &parts[0], &[stored.directions, rows], home)
    } else {
        let mut directions: Vec<Vec<String>> = vec![Vec::new(); stored.directions];
        let mut row = 0;
        for run in &parts {
            directions[row / rows].push(writer.levels(stored, run, &[1, run.rows()], home));
            row += run.rows();
        }
        let joined: Vec<String> = directions
            .into_iter()
            .enumerate()
            .map(|(d, parts)| writer.concat(&format!("{name}/{d}/levels"), 1, parts))
            .collect();
        writer.concat(&format!("{name}/levels"), 0, joined)
    };
    let perm = vec![ints("perm", &[0, 2, 1])];
    let levels = writer.node("Transpose", &[&levels], &format!("{name}/transposed"), perm);
    let shape = [stored.directions, rows];
    let scales = writer.scales(stored, &shape, home).expect("all rows are coded");
    let zeros = writer
        .constant(home.constants, &format!("{name}/zeros"), |n| tensor::int8(n, &shape, &vec![0; shape[0] * rows]));
    Matrix { levels, scales, zeros }
}
