//! The exact bytes of the file that a plan makes, added up from parts.
//!
//! A *part* is a set of tensors that are written together: one tensor, or those that share a codebook, a dictionary, a
//! constant of the original or a node of another form. What a part adds to each graph of the model, and takes from it, is
//! measured once for each way in which its sites are stored; constants that parts share (shapes of a Reshape) are counted
//! once. Lengths of messages hold one another, so that bytes are added up graph by graph from the inside out. Parts that
//! would give the same name to something of theirs do not add up, because one of them gives another name beside the other:
//! the graph is built then.
//!
//! Invariant: the sum is the size of the file that [`apply`] makes of the same plan, to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Writing, apply, is_shared_constant, note_of};
use crate::code::blank;
use crate::error::Result;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto};
use crate::onnx::tensor::is_external;
use crate::onnx::{Model, field_bytes, graph, message_bytes};
use crate::plan::{Choice, Plan};
use crate::sites::{TensorId, Weights};

/// Up to this IR version the codes may raise the version of the whole file, so that parts do not add up.
const OLD_IR: i64 = 3;

/// The sizes of the files that plans for a model make.
pub struct Sizes<'a> {
    model: &'a Model,
    weights: &'a Weights,
    writing: &'a Writing,
    measured: &'a Measured,
}

/// What was measured for the sizes of one model, written in one way.
#[derive(Debug, Default)]
pub struct Measured {
    /// Tensors that are written together whatever the plan, by the first of them.
    linked: OnceLock<Vec<usize>>,
    /// Lengths of the original; `None` for a model of which parts do not add up.
    base: OnceLock<Option<Lengths>>,
    /// The names of the original.
    names: OnceLock<BTreeSet<String>>,
    parts: Mutex<BTreeMap<PartKey, Arc<Growth>>>,
}

/// The tensors of a part, and how their sites are stored.
type PartKey = Vec<(TensorId, Vec<Choice>)>;

/// What a part changes.
#[derive(Clone, Debug, Default)]
struct Growth {
    /// Bytes of each graph, by its path, without the constants below.
    graphs: BTreeMap<Path, i64>,
    /// Constants and imports that other parts have too, with their bytes.
    shared: BTreeMap<(Path, String), i64>,
    /// Bytes of each node that the original has too, by graph.
    nodes: BTreeMap<Path, BTreeMap<String, i64>>,
    /// The names that it gives to nodes, values and constants of its own.
    names: BTreeSet<String>,
}

/// The way to a graph: for each step inwards the first output of the node that has a name, and the place of the graph in the node.
type Path = Vec<(String, usize)>;

/// Lengths of the parts of a model's message.
#[derive(Clone, Debug, Default)]
struct Lengths {
    /// Of the message without its graph.
    outside: i64,
    graph: GraphLengths,
}

/// Lengths of a graph.
#[derive(Clone, Debug, Default)]
struct GraphLengths {
    /// Of all its fields, but for the nodes below.
    own: i64,
    /// Of each other node, by its first output that has a name: a node that reads several weights is longer by each.
    nodes: BTreeMap<String, i64>,
    /// Nodes that hold graphs, by their first output that has a name: the length of the rest of the node, and their attributes.
    holders: BTreeMap<String, (i64, Vec<AttributeLengths>)>,
    /// Constants of its own that parts may share.
    shared: BTreeMap<String, i64>,
}

/// Lengths of an attribute that holds graphs.
#[derive(Clone, Debug, Default)]
struct AttributeLengths {
    /// Of the rest of the attribute.
    own: i64,
    graphs: Vec<GraphLengths>,
}

impl Lengths {
    fn of(model: &ModelProto, known: Option<&GraphLengths>) -> Lengths {
        let Some(graph) = &model.graph else { return Lengths::default() };
        let outside = message_bytes(model) - field_bytes(message_bytes(graph));
        Lengths { outside, graph: GraphLengths::of(graph, known) }
    }

    /// The length of the message.
    fn total(&self, growth: &Growth) -> i64 {
        self.outside + field_bytes(self.graph.total(&mut Vec::new(), growth))
    }
}

