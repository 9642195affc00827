//! The engine against references: onnxruntime's for each recurrent attribute and for real models, ONNX's own for its
//! operator tests; and what callers rely on: taps, overrides, errors instead of panics.

mod operators;
mod probes;
mod references;

use crate::broken;
use crate::corpus::{beside_models, models};
use crate::made::{self, made};
use bytes::Bytes;
use dirnet::engine::{Engine, Outputs, Overrides, Tap, Visit};
use dirnet::error::ErrorKind;
use dirnet::onnx::model::decode_tensor;
use dirnet::onnx::proto::tensor_proto::DataType;
use dirnet::onnx::{LoadOptions, Model};
use dirnet::recurrent::{FindOptions, Matrix, find};
use dirnet::samples::{Carry, Feed, Samples, Signature, Stream, Tensor};
use ndarray::{Array3, ArrayD};
use rayon::prelude::*;
use references::{REFERENCES, STEPS};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn read_samples(model: &Model, path: &Path, carry: &[Carry]) -> Samples {
    Samples::read(&[path.to_owned()], &Signature::of(model).unwrap(), carry).unwrap_or_else(|e| panic!("{e}"))
}

/// A tensor as ONNX's test data stores it.
fn read_tensor(model: &Model, path: &Path) -> Tensor {
    let tensor = decode_tensor(Bytes::from(fs::read(path).unwrap())).unwrap();
    match DataType::try_from(tensor.data_type()).unwrap() {
        DataType::Float => model.floats(&tensor).unwrap().into(),
        DataType::Int32 => model.integers(&tensor).unwrap().mapv(|v| v as i32).into(),
        DataType::Int64 => model.integers(&tensor).unwrap().into(),
        other => panic!("{other:?}"),
    }
}

fn numbered(folder: &Path, stem: &str) -> Vec<PathBuf> {
    (0..).map(|i| folder.join(format!("{stem}_{i}.pb"))).take_while(|path| path.exists()).collect()
}

fn inputs(folder: &Path, model: &Model) -> Feed {
    let names = model.proto.graph.as_ref().unwrap().input.iter().map(|i| i.name().to_owned());
    names.zip(numbered(folder, "input")).map(|(name, path)| (name, read_tensor(model, &path))).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm").join(name)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.to_f32().iter().zip(&b.to_f32()).map(|(a, b)| (a - b).abs()).fold(0., f32::max)
}

fn check_case(path: &Path, data: &Path) {
    let name = path.display();
    let model = load(path);
    let engine = Engine::new(&model).unwrap();
    let outputs = engine.run(&inputs(data, &model), None).unwrap_or_else(|e| panic!("{name}: {e}"));
    let wanted = numbered(data, "output");
    assert!(!wanted.is_empty(), "{name}: no reference output");
    assert_eq!(outputs.len(), wanted.len(), "{name}: outputs");
    for ((output, tensor), wanted) in outputs.iter().zip(&wanted) {
        let difference = largest_difference(tensor, &read_tensor(&model, wanted));
        assert!(difference <= 1e-5, "{name}: output '{output}' is off by {difference}");
    }
}

/// Of [`crate::attributes`], which has more of them.
#[test]
fn the_operator_cases_beside_real_models_pass() {
    let Some(cases) = beside_models("rnn_cases") else { return };
    let mut count = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        check_case(&case.join("model.onnx"), &case);
        count += 1;
    }
    assert!(count >= 12, "{count} cases");
}

#[test]
fn the_operator_tests_of_onnx_beside_real_models_pass() {
    let Some(models) = models() else { return };
    for case in fs::read_dir(models.join("onnx_node_tests")).unwrap() {
        let case = case.unwrap().path();
        if case.is_dir() {
            check_case(&case.join("model.onnx"), &case.join("test_data_set_0"));
        }
    }
}

/// Root mean square, first, middle and last element.
fn figures(all: &[f64]) -> [f64; 4] {
    let square = all.iter().map(|v| v * v).sum::<f64>() / all.len() as f64;
    [square.sqrt(), all[0], all[all.len() / 2], all[all.len() - 1]]
}

