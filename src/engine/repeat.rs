//! `Loop`, for tract, which has none: for loops whose number of rounds is known once the shapes of the inputs are.

use super::plan::runnable;
use tract_onnx::model::{ParsingContext, optional_inputs, optional_outputs};
use tract_onnx::pb;
use tract_onnx::prelude::TypedRunnableModel;
use tract_onnx::tract_hir::internal::*;

/// Reads a Loop node for tract.
pub(super) fn read(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let parsed = context.parse_graph(node.get_attr("body")?)?;
    let given: Vec<Option<usize>> = optional_inputs(node).take(node.input.len()).collect();
    let carried: Option<Vec<usize>> = given.iter().skip(2).copied().collect();
    let carried = carried.context("a carried value of a Loop has no name")?;
    let present = given.iter().flatten().count();
    let closures = parsed.unresolved_inputs.len();
    let (inputs, outputs) = (parsed.model.inputs.len(), parsed.model.outputs.len());
    ensure!(
        inputs == 2 + carried.len() + closures && outputs > carried.len(),
        "the body has {} inputs and {outputs} outputs, for {} carried values",
        inputs - closures,
        carried.len()
    );
    let op = Loop {
        body: parsed.model,
        rounds: given.first().copied().flatten(),
        condition: given.get(1).copied().flatten(),
        closures: (present..present + closures).collect(),
        outputs: optional_outputs(node).take(outputs - 1).collect(),
        carried,
    };
    Ok((Box::new(op), parsed.unresolved_inputs))
}

/// Inputs of the body: number of the round, condition, carried values, what it reads from outside. Its outputs:
/// condition, carried values, then values that are stacked over the rounds.
#[derive(Clone, Debug)]
struct Loop {
    body: InferenceModel,
    /// The places of `M` and `cond` among the inputs of the node, then of the carried and outer values.
    rounds: Option<usize>,
    condition: Option<usize>,
    carried: Vec<usize>,
    closures: Vec<usize>,
    /// For each carried and stacked value its place among the outputs of the node that are present.
    outputs: Vec<Option<usize>>,
}

impl PartialEq for Loop {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl Eq for Loop {}

impl Op for Loop {
    fn name(&self) -> StaticName {
        "Loop".into()
    }

    not_a_typed_op!();
}

impl EvalOp for Loop {
    not_out_of_plan!();
}

fn round_fact(declared: &InferenceFact) -> InferenceFact {
    // The specification allows both a scalar and a vector of one element.
    let rank = declared.shape.concretize().map_or(0, |shape| shape.len());
    InferenceFact::dt_shape(i64::datum_type(), vec![1usize; rank.min(1)])
}

fn condition_fact(declared: &InferenceFact) -> InferenceFact {
    let rank = declared.shape.concretize().map_or(0, |shape| shape.len());
    InferenceFact::dt_shape(bool::datum_type(), vec![1usize; rank.min(1)])
}

fn count(rounds: &Tensor) -> TractResult<usize> {
    ensure!(rounds.len() == 1, "M has {} elements, expected 1", rounds.len());
    let rounds = rounds.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?[0];
    Ok(usize::try_from(rounds.max(0))?)
}

fn is_true(condition: &Tensor) -> TractResult<bool> {
    ensure!(condition.len() == 1, "the condition of a Loop has {} elements, expected 1", condition.len());
    Ok(condition.cast_to::<bool>()?.try_as_plain_ram()?.as_slice::<bool>()?[0])
}

impl Loop {
    /// The body with the types of its inputs set. A carried value is of one type in all rounds, but not of one value.
    fn body_for(&self, fact: impl Fn(usize) -> TractResult<InferenceFact>) -> TractResult<InferenceModel> {
        let mut body = self.body.clone();
        body.set_input_fact(0, round_fact(self.body.input_fact(0)?))?;
        body.set_input_fact(1, condition_fact(self.body.input_fact(1)?))?;
        for (i, &outer) in self.carried.iter().enumerate() {
            body.set_input_fact(2 + i, fact(outer)?.without_value())?;
        }
        for (i, &outer) in self.closures.iter().enumerate() {
            body.set_input_fact(2 + self.carried.len() + i, fact(outer)?)?;
        }
        Ok(body)
    }
}

impl InferenceOp for Loop {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let mut body = self.body_for(|outer| Ok(inputs[outer].clone()))?;
        body.analyse(false)?;
        let rounds = self.rounds.and_then(|i| inputs[i].value.concretize()).map(|m| count(&m)).transpose()?;
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        for (i, slot) in self.outputs.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let fact = body.output_fact(1 + i)?;
            outputs[*slot].datum_type.unify_with(&fact.datum_type)?;
            let Some(shape) = fact.shape.concretize() else { continue };
            if i < self.carried.len() {
                outputs[*slot].shape.unify_with(&shape.into())?;
            } else if let Some(rounds) = rounds {
                let stacked: TVec<TDim> = std::iter::once(rounds.to_dim()).chain(shape).collect();
                outputs[*slot].shape.unify_with(&stacked.into())?;
            }
        }
        let inputs = inputs.into_iter().cloned().collect();
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs.iter().flatten().count())
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let wires: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        let known = self.rounds.map(|i| target.outlet_fact(wires[i])).transpose()?.and_then(|fact| fact.konst.clone());
        let Some(known) = known else {
            bail!("the number of rounds of the Loop '{}' shows only when the model runs", node.name);
        };
        let rounds = count(&known)?;
        let body = self.body_for(|outer| Ok(target.outlet_fact(wires[outer])?.into()))?.into_typed()?;
        let mut facts: TVec<TypedFact> = tvec![];
        for (i, _) in self.outputs.iter().enumerate().filter(|(_, slot)| slot.is_some()) {
            let mut fact = body.output_fact(1 + i)?.without_value();
            match self.carried.get(i) {
                Some(&outer) => ensure!(
                    fact == target.outlet_fact(wires[outer])?.without_value(),
                    "carried value {i} of the Loop '{}' changes its type or shape",
                    node.name
                ),
                None => {
                    fact.shape.insert_axis(0)?;
                    fact.shape.set(0, rounds.to_dim());
                }
            }
            facts.push(fact);
        }
        let op = Rounds {
            body: runnable(body)?,
            rounds,
            condition: self.condition,
            round_rank: self.body.input_fact(0)?.shape.concretize().map_or(0, |shape| shape.len().min(1)),
            condition_rank: self.body.input_fact(1)?.shape.concretize().map_or(0, |shape| shape.len().min(1)),
            carried: self.carried.clone(),
            closures: self.closures.clone(),
            outputs: self.outputs.clone(),
            facts,
        };
        target.wire_node(&node.name, op, &wires)
    }

    as_op!();
}

