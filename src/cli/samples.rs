//! From the sample flags to the inputs that models are run on.
//!
//! What is learned from and what is judged on are kept apart wherever there is more than one sample, and where they are
//! not, the report says so.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use dirnet::compress::{Inputs, TestInputs};
use dirnet::loss::LossSpec;
use dirnet::onnx::Model;
use dirnet::samples::{Carry, Samples, Signature};

use super::args;
use crate::process::guard::{self, Message};

/// Tells the supervisor that the memory which is taken now is that of samples, and how large they are.
fn told<T>(work: impl FnOnce() -> Result<T>, samples: impl FnOnce(&T) -> [&Samples; 2]) -> Result<T> {
    if !guard::is_worker() {
        return work();
    }
    guard::tell(&Message::Samples(None));
    let done = work()?;
    let largest = samples(&done).map(Samples::largest_bytes).into_iter().max();
    guard::tell(&Message::Samples(largest));
    Ok(done)
}

impl args::Samples {
    /// What counts as the loss of each output.
    pub fn loss(&self) -> Result<LossSpec> {
        Ok(LossSpec::parse(&self.loss)?)
    }

    /// Reads or makes up what a model is calibrated with and judged on.
    pub fn inputs(&self, model: &Model) -> Result<Inputs> {
        told(|| self.calibrating_and_judging(model), |inputs| [&inputs.calibration, &inputs.holdout])
    }

    /// Reads or makes up what two models are compared on, and nothing else.
    pub fn judged(&self, model: &Model) -> Result<TestInputs> {
        told(|| self.judging(model), |inputs| [&inputs.samples; 2])
    }

    fn calibrating_and_judging(&self, model: &Model) -> Result<Inputs> {
        let signature = Signature::of(model)?;
        let carry = self.carry(&signature)?;
        let holdout = self.read(&self.holdout, &self.holdout_labels, &signature, &carry, "--holdout")?;
        Ok(match self.read(&self.calibration, &self.labels, &signature, &carry, "--calibration")? {
            Some(calibration) => Inputs::new(calibration, holdout),
            None => Inputs::random(model, &self.dim, &carry, self.seed, holdout)?,
        })
    }

    fn judging(&self, model: &Model) -> Result<TestInputs> {
        let signature = Signature::of(model)?;
        let carry = self.carry(&signature)?;
        // Labels are those of the calibration samples only where such are given, in a configuration that several commands
        // share.
        let own = if self.calibration.is_empty() { &self.labels[..] } else { &[] };
        let labels = [&self.holdout_labels[..], own].concat();
        if let Some(holdout) = self.read(&self.holdout, &labels, &signature, &carry, "--samples")? {
            return Ok(TestInputs::new(holdout));
        }
        Ok(match self.read(&self.calibration, &self.labels, &signature, &carry, "--calibration")? {
            Some(all) => TestInputs::held_out(all),
            None => TestInputs::random(model, &self.dim, &carry, self.seed)?,
        })
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
                Some((output, _)) => bail!("labels of '{output}' without samples: add {flag}"),
                None => Ok(None),
            };
        }
        if !self.dim.is_empty() {
            bail!("--dim is for random inputs; with {flag}, the samples have the sizes: remove --dim");
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
}
