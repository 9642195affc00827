//! Second moments `S = E[x x^T]` of the vectors that weights multiply, from running the original model.
//!
//! W multiplies `X_t`; R multiplies `H_(t-1)` of its direction; R of the h gate of a GRU without
//! `linear_before_reset` multiplies `r (.) H_(t-1)`. Steps past a sequence's length do not count.
//!
//! A sum is kept for each [`Fold`] of the samples, so that it can be told how much the samples know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, Array3, ArrayView2, Axis};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::cell::{self, Spec};
use crate::engine::{Engine, Overrides, Pass, Tap, TapId, Visit};
use crate::error::Result;
use crate::linear::LinearNode;
use crate::progress::{self, Progress};
use crate::recurrent::{Direction, RecurrentNode, Vector};
use crate::samples::{Samples, Tensor};
use crate::sites::Sites;

/// Parts of the calibration samples. What is made of one is evaluated on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Codes that are only tried are learned with the moments of this part.
    Trial,
    /// Their distortions and losses are measured on this one.
    Test,
    /// Plans and models are chosen by how they do on this one, which nothing else looks at.
    Choice,
}

impl Fold {
    /// The part of each of `count` streams. With fewer than three there is not one for each.
    #[must_use]
    pub fn of_stream(index: usize, count: usize) -> Fold {
        match index {
            _ if index % CHOICE == CHOICE - 1 || count < CHOICE && index + 1 == count => Fold::Choice,
            _ if index.is_multiple_of(2) => Fold::Trial,
            _ => Fold::Test,
        }
    }
}

/// One stream in so many is only chosen by.
const CHOICE: usize = 5;

/// Sums of `x x^T` over the parts of the samples.
#[derive(Clone, Debug)]
pub struct Moment {
    sums: [Sum; 3],
}

/// A sum of `x x^T` and the number of vectors in it.
#[derive(Clone, Debug)]
struct Sum {
    /// `[n, n]`.
    sum: Array2<f64>,
    count: u64,
}

impl Moment {
    fn new(size: usize) -> Self {
        let sum = || Sum { sum: Array2::zeros((size, size)), count: 0 };
        Moment { sums: [sum(), sum(), sum()] }
    }

    /// Of vectors whose components are independent and of mean square 1.
    pub fn alike(size: usize) -> Self {
        let sum = || Sum { sum: Array2::eye(size), count: 1 };
        Moment { sums: [sum(), sum(), sum()] }
    }

    /// Adds the sums of another moment of the same size.
    pub fn merge(&mut self, other: &Moment) {
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            sum.sum += &other.sum;
            sum.count += other.count;
        }
    }

    /// Vectors.
    pub fn count(&self) -> u64 {
        self.sums.iter().map(|sum| sum.count).sum()
    }

    /// `E[x x^T]` over some parts, `[n, n]`; over all vectors where there are none in these, and zeros if there are none at all.
    pub fn mean(&self, parts: &[Fold]) -> Array2<f64> {
        let mut sums: Vec<&Sum> = parts.iter().map(|part| &self.sums[*part as usize]).collect();
        if sums.iter().all(|sum| sum.count == 0) {
            sums = self.sums.iter().collect();
        }
        let count: u64 = sums.iter().map(|sum| sum.count).sum();
        let mut total = sums[0].sum.clone();
        sums[1..].iter().for_each(|sum| total += &sum.sum);
        total / count.max(1) as f64
    }

    /// The sum of `x x^T` over a part, `[n, n]`.
    pub fn sum(&self, part: Fold) -> ArrayView2<'_, f64> {
        self.sums[part as usize].sum.view()
    }
}

/// How strongly a direction's gates act on its states: `E[(dh/da_g)^2]` of each gate `g`, `a_g` being what goes into its
/// activation, over one step; and `E[h^2]`.
#[derive(Clone, Debug, Default)]
pub struct Slopes {
    gates: Vec<f64>,
    energy: f64,
}

impl Slopes {
    /// The relative squared error of the states, summed over units, that a squared error of 1 in gate `gate` makes.
    pub fn relative(&self, gate: usize) -> f64 {
        if self.energy > 0.0 { self.gates[gate] / self.energy } else { 0.0 }
    }

