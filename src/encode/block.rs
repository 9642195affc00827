//! What the rows of a site are stored as, the nodes that decode them, and how those are recognised in a file: the part of a
//! codec that knows ONNX.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::{ArrayView2, Axis, Slice};

use super::writer::{Home, Run, Writer};
use super::{Stored, StoredMatrix, projected};
use crate::code::CodedSite;
use crate::dictionary::{BlockCode, Part, Projected};
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::{ElementType, Model, NodeProto, Origin, Scope, TensorProto, Values, tensor};
use crate::recurrent::Source;

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

/// The codec of weights, if nodes of a codec decode them: a Gather of rows of an int8 codebook by uint8 codes, all
/// constants, and the operators that the forms add; the codebook of a uint8 tensor is uint8. Quantised weights of other tools
/// are integers too, but without such a table look-up.
pub fn codec(model: &Model, values: &Values<'_>, source: &Source) -> Option<&'static str> {
    // The graph need not be searched for weights of which no constant is of a type that codecs store.
    let atoms = if source.element == ElementType::Uint8 { ElementType::Uint8 } else { ElementType::Int8 };
    source.constants.iter().any(|constant| constant.element == atoms).then_some(())?;
    codec_of_value(model, values, &source.scope, &source.value)
}

/// The codec that decodes the value `name` of the graph at `scope`.
pub(super) fn codec_of_value(model: &Model, values: &Values<'_>, scope: &Scope, name: &str) -> Option<&'static str> {
    looks_up(model, values, scope, name, false, 0, &mut BTreeSet::new())
}

fn looks_up(
    model: &Model,
    values: &Values<'_>,
    scope: &Scope,
    name: &str,
    product: bool,
    depth: usize,
    seen: &mut BTreeSet<(Scope, String)>,
) -> Option<&'static str> {
    let (home, node) = maker(model, values, scope, name)?;
    // No deeper than a value is followed that is to be evaluated: the stack has an end.
    let too_deep = depth > limits::FOLD_DEPTH;
    if too_deep || !is_standard(node.domain()) || !seen.insert((home.clone(), name.to_owned())) {
        return None;
    }
    let product = product || node.op_type() == "MatMul";
    let mut inner = |inputs: &[String]| {
        inputs.iter().find_map(|input| looks_up(model, values, home, input, product, depth + 1, seen))
    };
    match (node.op_type(), &node.input[..]) {
        ("Gather", [codebook, indices]) => {
            let mut codes = maker(model, values, home, indices);
            // Runs of a table that is looked up too are cut out of its codes.
            if let Some((home, slice)) = codes.filter(|(_, node)| node.op_type() == "Slice") {
                codes = slice.input.first().and_then(|whole| maker(model, values, home, whole));
            }
            let codes = codes.filter(|(_, node)| node.op_type() == "Cast");
            let codes = codes.and_then(|(home, cast)| stored(model, values, home, cast.input.first()?));
            let is = |tensor: Option<&TensorProto>, element: ElementType| {
                tensor.is_some_and(|t| t.data_type() == element as i32 && t.dims.len() == 2)
            };
            // The atoms of linear nodes become floats first.
            let cast = maker(model, values, home, codebook).filter(|(_, node)| node.op_type() == "Cast");
            let atoms = match cast {
                Some((home, cast)) => cast.input.first().and_then(|input| stored(model, values, home, input)),
                None => stored(model, values, home, codebook),
            };
            let is_codebook = is(atoms, ElementType::Int8) || is(atoms, ElementType::Uint8);
            let found = is_codebook && is(codes, ElementType::Uint8);
            found.then_some(if product { "projection" } else { "block" })
        }
        ("Mul" | "Concat" | "MatMul", inputs) => inner(inputs),
        ("Cast" | "Reshape" | "Slice" | "Transpose" | "Identity", [first, ..]) => inner(std::slice::from_ref(first)),
        _ => None,
    }
}

/// The node that makes a value, and its graph.
fn maker<'m, 'v>(
    model: &'m Model,
    values: &'v Values<'_>,
    scope: &Scope,
    name: &str,
) -> Option<(&'v Scope, &'m NodeProto)> {
    let definition = values.resolve(scope, name)?;
    match definition.origin {
        Origin::Node { node, .. } => Some((&definition.scope, model.node(&definition.scope, node))),
        _ => None,
    }
}

/// A stored tensor by the name of its value.
fn stored<'m>(model: &'m Model, values: &Values<'_>, scope: &Scope, name: &str) -> Option<&'m TensorProto> {
    model.initializer(values.resolve(scope, name)?).or_else(|| {
        let (_, node) = maker(model, values, scope, name).filter(|(_, node)| node.op_type() == "Constant")?;
        node.attribute.iter().find(|a| a.name() == "value")?.t.as_ref()
    })
}
