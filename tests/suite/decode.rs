//! What the graph of a coded model decodes is what its codes stand for, bit for bit: the nodes are evaluated here, by the
//! definitions of the ONNX operators and from the bytes of the file, and not by anything in `src`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use dirnet::onnx::model::side_path;
use dirnet::onnx::{GraphProto, LoadOptions, Model, ModelProto, NodeProto, TensorProto};
use dirnet::plan::{Choice, Sharing};
use dirnet::recurrent::Matrix;
use dirnet::sites::{Section, Site};
use prost::Message;

use crate::forms::{self, Case, GRU, LSTM};
use crate::made;
use crate::quick;

/// A tensor in row-major order. Integers of any width are held as i64, floats of any width as f32.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone, Debug, PartialEq)]
enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Value {
    fn integers(&self) -> &[i64] {
        match &self.data {
            Data::Integers(values) => values,
            Data::Floats(_) => panic!("floats where indices or sizes are expected"),
        }
    }

    fn floats(&self) -> &[f32] {
        match &self.data {
            Data::Floats(values) => values,
            Data::Integers(_) => panic!("integers where floats are expected"),
        }
    }

    /// Elements in the order of `from`, positions in this value, as a value of `shape`.
    fn pick(&self, shape: Vec<usize>, from: impl Iterator<Item = usize>) -> Value {
        let data = match &self.data {
            Data::Floats(values) => Data::Floats(from.map(|i| values[i]).collect()),
            Data::Integers(values) => Data::Integers(from.map(|i| values[i]).collect()),
        };
        let picked = Value { shape, data };
        assert_eq!(picked.shape.iter().product::<usize>(), picked.len());
        picked
    }

    fn len(&self) -> usize {
        match &self.data {
            Data::Floats(values) => values.len(),
            Data::Integers(values) => values.len(),
        }
    }
}

/// A file as it lies on the disk: the message, and the bytes of its side file.
struct File {
    proto: ModelProto,
    side: Vec<u8>,
}

impl File {
    fn save(model: &Model, path: &Path) -> File {
        model.save(path).unwrap();
        let proto = ModelProto::decode(&*fs::read(path).unwrap()).unwrap();
        File { proto, side: fs::read(side_path(path)).unwrap_or_default() }
    }

    /// W and R of every recurrent node, by its name.
    fn weights(&self) -> HashMap<(String, Matrix), Value> {
        let mut found = HashMap::new();
        self.visit(&[self.proto.graph.as_ref().unwrap()], &mut found);
        found
    }

