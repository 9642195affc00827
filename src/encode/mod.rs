//! A coded weight tensor as a subgraph of standard ONNX operators.
//!
//! A [`Form`] is a way to write a recurrent node: [`portable`] keeps the node and decodes its W and R in front of it,
//! [`fast`] replaces it by a loop of int8 products, and [`vendor`] by an operator of onnxruntime. The values of W and R
//! are the same in all forms, bit for bit those of [`BlockCode::decode`](crate::dictionary::BlockCode::decode) in float32.

mod block;
mod factors;
pub mod fast;
mod form;
mod forms;
mod found;
mod linear;
mod model;
pub mod portable;
mod projected;
mod size;
mod table;
pub mod vendor;
mod writer;

use std::ops::Range;

use ndarray::Array2;

pub use block::{Block, codec};
pub use factors::{Work, obstacle};
pub use form::{Assigned, Form, Request, assign};
pub use forms::{Forms, MultiplyAdds};
pub use found::{Found, find, find_tables};
pub(crate) use model::common;
use model::note_of;
pub use model::{NOTE, NewBias, Writing, apply, note, with_biases};
pub use size::{Measured, Sizes, size};
pub use table::FoundTable;
use writer::is_shared_constant;
pub use writer::{Home, Writer};

use crate::onnx::{ElementType, NodeProto};
use crate::recurrent::RecurrentNode;

/// A matrix that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredMatrix {
    /// A weight, by its index in the survey.
    Weight(usize),
    /// Codes of the rows of a weight: those of one band of one of its dictionaries.
    Codes {
        /// The weight.
        weight: usize,
        /// Which of its dictionaries.
        part: usize,
        /// Which band.
        band: usize,
    },
    /// A band of a projection dictionary.
    Atoms {
        /// The number of the dictionary.
        dictionary: usize,
        /// Which band.
        band: usize,
    },
}

/// A W or R `[directions, G*H, n]` in the format in which it is stored.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    /// What it is, or is a part of.
    pub of: StoredMatrix,
    /// Its first row in that, all directions counted.
    pub start: usize,
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
    /// The gates of one direction, in that order.
    pub gates: &'a [&'static str],
}

impl<'a> Stored<'a> {
    /// Rows of one direction.
    fn rows(&self) -> usize {
        self.blocks[..self.gates.len()].iter().map(Block::rows).sum()
    }

    /// Rows of all directions.
    fn all_rows(&self) -> usize {
        self.rows() * self.directions
    }

    /// Some gates of one direction as a tensor of their own, named `name`.
    fn part(&self, direction: usize, gates: Range<usize>, name: String) -> Stored<'a> {
        let first = direction * self.gates.len();
        let (before, blocks) = self.blocks.split_at(first + gates.start);
        Stored {
            name,
            start: self.start + before.iter().map(Block::rows).sum::<usize>(),
            directions: 1,
            blocks: blocks[..gates.len()].to_vec(),
            gates: &self.gates[gates],
            ..*self
        }
    }
}

/// A recurrent node that is replaced by another form.
pub struct Layer<'a> {
    /// What it computes.
    pub node: &'a RecurrentNode,
    /// The node, for the names of its inputs and outputs.
    pub proto: &'a NodeProto,
    /// Its W and where its constants go.
    pub w: (&'a Stored<'a>, Home<'a>),
    /// Its R and where its constants go.
    pub r: (&'a Stored<'a>, Home<'a>),
    /// Its B `[directions, 2*G*H]`, if it has one and that is constant.
    pub bias: Option<&'a Array2<f32>>,
}

impl Layer<'_> {
    /// The name of an input, if it is given.
    fn input(&self, index: usize) -> Option<&str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The name of an output, if anything may read it.
    fn output(&self, index: usize) -> Option<&str> {
        self.proto.output.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }
}
