//! Weights of Gemm, MatMul, Conv, ConvTranspose and Gather nodes, coded: what is written computes what the codes stand for,
//! has the size that was foreseen, and goes back to dense weights.

use dirnet::code;
use dirnet::compress::{Allocation, Compressor, Prepared};
use dirnet::encode::{self, Measured, Sizes, Writing};
use dirnet::engine::{Engine, Overrides};
use dirnet::error::ErrorKind;
use dirnet::expand;
use dirnet::onnx::proto::{AttributeProto, OperatorSetIdProto, ValueInfoProto};
use dirnet::onnx::{ElementType, GraphProto, LoadOptions, Model, NodeProto, TensorProto, tensor};
use dirnet::plan::{Choice, Plan, Sharing};
use dirnet::recurrent::FindOptions;
use dirnet::samples::{Feed, Random, RandomOptions, Tensor};
use dirnet::sites::Weights;
use dirnet::{Inputs, Options, Target};
use half::f16;
use ndarray::{ArrayD, IxDyn};
use prost::Message;

use crate::hostile::targets::{graph, int, ints, node, of, value};
use crate::hostile::{dirnet as tool, typed};
use crate::quick;

const FLOAT: i32 = ElementType::Float as i32;
const INT64: i32 = ElementType::Int64 as i32;

/// Nodes that make `out` of `in`, and their constants.
#[derive(Clone)]
pub struct Piece {
    pub name: &'static str,
    pub nodes: Vec<NodeProto>,
    pub constants: Vec<TensorProto>,
    /// Of `in`.
    pub element: i32,
    pub shape: Vec<i64>,
    /// How many matrices are coded, and by how many nodes they are read.
    pub matrices: usize,
    pub readers: usize,
}

/// Numbers without a pattern that pieces of weights could share, around 0.
pub fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next()).collect()
}

fn weight(name: &str, shape: &[usize]) -> TensorProto {
    tensor::float(name, shape, &noise(shape.iter().product(), name.len() as u32))
}

