//! How long it takes to learn a codebook and the codes of one gate.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dirnet::dictionary::{BlockSpec, LearnOptions, Metric, WeightMatrix, learn};
use ndarray::Array2;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Sums of uniform numbers, near enough to normal; neighbouring columns are correlated.
fn matrix(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut matrix = Array2::from_shape_simple_fn((rows, columns), || (0..6).map(|_| rng.random::<f32>() - 0.5).sum());
    for mut row in matrix.outer_iter_mut() {
        for j in 1..columns {
            row[j] += 0.7 * row[j - 1];
        }
    }
    matrix
}

fn benchmark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dictionary");
    group.sample_size(10);
    for size in [128, 512] {
        let inputs = matrix(4 * size, size, 1);
        let moment = inputs.t().dot(&inputs) / (4 * size) as f32;
        let weights = matrix(size, size, 2);
        group.bench_function(BenchmarkId::new("metric", size), |b| b.iter(|| Metric::new(moment.view(), 0.01)));
        let metric = Metric::new(moment.view(), 0.01).expect("a moment is square and finite");
        let matrix = WeightMatrix { weights: weights.view(), metric: &metric, importance: 1.0, grid: None };
        for width in [1, 2, 4, 8] {
            let spec = BlockSpec::new(width).expect("the codec has these");
            let id = BenchmarkId::new(format!("learn_{size}"), format!("256x{width}"));
            group.bench_function(id, |b| b.iter(|| learn(&[matrix], spec, &LearnOptions::default())));
        }
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
