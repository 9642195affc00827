//! What is done to a file before anything is coded, through the command line and the engine: the result computes the same,
//! says what was saved, and what was coded after it expands again.

use std::path::Path;
use std::process::Command;

use dirnet::onnx::proto::{
    OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use dirnet::onnx::{AttributeProto, GraphProto, LoadOptions, Model, ModelProto, NodeProto, tensor};
use dirnet::recurrent;
use serde_json::Value;

use crate::made;

/// Runs the tool, which must end well, and returns the report of `--format json`.
fn report(arguments: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_dirnet")).args(arguments).args(["--format", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn steps(report: &Value) -> Vec<&str> {
    report["lossless"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

#[test]
fn every_model_is_smaller_with_nothing_coded_and_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for model in made::ALL {
        let (path, out) = (model.path(), folder.path().join(format!("{}.onnx", model.name)));
        let samples = model.samples_path();
        let mut arguments = vec!["compress", text(&path), "-o", text(&out), "--lossless", "--holdout", text(&samples)];
        model.carry.iter().for_each(|carry| arguments.extend(["--stream", carry]));
        if ["split", "joined"].contains(&model.name) {
            // Their side files are a few hundred bytes: written with where each tensor begins, they are no smaller.
            let refused = Command::new(env!("CARGO_BIN_EXE_dirnet")).args(&arguments).output().unwrap();
            assert_eq!(refused.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&refused.stderr).contains("no smaller than the original"));
            assert!(!out.exists());
            continue;
        }
        let report = report(&arguments);
        let saved: u64 =
            report["lossless"].as_array().unwrap().iter().map(|step| step["bytes"].as_u64().unwrap()).sum();
        let after = &report["model"]["bytes_after"];
        let before = Model::open(&path).unwrap().saved_bytes().unwrap();
        assert_eq!(before - after.as_u64().unwrap(), saved, "{}", model.name);
        assert!(report["recurrent"].is_null() && saved > 0, "{}", model.name);
        assert!(report["lossless"].as_array().unwrap().iter().all(|step| step["exact"] == true), "{}", model.name);
        // The name of a side file is not known before it is written.
        if !folder.path().join(format!("{}.onnx.data", model.name)).exists() {
            assert_eq!(Model::open(&out).unwrap().bytes(), after.as_u64().unwrap(), "{}", model.name);
        }
        for output in report["verify"]["outputs"].as_array().unwrap() {
            assert!(output["max_abs"].as_f64().is_none_or(|difference| difference == 0.0), "{}: {output}", model.name);
        }
    }
}

#[test]
fn names_of_nodes_go_unless_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (made::made("twins").path(), folder.path().join("small.onnx"));
    let named = |model: &Model| model.graphs().iter().any(|(_, g)| g.node.iter().any(|node| !node.name().is_empty()));
    assert!(named(&Model::open(&path).unwrap()));
    let bare = report(&["compress", text(&path), "-o", text(&out), "--lossless"]);
    assert!(steps(&bare).contains(&"node names") && !named(&Model::open(&out).unwrap()));
    let kept = report(&["compress", text(&path), "-o", text(&out), "--lossless", "--keep-names"]);
    assert!(!steps(&kept).contains(&"node names") && named(&Model::open(&out).unwrap()));
}

