//! Models of one node each: which are found, and that their matrices times their vectors are what the operators compute, by
//! the definitions of these.

use ndarray::{Array2, ArrayD, Axis, IxDyn};

use super::*;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto};
use crate::onnx::{LoadOptions, TensorProto, tensor};

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(value), r#type: Some(2), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), r#type: Some(7), ..Default::default() }
}

fn auto_pad(value: &str) -> AttributeProto {
    AttributeProto {
        name: Some("auto_pad".into()),
        s: Some(value.to_owned().into()),
        r#type: Some(3),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some("it".to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec!["y".to_owned()],
        attribute,
        ..Default::default()
    }
}

fn model(opset: i64, node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Model {
    let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
    let opset_import = ["", "others"].map(|domain| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(if domain.is_empty() { opset } else { 1 }),
    });
    let graph =
        GraphProto { node, initializer, input: vec![value("x")], output: vec![value("y")], ..Default::default() };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: opset_import.to_vec(),
        graph: Some(graph),
        ..Default::default()
    };
    Model::from_proto(proto, &LoadOptions::default()).unwrap()
}

fn all(model: &Model) -> Vec<LinearNode> {
    find(model, &FindOptions::default()).unwrap().nodes
}

/// Small whole numbers, whose sums of products are exact.
fn numbers(shape: &[usize], seed: u32) -> ArrayD<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 % 7.0 - 3.0
    };
    ArrayD::from_shape_simple_fn(IxDyn(shape), next)
}

fn stored(values: &ArrayD<f32>) -> TensorProto {
    tensor::float("w", values.shape(), values.as_slice().unwrap())
}

/// A node found in a model of its own, and what it multiplies.
struct Tested {
    found: LinearNode,
    x: ArrayD<f32>,
    w: ArrayD<f32>,
    /// Of all vectors with all rows of the matrix, `[vectors, rows]`.
    products: Array2<f32>,
}

/// `op` of x and a constant w, in the order of `inputs`.
fn tested(op: &str, inputs: [&str; 2], attributes: Vec<AttributeProto>, x: &[usize], w: &[usize]) -> Tested {
    let place = format!("{op} {inputs:?} {x:?} {w:?} {attributes:?}");
    let (x, w) = (numbers(x, 1), numbers(w, 2));
    let model = model(17, vec![node(op, &inputs, attributes)], vec![stored(&w)]);
    let [found] = <[LinearNode; 1]>::try_from(all(&model)).unwrap_or_else(|all| panic!("{place}: {all:?}"));
    assert_eq!((found.operator, found.name.as_str()), (op, "it"), "{place}");
    assert_eq!((inputs[found.data.input], inputs[found.weight.input]), ("x", "w"), "{place}");
    assert_eq!(found.source.dims, w.shape(), "{place}");
    let values = Array3::from_shape_vec(found.source.shape, w.iter().copied().collect()).unwrap();
    let matrix = found.matrix(values);
    assert_eq!(matrix.shape()[1..], found.shape(), "{place}");
    assert_eq!(found.tensor(&matrix), w.as_slice().unwrap(), "{place}: the way back");
    let [rows, columns] = found.shape();
    let vectors = found.vectors(x.shape(), x.as_slice().unwrap(), usize::MAX);
    assert!(!vectors.is_empty() && vectors.len() % columns == 0, "{place}");
    let vectors = Array2::from_shape_vec((vectors.len() / columns, columns), vectors).unwrap();
    // Some of them are some of all.
    for most in [1, 3] {
        let some = found.vectors(x.shape(), x.as_slice().unwrap(), most);
        assert!(!some.is_empty() && some.len() <= most * columns, "{place}");
        let is_one = |some: &[f32]| vectors.outer_iter().any(|one| one.iter().eq(some));
        assert!(some.chunks(columns).all(is_one), "{place}");
    }
    let matrix = matrix.into_shape_with_order((rows, columns)).unwrap();
    Tested { x, w, products: vectors.dot(&matrix.t()), found }
}

