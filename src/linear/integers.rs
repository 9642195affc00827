//! Weights that are integers of eight bits: of QLinearConv, ConvInteger, QLinearMatMul and MatMulInteger, and behind
//! DequantizeLinear.
//!
//! A row of such a matrix is `scale * (q - zero point)`. Where the operator has no scale, as ConvInteger and MatMulInteger,
//! it is that of a product behind it, if there is one of constants; rows without are taken to be scaled alike.

use super::{Finder, integer};
use crate::dictionary::Grid;
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::{ElementType, NodeInput, NodeProto, Origin, Scope, Use};
use crate::recurrent::Source;

/// Scale and zero point of a tensor of integers.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    /// The graph that the names are seen from.
    scope: Scope,
    /// The scales: one, or one for each index of the axis.
    scale: Option<String>,
    /// The zero points, in the same way.
    zero: Option<String>,
    /// The axis that they are along, from the back if it is below 0.
    axis: i64,
}

/// A tensor of integers behind a DequantizeLinear.
pub(super) struct Dequantized {
    /// The input of the DequantizeLinear.
    pub at: NodeInput,
    pub parameters: Parameters,
    /// Whether a Transpose is in between.
    pub transposed: bool,
}

/// The places of the two operands among the inputs of an operator.
pub(super) fn operands(operator: &str) -> [usize; 2] {
    match operator {
        "QLinearMatMul" | "QLinearConv" => [0, 3],
        _ => [0, 1],
    }
}

/// The places of scale and zero point of an operand; `None` for an operator of floats.
fn places(operator: &str, operand: usize) -> Option<(Option<usize>, usize)> {
    match operator {
        "QLinearMatMul" | "QLinearConv" => Some((Some(operand + 1), operand + 2)),
        "MatMulInteger" | "ConvInteger" => Some((None, operand + 2)),
        _ => None,
    }
}

/// What levels of int8 are less by than the integers that they stand for.
pub(super) fn offset(element: ElementType) -> f32 {
    if element == ElementType::Uint8 { 128.0 } else { 0.0 }
}

impl<'m> Finder<'m> {
    /// Scale and zero point of an operand of integers; of a table, those of what dequantises its rows.
    pub(super) fn parameters(&self, at: &NodeInput) -> Option<Parameters> {
        let node = self.model.node(&at.scope, at.node);
        let scope = at.scope.clone();
        if node.op_type() == "Gather" {
            return self.of_rows(at);
        }
        let (scale, zero) = places(node.op_type(), at.input)?;
        let name = |input: usize| self.name(&NodeInput { input, ..at.clone() }).map(str::to_owned);
        let is_left = at.input == operands(node.op_type())[0];
        let axis = match node.op_type() {
            "QLinearConv" | "ConvInteger" => 0,
            _ if is_left => -2,
            _ => -1,
        };
        let scale = match scale {
            Some(input) => Some(name(input)?),
            None => self.factor(at),
        };
        Some(Parameters { scope, scale, zero: name(zero), axis })
    }

    /// Scale and zero point of the rows of a table, if these are dequantised: indices of whatever else are none of numbers.
    fn of_rows(&self, at: &NodeInput) -> Option<Parameters> {
        let rows = self.model.node(&at.scope, at.node).output.first()?;
        let mut users = self.values.uses(&at.scope, rows).iter().filter_map(|user| self.user(user));
        users.find_map(|(scope, node)| is(node, "DequantizeLinear").then(|| of_dequantize(scope, node)).flatten())
    }