impl GraphLengths {
    /// Of a graph; with `known`, the lengths of the same graph before an edit, nodes that were not in it count as own.
    fn of(graph: &GraphProto, known: Option<&GraphLengths>) -> GraphLengths {
        let mut lengths = GraphLengths { own: message_bytes(graph), ..GraphLengths::default() };
        for node in &graph.node {
            let name = named_output(node).to_owned();
            if graph::bodies(node).next().is_none() {
                if !name.is_empty() && known.is_none_or(|known| known.nodes.contains_key(&name)) {
                    lengths.own -= field_bytes(message_bytes(node));
                    lengths.nodes.insert(name, message_bytes(node));
                }
                continue;
            }
            let before = known.map(|known| known.holders.get(&name));
            if matches!(before, Some(None)) {
                continue;
            }
            lengths.own -= field_bytes(message_bytes(node));
            let entry = holder(node, before.flatten());
            lengths.holders.insert(name, entry);
        }
        for tensor in graph.initializer.iter().filter(|tensor| is_shared_constant(tensor.name())) {
            lengths.shared.insert(tensor.name().to_owned(), field_bytes(message_bytes(tensor)));
        }
        lengths
    }

    fn total(&self, path: &mut Path, growth: &Growth) -> i64 {
        let mut total = self.own + growth.graphs.get(path).copied().unwrap_or(0);
        let grown = growth.nodes.get(path);
        for (name, length) in &self.nodes {
            total += field_bytes(length + grown.and_then(|nodes| nodes.get(name)).copied().unwrap_or(0));
        }
        for (name, (own, attributes)) in &self.holders {
            let mut node = *own;
            let mut place = 0;
            for attribute in attributes {
                let mut length = attribute.own;
                for graph in &attribute.graphs {
                    path.push((name.clone(), place));
                    length += field_bytes(graph.total(path, growth));
                    path.pop();
                    place += 1;
                }
                node += field_bytes(length);
            }
            total += field_bytes(node);
        }
        total
    }

    /// The differences to the lengths before an edit.
    fn growth(&self, before: &GraphLengths, path: &mut Path, growth: &mut Growth) {
        let fresh: BTreeMap<&String, i64> =
            self.shared.iter().filter(|(name, _)| !before.shared.contains_key(*name)).map(|(n, b)| (n, *b)).collect();
        let gone = before.nodes.iter().filter(|(name, _)| !self.nodes.contains_key(*name));
        let gone: i64 = gone.map(|(_, length)| field_bytes(*length)).sum();
        let own = self.own - before.own - gone - fresh.values().sum::<i64>();
        if own != 0 {
            growth.graphs.insert(path.clone(), own);
        }
        for (name, length) in &self.nodes {
            let grown = length - before.nodes.get(name).copied().unwrap_or(0);
            if grown != 0 {
                growth.nodes.entry(path.clone()).or_default().insert(name.clone(), grown);
            }
        }
        growth.shared.extend(fresh.into_iter().map(|(name, bytes)| ((path.clone(), name.clone()), bytes)));
        for (name, (_, attributes)) in &self.holders {
            let Some((_, others)) = before.holders.get(name) else { continue };
            let inner = |attributes: &'_ [AttributeLengths]| -> Vec<GraphLengths> {
                attributes.iter().flat_map(|attribute| attribute.graphs.clone()).collect()
            };
            assert_eq!(inner(attributes).len(), inner(others).len(), "no edit adds or removes a body of a node");
            for (place, (graph, other)) in inner(attributes).iter().zip(&inner(others)).enumerate() {
                path.push((name.clone(), place));
                graph.growth(other, path, growth);
                path.pop();
            }
        }
    }
}

/// The first output of a node that has a name: no other node of its graph gives it.
fn named_output(node: &NodeProto) -> &str {
    node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str)
}

/// Lengths of a node that holds graphs.
fn holder(node: &NodeProto, before: Option<&(i64, Vec<AttributeLengths>)>) -> (i64, Vec<AttributeLengths>) {
    let mut own = message_bytes(node);
    let mut attributes = Vec::new();
    for attribute in node.attribute.iter().filter(|attribute| graphs(attribute).next().is_some()) {
        let known = before.and_then(|(_, known)| known.get(attributes.len()));
        own -= field_bytes(message_bytes(attribute));
        let mut lengths = AttributeLengths { own: message_bytes(attribute), graphs: Vec::new() };
        for graph in graphs(attribute) {
            lengths.own -= field_bytes(message_bytes(graph));
            let known = known.and_then(|known| known.graphs.get(lengths.graphs.len()));
            lengths.graphs.push(GraphLengths::of(graph, known));
        }
        attributes.push(lengths);
    }
    (own, attributes)
}

