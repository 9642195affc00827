//! Tuning brings a coded model nearer to the original, and gives the same bytes for any number of threads.

use std::path::Path;
use std::sync::Arc;

use dirnet::coding::{self, CodedUnit, CodedUnits, Weights, Writing};
use dirnet::compress::Job;
use dirnet::dictionary::BlockSpec;
use dirnet::engine::Engine;
use dirnet::loss::{Judge, LossSpec};
use dirnet::onnx::{LoadOptions, Model, Values};
use dirnet::plan::{Choice, Plan, Sharing};
use dirnet::progress::Silent;
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Samples, Signature};
use dirnet::tune::{self, Options, Outcome, Subject, Target, TuneReport};

struct Fixture {
    model: Model,
    samples: Samples,
}

fn charlm(name: &str) -> Fixture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm");
    let model = Model::load(&folder.join(name), &LoadOptions::default()).expect("the fixture is a model");
    let signature = Signature::of(&model).expect("it has inputs");
    let samples = Samples::read(&[folder.join("calibration.npz")], &signature, &[]).expect("they fit the model");
    Fixture { samples: samples.subset(3), model }
}

/// The model coded at 2 bits a weight, one codebook for all units that `sharing` reaches.
fn coded(fixture: &Fixture, engine: &Engine, sharing: Sharing) -> (Weights, CodedUnits) {
    let weights = || Weights::read(&fixture.model, &FindOptions::default()).expect("it has recurrent nodes");
    let mut job = Job::new(&fixture.model, weights(), Some((engine, &fixture.samples)), 0, &Silent).expect("it runs");
    let spec = BlockSpec::new(4, 256).expect("there is such a spec");
    let choices = vec![Choice::Block { spec, sharing }; job.weights.units.len()];
    let plan = Plan { choices, sensitivity: job.equal() };
    (weights(), job.code(plan, &Silent).expect("it can be coded").units)
}

fn tuned(
    fixture: &Fixture,
    engine: &Engine,
    weights: &Weights,
    units: &CodedUnits,
    judge: Option<&Judge>,
) -> (CodedUnits, TuneReport) {
    let mut units = units.clone();
    let options = Options { steps: Some(24), ..Options::default() };
    let reference = judge.map(|judge| judge.reference(engine, &fixture.samples).expect("it runs"));
    let reference = reference.as_ref();
    let subject = Subject { model: &fixture.model, engine, weights };
    let report = tune::tune(&subject, &mut units, &fixture.samples, reference, &options, &Silent).expect("it runs");
    (units, report)
}

fn blocks(units: &CodedUnits) -> impl Iterator<Item = &dirnet::dictionary::Coded> {
    units.iter().flatten().filter_map(CodedUnit::block)
}

fn stored(units: &CodedUnits) -> Vec<(Vec<i8>, Vec<u8>, Vec<u32>)> {
    let one = |unit: &dirnet::dictionary::Coded| {
        (unit.codebook.atoms.clone(), unit.codes.clone(), unit.scales.iter().map(|s| s.to_bits()).collect())
    };
    blocks(units).map(one).collect()
}

