//! Forms: each computes what the portable one does, to the rounding of its vectors to eight bits, and goes back.

use dirnet::dictionary::BlockSpec;
use dirnet::encode::{self, Writing};
use dirnet::encode::{Form, Request};
use dirnet::engine::{Engine, Overrides};
use dirnet::error::ErrorKind;
use dirnet::expand;
use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto, type_proto,
};
use dirnet::onnx::{ElementType, LoadOptions, Model, tensor};
use dirnet::plan::{Choice, Plan, Sharing, Storage};
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Feed, Random, RandomOptions, Samples};
use dirnet::sites::{Site, Weights};

use crate::{corpus, made, quick};

const HIDDEN: usize = 24;
const INPUTS: usize = 10;

/// A model of one recurrent node.
#[derive(Clone, Copy)]
pub struct Case {
    pub op: &'static str,
    pub direction: &'static str,
    pub reset_after: bool,
    pub bias: bool,
    pub states: bool,
    pub lengths: bool,
    pub clip: bool,
    pub opset: i64,
    pub outputs: &'static [&'static str],
}

pub const LSTM: Case = Case {
    op: "LSTM",
    direction: "forward",
    reset_after: false,
    bias: true,
    states: false,
    lengths: false,
    clip: false,
    opset: 17,
    outputs: &["Y", "Yh", "Yc"],
};
pub const GRU: Case = Case { op: "GRU", outputs: &["Y", "Yh"], ..LSTM };

/// Random inputs for the model of a [`Case`], sequences of so many steps and as many at once.
pub fn samples(model: &Model, [steps, batch]: [usize; 2], count: usize) -> Samples {
    let dims = [("T".to_owned(), steps), ("B".to_owned(), batch)];
    let random = RandomOptions { dims: &dims, carry: &[], seed: 3, count };
    Random::new(model, &random).expect("inputs are floats").samples
}

pub fn model(case: &Case) -> Model {
    let gates = match case.op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let directions = if case.direction == "bidirectional" { 2 } else { 1 };
    let mut seed = 1u32;
    let mut weights = |name: &str, shape: &[usize]| {
        let value = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(seed >> 8) / f64::from(1 << 24) - 0.5) as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        tensor::float(name, shape, &values)
    };
    let rows = gates * HIDDEN;
    let mut initializer = vec![weights("W", &[directions, rows, INPUTS]), weights("R", &[directions, rows, HIDDEN])];
    let mut input = vec![info("x", ElementType::Float, &["T", "B", "10"])];
    let mut names = ["x", "W", "R", "", "", "", ""];
    if case.bias {
        initializer.push(weights("B", &[directions, 2 * rows]));
        names[3] = "B";
    }
    if case.lengths {
        input.push(info("lengths", ElementType::Int32, &["B"]));
        names[4] = "lengths";
    }
    if case.states {
        let state = if directions == 2 { ["2", "B", "24"] } else { ["1", "B", "24"] };
        for (slot, name) in [(5, "h0"), (6, "c0")].into_iter().take(if case.op == "LSTM" { 2 } else { 1 }) {
            input.push(info(name, ElementType::Float, &state));
            names[slot] = name;
        }
    }
    let used = names.iter().rposition(|n| !n.is_empty()).unwrap() + 1;
    let mut attribute = vec![
        AttributeProto { i: Some(HIDDEN as i64), ..attribute("hidden_size", AttributeType::Int) },
        AttributeProto {
            s: Some(case.direction.as_bytes().to_vec().into()),
            ..attribute("direction", AttributeType::String)
        },
    ];
    if case.reset_after {
        attribute.push(AttributeProto { i: Some(1), ..self::attribute("linear_before_reset", AttributeType::Int) });
    }
    if case.clip {
        attribute.push(AttributeProto { f: Some(2.0), ..self::attribute("clip", AttributeType::Float) });
    }
    let node = NodeProto {
        name: Some("layer".to_owned()),
        op_type: Some(case.op.to_owned()),
        input: names[..used].iter().map(|&n| n.to_owned()).collect(),
        output: case.outputs.iter().map(|&n| n.to_owned()).collect(),
        attribute,
        ..NodeProto::default()
    };
    let named = case.outputs.iter().filter(|n| !n.is_empty());
    let output = named.map(|name| info(name, ElementType::Float, &[])).collect();
    let graph = GraphProto { node: vec![node], initializer, input, output, ..GraphProto::default() };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(case.opset) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

pub fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..AttributeProto::default() }
}

