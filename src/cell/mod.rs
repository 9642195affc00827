//! The LSTM, the GRU and the RNN as the ONNX operator specification defines them, one direction at a time, on plain
//! slices.
//!
//! Symbols are the specification's. With `T` steps, `B` sequences, `I` inputs, `H` hidden units and `G` gates:
//! `X [T, B, I]`, `W [G*H, I]`, `R [G*H, H]`, `b [2*G*H]` (`Wb`, then `Rb`), `P [3*H]` (peepholes `i o f`),
//! `H_0` and `C_0 [B, H]`, all row-major. `(.)` is the elementwise product.
//!
//! The formulas of each cell are in a file of its own: `lstm`, `gru`, `rnn`. What they have in common, and the loops over
//! steps and sequences, are in the others.
//!
//! Invariants: a sequence's results do not depend on how long its neighbours are (steps at or past its length leave the
//! state alone and give zeros), and no result depends on the number of threads.

mod activation;
mod backward;
mod effect;
mod formulas;
mod gru;
mod int8;
mod lstm;
#[cfg(test)]
pub(crate) mod noise;
mod product;
mod rnn;
mod step;

pub use activation::Activation;
pub use backward::{GateGradients, Gradients, backward};
pub use effect::{Effects, SequenceStep};

use crate::recurrent::{Attributes, Cell};
use formulas::Formulas;
use product::add_product;

/// Which cell, with what only that one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Long short-term memory, gates `i o f c`.
    Lstm {
        /// Couples the gates: `f = 1 - i`.
        input_forget: bool,
    },
    /// Gated recurrent unit, gates `z r h`.
    Gru {
        /// The reset gate scales `H R^T + Rb` instead of `H`.
        linear_before_reset: bool,
    },
    /// Plain recurrent layer, one gate `i`.
    Rnn,
}

impl Kind {
    /// The kind of a recurrent node, by its attributes.
    pub fn of(cell: Cell, attributes: &Attributes) -> Kind {
        match cell {
            Cell::Lstm => Kind::Lstm { input_forget: attributes.input_forget },
            Cell::Gru => Kind::Gru { linear_before_reset: attributes.linear_before_reset },
            Cell::Rnn => Kind::Rnn,
        }
    }

    /// Every cell with every flag that it has, for tests.
    #[cfg(test)]
    const ALL: [Kind; 5] = [
        Kind::Lstm { input_forget: false },
        Kind::Lstm { input_forget: true },
        Kind::Gru { linear_before_reset: false },
        Kind::Gru { linear_before_reset: true },
        Kind::Rnn,
    ];

    fn cell(self) -> Cell {
        match self {
            Kind::Lstm { .. } => Cell::Lstm,
            Kind::Gru { .. } => Cell::Gru,
            Kind::Rnn => Cell::Rnn,
        }
    }

    /// The formulas of the cell, for one pass.
    fn formulas(self) -> Box<dyn Formulas> {
        match self {
            Kind::Lstm { input_forget } => Box::new(lstm::Lstm::new(input_forget)),
            Kind::Gru { linear_before_reset } => Box::new(gru::Gru::new(linear_before_reset)),
            Kind::Rnn => Box::new(rnn::Rnn),
        }
    }

    /// The number of gates `G`.
    pub fn gates(self) -> usize {
        self.cell().gates().len()
    }

    /// Whether a second state `C` goes from step to step: only an LSTM's does.
    pub fn has_cell_state(self) -> bool {
        self.cell().states().len() > 1
    }
}

/// What a cell computes, apart from its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Which cell.
    pub kind: Kind,
    /// Hidden units `H`.
    pub hidden: usize,
    /// Inputs `I`.
    pub inputs: usize,
    /// `f`, `g` and `h`; a GRU has no use for the third, an RNN for the second and third.
    pub activations: [Activation; 3],
    /// Bound on what goes into the gates' activations.
    pub clip: Option<f32>,
}