    /// The name of the constant that the products of an operator without scales are scaled by, in `Mul(Cast(..), scale)`,
    /// where the scale is one of a product, too: `Mul(scale of the data, scale of the weight)`.
    fn factor(&self, at: &NodeInput) -> Option<String> {
        let single = |scope: &Scope, node: &'m NodeProto| match self.values.uses(scope, node.output.first()?) {
            [user] => self.user(user),
            _ => None,
        };
        let node = self.model.node(&at.scope, at.node);
        let (scope, cast) = single(&at.scope, node).filter(|(_, node)| is(node, "Cast"))?;
        let (scope, product) = single(&scope, cast).filter(|(_, node)| is(node, "Mul"))?;
        let constant = |name: &&String| {
            let definition = self.values.resolve(&scope, name);
            definition.is_some_and(|found| self.model.initializer(found).is_some()) && scope == at.scope
        };
        let made = product.input.iter().find(|name| cast.output.first() != Some(name))?;
        let factors = match self.maker(&scope, made) {
            Some((_, node)) if is(node, "Mul") => &node.input[..],
            _ => std::slice::from_ref(made),
        };
        factors.iter().find(constant).cloned()
    }

    /// The tensor that an input of a node is dequantised from, perhaps transposed.
    pub(super) fn dequantized(&self, at: &NodeInput) -> Option<Dequantized> {
        let (mut scope, mut node, mut index) = self.made(&at.scope, self.name(at)?)?;
        let transposed = is(node, "Transpose");
        if transposed {
            let perm = node.attribute.iter().find(|attribute| attribute.name() == "perm");
            let of_two = perm.is_none_or(|perm| perm.ints == [1, 0]);
            let takes_any = matches!(self.model.node(&at.scope, at.node).op_type(), "MatMul" | "Gemm");
            (scope, node, index) = self.made(&scope, node.input.first().filter(|_| of_two && takes_any)?)?;
        }
        let parameters = Some(node).filter(|node| is(node, "DequantizeLinear"));
        let parameters = of_dequantize(scope.clone(), parameters?)?;
        Some(Dequantized { at: NodeInput { scope, node: index, input: 0 }, parameters, transposed })
    }

    /// What the integers of a tensor stand for; `None` unless each row of the matrix has one scale and one zero point.
    pub(super) fn grid(&mut self, of: &Parameters, source: &Source, transposed: bool) -> Option<Grid> {
        let steps = self.per_row(of, of.scale.as_deref(), 1.0, source, transposed)?;
        // No trained layer has other weights, and products with what is so small would not be exact.
        let sound = |step: &f32| *step >= f32::MIN_POSITIVE && *step * 256.0 <= limits::WEIGHT;
        let zeros = self.per_row(of, of.zero.as_deref(), 0.0, source, transposed)?;
        let zeros = zeros.into_iter().map(|zero| (zero - offset(source.element)) as i8).collect();
        steps.iter().all(sound).then_some(Grid { steps, zeros })
    }

    /// The number of each row of the matrix, of one for all or one for each index of the axis.
    fn per_row(
        &mut self,
        of: &Parameters,
        name: Option<&str>,
        default: f32,
        source: &Source,
        transposed: bool,
    ) -> Option<Vec<f32>> {
        let [_, a, b] = source.shape;
        let rows = if transposed { b } else { a };
        let Some(name) = name else { return Some(vec![default; rows]) };
        let numbers = self.numbers(&of.scope, name)?;
        if let [one] = numbers[..] {
            return Some(vec![one; rows]);
        }
        let dims = &source.dims;
        let axis = usize::try_from(if of.axis < 0 { of.axis + dims.len() as i64 } else { of.axis }).ok()?;
        if dims.get(axis) != Some(&numbers.len()) {
            return None;
        }
        let inner: usize = dims[axis + 1..].iter().product();
        let mut of_rows: Vec<Option<f32>> = vec![None; rows];
        for element in 0..a * b {
            let number = numbers[element / inner % numbers.len()];
            let known = of_rows[if transposed { element % b } else { element / b }].get_or_insert(number);
            if *known != number {
                return None;
            }
        }
        of_rows.into_iter().collect()
    }

    /// The numbers of a constant.
    fn numbers(&mut self, scope: &Scope, name: &str) -> Option<Vec<f32>> {
        let traced = self.trace(scope, name).ok()?;
        Some(traced.constant.floats().into_iter().collect())
    }

    /// Where runs show the data of a node, and what stands for 0 there. What is quantised anew in each run is shown before.
    pub(super) fn data(&mut self, at: NodeInput) -> (NodeInput, Option<f32>) {
        let node = self.model.node(&at.scope, at.node);
        let Some((_, zero)) = places(node.op_type(), at.input) else { return (at, Some(0.0)) };
        let made = self.name(&at).and_then(|name| self.made(&at.scope, name));
        if let Some((scope, node, index)) = made
            && is(node, "DynamicQuantizeLinear")
        {
            return (NodeInput { scope, node: index, input: 0 }, Some(0.0));
        }
        let zero = match self.name(&NodeInput { input: zero, ..at.clone() }) {
            None => Some(0.0),
            Some(name) => self.numbers(&at.scope, name).and_then(|numbers| match numbers[..] {
                [zero] => Some(zero),
                _ => None,
            }),
        };
        (at, zero)
    }

    /// The node that makes a value, with its graph and its index there.
    fn made(&self, scope: &Scope, name: &str) -> Option<(Scope, &'m NodeProto, usize)> {
        let definition = self.values.resolve(scope, name)?;
        match definition.origin {
            Origin::Node { node, .. } => {
                Some((definition.scope.clone(), self.model.node(&definition.scope, node), node))
            }
            _ => None,
        }
    }

    fn maker(&self, scope: &Scope, name: &str) -> Option<(Scope, &'m NodeProto)> {
        self.made(scope, name).map(|(scope, node, _)| (scope, node))
    }

    fn user(&self, user: &Use) -> Option<(Scope, &'m NodeProto)> {
        match user {
            Use::Node { scope, node, .. } => Some((scope.clone(), self.model.node(scope, *node))),
            _ => None,
        }
    }
}

fn is(node: &NodeProto, operator: &str) -> bool {
    node.op_type() == operator && is_standard(node.domain())
}

/// Scale and zero point of a DequantizeLinear; `None` for one of blocks.
fn of_dequantize(scope: Scope, node: &NodeProto) -> Option<Parameters> {
    let name = |input: usize| node.input.get(input).filter(|name| !name.is_empty()).cloned();
    let in_blocks = integer(node, "block_size").is_some_and(|size| size != 0);
    let scale = name(1).filter(|_| !in_blocks)?;
    Some(Parameters { scope, scale: Some(scale), zero: name(2), axis: integer(node, "axis").unwrap_or(1) })
}
