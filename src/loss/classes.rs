//! Outputs as decisions between classes: which axis holds the classes, and their log-probabilities.

use crate::onnx::graph::{bodies, is_standard};
use crate::onnx::{Model, NodeProto, Origin, Scope, Step, Use, Values};
use ndarray::{ArrayD, Axis, IxDyn};

/// Probabilities below this count as this: the smallest normal single, so that a probability that underflowed to zero
/// costs 87 nats and not infinity.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

/// What the elements of an output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Floats of unknown meaning; treated as logits over the last axis where classes are needed.
    Values,
    /// Probabilities, from a Softmax.
    Probabilities(Rows),
    /// Logarithms of probabilities, from a LogSoftmax.
    LogProbabilities(Rows),
    /// Integers or booleans: each element is a decision.
    Discrete,
}

/// Which elements are the classes of one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Those along one axis, counted from the end if negative.
    Along(i64),
    /// Those of this axis and all behind it, as Softmax was defined before opset 13.
    From(i64),
}

impl Content {
    /// The content of a graph output, derived from the node that computes it.
    pub(super) fn of(model: &Model, values: &Values, output: &str) -> Content {
        of_value(model, values, &Scope::root(), output)
    }

    /// Whether it is probabilities, or their logarithms.
    pub fn is_distribution(self) -> bool {
        matches!(self, Content::Probabilities(_) | Content::LogProbabilities(_))
    }

    pub(super) fn rows(self) -> Rows {
        match self {
            Content::Probabilities(rows) | Content::LogProbabilities(rows) => rows,
            Content::Values | Content::Discrete => Rows::Along(-1),
        }
    }

    /// The axis of the classes in `array`, which is reshaped if several axes are one; `None` if there are no two
    /// classes.
    pub(super) fn class_axis(self, array: ArrayD<f64>) -> Option<(ArrayD<f64>, Axis)> {
        let rank = array.ndim();
        let place = |axis: i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok();
        let (array, axis) = match self.rows() {
            Rows::Along(axis) => (array, place(axis)?),
            Rows::From(axis) => {
                let axis = place(axis)?;
                let outer = array.shape().get(..axis)?.iter().product();
                let inner = array.shape()[axis..].iter().product();
                (array.into_shape_with_order(IxDyn(&[outer, inner])).ok()?, 1)
            }
        };
        (*array.shape().get(axis)? >= 2).then_some((array, Axis(axis)))
    }

    /// Replaces a row by the logarithms of its probabilities.
    pub(super) fn log_probabilities(self, row: &mut [f64]) {
        match self {
            Content::Probabilities(_) => row.iter_mut().for_each(|p| *p = p.max(LEAST).ln()),
            Content::LogProbabilities(_) => row.iter_mut().for_each(|l| *l = l.max(LEAST.ln())),
            Content::Values | Content::Discrete => {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|l| (l - largest).exp()).sum();
                let shift = largest + sum.ln();
                row.iter_mut().for_each(|l| *l = (*l - shift).max(LEAST.ln()));
            }
        }
    }
}

/// `sum p ln(p / q) - p + q`: the divergence where both sum to one, and never negative where rounding kept them from it.
pub(super) fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    let term = |(lp, lq): (&f64, &f64)| lp.exp() * (lp - lq - 1.0) + lq.exp();
    log_p.iter().zip(log_q).map(term).sum::<f64>().max(0.0)
}

