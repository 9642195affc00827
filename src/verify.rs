//! Verification of a compressed model: runs it and its original on the same inputs, measures the differences of their
//! outputs, and compares these with checks (thresholds).
//!
//! Where the engine cannot run the original at all, each rewritten recurrent layer is run alone instead, on seeded inputs
//! ([`VerifyScope::Layers`]), and everything else of the two models must be the same (`difference`). That shows that the
//! layers still do what they did, not that the model does, and is said in the verdict. A sample that cannot be run is an
//! error, and never a reason to judge layers only ([`obstacle`]). So is a compressed model that cannot be run although
//! its original can, and an original that asks for more than the engine's [limits](crate::limits): it might be made to
//! be judged on its layers only.
//!
//! Invariant: a verdict is `passed` only by what was run. Outputs that are the same whatever differs between the models
//! satisfy no check that is not theirs by name; an output of which no element could be compared fails.

mod difference;
mod finite;
mod layers;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{Figures, Judge, LossSpec, obstacle, reach};
use crate::onnx::{ElementType, Model};
use crate::progress::Progress;
use crate::samples::{Samples, Signature};

/// What runs the models.
pub const ENGINE: &str = "tract";

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
        // The mean error of the smallest numbers rounds to zero: only the largest one shows an exact match.
        let without_noise = if figures.max_abs == Some(0.0) { f64::INFINITY } else { f64::NEG_INFINITY };
        match self {
            CheckKind::MaxAbs => figures.max_abs,
            CheckKind::MaxNmse => noise.map(|_| figures.nmse.unwrap_or(f64::INFINITY)),
            CheckKind::MinSnr => noise.map(|_| figures.snr_db.unwrap_or(without_noise)),
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
pub enum VerifyScope {
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
    pub scope: VerifyScope,
    /// Why only layers were run.
    pub reason: Option<String>,
    /// Runs that were compared.
    pub samples: usize,
    /// Whether they were random inputs, which show that the file works and little more.
    pub smoke_test: bool,
    /// The calibration samples, as described by the caller.
    pub calibrated_on: Option<String>,
    /// The figures of each compared output, or layer.
    pub outputs: Vec<Figures>,
    /// The mean loss of the outputs: `loss_mean` under its first name.
    pub loss: Option<f64>,
    /// The largest [loss](crate::loss#loss) of an output that depends on what differs between the models, each of its
    /// kind; `None` for layers, and where a loss has no meaning.
    pub loss_worst: Option<f64>,
    /// The mean loss of these outputs.
    pub loss_mean: Option<f64>,
    /// Every check as it was held against an output.
    #[serde(rename = "gates")]
    pub checks: Vec<Checked>,
    /// Checks of all outputs, and the outputs that they say nothing of.
    pub unbound: Vec<Unbound>,
    /// Whether all checks hold and all numbers are finite that were.
    pub passed: bool,
    /// One line for each reason of a failure.
    pub failures: Vec<String>,
    /// What the user should know: for the warnings of a report.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl Verdict {
    /// Whether an element of an output is not the same in both models.
    #[must_use]
    pub fn shows_difference(&self) -> bool {
        self.outputs.iter().any(|figures| figures.non_finite > 0 || figures.max_abs.is_some_and(|error| error > 0.0))
    }

    /// Adds reasons not to pass.
    fn fail(&mut self, failures: impl IntoIterator<Item = String>) {
        self.failures.extend(failures);
        self.passed = self.failures.is_empty();
    }
}

/// An output that a check of all outputs is not held against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unbound {
    /// The output.
    pub output: String,
    /// [`CheckKind::name`].
    #[serde(rename = "gate")]
    pub check: &'static str,
    /// Why.
    pub reason: &'static str,
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

impl Checked {
    /// How close the check is to failing, as a share of the squared error that it allows: above 1 it fails. Changed
    /// decisions count by their square, as they fall about with the error itself.
    #[must_use]
    pub fn strain(&self) -> f64 {
        let Some(value) = self.value else { return if self.passed { 0.0 } else { f64::INFINITY } };
        let limit = self.limit;
        let strain = match self.check {
            "max-abs" => (value / limit).powi(2),
            "min-snr" => 10.0_f64.powf((limit - value) / 10.0),
            "min-agreement" => ((1.0 - value) / (1.0 - limit)).powi(2),
            _ => value / limit,
        };
        match self.passed {
            true if strain.is_nan() => 0.0,
            true => strain.min(1.0),
            false if strain.is_nan() => f64::INFINITY,
            // Rounding must not let a failed check through.
            false => strain.max(1.0 + f64::EPSILON),
        }
    }
}

/// How close the strictest check is to failing, [as a share](Checked::strain) of what it allows: at most 1 where all pass.
///
/// # Errors
/// [`ErrorKind::Usage`] for a check that applies to no output.
pub(crate) fn strain(checks: &[Check], outputs: &[Figures]) -> Result<f64> {
    let Held { checked, failures, .. } = hold(checks, outputs);
    if failures.len() > checked.iter().filter(|check| !check.passed).count() {
        return Err(Error::new(ErrorKind::Usage, failures.join("; ")));
    }
    if outputs.iter().any(|figures| not_comparable(figures).is_some()) {
        return Ok(f64::INFINITY);
    }
    Ok(checked.iter().map(Checked::strain).fold(0.0, f64::max))
}

/// Inputs and checks of a verification.
#[derive(Clone, Copy, Debug)]
pub struct VerifySettings<'a> {
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
/// [`ErrorKind::Usage`] for a check or loss of an output that is not judged, and for models of different inputs or
/// outputs; [`ErrorKind::Samples`] for a sample that cannot be run, and where there is none; [`ErrorKind::Engine`] or
/// [`ErrorKind::Limit`] where the compressed model cannot be run, or where the original cannot and it has no rewritten
/// layers either or is beyond a limit.
pub fn verify(
    original: &Model,
    compressed: &Model,
    settings: &VerifySettings<'_>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    if settings.samples.is_empty() {
        return Err(Error::new(ErrorKind::Samples, "there are no samples to run the models on: give at least one"));
    }
    check_signatures(original, compressed, settings.samples)?;
    let mut judge = Judge::new(original, settings.loss, &settings.samples.carry)?;
    check_names(settings.checks, &judge)?;
    for check in settings.checks.iter().filter(|g| g.kind == CheckKind::MaxKl) {
        judge.measure_kl(check.output.as_deref());
    }
    for check in settings.checks.iter().filter(|g| g.kind == CheckKind::MinAgreement) {
        judge.speak_of_decisions(check.output.as_deref());
    }
    let warnings = leave_out_the_same(original, compressed, settings.samples, &mut judge)?;
    let not_finite = [not_finite(original, "original")?, not_finite(compressed, "compressed model")?];
    let not_finite: Vec<String> = not_finite.into_iter().flatten().collect();
    // Planning unfolds the coded weights: that is done before the original's take memory too.
    let compressed_engine = Engine::new(compressed).and_then(|engine| {
        let first = settings.samples.streams.first();
        first.map_or(Ok(()), |stream| engine.prepare(stream, &settings.samples.carry))?;
        Ok(engine)
    });
    let engine = match Engine::new(original) {
        Ok(engine) => engine,
        Err(e) if e.is_of_engine() => return without_runs(original, compressed, settings, &e, not_finite),
        Err(e) => return Err(e),
    };
    progress.phase("verify", settings.samples.len() as u64);
    let compared =
        compressed_engine.and_then(|compressed| judge.compare(&engine, &compressed, settings.samples, progress));
    progress.done();
    match compared {
        Ok(comparison) => {
            // A loss that is undefined, for want of labels or of numbers, is shown as none: the figures say more.
            let (worst, mean) = (comparison.worst_loss().ok(), comparison.mean_loss().ok());
            let mut verdict = verdict(VerifyScope::Model, None, settings, comparison.figures());
            verdict.warnings.splice(0..0, warnings);
            verdict.fail(not_finite);
            Ok(Verdict { loss: mean, loss_worst: worst, loss_mean: mean, ..verdict })
        }
        // No sample is at fault where the weights are.
        Err(e) if e.is_of_engine() && !not_finite.is_empty() => {
            let mut verdict = verdict(VerifyScope::Model, None, settings, Vec::new());
            verdict.fail(not_finite);
            Ok(verdict)
        }
        // Whose fault it is shows when the original is run alone.
        Err(e) if e.is_of_engine() => match judge.reference(&engine, settings.samples) {
            Err(e) if e.kind() == ErrorKind::Engine => {
                let why = obstacle(original, &engine, settings.samples, e)?;
                without_runs(original, compressed, settings, &why, not_finite)
            }
            Err(e) if e.is_of_engine() => without_runs(original, compressed, settings, &e, not_finite),
            Err(e) => Err(e),
            Ok(_) => Err(in_compressed(&e)),
        },
        Err(e) => Err(e),
    }
}

