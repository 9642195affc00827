//! The samples of a job: what is calibrated on, what a size is searched on, and what the result is verified on.
//!
//! Calibration samples and held-out samples are kept apart wherever there is more than one, and where they are not, the
//! report says so.

use crate::error::Result;
use crate::onnx::Model;
use crate::samples::{Carry, Random, RandomOptions, Samples};

/// One part in so many of the calibration samples is held out for the verification.
pub const HELD_OUT: usize = 5;
/// Samples that are made up where there are none: the steps of one stream are shorter runs than whole samples.
const RANDOM_SAMPLES: usize = 16;
const RANDOM_STEPS: usize = 128;

/// The samples of a job.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Calibration samples.
    pub calibration: Samples,
    /// The part of the calibration samples that a size is searched on, not calibrated on. None if nothing is searched, or the
    /// calibration samples are too few to be parted.
    pub search: Option<Samples>,
    /// Held-out samples, for the verification.
    pub holdout: Samples,
    /// How the two are related.
    pub origin: InputOrigin,
    /// What the user should know about them.
    pub warnings: Vec<String>,
}

/// How calibration samples and held-out samples are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputOrigin {
    /// They are different samples.
    Calibration,
    /// They are the same.
    Same,
    /// The model was calibrated on random inputs.
    Random,
}

impl InputOrigin {
    /// Its name in reports: `calibration`, `same` or `random`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            InputOrigin::Calibration => "calibration",
            InputOrigin::Same => "same",
            InputOrigin::Random => "random",
        }
    }
}

impl Inputs {
    /// Calibration samples, and held-out samples if there are some: else the last fifth of the calibration samples is held
    /// out.
    #[must_use]
    pub fn new(calibration: Samples, holdout: Option<Samples>) -> Inputs {
        let mut warnings = calibration.notes.clone();
        let of =
            |calibration, holdout, origin, warnings| Inputs { calibration, search: None, holdout, origin, warnings };
        if let Some(holdout) = holdout {
            let new: Vec<_> = holdout.notes.iter().filter(|note| !warnings.contains(note)).cloned().collect();
            warnings.extend(new);
            return of(calibration, holdout, InputOrigin::Calibration, warnings);
        }
        match calibration.hold_out(HELD_OUT) {
            Some((calibration, holdout)) => of(calibration, holdout, InputOrigin::Calibration, warnings),
            None => {
                warnings.push("there is only one sample: it is used for calibration and for verification".to_owned());
                of(calibration.clone(), calibration, InputOrigin::Same, warnings)
            }
        }
    }

    /// Seeded random inputs of a model, where there are no calibration samples.
    ///
    /// # Errors
    /// As [`Random::new`].
    pub fn random(
        model: &Model,
        dims: &[(String, usize)],
        carry: &[Carry],
        seed: u64,
        holdout: Option<Samples>,
    ) -> Result<Inputs> {
        let random = random(model, dims, carry, seed, 0)?;
        let mut warnings =
            vec!["calibrated on random inputs: the loss is much smaller with real ones, use --calibration".to_owned()];
        warnings.extend(random.guesses);
        let holdout = match holdout {
            Some(holdout) => holdout,
            None => self::random(model, dims, carry, seed, 1)?.samples,
        };
        Ok(Inputs { calibration: random.samples, search: None, holdout, origin: InputOrigin::Random, warnings })
    }

    /// Holds part of the calibration samples back for a search.
    pub fn hold_back(&mut self) {
        match self.calibration.hold_out(HELD_OUT) {
            Some((calibration, search)) => (self.calibration, self.search) = (calibration, Some(search)),
            None => {
                self.warnings.push(
                    "there is only one sample: the size is searched on the sample that is calibrated on".to_owned(),
                );
            }
        }
    }

    /// What calibration saw, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let random = if self.origin == InputOrigin::Random { "random " } else { "" };
        format!("{random}{}", self.calibration.describe())
    }
}

/// Samples that models are compared on where nothing is calibrated.
#[derive(Clone, Debug)]
pub struct TestInputs {
    /// The samples.
    pub samples: Samples,
    /// What the user should know about them.
    pub warnings: Vec<String>,
}

impl TestInputs {
    /// These samples.
    #[must_use]
    pub fn new(samples: Samples) -> TestInputs {
        let warnings = samples.notes.clone();
        TestInputs { samples, warnings }
    }

    /// The part of calibration samples that [`Inputs::new`] holds out of them.
    #[must_use]
    pub fn held_out(calibration: Samples) -> TestInputs {
        TestInputs::new(calibration.hold_out(HELD_OUT).map_or(calibration, |(_, holdout)| holdout))
    }

    /// Seeded random inputs of a model, where there are no samples.
    ///
    /// # Errors
    /// As [`Random::new`].
    pub fn random(model: &Model, dims: &[(String, usize)], carry: &[Carry], seed: u64) -> Result<TestInputs> {
        let random = random(model, dims, carry, seed, 1)?;
        let mut warnings = vec!["compared on random inputs: use real ones, with --samples".to_owned()];
        warnings.extend(random.guesses);
        Ok(TestInputs { samples: random.samples, warnings })
    }
}

/// Seeded random inputs; another `part` gives others.
///
/// # Errors
/// As [`Random::new`].
fn random(model: &Model, dims: &[(String, usize)], carry: &[Carry], seed: u64, part: u64) -> Result<Random> {
    let count = if carry.is_empty() { RANDOM_SAMPLES } else { RANDOM_STEPS };
    let options = RandomOptions { dims, carry, seed: seed.wrapping_mul(2).wrapping_add(part), count };
    Random::new(model, &options).map_err(|error| match model.path() {
        Some(path) => error.in_file(path),
        None => error,
    })
}
