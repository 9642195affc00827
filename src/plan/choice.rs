//! How one site is stored: the codecs that there are, their names, and the bytes that their codes take.

use crate::dictionary::{ATOMS, Band, Bands, BlockSpec, MAX_BANDS, MAX_WIDTH};
use crate::sites::SiteRows;

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

/// A codec and its settings as the file of a plan has them; none for settings that the codec does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodecSettings {
    /// The name of the codec.
    pub codec: String,
    /// Weights in a piece.
    pub width: Option<usize>,
    /// Atoms of the codebook.
    pub atoms: Option<usize>,
    /// Which sites the codebook serves.
    pub sharing: Option<String>,
    /// For each dictionary its bands, each as the number of atoms, the numbers of an atom in a piece of it, and the codes
    /// in a piece of a row.
    pub bands: Option<Vec<Vec<[u16; 3]>>>,
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

    /// Bytes of the codes and row scales of a site, without what it shares with others and without nodes. `scale` is the bytes
    /// of the scale of a row, `dense` what the site takes as it is.
    #[must_use]
    pub fn code_bytes(self, block: &SiteRows, scale: usize, dense: u64) -> u64 {
        let [rows, columns] = block.shape();
        match self {
            Choice::Dense => dense,
            Choice::Block { spec, .. } => (rows * (spec.pieces(columns) + scale)) as u64,
            Choice::Projection { parts } => (rows * parts.iter().map(Bands::row_bytes).sum::<usize>()) as u64,
        }
    }

    /// Bits of the codes of a site, as opposed to scales, codebooks and graph.
    #[must_use]
    pub fn code_bits(self, block: &SiteRows) -> f64 {
        match self {
            Choice::Dense | Choice::Projection { .. } => 0.0,
            Choice::Block { spec, .. } => spec.bits_per_weight() * block.weights() as f64,
        }
    }

    /// The settings of the codec for the file of a plan.
    #[must_use]
    pub fn settings(self) -> CodecSettings {
        let mut settings = CodecSettings { codec: self.codec().to_owned(), ..CodecSettings::default() };
        match self {
            Choice::Dense => {}
            Choice::Block { spec, sharing } => {
                settings.width = Some(spec.width);
                settings.atoms = Some(ATOMS);
                settings.sharing = Some(sharing.name().to_owned());
            }
            Choice::Projection { parts } => {
                let numbers = |band: Band| [band.atoms, band.width.into(), band.codes.into()];
                let parts = parts.iter().filter(|part| !part.is_empty());
                settings.bands = Some(parts.map(|part| part.iter().map(numbers).collect()).collect());
            }
        }
        settings
    }

    /// The choice that settings stand for, or what is wrong with them.
    ///
    /// # Errors
    /// A message that says what was expected.
    pub fn of_settings(settings: &CodecSettings) -> Result<Choice, String> {
        let block = (settings.width, settings.atoms, settings.sharing.as_deref());
        match (settings.codec.as_str(), block, &settings.bands) {
            ("dense", (None, None, None), None) => Ok(Choice::Dense),
            ("block", (Some(width), Some(atoms), Some(sharing)), None) => {
                let spec = BlockSpec::new(width).map_err(|error| error.to_string())?;
                if atoms != ATOMS {
                    return Err(format!("{atoms} atoms, expected {ATOMS}"));
                }
                let reach = Sharing::ALL.into_iter().find(|reach| reach.name() == sharing);
                let sharing = reach
                    .ok_or_else(|| format!("sharing '{sharing}' is unknown, expected unit, matrix, node or model"))?;
                Ok(Choice::Block { spec, sharing })
            }
            ("projection", (None, None, None), Some(bands)) => projection(bands),
            ("dense", ..) => Err("codec = \"dense\" takes no width, atoms, sharing or bands: remove them".to_owned()),
            ("block", ..) => Err("codec = \"block\" takes width, atoms and sharing, and nothing else".to_owned()),
            ("projection", ..) => Err("codec = \"projection\" takes bands, and nothing else".to_owned()),
            (codec, ..) => Err(format!("codec '{codec}' is unknown, expected block, projection or dense")),
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

/// The bands of a site's dictionaries, or what is wrong with them.
fn projection(bands: &[Vec<[u16; 3]>]) -> Result<Choice, String> {
    let byte = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
    let part = |bands: &Vec<[u16; 3]>| {
        let bands: Vec<Band> =
            bands.iter().map(|&[atoms, width, codes]| Band { atoms, width: byte(width), codes: byte(codes) }).collect();
        Bands::new(&bands).filter(|bands| bands.used().next().is_some()).ok_or_else(|| {
            format!(
                "bands {bands:?}: 1 to {MAX_BANDS} of [atoms, width, codes], atoms at least 1, widths and codes 1 to \
                 {MAX_WIDTH}, codes 0 where a band and those after it are not used"
            )
        })
    };
    let parts: Vec<Bands> = bands.iter().map(part).collect::<Result<_, _>>()?;
    match parts[..] {
        [one] => Ok(Choice::Projection { parts: [one, Bands::default()] }),
        [first, second] => Ok(Choice::Projection { parts: [first, second] }),
        _ => Err(format!("bands of {} dictionaries, expected one or two", parts.len())),
    }
}