/// Why no run of a model can be trusted, if its recurrent layers are not made of numbers.
fn not_finite(model: &Model, which: &str) -> Result<Option<String>> {
    let line = |(node, input): (String, &str)| {
        format!(
            "node '{node}': {input} holds NaN or infinite values in the {which}, of which runtimes make what they like"
        )
    };
    Ok(finite::fault(model)?.map(line))
}

/// Leaves outputs that do not depend on what differs between the models out of the judgement.
fn leave_out_the_same(
    original: &Model,
    compressed: &Model,
    samples: &Samples,
    judge: &mut Judge,
) -> Result<Vec<String>> {
    let differences = difference::between(original, compressed, &|_, _, _| false)?;
    if differences.is_empty() {
        return Ok(vec!["the models do not differ in anything that computes".to_owned()]);
    }
    let mut changes = differences.changes;
    if !differences.whole.is_empty() {
        // What another operator set changes is not known: what the layers reach is judged, and what turns out to differ.
        for (scope, graph) in original.graphs() {
            let layers = graph.node.iter().enumerate().filter(|(_, node)| difference::cell(node).is_some());
            layers.for_each(|(index, _)| changes.add(&scope, index, reach::Flow::Elements));
        }
    }
    let mut reached = reach::outputs(original, &changes, &samples.carry)?;
    let variable = reach::variable(original)?;
    reached.retain(|output| variable.contains(output));
    if judge.keep_reached(&reached).is_ok() {
        return Ok(Vec::new());
    }
    judge.outputs.iter_mut().for_each(|output| output.reached = false);
    Ok(vec!["no compared output depends on what differs between the models".to_owned()])
}

