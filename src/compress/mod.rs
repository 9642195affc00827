//! The main job: from a model and samples to a smaller model.
//!
//! [`Compressor`] holds the policy: what is calibrated and measured, which plans compete, how a loss is searched for, when
//! a model is fine-tuned, and what the user is warned of. [`Study`] holds the steps that it takes.

mod goal;
mod inputs;
mod level;
mod moments;
mod options;
mod prepared;
mod search;
mod sensitivity;
mod several;
mod study;
mod timed;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

pub use goal::Searched;
pub use inputs::{HELD_OUT, InputOrigin, Inputs, TestInputs};
pub use level::{Level, Settings, TimeBudget};
pub use options::{Allocation, Codec, Options, Target};
pub use prepared::{Prepared, without_coding};
pub use search::{SmallestSize, smallest};
pub use several::{Share, compress_all, shares};
pub use study::{CodedModel, CodedVersion, PhaseSeconds, Rates, Study, reachable, sized};

// What options, plans and results are made of, from the stages that a caller need not know.
#[doc(inline)]
pub use crate::dictionary::{Band, Bands, BlockSpec};
#[doc(inline)]
pub use crate::encode::{Form, NewBias, Request};
#[doc(inline)]
pub use crate::plan::{Choice, Pins, Sharing};
#[doc(inline)]
pub use crate::recurrent::FindOptions;
#[doc(inline)]
pub use crate::sites::{PerSite, Site, SiteId, Sites};
#[doc(inline)]
pub use crate::tune::{Effort, LayerOutcome, TuneReport, TuneTarget, Tuned};

use crate::code;
use crate::encode::{self, Writing};
use crate::engine::{Engine, Overrides};
use crate::error::{Error, ErrorKind, Result};
use crate::expand;
use crate::loss::reach::{self, Changes};
use crate::loss::{Comparison, Judge, LossSpec, Reference, obstacle};
use crate::lossless;
use crate::onnx::{Model, Values};
use crate::plan::{self, Curves, Plan};
use crate::progress::{self, Progress, Silent};
use crate::samples::Samples;
use crate::sites::Weights;
use crate::tune;
use crate::verify::{self, Check, Verdict, VerifySettings};
use goal::Goal;
use prepared::Parts;
use timed::Bounded;

/// The ratio of the smallest file that a search for a loss looks at, and how many sizes it looks at.
const SMALLEST: f64 = 40.0;
const LOOKS: usize = 9;
/// Weights of a tensor below which the nodes that decode it may take more bytes than they save.
const SMALL: u64 = 1024;
/// The warning where nodes that are not recurrent stay as they are for want of runs.
const NOT_RUN: &str = "the model cannot be run to its outputs: only recurrent nodes are compressed";

/// Makes a model smaller.
pub struct Compressor<'a> {
    original: &'a Model,
    /// What is run in place of the original: its file is smaller, and nothing is coded yet.
    model: Cow<'a, Model>,
    /// The same without names of nodes: what is coded and written.
    written: Cow<'a, Model>,
    /// How the file of the original was made smaller.
    lossless: Vec<lossless::Saving>,
    /// The sites as the original has them.
    before: Sites,
    inputs: Inputs,
    options: Options,
    judge: Judge,
    sites: Sites,
    pins: Pins,
    /// `None` if the engine cannot run the model: each layer is then calibrated by itself.
    engine: Option<Engine>,
    /// Why it cannot.
    refused: Option<Error>,
    /// Whether the model was calibrated on the part of it that runs.
    in_part: bool,
    /// What the user should know so far.
    warnings: Vec<String>,
    progress: Bounded<'a>,
    study: Option<Study<'a>>,
    /// What was measured for the sizes of plans, as long as the result is written in one way.
    sizes: Arc<encode::Measured>,
    budgets: Budgets,
    /// Bytes that the last plan may take.
    target: Option<u64>,
    /// What the last result was searched for.
    goal: Option<Goal>,
    /// What that search came to.
    searched: Option<Searched>,
    /// Between which bounds the loss of the last result is expected.
    expected: Option<[f64; 2]>,
    /// By how much the loss of the last result on calibration samples differs from what sensitivities predict.
    correction: f64,
    /// Sizes that a search for a loss looked at, and their losses.
    looks: Vec<Look>,
    /// The level that a limit of time left for the last result.
    picked: Option<Level>,
}

/// What was measured of the sites, kept for the next target.
#[derive(Clone, Default)]
struct Budgets {
    curves: Option<(Rates, Arc<Curves>)>,
    /// By the widths of pieces that they were measured at; none for [`Allocation::Local`].
    sensitivities: BTreeMap<Vec<usize>, Arc<PerSite<f64>>>,
    /// Those of the plan that was made last.
    sensitivity: Option<Arc<PerSite<f64>>>,
}

/// A plan and what it is expected to do.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Bytes of the file that were asked for, at most; those of a saved plan are what it makes.
    pub target: u64,
    /// Bytes of the file that it makes.
    pub bytes: u64,
    /// The sensitivities that it was made of, if they were measured or derived.
    pub sensitivity: Option<Arc<PerSite<f64>>>,
    /// The distortion that each site is expected to have, if that is known.
    pub distortion: Option<PerSite<f64>>,
    /// The mean loss of the outputs that is expected: of a compressed model what it has on the calibration samples, of a plan what
    /// measured sensitivities predict.
    pub predicted_loss: Option<f64>,
    /// Between which bounds it may well be on other samples, by how much it differs between those.
    pub predicted_range: Option<[f64; 2]>,
}

/// A compressed model and how it came about.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// The compressed model; `model.save(path)` writes it.
    pub model: Model,
    /// Its plan; distortions are those of the codes.
    pub planned: Planned,
    /// What fine-tuning did, if it ran.
    pub tuning: Option<TuneReport>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How the file was made smaller before anything was coded.
    pub lossless: Vec<lossless::Saving>,
}

/// A size and its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Bytes of the file.
    pub bytes: u64,
    /// The mean loss of the outputs: measured, or predicted from sensitivities.
    pub loss_mean: Option<f64>,
    /// The loss of the worst output, which `--max-loss` bounds; only measured.
    pub loss_worst: Option<f64>,
    /// Whether the models were run.
    pub measured: bool,
}

/// One ratio of a sweep.
#[derive(Clone, Debug)]
pub struct SweepRow {
    /// What was asked for.
    pub ratio: f64,
    /// What came of it, or why it cannot be reached.
    pub reached: Result<Swept>,
}

/// What compressing at one ratio came to.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Bytes of the file.
    pub bytes: u64,
    /// How far it is from the original on the held-out samples.
    pub comparison: Comparison,
}

