//! Variants of the samples: more to tune on than there is.
//!
//! The atoms and scales of a layer are many against some hundred sequences, and learn them by heart: on the character
//! model of the fixtures tuning took 60 % off the loss on what it was tuned on and 25 % off that of other text. But what
//! the original would have done on other inputs can be computed. Some steps of each sequence get the input that another
//! sequence of the samples has at the same step, so that no context is seen twice. At the same step: sequences that are
//! padded keep their padding.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::sequences::Window;
use super::stack::Stack;

/// The share of the steps that get another input. With more the samples count for less: on the character model at 16x the
/// divergence on other text was 0.0085 nats without, 0.0081 at a share of 0.06 and 0.0083 at one of 0.15.
const EXCHANGED: f64 = 0.08;

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
        for (step, row) in variants.iter_mut().flat_map(|variant| variant.x.chunks_exact_mut(inputs).enumerate()) {
            if rng.random::<f64>() < EXCHANGED {
                let from = &self.pool[rng.random_range(0..self.pool.len())];
                // A sequence alone has nothing else at this step.
                let alone = self.pool.len() == 1;
                let step = if alone { rng.random_range(0..from.steps) } else { step.min(from.steps - 1) };
                row.copy_from_slice(&from.x[step * inputs..][..inputs]);
            }
        }
        self.original.set_targets(&mut variants);
        variants
    }
}
