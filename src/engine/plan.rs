//! Models planned by tract for concrete shapes, kept for the next feed of the same shapes.

use super::guard::{self, call};
use super::{Outputs, branch, cell_of, error, fold, lower, operator, repeat, value};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, GraphProto, Model, NodeProto};
use crate::recurrent::Cell;
use crate::samples::{Feed, Tensor};
use prost::Message;
use std::collections::VecDeque;
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

/// Type and shape of each input of the model, and the value of those that are baked into the plan.
type Key = Vec<(DatumType, Vec<usize>, Option<Tensor>)>;

/// A plan, or why there is none, made by whoever needs it first while the others wait.
type Slot = Arc<OnceLock<Result<Arc<Plan>>>>;

/// A model as tract parsed it, and its plans.
pub(super) struct Plans {
    parsed: InferenceModel,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// The model has branches: integers and flags that are single numbers are taken for constants, so that the branch
    /// that they choose is planned and optimised like the rest.
    branches: bool,
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
    pub(super) fn new(model: &Model) -> Result<Plans> {
        guard::check_constants(model)?;
        let mut copy = model.self_contained()?;
        let graph = copy.graph.as_mut().ok_or_else(|| error("the model has no graph"))?;
        let mut next = 0;
        level_by_level(graph, &mut next);
        lower::lower(model, graph);
        let outputs = graph.output.iter().map(|o| o.name().to_owned()).collect();
        let branches = graph.node.iter().any(|node| node.op_type() == "If");
        let bytes = copy.encode_to_vec();
        let size = bytes.len();
        drop(copy);
        let mut tract = tract_onnx::onnx().with_ignore_value_info(true);
        Cell::ALL.iter().for_each(|cell| tract.op_register.insert(cell.operator(), operator::recurrent));
        tract.op_register.insert("DynamicQuantizeLSTM", operator::quantized_lstm);
        tract.op_register.insert("If", branch::read);
        tract.op_register.insert("Loop", repeat::read);
        // Not `model_for_read`, which copies the bytes once more and keeps them.
        let messages = call("reading the model", || Ok(tract_onnx::pb::ModelProto::decode(&*bytes)?))?;
        drop(bytes);
        let mut parsed = call("reading the model", || tract.model_for_proto_model(&messages))?;
        drop(messages);
        call("reading the model", || fold::constants(&mut parsed))?;
        let inputs = parsed.inputs.iter().map(|outlet| parsed.nodes[outlet.node].name.clone()).collect();
        let kept = (KEPT_BYTES / size.max(1)).clamp(KEPT.0, KEPT.1);
        Ok(Plans { parsed, inputs, outputs, branches, kept, recent: Mutex::default() })
    }

    /// The plan for the shapes of a feed.
    pub(super) fn for_feed(&self, feed: &Feed) -> Result<Arc<Plan>> {
        let key = self.key(feed)?;
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

    fn key(&self, feed: &Feed) -> Result<Key> {
        if let Some(name) = feed.keys().find(|name| !self.inputs.contains(name)) {
            return Err(samples(format!("not an input of the model; its inputs are {}", self.inputs.join(", ")))
                .at_tensor(name));
        }
        let one = |name: &String| {
            let tensor =
                feed.get(name).ok_or_else(|| samples("the samples hold no value for this input").at_tensor(name))?;
            let baked = self.branches && tensor.len() == 1 && tensor.shape().len() < 2 && !tensor.is_float();
            Ok((value::datum_type(tensor), tensor.shape().to_vec(), baked.then(|| tensor.clone())))
        };
        self.inputs.iter().map(one).collect()
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
        let outputs = call("running", || self.runnable.run(inputs))?;
        let tensors =
            call("running", || outputs.iter().map(|o| value::from_tract(o)).collect::<TractResult<Vec<_>>>())?;
        Ok(self.outputs.iter().cloned().zip(tensors).collect())
    }
}

/// Folds what is constant, optimises the rest and orders it.
pub(super) fn runnable(mut model: TypedModel) -> TractResult<Arc<TypedRunnableModel>> {
    // Declutter folds only nodes that make at most 4 MiB, unless their inputs are known to be constant.
    model.compute_const_facts()?;
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
