//! A plan: how every unit of a model's weights is stored.

use crate::dictionary::{Bands, BlockSpec};
use crate::encode::Storage;

/// Which units a codebook may serve. A wider one costs fewer bytes and fits each unit less well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sharing {
    /// One gate block.
    Unit,
    /// All gates and directions of one W or R.
    Matrix,
    /// W and R of one node.
    Node,
    /// The whole model.
    Model,
}

impl Sharing {
    /// All, the most private first.
    pub const ALL: [Sharing; 4] = [Sharing::Unit, Sharing::Matrix, Sharing::Node, Sharing::Model];

    /// Its name in plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            Sharing::Unit => "unit",
            Sharing::Matrix => "matrix",
            Sharing::Node => "node",
            Sharing::Model => "model",
        }
    }
}

/// How one unit is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As it is.
    Dense,
    /// Codes of a block dictionary. Units with the same spec within the same reach of sharing use one codebook.
    Block {
        /// The shape of the codebook.
        spec: BlockSpec,
        /// Whom it serves.
        sharing: Sharing,
    },
    /// Codes of projection dictionaries, which all units that multiply the same vector share if they name the same
    /// bands of atoms.
    Projection {
        /// One dictionary for the unit's columns, or one for those of each direction of the layer that it reads.
        parts: [Bands; 2],
    },
}

impl Choice {
    /// Whom its codebook serves, if it has one.
    pub fn sharing(self) -> Option<Sharing> {
        match self {
            Choice::Dense | Choice::Projection { .. } => None,
            Choice::Block { sharing, .. } => Some(sharing),
        }
    }

    /// The codec's name in reports.
    pub fn codec(self) -> &'static str {
        match self {
            Choice::Dense => "dense",
            Choice::Block { .. } => "block",
            Choice::Projection { .. } => "projection",
        }
    }

    /// How the unit is stored, for the choice of forms.
    pub fn storage(self) -> Storage {
        match self {
            Choice::Dense => Storage::Dense,
            Choice::Block { .. } => Storage::Block,
            Choice::Projection { parts: [bands, other] } if other.is_empty() => {
                let dictionary = bands.iter().map(|band| (usize::from(band.atoms), usize::from(band.width))).collect();
                Storage::Projection { dictionary, used: bands.used().count() }
            }
            Choice::Projection { .. } => Storage::Projections,
        }
    }
}

/// A choice for every unit, in the order of [`Weights::units`](crate::coding::Weights::units).
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each unit.
    pub choices: Vec<Choice>,
    /// What a distortion of each unit is taken to cost, positive: weighs units that share a codebook.
    pub sensitivity: Vec<f64>,
}
