//! Sites: the blocks of constant matrices that can be coded, and the vectors that they multiply.
//!
//! A *site* is a block of rows of a constant tensor together with the vector that its columns multiply: one gate of W or R
//! in one direction of a recurrent node, or the matrix of a Gemm, MatMul, Conv, ConvTranspose or Gather. It is what is coded,
//! what gets a budget and what a report lists. Providers ([`recurrent`](crate::recurrent), [`linear`](crate::linear)) find
//! the nodes; curves, sensitivities, allocation and coding know sites only. What runs, tunes or writes whole recurrent nodes
//! asks the [survey](crate::recurrent::Survey) that their sites were made of.
//!
//! Invariants: the sites of a tensor cover all of its rows, each once, in the order of the rows; and sites of the same
//! [`InputId`] multiply the same vector, so that they have one second moment.

mod per_site;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use ndarray::{Array3, ArrayView2, ArrayViewMut2, Axis, Slice};

pub use per_site::PerSite;

use crate::dictionary::Grid;
use crate::error::{Error, ErrorKind, Result};
use crate::linear::{self, LinearKind, LinearNode};
use crate::onnx::{ElementType, Model, NodeInput, Scope};
use crate::recurrent::{
    self, Cell, Constants, FindOptions, GateBlock, Matrix, RecurrentNode, Source, Survey, Vector, Weight, WeightUse,
};

/// A site, by its place in [`Sites::all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// A constant tensor that is cut into sites: those of [`Survey::weights`], then those of [`Sites::matrices`].
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
    /// A linear node: the first that reads the constant, by its index in [`Sites::linear`].
    Linear(usize),
}

/// A vector that sites multiply, and where a run of the model shows it.
#[derive(Clone, Debug)]
pub struct InputVector {
    /// Who multiplies it: all that use the same constant.
    pub of: InputOf,
    /// Components.
    pub size: usize,
    /// Its components by the vector that a projection dictionary is made for.
    pub sections: Vec<Section>,
}

/// Where a run of the model shows an [`InputVector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputOf {
    /// One of the vectors of recurrent nodes.
    Recurrent {
        /// The nodes, by index in [`Survey::nodes`].
        nodes: Vec<usize>,
        /// Which of their vectors.
        vector: Vector,
    },
    /// What linear nodes multiply, by index in [`Sites::linear`].
    Linear(Vec<usize>),
}

/// A node that reads a constant which is cut into sites.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'s> {
    /// The graph that it is in.
    pub scope: &'s Scope,
    /// Its index in that graph.
    pub index: usize,
    /// Which of its inputs the constant is.
    pub input: usize,
    /// The name of the node that multiplies it: another than the reader where that is a DequantizeLinear.
    pub name: &'s str,
    /// The operator of that node.
    pub operator: &'static str,
    /// The operators whose bodies it is in, from the outside inwards.
    pub bodies: &'s [String],
    /// Where the constant comes from, as this node reads it.
    pub source: &'s Source,
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
    /// The gate block of a recurrent node that it is, if it is one.
    #[must_use]
    pub fn gate(&self) -> Option<&GateBlock> {
        match &self.consumer {
            Consumer::Recurrent(gate) => Some(gate),
            Consumer::Linear(_) => None,
        }
    }
}

/// What sites have in common that behave alike, for where nothing was measured: fine-tuning removes about the same share of
/// the errors of all sites of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteKind {
    /// A gate of W or R of a recurrent operator: `LSTM R f`.
    Gate {
        /// The operator.
        cell: Cell,
        /// W or R.
        matrix: Matrix,
        /// The gate.
        gate: &'static str,
    },
    /// The matrix of another operator.
    Linear(LinearKind),
}

/// Where a site is, for plans and reports: the node, the tensor, and for a gate its direction and letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SitePlace {
    /// Name of the node.
    pub node: String,
    /// `W`, `R` or `weight`.
    pub tensor: String,
    /// `forward` or `reverse`; empty but for a gate.
    pub direction: String,
    /// The letter of the gate; empty but for a gate.
    pub gate: String,
}

impl fmt::Display for SitePlace {
    /// `node/R/forward/f`, or `node/weight`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.tensor)?;
        let parts = [&self.direction, &self.gate];
        parts.into_iter().filter(|part| !part.is_empty()).try_for_each(|part| write!(f, "/{part}"))
    }
}

