//! The main job: from a model and samples to a smaller model.
//!
//! ```text
//! Weights -> second moments -> curves, sensitivities -> Plan -> coded units -> Model
//! ```
//! Each step is a function of its own module; this one puts them in order and keeps what a report needs.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use crate::calibrate::{self, Moment, SecondMoments, Vector};
use crate::coding::{self, CodedUnits, Learning, WeightUnit, Weights, Writing};
use crate::dictionary::{self, Metric};
use crate::encode::Storage;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::loss::Judge;
use crate::onnx::Model;
use crate::plan::Plan;
use crate::planner::{self, Curves, Dictionaries, Rates, Sizing};
use crate::progress::{Progress, Silent};
use crate::recurrent::{Cell, Matrix, RecurrentNode};
use crate::samples::Samples;
use crate::sensitivity;
use crate::tune::{self, TuneReport};

/// Seconds that each phase took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    /// Running the original for second moments.
    pub calibrate: f64,
    /// Learning curves and the plan's codes.
    pub learn: f64,
    /// Measuring sensitivities and choosing.
    pub allocate: f64,
    /// Tuning.
    pub tune: f64,
    /// Building the graph.
    pub encode: f64,
}

/// A model that is being compressed: its weights, and what the samples told of them.
pub struct Job<'a> {
    /// The original.
    pub model: &'a Model,
    /// Its weights.
    pub weights: Weights,
    /// Seeds everything random.
    pub seed: u64,
    /// How the result is written.
    pub writing: Writing,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Time per phase, so far.
    pub seconds: Seconds,
    metrics: Vec<Arc<Metric>>,
    /// Sensitivity of each unit by the slopes of its gate, where a sample reached it.
    local: Vec<Option<f64>>,
    /// Steps of sequences that the calibration samples gave.
    steps: f64,
}

/// What a job's plan came to.
pub struct Coded {
    /// The plan.
    pub plan: Plan,
    /// The stored units.
    pub units: CodedUnits,
    /// Distortion of each unit; zero for a dense one.
    pub distortion: Vec<f64>,
    /// The compressed model.
    pub model: Model,
}

/// How a plan did on calibration samples.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    /// The loss of the model that it makes.
    pub loss: f64,
    /// What sensitivities say of the distortions that its units have.
    pub predicted: f64,
}

/// Steps of sequences that sensitivities are measured on, at about: they need only tell units apart.
const SENSITIVITY_STEPS: f64 = 8192.0;
/// Products of weights and numbers that all coarse versions of one unit may take together, and how many there are at most.
const SENSITIVITY_PRODUCTS: f64 = (1u64 << 30) as f64;
const MOST_VERSIONS: usize = 5;
/// How much a kind of units that is made coarser has to add to the loss, as a share, to be told from noise, and by how much
/// its sensitivity is moved at most.
const LEAST_RISE: f64 = 0.05;
const MOST_MOVED: f64 = 4.0;
/// The share of the loss of a plan from which on another one is clearly worse: trials of one plan with other seeds differ by as
/// much.
const CLEARLY_WORSE: f64 = 1.1;
/// Rounds of coding and refitting: for the curves, which need only the order of things, for plans that are compared, and
/// for what is stored, where each round still takes some thousandths off the error.
const CURVE_ROUNDS: usize = 1;
const PLAN_ROUNDS: usize = 2;
const FINAL_ROUNDS: usize = 8;

