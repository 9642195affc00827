//! Models of one LSTM (H = 2, I = 3), built in memory, whose W takes every way to the node that [`find`] follows, and
//! every way that it must refuse.

use bytes::Bytes;
use half::f16;

use super::*;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, SparseTensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
};
use crate::onnx::{ElementType, LoadOptions, TensorProto, tensor};

const W: [usize; 3] = [1, 8, 3];

fn count(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), r#type: Some(7), ..Default::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(value), r#type: Some(2), ..Default::default() }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { name: Some(name.into()), g: Some(graph), r#type: Some(5), ..Default::default() }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    let (input, output) = (names(inputs), names(outputs));
    NodeProto { op_type: Some(op.into()), input, output, attribute, ..Default::default() }
}

fn lstm(name: &str, w: &str, output: &str) -> NodeProto {
    let mut lstm = node("LSTM", &["x", w, "R"], &[output], vec![int("hidden_size", 2)]);
    lstm.name = Some(name.into());
    lstm
}

fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

fn r() -> TensorProto {
    tensor::float("R", &[1, 8, 2], &count(16))
}

fn w() -> TensorProto {
    tensor::float("W", &W, &count(24))
}

fn model(opset: i64, node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let opset = OperatorSetIdProto { version: Some(opset), ..Default::default() };
    let output = vec![value("y")];
    let graph = GraphProto { node, initializer, input: vec![value("x")], output, ..Default::default() };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Default::default() }
}

