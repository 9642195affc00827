//! Reports as plain data, and their printers: tables for a terminal, JSON for scripts, a page for the
//! browser, Markdown for a comment, JUnit for CI.
//!
//! [`Report`], [`Sweep`] and [`Inspection`] are data; a printer ([`table`] and its siblings) reads them and nothing else.
//! The JSON is a contract (`"schema": 1`): keys are snake_case, keys may be added but are never renamed, and a figure that
//! was not measured or is undefined is null, never 0. Names come from the model: the JSON contains them unchanged, all
//! other printers escape them.

mod answer;
mod bench;
#[cfg(test)]
mod example;
mod grid;
mod html;
mod inspection;
mod json;
mod junit;
mod markdown;
mod markup;
mod several;
mod size;
mod sweep;
#[cfg(feature = "cli")]
pub mod table;
mod units;

use std::path::Path;

use serde::Serialize;

use crate::compress::{Compressed, Compressor, Look, Planned, Searched, Study};
use crate::encode::{Assigned, Forms, MultiplyAdds};
use crate::error::{Error, ErrorKind, Escaped, Result};
use crate::plan::Plan;
use crate::sites::PerSite;
use crate::verify::Verdict;
use crate::{lossless, onnx, recurrent, tune};

pub use answer::{Answer, Grade, SuggestedCheck};
pub use bench::{Bench, Benched};
pub use inspection::{InspectedMatrix, InspectedValue, InspectedWeight, Inspection, Node, made_by};
pub use several::{ModelShare, Several, SizePoint, Total};
pub use size::{Bytes, duration};
pub use sweep::{Sweep, SweepPoint};

/// The ratios whose losses a report predicts.
const FORECAST: [f64; 8] = [2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0];

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// A result that can be shown.
pub trait Show {
    /// As text, for a page that has no layout of its own: the table for a terminal, or JSON in a build without tables.
    fn text(&self) -> String {
        #[cfg(feature = "cli")]
        let text = self.table(&table::Style::default());
        #[cfg(not(feature = "cli"))]
        let text = self.json().unwrap_or_default();
        text
    }

    /// For a terminal, at most 80 columns wide unless a name is too long.
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String;

    /// For scripts.
    ///
    /// # Errors
    /// If a figure cannot be written as JSON.
    fn json(&self) -> Result<String>;

    /// A self-contained page for the browser: no script, no network.
    fn html(&self) -> String {
        html::plain(&self.text())
    }

    /// For a comment on a pull request, or the summary of a CI job.
    fn markdown(&self) -> String {
        markdown::plain(&self.text())
    }

    /// For the test reports of CI systems: a test case for each output and each check.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if nothing was verified.
    fn junit(&self) -> Result<String> {
        Err(Error::new(ErrorKind::Usage, "JUnit output needs verification: use 'dirnet verify'"))
    }
}

/// The types of report files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFormat {
    /// `.json`
    Json,
    /// `.html`
    Html,
    /// `.md`
    Markdown,
    /// `.xml`
    Junit,
}

impl FileFormat {
    /// The type of a file's extension.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown extension.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(FileFormat::Json),
            Some("html") => Ok(FileFormat::Html),
            Some("md") => Ok(FileFormat::Markdown),
            Some("xml") => Ok(FileFormat::Junit),
            _ => {
                let expected = "unknown type of report, expected a name that ends in .html, .md, .json or .xml (JUnit)";
                Err(Error::new(ErrorKind::Usage, expected).in_file(path))
            }
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// Those of the format.
    pub fn render(self, result: &dyn Show) -> Result<String> {
        match self {
            FileFormat::Json => result.json(),
            FileFormat::Html => Ok(result.html()),
            FileFormat::Markdown => Ok(result.markdown()),
            FileFormat::Junit => result.junit(),
        }
    }
}

