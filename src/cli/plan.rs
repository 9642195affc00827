//! `dirnet plan MODEL`: the budget of every unit, nothing written but the plan.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ValueHint;
use dirnet::onnx::atomic;
use dirnet::plan_file;
use dirnet::report::{Command, Report};

use super::args::{Output, Target};
use super::config::Overrides;
use super::guard::{self, Guarded};
use super::job::{Files, Flags, Setup};
use super::progress::progress;

const EXAMPLES: &str = "\
Examples:
  dirnet plan model.onnx --ratio 12 --calibration samples.npz
  dirnet plan model.onnx --max-size 800KB --calibration samples.npz --save plan.toml
  dirnet compress model.onnx -o small.onnx --calibration samples.npz --plan plan.toml";

/// Show how many bytes each gate of each layer would get, and write no model
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    flags: Flags,
    /// Write the plan, for `dirnet compress --plan`
    #[arg(long, value_name = "FILE.toml", value_hint = ValueHint::FilePath, help_heading = "Output")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Makes the plan.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    let start = Instant::now();
    args.output.check_unjudged()?;
    let setup = Setup::read(&args.flags, &args.target, overrides, &args.files())?;
    if guard::is_probe() {
        return setup.probe();
    }
    setup.check_target(&args.flags, &args.target)?;
    let progress = progress(args.output.quiet);
    let mut study = setup.study(&args.flags, &*progress)?;
    let plan = match args.target.max_loss {
        Some(bound) => study.within(bound, &*progress)?.plan,
        None => study.plan(study.bytes(&args.target), &*progress)?,
    };
    if let Some(file) = &args.save {
        let text = plan_file::write(&study.job.weights, &plan)?;
        atomic::write_text(file, &text)?;
    }
    let bytes = study.job.sizing().bytes(&plan)?;
    let promised = study.promised(&plan);
    let mut report = Report::of_job(Command::Plan, &study.job, &study.outcome(&plan, bytes, promised.as_deref()));
    report.predicted_loss = promised.as_deref().and_then(|distortion| study.predicted_loss(distortion));
    if args.output.shows_tradeoff() {
        report.tradeoff = study.tradeoff(&*progress);
    }
    report.warnings = study.warnings;
    report.seconds.load = Some(setup.seconds);
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
