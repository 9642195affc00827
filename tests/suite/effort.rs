//! One knob for the time that is spent, limits of time, and what is not written.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dirnet::compress::{Level, Settings, TimeBudget};
use dirnet::onnx::tensor;
use dirnet::{Compressor, Inputs, Model, Options, Target};
use ndarray::{ArrayD, IxDyn};
use tempfile::TempDir;

use crate::forms::{self, Case};
use crate::hostile::{names, run, targets::wave, with, write};

fn job() -> (Model, Inputs) {
    let model = forms::model(&Case { outputs: &["Y"], ..forms::LSTM });
    let samples = forms::samples(&model, [6, 2], 12);
    (model, Inputs::new(samples, None))
}

/// The level and the messages of a result.
fn result(options: Options, target: &Target) -> (Option<Level>, dirnet::onnx::ModelProto, Vec<String>) {
    let (model, inputs) = job();
    let mut compressor = Compressor::new(&model, inputs, options).expect("it has sites");
    let found = compressor.compress(target).expect("it can be reached");
    (compressor.level(), found.model.proto, found.warnings)
}

/// Whatever the limit leaves, it is what the level gives by itself, byte for byte.
#[test]
fn a_time_budget_gives_what_its_level_gives() {
    let target = Target::Ratio(2.0);
    let begun = Instant::now();
    let limited = |limit| {
        let time = Some(TimeBudget { limit, by_hand: Settings::default() });
        result(Options { time, ..Options::default() }, &target)
    };
    let (most, ..) = limited(Duration::from_secs(1_000_000));
    assert_eq!(most, Some(Level::MAX), "there is time for all of them");
    let all = begun.elapsed();
    let mut seen = Vec::new();
    for limit in [Duration::from_nanos(1), all / 8, all / 2, Duration::from_secs(1_000_000)] {
        let (level, proto, warnings) = limited(limit);
        let level = level.expect("a limit leaves a level");
        let (same, alone, _) = result(Options::of_level(level, Settings::default()), &target);
        assert_eq!(same, Some(level));
        assert!(proto == alone, "{level} within {limit:?}");
        let is_longer = warnings.iter().any(|warning| warning.contains("takes longer than --time-budget"));
        assert!(is_longer || limit > Duration::from_nanos(1), "{warnings:?}");
        seen.push(level);
    }
    assert_eq!((seen[0], seen[3]), (Level::parse("0").expect("a level"), Level::MAX), "{seen:?}");
}

/// A search for a loss starts anew at each level.
#[test]
fn a_time_budget_searches_at_its_level() {
    let target = Target::MaxLoss(0.01);
    let by_hand = Settings { tune: Some(None), ..Settings::default() };
    let time = Some(TimeBudget { limit: Duration::from_secs(1_000_000), by_hand });
    let (level, proto, _) = result(Options { time, ..Options::default() }, &target);
    let (_, alone, _) = result(Options::of_level(level.expect("a level"), by_hand), &target);
    assert!(proto == alone, "{level:?}");
}

/// A model, samples, and what a call reports.
fn workplace() -> TempDir {
    let folder = TempDir::new().expect("a directory");
    let mut model = with(vec![], vec![tensor::float("z", &[], &[0.5])]);
    // Something to remove without coding.
    model.graph.as_mut().expect("a graph").node[0].doc_string = Some("a trace of the exporter ".repeat(20));
    write(&folder, "m.onnx", &model);
    let samples = ArrayD::from_shape_vec(IxDyn(&[16, 4, 1, 16]), wave(16 * 4 * 16)).expect("as many as it says");
    ndarray_npy::write_npy(folder.path().join("x.npy"), &samples).expect("it can be written");
    folder
}

fn report(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let base =
        ["compress", "m.onnx", "-o", "s.onnx", "--ratio", "2", "--calibration", "x.npy", "-q", "--report", "r.json"];
    let shown = run(folder, &[&base[..], arguments].concat());
    assert_eq!(shown, (Some(0), String::new()), "{arguments:?}");
    serde_json::from_str(&fs::read_to_string(folder.join("r.json")).expect("was written")).expect("JSON")
}

