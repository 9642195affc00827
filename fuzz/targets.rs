//! What is fuzzed: one function for each door through which foreign bytes come in.
//!
//! A target takes any bytes and panics where a promise of docs/security.md is broken; that the code below it panics, or
//! never ends, breaks one too. The same functions are run by cargo-fuzz (`fuzz_targets/`), by a driver that needs no
//! nightly toolchain (`driver.rs`), and by the property tests of the ordinary test command (`tests/suite/hostile.rs`).

// Each of the three uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dirnet::compress::Study;
use dirnet::dictionary::BlockSpec;
use dirnet::error::Error;
use dirnet::expand;
use dirnet::onnx::external_data::DataRange;
use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::proto::{OperatorSetIdProto, ValueInfoProto};
use dirnet::onnx::{
    AttributeProto, ElementType, GraphProto, LoadOptions, Model, ModelProto, NodeProto, TensorProto, tensor,
};
use dirnet::plan;
use dirnet::plan::{Choice, Plan, Sharing};
use dirnet::progress::Silent;
use dirnet::recurrent::FindOptions;
use dirnet::report::Inspection;
use dirnet::samples::{AxisSize, Port, Samples, Signature};
use dirnet::sites::Sites;
use dirnet::sites::{PerSite, SiteId, Weights};
use prost::Message;
use tempfile::TempDir;

// Of the binary, not the library; among tests it would bring its own, which know their place.
#[cfg(not(test))]
#[path = "../src/cli/config.rs"]
mod config;
#[cfg(not(test))]
#[path = "../src/cli/value.rs"]
mod value;

