//! Models planned by tract for concrete shapes, kept for the next feed of the same shapes.

use super::guard::{self, call};
use super::probe::Planted;
use super::{
    Outputs, branch, cell_of, cut, dimension, domain, draw, error, exact, fold, inline, lost, lower, operator, probe,
    repeat, standard, value,
};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::bodies;
use crate::onnx::proto::ValueInfoProto;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, ElementType, GraphProto, LoadOptions, Model, ModelProto, NodeProto};
use crate::recurrent::Cell;
use crate::samples::{Feed, Tensor, signature};
use prost::Message;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, TractResult,
    TypedModel, TypedRunnableModel,
};
use tract_onnx::tract_hir::internal::OutletId;
use tract_onnx::tract_hir::tract_core::ops::konst::Const;

/// Bytes of plans that are kept: samples of many shapes (sentences, say) are run again and again. A plan is taken to be
/// as large as the model.
const KEPT_BYTES: usize = 512 << 20;

/// How many plans are kept at least, whatever their size, and at most.
const KEPT: (usize, usize) = (2, 128);

/// Integers that an input may have to be baked into a plan. Each feed of other values is planned anew.
const BAKED: usize = 4096;

/// Type and shape of each input of the model, and the value of those that are baked into the plan.
type Key = Vec<(DatumType, Vec<usize>, Option<Tensor>)>;

/// Which values of a feed are baked into a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Baked {
    /// Integers and flags that are single numbers, in a model with branches.
    Choices,
    /// Integers and flags, such as lengths of sequences and sizes.
    Integers,
}

impl Baked {
    fn takes(self, tensor: &Tensor) -> bool {
        let small = match self {
            Baked::Choices => tensor.len() == 1 && tensor.shape().len() < 2,
            Baked::Integers => tensor.len() <= BAKED,
        };
        small && !tensor.is_float()
    }
}

/// A plan, or why there is none, made by whoever needs it first while the others wait.
type Slot = Arc<OnceLock<Result<Arc<Plan>>>>;

/// A model as tract parsed it, and its plans.
pub(super) struct Plans {
    parsed: InferenceModel,
    inputs: Vec<String>,
    /// Inputs of the model that what is run does not need.
    unused: HashSet<String>,
    /// Inputs of element types that nothing can be drawn for.
    undrawn: HashMap<String, &'static str>,
    outputs: Vec<String>,
    /// The model has branches: integers and flags that are single numbers are taken for constants, so that the branch
    /// that they choose is planned and optimised like the rest.
    branches: bool,
    /// Some operator draws random numbers.
    pub(super) draws: bool,
    kept: usize,
    recent: Mutex<VecDeque<(Key, Slot)>>,
}

