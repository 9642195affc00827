//! How long the main job takes on `fixtures/charlm/lstm256.onnx`, from reading the file to the verified result.

use std::path::Path;
use std::process::Command;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};

/// Runs the tool as its user would; `how` is what differs between the benchmarks.
fn compress(out: &Path, how: &[&str]) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm");
    let status = Command::new(env!("CARGO_BIN_EXE_dirnet"))
        .arg("compress")
        .arg(fixtures.join("lstm256.onnx"))
        .arg("--output")
        .arg(out)
        .arg("--calibration")
        .arg(fixtures.join("calibration.npz"))
        .args(["--ratio", "12", "--loss", "kl", "--quiet"])
        .args(how)
        .status()
        .expect("the tool was built for this benchmark");
    assert!(status.success(), "{status}");
}

fn benchmark(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for the output");
    let out = folder.path().join("small.onnx");
    let mut group = criterion.benchmark_group("compress_lstm256");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for sensitivity in ["none", "local", "measured"] {
        group.bench_function(sensitivity, |b| b.iter(|| compress(&out, &["--sensitivity", sensitivity])));
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
