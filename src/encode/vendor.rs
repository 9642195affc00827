//! The vendor form: `com.microsoft.DynamicQuantizeLSTM` in place of an LSTM, for onnxruntime only.
//!
//! ```text
//! codes - ... - levels i8 [D, G*H, n] - Transpose - W i8 [D, n, G*H], with scales [D, G*H] and zero points of 0
//! ```
//! The operator quantises X and, at each step, H to eight bits, as the [fast form](super::fast) does, and keeps all
//! attributes and inputs of the LSTM. There is no such operator for other cells.

use ndarray::{Array3, Axis, Ix3};

use super::block::codec_of_value;
use super::found::{Found, changed, constant, dense, stacked};
use super::writer::ints;
use super::{Home, Layer, Stored, Writer};
use crate::error::Result;
use crate::onnx::{ElementType, Model, NodeProto, Scope, tensor};
use crate::recurrent::{Constants, RecurrentNode};

/// The domain of the operator.
pub const DOMAIN: &str = "com.microsoft";
/// Its name.
pub const OPERATOR: &str = "DynamicQuantizeLSTM";
/// How many inputs it has, those that are left out among them.
const INPUTS: usize = 12;
/// Hidden size from which it was measured to be faster.
pub const PAYS_FROM: usize = 128;

/// Why a node cannot be written so.
pub(super) fn refusal(node: &RecurrentNode) -> Option<String> {
    if node.attributes.layout == 1 {
        return Some(format!("{OPERATOR} does not support layout = 1"));
    }
    (node.w.element != ElementType::Float).then(|| format!("{OPERATOR} does not support float16 weights"))
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
    let levels = writer.joined(stored, usize::MAX, |writer, run, shape| writer.levels(stored, run, &shape, home));
    let perm = vec![ints("perm", &[0, 2, 1])];
    let levels = writer.node("Transpose", &[&levels], &format!("{name}/transposed"), perm);
    let shape = [stored.directions, rows];
    let scales = writer.scales(stored, &shape, home).expect("all rows are coded");
    let zeros = writer.constant(home.constants, stored, 0..stored.all_rows(), "zeros", name, |n| {
        tensor::int8(n, &shape, &vec![0; shape[0] * rows])
    });
    Matrix { levels, scales, zeros }
}

/// The nodes that were written so: those whose weights come from a dictionary. Others write the operator too.
pub(super) fn find(model: &Model, constants: &mut Constants<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            let decoded = |name: &String| codec_of_value(model, constants.index(), &scope, name).is_some();
            if node.op_type() == OPERATOR
                && node.domain() == DOMAIN
                && node.input.len() == INPUTS
                && decoded(&node.input[1])
                && decoded(&node.input[2])
            {
                found.push(restore(constants, &scope, index, node)?);
            }
        }
    }
    Ok(found)
}

fn restore(constants: &mut Constants<'_>, scope: &Scope, index: usize, node: &NodeProto) -> Result<Found> {
    let (w, r) = (weights(constants, scope, node, 1, 8)?, weights(constants, scope, node, 2, 10)?);
    let mut input = node.input[..8].to_vec();
    while input.last().is_some_and(String::is_empty) {
        input.pop();
    }
    let dense = NodeProto { domain: None, op_type: Some("LSTM".to_owned()), input, ..node.clone() };
    Ok(Found { scope: scope.clone(), nodes: vec![index], before: index, node: dense, w, r, bias: None })
}

/// An input `[directions, n, rows]` with its scales, as `[directions, rows, n]`.
fn weights(
    constants: &mut Constants<'_>,
    scope: &Scope,
    node: &NodeProto,
    levels: usize,
    scales: usize,
) -> Result<Array3<f32>> {
    let mut value = |index: usize| constant(constants, scope, &node.input[index]);
    let levels = value(levels)?.into_dimensionality::<Ix3>().map_err(|_| changed("weights are not of 3 dimensions"))?;
    let (zeros, scales) = (value(scales + 1)?, value(scales)?);
    if zeros.iter().any(|zero| *zero != 0.0) || scales.ndim() != 2 || scales.shape()[0] != levels.shape()[0] {
        return Err(changed("scales or zero points are not those that were written"));
    }
    let directions = levels.outer_iter().zip(scales.axis_iter(Axis(0)));
    let dense = directions.map(|(levels, scales)| dense(levels.to_owned().into_dyn(), scales.to_owned().into_dyn()));
    stacked(&dense.collect::<Result<Vec<_>>>()?)
}
