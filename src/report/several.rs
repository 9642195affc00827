//! Several models under one budget: a report of all, with that of each.

use serde::Serialize;

use super::grid::Grid;
#[cfg(feature = "cli")]
use super::table;
use super::{Report, SCHEMA, Seconds, Show, Tool};
use crate::compress::Share;
use crate::error::Result;

/// The report of `compress` for several models.
#[derive(Clone, Debug, Serialize)]
pub struct Several {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// Always `compress`.
    pub command: super::Command,
    /// Bytes of all files, and of all weights in them.
    pub total: Total,
    /// What each model got of the bytes, in the order of the models.
    pub shares: Vec<ModelShare>,
    /// The report of each model.
    pub models: Vec<Report>,
    /// Time of all.
    pub seconds: Seconds,
}

/// Sizes of all models together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Total {
    /// Bytes of all files.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
    /// `bytes_before / bytes_after`.
    pub ratio: Option<f64>,
    /// Bytes of all weights in scope.
    pub weight_bytes_before: u64,
    /// And after.
    pub weight_bytes_after: u64,
    /// `weight_bytes_before / weight_bytes_after`.
    pub weight_ratio: Option<f64>,
}

/// What a model got of the bytes of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelShare {
    /// Its name.
    pub name: String,
    /// How much its loss counts.
    pub weight: f64,
    /// Bytes of its file that it got, at most.
    pub bytes: u64,
    /// The loss there by its curve, before fine-tuning.
    pub loss: Option<f64>,
    /// Bytes that it has where all models are compressed by the same ratio.
    pub bytes_alike: u64,
    /// The loss there by its curve.
    pub loss_alike: Option<f64>,
    /// The curve: sizes and the losses of trial codes.
    pub curve: Vec<SizePoint>,
}

/// A size, and the loss of trial codes there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SizePoint {
    /// Bytes of the file.
    pub bytes: u64,
    /// The mean loss of the outputs.
    pub loss: Option<f64>,
}

impl ModelShare {
    /// The share of a model.
    #[must_use]
    pub fn of(name: String, weight: f64, share: &Share) -> ModelShare {
        let Share { bytes, loss, bytes_alike, loss_alike, curve } = share.clone();
        let curve = curve.iter().map(|look| SizePoint { bytes: look.bytes, loss: look.loss_mean }).collect();
        ModelShare { name, weight, bytes, loss, bytes_alike, loss_alike, curve }
    }
}

impl Several {
    /// The reports of all models, each with its share.
    #[must_use]
    pub fn of(models: Vec<Report>, shares: Vec<ModelShare>) -> Several {
        let sum = |of: &dyn Fn(&Report) -> u64| models.iter().map(of).sum::<u64>();
        let weights = |of: fn(&super::WeightSizes) -> u64| sum(&|report| report.weights.as_ref().map_or(0, of));
        let [bytes_before, bytes_after] =
            [sum(&|report| report.model.bytes_before), sum(&|report| report.model.bytes_after.unwrap_or_default())];
        let [weight_bytes_before, weight_bytes_after] =
            [weights(|weights| weights.bytes_before), weights(|weights| weights.bytes_after)];
        let total = Total {
            bytes_before,
            bytes_after,
            ratio: super::ratio(bytes_before, bytes_after),
            weight_bytes_before,
            weight_bytes_after,
            weight_ratio: super::ratio(weight_bytes_before, weight_bytes_after),
        };
        Several {
            schema: SCHEMA,
            tool: Tool::default(),
            command: super::Command::Compress,
            total,
            shares,
            models,
            seconds: Seconds::default(),
        }
    }

    /// What the division of the bytes is expected to gain; `None` where it was not measured.
    pub(super) fn gain(&self) -> Option<String> {
        let sum = |of: fn(&ModelShare) -> Option<f64>| {
            self.shares.iter().map(|share| Some(share.weight * of(share)?)).sum::<Option<f64>>()
        };
        let (loss, alike) = (sum(|share| share.loss)?, sum(|share| share.loss_alike)?);
        Some(format!(
            "by the curves, the weighted losses add up to {loss:.2e}; with one ratio for all models, to {alike:.2e}"
        ))
    }

    pub(super) fn grid(&self) -> Grid {
        Grid::several(self)
    }
}

impl Show for Several {
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String {
        table::several(self, style)
    }

    fn json(&self) -> Result<String> {
        super::json::text(self)
    }

    fn html(&self) -> String {
        super::html::several(self)
    }

    fn markdown(&self) -> String {
        super::markdown::several(self)
    }

    fn junit(&self) -> Result<String> {
        super::junit::several(&self.models)
    }
}
