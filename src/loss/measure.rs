//! Runs models on samples and compares what they give.
//!
//! Streams are run in parallel and added up in their order, so that the figures do not depend on the threads.

use super::{Comparison, Judge};
use crate::engine::{Engine, Outputs, Overrides};
use crate::error::Result;
use crate::progress::Progress;
use crate::samples::{Samples, Stream};
use rayon::prelude::*;

/// The original's judged outputs on some samples, kept so that many other models can be held against them.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    judge: &'a Judge,
    samples: &'a Samples,
    /// By stream, then by step.
    outputs: Vec<Vec<Outputs>>,
}

impl Judge {
    /// Runs the original and keeps its outputs.
    ///
    /// # Errors
    /// Those of running it, naming the sample.
    pub fn reference<'a>(&'a self, original: &Engine, samples: &'a Samples) -> Result<Reference<'a>> {
        let run = |stream: &Stream| {
            let mut steps = run(original, stream, samples, &Overrides::new())?;
            steps.iter_mut().for_each(|outputs| outputs.retain(|(name, _)| self.names().any(|n| n == name)));
            Ok(steps)
        };
        let outputs: Vec<Result<Vec<Outputs>>> = samples.streams.par_iter().map(run).collect();
        Ok(Reference { judge: self, samples, outputs: outputs.into_iter().collect::<Result<_>>()? })
    }

    /// Runs both models, each feeding back its own states, and keeps no outputs. Advances `progress` by a step for each
    /// feed.
    ///
    /// # Errors
    /// Those of running the models and of [`Comparison::add`], naming the sample.
    pub fn compare(
        &self,
        original: &Engine,
        compressed: &Engine,
        samples: &Samples,
        progress: &dyn Progress,
    ) -> Result<Comparison> {
        self.sum(samples, |_, stream| {
            let none = Overrides::new();
            let (original, compressed) =
                rayon::join(|| run(original, stream, samples, &none), || run(compressed, stream, samples, &none));
            let comparison = self.add_stream(stream, &original?, &compressed?);
            progress.advance(stream.feeds.len() as u64);
            comparison
        })
    }

    fn sum(
        &self,
        samples: &Samples,
        compare: impl Fn(usize, &Stream) -> Result<Comparison> + Sync,
    ) -> Result<Comparison> {
        let parts: Vec<Result<Comparison>> =
            samples.streams.par_iter().enumerate().map(|(i, stream)| compare(i, stream)).collect();
        let mut total = self.comparison();
        for part in parts {
            total.merge(&part?);
        }
        Ok(total)
    }

    fn add_stream(&self, stream: &Stream, original: &[Outputs], compressed: &[Outputs]) -> Result<Comparison> {
        let mut comparison = self.comparison();
        for (step, (original, compressed)) in original.iter().zip(compressed).enumerate() {
            let added = comparison.add(original, compressed, stream.labels.get(step));
            added.map_err(|e| e.in_file(&stream.origin))?;
        }
        Ok(comparison)
    }
}

impl Reference<'_> {
    /// Runs a model, with some of its recurrent weights replaced, and holds it against the original.
    ///
    /// # Errors
    /// Those of running the model and of [`Comparison::add`], naming the sample.
    pub fn compare(&self, compressed: &Engine, overrides: &Overrides) -> Result<Comparison> {
        self.judge.sum(self.samples, |i, stream| {
            let compressed = run(compressed, stream, self.samples, overrides)?;
            self.judge.add_stream(stream, &self.outputs[i], &compressed)
        })
    }
}

fn run(engine: &Engine, stream: &Stream, samples: &Samples, overrides: &Overrides) -> Result<Vec<Outputs>> {
    engine.run_stream(stream, &samples.carry, overrides, None).map_err(|e| e.in_file(&stream.origin))
}
