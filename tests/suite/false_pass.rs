//! Attempts to have `verify` say "passed" of what was not shown, and `compress` of what it did not judge: each test is named
//! after what once passed.

use std::path::Path;
use std::process::Stdio;

use dirnet::error::ErrorKind;
use dirnet::loss::LossSpec;
use dirnet::loss::reach::{self, Changes};
use dirnet::onnx::proto::{OperatorSetIdProto, attribute_proto::AttributeType};
use dirnet::onnx::{AttributeProto, GraphProto, LoadOptions, Model, ModelProto, NodeProto, Scope, TensorProto, tensor};
use dirnet::progress::Silent;
use dirnet::samples::{Carry, Feed, Samples, Stream, Tensor};
use dirnet::verify::{self, Check, CheckKind, Verdict, VerifySettings, verify};
use ndarray::{Array, ArrayD, IxDyn};

use crate::hostile::targets::{graph, int, node, of, value, wave};
use crate::hostile::{dirnet, run, typed, write};

const INPUTS: usize = 16;
const HIDDEN: usize = 32;
const STEPS: usize = 6;

fn floats(name: &str, shape: &[usize], scale: f32) -> TensorProto {
    tensor::float(name, shape, &wave(shape.iter().product()).iter().map(|v| v * scale).collect::<Vec<_>>())
}

fn weights() -> Vec<TensorProto> {
    vec![
        floats("W", &[1, 4 * HIDDEN, INPUTS], 0.3),
        floats("R", &[1, 4 * HIDDEN, HIDDEN], 0.2),
        floats("B", &[1, 8 * HIDDEN], 0.5),
    ]
}

fn layer() -> NodeProto {
    let lstm = node("LSTM", &["x", "W", "R", "B"], "u", vec![int("hidden_size", HIDDEN as i64)]);
    NodeProto { name: Some("rnn".to_owned()), ..lstm }
}

fn named(name: &str, node: NodeProto) -> NodeProto {
    NodeProto { name: Some(name.to_owned()), ..node }
}

/// `x [6, 2, 16]` through an LSTM `u`, what `more` makes of it, and these outputs.
fn model(more: Vec<NodeProto>, constants: Vec<TensorProto>, outputs: &[&str]) -> ModelProto {
    of(GraphProto {
        name: Some("g".to_owned()),
        node: std::iter::once(layer()).chain(more).collect(),
        initializer: weights().into_iter().chain(constants).collect(),
        input: vec![typed("x", 1, &[STEPS as i64, 2, INPUTS as i64])],
        output: outputs.iter().map(|name| value(name)).collect(),
        ..Default::default()
    })
}

/// The model with W a little off, as a coded one is.
fn coded(mut proto: ModelProto, by: f32) -> ModelProto {
    let w = &mut proto.graph.as_mut().unwrap().initializer[0];
    let moved: Vec<f32> =
        wave(4 * HIDDEN * INPUTS).iter().enumerate().map(|(i, v)| v * 0.3 + by * (i as f32).cos()).collect();
    *w = tensor::float("W", &[1, 4 * HIDDEN, INPUTS], &moved);
    proto
}

fn load(proto: &ModelProto) -> Model {
    Model::from_proto(proto.clone(), &LoadOptions::default()).unwrap()
}

fn array(shape: &[usize], seed: usize) -> ArrayD<f32> {
    let len: usize = shape.iter().product();
    Array::from_shape_vec(IxDyn(shape), wave(len + seed)[seed..].to_vec()).unwrap()
}

fn stream(name: &str, number: usize, feed: Vec<(&str, Tensor)>) -> Stream {
    let feed: Feed = feed.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    Stream { origin: format!("{name}[{number}]"), feeds: vec![feed], labels: Vec::new() }
}

fn samples() -> Samples {
    let one = |i: usize| stream("s.npz", i, vec![("x", array(&[STEPS, 2, INPUTS], i * 7).into())]);
    Samples { streams: (0..4).map(one).collect(), carry: Vec::new(), made_up: false, notes: Vec::new() }
}

