//! What differs between two models, found without running them.
//!
//! Values of both models are paired from the outputs backwards: a pair of values is the same if both are the same
//! constant, the same input, or the same output of a pair of nodes that have the same operator, attributes and bodies,
//! whose inputs are pairs again. So the order of nodes, names of values and nodes, documentation and declared shapes of
//! values on the way make no difference, and whatever computes something does.
//!
//! Invariant: what is paired without a difference computes the same in both models, whatever the inputs are. The converse
//! does not hold: what is written in another way counts as different.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::error::Result;
use crate::loss::reach::{Changes, Flow};
use crate::lossless;
use crate::onnx::graph::{bodies, is_standard, plain_name};
use crate::onnx::proto::{SparseTensorProto, TypeProto, ValueInfoProto};
use crate::onnx::{AttributeProto, Definition, Model, ModelProto, NodeProto, Origin, Scope, Step, TensorProto, Values};
use crate::recurrent::{Attributes, BIAS, Cell, Matrix};

/// A node by its graph and its index therein.
pub type NodePath = (Scope, usize);

/// What differs, in terms of the original.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    /// The names of nodes that are, or read, something else than in the original.
    pub nodes: BTreeMap<NodePath, String>,
    /// Outputs that are another value than in the original.
    pub outputs: BTreeSet<String>,
    /// What that changes.
    pub changes: Changes,
    /// Differences that no node shows: operator sets, functions, missing outputs.
    pub whole: Vec<String>,
    /// Recurrent nodes of both models that take the same place.
    pub layers: Vec<(NodePath, NodePath)>,
}

impl Differences {
    /// Whether the models are known to be the same.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.whole.is_empty()
    }
}

/// Whether an input of two recurrent nodes, by its index, is compared by other means.
pub type Elsewhere<'e> = &'e dyn Fn(&NodePath, &NodePath, usize) -> bool;

/// Compares two models.
///
/// # Errors
/// Those of [`Values::new`].
pub fn between(original: &Model, other: &Model, elsewhere: Elsewhere<'_>) -> Result<Differences> {
    let models = [original, other];
    let values = [Values::new(&original.proto)?, Values::new(&other.proto)?];
    let mut comparison = Comparison {
        models,
        values,
        elsewhere,
        found: Differences::default(),
        scopes: HashMap::from([(Scope::root(), Scope::root())]),
        pairs: HashMap::new(),
        mismatches: Vec::new(),
        partners: [HashMap::new(), HashMap::new()],
        open: VecDeque::new(),
    };
    comparison.whole();
    comparison.outputs(&Scope::root(), &Scope::root());
    while let Some(edge) = comparison.open.pop_front() {
        comparison.edge(&edge);
    }
    Ok(comparison.finished())
}

/// Who reads a value, in the original.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reader {
    /// An input of a node.
    Node(NodePath, usize),
    /// An output of a graph.
    Output(NodePath),
}

/// Why two values are not the same.
struct Mismatch {
    reader: Reader,
    /// The node of the original that gives the value, if there is one.
    maker: Option<NodePath>,
}

/// A value of each model, by name as seen from a scope, that one reader reads.
struct Edge {
    reader: Reader,
    names: [(Scope, String); 2],
}

