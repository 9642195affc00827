//! A calibrated model: its sites with their metrics, from which curves, sensitivities and codes are made.
//!
//! ```text
//! sites -> second moments -> curves, sensitivities -> Plan -> coded sites -> Model
//! ```
//! Each step is a function of its own module; this one puts them in order. Which of them are taken is decided by
//! [`Compressor`](super::Compressor).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use super::moments::Moments;
use super::sensitivity;
use crate::calibrate::{self, Fold, PARTED, SecondMoments};
use crate::code::{self, CodedSites, Learning};
use crate::dictionary::{self, BlockSpec, Metric};
use crate::encode::{self, Forms, Writing};
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::loss::Judge;
use crate::onnx::Model;
use crate::plan::{self, Choice, Curves, Dictionaries, Plan, Sharing, Sizing, Storage};
use crate::progress::{self, Progress, Silent};
use crate::samples::Samples;
use crate::sites::{PerSite, Site, SiteId, Sites, Weights};
use crate::tune::{self, TuneReport};

/// Seconds that each phase took.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhaseSeconds {
    /// Running the original for second moments.
    pub calibrate: f64,
    /// Learning curves and the plan's codes.
    pub learn: f64,
    /// Measuring sensitivities and choosing.
    pub allocate: f64,
    /// Fine-tuning.
    pub tune: f64,
    /// Building the graph.
    pub encode: f64,
}

/// A model that is being compressed: its weights, and what calibration measured.
pub struct Study<'a> {
    /// The original.
    pub model: Cow<'a, Model>,
    /// Bytes that the weights take in the file as the user has it.
    pub before: u64,
    /// Its sites and their weights.
    pub weights: Weights,
    /// Seeds everything random.
    pub seed: u64,
    /// How the result is written.
    writing: Writing,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Time per phase, so far.
    pub seconds: PhaseSeconds,
    /// What the weights are coded with in the end: of all but the samples that are chosen by.
    metrics: PerSite<Arc<Metric>>,
    /// What codes are tried with, and what their distortion is measured with, of other samples.
    trial: PerSite<Arc<Metric>>,
    test: PerSite<Arc<Metric>>,
    /// The calibration samples; none where nothing was run.
    folds: Option<Folds>,
    /// Sensitivity of each site from the derivatives of its gate, where a sample reached it.
    local: PerSite<Option<f64>>,
    /// Steps of sequences that the calibration samples gave.
    steps: f64,
    /// Runs of the model that these took.
    feeds: f64,
    /// What was measured for the sizes of plans.
    sizes: Arc<encode::Measured>,
    /// The energy of each site, once it was asked for.
    energies: OnceLock<PerSite<f64>>,
    /// Sites coded in one way, with their distortions.
    versions: Mutex<BTreeMap<Choice, Arc<CodedVersion>>>,
}

/// The calibration samples in parts, of which none is judged on what it was made of.
struct Folds {
    /// All of them; long streams cut, so that there are several.
    all: Samples,
    /// Those that codes are learned on in the end.
    known: Samples,
    /// Those that sensitivities are measured on.
    test: Samples,
    /// Those that plans and models are chosen by.
    choice: Samples,
}

/// All sites coded at one rate, and the distortion of each.
pub type CodedVersion = (CodedSites, PerSite<f64>);

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct CodedModel {
    /// The plan.
    pub plan: Plan,
    /// The stored sites.
    pub sites: CodedSites,
    /// Distortion of each site; zero for a dense one.
    pub distortion: PerSite<f64>,
    /// The compressed model.
    pub model: Model,
}

/// Which points of the curves are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rates {
    /// All that plans may choose from.
    All,
    /// Those that sensitivities are measured at.
    Coarse,
}