#[test]
fn a_gemm_multiplies_rows_or_columns() {
    for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let x = if a == 1 { [20, 5] } else { [5, 20] };
        let w = if b == 1 { [30, 20] } else { [20, 30] };
        let Tested { found, x, w, products } =
            tested("Gemm", ["x", "w"], vec![int("transA", a), int("transB", b)], &x, &w);
        assert_eq!((found.op.clone(), found.transposed), (LinearOp::Gemm { columns: a == 1 }, b == 0));
        assert_eq!((found.shape(), found.kind()), ([30, 20], LinearKind::Matrix));
        let matrix = |values: ArrayD<f32>| values.into_dimensionality::<ndarray::Ix2>().unwrap();
        let (x, w) = (matrix(x), matrix(w));
        let (x, w) = (if a == 1 { x.t() } else { x.view() }, if b == 1 { w.t() } else { w.view() });
        assert_eq!(products, x.dot(&w), "transA {a}, transB {b}");
    }
}

#[test]
fn a_matmul_multiplies_from_either_side() {
    for (x, w) in [
        (&[5, 20][..], &[20, 30][..]),
        (&[2, 3, 20], &[20, 30]),
        (&[2, 1, 3, 20], &[1, 20, 30]),
        (&[3, 20], &[1, 1, 20, 30]),
        (&[20], &[20, 30]),
    ] {
        let Tested { found, x, w, products } = tested("MatMul", ["x", "w"], vec![], x, w);
        assert_eq!((found.op.clone(), found.shape()), (LinearOp::MatMul, [30, 20]));
        let rows = x.len() / 20;
        let x = x.into_shape_with_order((rows, 20)).unwrap();
        assert_eq!(products, x.dot(&w.into_shape_with_order((20, 30)).unwrap()));
    }
    for (w, x) in [
        (&[30, 20][..], &[20, 5][..]),
        (&[30, 20], &[2, 3, 20, 5]),
        (&[1, 30, 20], &[4, 20, 5]),
        (&[1, 1, 30, 20], &[20, 1]),
        (&[30, 20], &[20]),
    ] {
        let Tested { found, x, w, products } = tested("MatMul", ["w", "x"], vec![], x, w);
        assert_eq!((found.op.clone(), found.shape()), (LinearOp::LeftMatMul, [30, 20]));
        let last = if x.ndim() == 1 { 1 } else { x.shape()[x.ndim() - 1] };
        let x = x.to_shape((x.len() / 20 / last, 20, last)).unwrap().into_owned();
        let w = w.into_shape_with_order((30, 20)).unwrap();
        // Of each product of the batch the columns, one after the other.
        let expected: Vec<f32> =
            x.outer_iter().flat_map(|x| w.dot(&x).t().iter().copied().collect::<Vec<_>>()).collect();
        assert_eq!(products.into_iter().collect::<Vec<_>>(), expected);
    }
}

/// What a Conv's attributes say, by axis.
#[derive(Clone, Copy)]
struct Geometry<'a> {
    group: usize,
    strides: &'a [usize],
    dilations: &'a [usize],
    begin: &'a [usize],
    end: &'a [usize],
}

/// `Y[n, m, o] = sum of X[n, c, o * stride + k * dilation - begin] W[m, c, k]` over the channels c of the group of m and all
/// places k of the kernel.
fn conv(x: &ArrayD<f32>, w: &ArrayD<f32>, of: &Geometry<'_>) -> ArrayD<f32> {
    let axes = 0..x.ndim() - 2;
    let size = |axis: usize| {
        let extent = (w.shape()[2 + axis] - 1) * of.dilations[axis] + 1;
        (x.shape()[2 + axis] + of.begin[axis] + of.end[axis] - extent) / of.strides[axis] + 1
    };
    let shape: Vec<usize> = [x.shape()[0], w.shape()[0]].into_iter().chain(axes.clone().map(size)).collect();
    ArrayD::from_shape_fn(IxDyn(&shape), |out| {
        let first = out[1] / (w.shape()[0] / of.group) * w.shape()[1];
        let term = |(tap, &weight): (IxDyn, &f32)| {
            let mut place = vec![out[0], first + tap[0]];
            for axis in axes.clone() {
                let at = out[2 + axis] * of.strides[axis] + tap[1 + axis] * of.dilations[axis];
                match at.checked_sub(of.begin[axis]) {
                    Some(at) if at < x.shape()[2 + axis] => place.push(at),
                    _ => return 0.0,
                }
            }
            weight * x[IxDyn(&place)]
        };
        w.index_axis(Axis(0), out[1]).indexed_iter().map(term).sum()
    })
}

