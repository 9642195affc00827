//! Which recurrent node reads the states of which: layers in a stack multiply the same vectors, R of the one and W of the
//! other.

use crate::onnx::graph::is_standard;
use crate::onnx::{Model, Origin, Values};

use super::RecurrentNode;

/// Nodes between two layers: exporters need below five.
const MOST_BETWEEN: usize = 16;

/// For each node the one whose Y it reads as X, whole and with the states of each direction side by side.
///
/// Only the way of the value is followed, not the order of its axes: what is taken for shared and is not costs bytes, never
/// correctness.
pub(super) fn feeders(model: &Model, values: &Values<'_>, nodes: &[RecurrentNode]) -> Vec<Option<usize>> {
    nodes.iter().map(|node| feeder(model, values, nodes, node)).collect()
}

fn feeder(model: &Model, values: &Values<'_>, nodes: &[RecurrentNode], node: &RecurrentNode) -> Option<usize> {
    let mut name = model.node(&node.scope, node.index).input.first()?;
    let mut scope = &node.scope;
    for _ in 0..MOST_BETWEEN {
        let definition = values.resolve(scope, name)?;
        let Origin::Node { node: index, output } = definition.origin else { return None };
        scope = &definition.scope;
        if let Some(found) = nodes.iter().position(|n| n.index == index && n.scope == *scope) {
            let states = nodes[found].attributes.direction.count() * nodes[found].attributes.hidden;
            return (output == 0 && states == node.input_size).then_some(found);
        }
        let maker = model.node(scope, index);
        let moves = matches!(
            maker.op_type(),
            "Identity" | "Transpose" | "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" | "Dropout" | "Cast"
        );
        if !is_standard(maker.domain()) || !moves || output > 0 {
            return None;
        }
        name = maker.input.first()?;
    }
    None
}
