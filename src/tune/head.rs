//! An output of the model that is a linear function of the last layer's states, as found in runs of the original.
//!
//! If `output = A Y + b` holds for all recorded steps (fitted by least squares on some steps, checked on others), errors of
//! `Y` can be weighted by their effect on the output, whatever nodes are in between. For probabilities the fit is of their
//! logarithms minus the mean of each row, which does not change a Softmax.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

use super::schedule::{EXACT, RIDGE, WIDEST};
use super::sequences::{Probe, Site};
use crate::engine::Outputs;
use crate::loss::{Content, Judge, Judged, LossKind};

/// `output = A Y + b`, and the loss of its errors.
pub(super) struct Head {
    /// The graph output.
    pub(super) output: String,
    /// `A [V, D*H]`.
    pub(super) matrix: Vec<f32>,
    /// `b [V]`.
    pub(super) bias: Vec<f32>,
    pub(super) kind: Kind,
}

/// The loss of a row.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// `sum p ln(p / q)` of the softmax of both.
    Divergence,
    /// `sum (a - b)^2` times a weight.
    Squared(f64),
}

impl Head {
    /// The first compared output that is linear in the states of `site`.
    pub(super) fn find(runs: &[Probe], site: usize, judge: &Judge) -> Option<Head> {
        judge.outputs.iter().find_map(|output| Head::of_output(runs, site, output))
    }

    fn of_output(runs: &[Probe], site: usize, output: &Judged) -> Option<Head> {
        [false, true].into_iter().find_map(|batch_first| {
            let mut rows = Rows::default();
            for (sites, steps) in runs {
                rows.add(sites.get(&site)?, steps, output, batch_first)?;
            }
            rows.fit(output)
        })
    }

    /// The outputs `[N, V]` for states `[N, D*H]`.
    pub(super) fn apply(&self, y: &[f32]) -> Vec<f32> {
        let classes = self.bias.len();
        let width = self.matrix.len() / classes;
        let rows = y.len() / width;
        let mut out = self.bias.repeat(rows);
        matmul(
            MatMut::from_row_major_slice_mut(&mut out, rows, classes),
            Accum::Add,
            MatRef::from_row_major_slice(y, rows, width),
            MatRef::from_row_major_slice(&self.matrix, classes, width).transpose(),
            1.0,
            Par::Seq,
        );
        out
    }

    /// The loss of a row of outputs against the original's; leaves its gradient in place of the outputs.
    pub(super) fn loss_row(&self, own: &mut [f32], original: &mut [f32]) -> f64 {
        match self.kind {
            Kind::Squared(weight) => {
                let mut sum = 0.0;
                for (own, original) in own.iter_mut().zip(original) {
                    let error = *own - *original;
                    sum += f64::from(error) * f64::from(error);
                    *own = (2.0 * weight) as f32 * error;
                }
                sum * weight
            }
            Kind::Divergence => {
                log_softmax(own);
                log_softmax(original);
                let mut sum = 0.0;
                for (own, original) in own.iter_mut().zip(original) {
                    let (p, q) = (original.exp(), own.exp());
                    sum += f64::from(p) * f64::from(*original - *own);
                    *own = q - p;
                }
                sum
            }
        }
    }
}

/// Outputs that are the last layer's `H` and `C` after the last step, as those of an encoder are.
pub(super) struct Finals {
    /// The graph outputs.
    pub(super) output: String,
    /// What a squared error in `H` and in `C` of a sequence counts; 0 for one that is no output.
    pub(super) weights: [f64; 2],
}

impl Finals {
    /// The compared outputs that are the final states of `site`.
    pub(super) fn find(runs: &[Probe], site: usize, judge: &Judge) -> Option<Finals> {
        let mut names = Vec::new();
        let mut weights = [0.0; 2];
        for (which, weight) in weights.iter_mut().enumerate() {
            let named = judge.outputs.iter().find_map(|o| Some((&o.name, energy(runs, site, which, &o.name)?)));
            if let Some((name, energy)) = named {
                names.push(name.clone());
                *weight = 1.0 / energy;
            }
        }
        (!names.is_empty()).then(|| Finals { output: names.join(", "), weights })
    }
}

/// The mean squared deviation of `H` or `C` of a sequence from the mean, if an output is that in all runs.
fn energy(runs: &[Probe], site: usize, which: usize, output: &str) -> Option<f64> {
    let (mut rows, mut hidden) = (Vec::new(), 0);
    for (sites, steps) in runs {
        let site = sites.get(&site)?;
        let ([record], [outputs]) = (&site.records[..], &steps[..]) else { return None };
        let finals = &record.finals()?[which];
        let given = outputs.iter().find(|(name, _)| name == output)?.1.to_f32();
        if finals.is_empty() || !given.iter().eq(finals) {
            return None;
        }
        hidden = record.hidden();
        rows.extend_from_slice(finals);
    }
    let count = (rows.len() / hidden.max(1)) as f64;
    let mean = |j: usize| rows.iter().skip(j).step_by(hidden).map(|v| f64::from(*v)).sum::<f64>() / count;
    let means: Vec<f64> = (0..hidden).map(mean).collect();
    let squares = rows.iter().zip(means.iter().cycle()).map(|(v, mean)| (f64::from(*v) - mean).powi(2));
    let energy = squares.sum::<f64>() / count;
    (energy > 0.0).then_some(energy)
}

