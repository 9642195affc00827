//! The projection dictionary: who shares one, what the graph makes of it, and what plans make of its bands.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use dirnet::code::{self, CodedSites, Learning};
use dirnet::compress::Rates;
use dirnet::compress::Study;
use dirnet::dictionary::{self, Band, Bands, Metric};
use dirnet::encode::{self, Writing};
use dirnet::encode::{Form, Forms, Request};
use dirnet::engine::Engine;
use dirnet::loss::{Judge, LossSpec};
use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use dirnet::onnx::{ElementType, LoadOptions, Model, Values, tensor};
use dirnet::plan::{Choice, Plan};
use dirnet::progress::Silent;
use dirnet::recurrent::{FindOptions, Matrix};
use dirnet::samples::{Random, RandomOptions, Samples, Signature};
use dirnet::sites::{Site, Weights};
use dirnet::{expand, plan};
use ndarray::Array2;
use prost::Message;

use crate::forms::{attribute, info};

const HIDDEN: usize = 24;
const INPUTS: usize = 10;

/// Two layers, with between them what exporters put there.
fn stack(op: &str, bidirectional: bool) -> Model {
    let (gates, directions) = (if op == "LSTM" { 4 } else { 3 }, if bidirectional { 2 } else { 1 });
    let mut seed = 5u32;
    let mut weights = |name: &str, shape: &[usize]| {
        let value = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(seed >> 8) / f64::from(1 << 24) - 0.5) as f32
        };
        tensor::float(name, shape, &(0..shape.iter().product()).map(value).collect::<Vec<f32>>())
    };
    let rows = gates * HIDDEN;
    let initializer = vec![
        weights("W0", &[directions, rows, INPUTS]),
        weights("R0", &[directions, rows, HIDDEN]),
        weights("W1", &[directions, rows, directions * HIDDEN]),
        weights("R1", &[directions, rows, HIDDEN]),
        tensor::int64("one", &[1], &[1]),
        tensor::int64("joined", &[3], &[0, 0, -1]),
    ];
    let node = |op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        name: Some(output.to_owned()),
        op_type: Some(op.to_owned()),
        input: input.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    };
    let layer = |input: [&str; 3], output: &str| {
        let direction = if bidirectional { "bidirectional" } else { "forward" };
        let attributes = vec![
            AttributeProto { i: Some(HIDDEN as i64), ..attribute("hidden_size", AttributeType::Int) },
            AttributeProto {
                s: Some(direction.as_bytes().to_vec().into()),
                ..attribute("direction", AttributeType::String)
            },
        ];
        node(op, &input, output, attributes)
    };
    let perm = AttributeProto { ints: vec![0, 2, 1, 3], ..attribute("perm", AttributeType::Ints) };
    let mut nodes = vec![layer(["x", "W0", "R0"], "y0")];
    if bidirectional {
        nodes.push(node("Transpose", &["y0"], "turned", vec![perm]));
        nodes.push(node("Reshape", &["turned", "joined"], "between", vec![]));
    } else {
        nodes.push(node("Squeeze", &["y0", "one"], "between", vec![]));
    }
    nodes.push(layer(["between", "W1", "R1"], "y1"));
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![info("x", ElementType::Float, &["T", "B", "10"])],
        output: vec![info("y1", ElementType::Float, &[])],
        ..GraphProto::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

/// Two bands for every dictionary, which have nearly as many atoms as its vector has components.
fn plan(weights: &Weights) -> Plan {
    plan_of(weights, |columns| [columns / 2, columns / 2 - 1])
}

/// Two bands of so many atoms for every dictionary, the second of which gate 1 does not use.
fn plan_of(weights: &Weights, atoms: impl Fn(usize) -> [usize; 2]) -> Plan {
    let choice = |unit: &Site| {
        let mut parts = [Bands::default(); 2];
        for (part, section) in parts.iter_mut().zip(weights.sections(unit.id)) {
            let codes = if unit.gate().map_or(0, |gate| gate.gate_index) == 1 { 0 } else { 3 };
            let [first, second] = atoms(section.columns).map(|atoms| atoms as u16);
            let bands = [Band { atoms: first, width: 1, codes: 1 }, Band { atoms: second, width: 2, codes }];
            *part = Bands::new(&bands).expect("sound bands");
        }
        Choice::Projection { parts }
    };
    Plan { choices: weights.sites().map(choice), sensitivity: weights.sites().map(|_| 1.0) }
}