/// All sites of a model: where they are, not what they hold.
#[derive(Clone, Debug)]
pub struct Sites {
    /// The recurrent nodes and their constants.
    pub survey: Survey,
    /// The other nodes with constant weights.
    pub linear: Vec<LinearNode>,
    /// The distinct matrices of these, each by the nodes that read it; at least one.
    pub matrices: Vec<Vec<usize>>,
    /// Tensor by tensor, then by plane, then by row.
    pub all: Vec<Site>,
    /// The vectors that they multiply.
    pub inputs: Vec<InputVector>,
}

impl Sites {
    /// Finds the sites of a model.
    ///
    /// # Errors
    /// As [`recurrent::find`] and [`linear::find`]; [`ErrorKind::NothingToDo`] if there is none, with the reasons.
    pub fn find(model: &Model, options: &FindOptions) -> Result<Sites> {
        Sites::all(model, options)?.not_empty(options)
    }

    /// Itself, if there is any.
    ///
    /// # Errors
    /// [`ErrorKind::NothingToDo`] if there is none, with a reason.
    pub fn not_empty(self, options: &FindOptions) -> Result<Sites> {
        if self.is_empty() {
            let survey = &self.survey;
            let reason = match survey.skipped.first() {
                None if options.recurrent_only => "the model has no LSTM, GRU or RNN node".to_owned(),
                None => "the model has no node with enough constant weights".to_owned(),
                Some(first) => {
                    let none = match options.recurrent_only {
                        true => "no recurrent node can be compressed",
                        false => "no node can be compressed",
                    };
                    format!("{none}; '{}' ({}): {}", first.node, first.op, first.reason)
                }
            };
            return Err(Error::new(ErrorKind::NothingToDo, format!("nothing to compress: {reason}")));
        }
        Ok(self)
    }

    /// The sites of a model, of which there may be none.
    ///
    /// # Errors
    /// As [`recurrent::find`] and [`linear::find`]; [`ErrorKind::Usage`] for a pattern that no node's name matches.
    pub fn all(model: &Model, options: &FindOptions) -> Result<Sites> {
        let mut survey = recurrent::find(model, options)?;
        let (linear, others) = match options.recurrent_only {
            true => (linear::LinearSurvey::default(), Vec::new()),
            false => (linear::find(model, options)?, linear::names(model)),
        };
        survey.skipped.extend(linear.skipped);
        let skipped = survey.skipped.iter().map(|skipped| skipped.node.as_str());
        let names = survey.nodes.iter().map(|node| node.name.as_str()).chain(skipped);
        recurrent::check_patterns(&names.chain(others.iter().map(String::as_str)).collect::<Vec<_>>(), options)?;
        Sites::of(model, survey, linear.nodes)
    }

    /// The sites of the nodes that were found.
    ///
    /// # Errors
    /// Those of reading weights that may be equal.
    pub fn of(model: &Model, survey: Survey, linear: Vec<LinearNode>) -> Result<Sites> {
        let matrices = distinct(model, &linear)?;
        let mut sites = Sites { survey, linear, matrices, all: Vec::new(), inputs: Vec::new() };
        let mut known: BTreeMap<(TensorId, Vector), InputId> = BTreeMap::new();
        let mut shared: Vec<Shared> = Vec::new();
        for tensor in (0..sites.survey.weights.len()).map(TensorId) {
            let WeightUse { node, matrix } = sites.survey.weights[tensor.0].uses[0];
            for gate in sites.survey.nodes[node].blocks_of(matrix) {
                let vector = sites.survey.nodes[node].vector(&gate);
                let input = *known.entry((tensor, vector)).or_insert_with(|| {
                    let nodes = sites.survey.weights[tensor.0].uses.iter().map(|used| used.node).collect();
                    let sections = sections(&sites.survey, tensor, vector, gate.columns, &mut shared);
                    let of = InputOf::Recurrent { nodes, vector };
                    sites.inputs.push(InputVector { of, size: gate.columns, sections });
                    InputId(sites.inputs.len() - 1)
                });
                let block = SiteRows { plane: gate.direction_index, rows: gate.rows(), columns: gate.columns };
                let consumer = Consumer::Recurrent(gate);
                sites.all.push(Site { id: SiteId(sites.all.len()), tensor, block, input, consumer });
            }
        }
        for (place, nodes) in sites.matrices.iter().enumerate() {
            let tensor = TensorId(sites.survey.weights.len() + place);
            let [rows, columns] = sites.linear[nodes[0]].shape();
            let input = InputId(sites.inputs.len());
            let shared = shared.len() + place;
            let sections = vec![Section { start: 0, columns, shared }];
            sites.inputs.push(InputVector { of: InputOf::Linear(nodes.clone()), size: columns, sections });
            let block = SiteRows { plane: 0, rows: 0..rows, columns };
            let consumer = Consumer::Linear(nodes[0]);
            sites.all.push(Site { id: SiteId(sites.all.len()), tensor, block, input, consumer });
        }
        Ok(sites)
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
        (0..self.survey.weights.len() + self.matrices.len()).map(TensorId)
    }

