//! Exact dictionaries: a float table with at most 256 distinct pieces is stored as one byte a piece and the pieces.
//!
//! ```text
//! codes u8 [n/d] - Cast int32 - Gather(pieces f32 [K, d]) - Reshape(shape of the table)
//! ```
//! A piece is a run of `d` neighbouring values; pieces are told apart by their bits, so that the table is restored bit for
//! bit. Filter banks, masks and weights that were quantised and made float again are such tables. Tables of more than
//! 4 MiB are joined from blocks, for runtimes that fold no larger one. The names of the two constants are of no meaning.

use std::collections::HashMap;

use super::constants::{Constant, free, maker, may_decode, stored};
use super::integers::{FOLDED_BYTES, cast};
use crate::error::Result;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, ElementType, Model, NodeProto, Rewriter, Scope, TensorProto, Values, tensor};

/// Codes are bytes.
const MOST: usize = 256;
/// The longest piece that is tried.
const LONGEST: usize = 256;
/// Bytes of three nodes, their names, and a shape.
const NODES: usize = 200;

/// Operators whose float constants may be decoded. Weights of recurrent nodes are left to codecs of their own.
const READERS: [&str; 12] =
    ["Conv", "ConvTranspose", "MatMul", "Gemm", "Mul", "Add", "Sub", "Div", "Pow", "Where", "PRelu", "Einsum"];

/// A table as codes and pieces.
struct Dictionary {
    width: usize,
    codes: Vec<u8>,
    /// The pieces, one after the other, as little-endian bytes.
    pieces: Vec<u8>,
}

impl Dictionary {
    fn bytes(&self) -> usize {
        self.codes.len() + self.pieces.len()
    }
}

/// Stores tables with few distinct pieces as dictionaries.
pub(super) fn store(model: &mut Model) -> Result<()> {
    if !may_decode(model) {
        return Ok(());
    }
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let mut rewriter = Rewriter::new(model);
    for constant in free(&source, &values) {
        let is_float = constant.tensor.data_type() == ElementType::Float as i32;
        let is_read = constant.is_read_by(&source, |node, _| READERS.contains(&node.op_type()));
        if !is_float || !is_read {
            continue;
        }
        let Ok(shape) = tensor::shape(constant.tensor) else { continue };
        let Ok(payload) = source.payload(constant.tensor) else { continue };
        let Some(rows) = rows_in_block(&shape) else { continue };
        let whole = rows == shape.first().copied().unwrap_or(1);
        let run = if whole { payload.len() / 4 } else { shape[1..].iter().product() };
        if let Some(found) = smallest(&payload, run).filter(|found| found.bytes() + NODES < payload.len()) {
            write(&mut rewriter, &constant, &shape, rows, found);
        }
    }
    rewriter.finish()?;
    Ok(())
}

/// Rows of axis 0 in a block that every runtime folds; `None` if not even one row is.
fn rows_in_block(shape: &[usize]) -> Option<usize> {
    let all = shape.first().copied().unwrap_or(1);
    let row = shape.iter().skip(1).product::<usize>() as u64 * 4;
    let fits = usize::try_from(FOLDED_BYTES / row.max(1)).unwrap_or(usize::MAX);
    Some(all.min(fits)).filter(|&rows| rows > 0)
}

/// The smallest dictionary whose pieces divide runs of `run` values.
fn smallest(payload: &[u8], run: usize) -> Option<Dictionary> {
    let widths = (1..=run.min(LONGEST)).filter(|width| run.is_multiple_of(*width));
    widths.filter_map(|width| of_width(payload, width)).min_by_key(Dictionary::bytes)
}

fn of_width(payload: &[u8], width: usize) -> Option<Dictionary> {
    let mut known: HashMap<&[u8], u8> = HashMap::new();
    let (mut codes, mut pieces) = (Vec::with_capacity(payload.len() / (4 * width)), Vec::new());
    for piece in payload.chunks_exact(4 * width) {
        let next = known.len();
        let code = match known.get(piece) {
            Some(code) => *code,
            None if next == MOST => return None,
            None => {
                pieces.extend_from_slice(piece);
                *known.entry(piece).or_insert(next as u8)
            }
        };
        codes.push(code);
    }
    Some(Dictionary { width, codes, pieces })
}