    fn merge(&mut self, other: &Slopes) {
        self.gates.resize(other.gates.len(), 0.0);
        self.gates.iter_mut().zip(&other.gates).for_each(|(a, b)| *a += b);
        self.energy += other.energy;
    }
}

/// Moments by recurrent node ([`Engine::number`]) and vector.
#[derive(Clone, Debug, Default)]
pub struct SecondMoments {
    moments: BTreeMap<(usize, Vector), Moment>,
    slopes: BTreeMap<(usize, usize), Slopes>,
    /// Of linear nodes, by their index in [`Sites::linear`].
    linear: BTreeMap<usize, Moment>,
}

impl SecondMoments {
    /// The moment of a node's vectors; `None` if the node never ran.
    pub fn get(&self, node: usize, vector: Vector) -> Option<&Moment> {
        self.moments.get(&(node, vector))
    }

    /// The moment of what a linear node multiplies; `None` if it never ran.
    pub fn of_linear(&self, node: usize) -> Option<&Moment> {
        self.linear.get(&node)
    }

    /// How strongly the gates of a node's direction act; `None` if the node never ran.
    pub fn slopes(&self, node: usize, direction: usize) -> Option<&Slopes> {
        self.slopes.get(&(node, direction))
    }

    /// The most vectors that any weight multiplied.
    pub fn vectors(&self) -> u64 {
        let of = |moments: &mut dyn Iterator<Item = &Moment>| moments.map(Moment::count).max();
        of(&mut self.moments.values()).or_else(|| of(&mut self.linear.values())).unwrap_or(0)
    }

    fn merge(&mut self, other: SecondMoments) {
        merge(&mut self.moments, other.moments);
        merge(&mut self.linear, other.linear);
        for (key, slopes) in other.slopes {
            self.slopes.entry(key).or_default().merge(&slopes);
        }
    }
}

fn merge<K: Ord>(all: &mut BTreeMap<K, Moment>, others: BTreeMap<K, Moment>) {
    for (key, moment) in others {
        match all.entry(key) {
            Entry::Vacant(place) => {
                place.insert(moment);
            }
            Entry::Occupied(mut place) => place.get_mut().merge(&moment),
        }
    }
}

/// Vectors of a linear node that one run adds to its moment, at most: neighbours in an image are much alike.
const RUN_VECTORS: usize = 512;

/// Streams that are each one part; the vectors of fewer are parted in time.
pub const PARTED: usize = 3;

/// Lanes at most: streams that are run at the same time. Each lane holds sums of its own.
const LANES: usize = 4;
/// Bytes of sums at most, as long as there is more than one lane.
const SUM_BYTES: usize = 96 << 20;

/// Runs the original on the samples; `sites` are those whose sums are wanted.
///
/// Each lane takes every n-th stream, one after the other, and lanes are added up in their order: the figures do not
/// depend on the number of threads, and memory does not grow with the number of samples.
///
/// # Errors
/// Those of running it, naming the sample.
pub fn measure(engine: &Engine, sites: &Sites, samples: &Samples, progress: &dyn Progress) -> Result<SecondMoments> {
    progress.phase("calibrate", samples.len() as u64);
    let shown: Vec<Vec<usize>> = sites.shown().into_iter().map(|(_, nodes)| nodes).collect();
    let lanes = (SUM_BYTES / sum_bytes(sites).max(1)).clamp(1, LANES);
    let count = samples.streams.len();
    let lane = |first: usize| {
        let sums = Sums { linear: &sites.linear, shown: &shown, ..Sums::default() };
        for (i, stream) in samples.streams.iter().enumerate().skip(first).step_by(lanes) {
            sums.begin((count >= PARTED).then(|| Fold::of_stream(i, count)));
            engine
                .run_stream(stream, &samples.carry, &Overrides::default(), Some(&sums))
                .map_err(|e| e.in_file(&stream.origin))?;
            progress::advance(progress, stream.feeds.len() as u64)?;
        }
        Ok(sums.finish())
    };
    let parts: Vec<Result<SecondMoments>> = (0..lanes).into_par_iter().map(lane).collect();
    let mut total = SecondMoments::default();
    for part in parts {
        total.merge(part?);
    }
    progress.done();
    Ok(total)
}