struct Comparison<'m> {
    models: [&'m Model; 2],
    values: [Values<'m>; 2],
    elsewhere: Elsewhere<'m>,
    found: Differences,
    /// Bodies that take the same place, by the original's.
    scopes: HashMap<Scope, Scope>,
    /// Nodes that were compared, and whether they are the same.
    pairs: HashMap<(NodePath, NodePath), bool>,
    mismatches: Vec<Mismatch>,
    /// The node of the other model that each node is paired with: one that draws random numbers gives others than two do.
    partners: [HashMap<NodePath, NodePath>; 2],
    open: VecDeque<Edge>,
}

impl Comparison<'_> {
    /// What belongs to no node.
    fn whole(&mut self) {
        let [a, b] = self.models.map(|model| &model.proto);
        let mut tell = |differs: bool, what: &str| {
            if differs {
                self.found.whole.push(what.to_owned());
            }
        };
        // Domains that one of them imports have no pair of nodes.
        let versions = |model: &Model, domains: &BTreeSet<String>| {
            let all = model.proto.opset_import.iter().map(|o| (domain(o.domain()).to_owned(), o.version()));
            let mut all: Vec<(String, i64)> = all.filter(|(domain, _)| domains.contains(domain)).collect();
            all.sort();
            all
        };
        let imported = |model: &ModelProto| -> BTreeSet<String> {
            model.opset_import.iter().map(|o| domain(o.domain()).to_owned()).collect()
        };
        let domains = imported(a).intersection(&imported(b)).cloned().collect();
        let [of_a, of_b] = self.models.map(|model| versions(model, &domains));
        tell(of_a != of_b, "the operator sets differ");
        let [of_a, of_b] = self.models.map(lossless::plain_functions);
        tell(of_a != of_b, "the model-local functions differ");
        tell(a.training_info != b.training_info, "the training graphs differ");
    }

    /// Pairs the outputs of two graphs: of models by name, of bodies by place.
    fn outputs(&mut self, a: &Scope, b: &Scope) {
        let [ours, theirs] = [self.models[0].graph(a), self.models[1].graph(b)];
        for (index, output) in ours.output.iter().enumerate() {
            let other = match a.is_root() {
                true => theirs.output.iter().find(|o| o.name() == output.name()),
                false => theirs.output.get(index),
            };
            match other {
                Some(other) => self.open.push_back(Edge {
                    reader: Reader::Output((a.clone(), index)),
                    names: [(a.clone(), output.name().to_owned()), (b.clone(), other.name().to_owned())],
                }),
                None => self.found.whole.push(format!("output '{}' is missing", output.name())),
            }
        }
    }

    fn edge(&mut self, edge: &Edge) {
        let definitions = [0, 1].map(|side| {
            let (scope, name) = &edge.names[side];
            self.values[side].resolve(scope, name).cloned()
        });
        let [Some(a), Some(b)] = definitions else { return self.differs(edge, None) };
        let constants = self.constants(&edge.names, [&a, &b]);
        match constants {
            Some(true) => return,
            Some(false) => return self.differs(edge, None),
            None => {}
        }
        match (a.origin, b.origin) {
            (Origin::Node { node, output }, Origin::Node { node: other, output: its }) => {
                let places = [(a.scope, node), (b.scope, other)];
                if !self.pair(&places) || output != its {
                    self.differs(edge, Some(places[0].clone()));
                }
            }
            (Origin::Input(i), Origin::Input(j)) => {
                let same = match a.scope.is_root() && b.scope.is_root() {
                    true => edge.names[0].1 == edge.names[1].1,
                    false => i == j && self.scopes.get(&a.scope) == Some(&b.scope),
                };
                if !same {
                    self.differs(edge, None);
                }
            }
            _ => self.differs(edge, None),
        }
    }

    /// Whether two values are the same constant; `None` if one of them is none.
    fn constants(&self, names: &[(Scope, String); 2], definitions: [&Definition; 2]) -> Option<bool> {
        let side = |side: usize| {
            let (model, definition) = (self.models[side], definitions[side]);
            // What is stored as narrow integers or as pieces of a dictionary is the table that a runtime restores.
            let restored = || lossless::restored(model, &self.values[side], definition).map(Box::new);
            let literal = constant(model, definition).or_else(|| restored().map(Literal::Restored))?;
            Some((literal, is_open(model, definition)))
        };
        let ((a, open), (b, other)) = (side(0)?, side(1)?);
        // The caller may give another value, under the name of the input.
        let named = !open || names[0].1 == names[1].1;
        Some(open == other && named && a.is(&b, self.models))
    }

    /// Whether two nodes are the same, but for what is behind their inputs, which is left to be compared.
    fn pair(&mut self, places: &[NodePath; 2]) -> bool {
        let key = (places[0].clone(), places[1].clone());
        if let Some(known) = self.pairs.get(&key) {
            return *known;
        }
        let free = [0, 1].map(|side| self.partners[side].get(&places[side]).is_none_or(|is| *is == places[1 - side]));
        let same = free == [true, true] && self.nodes(places);
        self.pairs.insert(key, same);
        if same {
            for side in [0, 1] {
                self.partners[side].insert(places[side].clone(), places[1 - side].clone());
            }
            self.inside(places);
        }
        same
    }

    /// Whether two nodes are the same by themselves. Recurrent nodes count as the same: how they differ is noted.
    fn nodes(&mut self, places: &[NodePath; 2]) -> bool {
        let [a, b] = [0, 1].map(|side| self.models[side].node(&places[side].0, places[side].1));
        let given = |names: &[String]| present(trimmed(names));
        let (ins, outs) = ([given(&a.input), given(&b.input)], [given(&a.output), given(&b.output)]);
        let alike = plain(a) == plain(b) && outs[0] == outs[1];
        let Some(cell) = cell(a).filter(|cell| self::cell(b) == Some(*cell)) else {
            return alike && ins[0] == ins[1] && self.same_attributes(a, b);
        };
        self.found.layers.push((places[0].clone(), places[1].clone()));
        let read = |side: usize, node| Attributes::read(node, cell, self.models[side].opset()).ok();
        let (ours, theirs) = (read(0, a), read(1, b));
        let attributes = ours.is_some() && ours == theirs || self.same_attributes(a, b);
        let but_bias =
            |ins: &[bool]| ins.iter().enumerate().filter(|(i, is)| **is && *i != BIAS).map(|(i, _)| i).collect();
        let [inputs, others]: [Vec<usize>; 2] = [but_bias(&ins[0]), but_bias(&ins[1])];
        if !attributes || !alike || inputs != others {
            self.note(&places[0], Flow::Shape);
        }
        // A missing B is one of zeros: that shows when the nodes are run.
        let [bias, other] = [&ins[0], &ins[1]].map(|ins| ins.get(BIAS) == Some(&true));
        if bias != other && !(self.elsewhere)(&places[0], &places[1], BIAS) {
            self.note(&places[0], Flow::Elements);
        }
        true
    }

    fn same_attributes(&self, a: &NodeProto, b: &NodeProto) -> bool {
        let named = |node: &NodeProto| node.attribute.iter().map(|a| a.name().to_owned()).collect::<BTreeSet<_>>();
        let (ours, theirs) = (named(a), named(b));
        let unique = ours.len() == a.attribute.len() && theirs.len() == b.attribute.len();
        unique
            && ours == theirs
            && a.attribute.iter().all(|ours| {
                let theirs = b.attribute.iter().find(|theirs| theirs.name() == ours.name());
                theirs.is_some_and(|theirs| self.same_attribute(ours, theirs))
            })
    }

    /// Bodies are compared later, but must be as many and of as many inputs.
    fn same_attribute(&self, a: &AttributeProto, b: &AttributeProto) -> bool {
        let tensors = |attribute: &AttributeProto| attribute.t.iter().chain(&attribute.tensors).cloned().collect();
        let (ours, theirs): (Vec<TensorProto>, Vec<TensorProto>) = (tensors(a), tensors(b));
        let graphs = |attribute: &AttributeProto| {
            let all = attribute.g.iter().chain(&attribute.graphs);
            let sizes = all.map(|g| (g.input.len(), g.output.len(), kinds(&g.input), g.quantization_annotation.len()));
            (attribute.g.is_some(), sizes.collect::<Vec<_>>())
        };
        // Compared as it is printed: NaN is NaN there.
        let rest = |attribute: &AttributeProto| {
            let rest = AttributeProto {
                doc_string: None,
                t: None,
                tensors: Vec::new(),
                g: None,
                graphs: Vec::new(),
                ..attribute.clone()
            };
            format!("{rest:?}")
        };
        a.t.is_some() == b.t.is_some()
            && ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(a, b)| same_tensor(a, b, self.models))
            && graphs(a) == graphs(b)
            && rest(a) == rest(b)
    }

    /// What is behind the inputs of two nodes, and in their bodies.
    fn inside(&mut self, places: &[NodePath; 2]) {
        let [a, b] = [0, 1].map(|side| self.models[side].node(&places[side].0, places[side].1));
        for (input, name) in a.input.iter().enumerate() {
            let other = b.input.get(input).map_or("", String::as_str);
            let apart = is_weight(a, input) && (self.elsewhere)(&places[0], &places[1], input);
            if name.is_empty() || other.is_empty() || apart {
                continue;
            }
            self.open.push_back(Edge {
                reader: Reader::Node(places[0].clone(), input),
                names: [(places[0].0.clone(), name.clone()), (places[1].0.clone(), other.to_owned())],
            });
        }
        let inner = |side: usize, attribute: usize, graph: Option<usize>| {
            places[side].0.child(Step { node: places[side].1, attribute, graph })
        };
        let mut matched = Vec::new();
        for (attribute, graph, _) in bodies(a) {
            let name = a.attribute[attribute].name();
            let other = b.attribute.iter().position(|other| other.name() == name).expect("attributes were compared");
            matched.push((inner(0, attribute, graph), inner(1, other, graph)));
        }
        for (ours, theirs) in matched {
            self.scopes.insert(ours.clone(), theirs.clone());
            self.outputs(&ours, &theirs);
        }
    }

    fn differs(&mut self, edge: &Edge, maker: Option<NodePath>) {
        match &edge.reader {
            Reader::Node(place, input) => {
                let weight = is_weight(self.models[0].node(&place.0, place.1), *input);
                self.found.changes.add(&place.0, place.1, if weight { Flow::Elements } else { Flow::Shape });
            }
            Reader::Output(place) => {
                self.found.changes.outputs.insert(place.clone());
            }
        }
        self.mismatches.push(Mismatch { reader: edge.reader.clone(), maker });
    }

    fn note(&mut self, place: &NodePath, flow: Flow) {
        self.found.changes.add(&place.0, place.1, flow);
        self.name(place);
    }

    /// Notes the name of a node that differs.
    fn name(&mut self, place: &NodePath) {
        let name = plain_name(self.models[0].node(&place.0, place.1), place.1);
        self.found.nodes.entry(place.clone()).or_insert(name);
    }

    /// Says which nodes differ: those that have no partner, and where that is not so, those that read another value.
    fn finished(mut self) -> Differences {
        for Mismatch { reader, maker } in std::mem::take(&mut self.mismatches) {
            let alone = maker.filter(|place| !self.partners[0].contains_key(place));
            match (alone, reader) {
                (Some(place), _) | (None, Reader::Node(place, _)) => self.name(&place),
                (None, Reader::Output(place)) => {
                    let output = self.models[0].graph(&place.0).output[place.1].name().to_owned();
                    self.found.outputs.insert(output);
                }
            }
        }
        self.found
    }
}

