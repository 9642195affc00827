//! Error feedback: the codes of a row compensate the errors of one another.
//!
//! With `M = V V^T`, `V` upper triangular, the damped distortion of an error `E` is `|E V|^2`, and column block `b` of
//! `E V` depends on the blocks up to `b` only. So a row is coded from left to right on `Z = W V`: each piece takes the
//! atom nearest to its block of the remainder of `Z`, in the metric `V_bb`, and its contribution `r c V_b` is subtracted
//! from all blocks to the right. This is successive cancellation (Babai's nearest plane); GPTQ's column updates and LDLQ are
//! the same thing for scalars (`V` is the inverse of GPTQ's Cholesky factor of `M^-1`, so nothing is inverted here).
//! Three methods of MIMO detection improve on that:
//!
//! - **Order** ([`Factor`]). The first block is coded at the variance it has given all others, the last at its full
//!   one. Small ones go last. Codes stay where they are in the row: only the order of choosing changes.
//! - **Paths** ([`Coder::code`]). Instead of one, the best few partial rows are kept (the M-algorithm, K-best).
//! - **Revision** ([`Coder::revise`]). A piece was chosen before those after it were known. With `G = E M` each piece
//!   is replaced by the best atom given *all* the others, which never raises the distortion (iterated conditional
//!   modes).

use std::sync::Arc;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::factor::{Factor, Step};
use super::metric::{LEAST_DAMPING, Metric, ROWS_TOGETHER, dot};
use super::nearest::{Nearest, Scores};
use super::vector::Subtract;
use super::{BlockSpec, MAX_WIDTH, pieces};

/// Columns that are brought up to date piece by piece; those beyond get one matrix product for all of them.
const PANEL: usize = 64;

/// Columns of a triangular factor that are multiplied together, with all rows that are not zero in any of them.
const UPPER_PANEL: usize = 128;

/// Paths are kept while paths times columns are at most this: they gain most where the matrix is narrow and the input
/// strongly correlated, and their cost grows with the square of the columns.
const PATHS_TIMES_COLUMNS: usize = 1024;

