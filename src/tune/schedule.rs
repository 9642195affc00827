//! Every constant of tuning, with its reason, and what follows from them alone: how many steps, how large a batch, and
//! how the step size goes from step to step.
//!
//! A constant that was chosen by trials names the models of the trials. Their figures are in `docs/experiments.md`.

use std::ops::RangeInclusive;

// How much is computed.

/// Multiplications and additions of all steps of [`Effort::Fast`](super::Effort::Fast): about a minute on two cores, so
/// that tuning takes about as long as everything else does.
const FAST_OPERATIONS: f64 = 5.3e12;

/// Operations for a weight and a step of a sequence: two each for the product, its gradient in the weight, its gradient
/// in the vector, and the product in the original.
const OPERATIONS: f64 = 8.0;

/// Steps of Adam in the descent of [`Effort::Fast`](super::Effort::Fast). With fewer than 24 the warm-up would be
/// more than a fifth of the descent; 250 at most keep the tuning of a small model as short as the rest of its compression.
const FAST_STEPS: RangeInclusive<usize> = 24..=250;

/// Steps of Adam in one descent of [`Effort::Full`](super::Effort::Full), which repeats it.
pub(super) const FULL_STEPS: usize = 300;

/// A trial of a plan takes one in so many of the steps of [`Effort::Fast`](super::Effort::Fast): a plan is tried for each
/// kind of gate, so that all trials together take a few times as long as one tuning.
const TRIAL: usize = 4;

/// A trial with fewer steps ranks plans by chance: there is none.
const TRIAL_STEPS: usize = 48;

/// The first descent ends after one in so many of its steps where the loss of held-out samples is not lower by then: the steps
/// are largest there, and later ones gain less.
pub(super) const LOOK: usize = 3;

/// Descents of [`Effort::Full`](super::Effort::Full) at most. Chosen on the g2p encoder, where five paid.
pub(super) const DESCENTS: usize = 8;

/// A descent pays if it takes this share off the loss: less is not worth its minutes.
pub(super) const PAYS: f64 = 0.006;

/// Descents in a row that may not pay before it ends. On the g2p encoder one that did not pay was followed by some that
/// did.
pub(super) const PATIENCE: usize = 2;

/// A descent that chooses codes ends with one step for each so many of its steps in which the codes stay: atoms, scales
/// and biases then adapt to the codes that changed last. Chosen on the g2p encoder.
const SETTLING: usize = 5;

/// The largest step while codes stay, against that of a descent: it starts near an optimum.
pub(super) const SETTLING_SHARE: f64 = 0.5;

/// Operations of [`USUAL_DESCENTS`] descents of [`Effort::Full`](super::Effort::Full), from which on their batches are
/// smaller: about ten minutes on two cores.
const FULL_OPERATIONS: f64 = 4e13;

/// Descents that [`FULL_OPERATIONS`] are divided among: what models usually take.
const USUAL_DESCENTS: f64 = 5.0;

// What a step is computed from.

/// Steps of sequences in a batch, about: a compromise between the noise of a gradient and the number of steps that there is
/// time for.
pub(super) const BATCH_STEPS: usize = 2048;

/// Steps of sequences in a batch of [`Effort::Full`](super::Effort::Full) at most. A gradient that asks for another code
/// is small against the noise, which larger batches average out. Chosen on the g2p encoder.
const FULL_BATCH_STEPS: usize = 8192;

/// Windows in a batch at least: steps of one sequence have much in common.
const BATCH_WINDOWS: usize = 32;

/// Steps in a window that a batch is divided by at least, so that a batch of very short windows is not all windows.
const SHORTEST_WINDOW: usize = 8;

/// Steps of a window at most: gradients are cut there, and memory does not grow with the length of a sequence.
pub(super) const WINDOW: usize = 64;

/// Floats of all windows at most: a quarter of a gigabyte.
pub(super) const WINDOW_FLOATS: usize = 1 << 26;

/// Steps of sequences that are recorded at most, for tuning and for the held-out samples together: 32 batches.
/// More samples would take longer to record than to tune on.
pub(super) const TRACED_STEPS: usize = 1 << 16;

/// One sequence in so many is held out where the samples are too few to be parted.
pub(super) const HELD_OUT: usize = 5;

/// Held-out windows that the loss is computed on, at most: it is computed twice in a descent.
pub(super) const JUDGED: usize = 128;

/// Streams at least, where states are carried from sample to sample: parts of one stream have so much in common that
/// what is better on those held out may be worse on another stream.
pub(super) const STREAMS: usize = 4;

/// Streams that are run to find out which layers read which: a layer that reads another does so in every run.
pub(super) const PROBES: usize = 6;

/// Streams that run at the same time. Fixed, because windows are counted after each such round, and the result must not
/// depend on the number of threads.
pub(super) const AT_ONCE: usize = 4;

/// Windows that run as one batch of a layer. Fixed, so that sums do not depend on the number of threads.
pub(super) const GROUP: usize = 16;

/// Groups whose gradients are in memory at the same time.
pub(super) const GROUPS_AT_ONCE: usize = 4;

// Variants of the samples.

/// The share of steps that get the input of another sequence. Chosen on the character model: with more, the samples
/// themselves count for less.
pub(super) const EXCHANGED: f64 = 0.04;