#[test]
fn real_models_agree_with_onnxruntime() {
    let Some(models) = models() else { return };
    REFERENCES.par_iter().for_each(|reference| {
        let model = load(&models.join(reference.model));
        let carry: Vec<Carry> = reference.carry.iter().map(|c| Carry::parse(c).unwrap()).collect();
        let samples = read_samples(&model, &models.join(reference.samples), &carry);
        // What onnxruntime ran as one batch are several samples here.
        let runs = if samples.notes.is_empty() { 1 } else { samples.streams.len() };
        let engine = Engine::new(&model).unwrap();
        let mut joined: Vec<(String, Vec<f64>)> = Vec::new();
        for mut stream in samples.streams.into_iter().take(runs) {
            stream.feeds.truncate(if carry.is_empty() { 1 } else { STEPS });
            let mut steps = engine
                .run_stream(&stream, &carry, &Overrides::default(), None)
                .unwrap_or_else(|e| panic!("{}: {e}", reference.model));
            for (i, (name, tensor)) in steps.pop().unwrap().into_iter().enumerate() {
                if joined.len() == i {
                    joined.push((name, Vec::new()));
                }
                joined[i].1.extend(tensor.to_f64());
            }
        }
        assert_eq!(joined.len(), reference.outputs.len());
        for ((name, values), (wanted, figures_wanted)) in joined.iter().zip(reference.outputs) {
            assert_eq!(name, wanted);
            for (found, wanted) in figures(values).into_iter().zip(figures_wanted) {
                let off = (found - wanted).abs();
                assert!(off <= 2e-4 * figures_wanted[0], "{}: output '{name}': {found}, not {wanted}", reference.model);
            }
        }
    });
}

/// Also a Scan, an If within an If, quantised weights, states that are fed back: see `fixtures/graphs.py`.
#[test]
fn made_models_agree_with_onnxruntime() {
    for made in made::ALL {
        let (model, carry) = (made.model(), made.carry());
        let mut stream = made.samples().streams.swap_remove(0);
        if carry.is_empty() {
            stream.feeds.truncate(1);
        }
        let engine = Engine::new(&model).unwrap_or_else(|e| panic!("{}: {e}", made.name));
        let steps = engine.run_stream(&stream, &carry, &Overrides::default(), None);
        let outputs = steps.unwrap_or_else(|e| panic!("{}: {e}", made.name)).pop().unwrap();
        assert_eq!(outputs.len(), model.proto.graph.as_ref().unwrap().output.len(), "{}", made.name);
        for (name, tensor) in &outputs {
            let wanted = made.output(name);
            assert_eq!(tensor.shape(), wanted.shape(), "{}: '{name}'", made.name);
            let off = (tensor.to_f64() - wanted).iter().fold(0.0f64, |most, v| most.max(v.abs()));
            assert!(off <= 1e-5, "{}: output '{name}' is off by {off}", made.name);
        }
    }
}

#[test]
fn a_loop_gives_what_its_body_gives_step_by_step() {
    let single = made("step");
    let stream = single.samples().streams.swap_remove(0);
    let engine = Engine::new(&single.model()).unwrap();
    let steps = engine.run_stream(&stream, &single.carry(), &Overrides::default(), None).unwrap();
    let looped = made("loop");
    let (samples, engine) = (looped.samples(), Engine::new(&looped.model()).unwrap());
    let outputs = engine.run(samples.feeds().next().unwrap(), None).unwrap();
    let wanted: Vec<f32> = steps.iter().flat_map(|outputs| outputs[0].1.to_f32()).collect();
    assert_eq!(wanted.len(), 10 * 6);
    assert_eq!(outputs[0].1.to_f32().into_iter().collect::<Vec<f32>>(), wanted);
}

#[test]
fn a_loop_of_real_models_gives_what_its_body_gives_step_by_step() {
    let Some(models) = models() else { return };
    let single = load(&models.join("dtln_pytorch/model_p1.onnx"));
    let carry: Vec<Carry> = REFERENCES
        .iter()
        .find(|r| r.model == "dtln_pytorch/model_p1.onnx")
        .unwrap()
        .carry
        .iter()
        .map(|c| Carry::parse(c).unwrap())
        .collect();
    let mut stream =
        read_samples(&single, &models.join("dtln_pytorch/model_p1.calibration.npz"), &carry).streams.swap_remove(0);
    stream.feeds.truncate(5);
    let steps = Engine::new(&single).unwrap().run_stream(&stream, &carry, &Overrides::default(), None).unwrap();
    let all: Vec<f32> = stream.feeds.iter().flat_map(|feed| feed["mag"].to_f32()).collect();
    let all = ArrayD::from_shape_vec(vec![5, 1, 1, 257], all).unwrap();
    let looped = load(&models.join("derived/dtln_p1_loop/model.onnx"));
    let outputs = Engine::new(&looped).unwrap().run(&[("mags".to_owned(), all.into())].into(), None).unwrap();
    let wanted: Vec<f32> = steps.iter().flat_map(|outputs| outputs[0].1.to_f32()).collect();
    let found: Vec<f32> = outputs[0].1.to_f32().into_iter().collect();
    assert_eq!(found, wanted);
}

/// Notes which nodes ran, over how many rows, and what they gave.
#[derive(Default)]
struct Notes(Mutex<Vec<(usize, usize, usize)>>);

impl Tap for Notes {
    fn visit(&self, visit: &Visit) {
        let rows = visit.inputs().len() / visit.inputs;
        let states = visit.states_before(&visit.passes[0]).len() / visit.hidden;
        self.0.lock().unwrap().push((visit.node, rows, states));
    }
}