/// The report of `compress`, `verify` and `plan`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// The command.
    pub command: Command,
    /// The whole file.
    pub model: FileSizes,
    /// The weights of the nodes that are compressed; `None` for a comparison of two given files.
    pub weights: Option<WeightSizes>,
    /// Those of recurrent nodes among them; `None` if there are none.
    pub recurrent: Option<Recurrent>,
    /// How the file was made smaller before anything was coded, in order.
    pub lossless: Vec<LosslessStep>,
    /// The largest ratio that can be reached; `None` for a comparison of two given files, and where it depends on the samples.
    pub smallest_ratio: Option<f64>,
    /// All units (weight blocks), in the order of the nodes.
    pub units: Vec<Unit>,
    /// Recurrent nodes that are not compressed.
    pub skipped: Vec<SkippedNode>,
    /// The form of each compressed recurrent node, with the reason if it is not the requested one.
    pub forms: Vec<NodeForm>,
    /// The mean loss of the outputs on the calibration samples, which is expected on others, too; of a plan `sum_u s_u D_u`, from
    /// measured sensitivities. Compare it with the measured loss of the verdict.
    pub predicted_loss: Option<f64>,
    /// Between which bounds that of other samples may well be.
    pub predicted_range: Option<[f64; 2]>,
    /// Result of fine-tuning for each layer, if it ran.
    pub tuning: Option<Vec<Tuning>>,
    /// What a search for the smallest file came to, if there was one.
    pub search: Option<Search>,
    /// Other sizes and their loss.
    pub tradeoff: Vec<Tradeoff>,
    /// How much time was spent; `None` for a comparison of two given files, and where nothing was coded.
    pub effort: Option<EffortLevel>,
    /// How the model was made: the note in the file.
    pub settings: Option<serde_json::Value>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Whether the result may be shipped, if it was run: made of everything else by [`judge`](Report::judge).
    pub answer: Option<Answer>,
    /// The comparison of original and result, if they were run.
    pub verify: Option<Verdict>,
    /// Time per phase.
    pub seconds: Seconds,
}

/// A plan and its result.
#[derive(Clone, Copy)]
pub struct PlanOutcome<'a> {
    /// How each unit is stored.
    pub plan: &'a Plan,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Distortion of each unit, if it was learned.
    pub distortion: Option<&'a PerSite<f64>>,
    /// Loss at the output per distortion of each unit, if it was measured.
    pub sensitivity: Option<&'a PerSite<f64>>,
}

/// The command that a report is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// `compress`: a model was compressed.
    Compress,
    /// `verify`: two models were compared.
    Verify,
    /// `plan`: bits were allocated, no model was written.
    Plan,
}

/// The tool that made the report.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    /// Always `dirnet`.
    pub name: &'static str,
    /// The crate's version.
    pub version: &'static str,
}

impl Default for Tool {
    fn default() -> Self {
        Tool { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
    }
}

/// The model's file before and after.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileSizes {
    /// The original.
    pub path: String,
    /// The result; none if nothing was written.
    pub output: Option<String>,
    /// The second file of the result, with what does not fit into one; none if there is none.
    pub output_data: Option<String>,
    /// Bytes of the original with its external data.
    pub bytes_before: u64,
    /// Bytes of the result, or its predicted bytes if it was not written.
    pub bytes_after: Option<u64>,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// The version of the default operator set of the result.
    pub opset: i64,
    /// The producer in the original's metadata.
    pub producer: Option<String>,
}

/// The weights of the compressed nodes before and after.
#[derive(Clone, Debug, Serialize)]
pub struct WeightSizes {
    /// Stored bytes of the distinct constants.
    pub bytes_before: u64,
    /// Bytes of everything in the file that replaces them: codes, codebooks, scales and nodes.
    pub bytes_after: u64,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// Weights in the distinct constants.
    pub parameters: u64,
    /// The same by kind of nodes.
    pub kinds: Vec<KindSizes>,
}

/// The weights of a kind of nodes.
#[derive(Clone, Debug, Serialize)]
pub struct KindSizes {
    /// `recurrent`, `convolution`, `linear` or `embedding`.
    pub kind: &'static str,
    /// Stored bytes.
    pub bytes_before: u64,
    /// Bytes of what replaces them.
    pub bytes_after: u64,
}