/// Compares the products of a Conv with what it computes.
fn check_conv(attributes: Vec<AttributeProto>, x: &[usize], w: &[usize], of: Geometry<'_>) {
    let mut attributes = attributes;
    attributes.push(int("group", of.group as i64));
    let place = format!("{x:?} {w:?} {attributes:?}");
    let Tested { found, x, w, products } = tested("Conv", ["x", "w"], attributes, x, w);
    assert_eq!((found.kind(), found.transposed), (LinearKind::Convolution, false), "{place}");
    let output = conv(&x, &w, &of);
    let (batch, kernels) = (output.shape()[0], output.shape()[1]);
    let places = output.len() / batch / kernels;
    let output = output.into_shape_with_order((batch, kernels, places)).unwrap();
    assert_eq!(products.nrows(), batch * of.group * places, "{place}");
    for ((n, m, at), &value) in output.indexed_iter() {
        let group = m / (kernels / of.group);
        assert_eq!(products[[(n * of.group + group) * places + at, m]], value, "{place}: image {n}, kernel {m}, {at}");
    }
}

#[test]
fn a_conv_multiplies_windows() {
    let plain = |axes: usize| Geometry {
        group: 1,
        strides: &[1; 3][..axes],
        dilations: &[1; 3][..axes],
        begin: &[0; 3][..axes],
        end: &[0; 3][..axes],
    };
    check_conv(vec![], &[2, 10, 9], &[8, 10, 4], plain(1));
    check_conv(vec![], &[2, 4, 6, 5], &[8, 4, 3, 3], plain(2));
    check_conv(vec![], &[1, 3, 4, 5, 3], &[8, 3, 2, 3, 2], plain(3));
    // Of one point; grouped; depthwise, with one and with two kernels for each channel.
    check_conv(vec![], &[2, 16, 7], &[16, 16, 1], plain(1));
    check_conv(vec![], &[2, 8, 6, 5], &[12, 4, 3, 2], Geometry { group: 2, ..plain(2) });
    check_conv(vec![], &[2, 32, 6, 5], &[32, 1, 3, 3], Geometry { group: 32, ..plain(2) });
    check_conv(vec![], &[1, 16, 9], &[32, 1, 8], Geometry { group: 16, ..plain(1) });
    // Strides, dilations and padding, each axis and each end with its own.
    let given = vec![ints("strides", &[2, 3]), ints("dilations", &[2, 1]), ints("pads", &[1, 0, 3, 2])];
    let of = Geometry { strides: &[2, 3], dilations: &[2, 1], begin: &[1, 0], end: &[3, 2], ..plain(2) };
    check_conv(given.clone(), &[2, 6, 9, 8], &[8, 6, 3, 2], of);
    check_conv(given, &[2, 6, 9, 8], &[24, 2, 3, 2], Geometry { group: 3, ..of });
    let pads = vec![ints("pads", &[4, 1]), ints("dilations", &[3]), auto_pad("NOTSET")];
    check_conv(pads, &[1, 8, 6], &[16, 8, 3], Geometry { dilations: &[3], begin: &[4], end: &[1], ..plain(1) });
}

/// By the specification, `SAME` makes `ceil(size / stride)` windows; an odd place of padding goes to the end with `UPPER`
/// and to the beginning with `LOWER`.
#[test]
fn a_conv_pads_by_itself() {
    // 7 with a stride of 2 makes 4 windows, so 3 * 2 + 4 - 7 = 3 places of padding; 6 with a stride of 3 makes 2, which
    // need 3 + 2 = 5 places of 6; and 5 with kernels of 3 dilated by 2 keep 5 windows by 4 places.
    let strides = vec![ints("strides", &[2, 3])];
    let of = Geometry { group: 1, strides: &[2, 3], dilations: &[1, 1], begin: &[1, 0], end: &[2, 0] };
    let with = |pad: &str, attributes: &[AttributeProto]| [&[auto_pad(pad)][..], attributes].concat();
    check_conv(with("SAME_UPPER", &strides), &[2, 4, 7, 6], &[8, 4, 4, 2], of);
    let lower = Geometry { begin: &[2, 0], end: &[1, 0], ..of };
    check_conv(with("SAME_LOWER", &strides), &[2, 4, 7, 6], &[8, 4, 4, 2], lower);
    let valid = Geometry { begin: &[0, 0], end: &[0, 0], ..of };
    check_conv(with("VALID", &strides), &[2, 4, 7, 6], &[8, 4, 4, 2], valid);
    let dilated = Geometry { strides: &[1], dilations: &[2], begin: &[2], end: &[2], ..of };
    check_conv(with("SAME_UPPER", &[ints("dilations", &[2])]), &[2, 8, 5], &[16, 8, 3], dilated);
    check_conv(with("SAME_LOWER", &[ints("dilations", &[2])]), &[2, 8, 5], &[16, 8, 3], dilated);
}