    /// The weight of recurrent nodes that a tensor is, if it is one.
    #[must_use]
    pub fn weight(&self, tensor: TensorId) -> Option<&Weight> {
        self.survey.weights.get(tensor.0)
    }

    /// The linear nodes that read a tensor; none for a weight of recurrent nodes.
    #[must_use]
    pub fn linear_uses(&self, tensor: TensorId) -> &[usize] {
        match tensor.0.checked_sub(self.survey.weights.len()) {
            Some(place) => &self.matrices[place],
            None => &[],
        }
    }

    /// The nodes that read a tensor, at least one.
    pub fn readers(&self, tensor: TensorId) -> impl Iterator<Item = Reader<'_>> {
        let recurrent = self.weight(tensor).into_iter().flat_map(|weight| &weight.uses).map(|used| {
            let node = &self.survey.nodes[used.node];
            Reader {
                scope: &node.scope,
                index: node.index,
                input: used.matrix.input(),
                name: &node.name,
                operator: node.cell.operator(),
                bodies: &node.bodies,
                source: node.source(used.matrix),
            }
        });
        let linear = self.linear_uses(tensor).iter().map(|&node| {
            let node = &self.linear[node];
            Reader {
                scope: &node.weight.scope,
                index: node.weight.node,
                input: node.weight.input,
                name: &node.name,
                operator: node.operator,
                bodies: &node.bodies,
                source: &node.source,
            }
        });
        recurrent.chain(linear)
    }

    /// The first node that reads a tensor: the one that it is named after.
    #[must_use]
    pub fn first_reader(&self, tensor: TensorId) -> Reader<'_> {
        self.readers(tensor).next().expect("a tensor is one that a node reads")
    }

    /// Nodes that read weights which are cut into sites, as places in the graphs of the model.
    pub fn nodes(&self) -> impl Iterator<Item = (Scope, usize)> + '_ {
        let recurrent = self.survey.nodes.iter().map(|node| (node.scope.clone(), node.index));
        recurrent.chain(self.linear.iter().map(|node| (node.scope.clone(), node.index)))
    }

    /// Stored bytes of the weights of all sites, as [`total_bytes`](recurrent::total_bytes) counts them.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        recurrent::total_bytes(self.survey.sources().chain(self.linear.iter().map(|node| &node.source)))
    }

    /// The parts of the input of a site that projection dictionaries are made for.
    #[must_use]
    pub fn sections(&self, id: SiteId) -> &[Section] {
        &self.inputs[self.get(id).input.0].sections
    }

    /// The vectors that a tensor of recurrent nodes multiplies in a step.
    #[must_use]
    pub fn vectors(&self, tensor: TensorId) -> usize {
        let vector = |site: &Site| match &self.inputs[site.input.0].of {
            InputOf::Recurrent { vector, .. } => Some(vector.in_first_direction()),
            InputOf::Linear(_) => None,
        };
        let mut inputs: Vec<Vector> = self.of_tensor(tensor).filter_map(vector).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs.len()
    }

    /// The sites that a site behaves like.
    #[must_use]
    pub fn kind(&self, site: &Site) -> SiteKind {
        match &site.consumer {
            Consumer::Recurrent(gate) => SiteKind::Gate { cell: gate.cell, matrix: gate.matrix, gate: gate.gate },
            Consumer::Linear(node) => SiteKind::Linear(self.linear[*node].kind()),
        }
    }

    /// Where a site is.
    #[must_use]
    pub fn place(&self, site: &Site) -> SitePlace {
        match &site.consumer {
            Consumer::Recurrent(gate) => SitePlace {
                node: gate.node.clone(),
                tensor: gate.matrix.to_string(),
                direction: gate.direction.name().to_owned(),
                gate: gate.gate.to_owned(),
            },
            Consumer::Linear(node) => SitePlace {
                node: self.linear[*node].name.clone(),
                tensor: "weight".to_owned(),
                direction: String::new(),
                gate: String::new(),
            },
        }
    }

    /// Bytes that a site takes where it is not coded: fewer than its values do where these are looked up in a few exact ones.
    #[must_use]
    pub fn dense_bytes(&self, id: SiteId) -> u64 {
        let site = self.get(id);
        let weights = site.block.weights() as u64;
        let source = self.first_reader(site.tensor).source;
        let bits = u64::from(self.element(site.tensor).bits().unwrap_or(32));
        (weights * bits / 8).min(source.stored_bytes() * weights / source.elements().max(1) as u64)
    }

    /// The element type of a tensor.
    #[must_use]
    pub fn element(&self, tensor: TensorId) -> ElementType {
        self.first_reader(tensor).source.element
    }

    /// The integers that a site is made of, if its tensor is of such.
    #[must_use]
    pub fn grid(&self, id: SiteId) -> Option<&Arc<Grid>> {
        let [first, ..] = self.linear_uses(self.get(id).tensor) else { return None };
        self.linear[*first].grid.as_ref()
    }

    /// What shows the vectors of linear nodes, each with the nodes that it shows them of.
    #[must_use]
    pub fn shown(&self) -> Vec<(&NodeInput, Vec<usize>)> {
        let mut shown: Vec<(&NodeInput, Vec<usize>)> = Vec::new();
        let mut known: BTreeMap<&NodeInput, usize> = BTreeMap::new();
        for (index, node) in self.linear.iter().enumerate() {
            let place = *known.entry(&node.data).or_insert(shown.len());
            match shown.get_mut(place) {
                Some((_, nodes)) => nodes.push(index),
                None => shown.push((&node.data, vec![index])),
            }
        }
        shown
    }

    /// Weights in all sites.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.all.iter().map(|site| site.block.weights() as u64).sum()
    }
}

