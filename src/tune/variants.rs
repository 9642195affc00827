//! Variants of the samples: more to tune on than there is.
//!
//! The atoms and scales of a layer are many against some hundred sequences, and learn them by heart: on the character
//! model of the fixtures tuning took 60 % off the loss on what it was tuned on and 25 % off that of other text. But what
//! the original would have done on other inputs can be computed. A variant goes on, now and then, with the inputs that
//! another sequence has from the same step on: one that had about the same input just before, so that what follows is
//! what may follow (of words, a chain of letters each of which follows the one before it somewhere). Besides, some steps
//! get the input that any other sequence has there, so that no context is seen twice. At the same step: sequences that
//! are padded keep their padding.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::sequences::Window;
use super::stack::Stack;

/// The share of the steps that get another input. With more the samples count for less: on the character model at 16x the
/// divergence on other text was 0.0085 nats without, 0.0081 at a share of 0.06 and 0.0083 at one of 0.15.
const EXCHANGED: f64 = 0.04;

/// The share of the steps after which another sequence is followed, and how many are looked at for it.
const SPLICED: f64 = 0.15;
const CANDIDATES: usize = 40;

/// Makes variants of windows.
pub(super) struct Variants<'a> {
    /// The layers with the weights of the original.
    pub(super) original: Stack,
    /// Where inputs are taken from.
    pub(super) pool: &'a [Window],
}

impl Variants<'_> {
    /// A variant of each window. The targets are what the original does from where the window begins, be that where the
    /// coded model had come to.
    pub(super) fn of(&self, windows: &[&Window], rng: &mut ChaCha8Rng) -> Vec<Window> {
        let inputs = self.original.layers[0][0].spec.inputs;
        let mut variants: Vec<Window> = windows.iter().map(|&window| window.clone()).collect();
        for variant in &mut variants {
            self.splice(variant, inputs, rng);
            self.exchange(variant, inputs, rng);
        }
        self.original.set_targets(&mut variants);
        variants
    }
    /// Follows other sequences now and then.
    fn splice(&self, variant: &mut Window, inputs: usize, rng: &mut ChaCha8Rng) {
        let mut followed: Option<&Window> = None;
        for step in 1..variant.steps {
            let (before, after) = variant.x.split_at_mut(step * inputs);
            if rng.random::<f64>() < SPLICED {
                let here = &before[(step - 1) * inputs..];
                let distance = |other: &Window| -> f32 {
                    let there = &other.x[(step - 1) * inputs..][..inputs];
                    there.iter().zip(here).map(|(a, b)| (a - b) * (a - b)).sum()
                };
                let candidates = (0..CANDIDATES).map(|_| &self.pool[rng.random_range(0..self.pool.len())]);
                let long = candidates.filter(|other| other.steps >= variant.steps);
                followed =
                    long.map(|other| (distance(other), other)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, w)| w);
            }
            if let Some(other) = followed {
                after[..inputs].copy_from_slice(&other.x[step * inputs..][..inputs]);
            }
        }
    }

    /// Gives some steps the input that another sequence has there.
    fn exchange(&self, variant: &mut Window, inputs: usize, rng: &mut ChaCha8Rng) {
        for (step, row) in variant.x.chunks_exact_mut(inputs).enumerate() {
            if rng.random::<f64>() < EXCHANGED {
                let from = &self.pool[rng.random_range(0..self.pool.len())];
                // A sequence alone has nothing else at this step.
                let alone = self.pool.len() == 1;
                let step = if alone { rng.random_range(0..from.steps) } else { step.min(from.steps - 1) };
                row.copy_from_slice(&from.x[step * inputs..][..inputs]);
            }
        }
    }
}
