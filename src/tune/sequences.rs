//! Inputs and states of the tuned nodes, recorded in runs of a model and cut into windows of bounded length.
//!
//! A *record* is one run of a node; consecutive runs that hand their state on, as the steps of a stream do, are one
//! record. A *window* is a piece of one sequence of it: the inputs and the states at its start come from the model as
//! it is coded so far, the targets from the original.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::schedule::{AT_ONCE, HELD_OUT, WINDOW, WINDOW_FLOATS};
use crate::calibrate::Fold;
use crate::engine::{Engine, Floats, Outputs, Overrides, Pass, Tap, Visit};
use crate::error::Result;
use crate::samples::{Samples, Stream};

/// One run of a node, or several that hand their state on.
#[derive(Default)]
pub(super) struct Record {
    pub(super) steps: usize,
    pub(super) batch: usize,
    lengths: Option<Vec<usize>>,
    inputs: usize,
    /// `X [T, B, I]`.
    pub(super) x: Vec<f32>,
    /// One for each direction.
    pub(super) tracks: Vec<Track>,
}

/// One direction of a record.
pub(super) struct Track {
    reverse: bool,
    /// `H_0` and `C_0 [B, H]`.
    h: Vec<f32>,
    c: Vec<f32>,
    /// `Y` and `C [T, B, H]`; `C` is empty but for an LSTM.
    pub(super) y: Vec<f32>,
    cells: Vec<f32>,
}

/// B and P of a node in one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Constants {
    pub(super) b: Option<Vec<f32>>,
    pub(super) p: Option<Vec<f32>>,
}

/// All runs of the nodes of one site during a stream.
#[derive(Default)]
pub(super) struct Site {
    pub(super) records: Vec<Record>,
    /// By direction, as first seen.
    pub(super) constants: Vec<Constants>,
    /// B or P were not the same in all runs.
    pub(super) vary: bool,
    /// Runs, before they were joined.
    pub(super) visits: usize,
}

/// Collects records by site.
pub(super) struct Recorder<'a> {
    /// The site of each node, by number.
    pub(super) sites: &'a BTreeMap<usize, usize>,
    pub(super) seen: Mutex<BTreeMap<usize, Site>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(sites: &'a BTreeMap<usize, usize>) -> Self {
        Recorder { sites, seen: Mutex::default() }
    }

    pub(super) fn finish(self) -> BTreeMap<usize, Site> {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Recorder<'_> {
    fn visit(&self, visit: &Visit) {
        let Some(&site) = self.sites.get(&visit.node) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let site = seen.entry(site).or_default();
        let constants: Vec<Constants> = visit
            .passes
            .iter()
            .map(|pass| {
                let own = |part: &Option<Floats>| part.as_deref().map(<[f32]>::to_vec);
                Constants { b: own(&pass.b), p: own(&pass.p) }
            })
            .collect();
        if site.visits == 0 {
            site.constants = constants;
        } else if site.constants != constants {
            site.vary = true;
        }
        site.visits += 1;
        match site.records.last_mut() {
            Some(last) if last.hands_on_to(visit) => last.append(visit),
            _ => site.records.push(Record::new(visit)),
        }
    }
}

fn cells(visit: &Visit, pass: &Pass) -> Vec<f32> {
    if visit.kind.has_cell_state() { pass.inner.clone() } else { Vec::new() }
}

impl Record {
    fn new(visit: &Visit) -> Record {
        let track = |pass: &Pass| Track {
            reverse: pass.reverse,
            h: pass.initial_h.clone(),
            c: pass.initial_c.clone(),
            y: pass.y.clone(),
            cells: cells(visit, pass),
        };
        Record {
            steps: visit.steps,
            batch: visit.batch,
            lengths: visit.lengths.clone(),
            inputs: visit.inputs,
            x: visit.x.clone(),
            tracks: visit.passes.iter().map(track).collect(),
        }
    }

    /// Whether a run begins with exactly the states that this one ended with.
    fn hands_on_to(&self, next: &Visit) -> bool {
        let ([own], [pass]) = (&self.tracks[..], &next.passes[..]) else { return false };
        let whole = self.lengths.is_none() && next.lengths.is_none() && !own.reverse && !pass.reverse;
        whole
            && self.steps > 0
            && self.batch == next.batch
            && own.y.ends_with(&pass.initial_h)
            && own.cells.ends_with(&pass.initial_c)
    }

    fn append(&mut self, next: &Visit) {
        self.steps += next.steps;
        self.x.extend_from_slice(&next.x);
        for (track, pass) in self.tracks.iter_mut().zip(&next.passes) {
            track.y.extend_from_slice(&pass.y);
            track.cells.extend(cells(next, pass));
        }
    }

    fn length(&self, b: usize) -> usize {
        self.lengths.as_ref().map_or(self.steps, |lengths| lengths[b])
    }

    /// `H`.
    pub(super) fn hidden(&self) -> usize {
        self.tracks.first().map_or(0, |track| track.h.len() / self.batch.max(1))
    }

