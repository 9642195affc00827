//! Samples, the inputs of a model: named arrays, one [`Feed`] for each run; consecutive runs that carry a state form one
//! [`Stream`].
//!
//! A *feed* gives each graph input a value, as `feed` does in the runtimes. A model that keeps its state outside (an
//! output `stateN` that the caller hands back as input `state`) is run on streams: [`Carry`] says which output goes
//! into which input of the next step. The first feed of a stream holds the state at the start, which is zeros unless the
//! samples give another; later feeds lack the carried inputs. Without a carry every feed is a stream of its own.

mod batch;
mod carry;
mod npy;
mod npz;
mod random;
mod read;
pub(crate) mod signature;
mod state;
mod tensor;

pub use carry::Carry;
pub use random::{Random, RandomOptions, indexed};
pub use signature::{AxisSize, Port, Signature};
pub use tensor::Tensor;

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Model;
use ndarray::ArrayD;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The inputs of one run: graph input name to value.
pub type Feed = BTreeMap<String, Tensor>;

/// Labels of one run: graph output name to class indices, in the shape of the output without its axis of classes. A
/// negative label excludes its element from the cross-entropy.
pub type Labels = BTreeMap<String, ArrayD<i64>>;

/// Feeds that follow one another in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    /// Where it comes from, for messages: a file's path, with a row where the file holds several samples.
    pub origin: String,
    /// The steps in order; a single one where nothing is carried. Only the first holds carried inputs.
    pub feeds: Vec<Feed>,
    /// Labels of each feed; empty without labels.
    pub labels: Vec<Labels>,
}

/// All samples of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Independent of each other, in the order of the arguments and files.
    pub streams: Vec<Stream>,
    /// The states that are carried from one step of a stream to the next; empty if each stream has one feed.
    pub carry: Vec<Carry>,
    /// They were drawn from the model's declarations: nobody gave them.
    pub made_up: bool,
    /// What was done to the arrays of the files to make them samples.
    pub notes: Vec<String>,
}

