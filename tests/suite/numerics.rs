//! Weights and samples at the edges of what numbers can do: what comes out is finite, whatever went in was.

use dirnet::code;
use dirnet::compress::Rates;
use dirnet::compress::Study;
use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::expand;
use dirnet::loss::{Judge, LossSpec};
use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::proto::{
    OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use dirnet::onnx::{AttributeProto, GraphProto, LoadOptions, Model, ModelProto, NodeProto, tensor};
use dirnet::progress::Silent;
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Feed, Samples, Stream, Tensor};
use dirnet::sites::Weights;
use dirnet::verify::{VerifySettings, verify};
use ndarray::{Array2, ArrayD, Axis, IxDyn, concatenate};

const HIDDEN: usize = 24;
const INPUTS: usize = 16;

/// Numbers of no pattern, of size 1.
fn noise(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(i, j)| ((i * 7919 + j * 104_729 + 1) as f32 * 0.618_034).sin())
}

/// An LSTM or GRU of some units whose W and R are parts of a matrix `[G*H, I + H]`.
fn model(op: &str, hidden: usize, weights: &Array2<f32>) -> Model {
    let (w, r) = weights.view().split_at(Axis(1), INPUTS);
    let constant = |name: &str, part: ndarray::ArrayView2<f32>| {
        let shape = [1, part.nrows(), part.ncols()];
        tensor::float(name, &shape, &part.iter().copied().collect::<Vec<_>>())
    };
    let attribute = AttributeProto {
        name: Some("hidden_size".to_owned()),
        i: Some(hidden as i64),
        r#type: Some(AttributeType::Int as i32),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: Some(op.to_owned()),
        input: ["x", "W", "R"].map(str::to_owned).to_vec(),
        output: vec!["y".to_owned()],
        attribute: vec![attribute],
        ..Default::default()
    };
    use tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let dims = [DimParam("steps".to_owned()), DimValue(1), DimValue(INPUTS as i64)];
    let dim = dims.map(|value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() }).to_vec();
    let tensor_type = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor_type)), ..Default::default() });
    let graph = GraphProto {
        node: vec![node],
        initializer: vec![constant("W", w), constant("R", r)],
        input: vec![ValueInfoProto { name: Some("x".to_owned()), r#type, ..Default::default() }],
        output: vec![ValueInfoProto { name: Some("y".to_owned()), ..Default::default() }],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

fn samples(count: usize, steps: usize, value: impl Fn(usize, usize) -> f32) -> Samples {
    let stream = |n: usize| {
        let x = ArrayD::from_shape_fn(IxDyn(&[steps, 1, INPUTS]), |at| value(n * steps + at[0], at[2]));
        let feeds = vec![Feed::from_iter([("x".to_owned(), Tensor::from(x))])];
        Stream { feeds, ..Default::default() }
    };
    Samples { streams: (0..count).map(stream).collect(), carry: Vec::new(), made_up: false, notes: Vec::new() }
}

/// The whole job at about a third of the size. Sensitivities are measured.
fn compress(model: &Model, samples: &Samples) -> Result<(), Error> {
    let engine = Engine::new(model)?;
    let weights = Weights::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() })?;
    let mut job = Study::new(model, weights, Some((&engine, samples)), 0, &Silent)?;
    let judge = Judge::new(model, &LossSpec::default(), &[])?;
    let curves = job.curves(3.0, Rates::All, &Silent)?;
    let sensitivity = job.sensitivity(&job.coarse_widths(3.0), &engine, &judge, &Silent)?;
    assert!(sensitivity.values().all(|s| s.is_finite() && *s >= 0.0), "{sensitivity:?}");
    let plan = job.sized(|sizing| curves.allocate(sizing, &sensitivity, sizing.target(2.2)))?;
    let coded = job.code(&[plan], None, &Silent)?;
    assert!(coded.distortion.values().all(|d| d.is_finite()), "{:?}", coded.distortion);
    for (_, unit) in code::stored(&coded.sites) {
        assert!(unit.decode().iter().all(|v| v.is_finite()), "a weight that is no number");
    }
    if code::stored(&coded.sites).next().is_some() {
        expand::expand(&coded.model).expect("what was coded can be found again, whatever the numbers");
    }
    let loss = LossSpec::default();
    let settings = VerifySettings { samples, calibrated_on: None, loss: &loss, checks: &[], seed: 0 };
    let verdict = verify(model, &coded.model, &settings, &Silent)?;
    assert!(verdict.passed && verdict.outputs.iter().all(|o| o.non_finite == 0), "{:?}", verdict.failures);
    Ok(())
}

#[test]
fn the_sensitivity_of_a_small_model_is_the_geometric_mean_over_several_coarse_versions() {
    let model = model("LSTM", HIDDEN, &noise(4 * HIDDEN, INPUTS + HIDDEN));
    let samples = samples(6, 8, |t, i| ((t * 31 + i * 17 + 1) as f32 * 0.7).sin());
    let engine = Engine::new(&model).unwrap();
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let mut job = Study::new(&model, weights, Some((&engine, &samples)), 0, &Silent).unwrap();
    let widths = job.coarse_widths(2.0);
    assert_eq!(widths.len(), 5);
    let judge = Judge::new(&model, &LossSpec::default(), &[]).unwrap();
    let mut measure = |widths: &[usize]| job.measure(widths, &engine, &judge, &Silent).unwrap();
    let all = measure(&widths);
    let each: Vec<_> = widths.iter().map(|&width| measure(&[width])).collect();
    for (id, sensitivity) in all.iter() {
        let versions: Vec<f64> = each.iter().map(|version| version[id].unwrap()).collect();
        let mean = versions.iter().product::<f64>().powf(0.2);
        assert!((sensitivity.unwrap() / mean - 1.0).abs() < 1e-12, "{id:?}: {all:?}, {versions:?}");
        assert!(versions.iter().any(|s| (s / mean - 1.0).abs() > 0.01), "versions that do not differ: {versions:?}");
    }
}

#[test]
fn weights_and_samples_at_the_edges_give_finite_results() {
    let columns = INPUTS + HIDDEN;
    let some = |gates: usize| noise(gates * HIDDEN, columns);
    let scaled = |gates: usize, scale: fn(usize) -> f32| {
        let mut weights = some(gates);
        weights.rows_mut().into_iter().enumerate().for_each(|(i, mut row)| row *= scale(i));
        weights
    };
    /// A name, and the matrix of so many gates.
    type Weights<'a> = (&'static str, &'a dyn Fn(usize) -> Array2<f32>);
    let all_weights: [Weights<'_>; 11] = [
        ("ordinary", &some),
        ("of rank 1", &|g| noise(g * HIDDEN, 1).dot(&noise(1, columns))),
        ("constant", &|g| Array2::from_elem((g * HIDDEN, columns), 0.3)),
        ("zero", &|g| Array2::zeros((g * HIDDEN, columns))),
        ("nearly too large", &|g| some(g).mapv(|v| v.signum() * (0.7 + 0.3 * v.abs()) * 1e15)),
        ("huge", &|g| some(g) * 9e14),
        ("the largest there are", &|g| some(g).mapv(|v| v.signum() * f32::MAX)),
        ("tiny", &|g| some(g) * 1e-30),
        ("denormal", &|g| some(g) * 1e-42),
        ("of a denormal gate among others", &|g| scaled(g, |i| if i < HIDDEN { 1e-44 } else { 1.0 })),
        ("of all sizes", &|g| scaled(g, |i| 10f32.powi(i as i32 % 45 - 30))),
    ];
    let all_samples = [
        ("ordinary", samples(6, 8, |t, i| ((t * 31 + i * 17 + 1) as f32 * 0.7).sin())),
        ("zero: S is zero", samples(6, 8, |_, _| 0.0)),
        ("of one direction: S is singular", samples(6, 8, |t, i| (t as f32).sin() * (i + 1) as f32)),
        ("with columns of zeros", samples(6, 8, |t, i| if i < 3 { ((t + i) as f32).sin() } else { 0.0 })),
        ("of a single step", samples(1, 1, |_, i| (i as f32).cos())),
        ("huge", samples(2, 4, |t, i| ((t + i) as f32).sin() * 1e30)),
        ("tiny", samples(2, 4, |t, i| ((t + i) as f32).sin() * 1e-30)),
    ];
    for (op, gates) in [("LSTM", 4), ("GRU", 3)] {
        for (weights_are, weights) in &all_weights {
            let model = model(op, HIDDEN, &weights(gates));
            for (samples_are, samples) in &all_samples {
                // The only ways out, both said: weights that no layer has, and samples whose squares are no numbers.
                let refused = match (*weights_are, *samples_are) {
                    ("the largest there are", _) => Some("holds values beyond 1e15"),
                    (_, "huge") => Some("not finite"),
                    _ => None,
                };
                let error = compress(&model, samples).err().map(|e| e.to_string());
                let as_expected = match (&error, refused) {
                    (Some(error), Some(words)) => error.contains(words),
                    (error, refused) => error.is_none() && refused.is_none(),
                };
                assert!(as_expected, "{op}, {weights_are}, samples {samples_are}: {error:?}");
            }
        }
    }
}

/// One hidden unit: matrices of a single row, which no codebook pays for.
#[test]
fn a_layer_of_one_unit_is_refused_with_the_reason() {
    let model = model("LSTM", 1, &concatenate![Axis(1), noise(4, INPUTS), noise(4, 1)]);
    let error = compress(&model, &samples(4, 4, |t, i| (t + i) as f32)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert!(error.to_string().contains("a codebook takes more bytes than it saves"), "{error}");
}
