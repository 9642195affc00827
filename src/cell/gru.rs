//! The formulas of the GRU, gates `z r h`: `z, r = f(X W^T + H R^T + b)`, `h~ = g(X W^T + (r (.) H) R^T + b)`, or with
//! `linear_before_reset` `h~ = g(X W^T + Wb + r (.) (H R^T + Rb))`; `H' = (1 - z) (.) h~ + z (.) H`.

use super::backward::{Pass, State, Steps, add_outer, add_rows, matrix};
use super::effect::{Effect, SequenceStep};
use super::formulas::Formulas;
use super::product::add_product;
use super::step::{Activate, Forward, bound};
use super::{Input, Output, Spec};
use pulp::{Simd, WithSimd};

/// The GRU.
pub(super) struct Gru {
    linear_before_reset: bool,
    /// With `linear_before_reset` `H R^T + Rb` of the gate `h`, else `r (.) H`, in the last step, `[B, H]`.
    reset: Vec<f32>,
    /// The root mean square, over units, of the length of their columns in R of the gate `h`.
    column: Option<f32>,
}

impl Gru {
    pub(super) fn new(linear_before_reset: bool) -> Gru {
        Gru { linear_before_reset, reset: Vec::new(), column: None }
    }
}

impl Formulas for Gru {
    fn step(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool) {
        self.reset.resize(out.h.len(), 0.);
        if self.linear_before_reset {
            self.reset_after(at, gates, out, valid);
        } else {
            self.reset_before(at, gates, out, valid);
        }
    }

    fn own_products(&self) -> usize {
        1
    }

    fn own_biases(&self) -> usize {
        usize::from(self.linear_before_reset)
    }

    fn other_vectors(&self) -> usize {
        usize::from(!self.linear_before_reset)
    }

    fn inner<'a>(&'a self, _out: &'a Output) -> Option<&'a [f32]> {
        self.linear_before_reset.then_some(&self.reset)
    }

    fn step_back(&mut self, pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State) {
        if self.linear_before_reset {
            back_reset_after(pass, t, gradients, state);
        } else {
            back_reset_before(pass, t, gradients, state);
        }
    }

    fn add_recurrent(&self, r: &mut [f32], rb: &mut [f32], mut steps: Steps<'_>, input: &Input<'_>) {
        let Steps { spec, gradients, trace, count, .. } = steps;
        let (hidden, rows) = (spec.hidden, spec.rows());
        let gates = matrix(gradients, count, rows);
        let (zr, h) = r.split_at_mut(2 * hidden * hidden);
        add_outer(zr, gates.subcols(0, 2 * hidden), matrix(&steps.states, count, hidden));
        if self.linear_before_reset {
            // In `H R^T + Rb`: zeros at the steps that are not valid.
            let mut inner = vec![0.; count * hidden];
            let each =
                inner.chunks_exact_mut(hidden).zip(gradients.chunks_exact(rows).zip(trace.gates.chunks_exact(rows)));
            for (_, (inner, (d, gates))) in
                each.enumerate().filter(|(i, _)| input.is_valid(i / input.batch, i % input.batch))
            {
                inner.iter_mut().zip(&d[2 * hidden..]).zip(&gates[hidden..]).for_each(|((inner, d), r)| *inner = d * r);
            }
            add_outer(h, matrix(&inner, count, hidden), matrix(&steps.states, count, hidden));
            for row in gradients.chunks_exact(rows) {
                rb.iter_mut().zip(&row[..2 * hidden]).for_each(|(sum, d)| *sum += d);
            }
            add_rows(&mut rb[2 * hidden..], &inner, hidden);
        } else {
            for (state, gates) in steps.states.chunks_exact_mut(hidden).zip(trace.gates.chunks_exact(rows)) {
                state.iter_mut().zip(&gates[hidden..]).for_each(|(h, r)| *h *= r);
            }
            add_outer(h, gates.subcols(2 * hidden, hidden), matrix(&steps.states, count, hidden));
            add_rows(rb, gradients, rows);
        }
    }

    /// Of a reset gate before the product, which acts on all units, the square is the mean over the columns of R: so much
    /// of a change of `r (.) H` arrives at `h~`.
    fn add_squares(&mut self, of: &Effect<'_>, step: &SequenceStep<'_>, sums: &mut [f64]) {
        let hidden = of.spec.hidden;
        let [f, g, _] = of.slopes;
        let column = *self.column.get_or_insert_with(|| {
            let last = if self.linear_before_reset { &[] } else { &of.weights.r[2 * hidden * hidden..] };
            (last.iter().map(|r| r * r).sum::<f32>() / hidden as f32).sqrt()
        });
        for j in 0..hidden {
            let [z, r, candidate] = [0, 1, 2].map(|gate| step.gates[gate * hidden + j]);
            let mut add = |gate: usize, d: f32| sums[gate] += f64::from(d * d);
            let d_candidate = (1. - z) * g.at(candidate);
            let reset = if self.linear_before_reset { step.inner[j] } else { step.h[j] * column };
            add(0, (step.h[j] - candidate) * f.at(z));
            add(1, d_candidate * reset * f.at(r));
            add(2, d_candidate);
        }
    }
}