fn checked(proto: ModelProto) -> Model {
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

fn survey(proto: ModelProto) -> Survey {
    find(&checked(proto), &FindOptions::default()).unwrap()
}

/// A model whose LSTM reads W through `nodes`.
fn through(opset: i64, mut nodes: Vec<NodeProto>, mut constants: Vec<TensorProto>) -> ModelProto {
    nodes.push(lstm("cell", "W", "y"));
    constants.push(r());
    model(opset, nodes, constants)
}

#[test]
fn w_is_followed_through_every_operator_on_its_way() {
    let list = |name: &str, values: &[i64]| tensor::int64(name, &[values.len()], values);
    let halves: Vec<f16> = count(24).into_iter().map(f16::from_f32).collect();
    // the rows of count(24) as [8, 3], in the order that the slices take them
    let swapped = [&count(24)[12..], &count(24)[..12]].concat();
    let constant = |name: &str, t: TensorProto| {
        let t = AttributeProto { name: Some("value".into()), t: Some(t), r#type: Some(4), ..Default::default() };
        node("Constant", &[], &[name], vec![t])
    };
    let floats = |name: &str, floats: Vec<f32>| {
        let name_of = Some("value_floats".to_owned());
        let value = AttributeProto { name: name_of, floats, r#type: Some(6), ..Default::default() };
        node("Constant", &[], &[name], vec![value])
    };
    let a = |shape: &[usize]| tensor::float("a", shape, &count(24));
    let cases: Vec<(&str, ModelProto, Vec<f32>)> = vec![
        ("initializer", through(17, vec![], vec![w()]), count(24)),
        ("Constant node", through(17, vec![constant("W", w())], vec![]), count(24)),
        (
            "Reshape(Constant node)",
            through(
                17,
                vec![floats("a", count(24)), node("Reshape", &["a", "s"], &["W"], vec![])],
                vec![list("s", &[1, -1, 3])],
            ),
            count(24),
        ),
        (
            "DequantizeLinear(initializer)",
            through(
                17,
                vec![node("DequantizeLinear", &["a", "b", "z"], &["W"], vec![])],
                vec![
                    tensor::int8("a", &W, &(1..=24).collect::<Vec<i8>>()),
                    tensor::float("b", &[W[1]], &[0.5; W[1]]),
                    tensor::int8("z", &[W[1]], &[2; W[1]]),
                ],
            ),
            (1..=24).map(|q| 0.5 * (q - 2) as f32).collect(),
        ),
        (
            "Identity(Transpose(initializer))",
            through(
                9,
                vec![
                    node("Transpose", &["a"], &["b"], vec![ints("perm", &[0, 2, 1])]),
                    node("Identity", &["b"], &["W"], vec![]),
                ],
                vec![tensor::float("a", &[1, 3, 8], &(0..24).map(|i| (i % 8 * 3 + i / 8) as f32).collect::<Vec<_>>())],
            ),
            count(24),
        ),
        (
            "Cast(initializer)",
            through(9, vec![node("Cast", &["a"], &["W"], vec![int("to", 1)])], vec![tensor::float16("a", &W, &halves)]),
            count(24),
        ),
        (
            "Unsqueeze(initializer)",
            through(11, vec![node("Unsqueeze", &["a"], &["W"], vec![ints("axes", &[0])])], vec![a(&[8, 3])]),
            count(24),
        ),
        (
            "Unsqueeze(initializer)",
            through(13, vec![node("Unsqueeze", &["a", "s"], &["W"], vec![])], vec![a(&[8, 3]), list("s", &[-3])]),
            count(24),
        ),
        (
            "Squeeze(initializer)",
            through(9, vec![node("Squeeze", &["a"], &["W"], vec![ints("axes", &[-1])])], vec![a(&[1, 8, 3, 1])]),
            count(24),
        ),
        (
            "Unsqueeze(Squeeze(initializer))",
            through(
                17,
                vec![node("Squeeze", &["a"], &["b"], vec![]), node("Unsqueeze", &["b", "s"], &["W"], vec![])],
                vec![a(&[1, 8, 3, 1]), list("s", &[0])],
            ),
            count(24),
        ),
        (
            "Reshape(Flatten(initializer))",
            through(
                17,
                vec![
                    node("Flatten", &["a"], &["b"], vec![int("axis", 2)]),
                    node("Reshape", &["b", "s"], &["W"], vec![int("allowzero", 1)]),
                ],
                vec![a(&[4, 2, 3]), list("s", &[1, 8, 3])],
            ),
            count(24),
        ),
        (
            "Concat(2 x Slice(initializer))",
            through(
                9,
                vec![
                    node("Slice", &["a"], &["b"], vec![ints("axes", &[1]), ints("starts", &[4]), ints("ends", &[99])]),
                    node(
                        "Slice",
                        &["a"],
                        &["c"],
                        vec![ints("axes", &[1]), ints("starts", &[-99]), ints("ends", &[-4])],
                    ),
                    node("Concat", &["b", "c"], &["W"], vec![int("axis", -2)]),
                ],
                vec![a(&W)],
            ),
            swapped.clone(),
        ),
        (
            "Slice(initializer)",
            through(
                10,
                vec![node("Slice", &["a", "b", "e", "n", "s"], &["W"], vec![])],
                vec![
                    tensor::float("a", &W, &count(24).into_iter().rev().collect::<Vec<_>>()),
                    list("b", &[-1, 7]),
                    list("e", &[i64::MIN, -9]),
                    list("n", &[2, 1]),
                    list("s", &[-1, -1]),
                ],
            ),
            count(24),
        ),
        (
            "Gather(2 x initializer)",
            through(
                17,
                vec![node("Gather", &["a", "s"], &["W"], vec![int("axis", 1)])],
                vec![a(&W), list("s", &[4, 5, 6, -1, 0, 1, 2, 3])],
            ),
            swapped.clone(),
        ),
        (
            "Concat(2 x Split(initializer))",
            through(
                17,
                vec![
                    node("Split", &["a"], &["b", "c"], vec![int("axis", 1)]),
                    node("Concat", &["c", "b"], &["W"], vec![int("axis", 1)]),
                ],
                vec![a(&W)],
            ),
            swapped.clone(),
        ),
        (
            "Concat(2 x Split(initializer))",
            through(
                13,
                vec![
                    node("Split", &["a", "s"], &["b", "c"], vec![int("axis", 1)]),
                    node("Concat", &["b", "c"], &["W"], vec![int("axis", 1)]),
                ],
                vec![a(&W), list("s", &[3, 5])],
            ),
            count(24),
        ),
        (
            "Div(Sub(Add(initializer, Expand(initializer)), initializer), initializer)",
            through(
                17,
                vec![
                    node("Expand", &["b", "s"], &["c"], vec![]),
                    node("Add", &["a", "c"], &["d"], vec![]),
                    node("Sub", &["d", "b"], &["e"], vec![]),
                    node("Div", &["e", "b"], &["W"], vec![]),
                ],
                vec![
                    tensor::float("a", &W, &count(24).iter().map(|v| 2.0 * v).collect::<Vec<_>>()),
                    tensor::float("b", &[1, 1], &[2.0]),
                    list("s", &[8, 3]),
                ],
            ),
            count(24),
        ),
        // what this crate writes: codes, codebook, scales
        (
            "Mul(Cast(Reshape(Gather(initializer, Cast(initializer)))), initializer)",
            through(
                17,
                vec![
                    node("Cast", &["codes"], &["a"], vec![int("to", 6)]),
                    node("Gather", &["atoms", "a"], &["b"], vec![int("axis", 0)]),
                    node("Reshape", &["b", "s"], &["c"], vec![]),
                    node("Cast", &["c"], &["d"], vec![int("to", 1)]),
                    node("Mul", &["d", "scale"], &["W"], vec![]),
                ],
                vec![
                    tensor::uint8("codes", &[8, 1], &[0, 1, 0, 1, 0, 1, 0, 1]),
                    tensor::int8("atoms", &[2, 3], &[1, 2, 3, -4, -5, -6]),
                    list("s", &[1, 8, 3]),
                    tensor::float("scale", &[1, 8, 1], &[0.5; 8]),
                ],
            ),
            [0.5, 1.0, 1.5, -2.0, -2.5, -3.0].repeat(4),
        ),
    ];
    for (route, proto, expected) in cases {
        let model = checked(proto);
        let found = find(&model, &FindOptions::default()).unwrap();
        let [node] = &found.nodes[..] else { panic!("{route}: {:?}", found.skipped) };
        assert_eq!(node.w.route, route);
        assert_eq!((node.w.shape, node.input_size, node.attributes.hidden), (W, 3, 2), "{route}");
        assert_eq!(node.w.values(&model).unwrap().into_raw_vec_and_offset().0, expected, "{route}");
    }
}

#[test]
fn what_is_not_constant_is_skipped_with_the_reason() {
    let shape = |dims: &[i64]| tensor::int64("s", &[dims.len()], dims);
    let spread = tensor::int64("i", &[1 << 12], &[0; 1 << 12]);
    let mut nan = count(24);
    nan[7] = f32::NAN;
    let mut deep: Vec<NodeProto> =
        (0..70).map(|i| node("Identity", &[&format!("v{i}")], &[&format!("v{}", i + 1)], vec![])).collect();
    deep.push(node("Identity", &["v70"], &["W"], vec![]));
    let mut doubling: Vec<NodeProto> = (0..40)
        .map(|i| {
            let input = format!("v{i}");
            node("Concat", &[&input, &input], &[&format!("v{}", i + 1)], vec![int("axis", 0)])
        })
        .collect();
    doubling.push(node("Reshape", &["v40", "s"], &["W"], vec![]));
    let v0 = || tensor::float("v0", &W, &count(24));
    let foreign = NodeProto { domain: Some("acme".into()), ..node("Weights", &[], &["W"], vec![]) };
    let sparse = {
        let mut proto = through(17, vec![], vec![]);
        let entry = SparseTensorProto { values: Some(tensor::float("W", &[1], &[1.0])), ..Default::default() };
        proto.graph.as_mut().unwrap().sparse_initializer.push(entry);
        proto
    };
    let given = {
        let mut proto = through(17, vec![], vec![]);
        proto.graph.as_mut().unwrap().input.push(value("W"));
        proto
    };
    let overridable = {
        let mut proto = through(17, vec![], vec![w()]);
        proto.graph.as_mut().unwrap().input.push(value("W"));
        proto
    };
    let cases = vec![
        (given, "W is graph input 'W'"),
        (through(17, vec![node("MatMul", &["x", "R"], &["W"], vec![])], vec![]), "W is computed from graph input 'x'"),
        (through(17, vec![node("Mul", &["x", "R"], &["W"], vec![])], vec![]), "W is computed from graph input 'x'"),
        (
            through(17, vec![node("Neg", &["a"], &["W"], vec![])], vec![tensor::float("a", &W, &count(24))]),
            "W is computed from node 'W' (Neg), which is not supported",
        ),
        (through(17, vec![foreign], vec![]), "W is computed from node 'W' (acme.Weights), which is not supported"),
        (
            overridable,
            "W is initializer 'W', which is also a graph input that a caller may override (--freeze-inputs makes it a constant)",
        ),
        (sparse, "W is sparse initializer 'W'"),
        (
            through(
                17,
                vec![node("DequantizeLinear", &["a", "b"], &["W"], vec![])],
                vec![tensor::int8("a", &W, &[1; 24]), tensor::float("b", &[5], &[1.0; 5])],
            ),
            "W is computed from node 'W' (DequantizeLinear), which has scales that do not fit",
        ),
        (through(17, vec![], vec![tensor::float("W", &W, &nan)]), "W holds NaN or infinite values"),
        (through(17, deep, vec![v0()]), "W is computed from a chain of more than 64 nodes"),
        (through(17, doubling, vec![v0(), shape(&[1, 8, 3])]), "far larger than what the model stores"),
        (
            through(17, vec![node("ConstantOfShape", &["s"], &["W"], vec![])], vec![shape(&[1, 1 << 33, 8])]),
            "far larger than what the model stores",
        ),
        (
            through(17, vec![node("ConstantOfShape", &["s"], &["W"], vec![])], vec![shape(&[0, i64::MAX, i64::MAX])]),
            "far larger than what the model stores",
        ),
        (
            through(17, vec![node("Expand", &["v0", "s"], &["W"], vec![])], vec![v0(), shape(&[1 << 33, 8, 3])]),
            "far larger than what the model stores",
        ),
        (
            through(
                17,
                vec![
                    node("Gather", &["i", "i"], &["a"], vec![]),
                    node("Gather", &["a", "i"], &["b"], vec![]),
                    node("Expand", &["b", "i"], &["W"], vec![]),
                ],
                vec![spread],
            ),
            "too many axes",
        ),
        (
            through(17, vec![node("Reshape", &["v0", "s"], &["W"], vec![])], vec![v0(), shape(&[1, 8, 4])]),
            "node 'W' (Reshape), which reshapes [1, 8, 3] to [1, 8, 4]",
        ),
        (
            through(17, vec![node("Reshape", &["v0", "s"], &["W"], vec![])], vec![v0(), shape(&[0, -1, 0, 0])]),
            "which reshapes",
        ),
        (
            through(17, vec![node("Gather", &["v0", "s"], &["W"], vec![])], vec![v0(), shape(&[7])]),
            "which picks element 7 of 1",
        ),
        (
            through(17, vec![node("Transpose", &["v0"], &["W"], vec![ints("perm", &[0, 0, 1])])], vec![v0()]),
            "no permutation",
        ),
        (through(17, vec![node("Cast", &["v0"], &["W"], vec![int("to", 8)])], vec![v0()]), "casts FLOAT to STRING"),
    ];
    for (proto, reason) in cases {
        let found = survey(proto);
        assert!(found.nodes.is_empty(), "{reason}");
        let [skipped] = &found.skipped[..] else { panic!("{reason}") };
        assert_eq!((&*skipped.node, &*skipped.op), ("cell", "LSTM"));
        assert!(skipped.reason.contains(reason), "'{}' is not '{reason}'", skipped.reason);
        assert_eq!(skipped.warning, reason.contains("NaN"));
    }
}

#[test]
fn frozen_inputs_are_constants() {
    let mut proto = through(17, vec![], vec![w()]);
    proto.graph.as_mut().unwrap().input.push(value("W"));
    let model = checked(proto);
    let found = find(&model, &FindOptions { freeze_inputs: true, ..Default::default() }).unwrap();
    assert_eq!(found.nodes[0].w.frozen, ["W"]);
    assert!(found.nodes[0].r.frozen.is_empty());
    assert_eq!(found.nodes[0].w.values(&model).unwrap().len(), 24);
}

#[test]
fn what_breaks_the_operator_is_an_error_that_names_node_and_tensor() {
    let t = |name: &str, shape: &[usize]| tensor::float(name, shape, &count(shape.iter().product()));
    let with = |w: TensorProto, r: TensorProto| model(17, vec![lstm("cell", "W", "y")], vec![w, r]);
    let no_w = model(17, vec![node("LSTM", &["x", "", "R"], &["y"], vec![int("hidden_size", 2)])], vec![r()]);
    let reading = |extra: TensorProto| {
        let mut proto = through(17, vec![], vec![w(), extra]);
        proto.graph.as_mut().unwrap().node[0].input.push("B".into());
        proto
    };
    let wide = {
        let mut proto = through(17, vec![], vec![w()]);
        let size = |n| Dimension { value: Some(dimension::Value::DimValue(n)), ..Default::default() };
        let shape = Some(TensorShapeProto { dim: vec![size(5), size(1), size(4)] });
        let tensor = type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape });
        proto.graph.as_mut().unwrap().input[0].r#type = Some(TypeProto { value: Some(tensor), ..Default::default() });
        proto
    };
    let cases = [
        (reading(t("B", &[1, 8])), "tensor 'B': B has shape [1, 8], expected [1, 16]"),
        (wide, "tensor 'x': X has vectors of 4, but W is for vectors of 3"),
        (with(t("W", &[1, 9, 3]), r()), "node 'cell': tensor 'W': W has shape [1, 9, 3], expected [1, 8, input size]"),
        (with(t("W", &[8, 3]), r()), "tensor 'W': W has shape [8, 3]"),
        (with(t("W", &[2, 8, 3]), r()), "expected [1, 8, input size] for hidden_size 2, forward"),
        (with(w(), t("R", &[1, 8, 3])), "tensor 'R': R has shape [1, 8, 3], expected [1, 8, 2]"),
        (with(tensor::int8("W", &W, &[0; 24]), r()), "no floats"),
        (with(tensor::float16("W", &W, &[f16::ONE; 24]), r()), "W is FLOAT16 but R is FLOAT"),
        (no_w, "node 'y': input W is missing"),
    ];
    for (proto, wanted) in cases {
        let error = find(&checked(proto), &FindOptions::default()).expect_err(wanted);
        assert!(error.to_string().contains(wanted), "'{error}' is not '{wanted}'");
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
}

#[test]
fn bodies_see_outer_constants_and_share_them() {
    // both branches read W of the outer graph, one through an Identity; else has its own R, equal bit for bit
    let branch = |name: &str, w: &str, nodes: Vec<NodeProto>, initializer: Vec<TensorProto>| GraphProto {
        node: [nodes, vec![lstm("cell", w, name)]].concat(),
        output: vec![value(name)],
        initializer,
        ..Default::default()
    };
    let then = branch("a", "W", vec![], vec![]);
    let other = branch("b", "V", vec![node("Identity", &["W"], &["V"], vec![])], vec![r()]);
    let choice = node("If", &["c"], &["y"], vec![body("then_branch", then), body("else_branch", other)]);
    let condition = tensor::from_payload("c", ElementType::Bool, &[], Bytes::from_static(&[1]));
    let proto = model(17, vec![choice], vec![w(), r(), condition]);
    let found = survey(proto);
    let names: Vec<&str> = found.nodes.iter().map(|n| &*n.name).collect();
    assert_eq!(names, ["cell", "cell#2"], "unique names");
    assert_eq!(found.nodes[0].bodies, ["If"]);
    assert_eq!(found.nodes[0].w.route, "initializer of the outer graph");
    assert_eq!(found.nodes[1].w.route, "Identity(initializer of the outer graph)");
    assert_eq!(found.nodes[1].r.route, "initializer");
    assert_eq!(found.weights.len(), 2, "W and R, each used twice");
    assert!(found.weights.iter().all(|w| w.uses.len() == 2));
    assert_eq!(found.weight_of(1, Matrix::R), Some(1));
    // W is stored once, R twice
    assert_eq!(found.stored_bytes(), 4 * (24 + 16 + 16));
}

#[test]
fn inputs_of_a_body_are_not_constant() {
    let inner = GraphProto {
        node: vec![lstm("cell", "w", "b")],
        input: vec![value("i"), value("c"), value("w")],
        output: vec![value("c"), value("w"), value("b")],
        ..Default::default()
    };
    let repeat = node("Loop", &["", "", "W"], &["z", "y"], vec![body("body", inner)]);
    let found = survey(model(17, vec![repeat], vec![w(), r()]));
    assert_eq!(found.skipped[0].reason, "W is input 'w' of the Loop body");
}

#[test]
fn other_recurrent_operators_are_told_of_and_foreign_ones_are_not() {
    let of = |domain: &str, op: &str| {
        let mut proto = through(17, vec![], vec![w()]);
        let node = proto.graph.as_mut().unwrap().node.last_mut().unwrap();
        (node.domain, node.op_type) = (Some(domain.into()), Some(op.into()));
        survey(proto)
    };
    assert_eq!(of("ai.onnx", "LSTM").nodes.len(), 1);
    assert_eq!(
        of("com.microsoft", "AttnLSTM").skipped[0].reason,
        "com.microsoft.AttnLSTM is not supported; LSTM, GRU and RNN of ONNX are"
    );
    let vendor = of("com.microsoft", "DynamicQuantizeLSTM");
    assert!(vendor.skipped[0].reason.starts_with("already quantised (com.microsoft.DynamicQuantizeLSTM): "));
    let foreign = of("acme", "LSTM");
    assert!(foreign.nodes.is_empty() && foreign.skipped.is_empty());
}

#[test]
fn nodes_in_functions_are_told_of() {
    let mut proto = through(17, vec![], vec![w()]);
    proto.functions.push(FunctionProto {
        name: Some("layer".into()),
        domain: Some("acme".into()),
        node: vec![lstm("inner", "W", "y")],
        ..Default::default()
    });
    let found = survey(proto);
    assert_eq!(found.skipped[0].node, "acme.layer/inner");
    assert!(found.skipped[0].reason.contains("model-local function 'acme.layer'"));
}

#[test]
fn nodes_are_chosen_by_name_before_they_are_examined() {
    let broken = lstm("broken", "missing rows", "z");
    let proto = model(
        17,
        vec![lstm("cell", "W", "y"), broken],
        vec![w(), r(), tensor::float("missing rows", &[1, 1, 1], &[0.0])],
    );
    let model = checked(proto);
    let choose = |include: Option<&str>, exclude: Option<&str>| {
        let regex = |text: Option<&str>| text.map(|t| Regex::new(t).unwrap());
        find(&model, &FindOptions { include: regex(include), exclude: regex(exclude), ..Default::default() })
    };
    assert!(choose(None, None).is_err());
    assert_eq!(choose(Some("^cell$"), None).unwrap().skipped[0].reason, "not among those of --include");
    assert_eq!(choose(None, Some("broken")).unwrap().nodes.len(), 1);
}

#[test]
fn units_are_gates_in_the_order_of_their_rows() {
    let mut proto = through(17, vec![], vec![tensor::float("W", &[2, 6, 3], &count(36))]);
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer[1] = tensor::float("R", &[2, 6, 2], &count(24));
    let both = Some(Bytes::from_static(b"bidirectional"));
    let direction = AttributeProto { name: Some("direction".into()), s: both, ..Default::default() };
    graph.node[0] = node("GRU", &["x", "W", "R"], &["y"], vec![int("hidden_size", 2), direction]);
    let found = survey(proto);
    let units = found.nodes[0].blocks();
    let names: Vec<String> = units.iter().map(GateBlock::to_string).collect();
    assert_eq!(names[..4], ["y/W/forward/z", "y/W/forward/r", "y/W/forward/h", "y/W/reverse/z"]);
    assert_eq!(names[11], "y/R/reverse/h");
    assert_eq!((units[11].rows(), units[11].shape(), units[11].direction_index), (4..6, [2, 2], 1));
    assert_eq!(units[0].shape(), [2, 3]);
}

#[test]
fn a_weight_that_is_read_a_thousand_times_is_evaluated_once() {
    let nodes = (0..5000).map(|i| lstm(&format!("step{i}"), "W", &format!("y{i}"))).collect();
    let mut proto = model(17, nodes, vec![w(), r()]);
    proto.graph.as_mut().unwrap().output = vec![value("y7")];
    let found = survey(proto);
    assert_eq!((found.nodes.len(), found.weights.len()), (5000, 2));
    assert_eq!(found.stored_bytes(), 4 * 40);
}

#[test]
fn many_nodes_together_cannot_ask_for_more_than_one() {
    // each Expand is within bounds on its own
    let node_of = |i: usize| node("Expand", &["v", "s"], &[&format!("w{i}")], vec![]);
    let expand = (0..1000).map(node_of);
    let read = (0..1000).map(|i| lstm(&format!("cell{i}"), &format!("w{i}"), &format!("y{i}")));
    let constants = vec![tensor::float("v", &[1], &[1.0]), tensor::int64("s", &[3], &[1, 8, 1 << 16]), r()];
    let mut proto = model(17, expand.chain(read).collect(), constants);
    proto.graph.as_mut().unwrap().output = vec![value("y7")];
    let found = survey(proto);
    assert!((5..100).contains(&found.nodes.len()), "{}", found.nodes.len());
    assert!(found.skipped[0].reason.contains("far larger"));
}