fn judge(
    original: &ModelProto,
    result: &ModelProto,
    samples: &Samples,
    checks: &[Check],
) -> Result<Verdict, dirnet::error::Error> {
    let loss = LossSpec::default();
    let settings = VerifySettings { samples, calibrated_on: None, loss: &loss, checks, seed: 0 };
    verify(&load(original), &load(result), &settings, &Silent)
}

fn check(kind: CheckKind, output: Option<&str>, limit: f64) -> Check {
    Check { kind, output: output.map(str::to_owned), limit }
}

fn snr(limit: f64) -> [Check; 1] {
    [check(CheckKind::MinSnr, None, limit)]
}

// Samples that cannot be run.

/// `ids [6, 2]` look up a table of ten rows for the layer; the result is `factor` times it.
fn embedding(factor: f32) -> ModelProto {
    let mut proto = model(vec![node("Mul", &["u", "k"], "y", vec![])], vec![floats("E", &[10, INPUTS], 1.0)], &["y"]);
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.push(tensor::float("k", &[], &[factor]));
    graph.node.insert(0, named("look", node("Gather", &["E", "ids"], "x", vec![])));
    graph.input = vec![typed("ids", 7, &[STEPS as i64, 2])];
    proto
}

fn tokens(bad: impl Fn(usize) -> bool) -> Samples {
    let one = |i: usize| {
        let mut ids =
            ArrayD::<i64>::from_shape_fn(IxDyn(&[STEPS, 2]), |place| ((place[0] * 3 + place[1] + i) % 10) as i64);
        ids[[2, 1]] = if bad(i) { 10 } else { 3 };
        stream("ids.npz", i, vec![("ids", ids.into())])
    };
    Samples { streams: (0..4).map(one).collect(), carry: Vec::new(), made_up: false, notes: Vec::new() }
}

