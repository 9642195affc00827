//! Hostile files and bad luck, end to end: each test is named after an attack or a mishap of docs/security.md.

#[path = "../../fuzz/targets.rs"]
pub mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dirnet::encode::{Assigned, Form, Request};
use dirnet::error::ErrorKind;
use dirnet::expand;
use dirnet::onnx::external_data::DataRange;
use dirnet::onnx::graph::for_each_tensor;
use dirnet::onnx::proto::{
    OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use dirnet::onnx::{GraphProto, LoadOptions, Model, ModelProto, NodeProto, TensorProto, model, tensor};
use dirnet::plan::Storage;
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Samples, Signature};
use dirnet::sites::Weights;
use proptest::prelude::*;
use prost::Message;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use targets::{KINDS, TARGETS, damage, graph, int, ints, node, of, value, wave};
use tempfile::TempDir;

use crate::{broken, corpus, docs};

pub fn dirnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dirnet"));
    command.env_remove("RUST_BACKTRACE");
    command
}

/// Exit code, and what is on stderr but for the log of phases.
pub fn shown(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr);
    let is_log = |line: &str| line.ends_with(" ...") || line.contains(": done in ");
    let kept = text.lines().filter(|line| !is_log(line)).map(|line| format!("{line}\n")).collect();
    (output.status.code(), kept)
}

pub fn run(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    shown(&dirnet().args(arguments).current_dir(directory).output().unwrap())
}

pub fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm").join(name).to_string_lossy().into_owned()
}

pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A value of an element type and a shape.
pub fn typed(name: &str, element: i32, shape: &[i64]) -> ValueInfoProto {
    let dim = shape.iter().map(|&size| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(size)),
        ..Default::default()
    });
    let tensor = type_proto::Tensor { elem_type: Some(element), shape: Some(TensorShapeProto { dim: dim.collect() }) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { r#type: Some(r#type), ..value(name) }
}

/// `x [4, 1, 16]` through an LSTM of 32 units, plus what `more` makes and calls `z`.
pub fn with(more: Vec<NodeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let mut nodes = vec![node("LSTM", &["x", "W", "R"], "h", vec![int("hidden_size", 32)])];
    nodes.extend(more);
    nodes.push(node("Add", &["h", "z"], "y", vec![]));
    let mut initializer =
        vec![tensor::float("W", &[1, 128, 16], &wave(128 * 16)), tensor::float("R", &[1, 128, 32], &wave(128 * 32))];
    initializer.extend(constants);
    of(GraphProto {
        node: nodes,
        initializer,
        input: vec![typed("x", 1, &[4, 1, 16])],
        output: vec![value("y")],
        ..Default::default()
    })
}

fn scalar(name: &str, value: f32) -> TensorProto {
    tensor::float(name, &[], &[value])
}

pub fn fine() -> ModelProto {
    with(vec![], vec![tensor::float("z", &[1], &[0.0])])
}

/// A Loop of 2^60 rounds.
pub fn endless() -> ModelProto {
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: vec![node("Identity", &["go"], "on", vec![]), node("Neg", &["v"], "w", vec![])],
        input: vec![typed("i", 7, &[]), typed("go", 9, &[]), typed("v", 1, &[1])],
        output: vec![typed("on", 9, &[]), typed("w", 1, &[1])],
        ..Default::default()
    };
    let yes = TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
    with(
        vec![node("Loop", &["rounds", "yes", "v0"], "z", vec![graph("body", body)])],
        vec![tensor::int64("rounds", &[], &[1 << 60]), yes, tensor::float("v0", &[1], &[0.0])],
    )
}

/// A Range of 2^36 numbers that no shape tells of.
fn greedy() -> ModelProto {
    with(
        vec![
            node("Mul", &["a", "a"], "end", vec![]),
            node("Range", &["zero", "end", "one"], "r", vec![]),
            node("ReduceSum", &["r"], "z", vec![int("keepdims", 0)]),
        ],
        vec![scalar("a", 262_144.0), scalar("zero", 0.0), scalar("one", 1.0)],
    )
}

pub fn write(directory: &TempDir, name: &str, model: &ModelProto) {
    fs::write(directory.path().join(name), model.encode_to_vec()).unwrap();
}

/// A table of so many bytes in a side file that is one hole, of which a row is looked up.
pub fn huge(directory: &TempDir, bytes: u64) {
    fs::File::create(directory.path().join("huge")).unwrap().set_len(bytes).unwrap();
    let mut table = tensor::float("table", &[0], &[]);
    table.dims = vec![bytes as i64 / 4 / 16, 16];
    DataRange { location: "huge".to_owned(), offset: 0, length: Some(bytes) }.write_to(&mut table);
    let look_up = node("Gather", &["table", "row"], "z", vec![int("axis", 0)]);
    let pick = node("Slice", &["z", "zero", "one"], "first", vec![]);
    let mut proto = with(vec![look_up, pick], vec![table]);
    let graph = proto.graph.as_mut().unwrap();
    graph.node.last_mut().unwrap().input[1] = "first".to_owned();
    let constants = [("row", 0), ("zero", 0), ("one", 1)].map(|(name, v)| tensor::int64(name, &[1], &[v]));
    graph.initializer.extend(constants);
    write(directory, "model.onnx", &proto);
}