    /// `Y` of all directions side by side, `[T, B, D*H]`.
    pub(super) fn joined(&self) -> Vec<f32> {
        let hidden = self.hidden();
        let rows = 0..self.steps * self.batch;
        rows.flat_map(|i| self.tracks.iter().flat_map(move |track| &track.y[i * hidden..][..hidden])).copied().collect()
    }

    /// `Y` and `C` at the last step of each sequence, `[B, H]`, of a record of one forward direction; `C` is empty
    /// but for an LSTM.
    pub(super) fn finals(&self) -> Option<[Vec<f32>; 2]> {
        let [track] = &self.tracks[..] else { return None };
        if track.reverse || (0..self.batch).any(|b| self.length(b) == 0) {
            return None;
        }
        let hidden = self.hidden();
        let row = |b: usize| ((self.length(b) - 1) * self.batch + b) * hidden;
        let rows = |all: &[f32]| (0..self.batch).flat_map(|b| all[row(b)..][..hidden].to_vec()).collect();
        Some([rows(&track.y), if track.cells.is_empty() { Vec::new() } else { rows(&track.cells) }])
    }

    fn alike(&self, other: &Record) -> bool {
        (self.steps, self.batch, &self.lengths) == (other.steps, other.batch, &other.lengths)
    }

    /// Steps `from..to` of sequence `b` of a `[T, B, n]`.
    fn piece(&self, values: &[f32], n: usize, b: usize, steps: std::ops::Range<usize>) -> Vec<f32> {
        steps.flat_map(|t| &values[(t * self.batch + b) * n..][..n]).copied().collect()
    }
}

impl Track {
    /// `H` and `C` of sequence `b` before the first of the steps in the order of the direction.
    fn states(&self, record: &Record, b: usize, steps: std::ops::Range<usize>) -> [Vec<f32>; 2] {
        let hidden = record.hidden();
        let before =
            if self.reverse { (steps.end < record.length(b)).then_some(steps.end) } else { steps.start.checked_sub(1) };
        let row = |initial: &[f32], all: &[f32]| match before {
            _ if initial.is_empty() => Vec::new(),
            None => initial[b * hidden..][..hidden].to_vec(),
            Some(t) => all[(t * record.batch + b) * hidden..][..hidden].to_vec(),
        };
        [row(&self.h, &self.y), row(&self.c, &self.cells)]
    }
}

/// A piece of one sequence through one or more layers, each reading what the one before gives.
#[derive(Clone)]
pub(super) struct Window {
    pub(super) steps: usize,
    /// The sequence ends with it.
    pub(super) last: bool,
    /// `X [T, I]` of the first layer.
    pub(super) x: Vec<f32>,
    /// `H` and `C` at the start, by layer and direction; `C` is empty but for an LSTM.
    pub(super) states: Vec<Vec<[Vec<f32>; 2]>>,
    /// The original's `Y` and `C` of the last layer, by direction, `[T, H]`.
    pub(super) y: Vec<Vec<f32>>,
    pub(super) c: Vec<Vec<f32>>,
}

impl Window {
    fn floats(&self) -> usize {
        let states = self.states.iter().flatten().flatten();
        self.x.len() + states.chain(&self.y).chain(&self.c).map(Vec::len).sum::<usize>()
    }
}

/// Windows to tune on, and held-out windows.
#[derive(Default)]
pub(super) struct Windows {
    pub(super) tuned_on: Vec<Window>,
    pub(super) left_out: Vec<Window>,
    /// B and P of each layer by direction, as they are now.
    pub(super) constants: Vec<Vec<Constants>>,
    /// Those of the original.
    pub(super) originals: Vec<Vec<Constants>>,
    /// B or P of a layer vary from run to run.
    pub(super) vary: bool,
    /// The coded model comes to the first layer with other inputs than the original.
    pub(super) drifted: bool,
}

/// What the original did on one stream: records by site, and the outputs of each step.
pub(super) type Probe = (BTreeMap<usize, Site>, Vec<Outputs>);

/// What is traced.
pub(super) struct Tracing<'a> {
    pub(super) engine: &'a Engine,
    pub(super) samples: &'a Samples,
    pub(super) seed: u64,
    /// The site of each recurrent node, by number.
    pub(super) sites: &'a BTreeMap<usize, usize>,
}

