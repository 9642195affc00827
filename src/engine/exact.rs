//! Constants that tract's optimiser must not look at.
//!
//! It compares constants of one value with 0 and 1 in single precision and lets go of what they then seem not to change:
//! a double times 1e-50 would become 0, times 1 + 1e-12 itself. And it takes everything times 0 for 0, which NaN and
//! infinity times 0 are not. Such constants are put behind an operator of our own that it cannot see through.

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_hir::tract_core::ops::math::Mul;
use tract_onnx::tract_hir::tract_core::ops::scan::Scan;

/// Hides them, in the bodies of scans too. To be called when the facts of constants are known.
pub(super) fn constants(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        if let Some(scan) = model.nodes[id].op_as_mut::<Scan>() {
            scan.body.compute_const_facts()?;
            constants(&mut scan.body)?;
        }
        let Some(value) = misread(model, id) else { continue };
        for (slot, outlet) in std::mem::take(&mut model.nodes[id].inputs).into_iter().enumerate() {
            let successors = &mut model.nodes[outlet.node].outputs[outlet.slot].successors;
            successors.retain(|inlet| *inlet != InletId::new(id, slot));
        }
        let node = &mut model.nodes[id];
        node.outputs[0].fact = value.datum_type().fact(value.shape());
        node.op = Box::new(Hidden(value));
    }
    Ok(())
}

/// The constant that a node gives, if the optimiser would misread it.
fn misread(model: &TypedModel, id: usize) -> Option<Arc<Tensor>> {
    let [output] = &*model.nodes[id].outputs else { return None };
    let value = output.fact.konst.clone()?;
    let uniform = value.as_uniform()?;
    match value.datum_type() {
        DatumType::F64 => Some(value),
        DatumType::F32 | DatumType::F16 => {
            let zero = uniform.cast_to_scalar::<f32>().is_ok_and(|v| v == 0.0);
            let multiplies =
                |inlet: &InletId| model.nodes[inlet.node].op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Mul>());
            (zero && output.successors.iter().any(multiplies)).then_some(value)
        }
        _ => None,
    }
}

/// A constant that does not say that it is one.
#[derive(Clone, Debug)]
struct Hidden(Arc<Tensor>);

impl PartialEq for Hidden {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl Eq for Hidden {}

impl Op for Hidden {
    fn name(&self) -> StaticName {
        "Hidden".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Hidden {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec![self.0.clone().into_tvalue()])
    }
}

impl TypedOp for Hidden {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec![self.0.datum_type().fact(self.0.shape())])
    }

    as_op!();
}
