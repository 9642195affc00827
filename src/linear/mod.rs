//! The Gemm, MatMul, Conv, ConvTranspose and Gather nodes of a model that multiply a constant matrix or look rows of it up,
//! in all its graphs: what they are, and where their weights come from. The operators of integers are among them.
//!
//! Each of them sees its constant as a matrix `[rows, columns]` whose rows are multiplied with a vector of what the node
//! reads: [`LinearOp`] says how the matrix lies in the tensor, and [`LinearNode::vectors`] what it multiplies.
//!
//! Invariant: a listed node has finite weights of a type that is coded, in the shape that its operator wants. Every other
//! node of these operators with a constant of that size is listed with the reason why it is left as it is.

mod dependence;
mod integers;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array3;

pub use window::Window;

use crate::dictionary::Grid;
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::operators;
use crate::onnx::proto::type_proto;
use crate::onnx::tensor::shape;
use crate::onnx::{Definition, ElementType, Model, NodeInput, NodeNames, NodeProto, Origin, Scope, Use, Values};
use crate::recurrent::{
    Budget, FindOptions, Integers, Skipped, Source, Stop, Traced, body_of, hash, three_dimensions, trace,
};
use dependence::Dependence;
use integers::Parameters;

/// Weights below which a constant stays as it is: the nodes that would decode it take as many bytes.
const FEWEST: usize = 256;

/// A node that multiplies a constant matrix.
#[derive(Clone, Debug)]
pub struct LinearNode {
    /// The graph that it is in.
    pub scope: Scope,
    /// Its index in that graph.
    pub index: usize,
    /// A unique, readable name.
    pub name: String,
    /// Its operator.
    pub operator: &'static str,
    /// What it computes.
    pub op: LinearOp,
    /// What reads the tensor: the node, or the DequantizeLinear in front of it.
    pub weight: NodeInput,
    /// The operators whose bodies that is in, from the outside inwards: `If`, `Loop` or `Scan`.
    pub bodies: Vec<String>,
    /// Where its weights come from.
    pub source: Source,
    /// Hash of the elements of its tensor in the order of the matrix. Equal matrices of one type have equal hashes.
    pub hash: u64,
    /// Whether the matrix lies in the tensor by columns.
    pub transposed: bool,
    /// What the integers of the matrix stand for, if its tensor is of integers.
    pub grid: Option<Arc<Grid>>,
    /// What shows the vectors that the matrix multiplies, or the indices of its rows.
    pub data: NodeInput,
    /// What stands for 0 in these vectors; `None` if that is not the same in every run.
    pub zero: Option<f32>,
}

/// What a node does with its matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinearOp {
    /// `A W^T`, or `A W` where `transposed`: input 1 of a Gemm.
    Gemm {
        /// Whether the vectors are columns of A.
        columns: bool,
    },
    /// `X W`: input 1 of a MatMul.
    MatMul,
    /// `W X`: input 0 of a MatMul.
    LeftMatMul,
    /// A convolution; its vectors are windows of the input.
    Conv(Window),
    /// A transposed convolution of one group; its vectors are the channels at each place.
    ConvTranspose,
    /// A transposed convolution of several groups: what its rows multiply is not followed.
    GroupedConvTranspose,
    /// Rows of a table by their index.
    Gather {
        /// The rank of the indices, if the model says it.
        rank: Option<usize>,
    },
}

/// What sites of nodes of an operator have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinearKind {
    /// Gemm and MatMul.
    Matrix,
    /// Conv and ConvTranspose.
    Convolution,
    /// Gather.
    Table,
}

impl LinearNode {
    /// What it behaves like.
    #[must_use]
    pub fn kind(&self) -> LinearKind {
        match self.op {
            LinearOp::Gemm { .. } | LinearOp::MatMul | LinearOp::LeftMatMul => LinearKind::Matrix,
            LinearOp::Conv(_) | LinearOp::ConvTranspose | LinearOp::GroupedConvTranspose => LinearKind::Convolution,
            LinearOp::Gather { .. } => LinearKind::Table,
        }
    }