/// Bytes of one lane's sums.
fn sum_bytes(sites: &Sites) -> usize {
    sites.inputs.iter().map(|input| input.size.pow(2)).sum::<usize>() * 3 * size_of::<f64>()
}

/// Moments of a node that no sample reaches: its own cell, without biases, run on seeded noise.
pub fn seeded(node: &RecurrentNode, number: usize, w: &Array3<f32>, r: &Array3<f32>, seed: u64) -> SecondMoments {
    const STEPS: usize = 64;
    const BATCH: usize = 16;
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let x: Vec<f32> = (0..STEPS * BATCH * node.input_size).map(|_| normal(&mut rng)).collect();
    let passes = node.attributes.direction.each().iter().enumerate().map(|(d, &direction)| {
        let spec = Spec::of(node.cell, &node.attributes, d, node.input_size);
        let flat = |t: &Array3<f32>| t.index_axis(Axis(0), d).iter().copied().collect::<Vec<f32>>();
        let (w, r) = (flat(w), flat(r));
        let reverse = direction == Direction::Reverse;
        let weights = cell::CellWeights { w: &w, r: &r, b: None, p: None };
        let input = cell::Input { x: &x, steps: STEPS, batch: BATCH, h: None, c: None, lengths: None, reverse };
        let (output, trace) = cell::forward_traced(&spec, &weights, &input);
        let zeros = vec![0.0; BATCH * spec.hidden];
        let initial_c = if spec.kind.has_cell_state() { zeros.clone() } else { Vec::new() };
        let cell::Trace { gates, inner } = trace;
        let (w, r) = (w.into(), r.into());
        Pass { spec, reverse, w, r, b: None, p: None, initial_h: zeros, initial_c, y: output.y, inner, gates }
    });
    let passes: Vec<Pass> = passes.collect();
    let kind = Spec::of(node.cell, &node.attributes, 0, node.input_size).kind;
    let hidden = node.attributes.hidden;
    let sums = Sums::default();
    sums.visit(&Visit {
        node: number,
        kind,
        hidden,
        inputs: node.input_size,
        steps: STEPS,
        batch: BATCH,
        lengths: None,
        x,
        passes,
    });
    sums.finish()
}

/// A normal deviate by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Rows that are collected before they are multiplied: single steps of a stream would be products of one row.
const ROWS: usize = 512;

/// Sums up what one stream's runs show.
#[derive(Default)]
struct Sums<'a> {
    linear: &'a [LinearNode],
    /// The linear nodes whose vectors each tap shows.
    shown: &'a [Vec<usize>],
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Of the stream that is run.
    part: Option<Fold>,
    moments: BTreeMap<(usize, Vector), Running>,
    slopes: BTreeMap<(usize, usize), Slopes>,
    linear: BTreeMap<usize, Running>,
}

/// A moment to which vectors are added.
struct Running {
    size: usize,
    moment: Moment,
    part: Option<Fold>,
    waiting: Vec<f32>,
}

impl Sums<'_> {
    /// The vectors that follow are of this part; `None` to part them in time.
    fn begin(&self, part: Option<Fold>) {
        self.seen().part = part;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self) -> SecondMoments {
        fn finish<K: Ord>(sums: BTreeMap<K, Running>) -> BTreeMap<K, Moment> {
            let finish = |(key, mut sum): (K, Running)| {
                sum.multiply();
                (key, sum.moment)
            };
            sums.into_iter().map(finish).collect()
        }
        let Seen { moments, slopes, linear, .. } = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        SecondMoments { moments: finish(moments), slopes, linear: finish(linear) }
    }
}

