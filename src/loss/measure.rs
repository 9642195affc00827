//! Runs models on samples and compares what they give.
//!
//! Streams are run in parallel and added up in their order, so that the figures do not depend on the threads.

use super::{Comparison, Judge};
use crate::engine::{Engine, Outputs, Overrides};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{self, Progress};
use crate::samples::{Samples, Stream};
use rayon::prelude::*;

/// The original's outputs on some samples, kept in memory so that many other models can be compared with them.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    judge: &'a Judge,
    samples: &'a Samples,
    /// By stream, then by step.
    outputs: Vec<Vec<Outputs>>,
}

impl Reference<'_> {
    /// The outputs that are compared.
    pub fn judge(&self) -> &Judge {
        self.judge
    }

    /// The number of runs.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }
}

impl Judge {
    /// Runs the original and keeps its outputs.
    ///
    /// # Errors
    /// Those of running it, naming the sample.
    pub fn reference<'a>(&'a self, original: &Engine, samples: &'a Samples) -> Result<Reference<'a>> {
        let run = |stream: &Stream| {
            let mut steps = run(original, stream, samples, &Overrides::default())?;
            steps.iter_mut().for_each(|outputs| outputs.retain(|(name, _)| self.names().any(|n| n == name)));
            Ok(steps)
        };
        let outputs: Vec<Result<Vec<Outputs>>> = samples.streams.par_iter().map(run).collect();
        Ok(Reference { judge: self, samples, outputs: outputs.into_iter().collect::<Result<_>>()? })
    }

    /// Runs both models, each feeding back its own states, and keeps no outputs but [profiles](Comparison::profiled) of
    /// the error. Advances `progress` by a step for each feed.
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
        let empty = self.comparison().profiled(!samples.carry.is_empty());
        empty.sum(samples, |number, stream| {
            let none = Overrides::default();
            let (original, compressed) =
                rayon::join(|| run(original, stream, samples, &none), || run(compressed, stream, samples, &none));
            let comparison = empty.with_stream(samples, number, &original?, &compressed?);
            progress::advance(progress, stream.feeds.len() as u64)?;
            comparison
        })
    }
}

impl Comparison {
    /// The sum of this and the comparisons of all streams.
    fn sum(
        &self,
        samples: &Samples,
        compare: impl Fn(usize, &Stream) -> Result<Comparison> + Sync,
    ) -> Result<Comparison> {
        let parts: Vec<Result<Comparison>> =
            samples.streams.par_iter().enumerate().map(|(i, stream)| compare(i, stream)).collect();
        let mut total = self.clone();
        for part in parts {
            total.merge(&part?);
        }
        Ok(total)
    }

    /// This and the comparison of one stream. Where nothing is carried, the stream is a single sample.
    fn with_stream(
        &self,
        samples: &Samples,
        number: usize,
        original: &[Outputs],
        compressed: &[Outputs],
    ) -> Result<Comparison> {
        let stream = &samples.streams[number];
        let mut comparison = self.clone();
        if original.len() != compressed.len() {
            let (ours, theirs) = (original.len(), compressed.len());
            let message = format!("the original ran {ours} steps, the compressed model {theirs}");
            return Err(Error::new(ErrorKind::Engine, message).in_file(&stream.origin));
        }
        for (step, (original, compressed)) in original.iter().zip(compressed).enumerate() {
            let position = if samples.carry.is_empty() { number } else { step };
            let added = comparison.add(original, compressed, stream.labels.get(step), position);
            added.map_err(|e| e.in_file(&stream.origin))?;
        }
        comparison.is_sample(&stream.origin);
        Ok(comparison)
    }
}

impl Reference<'_> {
    /// Runs a model with some of its weights replaced, and compares it with the original.
    ///
    /// # Errors
    /// Those of running the model and of [`Comparison::add`], naming the sample.
    pub fn compare(&self, compressed: &Engine, overrides: &Overrides) -> Result<Comparison> {
        let mut total = self.judge.comparison();
        self.compare_each(compressed, overrides)?.iter().for_each(|stream| total.merge(stream));
        Ok(total)
    }

    /// As [`compare`](Self::compare), stream by stream.
    ///
    /// # Errors
    /// As [`compare`](Self::compare).
    pub fn compare_each(&self, compressed: &Engine, overrides: &Overrides) -> Result<Vec<Comparison>> {
        let empty = self.judge.comparison();
        let of_stream = |(i, stream): (usize, &Stream)| {
            let compressed = run(compressed, stream, self.samples, overrides)?;
            empty.with_stream(self.samples, i, &self.outputs[i], &compressed)
        };
        let each: Vec<Result<Comparison>> = self.samples.streams.par_iter().enumerate().map(of_stream).collect();
        each.into_iter().collect()
    }
}

fn run(engine: &Engine, stream: &Stream, samples: &Samples, overrides: &Overrides) -> Result<Vec<Outputs>> {
    engine.run_stream(stream, &samples.carry, overrides, None).map_err(|e| e.in_file(&stream.origin))
}
