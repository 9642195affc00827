//! Operators one by one: what the engine must compute itself, what it must not run, and what two models share.
//! Expected values are onnxruntime's.

use std::collections::BTreeMap;

use dirnet::engine::{Engine, Outputs, Overrides, Tap, Visit};
use dirnet::error::ErrorKind;
use dirnet::onnx::proto::{FunctionProto, OperatorSetIdProto};
use dirnet::onnx::{AttributeProto, GraphProto, LoadOptions, Model, ModelProto, NodeProto, TensorProto, tensor};
use dirnet::samples::{Feed, Samples, Stream, Tensor};
use ndarray::{ArrayD, IxDyn};

use crate::hostile::targets::{graph, int, ints, node, of, value, wave};
use crate::hostile::typed;

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap().into()
}

fn integers(shape: &[usize], values: &[i64]) -> Tensor {
    ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap().into()
}

fn doubles(values: &[f64]) -> Tensor {
    ArrayD::from_shape_vec(IxDyn(&[values.len()]), values.to_vec()).unwrap().into()
}

fn model(proto: ModelProto) -> Model {
    Model::from_proto(proto, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// A model of some nodes; its inputs are those of the feed, its outputs the last node's.
fn of_nodes(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, feed: &Feed) -> ModelProto {
    let input = feed.iter().map(|(name, tensor)| {
        let shape: Vec<i64> = tensor.shape().iter().map(|&size| size as i64).collect();
        typed(name, tensor.element() as i32, &shape)
    });
    let output = nodes.last().unwrap().output.iter().map(|name| value(name)).collect();
    of(GraphProto { input: input.collect(), output, node: nodes, initializer: constants, ..Default::default() })
}

fn feed<const N: usize>(inputs: [(&str, Tensor); N]) -> Feed {
    inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn run(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, feed: &Feed) -> Vec<Tensor> {
    let engine = Engine::new(&model(of_nodes(nodes, constants, feed))).unwrap_or_else(|e| panic!("{e}"));
    engine.run(feed, None).unwrap_or_else(|e| panic!("{e}")).into_iter().map(|(_, tensor)| tensor).collect()
}

fn outputs(mut node: NodeProto, more: &[&str]) -> NodeProto {
    node.output.extend(more.iter().map(|&name| name.to_owned()));
    node
}

fn in_domain(domain: &str, node: NodeProto) -> NodeProto {
    NodeProto { domain: Some(domain.to_owned()), ..node }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(s.as_bytes().to_vec().into()), r#type: Some(3), ..named(name) }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), r#type: Some(1), ..named(name) }
}

fn named(name: &str) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), ..Default::default() }
}

/// An attribute of a node in a function that is the function's attribute `of`.
fn reference(name: &str, of: &str, kind: i32) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(of.to_owned()), r#type: Some(kind), ..named(name) }
}

fn refusal(proto: ModelProto) -> String {
    let error = Engine::new(&model(proto)).err().expect("it must not be run");
    assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
    error.to_string()
}

#[test]
fn operators_of_other_domains_are_not_taken_for_standard_ones() {
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    for domain in ["my", "nowhere", "AI.ONNX", "ai.onnx.ml", "com.microsoft", " "] {
        let relu = in_domain(domain, node("Relu", &["x"], "y", vec![]));
        let message = refusal(of_nodes(vec![relu], vec![], &x));
        assert!(message.contains(&format!("node 'y': cannot be run: operator {domain}.Relu")), "{message}");
    }
    let standard = in_domain("ai.onnx", node("Relu", &["x"], "y", vec![]));
    assert_eq!(run(vec![standard], vec![], &x), [floats(&[2], &[0., 2.])]);
    let learned = node("Normalizer", &["x"], "y", vec![]);
    assert!(refusal(of_nodes(vec![learned], vec![], &x)).contains("not in ONNX's standard domain"));
}

#[test]
fn operators_of_other_domains_are_found_in_bodies() {
    let x = feed([("x", floats(&[2], &[-1., 2.])), ("go", ArrayD::from_elem(IxDyn(&[]), true).into())]);
    let branch = |domain: &str, name: &str| GraphProto {
        name: Some("branch".to_owned()),
        node: vec![in_domain(domain, node("Relu", &["x"], name, vec![]))],
        output: vec![value(name)],
        ..Default::default()
    };
    let both = |domain| vec![graph("then_branch", branch("", "a")), graph("else_branch", branch(domain, "b"))];
    let message = refusal(of_nodes(vec![node("If", &["go"], "y", both("my"))], vec![], &x));
    assert!(message.contains("node 'b': cannot be run: operator my.Relu"), "{message}");
    assert_eq!(run(vec![node("If", &["go"], "y", both(""))], vec![], &x), [floats(&[2], &[0., 2.])]);
}

