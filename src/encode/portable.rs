//! The portable form: the recurrent node stays, and standard operators that every runtime folds decode its weights.
//!
//! ```text
//! codes - ... - levels i8 [1, rows, n] - Cast float -+
//! ... one such run for each group of neighbouring    +- Concat - Mul(scales [1, G*H, 1]) - W
//!     gates with the same codebook ...               |
//! ```
//! The weights stay int8 up to the Cast: onnxruntime keeps every intermediate of a constant-folding pass until the pass
//! ends, so the peak of memory while a model loads is the sum over these nodes. One Mul serves all gates, on operands of
//! three dimensions, so that no Unsqueeze copies the big tensor. What is left is three floats a weight, and no operator
//! that all runtimes have makes do with fewer: rten joins no int8, tract folds no Cast of joined runs (`RUN_WEIGHTS`),
//! onnxruntime does not fold DequantizeLinear, and a Gather of floats costs a Reshape of floats in the Cast's place. Pieces of
//! several rows instead of several columns would do with two, joined once: but a Gather of single floats is as slow as the
//! three, and GatherElements from a table for each row, which is fast, OpenVINO does not fold.

use super::writer::{Home, Writer};
use super::{Stored, block};
use crate::onnx::ElementType;

/// Weights in one run of nodes, padding included: tract folds a node only if its output takes at most 4 MiB or no more
/// than its inputs.
const RUN_WEIGHTS: usize = 1 << 20;

/// Writes the nodes that decode `stored`, and returns the name of the value.
pub fn write(writer: &mut Writer<'_, '_>, stored: &Stored<'_>, home: Home<'_>) -> String {
    let levels =
        writer.joined(stored, RUN_WEIGHTS, |writer, run, shape| block::float(writer, stored, run, shape, home));
    let is_float = stored.element == ElementType::Float;
    let name = if is_float { stored.name.clone() } else { format!("{}/float", stored.name) };
    let value = match writer.scales(stored, &[stored.directions, stored.rows(), 1], home) {
        Some(scales) => writer.node("Mul", &[&levels, &scales], &name, vec![]),
        None => levels,
    };
    if is_float { value } else { writer.cast(&value, stored.element, &stored.name) }
}
