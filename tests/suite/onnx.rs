//! Loading, saving and rewriting models: real ones come through whole, broken and hostile ones end in one clear line.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dirnet::error::{ErrorKind, Result};
use dirnet::onnx::external_data::Place;
use dirnet::onnx::graph::{for_each_tensor, is_standard};
use dirnet::onnx::{ElementType, LoadOptions, Model, NodeNames, Origin, Rewriter, TensorProto, Values, model, tensor};
use prost::Message;
use tempfile::TempDir;

use crate::corpus::{beside_models, model_files};

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
fn real_models_come_through_a_round_trip_whole() {
    let directory = TempDir::new().unwrap();
    for file in model_files() {
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
fn payloads_of_real_models_are_slices_of_the_file() {
    for file in model_files() {
        let bytes = Bytes::from(fs::read(&file).unwrap());
        let range = bytes.as_ptr_range();
        let model = Model::from_bytes(bytes.clone(), &LoadOptions::default()).unwrap();
        for t in tensors(&model) {
            if let Some(raw) = t.raw_data.as_ref().filter(|raw| !raw.is_empty()) {
                assert!(range.contains(&raw.as_ptr()), "{} of {} was copied", t.name(), file.display());
            }
        }
    }
}

/// What the compressor does, with constants of no meaning: every constant that feeds W or R alone goes, the rest stays.
#[test]
fn recurrent_weights_of_real_models_can_be_replaced() {
    let directory = TempDir::new().unwrap();
    for file in model_files() {
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
            assert!(!dropped.initializers.is_empty(), "{}", file.display());
            assert!(model.proto.encoded_len() < before + 400 * sites.len(), "{}", file.display());
        }
        let copy = directory.path().join("out.onnx");
        model.save(&copy).unwrap();
        assert_eq!(load(&copy).unwrap().self_contained().unwrap(), model.self_contained().unwrap());
        let _ = fs::remove_file(model::side_path(&copy));
    }
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
    let Some(folder) = beside_models("bad") else { return };
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
    let Some(folder) = beside_models("bad") else { return };
    for name in ["ir_9999", "opset_9999"] {
        Model::load(&folder.join(name).join("model.onnx"), &LoadOptions { allow_newer: true }).unwrap();
    }
}

/// Truncations and flipped bytes of a sound file: any outcome but a panic or a second line.
#[test]
fn damaged_files_never_panic() {
    let Some(folder) = beside_models("bad") else { return };
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

/// A directory with a model whose tensor `W` (12 bytes) is at `location`, and a sound side file `w.data`.
fn with_side_file(location: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("model")).unwrap();
    fs::write(directory.path().join("secret"), [1; 16]).unwrap();
    let model_directory = directory.path().join("model");
    fs::write(model_directory.join("w.data"), [0, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 64, 9, 9, 9, 9]).unwrap();
    let file = model_directory.join("model.onnx");
    fs::write(&file, model_at(location, 12).encode_to_vec()).unwrap();
    (directory, file)
}

fn model_at(location: &str, bytes: u64) -> dirnet::onnx::ModelProto {
    let mut w = tensor::float("W", &[0], &[]);
    w.dims = vec![bytes as i64 / 4];
    Place { location: location.to_owned(), offset: 0, length: Some(bytes) }.write_to(&mut w);
    let graph = dirnet::onnx::GraphProto { initializer: vec![w], ..Default::default() };
    dirnet::onnx::ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() }
}

fn refused(file: &Path, words: &str) {
    let line = load(file).unwrap_err().to_string();
    assert!(line.contains(words) && line.contains("tensor 'W'"), "{line}");
}

#[test]
fn side_files_are_read_from_the_models_directory_and_below() {
    let (directory, file) = with_side_file("w.data");
    let model = load(&file).unwrap();
    assert_eq!(model.bytes(), file.metadata().unwrap().len() + 16);
    assert_eq!(model.floats(tensors(&model)[0]).unwrap().as_slice().unwrap(), [0.0, 1.0, 2.0]);
    fs::create_dir(directory.path().join("model/sub")).unwrap();
    fs::copy(directory.path().join("model/w.data"), directory.path().join("model/sub/w.data")).unwrap();
    fs::write(&file, model_at("./sub/w.data", 12).encode_to_vec()).unwrap();
    assert!(load(&file).is_ok());
}

#[test]
fn external_data_by_absolute_path_is_refused() {
    let (directory, file) = with_side_file("w.data");
    let absolute = directory.path().join("secret");
    fs::write(&file, model_at(absolute.to_str().unwrap(), 12).encode_to_vec()).unwrap();
    refused(&file, "is not relative");
}

#[test]
fn external_data_by_parent_directory_is_refused() {
    refused(&with_side_file("../secret").1, "leads out");
    refused(&with_side_file("sub/../../secret").1, "No such file");
    refused(&with_side_file("w.data/../../secret").1, "leads out");
}

#[test]
fn external_data_by_symbolic_link_is_refused() {
    let (directory, file) = with_side_file("link");
    std::os::unix::fs::symlink("w.data", directory.path().join("model/link")).unwrap();
    refused(&file, "symbolic link");
    let (directory, file) = with_side_file("link/secret");
    std::os::unix::fs::symlink(directory.path(), directory.path().join("model/link")).unwrap();
    refused(&file, "symbolic link");
}

