//! `LSTM`, `GRU` and `RNN` as operators of tract that compute what [`cell`](crate::cell) does.

use super::recorder::{self, Floats, Pass, Visit};
use crate::cell::{CellWeights, Input, Kind, Output, Spec, Trace, forward, forward_int8, forward_traced};
use crate::onnx::NodeProto;
use crate::recurrent::{Attributes, Cell, Direction, Matrix};
use prost::Message;
use std::borrow::Cow;
use tract_onnx::model::{ParsingContext, optional_inputs, optional_outputs};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

/// The attribute that tells our operator the number of its node; given to the copy of the model that tract reads.
pub(super) const NUMBER: &str = "dirnet_number";

/// Reads a node of one of the operators that [`Cell`] names for tract.
pub(super) fn recurrent(
    context: &ParsingContext,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let Some(cell) = Cell::of_operator(&node.op_type) else { bail!("{} is not a recurrent operator", node.op_type) };
    Recurrent::read(context, node, cell).map(|op| (expand(op), vec![]))
}

/// Reads onnxruntime's `DynamicQuantizeLSTM` for tract: an LSTM whose W and R are int8 with a scale for each column, and
/// whose vectors are rounded to eight bits before each product.
pub(super) fn quantized_lstm(
    context: &ParsingContext,
    node: &pb::NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    ensure!(node.input.len() == 12, "DynamicQuantizeLSTM has {} inputs, expected 12", node.input.len());
    let own = NodeProto::decode(&*node.encode_to_vec())?;
    let mut op = Recurrent::of(context, node, &own, Cell::Lstm, None)?;
    let given = |inputs: &[String]| inputs.iter().filter(|name| !name.is_empty()).count();
    op.quantized = Some(given(&node.input[..8]));
    Ok((expand(op), vec![]))
}

/// One recurrent node.
#[derive(Clone, Debug)]
struct Recurrent {
    /// None for a node that nobody watches or gives other weights to.
    number: Option<usize>,
    cell: Cell,
    attributes: Attributes,
    /// `B sequence_lens initial_h initial_c P`: their places among the inputs that are present.
    optional: [Option<usize>; 5],
    /// `Y Y_h Y_c`: their places among the outputs that are present.
    outputs: [Option<usize>; 3],
    /// For int8 weights the place of W's scale, before W's zero point and R's scale and zero point.
    quantized: Option<usize>,
}

/// Each node is itself alone: tract must not merge two of them, even with equal inputs.
impl PartialEq for Recurrent {
    fn eq(&self, other: &Self) -> bool {
        self.number.is_some() && self.number == other.number
    }
}

impl Eq for Recurrent {}

impl Recurrent {
    fn read(context: &ParsingContext, node: &pb::NodeProto, cell: Cell) -> TractResult<Recurrent> {
        let mut own = NodeProto::decode(&*node.encode_to_vec())?;
        let marker = own.attribute.iter().position(|a| a.name() == NUMBER);
        // A node that came out of a function has none.
        let number = marker.map(|i| usize::try_from(own.attribute.remove(i).i())).transpose()?;
        Recurrent::of(context, node, &own, cell, number)
    }

    fn of(
        context: &ParsingContext,
        node: &pb::NodeProto,
        own: &NodeProto,
        cell: Cell,
        number: Option<usize>,
    ) -> TractResult<Recurrent> {
        let attributes = Attributes::read(own, cell, context.onnx_operator_set_version)
            .map_err(|e| format_err!("node '{}': {}", own.name(), e.message()))?;
        let mut inputs = optional_inputs(node).skip(3);
        let mut outputs = optional_outputs(node);
        let mut next = || inputs.next().expect("endless");
        let mut optional = [next(), next(), next(), next(), next()];
        // Those of an LSTM after X, W and R; other cells have fewer.
        optional[cell.inputs() - 3..].fill(None);
        let mut next = || outputs.next().expect("endless");
        Ok(Recurrent { number, cell, attributes, optional, outputs: [next(), next(), next()], quantized: None })
    }

    fn kind(&self) -> Kind {
        Kind::of(self.cell, &self.attributes)
    }

    fn spec(&self, direction: usize, inputs: usize) -> Spec {
        Spec::of(self.cell, &self.attributes, direction, inputs)
    }

    fn batch_first(&self) -> bool {
        self.attributes.layout == 1
    }