/// The share of steps after which another sequence is followed. Chosen on the g2p encoder, where 0.2 to 1 did as well,
/// and on the character model, where 0.5 did worse than 0.1.
pub(super) const SPLICED: f64 = 0.15;

/// Sequences among which the one to follow is looked for: enough for one with a similar input.
pub(super) const CANDIDATES: usize = 40;

// What is minimised, and what is kept.

/// What an error of `C` counts against one of `Y`, where a layer is tuned against its own states: `Y` is read by what
/// follows, `C` only by the layer itself.
pub(super) const CELL_SHARE: f64 = 0.1;

/// What the mean error of the other states counts against that of the last one, where only the last one is an output.
/// With the last one alone, tuning overfits: there are as many targets as sequences.
pub(super) const OTHER_STATES: f64 = 3.0;

/// The share of the loss that tuning has to take off to be kept: a smaller gain on held-out samples is often a loss on
/// others.
pub(super) const WORTH: f64 = 0.03;

/// Squared error over variance up to which an output counts as a linear function of the states: far above the
/// rounding of float32, far below what a nonlinear output leaves.
pub(super) const EXACT: f64 = 1e-6;

/// The widest states and output for which a linear function is looked for: beyond that the fit costs more than tuning.
pub(super) const WIDEST: usize = 2048;

/// Added to the diagonal of the moments of the states for that fit, as a share of its mean: above the rounding of
/// float64, far below what a real direction has.
pub(super) const RIDGE: f64 = 1e-10;

// The step size.

/// The largest step of an atom, against the rms of its codebook.
pub(super) const ATOM_RATE: f64 = 0.012;

/// The largest step of a row scale, against itself: half that of an atom, because a scale moves a whole row.
pub(super) const SCALE_RATE: f64 = 0.006;

/// The largest step of a bias, against 1. B has two that add up, so that the sum moves twice as far.
pub(super) const BIAS_RATE: f32 = 0.002;

/// The largest step of a latent weight for batches of [`BATCH_STEPS`], against the rms of its row. With a larger one the
/// noise of the gradients moves codes that were good. Chosen on the g2p encoder.
pub(super) const LATENT_RATE: f64 = 0.003;

/// The power of the batch size that the rate of latent weights grows with. 0.5 would keep the noise of a step as it is.
/// Chosen on the g2p encoder.
const LATENT_GROWTH: f64 = 0.4;

/// Decay of Adam's means of gradients and of their squares. The second is below the usual 0.999 because a descent has
/// only some hundred steps.
pub(super) const DECAY: [f32; 2] = [0.9, 0.98];

/// Steps of the warm-up: Adam's means are of few gradients there.
const WARM_UP: f64 = 5.0;

/// Steps of the descent of [`Effort::Fast`](super::Effort::Fast) for so many weights.
pub(super) fn fast_steps(weights: usize) -> usize {
    let step = OPERATIONS * weights as f64 * BATCH_STEPS as f64;
    ((FAST_OPERATIONS / step) as usize).clamp(*FAST_STEPS.start(), *FAST_STEPS.end())
}

/// Steps of a trial of a plan for so many weights; `None` if there are too few to rank plans.
pub(super) fn trial_steps(weights: usize) -> Option<usize> {
    let steps = fast_steps(weights) / TRIAL;
    (steps >= TRIAL_STEPS).then_some(steps)
}

/// Steps of sequences in a batch of [`Effort::Full`](super::Effort::Full) for so many weights.
pub(super) fn full_batch_steps(weights: usize) -> usize {
    let descents = USUAL_DESCENTS * (FULL_STEPS + settling(FULL_STEPS)) as f64;
    let steps = FULL_OPERATIONS / (OPERATIONS * weights as f64 * descents);
    (steps as usize).clamp(BATCH_STEPS, FULL_BATCH_STEPS)
}

/// Windows in a batch of so many steps of sequences, where windows have so many on average.
pub(super) fn batch_windows(steps: usize, mean: usize) -> usize {
    (steps / mean.max(1)).clamp(BATCH_WINDOWS, steps / SHORTEST_WINDOW)
}

/// Steps in which codes stay after a descent of so many.
pub(super) fn settling(descent: usize) -> usize {
    descent / SETTLING
}

/// The largest step of a latent weight for batches of so many steps of sequences: larger ones have less noise.
pub(super) fn latent_rate(batch: usize) -> f64 {
    LATENT_RATE * (batch as f64 / BATCH_STEPS as f64).max(1.0).powf(LATENT_GROWTH)
}

/// The share of the largest step: up over the first steps, then half a cosine down to nothing.
pub(super) fn share(step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps.max(1) as f64;
    ((step as f64 + 1.0) / WARM_UP).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_goes_up_then_down_to_nothing() {
        assert!(share(0, 100) < share(2, 100) && share(5, 100) > 0.9);
        assert!(share(50, 100) < 0.6 && share(99, 100) < 0.01);
    }

    #[test]
    fn large_models_take_fewer_steps_and_smaller_batches() {
        assert_eq!([1 << 10, 1 << 22, 1 << 30].map(fast_steps), [250, 77, 24]);
        assert_eq!([1 << 10, 1 << 30].map(full_batch_steps), [FULL_BATCH_STEPS, BATCH_STEPS]);
        assert!(trial_steps(1 << 10).is_some() && trial_steps(1 << 30).is_none());
    }
}
