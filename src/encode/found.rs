//! The inverse of the forms that replace a recurrent node: finds the dense node.

use std::collections::BTreeSet;

use ndarray::{Array2, Array3, ArrayD, Axis, concatenate};

use super::{fast, vendor};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::{ElementType, Model, NodeProto, Origin, Scope, TensorProto, Values};
use crate::recurrent::Constants;

/// A recurrent node that was replaced by another form.
#[derive(Clone, Debug)]
pub struct Found {
    /// The graph that it was in.
    pub scope: Scope,
    /// The nodes of that graph to remove, with all that only they need.
    pub nodes: Vec<usize>,
    /// The node before which the dense one goes.
    pub before: usize,
    /// The dense node; its inputs W and R, and B if there is a `bias`, are to be named.
    pub node: NodeProto,
    /// `W [directions, G*H, I]`.
    pub w: Array3<f32>,
    /// `R [directions, G*H, H]`.
    pub r: Array3<f32>,
    /// `B [directions, 2*G*H]`, where it is not an input of the node already.
    pub bias: Option<Array2<f32>>,
}

/// All such nodes of a model that this crate made. One budget serves them all: a file of a thousand nodes gets no more
/// memory than one of a single node.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where some other tool has changed what the way back needs.
pub fn find(model: &Model) -> Result<Vec<Found>> {
    let mut constants = Constants::new(model)?;
    let mut found = fast::find(model, &mut constants)?;
    found.extend(vendor::find(model, &mut constants)?);
    Ok(found)
}

/// Whether a value is decoded from a dictionary: it is computed by a Gather of rows of an int8 codebook by uint8 codes, all
/// constants, and the operators that the forms add. Quantised weights of other tools are integers too, but without such a
/// table look-up.
pub fn codec(model: &Model, values: &Values<'_>, scope: &Scope, name: &str) -> Option<&'static str> {
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
            let codes = maker(model, values, home, indices).filter(|(_, node)| node.op_type() == "Cast");
            let codes = codes.and_then(|(home, cast)| stored(model, values, home, cast.input.first()?));
            let is = |tensor: Option<&TensorProto>, element: ElementType| {
                tensor.is_some_and(|t| t.data_type() == element as i32 && t.dims.len() == 2)
            };
            let found = is(stored(model, values, home, codebook), ElementType::Int8) && is(codes, ElementType::Uint8);
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

/// The numbers of a value that is constant in what this crate writes.
pub(super) fn constant(constants: &mut Constants<'_>, scope: &Scope, name: &str) -> Result<ArrayD<f32>> {
    constants.get(scope, name).map_err(|error| changed(&error.to_string()))
}

/// `levels [n, rows]` times a scale for each of `scales [rows]`, as `[rows, n]`.
pub(super) fn dense(levels: ArrayD<f32>, scales: ArrayD<f32>) -> Result<Array2<f32>> {
    let shapes = || changed("levels and scales do not fit");
    let levels: Array2<f32> = levels.into_dimensionality().map_err(|_| shapes())?;
    if scales.shape() != [levels.ncols()] {
        return Err(shapes());
    }
    let mut rows = levels.reversed_axes();
    for (mut row, scale) in rows.outer_iter_mut().zip(&scales) {
        row.mapv_inplace(|level| level * scale);
    }
    Ok(rows)
}

/// One matrix for each direction as one tensor.
pub(super) fn stacked(directions: &[Array2<f32>]) -> Result<Array3<f32>> {
    let views: Vec<_> = directions.iter().map(|d| d.view().insert_axis(Axis(0))).collect();
    concatenate(Axis(0), &views).map_err(|_| changed("directions differ in shape"))
}

pub(super) fn changed(what: &str) -> Error {
    let message = format!("{what}: another tool changed the file; expand the file that 'dirnet compress' wrote");
    Error::new(ErrorKind::Unsupported, message)
}