impl Spec {
    /// What a recurrent node computes in one of its directions, by the node's attributes.
    pub fn of(cell: Cell, attributes: &Attributes, direction: usize, inputs: usize) -> Spec {
        let kind = Kind::of(cell, attributes);
        let each = attributes.activations.len() / attributes.direction.count();
        let activation = |i: usize| {
            let a = attributes.activations[direction * each + i.min(each - 1)];
            Activation::named(a.name(), Some(a.alpha), Some(a.beta)).expect("both sides name the specification's own")
        };
        let activations = [activation(0), activation(1), activation(2)];
        Spec { kind, hidden: attributes.hidden, inputs, activations, clip: attributes.clip }
    }

    /// Rows of W and R: `G*H`.
    pub fn rows(&self) -> usize {
        self.kind.gates() * self.hidden
    }
}

/// The weights of one direction.
#[derive(Clone, Copy, Debug)]
pub struct CellWeights<'a> {
    /// `W [G*H, I]`.
    pub w: &'a [f32],
    /// `R [G*H, H]`.
    pub r: &'a [f32],
    /// `b [2*G*H]`.
    pub b: Option<&'a [f32]>,
    /// `P [3*H]`, LSTM only.
    pub p: Option<&'a [f32]>,
}

/// What one direction is run on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `X [T, B, I]`.
    pub x: &'a [f32],
    /// Steps `T`.
    pub steps: usize,
    /// Sequences `B`.
    pub batch: usize,
    /// `H_0 [B, H]`, zeros if absent.
    pub h: Option<&'a [f32]>,
    /// `C_0 [B, H]`, zeros if absent; LSTM only.
    pub c: Option<&'a [f32]>,
    /// Valid steps of each sequence, each at most `T`; all of them if absent.
    pub lengths: Option<&'a [usize]>,
    /// From the last valid step to the first.
    pub reverse: bool,
}

impl Input<'_> {
    fn is_valid(&self, t: usize, b: usize) -> bool {
        self.lengths.is_none_or(|l| t < l[b])
    }

    fn times(&self) -> impl Iterator<Item = usize> + use<> {
        let (steps, reverse) = (self.steps, self.reverse);
        (0..steps).map(move |s| if reverse { steps - 1 - s } else { s })
    }
}

/// What one direction computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// `Y [T, B, H]`, in time order for either direction; zeros at steps that are not valid.
    pub y: Vec<f32>,
    /// `H` after each sequence's last step, `[B, H]`.
    pub h: Vec<f32>,
    /// `C` after each sequence's last step, `[B, H]`; empty but for an LSTM.
    pub c: Vec<f32>,
}

/// What back-propagation and measurements need of a forward pass besides its inputs and outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The gates after their activations, `[T, B, G*H]`.
    pub gates: Vec<f32>,
    /// LSTM: `C' [T, B, H]`. GRU with `linear_before_reset`: `H R^T + Rb` of the gate `h`, `[T, B, H]`. Else empty.
    pub inner: Vec<f32>,
}

/// Floats of `X W^T` held at a time: long inputs are projected in pieces so that memory does not grow with `T`.
const PROJECTED_FLOATS: usize = 1 << 22;

/// Runs one direction over all steps.
///
/// # Panics
/// If a slice has not the length that its documentation says.
pub fn forward(spec: &Spec, weights: &CellWeights, input: &Input) -> Output {
    run(spec, weights, input, None, false)
}

/// Runs one direction of an LSTM whose vectors are rounded to eight bits before each product, as onnxruntime's
/// `DynamicQuantizeLSTM` does: X as a whole, H at each step for all sequences together.
///
/// # Panics
/// As [`forward`]; if it is not an LSTM.
pub fn forward_int8(spec: &Spec, weights: &CellWeights, input: &Input) -> Output {
    assert!(matches!(spec.kind, Kind::Lstm { .. }), "only an LSTM has a form of eight bits");
    let mut x = input.x.to_vec();
    int8::round(&mut x);
    run(spec, weights, &Input { x: &x, ..*input }, None, true)
}

