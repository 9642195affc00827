//! Verification of a compressed model: runs it and its original on the same inputs, measures the differences of their
//! outputs, and compares these with checks (thresholds).
//!
//! If the engine cannot run the original, each rewritten recurrent layer is run by itself on seeded inputs
//! ([`Scope::Layers`]). This compares layers, not models; the verdict states the scope. A compressed model that cannot be
//! run although its original can is an error. So is an original over the engine's [limits](crate::limits): otherwise a
//! model could be built to escape verification as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::Array3;
use serde::Serialize;

use crate::engine::{Engine, Overrides};
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{Content, Figures, Judge, Judged, LossKind, LossSpec};
use crate::onnx::proto::{GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto};
use crate::onnx::proto::{tensor_shape_proto, type_proto};
use crate::onnx::{ElementType, LoadOptions, Model, Origin, TensorProto, Values, tensor};
use crate::progress::Progress;
use crate::recurrent::{self, BIAS, FindOptions, Matrix, RecurrentNode};
use crate::samples::{Random, RandomOptions, Samples};

/// What runs the models.
pub const ENGINE: &str = "tract";

/// Steps, sequences and samples that a layer is run on where only layers can be run.
const LAYER_STEPS: usize = 32;
const LAYER_BATCH: usize = 4;
const LAYER_SAMPLES: usize = 4;

/// A figure that can be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Largest absolute difference, at most.
    MaxAbs,
    /// Normalised mean squared error, at most.
    MaxNmse,
    /// Signal to noise ratio in decibels, at least.
    MinSnr,
    /// Share of equal decisions, at least.
    MinAgreement,
    /// Mean divergence in nats, at most.
    MaxKl,
}

impl CheckKind {
    /// All of them.
    pub const ALL: [CheckKind; 5] =
        [CheckKind::MaxAbs, CheckKind::MaxNmse, CheckKind::MinSnr, CheckKind::MinAgreement, CheckKind::MaxKl];

    /// The flag without its dashes.
    pub fn name(self) -> &'static str {
        match self {
            CheckKind::MaxAbs => "max-abs",
            CheckKind::MaxNmse => "max-nmse",
            CheckKind::MinSnr => "min-snr",
            CheckKind::MinAgreement => "min-agreement",
            CheckKind::MaxKl => "max-kl",
        }
    }

    /// The figure that is bounded; infinite for an exact match or a zero signal, `None` where it is undefined.
    fn value(self, figures: &Figures) -> Option<f64> {
        // Integers have no mean error, and with it neither a normalised one nor a noise.
        let noise = figures.rmse;
        match self {
            CheckKind::MaxAbs => figures.max_abs,
            CheckKind::MaxNmse => noise.map(|_| figures.nmse.unwrap_or(f64::INFINITY)),
            CheckKind::MinSnr => noise
                .map(|noise| figures.snr_db.unwrap_or(if noise == 0.0 { f64::INFINITY } else { f64::NEG_INFINITY })),
            CheckKind::MinAgreement => figures.agreement,
            CheckKind::MaxKl => figures.kl,
        }
    }

    fn is_minimum(self) -> bool {
        matches!(self, CheckKind::MinSnr | CheckKind::MinAgreement)
    }
}

/// A bound on a figure, of one output or of all that have no bound of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What is bounded.
    pub kind: CheckKind,
    /// The output; `None` for all.
    pub output: Option<String>,
    /// The bound.
    pub limit: f64,
}

/// What was run for verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The whole models, from inputs to outputs.
    Model,
    /// Each rewritten recurrent layer alone.
    Layers,
}

/// The result of a verification. Serialised, its keys are those of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What ran the models.
    pub engine: &'static str,
    /// Whole models, or layers alone.
    pub scope: Scope,
    /// Why only layers were run.
    pub reason: Option<String>,
    /// Runs that were compared.
    pub samples: usize,
    /// The calibration samples, as described by the caller.
    pub calibrated_on: Option<String>,
    /// The figures of each compared output, or layer.
    pub outputs: Vec<Figures>,
    /// The mean over the outputs of their losses, each of its own kind; `None` for layers, and where a loss is undefined.
    pub loss: Option<f64>,
    /// Each check with the value that was measured for an output.
    #[serde(rename = "gates")]
    pub checks: Vec<Checked>,
    /// Whether all checks passed and all values are finite that are finite in the original.
    pub passed: bool,
    /// One line for each reason of a failure.
    pub failures: Vec<String>,
}

