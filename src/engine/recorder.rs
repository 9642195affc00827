//! What the recurrent nodes did during a run, and the weights and biases that a caller put in place of theirs.
//!
//! The operator runs deep inside tract, possibly in the body of an If, where nothing of the caller can be passed to it.
//! A run happens on one thread from begin to end, so the two meet in a thread-local that lives as long as the run.

use super::probe::{Constant, ConstantId, TapId};
use crate::cell::{Kind, Spec};
use crate::error::Result;
use crate::recurrent::Matrix;
use crate::samples::Tensor as Sample;
use ndarray::Array3;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;
use tract_onnx::prelude::{IntoArcTensor, TValue, Tensor, TractResult};

/// Weights and biases that replace the model's, by number of the recurrent node.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// W and R `[dirs, G*H, n]`.
    pub weights: BTreeMap<(usize, Matrix), Arc<Array3<f32>>>,
    /// Constants of the engine's [`Probes`](super::Probes), by number.
    pub constants: BTreeMap<ConstantId, Constant>,
    /// B `[dirs, 2*G*H]`, row-major; of a node that has none it is not looked at.
    pub biases: BTreeMap<usize, Arc<Vec<f32>>>,
}

/// Numbers that belong to somebody else: a part of the model's weights, or of those put in their place. Costs nothing to
/// clone, so that a visit does not copy the weights at every step of a stream.
#[derive(Clone, Debug)]
pub struct Floats {
    whole: Whole,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum Whole {
    Tensor(Arc<Tensor>),
    Array(Arc<Array3<f32>>),
    Vector(Arc<Vec<f32>>),
}

impl Floats {
    /// All of a tensor that lies in memory as single-precision numbers; converted if it does not.
    pub(super) fn of_tensor(value: &TValue) -> TractResult<Floats> {
        let tensor = match value.cast_to::<f32>()? {
            Cow::Borrowed(_) => value.clone().into_arc_tensor(),
            Cow::Owned(tensor) => Arc::new(tensor),
        };
        let len = tensor.try_as_plain_ram()?.as_slice::<f32>()?.len();
        Ok(Floats { whole: Whole::Tensor(tensor), range: 0..len })
    }

    /// All of an array, in row-major order.
    pub(super) fn of_array(array: Arc<Array3<f32>>) -> Floats {
        let len = array.len();
        if array.is_standard_layout() {
            return Floats { whole: Whole::Array(array), range: 0..len };
        }
        array.iter().copied().collect::<Vec<f32>>().into()
    }

    /// Part `index` of equal parts of `len` numbers.
    pub(super) fn part(&self, index: usize, len: usize) -> Floats {
        let start = self.range.start + index * len;
        assert!(start + len <= self.range.end, "part {index} of {len} numbers is beyond the end");
        Floats { whole: self.whole.clone(), range: start..start + len }
    }
}

impl From<Vec<f32>> for Floats {
    fn from(vector: Vec<f32>) -> Floats {
        Arc::new(vector).into()
    }
}

impl From<Arc<Vec<f32>>> for Floats {
    fn from(vector: Arc<Vec<f32>>) -> Floats {
        let range = 0..vector.len();
        Floats { whole: Whole::Vector(vector), range }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let all = match &self.whole {
            Whole::Tensor(tensor) => {
                let plain = tensor.try_as_plain_ram().and_then(|plain| plain.as_slice::<f32>());
                plain.expect("the tensor was seen to be plain when this was made")
            }
            Whole::Array(array) => array.as_slice().expect("the array was seen to be row-major when this was made"),
            Whole::Vector(vector) => vector,
        };
        &all[self.range.clone()]
    }
}

/// Is shown each run of each recurrent node.
pub trait Tap: Sync {
    /// A recurrent node has run once over its sequences.
    fn visit(&self, visit: &Visit);

    /// A tapped value was computed once.
    fn value(&self, _id: TapId, _value: &Sample) {}
}

/// One run of one recurrent node.
#[derive(Debug)]
pub struct Visit {
    /// The number of the node.
    pub node: usize,
    /// Which cell.
    pub kind: Kind,
    /// Hidden units `H`.
    pub hidden: usize,
    /// Inputs `I`.
    pub inputs: usize,
    /// Steps `T`.
    pub steps: usize,
    /// Sequences `B`.
    pub batch: usize,
    /// Valid steps of each sequence; `None` if all of them are.
    pub lengths: Option<Vec<usize>>,
    /// `X [T, B, I]`, whatever the node's layout.
    pub x: Vec<f32>,
    /// One for each direction.
    pub passes: Vec<Pass>,
}

/// One direction of a [`Visit`].
#[derive(Debug)]
pub struct Pass {
    /// What it computes.
    pub spec: Spec,
    /// From the last valid step to the first.
    pub reverse: bool,
    /// `W [G*H, I]`, as it was used.
    pub w: Floats,
    /// `R [G*H, H]`, as it was used.
    pub r: Floats,
    /// `b [2*G*H]`.
    pub b: Option<Floats>,
    /// `P [3*H]`.
    pub p: Option<Floats>,
    /// `H_0 [B, H]`.
    pub initial_h: Vec<f32>,
    /// `C_0 [B, H]`; empty but for an LSTM.
    pub initial_c: Vec<f32>,
    /// `Y [T, B, H]`, zeros at steps that are not valid.
    pub y: Vec<f32>,
    /// LSTM: `C [T, B, H]`. GRU with `linear_before_reset`: `H R^T + Rb` of gate `h`, `[T, B, H]`.
    pub inner: Vec<f32>,
    /// The activated gates, `[T, B, G*H]`.
    pub gates: Vec<f32>,
}

impl Visit {
    /// Whether step `t` of sequence `b` is within the sequence.
    pub fn is_valid(&self, t: usize, b: usize) -> bool {
        self.lengths.as_ref().is_none_or(|lengths| t < lengths[b])
    }

