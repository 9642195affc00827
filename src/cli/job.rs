//! What `compress`, `plan` and `sweep` have in common: their flags, and a [`Compressor`] made of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};
use dirnet::compress::{self, Compressor, Inputs, Level, Options, Prepared, Settings, TimeBudget};
use dirnet::encode::{self, Request};
use dirnet::lossless;
use dirnet::onnx::Model;
use dirnet::onnx::model::side_path;
use dirnet::progress::Progress;
use dirnet::tune::Effort;

use super::args::{self, Limits, Nodes, Output, Run, Samples};
use super::config::{self, Overrides};
use super::value;
use crate::process::guard::{self, Guarded};

/// The flags.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    pub samples: Samples,
    #[command(flatten)]
    pub how: How,
    #[command(flatten)]
    pub nodes: Nodes,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub run: Run,
}

/// The files of a job besides the model and the samples.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// What it writes, besides reports.
    pub written: Option<&'a Path>,
    /// A plan that it reads.
    pub plan: Option<&'a Path>,
    /// What it shows.
    pub output: &'a Output,
}

impl Files<'_> {
    /// Refuses outputs that cannot be written, or would replace one another or a file that is read.
    pub fn check(&self, samples: &Samples, run: &Run, model: &Model) -> Result<()> {
        if let Some(file) = self.written {
            model.check_target(file)?;
        }
        self.output.check(self.written, &[model])?;
        let read = samples.files().chain(&run.config).map(PathBuf::as_path).chain(self.plan);
        args::check_apart(self.outputs(), read)
    }

    fn outputs(&self) -> impl Iterator<Item = &Path> {
        self.written.into_iter().chain(self.output.report.iter().map(PathBuf::as_path))
    }
}

impl Flags {
    /// What is run, and within which limits. `layers`: whether the job can be done without running the model.
    pub fn guarded(&self, model: &Path, files: &Files<'_>, layers: bool) -> Guarded<'static> {
        let side = files.written.map(side_path);
        Guarded {
            limits: self.limits.of_process(),
            original: model.to_owned(),
            compressed: None,
            layers,
            outputs: files.outputs().map(Path::to_owned).chain(side).collect(),
            quiet: files.output.quiet,
        }
    }
}

/// How weights are compressed.
#[derive(Args)]
#[command(next_help_heading = args::COMPRESSION)]
pub struct How {
    /// Spend little time or much: 0 to 4, or max for the highest
    ///
    /// 0: --sensitivity none --tune off. One rate for all weights; the model is run for calibration only.
    /// 1: --sensitivity local --tune off. Bits by the derivatives of the gates, without further runs.
    /// 2: --sensitivity auto --tune off. Several divisions of the bits compete by runs.
    /// 3: --sensitivity auto --tune fast. Recurrent layers are fine-tuned, too: most quality for a second.
    /// 4: --sensitivity auto --tune full. They are tuned until the loss stops falling: minutes to half an hour.
    /// A flag that is given goes before what the level sets.
    #[arg(long, value_name = "LEVEL", value_parser = value::effort, default_value_t = Level::DEFAULT, verbatim_doc_comment)]
    pub effort: Level,
    /// Write compressed recurrent layers in this form
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Portable, hide_short_help = true)]
    pub form: Form,
    /// Use the form of --form only for layers of hidden size H or more [default: where it was measured to be faster]
    #[arg(long, value_name = "H", hide_short_help = true)]
    pub form_from: Option<usize>,
    /// Keep the names of all nodes in the result, for viewers
    #[arg(long, hide_short_help = true)]
    pub keep_names: bool,
    /// Store the DFT basis of a convolutional STFT as it is, instead of computing it at load time within 4e-7 of its largest
    /// entry
    #[arg(long, hide_short_help = true)]
    pub no_generate_dft: bool,
    /// Store weights with this codec [default: block]
    #[arg(long, value_enum, value_name = "CODEC", hide_short_help = true)]
    pub codec: Option<Codec>,
    /// Divide the bits between gates and other weights by this measure [default: that of --effort]
    #[arg(long, value_enum, value_name = "KIND", hide_short_help = true)]
    pub sensitivity: Option<Sensitivity>,
    /// Fine-tune codebooks, scales and biases of recurrent layers on the calibration samples: no labels, same size
    /// [default: that of --effort; off without samples]
    #[arg(long, value_enum, value_name = "EFFORT", hide_short_help = true)]
    pub tune: Option<Tune>,
}

/// How recurrent nodes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// The same nodes, with weights that are decoded at load time: every runtime, as fast as the original
    Portable,
    /// Loops of int8 products, for onnxruntime: 2 to 4 times faster from hidden size 512
    Fast,
    /// onnxruntime's own quantised LSTM operator; GRU as in fast
    Ort,
}

