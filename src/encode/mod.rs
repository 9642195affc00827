//! A coded weight tensor as a subgraph of standard ONNX operators.
//!
//! A form is a way to write it; [`portable`] keeps the LSTM or GRU node and rebuilds its W and R in front of it. What
//! is written is what [`Coded::decode`] gives, bit for bit in float32.

pub mod portable;

use ndarray::ArrayView2;

use crate::dictionary::Coded;
use crate::onnx::ElementType;

/// One gate block of rows, as it is to be stored.
#[derive(Clone, Copy, Debug)]
pub enum Block<'a> {
    /// Codes, scales and a codebook.
    Coded(&'a Coded),
    /// The rows `[H, n]` as they are.
    Dense(ArrayView2<'a, f32>),
}

impl Block<'_> {
    fn rows(&self) -> usize {
        match self {
            Block::Coded(coded) => coded.rows,
            Block::Dense(rows) => rows.nrows(),
        }
    }
}

/// A W or R `[directions, G*H, n]` as it is to be stored.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    /// What the names of its values begin with: `<node>/W`.
    pub name: String,
    /// Element type at the recurrent node.
    pub element: ElementType,
    /// 1 or 2.
    pub directions: usize,
    /// n, the width of its rows.
    pub columns: usize,
    /// Its gate blocks in the order of their rows, those of direction 0 first; as many for each direction.
    pub blocks: Vec<Block<'a>>,
    /// A name for each block, for its values: the gate.
    pub labels: Vec<String>,
}
