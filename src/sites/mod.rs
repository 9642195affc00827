//! Sites: the blocks of constant matrices that can be coded, and the vectors that they multiply.
//!
//! A *site* is a block of rows of a constant tensor together with the vector that its columns multiply: one gate of W or R
//! in one direction of a recurrent node. It is what is coded, what gets a budget and what a report lists. Providers find
//! sites (here [`recurrent`](crate::recurrent)); curves, sensitivities, allocation and coding know sites only. What runs, tunes
//! or writes whole recurrent nodes asks the [survey](crate::recurrent::Survey) that the sites were made of.
//!
//! Invariants: the sites of a tensor cover all of its rows, each once, in the order of the rows; and sites of the same
//! [`InputId`] multiply the same vector, so that they have one second moment.

mod per_site;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use ndarray::{Array3, ArrayView2, ArrayViewMut2, Axis, Slice};

pub use per_site::PerSite;

use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ElementType, Model};
use crate::recurrent::{
    self, Cell, Constants, FindOptions, GateBlock, Matrix, RecurrentNode, Survey, Vector, WeightUse,
};

/// A site, by its place in [`Sites::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// A constant tensor that is cut into sites, by its place in [`Survey::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// A vector that sites multiply, by its place in [`Sites::inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputId(pub usize);

/// A block of a constant matrix that a linear operator multiplies with a vector.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its own number.
    pub id: SiteId,
    /// The constant that it is a block of.
    pub tensor: TensorId,
    /// Its rows in that constant.
    pub block: SiteRows,
    /// The vector that its columns multiply.
    pub input: InputId,
    /// What multiplies it.
    pub consumer: Consumer,
}

/// Rows of a constant of shape `[planes, rows, columns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRows {
    /// Index in the first axis.
    pub plane: usize,
    /// Indices in the second axis.
    pub rows: Range<usize>,
    /// Length of the third axis, all of which belongs to the block.
    pub columns: usize,
}

/// What multiplies a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// A gate of a recurrent node.
    Recurrent(GateBlock),
}

/// A vector that sites multiply, and where a run of the model shows it.
#[derive(Clone, Debug)]
pub struct InputVector {
    /// The recurrent nodes that multiply it, by index in [`Survey::nodes`]: all that use the same constant.
    pub nodes: Vec<usize>,
    /// Which of the vectors of these nodes it is.
    pub vector: Vector,
    /// Its components by the vector that a projection dictionary is made for.
    pub sections: Vec<Section>,
}

/// Components of an input that one projection dictionary serves: those of one direction of the layer that makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The first of them.
    pub start: usize,
    /// How many.
    pub columns: usize,
    /// Which dictionary: R of a layer and W of the next multiply the same states, so that they may share one.
    pub shared: usize,
}

/// What a projection dictionary is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// X of the nodes that use this W.
    Input(TensorId),
    /// The states in a direction of the nodes that use this R, whether or not a gate resets them first: `r (.) H` has the
    /// components of `H`, and the fast form multiplies both by the same atoms.
    State { r: TensorId, direction: usize },
}

impl SiteRows {
    /// Rows and columns.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns]
    }

    /// Weights in the block.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.rows.len() * self.columns
    }

    /// Its rows `[rows, columns]` in a tensor `[planes, rows, columns]`.
    pub fn of<'t>(&self, tensor: &'t Array3<f32>) -> ArrayView2<'t, f32> {
        let mut rows = tensor.index_axis(Axis(0), self.plane);
        rows.slice_axis_inplace(Axis(0), Slice::from(self.rows.clone()));
        rows
    }

    /// As [`of`](Self::of), to be changed.
    pub fn of_mut<'t>(&self, tensor: &'t mut Array3<f32>) -> ArrayViewMut2<'t, f32> {
        let mut rows = tensor.index_axis_mut(Axis(0), self.plane);
        rows.slice_axis_inplace(Axis(0), Slice::from(self.rows.clone()));
        rows
    }
}

impl Site {
    /// The gate block of a recurrent node that it is.
    #[must_use]
    pub fn gate(&self) -> &GateBlock {
        let Consumer::Recurrent(gate) = &self.consumer;
        gate
    }