    fn visit(&self, graphs: &[&GraphProto], found: &mut HashMap<(String, Matrix), Value>) {
        for node in &graphs.last().unwrap().node {
            if matches!(node.op_type(), "LSTM" | "GRU" | "RNN") {
                for (matrix, input) in [(Matrix::W, 1), (Matrix::R, 2)] {
                    let value = self.value(graphs, &node.input[input]);
                    let known = found.insert((node.name().to_owned(), matrix), value);
                    assert!(known.is_none(), "two nodes are called {}", node.name());
                }
            }
            for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                self.visit(&[graphs, &[body]].concat(), found);
            }
        }
    }

    /// The value of a name as the innermost graph sees it: of that graph, else of those around it.
    fn value(&self, graphs: &[&GraphProto], name: &str) -> Value {
        for depth in (0..graphs.len()).rev() {
            let graph = graphs[depth];
            if let Some(tensor) = graph.initializer.iter().find(|tensor| tensor.name() == name) {
                return self.constant(tensor);
            }
            if let Some(node) = graph.node.iter().find(|node| node.output.iter().any(|output| output == name)) {
                let inputs: Vec<Value> = node.input.iter().map(|input| self.value(&graphs[..=depth], input)).collect();
                return self.evaluate(node, &inputs);
            }
        }
        panic!("nothing gives {name}")
    }

    fn constant(&self, tensor: &TensorProto) -> Value {
        let entry = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key() == key);
            entry.map(|entry| entry.value().parse::<usize>().unwrap())
        };
        let raw = match entry("length") {
            Some(length) => &self.side[entry("offset").unwrap_or(0)..][..length],
            None => tensor.raw_data(),
        };
        let integers = |size: usize, read: &dyn Fn(&[u8]) -> i64| Data::Integers(raw.chunks(size).map(read).collect());
        let data = match tensor.data_type() {
            1 if raw.is_empty() => Data::Floats(tensor.float_data.clone()),
            1 => Data::Floats(raw.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()),
            10 => {
                let half = |b: &[u8]| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32();
                Data::Floats(raw.chunks(2).map(half).collect())
            }
            2 => integers(1, &|b| i64::from(b[0])),
            3 => integers(1, &|b| i64::from(b[0] as i8)),
            7 if raw.is_empty() => Data::Integers(tensor.int64_data.clone()),
            7 => integers(8, &|b| i64::from_le_bytes(b.try_into().unwrap())),
            other => panic!("{}: element type {other}", tensor.name()),
        };
        Value { shape: tensor.dims.iter().map(|&size| size as usize).collect(), data }
    }

    fn evaluate(&self, node: &NodeProto, inputs: &[Value]) -> Value {
        let attribute = |name: &str| node.attribute.iter().find(|attribute| attribute.name() == name);
        let int = |name: &str, default: i64| attribute(name).map_or(default, |attribute| attribute.i());
        let first = inputs.first();
        match node.op_type() {
            "Constant" => self.constant(attribute("value").unwrap().t.as_ref().unwrap()),
            "Identity" => inputs[0].clone(),
            "Cast" => cast(&inputs[0], int("to", 0)),
            "Gather" => gather(&inputs[0], &inputs[1], int("axis", 0)),
            "Reshape" => reshape(&inputs[0], inputs[1].integers()),
            "Slice" => match inputs {
                [value, starts, ends, axes] => slice(value, starts.integers(), ends.integers(), axes.integers()),
                _ => {
                    let ints = |name: &str| attribute(name).unwrap().ints.as_slice();
                    slice(&inputs[0], ints("starts"), ints("ends"), ints("axes"))
                }
            },
            "Concat" => concat(inputs, int("axis", 0)),
            "Mul" => multiply(&inputs[0], &inputs[1]),
            "MatMul" => product(&inputs[0], &inputs[1]),
            other => panic!("a coded weight passes {other} {first:?}: define it here, by the specification"),
        }
    }
}

/// An axis that may be counted from the end.
fn axis_of(value: &Value, axis: i64) -> usize {
    usize::try_from(if axis < 0 { axis + value.shape.len() as i64 } else { axis }).unwrap()
}

/// Elements before, at and after an axis.
fn around(value: &Value, axis: usize) -> [usize; 3] {
    let product = |sizes: &[usize]| sizes.iter().product();
    [product(&value.shape[..axis]), value.shape[axis], product(&value.shape[axis + 1..])]
}

/// `to`: 1 float, 10 float16, else an integer type that holds all values that occur.
fn cast(value: &Value, to: i64) -> Value {
    let data = match (&value.data, to) {
        (Data::Integers(values), 1) => Data::Floats(values.iter().map(|&v| v as f32).collect()),
        (Data::Integers(values), 6 | 7) => Data::Integers(values.clone()),
        (Data::Floats(values), 1) => Data::Floats(values.clone()),
        (Data::Floats(values), 10) => Data::Floats(values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect()),
        (data, to) => panic!("a cast of {data:?} to {to}"),
    };
    Value { shape: value.shape.clone(), data }
}

fn gather(value: &Value, indices: &Value, axis: i64) -> Value {
    let axis = axis_of(value, axis);
    let [before, size, after] = around(value, axis);
    let shape = [&value.shape[..axis], &indices.shape, &value.shape[axis + 1..]].concat();
    let at = |index: i64| usize::try_from(if index < 0 { index + size as i64 } else { index }).unwrap();
    let rows = (0..before).flat_map(|b| indices.integers().iter().map(move |&i| b * size + at(i)));
    let from: Vec<usize> = rows.flat_map(|row| row * after..(row + 1) * after).collect();
    value.pick(shape, from.into_iter())
}

fn reshape(value: &Value, to: &[i64]) -> Value {
    let mut shape: Vec<usize> = Vec::new();
    for (axis, &size) in to.iter().enumerate() {
        shape.push(match size {
            0 => value.shape[axis],
            -1 => {
                let others = to.iter().enumerate().filter(|(other, _)| *other != axis);
                let others: usize = others.map(|(i, &n)| if n == 0 { value.shape[i] } else { n as usize }).product();
                value.len() / others
            }
            size => size as usize,
        });
    }
    value.pick(shape, 0..value.len())
}

