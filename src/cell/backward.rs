//! Back-propagation through time of one direction: the chain rule through the formulas of [`super`].
//!
//! [`backward`] takes the gradients of a loss in `Y` (and `C`) to those in what goes into the gates, step by step from
//! the last to the first. The gradients in the weights and in `X` are products of those with what was multiplied, over
//! all steps at once: [`GateGradients::add_to`] and [`GateGradients::inputs`].
//!
//! Derivatives of activations are computed from their values, so nothing but the values is kept of the forward pass.
//! Everything runs on the calling thread; steps at or past a sequence's length pass gradients on and add none.

use super::effect::Slope;
use super::{CellWeights, Input, Output, Spec, Trace};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Gradients of a loss in the weights of one direction, in the shapes of [`CellWeights`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients {
    /// `[G*H, I]`.
    pub w: Vec<f32>,
    /// `[G*H, H]`.
    pub r: Vec<f32>,
    /// `[2*G*H]`: of `Wb`, then of `Rb`.
    pub b: Vec<f32>,
}

impl Gradients {
    /// Zeros for the weights of a cell.
    pub fn zeros(spec: &Spec) -> Gradients {
        let rows = spec.rows();
        Gradients { w: vec![0.; rows * spec.inputs], r: vec![0.; rows * spec.hidden], b: vec![0.; 2 * rows] }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Gradients) {
        for (sum, term) in [(&mut self.w, &other.w), (&mut self.r, &other.r), (&mut self.b, &other.b)] {
            sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
        }
    }
}

/// Gradients of a loss in what goes into the gates.
#[derive(Clone, Debug)]
pub struct GateGradients {
    /// In what each activation is applied to, `[T, B, G*H]`.
    gates: Vec<f32>,
}

/// The gradients in what goes into the gates, of a loss with the gradients `d_y` in `Y` and `d_c` in the `C` of every
/// step, both `[T, B, H]`. What `d_y` and `d_c` hold for steps that are not valid does not count.
///
/// # Panics
/// If a slice has not the length that its documentation says, or if an activation
/// [has no slope by its value](super::Activation::has_slope_by_value).
pub fn backward(
    spec: &Spec,
    weights: &CellWeights,
    input: &Input,
    (output, trace): &(Output, Trace),
    d_y: &[f32],
    d_c: Option<&[f32]>,
) -> GateGradients {
    super::check(spec, weights, input);
    let odd = spec.activations.iter().find(|a| !a.has_slope_by_value());
    assert!(odd.is_none(), "{odd:?} has no derivative by its value");
    let (hidden, rows, batch) = (spec.hidden, spec.rows(), input.batch);
    assert_eq!(d_y.len(), input.steps * batch * hidden, "the gradient of Y is not [T, B, H]");
    assert!(d_c.is_none_or(|d| d.len() == d_y.len()), "the gradient of C is not [T, B, H]");
    let pass = Pass::new(spec, weights, input, output, trace);
    let mut formulas = spec.kind.formulas();
    let mut gradients = GateGradients { gates: vec![0.; input.steps * batch * rows] };
    let lstm = spec.kind.has_cell_state();
    let mut state = State { h: vec![0.; batch * hidden], c: vec![0.; if lstm { batch * hidden } else { 0 }] };
    let mut times: Vec<usize> = input.times().collect();
    times.reverse();
    for t in times {
        let at = t * batch * hidden..(t + 1) * batch * hidden;
        pass.add_valid(&mut state.h, &d_y[at.clone()], t);
        if let (true, Some(d_c)) = (lstm, d_c) {
            pass.add_valid(&mut state.c, &d_c[at], t);
        }
        let gates = &mut gradients.gates[t * batch * rows..][..batch * rows];
        formulas.step_back(&pass, t, gates, &mut state);
    }
    gradients
}

impl GateGradients {
    /// Adds the gradients in the weights.
    pub fn add_to(&self, sums: &mut Gradients, spec: &Spec, input: &Input, (output, trace): &(Output, Trace)) {
        let (hidden, rows) = (spec.hidden, spec.rows());
        let n = input.steps * input.batch;
        if n == 0 {
            return;
        }
        add_outer(&mut sums.w, matrix(&self.gates, n, rows), matrix(input.x, n, spec.inputs));
        let (wb, rb) = sums.b.split_at_mut(rows);
        add_rows(wb, &self.gates, rows);
        let mut states = vec![0.; n * hidden];
        for (i, row) in states.chunks_exact_mut(hidden).enumerate() {
            let (t, b) = (i / input.batch, i % input.batch);
            if input.is_valid(t, b)
                && let Some(before) = previous(&output.y, input.h, input, hidden, t, b)
            {
                row.copy_from_slice(before);
            }
        }
        let steps = Steps { spec, gradients: &self.gates, trace, states, count: n };
        spec.kind.formulas().add_recurrent(&mut sums.r, rb, steps, input);
    }

    /// The gradient in `X`, `[T, B, I]`.
    pub fn inputs(&self, spec: &Spec, weights: &CellWeights) -> Vec<f32> {
        let rows = spec.rows();
        let n = self.gates.len() / rows.max(1);
        let mut d_x = vec![0.; n * spec.inputs];
        let sum = MatMut::from_row_major_slice_mut(&mut d_x, n, spec.inputs);
        let w = matrix(weights.w, rows, spec.inputs);
        matmul(sum, Accum::Replace, matrix(&self.gates, n, rows), w, 1., Par::Seq);
        d_x
    }
}

/// The gradients in `H` and `C` that go from a step to the one before it, `[B, H]`.
pub(super) struct State {
    pub h: Vec<f32>,
    /// Empty for a cell without `C`.
    pub c: Vec<f32>,
}

/// All steps of a pass, for the gradients in R and Rb: `N = T * B` rows each.
pub(super) struct Steps<'a> {
    pub spec: &'a Spec,
    /// In what goes into the gates, `[N, G*H]`; zeros at steps that are not valid.
    pub gradients: &'a [f32],
    pub trace: &'a Trace,
    /// `H` before the step, `[N, H]`; zeros at steps that are not valid.
    pub states: Vec<f32>,
    /// `N`.
    pub count: usize,
}

