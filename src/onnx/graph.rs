//! Graphs inside graphs, and the values that flow between nodes.
//!
//! A model is a tree of graphs: the root, and the bodies of If, Loop and Scan nodes (attributes of type GRAPH). A
//! [`Scope`] is the path to one of them. A body sees the values of the graphs around it; a name defined inside hides
//! the same name outside. [`Values`] says for a name, seen from a scope, where it is defined, and for a definition,
//! who uses it. Model-local functions and training graphs are no scopes: nothing in them is rewritten.
//!
//! The specification forbids a body to define a name that a graph around it has, but files do, and runtimes differ in which
//! of the two they read. Such names are [ambiguous](Values::is_ambiguous): what bears them is left as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use super::model::Model;
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::error::{Cut, Error, ErrorKind, Result};

/// Path from the root graph to a nested one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Vec<Step>);

/// One step inwards: a graph that is an attribute of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// Index of the node in the outer graph.
    pub node: usize,
    /// Index of the attribute in the node.
    pub attribute: usize,
    /// Index in the attribute's list, for a list of graphs.
    pub graph: Option<usize>,
}

impl Scope {
    /// The scope of the model's own graph.
    pub fn root() -> Self {
        Scope::default()
    }

    /// Whether it is the model's own graph.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The scope one step further in.
    #[must_use]
    pub fn child(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Scope(steps)
    }

    /// The scope around this one.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, outer)| Scope(outer.to_vec()))
    }

    /// This scope and those around it, from the inside outwards.
    pub fn outwards(&self) -> impl Iterator<Item = Scope> + '_ {
        (0..=self.0.len()).rev().map(|n| Scope(self.0[..n].to_vec()))
    }

    /// Whether `other` is this scope or inside it.
    pub fn contains(&self, other: &Scope) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The innermost scope that contains both: what is defined there is seen from both.
    #[must_use]
    pub fn common(&self, other: &Scope) -> Self {
        Scope(self.0.iter().zip(&other.0).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect())
    }

    /// Index of the node of graph `self` that is, or contains, node `node` of graph `inner`.
    ///
    /// The first consumer of a value, for a value of `self` that is used inside bodies.
    pub fn node_around(&self, inner: &Scope, node: usize) -> usize {
        inner.0.get(self.0.len()).map_or(node, |step| step.node)
    }
}

/// `/` for the root; `/3.1/7.0` for the second attribute of node 3, therein the first of node 7.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return write!(f, "/");
        }
        for Step { node, attribute, graph } in &self.0 {
            write!(f, "/{node}.{attribute}")?;
            if let Some(graph) = graph {
                write!(f, ".{graph}")?;
            }
        }
        Ok(())
    }
}

/// The graphs inside a node, with attribute index and index in the attribute's list.
pub fn bodies(node: &NodeProto) -> impl Iterator<Item = (usize, Option<usize>, &GraphProto)> {
    node.attribute.iter().enumerate().flat_map(|(a, attribute)| {
        let one = attribute.g.iter().map(move |g| (a, None, g));
        one.chain(attribute.graphs.iter().enumerate().map(move |(i, g)| (a, Some(i), g)))
    })
}

/// The graph at `scope`, if there is one.
pub fn at<'m>(model: &'m ModelProto, scope: &Scope) -> Option<&'m GraphProto> {
    scope.0.iter().try_fold(model.graph.as_ref()?, |graph, step| {
        let attribute = graph.node.get(step.node)?.attribute.get(step.attribute)?;
        match step.graph {
            None => attribute.g.as_ref(),
            Some(i) => attribute.graphs.get(i),
        }
    })
}

/// The graph at `scope` for editing; outside this module only [`Rewriter`](super::Rewriter) edits what a model computes.
pub(crate) fn at_mut<'m>(model: &'m mut ModelProto, scope: &Scope) -> Option<&'m mut GraphProto> {
    scope.0.iter().try_fold(model.graph.as_mut()?, |graph, step| {
        let attribute = graph.node.get_mut(step.node)?.attribute.get_mut(step.attribute)?;
        match step.graph {
            None => attribute.g.as_mut(),
            Some(i) => attribute.graphs.get_mut(i),
        }
    })
}