fn learn(weights: &Weights, plan: &Plan, peak: i8) -> CodedSites {
    let eye = |columns: usize| Arc::new(Metric::new(Array2::<f32>::eye(columns).view(), 0.01).unwrap());
    let metrics = weights.sites().map(|site| eye(site.block.columns));
    let options =
        dictionary::LearnOptions { rounds: 1, kmeans_iterations: 2, refit_steps: 1, sweeps: 0, ..Default::default() };
    let how = Learning { metrics: &metrics, options, peaks: weights.sites().map(|_| peak) };
    code::learn(weights, plan, &how, &Silent).unwrap()
}

/// Names of the stored codes of atoms behind W or R of a node.
fn atoms(model: &Model, node: usize, matrix: Matrix) -> BTreeSet<String> {
    let survey =
        dirnet::recurrent::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let names = survey.nodes[node].source(matrix).constants.iter().map(|constant| constant.name.clone());
    names.filter(|name| name.starts_with("dictionary/") && name.ends_with("/codes")).collect()
}

/// The first output for random inputs of 7 steps, 3 sequences: the same for all forms of a model.
fn run(model: &Model) -> Vec<f64> {
    let dims = [("T".to_owned(), 7), ("B".to_owned(), 3)];
    let samples = Random::new(model, &RandomOptions { dims: &dims, carry: &[], seed: 3, count: 1 }).unwrap().samples;
    let feed = samples.feeds().next().unwrap();
    Engine::new(model).unwrap().run(feed, None).unwrap()[0].1.to_f64().iter().copied().collect()
}

/// The largest difference.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn layers_in_a_stack_share_one_dictionary() {
    for (op, bidirectional) in [("LSTM", false), ("LSTM", true), ("GRU", false), ("GRU", true)] {
        let place = format!("{op} bidirectional={bidirectional}");
        let model = stack(op, bidirectional);
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let plan = plan(&weights);
        let coded = learn(&weights, &plan, i8::MAX);
        let writing = Writing { note: "test".to_owned(), ..Writing::default() };
        let result = encode::apply(&model, &weights, &coded, &writing).unwrap();

        // X, the states of layer 0 and those of layer 1: two bands each.
        let directions = if bidirectional { 2 } else { 1 };
        let stored: BTreeSet<String> =
            [0, 1].iter().flat_map(|&n| Matrix::BOTH.map(|m| atoms(&result, n, m))).flatten().collect();
        assert_eq!(stored.len(), 2 * (1 + 2 * directions), "{place}: {stored:?}");
        assert_eq!(atoms(&result, 1, Matrix::W), atoms(&result, 0, Matrix::R), "{place}");
        assert!(atoms(&result, 1, Matrix::R).is_disjoint(&atoms(&result, 1, Matrix::W)), "{place}");

        let size = encode::size(&model, &weights, &plan, &writing).unwrap();
        assert_eq!(result.saved_bytes().unwrap(), size, "{place}");

        // What the graph makes is what the codes stand for, and what expand stores.
        let survey =
            dirnet::recurrent::find(&result, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let index = Values::new(&result.proto).unwrap();
        for (unit, coded) in weights.all.iter().map(|site| (site, &coded[site.id])) {
            let used = weights.survey.weights[unit.tensor.0].uses[0];
            let source = survey.nodes[used.node].source(used.matrix);
            assert_eq!(expand::codec(&result, &index, source), Some("projection"), "{place}");
            let values = source.values(&result).unwrap();
            let error = &unit.block.of(&values) - &coded.as_ref().unwrap().decode();
            let worst = error.iter().fold(0.0f32, |m, e| m.max(e.abs()));
            assert!(worst < 1e-5, "{place} {}: {worst}", weights.place(unit));
        }
        let expanded = expand::expand(&result).unwrap();
        let (dense, small, large) = (run(&model), run(&result), run(&expanded));
        assert!(distance(&small, &large) < 1e-4, "{place}: {}", distance(&small, &large));
        let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
        let error = energy(&mut dense.iter().zip(&small).map(|(a, b)| a - b));
        assert!(error < 0.5 * energy(&mut dense.iter().copied()), "{place}: {error}");

        // The plan says all that is needed, and other forms leave such nodes as they are.
        let text = plan::write(&weights, &plan).unwrap();
        assert_eq!(plan::read(&text, &weights, &plan.sensitivity).unwrap(), plan, "{place}");
        let request = Request { form: Form::Fast, from: Some(1) };
        let fast = Writing { request, ..writing.clone() };
        let same = encode::apply(&model, &weights, &coded, &fast).unwrap();
        assert_eq!(same.saved_bytes().unwrap(), result.saved_bytes().unwrap(), "{place}");
    }
}

