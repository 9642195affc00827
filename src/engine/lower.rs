//! Operators that tract lacks or gets wrong, as standard operators that it gets right. Done to the copy of the model that
//! tract reads, never to the model itself.
//!
//! - onnxruntime's own operators that occur in exported recurrent models;
//! - optional values that are given, as the graph's inputs are: they are themselves;
//! - sequences of tensors, where it shows what is in them ([`sequence`]);
//! - `Upsample`, and `Resize` of corners that are aligned by scales, of which tract gets the length of the result wrong;
//! - `DequantizeLinear` of a whole tensor: tract folds it, the float operators behind it and the `QuantizeLinear` after
//!   those into a table of 256 values, and takes a Softmax in between for one that works on each element alone.

use super::{cut, sequence};
use crate::onnx::graph::{for_each_graph, is_standard};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::type_proto::Value;
use crate::onnx::proto::{ModelProto, OperatorSetIdProto, ValueInfoProto};
use crate::onnx::tensor::{self, element_count};
use crate::onnx::{AttributeProto, ElementType, GraphProto, Names, NodeProto, TensorProto};
use crate::samples::signature;
use std::collections::HashSet;

/// Replaces the operators in the graph of a model and the graphs in it.
pub(super) fn lower(model: &mut ModelProto) {
    let mut lowering =
        Lowering { names: Names::new(model), scalars: HashSet::new(), present: HashSet::new(), opset: opset(model) };
    let mut others = HashSet::new();
    for input in model.graph.iter_mut().flat_map(|graph| &mut graph.input) {
        lowering.present.extend(given(input));
    }
    for_each_graph(model, |_, graph| {
        let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
        let nodes = constants.filter_map(|n| Some((n.output.first()?.as_str(), n.attribute.first()?.t.as_ref()?)));
        let all = graph.initializer.iter().map(|t| (t.name(), t)).chain(nodes);
        for (name, tensor) in all {
            let names = if is_float_scalar(tensor) { &mut lowering.scalars } else { &mut others };
            names.insert(name.to_owned());
        }
    });
    // Graphs that do not see one another may give a name to two things.
    lowering.scalars.retain(|name| !others.contains(name));
    if let Some(graph) = &mut model.graph {
        sequence::lower(graph, &mut lowering.names, lowering.opset);
        lowering.graph(graph);
        // Of sequences that nobody reads any more, for one.
        cut::dead_nodes(graph);
    }
}

/// Makes an optional input of the graph one that is given; its name if it was one.
fn given(input: &mut ValueInfoProto) -> Option<String> {
    let tensor = signature::tensor_type(input)?.clone();
    let of = input.r#type.as_mut()?;
    let Some(Value::OptionalType(_)) = of.value else { return None };
    of.value = Some(Value::TensorType(tensor));
    Some(input.name().to_owned())
}

fn opset(model: &ModelProto) -> i64 {
    let imports = model.opset_import.iter().filter(|import| is_standard(import.domain()));
    imports.map(OperatorSetIdProto::version).max().unwrap_or(1)
}

fn is_float_scalar(tensor: &TensorProto) -> bool {
    tensor.data_type() == ElementType::Float as i32 && element_count(&tensor.dims).is_ok_and(|n| n == 1)
}

struct Lowering {
    names: Names,
    /// Constants of one float.
    scalars: HashSet<String>,
    /// Optional values that are there.
    present: HashSet<String>,
    opset: i64,
}