/// What the formulas of a step backward refer to.
pub(super) struct Pass<'a> {
    pub spec: &'a Spec,
    pub input: &'a Input<'a>,
    output: &'a Output,
    trace: &'a Trace,
    pub p: Option<&'a [f32]>,
    /// Of `f`, `g` and `h`.
    pub slopes: [Slope; 3],
    /// `R^T [H, G*H]`, of the gates whose R multiplies `H`.
    pub transposed: Vec<f32>,
    /// `R^T` of the other gates.
    pub transposed_others: Vec<f32>,
    /// `[H]`, for states that are not given.
    zeros: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(
        spec: &'a Spec,
        weights: &CellWeights<'a>,
        input: &'a Input<'a>,
        output: &'a Output,
        trace: &'a Trace,
    ) -> Pass<'a> {
        let hidden = spec.hidden;
        let by_state = spec.rows() - spec.kind.formulas().other_vectors() * hidden;
        let (r, r_others) = weights.r.split_at(by_state * hidden);
        Pass {
            spec,
            input,
            output,
            trace,
            p: weights.p,
            slopes: Slope::of(spec),
            transposed: transpose(r, hidden),
            transposed_others: transpose(r_others, hidden),
            zeros: vec![0.; hidden],
        }
    }

    /// The sequences that are valid at step `t`.
    pub(super) fn valid(&self, t: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.input.batch).filter(move |&b| self.input.is_valid(t, b))
    }

    fn add_valid(&self, sum: &mut [f32], term: &[f32], t: usize) {
        let hidden = self.spec.hidden;
        for b in self.valid(t) {
            let at = b * hidden..(b + 1) * hidden;
            sum[at.clone()].iter_mut().zip(&term[at]).for_each(|(sum, term)| *sum += term);
        }
    }

    /// The activated gates, `[G*H]`.
    pub(super) fn gates(&self, t: usize, b: usize) -> &[f32] {
        let rows = self.spec.rows();
        &self.trace.gates[(t * self.input.batch + b) * rows..][..rows]
    }

    /// What the trace keeps beside the gates, `[H]`.
    pub(super) fn inner(&self, t: usize, b: usize) -> &[f32] {
        let hidden = self.spec.hidden;
        &self.trace.inner[(t * self.input.batch + b) * hidden..][..hidden]
    }

    /// `H` before the step, `[H]`.
    pub(super) fn state_before(&self, t: usize, b: usize) -> &[f32] {
        previous(&self.output.y, self.input.h, self.input, self.spec.hidden, t, b).unwrap_or(&self.zeros)
    }

    /// `C` before the step, `[H]`.
    pub(super) fn cell_before(&self, t: usize, b: usize) -> &[f32] {
        previous(&self.trace.inner, self.input.c, self.input, self.spec.hidden, t, b).unwrap_or(&self.zeros)
    }
}

/// The row of sequence `b` in a `[T, B, H]` before step `t` in the order of the steps; `None` where that is an initial
/// state that is not given.
fn previous<'a>(
    rows: &'a [f32],
    initial: Option<&'a [f32]>,
    input: &Input,
    hidden: usize,
    t: usize,
    b: usize,
) -> Option<&'a [f32]> {
    let first = if input.reverse { input.lengths.map_or(input.steps, |lengths| lengths[b]) - 1 } else { 0 };
    if t == first {
        return initial.map(|rows| &rows[b * hidden..][..hidden]);
    }
    let before = if input.reverse { t + 1 } else { t - 1 };
    Some(&rows[(before * input.batch + b) * hidden..][..hidden])
}

fn transpose(a: &[f32], cols: usize) -> Vec<f32> {
    let rows = a.len() / cols.max(1);
    (0..a.len()).map(|i| a[i % rows * cols + i / rows]).collect()
}

pub(super) fn matrix(values: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, rows, cols)
}

/// `sum += a^T b` for `a [N, M]` and `b [N, K]`.
pub(super) fn add_outer(sum: &mut [f32], a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let sum = MatMut::from_row_major_slice_mut(sum, a.ncols(), b.ncols());
    matmul(sum, Accum::Add, a.transpose(), b, 1., Par::Seq);
}

pub(super) fn add_rows(sum: &mut [f32], rows: &[f32], cols: usize) {
    for row in rows.chunks_exact(cols) {
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
}

#[cfg(test)]
mod tests;