impl Samples {
    /// Reads samples of a model without carried states from a file or directory; [`read`](Self::read) takes several.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(model: &Model, path: impl AsRef<Path>) -> Result<Samples> {
        Samples::read(&[path.as_ref().to_owned()], &Signature::of(model)?, &[])
    }

    /// Reads samples from files and directories, in the order given:
    ///
    /// - `.npz`: arrays under the names of the inputs. An array with one axis more than its input holds samples along
    ///   axis 0; one without is the same for every sample of the file. Inputs with a carry need not be there.
    /// - `.npy`: the input of a model that has only one.
    /// - a directory with `input_0.pb`, ...: one sample; a tensor is the input that it names, else the one of its number.
    /// - another directory: its `.npz` and `.npy` files in name order, then its `test_data_set_N` in number order.
    ///
    /// With a carry each file is one stream, else each sample. Where the only sample is a batch, its rows are the samples.
    /// Floats of another width than the input's are converted; `notes` say so.
    ///
    /// # Errors
    /// [`ErrorKind::Samples`] for an array that does not fit the model or a broken file, naming file and array;
    /// [`ErrorKind::Usage`] for a carry that does not fit the model; [`ErrorKind::Io`].
    pub fn read(paths: &[PathBuf], signature: &Signature, carry: &[Carry]) -> Result<Samples> {
        read::read(paths, signature, carry)
    }

    /// Adds the labels of `output` from a file: the array of that name, or the only one. Either one axis 0 for all
    /// feeds and then the output's shape less its last axis, or that shape alone if there is one feed.
    ///
    /// # Errors
    /// [`ErrorKind::Samples`] if the array is not of integers or not one label set for each feed.
    pub fn add_labels(&mut self, output: &str, path: &Path) -> Result<()> {
        let fail = |message: String| Err(Error::new(ErrorKind::Samples, message).at_tensor(output).in_file(path));
        let tensor = read::read_array(path, output)?;
        let Some(labels) = tensor.to_i64() else {
            return fail(format!("labels are integers, not {}", tensor.element().as_str_name()));
        };
        let count = self.len();
        let rows: Vec<ArrayD<i64>> = match labels.shape().first() {
            Some(&rows) if rows == count => labels.outer_iter().map(|row| row.to_owned()).collect(),
            _ if count == 1 => vec![labels],
            _ => return fail(format!("labels of shape {:?}, but there are {count} samples", labels.shape())),
        };
        let mut rows = rows.into_iter();
        for stream in &mut self.streams {
            stream.labels.resize(stream.feeds.len(), Labels::new());
            for (labels, row) in stream.labels.iter_mut().zip(&mut rows) {
                labels.insert(output.to_owned(), row);
            }
        }
        Ok(())
    }

    /// The number of runs: feeds over all streams.
    pub fn len(&self) -> usize {
        self.streams.iter().map(|s| s.feeds.len()).sum()
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the largest feed.
    pub fn largest_bytes(&self) -> u64 {
        self.feeds().map(|feed| feed.values().map(Tensor::bytes).sum()).max().unwrap_or(0)
    }

    /// All feeds, stream after stream.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.streams.iter().flat_map(|s| &s.feeds)
    }

    /// Splits off the last `1 / parts` of the feeds, at least one: `(the rest, the part held out)`. `None` if there is
    /// only one feed, which cannot be both.
    ///
    /// The cut is in the order of the feeds. If it falls into a stream, the stream is cut in time, and its held-out part
    /// begins with states of zeros.
    ///
    /// # Panics
    /// If `parts` is zero.
    pub fn hold_out(&self, parts: usize) -> Option<(Samples, Samples)> {
        let total = self.len();
        if total < 2 {
            return None;
        }
        let held = (total / parts).max(1);
        let (first, second) = self.cut(total - held);
        Some((first, second))
    }

    /// The feeds before `at` and those from there on.
    fn cut(&self, at: usize) -> (Samples, Samples) {
        let mut before = Samples {
            streams: Vec::new(),
            carry: self.carry.clone(),
            made_up: self.made_up,
            notes: self.notes.clone(),
        };
        let mut after = before.clone();
        let mut seen = 0;
        for stream in &self.streams {
            let steps = at.saturating_sub(seen).min(stream.feeds.len());
            seen += stream.feeds.len();
            if steps > 0 {
                before.streams.push(stream.steps(0..steps, &self.carry));
            }
            if steps < stream.feeds.len() {
                after.streams.push(stream.steps(steps..stream.feeds.len(), &self.carry));
            }
        }
        (before, after)
    }

    /// A representative part of about `count` feeds: whole samples, or the first steps of streams, evenly spread.
    /// All feeds if there are no more than `count`.
    pub fn subset(&self, count: usize) -> Samples {
        if self.len() <= count {
            return self.clone();
        }
        let streams = count.clamp(1, self.streams.len());
        let steps = count.div_ceil(streams);
        let spread = (0..streams).map(|i| &self.streams[i * self.streams.len() / streams]);
        let first_steps = |s: &Stream| s.steps(0..steps.min(s.feeds.len()), &self.carry);
        Samples {
            streams: spread.map(first_steps).collect(),
            carry: self.carry.clone(),
            made_up: self.made_up,
            notes: Vec::new(),
        }
    }

    /// A description: `16 samples` or `300 steps in 2 streams`.
    pub fn describe(&self) -> String {
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        if self.carry.is_empty() {
            return plural(self.len(), "sample");
        }
        format!("{} in {}", plural(self.len(), "step"), plural(self.streams.len(), "stream"))
    }
}

impl Stream {
    /// Some of the steps as a stream of its own.
    fn steps(&self, range: std::ops::Range<usize>, carry: &[Carry]) -> Stream {
        let mut feeds = self.feeds[range.clone()].to_vec();
        if range.start > 0 {
            for Carry { input, .. } in carry {
                let start = self.feeds[0].get(input).and_then(|t| Tensor::zeros(t.element(), t.shape()));
                feeds[0].extend(start.map(|zeros| (input.clone(), zeros)));
            }
        }
        let labels = self.labels.get(range).unwrap_or_default().to_vec();
        Stream { origin: self.origin.clone(), feeds, labels }
    }
}