/// The elements of a matrix by columns.
fn columns(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

fn half_weight(name: &str, shape: &[usize]) -> TensorProto {
    let values: Vec<f16> = noise(shape.iter().product(), 5).into_iter().map(f16::from_f32).collect();
    tensor::float16(name, shape, &values)
}

pub fn piece(name: &'static str, shape: &[i64], nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Piece {
    Piece { name, nodes, constants, element: FLOAT, shape: shape.to_vec(), matrices: 1, readers: 1 }
}

pub fn transpose(input: &str, output: &str) -> NodeProto {
    node("Transpose", &[input], output, vec![ints("perm", &[1, 0])])
}

/// Each operator, and each way of weights to it.
fn pieces() -> Vec<Piece> {
    let gemm = |attributes| node("Gemm", &["in", "w", "bias"], "out", attributes);
    let conv = |attributes| node("Conv", &["in", "w"], "out", attributes);
    let ids = |piece: Piece| Piece { element: INT64, ..piece };
    let tied = |piece: Piece| Piece { readers: 2, ..piece };
    let bias = || weight("bias", &[30]);
    let gather = || node("Gather", &["w", "in"], "rows", vec![]);
    vec![
        piece("Gemm", &[3, 20], vec![gemm(vec![])], vec![weight("w", &[20, 30]), bias()]),
        piece("Gemm of rows", &[3, 20], vec![gemm(vec![int("transB", 1)])], vec![weight("w", &[30, 20]), bias()]),
        piece("Gemm of columns", &[20, 3], vec![gemm(vec![int("transA", 1)])], vec![weight("w", &[20, 30]), bias()]),
        piece("MatMul", &[2, 3, 22], vec![node("MatMul", &["in", "w"], "out", vec![])], vec![weight("w", &[22, 30])]),
        piece("left MatMul", &[22, 3], vec![node("MatMul", &["w", "in"], "out", vec![])], vec![weight("w", &[30, 22])]),
        piece(
            "MatMul of axes of 1",
            &[2, 3, 22],
            vec![node("MatMul", &["in", "w"], "out", vec![])],
            vec![weight("w", &[1, 22, 30])],
        ),
        piece(
            "left MatMul of axes of 1",
            &[1, 22, 3],
            vec![node("MatMul", &["w", "in"], "out", vec![])],
            vec![weight("w", &[1, 30, 22])],
        ),
        piece("Conv 1-D", &[2, 6, 9], vec![conv(vec![])], vec![weight("w", &[20, 6, 3])]),
        piece(
            "Conv 2-D",
            &[1, 4, 7, 6],
            vec![conv(vec![ints("strides", &[2, 1]), ints("pads", &[1, 0, 1, 2]), ints("dilations", &[1, 2])])],
            vec![weight("w", &[12, 4, 3, 3])],
        ),
        piece("Conv of a point", &[1, 22, 4], vec![conv(vec![])], vec![weight("w", &[20, 22, 1])]),
        piece("grouped Conv", &[1, 8, 5, 5], vec![conv(vec![int("group", 2)])], vec![weight("w", &[12, 4, 3, 3])]),
        piece("depthwise Conv", &[1, 40, 5, 5], vec![conv(vec![int("group", 40)])], vec![weight("w", &[40, 1, 3, 3])]),
        piece(
            "ConvTranspose",
            &[1, 10, 4, 3],
            vec![node("ConvTranspose", &["in", "w"], "out", vec![ints("strides", &[2, 2])])],
            vec![weight("w", &[10, 4, 3, 3])],
        ),
        piece(
            "grouped ConvTranspose",
            &[1, 20, 6],
            vec![node("ConvTranspose", &["in", "w"], "out", vec![int("group", 2)])],
            vec![weight("w", &[20, 5, 4])],
        ),
        ids(piece("Gather", &[2, 3], vec![node("Gather", &["w", "in"], "out", vec![])], vec![weight("w", &[40, 12])])),
        ids(piece(
            "Gather of one row",
            &[],
            vec![node("Gather", &["w", "in"], "out", vec![])],
            vec![weight("w", &[40, 12])],
        )),
        tied(ids(piece(
            "a table and its columns",
            &[2, 3],
            vec![gather(), transpose("w", "wt"), node("MatMul", &["rows", "wt"], "out", vec![])],
            vec![weight("w", &[40, 12])],
        ))),
        Piece {
            readers: 3,
            ..ids(piece(
                "a table that several look up, and its columns",
                &[2, 3],
                vec![
                    gather(),
                    node("Gather", &["w", "in"], "others", vec![]),
                    node("Add", &["rows", "others"], "sum", vec![]),
                    transpose("w", "wt"),
                    node("MatMul", &["sum", "wt"], "out", vec![]),
                ],
                vec![weight("w", &[40, 12])],
            ))
        },
        tied(ids(piece(
            "a table and a copy of its columns",
            &[2, 3],
            vec![gather(), node("MatMul", &["rows", "wt"], "out", vec![])],
            vec![weight("w", &[40, 12]), tensor::float("wt", &[12, 40], &columns(&noise(480, 1), [40, 12]))],
        ))),
        tied(ids(piece(
            "a table and its rows",
            &[5],
            vec![gather(), node("Gemm", &["rows", "w"], "out", vec![int("transB", 1)])],
            vec![weight("w", &[40, 12])],
        ))),
        tied(ids(piece(
            "a table and kernels of a point",
            &[1, 7],
            vec![
                gather(),
                node("Transpose", &["rows"], "columns", vec![ints("perm", &[0, 2, 1])]),
                node("Reshape", &["w", "point"], "kernels", vec![]),
                node("Conv", &["columns", "kernels"], "out", vec![]),
            ],
            vec![weight("w", &[40, 12]), tensor::int64("point", &[3], &[40, 12, 1])],
        ))),
        tied(piece(
            "kernels of a point in one and two axes",
            &[1, 20, 6],
            vec![
                node("Conv", &["in", "w"], "a", vec![]),
                node("Reshape", &["in", "square"], "wide", vec![]),
                node("Reshape", &["w", "point"], "kernels", vec![]),
                node("Conv", &["wide", "kernels"], "b", vec![]),
                node("Reshape", &["b", "flat"], "c", vec![]),
                node("Mul", &["a", "c"], "out", vec![]),
            ],
            vec![
                weight("w", &[20, 20, 1]),
                tensor::int64("point", &[4], &[20, 20, 1, 1]),
                tensor::int64("square", &[4], &[1, 20, 2, 3]),
                tensor::int64("flat", &[3], &[1, 20, 6]),
            ],
        )),
        ids(piece(
            "a table that goes to half precision",
            &[4],
            vec![
                gather(),
                node("Cast", &["rows"], "half", vec![int("to", ElementType::Float16 as i64)]),
                node("Cast", &["half"], "out", vec![int("to", FLOAT.into())]),
            ],
            vec![weight("w", &[40, 12])],
        )),
        ids(piece(
            "a table that goes to whole numbers",
            &[4],
            vec![
                gather(),
                node("Cast", &["rows"], "whole", vec![int("to", INT64.into())]),
                node("Cast", &["whole"], "out", vec![int("to", FLOAT.into())]),
            ],
            vec![tensor::float("w", &[40, 12], &noise(480, 3).iter().map(|v| v * 100.0).collect::<Vec<_>>())],
        )),
        piece(
            "half precision behind a Cast",
            &[3, 22],
            vec![node("Cast", &["h"], "w", vec![int("to", FLOAT.into())]), node("MatMul", &["in", "w"], "out", vec![])],
            vec![half_weight("h", &[22, 30])],
        ),
        ids(piece(
            "a table of half precision",
            &[4],
            vec![gather(), node("Cast", &["rows"], "out", vec![int("to", FLOAT.into())])],
            vec![half_weight("w", &[40, 12])],
        )),
        piece(
            "Identity(Transpose)",
            &[3, 22],
            vec![
                transpose("t", "i"),
                node("Identity", &["i"], "w", vec![]),
                node("MatMul", &["in", "w"], "out", vec![]),
            ],
            vec![weight("t", &[30, 22])],
        ),
        piece(
            "Concat",
            &[3, 22],
            vec![
                node("Concat", &["p", "q"], "w", vec![int("axis", 0)]),
                node("Gemm", &["in", "w"], "out", vec![int("transB", 1)]),
            ],
            vec![weight("p", &[11, 22]), weight("q", &[19, 22])],
        ),
        Piece {
            matrices: 2,
            readers: 2,
            ..piece(
                "one after the other",
                &[1, 6, 9],
                vec![
                    node("Conv", &["in", "w"], "a", vec![]),
                    node("Relu", &["a"], "b", vec![]),
                    node("MatMul", &["b", "second"], "out", vec![]),
                ],
                vec![weight("w", &[20, 6, 3]), weight("second", &[7, 40])],
            )
        },
    ]
}

/// Where a piece is in a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    Top,
    If,
    Loop,
}

