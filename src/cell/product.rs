//! `Y += X A^T` for row-major matrices, on the calling thread.
//!
//! Every element is a dot product of two rows, so nothing has to be copied into another order first, which is what a
//! general matrix product spends its time on when X has few rows and A is used once. Rows of A are read once for
//! each [`BLOCK`] rows of X; a tile of [`ROWS`] by [`COLUMNS`] sums stays in registers.

use pulp::{Arch, Simd, WithSimd};

/// Rows of X that are multiplied by a tile of A before the next tile is read: few enough to stay in the nearest caches.
const BLOCK: usize = 48;

/// Rows of A in a tile.
const ROWS: usize = 4;

/// Rows of X in a tile: with `ROWS` of A, 12 sums, 3 operands and 1 to spare fill the 16 registers of AVX2.
const COLUMNS: usize = 3;

/// `y [m, rows] += x [m, cols] a [rows, cols]^T`, with `m` from `x`. Consecutive rows of `y` start `stride` apart, so
/// that `y` may be some columns of a wider matrix.
pub(super) fn add_product(y: &mut [f32], stride: usize, x: &[f32], a: &[f32], rows: usize, cols: usize) {
    if cols > 0 && rows > 0 && !x.is_empty() {
        Arch::new().dispatch(AddProduct { y, stride, x, a: &a[..rows * cols], cols });
    }
}

struct AddProduct<'a> {
    y: &'a mut [f32],
    stride: usize,
    x: &'a [f32],
    a: &'a [f32],
    cols: usize,
}

impl WithSimd for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AddProduct { y, stride, x, a, cols } = self;
        for (y, x) in y.chunks_mut(BLOCK * stride).zip(x.chunks(BLOCK * cols)) {
            let tiles = a.chunks_exact(ROWS * cols);
            let left = a.len() / cols / ROWS * ROWS;
            for (i, a) in tiles.clone().enumerate() {
                strip::<S, ROWS>(simd, &mut y[i * ROWS..], stride, x, a, cols);
            }
            for (i, a) in tiles.remainder().chunks_exact(cols).enumerate() {
                strip::<S, 1>(simd, &mut y[left + i..], stride, x, a, cols);
            }
        }
    }
}

/// `N` rows of A by all rows of X.
#[inline(always)]
fn strip<S: Simd, const N: usize>(simd: S, y: &mut [f32], stride: usize, x: &[f32], a: &[f32], cols: usize) {
    let mut y = y.chunks_mut(stride);
    let tiles = x.chunks_exact(COLUMNS * cols);
    let left = tiles.remainder();
    for x in tiles {
        for sums in tile::<S, N, COLUMNS>(simd, x, a, cols) {
            add(y.next(), sums);
        }
    }
    for x in left.chunks_exact(cols) {
        add(y.next(), tile::<S, N, 1>(simd, x, a, cols)[0]);
    }
}

#[inline(always)]
fn add<const N: usize>(y: Option<&mut [f32]>, sums: [f32; N]) {
    let y = y.expect("y has a row for each row of x");
    y[..N].iter_mut().zip(sums).for_each(|(y, s)| *y += s);
}

/// The dot products of `M` rows of X with `N` rows of A.
#[inline(always)]
fn tile<S: Simd, const N: usize, const M: usize>(simd: S, x: &[f32], a: &[f32], cols: usize) -> [[f32; N]; M] {
    let x: [(&[S::f32s], &[f32]); M] = std::array::from_fn(|i| S::as_simd_f32s(&x[i * cols..][..cols]));
    let a: [(&[S::f32s], &[f32]); N] = std::array::from_fn(|j| S::as_simd_f32s(&a[j * cols..][..cols]));
    // Cut to one length that the compiler sees, so that it checks no index in the loop.
    let vectors = x[0].0.len();
    let (xs, rows) = (x.map(|x| &x.0[..vectors]), a.map(|a| &a.0[..vectors]));
    let mut sums = [[simd.splat_f32s(0.); N]; M];
    for k in 0..vectors {
        let x: [S::f32s; M] = std::array::from_fn(|i| xs[i][k]);
        for j in 0..N {
            let a = rows[j][k];
            for i in 0..M {
                sums[i][j] = simd.mul_add_e_f32s(x[i], a, sums[i][j]);
            }
        }
    }
    std::array::from_fn(|i| {
        std::array::from_fn(|j| {
            let tail: f32 = x[i].1.iter().zip(a[j].1).map(|(x, a)| x * a).sum();
            simd.reduce_sum_f32s(sums[i][j]) + tail
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_agrees_with_the_plain_sum() {
        for m in [1, 2, 3, 17, 2 * BLOCK + 5] {
            for (rows, cols, stride) in [(1, 1, 1), (7, 5, 9), (8, 33, 8), (40, 16, 60), (12, 0, 12)] {
                let value = |i: usize| ((i * 37 % 101) as f32 - 50.) / 50.;
                let x: Vec<f32> = (0..m * cols).map(value).collect();
                let a: Vec<f32> = (0..rows * cols).map(|i| value(i + 3)).collect();
                let mut y: Vec<f32> = (0..(m - 1) * stride + rows).map(|i| value(i + 5)).collect();
                let mut truth: Vec<f64> = y.iter().map(|&v| f64::from(v)).collect();
                for (b, r) in (0..m).flat_map(|b| (0..rows).map(move |r| (b, r))) {
                    let terms = (0..cols).map(|k| f64::from(x[b * cols + k]) * f64::from(a[r * cols + k]));
                    truth[b * stride + r] += terms.sum::<f64>();
                }
                add_product(&mut y, stride, &x, &a, rows, cols);
                for (y, t) in y.iter().zip(truth) {
                    assert!((f64::from(*y) - t).abs() < 1e-5, "{m} {rows} {cols}");
                }
            }
        }
    }
}