/// The weights of recurrent nodes before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Recurrent {
    /// Stored bytes of the distinct W and R constants.
    pub bytes_before: u64,
    /// Bytes of everything in the file that replaces them: codes, codebooks, scales and nodes.
    pub bytes_after: u64,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// Weights in the distinct constants.
    pub parameters: u64,
    /// Multiply-adds of one step.
    pub multiply_adds: MultiplyAdds,
}

/// A step that made the file smaller before anything was coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LosslessStep {
    /// What was done.
    pub step: &'static str,
    /// Bytes that the file lost by it.
    pub bytes: u64,
    /// Whether all values stay the same bit for bit; false where a table is generated.
    pub exact: bool,
}

impl From<&lossless::Saving> for LosslessStep {
    fn from(&lossless::Saving { name, bytes, exact }: &lossless::Saving) -> Self {
        LosslessStep { step: name, bytes, exact }
    }
}

/// What a search for the smallest file came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Search {
    /// The flag that asked for it: `--max-loss 0.01` or `--smallest`.
    pub goal: String,
    /// Calibration samples that were held back for it.
    pub samples: usize,
    /// The loss of the worst output of the result on these samples.
    pub loss: f64,
    /// The next smaller file that was tried and did not do.
    pub next_smaller: Option<Smaller>,
}

/// A file that was too small, before fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Smaller {
    /// Its bytes.
    pub bytes_after: u64,
    /// The loss of its worst output.
    pub loss: f64,
}

impl From<&Searched> for Search {
    fn from(searched: &Searched) -> Self {
        let Searched { goal, samples, loss, next_smaller } = searched.clone();
        let next_smaller = next_smaller.map(|(bytes_after, loss)| Smaller { bytes_after, loss });
        Search { goal, samples, loss, next_smaller }
    }
}

/// How much time was spent, as a level.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffortLevel {
    /// The level of `--effort`: that which a time budget left, or which sets the flags; `None` where some were set by hand.
    pub level: Option<String>,
    /// The flags in force.
    pub flags: String,
    /// Seconds of `--time-budget`, if the level was picked by it.
    pub time_budget: Option<f64>,
}

impl EffortLevel {
    fn of(compressor: &Compressor<'_>) -> EffortLevel {
        EffortLevel {
            level: compressor.level().map(|level| level.to_string()),
            flags: compressor.flags(),
            time_budget: compressor.time_budget().map(|budget| budget.limit.as_secs_f64()),
        }
    }

    /// What a time budget came to, and how to repeat it.
    fn picked(&self) -> Option<String> {
        let (level, limit) = (self.level.as_ref()?, size::duration(self.time_budget?));
        let flags = &self.flags;
        Some(format!(
            "effort {level} ({flags}) is what a time budget of {limit} left: --effort {level} in place of --time-budget gives the \
             same file"
        ))
    }
}

/// A size and its loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tradeoff {
    /// Bytes of the weights before over after.
    pub ratio: Option<f64>,
    /// Bytes of the whole file.
    pub bytes_after: u64,
    /// The loss that is shown: of the worst output if it was measured, else the mean.
    pub loss: f64,
    /// The mean loss of the outputs.
    pub loss_mean: Option<f64>,
    /// The loss of the worst output, which `--max-loss` bounds; none for predicted losses.
    pub loss_worst: Option<f64>,
    /// Whether the loss was measured by running the model; otherwise it is predicted by sensitivities.
    pub measured: bool,
}

/// One unit (weight block): the part of W or R of one gate in one direction, or the weight of a node that is not recurrent.
#[derive(Clone, Debug, Serialize)]
pub struct Unit {
    /// The node's name.
    pub node: String,
    /// The node's operator.
    pub op: String,
    /// `W` or `R`; `weight` of a node that is not recurrent.
    pub tensor: String,
    /// `forward` or `reverse`; empty for `weight`.
    pub direction: String,
    /// `i o f c` or `z r h`; empty for `weight`.
    pub gate: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Its codec with width and sharing, such as `block-4/matrix`.
    pub codec: String,
    /// Stored bits a weight: [`bytes_after`](Self::bytes_after) over the number of weights.
    pub bits_per_weight: f64,
    /// Stored bytes before.
    pub bytes_before: u64,
    /// Stored bytes after, including the unit's part of shared codebooks and nodes.
    pub bytes_after: u64,
    /// Loss at the model's output per distortion, if it was measured.
    pub sensitivity: Option<f64>,
    /// `tr((W - W^) S (W - W^)^T)`.
    pub distortion: Option<f64>,
    /// `tr(W S W^T)`: the distortion if all its weights were zero.
    pub energy: Option<f64>,
}

