//! The portable form: the recurrent node stays, and standard operators that every runtime folds rebuild its weights.
//!
//! ```text
//! codes - ... - levels i8 [1, rows, n] - Cast float -+
//! ... one such run for each group of neighbouring    +- Concat - Mul(scales [1, G*H, 1]) - W
//!     gates with the same codebook ...               |
//! ```
//! The weights stay int8 up to the last Cast: onnxruntime keeps every intermediate of a constant-folding pass until the
//! pass ends, so the peak of memory while a model loads is the sum over these nodes. One Mul serves all gates, on
//! operands of three dimensions, so that no Unsqueeze copies the big tensor. An int8 Concat would be smaller still, but
//! rten has none.

use ndarray::{Axis, Slice};

use super::writer::{Home, Run, Writer, runs};
use super::{Block, Stored, Subject, projected};
use crate::onnx::{ElementType, tensor};

/// Weights in one run of nodes, padding included: tract folds a node only if its output takes at most 4 MiB or no more
/// than its inputs.
const RUN_WEIGHTS: usize = 1 << 20;

/// Writes the nodes that rebuild `stored`, and returns the name of the value.
pub fn write(writer: &mut Writer<'_, '_>, stored: &Stored<'_>, home: Home<'_>) -> String {
    let runs = runs(stored, RUN_WEIGHTS);
    let rows = stored.rows();
    let mut parts: Vec<Vec<String>> = vec![Vec::new(); stored.directions];
    let whole = runs.len() == 1;
    let mut row = 0;
    for run in &runs {
        let shape = if whole { [stored.directions, rows] } else { [1, run.rows()] };
        parts[row / rows].push(float(writer, stored, run, shape, home));
        row += run.rows();
    }
    let last = |element| if element == stored.element { stored.name.clone() } else { format!("{}/float", stored.name) };
    let joined: Vec<_> = parts
        .into_iter()
        .filter(|parts| !parts.is_empty())
        .enumerate()
        .map(|(direction, parts)| writer.concat(&format!("{}/{direction}/levels", stored.name), 1, parts))
        .collect();
    let levels = writer.concat(&format!("{}/levels", stored.name), 0, joined);
    let value = match writer.scales(stored, &[stored.directions, rows, 1], home) {
        Some(scales) => writer.node("Mul", &[&levels, &scales], &last(ElementType::Float), vec![]),
        None => levels,
    };
    match stored.element {
        ElementType::Float => value,
        element => writer.cast(&value, element, &stored.name),
    }
}

/// The weights of one run as float of shape `[shape.., n]`, without the scales of its rows if they are coded in blocks.
fn float(writer: &mut Writer<'_, '_>, stored: &Stored<'_>, run: &Run<'_>, shape: [usize; 2], home: Home<'_>) -> String {
    let name = format!("{}/levels", run.stem(stored));
    if run.is_coded() {
        let mut levels = writer.levels(stored, run, &shape, home);
        if !matches!(stored.of, Subject::Weight(_)) {
            // OpenVINO takes int8 that goes to float and into a product for compressed weights, and does not fold it.
            levels = writer.cast(&levels, ElementType::Int32, &format!("{name}/wide"));
        }
        return writer.cast(&levels, ElementType::Float, &name);
    }
    let rows = run.projected();
    if !rows.is_empty() {
        return projected::write(writer, stored, run, &rows, home);
    }
    // In the element type that they had, if a Cast to float keeps their values.
    let half = stored.element == ElementType::Float16;
    let value = writer.constant(home.constants, stored, run.range(), "dense", &run.stem(stored), |name| {
        let values = run.parts.iter().flat_map(|(block, range)| match block {
            Block::Dense(rows) => rows.slice_axis(Axis(0), Slice::from(range.clone())).iter().copied().collect(),
            Block::Coded(_) | Block::Projected(_) => Vec::new(),
        });
        let shape = [shape[0], shape[1], stored.columns];
        if half {
            tensor::float16(name, &shape, &values.map(half::f16::from_f32).collect::<Vec<_>>())
        } else {
            tensor::float(name, &shape, &values.collect::<Vec<_>>())
        }
    });
    if half { writer.cast(&value, ElementType::Float, &name) } else { value }
}
