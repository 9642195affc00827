//! The gradients against finite differences of the loss `sum d_y (.) Y + d_c (.) C`, which is what they are defined by.

use super::super::noise::numbers;
use super::super::{Activation, Kind, forward, forward_traced};
use super::*;

#[derive(Clone)]
struct Case {
    spec: Spec,
    bias: bool,
    peepholes: bool,
    states: bool,
    reverse: bool,
    lengths: Option<Vec<usize>>,
}

impl Case {
    fn plain(kind: Kind) -> Case {
        let activations = [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
        let spec = Spec { kind, hidden: 5, inputs: 3, activations, clip: None };
        Case { spec, bias: true, peepholes: false, states: true, reverse: false, lengths: None }
    }

    fn check(&self) {
        const STEPS: usize = 5;
        const BATCH: usize = 3;
        let Spec { kind, hidden, inputs, .. } = self.spec;
        let rows = self.spec.rows();
        let lstm = matches!(kind, Kind::Lstm { .. });
        let p = numbers(4, 3 * hidden);
        let (h, c) = (numbers(6, BATCH * hidden), numbers(7, BATCH * hidden));
        let (d_y, d_c) = (numbers(8, STEPS * BATCH * hidden), numbers(9, STEPS * BATCH * hidden));
        let parameters = [
            numbers(1, rows * inputs),
            numbers(2, rows * hidden),
            numbers(3, 2 * rows),
            numbers(5, STEPS * BATCH * inputs),
        ];
        let valid = |t: usize, b: usize| self.lengths.as_ref().is_none_or(|l| t < l[b]);
        fn given<'a>(case: &Case, all: &'a [Vec<f32>; 4], p: &'a [f32]) -> CellWeights<'a> {
            CellWeights { w: &all[0], r: &all[1], b: case.bias.then_some(&all[2]), p: case.peepholes.then_some(p) }
        }
        fn fed<'a>(case: &'a Case, x: &'a [f32], h: &'a [f32], c: &'a [f32], lstm: bool) -> Input<'a> {
            Input {
                x,
                steps: STEPS,
                batch: BATCH,
                h: case.states.then_some(h),
                c: (case.states && lstm).then_some(c),
                lengths: case.lengths.as_deref(),
                reverse: case.reverse,
            }
        }
        let loss = |all: &[Vec<f32>; 4]| -> f64 {
            let (out, trace) = forward_traced(&self.spec, &given(self, all, &p), &fed(self, &all[3], &h, &c, lstm));
            let mut sum = 0.;
            for (i, (y, d)) in out.y.iter().zip(&d_y).enumerate() {
                let row = i / hidden;
                if valid(row / BATCH, row % BATCH) {
                    sum += f64::from(*y) * f64::from(*d);
                    sum += if lstm { f64::from(trace.inner[i]) * f64::from(d_c[i]) } else { 0. };
                }
            }
            sum
        };
        let weights = given(self, &parameters, &p);
        let input = fed(self, &parameters[3], &h, &c, lstm);
        let traced = forward_traced(&self.spec, &weights, &input);
        assert_eq!(traced.0, forward(&self.spec, &weights, &input));
        let gates = backward(&self.spec, &weights, &input, &traced, &d_y, lstm.then_some(&d_c));
        let mut sums = Gradients::zeros(&self.spec);
        gates.add_to(&mut sums, &self.spec, &input, &traced);
        let d_x = gates.inputs(&self.spec, &weights);
        for (which, gradient) in [sums.w, sums.r, sums.b, d_x].into_iter().enumerate() {
            if which == 2 && !self.bias {
                continue;
            }
            for (i, &g) in gradient.iter().enumerate() {
                const STEP: f32 = 4e-3;
                let at = |change: f32| {
                    let mut all = parameters.clone();
                    all[which][i] += change;
                    loss(&all)
                };
                // Fourth order, so that a step well above the rounding of single precision is still exact enough.
                let near = (at(STEP) - at(-STEP)) * 8. - (at(2. * STEP) - at(-2. * STEP));
                let truth = near / (12. * f64::from(STEP));
                let error = (f64::from(g) - truth).abs();
                assert!(
                    error < 2e-3 * (1. + truth.abs()),
                    "{:?} parameter {which}, {i}: {g} is not {truth}",
                    self.spec
                );
            }
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    for kind in Kind::ALL {
        Case::plain(kind).check();
        Case { bias: false, states: false, ..Case::plain(kind) }.check();
    }
}

#[test]
fn reverse_and_sequence_lengths() {
    for kind in Kind::ALL {
        for reverse in [false, true] {
            Case { reverse, ..Case::plain(kind) }.check();
            Case { reverse, lengths: Some(vec![5, 0, 2]), states: reverse, ..Case::plain(kind) }.check();
        }
    }
}

#[test]
fn peepholes_and_smooth_activations() {
    for kind in Kind::ALL {
        let mut case = Case::plain(kind);
        case.peepholes = matches!(kind, Kind::Lstm { .. });
        case.check();
        case.spec.activations =
            [Activation::Softsign, Activation::ScaledTanh { alpha: 0.5, beta: 1.5 }, Activation::Softsign];
        case.check();
        case.spec.activations = [
            Activation::Affine { alpha: 0.3, beta: 0.4 },
            Activation::ScaledTanh { alpha: -0.7, beta: 1. },
            Activation::Softsign,
        ];
        case.check();
    }
}

/// Where an argument is near a kink, differences say nothing; the kinks here are rarely met with these numbers.
#[test]
fn clips_and_kinks_stop_the_gradient() {
    for activation in [
        Activation::Relu,
        Activation::LeakyRelu { alpha: 0.2 },
        Activation::ThresholdedRelu { alpha: 0.1 },
        Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Activation::Elu { alpha: 0.8 },
        Activation::Softplus,
    ] {
        for (x, inside) in [(-2.7f32, false), (-0.61, true), (0.37, true), (0.93, true), (2.9, false)] {
            let at = |x: f32| {
                let mut y = [x.clamp(-2.5, 2.5)];
                activation.apply(&mut y);
                y[0]
            };
            let truth = (at(x + 1e-2) - at(x - 1e-2)) / 2e-2;
            let slope = Slope::new(activation, Some(2.5)).at(at(x));
            assert!((slope - truth).abs() < 2e-3, "{activation:?} at {x}: {slope} is not {truth}");
            assert!(inside || slope == 0.);
        }
    }
    for kind in Kind::ALL {
        let mut case = Case::plain(kind);
        case.spec.clip = Some(30.);
        case.check();
    }
}

#[test]
#[should_panic(expected = "has no derivative by its value")]
fn an_activation_that_turns_is_refused() {
    let mut case = Case::plain(Kind::Rnn);
    case.spec.activations[0] = Activation::Elu { alpha: -1. };
    case.check();
}

#[test]
fn no_steps_and_no_sequences_have_no_gradient() {
    for kind in Kind::ALL {
        let case = Case::plain(kind);
        let (w, r) = (numbers(1, case.spec.rows() * 3), numbers(2, case.spec.rows() * 5));
        let weights = CellWeights { w: &w, r: &r, b: None, p: None };
        for (steps, batch) in [(0, 2), (2, 0)] {
            let input = Input { x: &[], steps, batch, h: None, c: None, lengths: None, reverse: false };
            let traced = forward_traced(&case.spec, &weights, &input);
            let gates = backward(&case.spec, &weights, &input, &traced, &[], None);
            let mut sums = Gradients::zeros(&case.spec);
            gates.add_to(&mut sums, &case.spec, &input, &traced);
            assert_eq!(sums, Gradients::zeros(&case.spec));
            assert!(gates.inputs(&case.spec, &weights).is_empty());
        }
    }
}
