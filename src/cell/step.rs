//! One step of a cell over a batch: the recurrent product, then the gates.
//!
//! The gates of one sequence are a [`WithSimd`] each, not a closure: only their bodies are sure to be compiled for the
//! vector instructions that the CPU turns out to have.

use super::product::add_product;
use super::{Kind, Output, Spec, Weights, int8};
use pulp::{Arch, Simd, WithSimd};

/// A cell ready to be stepped, with the buffers that its steps share.
pub(super) struct Step<'a> {
    spec: &'a Spec,
    weights: &'a Weights<'a>,
    arch: Arch,
    /// GRU: what the reset gate is applied to or has been applied to, `[B, H]`.
    reset: Vec<f32>,
    /// `h(C')` of one sequence, `[H]`.
    squashed: Vec<f32>,
    /// H as it is multiplied, `[B, H]`, where it is rounded to eight bits before; else empty.
    rounded: Vec<f32>,
}

impl<'a> Step<'a> {
    pub(super) fn new(spec: &'a Spec, weights: &'a Weights<'a>, batch: usize, int8: bool) -> Self {
        let rounded = vec![0.; if int8 { batch * spec.hidden } else { 0 }];
        let reset = if matches!(spec.kind, Kind::Gru { .. }) { batch * spec.hidden } else { 0 };
        Step { spec, weights, arch: Arch::new(), reset: vec![0.; reset], squashed: vec![0.; spec.hidden], rounded }
    }

    /// The biases that are added outside the recurrence, `[G*H]`: all but the `Rb` that a reset gate scales.
    pub(super) fn input_bias(&self) -> Vec<f32> {
        let (rows, hidden) = (self.spec.rows(), self.spec.hidden);
        let Some(b) = self.weights.b else { return vec![0.; rows] };
        let mut bias = b[..rows].to_vec();
        let outside = if self.spec.kind == (Kind::Gru { linear_before_reset: true }) { 2 * hidden } else { rows };
        bias[..outside].iter_mut().zip(&b[rows..]).for_each(|(bias, rb)| *bias += rb);
        bias
    }

    /// GRU with `linear_before_reset`: `H R^T + Rb` of the gate `h` in the last step, `[B, H]`.
    pub(super) fn reset_input(&self) -> &[f32] {
        &self.reset
    }

    /// Takes the states in `out` one step further. `gates [B, G*H]` comes in as `X W^T + bias` and is left as the
    /// activated gates. Sequences that are not `valid` at this step keep their state.
    pub(super) fn advance(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        match self.spec.kind {
            Kind::Lstm { input_forget } => self.lstm(gates, out, input_forget, valid),
            Kind::Gru { linear_before_reset: true } => self.gru_reset_after(gates, out, valid),
            Kind::Gru { linear_before_reset: false } => self.gru_reset_before(gates, out, valid),
            Kind::Rnn => self.rnn(gates, out, valid),
        }
    }

    fn rnn(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let hidden = self.spec.hidden;
        add_product(gates, hidden, &out.h, self.weights.r, hidden, hidden);
        let sequences = gates.chunks_exact_mut(hidden).zip(out.h.chunks_exact_mut(hidden));
        for (_, (gates, state)) in sequences.enumerate().filter(|(b, _)| valid(*b)) {
            self.arch.dispatch(FirstGates { spec: self.spec, gates });
            state.copy_from_slice(gates);
        }
    }

    fn lstm(&mut self, gates: &mut [f32], out: &mut Output, input_forget: bool, valid: impl Fn(usize) -> bool) {
        let hidden = self.spec.hidden;
        let mut h = &out.h;
        if !self.rounded.is_empty() {
            self.rounded.copy_from_slice(h);
            int8::round(&mut self.rounded);
            h = &self.rounded;
        }
        add_product(gates, 4 * hidden, h, self.weights.r, 4 * hidden, hidden);
        let sequences = gates.chunks_exact_mut(4 * hidden);
        let states = out.h.chunks_exact_mut(hidden).zip(out.c.chunks_exact_mut(hidden));
        for (_, (gates, (state, cell))) in sequences.zip(states).enumerate().filter(|(b, _)| valid(*b)) {
            let (spec, p, squashed) = (self.spec, self.weights.p, &mut self.squashed[..]);
            self.arch.dispatch(LstmGates { spec, p, input_forget, gates, cell, state, squashed });
        }
    }

