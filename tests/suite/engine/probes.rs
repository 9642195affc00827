//! Values that a run shows, and constants that it takes from the caller, in every graph of a model.

use std::sync::Mutex;

use dirnet::engine::{Constant, ConstantId, Engine, Overrides, Probes, Tap, TapId, ValueRef, Visit};
use dirnet::onnx::{GraphProto, LoadOptions, Model, Scope, tensor};
use dirnet::samples::{Feed, Tensor};
use ndarray::{ArrayD, IxDyn};

use crate::hostile::targets::{graph, int, node, of, value};
use crate::hostile::typed;

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).expect("of that shape").into()
}

/// Keeps all tapped values.
#[derive(Default)]
struct Seen(Mutex<Vec<(TapId, Tensor)>>);

impl Tap for Seen {
    fn visit(&self, _: &Visit) {}

    fn value(&self, id: TapId, value: &Tensor) {
        self.0.lock().expect("no thread panics").push((id, value.clone()));
    }
}

/// `y = body(x)` where the body multiplies by a constant `w = 3` of its own graph and adds 1 to the product.
fn nodes() -> Vec<dirnet::onnx::NodeProto> {
    vec![node("Mul", &["in", "w"], "product", vec![]), node("Add", &["product", "one"], "out", vec![])]
}

fn constants() -> Vec<dirnet::onnx::TensorProto> {
    vec![tensor::float("w", &[2], &[3.0, 3.0]), tensor::float("one", &[], &[1.0])]
}

fn yes() -> dirnet::onnx::TensorProto {
    let mut tensor = tensor::uint8("go", &[], &[1]);
    tensor.data_type = Some(9);
    tensor
}

/// The model with the two nodes inside of an operator, the path to their graph, and how often they run.
fn nested(operator: &str) -> (Model, Scope, usize) {
    let body = |input: Vec<dirnet::onnx::proto::ValueInfoProto>,
                more: Vec<dirnet::onnx::NodeProto>,
                output: &[&str]| GraphProto {
        name: Some("body".to_owned()),
        node: [more, nodes()].concat(),
        initializer: constants(),
        input,
        output: output.iter().map(|name| value(name)).collect(),
        ..GraphProto::default()
    };
    let reads = |name: &str| vec![node("Identity", &[name], "in", vec![])];
    let x = typed("x", 1, &[2]);
    let (input, initializer, outer, times) = match operator {
        "If" => {
            let other = GraphProto {
                node: vec![node("Identity", &["x"], "other", vec![])],
                output: vec![value("other")],
                ..GraphProto::default()
            };
            let attributes =
                vec![graph("then_branch", body(vec![], reads("x"), &["out"])), graph("else_branch", other)];
            (vec![x], vec![yes()], node("If", &["go"], "y", attributes), 1)
        }
        "Loop" => {
            let input = vec![typed("i", 7, &[]), typed("c", 9, &[]), typed("in", 1, &[2])];
            let keep = vec![node("Identity", &["c"], "again", vec![])];
            let attributes = vec![graph("body", body(input, keep, &["again", "out"]))];
            let initializer = vec![tensor::int64("rounds", &[], &[2]), yes()];
            (vec![x], initializer, node("Loop", &["rounds", "go", "x"], "y", attributes), 2)
        }
        "Scan" => {
            let attributes =
                vec![int("num_scan_inputs", 1), graph("body", body(vec![typed("in", 1, &[2])], vec![], &["out"]))];
            (vec![typed("x", 1, &[3, 2])], vec![], node("Scan", &["x"], "y", attributes), 3)
        }
        _ => unreachable!("not tested"),
    };
    let proto =
        of(GraphProto { node: vec![outer], initializer, input, output: vec![value("y")], ..Default::default() });
    let model = Model::from_proto(proto, &LoadOptions::default()).unwrap_or_else(|e| panic!("{operator}: {e}"));
    let scope = model.graphs().into_iter().map(|(scope, _)| scope).nth(1).expect("there is a body");
    (model, scope, times)
}