fn log_softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|v| f64::from((v - largest).exp())).sum();
    let shift = largest + sum.ln() as f32;
    row.iter_mut().for_each(|v| *v -= shift);
}

/// States and outputs of the same steps.
#[derive(Default)]
struct Rows {
    count: usize,
    width: usize,
    classes: usize,
    y: Vec<f64>,
    outputs: Vec<f64>,
}

impl Rows {
    /// The rows of one stream: `None` if the output has not one row for each step of each sequence.
    fn add(&mut self, site: &Site, steps: &[Outputs], output: &Judged, batch_first: bool) -> Option<()> {
        let values: Vec<_> = steps
            .iter()
            .map(|outputs| Some(outputs.iter().find(|(name, _)| *name == output.name)?.1.to_f64()))
            .collect::<Option<_>>()?;
        let classes = *values.first()?.shape().last()?;
        let width = site.records.first()?.hidden() * site.records.first()?.tracks.len();
        if (self.count > 0 && (classes, width) != (self.classes, self.width)) || classes.max(width) > WIDEST {
            return None;
        }
        (self.classes, self.width) = (classes, width);
        let mut rows: Vec<f64> = Vec::new();
        for value in &values {
            rows.extend(value.iter());
        }
        let total: usize = site.records.iter().map(|r| r.steps * r.batch).sum();
        if site.visits != steps.len() || rows.len() != total * classes {
            return None;
        }
        // One run has its own order; of several, joined or not, each step is one row after the other.
        if site.visits > 1 && batch_first {
            return None;
        }
        let mut at = 0;
        for record in &site.records {
            let joined = record.joined();
            for i in 0..record.steps * record.batch {
                let (t, b) = (i / record.batch, i % record.batch);
                let row = if batch_first { at + b * record.steps + t } else { at + i };
                self.y.extend(joined[i * width..][..width].iter().map(|&v| f64::from(v)));
                self.y.push(1.0);
                let mut values = rows[row * classes..][..classes].to_vec();
                centre_logarithms(&mut values, output.content);
                self.outputs.extend(values);
            }
            at += record.steps * record.batch;
        }
        self.count += total;
        Some(())
    }

    fn fit(&self, output: &Judged) -> Option<Head> {
        let (n, size, classes) = (self.count, self.width + 1, self.classes);
        let used = (4 * size).min(n * 3 / 4);
        if used < size || classes == 0 || !self.outputs.iter().all(|v| v.is_finite()) {
            return None;
        }
        // Spread over all rows, so that the check is not on other samples only.
        let y = MatRef::from_row_major_slice(&self.y, n, size);
        let o = MatRef::from_row_major_slice(&self.outputs, n, classes);
        let spread = |i: usize| i * n / used;
        let z = Mat::from_fn(used, size, |i, j| y[(spread(i), j)]);
        let t = Mat::from_fn(used, classes, |i, j| o[(spread(i), j)]);
        let mut moments = z.transpose() * &z;
        let mean = (0..size).map(|i| moments[(i, i)]).sum::<f64>() / size as f64;
        (0..size).for_each(|i| moments[(i, i)] += RIDGE * mean);
        // Moments that cannot be factored have no linear fit to offer: the layer is tuned against its states then.
        let solution = moments.llt(Side::Lower).ok()?.solve(z.transpose() * &t);
        let checked = n.min(2 * used);
        let spread = |i: usize| i * n / checked;
        let q = Mat::from_fn(checked, size, |i, j| y[(spread(i), j)]);
        let given = q * &solution;
        let (mut error, mut energy) = (0.0, 0.0);
        let mean: Vec<f64> =
            (0..classes).map(|j| (0..checked).map(|i| o[(spread(i), j)]).sum::<f64>() / checked as f64).collect();
        for i in 0..checked {
            for (j, mean) in mean.iter().enumerate() {
                error += (given[(i, j)] - o[(spread(i), j)]).powi(2);
                energy += (o[(spread(i), j)] - mean).powi(2);
            }
        }
        if error.is_nan() || error > EXACT * energy || energy <= 0.0 {
            return None;
        }
        let classed = output.content.is_distribution() || output.loss != LossKind::Nmse;
        Some(Head {
            output: output.name.clone(),
            matrix: (0..classes * self.width).map(|k| solution[(k % self.width, k / self.width)] as f32).collect(),
            bias: (0..classes).map(|j| solution[(self.width, j)] as f32).collect(),
            kind: if classed && classes > 1 { Kind::Divergence } else { Kind::Squared(checked as f64 / energy) },
        })
    }
}

/// The logarithms of probabilities less their mean; other values as they are.
fn centre_logarithms(row: &mut [f64], content: Content) {
    match content {
        Content::Probabilities(_) => row.iter_mut().for_each(|p| *p = p.ln()),
        Content::LogProbabilities(_) => {}
        Content::Values | Content::Discrete => return,
    }
    let mean = row.iter().sum::<f64>() / row.len().max(1) as f64;
    row.iter_mut().for_each(|v| *v -= mean);
}
