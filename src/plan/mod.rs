//! Plans: how every site of a model is stored, and how the bytes of a target are divided among sites.
//!
//! A [`Plan`] gives each site a [`Choice`] of codec and rate. [`Curves`] say what the choices cost each site in bytes and
//! distortion; with sensitivities, the loss at the output per distortion, [`Curves::allocate`] finds the plan of least
//! predicted loss that fits a target. [`uniform()`] makes a plan without sensitivities: one rate for all sites.
//!
//! Nothing here runs or learns anything.

mod allocation;
mod choice;
mod curves;
mod file;
mod overrides;
mod projection;
mod sharing;
mod sizing;
mod uniform;

pub use allocation::{Candidate, allocate};
pub use choice::{Choice, CodecSettings, Sharing, Storage};
pub use curves::{CurvePoint, Curves, coarser, is_learned, is_smooth, widths_near};
pub use file::{read, write};
pub use overrides::Pins;
pub use projection::Dictionaries;
pub use sharing::{DictionaryUse, Member};
pub use sizing::Sizing;
pub use uniform::{check_target, smallest, uniform};

use crate::sites::{PerSite, Sites};

/// A choice for every site.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How each site is stored.
    pub choices: PerSite<Choice>,
    /// The loss at the output per distortion of each site, above 0: weighs sites that share a codebook.
    pub sensitivity: PerSite<f64>,
}

impl Plan {
    /// The same choice for all sites.
    #[must_use]
    pub fn alike(choice: Choice, sensitivity: &PerSite<f64>) -> Plan {
        Plan { choices: sensitivity.map(|_, _| choice), sensitivity: sensitivity.clone() }
    }

    /// The loss that sensitivities predict for these distortions, `sum_s sensitivity_s D_s`.
    #[must_use]
    pub fn predicted_loss(sensitivity: &PerSite<f64>, distortion: &PerSite<f64>) -> f64 {
        sensitivity.zip(distortion).map(|(_, s, d)| s * d).sum()
    }

    /// Bits that go into codes, as opposed to codebooks and graph.
    #[must_use]
    pub fn code_bits(&self, sites: &Sites) -> f64 {
        sites.all.iter().map(|site| self.choices[site.id].code_bits(&site.block)).sum()
    }
}
