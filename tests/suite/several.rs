//! Several models under one budget of bytes.

use std::fs;
use std::path::Path;

use dirnet::compress::{self, Options, Settings, TimeBudget};
use dirnet::error::ErrorKind;
use dirnet::onnx::tensor;
use dirnet::samples::{Random, RandomOptions};
use dirnet::{Compressor, Inputs, Model, Target};
use ndarray::{ArrayD, IxDyn};
use tempfile::TempDir;

use crate::forms::{self, Case};
use crate::hostile::{dirnet, names, run, targets::wave, with, write};

fn options() -> Options {
    Options::of_level(compress::Level::parse("2").expect("a level"), Settings::default())
}

fn inputs(model: &Model, seed: u64) -> Inputs {
    let dims = [("T".to_owned(), 6), ("B".to_owned(), 2)];
    let random = RandomOptions { dims: &dims, carry: &[], seed, count: 12 };
    Inputs::new(Random::new(model, &random).expect("inputs are floats").samples, None)
}

/// Two equal models share alike; one that counts more gets more; and what they get adds up to no more than there is.
#[test]
fn bytes_are_divided_by_what_they_save() {
    let models = [forms::model(&forms::LSTM), forms::model(&forms::LSTM)];
    let before: u64 = models.iter().map(Model::bytes).sum();
    let shares = |weights: [f64; 2], target: Target| {
        let compressor = |model| Compressor::new(model, inputs(model, 3), options()).expect("it has sites");
        let mut compressors = [compressor(&models[0]), compressor(&models[1])];
        compress::shares(&mut compressors, &weights, &target).expect("it can be reached")
    };
    let total = before / 2;
    let equal = shares([1.0, 1.0], Target::MaxSize(total));
    let bytes = |shares: &[compress::Share]| shares.iter().map(|share| share.bytes).collect::<Vec<_>>();
    assert!(bytes(&equal)[0].abs_diff(bytes(&equal)[1]) < total / 10, "{equal:?}");
    let unequal = shares([1.0, 100.0], Target::MaxSize(total));
    assert!(bytes(&unequal)[1] > bytes(&unequal)[0], "{unequal:?}");
    for shares in [&equal, &unequal] {
        assert!(bytes(shares).iter().sum::<u64>() <= total);
        assert!(shares.iter().all(|share| share.curve.len() > 3 && share.curve.iter().all(|look| look.measured)));
    }
    let loss = |weights: [f64; 2], of: fn(&compress::Share) -> Option<f64>, shares: &[compress::Share]| {
        shares.iter().zip(weights).map(|(share, weight)| weight * of(share).expect("measured")).sum::<f64>()
    };
    let [divided, alike] = [|share: &compress::Share| share.loss, |share: &compress::Share| share.loss_alike]
        .map(|of| loss([1.0, 100.0], of, &unequal));
    assert!(divided < alike, "{divided} {alike}");
}

#[test]
fn too_few_bytes_are_refused_with_the_nearest_that_are_enough() {
    let model = forms::model(&Case { direction: "bidirectional", ..forms::LSTM });
    let shares = |target: Target| {
        let mut compressors = [Compressor::new(&model, inputs(&model, 3), options()).expect("it has sites")];
        compress::shares(&mut compressors, &[1.0], &target)
    };
    let error = shares(Target::MaxSize(100)).expect_err("no file is so small");
    assert_eq!(error.kind(), ErrorKind::Target);
    let nearest = error.message().split("the nearest is ").nth(1).and_then(|rest| rest.split(' ').next());
    let nearest: u64 = nearest.expect("it is named").parse().expect("a number");
    assert_eq!(shares(Target::MaxSize(nearest)).expect("it can be reached")[0].bytes, nearest);
    let error = shares(Target::MaxLoss(0.1)).expect_err("a loss is no budget of bytes");
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// Two models with their samples, by folders and by the tables of a configuration.
fn workplace() -> TempDir {
    let folder = TempDir::new().expect("a directory");
    write(&folder, "enc.onnx", &with(vec![], vec![tensor::float("z", &[], &[0.5])]));
    write(&folder, "dec.onnx", &with(vec![], vec![tensor::float("z", &[], &[-0.5])]));
    fs::create_dir(folder.path().join("in")).expect("makes a directory");
    for (name, seed) in [("enc", 1.0), ("dec", 0.2)] {
        let values = wave(16 * 4 * 16).into_iter().map(|v| v * seed).collect();
        let samples: ArrayD<f32> = ArrayD::from_shape_vec(IxDyn(&[16, 4, 1, 16]), values).expect("as many as it says");
        ndarray_npy::write_npy(folder.path().join(format!("in/{name}.npy")), &samples).expect("it can be written");
    }
    folder
}

const QUICK: [&str; 6] = ["--out-dir", "small", "--ratio", "2.5", "--effort", "1"];

fn json(folder: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(folder.join("r.json")).expect("was written")).expect("JSON")
}