/// A recurrent node that is not compressed.
#[derive(Clone, Debug, Serialize)]
pub struct SkippedNode {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// Whether the reason is a fault in the model rather than a missing feature.
    pub warning: bool,
}

impl From<&recurrent::Skipped> for SkippedNode {
    fn from(skipped: &recurrent::Skipped) -> Self {
        let recurrent::Skipped { node, op, reason, warning } = skipped.clone();
        SkippedNode { node, op, reason, warning }
    }
}

/// How a node is written.
#[derive(Clone, Debug, Serialize)]
pub struct NodeForm {
    /// The node's name.
    pub node: String,
    /// `LSTM`, `GRU` or `RNN`.
    pub op: String,
    /// `portable`, `fast` or `ort`.
    pub form: &'static str,
    /// Why it is not the requested form.
    pub reason: Option<String>,
}

fn forms_of(study: &Study<'_>, forms: Vec<Assigned>) -> Vec<NodeForm> {
    assert_eq!(study.weights.survey.nodes.len(), forms.len(), "each node has a form");
    let nodes = study.weights.survey.nodes.iter().zip(forms);
    let row = |(node, Assigned { form, reason }): (&recurrent::RecurrentNode, Assigned)| NodeForm {
        node: node.name.clone(),
        op: node.cell.operator().to_owned(),
        form: form.name(),
        reason,
    };
    nodes.map(row).collect()
}

/// [`Tuning::target`] of a layer that is tuned to reproduce the hidden states of the original.
const STATES: &str = "states";

/// Result of fine-tuning one layer, or layers that were tuned together.
#[derive(Clone, Debug, Serialize)]
pub struct Tuning {
    /// The nodes.
    pub nodes: Vec<String>,
    /// The target: `states` (hidden states of the original), or the name of an output.
    pub target: String,
    /// Whether the tuned values are kept: they are if the loss on held-out samples is lower.
    pub kept: bool,
    /// Loss on held-out samples before tuning.
    pub before: Option<f64>,
    /// And after tuning.
    pub after: Option<f64>,
    /// Steps of Adam.
    pub steps: Option<u64>,
    /// Why it was skipped, or not kept.
    pub reason: Option<String>,
}

impl From<&tune::Tuned> for Tuning {
    fn from(tuned: &tune::Tuned) -> Self {
        let target = match &tuned.target {
            tune::TuneTarget::States => STATES.to_owned(),
            tune::TuneTarget::Output(name) => name.clone(),
        };
        let none = Tuning {
            nodes: tuned.nodes.clone(),
            target,
            kept: false,
            before: None,
            after: None,
            steps: None,
            reason: None,
        };
        match &tuned.outcome {
            tune::LayerOutcome::Skipped(reason) => Tuning { reason: Some(reason.clone()), ..none },
            tune::LayerOutcome::Kept { before, after, steps, .. } => {
                Tuning { kept: true, before: Some(*before), after: Some(*after), steps: Some(*steps as u64), ..none }
            }
            tune::LayerOutcome::Dropped { before, after, steps, outputs } => Tuning {
                before: Some(*before),
                after: Some(*after),
                steps: Some(*steps as u64),
                reason: outputs.map(|[before, after]| {
                    format!("it raised the loss of the outputs on calibration samples from {before:.3e} to {after:.3e}")
                }),
                ..none
            },
        }
    }
}

/// Seconds per phase; `None` for a phase that did not run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Reading the models and the samples.
    pub load: Option<f64>,
    /// Running the original for second moments.
    pub calibrate: Option<f64>,
    /// Learning dictionaries and codes.
    pub learn: Option<f64>,
    /// Measuring sensitivities and allocating bits.
    pub allocate: Option<f64>,
    /// Tuning.
    pub tune: Option<f64>,
    /// Writing codes into the graph, and the file.
    pub encode: Option<f64>,
    /// Running both models.
    pub verify: Option<f64>,
    /// From start to end.
    pub total: f64,
}

