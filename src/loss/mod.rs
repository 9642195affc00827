//! Differences between the outputs of two models.
//!
//! With `y` the original's output and `z` the other's, over all elements of all samples:
//!
//! - `max_abs = max |y - z|`, `rmse = sqrt(mean (y - z)^2)`
//! - `nmse = sum (y - z)^2 / sum (y - mean y)^2`; undefined where the original is constant
//! - `snr_db = 10 log10(sum y^2 / sum (y - z)^2)`; undefined for an exact match
//! - `snr_variance_db = -10 log10(nmse)`: what an offset of the output does not raise
//! - `cosine = sum y z / sqrt(sum y^2 sum z^2)`
//! - `agreement`: share of rows with the same largest class, the first one on a tie; of integers, share of equal elements
//! - `kl`: mean over the rows of `sum p ln(p / q)`, in nats
//!
//! A *row* is the classes of one decision: the last axis, or the axis of the Softmax that the output comes from.
//! Sums are taken in double precision, in a fixed order: the figures do not depend on the number of threads.
//!
//! Elements that are NaN in both models, or the same infinity, show nothing: they are in no figure but are counted
//! (`nan`, `infinite`). A row that holds NaN decides nothing and is counted too (`undecided`). An element that is not
//! finite in one of the two only is an error of the compressed model (`non_finite`).
//!
//! # Loss
//! Each output has one loss, of its [`LossKind`]. Two figures are made of the losses of all outputs that count:
//!
//! - the *worst*, `max_o loss_o`, is what a bound such as `--max-loss` is held against: a user who gives one wants it for
//!   every output;
//! - the *mean*, `sum_o loss_o / O`, is what changes to a model are compared by: it is smoother, and its derivatives by
//!   the errors of several outputs add up.
//!
//! An output counts if a node that is changed [reaches](reach) it. The others are the same whatever is done to the
//! weights: they would make the mean smaller, and a bound on all outputs easy to keep.

mod classes;
mod comparison;
mod evidence;
mod failure;
mod measure;
mod profile;
pub mod reach;

pub use classes::{Content, Rows};
pub use comparison::{Comparison, CrossEntropy, Figures};
pub use evidence::{Accuracy, ChangedSample, Decisions, Spread, WorstSample};
pub use failure::obstacle;
pub use measure::Reference;
pub use profile::{BINS, Bin, Profile};

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ElementType, Model, Values};
use crate::samples::{AxisSize, Carry, Signature};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The loss of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// Mean squared error over the variance of the original.
    Nmse,
    /// Mean Kullback-Leibler divergence from the original, in nats.
    Kl,
    /// Share of decisions that differ: `1 - agreement`.
    Disagreement,
    /// Rise of the mean cross-entropy with the labels over the original's, in nats; negative for a better model.
    CrossEntropy,
}

impl LossKind {
    const ALL: [LossKind; 4] = [LossKind::Nmse, LossKind::Kl, LossKind::Disagreement, LossKind::CrossEntropy];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            LossKind::Nmse => "nmse",
            LossKind::Kl => "kl",
            LossKind::Disagreement => "disagreement",
            LossKind::CrossEntropy => "cross-entropy",
        }
    }

    fn named(name: &str) -> Option<LossKind> {
        LossKind::ALL.into_iter().find(|k| k.name() == name)
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The losses that the user chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossSpec {
    /// For each output that is not named; if `None`, the content of the output decides.
    pub default: Option<LossKind>,
    /// For single outputs.
    pub named: BTreeMap<String, LossKind>,
}

impl LossSpec {
    /// Reads `KIND` or `NAME:KIND`, any number of them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown kind, and for two of the same output.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<LossSpec> {
        let mut spec = LossSpec::default();
        for text in texts.iter().map(AsRef::as_ref) {
            let (output, kind) = text.rsplit_once(':').map_or((None, text), |(output, kind)| (Some(output), kind));
            let Some(kind) = LossKind::named(kind) else {
                let kinds = LossKind::ALL.map(LossKind::name).join(", ");
                return Err(usage(format!("loss '{text}' is unknown, expected KIND or NAME:KIND with one of {kinds}")));
            };
            let before = match output {
                None => spec.default.replace(kind),
                Some(output) => spec.named.insert(output.to_owned(), kind),
            };
            if before.is_some() {
                return Err(usage(format!("loss '{text}': the same output is given twice")));
            }
        }
        Ok(spec)
    }
}

/// An output that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The graph output.
    pub name: String,
    /// What its elements are.
    pub content: Content,
    /// Its loss.
    pub loss: LossKind,
    /// Whether the divergence is measured: always for probabilities, for other outputs if the user chose it.
    pub kl: bool,
    /// Whether it has classes, so that decisions may be spoken of: by what computes or reads it, or because the user says so.
    pub decides: bool,
    /// Its dimensions, as far as they are declared.
    pub dims: Vec<AxisSize>,
    /// Whether it depends on what is changed, as far as is known: else it is not part of any loss.
    pub reached: bool,
}