#[test]
fn what_no_output_needs_may_be_of_any_domain() {
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let dead = in_domain("my", node("Relu", &["x"], "dead", vec![]));
    assert_eq!(run(vec![dead, node("Relu", &["x"], "y", vec![])], vec![], &x), [floats(&[2], &[0., 2.])]);
}

#[test]
fn files_that_onnxruntime_optimised_name_the_original() {
    let x = feed([("x", floats(&[1, 1, 2, 2], &[1.; 4]))]);
    for (domain, operator) in [("com.microsoft.nchwc", "Conv"), ("com.microsoft", "FusedConv")] {
        let conv = in_domain(domain, node(operator, &["x"], "y", vec![]));
        let message = refusal(of_nodes(vec![conv], vec![], &x));
        assert!(message.contains("optimised by onnxruntime: take the file from before"), "{message}");
    }
}

#[test]
fn attributes_that_the_engine_would_ignore_are_refused() {
    let x = feed([("x", floats(&[1, 4, 2, 2], &[1.; 16])), ("w", floats(&[4, 1, 3, 3], &[1.; 36]))]);
    for (operator, inputs, attribute) in [
        ("ConvTranspose", &["x", "w"][..], ints("output_shape", &[5, 5])),
        ("SpaceToDepth", &["x"], text("mode", "CRD")),
        ("GlobalLpPool", &["x"], int("p", 3)),
    ] {
        let message = refusal(of_nodes(vec![node(operator, inputs, "y", vec![attribute])], vec![], &x));
        assert!(message.contains(&format!("node 'y': cannot be run: operator {operator} with ")), "{message}");
    }
}

/// `my.Scale(X, K?) = X * factor`, as a graph of inner functions; `factor` is 3 by default.
fn scale() -> FunctionProto {
    let constant = node("Constant", &[], "k", vec![reference("value_float", "factor", 1)]);
    FunctionProto {
        name: Some("Scale".to_owned()),
        domain: Some("my".to_owned()),
        input: vec!["X".to_owned()],
        output: vec!["Y".to_owned()],
        attribute_proto: vec![float("factor", 3.)],
        node: vec![constant, node("Mul", &["X", "k"], "t", vec![]), node("Identity", &["t"], "Y", vec![])],
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..Default::default()
    }
}

fn with_functions(mut proto: ModelProto, functions: Vec<FunctionProto>) -> ModelProto {
    proto.opset_import.push(OperatorSetIdProto { domain: Some("my".to_owned()), version: Some(1) });
    proto.functions = functions;
    proto
}

