//! `dirnet expand COMPRESSED -o OUT`: the inverse, dense weights again.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;
use dirnet::error::Escaped;
use dirnet::expand;
use dirnet::report::Bytes;

use super::args::{self, Run};
use super::output::print;

const EXAMPLES: &str = "\
Example:
  dirnet expand small.onnx -o dense.onnx";

/// Turn a compressed model back into one with dense weights, for tools that want them
#[derive(clap::Args)]
#[command(override_usage = "dirnet expand [OPTIONS] <COMPRESSED> -o <OUT>", after_help = EXAMPLES)]
pub struct Args {
    /// A model that dirnet compressed
    #[arg(value_name = "COMPRESSED", value_hint = ValueHint::FilePath)]
    compressed: PathBuf,
    /// Write the model with dense weights to OUT
    #[arg(short, long = "output", value_name = "OUT", required_unless_present = "config", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Print only errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    run: Run,
}

/// Expands the model.
pub fn run(args: &Args) -> Result<()> {
    args.run.start()?;
    let model = args.run.load(&args.compressed)?;
    let out = args::output(args.out.as_deref())?;
    model.check_target(out)?;
    args::check_apart([out], &args.run.config)?;
    let dense = expand::expand(&model).map_err(|error| error.in_file(&args.compressed))?;
    let bytes = dense.save(out)?;
    if args.quiet {
        return Ok(());
    }
    print(&format!(
        "wrote {}: {} (compressed: {})\n",
        Escaped(&out.to_string_lossy()),
        Bytes(bytes),
        Bytes(model.bytes())
    ))
}
