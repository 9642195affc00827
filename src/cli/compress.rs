//! `dirnet compress MODEL -o OUT`: the main job.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueHint;

use super::args::{Gates, Nodes, Output, Run, Samples, Target};
use super::config::Overrides;
use super::not_yet;

const EXAMPLES: &str = "\
Examples:
  dirnet compress model.onnx -o small.onnx --ratio 8 --calibration samples.npz
  dirnet compress model.onnx -o small.onnx --calibration train/ --holdout test/ --min-snr 20
  dirnet compress vad.onnx -o small.onnx --calibration audio/ --stream state=stateN";

/// Make a model smaller: rewrite the weights of its LSTM and GRU nodes, run both models, compare
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An ONNX file; it is never changed
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    /// Where the result goes
    #[arg(short, long = "output", value_name = "OUT", required_unless_present = "config", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    samples: Samples,
    #[command(flatten)]
    gates: Gates,
    /// Do not run the models to compare them
    #[arg(long, help_heading = "Gates (for all outputs, or NAME:VALUE for one)")]
    no_verify: bool,
    /// Write the result even if a gate failed
    #[arg(long, help_heading = "Gates (for all outputs, or NAME:VALUE for one)")]
    keep_failed: bool,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: Run,
}

/// Compresses the model.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    if args.no_verify && !args.gates.gates().is_empty() {
        bail!("a gate needs the models to be run; drop it or --no-verify");
    }
    args.run.start()?;
    let model = args.run.load(&args.model)?;
    let out = super::args::output(args.out.as_deref())?;
    model.check_target(out)?;
    args.output.check(Some(out), &[&model])?;
    let _ = (overrides, &args.target, &args.samples, &args.gates, args.no_verify, args.keep_failed, &args.nodes);
    let _ = super::progress::progress(args.output.quiet);
    not_yet("compress")
}
