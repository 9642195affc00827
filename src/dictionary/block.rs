//! The block dictionary: one atom of a shared codebook for each piece of `d` weights, times a scale for each row.
//!
//! Learning alternates between codes (with feedback, [`super::feedback`]), row scales (least squares, in closed form)
//! and atoms (least squares by conjugate gradient). The atoms are rounded to `i8` and the scales to bytes
//! *before* each coding pass, so that the codes make up for the rounding too; the best round is kept.
//!
//! A matrix of integers ([`Grid`]) is decoded to such again: its scales are the steps of its grid, atoms are rounded to whole
//! levels, and only atoms and codes are learned.
//!
//! Weights are scaled by a power of two, moments by the mean of their diagonal: inputs of any magnitude are safe, and
//! division by a power of two is exact.

use std::sync::Arc;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::cluster::{Points, kmeans};
use super::feedback::Coder;
use super::metric::{ROWS_TOGETHER, dot, power_of_two};
use super::{
    ATOMS, BlockCode, BlockSpec, Codebook, Grid, LearnOptions, MAX_WIDTH, Metric, Scales, WeightMatrix, pieces,
};
use crate::error::{Error, ErrorKind, Result};

/// Points for k-means, for each atom.
const POINTS_PER_ATOM: usize = 96;

/// Rows whose scale is below this fraction of the step of the scales are coded as zeros: the step is set by the largest
/// row, and relative to that row they are negligible.
const LEAST_SCALE: f64 = 1e-6;

/// Learns one codebook for all `matrices` and codes them with it, in their order.
///
/// # Errors
/// [`ErrorKind::Usage`] if there is no matrix, if one is empty, not finite or of another width than its metric, if some are
/// of integers and others not, or if the spec or an importance is out of range.
pub fn learn(matrices: &[WeightMatrix<'_>], spec: BlockSpec, options: &LearnOptions) -> Result<Vec<BlockCode>> {
    spec.check()?;
    if matrices.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "no matrix to learn a codebook from"));
    }
    if matrices.iter().any(|matrix| matrix.grid.is_some() != matrices[0].grid.is_some()) {
        return Err(Error::new(ErrorKind::Usage, "a codebook for matrices of integers and of floats"));
    }
    let mut units = matrices.par_iter().map(Unit::new).collect::<Result<Vec<_>>>()?;
    normalise_importance(&mut units);
    let scalar = spec == BlockSpec { width: 1 };
    let mut atoms = if scalar { every_level(&mut units, options.peak) } else { first_atoms(&mut units, spec, options) };

    let mut best: Option<(f64, Vec<f32>, Vec<State>)> = None;
    for round in 0..options.rounds.max(1) {
        if round > 0 && !scalar {
            refit(&units, spec, &mut atoms, options.refit_steps);
            round_atoms(&mut units, &mut atoms, options.peak);
        }
        let step = round_scales(&mut units);
        // Codes that are there are a better start for the next atoms than coding anew.
        let (start, sweeps) = match round {
            0 => (Start::Paths(options.paths), options.sweeps),
            _ => (Start::Codes, options.sweeps.max(1)),
        };
        let fits = code_units(&mut units, spec, &atoms, start, sweeps);
        let total = fits.iter().zip(&units).map(|(fit, unit)| fit.refit_scales(unit, step) * unit.importance).sum();
        for (unit, fit) in units.iter_mut().zip(&fits) {
            fit.apply(unit, step);
        }
        if best.as_ref().is_none_or(|(least, ..)| total < *least) {
            best = Some((total, atoms.clone(), units.iter().map(|unit| unit.state(step)).collect()));
        }
    }
    let (_, atoms, states) = best.expect("there is at least one round");
    let codebook = Arc::new(Codebook { spec, atoms: atoms.iter().map(|&level| level as i8).collect() });
    Ok(units.iter().zip(states).map(|(unit, state)| state.into_coded(unit, &codebook)).collect())
}

/// A matrix at work. Decoded weights are `unit * scale * level`.
struct Unit<'a> {
    metric: &'a Metric,
    rows: usize,
    columns: usize,
    /// Power of two that the weights were divided by.
    unit: f64,
    /// Share in the total distortion.
    importance: f64,
    /// `W`, `[rows, n]`; for a grid `W + step zero`, the steps times whole levels.
    weights: Vec<f32>,
    /// The integers that `W` is made of.
    grid: Option<&'a Arc<Grid>>,
    /// `w M w^T` of each row, once it was coded.
    energy: Vec<f64>,
    /// `[rows]`; at first the rms of the row. For a grid its steps.
    scales: Vec<f32>,
    /// `[rows, P]`.
    codes: Vec<u8>,
}

