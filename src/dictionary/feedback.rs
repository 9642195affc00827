//! Error feedback: codes that know what the pieces around them got wrong.
//!
//! With `M = V V^T`, `V` upper triangular, the damped distortion of an error `E` is `|E V|^2`, and column block `b` of
//! `E V` depends on the blocks up to `b` only. So a row is coded from left to right on `Z = W V`: each piece takes the
//! atom nearest to its block of what is left of `Z`, in the metric `V_bb`, and its share `r c V_b` is taken off all
//! blocks to the right. This is successive cancellation (Babai's nearest plane); GPTQ's column updates and LDLQ are
//! the same thing for scalars (`V` is the inverse of GPTQ's Cholesky factor of `M^-1`, so nothing is inverted here).
//! Three things from the detection of signals (MIMO) make it better than that:
//!
//! - **Order** ([`Factor`]). The first block is coded at the variance it has given all others, the last at its full
//!   one. Small ones go last. Codes stay where they are in the row: only the order of choosing changes.
//! - **Paths** ([`Coder::code`]). Instead of one, the best few partial rows are kept (the M-algorithm, K-best).
//! - **Revision** ([`Coder::revise`]). A piece was chosen before those after it were known. With `G = E M` each piece
//!   is replaced by the best atom given *all* the others, which never raises the distortion (iterated conditional
//!   modes).

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par, Side};
use ndarray::{ArrayView2, Axis};
use pulp::Arch;
use rayon::prelude::*;

use super::nearest::{Nearest, Scores};
use super::{BlockSpec, MAX_WIDTH};
use crate::error::{Error, ErrorKind, Result};

/// Rows that are worked on together: enough for a matrix product, few enough to stay in the cache.
pub(super) const ROWS_TOGETHER: usize = 64;

/// Columns that are brought up to date piece by piece; those beyond get one matrix product for all of them.
const PANEL: usize = 64;

/// Paths are kept while paths times columns are at most this: they gain most where the matrix is narrow and the input
/// strongly correlated, and their cost grows with the square of the columns.
const PATHS_TIMES_COLUMNS: usize = 1024;

/// Atoms that a path may go on with.
const CHILDREN: usize = 3;