/// Calls `visit` for the graph of a model and every graph inside it, outer before inner, in the order of the nodes.
pub fn for_each_graph<'m>(model: &'m ModelProto, mut visit: impl FnMut(&Scope, &'m GraphProto)) {
    fn walk<'m>(scope: &Scope, graph: &'m GraphProto, visit: &mut dyn FnMut(&Scope, &'m GraphProto)) {
        visit(scope, graph);
        for (node, proto) in graph.node.iter().enumerate() {
            for (attribute, graph, body) in bodies(proto) {
                walk(&scope.child(Step { node, attribute, graph }), body, visit);
            }
        }
    }
    if let Some(graph) = &model.graph {
        walk(&Scope::root(), graph, &mut visit);
    }
}

impl Model {
    /// The graph at `scope`.
    ///
    /// # Panics
    /// If the scope was not taken from this model.
    pub fn graph(&self, scope: &Scope) -> &GraphProto {
        at(&self.proto, scope).expect("a scope is used with the model that it was taken from")
    }

    /// Node `index` of the graph at `scope`.
    ///
    /// # Panics
    /// If scope or index were not taken from this model.
    pub fn node(&self, scope: &Scope, index: usize) -> &NodeProto {
        &self.graph(scope).node[index]
    }

    /// All graphs with their scopes, outer before inner, in the order of the nodes.
    pub fn graphs(&self) -> Vec<(Scope, &GraphProto)> {
        let mut all = Vec::new();
        for_each_graph(&self.proto, |scope, graph| all.push((scope.clone(), graph)));
        all
    }

    /// Whether a caller may give another value than an initializer that is a graph input too. Up to IR version 3 every
    /// initializer had to be one, and runtimes take it for a constant.
    pub fn is_overridable(&self, definition: &Definition) -> bool {
        const INITIALIZERS_ARE_INPUTS: i64 = 3;
        definition.is_input && (self.ir_version() > INITIALIZERS_ARE_INPUTS || !definition.scope.is_root())
    }

    /// The tensor of an initializer that [`Values::resolve`] found; `None` for any other origin.
    pub fn initializer(&self, definition: &Definition) -> Option<&TensorProto> {
        match definition.origin {
            Origin::Initializer(i) => self.graph(&definition.scope).initializer.get(i),
            _ => None,
        }
    }
}

/// Whether a domain is that of the standard operators.
pub fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The graph that defines it.
    pub scope: Scope,
    /// What in that graph does.
    pub origin: Origin,
    /// For an initializer: it is a graph input too. From IR version 4 on the caller may override such a value; before,
    /// every initializer had to be one, and runtimes take it for a constant.
    pub is_input: bool,
}

/// An input of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeInput {
    /// The graph that the node is in.
    pub scope: Scope,
    /// Its index in that graph.
    pub node: usize,
    /// Which of its inputs.
    pub input: usize,
}

/// What defines a value, by index in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A constant tensor.
    Initializer(usize),
    /// A constant sparse tensor.
    SparseInitializer(usize),
    /// An output of a node (a Constant node among them).
    Node {
        /// Index of the node.
        node: usize,
        /// Index of the output.
        output: usize,
    },
    /// An input of the graph: of the model, or what a Loop or Scan hands to its body.
    Input(usize),
}

/// Who uses a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// An input of a node, perhaps of a nested graph.
    Node {
        /// The graph that the node is in.
        scope: Scope,
        /// Index of the node.
        node: usize,
        /// Index of the input.
        input: usize,
    },
    /// An output of a graph.
    Output {
        /// The graph.
        scope: Scope,
        /// Index of the output.
        index: usize,
    },
    /// Something that is never rewritten: a training graph.
    Training,
}

/// Definitions and uses of every value in all graphs of a model, as it is now.
pub struct Values<'m> {
    graphs: BTreeMap<Scope, Table<'m>>,
    ambiguous: HashSet<&'m str>,
}

#[derive(Default)]
struct Table<'m> {
    definitions: HashMap<&'m str, Definition>,
    uses: HashMap<&'m str, Vec<Use>>,
}

