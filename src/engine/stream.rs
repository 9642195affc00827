//! Models that keep their state outside: the caller hands an output of one step back as an input of the next.

use super::{Engine, Outputs, Overrides, Tap, draw};
use crate::error::{Error, ErrorKind, Result};
use crate::samples::{AxisSize, Carry, Feed, Stream, Tensor};

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
