//! What happened, as plain figures, and printers that show them: tables for a terminal, JSON for scripts, a page for the
//! browser, Markdown for a comment, JUnit for CI.
//!
//! [`Report`], [`Sweep`] and [`Inspection`] are data; a printer ([`table`] and its siblings) reads them and nothing else.
//! The JSON is a contract (`"schema": 1`): keys are snake_case, they are added to but never renamed, and a figure that
//! was not measured or has no meaning is null, never 0. Names come from the model: the JSON holds them as they are, every
//! other printer escapes them.

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
mod size;
mod sweep;
pub mod table;
mod units;

use std::path::Path;

use serde::Serialize;

use crate::coding::MultiplyAdds;
use crate::compress::Job;
use crate::encode::Assigned;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;
use crate::verify::Verdict;
use crate::{onnx, recurrent, tune};

pub use bench::{Bench, Benched};
pub use inspection::{Inspection, Node, Value, Weight, made_by};
pub use size::{Bytes, duration};
pub use sweep::{Point, Sweep};

/// The version of the JSON.
pub const SCHEMA: u32 = 1;

/// A result that can be shown.
pub trait Show {
    /// For a terminal, at most 80 columns wide as long as no name forbids it.
    fn table(&self, style: &table::Style) -> String;

    /// For scripts.
    ///
    /// # Errors
    /// If a figure cannot be written as JSON.
    fn json(&self) -> Result<String>;

    /// A page for the browser that needs nothing but itself: no script, no network.
    fn html(&self) -> String {
        html::plain(&self.table(&table::Style::default()))
    }

    /// For a comment on a pull request, or the summary of a CI job.
    fn markdown(&self) -> String {
        markdown::plain(&self.table(&table::Style::default()))
    }

    /// For the test reports of CI systems: a test case for each gate.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if nothing was judged.
    fn junit(&self) -> Result<String> {
        Err(Error::new(ErrorKind::Usage, "JUnit shows what was judged, and nothing was: use 'dirnet verify'"))
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
    /// The type that a file's extension stands for.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if it stands for none.
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

/// What `compress`, `verify` and `plan` tell.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// What it was asked to do.
    pub command: Command,
    /// The whole file.
    pub model: Model,
    /// The weights of the nodes that are compressed; none when two given files were compared.
    pub recurrent: Option<Recurrent>,
    /// Every gate block, in the order of the nodes.
    pub units: Vec<Unit>,
    /// Recurrent nodes that were left as they are.
    pub skipped: Vec<Skipped>,
    /// The form of every node that is compressed, and the reason where it is not the one that was asked for.
    pub forms: Vec<NodeForm>,
    /// The loss that sensitivities and distortions predict for the calibration samples, `sum_u s_u D_u`; to be held
    /// against the verdict's. None without measured sensitivities.
    pub predicted_loss: Option<f64>,
    /// What tuning did, if it ran.
    pub tuning: Option<Vec<Tuning>>,
    /// Sizes that were looked at, and what they lose: what another ratio would cost.
    pub tradeoff: Vec<Tradeoff>,
    /// How the model was made: the note in the file.
    pub settings: Option<serde_json::Value>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How far original and result are apart, if they were run.
    pub verify: Option<Verdict>,
    /// Time per phase.
    pub seconds: Seconds,
}

/// A plan and what it came to.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// How each unit is stored.
    pub plan: &'a Plan,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Distortion of each unit, if it was learned.
    pub distortion: Option<&'a [f64]>,
    /// Loss at the output per distortion of each unit, if it was measured.
    pub sensitivity: Option<&'a [f64]>,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A model was made smaller.
    Compress,
    /// Two models were compared.
    Verify,
    /// A budget was made, and no model.
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
pub struct Model {
    /// The original.
    pub path: String,
    /// The result; none if nothing was written.
    pub output: Option<String>,
    /// Bytes of the original with its external data.
    pub bytes_before: u64,
    /// Bytes of the result, or what they would be.
    pub bytes_after: Option<u64>,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// The version of the default operator set of the result.
    pub opset: i64,
    /// Who made the original, by its own word.
    pub producer: Option<String>,
}

/// The weights of the compressed nodes before and after.
#[derive(Clone, Debug, Serialize)]
pub struct Recurrent {
    /// Stored bytes of the distinct W and R constants.
    pub bytes_before: u64,
    /// Everything in the file that replaces them.
    pub bytes_after: u64,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// Weights in the distinct constants.
    pub parameters: u64,
    /// What a step takes.
    pub multiply_adds: MultiplyAdds,
}

/// A size, and what it loses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tradeoff {
    /// Recurrent weights before over after.
    pub ratio: Option<f64>,
    /// Bytes of the whole file.
    pub bytes_after: u64,
    /// Mean loss of the outputs.
    pub loss: f64,
    /// Whether the models were run; else the loss is what sensitivities predict.
    pub measured: bool,
}