/// A check with the measured value of one output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The output.
    pub output: String,
    /// [`CheckKind::name`].
    #[serde(rename = "gate")]
    pub check: &'static str,
    /// The bound.
    pub limit: f64,
    /// The measured value; `None` where it is undefined or infinite.
    pub value: Option<f64>,
    /// Whether the check passed.
    pub passed: bool,
}

/// Inputs and checks of a verification.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The inputs.
    pub samples: &'a Samples,
    /// Kind of the calibration samples: `calibration`, `same` or `random`; `None` if unknown.
    pub calibrated_on: Option<&'a str>,
    /// The loss of each output; an output named here with `kl` is compared by its divergence even if it is no distribution.
    pub loss: &'a LossSpec,
    /// The bounds.
    pub checks: &'a [Check],
    /// Seed of the inputs of layers that are run by themselves.
    pub seed: u64,
}

/// Runs both models and compares them. Advances `progress` by a step for each feed.
///
/// # Errors
/// [`ErrorKind::Usage`] for a check or loss of an output that is not compared, and for models of different outputs;
/// [`ErrorKind::Samples`]; [`ErrorKind::Engine`] or [`ErrorKind::Limit`] if the compressed model cannot be run, or
/// if the original cannot and either has no rewritten layers or is over a limit.
pub fn verify(
    original: &Model,
    compressed: &Model,
    settings: &Settings<'_>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let mut judge = Judge::new(original, settings.loss, &settings.samples.carry)?;
    check_names(settings.checks, &judge)?;
    for check in settings.checks.iter().filter(|g| g.kind == CheckKind::MaxKl) {
        judge.measure_kl(check.output.as_deref());
    }
    // Planning unfolds the coded weights: that is done before the original's take memory too.
    let compressed_engine = Engine::new(compressed).and_then(|engine| {
        let first = settings.samples.streams.first();
        first.map_or(Ok(()), |stream| engine.prepare(stream, &settings.samples.carry))?;
        Ok(engine)
    });
    let engine = match Engine::new(original) {
        Ok(engine) => engine,
        Err(e) if cannot_run(&e) => return without_runs(original, compressed, settings, &e),
        Err(e) => return Err(e),
    };
    progress.phase("verify", settings.samples.len() as u64);
    let compared =
        compressed_engine.and_then(|compressed| judge.compare(&engine, &compressed, settings.samples, progress));
    progress.done();
    match compared {
        Ok(comparison) => {
            let loss = comparison.mean_loss().ok();
            Ok(Verdict { loss, ..verdict(Scope::Model, None, settings, comparison.figures()) })
        }
        // Whose fault it is shows when the original is run alone.
        Err(e) if cannot_run(&e) => match judge.reference(&engine, settings.samples) {
            Err(e) if cannot_run(&e) => without_runs(original, compressed, settings, &e),
            Err(e) => Err(e),
            Ok(_) => Err(in_compressed(&e)),
        },
        Err(e) => Err(e),
    }
}

/// Whether an error is of the engine, not of the samples or the models.
fn cannot_run(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Engine | ErrorKind::Limit)
}

fn check_names(checks: &[Check], judge: &Judge) -> Result<()> {
    let judged = |check: &&Check| check.output.as_ref().is_some_and(|name| !judge.names().any(|n| n == name));
    match checks.iter().find(judged) {
        None => Ok(()),
        Some(check) => {
            let (name, known) = (check.output.as_deref().unwrap_or_default(), judge.names().collect::<Vec<_>>());
            let message = format!(
                "--{} names '{name}', not an output that is judged, those are {}",
                check.kind.name(),
                known.join(", ")
            );
            Err(Error::new(ErrorKind::Usage, message))
        }
    }
}

