//! The Gemm, MatMul, Conv, ConvTranspose and Gather nodes of a model that multiply a constant matrix or look rows of it up,
//! in all its graphs: what they are, and where their weights come from.
//!
//! Each of them sees its constant as a matrix `[rows, columns]` whose rows are multiplied with a vector of what the node
//! reads: [`LinearOp`] says how the matrix lies in the tensor, and [`LinearNode::vectors`] what it multiplies.
//!
//! Invariant: a listed node has finite weights of a type that is coded, in the shape that its operator wants.

mod window;

use std::collections::HashMap;

use ndarray::Array3;

pub use window::Window;

use crate::error::Result;
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::proto::type_proto;
use crate::onnx::{ElementType, Model, NodeNames, NodeProto, Origin, Scope, Values};
use crate::recurrent::{Budget, FindOptions, Source, Stop, body_of, hash, three_dimensions, trace};

const OPERATORS: [&str; 5] = ["Gemm", "MatMul", "Conv", "ConvTranspose", "Gather"];
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
    /// What it computes.
    pub op: LinearOp,
    /// The operators whose bodies it is in, from the outside inwards: `If`, `Loop` or `Scan`.
    pub bodies: Vec<String>,
    /// Where its weights come from.
    pub source: Source,
    /// Whether the matrix lies in the tensor by columns.
    pub transposed: bool,
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
    /// The operator.
    #[must_use]
    pub fn operator(&self) -> &'static str {
        match self.op {
            LinearOp::Gemm { .. } => "Gemm",
            LinearOp::MatMul | LinearOp::LeftMatMul => "MatMul",
            LinearOp::Conv(_) => "Conv",
            LinearOp::ConvTranspose | LinearOp::GroupedConvTranspose => "ConvTranspose",
            LinearOp::Gather { .. } => "Gather",
        }
    }

    /// What it behaves like.
    #[must_use]
    pub fn kind(&self) -> LinearKind {
        match self.op {
            LinearOp::Gemm { .. } | LinearOp::MatMul | LinearOp::LeftMatMul => LinearKind::Matrix,
            LinearOp::Conv(_) | LinearOp::ConvTranspose | LinearOp::GroupedConvTranspose => LinearKind::Convolution,
            LinearOp::Gather { .. } => LinearKind::Table,
        }
    }

    /// The input that is the matrix.
    #[must_use]
    pub fn weight_input(&self) -> usize {
        usize::from(!matches!(self.op, LinearOp::LeftMatMul | LinearOp::Gather { .. }))
    }

    /// The input that the matrix multiplies, or the indices of its rows.
    #[must_use]
    pub fn data_input(&self) -> usize {
        1 - self.weight_input()
    }

    /// Rows and columns of the matrix.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        let [_, a, b] = self.source.shape;
        if self.transposed { [b, a] } else { [a, b] }
    }

    /// The matrix `[1, rows, columns]` of the values of its source.
    #[must_use]
    pub fn matrix(&self, values: Array3<f32>) -> Array3<f32> {
        if self.transposed { values.permuted_axes([0, 2, 1]).as_standard_layout().into_owned() } else { values }
    }

    /// The values of its source, in their own order, of a matrix `[1, rows, columns]`.
    #[must_use]
    pub fn tensor(&self, matrix: &Array3<f32>) -> Vec<f32> {
        match self.transposed {
            true => matrix.view().permuted_axes([0, 2, 1]).iter().copied().collect(),
            false => matrix.iter().copied().collect(),
        }
    }

    /// Whether its vectors are known from what it reads.
    #[must_use]
    pub fn has_vectors(&self) -> bool {
        !matches!(self.op, LinearOp::GroupedConvTranspose | LinearOp::Gather { .. })
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
    if shape.is_empty() || block == 0 || values.len() % block != 0 {
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
            if let Some((op, source, transposed)) = finder.examine(&scope, node).map_err(|error| error.at_node(name))? {
                let (scope, name, bodies) = (scope.clone(), name.to_owned(), finder.bodies(&scope));
                nodes.push(LinearNode { scope, index, name, op, bodies, source, transposed });
            }
        }
    }
    Ok(nodes)
}