/// Steps of sequences that sensitivities are measured on, at about, and products of weights and numbers that they may take in a
/// large model, where each loss is the sum of many errors: they need only order the sites.
const SENSITIVITY_STEPS: f64 = 8192.0;
const STEPS_PRODUCTS: f64 = (1u64 << 32) as f64;
/// Products of weights and numbers that all coarse versions of one site may take together, and how many there are at most.
const SENSITIVITY_PRODUCTS: f64 = (1u64 << 30) as f64;
const MOST_VERSIONS: usize = 5;
/// Products that take about as long as to call a node, which is what models of many small nodes spend their time on: 0.4 s for
/// 300 calls of the 600 nodes of a speech enhancer.
const NODE_PRODUCTS: f64 = 4096.0;
/// How much coarser codes of one kind of sites have to add to the loss, as a share, to be distinguished from noise, and by
/// how much the sensitivity of the kind is changed at most.
const LEAST_RISE: f64 = 0.05;
const MOST_MOVED: f64 = 4.0;
/// The share of the loss of a plan from which on another one is clearly worse: trials of one plan with other seeds differ by as
/// much.
const CLEARLY_WORSE: f64 = 1.1;
/// Rounds of coding and refitting: for the curves and the plans that are compared, which need only the order of things, for
/// plans that are tuned a little, and for what is stored, where each round still takes some thousandths off the error.
const TRIAL_ROUNDS: usize = 1;
const PLAN_ROUNDS: usize = 2;
const FINAL_ROUNDS: usize = 8;
/// Products of numbers that coding and running a model several times may take, some seconds, and how often it is coded at most.
const DRAW_PRODUCTS: f64 = (1u64 << 28) as f64;
const MOST_DRAWS: usize = 24;
/// What a seed differs by from the next: any odd number.
const OTHER_SEED: u64 = 0x9E37_79B9_7F4A_7C15;
/// Streams that one is cut into, and steps of a piece at least: enough pieces for each part of the samples, each so long that
/// errors in states show.
const PIECES: usize = 10;
const PIECE_STEPS: usize = 32;

