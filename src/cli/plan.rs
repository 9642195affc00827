//! `dirnet plan MODEL`: the bits of every weight block; no model is written.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ValueHint;
use dirnet::onnx::atomic;
use dirnet::plan;
use dirnet::report::Report;

use super::args::{Output, Target};
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
    #[command(flatten)]
    target: Target,
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
    let (model, setup) = Setup::read(&args.flags, overrides, &args.files())?;
    let load = setup.seconds;
    let progress = progress(args.output.quiet);
    let mut compressor = setup.compressor(&model, &*progress)?;
    if guard::is_probe() {
        return Ok(compressor.probe()?);
    }
    let planned = compressor.plan(&args.target.of_library())?;
    if let Some(file) = &args.save {
        atomic::write_text(file, &plan::write(compressor.sites(), &planned.plan)?)?;
    }
    let mut report = Report::of_planned(&compressor, &planned);
    if args.output.shows_tradeoff() {
        report.tradeoff = Report::tradeoff(&compressor)?;
    }
    report.seconds.load = Some(load);
    report.seconds.total = start.elapsed().as_secs_f64();
    args.output.show(&report)
}

impl Args {
    /// What is run, and within which limits.
    pub fn guarded(&self) -> Guarded<'_> {
        self.flags.guarded(&self.files(), true)
    }

    fn files(&self) -> Files<'_> {
        Files { written: self.save.as_deref(), plan: None, output: &self.output }
    }
}