fn write(rewriter: &mut Rewriter<'_>, constant: &Constant<'_>, shape: &[usize], rows: usize, found: Dictionary) {
    let Dictionary { width, codes, pieces } = found;
    let scope = &constant.scope;
    let add = |rewriter: &mut Rewriter<'_>, what: &str, tensor: TensorProto| {
        let name = rewriter.fresh(&format!("{}/{what}", constant.name));
        rewriter.add_constant(scope, TensorProto { name: Some(name.clone()), ..tensor });
        name
    };
    let atoms = tensor::from_payload("", ElementType::Float, &[pieces.len() / (4 * width), width], pieces);
    let atoms = add(rewriter, "pieces", atoms);
    let row = shape.iter().skip(1).product::<usize>().max(1);
    let all = shape.first().copied().unwrap_or(1);
    let mut blocks = Vec::new();
    for first in (0..all).step_by(rows) {
        let here = rows.min(all - first);
        let range = first * row / width..(first + here) * row / width;
        let codes = add(rewriter, "codes", tensor::uint8("", &[range.len()], &codes[range]));
        let mut dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        if let Some(dim) = dims.first_mut() {
            *dim = here as i64;
        }
        let dims = add(rewriter, "shape", tensor::int64("", &[dims.len()], &dims));
        let [wide, looked_up, block] =
            ["wide", "runs", "block"].map(|what| rewriter.fresh(&format!("{}/{what}", constant.name)));
        rewriter.add_node(scope, cast(&codes, &wide, ElementType::Int32));
        rewriter.add_node(scope, node("Gather", &[&atoms, &wide], &looked_up, vec![]));
        rewriter.add_node(scope, node("Reshape", &[&looked_up, &dims], &block, vec![]));
        blocks.push(block);
    }
    let value = match &blocks[..] {
        [one] => one.clone(),
        several => {
            let value = rewriter.fresh(&format!("{}/table", constant.name));
            let inputs: Vec<&str> = several.iter().map(String::as_str).collect();
            rewriter.add_node(scope, node("Concat", &inputs, &value, vec![integer("axis", 0)]));
            value
        }
    };
    constant.replace(rewriter, &value);
}

/// A node without a name.
pub(super) fn node(operator: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: Some(operator.to_owned()),
        attribute,
        ..Default::default()
    }
}

/// An attribute that is one integer.
pub(super) fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..Default::default()
    }
}

/// The table that a Reshape of looked-up pieces gives, or a Concat of such.
pub(super) fn joined(model: &Model, values: &Values<'_>, scope: &Scope, node: &NodeProto) -> Option<TensorProto> {
    if node.op_type() == "Reshape" {
        return block(model, values, scope, node);
    }
    let on_rows = matches!(&node.attribute[..], [axis] if axis.name() == "axis" && axis.i() == 0);
    let blocks = node.input.iter().filter(|_| on_rows).map(|input| {
        let (scope, node) = maker(model, values, scope, input, "Reshape")?;
        block(model, values, &scope, node)
    });
    let blocks: Vec<TensorProto> = blocks.collect::<Option<_>>()?;
    let mut shape = tensor::shape(blocks.first()?).ok()?;
    if blocks.iter().any(|block| block.dims.len() != shape.len() || block.dims[1..] != blocks[0].dims[1..]) {
        return None;
    }
    shape[0] = blocks.iter().map(|block| block.dims[0] as usize).sum();
    let payload: Vec<u8> = blocks.iter().filter_map(|block| block.raw_data.clone()).flatten().collect();
    Some(tensor::from_payload("", ElementType::Float, &shape, payload))
}

fn block(model: &Model, values: &Values<'_>, scope: &Scope, reshape: &NodeProto) -> Option<TensorProto> {
    let [runs, shape] = &reshape.input[..] else { return None };
    if !reshape.attribute.is_empty() {
        return None;
    }
    let shape = model.integers(stored(model, values, scope, shape)?).ok()?;
    let shape: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0)).collect();
    let shape = shape?;
    let (scope, gather) = maker(model, values, scope, runs, "Gather")?;
    let [atoms, wide] = &gather.input[..] else { return None };
    let (home, wide) = maker(model, values, &scope, wide, "Cast")?;
    let codes = stored(model, values, &home, wide.input.first()?)?;
    let atoms = stored(model, values, &scope, atoms)?;
    let is = |tensor: &TensorProto, element: ElementType| tensor.data_type() == element as i32;
    if !gather.attribute.is_empty() || !is(codes, ElementType::Uint8) || !is(atoms, ElementType::Float) {
        return None;
    }
    let [_, width] = atoms.dims[..] else { return None };
    let width = usize::try_from(width).ok()?.checked_mul(4)?;
    let (codes, atoms) = (model.payload(codes).ok()?, model.payload(atoms).ok()?);
    let bytes = shape.iter().try_fold(4usize, |product, &d| product.checked_mul(d))?;
    if codes.len().checked_mul(width)? != bytes {
        return None;
    }
    let mut payload = Vec::with_capacity(bytes);
    for &code in codes.iter() {
        let first = usize::from(code) * width;
        payload.extend_from_slice(atoms.get(first..first + width)?);
    }
    Some(tensor::from_payload("", ElementType::Float, &shape, payload))
}
