//! Layers that read one another, run on windows: the loss against the original, and its gradients in the weights.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::head::{Finals, Head};
use super::schedule::{CELL_SHARE, GROUP, GROUPS_AT_ONCE, OTHER_STATES};
use super::sequences::Window;
use crate::cell::{self, Gradients, Input, Output, Spec, Trace, backward, forward_traced};

/// One direction of a layer.
pub(super) struct Direction {
    pub(super) spec: Spec,
    pub(super) reverse: bool,
    pub(super) w: Vec<f32>,
    pub(super) r: Vec<f32>,
    pub(super) b: Option<Vec<f32>>,
    pub(super) p: Option<Vec<f32>>,
}

impl Direction {
    fn weights(&self) -> cell::CellWeights<'_> {
        cell::CellWeights { w: &self.w, r: &self.r, b: self.b.as_deref(), p: self.p.as_deref() }
    }
}

/// What the last layer is to match.
pub(super) enum Goal {
    /// The original's hidden states: `mean (Y^ - Y)^2 + 0.1 mean (C^ - C)^2`.
    States,
    /// An output of the model that is a linear function of them.
    Output(Head),
    /// Outputs of the model that are the states after the last step of each sequence: the squared error there, and on the way.
    Finals(Finals),
}

impl Goal {
    /// Whether a window counts.
    pub(super) fn needs(&self, window: &Window) -> bool {
        window.last || !matches!(self, Goal::Finals(_))
    }

    /// What a loss summed over the windows is divided by.
    fn total(&self, windows: &[&Window]) -> usize {
        match self {
            Goal::States | Goal::Output(_) => windows.iter().map(|w| w.steps).sum(),
            Goal::Finals(_) => windows.len(),
        }
    }
}

/// Layers, the first one first, each one or two directions.
pub(super) struct Stack {
    pub(super) layers: Vec<Vec<Direction>>,
    pub(super) goal: Goal,
}

/// Gradients by layer and direction.
pub(super) type StackGradients = Vec<Vec<Gradients>>;

impl Stack {
    /// The mean loss of what the model gives, without the states on the way.
    pub(super) fn output_loss(&self, windows: &[&Window]) -> f64 {
        self.loss_with(windows, 0.0)
    }

    /// The mean loss over all steps of the windows.
    pub(super) fn loss(&self, windows: &[&Window]) -> f64 {
        self.loss_with(windows, OTHER_STATES)
    }

    fn loss_with(&self, windows: &[&Window], on_the_way: f64) -> f64 {
        let total = self.goal.total(windows);
        let group = |group: &[&Window]| self.group(group, total, on_the_way).loss;
        let sums: Vec<f64> = windows.par_chunks(GROUP).map(group).collect();
        sums.iter().sum()
    }

    /// The mean loss and its gradients.
    pub(super) fn gradients(&self, windows: &[&Window]) -> (f64, StackGradients) {
        let total = self.goal.total(windows);
        let zeros = |d: &Direction| Gradients::zeros(&d.spec);
        let mut sums: StackGradients = self.layers.iter().map(|layer| layer.iter().map(zeros).collect()).collect();
        let mut loss = 0.0;
        for groups in windows.chunks(GROUP * GROUPS_AT_ONCE) {
            let parts: Vec<(f64, StackGradients)> = groups
                .par_chunks(GROUP)
                .map(|group| {
                    let run = self.group(group, total, OTHER_STATES);
                    (run.loss, self.back(&run))
                })
                .collect();
            for (part, gradients) in parts {
                loss += part;
                sums.iter_mut().flatten().zip(gradients.iter().flatten()).for_each(|(sum, g)| sum.add(g));
            }
        }
        (loss, sums)
    }

    fn group(&self, windows: &[&Window], total: usize, on_the_way: f64) -> Run {
        let mut run = self.forward(windows);
        let hidden = self.layers[self.layers.len() - 1][0].spec.hidden;
        match &self.goal {
            Goal::States => run.match_states(windows, total, hidden),
            Goal::Output(head) => run.match_output(head, windows, total, hidden),
            Goal::Finals(finals) => run.match_finals(finals, on_the_way, windows, total),
        }
        run
    }

