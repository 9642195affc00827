//! The vectors that the weights of a recurrent node multiply.

use super::{Cell, GateBlock, Matrix, RecurrentNode};

/// A vector that W or R of a node multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vector {
    /// `X_t`, by W.
    Input,
    /// `H_(t-1)` in a direction (0 or 1), by R.
    State(usize),
    /// `r (.) H_(t-1)` in a direction, by R of the h gate of a GRU without `linear_before_reset`.
    ResetState(usize),
}

impl Vector {
    /// The same vector of the first direction.
    #[must_use]
    pub fn in_first_direction(self) -> Vector {
        match self {
            Vector::Input => Vector::Input,
            Vector::State(_) => Vector::State(0),
            Vector::ResetState(_) => Vector::ResetState(0),
        }
    }
}

impl RecurrentNode {
    /// The vector that a gate block of the node multiplies.
    #[must_use]
    pub fn vector(&self, block: &GateBlock) -> Vector {
        let direction = block.direction_index;
        let resets_before = self.cell == Cell::Gru && !self.attributes.linear_before_reset;
        match block.matrix {
            Matrix::W => Vector::Input,
            Matrix::R if resets_before && block.gate == "h" => Vector::ResetState(direction),
            Matrix::R => Vector::State(direction),
        }
    }

    /// The vectors that its weights multiply, each once.
    #[must_use]
    pub fn vectors(&self) -> Vec<Vector> {
        let mut vectors: Vec<Vector> = self.blocks().iter().map(|block| self.vector(block)).collect();
        vectors.sort_unstable();
        vectors.dedup();
        vectors
    }
}
