//! Dictionaries and codes of plain matrices: numerics only, independent of ONNX.
//!
//! A matrix `W [rows, n]` multiplies vectors `x` whose second moment is `S = E[x x^T]`. Replacing `W` by `Q` has the
//! **distortion** `tr((W-Q) S (W-Q)^T)`, the expected squared error of the product. This module minimises it for a given
//! number of bytes.
//!
//! The **block dictionary** ([`learn`], [`code`]) cuts each row into pieces of `d` weights and stores for each piece
//! the index of one of `K` atoms: vector quantisation with a codebook `[K, d]`, or in the words of sparse coding a
//! one-hot code of length K. A decoded weight is `scale[row] * atom`, with `i8` atoms.
//!
//! Results depend on the input, the options and the kind of CPU, never on the number of threads.

mod bands;
mod block;
mod cluster;
mod factor;
mod feedback;
mod metric;
mod nearest;
mod projection;
mod vector;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, ErrorKind, Result};

pub use bands::{Band, Bands, Demand, Division, MAX_BANDS, divide, predicted_distortion};
pub use block::{code, learn};
pub use metric::{Metric, damping};
pub use projection::{Atoms, Basis, Item, Part, Projected, learn as learn_projection};

/// The widest piece, half a bit a weight. All models that were tested lose too much below one bit (8 weights a byte).
pub const MAX_WIDTH: usize = 16;

/// The shape of a codebook; the rate is `log2(atoms) / width` bits a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSpec {
    /// Weights in a piece, `d`: 1 to [`MAX_WIDTH`].
    pub width: usize,
    /// Atoms, `K`: 256 (an index is a byte) or 16 (two indices a byte).
    pub atoms: usize,
}

impl BlockSpec {
    /// Checks width and number of atoms.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for values that the codec does not support.
    pub fn new(width: usize, atoms: usize) -> Result<Self> {
        let spec = BlockSpec { width, atoms };
        spec.check()?;
        Ok(spec)
    }

    pub(crate) fn check(self) -> Result<()> {
        if !(1..=MAX_WIDTH).contains(&self.width) || !matches!(self.atoms, 16 | 256) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "a codebook of {} atoms of width {}: atoms are 16 or 256, the width is 1 to {MAX_WIDTH}",
                    self.atoms, self.width
                ),
            ));
        }
        Ok(())
    }

    /// Bits a weight of the codes, without scales and codebook.
    pub fn bits_per_weight(self) -> f64 {
        f64::from(self.atoms.ilog2()) / self.width as f64
    }

    /// Pieces in a row of `columns` weights; the last one may be short.
    pub fn pieces(self, columns: usize) -> usize {
        columns.div_ceil(self.width)
    }

    /// Stored bytes of one row of codes: a byte a piece, or two pieces a byte for 16 atoms, rounded up.
    pub fn row_bytes(self, columns: usize) -> usize {
        let pieces = self.pieces(columns);
        if self.atoms == 16 { pieces.div_ceil(2) } else { pieces }
    }

    /// Stored bytes of the codebook.
    pub fn codebook_bytes(self) -> usize {
        self.atoms * self.width
    }
}

/// The atoms that the codes point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codebook {
    /// Its shape.
    pub spec: BlockSpec,
    /// The atoms `[K, d]`, row-major.
    pub atoms: Vec<i8>,
}

/// How a row scale is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleFormat {
    /// One `f32` a row.
    #[default]
    Float,
    /// One byte a row, times one `f32` step for all matrices learned together.
    Byte,
}

/// Row scales stored as bytes: `scale = (code as f32) * step`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleCodes {
    /// `[rows]`.
    pub codes: Vec<u8>,
    /// The scale of code 1; shared by the matrices of one [`learn`].
    pub step: f32,
}

/// A matrix as codes.
///
/// The decoded weight is `(atom as f32) * scale`, and a byte scale is `(code as f32) * step`: one rounding each, so
/// that `Mul(Gather(Cast(atoms), codes), Mul(Cast(scale_codes), step))` gives it bit for bit.
#[derive(Clone, Debug)]
pub struct Coded {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Index of the atom of each piece, one a byte whatever `K` is: `[rows, ceil(columns/d)]`, row-major.
    pub codes: Vec<u8>,
    /// Scale of each row, `[rows]`; holds the integer step of the atoms too.
    pub scales: Vec<f32>,
    /// The same scales as bytes, for [`ScaleFormat::Byte`].
    pub scale_codes: Option<ScaleCodes>,
    /// The atoms; shared between the matrices that were learned together.
    pub codebook: Arc<Codebook>,
}

impl Coded {
    /// The decoded matrix `[rows, columns]`.
    pub fn decode(&self) -> Array2<f32> {
        let Codebook { spec, atoms } = &*self.codebook;
        let mut out = Array2::zeros((self.rows, self.columns));
        let rows = self.codes.chunks_exact(spec.pieces(self.columns));
        for ((mut row, codes), &scale) in out.outer_iter_mut().zip(rows).zip(&self.scales) {
            let levels = codes.iter().flat_map(|&c| &atoms[usize::from(c) * spec.width..][..spec.width]);
            row.iter_mut().zip(levels).for_each(|(w, &level)| *w = f32::from(level) * scale);
        }
        out
    }

    /// The codes as stored: bytes, or for 16 atoms two a byte, the first in the high nibble, each row padded to a
    /// whole byte. Its length is `rows * row_bytes(columns)`.
    pub fn packed_codes(&self) -> Vec<u8> {
        if self.codebook.spec.atoms > 16 {
            return self.codes.clone();
        }
        self.codes
            .chunks_exact(self.codebook.spec.pieces(self.columns))
            .flat_map(|row| row.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)))
            .collect()
    }
}

/// A matrix to be coded.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The weights `[rows, n]`.
    pub weights: ArrayView2<'a, f32>,
    /// The metric of errors in them.
    pub metric: &'a Metric,
    /// Weight of this matrix's distortion in the sum over the matrices that share its codebook; positive.
    pub importance: f64,
}

/// Effort and format of [`learn`] and [`code`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Seeds the choice of samples and of the first atoms.
    pub seed: u64,
    /// Rounds of finding codes and fitting atoms in turn.
    pub rounds: usize,
    /// Iterations of k-means for the first atoms.
    pub kmeans_iterations: usize,
    /// Steps of conjugate gradient when the atoms are fitted to the codes.
    pub refit_steps: usize,
    /// Partial rows that are kept while a row of a narrow matrix is coded; wide matrices keep fewer.
    pub paths: usize,
    /// Sweeps in which each code is chosen again with all others fixed.
    pub sweeps: usize,
    /// How row scales are stored.
    pub scale_format: ScaleFormat,
    /// The largest level of an atom, 1 to 127.
    pub peak: i8,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 0,
            rounds: 3,
            kmeans_iterations: 12,
            refit_steps: 6,
            paths: 8,
            sweeps: 3,
            scale_format: ScaleFormat::Float,
            peak: i8::MAX,
        }
    }
}

/// The result of [`learn`].
#[derive(Clone, Debug)]
pub struct Learned {
    /// One for each matrix, in order; all with the same codebook.
    pub coded: Vec<Coded>,
    /// `tr((W-Q) S (W-Q)^T)` of each matrix, with the undamped `S` of its metric and without its importance.
    pub distortion: Vec<f64>,
}

/// `(start, size)` of each piece of a row of `n` weights.
fn pieces(n: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(width).map(move |start| (start, width.min(n - start)))
}