    /// Makes what the layers do on windows their targets.
    pub(super) fn set_targets(&self, windows: &mut [Window]) {
        windows.par_chunks_mut(GROUP).for_each(|group| {
            let run = self.forward(&group.iter().collect::<Vec<_>>());
            let last = &run.traced[run.traced.len() - 1];
            let hidden = self.layers[self.layers.len() - 1][0].spec.hidden;
            for (b, window) in group.iter_mut().enumerate() {
                let of_window = |all: &[f32]| -> Vec<f32> {
                    let row = |t: usize| &all[(t * run.batch + b) * hidden..][..hidden];
                    (0..window.steps).flat_map(row).copied().collect()
                };
                let y = last.iter().map(|(output, _)| of_window(&output.y)).collect();
                let c = last.iter().map(|(_, trace)| of_window(&trace.inner));
                let c = if window.c.is_empty() { Vec::new() } else { c.collect() };
                (window.y, window.c) = (y, c);
            }
        });
    }

    fn forward(&self, windows: &[&Window]) -> Run {
        let steps = windows.iter().map(|w| w.steps).max().unwrap_or(0);
        let batch = windows.len();
        let lengths: Vec<usize> = windows.iter().map(|w| w.steps).collect();
        let lengths = lengths.iter().any(|&l| l < steps).then_some(lengths);
        let inputs = self.layers[0][0].spec.inputs;
        let mut run = Run {
            steps,
            batch,
            lengths,
            inputs: vec![side_by_side(windows, steps, inputs, |w| &w.x)],
            states: Vec::new(),
            traced: Vec::new(),
            d_y: Vec::new(),
            d_c: Vec::new(),
            loss: 0.0,
        };
        for (l, layer) in self.layers.iter().enumerate() {
            let states = |d: usize| {
                [0, 1].map(|k| windows.iter().flat_map(|w| &w.states[l][d][k]).copied().collect::<Vec<f32>>())
            };
            run.states.push((0..layer.len()).map(states).collect());
            let traced: Vec<_> = layer
                .iter()
                .enumerate()
                .map(|(d, direction)| {
                    forward_traced(&direction.spec, &direction.weights(), &run.input(l, d, direction))
                })
                .collect();
            if l + 1 < self.layers.len() {
                run.inputs.push(join(&traced, layer[0].spec.hidden));
            }
            run.traced.push(traced);
        }
        run
    }

    fn back(&self, run: &Run) -> StackGradients {
        let mut gradients: Vec<Vec<Gradients>> = Vec::new();
        let (mut d_y, mut d_c) = (run.d_y.clone(), run.d_c.clone());
        for (l, layer) in self.layers.iter().enumerate().rev() {
            let mut d_x = vec![0.0; if l > 0 { run.inputs[l].len() } else { 0 }];
            let mut of_layer = Vec::new();
            for (d, direction) in layer.iter().enumerate() {
                let (input, traced) = (run.input(l, d, direction), &run.traced[l][d]);
                let weights = direction.weights();
                let gates = backward(&direction.spec, &weights, &input, traced, &d_y[d], d_c.get(d).map(Vec::as_slice));
                let mut sums = Gradients::zeros(&direction.spec);
                gates.add_to(&mut sums, &direction.spec, &input, traced);
                of_layer.push(sums);
                if l > 0 {
                    d_x.iter_mut().zip(gates.inputs(&direction.spec, &weights)).for_each(|(sum, d)| *sum += d);
                }
            }
            gradients.push(of_layer);
            if l > 0 {
                d_y = part(&d_x, self.layers[l - 1].len(), self.layers[l - 1][0].spec.hidden);
                d_c = Vec::new();
            }
        }
        gradients.reverse();
        gradients
    }
}