/// Steps of one: what is coded has no other.
fn slice(value: &Value, starts: &[i64], ends: &[i64], axes: &[i64]) -> Value {
    let mut out = value.clone();
    for ((&start, &end), &axis) in starts.iter().zip(ends).zip(axes) {
        let axis = axis_of(&out, axis);
        let [before, size, after] = around(&out, axis);
        let bound = |i: i64| (if i < 0 { i + size as i64 } else { i }).clamp(0, size as i64) as usize;
        let kept = bound(start)..bound(end);
        let mut shape = out.shape.clone();
        shape[axis] = kept.len();
        let from = (0..before).flat_map(|b| (b * size + kept.start) * after..(b * size + kept.end) * after);
        out = out.pick(shape, from);
    }
    out
}

fn concat(parts: &[Value], axis: i64) -> Value {
    let axis = axis_of(&parts[0], axis);
    let [before, ..] = around(&parts[0], axis);
    let mut shape = parts[0].shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    let chunks =
        |b: usize| parts.iter().map(move |part| (part, part.len() / before * b..part.len() / before * (b + 1)));
    let data = match &parts[0].data {
        Data::Floats(_) => {
            Data::Floats((0..before).flat_map(chunks).flat_map(|(p, r)| p.floats()[r].to_vec()).collect())
        }
        Data::Integers(_) => {
            Data::Integers((0..before).flat_map(chunks).flat_map(|(p, r)| p.integers()[r].to_vec()).collect())
        }
    };
    let joined = Value { shape, data };
    assert_eq!(joined.shape.iter().product::<usize>(), joined.len());
    joined
}

/// By numpy's rules of broadcasting.
fn multiply(a: &Value, b: &Value) -> Value {
    let rank = a.shape.len().max(b.shape.len());
    let wide = |value: &Value| [vec![1; rank - value.shape.len()], value.shape.clone()].concat();
    let (of_a, of_b) = (wide(a), wide(b));
    let shape: Vec<usize> = of_a.iter().zip(&of_b).map(|(&a, &b)| if a == 1 { b } else { a }).collect();
    let place = |mut index: usize, of: &[usize]| {
        let (mut at, mut stride) = (0, 1);
        for axis in (0..rank).rev() {
            let position = index % shape[axis];
            index /= shape[axis];
            assert!(of[axis] == 1 || of[axis] == shape[axis], "{of_a:?} times {of_b:?}");
            at += if of[axis] == 1 { 0 } else { position * stride };
            stride *= of[axis];
        }
        at
    };
    let values = (0..shape.iter().product()).map(|i| a.floats()[place(i, &of_a)] * b.floats()[place(i, &of_b)]);
    Value { data: Data::Floats(values.collect()), shape }
}

/// `[1, m, k]` times `[1, k, n]`.
fn product(a: &Value, b: &Value) -> Value {
    let ([1, m, k], [1, also_k, n]) = (&a.shape[..], &b.shape[..]) else { panic!("{:?} x {:?}", a.shape, b.shape) };
    assert_eq!(k, also_k);
    let at = |i: usize, j: usize| -> f64 {
        (0..*k).map(|l| f64::from(a.floats()[i * k + l]) * f64::from(b.floats()[l * n + j])).sum()
    };
    let values = (0..*m).flat_map(|i| (0..*n).map(move |j| (i, j))).map(|(i, j)| at(i, j) as f32);
    Value { shape: vec![1, *m, *n], data: Data::Floats(values.collect()) }
}

/// Codes `model` as `choose` says, and compares what the file decodes with what the codes stand for.
fn check(place: &str, model: &Model, choose: impl Fn(&Site, &[Section]) -> Choice) {
    let folder = tempfile::tempdir().unwrap();
    let coded = quick::compressed(model, choose);
    let weights = File::save(&coded.model, &folder.path().join("coded.onnx")).weights();
    let mut compared = 0;
    for block in &coded.blocks {
        let place =
            format!("{place}: {}/{:?} direction {} row {}", block.node, block.matrix, block.direction, block.first);
        let value = &weights[&(block.node.clone(), block.matrix)];
        let [_, rows, columns] = value.shape[..] else { panic!("{place}: {:?}", value.shape) };
        assert_eq!(columns, block.rows.ncols(), "{place}");
        let start = (block.direction * rows + block.first) * columns;
        let found = &value.floats()[start..][..block.rows.len()];
        for (index, (found, &wanted)) in found.iter().zip(&block.rows).enumerate() {
            let equal = if block.exact { found.to_bits() == wanted.to_bits() } else { (found - wanted).abs() < 1e-5 };
            assert!(equal, "{place}, weight {index}: {found:e}, the codes stand for {wanted:e}");
        }
        compared += found.len();
    }
    // Every weight of every node is of one block.
    assert_eq!(compared, weights.values().map(Value::len).sum::<usize>(), "{place}");
}

