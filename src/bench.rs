//! Latency of a model: repeated runs of the same samples, after warm-up runs that are not measured.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Overrides};
use crate::error::Result;
use crate::progress::{self, Progress};
use crate::samples::Samples;

/// Number of passes over the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Passes over all samples before anything is measured: plans are made, caches filled.
    pub warm_up: usize,
    /// Passes that are measured; at least 1.
    pub measured: usize,
}

/// Milliseconds for one sample (a step, in a stream), over the measured passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub median: f64,
    /// The fastest pass: the least disturbed by other processes.
    pub min: f64,
    /// A tenth of the passes are faster.
    pub p10: f64,
    /// A tenth of the passes are slower.
    pub p90: f64,
    /// The slowest pass.
    pub max: f64,
}

/// Runs a model on the calling thread.
///
/// # Errors
/// Those of running the model.
pub fn measure(engine: &Engine, samples: &Samples, runs: Runs, progress: &dyn Progress) -> Result<Latency> {
    let feeds: usize = samples.streams.iter().map(|stream| stream.feeds.len()).sum();
    let pass = || -> Result<f64> {
        let start = Instant::now();
        for stream in &samples.streams {
            engine.run_stream(stream, &samples.carry, &Overrides::default(), None)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3 / feeds.max(1) as f64)
    };
    progress.phase("run", (runs.warm_up + runs.measured) as u64);
    let mut times = Vec::with_capacity(runs.measured);
    for run in 0..runs.warm_up + runs.measured.max(1) {
        let time = pass()?;
        if run >= runs.warm_up {
            times.push(time);
        }
        progress::advance(progress, 1)?;
    }
    progress.done();
    Ok(Latency::of(times))
}

impl Latency {
    fn of(mut times: Vec<f64>) -> Latency {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Latency { median: at(0.5), min: at(0.0), p10: at(0.1), p90: at(0.9), max: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::Latency;

    #[test]
    fn shares_of_the_passes() {
        let latency = Latency::of((0..=10).rev().map(f64::from).collect());
        assert_eq!(latency, Latency { median: 5.0, min: 0.0, p10: 1.0, p90: 9.0, max: 10.0 });
        assert_eq!(Latency::of(vec![2.0]), Latency { median: 2.0, min: 2.0, p10: 2.0, p90: 2.0, max: 2.0 });
    }
}