/// A batch of windows on its way through a stack.
struct Run {
    steps: usize,
    batch: usize,
    lengths: Option<Vec<usize>>,
    /// `X` of each layer.
    inputs: Vec<Vec<f32>>,
    /// `H_0` and `C_0` by layer and direction.
    states: Vec<Vec<[Vec<f32>; 2]>>,
    traced: Vec<Vec<(Output, Trace)>>,
    /// Gradients in `Y` and `C` of the last layer by direction; of `C` where it counts.
    d_y: Vec<Vec<f32>>,
    d_c: Vec<Vec<f32>>,
    loss: f64,
}

impl Run {
    fn input<'a>(&'a self, layer: usize, d: usize, direction: &Direction) -> Input<'a> {
        let [h, c] = &self.states[layer][d];
        Input {
            x: &self.inputs[layer],
            steps: self.steps,
            batch: self.batch,
            h: Some(h),
            c: (!c.is_empty()).then_some(c),
            lengths: self.lengths.as_deref(),
            reverse: direction.reverse,
        }
    }

    fn match_states(&mut self, windows: &[&Window], total: usize, hidden: usize) {
        let last = &self.traced[self.traced.len() - 1];
        let elements = (total * hidden * last.len()).max(1) as f64;
        for (d, (output, trace)) in last.iter().enumerate() {
            let target = side_by_side(windows, self.steps, hidden, |w| &w.y[d]);
            let (loss, gradient) = self.squared(&output.y, &target, hidden, 1.0 / elements);
            self.loss += loss;
            self.d_y.push(gradient);
            if windows.iter().all(|w| !w.c.is_empty()) {
                let target = side_by_side(windows, self.steps, hidden, |w| &w.c[d]);
                let (loss, gradient) = self.squared(&trace.inner, &target, hidden, CELL_SHARE / elements);
                self.loss += loss;
                self.d_c.push(gradient);
            }
        }
    }

    /// `weight * sum (a - b)^2` over the valid steps, and the gradient in `a`.
    fn squared(&self, a: &[f32], b: &[f32], n: usize, weight: f64) -> (f64, Vec<f32>) {
        let mut sum = 0.0;
        let mut gradient = vec![0.0; a.len()];
        let rows = gradient.chunks_exact_mut(n).zip(a.chunks_exact(n).zip(b.chunks_exact(n)));
        for (_, (gradient, (a, b))) in rows.enumerate().filter(|(i, _)| self.is_valid(*i)) {
            for ((g, a), b) in gradient.iter_mut().zip(a).zip(b) {
                sum += f64::from(a - b) * f64::from(a - b);
                *g = (2.0 * weight) as f32 * (a - b);
            }
        }
        (sum * weight, gradient)
    }

    fn is_valid(&self, row: usize) -> bool {
        self.lengths.as_ref().is_none_or(|lengths| row / self.batch < lengths[row % self.batch])
    }

    fn match_finals(&mut self, finals: &Finals, on_the_way: f64, windows: &[&Window], total: usize) {
        let (output, trace) = &self.traced[self.traced.len() - 1][0];
        let hidden = output.h.len() / self.batch;
        let mut gradients = [vec![0.0; output.y.len()], vec![0.0; output.y.len()]];
        let parts = [&output.y, &trace.inner].into_iter().zip(finals.weights).zip(&mut gradients).enumerate();
        for (which, ((own, weight), gradient)) in parts.filter(|(_, ((_, weight), _))| *weight > 0.0) {
            for (b, window) in windows.iter().enumerate() {
                let targets = if which == 0 { &window.y[0] } else { &window.c[0] };
                for (t, target) in targets.chunks_exact(hidden).enumerate() {
                    let last = if t + 1 == window.steps { 1.0 } else { 0.0 };
                    let weight = weight * (last + on_the_way / window.steps as f64) / total.max(1) as f64;
                    let at = (t * self.batch + b) * hidden..(t * self.batch + b + 1) * hidden;
                    for ((g, own), target) in gradient[at.clone()].iter_mut().zip(&own[at]).zip(target) {
                        self.loss += weight * f64::from(own - target).powi(2);
                        *g = (2.0 * weight) as f32 * (own - target);
                    }
                }
            }
        }
        let [d_y, d_c] = gradients;
        self.d_y = vec![d_y];
        self.d_c = if finals.weights[1] > 0.0 { vec![d_c] } else { Vec::new() };
    }

    fn match_output(&mut self, head: &Head, windows: &[&Window], total: usize, hidden: usize) {
        let last = &self.traced[self.traced.len() - 1];
        let y = join(last, hidden);
        let targets: Vec<Vec<f32>> =
            (0..last.len()).map(|d| side_by_side(windows, self.steps, hidden, |w| &w.y[d])).collect();
        let targets = join_parts(&targets.iter().map(Vec::as_slice).collect::<Vec<_>>(), hidden);
        let (rows, width, classes) = (self.steps * self.batch, hidden * last.len(), head.bias.len());
        let [mut own, mut original] = [&y, &targets].map(|y| head.apply(y));
        for i in 0..rows {
            let (own, original) = (&mut own[i * classes..][..classes], &mut original[i * classes..][..classes]);
            if self.is_valid(i) {
                self.loss += head.loss_row(own, original) / total.max(1) as f64;
            } else {
                own.fill(0.0);
            }
        }
        // `own` holds the gradient in the outputs of each row now.
        let mut d_y = vec![0.0; rows * width];
        matmul(
            MatMut::from_row_major_slice_mut(&mut d_y, rows, width),
            Accum::Replace,
            MatRef::from_row_major_slice(&own, rows, classes),
            MatRef::from_row_major_slice(&head.matrix, classes, width),
            (1.0 / total.max(1) as f64) as f32,
            Par::Seq,
        );
        self.d_y = part(&d_y, last.len(), hidden);
    }
}

