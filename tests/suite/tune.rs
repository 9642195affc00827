//! Tuning brings a coded model nearer to the original, and gives the same bytes for any number of threads.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use dirnet::code::{self, CodedSite, CodedSites};
use dirnet::compress::Rates;
use dirnet::compress::Study;
use dirnet::dictionary::BlockSpec;
use dirnet::encode::{self, NewBias, Writing};
use dirnet::encode::{Form, Request};
use dirnet::engine::Engine;
use dirnet::error::ErrorKind;
use dirnet::loss::{Judge, LossSpec};
use dirnet::onnx::proto::GraphProto;
use dirnet::onnx::{ElementType, LoadOptions, Model};
use dirnet::plan;
use dirnet::plan::{Choice, Plan, Sharing};
use dirnet::progress::Silent;
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Samples, Signature};
use dirnet::sites::{PerSite, Weights};
use dirnet::tune::{self, Effort, LayerOutcome, TuneOptions, TuneReport, TuneSubject, TuneTarget};

use crate::forms::{self, Case};

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
fn coded(fixture: &Fixture, engine: &Engine, sharing: Sharing) -> (Weights, CodedSites) {
    let weights = || {
        Weights::find(&fixture.model, &FindOptions { recurrent_only: true, ..FindOptions::default() })
            .expect("it has recurrent nodes")
    };
    let mut job = Study::new(&fixture.model, weights(), Some((engine, &fixture.samples)), 0, &Silent).expect("it runs");
    let spec = BlockSpec::new(4).expect("there is such a spec");
    let choices = job.weights.sites().map(|_| Choice::Block { spec, sharing });
    let plan = Plan { choices, sensitivity: job.equal() };
    (weights(), job.code(&[plan], None, &Silent).expect("it can be coded").sites)
}

fn tuned(
    fixture: &Fixture,
    engine: &Engine,
    weights: &Weights,
    units: &CodedSites,
    judge: Option<&Judge>,
) -> (CodedSites, TuneReport) {
    let mut units = units.clone();
    let options = TuneOptions { steps: Some(24), ..TuneOptions::default() };
    let reference = judge.map(|judge| judge.reference(engine, &fixture.samples).expect("it runs"));
    let reference = reference.as_ref();
    let subject = TuneSubject { model: &fixture.model, engine, weights };
    let report = tune::tune(&subject, &mut units, &fixture.samples, reference, &options, &Silent).expect("it runs");
    (units, report)
}

fn blocks(units: &CodedSites) -> impl Iterator<Item = &dirnet::dictionary::BlockCode> {
    units.values().flatten().filter_map(CodedSite::block)
}

