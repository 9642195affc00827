//! The metric of errors in the weights of a matrix.
//!
//! A matrix multiplies vectors `x` with `S = E[x x^T]`, so an error `E` in its weights has the distortion `E[|E x|^2] =
//! tr(E S E^T)`. Learning damps `S`, because few samples overestimate correlations; reported distortions are undamped.

use std::sync::{Arc, Mutex, PoisonError};

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use ndarray::{ArrayView2, Axis};
use rayon::prelude::*;

use super::BlockSpec;
use super::factor::Factor;
use crate::error::{Error, ErrorKind, Result};

/// Rows that are worked on together: enough for a matrix product, few enough to stay in the cache.
pub(super) const ROWS_TOGETHER: usize = 64;

/// Less damping than this and rounding to `f32` could make `M` indefinite.
pub(super) const LEAST_DAMPING: f64 = 1e-6;

/// Factors that a metric remembers; they take as much memory as the moment.
const FACTORS_KEPT: usize = 2;

/// The metric of errors in the weights of a matrix: the damped second moment `M = S + damp * mean(diag S) * I` of its
/// input, and its triangular factor.
///
/// Kept relative to the mean of `diag S`, so that inputs of any size are safe.
pub struct Metric {
    size: usize,
    /// `mean(diag S)`; 0 if the input was always 0.
    scale: f64,
    damping: f64,
    /// `M / scale`, `[n, n]`.
    damped: Vec<f32>,
    /// The factors used last, for their specs.
    factors: Mutex<Vec<(BlockSpec, Arc<Factor>)>>,
}

impl Metric {
    /// From the second moment `S [n, n]`; `damp` is relative to the mean of its diagonal (0.01 is usual).
    ///
    /// A singular `S` is fine. One that is not positive semidefinite, which rounding and foreign data can bring
    /// about, is damped until it is. `S = 0` gives the metric of the identity, in which every `distortion` is 0.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if `S` is empty, not square or not finite, or if `damp` is negative or not finite.
    pub fn new<T: Copy + Into<f64>>(second_moment: ArrayView2<'_, T>, damp: f64) -> Result<Metric> {
        let size = second_moment.nrows();
        let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
        if size == 0 || second_moment.ncols() != size {
            return usage(format!("a second moment of shape {:?}: it has to be square", second_moment.shape()));
        }
        if !(damp >= 0.0 && damp.is_finite()) {
            return usage(format!("damping of {damp}: it has to be 0 or more"));
        }
        let moment = second_moment.mapv(Into::into);
        if !moment.iter().all(|s: &f64| s.is_finite()) {
            return usage("a second moment that is not finite: check the samples".into());
        }
        let variance: Vec<f64> = moment.diag().iter().map(|s| s.max(0.0)).collect();
        let scale = variance.iter().map(|v| v / size as f64).sum::<f64>();
        if scale < f64::MIN_POSITIVE {
            return Ok(Metric::identity(size));
        }
        // No correlation exceeds 1: true of every S, and it bounds what damping has to make up for.
        let relative = |i: usize, j: usize| {
            let bound = (variance[i] / scale).sqrt() * (variance[j] / scale).sqrt();
            (moment[(i, j)] / scale / 2.0 + moment[(j, i)] / scale / 2.0).clamp(-bound, bound)
        };
        let mut damping = damp.max(LEAST_DAMPING);
        loop {
            if let Some(metric) = Metric::factored(size, scale, damping, relative) {
                return Ok(metric);
            }
            damping *= 10.0;
        }
    }

    /// The metric of an input whose components are independent and of mean square 0.
    fn identity(size: usize) -> Metric {
        let identity: Vec<f32> = (0..size * size).map(|i| f32::from(u8::from(i % (size + 1) == 0))).collect();
        Metric { size, scale: 0.0, damping: 1.0, factors: Mutex::default(), damped: identity }
    }

