//! Values inside a model that a run shows, and constants that a run takes from the caller.
//!
//! Both work on any value of any graph of the model (the bodies of If, Loop and Scan too), and need no code for the
//! operators around it. They are planted in the copy of the model that tract reads: a tapped value passes through an
//! operator that records it, a constant that may be replaced is the output of an operator without inputs. tract can fold
//! neither, so a constant whose *value* decides a shape cannot be one of them.

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::kernel::{Facts, Kernel, Known, own};
use super::{recorder, value};
use crate::error::{Error, ErrorKind, Result as Outcome};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{
    AttributeProto, ElementType, GraphProto, Model, ModelProto, Names, NodeInput, NodeProto, Origin, Scope,
    TensorProto, Values, graph,
};
use crate::samples::Tensor as Sample;

/// The operators, by names that no node of a model can have when they are read.
const TAP: &str = "dirnet.Tap";
const GIVEN: &str = "dirnet.Given";
/// Attributes: the number of a probe, and the element type and shape of a constant.
const NUMBER: &str = "number";
const ELEMENT: &str = "element";
const SHAPE: &str = "shape";

/// A value of a model, by its name as it is seen from a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueRef {
    /// The graph.
    pub scope: Scope,
    /// The name.
    pub name: String,
}

/// A value that runs show, by its place in [`Probes::taps`], or behind those in [`Probes::inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TapId(pub usize);

/// A constant that may be replaced, by its place in [`Probes::constants`], or behind those in [`Probes::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConstantId(pub usize);

/// What an engine shows of a model, and what it lets a caller replace.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// Values that runs show, in the order in which they are computed; not those that callers of the model give.
    pub taps: Vec<ValueRef>,
    /// Initializers that a run may have another tensor for, of the same element type and shape.
    pub constants: Vec<ValueRef>,
    /// Inputs of nodes that runs show, as these nodes read them.
    pub inputs: Vec<NodeInput>,
    /// Inputs of nodes that a run may have another tensor for, each with its value: for those that are computed from
    /// constants too.
    pub weights: Vec<(NodeInput, TensorProto)>,
}

/// A tensor for a run to take as a constant.
#[derive(Clone, Debug)]
pub struct Constant(Arc<Tensor>);

impl From<&Sample> for Constant {
    fn from(tensor: &Sample) -> Self {
        Constant(value::to_tract(tensor).into())
    }
}

impl Constant {
    pub(super) fn value(&self) -> TValue {
        self.0.clone().into_tvalue()
    }
}

/// Probes in a model, by the name of the value that the node reads which becomes one.
#[derive(Clone, Debug, Default)]
pub(super) struct Planted(HashMap<String, Kind>);

#[derive(Clone, Debug)]
enum Kind {
    Tap(usize),
    Given { number: usize, element: ElementType, shape: Vec<usize> },
}