/// LSTM or GRU of the standard domain.
pub fn cell(node: &NodeProto) -> Option<Cell> {
    Cell::of_operator(node.op_type()).filter(|_| is_standard(node.domain()))
}

/// Whether an input of a node is W, R or B of a recurrent node: its shape follows from the attributes.
fn is_weight(node: &NodeProto, input: usize) -> bool {
    cell(node).is_some() && (Matrix::BOTH.iter().any(|m| m.input() == input) || input == BIAS)
}

/// The standard domain has two names.
fn domain(domain: &str) -> &str {
    if is_standard(domain) { "" } else { domain }
}

/// Without the absent ones at the end.
fn trimmed(names: &[String]) -> &[String] {
    let end = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    &names[..end]
}

fn present(names: &[String]) -> Vec<bool> {
    names.iter().map(|name| !name.is_empty()).collect()
}

/// A node without what names and documents it, and without what is compared apart.
fn plain(node: &NodeProto) -> NodeProto {
    NodeProto {
        name: None,
        doc_string: None,
        domain: Some(domain(node.domain()).to_owned()),
        input: Vec::new(),
        output: Vec::new(),
        attribute: Vec::new(),
        metadata_props: Vec::new(),
        overload: Some(node.overload().to_owned()),
        op_type: Some(node.op_type().to_owned()),
        device_configurations: Vec::new(),
    }
}

