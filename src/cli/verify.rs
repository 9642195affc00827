//! `dirnet verify ORIGINAL COMPRESSED`: runs both models, compares their outputs and enforces checks; for CI.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueHint;
use dirnet::compress::TestInputs;
use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::loss::Judge;
use dirnet::report::{Command, Report, Seconds};
use dirnet::verify::{self, VerifySettings};

use super::args::{self, Checks, Limits, Output, Run, TestSamples};
use super::output;
use super::progress::progress;
use crate::process::guard::{self, Guarded};

const EXAMPLES: &str = "\
Examples:
  dirnet verify model.onnx small.onnx --samples test.npz --min-snr 20
  dirnet verify model.onnx small.onnx --samples test.npz --min-agreement logits:0.98 --format json";

/// Run a model and its compressed form on the same inputs and compare the outputs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The original model
    #[arg(value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    original: PathBuf,
    /// The compressed model
    #[arg(value_name = "COMPRESSED", value_hint = ValueHint::FilePath)]
    compressed: PathBuf,
    #[command(flatten)]
    samples: TestSamples,
    /// Without samples, run a smoke test on random inputs: it shows that the file works, not how good it is
    #[arg(long, help_heading = "Samples")]
    random: bool,
    #[command(flatten)]
    checks: Checks,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    run: Run,
}

/// Compares the pair.
pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let given = &args.samples.0;
    if given.calibration.is_empty() && given.holdout.is_empty() && !args.random && given.dim.is_empty() {
        bail!("no samples: name real inputs with --samples, or run a smoke test on random ones with --random");
    }
    args.run.start()?;
    let (original, compressed) = (args.run.load(&args.original)?, args.run.load(&args.compressed)?);
    args.output.check(None, &[&original, &compressed])?;
    args::check_apart(&args.output.report, given.files().chain(&args.run.config))?;
    let loss = given.loss()?;
    let TestInputs { samples, warnings } = given.judged(&original)?;
    if guard::is_probe() {
        Judge::new(&original, &loss, &samples.carry)?.reference(&Engine::new(&original)?, &samples)?;
        return Ok(());
    }
    let load = start.elapsed().as_secs_f64();
    let settings = VerifySettings {
        samples: &samples,
        calibrated_on: None,
        loss: &loss,
        checks: &args.checks.checks(),
        seed: given.seed,
    };
    let verdict = verify::verify(&original, &compressed, &settings, &*progress(args.output.quiet))?;
    let total = start.elapsed().as_secs_f64();
    let error = (!verdict.passed).then(|| Error::new(ErrorKind::Check, verdict.failures.join("; ")));
    output::warn(&verdict);
    let mut report = Report::between(Command::Verify, &original, &compressed);
    report.warnings = warnings;
    report.warnings.extend(verdict.warnings.iter().cloned());
    report.verify = Some(verdict);
    report.judge();
    report.seconds = Seconds { load: Some(load), verify: Some(total - load), total, ..Seconds::default() };
    args.output.show(&report)?;
    error.map_or(Ok(()), |error| Err(error.into()))
}

impl Args {
    /// What is run, and within which limits.
    pub fn guarded(&self) -> Guarded<'_> {
        Guarded {
            limits: self.limits.of_process(),
            original: self.original.clone(),
            compressed: Some(&self.compressed),
            layers: false,
            outputs: self.output.report.clone(),
            quiet: self.output.quiet,
        }
    }
}
