//! As much of a model as can be run, for what its recurrent layers multiply.
//!
//! Where one operator is missing, whatever does not depend on it can be run all the same. The graph is cut to what the
//! recurrent nodes need, or to what as many of them need as can be run.

use super::{Engine, Overrides, cell_of, cut, numbers, weights};
use crate::error::Result;
use crate::onnx::graph::bodies;
use crate::onnx::{Model, NodeProto};
use crate::samples::{Samples, Signature, Stream};

use super::plan::Plans;
use super::probe::Planted;

/// Nodes that are tried one by one at most: each is planned and run.
const TRIED: usize = 64;

impl Engine {
    /// An engine that runs those recurrent nodes of a model that do not need what cannot be run; `None` if there is none.
    /// Each is tried on the first of the samples. Its outputs are values inside the model, and states that are carried.
    ///
    /// It is for watching recurrent nodes ([`Tap`](super::Tap)) where [`Engine::new`] or a run of the whole model fails.
    pub fn partial(model: &Model, samples: &Samples) -> Option<Engine> {
        let first = samples.streams.iter().find(|stream| !stream.feeds.is_empty())?;
        let first = Stream { feeds: first.feeds[..1].to_vec(), ..Stream::default() };
        let attempt = |wanted: &[String]| {
            let carried = samples.carry.iter().map(|carry| &carry.output).filter(|name| !wanted.contains(name));
            let outputs: Vec<String> = wanted.iter().chain(carried).cloned().collect();
            // What fails is what is left out: why the whole model cannot be run is known and reported by the caller.
            let engine = Engine::of_part(model, &outputs).ok()?;
            engine.run_stream(&first, &samples.carry, &Overrides::default(), None).ok()?;
            Some(engine)
        };
        let wanted = recurrent_values(model);
        if wanted.is_empty() {
            return None;
        }
        if let Some(engine) = attempt(&wanted) {
            return Some(engine);
        }
        let mut kept = (Vec::new(), None);
        for value in wanted.into_iter().take(TRIED) {
            let mut more = kept.0.clone();
            more.push(value);
            if let Some(engine) = attempt(&more) {
                kept = (more, Some(engine));
            }
        }
        kept.1
    }

    /// An engine that makes these values of the model's graph, and runs nothing else.
    fn of_part(model: &Model, outputs: &[String]) -> Result<Engine> {
        let numbers = numbers(model);
        let (lean, weights) = weights::take(model, &numbers)?;
        let plans = Plans::new(&lean, Some(outputs), &Planted::default())?;
        Ok(Engine { plans, numbers, weights, signature: Signature::of(model)? })
    }
}

/// For each node of the model's graph that is recurrent, or holds a recurrent node, a value that it makes; those that
/// need the fewest nodes first.
fn recurrent_values(model: &Model) -> Vec<String> {
    let Some(graph) = &model.proto.graph else { return Vec::new() };
    let value = |node: &NodeProto| node.output.iter().find(|name| !name.is_empty()).cloned();
    let mut values: Vec<(usize, String)> = Vec::new();
    for name in graph.node.iter().filter(|node| is_recurrent(node)).filter_map(value) {
        let needed = cut::ancestors(graph, std::slice::from_ref(&name)).len();
        values.push((needed, name));
    }
    values.sort_by_key(|(needed, _)| *needed);
    values.into_iter().map(|(_, name)| name).collect()
}

fn is_recurrent(node: &NodeProto) -> bool {
    cell_of(node).is_some() || bodies(node).any(|(_, _, body)| body.node.iter().any(is_recurrent))
}
