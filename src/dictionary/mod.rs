//! Dictionaries and codes of plain matrices: numerics only, independent of ONNX.
//!
//! A matrix `W [rows, n]` multiplies vectors `x` whose second moment is `S = E[x x^T]`. Replacing `W` by `Q` has the
//! **distortion** `tr((W-Q) S (W-Q)^T)`, the expected squared error of the product. This module minimises it for a given
//! number of bytes.
//!
//! The **block dictionary** ([`learn`]) cuts each row into pieces of `d` weights and stores for each piece
//! the index of one of `K` atoms: vector quantisation with a codebook `[K, d]`, or in the words of sparse coding a
//! one-hot code of length K. A decoded weight is `scale[row] * atom`, with `i8` atoms and one byte for each scale.
//!
//! Results depend on the input, the options and the kind of CPU, never on the number of threads.

mod bands;
mod block;
mod cluster;
mod factor;
mod feedback;
mod grid;
mod metric;
mod nearest;
mod projection;
mod vector;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, ErrorKind, Result};

pub use bands::{Band, Bands, Demand, Division, MAX_BANDS, divide, predicted_distortion};
pub use block::learn;
pub use grid::Grid;
pub use metric::{Metric, damping};
pub use projection::{Atoms, Basis, Item, Part, Projected, learn as learn_projection};

/// The widest piece, half a bit a weight. All models that were tested lose too much below one bit (8 weights a byte).
pub const MAX_WIDTH: usize = 16;

/// Atoms of a codebook, `K`: an index is a byte.
pub const ATOMS: usize = 256;

/// The shape of a codebook; the rate is `8 / width` bits a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSpec {
    /// Weights in a piece, `d`: 1 to [`MAX_WIDTH`].
    pub width: usize,
}

impl BlockSpec {
    /// A spec that the codec has; [`ErrorKind::Usage`] otherwise.
    pub fn new(width: usize) -> Result<Self> {
        let spec = BlockSpec { width };
        spec.check()?;
        Ok(spec)
    }

    pub(crate) fn check(self) -> Result<()> {
        if !(1..=MAX_WIDTH).contains(&self.width) {
            let message = format!("a codebook of width {}: the width is 1 to {MAX_WIDTH}", self.width);
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(())
    }

    /// Bits a weight of the codes, without scales and codebook.
    pub fn bits_per_weight(self) -> f64 {
        f64::from(u8::BITS) / self.width as f64
    }

    /// Pieces in a row of `columns` weights, each stored as one byte; the last piece may be short.
    pub fn pieces(self, columns: usize) -> usize {
        columns.div_ceil(self.width)
    }

    /// Whether pieces make whole rows of `columns` weights, with nothing left over.
    pub fn fits(self, columns: usize) -> bool {
        columns.is_multiple_of(self.width)
    }

    /// Stored bytes of the codebook.
    pub fn codebook_bytes(self) -> usize {
        ATOMS * self.width
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

/// Row scales, a byte each: `scale = (code as f32) * step`. The feedback absorbs their rounding.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// `[rows]`.
    pub codes: Vec<u8>,
    /// The scale of code 1; shared by the matrices of one [`learn`].
    pub step: f32,
}

impl Scales {
    /// The scales `[rows]`; they hold the integer step of the atoms too.
    pub fn decode(&self) -> Vec<f32> {
        self.codes.iter().map(|&code| f32::from(code) * self.step).collect()
    }
}

/// A matrix as codes.
///
/// The decoded weight is `(atom as f32) * scale`, and a scale is `(code as f32) * step`: one rounding each, so that
/// `Mul(Gather(Cast(atoms), codes), Mul(Cast(scale_codes), step))` rebuilds it bit for bit. The atoms of a matrix of
/// integers are levels of its [`Grid`], and nothing else is stored.
#[derive(Clone, Debug)]
pub struct BlockCode {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Index of the atom of each piece: `[rows, ceil(columns/d)]`, row-major.
    pub codes: Vec<u8>,
    /// Scale of each row; none for a matrix of integers.
    pub scales: Scales,
    /// The integers that a matrix of such is made of.
    pub grid: Option<Arc<Grid>>,
    /// The atoms; shared between the matrices that were learned together.
    pub codebook: Arc<Codebook>,
}

impl BlockCode {
    /// The decoded matrix `[rows, columns]`.
    pub fn decode(&self) -> Array2<f32> {
        let Codebook { spec, atoms } = &*self.codebook;
        let mut out = Array2::zeros((self.rows, self.columns));
        let rows = self.codes.chunks_exact(spec.pieces(self.columns));
        let scales = if self.grid.is_some() { Vec::new() } else { self.scales.decode() };
        for (r, (mut row, codes)) in out.outer_iter_mut().zip(rows).enumerate() {
            let levels = codes.iter().flat_map(|&c| &atoms[usize::from(c) * spec.width..][..spec.width]);
            match &self.grid {
                Some(grid) => row.iter_mut().zip(levels).for_each(|(w, &level)| *w = grid.value(r, level)),
                None => row.iter_mut().zip(levels).for_each(|(w, &level)| *w = f32::from(level) * scales[r]),
            }
        }
        out
    }
}

/// A matrix to be coded.
#[derive(Clone, Copy)]
pub struct WeightMatrix<'a> {
    /// The weights `[rows, n]`.
    pub weights: ArrayView2<'a, f32>,
    /// The metric of errors in them.
    pub metric: &'a Metric,
    /// Weight of this matrix's distortion in the sum over the matrices that share its codebook; positive.
    pub importance: f64,
    /// The integers that it is made of and has to be made of when it is decoded, if it is.
    pub grid: Option<&'a Arc<Grid>>,
}

/// Effort of [`learn`].
#[derive(Clone, Debug)]
pub struct LearnOptions {
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
    /// The largest level of an atom, 1 to 127.
    pub peak: i8,
}

impl Default for LearnOptions {
    fn default() -> Self {
        LearnOptions { seed: 0, rounds: 3, kmeans_iterations: 12, refit_steps: 6, paths: 8, sweeps: 3, peak: i8::MAX }
    }
}

/// `(start, size)` of each piece of a row of `n` weights.
fn pieces(n: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(width).map(move |start| (start, width.min(n - start)))
}