/// Every width of pieces, whoever shares the codebook, on layers of every direction; rows of 10 and 24 weights, which most
/// widths do not divide.
#[test]
fn what_the_graph_decodes_is_what_the_codes_stand_for() {
    let all = [
        Case { direction: "forward", opset: 9, ..LSTM },
        Case { direction: "reverse", ..LSTM },
        Case { direction: "bidirectional", ..GRU },
        Case { direction: "bidirectional", opset: 9, ..LSTM },
    ];
    for case in all {
        let model = forms::model(&case);
        let place = format!("{} {} opset {}", case.op, case.direction, case.opset);
        for (index, width) in (1..=16).enumerate() {
            let sharing = Sharing::ALL[index % 4];
            check(&format!("{place}, width {width}, {sharing:?}"), &model, |_, _| quick::block(width, sharing));
        }
        check(&format!("{place}, mixed"), &model, quick::mixed);
        check(&format!("{place}, projection"), &model, quick::projected);
    }
}

/// Nodes in bodies, weights that come from outside of them, that nodes share, that are stored as float16 or beside the
/// model.
#[test]
fn what_the_graphs_of_made_models_decode_is_what_the_codes_stand_for() {
    for made in &made::ALL {
        let model = made.model();
        check(made.name, &model, quick::mixed);
        check(&format!("{}, of one kind", made.name), &model, |_, _| quick::block(2, Sharing::Model));
        check(&format!("{}, projection", made.name), &model, quick::projected);
    }
    for name in ["lstm", "gru"] {
        let model = Model::load(&made::fixture(&format!("recurrent/{name}.onnx")), &LoadOptions::default()).unwrap();
        check(name, &model, quick::mixed);
    }
}

/// The operators above against values worked out by hand, for they are what all else here is measured by.
#[test]
fn the_evaluator_does_what_the_specification_says() {
    let floats = |shape: &[usize], values: &[f32]| Value { shape: shape.to_vec(), data: Data::Floats(values.to_vec()) };
    let integers =
        |shape: &[usize], values: &[i64]| Value { shape: shape.to_vec(), data: Data::Integers(values.to_vec()) };
    let m = integers(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(gather(&m, &integers(&[2, 1], &[1, -2]), 0), integers(&[2, 1, 3], &[4, 5, 6, 1, 2, 3]));
    assert_eq!(gather(&m, &integers(&[2], &[2, 0]), 1), integers(&[2, 2], &[3, 1, 6, 4]));
    assert_eq!(reshape(&m, &[0, -1, 1]), integers(&[2, 3, 1], &[1, 2, 3, 4, 5, 6]));
    assert_eq!(slice(&m, &[0, 1], &[9, 3], &[0, -1]), integers(&[2, 2], &[2, 3, 5, 6]));
    assert_eq!(slice(&m, &[-1], &[2], &[0]), integers(&[1, 3], &[4, 5, 6]));
    let column = integers(&[2, 1], &[7, 8]);
    assert_eq!(concat(&[m.clone(), column], 1), integers(&[2, 4], &[1, 2, 3, 7, 4, 5, 6, 8]));
    assert_eq!(concat(&[m.clone(), m.clone()], 0).shape, [4, 3]);
    let (rows, scales) = (floats(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), floats(&[2, 1], &[10.0, 0.5]));
    assert_eq!(multiply(&rows, &scales), floats(&[1, 2, 2], &[10.0, 20.0, 1.5, 2.0]));
    assert_eq!(multiply(&rows, &floats(&[], &[2.0])), floats(&[1, 2, 2], &[2.0, 4.0, 6.0, 8.0]));
    assert_eq!(product(&rows, &floats(&[1, 2, 1], &[1.0, 1.0])), floats(&[1, 2, 1], &[3.0, 7.0]));
    assert_eq!(cast(&floats(&[1], &[1.0 + f32::EPSILON]), 10), floats(&[1], &[1.0]));
}