#[test]
fn layers_come_nearer_to_their_own_states() {
    let fixture = charlm("gru256.onnx");
    let engine = Engine::new(&fixture.model).expect("it runs");
    let (weights, units) = coded(&fixture, &engine, Sharing::Unit);
    let (after, report) = tuned(&fixture, &engine, &weights, &units, None);
    assert!(!report.layers.is_empty());
    for layer in &report.layers {
        assert_eq!(layer.target, Target::States);
        assert!(matches!(layer.outcome, Outcome::Kept { before, after, .. } if after < before), "{layer:?}");
    }
    for (before, after) in blocks(&units).zip(blocks(&after)) {
        assert_eq!((&before.codes, before.codebook.spec), (&after.codes, after.codebook.spec));
        let codes = after.scale_codes.as_ref().expect("scales are bytes");
        assert!(after.scales.iter().zip(&codes.codes).all(|(s, &c)| *s == f32::from(c) * codes.step));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("there can be a thread");
    let (alone, other) = pool.install(|| tuned(&fixture, &engine, &weights, &units, None));
    assert_eq!(stored(&after), stored(&alone));
    assert_eq!(report.biases, other.biases);
}

#[test]
fn biases_are_tuned_where_they_are_stored_for_the_layer_alone() {
    let fixture = charlm("lstm256.onnx");
    let engine = Engine::new(&fixture.model).expect("it runs");
    let (weights, units) = coded(&fixture, &engine, Sharing::Unit);
    let (after, report) = tuned(&fixture, &engine, &weights, &units, None);
    assert_eq!(report.biases.keys().copied().collect::<Vec<_>>(), [0, 1]);

    // The model that is written computes what the tuner judged by, and is as large as with the biases that it had.
    let biased = coding::with_biases(&fixture.model, &weights.survey, &report.biases).expect("it is a model");
    assert_eq!(biased.saved_bytes().expect("it has a size"), fixture.model.saved_bytes().expect("it has a size"));
    let writing = Writing { note: "test".to_owned(), ..Writing::default() };
    let written = coding::apply(&biased, &weights, &after, &writing).expect("it is a model");
    let mut overrides = weights.overrides(&engine, |unit| after[unit].as_ref());
    let feed = fixture.samples.feeds().next().expect("there are samples");
    let without = engine.run_with(feed, &overrides, None).expect("it runs");
    overrides.biases = report.biases.clone();
    let with = engine.run_with(feed, &overrides, None).expect("it runs");
    assert_ne!(without, with);
    assert_eq!(Engine::new(&written).expect("it runs").run(feed, None).expect("it runs"), with);

    // Two layers that read the same B own it together, neither alone.
    let mut proto = fixture.model.proto.clone();
    let graph = proto.graph.as_mut().expect("a model has a graph");
    let [first, second] = [0, 1].map(|node| weights.survey.nodes[node].index);
    graph.node[second].input[3] = graph.node[first].input[3].clone();
    let model = Model::from_proto(proto, &LoadOptions::default()).expect("it is a model");
    let values = Values::new(&model.proto).expect("its values are defined");
    let survey = Weights::find(&model, &FindOptions::default()).expect("it has recurrent nodes");
    assert_eq!(survey.own_bias(&model, &values, 0, &[0]), None);
    assert_eq!(survey.own_bias(&model, &values, 1, &[1]), None);
    assert!(survey.own_bias(&model, &values, 0, &[0, 1]).is_some());
}

#[test]
fn layers_that_read_one_another_are_tuned_against_the_output() {
    let fixture = charlm("lstm256.onnx");
    let engine = Engine::new(&fixture.model).expect("it runs");
    let judge = Judge::new(&fixture.model, &LossSpec::parse(&["kl"]).expect("a loss"), &[]).expect("it has an output");
    let (weights, units) = coded(&fixture, &engine, Sharing::Model);
    let (after, report) = tuned(&fixture, &engine, &weights, &units, Some(&judge));
    let [layer] = &report.layers[..] else { panic!("{report:?}") };
    assert_eq!(layer.nodes.len(), 2);
    assert_eq!(layer.target, Target::Output("logits".into()));
    assert!(
        matches!(layer.outcome, Outcome::Kept { before, after, scales_only: false, .. } if after < before),
        "{layer:?}"
    );
    let first = blocks(&after).next().expect("all units are coded");
    assert!(blocks(&after).all(|unit| Arc::ptr_eq(&unit.codebook, &first.codebook)));

    // Tuned alone, neither layer may touch the codebook that both use.
    let (alone, report) = tuned(&fixture, &engine, &weights, &units, None);
    for layer in &report.layers {
        assert!(
            matches!(layer.outcome, Outcome::Kept { scales_only: true, .. } | Outcome::Dropped { .. }),
            "{layer:?}"
        );
    }
    let before = blocks(&units).next().expect("all units are coded");
    assert!(blocks(&alone).all(|unit| Arc::ptr_eq(&unit.codebook, &before.codebook)));
}
