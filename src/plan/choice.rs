//! How one site is stored: the codecs that there are, their names, and the bytes that their codes take.

use crate::dictionary::{Bands, BlockSpec};
use crate::sites::Block;

/// Which sites a codebook may serve. A wider one costs fewer bytes and fits each site less well.
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
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Sharing::Unit => "unit",
            Sharing::Matrix => "matrix",
            Sharing::Node => "node",
            Sharing::Model => "model",
        }
    }
}

/// How one site is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// As it is.
    Dense,
    /// Codes of a block dictionary. Sites with the same spec within the same reach of sharing use one codebook.
    Block {
        /// The shape of the codebook.
        spec: BlockSpec,
        /// Which sites it serves.
        sharing: Sharing,
    },
    /// Codes of projection dictionaries, which all sites that multiply the same vector share if they name the same
    /// bands of atoms.
    Projection {
        /// One dictionary for the site's columns, or one for those of each direction of the layer that it reads.
        parts: [Bands; 2],
    },
}

/// How a site is stored, as far as the form of its node depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As it is.
    Dense,
    /// Codes of a block dictionary.
    Block,
    /// Codes of one projection dictionary.
    Projection {
        /// Atoms in each band of the dictionary, and the width of their pieces.
        dictionary: Vec<(usize, usize)>,
        /// Bands that the site uses.
        used: usize,
    },
    /// Codes of several projection dictionaries, side by side.
    Projections,
}

impl Choice {
    /// Which sites its codebook serves, if it has one.
    #[must_use]
    pub fn sharing(self) -> Option<Sharing> {
        match self {
            Choice::Dense | Choice::Projection { .. } => None,
            Choice::Block { sharing, .. } => Some(sharing),
        }
    }

    /// The codec's name in reports and plans.
    #[must_use]
    pub fn codec(self) -> &'static str {
        match self {
            Choice::Dense => "dense",
            Choice::Block { .. } => "block",
            Choice::Projection { .. } => "projection",
        }
    }

    /// The codec and its setting in one word: `block-4/matrix` is a codebook of atoms of four weights for a whole matrix,
    /// `projection-96` has the number of atoms that the site uses.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Choice::Block { spec, sharing } => format!("{}-{}/{}", self.codec(), spec.width, sharing.name()),
            Choice::Projection { parts } => {
                let used = parts.iter().flat_map(Bands::used).map(|band| usize::from(band.atoms)).sum::<usize>();
                format!("{}-{used}", self.codec())
            }
            Choice::Dense => self.codec().to_owned(),
        }
    }

    /// Bytes of the codes and row scales of a site, without what it shares with others and without nodes. `dense` is what
    /// it takes as it is.
    #[must_use]
    pub fn code_bytes(self, block: &Block, dense: u64) -> u64 {
        let [rows, columns] = block.shape();
        match self {
            Choice::Dense => dense,
            Choice::Block { spec, .. } => (rows * (spec.pieces(columns) + 1)) as u64,
            Choice::Projection { parts } => (rows * parts.iter().map(Bands::row_bytes).sum::<usize>()) as u64,
        }
    }

    /// How the site is stored, for the choice of forms.
    #[must_use]
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
