//! Groups of flags that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum, ValueHint};
use dirnet::compress;
use dirnet::onnx::model::side_path;
use dirnet::onnx::{LoadOptions, Model, atomic};
use dirnet::recurrent::FindOptions;
use dirnet::report::FileFormat;
use dirnet::verify::{Check, CheckKind};
use regex::Regex;

use super::config::Overrides;
use super::value::{self, Limit};

/// What size or loss to reach.
#[derive(Args, Debug)]
#[group(id = "target", multiple = false)]
#[command(next_help_heading = "Target (one)")]
pub struct Target {
    /// Recurrent weight bytes before / after, at least [default: 8]
    #[arg(long, value_name = "R", value_parser = value::ratio)]
    pub ratio: Option<f64>,
    /// The whole output file, at most: 800KB, 2MB, 1.5MiB
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub max_size: Option<u64>,
    /// The smallest file whose loss, measured on a part of the calibration samples held back for it, stays at or under X
    #[arg(long, value_name = "X", value_parser = value::not_negative)]
    pub max_loss: Option<f64>,
}

/// On which inputs models are run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Samples")]
pub struct Samples {
    /// Inputs to learn from: .npz, .npy, test_data_set_N, or directories of them
    #[arg(long, value_name = "PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<PathBuf>,
    /// Inputs to judge on, never learned from [default: the last fifth of the calibration]
    #[arg(long, value_name = "PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    pub holdout: Vec<PathBuf>,
    /// Samples are steps of a stream: output OUT of one is input IN of the next; OUT[a:b] for a slice of axis 0
    #[arg(long, value_name = "IN=OUT", num_args = 1..)]
    pub stream: Vec<String>,
    /// Classes of the calibration samples: NAME is the output, FILE holds integers
    #[arg(long, value_name = "NAME=FILE", value_parser = value::labels)]
    pub labels: Vec<(String, PathBuf)>,
    /// Classes of the holdout samples
    #[arg(long, value_name = "NAME=FILE", value_parser = value::labels)]
    pub holdout_labels: Vec<(String, PathBuf)>,
    /// Loss of the outputs, or NAME:KIND for one: nmse, kl, disagreement, cross-entropy [default: kl after Softmax,
    /// else nmse]
    #[arg(long, value_name = "KIND")]
    pub loss: Vec<String>,
    /// Size of a symbolic dimension, where there are no samples
    #[arg(long, value_name = "NAME=SIZE", value_parser = value::dimension)]
    pub dim: Vec<(String, usize)>,
    /// Seeds everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl Samples {
    /// The files and directories that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let labels = self.labels.iter().chain(&self.holdout_labels).map(|(_, file)| file);
        self.calibration.iter().chain(&self.holdout).chain(labels)
    }
}

/// Limits that a result must keep.
#[derive(Args, Debug)]
#[command(next_help_heading = "Checks (for all outputs, or NAME:VALUE for one)")]
pub struct Checks {
    /// Largest absolute difference
    #[arg(long, value_name = "X", value_parser = value::limit)]
    pub max_abs: Vec<Limit>,
    /// Mean squared error over the variance of the original output
    #[arg(long, value_name = "X", value_parser = value::limit)]
    pub max_nmse: Vec<Limit>,
    /// Signal to noise ratio in decibels
    #[arg(long, value_name = "DB", value_parser = value::decibels, allow_negative_numbers = true)]
    pub min_snr: Vec<Limit>,
    /// Share of equal argmax over the last axis
    #[arg(long, value_name = "F", value_parser = value::share)]
    pub min_agreement: Vec<Limit>,
    /// Mean Kullback-Leibler divergence from the original
    #[arg(long, value_name = "X", value_parser = value::limit)]
    pub max_kl: Vec<Limit>,
}

/// What running a model may take.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Limits of the engine")]
pub struct Limits {
    /// Seconds that one run of a model may take, and so may preparing it
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub verify_timeout: u64,
    /// Memory that the whole job may take
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = value::size)]
    pub verify_memory: u64,
}

/// Which nodes take part.
#[derive(Args, Debug)]
#[command(next_help_heading = "Nodes")]
pub struct Nodes {
    /// Only nodes whose name matches
    #[arg(long, value_name = "RE", value_parser = value::pattern)]
    pub include: Option<Regex>,
    /// No nodes whose name matches
    #[arg(long, value_name = "RE", value_parser = value::pattern)]
    pub exclude: Option<Regex>,
    /// Treat initializers that are also graph inputs as constants, and drop those inputs
    #[arg(long)]
    pub freeze_inputs: bool,
}

/// How results are shown.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// What goes to stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Also write a report; the type is the extension: .html, .md, .json, .xml (JUnit)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Vec<PathBuf>,
    /// Nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Settings of a run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