    /// Rows and columns of the matrix.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        let [_, a, b] = self.source.shape;
        if self.transposed { [b, a] } else { [a, b] }
    }

    /// The matrix `[1, rows, columns]` of the values of its source: of integers what they stand for.
    #[must_use]
    pub fn matrix(&self, values: Array3<f32>) -> Array3<f32> {
        let mut matrix =
            if self.transposed { values.permuted_axes([0, 2, 1]).as_standard_layout().into_owned() } else { values };
        if let Some(grid) = &self.grid {
            let offset = integers::offset(self.source.element);
            matrix.indexed_iter_mut().for_each(|((_, row, _), q)| *q = grid.value(row, (*q - offset) as i8));
        }
        matrix
    }

    /// The values of its source, in their own order, of a matrix `[1, rows, columns]`.
    #[must_use]
    pub fn tensor(&self, matrix: &Array3<f32>) -> Vec<f32> {
        let mut matrix = matrix.view().into_owned();
        if let Some(grid) = &self.grid {
            let offset = integers::offset(self.source.element);
            let integer = |row, value| f32::from(grid.level(row, value)) + offset;
            matrix.indexed_iter_mut().for_each(|((_, row, _), value)| *value = integer(row, *value));
        }
        match self.transposed {
            true => matrix.permuted_axes([0, 2, 1]).iter().copied().collect(),
            false => matrix.into_iter().collect(),
        }
    }

    /// Whether its vectors are known from what it reads.
    #[must_use]
    pub fn has_vectors(&self) -> bool {
        self.zero.is_some() && !matches!(self.op, LinearOp::GroupedConvTranspose | LinearOp::Gather { .. })
    }

    /// At most about `most` of the vectors that the matrix multiplies, one after the other, spread evenly over `values` of
    /// shape `shape` that the node reads. Empty for a shape that the operator does not take.
    #[must_use]
    pub fn vectors(&self, shape: &[usize], values: &[f32], most: usize) -> Vec<f32> {
        let [_, columns] = self.shape();
        match &self.op {
            LinearOp::Conv(window) => window.vectors(shape, values, most),
            // Vectors lie along the last axis, or across it.
            LinearOp::MatMul | LinearOp::Gemm { columns: false } => across(shape, values, (1, columns), most),
            LinearOp::LeftMatMul | LinearOp::Gemm { columns: true } => {
                // One axis is a vector.
                let step = if shape.len() == 1 { 1 } else { shape.last().copied().unwrap_or(0) };
                across(shape, values, (step, columns), most)
            }
            LinearOp::ConvTranspose => across(shape, values, (shape.iter().skip(2).product(), columns), most),
            LinearOp::GroupedConvTranspose | LinearOp::Gather { .. } => Vec::new(),
        }
    }
}

/// Vectors of `columns` numbers, each `step` numbers behind the one before, of values `[.., columns, step]`.
fn across(shape: &[usize], values: &[f32], (step, columns): (usize, usize), most: usize) -> Vec<f32> {
    let block = step * columns;
    if shape.is_empty() || block == 0 || !values.len().is_multiple_of(block) {
        return Vec::new();
    }
    let vectors = values.len() / columns;
    spread(vectors, most)
        .flat_map(|vector| {
            let first = vector / step * block + vector % step;
            (0..columns).map(move |column| values[first + column * step])
        })
        .collect()
}

/// At most `most` of `all` places, evenly spread.
fn spread(all: usize, most: usize) -> impl Iterator<Item = usize> {
    (0..all).step_by(all.div_ceil(most.max(1)).max(1))
}

/// The nodes of a model with constant weights that are not recurrent.
#[derive(Clone, Debug, Default)]
pub struct LinearSurvey {
    /// Those that can be compressed: outer graphs before inner ones, in the order of the nodes.
    pub nodes: Vec<LinearNode>,
    /// Those that are left as they are.
    pub skipped: Vec<Skipped>,
}

