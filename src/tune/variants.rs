//! Data augmentation: variants of the calibration sequences, against overfitting.
//!
//! Atoms and scales of a layer are many parameters for some hundred sequences, so they overfit: on the character
//! model of the fixtures tuning lowered the loss by 60 % on the tuning samples and by 25 % on other text. For other inputs
//! the original's states can be computed, so variants need no labels. At random steps a variant continues with the inputs
//! of another sequence from the same step on, one with a similar input just before, so that the transition is plausible
//! (in text, each pair of neighbouring letters occurs somewhere). In addition, single steps are replaced by the input of a
//! random other sequence, so that contexts do not repeat. Both use the same step, so padded sequences keep their padding.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::schedule::{CANDIDATES, EXCHANGED, SPLICED};
use super::sequences::Window;
use super::stack::Stack;

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
            splice(variant, self.pool, inputs, rng);
            exchange(variant, self.pool, inputs, rng);
        }
        self.original.set_targets(&mut variants);
        variants
    }
}

/// Follows other sequences now and then.
fn splice(variant: &mut Window, pool: &[Window], inputs: usize, rng: &mut ChaCha8Rng) {
    let mut followed: Option<&Window> = None;
    for step in 1..variant.steps {
        let (before, after) = variant.x.split_at_mut(step * inputs);
        if rng.random::<f64>() < SPLICED {
            let here = &before[(step - 1) * inputs..];
            let distance = |other: &Window| -> f32 {
                let there = &other.x[(step - 1) * inputs..][..inputs];
                there.iter().zip(here).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let candidates = (0..CANDIDATES).map(|_| &pool[rng.random_range(0..pool.len())]);
            let long = candidates.filter(|other| other.steps >= variant.steps);
            let nearest = long.map(|other| (distance(other), other)).min_by(|a, b| a.0.total_cmp(&b.0));
            followed = nearest.map(|(_, other)| other).or(followed);
        }
        if let Some(other) = followed {
            after[..inputs].copy_from_slice(&other.x[step * inputs..][..inputs]);
        }
    }
}

/// Gives some steps the input that another sequence has there.
fn exchange(variant: &mut Window, pool: &[Window], inputs: usize, rng: &mut ChaCha8Rng) {
    for (step, row) in variant.x.chunks_exact_mut(inputs).enumerate() {
        if rng.random::<f64>() < EXCHANGED {
            let from = &pool[rng.random_range(0..pool.len())];
            // A sequence alone has nothing else at this step.
            let alone = pool.len() == 1;
            let step = if alone { rng.random_range(0..from.steps) } else { step.min(from.steps - 1) };
            row.copy_from_slice(&from.x[step * inputs..][..inputs]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// Inputs that tell whose they are and of which step.
    fn window(number: usize, steps: usize) -> Window {
        let x = (0..steps).map(|step| (100 * number + step) as f32).collect();
        Window { steps, last: true, x, states: Vec::new(), y: Vec::new(), c: Vec::new() }
    }

    #[test]
    fn a_variant_goes_on_as_the_nearest_sequence_that_is_long_enough() {
        // The first is nearer still, but too short to follow.
        let pool = [window(2, 3), window(3, 9), window(5, 8)];
        let mut joined = Vec::new();
        for seed in 0..40 {
            let mut variant = window(2, 8);
            splice(&mut variant, &pool, 1, &mut ChaCha8Rng::seed_from_u64(seed));
            let own = variant.x.iter().take_while(|&&x| x < 300.0).count();
            assert_eq!(variant.x[..own], window(2, 8).x[..own]);
            assert_eq!(variant.x[own..], window(3, 8).x[own..]);
            joined.push(own);
        }
        assert!(joined.contains(&1) && joined.contains(&4), "{joined:?}");
    }

    #[test]
    fn steps_are_exchanged_for_the_same_steps_of_others() {
        let pool = [window(1, 3), window(3, 9)];
        let mut variant = window(2, 600);
        exchange(&mut variant, &pool, 1, &mut ChaCha8Rng::seed_from_u64(1));
        let taken = variant.x.iter().zip(window(2, 600).x).enumerate().filter(|(_, (x, own))| *x != own);
        let taken: Vec<(usize, f32)> = taken.map(|(step, (&x, _))| (step, x)).collect();
        assert!((10..60).contains(&taken.len()), "{taken:?}");
        assert!(taken.iter().all(|&(step, x)| x == 100.0 + step.min(2) as f32 || x == 300.0 + step.min(8) as f32));
    }
}
