//! Running sums over the samples, and the figures computed from them.
//!
//! The variance is summed by the pairwise update of Chan, Golub and LeVeque (1979), which does not cancel where the
//! mean is large, and whose parts can be merged.

use super::classes::{Rows, argmax, divergence};
use super::evidence::{self, Accuracy, Decisions, SampleSums, Spread, WorstSample};
use super::profile::{self, Profile};
use super::{Content, Judge, Judged, LossKind};
use crate::error::{Error, ErrorKind, Result};
use crate::samples::{Labels, Tensor};
use ndarray::{ArrayD, ArrayView1, Axis};
use serde::Serialize;

/// The difference of one output from the original's. A figure that was not measured or is undefined is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// The output.
    pub name: String,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Root mean square of the difference.
    pub rmse: Option<f64>,
    /// Sum of squared differences over that of the original's deviations from its mean.
    pub nmse: Option<f64>,
    /// Signal to noise ratio in decibels: the energy of the original over that of the error.
    pub snr_db: Option<f64>,
    /// The variance of the original over the energy of the error, in decibels, `-10 log10 nmse`: an offset of the output
    /// does not raise it.
    pub snr_variance_db: Option<f64>,
    /// Cosine of the angle between the two.
    pub cosine: Option<f64>,
    /// Share of equal decisions.
    pub agreement: Option<f64>,
    /// Mean divergence, in nats.
    pub kl: Option<f64>,
    /// Mean cross-entropy with the labels, where there are any.
    pub cross_entropy: Option<CrossEntropy>,
    /// Share of decisions that are the labels', where there are any.
    pub accuracy: Option<Accuracy>,
    /// Whether the output [has classes](super::Judged::decides): only then is its agreement one of decisions.
    pub decides: bool,
    /// Decisions of both models, where the output [has classes](super::Judged::decides) and samples were [told
    /// apart](Comparison::profiled).
    pub decisions: Option<Decisions>,
    /// The sample with the largest error, of several.
    pub worst: Option<WorstSample>,
    /// How much the figures vary over the samples.
    pub spread: Spread,
    /// [`snr_variance_db`](Self::snr_variance_db) in the first, the second and the last third of the positions of the
    /// profile; empty where there are fewer than three, and null without an error.
    pub course_db: Vec<Option<f64>>,
    /// Elements that are finite in only one of the two, or not finite in different ways. They are in no other figure.
    pub non_finite: u64,
    /// Elements that are NaN in both. They are in no other figure.
    pub nan: u64,
    /// Elements that are the same infinity in both. They are in no other figure.
    pub infinite: u64,
    /// Rows of classes that hold NaN, in either: they decide nothing, and count for no agreement and no divergence.
    pub undecided: u64,
    /// Elements that were compared: all that are finite in both.
    pub elements: u64,
    /// Whether the original gives one and the same number for all elements that were compared, which are several. Integers
    /// are never told so: a label may well be the same throughout.
    pub constant: bool,
    /// Whether the output depends on what was changed; else it is not part of the loss.
    pub reached: bool,
    /// The error along time and by its size, where it was [asked for](Comparison::profiled).
    pub profile: Option<Profile>,
}

/// Mean of `-ln` of the right class's probability, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CrossEntropy {
    /// Of the original.
    pub original: f64,
    /// Of the model that is compared with it.
    pub compressed: f64,
}

/// Sums over the samples so far, for each compared output.
#[derive(Clone, Debug)]
pub struct Comparison {
    outputs: Vec<Compared>,
}

/// One compared output.
#[derive(Clone, Debug)]
struct Compared {
    judged: Judged,
    sums: Sums,
    /// If enabled.
    profile: Option<profile::Sums>,
    /// If enabled: the sums of each sample.
    samples: Option<Vec<SampleSums>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    samples: u64,
    elements: u64,
    non_finite: u64,
    nan: u64,
    infinite: u64,
    undecided: u64,
    /// The elements are integers or booleans, whatever was declared.
    discrete: bool,
    max_abs: f64,
    squared_error: f64,
    original_energy: f64,
    energy: f64,
    product: f64,
    mean: f64,
    /// Squared deviations of the original from its mean.
    deviation: f64,
    /// Decisions, and those that are equal.
    decisions: u64,
    equal: u64,
    divergence: f64,
    /// Rows that `divergence` is the sum of.
    diverging: u64,
    /// Decisions with a label, and those that are it.
    judged: u64,
    original_right: u64,
    right: u64,
    labelled: u64,
    original_surprise: f64,
    surprise: f64,
}