/// `X[n, c, i] W[c, m, k]`, summed over c, is what a place i adds to the place of k in channel m.
#[test]
fn a_transposed_conv_multiplies_channels() {
    for (x, w) in [(&[2, 12, 5][..], &[12, 6, 4][..]), (&[2, 8, 3, 4], &[8, 4, 3, 3])] {
        let strides = ints("strides", &vec![2; x.len() - 2]);
        let Tested { found, x, w, products } = tested("ConvTranspose", ["x", "w"], vec![strides], x, w);
        assert_eq!((found.op.clone(), found.transposed), (LinearOp::ConvTranspose, true));
        let (batch, channels) = (x.shape()[0], x.shape()[1]);
        let places = x.len() / batch / channels;
        let x = x.into_shape_with_order((batch, channels, places)).unwrap();
        let rows = w.len() / channels;
        let w = w.into_shape_with_order((channels, rows)).unwrap();
        for ((vector, row), &product) in products.indexed_iter() {
            let (n, i) = (vector / places, vector % places);
            let sum: f32 = (0..channels).map(|c| x[[n, c, i]] * w[[c, row]]).sum();
            assert_eq!(product, sum, "image {n}, place {i}, row {row}");
        }
        assert_eq!(products.nrows(), batch * places);
    }
    let grouped = node("ConvTranspose", &["x", "w"], vec![int("group", 4)]);
    let found = all(&model(17, vec![grouped], vec![stored(&numbers(&[16, 8, 3], 1))]));
    assert_eq!((found[0].op.clone(), found[0].shape()), (LinearOp::GroupedConvTranspose, [16, 24]));
    assert!(!found[0].has_vectors() && found[0].vectors(&[1, 16, 5], &[0.0; 80], 9).is_empty());
}

#[test]
fn a_gather_looks_rows_up() {
    let table = numbers(&[40, 8], 1);
    for axis in [vec![], vec![int("axis", 0)], vec![int("axis", -2)]] {
        let found = all(&model(17, vec![node("Gather", &["w", "x"], axis)], vec![stored(&table)]));
        assert_eq!((found[0].op.clone(), found[0].shape()), (LinearOp::Gather { rank: None }, [40, 8]));
        assert_eq!((found[0].weight.input, found[0].data.input, found[0].has_vectors()), (0, 1, false));
        assert_eq!(found[0].kind(), LinearKind::Table);
    }
}

#[test]
fn a_shape_that_an_operator_does_not_take_has_no_vectors() {
    let of = |op: &str, inputs: [&str; 2], w: &[usize]| {
        all(&model(17, vec![node(op, &inputs, vec![])], vec![stored(&numbers(w, 1))])).remove(0)
    };
    let conv = of("Conv", ["x", "w"], &[8, 8, 2, 2]);
    for shape in [&[][..], &[4], &[1, 8, 4], &[1, 4, 4, 4], &[1, 8, 1, 1], &[0, 8, 4, 4], &[1, 8, 4, 4, 1]] {
        assert!(conv.vectors(shape, &vec![0.0; shape.iter().product()], 9).is_empty(), "{shape:?}");
    }
    let matmul = of("MatMul", ["x", "w"], &[16, 16]);
    for shape in [&[][..], &[3, 5], &[0, 16]] {
        assert!(matmul.vectors(shape, &vec![0.0; shape.iter().product()], 9).is_empty(), "{shape:?}");
    }
}

