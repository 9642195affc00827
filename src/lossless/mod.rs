//! Makes a model's file smaller without changing what it computes: what is stored twice, what nothing reads, what an
//! exporter left behind, and integers and tables that are written more widely than they need.
//!
//! [`apply`] takes a list of steps one after the other and measures the file after each. A step that does not make the file
//! smaller is undone. Every step but one keeps each value of the graph bit for bit; that one, the windowed DFT basis of
//! speech models, is generated within 4e-7 of the largest entry of the stored table, can be switched off, and is never
//! called lossless.
//!
//! Invariants: graph inputs and outputs keep their names, types and order; a value that a caller may override or that
//! training reads is left alone; what is not understood is left as it is. Model-local functions and bodies are renamed and
//! cleaned like every other graph, but constants are rewritten in scopes only.

mod basis;
mod constants;
mod equal;
mod integers;
mod names;
mod packing;
mod pieces;
#[cfg(test)]
mod tests;
mod traces;
mod unused;

use crate::error::Result;
use crate::onnx::proto::FunctionProto;
use crate::onnx::{Model, ModelProto};

pub use constants::restored;

/// Up to this IR version every initializer must be a graph input too: constants of such models are not rewritten.
const INITIALIZERS_ARE_INPUTS: i64 = 3;

/// What is done besides what is always done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LosslessOptions {
    /// Whether a windowed DFT basis may be computed at load time instead of stored.
    pub generate_dft: bool,
    /// Whether nodes keep their names.
    pub keep_names: bool,
}

impl Default for LosslessOptions {
    fn default() -> Self {
        LosslessOptions { generate_dft: true, keep_names: false }
    }
}

/// A step that made the file smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// What was done.
    pub name: &'static str,
    /// Bytes that the file lost, exactly.
    pub bytes: u64,
    /// Whether all values stay the same bit for bit; not where a table is generated.
    pub exact: bool,
}

/// The name of the step that computes the DFT basis at load time.
pub const GENERATED: &str = "DFT basis generated";

type Change = fn(&mut Model) -> Result<()>;

/// The steps in their order: what goes away first, then what is stored in another way, names last.
const STEPS: &[(&str, Change)] = &[
    ("exporter traces", traces::strip),
    ("unused parts", unused::drop),
    ("equal constants once", equal::store_once),
    (GENERATED, basis::generate),
    ("exact dictionaries", pieces::store),
    ("narrow integers", integers::narrow),
    ("Constant nodes as initializers", constants::as_initializers),
    ("compact values", packing::pack),
    ("short value names", names::shorten),
];

/// The model after all steps, and what each of them saved. Names of nodes stay: [`clear_node_names`] removes them.
///
/// # Errors
/// Those of [`Values::new`](crate::onnx::Values::new); [`Malformed`](crate::error::ErrorKind::Malformed) for a tensor in a
/// side file whose size is not known.
pub fn apply(model: &Model, options: &LosslessOptions) -> Result<(Model, Vec<Saving>)> {
    let mut steps = Vec::new();
    let mut current = model.clone();
    current.measure()?;
    for &(name, change) in STEPS {
        if name == GENERATED && !options.generate_dft {
            continue;
        }
        steps.extend(take(&mut current, name, change)?);
    }
    Ok((current, steps))
}

/// Removes the names of all nodes, which no runtime needs. Reports, patterns and plans name nodes, so that this comes after
/// nodes were found; their places do not change.
///
/// # Errors
/// As [`apply`].
pub fn clear_node_names(model: &mut Model) -> Result<Option<Saving>> {
    take(model, "node names", names::clear)
}

/// The model-local functions that are called, in a form in which two models have the same if they compute the same by the
/// same nodes: without names, traces, and the choice of the field that holds values.
pub fn plain_functions(model: &Model) -> Vec<FunctionProto> {
    let mut model = model.clone();
    model.proto.graph.iter_mut().for_each(|graph| graph.initializer.clear());
    unused::drop_functions(&mut model);
    let mut functions = std::mem::take(&mut model.proto.functions);
    for function in &mut functions {
        traces::strip_function(function);
        names::clear_nodes(&mut function.node);
        names::number(function);
    }
    model.proto = ModelProto { functions, ..Default::default() };
    // Only errors of its callback fail.
    let _ = packing::pack(&mut model);
    model.proto.functions
}

/// Takes a step, unless the file does not become smaller.
fn take(model: &mut Model, name: &'static str, change: Change) -> Result<Option<Saving>> {
    let before = model.bytes();
    let mut changed = model.clone();
    change(&mut changed)?;
    changed.measure()?;
    if changed.bytes() >= before {
        return Ok(None);
    }
    let bytes = before - changed.bytes();
    *model = changed;
    Ok(Some(Saving { name, bytes, exact: name != GENERATED }))
}