impl Report {
    /// What a compression came to, but for what only its caller knows: verdict, output, time of loading.
    ///
    /// # Panics
    /// If the compressor has been [released](Compressor::release).
    #[must_use]
    pub fn of_compressed(compressor: &Compressor<'_>, result: &Compressed) -> Self {
        let mut report = Report::of(Command::Compress, compressor, &result.planned);
        report.warnings = result.warnings.clone();
        report.model.opset = result.model.opset();
        report.tuning = result.tuning.as_ref().map(|tuned| tuned.layers.iter().map(Into::into).collect());
        report
    }

    /// What a plan is expected to come to, but for what only its caller knows.
    ///
    /// # Panics
    /// As [`of_compressed`](Self::of_compressed).
    #[must_use]
    pub fn of_planned(compressor: &Compressor<'_>, planned: &Planned) -> Self {
        Report::of(Command::Plan, compressor, planned)
    }

    fn of(command: Command, compressor: &Compressor<'_>, planned: &Planned) -> Self {
        let study = compressor.study().expect("a plan is made of a study, which is released after the report");
        let outcome = PlanOutcome {
            plan: &planned.plan,
            bytes: planned.bytes,
            distortion: planned.distortion.as_ref(),
            sensitivity: planned.sensitivity.as_deref(),
        };
        let mut report = Report::of_study(command, compressor, study, &outcome);
        report.lossless = compressor.lossless().iter().map(Into::into).collect();
        report.search = compressor.searched().map(Into::into);
        report.smallest_ratio = compressor.smallest_ratio();
        report.effort = Some(EffortLevel::of(compressor));
        report.predicted_loss = planned.predicted_loss;
        report.predicted_range = planned.predicted_range;
        report.warnings = compressor.warnings();
        report
    }

    /// Sizes and their losses: those that a search for a loss looked at, else what sensitivities predict.
    ///
    /// # Errors
    /// As [`Compressor::forecast`].
    pub fn tradeoff(compressor: &Compressor<'_>) -> Result<Vec<Tradeoff>> {
        let before = compressor.before().stored_bytes();
        let kept = compressor.kept();
        let mut looks: Vec<Look> = compressor.looks().collect();
        if looks.is_empty() {
            looks = compressor.forecast(&FORECAST)?;
        }
        let point = |Look { bytes, loss_mean, loss_worst, measured }: Look| {
            let ratio = ratio(before, bytes.saturating_sub(kept));
            let loss = loss_worst.or(loss_mean)?;
            Some(Tradeoff { ratio, bytes_after: bytes, loss, loss_mean, loss_worst, measured })
        };
        Ok(looks.into_iter().filter_map(point).collect())
    }

    /// What a study came to under a plan.
    fn of_study(command: Command, compressor: &Compressor<'_>, study: &Study<'_>, outcome: &PlanOutcome<'_>) -> Self {
        let original = compressor.original();
        let mut report = Report::between(command, original, original);
        let survey = &study.weights.survey;
        let after = outcome.bytes.saturating_sub(compressor.kept());
        report.model.bytes_after = Some(outcome.bytes);
        report.model.ratio = ratio(original.bytes(), outcome.bytes);
        let choices = &outcome.plan.choices;
        let forms = Forms::new(&study.model, &study.weights);
        let assigned = forms.assign(study.writing().request, &|id| choices[id].storage());
        report.units = units::of_plan(study, compressor.before(), outcome, after);
        // Nodes that coding removes, or would, are no weights: rows add up to their sum.
        let after = report.units.iter().map(|unit| unit.bytes_after).sum();
        let weights = units::totals(compressor.before(), study.weights.parameters(), &report.units, after);
        let of_kind = weights.kinds.iter().find(|kind| kind.kind == units::RECURRENT);
        let is_recurrent = |unit: &&Unit| units::kind(&unit.op) == units::RECURRENT;
        report.recurrent = of_kind.map(|kind| Recurrent {
            bytes_before: compressor.before().survey.stored_bytes(),
            bytes_after: kind.bytes_after,
            ratio: ratio(compressor.before().survey.stored_bytes(), kind.bytes_after),
            parameters: report.units.iter().filter(is_recurrent).map(|unit| unit.weights() as u64).sum(),
            multiply_adds: forms.work(choices, &assigned),
        });
        report.weights = Some(weights);
        report.settings = serde_json::from_str(&study.writing().note).ok();
        report.skipped = survey.skipped.iter().map(SkippedNode::from).collect();
        report.forms = forms_of(study, assigned);
        let ran = |seconds: f64| (seconds > 0.0).then_some(seconds);
        report.seconds = Seconds {
            calibrate: ran(study.seconds.calibrate),
            learn: ran(study.seconds.learn),
            allocate: ran(study.seconds.allocate),
            tune: ran(study.seconds.tune),
            encode: ran(study.seconds.encode),
            ..Seconds::default()
        };
        report
    }