/// What a round found for a matrix.
struct State {
    codes: Vec<u8>,
    scales: Scales,
}

/// How well the rows of a matrix are coded.
struct Fit {
    rows: Vec<RowFit>,
}

/// `e M e^T`, `q M e^T` and `q M q^T` of a row, with `q` decoded at a scale of 1 and `e = w - r q`.
#[derive(Clone, Copy)]
struct RowFit {
    damped: f64,
    pull: f64,
    energy: f64,
}

impl RowFit {
    /// The scale with the least distortion for the same codes.
    fn best_scale(&self, scale: f32) -> f32 {
        let best = f64::from(scale) + self.pull / self.energy;
        if best > 0.0 && best.is_finite() { best as f32 } else { scale }
    }

    /// The damped distortion if the scale changes by `change`.
    fn damped_at(&self, change: f64) -> f64 {
        (self.damped - 2.0 * change * self.pull + change * change * self.energy).max(0.0)
    }
}

impl Fit {
    /// Scales for the codes that were found, multiples of `step`.
    fn scales(&self, unit: &Unit<'_>, step: f32) -> Vec<f32> {
        if unit.grid.is_some() {
            return unit.scales.clone();
        }
        let best = self.rows.iter().zip(&unit.scales).map(|(fit, &scale)| fit.best_scale(scale));
        best.map(|scale| unit.rounded_scale(scale, step)).collect()
    }

    /// The damped distortion with these scales.
    fn refit_scales(&self, unit: &Unit<'_>, step: f32) -> f64 {
        let scales = self.scales(unit, step);
        let changes = scales.iter().zip(&unit.scales).map(|(new, old)| f64::from(*new) - f64::from(*old));
        self.rows.iter().zip(changes).map(|(fit, change)| fit.damped_at(change)).sum()
    }

    fn apply(&self, unit: &mut Unit<'_>, step: f32) {
        unit.scales = self.scales(unit, step);
    }
}

impl State {
    fn into_coded(self, unit: &Unit<'_>, codebook: &Arc<Codebook>) -> BlockCode {
        BlockCode {
            rows: unit.rows,
            columns: unit.columns,
            codes: self.codes,
            scales: self.scales,
            codebook: Arc::clone(codebook),
            grid: unit.grid.cloned(),
        }
    }
}

impl<'a> Unit<'a> {
    fn new(matrix: &WeightMatrix<'a>) -> Result<Self> {
        let (rows, columns) = matrix.weights.dim();
        let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
        if rows == 0 || columns == 0 || columns != matrix.metric.size() {
            return usage(format!("a matrix [{rows}, {columns}] with a metric of size {}", matrix.metric.size()));
        }
        if !(matrix.importance > 0.0 && matrix.importance.is_finite()) {
            return usage(format!("an importance of {}: it has to be positive", matrix.importance));
        }
        if !matrix.weights.iter().all(|w| w.is_finite()) {
            return usage("weights that are not finite".into());
        }
        let grid = matrix.grid;
        if grid.is_some_and(|grid| [grid.steps.len(), grid.zeros.len()] != [rows; 2]) {
            return usage(format!("a grid of other rows than the {rows} of its matrix"));
        }
        let peak = matrix.weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let unit = if peak > 0.0 { power_of_two(peak) } else { 1.0 };
        let mut weights: Vec<f32> = matrix.weights.iter().map(|&w| (f64::from(w) / unit) as f32).collect();
        let scales = match grid {
            None => weights.chunks_exact(columns).map(rms).collect(),
            Some(grid) => {
                let steps: Vec<f32> = grid.steps.iter().map(|&step| (f64::from(step) / unit) as f32).collect();
                for (r, row) in weights.chunks_exact_mut(columns).enumerate() {
                    let values = matrix.weights.row(r);
                    row.iter_mut().zip(values).for_each(|(w, &value)| *w = f32::from(grid.level(r, value)) * steps[r]);
                }
                steps
            }
        };
        Ok(Unit {
            metric: matrix.metric,
            rows,
            columns,
            unit,
            importance: matrix.importance * matrix.metric.scale() * unit * unit,
            energy: vec![0.0; rows],
            scales,
            weights,
            grid,
            codes: Vec::new(),
        })
    }