#[test]
fn one_call_writes_all_models_and_one_report() {
    let folder = workplace();
    let at = folder.path();
    let reports = ["--report", "r.json", "--report", "r.html", "--report", "r.md", "--report", "r.xml"];
    let call = [&["compress", "enc.onnx", "dec.onnx", "--calibration", "in"][..], &QUICK, &reports].concat();
    let output = dirnet().args(&call).current_dir(at).output().expect("starts");
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).expect("text");
    for words in ["all files", "all weights", "== enc ==", "== dec ==", "the weighted losses add up to"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    assert_eq!(names(&at.join("small")), ["dec.onnx", "enc.onnx"]);
    let report = json(at);
    let sizes: u64 = names(&at.join("small"))
        .iter()
        .map(|name| fs::metadata(at.join("small").join(name)).expect("there").len())
        .sum();
    assert_eq!(report["total"]["bytes_after"], sizes);
    assert!(report["total"]["weight_ratio"].as_f64().is_some_and(|ratio| ratio >= 2.5), "{}", report["total"]);
    assert_eq!(report["models"].as_array().map(Vec::len), Some(2));
    for (name, share) in ["enc", "dec"].iter().zip(report["shares"].as_array().expect("a list")) {
        assert_eq!(share["name"], *name);
        assert!(share["curve"].as_array().is_some_and(|curve| curve.len() > 2), "{share}");
    }
    for (file, words) in [("r.html", "2 models under one budget"), ("r.md", "2 models"), ("r.xml", "enc.onnx")] {
        let text = fs::read_to_string(at.join(file)).expect("was written");
        assert!(text.contains(words), "{file}: {text}");
    }
    // Each is what a call for it alone makes of its share.
    let share = report["shares"][0]["bytes"].to_string();
    let alone = [
        "compress",
        "enc.onnx",
        "-o",
        "alone.onnx",
        "--max-size",
        &share,
        "--effort",
        "1",
        "--calibration",
        "in/enc.npy",
        "-q",
    ];
    assert_eq!(run(at, &alone), (Some(0), String::new()));
    assert!(fs::read(at.join("alone.onnx")).expect("there") == fs::read(at.join("small/enc.onnx")).expect("there"));
}

#[test]
fn a_configuration_names_models_and_their_samples() {
    let folder = workplace();
    let at = folder.path();
    fs::rename(at.join("in/enc.npy"), at.join("in/other.npy")).expect("moves");
    let config = "[models.enc]\nfile = 'enc.onnx'\ncalibration = 'in/other.npy'\n\n[models.dec]\nfile = 'dec.onnx'\n\
                  calibration = ['in/dec.npy']\nloss = 'nmse'\nweight = 50\n";
    fs::write(at.join("c.toml"), config).expect("writes");
    let call = [&["compress", "--config", "c.toml", "-q", "--report", "r.json"][..], &QUICK].concat();
    assert_eq!(run(at, &call), (Some(0), String::new()));
    assert_eq!(names(&at.join("small")), ["dec.onnx", "enc.onnx"]);
    let report = json(at);
    let weights: Vec<f64> =
        report["shares"].as_array().expect("a list").iter().filter_map(|it| it["weight"].as_f64()).collect();
    assert_eq!(weights, [50.0, 1.0], "in the order of their names");
    for (text, words) in [
        ("[models.enc]\nflie = 'enc.onnx'\n", "c.toml:2: unknown field `flie`"),
        ("[models.enc]\nfile = 'enc.onnx'\nweight = 0\n", "c.toml:1: [models.enc]: weight is a number above 0"),
    ] {
        fs::write(at.join("c.toml"), text).expect("writes");
        let (code, line) = run(at, &call);
        assert!(code == Some(2) && line.contains(words), "{line}");
    }
}

