//! Files beside the model and around the output: values are read from the model's directory only, and what is written
//! appears whole or not at all. One test is named after each attack.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dirnet::error::{ErrorKind, Result};
use dirnet::onnx::external_data::DataRange;
use dirnet::onnx::{ElementType, GraphProto, LoadOptions, Model, ModelProto, TensorProto, model, tensor};
use prost::Message;
use tempfile::TempDir;

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &LoadOptions::default())
}

fn initializer(model: &Model) -> &TensorProto {
    &model.proto.graph.as_ref().unwrap().initializer[0]
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

fn model_at(location: &str, bytes: u64) -> ModelProto {
    let mut w = tensor::float("W", &[0], &[]);
    w.dims = vec![bytes as i64 / 4];
    DataRange { location: location.to_owned(), offset: 0, length: Some(bytes) }.write_to(&mut w);
    let graph = GraphProto { initializer: vec![w], ..Default::default() };
    ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() }
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
    assert_eq!(model.floats(initializer(&model)).unwrap().as_slice().unwrap(), [0.0, 1.0, 2.0]);
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
    assert_eq!(model.payload(initializer(&model)).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(model.self_contained().unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn values_behind_four_gibibytes_are_read() {
    let (_directory, file) = with_side_file("huge");
    let offset = 5u64 << 30;
    let huge = fs::File::create(file.with_file_name("huge")).unwrap();
    huge.write_all_at(&2.5f32.to_le_bytes(), offset).unwrap();
    let mut proto = model_at("huge", 4);
    let tensor = &mut proto.graph.as_mut().unwrap().initializer[0];
    DataRange { location: "huge".to_owned(), offset, length: None }.write_to(tensor);
    fs::write(&file, proto.encode_to_vec()).unwrap();
    let model = load(&file).unwrap();
    assert_eq!(model.floats(initializer(&model)).unwrap().as_slice().unwrap(), [2.5]);
    assert_eq!(model.bytes(), file.metadata().unwrap().len() + offset + 4);
}

/// Three gigabytes go through `save` without being loaded; holes stay holes, so the disk need not have them.
#[test]
#[ignore = "reads three gigabytes of zeros, which takes some systems half a minute"]
fn side_files_beyond_two_gibibytes_are_copied_by_pieces() {
    let (_directory, file) = with_side_file("huge");
    let bytes = 3u64 << 30;
    let huge = fs::File::create(file.with_file_name("huge")).unwrap();
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

/// Peak memory of the process while a model of 512 MiB is loaded and saved: the file once, and small change.
#[test]
#[ignore = "to be run alone: it measures the whole process"]
fn loading_and_saving_take_the_memory_of_one_file() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("large.onnx");
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    let part = Bytes::from(vec![7u8; 64 << 20]);
    let initializer =
        (0..8).map(|i| tensor::from_payload(&format!("t{i}"), ElementType::Float, &[16 << 20], part.clone())).collect();
    let graph = GraphProto { initializer, ..Default::default() };
    let proto = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
    Model::from_proto(proto, &LoadOptions::default()).unwrap().save(&file).unwrap();
    drop(part);
    let before = peak();
    load(&file).unwrap().save(&directory.path().join("copy.onnx")).unwrap();
    let (grown, size) = (peak() - before.min(64 << 20), file.metadata().unwrap().len());
    assert!(grown < size + size / 8, "{} MiB for a file of {} MiB", grown >> 20, size >> 20);
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

/// Tied weights: tensors that share bytes of a side file share them in what is written, be the ranges the same or not.
#[test]
fn ranges_that_tensors_share_are_written_once() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let values: Vec<f32> = (0..4096).map(|v| v as f32).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(at("all.bin"), &bytes).unwrap();
    let tensor = |index: usize, location: &str, first: usize, count: usize, length: bool| {
        let mut tensor = tensor::float(&format!("t{index}"), &[0], &[]);
        tensor.dims = vec![count as i64];
        let length = length.then_some(4 * count as u64);
        DataRange { location: location.to_owned(), offset: 4 * first as u64, length }.write_to(&mut tensor);
        tensor
    };
    let mut tensors: Vec<TensorProto> = (0..300).map(|i| tensor(i, "all.bin", 0, 1024, true)).collect();
    tensors.extend((300..600).map(|i| tensor(i, "./all.bin", i - 300 + 1024, 512, true)));
    tensors.push(tensor(600, "all.bin", 3072, 1024, false));
    let graph = GraphProto { initializer: tensors.clone(), ..Default::default() };
    let proto = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
    fs::write(at("model.onnx"), proto.encode_to_vec()).unwrap();

    let model = load(&at("model.onnx")).unwrap();
    let written = model.save(&at("out.onnx")).unwrap();
    let side = at("out.onnx.data").metadata().unwrap().len();
    assert_eq!(side, 4 * (1024 + 811 + 1024) + 20, "each byte once, pieces at cache lines");
    assert_eq!(written, side + at("out.onnx").metadata().unwrap().len());
    assert!(written.abs_diff(model.saved_bytes().unwrap()) <= 8 * 601, "but for the name of the side file");
    let back = load(&at("out.onnx")).unwrap();
    assert_eq!(back.bytes(), written);
    let found = back.proto.graph.as_ref().unwrap().initializer.iter();
    for (before, after) in tensors.iter().zip(found) {
        let place = DataRange::of(before).unwrap();
        let first = place.offset as usize / 4;
        let expected = &values[first..first + before.dims[0] as usize];
        assert_eq!(back.floats(after).unwrap().as_slice().unwrap(), expected, "{}", before.name());
    }
}

/// The names of all that could be written are tried before any work; every name that the system allows will do.
#[test]
fn names_that_are_too_long_are_found_before() {
    let (directory, file) = with_side_file("w.data");
    let model = load(&file).unwrap();
    let at = |length: usize| directory.path().join("n".repeat(length));
    let refused = |length: usize| model.check_target(&at(length)).unwrap_err().to_string();
    assert!(refused(256).contains("name too long"), "{}", refused(256));
    assert!(refused(251).contains(".data: File name too long"), "{}", refused(251));
    model.check_target(&at(250)).unwrap();
    model.save(&at(250)).unwrap();
    let back = load(&at(250)).unwrap();
    assert_eq!(back.floats(initializer(&back)).unwrap().as_slice().unwrap(), [0.0, 1.0, 2.0]);
}