fn verdict(scope: Scope, reason: Option<String>, settings: &Settings<'_>, outputs: Vec<Figures>) -> Verdict {
    let (checks, mut failures) = hold(settings.checks, &outputs);
    for figures in outputs.iter().filter(|f| f.non_finite > 0) {
        failures.push(format!(
            "output '{}': {} elements are NaN or infinite in one of the models only",
            figures.name, figures.non_finite
        ));
    }
    Verdict {
        engine: ENGINE,
        scope,
        reason,
        samples: settings.samples.len(),
        calibrated_on: settings.calibrated_on.map(str::to_owned),
        outputs,
        loss: None,
        checks,
        passed: failures.is_empty(),
        failures,
    }
}

/// Applies each check to its outputs; a check that applies to none fails.
fn hold(checks: &[Check], outputs: &[Figures]) -> (Vec<Checked>, Vec<String>) {
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for check in checks {
        let own: BTreeSet<&str> =
            checks.iter().filter(|g| g.kind == check.kind).filter_map(|g| g.output.as_deref()).collect();
        let is_for =
            |f: &&Figures| check.output.as_ref().map_or(!own.contains(f.name.as_str()), |name| *name == f.name);
        let mut held = false;
        for figures in outputs.iter().filter(is_for) {
            let Some(value) = check.kind.value(figures) else { continue };
            let passed = if check.kind.is_minimum() { value >= check.limit } else { value <= check.limit };
            held = true;
            if !passed {
                failures.push(failure(check, figures, value));
            }
            all.push(Checked {
                output: figures.name.clone(),
                check: check.kind.name(),
                limit: check.limit,
                value: value.is_finite().then_some(value),
                passed,
            });
        }
        let spoken_for =
            check.output.is_none() && !outputs.is_empty() && outputs.iter().all(|f| own.contains(&*f.name));
        if !held && !spoken_for {
            let of = check.output.as_ref().map_or_else(|| "any output".to_owned(), |name| format!("output '{name}'"));
            failures.push(format!("--{} has no meaning for {of} that was run", check.kind.name()));
        }
    }
    (all, failures)
}

/// `output 'y': --max-nmse 0.01 is exceeded by 0.003: 0.013`
fn failure(check: &Check, figures: &Figures, value: f64) -> String {
    let (name, kind, limit) = (&figures.name, check.kind.name(), short(check.limit));
    let (missed, by) =
        if check.kind.is_minimum() { ("missed", check.limit - value) } else { ("exceeded", value - check.limit) };
    format!("output '{name}': --{kind} {limit} is {missed} by {}: {}", short(by), short(value))
}

/// Four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if (1e-3..1e6).contains(&v) => {
            let digits = usize::try_from(3 - v.log10().floor() as i64).unwrap_or(0);
            let text = format!("{value:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        _ => format!("{value:.3e}"),
    }
}

/// The verdict of models that cannot be run as a whole, because of `why`.
fn without_runs(original: &Model, compressed: &Model, settings: &Settings<'_>, why: &Error) -> Result<Verdict> {
    match why.kind() {
        ErrorKind::Limit => Err(Error::new(ErrorKind::Engine, format!("could not be verified: {why}"))),
        _ => verify_layers(original, compressed, settings, why),
    }
}

/// Runs each recurrent node with rewritten weights by itself, with the original's weights and biases and with those that
/// the compressed model's graph decodes to, on seeded inputs from N(0, 1) and initial states of zeros.
///
/// # Errors
/// `why`, if there is no such node; [`ErrorKind::Engine`] for a node of the original that the compressed model lacks.
fn verify_layers(original: &Model, compressed: &Model, settings: &Settings<'_>, why: &Error) -> Result<Verdict> {
    let find = |model| recurrent::find(model, &FindOptions { freeze_inputs: true, ..FindOptions::default() });
    let (before, after) = (find(original)?, find(compressed)?);
    let mut outputs = Vec::new();
    for node in &before.nodes {
        let Some(twin) = after.nodes.iter().find(|n| n.name == node.name) else {
            let message = "is no recurrent node of constant weights in the compressed model";
            return Err(Error::new(ErrorKind::Engine, message).at_node(&node.name));
        };
        let dense = [node.w.values(original)?, node.r.values(original)?];
        let decoded = [twin.w.values(compressed)?, twin.r.values(compressed)?];
        let bias = stored_bias(compressed, twin)?;
        if dense != decoded || bias != stored_bias(original, node)? {
            outputs.push(run_layer(original, node, &dense, (decoded, bias), settings.seed)?);
        }
    }
    if outputs.is_empty() {
        return Err(why.clone());
    }
    let mut verdict = verdict(Scope::Layers, Some(why.to_string()), settings, outputs);
    verdict.samples = LAYER_SAMPLES;
    Ok(verdict)
}