    /// The sites that it behaves like: the operator, matrix and gate that it is, `LSTM R f`.
    #[must_use]
    pub fn kind(&self) -> SiteKind {
        let gate = self.gate();
        SiteKind { cell: gate.cell, matrix: gate.matrix, gate: gate.gate }
    }
}

/// What sites have in common that behave alike, for where nothing was measured: fine-tuning removes about the same share of
/// the errors of all sites of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteKind {
    /// The operator.
    pub cell: Cell,
    /// W or R.
    pub matrix: Matrix,
    /// The gate.
    pub gate: &'static str,
}

impl fmt::Display for Site {
    /// `node/R/forward/f`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gate().fmt(f)
    }
}

/// All sites of a model: where they are, not what they hold.
#[derive(Clone, Debug)]
pub struct Sites {
    /// The recurrent nodes and their constants.
    pub survey: Survey,
    /// Tensor by tensor, then by plane, then by row.
    pub all: Vec<Site>,
    /// The vectors that they multiply.
    pub inputs: Vec<InputVector>,
}

impl Sites {
    /// Finds the sites of a model.
    ///
    /// # Errors
    /// As [`recurrent::find`]; [`ErrorKind::NothingToDo`] if there is none, with the reasons.
    pub fn find(model: &Model, options: &FindOptions) -> Result<Sites> {
        let survey = recurrent::find(model, options)?;
        if survey.nodes.is_empty() {
            let reason = match survey.skipped.first() {
                None => "the model has no LSTM, GRU or RNN node".to_owned(),
                Some(first) => {
                    format!("no recurrent node can be compressed; '{}' ({}): {}", first.node, first.op, first.reason)
                }
            };
            return Err(Error::new(ErrorKind::NothingToDo, format!("nothing to compress: {reason}")));
        }
        Ok(Sites::of(survey))
    }

    /// The sites of the nodes that were found.
    #[must_use]
    pub fn of(survey: Survey) -> Sites {
        let mut sites = Sites { survey, all: Vec::new(), inputs: Vec::new() };
        let mut known: BTreeMap<(TensorId, Vector), InputId> = BTreeMap::new();
        let mut shared: Vec<Shared> = Vec::new();
        for tensor in (0..sites.survey.weights.len()).map(TensorId) {
            let WeightUse { node, matrix } = sites.survey.weights[tensor.0].uses[0];
            for gate in sites.survey.nodes[node].blocks_of(matrix) {
                let vector = sites.survey.nodes[node].vector(&gate);
                let input = *known.entry((tensor, vector)).or_insert_with(|| {
                    let nodes = sites.survey.weights[tensor.0].uses.iter().map(|used| used.node).collect();
                    let sections = sections(&sites.survey, tensor, vector, gate.columns, &mut shared);
                    sites.inputs.push(InputVector { nodes, vector, sections });
                    InputId(sites.inputs.len() - 1)
                });
                let block = SiteRows { plane: gate.direction_index, rows: gate.rows(), columns: gate.columns };
                let consumer = Consumer::Recurrent(gate);
                sites.all.push(Site { id: SiteId(sites.all.len()), tensor, block, input, consumer });
            }
        }
        sites
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their numbers, in order.
    pub fn ids(&self) -> impl Iterator<Item = SiteId> + Clone + use<> {
        (0..self.all.len()).map(SiteId)
    }

    /// A site by its number.
    #[must_use]
    pub fn get(&self, id: SiteId) -> &Site {
        &self.all[id.0]
    }

    /// A value for each site.
    pub fn map<T>(&self, value: impl FnMut(&Site) -> T) -> PerSite<T> {
        self.all.iter().map(value).collect()
    }

    /// The sites of a tensor, in the order of its rows.
    pub fn of_tensor(&self, tensor: TensorId) -> impl Iterator<Item = &Site> + Clone {
        self.all.iter().filter(move |site| site.tensor == tensor)
    }

    /// The sites by the tensor that they are blocks of.
    pub fn by_tensor(&self) -> impl Iterator<Item = &[Site]> {
        self.all.chunk_by(|a, b| a.tensor == b.tensor)
    }

    /// The tensors that are cut into sites.
    pub fn tensors(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.survey.weights.len()).map(TensorId)
    }

    /// The parts of the input of a site that projection dictionaries are made for.
    #[must_use]
    pub fn sections(&self, id: SiteId) -> &[Section] {
        &self.inputs[self.get(id).input.0].sections
    }