/// Factors that a metric remembers; they take as much memory as the moment.
const FACTORS_KEPT: usize = 3;

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
        let lower = faer::Mat::from_fn(size, size, |i, j| if j <= i { damped(i, j) } else { 0.0 });
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

    /// Entry of `M`.
    pub(super) fn entry(&self, i: usize, j: usize) -> f32 {
        self.damped[i * self.size + j]
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

/// `X A` for `X [rows, n]` and `A [n, n]`.
fn times(x: &[f32], a: &[f32], n: usize) -> Vec<f32> {
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

/// The triangular factor `V` of `M` with the pieces of a row in the order of coding.
///
/// The order is found from the end: the next to the last place goes to the piece with the least variance given those
/// after it (a Cholesky decomposition with the smallest pivots first, the sorted QR of detection theory).
///
/// What a coarse codebook gets wrong is noise to the pieces that come after, so the coarser it is, the more damping
/// pays here: `NOISE * 2^(-2 bits)` on top.
pub(super) struct Factor {
    steps: Vec<Step>,
    /// The column at each place of the order.
    columns: Vec<usize>,
    /// `V`, `[n, n]`, upper triangular.
    values: Vec<f32>,
}

/// A piece in the order of coding.
#[derive(Clone, Copy)]
struct Step {
    piece: usize,
    /// Its place in the order.
    index: usize,
    /// Its first place among the ordered columns.
    start: usize,
    size: usize,
}

/// Damping of the factor relative to the noise of a code with so many bits a weight.
const NOISE: f64 = 0.4;

impl Factor {
    fn new(metric: &Metric, spec: BlockSpec) -> Factor {
        let n = metric.size;
        let noise = NOISE * (-2.0 * spec.bits_per_weight()).exp2();
        let mut elimination = Elimination::new(metric, noise);
        let all: Vec<(usize, usize)> = pieces(n, spec.width).collect();
        let mut left: Vec<usize> = (0..all.len()).collect();
        let mut order = Vec::with_capacity(all.len());
        while !left.is_empty() {
            let variance = |p: usize| {
                let (start, size) = all[p];
                elimination.variances[start..start + size].iter().sum::<f64>() / size as f64
            };
            let least = (0..left.len()).min_by(|&a, &b| variance(left[a]).total_cmp(&variance(left[b])));
            let piece = left.remove(least.expect("there are pieces left"));
            let (start, size) = all[piece];
            (start..start + size).rev().for_each(|column| elimination.eliminate(column));
            order.push(piece);
        }
        order.reverse();
        let mut start = 0;
        let place = |(index, &piece): (usize, &usize)| {
            let step = Step { piece, index, start, size: all[piece].1 };
            start += step.size;
            step
        };
        let steps: Vec<Step> = order.iter().enumerate().map(place).collect();
        let columns: Vec<usize> = order.iter().flat_map(|&p| all[p].0..all[p].0 + all[p].1).collect();
        let mut values = vec![0.0; n * n];
        for (i, &column) in columns.iter().enumerate() {
            for j in i..n {
                values[i * n + j] = elimination.rows[(n - 1 - j) * n + column] as f32;
            }
        }
        Factor { steps, columns, values }
    }

    /// For each piece the geometric mean of the variances that its columns have when they are coded.
    pub fn variances(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.steps.len()];
        for step in &self.steps {
            let log = |i: usize| self.values[i * (self.columns.len() + 1)].ln();
            let mean = (step.start..step.start + step.size).map(log).sum::<f32>() / step.size as f32;
            out[step.piece] = (2.0 * mean).exp();
        }
        out
    }
}

/// A Cholesky decomposition, one column at a time in any order: `M = sum_k l_k l_k^T`.
struct Elimination {
    size: usize,
    /// `M` less the outer products of the rows before `current`, `[n, n]`.
    remainder: Vec<f64>,
    /// `l_k`, `[k, n]`; zero for columns that were eliminated before.
    rows: Vec<f64>,
    /// What is left of the diagonal.
    variances: Vec<f64>,
    eliminated: Vec<bool>,
    /// The rows that are not in `remainder` yet.
    pending: Range<usize>,
}

impl Elimination {
    fn new(metric: &Metric, noise: f64) -> Self {
        let n = metric.size;
        let mut remainder: Vec<f64> = metric.damped.iter().map(|&m| f64::from(m)).collect();
        remainder.iter_mut().step_by(n + 1).for_each(|m| *m += noise);
        let variances = remainder.iter().step_by(n + 1).copied().collect();
        Elimination { size: n, remainder, rows: vec![0.0; n * n], variances, eliminated: vec![false; n], pending: 0..0 }
    }

    fn eliminate(&mut self, column: usize) {
        let n = self.size;
        if self.pending.len() == PANEL {
            self.settle();
        }
        let k = self.pending.end;
        let (before, rest) = self.rows.split_at_mut(k * n);
        let row = &mut rest[..n];
        row.copy_from_slice(&self.remainder[column * n..][..n]);
        let before = &before[self.pending.start * n..];
        Arch::new().dispatch(|| {
            for earlier in before.chunks_exact(n) {
                let factor = earlier[column];
                row.iter_mut().zip(earlier).for_each(|(x, e)| *x -= factor * e);
            }
        });
        // M was positive definite before it was rounded to f32; the floor keeps it so.
        let pivot = row[column].max(LEAST_DAMPING / 2.0).sqrt();
        row[column] = pivot * pivot;
        for ((x, variance), &eliminated) in row.iter_mut().zip(&mut self.variances).zip(&self.eliminated) {
            *x = if eliminated { 0.0 } else { *x / pivot };
            *variance -= *x * *x;
        }
        self.eliminated[column] = true;
        self.pending.end += 1;
    }

    /// Takes the pending rows off the remainder.
    fn settle(&mut self) {
        let n = self.size;
        let rows = &self.rows[self.pending.start * n..self.pending.end * n];
        let rows = MatRef::from_row_major_slice(rows, self.pending.len(), n);
        let remainder = MatMut::from_row_major_slice_mut(&mut self.remainder, n, n);
        matmul(remainder, Accum::Add, rows.transpose(), rows, -1.0, Par::Seq);
        self.pending.start = self.pending.end;
    }
}

/// Finds codes for rows, given a metric and the levels of the atoms.
pub(super) struct Coder<'a> {
    metric: &'a Metric,
    spec: BlockSpec,
    /// `[K, d]`.
    atoms: &'a [f32],
    /// The atoms as each piece sees them with all others given.
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
    pub fn new(metric: &'a Metric, spec: BlockSpec, atoms: &'a [f32]) -> Self {
        let around = pieces(metric.size, spec.width)
            .map(|(start, size)| Around::new(metric, atoms, spec.width, start, size))
            .collect();
        Coder { metric, spec, atoms, around }
    }

    /// What [`Self::code`] needs besides; worth making once for many rows.
    pub fn forward(&self) -> Forward<'a> {
        let (n, factor) = (self.metric.size, self.metric.factor(self.spec));
        let seen = |step: &Step| {
            let basis = |i: usize, j: usize| factor.values[(step.start + i) * n + step.start + j];
            Nearest::new(self.atoms, self.spec.width, step.size, basis)
        };
        Forward { width: self.spec.width, atoms: self.atoms, seen: factor.steps.iter().map(seen).collect(), factor }
    }

    /// One sweep over the pieces, each given all others, from `G = E M` `[rows, n]`, which is kept up to date.
    /// Returns how many codes changed.
    pub fn revise(&self, gradient: &mut [f32], scales: &[f32], codes: &mut [u8]) -> usize {
        let (rows, n, count) = (scales.len(), self.metric.size, self.around.len());
        let (mut targets, mut found) = (vec![0.0; rows * MAX_WIDTH], vec![0; rows]);
        let mut changed = 0;
        for (piece, (start, size)) in pieces(n, self.spec.width).enumerate() {
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
                let levels = |code: u8| &self.atoms[usize::from(code) * self.spec.width..][..size];
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

/// Codes rows from the first piece to the last of the order, each given what those before it got wrong.
pub(super) struct Forward<'a> {
    width: usize,
    /// `[K, d]`.
    atoms: &'a [f32],
    factor: Arc<Factor>,
    /// The atoms as the piece of each step sees them, times `V_bb`.
    seen: Vec<Nearest>,
}

impl Forward<'_> {
    /// Codes `[rows, P]` for weights `[rows, n]` with the given scales, keeping up to `paths` partial rows.
    pub fn code(&self, weights: &[f32], scales: &[f32], paths: usize, codes: &mut [u8]) {
        let (n, count) = (self.factor.columns.len(), self.factor.steps.len());
        let kept = paths.min(PATHS_TIMES_COLUMNS / n).max(1);
        let together = ROWS_TOGETHER.div_ceil(kept);
        let groups = weights.chunks(together * n).zip(scales.chunks(together)).zip(codes.chunks_mut(together * count));
        for ((weights, scales), codes) in groups {
            let mut paths = Paths::new(self, weights, scales, kept);
            paths.run();
            paths.write(codes);
        }
    }
}

