//! Size against loss: one model at several ratios.

use serde::Serialize;

use super::{SCHEMA, Seconds, Show, Tool, table};
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
    pub model: super::Model,
    /// Stored bytes of the weights that are compressed.
    pub recurrent_bytes: u64,
    /// In the order of the given ratios.
    pub points: Vec<Point>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// Time per phase, over all points.
    pub seconds: Seconds,
}

/// One ratio.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
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
    /// The figures of each compared output.
    pub outputs: Vec<Figures>,
}

impl Sweep {
    /// A sweep without points.
    #[must_use]
    pub fn new(model: super::Model, recurrent_bytes: u64) -> Self {
        let (points, warnings) = (Vec::new(), Vec::new());
        Sweep {
            schema: SCHEMA,
            tool: Tool::default(),
            model,
            recurrent_bytes,
            points,
            warnings,
            seconds: Seconds::default(),
        }
    }
}

impl Show for Sweep {
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