/// The same LSTM in both branches of an If, each with its own copy of the weights.
fn twins(hidden: usize) -> Model {
    let values =
        |seed: usize, n: usize| (0..n).map(|v| ((v * 7919 + seed) % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<_>>();
    let node = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: Some(format!("node {output}")),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    };
    let body = |branch: &str| {
        let [w, r, y] = ["w", "r", "y"].map(|name| format!("{branch}.{name}"));
        let size = AttributeProto {
            name: Some("hidden_size".into()),
            r#type: Some(2),
            i: Some(hidden as i64),
            ..Default::default()
        };
        let lstm = NodeProto { attribute: vec![size], ..node("LSTM", &["x", &w, &r], &y) };
        let shape = [1, 4 * hidden, hidden];
        let of = |name: &str, seed| tensor::float(name, &shape, &values(seed, 4 * hidden * hidden));
        GraphProto {
            name: Some(branch.to_owned()),
            node: vec![lstm],
            initializer: vec![of(&w, 1), of(&r, 2)],
            output: vec![info(&y, 1, &[3, 1, 1, hidden])],
            ..Default::default()
        }
    };
    let mut branch = node("If", &["flag"], "y");
    for (name, graph) in [("then_branch", "yes"), ("else_branch", "no")] {
        let body = Some(body(graph));
        branch.attribute.push(AttributeProto {
            name: Some(name.into()),
            r#type: Some(5),
            g: body,
            ..Default::default()
        });
    }
    model(GraphProto {
        name: Some("g".to_owned()),
        node: vec![branch],
        input: vec![info("x", 1, &[3, 1, hidden]), info("flag", 9, &[1])],
        output: vec![info("y", 1, &[3, 1, 1, hidden])],
        ..Default::default()
    })
}

#[test]
fn layers_that_are_stored_twice_count_twice_and_are_coded_once() {
    let folder = tempfile::tempdir().unwrap();
    let [path, out, dense] = ["model", "small", "dense"].map(|name| folder.path().join(format!("{name}.onnx")));
    let model = twins(64);
    model.save(&path).unwrap();
    let coded =
        report(&["compress", text(&path), "-o", text(&out), "--ratio", "6", "--tune", "off", "--sensitivity", "none"]);
    let original = recurrent::find(&model, &Default::default()).unwrap();
    assert_eq!(original.stored_bytes(), 4 * 4 * 4 * 64 * 64, "W and R, twice");
    let of = |part: &str, key: &str| coded[part][key].as_u64().unwrap();
    assert_eq!(of("recurrent", "bytes_before"), original.stored_bytes());
    assert!(coded["recurrent"]["ratio"].as_f64().unwrap() >= 6.0);
    assert!(steps(&coded).contains(&"equal constants once"));
    assert_eq!(of("model", "bytes_after"), Model::open(&out).unwrap().bytes());
    assert_eq!(of("model", "bytes_before"), model.bytes());
    let units = coded["units"].as_array().unwrap();
    assert!(units.iter().all(|unit| unit["node"] == "node yes.y"), "reports name the nodes of the original");
    let bytes = |key: &str| units.iter().map(|unit| unit[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(bytes("bytes_before"), original.stored_bytes());
    let status = Command::new(env!("CARGO_BIN_EXE_dirnet")).args(["expand", text(&out), "-o", text(&dense)]).status();
    assert!(status.unwrap().success());
}

/// The declaration of a value.
fn info(name: &str, element: i32, shape: &[usize]) -> ValueInfoProto {
    let dim = |&size: &usize| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(size as i64)),
        ..Default::default()
    };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let of_tensor = type_proto::Tensor { elem_type: Some(element), shape };
    let of = TypeProto { value: Some(type_proto::Value::TensorType(of_tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(of), ..Default::default() }
}

fn model(graph: GraphProto) -> Model {
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(15) }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

/// A convolution with a windowed DFT basis, `x [1, 1, 4 N] -> y`.
fn spectrum(columns: usize) -> Model {
    let rows = columns / 2 + 1;
    let turn = |k: usize, j: usize| 2.0 * std::f64::consts::PI * (k * j) as f64 / columns as f64;
    let window = |j: usize| 0.5 - 0.5 * turn(1, j).cos();
    let value = |row: usize, j: usize| match row.checked_sub(rows) {
        None => turn(row, j).cos() * window(j),
        Some(k) => -turn(k, j).sin() * window(j),
    };
    let table: Vec<f32> = (0..2 * rows).flat_map(|row| (0..columns).map(move |j| value(row, j) as f32)).collect();
    let strides =
        AttributeProto { name: Some("strides".into()), r#type: Some(7), ints: vec![16], ..Default::default() };
    let conv = NodeProto {
        op_type: Some("Conv".to_owned()),
        input: vec!["x".to_owned(), "a.long.name.of.a.basis".to_owned()],
        output: vec!["y".to_owned()],
        attribute: vec![strides],
        ..Default::default()
    };
    model(GraphProto {
        name: Some("g".to_owned()),
        node: vec![conv],
        initializer: vec![tensor::float("a.long.name.of.a.basis", &[2 * rows, 1, columns], &table)],
        input: vec![info("x", 1, &[1, 1, 4 * columns])],
        output: vec![info("y", 1, &[1, 2 * rows, 3 * columns / 16 + 1])],
        ..Default::default()
    })
}

#[test]
fn a_generated_basis_runs_in_the_engine_and_is_not_called_exact() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("model.onnx"), folder.path().join("small.onnx"));
    let model = spectrum(128);
    model.save(&path).unwrap();
    let generated = report(&["compress", text(&path), "-o", text(&out), "--lossless", "--max-abs", "2e-5"]);
    let step = &generated["lossless"][0];
    assert_eq!((step["step"].as_str(), step["exact"].as_bool()), (Some("DFT basis generated"), Some(false)));
    assert!(Model::open(&out).unwrap().bytes() * 20 < model.bytes());
    assert!(generated["verify"]["outputs"][0]["elements"].as_u64().unwrap() > 0, "it was run and compared");
    let kept = report(&["compress", text(&path), "-o", text(&out), "--lossless", "--no-generate-dft"]);
    assert!(!steps(&kept).contains(&"DFT basis generated"));
    assert!(Model::open(&out).unwrap().bytes() * 2 > model.bytes());
}

/// A model of an operator that the engine does not have, with documentation that goes.
fn not_run() -> Model {
    let mut proto = spectrum(128).proto;
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(NodeProto {
        op_type: Some("Odd".to_owned()),
        domain: Some("others".to_owned()),
        doc_string: Some("what an exporter wrote".to_owned()),
        input: vec!["y".to_owned()],
        output: vec!["z".to_owned()],
        ..Default::default()
    });
    graph.output = vec![info("z", 1, &[1])];
    proto.opset_import.push(OperatorSetIdProto { domain: Some("others".to_owned()), version: Some(1) });
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

#[test]
fn exact_steps_are_taken_where_the_engine_cannot_run_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("model.onnx"), folder.path().join("small.onnx"));
    let model = not_run();
    model.save(&path).unwrap();
    let arguments = ["compress", text(&path), "-o", text(&out), "--lossless"];
    // A check insists on runs.
    let mut checked = Command::new(env!("CARGO_BIN_EXE_dirnet"));
    let checked = checked.args(arguments).args(["--max-abs", "0"]).output().unwrap();
    assert!(!checked.status.success() && !out.exists());
    assert!(String::from_utf8_lossy(&checked.stderr).contains("Odd"));
    let exact = report(&arguments);
    assert!(exact["verify"].is_null() && Model::open(&out).unwrap().bytes() < model.bytes());
    let warnings = exact["warnings"].as_array().unwrap();
    let [warning] = &warnings[..] else { panic!("of what was not run nothing else is said: {warnings:?}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.starts_with("nothing was compared: the steps are exact") && warning.contains("Odd"), "{warning}");
    let unasked = report(&[&arguments[..], &["--no-verify"]].concat());
    assert_eq!(unasked["warnings"].as_array().map(Vec::len), Some(0), "{unasked}");
}

#[test]
fn exact_steps_are_taken_where_no_element_can_be_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("model.onnx"), folder.path().join("small.onnx"));
    let mut proto = spectrum(128).proto;
    let graph = proto.graph.as_mut().unwrap();
    let shape: Vec<usize> = graph.initializer[0].dims.iter().map(|&dim| dim as usize).collect();
    let nan = vec![f32::NAN; shape.iter().product()];
    graph.initializer[0] = tensor::float("a.long.name.of.a.basis", &shape, &nan);
    Model::from_proto(proto, &LoadOptions::default()).unwrap().save(&path).unwrap();
    let exact = report(&["compress", text(&path), "-o", text(&out), "--lossless"]);
    assert!(out.exists() && exact["verify"]["outputs"][0]["max_abs"].is_null(), "{exact}");
    let says = |warning: &Value| warning.as_str().is_some_and(|text| text.starts_with("nothing was compared"));
    assert!(exact["warnings"].as_array().unwrap().iter().any(says), "{exact}");
}
