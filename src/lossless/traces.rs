//! Exporter traces: documentation and metadata of nodes, graphs, values, functions and tensors, and the declared types of
//! values on the way, which runtimes infer.
//!
//! What belongs to the user stays: documentation and metadata of the model, and what documents its inputs and outputs. So do
//! the declared types of what operators of unknown domains give, which nobody can infer, and those of the indices of a Gather: a
//! table is looked up in codes where their rank is known.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::onnx::graph::is_standard;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto};
use crate::onnx::{Model, NodeProto, TensorProto};

/// Domains whose operators every reader of them knows the types of.
const KNOWN: [&str; 2] = ["ai.onnx.ml", "com.microsoft"];

/// Removes the traces.
pub(super) fn strip(model: &mut Model) -> Result<()> {
    let functions: BTreeSet<String> = model.proto.functions.iter().map(|f| f.domain().to_owned()).collect();
    let known = |domain: &str| is_standard(domain) || KNOWN.contains(&domain) || functions.contains(domain);
    if let Some(graph) = &mut model.proto.graph {
        strip_graph(graph, true, &known);
    }
    for function in &mut model.proto.functions {
        strip_function(function, &known);
    }
    Ok(())
}

pub(super) fn strip_function(function: &mut FunctionProto, known: &dyn Fn(&str) -> bool) {
    function.doc_string = None;
    function.metadata_props.clear();
    let kept = unknown_outputs(&function.node, known);
    function.value_info.retain(|info| kept.contains(info.name()));
    function.attribute_proto.iter_mut().for_each(|attribute| strip_attribute(attribute, known));
    function.node.iter_mut().for_each(|node| strip_node(node, known));
}

fn strip_graph(graph: &mut GraphProto, is_root: bool, known: &dyn Fn(&str) -> bool) {
    graph.doc_string = None;
    graph.metadata_props.clear();
    let mut kept = unknown_outputs(&graph.node, known);
    let gathers = graph.node.iter().filter(|node| node.op_type() == "Gather" && is_standard(node.domain()));
    kept.extend(gathers.filter_map(|node| node.input.get(1).cloned()));
    graph.value_info.retain(|info| kept.contains(info.name()));
    for info in graph.value_info.iter_mut() {
        (info.doc_string, info.metadata_props) = (None, Vec::new());
    }
    if !is_root {
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            (info.doc_string, info.metadata_props) = (None, Vec::new());
        }
    }
    graph.initializer.iter_mut().for_each(strip_tensor);
    for sparse in &mut graph.sparse_initializer {
        sparse.values.iter_mut().chain(&mut sparse.indices).for_each(strip_tensor);
    }
    graph.node.iter_mut().for_each(|node| strip_node(node, known));
}

/// Outputs of nodes of domains that are not known.
fn unknown_outputs(nodes: &[NodeProto], known: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    nodes.iter().filter(|node| !known(node.domain())).flat_map(|node| node.output.iter().cloned()).collect()
}

fn strip_node(node: &mut NodeProto, known: &dyn Fn(&str) -> bool) {
    node.doc_string = None;
    node.metadata_props.clear();
    node.attribute.iter_mut().for_each(|attribute| strip_attribute(attribute, known));
}

fn strip_attribute(attribute: &mut AttributeProto, known: &dyn Fn(&str) -> bool) {
    attribute.doc_string = None;
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(strip_tensor);
    for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
        sparse.values.iter_mut().chain(&mut sparse.indices).for_each(strip_tensor);
    }
    attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| strip_graph(graph, false, known));
    // The tensor of an attribute is known by the attribute: its own name is read by nobody.
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(|tensor| tensor.name = None);
}

fn strip_tensor(tensor: &mut TensorProto) {
    tensor.doc_string = None;
    tensor.metadata_props.clear();
}
