//! `dirnet compress MODEL -o OUT`: the main job.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::ValueHint;
use dirnet::compress::Coded;
use dirnet::error::{Error, ErrorKind};
use dirnet::onnx::Model;
use dirnet::plan_file;
use dirnet::progress::Progress;
use dirnet::report::{Command, Report};
use dirnet::verify::{self, Settings, Verdict};

use super::args::{self, Checks, Output, Target};
use super::config::{self, Overrides};
use super::guard::{self, Guarded};
use super::job::{Files, Flags, Setup, Study};
use super::output;
use super::progress::progress;

const EXAMPLES: &str = "\
Examples:
  dirnet compress model.onnx -o small.onnx --ratio 8 --calibration samples.npz
  dirnet compress model.onnx -o small.onnx --calibration train/ --holdout test/ --min-snr 20
  dirnet compress vad.onnx -o small.onnx --calibration audio/ --stream state=stateN";
/// The largest plan that is read: a hundred thousand units.
const PLAN_BYTES: u64 = 16 << 20;
const TARGET: &str = "Target (one)";
const CHECKS: &str = "Checks (for all outputs, or NAME:VALUE for one)";

/// Make a model smaller: rewrite the weights of its LSTM and GRU nodes, run both models, compare
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the result goes
    #[arg(short, long = "output", value_name = "OUT", required_unless_present = "config", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Store what a file says that `dirnet plan --save` wrote
    #[arg(long, value_name = "FILE.toml", group = "target", value_hint = ValueHint::FilePath, help_heading = TARGET)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    checks: Checks,
    /// Do not run the models to compare them
    #[arg(long, help_heading = CHECKS)]
    no_verify: bool,
    /// Write the result even if a check failed
    #[arg(long, help_heading = CHECKS)]
    keep_failed: bool,
    #[command(flatten)]
    output: Output,
}

/// Compresses the model.
pub fn run(args: &Args, overrides: &Overrides) -> Result<()> {
    let start = Instant::now();
    if args.no_verify && !args.checks.checks().is_empty() {
        bail!("a check needs the models to be run; drop it or --no-verify");
    }
    if args.no_verify {
        args.output.check_unjudged()?;
    }
    let out = args::output(args.out.as_deref())?;
    let mut setup = Setup::read(&args.flags, &args.target, overrides, &args.files())?;
    if guard::is_probe() {
        return setup.probe();
    }
    if args.plan.is_none() {
        setup.check_target(&args.flags, &args.target)?;
    }
    // Read first: a file that cannot be is told before anything takes long.
    let saved = args.plan.as_ref().map(|file| config::read_text(file, PLAN_BYTES).map(|text| (file, text)));
    let saved = saved.transpose()?;
    let progress = progress(args.output.quiet);
    let mut study = setup.study(&args.flags, &*progress)?;
    let coded = args.reach(&mut study, saved, &*progress)?;
    let outcome = study.outcome(&coded.plan, coded.model.saved_bytes()?, Some(&coded.distortion));
    let mut report = Report::of_job(Command::Compress, &study.job, &outcome);
    report.model.opset = coded.model.opset();
    report.predicted_loss = study.predicted_loss(&coded.distortion);
    report.tuning = study.tuned().map(|tuned| tuned.layers.iter().map(Into::into).collect());
    if args.output.shows_tradeoff() {
        report.tradeoff = study.tradeoff(&*progress);
    }
    // The weights and their moments have done their work: the models that are compared want their memory.
    report.warnings = std::mem::take(&mut study.warnings);
    report.warnings.extend(newer_ir(&setup.model, &coded.model));
    drop(study);
    setup.release_engine();

    let verifying = Instant::now();
    let verdict = args.verify(&setup, &coded, &*progress)?;
    let verified = verifying.elapsed().as_secs_f64();
    report.warnings.extend(args.target.max_loss.and_then(|bound| beyond(bound, verdict.as_ref()?.loss_worst?)));
    if let Some(verdict) = &verdict {
        output::warn(verdict);
        report.warnings.extend(verdict.warnings.iter().cloned());
    }
    let failed = verdict.as_ref().filter(|verdict| !verdict.passed);
    let error = failed.map(|verdict| Error::new(ErrorKind::Check, verdict.failures.join("; ")));

    let written = error.is_none() || args.keep_failed;
    let writing = Instant::now();
    if written {
        coded.model.save(out)?;
        report.model.output = Some(out.to_string_lossy().into_owned());
    }
    report.seconds.load = Some(setup.seconds);
    report.seconds.encode = report.seconds.encode.map(|seconds| seconds + writing.elapsed().as_secs_f64());
    report.seconds.verify = verdict.is_some().then_some(verified);
    report.verify = verdict;
    report.seconds.total = start.elapsed().as_secs_f64();
    args.output.show(&report)?;
    error.map_or(Ok(()), |error| Err(error.into()))
}

/// What is said where the samples that judge are harder than those that chose.
fn beyond(bound: f64, loss: f64) -> Option<String> {
    (loss > bound).then(|| {
        format!(
            "the loss is {loss:.2e}: --max-loss {bound} was met on samples held back from the calibration, and those to \
             judge on are harder; ask for less, or give more calibration samples"
        )
    })
}

/// What is said where the file needs a newer IR version than the original.
fn newer_ir(original: &Model, result: &Model) -> Option<String> {
    let (before, after) = (original.ir_version(), result.ir_version());
    (after > before)
        .then(|| format!("IR version {before} becomes {after}: the codes need constants that it does not have"))
}

impl Args {
    /// What is run, and within which limits.
    pub fn guarded(&self) -> Guarded<'_> {
        self.flags.guarded(&self.files(), self.no_verify)
    }

    fn files(&self) -> Files<'_> {
        Files { written: self.out.as_deref(), plan: self.plan.as_deref(), output: &self.output }
    }

    /// Makes the model that the target, or a saved plan, asks for.
    fn reach(
        &self,
        study: &mut Study<'_>,
        saved: Option<(&PathBuf, String)>,
        progress: &dyn Progress,
    ) -> Result<Coded> {
        if let Some(bound) = self.target.max_loss {
            return study.within(bound, progress);
        }
        let plan = match saved {
            Some((file, text)) => {
                let plan = plan_file::read(&text, &study.job.weights, &study.job.equal());
                plan.and_then(|plan| study.agreed(plan)).map_err(|error| error.in_file(file))?
            }
            None => study.plan(study.bytes(&self.target), progress)?,
        };
        study.make(plan, progress)
    }

    fn verify(&self, setup: &Setup, coded: &Coded, progress: &dyn Progress) -> Result<Option<Verdict>> {
        if self.no_verify {
            return Ok(None);
        }
        let settings = Settings {
            samples: &setup.inputs.holdout,
            calibrated_on: Some(setup.inputs.calibrated_on),
            loss: &setup.loss,
            checks: &self.checks.checks(),
            seed: self.flags.samples.seed,
        };
        let verdict = verify::verify(&setup.model, &coded.model, &settings, progress);
        Ok(Some(verdict.map_err(|error| error.in_file(&self.flags.model))?))
    }
}
