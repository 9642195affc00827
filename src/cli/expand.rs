//! `dirnet expand COMPRESSED -o OUT`: the inverse, dense weights again.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;

use super::args::Run;
use super::{not_yet, paths};

const EXAMPLES: &str = "\
Example:
  dirnet expand small.onnx -o dense.onnx";

/// Turn a compressed model back into one with dense weights, for tools that want them
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A model that dirnet compressed
    #[arg(value_name = "COMPRESSED", value_hint = ValueHint::FilePath)]
    compressed: PathBuf,
    /// Where the result goes
    #[arg(short, long = "output", value_name = "OUT", value_hint = ValueHint::FilePath)]
    out: PathBuf,
    /// Nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    run: Run,
}

/// Expands the model.
pub fn run(args: &Args) -> Result<()> {
    paths::check_output(&args.out, &[&args.compressed])?;
    args.run.start()?;
    let _ = args.quiet;
    not_yet("expand")
}
