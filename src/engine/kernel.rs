//! Operators that are computed by code of our own, as tract wants them.
//!
//! A [`Kernel`] is an ONNX operator whose inputs are known when it runs: what it gives, and of which types and shapes.
//! [`Own`] is that operator for tract. Invariant: what an output turns out to be is what was said of it before.

use std::fmt::Debug;

use tract_onnx::tract_hir::internal::*;

/// What is known of an input before the model runs. tract's own type of dimensions is `i64` here.
pub(super) struct Known {
    pub(super) datum_type: DatumType,
    pub(super) shape: TVec<usize>,
    /// None for a value that shows only when the model runs.
    pub(super) value: Option<Arc<Tensor>>,
}

impl Known {
    /// A value of one integer, where it is known.
    pub(super) fn integer(&self) -> TractResult<Option<i64>> {
        let Some(value) = &self.value else { return Ok(None) };
        ensure!(value.len() == 1, "{} elements, expected 1", value.len());
        Ok(Some(integers(value)?[0]))
    }
}

/// Element types and shapes of the outputs.
pub(super) type Facts = TVec<(DatumType, TVec<usize>)>;

/// An operator of our own; outputs that the node leaves out are left out here too.
pub(super) trait Kernel: Clone + Debug + Send + Sync + 'static {
    /// The operator's name in ONNX.
    fn name(&self) -> &'static str;

    /// The number of outputs.
    fn outputs(&self) -> usize {
        1
    }

    /// Whether equal inputs give equal outputs, so that it may be computed once for constants.
    fn is_pure(&self) -> bool {
        true
    }

    /// Whether the only output is of the type and the shape of the first input, known or not.
    fn keeps_shape(&self) -> bool {
        false
    }

    /// What the outputs will be; `None` where that depends on values that are not known.
    ///
    /// # Errors
    /// For inputs that the operator does not take.
    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>>;

    /// The outputs. No input is of tract's type of dimensions.
    ///
    /// # Errors
    /// For values that the operator does not take.
    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>>;

    /// The same for a kernel that hands on what others hold too.
    ///
    /// # Errors
    /// As [`eval`](Self::eval).
    fn values(&self, inputs: &[TValue]) -> TractResult<TVec<TValue>> {
        Ok(self.eval(inputs)?.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

/// A kernel as an operator of tract.
pub(super) fn own(kernel: impl Kernel) -> Box<dyn InferenceOp> {
    Box::new(Own { kernel, plain: None })
}

/// As [`own`]; where what it will give is not known before the model runs, tract's own operator takes its place.
pub(super) fn own_or(kernel: impl Kernel, plain: Option<Box<dyn InferenceOp>>) -> Box<dyn InferenceOp> {
    Box::new(Own { kernel, plain })
}

/// The elements of an integer tensor.
pub(super) fn integers(tensor: &Tensor) -> TractResult<Vec<i64>> {
    if tensor.datum_type() == u64::datum_type() {
        let largest = tensor.try_as_plain_ram()?.as_slice::<u64>()?.iter().copied().max().unwrap_or(0);
        ensure!(i64::try_from(largest).is_ok(), "{largest} is more than an int64 holds");
    }
    Ok(tensor.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
}

/// An axis counted from the front, of a tensor of some rank.
pub(super) fn axis(axis: i64, rank: usize) -> TractResult<usize> {
    let counted = if axis < 0 { axis + rank as i64 } else { axis };
    let found = usize::try_from(counted).ok().filter(|&a| a < rank);
    found.with_context(|| format!("axis {axis} of a tensor of {rank} dimensions"))
}

#[derive(Clone, Debug)]
struct Own<K> {
    kernel: K,
    plain: Option<Box<dyn InferenceOp>>,
}

/// No two are the same: nothing is gained by merging them.
impl<K> PartialEq for Own<K> {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl<K> Eq for Own<K> {}

impl<K: Kernel> Op for Own<K> {
    fn name(&self) -> StaticName {
        self.kernel.name().into()
    }

    op_as_typed_op!();
}

impl<K: Kernel> EvalOp for Own<K> {
    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        if !self.kernel.is_pure() {
            return Ok(None);
        }
        self.run(inputs).map(Some)
    }

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.run(inputs)
    }
}

impl<K: Kernel> Own<K> {
    /// What the outputs will be, if it is known.
    fn typed(&self, inputs: &[&TypedFact]) -> TractResult<Option<Facts>> {
        let known: Option<Vec<Known>> = inputs.iter().map(|fact| of_typed(fact)).collect();
        Ok(known.map(|known| self.kernel.facts(&known)).transpose()?.flatten())
    }

    fn run(&self, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let is_dimension = |value: &TValue| value.datum_type() == TDim::datum_type();
        let plain = |value: TValue| -> TractResult<TValue> {
            if is_dimension(&value) { Ok(value.cast_to::<i64>()?.into_owned().into_tvalue()) } else { Ok(value) }
        };
        let inputs: TVec<TValue> = inputs.into_iter().map(plain).collect::<TractResult<_>>()?;
        self.kernel.values(&inputs)
    }
}

impl<K: Kernel> InferenceOp for Own<K> {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let known: Option<Vec<Known>> = inputs.iter().map(|fact| of_inference(fact)).collect();
        let facts = known.map(|known| self.kernel.facts(&known)).transpose()?.flatten();
        if let (None, Some(plain)) = (&facts, &mut self.plain)
            && let Ok(inferred) = plain.infer_facts(inputs.clone(), outputs.clone(), observed.clone())
        {
            return Ok(inferred);
        }
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        if let Some(facts) = facts {
            for (output, (datum_type, shape)) in outputs.iter_mut().zip(facts) {
                output.unify_with_mut(&mut InferenceFact::dt_shape(datum_type, shape))?;
            }
        } else if self.kernel.keeps_shape() {
            let mut like = InferenceFact::clone(inputs[0]).without_value();
            if let Some(datum_type) = like.datum_type.concretize() {
                like.datum_type = plain(datum_type).into();
            }
            outputs[0].unify_with_mut(&mut like)?;
        }
        let own = |facts: TVec<&InferenceFact>| facts.into_iter().cloned().collect();
        Ok((own(inputs), outputs, own(observed)))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.kernel.outputs())
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let wires: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        if let Some(plain) = &self.plain {
            let facts: Vec<&TypedFact> =
                wires.iter().map(|&wire| target.outlet_fact(wire)).collect::<TractResult<_>>()?;
            if !self.kernel.keeps_shape() && self.typed(&facts)?.is_none() {
                return plain.to_typed(source, node, target, mapping);
            }
        }
        target.wire_node(&node.name, self.clone(), &wires)
    }

    as_op!();
}