impl<'m> Values<'m> {
    /// Indexes a model.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) for a value that is defined twice in a graph, or used but defined nowhere.
    pub fn new(model: &'m ModelProto) -> Result<Self> {
        let mut values = Values { graphs: BTreeMap::new(), ambiguous: ambiguous_names(model) };
        let mut graphs = Vec::new();
        for_each_graph(model, |scope, graph| graphs.push((scope.clone(), graph)));
        for (scope, graph) in &graphs {
            values.graphs.insert(scope.clone(), Table { definitions: define(scope, graph)?, uses: HashMap::new() });
        }
        for (scope, graph) in &graphs {
            values.collect_uses(scope, graph)?;
        }
        values.pin_training(model);
        Ok(values)
    }

    /// The definition of `name` as seen from `scope`.
    pub fn resolve(&self, scope: &Scope, name: &str) -> Option<&Definition> {
        scope.outwards().find_map(|s| self.graphs.get(&s)?.definitions.get(name))
    }

    /// Whether a name is one of [`ambiguous_names`].
    pub fn is_ambiguous(&self, name: &str) -> bool {
        self.ambiguous.contains(name)
    }

    /// Who uses the value that `name` is, seen from `scope`; those in nested graphs among them, in the order of graphs
    /// and nodes.
    pub fn uses(&self, scope: &Scope, name: &str) -> &[Use] {
        self.resolve(scope, name)
            .and_then(|definition| self.graphs[&definition.scope].uses.get(name))
            .map_or(&[], Vec::as_slice)
    }

