//! The Gemm, MatMul, Conv, ConvTranspose and Gather nodes of a model that multiply a constant matrix or look rows of it up,
//! in all its graphs: what they are, and where their weights come from. The operators of integers are among them.
//!
//! Each of them sees its constant as a matrix `[rows, columns]` whose rows are multiplied with a vector of what the node
//! reads: [`LinearOp`] says how the matrix lies in the tensor, and [`LinearNode::vectors`] what it multiplies.
//!
//! Invariant: a listed node has finite weights of a type that is coded, in the shape that its operator wants.

mod integers;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array3;

pub use window::Window;

use crate::dictionary::Grid;
use crate::error::Result;
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::proto::type_proto;
use crate::onnx::tensor::shape;
use crate::onnx::{ElementType, Model, NodeInput, NodeNames, NodeProto, Origin, Scope, Values};
use crate::recurrent::{Budget, FindOptions, Integers, Source, Stop, Traced, body_of, hash, three_dimensions, trace};
use integers::Parameters;

/// Operators, and those that they compute with integers.
const OPERATORS: [(&str, &str); 9] = [
    ("Gemm", "Gemm"),
    ("MatMul", "MatMul"),
    ("Conv", "Conv"),
    ("ConvTranspose", "ConvTranspose"),
    ("Gather", "Gather"),
    ("QLinearMatMul", "MatMul"),
    ("MatMulInteger", "MatMul"),
    ("QLinearConv", "Conv"),
    ("ConvInteger", "Conv"),
];
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

/// Finds the nodes of a model with constant weights that are not recurrent. What is not constant, not of a type that is
/// coded, or too small to gain anything is left out.
///
/// # Errors
/// Those of reading the model.
pub fn find(model: &Model, options: &FindOptions) -> Result<Vec<LinearNode>> {
    let mut nodes = Vec::new();
    if model.opset() < limits::FIRST_OPSET {
        return Ok(nodes);
    }
    let names = NodeNames::new(&model.proto);
    let values = Values::new(&model.proto)?;
    let mut finder =
        Finder { model, values: &values, options, budget: Budget::for_model(model), known: HashMap::new() };
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            let name = names.get(&scope, index);
            let excluded = options.exclude.iter().chain(&options.skip).any(|pattern| pattern.is_match(name))
                || options.include.as_ref().is_some_and(|include| !include.is_match(name));
            if excluded || !is_standard(node.domain()) {
                continue;
            }
            let Some((operator, _)) = operator(node) else { continue };
            let place = NodeInput { scope: scope.clone(), node: index, input: 0 };
            let found = finder.examine(&place).map_err(|error| error.at_node(name))?;
            if let Some((op, tensor, data)) = found {
                let Tensor { at: weight, source, transposed, parameters } = tensor;
                let grid = match parameters {
                    None => None,
                    Some(parameters) => match finder.grid(&parameters, &source, transposed) {
                        None => continue,
                        grid => grid.map(Arc::new),
                    },
                };
                let (data, zero) = finder.data(data);
                let (scope, name, bodies) = (scope.clone(), name.to_owned(), finder.bodies(&weight.scope));
                nodes.push(LinearNode {
                    scope,
                    index,
                    name,
                    operator,
                    op,
                    weight,
                    bodies,
                    source,
                    transposed,
                    grid,
                    data,
                    zero,
                });
            }
        }
    }
    Ok(nodes)
}

/// The operator of a node and what it computes, if it is one of those here.
fn operator(node: &NodeProto) -> Option<(&'static str, &'static str)> {
    let known = OPERATORS.into_iter().find(|(operator, _)| *operator == node.op_type());
    known.filter(|_| is_standard(node.domain()))
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
    known: HashMap<(Scope, String, bool), Option<Source>>,
}

/// A constant tensor that is the matrix of a node.
struct Tensor {
    /// What reads it.
    at: NodeInput,
    source: Source,
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

    /// What a node computes, its matrix, and its input that the matrix multiplies.
    fn examine(&mut self, of: &NodeInput) -> Result<Option<(LinearOp, Tensor, NodeInput)>> {
        let node = self.model.node(&of.scope, of.node);
        let Some((_, computes)) = operator(node) else { return Ok(None) };
        let [first, second] = integers::operands(node.op_type()).map(|input| NodeInput { input, ..of.clone() });
        let by_columns = |tensor: Tensor| Tensor { transposed: !tensor.transposed, ..tensor };
        let found = match computes {
            "Gemm" => self.tensor(&second)?.filter(|tensor| tensor.source.dims.len() == 2).map(|tensor| {
                let op = LinearOp::Gemm { columns: flag(node, "transA") };
                (op, if flag(node, "transB") { tensor } else { by_columns(tensor) })
            }),
            "MatMul" => match self.tensor(&second)?.filter(is_matrix) {
                Some(tensor) => Some((LinearOp::MatMul, by_columns(tensor))),
                None => self.tensor(&first)?.filter(is_matrix).map(|tensor| (LinearOp::LeftMatMul, tensor)),
            },
            "Conv" => self
                .tensor(&second)?
                .and_then(|tensor| Some((LinearOp::Conv(Window::of(node, &tensor.source.dims)?), tensor))),
            "ConvTranspose" => {
                self.tensor(&second)?.filter(|tensor| tensor.source.dims.len() >= 3).map(|tensor| match group(node) {
                    1 => (LinearOp::ConvTranspose, by_columns(tensor)),
                    _ => (LinearOp::GroupedConvTranspose, tensor),
                })
            }
            "Gather" if integer(node, "axis").unwrap_or(0) == 0 => {
                let rank = self.rank(&of.scope, node.input.get(1));
                self.tensor(&first)?
                    .filter(|tensor| tensor.source.dims.len() == 2)
                    // Nothing but int8 is the codebook of a table that is looked up in codes; a table that is decoded when
                    // the model is loaded has bytes too.
                    .filter(|Tensor { source, parameters, .. }| {
                        parameters.is_some()
                            || source.constants.iter().any(|constant| constant.element != ElementType::Int8)
                    })
                    .map(|tensor| (LinearOp::Gather { rank }, tensor))
            }
            _ => None,
        };
        let data = |op: &LinearOp| match op {
            LinearOp::LeftMatMul => second.clone(),
            LinearOp::Gather { .. } => NodeInput { input: 1, ..of.clone() },
            _ => first.clone(),
        };
        // A node of constants is folded away by every runtime.
        let found = found.map(|(op, tensor)| (data(&op), op, tensor));
        Ok(found.filter(|(data, ..)| !self.is_constant(data)).map(|(data, op, tensor)| (op, tensor, data)))
    }

