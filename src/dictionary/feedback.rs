//! Error feedback: codes that know what the pieces around them got wrong.
//!
//! With `M = V V^T`, `V` upper triangular, the damped distortion of an error `E` is `|E V|^2`, and column block `b` of
//! `E V` depends on the blocks up to `b` only. So a row is coded from left to right on `Z = W V`: each piece takes the
//! atom nearest to its block of what is left of `Z`, in the metric `V_bb`, and its share `r c V_b` is taken off all
//! blocks to the right. This is successive cancellation (Babai's nearest plane); GPTQ's column updates and LDLQ are
//! the same thing for scalars (`V` is the inverse of GPTQ's Cholesky factor of `M^-1`, so nothing is inverted here).
//!
//! A piece on the left was chosen before those on the right were known. [`Coder::revise`] goes over the pieces again:
//! with `G = E M` each piece can be replaced by the best atom given *all* the others, which never raises the
//! distortion (iterated conditional modes).

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};
use ndarray::{ArrayView2, Axis};
use pulp::Arch;
use rayon::prelude::*;

use super::MAX_WIDTH;
use super::nearest::Nearest;
use crate::error::{Error, ErrorKind, Result};

/// Rows that are worked on together: enough for a matrix product, few enough to stay in the cache.
pub(super) const ROWS_TOGETHER: usize = 64;

/// Columns that are brought up to date piece by piece; those beyond get one matrix product for all of them.
const PANEL: usize = 64;

/// Less damping than this and rounding to `f32` could make `M` indefinite.
const LEAST_DAMPING: f64 = 1e-6;

/// What an error in the weights of a matrix costs: the damped second moment `M = S + damp * mean(diag S) * I` of its
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
    /// `V`, upper triangular, `M / scale = V V^T`.
    factor: Vec<f32>,
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
        Metric { size, scale: 0.0, damping: 1.0, factor: identity.clone(), damped: identity }
    }

    /// None if the damped matrix is not positive definite; with a damping above `size` it always is.
    fn factored(size: usize, scale: f64, damping: f64, relative: impl Fn(usize, usize) -> f64) -> Option<Metric> {
        let damped = |i: usize, j: usize| relative(i, j) + if i == j { damping } else { 0.0 };
        // V is the Cholesky factor of M with the order of rows and columns reversed, reversed back.
        let last = size - 1;
        let reversed = faer::Mat::from_fn(size, size, |i, j| if j <= i { damped(last - i, last - j) } else { 0.0 });
        let llt = reversed.as_ref().llt(Side::Lower).ok()?;
        let lower = llt.L();
        let mut factor = vec![0.0; size * size];
        for i in 0..size {
            for j in i..size {
                factor[i * size + j] = lower[(last - i, last - j)] as f32;
            }
        }
        let positive = (0..size).all(|i| factor[i * (size + 1)].is_normal());
        let damped = (0..size * size).map(|i| damped(i / size, i % size) as f32).collect();
        positive.then_some(Metric { size, scale, damping, damped, factor })
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
        self.times(x, &self.damped)
    }

    /// `X V` for `X [rows, n]`.
    pub(super) fn times_factor(&self, x: &[f32]) -> Vec<f32> {
        self.times(x, &self.factor)
    }

    /// Entry of `M`.
    pub(super) fn entry(&self, i: usize, j: usize) -> f32 {
        self.damped[i * self.size + j]
    }

    /// Geometric mean of the conditional variances of the `width` columns from `start` on, given all to the right.
    pub(super) fn conditional_variance(&self, start: usize, width: usize) -> f32 {
        let log = |i: usize| self.factor[i * (self.size + 1)].ln();
        ((start..start + width).map(log).sum::<f32>() * 2.0 / width as f32).exp()
    }

    fn times(&self, x: &[f32], right: &[f32]) -> Vec<f32> {
        let (rows, n) = (x.len() / self.size, self.size);
        let mut out = vec![0.0; x.len()];
        matmul(
            MatMut::from_row_major_slice_mut(&mut out, rows, n),
            Accum::Replace,
            MatRef::from_row_major_slice(x, rows, n),
            MatRef::from_row_major_slice(right, n, n),
            1.0,
            Par::Seq,
        );
        out
    }
}

