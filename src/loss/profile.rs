//! The error over time and the histogram of errors, which a sum over all elements does not show.
//!
//! A *profile* follows one output along its positions: the steps of a stream, else the axis of the output that is named
//! after time or the longest one that is not the classes', else the samples. Which axis is the longest is known only when
//! all runs were seen, so that sums are kept along each until then. Memory is bounded: when there are more than [`BINS`]
//! positions, neighbours are put together, and single errors are counted in bins a quarter of a decade wide. Parts that
//! are merged in one order give the same figures for any number of threads.

use std::collections::BTreeMap;

use ndarray::{ArrayD, Axis};
use serde::Serialize;

use super::Judged;
use crate::samples::{AxisSize, Tensor};

/// The largest number of positions.
pub const BINS: usize = 256;

/// What positions are called that are steps of a stream.
const STEPS: &str = "step of the stream";
/// Bins of the histogram in a factor of ten.
const PER_DECADE: i32 = 4;
/// Decades of the histogram: what is smaller than the first counts as exact, what is larger as the last.
const DECADES: std::ops::Range<i32> = -12..6;

/// The error of one output, along its positions and by its size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// What the positions are: `step of the stream`, `axis 0 (seq)` or `sample`.
    pub along: String,
    /// Positions that one entry of the lists summarises.
    pub stride: usize,
    /// Root mean square of the error at each position.
    pub rms: Vec<f64>,
    /// Largest absolute error at each position.
    pub max_abs: Vec<f64>,
    /// Standard deviation of the original's output over all positions; none where it is constant.
    pub deviation: Option<f64>,
    /// Absolute errors, counted: from the smallest bin that is not empty to the largest.
    pub histogram: Vec<Bin>,
    /// Elements without an error, or with one below all bins.
    pub exact: u64,
}

impl Profile {
    /// The variance of the output over the energy of the error, in decibels, in the first, the second and the last third of
    /// the positions; `None` where there is no error, and empty where there are fewer than three.
    /// Whether the positions are steps of a stream, or of an axis with a name, as time has.
    #[must_use]
    pub fn is_of_time(&self) -> bool {
        self.along == STEPS || self.along.ends_with(')')
    }

    pub(super) fn course_db(&self) -> Vec<Option<f64>> {
        let (Some(deviation), 3..) = (self.deviation, self.rms.len()) else { return Vec::new() };
        let third = |part: usize| {
            let places = &self.rms[part * self.rms.len() / 3..(part + 1) * self.rms.len() / 3];
            let error = places.iter().map(|rms| rms * rms).sum::<f64>() / places.len() as f64;
            (error > 0.0).then(|| 10.0 * (deviation * deviation / error).log10())
        };
        (0..3).map(third).collect()
    }
}

/// A bin of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// The smallest error that it counts.
    pub from: f64,
    /// The smallest one that it no longer counts.
    pub to: f64,
    /// Elements.
    pub count: u64,
}

/// The kind of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Along {
    /// Steps of a stream: one position for each run.
    Steps,
    /// An axis of an output of so many.
    Axis { rank: usize, axis: usize },
    /// One position for each sample.
    Samples,
}

/// Sums over one output.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sums {
    /// What a run is: a step of a stream, or a sample.
    run: Along,
    runs: u64,
    lines: BTreeMap<Along, Line>,
    counts: Vec<u64>,
    exact: u64,
}

/// Sums along the positions of one kind.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    /// Runs that have such positions.
    runs: u64,
    /// Positions that were seen.
    length: usize,
    /// Positions in one entry of `places`: a power of two.
    stride: usize,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Place {
    elements: u64,
    squared_error: f64,
    max_abs: f64,
}

impl Sums {
    /// Of runs that are steps of streams, or samples.
    pub fn new(streams: bool) -> Self {
        let run = if streams { Along::Steps } else { Along::Samples };
        let bins = (DECADES.end - DECADES.start) * PER_DECADE;
        Sums { run, runs: 0, lines: BTreeMap::new(), counts: vec![0; bins as usize], exact: 0 }
    }

