//! Whether a value is the same in every run of a model, found without computing it.

use std::collections::HashSet;

use super::Finder;
use crate::onnx::graph::{bodies, is_standard};
use crate::onnx::{NodeProto, Origin, Scope};

/// What a value depends on, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dependence {
    /// Constants.
    Constant,
    /// Constants, of which a caller may override some.
    Caller,
    /// What each run computes.
    Runs,
}

impl<'m> Finder<'m> {
    /// What a value depends on that is seen from a graph.
    pub(super) fn dependence(&mut self, scope: &Scope, name: &'m str) -> Dependence {
        let Some(top) = self.defined(scope, name) else { return Dependence::Runs };
        // By a list instead of calls: a model may have a chain of any length.
        let mut ahead = vec![top.clone()];
        let mut entered = HashSet::new();
        while let Some(value) = ahead.last().cloned() {
            if self.dependences.contains_key(&value) {
                ahead.pop();
                continue;
            }
            let is_new = entered.insert(value.clone());
            let behind = match self.own(&value) {
                Ok(own) => {
                    self.dependences.insert(value, own);
                    continue;
                }
                Err(behind) => behind,
            };
            let open: Vec<_> = behind.iter().filter(|value| !self.dependences.contains_key(*value)).cloned().collect();
            if open.is_empty() || !is_new {
                // What is still open the second time waits for this value: a cycle, which no model may have.
                let known = behind.iter().map(|value| self.dependences.get(value).copied().unwrap_or(Dependence::Runs));
                let most = known.max().unwrap_or(Dependence::Constant);
                self.dependences.insert(value, most);
            } else {
                ahead.extend(open);
            }
        }
        self.dependences[&top]
    }

    /// What a value depends on by itself, or else the values that it is computed from.
    fn own(&self, (scope, name): &(Scope, &'m str)) -> Result<Dependence, Vec<(Scope, &'m str)>> {
        let Some(definition) = self.values.resolve(scope, name) else { return Ok(Dependence::Runs) };
        match definition.origin {
            Origin::Input(_) => Ok(Dependence::Runs),
            Origin::Initializer(_) | Origin::SparseInitializer(_) => {
                let may_change = self.model.is_overridable(definition);
                let is_frozen = self.options.freeze_inputs && definition.scope.is_root();
                Ok(if may_change && !is_frozen { Dependence::Caller } else { Dependence::Constant })
            }
            Origin::Node { node, .. } => {
                let node = self.model.node(&definition.scope, node);
                if varies(node) {
                    return Ok(Dependence::Runs);
                }
                let inputs = node.input.iter().filter(|name| !name.is_empty());
                let inputs: Option<Vec<_>> = inputs.map(|name| self.defined(&definition.scope, name)).collect();
                inputs.map_or(Ok(Dependence::Runs), Err)
            }
        }
    }

    /// A value by the graph that defines it.
    fn defined(&self, scope: &Scope, name: &'m str) -> Option<(Scope, &'m str)> {
        Some((self.values.resolve(scope, name)?.scope.clone(), name))
    }
}

/// Whether a node may give another value each time although its inputs are the same, or reads more than these.
fn varies(node: &NodeProto) -> bool {
    let op = node.op_type();
    let is_random = op.starts_with("Random") || matches!(op, "Bernoulli" | "Multinomial" | "Dropout");
    is_random || !is_standard(node.domain()) || bodies(node).next().is_some()
}
