//! Loading, saving and rewriting models: real ones come through whole, broken and hostile ones end in one clear line.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dirnet::error::Result;
use dirnet::onnx::graph::{for_each_tensor, is_standard};
use dirnet::onnx::{ElementType, LoadOptions, Model, NodeNames, Origin, Rewriter, TensorProto, Values, model, tensor};
use prost::Message;
use tempfile::TempDir;

use crate::{broken, corpus, made};

#[path = "../../examples/generate_proto.rs"]
mod generate_proto;

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &LoadOptions::default())
}

fn tensors(model: &Model) -> Vec<&TensorProto> {
    let mut all = Vec::new();
    for_each_tensor(&model.proto, |t| all.push(t));
    all
}

/// The error of reading every tensor, as an LSTM would read its own.
fn touch(model: &Model) -> Result<()> {
    for t in tensors(model) {
        if t.data_type() != ElementType::String as i32 {
            model.payload(t)?;
        }
    }
    Ok(())
}

#[test]
fn checked_in_messages_are_those_of_the_schema() {
    let checked_in = fs::read_to_string(generate_proto::TARGET).unwrap();
    assert!(checked_in == generate_proto::messages().unwrap(), "run: cargo run --release --example generate_proto");
}

#[test]
fn made_models_come_through_a_round_trip_whole() {
    come_through(made::model_files());
}

#[test]
fn real_models_come_through_a_round_trip_whole() {
    come_through(corpus::model_files().unwrap_or_default());
}

fn come_through(files: Vec<PathBuf>) {
    let directory = TempDir::new().unwrap();
    for file in files {
        let first = load(&file).unwrap();
        let copy = directory.path().join("copy.onnx");
        let written = first.save(&copy).unwrap();
        let second = load(&copy).unwrap();
        assert_eq!(written, second.bytes(), "{}", file.display());
        let (before, after) = (tensors(&first), tensors(&second));
        assert_eq!(before.len(), after.len());
        for (a, b) in before.into_iter().zip(after) {
            if a.data_type() != ElementType::String as i32 {
                assert_eq!(first.payload(a).unwrap(), second.payload(b).unwrap(), "{}", a.name());
            }
        }
        assert_eq!(first.self_contained().unwrap(), second.self_contained().unwrap(), "{}", file.display());
        if !model::side_path(&copy).exists() {
            assert_eq!(first.proto, second.proto, "{}", file.display());
            assert_eq!(fs::read(&copy).unwrap(), first.proto.encode_to_vec(), "the bytes are prost's");
        }
        let _ = fs::remove_file(model::side_path(&copy));
    }
}

#[test]
fn payloads_of_made_models_are_slices_of_the_file() {
    assert!(are_slices(made::model_files()) > 50);
}

#[test]
fn payloads_of_real_models_are_slices_of_the_file() {
    let Some(files) = corpus::model_files() else { return };
    assert!(are_slices(files) > 500);
}

/// How many payloads were seen.
fn are_slices(files: Vec<PathBuf>) -> usize {
    let mut seen = 0;
    for file in files {
        let bytes = Bytes::from(fs::read(&file).unwrap());
        let range = bytes.as_ptr_range();
        let model = Model::from_bytes(bytes.clone(), &LoadOptions::default()).unwrap();
        for t in tensors(&model) {
            if let Some(raw) = t.raw_data.as_ref().filter(|raw| !raw.is_empty()) {
                assert!(range.contains(&raw.as_ptr()), "{} of {} was copied", t.name(), file.display());
                seen += 1;
            }
        }
    }
    seen
}

/// What the compressor does, with constants of no meaning: every constant that feeds W or R alone goes, the rest stays.
#[test]
fn recurrent_weights_of_made_models_can_be_replaced() {
    assert!(replace(made::model_files()) >= 10);
}

#[test]
fn recurrent_weights_of_real_models_can_be_replaced() {
    let Some(files) = corpus::model_files() else { return };
    assert!(replace(files) >= 10);
}

/// In how many models the weights were initializers.
fn replace(files: Vec<PathBuf>) -> usize {
    let directory = TempDir::new().unwrap();
    let mut replaced = 0;
    for file in files {
        let mut model = load(&file).unwrap();
        let names = NodeNames::new(&model.proto);
        let mut sites = Vec::new();
        for (scope, graph) in model.graphs() {
            for (index, node) in graph.node.iter().enumerate() {
                if is_standard(node.domain()) && matches!(node.op_type(), "LSTM" | "GRU") {
                    sites.push((scope.clone(), index, names.get(&scope, index).to_owned()));
                }
            }
        }
        let constant = {
            let values = Values::new(&model.proto).unwrap();
            sites.iter().any(|(scope, index, _)| {
                let w = &model.node(scope, *index).input[1];
                matches!(values.resolve(scope, w).unwrap().origin, Origin::Initializer(_))
            })
        };
        let before = model.proto.encoded_len();
        let mut rewriter = Rewriter::new(&mut model);
        for (scope, index, name) in &sites {
            for (input, tensor_name) in [(1, "W"), (2, "R")] {
                let value = rewriter.fresh(&format!("{name}/{tensor_name}"));
                rewriter.add_constant(scope, tensor::float(&value, &[1, 4, 1], &[0.0; 4]));
                rewriter.set_input(scope, *index, input, &value);
            }
        }
        let dropped = rewriter.finish().unwrap();
        if constant {
            replaced += 1;
            assert!(!dropped.initializers.is_empty(), "{}", file.display());
            assert!(model.proto.encoded_len() < before + 400 * sites.len(), "{}", file.display());
        }
        let copy = directory.path().join("out.onnx");
        model.save(&copy).unwrap();
        assert_eq!(load(&copy).unwrap().self_contained().unwrap(), model.self_contained().unwrap());
        let _ = fs::remove_file(model::side_path(&copy));
    }
    replaced
}