impl<'a> Compressor<'a> {
    /// Finds what can be coded and prepares to run the model.
    ///
    /// # Errors
    /// [`ErrorKind::NothingToDo`] for a model without sites or whose sites are coded already; [`ErrorKind::Usage`] for
    /// options that do not fit the model; those of reading the model.
    pub fn new(model: &'a Model, inputs: Inputs, options: Options) -> Result<Compressor<'a>> {
        let prepared = Prepared::new(model, &options).map_err(|error| located(model, error))?;
        Compressor::of_prepared(model, prepared, inputs, options, None)
    }

    /// As [`new`](Self::new), for a model that was prepared before, with the same options. With `refused`, the model is not run, for that reason.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_prepared(
        original: &'a Model,
        prepared: Prepared,
        inputs: Inputs,
        options: Options,
        refused: Option<Error>,
    ) -> Result<Compressor<'a>> {
        let located = |error: Error| located(original, error);
        let Parts { model, written, steps, mut before, sites } = prepared.parts(original);
        let mut pins = match &options.pins {
            Some(pins) if pins.0.len() == sites.len() => pins.clone(),
            Some(pins) => {
                let message = format!("choices for {} sites, but the model has {}", pins.0.len(), sites.len());
                return Err(Error::new(ErrorKind::Usage, message));
            }
            None => Pins(sites.map(|_| None)),
        };
        let prepared = || Engine::probing(&model, &code::probes(&model, &sites)?);
        let (engine, refused) = match refused.map_or_else(prepared, Err) {
            Ok(engine) => (Some(engine), None),
            Err(error) if error.is_of_engine() => (None, Some(error)),
            Err(error) => return Err(located(error)),
        };
        let mut warnings = Vec::new();
        let mut sites = sites;
        if let Some(refused) = &refused
            && !sites.linear.is_empty()
        {
            (sites, pins) = recurrent_only(&model, sites, &pins, refused).map_err(located)?;
            before = Sites::of(original, before.survey, Vec::new()).map_err(located)?;
            warnings.push(NOT_RUN.to_owned());
        }
        judge(&model, &options.loss, &sites, &inputs.holdout)?;
        let judge = judge(&model, &options.loss, &sites, &inputs.calibration)?;
        if encode::note(original).is_some() {
            warnings.push(
                "the file was compressed by dirnet and made dense again by another tool: use the original".to_owned(),
            );
        }
        let faulty = sites.survey.skipped.iter().filter(|skipped| skipped.warning);
        warnings.extend(faulty.map(|skipped| format!("node '{}' is not compressed: {}", skipped.node, skipped.reason)));
        Ok(Compressor {
            original,
            model,
            written,
            lossless: steps,
            before,
            inputs,
            options,
            judge,
            sites,
            pins,
            engine,
            refused,
            in_part: false,
            warnings,
            progress: Bounded::new(&Silent),
            study: None,
            sizes: Arc::default(),
            budgets: Budgets::default(),
            target: None,
            goal: None,
            searched: None,
            expected: None,
            correction: 1.0,
            looks: Vec::new(),
            picked: None,
        })
    }

    /// Reports progress, and may be cancelled by it.
    #[must_use]
    pub fn with_progress(self, progress: &'a dyn Progress) -> Self {
        Compressor { progress: Bounded::new(progress), ..self }
    }

    /// The original.
    #[must_use]
    pub fn original(&self) -> &'a Model {
        self.original
    }

    /// How the file was made smaller before anything is coded.
    #[must_use]
    pub fn lossless(&self) -> &[lossless::Saving] {
        &self.lossless
    }

    /// The sites as the original has them: what their weights take in the user's file.
    #[must_use]
    pub fn before(&self) -> &Sites {
        &self.before
    }

    /// Bytes of a compressed file that are no weights of sites.
    #[must_use]
    pub fn kept(&self) -> u64 {
        match &self.study {
            Some(study) => study.sized(|sizing| sizing.kept()),
            None => self.written.bytes().saturating_sub(self.sites.stored_bytes()),
        }
    }

    /// The samples.
    #[must_use]
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The sites of the model.
    #[must_use]
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// What the user should know so far.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let study = self.study.iter().flat_map(|study| &study.warnings);
        self.inputs.warnings.iter().chain(&self.warnings).chain(study).cloned().collect()
    }

    /// The calibrated model, once it was calibrated.
    #[must_use]
    pub fn study(&self) -> Option<&Study<'a>> {
        self.study.as_ref()
    }

    /// The note that is written into the result.
    #[must_use]
    pub fn note(&self) -> String {
        // It is part of what the same options give the same bytes of, so that nothing in it may depend on when or where.
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "codec": self.options.codec.name(),
            "form": self.options.form.form.name(),
            "sensitivity": self.options.allocation.name(),
            "tune": self.effort().map_or("off", tune::Effort::name),
            "calibrated_on": self.inputs.describe(),
            "seed": self.options.seed,
        })
        .to_string()
    }

    /// The level of its options: that which a limit of time left, or which sets them; `None` where some were set by hand.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.picked.or_else(|| Level::of(&self.options))
    }

    /// The flags of the options that cost time, as they are in force.
    #[must_use]
    pub fn flags(&self) -> String {
        let (allocation, codec) = (self.options.allocation.name(), self.options.codec.name());
        let tune = self.effort().map_or("off", tune::Effort::name);
        format!("--sensitivity {allocation} --tune {tune} --codec {codec}")
    }

    /// The limit of time that the level was picked by.
    #[must_use]
    pub fn time_budget(&self) -> Option<TimeBudget> {
        self.options.time
    }

    /// How much is spent on fine-tuning: something only where there are samples, unless it was asked for.
    fn effort(&self) -> Option<tune::Effort> {
        let usual = (self.inputs.origin != InputOrigin::Random).then_some(tune::Effort::Fast);
        self.options.tune.unwrap_or(usual)
    }

    fn writing(&self) -> Writing {
        Writing {
            request: self.options.form,
            note: self.note(),
            short_names: self.options.lossless.is_some_and(|lossless| !lossless.keep_names),
        }
    }

    /// Runs the original on all samples, and nothing else.
    ///
    /// # Errors
    /// Those of running it.
    pub fn probe(&self) -> Result<()> {
        let engine = Engine::new(&self.model)?;
        for samples in [&self.inputs.calibration, &self.inputs.holdout] {
            self.judge.reference(&engine, samples)?;
        }
        Ok(())
    }

    /// Refuses a check of an output that is not compared, before anything is run. Where the model cannot be run, the outputs
    /// of single layers may be named, too, and nothing is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`], naming the outputs that are compared.
    pub fn check_names(&self, checks: &[Check]) -> Result<()> {
        if self.engine.is_none() { Ok(()) } else { verify::check_names(checks, &self.judge) }
    }

    /// Refuses a target that cannot be met before anything is run for it.
    fn check_target(&self, target: &Target) -> Result<()> {
        // How small a projection dictionary can be depends on the samples.
        if !matches!(target, Target::Ratio(_) | Target::MaxSize(_)) || self.options.codec != Codec::Block {
            return Ok(());
        }
        let weights = self.weights(self.engine.as_ref())?;
        let one_rate = self.has_one_rate();
        let before = self.before.stored_bytes();
        study::sized_from(before, &self.written, &weights, &self.writing(), &self.sizes, |sizing| {
            let bytes = match *target {
                Target::MaxSize(bytes) => bytes,
                Target::Ratio(ratio) => sizing.target(ratio),
                _ => u64::MAX,
            };
            let Target::Ratio(ratio) = *target else {
                return plan::check_target(sizing, bytes, one_rate, |plan| self.pins.apply(plan));
            };
            let smallest = plan::smallest(sizing, bytes, one_rate, |plan| self.pins.apply(plan))?;
            if smallest <= bytes { Ok(()) } else { Err(beyond_reach(ratio, sizing.ratio(smallest), smallest)) }
        })
        .map_err(|error| located(self.original, error))
    }

    /// Whether all sites get about the same number of bits, whatever the samples.
    fn has_one_rate(&self) -> bool {
        self.engine.is_none() || self.options.allocation == Allocation::Uniform
    }

    /// The largest ratio that a plan reaches; `None` where it depends on the samples, and where it cannot be counted.
    #[must_use]
    pub fn smallest_ratio(&self) -> Option<f64> {
        if self.options.codec != Codec::Block {
            return None;
        }
        let study = self.study.as_ref()?;
        let one_rate = self.has_one_rate();
        let smallest = |sizing: &plan::Sizing<'_>| plan::smallest(sizing, 0, one_rate, |plan| self.pins.apply(plan));
        study.sized(|sizing| sizing.ratio(smallest(sizing).ok()?))
    }

    /// Calibrates, unless that was done before.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn calibrate(&mut self) -> Result<()> {
        if self.study.is_some() {
            return Ok(());
        }
        let mut study = match &self.engine {
            None => None,
            Some(engine) => match self.study_with(Some(engine)) {
                Ok(study) => Some(study),
                // A sample that cannot be run is no reason to do without any.
                Err(error) if error.kind() == ErrorKind::Engine => {
                    self.refused = Some(obstacle(&self.model, engine, &self.inputs.calibration, error)?);
                    None
                }
                Err(error) if error.kind() == ErrorKind::Limit => {
                    self.refused = Some(error);
                    None
                }
                Err(error) => return Err(error),
            },
        };
        if study.is_none() {
            self.engine = None;
            if let Some(refused) = self.refused.as_ref().filter(|_| !self.sites.linear.is_empty()) {
                (self.sites, self.pins) = recurrent_only(&self.model, self.sites.clone(), &self.pins, refused)?;
                self.before = Sites::of(self.original, self.before.survey.clone(), Vec::new())?;
                self.sizes = Default::default();
                self.judge = judge(&self.model, &self.options.loss, &self.sites, &self.inputs.calibration)?;
                self.warnings.push(NOT_RUN.to_owned());
            }
            study = self.study_of_part()?;
        }
        let mut study = match study {
            Some(study) => study,
            None => self.study_with(None)?,
        };
        study.write_as(self.writing(), self.sizes.clone());
        let random = self.inputs.origin == InputOrigin::Random;
        if self.effort().is_some() && (self.engine.is_none() || random) {
            let why = if random { "there are no samples" } else { "the model cannot be run" };
            self.warnings.push(format!("fine-tuning was skipped: {why}"));
        }
        self.study = Some(study);
        Ok(())
    }

    /// The weights; those that the engine holds are shared with it.
    fn weights(&self, engine: Option<&Engine>) -> Result<Weights> {
        Weights::read(&self.model, self.sites.clone(), |node, matrix| {
            engine.and_then(|engine| engine.weights(engine.number(&node.scope, node.index)?, matrix)).cloned()
        })
    }

    fn study_with(&self, engine: Option<&Engine>) -> Result<Study<'a>> {
        let weights = self.weights(engine)?;
        let calibration = engine.map(|engine| (engine, &self.inputs.calibration));
        let mut study = Study::new(self.written.clone(), weights, calibration, self.options.seed, &self.progress)?;
        study.before = self.before.stored_bytes();
        Ok(study)
    }

    /// Calibrates a model that cannot be run to its outputs on the part of it that can; `None` if there is none.
    fn study_of_part(&mut self) -> Result<Option<Study<'a>>> {
        let Some(reason) = self.refused.clone() else { return Ok(None) };
        // What ran into a limit must not be tried again.
        let part = match reason.kind() {
            ErrorKind::Engine => Engine::partial(&self.model, &self.inputs.calibration),
            _ => None,
        };
        let study = match part.map(|engine| self.study_with(Some(&engine))) {
            Some(Err(error)) if error.kind() != ErrorKind::Engine => return Err(error),
            study => study.and_then(Result::ok),
        };
        self.in_part = study.is_some();
        self.warnings.push(if self.in_part { without_outputs(&reason) } else { without_engine(&reason) });
        Ok(study)
    }

    /// How the model is fine-tuned, if it is: what is tuned on noise fits nothing else.
    fn tuning(&self) -> Option<tune::TuneOptions> {
        let effort = self.effort().filter(|_| self.inputs.origin != InputOrigin::Random && self.engine.is_some())?;
        Some(tune::TuneOptions { effort, steps: None, seed: self.options.seed })
    }

    /// The best plan for a target, and what it is expected to do.
    ///
    /// # Errors
    /// [`ErrorKind::Target`] for a target that cannot be met, with the nearest that can; those of running the model.
    pub fn plan(&mut self, target: &Target) -> Result<Planned> {
        self.plan_of(target).map_err(|error| located(self.original, error))
    }

    fn plan_of(&mut self, target: &Target) -> Result<Planned> {
        self.check_target(target)?;
        let plan = match target {
            Target::MaxLoss(bound) => self.within(&Goal::Loss(*bound))?.planned.plan,
            Target::Smallest(checks) => self.within(&Goal::Checks(checks.clone()))?.planned.plan,
            target => self.plan_for(target)?,
        };
        let bytes = self.calibrated()?.bytes(&plan)?;
        let distortion = self.promised(&plan)?;
        self.planned(plan, bytes, distortion)
    }

    /// Compresses the model. For [`Target::MaxLoss`] and [`Target::Smallest`], a part of the calibration samples is held back for the search, for good.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`ErrorKind::NothingToDo`] for a result that is no smaller than the original.
    pub fn compress(&mut self, target: &Target) -> Result<Compressed> {
        let done = match self.options.time {
            Some(budget) => self.within_time(target, budget),
            None => self.check_target(target).and_then(|()| self.compress_to(target)),
        };
        let done = done.and_then(|result| {
            refuse_larger(
                self.original,
                result.planned.bytes,
                "use a higher --ratio, a plan with fewer bits, or the original",
            )?;
            self.with_expectation(result)
        });
        done.map_err(|error| located(self.original, error))
    }

    /// A result with the loss that is expected of it.
    fn with_expectation(&mut self, mut result: Compressed) -> Result<Compressed> {
        self.correction = 1.0;
        let planned = &mut result.planned;
        if let Some((loss, range)) = self.expectation(&result.model)? {
            if let Some(predicted) = planned.predicted_loss.filter(|predicted| *predicted > 0.0 && loss > 0.0) {
                self.correction = loss / predicted;
            }
            (planned.predicted_loss, planned.predicted_range) = (Some(loss), Some(range));
        }
        self.expected = planned.predicted_range;
        Ok(result)
    }

    fn compress_to(&mut self, target: &Target) -> Result<Compressed> {
        (self.goal, self.searched) = (None, None);
        match target {
            Target::MaxLoss(bound) => return self.within(&Goal::Loss(*bound)),
            Target::Smallest(checks) => return self.within(&Goal::Checks(checks.clone())),
            _ => {}
        }
        let coded = self.coded_for(target)?;
        let (coded, tuning) = self.tuned(coded)?;
        self.compressed(coded, tuning)
    }

    /// Compresses the model at several ratios and runs each result on the held-out samples. Each is what
    /// [`compress`](Self::compress) gives at that ratio.
    ///
    /// # Errors
    /// Those of running the model; a ratio that cannot be reached is no error but a row.
    pub fn sweep(&mut self, ratios: &[f64]) -> Result<Vec<SweepRow>> {
        self.rows(ratios).map_err(|error| located(self.original, error))
    }

    fn rows(&mut self, ratios: &[f64]) -> Result<Vec<SweepRow>> {
        // One ratio that can be had is enough; the others are rows.
        self.check_target(&Target::Ratio(ratios.iter().copied().fold(f64::INFINITY, f64::min)))?;
        let engine = match (&self.engine, &self.refused) {
            (Some(engine), _) => engine,
            (None, Some(error)) => return Err(error.clone()),
            (None, None) => return Err(Error::new(ErrorKind::Engine, "the model cannot be run")),
        };
        let (judge, samples) = (self.judge.clone(), self.inputs.holdout.clone());
        let reference = judge.reference(engine, &samples)?;
        let mut rows = Vec::with_capacity(ratios.len());
        for &ratio in ratios {
            let reached = match self.compress_to(&Target::Ratio(ratio)) {
                Ok(result) => Ok(Swept {
                    bytes: result.planned.bytes,
                    comparison: reference.compare(&Engine::new(&result.model)?, &Overrides::default())?,
                }),
                Err(error) if error.kind() == ErrorKind::Target => Err(error),
                Err(error) => return Err(error),
            };
            rows.push(SweepRow { ratio, reached });
        }
        Ok(rows)
    }

    /// Runs original and result on the held-out samples and compares them. For the result of [`Target::MaxLoss`], the verdict
    /// warns where the bound is exceeded.
    ///
    /// # Errors
    /// As [`verify::verify`].
    pub fn verify(&self, result: &Model, checks: &[Check]) -> Result<Verdict> {
        let settings = VerifySettings {
            samples: &self.inputs.holdout,
            calibrated_on: Some(self.inputs.origin.name()),
            loss: &self.options.loss,
            checks,
            seed: self.options.seed,
        };
        let verdict = verify::verify(self.original, result, &settings, &self.progress);
        let mut verdict = verdict.map_err(|error| located(self.original, error))?;
        verdict.warnings.extend(self.goal.as_ref().and_then(|goal| goal.beyond(verdict.loss_worst, verdict.passed)));
        verdict.warnings.extend(verdict.loss.zip(self.expected).and_then(|(loss, range)| unexpected(loss, range)));
        Ok(verdict)
    }

    /// Frees what was calibrated and what runs the original: the models that are compared want their memory.
    pub fn release(&mut self) {
        (self.study, self.engine, self.budgets) = (None, None, Budgets::default());
    }

    fn calibrated(&mut self) -> Result<&mut Study<'a>> {
        self.calibrate()?;
        Ok(self.study.as_mut().expect("calibrated just now"))
    }

    /// What the search for the last result came to, if it was searched for.
    #[must_use]
    pub fn searched(&self) -> Option<&Searched> {
        self.searched.as_ref()
    }

    /// The sizes that a search for a loss looked at.
    pub fn looks(&self) -> impl Iterator<Item = Look> + '_ {
        self.looks.iter().copied()
    }

    /// What measured sensitivities predict at other ratios, from what was measured for the plans made so far, and corrected by the
    /// loss of the last result on calibration samples. A ratio that cannot be had is left out.
    ///
    /// # Errors
    /// Those of making a plan.
    pub fn forecast(&self, ratios: &[f64]) -> Result<Vec<Look>> {
        let Some((curves, sensitivity)) = self.measured() else { return Ok(Vec::new()) };
        let Some(study) = &self.study else { return Ok(Vec::new()) };
        self.progress.phase("forecast", ratios.len() as u64);
        let of_ratio = |&ratio: &f64| -> Result<Option<Look>> {
            let target = study.sized(|sizing| sizing.target(ratio));
            let plan = within_reach(self.budgeted(study, self.options.codec, (&curves, &sensitivity), target))?;
            progress::advance(&self.progress, 1)?;
            let Some(plan) = plan else { return Ok(None) };
            let Some(promised) = self.promised(&plan)? else { return Ok(None) };
            let loss_mean = Some(self.correction * Plan::predicted_loss(&sensitivity, &promised));
            Ok(Some(Look { bytes: study.bytes(&plan)?, loss_mean, loss_worst: None, measured: false }))
        };
        let looks = ratios.par_iter().map(of_ratio).collect::<Result<Vec<_>>>()?;
        let looks = looks.into_iter().flatten().collect();
        self.progress.done();
        Ok(looks)
    }

    /// The curves and sensitivities of the last plan that was made of measured ones.
    fn measured(&self) -> Option<(Arc<Curves>, Arc<PerSite<f64>>)> {
        if !self.allocation().is_measured() {
            return None;
        }
        let (_, curves) = self.budgets.curves.as_ref()?;
        Some((curves.clone(), self.budgets.sensitivity.clone()?))
    }

    fn planned(&self, plan: Plan, bytes: u64, distortion: Option<PerSite<f64>>) -> Result<Planned> {
        let sensitivity = self.budgets.sensitivity.clone();
        let measured = sensitivity.as_ref().filter(|_| self.allocation().is_measured());
        let predicted_loss = measured.zip(distortion.as_ref()).map(|(s, d)| Plan::predicted_loss(s, d));
        let target = self.target.unwrap_or(bytes);
        Ok(Planned { plan, target, bytes, sensitivity, distortion, predicted_loss, predicted_range: None })
    }

    fn compressed(&self, coded: CodedModel, tuning: Option<TuneReport>) -> Result<Compressed> {
        let CodedModel { plan, distortion, model, .. } = coded;
        let planned = self.planned(plan, model.saved_bytes()?, Some(distortion))?;
        let mut warnings = self.warnings();
        warnings.extend(newer_ir(self.original, &model));
        Ok(Compressed { model, planned, tuning, lossless: self.lossless.clone(), warnings })
    }

    /// The mean loss of a compressed model on calibration samples, and between which bounds it may well be on others; `None`
    /// where that is not known.
    fn expectation(&self, model: &Model) -> Result<Option<(f64, [f64; 2])>> {
        let (Some(engine), Some(study)) = (&self.engine, &self.study) else { return Ok(None) };
        if self.inputs.origin == InputOrigin::Random {
            return Ok(None);
        }
        let compressed = Engine::new(model)?;
        let each = |samples: &Samples| -> Result<Option<Vec<Comparison>>> {
            match self.judge.reference(engine, samples)?.compare_each(&compressed, &Overrides::default()) {
                Ok(each) => Ok(Some(each)),
                // The verification says what is wrong with it.
                Err(error) if matches!(error.kind(), ErrorKind::Engine | ErrorKind::Usage) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(streams) = each(&study.few_of(&self.inputs.calibration))? else { return Ok(None) };
        let mut all = self.judge.comparison();
        streams.iter().for_each(|stream| all.merge(stream));
        let Ok(loss) = all.mean_loss() else { return Ok(None) };
        // Few streams show by their pieces how much samples differ.
        let pieces = study.all();
        let is_cut = pieces.streams.len() > self.inputs.calibration.streams.len();
        let parts = if is_cut { each(&study.few_of(&pieces))? } else { Some(streams) };
        let Some(parts) = parts else { return Ok(None) };
        let losses = parts.iter().filter_map(|part| part.mean_loss().ok());
        Ok(Some((loss, expected_range(loss, losses.collect()))))
    }

    /// The distortion of each site that the curves and dictionaries promise; `None` if nothing was measured, or not of all
    /// sites.
    fn promised(&self, plan: &Plan) -> Result<Option<PerSite<f64>>> {
        let (Some((_, curves)), Some(sensitivity)) = (&self.budgets.curves, &self.budgets.sensitivity) else {
            return Ok(None);
        };
        let projected = match &self.study {
            Some(study) if projects(plan) => Some(study.dictionaries(sensitivity)?.promised(plan)),
            _ => None,
        };
        let of_site = |id, choice: &Choice| match (choice, &projected) {
            (Choice::Projection { .. }, Some(projected)) => projected[id],
            (choice, _) => curves.distortion(id, *choice),
        };
        Ok(Some(plan.choices.map(of_site)).filter(|promised| promised.values().all(|d| d.is_finite())))
    }

    /// The plan that [`coded_for`](Self::coded_for) has; where a model is coded once only, without coding it.
    fn plan_for(&mut self, target: &Target) -> Result<Plan> {
        let (mut plans, bytes) = self.plans_for(target)?;
        match bytes {
            _ if self.draws() > 1 => Ok(self.coded_of(plans, bytes)?.plan),
            Some(bytes) => self.plan_to_tune(plans.swap_remove(0), bytes),
            None => Ok(plans.swap_remove(0)),
        }
    }

    fn coded_for(&mut self, target: &Target) -> Result<CodedModel> {
        let (plans, bytes) = self.plans_for(target)?;
        self.coded_of(plans, bytes)
    }

    /// The best model of some plans for a target of these bytes.
    fn coded_of(&mut self, plans: Vec<Plan>, bytes: Option<u64>) -> Result<CodedModel> {
        let coded = self.code(plans)?;
        match bytes {
            Some(bytes) => self.coded_to_tune(coded, bytes),
            None => Ok(coded),
        }
    }

    /// The plans for a target, best first by trials, and the bytes of the target; of a saved plan there are none.
    fn plans_for(&mut self, target: &Target) -> Result<(Vec<Plan>, Option<u64>)> {
        if let Target::Plan { text, file } = target {
            self.target = None;
            let equal = self.calibrated()?.equal();
            let plan = self.saved_plan(text, &equal).map_err(|error| match file {
                Some(file) => error.in_file(file),
                None => error,
            })?;
            return Ok((vec![plan], None));
        }
        let bytes = self.calibrated()?.sized(|sizing| match *target {
            Target::MaxSize(bytes) => bytes,
            Target::Ratio(ratio) => sizing.target(ratio),
            Target::MaxLoss(_) | Target::Smallest(_) | Target::Plan { .. } => {
                unreachable!("these are handled by the callers")
            }
        });
        Ok((self.untuned(bytes)?, Some(bytes)))
    }

    fn saved_plan(&self, text: &str, equal: &PerSite<f64>) -> Result<Plan> {
        let plan = plan::read(text, &self.sites, equal)?;
        match self.pins.contradicted(&plan) {
            None => Ok(plan),
            Some(id) => {
                let site = self.sites.place(self.sites.get(id));
                let message = format!("{site}: the plan and [nodes] of the configuration disagree: change one of them");
                Err(Error::new(ErrorKind::Usage, message))
            }
        }
    }

    /// A coded model for a size, or where the model is tuned fully, that of the plan that is best then.
    fn coded_to_tune(&mut self, coded: CodedModel, target: u64) -> Result<CodedModel> {
        let plan = self.plan_to_tune(coded.plan.clone(), target)?;
        if plan == coded.plan { Ok(coded) } else { self.code(vec![plan]) }
    }

    /// `best`, or where the model is tuned fully, the plan that is best then.
    fn plan_to_tune(&mut self, best: Plan, target: u64) -> Result<Plan> {
        let full = self.tuning().is_some_and(|tune| tune.effort == tune::Effort::Full);
        let (Some(engine), Some((curves, sensitivity)), true) = (&self.engine, self.measured(), full) else {
            return Ok(best);
        };
        // Only what follows from sensitivities alone can be rescaled with them.
        if self.options.codec != Codec::Block || !self.pins.is_empty() || best.sensitivity != *sensitivity {
            return Ok(best);
        }
        let allocate =
            |study: &Study<'_>, moved: &PerSite<f64>| study.sized(|sizing| curves.allocate(sizing, moved, target));
        let judged = (engine, &self.judge);
        let study = self.study.as_mut().expect("a plan was made of it");
        study.tuned_plan(best, &curves, judged, allocate, &self.progress)
    }

    /// How bits are divided: as asked for, as far as the model can be run.
    fn allocation(&self) -> Allocation {
        match (self.options.allocation, &self.engine) {
            (Allocation::Auto | Allocation::Measured, None) if self.in_part => Allocation::Local,
            (_, None) if !self.in_part => Allocation::Uniform,
            (allocation, _) => allocation,
        }
    }

    /// The plans that may be the best before tuning, best first by trials.
    fn untuned(&mut self, target: u64) -> Result<Vec<Plan>> {
        self.calibrate()?;
        self.target = Some(target);
        if let Some(dense) = self.fits_dense(target)? {
            return Ok(vec![dense]);
        }
        if self.allocation() == Allocation::Uniform {
            self.progress.phase("allocate", 0);
            let plan = self.blind(target);
            self.progress.done();
            return Ok(vec![plan?]);
        }
        let (curves, sensitivity) = self.measure(target)?;
        self.progress.phase("allocate", 0);
        let budgets = (&*curves, &*sensitivity);
        let codecs: &[Codec] = match self.options.codec {
            Codec::Auto => &[Codec::Block, Codec::Auto, Codec::Projection],
            Codec::Block => &[Codec::Block],
            Codec::Projection => &[Codec::Projection],
        };
        // A codec that cannot reach the target is no candidate, as long as another can.
        let (mut plans, mut failure) = (Vec::new(), None);
        let study = self.study.as_ref().expect("calibrated above");
        for &codec in codecs {
            match self.budgeted(study, codec, budgets, target) {
                Ok(plan) if plans.contains(&plan) => {}
                // Block codes are divided best by those who look at nothing else.
                Ok(plan) if codec == Codec::Auto && !plans.is_empty() && !projects(&plan) => {}
                Ok(plan) => plans.push(plan),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if self.allocation() == Allocation::Auto {
            for other in self.others(&curves, &sensitivity, target)? {
                if plans.iter().all(|plan| plan.choices != other.choices) {
                    plans.push(other);
                }
            }
        }
        self.progress.done();
        if plans.is_empty() {
            return Err(failure.expect("no plan without an error"));
        }
        let plans = self.by_trials(plans, &curves, target)?;
        plans.into_iter().map(|plan| self.without_waste(plan)).collect()
    }

    /// The plan that codes nothing, where its file is no larger than the target.
    ///
    /// # Errors
    /// [`ErrorKind::NothingToDo`] if the original is no larger itself.
    fn fits_dense(&self, target: u64) -> Result<Option<Plan>> {
        let study = self.study.as_ref().expect("whoever plans has calibrated");
        let mut plan = Plan::alike(Choice::Dense, &study.equal());
        self.pins.apply(&mut plan);
        if plan.choices.values().any(|choice| *choice != Choice::Dense) || study.bytes(&plan)? > target {
            return Ok(None);
        }
        if self.original.bytes() <= target {
            let message = format!("nothing to do: the original already fits {target} bytes");
            return Err(Error::new(ErrorKind::NothingToDo, message));
        }
        Ok(Some(plan))
    }

    /// Plans by other sensitivities than those that were measured: by the derivatives of gates, by one rate for all, and by means
    /// of them.
    fn others(&self, curves: &Curves, measured: &PerSite<f64>, target: u64) -> Result<Vec<Plan>> {
        let study = self.study.as_ref().expect("whoever plans has calibrated");
        let (local, equal) = (study.local_sensitivity(), study.equal());
        let mean = measured.map(|id, s| (s * equal[id]).sqrt());
        let mut plans = Vec::new();
        for sensitivity in [&mean, &local, &equal] {
            plans.extend(within_reach(self.budgeted(study, Codec::Block, (curves, sensitivity), target))?);
        }
        plans.extend(within_reach(self.blind(target))?);
        Ok(plans)
    }

    /// Plans in the order of how they do by trials, with one more for what the best of them shows.
    fn by_trials(&mut self, plans: Vec<Plan>, curves: &Curves, target: u64) -> Result<Vec<Plan>> {
        if plans.len() == 1 || self.engine.is_none() {
            return Ok(plans);
        }
        let mut tried = self.tried(plans)?;
        tried.sort_by(|a, b| a.0.total_cmp(&b.0));
        if self.options.allocation == Allocation::Auto {
            let moved = self.sensitivity_at(&tried[0].1)?;
            let study = self.study.as_ref().expect("whoever plans has calibrated");
            let more = within_reach(self.budgeted(study, Codec::Block, (curves, &moved), target))?;
            let more = more.filter(|more| tried.iter().all(|(_, plan)| plan.choices != more.choices));
            tried.extend(self.tried(more.into_iter().collect())?);
            tried.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        Ok(tried.into_iter().map(|(_, plan)| plan).collect())
    }

    /// Plans with the losses of the models that they make.
    fn tried(&mut self, plans: Vec<Plan>) -> Result<Vec<(f64, Plan)>> {
        let (Some(study), Some(engine), false) = (&mut self.study, &self.engine, plans.is_empty()) else {
            return Ok(Vec::new());
        };
        let losses = study.losses(&plans, engine, &self.judge, &self.progress)?;
        Ok(losses.into_iter().zip(plans).collect())
    }

    fn sensitivity_at(&mut self, plan: &Plan) -> Result<PerSite<f64>> {
        let engine = self.engine.as_ref().expect("nothing is measured without an engine");
        let study = self.study.as_mut().expect("whoever plans has calibrated");
        study.sensitivity_at(plan, engine, &self.judge, &self.progress)
    }

    /// The plan with all small tensors dense that take no more bytes so: what is estimated for the nodes of one is too little or
    /// too much where names are long or short.
    fn without_waste(&self, mut plan: Plan) -> Result<Plan> {
        let study = self.study.as_ref().expect("a plan was made of it");
        study.sized(|sizing| {
            let mut bytes = sizing.bytes(&plan)?;
            for sites in self.sites.by_tensor() {
                let stored = sites.iter().map(|site| self.sites.dense_bytes(site.id)).sum::<u64>();
                let is_small = stored < SMALL * size_of::<f32>() as u64;
                let is_free = |site: &Site| self.pins.0[site.id].is_none() && sizing.keeps_dense[site.id];
                let is_coded = sites.iter().any(|site| plan.choices[site.id] != Choice::Dense);
                if !(is_small && is_coded && sites.iter().all(is_free)) {
                    continue;
                }
                let mut dense = plan.clone();
                sites.iter().for_each(|site| dense.choices[site.id] = Choice::Dense);
                let without = sizing.bytes(&dense)?;
                if without <= bytes && dense.choices.values().any(|choice| *choice != Choice::Dense) {
                    (plan, bytes) = (dense, without);
                }
            }
            Ok(plan)
        })
    }

    /// Curves, and sensitivities for a target: measured with codes of about its rate.
    fn measure(&mut self, target: u64) -> Result<(Arc<Curves>, Arc<PerSite<f64>>)> {
        let allocation = self.allocation();
        let study = self.study.as_mut().expect("whoever measures has calibrated");
        let bits = study.sized(|sizing| {
            let weights = sizing.sites.parameters().max(1);
            (target.saturating_sub(sizing.kept()) as f64 * 8.0 / weights as f64).clamp(1.5, 4.0)
        });
        let rates = if self.options.codec == Codec::Projection { Rates::Coarse } else { Rates::All };
        let widths = study.coarse_widths(bits);
        let curves = match self.budgets.curves.take().filter(|(known, _)| *known == rates && rates == Rates::All) {
            Some((_, curves)) => curves,
            None => Arc::new(study.curves(bits, rates, &self.progress)?),
        };
        self.budgets.curves = Some((rates, curves.clone()));
        let (local, key) = match allocation {
            Allocation::Local => (true, Vec::new()),
            _ => (false, widths),
        };
        let sensitivity = match (self.budgets.sensitivities.get(&key), local) {
            (Some(known), _) => known.clone(),
            (None, true) => Arc::new(study.local_sensitivity()),
            (None, false) => {
                let engine = self.engine.as_ref().expect("nothing is measured without an engine");
                Arc::new(study.sensitivity(&key, engine, &self.judge, &self.progress)?)
            }
        };
        self.budgets.sensitivities.insert(key, sensitivity.clone());
        self.budgets.sensitivity = Some(sensitivity.clone());
        Ok((curves, sensitivity))
    }

    /// A plan without sensitivities: all sites alike.
    fn blind(&self, target: u64) -> Result<Plan> {
        let study = self.study.as_ref().expect("whoever plans has calibrated");
        let equal = study.equal();
        study.sized(|sizing| {
            if self.options.codec == Codec::Projection {
                let dictionaries = study.dictionaries(&equal)?;
                return self.pins.fit(sizing, target, |target| dictionaries.allocate(sizing, None, target));
            }
            self.pins.fit(sizing, target, |target| plan::uniform(sizing, &equal, target))
        })
    }

    /// The plan of least predicted loss with a codec.
    fn budgeted(
        &self,
        study: &Study<'_>,
        codec: Codec,
        (curves, sensitivity): (&Curves, &PerSite<f64>),
        target: u64,
    ) -> Result<Plan> {
        study.sized(|sizing| {
            if codec == Codec::Block {
                return self.pins.fit(sizing, target, |target| curves.allocate(sizing, sensitivity, target));
            }
            let dictionaries = study.dictionaries(sensitivity)?;
            let rivals = (codec == Codec::Auto).then_some(curves);
            self.pins.fit(sizing, target, |target| dictionaries.allocate(sizing, rivals, target))
        })
    }

    /// The best of the models that plans make.
    fn code(&mut self, plans: Vec<Plan>) -> Result<CodedModel> {
        self.calibrate()?;
        let study = self.study.as_mut().expect("calibrated just now");
        let judged = self.engine.as_ref().map(|engine| (engine, &self.judge));
        study.code(&plans, judged, &self.progress)
    }

    fn draws(&self) -> usize {
        match (&self.study, &self.engine) {
            (Some(study), Some(_)) => study.draws(),
            _ => 1,
        }
    }

    /// The model after fine-tuning, if it is tuned.
    fn tuned(&mut self, mut coded: CodedModel) -> Result<(CodedModel, Option<TuneReport>)> {
        let (Some(options), Some(engine)) = (self.tuning(), &self.engine) else { return Ok((coded, None)) };
        let study = self.study.as_mut().expect("whoever tunes has coded");
        let report = study.tune(&mut coded, engine, &self.judge, &options, &self.progress)?;
        Ok((coded, Some(report)))
    }

    /// What [`compress`](Self::compress) makes of the target of a search's find, whose best plan before tuning is coded
    /// already.
    fn finished(&mut self, found: &SmallestSize, coded: &CodedModel) -> Result<(CodedModel, Option<TuneReport>)> {
        self.recall(found.bytes)?;
        let coded = self.coded_to_tune(coded.clone(), found.bytes)?;
        self.tuned(coded)
    }

    /// The smallest model that reaches a goal on samples held back from the calibration.
    ///
    /// Tuning takes far longer than coding, and reduces the loss by about the same share at all sizes: the search is on
    /// coded models, once for the bound and once for the bound divided by that share, and only its ends are tuned. The result
    /// is that of its size as a target, but where tuning takes it beyond the bound: then it stays untuned.
    fn within(&mut self, goal: &Goal) -> Result<Compressed> {
        if self.inputs.search.is_none() {
            // What a size is searched on must not be calibrated on.
            self.inputs.hold_back();
            (self.study, self.budgets, self.sizes) = (None, Budgets::default(), Arc::default());
        }
        self.calibrate()?;
        let Some(engine) = &self.engine else {
            let message = "the model cannot be run, which --max-loss and --smallest need: use --ratio or --max-size";
            return Err(Error::new(ErrorKind::Engine, message));
        };
        self.goal = Some(goal.clone());
        let mut judge = self.judge.clone();
        goal.prepare(&mut judge);
        let samples = self.inputs.search.clone().unwrap_or_else(|| self.inputs.calibration.clone());
        let held = judge.reference(engine, &samples)?;
        let (found, untuned) = self.search(&held, goal, goal.bound())?;
        let (coded, tuning) = self.finished(&found, &untuned)?;
        let comparison = compared(&coded, &held)?;
        if tuning.is_none() {
            return self.settled(coded, None, goal, (&held, &comparison));
        }
        let tuned = goal.measure(&comparison)?;
        if tuned > goal.bound() {
            // Tuning looks at the mean of the outputs, and at other samples.
            let comparison = compared(&untuned, &held)?;
            return self.settled(untuned, None, goal, (&held, &comparison));
        }
        let gain = tuned / found.loss;
        if gain < 1.0 && gain > 0.0 {
            let (other, smaller) = self.search(&held, goal, goal.bound() / gain)?;
            let (smaller, tuning) = self.finished(&other, &smaller)?;
            let of_smaller = compared(&smaller, &held)?;
            if goal.measure(&of_smaller)? <= goal.bound() {
                return self.settled(smaller, tuning, goal, (&held, &of_smaller));
            }
            self.recall(found.bytes)?;
        }
        self.settled(coded, tuning, goal, (&held, &comparison))
    }

    /// The result of a search, and what the search came to.
    fn settled(
        &mut self,
        coded: CodedModel,
        tuning: Option<TuneReport>,
        goal: &Goal,
        (held, comparison): (&Reference<'_>, &Comparison),
    ) -> Result<Compressed> {
        let loss = comparison.worst_loss()?;
        let result = self.compressed(coded, tuning)?;
        let smaller = self.looks.iter().filter(|look| look.bytes < result.planned.bytes);
        let next = smaller.max_by_key(|look| look.bytes);
        self.searched = Some(Searched {
            goal: goal.describe(),
            samples: held.samples(),
            loss,
            next_smaller: next.and_then(|look| Some((look.bytes, look.loss_worst?))),
        });
        Ok(result)
    }

    /// Makes what was measured for a target that of the plan that is taken.
    fn recall(&mut self, target: u64) -> Result<()> {
        self.target = Some(target);
        if self.allocation() != Allocation::Uniform {
            self.measure(target)?;
        }
        Ok(())
    }

    /// The smallest model that is within the bound before tuning.
    fn search(&mut self, held: &Reference<'_>, goal: &Goal, bound: f64) -> Result<(SmallestSize, CodedModel)> {
        let mut best: Option<CodedModel> = None;
        let mut least = f64::INFINITY;
        let mut looks = Vec::new();
        let range = self.calibrated()?.sized(|sizing| sizing.target(SMALLEST)..=sizing.file);
        let found = smallest(range, bound, LOOKS, |bytes| {
            let coded = match self.untuned(bytes).and_then(|plans| self.code(plans)) {
                Ok(coded) => coded,
                // A size without a plan is merely too small; every other failure ends the search.
                Err(error) if error.kind() == ErrorKind::Target => return Ok(f64::INFINITY),
                Err(error) => return Err(error),
            };
            let comparison = compared(&coded, held)?;
            let loss = goal.measure(&comparison)?;
            looks.push(Look {
                bytes: coded.model.saved_bytes()?,
                loss_mean: Some(comparison.mean_loss()?),
                loss_worst: Some(comparison.worst_loss()?),
                measured: true,
            });
            least = least.min(loss);
            if loss <= bound {
                // Each find is smaller than the one before.
                best = Some(coded);
            }
            Ok(loss)
        })?;
        self.looks.append(&mut looks);
        found.zip(best).ok_or_else(|| Error::new(ErrorKind::Target, goal.missed(least)))
    }
}

/// Refuses a model that is compressed already.
///
/// # Errors
/// [`ErrorKind::NothingToDo`].
pub fn refuse_coded(model: &Model, sites: &Sites) -> Result<()> {
    let values = Values::new(&model.proto)?;
    let is_coded = |tensor| expand::is_coded(model, &values, sites.first_reader(tensor).source);
    if sites.tensors().any(is_coded) || encode::find_tables(model).is_ok_and(|tables| !tables.is_empty()) {
        let message = "already compressed by dirnet: use the original, or run 'dirnet expand' first";
        return Err(Error::new(ErrorKind::NothingToDo, message));
    }
    Ok(())
}

/// Refuses a result that is no smaller than the original; `instead` says what to do.
///
/// # Errors
/// [`ErrorKind::NothingToDo`].
pub(crate) fn refuse_larger(original: &Model, bytes: u64, instead: &str) -> Result<()> {
    let before = original.bytes();
    if bytes < before {
        return Ok(());
    }
    let message = format!("the result is no smaller than the original ({bytes} bytes, and {before} before): {instead}");
    Err(Error::new(ErrorKind::NothingToDo, message))
}

/// The outputs that are judged: those that the sites reach.
fn judge(model: &Model, loss: &LossSpec, sites: &Sites, samples: &Samples) -> Result<Judge> {
    let mut judge = Judge::new(model, loss, &samples.carry)?;
    judge.keep_reached(&reach::outputs(model, &Changes::of_elements(sites.nodes()), &samples.carry)?)?;
    Ok(judge)
}

/// The sites of recurrent nodes, which come first, and what is pinned of them: for a model that cannot be run. What coding
/// other nodes does is seen at the outputs only, and a layer of recurrent nodes can be verified by itself.
fn recurrent_only(model: &Model, sites: Sites, pins: &Pins, refused: &Error) -> Result<(Sites, Pins)> {
    if sites.survey.nodes.is_empty() {
        let message = format!(
            "the model has no recurrent node, and the others need runs of it (--lossless needs none), but {refused}"
        );
        return Err(Error::new(ErrorKind::Engine, message));
    }
    let sites = Sites::of(model, sites.survey, Vec::new())?;
    let pins = Pins(pins.0.values().take(sites.len()).copied().collect());
    Ok((sites, pins))
}

/// Names the model's file.
fn located(model: &Model, error: Error) -> Error {
    match model.path() {
        Some(path) => error.in_file(path),
        None => error,
    }
}

/// The loss on other samples differs by at least this factor from that on those that codes and plans were made of, up or down.
const LEAST_FACTOR: f64 = 2.0;

/// Bounds of the loss on as many other samples, about two standard errors apart, from the losses of single streams.
fn expected_range(loss: f64, mut each: Vec<f64>) -> [f64; 2] {
    each.retain(|loss| *loss > 0.0 && loss.is_finite());
    let count = each.len().max(1) as f64;
    let logs: Vec<f64> = each.iter().map(|loss| loss.ln()).collect();
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    // Both means vary.
    let factor = (2.0 * (2.0 * variance / count).sqrt()).exp().max(LEAST_FACTOR);
    [loss / factor, loss * factor]
}

/// The warning where the loss on held-out samples is not what the calibration samples promised.
fn unexpected(loss: f64, [least, most]: [f64; 2]) -> Option<String> {
    let (how, why) = match loss {
        loss if loss > most => {
            ("more", "they may be unlike the calibration samples, or these are too few: add some like them")
        }
        loss if loss < least => ("less", "they may be easier than the calibration samples: hold out more of them"),
        _ => return None,
    };
    Some(format!(
        "the loss on held-out samples is {loss:.1e}, {how} than the {least:.1e} to {most:.1e} that calibration samples let expect: {why}"
    ))
}

/// A plan, or `None` where there is none for its target.
fn within_reach(plan: Result<Plan>) -> Result<Option<Plan>> {
    match plan {
        Err(error) if matches!(error.kind(), ErrorKind::Target | ErrorKind::NothingToDo) => Ok(None),
        plan => plan.map(Some),
    }
}

/// Whether a plan has projection dictionaries.
fn projects(plan: &Plan) -> bool {
    plan.choices.values().any(|choice| matches!(choice, Choice::Projection { .. }))
}

/// How far a coded model is from the original on some samples.
fn compared(coded: &CodedModel, held: &Reference<'_>) -> Result<Comparison> {
    held.compare(&Engine::new(&coded.model)?, &Overrides::default())
}

/// The refusal of a ratio, in ratios.
fn beyond_reach(ratio: f64, nearest: Option<f64>, bytes: u64) -> Error {
    let message = match nearest {
        Some(nearest) => {
            format!("--ratio {ratio} cannot be reached; the nearest is --ratio {nearest:.2}, a file of {bytes} bytes")
        }
        None => {
            format!("--ratio {ratio} cannot be reached; a codebook takes more bytes than it saves in weights so small")
        }
    };
    Error::new(ErrorKind::Target, message)
}

/// The warning where the file needs a newer IR version than the original.
fn newer_ir(original: &Model, result: &Model) -> Option<String> {
    let (before, after) = (original.ir_version(), result.ir_version());
    (after > before).then(|| {
        format!("the result needs IR version {after} (the original: {before}), for constants that are no inputs")
    })
}

fn without_outputs(error: &Error) -> String {
    format!(
        "the model cannot be run to its outputs: it is calibrated on the samples as far as it runs, bits are allocated by the \
         derivatives of the gates, and fine-tuning is skipped ({error})"
    )
}

fn without_engine(error: &Error) -> String {
    format!(
        "the model cannot be run: layers are calibrated on seeded random inputs, with the same bits for every gate ({error})"
    )
}