impl<'a> Job<'a> {
    /// Calibrates: runs the original on the samples, or each recurrent cell on noise where the engine is `None`.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn new(
        model: &'a Model,
        weights: Weights,
        calibration: Option<(&Engine, &Samples)>,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<Job<'a>> {
        let start = Instant::now();
        let measured = match calibration {
            Some((engine, samples)) => calibrate::measure(engine, &weights.survey.nodes, samples, progress)?,
            None => SecondMoments::default(),
        };
        let steps = measured.vectors().max(1) as f64;
        let numbers = weights.survey.nodes.iter().map(|n| calibration.and_then(|(e, _)| e.number(&n.scope, n.index)));
        let moments =
            Moments { weights: &weights, measured, numbers: numbers.collect(), seed, stand_ins: RefCell::default() };
        let mut metrics: BTreeMap<(usize, Vector), Arc<Metric>> = BTreeMap::new();
        for unit in &weights.units {
            let key = (unit.weight, vector(&weights, unit));
            if let Entry::Vacant(place) = metrics.entry(key) {
                let moment = moments.of_weight(unit.weight, key.1);
                let damp = dictionary::damping(moment.halves());
                place.insert(Arc::new(Metric::new(moment.mean().view(), damp)?));
            }
        }
        let local = weights.units.iter().map(|unit| moments.local(unit)).collect();
        let warnings = if calibration.is_some() { moments.stand_ins.into_inner() } else { Vec::new() };
        Ok(Job {
            model,
            metrics: weights.units.iter().map(|u| metrics[&(u.weight, vector(&weights, u))].clone()).collect(),
            weights,
            seed,
            writing: Writing::default(),
            local,
            steps,
            warnings,
            seconds: Seconds { calibrate: start.elapsed().as_secs_f64(), ..Seconds::default() },
        })
    }

    /// What decides the size of a plan.
    pub fn sizing(&self) -> Sizing<'_> {
        Sizing { model: self.model, weights: &self.weights, writing: &self.writing }
    }

    /// Learns the curves of all units; `bits` a weight is about where the plan will be.
    ///
    /// # Errors
    /// Those of the numerics.
    pub fn curves(&mut self, bits: f64, rates: Rates, progress: &dyn Progress) -> Result<Curves> {
        let start = Instant::now();
        // One step coarser than the plan will be: far above noise, still small enough to be quadratic.
        let coarse = planner::widths_near(((8.0 / bits).round() as usize + 1).clamp(3, 8), self.versions());
        let energy = self.equal();
        let how = self.learning(CURVE_ROUNDS, None);
        let curves = Curves::learn(&self.weights, &how, &energy, &coarse, rates, progress);
        self.seconds.learn += start.elapsed().as_secs_f64();
        curves
    }

    /// Measures what each unit's distortion costs at the outputs that `judge` names.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn sensitivity(
        &mut self,
        curves: &Curves,
        engine: &Engine,
        samples: &Samples,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<Vec<f64>> {
        let start = Instant::now();
        let samples = self.few(samples);
        let reference = judge.reference(engine, &samples)?;
        let measured = sensitivity::measure(engine, &self.weights, &curves.coarse, &reference, progress)?;
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(self.complete(&measured))
    }

    /// What projection dictionaries have to offer each unit, given what its distortion costs.
    ///
    /// # Errors
    /// Those of the numerics.
    pub fn dictionaries<'s>(&'s self, sensitivity: &'s [f64]) -> Result<Dictionaries<'s>> {
        Dictionaries::mine(&self.weights, &self.metrics, sensitivity)
    }

    /// `plan`, or `rival` if `accept` says so, given how the models that both make do on calibration samples. What
    /// sensitivities predict holds for small errors that do not interact; where it does not, one rate for all may be the
    /// better plan.
    ///
    /// # Errors
    /// Those of the numerics and of running the model.
    pub fn better(
        &mut self,
        plan: Plan,
        (rival, accept): (Plan, fn(Tried, Tried) -> bool),
        engine: &Engine,
        samples: &Samples,
        judge: &Judge,
        progress: &dyn Progress,
    ) -> Result<Plan> {
        let start = Instant::now();
        let samples = self.few(samples);
        let reference = judge.reference(engine, &samples)?;
        progress.phase("compare plans", 2 * self.weights.units.len() as u64);
        let attempt = |tried: &Plan| {
            let how = self.learning(PLAN_ROUNDS, Some(tried));
            let (coded, distortion) = coding::learn(&self.weights, tried, &how, progress)?;
            // Decoded, the weights want the room.
            self.metrics.iter().for_each(|metric| metric.forget_factors());
            let loss = sensitivity::loss(engine, &self.weights, &coded, &reference)?;
            let predicted = plan.sensitivity.iter().zip(&distortion).map(|(s, d)| s * d).sum();
            Ok(Tried { loss, predicted })
        };
        let (ours, theirs): (Result<Tried>, Result<Tried>) = (attempt(&plan), attempt(&rival));
        let accepted = accept(ours?, theirs?);
        progress.done();
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(if accepted { rival } else { plan })
    }

    /// A plan for a model that is tuned, from the best one for a model that is not, which was made of its sensitivities.
    ///
    /// Tuning makes up for the errors of some units far better than for those of others, of which sensitivities do not tell.
    /// So each kind of units is made coarser in turn and the model tuned a little: how much of the loss is left on samples
    /// that were left out says what their errors cost then, and `allocate` makes another plan of it. This is taken unless it
    /// does clearly worse once it is tuned: it follows from all these runs, and their comparison from two of them only.
    ///
    /// The plan stays where layers are not all tuned against the same outputs, whose losses could not be compared, and in a
    /// model so large that a trial would have too few steps to tell anything.
    ///
    /// # Errors
    /// Those of the numerics, of running the model and of `allocate`.
    pub fn tuned_plan(
        &mut self,
        plan: Plan,
        curves: &Curves,
        (engine, samples, judge): (&Engine, &Samples, &Judge),
        allocate: impl Fn(&Job<'_>, &[f64]) -> Result<Plan>,
        progress: &dyn Progress,
    ) -> Result<Plan> {
        let start = Instant::now();
        let Some(options) = tune::trial(&self.weights, self.seed) else { return Ok(plan) };
        let kinds = planner::kinds(&self.weights);
        progress.phase("try plans", 2 + kinds.len() as u64);
        let few = self.few(samples);
        let reference = judge.reference(engine, &few)?;
        let subject = tune::Subject { model: self.model, engine, weights: &self.weights };
        let left_out = |plan: &Plan| -> Result<Option<f64>> {
            let (mut units, _) = coding::learn(&self.weights, plan, &self.learning(PLAN_ROUNDS, Some(plan)), &Silent)?;
            self.metrics.iter().for_each(|metric| metric.forget_factors());
            let report = tune::tune(&subject, &mut units, samples, Some(&reference), &options, &Silent)?;
            Ok(report.left_out.filter(|loss| loss.is_finite() && *loss > 0.0))
        };
        let other = || -> Result<Option<Plan>> {
            let Some(base) = left_out(&plan)? else { return Ok(None) };
            let mut sensitivity = plan.sensitivity.clone();
            for &kind in &kinds {
                progress.advance(1);
                let Some(coarser) = planner::coarser(&self.weights, &plan, kind) else { continue };
                let [expected, before] = [&coarser, &plan].map(|p| curves.predicted_loss(p, &plan.sensitivity));
                let expected = expected / before - 1.0;
                if !(expected.is_finite() && expected > LEAST_RISE) {
                    continue;
                }
                let Some(found) = left_out(&coarser)? else { continue };
                let factor = ((found / base - 1.0) / expected).clamp(1.0 / MOST_MOVED, MOST_MOVED);
                let units = (0..sensitivity.len()).filter(|&unit| planner::kind(&self.weights, unit) == kind);
                units.for_each(|unit| sensitivity[unit] *= factor);
            }
            let other = match allocate(self, &sensitivity) {
                Ok(other) if other.choices != plan.choices => Plan { sensitivity: plan.sensitivity.clone(), ..other },
                Err(error) if !matches!(error.kind(), ErrorKind::Target | ErrorKind::NothingToDo) => return Err(error),
                _ => return Ok(None),
            };
            let loss = left_out(&other)?;
            Ok(loss.is_some_and(|loss| loss < CLEARLY_WORSE * base).then_some(other))
        };
        let other = other()?;
        progress.done();
        self.seconds.allocate += start.elapsed().as_secs_f64();
        Ok(other.unwrap_or(plan))
    }

    /// Coarse versions of each unit that its sensitivity is averaged over. The error of a large unit is the sum of many, so
    /// that one version tells enough; for a small model, which needs more, more cost little.
    fn versions(&self) -> usize {
        let weights: usize = self.weights.units.iter().map(|u| u.unit.shape().iter().product::<usize>()).sum();
        let pass = self.steps.min(SENSITIVITY_STEPS) * weights as f64;
        ((SENSITIVITY_PRODUCTS / pass).round() as usize).clamp(1, MOST_VERSIONS)
    }

    /// Those of the calibration samples that sensitivities and plans are judged on.
    fn few(&self, samples: &Samples) -> Samples {
        samples.subset((SENSITIVITY_STEPS / self.steps * samples.len() as f64).ceil() as usize)
    }

    /// What each unit's distortion costs in the states of its own layer, from the derivatives of its gate in the
    /// calibration runs: all layers count alike, and no further run is needed.
    pub fn local_sensitivity(&self) -> Vec<f64> {
        self.complete(&self.local)
    }

    fn complete(&self, known: &[Option<f64>]) -> Vec<f64> {
        let energy: Vec<f64> = (0..known.len()).map(|u| self.energy(u)).collect();
        sensitivity::complete(&self.weights, known, &energy)
    }

    /// Learns a plan's codes and builds the model.
    ///
    /// # Errors
    /// Those of the numerics, and as [`coding::apply`].
    pub fn code(&mut self, plan: Plan, progress: &dyn Progress) -> Result<Coded> {
        let start = Instant::now();
        progress.phase("learn", self.weights.units.len() as u64);
        let how = self.learning(FINAL_ROUNDS, Some(&plan));
        let (units, distortion) = coding::learn(&self.weights, &plan, &how, progress)?;
        progress.done();
        self.seconds.learn += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let model = coding::apply(self.model, &self.weights, &units, &self.writing)?;
        self.seconds.encode += start.elapsed().as_secs_f64();
        Ok(Coded { plan, units, distortion, model })
    }

    /// Tunes the coded units against the original on calibration samples, and builds the model anew. The bytes stay.
    ///
    /// # Errors
    /// Those of running the model.
    pub fn tune(
        &mut self,
        coded: &mut Coded,
        engine: &Engine,
        samples: &Samples,
        judge: &Judge,
        options: &tune::Options,
        progress: &dyn Progress,
    ) -> Result<TuneReport> {
        let start = Instant::now();
        let few = self.few(samples);
        let reference = judge.reference(engine, &few)?;
        let subject = tune::Subject { model: self.model, engine, weights: &self.weights };
        let report = tune::tune(&subject, &mut coded.units, samples, Some(&reference), options, progress)?;
        for (unit, stored) in coded.units.iter().enumerate() {
            if let Some(stored) = stored {
                let error = &self.weights.rows(unit) - &stored.decode();
                coded.distortion[unit] = self.metrics[unit].distortion(error.view());
            }
        }
        let biased = coding::with_biases(self.model, &report.biases)?;
        coded.model = coding::apply(&biased, &self.weights, &coded.units, &self.writing)?;
        self.seconds.tune += start.elapsed().as_secs_f64();
        Ok(report)
    }

    /// The energy `tr(W S W^T)` of a unit: its distortion if nothing was stored.
    pub fn energy(&self, unit: usize) -> f64 {
        self.weights.energy(unit, &self.metrics[unit])
    }

    /// Sensitivities that weigh all units alike: by the inverse of their energy, so that a relative error counts the same everywhere.
    pub fn equal(&self) -> Vec<f64> {
        (0..self.weights.units.len()).map(|u| self.energy(u)).map(|e| if e > 0.0 { 1.0 / e } else { 1.0 }).collect()
    }

    fn learning(&self, rounds: usize, plan: Option<&Plan>) -> Learning<'_> {
        let options = dictionary::Options { seed: self.seed, rounds, ..Default::default() };
        Learning { metrics: &self.metrics, options, peaks: self.peaks(plan) }
    }

    /// The largest level of the atoms of each unit: what is multiplied as int8 keeps to seven bits. Without a plan, all
    /// units are taken for block codes.
    fn peaks(&self, plan: Option<&Plan>) -> Vec<i8> {
        let storage = |unit: usize| plan.map_or(Storage::Block, |plan| plan.choices[unit].storage());
        let forms = self.weights.unit_forms(self.model, self.writing.request, storage);
        forms.into_iter().map(|form| form.peak()).collect()
    }
}

