//! Broken and hostile models, each a small LSTM with one thing wrong, in a folder of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use dirnet::onnx::external_data::DataRange;
use dirnet::onnx::{GraphProto, ModelProto, NodeProto, TensorProto, tensor};
use prost::Message;

use crate::hostile::targets::{int, node, of, value, wave};
use crate::hostile::typed;

/// The folder of all of them: `NAME/model.onnx`, with a side file `w.data` of a quarter or all of W where it matters.
pub fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("broken");
            let _ = fs::remove_dir_all(&folder);
            for (name, bytes) in models() {
                let home = folder.join(name);
                fs::create_dir_all(&home).unwrap();
                fs::write(home.join("model.onnx"), bytes).unwrap();
                match name {
                    "ext_short" => fs::write(home.join("w.data"), [0; 384]).unwrap(),
                    "ext_len_huge" | "ext_neg_off" => fs::write(home.join("w.data"), [0; 768]).unwrap(),
                    _ => {}
                }
            }
            folder
        })
        .clone()
}

fn sound() -> ModelProto {
    of(GraphProto {
        name: Some("g".to_owned()),
        node: vec![node("LSTM", &["x", "W", "R"], "y", vec![int("hidden_size", 8)])],
        initializer: vec![tensor::float("W", &[1, 32, 6], &wave(192)), tensor::float("R", &[1, 32, 8], &wave(256))],
        input: vec![typed("x", 1, &[5, 1, 6])],
        output: vec![value("y")],
        ..Default::default()
    })
}

/// A model in which there is nothing to compress.
pub fn without_layers() -> Vec<u8> {
    with(|graph| graph.node = vec![node("Relu", &["x"], "y", vec![])])
}

/// The sound model with something done to its graph.
fn with(change: impl FnOnce(&mut GraphProto)) -> Vec<u8> {
    let mut proto = sound();
    change(proto.graph.as_mut().unwrap());
    proto.encode_to_vec()
}

fn w(change: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    with(|graph| change(&mut graph.initializer[0]))
}

fn dims(dims: &[i64]) -> Vec<u8> {
    w(|w| w.dims = dims.to_vec())
}

fn raw(bytes: usize) -> Vec<u8> {
    w(|w| w.raw_data = Some(vec![0; bytes].into()))
}

fn layer(change: impl FnOnce(&mut NodeProto)) -> Vec<u8> {
    with(|graph| change(&mut graph.node[0]))
}

fn hidden(size: Option<i64>) -> Vec<u8> {
    layer(|lstm| lstm.attribute = size.into_iter().map(|size| int("hidden_size", size)).collect())
}

fn side_file(location: &str, change: impl FnOnce(&mut TensorProto)) -> Vec<u8> {
    w(|w| {
        DataRange { location: location.to_owned(), offset: 0, length: Some(768) }.write_to(w);
        change(w);
    })
}

fn models() -> Vec<(&'static str, Vec<u8>)> {
    let mut newer = [sound(), sound()];
    newer[0].ir_version = Some(9999);
    newer[1].opset_import[0].version = Some(9999);
    let newer = newer.map(|proto| proto.encode_to_vec());
    let ok = sound().encode_to_vec();
    let foreign = |operator: &str, domain: &str| {
        layer(|lstm| {
            lstm.op_type = Some(operator.to_owned());
            lstm.domain = Some(domain.to_owned());
        })
    };
    vec![
        ("R_shape_mismatch", with(|graph| graph.initializer[1].dims = vec![1, 64, 4])),
        ("W_not_4H", with(|graph| graph.initializer[0] = tensor::float("W", &[1, 30, 6], &wave(180)))),
        ("all_zero_W", raw(768)),
        (
            "bomb_constantofshape_32GB",
            with(|graph| {
                graph.node.push(node("ConstantOfShape", &["shape"], "big", vec![]));
                graph.node.push(node("Gather", &["big", "first"], "small", vec![]));
                graph.initializer.push(tensor::int64("shape", &[1], &[1 << 33]));
                graph.initializer.push(tensor::int64("first", &[1], &[0]));
            }),
        ),
        ("contrib_lstm", foreign("DynamicQuantizeLSTM", "com.microsoft")),
        ("custom_domain", foreign("LSTM", "evil.custom")),
        (
            "cycle",
            with(|graph| graph.node.extend([node("Relu", &["q"], "p", vec![]), node("Relu", &["p"], "q", vec![])])),
        ),
        ("dangling_input", layer(|lstm| lstm.input[1] = "nope".to_owned())),
        ("dims_negative", dims(&[1, -32, 6])),
        ("dims_overflow", dims(&[1 << 62, 4, 1])),
        ("dims_overflow_wrap", dims(&[1, 1 << 33, 1 << 33])),
        ("dtype_999", w(|w| w.data_type = Some(999))),
        ("dup_initializer", with(|graph| graph.initializer.push(graph.initializer[0].clone()))),
        ("empty", Vec::new()),
        ("ext_absolute", side_file("/etc/passwd", |_| {})),
        ("ext_len_huge", side_file("w.data", |w| w.external_data[2].value = Some((1u64 << 60).to_string()))),
        ("ext_missing", side_file("nofile.data", |_| {})),
        ("ext_neg_off", side_file("w.data", |w| w.external_data[1].value = Some("-4".to_owned()))),
        ("ext_short", side_file("w.data", |_| {})),
        ("ext_traversal", side_file("../ok/model.onnx", |_| {})),
        ("garbage", wave(500).iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("hidden_absent", hidden(None)),
        ("hidden_mismatch", hidden(Some(9))),
        ("hidden_neg", hidden(Some(-8))),
        ("ir_9999", newer[0].clone()),
        ("nan_inf_weights", {
            let mut values = wave(192);
            values[..2].copy_from_slice(&[f32::NAN, f32::INFINITY]);
            with(|graph| graph.initializer[0] = tensor::float("W", &[1, 32, 6], &values))
        }),
        ("ok", ok.clone()),
        ("opset_9999", newer[1].clone()),
        ("raw_long", raw(832)),
        ("raw_short", raw(764)),
        ("truncated", ok[..ok.len() * 3 / 5].to_vec()),
    ]
}
