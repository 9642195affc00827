//! Every attribute, input and output of the recurrent operators, combined so that each triple of values is in some node
//! of `fixtures/recurrent`: what is read of them, what the engine computes, and what is left of them when weights are coded.
//! The expected outputs are those of the specification's formulas, which onnxruntime confirms (`fixtures/recurrent.py`).

use dirnet::engine::{Engine, Outputs};
use dirnet::expand;
use dirnet::onnx::proto::tensor_shape_proto::dimension::Value;
use dirnet::onnx::proto::{ValueInfoProto, type_proto};
use dirnet::onnx::{GraphProto, LoadOptions, Model};
use dirnet::recurrent::{Direction, FindOptions, find};
use dirnet::samples::{Feed, Samples, Signature};

use crate::made::{array, fixture};
use crate::quick;

/// The operators that are supported.
const OPERATORS: [&str; 3] = ["lstm", "gru", "rnn"];

/// A node's outputs may be this far from the formulas in double precision, or from 1 where these are larger.
const TOLERANCE: f64 = 4e-6;

fn load(operator: &str) -> (Model, Feed) {
    let at = |name: &str| fixture(&format!("recurrent/{operator}.{name}"));
    let model = Model::load(&at("onnx"), &LoadOptions::default()).unwrap();
    let samples = Samples::read(&[at("inputs.npz")], &Signature::of(&model).unwrap(), &[]).unwrap();
    let feed = samples.feeds().next().unwrap().clone();
    (model, feed)
}

fn run(model: &Model, feed: &Feed) -> Outputs {
    Engine::new(model).unwrap().run(feed, None).unwrap_or_else(|e| panic!("{e}"))
}

fn graph(model: &Model) -> &GraphProto {
    model.proto.graph.as_ref().unwrap()
}

/// The node that gives an output; its name says what it has.
fn giver<'m>(model: &'m Model, output: &str) -> &'m str {
    let node = graph(model).node.iter().find(|node| node.output.iter().any(|o| o == output));
    node.unwrap_or_else(|| panic!("no node gives {output}")).name()
}

/// The shape that a graph declares of an output.
fn declared(output: &ValueInfoProto) -> Vec<usize> {
    let Some(type_proto::Value::TensorType(tensor)) = output.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        panic!("{}: no tensor", output.name())
    };
    let size = |value: &Option<Value>| match value {
        Some(Value::DimValue(size)) => *size as usize,
        other => panic!("{}: {other:?}", output.name()),
    };
    tensor.shape.as_ref().unwrap().dim.iter().map(|dim| size(&dim.value)).collect()
}

#[test]
fn every_combination_of_attributes_gives_what_the_specification_says() {
    for operator in OPERATORS {
        let (model, feed) = load(operator);
        let expected = array::<f32, ndarray::Ix1>(&fixture(&format!("recurrent/{operator}.expected.npz")), "expected");
        let mut expected = expected.iter().map(|&v| f64::from(v));
        let outputs = run(&model, &feed);
        assert_eq!(outputs.len(), graph(&model).output.len());
        for ((name, tensor), output) in outputs.iter().zip(&graph(&model).output) {
            let place = format!("{operator} {}: {name}", giver(&model, name));
            assert_eq!((name.as_str(), tensor.shape()), (output.name(), &declared(output)[..]), "{place}");
            for (index, &found) in tensor.to_f64().iter().enumerate() {
                let wanted = expected.next().expect("a value for each that is declared");
                let off = (found - wanted).abs() / wanted.abs().max(1.0);
                assert!(off <= TOLERANCE, "{place}[{index}] is {found}, not {wanted}");
            }
        }
        assert_eq!(expected.count(), 0, "{operator}: outputs that the graph does not declare");
    }
}

#[test]
fn attributes_and_inputs_are_read_as_written() {
    for (operator, flag) in [("lstm", "input_forget"), ("gru", "linear_before_reset")] {
        let (model, _) = load(operator);
        let survey = find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
        assert!(survey.skipped.is_empty(), "{:?}", survey.skipped);
        assert_eq!(survey.nodes.len(), graph(&model).node.len());
        for node in &survey.nodes {
            // Names are unique: nothing was added to them.
            let words: Vec<&str> = node.name.split(' ').collect();
            let has = |word: &str| words.contains(&word);
            let of = &node.attributes;
            assert_eq!(of.direction.name(), words[0], "{}", node.name);
            assert_eq!((of.layout == 1, of.clip), (has("layout"), has("clip").then_some(0.4)), "{}", node.name);
            let set = if flag == "input_forget" { of.input_forget } else { of.linear_before_reset };
            assert_eq!(set, has("flag"), "{}: {flag}", node.name);
            assert_eq!(node.reads.sequence_lens, has("lengths"), "{}", node.name);
            let named: Vec<&str> = of.activations.iter().map(|activation| activation.name()).collect();
            if let Some(given) = words.iter().find(|word| word.contains('+')) {
                let mut wanted: Vec<&str> = given.split('+').collect();
                if of.direction == Direction::Bidirectional {
                    // The second direction has them in another order.
                    wanted.extend_from_within(1..);
                    wanted.push(wanted[0]);
                }
                assert_eq!(named, wanted, "{}", node.name);
            } else {
                assert!(of.has_default_activations(node.cell), "{}: {named:?}", node.name);
            }
            for activation in &of.activations {
                let wanted = match activation.name() {
                    "Affine" => (0.6, 0.2),
                    "LeakyRelu" => (0.3, 0.0),
                    "ThresholdedRelu" => (0.1, 0.0),
                    "ScaledTanh" => (0.7, 1.2),
                    "HardSigmoid" => (0.4, 0.3),
                    "Elu" => (0.5, 0.0),
                    _ => (0.0, 0.0),
                };
                assert_eq!((activation.alpha, activation.beta), wanted, "{}: {}", node.name, activation.name());
            }
        }
    }
}

/// All that coding may change is the weights: every node computes from decoded weights what it does from the same
/// weights stored dense.
#[test]
fn coded_nodes_keep_every_attribute_and_input() {
    for operator in OPERATORS {
        let (model, feed) = load(operator);
        let coded = quick::compressed(&model, quick::mixed);
        let dense = expand::expand(&coded.model).unwrap();
        let [original, decoded, expanded] = [&model, &coded.model, &dense].map(|model| run(model, &feed));
        assert_ne!(original, decoded, "{operator}: the weights are others");
        for ((name, decoded), (_, expanded)) in decoded.iter().zip(&expanded) {
            let apart = decoded.to_f64() - expanded.to_f64();
            let worst = apart.iter().fold(0.0f64, |worst, v| worst.max(v.abs()));
            assert!(worst <= 1e-6, "{operator} {}: {name} is {worst} off", giver(&model, name));
        }
    }
}