pub const QUICK: [&str; 4] = ["--ratio", "2", "--sensitivity", "none"];

#[test]
fn an_endless_run_ends_as_an_error_that_names_the_model() {
    let directory = TempDir::new().unwrap();
    write(&directory, "endless.onnx", &endless());
    write(&directory, "fine.onnx", &fine());
    let limited = |arguments: &[&str]| {
        let start = Instant::now();
        let shown = run(directory.path(), &[arguments, &["--verify-timeout", "1"]].concat());
        assert!(start.elapsed() < Duration::from_secs(30));
        shown
    };
    let line = "error: endless.onnx: could not be verified: inference exceeds 1 s; increase --verify-timeout\n";
    let compress = [&["compress", "endless.onnx", "-o", "out.onnx"][..], &QUICK].concat();
    assert_eq!(limited(&compress), (Some(1), line.to_owned()));
    assert_eq!(
        limited(&["verify", "endless.onnx", "fine.onnx", "--random"]),
        (Some(1), line.to_owned()),
        "as the original"
    );
    assert_eq!(
        limited(&["verify", "fine.onnx", "endless.onnx", "--random"]),
        (Some(1), line.to_owned()),
        "as the compressed"
    );
    assert_eq!(limited(&["sweep", "endless.onnx", "--ratios", "2"]), (Some(1), line.to_owned()));
    assert_eq!(names(directory.path()), ["endless.onnx", "fine.onnx"], "nothing was written");

    let (code, error) = limited(&[&compress[..], &["--no-verify", "--report", "r.json"]].concat());
    assert_eq!((code, error.as_str()), (Some(0), ""), "nobody asked for a run");
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(directory.path().join("r.json")).unwrap()).unwrap();
    assert!(report["verify"].is_null() && report["warnings"].to_string().contains("cannot be run"), "{report}");
}

#[test]
fn a_runaway_allocation_ends_as_an_error_that_names_the_model() {
    let directory = TempDir::new().unwrap();
    write(&directory, "greedy.onnx", &greedy());
    let compress = [&["compress", "greedy.onnx", "-o", "out.onnx"][..], &QUICK].concat();
    let (code, line) = run(directory.path(), &compress);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.starts_with("error: greedy.onnx: could not be verified: ") && line.lines().count() == 1, "{line}");
    // Too little for the file alone: no allocation that could be refused in time, the process is aborted.
    let (code, line) = run(
        directory.path(),
        &["verify", &fixture("gru256.onnx"), &fixture("gru256.onnx"), "--random", "--verify-memory", "3MB"],
    );
    assert_eq!(code, Some(1), "{line}");
    let words = "gru256.onnx: could not be verified: it takes more than 3.00 MB of memory; increase --verify-memory";
    assert!(line.starts_with("error: ") && line.contains(words) && line.lines().count() == 1, "{line}");
    assert_eq!(names(directory.path()), ["greedy.onnx"]);
}

#[test]
fn a_graph_whose_constants_explode_is_not_run() {
    let directory = TempDir::new().unwrap();
    let model = broken::folder().join("bomb_constantofshape_32GB/model.onnx");
    let (code, line) =
        run(directory.path(), &["verify", &model.to_string_lossy(), &model.to_string_lossy(), "--random"]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("could not be verified") && line.contains("more than the"), "{line}");
}