    /// The vectors that W multiplied: `X` at the valid steps, row after row.
    pub fn inputs(&self) -> Vec<f32> {
        match self.lengths {
            None => self.x.clone(),
            Some(_) => self.valid_rows(self.inputs, |t, b| &self.x[(t * self.batch + b) * self.inputs..]),
        }
    }

    /// The vectors that R multiplied in one direction: the states before each valid step, row after row.
    pub fn states_before(&self, pass: &Pass) -> Vec<f32> {
        self.valid_rows(self.hidden, |t, b| self.state_before(pass, t, b))
    }

    /// GRU without `linear_before_reset`: the vectors that R of gate `h` multiplied, `r (.) H`. `None` for other cells,
    /// where every gate's R multiplies the same vectors.
    pub fn reset_states(&self, pass: &Pass) -> Option<Vec<f32>> {
        if self.kind != (Kind::Gru { linear_before_reset: false }) {
            return None;
        }
        let mut states = self.states_before(pass);
        let r =
            self.valid_rows(self.hidden, |t, b| &pass.gates[(t * self.batch + b) * 3 * self.hidden + self.hidden..]);
        states.iter_mut().zip(r).for_each(|(h, r)| *h *= r);
        Some(states)
    }

    /// `H` of a sequence before a valid step, `[H]`.
    pub fn state_before<'a>(&self, pass: &'a Pass, t: usize, b: usize) -> &'a [f32] {
        self.before(&pass.y, &pass.initial_h, pass.reverse, t, b)
    }

    /// `C` of a sequence before a valid step, `[H]`; empty but for an LSTM.
    pub fn cell_before<'a>(&self, pass: &'a Pass, t: usize, b: usize) -> &'a [f32] {
        if !self.kind.has_cell_state() {
            return &[];
        }
        self.before(&pass.inner, &pass.initial_c, pass.reverse, t, b)
    }

    fn before<'a>(&self, rows: &'a [f32], initial: &'a [f32], reverse: bool, t: usize, b: usize) -> &'a [f32] {
        let row = |t: usize| &rows[(t * self.batch + b) * self.hidden..][..self.hidden];
        let initial = &initial[b * self.hidden..][..self.hidden];
        if reverse {
            let last = self.lengths.as_ref().map_or(self.steps, |lengths| lengths[b]) - 1;
            if t == last { initial } else { row(t + 1) }
        } else if t == 0 {
            initial
        } else {
            row(t - 1)
        }
    }

    fn valid_rows<'a>(&self, width: usize, row: impl Fn(usize, usize) -> &'a [f32]) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.steps * self.batch * width);
        for (t, b) in (0..self.steps).flat_map(|t| (0..self.batch).map(move |b| (t, b))) {
            if self.is_valid(t, b) {
                rows.extend_from_slice(&row(t, b)[..width]);
            }
        }
        rows
    }
}

/// What one run wants of the operators and gets from them.
#[derive(Default)]
struct Recorder {
    record: bool,
    /// The former go before the latter.
    overrides: [Overrides; 2],
    visits: Vec<Visit>,
    values: Vec<(TapId, Sample)>,
}

/// What the operators of one run recorded, each in the order in which they ran.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) visits: Vec<Visit>,
    pub(super) values: Vec<(TapId, Sample)>,
}

thread_local! {
    static CURRENT: RefCell<Recorder> = RefCell::default();
}

/// Runs `work` with what is put in place, the former before the latter, and returns what the operators recorded.
pub(super) fn during<T>(
    record: bool,
    overrides: [&Overrides; 2],
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Recorded)> {
    CURRENT.set(Recorder { record, overrides: overrides.map(Clone::clone), ..Recorder::default() });
    let result = work();
    let Recorder { visits, values, .. } = CURRENT.take();
    Ok((result?, Recorded { visits, values }))
}

/// Whether visits are wanted.
pub(super) fn records() -> bool {
    CURRENT.with_borrow(|recorder| recorder.record)
}

/// Hands over a visit.
pub(super) fn record(visit: Visit) {
    CURRENT.with_borrow_mut(|recorder| recorder.visits.push(visit));
}

/// Hands over a tapped value.
pub(super) fn record_value(number: usize, value: Sample) {
    CURRENT.with_borrow_mut(|recorder| recorder.values.push((TapId(number), value)));
}

/// The tensor to use as a constant.
pub(super) fn constant(number: usize) -> Option<Constant> {
    let id = ConstantId(number);
    CURRENT.with_borrow(|recorder| recorder.overrides.iter().find_map(|all| all.constants.get(&id).cloned()))
}

/// The weights to use in place of the model's.
pub(super) fn weights(node: usize, matrix: Matrix) -> Option<Arc<Array3<f32>>> {
    CURRENT.with_borrow(|recorder| recorder.overrides.iter().find_map(|all| all.weights.get(&(node, matrix)).cloned()))
}

/// The B to use in place of the model's.
pub(super) fn bias(node: usize) -> Option<Arc<Vec<f32>>> {
    CURRENT.with_borrow(|recorder| recorder.overrides.iter().find_map(|all| all.biases.get(&node).cloned()))
}
