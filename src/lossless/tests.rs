//! Each step on a small model that is made for it.

use super::*;
use crate::onnx::graph::{Step as Inward, bodies};
use crate::onnx::proto::{
    FunctionProto, GraphProto, OperatorSetIdProto, StringStringEntryProto, TensorAnnotation, ValueInfoProto,
};
use crate::onnx::{
    AttributeProto, ElementType, LoadOptions, ModelProto, NodeProto, Scope, TensorProto, Values, tensor,
};

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        name: Some(format!("node of {}", outputs.first().copied().unwrap_or_default())),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        ..Default::default()
    }
}

fn infos(names: &[&str]) -> Vec<ValueInfoProto> {
    names.iter().map(|&n| ValueInfoProto { name: Some(n.to_owned()), ..Default::default() }).collect()
}

fn graph(inputs: &[&str], constants: Vec<TensorProto>, nodes: Vec<NodeProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("g".to_owned()),
        input: infos(inputs),
        initializer: constants,
        node: nodes,
        output: infos(outputs),
        ..Default::default()
    }
}

fn with_bodies(mut node: NodeProto, all: Vec<GraphProto>) -> NodeProto {
    let attribute = |(i, g)| AttributeProto { name: Some(format!("b{i}")), g: Some(g), ..Default::default() };
    node.attribute.extend(all.into_iter().enumerate().map(attribute));
    node
}

fn import(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }
}

fn proto(graph: GraphProto) -> ModelProto {
    ModelProto { ir_version: Some(8), opset_import: vec![import("", 15)], graph: Some(graph), ..Default::default() }
}

fn model(graph: GraphProto) -> Model {
    Model::from_proto(proto(graph), &LoadOptions::default()).unwrap()
}

fn after(model: &Model, change: Change) -> Model {
    let mut changed = model.clone();
    change(&mut changed).unwrap();
    Values::new(&changed.proto).unwrap();
    changed
}

fn root(model: &Model) -> &GraphProto {
    model.proto.graph.as_ref().unwrap()
}

/// The table that a node of the model reads, as a runtime restores it.
fn read_by(model: &Model, node: usize, input: usize) -> TensorProto {
    let values = Values::new(&model.proto).unwrap();
    let name = &root(model).node[node].input[input];
    restored(model, &values, values.resolve(&Scope::root(), name).unwrap()).unwrap()
}

fn position(model: &Model, op: &str) -> usize {
    root(model).node.iter().position(|node| node.op_type() == op).unwrap()
}

fn ramp(name: &str, n: usize) -> TensorProto {
    tensor::float(name, &[n], &(0..n).map(|v| v as f32).collect::<Vec<_>>())
}

#[test]
fn equal_constants_of_branches_move_to_the_graph_around_them() {
    let body = |w: &str, k: &str| {
        let constants = vec![ramp(w, 100), tensor::int64(k, &[1], &[1])];
        let nodes = vec![node("Add", &["x", w], &["s"]), node("Unsqueeze", &["s", k], &["y"])];
        graph(&[], constants, nodes, &["y"])
    };
    let branch = with_bodies(node("If", &["c"], &["out"]), vec![body("then_w", "k1"), body("else_w", "k2")]);
    let merged = after(&model(graph(&["x", "c"], vec![], vec![branch], &["out"])), equal::store_once);
    assert_eq!(root(&merged).initializer.len(), 1, "the large one is stored once, outside");
    let moved = root(&merged).initializer[0].name();
    for (_, _, body) in bodies(&root(&merged).node[0]) {
        assert_eq!(body.node[0].input[1], moved);
        assert_eq!(body.initializer.len(), 1, "a small one stays beside its node");
    }
}

