//! What nothing reads: initializers, operator sets of which no node is, and functions that no node calls.

use std::collections::{BTreeSet, HashSet};

use super::constants::free;
use crate::error::Result;
use crate::onnx::graph::is_standard;
use crate::onnx::proto::{FunctionProto, GraphProto};
use crate::onnx::{Model, NodeProto, Rewriter, Values};

/// Domain, name and overload: what a node calls a function by.
pub(super) type Call = (String, String, String);

/// Drops what nothing reads.
pub(super) fn drop(model: &mut Model) -> Result<()> {
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let mut rewriter = Rewriter::new(model);
    for constant in free(&source, &values) {
        if constant.node.is_none() && constant.uses.is_empty() {
            rewriter.drop_unused(&constant.scope, constant.name);
        }
    }
    rewriter.finish()?;
    let called = drop_functions(model);
    let mut domains: BTreeSet<String> = called.into_iter().map(|(domain, ..)| domain).collect();
    domains.insert(String::new());
    model.proto.opset_import.retain(|import| domains.contains(&domain(import.domain())));
    Ok(())
}

/// Drops functions that no node calls, and returns what is called.
pub(super) fn drop_functions(model: &mut Model) -> HashSet<Call> {
    let called = called(model);
    let key = |f: &FunctionProto| (domain(f.domain()), f.name().to_owned(), f.overload().to_owned());
    model.proto.functions.retain(|function| called.contains(&key(function)));
    called
}

/// What the nodes of all graphs call, and what the functions among it call in turn.
fn called(model: &Model) -> HashSet<Call> {
    let mut called = HashSet::new();
    let training = model.proto.training_info.iter().flat_map(|t| t.initialization.iter().chain(&t.algorithm));
    model.proto.graph.iter().chain(training).for_each(|graph| calls(&graph.node, &mut called));
    loop {
        let before = called.len();
        for function in &model.proto.functions {
            let key = (domain(function.domain()), function.name().to_owned(), function.overload().to_owned());
            if called.contains(&key) {
                calls(&function.node, &mut called);
            }
        }
        if called.len() == before {
            return called;
        }
    }
}

fn calls(nodes: &[NodeProto], called: &mut HashSet<Call>) {
    for node in nodes {
        called.insert((domain(node.domain()), node.op_type().to_owned(), node.overload().to_owned()));
        let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        bodies.for_each(|graph: &GraphProto| calls(&graph.node, called));
    }
}

/// The standard domain has two names.
fn domain(domain: &str) -> String {
    if is_standard(domain) { String::new() } else { domain.to_owned() }
}