    /// The vectors that a tensor multiplies in a step.
    #[must_use]
    pub fn vectors(&self, tensor: TensorId) -> usize {
        let mut inputs: Vec<Vector> =
            self.of_tensor(tensor).map(|site| self.inputs[site.input.0].vector.in_first_direction()).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.len()
    }

    /// The node that a site is named after.
    #[must_use]
    pub fn node(&self, id: SiteId) -> &RecurrentNode {
        &self.survey.nodes[self.survey.weights[self.get(id).tensor.0].uses[0].node]
    }

    /// Bytes of one weight of a site as a dense value.
    #[must_use]
    pub fn element_bytes(&self, id: SiteId) -> u64 {
        u64::from(self.element(self.get(id).tensor).bits().unwrap_or(32)) / 8
    }

    /// The element type of a tensor.
    #[must_use]
    pub fn element(&self, tensor: TensorId) -> ElementType {
        self.survey.source(&self.survey.weights[tensor.0]).element
    }

    /// Weights in all sites.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.all.iter().map(|site| site.block.weights() as u64).sum()
    }
}

/// The sections of an input, given the vectors that dictionaries are made for so far.
fn sections(
    survey: &Survey,
    tensor: TensorId,
    vector: Vector,
    columns: usize,
    known: &mut Vec<Shared>,
) -> Vec<Section> {
    let mut number = |shared| {
        known.iter().position(|&other| other == shared).unwrap_or_else(|| {
            known.push(shared);
            known.len() - 1
        })
    };
    let state = |r, direction| Shared::State { r, direction };
    let feeder = survey.feeder(survey.weights[tensor.0].uses[0].node);
    let whole = match vector {
        Vector::State(direction) | Vector::ResetState(direction) => state(tensor, direction),
        Vector::Input => match feeder.and_then(|node| Some((node, survey.weight_of(node, Matrix::R)?))) {
            Some((node, r)) => {
                let attributes = &survey.nodes[node].attributes;
                let columns = attributes.hidden;
                let section = |d: usize| Section { start: d * columns, columns, shared: number(state(TensorId(r), d)) };
                return (0..attributes.direction.count()).map(section).collect();
            }
            None => Shared::Input(tensor),
        },
    };
    vec![Section { start: 0, columns, shared: number(whole) }]
}

/// Sites with the values of their weights.
#[derive(Clone, Debug)]
pub struct Weights {
    sites: Sites,
    /// `[planes, rows, columns]` of each tensor.
    values: Vec<Arc<Array3<f32>>>,
}

impl Deref for Weights {
    type Target = Sites;

    fn deref(&self) -> &Sites {
        &self.sites
    }
}

impl Weights {
    /// Reads the weights of all sites; `held` gives W or R of a node where the caller holds it already.
    ///
    /// # Errors
    /// Those of reading their tensors.
    pub fn read(
        model: &Model,
        sites: Sites,
        held: impl Fn(&RecurrentNode, Matrix) -> Option<Arc<Array3<f32>>>,
    ) -> Result<Weights> {
        let survey = &sites.survey;
        let mut constants = Constants::new(model)?;
        let mut read = |weight: &recurrent::Weight| {
            let WeightUse { node, matrix } = weight.uses[0];
            held(&survey.nodes[node], matrix).map_or_else(|| constants.values(survey.source(weight)).map(Arc::new), Ok)
        };
        let values = survey.weights.iter().map(&mut read).collect::<Result<_>>()?;
        Ok(Weights { sites, values })
    }

    /// Finds the sites of a model and reads their weights.
    ///
    /// # Errors
    /// As [`Sites::find`] and [`read`](Self::read).
    pub fn find(model: &Model, options: &FindOptions) -> Result<Weights> {
        Weights::read(model, Sites::find(model, options)?, |_, _| None)
    }

    /// Where they are.
    #[must_use]
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// The values of a tensor, `[planes, rows, columns]`.
    #[must_use]
    pub fn values(&self, tensor: TensorId) -> &Arc<Array3<f32>> {
        &self.values[tensor.0]
    }

    /// The rows of a site, `[rows, columns]`.
    #[must_use]
    pub fn rows(&self, id: SiteId) -> ArrayView2<'_, f32> {
        let site = self.get(id);
        site.block.of(&self.values[site.tensor.0])
    }
}
