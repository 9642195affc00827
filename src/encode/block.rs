//! What the rows of a site are stored as, and the nodes that decode them: the part of a codec that knows ONNX.

use std::sync::Arc;

use ndarray::{ArrayView2, Axis, Slice};

use super::writer::{Home, Run, Writer};
use super::{Stored, StoredMatrix, projected};
use crate::code::CodedSite;
use crate::dictionary::{BlockCode, Part, Projected};
use crate::onnx::{ElementType, tensor};

/// The rows of one site, `[rows, columns]`, in the format in which they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Block<'a> {
    /// Codes, scales and a codebook.
    Coded(&'a BlockCode),
    /// Codes of projection dictionaries.
    Projected(&'a Projected),
    /// The rows, unchanged.
    Dense(ArrayView2<'a, f32>),
}

impl<'a> Block<'a> {
    /// Of a site; `rows` are its weights, for one that is not coded.
    pub(super) fn new(coded: Option<&'a CodedSite>, rows: ArrayView2<'a, f32>) -> Self {
        match coded {
            None => Block::Dense(rows),
            Some(CodedSite::Block(coded)) => Block::Coded(coded),
            Some(CodedSite::Projection(projected)) => Block::Projected(projected),
        }
    }

    pub(super) fn is_dense(&self) -> bool {
        matches!(self, Block::Dense(_))
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Block::Coded(coded) => coded.rows,
            Block::Projected(projected) => projected.rows,
            Block::Dense(rows) => rows.nrows(),
        }
    }

    /// Whether one chain of nodes can decode both.
    pub(super) fn is_like(&self, other: &Block<'_>) -> bool {
        match (self, other) {
            (Block::Coded(a), Block::Coded(b)) => Arc::ptr_eq(&a.codebook, &b.codebook),
            (Block::Dense(_), Block::Dense(_)) => true,
            (Block::Projected(a), Block::Projected(b)) => {
                let like = |(a, b): (&Part, &Part)| Arc::ptr_eq(&a.atoms, &b.atoms) && a.codes.len() == b.codes.len();
                a.parts.len() == b.parts.len() && a.parts.iter().zip(&b.parts).all(like)
            }
            _ => false,
        }
    }

    /// Weights in a row as it is decoded, padding included.
    pub(super) fn width(&self, columns: usize) -> usize {
        match self {
            Block::Coded(coded) => coded.codebook.spec.pieces(columns) * coded.codebook.spec.width,
            _ => columns,
        }
    }

    /// The codes of the row scales; ones for rows without.
    pub(super) fn scale_codes(&self) -> Vec<u8> {
        match self {
            Block::Coded(coded) => coded.scales.codes.clone(),
            block => vec![1; block.rows()],
        }
    }

    /// The value of a scale code of 1.
    pub(super) fn step(&self) -> f32 {
        match self {
            Block::Coded(coded) => coded.scales.step,
            _ => 1.0,
        }
    }
}

/// The weights of one run as float of shape `[shape.., n]`, without the scales of its rows if they are coded in blocks.
pub(super) fn float(
    writer: &mut Writer<'_, '_>,
    stored: &Stored<'_>,
    run: &Run<'_>,
    shape: [usize; 2],
    home: Home<'_>,
) -> String {
    let name = format!("{}/levels", run.stem(stored));
    match run.parts[0].0 {
        Block::Coded(_) => {
            let mut levels = writer.levels(stored, run, &shape, home);
            if !matches!(stored.of, StoredMatrix::Weight(_)) {
                // OpenVINO takes int8 that goes to float and into a product for compressed weights, and does not fold it.
                levels = writer.cast(&levels, ElementType::Int32, &format!("{name}/wide"));
            }
            writer.cast(&levels, ElementType::Float, &name)
        }
        Block::Projected(_) => projected::write(writer, stored, run, &run.projected(), home),
        Block::Dense(_) => dense(writer, stored, run, shape, home, &name),
    }
}

/// Rows as they are, in the element type that they had if a Cast to float keeps their values.
fn dense(
    writer: &mut Writer<'_, '_>,
    stored: &Stored<'_>,
    run: &Run<'_>,
    shape: [usize; 2],
    home: Home<'_>,
    name: &str,
) -> String {
    let half = stored.element == ElementType::Float16;
    let value = writer.constant(home.constants, stored, run.range(), "dense", &run.stem(stored), |name| {
        let values = run.parts.iter().flat_map(|(block, range)| match block {
            Block::Dense(rows) => rows.slice_axis(Axis(0), Slice::from(range.clone())).iter().copied().collect(),
            _ => Vec::new(),
        });
        let shape = [shape[0], shape[1], stored.columns];
        if half {
            tensor::float16(name, &shape, &values.map(half::f16::from_f32).collect::<Vec<_>>())
        } else {
            tensor::float(name, &shape, &values.collect::<Vec<_>>())
        }
    });
    if half { writer.cast(&value, ElementType::Float, name) } else { value }
}
