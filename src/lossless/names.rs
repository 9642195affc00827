//! Names: values get short ones, nodes none.
//!
//! A value keeps its name if a caller knows it (inputs and outputs of the model), if it stands for a node without a name of
//! its own in reports, if dirnet finds it by its name, or if the name is ambiguous. Every other value of every graph and function gets a new one that
//! occurs nowhere else in the model, so that no body hides a value of a graph around it. The most frequent values get the
//! shortest names. Models with training graphs or device configurations, which name values too, are left alone.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::onnx::graph::ambiguous_names;
use crate::onnx::operators::has_weights;
use crate::onnx::proto::{FunctionProto, GraphProto};
use crate::onnx::{Model, NodeProto};

/// Constants that dirnet finds by their names.
const OWN: &str = "dirnet/";

/// Removes the names of all nodes.
pub(super) fn clear(model: &mut Model) -> Result<()> {
    model.proto.graph.iter_mut().for_each(|graph| clear_nodes(&mut graph.node));
    model.proto.functions.iter_mut().for_each(|function| clear_nodes(&mut function.node));
    Ok(())
}

pub(super) fn clear_nodes(nodes: &mut [NodeProto]) {
    for node in nodes {
        node.name = None;
        let attributes = node.attribute.iter_mut();
        attributes.flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)).for_each(|graph| clear_nodes(&mut graph.node));
    }
}

/// Gives values short names.
pub(super) fn shorten(model: &mut Model) -> Result<()> {
    let proto = &mut model.proto;
    if !proto.training_info.is_empty() || !proto.configuration.is_empty() {
        return Ok(());
    }
    let before = proto.clone();
    let ambiguous = ambiguous_names(&before).into_iter().map(str::to_owned).collect();
    let mut all = Numbered { ambiguous, ..Numbered::default() };
    if let Some(graph) = &mut proto.graph {
        all.graph(graph, true);
    }
    proto.functions.iter_mut().for_each(|function| all.function(function));
    if all.is_marked {
        *proto = before;
        return Ok(());
    }
    let names = all.names();
    let mut rename = |name: &mut String| {
        if let Some(number) = name.strip_prefix(MARK).and_then(|number| number.parse::<usize>().ok()) {
            name.clone_from(&names[number]);
        }
    };
    if let Some(graph) = &mut proto.graph {
        for_each_name(graph, &mut rename);
    }
    for function in &mut proto.functions {
        function.input.iter_mut().chain(&mut function.output).for_each(&mut rename);
        function.value_info.iter_mut().filter_map(|info| info.name.as_mut()).for_each(&mut rename);
        for_each_name_of_nodes(&mut function.node, &mut rename);
    }
    Ok(())
}

/// Gives the values of a function numbers in the order of their definition, whatever they are called.
pub(super) fn number(function: &mut FunctionProto) {
    Numbered::default().function(function);
}

/// What the number of a value stands behind while values are numbered: no text of a model, which is printable.
const MARK: char = '\u{1}';

/// Replaces the names of values by numbers, as names resolve from the inside outwards.
#[derive(Default)]
struct Numbered {
    /// The old name of each value, and how often it is written.
    values: Vec<(String, usize)>,
    /// Names that stay, wherever they are: which value they are depends on the runtime.
    ambiguous: HashSet<String>,
    /// Names that stay, or that nothing defines.
    kept: HashSet<String>,
    /// What the names of the graphs around mean; `None` for a name that stays.
    scopes: Vec<HashMap<String, Option<usize>>>,
    /// Whether the model has a name that looks like a number.
    is_marked: bool,
}

impl Numbered {
    /// Puts the number of a value where its name is.
    fn replace(&mut self, name: &mut String) {
        if name.is_empty() {
            return;
        }
        self.is_marked |= name.starts_with(MARK);
        match self.scopes.iter().rev().find_map(|scope| scope.get(name.as_str())) {
            Some(Some(number)) => {
                self.values[*number].1 += 1;
                *name = format!("{MARK}{number}");
            }
            _ => {
                self.kept.insert(name.clone());
            }
        }
    }

    /// Defines a value of the innermost graph.
    fn define(&mut self, name: &str, stays: bool) {
        let number = self.values.len();
        let Some(scope) = self.scopes.last_mut().filter(|_| !name.is_empty()) else { return };
        if scope.contains_key(name) {
            return;
        }
        if stays || name.starts_with(OWN) || self.ambiguous.contains(name) {
            scope.insert(name.to_owned(), None);
        } else {
            scope.insert(name.to_owned(), Some(number));
            self.values.push((name.to_owned(), 0));
        }
    }

