//! Latency and memory of models, side by side.

use serde::{Deserialize, Serialize};

#[cfg(feature = "cli")]
use super::table;
use super::{SCHEMA, Show, Tool};
use crate::bench::Latency;
use crate::error::Result;
use crate::verify::ENGINE;

/// The report of `bench`.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// What ran the models.
    pub engine: &'static str,
    /// Samples that a pass runs.
    pub samples: usize,
    /// Passes that were measured, and those before them.
    pub runs: usize,
    /// Passes before anything was measured.
    pub warm_up: usize,
    /// In the order of the arguments; the first is the baseline.
    pub models: Vec<Benched>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// One model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Benched {
    /// The file.
    pub path: String,
    /// Its bytes, external data included.
    pub bytes: u64,
    /// Seconds from the file to the first result.
    pub load_seconds: f64,
    /// Milliseconds a sample.
    pub latency_ms: Latency,
    /// Peak memory of the process in bytes; `None` where the system does not report it.
    pub peak_bytes: Option<u64>,
    /// Memory of the process at the end, in bytes.
    pub resident_bytes: Option<u64>,
}

impl Bench {
    /// A table without models.
    #[must_use]
    pub fn new(samples: usize, runs: usize, warm_up: usize) -> Self {
        let (models, warnings) = (Vec::new(), Vec::new());
        Bench { schema: SCHEMA, tool: Tool::default(), engine: ENGINE, samples, runs, warm_up, models, warnings }
    }
}

impl Show for Bench {
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String {
        table::bench(self, style)
    }

    fn json(&self) -> Result<String> {
        super::json::text(self)
    }
}