#[test]
fn the_fast_form_multiplies_by_few_atoms_and_then_by_codes() {
    for (op, bidirectional) in [("LSTM", false), ("LSTM", true), ("GRU", false), ("GRU", true)] {
        let model = stack(op, bidirectional);
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let plan = plan_of(&weights, |_| [4, 2]);
        let coded = learn(&weights, &plan, Form::Fast.peak());
        let request = Request { form: Form::Fast, from: Some(1) };
        let writing = |request| Writing { note: "test".to_owned(), request, ..Writing::default() };
        let [portable, fast] = [Request::default(), request]
            .map(|request| encode::apply(&model, &weights, &coded, &writing(request)).unwrap());
        let scans = |model: &Model| {
            let nodes = &model.proto.graph.as_ref().unwrap().node;
            nodes.iter().filter(|node| node.op_type() == "Scan").count()
        };
        // A W of two dictionaries keeps its layer portable, whose R shares one with a layer that is not.
        assert_eq!((scans(&portable), scans(&fast)), (0, 2), "{op} bidirectional={bidirectional}");
        let writing = writing(request);
        let size = encode::size(&model, &weights, &plan, &writing).unwrap();
        assert_eq!(fast.saved_bytes().unwrap(), size, "{op}");

        // Vectors are rounded to eight bits, which is not nothing.
        let rounding = distance(&run(&portable), &run(&fast));
        assert!((1e-9..0.02).contains(&rounding), "{op}: {rounding:e}");
        let [there, back] = [&portable, &fast].map(|model| expand::expand(model).unwrap());
        assert!(distance(&run(&there), &run(&back)) < 1e-5, "{op}");

        if bidirectional {
            continue;
        }
        // 6 atoms: 6 columns and 6 rows' codes in place of a row of 24, less what the rows of X have to gain. This GRU
        // multiplies two vectors, H and r H, by the atoms.
        let forms = Forms::new(&model, &weights);
        let work = forms.work(&plan.choices, &forms.assign(request, &|id| plan.choices[id].storage()));
        let rows = if op == "LSTM" { 96 } else { 72 };
        let again = if op == "LSTM" { 0 } else { 2 * 6 * 24 };
        assert_eq!(work.before, (rows * (10 + 3 * 24)) as u64, "{op}");
        assert_eq!(work.after, (6 * (10 + rows) + 3 * 6 * (24 + rows) + again) as u64, "{op}");
        assert_eq!(work.after, work.factored, "{op}");
        // Where it was measured to pay, it takes more than fewer multiply-adds.
        let request = Request { form: Form::Fast, from: None };
        let forms = forms.assign(request, &|id| plan.choices[id].storage());
        assert!(forms.iter().all(|assigned| assigned.form == Form::Portable), "{op}");
    }
}