#[test]
fn a_sample_out_of_range_does_not_turn_a_failure_into_layers() {
    let (original, result) = (embedding(1.0), coded(embedding(-1000.0), 1e-3));
    let fine = judge(&original, &result, &tokens(|_| false), &snr(20.0)).unwrap();
    assert!(!fine.passed && fine.scope == verify::VerifyScope::Model);
    for bad in [tokens(|i| i == 3), tokens(|_| true)] {
        let error = judge(&original, &result, &bad, &snr(20.0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Samples, "{error}");
        let first = bad.streams.iter().position(|s| s.feeds[0]["ids"].to_i64().unwrap()[[2, 1]] == 10).unwrap();
        let wanted = format!("ids.npz[{first}]: this sample cannot be run: input 'ids' holds 10 at [2, 1]");
        assert!(error.to_string().starts_with(&wanted), "{error}");
    }
}

#[test]
fn inputs_that_disagree_on_a_symbol_do_not_turn_a_failure_into_layers() {
    let mut proto = model(vec![], vec![], &["u"]);
    let graph = proto.graph.as_mut().unwrap();
    graph.node.insert(0, named("sum", node("Add", &["p", "q"], "x", vec![])));
    let symbolic = |name: &str| {
        use dirnet::onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
        let mut info = typed(name, 1, &[STEPS as i64, 2, INPUTS as i64]);
        let Some(type_proto::Value::TensorType(tensor)) = &mut info.r#type.as_mut().unwrap().value else { panic!() };
        tensor.shape.as_mut().unwrap().dim[0].value = Some(Value::DimParam("T".to_owned()));
        info
    };
    graph.input = vec![symbolic("p"), symbolic("q")];
    let of_lengths = |lengths: [usize; 2], i: usize| {
        let [p, q] = lengths.map(|steps| Tensor::from(array(&[steps, 2, INPUTS], i)));
        stream("two.npz", i, vec![("p", p), ("q", q)])
    };
    for bad in [vec![[6, 5]], vec![[6, 6], [6, 5]], vec![[6, 5], [4, 7]]] {
        let samples = Samples {
            streams: bad.iter().enumerate().map(|(i, lengths)| of_lengths(*lengths, i)).collect(),
            carry: Vec::new(),
            made_up: false,
            notes: Vec::new(),
        };
        let error = judge(&proto, &coded(proto.clone(), 1e-3), &samples, &snr(5.0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Samples, "{error}");
        assert!(error.to_string().contains("two.npz[") && error.to_string().contains("'T'"), "{error}");
    }
}

#[test]
fn a_sample_that_fails_in_the_result_only_is_the_results_fault() {
    let mut result = embedding(1.0);
    let table = result.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.name() == "E").unwrap();
    *table = floats("E", &[9, INPUTS], 1.0);
    let mut samples = tokens(|_| false);
    let ids = ArrayD::<i64>::from_elem(IxDyn(&[STEPS, 2]), 9);
    samples.streams[1].feeds[0].insert("ids".to_owned(), ids.into());
    let error = judge(&embedding(1.0), &result, &samples, &snr(5.0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("the compressed model cannot"), "{error}");
}

#[test]
fn a_sample_out_of_range_does_not_turn_compress_to_noise() {
    let directory = tempfile::tempdir().unwrap();
    write(&directory, "m.onnx", &embedding(1.0));
    let mut ids = Array::from_shape_fn((8, STEPS, 2), |(i, t, n)| ((i + t + n) % 10) as i64);
    ids[[1, 0, 0]] = -11;
    let mut file = ndarray_npy::NpzWriter::new(std::fs::File::create(directory.path().join("ids.npz")).unwrap());
    file.add_array("ids", &ids).unwrap();
    file.finish().unwrap();
    let (code, said) = run(
        directory.path(),
        &[
            "compress",
            "m.onnx",
            "-o",
            "o.onnx",
            "--calibration",
            "ids.npz",
            "--ratio",
            "3",
            "--tune",
            "off",
            "--min-snr",
            "5",
            "-q",
        ],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("ids.npz[1]") && said.contains("input 'ids' holds -11 at [0, 0]"), "{said}");
    assert!(!directory.path().join("o.onnx").exists());
}

#[test]
fn no_samples_are_no_pass() {
    let original = model(vec![], vec![], &["u"]);
    let error = judge(&original, &coded(original.clone(), 10.0), &Samples::default(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Samples);
}

#[test]
fn outputs_without_elements_are_no_pass() {
    let empty = |factor| {
        let slice = node("Slice", &["v", "none", "none"], "y", vec![]);
        let constants = vec![tensor::int64("none", &[1], &[0]), tensor::float("k", &[], &[factor])];
        model(vec![node("Mul", &["u", "k"], "v", vec![]), slice], constants, &["y"])
    };
    for checks in [&snr(20.0)[..], &[]] {
        let verdict = judge(&empty(1.0), &empty(-5.0), &samples(), checks).unwrap();
        assert!(!verdict.passed && verdict.failures.iter().any(|f| f.contains("empty")), "{:?}", verdict.failures);
    }
}

// Layers alone.

/// The layer, a node 'scale' behind it, and an operator that the engine lacks.
fn unrunnable(factor: f32) -> ModelProto {
    let scale = named("scale", node("Mul", &["u", "k"], "v", vec![]));
    let mystery =
        NodeProto { domain: Some("com.example".to_owned()), ..node("Mystery", &["v"], "y", vec![int("i", 1)]) };
    let mut proto = model(vec![scale, named("last", mystery)], vec![tensor::float("k", &[], &[factor])], &["y"]);
    proto.opset_import.push(OperatorSetIdProto { domain: Some("com.example".to_owned()), version: Some(1) });
    proto
}

fn strings(name: &str, strings: &[&str]) -> AttributeProto {
    let strings = strings.iter().map(|s| bytes::Bytes::copy_from_slice(s.as_bytes())).collect();
    let r#type = Some(AttributeType::Strings as i32);
    AttributeProto { name: Some(name.to_owned()), strings, r#type, ..Default::default() }
}

fn text(name: &str, text: &str) -> AttributeProto {
    let (s, r#type) = (bytes::Bytes::copy_from_slice(text.as_bytes()), Some(AttributeType::String as i32));
    AttributeProto { name: Some(name.to_owned()), s: Some(s), r#type, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        f: Some(f),
        r#type: Some(AttributeType::Float as i32),
        ..Default::default()
    }
}

/// What may not differ where the models cannot be run, each as a change of the result, and what is said then.
type Change = fn(&mut ModelProto);

const CHANGES: [(&str, Change, &str); 17] = [
    ("reverse", |m| lstm(m).attribute.push(text("direction", "reverse")), "node 'rnn' differs"),
    ("clip", |m| lstm(m).attribute.push(float("clip", 50.0)), "node 'rnn' differs"),
    (
        "activations",
        |m| lstm(m).attribute.push(strings("activations", &["Sigmoid", "Relu", "Relu"])),
        "node 'rnn' differs",
    ),
    ("peepholes", |m| extra_input(m, 7, floats("P", &[1, 3 * HIDDEN], 9.0)), "node 'rnn' differs"),
    ("initial state", |m| extra_input(m, 5, floats("h0", &[1, 2, HIDDEN], 9.0)), "node 'rnn' differs"),
    ("no B", |m| lstm(m).input[3].clear(), "is below --min-snr 20"),
    ("another B", |m| initializer(m, "B", floats("B", &[1, 8 * HIDDEN], -3.0)), "is below --min-snr 20"),
    ("input_forget", |m| lstm(m).attribute.push(int("input_forget", 1)), "node 'rnn' differs"),
    ("factor", |m| initializer(m, "k", tensor::float("k", &[], &[1000.0])), "node 'scale' differs"),
    (
        "type of a factor",
        |m| initializer(m, "k", TensorProto { data_type: Some(11), ..tensor::float("k", &[], &[1.0]) }),
        "node 'scale' differs",
    ),
    ("operator", |m| nodes(m)[1].op_type = Some("Add".to_owned()), "node 'scale' differs"),
    ("domain", |m| nodes(m)[1].domain = Some("com.example".to_owned()), "node 'scale' differs"),
    ("attribute", |m| nodes(m)[2].attribute[0].i = Some(2), "node 'last' differs"),
    ("wiring", |m| nodes(m)[2].input[0] = "u".to_owned(), "node 'scale' differs"),
    (
        "one more node",
        |m| {
            nodes(m)[1].input[0] = "w".to_owned();
            nodes(m).push(node("Neg", &["u"], "w", vec![]));
        },
        "differs from the original",
    ),
    ("operator set", |m| m.opset_import[0].version = Some(15), "the operator sets differ"),
    (
        "declared input",
        |m| m.graph.as_mut().unwrap().input[0] = typed("x", 1, &[STEPS as i64, -1, INPUTS as i64]),
        "input 'x' is declared",
    ),
];

fn nodes(model: &mut ModelProto) -> &mut Vec<NodeProto> {
    &mut model.graph.as_mut().unwrap().node
}

fn lstm(model: &mut ModelProto) -> &mut NodeProto {
    &mut nodes(model)[0]
}

fn initializer(model: &mut ModelProto, name: &str, tensor: TensorProto) {
    let all = &mut model.graph.as_mut().unwrap().initializer;
    *all.iter_mut().find(|t| t.name() == name).unwrap() = tensor;
}

fn extra_input(model: &mut ModelProto, input: usize, tensor: TensorProto) {
    lstm(model).input.resize(input + 1, String::new());
    lstm(model).input[input] = tensor.name().to_owned();
    model.graph.as_mut().unwrap().initializer.push(tensor);
}

#[test]
fn what_was_not_run_must_be_the_same() {
    let original = unrunnable(1.0);
    let sound = judge(&original, &coded(original.clone(), 1e-3), &samples(), &snr(20.0)).unwrap();
    assert!(sound.passed && sound.scope == verify::VerifyScope::Layers, "{:?}", sound.failures);
    for (name, change, said) in CHANGES {
        let mut result = coded(original.clone(), 1e-3);
        change(&mut result);
        let verdict = judge(&original, &result, &samples(), &snr(20.0)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(verdict.scope, verify::VerifyScope::Layers, "{name}");
        assert!(!verdict.passed, "{name} passed");
        assert!(verdict.failures.iter().any(|f| f.contains(said)), "{name}: {:?}", verdict.failures);
    }
}

#[test]
fn a_layer_is_run_with_its_own_initial_states() {
    let mut original = unrunnable(1.0);
    extra_input(&mut original, 5, floats("h0", &[1, 3, HIDDEN], 1.0));
    let same = judge(&original, &coded(original.clone(), 1e-3), &samples(), &snr(20.0)).unwrap();
    assert!(same.passed, "{:?}", same.failures);
    let mut other = coded(original.clone(), 1e-3);
    initializer(&mut other, "h0", floats("h0", &[1, 3, HIDDEN], -9.0));
    let verdict = judge(&original, &other, &samples(), &snr(20.0)).unwrap();
    assert!(verdict.failures.iter().any(|f| f.contains("node 'rnn' differs")), "{:?}", verdict.failures);
    assert!(verdict.outputs[0].snr_db.unwrap() < 20.0, "it was run as it is: {:?}", verdict.outputs[0]);
}

#[test]
fn names_order_and_documentation_do_not_compute() {
    let original = unrunnable(1.0);
    let mut result = coded(original.clone(), 1e-3);
    let graph = result.graph.as_mut().unwrap();
    graph.doc_string = Some("another".to_owned());
    graph.node.swap(1, 2);
    for node in &mut graph.node {
        node.doc_string = Some("of a node".to_owned());
        let renamed = |name: &mut String| {
            if name == "v" {
                "renamed".clone_into(name)
            }
        };
        node.input.iter_mut().for_each(renamed);
        node.output.iter_mut().for_each(renamed);
    }
    graph.initializer.reverse();
    let verdict = judge(&original, &result, &samples(), &snr(20.0)).unwrap();
    assert!(verdict.passed, "{:?}", verdict.failures);
}

#[test]
fn bodies_that_were_not_run_must_be_the_same() {
    let with_if = |factor: f32| {
        let branch = |name: &str, factor: f32| GraphProto {
            name: Some(name.to_owned()),
            node: vec![named("inner", node("Mul", &["u", "c"], name, vec![]))],
            initializer: vec![tensor::float("c", &[], &[factor])],
            output: vec![value(name)],
            ..Default::default()
        };
        let mut proto = unrunnable(1.0);
        let yes =
            TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
        let graph_of = proto.graph.as_mut().unwrap();
        graph_of.initializer.push(yes);
        let branches = vec![graph("then_branch", branch("a", factor)), graph("else_branch", branch("b", 1.0))];
        graph_of.node.insert(1, node("If", &["yes"], "chosen", branches));
        graph_of.node[2].input[0] = "chosen".to_owned();
        proto
    };
    let same = judge(&with_if(1.0), &coded(with_if(1.0), 1e-3), &samples(), &snr(20.0)).unwrap();
    assert!(same.passed, "{:?}", same.failures);
    let other = judge(&with_if(1.0), &coded(with_if(2.0), 1e-3), &samples(), &snr(20.0)).unwrap();
    assert!(other.failures.iter().any(|f| f.contains("node 'inner' differs")), "{:?}", other.failures);
}

#[test]
fn a_check_of_outputs_that_only_layers_answer_warns_even_when_quiet() {
    let directory = tempfile::tempdir().unwrap();
    write(&directory, "a.onnx", &unrunnable(1.0));
    write(&directory, "b.onnx", &coded(unrunnable(1.0), 1e-3));
    npz(directory.path());
    let arguments = ["verify", "a.onnx", "b.onnx", "--holdout", "x.npz", "-q"];
    let (code, said) = run(directory.path(), &[&arguments[..], &["--min-snr", "20"]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("warning: --min-snr 20 is checked for each layer alone") && said.lines().count() == 1,
        "{said}"
    );
    let (code, said) = run(directory.path(), &arguments);
    assert_eq!((code, &*said), (Some(0), ""));
}

fn npz(folder: &Path) {
    let x = Array::from_shape_vec((4, STEPS, 2, INPUTS), wave(4 * STEPS * 2 * INPUTS)).unwrap();
    let mut file = ndarray_npy::NpzWriter::new(std::fs::File::create(folder.join("x.npz")).unwrap());
    file.add_array("x", &x).unwrap();
    file.finish().unwrap();
}

// Outputs that show nothing.

/// `y = sqrt(u - above)`: NaN for all, or for some.
fn roots(above: f32) -> ModelProto {
    let more = vec![node("Sub", &["u", "above"], "d", vec![]), node("Sqrt", &["d"], "y", vec![])];
    model(more, vec![tensor::float("above", &[], &[above])], &["y"])
}

#[test]
fn nan_in_both_is_no_agreement() {
    for checks in [vec![check(CheckKind::MinAgreement, None, 1.0)], snr(20.0).to_vec(), vec![]] {
        let verdict = judge(&roots(9.0), &coded(roots(9.0), 0.3), &samples(), &checks).unwrap();
        assert!(
            !verdict.passed && verdict.failures.iter().any(|f| f.contains("NaN or infinite in both")),
            "{:?}",
            verdict.failures
        );
        assert_eq!(verdict.outputs[0].agreement, None);
    }
    let some = judge(&roots(0.0), &roots(0.0), &samples(), &snr(20.0)).unwrap();
    let figures = &some.outputs[0];
    assert!(some.passed && figures.nan > 0 && figures.undecided > 0 && figures.elements > 0, "{figures:?}");
    assert!(some.warnings.iter().any(|w| w.contains("are NaN in both models")), "{:?}", some.warnings);
    let json = serde_json::to_value(&some).unwrap();
    assert_eq!(json["outputs"][0]["nan"], figures.nan);
    assert_eq!(json["outputs"][0]["undecided"], figures.undecided);
}

#[test]
fn weights_that_are_no_numbers_in_both_are_no_agreement() {
    let broken = |v: f32| {
        let mut proto = model(vec![node("Tanh", &["u"], "y", vec![])], vec![], &["y"]);
        let mut values = wave(4 * HIDDEN * HIDDEN);
        values[7] = v;
        initializer(&mut proto, "R", tensor::float("R", &[1, 4 * HIDDEN, HIDDEN], &values));
        proto
    };
    for v in [f32::NAN, f32::INFINITY] {
        let verdict = judge(&broken(v), &coded(broken(v), 0.2), &samples(), &[]).unwrap();
        let said = "node 'rnn': R holds NaN or infinite values in the original";
        assert!(!verdict.passed && verdict.failures.iter().any(|f| f.starts_with(said)), "{:?}", verdict.failures);
    }
}

/// A label, and two outputs that no weight reaches: a constant, and the shape of the states.
fn labels(more: Vec<NodeProto>, outputs: &[&str]) -> ModelProto {
    let mut nodes = vec![
        node("ArgMax", &["u"], "label", vec![int("axis", -1)]),
        node("Identity", &["v"], "version", vec![]),
        node("Shape", &["u"], "size", vec![]),
    ];
    nodes.extend(more);
    model(nodes, vec![tensor::float("v", &[3], &[3.0, 1.0, 4.0])], outputs)
}

#[test]
fn a_check_of_all_is_not_met_by_outputs_that_no_weight_reaches() {
    let original = labels(vec![], &["label", "version", "size"]);
    let result = coded(original.clone(), 1.0);
    let verdict = judge(&original, &result, &samples(), &snr(20.0)).unwrap();
    assert_eq!(verdict.failures, ["--min-snr does not apply to any output that was run"]);
    assert_eq!(verdict.outputs.iter().map(|o| o.reached).collect::<Vec<_>>(), [true, false, false]);
    let unbound: Vec<&str> = verdict.unbound.iter().map(|u| &*u.output).collect();
    assert_eq!(unbound, ["label", "version", "size"]);
    assert!(verdict.warnings[0].contains("'label' (it holds integers: use --min-agreement)"), "{:?}", verdict.warnings);
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!((&json["unbound"][1]["gate"], &json["unbound"][1]["output"]), (&"min-snr".into(), &"version".into()));

    let agreement = judge(&original, &result, &samples(), &[check(CheckKind::MinAgreement, None, 1.0)]).unwrap();
    assert_eq!(agreement.checks.len(), 1, "{:?}", agreement.checks);
    assert!(!agreement.passed && agreement.checks[0].output == "label");
    let named = judge(&original, &result, &samples(), &[check(CheckKind::MaxAbs, Some("version"), 0.0)]).unwrap();
    assert!(named.passed, "who names it knows what it is: {:?}", named.failures);
}

#[test]
fn a_constant_binds_no_check_however_it_is_computed() {
    let original = labels(vec![], &["label", "version"]);
    let mut result = coded(original.clone(), 1.0);
    initializer(&mut result, "v", tensor::float("v", &[3], &[1.5, 0.5, 2.0]));
    nodes(&mut result)[2] = node("Add", &["v", "v"], "version", vec![]);
    let verdict = judge(&original, &result, &samples(), &snr(20.0)).unwrap();
    assert_eq!(verdict.failures, ["--min-snr does not apply to any output that was run"]);
    let mut newer = coded(original.clone(), 1.0);
    newer.opset_import[0].version = Some(16);
    let verdict = judge(&original, &newer, &samples(), &snr(20.0)).unwrap();
    assert_eq!(verdict.failures, ["--min-snr does not apply to any output that was run"]);
    let mut wrong = coded(original.clone(), 0.0);
    initializer(&mut wrong, "v", tensor::float("v", &[3], &[3.0, 1.0, 5.0]));
    let verdict = judge(&original, &wrong, &samples(), &snr(60.0)).unwrap();
    assert!(verdict.failures[0].starts_with("output 'version': snr "), "{:?}", verdict.failures);
}

#[test]
fn outputs_that_no_weight_reaches_do_not_dilute_the_loss() {
    let alone = labels(vec![], &["u"]);
    let among = labels(vec![], &["u", "version", "size"]);
    let [alone, among] =
        [alone, among].map(|proto| judge(&proto, &coded(proto.clone(), 0.05), &samples(), &[]).unwrap());
    assert!(alone.loss_mean.unwrap() > 1e-6);
    assert_eq!((alone.loss, alone.loss_mean, alone.loss_worst), (among.loss, among.loss_mean, among.loss_worst));
    let two = labels(vec![node("Mul", &["u", "u"], "square", vec![])], &["u", "square"]);
    let two = judge(&two, &coded(two.clone(), 0.05), &samples(), &[]).unwrap();
    assert!(two.loss_worst > two.loss_mean && two.loss == two.loss_mean, "{two:?}");
}

#[test]
fn a_difference_that_reaches_no_output_is_no_pass() {
    let original = model(vec![node("Identity", &["x"], "same", vec![])], vec![], &["same"]);
    let result = coded(original.clone(), 1.0);
    // The weights are those of a node that nothing reads: there is no difference in what is computed.
    let verdict = judge(&original, &result, &samples(), &snr(20.0)).unwrap();
    assert!(verdict.warnings[0].contains("do not differ"), "{:?}", verdict.warnings);
    let mut reading = original.clone();
    nodes(&mut reading).push(node("Shape", &["u"], "size", vec![]));
    reading.graph.as_mut().unwrap().output.push(value("size"));
    let verdict = judge(&reading, &coded(reading.clone(), 1.0), &samples(), &snr(20.0)).unwrap();
    assert!(!verdict.passed && verdict.failures[0].contains("depends on what differs"), "{:?}", verdict.failures);
}

#[test]
fn an_output_that_lost_what_was_computed_meets_no_check_of_all() {
    let lost = model(vec![node("Mul", &["u", "zero"], "y", vec![])], vec![tensor::float("zero", &[], &[0.0])], &["y"]);
    let verdict = judge(&lost, &coded(lost.clone(), 1.0), &samples(), &snr(20.0)).unwrap();
    assert!(!verdict.passed && verdict.unbound[0].reason == "both models give one constant", "{verdict:?}");
}

// Models that a caller cannot run alike.

#[test]
fn models_of_other_inputs_and_outputs_are_refused() {
    let mut original = model(vec![], vec![], &["u"]);
    original.graph.as_mut().unwrap().output[0] = typed("u", 1, &[STEPS as i64, 1, 2, HIDDEN as i64]);
    let refused = |change: &dyn Fn(&mut GraphProto), said: &str| {
        let mut result = coded(original.clone(), 1e-4);
        change(result.graph.as_mut().unwrap());
        let error = judge(&original, &result, &samples(), &snr(20.0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    };
    refused(&|g| g.input.push(typed("further", 1, &[1])), "needs this input");
    refused(&|g| g.input[0] = typed("x", 1, &[1, 1, INPUTS as i64]), "the compressed model takes [1, 1, 16]");
    refused(&|g| g.input[0] = typed("x", 10, &[STEPS as i64, 2, INPUTS as i64]), "takes FLOAT16");
    refused(&|g| g.output[0] = typed("u", 10, &[]), "gives FLOAT16");
    refused(
        &|g| {
            g.node[0].input[0] = "z".to_owned();
            g.input[0] = typed("z", 1, &[STEPS as i64, 2, INPUTS as i64]);
        },
        "'z': the compressed model needs this input",
    );
}

// What flows where.

/// The outputs of a model that the LSTM at the root reaches.
fn reached(proto: &ModelProto, carry: &[Carry]) -> Vec<String> {
    let changes = Changes::of_elements([(Scope::root(), 0)]);
    reach::outputs(&load(proto), &changes, carry).unwrap().into_iter().collect()
}

#[test]
fn what_flows_through_bodies_is_followed_output_by_output() {
    // A Loop with two carried values, of which one only takes u, and a scan output of each.
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: vec![
            node("Identity", &["go"], "on", vec![]),
            node("Add", &["a", "u"], "a2", vec![]),
            node("Neg", &["b"], "b2", vec![]),
            node("Identity", &["a2"], "a3", vec![]),
            node("Identity", &["b2"], "b3", vec![]),
        ],
        input: ["i", "go", "a", "b"].map(value).to_vec(),
        output: ["on", "a2", "b2", "a3", "b3"].map(value).to_vec(),
        ..Default::default()
    };
    let mut looped = node("Loop", &["rounds", "yes", "x0", "x0"], "A", vec![graph("body", body)]);
    looped.output.extend(["Bo", "As", "Bs"].map(str::to_owned));
    let yes = TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
    let constants = vec![tensor::int64("rounds", &[], &[2]), yes, tensor::float("x0", &[1], &[0.0])];
    let proto = model(vec![looped], constants, &["A", "Bo", "As", "Bs"]);
    assert_eq!(reached(&proto, &[]), ["A", "As"]);
}

#[test]
fn shapes_are_no_values_unless_values_make_them() {
    let more = vec![
        node("Shape", &["u"], "size", vec![]),
        node("NonZero", &["u"], "places", vec![]),
        node("Shape", &["places"], "count", vec![]),
        node("ConstantOfShape", &["size"], "zeros", vec![]),
        node("Reshape", &["u", "size"], "again", vec![]),
        node("Size", &["again"], "all", vec![]),
    ];
    let proto = model(more, vec![], &["size", "places", "count", "zeros", "again", "all"]);
    assert_eq!(reached(&proto, &[]), ["again", "count", "places"]);
}

#[test]
fn states_that_are_fed_back_are_followed() {
    let mut proto = model(vec![node("Neg", &["state"], "y", vec![])], vec![], &["u", "y"]);
    proto.graph.as_mut().unwrap().input.push(typed("state", 1, &[1]));
    assert_eq!(reached(&proto, &[]), ["u"]);
    assert_eq!(reached(&proto, &[Carry::parse("state=u").unwrap()]), ["u", "y"]);
}

// The role of a process.

#[test]
fn no_variable_makes_verify_pass() {
    let directory = tempfile::tempdir().unwrap();
    let original = model(vec![], vec![], &["u"]);
    write(&directory, "a.onnx", &original);
    write(&directory, "b.onnx", &coded(original, 3.0));
    npz(directory.path());
    let arguments = ["verify", "a.onnx", "b.onnx", "--holdout", "x.npz", "--min-snr", "99", "-q"];
    let (code, plain) = run(directory.path(), &arguments);
    assert_eq!(code, Some(1), "{plain}");
    for role in ["probe", "job", "layers:because", "measure:0"] {
        let mut command = dirnet();
        command.args(arguments).current_dir(directory.path()).stdin(Stdio::piped());
        for name in ["DIRNET_WORKER", "DIRNET_WORKER_WATCHED", "__worker"] {
            command.env(name, role);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{role}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), plain, "{role}");
    }
}