/// A constant as it is stored.
enum Literal<'m> {
    Tensor(&'m TensorProto),
    /// What a few nodes give.
    Restored(Box<TensorProto>),
    Sparse(&'m SparseTensorProto),
    /// A number, string or list that is the attribute of a Constant node.
    Attribute(&'m AttributeProto),
}

impl Literal<'_> {
    fn tensor(&self) -> Option<&TensorProto> {
        match self {
            Literal::Tensor(tensor) => Some(tensor),
            Literal::Restored(tensor) => Some(tensor),
            _ => None,
        }
    }

    fn is(&self, other: &Literal<'_>, models: [&Model; 2]) -> bool {
        if let (Some(a), Some(b)) = (self.tensor(), other.tensor()) {
            return same_tensor(a, b, models);
        }
        match (self, other) {
            (Literal::Sparse(a), Literal::Sparse(b)) => {
                let same = |a: &Option<TensorProto>, b: &Option<TensorProto>| match (a, b) {
                    (Some(a), Some(b)) => same_tensor(a, b, models),
                    (None, None) => true,
                    _ => false,
                };
                a.dims == b.dims && same(&a.values, &b.values) && same(&a.indices, &b.indices)
            }
            (Literal::Attribute(a), Literal::Attribute(b)) => format!("{a:?}") == format!("{b:?}"),
            _ => false,
        }
    }
}

/// The constant that a definition is, if it is one.
fn constant<'m>(model: &'m Model, definition: &Definition) -> Option<Literal<'m>> {
    let graph = model.graph(&definition.scope);
    match definition.origin {
        Origin::Initializer(index) => graph.initializer.get(index).map(Literal::Tensor),
        Origin::SparseInitializer(index) => graph.sparse_initializer.get(index).map(Literal::Sparse),
        Origin::Node { node, .. } => {
            let node = graph.node.get(node).filter(|n| n.op_type() == "Constant" && is_standard(n.domain()))?;
            let [value] = &node.attribute[..] else { return None };
            match (value.name(), &value.t, &value.sparse_tensor) {
                ("value", Some(tensor), _) => Some(Literal::Tensor(tensor)),
                ("sparse_value", _, Some(tensor)) => Some(Literal::Sparse(tensor)),
                _ => Some(Literal::Attribute(value)),
            }
        }
        Origin::Input(_) => None,
    }
}

/// Whether the caller may give another value than the one that is stored.
fn is_open(model: &Model, definition: &Definition) -> bool {
    definition.is_input && definition.scope.is_root() && model.ir_version() >= 4
}

/// Whether two stored tensors are equal bit for bit, wherever they are stored.
fn same_tensor(a: &TensorProto, b: &TensorProto, models: [&Model; 2]) -> bool {
    if a.data_type() != b.data_type() || a.dims != b.dims {
        return false;
    }
    match (models[0].payload(a), models[1].payload(b)) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        // Of a type that is not read as bytes, such as strings.
        _ => {
            let nameless =
                |tensor: &TensorProto| format!("{:?}", TensorProto { name: None, doc_string: None, ..tensor.clone() });
            nameless(a) == nameless(b)
        }
    }
}

fn kinds(inputs: &[ValueInfoProto]) -> Vec<Option<TypeProto>> {
    inputs.iter().map(|input| input.r#type.clone()).collect()
}
