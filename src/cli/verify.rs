//! `dirnet verify ORIGINAL COMPRESSED`: run both, measure, judge; for CI.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;

use super::args::{Gates, Output, Run, Samples};
use super::not_yet;

const EXAMPLES: &str = "\
Examples:
  dirnet verify model.onnx small.onnx --holdout test.npz --min-snr 20
  dirnet verify model.onnx small.onnx --holdout test.npz --min-agreement logits:0.98 --format json";

/// Run a model and its compressed form on the same inputs and judge the difference
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model before
    #[arg(value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    original: PathBuf,
    /// The model after
    #[arg(value_name = "COMPRESSED", value_hint = ValueHint::FilePath)]
    compressed: PathBuf,
    #[command(flatten)]
    samples: Samples,
    #[command(flatten)]
    gates: Gates,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: Run,
}

/// Judges the pair.
pub fn run(args: &Args) -> Result<()> {
    args.run.start()?;
    let (original, compressed) = (args.run.load(&args.original)?, args.run.load(&args.compressed)?);
    args.output.check(None, &[&original, &compressed])?;
    let _ = (&args.samples, &args.gates);
    not_yet("verify")
}