/// A model planned for one set of input shapes.
pub(super) struct Plan {
    runnable: Arc<TypedRunnableModel>,
    /// The inputs that are not baked in.
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Plans {
    /// Plans of the model; of the part of it that makes `outputs`, values of its graph, where those are given.
    pub(super) fn new(model: &Model, outputs: Option<&[String]>, planted: &Planted) -> Result<Plans> {
        guard::check_constants(model)?;
        let (mut copy, unused) = prepared(model, outputs)?;
        planted.activate(&mut copy);
        lower::lower(&mut copy);
        let graph = copy.graph.as_ref().ok_or_else(|| error("the model has no graph"))?;
        let outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let branches = graph.node.iter().any(|node| node.op_type() == "If");
        let draws = draws(graph);
        let undrawn = graph.input.iter().filter_map(undrawn).collect();
        if copy.encoded_len() as u64 > limits::PROTOBUF_BYTES {
            return Err(Error::new(ErrorKind::Limit, "with its functions inlined the model exceeds 2 GiB"));
        }
        let bytes = copy.encode_to_vec();
        let size = bytes.len();
        drop(copy);
        let mut tract = tract_onnx::onnx().with_ignore_value_info(true);
        Cell::ALL.iter().for_each(|cell| tract.op_register.insert(cell.operator(), operator::recurrent));
        tract.op_register.insert("DynamicQuantizeLSTM", operator::quantized_lstm);
        tract.op_register.insert("If", branch::read);
        tract.op_register.insert("Loop", repeat::read);
        dimension::register(&mut tract.op_register);
        draw::register(&mut tract.op_register);
        standard::register(&mut tract.op_register);
        probe::register(&mut tract.op_register);
        // Not `model_for_read`, which copies the bytes once more and keeps them.
        let messages = call("reading the model", || Ok(tract_onnx::pb::ModelProto::decode(&*bytes)?))?;
        drop(bytes);
        let mut parsed = call("reading the model", || tract.model_for_proto_model(&messages))?;
        drop(messages);
        call("reading the model", || fold::constants(&mut parsed))?;
        let inputs = parsed.inputs.iter().map(|outlet| parsed.nodes[outlet.node].name.clone()).collect();
        let kept = (KEPT_BYTES / size.max(1)).clamp(KEPT.0, KEPT.1);
        Ok(Plans { parsed, inputs, unused, undrawn, outputs, branches, draws, kept, recent: Mutex::default() })
    }

    /// Runs `work` with the plan for a feed. Where the model cannot be planned or run, because a shape shows only when it
    /// runs, it is planned for the integers of the feed too.
    pub(super) fn with<T>(&self, feed: &Feed, work: impl Fn(&Plan) -> Result<T>) -> Result<T> {
        let run = |baked: Baked| self.for_feed(feed, baked).and_then(|plan| work(&plan));
        // For each feed by itself, so that its result does not depend on what ran before.
        match run(Baked::Choices) {
            Err(error) if error.kind() == ErrorKind::Engine && self.can_bake(feed) => {
                run(Baked::Integers).map_err(|_| error)
            }
            other => other,
        }
    }

    /// Whether a feed holds integers that are not baked in anyway.
    fn can_bake(&self, feed: &Feed) -> bool {
        let is_new =
            |tensor: &Tensor| Baked::Integers.takes(tensor) && !(self.branches && Baked::Choices.takes(tensor));
        feed.iter().any(|(name, tensor)| self.inputs.contains(name) && is_new(tensor))
    }

    /// The plan for the shapes of a feed, and for some of its values.
    fn for_feed(&self, feed: &Feed, baked: Baked) -> Result<Arc<Plan>> {
        let key = self.key(feed, baked)?;
        // The lock is held for the look-up only: threads with feeds of other shapes need not wait for a plan.
        let slot = self.slot(&key);
        slot.get_or_init(|| self.plan(&key).map(Arc::new)).clone()
    }

    fn slot(&self, key: &Key) -> Slot {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let found = recent.iter().position(|(k, _)| k == key).and_then(|at| recent.remove(at));
        let (key, slot) = found.unwrap_or_else(|| (key.clone(), Slot::default()));
        recent.push_front((key, slot.clone()));
        recent.truncate(self.kept);
        slot
    }

    fn key(&self, feed: &Feed, baked: Baked) -> Result<Key> {
        let is_unknown = |name: &&String| !self.inputs.contains(name) && !self.unused.contains(*name);
        if let Some(name) = feed.keys().find(is_unknown) {
            return Err(samples(format!("not an input of the model; its inputs are {}", self.inputs.join(", ")))
                .at_tensor(name));
        }
        let one = |name: &String| {
            let tensor = feed.get(name).ok_or_else(|| self.missing(name))?;
            let is_baked = baked.takes(tensor) && (self.branches || baked == Baked::Integers);
            Ok((value::datum_type(tensor), tensor.shape().to_vec(), is_baked.then(|| tensor.clone())))
        };
        self.inputs.iter().map(one).collect()
    }

    /// There is no value for an input.
    fn missing(&self, name: &str) -> Error {
        match self.undrawn.get(name) {
            // Nobody gave samples: the model cannot be run without.
            Some(element) => {
                error(format!("cannot be run: nothing can be drawn for element type {element}: give samples"))
            }
            None => samples("the samples hold no value for this input"),
        }
        .at_tensor(name)
    }

    fn plan(&self, key: &Key) -> Result<Plan> {
        let mut model = self.parsed.clone();
        let mut free = Vec::new();
        let mut names = Vec::new();
        for ((&outlet, name), (datum_type, shape, baked)) in self.parsed.inputs.iter().zip(&self.inputs).zip(key) {
            match baked {
                Some(tensor) => call("planning", || bake(&mut model, outlet, tensor))?,
                None => {
                    let fact = InferenceFact::dt_shape(*datum_type, shape);
                    call("planning", || model.set_outlet_fact(outlet, fact))?;
                    free.push(outlet);
                    names.push(name.clone());
                }
            }
        }
        model.inputs = free;
        let typed = call("planning", || model.into_typed())?;
        check_sizes(&typed)?;
        let runnable = call("planning", || runnable(typed))?;
        Ok(Plan { runnable, inputs: names, outputs: self.outputs.clone() })
    }
}

impl Plan {
    pub(super) fn run(&self, feed: &Feed) -> Result<Outputs> {
        let inputs = self.inputs.iter().map(|name| value::to_tract(&feed[name]).into_tvalue()).collect();
        let outputs = call("running", || lost::run(&self.runnable, inputs))?;
        let tensors =
            call("running", || outputs.iter().map(|o| value::from_tract(o)).collect::<TractResult<Vec<_>>>())?;
        Ok(self.outputs.iter().cloned().zip(tensors).collect())
    }
}

/// The model as it is handed to tract, but for what is lowered: numbered, without functions, and without what `outputs`
/// do not need; and the inputs that were left out with it.
fn prepared(model: &Model, outputs: Option<&[String]>) -> Result<(ModelProto, HashSet<String>)> {
    let mut copy = model.self_contained()?;
    let Some(graph) = &mut copy.graph else { return Err(error("the model has no graph")) };
    level_by_level(graph, &mut 0);
    if inline::functions(&mut copy)? {
        // Functions are no part of what was checked when the model was loaded.
        let inlined = Model::from_proto(copy, &LoadOptions { allow_newer: true })
            .map_err(|e| error(format!("with its functions inlined: {e}")))?;
        guard::check_constants(&inlined)?;
        copy = inlined.proto;
    }
    let Some(graph) = &mut copy.graph else { return Err(error("the model has no graph")) };
    if let Some(outputs) = outputs {
        let value = |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
        graph.output = outputs.iter().map(value).collect();
    }
    cut::dead_nodes(graph);
    domain::check(graph)?;
    let unused = cut::inputs(graph, outputs.is_some());
    let given = graph.input.iter().filter(|input| graph.initializer.iter().all(|t| t.name() != input.name()));
    for input in given {
        if let Some(what) = signature::not_a_tensor(input) {
            return Err(
                error(format!("cannot be run: it is {what}, and only tensors can be given")).at_tensor(input.name())
            );
        }
    }
    Ok((copy, unused))
}

/// The name and the element type of an input that nothing can be drawn for.
fn undrawn(input: &ValueInfoProto) -> Option<(String, &'static str)> {
    let element = ElementType::try_from(signature::tensor_type(input)?.elem_type()).ok()?;
    Tensor::zeros(element, &[]).is_none().then(|| (input.name().to_owned(), element.as_str_name()))
}

/// Whether some node draws random numbers.
fn draws(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| draw::is_random(node.op_type()) || bodies(node).any(|(_, _, body)| draws(body)))
}

