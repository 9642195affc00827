//! `y -= sum_i c_i x_i`, compiled for the vectors of the CPU that it runs on.

use pulp::{Arch, Simd, WithSimd};

/// Takes multiples of the rows of `x` off the rows of `y`.
///
/// Row `r` of `y` are the `width` values from `r * stride` on; `c_ri` is `coefficients[r * coefficient_stride + i]`;
/// row `i` of `x` are the `width` values from `i * x_stride` on.
pub(super) struct Subtract<'a> {
    pub y: &'a mut [f32],
    pub stride: usize,
    pub width: usize,
    pub coefficients: &'a [f32],
    pub coefficient_stride: usize,
    pub x: &'a [f32],
    pub x_stride: usize,
    /// Rows of `x`.
    pub terms: usize,
}

impl Subtract<'_> {
    /// Does it.
    pub fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.y.chunks_mut(self.stride).zip(self.coefficients.chunks(self.coefficient_stride));
        for (y, coefficients) in rows {
            for (i, &c) in coefficients[..self.terms].iter().enumerate() {
                subtract(simd, &mut y[..self.width], c, &self.x[i * self.x_stride..][..self.width]);
            }
        }
    }
}

/// `y -= c x`.
#[inline(always)]
pub(super) fn subtract<S: Simd>(simd: S, y: &mut [f32], c: f32, x: &[f32]) {
    let (y, y_rest) = S::as_mut_simd_f32s(y);
    let (x, x_rest) = S::as_simd_f32s(x);
    let splat = simd.splat_f32s(-c);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = simd.mul_add_f32s(splat, x, *y);
    }
    for (y, &x) in y_rest.iter_mut().zip(x_rest) {
        *y -= c * x;
    }
}
