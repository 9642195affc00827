//! `dirnet sweep MODEL --ratios 4,8,12,16`: size against loss.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ValueHint;
use dirnet::error::{Error, ErrorKind};
use dirnet::report::{Seconds, Sweep};

use super::args::Output;
use super::config::Overrides;
use super::job::{Files, Flags, Setup};
use super::progress::progress;
use super::value;
use crate::process::guard::{self, Guarded};

const EXAMPLES: &str = "\
Examples:
  dirnet sweep model.onnx --ratios 4,8,12,16 --calibration samples.npz
  dirnet sweep model.onnx --ratios 8,16 --calibration samples.npz --format json";

/// Compress at several ratios and show size and loss of each, without writing a model
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file; it is never changed
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    /// Try these ratios, bytes of the weights before / after
    #[arg(long, value_name = "R,R,...", value_delimiter = ',', value_parser = value::ratio, default_values_t = [4.0, 8.0, 12.0, 16.0])]
    ratios: Vec<f64>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    output: Output,
}

/// Tries all ratios.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    let start = Instant::now();
    args.output.check_unjudged()?;
    let (model, setup) = Setup::read(&args.model, &args.flags, overrides, &args.files())?;
    let load = setup.seconds;
    let progress = progress(args.output.quiet);
    let mut compressor = setup.compressor(&model, &*progress)?;
    if guard::is_probe() {
        return Ok(compressor.probe()?);
    }
    let rows = compressor.sweep(&args.ratios)?;
    let mut sweep = Sweep::of(&compressor, rows);
    sweep.seconds = Seconds { load: Some(load), total: start.elapsed().as_secs_f64(), ..Seconds::default() };
    args.output.show(&sweep)?;
    match sweep.points.iter().find_map(|point| point.reason.as_ref()) {
        Some(reason) if sweep.points.iter().all(|point| point.ratio.is_none()) => {
            Err(Error::new(ErrorKind::Target, reason.clone()).into())
        }
        _ => Ok(()),
    }
}

impl Args {
    /// What is run, and within which limits. Without runs there is no loss to show.
    pub fn guarded(&self) -> Guarded<'_> {
        self.flags.guarded(&self.model, &self.files(), false)
    }

    fn files(&self) -> Files<'_> {
        Files { written: None, plan: None, output: &self.output }
    }
}
