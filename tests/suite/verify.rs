//! Verdicts on pairs of models: what passes, what fails and why, and what cannot be run.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use dirnet::error::ErrorKind;
use dirnet::loss::LossSpec;
use dirnet::onnx::{LoadOptions, Model, NodeProto};
use dirnet::progress::Silent;
use dirnet::samples::{Carry, Samples, Signature};
use dirnet::verify::{Check, CheckKind, Verdict, VerifyScope, VerifySettings, verify};

use crate::corpus;
use crate::made::made;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm").join(name)
}

fn load(path: &Path) -> Model {
    Model::load(path, &LoadOptions::default()).unwrap()
}

/// The model with its weights (float tensors of many elements) rounded to multiples of `step`.
pub fn rounded(model: &Model, step: f32) -> Model {
    let mut proto = model.proto.clone();
    for tensor in &mut proto.graph.as_mut().unwrap().initializer {
        if tensor.data_type() == 1 && tensor.dims.len() == 3 {
            let floats = model.floats(tensor).unwrap();
            let bytes: Vec<u8> = floats.iter().flat_map(|v| ((v / step).round() * step).to_le_bytes()).collect();
            tensor.float_data.clear();
            tensor.raw_data = Some(Bytes::from(bytes));
        }
    }
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

fn samples(model: &Model, path: &Path, carry: &[Carry]) -> Samples {
    Samples::read(&[path.to_owned()], &Signature::of(model).unwrap(), carry).unwrap()
}

fn judge(
    original: &Model,
    compressed: &Model,
    samples: &Samples,
    checks: &[Check],
) -> Result<Verdict, dirnet::error::Error> {
    let loss = LossSpec::default();
    let settings = VerifySettings { samples, calibrated_on: Some("calibration"), loss: &loss, checks, seed: 0 };
    verify(original, compressed, &settings, &Silent)
}

fn check(kind: CheckKind, output: Option<&str>, limit: f64) -> Check {
    Check { kind, output: output.map(str::to_owned), limit }
}

#[test]
fn a_model_passes_against_itself_and_fails_when_it_is_changed() {
    let model = load(&fixture("gru256.onnx"));
    let samples = samples(&model, &fixture("holdout.npz"), &[]).subset(2);
    let checks = [check(CheckKind::MinSnr, None, 60.0), check(CheckKind::MaxKl, Some("logits"), 1e-4)];
    let same = judge(&model, &model, &samples, &checks).unwrap();
    assert!(same.passed && same.scope == VerifyScope::Model && same.samples == 2, "{:?}", same.failures);
    assert_eq!((same.outputs[0].max_abs, same.outputs[0].snr_db), (Some(0.0), None));

    let changed = judge(&model, &rounded(&model, 0.1), &samples, &checks).unwrap();
    assert_eq!(changed.failures.len(), 2, "{:?}", changed.failures);
    assert!(changed.failures[0].contains(" dB is below --min-snr 60 (by "), "{:?}", changed.failures);
    let json = serde_json::to_value(&changed).unwrap();
    assert_eq!((&json["scope"], &json["passed"]), (&"model".into(), &false.into()));
    for key in ["name", "max_abs", "rmse", "nmse", "snr_db", "cosine", "agreement", "kl"] {
        assert!(json["outputs"][0].get(key).is_some_and(|v| !v.is_null()), "{key}");
    }
}

#[test]
fn a_gate_names_an_output_of_the_model() {
    let model = load(&fixture("gru256.onnx"));
    let samples = samples(&model, &fixture("holdout.npz"), &[]).subset(1);
    let e = judge(&model, &model, &samples, &[check(CheckKind::MaxAbs, Some("logit"), 1.0)]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert!(e.message().contains("'logit'") && e.message().contains("logits"), "{e}");
}

#[test]
fn weights_that_are_not_finite_are_no_silent_pass() {
    let model = load(&fixture("gru256.onnx"));
    let samples = samples(&model, &fixture("holdout.npz"), &[]).subset(1);
    let broken = judge(&model, &rounded(&model, 0.0), &samples, &[]).unwrap();
    assert!(!broken.passed && broken.failures[0].contains("NaN or infinite"), "{:?}", broken.failures);
}

/// The model with an output that no engine can compute.
fn with_mystery(model: &Model) -> Model {
    let mut proto = model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    let last = graph.output[0].name().to_owned();
    graph.node.push(NodeProto {
        op_type: Some("Mystery".to_owned()),
        domain: Some("com.example".to_owned()),
        input: vec![last],
        output: vec!["mystery".to_owned()],
        ..Default::default()
    });
    graph.output[0].name = Some("mystery".to_owned());
    let import = dirnet::onnx::proto::OperatorSetIdProto { domain: Some("com.example".to_owned()), version: Some(1) };
    proto.opset_import.push(import);
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

#[test]
fn what_cannot_be_run_is_judged_layer_by_layer() {
    let model = load(&fixture("lstm256.onnx"));
    let samples = samples(&model, &fixture("holdout.npz"), &[]).subset(1);
    let (original, compressed) = (with_mystery(&model), with_mystery(&rounded(&model, 0.02)));
    let verdict = judge(&original, &compressed, &samples, &[check(CheckKind::MinSnr, None, 10.0)]).unwrap();
    assert_eq!((verdict.scope, verdict.outputs.len()), (VerifyScope::Layers, 2));
    assert!(verdict.passed && verdict.reason.is_some(), "{verdict:?}");
    let snr = verdict.outputs[0].snr_db.unwrap();
    assert!((10.0..60.0).contains(&snr), "{snr}");

    let named = judge(&original, &compressed, &samples, &[check(CheckKind::MinSnr, Some("mystery"), 10.0)]).unwrap();
    assert!(!named.passed, "a check of an output that was not run cannot pass");
    assert_eq!(judge(&original, &original, &samples, &[]).unwrap_err().kind(), ErrorKind::Engine, "no layer to run");
}

#[test]
fn a_result_that_cannot_be_run_is_an_error_where_its_original_can() {
    let model = load(&fixture("gru256.onnx"));
    let samples = samples(&model, &fixture("holdout.npz"), &[]).subset(1);
    let mut proto = with_mystery(&model).proto;
    // The output of the original's name is what nobody can compute.
    let graph = proto.graph.as_mut().unwrap();
    let output = model.proto.graph.as_ref().unwrap().output[0].name().to_owned();
    for name in graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)) {
        *name = match &**name {
            "mystery" => output.clone(),
            known if known == output => "before".to_owned(),
            other => other.to_owned(),
        };
    }
    graph.output[0].name = Some(output);
    let broken = Model::from_proto(proto, &LoadOptions::default()).unwrap();
    let e = judge(&model, &broken, &samples, &[]).unwrap_err();
    assert!(e.message().contains("the compressed model cannot"), "{e}");
}

#[test]
fn each_model_feeds_back_its_own_states() {
    let step = made("step");
    let (model, samples) = (step.model(), step.samples());
    check_states(&model, &samples, 10);
}

#[test]
fn each_of_real_models_feeds_back_its_own_states() {
    let Some(models) = corpus::models() else { return };
    let folder = models.join("dtln_pytorch");
    let states = ["h1_in=out_state1[0:1]", "c1_in=out_state1[1:2]", "h2_in=out_state1[2:3]", "c2_in=out_state1[3:4]"];
    let carry = states.map(|c| Carry::parse(c).unwrap());
    let model = load(&folder.join("model_p1.onnx"));
    check_states(&model, &samples(&model, &folder.join("model_p1.holdout.npz"), &carry).subset(60), 60);
}

/// Of a model whose states are not judged, on so many steps.
fn check_states(model: &Model, samples: &Samples, steps: usize) {
    let verdict = judge(model, model, samples, &[]).unwrap();
    let names: Vec<&str> = verdict.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!((names.as_slice(), verdict.samples), (&["y1"][..], steps));
    assert_eq!(verdict.outputs[0].max_abs, Some(0.0));

    let weak = judge(model, &rounded(model, 0.1), samples, &[]).unwrap();
    assert!(weak.outputs[0].nmse.unwrap() > 0.0);
}