fn run_layer(
    original: &Model,
    node: &RecurrentNode,
    dense: &[Array3<f32>; 2],
    (decoded, bias): ([Array3<f32>; 2], Option<Vec<f32>>),
    seed: u64,
) -> Result<Figures> {
    let model = layer(original, node, dense)?;
    let random = RandomOptions { dims: &[], carry: &[], seed, count: LAYER_SAMPLES };
    let samples = Random::new(&model, &random)?.samples;
    let engine = Engine::new(&model).map_err(|e| e.at_node(&node.name))?;
    let output =
        Judged { name: "Y".to_owned(), content: Content::Values, loss: LossKind::Nmse, kl: false, dims: Vec::new() };
    let judge = Judge { outputs: vec![output] };
    let weights = Matrix::BOTH.iter().zip(decoded).map(|(&m, w)| ((0, m), Arc::new(w))).collect();
    let biases = bias.into_iter().map(|bias| (0, Arc::new(bias))).collect();
    let overrides = Overrides { weights, biases };
    let reference = judge.reference(&engine, &samples).map_err(|e| e.at_node(&node.name))?;
    let comparison = reference.compare(&engine, &overrides).map_err(|e| e.at_node(&node.name))?;
    let figures = comparison.figures().remove(0);
    // The largest hidden unit is no decision.
    Ok(Figures { name: node.name.clone(), agreement: None, ..figures })
}

/// B of a node as far as it is a stored constant.
fn stored_bias(model: &Model, node: &RecurrentNode) -> Result<Option<Vec<f32>>> {
    let values = Values::new(&model.proto)?;
    let name = model.node(&node.scope, node.index).input.get(BIAS);
    let stored = name.and_then(|name| stored(model, &values, node, name));
    stored.map(|tensor| Ok(model.floats(tensor)?.iter().copied().collect())).transpose()
}

/// A model of one node: its input X, its weights, its biases and peepholes where they are stored constants.
fn layer(original: &Model, node: &RecurrentNode, weights: &[Array3<f32>; 2]) -> Result<Model> {
    let proto = original.node(&node.scope, node.index);
    let mut alone = proto.clone();
    alone.output = vec!["Y".to_owned()];
    alone.input = vec!["X".to_owned(), "W".to_owned(), "R".to_owned()];
    let mut constants: Vec<TensorProto> = Vec::new();
    for (name, array) in ["W", "R"].into_iter().zip(weights) {
        let values: Vec<f32> = array.iter().copied().collect();
        constants.push(tensor::float(name, array.shape(), &values));
    }
    let values = Values::new(&original.proto)?;
    for (input, name) in [(BIAS, "B"), (7, "P")] {
        let Some(stored) = proto.input.get(input).and_then(|value| stored(original, &values, node, value)) else {
            continue;
        };
        let floats = original.floats(stored)?;
        let flat: Vec<f32> = floats.iter().copied().collect();
        constants.push(tensor::float(name, floats.shape(), &flat));
        alone.input.resize(input + 1, String::new());
        alone.input[input] = name.to_owned();
    }
    let shape = match node.attributes.layout {
        0 => [LAYER_STEPS, LAYER_BATCH, node.input_size],
        _ => [LAYER_BATCH, LAYER_STEPS, node.input_size],
    };
    let graph = GraphProto {
        name: Some("layer".to_owned()),
        node: vec![alone],
        initializer: constants,
        input: vec![float_info("X", Some(&shape))],
        output: vec![float_info("Y", None)],
        ..Default::default()
    };
    let proto = ModelProto {
        // Before version 4 every initializer had to be an input as well.
        ir_version: Some(original.ir_version().max(4)),
        opset_import: original.proto.opset_import.clone(),
        graph: Some(graph),
        ..Default::default()
    };
    Model::from_proto(proto, &LoadOptions { allow_newer: true })
}