/// Refuses models that a caller could not run on the same inputs, or that declare other outputs.
fn check_signatures(original: &Model, compressed: &Model, samples: &Samples) -> Result<()> {
    let (ours, theirs) = (Signature::of(original)?, Signature::of(compressed)?);
    let fail = |name: &str, message: String| Err(Error::new(ErrorKind::Usage, message).at_tensor(name));
    let named = |model: &Model, name: &str| {
        model.proto.graph.as_ref().is_some_and(|graph| graph.input.iter().any(|input| input.name() == name))
    };
    for input in &theirs.inputs {
        let Some(own) = ours.input(&input.name) else {
            return fail(&input.name, "the compressed model needs this input, the original does not".to_owned());
        };
        if own.element != input.element {
            let (own, other) = (own.element.as_str_name(), input.element.as_str_name());
            return fail(&input.name, format!("the original takes {own}, the compressed model takes {other}"));
        }
        for stream in &samples.streams {
            let shapes = stream.feeds.iter().filter_map(|feed| feed.get(&input.name)).map(|tensor| tensor.shape());
            if let Some(shape) = shapes.into_iter().find(|shape| own.accepts(shape) && !input.accepts(shape)) {
                let takes = input.shape_text();
                return fail(&input.name, format!("the compressed model takes {takes}, but the sample is {shape:?}"))
                    .map_err(|error| error.in_file(&stream.origin));
            }
        }
    }
    if let Some(input) = ours.inputs.iter().find(|input| !named(compressed, &input.name)) {
        return fail(&input.name, "the compressed model has no such input, the original has".to_owned());
    }
    for output in &ours.outputs {
        let Some(other) = theirs.output(&output.name) else {
            return fail(&output.name, "the compressed model does not give this output".to_owned());
        };
        let (own, other) = (output.element, other.element);
        if own != other && own != ElementType::Undefined && other != ElementType::Undefined {
            let (own, other) = (own.as_str_name(), other.as_str_name());
            return fail(&output.name, format!("the original gives {own}, the compressed model gives {other}"));
        }
    }
    Ok(())
}