/// The outputs of a model that are compared, and their losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    /// In the order of the graph's outputs.
    pub outputs: Vec<Judged>,
}

impl Judge {
    /// All outputs except those that are fed back. The default of the loss is the divergence for an output
    /// that comes from a Softmax or LogSoftmax, disagreement for integers, else the normalised squared error. For
    /// integers only disagreement is defined, so `spec.default` does not apply to them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if `spec` names an output that the model does not have or that is fed back, and if all
    /// outputs are fed back.
    pub fn new(model: &Model, spec: &LossSpec, carry: &[Carry]) -> Result<Judge> {
        let signature = Signature::of(model)?;
        let values = Values::new(&model.proto)?;
        let carried: BTreeSet<&str> = carry.iter().map(|c| c.output.as_str()).collect();
        let known: Vec<&str> =
            signature.outputs.iter().map(|o| o.name.as_str()).filter(|o| !carried.contains(o)).collect();
        if known.is_empty() {
            return Err(usage(
                "every output of the model is fed back by --stream, so there is none to compare".to_owned(),
            ));
        }
        if let Some(name) = spec.named.keys().find(|name| !known.contains(&name.as_str())) {
            let known = known.join(", ");
            return Err(usage(format!("loss of '{name}': not an output that is compared, those are {known}")));
        }
        let outputs = signature.outputs.iter().filter(|o| known.contains(&o.name.as_str())).map(|port| {
            let content = match port.element {
                ElementType::Float | ElementType::Float16 | ElementType::Double | ElementType::Undefined => {
                    Content::of(model, &values, &port.name)
                }
                _ => Content::Discrete,
            };
            let loss = match spec.named.get(&port.name) {
                Some(kind) => *kind,
                None if content == Content::Discrete => LossKind::Disagreement,
                None => spec.default.unwrap_or(if content.is_distribution() { LossKind::Kl } else { LossKind::Nmse }),
            };
            let kl = loss == LossKind::Kl || content.is_distribution();
            let dims = port.dims.clone().unwrap_or_default();
            let decides = content == Content::Discrete
                || loss != LossKind::Nmse
                || content.is_distribution()
                || classes::is_scored(model, &values, &port.name);
            Judged { name: port.name.clone(), content, loss, kl, decides, dims, reached: true }
        });
        Ok(Judge { outputs: outputs.collect() })
    }

    /// Enables the measurement of the divergence of this output, or of all outputs if `None`.
    pub fn measure_kl(&mut self, output: Option<&str>) {
        let outputs = self.outputs.iter_mut().filter(|o| output.is_none_or(|name| o.name == name));
        outputs.for_each(|o| (o.kl, o.decides) = (true, true));
    }

    /// Speaks of the decisions of this output, or of all outputs if `None`.
    pub fn speak_of_decisions(&mut self, output: Option<&str>) {
        let outputs = self.outputs.iter_mut().filter(|o| output.is_none_or(|name| o.name == name));
        outputs.for_each(|o| o.decides = true);
    }

    /// Leaves outputs that are not among `reached` (see [`reach::outputs`]) out of losses, and out of what a bound on all
    /// outputs is held against. They are still compared.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if none is left: then nothing that is judged depends on what is changed.
    pub fn keep_reached(&mut self, reached: &BTreeSet<String>) -> Result<()> {
        if !self.names().any(|name| reached.contains(name)) {
            let names = self.names().collect::<Vec<_>>().join(", ");
            let message = format!("no compared output depends on the weights that are changed: {names}");
            return Err(usage(message));
        }
        self.outputs.iter_mut().for_each(|output| output.reached = reached.contains(&output.name));
        Ok(())
    }

    /// The names of the outputs that are not part of the loss.
    pub fn unreached(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().filter(|o| !o.reached).map(|o| o.name.as_str())
    }

    /// The names of the outputs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|o| o.name.as_str())
    }
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read() {
        let spec = LossSpec::parse(&["nmse", "output:0:kl", "y:cross-entropy"]).unwrap();
        assert_eq!(spec.default, Some(LossKind::Nmse));
        assert_eq!(spec.named["output:0"], LossKind::Kl);
        assert_eq!(spec.named["y"], LossKind::CrossEntropy);
        for texts in [&["mse"][..], &["y:"], &["y:kl", "y:nmse"], &["kl", "kl"]] {
            assert_eq!(LossSpec::parse(texts).unwrap_err().kind(), ErrorKind::Usage, "{texts:?}");
        }
    }
}
