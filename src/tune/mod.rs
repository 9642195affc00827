//! Fine-tuning by distillation: atoms, row scales, biases and, with [`Effort::Full`], codes are adjusted so that the
//! coded layers reproduce the original ones on the calibration samples. No labels are used; the stored bytes stay the same.
//!
//! Layers are tuned in the order of the graph. The inputs of a layer are traced through the coded model, so a layer also
//! compensates the errors of the layers before it; its targets are traced from the original. Gradients are propagated back
//! through time within a layer. If an output of the model is a linear function of the last layer's states, consecutive
//! layers are tuned together against that output.
//!
//! Inputs are recombined at random, to avoid overfitting (module `variants`). A part of the samples is held out: a result is
//! kept if the loss is lower there, and if the loss at the outputs of the model does not rise. The same model and
//! samples give the same bytes, for any number of threads.

mod head;
mod parameters;
mod schedule;
mod sequences;
mod stack;
mod variants;

use std::collections::BTreeMap;

use ndarray::Axis;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::cell::Spec;
use crate::code::{self, CodedSite, CodedSites};
use crate::encode::NewBias;
use crate::engine::{Engine, Overrides};
use crate::error::{ErrorKind, Result};
use crate::loss::{Comparison, Judge, Reference};
use crate::onnx::Model;
use crate::progress::{self, Progress};
use crate::recurrent::{self, Matrix, OwnBias};
use crate::samples::Samples;
use crate::sites::{TensorId, Weights};
use head::{Finals, Head};
use parameters::{Parameters, Place};
use schedule::{
    BATCH_STEPS, DESCENTS, FULL_STEPS, JUDGED, LOOK, PATIENCE, PAYS, PROBES, SETTLING_SHARE, STREAMS, TRACED_STEPS,
    WORTH, share,
};
use sequences::{Constants, Probe, Record, Tracing, Window, Windows};
use stack::{Direction, Goal, Stack};
use variants::Variants;

/// How much is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// A fixed number of operations, about a minute on two cores for a model of any size.
    #[default]
    Fast,
    /// Codes are chosen again too, until the loss no longer falls.
    Full,
}

impl Effort {
    /// Its name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Effort::Fast => "fast",
            Effort::Full => "full",
        }
    }
}

/// How to tune.
#[derive(Clone, Copy, Debug, Default)]
pub struct TuneOptions {
    /// How much is spent.
    pub effort: Effort,
    /// Steps of Adam for each layer; overrides the effort.
    pub steps: Option<usize>,
    /// Orders samples and batches.
    pub seed: u64,
}

/// What is tuned.
pub struct TuneSubject<'a> {
    /// The original.
    pub model: &'a Model,
    /// The same, ready to run.
    pub engine: &'a Engine,
    /// Its weights.
    pub weights: &'a Weights,
}

/// The result of tuning.
#[derive(Clone, Debug, Default)]
pub struct TuneReport {
    /// In the order of tuning.
    pub layers: Vec<Tuned>,
    /// The tuned biases.
    pub biases: Vec<NewBias>,
    /// The loss on held-out samples of the output that all layers were tuned against; `None` if layers had different targets.
    pub left_out: Option<f64>,
}

/// The result of one layer, or of layers that were tuned together.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The names of the nodes.
    pub nodes: Vec<String>,
    /// The target that they were tuned against.
    pub target: TuneTarget,
    /// Whether the result was kept.
    pub outcome: LayerOutcome,
}

/// The target of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TuneTarget {
    /// Its own hidden states in the original; the loss is `mean (Y^ - Y)^2 + 0.1 mean (C^ - C)^2`.
    States,
    /// An output of the model; the loss is its mean divergence in nats, or its squared error over its variance.
    Output(String),
}