fn stored(units: &CodedSites) -> Vec<(Vec<i8>, Vec<u8>, Vec<u8>)> {
    let one = |unit: &dirnet::dictionary::BlockCode| {
        (unit.codebook.atoms.clone(), unit.codes.clone(), unit.scales.codes.clone())
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
        assert_eq!(layer.target, TuneTarget::States);
        assert!(matches!(layer.outcome, LayerOutcome::Kept { before, after, .. } if after < before), "{layer:?}");
    }
    for (before, after) in blocks(&units).zip(blocks(&after)) {
        assert_eq!((&before.codes, before.codebook.spec), (&after.codes, after.codebook.spec));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("there can be a thread");
    let (alone, other) = pool.install(|| tuned(&fixture, &engine, &weights, &units, None));
    assert_eq!(stored(&after), stored(&alone));
    assert_eq!(report.biases, other.biases);
}

/// A bidirectional layer, tuned with all that there is until codes change.
#[test]
fn all_that_is_tuned_is_written_in_every_form() {
    let model = forms::model(&Case { direction: "bidirectional", ..forms::LSTM });
    let fixture = Fixture { samples: forms::samples(&model, [7, 3], 40), model };
    let engine = Engine::new(&fixture.model).expect("it runs");
    let (weights, units) = coded(&fixture, &engine, Sharing::Matrix);
    let feed = fixture.samples.feeds().next().expect("there are samples");
    let write = |model: &Model, units: &CodedSites, form: Form| {
        let request = Request { form, from: Some(1) };
        encode::apply(model, &weights, units, &Writing { request, note: "test".to_owned(), ..Writing::default() })
            .expect("it is a model")
    };
    let untuned = write(&fixture.model, &units, Form::Fast);

    let mut after = units.clone();
    let options = TuneOptions { effort: Effort::Full, steps: Some(120), seed: 0 };
    let tune = |after: &mut CodedSites| {
        let subject = TuneSubject { model: &fixture.model, engine: &engine, weights: &weights };
        tune::tune(&subject, after, &fixture.samples, None, &options, &Silent).expect("it runs")
    };
    let report = tune(&mut after);
    assert!(matches!(report.layers[0].outcome, LayerOutcome::Kept { .. }), "{report:?}");
    let codes = |units: &CodedSites| blocks(units).flat_map(|unit| unit.codes.clone()).collect::<Vec<u8>>();
    let changed = codes(&units).iter().zip(&codes(&after)).filter(|(a, b)| a != b).count();
    assert!((1..codes(&units).len() / 4).contains(&changed), "{changed}");
    let [bias] = &report.biases[..] else { panic!("{report:?}") };
    assert_eq!((&bias.of.nodes[..], bias.values.len()), (&[0][..], 2 * 8 * 24));

    let mut alone = units.clone();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("there can be a thread");
    let report_alone = pool.install(|| tune(&mut alone));
    assert_eq!((stored(&after), &report.biases), (stored(&alone), &report_alone.biases));

    // What is written computes what the tuner judged by, and is as large as what was not tuned.
    let biased = encode::with_biases(&fixture.model, &report.biases).expect("the biases are of its size");
    let [portable, fast] = [Form::Portable, Form::Fast].map(|form| write(&biased, &after, form));
    let mut overrides = code::overrides(&weights, &engine, code::stored(&after));
    overrides.biases = [(0, bias.values.clone())].into();
    let judged = engine.run_with(feed, &overrides, None).expect("it runs");
    assert_eq!(Engine::new(&portable).expect("it runs").run(feed, None).expect("it runs"), judged);
    let kept = write(&fixture.model, &after, Form::Fast);
    assert!(forms::distance(&portable, &fast, feed) < 0.1 * forms::distance(&portable, &kept, feed));
    assert_eq!(fast.saved_bytes().expect("it has a size"), untuned.saved_bytes().expect("it has a size"));

    let short = NewBias { values: Arc::new(vec![0.0; 7]), ..bias.clone() };
    assert_eq!(encode::with_biases(&fixture.model, &[short]).err().map(|e| e.kind()), Some(ErrorKind::Usage));
}

#[test]
fn biases_belong_to_all_that_read_them() {
    let model = charlm("lstm256.onnx").model;
    let survey = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() })
        .expect("it has recurrent nodes")
        .survey
        .clone();
    let [first, second] = [0, 1].map(|node| survey.nodes[node].index);
    let owners = |change: &dyn Fn(&mut GraphProto)| -> Vec<Vec<usize>> {
        let mut proto = model.proto.clone();
        change(proto.graph.as_mut().expect("a model has a graph"));
        let model = Model::from_proto(proto, &LoadOptions::default()).expect("it is a model");
        survey.own_biases(&model).expect("its values are defined").into_iter().map(|bias| bias.nodes).collect()
    };
    assert_eq!(owners(&|_| {}), [[0], [1]]);
    assert_eq!(owners(&|graph| graph.node[second].input[3] = graph.node[first].input[3].clone()), [[0, 1]]);
    // Somebody else reads that of the first; that of the second may be given by the caller.
    let graph = model.proto.graph.as_ref().expect("a model has a graph");
    let [b, other] = [first, second].map(|node| graph.node[node].input[3].clone());
    assert_eq!(owners(&|graph| graph.output.push(forms::info(&b, ElementType::Float, &[]))), [[1]]);
    assert_eq!(owners(&|graph| graph.input.push(forms::info(&other, ElementType::Float, &[]))), [[0]]);
    let half = |graph: &mut GraphProto| {
        let tensor = graph.initializer.iter_mut().find(|tensor| tensor.name() == b).expect("it is stored");
        tensor.raw_data = None;
        tensor.float_data = vec![0.0; 2 * 4 * 256];
    };
    assert_eq!(owners(&half), [[1]]);
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
    assert_eq!(layer.target, TuneTarget::Output("logits".into()));
    assert!(
        matches!(layer.outcome, LayerOutcome::Kept { before, after, atoms_stay: false, .. } if after < before),
        "{layer:?}"
    );
    let first = blocks(&after).next().expect("all units are coded");
    assert!(blocks(&after).all(|unit| Arc::ptr_eq(&unit.codebook, &first.codebook)));

    // Tuned alone, neither layer may touch the codebook that both use.
    let (alone, report) = tuned(&fixture, &engine, &weights, &units, None);
    for layer in &report.layers {
        assert!(
            matches!(layer.outcome, LayerOutcome::Kept { atoms_stay: true, .. } | LayerOutcome::Dropped { .. }),
            "{layer:?}"
        );
    }
    let before = blocks(&units).next().expect("all units are coded");
    assert!(blocks(&alone).all(|unit| Arc::ptr_eq(&unit.codebook, &before.codebook)));
}