impl Judge {
    /// A comparison without samples.
    pub fn comparison(&self) -> Comparison {
        let empty =
            |judged: &Judged| Compared { judged: judged.clone(), sums: Sums::default(), profile: None, samples: None };
        Comparison { outputs: self.outputs.iter().map(empty).collect() }
    }
}

impl Comparison {
    /// Also records the error over time, the histogram of errors, and the error of each sample. Runs are steps of `streams`
    /// or samples.
    #[must_use]
    pub fn profiled(mut self, streams: bool) -> Comparison {
        for output in &mut self.outputs {
            (output.profile, output.samples) = (Some(profile::Sums::new(streams)), Some(Vec::new()));
        }
        self
    }

    /// Records what was added so far as one sample.
    pub(super) fn is_sample(&mut self, origin: &str) {
        let origin: std::sync::Arc<str> = origin.into();
        for Compared { sums, samples, .. } in &mut self.outputs {
            let Sums { elements, squared_error, decisions, equal, .. } = *sums;
            let sample = SampleSums { origin: origin.clone(), elements, squared_error, decisions, equal };
            samples.iter_mut().for_each(|samples| samples.push(sample.clone()));
        }
    }

    /// Adds one run of both models, as outputs by name. `position` is its number in its stream, or among the samples.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the two models give different outputs; [`ErrorKind::Samples`] for labels that do not fit.
    pub fn add(
        &mut self,
        original: &[(String, Tensor)],
        compressed: &[(String, Tensor)],
        labels: Option<&Labels>,
        position: usize,
    ) -> Result<()> {
        for Compared { judged, sums, profile, .. } in &mut self.outputs {
            let of = |outputs: &[(String, Tensor)], which: &str| {
                let found = outputs.iter().find(|(name, _)| *name == judged.name).map(|(_, tensor)| tensor.clone());
                found.ok_or_else(|| unlike(judged, format!("the {which} model does not give this output")))
            };
            let (y, z) = (of(original, "original")?, of(compressed, "compressed")?);
            if y.element() != z.element() || y.shape() != z.shape() {
                let show = |t: &Tensor| format!("{} {:?}", t.element().as_str_name(), t.shape());
                return Err(unlike(judged, format!("the original gives {}, the other {}", show(&y), show(&z))));
            }
            let labels = labels.and_then(|l| l.get(&judged.name));
            sums.merge(&Sums::of(judged, &y, &z, labels)?);
            if let Some(profile) = profile {
                profile.add(&y, &z, position);
            }
        }
        Ok(())
    }

    /// Adds the sums of another comparison by the same [`Judge`].
    ///
    /// # Panics
    /// If it is of another one, with other outputs.
    pub fn merge(&mut self, other: &Comparison) {
        assert_eq!(self.outputs.len(), other.outputs.len(), "comparisons of different outputs are added");
        for (own, more) in self.outputs.iter_mut().zip(&other.outputs) {
            own.sums.merge(&more.sums);
            if let (Some(profile), Some(more)) = (&mut own.profile, &more.profile) {
                profile.merge(more);
            }
            if let (Some(samples), Some(more)) = (&mut own.samples, &more.samples) {
                samples.extend(more.iter().cloned());
            }
        }
    }

    /// The figures of each compared output.
    pub fn figures(&self) -> Vec<Figures> {
        let figures = |Compared { judged, sums, profile, samples }: &Compared| {
            let profile = profile.as_ref().and_then(|profile| profile.profile(judged, sums.spread()));
            let course_db = profile.as_ref().map_or_else(Vec::new, Profile::course_db);
            let samples = samples.as_deref().unwrap_or_default();
            let variance = sums.spread().map(|deviation| deviation * deviation);
            Figures {
                profile,
                course_db,
                decisions: evidence::decisions(samples).filter(|_| sums.decides(judged)),
                worst: evidence::worst(samples, variance),
                spread: evidence::spread(samples, variance),
                ..sums.figures(judged)
            }
        };
        self.outputs.iter().map(figures).collect()
    }