fn graphs(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

impl<'a> Sizes<'a> {
    /// Of plans for these weights, written in this way. `measured` is of the same arguments, or empty.
    #[must_use]
    pub fn new(model: &'a Model, weights: &'a Weights, writing: &'a Writing, measured: &'a Measured) -> Self {
        Sizes { model, weights, writing, measured }
    }

    fn base(&self) -> Option<&'a Lengths> {
        let base = || adds_up(self.model).then(|| Lengths::of(&note_of(self.model, &self.writing.note), None));
        self.measured.base.get_or_init(base).as_ref()
    }

    /// Bytes of the file that a plan makes, exactly.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn bytes(&self, plan: &Plan) -> Result<u64> {
        let Some(base) = self.base() else { return size(self.model, self.weights, plan, self.writing) };
        let parts = self.parts_of(plan);
        // A part is measured by building a file with it alone. Where several are new, the file of the whole plan is built
        // instead; one of them is measured on the way, so that the next plans find more of their parts known.
        let mut unknown = parts.iter().filter(|part| self.known(&self.key(plan, part)).is_none());
        if let (Some(first), Some(_)) = (unknown.next(), unknown.next()) {
            self.growth(base, plan, first)?;
            return size(self.model, self.weights, plan, self.writing);
        }
        let parts = parts.iter().map(|part| self.growth(base, plan, part)).collect::<Result<Vec<_>>>()?;
        let mut names = BTreeSet::new();
        let mut all = Growth::default();
        for growth in &parts {
            for (path, bytes) in &growth.graphs {
                *all.graphs.entry(path.clone()).or_default() += bytes;
            }
            for (path, nodes) in &growth.nodes {
                let all = all.nodes.entry(path.clone()).or_default();
                nodes.iter().for_each(|(name, bytes)| *all.entry(name.clone()).or_default() += bytes);
            }
            all.shared.extend(growth.shared.iter().map(|(key, bytes)| (key.clone(), *bytes)));
        }
        // A name is that of one thing in all graphs.
        let once = parts.iter().flat_map(|growth| &growth.names).chain(all.shared.keys().map(|(_, name)| name));
        if !once.into_iter().all(|name| names.insert(name)) {
            return size(self.model, self.weights, plan, self.writing);
        }
        let mut outside = 0;
        for ((path, name), bytes) in std::mem::take(&mut all.shared) {
            match name.strip_prefix(IMPORT) {
                Some(_) => outside += bytes,
                None => *all.graphs.entry(path).or_default() += bytes,
            }
        }
        let total = base.total(&all) + outside;
        Ok(u64::try_from(total).expect("a message has no negative length"))
    }

    /// The tensors of a plan that are written together.
    fn parts_of(&self, plan: &Plan) -> Vec<Vec<TensorId>> {
        let mut leader = self.measured.linked.get_or_init(|| linked(self.weights, self.writing)).clone();
        let codebooks = plan.codebooks(self.weights).into_iter().map(|(_, sites)| sites);
        let dictionaries = plan.dictionaries(self.weights).into_iter();
        let dictionaries = dictionaries.map(|shared| shared.members.into_iter().map(|member| member.site).collect());
        for sites in codebooks.chain(dictionaries) {
            let tensors: BTreeSet<usize> = sites.iter().map(|&id| self.weights.get(id).tensor.0).collect();
            link(&mut leader, tensors);
        }
        let mut parts: BTreeMap<usize, Vec<TensorId>> = BTreeMap::new();
        for (tensor, &first) in leader.iter().enumerate() {
            parts.entry(first).or_default().push(TensorId(tensor));
        }
        parts.into_values().collect()
    }

    fn key(&self, plan: &Plan, part: &[TensorId]) -> PartKey {
        let choices = |&tensor: &TensorId| {
            let sites = self.weights.of_tensor(tensor);
            (tensor, sites.map(|site| plan.choices[site.id]).collect::<Vec<_>>())
        };
        part.iter().map(choices).collect()
    }

    fn known(&self, key: &PartKey) -> Option<Arc<Growth>> {
        self.measured.parts.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// What a part of a plan changes.
    fn growth(&self, base: &Lengths, plan: &Plan, part: &[TensorId]) -> Result<Arc<Growth>> {
        let key = self.key(plan, part);
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let is_in = |tensor: TensorId| part.contains(&tensor);
        let of_part =
            plan.choices.map(|id, &choice| if is_in(self.weights.get(id).tensor) { choice } else { Choice::Dense });
        let of_part = Plan { choices: of_part, sensitivity: plan.sensitivity.clone() };
        let written = apply(self.model, self.weights, &blank(self.weights, &of_part), self.writing)?;
        let after = Lengths::of(&written.proto, Some(&base.graph));
        let mut growth = Growth::default();
        after.graph.growth(&base.graph, &mut Vec::new(), &mut growth);
        if after.outside != base.outside {
            growth.shared.insert((Vec::new(), IMPORT.to_owned()), after.outside - base.outside);
        }
        let known = self.measured.names.get_or_init(|| names(self.model));
        growth.names =
            names(&written).into_iter().filter(|name| !known.contains(name) && !is_shared_constant(name)).collect();
        let growth = Arc::new(growth);
        self.measured.parts.lock().unwrap_or_else(PoisonError::into_inner).insert(key, growth.clone());
        Ok(growth)
    }
}

