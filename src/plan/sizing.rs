//! What a plan takes of the file.

use super::{Choice, Plan, Sharing};
use crate::dictionary::BlockSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::sites::{PerSite, Sites};

/// What decides the size of the files that plans make.
pub struct Sizing<'a> {
    /// The sites.
    pub sites: &'a Sites,
    /// Bytes of the file as it is.
    pub file: u64,
    /// Bytes that the weights of the sites take in the file as the user has it, copies included.
    pub before: u64,
    /// Bytes of nodes that coding removes, more than it adds where it adds the fewest: parts of weights that an exporter puts
    /// together in the graph. They are no weights, so that they count for no ratio.
    pub removed: u64,
    /// Whether a site may stay dense: where it is to be multiplied as int8, it may not.
    pub keeps_dense: PerSite<bool>,
    /// Bytes of the file that a plan makes, exactly.
    pub bytes: &'a (dyn Fn(&Plan) -> Result<u64> + Sync),
}

impl Sizing<'_> {
    /// Bytes of the file that a plan makes.
    ///
    /// # Errors
    /// Those of writing the graph.
    pub fn bytes(&self, plan: &Plan) -> Result<u64> {
        (self.bytes)(plan)
    }

    /// Bytes of a coded file that are no weights of sites.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.file.saturating_sub(self.sites.stored_bytes()).saturating_sub(self.removed)
    }

    /// With what coding [removes](Self::removed).
    ///
    /// # Errors
    /// Those of counting bytes.
    pub fn without_removed(mut self) -> Result<Self> {
        let equal = self.sites.map(|_| 1.0);
        let fewest = Plan::alike(Choice::Block { spec: BlockSpec::new(2)?, sharing: Sharing::Model }, &equal);
        let dense = self.sites.map(|site| self.sites.dense_bytes(site.id));
        let weights: u64 = fewest.payload(self.sites, &dense).values().sum();
        self.removed = (self.kept() + weights).saturating_sub(self.bytes(&fewest)?);
        Ok(self)
    }

    /// The largest file in which the weights of the sites take `ratio` times fewer bytes than before.
    #[must_use]
    pub fn target(&self, ratio: f64) -> u64 {
        self.kept() + (self.before as f64 / ratio) as u64
    }

    /// How many times smaller the weights of the sites are in a file of so many bytes, to two digits; `None` if they are not.
    #[must_use]
    pub fn ratio(&self, bytes: u64) -> Option<f64> {
        let before = self.before;
        let after = bytes.checked_sub(self.kept()).filter(|&after| after > 0 && after < before)?;
        Some(floor2(before as f64 / after as f64))
    }

    pub(super) fn too_small(&self, target: u64, smallest: u64) -> Error {
        let nearest = match self.ratio(smallest) {
            Some(ratio) => format!("the nearest is {smallest} bytes, --ratio {ratio:.2}"),
            None => "a codebook takes more bytes than it saves in weights so small".to_owned(),
        };
        Error::new(ErrorKind::Target, format!("no plan makes a file of at most {target} bytes; {nearest}"))
    }
}

fn floor2(x: f64) -> f64 {
    (x * 100.0).floor() / 100.0
}
