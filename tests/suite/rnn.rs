//! The RNN operator: run as onnxruntime runs it, found, coded, tuned and expanded.

use std::fs::File;
use std::path::{Path, PathBuf};

use dirnet::calibrate;
use dirnet::code;
use dirnet::compress::Study;
use dirnet::dictionary::BlockSpec;
use dirnet::encode::{self, Writing};
use dirnet::encode::{Form, Request};
use dirnet::engine::Engine;
use dirnet::error::ErrorKind;
use dirnet::expand;
use dirnet::loss::{Judge, LossSpec};
use dirnet::onnx::proto::AttributeProto;
use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::{LoadOptions, Model};
use dirnet::plan::{Choice, Plan, Sharing, Storage};
use dirnet::progress::Silent;
use dirnet::recurrent::{Cell, Direction, FindOptions, find};
use dirnet::samples::{Feed, Random, RandomOptions, Samples, Tensor};
use dirnet::sites::{Sites, Weights};
use dirnet::tune::{self, LayerOutcome, TuneOptions, TuneSubject};
use ndarray::ArrayD;
use ndarray_npy::NpzReader;

use crate::forms::{self, Case};
use crate::quick;

const RNN: Case = Case { op: "RNN", outputs: &["Y", "Yh"], ..forms::LSTM };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rnn")
}

fn load(name: &str) -> Model {
    Model::load(&folder().join(format!("{name}.onnx")), &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Inputs and outputs of a case, as another runtime gives them.
struct Values(NpzReader<File>);

impl Values {
    fn of(name: &str) -> Values {
        Values(NpzReader::new(File::open(folder().join(format!("{name}.npz"))).unwrap()).unwrap())
    }

    fn floats(&mut self, name: &str) -> ArrayD<f32> {
        self.0.by_name(name).unwrap()
    }

    fn input(&mut self, name: &str) -> Tensor {
        match name {
            "sequence_lens" => self.0.by_name::<ndarray::OwnedRepr<i32>, ndarray::IxDyn>(name).unwrap().into(),
            _ => self.floats(name).into(),
        }
    }
}

#[test]
fn every_attribute_is_obeyed() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let (model, mut values) = (load(&name), Values::of(&name));
        let inputs = model.proto.graph.as_ref().unwrap().input.iter().map(|input| input.name().to_owned());
        let feed: Feed = inputs.map(|input| (input.clone(), values.input(&input))).collect();
        let outputs = Engine::new(&model).unwrap().run(&feed, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outputs.len(), 2);
        for (output, found) in outputs {
            let wanted = values.floats(&output);
            assert_eq!(found.shape(), wanted.shape(), "{name} {output}");
            for (found, wanted) in found.to_f32().iter().zip(&wanted) {
                assert!((found - wanted).abs() < 2e-6, "{name} {output}: {found} is not {wanted}");
            }
        }
    }
}