/// Runs dirnet with a small file system, or one that cannot be written to, mounted at `disk` in its directory.
#[cfg(target_os = "linux")]
fn on_disk(directory: &Path, options: &str, arguments: &str) -> Option<(Option<i32>, String)> {
    fs::create_dir_all(directory.join("disk")).unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} tmpfs disk || exit 99; {} {arguments}; code=$?; ls -A disk >&2; exit $code",
        env!("CARGO_BIN_EXE_dirnet")
    );
    let output = Command::new("unshare").args(["-rm", "sh", "-c", &script]).current_dir(directory).output();
    match output {
        Ok(output)
            if output.status.code() != Some(99) && !String::from_utf8_lossy(&output.stderr).contains("unshare:") =>
        {
            Some(shown(&output))
        }
        _ => {
            corpus::skipped("no file systems can be mounted here");
            None
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let compress = |model: &str| format!("compress {model} -o disk/out.onnx --sensitivity none --no-verify -q");
    let Some(found) = on_disk(directory.path(), "size=100k", &compress(&fixture("gru256.onnx"))) else { return };
    assert_eq!(found, (Some(2), "error: disk/out.onnx: No space left on device\n".to_owned()));
    // A report that has no room, after a model that has.
    write(&directory, "fine.onnx", &fine());
    let found = on_disk(directory.path(), "size=4k,nr_inodes=1", "inspect fine.onnx --report disk/r.json").unwrap();
    assert_eq!(found.0, Some(2), "{found:?}");
    assert!(found.1.starts_with("error: disk/r.json: No space left") && found.1.lines().count() == 1, "{found:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_target_that_cannot_be_written_is_an_error() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    let arguments = "compress fine.onnx -o disk/out.onnx --ratio 2 --sensitivity none -q";
    let Some(found) = on_disk(directory.path(), "ro", arguments) else { return };
    assert_eq!(found.0, Some(2), "{found:?}");
    let line = "error: disk/out.onnx: Read-only file system";
    assert!(found.1.starts_with(line) && found.1.lines().count() == 1, "{found:?}");
}

/// Exit codes say what became of the job, whatever became of the words.
#[cfg(target_os = "linux")]
#[test]
fn a_stderr_that_cannot_be_written_leaves_the_exit_code() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    write(&directory, "endless.onnx", &endless());
    let cases: [(&str, i32); 4] = [
        ("inspect nope.onnx", 2),
        ("inspect --no-such-flag", 2),
        ("verify fine.onnx fine.onnx --random --min-snr 10", 0),
        ("verify endless.onnx fine.onnx --random --verify-timeout 1", 1),
    ];
    for (arguments, code) in cases {
        for redirection in ["2>/dev/full", "2>&-", "2>&1 >/dev/null | true"] {
            let dirnet = env!("CARGO_BIN_EXE_dirnet");
            let script = match redirection.contains('|') {
                // A reader that is gone before anything is written; the code goes around it.
                true => format!(
                    "{{ sleep 0.3; {dirnet} {arguments} >/dev/null; echo $? >code; }} 2>&1 | true; sleep 0; cat code"
                ),
                false => format!("{dirnet} {arguments} >/dev/null {redirection}; echo $?"),
            };
            let output = Command::new("sh").args(["-c", &script]).current_dir(directory.path()).output().unwrap();
            let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            assert_eq!(found, code.to_string(), "{arguments} {redirection}");
        }
    }
}

#[test]
fn long_names_make_short_lines() {
    let directory = TempDir::new().unwrap();
    let mut proto = fine();
    let graph = proto.graph.as_mut().unwrap();
    graph.node[0].name = Some("N".repeat(3_000_000));
    graph.node[0].attribute[0].i = Some(0);
    write(&directory, "name.onnx", &proto);
    let mut proto = fine();
    proto.graph.as_mut().unwrap().node[0].input[1] = "I".repeat(3_000_000);
    write(&directory, "input.onnx", &proto);
    let mut proto = fine();
    let tensor = &mut proto.graph.as_mut().unwrap().initializer[0];
    DataRange { location: "L".repeat(3_000_000), offset: 0, length: None }.write_to(tensor);
    write(&directory, "location.onnx", &proto);
    for model in ["name.onnx", "input.onnx", "location.onnx"] {
        let start = Instant::now();
        let (code, line) = run(directory.path(), &["inspect", model]);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.len() < 3000 && line.starts_with(&format!("error: {model}: ")), "{} bytes", line.len());
        assert!(start.elapsed() < Duration::from_secs(10), "{model}");
    }
}

#[test]
fn names_too_long_are_refused_before_any_work() {
    let directory = TempDir::new().unwrap();
    write(&directory, "endless.onnx", &endless());
    let long = |extension: &str| format!("{}.{extension}", "n".repeat(255 - extension.len()));
    let (onnx, json, toml) = (long("onnx"), long("json"), long("toml"));
    let cases: [&[&str]; 3] = [
        &["compress", "endless.onnx", "-o", &onnx],
        &["compress", "endless.onnx", "-o", "o.onnx", "--report", &json],
        &["plan", "endless.onnx", "--save", &toml],
    ];
    for arguments in cases {
        let (code, line) = run(directory.path(), arguments);
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains("File name too long") && line.lines().count() == 1, "{line}");
    }
    assert_eq!(names(directory.path()), ["endless.onnx"]);
}

#[test]
fn more_threads_than_any_machine_has_are_refused() {
    let (code, line) = run(Path::new("."), &["inspect", "nope.onnx", "--threads", "2000"]);
    assert_eq!(code, Some(2));
    assert!(line.contains("2000 is not in 1..=512"), "{line}");
}

#[test]
fn attributes_without_end_are_refused() {
    let directory = TempDir::new().unwrap();
    let mut proto = fine();
    proto.graph.as_mut().unwrap().node[1].attribute = vec![Default::default(); 1_000_000];
    write(&directory, "model.onnx", &proto);
    let (code, line) = run(directory.path(), &["inspect", "model.onnx"]);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("1000000 attributes are more than any operator has"), "{line}");
}