/// Outcome of tuning a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerOutcome {
    /// The loss on held-out samples is lower, and the result is kept.
    Kept {
        /// Loss on the samples left out, before.
        before: f64,
        /// And after.
        after: f64,
        /// Steps of Adam.
        steps: usize,
        /// A codebook that is shared with other layers was not tuned.
        atoms_stay: bool,
    },
    /// The gain was too small, and the result was discarded.
    Dropped {
        /// Loss on the samples left out, before.
        before: f64,
        /// And after.
        after: f64,
        /// Steps of Adam.
        steps: usize,
        /// The loss of the whole model before and after, if it rose and the result was discarded for that.
        outputs: Option<[f64; 2]>,
    },
    /// The layer was not tuned, for this reason.
    Skipped(String),
}

/// Options of a short tuning that compares plans; `None` for a model so large that a trial would have too few steps.
pub fn trial(weights: &Weights, seed: u64) -> Option<TuneOptions> {
    let steps = schedule::trial_steps(weights.parameters() as usize)?;
    Some(TuneOptions { effort: Effort::Fast, steps: Some(steps), seed })
}

/// Tunes the coded units of a model in place. The outputs of `reference` may serve as targets, and their mean loss may
/// not rise; without it, every layer is tuned against its own states.
///
/// # Errors
/// Those of running the model on the samples.
pub fn tune(
    &TuneSubject { model, engine, weights }: &TuneSubject<'_>,
    coded: &mut CodedSites,
    samples: &Samples,
    reference: Option<&Reference<'_>>,
    options: &TuneOptions,
    progress: &dyn Progress,
) -> Result<TuneReport> {
    let mut report = TuneReport::default();
    let biases = weights.survey.own_biases(model)?;
    let mut sites = Vec::new();
    for nodes in sites_of(weights) {
        match Layer::new(engine, weights, coded, nodes.clone()) {
            Some(Ok(layer)) => {
                let bias = biases.iter().find(|bias| bias.nodes == nodes).cloned();
                sites.push(Layer { bias, ..layer });
            }
            Some(Err(reason)) => report.layers.push(Tuned {
                nodes: names(weights, &nodes),
                target: TuneTarget::States,
                outcome: LayerOutcome::Skipped(reason),
            }),
            None => {}
        }
    }
    let numbers: BTreeMap<usize, usize> =
        sites.iter().enumerate().flat_map(|(i, site)| site.numbers.iter().map(move |&n| (n, i))).collect();
    let tracing = Tracing { engine, samples, seed: options.seed, sites: &numbers };
    if !samples.carry.is_empty() && samples.streams.len() < STREAMS {
        let reason = format!("fine-tuning needs {STREAMS} streams (files), there are {}", samples.streams.len());
        report.layers.extend(sites.iter().map(|site| Tuned {
            nodes: names(weights, &site.nodes),
            target: TuneTarget::States,
            outcome: LayerOutcome::Skipped(reason.clone()),
        }));
        return Ok(report);
    }
    let stacks = stacks(&tracing, &sites, reference.map(Reference::judge))?;
    let mut tuner = Tuner {
        engine,
        weights,
        coded,
        biases: BTreeMap::new(),
        sites: &sites,
        tracing,
        reference,
        loss: None,
        options,
        progress,
        descent: 0,
        batch: BATCH_STEPS,
        left_out: None,
    };
    tuner.loss = tuner.output_loss()?;
    let total: usize = sites.iter().map(Layer::weights).sum();
    tuner.descent = tuner.steps_of_a_descent(total);
    tuner.batch = tuner.steps_of_a_batch(total);
    let descents = if options.effort == Effort::Full { DESCENTS } else { 1 };
    progress.phase("tune", (tuner.steps() * descents * stacks.len()) as u64);
    for (layers, goal) in stacks {
        let tuned = tuner.stack(&layers, goal, descents)?;
        report.layers.push(tuned);
    }
    if let [Tuned { target: TuneTarget::Output(_), outcome, .. }] = &report.layers[..] {
        report.left_out = tuner.left_out.map(|[before, after]| match outcome {
            LayerOutcome::Kept { .. } => after,
            _ => before,
        });
    }
    report.biases = tuner.biases.into_values().collect();
    progress.done();
    Ok(report)
}

