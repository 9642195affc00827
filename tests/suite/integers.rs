//! Weights that are integers of eight bits, as quantisers leave them: of QLinearConv, ConvInteger, QLinearMatMul and
//! MatMulInteger, and behind DequantizeLinear. What is decoded is integers again, of the same type.

use dirnet::compress::{Compressor, Prepared};
use dirnet::error::ErrorKind;
use dirnet::onnx::{ElementType, Model, NodeProto, TensorProto, tensor};
use dirnet::plan::{self, Choice, Plan, Sharing};
use dirnet::recurrent::FindOptions;
use dirnet::sites::Weights;
use dirnet::{Options, Target};
use ndarray::Array2;

use crate::hostile::targets::{int, ints, node};
use crate::linear::{Piece, Place, check, choices, count, model, noise, piece, samples};
use crate::quick;

const INT64: i32 = ElementType::Int64 as i32;

/// Integers around 0, and around 128 for uint8.
fn levels(shape: &[usize], seed: u32) -> Vec<i32> {
    noise(shape.iter().product(), seed).into_iter().map(|v| (v * 60.0).round() as i32).collect()
}

fn int8(name: &str, shape: &[usize]) -> TensorProto {
    let levels: Vec<i8> = levels(shape, name.len() as u32).into_iter().map(|v| v as i8).collect();
    tensor::int8(name, shape, &levels)
}

fn uint8(name: &str, shape: &[usize]) -> TensorProto {
    let levels: Vec<u8> = levels(shape, name.len() as u32).into_iter().map(|v| (v + 128) as u8).collect();
    tensor::uint8(name, shape, &levels)
}

/// Another scale for each of some rows.
fn scales(name: &str, count: usize) -> TensorProto {
    tensor::float(name, &[count], &(0..count).map(|i| 0.01 * (1 + i % 7) as f32).collect::<Vec<_>>())
}

fn zeros(name: &str, count: usize) -> TensorProto {
    tensor::int8(name, &[count], &vec![0; count])
}

fn one_scale(name: &str) -> TensorProto {
    tensor::float(name, &[], &[0.02])
}

/// Scale and zero point of what goes in, and of what comes out.
fn around() -> Vec<TensorProto> {
    vec![
        tensor::float("xs", &[], &[0.02]),
        tensor::uint8("xz", &[], &[120]),
        tensor::float("ys", &[], &[0.05]),
        tensor::uint8("yz", &[], &[128]),
    ]
}

fn quantize(from: &str, to: &str) -> NodeProto {
    node("QuantizeLinear", &[from, "xs", "xz"], to, vec![])
}

fn dequantize_output(from: &str) -> NodeProto {
    node("DequantizeLinear", &[from, "ys", "yz"], "out", vec![])
}

fn dequantize(axis: i64) -> NodeProto {
    node("DequantizeLinear", &["w", "ws", "wz"], "wf", vec![int("axis", axis)])
}

fn with(more: Vec<TensorProto>) -> Vec<TensorProto> {
    [around(), more].concat()
}

/// Products with `x` that is quantised anew in each run, scaled at the end.
fn dynamic(operator: &str) -> Vec<NodeProto> {
    vec![
        NodeProto {
            output: ["xq", "xs", "xz"].map(str::to_owned).to_vec(),
            ..node("DynamicQuantizeLinear", &["in"], "xq", vec![])
        },
        node(operator, &["xq", "w", "xz", "wz"], "sums", vec![]),
        node("Cast", &["sums"], "floats", vec![int("to", ElementType::Float as i64)]),
        node("Mul", &["xs", "ws"], "factor", vec![]),
        node("Mul", &["floats", "factor"], "out", vec![]),
    ]
}