/// Refuses a check of an output that the model does not have.
pub(crate) fn check_names(checks: &[Check], judge: &Judge) -> Result<()> {
    let judged = |check: &&Check| check.output.as_ref().is_some_and(|name| !judge.names().any(|n| n == name));
    match checks.iter().find(judged) {
        None => Ok(()),
        Some(check) => {
            let (name, known) = (check.output.as_deref().unwrap_or_default(), judge.names().collect::<Vec<_>>());
            let message = format!(
                "--{} names '{name}', not an output that is compared, those are {}",
                check.kind.name(),
                known.join(", ")
            );
            Err(Error::new(ErrorKind::Usage, message))
        }
    }
}

fn verdict(
    scope: VerifyScope,
    reason: Option<String>,
    settings: &VerifySettings<'_>,
    outputs: Vec<Figures>,
) -> Verdict {
    let Held { checked, unbound, mut failures } = hold(settings.checks, &outputs);
    failures.extend(outputs.iter().filter_map(not_comparable));
    if !outputs.is_empty() && outputs.iter().all(|f| f.elements + f.nan + f.infinite + f.non_finite == 0) {
        failures.push("every output is empty in every sample: nothing was compared".to_owned());
    }
    let mut warnings: Vec<String> = settings.checks.iter().filter_map(|check| not_bound(check, &unbound)).collect();
    warnings.extend(outputs.iter().filter_map(uncounted));
    Verdict {
        engine: ENGINE,
        scope,
        reason,
        samples: settings.samples.len(),
        smoke_test: settings.samples.made_up,
        calibrated_on: settings.calibrated_on.map(str::to_owned),
        outputs,
        loss: None,
        loss_worst: None,
        loss_mean: None,
        checks: checked,
        unbound,
        passed: failures.is_empty(),
        failures,
        warnings,
    }
}

/// Whether an output counts where nobody names it: it depends on what differs, or differs itself.
pub(crate) fn counts(figures: &Figures) -> bool {
    let differs = figures.max_abs.is_some_and(|d| d > 0.0) || figures.agreement.is_some_and(|a| a < 1.0);
    figures.reached || differs || figures.non_finite > 0
}

/// Whether both models give one number and nothing else: what they compute is lost on the way.
fn is_constant(figures: &Figures) -> bool {
    figures.constant && figures.max_abs == Some(0.0)
}

/// Why an output fails whatever the checks are.
fn not_comparable(figures: &Figures) -> Option<String> {
    let Figures { name, non_finite, nan, infinite, elements, .. } = figures;
    if *non_finite > 0 {
        return Some(format!("output '{name}': {non_finite} elements are NaN or infinite in one of the models only"));
    }
    let all = nan + infinite;
    (counts(figures) && *elements == 0 && all > 0).then(|| {
        format!("output '{name}': all {all} elements are NaN or infinite in both models: nothing was compared")
    })
}

/// What the figures of an output leave out.
fn uncounted(figures: &Figures) -> Option<String> {
    let Figures { name, nan, undecided, elements, .. } = figures;
    (*nan > 0).then(|| {
        let all = elements + nan + figures.infinite + figures.non_finite;
        let rows = if *undecided > 0 { format!("; {undecided} rows with NaN have no decision") } else { String::new() };
        format!("output '{name}': {nan} of {all} elements are NaN in both models and not counted{rows}")
    })
}