    fn define_outputs(&mut self, nodes: &[NodeProto]) {
        for node in nodes {
            // A node with weights but without a name is called by its first output in reports, patterns and plans.
            let speaks = node.name().is_empty() && has_weights(node.op_type());
            for (index, output) in node.output.iter().enumerate() {
                self.define(output, speaks && index == 0);
            }
        }
    }

    fn graph(&mut self, graph: &mut GraphProto, is_root: bool) {
        self.scopes.push(HashMap::new());
        if is_root {
            graph.input.iter().chain(&graph.output).for_each(|info| self.define(info.name(), true));
        } else {
            graph.input.iter().for_each(|info| self.define(info.name(), false));
        }
        graph.initializer.iter().for_each(|tensor| self.define(tensor.name(), false));
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        sparse.for_each(|tensor| self.define(tensor.name(), false));
        self.define_outputs(&graph.node);
        for_each_own_name(graph, &mut |name| self.replace(name));
        self.nodes(&mut graph.node);
        self.scopes.pop();
    }

    fn nodes(&mut self, nodes: &mut [NodeProto]) {
        for node in nodes {
            node.input.iter_mut().chain(&mut node.output).for_each(|name| self.replace(name));
            let attributes = node.attribute.iter_mut();
            attributes.flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)).for_each(|graph| self.graph(graph, false));
        }
    }

    fn function(&mut self, function: &mut FunctionProto) {
        self.scopes.push(HashMap::new());
        function.input.iter().for_each(|name| self.define(name, false));
        self.define_outputs(&function.node);
        let infos = function.value_info.iter_mut().filter_map(|info| info.name.as_mut());
        function.input.iter_mut().chain(&mut function.output).chain(infos).for_each(|name| self.replace(name));
        self.nodes(&mut function.node);
        self.scopes.pop();
    }

    /// The new name of each value: the old one if it is as short.
    fn names(&self) -> Vec<String> {
        let mut taken: HashSet<&str> = self.kept.iter().map(String::as_str).collect();
        taken.extend(self.values.iter().map(|(name, _)| name.as_str()));
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by_key(|&number| std::cmp::Reverse(self.values[number].1));
        let mut fresh = (0..).map(short).filter(|name| !taken.contains(name.as_str()));
        let mut names: Vec<String> = vec![String::new(); self.values.len()];
        for number in order {
            names[number] = fresh.next().expect("there is always another number");
        }
        names
    }
}

/// The name of a number: letters and digits, a letter first.
fn short(mut number: usize) -> String {
    const DIGITS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut name = String::from(char::from(DIGITS[number % 52]));
    number /= 52;
    while number > 0 {
        number -= 1;
        name.push(char::from(DIGITS[number % 62]));
        number /= 62;
    }
    name
}

/// The names that stand in a graph itself, not in its nodes.
fn for_each_own_name(graph: &mut GraphProto, visit: &mut dyn FnMut(&mut String)) {
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    infos.filter_map(|info| info.name.as_mut()).for_each(&mut *visit);
    let sparse = graph.sparse_initializer.iter_mut().filter_map(|sparse| sparse.values.as_mut());
    graph.initializer.iter_mut().chain(sparse).filter_map(|tensor| tensor.name.as_mut()).for_each(&mut *visit);
    for annotation in &mut graph.quantization_annotation {
        let tensors = annotation.quant_parameter_tensor_names.iter_mut().filter_map(|entry| entry.value.as_mut());
        annotation.tensor_name.iter_mut().chain(tensors).for_each(&mut *visit);
    }
}

fn for_each_name(graph: &mut GraphProto, visit: &mut dyn FnMut(&mut String)) {
    for_each_own_name(graph, visit);
    for_each_name_of_nodes(&mut graph.node, visit);
}

fn for_each_name_of_nodes(nodes: &mut [NodeProto], visit: &mut dyn FnMut(&mut String)) {
    for node in nodes {
        node.input.iter_mut().chain(&mut node.output).for_each(&mut *visit);
        let bodies = node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs));
        bodies.for_each(|graph| for_each_name(graph, visit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_distinct_and_grow_slowly() {
        let names: Vec<String> = (0..5000).map(short).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(names.iter().all(|name| name.starts_with(|c: char| c.is_ascii_alphabetic())));
        assert_eq!((names[0].as_str(), names[52].len(), names[3275].len(), names[3276].len()), ("a", 2, 2, 3));
    }
}