/// Each operator, and each way of integers to it.
fn pieces() -> Vec<Piece> {
    let per_tensor = |w: TensorProto| with(vec![w, one_scale("ws"), tensor::int8("wz", &[], &[3])]);
    let per_row = |w: TensorProto, rows: usize| with(vec![w, scales("ws", rows), zeros("wz", rows)]);
    let unsigned = |w: TensorProto| with(vec![w, one_scale("ws"), tensor::uint8("wz", &[], &[131])]);
    let scaled = |constants: Vec<TensorProto>| -> Vec<TensorProto> {
        constants.into_iter().filter(|tensor| tensor.name().starts_with('w')).collect()
    };
    let qlinear = |operator, attributes| {
        let inputs = ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"];
        vec![quantize("in", "xq"), node(operator, &inputs, "yq", attributes), dequantize_output("yq")]
    };
    let left = ["w", "ws", "wz", "xq", "xs", "xz", "ys", "yz"];
    let behind =
        |axis, operator, inputs: &[&str], attributes| vec![dequantize(axis), node(operator, inputs, "out", attributes)];
    let pads = || vec![ints("pads", &[1, 0, 1, 2])];
    vec![
        piece("QLinearMatMul", &[3, 22], qlinear("QLinearMatMul", vec![]), per_tensor(int8("w", &[22, 50]))),
        piece("QLinearMatMul of rows", &[3, 22], qlinear("QLinearMatMul", vec![]), per_row(int8("w", &[22, 50]), 50)),
        piece("QLinearMatMul of uint8", &[2, 3, 22], qlinear("QLinearMatMul", vec![]), unsigned(uint8("w", &[22, 50]))),
        piece(
            "left QLinearMatMul",
            &[22, 3],
            vec![quantize("in", "xq"), node("QLinearMatMul", &left, "yq", vec![]), dequantize_output("yq")],
            unsigned(uint8("w", &[50, 22])),
        ),
        piece("QLinearConv", &[1, 8, 7, 6], qlinear("QLinearConv", pads()), per_tensor(int8("w", &[20, 8, 3, 3]))),
        piece(
            "QLinearConv of rows",
            &[1, 8, 7, 6],
            qlinear("QLinearConv", pads()),
            per_row(int8("w", &[20, 8, 3, 3]), 20),
        ),
        piece(
            "grouped QLinearConv of uint8",
            &[1, 16, 5, 5],
            qlinear("QLinearConv", vec![int("group", 2)]),
            unsigned(uint8("w", &[20, 8, 3, 3])),
        ),
        piece("MatMulInteger", &[3, 22], dynamic("MatMulInteger"), scaled(per_tensor(int8("w", &[22, 50])))),
        piece("MatMulInteger of rows", &[3, 22], dynamic("MatMulInteger"), scaled(per_row(int8("w", &[22, 50]), 50))),
        piece("ConvInteger", &[1, 8, 7, 6], dynamic("ConvInteger"), scaled(unsigned(uint8("w", &[20, 8, 3, 3])))),
        piece(
            "dequantised MatMul",
            &[3, 22],
            behind(1, "MatMul", &["in", "wf"], vec![]),
            per_row(int8("w", &[22, 50]), 50),
        ),
        piece(
            "dequantised MatMul of a Transpose",
            &[3, 22],
            vec![
                dequantize(0),
                node("Transpose", &["wf"], "wt", vec![ints("perm", &[1, 0])]),
                node("MatMul", &["in", "wt"], "out", vec![]),
            ],
            per_row(int8("w", &[50, 22]), 50),
        ),
        piece("dequantised Gemm", &[3, 22], behind(-1, "Gemm", &["in", "wf"], vec![]), unsigned(uint8("w", &[22, 50]))),
        piece(
            "dequantised Gemm of rows",
            &[3, 22],
            behind(0, "Gemm", &["in", "wf"], vec![int("transB", 1)]),
            per_row(int8("w", &[50, 22]), 50),
        ),
        piece(
            "dequantised Conv",
            &[1, 8, 7, 6],
            behind(0, "Conv", &["in", "wf"], pads()),
            per_row(int8("w", &[20, 8, 3, 3]), 20),
        ),
        piece(
            "dequantised ConvTranspose",
            &[1, 24, 4, 3],
            behind(1, "ConvTranspose", &["in", "wf"], vec![]),
            per_row(int8("w", &[24, 6, 3, 3]), 6),
        ),
        Piece {
            readers: 2,
            ..piece(
                "one DequantizeLinear for two",
                &[40, 40],
                vec![
                    dequantize(0),
                    node("MatMul", &["in", "wf"], "a", vec![]),
                    node("Gemm", &["a", "wf"], "out", vec![]),
                ],
                with(vec![int8("w", &[40, 40]), one_scale("ws"), tensor::int8("wz", &[], &[0])]),
            )
        },
        Piece {
            element: INT64,
            ..piece(
                "a table",
                &[2, 3],
                vec![
                    node("Gather", &["w", "in"], "rows", vec![]),
                    node("DequantizeLinear", &["rows", "ws", "wz"], "out", vec![]),
                ],
                unsigned(uint8("w", &[40, 40])),
            )
        },
    ]
}

#[test]
fn integers_are_decoded_to_what_the_codes_stand_for() {
    for piece in pieces() {
        for (width, choice) in choices().into_iter().enumerate() {
            let place = format!("{}, width {}", piece.name, width + 1);
            let model = model(&piece, Place::Top, false, 13, 8);
            count(&piece, &model, &place);
            check(&place, &model, choice);
        }
    }
}

#[test]
fn integers_of_bodies_are_coded() {
    for (number, piece) in pieces().into_iter().enumerate() {
        for (at, place) in [Place::If, Place::Loop].into_iter().enumerate() {
            let outside = (number / 2 + at) % 2 == 0;
            let name = format!("{} in {place:?}, outside {outside}", piece.name);
            let model = model(&piece, place, outside, 13, 8);
            count(&piece, &model, &name);
            check(&name, &model, choices()[1 + (number + at) % 3]);
        }
    }
}

