//! Model-local functions (`FunctionProto`), inlined into the copy of the model that tract reads, which knows none.
//!
//! A call is replaced by the nodes of the function: formal inputs and outputs become the call's, every other name a
//! fresh one, references to attributes of the function (`ref_attr_name`) become the call's attributes or the function's
//! defaults. A function is known by domain, name and overload.
//!
//! Refused, naming the function: what runtimes disagree about or what would change its meaning here. Such are functions
//! that call themselves, that bear the name of an operator, or that are written for another operator set than the model.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::domain;
use super::error;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::{is_standard, plain_name};
use crate::onnx::proto::{FunctionProto, ModelProto, OperatorSetIdProto};
use crate::onnx::{AttributeProto, GraphProto, Names, NodeProto};

/// Domain, name and overload.
type Id = (String, String, String);

/// Replaces every call of a function in every graph of the model. Whether there was one.
///
/// # Errors
/// [`ErrorKind::Engine`] for a function that cannot be inlined, [`ErrorKind::Limit`] where the result would be too large.
pub(super) fn functions(model: &mut ModelProto) -> Result<bool> {
    if model.functions.is_empty() {
        return Ok(false);
    }
    let names = Names::new(model);
    let functions = std::mem::take(&mut model.functions);
    let mut table: BTreeMap<Id, &FunctionProto> = BTreeMap::new();
    for function in &functions {
        let id = (canonical(function.domain()), function.name().to_owned(), function.overload().to_owned());
        if table.insert(id, function).is_some() {
            return Err(refused(function, "it is defined twice"));
        }
    }
    let mut inliner = Inliner {
        table,
        imports: &model.opset_import,
        names,
        calls: Vec::new(),
        left: [limits::INLINED_NODES, limits::INLINED_BYTES],
    };
    let Some(graph) = &mut model.graph else { return Ok(false) };
    inliner.graph(graph)?;
    Ok(true)
}

/// The standard domain has two names.
fn canonical(domain: &str) -> String {
    if is_standard(domain) { String::new() } else { domain.to_owned() }
}

fn refused(function: &FunctionProto, why: &str) -> Error {
    error(format!("cannot be run: function {}: {why}", domain::named(function.domain(), function.name())))
}

struct Inliner<'m> {
    table: BTreeMap<Id, &'m FunctionProto>,
    imports: &'m [OperatorSetIdProto],
    names: Names,
    /// The functions that are being inlined, outer ones first.
    calls: Vec<Id>,
    /// Nodes, and their bytes, that functions may still make.
    left: [usize; 2],
}

impl<'m> Inliner<'m> {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        graph.node = self.nodes(std::mem::take(&mut graph.node))?;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>) -> Result<Vec<NodeProto>> {
        let mut all = Vec::with_capacity(nodes.len());
        for (index, mut node) in nodes.into_iter().enumerate() {
            for attribute in &mut node.attribute {
                for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.graph(body)?;
                }
            }
            let id = (canonical(node.domain()), node.op_type().to_owned(), node.overload().to_owned());
            match self.table.get(&id).copied() {
                None => all.push(node),
                Some(function) => {
                    let place = plain_name(&node, index);
                    all.extend(self.call(id, function, &node).map_err(|e| e.at_node(place))?);
                }
            }
        }
        Ok(all)
    }

    fn call(&mut self, id: Id, function: &'m FunctionProto, node: &NodeProto) -> Result<Vec<NodeProto>> {
        self.check(&id, function, node)?;
        self.calls.push(id);
        let mut body = Body { attributes: attributes(function, node), names: &mut self.names, scopes: Vec::new() };
        let nodes = body.inlined(function, node)?;
        let nodes = self.nodes(nodes);
        self.calls.pop();
        nodes
    }

    fn check(&mut self, id: &Id, function: &FunctionProto, node: &NodeProto) -> Result<()> {
        if domain::is_known(function.domain(), function.name()) {
            return Err(refused(
                function,
                "it bears the name of an operator, and runtimes differ in which one they run",
            ));
        }
        if self.calls.contains(id) {
            return Err(refused(function, "it calls itself"));
        }
        if self.calls.len() >= limits::GRAPH_DEPTH {
            return Err(Error::new(ErrorKind::Limit, "functions call one another too deeply to be run"));
        }
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            let (given, taken) = ((node.input.len(), node.output.len()), (function.input.len(), function.output.len()));
            return Err(refused(
                function,
                &format!(
                    "it is called with {} inputs and {} outputs, but has {} and {}",
                    given.0, given.1, taken.0, taken.1
                ),
            ));
        }
        for import in &function.opset_import {
            let own = self.imports.iter().find(|own| canonical(own.domain()) == canonical(import.domain()));
            if own.is_some_and(|own| own.version() != import.version()) && uses(function, import.domain()) {
                let (theirs, ours) = (import.version(), own.map_or(0, OperatorSetIdProto::version));
                let of = if is_standard(import.domain()) { String::new() } else { format!(" of {}", import.domain()) };
                let why = format!("it is written for operator set {theirs}{of}, the model for {ours}: convert one");
                return Err(refused(function, &why));
            }
        }
        let made = [count(&function.node), function.encoded_len()];
        for (left, made) in self.left.iter_mut().zip(made) {
            *left = left.checked_sub(made).ok_or_else(|| {
                Error::new(ErrorKind::Limit, "calls of functions make more nodes than a model may have when it is run")
            })?;
        }
        Ok(())
    }
}

/// Nodes, those in bodies among them.
fn count(nodes: &[NodeProto]) -> usize {
    let graphs = |node: &NodeProto| {
        let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        bodies.map(|body| count(&body.node)).sum::<usize>()
    };
    nodes.iter().map(|node| 1 + graphs(node)).sum()
}