/// Folds what is constant, optimises the rest and orders it.
pub(super) fn runnable(mut model: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
    // Declutter folds only nodes that make at most 4 MiB, unless their inputs are known to be constant.
    model.compute_const_facts()?;
    exact::constants(&mut model)?;
    model.into_decluttered()?.into_optimized()?.into_runnable()
}

fn bake(model: &mut InferenceModel, outlet: OutletId, tensor: &Tensor) -> TractResult<()> {
    let value = Arc::new(value::to_tract(tensor));
    model.nodes[outlet.node].op = Const::new(value.clone())?.into();
    let fact = InferenceFact::try_from(value)?;
    model.set_outlet_fact(outlet, fact)
}

/// Refuses a plan in which some tensor is larger than any real model needs.
fn check_sizes(model: &TypedModel) -> Result<()> {
    for node in &model.nodes {
        for output in &node.outputs {
            let elements = output.fact.shape.volume().to_i64().ok().and_then(|n| u64::try_from(n).ok());
            if elements.is_some_and(|n| n > limits::RUN_ELEMENTS) {
                let message = format!(
                    "makes {} elements, more than the {} that one tensor may have when a model is run",
                    elements.unwrap_or_default(),
                    limits::RUN_ELEMENTS
                );
                return Err(Error::new(ErrorKind::Limit, message).at_node(&*node.name));
            }
        }
    }
    Ok(())
}

fn samples(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Samples, message)
}

/// Tells every recurrent node its number. Outer graphs come before inner ones, each in the order of its nodes and
/// followed by the bodies of its first node, then of the next: as [`Model::graphs`] walks.
fn level_by_level(graph: &mut GraphProto, next: &mut usize) {
    for node in graph.node.iter_mut().filter(|node| cell_of(node).is_some()) {
        node.attribute.push(number_attribute(*next));
        *next += 1;
    }
    for node in &mut graph.node {
        for body in bodies_mut(node) {
            level_by_level(body, next);
        }
    }
}

fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}

fn number_attribute(number: usize) -> AttributeProto {
    AttributeProto {
        name: Some(operator::NUMBER.to_owned()),
        i: i64::try_from(number).ok(),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}
