//! One step of a cell over a batch: the recurrent product, then the gates.

use super::product::add_product;
use super::{Kind, Output, Spec, Weights};
use pulp::Arch;

/// A cell ready to be stepped, with the buffers that its steps share.
pub(super) struct Step<'a> {
    spec: &'a Spec,
    weights: &'a Weights<'a>,
    /// GRU: what the reset gate is applied to or has been applied to, `[B, H]`.
    reset: Vec<f32>,
    /// `h(C')` of one sequence, `[H]`.
    squashed: Vec<f32>,
}

impl<'a> Step<'a> {
    pub(super) fn new(spec: &'a Spec, weights: &'a Weights<'a>, batch: usize) -> Self {
        let reset = if matches!(spec.kind, Kind::Gru { .. }) { batch * spec.hidden } else { 0 };
        Step { spec, weights, reset: vec![0.; reset], squashed: vec![0.; spec.hidden] }
    }

    /// The biases that are added outside the recurrence, `[G*H]`: all but the `Rb` that a reset gate scales.
    pub(super) fn input_bias(&self) -> Vec<f32> {
        let (rows, hidden) = (self.spec.rows(), self.spec.hidden);
        let Some(b) = self.weights.b else { return vec![0.; rows] };
        let mut bias = b[..rows].to_vec();
        let outside = if self.resets_after() { 2 * hidden } else { rows };
        bias[..outside].iter_mut().zip(&b[rows..]).for_each(|(bias, rb)| *bias += rb);
        bias
    }

    /// GRU with `linear_before_reset`: `H R^T + Rb` of the gate `h` in the last step, `[B, H]`.
    pub(super) fn reset_input(&self) -> &[f32] {
        &self.reset
    }

    fn resets_after(&self) -> bool {
        self.spec.kind == Kind::Gru { linear_before_reset: true }
    }

    /// Takes the states in `out` one step further. `gates [B, G*H]` comes in as `X W^T + bias` and is left as the
    /// activated gates. Sequences that are not `valid` at this step keep their state.
    pub(super) fn advance(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        match self.spec.kind {
            Kind::Lstm { input_forget } => self.lstm(gates, out, input_forget, valid),
            Kind::Gru { linear_before_reset: true } => self.gru_reset_after(gates, out, valid),
            Kind::Gru { linear_before_reset: false } => self.gru_reset_before(gates, out, valid),
        }
    }

    fn lstm(&mut self, gates: &mut [f32], out: &mut Output, input_forget: bool, valid: impl Fn(usize) -> bool) {
        let Spec { hidden, activations: [f, g, h], clip, .. } = *self.spec;
        add_product(gates, 4 * hidden, &out.h, self.weights.r, 4 * hidden, hidden);
        let squashed = &mut self.squashed[..];
        let p = self.weights.p;
        Arch::new().dispatch(|| {
            for (b, gates) in gates.chunks_exact_mut(4 * hidden).enumerate().filter(|(b, _)| valid(*b)) {
                let cell = &mut out.c[b * hidden..][..hidden];
                let state = &mut out.h[b * hidden..][..hidden];
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
        });
    }

    fn gru_reset_after(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let Spec { hidden, activations: [f, g, _], clip, .. } = *self.spec;
        let rows = 3 * hidden;
        let (r_zr, r_h) = self.weights.r.split_at(2 * hidden * hidden);
        add_product(gates, rows, &out.h, r_zr, 2 * hidden, hidden);
        match self.weights.b {
            None => self.reset.fill(0.),
            Some(b) => self.reset.chunks_exact_mut(hidden).for_each(|c| c.copy_from_slice(&b[rows + 2 * hidden..])),
        }
        add_product(&mut self.reset, hidden, &out.h, r_h, hidden, hidden);
        let reset = &self.reset;
        Arch::new().dispatch(|| {
            for (b, gates) in gates.chunks_exact_mut(rows).enumerate().filter(|(b, _)| valid(*b)) {
                let state = &mut out.h[b * hidden..][..hidden];
                let (zr, candidate) = gates.split_at_mut(2 * hidden);
                bound(zr, clip);
                f.apply_inline(zr);
                let (z, r) = zr.split_at(hidden);
                for ((candidate, r), inner) in candidate.iter_mut().zip(r).zip(&reset[b * hidden..]) {
                    *candidate += r * inner;
                }
                bound(candidate, clip);
                g.apply_inline(candidate);
                blend(state, z, candidate);
            }
        });
    }

    fn gru_reset_before(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let Spec { hidden, activations: [f, g, _], clip, .. } = *self.spec;
        let rows = 3 * hidden;
        let (r_zr, r_h) = self.weights.r.split_at(2 * hidden * hidden);
        add_product(gates, rows, &out.h, r_zr, 2 * hidden, hidden);
        let reset = &mut self.reset;
        Arch::new().dispatch(|| {
            for (b, gates) in gates.chunks_exact_mut(rows).enumerate() {
                let zr = &mut gates[..2 * hidden];
                bound(zr, clip);
                f.apply_inline(zr);
                let (r, state) = (&zr[hidden..], &out.h[b * hidden..]);
                for ((reset, r), state) in reset[b * hidden..][..hidden].iter_mut().zip(r).zip(state) {
                    *reset = r * state;
                }
            }
        });
        add_product(&mut gates[2 * hidden..], rows, &self.reset, r_h, hidden, hidden);
        Arch::new().dispatch(|| {
            for (b, gates) in gates.chunks_exact_mut(rows).enumerate().filter(|(b, _)| valid(*b)) {
                let (zr, candidate) = gates.split_at_mut(2 * hidden);
                bound(candidate, clip);
                g.apply_inline(candidate);
                blend(&mut out.h[b * hidden..][..hidden], &zr[..hidden], candidate);
            }
        });
    }
}

/// `gate += P (.) C`.
#[inline(always)]
fn add_peephole(gate: &mut [f32], p: &[f32], cell: &[f32]) {
    gate.iter_mut().zip(p).zip(cell).for_each(|((gate, p), cell)| *gate += p * cell);
}

/// `H' = (1 - z) (.) h~ + z (.) H`.
#[inline(always)]
fn blend(state: &mut [f32], z: &[f32], candidate: &[f32]) {
    state.iter_mut().zip(z).zip(candidate).for_each(|((state, z), c)| *state = (1. - z) * c + z * *state);
}

#[inline(always)]
fn bound(gate: &mut [f32], clip: Option<f32>) {
    if let Some(clip) = clip {
        gate.iter_mut().for_each(|v| *v = v.max(-clip).min(clip));
    }
}
