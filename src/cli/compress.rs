//! `dirnet compress MODEL -o OUT`: the main job.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueHint;
use dirnet::compress::{self, TestInputs};
use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::loss::Judge;
use dirnet::onnx::atomic;
use dirnet::report::{Command, Report, Seconds};
use dirnet::verify::{self, Verdict, VerifySettings};

use super::args::{self, CHECKS, Checks, Output, TARGET, Target};
use super::config::{self, Overrides};
use super::job::{Files, Flags, Setup};
use super::output;
use super::progress::progress;
use super::several::Several;
use super::{plan, value};
use crate::process::guard::{self, Guarded};

const EXAMPLES: &str = "\
Examples:
  dirnet compress model.onnx -o small.onnx --ratio 8 --calibration samples.npz
  dirnet compress model.onnx -o small.onnx --calibration train/ --holdout test/ --min-snr 20
  dirnet compress enc.onnx dec.onnx --out-dir small/ --ratio 8 --calibration samples/
  dirnet compress vad.onnx -o small.onnx --calibration audio/ --stream state=stateN";
/// The largest plan that is read: a hundred thousand weight blocks.
const PLAN_BYTES: u64 = 16 << 20;

/// Compress the weights of a model, then run both models and compare
#[derive(clap::Args)]
#[command(override_usage = "dirnet compress [OPTIONS] <MODEL> -o <OUT>", after_help = EXAMPLES)]
pub struct Args {
    /// The ONNX file; it is never changed. Several files are compressed under one budget of bytes, into --out-dir
    #[arg(id = "model", value_name = "MODEL", value_hint = ValueHint::FilePath, required_unless_present = "out_dir")]
    pub models: Vec<PathBuf>,
    /// Write the compressed model to OUT
    #[arg(short, long = "output", value_name = "OUT", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Write the compressed models to DIR, each under the name of its file
    ///
    /// The bytes are divided over several models so that the sum of their losses is least: --ratio is over the weights of all, --max-size
    /// of all files. --calibration and --holdout name folders then, in which the samples of enc.onnx are enc.npz, enc.npy or
    /// a folder enc; or [models.enc] of the configuration names them. Files are written for all models or for none.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "out", hide_short_help = true)]
    pub out_dir: Option<PathBuf>,
    #[command(flatten)]
    pub target: Target,
    /// Use the bits of each gate and weight from this file, which `dirnet plan --save` wrote
    #[arg(long, hide_short_help = true, value_name = "FILE.toml", group = "target", value_hint = ValueHint::FilePath, help_heading = TARGET)]
    plan: Option<PathBuf>,
    /// Make the smallest file that passes the checks, such as --min-agreement 0.99
    ///
    /// The size is searched on a part of the calibration samples that is held back for it; the held-out samples then judge.
    #[arg(long, group = "target", help_heading = TARGET)]
    smallest: bool,
    /// Code nothing: only remove what is stored twice or not needed, and write values in fewer bytes
    #[arg(long, group = "target", help_heading = TARGET)]
    lossless: bool,
    /// Take the highest level of --effort that ends within TIME: 90s, 5min, 1h
    ///
    /// Levels are tried one after the other, as long as there is time; the lowest is always completed. TIME is that of calibration to
    /// fine-tuning, without verification. Which level it is depends on the machine, and the report names it: --effort with that
    /// level gives the same file everywhere.
    #[arg(long, value_name = "TIME", value_parser = value::time, conflicts_with = "effort", hide_short_help = true, help_heading = args::COMPRESSION)]
    time_budget: Option<Duration>,
    #[command(flatten)]
    pub flags: Flags,
    #[command(flatten)]
    pub checks: Checks,
    /// Skip verification
    #[arg(long, help_heading = CHECKS, hide_short_help = true)]
    pub no_verify: bool,
    /// Write the result even if a check fails
    #[arg(long, help_heading = CHECKS, hide_short_help = true)]
    pub keep_failed: bool,
    /// Print what `dirnet plan` would, and write no model
    #[arg(long, hide_short_help = true, conflicts_with_all = ["time_budget", "write_config"], help_heading = "Output")]
    dry_run: bool,
    /// Write the flags of this call, and checks with a margin for what it measured, to a configuration file for CI
    #[arg(long, hide_short_help = true, value_name = "FILE.toml", value_hint = ValueHint::FilePath, help_heading = "Output")]
    write_config: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// Compresses the model.
pub fn run(args: &Args, overrides: &Overrides, given: &config::Given) -> Result<()> {
    let start = Instant::now();
    if let Some(several) = args.several(given)? {
        return several.run(args, overrides, start);
    }
    args.check_verified()?;
    if args.smallest && args.checks.checks().is_empty() {
        bail!("--smallest needs a check that says what is enough, such as --min-snr 20 or --min-agreement 0.99");
    }
    if args.dry_run {
        return without_writing(args, overrides, start);
    }
    let out = args::output(args.out.as_deref())?;
    if let Some(file) = &args.write_config {
        let read = args.flags.samples.files().chain(&args.flags.run.config).chain(args.models.first());
        args::check_apart([file], read)?;
        if args.output.report.iter().map(PathBuf::as_path).chain([out]).any(|other| atomic::is_same(other, file)) {
            bail!("{}: is used for two outputs", file.display());
        }
    }
    if args.lossless {
        return without_coding(args, Some(out), start);
    }
    let (model, mut setup) = Setup::read(args.model(), &args.flags, overrides, &args.files())?;
    setup.limit_time(args.time_budget, args.flags.how.by_hand());
    let load = setup.seconds;
    let progress = progress(args.output.quiet);
    let mut compressor = setup.compressor(&model, &*progress)?;
    if guard::is_probe() {
        return Ok(compressor.probe()?);
    }
    compressor.check_names(&args.checks.checks())?;
    let target = args.target()?;
    let result = compressor.compress(&target)?;
    let mut report = Report::of_compressed(&compressor, &result);
    // The curve is also what an answer names another ratio from.
    if args.output.shows_tradeoff() || !args.no_verify {
        report.tradeoff = Report::tradeoff(&compressor)?;
    }
    compressor.release();

    let verifying = Instant::now();
    let verdict = match args.no_verify {
        true => None,
        false => Some(compressor.verify(&result.model, &args.checks.checks())?),
    };
    let verified = verifying.elapsed().as_secs_f64();
    if let Some(verdict) = &verdict {
        output::warn(verdict);
        report.warnings.extend(verdict.warnings.iter().cloned());
    }
    report.verify = verdict;
    let error = report.failure();

    let written = error.is_none() || args.keep_failed;
    let writing = Instant::now();
    if written {
        result.model.save(out)?;
        report.written_to(out);
    }
    report.seconds.load = Some(load);
    report.seconds.encode = report.seconds.encode.map(|seconds| seconds + writing.elapsed().as_secs_f64());
    report.seconds.verify = report.verify.is_some().then_some(verified);
    report.judge();
    report.seconds.total = start.elapsed().as_secs_f64();
    if let Some(file) = &args.write_config {
        let checks = report.answer.as_ref().map_or(&[][..], |answer| &answer.suggested_checks);
        let level = compressor.time_budget().and_then(|_| compressor.level());
        atomic::write_text(file, &given.text(file, checks, level)?)?;
    }
    args.output.show(&report)?;
    error.map_or(Ok(()), |error| Err(error.into()))
}

/// Shows what the bits would be, and writes no model.
fn without_writing(args: &Args, overrides: &Overrides, start: Instant) -> Result<()> {
    if args.lossless {
        return without_coding(args, None, start);
    }
    plan::show(args.model(), &args.flags, &args.target()?, overrides, &args.files(), start)
}

/// Writes the model with nothing coded, or nothing where there is no `out`.
fn without_coding(args: &Args, out: Option<&Path>, start: Instant) -> Result<()> {
    let flags = &args.flags;
    flags.run.start()?;
    let model = flags.run.load(args.model())?;
    args.files().check(&flags.samples, &flags.run, &model)?;
    let loss = flags.samples.loss()?;
    let TestInputs { samples, warnings } = flags.samples.judged(&model)?;
    if guard::is_probe() {
        Judge::new(&model, &loss, &samples.carry)?.reference(&Engine::new(&model)?, &samples)?;
        return Ok(());
    }
    let load = start.elapsed().as_secs_f64();
    let (result, steps) = compress::without_coding(&model, &flags.how.lossless())?;
    let encoded = start.elapsed().as_secs_f64();
    let checks = args.checks.checks();
    let settings = VerifySettings {
        samples: &samples,
        calibrated_on: None,
        loss: &loss,
        checks: &checks,
        seed: flags.samples.seed,
    };
    let compared = || match guard::refused() {
        Some(refused) => Err(refused),
        None => verify::verify(&model, &result, &settings, &*progress(args.output.quiet)),
    };
    // Of what samples the models are compared on, if they are.
    let mut unconfirmed = Vec::new();
    let is_exact = checks.is_empty() && steps.iter().all(|step| step.exact);
    let verdict = match args.no_verify || out.is_none() {
        true => None,
        false if is_exact => of_exact_steps(compared(), &mut unconfirmed)?,
        false => Some(compared()?),
    };
    let verified = start.elapsed().as_secs_f64();
    let command = if out.is_some() { Command::Compress } else { Command::Plan };
    let mut report = Report::between(command, &model, &result);
    report.lossless = steps.iter().map(Into::into).collect();
    report.warnings = if verdict.is_some() { warnings } else { Vec::new() };
    report.warnings.extend(unconfirmed);
    if let Some(verdict) = &verdict {
        output::warn(verdict);
        report.warnings.extend(verdict.warnings.iter().cloned());
    }
    let failed = verdict.as_ref().filter(|verdict| !verdict.passed);
    let error = failed.map(|verdict| Error::new(ErrorKind::Check, verdict.failures.join("; ")));
    if let Some(out) = out.filter(|_| error.is_none() || args.keep_failed) {
        result.save(out)?;
        report.written_to(out);
    }
    let verify = verdict.is_some().then_some(verified - encoded);
    let total = start.elapsed().as_secs_f64();
    report.seconds = Seconds { load: Some(load), encode: Some(encoded - load), verify, total, ..Seconds::default() };
    report.verify = verdict;
    report.judge();
    args.output.show(&report)?;
    error.map_or(Ok(()), |error| Err(error.into()))
}

/// The verdict on steps that keep every value bit for bit, which need no run of the models: one that shows nothing is a
/// warning, and one that shows a difference fails as ever.
fn of_exact_steps(
    compared: dirnet::error::Result<Verdict>,
    warnings: &mut Vec<String>,
) -> dirnet::error::Result<Option<Verdict>> {
    let none = |why: &dyn std::fmt::Display| {
        format!("nothing was compared: the steps are exact, but the built-in engine has not confirmed it ({why})")
    };
    match compared {
        Err(error) if error.is_of_engine() => {
            warnings.push(none(&error));
            Ok(None)
        }
        Ok(mut verdict) if !verdict.passed && !verdict.shows_difference() => {
            warnings.extend(verdict.failures.drain(..).map(|failure| none(&failure)));
            verdict.passed = true;
            Ok(Some(verdict))
        }
        verdict => verdict.map(Some),
    }
}

impl Args {
    /// What is run, and within which limits.
    pub fn guarded(&self, given: &config::Given) -> Guarded<'_> {
        let layers = self.no_verify || self.dry_run;
        // Where they cannot be several models, the worker says why.
        match self.several(given) {
            Ok(Some(several)) => several.guarded(self),
            _ => self.flags.guarded(self.model(), &self.files(), layers),
        }
    }

