//! The library does what the tool does, and what it gives for one target does not depend on others.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use dirnet::compress::{
    Allocation, BlockSpec, Choice, Effort, FindOptions, Form, Pins, Request, Sharing, Sites, SweepRow,
};
use dirnet::error::ErrorKind;
use dirnet::onnx::{LoadOptions, tensor};
use dirnet::progress::Progress;
use dirnet::report::Report;
use dirnet::{Compressor, Inputs, Model, Options, Samples, Target};
use ndarray::{ArrayD, IxDyn};

use crate::forms::{self, Case};
use crate::hostile::{self, targets::wave};

const RATIOS: [f64; 2] = [2.5, 5.0];

/// A model of a layer that is not too small to be coded, and its samples.
fn job() -> (Model, Inputs) {
    let model = forms::model(&Case { direction: "bidirectional", ..forms::LSTM });
    let samples = forms::samples(&model, [7, 3], 24);
    (model, Inputs::new(samples, None))
}

/// A smaller one, for what tunes, and tuned against its output, so that full tuning divides the bits anew.
fn small_job() -> (Model, Inputs) {
    let model = forms::model(&Case { outputs: &["Y"], ..forms::LSTM });
    let samples = forms::samples(&model, [12, 3], 20);
    (model, Inputs::new(samples, None))
}

fn options(allocation: Allocation) -> Options {
    Options { allocation, tune: Some(None), ..Options::default() }
}

fn tuned(effort: Effort) -> Options {
    Options { tune: Some(Some(effort)), ..Options::default() }
}

fn reached(row: &SweepRow) -> (u64, Vec<Option<f64>>) {
    let swept = row.reached.as_ref().unwrap_or_else(|error| panic!("{}: {error}", row.ratio));
    (swept.bytes, swept.comparison.figures().iter().map(|figures| figures.nmse).collect())
}

fn compressed(mut compressor: Compressor<'_>, ratio: f64) -> (u64, Vec<Option<f64>>) {
    let written = compressor.compress(&Target::Ratio(ratio)).expect("it can be reached");
    let verdict = compressor.verify(&written.model, &[]).expect("it runs");
    let figures = verdict.outputs.iter().map(|figures| figures.nmse).collect();
    (written.model.saved_bytes().expect("it has a size"), figures)
}

#[test]
fn a_row_of_a_sweep_is_what_compress_gives_whatever_the_other_rows() {
    for options in [Allocation::Measured, Allocation::Local, Allocation::Uniform].map(options) {
        let (model, inputs) = job();
        let case = options.allocation;
        let new = || Compressor::new(&model, inputs.clone(), options.clone()).expect("it has sites");
        let sweep = |ratios: &[f64]| new().sweep(ratios).expect("it runs");
        let both = sweep(&RATIOS);
        let reversed = sweep(&[RATIOS[1], RATIOS[0]]);
        for (place, &ratio) in RATIOS.iter().enumerate() {
            let alone = reached(&sweep(&[ratio])[0]);
            assert_eq!(reached(&both[place]), alone, "{case:?} at {ratio}");
            assert_eq!(reached(&reversed[1 - place]), alone, "{case:?} at {ratio}");
            assert_eq!(compressed(new(), ratio), alone, "{case:?} at {ratio}");
        }
    }
}

#[test]
fn a_row_of_a_sweep_is_what_compress_gives_when_it_is_tuned() {
    for effort in [Effort::Fast, Effort::Full] {
        let (model, inputs) = small_job();
        let new = || Compressor::new(&model, inputs.clone(), tuned(effort)).expect("it has sites");
        let rows = new().sweep(&[2.5, 2.0]).expect("it runs");
        assert_eq!(compressed(new(), 2.0), reached(&rows[1]), "{effort:?}");
    }
}