/// The distinct matrices of linear nodes: of the same values, however they lie in the tensors that are read.
fn distinct(model: &Model, linear: &[LinearNode]) -> Result<Vec<Vec<usize>>> {
    let mut constants = Constants::new(model)?;
    let mut matrices: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<([usize; 2], i32, u64), Vec<usize>> = HashMap::new();
    for (index, node) in linear.iter().enumerate() {
        let alike = known.entry((node.shape(), node.source.element as i32, node.hash)).or_default();
        let mut home = None;
        for &place in alike.iter() {
            let other = &linear[matrices[place][0]];
            if other.grid == node.grid && is_same(&mut constants, other, node)? {
                home = Some(place);
                break;
            }
        }
        match home {
            Some(place) => matrices[place].push(index),
            None => {
                alike.push(matrices.len());
                matrices.push(vec![index]);
            }
        }
    }
    Ok(matrices)
}

/// Whether two matrices of one shape and hash have the same values.
fn is_same(constants: &mut Constants<'_>, a: &LinearNode, b: &LinearNode) -> Result<bool> {
    if a.transposed == b.transposed && a.source.is_same_value(&b.source) {
        return Ok(true);
    }
    let mut matrix = |node: &LinearNode| constants.values(&node.source).map(|values| node.matrix(values));
    let (a, b) = match (matrix(a), matrix(b)) {
        (Ok(a), Ok(b)) => (a, b),
        // The budget is spent: to code equal weights twice is no fault.
        (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::Unsupported => return Ok(false),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    Ok(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()))
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
        let mut values = Vec::with_capacity(survey.weights.len() + sites.matrices.len());
        for weight in &survey.weights {
            let WeightUse { node, matrix } = weight.uses[0];
            values.push(match held(&survey.nodes[node], matrix) {
                Some(held) => held,
                None => Arc::new(constants.values(survey.source(weight))?),
            });
        }
        for nodes in &sites.matrices {
            let node = &sites.linear[nodes[0]];
            values.push(Arc::new(node.matrix(constants.values(&node.source)?)));
        }
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
