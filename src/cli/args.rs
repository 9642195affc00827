//! Groups of flags that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum, ValueHint};
use dirnet::compress;
use dirnet::onnx::model::side_path;
use dirnet::onnx::{LoadOptions, Model, atomic};
use dirnet::recurrent::FindOptions;
use dirnet::report::FileFormat;
use dirnet::verify::{Check, CheckKind};
use regex::Regex;

use super::config::Overrides;
use super::value::{self, Limit};
use crate::process::guard;

/// Headings of the help, in the order of a command's flags.
pub const TARGET: &str = "Target (one)";
pub const COMPRESSION: &str = "Compression";
pub const CHECKS: &str = "Checks";
pub const EXECUTION: &str = "Execution";

/// The size or the loss to reach.
#[derive(Args, Debug)]
#[group(id = "target", multiple = false)]
#[command(next_help_heading = TARGET)]
pub struct Target {
    /// Make the weights at least R times smaller, in bytes [default: 8]
    ///
    /// Counts the stored bytes of all weights in --scope, before and after. The rest of the file is not counted.
    /// With --scope recurrent, these are the weights of LSTM, GRU and RNN nodes only.
    #[arg(long, value_name = "R", value_parser = value::ratio)]
    pub ratio: Option<f64>,
    /// Make the whole output file at most SIZE: 800KB, 2MB, 1.5MiB
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub max_size: Option<u64>,
    /// Make the smallest file with a loss of at most X (default loss: nmse, 0.01 = 1 % = 20 dB)
    ///
    /// The loss is that of --loss, in the worst output. It is measured on a part of the calibration samples that is held
    /// back for the search.
    #[arg(long, value_name = "X", value_parser = value::not_negative)]
    pub max_loss: Option<f64>,
}

/// Inputs that models are run on.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Samples")]
pub struct Samples {
    /// Calibrate on these inputs: .npz, .npy, test_data_set_N, or a directory of them; repeat the flag for more
    ///
    /// The keys of an .npz are the model's input names; N samples are stacked along a new first axis. Without calibration
    /// samples the inputs are random and the loss is larger.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub calibration: Vec<PathBuf>,
    /// Verify on these held-out inputs [default: the last fifth of the calibration samples]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub holdout: Vec<PathBuf>,
    /// Run the samples as steps of a stream: output OUT of a step is input IN of the next
    ///
    /// Repeat the flag for each state; OUT[a:b] takes a slice of axis 0. An initial state may be stored with the samples;
    /// the default is zeros.
    #[arg(long, value_name = "IN=OUT")]
    pub stream: Vec<String>,
    /// Class labels of the calibration samples for output NAME, for --loss cross-entropy
    ///
    /// FILE is an .npy or .npz of integers, shape [samples, *output shape without the class axis].
    #[arg(long, value_name = "NAME=FILE", value_parser = value::labels, hide_short_help = true)]
    pub labels: Vec<(String, PathBuf)>,
    /// Class labels of the held-out samples for output NAME: shows accuracy and cross-entropy before and after
    #[arg(long, value_name = "NAME=FILE", value_parser = value::labels, hide_short_help = true)]
    pub holdout_labels: Vec<(String, PathBuf)>,
    /// Measure the loss of the outputs as KIND, or of one output as NAME:KIND: nmse, kl, disagreement or cross-entropy
    /// [default: kl after a Softmax, else nmse]
    ///
    /// nmse: squared error over the variance of the output. kl: KL divergence of the predicted probabilities, in nats.
    /// disagreement: share of rows whose largest class differs. cross-entropy: its rise over the original, with --labels.
    #[arg(long, value_name = "KIND", hide_short_help = true)]
    pub loss: Vec<String>,
    /// Set the size of a symbolic dimension for random inputs
    #[arg(long, value_name = "NAME=SIZE", value_parser = value::dimension, hide_short_help = true)]
    pub dim: Vec<(String, usize)>,
    /// Set the random seed
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub seed: u64,
}

impl Samples {
    /// The files and directories that are read.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let labels = self.labels.iter().chain(&self.holdout_labels).map(|(_, file)| file);
        self.calibration.iter().chain(&self.holdout).chain(labels)
    }
}

/// The same flags for commands that run models and calibrate nothing: `verify` and `bench`. Samples are simply samples
/// there, so the help says so, and `--holdout` is called `--samples`; the other name is accepted.
#[derive(Debug)]
pub struct TestSamples(pub Samples);