#[test]
fn external_data_by_hard_link_is_refused() {
    let (directory, file) = with_side_file("link");
    fs::hard_link(directory.path().join("secret"), directory.path().join("model/link")).unwrap();
    refused(&file, "hard link");
}

#[test]
fn external_data_in_a_pipe_or_directory_is_refused_without_waiting() {
    let (directory, file) = with_side_file("pipe");
    let made = std::process::Command::new("mkfifo").arg(directory.path().join("model/pipe")).status().unwrap();
    assert!(made.success());
    refused(&file, "not a regular file");
    refused(&with_side_file(".").1, "not a regular file");
    let pipe = directory.path().join("model/pipe");
    assert!(load(&pipe).unwrap_err().to_string().contains("not a regular file"), "the model itself as a pipe");
}

#[test]
fn external_data_of_another_length_than_the_dimensions_need_is_refused() {
    let (_directory, file) = with_side_file("w.data");
    let mut proto = model_at("w.data", 12);
    proto.graph.as_mut().unwrap().initializer[0].dims = vec![4];
    fs::write(&file, proto.encode_to_vec()).unwrap();
    refused(&file, "12 bytes, but its dimensions need 16");
}

#[test]
fn a_sparse_file_of_a_terabyte_costs_no_memory() {
    let (_directory, file) = with_side_file("huge");
    let huge = file.with_file_name("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    fs::write(&file, model_at("huge", 1 << 40).encode_to_vec()).unwrap();
    let model = load(&file).unwrap();
    assert_eq!(model.payload(tensors(&model)[0]).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(model.self_contained().unwrap_err().kind(), ErrorKind::Limit);
}

/// Three gigabytes go through `save` without being loaded; holes stay holes, so the disk need not have them.
#[test]
fn side_files_beyond_two_gibibytes_are_copied_by_pieces() {
    let (_directory, file) = with_side_file("huge");
    let bytes = 3u64 << 30;
    let huge = fs::File::create(file.with_file_name("huge")).unwrap();
    huge.set_len(bytes).unwrap();
    huge.write_all_at(&[1, 2, 3, 4], bytes - 4).unwrap();
    fs::write(&file, model_at("huge", bytes).encode_to_vec()).unwrap();
    let out = file.with_file_name("out.onnx");
    let written = load(&file).unwrap().save(&out).unwrap();
    assert_eq!(written, load(&out).unwrap().bytes());
    let side = fs::File::open(model::side_path(&out)).unwrap();
    let mut end = [0; 4];
    side.read_exact_at(&mut end, bytes - 4).unwrap();
    assert_eq!(end, [1, 2, 3, 4]);
    assert!(side.metadata().unwrap().blocks() * 512 < 64 << 20, "the holes were filled");
}

#[test]
fn the_input_is_never_the_output() {
    let (directory, file) = with_side_file("w.data");
    let model = load(&file).unwrap();
    let refuse = |target: &Path, words: &str| {
        let e = model.save(target).unwrap_err();
        assert!(e.kind() == ErrorKind::Usage && e.to_string().contains(words), "{e}");
        assert_eq!(model.check_target(target).unwrap_err().to_string(), e.to_string());
    };
    refuse(&file, "this is the input");
    refuse(&file.parent().unwrap().join("../model/model.onnx"), "this is the input");
    refuse(&file.with_file_name("w.data"), "this is the input");
    refuse(&file.with_file_name("w"), "this is the input"); // its side file would be w.data
    refuse(directory.path(), "directory");
    refuse(&directory.path().join("none/out.onnx"), "does not exist");
    refuse(Path::new("/dev/null"), "regular file");
    let link = directory.path().join("link.onnx");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    refuse(&link, "symbolic link");
    let hard = directory.path().join("hard.onnx");
    fs::hard_link(&file, &hard).unwrap();
    refuse(&hard, "this is the input");
    assert!(load(&file).is_ok());
}

#[test]
fn a_save_leaves_one_file_with_the_usual_mode() {
    let (directory, file) = with_side_file("w.data");
    let out = directory.path().join("out.onnx");
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    load(&file).unwrap().save(&out).unwrap();
    assert_eq!(mode(&out), mode(&plain));
    fs::set_permissions(&out, fs::Permissions::from_mode(0o600)).unwrap();
    load(&file).unwrap().save(&out).unwrap();
    assert_eq!(mode(&out), 0o600, "a file that is replaced keeps its mode");
    let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["model", "out.onnx", "out.onnx.data", "plain", "secret"]);
}

#[test]
fn a_failed_save_leaves_nothing() {
    let (directory, file) = with_side_file("w.data");
    let model = load(&file).unwrap();
    fs::remove_file(file.with_file_name("w.data")).unwrap();
    assert!(model.save(&directory.path().join("out.onnx")).is_err());
    let (directory, file) = with_side_file("w.data");
    let model = load(&file).unwrap();
    fs::create_dir(directory.path().join("model/out.onnx.data")).unwrap();
    assert!(model.save(&directory.path().join("model/out.onnx")).is_err(), "the side file's place is taken");
    assert!(!directory.path().join("model/out.onnx").exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "model and secret");
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