/// A door, and what comes through it on an ordinary day.
pub struct Target {
    /// As cargo-fuzz names it.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Sound inputs, to be damaged.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All doors.
pub const TARGETS: &[Target] = &[
    Target { name: "load", run: load, seeds: models },
    Target { name: "round_trip", run: round_trip, seeds: models },
    Target { name: "external_data", run: external_data, seeds: places },
    Target { name: "samples", run: samples, seeds: sample_files },
    #[cfg(not(test))]
    Target { name: "config", run: configuration, seeds: configurations },
    Target { name: "plan", run: plan, seeds: plans },
    Target { name: "compress", run: compress, seeds: models },
];

const OPTIONS: LoadOptions = LoadOptions { allow_newer: true };

/// An error is one line, without anything that a terminal would obey.
fn one_line(error: &Error) {
    let line = error.to_string();
    assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
}

/// A directory to write to, the same for all runs of a thread; in memory where the system has such a place.
fn scratch() -> PathBuf {
    thread_local! {
        static DIRECTORY: TempDir = {
            let memory = Path::new("/dev/shm");
            if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a temporary directory")
        };
    }
    DIRECTORY.with(|directory| directory.path().to_owned())
}

/// A model is read and described, or refused in one line.
fn load(data: &[u8]) {
    let described = Model::from_bytes(Bytes::copy_from_slice(data), &OPTIONS).and_then(|model| {
        let sites = Sites::all(&model, &FindOptions::default())?;
        let _ = Inspection::new(&model, &sites);
        Signature::of(&model)
    });
    if let Err(error) = described {
        one_line(&error);
    }
}

/// What is saved is what was loaded.
fn round_trip(data: &[u8]) {
    let Ok(first) = Model::from_bytes(Bytes::copy_from_slice(data), &OPTIONS) else { return };
    let path = scratch().join("model.onnx");
    match first.save(&path) {
        Err(error) => one_line(&error),
        Ok(bytes) => {
            let second = Model::load(&path, &OPTIONS).expect("what was written can be read");
            assert_eq!(bytes, second.bytes());
            // As bytes, in which a NaN equals itself.
            assert!(first.proto.encode_to_vec() == second.proto.encode_to_vec(), "the messages differ");
            assert!(fs::read(&path).expect("was written") == first.proto.encode_to_vec(), "the file is not prost's");
        }
    }
}

const SECRET: u8 = 0xa5;

/// A tensor whose place is made of the data: nothing outside of the model's directory is ever read.
fn external_data(data: &[u8]) {
    let directory = scratch().join("external");
    let inner = directory.join("model");
    if !inner.is_dir() {
        fs::create_dir_all(inner.join("sub")).expect("a directory");
        for path in ["secret", "model/twin"] {
            fs::write(directory.join(path), [SECRET; 64]).expect("a file");
        }
        for path in ["w.data", "sub/w.data"] {
            fs::write(inner.join(path), [1; 64]).expect("a file");
        }
        #[cfg(unix)]
        {
            fs::remove_file(inner.join("twin")).expect("was just made");
            std::os::unix::fs::symlink("../secret", inner.join("link")).expect("a link");
            fs::hard_link(directory.join("secret"), inner.join("twin")).expect("a link");
        }
    }
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(4, '\n');
    let [location, offset, length, elements] = [0; 4].map(|_| parts.next().unwrap_or_default());
    let mut w = tensor::float("W", &[0], &[]);
    DataRange { location: location.to_owned(), offset: 0, length: Some(0) }.write_to(&mut w);
    w.external_data[1].value = Some(offset.to_owned());
    w.external_data[2].value = Some(length.to_owned());
    w.dims = vec![elements.trim().parse().unwrap_or(4)];
    let graph = GraphProto { initializer: vec![w], ..Default::default() };
    let proto = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
    let path = inner.join("model.onnx");
    fs::write(&path, proto.encode_to_vec()).expect("a file");
    let read = Model::load(&path, &OPTIONS)
        .and_then(|model| model.payload(&model.proto.graph.as_ref().expect("has one").initializer[0]));
    match read {
        Err(error) => one_line(&error),
        Ok(bytes) => assert!(!bytes.contains(&SECRET), "{location:?} was read"),
    }
}

/// A file of samples: the first byte says of which kind.
fn samples(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let directory = scratch().join("test_data_set_0");
    fs::create_dir_all(&directory).expect("a directory");
    let port =
        |name: &str, element, dims: &[AxisSize]| Port { name: name.to_owned(), element, dims: Some(dims.to_vec()) };
    let dims = [AxisSize::Symbol("batch".to_owned()), AxisSize::Size(3)];
    let mut inputs = vec![port("x", ElementType::Float, &dims)];
    let path = match kind % 3 {
        0 => {
            inputs.push(port("n", ElementType::Int64, &dims[..1]));
            directory.join("samples.npz")
        }
        1 => directory.join("samples.npy"),
        _ => directory.join("input_0.pb"),
    };
    fs::write(&path, rest).expect("a file");
    let read = if kind % 3 == 2 { &directory } else { &path };
    if let Err(error) = Samples::read(std::slice::from_ref(read), &Signature { inputs, ..Signature::default() }, &[]) {
        one_line(&error);
    }
    fs::remove_file(path).expect("was just written");
}

/// A configuration: flags, or one line.
#[cfg(not(test))]
fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let shown = |error: anyhow::Error| assert!(!format!("{error:#}").is_empty());
    let flag = |name: &'static str| clap::Arg::new(name).long(name).num_args(1);
    let command = clap::Command::new("dirnet").subcommand(
        clap::Command::new("compress")
            .arg(flag("ratio"))
            .arg(flag("max-size"))
            .arg(clap::Arg::new("calibration").long("calibration").action(clap::ArgAction::Append))
            .arg(clap::Arg::new("no-verify").long("no-verify").action(clap::ArgAction::SetTrue)),
    );
    let matches = command.clone().get_matches_from(["dirnet", "compress", "--ratio", "8"]);
    let given = matches.subcommand_matches("compress").expect("is given");
    match config::File::parse(Path::new("dirnet.toml"), text.to_owned()) {
        Ok(file) => drop(file.flags(&command, "compress", given).map_err(shown)),
        Err(error) => shown(error),
    }
}