/// Nothing but codes and a codebook of the type of the integers: no scales, and no floats.
#[test]
fn integers_are_stored_as_codes_and_atoms_only() {
    for (name, atoms) in [("QLinearConv", ElementType::Int8), ("ConvInteger", ElementType::Uint8)] {
        let piece = pieces().into_iter().find(|piece| piece.name == name).unwrap();
        let model = model(&piece, Place::Top, false, 13, 8);
        let written = check(name, &model, quick::block(3, Sharing::Unit));
        let known: Vec<&str> = model.proto.graph.iter().flat_map(|g| &g.initializer).map(|t| t.name()).collect();
        let added = written.proto.graph.iter().flat_map(|g| &g.initializer).filter(|t| !known.contains(&t.name()));
        let added: Vec<(i32, Vec<i64>)> = added.map(|t| (t.data_type(), t.dims.clone())).collect();
        let codes = (ElementType::Uint8 as i32, vec![20, 24]);
        assert!(added.contains(&codes) && added.contains(&(atoms as i32, vec![256, 3])), "{name}: {added:?}");
        assert_eq!(added.iter().filter(|(element, _)| *element != INT64).count(), 2, "{name}: {added:?}");
    }
}

/// The rows of a matrix are `scale * (q - zero)`, whatever operator has scales and zero points where.
#[test]
fn what_integers_stand_for_is_known() {
    let weights = |name: &str| {
        let piece = pieces().into_iter().find(|piece| piece.name == name).unwrap();
        Weights::find(&model(&piece, Place::Top, false, 13, 8), &FindOptions::default()).unwrap()
    };
    let by_rows = |shape: [usize; 2], of: &dyn Fn(usize, usize, &[i32]) -> f32| {
        let levels = levels(&shape, 1);
        Array2::from_shape_fn(shape, |(row, column)| of(row, column, &levels))
    };
    let scale = |row: usize| 0.01 * (1 + row % 7) as f32;
    let cases: Vec<(&str, Array2<f32>)> = vec![
        ("QLinearMatMul", by_rows([50, 22], &|row, column, q| 0.02 * (q[column * 50 + row] - 3) as f32)),
        ("QLinearMatMul of rows", by_rows([50, 22], &|row, column, q| scale(row) * q[column * 50 + row] as f32)),
        ("left QLinearMatMul", by_rows([50, 22], &|row, column, q| 0.02 * (q[row * 22 + column] - 3) as f32)),
        ("QLinearConv of rows", by_rows([20, 72], &|row, column, q| scale(row) * q[row * 72 + column] as f32)),
        // Where products are scaled behind the operator.
        ("MatMulInteger of rows", by_rows([50, 22], &|row, column, q| scale(row) * q[column * 50 + row] as f32)),
        (
            "dequantised MatMul of a Transpose",
            by_rows([50, 22], &|row, column, q| scale(row) * q[row * 22 + column] as f32),
        ),
        ("dequantised Gemm", by_rows([50, 22], &|row, column, q| 0.02 * (q[column * 50 + row] - 3) as f32)),
        // Rows are the elements of a kernel for each output channel.
        (
            "dequantised ConvTranspose",
            by_rows([54, 24], &|row, column, q| scale(row / 9) * q[column * 54 + row] as f32),
        ),
        ("a table", by_rows([40, 40], &|row, column, q| 0.02 * (q[row * 40 + column] - 3) as f32)),
    ];
    for (name, wanted) in cases {
        let weights = weights(name);
        let found = weights.rows(weights.ids().next().unwrap());
        assert_eq!(found.shape(), wanted.shape(), "{name}");
        let furthest = found.iter().zip(&wanted).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(furthest < 1e-5, "{name}: {furthest}");
    }
}

/// Scales along the vectors that rows multiply, scales of blocks, and integers that only a caller knows.
#[test]
fn other_integers_stay() {
    let rows = |name| pieces().into_iter().find(|piece| piece.name == name).unwrap();
    let along = Piece {
        constants: with(vec![int8("w", &[22, 50]), scales("ws", 22), zeros("wz", 22)]),
        ..rows("dequantised MatMul")
    };
    let along = Piece { nodes: vec![dequantize(0), along.nodes[1].clone()], ..along };
    let plain = Piece {
        // Indices that are looked up are no weights.
        nodes: vec![node("Gather", &["w", "in"], "rows", vec![]), node("Cast", &["rows"], "out", vec![int("to", 1)])],
        ..rows("a table")
    };
    let nothing = Piece {
        constants: with(vec![int8("w", &[22, 50]), tensor::float("ws", &[], &[0.0]), tensor::int8("wz", &[], &[0])]),
        ..rows("dequantised MatMul")
    };
    for piece in [along, plain, nothing] {
        let model = model(&piece, Place::Top, false, 13, 8);
        let error = Prepared::new(&model, &Options::default()).map(|_| ()).expect_err("nothing to code");
        assert_eq!(error.kind(), ErrorKind::NothingToDo, "{error}");
    }
}

