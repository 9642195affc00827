//! Why a model did not run on samples: because it cannot be run at all, or because of a sample.
//!
//! What cannot be run is judged by other means, which show less. A sample must never lead there: one identifier out of
//! range among a thousand samples, or two arrays of different lengths, would turn a failed check into a passed one. So a
//! failure counts as the model's own only if the engine cannot so much as *plan* the model, which it does from shapes
//! alone: for no sample, nor for inputs that are made up from the declaration; or if it fails on inputs that were made up in the first
//! place, or stumbles over every sample and over inputs that were made up. Everything else is a sample at fault.

use std::collections::BTreeMap;

use crate::engine::{Engine, Overrides};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Model;
use crate::samples::{AxisSize, Feed, Random, RandomOptions, Samples, Signature, Stream, Tensor, indexed};

/// The reason why the engine cannot run a model, from the `error` that running it on samples gave.
///
/// # Errors
/// [`ErrorKind::Samples`] if a sample is at fault, naming it, and the node that it fails at where that is known; `error`
/// itself if it is not one of the engine.
pub fn obstacle(model: &Model, engine: &Engine, samples: &Samples, error: Error) -> Result<Error> {
    if error.kind() != ErrorKind::Engine {
        return Err(error);
    }
    if samples.made_up {
        // Nobody can change an input that was made up.
        return Ok(error);
    }
    let plans = |samples: &Samples| samples.streams.iter().any(|stream| engine.prepare(stream, &samples.carry).is_ok());
    let signature = Signature::of(model)?;
    let failing = failing(engine, samples);
    if let Some((stream, step)) = failing
        && let Some(why) = contradiction(&signature, &stream.feeds[step])
    {
        return Err(at_fault(stream, step, &Error::new(ErrorKind::Samples, why)));
    }
    // What an engine stumbles over for every sample, and for inputs of its own making, is not in one of them.
    let none_runs = |samples: &Samples| {
        let mut streams = samples.streams.iter();
        streams.all(|stream| run(engine, samples, stream, stream.feeds.len()).is_err())
    };
    let out_of_range = failing.and_then(|(stream, step)| out_of_range(model, &stream.feeds[step]));
    let made_up = made_up(model, samples);
    let stumbles = || none_runs(samples) && made_up.as_ref().is_some_and(none_runs);
    if out_of_range.is_none() && error.message().contains("tract panicked") && stumbles() {
        return Ok(error);
    }
    let undeclared = signature.inputs.iter().find(|input| input.dims.is_none());
    if !plans(samples) && undeclared.is_none() && !made_up.as_ref().is_some_and(plans) {
        return Ok(error);
    }
    let (stream, step) = failing.ok_or_else(|| error.clone())?;
    let error = failure_at(engine, samples, stream, step).unwrap_or(error);
    Err(match out_of_range {
        Some(why) => at_fault(stream, step, &Error::new(ErrorKind::Samples, why)),
        None => at_fault(stream, step, &error),
    })
}

/// An integer that is no index of what it indexes.
fn out_of_range(model: &Model, feed: &Feed) -> Option<String> {
    let of_input = |(input, tensor): (&String, &Tensor)| {
        let integers = tensor.to_i64()?;
        // The failure is the engine's: a graph that this reads less well is no news on top of it.
        let size = indexed(model, input).ok()??;
        let (place, value) = integers.indexed_iter().find(|(_, value)| !(-size..size).contains(value))?;
        let place = ndarray::Dimension::slice(&place);
        Some(format!("input '{input}' holds {value} at {place:?}, but what it indexes has {size} entries"))
    };
    feed.iter().find_map(of_input)
}

/// The first stream that fails, and at which of its steps.
fn failing<'s>(engine: &Engine, samples: &'s Samples) -> Option<(&'s Stream, usize)> {
    let stream = samples.streams.iter().find(|stream| run(engine, samples, stream, stream.feeds.len()).is_err())?;
    let steps: Vec<usize> = (0..stream.feeds.len()).collect();
    let step = steps.partition_point(|&step| run(engine, samples, stream, step + 1).is_ok());
    Some((stream, step.min(stream.feeds.len() - 1)))
}

fn failure_at(engine: &Engine, samples: &Samples, stream: &Stream, step: usize) -> Option<Error> {
    run(engine, samples, stream, step + 1).err()
}

/// Runs the first steps of a stream.
fn run(engine: &Engine, samples: &Samples, stream: &Stream, steps: usize) -> Result<()> {
    let first = Stream { feeds: stream.feeds[..steps].to_vec(), ..stream.clone() };
    engine.run_stream(&first, &samples.carry, &Overrides::default(), None).map(drop)
}

/// Inputs of the declared shapes; none where those do not say enough.
fn made_up(model: &Model, samples: &Samples) -> Option<Samples> {
    let options = RandomOptions { dims: &[], carry: &samples.carry, seed: 0, count: 1 };
    Random::new(model, &options).ok().map(|random| random.samples)
}

/// Two inputs that are of different sizes where the model declares one.
fn contradiction(signature: &Signature, feed: &Feed) -> Option<String> {
    let mut sizes: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for port in &signature.inputs {
        let (Some(dims), Some(tensor)) = (&port.dims, feed.get(&port.name)) else { continue };
        for (dim, &size) in dims.iter().zip(tensor.shape()) {
            let AxisSize::Symbol(symbol) = dim else { continue };
            let &mut (known, input) = sizes.entry(symbol).or_insert((size, &port.name));
            if known != size {
                return Some(format!(
                    "input '{}' has {size} where it has '{symbol}', input '{input}' has {known}: they must be equal",
                    port.name
                ));
            }
        }
    }
    None
}

/// Says that it is this sample that fails.
fn at_fault(stream: &Stream, step: usize, error: &Error) -> Error {
    let step = if stream.feeds.len() > 1 { format!("step {step}: ") } else { String::new() };
    let (node, message) = located(error.message());
    let message = format!("{step}this sample cannot be run: {message}");
    let error = Error::new(ErrorKind::Samples, message).in_file(&stream.origin);
    match node {
        Some(node) => error.at_node(node),
        None => error,
    }
}

/// The node that the engine names, and the rest of what it says: `Evaluating #3 "name" Gather: why`.
fn located(message: &str) -> (Option<&str>, &str) {
    let found = message.split_once("Evaluating #").and_then(|(_, rest)| {
        let (_, rest) = rest.split_once(" \"")?;
        let (node, rest) = rest.split_once("\" ")?;
        Some((Some(node), rest))
    });
    found.unwrap_or((None, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_names_the_node() {
        let message = "running: Evaluating #2 \"x\" Add: Can not broadcast 6 against 5";
        assert_eq!(located(message), (Some("x"), "Add: Can not broadcast 6 against 5"));
        assert_eq!(located("running: tract panicked: no"), (None, "running: tract panicked: no"));
    }
}
