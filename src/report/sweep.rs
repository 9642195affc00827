//! Size against loss: one model at several ratios.

use serde::Serialize;

#[cfg(feature = "cli")]
use super::table;
use super::{Report, SCHEMA, Seconds, Show, Tool};
use crate::compress::{Compressor, SweepRow, Swept};
use crate::error::Result;
use crate::loss::Figures;

/// The report of `sweep`.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// The original.
    pub model: super::FileSizes,
    /// Stored bytes of the weights that are compressed.
    pub recurrent_bytes: u64,
    /// In the order of the given ratios.
    pub points: Vec<SweepPoint>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Time per phase, over all points.
    pub seconds: Seconds,
}

/// One ratio.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SweepPoint {
    /// The target ratio.
    pub target: f64,
    /// The ratio that was reached; `None` if the target cannot be reached.
    pub ratio: Option<f64>,
    /// Bytes of the whole file.
    pub bytes_after: Option<u64>,
    /// Why it cannot be reached.
    pub reason: Option<String>,
    /// The largest loss of any output, of the kind chosen by `--loss`.
    pub loss: Option<f64>,
    /// The mean loss of the outputs.
    pub loss_mean: Option<f64>,
    /// The difference of each judged output.
    pub outputs: Vec<Figures>,
}

impl Sweep {
    /// The rows of a sweep.
    ///
    /// # Panics
    /// If the compressor has been [released](Compressor::release).
    #[must_use]
    pub fn of(compressor: &Compressor<'_>, rows: Vec<SweepRow>) -> Self {
        let original = compressor.original();
        let model = Report::between(super::Command::Plan, original, original).model;
        let before = compressor.before().stored_bytes();
        let kept = compressor.kept();
        let point = |SweepRow { ratio, reached }| match reached {
            Ok(Swept { bytes, comparison }) => SweepPoint {
                target: ratio,
                ratio: super::ratio(before, bytes.saturating_sub(kept)),
                bytes_after: Some(bytes),
                reason: None,
                loss: comparison.worst_loss().ok(),
                loss_mean: comparison.mean_loss().ok(),
                outputs: comparison.figures(),
            },
            Err(error) => SweepPoint { target: ratio, reason: Some(error.to_string()), ..SweepPoint::default() },
        };
        Sweep {
            schema: SCHEMA,
            tool: Tool::default(),
            model: super::FileSizes { bytes_after: None, ratio: None, ..model },
            recurrent_bytes: before,
            points: rows.into_iter().map(point).collect(),
            warnings: compressor.warnings(),
            seconds: Seconds::default(),
        }
    }
}

impl Show for Sweep {
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String {
        table::sweep(self, style)
    }

    fn json(&self) -> Result<String> {
        super::json::text(self)
    }

    fn html(&self) -> String {
        super::html::sweep(self)
    }

    fn markdown(&self) -> String {
        super::markdown::sweep(self)
    }
}