/// Finds the nodes of a model with constant weights that are not recurrent. What changes from run to run, or is too small to
/// gain anything, is no weight.
///
/// # Errors
/// Those of reading the model.
pub fn find(model: &Model, options: &FindOptions) -> Result<LinearSurvey> {
    let mut all = LinearSurvey::default();
    let names = NodeNames::new(&model.proto);
    let values = Values::new(&model.proto)?;
    let mut finder = Finder {
        model,
        values: &values,
        options,
        budget: Budget::for_model(model),
        known: HashMap::new(),
        dependences: HashMap::new(),
    };
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            let name = names.get(&scope, index);
            let excluded = options.exclude.iter().chain(&options.skip).any(|pattern| pattern.is_match(name))
                || options.include.as_ref().is_some_and(|include| !include.is_match(name));
            if excluded || !is_standard(node.domain()) {
                continue;
            }
            let place = NodeInput { scope: scope.clone(), node: index, input: 0 };
            match finder.node(&place, name) {
                Ok(node) => all.nodes.push(node),
                Err(Refusal::NoWeight) => {}
                Err(Refusal::Skip { reason, warning }) => {
                    let (node, op) = (name.to_owned(), node.op_type().to_owned());
                    all.skipped.push(Skipped { node, op, reason, warning });
                }
                Err(Refusal::Failed(error)) => return Err(error.at_node(name)),
            }
        }
    }
    Ok(all)
}

/// Why a node is not taken.
#[derive(Clone, Debug)]
enum Refusal {
    /// It has no weight.
    NoWeight,
    /// It has one that is left as it is.
    Skip { reason: String, warning: bool },
    /// The model is broken.
    Failed(Error),
}

type Taken<T> = std::result::Result<T, Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Failed(error)
    }
}

fn skip<T>(reason: impl Into<String>) -> Taken<T> {
    Err(Refusal::Skip { reason: reason.into(), warning: false })
}

fn fault<T>(reason: impl Into<String>) -> Taken<T> {
    Err(Refusal::Skip { reason: reason.into(), warning: true })
}

/// The operator of a node and what it computes, if it is one of those here.
fn operator(node: &NodeProto) -> Option<(&'static str, &'static str)> {
    operators::linear(node.op_type()).filter(|_| is_standard(node.domain()))
}

/// The names of all nodes of these operators, whatever they read.
#[must_use]
pub fn names(model: &Model) -> Vec<String> {
    let names = NodeNames::new(&model.proto);
    let mut found = Vec::new();
    for (scope, graph) in model.graphs() {
        let of_graph = graph.node.iter().enumerate().filter(|(_, node)| operator(node).is_some());
        found.extend(of_graph.map(|(index, _)| names.get(&scope, index).to_owned()));
    }
    found
}

struct Finder<'m> {
    model: &'m Model,
    values: &'m Values<'m>,
    options: &'m FindOptions,
    budget: Budget,
    /// What was followed already, by graph and name, and whether a MatMul reads it.
    known: HashMap<(Scope, String, bool), Taken<Hashed>>,
    /// What values depend on, by graph and name.
    dependences: HashMap<(Scope, &'m str), Dependence>,
}

/// Where a tensor comes from, with the hashes of its elements by rows and by columns.
type Hashed = (Source, [u64; 2]);

/// A constant tensor that is the matrix of a node.
struct Tensor {
    /// What reads it.
    at: NodeInput,
    source: Source,
    hashes: [u64; 2],
    /// Whether the matrix lies in it by columns.
    transposed: bool,
    /// Of integers.
    parameters: Option<Parameters>,
}

impl<'m> Finder<'m> {
    fn bodies(&self, scope: &Scope) -> Vec<String> {
        let around = scope.outwards().filter_map(|scope| Some(body_of(self.model, &scope)?.op_type().to_owned()));
        let mut kinds: Vec<String> = around.collect();
        kinds.reverse();
        kinds
    }

    /// A node with its weight.
    fn node(&mut self, of: &NodeInput, name: &str) -> Taken<LinearNode> {
        let (op, tensor, data) = self.examine(of)?;
        let Tensor { at: weight, source, hashes, transposed, parameters } = tensor;
        let hash = hashes[usize::from(transposed)];
        let grid = match parameters {
            None => None,
            Some(parameters) => match self.grid(&parameters, &source, transposed) {
                None => return skip("its integers have not one constant scale and zero point in each row"),
                grid => grid.map(Arc::new),
            },
        };
        let (opset, first) = (self.model.opset(), limits::FIRST_OPSET);
        if opset < first {
            return skip(format!(
                "opset {opset} lacks operators that decode weights: convert the model to {first}, with \
                 onnx.version_converter or a new export"
            ));
        }
        let operator = operator(self.model.node(&of.scope, of.node)).map_or("", |(operator, _)| operator);
        let (data, zero) = self.data(data);
        let bodies = self.bodies(&weight.scope);
        let (scope, index, name) = (of.scope.clone(), of.node, name.to_owned());
        Ok(LinearNode { scope, index, name, operator, op, weight, bodies, source, hash, transposed, grid, data, zero })
    }

