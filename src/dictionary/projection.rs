//! The projection dictionary: matrices that multiply the same vector as sparse codes of shared atoms, `M ~ Z D`.
//!
//! Rows of `M [N, n]` multiply `x` with second moment `S = L L^T`. The atoms that explain most are the leading right
//! singular vectors of `M L`: with `C = L^T M^T M L = V E V^T` the basis `D = V^T L^-1` is orthonormal in the metric,
//! `D S D^T = I`, and the codes of a row are `Z = M S D^T`. Each matrix counts in `C` by its importance.
//!
//! Atoms and codes are themselves coded by block dictionaries, in the metric that each meets: the atoms in `S`, the codes
//! in `G = D S D^T` of the atoms as they are stored. Bands of atoms ([`super::bands`]) are coded one after the other, each
//! compensating the error so far: its codes are those in `Z = E S D^T G^-1` for the remainder `E` and the atoms `D` of
//! this and the later bands. Errors of atoms within the span of all atoms are coded as a part of the remainder.

use std::ops::Range;
use std::sync::Arc;

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Mat, Side};
use ndarray::{Array2, ArrayViewMut2, Axis, Slice, concatenate};
use rayon::prelude::*;

use super::bands::{Bands, Demand};
use super::{BlockCode, BlockSpec, LearnOptions, Metric, WeightMatrix};
use crate::error::{Error, ErrorKind, Result};

/// The atoms of a dictionary `[k, n]`, as stored.
#[derive(Clone, Debug)]
pub struct Atoms {
    /// n.
    pub columns: usize,
    /// Bands of atoms, each `[k_b, n]`.
    pub bands: Vec<BlockCode>,
}

/// Some columns of a matrix as codes of a dictionary.
#[derive(Clone, Debug)]
pub struct Part {
    /// The first column.
    pub start: usize,
    /// The dictionary.
    pub atoms: Arc<Atoms>,
    /// Codes `[rows, k_b]` of the first bands of the dictionary.
    pub codes: Vec<BlockCode>,
}

/// A matrix as codes of projection dictionaries: the columns of its parts follow one another.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Its parts.
    pub parts: Vec<Part>,
}

impl Projected {
    /// The decoded matrix `[rows, columns]`.
    pub fn decode(&self) -> Array2<f32> {
        let mut out = Array2::zeros((self.rows, self.columns));
        for part in &self.parts {
            let mut columns = out.slice_axis_mut(Axis(1), Slice::from(part.start..part.start + part.atoms.columns));
            for (codes, atoms) in part.codes.iter().zip(&part.atoms.bands) {
                columns += &codes.decode().dot(&atoms.decode());
            }
        }
        out
    }
}

/// A matrix, or some columns of one, to be coded with a shared dictionary.
pub struct Item<'a> {
    /// The remainder of the whole matrix, `[rows, N]`: the part that is coded is subtracted.
    pub left: ArrayViewMut2<'a, f32>,
    /// The metric of errors in the whole matrix.
    pub metric: &'a Metric,
    /// The first of the columns.
    pub start: usize,
    /// Columns that will be coded later, with other dictionaries.
    pub to_come: Vec<Range<usize>>,
    /// Weight of its distortion in the sum over the matrices that share the dictionary; positive.
    pub importance: f64,
}

impl Item<'_> {
    fn matrix(&self) -> WeightMatrix<'_> {
        WeightMatrix { weights: self.left.view(), metric: self.metric, importance: self.importance, grid: None }
    }
}

/// The atoms that explain most of some matrices, before any are chosen.
pub struct Basis {
    /// `[n, n]`, the first row the one that explains most.
    atoms: Array2<f64>,
    /// The mean of the matrices' metrics.
    metric: Metric,
    /// The energy of each matrix along the atoms.
    pub demands: Vec<Demand>,
}

