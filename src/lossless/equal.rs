//! Equal constants stored once: tensors of the same type, shape and bits.
//!
//! Copies in one graph become one of them. Large copies in different graphs, such as the layers of the two branches of an
//! If, become an initializer of the innermost graph around all of them. Small ones stay with their graph: some runtimes
//! want shapes and axes beside the node that reads them.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::constants::{Constant, free, may_rewrite};
use crate::error::Result;
use crate::onnx::{Model, Rewriter, Scope, TensorProto, Values, tensor};

/// Bytes from which copies in different graphs are stored once.
const MOVED_BYTES: u64 = 256;

/// Stores equal constants once.
pub(super) fn store_once(model: &mut Model) -> Result<()> {
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let constants = free(&source, &values);
    let may_move = may_rewrite(&source);
    let mut rewriter = Rewriter::new(model);
    for class in classes(&source, &constants) {
        if may_move && tensor::stored_bytes(class[0].tensor) >= MOVED_BYTES {
            merge(&source, &values, &mut rewriter, &class);
            continue;
        }
        let mut by_scope: BTreeMap<&Scope, Vec<&Constant<'_>>> = BTreeMap::new();
        class.iter().for_each(|constant| by_scope.entry(&constant.scope).or_default().push(constant));
        by_scope.values().for_each(|class| merge(&source, &values, &mut rewriter, class));
    }
    rewriter.finish()?;
    Ok(())
}

/// The constants that are equal to another one, class by class.
fn classes<'c, 'm>(model: &Model, constants: &'c [Constant<'m>]) -> Vec<Vec<&'c Constant<'m>>> {
    let mut alike: BTreeMap<(i32, &[i64]), Vec<usize>> = BTreeMap::new();
    for (index, constant) in constants.iter().enumerate().filter(|(_, constant)| !constant.uses.is_empty()) {
        alike.entry((constant.tensor.data_type(), &constant.tensor.dims[..])).or_default().push(index);
    }
    let mut found = Vec::new();
    for members in alike.values().filter(|members| members.len() > 1) {
        let mut by_hash: HashMap<u64, Vec<Vec<usize>>> = HashMap::new();
        for &index in members {
            let Ok(payload) = model.payload(constants[index].tensor) else { continue };
            let mut hasher = DefaultHasher::new();
            payload.hash(&mut hasher);
            let classes = by_hash.entry(hasher.finish()).or_default();
            let is =
                |class: &&mut Vec<usize>| model.payload(constants[class[0]].tensor).is_ok_and(|other| other == payload);
            match classes.iter_mut().find(is) {
                Some(class) => class.push(index),
                None => classes.push(vec![index]),
            }
        }
        found.extend(by_hash.into_values().flatten().filter(|class| class.len() > 1));
    }
    found.sort();
    found.into_iter().map(|class| class.into_iter().map(|index| &constants[index]).collect()).collect()
}

/// Makes the readers of all members read one of them, or a new constant in the graph around all.
fn merge(model: &Model, values: &Values<'_>, rewriter: &mut Rewriter<'_>, class: &[&Constant<'_>]) {
    let [first, rest @ ..] = class else { return };
    if rest.is_empty() {
        return;
    }
    let home = rest.iter().fold(first.scope.clone(), |home, constant| home.common(&constant.scope));
    let one_graph = class.iter().all(|constant| constant.scope == home);
    // A Constant node serves what comes after it; which of several graphs' nodes do is not asked.
    let serves = |constant: &&&Constant<'_>| {
        constant.scope == home
            && (constant.node.is_none() || one_graph)
            && class.iter().flat_map(|member| &member.uses).all(|(scope, ..)| {
                values.resolve(scope, constant.name).is_some_and(|definition| definition.scope == home)
            })
    };
    // Initializers come first, and then nodes in their order.
    let kept = class.iter().find(serves).filter(|kept| kept.node.is_none() || in_order(class, kept));
    let name = match kept {
        Some(kept) => kept.name.to_owned(),
        None if one_graph && !may_rewrite(model) => return,
        None => {
            let name = rewriter.fresh(first.name);
            rewriter.add_constant(&home, TensorProto { name: Some(name.clone()), ..first.tensor.clone() });
            name
        }
    };
    for constant in class.iter().filter(|constant| constant.scope != home || constant.name != name) {
        constant.replace(rewriter, &name);
    }
}

/// Whether a Constant node stands before all that read a member of its class.
fn in_order(class: &[&Constant<'_>], kept: &Constant<'_>) -> bool {
    let Some(node) = kept.node else { return true };
    let home = &kept.scope;
    class.iter().flat_map(|member| &member.uses).all(|(scope, reader, _)| node < home.node_around(scope, *reader))
}
