//! `Y += X A^T` for row-major matrices, on the calling thread.
//!
//! A general product first copies its operands into an order of its own. That pays where X has many rows; where it has
//! few, A is read once at the speed of memory instead, and every element of Y is a dot product of two rows as they lie.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

/// Rows of A whose dot products are computed side by side: with up to 3 rows of X, 12 sums, 3 operands and 1 to spare
/// fill the 16 registers of AVX2.
const TILE: usize = 4;

/// `y [m, rows] += x [m, cols] a [rows, cols]^T`, with `m` from `x`. Consecutive rows of `y` start `stride` apart, so
/// that `y` may be some columns of a wider matrix.
pub(super) fn add_product(y: &mut [f32], stride: usize, x: &[f32], a: &[f32], rows: usize, cols: usize) {
    let m = x.len().checked_div(cols).unwrap_or(0);
    if m == 0 || rows == 0 {
        return;
    }
    if m <= 3 {
        return Arch::new().dispatch(AddFew { y, stride, x, a: &a[..rows * cols], cols });
    }
    // The transpose of a column-major view: the row-major constructor with a stride mixes up its strides (faer 0.24.4).
    let y = MatMut::from_column_major_slice_with_stride_mut(y, rows, m, stride).transpose_mut();
    let (x, a) = (MatRef::from_row_major_slice(x, m, cols), MatRef::from_row_major_slice(a, rows, cols));
    matmul(y, Accum::Add, x, a.transpose(), 1., Par::Seq);
}

/// The product for up to three rows of X.
struct AddFew<'a> {
    y: &'a mut [f32],
    stride: usize,
    x: &'a [f32],
    a: &'a [f32],
    cols: usize,
}

impl WithSimd for AddFew<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.x.len() / self.cols {
            1 => self.add::<S, 1>(simd),
            2 => self.add::<S, 2>(simd),
            _ => self.add::<S, 3>(simd),
        }
    }
}

impl AddFew<'_> {
    #[inline(always)]
    fn add<S: Simd, const M: usize>(self, simd: S) {
        let AddFew { y, stride, x, a, cols } = self;
        let tiles = a.chunks_exact(TILE * cols);
        let rest = tiles.remainder().chunks_exact(cols);
        let mut column = 0;
        for a in tiles {
            for (y, sums) in y[column..].chunks_mut(stride).zip(dots::<S, TILE, M>(simd, x, a, cols)) {
                y[..TILE].iter_mut().zip(sums).for_each(|(y, s)| *y += s);
            }
            column += TILE;
        }
        for a in rest {
            for (y, [sum]) in y[column..].chunks_mut(stride).zip(dots::<S, 1, M>(simd, x, a, cols)) {
                y[0] += sum;
            }
            column += 1;
        }
    }
}

/// The dot products of `M` rows of X with `N` rows of A, side by side so that no addition waits for another.
#[inline(always)]
fn dots<S: Simd, const N: usize, const M: usize>(simd: S, x: &[f32], a: &[f32], cols: usize) -> [[f32; N]; M] {
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
        for m in [1, 2, 3, 4, 17] {
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