/// A saved plan, for a model that it may fit.
fn plan(data: &[u8]) {
    thread_local! {
        static WEIGHTS: Weights = Weights::find(&tiny(), &FindOptions { recurrent_only: true, ..FindOptions::default() }).expect("there are weights");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    WEIGHTS.with(|weights| match plan::read(text, weights, &usual(weights)) {
        Err(error) => one_line(&error),
        Ok(plan) => {
            let again = plan::write(weights, &plan).expect("a plan that was read can be written");
            let again = plan::read(&again, weights, &usual(weights)).expect("what was written can be read");
            assert_eq!(again.choices, plan.choices);
        }
    });
}

/// A model is compressed into one that can be read, expanded, and is of the size that was promised, or refused.
fn compress(data: &[u8]) {
    let Ok(model) = Model::from_bytes(Bytes::copy_from_slice(data), &OPTIONS) else { return };
    let Ok(weights) = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }) else {
        return;
    };
    if weights.parameters() > 1 << 14 {
        return;
    }
    if let Err(error) = code(&model, weights) {
        one_line(&error);
    }
}

fn usual(weights: &Weights) -> PerSite<f64> {
    weights.sites().map(|_| 1.0)
}

fn code(model: &Model, weights: Weights) -> Result<(), Error> {
    let mut job = Study::new(model, weights, None, 0, &Silent)?;
    let spec = BlockSpec::new(2)?;
    let choices = job.weights.sites().map(|_| Choice::Block { spec, sharing: Sharing::Matrix });
    let plan = Plan { choices, sensitivity: usual(&job.weights) };
    let promised = job.bytes(&plan)?;
    let coded = job.code(&[plan], None, &Silent)?;
    assert_eq!(promised, coded.model.saved_bytes().expect("no side files"));
    assert!(coded.distortion.values().all(|d| d.is_finite()), "{:?}", coded.distortion);
    let again = Model::from_bytes(coded.model.proto.encode_to_vec().into(), &OPTIONS).expect("can be read again");
    expand::expand(&again).expect("can be expanded");
    Ok(())
}

/// An LSTM of 6 inputs and 8 units, and a GRU on it whose weights take a detour, inside an If.
pub fn tiny() -> Model {
    Model::from_bytes(tiny_proto().encode_to_vec().into(), &OPTIONS).expect("it is sound")
}

fn tiny_proto() -> ModelProto {
    let weight = |name: &str, shape: [usize; 3]| tensor::float(name, &shape, &wave(shape.iter().product()));
    let mut branch = GraphProto {
        name: Some("then".to_owned()),
        node: vec![
            node("Transpose", &["Wt"], "W2", vec![ints("perm", &[0, 2, 1])]),
            node("GRU", &["Y1", "W2", "R2"], "Y2", vec![int("hidden_size", 4), int("linear_before_reset", 1)]),
        ],
        initializer: vec![weight("R2", [1, 12, 4])],
        output: vec![value("Y2")],
        ..Default::default()
    };
    let then = graph("then_branch", branch.clone());
    branch.node.push(node("Neg", &["Y2"], "Y3", vec![]));
    branch.output = vec![value("Y3")];
    of(GraphProto {
        name: Some("main".to_owned()),
        node: vec![
            node("LSTM", &["X", "W", "R", "B"], "Y", vec![int("hidden_size", 8)]),
            node("Squeeze", &["Y", "axis"], "Y1", vec![]),
            node("If", &["yes"], "Z", vec![then, graph("else_branch", branch)]),
        ],
        initializer: vec![
            weight("W", [1, 32, 6]),
            weight("R", [1, 32, 8]),
            tensor::float("B", &[1, 64], &wave(64)),
            tensor::int64("axis", &[1], &[1]),
            weight("Wt", [1, 8, 12]),
            TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() },
        ],
        input: vec![value("X")],
        output: vec![value("Z")],
        ..Default::default()
    })
}

/// Weights of no meaning.
pub fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * i) as f32 * 0.37).sin()).collect()
}

/// A model of one graph.
pub fn of(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    }
}

pub fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
}

pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(r#type as i32), ..Default::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, AttributeType::Int) }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub fn graph(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g), ..attribute(name, AttributeType::Graph) }
}

fn models() -> Vec<Vec<u8>> {
    let whole = tiny_proto();
    let mut one = whole.clone();
    if let Some(graph) = &mut one.graph {
        graph.node.truncate(1);
        graph.initializer.truncate(3);
        graph.output = vec![value("Y")];
    }
    vec![whole.encode_to_vec(), one.encode_to_vec()]
}

fn places() -> Vec<Vec<u8>> {
    ["w.data\n0\n16\n4", "./sub/w.data\n8\n16\n4", "../secret\n0\n16\n4", "link\n0\n16\n4", "twin\n0\n64\n16"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn sample_files() -> Vec<Vec<u8>> {
    let x = ndarray::Array3::<f32>::from_shape_fn((2, 2, 3), |(a, b, c)| (a + b + c) as f32);
    let mut npz = std::io::Cursor::new(Vec::new());
    let mut writer = ndarray_npy::NpzWriter::new_compressed(&mut npz);
    writer.add_array("x", &x).expect("into memory");
    writer.add_array("n", &ndarray::array![1i64, 2]).expect("into memory");
    writer.finish().expect("into memory");
    let mut npy = Vec::new();
    ndarray_npy::WriteNpyExt::write_npy(&x, &mut npy).expect("into memory");
    let pb = tensor::float("x", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).encode_to_vec();
    [npz.into_inner(), npy, pb].into_iter().zip(0u8..).map(|(file, kind)| [vec![kind], file].concat()).collect()
}

#[cfg(not(test))]
fn configurations() -> Vec<Vec<u8>> {
    let texts = [
        "ratio = 8\nno_verify = true\nmax-size = '2MB'\ncalibration = ['a.npz', 'b']\n",
        "# none\n[nodes.\"^/decoder/\"]\nskip = true\n[nodes.'a|b+[c-d]']\nskip = false\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn plans() -> Vec<Vec<u8>> {
    let weights = Weights::find(&tiny(), &FindOptions { recurrent_only: true, ..FindOptions::default() })
        .expect("there are weights");
    let spec = BlockSpec::new(2).expect("a sound shape");
    let mut choices = weights.sites().map(|_| Choice::Block { spec, sharing: Sharing::Node });
    choices[SiteId(0)] = Choice::Dense;
    vec![plan::write(&weights, &Plan { choices, sensitivity: usual(&weights) }).expect("can be written").into_bytes()]
}

/// Kinds of [`damage`].
pub const KINDS: u8 = 9;

/// Damages bytes in one place: what a bad disk, a bad program or a bad person would do.
pub fn damage(bytes: &mut Vec<u8>, place: usize, kind: u8, value: u8) {
    let len = bytes.len();
    if len == 0 {
        bytes.push(value);
        return;
    }
    let at = place % len;
    let end = len.min(at + 1 + usize::from(value) % 64);
    match kind % KINDS {
        0 => bytes[at] ^= 1 << (value & 7),
        1 => bytes[at] = value,
        2 => bytes.insert(at, value),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        5 => {
            let from = place.wrapping_mul(31) % len;
            let piece = bytes[from..len.min(from + end - at)].to_vec();
            bytes[at..at + piece.len().min(end - at)].copy_from_slice(&piece[..piece.len().min(end - at)]);
        }
        6 => bytes.truncate(at),
        7 => bytes[at..end].fill([0, 0x7f, 0x80, 0xff][usize::from(value) % 4]),
        _ => {
            // A number where one was: lengths, dimensions and counts are varints in models and digits in texts.
            let numbers: [&[u8]; 6] =
                [b"\x00", b"-1", b"99999999999999999999", b"1e9", &[0xff; 9], b"\xff\xff\xff\x7f"];
            let number = numbers[usize::from(value) % numbers.len()];
            bytes.splice(at..(at + 1).min(len), number.iter().copied());
        }
    }
}