/// The name under which bytes outside of the graph are kept: the one import that a form may add.
const IMPORT: &str = "\0import";

/// The names of nodes, values and constants in all graphs.
fn names(model: &Model) -> BTreeSet<String> {
    let of_graph = |graph: &GraphProto| -> Vec<String> {
        let nodes = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str).chain([node.name()]));
        graph.initializer.iter().map(|tensor| tensor.name()).chain(nodes).map(str::to_owned).collect()
    };
    model.graphs().iter().flat_map(|(_, graph)| of_graph(graph)).collect()
}

/// Whether parts of a model add up: all is in one message, nothing changes the version of the file, and nodes that hold
/// graphs can be told by an output.
fn adds_up(model: &Model) -> bool {
    let external = |graph: &GraphProto| graph.initializer.iter().any(is_external);
    let untold = |node: &NodeProto| named_output(node).is_empty() && graph::bodies(node).next().is_some();
    model.ir_version() > OLD_IR
        && (message_bytes(&model.proto) as u64) < crate::limits::PROTOBUF_BYTES
        && !model.graphs().iter().any(|(_, graph)| external(graph) || graph.node.iter().any(untold))
        && !model.proto.functions.iter().flat_map(|f| &f.node).any(|node| graph::bodies(node).next().is_some())
}

/// For each tensor the first of those that it is written together with, whatever the plan.
fn linked(weights: &Weights, writing: &Writing) -> Vec<usize> {
    let mut leader: Vec<usize> = weights.tensors().map(|tensor| tensor.0).collect();
    let mut constants: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    let mut nodes: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for tensor in weights.tensors() {
        for reader in weights.readers(tensor) {
            let source = reader.source;
            source.constants.iter().chain(&source.parameters).for_each(|constant| {
                constants.entry(constant).or_default().insert(tensor.0);
            });
            nodes.entry((reader.scope, reader.index)).or_default().insert(tensor.0);
        }
    }
    constants.into_values().for_each(|tensors| link(&mut leader, tensors));
    if writing.request.form != super::Form::Portable {
        nodes.into_values().for_each(|tensors| link(&mut leader, tensors));
    }
    leader
}

/// Has all of some tensors, and those that are linked to them, be led by the first.
fn link(leader: &mut [usize], tensors: BTreeSet<usize>) {
    let leaders: BTreeSet<usize> = tensors.into_iter().map(|tensor| leader[tensor]).collect();
    let Some(&first) = leaders.first() else { return };
    leader.iter_mut().filter(|led| leaders.contains(led)).for_each(|led| *led = first);
}

/// Bytes of the file that a plan makes, by building it.
///
/// # Errors
/// As [`apply`].
pub fn size(model: &Model, weights: &Weights, plan: &Plan, writing: &Writing) -> Result<u64> {
    apply(model, weights, &blank(weights, plan), writing)?.saved_bytes()
}