    /// What a node computes, its matrix, and its input that the matrix multiplies.
    fn examine(&mut self, of: &NodeInput) -> Taken<(LinearOp, Tensor, NodeInput)> {
        let node = self.model.node(&of.scope, of.node);
        let Some((_, computes)) = operator(node) else { return self.other(of) };
        let [first, second] = integers::operands(node.op_type()).map(|input| NodeInput { input, ..of.clone() });
        let by_columns = |tensor: Tensor| Tensor { transposed: !tensor.transposed, ..tensor };
        let mut data = first.clone();
        let (op, tensor) = match computes {
            "Gemm" => {
                let tensor = self.tensor(&second)?.of_rank(2..=2)?;
                let op = LinearOp::Gemm { columns: flag(node, "transA") };
                (op, if flag(node, "transB") { tensor } else { by_columns(tensor) })
            }
            "MatMul" => match self.tensor(&second).and_then(Tensor::one_matrix) {
                Ok(tensor) => (LinearOp::MatMul, by_columns(tensor)),
                Err(refusal) => {
                    data = second;
                    // Of two operands the reason is that of the one that is a weight.
                    let left = self.tensor(&first).and_then(Tensor::one_matrix);
                    (LinearOp::LeftMatMul, left.map_err(|left| left.or(refusal))?)
                }
            },
            "Conv" => {
                let tensor = self.tensor(&second)?;
                let dims = &tensor.source.dims;
                match Window::of(node, dims) {
                    Some(window) => (LinearOp::Conv(window), tensor),
                    None => return skip(format!("kernel {dims:?}, strides, dilations and pads do not fit each other")),
                }
            }
            "ConvTranspose" => {
                let tensor = self.tensor(&second)?.of_rank(3..=usize::MAX)?;
                match group(node) {
                    1 => (LinearOp::ConvTranspose, by_columns(tensor)),
                    _ => (LinearOp::GroupedConvTranspose, tensor),
                }
            }
            "Gather" => {
                data = NodeInput { input: 1, ..of.clone() };
                let rank = self.rank(&of.scope, node.input.get(1));
                (LinearOp::Gather { rank }, self.table(&first, node)?)
            }
            _ => return Err(Refusal::NoWeight),
        };
        // A node of constants is folded away by every runtime.
        if self.is_constant(&data) {
            return Err(Refusal::NoWeight);
        }
        Ok((op, tensor, data))
    }

    /// The table that a Gather looks up rows of.
    fn table(&mut self, at: &NodeInput, node: &NodeProto) -> Taken<Tensor> {
        let tensor = self.tensor(at)?;
        let Tensor { source, parameters, .. } = &tensor;
        // Nothing but int8 is the codebook of a table that is looked up in codes; a table that is decoded when the model is
        // loaded has bytes too.
        if parameters.is_none() && source.constants.iter().all(|constant| constant.element == ElementType::Int8) {
            return Err(Refusal::NoWeight);
        }
        let axis = integer(node, "axis").unwrap_or(0);
        if axis != 0 && axis != -(source.dims.len() as i64) {
            return skip(format!("it looks up along axis {axis} of {:?}; rows, along axis 0, are coded", source.dims));
        }
        tensor.of_rank(2..=2)
    }