    /// The loss of every judged output that is reached by what was changed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the kind of loss is undefined for the output or there are no labels;
    /// [`ErrorKind::Engine`] where the compared model gives NaN or infinities that the original does not.
    pub fn losses(&self) -> Result<Vec<f64>> {
        let reached = self.outputs.iter().filter(|output| output.judged.reached);
        // A loss that is no number is no small one: sums may overflow.
        let bounded = |loss: f64| if loss.is_nan() { f64::INFINITY } else { loss };
        reached.map(|Compared { judged, sums, .. }| sums.loss(judged).map(bounded)).collect()
    }

    /// The largest loss of any output: the loss that `--max-loss` bounds.
    ///
    /// # Errors
    /// As [`losses`](Self::losses); [`ErrorKind::Usage`] if no output is reached.
    pub fn worst_loss(&self) -> Result<f64> {
        self.losses()?.into_iter().reduce(f64::max).ok_or_else(nothing_reached)
    }

    /// The mean loss of the outputs: smoother than the largest, for comparing changes.
    ///
    /// # Errors
    /// As [`losses`](Self::losses); [`ErrorKind::Usage`] if no output is reached.
    pub fn mean_loss(&self) -> Result<f64> {
        let losses = self.losses()?;
        if losses.is_empty() {
            return Err(nothing_reached());
        }
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }
}

impl Sums {
    /// One pair of outputs of equal shape.
    fn of(judged: &Judged, original: &Tensor, compressed: &Tensor, labels: Option<&ArrayD<i64>>) -> Result<Sums> {
        let (y, z) = (original.to_f64(), compressed.to_f64());
        let mut sums = Sums { samples: 1, discrete: !original.is_float(), ..Sums::default() };
        sums.add_elements(&y, &z);
        if !original.is_float() {
            sums.decisions = y.len() as u64;
            sums.equal = equal_elements(original, compressed);
            // Two 64-bit integers that differ may be one number in double precision.
            if sums.equal < sums.decisions && sums.max_abs == 0.0 {
                sums.max_abs = 1.0;
            }
            if let Some(labels) = labels {
                sums.add_labelled_integers(judged, original, compressed, labels)?;
            }
            return Ok(sums);
        }
        let outer: Vec<usize> = y.shape().to_vec();
        match (judged.content.class_axis(y), judged.content.class_axis(z)) {
            (Some((y, axis)), Some((z, _))) => sums.add_rows(judged, &y, &z, axis, labels)?,
            _ if labels.is_some() => {
                return Err(Error::new(ErrorKind::Samples, format!("labels, but shape {outer:?} holds no classes"))
                    .at_tensor(&judged.name));
            }
            _ => {}
        }
        Ok(sums)
    }

    fn add_elements(&mut self, y: &ArrayD<f64>, z: &ArrayD<f64>) {
        let finite = |y: f64, z: f64| y.is_finite() && z.is_finite();
        let mut total = 0.0;
        for (&y, &z) in y.iter().zip(z) {
            if !finite(y, z) {
                self.nan += u64::from(y.is_nan() && z.is_nan());
                self.infinite += u64::from(y == z);
                self.non_finite += u64::from(!(y == z || y.is_nan() && z.is_nan()));
                continue;
            }
            let error = y - z;
            self.elements += 1;
            self.max_abs = self.max_abs.max(error.abs());
            self.squared_error += error * error;
            self.original_energy += y * y;
            self.energy += z * z;
            self.product += y * z;
            total += y;
        }
        if self.elements > 0 {
            self.mean = total / self.elements as f64;
            let counted = y.iter().zip(z).filter(|&(&y, &z)| finite(y, z));
            self.deviation = counted.map(|(y, _)| (y - self.mean).powi(2)).sum();
        }
    }

    /// Decisions that are integers, each with a label.
    fn add_labelled_integers(
        &mut self,
        judged: &Judged,
        original: &Tensor,
        compressed: &Tensor,
        labels: &ArrayD<i64>,
    ) -> Result<()> {
        let (Some(y), Some(z)) = (original.to_i64(), compressed.to_i64()) else { return Ok(()) };
        if without_ones(labels.shape()) != without_ones(y.shape()) {
            let message = format!("labels of shape {:?}, but the output is {:?}", labels.shape(), y.shape());
            return Err(Error::new(ErrorKind::Samples, message).at_tensor(&judged.name));
        }
        for ((&label, &y), &z) in labels.iter().zip(&y).zip(&z).filter(|((label, _), _)| **label >= 0) {
            self.add_label(label, y, z);
        }
        Ok(())
    }

