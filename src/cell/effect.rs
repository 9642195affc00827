//! How strongly the gates of a cell act on its next state: `dH'/da_g`, `a_g` being what goes into the activation of gate
//! `g`, from the values that a forward pass left.

use super::formulas::Formulas;
use super::{Activation, CellWeights, Spec};

/// The derivative of an activation behind a clip, as a function of the value.
#[derive(Clone, Copy)]
pub(super) struct Slope {
    activation: Activation,
    /// The values at the bounds, where the derivative is 0.
    ends: Option<[f32; 2]>,
}

impl Slope {
    /// Those of `f`, `g` and `h`. The clip bounds what goes into the gates, and the argument of `h` is not one of those.
    pub(super) fn of(spec: &Spec) -> [Slope; 3] {
        let [f, g, h] = spec.activations;
        [Slope::new(f, spec.clip), Slope::new(g, spec.clip), Slope::new(h, None)]
    }

    pub(super) fn new(activation: Activation, clip: Option<f32>) -> Slope {
        let ends = clip.map(|clip| {
            let mut ends = [-clip, clip];
            activation.apply(&mut ends);
            ends
        });
        Slope { activation, ends }
    }

    #[inline(always)]
    pub(super) fn at(&self, value: f32) -> f32 {
        if self.ends.is_some_and(|ends| ends.contains(&value)) { 0. } else { self.activation.slope(value) }
    }
}

/// One step of one sequence, as a forward pass left it.
#[derive(Clone, Copy, Debug)]
pub struct SequenceStep<'a> {
    /// The activated gates, `[G*H]`.
    pub gates: &'a [f32],
    /// As in [`Trace`](super::Trace), `[H]`; empty where it holds none.
    pub inner: &'a [f32],
    /// `H` before the step, `[H]`.
    pub h: &'a [f32],
    /// `C` before the step, `[H]`; empty but for an LSTM.
    pub c: &'a [f32],
}

/// The effect of each gate of one direction on the state `H'` of the same step.
pub struct Effects<'a> {
    effect: Effect<'a>,
    formulas: Box<dyn Formulas>,
}

/// What the formulas of the effects refer to.
pub(super) struct Effect<'a> {
    pub spec: Spec,
    pub weights: CellWeights<'a>,
    /// Of `f`, `g` and `h`.
    pub slopes: [Slope; 3],
}

impl<'a> Effects<'a> {
    /// Those of a cell with these weights.
    pub fn new(spec: &Spec, weights: &CellWeights<'a>) -> Effects<'a> {
        let effect = Effect { spec: spec.clone(), weights: *weights, slopes: Slope::of(spec) };
        Effects { effect, formulas: spec.kind.formulas() }
    }

    /// Adds `(dH'/da_g)^2`, summed over the units, to `sums[g]` for each gate `g`. Of the reset gate of a GRU that resets
    /// before the product, which acts on all units, it is the mean over the columns of R.
    ///
    /// # Panics
    /// If a slice has not the length that its documentation says.
    pub fn add_squares(&mut self, sums: &mut [f64], step: &SequenceStep<'_>) {
        self.formulas.add_squares(&self.effect, step, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise::numbers;
    use super::super::{Input, Kind, forward, forward_traced};
    use super::*;

    const HIDDEN: usize = 3;

    /// A step of one sequence from given states, and the change of every unit's `H'` by a change of every gate's bias.
    fn check(kind: Kind, activations: [Activation; 3], clip: Option<f32>, peepholes: bool) {
        let spec = Spec { kind, hidden: HIDDEN, inputs: 2, activations, clip };
        let rows = spec.rows();
        let (w, r, b) = (numbers(1, rows * 2), numbers(2, rows * HIDDEN), numbers(3, 2 * rows));
        let (x, h, c, p) = (numbers(4, 2), numbers(5, HIDDEN), numbers(6, HIDDEN), numbers(7, 3 * HIDDEN));
        let p = peepholes.then_some(&p[..]);
        let c = kind.has_cell_state().then_some(&c[..]);
        let input = Input { x: &x, steps: 1, batch: 1, h: Some(&h), c, lengths: None, reverse: false };
        let weights = CellWeights { w: &w, r: &r, b: Some(&b), p };
        let (_, trace) = forward_traced(&spec, &weights, &input);
        let mut found = vec![0.0; kind.gates()];
        let step = SequenceStep { gates: &trace.gates, inner: &trace.inner, h: &h, c: c.unwrap_or_default() };
        Effects::new(&spec, &weights).add_squares(&mut found, &step);
        for (gate, found) in found.into_iter().enumerate() {
            // The effect of this one is a mean over columns of R by definition.
            if kind == (Kind::Gru { linear_before_reset: false }) && gate == 1 {
                continue;
            }
            let truth: f64 = (0..HIDDEN)
                .map(|j| {
                    const STEP: f32 = 1e-3;
                    let at = |change: f32| {
                        let mut b = b.clone();
                        b[gate * HIDDEN + j] += change;
                        f64::from(forward(&spec, &CellWeights { b: Some(&b), ..weights }, &input).h[j])
                    };
                    ((at(STEP) - at(-STEP)) / (2. * f64::from(STEP))).powi(2)
                })
                .sum();
            assert!(
                (found - truth).abs() < 2e-3 * (1. + truth),
                "{kind:?} {activations:?} gate {gate}: {found} {truth}"
            );
        }
    }

    const FUNCTIONS: [Activation; 11] = [
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Relu,
        Activation::Affine { alpha: -0.7, beta: 0.2 },
        Activation::LeakyRelu { alpha: 0.1 },
        Activation::ThresholdedRelu { alpha: -0.6 },
        Activation::ScaledTanh { alpha: 1.3, beta: 0.6 },
        Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Activation::Elu { alpha: 0.8 },
        Activation::Softsign,
        Activation::Softplus,
    ];

    #[test]
    fn effects_are_derivatives_of_the_activations_that_the_node_has() {
        for (i, f) in FUNCTIONS.into_iter().enumerate() {
            let activations = [f, FUNCTIONS[(i + 3) % 11], FUNCTIONS[(i + 7) % 11]];
            for kind in Kind::ALL {
                check(kind, activations, None, kind == Kind::Lstm { input_forget: false });
            }
        }
    }

    #[test]
    fn a_gate_beyond_its_clip_has_no_effect() {
        let usual = [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
        for kind in Kind::ALL {
            check(kind, usual, Some(0.4), false);
        }
    }

    #[test]
    fn two_arguments_of_one_value_count_alike() {
        let spec = |function| Spec { kind: Kind::Rnn, hidden: 1, inputs: 1, activations: [function; 3], clip: None };
        let weights = CellWeights { w: &[1.], r: &[1.], b: None, p: None };
        let step = SequenceStep { gates: &[0.2], inner: &[], h: &[0.], c: &[] };
        let mut sums = [0.0];
        Effects::new(&spec(Activation::LeakyRelu { alpha: -0.5 }), &weights).add_squares(&mut sums, &step);
        assert!((sums[0] - (1. + 0.25) / 2.).abs() < 1e-6, "{sums:?}");
    }
}