/// The power of two at or below a positive number: dividing by it is exact.
pub(super) fn power_of_two(x: f32) -> f64 {
    f64::from(x).log2().floor().exp2()
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Finds codes for rows, given a metric and the levels of the atoms.
pub(super) struct Coder<'a> {
    metric: &'a Metric,
    width: usize,
    /// `[K, d]`.
    atoms: &'a [f32],
    /// The atoms as piece `p` sees them, times `V_pp`.
    ahead: Vec<Nearest>,
    /// The atoms as piece `p` sees them with all others given; empty until wanted.
    around: Vec<Around>,
}

/// A piece with all others given: `M_pp = L L^T`.
struct Around {
    /// The atoms times `L`.
    atoms: Nearest,
    /// `L^-T`, `[d, d]`.
    inverse: [[f32; MAX_WIDTH]; MAX_WIDTH],
}

impl<'a> Coder<'a> {
    pub fn new(metric: &'a Metric, width: usize, atoms: &'a [f32]) -> Self {
        let n = metric.size;
        let ahead = pieces(n, width)
            .map(|(start, size)| Nearest::new(atoms, width, size, |i, j| metric.factor[(start + i) * n + start + j]))
            .collect();
        Coder { metric, width, atoms, ahead, around: Vec::new() }
    }

    /// Makes [`Self::revise`] possible.
    pub fn with_revision(mut self) -> Self {
        self.around = pieces(self.metric.size, self.width)
            .map(|(start, size)| Around::new(self.metric, self.atoms, self.width, start, size))
            .collect();
        self
    }

    /// Codes `[rows, P]` for rows with the given scales, from `Z = W V` `[rows, n]`, which is used up.
    pub fn code(&self, whitened: &mut [f32], scales: &[f32], codes: &mut [u8]) {
        let (rows, n, count) = (scales.len(), self.metric.size, self.ahead.len());
        let mut decoded = vec![0.0; rows * n];
        let (mut targets, mut found) = (vec![0.0; rows * MAX_WIDTH], vec![0; rows]);
        let pieces: Vec<(usize, usize)> = pieces(n, self.width).collect();
        let mut first = 0;
        while first < count {
            let last = (first + PANEL.div_ceil(self.width)).min(count);
            let (begin, end) = (pieces[first].0, pieces[last - 1].0 + pieces[last - 1].1);
            for piece in first..last {
                let (start, size) = pieces[piece];
                let targets = &mut targets[..rows * size];
                for ((target, row), &scale) in targets.chunks_exact_mut(size).zip(whitened.chunks_exact(n)).zip(scales)
                {
                    let inverse = reciprocal(scale);
                    target.iter_mut().zip(&row[start..]).for_each(|(t, x)| *t = x * inverse);
                }
                self.ahead[piece].find(targets, &mut found);
                for (i, &code) in found.iter().enumerate() {
                    codes[i * count + piece] = code;
                    let levels = &self.atoms[usize::from(code) * self.width..][..size];
                    let out = &mut decoded[i * n + start..][..size];
                    out.iter_mut().zip(levels).for_each(|(q, level)| *q = level * scales[i]);
                }
                let factor = &self.metric.factor;
                Arch::new().dispatch(|| cancel(whitened, &decoded, factor, n, start..start + size, end));
            }
            matmul(
                MatMut::from_row_major_slice_mut(whitened, rows, n).subcols_mut(end, n - end),
                Accum::Add,
                MatRef::from_row_major_slice(&decoded, rows, n).subcols(begin, end - begin),
                MatRef::from_row_major_slice(&self.metric.factor, n, n).submatrix(begin, end, end - begin, n - end),
                -1.0,
                Par::Seq,
            );
            first = last;
        }
    }

