//! What can be shown of two models without running them: their recurrent layers, each run alone, and that all else is the
//! same.
//!
//! A layer is run as either model has it: its own attributes, W, R, B, peepholes and initial states, as far as these are
//! constants. Its input is drawn from N(0, 1), states that are computed elsewhere in the graph are zeros. What is not run
//! must not [differ](super::difference).

use ndarray::{Array3, ArrayD};

use super::difference::{self, Differences, NodePath};
use super::{Check, Verdict, VerifyScope, VerifySettings, short, verdict};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{Content, Figures, Judge, Judged, LossKind};
use crate::onnx::proto::{GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto};
use crate::onnx::proto::{tensor_shape_proto, type_proto};
use crate::onnx::{ElementType, LoadOptions, Model, TensorProto, tensor};
use crate::progress::Silent;
use crate::recurrent::{self, BIAS, Constants, FindOptions, Matrix, RecurrentNode, Survey};
use crate::samples::{Random, RandomOptions};

/// Steps, sequences and samples that a layer is run on.
const STEPS: usize = 32;
const BATCH: usize = 4;
const SAMPLES: usize = 4;
/// Inputs of a node that are constants of their own where they are not computed: initial_h, initial_c, P.
const VECTORS: [(usize, &str); 3] = [(5, "initial_h"), (6, "initial_c"), (7, "P")];
/// Differences that are named one by one.
const NAMED: usize = 8;

/// Runs the layers that differ, and fails for everything else that does.
///
/// # Errors
/// `why`, if no layer differs; [`ErrorKind::Engine`] for a layer that cannot be run.
pub(super) fn verify(
    original: &Model,
    compressed: &Model,
    settings: &VerifySettings<'_>,
    why: &Error,
) -> Result<Verdict> {
    let sides = [Side::new(original)?, Side::new(compressed)?];
    let elsewhere = |a: &NodePath, b: &NodePath, input: usize| match [sides[0].node(a), sides[1].node(b)] {
        [Some(a), Some(b)] => input != BIAS || sides[0].bias(a).is_ok() && sides[1].bias(b).is_ok(),
        _ => false,
    };
    let mut differences = difference::between(original, compressed, &elsewhere)?;
    differences.whole.extend(interface(&sides));
    let mut outputs = Vec::new();
    for (ours, theirs) in &differences.layers {
        let (Some(a), Some(b)) = (sides[0].node(ours), sides[1].node(theirs)) else { continue };
        if a.w.element != b.w.element {
            differences.whole.push(format!("the weights of node '{}' are of another type", a.name));
        }
        let layers = [sides[0].layer(a)?, sides[1].layer(b)?];
        if differences.nodes.contains_key(ours) || layers[0] != layers[1] {
            outputs.push(run(&sides, [a, b], &layers, settings.seed).map_err(|error| error.at_node(&a.name))?);
        }
    }
    let failures = told(&differences);
    if outputs.is_empty() && failures.is_empty() {
        return Err(why.clone());
    }
    let mut verdict = verdict(VerifyScope::Layers, Some(why.to_string()), settings, outputs);
    (verdict.samples, verdict.smoke_test) = (SAMPLES, true);
    verdict.fail(failures);
    verdict.warnings.extend(settings.checks.iter().filter_map(|check| unnamed(check, why)));
    Ok(verdict)
}

/// What is said of a check that was meant for the outputs of the model.
fn unnamed(check: &Check, why: &Error) -> Option<String> {
    let (kind, limit) = (check.kind.name(), short(check.limit));
    check.output.is_none().then(|| {
        format!(
            "--{kind} {limit} is checked for each layer alone, on random inputs, not for the outputs: the model \
             cannot be run ({why})"
        )
    })
}

/// A line for each difference that was not run.
fn told(differences: &Differences) -> Vec<String> {
    const UNSEEN: &str = "and the models cannot be run to see what that does";
    let nodes = differences.nodes.values().map(|name| format!("node '{name}' differs from the original"));
    let outputs =
        differences.outputs.iter().map(|name| format!("output '{name}' is another value than in the original"));
    let mut lines: Vec<String> = nodes.chain(outputs).chain(differences.whole.iter().cloned()).collect();
    let more = lines.len().saturating_sub(NAMED);
    lines.truncate(NAMED);
    if more > 0 {
        lines.push(format!("{more} more nodes or outputs differ from the original"));
    }
    lines.into_iter().map(|line| format!("{line}, {UNSEEN}")).collect()
}