/// The initializer behind an input of a node, or the tensor of a Constant node.
fn stored<'m>(model: &'m Model, values: &Values<'_>, node: &RecurrentNode, value: &str) -> Option<&'m TensorProto> {
    let definition = values.resolve(&node.scope, value)?;
    match definition.origin {
        Origin::Node { node, .. } => {
            let constant = model.node(&definition.scope, node);
            let value = constant.attribute.iter().find(|a| constant.op_type() == "Constant" && a.name() == "value")?;
            value.t.as_ref()
        }
        _ => model.initializer(definition),
    }
}

fn float_info(name: &str, shape: Option<&[usize]>) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |&size: &usize| Dimension { value: Some(Value::DimValue(size as i64)), ..Default::default() };
    let shape = shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(ElementType::Float as i32), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
}

/// Adds to an error that the model that cannot be run is the compressed one.
fn in_compressed(error: &Error) -> Error {
    Error::new(error.kind(), format!("the original can be run, the compressed model cannot: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &str) -> Figures {
        Figures {
            name: name.to_owned(),
            max_abs: Some(0.5),
            rmse: Some(0.1),
            nmse: Some(0.013),
            snr_db: Some(18.9),
            agreement: Some(0.97),
            ..Figures::default()
        }
    }

    fn check(kind: CheckKind, output: Option<&str>, limit: f64) -> Check {
        Check { kind, output: output.map(str::to_owned), limit }
    }

    #[test]
    fn a_failure_says_which_output_failed_what_by_how_much() {
        let failures = |g| hold(&[g], &[figures("y")]).1;
        assert_eq!(
            failures(check(CheckKind::MaxNmse, None, 0.01)),
            ["output 'y': --max-nmse 0.01 is exceeded by 0.003: 0.013"]
        );
        assert_eq!(
            failures(check(CheckKind::MinSnr, Some("y"), 20.0)),
            ["output 'y': --min-snr 20 is missed by 1.1: 18.9"]
        );
        assert!(failures(check(CheckKind::MinAgreement, None, 0.97)).is_empty());
    }

    #[test]
    fn a_check_of_its_own_replaces_that_of_all() {
        let checks = [check(CheckKind::MaxAbs, None, 0.1), check(CheckKind::MaxAbs, Some("y"), 1.0)];
        let (checked, failures) = hold(&checks, &[figures("y"), figures("z")]);
        assert_eq!(failures, ["output 'z': --max-abs 0.1 is exceeded by 0.4: 0.5"]);
        assert_eq!(checked.len(), 2);
        assert!(hold(&checks, &[figures("y")]).1.is_empty());
    }

    #[test]
    fn a_check_without_meaning_fails() {
        let kl = |output| hold(&[check(CheckKind::MaxKl, output, 1.0)], &[figures("y")]).1;
        assert_eq!(kl(None), ["--max-kl has no meaning for any output that was run"]);
        assert_eq!(kl(Some("z")), ["--max-kl has no meaning for output 'z' that was run"]);
    }

    #[test]
    fn an_exact_match_passes_and_a_changed_constant_does_not() {
        let exact = Figures { rmse: Some(0.0), nmse: Some(0.0), snr_db: None, ..figures("y") };
        let constant = Figures { nmse: None, snr_db: None, ..figures("y") };
        let checks = [check(CheckKind::MinSnr, None, 90.0), check(CheckKind::MaxNmse, None, 0.1)];
        let (checked, failures) = hold(&checks, &[exact]);
        assert!(failures.is_empty() && checked[0].value.is_none());
        assert_eq!(hold(&checks, &[constant]).1.len(), 2);
    }

    #[test]
    fn numbers_are_shown_short() {
        for (value, text) in [(0.0, "0"), (0.013, "0.013"), (18.94444, "18.94"), (2e-5, "2.000e-5"), (120.0, "120")] {
            assert_eq!(short(value), text);
        }
        assert_eq!((short(123456.7), short(-0.5)), ("123457".to_owned(), "-0.5".to_owned()));
    }
}
