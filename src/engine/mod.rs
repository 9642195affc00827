//! Runs a model: the only code that knows tract.
//!
//! tract silently ignores some attributes of `LSTM`, `GRU` and `RNN` (`direction=reverse`, `clip`, `activations`,
//! `input_forget`) and refuses others, so these operators are replaced by our own [`cell`](crate::cell) here, in every
//! graph of the model. That operator is also where a run can be watched ([`Tap`]) and where other weights can be put
//! in place of the model's ([`Overrides`]) without planning the model anew.
//!
//! A *recurrent node* is known by its number: its place among the LSTM, GRU and RNN nodes of the standard domain, outer
//! graphs before inner ones, in the order of the nodes ([`Engine::number`]).
//!
//! Invariant: a run gives either the outputs that the ONNX specification defines, to the rounding of single precision,
//! or an error. It never panics: panics of tract become errors. It does not bound the time and memory of a hostile model.
//! Run untrusted models in a separate process, as the command line does, and end it when [`longest_call`] exceeds a limit.

mod branch;
mod cut;
mod dimension;
mod domain;
mod draw;
mod exact;
mod fold;
mod guard;
mod inline;
mod kernel;
mod lost;
mod lower;
mod operator;
mod partial;
mod plan;
mod probe;
mod recorder;
mod repeat;
mod sequence;
mod standard;
mod stream;
mod value;
mod weights;

pub use draw::is_random;
pub use guard::longest_call;
pub use probe::{Constant, ConstantId, Probes, TapId, ValueRef};
pub use recorder::{Floats, Overrides, Pass, Tap, Visit};

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::graph::is_standard;
use crate::onnx::{Model, NodeProto, Scope};
use crate::recurrent::{Cell, Matrix};
use crate::samples::{Feed, Signature, Tensor};
use ndarray::Array3;
use plan::{Plan, Plans};
use probe::Planted;
use std::collections::HashMap;
use std::sync::Arc;

/// The outputs of a run, in the order of the graph's outputs.
pub type Outputs = Vec<(String, Tensor)>;

/// A model ready to run. May be used from several threads at once.
pub struct Engine {
    plans: Plans,
    numbers: HashMap<(Scope, usize), usize>,
    weights: Overrides,
    signature: Signature,
}

impl Engine {
    /// Prepares a model; it is planned when the first run shows the shapes of its inputs.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] for a model that tract cannot read, [`ErrorKind::Limit`] for one whose constants are too
    /// large to run.
    pub fn new(model: &Model) -> Result<Engine> {
        let numbers = numbers(model);
        let (lean, weights) = weights::take(model, &numbers)?;
        let plans = Plans::new(&lean, None, &Planted::default())?;
        Ok(Engine { plans, numbers, weights, signature: Signature::of(model)? })
    }

    /// An engine that shows values inside the model, and takes other tensors for constants of it.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`ErrorKind::Usage`] for a value that cannot be probed.
    pub fn probing(model: &Model, probes: &Probes) -> Result<Engine> {
        let (probed, planted, defaults) = probe::plant(model, probes)?;
        // Planting moves nodes, but not the order of the recurrent ones.
        let (lean, mut weights) = weights::take(&probed, &numbers(&probed))?;
        weights.constants = defaults.into_iter().enumerate().map(|(n, value)| (ConstantId(n), value)).collect();
        let plans = Plans::new(&lean, None, &planted)?;
        Ok(Engine { plans, numbers: numbers(model), weights, signature: Signature::of(model)? })
    }

    /// W or R `[dirs, G*H, n]` of a recurrent node by its number; `None` if it is computed in the graph or used elsewhere
    /// too.
    pub fn weights(&self, node: usize, matrix: Matrix) -> Option<&Arc<Array3<f32>>> {
        self.weights.weights.get(&(node, matrix))
    }

    /// The number of the recurrent node at `index` of the graph at `scope`; `None` if there is no such node.
    pub fn number(&self, scope: &Scope, index: usize) -> Option<usize> {
        self.numbers.get(&(scope.clone(), index)).copied()
    }

    /// Runs the model on one feed. `tap` is shown what its recurrent nodes did, in the order in which they ran, once
    /// the run is over.
    ///
    /// # Errors
    /// [`ErrorKind::Samples`] for a feed that does not fit the model's inputs; [`ErrorKind::Engine`] or
    /// [`ErrorKind::Limit`] where the model cannot be run.
    pub fn run(&self, feed: &Feed, tap: Option<&dyn Tap>) -> Result<Outputs> {
        self.run_with(feed, &Overrides::default(), tap)
    }

    /// [`run`](Self::run) with other weights or biases in place of some of the model's.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`ErrorKind::Engine`] too for weights or biases of another shape than the node's.
    pub fn run_with(&self, feed: &Feed, overrides: &Overrides, tap: Option<&dyn Tap>) -> Result<Outputs> {
        let salt = if self.plans.draws { draw::salt(feed, 0) } else { 0 };
        self.run_salted(feed, overrides, tap, salt)
    }

    /// [`run_with`](Self::run_with), with the draws of random operators that follow from `salt`.
    fn run_salted(&self, feed: &Feed, overrides: &Overrides, tap: Option<&dyn Tap>, salt: u64) -> Result<Outputs> {
        let run = |plan: &Plan| {
            let work = || draw::during(salt, || plan.run(feed));
            recorder::during(tap.is_some(), [overrides, &self.weights], work)
        };
        let (outputs, recorded) = self.plans.with(feed, run)?;
        if let Some(tap) = tap {
            recorded.visits.iter().for_each(|visit| tap.visit(visit));
            recorded.values.iter().for_each(|(id, value)| tap.value(*id, value));
        }
        Ok(outputs)
    }
}

fn numbers(model: &Model) -> HashMap<(Scope, usize), usize> {
    let mut numbers = HashMap::new();
    for (scope, graph) in model.graphs() {
        for (index, _) in graph.node.iter().enumerate().filter(|(_, node)| cell_of(node).is_some()) {
            let next = numbers.len();
            numbers.insert((scope.clone(), index), next);
        }
    }
    numbers
}

/// Which cell a node is, if it is a recurrent node of the standard domain.
fn cell_of(node: &NodeProto) -> Option<Cell> {
    Cell::of_operator(node.op_type()).filter(|_| is_standard(node.domain()))
}

fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Engine, message)
}