/// A piece as a model of `x` and `y`; `outside` has the constants in the graph around the body.
pub fn model(piece: &Piece, place: Place, outside: bool, opset: i64, ir: i64) -> Model {
    let yes = TensorProto { name: Some("go".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
    let mut constants = piece.constants.clone();
    let mut body = GraphProto { name: Some("body".to_owned()), node: piece.nodes.clone(), ..Default::default() };
    let mut main = GraphProto { name: Some("main".to_owned()), output: vec![value("y")], ..Default::default() };
    let reads = || node("Identity", &["x"], "in", vec![]);
    let shape = piece.shape.clone();
    if place != Place::Top && !outside {
        body.initializer = std::mem::take(&mut constants);
    }
    match place {
        Place::Top => {
            // The rank of indices is known from the input of the model.
            main.node = [&piece.nodes[..], &[node("Identity", &["out"], "y", vec![])]].concat();
            rename(&mut main.node, "in", "x");
        }
        Place::If => {
            body.node.insert(0, reads());
            body.output = vec![value("out")];
            let mut other = body.clone();
            other.node = vec![node(
                "Constant",
                &[],
                "other",
                vec![AttributeProto {
                    name: Some("value".to_owned()),
                    t: Some(tensor::float("", &[1], &[0.0])),
                    r#type: Some(4),
                    ..Default::default()
                }],
            )];
            other.initializer.clear();
            other.output = vec![value("other")];
            main.node = vec![node("If", &["go"], "y", vec![graph("then_branch", body), graph("else_branch", other)])];
            constants.push(yes);
        }
        Place::Loop => {
            body.node.splice(0..0, [reads(), node("Identity", &["going"], "again", vec![])]);
            body.input = vec![typed("round", INT64, &[]), typed("going", 9, &[])];
            body.output = vec![value("again"), value("out")];
            main.node = vec![node("Loop", &["rounds", "go"], "y", vec![graph("body", body)])];
            constants.extend([yes, tensor::int64("rounds", &[], &[2])]);
        }
    }
    main.input = vec![typed("x", piece.element, &shape)];
    if ir <= 3 {
        // Every initializer is an input.
        let input = |tensor: &TensorProto| typed(tensor.name(), tensor.data_type(), &tensor.dims);
        main.input.extend(constants.iter().map(input));
    }
    main.initializer = constants;
    let mut proto = of(main);
    proto.ir_version = Some(ir);
    proto.opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
    Model::from_bytes(proto.encode_to_vec().into(), &LoadOptions::default())
        .unwrap_or_else(|e| panic!("{} in {place:?}: {e}", piece.name))
}

fn rename(nodes: &mut [NodeProto], from: &str, to: &str) {
    let inputs = nodes.iter_mut().flat_map(|node| &mut node.input);
    inputs.filter(|input| *input == from).for_each(|input| *input = to.to_owned());
}

/// An input for the model.
fn feed(model: &Model) -> Feed {
    let info: &ValueInfoProto = &model.proto.graph.as_ref().unwrap().input[0];
    let options = RandomOptions { dims: &[], carry: &[], seed: 1, count: 1 };
    let mut random = Random::new(model, &options).unwrap_or_else(|e| panic!("{}: {e}", info.name()));
    let mut feed = random.samples.streams.remove(0).feeds.remove(0);
    // Tables have 40 rows, in bodies too, where nobody tells how large an index may be.
    if let Tensor::Int64(ids) = &feed["x"] {
        let mut next = 11;
        let ids = ids.map(|_| {
            next = (next * 7 + 3) % 40;
            next
        });
        feed.insert("x".to_owned(), Tensor::from(ids));
    }
    feed
}

fn run(engine: &Engine, feed: &Feed, overrides: &Overrides, place: &str) -> Tensor {
    let outputs = engine.run_with(feed, overrides, None).unwrap_or_else(|e| panic!("{place}: {e}"));
    outputs.into_iter().next().unwrap().1
}

/// The largest difference, relative to the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f64(), b.to_f64());
    let largest = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    (&a - &b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / largest
}

/// Tensors of bytes in all graphs: codes and codebooks, and integers of the original.
fn bytes_tensors(model: &Model) -> usize {
    let is =
        |tensor: &TensorProto| [ElementType::Uint8, ElementType::Int8].iter().any(|&t| tensor.data_type() == t as i32);
    let constants = |node: &NodeProto| node.attribute.iter().filter_map(|a| a.t.as_ref()).filter(|&t| is(t)).count();
    let of_graph = |graph: &GraphProto| {
        graph.initializer.iter().filter(|&tensor| is(tensor)).count() + graph.node.iter().map(constants).sum::<usize>()
    };
    model.graphs().iter().map(|(_, graph)| of_graph(graph)).sum()
}

/// Constants of so many elements that they are weights, in all graphs.
fn large_tensors(model: &Model) -> usize {
    let is = |tensor: &TensorProto| tensor.dims.iter().product::<i64>() >= 256;
    let constants = |node: &NodeProto| node.attribute.iter().filter_map(|a| a.t.as_ref()).filter(|&t| is(t)).count();
    let of_graph = |graph: &GraphProto| {
        graph.initializer.iter().filter(|&tensor| is(tensor)).count() + graph.node.iter().map(constants).sum::<usize>()
    };
    model.graphs().iter().map(|(_, graph)| of_graph(graph)).sum()
}

/// Codes a model and looks at all that follows. Returns the coded model.
pub fn check(place: &str, model: &Model, choice: Choice) -> Model {
    let weights = Weights::find(model, &FindOptions::default()).unwrap_or_else(|e| panic!("{place}: {e}"));
    let plan = Plan { choices: weights.sites().map(|_| choice), sensitivity: weights.sites().map(|_| 1.0) };
    let coded = quick::learn(&weights, &plan, 127);
    let writing = Writing { note: "how it was made".to_owned(), ..Writing::default() };
    let written = encode::apply(model, &weights, &coded, &writing).unwrap_or_else(|e| panic!("{place}: {e}"));
    let bytes = written.saved_bytes().unwrap();

    // What was foreseen.
    assert_eq!(encode::size(model, &weights, &plan, &writing).unwrap(), bytes, "{place}");
    let measured = Measured::default();
    let sizes = Sizes::new(model, &weights, &writing, &measured);
    for known in 0..=weights.tensors().count() {
        assert_eq!(sizes.bytes(&plan).unwrap(), bytes, "{place}, {known} parts known");
    }
    let file = written.proto.encode_to_vec();
    assert_eq!(file.len() as u64, bytes, "{place}");
    let written = Model::from_bytes(file.into(), &LoadOptions::default()).unwrap_or_else(|e| panic!("{place}: {e}"));

    // What it computes.
    let feed = feed(model);
    let probes = code::probes(model, &weights).unwrap();
    let engine = Engine::probing(model, &probes).unwrap_or_else(|e| panic!("{place}: {e}"));
    let overrides = code::overrides(&weights, &engine, code::stored(&coded));
    assert_eq!(overrides.constants.len(), weights.linear.len(), "{place}");
    let original = run(&Engine::new(model).unwrap(), &feed, &Overrides::default(), place);
    let wanted = run(&engine, &feed, &overrides, place);
    let found =
        run(&Engine::new(&written).unwrap_or_else(|e| panic!("{place}: {e}")), &feed, &Overrides::default(), place);
    let lost = distance(&found, &original);
    // A piece of one integer is that integer.
    let is_exact = weights.ids().all(|id| weights.grid(id).is_some()) && is_of_single_weights(choice);
    assert!((lost == 0.0) == is_exact && lost < 1.0, "{place}: {lost} from the original");
    let difference = distance(&found, &wanted);
    assert!(difference <= 1e-6, "{place}: {difference} from what the codes stand for");

    // The way back.
    let before = bytes_tensors(model);
    assert!(bytes_tensors(&written) > before, "{place}");
    let dense = expand::expand(&written).unwrap_or_else(|e| panic!("{place}: {e}"));
    assert_eq!(bytes_tensors(&dense), before, "{place}: codes are left");
    assert_eq!(large_tensors(&dense), weights.tensors().count(), "{place}: one dense tensor of each matrix");
    assert_eq!(expand::expand(&dense).unwrap_err().kind(), ErrorKind::NothingToDo, "{place}");
    let back =
        run(&Engine::new(&dense).unwrap_or_else(|e| panic!("{place}: {e}")), &feed, &Overrides::default(), place);
    assert!(back == found, "{place}: {} after expanding", distance(&back, &found));

    // Once is enough.
    let again = Prepared::new(&written, &Options::default()).map(|_| ()).expect_err("it is coded");
    assert_eq!(again.kind(), ErrorKind::NothingToDo, "{place}: {again}");
    assert!(again.to_string().contains("already compressed"), "{place}: {again}");
    written
}

fn is_of_single_weights(choice: Choice) -> bool {
    matches!(choice, Choice::Block { spec, .. } if spec.width == 1)
}

/// Widths of which some divide the rows and some do not.
pub fn choices() -> [Choice; 4] {
    [(1, Sharing::Model), (2, Sharing::Unit), (3, Sharing::Matrix), (4, Sharing::Model)]
        .map(|(width, sharing)| quick::block(width, sharing))
}

pub fn count(piece: &Piece, model: &Model, place: &str) {
    let sites = Weights::find(model, &FindOptions::default()).unwrap_or_else(|e| panic!("{place}: {e}"));
    assert_eq!((sites.len(), sites.linear.len()), (piece.matrices, piece.readers), "{place}");
}

#[test]
fn what_is_written_computes_what_the_codes_stand_for() {
    for (number, piece) in pieces().into_iter().enumerate() {
        for (width, choice) in choices().into_iter().enumerate() {
            let opset = [9, 11, 13, 17][(number + width) % 4];
            let place = format!("{}, width {}, opset {opset}", piece.name, width + 1);
            let model = model(&piece, Place::Top, false, opset, 8);
            count(&piece, &model, &place);
            check(&place, &model, choice);
        }
    }
}

#[test]
fn weights_of_bodies_are_coded() {
    // Not in a Scan: tract does not end planning the dense model of most of these there.
    for (number, piece) in pieces().into_iter().enumerate() {
        for (at, place) in [Place::If, Place::Loop].into_iter().enumerate() {
            let turn = number + at;
            let (opset, outside) = ([9, 11, 13, 17][turn % 4], (number / 2 + at) % 2 == 0);
            let name = format!("{} in {place:?}, outside {outside}, opset {opset}, choice {}", piece.name, turn % 4);
            let model = model(&piece, place, outside, opset, 8);
            count(&piece, &model, &name);
            check(&name, &model, choices()[turn % 4]);
        }
    }
}

/// All initializers are inputs in these; the coded ones become Constant nodes.
#[test]
fn weights_of_old_files_are_coded() {
    for (number, piece) in pieces().into_iter().enumerate() {
        let place = format!("{}, IR 3", piece.name);
        let model = model(&piece, Place::Top, false, 9, 3);
        count(&piece, &model, &place);
        check(&place, &model, choices()[number % 4]);
    }
}

/// A table and the matrix that is its Transpose are stored once, as they were.
#[test]
fn a_tied_table_is_stored_once() {
    let tied = pieces().into_iter().find(|piece| piece.name == "a table and its columns").unwrap();
    let alone = pieces().into_iter().find(|piece| piece.name == "Gather").unwrap();
    let [tied, alone] =
        [tied, alone].map(|piece| check(piece.name, &model(&piece, Place::Top, false, 17, 8), choices()[1]));
    let stored = |model: &Model| -> usize {
        let codes = |tensor: &&TensorProto| tensor.data_type() == ElementType::Uint8 as i32;
        model
            .proto
            .graph
            .iter()
            .flat_map(|g| &g.initializer)
            .filter(codes)
            .map(|t| t.raw_data.as_ref().map_or(0, |raw| raw.len()))
            .sum()
    };
    assert_eq!(stored(&tied), stored(&alone));
}

/// No run of nodes makes a value that is too large for tract to fold.
#[test]
fn large_weights_are_written_in_runs() {
    let (rows, columns) = (1200, 1000);
    let table = || weight("w", &[rows, columns]);
    let gather = || node("Gather", &["w", "in"], "rows", vec![]);
    let ids = |name, nodes| Piece { element: INT64, ..piece(name, &[5], nodes, vec![table()]) };
    let cases = [
        piece(
            "large MatMul",
            &[2, 1000],
            vec![transpose("w", "t"), node("MatMul", &["in", "t"], "out", vec![])],
            vec![table()],
        ),
        piece("large Gemm", &[2, 1200], vec![node("Gemm", &["in", "w"], "out", vec![])], vec![table()]),
        piece(
            "large Conv",
            &[1, 100, 12],
            vec![node("Conv", &["in", "w"], "out", vec![])],
            vec![weight("w", &[1200, 100, 10])],
        ),
        Piece {
            readers: 2,
            ..ids("large and tied", vec![gather(), transpose("w", "t"), node("MatMul", &["rows", "t"], "out", vec![])])
        },
        ids("large table", vec![gather(), node("Identity", &["rows"], "out", vec![])]),
    ];
    for (number, piece) in cases.into_iter().enumerate() {
        let model = model(&piece, Place::Top, false, 13, 8);
        count(&piece, &model, piece.name);
        let choice = quick::block(if number % 2 == 0 { 4 } else { 3 }, Sharing::Unit);
        let written = check(piece.name, &model, choice);
        let joined = |node: &NodeProto| node.op_type() == "Concat" && node.input.len() == 2;
        let runs = written.proto.graph.iter().flat_map(|g| &g.node).filter(|node| joined(node)).count();
        // A table of whole pieces is looked up in codes.
        assert_eq!(runs, usize::from(piece.name != "large table"), "{}", piece.name);
    }
    // Pieces that do not make whole rows.
    let model = model(&cases_of_three(table()), Place::Top, false, 13, 8);
    check("large and tied, width 3", &model, quick::block(3, Sharing::Unit));
}

fn cases_of_three(table: TensorProto) -> Piece {
    let nodes =
        vec![node("Gather", &["w", "in"], "rows", vec![]), node("Gemm", &["rows", "w"], "out", vec![int("transB", 1)])];
    Piece { element: INT64, ..piece("tied", &[5], nodes, vec![table]) }
}

/// Two Conv and a Gemm of `x [1, 6, 16]`, and no recurrent node.
fn plain(more: &[NodeProto]) -> Model {
    let mut nodes = vec![
        node("Conv", &["x", "first"], "a", vec![ints("pads", &[1, 1])]),
        node("Relu", &["a"], "b", vec![]),
        node("Conv", &["b", "second"], "c", vec![ints("strides", &[2])]),
        node("Relu", &["c"], "d", vec![]),
        node("Flatten", &["d"], "e", vec![]),
        node("Gemm", &["e", "last"], "y", vec![]),
    ];
    nodes.extend_from_slice(more);
    Model::from_proto(
        of(GraphProto {
            node: nodes,
            initializer: vec![
                weight("first", &[64, 6, 3]),
                weight("second", &[64, 64, 4]),
                weight("last", &[64 * 7, 40]),
            ],
            input: vec![typed("x", FLOAT, &[1, 6, 16])],
            output: vec![value("y")],
            ..Default::default()
        }),
        &LoadOptions::default(),
    )
    .unwrap()
}

pub fn samples(model: &Model, count: usize) -> Inputs {
    let options = RandomOptions { dims: &[], carry: &[], seed: 3, count };
    Inputs::new(Random::new(model, &options).unwrap().samples, None)
}

#[test]
fn a_model_without_recurrent_nodes_is_compressed() {
    let model = plain(&[]);
    for allocation in [Allocation::Measured, Allocation::Local, Allocation::Uniform] {
        let options = Options { allocation, ..Options::default() };
        let mut compressor = Compressor::new(&model, samples(&model, 24), options).unwrap();
        assert_eq!(compressor.sites().len(), 3);
        let small = compressor.compress(&Target::Ratio(4.0)).unwrap();
        let bytes = small.model.saved_bytes().unwrap();
        assert!(bytes * 3 < model.saved_bytes().unwrap(), "{allocation:?}: {bytes}");
        let verdict = compressor.verify(&small.model, &[]).unwrap();
        assert!(verdict.passed && verdict.outputs[0].snr_db > Some(10.0), "{allocation:?}: {verdict:?}");
    }
}

/// What such weights multiply is known from runs only.
#[test]
fn a_model_without_recurrent_nodes_that_cannot_be_run_is_refused() {
    let odd = NodeProto { domain: Some("others".to_owned()), ..node("Odd", &["y"], "z", vec![]) };
    let mut proto = plain(&[]).proto;
    let main = proto.graph.as_mut().unwrap();
    main.node.push(odd);
    main.output = vec![value("z")];
    proto.opset_import.push(OperatorSetIdProto { domain: Some("others".to_owned()), version: Some(1) });
    let model = Model::from_proto(proto.clone(), &LoadOptions::default()).unwrap();
    let refused = Compressor::new(&model, samples(&model, 4), Options::default())
        .and_then(|mut compressor| compressor.compress(&Target::Ratio(4.0)).map(|_| ()))
        .expect_err("it cannot be run");
    assert!(refused.to_string().contains("Odd"), "{refused}");

    let folder = tempfile::TempDir::new().unwrap();
    crate::hostile::write(&folder, "odd.onnx", &proto);
    let x = ArrayD::from_shape_vec(IxDyn(&[4, 1, 6, 16]), noise(4 * 6 * 16, 1)).unwrap();
    ndarray_npy::write_npy(folder.path().join("x.npy"), &x).unwrap();
    let arguments = ["compress", "odd.onnx", "--ratio", "4", "--calibration", "x.npy", "-o", "small.onnx"];
    let output = tool().args(arguments).current_dir(folder.path()).output().unwrap();
    let (code, said) = crate::hostile::shown(&output);
    assert!(code != Some(0) && said.contains("Odd"), "{code:?}: {said}");
    assert_eq!(crate::hostile::names(folder.path()), ["odd.onnx", "x.npy"]);
}