impl How {
    /// What is done before anything is coded.
    pub fn lossless(&self) -> lossless::LosslessOptions {
        lossless::LosslessOptions { generate_dft: !self.no_generate_dft, keep_names: self.keep_names }
    }

    /// The same as options of the library.
    fn options(&self) -> Options {
        let form = match self.form {
            Form::Portable => encode::Form::Portable,
            Form::Fast => encode::Form::Fast,
            Form::Ort => encode::Form::Ort,
        };
        Options {
            form: Request { form, from: self.form_from },
            lossless: Options::default().lossless.map(|_| self.lossless()),
            ..Options::of_level(self.effort, self.by_hand())
        }
    }

    /// What is set beside the level.
    pub fn by_hand(&self) -> Settings {
        Settings {
            codec: self.codec.map(|codec| match codec {
                Codec::Block => compress::Codec::Block,
                Codec::Projection => compress::Codec::Projection,
                Codec::Auto => compress::Codec::Auto,
            }),
            allocation: self.sensitivity.map(|sensitivity| match sensitivity {
                Sensitivity::Auto => compress::Allocation::Auto,
                Sensitivity::Measured => compress::Allocation::Measured,
                Sensitivity::Local => compress::Allocation::Local,
                Sensitivity::None => compress::Allocation::Uniform,
            }),
            tune: self.tune.map(|tune| match tune {
                Tune::Off => None,
                Tune::Fast => Some(Effort::Fast),
                Tune::Full => Some(Effort::Full),
            }),
        }
    }
}

/// The codec of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// Pieces of rows are stored as indices into a codebook
    Block,
    /// Low-rank dictionary shared by matrices with the same input; experimental, rarely better
    Projection,
    /// The better of the two for each stack of layers; slower
    Auto,
}

/// The effort of fine-tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tune {
    /// No fine-tuning
    Off,
    /// About doubles the run time
    Fast,
    /// Also chooses codes again, until the loss stops falling: minutes to half an hour
    Full,
}

/// How bits are divided between gates and other weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sensitivity {
    /// The best of the other three and of means of them, by runs on calibration samples that were held back
    Auto,
    /// Loss at the outputs with one gate or other weight at a time quantised coarsely
    Measured,
    /// Estimate from the derivatives of the gates: faster
    Local,
    /// About the same number of bits for every gate and weight
    None,
}

/// What the flags name, read and checked.
pub struct Setup {
    inputs: Inputs,
    options: Options,
    prepared: Prepared,
    /// Seconds that reading took.
    pub seconds: f64,
}

impl Setup {
    /// Reads and checks everything that the flags name; outputs that cannot be written are refused before anything takes
    /// long.
    pub fn read(path: &Path, flags: &Flags, overrides: &Overrides, files: &Files<'_>) -> Result<(Model, Setup)> {
        let start = Instant::now();
        flags.run.start()?;
        let model = flags.run.load(path)?;
        let mut setup = Setup::of(&model, &flags.samples, flags, overrides, files)?;
        setup.seconds = start.elapsed().as_secs_f64();
        Ok((model, setup))
    }

    /// The same for a model that was read, and for these samples.
    pub fn of(
        model: &Model,
        samples: &Samples,
        flags: &Flags,
        overrides: &Overrides,
        files: &Files<'_>,
    ) -> Result<Setup> {
        let start = Instant::now();
        files.check(samples, &flags.run, model)?;
        let mut options = Options { loss: samples.loss()?, seed: samples.seed, ..flags.how.options() };
        options.nodes = flags.nodes.options(overrides);
        // A model without anything to compress is refused before its samples are read.
        let prepared = Prepared::new(model, &options);
        let prepared = prepared.map_err(|error| model.path().map_or(error.clone(), |path| error.in_file(path)))?;
        config::check(overrides, &prepared.sites().survey, &prepared.sites().linear)?;
        options.pins = Some(config::pins(overrides, prepared.sites())?);
        let inputs = samples.inputs(model)?;
        Ok(Setup { inputs, options, prepared, seconds: start.elapsed().as_secs_f64() })
    }

    /// Limits the time that it takes, where there is a limit; no level changes what is set by hand.
    pub fn limit_time(&mut self, limit: Option<Duration>, by_hand: Settings) {
        self.options.time = limit.map(|limit| TimeBudget { limit, by_hand });
    }

    /// What compresses the model.
    pub fn compressor<'a>(self, model: &'a Model, progress: &'a dyn Progress) -> Result<Compressor<'a>> {
        let Setup { inputs, options, prepared, .. } = self;
        Ok(Compressor::of_prepared(model, prepared, inputs, options, guard::refused())?.with_progress(progress))
    }
}
