//! The formulas of the RNN, gate `i`: `H' = f(X W^T + H R^T + b)`.

use super::Output;
use super::backward::{Pass, State};
use super::effect::{Effect, SequenceStep};
use super::formulas::Formulas;
use super::product::add_product;
use super::step::{Activate, Forward};

/// The RNN.
pub(super) struct Rnn;

impl Formulas for Rnn {
    fn step(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool) {
        let hidden = at.spec.hidden;
        let (activation, clip) = (at.spec.activations[0], at.spec.clip);
        let sequences = gates.chunks_exact_mut(hidden).zip(out.h.chunks_exact_mut(hidden));
        for (_, (gates, state)) in sequences.enumerate().filter(|(b, _)| valid(*b)) {
            at.arch.dispatch(Activate { gates, activation, clip });
            state.copy_from_slice(gates);
        }
    }

    fn step_back(&mut self, pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State) {
        let hidden = pass.spec.hidden;
        let [f, ..] = pass.slopes;
        for b in pass.valid(t) {
            let d = &mut gradients[b * hidden..][..hidden];
            let d_h = &mut state.h[b * hidden..][..hidden];
            for ((d, d_h), &value) in d.iter_mut().zip(&*d_h).zip(pass.gates(t, b)) {
                *d = d_h * f.at(value);
            }
            d_h.fill(0.);
        }
        add_product(&mut state.h, hidden, gradients, &pass.transposed, hidden, hidden);
    }

    fn add_squares(&mut self, of: &Effect<'_>, step: &SequenceStep<'_>, sums: &mut [f64]) {
        let [f, ..] = of.slopes;
        for &value in &step.gates[..of.spec.hidden] {
            let d = f.at(value);
            sums[0] += f64::from(d * d);
        }
    }
}