    /// None if the damped matrix is not positive definite; with a damping above `size` it always is.
    fn factored(size: usize, scale: f64, damping: f64, relative: impl Fn(usize, usize) -> f64) -> Option<Metric> {
        let damped = |i: usize, j: usize| relative(i, j) + if i == j { damping } else { 0.0 };
        let lower = Mat::from_fn(size, size, |i, j| if j <= i { damped(i, j) } else { 0.0 });
        let llt = lower.as_ref().llt(Side::Lower).ok()?;
        let lower = llt.L();
        let positive = (0..size).all(|i| (lower[(i, i)] as f32).is_normal());
        let damped = (0..size * size).map(|i| damped(i / size, i % size) as f32).collect();
        positive.then_some(Metric { size, scale, damping, damped, factors: Mutex::default() })
    }

    /// `n`.
    pub fn size(&self) -> usize {
        self.size
    }

    /// `tr(E S E^T)` with the undamped `S`, for an error `[rows, n]`.
    ///
    /// # Panics
    /// If the error has not `n` columns.
    pub fn distortion(&self, error: ArrayView2<'_, f32>) -> f64 {
        assert_eq!(error.ncols(), self.size, "columns of the error against the size of the metric");
        let peak = error.iter().fold(0.0f32, |m, e| m.max(e.abs()));
        if peak == 0.0 {
            return 0.0;
        }
        let unit = power_of_two(peak);
        let chunks: Vec<_> = error.axis_chunks_iter(Axis(0), ROWS_TOGETHER).collect();
        let sums: Vec<f64> = chunks
            .into_par_iter()
            .map(|chunk| {
                let error: Vec<f32> = chunk.iter().map(|&e| (f64::from(e) / unit) as f32).collect();
                let gradient = self.times_damped(&error);
                self.undamped(dot(&error, &gradient), &error)
            })
            .collect();
        sums.iter().sum::<f64>() * unit * unit * self.scale
    }

    /// From `tr(E M E^T)` to `tr(E S E^T)`, both relative to `scale`.
    pub(super) fn undamped(&self, damped: f64, error: &[f32]) -> f64 {
        (damped - self.damping * dot(error, error)).max(0.0)
    }

    /// `mean(diag S)`, by which the distortions inside this module are to be multiplied.
    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// `X M` for `X [rows, n]`.
    pub(super) fn times_damped(&self, x: &[f32]) -> Vec<f32> {
        times(x, &self.damped, self.size)
    }

    /// `M`, `[n, n]`.
    pub(super) fn damped(&self) -> &[f32] {
        &self.damped
    }

    /// Entry of `M`.
    pub(super) fn entry(&self, i: usize, j: usize) -> f32 {
        self.damped[i * self.size + j]
    }

    /// Drops the cached factors to free memory; they are computed again when needed.
    pub fn forget_factors(&self) {
        self.factors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The factor for a spec, made if it is not among those used last.
    pub(super) fn factor(&self, spec: BlockSpec) -> Arc<Factor> {
        let kept = || self.factors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, factor)) = kept().iter().find(|(of, _)| *of == spec) {
            return Arc::clone(factor);
        }
        // Two threads may do the same work here; they come to the same result.
        let factor = Arc::new(Factor::new(self, spec));
        let mut kept = kept();
        kept.truncate(FACTORS_KEPT - 1);
        kept.insert(0, (spec, Arc::clone(&factor)));
        factor
    }
}

/// Dampings that are tried, by half decades: from the usual one, and what is used where there is nothing to search with,
/// to as much as there is signal.
const DAMPINGS: [f64; 6] = [0.02, 0.06, 0.2, 0.6, 2.0, 6.0];