/// No run of nodes makes a value that is too large for tract to fold.
#[test]
fn large_matrices_of_integers_are_written_in_runs() {
    let shape = [2100, 1000];
    let constants = || with(vec![int8("w", &shape), one_scale("ws"), tensor::int8("wz", &[], &[0])]);
    let gemm = |attributes| vec![dequantize(0), node("Gemm", &["in", "wf"], "out", attributes)];
    let cases = [
        piece("large rows", &[2, 1000], gemm(vec![int("transB", 1)]), constants()),
        piece("large columns", &[2, 2100], gemm(vec![]), constants()),
    ];
    for piece in cases {
        let model = model(&piece, Place::Top, false, 13, 8);
        let written = check(piece.name, &model, quick::block(2, Sharing::Unit));
        let joined = |node: &&NodeProto| node.op_type() == "Concat" && node.input.len() == 2;
        let runs = written.proto.graph.iter().flat_map(|g| &g.node).filter(joined).count();
        assert_eq!(runs, 1, "{}", piece.name);
    }
}

/// A model of several operators of integers, with a layer of floats.
fn mixed() -> Model {
    let qlinear = ["xq", "xs", "xz", "first", "ws", "wz", "ys", "yz"];
    let nodes = vec![
        quantize("in", "xq"),
        node("QLinearConv", &qlinear, "aq", vec![ints("pads", &[1, 1])]),
        node("DequantizeLinear", &["aq", "ys", "yz"], "a", vec![]),
        node("Relu", &["a"], "b", vec![]),
        node("DequantizeLinear", &["second", "ws", "wz"], "wf", vec![int("axis", 0)]),
        node("Conv", &["b", "wf"], "c", vec![]),
        node("Relu", &["c"], "d", vec![]),
        node("MatMul", &["d", "last"], "out", vec![]),
    ];
    let last = noise(14 * 200, 4).into_iter().map(|v| v * 0.1).collect::<Vec<_>>();
    let constants = with(vec![
        int8("first", &[64, 6, 3]),
        int8("second", &[64, 64, 3]),
        scales("ws", 64),
        zeros("wz", 64),
        tensor::float("last", &[14, 200], &last),
    ]);
    let piece = Piece { matrices: 3, readers: 3, ..piece("mixed", &[1, 6, 16], nodes, constants) };
    model(&piece, Place::Top, false, 13, 8)
}

#[test]
fn a_model_of_integers_and_floats_is_compressed() {
    let model = mixed();
    let mut compressor = Compressor::new(&model, samples(&model, 24), Options::default()).unwrap();
    let elements: Vec<ElementType> = compressor.sites().tensors().map(|t| compressor.sites().element(t)).collect();
    assert_eq!(elements, [ElementType::Int8, ElementType::Int8, ElementType::Float]);
    let small = compressor.compress(&Target::Ratio(2.0)).unwrap();
    assert!(small.model.saved_bytes().unwrap() * 10 < model.saved_bytes().unwrap() * 6);
    let verdict = compressor.verify(&small.model, &[]).unwrap();
    assert!(verdict.passed && verdict.outputs[0].snr_db > Some(10.0), "{verdict:?}");
    // Errors count by what they do to the output, so that integers as they are serve those where they matter.
    let all_coarse =
        plan::read(&plan_of(&compressor, 4), compressor.sites(), &compressor.sites().map(|_| 1.0)).unwrap();
    assert!(all_coarse.choices.values().all(|choice| matches!(choice, Choice::Block { .. })));
}

/// A plan file with pieces of one width for all.
fn plan_of(compressor: &Compressor<'_>, width: usize) -> String {
    let sites = compressor.sites();
    plan::write(sites, &Plan::alike(quick::block(width, Sharing::Model), &sites.map(|_| 1.0))).unwrap()
}

/// One codebook serves integers of one type, and no floats.
#[test]
fn codebooks_serve_integers_of_one_type() {
    let model = mixed();
    let weights = Weights::find(&model, &FindOptions::default()).unwrap();
    let plan = Plan::alike(quick::block(2, Sharing::Model), &weights.map(|_| 1.0));
    let mut members: Vec<usize> = plan.codebooks(&weights).iter().map(|(_, members)| members.len()).collect();
    members.sort_unstable();
    assert_eq!(members, [1, 2]);
    check("one codebook", &model, quick::block(2, Sharing::Model));
}