    fn collect_uses(&mut self, scope: &Scope, graph: &'m GraphProto) -> Result<()> {
        for (node, proto) in graph.node.iter().enumerate() {
            for (input, name) in proto.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                if !self.add_use(scope, name, Use::Node { scope: scope.clone(), node, input }) {
                    return Err(Error::new(
                        ErrorKind::Malformed,
                        format!("its input '{}' is not defined by any node, input or initializer", Cut(name)),
                    )
                    .at_node(plain_name(proto, node)));
                }
            }
        }
        for (index, output) in graph.output.iter().enumerate() {
            if !self.add_use(scope, output.name(), Use::Output { scope: scope.clone(), index }) {
                return Err(Error::new(
                    ErrorKind::Malformed,
                    format!(
                        "output '{}' of graph '{}' is not defined by any node",
                        Cut(output.name()),
                        Cut(graph.name())
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Whether the name is defined.
    fn add_use(&mut self, scope: &Scope, name: &'m str, site: Use) -> bool {
        let Some(owner) = self.resolve(scope, name).map(|d| d.scope.clone()) else { return false };
        let table = self.graphs.get_mut(&owner).expect("definitions are of known scopes");
        table.uses.entry(name).or_default().push(site);
        true
    }

    /// Training graphs read and update values of the root graph by name.
    fn pin_training(&mut self, model: &'m ModelProto) {
        for training in &model.training_info {
            let mut names = BTreeSet::new();
            for graph in training.initialization.iter().chain(&training.algorithm) {
                names_read(&graph.node, &mut names);
                names.extend(graph.output.iter().map(|o| o.name()));
            }
            for binding in training.initialization_binding.iter().chain(&training.update_binding) {
                names.extend([binding.key(), binding.value()]);
            }
            for name in names {
                self.add_use(&Scope::root(), name, Use::Training);
            }
        }
    }

    /// Fails if nodes of a graph wait for each other. Nodes out of order are fine: runtimes sort them.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed), naming a node of the cycle.
    pub(super) fn check_acyclic(&self, model: &ModelProto) -> Result<()> {
        for (scope, table) in &self.graphs {
            let graph = at(model, scope).expect("values are of this model");
            if let Some(node) = cycle(&table.edges(scope, graph.node.len())) {
                return Err(Error::new(ErrorKind::Malformed, "it depends on its own output (a cycle)")
                    .at_node(plain_name(&graph.node[node], node)));
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    /// For every node of this graph those that need one of its outputs, themselves or in a body.
    fn edges(&self, scope: &Scope, nodes: usize) -> Vec<Vec<usize>> {
        let mut successors = vec![Vec::new(); nodes];
        for (name, definition) in &self.definitions {
            let Origin::Node { node: producer, .. } = definition.origin else { continue };
            for site in self.uses.get(name).into_iter().flatten() {
                match site {
                    Use::Node { scope: inner, node, .. } => {
                        successors[producer].push(scope.node_around(inner, *node));
                    }
                    Use::Output { scope: inner, .. } if inner != scope => {
                        successors[producer].push(scope.node_around(inner, 0));
                    }
                    _ => {}
                }
            }
        }
        successors
    }
}

/// A node on a cycle, if there is one (Kahn's algorithm; what it leaves over is a cycle or behind one).
fn cycle(successors: &[Vec<usize>]) -> Option<usize> {
    let mut waiting = vec![0usize; successors.len()];
    successors.iter().flatten().for_each(|&s| waiting[s] += 1);
    let mut ready: Vec<usize> = (0..waiting.len()).filter(|&n| waiting[n] == 0).collect();
    while let Some(node) = ready.pop() {
        for &s in &successors[node] {
            waiting[s] -= 1;
            if waiting[s] == 0 {
                ready.push(s);
            }
        }
    }
    // Going back from a node that still waits to one that it waits for, often enough, ends on the cycle.
    let mut waits_for = vec![0; successors.len()];
    for node in (0..waiting.len()).rev().filter(|&n| waiting[n] > 0) {
        successors[node].iter().for_each(|&s| waits_for[s] = node);
    }
    let first = waiting.iter().position(|&w| w > 0)?;
    Some((0..waiting.len()).fold(first, |node, _| waits_for[node]))
}

/// The names of initializers and of outputs of nodes in a body that a graph or function around it has too. A copy of the same
/// tensor is not among them, whichever is read; nor are the inputs of a body: every runtime reads these in place of what
/// they hide.
pub fn ambiguous_names(model: &ModelProto) -> HashSet<&str> {
    fn walk<'m>(nodes: &'m [NodeProto], around: &mut Vec<Named<'m>>, found: &mut HashSet<&'m str>) {
        for (_, _, body) in nodes.iter().flat_map(bodies) {
            let mut own = Named::new();
            own.extend(stored(body).chain(computed(&body.node)));
            let is_another = |(name, tensor): &(&&str, &Option<&TensorProto>)| {
                around.iter().filter_map(|names| names.get(*name)).any(|outer| outer.is_none() || outer != *tensor)
            };
            found.extend(own.iter().filter(is_another).map(|(name, _)| name));
            given(body).for_each(|(name, tensor)| {
                own.entry(name).or_insert(tensor);
            });
            around.push(own);
            walk(&body.node, around, found);
            around.pop();
        }
    }
    let mut found = HashSet::new();
    if let Some(graph) = &model.graph {
        // An initializer that is an input too is one.
        let names = given(graph).chain(stored(graph)).chain(computed(&graph.node));
        walk(&graph.node, &mut vec![names.collect()], &mut found);
    }
    for function in &model.functions {
        let inputs = function.input.iter().map(|name| (name.as_str(), None));
        walk(&function.node, &mut vec![inputs.chain(computed(&function.node)).collect()], &mut found);
    }
    found
}

/// The values that a graph defines, with their tensors if they are stored.
type Named<'m> = HashMap<&'m str, Option<&'m TensorProto>>;

fn stored(graph: &GraphProto) -> impl Iterator<Item = (&str, Option<&TensorProto>)> {
    let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
    let sparse = sparse.map(|tensor| (tensor.name(), None));
    sparse.chain(graph.initializer.iter().map(|tensor| (tensor.name(), Some(tensor))))
}

fn computed(nodes: &[NodeProto]) -> impl Iterator<Item = (&str, Option<&TensorProto>)> {
    nodes.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()).map(|name| (name.as_str(), None))
}

fn given(graph: &GraphProto) -> impl Iterator<Item = (&str, Option<&TensorProto>)> {
    graph.input.iter().map(|input| (input.name(), None))
}

fn define<'m>(scope: &Scope, graph: &'m GraphProto) -> Result<HashMap<&'m str, Definition>> {
    let mut map: HashMap<&'m str, Definition> = HashMap::new();
    let twice = |what: &str, name: &str| {
        Err(Error::new(
            ErrorKind::Malformed,
            format!("{what} '{}' is defined twice in graph '{}'", Cut(name), Cut(graph.name())),
        ))
    };
    let new = |origin| Definition { scope: scope.clone(), origin, is_input: false };
    for (i, input) in graph.input.iter().enumerate() {
        if map.insert(input.name(), new(Origin::Input(i))).is_some() {
            return twice("input", input.name());
        }
    }
    let dense = graph.initializer.iter().enumerate().map(|(i, t)| (t.name(), Origin::Initializer(i)));
    let sparse = graph
        .sparse_initializer
        .iter()
        .enumerate()
        .map(|(i, t)| (t.values.as_ref().map_or("", TensorProto::name), Origin::SparseInitializer(i)));
    for (name, origin) in dense.chain(sparse) {
        let mut definition = new(origin);
        match map.get(name).map(|d| d.origin) {
            None => {}
            Some(Origin::Input(_)) => definition.is_input = true,
            Some(_) => return twice("initializer", name),
        }
        map.insert(name, definition);
    }
    for (node, proto) in graph.node.iter().enumerate() {
        for (output, name) in proto.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if map.insert(name, new(Origin::Node { node, output })).is_some() {
                return twice("value", name).map_err(|e: Error| e.at_node(plain_name(proto, node)));
            }
        }
    }
    Ok(map)
}

/// Collects every name that the nodes, or the graphs inside them, read.
pub(super) fn names_read<'n>(nodes: &'n [NodeProto], names: &mut BTreeSet<&'n str>) {
    for node in nodes {
        names.extend(node.input.iter().map(String::as_str).filter(|n| !n.is_empty()));
        for (_, _, body) in bodies(node) {
            names_read(&body.node, names);
            names.extend(body.output.iter().map(|o| o.name()));
        }
    }
}

/// What to call a node: its name, else its first output, else operator and position. Not unique.
pub fn plain_name(node: &NodeProto, index: usize) -> String {
    let given = std::iter::once(node.name()).chain(node.output.iter().map(String::as_str)).find(|n| !n.is_empty());
    given.map_or_else(|| format!("{}#{index}", node.op_type()), str::to_owned)
}

/// Readable, unique names of all nodes, for reports and for choosing nodes by pattern.
///
/// Where several nodes bear one name, the later ones get `#2`, `#3`, ... behind it.
pub struct NodeNames(HashMap<(Scope, usize), String>);

impl NodeNames {
    /// Names every node of every graph.
    pub fn new(model: &ModelProto) -> Self {
        let mut taken = Taken::default();
        let mut names = HashMap::new();
        for_each_graph(model, |scope, graph| {
            for (index, node) in graph.node.iter().enumerate() {
                names.insert((scope.clone(), index), taken.claim(&plain_name(node, index), '#'));
            }
        });
        NodeNames(names)
    }

    /// The name of a node.
    ///
    /// # Panics
    /// If scope or index were not taken from this model.
    pub fn get(&self, scope: &Scope, index: usize) -> &str {
        self.0.get(&(scope.clone(), index)).expect("scope and index are of the model that was named")
    }
}

/// The one source of new names in a model: none occurs in any graph, function or training graph.
pub struct Names(Taken);

impl Names {
    /// Takes in every name of a model, of values and nodes alike.
    pub fn new(model: &ModelProto) -> Self {
        let mut names = Names(Taken::default());
        model.graph.iter().for_each(|g| names.take_graph(g));
        for training in &model.training_info {
            training.initialization.iter().chain(&training.algorithm).for_each(|g| names.take_graph(g));
        }
        for function in &model.functions {
            names.0.names.extend(function.input.iter().chain(&function.output).cloned());
            names.take_nodes(&function.node);
        }
        names
    }

    /// `stem` if it is free, else `stem_2`, `stem_3`, ...; taken from now on.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.0.claim(stem, '_')
    }

    fn take_graph(&mut self, graph: &GraphProto) {
        let values = graph.input.iter().chain(&graph.output).chain(&graph.value_info).map(|v| v.name());
        let tensors = graph.initializer.iter().map(|t| t.name());
        let sparse = graph.sparse_initializer.iter().flat_map(|s| &s.values).map(|t| t.name());
        self.0.names.extend(values.chain(tensors).chain(sparse).map(str::to_owned));
        self.take_nodes(&graph.node);
    }

    fn take_nodes(&mut self, nodes: &[NodeProto]) {
        for node in nodes {
            self.0.names.extend(node.input.iter().chain(&node.output).cloned());
            self.0.names.insert(node.name().to_owned());
            for (_, _, body) in bodies(node) {
                self.take_graph(body);
            }
        }
    }
}

/// Names that are taken, and for each that was asked for again, the number to try next: many nodes of one name in a
/// file cost no more than many names.
#[derive(Default)]
struct Taken {
    names: HashSet<String>,
    next: HashMap<String, usize>,
}

impl Taken {
    /// `stem`, or if that is taken the first free number behind it.
    fn claim(&mut self, stem: &str, separator: char) -> String {
        if !stem.is_empty() && self.names.insert(stem.to_owned()) {
            return stem.to_owned();
        }
        let next = self.next.entry(stem.to_owned()).or_insert(2);
        loop {
            let name = format!("{stem}{separator}{next}");
            *next += 1;
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Calls `visit` for every tensor of a model, those of attributes, functions and training graphs among them.
pub fn for_each_tensor<'m>(model: &'m ModelProto, mut visit: impl FnMut(&'m TensorProto)) {
    fn nodes<'m>(list: &'m [NodeProto], visit: &mut dyn FnMut(&'m TensorProto)) {
        for attribute in list.iter().flat_map(|n| &n.attribute) {
            attribute.t.iter().chain(&attribute.tensors).for_each(&mut *visit);
            let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
            sparse.flat_map(|s| s.values.iter().chain(&s.indices)).for_each(&mut *visit);
            attribute.g.iter().chain(&attribute.graphs).for_each(|g| graph(g, visit));
        }
    }
    fn graph<'m>(g: &'m GraphProto, visit: &mut dyn FnMut(&'m TensorProto)) {
        g.initializer.iter().for_each(&mut *visit);
        g.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices)).for_each(&mut *visit);
        nodes(&g.node, visit);
    }
    let training = model.training_info.iter().flat_map(|t| t.initialization.iter().chain(&t.algorithm));
    model.graph.iter().chain(training).for_each(|g| graph(g, &mut visit));
    model.functions.iter().for_each(|f| nodes(&f.node, &mut visit));
}

/// As [`for_each_tensor`], in the same order, for changing where values are stored.
pub(crate) fn for_each_tensor_mut(
    model: &mut ModelProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    type Visit<'v> = &'v mut dyn FnMut(&mut TensorProto) -> Result<()>;
    fn nodes(list: &mut [NodeProto], visit: Visit<'_>) -> Result<()> {
        for attribute in list.iter_mut().flat_map(|n| &mut n.attribute) {
            attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
            let sparse = attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors);
            sparse.flat_map(|s| s.values.iter_mut().chain(&mut s.indices)).try_for_each(&mut *visit)?;
            attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| graph(g, visit))?;
        }
        Ok(())
    }
    fn graph(g: &mut GraphProto, visit: Visit<'_>) -> Result<()> {
        g.initializer.iter_mut().try_for_each(&mut *visit)?;
        let sparse = g.sparse_initializer.iter_mut();
        sparse.flat_map(|s| s.values.iter_mut().chain(&mut s.indices)).try_for_each(&mut *visit)?;
        nodes(&mut g.node, visit)
    }
    let training = model.training_info.iter_mut().flat_map(|t| t.initialization.iter_mut().chain(&mut t.algorithm));
    model.graph.iter_mut().chain(training).try_for_each(|g| graph(g, visit))?;
    model.functions.iter_mut().try_for_each(|f| nodes(&mut f.node, visit))
}

