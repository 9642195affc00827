//! `dirnet inspect MODEL`: the nodes of a model whose weights can be compressed, and why recurrent nodes cannot.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;
use dirnet::report::Inspection;
use dirnet::sites::Sites;

use super::args::{self, Nodes, Output, Run};
use super::config::{self, Overrides};

const EXAMPLES: &str = "\
Examples:
  dirnet inspect model.onnx
  dirnet inspect model.onnx --format json | jq .nodes";

/// Show the nodes of a model whose weights can be compressed, and why other recurrent nodes cannot
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: Run,
}

/// Shows the model.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    args.output.check_unjudged()?;
    args.run.start()?;
    let model = args.run.load(&args.model)?;
    args.output.check(None, &[&model])?;
    args::check_apart(&args.output.report, &args.run.config)?;
    let options = args.nodes.options(overrides);
    let sites = Sites::all(&model, &options).map_err(|error| error.in_file(&args.model))?;
    config::check(overrides, &sites.survey, &sites.linear)?;
    let found = Inspection::new(&model, &sites).map_err(|error| error.in_file(&args.model))?;
    args.output.show(&found)
}