/// The partial rows that are kept, `kept` slots for each row.
struct Paths<'a> {
    forward: &'a Forward<'a>,
    scales: &'a [f32],
    kept: usize,
    /// What is left of `Z`, `[slots, n]`.
    left: Vec<f32>,
    /// Decoded weights in the order of coding, `[slots, n]`.
    decoded: Vec<f32>,
    /// Codes in the order of coding, `[slots, P]`.
    codes: Vec<u8>,
    /// `|E V|^2` so far, `[slots]`.
    costs: Vec<f32>,
    /// The slots in use, for each row.
    live: Vec<Vec<usize>>,
}

/// A way to go on: from a slot with an atom.
#[derive(Clone, Copy)]
struct Child {
    cost: f32,
    slot: usize,
    code: u8,
}

impl<'a> Paths<'a> {
    fn new(forward: &'a Forward<'a>, weights: &[f32], scales: &'a [f32], kept: usize) -> Self {
        let (n, slots) = (forward.factor.columns.len(), scales.len() * kept);
        let mut ordered = vec![0.0; slots * n];
        for (row, weights) in ordered.chunks_exact_mut(n * kept).zip(weights.chunks_exact(n)) {
            row.iter_mut().zip(&forward.factor.columns).for_each(|(out, &column)| *out = weights[column]);
        }
        Paths {
            forward,
            scales,
            kept,
            left: times(&ordered, &forward.factor.values, n),
            decoded: vec![0.0; slots * n],
            codes: vec![0; slots * forward.factor.steps.len()],
            costs: vec![0.0; slots],
            live: (0..scales.len()).map(|row| vec![row * kept]).collect(),
        }
    }