/// One gate block of W or R.
#[derive(Clone, Debug, Serialize)]
pub struct Unit {
    /// The node's name.
    pub node: String,
    /// `LSTM`, `GRU` or `RNN`.
    pub op: String,
    /// `W` or `R`.
    pub tensor: String,
    /// `forward` or `reverse`.
    pub direction: String,
    /// `i o f c` or `z r h`.
    pub gate: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// How it is coded.
    pub codec: String,
    /// All stored bits of the unit over its weights.
    pub bits_per_weight: f64,
    /// Stored bytes before.
    pub bytes_before: u64,
    /// Stored bytes after, with the unit's share of what it shares with others.
    pub bytes_after: u64,
    /// Loss at the model's output per distortion, if it was measured.
    pub sensitivity: Option<f64>,
    /// `tr((W - W^) S (W - W^)^T)`.
    pub distortion: Option<f64>,
    /// `tr(W S W^T)`: the distortion of storing nothing.
    pub energy: Option<f64>,
}

/// A recurrent node that is left alone.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// Whether the reason is a fault in the model, not just something that is not supported.
    pub warning: bool,
}

impl From<&recurrent::Skipped> for Skipped {
    fn from(skipped: &recurrent::Skipped) -> Self {
        let recurrent::Skipped { node, op, reason, warning } = skipped.clone();
        Skipped { node, op, reason, warning }
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
    /// Why it is not the form that was asked for.
    pub reason: Option<String>,
}

fn forms_of(job: &Job<'_>, forms: Vec<Assigned>) -> Vec<NodeForm> {
    let nodes = job.weights.survey.nodes.iter().zip(forms);
    let row = |(node, Assigned { form, reason }): (&recurrent::RecurrentNode, Assigned)| NodeForm {
        node: node.name.clone(),
        op: node.cell.operator().to_owned(),
        form: form.name(),
        reason,
    };
    nodes.map(row).collect()
}

/// What tuning did to one layer, or to layers that were tuned as one.
#[derive(Clone, Debug, Serialize)]
pub struct Tuning {
    /// The nodes.
    pub nodes: Vec<String>,
    /// What they were to match: `states`, or the name of an output.
    pub target: String,
    /// Whether the tuned values are stored: they are where samples that were left out of the tuning say so.
    pub kept: bool,
    /// Loss on the samples that were left out, before.
    pub before: Option<f64>,
    /// And after.
    pub after: Option<f64>,
    /// Steps of Adam.
    pub steps: Option<u64>,
    /// Why it was not tried, or not kept.
    pub reason: Option<String>,
}

impl From<&tune::Tuned> for Tuning {
    fn from(tuned: &tune::Tuned) -> Self {
        let target = match &tuned.target {
            tune::Target::States => "states".to_owned(),
            tune::Target::Output(name) => name.clone(),
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
            tune::Outcome::Skipped(reason) => Tuning { reason: Some(reason.clone()), ..none },
            tune::Outcome::Kept { before, after, steps, .. } => {
                Tuning { kept: true, before: Some(*before), after: Some(*after), steps: Some(*steps as u64), ..none }
            }
            tune::Outcome::Dropped { before, after, steps, outputs } => Tuning {
                before: Some(*before),
                after: Some(*after),
                steps: Some(*steps as u64),
                reason: outputs.map(|[before, after]| {
                    format!("the loss of the outputs on calibration samples rose from {before:.3e} to {after:.3e}")
                }),
                ..none
            },
        }
    }
}

/// Seconds per phase; none for a phase that did not run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Reading the models and the samples.
    pub load: Option<f64>,
    /// Running the original for second moments.
    pub calibrate: Option<f64>,
    /// Learning dictionaries and codes.
    pub learn: Option<f64>,
    /// Choosing per unit.
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
    /// What a job came to, but for what only its caller knows: warnings, verdict, output, time of loading.
    #[must_use]
    pub fn of_job(command: Command, job: &Job<'_>, outcome: &Outcome<'_>) -> Self {
        let mut report = Report::between(command, job.model, job.model);
        let survey = &job.weights.survey;
        let before = survey.stored_bytes();
        let after = (outcome.bytes + before).saturating_sub(job.model.bytes());
        report.model.bytes_after = Some(outcome.bytes);
        report.model.ratio = ratio(job.model.bytes(), outcome.bytes);
        let storage = |unit: usize| outcome.plan.choices[unit].storage();
        let forms = job.weights.forms(job.model, job.writing.request, storage);
        report.recurrent = Some(Recurrent {
            bytes_before: before,
            bytes_after: after,
            ratio: ratio(before, after),
            parameters: job.weights.parameters(),
            multiply_adds: job.weights.work(&outcome.plan.choices, &forms),
        });
        report.units = units::of_plan(job, outcome, after);
        report.settings = serde_json::from_str(&job.writing.note).ok();
        report.skipped = survey.skipped.iter().map(Skipped::from).collect();
        report.forms = forms_of(job, forms);
        let ran = |seconds: f64| (seconds > 0.0).then_some(seconds);
        report.seconds = Seconds {
            calibrate: ran(job.seconds.calibrate),
            learn: ran(job.seconds.learn),
            allocate: ran(job.seconds.allocate),
            tune: ran(job.seconds.tune),
            encode: ran(job.seconds.encode),
            ..Seconds::default()
        };
        report
    }