    fn add_label(&mut self, label: i64, original: i64, compressed: i64) {
        self.judged += 1;
        self.original_right += u64::from(original == label);
        self.right += u64::from(compressed == label);
    }

    fn add_rows(
        &mut self,
        judged: &Judged,
        y: &ArrayD<f64>,
        z: &ArrayD<f64>,
        axis: Axis,
        labels: Option<&ArrayD<i64>>,
    ) -> Result<()> {
        let rows = y.lanes(axis).into_iter().zip(z.lanes(axis));
        let labels = labels.map(|labels| checked_labels(judged, labels, y, axis)).transpose()?;
        let (mut p, mut q) = (Vec::new(), Vec::new());
        for (i, (y, z)) in rows.enumerate() {
            if y.iter().chain(&z).any(|v| v.is_nan()) {
                self.undecided += 1;
                continue;
            }
            self.decisions += 1;
            let (original, compressed) = (argmax(y.iter().copied()), argmax(z.iter().copied()));
            self.equal += u64::from(original == compressed);
            let label = labels.as_ref().map(|l| l[i]).filter(|&l| l >= 0);
            if let Some(label) = label {
                self.add_label(label, original as i64, compressed as i64);
            }
            if !(judged.kl || label.is_some()) || !has_probabilities(&y) || !has_probabilities(&z) {
                continue;
            }
            p.clear();
            p.extend(&y);
            q.clear();
            q.extend(&z);
            judged.content.log_probabilities(&mut p);
            judged.content.log_probabilities(&mut q);
            if judged.kl {
                self.divergence += divergence(&p, &q);
                self.diverging += 1;
            }
            if let Some(label) = label {
                let class = usize::try_from(label).unwrap_or(usize::MAX);
                let (Some(original), Some(compressed)) = (p.get(class), q.get(class)) else {
                    let message = format!("label {label}, but there are {} classes", p.len());
                    return Err(Error::new(ErrorKind::Samples, message).at_tensor(&judged.name));
                };
                self.labelled += 1;
                self.original_surprise -= original;
                self.surprise -= compressed;
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: &Sums) {
        let (n, m) = (self.elements as f64, other.elements as f64);
        if other.elements > 0 {
            let apart = other.mean - self.mean;
            self.mean += apart * m / (n + m);
            self.deviation += other.deviation + apart * apart * n * m / (n + m);
        }
        self.samples += other.samples;
        self.elements += other.elements;
        self.non_finite += other.non_finite;
        self.discrete |= other.discrete;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.undecided += other.undecided;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.squared_error += other.squared_error;
        self.original_energy += other.original_energy;
        self.energy += other.energy;
        self.product += other.product;
        self.decisions += other.decisions;
        self.equal += other.equal;
        self.divergence += other.divergence;
        self.diverging += other.diverging;
        self.judged += other.judged;
        self.original_right += other.original_right;
        self.right += other.right;
        self.labelled += other.labelled;
        self.original_surprise += other.original_surprise;
        self.surprise += other.surprise;
    }

    /// Standard deviation of the original; none where it is constant.
    fn spread(&self) -> Option<f64> {
        (self.deviation > 0.0).then(|| (self.deviation / self.elements as f64).sqrt())
    }

    /// Whether the output has classes.
    fn decides(&self, judged: &Judged) -> bool {
        judged.decides || self.discrete || self.judged > 0
    }

    fn figures(&self, judged: &Judged) -> Figures {
        let seen = self.elements > 0;
        let continuous = seen && judged.content != Content::Discrete && !self.discrete;
        let ratio = |over: f64, under: f64| (under > 0.0).then(|| over / under);
        let norm = (self.original_energy * self.energy).sqrt();
        // The squares of the smallest numbers are zero.
        let exact = self.max_abs == 0.0;
        let nmse = if exact { Some(0.0) } else { ratio(self.squared_error, self.deviation) };
        let snr = ratio(self.original_energy, self.squared_error).filter(|&r| r > 0.0).map(|r| 10.0 * r.log10());
        let decided = self.decisions > 0;
        let labelled = self.labelled as f64;
        Figures {
            name: judged.name.clone(),
            max_abs: seen.then_some(self.max_abs),
            rmse: continuous.then(|| (self.squared_error / self.elements as f64).sqrt()),
            nmse: nmse.filter(|_| continuous),
            snr_db: snr.filter(|_| continuous),
            snr_variance_db: nmse.filter(|&nmse| continuous && nmse > 0.0).map(|nmse| -10.0 * nmse.log10()),
            cosine: ratio(self.product, norm).filter(|_| continuous).map(|c| c.clamp(-1.0, 1.0)),
            agreement: decided.then(|| self.equal as f64 / self.decisions as f64),
            kl: (self.diverging > 0).then(|| self.divergence / self.diverging as f64),
            cross_entropy: (self.labelled > 0).then(|| CrossEntropy {
                original: self.original_surprise / labelled,
                compressed: self.surprise / labelled,
            }),
            accuracy: (self.judged > 0).then(|| Accuracy {
                original: self.original_right as f64 / self.judged as f64,
                compressed: self.right as f64 / self.judged as f64,
                labels: self.judged,
            }),
            non_finite: self.non_finite,
            nan: self.nan,
            infinite: self.infinite,
            undecided: self.undecided,
            elements: self.elements,
            constant: continuous && self.elements > 1 && self.deviation == 0.0,
            reached: judged.reached,
            decides: self.decides(judged),
            ..Figures::default()
        }
    }

    /// What there was in place of numbers that can be compared.
    fn nothing(&self) -> &'static str {
        match (self.nan, self.infinite) {
            (0, 0) => "the output is empty in every sample",
            (_, 0) => "the output is NaN in every sample, in the original too",
            (0, _) => "the output is infinite in every sample, in the original too",
            _ => "the output is NaN or infinite in every sample, in the original too",
        }
    }

    fn loss(&self, judged: &Judged) -> Result<f64> {
        if self.non_finite > 0 {
            let message = format!("{} elements are not finite in one of the two models only", self.non_finite);
            return Err(Error::new(ErrorKind::Engine, message).at_tensor(&judged.name));
        }
        let figures = self.figures(judged);
        let nothing = if self.elements > 0 { None } else { Some(self.nothing()) };
        let meaningless = |why: &str| {
            let message = format!("loss {} does not apply here: {}", judged.loss, nothing.unwrap_or(why));
            Error::new(ErrorKind::Usage, message).at_tensor(&judged.name)
        };
        let kind = match judged.loss {
            // Of an output without a declared type it shows only now.
            LossKind::Nmse | LossKind::Kl if self.discrete => LossKind::Disagreement,
            kind => kind,
        };
        match kind {
            LossKind::Nmse => match figures.nmse {
                Some(nmse) => Ok(nmse),
                // A constant output has no variance; an error relative to its size still orders the candidates.
                None if figures.rmse.is_some() && self.original_energy > 0.0 => {
                    Ok(self.squared_error / self.original_energy)
                }
                None => figures.rmse.map(|rmse| rmse * rmse).ok_or_else(|| meaningless("the output is not float")),
            },
            LossKind::Kl => figures.kl.ok_or_else(|| meaningless("it needs at least two classes of floats")),
            LossKind::Disagreement => {
                figures.agreement.map(|a| 1.0 - a).ok_or_else(|| meaningless("it needs at least two classes"))
            }
            LossKind::CrossEntropy => figures
                .cross_entropy
                .map(|c| c.compressed - c.original)
                .ok_or_else(|| meaningless("there are no labels: add --labels")),
        }
    }
}

/// How many elements of two tensors of integers or booleans are the same.
fn equal_elements(y: &Tensor, z: &Tensor) -> u64 {
    let count = |equal: usize| equal as u64;
    match (y.to_i64(), z.to_i64()) {
        (Some(y), Some(z)) => count(y.iter().zip(&z).filter(|(y, z)| y == z).count()),
        _ => count(y.to_f64().iter().zip(&z.to_f64()).filter(|(y, z)| y == z).count()),
    }
}

/// Whether a row can be read as classes: minus infinity is an impossible class, other values must be numbers. A row that
/// cannot be is told by `non_finite` if the models differ there.
fn has_probabilities(row: &ArrayView1<f64>) -> bool {
    row.iter().all(|v| v.is_finite() || *v == f64::NEG_INFINITY) && row.iter().any(|v| v.is_finite())
}

/// The labels in the order of the rows; their shape is that of the output without the axis of classes.
fn checked_labels(judged: &Judged, labels: &ArrayD<i64>, y: &ArrayD<f64>, axis: Axis) -> Result<Vec<i64>> {
    let mut shape = y.shape().to_vec();
    let classes = shape.remove(axis.0);
    let fits = match judged.content.rows() {
        // One sample of a batch has an axis of size 1 that its label lacks.
        Rows::Along(_) => without_ones(labels.shape()) == without_ones(&shape),
        // Several axes were joined, so that only the number of rows can be compared.
        Rows::From(_) => labels.len() == y.len() / classes,
    };
    if !fits {
        let message = format!("labels of shape {:?}, but the output's less its classes is {shape:?}", labels.shape());
        return Err(Error::new(ErrorKind::Samples, message).at_tensor(&judged.name));
    }
    Ok(labels.iter().copied().collect())
}

fn without_ones(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&size| size != 1).collect()
}