/// The names of all nodes of these operators, whatever they read.
#[must_use]
pub fn names(model: &Model) -> Vec<String> {
    let names = NodeNames::new(&model.proto);
    let mut found = Vec::new();
    for (scope, graph) in model.graphs() {
        let is = |node: &NodeProto| is_standard(node.domain()) && OPERATORS.contains(&node.op_type());
        let of_graph = graph.node.iter().enumerate().filter(|(_, node)| is(node));
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

impl Finder<'_> {
    fn bodies(&self, scope: &Scope) -> Vec<String> {
        let around = scope.outwards().filter_map(|scope| Some(body_of(self.model, &scope)?.op_type().to_owned()));
        let mut kinds: Vec<String> = around.collect();
        kinds.reverse();
        kinds
    }

    fn examine(&mut self, scope: &Scope, node: &NodeProto) -> Result<Option<(LinearOp, Source, bool)>> {
        let mut constant = |input: usize| self.source(scope, node, input);
        let found = match node.op_type() {
            "Gemm" => constant(1)?.filter(|source| source.dims.len() == 2).map(|source| {
                let columns = flag(node, "transA");
                (LinearOp::Gemm { columns }, source, !flag(node, "transB"))
            }),
            "MatMul" => match constant(1)?.filter(is_matrix) {
                Some(source) => Some((LinearOp::MatMul, source, true)),
                None => constant(0)?.filter(is_matrix).map(|source| (LinearOp::LeftMatMul, source, false)),
            },
            "Conv" => {
                constant(1)?.and_then(|source| Some((LinearOp::Conv(Window::of(node, &source.dims)?), source, false)))
            }
            "ConvTranspose" => constant(1)?.filter(|source| source.dims.len() >= 3).map(|source| match group(node) {
                1 => (LinearOp::ConvTranspose, source, true),
                _ => (LinearOp::GroupedConvTranspose, source, false),
            }),
            "Gather" if integer(node, "axis").unwrap_or(0) == 0 => {
                let rank = self.rank(scope, node.input.get(1));
                self.source(scope, node, 0)?
                    .filter(|source| source.dims.len() == 2)
                    // Nothing but int8 is the codebook of a table that is looked up in codes; a table that is decoded when
                    // the model is loaded has bytes too.
                    .filter(|source| source.constants.iter().any(|constant| constant.element != ElementType::Int8))
                    .map(|source| (LinearOp::Gather { rank }, source, false))
            }
            _ => None,
        };
        // A node of constants is folded away by every runtime.
        let data = |op: &LinearOp| usize::from(matches!(op, LinearOp::LeftMatMul | LinearOp::Gather { .. }));
        Ok(found.filter(|(op, ..)| !self.is_constant(scope, node, data(op))))
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
    fn is_constant(&mut self, scope: &Scope, node: &NodeProto, input: usize) -> bool {
        let Some(value) = node.input.get(input).filter(|name| !name.is_empty()) else { return true };
        trace(self.model, self.values, scope, value, self.options.freeze_inputs, &mut self.budget).is_ok()
    }

    /// A constant float tensor that a node reads; `None` for every other input.
    fn source(&mut self, scope: &Scope, node: &NodeProto, input: usize) -> Result<Option<Source>> {
        let Some(value) = node.input.get(input).filter(|name| !name.is_empty()) else { return Ok(None) };
        let Some(definition) = self.values.resolve(scope, value) else { return Ok(None) };
        if matches!(definition.origin, Origin::Input(_)) {
            return Ok(None);
        }
        let is_product = node.op_type() == "MatMul";
        let key = (definition.scope.clone(), value.clone(), is_product);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone().map(|source| Source { scope: scope.clone(), ..source }));
        }
        let home = definition.scope.clone();
        let traced = match trace(self.model, self.values, scope, value, self.options.freeze_inputs, &mut self.budget) {
            Ok(traced) => traced,
            Err(Stop::NotConstant(_) | Stop::Quantised(_)) => {
                self.known.insert(key, None);
                return Ok(None);
            }
            Err(Stop::Failed(error)) => return Err(error),
        };
        let (dims, element) = (traced.constant.shape().to_vec(), traced.constant.element);
        let is_coded = matches!(element, ElementType::Float | ElementType::Float16);
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
        let values = three_dimensions(traced.constant, flat, value)?;
        let decoded = traced.constants.iter().any(|constant| constant.element == ElementType::Int8);
        let is_sound = |v: &f32| v.is_finite() && (decoded || v.abs() <= limits::WEIGHT);
        let source = values.iter().all(is_sound).then(|| Source {
            value: value.clone(),
            scope: scope.clone(),
            home,
            dims,
            shape: flat,
            element,
            route: traced.route,
            constants: traced.constants.into_iter().collect(),
            frozen: traced.frozen.into_iter().collect(),
            hash: hash(&values),
        });
        self.known.insert(key, source.clone());
        Ok(source)
    }
}

/// Whether all but the last two dimensions are 1.
fn is_matrix(source: &Source) -> bool {
    source.dims.len() >= 2 && source.dims[..source.dims.len() - 2].iter().all(|&dim| dim == 1)
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