/// All or none: a check that one of them fails leaves nothing behind.
#[test]
fn a_check_that_fails_writes_no_model() {
    let folder = workplace();
    let at = folder.path();
    let call =
        [&["compress", "enc.onnx", "dec.onnx", "--calibration", "in", "--min-snr", "y:200", "-q"][..], &QUICK].concat();
    let (code, line) = run(at, &call);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.starts_with("error: enc.onnx: output 'y': snr ") && line.contains("--min-snr 200"), "{line}");
    assert_eq!(names(at), ["dec.onnx", "enc.onnx", "in"]);
    assert_eq!(run(at, &[&call[..], &["--keep-failed"]].concat()).0, Some(1));
    assert_eq!(names(&at.join("small")), ["dec.onnx", "enc.onnx"]);
}

#[test]
fn what_cannot_be_one_job_is_refused() {
    let folder = workplace();
    let at = folder.path();
    fs::create_dir(at.join("sub")).expect("makes a directory");
    fs::copy(at.join("enc.onnx"), at.join("sub/enc.onnx")).expect("copies");
    fs::write(at.join("nodes.toml"), "[nodes.'^a']\nskip = true\n").expect("writes");
    for (arguments, words) in [
        (
            &["enc.onnx", "dec.onnx", "-o", "s.onnx"][..],
            "2 models, but no folder for the results: name one with --out-dir",
        ),
        (&["--out-dir", "small"], "no models: name them, or give each a table [models.NAME]"),
        (&["enc.onnx", "sub/enc.onnx", "--out-dir", "small"], "two models have this file name"),
        (&["enc.onnx", "--out-dir", "."], "enc.onnx: this is an input; choose another output file"),
        (&["enc.onnx", "dec.onnx", "--out-dir", "small", "--smallest"], "--smallest is for one model"),
        (&["enc.onnx", "dec.onnx", "--out-dir", "small", "--time-budget", "5min"], "--time-budget is for one model"),
        (
            &["enc.onnx", "dec.onnx", "--out-dir", "small", "--config", "nodes.toml"],
            "[nodes] of a configuration is for one",
        ),
        (
            &["enc.onnx", "dec.onnx", "--out-dir", "small", "--stream", "state=stateN"],
            "--stream names 'state', which is no",
        ),
        (
            &["enc.onnx", "dec.onnx", "--out-dir", "small", "--calibration", "in/enc.npy"],
            "for several models, name a folder with the samples of each",
        ),
        (
            &["enc.onnx", "dec.onnx", "--out-dir", "small", "--calibration", "sub"],
            "no samples of enc: there is no enc.npz, enc.npy or folder enc",
        ),
    ] {
        let (code, line) = run(at, &[&["compress"][..], arguments].concat());
        assert!(code == Some(2) && line.contains(words), "{arguments:?}: {code:?} {line}");
        assert!(!at.join("small").exists(), "{arguments:?}");
    }
    let (code, line) = run(
        at,
        &["compress", "enc.onnx", "dec.onnx", "--out-dir", "small", "--max-size", "1KB", "--calibration", "in"],
    );
    assert!(code == Some(1) && line.contains("2 models cannot be made so small; the nearest is "), "{line}");
}

/// A limit of time is of one model: the library takes the options of each as they are.
#[test]
fn shares_do_not_depend_on_other_options() {
    let model = forms::model(&forms::LSTM);
    let shares = |options: Options| {
        let mut compressors = [Compressor::new(&model, inputs(&model, 3), options).expect("it has sites")];
        compress::shares(&mut compressors, &[1.0], &Target::Ratio(3.0)).expect("it can be reached")
    };
    let time = Some(TimeBudget { limit: std::time::Duration::from_secs(9), by_hand: Settings::default() });
    assert_eq!(shares(options())[0].curve, shares(Options { time, ..options() })[0].curve);
}