fn run_functions(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>, feed: &Feed) -> Outputs {
    let proto = with_functions(of_nodes(nodes, vec![], feed), functions);
    Engine::new(&model(proto)).unwrap_or_else(|e| panic!("{e}")).run(feed, None).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn functions_are_inlined() {
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let call = |attributes, input: &str, output: &str| in_domain("my", node("Scale", &[input], output, attributes));
    // `t` and `k` are names of the function too.
    let nodes =
        vec![call(vec![], "x", "t"), call(vec![float("factor", 10.)], "t", "k"), node("Add", &["t", "k"], "y", vec![])];
    assert_eq!(run_functions(nodes, vec![scale()], &x)[0].1, floats(&[2], &[-33., 66.]));
}

#[test]
fn functions_call_functions_and_leave_out_inputs() {
    // Twice(X, Low?) = Clip(Scale(Scale(X)), Low) * 1, where the branch of an If makes the product.
    let inner = |i: &str, o: &str| in_domain("my", node("Scale", &[i], o, vec![reference("factor", "by", 1)]));
    let branch = |name: &str| GraphProto {
        name: Some("branch".to_owned()),
        node: vec![node("Identity", &["c"], name, vec![])],
        output: vec![value(name)],
        ..Default::default()
    };
    let yes = AttributeProto {
        t: Some(tensor::from_payload("", dirnet::onnx::ElementType::Bool, &[], vec![1])),
        r#type: Some(4),
        ..named("value")
    };
    let twice = FunctionProto {
        name: Some("Twice".to_owned()),
        domain: Some("my".to_owned()),
        input: vec!["X".to_owned(), "Low".to_owned()],
        output: vec!["Y".to_owned(), "X".to_owned()],
        attribute: vec!["by".to_owned()],
        node: vec![
            inner("X", "a"),
            inner("a", "b"),
            node("Clip", &["b", "Low"], "c", vec![]),
            node("Constant", &[], "yes", vec![yes]),
            node("If", &["yes"], "Y", vec![graph("then_branch", branch("p")), graph("else_branch", branch("q"))]),
        ],
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..Default::default()
    };
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let call = |inputs: &[&str]| outputs(in_domain("my", node("Twice", inputs, "y", vec![float("by", 2.)])), &["same"]);
    let found = run_functions(vec![call(&["x"])], vec![scale(), twice.clone()], &x);
    assert_eq!(found[0].1, floats(&[2], &[-4., 8.]));
    assert_eq!(found[1].1, floats(&[2], &[-1., 2.]), "an output that is an input");
    let low = feed([("x", floats(&[2], &[-1., 2.])), ("low", floats(&[], &[0.]))]);
    let found = run_functions(vec![call(&["x", "low"])], vec![scale(), twice], &low);
    assert_eq!(found[0].1, floats(&[2], &[0., 8.]));
}

#[test]
fn functions_that_runtimes_read_differently_are_refused_by_name() {
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let refused = |function: FunctionProto| {
        let call = NodeProto { domain: function.domain.clone(), ..node(function.name(), &["x"], "y", vec![]) };
        refusal(with_functions(of_nodes(vec![call], vec![], &x), vec![function]))
    };
    let mut endless = scale();
    endless.node[1] = in_domain("my", node("Scale", &["X"], "t", vec![]));
    assert!(refused(endless).contains("function my.Scale: it calls itself"));
    let mut older = scale();
    older.opset_import[0].version = Some(12);
    let message = refused(older);
    assert!(message.contains("function my.Scale: it is written for operator set 12, the model for 17"), "{message}");
    let shadow = FunctionProto { name: Some("Relu".to_owned()), domain: None, ..scale() };
    assert!(refused(shadow).contains("function Relu: it bears the name of an operator"));
    let mut hollow = scale();
    hollow.node.truncate(2);
    assert!(refused(hollow).contains("function my.Scale: no node makes its output 'Y'"));
}

#[test]
fn functions_that_multiply_without_end_are_refused() {
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let layer = |level: usize| FunctionProto {
        name: Some(format!("F{level}")),
        domain: Some("my".to_owned()),
        input: vec!["X".to_owned()],
        output: vec!["Y".to_owned()],
        node: if level == 0 {
            vec![node("Neg", &["X"], "Y", vec![])]
        } else {
            let call = |i: &str, o: &str| in_domain("my", node(&format!("F{}", level - 1), &[i], o, vec![]));
            vec![call("X", "a"), call("a", "b"), call("b", "c"), call("c", "Y")]
        },
        ..Default::default()
    };
    let call = in_domain("my", node("F20", &["x"], "y", vec![]));
    let proto = with_functions(of_nodes(vec![call], vec![], &x), (0..21).map(layer).collect());
    assert_eq!(Engine::new(&model(proto)).err().unwrap().kind(), ErrorKind::Limit);
}

#[test]
fn random_operators_draw_the_same_for_every_engine() {
    let x = feed([("x", floats(&[100, 100], &[0.25; 10_000]))]);
    let shape = || ints("shape", &[100, 100]);
    let nodes = [
        (node("RandomNormal", &[], "y", vec![shape(), float("mean", 1.), float("scale", 2.)]), 1., 2.),
        (node("RandomNormalLike", &["x"], "y", vec![]), 0., 1.),
        (node("RandomUniform", &[], "y", vec![shape(), float("low", -1.), float("high", 3.)]), 1., 4. / 12f64.sqrt()),
        (node("RandomUniformLike", &["x"], "y", vec![float("seed", 5.)]), 0.5, 1. / 12f64.sqrt()),
        (node("Bernoulli", &["x"], "y", vec![]), 0.25, (0.25f64 * 0.75).sqrt()),
    ];
    for (draw, mean, deviation) in nodes {
        let operator = draw.op_type().to_owned();
        let found = run(vec![draw.clone()], vec![], &x).remove(0).to_f64();
        assert_eq!(found.shape(), [100, 100], "{operator}");
        assert!(
            (found.mean().unwrap() - mean).abs() < 0.05 * deviation.max(1.),
            "{operator}: {}",
            found.mean().unwrap()
        );
        assert!((found.std(0.) - deviation).abs() < 0.03 * deviation, "{operator}: {}", found.std(0.));
        // Another node before it, as a compressed model has, changes nothing; another name does.
        let more =
            vec![node("RandomNormalLike", &["x"], "other", vec![]), node("Neg", &["other"], "n", vec![]), draw.clone()];
        assert_eq!(run(more, vec![], &x).remove(0).to_f64(), found, "{operator}");
        let renamed = NodeProto { output: vec!["z".to_owned()], ..draw };
        assert_ne!(run(vec![renamed], vec![], &x).remove(0).to_f64(), found, "{operator}");
    }
}

#[test]
fn multinomial_and_dropout_draw_by_their_probabilities() {
    let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
    let x = feed([("x", floats(&[1, 3], &logits))]);
    let draw = node("Multinomial", &["x"], "y", vec![int("sample_size", 20_000), int("dtype", 7)]);
    let found = run(vec![draw.clone()], vec![], &x).remove(0);
    assert_eq!(found, run(vec![draw], vec![], &x).remove(0));
    for (class, share) in [0.5, 0.3, 0.2].into_iter().enumerate() {
        let drawn = found.to_i64().unwrap().iter().filter(|&&c| c == class as i64).count();
        assert!((drawn as f64 / 20_000. - share).abs() < 0.02, "{class}: {drawn}");
    }
    let x = feed([("x", floats(&[10_000], &[1.; 10_000]))]);
    let constants = || {
        let yes = tensor::from_payload("yes", dirnet::onnx::ElementType::Bool, &[], vec![1]);
        vec![tensor::float("ratio", &[], &[0.75]), yes]
    };
    let dropout = outputs(node("Dropout", &["x", "ratio", "yes"], "y", vec![]), &["mask"]);
    let found = run(vec![dropout.clone()], constants(), &x);
    assert_eq!(found, run(vec![dropout], constants(), &x));
    let (kept, mask) = (found[0].to_f64(), found[1].to_f64());
    assert!(kept.iter().zip(&mask).all(|(y, m)| *y == 4. * m));
    assert!((mask.mean().unwrap() - 0.25).abs() < 0.02);
}

#[test]
fn draws_follow_the_step_of_a_stream_not_its_state() {
    let x = feed([("x", floats(&[2], &[0.; 2]))]);
    let engine =
        Engine::new(&model(of_nodes(vec![node("RandomNormalLike", &["x"], "y", vec![])], vec![], &x))).unwrap();
    let stream = Stream { feeds: vec![x.clone(), x], ..Stream::default() };
    let steps = engine.run_stream(&stream, &[], &Overrides::default(), None).unwrap();
    assert_ne!(steps[0][0].1, steps[1][0].1);
    assert_eq!(steps, engine.run_stream(&stream, &[], &Overrides::default(), None).unwrap());
}

#[test]
fn tiny_double_factors_do_not_vanish() {
    let x = feed([("x", doubles(&[3., -2.]))]);
    let double = |name: &str, shape: &[usize], v: f64| {
        let count = shape.iter().product::<usize>();
        let bytes: Vec<u8> = (0..count).flat_map(|_| v.to_le_bytes()).collect();
        tensor::from_payload(name, dirnet::onnx::ElementType::Double, shape, bytes)
    };
    for shape in [&[][..], &[2]] {
        let once = |operator: &str, k: f64| {
            run(vec![node(operator, &["x", "k"], "y", vec![])], vec![double("k", shape, k)], &x)
        };
        assert_eq!(once("Mul", 1e-50), [doubles(&[3. * 1e-50, -2. * 1e-50])]);
        assert_eq!(once("Mul", 1. + 1e-12), [doubles(&[3. * (1. + 1e-12), -2. * (1. + 1e-12)])]);
        assert_eq!(once("Div", 1. + 1e-12), [doubles(&[3. / (1. + 1e-12), -2. / (1. + 1e-12)])]);
        assert_eq!(once("Add", 1e-12), [doubles(&[3. + 1e-12, -2. + 1e-12])]);
    }
    let back = vec![node("Mul", &["x", "k"], "small", vec![]), node("Mul", &["small", "l"], "y", vec![])];
    let found = run(back, vec![double("k", &[], 1e-50), double("l", &[1], 1e50)], &x).remove(0).to_f64();
    assert!((found[[0]] - 3.).abs() < 1e-12 && (found[[1]] + 2.).abs() < 1e-12, "{found}");
}

#[test]
fn nothing_times_nan_is_zero() {
    let x = feed([("x", floats(&[2], &[f32::NAN, f32::INFINITY]))]);
    let found = run(vec![node("Mul", &["x", "k"], "y", vec![])], vec![tensor::float("k", &[], &[0.])], &x);
    assert!(found[0].to_f32().iter().all(|v| v.is_nan()), "{found:?}");
}

#[test]
fn nan_does_not_become_a_number() {
    let proto = |operator: &str, x: &Feed| {
        let constants = vec![tensor::float("k", &[], &[0.5])];
        let inputs: &[&str] = if operator == "Max" || operator == "Min" { &["x", "k"] } else { &["x"] };
        model(of_nodes(vec![node(operator, inputs, "y", vec![])], constants, x))
    };
    for operator in ["Relu", "Sigmoid", "Tanh", "Max", "Min", "Exp", "Neg"] {
        let x = feed([("x", floats(&[1, 20], &[&[0.3; 19][..], &[f32::NAN]].concat()))]);
        match Engine::new(&proto(operator, &x)).unwrap().run(&x, None) {
            Ok(found) => assert!(found[0].1.to_f32()[[0, 19]].is_nan(), "{operator}: {found:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Engine, "{operator}: {error}"),
        }
    }
}

#[test]
fn integers_that_come_from_shapes_and_casts_are_integers() {
    let x = feed([("x", floats(&[2, 5, 7], &[1.; 70]))]);
    let nodes = |operator: &str| {
        vec![
            node("Shape", &["x"], "s", vec![]),
            node("Neg", &["s"], "n", vec![]),
            node(operator, &["n", "c"], "y", vec![]),
        ]
    };
    let four = || vec![tensor::int64("c", &[], &[4])];
    assert_eq!(run(nodes("Mod"), four(), &x), [integers(&[3], &[2, 3, 1])], "the sign of the divisor");
    assert_eq!(run(nodes("Div"), four(), &x), [integers(&[3], &[0, -1, -1])]);
    let lengths = feed([("x", floats(&[3], &[3., 1., 2.]))]);
    let sorted =
        vec![node("Cast", &["x"], "c", vec![int("to", 7)]), outputs(node("TopK", &["c", "k"], "y", vec![]), &["i"])];
    let found = run(sorted, vec![tensor::int64("k", &[1], &[3])], &lengths);
    assert_eq!(found, [integers(&[3], &[3, 2, 1]), integers(&[3], &[0, 2, 1])]);
}

#[test]
fn sequences_are_sorted_and_reversed() {
    let lengths = feed([("x", integers(&[2, 4], &[2, 7, 7, 1, 5, 0, 5, 9]))]);
    let top = |largest| outputs(node("TopK", &["x", "k"], "y", vec![int("largest", largest), int("axis", 1)]), &["i"]);
    let k = || vec![tensor::int64("k", &[1], &[2])];
    let most = run(vec![top(1)], k(), &lengths);
    assert_eq!(most, [integers(&[2, 2], &[7, 7, 9, 5]), integers(&[2, 2], &[1, 2, 3, 0])]);
    let least = run(vec![top(0)], k(), &lengths);
    assert_eq!(least, [integers(&[2, 2], &[1, 2, 0, 5]), integers(&[2, 2], &[3, 0, 1, 0])]);

    let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
    let steps = feed([("x", floats(&[3, 2, 2], &x)), ("l", integers(&[2], &[3, 2]))]);
    let reverse = node("ReverseSequence", &["x", "l"], "y", vec![int("time_axis", 0), int("batch_axis", 1)]);
    let wanted = [8., 9., 6., 7., 4., 5., 2., 3., 0., 1., 10., 11.];
    assert_eq!(run(vec![reverse], vec![], &steps), [floats(&[3, 2, 2], &wanted)]);
    let batches = feed([("x", floats(&[3, 2, 2], &x)), ("l", integers(&[3], &[2, 1, 0]))]);
    let reverse = node("ReverseSequence", &["x", "l"], "y", vec![int("time_axis", 1), int("batch_axis", 0)]);
    let wanted = [2., 3., 0., 1., 4., 5., 6., 7., 8., 9., 10., 11.];
    assert_eq!(run(vec![reverse], vec![], &batches), [floats(&[3, 2, 2], &wanted)]);
}

#[test]
fn sums_run_along_an_axis_in_both_directions() {
    let x = feed([("x", integers(&[2, 3], &[1, 2, 3, 4, 5, 6])), ("a", integers(&[], &[-1]))]);
    for (exclusive, reverse, wanted) in [
        (0, 0, [1, 3, 6, 4, 9, 15]),
        (1, 0, [0, 1, 3, 0, 4, 9]),
        (0, 1, [6, 5, 3, 15, 11, 6]),
        (1, 1, [5, 3, 0, 11, 6, 0]),
    ] {
        let sum = node("CumSum", &["x", "a"], "y", vec![int("exclusive", exclusive), int("reverse", reverse)]);
        assert_eq!(run(vec![sum], vec![], &x), [integers(&[2, 3], &wanted)]);
    }
}

#[test]
fn values_are_chosen_by_index_and_by_flag() {
    let x = feed([("x", floats(&[2, 3], &[0., 1., 2., 3., 4., 5.]))]);
    let gather = node("GatherND", &["x", "i"], "y", vec![]);
    let index = || vec![tensor::int64("i", &[2, 2], &[-1, 0, 0, -2])];
    assert_eq!(run(vec![gather], index(), &x), [floats(&[2], &[3., 1.])]);
    let scatter = node("ScatterND", &["x", "i", "u"], "y", vec![]);
    let constants = index().into_iter().chain([tensor::float("u", &[2], &[9., 8.])]).collect();
    assert_eq!(run(vec![scatter], constants, &x), [floats(&[2, 3], &[0., 8., 2., 9., 4., 5.])]);
    let flags = tensor::from_payload("c", dirnet::onnx::ElementType::Bool, &[3], vec![1, 0, 1]);
    let compress = node("Compress", &["x", "c"], "y", vec![int("axis", 1)]);
    assert_eq!(run(vec![compress], vec![flags], &x), [floats(&[2, 2], &[0., 2., 3., 5.])]);
    let hot = feed([("x", integers(&[2], &[-1, 9]))]);
    let constants = || vec![tensor::int64("d", &[], &[3]), tensor::float("v", &[2], &[0., 7.])];
    let one_hot = node("OneHot", &["x", "d", "v"], "y", vec![int("axis", 0)]);
    assert_eq!(run(vec![one_hot], constants(), &hot), [floats(&[3, 2], &[0., 0., 0., 0., 7., 0.])]);
}

#[test]
fn shapes_that_depend_on_integers_of_the_feed_are_planned_for_them() {
    let x = feed([("x", integers(&[6], &[2, 1, 1, 3, 4, 3]))]);
    let unique = outputs(node("Unique", &["x"], "y", vec![]), &["i", "v", "c"]);
    let wanted = [
        integers(&[4], &[1, 2, 3, 4]),
        integers(&[4], &[1, 0, 3, 4]),
        integers(&[6], &[1, 0, 0, 2, 3, 2]),
        integers(&[4], &[2, 1, 2, 1]),
    ];
    assert_eq!(run(vec![unique], vec![], &x), wanted);
    let sizes = feed([("x", floats(&[3, 1], &[1., 2., 3.])), ("s", integers(&[2], &[3, 2]))]);
    let expand = node("Expand", &["x", "s"], "y", vec![]);
    assert_eq!(run(vec![expand], vec![], &sizes), [floats(&[3, 2], &[1., 1., 2., 2., 3., 3.])]);
    // The longest of the sequences decides how many steps are kept, and differs from feed to feed.
    let lengths = |longest: i64| feed([("x", floats(&[4], &[1., 2., 3., 4.])), ("l", integers(&[2], &[1, longest]))]);
    let nodes =
        vec![node("ReduceMax", &["l"], "m", vec![int("keepdims", 1)]), node("Slice", &["x", "zero", "m"], "y", vec![])];
    let proto = of_nodes(nodes, vec![tensor::int64("zero", &[1], &[0])], &lengths(2));
    let engine = Engine::new(&model(proto)).unwrap();
    for longest in [2, 3, 2] {
        let found = engine.run(&lengths(longest as i64), None).unwrap();
        assert_eq!(found[0].1, floats(&[longest], &[1., 2., 3., 4.][..longest]));
    }
}

#[test]
fn large_numbers_keep_their_size() {
    let x = feed([("x", floats(&[1, 3], &[-200., 100., 200.]))]);
    let soft = run(vec![node("LogSoftmax", &["x"], "y", vec![])], vec![], &x);
    assert_eq!(soft, [floats(&[1, 3], &[-400., -100., 0.])]);
    let masked = feed([("x", floats(&[2, 2], &[f32::NEG_INFINITY, f32::NEG_INFINITY, 1., 3.]))]);
    let most = node("ReduceMax", &["x"], "y", vec![ints("axes", &[-1]), int("keepdims", 0)]);
    assert_eq!(run(vec![most], vec![], &masked), [floats(&[2], &[f32::NEG_INFINITY, 3.])]);
    assert_eq!(run(vec![node("Softplus", &["x"], "y", vec![])], vec![], &x), [floats(&[1, 3], &[0., 100., 200.])]);
}

#[test]
fn operators_of_older_sets_keep_their_meaning() {
    let x = feed([("x", floats(&[1, 1, 1, 2], &[1., 2.]))]);
    let of_set = |version: i64, nodes: Vec<NodeProto>, constants: Vec<TensorProto>| {
        let mut proto = of_nodes(nodes, constants, &x);
        proto.opset_import[0].version = Some(version);
        Engine::new(&model(proto)).unwrap().run(&x, None).unwrap().remove(0).1
    };
    let scales = || vec![tensor::float("s", &[4], &[1., 1., 1., 2.5])];
    let wanted = floats(&[1, 1, 1, 5], &[1., 1., 1., 2., 2.]);
    assert_eq!(of_set(10, vec![node("Resize", &["x", "s"], "y", vec![])], scales()), wanted);
    assert_eq!(of_set(9, vec![node("Upsample", &["x", "s"], "y", vec![])], scales()), wanted);
    let attribute = AttributeProto { floats: vec![1., 1., 1., 2.5], r#type: Some(6), ..named("scales") };
    assert_eq!(of_set(7, vec![node("Upsample", &["x"], "y", vec![attribute])], vec![]), wanted);
    let aligned = vec![text("mode", "linear"), text("coordinate_transformation_mode", "align_corners")];
    let found = of_set(13, vec![node("Resize", &["x", "", "s"], "y", aligned)], scales());
    assert_eq!(found, floats(&[1, 1, 1, 5], &[1., 1.25, 1.5, 1.75, 2.]));
}

#[test]
fn flags_and_strings_are_compared() {
    let flags =
        |values: &[bool]| Tensor::from(ArrayD::from_shape_vec(IxDyn(&[values.len()]), values.to_vec()).unwrap());
    let words = |values: &[&str]| {
        let values = values.iter().map(|&word| word.to_owned()).collect();
        Tensor::from(ArrayD::from_shape_vec(IxDyn(&[2]), values).unwrap())
    };
    let equal = || vec![node("Equal", &["a", "b"], "y", vec![])];
    let both = feed([("a", flags(&[true, false])), ("b", flags(&[true]))]);
    assert_eq!(run(equal(), vec![], &both), [flags(&[true, false])]);
    let both = feed([("a", words(&["a", "b"])), ("b", words(&["b", "b"]))]);
    assert_eq!(run(equal(), vec![], &both), [flags(&[false, true])]);
    let strings = |name: &str, all: &[&str]| AttributeProto {
        strings: all.iter().map(|s| s.as_bytes().to_vec().into()).collect(),
        r#type: Some(8),
        ..named(name)
    };
    let attributes =
        vec![strings("keys_strings", &["x", "b"]), ints("values_int64s", &[4, 5]), int("default_int64", -7)];
    let encode = in_domain("ai.onnx.ml", node("LabelEncoder", &["a"], "y", attributes));
    assert_eq!(run(vec![encode], vec![], &feed([("a", words(&["a", "b"]))])), [integers(&[2], &[-7, 5])]);
}

#[test]
fn an_optional_input_is_one_that_is_given() {
    use dirnet::onnx::proto::{TypeProto, type_proto};
    let x = feed([("x", floats(&[2], &[-1., 2.]))]);
    let mut proto =
        of_nodes(vec![node("OptionalGetElement", &["x"], "e", vec![]), node("Neg", &["e"], "y", vec![])], vec![], &x);
    let input = &mut proto.graph.as_mut().unwrap().input[0];
    let element = input.r#type.take().map(Box::new);
    let optional = type_proto::Optional { elem_type: element };
    let of = type_proto::Value::OptionalType(Box::new(optional));
    input.r#type = Some(TypeProto { value: Some(of), ..Default::default() });
    let found = Engine::new(&model(proto)).unwrap().run(&x, None).unwrap();
    assert_eq!(found[0].1, floats(&[2], &[1., -2.]));
}

/// Which nodes ran, and what they were given.
#[derive(Default)]
struct Seen(std::sync::Mutex<BTreeMap<usize, Vec<f32>>>);

impl Tap for Seen {
    fn visit(&self, visit: &Visit) {
        self.0.lock().unwrap().insert(visit.node, visit.x.clone());
    }
}

fn lstm(input: &str, output: &str) -> NodeProto {
    node("LSTM", &[input, "W", "R"], output, vec![int("hidden_size", 2)])
}

fn weights() -> Vec<TensorProto> {
    vec![tensor::float("W", &[1, 8, 2], &wave(16)), tensor::float("R", &[1, 8, 2], &wave(16))]
}

#[test]
fn a_part_of_a_model_runs_as_far_as_the_missing_operator() {
    let x = feed([("x", floats(&[2, 1, 2], &[1., 2., 3., 4.])), ("unused", floats(&[1], &[0.]))]);
    let nodes = vec![
        node("Neg", &["x"], "n", vec![]),
        lstm("n", "first"),
        in_domain("my", node("Unknown", &["first"], "u", vec![])),
        lstm("u", "second"),
        node("Add", &["second", "unused"], "y", vec![]),
    ];
    let whole = model(of_nodes(nodes, weights(), &x));
    assert!(Engine::new(&whole).is_err());
    let samples = Samples {
        streams: vec![Stream { feeds: vec![x.clone()], ..Stream::default() }],
        carry: vec![],
        made_up: false,
        notes: Vec::new(),
    };
    let part = Engine::partial(&whole, &samples).expect("the first layer runs");
    let seen = Seen::default();
    part.run(&x, Some(&seen)).unwrap();
    let seen = seen.0.into_inner().unwrap();
    let first = part.number(&dirnet::onnx::Scope::root(), 1).unwrap();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(first, vec![-1., -2., -3., -4.])]);
}

#[test]
fn no_part_of_a_model_runs_whose_layers_all_need_the_missing_operator() {
    let x = feed([("x", floats(&[2, 1, 2], &[1., 2., 3., 4.]))]);
    let nodes = vec![in_domain("my", node("Unknown", &["x"], "u", vec![])), lstm("u", "y")];
    let whole = model(of_nodes(nodes, weights(), &x));
    let samples = Samples {
        streams: vec![Stream { feeds: vec![x], ..Stream::default() }],
        carry: vec![],
        made_up: false,
        notes: Vec::new(),
    };
    assert!(Engine::partial(&whole, &samples).is_none());
}

/// Exit code, and all that is shown.
fn shown(directory: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = crate::hostile::dirnet().args(arguments).current_dir(directory).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// An LSTM of 32 units on `x [4, 1, 16]`, and behind it an operator that nobody knows.
fn with_an_unknown_tail() -> ModelProto {
    let unknown = in_domain("my", node("Unknown", &["h"], "z", vec![]));
    crate::hostile::with(vec![unknown], vec![])
}

#[test]
fn a_missing_operator_leaves_the_samples_to_the_layers_before_it() {
    let directory = tempfile::TempDir::new().unwrap();
    crate::hostile::write(&directory, "m.onnx", &with_an_unknown_tail());
    let samples = ArrayD::from_shape_vec(IxDyn(&[8, 4, 1, 16]), wave(8 * 64)).unwrap();
    ndarray_npy::write_npy(directory.path().join("x.npy"), &samples).unwrap();
    let arguments = ["compress", "m.onnx", "-o", "o.onnx", "--calibration", "x.npy", "--ratio", "4"];
    let (code, text) = shown(directory.path(), &arguments);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("calibrated on the samples as far as it runs"), "{text}");
    assert!(text.contains("node 'z': cannot be run: operator my.Unknown"), "{text}");
    assert!(!text.contains("calibrated on seeded random inputs"), "{text}");
}

#[test]
fn a_sequence_as_input_is_no_dead_end() {
    use dirnet::onnx::proto::{TypeProto, type_proto};
    let mut proto = crate::hostile::with(
        vec![node("ConcatFromSequence", &["s"], "c", vec![int("axis", 0)]), node("Add", &["c", "one"], "z", vec![])],
        vec![tensor::float("one", &[], &[1.])],
    );
    let element = typed("s", 1, &[1, 1, 32]).r#type.map(Box::new);
    let of = type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: element }));
    let mut input = value("s");
    input.r#type = Some(TypeProto { value: Some(of), ..Default::default() });
    proto.graph.as_mut().unwrap().input.push(input);
    let directory = tempfile::TempDir::new().unwrap();
    crate::hostile::write(&directory, "m.onnx", &proto);
    let (code, text) = shown(directory.path(), &["compress", "m.onnx", "-o", "o.onnx", "--ratio", "4"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("nothing can be drawn for input 's': it is a sequence"), "{text}");
    assert!(text.contains("as far as it runs"), "{text}");
}