#[test]
fn constants_that_others_may_see_are_not_merged() {
    let constants = vec![ramp("a", 100), ramp("default", 100), ramp("out", 100), ramp("scale", 100), ramp("b", 100)];
    let nodes = ["a", "default", "out", "scale", "b"].map(|c| node("Add", &["x", c], &[&format!("sum of {c}")]));
    let outputs = ["out", "sum of a", "sum of default", "sum of out", "sum of scale", "sum of b"];
    let mut made = graph(&["x", "default"], constants, nodes.to_vec(), &outputs);
    let entry = StringStringEntryProto { key: Some("SCALE_TENSOR".to_owned()), value: Some("scale".to_owned()) };
    made.quantization_annotation =
        vec![TensorAnnotation { tensor_name: Some("x".to_owned()), quant_parameter_tensor_names: vec![entry] }];
    let merged = after(&model(made), equal::store_once);
    let kept: Vec<&str> = root(&merged).initializer.iter().map(|t| t.name()).collect();
    assert_eq!(kept, ["a", "default", "out", "scale"], "b is a");
    assert_eq!(root(&merged).node[4].input[1], "a");
}

#[test]
fn equal_bits_of_another_type_or_shape_are_another_constant() {
    let constants = vec![
        tensor::float("f", &[2], &[0.0, 0.0]),
        tensor::int32("i", &[2], &[0, 0]),
        tensor::float("wide", &[1, 2], &[0.0, 0.0]),
        tensor::float("negative", &[2], &[0.0, -0.0]),
    ];
    let nodes = ["f", "i", "wide", "negative"].map(|c| node("Cast", &[c], &[&format!("of {c}")]));
    let made = model(graph(&[], constants, nodes.to_vec(), &["of f", "of i", "of wide", "of negative"]));
    assert_eq!(after(&made, equal::store_once).proto, made.proto);
}

#[test]
fn a_name_that_a_body_hides_is_not_given_to_it() {
    // The body's own `w` hides the outer one, which it would otherwise read in place of `v`.
    let inner =
        graph(&[], vec![ramp("v", 100)], vec![node("Neg", &["x"], &["w"]), node("Add", &["w", "v"], &["y"])], &["y"]);
    let branch = with_bodies(node("If", &["c"], &["out"]), vec![inner]);
    let made = graph(&["x", "c"], vec![ramp("w", 100)], vec![node("Add", &["x", "w"], &["z"]), branch], &["out", "z"]);
    let made = model(made);
    assert_eq!(after(&made, equal::store_once).proto, made.proto);
}

#[test]
fn tables_of_indices_become_narrow_and_shapes_do_not() {
    let table: Vec<i64> = (0..600).map(|v| 130 + v % 100).collect();
    let constants = vec![tensor::int64("table", &[600], &table), tensor::int64("shape", &[2], &[200, 3])];
    let nodes = vec![node("Gather", &["x", "table"], &["g"]), node("Reshape", &["g", "shape"], &["y"])];
    let made = model(graph(&["x"], constants, nodes, &["y"]));
    let narrow = after(&made, integers::narrow);
    let types: Vec<i32> = root(&narrow).initializer.iter().map(|t| t.data_type()).collect();
    assert_eq!(types, [ElementType::Int64 as i32, ElementType::Uint8 as i32]);
    let restored = read_by(&narrow, position(&narrow, "Gather"), 1);
    assert_eq!(made.payload(&root(&made).initializer[0]).unwrap(), made.payload(&restored).unwrap());
    let small = tensor::int64("table", &[600], &[7; 600]);
    let small = model(graph(&["x"], vec![small], vec![node("Gather", &["x", "table"], &["y"])], &["y"]));
    assert_eq!(after(&small, integers::narrow).proto, small.proto, "compact values take no more, and no node");
    let packed = after(&small, packing::pack);
    assert!(packed.proto.graph.as_ref().unwrap().initializer[0].int64_data.len() == 600);
}

#[test]
fn negative_indices_are_int8_and_large_ones_int32() {
    for (values, expected) in [([-1i64, 5], ElementType::Int8), ([-1, 70_000], ElementType::Int32)] {
        let table: Vec<i64> = values.iter().copied().cycle().take(400).collect();
        let made =
            graph(&["x"], vec![tensor::int64("t", &[400], &table)], vec![node("Gather", &["x", "t"], &["y"])], &["y"]);
        let made = model(made);
        let narrow = after(&made, integers::narrow);
        assert_eq!(root(&narrow).initializer[0].data_type(), expected as i32);
        assert_eq!(made.integers(&read_by(&narrow, 1, 1)).unwrap().as_slice().unwrap(), table);
    }
}