#[test]
fn a_tap_sees_nodes_inside_branches() {
    let branches = made("branches");
    check_tap(&branches.model(), &branches.samples_path());
}

#[test]
fn a_tap_sees_nodes_inside_branches_of_real_models() {
    let Some(models) = models() else { return };
    let folder = models.join("silero_vad_v5");
    check_tap(&load(&folder.join("silero_vad.onnx")), &folder.join("silero_vad.calibration.npz"));
}

/// Of a model whose state comes back, which runs one of several nodes at each step.
fn check_tap(model: &Model, samples: &Path) {
    let survey = find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let carry = [Carry::parse("state=stateN").unwrap()];
    let samples = read_samples(model, samples, &carry);
    let stream = Stream { feeds: samples.streams[0].feeds[..3].to_vec(), ..Stream::default() };
    let engine = Engine::new(model).unwrap();
    let notes = Notes::default();
    engine.run_stream(&stream, &carry, &Overrides::default(), Some(&notes)).unwrap();
    let notes = notes.0.into_inner().unwrap();
    assert_eq!(notes.len(), 3, "one LSTM runs at each step");
    let numbers: Vec<usize> = survey.nodes.iter().map(|n| engine.number(&n.scope, n.index).unwrap()).collect();
    assert!(notes.iter().all(|(node, rows, states)| numbers.contains(node) && (*rows, *states) == (1, 1)));
}

fn bits(outputs: &Outputs) -> Vec<u32> {
    outputs.iter().flat_map(|(_, tensor)| tensor.to_f32().into_iter().map(f32::to_bits)).collect()
}

#[test]
fn weights_can_be_put_in_place_of_the_models() {
    let model = load(&fixture("gru256.onnx"));
    let survey = find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let samples = read_samples(&model, &fixture("calibration.npz"), &[]);
    let feed = samples.feeds().next().unwrap();
    let engine = Engine::new(&model).unwrap();
    let plain = bits(&engine.run(feed, None).unwrap());
    let node = &survey.nodes[0];
    let number = engine.number(&node.scope, node.index).unwrap();
    let with = |r: Array3<f32>| {
        let weights = [((number, Matrix::R), Arc::new(r))].into();
        engine.run_with(feed, &Overrides { weights, ..Overrides::default() }, None)
    };
    let r = node.r.values(&model).unwrap();
    assert_eq!(bits(&with(r.clone()).unwrap()), plain, "its own weights change nothing");
    assert_ne!(bits(&with(r * 0.5).unwrap()), plain);
    assert_eq!(bits(&engine.run(feed, None).unwrap()), plain, "nothing stays behind");
    assert_eq!(with(Array3::zeros((1, 2, 3))).unwrap_err().kind(), ErrorKind::Engine);
    let biases = [(number, Arc::new(vec![0.0; 7]))].into();
    let short = engine.run_with(feed, &Overrides { biases, ..Overrides::default() }, None);
    assert_eq!(short.unwrap_err().kind(), ErrorKind::Engine);
}

#[test]
fn feeds_in_parallel_give_the_same_bits() {
    let model = load(&fixture("gru256.onnx"));
    let samples = read_samples(&model, &fixture("calibration.npz"), &[]);
    let feeds: Vec<&Feed> = samples.feeds().take(4).collect();
    let engine = Engine::new(&model).unwrap();
    let one: Vec<_> = feeds.iter().map(|feed| bits(&engine.run(feed, None).unwrap())).collect();
    let many: Vec<_> = feeds.par_iter().map(|feed| bits(&engine.run(feed, None).unwrap())).collect();
    assert_eq!(one, many);
}

#[test]
fn constants_that_explode_are_an_error_and_take_no_memory() {
    let model = load(&broken::folder().join("bomb_constantofshape_32GB/model.onnx"));
    assert_eq!(Engine::new(&model).err().unwrap().kind(), ErrorKind::Limit);
}

#[test]
fn what_tract_panics_on_is_an_error() {
    let engine = Engine::new(&load(&fixture("gru256.onnx"))).unwrap();
    let run = |name: &str, value: Tensor| engine.run(&[(name.to_owned(), value)].into(), None).unwrap_err();
    let tokens = |token: i64| ArrayD::from_elem(vec![2, 2], token);
    let error = run("tokens", tokens(1_000_000).into());
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(!error.to_string().contains('\n'));
    assert_eq!(run("token", tokens(1).into()).kind(), ErrorKind::Samples);
    assert_eq!(run("tokens", ArrayD::<i64>::zeros(vec![2]).into()).kind(), ErrorKind::Engine);
    assert_eq!(engine.run(&Feed::new(), None).unwrap_err().kind(), ErrorKind::Samples);
}
