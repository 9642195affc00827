//! Layers that an exporter wrote out as small operators: a cell in the body of a Loop or Scan, or one cell for each step
//! (unrolled). They cannot be compressed as they are, but another export would keep the operator, and that is worth saying.
//!
//! A cell is known by its operators: products with constant weights, Sigmoid for its gates, and, for LSTM and GRU, Tanh. In a
//! Loop they stand in one body; unrolled, one weight is multiplied again and again, and there is a Sigmoid or more for each
//! time.

use std::collections::BTreeMap;

use super::Skipped;
use crate::onnx::graph::{bodies, is_standard};
use crate::onnx::{GraphProto, Model, NodeNames, NodeProto, Origin, Scope, Step, Values};

/// Products with one weight from which a graph is taken for an unrolled layer: nobody ties so many layers otherwise.
const STEPS: usize = 3;

const KERAS: &str = "in Keras, with a fixed batch size, the default activations (tanh, sigmoid), recurrent_dropout=0, \
                     unroll=False and no Masking";
const PYTORCH: &str = "in PyTorch, from nn.LSTM or nn.GRU rather than LSTMCell or GRUCell in a loop, with dynamo=False";

/// The layers that are written out in a model, by the first node of each.
pub(super) fn find(model: &Model, values: &Values<'_>, names: &NodeNames) -> Vec<Skipped> {
    let mut found = Vec::new();
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            if !is_standard(node.domain()) || !matches!(node.op_type(), "Loop" | "Scan") {
                continue;
            }
            let inner = |(attribute, graph, body)| (scope.child(Step { node: index, attribute, graph }), body);
            if bodies(node).map(inner).any(|(inner, body)| is_cell(model, values, &inner, body)) {
                let op = node.op_type();
                let reason = format!(
                    "it looks like an LSTM or GRU written out as a {op}: export the model so that the operator stays: {KERAS}; \
                     {PYTORCH}"
                );
                found.push(skipped(names.get(&scope, index), op, reason));
            }
        }
        found.extend(unrolled(model, values, names, &scope, graph));
    }
    found
}

fn skipped(node: &str, op: &str, reason: String) -> Skipped {
    Skipped { node: node.to_owned(), op: op.to_owned(), reason, warning: false }
}

fn is_cell(model: &Model, values: &Values<'_>, scope: &Scope, body: &GraphProto) -> bool {
    let has = |op: &str| body.node.iter().any(|node| is_standard(node.domain()) && node.op_type() == op);
    // The loops that this tool writes in other forms multiply integers.
    has("Sigmoid")
        && has("Tanh")
        && !has("MatMulInteger")
        && body.node.iter().any(|node| weight(model, values, scope, node).is_some())
}

/// A constant that a node multiplies a vector with, by graph and name of its definition.
fn weight(model: &Model, values: &Values<'_>, scope: &Scope, node: &NodeProto) -> Option<(Scope, String)> {
    if !is_standard(node.domain()) || !matches!(node.op_type(), "MatMul" | "Gemm") {
        return None;
    }
    node.input.iter().take(2).find_map(|input| {
        let definition = values.resolve(scope, input)?;
        let is_constant = match definition.origin {
            Origin::Initializer(_) => true,
            Origin::Node { node, .. } => {
                let maker = model.node(&definition.scope, node);
                is_standard(maker.domain()) && maker.op_type() == "Constant"
            }
            _ => false,
        };
        is_constant.then(|| (definition.scope.clone(), input.clone()))
    })
}

/// A layer of which each step is written out.
fn unrolled(
    model: &Model,
    values: &Values<'_>,
    names: &NodeNames,
    scope: &Scope,
    graph: &GraphProto,
) -> Option<Skipped> {
    let mut products: BTreeMap<(Scope, String), (usize, usize)> = BTreeMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        if let Some(weight) = weight(model, values, scope, node) {
            products.entry(weight).or_insert((index, 0)).1 += 1;
        }
    }
    let (&(first, steps), _) = products.values().map(|entry| (entry, entry.1)).max_by_key(|(_, steps)| *steps)?;
    let count = |op: &str| graph.node.iter().filter(|node| is_standard(node.domain()) && node.op_type() == op).count();
    (steps >= STEPS && count("Sigmoid") >= steps && count("Tanh") >= steps).then(|| {
        let reason = format!(
            "one weight is multiplied {steps} times between Sigmoid and Tanh, as in an LSTM or GRU of which each step is \
             written out: export the model so that the operator stays: {PYTORCH}; {KERAS}"
        );
        skipped(names.get(scope, first), graph.node[first].op_type(), reason)
    })
}