impl<'a> Study<'a> {
    /// Calibrates: runs the original on the samples, or each recurrent cell on noise where the engine is `None`.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn new(
        model: impl Into<Cow<'a, Model>>,
        weights: Weights,
        calibration: Option<(&Engine, &Samples)>,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<Study<'a>> {
        let start = Instant::now();
        let folds = match calibration {
            Some((engine, samples)) => Some(Folds::of(engine.in_pieces(samples, PIECES, PIECE_STEPS)?)),
            None => None,
        };
        let measured = match (calibration, &folds) {
            (Some((engine, _)), Some(folds)) => calibrate::measure(engine, &weights, &folds.all, progress)?,
            _ => SecondMoments::default(),
        };
        let steps = measured.vectors().max(1) as f64;
        let numbers = weights.survey.nodes.iter().map(|n| calibration.and_then(|(e, _)| e.number(&n.scope, n.index)));
        let moments =
            Moments { weights: &weights, measured, numbers: numbers.collect(), seed, stand_ins: RefCell::default() };
        let mut of_inputs = Vec::with_capacity(weights.inputs.len());
        for input in &weights.inputs {
            let moment = moments.of_input(input);
            // Half of the vectors want twice the damping.
            let damp = dictionary::damping([moment.sum(Fold::Trial), moment.sum(Fold::Test)]);
            let metric = |parts: &[Fold], damp| Ok(Arc::new(Metric::new(moment.mean(parts).view(), damp)?));
            let last = metric(&[Fold::Trial, Fold::Test], damp / 2.0)?;
            of_inputs.push([last, metric(&[Fold::Trial], damp)?, metric(&[Fold::Test], 0.0)?]);
        }
        let [metrics, trial, test] = [0, 1, 2].map(|i| weights.sites().map(|site| of_inputs[site.input.0][i].clone()));
        let local = weights.sites().map(|site| moments.local(site));
        let warnings = if calibration.is_some() { moments.stand_ins.into_inner() } else { Vec::new() };
        Ok(Study {
            model: model.into(),
            before: weights.stored_bytes(),
            metrics,
            trial,
            test,
            folds,
            weights,
            seed,
            writing: Writing::default(),
            local,
            steps,
            feeds: calibration.map_or(1.0, |(_, samples)| samples.len() as f64),
            warnings,
            seconds: PhaseSeconds { calibrate: start.elapsed().as_secs_f64(), ..PhaseSeconds::default() },
            sizes: Arc::default(),
            energies: OnceLock::new(),
            versions: Mutex::default(),
        })
    }

    /// How the result is written.
    #[must_use]
    pub fn writing(&self) -> &Writing {
        &self.writing
    }

    /// Sets how the result is written, with what was measured for the sizes of plans that are written so.
    pub fn write_as(&mut self, writing: Writing, sizes: Arc<encode::Measured>) {
        (self.writing, self.sizes) = (writing, sizes);
    }

    /// Hands what decides the size of a plan to `work`.
    pub fn sized<T>(&self, work: impl FnOnce(&Sizing<'_>) -> T) -> T {
        sized_from(self.before, &self.model, &self.weights, &self.writing, &self.sizes, work)
    }

    /// Bytes of the file that a plan makes.
    ///
    /// # Errors
    /// As [`encode::apply`].
    pub fn bytes(&self, plan: &Plan) -> Result<u64> {
        encode::Sizes::new(&self.model, &self.weights, &self.writing, &self.sizes).bytes(plan)
    }

    /// Learns the rate-distortion curves of all sites.
    ///
    /// # Errors
    /// Those of the numerics.
    pub fn curves(&mut self, bits: f64, rates: Rates, progress: &dyn Progress) -> Result<Curves> {
        let start = Instant::now();
        let coarse = self.coarse_widths(bits);
        let mut curves = Curves::of_shapes(&self.weights);
        let Some(points) = curves.points.values().next() else { return Ok(curves) };
        let mut ways: Vec<(usize, Choice)> = points.iter().map(|point| point.choice).enumerate().collect();
        ways.retain(|(_, choice)| match (rates, private_width(*choice)) {
            _ if *choice == Choice::Dense => false,
            (Rates::All, _) => true,
            (Rates::Coarse, width) => width.is_some_and(|width| coarse.contains(&width)),
        });
        let points = curves.points.iter_mut().flat_map(|(_, points)| points);
        points.filter(|point| point.choice != Choice::Dense).for_each(|point| point.distortion = f64::INFINITY);
        // What lies between points that are learned can be told from these where nothing is learned by heart.
        let is_wanted = |choice, members: &[SiteId]| {
            rates == Rates::Coarse || plan::is_learned(choice) || !plan::is_smooth(&self.weights, members)
        };
        let mut steps = 0;
        for (_, choice) in &ways {
            let groups = Plan::alike(*choice, &self.equal()).codebooks(&self.weights);
            let wanted = groups.iter().filter(|(_, members)| is_wanted(*choice, members));
            steps += wanted.map(|(_, members)| members.len() as u64).sum::<u64>();
        }
        progress.phase("curves", steps);
        for (way, choice) in ways {
            let version = self.version(choice, |members| is_wanted(choice, members), progress)?;
            for (id, points) in curves.points.iter_mut().filter(|(id, _)| version.0[*id].is_some()) {
                points[way].distortion = version.1[id];
            }
        }
        if rates == Rates::All {
            curves.interpolate();
        }
        self.forget_factors();
        progress.done();
        self.seconds.learn += start.elapsed().as_secs_f64();
        Ok(curves)
    }

    /// Sites coded in one way, as well as plans that are compared need it: at least those whose codebooks, by the sites that
    /// they serve, are `wanted`. Whatever else was asked for before, each of them has the same codes.
    fn version(
        &self,
        choice: Choice,
        wanted: impl Fn(&[SiteId]) -> bool,
        progress: &dyn Progress,
    ) -> Result<Arc<CodedVersion>> {
        let versions = || self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = versions().get(&choice).cloned();
        let is_known = |id: SiteId| known.as_ref().is_some_and(|known| known.0[id].is_some());
        let mut plan = Plan::alike(choice, &self.equal());
        for (_, members) in plan.codebooks(&self.weights) {
            if is_known(members[0]) || !wanted(&members) {
                members.into_iter().for_each(|id| plan.choices[id] = Choice::Dense);
            }
        }
        let version = match known {
            Some(known) if plan.choices.values().all(|choice| *choice == Choice::Dense) => return Ok(known),
            None => self.tried(&plan, progress)?,
            Some(known) => {
                let (mut coded, mut distortion) = (*known).clone();
                let (others, more) = self.tried(&plan, progress)?;
                for (id, other) in others.iter().filter(|(_, other)| other.is_some()) {
                    (coded[id], distortion[id]) = (other.clone(), more[id]);
                }
                (coded, distortion)
            }
        };
        let version = Arc::new(version);
        versions().insert(choice, version.clone());
        Ok(version)
    }

    /// A plan's codes, learned on some of the samples, and their distortions on others.
    fn tried(&self, plan: &Plan, progress: &dyn Progress) -> Result<CodedVersion> {
        let how = Learning { metrics: &self.trial, ..self.learning(TRIAL_ROUNDS, Some(plan)) };
        let coded = code::learn(&self.weights, plan, &how, progress)?;
        let distortion = self.distortion(&self.test, &coded);
        Ok((coded, distortion))
    }

    /// The distortion of each site under some metrics: for trial codes those of samples that they were not learned on.
    fn distortion(&self, metrics: &PerSite<Arc<Metric>>, coded: &CodedSites) -> PerSite<f64> {
        let of_site = |id| match &coded[id] {
            Some(coded) => code::distortion_of(&self.weights, metrics, id, coded),
            None => 0.0,
        };
        self.weights.ids().collect::<Vec<_>>().into_par_iter().map(of_site).collect::<Vec<_>>().into()
    }

    /// The codes of a plan that is compared with others: put together of what is learned for all sites alike.
    fn trial(&self, plan: &Plan, progress: &dyn Progress) -> Result<CodedSites> {
        let mut coded: CodedSites = self.weights.sites().map(|_| None);
        let mut choices: Vec<Choice> = plan.choices.values().copied().filter(|c| *c != Choice::Dense).collect();
        choices.sort_unstable();
        choices.dedup();
        if choices.iter().any(|choice| !matches!(choice, Choice::Block { .. })) {
            return Ok(self.tried(plan, progress)?.0);
        }
        for choice in choices {
            let is_used = |members: &[SiteId]| members.iter().any(|&id| plan.choices[id] == choice);
            let version = self.version(choice, is_used, progress)?;
            for id in self.weights.ids().filter(|&id| plan.choices[id] == choice) {
                coded[id].clone_from(&version.0[id]);
            }
        }
        Ok(coded)
    }

    /// The widths of pieces at which sensitivities are measured for a plan of about `bits` a weight.
    ///
    /// One step coarser than the plan will be: far above noise, still small enough to be quadratic.
    #[must_use]
    pub fn coarse_widths(&self, bits: f64) -> Vec<usize> {
        plan::widths_near(((8.0 / bits).round() as usize + 1).clamp(3, 8), self.most_versions())
    }

    /// The loss per distortion of each site at the outputs that `judge` names, with codes of these widths; a site that the
    /// samples do not reach gets that of sites of its kind.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn sensitivity(
        &mut self,
        widths: &[usize],
        engine: &Engine,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<PerSite<f64>> {
        let measured = self.measure(widths, engine, judge, progress)?;
        Ok(self.complete(&measured))
    }

    /// Measures the loss per distortion of each site that the samples reach.
    ///
    /// # Errors
    /// Those of the numerics and of running the model.
    pub fn measure(
        &mut self,
        widths: &[usize],
        engine: &Engine,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<PerSite<Option<f64>>> {
        let start = Instant::now();
        let samples = self.few(|folds| &folds.test);
        let reference = judge.reference(engine, &samples)?;
        // In the order of the curves, which the order of equal versions depends on.
        let mut widths = widths.to_vec();
        widths.sort_unstable();
        let versions =
            widths.iter().map(|&width| self.version(private(width), |_| true, &Silent)).collect::<Result<Vec<_>>>()?;
        let measured = sensitivity::measure(engine, &self.weights, &versions, &reference, progress)?;
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(measured)
    }

    /// What projection dictionaries have to offer each site, given its sensitivity.
    ///
    /// # Errors
    /// Those of the numerics.
    pub fn dictionaries<'s>(&'s self, sensitivity: &'s PerSite<f64>) -> Result<Dictionaries<'s>> {
        Dictionaries::mine(&self.weights, &self.metrics, sensitivity)
    }

    /// The losses of the models that plans make, on samples that nothing of them was measured on.
    ///
    /// # Errors
    /// Those of the numerics and of running the model.
    pub fn losses(
        &mut self,
        plans: &[Plan],
        engine: &Engine,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>> {
        let start = Instant::now();
        let samples = self.few(|folds| &folds.choice);
        let reference = judge.reference(engine, &samples)?;
        progress.phase("compare plans", plans.len() as u64);
        let mut losses = Vec::with_capacity(plans.len());
        for plan in plans {
            let coded = self.trial(plan, &Silent)?;
            losses.push(sensitivity::loss(engine, &self.weights, &coded, &reference)?);
            progress::advance(progress, 1)?;
        }
        self.forget_factors();
        progress.done();
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(losses)
    }

    /// The sensitivities of sites where a plan has all others coded, too: the loss that coding each of them adds.
    ///
    /// # Errors
    /// Those of the numerics and of running the model.
    pub fn sensitivity_at(
        &mut self,
        plan: &Plan,
        engine: &Engine,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<PerSite<f64>> {
        let start = Instant::now();
        let samples = self.few(|folds| &folds.test);
        let reference = judge.reference(engine, &samples)?;
        let coded = self.trial(plan, &Silent)?;
        let distortion = self.distortion(&self.test, &coded);
        let measured = sensitivity::added(engine, &self.weights, (&coded, &distortion), &reference, progress)?;
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(self.complete(&measured))
    }

    /// A plan for a model that is fine-tuned, from the best one for a model that is not, which was made of its
    /// sensitivities.
    ///
    /// Fine-tuning removes far more of the error of some sites than of others, which sensitivities do not show. So each
    /// kind of sites is quantised more coarsely in turn and the model fine-tuned a little: the loss after that, on samples
    /// that were held back, rescales the sensitivities, and `allocate` makes another plan of them. It is taken unless it
    /// does clearly worse once it is tuned: it follows from all these runs, and their comparison from two of them only.
    ///
    /// The plan stays where layers are not all tuned against the same outputs, whose losses could not be compared, and in a
    /// model so large that a trial would have too few steps to show anything.
    ///
    /// # Errors
    /// Those of the numerics, of running the model and of `allocate`.
    pub fn tuned_plan(
        &mut self,
        plan: Plan,
        curves: &Curves,
        (engine, judge): (&Engine, &Judge),
        allocate: impl Fn(&Study<'_>, &PerSite<f64>) -> Result<Plan>,
        progress: &dyn Progress,
    ) -> Result<Plan> {
        let start = Instant::now();
        let Some(options) = tune::trial(&self.weights, self.seed) else { return Ok(plan) };
        let mut kinds: Vec<_> = self.weights.all.iter().map(|site| self.weights.kind(site)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        progress.phase("try plans", 2 + kinds.len() as u64);
        let (samples, few) = (self.all(), self.few(|folds| &folds.choice));
        let reference = judge.reference(engine, &few)?;
        let subject = tune::TuneSubject { model: &self.model, engine, weights: &self.weights };
        let held_back = |plan: &Plan| -> Result<Option<f64>> {
            let mut sites = code::learn(&self.weights, plan, &self.learning(PLAN_ROUNDS, Some(plan)), &Silent)?;
            self.forget_factors();
            let report = tune::tune(&subject, &mut sites, &samples, Some(&reference), &options, &Silent)?;
            Ok(report.left_out.filter(|loss| loss.is_finite() && *loss > 0.0))
        };
        let other = || -> Result<Option<Plan>> {
            let Some(base) = held_back(&plan)? else { return Ok(None) };
            let mut sensitivity = plan.sensitivity.clone();
            for &kind in &kinds {
                progress::advance(progress, 1)?;
                let Some(coarser) = plan::coarser(&self.weights, &plan, kind) else { continue };
                let [expected, before] = [&coarser, &plan].map(|p| curves.predicted_loss(p, &plan.sensitivity));
                let expected = expected / before - 1.0;
                if !(expected.is_finite() && expected > LEAST_RISE) {
                    continue;
                }
                let Some(found) = held_back(&coarser)? else { continue };
                let factor = ((found / base - 1.0) / expected).clamp(1.0 / MOST_MOVED, MOST_MOVED);
                let sites = self.weights.all.iter().filter(|site| self.weights.kind(site) == kind);
                sites.for_each(|site| sensitivity[site.id] *= factor);
            }
            let other = match allocate(self, &sensitivity) {
                Ok(other) if other.choices != plan.choices => Plan { sensitivity: plan.sensitivity.clone(), ..other },
                Err(error) if !matches!(error.kind(), ErrorKind::Target | ErrorKind::NothingToDo) => return Err(error),
                _ => return Ok(None),
            };
            let loss = held_back(&other)?;
            Ok(loss.is_some_and(|loss| loss < CLEARLY_WORSE * base).then_some(other))
        };
        let other = other()?;
        progress.done();
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(other.unwrap_or(plan))
    }

    /// Coarse versions of each site that its sensitivity is averaged over. The error of a large site is the sum of many, so
    /// that one version is enough; for a small model, which needs more, more cost little.
    fn most_versions(&self) -> usize {
        ((SENSITIVITY_PRODUCTS / self.pass()).round() as usize).clamp(1, MOST_VERSIONS)
    }

    /// Products of numbers that a run of the samples takes which plans are compared on.
    fn pass(&self) -> f64 {
        let share = (self.few_steps() / self.steps).min(1.0);
        let nodes = self.model.graphs().iter().map(|(_, graph)| graph.node.len()).sum::<usize>() as f64;
        let products = self.steps * self.weights.parameters() as f64;
        share * (products + NODE_PRODUCTS * nodes * self.feeds)
    }

    /// As many samples of a part as sensitivities are measured and plans compared on.
    fn few(&self, part: impl Fn(&Folds) -> &Samples) -> Samples {
        self.folds.as_ref().map(|folds| self.few_of(part(folds))).unwrap_or_default()
    }

    /// As many of calibration samples as sensitivities are measured and plans compared on.
    #[must_use]
    pub fn few_of(&self, samples: &Samples) -> Samples {
        samples.subset((self.few_steps() / self.steps * self.feeds).ceil() as usize)
    }

    fn few_steps(&self) -> f64 {
        SENSITIVITY_STEPS.min(STEPS_PRODUCTS / self.weights.parameters().max(1) as f64)
    }

    /// All calibration samples, long streams in pieces.
    #[must_use]
    pub fn all(&self) -> Samples {
        self.folds.as_ref().map(|folds| folds.all.clone()).unwrap_or_default()
    }

    /// The effect of each site's distortion on the states of its own layer, from the derivatives of its gate in the
    /// calibration runs: all layers count alike, and no further run is needed.
    #[must_use]
    pub fn local_sensitivity(&self) -> PerSite<f64> {
        self.complete(&self.local)
    }

    fn complete(&self, known: &PerSite<Option<f64>>) -> PerSite<f64> {
        sensitivity::complete(&self.weights, known, self.energies())
    }

    /// How often a model is coded, to choose what does best: two ways of coding one plan differ by factors where a model is
    /// small, and a small model is coded and run in no time.
    #[must_use]
    pub fn draws(&self) -> usize {
        let products = |site: &Site| {
            let [rows, columns] = site.block.shape();
            (rows * columns * columns) as f64
        };
        let once = self.weights.all.iter().map(products).sum::<f64>() + self.pass();
        ((DRAW_PRODUCTS / once.max(1.0)) as usize).clamp(1, MOST_DRAWS)
    }

    /// Learns the codes of plans, in turn and with other seeds where `draws` are more than there are plans, and builds the
    /// model that does best by runs. Without an engine, the first plan is taken.
    ///
    /// # Errors
    /// Those of the numerics and of running the model, and as [`encode::apply`].
    pub fn code(
        &mut self,
        plans: &[Plan],
        judged: Option<(&Engine, &Judge)>,
        progress: &dyn Progress,
    ) -> Result<CodedModel> {
        let start = Instant::now();
        let draws = if judged.is_some() { self.draws() } else { 1 };
        progress.phase("learn", (draws * self.weights.len()) as u64);
        let [known, unknown] = [self.few(|folds| &folds.known), self.few(|folds| &folds.choice)];
        let mut references = Vec::new();
        if let Some((engine, judge)) = judged.filter(|_| draws > 1) {
            references = vec![(engine, judge.reference(engine, &known)?), (engine, judge.reference(engine, &unknown)?)];
        }
        let mut best: Option<(f64, usize, CodedSites)> = None;
        for draw in 0..draws {
            let plan = &plans[draw % plans.len()];
            let mut how = self.learning(FINAL_ROUNDS, Some(plan));
            how.options.seed ^= ((draw / plans.len()) as u64).wrapping_mul(OTHER_SEED);
            let sites = code::learn(&self.weights, plan, &how, progress)?;
            // The samples that codes were learned on are more, the others tell no more than what is true of them too: a model
            // has to do well on both.
            let mut score = 0.0;
            for (engine, reference) in &references {
                score += sensitivity::loss(engine, &self.weights, &sites, reference)?.max(f64::MIN_POSITIVE).ln();
            }
            if best.as_ref().is_none_or(|(least, ..)| score < *least) {
                best = Some((score, draw % plans.len(), sites));
            }
        }
        self.forget_factors();
        let (_, plan, sites) = best.expect("a model is coded once at least");
        let distortion = self.distortion(&self.metrics, &sites);
        progress.done();
        self.seconds.learn += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let model = encode::apply(&self.model, &self.weights, &sites, &self.writing)?;
        self.seconds.encode += start.elapsed().as_secs_f64();
        Ok(CodedModel { plan: plans[plan].clone(), sites, distortion, model })
    }

    /// Fine-tunes the coded sites against the original on calibration samples, and builds the model anew. The bytes stay, and so
    /// do the distortions that are told: sensitivities predict the loss of codes of the weights as they are, and fine-tuning moves
    /// away from these to a lower one.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn tune(
        &mut self,
        coded: &mut CodedModel,
        engine: &Engine,
        judge: &Judge,
        options: &tune::TuneOptions,
        progress: &dyn Progress,
    ) -> Result<TuneReport> {
        let start = Instant::now();
        let (samples, few) = (self.all(), self.few(|folds| &folds.choice));
        let reference = judge.reference(engine, &few)?;
        let subject = tune::TuneSubject { model: &self.model, engine, weights: &self.weights };
        let report = tune::tune(&subject, &mut coded.sites, &samples, Some(&reference), options, progress)?;
        let biased = encode::with_biases(&self.model, &report.biases)?;
        coded.model = encode::apply(&biased, &self.weights, &coded.sites, &self.writing)?;
        self.seconds.tune += start.elapsed().as_secs_f64();
        Ok(report)
    }

    /// The energy `tr(W S W^T)` of a site: the distortion of storing zeros.
    #[must_use]
    pub fn energy(&self, id: SiteId) -> f64 {
        self.energies()[id]
    }

    fn energies(&self) -> &PerSite<f64> {
        let of_site = |site: &Site| self.metrics[site.id].distortion(self.weights.rows(site.id));
        self.energies.get_or_init(|| self.weights.sites().map(of_site))
    }

    /// Sensitivities that weigh all sites alike: by the inverse of their energy, so that a relative error counts the same everywhere.
    #[must_use]
    pub fn equal(&self) -> PerSite<f64> {
        self.energies().map(|_, &e| if e > 0.0 { 1.0 / e } else { 1.0 })
    }

    fn learning(&self, rounds: usize, plan: Option<&Plan>) -> Learning<'_> {
        let options = dictionary::LearnOptions { seed: self.seed, rounds, ..Default::default() };
        Learning { metrics: &self.metrics, options, peaks: self.peaks(plan) }
    }

    /// The largest level of the atoms of each site: what is multiplied as int8 keeps to seven bits. Without a plan, all
    /// sites are taken for block codes.
    fn peaks(&self, plan: Option<&Plan>) -> PerSite<i8> {
        let storage = |id: SiteId| plan.map_or(Storage::Block, |plan| plan.choices[id].storage());
        let forms = Forms::new(&self.model, &self.weights).of_sites(self.writing.request, &storage);
        forms.map(|_, form| form.peak())
    }

    fn forget_factors(&self) {
        self.metrics.values().for_each(|metric| metric.forget_factors());
    }
}

impl Folds {
    fn of(all: Samples) -> Folds {
        let count = all.streams.len();
        let of = |keep: &dyn Fn(Fold) -> bool| match count < PARTED {
            true => all.clone(),
            false => all.of_streams(|i| keep(Fold::of_stream(i, count))),
        };
        let [known, test] = [of(&|part| part != Fold::Choice), of(&|part| part == Fold::Test)];
        Folds { known, test, choice: of(&|part| part == Fold::Choice), all }
    }
}

/// Hands what decides the size of a plan to `work`.
pub fn sized<T>(
    model: &Model,
    weights: &Weights,
    writing: &Writing,
    measured: &encode::Measured,
    work: impl FnOnce(&Sizing<'_>) -> T,
) -> T {
    sized_from(weights.stored_bytes(), model, weights, writing, measured, work)
}

/// As [`sized`], where the weights take other bytes in the file as the user has it.
pub(super) fn sized_from<T>(
    before: u64,
    model: &Model,
    weights: &Weights,
    writing: &Writing,
    measured: &encode::Measured,
    work: impl FnOnce(&Sizing<'_>) -> T,
) -> T {
    let forms = Forms::new(model, weights).of_sites(writing.request, &|_| Storage::Block);
    let sizes = encode::Sizes::new(model, weights, writing, measured);
    let bytes = |plan: &Plan| sizes.bytes(plan);
    let sizing = |removed| Sizing {
        sites: weights,
        file: model.bytes(),
        before,
        removed,
        keeps_dense: forms.map(|_, form| *form == encode::Form::Portable),
        bytes: &bytes,
    };
    // Where bytes cannot be counted, whoever asks for them is told why.
    work(&sizing(0).without_removed().unwrap_or_else(|_| sizing(0)))
}

/// The largest ratio up to `wanted` that some plan for a model reaches, from shapes alone; `None` if none makes the weights
/// smaller: a codebook takes more bytes than it saves in small layers.
///
/// # Errors
/// Those of reading the weights and of writing the graph.
pub fn reachable(model: &Model, sites: &Sites, wanted: f64) -> Result<Option<f64>> {
    /// Longer than the note that a compression leaves in its file.
    const NOTE: usize = 256;
    let weights = Weights::read(model, sites.clone(), |_, _| None)?;
    let writing = Writing { note: "-".repeat(NOTE), ..Writing::default() };
    sized(model, &weights, &writing, &encode::Measured::default(), |sizing| {
        let bytes = plan::smallest(sizing, sizing.target(wanted), false, |_| {})?;
        Ok(if bytes <= sizing.target(wanted) { Some(wanted) } else { sizing.ratio(bytes) })
    })
}

fn private(width: usize) -> Choice {
    Choice::Block { spec: BlockSpec { width }, sharing: Sharing::Unit }
}

/// The width of pieces of a choice whose codebook serves one site.
fn private_width(choice: Choice) -> Option<usize> {
    match choice {
        Choice::Block { spec, sharing: Sharing::Unit } => Some(spec.width),
        _ => None,
    }
}