#[test]
fn tables_of_few_pieces_are_restored_bit_for_bit() {
    let odd = [f32::NAN, -0.0, 0.0, 1.5, f32::INFINITY];
    let table: Vec<f32> = (0..64 * 40).map(|v| odd[(v / 8 * 7 + v / 80) % 5]).collect();
    let reader = node("MatMul", &["x", "t"], &["y"]);
    let made = model(graph(&["x"], vec![tensor::float("t", &[64, 40], &table)], vec![reader], &["y"]));
    let stored = after(&made, pieces::store);
    assert_eq!(
        root(&stored).node.iter().map(|n| n.op_type()).collect::<Vec<_>>(),
        ["Cast", "Gather", "Reshape", "MatMul"]
    );
    let restored = read_by(&stored, 3, 1);
    assert_eq!(restored.dims, [64, 40]);
    assert_eq!(made.payload(&root(&made).initializer[0]).unwrap(), made.payload(&restored).unwrap());
    // What has more pieces than codes, and what a recurrent node reads, stays.
    let many: Vec<f32> = (0..2560).map(|v| v as f32).collect();
    for (op, values) in [("MatMul", &many), ("LSTM", &table)] {
        let made =
            graph(&["x"], vec![tensor::float("t", &[64, 40], values)], vec![node(op, &["x", "t"], &["y"])], &["y"]);
        let made = model(made);
        assert_eq!(after(&made, pieces::store).proto, made.proto);
    }
}

#[test]
fn old_operator_sets_keep_their_constants() {
    // A Cast names its type before operator set 6, and a Reshape has its shape as an attribute before 5.
    let table: Vec<f32> = (0..64 * 40).map(|v| (v % 3) as f32).collect();
    let indices = tensor::int64("i", &[600], &(0..600).map(|v| 130 + v % 100).collect::<Vec<_>>());
    let nodes = vec![node("MatMul", &["x", "t"], &["m"]), node("Gather", &["m", "i"], &["y"])];
    let made = graph(&["x"], vec![tensor::float("t", &[64, 40], &table), indices], nodes, &["y"]);
    for (opset, changes) in [(4, false), (5, false), (6, false), (7, true)] {
        let made = ModelProto { opset_import: vec![import("", opset)], ..proto(made.clone()) };
        let made = Model::from_proto(made, &LoadOptions::default()).unwrap();
        for step in [pieces::store, integers::narrow] {
            assert_eq!(after(&made, step).proto != made.proto, changes, "operator set {opset}");
        }
    }
}

/// An If whose branch reads `k`, which the branch and the graph around it both store, and a weight that the else branch reads.
fn shadowed() -> Model {
    let negative: Vec<f32> = (0..100).map(|v| -v as f32).collect();
    let yes =
        graph(&[], vec![tensor::float("k", &[100], &negative)], vec![node("Add", &["x", "k"], &["yes"])], &["yes"]);
    let no = graph(&[], vec![ramp("own", 100)], vec![node("Add", &["x", "own"], &["no"])], &["no"]);
    let branch = with_bodies(node("If", &["c"], &["y"]), vec![yes, no]);
    let constants = vec![ramp("k", 100), ramp("a long name", 100)];
    let nodes = vec![node("Add", &["a long name", "k"], &["z"]), branch];
    model(graph(&["x", "c"], constants, nodes, &["y", "z"]))
}