/// Plants probes in a model as nodes that do nothing, and returns the values of its constants.
///
/// # Errors
/// [`ErrorKind::Usage`] for a value that the model does not have, or that cannot be probed.
pub(super) fn plant(model: &Model, probes: &Probes) -> Outcome<(Model, Planted, Vec<Constant>)> {
    let values = Values::new(&model.proto)?;
    let mut names = Names::new(&model.proto);
    let mut planted = Planted::default();
    let mut edits: Vec<Edit> = Vec::new();
    let mut defaults = Vec::new();
    let all = probes.taps.iter().map(|probe| (probe, true)).enumerate();
    let constants = probes.constants.iter().map(|probe| (probe, false)).enumerate();
    for (number, (probe, is_tap)) in all.chain(constants) {
        let refuse = |why: &str| Error::new(ErrorKind::Usage, why.to_owned()).at_tensor(&probe.name);
        let definition =
            values.resolve(&probe.scope, &probe.name).ok_or_else(|| refuse("the model has no such value"))?;
        match (is_tap, definition.origin) {
            (true, Origin::Initializer(_) | Origin::SparseInitializer(_)) => {
                return Err(refuse("it is a constant, which runs need not show"));
            }
            (true, Origin::Input(_)) if definition.scope == Scope::root() => {
                return Err(refuse("it is an input of the model, which the caller gives"));
            }
            (true, _) => {}
            (false, Origin::Initializer(_)) if !definition.is_input => {
                let tensor = model.initializer(definition).expect("it was resolved to one");
                defaults.push(Sample::stored(model, tensor)?);
            }
            (false, _) => return Err(refuse("it is no initializer of the model's own")),
        }
        let renamed = Target::Value(definition.origin);
        if edits.iter().any(|edit| (&edit.scope, &edit.target) == (&definition.scope, &renamed)) {
            return Err(refuse("it is probed twice"));
        }
        let hidden = names.fresh(&probe.name);
        let kind = match (is_tap, defaults.last()) {
            (false, Some(tensor)) => Kind::Given { number, element: tensor.element(), shape: tensor.shape().to_vec() },
            _ => Kind::Tap(number),
        };
        planted.0.insert(hidden.clone(), kind);
        let scope = definition.scope.clone();
        edits.push(Edit {
            scope,
            target: renamed,
            hidden,
            shown: probe.name.clone(),
            read: String::new(),
            tensor: None,
        });
    }
    let inputs = probes.inputs.iter().map(|input| (input, None)).enumerate();
    let weights = probes.weights.iter().map(|(input, tensor)| (input, Some(tensor))).enumerate();
    for (number, (of, tensor)) in inputs.chain(weights) {
        let name = model.node(&of.scope, of.node).input.get(of.input).filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Error::new(ErrorKind::Usage, "a probe of an input that the node does not have"))?;
        let shown = names.fresh(name);
        // A tap passes on the value; what is given has a name that only its own node reads.
        let hidden = if tensor.is_some() { names.fresh(name) } else { names.fresh(&shown) };
        let kind = match tensor {
            None => Kind::Tap(probes.taps.len() + number),
            Some(tensor) => {
                let value = Sample::stored(model, tensor)?;
                let (element, shape) = (value.element(), value.shape().to_vec());
                defaults.push(value);
                Kind::Given { number: probes.constants.len() + number, element, shape }
            }
        };
        planted.0.insert(hidden.clone(), kind);
        let target = Target::Input { node: of.node, input: of.input };
        edits.push(Edit {
            scope: of.scope.clone(),
            target,
            hidden,
            shown,
            read: String::new(),
            tensor: tensor.cloned(),
        });
    }
    let defaults = defaults.iter().map(Constant::from).collect();
    let mut probed = model.clone();
    // The last nodes of a graph first, so that the places of the others stay.
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.target.place()));
    // Inner graphs first: the path to them is made of indices of the outer ones.
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.scope.steps().len()));
    // Names first, while nodes are where they were.
    for edit in &mut edits {
        let graph = graph::at_mut(&mut probed.proto, &edit.scope).expect("the value was found in it");
        edit.rename(graph);
    }
    for edit in edits {
        let graph = graph::at_mut(&mut probed.proto, &edit.scope).expect("the value was found in it");
        edit.insert(graph);
    }
    Ok((probed, planted, defaults))
}

/// The node of a probe, and where it goes.
struct Edit {
    scope: Scope,
    target: Target,
    /// What the node reads.
    hidden: String,
    /// What it gives.
    shown: String,
    /// What the node of an input read before.
    read: String,
    /// The constant that it reads, if the graph does not have it.
    tensor: Option<TensorProto>,
}

#[derive(PartialEq)]
enum Target {
    /// All that read a value.
    Value(Origin),
    /// One input of one node.
    Input { node: usize, input: usize },
}

impl Target {
    /// The index of the first node that may read it.
    fn place(&self) -> usize {
        match *self {
            Target::Value(origin) => place(origin),
            Target::Input { node, .. } => node,
        }
    }
}

impl Edit {
    /// Has the probe stand between a value and those that read it.
    fn rename(&mut self, graph: &mut GraphProto) {
        match self.target {
            Target::Value(origin) => rename(graph, origin, &self.hidden),
            Target::Input { node, input } => {
                self.read = std::mem::replace(&mut graph.node[node].input[input], self.shown.clone());
            }
        }
    }

    fn insert(self, graph: &mut GraphProto) {
        let Edit { target, hidden, shown, read, tensor, .. } = self;
        let place = target.place();
        let after = if tensor.is_none() && !read.is_empty() { place + 1 } else { place };
        match (target, tensor) {
            (Target::Value(_), _) => {}
            (_, Some(tensor)) => graph.initializer.push(TensorProto { name: Some(hidden.clone()), ..tensor }),
            // The probe is known by the name of what it reads, which others may read as well.
            (_, None) => graph.node.insert(place, identity(&read, &hidden)),
        }
        graph.node.insert(after, identity(&hidden, &shown));
    }
}

