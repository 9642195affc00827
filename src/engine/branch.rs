//! `If`, for tract.
//!
//! tract's own wants both branches to be of the same type and shape, and plans a branch anew at each run. Real models
//! have branches that differ (one squeezes an axis, for input that the other would not take), and once the shapes of
//! the inputs are known the condition mostly is, too: then the branch takes the place of the node, and the other one
//! is not planned.

use super::fold;
use super::plan::runnable;
use tract_onnx::model::{ParseResult, ParsingContext};
use tract_onnx::pb;
use tract_onnx::prelude::TypedRunnableModel;
use tract_onnx::tract_hir::internal::*;

/// Reads an If node for tract.
pub(super) fn read(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let branches = [node.get_attr("then_branch")?, node.get_attr("else_branch")?];
    let [then, otherwise] = branches.map(|graph: &pb::GraphProto| context.parse_graph(graph));
    let (mut then, mut otherwise) = (then?, otherwise?);
    fold::constants(&mut then.model)?;
    fold::constants(&mut otherwise.model)?;
    let mut outer = then.unresolved_inputs.clone();
    outer.extend(otherwise.unresolved_inputs.iter().filter(|name| !then.unresolved_inputs.contains(name)).cloned());
    let body = |parsed: ParseResult| {
        let place = |name: &String| outer.iter().position(|o| o == name).expect("it holds the names of both") + 1;
        Body { inputs: parsed.unresolved_inputs.iter().map(place).collect(), model: parsed.model }
    };
    let bodies = [body(then), body(otherwise)];
    ensure!(
        bodies[0].model.outputs.len() == bodies[1].model.outputs.len(),
        "the branches have {} and {} outputs",
        bodies[0].model.outputs.len(),
        bodies[1].model.outputs.len()
    );
    Ok((Box::new(If { bodies }), outer))
}

/// A graph inside a node, with the places of its inputs among the inputs of the node.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) model: InferenceModel,
    pub(super) inputs: Vec<usize>,
}

impl Body {
    /// Sets the types of what it reads and gives those of its outputs.
    fn infer(&mut self, node_inputs: &[InferenceFact]) -> TractResult<Vec<InferenceFact>> {
        for (i, &outer) in self.inputs.iter().enumerate() {
            self.model.set_input_fact(i, node_inputs[outer].clone())?;
        }
        self.model.analyse(false)?;
        (0..self.model.outputs.len()).map(|i| Ok(self.model.output_fact(i)?.clone())).collect()
    }

    /// The typed body, for the values that `wires` of the model around it have.
    fn typed(&self, around: &TypedModel, wires: &[OutletId]) -> TractResult<TypedModel> {
        let mut model = self.model.clone();
        for (i, &outer) in self.inputs.iter().enumerate() {
            model.set_input_fact(i, around.outlet_fact(wires[outer])?.into())?;
        }
        model.into_typed()
    }
}

#[derive(Clone, Debug)]
struct If {
    /// Then, else.
    bodies: [Body; 2],
}

/// No two are the same: nothing is gained by merging them.
impl PartialEq for If {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl Eq for If {}

impl Op for If {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for If {
    not_out_of_plan!();
}

/// The index of the branch that a condition chooses.
fn chosen(condition: &Tensor) -> TractResult<usize> {
    ensure!(condition.len() == 1, "the condition has {} elements, expected 1", condition.len());
    Ok(usize::from(!condition.cast_to::<bool>()?.try_as_plain_ram()?.as_slice::<bool>()?[0]))
}

impl InferenceOp for If {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        if let Some(condition) = inputs[0].value.concretize() {
            let facts = self.bodies[chosen(&condition)?].infer(&inputs)?;
            for (output, mut fact) in outputs.iter_mut().zip(facts) {
                output.unify_with_mut(&mut fact)?;
            }
        } else if let [Ok(then), Ok(otherwise)] = self.bodies.each_mut().map(|body| body.infer(&inputs)) {
            // Which one it will be is open: only what both agree on is known.
            for (output, (then, otherwise)) in outputs.iter_mut().zip(then.into_iter().zip(otherwise)) {
                if then.datum_type == otherwise.datum_type {
                    output.datum_type.unify_with(&then.datum_type)?;
                }
                if then.shape == otherwise.shape {
                    output.shape.unify_with(&then.shape)?;
                }
            }
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.bodies[0].model.outputs.len())
    }

    fn to_typed(
        &self,
        _source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let wires: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        if let Some(condition) = target.outlet_fact(wires[0])?.konst.clone() {
            let body = &self.bodies[chosen(&condition)?];
            return inline(&node.name, &body.typed(target, &wires)?, &body.inputs, target, &wires);
        }
        let [then, otherwise] = [0, 1].map(|i| self.bodies[i].typed(target, &wires));
        let (then, otherwise) = (then?, otherwise?);
        let facts = output_facts(&then)?;
        ensure!(
            facts == output_facts(&otherwise)?,
            "the branches of '{}' give tensors of different types or shapes, and which one is taken shows only when the \
             model runs",
            node.name
        );
        let inputs = self.bodies.each_ref().map(|body| body.inputs.clone());
        target.wire_node(&node.name, Choice { plans: [runnable(then)?, runnable(otherwise)?], inputs, facts }, &wires)
    }

    as_op!();
}

fn output_facts(model: &TypedModel) -> TractResult<TVec<TypedFact>> {
    (0..model.outputs.len()).map(|i| Ok(model.output_fact(i)?.without_value())).collect()
}

/// Puts the nodes of a body into the model around it.
fn inline(
    name: &str,
    body: &TypedModel,
    inputs: &[usize],
    target: &mut TypedModel,
    wires: &[OutletId],
) -> TractResult<TVec<OutletId>> {
    let mut mapping: HashMap<OutletId, OutletId> = HashMap::new();
    for (inner, &outer) in body.inputs.iter().zip(inputs) {
        mapping.insert(*inner, wires[outer]);
    }
    for id in body.eval_order()? {
        let node = body.node(id);
        if TypedModel::is_source(&node.op) {
            continue;
        }
        let from: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        let to = target.wire_node(format!("{name}/{}", node.name), node.op.clone(), &from)?;
        for (slot, outlet) in to.into_iter().enumerate() {
            mapping.insert(OutletId::new(id, slot), outlet);
        }
    }
    Ok(body.outputs.iter().map(|outlet| mapping[outlet]).collect())
}

/// An If whose condition shows when the model runs.
#[derive(Clone, Debug)]
struct Choice {
    plans: [Arc<TypedRunnableModel>; 2],
    inputs: [Vec<usize>; 2],
    facts: TVec<TypedFact>,
}

impl PartialEq for Choice {
    fn eq(&self, _other: &Self) -> bool {
        false
    }
}

impl Eq for Choice {}

impl Op for Choice {
    fn name(&self) -> StaticName {
        "If".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Choice {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.clone())
    }

    as_op!();
}

impl EvalOp for Choice {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let branch = chosen(&inputs[0])?;
        self.plans[branch].run(self.inputs[branch].iter().map(|&i| inputs[i].clone()).collect())
    }
}