impl FromArgMatches for TestSamples {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Samples::from_arg_matches(matches).map(TestSamples)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for TestSamples {
    fn augment_args(command: Command) -> Command {
        for_tests(Samples::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        for_tests(Samples::augment_args_for_update(command))
    }
}

/// Puts the help of the sample flags in the words of a command that only runs models.
fn for_tests(command: Command) -> Command {
    let text = |arg: Arg, help: &'static str| arg.help(help).long_help(help);
    command
        .mut_arg("holdout", |arg| {
            let arg = arg.long("samples").alias("holdout").help("Run the models on these inputs: .npz, .npy, test_data_set_N, or directories of them");
            arg.long_help(
                "Run the models on these inputs: .npz, .npy, test_data_set_N, or directories of them. The keys of an .npz \
                 are the model's input names; N samples are stacked along a new first axis. Without samples the inputs \
                 are random.",
            )
        })
        .mut_arg("calibration", |arg| {
            text(arg, "Without --samples, run on the last fifth of these inputs, as compress does").hide_short_help(true)
        })
        .mut_arg("labels", |arg| {
            let help = "Class labels of the samples for output NAME: shows accuracy and cross-entropy of both models";
            arg.help(help).long_help(format!(
                "{help}. FILE is an .npy or .npz of integers, shape [samples, *output shape without the class axis]"
            ))
        })
        .mut_arg("holdout_labels", |arg| text(arg, "The same as --labels").hide(true))
}

/// Thresholds of verification.
#[derive(Args, Debug)]
#[command(next_help_heading = CHECKS)]
pub struct Checks {
    /// Fail if an element differs by more than X; NAME:X checks one output
    #[arg(long, value_name = "X", value_parser = value::limit, hide_short_help = true)]
    pub max_abs: Vec<Limit>,
    /// Fail if the mean squared error exceeds X times the variance of the original output; NAME:X checks one output
    #[arg(long, value_name = "X", value_parser = value::limit, hide_short_help = true)]
    pub max_nmse: Vec<Limit>,
    /// Fail if the signal-to-noise ratio is below DB decibels; NAME:DB checks one output
    #[arg(long, value_name = "DB", value_parser = value::decibels, allow_negative_numbers = true)]
    pub min_snr: Vec<Limit>,
    /// Fail if the share of equal decisions (argmax over the last axis) is below F, 0 to 1; NAME:F checks one output
    #[arg(long, value_name = "F", value_parser = value::share)]
    pub min_agreement: Vec<Limit>,
    /// Fail if the mean KL divergence from the original exceeds X nats; NAME:X checks one output
    #[arg(long, value_name = "X", value_parser = value::limit, hide_short_help = true)]
    pub max_kl: Vec<Limit>,
}

/// Limits on time and memory of the engine.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = EXECUTION)]
pub struct Limits {
    /// Stop if one run of a model, or its preparation, takes longer than SECONDS
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub verify_timeout: u64,
    /// Stop if the whole job needs more memory than SIZE
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = value::size, hide_short_help = true)]
    pub verify_memory: u64,
}

/// The nodes that are compressed.
#[derive(Args, Debug)]
#[command(next_help_heading = "Nodes")]
pub struct Nodes {
    /// Compress the weights of these nodes
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t = Scope::All)]
    pub scope: Scope,
    /// Select only nodes whose name matches RE, a regular expression
    #[arg(long, value_name = "RE", value_parser = value::pattern, hide_short_help = true)]
    pub include: Option<Regex>,
    /// Leave out nodes whose name matches RE
    #[arg(long, value_name = "RE", value_parser = value::pattern, hide_short_help = true)]
    pub exclude: Option<Regex>,
    /// Treat weights that are also graph inputs as constants, and remove those inputs
    #[arg(long, hide_short_help = true)]
    pub freeze_inputs: bool,
}

/// Which nodes take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// LSTM, GRU, RNN, Conv, ConvTranspose, Gemm, MatMul, and Gather of a table, quantised or not
    All,
    /// LSTM, GRU and RNN only
    Recurrent,
}

/// How results are shown.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Print the result on stdout in this format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Table, hide_short_help = true)]
    pub format: Format,
    /// Also write a report: FILE.html, FILE.md, FILE.json or FILE.xml (JUnit)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Vec<PathBuf>,
    /// Print only errors
    #[arg(short, long, hide_short_help = true)]
    pub quiet: bool,
}

/// Settings of a run.
#[derive(Args, Debug)]
#[command(next_help_heading = EXECUTION)]
pub struct Run {
    /// Read options from a TOML file; the command line overrides it [default: dirnet.toml beside the model or above it]
    #[arg(long, hide_short_help = true, value_name = "FILE.toml", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Do not look for a dirnet.toml
    #[arg(long, conflicts_with = "config", hide_short_help = true)]
    pub no_config: bool,
    /// Use N threads, at most 512 [default: one per processor]; the result does not depend on N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512), hide_short_help = true)]
    pub threads: Option<u16>,
    /// Accept models whose opset or IR version is newer than this tool knows
    #[arg(long, hide_short_help = true)]
    pub allow_newer: bool,
}

/// The format of stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, for people
    Table,
    /// JSON, for scripts
    Json,
    /// JUnit XML, for the test reports of CI systems
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

impl Limits {
    /// The same for the process that runs the models.
    pub fn of_process(self) -> guard::Limits {
        guard::Limits { seconds: self.verify_timeout, bytes: self.verify_memory }
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
    pub fn options(&self, overrides: &Overrides) -> FindOptions {
        let skipped = overrides.iter().filter(|settings| settings.node.skip);
        FindOptions {
            freeze_inputs: self.freeze_inputs,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            recurrent_only: self.scope == Scope::Recurrent,
            skip: skipped.map(|settings| settings.pattern.clone()).collect(),
        }
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
                bail!("{}: is used for two outputs", report.display());
            }
        }
        Ok(())
    }
}

impl Output {
    /// Refuses JUnit output of a command that does not verify.
    pub fn check_unjudged(&self) -> Result<()> {
        let wanted = self.report.iter().any(|file| FileFormat::of(file).is_ok_and(|form| form == FileFormat::Junit));
        if wanted || self.format == Format::Junit {
            bail!("JUnit output needs verification: use 'dirnet verify', or 'dirnet compress' without --no-verify");
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
    path.context("no output file: name one with -o")
}