/// The vectors that a unit multiplies.
fn vector(weights: &Weights, unit: &WeightUnit) -> Vector {
    let direction = unit.unit.direction_index;
    match unit.unit.matrix {
        Matrix::W => Vector::Input,
        Matrix::R => {
            let node = &weights.survey.nodes[weights.survey.weights[unit.weight].uses[0].node];
            let gated = node.cell == Cell::Gru && !node.attributes.linear_before_reset && unit.unit.gate == "h";
            if gated { Vector::ResetState(direction) } else { Vector::State(direction) }
        }
    }
}

/// The moments that were measured, and what stands in for those that were not.
struct Moments<'a> {
    weights: &'a Weights,
    measured: SecondMoments,
    /// The engine's number of each node of the survey.
    numbers: Vec<Option<usize>>,
    seed: u64,
    stand_ins: RefCell<Vec<String>>,
}

impl Moments<'_> {
    /// The moment of a weight's vectors over all nodes that use it.
    fn of_weight(&self, weight: usize, vector: Vector) -> Cow<'_, Moment> {
        let uses = &self.weights.survey.weights[weight].uses;
        let of_node = |node: usize| self.measured.get(self.numbers[node]?, vector);
        let mut found = uses.iter().filter_map(|used| of_node(used.node));
        if let Some(first) = found.next() {
            let mut total = Cow::Borrowed(first);
            found.for_each(|moment| total.to_mut().merge(moment));
            return total;
        }
        let survey = &self.weights.survey;
        let node = &survey.nodes[uses[0].node];
        let is_twin = |other: &RecurrentNode| {
            (other.cell, other.attributes.hidden, other.input_size, other.attributes.direction)
                == (node.cell, node.attributes.hidden, node.input_size, node.attributes.direction)
        };
        let twin = survey.nodes.iter().enumerate().filter(|(_, other)| is_twin(other));
        if let Some((name, moment)) = twin.filter_map(|(i, other)| Some((&other.name, of_node(i)?))).next() {
            self.warn(format!("no sample reaches node '{}': calibrated with the inputs of '{name}'", node.name));
            return Cow::Borrowed(moment);
        }
        self.warn(format!("no sample reaches node '{}': calibrated with seeded random inputs", node.name));
        let [w, r] = Matrix::BOTH.map(|m| {
            let weight = survey.weight_of(uses[0].node, m).expect("both weights of a found node are found");
            &self.weights.tensors[weight]
        });
        let number = uses[0].node;
        let seeded = calibrate::seeded(node, number, w, r, self.seed);
        Cow::Owned(seeded.get(number, vector).expect("a run of a node shows all its vectors").clone())
    }

    /// The sensitivity of a unit by the slopes of its gate, over all nodes that use it.
    fn local(&self, unit: &WeightUnit) -> Option<f64> {
        let uses = &self.weights.survey.weights[unit.weight].uses;
        let slopes = uses.iter().filter_map(|u| self.measured.slopes(self.numbers[u.node]?, unit.unit.direction_index));
        let slopes: Vec<f64> = slopes.map(|s| s.relative(unit.unit.gate_index)).collect();
        (!slopes.is_empty()).then(|| slopes.iter().sum())
    }

    fn warn(&self, text: String) {
        let mut stand_ins = self.stand_ins.borrow_mut();
        if !stand_ins.contains(&text) {
            stand_ins.push(text);
        }
    }
}