    /// One sweep over the pieces, each given all others, from `G = E M` `[rows, n]`, which is kept up to date.
    /// Returns how many codes changed.
    pub fn revise(&self, gradient: &mut [f32], scales: &[f32], codes: &mut [u8]) -> usize {
        let (rows, n, count) = (scales.len(), self.metric.size, self.around.len());
        let (mut targets, mut found) = (vec![0.0; rows * MAX_WIDTH], vec![0; rows]);
        let mut changed = 0;
        for (piece, (start, size)) in pieces(n, self.width).enumerate() {
            let around = &self.around[piece];
            let targets = &mut targets[..rows * size];
            for (i, target) in targets.chunks_exact_mut(size).enumerate() {
                let pull = &gradient[i * n + start..][..size];
                around.target(codes[i * count + piece], pull, reciprocal(scales[i]), target);
            }
            around.atoms.find(targets, &mut found);
            for (i, &new) in found.iter().enumerate() {
                let old = std::mem::replace(&mut codes[i * count + piece], new);
                if old == new {
                    continue;
                }
                changed += 1;
                let levels = |code: u8| &self.atoms[usize::from(code) * self.width..][..size];
                let mut step = [0.0; MAX_WIDTH];
                for (s, (new, old)) in step.iter_mut().zip(levels(new).iter().zip(levels(old))) {
                    *s = (new - old) * scales[i];
                }
                let (row, damped) = (&mut gradient[i * n..][..n], &self.metric.damped[start * n..][..size * n]);
                Arch::new().dispatch(|| step_back(row, &step[..size], damped));
            }
        }
        changed
    }
}

impl Around {
    fn new(metric: &Metric, atoms: &[f32], width: usize, start: usize, size: usize) -> Self {
        let mut lower = [[0.0f64; MAX_WIDTH]; MAX_WIDTH];
        for i in 0..size {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
                let left = f64::from(metric.entry(start + i, start + j)) - known;
                // A principal block of a positive definite matrix; the floor is for the rounding of M to f32.
                lower[i][j] = if i == j { left.max(LEAST_DAMPING / 2.0).sqrt() } else { left / lower[j][j] };
            }
        }
        let mut inverse = [[0.0; MAX_WIDTH]; MAX_WIDTH];
        for (column, row) in inverse.iter_mut().enumerate().take(size) {
            let mut solution = [0.0f64; MAX_WIDTH];
            for i in column..size {
                let known: f64 = (column..i).map(|k| lower[i][k] * solution[k]).sum();
                solution[i] = (f64::from(u8::from(i == column)) - known) / lower[i][i];
            }
            // A column of L^-1 is a row of L^-T.
            row.iter_mut().zip(&solution).for_each(|(out, x)| *out = *x as f32);
        }
        Around { atoms: Nearest::new(atoms, width, size, |i, j| lower[i][j] as f32), inverse }
    }

    /// Where the best atom would be, times `L`: `c L + G_p L^-T / r`.
    fn target(&self, code: u8, pull: &[f32], inverse_scale: f32, target: &mut [f32]) {
        for (j, t) in target.iter_mut().enumerate() {
            let pull: f32 = pull.iter().zip(&self.inverse).map(|(g, row)| g * row[j]).sum();
            *t = self.atoms.component(usize::from(code), j) + pull * inverse_scale;
        }
    }
}

/// `(start, size)` of each piece of a row of `n` weights.
pub(super) fn pieces(n: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(width).map(move |start| (start, width.min(n - start)))
}

/// `1 / scale`, and 0 for a scale of 0: such a row is 0 whatever its codes are.
fn reciprocal(scale: f32) -> f32 {
    if scale.abs() >= f32::MIN_POSITIVE { scale.recip() } else { 0.0 }
}

/// Takes the decoded columns `piece` times their rows of `V` off the columns from there to `end`.
#[inline(always)]
fn cancel(whitened: &mut [f32], decoded: &[f32], factor: &[f32], n: usize, piece: std::ops::Range<usize>, end: usize) {
    for (row, decoded) in whitened.chunks_exact_mut(n).zip(decoded.chunks_exact(n)) {
        for column in piece.clone() {
            let q = decoded[column];
            let share = &factor[column * n + piece.start..column * n + end];
            row[piece.start..end].iter_mut().zip(share).for_each(|(x, v)| *x -= q * v);
        }
    }
}

/// `G -= step M_p` for one row of G.
#[inline(always)]
fn step_back(row: &mut [f32], step: &[f32], damped: &[f32]) {
    for (&s, damped) in step.iter().zip(damped.chunks_exact(row.len())) {
        row.iter_mut().zip(damped).for_each(|(g, m)| *g -= s * m);
    }
}