/// The first of the largest; NaN is never the largest.
pub(super) fn argmax(row: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in row.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

fn of_value(model: &Model, values: &Values, scope: &Scope, name: &str) -> Content {
    let Some(definition) = values.resolve(scope, name) else { return Content::Values };
    let Origin::Node { node, output } = definition.origin else { return Content::Values };
    let proto = model.node(&definition.scope, node);
    if !is_standard(proto.domain()) {
        return Content::Values;
    }
    match proto.op_type() {
        "Softmax" => Content::Probabilities(softmax_rows(model, proto)),
        "LogSoftmax" => Content::LogProbabilities(softmax_rows(model, proto)),
        "Identity" | "Cast" => {
            proto.input.first().map_or(Content::Values, |i| of_value(model, values, &definition.scope, i))
        }
        "If" => of_branches(model, values, &definition.scope, node, output),
        _ => Content::Values,
    }
}

/// Whether the graph itself reads an output as the scores of classes: its value, but for Identity and Cast, goes into a
/// Softmax, an ArgMax or the like.
pub(super) fn is_scored(model: &Model, values: &Values, output: &str) -> bool {
    let mut name = output;
    let root = Scope::root();
    // Back to the value that the output is a copy of; what defines a value comes before it, so that this ends.
    while let Some(Origin::Node { node, .. }) = values.resolve(&root, name).map(|definition| definition.origin) {
        let proto = model.node(&root, node);
        match proto.input.first().filter(|_| is_copy(proto)) {
            Some(input) => name = input,
            None => break,
        }
    }
    let mut found = vec![name.to_owned()];
    let mut seen = 0;
    while let Some(name) = found.get(seen).cloned() {
        seen += 1;
        for used in values.uses(&root, &name) {
            let Use::Node { scope, node, input: 0 } = used else { continue };
            let proto = model.node(scope, *node);
            if is_standard(proto.domain()) && READERS.contains(&proto.op_type()) {
                return true;
            }
            if scope.is_root() && is_copy(proto) {
                found.extend(proto.output.first().filter(|output| !found.contains(output)).cloned());
            }
        }
    }
    false
}

/// Operators that read scores of classes.
const READERS: [&str; 4] = ["Softmax", "LogSoftmax", "ArgMax", "TopK"];

fn is_copy(node: &NodeProto) -> bool {
    is_standard(node.domain()) && matches!(node.op_type(), "Identity" | "Cast")
}

/// The content that all branches of an If have in common.
fn of_branches(model: &Model, values: &Values, scope: &Scope, node: usize, output: usize) -> Content {
    let branches = bodies(model.node(scope, node)).map(|(attribute, graph, body)| {
        let inside = scope.child(Step { node, attribute, graph });
        body.output.get(output).map_or(Content::Values, |o| of_value(model, values, &inside, o.name()))
    });
    let branches: Vec<Content> = branches.collect();
    match branches.split_first() {
        Some((first, rest)) if rest.iter().all(|c| c == first) => *first,
        _ => Content::Values,
    }
}

fn softmax_rows(model: &Model, node: &NodeProto) -> Rows {
    let axis = node.attribute.iter().find(|a| a.name() == "axis").map(|a| a.i());
    if model.opset() >= 13 { Rows::Along(axis.unwrap_or(-1)) } else { Rows::From(axis.unwrap_or(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayD;

    fn shape_and_axis(content: Content, shape: &[usize]) -> Option<(Vec<usize>, usize)> {
        let (array, axis) = content.class_axis(ArrayD::zeros(IxDyn(shape)))?;
        Some((array.shape().to_vec(), axis.0))
    }

    #[test]
    fn classes_are_along_an_axis_or_several() {
        assert_eq!(shape_and_axis(Content::Values, &[4, 3]), Some((vec![4, 3], 1)));
        assert_eq!(shape_and_axis(Content::Values, &[4, 1]), None);
        assert_eq!(shape_and_axis(Content::Values, &[]), None);
        let (along, from) = (Content::Probabilities(Rows::Along(1)), Content::Probabilities(Rows::From(1)));
        assert_eq!(shape_and_axis(along, &[2, 5, 3]), Some((vec![2, 5, 3], 1)));
        assert_eq!(shape_and_axis(from, &[2, 5, 3]), Some((vec![2, 15], 1)));
        assert_eq!(shape_and_axis(from, &[2, 5]), Some((vec![2, 5], 1)));
        assert_eq!(shape_and_axis(from, &[7]), None, "no axis 1");
    }

    #[test]
    fn divergence_is_that_of_the_probabilities_however_they_are_given() {
        // numpy: p = softmax([1, 2, 3]), q = softmax([1, 2, 2.5]); (p * np.log(p / q)).sum() = 0.02914511877975887
        let (y, z) = ([1.0, 2.0, 3.0], [1.0, 2.0, 2.5]);
        let softmax = |row: [f64; 3]| {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            row.map(|v| v.exp() / sum)
        };
        let kl = |content: Content, mut p: [f64; 3], mut q: [f64; 3]| {
            content.log_probabilities(&mut p);
            content.log_probabilities(&mut q);
            divergence(&p, &q)
        };
        let rows = Rows::Along(-1);
        let expected = 0.029_145_118_779_758_866;
        assert!((kl(Content::Values, y, z) - expected).abs() < 1e-12, "{}", kl(Content::Values, y, z));
        assert!((kl(Content::Probabilities(rows), softmax(y), softmax(z)) - expected).abs() < 1e-12);
        let log = |row: [f64; 3]| softmax(row).map(f64::ln);
        assert!((kl(Content::LogProbabilities(rows), log(y), log(z)) - expected).abs() < 1e-12);
    }

    #[test]
    fn impossible_classes_cost_much_but_not_everything() {
        let content = Content::Probabilities(Rows::Along(-1));
        let (mut p, mut q) = ([1.0, 0.0], [0.0, 1.0]);
        content.log_probabilities(&mut p);
        content.log_probabilities(&mut q);
        let kl = divergence(&p, &q);
        assert!((80.0..100.0).contains(&kl), "{kl}");
        assert!(divergence(&p, &p).abs() < 1e-30);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(argmax([1.0, 3.0, 3.0].into_iter()), 1);
        assert_eq!(argmax([f64::NAN, 1.0].into_iter()), 1);
    }
}