    /// For atoms that were divided by `step`.
    fn rescale(&mut self, step: f32) {
        self.scales.iter_mut().for_each(|scale| *scale *= step);
    }

    /// The byte of a scale.
    fn scale_code(&self, scale: f32, step: f32) -> u8 {
        let code = f64::from(scale) * self.unit / f64::from(step);
        // A float's cast saturates, and takes what is not a number to 0.
        if code > LEAST_SCALE { (code.round() as u8).max(1) } else { 0 }
    }

    /// A scale as it will be decoded.
    fn rounded_scale(&self, scale: f32, step: f32) -> f32 {
        let stored = f32::from(self.scale_code(scale, step)) * step;
        (f64::from(stored) / self.unit) as f32
    }

    fn state(&self, step: f32) -> State {
        let codes = match self.grid {
            Some(_) => Vec::new(),
            None => self.scales.iter().map(|&scale| self.scale_code(scale, step)).collect(),
        };
        State { codes: self.codes.clone(), scales: Scales { codes, step } }
    }

    /// `W - Q` for the rows from `first` on.
    fn error(&self, first: usize, spec: BlockSpec, atoms: &[f32], codes: &[u8]) -> Vec<f32> {
        let count = spec.pieces(self.columns);
        let rows = codes.len() / count;
        let mut error = self.weights[first * self.columns..][..rows * self.columns].to_vec();
        let scales = &self.scales[first..];
        for ((row, codes), &scale) in error.chunks_exact_mut(self.columns).zip(codes.chunks_exact(count)).zip(scales) {
            for (piece, &code) in row.chunks_mut(spec.width).zip(codes) {
                let levels = &atoms[usize::from(code) * spec.width..];
                piece.iter_mut().zip(levels).for_each(|(w, level)| *w -= level * scale);
            }
        }
        error
    }
}

