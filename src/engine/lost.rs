//! Runs a plan, and does not let tract lose NaN.
//!
//! tract's functions that are made for speed take NaN for some number: the Relu of NaN is 0, its Tanh is -1. A model
//! that gives NaN would seem to give numbers, and agree with another one that does. A run in which that happens is an
//! error.

use std::sync::Arc;

use half::f16;
use tract_onnx::prelude::{DatumType, TValue, TVec, TractError, TractResult, TypedRunnableModel};
use tract_onnx::tract_hir::internal::ensure;
use tract_onnx::tract_hir::tract_core::plan::eval;

/// Parts of the names of tract's operators each element of whose inputs shows in an output.
const KEEPING: [&str; 13] =
    ["Max", "Min", "Sigmoid", "Tanh", "Silu", "Swish", "Gelu", "Clip", "Relu", "Elu", "Selu", "Softmax", "OptMatMul"];

/// Parts of the names of those that sound like them.
const CHOOSING: [&str; 2] = ["Pool", "Arg"];

/// Runs a plan.
pub(super) fn run(plan: &Arc<TypedRunnableModel>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
    let mut seen = inputs.iter().any(has_nan);
    plan.spawn()?.run_plan_with_eval(inputs, |context, state, node, inputs| {
        // Before it runs: it may write into its inputs.
        let given = seen && keeps(&node.op.name()) && inputs.iter().any(has_nan);
        let outputs = eval(context, state, node, inputs)?;
        let made = outputs.iter().any(has_nan);
        ensure!(made || !given, "'{}' is given NaN, which the engine would make a number of", node.name);
        seen |= made;
        Ok::<_, TractError>(outputs)
    })
}

fn keeps(operator: &str) -> bool {
    let any = |parts: &[&str]| parts.iter().any(|part| operator.contains(part));
    any(&KEEPING) && !any(&CHOOSING)
}

fn has_nan(value: &TValue) -> bool {
    let Ok(plain) = value.try_as_plain_ram() else { return false };
    // Without leaving early, so that it is done many at a time.
    match value.datum_type() {
        DatumType::F32 => plain.as_slice::<f32>().is_ok_and(|all| all.iter().fold(false, |any, v| any | v.is_nan())),
        DatumType::F64 => plain.as_slice::<f64>().is_ok_and(|all| all.iter().fold(false, |any, v| any | v.is_nan())),
        DatumType::F16 => plain.as_slice::<f16>().is_ok_and(|all| all.iter().fold(false, |any, v| any | v.is_nan())),
        _ => false,
    }
}
