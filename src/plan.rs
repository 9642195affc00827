//! A plan: how every unit (weight block) of a model is stored.

use crate::dictionary::{Bands, BlockSpec};
use crate::encode::Storage;

/// Atoms of a codebook: an index is a byte. With 16 atoms two indices share a byte, but the table of pairs that decodes
/// them costs as much as 256 atoms of twice the width, which do better at the same rate.
pub const ATOMS: usize = 256;

/// Which units share a codebook. Wider sharing stores fewer codebooks, but each fits its units less well.
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
    /// All, from the narrowest to the widest.
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
    /// Unchanged.
    Dense,
    /// Codes of a block dictionary. Units with the same spec and sharing, within the reach of that sharing, use one codebook.
    Block {
        /// The shape of the codebook.
        spec: BlockSpec,
        /// Which units share it.
        sharing: Sharing,
    },
    /// Codes of projection dictionaries. Units that multiply the same vector and have the same bands of atoms share one.
    Projection {
        /// One dictionary for all columns of the unit, or one for the columns of each direction of the layer that it reads.
        parts: [Bands; 2],
    },
}

impl Choice {
    /// Which units share its codebook; `None` for choices without one.
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

    /// The kind of storage, as the choice of a form needs it.
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
    /// Sensitivity of each unit: loss per distortion, positive. Weights the units that share a codebook.
    pub sensitivity: Vec<f64>,
}