#[test]
fn an_rnn_is_found_with_what_it_reads() {
    let node = |name: &str| {
        let mut found = find(&load(name), &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        assert!(found.skipped.is_empty());
        found.nodes.remove(0)
    };
    let both = node("bidirectional");
    assert_eq!((both.cell, both.attributes.direction), (Cell::Rnn, Direction::Bidirectional));
    assert_eq!(both.reads.names(), ["B", "initial_h"]);
    let units: Vec<String> = both.blocks().iter().map(ToString::to_string).collect();
    assert_eq!(units, ["rnn/W/forward/i", "rnn/W/reverse/i", "rnn/R/forward/i", "rnn/R/reverse/i"]);
    assert!(!node("reverse_without_bias").reads.bias);
    assert_eq!(node("clip").attributes.unusual(Cell::Rnn), ["clip = 0.4"]);
    assert_eq!(node("affine_elu").attributes.unusual(Cell::Rnn), ["activations = Affine Elu"]);
    assert!(node("two_names").attributes.has_default_activations(Cell::Rnn));
}

fn samples(model: &Model, count: usize) -> Samples {
    let dims = [("T".to_owned(), 7), ("B".to_owned(), 3)];
    Random::new(model, &RandomOptions { dims: &dims, carry: &[], seed: 3, count }).unwrap().samples
}

fn plan(weights: &Weights) -> Plan {
    let spec = BlockSpec::new(2).unwrap();
    Plan::alike(Choice::Block { spec, sharing: Sharing::Model }, &weights.sites().map(|_| 1.0))
}

fn read(model: &Model) -> Weights {
    Weights::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap()
}

#[test]
fn a_coded_rnn_computes_what_its_codes_stand_for_and_expands() {
    for case in [
        RNN,
        Case { direction: "reverse", opset: 7, ..RNN },
        Case { direction: "bidirectional", states: true, lengths: true, opset: 9, ..RNN },
        Case { direction: "bidirectional", clip: true, bias: false, opset: 21, outputs: &["", "Yh"], ..RNN },
    ] {
        let model = forms::model(&case);
        let weights = read(&model);
        let plan = plan(&weights);
        let coded = quick::learn(&weights, &plan, 127);
        let writing = Writing::default();
        let compressed = encode::apply(&model, &weights, &coded, &writing).unwrap();
        assert_eq!(compressed.saved_bytes().unwrap(), encode::size(&model, &weights, &plan, &writing).unwrap());
        let samples = samples(&model, 1);
        let feed = samples.feeds().next().unwrap();
        let engine = Engine::new(&model).unwrap();
        let overrides = code::overrides(&weights, &engine, code::stored(&coded));
        let wanted = engine.run_with(feed, &overrides, None).unwrap();
        assert_ne!(engine.run(feed, None).unwrap(), wanted);
        assert_eq!(Engine::new(&compressed).unwrap().run(feed, None).unwrap(), wanted);
        let expanded = expand::expand(&compressed).unwrap();
        assert_eq!(Engine::new(&expanded).unwrap().run(feed, None).unwrap(), wanted);
        assert_eq!(expand::expand(&expanded).unwrap_err().kind(), ErrorKind::NothingToDo);
    }
}

#[test]
fn an_rnn_stays_portable_whatever_form_is_asked_for() {
    let model = forms::model(&RNN);
    let weights = read(&model);
    for form in [Form::Fast, Form::Ort] {
        let assigned = &quick::forms(&weights, &model, Request { form, from: None }, |_| Storage::Block)[0];
        assert_eq!(assigned.form, Form::Portable);
        assert_eq!(assigned.reason.as_deref(), Some("RNN nodes have the portable form only"));
    }
}

/// With activations, their parameters where they have any, and nothing else.
fn with_activations(case: &Case, names: &[&'static str], alphas: &[f32], betas: &[f32]) -> Model {
    let mut proto = forms::model(case).proto;
    let strings = names.iter().map(|name| (*name).as_bytes().to_vec().into()).collect();
    let floats = |name, values: &[f32]| AttributeProto {
        floats: values.to_vec(),
        ..forms::attribute(name, AttributeType::Floats)
    };
    proto.graph.as_mut().unwrap().node[0].attribute.extend([
        AttributeProto { strings, ..forms::attribute("activations", AttributeType::Strings) },
        floats("activation_alpha", alphas),
        floats("activation_beta", betas),
    ]);
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

#[test]
fn an_rnn_is_tuned_against_its_states_and_against_outputs() {
    let tanh = forms::model(&Case { direction: "bidirectional", ..RNN });
    let leaky = with_activations(&RNN, &["LeakyRelu"], &[0.1], &[]);
    for (model, judged) in [(&tanh, false), (&leaky, false), (&leaky, true)] {
        let samples = samples(model, 40);
        let engine = Engine::new(model).unwrap();
        let job = || Study::new(model, read(model), Some((&engine, &samples)), 0, &Silent).unwrap();
        let weights = read(model);
        let mut coded = job().code(&[plan(&weights)], None, &Silent).unwrap().sites;
        let judge = Judge::new(model, &LossSpec::default(), &[]).unwrap();
        let reference = judged.then(|| judge.reference(&engine, &samples).unwrap());
        let subject = TuneSubject { model, engine: &engine, weights: &weights };
        let options = TuneOptions { steps: Some(60), ..TuneOptions::default() };
        let report = tune::tune(&subject, &mut coded, &samples, reference.as_ref(), &options, &Silent).unwrap();
        let [layer] = &report.layers[..] else { panic!("{report:?}") };
        assert!(matches!(layer.outcome, LayerOutcome::Kept { before, after, .. } if after < before), "{layer:?}");
        assert_eq!(report.biases.len(), 1);
    }
}

#[test]
fn an_activation_that_turns_is_not_tuned_through() {
    let model = with_activations(&RNN, &["LeakyRelu"], &[-0.1], &[]);
    let samples = samples(&model, 10);
    let engine = Engine::new(&model).unwrap();
    let weights = read(&model);
    let mut coded = quick::learn(&weights, &plan(&weights), 127);
    let subject = TuneSubject { model: &model, engine: &engine, weights: &weights };
    let report = tune::tune(&subject, &mut coded, &samples, None, &TuneOptions::default(), &Silent).unwrap();
    let LayerOutcome::Skipped(reason) = &report.layers[0].outcome else { panic!("{report:?}") };
    assert!(reason.contains("activation LeakyRelu is not supported"), "{reason}");
}

/// The derivative of `0.5 x + 0.25` is 0.5 in every unit of every step, whatever the state.
#[test]
fn slopes_are_those_of_the_activations_that_the_node_has() {
    let model = with_activations(&RNN, &["Affine"], &[0.5], &[0.25]);
    let samples = samples(&model, 5);
    let engine = Engine::new(&model).unwrap();
    let sites = Sites::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let moments = calibrate::measure(&engine, &sites, &samples, &Silent).unwrap();
    let outputs = samples.feeds().map(|feed| engine.run(feed, None).unwrap().swap_remove(0).1.to_f64());
    let (mut elements, mut energy) = (0, 0.0);
    outputs.for_each(|y| {
        elements += y.len();
        energy += y.iter().map(|y| y * y).sum::<f64>();
    });
    let found = moments.slopes(0, 0).unwrap().relative(0);
    let wanted = 0.25 * elements as f64 / energy;
    assert!((found / wanted - 1.0).abs() < 1e-6, "{found} is not {wanted}");
}