    fn run(&mut self) {
        let Factor { steps, columns, values } = &*self.forward.factor;
        let n = columns.len();
        let mut scores = Scores::default();
        for panel in steps.chunks(PANEL.div_ceil(self.forward.width)) {
            let (begin, last) = (panel[0].start, panel[panel.len() - 1]);
            let end = last.start + last.size;
            for step in panel {
                for row in 0..self.scales.len() {
                    let children = self.children(row, step, &mut scores);
                    self.settle(row, step, begin, children);
                }
                let piece = step.start..step.start + step.size;
                Arch::new().dispatch(|| cancel(&mut self.left, &self.decoded, values, n, piece, end));
            }
            let slots = self.costs.len();
            matmul(
                MatMut::from_row_major_slice_mut(&mut self.left, slots, n).subcols_mut(end, n - end),
                Accum::Add,
                MatRef::from_row_major_slice(&self.decoded, slots, n).subcols(begin, end - begin),
                MatRef::from_row_major_slice(values, n, n).submatrix(begin, end, end - begin, n - end),
                -1.0,
                Par::Seq,
            );
        }
    }

    /// The best ways to go on with a row, at most as many as there are slots.
    fn children(&self, row: usize, step: &Step, scores: &mut Scores) -> Vec<Child> {
        let (n, scale) = (self.forward.factor.columns.len(), self.scales[row]);
        let atoms = &self.forward.seen[step.index];
        let mut children = Vec::with_capacity(self.kept * CHILDREN);
        for &slot in &self.live[row] {
            let left = &self.left[slot * n + step.start..][..step.size];
            let mut target = [0.0; MAX_WIDTH];
            target.iter_mut().zip(left).for_each(|(t, x)| *t = x * reciprocal(scale));
            for &code in atoms.nearest(&target[..step.size], CHILDREN.min(self.kept), scores).iter() {
                let miss = |(j, x): (usize, &f32)| (x - scale * atoms.component(usize::from(code), j)).powi(2);
                let cost = self.costs[slot] + left.iter().enumerate().map(miss).sum::<f32>();
                children.push(Child { cost, slot, code });
            }
        }
        children.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        children.truncate(self.kept);
        children
    }

    /// Gives each child a slot, that of its parent to the first, and decodes its piece.
    fn settle(&mut self, row: usize, step: &Step, begin: usize, children: Vec<Child>) {
        let (n, count) = (self.forward.factor.columns.len(), self.forward.factor.steps.len());
        let slots = row * self.kept..(row + 1) * self.kept;
        let mut free: Vec<usize> = slots.filter(|s| children.iter().all(|child| child.slot != *s)).collect();
        let mut live: Vec<usize> = Vec::with_capacity(children.len());
        for child in &children {
            let mut slot = child.slot;
            if live.contains(&slot) {
                slot = free.pop().expect("there are no more children than slots");
                self.left.copy_within(child.slot * n + step.start..(child.slot + 1) * n, slot * n + step.start);
                self.decoded.copy_within(child.slot * n + begin..child.slot * n + step.start, slot * n + begin);
                self.codes.copy_within(child.slot * count..child.slot * count + step.index, slot * count);
            }
            live.push(slot);
        }
        for (child, &slot) in children.iter().zip(&live) {
            self.costs[slot] = child.cost;
            self.codes[slot * count + step.index] = child.code;
            let levels = &self.forward.atoms[usize::from(child.code) * self.forward.width..][..step.size];
            let decoded = &mut self.decoded[slot * n + step.start..][..step.size];
            decoded.iter_mut().zip(levels).for_each(|(q, level)| *q = level * self.scales[row]);
        }
        self.live[row] = live;
    }

    /// The codes of the best path of each row.
    fn write(&self, codes: &mut [u8]) {
        let steps = &self.forward.factor.steps;
        for (live, out) in self.live.iter().zip(codes.chunks_exact_mut(steps.len())) {
            let best = live.iter().min_by(|a, b| self.costs[**a].total_cmp(&self.costs[**b]));
            let best = best.expect("every row has a path");
            for (step, &code) in steps.iter().zip(&self.codes[best * steps.len()..]) {
                out[step.piece] = code;
            }
        }
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
fn cancel(whitened: &mut [f32], decoded: &[f32], factor: &[f32], n: usize, piece: Range<usize>, end: usize) {
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