/// Whether a function has a node of the domain, perhaps in a body.
fn uses(function: &FunctionProto, domain: &str) -> bool {
    fn any(nodes: &[NodeProto], domain: &str) -> bool {
        nodes.iter().any(|node| {
            let mut bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
            canonical(node.domain()) == domain || bodies.any(|body| any(&body.node, domain))
        })
    }
    any(&function.node, &canonical(domain))
}

/// What the attributes of the function are in a call: those of the call, else the defaults.
fn attributes<'a>(function: &'a FunctionProto, node: &'a NodeProto) -> HashMap<&'a str, &'a AttributeProto> {
    let defaults = function.attribute_proto.iter();
    let given = node.attribute.iter().filter(|a| {
        let name = a.name();
        function.attribute.iter().any(|n| n == name) || function.attribute_proto.iter().any(|d| d.name() == name)
    });
    defaults.chain(given).map(|attribute| (attribute.name(), attribute)).collect()
}

/// The body of a function on its way into a graph.
struct Body<'a> {
    attributes: HashMap<&'a str, &'a AttributeProto>,
    names: &'a mut Names,
    /// New names by those in the function, inner graphs last.
    scopes: Vec<HashMap<String, String>>,
}

impl Body<'_> {
    fn inlined(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>> {
        let stem = plain_name(call, 0);
        let mut scope = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            // An input that the call leaves out has no name in the nodes that take it either.
            scope.insert(formal.clone(), call.input.get(i).cloned().unwrap_or_default());
        }
        let mut passed_on = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let given = call.output.get(i).filter(|name| !name.is_empty()).cloned();
            match scope.get(formal) {
                // Of an input that is an output too, or of an output that is listed twice.
                Some(source) => passed_on.extend(given.map(|given| (source.clone(), given))),
                None => {
                    let name = given.unwrap_or_else(|| self.names.fresh(&format!("{stem}/{formal}")));
                    scope.insert(formal.clone(), name);
                }
            }
        }
        let made = |name: &String| function.node.iter().any(|node| node.output.contains(name));
        if let Some(name) = function.output.iter().find(|n| !made(n) && !function.input.contains(n)) {
            return Err(refused(function, &format!("no node makes its output '{name}'")));
        }
        for name in function.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
            if function.input.contains(name) {
                return Err(refused(function, &format!("a node makes its input '{name}'")));
            }
            if !scope.contains_key(name) {
                scope.insert(name.clone(), self.names.fresh(&format!("{stem}/{name}")));
            }
        }
        self.scopes.push(scope);
        let mut nodes = function.node.clone();
        for node in &mut nodes {
            self.node(node, &stem).map_err(|name| refused(function, &format!("'{name}' is defined nowhere in it")))?;
        }
        for (source, given) in passed_on {
            if source.is_empty() {
                return Err(refused(function, "its output is an input that the call leaves out"));
            }
            nodes.push(NodeProto {
                op_type: Some("Identity".to_owned()),
                name: Some(self.names.fresh(&given)),
                input: vec![source],
                output: vec![given],
                ..NodeProto::default()
            });
        }
        Ok(nodes)
    }

    /// Renames what a node reads and makes. Fails with a name that is defined nowhere.
    fn node(&mut self, node: &mut NodeProto, stem: &str) -> std::result::Result<(), String> {
        for name in node.input.iter_mut().chain(&mut node.output).filter(|name| !name.is_empty()) {
            *name = self.resolve(name)?;
        }
        node.name = Some(self.names.fresh(&format!("{stem}/{}", node.name())));
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.attribute(attribute)).collect();
        for attribute in &mut node.attribute {
            // Graphs that came with the call have the names of the call's graph.
            if attribute.ref_attr_name.take().is_some() {
                continue;
            }
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(body, stem)?;
            }
        }
        Ok(())
    }

    /// The attribute with the call's value in the place of a reference, still marked as one; `None` for one that is not
    /// given.
    fn attribute(&self, attribute: AttributeProto) -> Option<AttributeProto> {
        let Some(reference) = attribute.ref_attr_name.as_deref().filter(|name| !name.is_empty()) else {
            return Some(AttributeProto { ref_attr_name: None, ..attribute });
        };
        let value = AttributeProto::clone(self.attributes.get(reference)?);
        Some(AttributeProto { name: attribute.name, ref_attr_name: Some(reference.to_owned()), ..value })
    }

    fn resolve(&self, name: &str) -> std::result::Result<String, String> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).cloned().ok_or_else(|| name.to_owned())
    }

    fn graph(&mut self, graph: &mut GraphProto, stem: &str) -> std::result::Result<(), String> {
        let inputs = graph.input.iter().map(|v| v.name());
        let tensors = graph.initializer.iter().map(|t| t.name());
        let sparse = graph.sparse_initializer.iter().flat_map(|s| &s.values).map(|t| t.name());
        let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        let mut scope = HashMap::new();
        for name in inputs.chain(tensors).chain(sparse).chain(made).filter(|name| !name.is_empty()) {
            if !scope.contains_key(name) {
                scope.insert(name.to_owned(), self.names.fresh(&format!("{stem}/{name}")));
            }
        }
        self.scopes.push(scope);
        let result = self.rename(graph, stem);
        self.scopes.pop();
        result
    }

    fn rename(&mut self, graph: &mut GraphProto, stem: &str) -> std::result::Result<(), String> {
        graph.value_info.clear();
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            value.name = Some(self.resolve(value.name())?);
        }
        let sparse = graph.sparse_initializer.iter_mut().flat_map(|s| &mut s.values);
        for tensor in graph.initializer.iter_mut().chain(sparse) {
            tensor.name = Some(self.resolve(tensor.name())?);
        }
        graph.node.iter_mut().try_for_each(|node| self.node(node, stem))
    }
}
