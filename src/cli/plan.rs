//! `dirnet plan MODEL`: the bits of every weight block; no model is written.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::ValueHint;
use dirnet::compress::Target;
use dirnet::onnx::atomic;
use dirnet::plan;
use dirnet::report::Report;

use super::args::{self, Output};
use super::config::Overrides;
use super::job::{Files, Flags, Setup};
use super::progress::progress;
use crate::process::guard::{self, Guarded};

const EXAMPLES: &str = "\
Examples:
  dirnet plan model.onnx --ratio 12 --calibration samples.npz
  dirnet plan model.onnx --max-size 800KB --calibration samples.npz --save plan.toml
  dirnet compress model.onnx -o small.onnx --calibration samples.npz --plan plan.toml";

/// Show how many bits each gate of a recurrent layer, and each weight of another node, gets, without writing a model
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file; it is never changed
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    #[command(flatten)]
    target: args::Target,
    #[command(flatten)]
    flags: Flags,
    /// Write the plan to a file, for `dirnet compress --plan`
    #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath, help_heading = "Output")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Makes the plan.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    let start = Instant::now();
    args.output.check_unjudged()?;
    show(&args.model, &args.flags, &args.target.of_library(), overrides, &args.files(), start)
}

/// Makes a plan for a target, saves it in the file that is to be written, if one is, and shows it.
pub fn show(
    path: &Path,
    flags: &Flags,
    target: &Target,
    overrides: &Overrides,
    files: &Files<'_>,
    start: Instant,
) -> Result<()> {
    let (model, setup) = Setup::read(path, flags, overrides, files)?;
    let load = setup.seconds;
    let progress = progress(files.output.quiet);
    let mut compressor = setup.compressor(&model, &*progress)?;
    if guard::is_probe() {
        return Ok(compressor.probe()?);
    }
    let planned = compressor.plan(target)?;
    if let Some(file) = files.written {
        atomic::write_text(file, &plan::write(compressor.sites(), &planned.plan)?)?;
    }
    let mut report = Report::of_planned(&compressor, &planned);
    if files.output.shows_tradeoff() {
        report.tradeoff = Report::tradeoff(&compressor)?;
    }
    report.seconds.load = Some(load);
    report.seconds.total = start.elapsed().as_secs_f64();
    files.output.show(&report)
}

impl Args {
    /// What is run, and within which limits.
    pub fn guarded(&self) -> Guarded<'_> {
        self.flags.guarded(&self.model, &self.files(), true)
    }

    fn files(&self) -> Files<'_> {
        Files { written: self.save.as_deref(), plan: None, output: &self.output }
    }
}