impl Tracing<'_> {
    /// Windows of at most `tokens` steps in all, through the sites `layers`.
    pub(super) fn windows(&self, layers: &[usize], overrides: &Overrides, tokens: usize) -> Result<Windows> {
        let mut result = Windows::default();
        let (mut steps, mut floats, mut sequences) = (0, 0, Vec::new());
        for streams in self.shuffled().chunks(AT_ONCE) {
            let pairs: Vec<Result<_>> = streams
                .par_iter()
                .map(|(_, stream)| Ok((self.run(stream, &Overrides::default())?, self.run(stream, overrides)?)))
                .collect();
            for ((part, _), pair) in streams.iter().zip(pairs) {
                let (original, coded) = pair?;
                for sequence in joined(layers, &original, &coded, &mut result) {
                    steps += sequence.iter().map(|w| w.steps).sum::<usize>();
                    floats += sequence.iter().map(Window::floats).sum::<usize>();
                    sequences.push((*part, sequence));
                }
            }
            if steps >= tokens || floats >= WINDOW_FLOATS {
                break;
            }
        }
        split(sequences, &mut result);
        Ok(result)
    }

    /// Runs the original on some streams.
    pub(super) fn originals(&self, streams: usize) -> Result<Vec<Probe>> {
        let run = |(_, stream): &(Fold, &Stream)| {
            let recorder = Recorder::new(self.sites);
            let outputs =
                self.engine.run_stream(stream, &self.samples.carry, &Overrides::default(), Some(&recorder))?;
            Ok((recorder.finish(), outputs))
        };
        let order = self.shuffled();
        let results: Vec<Result<_>> = order[..streams.min(order.len())].par_iter().map(run).collect();
        results.into_iter().collect()
    }

    fn run(&self, stream: &Stream, overrides: &Overrides) -> Result<BTreeMap<usize, Site>> {
        let recorder = Recorder::new(self.sites);
        self.engine
            .run_stream(stream, &self.samples.carry, overrides, Some(&recorder))
            .map_err(|e| e.in_file(&stream.origin))?;
        Ok(recorder.finish())
    }

    /// All streams, with the part of the samples that each belongs to.
    fn shuffled(&self) -> Vec<(Fold, &Stream)> {
        let streams = &self.samples.streams;
        let mut streams: Vec<_> =
            streams.iter().enumerate().map(|(i, stream)| (Fold::of_stream(i, streams.len()), stream)).collect();
        streams.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        streams
    }
}

/// The sequences of a stream as windows. Where the coded model took another course than the original, none.
fn joined(
    layers: &[usize],
    original: &BTreeMap<usize, Site>,
    coded: &BTreeMap<usize, Site>,
    result: &mut Windows,
) -> Vec<Vec<Window>> {
    let (Some(sites), Some(target)) = (
        layers.iter().map(|site| coded.get(site)).collect::<Option<Vec<_>>>(),
        layers.last().and_then(|site| original.get(site)),
    ) else {
        return Vec::new();
    };
    if result.constants.is_empty() {
        result.constants = sites.iter().map(|site| site.constants.clone()).collect();
        let original = layers.iter().map(|site| Some(original.get(site)?.constants.clone()));
        result.originals = original.collect::<Option<_>>().unwrap_or_default();
    }
    result.vary |= sites.iter().zip(&result.constants).any(|(site, c)| site.vary || site.constants != *c);
    let first = layers.first().and_then(|site| original.get(site));
    let same = |site: &Site| site.records.iter().map(|r| &r.x).eq(sites[0].records.iter().map(|r| &r.x));
    result.drifted |= !first.is_some_and(same);
    let mut sequences = Vec::new();
    for (i, target) in target.records.iter().enumerate() {
        let Some(records) = sites.iter().map(|site| site.records.get(i)).collect::<Option<Vec<_>>>() else { break };
        if records.iter().all(|record| record.alike(target)) {
            sequences.extend((0..target.batch).map(|b| cut(&records, target, b)));
        }
    }
    sequences.retain(|windows| !windows.is_empty());
    sequences
}

/// Cuts one sequence into windows of about equal length.
fn cut(records: &[&Record], target: &Record, b: usize) -> Vec<Window> {
    let length = target.length(b);
    let count = length.div_ceil(WINDOW);
    let bounds = (0..count).map(|i| i * length / count..(i + 1) * length / count);
    let first = records[0];
    let window = |steps: std::ops::Range<usize>| {
        let piece = |values: &Vec<f32>| target.piece(values, target.hidden(), b, steps.clone());
        let lstm = target.tracks.iter().all(|track| !track.cells.is_empty());
        Window {
            steps: steps.len(),
            last: steps.end == length,
            x: first.piece(&first.x, first.inputs, b, steps.clone()),
            states: records
                .iter()
                .map(|record| record.tracks.iter().map(|track| track.states(record, b, steps.clone())).collect())
                .collect(),
            y: target.tracks.iter().map(|track| piece(&track.y)).collect(),
            c: if lstm { target.tracks.iter().map(|track| piece(&track.cells)).collect() } else { Vec::new() },
        }
    };
    bounds.map(window).collect()
}

/// Leaves out what models are chosen by. Where that is all or nothing, a fifth: whole sequences, or the last windows of each where
/// there are too few.
fn split(sequences: Vec<(Fold, Vec<Window>)>, result: &mut Windows) {
    let is_choice = |(part, _): &(Fold, Vec<Window>)| *part == Fold::Choice;
    let parted = sequences.iter().any(is_choice) && !sequences.iter().all(is_choice);
    let whole = sequences.len() >= HELD_OUT;
    for (i, (part, mut windows)) in sequences.into_iter().enumerate() {
        if parted || whole {
            let held = if parted { part == Fold::Choice } else { i % HELD_OUT == HELD_OUT - 1 };
            let part = if held { &mut result.left_out } else { &mut result.tuned_on };
            part.append(&mut windows);
        } else {
            let kept = windows.len() - windows.len().div_ceil(HELD_OUT);
            result.left_out.extend(windows.split_off(kept));
            result.tuned_on.append(&mut windows);
        }
    }
}
