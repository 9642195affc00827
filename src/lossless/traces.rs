//! Exporter traces: documentation and metadata of nodes, graphs, values, functions and tensors, and the declared types of
//! values on the way, which runtimes infer.
//!
//! What belongs to the user stays: documentation and metadata of the model, and what documents its inputs and outputs. So do
//! the declared types of what operators of unknown domains give, which nobody can infer, and those of the indices of a Gather: a
//! table is looked up in codes where their rank is known.

use std::collections::{BTreeSet, HashSet};

use crate::error::Result;
use crate::onnx::graph::{for_each_graph, is_standard};
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto};
use crate::onnx::{Model, NodeProto, TensorProto};

/// Domains whose operators every reader of them knows the types of.
const KNOWN: [&str; 2] = ["ai.onnx.ml", "com.microsoft"];

/// What is no trace.
struct Rules<'r> {
    /// Whether every reader knows the types of what operators of a domain give.
    known: &'r dyn Fn(&str) -> bool,
    /// The indices of tables, which may be declared in a graph around that of the Gather.
    indices: HashSet<String>,
}

/// Removes the traces.
pub(super) fn strip(model: &mut Model) -> Result<()> {
    let functions: BTreeSet<String> = model.proto.functions.iter().map(|f| f.domain().to_owned()).collect();
    let known = |domain: &str| is_standard(domain) || KNOWN.contains(&domain) || functions.contains(domain);
    let mut indices = HashSet::new();
    for_each_graph(&model.proto, |_, graph| {
        let gathers = graph.node.iter().filter(|node| node.op_type() == "Gather" && is_standard(node.domain()));
        indices.extend(gathers.filter_map(|node| node.input.get(1).cloned()));
    });
    let rules = Rules { known: &known, indices };
    if let Some(graph) = &mut model.proto.graph {
        rules.strip_graph(graph, true);
    }
    model.proto.functions.iter_mut().for_each(|function| rules.strip_function(function));
    Ok(())
}

pub(super) fn strip_function(function: &mut FunctionProto) {
    Rules { known: &|_| true, indices: HashSet::new() }.strip_function(function);
}

impl Rules<'_> {
    fn strip_function(&self, function: &mut FunctionProto) {
        function.doc_string = None;
        function.metadata_props.clear();
        let kept = self.unknown_outputs(&function.node);
        function.value_info.retain(|info| kept.contains(info.name()));
        function.attribute_proto.iter_mut().for_each(|attribute| self.strip_attribute(attribute));
        function.node.iter_mut().for_each(|node| self.strip_node(node));
    }

    fn strip_graph(&self, graph: &mut GraphProto, is_root: bool) {
        graph.doc_string = None;
        graph.metadata_props.clear();
        let kept = self.unknown_outputs(&graph.node);
        graph.value_info.retain(|info| kept.contains(info.name()) || self.indices.contains(info.name()));
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
        graph.node.iter_mut().for_each(|node| self.strip_node(node));
    }

    /// Outputs of nodes of domains that are not known.
    fn unknown_outputs(&self, nodes: &[NodeProto]) -> BTreeSet<String> {
        let unknown = nodes.iter().filter(|node| !(self.known)(node.domain()));
        unknown.flat_map(|node| node.output.iter().cloned()).collect()
    }

    fn strip_node(&self, node: &mut NodeProto) {
        node.doc_string = None;
        node.metadata_props.clear();
        node.attribute.iter_mut().for_each(|attribute| self.strip_attribute(attribute));
    }

    fn strip_attribute(&self, attribute: &mut AttributeProto) {
        attribute.doc_string = None;
        attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(strip_tensor);
        for sparse in attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors) {
            sparse.values.iter_mut().chain(&mut sparse.indices).for_each(strip_tensor);
        }
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|graph| self.strip_graph(graph, false));
        // The tensor of an attribute is known by the attribute: its own name is read by nobody.
        attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(|tensor| tensor.name = None);
    }
}

fn strip_tensor(tensor: &mut TensorProto) {
    tensor.doc_string = None;
    tensor.metadata_props.clear();
}