#[test]
fn sequences_whose_elements_show_are_tensors() {
    let x = feed([("x", floats(&[2, 3], &[0., 1., 2., 3., 4., 5.]))]);
    let at = |index: i64| vec![tensor::int64("i", &[], &[index]), tensor::int64("two", &[], &[2])];
    let split = |attributes| node("SplitToSequence", &["x"], "s", attributes);
    let pick = || node("SequenceAt", &["s", "i"], "y", vec![]);
    let rows = run(vec![split(vec![int("axis", 0), int("keepdims", 0)]), pick()], at(-1), &x);
    assert_eq!(rows, [floats(&[3], &[3., 4., 5.])]);
    let columns = run(vec![split(vec![int("axis", 1)]), pick()], at(-1), &x);
    assert_eq!(columns, [floats(&[2, 1], &[2., 5.])]);
    let pairs = node("SplitToSequence", &["x", "two"], "s", vec![int("axis", 1)]);
    assert_eq!(run(vec![pairs, pick()], at(1), &x), [floats(&[2, 1], &[2., 5.])]);
    let length = node("SequenceLength", &["s"], "y", vec![]);
    assert_eq!(run(vec![split(vec![int("axis", 1)]), length.clone()], vec![], &x), [integers(&[], &[3])]);

    let both = || node("SequenceConstruct", &["x", "n"], "s", vec![]);
    let negative = || node("Neg", &["x"], "n", vec![]);
    let joined = node("ConcatFromSequence", &["s"], "y", vec![int("axis", 0)]);
    let wanted = [0., 1., 2., 3., 4., 5., 0., -1., -2., -3., -4., -5.];
    assert_eq!(run(vec![negative(), both(), joined], vec![], &x), [floats(&[4, 3], &wanted)]);
    let stacked = node("ConcatFromSequence", &["s"], "y", vec![int("axis", 0), int("new_axis", 1)]);
    assert_eq!(run(vec![negative(), both(), stacked.clone()], vec![], &x), [floats(&[2, 2, 3], &wanted)]);
    let built = vec![
        negative(),
        node("SequenceEmpty", &[], "none", vec![]),
        node("SequenceInsert", &["none", "n"], "one", vec![]),
        node("SequenceInsert", &["one", "x", "zero"], "s", vec![]),
    ];
    let zero = || vec![tensor::int64("zero", &[], &[0])];
    assert_eq!(run([built.clone(), vec![stacked]].concat(), zero(), &x), [floats(&[2, 2, 3], &wanted)]);
    assert_eq!(run([built, vec![length]].concat(), zero(), &x), [integers(&[], &[2])]);
}