#[test]
fn files_of_other_formats_are_named() {
    let directory = TempDir::new().unwrap();
    let cases: [(&str, &[u8], &str); 5] = [
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "run 'git lfs pull'"),
        ("model.ort", b"\x20\0\0\0ORTM\0\0\0\0", "give the .onnx file that it was made from"),
        ("model.pth", b"PK\x03\x04\0\0\x08\x08\0\0 model/data.pklFB", "torch.onnx.export"),
        ("model.onnx.gz", b"\x1f\x8b\x08\0", "gunzip"),
        ("model.zip", b"PK\x03\x04\0\0\x08\x08\0\0 model.onnx", "unzip"),
    ];
    for (name, bytes, words) in cases {
        fs::write(directory.path().join(name), bytes).unwrap();
        let (code, line) = run(directory.path(), &["inspect", name]);
        assert_eq!(code, Some(2), "{line}");
        let begins = format!("error: {name}: not an ONNX model: it is ");
        assert!(line.starts_with(&begins) && line.contains(words) && line.lines().count() == 1, "{line}");
    }
}

/// Sizes that multiply to more than there is, wherever they come from.
#[test]
fn dimensions_whose_product_overflows_are_one_line() {
    let directory = TempDir::new().unwrap();
    let mut proto = fine();
    proto.graph.as_mut().unwrap().input[0] = typed("x", 1, &[1 << 62, 1, 16]);
    write(&directory, "big.onnx", &proto);
    let mut proto = fine();
    let graph = proto.graph.as_mut().unwrap();
    graph.input[0] = typed("x", 1, &[0, 1, 16]);
    write(&directory, "open.onnx", &proto);
    let huge = format!("x[0]={}", u64::MAX);
    let (large, also) = ("x[0]=4611686018427387904", "x[0]=100000000");
    let cases: [(&[&str], &str); 8] = [
        (&["compress", "big.onnx", "-o", "o.onnx"], "give samples"),
        (&["verify", "big.onnx", "big.onnx", "--random"], "give samples"),
        (&["bench", "big.onnx", "--runs", "1"], "give samples"),
        (&["plan", "big.onnx"], "give samples"),
        (&["sweep", "big.onnx"], "give samples"),
        (&["compress", "open.onnx", "-o", "o.onnx", "--dim", &huge], "with --dim"),
        (&["verify", "open.onnx", "open.onnx", "--dim", large], "with --dim"),
        (&["plan", "open.onnx", "--dim", also], "with --dim"),
    ];
    for (arguments, words) in cases {
        let (code, line) = run(directory.path(), arguments);
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains("tensor 'x': 16 random inputs of shape [") && line.trim().ends_with(words), "{line}");
    }
}

#[test]
fn samples_that_take_too_much_memory_are_to_blame_and_no_model() {
    let directory = TempDir::new().unwrap();
    let mut proto = fine();
    proto.graph.as_mut().unwrap().input[0] = typed("x", 1, &[0, 1, 16]);
    write(&directory, "open.onnx", &proto);
    let limits = ["--dim", "x[0]=500000", "--verify-memory", "50MB"];
    let (code, line) =
        run(directory.path(), &[&["verify", "open.onnx", "open.onnx", "--random"], &limits[..]].concat());
    assert_eq!(code, Some(2), "{line}");
    assert!(line.starts_with("error: the samples take more than 50.0 MB of memory; use fewer"), "{line}");
}

#[test]
fn layers_that_cannot_be_compressed_say_what_to_do() {
    let reason = |proto: &ModelProto, freeze_inputs| {
        let model = Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default()).unwrap();
        let options = FindOptions { freeze_inputs, ..FindOptions::default() };
        Weights::find(&model, &options).map(|_| ()).map_err(|error| error.to_string())
    };
    let words = |proto: &ModelProto| reason(proto, false).unwrap_err();
    let with_bias = |input: usize, shape: &[usize], value: f32| {
        let mut proto = fine();
        let graph = proto.graph.as_mut().unwrap();
        graph.node[0].input.resize(input + 1, String::new());
        graph.node[0].input[input] = "extra".to_owned();
        graph.initializer.push(tensor::float("extra", shape, &vec![value; shape.iter().product()]));
        proto
    };
    for (input, name, shape) in
        [(3, "B", &[1, 256][..]), (5, "initial_h", &[1, 1, 32]), (6, "initial_c", &[1, 1, 32]), (7, "P", &[1, 96])]
    {
        for value in [f32::NAN, f32::INFINITY] {
            let line = words(&with_bias(input, shape, value));
            assert!(line.contains(&format!("{name} holds NaN or infinite values")), "{line}");
        }
        assert_eq!(reason(&with_bias(input, shape, 0.1), false), Ok(()));
    }
    let mut four = fine();
    four.graph.as_mut().unwrap().node[0].output.extend(["b", "c", "d"].map(str::to_owned));
    assert!(words(&four).contains("4 outputs, but LSTM has at most 3"), "{}", words(&four));
    let mut old = fine();
    old.opset_import[0].version = Some(6);
    let graph = old.graph.as_mut().unwrap();
    graph.input.extend(["W", "R"].map(value));
    let line = words(&old);
    assert!(["'W'", "'R'", "--freeze-inputs", "opset 6"].iter().all(|word| line.contains(word)), "all at once: {line}");
    let line = reason(&old, true).unwrap_err();
    assert!(line.contains("opset 6") && !line.contains("--freeze-inputs"), "{line}");
    let mut quantised = fine();
    quantised.opset_import.push(OperatorSetIdProto { domain: Some("com.microsoft".to_owned()), version: Some(1) });
    let layer = &mut quantised.graph.as_mut().unwrap().node[0];
    (layer.op_type, layer.domain) = (Some("DynamicQuantizeLSTM".to_owned()), Some("com.microsoft".to_owned()));
    assert!(words(&quantised).contains("compress the float model that it was made from"), "{}", words(&quantised));
}