impl Basis {
    /// Finds the atoms for matrices `(weights, metric, importance)`; `columns` are those of the vector that they share,
    /// by the first of them in each.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for weights or moments that are not finite.
    pub fn mine(matrices: &[WeightMatrix<'_>], starts: &[usize], columns: usize) -> Result<Basis> {
        let mean = mean_moment(matrices, starts, columns);
        let metric = Metric::new(mean.view(), 0.0)?;
        let lower = Mat::from_fn(columns, columns, |i, j| mean[(i, j)]);
        let lower = lower.as_ref().llt(Side::Lower).map_err(|_| usage("a second moment that is not definite"))?;
        let lower = lower.L().to_owned();
        let most = matrices.iter().fold(0.0f64, |m, matrix| m.max(matrix.importance));
        let rotated: Vec<Mat<f64>> = matrices
            .par_iter()
            .zip(starts)
            .map(|(matrix, &start)| {
                let rows = matrix.weights.nrows();
                Mat::from_fn(rows, columns, |i, j| f64::from(matrix.weights[(i, start + j)])) * &lower
            })
            .collect();
        let mut energy = Mat::<f64>::zeros(columns, columns);
        for (matrix, rotated) in matrices.iter().zip(&rotated) {
            energy += (rotated.transpose() * rotated) * faer::Scale(matrix.importance / most);
        }
        let vectors = leading(&energy)?;
        let demands = matrices.iter().zip(&rotated).map(|(matrix, rotated)| {
            let codes = rotated * &vectors;
            let energies = (0..columns).map(|j| (0..codes.nrows()).map(|i| codes[(i, j)].powi(2)).sum()).collect();
            Demand { rows: codes.nrows(), importance: matrix.importance, energies }
        });
        let demands = demands.collect();
        // L^T D^T = V.
        let mut atoms = vectors;
        solve_upper_triangular_in_place(lower.as_ref().transpose(), atoms.as_mut(), faer::Par::Seq);
        let atoms = Array2::from_shape_fn((columns, columns), |(i, j)| atoms[(j, i)]);
        Ok(Basis { atoms, metric, demands })
    }
}

/// The eigenvectors of a symmetric matrix, in columns, those of the largest eigenvalues first.
fn leading(energy: &Mat<f64>) -> Result<Mat<f64>> {
    let n = energy.nrows();
    let found =
        energy.self_adjoint_eigen(Side::Lower).map_err(|_| usage("atoms cannot be found: weights too large"))?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    Ok(Mat::from_fn(n, n, |i, j| vectors[(i, order[j])]))
}

/// The mean of the damped moments of the vectors that matrices share, `[n, n]`; the identity if they are always 0.
fn mean_moment(matrices: &[WeightMatrix<'_>], starts: &[usize], columns: usize) -> Array2<f64> {
    let mut mean = Array2::zeros((columns, columns));
    for (matrix, &start) in matrices.iter().zip(starts) {
        let scale = matrix.metric.scale() / matrices.len() as f64;
        mean.indexed_iter_mut().for_each(|((i, j), m)| {
            *m += scale * f64::from(matrix.metric.entry(start + i, start + j));
        });
    }
    if mean.diag().iter().all(|&m| m == 0.0) { Array2::eye(columns) } else { mean }
}

/// Learns a dictionary with these bands for `items`, and their codes; `bands[i]` are the bands and code widths of item
/// `i`. The coded part is subtracted from the items.
///
/// # Errors
/// As [`super::learn`].
pub fn learn(mut items: Vec<Item<'_>>, bands: &[Bands], columns: usize, options: &LearnOptions) -> Result<Vec<Part>> {
    let starts: Vec<usize> = items.iter().map(|item| item.start).collect();
    let matrices: Vec<_> = items.iter().map(Item::matrix).collect();
    let basis = Basis::mine(&matrices, &starts, columns)?;
    let mut first = 0;
    let stored = bands[0].iter().map(|band| {
        let range = first..first + usize::from(band.atoms);
        first = range.end;
        let atoms = basis.atoms.slice_axis(Axis(0), Slice::from(range)).mapv(|a| a as f32);
        let matrix = WeightMatrix { weights: atoms.view(), metric: &basis.metric, importance: 1.0, grid: None };
        Ok(super::learn(&[matrix], band.atoms_spec(), options)?.remove(0))
    });
    let stored: Vec<BlockCode> = stored.collect::<Result<_>>()?;
    let dense: Vec<Array2<f32>> = stored.iter().map(BlockCode::decode).collect();
    let mut codes: Vec<Vec<BlockCode>> = vec![Vec::new(); items.len()];
    for index in 0..stored.len() {
        for (user, coded) in code_band(&items, bands, index, &dense, options)? {
            let made = coded.decode().dot(&dense[index]);
            let mut left = items[user].left.slice_axis_mut(Axis(1), Slice::from(starts[user]..starts[user] + columns));
            left -= &made;
            codes[user].push(coded);
        }
    }
    let atoms = Arc::new(Atoms { columns, bands: stored });
    Ok(starts.into_iter().zip(codes).map(|(start, codes)| Part { start, atoms: atoms.clone(), codes }).collect())
}

/// The codes of band `index` for each item that uses it.
fn code_band(
    items: &[Item<'_>],
    bands: &[Bands],
    index: usize,
    atoms: &[Array2<f32>],
    options: &LearnOptions,
) -> Result<Vec<(usize, BlockCode)>> {
    let users: Vec<usize> = (0..items.len()).filter(|&i| bands[i].used().count() > index).collect();
    let key =
        |user: usize| (std::ptr::from_ref(items[user].metric).addr(), items[user].start, bands[user].used().count());
    // Items with the same metric see the atoms in the same way.
    let mut keys: Vec<_> = users.iter().map(|&user| (key(user), user)).collect();
    keys.sort_unstable();
    keys.dedup_by_key(|(key, _)| *key);
    let seen: Vec<Seen> = keys
        .par_iter()
        .map(|&((.., used), user)| Seen::new(&items[user], &atoms[index], &atoms[index + 1..used]))
        .collect::<Result<_>>()?;
    let of = |user: usize| &seen[keys.binary_search_by_key(&key(user), |(key, _)| *key).expect("made for all users")];
    let targets: Vec<Array2<f32>> = users.par_iter().map(|&user| of(user).target(&items[user])).collect();
    let mut by_width: Vec<(usize, Vec<usize>)> = Vec::new();
    for (place, &user) in users.iter().enumerate() {
        let width = bands[user].used().nth(index).map_or(0, |band| usize::from(band.codes));
        match by_width.iter_mut().find(|(other, _)| *other == width) {
            Some((_, places)) => places.push(place),
            None => by_width.push((width, vec![place])),
        }
    }
    let metrics: Vec<&Metric> = users.iter().map(|&user| &of(user).metric).collect();
    let learned: Vec<_> = by_width
        .par_iter()
        .map(|(width, places)| {
            let matrices: Vec<WeightMatrix<'_>> = places
                .iter()
                .map(|&place| {
                    let item = &items[users[place]];
                    let importance = (item.importance * item.metric.scale()).max(f64::MIN_POSITIVE);
                    WeightMatrix { weights: targets[place].view(), metric: metrics[place], importance, grid: None }
                })
                .collect();
            super::learn(&matrices, BlockSpec { width: *width }, options)
        })
        .collect::<Result<_>>()?;
    let mut found = Vec::new();
    for ((_, places), learned) in by_width.iter().zip(learned) {
        found.extend(places.iter().map(|&place| users[place]).zip(learned));
    }
    Ok(found)
}

/// The atoms of a band and of the later ones `[k, n]`, for matrices with one metric: `G = D M D^T = L L^T`, the band
/// last. Codes of later bands compensate the error of this band's codes in their directions, and so do later columns, each of
/// which is an atom here. The error that remains has as its metric the last block of `L L^T` (the Schur complement).
struct Seen {
    /// `D`, on the columns below.
    atoms: Array2<f32>,
    /// Columns of the whole matrix.
    columns: Vec<usize>,
    /// `L`.
    lower: Mat<f64>,
    /// The metric of errors in the codes of the band.
    metric: Metric,
}

impl Seen {
    fn new(item: &Item<'_>, band: &Array2<f32>, to_come: &[Array2<f32>]) -> Result<Seen> {
        let bands: Vec<_> = to_come.iter().chain([band]).map(|atoms| atoms.view()).collect();
        let bands = concatenate(Axis(0), &bands).expect("atoms of one dictionary are as wide");
        let columns: Vec<usize> =
            item.to_come.iter().cloned().flatten().chain(item.start..item.start + band.ncols()).collect();
        let free = columns.len() - band.ncols();
        let size = free + bands.nrows();
        let atoms =
            Array2::from_shape_fn((size, columns.len()), |(i, j)| match (i.checked_sub(free), j.checked_sub(free)) {
                (Some(i), Some(j)) => bands[(i, j)],
                (None, None) if i == j => 1.0,
                _ => 0.0,
            });
        let moment =
            Mat::from_fn(columns.len(), columns.len(), |i, j| f64::from(item.metric.entry(columns[i], columns[j])));
        let wide = Mat::from_fn(size, columns.len(), |i, j| f64::from(atoms[(i, j)]));
        let gram = (&wide * moment) * wide.transpose();
        // Atoms that rounding made alike, or nothing: a ridge keeps the codes finite.
        let unit = |range: Range<usize>| {
            let (count, sum) = (range.len().max(1) as f64, range.map(|i| gram[(i, i)]).sum::<f64>());
            1e-6 * sum.max(f64::MIN_POSITIVE) / count
        };
        let ridges = [unit(0..free), unit(free..size)];
        let ridge = |i: usize| ridges[usize::from(i >= free)];
        let lower = Mat::from_fn(size, size, |i, j| gram[(i, j)] + if i == j { ridge(i) } else { 0.0 });
        let lower = lower.as_ref().llt(Side::Lower).map_err(|_| usage("atoms that are all alike"))?.L().to_owned();
        let first = size - band.nrows();
        let own = lower.as_ref().submatrix(first, first, band.nrows(), band.nrows());
        let own = own * own.transpose();
        let metric = Array2::from_shape_fn((band.nrows(), band.nrows()), |(i, j)| own[(i, j)]);
        Ok(Seen { metric: Metric::new(metric.view(), 0.0)?, atoms, columns, lower })
    }

    /// The codes of the band `[rows, k_b]` in `Z = E M D^T G^-1`, for what is left `E`.
    fn target(&self, item: &Item<'_>) -> Array2<f32> {
        let size = self.atoms.nrows();
        let (rows, all) = item.left.dim();
        let left: Vec<f32> = item.left.iter().copied().collect();
        let seen =
            Array2::from_shape_vec((rows, all), item.metric.times_damped(&left)).expect("the shape of what is left");
        let right = seen.select(Axis(1), &self.columns).dot(&self.atoms.t());
        // L L^T Z^T = right^T, of which only the last rows of Z^T are needed.
        let mut codes = Mat::from_fn(size, rows, |i, j| f64::from(right[(j, i)]));
        solve_lower_triangular_in_place(self.lower.as_ref(), codes.as_mut(), faer::Par::Seq);
        let (band, first) = (self.metric.size(), size - self.metric.size());
        let own = self.lower.as_ref().submatrix(first, first, band, band);
        let mut codes = codes.as_mut().submatrix_mut(first, 0, band, rows);
        solve_upper_triangular_in_place(own.transpose(), codes.as_mut(), faer::Par::Seq);
        Array2::from_shape_fn((rows, band), |(i, j)| codes[(j, i)] as f32)
    }
}

fn usage(message: &str) -> Error {
    Error::new(ErrorKind::Usage, message)
}