/// Like [`forward`], keeping what [`Trace`] holds.
///
/// # Panics
/// If a slice has not the length that its documentation says.
pub fn forward_traced(spec: &Spec, weights: &CellWeights, input: &Input) -> (Output, Trace) {
    let mut trace = Trace::default();
    let output = run(spec, weights, input, Some(&mut trace), false);
    (output, trace)
}

fn run(spec: &Spec, weights: &CellWeights, input: &Input, mut trace: Option<&mut Trace>, int8: bool) -> Output {
    let (hidden, rows, batch) = (spec.hidden, spec.rows(), input.batch);
    check(spec, weights, input);
    let state = |given: Option<&[f32]>| given.map_or_else(|| vec![0.; batch * hidden], <[f32]>::to_vec);
    let lstm = spec.kind.has_cell_state();
    let mut out = Output {
        y: vec![0.; input.steps * batch * hidden],
        h: state(input.h),
        c: if lstm { state(input.c) } else { Vec::new() },
    };
    if let Some(trace) = trace.as_deref_mut() {
        trace.gates.resize(input.steps * batch * rows, 0.);
    }
    if out.y.is_empty() {
        return out;
    }
    let mut step = step::Step::new(spec, weights, batch, int8);
    let bias = step.input_bias();
    let piece = (PROJECTED_FLOATS / (batch * rows).max(1)).max(1);
    let times: Vec<usize> = input.times().collect();
    let mut projected = Vec::new();
    for times in times.chunks(piece) {
        let first = times.iter().copied().min().expect("chunks are not empty");
        let x = &input.x[first * batch * spec.inputs..][..times.len() * batch * spec.inputs];
        projected.clear();
        (0..times.len() * batch).for_each(|_| projected.extend_from_slice(&bias));
        add_product(&mut projected, rows, x, weights.w, rows, spec.inputs);
        for &t in times {
            let gates = &mut projected[(t - first) * batch * rows..][..batch * rows];
            step.advance(gates, &mut out, |b| input.is_valid(t, b));
            let y = &mut out.y[t * batch * hidden..][..batch * hidden];
            for b in (0..batch).filter(|&b| input.is_valid(t, b)) {
                y[b * hidden..][..hidden].copy_from_slice(&out.h[b * hidden..][..hidden]);
            }
            if let Some(trace) = trace.as_deref_mut() {
                trace.gates[t * batch * rows..][..batch * rows].copy_from_slice(gates);
                if let Some(inner) = step.inner(&out) {
                    trace.inner.resize(out.y.len(), 0.);
                    trace.inner[t * batch * hidden..][..batch * hidden].copy_from_slice(inner);
                }
            }
        }
    }
    out
}

fn check(spec: &Spec, weights: &CellWeights, input: &Input) {
    let (hidden, rows, batch) = (spec.hidden, spec.rows(), input.batch);
    let state = batch * hidden;
    assert_eq!(input.x.len(), input.steps * batch * spec.inputs, "X is not [T, B, I]");
    assert_eq!(weights.w.len(), rows * spec.inputs, "W is not [G*H, I]");
    assert_eq!(weights.r.len(), rows * hidden, "R is not [G*H, H]");
    assert!(weights.b.is_none_or(|b| b.len() == 2 * rows), "b is not [2*G*H]");
    assert!(weights.p.is_none_or(|p| p.len() == 3 * hidden), "P is not [3*H]");
    assert!(input.h.is_none_or(|h| h.len() == state), "H_0 is not [B, H]");
    assert!(input.c.is_none_or(|c| c.len() == state), "C_0 is not [B, H]");
    assert!(input.lengths.is_none_or(|l| l.len() == batch && l.iter().all(|&l| l <= input.steps)), "lengths are off");
}

#[cfg(test)]
mod tests;