#[test]
fn what_a_bound_on_the_loss_finds_is_what_compress_gives_at_that_size() {
    let (model, mut inputs) = job();
    inputs.hold_back();
    let new = || Compressor::new(&model, inputs.clone(), options(Allocation::Measured)).expect("it has sites");
    let mut searching = new();
    let found = searching.compress(&Target::MaxLoss(0.02)).expect("a large file has a small loss");
    let looks: Vec<_> = searching.looks().collect();
    assert!(
        looks.len() > 2 && looks.iter().all(|look| look.measured && look.loss_worst >= look.loss_mean),
        "{looks:?}"
    );
    let plain = new().compress(&Target::MaxSize(found.planned.target)).expect("it was found");
    assert!(plain.model.proto == found.model.proto);
}

/// Tuned too: the last step of a search is that of its size.
#[test]
fn what_a_bound_on_the_loss_finds_is_tuned_as_for_that_size() {
    let (model, mut inputs) = small_job();
    inputs.hold_back();
    for (effort, bound) in [(Effort::Fast, 1e-3), (Effort::Full, 1e-3), (Effort::Full, 4e-5)] {
        let new = || Compressor::new(&model, inputs.clone(), tuned(effort)).expect("it has sites");
        let found = new().compress(&Target::MaxLoss(bound)).expect("a large file has a small loss");
        assert!(found.tuning.is_some(), "tuning exceeds the bound: try another one");
        let plain = new().compress(&Target::MaxSize(found.planned.target)).expect("it was found");
        assert_eq!(plain.planned.plan, found.planned.plan, "{effort:?}, {bound}");
        assert!(plain.model.proto == found.model.proto, "{effort:?}, {bound}");
    }
}

/// What the user should know is in the results of the library, not only on the command line.
#[test]
fn results_carry_their_warnings() {
    let (model, inputs) = job();
    let mut old = forms::model(&Case { opset: 8, direction: "bidirectional", ..forms::LSTM });
    old.proto.ir_version = Some(3);
    let options = options(Allocation::Uniform);
    let mut compressor = Compressor::new(&old, inputs.clone(), options.clone()).expect("it has sites");
    let written = compressor.compress(&Target::Ratio(3.0)).expect("it can be reached");
    assert!(written.warnings.iter().any(|warning| warning.contains("needs IR version")), "{:?}", written.warnings);
    let new = || Compressor::new(&model, inputs.clone(), options.clone()).expect("it has sites");
    let mut compressor = new();
    let found = compressor.compress(&Target::MaxLoss(0.002)).expect("a large file has a small loss");
    let worse = new().compress(&Target::Ratio(5.0)).expect("it can be reached");
    for (result, beyond) in [(found, false), (worse, true)] {
        let verdict = compressor.verify(&result.model, &[]).expect("it runs");
        assert!(verdict.loss_worst > Some(0.002) || !beyond, "{verdict:?}");
        let warned = verdict.warnings.iter().any(|warning| warning.contains("above --max-loss 0.002"));
        assert_eq!(warned, verdict.loss_worst > Some(0.002), "{:?}", verdict.warnings);
    }
}

/// Every type of an option can be named from the modules that the documentation shows.
#[test]
fn an_embedder_can_set_all_options() {
    let (model, inputs) = job();
    let nodes = FindOptions { include: Some(regex::Regex::new(".").expect("a pattern")), ..FindOptions::default() };
    let sites = Sites::find(&model, &nodes).expect("it has sites");
    let choice = Choice::Block { spec: BlockSpec { width: 2 }, sharing: Sharing::Matrix };
    let options = Options {
        nodes,
        form: Request { form: Form::Portable, from: Some(1) },
        tune: Some(Some(Effort::Fast)),
        pins: Some(Pins(sites.map(|_| Some(choice)))),
        ..options(Allocation::Uniform)
    };
    let mut compressor = Compressor::new(&model, inputs, options).expect("it has sites");
    let planned = compressor.plan(&Target::Ratio(2.0)).expect("it can be reached");
    assert!(planned.plan.choices.values().all(|taken| *taken == choice), "{:?}", planned.plan.choices);
}