    /// A report with the sizes of two models; the caller fills in the rest.
    #[must_use]
    pub fn between(command: Command, original: &onnx::Model, result: &onnx::Model) -> Self {
        let (before, after) = (original.bytes(), result.bytes());
        Report {
            schema: SCHEMA,
            tool: Tool::default(),
            command,
            model: FileSizes {
                path: path_of(original),
                output: None,
                output_data: None,
                bytes_before: before,
                bytes_after: Some(after),
                ratio: ratio(before, after),
                opset: result.opset(),
                producer: producer_of(original),
            },
            weights: None,
            recurrent: None,
            lossless: Vec::new(),
            smallest_ratio: None,
            units: Vec::new(),
            predicted_loss: None,
            predicted_range: None,
            tuning: None,
            search: None,
            tradeoff: Vec::new(),
            effort: None,
            settings: None,
            skipped: Vec::new(),
            forms: Vec::new(),
            warnings: Vec::new(),
            answer: None,
            verify: None,
            seconds: Seconds::default(),
        }
    }

    /// The error of a result whose checks failed, with the ratio at which the curve of the report expects them to pass.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        let verdict = self.verify.as_ref().filter(|verdict| !verdict.passed)?;
        let ratio = answer::expected_ratio(self, verdict).filter(|_| verdict.checks.iter().any(|check| !check.passed));
        let way = ratio.map_or_else(String::new, |ratio| format!("; --ratio {ratio} is expected to pass"));
        Some(Error::new(ErrorKind::Check, format!("{}{way}", verdict.failures.join("; "))))
    }

    /// Answers whether the result may be shipped, from all that the report holds by now.
    pub fn judge(&mut self) {
        self.answer = Answer::of(self);
    }

    /// Notes where the result was written, with its second file if there is one.
    pub fn written_to(&mut self, path: &Path) {
        let side = Some(onnx::model::side_path(path)).filter(|side| side.is_file());
        self.model.output = Some(path.to_string_lossy().into_owned());
        self.model.output_data = side.map(|side| side.to_string_lossy().into_owned());
    }
}

/// A word of a command for a shell; names from a file may hold anything.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=-+,@%".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", Escaped(word).to_string().replace('\'', r"'\''")),
    }
}

impl Show for Report {
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String {
        table::report(self, style)
    }

    fn json(&self) -> Result<String> {
        json::text(self)
    }

    fn html(&self) -> String {
        html::report(self)
    }

    fn markdown(&self) -> String {
        markdown::report(self)
    }

    fn junit(&self) -> Result<String> {
        junit::report(self)
    }
}

/// `before / after`, if it is defined.
#[must_use]
pub fn ratio(before: u64, after: u64) -> Option<f64> {
    (before > 0 && after > 0).then(|| before as f64 / after as f64)
}

/// Where a model was read from, as text.
fn path_of(model: &onnx::Model) -> String {
    model.path().map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

/// The producer in a model's metadata.
fn producer_of(model: &onnx::Model) -> Option<String> {
    let proto = &model.proto;
    let name = proto.producer_name.as_deref().filter(|name| !name.is_empty())?;
    Some(match proto.producer_version.as_deref().filter(|version| !version.is_empty()) {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    })
}