#[test]
fn effort_sets_flags_and_flags_go_before_it() {
    let folder = workplace();
    let (at, bytes) = (folder.path(), || fs::read(folder.path().join("s.onnx")).expect("was written"));
    for (level, flags) in [
        ("0", &["--sensitivity", "none", "--tune", "off"][..]),
        ("1", &["--sensitivity", "local", "--tune", "off"]),
        ("2", &["--sensitivity", "auto", "--tune", "off"]),
        ("3", &[]),
        ("max", &["--tune", "full"]),
    ] {
        let found = report(at, &["--effort", level]);
        let of_level = bytes();
        let spelt_out = report(at, flags);
        assert!(of_level == bytes(), "{level}");
        assert_eq!(found["effort"], spelt_out["effort"], "{level}");
        let name = if level == "max" { "4" } else { level };
        assert_eq!(found["effort"]["level"], name);
        assert!(found["effort"]["time_budget"].is_null());
    }
    let found = report(at, &["--effort", "0", "--sensitivity", "measured"]);
    assert_eq!(found["effort"]["flags"], "--sensitivity measured --tune off --codec block");
    assert!(found["effort"]["level"].is_null());
    fs::write(at.join("dirnet.toml"), "effort = 1\n").expect("writes");
    assert_eq!(report(at, &["--config", "dirnet.toml"])["effort"]["level"], "1");
    // The command line wins over the file, also where it asks in another way.
    let found = report(at, &["--config", "dirnet.toml", "--time-budget", "1h", "--tune", "off"]);
    assert_eq!(found["effort"]["time_budget"], 3600.0);
    assert_eq!(found["effort"]["flags"], "--sensitivity auto --tune off --codec block");
    for (flag, words) in [
        (["--effort", "5"], "invalid value '5' for '--effort <LEVEL>': expected 0 to 4, or max"),
        (["--time-budget", "soon"], "expected a time of at least a second, such as 90s, 5min or 1h"),
    ] {
        let (code, line) = run(at, &["compress", "m.onnx", "-o", "s.onnx", flag[0], flag[1]]);
        assert!(code == Some(2) && line.contains(words), "{line}");
    }
}

/// What `--time-budget` wrote is made again, on any machine, by the configuration that it wrote.
#[test]
fn a_configuration_of_a_time_budget_has_its_level() {
    let folder = workplace();
    let found = report(folder.path(), &["--time-budget", "1h", "--tune", "off", "--write-config", "ci.toml"]);
    let written = fs::read_to_string(folder.path().join("ci.toml")).expect("was written");
    let level = found["effort"]["level"].as_str().expect("a level");
    assert!(written.contains(&format!("effort = \"{level}\"")) && !written.contains("time_budget"), "{written}");
    let before = fs::read(folder.path().join("s.onnx")).expect("was written");
    report(folder.path(), &["--config", "ci.toml", "--keep-failed"]);
    assert!(before == fs::read(folder.path().join("s.onnx")).expect("was written"));
}

#[test]
fn what_is_no_smaller_is_not_written() {
    let folder = workplace();
    let at = folder.path();
    let quick = ["--no-verify", "-q"];
    let (code, _) = run(at, &[&["compress", "m.onnx", "-o", "s.onnx", "--lossless"][..], &quick].concat());
    assert_eq!(code, Some(0));
    let (code, line) = run(at, &[&["compress", "s.onnx", "-o", "t.onnx", "--lossless"][..], &quick].concat());
    assert_eq!(code, Some(1), "{line}");
    assert!(line.starts_with("error: s.onnx: the result is no smaller than the original ("), "{line}");
    // A plan that codes nothing, for a file of which nothing else can be taken.
    run(at, &["plan", "s.onnx", "--ratio", "2", "--sensitivity", "none", "--save", "p.toml", "-q"]);
    let plan = fs::read_to_string(at.join("p.toml")).expect("was written");
    let dense: Vec<&str> =
        plan.lines().filter(|line| !["width", "sharing"].iter().any(|key| line.starts_with(key))).collect();
    fs::write(at.join("p.toml"), dense.join("\n").replace("\"block\"", "\"dense\"")).expect("writes");
    let (code, line) = run(at, &[&["compress", "s.onnx", "-o", "t.onnx", "--plan", "p.toml"][..], &quick].concat());
    assert_eq!(code, Some(1), "{line}\n{plan}");
    assert!(line.starts_with("error: s.onnx: the result is no smaller than the original ("), "{line}");
    assert_eq!(names(at), ["m.onnx", "p.toml", "s.onnx", "x.npy"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_no_model() {
    let folder = workplace();
    let at = folder.path();
    let flags = ["--ratio", "2", "--effort", "2", "--calibration", "x.npy", "--format", "json"];
    let json = |arguments: &[&str]| {
        let output = crate::hostile::dirnet().args(arguments).current_dir(at).output().expect("starts");
        assert!(output.status.success(), "{output:?}");
        let mut found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        found.as_object_mut().expect("an object").remove("seconds");
        found
    };
    let planned = json(&[&["plan", "m.onnx"][..], &flags].concat());
    let dry = json(&[&["compress", "m.onnx", "-o", "s.onnx", "--dry-run"][..], &flags].concat());
    assert_eq!(planned, dry);
    assert_eq!(json(&[&["compress", "m.onnx", "--dry-run"][..], &flags].concat()), dry, "no output file is needed");
    let lossless = json(&["compress", "m.onnx", "--dry-run", "--lossless", "--format", "json"]);
    assert!(lossless["model"]["output"].is_null() && lossless["verify"].is_null());
    assert!(lossless["lossless"].as_array().is_some_and(|steps| !steps.is_empty()), "{lossless}");
    assert_eq!(names(at), ["m.onnx", "x.npy"]);
}
