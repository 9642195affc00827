//! `Shape`, `Size` and `Cast` to int64, as integers.
//!
//! tract has a type of its own for dimensions, which may hold symbols, and makes every int64 that comes out of these
//! operators one. Some operators do not take it (`TopK`), some compute it otherwise than ONNX does (`Mod` of a negative
//! number). A model is planned for shapes that are known, so that integers will do; where a shape is not known because
//! it shows only when the model runs, tract's type stays.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::cast::cast as typed_cast;

/// tract's own reader of `Cast`, kept under this name.
const PLAIN_CAST: &str = "dirnet.Cast";

/// Puts these operators in the place of tract's.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("Shape", shape);
    operators.insert("Size", |_, _| Ok((expand(Told::Size), vec![])));
    if let Some(&plain) = operators.0.get("Cast") {
        operators.insert(PLAIN_CAST, plain);
        operators.insert("Cast", cast);
    }
}

fn shape(_context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let start = node.get_attr_opt("start")?.unwrap_or(0);
    Ok((expand(Told::Shape { start, end: node.get_attr_opt("end")? }), vec![]))
}

fn cast(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if node.get_attr::<DatumType>("to")? == i64::datum_type() {
        return Ok((expand(ToInteger), vec![]));
    }
    let plain = context.framework.op_register.0.get(PLAIN_CAST).context("Cast is not registered")?;
    plain(context, node)
}

/// The dimensions as integers, unless one is a symbol.
fn integers(dims: &[TDim]) -> Tensor {
    match dims.iter().map(|dim| dim.to_i64().ok()).collect::<Option<Vec<i64>>>() {
        Some(known) => tensor1(&known),
        None => tensor1(dims),
    }
}

/// What is told of the dimensions of a value.
#[derive(Clone, Debug)]
enum Told {
    /// `Shape`: those from one axis to another, all of them but for two attributes.
    Shape { start: i64, end: Option<i64> },
    /// `Size`: their product.
    Size,
}

impl Told {
    fn of(&self, dims: &[TDim]) -> TractResult<Tensor> {
        let &Told::Shape { start, end } = self else {
            return integers(&[dims.iter().product()]).into_shape(&[]);
        };
        let rank = dims.len() as i64;
        let clamp =
            |axis: i64| usize::try_from((if axis < 0 { axis + rank } else { axis }).clamp(0, rank)).unwrap_or(0);
        let start = clamp(start);
        Ok(integers(&dims[start..end.map_or(dims.len(), clamp).max(start)]))
    }
}

impl Expansion for Told {
    fn name(&self) -> StaticName {
        match self {
            Told::Shape { .. } => "Shape".into(),
            Told::Size => "Size".into(),
        }
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].rank, i64::from(matches!(self, Told::Shape { .. })))?;
        s.given(&inputs[0].shape, |s, dims| {
            let value = self.of(&dims)?;
            s.equals(&outputs[0].datum_type, value.datum_type())?;
            s.equals(&outputs[0].value, value.into_arc_tensor())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let value = self.of(&model.outlet_fact(inputs[0])?.shape.to_tvec())?;
        Ok(tvec![model.add_const(prefix, value)?])
    }
}

/// `Cast` to int64; what is a dimension already stays one.
#[derive(Clone, Debug)]
struct ToInteger;

impl ToInteger {
    fn result(from: DatumType) -> DatumType {
        if from == TDim::datum_type() { from } else { i64::datum_type() }
    }
}

impl Expansion for ToInteger {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)?;
        s.given(&inputs[0].datum_type, |s, from| s.equals(&outputs[0].datum_type, ToInteger::result(from)))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let to = ToInteger::result(model.outlet_fact(inputs[0])?.datum_type);
        model.wire_node(prefix, typed_cast(to), &[inputs[0]])
    }
}