impl Tap for Sums<'_> {
    fn visit(&self, visit: &Visit) {
        let mut seen = self.seen();
        let Seen { part, moments, slopes, .. } = &mut *seen;
        let mut add = |vector, size: usize, rows: Vec<f32>| {
            moments.entry((visit.node, vector)).or_insert_with(|| Running::new(size)).add(rows, *part);
        };
        add(Vector::Input, visit.inputs, visit.inputs());
        for (direction, pass) in visit.passes.iter().enumerate() {
            add(Vector::State(direction), visit.hidden, visit.states_before(pass));
            if let Some(rows) = visit.reset_states(pass) {
                add(Vector::ResetState(direction), visit.hidden, rows);
            }
            slopes.entry((visit.node, direction)).or_default().merge(&slopes_of(visit, pass));
        }
    }

    fn value(&self, TapId(tap): TapId, value: &Tensor) {
        for &node in self.shown.get(tap).into_iter().flatten() {
            let of = &self.linear[node];
            let Some(zero) = of.zero.filter(|_| of.has_vectors()) else { continue };
            let values = value.to_f32().mapv_into(|value| value - zero);
            let values = values.as_slice().expect("samples are in row-major order");
            let rows = of.vectors(value.shape(), values, RUN_VECTORS);
            // What overflows in the original says nothing of its weights.
            if rows.is_empty() || !rows.iter().all(|value| value.is_finite()) {
                continue;
            }
            let mut seen = self.seen();
            let Seen { part, linear, .. } = &mut *seen;
            linear.entry(node).or_insert_with(|| Running::new(of.shape()[1])).add(rows, *part);
        }
    }
}

/// The slopes of one pass.
fn slopes_of(visit: &Visit, pass: &Pass) -> Slopes {
    let (hidden, gates) = (visit.hidden, visit.kind.gates());
    let mut slopes = Slopes { gates: vec![0.0; gates], ..Slopes::default() };
    let weights = cell::CellWeights { w: &pass.w, r: &pass.r, b: None, p: pass.p.as_deref() };
    let mut effects = cell::Effects::new(&pass.spec, &weights);
    for (t, b) in (0..visit.steps).flat_map(|t| (0..visit.batch).map(move |b| (t, b))) {
        if !visit.is_valid(t, b) {
            continue;
        }
        let row = |values, width| part(values, t * visit.batch + b, width);
        let step = cell::SequenceStep {
            gates: row(&pass.gates, gates * hidden),
            inner: row(&pass.inner, hidden),
            h: visit.state_before(pass, t, b),
            c: visit.cell_before(pass, t, b),
        };
        effects.add_squares(&mut slopes.gates, &step);
        slopes.energy += row(&pass.y, hidden).iter().map(|y| f64::from(*y).powi(2)).sum::<f64>();
    }
    slopes
}

/// One row; of no rows an empty one.
fn part(values: &[f32], row: usize, width: usize) -> &[f32] {
    if values.is_empty() { values } else { &values[row * width..][..width] }
}

impl Running {
    fn new(size: usize) -> Running {
        Running { size, moment: Moment::new(size), part: None, waiting: Vec::new() }
    }

    fn add(&mut self, rows: Vec<f32>, part: Option<Fold>) {
        if self.part != part {
            self.multiply();
            self.part = part;
        }
        if self.waiting.is_empty() {
            self.waiting = rows
        } else {
            self.waiting.extend(rows)
        }
        if self.waiting.len() >= 2 * ROWS * self.size {
            self.multiply();
        }
    }

    /// Adds the rows that wait to their part. Those of no part go to one after the other in time: neighbours tell the same, so
    /// that parts with every third row each would not be independent.
    fn multiply(&mut self) {
        let size = self.size.max(1);
        let count = self.waiting.len() / size;
        let bounds = match self.part {
            Some(part) => {
                [Fold::Trial, Fold::Test, Fold::Choice].map(|of| if of as usize >= part as usize { count } else { 0 })
            }
            None => {
                let choice = count / CHOICE;
                [(count - choice).div_ceil(2), count - choice, count]
            }
        };
        // Single precision within some rows, double over them: as exact as the states themselves.
        let mut product = Array2::<f32>::zeros((self.size, self.size));
        let mut start = 0;
        for (part, end) in self.moment.sums.iter_mut().zip(bounds) {
            for rows in self.waiting[start * size..end * size].chunks(ROWS * size) {
                let rows = MatRef::from_row_major_slice(rows, rows.len() / size, self.size);
                let into = product.as_slice_mut().expect("a new array is row-major");
                let into = MatMut::from_row_major_slice_mut(into, self.size, self.size);
                matmul(into, Accum::Replace, rows.transpose(), rows, 1.0, Par::Seq);
                part.sum.zip_mut_with(&product, |sum, &p| *sum += f64::from(p));
                part.count += rows.nrows() as u64;
            }
            start = end;
        }
        self.waiting.clear();
    }
}
