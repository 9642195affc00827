//! The formulas of the LSTM, gates `i o f c`:
//! `i, f = f(X W^T + H R^T + P (.) C + b)`, `c~ = g(X W^T + H R^T + b)`, `C' = f (.) C + i (.) c~`,
//! `o = f(X W^T + H R^T + P (.) C' + b)`, `H' = o (.) h(C')`. With `input_forget`, `f = 1 - i`.

use super::backward::{Pass, State};
use super::effect::{Effect, SequenceStep};
use super::formulas::Formulas;
use super::product::add_product;
use super::step::{Forward, bound};
use super::{Output, Spec};
use pulp::{Simd, WithSimd};

/// The LSTM.
pub(super) struct Lstm {
    input_forget: bool,
    /// `h(C')` of one sequence, `[H]`.
    squashed: Vec<f32>,
}

impl Lstm {
    pub(super) fn new(input_forget: bool) -> Lstm {
        Lstm { input_forget, squashed: Vec::new() }
    }
}

impl Formulas for Lstm {
    fn step(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool) {
        let hidden = at.spec.hidden;
        self.squashed.resize(hidden, 0.);
        let sequences = gates.chunks_exact_mut(4 * hidden);
        let states = out.h.chunks_exact_mut(hidden).zip(out.c.chunks_exact_mut(hidden));
        for (_, (gates, (state, cell))) in sequences.zip(states).enumerate().filter(|(b, _)| valid(*b)) {
            let (spec, p, input_forget, squashed) = (at.spec, at.weights.p, self.input_forget, &mut self.squashed[..]);
            at.arch.dispatch(Gates { spec, p, input_forget, gates, cell, state, squashed });
        }
    }

    fn inner<'a>(&'a self, out: &'a Output) -> Option<&'a [f32]> {
        Some(&out.c)
    }

    fn step_back(&mut self, pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State) {
        let hidden = pass.spec.hidden;
        let [f, g, h] = pass.slopes;
        self.squashed.resize(hidden, 0.);
        let squashed = &mut self.squashed;
        for b in pass.valid(t) {
            let (values, before) = (pass.gates(t, b), pass.cell_before(t, b));
            squashed.copy_from_slice(pass.inner(t, b));
            pass.spec.activations[2].apply(squashed);
            let d = &mut gradients[b * 4 * hidden..][..4 * hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            let d_c = &mut state.c[b * hidden..][..hidden];
            for j in 0..hidden {
                let [i, o, forget, candidate] = [0, 1, 2, 3].map(|gate| values[gate * hidden + j]);
                let p = |gate: usize| pass.p.map_or(0., |p| p[gate * hidden + j]);
                let d_o = d_h[j] * squashed[j] * f.at(o);
                let d_cell = d_c[j] + d_h[j] * o * h.at(squashed[j]) + d_o * p(1);
                let (mut d_i, mut d_f) = (d_cell * candidate, d_cell * before[j]);
                if self.input_forget {
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
        add_product(&mut state.h, hidden, gradients, &pass.transposed, hidden, 4 * hidden);
    }

    fn add_squares(&mut self, of: &Effect<'_>, step: &SequenceStep<'_>, sums: &mut [f64]) {
        let hidden = of.spec.hidden;
        let [f, g, h] = of.slopes;
        self.squashed.resize(hidden, 0.);
        self.squashed.copy_from_slice(step.inner);
        of.spec.activations[2].apply(&mut self.squashed);
        for j in 0..hidden {
            let [i, o, forget, candidate] = [0, 1, 2, 3].map(|gate| step.gates[gate * hidden + j]);
            let mut add = |gate: usize, d: f32| sums[gate] += f64::from(d * d);
            let squashed = self.squashed[j];
            let d_o = squashed * f.at(o);
            let d_cell = o * h.at(squashed) + d_o * of.weights.p.map_or(0., |p| p[hidden + j]);
            // Coupled gates: f = 1 - i, whatever goes into the forget gate.
            let (of_i, of_f) =
                if self.input_forget { (candidate - step.c[j], 0.) } else { (candidate, step.c[j] * f.at(forget)) };
            add(0, d_cell * of_i * f.at(i));
            add(1, d_o);
            add(2, d_cell * of_f);
            add(3, d_cell * i * g.at(candidate));
        }
    }
}

/// All gates for one sequence, then its new states.
struct Gates<'a> {
    spec: &'a Spec,
    p: Option<&'a [f32]>,
    input_forget: bool,
    gates: &'a mut [f32],
    cell: &'a mut [f32],
    state: &'a mut [f32],
    squashed: &'a mut [f32],
}

impl WithSimd for Gates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Gates { spec, p, input_forget, gates, cell, state, squashed } = self;
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

/// `gate += P (.) C`.
#[inline(always)]
fn add_peephole(gate: &mut [f32], p: &[f32], cell: &[f32]) {
    gate.iter_mut().zip(p).zip(cell).for_each(|((gate, p), cell)| *gate += p * cell);
}
