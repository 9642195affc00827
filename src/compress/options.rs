//! What a compression is asked for.

use std::path::PathBuf;

use super::{Effort, FindOptions, Pins, Request, TimeBudget};
use crate::loss::LossSpec;
use crate::lossless;
use crate::verify::Check;

/// What size or loss to reach.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Bytes of the weights before over after, at least.
    Ratio(f64),
    /// Bytes of the whole file, at most.
    MaxSize(u64),
    /// The smallest file whose loss on samples held back from the calibration is at most this in its worst output.
    MaxLoss(f64),
    /// The smallest file that passes these checks on samples held back from the calibration.
    Smallest(Vec<Check>),
    /// A plan that was saved.
    Plan {
        /// The text of its file.
        text: String,
        /// Where it was read from, for messages.
        file: Option<PathBuf>,
    },
}

impl Default for Target {
    fn default() -> Self {
        Target::Ratio(8.0)
    }
}

/// How a model is compressed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which nodes take part.
    pub nodes: FindOptions,
    /// What is done before weights are coded; `None` for nothing.
    pub lossless: Option<lossless::LosslessOptions>,
    /// What weights are coded with.
    pub codec: Codec,
    /// How bits are divided between sites.
    pub allocation: Allocation,
    /// How compressed layers are written.
    pub form: Request,
    /// Fine-tuning: `None` for fast where there are samples, `Some(None)` for none.
    pub tune: Option<Option<Effort>>,
    /// What counts as the loss of each output.
    pub loss: LossSpec,
    /// Sites that are stored as the user says.
    pub pins: Option<Pins>,
    /// Seeds everything random.
    pub seed: u64,
    /// Within which time: then `codec`, `allocation` and `tune` are those of the level that it leaves.
    pub time: Option<TimeBudget>,
}

/// Whether files are made smaller without coding first, unless options say otherwise.
const LOSSLESS_FIRST: bool = true;

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: FindOptions::default(),
            lossless: LOSSLESS_FIRST.then(lossless::LosslessOptions::default),
            codec: Codec::default(),
            allocation: Allocation::default(),
            form: Request::default(),
            tune: None,
            loss: LossSpec::default(),
            pins: None,
            seed: 0,
            time: None,
        }
    }
}

/// What weights are coded with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Pieces of rows as indices into codebooks.
    #[default]
    Block,
    /// One low-rank dictionary shared by R of a layer and W of the next.
    Projection,
    /// The better of the two, for each stack of layers.
    Auto,
}

impl Codec {
    /// Its name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Codec::Block => "block",
            Codec::Projection => "projection",
            Codec::Auto => "auto",
        }
    }
}

/// How bits are divided between sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// In each of these ways, and by means of them; what does best on calibration samples that were held back is taken.
    #[default]
    Auto,
    /// By the loss at the output that coarse codes of each site cause, measured by runs of the model.
    Measured,
    /// By the derivatives of the gates in each layer; no runs besides the calibration.
    Local,
    /// The same number of bits for every site.
    Uniform,
}

impl Allocation {
    /// Whether sensitivities are measured by runs.
    #[must_use]
    pub fn is_measured(self) -> bool {
        matches!(self, Allocation::Auto | Allocation::Measured)
    }

    /// Its name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Allocation::Auto => "auto",
            Allocation::Measured => "measured",
            Allocation::Local => "local",
            Allocation::Uniform => "none",
        }
    }
}
