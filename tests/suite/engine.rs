//! The engine against reference outputs: onnxruntime's for each recurrent attribute, ONNX's own for its operator tests.

use bytes::Bytes;
use dirnet::engine::Engine;
use dirnet::error::ErrorKind;
use dirnet::onnx::model::decode_tensor;
use dirnet::onnx::proto::tensor_proto::DataType;
use dirnet::onnx::{LoadOptions, Model};
use dirnet::samples::{Feed, Tensor};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder beside the models that tests use; `None`, with a notice, where it is absent.
fn shared(folder: &str) -> Option<PathBuf> {
    let models = std::env::var_os("DIRNET_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models"), PathBuf::from);
    let path = if folder == "models" { models } else { models.join("..").join(folder) };
    if !path.is_dir() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// A tensor as ONNX's test data stores it, with its name.
fn read_tensor(path: &Path) -> (String, Tensor) {
    let tensor = decode_tensor(Bytes::from(fs::read(path).unwrap())).unwrap();
    let holder = Model::load(&shared("bad").unwrap().join("ok/model.onnx"), &LoadOptions::default()).unwrap();
    let value = match DataType::try_from(tensor.data_type()).unwrap() {
        DataType::Float => holder.floats(&tensor).unwrap().into(),
        DataType::Int32 => holder.integers(&tensor).unwrap().mapv(|v| v as i32).into(),
        DataType::Int64 => holder.integers(&tensor).unwrap().into(),
        other => panic!("{other:?}"),
    };
    (tensor.name().to_owned(), value)
}

fn inputs(folder: &Path, model: &Model) -> Feed {
    let names = model.proto.graph.as_ref().unwrap().input.iter().map(|i| i.name().to_owned());
    let files = (0..).map(|i| folder.join(format!("input_{i}.pb"))).take_while(|path| path.exists());
    files.zip(names).map(|(path, name)| (name, read_tensor(&path).1)).collect()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.to_f32().iter().zip(&b.to_f32()).map(|(a, b)| (a - b).abs()).fold(0., f32::max)
}

fn check_case(model: &Path, data: &Path) {
    let name = model.display();
    let model = Model::load(model, &LoadOptions::default()).unwrap();
    let engine = Engine::new(&model).unwrap();
    let outputs = engine.run(&inputs(data, &model), None).unwrap_or_else(|e| panic!("{name}: {e}"));
    let wanted: Vec<PathBuf> =
        (0..).map(|i| data.join(format!("output_{i}.pb"))).take_while(|path| path.exists()).collect();
    assert!(!wanted.is_empty(), "{name}: no reference output");
    for ((output, tensor), wanted) in outputs.iter().zip(&wanted) {
        let difference = largest_difference(tensor, &read_tensor(wanted).1);
        assert!(difference <= 1e-5, "{name}: output '{output}' is off by {difference}");
    }
}

#[test]
fn every_recurrent_attribute_is_obeyed() {
    let Some(cases) = shared("rnn_cases") else { return };
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        check_case(&case.join("model.onnx"), &case);
    }
}

#[test]
fn the_operator_tests_of_onnx_pass() {
    let Some(models) = shared("models") else { return };
    for case in fs::read_dir(models.join("onnx_node_tests")).unwrap() {
        let case = case.unwrap().path();
        if case.is_dir() && !case.ends_with("test_simple_rnn_defaults") {
            check_case(&case.join("model.onnx"), &case.join("test_data_set_0"));
        }
    }
}

#[test]
fn constants_that_explode_are_an_error_and_take_no_memory() {
    let Some(bad) = shared("bad") else { return };
    let path = bad.join("bomb_constantofshape_32GB");
    let model = Model::load(&path.join("model.onnx"), &LoadOptions::default()).unwrap();
    assert_eq!(Engine::new(&model).err().unwrap().kind(), ErrorKind::Limit);
}