    /// Adds one run; `position` is its number in the stream, or among the samples.
    pub fn add(&mut self, original: &Tensor, compressed: &Tensor, position: usize) {
        let errors = (original.to_f64() - compressed.to_f64()).mapv_into(f64::abs);
        let all = Place::of(&errors);
        self.count(&errors);
        self.runs += 1;
        self.line(self.run).add(std::iter::once((position, all)));
        if self.run == Along::Steps {
            return;
        }
        let rank = errors.ndim();
        for axis in axes(rank) {
            let line = self.line(Along::Axis { rank, axis });
            match errors.len_of(Axis(axis)) {
                1 => line.add(std::iter::once((0, all))),
                _ => line.add(errors.axis_iter(Axis(axis)).map(|part| Place::of(&part)).enumerate()),
            }
        }
    }

    fn line(&mut self, along: Along) -> &mut Line {
        self.lines.entry(along).or_insert(Line { runs: 0, length: 0, stride: 1, places: Vec::new() })
    }

    fn count(&mut self, errors: &ArrayD<f64>) {
        for &error in errors.iter().filter(|error| error.is_finite()) {
            match bin_of(error) {
                Some(bin) => self.counts[bin] += 1,
                None => self.exact += 1,
            }
        }
    }

    pub fn merge(&mut self, other: &Sums) {
        for (&along, line) in &other.lines {
            self.line(along).merge(line.clone());
        }
        self.runs += other.runs;
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.exact += other.exact;
    }

    /// What is followed: the axis that is most like time, which is the one that is named so, else the longest, if all
    /// runs have it.
    fn along(&self, judged: &Judged) -> Along {
        let everywhere = self.lines.iter().filter(|(_, line)| line.runs == self.runs);
        let axes: Vec<_> = everywhere.filter(|(along, _)| matches!(along, Along::Axis { .. })).collect();
        let named = axes.iter().find(|(along, _)| is_time(judged, **along));
        // The first of those that are equally long.
        let longest = || axes.iter().rev().filter(|(_, line)| line.length > 1).max_by_key(|(_, line)| line.length);
        named.or_else(longest).map_or(self.run, |(along, _)| **along)
    }

    /// What was seen; none if nothing was.
    pub fn profile(&self, judged: &Judged, deviation: Option<f64>) -> Option<Profile> {
        let along = self.along(judged);
        let line = self.lines.get(&along)?;
        let seen: Vec<&Place> = line.places.iter().filter(|place| place.elements > 0).collect();
        let first = self.counts.iter().position(|&count| count > 0);
        let last = self.counts.iter().rposition(|&count| count > 0);
        let range = first.zip(last).map_or(0..0, |(first, last)| first..last + 1);
        (!seen.is_empty()).then(|| Profile {
            along: label(judged, along),
            stride: line.stride,
            rms: seen.iter().map(|place| (place.squared_error / place.elements as f64).sqrt()).collect(),
            max_abs: seen.iter().map(|place| place.max_abs).collect(),
            deviation,
            histogram: range.map(|bin| Bin { from: edge(bin), to: edge(bin + 1), count: self.counts[bin] }).collect(),
            exact: self.exact,
        })
    }
}

impl Line {
    /// Adds a run: what is at some of its positions.
    fn add(&mut self, run: impl Iterator<Item = (usize, Place)>) {
        self.runs += 1;
        for (position, place) in run {
            self.length = self.length.max(position + 1);
            while position / self.stride >= BINS {
                self.widen();
            }
            let index = position / self.stride;
            if self.places.len() <= index {
                self.places.resize(index + 1, Place::default());
            }
            self.places[index].merge(&place);
        }
    }

    /// Puts neighbouring positions together.
    fn widen(&mut self) {
        self.stride *= 2;
        let pairs = self.places.chunks(2).map(|pair| {
            let mut place = pair[0];
            pair[1..].iter().for_each(|next| place.merge(next));
            place
        });
        self.places = pairs.collect();
    }