    /// Why a node of another operator has a weight that is not coded, if it is known to be one.
    fn other(&mut self, of: &NodeInput) -> Taken<(LinearOp, Tensor, NodeInput)> {
        let node = self.model.node(&of.scope, of.node);
        let op = node.op_type();
        if operators::is_recurrent(op) || !operators::has_weights(op) {
            return Err(Refusal::NoWeight);
        }
        for input in 0..node.input.len() {
            match self.tensor(&NodeInput { input, ..of.clone() }) {
                Ok(_) => return skip(format!("{op} is not supported; MatMul and Gemm are")),
                Err(Refusal::NoWeight) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::NoWeight)
    }

    /// The constant tensor that an input of a node is, or that a DequantizeLinear in front of it reads.
    fn tensor(&mut self, at: &NodeInput) -> Taken<Tensor> {
        let node = self.model.node(&at.scope, at.node);
        let parameters = self.parameters(at);
        let is_product = operator(node).is_some_and(|(_, computes)| computes == "MatMul");
        let refusal = match self.source(at, is_product) {
            Ok((source, hashes)) if is_of_integers(&source) == parameters.is_some() => {
                return Ok(Tensor { at: at.clone(), source, hashes, transposed: false, parameters });
            }
            Ok(_) => return Err(Refusal::NoWeight),
            Err(refusal) => refusal,
        };
        let Some(behind) = self.dequantized(at) else { return Err(refusal) };
        let (source, hashes) = self.source(&behind.at, is_product)?;
        if !is_of_integers(&source) {
            return Err(refusal);
        }
        let (transposed, parameters) = (behind.transposed, Some(behind.parameters));
        Ok(Tensor { at: behind.at, source, hashes, transposed, parameters })
    }

    /// The rank of a value, if the graph that defines it says so.
    fn rank(&self, scope: &Scope, name: Option<&String>) -> Option<usize> {
        let name = name?;
        let definition = self.values.resolve(scope, name)?;
        let graph = self.model.graph(&definition.scope);
        let mut known = graph.input.iter().chain(&graph.value_info).chain(&graph.output);
        let info = known.find(|info| info.name() == name)?;
        match info.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => Some(tensor.shape.as_ref()?.dim.len()),
            _ => None,
        }
    }

    /// Whether an input of a node is the same in every run.
    fn is_constant(&mut self, of: &NodeInput) -> bool {
        let Some(value) = self.name(of) else { return true };
        self.dependence(&of.scope, value) == Dependence::Constant
    }

    fn trace(&mut self, scope: &Scope, name: &str) -> std::result::Result<Traced, Stop> {
        let freeze_inputs = self.options.freeze_inputs;
        trace(self.model, self.values, scope, name, freeze_inputs, Integers::Weights, &mut self.budget)
    }

    /// The name of what a node reads, if the input is given.
    fn name(&self, of: &NodeInput) -> Option<&'m str> {
        let inputs = &self.model.node(&of.scope, of.node).input;
        inputs.get(of.input).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// A constant tensor of floats or of bytes that a node reads.
    fn source(&mut self, at: &NodeInput, is_product: bool) -> Taken<Hashed> {
        let scope = &at.scope;
        let Some(value) = self.name(at) else { return Err(Refusal::NoWeight) };
        let Some(definition) = self.values.resolve(scope, value) else { return Err(Refusal::NoWeight) };
        let key = (definition.scope.clone(), value.to_owned(), is_product);
        if let Some(known) = self.known.get(&key) {
            return known.clone().map(|(source, hashes)| (Source { scope: scope.clone(), ..source }, hashes));
        }
        let found = match self.dependence(scope, value) {
            Dependence::Runs => Err(Refusal::NoWeight),
            _ => self.evaluated(scope, value, definition, is_product),
        };
        self.known.insert(key, found.clone());
        found
    }

