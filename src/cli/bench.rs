//! `dirnet bench MODEL [OTHER...]`: how long models take and how much memory, side by side.
//!
//! Each model is measured by a process of its own, so that its memory is its own: the command starts itself again with
//! the number of the model.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueHint;
use dirnet::bench::{self, Runs};
use dirnet::engine::{Engine, Overrides};
use dirnet::error::{Error, ErrorKind};
use dirnet::report::{Bench, Benched};

use super::BAD_INPUT;
use super::args::{Output, Run, Samples};
use super::output::print;
use super::progress::progress;

const EXAMPLES: &str = "\
Examples:
  dirnet bench model.onnx small.onnx --holdout test.npz
  dirnet bench model.onnx small.onnx fast.onnx --dim batch=1 --runs 50 --format json";

/// Run models again and again: latency and memory in the engine that verifies, side by side
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// ONNX files; the first is what the others are held against
    #[arg(value_name = "MODEL", required_unless_present = "config", value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// Passes over the samples that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Passes before them that are not
    #[arg(long, value_name = "N", default_value_t = 3)]
    warm_up: u32,
    /// Measure this one of the models, in this process
    #[arg(long, value_name = "INDEX", hide = true)]
    alone: Option<usize>,
    #[command(flatten)]
    samples: Samples,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: Run,
}

/// Measures the models.
pub fn run(args: &Args) -> Result<()> {
    if let Some(index) = args.alone {
        return args.alone(index);
    }
    let models = args.models.iter().map(|path| args.run.load(path)).collect::<Result<Vec<_>>>()?;
    let Some(first) = models.first() else { bail!("no model to run") };
    args.output.check(None, &models.iter().collect::<Vec<_>>())?;
    let (samples, warnings) = args.samples.judged(first)?;
    let mut report = Bench::new(samples.len(), args.runs as usize, args.warm_up as usize);
    report.warnings = warnings;
    // Nothing of this process is to compete with those that measure.
    drop((models, samples));
    let progress = progress(args.output.quiet);
    progress.phase("bench", args.models.len() as u64);
    for index in 0..args.models.len() {
        report.models.push(child(index)?);
        progress.advance(1);
    }
    progress.done();
    args.output.show(&report)
}

/// Has a new process measure a model.
fn child(index: usize) -> Result<Benched> {
    let program = std::env::current_exe().context("cannot find the program itself, which measures each model")?;
    let mut arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    arguments.push(format!("--alone={index}").into());
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().context("cannot start a process")?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).context("a measuring process gave no figures");
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let message = match (output.status.code(), text.trim().trim_start_matches("error: ")) {
        (Some(_), message) if !message.is_empty() => message.to_owned(),
        _ => format!("the process that measures model {} was killed ({})", index + 1, output.status),
    };
    // Its own exit code is kept: whether the model cannot be run, or the input is wrong.
    let kind = if output.status.code() == Some(BAD_INPUT.into()) { ErrorKind::Usage } else { ErrorKind::Engine };
    Err(Error::new(kind, message).into())
}

impl Args {
    /// Measures one model and prints the figures for the process that asked.
    fn alone(&self, index: usize) -> Result<()> {
        self.run.start()?;
        let path = self.models.get(index).context("there is no such model")?;
        let start = Instant::now();
        let model = self.run.load(path)?;
        let mut load_seconds = start.elapsed().as_secs_f64();
        let (samples, _) = self.samples.judged(&model)?;
        let start = Instant::now();
        let at = |error: Error| error.in_file(path);
        let engine = Engine::new(&model).map_err(at)?;
        if let Some(stream) = samples.streams.first() {
            let mut first = stream.clone();
            first.feeds.truncate(1);
            engine.run_stream(&first, &samples.carry, &Overrides::new(), None).map_err(at)?;
        }
        load_seconds += start.elapsed().as_secs_f64();
        let bytes = model.bytes();
        drop(model);
        let runs = Runs { warm_up: self.warm_up as usize, measured: self.runs as usize };
        let latency_ms = bench::measure(&engine, &samples, runs, &*progress(true)).map_err(at)?;
        let [peak_bytes, resident_bytes] = ["VmHWM:", "VmRSS:"].map(memory);
        let path = path.to_string_lossy().into_owned();
        let figures = Benched { path, bytes, load_seconds, latency_ms, peak_bytes, resident_bytes };
        print(&serde_json::to_string(&figures)?)
    }
}

/// A figure of this process in bytes, where the system keeps a `/proc`.
fn memory(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