#[test]
fn a_name_that_two_graphs_define_is_left_alone() {
    let made = shadowed();
    let (small, steps) = apply(&made, &LosslessOptions::default()).unwrap();
    assert!(!steps.is_empty());
    // One runtime reads the outer `k` in the branch, another the inner one: both are there as they were.
    let step = Inward { node: 1, attribute: 0, graph: None };
    for (graph, before) in
        [(root(&small), root(&made)), (small.graph(&Scope::root().child(step)), made.graph(&Scope::root().child(step)))]
    {
        let of = |graph: &GraphProto| graph.initializer.iter().find(|t| t.name() == "k").unwrap().dims.clone();
        assert_eq!(of(graph), of(before));
        assert_eq!(graph.node[0].input[1], "k");
    }
    // What reads neither is stored once: `own` is the long name.
    assert_eq!(root(&small).initializer.len(), 2);
}

#[test]
fn tables_of_more_than_4_mib_are_joined_from_blocks() {
    let table: Vec<f32> = (0..1500 * 1024).map(|v| (v / 512 % 3) as f32).collect();
    let reader = node("MatMul", &["x", "t"], &["y"]);
    let made = model(graph(&["x"], vec![tensor::float("t", &[1500, 1024], &table)], vec![reader], &["y"]));
    let stored = after(&made, pieces::store);
    assert_eq!(root(&stored).node.iter().filter(|n| n.op_type() == "Reshape").count(), 2);
    let restored = read_by(&stored, position(&stored, "MatMul"), 1);
    assert_eq!(made.payload(&root(&made).initializer[0]).unwrap(), made.payload(&restored).unwrap());
}

#[test]
fn a_dft_basis_is_generated_and_can_be_kept() {
    let (rows, columns) = (33, 64);
    let turn = |k: usize, j: usize| 2.0 * std::f64::consts::PI * (k * j) as f64 / columns as f64;
    let window = |j: usize| 0.5 - 0.5 * turn(1, j).cos();
    let value = |row: usize, j: usize| match row.checked_sub(rows) {
        None => turn(row, j).cos() * window(j),
        Some(k) => -turn(k, j).sin() * window(j),
    };
    let table: Vec<f32> = (0..2 * rows).flat_map(|row| (0..columns).map(move |j| value(row, j) as f32)).collect();
    let basis = tensor::float("basis", &[2 * rows, 1, columns], &table);
    let made = |opset| {
        let graph = graph(&["x"], vec![basis.clone()], vec![node("Conv", &["x", "basis"], &["y"])], &["y"]);
        Model::from_proto(ModelProto { opset_import: vec![import("", opset)], ..proto(graph) }, &LoadOptions::default())
            .unwrap()
    };
    let (small, steps) = apply(&made(15), &LosslessOptions::default()).unwrap();
    let step = steps.iter().find(|step| step.name == GENERATED).unwrap();
    assert!(!step.exact && step.bytes > 15_000, "{step:?}");
    assert!(root(&small).node.iter().any(|node| node.op_type() == "Range"));
    let (_, kept) = apply(&made(15), &LosslessOptions { generate_dft: false, ..LosslessOptions::default() }).unwrap();
    let (_, old) = apply(&made(10), &LosslessOptions::default()).unwrap();
    assert!(kept.iter().chain(&old).all(|step| step.exact));
}

#[test]
fn traces_go_and_what_is_the_users_stays() {
    let text = || Some("a trace".to_owned());
    let entry = || vec![StringStringEntryProto { key: text(), value: text() }];
    let mut known = node("Neg", &["x"], &["a"]);
    (known.doc_string, known.metadata_props) = (text(), entry());
    let mut foreign = node("Strange", &["a"], &["b"]);
    foreign.domain = Some("org.example".to_owned());
    let mut made = graph(&["x"], vec![], vec![known, foreign, node("Neg", &["b"], &["y"])], &["y"]);
    (made.doc_string, made.metadata_props) = (text(), entry());
    made.value_info = infos(&["a", "b"]);
    made.input[0].doc_string = text();
    let opset_import = vec![import("", 15), import("org.example", 1)];
    let made = ModelProto { doc_string: text(), metadata_props: entry(), opset_import, ..proto(made) };
    let clean = after(&Model::from_proto(made, &LoadOptions::default()).unwrap(), traces::strip);
    assert_eq!(clean.proto.doc_string, text());
    assert_eq!(clean.proto.metadata_props, entry());
    assert_eq!(root(&clean).input[0].doc_string, text(), "it describes the model's own input");
    assert_eq!((&root(&clean).doc_string, &root(&clean).node[0].doc_string), (&None, &None));
    assert!(root(&clean).metadata_props.is_empty() && root(&clean).node[0].metadata_props.is_empty());
    assert_eq!(root(&clean).value_info, infos(&["b"]), "nobody infers what a foreign operator gives");
}

