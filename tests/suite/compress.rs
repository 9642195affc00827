//! What compress writes: it fits the target, what is found in it is what the codes stand for, and expand gives that back.
//! That the graph decodes the same is for [`crate::decode`] to see.

use std::path::Path;

use dirnet::compress;
use dirnet::encode::{self, Writing};
use dirnet::error::{Error, ErrorKind};
use dirnet::expand;
use dirnet::onnx::{AttributeProto, GraphProto, LoadOptions, Model, NodeProto, Values, tensor};
use dirnet::plan;
use dirnet::recurrent::{self, FindOptions};
use dirnet::sites::Weights;
use ndarray::{Axis, Slice};
use prost::Message;

use crate::hostile::targets::{int, node, of, value, wave};
use crate::hostile::typed;
use crate::made::{self, fixture};
use crate::{corpus, quick};

/// Whether there was something to compress, and it could be made so small.
fn round_trip(path: &Path, ratio: f64) -> Result<(), Error> {
    let model = Model::load(path, &LoadOptions::default()).unwrap();
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() })?;
    let writing = Writing { note: "test".to_owned(), ..Writing::default() };
    let equal = weights.sites().map(|_| 1.0);
    let (target, plan) = compress::sized(&model, &weights, &writing, &encode::Measured::default(), |sizing| {
        let target = sizing.target(ratio);
        (target, plan::uniform(sizing, &equal, target))
    });
    let plan = plan?;
    let coded = quick::learn(&weights, &plan, 127);
    let result = encode::apply(&model, &weights, &coded, &writing).unwrap();
    let bytes = result.saved_bytes().unwrap();
    assert!(bytes <= target, "{}: {bytes} > {target}", path.display());
    assert_eq!(bytes, encode::size(&model, &weights, &plan, &writing).unwrap(), "{}", path.display());

    let again = recurrent::find(&result, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let names = |s: &recurrent::Survey| s.nodes.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&weights.survey), "{}", path.display());
    for (unit, coded) in weights.all.iter().map(|site| (site, &coded[site.id])) {
        let used = weights.survey.weights[unit.tensor.0].uses[0];
        let values = again.nodes[used.node].source(used.matrix).values(&result).unwrap();
        let rows = values.index_axis(Axis(0), unit.block.plane);
        let rows = rows.slice_axis(Axis(0), Slice::from(unit.block.rows.clone()));
        let mut expected = coded.as_ref().unwrap().decode();
        if weights.survey.source(&weights.survey.weights[unit.tensor.0]).element != dirnet::onnx::ElementType::Float {
            expected.mapv_inplace(|v| half::f16::from_f32(v).to_f32());
        }
        assert!(rows == expected, "{}: {}", path.display(), weights.place(unit));
    }

    let expanded = expand::expand(&result).unwrap();
    let dense = recurrent::find(&expanded, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let values = Values::new(&expanded.proto).unwrap();
    for (a, b) in again.weights.iter().zip(&dense.weights) {
        assert!(!expand::is_coded(&expanded, &values, dense.source(b)));
        assert_eq!(again.source(a).values(&result).unwrap(), dense.source(b).values(&expanded).unwrap());
    }
    assert_eq!(expand::expand(&expanded).unwrap_err().kind(), ErrorKind::NothingToDo);
    Ok(())
}

/// In small layers a codebook weighs more than its codes, so that the coarsest rate is not the smallest file.
#[test]
fn a_target_that_one_rate_meets_is_not_refused_beforehand() {
    let weight = |name: &str| tensor::float(name, &[1, 128, 32], &wave(4096));
    let proto = of(GraphProto {
        node: vec![node("LSTM", &["x", "W", "R"], "y", vec![int("hidden_size", 32)])],
        initializer: vec![weight("W"), weight("R")],
        input: vec![typed("x", 1, &[5, 1, 32])],
        output: vec![value("y")],
        ..GraphProto::default()
    });
    let model = Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default()).unwrap();
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let writing = Writing::default();
    let equal = weights.sites().map(|_| 1.0);
    compress::sized(&model, &weights, &writing, &encode::Measured::default(), |sizing| {
        let meets = |ratio: f64| plan::uniform(sizing, &equal, sizing.target(ratio)).is_ok();
        let ratios: Vec<f64> = (4..40).map(|half| f64::from(half) / 2.0).collect();
        assert!(ratios.iter().any(|&ratio| meets(ratio)) && ratios.iter().any(|&ratio| !meets(ratio)));
        for ratio in ratios {
            let checked = plan::check_target(sizing, sizing.target(ratio), true, |_| {});
            assert_eq!(checked.is_ok(), meets(ratio), "at a ratio of {ratio}");
        }
    });
}

#[test]
fn what_is_written_fits_the_target_and_goes_back() {
    for name in ["lstm256", "gru256"] {
        round_trip(&fixture(&format!("charlm/{name}.onnx")), 6.0).unwrap();
    }
    // In layers of 4 units no codebook pays.
    for made in made::ALL {
        let refused = round_trip(&made.path(), 6.0).err();
        assert_eq!(refused.as_ref().map(Error::kind), Some(ErrorKind::Target), "{}: {refused:?}", made.name);
    }
}

#[test]
fn what_is_written_of_real_models_fits_the_target_and_goes_back() {
    let Some(files) = corpus::model_files() else { return };
    let (mut done, mut nothing, mut small) = (0, 0, 0);
    for path in files {
        match round_trip(&path, 6.0).map_err(|e| e.kind()) {
            Ok(()) => done += 1,
            Err(ErrorKind::NothingToDo) => nothing += 1,
            Err(ErrorKind::Target) => small += 1,
            Err(kind) => panic!("{}: {kind:?}", path.display()),
        }
    }
    assert!(done >= 18, "{done} compressed, {nothing} without layers, {small} too small");
}

/// Weights that somebody else stores as int8, with a scale for each row, are weights to compress like any other.
#[test]
fn int8_weights_of_others_are_not_taken_for_ours() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm/gru256.onnx");
    let mut proto = Model::load(&path, &LoadOptions::default()).unwrap().proto;
    let graph = proto.graph.as_mut().unwrap();
    let gru = graph.node.iter().position(|n| n.op_type() == "GRU").unwrap();
    let w = std::mem::replace(&mut graph.node[gru].input[1], "others".to_owned());
    let stored = graph.initializer.iter_mut().find(|t| t.name() == w).unwrap();
    let shape: Vec<usize> = stored.dims.iter().map(|&d| d as usize).collect();
    let values: Vec<i8> = (0..shape.iter().product()).map(|i| (i % 251) as i8).collect();
    *stored = tensor::int8(&w, &shape, &values);
    graph.initializer.push(tensor::float("scale", &[1, shape[1], 1], &vec![0.01; shape[1]]));
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    };
    let to = AttributeProto { name: Some("to".to_owned()), i: Some(1), r#type: Some(2), ..Default::default() };
    graph.node.insert(gru, node("Mul", &["levels", "scale"], "others", vec![]));
    graph.node.insert(gru, node("Cast", &[&w], "levels", vec![to]));
    let model = Model::from_proto(proto, &LoadOptions::default()).unwrap();
    let survey = recurrent::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    assert_eq!(survey.nodes.len(), 2, "both can be compressed: {:?}", survey.skipped);
    let values = Values::new(&model.proto).unwrap();
    assert!(survey.weights.iter().all(|weight| !expand::is_coded(&model, &values, survey.source(weight))));
    assert_eq!(expand::expand(&model).unwrap_err().kind(), ErrorKind::NothingToDo);
}
