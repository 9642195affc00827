//! Losses of real models: what is judged, by what, and that the figures are those of an independent computation.

use std::path::Path;

use dirnet::engine::{Engine, Overrides};
use dirnet::loss::{Content, Judge, LossKind, LossSpec};
use dirnet::onnx::{LoadOptions, Model};
use dirnet::samples::{Carry, Samples, Signature};

use crate::corpus;
use crate::made::made;
use crate::verify::rounded;

fn load(path: impl AsRef<Path>) -> Model {
    Model::load(path.as_ref(), &LoadOptions::default()).unwrap()
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm").join(name)
}

#[test]
fn the_cross_entropy_is_the_one_that_the_model_was_published_with() {
    let model = load(fixture("gru256.onnx"));
    let mut samples = Samples::read(&[fixture("holdout.npz")], &Signature::of(&model).unwrap(), &[]).unwrap();
    samples.add_labels("logits", &fixture("holdout_labels.npz")).unwrap();
    let judge = Judge::new(&model, &LossSpec::parse(&["cross-entropy"]).unwrap(), &[]).unwrap();
    let engine = Engine::new(&model).unwrap();
    let comparison = judge.reference(&engine, &samples).unwrap().compare(&engine, &Overrides::default()).unwrap();
    let entropy = comparison.figures()[0].cross_entropy.unwrap();
    assert!((entropy.original - 1.5653).abs() < 5e-5, "{}", entropy.original);
    assert_eq!(comparison.losses().unwrap(), [0.0], "a model is as good as itself");
}

#[test]
fn the_content_of_an_output_decides_its_loss() {
    let judged = |name: &str, losses: &[&str]| {
        let made = made(name);
        let judge = Judge::new(&made.model(), &LossSpec::parse(losses)?, &made.carry())?;
        Ok::<_, dirnet::error::Error>(judge.outputs.into_iter().map(|o| (o.name, o.loss)).collect::<Vec<_>>())
    };
    let of = |name: &str, loss| (name.to_owned(), loss);
    use LossKind::{Disagreement, Kl, Nmse};
    let tags = judged("tags", &[]).unwrap();
    assert_eq!(tags, [of("tags", Disagreement), of("probabilities", Kl), of("logits", Nmse)]);
    assert_eq!(judged("tags", &["logits:kl"]).unwrap()[2], of("logits", Kl));
    assert_eq!(judged("half", &[]).unwrap(), [of("y", Nmse)]);
    assert_eq!(judged("branches", &[]).unwrap(), [of("output", Nmse)], "what is fed back is not judged");
    assert_eq!(judged("step", &[]).unwrap(), [of("y1", Nmse)], "what is fed back in parts is not judged");
    assert!(judged("branches", &["stateN:kl"]).is_err());
    assert!(judged("half", &["z:kl"]).is_err());
    let judge = Judge::new(&made("tags").model(), &LossSpec::default(), &[]).unwrap();
    assert!(matches!(judge.outputs[1].content, Content::Probabilities(_)));
    assert!(!matches!(judge.outputs[2].content, Content::Probabilities(_)));
}

#[test]
fn the_content_of_an_output_of_real_models_decides_its_loss() {
    let Some(models) = corpus::models() else { return };
    let judged = |path: &str, losses: &[&str], carry: &[&str]| {
        let carry: Vec<Carry> = carry.iter().map(|c| Carry::parse(c).unwrap()).collect();
        let judge = Judge::new(&load(models.join(path)), &LossSpec::parse(losses)?, &carry)?;
        Ok::<_, dirnet::error::Error>(judge.outputs.into_iter().map(|o| (o.name, o.loss)).collect::<Vec<_>>())
    };
    let of = |name: &str, loss| (name.to_owned(), loss);
    use LossKind::{Disagreement, Kl, Nmse};
    assert_eq!(judged("charlm/lstm256.onnx", &[], &[]).unwrap(), [of("logits", Nmse)]);
    assert_eq!(judged("charlm/lstm256.onnx", &["logits:kl"], &[]).unwrap(), [of("logits", Kl)]);
    assert_eq!(judged("pose_gru/gru_model.onnx", &[], &[]).unwrap(), [of("output", Kl)]);
    let tashkeel = judged("tashkeel_gru96/model.onnx", &[], &[]).unwrap();
    assert_eq!(tashkeel, [of("output", Disagreement), of("onnx::ArgMax_5596", Kl)]);
    let silero = judged("silero_vad_v5/silero_vad.onnx", &[], &["state=stateN"]).unwrap();
    assert_eq!(silero, [of("output", Nmse)], "what is fed back is not judged");
    assert!(judged("silero_vad_v5/silero_vad.onnx", &["stateN:kl"], &["state=stateN"]).is_err());
    assert!(judged("pose_gru/gru_model.onnx", &["y:kl"], &[]).is_err());
    let g2p = Judge::new(&load(models.join("g2p_id/decoder_model.onnx")), &LossSpec::default(), &[]).unwrap();
    assert!(matches!(g2p.outputs[0].content, Content::Probabilities(_)));
}

#[test]
fn the_order_of_the_threads_does_not_show() {
    let model = load(fixture("gru256.onnx"));
    let other = rounded(&model, 0.1);
    let samples = Samples::read(&[fixture("calibration.npz")], &Signature::of(&model).unwrap(), &[]).unwrap();
    let judge = Judge::new(&model, &LossSpec::parse(&["kl"]).unwrap(), &[]).unwrap();
    let (original, compressed) = (Engine::new(&model).unwrap(), Engine::new(&other).unwrap());
    let figures = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| judge.compare(&original, &compressed, &samples, &dirnet::progress::Silent).unwrap().figures())
    };
    let alone = figures(1);
    assert!(alone[0].nmse.unwrap() > 0.0, "models that differ: {alone:?}");
    assert_eq!(alone, figures(3));
}