/// The nodes of the survey by the weights that they use: those with the same W and R are one layer, run several times.
fn sites_of(weights: &Weights) -> Vec<Vec<usize>> {
    let survey = &weights.survey;
    let mut sites: Vec<([Option<usize>; 2], Vec<usize>)> = Vec::new();
    for node in 0..survey.nodes.len() {
        let key = Matrix::BOTH.map(|matrix| survey.weight_of(node, matrix));
        match sites.iter_mut().find(|(other, _)| *other == key) {
            Some((_, nodes)) => nodes.push(node),
            None => sites.push((key, vec![node])),
        }
    }
    sites.into_iter().map(|(_, nodes)| nodes).collect()
}

fn names(weights: &Weights, nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|&n| weights.survey.nodes[n].name.clone()).collect()
}

/// A layer that can be tuned.
struct Layer {
    /// Indices in the survey of the nodes that have these weights; more than one in branches, for example.
    nodes: Vec<usize>,
    /// Their numbers in the engine.
    numbers: Vec<usize>,
    /// By direction.
    specs: Vec<Spec>,
    reverse: Vec<bool>,
    /// W and R, by the number of their [`TensorId`].
    tensors: [usize; 2],
    /// Its B, if that is stored for it alone.
    bias: Option<OwnBias>,
}

impl Layer {
    /// `None` if nothing of it is coded, or a reason why it cannot be tuned.
    fn new(
        engine: &Engine,
        weights: &Weights,
        coded: &CodedSites,
        nodes: Vec<usize>,
    ) -> Option<std::result::Result<Layer, String>> {
        let survey = &weights.survey;
        let tensors = Matrix::BOTH
            .map(|matrix| survey.weight_of(nodes[0], matrix).expect("both weights of a found node are found"));
        let codes = code::stored(coded).filter(|(id, _)| tensors.contains(&weights.get(*id).tensor.0));
        let codes: Vec<&CodedSite> = codes.map(|(_, coded)| coded).collect();
        if codes.is_empty() {
            return None;
        }
        if codes.iter().all(|coded| coded.block().is_none()) {
            return Some(Err("projection dictionaries are not fine-tuned".into()));
        }
        let foreign = |weight: usize| survey.weights[weight].uses.iter().find(|used| !nodes.contains(&used.node));
        if tensors[0] == tensors[1] {
            return Some(Err("its W and R are the same tensor".into()));
        }
        if let Some(used) = tensors.into_iter().find_map(foreign) {
            return Some(Err(format!("it shares weights with '{}'", survey.nodes[used.node].name)));
        }
        let node = &survey.nodes[nodes[0]];
        let directions = node.attributes.direction.each();
        let specs: Vec<Vec<Spec>> = nodes
            .iter()
            .map(|&n| {
                let node = &survey.nodes[n];
                (0..directions.len()).map(|d| Spec::of(node.cell, &node.attributes, d, node.input_size)).collect()
            })
            .collect();
        let alike = |&n: &usize| survey.nodes[n].attributes.direction == node.attributes.direction;
        if !nodes.iter().all(alike) || specs.iter().any(|s| *s != specs[0]) {
            return Some(Err("it shares weights with nodes of other attributes".into()));
        }
        if let Some(odd) = specs[0].iter().flat_map(|s| s.activations).find(|a| !a.has_slope_by_value()) {
            let odd = format!("{odd:?}");
            return Some(Err(format!("activation {} is not supported", odd.split(' ').next().unwrap_or(&odd))));
        }
        let numbers: Option<Vec<usize>> =
            nodes.iter().map(|&n| engine.number(&survey.nodes[n].scope, survey.nodes[n].index)).collect();
        Some(Ok(Layer {
            numbers: numbers?,
            reverse: directions.iter().map(|d| *d == recurrent::Direction::Reverse).collect(),
            specs: specs.into_iter().next()?,
            tensors,
            nodes,
            bias: None,
        }))
    }