/// Kinds of units are made coarser one at a time, and what that costs a tuned model moves sensitivities.
#[test]
fn budgets_are_judged_again_by_what_tuning_leaves() {
    let model = forms::model(&forms::LSTM);
    let samples = forms::samples(&model, [7, 3], 40);
    let engine = Engine::new(&model).expect("it runs");
    let judge = Judge::new(&model, &LossSpec::default(), &samples.carry).expect("it has outputs");
    let weights = || {
        Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() })
            .expect("it has recurrent nodes")
    };
    let again = |threads: usize, answer: &(dyn Fn(&Plan) -> dirnet::error::Result<Plan> + Sync)| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("there can be threads");
        pool.install(|| {
            let mut job = Study::new(&model, weights(), Some((&engine, &samples)), 0, &Silent).expect("it runs");
            let curves = job.curves(2.0, Rates::All, &Silent).expect("there are curves");
            let spec = BlockSpec::new(4).expect("there is such a spec");
            let choices = job.weights.sites().map(|_| Choice::Block { spec, sharing: Sharing::Unit });
            let plan = Plan { choices, sensitivity: job.equal() };
            let asked = RefCell::new(Vec::new());
            let allocate = |_: &Study<'_>, moved: &PerSite<f64>| {
                asked.borrow_mut().push(moved.clone());
                answer(&plan)
            };
            let judged = (&engine, &judge);
            let found = job.tuned_plan(plan.clone(), &curves, judged, allocate, &Silent).expect("it can be tuned");
            (plan, found, asked.into_inner())
        })
    };
    let failing = |kind: ErrorKind| move |_: &Plan| Err(dirnet::error::Error::new(kind, "none"));

    // Another plan cannot be had: the one that there is stays. What was asked for does not depend on threads.
    let (plan, found, asked) = again(2, &failing(ErrorKind::Target));
    assert_eq!(found, plan);
    let [moved] = &asked[..] else { panic!("asked for {} plans", asked.len()) };
    let factors: Vec<f64> = moved.zip(&plan.sensitivity).map(|(_, moved, s)| moved / s).collect();
    assert!(factors.iter().all(|f| (0.2499..4.001).contains(f)) && factors.iter().any(|f| *f != 1.0), "{factors:?}");
    assert_eq!(again(1, &failing(ErrorKind::NothingToDo)).2, asked);

    // One that loses everything is clearly worse, one that loses nothing is not.
    let with = |width: usize| {
        move |plan: &Plan| {
            let spec = BlockSpec::new(width)?;
            let choices = plan.choices.map(|_, _| Choice::Block { spec, sharing: Sharing::Unit });
            Ok(Plan { choices, ..plan.clone() })
        }
    };
    assert_eq!(again(2, &with(16)).1, plan);
    assert_ne!(again(2, &with(1)).1, plan);
}

#[test]
fn units_of_one_kind_are_made_coarser_as_far_as_they_can_be() {
    let fixture = charlm("gru256.onnx");
    let weights = Weights::find(&fixture.model, &FindOptions { recurrent_only: true, ..FindOptions::default() })
        .expect("it has recurrent nodes");
    let block = |width| Choice::Block { spec: BlockSpec::new(width).expect("a spec"), sharing: Sharing::Unit };
    let mut kinds: Vec<_> = weights.all.iter().map(|site| weights.kind(site)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut plan = Plan::alike(block(8), &weights.sites().map(|_| 1.0));
    let coarser = plan::coarser(&weights, &plan, kinds[0]).expect("there is a wider piece");
    for (id, choice) in coarser.choices.iter() {
        let wanted = if weights.kind(weights.get(id)) == kinds[0] { block(10) } else { block(8) };
        assert_eq!(*choice, wanted);
    }
    for (id, choice) in plan.choices.iter_mut() {
        *choice = if id.0 % 2 == 0 { Choice::Dense } else { block(16) };
    }
    assert!(kinds.into_iter().all(|kind| plan::coarser(&weights, &plan, kind).is_none()));
}