#[test]
fn what_cannot_or_need_not_be_coded_is_left_out() {
    let w = |shape: &[usize]| stored(&numbers(shape, 1));
    let gemm = || node("Gemm", &["x", "w"], vec![]);
    let conv = |attributes| node("Conv", &["x", "w"], attributes);
    let making = |op: &str, inputs: &[&str], output: &str| NodeProto {
        name: Some(output.to_owned()),
        output: vec![output.to_owned()],
        ..node(op, inputs, vec![])
    };
    let other = |name: &str| tensor::float(name, &[16, 16], &[1.0; 256]);
    let spoilt = |value: f32| {
        let mut values = vec![1.0; 256];
        values[77] = value;
        tensor::float("w", &[16, 16], &values)
    };
    let integers = tensor::int64("w", &[16, 16], &[1; 256]);
    let foreign = NodeProto { domain: Some("others".to_owned()), ..gemm() };
    let double = TensorProto {
        name: Some("w".to_owned()),
        dims: vec![16, 16],
        data_type: Some(ElementType::Double as i32),
        double_data: vec![1.0; 256],
        ..Default::default()
    };
    let einsum = || {
        let equation = AttributeProto {
            name: Some("equation".into()),
            s: Some(b"bk,kn->bn".to_vec().into()),
            ..Default::default()
        };
        node("Einsum", &["x", "w"], vec![equation])
    };
    let looks = |op: &str, inputs: &[&str], axis| node(op, inputs, vec![int("axis", axis)]);
    // What it is, its nodes and constants, and the reason, if its weight is one that is left as it is.
    let cases: Vec<(&str, Vec<NodeProto>, Vec<TensorProto>, &str)> = vec![
        ("255 weights", vec![gemm()], vec![w(&[15, 17])], ""),
        ("integers", vec![node("MatMul", &["x", "w"], vec![])], vec![integers.clone()], ""),
        ("a table of integers", vec![node("Gather", &["w", "x"], vec![])], vec![integers], ""),
        ("the other factor", vec![node("Gemm", &["w", "x"], vec![])], vec![w(&[16, 16])], ""),
        ("a weight computed from the input", vec![making("Add", &["x", "v"], "w"), gemm()], vec![other("v")], ""),
        ("a random weight", vec![making("RandomNormalLike", &["v"], "w"), gemm()], vec![other("v")], ""),
        ("a bias", vec![node("Gemm", &["x", "x", "w"], vec![])], vec![w(&[16, 16])], ""),
        ("constants only", vec![node("MatMul", &["v", "w"], vec![])], vec![w(&[16, 16]), other("v")], ""),
        (
            "constants only, by nodes",
            vec![making("Neg", &["u"], "v"), node("MatMul", &["v", "w"], vec![])],
            vec![w(&[16, 16]), other("u")],
            "",
        ),
        (
            "rows of constant indices",
            vec![node("Gather", &["w", "i"], vec![])],
            vec![w(&[40, 8]), tensor::int64("i", &[2], &[3, 1])],
            "",
        ),
        ("columns of a table", vec![looks("Gather", &["w", "x"], 1)], vec![w(&[40, 8])], "along axis 1 of [40, 8]"),
        ("the last axis of a table", vec![looks("Gather", &["w", "x"], -1)], vec![w(&[40, 8])], "along axis -1"),
        ("a table of three axes", vec![node("Gather", &["w", "x"], vec![])], vec![w(&[40, 2, 8])], "shape [40, 2, 8]"),
        ("several matrices", vec![node("MatMul", &["x", "w"], vec![])], vec![w(&[2, 16, 16])], "shape [2, 16, 16]"),
        ("a vector", vec![node("MatMul", &["x", "w"], vec![])], vec![w(&[256])], "shape [256]"),
        ("a Gemm of three axes", vec![gemm()], vec![w(&[1, 16, 16])], "shape [1, 16, 16]"),
        ("kernels without a window", vec![conv(vec![])], vec![w(&[16, 16])], "kernel [16, 16]"),
        ("no strides", vec![conv(vec![ints("strides", &[0])])], vec![w(&[16, 16, 3])], "strides"),
        ("strides of other axes", vec![conv(vec![ints("strides", &[1, 1])])], vec![w(&[16, 16, 3])], "strides"),
        ("pads of one end", vec![conv(vec![ints("pads", &[])])], vec![w(&[16, 16, 3])], "pads"),
        ("negative pads", vec![conv(vec![ints("pads", &[-1, 0])])], vec![w(&[16, 16, 3])], "pads"),
        ("another domain", vec![foreign], vec![w(&[16, 16])], ""),
        ("NaN", vec![gemm()], vec![spoilt(f32::NAN)], "NaN or infinite"),
        ("infinity", vec![gemm()], vec![spoilt(f32::INFINITY)], "NaN or infinite"),
        ("what is too large", vec![gemm()], vec![spoilt(limits::WEIGHT * 2.0)], "beyond 1e15"),
        ("doubles", vec![gemm()], vec![double], "type DOUBLE are not supported: convert"),
        ("an operator that is not followed", vec![making("Neg", &["v"], "w"), gemm()], vec![other("v")], "'w' (Neg)"),
        ("an Einsum", vec![einsum()], vec![w(&[16, 16])], "Einsum is not supported"),
        ("an Einsum of small ones", vec![einsum()], vec![w(&[8, 8])], ""),
    ];
    for (what, nodes, constants, reason) in cases {
        let found = find(&model(17, nodes, constants), &FindOptions::default()).unwrap();
        assert!(found.nodes.is_empty(), "{what}: {:?}", found.nodes);
        match &found.skipped[..] {
            [] => assert_eq!(reason, "", "{what}"),
            [skipped] => {
                assert!(!reason.is_empty() && skipped.reason.contains(reason), "{what}: {skipped:?}");
                let is_fault = reason.contains("NaN") || reason.contains("beyond");
                assert_eq!((skipped.node.as_str(), skipped.warning), ("it", is_fault), "{what}");
            }
            more => panic!("{what}: {more:?}"),
        }
    }
    // All of that would be found but for what is wrong with it; and so is what is just large enough.
    let found = all(&model(17, vec![gemm()], vec![w(&[16, 16])]));
    assert_eq!(found.len(), 1);
    let old = find(&model(limits::FIRST_OPSET - 1, vec![gemm()], vec![w(&[16, 16])]), &FindOptions::default()).unwrap();
    assert!(old.nodes.is_empty() && old.skipped[0].reason.contains("opset 6"), "{old:?}");
    let only = |pattern: &str| Some(regex::Regex::new(pattern).unwrap());
    let options = |include, exclude: &str| FindOptions { include, exclude: only(exclude), ..FindOptions::default() };
    let all = |options: &FindOptions| find(&model(17, vec![gemm()], vec![w(&[16, 16])]), options).unwrap().nodes.len();
    assert_eq!(
        [options(only("^it$"), "^$"), options(only("that"), "^$"), options(None, "it")].map(|o| all(&o)),
        [1, 0, 0]
    );
    assert_eq!(names(&model(17, vec![gemm()], vec![w(&[2, 2])])), ["it"]);
}