/// The command line with its defaults, and ten lines of Rust.
#[test]
fn the_library_writes_the_bytes_of_the_tool() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let [path, calibration, out, again] =
        ["m.onnx", "x.npy", "small.onnx", "again.onnx"].map(|name| directory.path().join(name));
    hostile::write(&directory, "m.onnx", &hostile::with(vec![], vec![tensor::float("z", &[], &[0.5])]));
    let samples = ArrayD::from_shape_vec(IxDyn(&[16, 4, 1, 16]), wave(16 * 4 * 16)).expect("as many as it says");
    ndarray_npy::write_npy(&calibration, &samples).expect("it can be written");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_dirnet"))
        .args(["compress", "--ratio", "4", "--quiet", "--calibration"])
        .arg(&calibration)
        .arg("-o")
        .args([&out, &path])
        .status()
        .expect("it was built");
    assert!(status.success(), "{status}");
    let model = Model::open(&path).expect("it is a model");
    let samples = Samples::open(&model, &calibration).expect("they fit");
    let mut compressor = Compressor::new(&model, Inputs::new(samples, None), Options::default()).expect("it has sites");
    let small = compressor.compress(&Target::Ratio(4.0)).expect("it can be reached");
    small.model.save(&again).expect("it can be written");
    assert!(std::fs::read(&out).expect("written") == std::fs::read(&again).expect("written"), "other bytes");
}

/// Cancels at its n-th step.
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn phase(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        match self.0.fetch_sub(1, Ordering::SeqCst) {
            1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn done(&self) {}
}

#[test]
fn progress_cancels_at_any_step() {
    let (model, inputs) = job();
    for step in [1, 20, 60] {
        let progress = Impatient(AtomicU64::new(step));
        let compressor = Compressor::new(&model, inputs.clone(), Options::default()).expect("it has sites");
        let error =
            compressor.with_progress(&progress).compress(&Target::Ratio(3.0)).map(|_| ()).expect_err("cancelled");
        assert_eq!(error.kind(), ErrorKind::Cancelled, "step {step}");
    }
}

/// What a table of sizes says adds up: the weight blocks to the kinds, the kinds to the weights, and with everything else
/// to the file.
#[test]
fn rows_of_a_report_add_up_to_the_file() {
    let mut compared = 0;
    let files = crate::made::model_files();
    let loaded = files.iter().map(|path| {
        let model = Model::load(path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        (path.display().to_string(), model)
    });
    for (name, model) in loaded.chain([("bidirectional".to_owned(), job().0), ("small".to_owned(), small_job().0)]) {
        let inputs = Inputs::random(&model, &[], &[], 1, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        for ratio in [1.2, 4.0] {
            let mut compressor = match Compressor::new(&model, inputs.clone(), options(Allocation::Uniform)) {
                Ok(compressor) => compressor,
                Err(error) if error.kind() == ErrorKind::NothingToDo => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let result = match compressor.compress(&Target::Ratio(ratio)) {
                Ok(result) => result,
                // The smallest models cannot be made smaller.
                Err(error) if matches!(error.kind(), ErrorKind::Target | ErrorKind::NothingToDo) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let report = Report::of_compressed(&compressor, &result);
            let weights = report.weights.expect("some were compressed");
            let place = format!("{name} at {ratio}");
            let units: u64 = report.units.iter().map(|unit| unit.bytes_after).sum();
            assert_eq!(units, weights.bytes_after, "{place}");
            assert_eq!(weights.kinds.iter().map(|kind| kind.bytes_after).sum::<u64>(), weights.bytes_after, "{place}");
            assert_eq!(
                weights.kinds.iter().map(|kind| kind.bytes_before).sum::<u64>(),
                weights.bytes_before,
                "{place}"
            );
            let file = result.model.saved_bytes().expect("it has a size");
            assert_eq!(report.model.bytes_after, Some(file), "{place}");
            assert!(weights.bytes_after <= file && weights.bytes_before <= model.bytes(), "{place}");
            assert!(weights.ratio.is_some_and(|reached| reached >= ratio), "{place}: {:?}", weights.ratio);
            compared += 1;
        }
    }
    assert!(compared >= 6, "{compared} results");
}
