//! The part of a graph that some of its values need.

use std::collections::{HashMap, HashSet};

use crate::onnx::graph::bodies;
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::{GraphProto, NodeProto};
use crate::samples::signature;

/// Lets go of nodes that no output of the graph needs, in bodies too: what is not run need not be understood.
pub(super) fn dead_nodes(graph: &mut GraphProto) {
    for body in
        graph.node.iter_mut().flat_map(|node| &mut node.attribute).flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
    {
        dead_nodes(body);
    }
    let outputs: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let needed = ancestors(graph, &outputs);
    let mut index = 0..;
    graph.node.retain(|_| index.next().is_some_and(|index| needed.contains(&index)));
}

/// The indices of the nodes of a graph that `names` need.
pub(super) fn ancestors(graph: &GraphProto, names: &[String]) -> HashSet<usize> {
    let outputs =
        graph.node.iter().enumerate().flat_map(|(index, node)| node.output.iter().map(move |name| (name, index)));
    let makers: HashMap<&str, usize> =
        outputs.filter(|(name, _)| !name.is_empty()).map(|(name, index)| (name.as_str(), index)).collect();
    let mut open: Vec<usize> = names.iter().filter_map(|name| makers.get(name.as_str()).copied()).collect();
    let mut needed: HashSet<usize> = HashSet::new();
    while let Some(index) = open.pop() {
        if needed.insert(index) {
            open.extend(reads(&graph.node[index]).into_iter().filter_map(|name| makers.get(name).copied()));
        }
    }
    needed
}

/// The values that a node reads, itself or in its bodies; names that a body hides among them.
pub(super) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> = node.input.iter().map(String::as_str).collect();
    for (_, _, body) in bodies(node) {
        names.extend(body.node.iter().flat_map(reads));
        names.extend(body.output.iter().map(|output| output.name()));
    }
    names
}

/// Lets go of inputs of the graph that nothing reads: of all of them, or of those only that are no tensors. Their names.
pub(super) fn inputs(graph: &mut GraphProto, all: bool) -> HashSet<String> {
    let read: HashSet<String> = {
        let outputs = graph.output.iter().map(|output| output.name());
        graph.node.iter().flat_map(reads).chain(outputs).map(str::to_owned).collect()
    };
    let is_kept =
        |input: &ValueInfoProto| read.contains(input.name()) || (!all && signature::not_a_tensor(input).is_none());
    let (kept, unused) = std::mem::take(&mut graph.input).into_iter().partition::<Vec<_>, _>(is_kept);
    graph.input = kept;
    unused.into_iter().map(|input| input.name().to_owned()).collect()
}