/// Vectors of integers are numbers less their zero point; where that differs from run to run, what it is made of is shown.
#[test]
fn vectors_of_integers_are_known_where_their_zero_is() {
    let weight = tensor::int8("w", &[16, 20], &(0..320).map(|i| (i % 101) as i8).collect::<Vec<_>>());
    let made = |op: &str, inputs: &[&str], outputs: &[&str]| NodeProto {
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        ..node(op, inputs, vec![])
    };
    let zero = tensor::uint8("zero", &[], &[120]);
    let product = |inputs: &[&str]| node("MatMulInteger", inputs, vec![]);
    let dynamic = made("DynamicQuantizeLinear", &["x"], &["q", "scale", "z"]);
    let unknown = made("Identity", &["x"], &["z"]);
    let cases = [
        (vec![product(&["x", "w", "zero"])], (0, 0), Some(120.0)),
        (vec![product(&["x", "w"])], (0, 0), Some(0.0)),
        (vec![dynamic, product(&["q", "w", "z"])], (0, 0), Some(0.0)),
        (vec![unknown, product(&["x", "w", "z"])], (1, 0), None),
    ];
    for (nodes, (at, input), wanted) in cases {
        let model = model(13, nodes, vec![weight.clone(), zero.clone()]);
        let [found] = &all(&model)[..] else { panic!("one matrix") };
        assert_eq!((found.data.node, found.data.input, found.zero), (at, input, wanted));
        assert_eq!((found.has_vectors(), found.operator, found.shape()), (wanted.is_some(), "MatMulInteger", [20, 16]));
    }
}