    fn merge(&mut self, mut other: Line) {
        while self.stride < other.stride {
            self.widen();
        }
        while other.stride < self.stride {
            other.widen();
        }
        if self.places.len() < other.places.len() {
            self.places.resize(other.places.len(), Place::default());
        }
        self.places.iter_mut().zip(&other.places).for_each(|(place, more)| place.merge(more));
        self.length = self.length.max(other.length);
        self.runs += other.runs;
    }
}

impl Place {
    fn of<'a>(errors: impl IntoIterator<Item = &'a f64>) -> Place {
        let mut place = Place::default();
        for &error in errors.into_iter().filter(|error| error.is_finite()) {
            place.elements += 1;
            place.squared_error += error * error;
            place.max_abs = place.max_abs.max(error);
        }
        place
    }

    fn merge(&mut self, other: &Place) {
        self.elements += other.elements;
        self.squared_error += other.squared_error;
        self.max_abs = self.max_abs.max(other.max_abs);
    }
}

/// The axes that may be followed: never the last of several, which holds features or classes.
fn axes(rank: usize) -> std::ops::Range<usize> {
    0..rank.saturating_sub(1).max(rank.min(1))
}

/// Whether the model names an axis after time.
fn is_time(judged: &Judged, along: Along) -> bool {
    let Along::Axis { axis, .. } = along else { return false };
    let Some(AxisSize::Symbol(name)) = judged.dims.get(axis) else { return false };
    let name = name.to_ascii_lowercase();
    ["time", "seq", "step", "frame", "len"].iter().any(|word| name.contains(word)) && !name.contains("batch")
}

fn label(judged: &Judged, along: Along) -> String {
    match along {
        Along::Steps => STEPS.to_owned(),
        Along::Samples => "sample".to_owned(),
        Along::Axis { axis, .. } => match judged.dims.get(axis) {
            Some(AxisSize::Symbol(name)) => format!("axis {axis} ({name})"),
            _ => format!("axis {axis}"),
        },
    }
}

/// The bin of an error; none for one that counts as exact.
fn bin_of(error: f64) -> Option<usize> {
    if error < 10f64.powi(DECADES.start) {
        return None;
    }
    let bin = (error.log10() * f64::from(PER_DECADE)).floor() as i64 - i64::from(DECADES.start * PER_DECADE);
    let last = i64::from((DECADES.end - DECADES.start) * PER_DECADE - 1);
    usize::try_from(bin.clamp(0, last)).ok()
}

fn edge(bin: usize) -> f64 {
    10f64.powf(bin as f64 / f64::from(PER_DECADE) + f64::from(DECADES.start))
}

#[cfg(test)]
mod tests {
    use super::super::{Content, LossKind};
    use super::*;
    use ndarray::{ArrayD, IxDyn};

    fn judged(dims: &[&str]) -> Judged {
        let dims = dims.iter().map(|name| AxisSize::Symbol((*name).to_owned())).collect();
        Judged {
            name: "y".to_owned(),
            content: Content::Values,
            loss: LossKind::Nmse,
            kl: false,
            decides: false,
            dims,
            reached: true,
        }
    }

    fn tensor(shape: &[usize], value: impl Fn(usize) -> f64) -> Tensor {
        let values = (0..shape.iter().product()).map(value).collect();
        ArrayD::from_shape_vec(IxDyn(shape), values).unwrap().into()
    }

    fn sums(streams: bool, shapes: &[&[usize]]) -> Sums {
        let mut sums = Sums::new(streams);
        for (position, shape) in shapes.iter().enumerate() {
            sums.add(&tensor(shape, |_| 1.0), &tensor(shape, |_| 0.0), position);
        }
        sums
    }