/// A cell in a Loop, as tf2onnx leaves it where it knows no better, and one for each step, as a tracer does.
#[test]
fn layers_that_were_written_out_are_recognised() {
    let cell = |x: &str, k: usize| {
        let name = |part: &str| format!("{part}{k}");
        vec![
            node("MatMul", &[x, "W"], &name("p"), vec![]),
            node("Sigmoid", &[&name("p")], &name("s"), vec![]),
            node("Tanh", &[&name("p")], &name("t"), vec![]),
            node("Mul", &[&name("s"), &name("t")], &name("h"), vec![]),
        ]
    };
    let model = |nodes: Vec<NodeProto>| {
        let yes =
            TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
        let initializer = vec![tensor::float("W", &[4, 4], &wave(16)), tensor::int64("rounds", &[], &[3]), yes];
        let graph = GraphProto {
            node: nodes,
            initializer,
            input: vec![typed("x", 1, &[1, 4])],
            output: vec![value("y")],
            ..Default::default()
        };
        Model::from_bytes(of(graph).encode_to_vec().into(), &LoadOptions::default()).unwrap()
    };
    let reason = |model: &Model| {
        Weights::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap_err().to_string()
    };
    let body = GraphProto {
        name: Some("body".to_owned()),
        node: [cell("v", 0), vec![node("Identity", &["go"], "on", vec![])]].concat(),
        input: vec![typed("i", 7, &[]), typed("go", 9, &[]), typed("v", 1, &[1, 4])],
        output: vec![typed("on", 9, &[]), typed("h0", 1, &[1, 4])],
        ..Default::default()
    };
    let looped = reason(&model(vec![node("Loop", &["rounds", "yes", "x"], "y", vec![graph("body", body)])]));
    let unrolled = (0..4).flat_map(|k| cell(&if k == 0 { "x".to_owned() } else { format!("h{}", k - 1) }, k)).collect();
    let unrolled = reason(&model([unrolled, vec![node("Identity", &["h3"], "y", vec![])]].concat()));
    for line in [&looped, &unrolled] {
        for word in
            ["fixed batch size", "Masking", "recurrent_dropout", "activations", "nn.LSTM", "nothing to compress"]
        {
            assert!(line.contains(word), "{line}");
        }
    }
    assert!(looped.contains("written out as a Loop") && unrolled.contains("multiplied 4 times"), "{looped} {unrolled}");
    let two = (0..2).flat_map(|k| cell(&if k == 0 { "x".to_owned() } else { format!("h{}", k - 1) }, k)).collect();
    let plain = reason(&model([two, vec![node("Identity", &["h1"], "y", vec![])]].concat()));
    assert_eq!(plain, "nothing to compress: the model has no LSTM, GRU or RNN node", "tied weights alone are no layer");
}