impl<K: Kernel> TypedOp for Own<K> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let known: Option<Vec<Known>> = inputs.iter().map(|fact| of_typed(fact)).collect();
        let facts = known.map(|known| self.kernel.facts(&known)).transpose()?.flatten();
        let facts = facts
            .with_context(|| format!("the shape that {} gives shows only when the model runs", self.kernel.name()))?;
        Ok(facts.into_iter().map(|(datum_type, shape)| datum_type.fact(shape)).collect())
    }

    as_op!();
}

fn plain(datum_type: DatumType) -> DatumType {
    if datum_type == TDim::datum_type() { i64::datum_type() } else { datum_type }
}

/// A constant without symbols in it.
fn known(value: Option<Arc<Tensor>>) -> Option<Arc<Tensor>> {
    let value = value?;
    if value.datum_type() != TDim::datum_type() {
        return Some(value);
    }
    // A symbol among the dimensions is no known value.
    value.cast_to::<i64>().ok().map(|plain| plain.into_owned().into_arc_tensor())
}

fn of_inference(fact: &InferenceFact) -> Option<Known> {
    let shape = fact.shape.as_concrete_finite().ok()??;
    Some(Known { datum_type: plain(fact.datum_type.concretize()?), shape, value: known(fact.value.concretize()) })
}

fn of_typed(fact: &TypedFact) -> Option<Known> {
    let shape = fact.shape.as_concrete()?.into();
    Some(Known { datum_type: plain(fact.datum_type), shape, value: known(fact.konst.clone()) })
}
