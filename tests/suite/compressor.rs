//! The library does what the tool does, and what it gives for one target does not depend on others.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use dirnet::compress::{Allocation, SweepRow};
use dirnet::error::ErrorKind;
use dirnet::onnx::tensor;
use dirnet::progress::Progress;
use dirnet::samples::{Random, RandomOptions};
use dirnet::{Compressor, Inputs, Model, Options, Samples, Target};
use ndarray::{ArrayD, IxDyn};

use crate::forms::{self, Case};
use crate::hostile::{self, targets::wave};

const RATIOS: [f64; 2] = [2.5, 5.0];

/// A model of a layer that is not too small to be coded, and its samples.
fn job() -> (Model, Inputs) {
    let model = forms::model(&Case { direction: "bidirectional", ..forms::LSTM });
    let dims = [("T".to_owned(), 7), ("B".to_owned(), 3)];
    let random = RandomOptions { dims: &dims, carry: &[], seed: 3, count: 24 };
    let samples = Random::new(&model, &random).expect("inputs are floats").samples;
    (model, Inputs::new(samples, None))
}

fn options(allocation: Allocation) -> Options {
    Options { allocation, tune: Some(None), ..Options::default() }
}

fn reached(row: &SweepRow) -> (u64, Vec<Option<f64>>) {
    let swept = row.reached.as_ref().unwrap_or_else(|error| panic!("{}: {error}", row.ratio));
    (swept.bytes, swept.comparison.figures().iter().map(|figures| figures.nmse).collect())
}

#[test]
fn a_row_of_a_sweep_is_what_compress_gives_whatever_the_other_rows() {
    for allocation in [Allocation::Measured, Allocation::Local, Allocation::Uniform] {
        let (model, inputs) = job();
        let sweep = |ratios: &[f64]| {
            let mut compressor = Compressor::new(&model, inputs.clone(), options(allocation)).expect("it has sites");
            compressor.sweep(ratios).expect("it runs")
        };
        let both = sweep(&RATIOS);
        let reversed = sweep(&[RATIOS[1], RATIOS[0]]);
        for (place, &ratio) in RATIOS.iter().enumerate() {
            let alone = reached(&sweep(&[ratio])[0]);
            assert_eq!(reached(&both[place]), alone, "{allocation:?} at {ratio}");
            assert_eq!(reached(&reversed[1 - place]), alone, "{allocation:?} at {ratio}");
            let mut compressor = Compressor::new(&model, inputs.clone(), options(allocation)).expect("it has sites");
            let written = compressor.compress(&Target::Ratio(ratio)).expect("it can be reached");
            let verdict = compressor.verify(&written.model, &[]).expect("it runs");
            let figures = verdict.outputs.iter().map(|figures| figures.nmse).collect();
            assert_eq!(
                (written.model.saved_bytes().expect("it has a size"), figures),
                alone,
                "{allocation:?}, {ratio}"
            );
        }
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
    assert_eq!(plain.model.proto, found.model.proto);
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