    fn gru_reset_after(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let hidden = self.spec.hidden;
        let rows = 3 * hidden;
        let (r_zr, r_h) = self.weights.r.split_at(2 * hidden * hidden);
        add_product(gates, rows, &out.h, r_zr, 2 * hidden, hidden);
        match self.weights.b {
            None => self.reset.fill(0.),
            Some(b) => self.reset.chunks_exact_mut(hidden).for_each(|c| c.copy_from_slice(&b[rows + 2 * hidden..])),
        }
        add_product(&mut self.reset, hidden, &out.h, r_h, hidden, hidden);
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact_mut(hidden));
        let inner = self.reset.chunks_exact_mut(hidden);
        for (_, ((gates, state), inner)) in sequences.zip(inner).enumerate().filter(|(b, _)| valid(*b)) {
            let (first, candidate) = gates.split_at_mut(2 * hidden);
            self.arch.dispatch(FirstGates { spec: self.spec, gates: first });
            self.arch.dispatch(AddReset { candidate, r: &first[hidden..], inner });
            self.arch.dispatch(Blend { spec: self.spec, z: &first[..hidden], candidate, state });
        }
    }

    fn gru_reset_before(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let hidden = self.spec.hidden;
        let rows = 3 * hidden;
        let (r_zr, r_h) = self.weights.r.split_at(2 * hidden * hidden);
        add_product(gates, rows, &out.h, r_zr, 2 * hidden, hidden);
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact(hidden));
        for ((gates, state), reset) in sequences.zip(self.reset.chunks_exact_mut(hidden)) {
            let first = &mut gates[..2 * hidden];
            self.arch.dispatch(FirstGates { spec: self.spec, gates: first });
            reset.iter_mut().zip(&first[hidden..]).zip(state).for_each(|((reset, r), h)| *reset = r * h);
        }
        add_product(&mut gates[2 * hidden..], rows, &self.reset, r_h, hidden, hidden);
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact_mut(hidden));
        for (_, (gates, state)) in sequences.enumerate().filter(|(b, _)| valid(*b)) {
            let (first, candidate) = gates.split_at_mut(2 * hidden);
            self.arch.dispatch(Blend { spec: self.spec, z: &first[..hidden], candidate, state });
        }
    }
}

/// All gates of an LSTM for one sequence, then its new states.
struct LstmGates<'a> {
    spec: &'a Spec,
    p: Option<&'a [f32]>,
    input_forget: bool,
    gates: &'a mut [f32],
    cell: &'a mut [f32],
    state: &'a mut [f32],
    squashed: &'a mut [f32],
}

impl WithSimd for LstmGates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let LstmGates { spec, p, input_forget, gates, cell, state, squashed } = self;
        let Spec { hidden, activations: [f, g, h], clip, .. } = *spec;
        let (i, rest) = gates.split_at_mut(hidden);
        let (o, rest) = rest.split_at_mut(hidden);
        let (forget, candidate) = rest.split_at_mut(hidden);
        if let Some(p) = p {
            add_peephole(i, &p[..hidden], cell);
            add_peephole(forget, &p[2 * hidden..], cell);
        }
        for (gate, activation) in [(&mut *i, f), (&mut *forget, f), (&mut *candidate, g)] {
            bound(gate, clip);
            activation.apply_inline(gate);
        }
        if input_forget {
            forget.iter_mut().zip(&*i).for_each(|(f, i)| *f = 1. - i);
        }
        for (((cell, f), i), candidate) in cell.iter_mut().zip(&*forget).zip(&*i).zip(&*candidate) {
            *cell = f * *cell + i * candidate;
        }
        if let Some(p) = p {
            add_peephole(o, &p[hidden..2 * hidden], cell);
        }
        bound(o, clip);
        f.apply_inline(o);
        squashed.copy_from_slice(cell);
        h.apply_inline(squashed);
        state.iter_mut().zip(&*o).zip(&*squashed).for_each(|((state, o), s)| *state = o * s);
    }
}

/// Gates whose activation is `f`, for one sequence: `z` and `r` of a GRU, the one of an RNN.
struct FirstGates<'a> {
    spec: &'a Spec,
    gates: &'a mut [f32],
}

impl WithSimd for FirstGates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        bound(self.gates, self.spec.clip);
        self.spec.activations[0].apply_inline(self.gates);
    }
}

/// `h~ += r (.) inner`, before its activation.
struct AddReset<'a> {
    candidate: &'a mut [f32],
    r: &'a [f32],
    inner: &'a [f32],
}

impl WithSimd for AddReset<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        self.candidate.iter_mut().zip(self.r).zip(self.inner).for_each(|((c, r), inner)| *c += r * inner);
    }
}

/// The activation of gate `h` of a GRU for one sequence, then `H' = (1 - z) (.) h~ + z (.) H`.
struct Blend<'a> {
    spec: &'a Spec,
    z: &'a [f32],
    candidate: &'a mut [f32],
    state: &'a mut [f32],
}

impl WithSimd for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Blend { spec, z, candidate, state } = self;
        bound(candidate, spec.clip);
        spec.activations[1].apply_inline(candidate);
        state.iter_mut().zip(z).zip(&*candidate).for_each(|((state, z), c)| *state = (1. - z) * c + z * *state);
    }
}

/// `gate += P (.) C`.
#[inline(always)]
fn add_peephole(gate: &mut [f32], p: &[f32], cell: &[f32]) {
    gate.iter_mut().zip(p).zip(cell).for_each(|((gate, p), cell)| *gate += p * cell);
}

#[inline(always)]
fn bound(gate: &mut [f32], clip: Option<f32>) {
    if let Some(clip) = clip {
        gate.iter_mut().for_each(|v| *v = v.max(-clip).min(clip));
    }
}