/// The damping for either of two moments `[n, n]` of different vectors, by cross-validation; their sum, which knows twice as
/// much, wants half of it.
///
/// Error feedback is linear prediction: the error of a column is compensated in columns that correlate with it. The
/// moment of few vectors has spurious correlations; damping is ridge regularisation against them. Predictors are fitted on
/// one moment and evaluated on the other, and the damping with the least error is chosen.
pub fn damping(halves: [ArrayView2<'_, f64>; 2]) -> f64 {
    let [first, second] = halves;
    let residual = |damping: f64| {
        let (a, b) = rayon::join(|| residual(first, second, damping), || residual(second, first, damping));
        a + b
    };
    let mut best = (DAMPINGS[0], residual(DAMPINGS[0]));
    for damping in &DAMPINGS[1..] {
        let residual = residual(*damping);
        if residual.is_nan() || residual >= best.1 {
            break;
        }
        best = (*damping, residual);
    }
    best.0
}

/// Each column is predicted from those after it as one moment, damped, has it: the errors' mean squares under another
/// moment, summed over the columns. Infinite where there is nothing to predict with.
fn residual(known: ArrayView2<'_, f64>, tested: ArrayView2<'_, f64>, damping: f64) -> f64 {
    let n = known.nrows();
    let ridge = damping * known.diag().iter().sum::<f64>() / n as f64;
    // `M = L D L^T` with the columns in reverse: the rows of `L^-1` are the prediction errors.
    let reversed = |m: ArrayView2<'_, f64>, i: usize, j: usize| m[(n - 1 - i, n - 1 - j)];
    let damped = Mat::from_fn(n, n, |i, j| reversed(known, i, j) + if i == j { ridge } else { 0.0 });
    let Ok(factor) = damped.as_ref().llt(Side::Lower) else { return f64::INFINITY };
    drop(damped);
    let lower = factor.L();
    let mut errors = Mat::from_fn(n, n, |i, j| reversed(tested, i, j));
    solve_lower_triangular_in_place(lower, errors.as_mut(), Par::Seq);
    solve_lower_triangular_in_place(lower, errors.as_mut().transpose_mut(), Par::Seq);
    (0..n).map(|i| errors[(i, i)] * lower[(i, i)] * lower[(i, i)]).sum()
}

/// `X A` for `X [rows, n]` and `A [n, n]`.
pub(super) fn times(x: &[f32], a: &[f32], n: usize) -> Vec<f32> {
    let rows = x.len() / n;
    let mut out = vec![0.0; x.len()];
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, rows, n),
        Accum::Replace,
        MatRef::from_row_major_slice(x, rows, n),
        MatRef::from_row_major_slice(a, n, n),
        1.0,
        Par::Seq,
    );
    out
}

/// The power of two at or below a positive number: dividing by it is exact.
pub(super) fn power_of_two(x: f32) -> f64 {
    f64::from(x).log2().floor().exp2()
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    /// Sums of `x x^T` of `count` vectors each, whose components are what `mix` makes of independent ones.
    fn halves(count: usize, size: usize, mix: f64) -> [Array2<f64>; 2] {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        [(), ()].map(|()| {
            let white = Array2::from_shape_simple_fn((count, size), || rng.random::<f64>() - 0.5);
            let common = Array2::from_shape_simple_fn((count, 1), || rng.random::<f64>() - 0.5);
            let x = &white * (1.0 - mix) + &common * mix;
            x.t().dot(&x)
        })
    }

    #[test]
    fn few_vectors_are_damped_and_many_are_not() {
        let of = |count, mix| {
            let [a, b] = halves(count, 32, mix);
            damping([a.view(), b.view()])
        };
        assert_eq!(of(20_000, 0.9), 0.02);
        assert!(of(20, 0.5) >= 0.2, "{}", of(20, 0.5));
        // Nothing to predict: what looks like it is chance.
        assert!(of(40, 0.0) > of(40, 0.9), "{} {}", of(40, 0.0), of(40, 0.9));
        let zero = Array2::<f64>::zeros((4, 4));
        assert_eq!(damping([zero.view(), zero.view()]), 0.02);
    }
}