    fn weights(&self) -> usize {
        self.specs.iter().map(|s| s.rows() * (s.inputs + s.hidden)).sum()
    }
}

/// Layers to be tuned together, in the order of the graph, and what they are tuned against.
fn stacks(tracing: &Tracing<'_>, sites: &[Layer], judge: Option<&Judge>) -> Result<Vec<(Vec<usize>, Goal)>> {
    let alone = |i: usize| (vec![i], Goal::States);
    let (Some(judge), Some(last)) = (judge, sites.len().checked_sub(1)) else {
        return Ok((0..sites.len()).map(alone).collect());
    };
    let runs = tracing.originals(PROBES)?;
    let linear = || Head::find(&runs, last, judge).map(Goal::Output);
    let Some(goal) = linear().or_else(|| Finals::find(&runs, last, judge).map(Goal::Finals)) else {
        return Ok((0..sites.len()).map(alone).collect());
    };
    let mut chain = vec![last];
    while let Some(before) = (0..chain[0]).rev().find(|&i| reads(&runs, i, chain[0])) {
        chain.insert(0, before);
    }
    let mut stacks: Vec<_> = (0..sites.len()).filter(|i| !chain.contains(i)).map(alone).collect();
    stacks.push((chain, goal));
    Ok(stacks)
}

/// Whether a layer reads exactly what another gives.
fn reads(runs: &[Probe], before: usize, after: usize) -> bool {
    let same = |a: &Record, b: &Record| (a.steps, a.batch) == (b.steps, b.batch) && a.joined() == b.x;
    let mut seen = false;
    let all = runs.iter().all(|(sites, _)| match (sites.get(&before), sites.get(&after)) {
        (Some(a), Some(b)) => {
            seen = true;
            a.records.len() == b.records.len() && a.records.iter().zip(&b.records).all(|(a, b)| same(a, b))
        }
        (None, None) => true,
        _ => false,
    });
    all && seen
}

struct Tuner<'a> {
    engine: &'a Engine,
    weights: &'a Weights,
    coded: &'a mut CodedSites,
    /// By index in `sites`.
    biases: BTreeMap<usize, NewBias>,
    sites: &'a [Layer],
    tracing: Tracing<'a>,
    reference: Option<&'a Reference<'a>>,
    /// Of the outputs, as it is coded now; `None` as [`output_loss`](Self::output_loss) has it: then the states alone decide.
    loss: Option<f64>,
    options: &'a TuneOptions,
    progress: &'a dyn Progress,
    /// Steps of one descent, without those in which it settles.
    descent: usize,
    /// Steps of sequences in a batch, about.
    batch: usize,
    /// The loss of the outputs of the last stack on what was left out, before and after.
    left_out: Option<[f64; 2]>,
}