    /// The model, of a call with one.
    fn model(&self) -> &Path {
        self.models.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Refuses what needs verification where there is none.
    pub fn check_verified(&self) -> Result<()> {
        if self.no_verify && !self.checks.checks().is_empty() {
            bail!("checks such as --min-snr need verification; remove --no-verify");
        }
        if self.no_verify || self.dry_run {
            self.output.check_unjudged()?;
        }
        Ok(())
    }

    /// The job of several models, if it is one.
    fn several(&self, given: &config::Given) -> Result<Option<Several>> {
        let Some(folder) = &self.out_dir else {
            if self.models.len() > 1 {
                bail!(
                    "{} models, but no folder for the results: name one with --out-dir (a flag takes one value, repeat it for \
                     each: --calibration a --calibration b)",
                    self.models.len()
                );
            }
            return Ok(None);
        };
        let single = [
            (self.plan.is_some(), "--plan"),
            (self.smallest, "--smallest"),
            (self.lossless, "--lossless"),
            (self.target.max_loss.is_some(), "--max-loss"),
            (self.dry_run, "--dry-run"),
            (self.time_budget.is_some(), "--time-budget"),
            (self.write_config.is_some(), "--write-config"),
        ];
        if let Some((_, flag)) = single.into_iter().find(|(is_given, _)| *is_given) {
            bail!("{flag} is for one model, written with -o: remove it, or --out-dir");
        }
        Several::of(&self.models, folder, &given.models).map(Some)
    }

    fn files(&self) -> Files<'_> {
        Files {
            written: self.out.as_deref().filter(|_| !self.dry_run),
            plan: self.plan.as_deref(),
            output: &self.output,
        }
    }

    /// What is asked for. A plan is read before anything takes long.
    fn target(&self) -> Result<compress::Target> {
        match &self.plan {
            Some(file) => {
                let text = config::read_text(file, PLAN_BYTES)?;
                Ok(compress::Target::Plan { text, file: Some(file.clone()) })
            }
            None if self.smallest => Ok(compress::Target::Smallest(self.checks.checks())),
            None => Ok(self.target.of_library()),
        }
    }
}