/// A Loop of a known number of rounds.
#[derive(Clone, Debug)]
struct Rounds {
    body: Arc<TypedRunnableModel>,
    rounds: usize,
    condition: Option<usize>,
    round_rank: usize,
    condition_rank: usize,
    carried: Vec<usize>,
    closures: Vec<usize>,
    outputs: Vec<Option<usize>>,
    facts: TVec<TypedFact>,
}

impl PartialEq for Rounds {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl Eq for Rounds {}

impl Op for Rounds {
    fn name(&self) -> StaticName {
        "Loop".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Rounds {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}

impl EvalOp for Rounds {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut carried: Vec<TValue> = self.carried.iter().map(|&i| inputs[i].clone()).collect();
        let mut stacked: Vec<Vec<Tensor>> = vec![Vec::new(); self.outputs.len() - carried.len()];
        let mut go_on = self.condition.map_or(Ok(true), |i| is_true(&inputs[i]))?;
        let mut done = 0;
        while go_on && done < self.rounds {
            let round = tensor1(&[i64::try_from(done)?]).into_shape(&vec![1; self.round_rank])?;
            let condition = tensor1(&[true]).into_shape(&vec![1; self.condition_rank])?;
            let mut values: TVec<TValue> = tvec![round.into_tvalue(), condition.into_tvalue()];
            values.extend(carried.iter().cloned());
            values.extend(self.closures.iter().map(|&i| inputs[i].clone()));
            let mut results = self.body.run(values)?.into_iter();
            let condition = results.next().context("a Loop body without outputs")?;
            go_on = is_true(&condition)?;
            carried.iter_mut().zip(&mut results).for_each(|(carried, result)| *carried = result);
            for (stack, result) in stacked.iter_mut().zip(results) {
                let mut row = result.into_tensor();
                row.insert_axis(0)?;
                stack.push(row);
            }
            done += 1;
        }
        ensure!(done == self.rounds || stacked.is_empty(), "the Loop ended after {done} of {} rounds", self.rounds);
        let stacked = stacked.iter().enumerate().map(|(i, rows)| self.stack(carried.len() + i, rows));
        let all: Vec<Option<TValue>> =
            carried.iter().cloned().map(|c| Ok(Some(c))).chain(stacked).collect::<TractResult<_>>()?;
        Ok(all.into_iter().zip(&self.outputs).filter_map(|(value, slot)| value.filter(|_| slot.is_some())).collect())
    }
}

impl Rounds {
    /// The rows of a stacked output as one tensor; `None` if the node does not give it out.
    fn stack(&self, output: usize, rows: &[Tensor]) -> TractResult<Option<TValue>> {
        let Some(slot) = self.outputs[output] else { return Ok(None) };
        if rows.is_empty() {
            let fact = &self.facts[slot];
            let shape = fact.shape.as_concrete().context("a Loop of no rounds whose output has no known shape")?;
            return Ok(Some(Tensor::zero_dt(fact.datum_type, shape)?.into_tvalue()));
        }
        Ok(Some(Tensor::stack_tensors(0, rows)?.into_tvalue()))
    }
}
