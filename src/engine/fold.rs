//! Constants that a graph computes from constants are computed once, when the model is read.
//!
//! Left to itself, tract computes them in every plan, that is for every set of input shapes, and keeps what each step on
//! the way made: of weights that are rebuilt from codes, several times their size.

use std::sync::Arc;

use tract_onnx::prelude::{InferenceFact, InferenceModel, IntoArcTensor, IntoTValue, TValue, Tensor, TractResult};
use tract_onnx::tract_hir::internal::{Factoid, InletId, OutletId, TVec, tvec};
use tract_onnx::tract_hir::tract_core::ops::konst::Const;

use super::guard::call;
use crate::limits;

/// Puts constants in the place of nodes that compute them, and lets go of what nothing else needs.
///
/// Nodes that fail, that make more than [`limits::RUN_ELEMENTS`] with those before them, or whose shape shows only when
/// they are computed, are left for the plan, which reports what is wrong with them.
pub(super) fn constants(model: &mut InferenceModel) -> TractResult<()> {
    let mut left = limits::RUN_ELEMENTS;
    for id in model.eval_order()? {
        let Ok(Some(value)) = call("folding", || Ok(value(model, id, left))) else { continue };
        left -= value.len() as u64;
        let inputs = model.nodes[id].inputs.clone();
        put(model, id, value)?;
        for (slot, outlet) in inputs.into_iter().enumerate() {
            let successors = &mut model.nodes[outlet.node].outputs[outlet.slot].successors;
            successors.retain(|inlet| *inlet != InletId::new(id, slot));
            if successors.is_empty() && !model.outputs.contains(&outlet) && is_constant(model, outlet) {
                put(model, outlet.node, Arc::new(Tensor::from(0f32)))?;
            }
        }
    }
    model.compact()
}

/// What a node makes, if it is a single tensor of at most `most` elements computed from constants.
fn value(model: &InferenceModel, id: usize, most: u64) -> Option<Arc<Tensor>> {
    let node = &model.nodes[id];
    if node.inputs.is_empty()
        || node.outputs.len() != 1
        || !node.inputs.iter().all(|&outlet| is_constant(model, outlet))
    {
        return None;
    }
    let facts: TVec<&InferenceFact> =
        node.inputs.iter().map(|&outlet| model.outlet_fact(outlet).ok()).collect::<Option<_>>()?;
    let values =
        facts.iter().map(|fact| Some(fact.value.concretize()?.into_tvalue())).collect::<Option<TVec<TValue>>>()?;
    // What cannot be folded stays, and fails where the model is planned if it is at fault.
    let (_, made, _) = node.op.clone().infer_facts(facts, tvec![&node.outputs[0].fact], tvec![]).ok()?;
    let shape = made.first()?.shape.as_concrete_finite().ok()??;
    let elements = shape.iter().try_fold(1u64, |product, &d| product.checked_mul(d as u64))?;
    if elements > most {
        return None;
    }
    let value = node.op.eval_out_of_plan(values).ok()??.remove(0).into_arc_tensor();
    (value.len() as u64 <= most).then_some(value)
}

fn is_constant(model: &InferenceModel, outlet: OutletId) -> bool {
    model.nodes[outlet.node].op_is::<Const>()
}

fn put(model: &mut InferenceModel, id: usize, value: Arc<Tensor>) -> TractResult<()> {
    let node = &mut model.nodes[id];
    node.inputs.clear();
    node.outputs[0].fact = InferenceFact::try_from(value.clone())?;
    node.op = Const::new(value)?.into();
    Ok(())
}
