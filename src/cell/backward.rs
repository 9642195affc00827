//! Back-propagation through time of one direction: the chain rule through the formulas of [`super`].
//!
//! [`backward`] takes the gradients of a loss in `Y` (and `C`) to those in what goes into the gates, step by step from
//! the last to the first. The gradients in the weights and in `X` are products of those with what was multiplied, over
//! all steps at once: [`GateGradients::add_to`] and [`GateGradients::inputs`].
//!
//! Derivatives of activations are computed from their values, so nothing but the values is kept of the forward pass.
//! Everything runs on the calling thread; steps at or past a sequence's length pass gradients on and add none.

use super::effect::Slope;
use super::product::add_product;
use super::{Input, Kind, Output, Spec, Trace, Weights};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Gradients of a loss in the weights of one direction, in the shapes of [`Weights`].
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
    /// GRU with `linear_before_reset`: in `H R^T + Rb` of the gate `h`, `[T, B, H]`. Else empty.
    inner: Vec<f32>,
}

/// The gradients in what goes into the gates, of a loss with the gradients `d_y` in `Y` and `d_c` in the `C` of every
/// step, both `[T, B, H]`. What `d_y` and `d_c` hold for steps that are not valid does not count.
///
/// # Panics
/// If a slice has not the length that its documentation says, or if an activation
/// [has no slope by its value](super::Activation::has_slope_by_value).
pub fn backward(
    spec: &Spec,
    weights: &Weights,
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
    let after = spec.kind == Kind::Gru { linear_before_reset: true };
    let pass = Pass::new(spec, weights, input, output, trace);
    let mut gradients = GateGradients {
        gates: vec![0.; input.steps * batch * rows],
        inner: vec![0.; if after { d_y.len() } else { 0 }],
    };
    let lstm = spec.kind.has_cell_state();
    let mut state = State { h: vec![0.; batch * hidden], c: vec![0.; if lstm { batch * hidden } else { 0 }] };
    let mut times: Vec<usize> = input.times().collect();
    times.reverse();
    for t in times {
        let at = t * batch * hidden..(t + 1) * batch * hidden;
        pass.add_valid(&mut state.h, &d_y[at.clone()], t);
        if let (true, Some(d_c)) = (lstm, d_c) {
            pass.add_valid(&mut state.c, &d_c[at.clone()], t);
        }
        let gates = &mut gradients.gates[t * batch * rows..][..batch * rows];
        match spec.kind {
            Kind::Lstm { input_forget } => pass.lstm(t, gates, &mut state, input_forget),
            Kind::Gru { linear_before_reset: true } => {
                pass.gru_reset_after(t, gates, &mut gradients.inner[at], &mut state);
            }
            Kind::Gru { linear_before_reset: false } => pass.gru_reset_before(t, gates, &mut state),
            Kind::Rnn => pass.rnn(t, gates, &mut state),
        }
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
        let gates = matrix(&self.gates, n, rows);
        let Kind::Gru { linear_before_reset } = spec.kind else {
            add_outer(&mut sums.r, gates, matrix(&states, n, hidden));
            add_rows(rb, &self.gates, rows);
            return;
        };
        let (zr, h) = sums.r.split_at_mut(2 * hidden * hidden);
        add_outer(zr, gates.subcols(0, 2 * hidden), matrix(&states, n, hidden));
        if linear_before_reset {
            add_outer(h, matrix(&self.inner, n, hidden), matrix(&states, n, hidden));
            for row in self.gates.chunks_exact(rows) {
                rb.iter_mut().zip(&row[..2 * hidden]).for_each(|(sum, d)| *sum += d);
            }
            add_rows(&mut rb[2 * hidden..], &self.inner, hidden);
        } else {
            for (state, gates) in states.chunks_exact_mut(hidden).zip(trace.gates.chunks_exact(rows)) {
                state.iter_mut().zip(&gates[hidden..]).for_each(|(h, r)| *h *= r);
            }
            add_outer(h, gates.subcols(2 * hidden, hidden), matrix(&states, n, hidden));
            add_rows(rb, &self.gates, rows);
        }
    }

    /// The gradient in `X`, `[T, B, I]`.
    pub fn inputs(&self, spec: &Spec, weights: &Weights) -> Vec<f32> {
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
struct State {
    h: Vec<f32>,
    c: Vec<f32>,
}

struct Pass<'a> {
    spec: &'a Spec,
    input: &'a Input<'a>,
    output: &'a Output,
    trace: &'a Trace,
    p: Option<&'a [f32]>,
    /// Of `f`, `g` and `h`.
    slopes: [Slope; 3],
    /// `R^T [H, G*H]`; only `[H, 2*H]` of `z` and `r` for a GRU that resets before the product.
    transposed: Vec<f32>,
    /// `R^T [H, H]` of `h` for that GRU.
    transposed_h: Vec<f32>,
    /// `[H]`, for states that are not given.
    zeros: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(
        spec: &'a Spec,
        weights: &Weights<'a>,
        input: &'a Input<'a>,
        output: &'a Output,
        trace: &'a Trace,
    ) -> Pass<'a> {
        let hidden = spec.hidden;
        let before = spec.kind == Kind::Gru { linear_before_reset: false };
        let at_once = if before { 2 * hidden } else { spec.rows() };
        let (r, r_h) = weights.r.split_at(at_once * hidden);
        Pass {
            spec,
            input,
            output,
            trace,
            p: weights.p,
            slopes: Slope::of(spec),
            transposed: transpose(r, hidden),
            transposed_h: transpose(r_h, hidden),
            zeros: vec![0.; hidden],
        }
    }

    fn valid(&self, t: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.input.batch).filter(move |&b| self.input.is_valid(t, b))
    }

    fn add_valid(&self, sum: &mut [f32], term: &[f32], t: usize) {
        let hidden = self.spec.hidden;
        for b in self.valid(t) {
            let at = b * hidden..(b + 1) * hidden;
            sum[at.clone()].iter_mut().zip(&term[at]).for_each(|(sum, term)| *sum += term);
        }
    }

    fn gates(&self, t: usize, b: usize) -> &[f32] {
        let rows = self.spec.rows();
        &self.trace.gates[(t * self.input.batch + b) * rows..][..rows]
    }

    fn inner(&self, t: usize, b: usize) -> &[f32] {
        let hidden = self.spec.hidden;
        &self.trace.inner[(t * self.input.batch + b) * hidden..][..hidden]
    }

    fn state_before(&self, t: usize, b: usize) -> &[f32] {
        previous(&self.output.y, self.input.h, self.input, self.spec.hidden, t, b).unwrap_or(&self.zeros)
    }

    fn cell_before(&self, t: usize, b: usize) -> &[f32] {
        previous(&self.trace.inner, self.input.c, self.input, self.spec.hidden, t, b).unwrap_or(&self.zeros)
    }

    fn lstm(&self, t: usize, d: &mut [f32], state: &mut State, input_forget: bool) {
        let hidden = self.spec.hidden;
        let [f, g, h] = self.slopes;
        let mut squashed = vec![0.; hidden];
        for b in self.valid(t) {
            let (values, before) = (self.gates(t, b), self.cell_before(t, b));
            squashed.copy_from_slice(self.inner(t, b));
            self.spec.activations[2].apply(&mut squashed);
            let d = &mut d[b * 4 * hidden..][..4 * hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            let d_c = &mut state.c[b * hidden..][..hidden];
            for j in 0..hidden {
                let [i, o, forget, candidate] = [0, 1, 2, 3].map(|gate| values[gate * hidden + j]);
                let p = |gate: usize| self.p.map_or(0., |p| p[gate * hidden + j]);
                let d_o = d_h[j] * squashed[j] * f.at(o);
                let d_cell = d_c[j] + d_h[j] * o * h.at(squashed[j]) + d_o * p(1);
                let (mut d_i, mut d_f) = (d_cell * candidate, d_cell * before[j]);
                if input_forget {
                    (d_i, d_f) = (d_i - d_f, 0.);
                }
                d_i *= f.at(i);
                d_f *= f.at(forget);
                d_c[j] = d_cell * forget + d_i * p(0) + d_f * p(2);
                d[j] = d_i;
                d[hidden + j] = d_o;
                d[2 * hidden + j] = d_f;
                d[3 * hidden + j] = d_cell * i * g.at(candidate);
            }
            d_h.fill(0.);
        }
        // The rows of sequences that are not valid at this step are zeros: their gradient passes.
        add_product(&mut state.h, hidden, d, &self.transposed, hidden, 4 * hidden);
    }

    fn rnn(&self, t: usize, d: &mut [f32], state: &mut State) {
        let hidden = self.spec.hidden;
        let [f, ..] = self.slopes;
        for b in self.valid(t) {
            let d = &mut d[b * hidden..][..hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            for ((d, d_h), &value) in d.iter_mut().zip(&*d_h).zip(self.gates(t, b)) {
                *d = d_h * f.at(value);
            }
            d_h.fill(0.);
        }
        add_product(&mut state.h, hidden, d, &self.transposed, hidden, hidden);
    }

    fn gru_reset_after(&self, t: usize, d: &mut [f32], d_inner: &mut [f32], state: &mut State) {
        let hidden = self.spec.hidden;
        let [f, g, _] = self.slopes;
        // What goes through R: the gradients in z, r and `H R^T + Rb`.
        let mut through = vec![0.; d.len()];
        for b in self.valid(t) {
            let (values, inner, before) = (self.gates(t, b), self.inner(t, b), self.state_before(t, b));
            let d = &mut d[b * 3 * hidden..][..3 * hidden];
            let d_inner = &mut d_inner[b * hidden..][..hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            for j in 0..hidden {
                let [z, r, candidate] = [0, 1, 2].map(|gate| values[gate * hidden + j]);
                let d_candidate = d_h[j] * (1. - z) * g.at(candidate);
                d[j] = d_h[j] * (before[j] - candidate) * f.at(z);
                d[hidden + j] = d_candidate * inner[j] * f.at(r);
                d[2 * hidden + j] = d_candidate;
                d_inner[j] = d_candidate * r;
                d_h[j] *= z;
            }
            let through = &mut through[b * 3 * hidden..][..3 * hidden];
            through[..2 * hidden].copy_from_slice(&d[..2 * hidden]);
            through[2 * hidden..].copy_from_slice(d_inner);
        }
        add_product(&mut state.h, hidden, &through, &self.transposed, hidden, 3 * hidden);
    }

    fn gru_reset_before(&self, t: usize, d: &mut [f32], state: &mut State) {
        let (hidden, batch) = (self.spec.hidden, self.input.batch);
        let [f, g, _] = self.slopes;
        let mut d_candidate = vec![0.; batch * hidden];
        for b in self.valid(t) {
            let values = self.gates(t, b);
            for j in 0..hidden {
                let [z, candidate] = [0, 2].map(|gate| values[gate * hidden + j]);
                d_candidate[b * hidden + j] = state.h[b * hidden + j] * (1. - z) * g.at(candidate);
            }
        }
        let mut d_reset = vec![0.; batch * hidden];
        add_product(&mut d_reset, hidden, &d_candidate, &self.transposed_h, hidden, hidden);
        let mut through = vec![0.; batch * 2 * hidden];
        for b in self.valid(t) {
            let (values, before) = (self.gates(t, b), self.state_before(t, b));
            let d = &mut d[b * 3 * hidden..][..3 * hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            let at = b * hidden..(b + 1) * hidden;
            for (j, (d_reset, d_candidate)) in d_reset[at.clone()].iter().zip(&d_candidate[at]).enumerate() {
                let [z, r, candidate] = [0, 1, 2].map(|gate| values[gate * hidden + j]);
                d[j] = d_h[j] * (before[j] - candidate) * f.at(z);
                d[hidden + j] = d_reset * before[j] * f.at(r);
                d[2 * hidden + j] = *d_candidate;
                d_h[j] = d_h[j] * z + d_reset * r;
            }
            through[b * 2 * hidden..][..2 * hidden].copy_from_slice(&d[..2 * hidden]);
        }
        add_product(&mut state.h, hidden, &through, &self.transposed, hidden, 2 * hidden);
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

fn matrix(values: &[f32], rows: usize, cols: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(values, rows, cols)
}

/// `sum += a^T b` for `a [N, M]` and `b [N, K]`.
fn add_outer(sum: &mut [f32], a: MatRef<'_, f32>, b: MatRef<'_, f32>) {
    let sum = MatMut::from_row_major_slice_mut(sum, a.ncols(), b.ncols());
    matmul(sum, Accum::Add, a.transpose(), b, 1., Par::Seq);
}

fn add_rows(sum: &mut [f32], rows: &[f32], cols: usize) {
    for row in rows.chunks_exact(cols) {
        sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
}

#[cfg(test)]
mod tests;