impl Tuner<'_> {
    fn steps_of_a_descent(&self, weights: usize) -> usize {
        match (self.options.steps, self.options.effort) {
            (Some(steps), _) => steps,
            (None, Effort::Full) => FULL_STEPS,
            (None, Effort::Fast) => schedule::fast_steps(weights),
        }
    }

    fn steps_of_a_batch(&self, weights: usize) -> usize {
        match self.options.effort {
            Effort::Fast => BATCH_STEPS,
            Effort::Full => schedule::full_batch_steps(weights),
        }
    }

    /// The largest step of latents, where codes are chosen again.
    fn latent_rate(&self, windows: &[Window]) -> Option<f64> {
        let (size, mean) = self.batch_of(windows);
        (self.options.effort == Effort::Full).then(|| schedule::latent_rate(size * mean))
    }

    /// How many windows are a batch, and the mean of their steps.
    fn batch_of(&self, windows: &[Window]) -> (usize, usize) {
        let mean = windows.iter().map(|w| w.steps).sum::<usize>() / windows.len().max(1);
        let size = schedule::batch_windows(self.batch, mean).min(windows.len());
        (size, mean)
    }

    /// Steps of one descent in which codes stay.
    fn settling(&self) -> usize {
        if self.options.effort == Effort::Full { schedule::settling(self.descent) } else { 0 }
    }

    /// Steps of one descent in all.
    fn steps(&self) -> usize {
        self.descent + self.settling()
    }

    fn stack(&mut self, layers: &[usize], mut goal: Goal, descents: usize) -> Result<Tuned> {
        let nodes = layers.iter().flat_map(|&l| names(self.weights, &self.sites[l].nodes)).collect();
        let target = match &goal {
            Goal::States => TuneTarget::States,
            Goal::Output(Head { output, .. }) | Goal::Finals(Finals { output, .. }) => {
                TuneTarget::Output(output.clone())
            }
        };
        let places = self.places(layers);
        self.left_out = None;
        let untuned = (self.coded.clone(), self.biases.clone());
        let (mut steps, mut losses, mut atoms_stay, mut idle) = (0, None, false, 0);
        for descent in 0..descents {
            let mut windows = self.tracing.windows(layers, &self.overrides(), TRACED_STEPS)?;
            windows.tuned_on.retain(|window| goal.needs(window));
            windows.left_out.retain(|window| goal.needs(window));
            if let Some(reason) = refusal(&windows) {
                if descent > 0 {
                    break;
                }
                progress::advance(self.progress, (self.steps() * descents) as u64)?;
                return Ok(Tuned { nodes, target, outcome: LayerOutcome::Skipped(reason) });
            }
            // Only where it gets the original's own inputs is it known what the original does on others.
            let variants = (!windows.drifted).then(|| Variants {
                original: Stack { layers: self.directions(layers, &windows.originals), goal: Goal::States },
                pool: &windows.tuned_on,
            });
            let mut stack = Stack { layers: self.directions(layers, &windows.constants), goal };
            let owns_bias: Vec<bool> = layers.iter().map(|&layer| self.sites[layer].bias.is_some()).collect();
            let mut parameters =
                Parameters::new(&places, self.coded, &stack, &owns_bias, self.latent_rate(&windows.tuned_on));
            atoms_stay |= parameters.shares_outside();
            let left_out: Vec<&Window> = spread(&windows.left_out, JUDGED);
            parameters.write(&mut stack);
            let before = stack.loss(&left_out);
            let output = stack.output_loss(&left_out);
            let first = self.left_out.map_or(output, |[first, _]| first);
            self.left_out = Some([first, output]);
            let early = |stack: &Stack| stack.loss(&left_out) < before;
            self.descend(&mut stack, variants.as_ref(), &mut parameters, &windows.tuned_on, descent, &early)?;
            let after = stack.loss(&left_out);
            if after < before {
                self.left_out = Some([first, stack.output_loss(&left_out)]);
            }
            goal = stack.goal;
            steps += self.steps();
            let first = losses.map_or(before, |(first, _)| first);
            if after < before {
                parameters.store(self.coded);
                for (layer, values) in parameters.biases() {
                    if let Some(of) = self.sites[layers[layer]].bias.clone() {
                        self.biases.insert(layers[layer], NewBias { of, values });
                    }
                }
                losses = Some((first, after));
            } else if losses.is_none() {
                progress::advance(self.progress, (self.steps() * (descents - 1)) as u64)?;
                return Ok(Tuned {
                    nodes,
                    target,
                    outcome: LayerOutcome::Dropped { before, after, steps, outputs: None },
                });
            }
            idle = if after <= before * (1.0 - PAYS) { 0 } else { idle + 1 };
            if after.is_nan() || idle == PATIENCE {
                progress::advance(self.progress, (self.steps() * (descents - 1 - descent)) as u64)?;
                break;
            }
        }
        let (before, after) = losses.unwrap_or_default();
        if after > before * (1.0 - WORTH) {
            (*self.coded, self.biases) = untuned;
            return Ok(Tuned { nodes, target, outcome: LayerOutcome::Dropped { before, after, steps, outputs: None } });
        }
        if let Some(first) = self.loss {
            let last = self.output_loss()?.unwrap_or(f64::INFINITY);
            if last >= first || last.is_nan() {
                (*self.coded, self.biases) = untuned;
                let outcome = LayerOutcome::Dropped { before, after, steps, outputs: Some([first, last]) };
                return Ok(Tuned { nodes, target, outcome });
            }
            self.loss = Some(last);
        }
        Ok(Tuned { nodes, target, outcome: LayerOutcome::Kept { before, after, steps, atoms_stay } })
    }

    fn descend(
        &self,
        stack: &mut Stack,
        variants: Option<&Variants<'_>>,
        parameters: &mut Parameters,
        windows: &[Window],
        descent: usize,
        pays: &dyn Fn(&Stack) -> bool,
    ) -> Result<()> {
        let seed = self.options.seed ^ (descent as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let all: Vec<&Window> = windows.iter().collect();
        let (size, _) = self.batch_of(windows);
        let mut order: Vec<&Window> = Vec::new();
        for step in 0..self.steps() {
            if step == self.descent {
                parameters.keep_codes();
            }
            if step == self.descent / LOOK && descent == 0 && !pays(stack) {
                progress::advance(self.progress, (self.steps() - step) as u64)?;
                return Ok(());
            }
            if order.len() < size {
                order = all.clone();
                order.shuffle(&mut rng);
            }
            let batch = order.split_off(order.len() - size);
            let variants = variants.map(|variants| variants.of(&batch, &mut rng));
            let batch = variants.as_ref().map_or(batch, |variants| variants.iter().collect());
            let (_, gradients) = stack.gradients(&batch);
            let share = match step.checked_sub(self.descent) {
                None => share(step, self.descent),
                Some(step) => SETTLING_SHARE * share(step, self.settling()),
            };
            parameters.advance(&gradients, share);
            parameters.write(stack);
            progress::advance(self.progress, 1)?;
        }
        Ok(())
    }

    /// The loss of the whole model as it is coded now, as [`loss_of`] has it; `None` without a reference.
    fn output_loss(&self) -> Result<Option<f64>> {
        let Some(reference) = self.reference else { return Ok(None) };
        loss_of(reference.compare(self.engine, &self.overrides()))
    }

    /// Where the units of some layers are in a stack of them.
    fn places(&self, layers: &[usize]) -> Vec<Place> {
        let mut places = Vec::new();
        for (layer, &site) in layers.iter().enumerate() {
            for of in &self.weights.all {
                if let Some(matrix) = self.sites[site].tensors.iter().position(|&t| t == of.tensor.0) {
                    let (direction, row) = (of.block.plane, of.block.rows.start);
                    places.push(Place { site: of.id, layer, direction, matrix: Matrix::BOTH[matrix], row });
                }
            }
        }
        places
    }

    /// The layers with the weights of the original and these B and P.
    fn directions(&self, layers: &[usize], constants: &[Vec<Constants>]) -> Vec<Vec<Direction>> {
        let of_layer = |(&site, constants): (&usize, &Vec<Constants>)| {
            let site = &self.sites[site];
            let direction = |(d, constants): (usize, &Constants)| {
                let [w, r] = site.tensors.map(|t| {
                    self.weights.values(TensorId(t)).index_axis(Axis(0), d).iter().copied().collect::<Vec<f32>>()
                });
                let Constants { b, p } = constants.clone();
                Direction { spec: site.specs[d].clone(), reverse: site.reverse[d], w, r, b, p }
            };
            constants.iter().enumerate().map(direction).collect()
        };
        assert_eq!(layers.len(), constants.len(), "each layer has its constants");
        layers.iter().zip(constants).map(of_layer).collect()
    }

    /// The weights as they are coded now, for all nodes.
    fn overrides(&self) -> Overrides {
        let mut overrides = code::overrides(self.weights, self.engine, code::stored(self.coded));
        for bias in self.biases.values() {
            let nodes = bias.of.nodes.iter().map(|&node| &self.weights.survey.nodes[node]);
            let numbers = nodes.filter_map(|node| self.engine.number(&node.scope, node.index));
            overrides.biases.extend(numbers.map(|number| (number, bias.values.clone())));
        }
        overrides
    }
}