    /// The shapes of `Y Y_h Y_c` by ONNX, from the shape of X.
    fn output_shapes(&self, x: &[TDim]) -> [TVec<TDim>; 3] {
        let dirs = self.attributes.direction.count().to_dim();
        let hidden = self.attributes.hidden.to_dim();
        let y = if self.batch_first() {
            tvec![x[0].clone(), x[1].clone(), dirs.clone(), hidden.clone()]
        } else {
            tvec![x[0].clone(), dirs.clone(), x[1].clone(), hidden.clone()]
        };
        let state =
            if self.batch_first() { tvec![x[0].clone(), dirs, hidden] } else { tvec![dirs, x[1].clone(), hidden] };
        [y, state.clone(), state]
    }
}

impl Expansion for Recurrent {
    fn name(&self) -> StaticName {
        self.cell.operator().into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs.iter().flatten().count())
    }

    /// Never computed while a model is planned, so that every computation can be watched.
    fn runs_out_of_plan(&self) -> bool {
        false
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        if inputs.len() < 3 {
            bail!("{} has {} inputs, expected at least 3", self.cell.operator(), inputs.len());
        }
        s.equals(&inputs[0].rank, 3)?;
        for output in self.outputs.iter().flatten() {
            s.equals(&inputs[0].datum_type, &outputs[*output].datum_type)?;
        }
        s.given(&inputs[0].shape, move |s, x| {
            if x.len() != 3 {
                bail!("X has {} dimensions, expected 3", x.len());
            }
            for (slot, shape) in self.outputs.iter().zip(self.output_shapes(&x)) {
                if let Some(slot) = slot {
                    s.equals(&outputs[*slot].shape, shape)?;
                }
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Recurrent {
    fn name(&self) -> StaticName {
        self.cell.operator().into()
    }

    op_as_typed_op!();
}

impl TypedOp for Recurrent {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        ensure!(inputs[0].rank() == 3, "X has {} dimensions, expected 3", inputs[0].rank());
        let x: TVec<TDim> = inputs[0].shape.iter().cloned().collect();
        let shapes = self.output_shapes(&x);
        let present = shapes.iter().zip(&self.outputs).filter(|(_, slot)| slot.is_some());
        Ok(present.map(|(shape, _)| inputs[0].datum_type.fact(shape)).collect())
    }

    as_op!();
}

impl EvalOp for Recurrent {
    not_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let run = Run::new(self, &inputs)?;
        let traced = recorder::records() && self.number.is_some();
        let dirs = self.attributes.direction.each();
        let mut results = Vec::with_capacity(dirs.len());
        for (d, &direction) in dirs.iter().enumerate() {
            results.push(run.direction(d, direction, traced));
        }
        let outputs = run.assemble(&results)?;
        if let Some(number) = self.number.filter(|_| traced) {
            recorder::record(run.visit(number, results));
        }
        let datum_type = inputs[0].datum_type();
        let present = outputs.into_iter().zip(&self.outputs).filter(|(_, slot)| slot.is_some());
        present.map(|(tensor, _)| Ok(tensor.cast_to_dt(datum_type)?.into_owned().into_tvalue())).collect()
    }
}

/// The inputs of one evaluation, checked, in single precision and with the sequence first.
struct Run<'a> {
    op: &'a Recurrent,
    steps: usize,
    batch: usize,
    inputs: usize,
    x: Vec<f32>,
    w: Floats,
    r: Floats,
    b: Option<Floats>,
    p: Option<Floats>,
    lengths: Option<Vec<usize>>,
    /// `[dirs, B, H]`.
    h: Option<Vec<f32>>,
    c: Option<Vec<f32>>,
}

impl<'a> Run<'a> {
    fn new(op: &'a Recurrent, values: &[TValue]) -> TractResult<Run<'a>> {
        let (dirs, hidden) = (op.attributes.direction.count(), op.attributes.hidden);
        let rows = op.kind().gates() * hidden;
        let [steps, batch, inputs] = *values[0].shape() else { bail!("X is not of 3 dimensions") };
        let (steps, batch) = if op.batch_first() { (batch, steps) } else { (steps, batch) };
        let optional = |i: usize| op.optional[i].map(|slot| &values[slot]);
        let states = |name: &str, i: usize| -> TractResult<Option<Vec<f32>>> {
            optional(i).map(|value| op.state(name, value, [dirs, batch, hidden])).transpose()
        };
        Ok(Run {
            op,
            steps,
            batch,
            inputs,
            x: sequence_first("X", &values[0], values[0].shape(), op.batch_first())?,
            w: op.weights(Matrix::W, values, [dirs, rows, inputs])?,
            r: op.weights(Matrix::R, values, [dirs, rows, hidden])?,
            b: optional(0).map(|value| op.bias(value, [dirs, 2 * rows])).transpose()?,
            p: optional(4).map(|value| floats("P", value, &[dirs, 3 * hidden])).transpose()?,
            lengths: optional(1).map(|value| lengths(value, steps, batch)).transpose()?.flatten(),
            h: states("initial_h", 2)?,
            c: states("initial_c", 3)?,
        })
    }

    fn direction(&self, d: usize, direction: Direction, traced: bool) -> (Direction, Output, Trace) {
        let spec = self.op.spec(d, self.inputs);
        let state = self.batch * spec.hidden;
        let weights = self.weights(d);
        let input = Input {
            x: &self.x,
            steps: self.steps,
            batch: self.batch,
            h: self.h.as_deref().map(|h| &h[d * state..][..state]),
            c: self.c.as_deref().map(|c| &c[d * state..][..state]),
            lengths: self.lengths.as_deref(),
            reverse: direction == Direction::Reverse,
        };
        if self.op.quantized.is_some() {
            (direction, forward_int8(&spec, &weights, &input), Trace::default())
        } else if traced {
            let (output, trace) = forward_traced(&spec, &weights, &input);
            (direction, output, trace)
        } else {
            (direction, forward(&spec, &weights, &input), Trace::default())
        }
    }

    fn weights(&self, d: usize) -> CellWeights<'_> {
        let hidden = self.op.attributes.hidden;
        let rows = self.op.kind().gates() * hidden;
        CellWeights {
            w: &self.w[d * rows * self.inputs..][..rows * self.inputs],
            r: &self.r[d * rows * hidden..][..rows * hidden],
            b: self.b.as_deref().map(|b| &b[d * 2 * rows..][..2 * rows]),
            p: self.p.as_deref().map(|p| &p[d * 3 * hidden..][..3 * hidden]),
        }
    }

    /// `Y Y_h Y_c` in the node's layout; `Y_c` is zeros but for an LSTM.
    fn assemble(&self, results: &[(Direction, Output, Trace)]) -> TractResult<[Tensor; 3]> {
        let hidden = self.op.attributes.hidden;
        let state = self.batch * hidden;
        let mut y = Vec::with_capacity(self.steps * results.len() * state);
        for t in 0..self.steps {
            results.iter().for_each(|(_, out, _)| y.extend_from_slice(&out.y[t * state..][..state]));
        }
        let h: Vec<f32> = results.iter().flat_map(|(_, out, _)| &out.h).copied().collect();
        let c: Vec<f32> = results.iter().flat_map(|(_, out, _)| &out.c).copied().collect();
        let y = Tensor::from_shape(&[self.steps, results.len(), self.batch, hidden], &y)?;
        let states = [results.len(), self.batch, hidden];
        let h = Tensor::from_shape(&states, &h)?;
        let c = if c.is_empty() { Tensor::zero::<f32>(&states)? } else { Tensor::from_shape(&states, &c)? };
        if self.op.batch_first() {
            return Ok([y.permute_axes(&[2, 0, 1, 3])?, h.permute_axes(&[1, 0, 2])?, c.permute_axes(&[1, 0, 2])?]);
        }
        Ok([y, h, c])
    }

    fn visit(self, number: usize, results: Vec<(Direction, Output, Trace)>) -> Visit {
        let state = self.batch * self.op.attributes.hidden;
        let part = |states: &Option<Vec<f32>>, d: usize| {
            states.as_deref().map_or_else(|| vec![0.; state], |s| s[d * state..][..state].to_vec())
        };
        let has_cell_state = self.op.kind().has_cell_state();
        let passes = results.into_iter().enumerate().map(|(d, (direction, output, trace))| {
            let hidden = self.op.attributes.hidden;
            let rows = self.op.kind().gates() * hidden;
            Pass {
                spec: self.op.spec(d, self.inputs),
                reverse: direction == Direction::Reverse,
                w: self.w.part(d, rows * self.inputs),
                r: self.r.part(d, rows * hidden),
                b: self.b.as_ref().map(|b| b.part(d, 2 * rows)),
                p: self.p.as_ref().map(|p| p.part(d, 3 * hidden)),
                initial_h: part(&self.h, d),
                initial_c: if has_cell_state { part(&self.c, d) } else { Vec::new() },
                y: output.y,
                inner: trace.inner,
                gates: trace.gates,
            }
        });
        Visit {
            node: number,
            kind: self.op.kind(),
            hidden: self.op.attributes.hidden,
            inputs: self.inputs,
            steps: self.steps,
            batch: self.batch,
            passes: passes.collect(),
            lengths: self.lengths,
            x: self.x,
        }
    }
}

impl Recurrent {
    /// W or R of the node, or what the caller put in its place.
    fn weights(&self, matrix: Matrix, values: &[TValue], shape: [usize; 3]) -> TractResult<Floats> {
        let value = &values[matrix.input()];
        if let Some(place) = self.quantized {
            let place = place + if matrix == Matrix::W { 0 } else { 2 };
            return dequantized(matrix, value, &values[place], &values[place + 1], shape);
        }
        let Some(other) = self.number.and_then(|number| recorder::weights(number, matrix)) else {
            return floats(if matrix == Matrix::W { "W" } else { "R" }, value, &shape);
        };
        ensure!(other.shape() == shape, "{matrix} is of shape {:?}, expected {shape:?}", other.shape());
        Ok(Floats::of_array(other))
    }

    /// B of the node, or what the caller put in its place.
    fn bias(&self, value: &TValue, shape: [usize; 2]) -> TractResult<Floats> {
        let Some(other) = self.number.and_then(recorder::bias) else { return floats("B", value, &shape) };
        ensure!(other.len() == shape[0] * shape[1], "B is of {} numbers, expected {shape:?}", other.len());
        Ok(other.into())
    }

    /// `initial_h` or `initial_c` as `[dirs, B, H]`.
    fn state(&self, name: &str, value: &TValue, [dirs, batch, hidden]: [usize; 3]) -> TractResult<Vec<f32>> {
        let shape = if self.batch_first() { [batch, dirs, hidden] } else { [dirs, batch, hidden] };
        sequence_first(name, value, &shape, self.batch_first())
    }
}

/// `(q - zero) * scale` of `q [dirs, n, G*H]`, as `[dirs, G*H, n]`; scales and zero points are of shape `[dirs]` or
/// `[dirs, G*H]`.
fn dequantized(
    matrix: Matrix,
    value: &TValue,
    scales: &TValue,
    zeros: &TValue,
    [dirs, rows, columns]: [usize; 3],
) -> TractResult<Floats> {
    check_shape(&matrix.to_string(), value, &[dirs, columns, rows])?;
    let each = |name: &str, value: &TValue| -> TractResult<Vec<f32>> {
        let all = value.cast_to::<f32>()?;
        let all = all.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        match value.shape() {
            [d, r] if (*d, *r) == (dirs, rows) => Ok(all),
            [d] if *d == dirs => Ok(all.iter().flat_map(|&v| std::iter::repeat_n(v, rows)).collect()),
            other => bail!("the {name} of {matrix} is of shape {other:?}, expected [{dirs}, {rows}]"),
        }
    };
    let (scales, zeros) = (each("scale", scales)?, each("zero point", zeros)?);
    let levels = value.cast_to::<f32>()?;
    let levels = levels.try_as_plain_ram()?.as_slice::<f32>()?;
    let mut floats = vec![0.; dirs * rows * columns];
    for (d, levels) in levels.chunks_exact(rows * columns).enumerate() {
        for (column, levels) in levels.chunks_exact(rows).enumerate() {
            for (row, level) in levels.iter().enumerate() {
                let at = d * rows + row;
                floats[at * columns + column] = (level - zeros[at]) * scales[at];
            }
        }
    }
    Ok(Floats::from(floats))
}

fn check_shape(name: &str, value: &TValue, shape: &[usize]) -> TractResult<()> {
    ensure!(value.shape() == shape, "{name} is of shape {:?}, expected {shape:?}", value.shape());
    Ok(())
}

/// The elements of an input.
fn floats(name: &str, value: &TValue, shape: &[usize]) -> TractResult<Floats> {
    check_shape(name, value, shape)?;
    Floats::of_tensor(value)
}

/// The elements of an input, with its first two axes exchanged if the batch is first.
fn sequence_first(name: &str, value: &TValue, shape: &[usize], batch_first: bool) -> TractResult<Vec<f32>> {
    check_shape(name, value, shape)?;
    let mut tensor = value.cast_to::<f32>()?;
    if batch_first {
        tensor = Cow::Owned(tensor.into_owned().permute_axes(&[1, 0, 2])?);
    }
    Ok(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
}

/// `sequence_lens`; `None` where every sequence is as long as the input.
fn lengths(value: &TValue, steps: usize, batch: usize) -> TractResult<Option<Vec<usize>>> {
    ensure!(value.shape() == [batch], "sequence_lens is of shape {:?}, expected [{batch}]", value.shape());
    let tensor = value.cast_to::<i64>()?;
    let lengths = tensor.try_as_plain_ram()?.as_slice::<i64>()?;
    let fits = |&l: &i64| usize::try_from(l).ok().filter(|&l| l <= steps);
    let checked: Option<Vec<usize>> = lengths.iter().map(fits).collect();
    let Some(checked) = checked else { bail!("sequence_lens holds {lengths:?}, expected 0 to {steps}") };
    Ok(checked.iter().any(|&l| l < steps).then_some(checked))
}