/// The outputs that a check of all does not bind.
fn not_bound(check: &Check, unbound: &[Unbound]) -> Option<String> {
    let of = unbound.iter().filter(|u| check.output.is_none() && u.check == check.kind.name());
    let names: Vec<String> = of.map(|u| format!("'{}' ({})", u.output, u.reason)).collect();
    let (kind, limit) = (check.kind.name(), short(check.limit));
    (!names.is_empty()).then(|| format!("--{kind} {limit} does not apply to {}", names.join(", ")))
}

/// Why a check says nothing of an output.
fn unbound_reason(kind: CheckKind, figures: &Figures) -> &'static str {
    match kind {
        _ if !counts(figures) => "nothing that differs between the models reaches it",
        _ if figures.elements == 0 => "no element of it could be compared",
        _ if is_constant(figures) => "both models give one constant",
        CheckKind::MaxNmse | CheckKind::MinSnr => "it holds integers: use --min-agreement",
        CheckKind::MinAgreement => "it has fewer than two classes",
        CheckKind::MaxAbs | CheckKind::MaxKl => "it has no such figure",
    }
}

/// What checks come to.
struct Held {
    checked: Vec<Checked>,
    unbound: Vec<Unbound>,
    failures: Vec<String>,
}

/// Holds every check against the outputs that it is for; a check that cannot be held against any fails.
fn hold(checks: &[Check], outputs: &[Figures]) -> Held {
    let mut held = Held { checked: Vec::new(), unbound: Vec::new(), failures: Vec::new() };
    for check in checks {
        let own: BTreeSet<&str> =
            checks.iter().filter(|g| g.kind == check.kind).filter_map(|g| g.output.as_deref()).collect();
        let is_for =
            |f: &&Figures| check.output.as_ref().map_or(!own.contains(f.name.as_str()), |name| *name == f.name);
        let mut bound = false;
        for figures in outputs.iter().filter(is_for) {
            let counted = counts(figures) && !is_constant(figures);
            let value = check.kind.value(figures).filter(|_| check.output.is_some() || counted);
            let Some(value) = value else {
                let reason = unbound_reason(check.kind, figures);
                held.unbound.push(Unbound { output: figures.name.clone(), check: check.kind.name(), reason });
                continue;
            };
            let passed = if check.kind.is_minimum() { value >= check.limit } else { value <= check.limit };
            bound = true;
            if !passed {
                held.failures.push(failure(check, figures, value));
            }
            held.checked.push(Checked {
                output: figures.name.clone(),
                check: check.kind.name(),
                limit: check.limit,
                value: value.is_finite().then_some(value),
                passed,
            });
        }
        let mut counted = outputs.iter().filter(|f| counts(f)).peekable();
        let spoken_for = check.output.is_none() && counted.peek().is_some() && counted.all(|f| own.contains(&*f.name));
        if !bound && !spoken_for {
            let of = check.output.as_ref().map_or_else(|| "any output".to_owned(), |name| format!("output '{name}'"));
            let which = if outputs.iter().any(counts) { "" } else { " and depends on what differs between the models" };
            held.failures.push(format!("--{} does not apply to {of} that was run{which}", check.kind.name()));
        }
    }
    held
}