    /// The constant tensor that an input of a node is, or that a DequantizeLinear in front of it reads.
    fn tensor(&mut self, at: &NodeInput) -> Result<Option<Tensor>> {
        let node = self.model.node(&at.scope, at.node);
        let parameters = self.parameters(at);
        let is_product = operator(node).is_some_and(|(_, computes)| computes == "MatMul");
        if let Some(source) = self.source(at, is_product)? {
            let fits = is_of_integers(&source) == parameters.is_some();
            return Ok(fits.then(|| Tensor { at: at.clone(), source, transposed: false, parameters }));
        }
        let Some(behind) = self.dequantized(at) else { return Ok(None) };
        let source = self.source(&behind.at, is_product)?.filter(is_of_integers);
        Ok(source.map(|source| Tensor {
            at: behind.at,
            source,
            transposed: behind.transposed,
            parameters: Some(behind.parameters),
        }))
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
        self.trace(&of.scope, value).is_ok()
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

    /// A constant tensor of floats or of bytes that a node reads; `None` for every other input.
    fn source(&mut self, at: &NodeInput, is_product: bool) -> Result<Option<Source>> {
        let scope = &at.scope;
        let Some(value) = self.name(at) else { return Ok(None) };
        let Some(definition) = self.values.resolve(scope, value) else { return Ok(None) };
        if matches!(definition.origin, Origin::Input(_)) {
            return Ok(None);
        }
        let key = (definition.scope.clone(), value.to_owned(), is_product);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone().map(|source| Source { scope: scope.clone(), ..source }));
        }
        let home = definition.scope.clone();
        // Before anything is read: the dimensions say how much that would be.
        let stored = self.model.initializer(definition).map(shape).transpose();
        let is_large = stored.map_err(|error| error.at_tensor(value))?.is_some_and(|dims| {
            dims.iter()
                .try_fold(1usize, |all, &dim| all.checked_mul(dim))
                .is_none_or(|all| all > limits::LINEAR_WEIGHTS)
        });
        if is_large {
            self.known.insert(key, None);
            return Ok(None);
        }
        let traced = match self.trace(scope, value) {
            Ok(traced) => traced,
            Err(Stop::NotConstant(_)) => {
                self.known.insert(key, None);
                return Ok(None);
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        let (dims, element) = (traced.constant.shape().to_vec(), traced.constant.element);
        let is_coded =
            matches!(element, ElementType::Float | ElementType::Float16 | ElementType::Int8 | ElementType::Uint8);
        let weights: usize = dims.iter().product();
        // The first axes of a MatMul's matrix are 1, the last ones of a Conv's kernel are its window.
        let flat = match dims[..] {
            [.., a, b] if is_product => [1, a, b],
            [a, ..] if a > 0 => [1, a, weights / a],
            _ => [0; 3],
        };
        let fits = flat.iter().product::<usize>() == weights && weights >= FEWEST;
        if !is_coded || !fits {
            self.known.insert(key, None);
            return Ok(None);
        }
        let values = three_dimensions(traced.constant.bytes_as_floats(), flat, value)?;
        let decoded = traced.constants.iter().any(|constant| constant.element == ElementType::Int8);
        let is_sound = |v: &f32| v.is_finite() && (decoded || v.abs() <= limits::WEIGHT);
        let source = values.iter().all(is_sound).then(|| Source {
            value: value.to_owned(),
            scope: scope.clone(),
            home,
            dims,
            shape: flat,
            element,
            route: traced.route,
            constants: traced.constants.into_iter().collect(),
            parameters: traced.parameters.into_iter().collect(),
            frozen: traced.frozen.into_iter().collect(),
            hash: hash(&values),
        });
        self.known.insert(key, source.clone());
        Ok(source)
    }
}

/// Whether all but the last two dimensions are 1.
fn is_matrix(tensor: &Tensor) -> bool {
    let dims = &tensor.source.dims;
    dims.len() >= 2 && dims[..dims.len() - 2].iter().all(|&dim| dim == 1)
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