    /// The sizes of two models; what else there is to tell is to be filled in.
    #[must_use]
    pub fn between(command: Command, original: &onnx::Model, result: &onnx::Model) -> Self {
        let (before, after) = (original.bytes(), result.bytes());
        Report {
            schema: SCHEMA,
            tool: Tool::default(),
            command,
            model: Model {
                path: path_of(original),
                output: None,
                bytes_before: before,
                bytes_after: Some(after),
                ratio: ratio(before, after),
                opset: result.opset(),
                producer: producer_of(original),
            },
            recurrent: None,
            units: Vec::new(),
            predicted_loss: None,
            tuning: None,
            tradeoff: Vec::new(),
            settings: None,
            skipped: Vec::new(),
            forms: Vec::new(),
            warnings: Vec::new(),
            verify: None,
            seconds: Seconds::default(),
        }
    }
}

impl Show for Report {
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

/// `before / after`, if it has a meaning.
#[must_use]
pub fn ratio(before: u64, after: u64) -> Option<f64> {
    (before > 0 && after > 0).then(|| before as f64 / after as f64)
}

/// Where a model was read from, as text.
fn path_of(model: &onnx::Model) -> String {
    model.path().map_or_else(String::new, |path| path.to_string_lossy().into_owned())
}

/// Who made a model, by its own word.
fn producer_of(model: &onnx::Model) -> Option<String> {
    let proto = &model.proto;
    let name = proto.producer_name.as_deref().filter(|name| !name.is_empty())?;
    Some(match proto.producer_version.as_deref().filter(|version| !version.is_empty()) {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    })
}
