//! What a model is run on: named arrays, one [`Feed`] per run, consecutive runs of a recurrent state as one [`Stream`].
//!
//! A *feed* gives each graph input a value, as `feed` does in the runtimes. A model that keeps its state outside (an
//! output `stateN` that the caller hands back as input `state`) is run on streams: [`Carry`] says which output goes
//! into which input of the next step, and the state is zeros before the first step. Without a carry every feed is a
//! stream of its own.

mod carry;
mod tensor;

pub use carry::Carry;
pub use tensor::Tensor;

use std::collections::BTreeMap;

/// The inputs of one run: graph input name to value. Carried inputs are absent.
pub type Feed = BTreeMap<String, Tensor>;

/// Feeds that follow one another in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    /// Where it comes from, for messages: a file's path, with a row where the file holds several samples.
    pub origin: String,
    /// The steps in order; a single one where nothing is carried.
    pub feeds: Vec<Feed>,
}

/// All that a model is run on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Independent of each other, in the order of the arguments and files.
    pub streams: Vec<Stream>,
    /// What goes from one step of a stream to the next; empty where every stream has one feed.
    pub carry: Vec<Carry>,
}

impl Samples {
    /// The number of runs: feeds over all streams.
    pub fn len(&self) -> usize {
        self.streams.iter().map(|s| s.feeds.len()).sum()
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All feeds, stream after stream.
    pub fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.streams.iter().flat_map(|s| &s.feeds)
    }
}