impl Lowering {
    fn graph(&mut self, graph: &mut GraphProto) {
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            for attribute in &mut node.attribute {
                attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| self.graph(body));
            }
            match (node.domain(), node.op_type()) {
                ("com.microsoft", "FusedMatMul") => self.fused_matmul(node, graph, &mut nodes),
                ("com.microsoft", "QLinearAdd" | "QLinearMul") => self.quantized(node, 2, &mut nodes),
                ("com.microsoft", "QLinearLeakyRelu" | "QLinearSigmoid") => self.quantized(node, 1, &mut nodes),
                (domain, "DequantizeLinear") if is_standard(domain) && self.is_per_tensor(&node) => {
                    self.dequantize(&node.input, &node.output[0], &mut nodes);
                }
                (domain, operator) if is_standard(domain) => match operator {
                    "Optional" | "OptionalGetElement" | "OptionalHasElement" => self.optional(node, graph, &mut nodes),
                    "Upsample" => nodes.push(self.upsample(node, graph)),
                    "Resize" if aligns_by_scales(&node) => self.resize(node, graph, &mut nodes),
                    _ => nodes.push(node),
                },
                _ => nodes.push(node),
            }
        }
        graph.node = nodes;
    }

    /// An optional value that is there is its element.
    fn optional(&mut self, node: NodeProto, graph: &mut GraphProto, nodes: &mut Vec<NodeProto>) {
        let element = node.input.first().filter(|name| !name.is_empty()).cloned();
        let (Some(element), Some(output)) = (element, node.output.first().cloned()) else { return nodes.push(node) };
        match node.op_type() {
            "Optional" => {
                self.present.insert(output.clone());
                nodes.push(standard("Identity", vec![element], &output));
            }
            "OptionalGetElement" => nodes.push(standard("Identity", vec![element], &output)),
            _ if self.present.contains(&element) => {
                graph.initializer.push(tensor::from_payload(&output, ElementType::Bool, &[], vec![1]));
            }
            _ => nodes.push(node),
        }
    }

    /// `Upsample` with its scales as an input, which is how it is read.
    fn upsample(&mut self, mut node: NodeProto, graph: &mut GraphProto) -> NodeProto {
        if let Some(scales) = node.attribute.iter().position(|a| a.name() == "scales") {
            let scales = node.attribute.remove(scales).floats;
            let name = self.names.fresh(&format!("{}/scales", node.output.first().map_or("", String::as_str)));
            graph.initializer.push(tensor::float(&name, &[scales.len()], &scales));
            node.input.truncate(1);
            node.input.push(name);
        }
        node
    }

    /// `Resize` with aligned corners by the sizes that its scales make: `floor(shape * scales)`.
    fn resize(&mut self, mut node: NodeProto, graph: &mut GraphProto, nodes: &mut Vec<NodeProto>) {
        let stem = node.output[0].clone();
        let mut name = |part: &str| self.names.fresh(&format!("{stem}/{part}"));
        let [shape, floats, product, floor, sizes] = ["shape", "floats", "product", "floor", "sizes"].map(&mut name);
        let none = name("none");
        let cast = |to: ElementType| AttributeProto { i: Some(to as i64), ..to_float() };
        let with = |attribute: AttributeProto, node: NodeProto| NodeProto { attribute: vec![attribute], ..node };
        nodes.push(standard("Shape", vec![node.input[0].clone()], &shape));
        nodes.push(with(cast(ElementType::Float), standard("Cast", vec![shape], &floats)));
        nodes.push(standard("Mul", vec![floats, node.input[2].clone()], &product));
        nodes.push(standard("Floor", vec![product], &floor));
        nodes.push(with(cast(ElementType::Int64), standard("Cast", vec![floor], &sizes)));
        // Before operator set 13 the scales must be there, empty.
        node.input[2] = String::new();
        if self.opset < 13 {
            graph.initializer.push(tensor::float(&none, &[0], &[]));
            node.input[2] = none;
        }
        node.input.truncate(3);
        node.input.push(sizes);
        nodes.push(node);
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

/// Whether a `Resize` aligns corners and is given scales for all axes.
fn aligns_by_scales(node: &NodeProto) -> bool {
    let text = |name: &str| node.attribute.iter().find(|a| a.name() == name).and_then(|a| a.s.as_deref());
    let given = |i: usize| node.input.get(i).is_some_and(|name| !name.is_empty());
    text("coordinate_transformation_mode") == Some(b"align_corners")
        && node.attribute.iter().all(|a| a.name() != "axes")
        && given(2)
        && !given(3)
        && node.output.len() == 1
}

fn to_float() -> AttributeProto {
    AttributeProto {
        name: Some("to".to_owned()),
        i: Some(ElementType::Float as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

pub(super) fn standard(operator: &str, mut input: Vec<String>, output: &str) -> NodeProto {
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
