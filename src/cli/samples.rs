//! From the sample flags to the inputs that models are run on.
//!
//! What is learned from and what is judged on are kept apart wherever there is more than one sample, and where they are
//! not, the report says so.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use dirnet::loss::LossSpec;
use dirnet::onnx::Model;
use dirnet::samples::{Carry, Random, RandomOptions, Samples, Signature};

use super::args;
use super::guard::{self, Message};

/// One part in so many of the calibration is kept out for the verification.
const HELD_OUT: usize = 5;
/// Samples that are made up where there are none: the steps of one stream are shorter runs than whole samples.
const RANDOM_SAMPLES: usize = 16;
const RANDOM_STEPS: usize = 128;

/// The inputs of a job.
pub struct Inputs {
    /// To learn from.
    pub calibration: Samples,
    /// To search a size on: part of the calibration that is not learned from. None if nothing is searched, or the
    /// calibration is too little to be parted.
    pub search: Option<Samples>,
    /// To judge on.
    pub holdout: Samples,
    /// What the report says of their relation: `calibration`, `same` or `random`.
    pub calibrated_on: &'static str,
    /// What the user should know about them.
    pub warnings: Vec<String>,
}

impl Inputs {
    /// Holds part of the calibration back for a search.
    pub fn hold_back(&mut self) {
        match self.calibration.hold_out(HELD_OUT) {
            Some((calibration, search)) => (self.calibration, self.search) = (calibration, Some(search)),
            None => {
                self.warnings.push("there is one sample: --max-loss is searched on what is learned from".to_owned())
            }
        }
    }

    /// What calibration saw, in words.
    pub fn origin(&self) -> String {
        let random = if self.calibrated_on == "random" { "random " } else { "" };
        format!("{random}{}", self.calibration.describe())
    }
}

/// Tells the supervisor that the memory which is taken now is that of samples.
fn told<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    if guard::is_worker() {
        guard::tell(&Message::Samples(true));
    }
    let done = work();
    if guard::is_worker() {
        guard::tell(&Message::Samples(false));
    }
    done
}

impl args::Samples {
    /// What counts as the loss of each output.
    pub fn loss(&self) -> Result<LossSpec> {
        Ok(LossSpec::parse(&self.loss)?)
    }

    /// Reads or makes up what a model is calibrated with and judged on.
    pub fn inputs(&self, model: &Model) -> Result<Inputs> {
        told(|| self.calibrating_and_judging(model))
    }

    /// Reads or makes up what two models are compared on, and nothing else.
    pub fn judged(&self, model: &Model) -> Result<(Samples, Vec<String>)> {
        told(|| self.judging(model))
    }

    fn calibrating_and_judging(&self, model: &Model) -> Result<Inputs> {
        let signature = Signature::of(model)?;
        let carry = self.carry(&signature)?;
        let holdout = self.read(&self.holdout, &self.holdout_labels, &signature, &carry, "--holdout")?;
        match (self.read(&self.calibration, &self.labels, &signature, &carry, "--calibration")?, holdout) {
            (Some(calibration), Some(holdout)) => {
                Ok(Inputs { calibration, search: None, holdout, calibrated_on: "calibration", warnings: Vec::new() })
            }
            (Some(all), None) => Ok(match all.hold_out(HELD_OUT) {
                Some((calibration, holdout)) => {
                    Inputs { calibration, search: None, holdout, calibrated_on: "calibration", warnings: Vec::new() }
                }
                None => Inputs {
                    calibration: all.clone(),
                    search: None,
                    holdout: all,
                    calibrated_on: "same",
                    warnings: vec!["there is one sample: the result is judged on what it was calibrated on".to_owned()],
                },
            }),
            (None, holdout) => {
                let (calibration, mut warnings) = self.random(model, &carry, 0)?;
                warnings.insert(
                    0,
                    "calibrated on random inputs: real ones, with --calibration, lose far less at the same size"
                        .to_owned(),
                );
                let holdout = match holdout {
                    Some(holdout) => holdout,
                    None => self.random(model, &carry, 1)?.0,
                };
                Ok(Inputs { calibration, search: None, holdout, calibrated_on: "random", warnings })
            }
        }
    }

    fn judging(&self, model: &Model) -> Result<(Samples, Vec<String>)> {
        let signature = Signature::of(model)?;
        let carry = self.carry(&signature)?;
        if let Some(holdout) = self.read(&self.holdout, &self.holdout_labels, &signature, &carry, "--holdout")? {
            return Ok((holdout, Vec::new()));
        }
        // The part that `compress` keeps out of the same files.
        if let Some(all) = self.read(&self.calibration, &self.labels, &signature, &carry, "--calibration")? {
            return Ok((all.hold_out(HELD_OUT).map_or(all, |(_, holdout)| holdout), Vec::new()));
        }
        let (samples, mut warnings) = self.random(model, &carry, 1)?;
        warnings.insert(0, "judged on random inputs: real ones, with --holdout, say more".to_owned());
        Ok((samples, warnings))
    }

    /// What is fed back, held against the model before a sample is read: a wrong name is not the samples' fault.
    fn carry(&self, signature: &Signature) -> Result<Vec<Carry>> {
        let carry = self.stream.iter().map(|text| Carry::parse(text)).collect::<dirnet::error::Result<Vec<_>>>()?;
        Carry::check(&carry, signature)?;
        Ok(carry)
    }

    fn read(
        &self,
        paths: &[PathBuf],
        labels: &[(String, PathBuf)],
        signature: &Signature,
        carry: &[Carry],
        flag: &str,
    ) -> Result<Option<Samples>> {
        if paths.is_empty() {
            return match labels.first() {
                Some((output, _)) => bail!("labels of '{output}' without the samples that they are for: {flag}"),
                None => Ok(None),
            };
        }
        if !self.dim.is_empty() {
            bail!("--dim is for random inputs: with {flag}, sizes are those of the samples");
        }
        let mut samples = Samples::read(paths, signature, carry).with_context(|| flag.to_owned())?;
        if samples.is_empty() {
            bail!("{flag}: there is no sample in {}", paths[0].display());
        }
        for (output, file) in labels {
            samples.add_labels(output, file)?;
        }
        Ok(Some(samples))
    }

    /// Seeded random inputs; another `part` gives others.
    fn random(&self, model: &Model, carry: &[Carry], part: u64) -> Result<(Samples, Vec<String>)> {
        let count = if carry.is_empty() { RANDOM_SAMPLES } else { RANDOM_STEPS };
        let seed = self.seed.wrapping_mul(2).wrapping_add(part);
        let random = Random::new(model, &RandomOptions { dims: &self.dim, carry, seed, count });
        let random = random.map_err(|error| match model.path() {
            Some(path) => error.in_file(path),
            None => error,
        })?;
        Ok((random.samples, random.guesses))
    }
}
