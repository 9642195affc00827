//! A triangular factor of the metric, and the order in which the pieces of a row are coded.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

use super::metric::{LEAST_DAMPING, Metric};
use super::{BlockSpec, pieces};

/// Columns that are eliminated before the rest of the matrix is brought up to date with one matrix product.
const PANEL: usize = 64;

/// Damping of the factor relative to the noise of a code with so many bits a weight.
const NOISE: f64 = 0.4;

/// The triangular factor `V` of `M`, damped once more, with the pieces of a row in the order of coding.
///
/// The order is found from the end: the next to the last place goes to the piece with the least variance given those
/// after it (a Cholesky decomposition with the smallest pivots first, the sorted QR of detection theory).
///
/// The error of a coarse codebook is noise for the later pieces, so a coarser codebook needs more damping here: an
/// additional `NOISE * 2^(-2 bits)`.
pub(super) struct Factor {
    pub steps: Vec<Step>,
    /// The column at each place of the order.
    pub columns: Vec<usize>,
    /// `V`, `[n, n]`, upper triangular: `V V^T = M + noise I`.
    pub values: Vec<f32>,
    /// The additional damping.
    pub noise: f64,
}

/// A piece in the order of coding.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Which piece of the row it is.
    pub piece: usize,
    /// Its place in the order.
    pub index: usize,
    /// Its first place among the ordered columns.
    pub start: usize,
    pub size: usize,
}

impl Factor {
    pub fn new(metric: &Metric, spec: BlockSpec) -> Factor {
        let n = metric.size();
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
        Factor { steps, columns, values, noise }
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
        let n = metric.size();
        let mut remainder: Vec<f64> = metric.damped().iter().map(|&m| f64::from(m)).collect();
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
        Arch::new().dispatch(Earlier { row, before, column });
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

/// Takes the rows `before` off a row of the remainder.
struct Earlier<'a> {
    row: &'a mut [f64],
    before: &'a [f64],
    column: usize,
}

impl WithSimd for Earlier<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (row, row_rest) = S::as_mut_simd_f64s(self.row);
        for earlier in self.before.chunks_exact(row.len() * S::F64_LANES + row_rest.len()) {
            let factor = earlier[self.column];
            let (earlier, earlier_rest) = S::as_simd_f64s(earlier);
            let splat = simd.splat_f64s(-factor);
            for (x, &e) in row.iter_mut().zip(earlier) {
                *x = simd.mul_add_f64s(splat, e, *x);
            }
            for (x, &e) in row_rest.iter_mut().zip(earlier_rest) {
                *x -= factor * e;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn the_factor_rebuilds_the_metric_in_its_order() {
        // More columns than a panel, the last piece short, the moment far from diagonal.
        let n = 150;
        let moment =
            Array2::from_shape_fn((n, n), |(i, j)| 0.9f64.powi(i.abs_diff(j) as i32) * (1 + (i * j) % 3) as f64);
        let moment = moment.dot(&moment.t());
        let metric = Metric::new(moment.view(), 0.01).unwrap();
        let spec = BlockSpec::new(4).unwrap();
        let factor = Factor::new(&metric, spec);
        let noise = NOISE / 16.0;
        let mut seen = factor.columns.clone();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..n));
        for i in 0..n {
            let row = &factor.values[i * n..][..n];
            assert!(row[..i].iter().all(|v| *v == 0.0) && row[i] > 0.0);
            for j in 0..=i {
                let product: f64 = (i..n).map(|k| f64::from(row[k]) * f64::from(factor.values[j * n + k])).sum();
                let entry = f64::from(metric.entry(factor.columns[i], factor.columns[j]));
                let wanted = entry + if i == j { noise } else { 0.0 };
                assert!((product - wanted).abs() < 1e-4, "{i} {j}: {product} {wanted}");
            }
        }
        for step in &factor.steps {
            assert_eq!(factor.columns[step.start], step.piece * 4);
            assert_eq!(step.size, if step.piece == 37 { 2 } else { 4 });
        }
    }
}