/// Indices that the outer graph declares, and a body reads.
#[test]
fn ranks_of_indices_stay_known_across_graphs() {
    let look_up = || graph(&[], vec![], vec![node("Gather", &["table", "ids"], &["rows"])], &["rows"]);
    let branch = with_bodies(node("If", &["c"], &["y"]), vec![look_up(), look_up()]);
    let nodes = vec![node("Cast", &["x"], &["ids"]), node("Neg", &["x"], &["other"]), branch];
    let mut made = graph(&["x", "c"], vec![ramp("table", 40)], nodes, &["y"]);
    made.value_info = infos(&["ids", "other"]);
    assert_eq!(root(&after(&model(made), traces::strip)).value_info, infos(&["ids"]));
}

fn function(name: &str, calls: &str) -> FunctionProto {
    let mut inner = node(calls, &["a long formal parameter"], &["a long result"]);
    inner.domain = Some(if calls == "Neg" { "" } else { "local" }.to_owned());
    FunctionProto {
        name: Some(name.to_owned()),
        domain: Some("local".to_owned()),
        input: vec!["a long formal parameter".to_owned()],
        output: vec!["a long result".to_owned()],
        node: vec![inner],
        ..Default::default()
    }
}

/// `x -> Outer -> y`, where the function Outer calls Inner; Lonely is called by none.
fn with_functions() -> Model {
    let mut call = node("Outer", &["x"], &["y"]);
    call.domain = Some("local".to_owned());
    let made = graph(&["x"], vec![ramp("unused", 10)], vec![call], &["y"]);
    let functions = vec![function("Outer", "Inner"), function("Inner", "Neg"), function("Lonely", "Neg")];
    let opset_import = vec![import("", 15), import("local", 1), import("com.example", 1)];
    Model::from_proto(ModelProto { functions, opset_import, ..proto(made) }, &LoadOptions::default()).unwrap()
}

#[test]
fn what_nothing_calls_or_reads_goes() {
    let clean = after(&with_functions(), unused::drop);
    assert!(root(&clean).initializer.is_empty());
    let names: Vec<&str> = clean.proto.functions.iter().map(|f| f.name()).collect();
    assert_eq!(names, ["Outer", "Inner"]);
    let domains: Vec<&str> = clean.proto.opset_import.iter().map(|o| o.domain()).collect();
    assert_eq!(domains, ["", "local"]);
}

#[test]
fn functions_are_renamed_inside_and_stay_the_same() {
    let made = with_functions();
    let (small, _) = apply(&made, &LosslessOptions::default()).unwrap();
    let inner = &small.proto.functions[1];
    assert!(inner.input[0].len() < 3 && inner.node[0].input == inner.input && inner.node[0].output == inner.output);
    assert_eq!(plain_functions(&made), plain_functions(&small));
    let mut other = small.clone();
    other.proto.functions[1].node[0].op_type = Some("Abs".to_owned());
    assert_ne!(plain_functions(&made), plain_functions(&other));
}

