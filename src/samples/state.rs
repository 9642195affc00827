//! Which inputs look like states that a caller hands on from one call to the next, and which outputs they come from.
//!
//! Two things say so. The graph: an input that becomes the initial state of a recurrent node (`initial_h`, `initial_c`), and an
//! output that is a last state (`Y_h`, `Y_c`, or `Y`) of the same node, are one state, whatever their names are. And names:
//! `stateN` goes into `state`, `hout` into `hin`, `new_cache` into `cache`, where the shapes agree, and where what comes out is
//! more than what went in: a mask that a model hands on is no state.

use std::collections::{BTreeSet, HashSet};

use super::{AxisSize, Carry, Port};
use crate::onnx::graph::{bodies, is_standard};
use crate::onnx::{ElementType, Model, NodeProto, Origin, Scope, Step, Use, Values};

/// A state of a recurrent node: its graph, its index there, and the state's number: 0 is h, 1 is c.
type State = (Scope, usize, usize);

/// Inputs or outputs beyond which nothing is guessed: the graph is followed for each. Streaming models have below a hundred.
const MOST: usize = 256;

/// The pairs, in the order of the inputs.
pub(super) fn guess(model: &Model, inputs: &[Port], outputs: &[Port]) -> Vec<Carry> {
    // A state comes beside what is new at every step.
    if inputs.len() < 2 || inputs.len().max(outputs.len()) > MOST {
        return Vec::new();
    }
    let Ok(values) = Values::new(&model.proto) else { return Vec::new() };
    let graph = Graph { model, values };
    let made: Vec<(Carry, BTreeSet<State>)> = outputs.iter().flat_map(|output| graph.parts(output)).collect();
    let of_input = |input: &Port| {
        let fits = |carry: &Carry| {
            let output = outputs.iter().find(|output| output.name == carry.output);
            input.dims.is_some() && output.is_some_and(|output| carry.fits(input, output))
        };
        let read = graph.initial_states(&input.name);
        let named = |carry: &Carry| Carry { input: input.name.clone(), ..carry.clone() };
        let by_graph = made.iter().map(|(carry, states)| (named(carry), states.intersection(&read).count()));
        // The first of those that have most in common.
        let by_graph = by_graph.filter(|(carry, common)| *common > 0 && fits(carry)).rev().max_by_key(|(_, n)| *n);
        if let Some((carry, _)) = by_graph {
            return Some(carry);
        }
        let stem_of_both = stem(&input.name);
        let alike = outputs.iter().filter(|o| !stem_of_both.is_empty() && stem(&o.name) == stem_of_both);
        let mut alike =
            alike.map(|output| Carry { input: input.name.clone(), output: output.name.clone(), range: None });
        alike.find(|carry| fits(carry) && keeps_its_size(input, inputs) && graph.is_made_anew(carry, inputs))
    };
    inputs.iter().filter_map(of_input).collect()
}

/// A name without what tells the state that goes in from the one that comes out.
fn stem(name: &str) -> String {
    const BEFORE: [&str; 6] = ["in_", "out_", "new_", "next_", "prev_", "old_"];
    const AFTER: [&str; 10] = ["_in", "_out", "_new", "_next", "_prev", "_n", "out", "in", "n", "0"];
    let name = name.to_ascii_lowercase();
    let bare = BEFORE.iter().find_map(|word| name.strip_prefix(word)).unwrap_or(&name);
    // h0 is the state at the start, cache_10 is a number.
    let is_number = |rest: &str, word: &str| word == "0" && rest.ends_with(|c: char| c.is_ascii_digit());
    let without = |word: &&str| bare.strip_suffix(word).filter(|rest| !is_number(rest, word));
    let bare = AFTER.iter().find_map(without).unwrap_or(bare);
    bare.trim_matches('_').to_owned()
}

/// Whether an input has the same size at every step: it shares at most one open dimension, the batch, with other inputs. What
/// goes along with a sequence (a mask) shares its length too.
fn keeps_its_size(input: &Port, inputs: &[Port]) -> bool {
    let symbols = |port: &Port| -> BTreeSet<String> {
        let dims = port.dims.iter().flatten();
        dims.filter_map(|dim| if let AxisSize::Symbol(symbol) = dim { Some(symbol.clone()) } else { None }).collect()
    };
    let others: BTreeSet<String> = inputs.iter().filter(|port| port.name != input.name).flat_map(symbols).collect();
    input.element != ElementType::Bool && symbols(input).intersection(&others).count() <= 1
}

/// A model whose values can be followed to their uses and to their origins.
struct Graph<'m> {
    model: &'m Model,
    values: Values<'m>,
}