fn nothing_reached() -> Error {
    Error::new(ErrorKind::Usage, "no compared output depends on the weights that are changed")
}

fn unlike(judged: &Judged, message: String) -> Error {
    Error::new(ErrorKind::Usage, message).at_tensor(&judged.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{ArrayD, IxDyn, array};
    use std::collections::BTreeSet;

    fn judged(content: Content, loss: LossKind) -> Judge {
        let kl = content.is_distribution() || loss == LossKind::Kl;
        Judge {
            outputs: vec![Judged {
                name: "y".to_owned(),
                content,
                loss,
                kl,
                decides: kl,
                dims: Vec::new(),
                reached: true,
            }],
        }
    }

    fn outputs(tensor: impl Into<Tensor>) -> Vec<(String, Tensor)> {
        vec![("y".to_owned(), tensor.into())]
    }

    fn compare(judge: &Judge, y: impl Into<Tensor>, z: impl Into<Tensor>) -> Comparison {
        let mut comparison = judge.comparison();
        comparison.add(&outputs(y), &outputs(z), None, 0).unwrap();
        comparison
    }

    /// `y = 3 sin(0.7 i) + 1`, `z = y + 3 cos(1.3 i)` for i in 0..24, in shape [2, 3, 4].
    fn waves() -> (ArrayD<f64>, ArrayD<f64>) {
        let wave = |f: &dyn Fn(f64) -> f64| {
            ArrayD::from_shape_vec(IxDyn(&[2, 3, 4]), (0..24).map(|i| f(f64::from(i))).collect()).unwrap()
        };
        let y = |i: f64| (0.7 * i).sin() * 3.0 + 1.0;
        (wave(&y), wave(&|i| y(i) + 3.0 * (1.3 * i).cos()))
    }

    #[track_caller]
    fn close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "{found} instead of {expected}");
    }

    #[test]
    fn figures_are_those_of_numpy() {
        let (y, z) = waves();
        let labels = Labels::from([("y".to_owned(), array![[0, 3, 1], [2, -1, 0]].into_dyn())]);
        let mut comparison = judged(Content::Values, LossKind::Kl).comparison();
        comparison.add(&outputs(y), &outputs(z), Some(&labels), 0).unwrap();
        let f = comparison.figures().remove(0);
        close(f.max_abs, 3.0);
        close(f.rmse, 2.120_781_349_978_259_7);
        close(f.nmse, 1.079_132_145_265_946_8);
        close(f.snr_db, 1.158_246_356_569_227_6);
        close(f.cosine, 0.744_884_832_779_716_2);
        close(f.agreement, 0.5);
        close(f.kl, 1.007_688_857_865_527_9);
        close(f.cross_entropy.map(|c| c.original), 3.108_125_174_141_543);
        close(f.cross_entropy.map(|c| c.compressed), 2.538_216_710_068_176);
        assert_eq!(comparison.losses().unwrap(), [f.kl.unwrap()]);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (y, z) = waves();
        let judge = judged(Content::Values, LossKind::Kl);
        let whole = compare(&judge, y.clone(), z.clone()).figures().remove(0);
        let mut parts = judge.comparison();
        for (y, z) in y.outer_iter().zip(z.outer_iter()) {
            parts.merge(&compare(&judge, y.to_owned(), z.to_owned()));
        }
        let parts = parts.figures().remove(0);
        for (part, whole) in [
            (parts.nmse, whole.nmse),
            (parts.kl, whole.kl),
            (parts.snr_db, whole.snr_db),
            (parts.cosine, whole.cosine),
            (parts.agreement, whole.agreement),
        ] {
            close(part, whole.unwrap());
        }
    }

    #[test]
    fn an_exact_match_has_no_noise() {
        let (y, _) = waves();
        let f = compare(&judged(Content::Values, LossKind::Nmse), y.clone(), y).figures().remove(0);
        assert_eq!((f.nmse, f.snr_db, f.agreement, f.kl), (Some(0.0), None, Some(1.0), None));
        close(f.cosine, 1.0);
    }

    #[test]
    fn a_constant_output_has_no_variance_but_a_loss() {
        let judge = judged(Content::Values, LossKind::Nmse);
        let comparison = compare(&judge, array![2f32, 2.].into_dyn(), array![2f32, 3.].into_dyn());
        assert_eq!(comparison.figures()[0].nmse, None);
        assert_eq!(comparison.losses().unwrap(), [1.0 / 8.0]);
        let zero = compare(&judge, array![0f32, 0.].into_dyn(), array![0f32, 2.].into_dyn());
        assert_eq!((zero.figures()[0].snr_db, zero.figures()[0].cosine), (None, None));
        assert!((zero.losses().unwrap()[0] - 2.0).abs() < 1e-12);
    }

    #[test]
    fn one_class_is_no_decision() {
        let judge = judged(Content::Values, LossKind::Kl);
        let one = compare(&judge, array![[1f32], [2.]].into_dyn(), array![[1f32], [3.]].into_dyn());
        assert_eq!((one.figures()[0].agreement, one.figures()[0].kl), (None, None));
        assert!(one.losses().unwrap_err().message().contains("at least two classes"));
    }

    #[test]
    fn integers_agree_or_not() {
        let judge = judged(Content::Discrete, LossKind::Disagreement);
        let comparison = compare(&judge, array![[1u8, 2, 3, 9]].into_dyn(), array![[1u8, 2, 3, 4]].into_dyn());
        let f = comparison.figures().remove(0);
        assert_eq!((f.max_abs, f.agreement, f.rmse, f.nmse, f.cosine), (Some(5.0), Some(0.75), None, None, None));
        assert_eq!(comparison.losses().unwrap(), [0.25]);
    }

    #[test]
    fn what_is_finite_in_one_only_is_counted_and_has_no_loss() {
        let judge = judged(Content::Values, LossKind::Nmse);
        let y = array![1f32, f32::NEG_INFINITY, f32::NAN, 2., 3.].into_dyn();
        let z = array![1f32, f32::NEG_INFINITY, f32::NAN, f32::NAN, 3.5].into_dyn();
        let comparison = compare(&judge, y, z);
        assert_eq!(comparison.figures()[0].non_finite, 1);
        assert_eq!(comparison.figures()[0].max_abs, Some(0.5));
        assert_eq!(comparison.losses().unwrap_err().kind(), ErrorKind::Engine);
    }

    #[test]
    fn rows_of_nan_decide_nothing_and_are_counted() {
        let judge = judged(Content::Values, LossKind::Nmse);
        let y = array![[1f32, 2.], [f32::NAN, f32::NAN], [f32::NAN, 1.], [0., f32::INFINITY]].into_dyn();
        let z = array![[1f32, 2.], [f32::NAN, f32::NAN], [f32::NAN, 2.], [0., f32::INFINITY]].into_dyn();
        let f = compare(&judge, y, z).figures().remove(0);
        assert_eq!((f.nan, f.infinite, f.undecided, f.non_finite, f.elements), (3, 1, 2, 0, 4));
        assert_eq!(f.agreement, Some(1.0), "of the two rows without NaN");
        let nan = array![[f32::NAN, f32::NAN]].into_dyn();
        let all = compare(&judge, nan.clone(), nan);
        assert_eq!((all.figures()[0].agreement, all.figures()[0].max_abs), (None, None));
        assert!(all.losses().unwrap_err().message().contains("NaN in every sample, in the original too"));
    }

    #[test]
    fn errors_whose_squares_vanish_are_no_exact_match() {
        let judge = judged(Content::Values, LossKind::Nmse);
        let f = compare(&judge, array![1e-200f64, -1e-200].into_dyn(), array![-1e-200f64, 1e-200].into_dyn());
        let f = f.figures().remove(0);
        assert_eq!((f.nmse, f.snr_db), (None, None));
        assert_eq!(f.max_abs, Some(2e-200));
    }

    #[test]
    fn integers_that_one_double_stands_for_differ_all_the_same() {
        let judge = judged(Content::Discrete, LossKind::Disagreement);
        let (y, z) = (array![1i64 << 53, 7].into_dyn(), array![(1i64 << 53) + 1, 7].into_dyn());
        let f = compare(&judge, y, z).figures().remove(0);
        assert_eq!((f.agreement, f.max_abs), (Some(0.5), Some(1.0)));
        let (y, z) = (array![u64::MAX].into_dyn(), array![u64::MAX - 1].into_dyn());
        assert_eq!(compare(&judge, y, z).figures()[0].agreement, Some(0.0));
    }

    #[test]
    fn outputs_that_nothing_reaches_are_no_part_of_the_loss() {
        let output = |name: &str, reached| Judged {
            name: name.to_owned(),
            content: Content::Values,
            loss: LossKind::Nmse,
            kl: false,
            decides: false,
            dims: Vec::new(),
            reached,
        };
        let mut judge = Judge { outputs: vec![output("y", true), output("c", true)] };
        assert_eq!(judge.keep_reached(&BTreeSet::new()).unwrap_err().kind(), ErrorKind::Usage);
        judge.keep_reached(&BTreeSet::from(["y".to_owned()])).unwrap();
        let both =
            |y: ArrayD<f32>| vec![("y".to_owned(), y.into()), ("c".to_owned(), array![1f32, 2.].into_dyn().into())];
        let mut comparison = judge.comparison();
        comparison.add(&both(array![1f32, -1.].into_dyn()), &both(array![2f32, -2.].into_dyn()), None, 0).unwrap();
        assert_eq!(comparison.losses().unwrap(), [1.0]);
        assert_eq!((comparison.mean_loss().unwrap(), comparison.worst_loss().unwrap()), (1.0, 1.0));
        assert_eq!(judge.unreached().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn impossible_logits_are_fine_where_both_have_them() {
        let judge = judged(Content::Values, LossKind::Kl);
        let row = array![[0f32, f32::NEG_INFINITY, 1.]].into_dyn();
        assert_eq!(compare(&judge, row.clone(), row).losses().unwrap(), [0.0]);
    }

    #[test]
    fn models_that_are_unlike_are_refused() {
        let judge = judged(Content::Values, LossKind::Nmse);
        let y = outputs(array![1f32].into_dyn());
        for z in [outputs(array![1f64].into_dyn()), outputs(array![1f32, 2.].into_dyn()), Vec::new()] {
            assert_eq!(judge.comparison().add(&y, &z, None, 0).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[test]
    fn labels_must_fit() {
        let judge = judged(Content::Values, LossKind::CrossEntropy);
        let y = outputs(array![[1f32, 2.], [3., 4.]].into_dyn());
        let add = |labels: ArrayD<i64>| {
            judge.comparison().add(&y, &y, Some(&Labels::from([("y".to_owned(), labels)])), 0).map_err(|e| e.kind())
        };
        assert_eq!(add(array![0, 1].into_dyn()), Ok(()));
        assert_eq!(add(array![0, 2].into_dyn()), Err(ErrorKind::Samples));
        assert_eq!(add(array![0].into_dyn()), Err(ErrorKind::Samples));
        let mut unlabelled = judge.comparison();
        unlabelled.add(&y, &y, None, 0).unwrap();
        assert!(unlabelled.losses().unwrap_err().message().contains("--labels"));
    }
}