#[test]
fn values_get_distinct_short_names_and_callers_see_none_of_it() {
    let inner = |own: &str| {
        let nodes =
            vec![node("Neg", &["a long outer value"], &[own]), node("Add", &[own, "image"], &["a result of a body"])];
        graph(&[], vec![], nodes, &["a result of a body"])
    };
    let mut lstm = node("LSTM", &["image", "a weight", "a weight"], &["states of the layer"]);
    lstm.name = None;
    let nodes = vec![
        node("Neg", &["image"], &["a long outer value"]),
        with_bodies(
            node("If", &["flag"], &["class"]),
            vec![inner("a long outer value of mine"), inner("class of a branch")],
        ),
        lstm,
        node("Clip", &["states of the layer", "", "a weight"], &["the second"]),
    ];
    let made = model(graph(&["image", "flag"], vec![ramp("a weight", 4)], nodes, &["class", "the second"]));
    let short = after(&made, names::shorten);
    let names = |infos: &[ValueInfoProto]| infos.iter().map(|i| i.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&root(&short).input), ["image", "flag"]);
    assert_eq!(names(&root(&short).output), ["class", "the second"]);
    let nodes = &root(&short).node;
    assert_eq!(nodes[2].output, ["states of the layer"], "reports call the node so");
    assert_eq!(nodes[3].input[1], "");
    let mut seen = vec![nodes[0].output[0].as_str(), root(&short).initializer[0].name()];
    for (_, _, body) in bodies(&nodes[1]) {
        assert_eq!(body.node[0].input, nodes[0].output);
        assert_eq!(body.node[1].input, [body.node[0].output[0].as_str(), "image"]);
        assert_eq!(body.output[0].name(), body.node[1].output[0]);
        seen.extend([body.node[0].output[0].as_str(), body.node[1].output[0].as_str()]);
    }
    assert!(seen.iter().all(|name| name.len() == 1), "{seen:?}");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6, "no body hides a value of another graph");
    // Nodes stay in their places, with their names until these are cleared.
    assert_eq!(nodes[3].name(), "node of the second");
    let bare = after(&short, names::clear);
    assert!(root(&bare).node.iter().all(|node| node.name.is_none()));
}

#[test]
fn names_that_look_like_numbers_stop_the_renaming() {
    let nodes = vec![node("Neg", &["x"], &["\u{1}7"]), node("Neg", &["\u{1}7"], &["y"])];
    let made = model(graph(&["x"], vec![], nodes, &["y"]));
    assert_eq!(after(&made, names::shorten).proto, made.proto);
}

#[test]
fn constant_nodes_become_initializers_unless_they_are_outputs() {
    let held = |name: &str, n| crate::onnx::rewrite::constant_node(ramp(name, n));
    let nodes = vec![held("c", 3), held("out", 4), node("Add", &["x", "c"], &["y"]), node("Neg", &["out"], &["z"])];
    let made = graph(&["x"], vec![], nodes, &["y", "out", "z"]);
    let moved = after(&model(made.clone()), constants::as_initializers);
    assert_eq!(root(&moved).initializer.iter().map(|t| t.name()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(root(&moved).node.len(), 3);
    let old = ModelProto { ir_version: Some(3), ..proto(made) };
    let old = Model::from_proto(old, &LoadOptions::default()).unwrap();
    assert_eq!(after(&old, constants::as_initializers).proto, old.proto, "initializers are inputs there");
}

#[test]
fn the_steps_add_up_to_the_file_and_are_taken_once() {
    let body = |w: &str| graph(&[], vec![ramp(w, 100)], vec![node("Add", &["x", w], &["y"])], &["y"]);
    let branch = with_bodies(node("If", &["c"], &["out"]), vec![body("then_w"), body("else_w")]);
    let made = model(graph(&["x", "c"], vec![], vec![branch], &["out"]));
    let (small, steps) = apply(&made, &LosslessOptions::default()).unwrap();
    assert_eq!(made.bytes() - small.bytes(), steps.iter().map(|step| step.bytes).sum::<u64>());
    assert_eq!(small.bytes(), small.saved_bytes().unwrap());
    assert!(steps.iter().all(|step| step.exact && step.bytes > 0));
    let (again, none) = apply(&small, &LosslessOptions::default()).unwrap();
    assert_eq!((&again.proto, none), (&small.proto, vec![]));
    let step = Inward { node: 0, attribute: 0, graph: None };
    assert!(again.graph(&Scope::root().child(step)).initializer.is_empty());
}
