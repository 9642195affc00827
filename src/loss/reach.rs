//! Which outputs of a model depend on given nodes: data flow through all graphs of the model.
//!
//! An output that depends on nothing that was changed is the same whatever was changed: to judge it says nothing. What
//! flows is told apart by [`Flow`]: `Shape` and `Size` read no element, so that values that pass through them are lost,
//! unless the values decide a shape on the way (the indices that NonZero gives, a length computed from an output).
//!
//! If, Loop and Scan are followed output by output, through their bodies and what these capture. Where an operator is not
//! known, all its outputs depend on all its inputs. A state that the caller hands back ([`Carry`]) is followed too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine;
use crate::error::Result;
use crate::onnx::graph::{bodies, is_standard};
use crate::onnx::{Model, NodeProto, Scope, Step, Use, Values};
use crate::samples::Carry;

/// What of a value is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// Its elements, not its shape.
    Elements,
    /// Its elements and its shape.
    Shape,
}

/// What is changed in a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes whose outputs are changed.
    pub nodes: BTreeMap<(Scope, usize), Flow>,
    /// Outputs of graphs that are taken from another value than before, by their index.
    pub outputs: BTreeSet<(Scope, usize)>,
}

impl Changes {
    /// Nodes that compute other values, of the shape that they had.
    pub fn of_elements(nodes: impl IntoIterator<Item = (Scope, usize)>) -> Changes {
        let nodes = nodes.into_iter().map(|node| (node, Flow::Elements)).collect();
        Changes { nodes, outputs: BTreeSet::new() }
    }

    /// Adds a node.
    pub fn add(&mut self, scope: &Scope, node: usize, flow: Flow) {
        let known = self.nodes.entry((scope.clone(), node)).or_insert(flow);
        *known = flow.max(*known);
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.outputs.is_empty()
    }
}

/// The outputs of a model that depend on what is changed, those that are fed back among them.
///
/// # Errors
/// Those of [`Values::new`].
pub fn outputs(model: &Model, changes: &Changes, carry: &[Carry]) -> Result<BTreeSet<String>> {
    let mut spread = Spread::new(model, carry)?;
    for ((scope, node), flow) in &changes.nodes {
        spread.all_outputs(scope, *node, *flow);
    }
    for (scope, index) in &changes.outputs {
        spread.graph_output(scope, *index, Flow::Shape);
    }
    Ok(spread.finished())
}

/// The outputs of a model that depend on what it is given: on its inputs, or on what is drawn at random. The others are
/// constants, whatever way they are computed.
///
/// # Errors
/// Those of [`Values::new`].
pub fn variable(model: &Model) -> Result<BTreeSet<String>> {
    let mut spread = Spread::new(model, &[])?;
    let Some(graph) = &model.proto.graph else { return Ok(BTreeSet::new()) };
    for input in graph.input.iter().filter(|input| graph.initializer.iter().all(|t| t.name() != input.name())) {
        spread.value(&Scope::root(), input.name(), Flow::Shape);
    }
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            if engine::is_random(node.op_type()) {
                spread.all_outputs(&scope, index, Flow::Elements);
            }
        }
    }
    Ok(spread.finished())
}

struct Spread<'m> {
    model: &'m Model,
    values: Values<'m>,
    carry: &'m [Carry],
    /// What flows in a value, by the graph that defines it.
    known: HashMap<(Scope, String), Flow>,
    open: Vec<(Scope, String)>,
    reached: BTreeSet<String>,
}

impl<'m> Spread<'m> {
    fn new(model: &'m Model, carry: &'m [Carry]) -> Result<Self> {
        let values = Values::new(&model.proto)?;
        Ok(Spread { model, values, carry, known: HashMap::new(), open: Vec::new(), reached: BTreeSet::new() })
    }

    /// Follows everything to its end.
    fn finished(mut self) -> BTreeSet<String> {
        while let Some((scope, name)) = self.open.pop() {
            self.follow(&scope, &name);
        }
        self.reached
    }

    /// A value as seen from a scope.
    fn value(&mut self, scope: &Scope, name: &str, flow: Flow) {
        let Some(definition) = self.values.resolve(scope, name) else { return };
        let key = (definition.scope.clone(), name.to_owned());
        if self.known.get(&key).is_none_or(|known| *known < flow) {
            self.known.insert(key.clone(), flow);
            self.open.push(key);
        }
    }

    fn output(&mut self, scope: &Scope, node: usize, output: usize, flow: Flow) {
        let name = self.model.node(scope, node).output.get(output).filter(|name| !name.is_empty());
        if let Some(name) = name.cloned() {
            self.value(scope, &name, flow);
        }
    }

    fn all_outputs(&mut self, scope: &Scope, node: usize, flow: Flow) {
        (0..self.model.node(scope, node).output.len()).for_each(|output| self.output(scope, node, output, flow));
    }

    /// The formal input of every body of a node.
    fn body_input(&mut self, scope: &Scope, node: usize, input: usize, flow: Flow) {
        let inner = bodies(self.model.node(scope, node)).map(|(attribute, graph, body)| {
            (scope.child(Step { node, attribute, graph }), body.input.get(input).map(|input| input.name().to_owned()))
        });
        for (scope, name) in inner.collect::<Vec<_>>() {
            if let Some(name) = name {
                self.value(&scope, &name, flow);
            }
        }
    }

