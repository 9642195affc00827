//! What `compress`, `plan` and `sweep` have in common: their flags, and a [`Compressor`] made of them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum, ValueHint};
use dirnet::compress::{self, Compressor, Inputs, Options};
use dirnet::encode::{self, Request};
use dirnet::onnx::Model;
use dirnet::onnx::model::side_path;
use dirnet::progress::Progress;
use dirnet::sites::Sites;
use dirnet::tune::Effort;

use super::args::{self, Limits, Nodes, Output, Run, Samples};
use super::config::{self, Overrides};
use crate::process::guard::{self, Guarded};

/// The flags.
#[derive(Args)]
pub struct Flags {
    /// An ONNX file; it is never changed
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath, help_heading = "Arguments")]
    pub model: PathBuf,
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
    fn check(&self, flags: &Flags, model: &Model) -> Result<()> {
        if let Some(file) = self.written {
            model.check_target(file)?;
        }
        self.output.check(self.written, &[model])?;
        let read = flags.samples.files().chain(&flags.run.config).map(PathBuf::as_path).chain(self.plan);
        args::check_apart(self.outputs(), read)
    }

    fn outputs(&self) -> impl Iterator<Item = &Path> {
        self.written.into_iter().chain(self.output.report.iter().map(PathBuf::as_path))
    }
}

impl Flags {
    /// What is run, and within which limits. `layers`: whether the job can be done without running the model.
    pub fn guarded(&self, files: &Files<'_>, layers: bool) -> Guarded<'_> {
        let side = files.written.map(side_path);
        Guarded {
            limits: self.limits,
            original: &self.model,
            compressed: None,
            layers,
            outputs: files.outputs().map(Path::to_owned).chain(side).collect(),
            quiet: files.output.quiet,
        }
    }
}

/// How budgets are made.
#[derive(Args)]
#[command(next_help_heading = "How")]
pub struct How {
    /// What runs the result: any runtime, any that has Scan and int8 products, or onnxruntime only
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Portable)]
    pub form: Form,
    /// Hidden size from which a layer takes another form than portable [default: where it was measured to pay]
    #[arg(long, value_name = "H")]
    pub form_from: Option<usize>,
    /// What weights are coded with
    #[arg(long, value_enum, value_name = "CODEC", default_value_t = Codec::Block)]
    pub codec: Codec,
    /// What decides the bytes of a unit
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Sensitivity::Measured)]
    pub sensitivity: Sensitivity,
    /// Move atoms, scales and biases until the layers do what the original's do; the size stays [default: fast with samples, else off]
    #[arg(long, value_enum, value_name = "EFFORT")]
    pub tune: Option<Tune>,
}

/// How recurrent nodes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// LSTM and GRU stay, their weights are rebuilt at load: runs everywhere, as fast as before
    Portable,
    /// Loops of int8 products in standard operators: several times faster in onnxruntime where layers are large
    Fast,
    /// onnxruntime's own quantised LSTM; GRU as in fast
    Ort,
}

impl How {
    /// The same as options of the library.
    fn options(&self) -> Options {
        let form = match self.form {
            Form::Portable => encode::Form::Portable,
            Form::Fast => encode::Form::Fast,
            Form::Ort => encode::Form::Ort,
        };
        Options {
            form: Request { form, from: self.form_from },
            codec: match self.codec {
                Codec::Block => compress::Codec::Block,
                Codec::Projection => compress::Codec::Projection,
                Codec::Auto => compress::Codec::Auto,
            },
            allocation: match self.sensitivity {
                Sensitivity::Measured => compress::Allocation::Measured,
                Sensitivity::Local => compress::Allocation::Local,
                Sensitivity::None => compress::Allocation::Uniform,
            },
            tune: self.tune.map(|tune| match tune {
                Tune::Off => None,
                Tune::Fast => Some(Effort::Fast),
                Tune::Full => Some(Effort::Full),
            }),
            ..Options::default()
        }
    }
}

/// What weights are coded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// Pieces of rows as indices into codebooks
    Block,
    /// Rows as codes of atoms that all weights share that multiply the same vector: R of a layer and W of the next
    Projection,
    /// What is better of the two, for each stack of layers
    Auto,
}

/// How much is spent on tuning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tune {
    /// Nothing
    Off,
    /// About as much as on everything else
    Fast,
    /// Codes too, until it stops paying
    Full,
}

/// How it is found out what an error in a unit costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sensitivity {
    /// Run the model with one unit coarse at a time; budgets follow
    Measured,
    /// From the derivatives of the gates in each layer; no runs besides the calibration
    Local,
    /// One rate for all units
    None,
}

/// What the flags name, read and checked.
pub struct Setup {
    inputs: Inputs,
    options: Options,
    sites: Sites,
    /// Seconds that reading took.
    pub seconds: f64,
}

impl Setup {
    /// Reads and checks everything that the flags name; outputs that cannot be written are refused before anything takes
    /// long.
    pub fn read(flags: &Flags, overrides: &Overrides, files: &Files<'_>) -> Result<(Model, Setup)> {
        let start = Instant::now();
        flags.run.start()?;
        let path = flags.model.clone();
        let model = flags.run.load(&path)?;
        files.check(flags, &model)?;
        let mut options = Options { loss: flags.samples.loss()?, seed: flags.samples.seed, ..flags.how.options() };
        options.nodes = flags.nodes.options(overrides)?;
        // A model without anything to compress is refused before its samples are read.
        let sites = Sites::find(&model, &options.nodes).map_err(|error| error.in_file(&path))?;
        config::check(overrides, &sites.survey)?;
        options.pins = Some(config::pins(overrides, &sites)?);
        compress::refuse_coded(&model, &sites).map_err(|error| error.in_file(&path))?;
        let inputs = flags.samples.inputs(&model)?;
        Ok((model, Setup { inputs, options, sites, seconds: start.elapsed().as_secs_f64() }))
    }

    /// What compresses the model.
    pub fn compressor<'a>(self, model: &'a Model, progress: &'a dyn Progress) -> Result<Compressor<'a>> {
        let Setup { inputs, options, sites, .. } = self;
        Ok(Compressor::of_sites(model, sites, inputs, options, guard::refused())?.with_progress(progress))
    }
}