#[test]
fn damaged_files_are_expanded_or_refused() {
    for (op, bidirectional) in [("LSTM", true), ("GRU", false)] {
        let model = stack(op, bidirectional);
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let coded = learn(&weights, &plan_of(&weights, |_| [4, 2]), Form::Fast.peak());
        for form in [Form::Portable, Form::Fast] {
            let writing =
                Writing { note: "test".to_owned(), request: Request { form, from: Some(1) }, ..Writing::default() };
            let sound = encode::apply(&model, &weights, &coded, &writing).unwrap();
            expand::expand(&sound).unwrap();
            let sound = sound.proto.encode_to_vec();
            let mut expanded = 0;
            for place in (0..sound.len()).step_by(61) {
                let mut damaged = sound.clone();
                damaged[place] ^= 1 << (place % 8);
                let Ok(model) = Model::from_bytes(damaged.into(), &LoadOptions::default()) else { continue };
                expanded += usize::from(expand::expand(&model).is_ok());
            }
            assert!(expanded > 0, "{op} {form:?}: codes can be any bytes");
        }
    }
}

#[test]
fn bands_that_do_not_fit_are_refused() {
    let weights =
        Weights::find(&stack("LSTM", true), &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let plan = plan(&weights);
    let text = plan::write(&weights, &plan).unwrap();
    let one = "bands = [[[5, 1, 1], [4, 2, 3]]]";
    assert!(text.contains(one) && text.contains("\n# bands "), "{text}");
    for (bands, reason) in [
        ("bands = [[[5, 1, 1], [4, 2, 3]], [[1, 1, 1]]]", "expected 1"),
        ("bands = [[[11, 1, 1]]]", "has 11 atoms, expected at most 10"),
        ("bands = [[[5, 1, 0], [4, 2, 3]]]", "codes 0 where a band and those after it are not used"),
        ("bands = [[[5, 17, 1]]]", "1 to 16"),
        ("bands = [[[5, 1, 1]]]\nwidth = 2", "takes bands, and nothing else"),
    ] {
        let error = plan::read(&text.replacen(one, bands, 1), &weights, &plan.sensitivity).unwrap_err();
        assert!(error.to_string().contains(reason), "{bands}: {error}");
    }
}

#[test]
fn a_plan_with_dictionaries_meets_its_target_and_its_promise() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm");
    let model = Model::load(&folder.join("gru256.onnx"), &LoadOptions::default()).unwrap();
    let signature = Signature::of(&model).unwrap();
    let samples = Samples::read(&[folder.join("calibration.npz")], &signature, &[]).unwrap().subset(3);
    let engine = Engine::new(&model).unwrap();
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let mut job = Study::new(&model, weights, Some((&engine, &samples)), 0, &Silent).unwrap();
    let curves = job.curves(3.0, Rates::All, &Silent).unwrap();
    let judge = Judge::new(&model, &LossSpec::parse(&["kl"]).unwrap(), &[]).unwrap();
    let sensitivity = job.sensitivity(&job.coarse_widths(3.0), &engine, &judge, &Silent).unwrap();
    let target = job.sized(|sizing| sizing.target(10.0));
    let dictionaries = job.dictionaries(&sensitivity).unwrap();
    let allocate = |curves| job.sized(|sizing| dictionaries.allocate(sizing, curves, target)).unwrap();
    let plan = allocate(None);
    let promised = dictionaries.promised(&plan);
    assert!(job.bytes(&allocate(Some(&curves))).unwrap() <= target);

    let kept = model.bytes() - job.weights.survey.stored_bytes();
    let code = || {
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let mut job = Study::new(&model, weights, Some((&engine, &samples)), 0, &Silent).unwrap();
        job.code(std::slice::from_ref(&plan), None, &Silent).unwrap()
    };
    let coded = code();
    let bytes = coded.model.saved_bytes().unwrap();
    assert!(bytes <= target && bytes - kept > (target - kept) * 96 / 100, "{bytes} of {target}");
    let loss = |distortion| Plan::predicted_loss(&sensitivity, distortion);
    let (promised, kept) = (loss(&promised), loss(&coded.distortion));
    assert!(kept < 1.3 * promised && kept > 0.4 * promised, "{kept} for {promised}");

    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let alone = pool.install(code);
    let values = |sites: &CodedSites| code::stored(sites).map(|(_, site)| site.decode()).collect::<Vec<_>>();
    assert_eq!(values(&coded.sites), values(&alone.sites));
}
