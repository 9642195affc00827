//! `dirnet bench MODEL [OTHER...]`: how long models take and how much memory, side by side.
//!
//! Each model is measured by a worker of its own (see [`guard`]), so that its memory is its own, and its limits too.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueHint;
use dirnet::bench::{self, Runs};
use dirnet::compress::TestInputs;
use dirnet::engine::{Engine, Overrides};
use dirnet::error::Error;
use dirnet::progress::Silent;
use dirnet::report::{Bench, Benched};

use super::args::{self, Limits, Output, Run, TestSamples};
use super::progress::display;
use crate::process::guard::{self, Message};

const EXAMPLES: &str = "\
Examples:
  dirnet bench model.onnx small.onnx --samples test.npz
  dirnet bench model.onnx small.onnx fast.onnx --dim batch=1 --runs 50 --format json";

/// Compare latency and memory of models in the built-in engine
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// ONNX files; the first is the baseline
    #[arg(value_name = "MODEL", required_unless_present = "config", value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// Measure N passes over the samples
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Run N passes before measuring
    #[arg(long, value_name = "N", default_value_t = 3)]
    warm_up: u32,
    #[command(flatten)]
    samples: TestSamples,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    run: Run,
}

/// Measures the models. `arguments` are those that this process was started with, for the workers.
pub fn run(args: &Args, arguments: &[OsString]) -> Result<()> {
    if let Some(index) = guard::measured() {
        guard::arm(args.limits.of_process());
        return args.measure(index);
    }
    let models = args.models.iter().map(|path| args.run.load(path)).collect::<Result<Vec<_>>>()?;
    let Some(first) = models.first() else { bail!("no model to run") };
    args.output.check(None, &models.iter().collect::<Vec<_>>())?;
    args::check_apart(&args.output.report, args.samples.0.files().chain(&args.run.config))?;
    let TestInputs { samples, warnings } = args.samples.0.judged(first)?;
    let mut report = Bench::new(samples.len(), args.runs as usize, args.warm_up as usize);
    report.warnings = warnings;
    // Nothing of this process is to compete with those that measure.
    drop((models, samples));
    let bar = display(args.output.quiet);
    let progress = bar.as_deref().unwrap_or(&Silent);
    progress.phase("bench", args.models.len() as u64);
    for (index, path) in args.models.iter().enumerate() {
        let figures = guard::measure(index, path, args.limits.of_process(), arguments)?;
        report.models.push(serde_json::from_str(&figures).context("the measuring process returned no result")?);
        let _ = progress.advance(1);
    }
    progress.done();
    args.output.show(&report)
}

impl Args {
    /// Measures one model and reports to the supervisor.
    fn measure(&self, index: usize) -> Result<()> {
        self.run.start()?;
        let path = self.models.get(index).context("there is no such model")?;
        let start = Instant::now();
        let model = self.run.load(path)?;
        let mut load_seconds = start.elapsed().as_secs_f64();
        let samples = self.samples.0.judged(&model)?.samples;
        let start = Instant::now();
        let at = |error: Error| error.in_file(path);
        let engine = Engine::new(&model).map_err(at)?;
        if let Some(stream) = samples.streams.first() {
            let mut first = stream.clone();
            first.feeds.truncate(1);
            engine.run_stream(&first, &samples.carry, &Overrides::default(), None).map_err(at)?;
        }
        load_seconds += start.elapsed().as_secs_f64();
        let bytes = model.bytes();
        drop(model);
        let runs = Runs { warm_up: self.warm_up as usize, measured: self.runs as usize };
        let latency_ms = bench::measure(&engine, &samples, runs, &Silent).map_err(at)?;
        let [peak_bytes, resident_bytes] = ["VmHWM:", "VmRSS:"].map(memory);
        let path = path.to_string_lossy().into_owned();
        let figures = Benched { path, bytes, load_seconds, latency_ms, peak_bytes, resident_bytes };
        guard::tell(&Message::Figures(serde_json::to_string(&figures)?));
        Ok(())
    }
}

/// A figure of this process in bytes, where the system keeps a `/proc`.
fn memory(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
