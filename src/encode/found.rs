//! The inverse of the forms that replace a recurrent node: finds the dense node.

use ndarray::{Array2, Array3, ArrayD, Axis, concatenate};

use super::{FoundTable, fast, table, vendor};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{Model, NodeProto, Scope};
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

/// All tables of a model that are looked up in codes of this crate.
///
/// # Errors
/// As [`find`].
pub fn find_tables(model: &Model) -> Result<Vec<FoundTable>> {
    table::find(model, &mut Constants::new(model)?)
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