/// A Gemm whose weight callers may override, or know as an output.
fn seen(ir: i64, is_input: bool, is_output: bool) -> Model {
    let mut made = model(17, vec![node("Gemm", &["x", "w"], vec![])], vec![stored(&numbers(&[16, 16], 1))]).proto;
    made.ir_version = Some(ir);
    let w = ValueInfoProto { name: Some("w".into()), ..Default::default() };
    let graph = made.graph.as_mut().unwrap();
    graph.input.extend(is_input.then(|| w.clone()));
    graph.output.extend(is_output.then_some(w));
    Model::from_proto(made, &LoadOptions::default()).unwrap()
}

#[test]
fn weights_that_a_caller_sees_are_left_with_a_reason() {
    let reason = |model: &Model| {
        let found = find(model, &FindOptions::default()).unwrap();
        assert_eq!(found.nodes.len() + found.skipped.len(), 1);
        found.skipped.into_iter().next().map(|skipped| skipped.reason)
    };
    assert!(reason(&seen(4, true, false)).is_some_and(|reason| reason.contains("--freeze-inputs")));
    assert!(reason(&seen(8, false, true)).is_some_and(|reason| reason.contains("an output of the graph")));
    assert_eq!(reason(&seen(3, true, false)), None, "there every initializer is an input");
    let frozen = FindOptions { freeze_inputs: true, ..FindOptions::default() };
    assert_eq!(find(&seen(4, true, false), &frozen).unwrap().nodes.len(), 1);
}

#[test]
fn an_ambiguous_weight_is_left_with_a_reason() {
    let w = |value: f32| tensor::float("w", &[16, 16], &[value; 256]);
    let made = |inner: &str| {
        let reads = NodeProto { output: vec!["a".to_owned()], ..node("Gemm", &["x", "w"], vec![]) };
        let mut own = w(2.0);
        own.name = Some(inner.to_owned());
        let body = GraphProto {
            node: vec![reads],
            initializer: vec![own],
            output: vec![ValueInfoProto { name: Some("a".into()), ..Default::default() }],
            ..Default::default()
        };
        let branch = ["then_branch", "else_branch"].map(|name| AttributeProto {
            name: Some(name.into()),
            g: Some(body.clone()),
            r#type: Some(5),
            ..Default::default()
        });
        let found = find(&model(17, vec![node("If", &["x"], branch.to_vec())], vec![w(1.0)]), &FindOptions::default());
        found.unwrap()
    };
    let (other, same) = (made("v"), made("w"));
    assert_eq!((other.nodes.len(), other.skipped.len()), (2, 0));
    assert_eq!((same.nodes.len(), same.skipped.len()), (0, 2));
    assert!(same.skipped[0].reason.contains("a body and a graph around it both define"), "{:?}", same.skipped[0]);
}

#[test]
fn windows_of_any_numbers_are_none_or_some() {
    let most = i64::MAX;
    for attributes in [
        vec![ints("pads", &[most, most])],
        vec![ints("dilations", &[most])],
        vec![ints("strides", &[most]), auto_pad("SAME_UPPER")],
        vec![ints("pads", &[most / 2, 0])],
        vec![int("group", most)],
    ] {
        let found =
            all(&model(17, vec![node("Conv", &["x", "w"], attributes)], vec![stored(&numbers(&[16, 16, 3], 1))]));
        for shape in [[1, 16, 9], [3, 16, 2]] {
            let some = found[0].vectors(&shape, &vec![1.0; shape.iter().product()], 5);
            assert!(some.len() <= 5 * 48, "{shape:?}");
        }
    }
    let conv = node("Conv", &["x", "w"], vec![ints("pads", &[most, most])]);
    let found = all(&model(17, vec![conv], vec![stored(&numbers(&[16, 16, 3], 1))]));
    assert!(found[0].vectors(&[1, 16, 9], &[1.0; 144], 5).is_empty(), "no memory holds as many windows");
}
