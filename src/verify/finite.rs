//! Whether the constants that recurrent nodes read are numbers.
//!
//! What a runtime makes of a weight that is NaN or infinite is its own: one keeps NaN, another clamps it to the end of an
//! activation, so that outputs may agree here and be apart elsewhere. To run such models shows nothing.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::onnx::graph::plain_name;
use crate::onnx::{Model, Origin, Scope, TensorProto, Values};

use super::difference::cell;

/// The inputs of a recurrent node that may be constants of floats, by their names in the specification.
const FLOATS: [(usize, &str); 6] = [(1, "W"), (2, "R"), (3, "B"), (5, "initial_h"), (6, "initial_c"), (7, "P")];

/// The first recurrent node with a constant that is not finite, and which of its inputs that is.
///
/// # Errors
/// Those of [`Values::new`], and of reading the constants.
pub(super) fn fault(model: &Model) -> Result<Option<(String, &'static str)>> {
    let values = Values::new(&model.proto)?;
    let mut known = BTreeSet::new();
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate().filter(|(_, node)| cell(node).is_some()) {
            for (input, letter) in FLOATS {
                let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { continue };
                let Some(tensors) = behind(model, &values, &scope, name) else { continue };
                for tensor in tensors {
                    let is_new = known.insert(std::ptr::from_ref(tensor));
                    if is_new && !is_finite(model, tensor)? {
                        return Ok(Some((plain_name(node, index), letter)));
                    }
                }
            }
        }
    }
    Ok(None)
}

fn is_finite(model: &Model, tensor: &TensorProto) -> Result<bool> {
    use crate::onnx::ElementType;
    let is_float = ElementType::of(tensor).is_ok_and(ElementType::is_float);
    Ok(!is_float || model.floats(tensor)?.iter().all(|v| v.is_finite()))
}

/// The stored tensors that a value is computed from; `None` if it is computed from an input too.
fn behind<'m>(model: &'m Model, values: &Values<'_>, scope: &Scope, name: &str) -> Option<Vec<&'m TensorProto>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![(scope.clone(), name.to_owned())];
    let mut found = Vec::new();
    while let Some((scope, name)) = open.pop() {
        let definition = values.resolve(&scope, &name)?;
        if !seen.insert((definition.scope.clone(), name)) {
            continue;
        }
        match definition.origin {
            Origin::Input(_) => return None,
            Origin::Initializer(_) => found.extend(model.initializer(definition)),
            Origin::SparseInitializer(_) => {}
            Origin::Node { node, .. } => {
                let proto = model.node(&definition.scope, node);
                found.extend(proto.attribute.iter().filter_map(|attribute| attribute.t.as_ref()));
                let inputs = proto.input.iter().filter(|name| !name.is_empty());
                open.extend(inputs.map(|name| (definition.scope.clone(), name.clone())));
            }
        }
    }
    Some(found)
}