    #[test]
    fn time_is_the_axis_that_is_named_so_or_the_longest() {
        for (dims, shape, along) in [
            (&["batch", "seq_len", "c"][..], &[90, 3, 5][..], "axis 1 (seq_len)"),
            (&[], &[1, 40, 65], "axis 1"),
            (&[], &[7, 7, 65], "axis 0"),
            (&[], &[1, 65], "sample"),
            (&[], &[65], "axis 0"),
            (&[], &[], "sample"),
        ] {
            let profile = sums(false, &[shape]).profile(&judged(dims), None).unwrap();
            assert_eq!(profile.along, along, "{shape:?}");
        }
    }

    /// Samples of different shapes are followed along one axis, whichever of them comes first and in whatever parts.
    #[test]
    fn axes_are_not_mixed() {
        let shapes: [&[usize]; 3] = [&[1, 2, 5], &[4, 2, 5], &[3, 1, 5]];
        let judged = judged(&[]);
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let shapes = order.map(|i| shapes[i]);
            let whole = sums(false, &shapes).profile(&judged, None).unwrap();
            assert_eq!((whole.along.as_str(), whole.rms.len()), ("axis 0", 4), "{order:?}");
            let mut parts = sums(false, &shapes[..1]);
            parts.merge(&sums(false, &shapes[1..]));
            assert_eq!(parts.profile(&judged, None).unwrap(), whole, "{order:?}");
        }
        // What has another number of axes has no position on them.
        let ranks = sums(false, &[&[4, 5], &[4, 2, 5]]).profile(&judged, None).unwrap();
        assert_eq!((ranks.along.as_str(), ranks.rms.len()), ("sample", 2));
        let stream = sums(true, &[&[1, 5], &[8, 5], &[2, 5]]).profile(&judged, None).unwrap();
        assert_eq!((stream.along.as_str(), stream.rms.len()), ("step of the stream", 3));
    }

    #[test]
    fn an_error_stays_where_it_is() {
        let judged = judged(&["seq", "c"]);
        let mut sums = Sums::new(false);
        let (y, z) = (tensor(&[4, 2], |_| 1.0), tensor(&[4, 2], |i| if i == 5 { 1.5 } else { 1.0 }));
        sums.add(&y, &z, 0);
        let profile = sums.profile(&judged, None).unwrap();
        assert_eq!(profile.along, "axis 0 (seq)");
        assert_eq!(profile.max_abs, [0.0, 0.0, 0.5, 0.0]);
        assert!((profile.rms[2] - 0.125f64.sqrt()).abs() < 1e-12);
        assert_eq!((profile.exact, profile.histogram.len(), profile.histogram[0].count), (7, 1, 1));
        assert!(profile.histogram[0].from <= 0.5 && 0.5 < profile.histogram[0].to);
    }

    /// Ten thousand steps, in parts or as a whole, are the same few bins.
    #[test]
    fn memory_is_bounded_and_parts_add_up() {
        let judged = judged(&[]);
        let run = |range: std::ops::Range<usize>| {
            let mut sums = Sums::new(true);
            for step in range {
                sums.add(&tensor(&[1, 2], |_| 0.0), &tensor(&[1, 2], |_| step as f64), step);
            }
            sums
        };
        let whole = run(0..10_000).profile(&judged, None).unwrap();
        let mut parts = run(0..100);
        parts.merge(&run(100..10_000));
        let parts = parts.profile(&judged, None).unwrap();
        assert!(whole.rms.len() <= BINS && whole.stride == 64, "{} of {}", whole.rms.len(), whole.stride);
        assert_eq!((parts.max_abs, parts.histogram), (whole.max_abs, whole.histogram));
        assert_eq!(whole.along, "step of the stream");
    }

    #[test]
    fn every_error_has_a_bin() {
        for error in [1e-12, 3e-7, 1.0, 9.99e5, 1e30] {
            let bin = bin_of(error).unwrap();
            assert!(edge(bin) <= error * (1.0 + 1e-12) && (error < edge(bin + 1) || error > 1e6), "{error}");
        }
        assert_eq!(bin_of(0.0), None);
    }
}