#[test]
fn an_output_is_no_input_by_whatever_path() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    fs::create_dir(directory.path().join("sub")).unwrap();
    for name in ["cal.npz", "c.toml", "l.json"] {
        fs::write(directory.path().join(name), "").unwrap();
    }
    let cases: [(&[&str], &str); 6] = [
        (&["-o", "sub/../cal.npz", "--calibration", "cal.npz"], "sub/../cal.npz: this is an input"),
        (&["-o", "cal.npz", "--holdout", "./cal.npz"], "cal.npz: this is an input"),
        (&["-o", "c.toml", "--config", "sub/../c.toml"], "c.toml: this is an input"),
        (&["-o", "o.onnx", "--labels", "y=l.json", "--report", "l.json"], "l.json: this is an input"),
        (&["-o", "o.json", "--report", "./sub/../o.json"], "./sub/../o.json: is used for two outputs"),
        (
            &["-o", "o.onnx", "--report", "r.json", "--report", "sub/../r.json"],
            "sub/../r.json: is used for two outputs",
        ),
    ];
    for (flags, words) in cases {
        let (code, line) = run(directory.path(), &[&["compress", "fine.onnx"], flags].concat());
        assert_eq!(code, Some(2), "{line}");
        assert!(line.starts_with(&format!("error: {words}")), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn texts_in_pipes_and_devices_are_refused() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    for flag in ["--config", "--plan"] {
        let (code, line) = run(directory.path(), &["compress", "fine.onnx", "-o", "o.onnx", flag, "/dev/zero"]);
        assert_eq!((code, line.as_str()), (Some(2), "error: /dev/zero: not a regular file\n"), "{flag}");
    }
}

/// More than 2 GiB come in and go out, within 2.5 times the recurrent weights and 300 MB: all but the weights stays on
/// the disk. The limit on memory is what measures it.
#[cfg(unix)]
#[test]
fn models_beyond_two_gibibytes_come_in_and_go_out_in_little_memory() {
    use std::os::unix::fs::MetadataExt;
    let directory = TempDir::new().unwrap();
    let bytes = (2u64 << 30) + (64 << 20);
    huge(&directory, bytes);
    let weights = 4 * 128 * (16 + 32);
    let most = (weights * 5 / 2 + 300_000_000).to_string();
    let limits = ["--verify-memory", &most];
    let compress = ["compress", "model.onnx", "-o", "out.onnx", "--no-verify", "-q"];
    assert_eq!(run(directory.path(), &[&compress, &QUICK[..], &limits].concat()), (Some(0), String::new()));
    let side = model::side_path(&directory.path().join("out.onnx")).metadata().unwrap();
    assert_eq!(side.len(), bytes);
    assert!(side.blocks() * 512 < 64 << 20, "the holes were filled");
    let back = Model::load(&directory.path().join("out.onnx"), &LoadOptions::default()).unwrap();
    assert!(back.bytes() > bytes);
    let (code, line) = run(directory.path(), &["verify", "model.onnx", "out.onnx", "--random"]);
    assert!(code == Some(1) && line.contains("could not be verified") && line.contains("2 GiB"), "{line}");
}

/// Large recurrent weights: the peak of the process that works on them stays within 2.5 times their bytes and
/// 200 MB. The model cannot be run: what the engine takes would be measured too.
#[cfg(target_os = "linux")]
#[test]
fn large_weights_take_little_more_memory_than_themselves() {
    let directory = TempDir::new().unwrap();
    let (size, rows) = (1024, 4 * 1024);
    let weight = |name: &str, seed: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..rows * size).map(|_| random.random_range(-0.05..0.05)).collect();
        tensor::float(name, &[1, rows, size], &values)
    };
    let mut mystery = node("Mystery", &["y"], "z", vec![]);
    mystery.domain = Some("of.somebody".to_owned());
    let mut proto = of(GraphProto {
        node: vec![node("LSTM", &["x", "W", "R"], "y", vec![int("hidden_size", size as i64)]), mystery],
        initializer: vec![weight("W", 1), weight("R", 2)],
        input: vec![typed("x", 1, &[4, 1, size as i64])],
        output: vec![value("z")],
        ..Default::default()
    });
    proto.opset_import.push(OperatorSetIdProto { domain: Some("of.somebody".to_owned()), version: Some(1) });
    write(&directory, "large.onnx", &proto);
    let mut command = dirnet();
    command.args(["compress", "large.onnx", "-o", "small.onnx", "--sensitivity", "none", "--no-verify", "-q"]);
    let mut child = command.current_dir(directory.path()).spawn().unwrap();
    let peak_of = |process: &str| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let id = child.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        peak = workers.split_whitespace().filter_map(peak_of).fold(peak, u64::max);
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    let weights = 2 * rows as u64 * size as u64 * 4;
    assert!(peak > weights, "it was seen at work");
    assert!(peak < weights * 5 / 2 + 200_000_000, "{peak} bytes for {weights} of weights");
    assert!(directory.path().join("small.onnx").metadata().unwrap().len() < weights / 8 + 10_000);
}

/// A text says that a Scan stands for a layer, and names its weights, which a few bytes may make: a hundred such layers
/// share one budget.
#[test]
fn layers_that_expand_without_end_are_refused() {
    let layer = |index: usize| {
        let body = GraphProto {
            name: Some("body".to_owned()),
            node: vec![node("Identity", &["v"], "w", vec![])],
            input: vec![typed("v", 1, &[1])],
            output: vec![value("w")],
            ..Default::default()
        };
        let origin = serde_json::json!({
            "dirnet": format!("layer{index}"), "operator": "LSTM", "hidden": 512, "direction": "forward", "index": 0,
            "linear_before_reset": false, "inputs": ["x"], "outputs": [format!("y{index}")],
            "w": {"levels": "W", "scales": "s"}, "r": [{"levels": "R", "scales": "s"}], "bias": [null, null],
        });
        let attributes = vec![int("num_scan_inputs", 1), graph("body", body)];
        NodeProto { doc_string: Some(origin.to_string()), ..node("Scan", &["x"], &format!("y{index}"), attributes) }
    };
    let model = |layers: usize| {
        let made = [("W", "W_shape"), ("R", "R_shape"), ("s", "s_shape")];
        let made = made.map(|(name, shape)| node("Expand", &["one", shape], name, vec![]));
        let proto = of(GraphProto {
            node: made.into_iter().chain((0..layers).map(layer)).collect(),
            initializer: vec![
                scalar("one", 1.0),
                tensor::int64("W_shape", &[2], &[1024, 2048]),
                tensor::int64("R_shape", &[2], &[512, 2048]),
                tensor::int64("s_shape", &[1], &[2048]),
            ],
            input: vec![typed("x", 1, &[4, 1, 1024])],
            output: vec![value("y0")],
            ..Default::default()
        });
        Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default()).unwrap()
    };
    let one = expand::expand(&model(1)).unwrap();
    assert!(one.proto.graph.as_ref().unwrap().node.iter().any(|node| node.op_type() == "LSTM"));
    let error = expand::expand(&model(100)).unwrap_err().to_string();
    assert!(error.contains("far larger than what the model stores") && !error.contains('\n'), "{error}");
}