/// The index of the first node that may read a value.
fn place(origin: Origin) -> usize {
    match origin {
        Origin::Node { node, .. } => node + 1,
        Origin::Initializer(_) | Origin::SparseInitializer(_) | Origin::Input(_) => 0,
    }
}

fn rename(graph: &mut GraphProto, origin: Origin, name: &str) {
    match origin {
        Origin::Node { node, output } => graph.node[node].output[output] = name.to_owned(),
        Origin::Input(input) => graph.input[input].name = Some(name.to_owned()),
        Origin::Initializer(index) => graph.initializer[index].name = Some(name.to_owned()),
        Origin::SparseInitializer(_) => {}
    }
}

fn identity(input: &str, output: &str) -> NodeProto {
    NodeProto {
        op_type: Some("Identity".to_owned()),
        name: Some(output.to_owned()),
        input: vec![input.to_owned()],
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

impl Planted {
    /// Makes probes of the nodes that were planted, once the model's own operators were checked.
    pub(super) fn activate(&self, model: &mut ModelProto) {
        if let Some(graph) = &mut model.graph {
            self.in_graph(graph);
        }
    }

    fn in_graph(&self, graph: &mut GraphProto) {
        let mut replaced = Vec::new();
        for node in &mut graph.node {
            for attribute in &mut node.attribute {
                attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| self.in_graph(body));
            }
            let [input] = &node.input[..] else { continue };
            let Some(kind) = self.0.get(input) else { continue };
            match kind {
                Kind::Tap(number) => {
                    node.op_type = Some(TAP.to_owned());
                    node.attribute = vec![ints(NUMBER, [*number])];
                }
                Kind::Given { number, element, shape } => {
                    node.op_type = Some(GIVEN.to_owned());
                    replaced.append(&mut node.input);
                    node.attribute = vec![
                        ints(NUMBER, [*number]),
                        ints(ELEMENT, [*element as usize]),
                        ints(SHAPE, shape.iter().copied()),
                    ];
                }
            }
        }
        graph.initializer.retain(|tensor| !replaced.iter().any(|name| name == tensor.name()));
    }
}

fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.into_iter().map(|value| value as i64).collect(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}

/// Puts the operators among tract's.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert(TAP, tap);
    operators.insert(GIVEN, given);
}

fn sizes(node: &pb::NodeProto, name: &str) -> TractResult<TVec<usize>> {
    node.get_attr_tvec::<usize>(name)
}

fn tap(_: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((own(TapKernel { number: sizes(node, NUMBER)?[0] }), vec![]))
}

fn given(_: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let element = ElementType::try_from(sizes(node, ELEMENT)?[0] as i32)?;
    let sample = Sample::zeros(element, &[]).context("no tensor of this element type can be given")?;
    let shape = node.get_attr_opt_tvec::<usize>(SHAPE)?.unwrap_or_default();
    Ok((own(GivenKernel { number: sizes(node, NUMBER)?[0], datum_type: value::datum_type(&sample), shape }), vec![]))
}

#[derive(Clone, Debug)]
struct TapKernel {
    number: usize,
}

impl Kernel for TapKernel {
    fn name(&self) -> &'static str {
        "Tap"
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        Ok(Some(tvec![(inputs[0].datum_type, inputs[0].shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        Ok(tvec![inputs[0].clone().into_tensor()])
    }

    fn values(&self, inputs: &[TValue]) -> TractResult<TVec<TValue>> {
        if recorder::records() {
            recorder::record_value(self.number, value::from_tract(&inputs[0])?);
        }
        Ok(tvec![inputs[0].clone()])
    }
}

#[derive(Clone, Debug)]
struct GivenKernel {
    number: usize,
    datum_type: DatumType,
    shape: TVec<usize>,
}

impl Kernel for GivenKernel {
    fn name(&self) -> &'static str {
        "Given"
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn facts(&self, _inputs: &[Known]) -> TractResult<Option<Facts>> {
        Ok(Some(tvec![(self.datum_type, self.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        Ok(self.values(inputs)?.into_iter().map(TValue::into_tensor).collect())
    }

    fn values(&self, _inputs: &[TValue]) -> TractResult<TVec<TValue>> {
        let given = recorder::constant(self.number).context("the constant was not planted")?.value();
        ensure!(
            given.datum_type() == self.datum_type && given.shape() == &*self.shape,
            "a tensor of {:?} {:?} for a constant of {:?} {:?}",
            given.datum_type(),
            given.shape(),
            self.datum_type,
            self.shape
        );
        Ok(tvec![given])
    }
}