#[cfg(test)]
mod tests {
    use super::super::model::LoadOptions;
    use super::super::proto::{AttributeProto, ValueInfoProto};
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&s| s.to_owned()).collect(),
            output: outputs.iter().map(|&s| s.to_owned()).collect(),
            ..Default::default()
        }
    }

    fn info(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
    }

    fn graph_of(inputs: &[&str], nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
        GraphProto {
            input: inputs.iter().map(|n| info(n)).collect(),
            output: outputs.iter().map(|n| info(n)).collect(),
            node: nodes,
            ..Default::default()
        }
    }

    fn with_body(mut node: NodeProto, body: GraphProto) -> NodeProto {
        node.attribute.push(AttributeProto { g: Some(body), ..Default::default() });
        node
    }

    fn model(graph: GraphProto) -> Result<Model> {
        let proto = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
        Model::from_proto(proto, &LoadOptions::default())
    }

    /// `x -> Neg -> a`, an If whose body reads `a` and hides `x`, and the output of the If.
    fn nested() -> Model {
        let body = graph_of(&["x"], vec![node("Add", &["x", "a"], &["b"])], &["b"]);
        let nodes = vec![node("Neg", &["x"], &["a"]), with_body(node("If", &["x"], &["y"]), body)];
        model(graph_of(&["x"], nodes, &["y"])).unwrap()
    }

    #[test]
    fn names_resolve_from_the_inside_outwards() {
        let model = nested();
        let values = Values::new(&model.proto).unwrap();
        let root = Scope::root();
        let body = root.child(Step { node: 1, attribute: 0, graph: None });
        assert_eq!(values.resolve(&body, "a").unwrap().origin, Origin::Node { node: 0, output: 0 });
        assert_eq!(values.resolve(&body, "x").unwrap().scope, body, "the body's own x hides the outer one");
        assert!(values.resolve(&root, "b").is_none(), "a body's values are not seen outside");
        assert_eq!(values.uses(&root, "a"), [Use::Node { scope: body.clone(), node: 0, input: 1 }]);
        assert_eq!(values.uses(&root, "x").len(), 2, "Neg and If, not the body");
        assert_eq!(root.node_around(&body, 0), 1);
        assert_eq!(body.to_string(), "/1.0");
    }

    #[test]
    fn the_common_scope_is_the_innermost_around_both() {
        let step = |node| Step { node, attribute: 0, graph: None };
        let a = Scope::root().child(step(1)).child(step(2));
        let b = Scope::root().child(step(1)).child(step(3)).child(step(2));
        assert_eq!(a.common(&b), Scope::root().child(step(1)));
        assert_eq!(a.common(&a), a);
        assert!(a.parent().unwrap().contains(&b));
        assert!(!a.contains(&b));
    }

    #[test]
    fn cycles_are_found_also_through_bodies_but_not_mere_disorder() {
        let sorted_badly = vec![node("Neg", &["p"], &["y"]), node("Neg", &["x"], &["p"])];
        assert!(model(graph_of(&["x"], sorted_badly, &["y"])).is_ok());
        let through_body =
            with_body(node("If", &["x"], &["y"]), graph_of(&[], vec![node("Neg", &["y"], &["b"])], &["b"]));
        let e = model(graph_of(&["x"], vec![through_body], &["y"])).unwrap_err();
        assert!(e.to_string().contains("cycle"), "{e}");
        let behind = vec![node("Neg", &["q"], &["y"]), node("Neg", &["p"], &["q"]), node("Neg", &["q"], &["p"])];
        let e = model(graph_of(&["x"], behind, &["y"])).unwrap_err();
        assert!(e.to_string().contains("node 'q'") || e.to_string().contains("node 'p'"), "{e}");
    }

    #[test]
    fn node_names_are_unique_and_readable() {
        let mut twins = vec![node("Neg", &["x"], &["y"]), node("Neg", &["x"], &["z"]), node("Neg", &["x"], &[""])];
        twins[0].name = Some("n".to_owned());
        twins[1].name = Some("n".to_owned());
        let model = model(graph_of(&["x"], twins, &["y"])).unwrap();
        let names = NodeNames::new(&model.proto);
        let root = Scope::root();
        assert_eq!([0, 1, 2].map(|i| names.get(&root, i)), ["n", "n#2", "Neg#2"]);
    }

    #[test]
    fn fresh_names_avoid_every_graph() {
        let mut names = Names::new(&nested().proto);
        assert_eq!(names.fresh("b"), "b_2");
        assert_eq!(names.fresh("b"), "b_3");
        assert_eq!(names.fresh("W/codes"), "W/codes");
    }
}