impl Gru {
    fn reset_after(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool) {
        let Forward { spec, weights, arch } = at;
        let hidden = spec.hidden;
        let rows = 3 * hidden;
        match weights.b {
            None => self.reset.fill(0.),
            Some(b) => self.reset.chunks_exact_mut(hidden).for_each(|c| c.copy_from_slice(&b[rows + 2 * hidden..])),
        }
        add_product(&mut self.reset, hidden, &out.h, &weights.r[2 * hidden * hidden..], hidden, hidden);
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact_mut(hidden));
        let inner = self.reset.chunks_exact(hidden);
        for (_, ((gates, state), inner)) in sequences.zip(inner).enumerate().filter(|(b, _)| valid(*b)) {
            let (first, candidate) = gates.split_at_mut(2 * hidden);
            arch.dispatch(Activate { gates: first, activation: spec.activations[0], clip: spec.clip });
            arch.dispatch(AddReset { candidate, r: &first[hidden..], inner });
            arch.dispatch(Blend { spec, z: &first[..hidden], candidate, state });
        }
    }

    fn reset_before(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool) {
        let Forward { spec, weights, arch } = at;
        let hidden = spec.hidden;
        let rows = 3 * hidden;
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact(hidden));
        for ((gates, state), reset) in sequences.zip(self.reset.chunks_exact_mut(hidden)) {
            let first = &mut gates[..2 * hidden];
            arch.dispatch(Activate { gates: first, activation: spec.activations[0], clip: spec.clip });
            reset.iter_mut().zip(&first[hidden..]).zip(state).for_each(|((reset, r), h)| *reset = r * h);
        }
        let r_h = &weights.r[2 * hidden * hidden..];
        add_product(&mut gates[2 * hidden..], rows, &self.reset, r_h, hidden, hidden);
        let sequences = gates.chunks_exact_mut(rows).zip(out.h.chunks_exact_mut(hidden));
        for (_, (gates, state)) in sequences.enumerate().filter(|(b, _)| valid(*b)) {
            let (first, candidate) = gates.split_at_mut(2 * hidden);
            arch.dispatch(Blend { spec, z: &first[..hidden], candidate, state });
        }
    }
}

fn back_reset_after(pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State) {
    let hidden = pass.spec.hidden;
    let [f, g, _] = pass.slopes;
    // What goes through R: the gradients in z, r and `H R^T + Rb`.
    let mut through = vec![0.; gradients.len()];
    for b in pass.valid(t) {
        let (values, inner, before) = (pass.gates(t, b), pass.inner(t, b), pass.state_before(t, b));
        let d = &mut gradients[b * 3 * hidden..][..3 * hidden];
        let through = &mut through[b * 3 * hidden..][..3 * hidden];
        let d_h = &mut state.h[b * hidden..][..hidden];
        for j in 0..hidden {
            let [z, r, candidate] = [0, 1, 2].map(|gate| values[gate * hidden + j]);
            let d_candidate = d_h[j] * (1. - z) * g.at(candidate);
            d[j] = d_h[j] * (before[j] - candidate) * f.at(z);
            d[hidden + j] = d_candidate * inner[j] * f.at(r);
            d[2 * hidden + j] = d_candidate;
            through[2 * hidden + j] = d_candidate * r;
            d_h[j] *= z;
        }
        through[..2 * hidden].copy_from_slice(&d[..2 * hidden]);
    }
    add_product(&mut state.h, hidden, &through, &pass.transposed, hidden, 3 * hidden);
}

fn back_reset_before(pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State) {
    let (hidden, batch) = (pass.spec.hidden, pass.input.batch);
    let [f, g, _] = pass.slopes;
    let mut d_candidate = vec![0.; batch * hidden];
    for b in pass.valid(t) {
        let values = pass.gates(t, b);
        for j in 0..hidden {
            let [z, candidate] = [0, 2].map(|gate| values[gate * hidden + j]);
            d_candidate[b * hidden + j] = state.h[b * hidden + j] * (1. - z) * g.at(candidate);
        }
    }
    let mut d_reset = vec![0.; batch * hidden];
    add_product(&mut d_reset, hidden, &d_candidate, &pass.transposed_others, hidden, hidden);
    let mut through = vec![0.; batch * 2 * hidden];
    for b in pass.valid(t) {
        let (values, before) = (pass.gates(t, b), pass.state_before(t, b));
        let d = &mut gradients[b * 3 * hidden..][..3 * hidden];
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
    add_product(&mut state.h, hidden, &through, &pass.transposed, hidden, 2 * hidden);
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

/// The activation of gate `h` for one sequence, then `H' = (1 - z) (.) h~ + z (.) H`.
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