pub struct Run {
    /// Flags from a file; those on the command line win
    #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Threads, at most 512 [default: one per processor]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Try models whose opset or IR version is newer than this version knows
    #[arg(long)]
    pub allow_newer: bool,
}

/// The form of stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For scripts, "schema": 1
    Json,
    /// For the test reports of CI systems
    Junit,
}

impl Target {
    /// The same for the library.
    pub fn of_library(&self) -> compress::Target {
        match (self.ratio, self.max_size, self.max_loss) {
            (Some(ratio), ..) => compress::Target::Ratio(ratio),
            (_, Some(bytes), _) => compress::Target::MaxSize(bytes),
            (.., Some(loss)) => compress::Target::MaxLoss(loss),
            _ => compress::Target::default(),
        }
    }
}

impl Checks {
    /// The limits as the library takes them.
    pub fn checks(&self) -> Vec<Check> {
        let Checks { max_abs, max_nmse, min_snr, min_agreement, max_kl } = self;
        let of = |limits: &[Limit], kind| {
            let check = move |limit: &Limit| Check { output: limit.output.clone(), kind, limit: limit.value };
            limits.iter().map(check).collect::<Vec<_>>()
        };
        [
            of(max_abs, CheckKind::MaxAbs),
            of(max_nmse, CheckKind::MaxNmse),
            of(min_snr, CheckKind::MinSnr),
            of(min_agreement, CheckKind::MinAgreement),
            of(max_kl, CheckKind::MaxKl),
        ]
        .concat()
    }
}

impl Nodes {
    /// What to look for in a model.
    pub fn options(&self, overrides: &Overrides) -> Result<FindOptions> {
        let skipped = overrides.iter().filter(|settings| settings.node.skip).map(|settings| settings.pattern.as_str());
        let patterns: Vec<String> =
            self.exclude.iter().map(Regex::as_str).chain(skipped).map(|pattern| format!("(?:{pattern})")).collect();
        let exclude = if patterns.is_empty() { None } else { Some(Regex::new(&patterns.join("|"))?) };
        Ok(FindOptions { freeze_inputs: self.freeze_inputs, include: self.include.clone(), exclude })
    }
}

impl Output {
    /// Refuses reports that could not be written later: of unknown types, over one another or `output`, or over a file
    /// of one of the models.
    pub fn check(&self, output: Option<&Path>, models: &[&Model]) -> Result<()> {
        for (index, report) in self.report.iter().enumerate() {
            FileFormat::of(report)?;
            models.iter().try_for_each(|model| model.check_target(report))?;
            let side = output.map(side_path);
            let others = self.report[..index].iter().map(PathBuf::as_path).chain(output).chain(side.as_deref());
            if others.into_iter().any(|other| atomic::is_same(report, other)) {
                bail!("{}: is an output twice", report.display());
            }
        }
        Ok(())
    }
}

impl Output {
    /// Refuses what shows a verdict where there will be none.
    pub fn check_unjudged(&self) -> Result<()> {
        let wanted = self.report.iter().any(|file| FileFormat::of(file).is_ok_and(|form| form == FileFormat::Junit));
        if wanted || self.format == Format::Junit {
            bail!("JUnit shows what was judged, and nothing will be: drop it, or let the models be run and compared");
        }
        Ok(())
    }

    /// Whether anything shows what other sizes would cost.
    pub fn shows_tradeoff(&self) -> bool {
        !self.report.is_empty()
    }
}

impl Run {
    /// Reads and checks a model.
    pub fn load(&self, path: &Path) -> Result<Model> {
        Ok(Model::load(path, &LoadOptions { allow_newer: self.allow_newer })?)
    }

    /// Sizes the thread pool that the library works in.
    pub fn start(&self) -> Result<()> {
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
        }
        Ok(())
    }
}

/// Refuses an output that is one of the inputs, by whatever path.
pub fn check_apart<O: AsRef<Path>, I: AsRef<Path>>(
    outputs: impl IntoIterator<Item = O>,
    inputs: impl IntoIterator<Item = I>,
) -> Result<()> {
    let inputs: Vec<_> = inputs.into_iter().collect();
    let is_input = |output: &Path| inputs.iter().any(|input| atomic::is_same(input.as_ref(), output));
    match outputs.into_iter().find(|output| is_input(output.as_ref())) {
        Some(output) => {
            bail!("{}: this is an input; choose another output file", output.as_ref().display())
        }
        None => Ok(()),
    }
}

/// The output file, which clap leaves open where a configuration may name it.
pub fn output(path: Option<&Path>) -> Result<&Path> {
    path.context("no output: name one with -o")
}
