//! The cell against the specification's formulas, written out one number at a time in double precision.

use super::noise::numbers;
use super::*;

fn activate(a: Activation, x: f64) -> f64 {
    let mut v = [x as f32];
    match a {
        Activation::Sigmoid => 1. / (1. + (-x).exp()),
        Activation::Tanh => x.tanh(),
        other => {
            other.apply(&mut v);
            f64::from(v[0])
        }
    }
}

struct Case {
    spec: Spec,
    bias: bool,
    peepholes: bool,
    states: bool,
    lengths: Option<Vec<usize>>,
    reverse: bool,
    steps: usize,
    batch: usize,
}

impl Case {
    fn plain(kind: Kind) -> Case {
        let (hidden, inputs) = (9, 5);
        let activations = match kind {
            Kind::Lstm { .. } => [Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
            Kind::Gru { .. } => [Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
            Kind::Rnn => [Activation::Tanh; 3],
        };
        let spec = Spec { kind, hidden, inputs, activations, clip: None };
        Case { spec, bias: true, peepholes: false, states: true, lengths: None, reverse: false, steps: 6, batch: 3 }
    }

    /// The largest difference of Y, H and C from the formulas.
    fn check(&self) {
        let Spec { kind, hidden, inputs, .. } = self.spec;
        let (rows, batch, steps) = (self.spec.rows(), self.batch, self.steps);
        let w = numbers(1, rows * inputs);
        let r = numbers(2, rows * hidden);
        let b = numbers(3, 2 * rows);
        let p = numbers(4, 3 * hidden);
        let x = numbers(5, steps * batch * inputs);
        let (h, c) = (numbers(6, batch * hidden), numbers(7, batch * hidden));
        let weights = CellWeights { w: &w, r: &r, b: self.bias.then_some(&b), p: self.peepholes.then_some(&p) };
        let lstm = matches!(kind, Kind::Lstm { .. });
        let input = Input {
            x: &x,
            steps,
            batch,
            h: self.states.then_some(&h),
            c: (self.states && lstm).then_some(&c),
            lengths: self.lengths.as_deref(),
            reverse: self.reverse,
        };
        let (out, trace) = forward_traced(&self.spec, &weights, &input);
        assert_eq!(out, forward(&self.spec, &weights, &input));
        assert_eq!(trace.gates.len(), steps * batch * rows);
        let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 3e-6, "{a} is not {b}");
        for s in 0..batch {
            let length = self.lengths.as_ref().map_or(steps, |l| l[s]);
            let row = |v: &[f32]| -> Vec<f64> { v[s * hidden..][..hidden].iter().map(|&v| f64::from(v)).collect() };
            let zeros = vec![0.; hidden];
            let (mut state, mut cell) = if self.states { (row(&h), row(&c)) } else { (zeros.clone(), zeros.clone()) };
            let mut y = vec![zeros.clone(); steps];
            for k in 0..length {
                let t = if self.reverse { length - 1 - k } else { k };
                (state, cell) = self.formula(&weights, &x[(t * batch + s) * inputs..][..inputs], &state, &cell);
                y[t] = state.clone();
            }
            for (t, y) in y.iter().enumerate() {
                out.y[(t * batch + s) * hidden..][..hidden].iter().zip(y).for_each(|(&a, &b)| near(a, b));
            }
            out.h[s * hidden..][..hidden].iter().zip(&state).for_each(|(&a, &b)| near(a, b));
            if lstm {
                out.c[s * hidden..][..hidden].iter().zip(&cell).for_each(|(&a, &b)| near(a, b));
            }
        }
    }

    fn formula(&self, weights: &CellWeights, x: &[f32], state: &[f64], cell: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let Spec { kind, hidden, inputs, activations: [f, g, h], clip } = self.spec;
        let rows = self.spec.rows();
        let dot = |row: &[f32], v: &[f64]| -> f64 { row.iter().zip(v).map(|(a, b)| f64::from(*a) * b).sum() };
        let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let wx = |k: usize| dot(&weights.w[k * inputs..][..inputs], &x) + weights.b.map_or(0., |b| f64::from(b[k]));
        let rh = |k: usize, v: &[f64]| {
            dot(&weights.r[k * hidden..][..hidden], v) + weights.b.map_or(0., |b| f64::from(b[rows + k]))
        };
        let bound = |v: f64| clip.map_or(v, |c| v.clamp(-f64::from(c), f64::from(c)));
        let peep = |gate: usize, j: usize, c: f64| weights.p.map_or(0., |p| f64::from(p[gate * hidden + j]) * c);
        let mut new_state = vec![0.; hidden];
        let mut new_cell = vec![0.; hidden];
        match kind {
            Kind::Lstm { input_forget } => {
                for j in 0..hidden {
                    let gate = |k: usize| wx(k * hidden + j) + rh(k * hidden + j, state);
                    let i = activate(f, bound(gate(0) + peep(0, j, cell[j])));
                    let forget = activate(f, bound(gate(2) + peep(2, j, cell[j])));
                    let forget = if input_forget { 1. - i } else { forget };
                    new_cell[j] = forget * cell[j] + i * activate(g, bound(gate(3)));
                    let o = activate(f, bound(gate(1) + peep(1, j, new_cell[j])));
                    new_state[j] = o * activate(h, new_cell[j]);
                }
            }
            Kind::Gru { linear_before_reset } => {
                let gate = |k: usize, j: usize| activate(f, bound(wx(k * hidden + j) + rh(k * hidden + j, state)));
                let r: Vec<f64> = (0..hidden).map(|j| gate(1, j)).collect();
                let scaled: Vec<f64> = state.iter().zip(&r).map(|(s, r)| s * r).collect();
                for j in 0..hidden {
                    let k = 2 * hidden + j;
                    let inner = if linear_before_reset { r[j] * rh(k, state) } else { rh(k, &scaled) };
                    let z = gate(0, j);
                    new_state[j] = (1. - z) * activate(g, bound(wx(k) + inner)) + z * state[j];
                }
            }
            Kind::Rnn => {
                new_state.iter_mut().enumerate().for_each(|(j, h)| *h = activate(f, bound(wx(j) + rh(j, state))));
            }
        }
        (new_state, new_cell)
    }
}

#[test]
fn plain_cells_follow_the_formulas() {
    for kind in Kind::ALL {
        Case::plain(kind).check();
        Case { batch: 1, ..Case::plain(kind) }.check();
        Case { bias: false, states: false, ..Case::plain(kind) }.check();
    }
}

#[test]
fn a_reversed_cell_starts_at_each_sequence_own_end() {
    for kind in Kind::ALL {
        for reverse in [false, true] {
            Case { reverse, ..Case::plain(kind) }.check();
            Case { reverse, lengths: Some(vec![6, 0, 3]), ..Case::plain(kind) }.check();
        }
    }
}

#[test]
fn peepholes_clip_and_other_activations_follow_the_formulas() {
    for kind in Kind::ALL {
        let mut case = Case::plain(kind);
        case.spec.clip = Some(0.4);
        case.peepholes = matches!(kind, Kind::Lstm { .. });
        case.check();
        case.spec.activations = [
            Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
            Activation::Softsign,
            Activation::ScaledTanh { alpha: 0.5, beta: 1.5 },
        ];
        case.check();
    }
}

#[test]
fn long_inputs_are_projected_in_pieces_without_a_seam() {
    let mut case = Case::plain(Kind::ALL[0]);
    (case.spec.hidden, case.steps, case.batch) = (2, PROJECTED_FLOATS / (3 * 8) + 5, 3);
    case.spec.inputs = 1;
    for reverse in [false, true] {
        case.reverse = reverse;
        case.check();
    }
}

#[test]
fn empty_axes_are_no_special_case() {
    for kind in Kind::ALL {
        Case { steps: 0, ..Case::plain(kind) }.check();
        Case { batch: 0, ..Case::plain(kind) }.check();
    }
}

/// Not a test: prints what a step costs, against the memory that it has to read.
#[test]
#[ignore = "a measurement"]
fn speed() {
    for (kind, hidden, batch, steps) in [
        (Kind::ALL[0], 1024, 1, 100),
        (Kind::ALL[0], 512, 1, 100),
        (Kind::ALL[0], 128, 1, 1000),
        (Kind::ALL[3], 1024, 1, 100),
        (Kind::ALL[0], 512, 2, 100),
        (Kind::ALL[0], 512, 3, 100),
        (Kind::ALL[0], 512, 4, 100),
        (Kind::ALL[0], 512, 8, 100),
        (Kind::ALL[0], 512, 16, 128),
        (Kind::ALL[0], 512, 128, 16),
        (Kind::ALL[2], 512, 16, 128),
    ] {
        let spec = Spec { kind, hidden, inputs: hidden, activations: Case::plain(kind).spec.activations, clip: None };
        let rows = spec.rows();
        let (w, r, x) = (numbers(1, rows * hidden), numbers(2, rows * hidden), numbers(3, steps * batch * hidden));
        let weights = CellWeights { w: &w, r: &r, b: None, p: None };
        let input = Input { x: &x, steps, batch, h: None, c: None, lengths: None, reverse: false };
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = cpu_seconds();
            std::hint::black_box(forward(&spec, &weights, &input));
            best = best.min(cpu_seconds() - start);
        }
        let flops = 4. * (steps * batch * rows * hidden) as f64;
        println!(
            "{kind:?} H {hidden} B {batch} T {steps}: {:.2} ms, {:.1} GFLOP/s, R at {:.1} GB/s",
            best * 1e3,
            flops / best / 1e9,
            (steps * rows * hidden * 4) as f64 / best / 1e9
        );
    }
}

fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9
}
