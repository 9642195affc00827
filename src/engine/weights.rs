//! Large weights stay out of tract.
//!
//! W and R that are stored as single-precision initializers and used by recurrent nodes only are read once and handed to
//! the operator by number, the way a caller's [`Overrides`] are. tract reads a model without them: it would need them
//! three times while it does, and one of the copies for as long as the model lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ndarray::{Array3, Ix3};

use super::{Overrides, cell_of};
use crate::error::Result;
use crate::onnx::graph::plain_name;
use crate::onnx::{Definition, ElementType, Model, Scope, Use, Values};
use crate::recurrent::Matrix;

/// The model without these weights, and the weights by number of the recurrent node.
pub(super) fn take(model: &Model, numbers: &HashMap<(Scope, usize), usize>) -> Result<(Model, Overrides)> {
    let values = Values::new(&model.proto)?;
    let mut known: HashMap<(Scope, String), Arc<Array3<f32>>> = HashMap::new();
    let mut left_out = Vec::new();
    let mut taken = Overrides::default();
    // In the order of the nodes, so that of several errors it is always the same one that is told.
    let nodes: BTreeMap<usize, &(Scope, usize)> = numbers.iter().map(|(node, &number)| (number, node)).collect();
    for (number, (scope, index)) in nodes {
        for matrix in Matrix::BOTH {
            let Some(name) = model.node(scope, *index).input.get(matrix.input()).filter(|name| !name.is_empty()) else {
                continue;
            };
            let Some(definition) = values.resolve(scope, name) else { continue };
            let Some(tensor) = model.initializer(definition) else { continue };
            let is_plain = tensor.data_type() == ElementType::Float as i32 && tensor.dims.len() == 3;
            if !is_plain || !is_taken_whole(model, &values, definition, name) {
                continue;
            }
            let key = (definition.scope.clone(), name.clone());
            let weights = match known.get(&key) {
                Some(weights) => weights.clone(),
                None => {
                    let read =
                        model.floats(tensor).map_err(|e| e.at_node(plain_name(model.node(scope, *index), *index)))?;
                    let read = read.into_dimensionality::<Ix3>().expect("three dimensions were seen");
                    left_out.push(definition.clone());
                    known.entry(key).or_insert(Arc::new(read)).clone()
                }
            };
            taken.weights.insert((number, matrix), weights);
        }
    }
    Ok((model.without(&left_out), taken))
}

/// Whether the value is constant and nobody but recurrent nodes reads it, as their W or R.
fn is_taken_whole(model: &Model, values: &Values<'_>, definition: &Definition, name: &str) -> bool {
    !definition.is_input
        && values.uses(&definition.scope, name).iter().all(|used| match used {
            Use::Node { scope, node, input } => {
                let matrices = Matrix::BOTH.map(Matrix::input);
                cell_of(model.node(scope, *node)).is_some() && matrices.contains(input)
            }
            Use::Output { .. } | Use::Training => false,
        })
}
