//! Second moments `S = E[x x^T]` of the vectors that weights multiply, from running the original model.
//!
//! W multiplies `X_t`; R multiplies `H_(t-1)` of its direction; R of the h gate of a GRU without
//! `linear_before_reset` multiplies `r (.) H_(t-1)`. Steps past a sequence's length do not count.
//!
//! Two sums are kept, each of one half of the vectors, so that it can be told how much the samples know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

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

/// Sums of `x x^T` over two halves of the vectors: how far they differ tells how much the samples know.
#[derive(Clone, Debug)]
pub struct Moment {
    halves: [Half; 2],
}

/// A sum of `x x^T` and the number of vectors in it.
#[derive(Clone, Debug)]
struct Half {
    /// `[n, n]`.
    sum: Array2<f64>,
    count: u64,
}

impl Moment {
    fn new(size: usize) -> Self {
        let half = || Half { sum: Array2::zeros((size, size)), count: 0 };
        Moment { halves: [half(), half()] }
    }

    /// Of vectors whose components are independent and of mean square 1.
    pub fn alike(size: usize) -> Self {
        let half = || Half { sum: Array2::eye(size), count: 1 };
        Moment { halves: [half(), half()] }
    }

    /// Adds the sums of another moment of the same size.
    pub fn merge(&mut self, other: &Moment) {
        for (half, other) in self.halves.iter_mut().zip(&other.halves) {
            half.sum += &other.sum;
            half.count += other.count;
        }
    }

    /// Vectors.
    pub fn count(&self) -> u64 {
        self.halves.iter().map(|half| half.count).sum()
    }

    /// `E[x x^T]`, `[n, n]`; zeros if there is no vector.
    pub fn mean(&self) -> Array2<f64> {
        let [first, second] = &self.halves;
        (&first.sum + &second.sum) / (self.count().max(1) as f64)
    }

    /// The sum of `x x^T` over each half of the vectors, `[n, n]`.
    pub fn halves(&self) -> [ArrayView2<'_, f64>; 2] {
        [self.halves[0].sum.view(), self.halves[1].sum.view()]
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
    let lane = |first: usize| {
        let sums = Sums { linear: &sites.linear, shown: &shown, ..Sums::default() };
        for stream in samples.streams.iter().skip(first).step_by(lanes) {
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
    sites.inputs.iter().map(|input| input.size.pow(2)).sum::<usize>() * 2 * size_of::<f64>()
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
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    moments: BTreeMap<(usize, Vector), Sum>,
    slopes: BTreeMap<(usize, usize), Slopes>,
    linear: BTreeMap<usize, Sum>,
}

struct Sum {
    size: usize,
    moment: Moment,
    waiting: Vec<f32>,
}

impl Sums<'_> {
    fn finish(self) -> SecondMoments {
        fn finish<K: Ord>(sums: BTreeMap<K, Sum>) -> BTreeMap<K, Moment> {
            let finish = |(key, mut sum): (K, Sum)| {
                sum.multiply();
                (key, sum.moment)
            };
            sums.into_iter().map(finish).collect()
        }
        let Parts { moments, slopes, linear } = self.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        SecondMoments { moments: finish(moments), slopes, linear: finish(linear) }
    }
}

impl Tap for Sums<'_> {
    fn visit(&self, visit: &Visit) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Parts { moments, slopes, .. } = &mut *parts;
        let mut add = |vector, size: usize, rows: Vec<f32>| {
            moments.entry((visit.node, vector)).or_insert_with(|| Sum::new(size)).add(rows);
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
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            parts.linear.entry(node).or_insert_with(|| Sum::new(of.shape()[1])).add(rows);
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

impl Sum {
    fn new(size: usize) -> Sum {
        Sum { size, moment: Moment::new(size), waiting: Vec::new() }
    }

    fn add(&mut self, rows: Vec<f32>) {
        if self.waiting.is_empty() {
            self.waiting = rows
        } else {
            self.waiting.extend(rows)
        }
        if self.waiting.len() >= 2 * ROWS * self.size {
            self.multiply();
        }
    }

    /// Adds the rows that wait, the earlier ones to one half and the later ones to the other: neighbours in time tell the
    /// same, so that halves with every other row each would not be independent.
    fn multiply(&mut self) {
        let size = self.size;
        let count = self.waiting.len() / size.max(1);
        let (earlier, later) = self.waiting.split_at(count.div_ceil(2) * size);
        // Single precision within some rows, double over them: as exact as the states themselves.
        let mut product = Array2::<f32>::zeros((size, size));
        for (half, rows) in self.moment.halves.iter_mut().zip([earlier, later]) {
            for rows in rows.chunks(ROWS * size.max(1)) {
                let rows = MatRef::from_row_major_slice(rows, rows.len() / size, size);
                let into = product.as_slice_mut().expect("a new array is row-major");
                let into = MatMut::from_row_major_slice_mut(into, size, size);
                matmul(into, Accum::Replace, rows.transpose(), rows, 1.0, Par::Seq);
                half.sum.zip_mut_with(&product, |sum, &p| *sum += f64::from(p));
                half.count += rows.nrows() as u64;
            }
        }
        self.waiting.clear();
    }
}