/// The mean loss of a comparison: infinite where the coded model gives outputs of other shapes than the original, or NaN and
/// infinities where the original gives numbers. `None` where the loss that is asked for has no meaning on these samples.
///
/// # Errors
/// Those of running the coded model.
fn loss_of(comparison: Result<Comparison>) -> Result<Option<f64>> {
    let comparison = match comparison {
        Err(error) if error.kind() == ErrorKind::Usage => return Ok(Some(f64::INFINITY)),
        other => other?,
    };
    match comparison.mean_loss() {
        Ok(loss) => Ok(Some(loss)),
        Err(error) if error.kind() == ErrorKind::Engine => Ok(Some(f64::INFINITY)),
        Err(error) if error.kind() == ErrorKind::Usage => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why windows cannot be tuned on.
fn refusal(windows: &Windows) -> Option<String> {
    if windows.constants.is_empty() {
        return Some("no sample reaches it".into());
    }
    if windows.vary {
        return Some("its B or P changes between runs".into());
    }
    if windows.tuned_on.is_empty() || windows.left_out.is_empty() {
        return Some("too few samples to hold some back".into());
    }
    None
}

/// At most `count` of the windows, evenly spread.
fn spread(windows: &[Window], count: usize) -> Vec<&Window> {
    let count = windows.len().min(count);
    (0..count).map(|i| &windows[i * windows.len() / count]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::loss::{Content, Judged, LossKind};
    use crate::samples::Tensor;
    use ndarray::ArrayD;

    #[test]
    fn only_a_loss_without_meaning_lifts_the_guard_of_the_outputs() {
        let loss = |kind: LossKind, own: &[f32]| {
            let judged = Judged {
                name: "y".into(),
                content: Content::Values,
                loss: kind,
                kl: false,
                decides: false,
                dims: Vec::new(),
                reached: true,
            };
            let tensor = |values: &[f32]| -> Vec<(String, Tensor)> {
                vec![("y".into(), ArrayD::from_shape_vec(vec![values.len()], values.to_vec()).unwrap().into())]
            };
            let mut comparison = Judge { outputs: vec![judged] }.comparison();
            let added = comparison.add(&tensor(&[1.0, 2.0, 3.0]), &tensor(own), None, 0);
            loss_of(added.map(|()| comparison))
        };
        assert_eq!(loss(LossKind::Nmse, &[1.0, 2.0, 4.0]).unwrap(), Some(0.5));
        assert_eq!(loss(LossKind::Nmse, &[1.0, f32::NAN, 3.0]).unwrap(), Some(f64::INFINITY));
        assert_eq!(loss(LossKind::Nmse, &[1.0, 2.0]).unwrap(), Some(f64::INFINITY));
        assert_eq!(loss(LossKind::CrossEntropy, &[1.0, 2.0, 4.0]).unwrap(), None);
        for kind in [ErrorKind::Engine, ErrorKind::Limit, ErrorKind::Samples] {
            assert_eq!(loss_of(Err(Error::new(kind, "it cannot be run"))).unwrap_err().kind(), kind);
        }
    }
}