/// `output 'y': nmse 0.013 is above --max-nmse 0.01 (by 0.003)`
fn failure(check: &Check, figures: &Figures, value: f64) -> String {
    let (name, kind, limit) = (&figures.name, check.kind.name(), short(check.limit));
    let figure = match check.kind {
        CheckKind::MaxAbs => format!("max abs {}", short(value)),
        CheckKind::MaxNmse => format!("nmse {}", short(value)),
        CheckKind::MinSnr => format!("snr {} dB", short(value)),
        CheckKind::MinAgreement => format!("agreement {}", short(value)),
        CheckKind::MaxKl => format!("kl {}", short(value)),
    };
    let side = if check.kind.is_minimum() { "below" } else { "above" };
    format!("output '{name}': {figure} is {side} --{kind} {limit} (by {})", short((check.limit - value).abs()))
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
fn without_runs(
    original: &Model,
    compressed: &Model,
    settings: &VerifySettings<'_>,
    why: &Error,
    not_finite: Vec<String>,
) -> Result<Verdict> {
    if why.kind() == ErrorKind::Limit {
        return Err(Error::new(ErrorKind::Engine, format!("could not be verified: {why}")));
    }
    let mut verdict = layers::verify(original, compressed, settings, why)?;
    verdict.fail(not_finite);
    Ok(verdict)
}

/// Says that it is the compressed model that cannot be run.
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
            elements: 100,
            reached: true,
            ..Figures::default()
        }
    }

    fn check(kind: CheckKind, output: Option<&str>, limit: f64) -> Check {
        Check { kind, output: output.map(str::to_owned), limit }
    }

    #[test]
    fn a_failure_says_which_output_failed_what_by_how_much() {
        let failures = |g| hold(&[g], &[figures("y")]).failures;
        assert_eq!(
            failures(check(CheckKind::MaxNmse, None, 0.01)),
            ["output 'y': nmse 0.013 is above --max-nmse 0.01 (by 0.003)"]
        );
        assert_eq!(
            failures(check(CheckKind::MinSnr, Some("y"), 20.0)),
            ["output 'y': snr 18.9 dB is below --min-snr 20 (by 1.1)"]
        );
        assert!(failures(check(CheckKind::MinAgreement, None, 0.97)).is_empty());
    }

    #[test]
    fn a_check_of_its_own_replaces_that_of_all() {
        let checks = [check(CheckKind::MaxAbs, None, 0.1), check(CheckKind::MaxAbs, Some("y"), 1.0)];
        let Held { checked, failures, .. } = hold(&checks, &[figures("y"), figures("z")]);
        assert_eq!(failures, ["output 'z': max abs 0.5 is above --max-abs 0.1 (by 0.4)"]);
        assert_eq!(checked.len(), 2);
        assert!(hold(&checks, &[figures("y")]).failures.is_empty());
    }

    #[test]
    fn strain_is_above_one_where_a_check_fails() {
        let of = |kind, limit| strain(&[check(kind, None, limit)], &[figures("y")]);
        for (kind, limit, expected) in [
            (CheckKind::MaxNmse, 0.026, 0.5),
            (CheckKind::MaxAbs, 0.25, 4.0),
            (CheckKind::MinSnr, 28.9, 10.0),
            (CheckKind::MinAgreement, 0.94, 0.25),
            (CheckKind::MinAgreement, 1.0, f64::INFINITY),
        ] {
            let found = of(kind, limit).expect("it applies");
            assert!(found == expected || (found - expected).abs() < 1e-9, "{kind:?} {limit}: {found}");
        }
        assert_eq!(of(CheckKind::MaxKl, 1.0).expect_err("there is no divergence").kind(), ErrorKind::Usage);
        let broken = Figures { non_finite: 1, ..figures("y") };
        assert_eq!(strain(&[check(CheckKind::MaxNmse, None, 1.0)], &[broken]).expect("it applies"), f64::INFINITY);
    }

    #[test]
    fn a_check_without_meaning_fails() {
        let kl = |output| hold(&[check(CheckKind::MaxKl, output, 1.0)], &[figures("y")]).failures;
        assert_eq!(kl(None), ["--max-kl does not apply to any output that was run"]);
        assert_eq!(kl(Some("z")), ["--max-kl does not apply to output 'z' that was run"]);
    }

    #[test]
    fn an_exact_match_passes_and_a_changed_constant_does_not() {
        let exact = Figures { max_abs: Some(0.0), rmse: Some(0.0), nmse: Some(0.0), snr_db: None, ..figures("y") };
        let constant = Figures { constant: true, nmse: None, snr_db: None, ..figures("y") };
        let checks = [check(CheckKind::MinSnr, None, 90.0), check(CheckKind::MaxNmse, None, 0.1)];
        let Held { checked, failures, .. } = hold(&checks, &[exact]);
        assert!(failures.is_empty() && checked[0].value.is_none());
        assert_eq!(hold(&checks, &[constant]).failures.len(), 2);
    }

    #[test]
    fn a_check_of_all_is_not_met_by_an_output_that_stays_the_same() {
        let constant = Figures {
            max_abs: Some(0.0),
            rmse: Some(0.0),
            nmse: Some(0.0),
            snr_db: None,
            agreement: None,
            reached: false,
            ..figures("version")
        };
        let label = Figures {
            rmse: None,
            nmse: None,
            snr_db: None,
            agreement: Some(0.6),
            max_abs: Some(3.0),
            ..figures("label")
        };
        let both = [label, constant.clone()];
        let snr = hold(&[check(CheckKind::MinSnr, None, 20.0)], &both);
        assert_eq!(snr.failures, ["--min-snr does not apply to any output that was run"]);
        assert_eq!(snr.unbound.iter().map(|u| &*u.output).collect::<Vec<_>>(), ["label", "version"]);
        let agreement = hold(&[check(CheckKind::MinAgreement, None, 0.9)], &both);
        assert_eq!(agreement.failures, ["output 'label': agreement 0.6 is below --min-agreement 0.9 (by 0.3)"]);
        assert!(hold(&[check(CheckKind::MinSnr, Some("version"), 20.0)], &both).failures.is_empty(), "it is named");
        let none = hold(&[check(CheckKind::MinSnr, None, 20.0)], std::slice::from_ref(&constant)).failures;
        assert!(none[0].ends_with("depends on what differs between the models"), "{none:?}");
        let lost = Figures { constant: true, reached: true, ..constant.clone() };
        assert_eq!(
            hold(&[check(CheckKind::MinSnr, None, 20.0)], &[lost]).unbound[0].reason,
            "both models give one constant"
        );
        let differs = Figures { max_abs: Some(0.5), snr_db: Some(3.0), ..constant };
        assert_eq!(
            hold(&[check(CheckKind::MinSnr, None, 20.0)], &[differs]).failures.len(),
            1,
            "it counts all the same"
        );
    }

    #[test]
    fn nothing_but_nan_is_a_failure_and_some_is_told() {
        let nan = Figures { nan: 10, elements: 0, undecided: 5, max_abs: None, agreement: None, ..figures("y") };
        assert!(not_comparable(&nan).is_some_and(|why| why.contains("all 10 elements are NaN or infinite in both")));
        assert_eq!(not_comparable(&Figures { reached: false, ..nan.clone() }), None, "it is so in any case");
        let some = Figures { elements: 30, ..nan };
        assert_eq!(not_comparable(&some), None);
        let told = uncounted(&some).expect("ten are");
        assert!(told.contains("10 of 40 elements") && told.contains("5 rows with NaN have no decision"), "{told}");
    }

    #[test]
    fn errors_too_small_to_be_squared_are_no_exact_match() {
        let tiny = Figures { max_abs: Some(1e-200), rmse: Some(0.0), nmse: None, snr_db: None, ..figures("y") };
        let checks = [check(CheckKind::MinSnr, None, 20.0), check(CheckKind::MaxNmse, None, 0.1)];
        assert_eq!(hold(&checks, &[tiny]).failures.len(), 2);
    }

    #[test]
    fn numbers_are_shown_short() {
        for (value, text) in [(0.0, "0"), (0.013, "0.013"), (18.94444, "18.94"), (2e-5, "2.000e-5"), (120.0, "120")] {
            assert_eq!(short(value), text);
        }
        assert_eq!((short(123456.7), short(-0.5)), ("123457".to_owned(), "-0.5".to_owned()));
    }
}