/// How what a caller sees of the models differs.
fn interface(sides: &[Side<'_>; 2]) -> Vec<String> {
    let [ours, theirs] = [0, 1].map(|side| sides[side].model.proto.graph.as_ref());
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return vec!["the graphs differ".to_owned()] };
    let kind = |all: &[ValueInfoProto], name: &str| {
        all.iter().find(|info| info.name() == name).map(|info| info.r#type.clone())
    };
    let frozen = |name: &str| {
        let nodes = &sides[0].survey.nodes;
        nodes.iter().any(|node| node.w.frozen.iter().chain(&node.r.frozen).any(|input| input == name))
    };
    let mut lines = Vec::new();
    for (what, ours, theirs) in [("input", &ours.input, &theirs.input), ("output", &ours.output, &theirs.output)] {
        for name in ours.iter().chain(theirs).map(|info| info.name()) {
            let (own, other) = (kind(ours, name), kind(theirs, name));
            let left_out = what == "input" && other.is_none() && frozen(name);
            let line = format!("{what} '{name}' is declared in another way than in the original");
            if own != other && !left_out && !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// One of the models.
struct Side<'m> {
    model: &'m Model,
    survey: Survey,
}

/// The constants of a layer.
#[derive(Clone, Debug, PartialEq)]
struct Layer {
    w: Array3<f32>,
    r: Array3<f32>,
    b: Option<ArrayD<f32>>,
}

impl<'m> Side<'m> {
    fn new(model: &'m Model) -> Result<Self> {
        let options = FindOptions { freeze_inputs: true, ..FindOptions::default() };
        Ok(Side { model, survey: recurrent::find(model, &options)? })
    }

    fn node(&self, place: &NodePath) -> Option<&RecurrentNode> {
        self.survey.nodes.iter().find(|node| (&node.scope, node.index) == (&place.0, place.1))
    }

    /// B of a node; `None` if it has none.
    fn bias(&self, node: &RecurrentNode) -> Result<Option<ArrayD<f32>>> {
        if !node.reads.bias {
            return Ok(None);
        }
        let name = &self.model.node(&node.scope, node.index).input[BIAS];
        Constants::new(self.model)?.get(&node.scope, name).map(Some)
    }

    fn layer(&self, node: &RecurrentNode) -> Result<Layer> {
        let [w, r] = Matrix::BOTH.map(|matrix| node.source(matrix).values(self.model));
        // B that is computed is compared with the rest of the graph.
        Ok(Layer { w: w?, r: r?, b: self.bias(node).ok().flatten() })
    }

    /// The vectors of a node that are constants, by their inputs.
    fn vectors(&self, node: &RecurrentNode) -> Result<Vec<(usize, &'static str, ArrayD<f32>)>> {
        let proto = self.model.node(&node.scope, node.index);
        let mut constants = Constants::new(self.model)?;
        let given = VECTORS.iter().filter_map(|&(input, name)| {
            let value = proto.input.get(input).filter(|value| !value.is_empty())?;
            Some((input, name, constants.get(&node.scope, value).ok()?))
        });
        Ok(given.collect())
    }

    /// A model of one node, with its input X of this shape.
    fn alone(&self, node: &RecurrentNode, layer: &Layer, x: [usize; 3]) -> Result<Model> {
        let mut alone = self.model.node(&node.scope, node.index).clone();
        alone.output = vec!["Y".to_owned()];
        alone.input = vec!["X".to_owned()];
        let mut constants: Vec<TensorProto> = Vec::new();
        let mut add = |input: usize, name: &str, shape: &[usize], values: Vec<f32>| {
            constants.push(tensor::float(name, shape, &values));
            alone.input.resize(alone.input.len().max(input + 1), String::new());
            alone.input[input] = name.to_owned();
        };
        add(1, "W", layer.w.shape(), layer.w.iter().copied().collect());
        add(2, "R", layer.r.shape(), layer.r.iter().copied().collect());
        let vectors = self.vectors(node)?;
        let bias = layer.b.iter().map(|b| (BIAS, "B", b));
        for (input, name, values) in bias.chain(vectors.iter().map(|(input, name, values)| (*input, *name, values))) {
            add(input, name, values.shape(), values.iter().copied().collect());
        }
        let graph = GraphProto {
            name: Some("layer".to_owned()),
            node: vec![alone],
            initializer: constants,
            input: vec![float_info("X", Some(&x))],
            output: vec![float_info("Y", None)],
            ..Default::default()
        };
        let proto = ModelProto {
            // Before version 4 every initializer had to be an input as well.
            ir_version: Some(self.model.ir_version().max(4)),
            opset_import: self.model.proto.opset_import.clone(),
            graph: Some(graph),
            ..Default::default()
        };
        Model::from_proto(proto, &LoadOptions { allow_newer: true })
    }

    /// How many sequences the constant initial states of a node are for.
    fn batch(&self, node: &RecurrentNode) -> Result<Option<usize>> {
        let axis = if node.attributes.layout == 0 { 1 } else { 0 };
        let states = self.vectors(node)?.into_iter().filter(|(input, ..)| *input < 7);
        Ok(states.filter_map(|(_, _, values)| values.shape().get(axis).copied()).next())
    }
}

/// Runs the layer of both models.
fn run(sides: &[Side<'_>; 2], nodes: [&RecurrentNode; 2], layers: &[Layer; 2], seed: u64) -> Result<Figures> {
    let batches = [sides[0].batch(nodes[0])?, sides[1].batch(nodes[1])?];
    let batch = batches.into_iter().flatten().next().unwrap_or(BATCH);
    let x = match nodes[0].attributes.layout {
        0 => [STEPS, batch, nodes[0].input_size],
        _ => [batch, STEPS, nodes[0].input_size],
    };
    let [ours, theirs] = [0, 1].map(|side| sides[side].alone(nodes[side], &layers[side], x));
    let (ours, theirs) = (ours?, theirs?);
    let random = RandomOptions { dims: &[], carry: &[], seed, count: SAMPLES };
    let samples = Random::new(&ours, &random)?.samples;
    let judge = Judge {
        outputs: vec![Judged {
            name: "Y".to_owned(),
            content: Content::Values,
            loss: LossKind::Nmse,
            kl: false,
            decides: false,
            dims: Vec::new(),
            reached: true,
        }],
    };
    let comparison = judge.compare(&Engine::new(&ours)?, &Engine::new(&theirs)?, &samples, &Silent);
    let figures = comparison.map_err(|e| Error::new(ErrorKind::Engine, e.message()))?.figures().remove(0);
    // The largest hidden unit is no decision.
    Ok(Figures {
        name: nodes[0].name.clone(),
        agreement: None,
        undecided: 0,
        worst: None,
        profile: None,
        course_db: Vec::new(),
        ..figures
    })
}

fn float_info(name: &str, shape: Option<&[usize]>) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |&size: &usize| Dimension { value: Some(Value::DimValue(size as i64)), ..Default::default() };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(ElementType::Float as i32), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
}