#[test]
fn a_tap_shows_a_value_and_a_constant_is_replaced_in_every_kind_of_body() {
    for operator in ["If", "Loop", "Scan"] {
        let (model, scope, times) = nested(operator);
        let at = |name: &str| ValueRef { scope: scope.clone(), name: name.to_owned() };
        let probes = Probes { taps: vec![at("out"), at("product")], constants: vec![at("w")], ..Probes::default() };
        let engine = Engine::probing(&model, &probes).unwrap_or_else(|e| panic!("{operator}: {e}"));
        let rows = if operator == "Scan" { 3 } else { 1 };
        let x: Vec<f32> = (0..2 * rows).map(|i| i as f32 - 1.0).collect();
        let shape: &[usize] = if operator == "Scan" { &[3, 2] } else { &[2] };
        let feed: Feed = [("x".to_owned(), floats(shape, &x))].into();

        for w in [3.0f32, -2.0] {
            let mut overrides = Overrides::default();
            if w != 3.0 {
                overrides.constants.insert(ConstantId(0), Constant::from(&floats(&[2], &[w, w])));
            }
            let seen = Seen::default();
            let outputs = engine.run_with(&feed, &overrides, Some(&seen)).unwrap_or_else(|e| panic!("{operator}: {e}"));
            // Each run of the body by hand.
            let mut products = Vec::new();
            let mut outs = Vec::new();
            let mut state: Vec<f32> = x[..2].to_vec();
            for step in 0..times {
                let input = if operator == "Scan" { x[2 * step..2 * step + 2].to_vec() } else { state.clone() };
                let product: Vec<f32> = input.iter().map(|v| v * w).collect();
                state = product.iter().map(|v| v + 1.0).collect();
                products.push(floats(&[2], &product));
                outs.push(floats(&[2], &state));
            }
            let seen = seen.0.into_inner().expect("no thread panics");
            let of = |id: usize| -> Vec<Tensor> {
                seen.iter().filter(|(tap, _)| *tap == TapId(id)).map(|(_, value)| value.clone()).collect()
            };
            assert_eq!((of(0), of(1)), (outs.clone(), products), "{operator}, w = {w}");
            let last = outs.last().expect("it ran");
            let flat = |tensors: &[Tensor]| tensors.iter().flat_map(|t| t.to_f64()).collect::<Vec<f64>>();
            let expected = if operator == "Scan" { flat(&outs) } else { flat(std::slice::from_ref(last)) };
            assert_eq!(flat(std::slice::from_ref(&outputs[0].1)), expected, "{operator}, w = {w}");
        }
        // An engine without probes gives the same.
        let plain = Engine::new(&model).expect("it runs").run(&feed, None).expect("it runs");
        assert_eq!(plain, engine.run(&feed, None).expect("it runs"), "{operator}");
    }
}

#[test]
fn probes_that_cannot_be_are_refused_by_name() {
    let (model, scope, _) = nested("If");
    let refused = |taps: &[&str], constants: &[&str], scope: &Scope| {
        let at = |names: &[&str]| {
            names.iter().map(|&name| ValueRef { scope: scope.clone(), name: name.to_owned() }).collect::<Vec<_>>()
        };
        let error =
            Engine::probing(&model, &Probes { taps: at(taps), constants: at(constants), ..Probes::default() }).err();
        error.expect("it cannot be").to_string()
    };
    assert!(refused(&["nothing"], &[], &scope).contains("'nothing': the model has no such value"));
    assert!(refused(&["x"], &[], &Scope::root()).contains("'x': it is an input of the model"));
    assert!(refused(&["w"], &[], &scope).contains("'w': it is a constant"));
    assert!(refused(&[], &["product"], &scope).contains("'product': it is no initializer"));
    assert!(refused(&["out", "out"], &[], &scope).contains("'out': it is probed twice"));
    let wrong = Probes { taps: vec![], constants: vec![ValueRef { scope, name: "w".to_owned() }], ..Probes::default() };
    let engine = Engine::probing(&model, &wrong).expect("it can be");
    let mut overrides = Overrides::default();
    overrides.constants.insert(ConstantId(0), Constant::from(&floats(&[3], &[1.0; 3])));
    let feed: Feed = [("x".to_owned(), floats(&[2], &[1.0, 2.0]))].into();
    assert!(engine.run_with(&feed, &overrides, None).is_err(), "a constant of another shape");
}