/// The rows of windows `[T, n]` as `[T, B, n]`, with zeros where one is short.
fn side_by_side<'a>(
    windows: &[&'a Window],
    steps: usize,
    n: usize,
    rows: impl Fn(&'a Window) -> &'a [f32],
) -> Vec<f32> {
    let mut all = vec![0.0; steps * windows.len() * n];
    for (b, &window) in windows.iter().enumerate() {
        for (t, row) in rows(window).chunks_exact(n.max(1)).enumerate() {
            all[(t * windows.len() + b) * n..][..n].copy_from_slice(row);
        }
    }
    all
}

fn join(traced: &[(Output, Trace)], hidden: usize) -> Vec<f32> {
    join_parts(&traced.iter().map(|(output, _)| &output.y[..]).collect::<Vec<_>>(), hidden)
}

/// `[N, H]` of each direction side by side: `[N, D*H]`.
fn join_parts(parts: &[&[f32]], hidden: usize) -> Vec<f32> {
    let rows = parts[0].len() / hidden.max(1);
    (0..rows).flat_map(|i| parts.iter().flat_map(move |p| &p[i * hidden..][..hidden])).copied().collect()
}

/// The reverse of [`join_parts`].
fn part(joined: &[f32], parts: usize, hidden: usize) -> Vec<Vec<f32>> {
    let one =
        |d: usize| joined.chunks_exact(parts * hidden).flat_map(|row| &row[d * hidden..][..hidden]).copied().collect();
    (0..parts).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::head::Kind as Loss;
    use super::*;
    use crate::cell::noise::numbers;
    use crate::cell::{Activation, Kind};

    const HIDDEN: usize = 4;
    const LSTM: Kind = Kind::Lstm { input_forget: false };

    fn direction(seed: u64, kind: Kind, inputs: usize, reverse: bool) -> Direction {
        let activations = [Activation::Sigmoid, Activation::Tanh, Activation::Tanh];
        let spec = Spec { kind, hidden: HIDDEN, inputs, activations, clip: None };
        let rows = spec.rows();
        Direction {
            reverse,
            w: numbers(seed, rows * inputs),
            r: numbers(seed + 1, rows * HIDDEN),
            b: Some(numbers(seed + 2, 2 * rows)),
            p: None,
            spec,
        }
    }

    /// Two directions of a GRU, read by an LSTM.
    fn stack(goal: Goal) -> Stack {
        let gru = Kind::Gru { linear_before_reset: true };
        let first = vec![direction(1, gru, 3, false), direction(10, gru, 3, true)];
        Stack { layers: vec![first, vec![direction(20, LSTM, 2 * HIDDEN, false)]], goal }
    }

    fn windows() -> Vec<Window> {
        let window = |(i, steps): (usize, usize)| {
            let of = |seed: usize, n: usize| numbers((100 * i + seed) as u64, n);
            Window {
                steps,
                last: true,
                x: of(1, steps * 3),
                states: vec![
                    vec![[of(2, HIDDEN), Vec::new()], [of(3, HIDDEN), Vec::new()]],
                    vec![[of(4, HIDDEN), of(5, HIDDEN)]],
                ],
                y: vec![of(6, steps * HIDDEN)],
                c: vec![of(7, steps * HIDDEN)],
            }
        };
        [3, 1, 4].into_iter().enumerate().map(window).collect()
    }

    fn linear(kind: Loss) -> Goal {
        Goal::Output(Head { output: "y".into(), matrix: numbers(30, 5 * HIDDEN), bias: numbers(31, 5), kind })
    }

    #[test]
    fn gradients_of_a_stack_are_finite_differences() {
        let windows = windows();
        let windows: Vec<&Window> = windows.iter().collect();
        let finals = Finals { output: "h, c".into(), weights: [1.5, 0.5] };
        for goal in [Goal::States, linear(Loss::Divergence), linear(Loss::Squared(0.7)), Goal::Finals(finals)] {
            let mut stack = stack(goal);
            let (loss, gradients) = stack.gradients(&windows);
            assert!((loss - stack.loss(&windows)).abs() < 1e-12 && loss > 0.0);
            for (layer, d) in [(0, 0), (0, 1), (1, 0)] {
                for i in [0, 7, 20, 33] {
                    const STEP: f32 = 1e-2;
                    let mut at = |change: f32| {
                        stack.layers[layer][d].w[i] += change;
                        let loss = stack.loss(&windows);
                        stack.layers[layer][d].w[i] -= change;
                        loss
                    };
                    let truth = (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP));
                    let g = f64::from(gradients[layer][d].w[i]);
                    assert!((g - truth).abs() < 2e-4 * (1.0 + truth.abs()), "{layer} {d} {i}: {g} is not {truth}");
                }
            }
        }
    }

    #[test]
    fn the_loss_of_outputs_is_without_the_states_on_the_way() {
        let windows = windows();
        let windows: Vec<&Window> = windows.iter().collect();
        let stack = stack(Goal::Finals(Finals { output: "h".into(), weights: [1.0, 0.0] }));
        let run = stack.forward(&windows);
        let error = |(b, window): (usize, &&Window)| -> f64 {
            let at = ((window.steps - 1) * run.batch + b) * HIDDEN;
            let (own, target) = (&run.traced[1][0].0.y[at..][..HIDDEN], &window.y[0][(window.steps - 1) * HIDDEN..]);
            own.iter().zip(target).map(|(own, target)| f64::from(own - target).powi(2)).sum()
        };
        let wanted = windows.iter().enumerate().map(error).sum::<f64>() / windows.len() as f64;
        let found = stack.output_loss(&windows);
        assert!((found - wanted).abs() < 1e-6 * wanted && stack.loss(&windows) > found, "{found} is not {wanted}");
    }

    #[test]
    fn windows_in_groups_add_up() {
        let windows = windows();
        let one: Vec<&Window> = windows.iter().collect();
        let many: Vec<&Window> = one.iter().copied().cycle().take(one.len() * (GROUP * GROUPS_AT_ONCE / 2)).collect();
        let stack = stack(Goal::States);
        let ((a, of_one), (b, of_many)) = (stack.gradients(&one), stack.gradients(&many));
        assert!((a - b).abs() < 1e-6 * a);
        for (a, b) in of_one[0][0].r.iter().zip(&of_many[0][0].r) {
            assert!((a - b).abs() < 1e-5, "{a} is not {b}");
        }
    }
}
