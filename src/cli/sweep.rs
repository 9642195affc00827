//! `dirnet sweep MODEL --ratios 4,8,12,16`: size against loss.

use std::time::Instant;

use anyhow::Result;
use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::report::{self, Point, Report, Sweep};

use super::args::{Output, Target};
use super::config::Overrides;
use super::guard::{self, Guarded};
use super::job::{Files, Flags, Setup, Study};
use super::progress::progress;
use super::value;

const EXAMPLES: &str = "\
Examples:
  dirnet sweep model.onnx --ratios 4,8,12,16 --calibration samples.npz
  dirnet sweep model.onnx --ratios 8,16 --calibration samples.npz --format json";

/// Compress at several ratios and show what each costs; no model is written
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Recurrent weight bytes before / after, several
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
    let target = Target { ratio: None, max_size: None, max_loss: None };
    let setup = Setup::read(&args.flags, &target, overrides, &args.files())?;
    if guard::is_probe() {
        return setup.probe();
    }
    // One ratio that can be had is enough; the others are lines of the table.
    let least = args.ratios.iter().copied().fold(f64::INFINITY, f64::min);
    setup.check_target(&args.flags, &Target { ratio: Some(least), ..target })?;
    let engine = Engine::new(&setup.model).map_err(|error| error.in_file(&args.flags.model))?;
    let judge = setup.judge()?;
    let reference = judge.reference(&engine, &setup.inputs.holdout)?;
    let progress = progress(args.output.quiet);
    let mut study = setup.study(&args.flags, &*progress)?;

    let model = Report::between(report::Command::Plan, &setup.model, &setup.model).model;
    let mut sweep =
        Sweep::new(report::Model { bytes_after: None, ratio: None, ..model }, study.job.weights.survey.stored_bytes());
    for &ratio in &args.ratios {
        sweep.points.push(match try_ratio(&mut study, ratio, &reference, &*progress) {
            Ok(point) => point,
            Err(error) => unreachable_point(ratio, error)?,
        });
    }
    sweep.warnings = study.warnings;
    sweep.seconds.load = Some(setup.seconds);
    sweep.seconds.total = start.elapsed().as_secs_f64();
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
        self.flags.guarded(&self.files(), false)
    }

    fn files(&self) -> Files<'_> {
        Files { written: None, plan: None, output: &self.output }
    }
}

fn try_ratio(
    study: &mut Study<'_>,
    ratio: f64,
    reference: &dirnet::loss::Reference<'_>,
    progress: &dyn dirnet::progress::Progress,
) -> Result<Point> {
    let plan = study.plan(study.job.sizing().target(ratio), progress)?;
    let coded = study.make(plan, progress)?;
    let comparison = reference.compare(&Engine::new(&coded.model)?, &dirnet::engine::Overrides::default())?;
    let bytes = coded.model.saved_bytes()?;
    let before = study.job.weights.survey.stored_bytes();
    Ok(Point {
        target: ratio,
        ratio: report::ratio(before, (bytes + before).saturating_sub(study.job.model.bytes())),
        bytes_after: Some(bytes),
        reason: None,
        loss: comparison.worst_loss().ok(),
        outputs: comparison.figures(),
    })
}

/// A ratio that cannot be had is a line of the table; every other failure ends the sweep.
fn unreachable_point(target: f64, error: anyhow::Error) -> Result<Point> {
    match error.downcast::<Error>() {
        Ok(error) if error.kind() == ErrorKind::Target => {
            let reason = Some(error.to_string());
            Ok(Point { target, ratio: None, bytes_after: None, reason, loss: None, outputs: Vec::new() })
        }
        Ok(error) => Err(error.into()),
        Err(error) => Err(error),
    }
}