/// Atoms that a path may go on with.
const CHILDREN: usize = 3;

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
        let around = pieces(metric.size(), spec.width)
            .map(|(start, size)| Around::new(metric, atoms, spec.width, start, size))
            .collect();
        Coder { metric, spec, atoms, around }
    }

    /// What [`Self::code`] needs besides; worth making once for many rows.
    pub fn forward(&self) -> Forward<'a> {
        let (n, factor) = (self.metric.size(), self.metric.factor(self.spec));
        let seen = |step: &Step| {
            let basis = |i: usize, j: usize| factor.values[(step.start + i) * n + step.start + j];
            Nearest::new(self.atoms, self.spec.width, step.size, basis)
        };
        Forward { width: self.spec.width, atoms: self.atoms, seen: factor.steps.iter().map(seen).collect(), factor }
    }

    /// One sweep over the pieces, each given all others, from `G = E M` `[rows, n]`, which is kept up to date.
    /// Returns how many codes changed.
    pub fn revise(&self, gradient: &mut [f32], scales: &[f32], codes: &mut [u8]) -> usize {
        let (rows, n, count) = (scales.len(), self.metric.size(), self.around.len());
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
                let (row, damped) = (&mut gradient[i * n..][..n], &self.metric.damped()[start * n..][..size * n]);
                Subtract {
                    y: row,
                    stride: n,
                    width: n,
                    coefficients: &step[..size],
                    coefficient_stride: size,
                    x: damped,
                    x_stride: n,
                    terms: size,
                }
                .run();
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
    /// Codes `[rows, P]` for weights `[rows, n]` with the given scales, keeping up to `paths` partial rows, and the energy
    /// `w M w^T` of each row.
    pub fn code(&self, weights: &[f32], scales: &[f32], paths: usize, (codes, energy): (&mut [u8], &mut [f64])) {
        let (n, count) = (self.factor.columns.len(), self.factor.steps.len());
        let kept = paths.min(PATHS_TIMES_COLUMNS / n).max(1);
        let together = ROWS_TOGETHER.div_ceil(kept);
        let groups = weights.chunks(together * n).zip(scales.chunks(together));
        let results = codes.chunks_mut(together * count).zip(energy.chunks_mut(together));
        for ((weights, scales), (codes, energy)) in groups.zip(results) {
            let mut paths = Paths::new(self, weights, scales, kept);
            for ((energy, left), row) in energy.iter_mut().zip(paths.left.chunks(kept * n)).zip(weights.chunks(n)) {
                *energy = dot(&left[..n], &left[..n]) - self.factor.noise * dot(row, row);
            }
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
            left: times_upper(&ordered, &forward.factor.values, n),
            decoded: vec![0.0; slots * n],
            codes: vec![0; slots * forward.factor.steps.len()],
            costs: vec![0.0; slots],
            live: (0..scales.len()).map(|row| vec![row * kept]).collect(),
        }
    }

    fn run(&mut self) {
        let Factor { steps, columns, values, .. } = &*self.forward.factor;
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
                Subtract {
                    y: &mut self.left[step.start..],
                    stride: n,
                    width: end - step.start,
                    coefficients: &self.decoded[step.start..],
                    coefficient_stride: n,
                    x: &values[step.start * n + step.start..],
                    x_stride: n,
                    terms: step.size,
                }
                .run();
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

/// `X V` for `X [rows, n]` and an upper triangular `V [n, n]`.
fn times_upper(x: &[f32], v: &[f32], n: usize) -> Vec<f32> {
    let rows = x.len() / n;
    let mut out = vec![0.0; x.len()];
    for begin in (0..n).step_by(UPPER_PANEL) {
        let end = (begin + UPPER_PANEL).min(n);
        matmul(
            MatMut::from_row_major_slice_mut(&mut out, rows, n).subcols_mut(begin, end - begin),
            Accum::Replace,
            MatRef::from_row_major_slice(x, rows, n).subcols(0, end),
            MatRef::from_row_major_slice(v, n, n).submatrix(0, begin, end, end - begin),
            1.0,
            Par::Seq,
        );
    }
    out
}

/// `1 / scale`, and 0 for a scale of 0: such a row is 0 whatever its codes are.
fn reciprocal(scale: f32) -> f32 {
    if scale.abs() >= f32::MIN_POSITIVE { scale.recip() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayView2};

    use super::super::ATOMS;
    use super::super::metric::dot;
    use super::*;

    const N: usize = 90;
    const ROWS: usize = 70;

    fn metric() -> Metric {
        let moment = Array2::from_shape_fn((N, N), |(i, j)| 0.95f64.powi(i.abs_diff(j) as i32));
        Metric::new(moment.view(), 0.01).unwrap()
    }

    /// Weights and atoms without any structure: the fractional parts of a quadratic sequence.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i + seed) as f64 * 0.618_034).fract() as f32 - 0.5).collect()
    }

    fn error(weights: &[f32], atoms: &[f32], spec: BlockSpec, codes: &[u8]) -> Vec<f32> {
        let decoded = codes
            .chunks(spec.pieces(N))
            .flat_map(|row| row.iter().flat_map(|&c| &atoms[usize::from(c) * spec.width..][..spec.width]).take(N));
        weights.iter().zip(decoded).map(|(w, q)| w - q).collect()
    }

    fn cost(metric: &Metric, error: &[f32]) -> f64 {
        dot(error, &metric.times_damped(error))
    }

    #[test]
    fn more_paths_cost_less_and_revision_keeps_its_books() {
        let (metric, spec) = (metric(), BlockSpec::new(8).unwrap());
        let (weights, atoms) = (values(ROWS * N, 0), values(ATOMS * 8, 5));
        let coder = Coder::new(&metric, spec, &atoms);
        let (mut codes, mut energy) = (vec![0; ROWS * spec.pieces(N)], vec![0.0; ROWS]);
        let mut coded = |paths| {
            coder.forward().code(&weights, &[1.0; ROWS], paths, (&mut codes, &mut energy));
            (cost(&metric, &error(&weights, &atoms, spec, &codes)), codes.clone())
        };
        let ((one, mut codes), (eight, _)) = (coded(1), coded(8));
        for (energy, row) in energy.iter().zip(weights.chunks_exact(N)) {
            assert!((energy / cost(&metric, row) - 1.0).abs() < 1e-3, "{energy} {}", cost(&metric, row));
        }
        assert!(eight < 0.95 * one, "{one} {eight}");

        let mut gradient = metric.times_damped(&error(&weights, &atoms, spec, &codes));
        assert!(coder.revise(&mut gradient, &[1.0; ROWS], &mut codes) > 0);
        let after = error(&weights, &atoms, spec, &codes);
        let wanted = metric.times_damped(&after);
        assert!(gradient.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(cost(&metric, &after) < 0.95 * one);
    }

    #[test]
    fn distortion_is_the_definition() {
        let metric = metric();
        let error = values(ROWS * N, 3);
        let error = ArrayView2::from_shape((ROWS, N), &error).unwrap();
        let moment = |i: usize, j: usize| 0.95f64.powi(i.abs_diff(j) as i32);
        let row = |e: ndarray::ArrayView1<'_, f32>| -> f64 {
            (0..N * N).map(|x| f64::from(e[x / N]) * moment(x / N, x % N) * f64::from(e[x % N])).sum()
        };
        let wanted: f64 = error.outer_iter().map(row).sum();
        assert!((metric.distortion(error) / wanted - 1.0).abs() < 1e-4);
    }
}