/// Others write com.microsoft.DynamicQuantizeLSTM too, and may transpose its weights: they did not come from us.
#[test]
fn quantised_layers_of_others_are_not_expanded() {
    let inputs = ["x", "Wq", "Rq", "", "", "", "", "", "s", "zero", "s", "zero"];
    let transposed = |name: &str, of: &str| node("Transpose", &[of], name, vec![ints("perm", &[0, 2, 1])]);
    let mut layer = node("DynamicQuantizeLSTM", &inputs, "y", vec![int("hidden_size", 8)]);
    layer.domain = Some("com.microsoft".to_owned());
    let mut proto = of(GraphProto {
        node: vec![transposed("Wq", "W"), transposed("Rq", "R"), layer],
        initializer: vec![
            tensor::int8("W", &[1, 32, 4], &[1; 128]),
            tensor::int8("R", &[1, 32, 8], &[1; 256]),
            tensor::float("s", &[1, 32], &[1.0; 32]),
            tensor::int8("zero", &[1, 32], &[0; 32]),
        ],
        input: vec![typed("x", 1, &[4, 1, 4])],
        output: vec![value("y")],
        ..Default::default()
    });
    proto.opset_import.push(OperatorSetIdProto { domain: Some("com.microsoft".to_owned()), version: Some(1) });
    let kind = |proto: &ModelProto| {
        let model = Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default()).unwrap();
        expand::expand(&model).unwrap_err().kind()
    };
    assert_eq!(kind(&proto), ErrorKind::NothingToDo);
    // A chain behind the weights that is longer than any stack.
    let graph = proto.graph.as_mut().unwrap();
    let mut layer = graph.node.remove(2);
    layer.input[1] = "c200000".to_owned();
    graph.node.push(node("Identity", &["Wq"], "c0", vec![]));
    graph.node.extend((0..200_000).map(|i| node("Identity", &[&format!("c{i}")], &format!("c{}", i + 1), vec![])));
    graph.node.push(layer);
    assert_eq!(kind(&proto), ErrorKind::NothingToDo);
}

/// A bias that nobody can hold costs the layer the fast form, and nobody who does not ask for that form anything.
#[test]
fn a_bias_without_end_costs_the_fast_form_only() {
    let mut proto = with(
        vec![node("Expand", &["one", "endless"], "B", vec![])],
        vec![tensor::float("z", &[1], &[0.0]), scalar("one", 1.0), tensor::int64("endless", &[2], &[1 << 30, 256])],
    );
    let graph = proto.graph.as_mut().unwrap();
    graph.node.swap(0, 1);
    graph.node[1].input.push("B".to_owned());
    let model = Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default()).unwrap();
    let weights = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let taken =
        |form| crate::quick::forms(&weights, &model, Request { form, from: Some(1) }, |_| Storage::Block).remove(0);
    assert_eq!(taken(Form::Portable), Assigned { form: Form::Portable, reason: None });
    let fast = taken(Form::Fast);
    let reason = fast.reason.unwrap_or_default();
    assert!(fast.form == Form::Portable && reason.contains("far larger than what the model stores"), "{reason}");
}

/// Default flags, sensitivities measured: the runs of the model are part of what must not depend on the threads.
#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    let ours = directory.path().join("fine.onnx");
    let charlm = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/charlm");
    let streaming = directory.path().join("vad.onnx");
    docs::write_streaming(&streaming);
    let cases = [
        (ours, PathBuf::new(), &[][..]),
        (streaming, PathBuf::new(), &["--stream", "state=stateN"]),
        (charlm.join("gru256.onnx"), charlm.join("calibration.npz"), &["--sensitivity", "local", "--tune", "off"]),
    ];
    check_threads(&directory, cases);
}