impl Graph<'_> {
    /// The initial states that an input of the model becomes, through operators that only move values.
    fn initial_states(&self, input: &str) -> BTreeSet<State> {
        let mut found = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut open = vec![(Scope::root(), input.to_owned())];
        while let Some((scope, name)) = open.pop() {
            for used in self.values.uses(&scope, &name) {
                let Use::Node { scope, node, input } = used else { continue };
                let proto = self.model.node(scope, *node);
                if is_recurrent(proto) && matches!(*input, 5 | 6) {
                    found.insert((scope.clone(), *node, *input - 5));
                } else if moves_values(proto, *input) && seen.insert((scope.clone(), *node)) {
                    open.extend(proto.output.iter().map(|output| (scope.clone(), output.clone())));
                }
            }
        }
        found
    }

    /// An output as the end of a carry, and its parts along axis 0 where it is joined of them, each with the states that it
    /// holds. The input of these carries is not known yet.
    fn parts(&self, output: &Port) -> Vec<(Carry, BTreeSet<State>)> {
        let root = Scope::root();
        let carry = |range| Carry { input: String::new(), output: output.name.clone(), range };
        let mut parts = vec![(carry(None), self.last_states(&root, &output.name))];
        let joined = self.maker(&root, &output.name).filter(|(_, node, _)| {
            let axis = node.attribute.iter().find(|a| a.name() == "axis");
            node.op_type() == "Concat" && axis.is_some_and(|a| a.i() == 0)
        });
        let first = output.dims.as_ref().and_then(|dims| dims.first()?.fixed());
        if let (Some((scope, node, _)), Some(first)) = (joined, first)
            && node.input.len() > 1
            && first % node.input.len() == 0
        {
            let size = first / node.input.len();
            let part =
                |(k, name): (usize, &String)| (carry(Some(k * size..(k + 1) * size)), self.last_states(&scope, name));
            parts.extend(node.input.iter().enumerate().map(part));
        }
        parts
    }

    /// The last states that a value is made of, through operators that only move values and out of the branches of an If.
    fn last_states(&self, scope: &Scope, name: &str) -> BTreeSet<State> {
        let mut found = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut open = vec![(scope.clone(), name.to_owned())];
        while let Some((scope, name)) = open.pop() {
            if !seen.insert((scope.clone(), name.clone())) {
                continue;
            }
            let Some(definition) = self.values.resolve(&scope, &name) else { continue };
            let Origin::Node { node: index, output } = definition.origin else { continue };
            let node = self.model.node(&definition.scope, index);
            if is_recurrent(node) {
                found.insert((definition.scope.clone(), index, output.saturating_sub(1)));
            } else if is_standard(node.domain()) && node.op_type() == "If" {
                for (attribute, graph, body) in bodies(node) {
                    let inner = definition.scope.child(Step { node: index, attribute, graph });
                    open.extend(body.output.get(output).map(|value| (inner, value.name().to_owned())));
                }
            } else {
                let moved = node.input.iter().enumerate().filter(|(k, _)| moves_values(node, *k));
                open.extend(moved.map(|(_, input)| (definition.scope.clone(), input.clone())));
            }
        }
        found
    }

    /// The node that makes a value, behind nodes that hand it on as it is.
    fn maker(&self, scope: &Scope, name: &str) -> Option<(Scope, &NodeProto, usize)> {
        let definition = self.values.resolve(scope, name)?;
        let Origin::Node { node, output } = definition.origin else { return None };
        Some((definition.scope.clone(), self.model.node(&definition.scope, node), output))
    }

    /// Whether the output of a carry is more than the input handed on: another input goes into it, or something is added to it
    /// (as to a counter of steps).
    fn is_made_anew(&self, carry: &Carry, inputs: &[Port]) -> bool {
        let names: HashSet<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
        let mut seen = HashSet::new();
        let mut open = vec![(Scope::root(), carry.output.clone())];
        while let Some((scope, name)) = open.pop() {
            if !seen.insert((scope.clone(), name.clone())) {
                continue;
            }
            let Some(definition) = self.values.resolve(&scope, &name) else { continue };
            let Origin::Node { node: index, .. } = definition.origin else {
                if definition.scope.is_root() && names.contains(name.as_str()) && name != carry.input {
                    return true;
                }
                continue;
            };
            let node = self.model.node(&definition.scope, index);
            // What happens in a body, or in an operator of another domain, is not followed.
            if bodies(node).next().is_some() || !is_standard(node.domain()) || matches!(node.op_type(), "Add" | "Sub") {
                return true;
            }
            open.extend(node.input.iter().map(|input| (definition.scope.clone(), input.clone())));
        }
        false
    }
}

fn is_recurrent(node: &NodeProto) -> bool {
    is_standard(node.domain()) && matches!(node.op_type(), "LSTM" | "GRU" | "RNN")
}

/// Whether an operator hands on the values of this input, rearranged perhaps.
fn moves_values(node: &NodeProto, input: usize) -> bool {
    let moves = matches!(
        node.op_type(),
        "Cast"
            | "Identity"
            | "Unsqueeze"
            | "Squeeze"
            | "Reshape"
            | "Flatten"
            | "Transpose"
            | "Expand"
            | "Slice"
            | "Gather"
            | "Split"
            | "Tile"
    );
    is_standard(node.domain()) && (moves && input == 0 || node.op_type() == "Concat")
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn names_of_one_state_have_one_stem() {
        for (a, b) in [
            ("state", "stateN"),
            ("h", "hn"),
            ("h0", "hn"),
            ("hin", "hout"),
            ("conv_cache", "conv_cache_out"),
            ("cached_key_10", "new_cached_key_10"),
        ] {
            assert_eq!(stem(a), stem(b), "{a} {b}");
        }
        assert_ne!(stem("cached_key_1"), stem("new_cached_key_10"));
        assert_ne!(stem("features"), stem("logits"));
    }
}
