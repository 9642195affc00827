//! Models that keep their state outside: the caller hands an output of one step back as an input of the next.

use super::{Engine, Outputs, Overrides, Tap, draw};
use crate::error::{Error, ErrorKind, Result};
use crate::samples::{AxisSize, Carry, Feed, Samples, Stream, Tensor};
use rayon::prelude::*;

impl Engine {
    /// Runs the steps of a stream in order. Each carried input is zeros at the first step, of the declared shape with
    /// 1 for sizes that are not numbers, and from then on what the step before gave.
    ///
    /// # Errors
    /// As [`run`](Engine::run); [`ErrorKind::Usage`] where a carry names an input or output that the model does not
    /// have or a slice beyond the output.
    pub fn run_stream(
        &self,
        stream: &Stream,
        carry: &[Carry],
        overrides: &Overrides,
        tap: Option<&dyn Tap>,
    ) -> Result<Vec<Outputs>> {
        let mut state = self.initial(stream, carry)?;
        let mut steps = Vec::with_capacity(stream.feeds.len());
        for (step, feed) in stream.feeds.iter().enumerate() {
            // Of what the samples give, not of states: those of two models differ.
            let salt = if self.plans.draws { draw::salt(feed, step) } else { 0 };
            let mut whole = state.clone();
            whole.extend(feed.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
            let outputs = self.run_salted(&whole, overrides, tap, salt)?;
            for c in carry {
                state.insert(c.input.clone(), carried(c, &outputs)?);
            }
            steps.push(outputs);
        }
        Ok(steps)
    }

    /// The samples, with streams cut in pieces where there are fewer than `count`: each piece begins in the states that the model
    /// is in there. None is shorter than `least` steps.
    ///
    /// # Errors
    /// As [`run_stream`](Engine::run_stream).
    pub fn in_pieces(&self, samples: &Samples, count: usize, least: usize) -> Result<Samples> {
        let mut cut = samples.clone();
        if samples.carry.is_empty() || samples.streams.len() >= count {
            return Ok(cut);
        }
        let wanted = count.div_ceil(samples.streams.len().max(1));
        let pieces = |stream: &Stream| -> Result<Vec<Stream>> {
            let steps = stream.feeds.len();
            let count = wanted.min(steps / least.max(1)).max(1);
            if count == 1 {
                return Ok(vec![stream.clone()]);
            }
            let outputs = self
                .run_stream(stream, &samples.carry, &Overrides::default(), None)
                .map_err(|e| e.in_file(&stream.origin))?;
            let piece = |i: usize| {
                let range = i * steps / count..(i + 1) * steps / count;
                let before = range.start.checked_sub(1).map(|before| &outputs[before]);
                let states = before
                    .into_iter()
                    .flat_map(|outputs| samples.carry.iter().map(|c| Ok((c.input.clone(), carried(c, outputs)?))));
                Ok(stream.piece(range, states.collect::<Result<Feed>>()?))
            };
            (0..count).map(piece).collect()
        };
        let parts: Vec<Result<Vec<Stream>>> = samples.streams.par_iter().map(pieces).collect();
        cut.streams = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(cut)
    }

    /// Plans the model for the first step of a stream, which [`run_stream`](Engine::run_stream) would do when it gets
    /// there.
    ///
    /// # Errors
    /// As [`run_stream`](Engine::run_stream).
    pub fn prepare(&self, stream: &Stream, carry: &[Carry]) -> Result<()> {
        let Some(first) = stream.feeds.first() else { return Ok(()) };
        let mut whole = self.initial(stream, carry)?;
        whole.extend(first.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        self.plans.with(&whole, |_| Ok(()))
    }

    /// The carried inputs of the first step that the samples do not give.
    fn initial(&self, stream: &Stream, carry: &[Carry]) -> Result<Feed> {
        let given = |c: &&Carry| stream.feeds.first().is_none_or(|feed| feed.contains_key(&c.input));
        carry.iter().filter(|c| !given(c)).map(|c| Ok((c.input.clone(), self.zeros(&c.input)?))).collect()
    }

    fn zeros(&self, input: &str) -> Result<Tensor> {
        let Some(port) = self.signature.input(input) else {
            return Err(usage("the model has no such input to carry a state into").at_tensor(input));
        };
        let sizes = |dims: &[AxisSize]| dims.iter().map(|d| d.fixed().unwrap_or(1)).collect::<Vec<_>>();
        let shape = port.dims.as_deref().map(sizes).unwrap_or_default();
        Tensor::zeros(port.element, &shape).ok_or_else(|| {
            usage(format!("a state of type {} cannot be carried", port.element.as_str_name())).at_tensor(input)
        })
    }
}

fn carried(carry: &Carry, outputs: &Outputs) -> Result<Tensor> {
    let Some((_, output)) = outputs.iter().find(|(name, _)| *name == carry.output) else {
        return Err(usage("the model has no such output to carry a state from").at_tensor(&carry.output));
    };
    let Some(range) = carry.range.clone() else { return Ok(output.clone()) };
    if output.shape().first().is_none_or(|&rows| range.end > rows) {
        let message = format!("the slice [{}:{}] is beyond the shape {:?}", range.start, range.end, output.shape());
        return Err(usage(message).at_tensor(&carry.output));
    }
    Ok(output.slice(range))
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}