#[test]
fn the_bytes_of_real_models_do_not_depend_on_the_number_of_threads() {
    let Some(models) = corpus::models() else { return };
    let real: [(&str, &str, &[&str]); 4] = [
        (
            "amp_lstm24/model.onnx",
            "amp_lstm24/model.calibration.npz",
            &["--stream", "hin=hout", "--stream", "cin=cout"],
        ),
        ("pose_gru/gru_model.onnx", "pose_gru/gru_model.calibration.npz", &[]),
        ("derived/dtln_p1_fp16_cast/model.onnx", "", &[]),
        ("g2p_id/encoder_model.onnx", "g2p_id/encoder_model.calibration.npz", &[]),
    ];
    let cases = real.map(|(model, samples, flags)| (models.join(model), models.join(samples), flags));
    check_threads(&TempDir::new().unwrap(), cases);
}

fn check_threads<const N: usize>(directory: &TempDir, cases: [(PathBuf, PathBuf, &[&str]); N]) {
    for (model, samples, flags) in cases {
        let outputs = ["1", "2", "8"].map(|threads| {
            let mut command = dirnet();
            command.current_dir(directory.path()).arg("compress").arg(&model).args(["-o", "o.onnx", "--ratio", "4"]);
            if samples.is_file() {
                command.arg("--calibration").arg(&samples);
            }
            let (code, line) = shown(&command.args(flags).args(["--threads", threads, "-q"]).output().unwrap());
            assert_eq!((code, line.as_str()), (Some(0), ""), "{}", model.display());
            fs::read(directory.path().join("o.onnx")).unwrap()
        });
        assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2], "{}", model.display());
    }
}

/// Every structural byte of the models, and places all over the samples: cut off there, and with bits flipped there.
#[test]
fn damaged_fixtures_never_panic() {
    let survive = |bytes: Vec<u8>| {
        if let Err(e) = Model::from_bytes(bytes.into(), &LoadOptions::default()) {
            assert!(!e.to_string().contains('\n'), "{e}");
        }
    };
    for name in ["gru256.onnx", "lstm256.onnx"] {
        let whole = Bytes::from(fs::read(fixture(name)).unwrap());
        let start = whole.as_ptr() as usize;
        let model = Model::from_bytes(whole.clone(), &LoadOptions::default()).unwrap();
        let mut structural = vec![true; whole.len()];
        for_each_tensor(&model.proto, |t| {
            let from = (t.raw_data().as_ptr() as usize).wrapping_sub(start);
            if let Some(values) = structural.get_mut(from..from.saturating_add(t.raw_data().len())) {
                values.fill(false);
            }
        });
        for place in (0..whole.len()).filter(|&place| structural[place]) {
            survive(whole[..place].to_vec());
            for flip in [1, 128, 255] {
                let mut damaged = whole.to_vec();
                damaged[place] ^= flip;
                survive(damaged);
            }
        }
    }
    let model = Model::load(Path::new(&fixture("gru256.onnx")), &LoadOptions::default()).unwrap();
    let signature = Signature::of(&model).unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("damaged.npz");
    for name in ["calibration.npz", "holdout.npz"] {
        let whole = fs::read(fixture(name)).unwrap();
        let edges = (0..200).chain(whole.len() - 200..whole.len());
        for place in edges.chain((200..whole.len() - 200).step_by(257)) {
            for flip in [None, Some(1u8), Some(255)] {
                let mut damaged = whole.clone();
                match flip {
                    None => damaged.truncate(place),
                    Some(flip) => damaged[place] ^= flip,
                }
                fs::write(&path, &damaged).unwrap();
                if let Err(e) = Samples::read(std::slice::from_ref(&path), &signature, &[]) {
                    assert!(!e.to_string().contains('\n'), "{e}");
                }
            }
        }
    }
}

/// The fuzz targets on damaged seeds; proptest shrinks what it finds.
mod fuzz {
    use super::*;

    type Damage = Vec<(usize, u8, u8)>;

    fn survive(name: &str, seed: prop::sample::Index, damages: &Damage) {
        let target = TARGETS.iter().find(|target| target.name == name).unwrap();
        let seeds = (target.seeds)();
        let mut input = seed.get(&seeds).clone();
        damages.iter().for_each(|&(place, kind, value)| damage(&mut input, place, kind, value));
        (target.run)(&input);
    }

    /// One property a target, so many cases each.
    macro_rules! property {
        ($test:ident, $target:literal, $cases:literal) => {
            proptest! {
                #![proptest_config(ProptestConfig { cases: $cases, failure_persistence: None, ..Default::default() })]

                #[test]
                fn $test(
                    seed: prop::sample::Index,
                    damages in prop::collection::vec((any::<usize>(), 0..KINDS, any::<u8>()), 0..6),
                ) {
                    survive($target, seed, &damages);
                }
            }
        };
    }
    property!(damaged_models_are_described_or_refused, "load", 3000);
    property!(what_is_saved_is_what_was_loaded, "round_trip", 1000);
    property!(nothing_outside_of_the_directory_is_read, "external_data", 2000);
    property!(damaged_samples_are_read_or_refused, "samples", 2000);
    property!(damaged_plans_are_read_or_refused, "plan", 1000);
    property!(damaged_models_are_compressed_or_refused, "compress", 60);
}