/// Importances that add up to 1, whatever the scales; equal ones if no input was ever anything but 0.
fn normalise_importance(units: &mut [Unit<'_>]) {
    let most = units.iter().fold(0.0f64, |m, unit| m.max(unit.importance));
    for unit in units {
        let relative = unit.importance / most;
        unit.importance = if relative.is_finite() { relative.max(f64::EPSILON) } else { 1.0 };
    }
}

fn rms(values: &[f32]) -> f32 {
    (dot(values, values) / values.len() as f64).sqrt() as f32
}

/// Eight bits a weight: every level is an atom, and only the scales are learned.
fn every_level(units: &mut [Unit<'_>], peak: i8) -> Vec<f32> {
    for unit in units.iter_mut().filter(|unit| unit.grid.is_none()) {
        let peaks = unit.weights.chunks_exact(unit.columns).map(|row| row.iter().fold(0.0f32, |m, w| m.max(w.abs())));
        unit.scales = peaks.map(|largest| largest / f32::from(peak)).collect();
    }
    let least = if peak == i8::MAX { i8::MIN } else { -peak };
    (i8::MIN..=i8::MAX).map(|level| f32::from(level.clamp(least, peak))).collect()
}

/// k-means on pieces of the rows divided by their rms, as levels; the scales are made to fit.
fn first_atoms(units: &mut [Unit<'_>], spec: BlockSpec, options: &LearnOptions) -> Vec<f32> {
    let points = sample(units, spec, options.seed);
    let mut atoms = kmeans(&points, ATOMS, options.kmeans_iterations, options.seed);
    round_atoms(units, &mut atoms, options.peak);
    atoms
}

/// Rounds atoms to levels. Scales are made to fit, so that the largest level is `peak`; those of a grid stay.
fn round_atoms(units: &mut [Unit<'_>], atoms: &mut [f32], peak: i8) {
    if is_of_integers(units) {
        // What is not a number becomes 0.
        atoms.iter_mut().for_each(|atom| *atom = f32::from(atom.round() as i8));
        return;
    }
    let step = to_levels(atoms, peak);
    units.iter_mut().for_each(|unit| unit.rescale(step));
}

/// Whether units, which are alike in this, have a grid.
fn is_of_integers(units: &[Unit<'_>]) -> bool {
    units.iter().all(|unit| unit.grid.is_some())
}

/// Pieces, evenly spread over the units, weighted by the metric of their errors.
fn sample(units: &[Unit<'_>], spec: BlockSpec, seed: u64) -> Points {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let total: usize = units.iter().map(|unit| unit.rows * spec.pieces(unit.columns)).sum();
    let wanted = total.min(ATOMS * POINTS_PER_ATOM);
    let mut points = Points { width: spec.width, values: Vec::new(), weights: Vec::new() };
    let (mut unit, mut before) = (0, 0);
    let mut variances = conditional_variances(&units[0], spec);
    for i in 0..wanted {
        let (from, to) = (i * total / wanted, (i + 1) * total / wanted);
        let index = rng.random_range(from..to);
        while index - before >= units[unit].rows * spec.pieces(units[unit].columns) {
            before += units[unit].rows * spec.pieces(units[unit].columns);
            unit += 1;
            variances = conditional_variances(&units[unit], spec);
        }
        let unit = &units[unit];
        let (row, piece) = ((index - before) / variances.len(), (index - before) % variances.len());
        let start = row * unit.columns + piece * spec.width;
        let size = spec.width.min(unit.columns - piece * spec.width);
        let scale = unit.scales[row];
        // A short piece says nothing about the other components of an atom, unless there are no others.
        if scale < f32::MIN_POSITIVE || (size < spec.width && unit.columns > spec.width) {
            continue;
        }
        let values = unit.weights[start..][..size].iter().map(|w| w / scale);
        points.values.extend(values.chain(std::iter::repeat(0.0)).take(spec.width));
        points.weights.push((unit.importance as f32) * scale * scale * variances[piece]);
    }
    points
}

fn conditional_variances(unit: &Unit<'_>, spec: BlockSpec) -> Vec<f32> {
    unit.metric.factor(spec).variances()
}

/// Rounds atoms to levels of at most `most` and returns the value of a level.
fn to_levels(atoms: &mut [f32], most: i8) -> f32 {
    let peak = atoms.iter().fold(0.0f32, |m, a| m.max(a.abs()));
    if !(peak > f32::MIN_POSITIVE && peak.is_finite()) {
        atoms.fill(0.0);
        return 1.0;
    }
    let step = peak / f32::from(most);
    atoms.iter_mut().for_each(|a| *a = (*a / step).round());
    step
}

/// Rounds the scales to bytes and returns what a byte of 1 is worth.
fn round_scales(units: &mut [Unit<'_>]) -> f32 {
    if is_of_integers(units) {
        return 1.0;
    }
    let peak = |unit: &Unit<'_>| f64::from(unit.scales.iter().fold(0.0f32, |m, s| m.max(*s))) * unit.unit;
    let step = (units.iter().map(peak).fold(0.0f64, f64::max) / f64::from(u8::MAX)) as f32;
    for unit in units {
        unit.scales = unit.scales.iter().map(|&scale| unit.rounded_scale(scale, step)).collect();
    }
    step
}

fn code_units(units: &mut [Unit<'_>], spec: BlockSpec, atoms: &[f32], start: Start, sweeps: usize) -> Vec<Fit> {
    units.par_iter_mut().map(|unit| code_unit(unit, spec, atoms, start, sweeps)).collect()
}

/// Where the codes of a matrix come from.
#[derive(Clone, Copy)]
enum Start {
    /// Coded anew, keeping so many paths.
    Paths(usize),
    /// Those that it has.
    Codes,
}

/// Finds the codes of a matrix for its scales.
fn code_unit(unit: &mut Unit<'_>, spec: BlockSpec, atoms: &[f32], start: Start, sweeps: usize) -> Fit {
    let (n, count) = (unit.columns, spec.pieces(unit.columns));
    let coder = Coder::new(unit.metric, spec, atoms);
    let (forward, paths) = match start {
        Start::Paths(paths) => (Some(coder.forward()), paths),
        Start::Codes => (None, 0),
    };
    let mut codes = std::mem::take(&mut unit.codes);
    codes.resize(unit.rows * count, 0);
    let mut energy = std::mem::take(&mut unit.energy);
    let shared = &*unit;
    let rows = codes
        .par_chunks_mut(ROWS_TOGETHER * count)
        .zip(energy.par_chunks_mut(ROWS_TOGETHER))
        .enumerate()
        .map(|(chunk, (codes, energy))| {
            let (first, rows) = (chunk * ROWS_TOGETHER, codes.len() / count);
            let scales = &shared.scales[first..][..rows];
            if let Some(forward) = &forward {
                forward.code(&shared.weights[first * n..][..rows * n], scales, paths, (codes, energy));
            }
            let mut gradient = unit_gradient(shared, first, spec, atoms, codes);
            for _ in 0..sweeps {
                if coder.revise(&mut gradient, scales, codes) == 0 {
                    break;
                }
            }
            let error = shared.error(first, spec, atoms, codes);
            (0..rows)
                .map(|i| {
                    let row = i * n..(i + 1) * n;
                    let weights = &shared.weights[(first + i) * n..][..n];
                    row_fit(&error[row.clone()], &gradient[row], weights, energy[i], scales[i])
                })
                .collect::<Vec<RowFit>>()
        })
        .collect::<Vec<_>>()
        .concat();
    (unit.codes, unit.energy) = (codes, energy);
    Fit { rows }
}

/// `(W - Q) M` for the rows from `first` on.
fn unit_gradient(unit: &Unit<'_>, first: usize, spec: BlockSpec, atoms: &[f32], codes: &[u8]) -> Vec<f32> {
    unit.metric.times_damped(&unit.error(first, spec, atoms, codes))
}

fn row_fit(error: &[f32], gradient: &[f32], weights: &[f32], energy: f64, scale: f32) -> RowFit {
    let (damped, cross) = (dot(error, gradient), dot(weights, gradient));
    let scale = f64::from(scale);
    RowFit { damped, pull: (cross - damped) / scale, energy: (energy - 2.0 * cross + damped) / (scale * scale) }
}

/// Fits the atoms to the codes: conjugate gradient on the normal equations of the total damped distortion, from the
/// atoms that are there, preconditioned by the blocks of the single atoms.
fn refit(units: &[Unit<'_>], spec: BlockSpec, atoms: &mut [f32], steps: usize) {
    let preconditioner = Preconditioner::new(units, spec);
    let mut residual = gather(units, spec, |unit, first, codes| unit.error(first, spec, atoms, codes));
    let mut change = vec![0.0; atoms.len()];
    let mut direction = preconditioner.apply(&residual);
    let mut slope = dot64(&residual, &direction);
    for _ in 0..steps {
        let narrow: Vec<f32> = direction.iter().map(|&x| x as f32).collect();
        let image = gather(units, spec, |unit, first, codes| spread(unit, first, spec, &narrow, codes));
        let curvature = dot64(&direction, &image);
        let step = slope / curvature;
        if !(slope > 0.0 && curvature > 0.0 && step.is_finite()) {
            break;
        }
        change.iter_mut().zip(&direction).for_each(|(c, d)| *c += step * d);
        residual.iter_mut().zip(&image).for_each(|(r, i)| *r -= step * i);
        let better = preconditioner.apply(&residual);
        let next = dot64(&residual, &better);
        direction.iter_mut().zip(&better).for_each(|(d, b)| *d = b + next / slope * *d);
        slope = next;
    }
    atoms.iter_mut().zip(&change).for_each(|(a, c)| *a += *c as f32);
}

/// The matrix that the codes make of `atoms`, for the rows from `first` on.
fn spread(unit: &Unit<'_>, first: usize, spec: BlockSpec, atoms: &[f32], codes: &[u8]) -> Vec<f32> {
    let (n, count) = (unit.columns, spec.pieces(unit.columns));
    let mut out = vec![0.0; codes.len() / count * n];
    for ((row, codes), &scale) in out.chunks_exact_mut(n).zip(codes.chunks_exact(count)).zip(&unit.scales[first..]) {
        for (piece, &code) in row.chunks_mut(spec.width).zip(codes) {
            let atom = &atoms[usize::from(code) * spec.width..];
            piece.iter_mut().zip(atom).for_each(|(x, a)| *x = a * scale);
        }
    }
    out
}

/// Sums `r X M` over the pieces of each atom, `[K, d]`, with `X` the rows that `rows` makes of a chunk of codes.
fn gather<F>(units: &[Unit<'_>], spec: BlockSpec, rows: F) -> Vec<f64>
where
    F: Fn(&Unit<'_>, usize, &[u8]) -> Vec<f32> + Sync,
{
    let chunks: Vec<(&Unit<'_>, usize, &[u8])> = units
        .iter()
        .flat_map(|unit| {
            let chunks = unit.codes.chunks(ROWS_TOGETHER * spec.pieces(unit.columns));
            chunks.enumerate().map(move |(i, codes)| (unit, i * ROWS_TOGETHER, codes))
        })
        .collect();
    let sums: Vec<Vec<f64>> = chunks
        .into_par_iter()
        .map(|(unit, first, codes)| {
            let gradient = unit.metric.times_damped(&rows(unit, first, codes));
            let mut sum = vec![0.0; spec.codebook_bytes()];
            let rows = gradient.chunks_exact(unit.columns).zip(codes.chunks_exact(spec.pieces(unit.columns)));
            for ((row, codes), &scale) in rows.zip(&unit.scales[first..]) {
                for (piece, &code) in row.chunks(spec.width).zip(codes) {
                    let sum = &mut sum[usize::from(code) * spec.width..];
                    sum.iter_mut().zip(piece).for_each(|(s, g)| *s += f64::from(g * scale));
                }
            }
            sum.iter_mut().for_each(|s| *s *= unit.importance);
            sum
        })
        .collect();
    let mut total = vec![0.0; spec.codebook_bytes()];
    for sum in &sums {
        total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
    }
    total
}

fn dot64(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Inverts the part of the normal equations that lies within single atoms: `sum r^2 M_pp` over the pieces of each.
struct Preconditioner {
    width: usize,
    /// Lower Cholesky factors, `[K, d, d]`.
    factors: Vec<f64>,
}

impl Preconditioner {
    fn new(units: &[Unit<'_>], spec: BlockSpec) -> Self {
        let d = spec.width;
        let mut blocks = vec![0.0; ATOMS * d * d];
        for unit in units {
            let count = spec.pieces(unit.columns);
            // Weight of each atom at each piece.
            let mut uses = vec![0.0f64; count * ATOMS];
            for (codes, &scale) in unit.codes.chunks_exact(count).zip(&unit.scales) {
                for (uses, &code) in uses.chunks_exact_mut(ATOMS).zip(codes) {
                    uses[usize::from(code)] += f64::from(scale) * f64::from(scale);
                }
            }
            for ((start, size), uses) in pieces(unit.columns, d).zip(uses.chunks_exact(ATOMS)) {
                let mut damped = [0.0; MAX_WIDTH * MAX_WIDTH];
                for i in 0..size {
                    for j in 0..size {
                        damped[i * d + j] = f64::from(unit.metric.entry(start + i, start + j)) * unit.importance;
                    }
                }
                for (block, &weight) in blocks.chunks_exact_mut(d * d).zip(uses).filter(|(_, w)| **w > 0.0) {
                    block.iter_mut().zip(&damped).for_each(|(b, m)| *b += weight * m);
                }
            }
        }
        blocks.chunks_exact_mut(d * d).for_each(|block| cholesky(block, d));
        Preconditioner { width: d, factors: blocks }
    }

    /// 0 for atoms that nothing uses.
    fn apply(&self, residual: &[f64]) -> Vec<f64> {
        let d = self.width;
        let mut out = residual.to_vec();
        for (x, l) in out.chunks_exact_mut(d).zip(self.factors.chunks_exact(d * d)) {
            for i in 0..d {
                let known: f64 = (0..i).map(|k| l[i * d + k] * x[k]).sum();
                x[i] = (x[i] - known) * inverse_pivot(l[i * (d + 1)]);
            }
            for i in (0..d).rev() {
                let known: f64 = (i + 1..d).map(|k| l[k * d + i] * x[k]).sum();
                x[i] = (x[i] - known) * inverse_pivot(l[i * (d + 1)]);
            }
        }
        out
    }
}

fn inverse_pivot(pivot: f64) -> f64 {
    if pivot > 0.0 { pivot.recip() } else { 0.0 }
}

/// In place, lower triangle; a pivot that vanishes becomes 0, and so does what depends on it.
fn cholesky(a: &mut [f64], d: usize) {
    for j in 0..d {
        let diagonal = a[j * (d + 1)];
        let known: f64 = (0..j).map(|k| a[j * d + k].powi(2)).sum();
        let pivot = if diagonal - known > diagonal * 1e-9 { (diagonal - known).sqrt() } else { 0.0 };
        a[j * (d + 1)] = pivot;
        for i in j + 1..d {
            let known: f64 = (0..j).map(|k| a[i * d + k] * a[j * d + k]).sum();
            a[i * d + j] = (a[i * d + j] - known) * inverse_pivot(pivot);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn normal(rng: &mut ChaCha8Rng) -> f32 {
        (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
    }

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_fn((rows, columns), |_| normal(&mut rng))
    }

    /// A second moment with correlated components, of rank `rank`.
    fn moment(n: usize, rank: usize) -> Array2<f32> {
        let mut x = random(rank, n, 7);
        for mut row in x.outer_iter_mut() {
            for j in 1..n {
                row[j] += 0.8 * row[j - 1];
            }
        }
        x.t().dot(&x) / rank as f32
    }

    fn distortion(weights: &Array2<f32>, metric: &Metric, coded: &BlockCode) -> f64 {
        metric.distortion((weights - &coded.decode()).view())
    }

    fn decibels(weights: &Array2<f32>, metric: &Metric, coded: &BlockCode) -> f64 {
        10.0 * (metric.distortion(weights.view()) / (distortion(weights, metric, coded) + 1e-12)).log10()
    }

    #[test]
    fn more_bits_give_less_distortion() {
        let weights = random(96, 120, 1);
        let metric = Metric::new(moment(120, 500).view(), 0.01).unwrap();
        let matrix = WeightMatrix { weights: weights.view(), metric: &metric, importance: 1.0, grid: None };
        let at = |width| {
            let learned = learn(&[matrix], BlockSpec::new(width).unwrap(), &LearnOptions::default()).unwrap();
            decibels(&weights, &metric, &learned[0])
        };
        let rates = [1, 2, 3, 4, 6].map(at);
        assert!(rates.windows(2).all(|w| w[0] > w[1] + 1.0), "{rates:?}");
        assert!(rates[0] > 40.0 && rates[1] > 19.0, "{rates:?}");
    }

    #[test]
    fn feedback_and_revision_beat_rounding_alone() {
        let weights = random(64, 64, 2);
        let identity = Metric::new(Array2::<f32>::eye(64).view(), 0.01).unwrap();
        let metric = Metric::new(moment(64, 300).view(), 0.01).unwrap();
        let spec = BlockSpec::new(4).unwrap();
        let learned_with = |metric: &Metric, sweeps| {
            let options = LearnOptions { sweeps, ..LearnOptions::default() };
            learn(&[WeightMatrix { weights: weights.view(), metric, importance: 1.0, grid: None }], spec, &options)
                .unwrap()
        };
        let blind = learned_with(&identity, 0);
        let [blind, ahead, around] = [blind, learned_with(&metric, 0), learned_with(&metric, 3)]
            .map(|learned| distortion(&weights, &metric, &learned[0]));
        assert!(ahead < 0.8 * blind && around < ahead, "{blind} {ahead} {around}");
    }

    #[test]
    fn decoding_is_one_rounding_of_an_atom_and_a_scale() {
        let weights = random(33, 29, 3);
        let metric = Metric::new(moment(29, 100).view(), 0.01).unwrap();
        let matrix = WeightMatrix { weights: weights.view(), metric: &metric, importance: 1.0, grid: None };
        let learned = learn(&[matrix], BlockSpec::new(3).unwrap(), &LearnOptions::default()).unwrap();
        let coded = &learned[0];
        let atom = coded.codebook.atoms[usize::from(coded.codes[5 * 10 + 9]) * 3 + 1];
        let scale = f32::from(coded.scales.codes[5]) * coded.scales.step;
        assert_eq!(coded.decode()[(5, 28)], f32::from(atom) * scale);
        assert_eq!(coded.scales.codes.iter().max(), Some(&u8::MAX));
    }

    #[test]
    fn shared_codebooks_and_any_number_of_threads() {
        let (a, b) = (random(70, 40, 4), random(130, 56, 5) * 0.01);
        let metrics =
            [Metric::new(moment(40, 100).view(), 0.01).unwrap(), Metric::new(moment(56, 20).view(), 0.01).unwrap()];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let matrices = [
                WeightMatrix { weights: a.view(), metric: &metrics[0], importance: 1.0, grid: None },
                WeightMatrix { weights: b.view(), metric: &metrics[1], importance: 1e4, grid: None },
            ];
            pool.install(|| learn(&matrices, BlockSpec::new(4).unwrap(), &LearnOptions::default()).unwrap())
        };
        let (one, three) = (run(1), run(3));
        for (one, three) in one.iter().zip(&three) {
            assert_eq!((&one.codes, &one.scales, &one.codebook), (&three.codes, &three.scales, &three.codebook));
        }
    }

    #[test]
    fn odd_inputs_stay_finite() {
        let shapes = [(1, 1), (1, 7), (9, 1), (5, 6), (40, 13)];
        for ((rows, columns), seed) in shapes.into_iter().zip(0..) {
            let mut holey = random(rows, columns, seed);
            holey.column_mut(0).fill(0.0);
            holey.row_mut(rows - 1).fill(0.0);
            let mut mixed = random(rows, columns, seed);
            mixed.row_mut(0).mapv_inplace(|w| w * 1e-30);
            let matrices = [
                Array2::zeros((rows, columns)),
                Array2::from_elem((rows, columns), 0.37),
                random(rows, columns, seed) * 1e-30,
                random(rows, columns, seed) * 1e30,
                random(rows, columns, seed) * 1e-42,
                holey,
                mixed,
            ];
            let mut gap = moment(columns, 50);
            gap.column_mut(0).fill(0.0);
            gap.row_mut(0).fill(0.0);
            let indefinite = Array2::from_elem((columns, columns), -1.0f32) + Array2::<f32>::eye(columns) * 2.0;
            let moments = [
                Array2::zeros((columns, columns)),
                moment(columns, 1),
                moment(columns, 50) * 1e-30,
                moment(columns, 50) * 1e30,
                gap,
                indefinite,
            ];
            for (weights, moment) in matrices.iter().flat_map(|w| moments.iter().map(move |m| (w, m))) {
                let metric = Metric::new(moment.view(), 0.01).unwrap();
                let matrix = WeightMatrix { weights: weights.view(), metric: &metric, importance: 1.0, grid: None };
                for width in [1, 3, 4, 8] {
                    let options = LearnOptions { rounds: 2, ..LearnOptions::default() };
                    let learned = learn(&[matrix], BlockSpec::new(width).unwrap(), &options).unwrap();
                    let coded = &learned[0];
                    assert!(coded.decode().iter().all(|w| w.is_finite()));
                    assert!(distortion(weights, &metric, coded).is_finite());
                    assert_eq!(coded.codes.len(), rows * columns.div_ceil(width));
                }
            }
        }
    }

    #[test]
    fn few_distinct_pieces_are_coded_exactly() {
        let weights = Array2::from_shape_fn((20, 12), |(i, j)| [1.0, -1.0][(i / 3 + j / 4) % 2]);
        let metric = Metric::new(moment(12, 60).view(), 0.01).unwrap();
        let matrix = WeightMatrix { weights: weights.view(), metric: &metric, importance: 1.0, grid: None };
        let learned = learn(&[matrix], BlockSpec::new(4).unwrap(), &LearnOptions::default()).unwrap();
        assert!(decibels(&weights, &metric, &learned[0]) > 90.0);
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        assert!(BlockSpec::new(0).is_err() && BlockSpec::new(17).is_err());
        assert!(Metric::new(Array2::<f32>::zeros((2, 3)).view(), 0.01).is_err());
        assert!(Metric::new(Array2::<f32>::zeros((0, 0)).view(), 0.01).is_err());
        assert!(Metric::new(Array2::from_elem((2, 2), f64::NAN).view(), 0.01).is_err());
        assert!(Metric::new(Array2::<f64>::eye(2).view(), -1.0).is_err());
        let (spec, options) = (BlockSpec::new(2).unwrap(), LearnOptions::default());
        let metric = Metric::new(Array2::<f32>::eye(4).view(), 0.01).unwrap();
        let with = |weights: &Array2<f32>, importance| {
            learn(&[WeightMatrix { weights: weights.view(), metric: &metric, importance, grid: None }], spec, &options)
                .is_err()
        };
        assert!(with(&Array2::zeros((3, 5)), 1.0) && with(&Array2::zeros((0, 4)), 1.0));
        assert!(with(&Array2::from_elem((3, 4), f32::INFINITY), 1.0) && with(&Array2::zeros((3, 4)), 0.0));
        assert!(learn(&[], spec, &options).is_err());
    }
}