    fn follow(&mut self, scope: &Scope, name: &str) {
        let flow = self.known[&(scope.clone(), name.to_owned())];
        for used in self.values.uses(scope, name).to_vec() {
            match used {
                Use::Node { scope, node, input } => self.enter_node(&scope, node, input, flow),
                Use::Output { scope, index } => self.graph_output(&scope, index, flow),
                Use::Training => {}
            }
        }
    }

    /// What an input of a node makes of its outputs and bodies.
    fn enter_node(&mut self, scope: &Scope, index: usize, input: usize, flow: Flow) {
        let node = self.model.node(scope, index);
        match node.op_type() {
            "If" if is_standard(node.domain()) => self.all_outputs(scope, index, Flow::Shape),
            // How often it runs, and whether.
            "Loop" if is_standard(node.domain()) && input < 2 => self.all_outputs(scope, index, Flow::Shape),
            "Loop" if is_standard(node.domain()) => {
                self.body_input(scope, index, input, flow);
                self.output(scope, index, input - 2, flow);
            }
            "Scan" if is_standard(node.domain()) => match scan_states(node) {
                Some(states) => {
                    self.body_input(scope, index, input, flow);
                    if input < states {
                        self.output(scope, index, input, flow);
                    } else if flow == Flow::Shape {
                        self.all_outputs(scope, index, flow);
                    }
                }
                None => self.all_of_it(scope, index),
            },
            _ if bodies(node).next().is_some() => self.all_of_it(scope, index),
            _ => {
                if let Some(flow) = through(node, input, flow) {
                    self.all_outputs(scope, index, flow);
                }
            }
        }
    }

    /// All outputs of a node, and all inputs of its bodies.
    fn all_of_it(&mut self, scope: &Scope, index: usize) {
        let most = bodies(self.model.node(scope, index)).map(|(_, _, body)| body.input.len()).max().unwrap_or(0);
        (0..most).for_each(|input| self.body_input(scope, index, input, Flow::Shape));
        self.all_outputs(scope, index, Flow::Shape);
    }

    /// What an output of a graph makes of the node that the graph is a body of.
    fn graph_output(&mut self, scope: &Scope, output: usize, flow: Flow) {
        let (Some(around), Some(step)) = (scope.parent(), scope.steps().last().copied()) else {
            return self.model_output(output, flow);
        };
        let node = self.model.node(&around, step.node);
        match node.op_type() {
            "If" if is_standard(node.domain()) => self.output(&around, step.node, output, flow),
            // Whether it goes on.
            "Loop" if is_standard(node.domain()) && output == 0 => self.all_outputs(&around, step.node, Flow::Shape),
            "Loop" if is_standard(node.domain()) => {
                self.output(&around, step.node, output - 1, flow);
                if output + 2 <= node.input.len() {
                    self.body_input(&around, step.node, output + 1, flow);
                }
            }
            "Scan" if is_standard(node.domain()) => match scan_states(node) {
                Some(states) => {
                    self.output(&around, step.node, output, flow);
                    if output < states {
                        self.body_input(&around, step.node, output, flow);
                    }
                }
                None => self.all_of_it(&around, step.node),
            },
            _ => self.all_of_it(&around, step.node),
        }
    }

    fn model_output(&mut self, output: usize, flow: Flow) {
        let Some(info) = self.model.graph(&Scope::root()).output.get(output) else { return };
        let name = info.name().to_owned();
        let carried: Vec<&str> =
            self.carry.iter().filter(|carry| carry.output == name).map(|carry| carry.input.as_str()).collect();
        for input in carried {
            self.value(&Scope::root(), input, flow);
        }
        self.reached.insert(name);
    }
}

/// How many of a Scan's inputs are states; none for the form of opset 8, which has another input in front.
fn scan_states(node: &NodeProto) -> Option<usize> {
    let scanned = node.attribute.iter().find(|a| a.name() == "num_scan_inputs")?.i();
    let body = bodies(node).next()?.2;
    let inputs = node.input.len();
    (body.input.len() == inputs).then_some(())?;
    // A negative count is not understood: the caller then takes everything to be reached.
    inputs.checked_sub(usize::try_from(scanned).ok()?)
}

/// What an input of an operator without bodies makes of its outputs.
fn through(node: &NodeProto, input: usize, flow: Flow) -> Option<Flow> {
    if !is_standard(node.domain()) {
        return Some(Flow::Shape);
    }
    let decides_shape = match node.op_type() {
        // These read a shape and nothing else.
        "Shape" | "Size" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => {
            return (flow == Flow::Shape).then_some(flow);
        }
        // How many elements they give depends on the elements that they are given.
        "NonZero" | "Compress" | "Unique" | "NonMaxSuppression" | "ConstantOfShape" | "Range" | "StringSplit" => true,
        op if op.contains("Sequence") && op != "ReverseSequence" || op.starts_with("Optional") => true,
        // These take a size, or places that make one, behind what they work on.
        "Reshape" | "Expand" | "Tile" | "Pad" | "Slice" | "Resize" | "Upsample" | "TopK" | "Split" | "Unsqueeze"
        | "Squeeze" | "OneHot" | "CenterCropPad" | "Col2Im" | "MaxUnpool" | "DFT" | "STFT" | "AffineGrid" => input > 0,
        op if op.starts_with("Reduce") => input > 0,
        // W, R and B: their shapes follow from the attributes.
        "LSTM" | "GRU" | "RNN" if (1..=3).contains(&input) => return Some(Flow::Elements),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix" => true,
        _ => false,
    };
    Some(if decides_shape { Flow::Shape } else { flow })
}