    fn evaluated(&mut self, scope: &Scope, value: &str, definition: &Definition, is_product: bool) -> Taken<Hashed> {
        // Before anything is read: the dimensions say how much that would be.
        if let Some(tensor) = self.model.initializer(definition) {
            let dims = shape(tensor).map_err(|error| error.at_tensor(value))?;
            match dims.iter().try_fold(1usize, |all, &dim| all.checked_mul(dim)) {
                Some(all) if all < FEWEST => return Err(Refusal::NoWeight),
                Some(all) if all <= limits::LINEAR_WEIGHTS => {}
                _ => {
                    let most = limits::LINEAR_WEIGHTS;
                    return skip(format!("its weight has shape {dims:?}; at most {most} elements are coded"));
                }
            }
        }
        let traced = match self.trace(scope, value) {
            Ok(traced) => traced,
            Err(Stop::NotConstant(what)) => {
                let computed = matches!(definition.origin, Origin::Node { .. });
                return skip(format!("its weight is {}{what}", if computed { "computed from " } else { "" }));
            }
            Err(Stop::Failed(error)) => return Err(error.into()),
        };
        let (dims, element) = (traced.constant.shape().to_vec(), traced.constant.element);
        let weights: usize = dims.iter().product();
        let is_coded =
            matches!(element, ElementType::Float | ElementType::Float16 | ElementType::Int8 | ElementType::Uint8);
        if weights < FEWEST || !is_coded && !element.is_float() {
            return Err(Refusal::NoWeight);
        }
        if !is_coded {
            let found = element.as_str_name();
            return skip(format!(
                "weights of type {found} are not supported: convert the model to FLOAT or FLOAT16 and export it again"
            ));
        }
        let is_read = |used: &Use| !matches!(used, Use::Node { .. });
        let mut stored = traced.constants.iter().map(|constant| (&constant.scope, constant.name.as_str()));
        if stored.any(|(scope, name)| self.values.uses(scope, name).iter().any(is_read)) {
            return skip("its weight is an output of the graph too, so that it stays beside its codes");
        }
        // The first axes of a MatMul's matrix are 1, the last ones of a Conv's kernel are its window.
        let flat = match dims[..] {
            [.., a, b] if is_product && weights == a * b => [1, a, b],
            [a, ..] => [1, a, weights / a],
            [] => return Err(Refusal::NoWeight),
        };
        let values = three_dimensions(traced.constant.bytes_as_floats(), flat, value)?;
        if !values.iter().all(|v| v.is_finite()) {
            return fault("its weight holds NaN or infinite values");
        }
        // What was coded already may decode to a little more than what it was coded from.
        let decoded = traced.constants.iter().any(|constant| constant.element == ElementType::Int8);
        if !decoded && values.iter().any(|v| v.abs() > limits::WEIGHT) {
            return fault(format!("its weight holds values beyond {:e}, which no trained layer has", limits::WEIGHT));
        }
        let by_columns = values.view().permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
        let hashes = [hash(&values), hash(&by_columns)];
        let source = Source {
            value: value.to_owned(),
            scope: scope.clone(),
            home: definition.scope.clone(),
            dims,
            shape: flat,
            element,
            route: traced.route,
            constants: traced.constants.into_iter().collect(),
            parameters: traced.parameters.into_iter().collect(),
            frozen: traced.frozen.into_iter().collect(),
            hash: hashes[0],
        };
        Ok((source, hashes))
    }
}

impl Refusal {
    /// The more telling of two.
    fn or(self, other: Refusal) -> Refusal {
        if matches!(self, Refusal::NoWeight) { other } else { self }
    }
}

impl Tensor {
    fn of_rank(self, ranks: std::ops::RangeInclusive<usize>) -> Taken<Tensor> {
        let dims = &self.source.dims;
        if ranks.contains(&dims.len()) {
            Ok(self)
        } else {
            skip(format!("a weight of shape {dims:?} is not coded here"))
        }
    }

    /// Refuses several matrices, and vectors: all but the last two dimensions must be 1.
    fn one_matrix(self) -> Taken<Tensor> {
        let dims = &self.source.dims;
        let is_matrix = dims.len() >= 2 && dims[..dims.len() - 2].iter().all(|&dim| dim == 1);
        if is_matrix { Ok(self) } else { skip(format!("its weight has shape {dims:?}; one matrix is coded")) }
    }
}

fn is_of_integers(source: &Source) -> bool {
    matches!(source.element, ElementType::Int8 | ElementType::Uint8)
}

fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    Some(node.attribute.iter().find(|attribute| attribute.name() == name)?.i())
}

fn flag(node: &NodeProto, name: &str) -> bool {
    integer(node, name).unwrap_or(0) != 0
}

fn group(node: &NodeProto) -> usize {
    integer(node, "group").and_then(|group| usize::try_from(group).ok()).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests;
