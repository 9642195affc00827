//! Operators that tract lacks or gets wrong, as standard operators that it gets right. Done to the copy of the model that
//! tract reads, never to the model itself.
//!
//! - onnxruntime's own operators that occur in exported recurrent models;
//! - `DequantizeLinear` of a whole tensor: tract folds it, the float operators behind it and the `QuantizeLinear` after
//!   those into a table of 256 values, and takes a Softmax in between for one that works on each element alone.

use crate::onnx::graph::is_standard;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::tensor::{self, element_count};
use crate::onnx::{AttributeProto, ElementType, GraphProto, Model, Names, NodeProto, TensorProto};
use std::collections::HashSet;

/// Replaces the operators in a graph and the graphs in it.
pub(super) fn lower(model: &Model, graph: &mut GraphProto) {
    let mut lowering = Lowering { names: Names::new(&model.proto), scalars: HashSet::new() };
    for (_, graph) in model.graphs() {
        let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
        let nodes = constants.filter_map(|n| Some((n.output.first()?.as_str(), n.attribute.first()?.t.as_ref()?)));
        let all = graph.initializer.iter().map(|t| (t.name(), t)).chain(nodes);
        lowering.scalars.extend(all.filter(|(_, t)| is_float_scalar(t)).map(|(name, _)| name.to_owned()));
    }
    lowering.graph(graph);
}

fn is_float_scalar(tensor: &TensorProto) -> bool {
    tensor.data_type() == ElementType::Float as i32 && element_count(&tensor.dims).is_ok_and(|n| n == 1)
}

struct Lowering {
    names: Names,
    /// Constants of one float.
    scalars: HashSet<String>,
}

impl Lowering {
    fn graph(&mut self, graph: &mut GraphProto) {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            for attribute in &mut node.attribute {
                attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| self.graph(body));
            }
            let first = nodes.len();
            match (node.domain(), node.op_type()) {
                ("com.microsoft", "FusedMatMul") => self.fused_matmul(node, graph, &mut nodes),
                ("com.microsoft", "QLinearAdd" | "QLinearMul") => self.quantized(node, 2, &mut nodes),
                ("com.microsoft", "QLinearLeakyRelu" | "QLinearSigmoid") => self.quantized(node, 1, &mut nodes),
                (domain, "DequantizeLinear") if is_standard(domain) && self.is_per_tensor(&node) => {
                    self.dequantize(&node.input, &node.output[0], &mut nodes);
                }
                _ => nodes.push(node),
            }
            debug_assert!(nodes.len() > first, "no node vanishes");
        }
        graph.node = nodes;
    }

    /// `QLinearF(x, x_scale, x_zero, ..., y_scale, y_zero)` is `quantize(F(dequantize(x), ...))`.
    fn quantized(&mut self, node: NodeProto, arguments: usize, nodes: &mut Vec<NodeProto>) {
        let input = |i: usize| node.input.get(i).cloned().unwrap_or_default();
        let stem = node.output.first().cloned().unwrap_or_default();
        let triple = |i: usize| [input(3 * i), input(3 * i + 1), input(3 * i + 2)];
        let floats: Vec<String> = (0..arguments).map(|_| self.names.fresh(&format!("{stem}/float"))).collect();
        for (i, float) in floats.iter().enumerate() {
            self.dequantize(&triple(i), float, nodes);
        }
        let result = self.names.fresh(&format!("{stem}/result"));
        let operator = node.op_type().trim_start_matches("QLinear").to_owned();
        nodes.push(NodeProto { attribute: node.attribute.clone(), ..standard(&operator, floats, &result) });
        let scale = 3 * arguments;
        nodes.push(standard("QuantizeLinear", vec![result, input(scale), input(scale + 1)], &stem));
    }

    fn is_per_tensor(&self, node: &NodeProto) -> bool {
        node.output.len() == 1 && node.input.get(1).is_some_and(|scale| self.scalars.contains(scale))
    }

    /// `(x - zero) * scale`; inputs `x`, `scale`, `zero`.
    fn dequantize(&mut self, input: &[String], output: &str, nodes: &mut Vec<NodeProto>) {
        let mut float = |value: &str| {
            let name = self.names.fresh(&format!("{output}/float"));
            nodes.push(NodeProto { attribute: vec![to_float()], ..standard("Cast", vec![value.to_owned()], &name) });
            name
        };
        let mut difference = float(&input[0]);
        if let Some(zero) = input.get(2).filter(|zero| !zero.is_empty()) {
            let zero = float(zero);
            let name = self.names.fresh(&format!("{output}/difference"));
            nodes.push(standard("Sub", vec![difference, zero], &name));
            difference = name;
        }
        nodes.push(standard("Mul", vec![difference, input[1].clone()], output));
    }

    /// `FusedMatMul` is `alpha * A B`, either transposed in its last two axes.
    fn fused_matmul(&mut self, node: NodeProto, graph: &mut GraphProto, nodes: &mut Vec<NodeProto>) {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name);
        let flag = |name: &str| attribute(name).is_some_and(|a| a.i() != 0);
        if flag("transBatchA") || flag("transBatchB") || node.output.len() != 1 {
            nodes.push(node);
            return;
        }
        let alpha = attribute("alpha").map_or(1., AttributeProto::f);
        let a = if flag("transA") { "...ji" } else { "...ij" };
        let b = if flag("transB") { "...kj" } else { "...jk" };
        let equation = AttributeProto {
            name: Some("equation".to_owned()),
            s: Some(format!("{a},{b}->...ik").into_bytes().into()),
            r#type: Some(AttributeType::String as i32),
            ..AttributeProto::default()
        };
        let product = self.names.fresh(&format!("{}/product", node.output[0]));
        nodes.push(NodeProto { attribute: vec![equation], ..standard("Einsum", node.input.clone(), &product) });
        let factor = self.names.fresh(&format!("{}/alpha", node.output[0]));
        graph.initializer.push(tensor::float(&factor, &[], &[alpha]));
        nodes.push(standard("Mul", vec![product, factor], &node.output[0]));
    }
}

fn to_float() -> AttributeProto {
    AttributeProto {
        name: Some("to".to_owned()),
        i: Some(ElementType::Float as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

fn standard(operator: &str, mut input: Vec<String>, output: &str) -> NodeProto {
    while input.last().is_some_and(String::is_empty) {
        input.pop();
    }
    NodeProto {
        op_type: Some(operator.to_owned()),
        name: Some(output.to_owned()),
        input,
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}