/// A tensor of the given dimensions, numbers or names; of unknown shape without any.
pub fn info(name: &str, element: ElementType, dims: &[&str]) -> ValueInfoProto {
    let dimension = |text: &&str| tensor_shape_proto::Dimension {
        value: Some(match text.parse() {
            Ok(size) => tensor_shape_proto::dimension::Value::DimValue(size),
            Err(_) => tensor_shape_proto::dimension::Value::DimParam((*text).to_owned()),
        }),
        ..Default::default()
    };
    let shape = (!dims.is_empty()).then(|| TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(element as i32), shape };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Units of every second gate with atoms of 2, the others with atoms of 1: matrices of several codebooks.
fn plan(weights: &Weights) -> Plan {
    let choice = |site: &Site| Choice::Block {
        spec: BlockSpec { width: 1 + site.gate().map_or(0, |gate| gate.gate_index) % 2 },
        sharing: Sharing::Node,
    };
    Plan { choices: weights.sites().map(choice), sensitivity: weights.sites().map(|_| 1.0) }
}

fn writing(form: Form) -> Writing {
    Writing { request: Request { form, from: Some(1) }, note: "test".to_owned(), ..Writing::default() }
}

/// The mean squared difference over all outputs, over the mean square.
pub fn distance(a: &Model, b: &Model, feed: &Feed) -> f64 {
    let run = |model: &Model| Engine::new(model).unwrap().run(feed, None).unwrap_or_else(|e| panic!("{e}"));
    let (mut error, mut energy) = (0.0, 0.0);
    for ((name, a), (other, b)) in run(a).into_iter().zip(run(b)) {
        assert_eq!((&name, a.shape()), (&other, b.shape()));
        for (a, b) in a.to_f64().iter().zip(&b.to_f64()) {
            error += (a - b).powi(2);
            energy += a.powi(2);
        }
    }
    error / energy
}

/// Random inputs: three sequences of seven steps.
fn feed(model: &Model) -> Feed {
    let dims = [("T".to_owned(), 7), ("B".to_owned(), 3)];
    let samples = Random::new(model, &RandomOptions { dims: &dims, carry: &[], seed: 3, count: 1 }).unwrap().samples;
    samples.feeds().next().unwrap().clone()
}

fn check(case: &Case, form: Form, taken: Form) {
    let place = format!("{} {} {form:?} opset {}", case.op, case.direction, case.opset);
    let model = model(case);
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let assigned = quick::forms(&weights, &model, writing(form).request, |_| Storage::Block);
    assert_eq!(assigned[0].form, taken, "{place}: {:?}", assigned[0].reason);
    assert_eq!(assigned[0].reason.is_some(), taken == Form::Portable, "{place}");
    let plan = plan(&weights);
    let coded = quick::learn(&weights, &plan, 63);
    let [portable, other] =
        [Form::Portable, form].map(|form| encode::apply(&model, &weights, &coded, &writing(form)).unwrap());
    assert_eq!(other.saved_bytes().unwrap(), encode::size(&model, &weights, &plan, &writing(form)).unwrap(), "{place}");
    let feed = &feed(&model);
    let difference = distance(&portable, &other, feed);
    if taken == Form::Portable {
        assert_eq!(difference, 0.0, "{place}");
        return;
    }
    // Nothing at all would mean that the vectors were not rounded: the loss would be told too small.
    assert!((1e-9..1e-3).contains(&difference), "{place}: {difference:e}");
    let [there, back] = [&portable, &other].map(|model| expand::expand(model).unwrap());
    let difference = distance(&there, &back, feed);
    assert!(difference < 1e-12, "{place}: expanded {difference:e}");
}

#[test]
fn fast_and_ort_compute_what_portable_does() {
    for case in [
        LSTM,
        Case { direction: "reverse", opset: 11, ..LSTM },
        Case { direction: "bidirectional", states: true, opset: 13, ..LSTM },
        Case { bias: false, outputs: &["", "Yh"], ..LSTM },
        Case { direction: "bidirectional", outputs: &["Y"], opset: 21, ..LSTM },
    ] {
        check(&case, Form::Fast, Form::Fast);
        check(&case, Form::Ort, Form::Ort);
    }
    for case in [
        GRU,
        Case { reset_after: true, ..GRU },
        Case { direction: "bidirectional", states: true, opset: 11, ..GRU },
        Case { direction: "bidirectional", states: true, reset_after: true, ..GRU },
        Case { direction: "reverse", bias: false, reset_after: true, ..GRU },
    ] {
        check(&case, Form::Fast, Form::Fast);
    }
    check(&GRU, Form::Ort, Form::Fast);
}

/// The second node is named as a direction of the first is.
#[test]
fn nodes_with_names_like_those_of_others_keep_their_own_constants() {
    for (op, form) in [(LSTM, Form::Fast), (GRU, Form::Fast), (LSTM, Form::Ort)] {
        let mut first = model(&Case { direction: "bidirectional", ..op }).proto;
        let mut second = model(&Case { direction: "reverse", ..op }).proto;
        let (graph, other) = (first.graph.as_mut().unwrap(), second.graph.as_mut().unwrap());
        graph.node[0].name = Some("layer".to_owned());
        let mut node = other.node.remove(0);
        node.name = Some("layer/forward".to_owned());
        let names = node.input.iter_mut().skip(1).chain(&mut node.output);
        names.filter(|name| !name.is_empty()).for_each(|name| name.push('2'));
        graph.node.push(node);
        for value in
            other.initializer.iter_mut().map(|t| &mut t.name).chain(other.output.iter_mut().map(|v| &mut v.name))
        {
            value.as_mut().unwrap().push('2');
        }
        graph.initializer.append(&mut other.initializer);
        graph.output.append(&mut other.output);
        let model = Model::from_proto(first, &LoadOptions::default()).unwrap();
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let coded = quick::learn(&weights, &plan(&weights), 63);
        let [dense, ours] = [Form::Portable, form]
            .map(|form| expand::expand(&encode::apply(&model, &weights, &coded, &writing(form)).unwrap()).unwrap());
        assert!(distance(&dense, &ours, &feed(&model)) < 1e-12, "{} {form:?}", op.op);
    }
}

#[test]
fn what_a_form_cannot_do_stays_portable() {
    for case in [
        Case { lengths: true, ..LSTM },
        Case { clip: true, ..LSTM },
        Case { opset: 10, ..LSTM },
        Case { clip: true, ..GRU },
    ] {
        check(&case, Form::Fast, Form::Portable);
    }
    // onnxruntime's operator has them.
    check(&Case { clip: true, ..LSTM }, Form::Ort, Form::Ort);
}

/// The forms that the nodes of a model were given; every one that stays portable has a reason.
fn assigned(place: &str, model: &Model, weights: &Weights, form: Form) -> Vec<Form> {
    let assigned = quick::forms(weights, model, writing(form).request, |_| Storage::Block);
    assert_eq!(assigned.len(), weights.survey.nodes.len(), "{place}");
    for (node, assigned) in weights.survey.nodes.iter().zip(&assigned) {
        assert_eq!(assigned.form == Form::Portable, assigned.reason.is_some(), "{place}: {}", node.name);
    }
    assigned.into_iter().map(|assigned| assigned.form).collect()
}

/// Nodes in bodies whose weights come from the outer graph, weights that nodes share, opsets of all ages.
#[test]
fn made_models_take_forms_where_they_can() {
    use Form::{Fast, Ort, Portable};
    let mut seen = Vec::new();
    for made in made::ALL.iter().filter(|made| made.name != "vendor") {
        let model = made.model();
        let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        let (plan, carry) = (plan(&weights), made.carry());
        let coded = quick::learn(&weights, &plan, 63);
        let written = [Portable, Fast, Ort].map(|form| {
            let written = encode::apply(&model, &weights, &coded, &writing(form)).unwrap();
            let size = encode::size(&model, &weights, &plan, &writing(form));
            assert_eq!(written.saved_bytes().unwrap(), size.unwrap(), "{} {form:?}", made.name);
            written
        });
        let forms = [Fast, Ort].map(|form| assigned(&format!("{} {form:?}", made.name), &model, &weights, form)[0]);
        seen.push((made.name, forms));
        // Whatever form it took, what it goes back to is the same.
        let stream = made.samples().streams.swap_remove(0);
        let last = |model: &Model| {
            let engine = Engine::new(&expand::expand(model).unwrap()).unwrap();
            engine.run_stream(&stream, &carry, &Overrides::default(), None).unwrap().pop().unwrap()
        };
        let [portable, fast, ort] = written.each_ref().map(last);
        for ((name, wanted), others) in portable.iter().zip(fast.iter().zip(&ort)) {
            for other in [&others.0.1, &others.1.1] {
                let off = (wanted.to_f64() - other.to_f64()).iter().fold(0.0f64, |most, v| most.max(v.abs()));
                assert!(off < 1e-6, "{}: {name} is {off} off", made.name);
            }
        }
    }
    let wanted = [
        ("branches", [Fast, Ort]),
        ("twins", [Fast, Ort]),
        ("step", [Portable, Ort]), // its opset is too old
        ("loop", [Fast, Ort]),
        ("half", [Fast, Ort]),
        ("indirect", [Portable, Ort]),  // so is this
        ("scan", [Fast, Fast]),         // a GRU
        ("tags", [Portable, Portable]), // it has sequence_lens, and is no LSTM
        ("split", [Fast, Fast]),
        ("joined", [Fast, Fast]),
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn real_models_take_forms_where_they_can() {
    let Some(files) = corpus::model_files() else { return };
    let (mut nodes, mut fast) = (0, 0);
    for path in files {
        let model = Model::load(&path, &LoadOptions::default()).unwrap();
        let weights = match Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }) {
            Ok(weights) => weights,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NothingToDo, "{}: {e}", path.display());
                continue;
            }
        };
        let plan = plan(&weights);
        let portable = encode::size(&model, &weights, &plan, &writing(Form::Portable)).unwrap();
        for form in [Form::Fast, Form::Ort] {
            let place = format!("{} {form:?}", path.display());
            let bytes = encode::size(&model, &weights, &plan, &writing(form));
            let bytes = bytes.unwrap_or_else(|e| panic!("{place}: {e}"));
            let forms = assigned(&place, &model, &weights, form);
            let all_portable = forms.iter().all(|&form| form == Form::Portable);
            assert_eq!(bytes == portable, all_portable, "{place}: {bytes} and {portable} bytes");
            nodes += forms.len();
            fast += forms.iter().filter(|&&form| form == Form::Fast).count();
        }
    }
    assert!(nodes > 80 && fast > 30, "{fast} of {nodes} nodes");
}