/// Where each broken file is found out, and by which words. Those of `Later` are sound as graphs: it is the recurrent
/// node, or running the model, that cannot be.
enum Found {
    AtLoad(&'static str),
    WhenTouched(&'static str),
    Later,
}

#[test]
fn every_broken_file_is_found_out_in_one_line() {
    use Found::*;
    let folder = broken::folder();
    let expected = [
        ("R_shape_mismatch", Later),
        ("W_not_4H", Later),
        ("all_zero_W", Later),
        ("bomb_constantofshape_32GB", Later),
        ("contrib_lstm", Later),
        ("custom_domain", Later),
        ("cycle", AtLoad("a cycle")),
        ("dangling_input", AtLoad("input 'nope' is not defined")),
        ("dims_negative", WhenTouched("-32 is negative")),
        ("dims_overflow", WhenTouched("overflows")),
        ("dims_overflow_wrap", WhenTouched("overflows")),
        ("dtype_999", WhenTouched("element type 999")),
        ("dup_initializer", AtLoad("'W' is defined twice")),
        ("empty", AtLoad("empty")),
        ("ext_absolute", AtLoad("is not relative")),
        ("ext_len_huge", AtLoad("beyond the end of the file (768 bytes)")),
        ("ext_missing", AtLoad("nofile.data: tensor 'W': No such file")),
        ("ext_neg_off", AtLoad("offset '-4' is not a byte count")),
        ("ext_short", AtLoad("beyond the end of the file (384 bytes)")),
        ("ext_traversal", AtLoad("leads out of the model's directory")),
        ("garbage", AtLoad("not an ONNX model")),
        ("hidden_absent", Later),
        ("hidden_mismatch", Later),
        ("hidden_neg", Later),
        ("ir_9999", AtLoad("IR version 9999 is newer")),
        ("nan_inf_weights", Later),
        ("ok", Later),
        ("opset_9999", AtLoad("operator set 9999 is newer")),
        ("raw_long", WhenTouched("832 bytes of data, but [1, 32, 6] of FLOAT needs 768")),
        ("raw_short", WhenTouched("764 bytes of data, but [1, 32, 6] of FLOAT needs 768")),
        ("truncated", AtLoad("cut off")),
    ];
    let mut present: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    present.sort();
    assert_eq!(present, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, found) in expected {
        let model = load(&folder.join(name).join("model.onnx"));
        let (error, words) = match found {
            AtLoad(words) => (model.unwrap_err(), words),
            WhenTouched(words) => (touch(&model.unwrap()).unwrap_err(), words),
            Later => {
                touch(&model.unwrap()).unwrap();
                continue;
            }
        };
        let line = error.to_string();
        assert!(line.contains(words) && !line.contains('\n'), "{name}: {line}");
    }
}

#[test]
fn newer_models_load_if_asked_for() {
    let folder = broken::folder();
    for name in ["ir_9999", "opset_9999"] {
        Model::load(&folder.join(name).join("model.onnx"), &LoadOptions { allow_newer: true }).unwrap();
    }
}

/// Truncations and flipped bytes of a sound file: any outcome but a panic or a second line.
#[test]
fn damaged_files_never_panic() {
    let folder = broken::folder();
    let whole = fs::read(folder.join("ok/model.onnx")).unwrap();
    let options = LoadOptions { allow_newer: true };
    let survive = |bytes: Vec<u8>| {
        let outcome = Model::from_bytes(bytes.into(), &options).and_then(|m| {
            NodeNames::new(&m.proto);
            m.self_contained()?;
            touch(&m)
        });
        if let Err(e) = outcome {
            assert!(!e.to_string().contains('\n'), "{e}");
        }
    };
    for n in 0..whole.len() {
        survive(whole[..n].to_vec());
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut damaged = whole.clone();
            damaged[n] ^= flip;
            survive(damaged);
        }
    }
}

/// As [`damaged_files_never_panic`], over the structure of every real model: its first 4 KiB and random places.
#[test]
#[ignore = "minutes: six thousand damaged copies of every model"]
fn damaged_real_models_never_panic() {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::ChaCha8Rng::seed_from_u64(1);
    for file in corpus::model_files().unwrap_or_default() {
        let whole = fs::read(&file).unwrap();
        let places = (0..whole.len().min(4096)).chain((0..2000).map(|_| random.random_range(0..whole.len())));
        for place in places.collect::<Vec<_>>() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << random.random_range(0..8);
            if let Ok(model) = Model::from_bytes(damaged.into(), &LoadOptions { allow_newer: true }) {
                let _ = touch(&model);
            }
        }
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Model::from_bytes(bytes.clone().into(), &LoadOptions::default());
            let _ = model::decode_tensor(bytes.into());
        }

        #[test]
        fn typed_and_raw_payloads_agree(values in proptest::collection::vec(any::<f32>(), 0..50)) {
            let raw = tensor::float("t", &[values.len()], &values);
            let mut typed = raw.clone();
            typed.raw_data = None;
            typed.float_data = values;
            prop_assert_eq!(tensor::inline_payload(&raw).unwrap(), tensor::inline_payload(&typed).unwrap());
        }
    }
}
