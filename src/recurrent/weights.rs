//! Where W and R of a recurrent node come from: the value is followed back, through nodes that only move or convert
//! elements and out of the bodies of If, Loop and Scan, to the constants that hold it.
//!
//! A value that is not constant is no error: it comes back as a reason, in words for a person. Invariant: a [`Source`]
//! was evaluated once, is finite, and evaluates to the same values again.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hasher;

use ndarray::{ArcArray, Array3, ArrayD, IxDyn};

use super::fold::{Budget, Constant, Data, Operation, PRODUCTS, data_inputs};
use crate::error::{Cut, Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::{is_standard, plain_name};
use crate::onnx::tensor::{is_external, shape, stored_bytes};
use crate::onnx::{Definition, ElementType, Model, NodeProto, Origin, Scope, TensorProto, Values};

/// Where the value of W or R comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name of the value that the node reads.
    pub value: String,
    /// The graph of the node, from which the name is seen.
    pub scope: Scope,
    /// The graph that defines the value: nodes with the same name and graph share one tensor.
    pub home: Scope,
    /// The shape of the value.
    pub dims: Vec<usize>,
    /// Its elements as `[planes, rows, columns]`, in the same order: `[num_directions, G * H, n]` of W or R, n being the
    /// input size for W and H for R.
    pub shape: [usize; 3],
    /// Element type as it reaches the node.
    pub element: ElementType,
    /// How it reaches the node, for people: `initializer`, `Unsqueeze(Concat(3 x Slice(Constant node)))`, ...
    pub route: String,
    /// The stored tensors whose elements make up the value. They go away if nothing else uses them.
    pub constants: Vec<ConstantRef>,
    /// The other constants that it is computed with: scales, zero points, shapes. They go with the last value that uses them.
    pub parameters: Vec<ConstantRef>,
    /// Inputs of the model that must be dropped, because the value is constant only then (`--freeze-inputs`).
    pub frozen: Vec<String>,
    /// Hash of the values. Equal tensors have equal hashes; for the converse, compare [`values`](Self::values).
    pub hash: u64,
}

/// A tensor stored in the model: an initializer or a Constant node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConstantRef {
    /// The graph that it is in.
    pub scope: Scope,
    /// Name of its value.
    pub name: String,
    /// Index of the Constant node in its graph; `None` for an initializer.
    pub node: Option<usize>,
    /// Stored element type.
    pub element: ElementType,
    /// Stored elements.
    pub elements: u64,
    /// Stored bytes, in its own element type.
    pub bytes: u64,
    /// Whether it is stored in a side file.
    pub external: bool,
}

impl Source {
    /// The values, in [`shape`](Self::shape), evaluated anew. Exact for float16 and bytes; a double is rounded to f32. For the
    /// values of several sources, make one [`Constants`] and ask it for each.
    ///
    /// # Errors
    /// Of reading the stored tensors; `Unsupported` if the model is not the one that was searched.
    pub fn values(&self, model: &Model) -> Result<Array3<f32>> {
        Constants::new(model)?.values(self)
    }

    /// As [`values`](Self::values), with an index of the model that is at hand.
    pub(super) fn evaluate(&self, model: &Model, values: &Values<'_>, budget: &mut Budget) -> Result<Array3<f32>> {
        match trace(model, values, &self.scope, &self.value, true, Integers::Dequantised, budget) {
            Ok(traced) => three_dimensions(traced.constant.bytes_as_floats(), self.shape, &self.value),
            Err(stop) => Err(stop.into_error(&self.value)),
        }
    }

    /// Whether it is the same value as another, so that there is nothing to compare.
    pub fn is_same_value(&self, other: &Source) -> bool {
        self.home == other.home && self.value == other.value
    }

    /// Stored bytes of the value in the element type of its constants: all of them if the value takes all of their
    /// elements, else the part that it takes.
    pub fn stored_bytes(&self) -> u64 {
        let stored: u64 = self.constants.iter().map(|c| c.bytes).sum();
        let elements: usize = self.shape.iter().product();
        let widest = self.constants.iter().filter_map(|c| c.element.bits()).max().unwrap_or(0);
        stored.min(elements as u64 * u64::from(widest) / 8)
    }

    /// Weights in all directions and gates.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Stored bytes of weights: a tensor that several nodes share counts once, one that is stored twice counts twice, and of a
/// tensor that holds more than weights only their part counts.
pub fn total_bytes<'s>(sources: impl Iterator<Item = &'s Source>) -> u64 {
    let mut taken: BTreeMap<&ConstantRef, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for source in sources.filter(|source| seen.insert((&source.home, &source.value))) {
        for constant in &source.constants {
            let part = if source.constants.len() == 1 { source.stored_bytes() } else { constant.bytes };
            *taken.entry(constant).or_default() += part;
        }
    }
    taken.into_iter().map(|(constant, part)| part.min(constant.bytes)).sum()
}

/// Why following a value ended before a constant was reached.
pub(crate) enum Stop {
    /// The value is, or is computed from, this: a noun phrase.
    NotConstant(String),
    /// The model is broken, or a limit was hit.
    Failed(Error),
}

impl Stop {
    fn into_error(self, value: &str) -> Error {
        match self {
            Stop::NotConstant(what) => Error::new(ErrorKind::Unsupported, format!("is computed from {what}")),
            Stop::Failed(error) => error,
        }
        .at_tensor(value)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        // a type that is not read, as opposed to a tensor that breaks the rules
        if error.kind() == ErrorKind::Unsupported {
            return Stop::NotConstant(format!("a tensor that is not read ({error})"));
        }
        Stop::Failed(error)
    }
}

/// A value that was followed to its constants and evaluated.
#[derive(Clone)]
pub(crate) struct Traced {
    pub constant: Constant,
    pub route: String,
    pub constants: BTreeSet<ConstantRef>,
    pub parameters: BTreeSet<ConstantRef>,
    pub frozen: BTreeSet<String>,
}

/// Whether integers are followed through the DequantizeLinear that makes floats of them, or are weights themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integers {
    Dequantised,
    Weights,
}

/// Follows `name`, seen from `scope`, and evaluates it.
pub(crate) fn trace(
    model: &Model,
    values: &Values<'_>,
    scope: &Scope,
    name: &str,
    freeze_inputs: bool,
    integers: Integers,
    budget: &mut Budget,
) -> std::result::Result<Traced, Stop> {
    Tracer { model, values, from: scope, freeze_inputs, integers, budget, done: HashMap::new() }.trace(scope, name, 0)
}

/// Evaluates values that are the same in every run of a model, within one budget for all that are asked for.
pub struct Constants<'m> {
    model: &'m Model,
    values: Values<'m>,
    budget: Budget,
}

impl<'m> Constants<'m> {
    /// Nothing is evaluated yet.
    ///
    /// # Errors
    /// Those of [`Values::new`].
    pub fn new(model: &'m Model) -> Result<Self> {
        Ok(Constants { model, values: Values::new(&model.proto)?, budget: Budget::for_model(model) })
    }

    /// The model's values by name.
    pub fn index(&self) -> &Values<'m> {
        &self.values
    }

    /// The values of a weight, in its [`shape`](Source::shape).
    ///
    /// # Errors
    /// As [`Source::values`], and `Unsupported` if the budget is spent.
    pub fn values(&mut self, source: &Source) -> Result<Array3<f32>> {
        source.evaluate(self.model, &self.values, &mut self.budget)
    }

    /// The numbers of a value, seen from `scope`.
    ///
    /// # Errors
    /// `Unsupported` if it is not constant, or the budget is spent; `Malformed` if it is not defined or cannot be read.
    pub fn get(&mut self, scope: &Scope, name: &str) -> Result<ArrayD<f32>> {
        let traced = trace(self.model, &self.values, scope, name, false, Integers::Dequantised, &mut self.budget);
        traced.map(|traced| traced.constant.floats()).map_err(|stop| stop.into_error(name))
    }

    /// Takes room, and time, for a product `[rows, inner] x [inner, columns]` of such values.
    ///
    /// # Errors
    /// `Unsupported` if the budget is spent.
    pub fn charge_product(&mut self, rows: usize, inner: usize, columns: usize) -> Result<()> {
        let work = [rows, columns, inner.div_ceil(PRODUCTS)];
        self.budget.charge(&work).map_err(|reason| Error::new(ErrorKind::Unsupported, format!("the weights {reason}")))
    }
}

struct Tracer<'a, 'm> {
    model: &'a Model,
    values: &'a Values<'m>,
    /// The graph of the recurrent node: routes are told from there.
    from: &'a Scope,
    freeze_inputs: bool,
    integers: Integers,
    budget: &'a mut Budget,
    /// What was evaluated already, by defining graph and name: a diamond of nodes costs once.
    done: HashMap<(Scope, String), Traced>,
}

type Tracing<T> = std::result::Result<T, Stop>;

impl Tracer<'_, '_> {
    fn trace(&mut self, scope: &Scope, name: &str, depth: usize) -> Tracing<Traced> {
        let Some(definition) = self.values.resolve(scope, name).cloned() else {
            let message = "it is not defined by any node, input or initializer";
            return Err(Stop::Failed(Error::new(ErrorKind::Malformed, message).at_tensor(name)));
        };
        if self.values.is_ambiguous(name) {
            let why = "which a body and a graph around it both define, so that runtimes differ in which they read: rename one";
            return Err(Stop::NotConstant(format!("'{}', {why}", Cut(name))));
        }
        if depth > limits::FOLD_DEPTH {
            return Err(Stop::NotConstant(format!("a chain of more than {} nodes", limits::FOLD_DEPTH)));
        }
        let key = (definition.scope.clone(), name.to_owned());
        if let Some(traced) = self.done.get(&key) {
            return Ok(traced.clone());
        }
        let traced = match definition.origin {
            Origin::Initializer(index) => self.initializer(&definition, index, name),
            Origin::SparseInitializer(_) => {
                let way = "which is not read: store it dense (a plain initializer) and export again";
                Err(Stop::NotConstant(format!("sparse initializer '{}', {way}", Cut(name))))
            }
            Origin::Input(_) => Err(Stop::NotConstant(self.input(&definition.scope, name))),
            Origin::Node { node, output } => self.node(&definition.scope, node, output, name, depth),
        }?;
        self.done.insert(key, traced.clone());
        Ok(traced)
    }

    fn initializer(&mut self, definition: &Definition, index: usize, name: &str) -> Tracing<Traced> {
        let mut frozen = BTreeSet::new();
        if self.model.is_overridable(definition) {
            if !definition.scope.is_root() {
                return Err(Stop::NotConstant(self.input(&definition.scope, name)));
            }
            if !self.freeze_inputs {
                return Err(Stop::NotConstant(format!(
                    "initializer '{}', which is also a graph input that a caller may override \
                     (--freeze-inputs makes it a constant)",
                    Cut(name)
                )));
            }
            frozen.insert(name.to_owned());
        }
        let model = self.model;
        let tensor = &model.graph(&definition.scope).initializer[index];
        let route = if is_external(tensor) { "external data" } else { "initializer" };
        let mut traced = self.stored(&definition.scope, name, None, tensor, route)?;
        traced.frozen = frozen;
        Ok(traced)
    }

    fn stored(
        &mut self,
        scope: &Scope,
        name: &str,
        node: Option<usize>,
        tensor: &TensorProto,
        route: &str,
    ) -> Tracing<Traced> {
        let element = ElementType::of(tensor).map_err(|e| e.at_tensor(name))?;
        let shape = shape(tensor).map_err(|e| e.at_tensor(name))?;
        self.budget.charge(&shape).map_err(|why| Stop::NotConstant(format!("tensor '{}', which {why}", Cut(name))))?;
        let data = if element.is_float() {
            Data::Float(self.model.floats(tensor).map_err(|e| e.at_tensor(name))?.into_shared())
        } else {
            Data::Integer(self.model.integers(tensor).map_err(|e| e.at_tensor(name))?.into_shared())
        };
        let constant = Constant { element, data };
        Ok(self.root(scope, name, node, constant, stored_bytes(tensor), is_external(tensor), route))
    }

    #[allow(clippy::too_many_arguments)]
    fn root(
        &self,
        scope: &Scope,
        name: &str,
        node: Option<usize>,
        constant: Constant,
        bytes: u64,
        external: bool,
        route: &str,
    ) -> Traced {
        let elements = constant.shape().iter().product::<usize>() as u64;
        let element = constant.element;
        let outer = if scope == self.from { "" } else { " of the outer graph" };
        let reference =
            ConstantRef { scope: scope.clone(), name: name.to_owned(), node, element, elements, bytes, external };
        Traced {
            constant,
            route: format!("{route}{outer}"),
            constants: BTreeSet::from([reference]),
            parameters: BTreeSet::new(),
            frozen: BTreeSet::new(),
        }
    }

    fn node(&mut self, scope: &Scope, index: usize, output: usize, name: &str, depth: usize) -> Tracing<Traced> {
        let model = self.model;
        let node = model.node(scope, index);
        let label = || format!("node '{}' ({})", Cut(&plain_name(node, index)), operator(node));
        if node.op_type() == "DequantizeLinear" && self.integers == Integers::Weights {
            return Err(Stop::NotConstant(label()));
        }
        if is_standard(node.domain()) && node.op_type() == "Constant" {
            return self.constant_node(scope, index, name);
        }
        let data_inputs = Some(node).filter(|n| is_standard(n.domain())).and_then(|n| data_inputs(n.op_type()));
        let Some(data_inputs) = data_inputs else {
            return Err(Stop::NotConstant(
                self.input_behind(scope, index).unwrap_or_else(|| format!("{}, which is not supported", label())),
            ));
        };
        let mut inputs = Vec::with_capacity(node.input.len());
        for input in &node.input {
            inputs.push(if input.is_empty() { None } else { Some(self.trace(scope, input, depth + 1)?) });
        }
        let frozen = inputs.iter().flatten().flat_map(|t| t.frozen.iter().cloned()).collect();
        let data: Vec<&Traced> = inputs.iter().take(data_inputs).flatten().collect();
        let constants = data.iter().flat_map(|t| t.constants.iter().cloned()).collect();
        let others = inputs.iter().skip(data_inputs).flatten().flat_map(|t| &t.constants);
        let parameters = inputs.iter().flatten().flat_map(|t| &t.parameters).chain(others).cloned().collect();
        let route = shortened(format!("{}({})", node.op_type(), list(&data)));
        let inputs = inputs.iter().map(|t| t.as_ref().map(|t| t.constant.clone())).collect();
        let mut operation = Operation { node, opset: model.opset(), inputs, budget: self.budget };
        let constant = operation.fold(output).map_err(|why| Stop::NotConstant(format!("{}, which {why}", label())))?;
        Ok(Traced { constant, route, constants, parameters, frozen })
    }

    /// A Constant node with any of its attributes for numbers.
    fn constant_node(&mut self, scope: &Scope, index: usize, name: &str) -> Tracing<Traced> {
        let model = self.model;
        let node = model.node(scope, index);
        let attribute = node.attribute.iter().find(|a| a.name() == "value" || a.name().starts_with("value_"));
        let route = "Constant node";
        let numbers = |element, data, bytes: usize| {
            Ok(self.root(scope, name, Some(index), Constant { element, data }, bytes as u64, false, route))
        };
        let float = |v: ArcArray<f32, IxDyn>| numbers(ElementType::Float, Data::Float(v.clone()), 4 * v.len());
        let int = |v: ArcArray<i64, IxDyn>| numbers(ElementType::Int64, Data::Integer(v.clone()), 8 * v.len());
        let scalar = IxDyn(&[]);
        match attribute.map(|a| (a.name(), a)) {
            Some(("value", a)) if a.t.is_some() => {
                let tensor = a.t.as_ref().expect("the guard says so");
                let route = if is_external(tensor) { "external data" } else { route };
                self.stored(scope, name, Some(index), tensor, route)
            }
            Some(("value_float", a)) => float(ArcArray::from_elem(scalar, a.f())),
            Some(("value_int", a)) => int(ArcArray::from_elem(scalar, a.i())),
            Some(("value_floats", a)) => float(ArcArray::from_vec(a.floats.clone()).into_dyn()),
            Some(("value_ints", a)) => int(ArcArray::from_vec(a.ints.clone()).into_dyn()),
            Some((other, _)) => Err(Stop::NotConstant(format!("Constant node '{}' with a {}", Cut(name), Cut(other)))),
            None => Err(Stop::NotConstant(format!("Constant node '{}' without a tensor", Cut(name)))),
        }
    }

    fn input(&self, scope: &Scope, name: &str) -> String {
        match body_of(self.model, scope) {
            None => format!("graph input '{}'", Cut(name)),
            Some(body) => format!("input '{}' of the {} body", Cut(name), body.op_type()),
        }
    }

    /// The first graph input that a node's inputs are computed from, if any: a better reason than an operator's name.
    fn input_behind(&self, scope: &Scope, node: usize) -> Option<String> {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![(scope.clone(), node)];
        // of a chain of any length the reason need not be found: there is a plainer one
        while let Some((scope, node)) = ahead.pop().filter(|_| seen.len() < limits::FOLD_DEPTH * limits::FOLD_DEPTH) {
            for name in self.model.node(&scope, node).input.iter().filter(|n| !n.is_empty()) {
                let Some(definition) = self.values.resolve(&scope, name) else { continue };
                match definition.origin {
                    Origin::Input(_) => return Some(self.input(&definition.scope, name)),
                    Origin::Node { node, .. } if seen.insert((definition.scope.clone(), node)) => {
                        ahead.push((definition.scope.clone(), node));
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

/// The node whose body a graph is; `None` for the model's own graph.
pub(crate) fn body_of<'m>(model: &'m Model, scope: &Scope) -> Option<&'m NodeProto> {
    let step = scope.steps().last()?;
    Some(model.node(&scope.parent()?, step.node))
}

/// `Gemm`, or `com.microsoft.QGemm`.
pub(crate) fn operator(node: &NodeProto) -> String {
    let op = Cut(node.op_type());
    if is_standard(node.domain()) { op.to_string() } else { format!("{}.{op}", Cut(node.domain())) }
}

/// The routes of several inputs, equal neighbours told once.
fn list(inputs: &[&Traced]) -> String {
    let runs = inputs.chunk_by(|a, b| a.route == b.route).map(|run| match run {
        [one] => one.route.clone(),
        more => format!("{} x {}", more.len(), more[0].route),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// A route is for one line of a table, and a diamond of nodes would double it at every level.
fn shortened(route: String) -> String {
    const LONGEST: usize = 160;
    match route.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", route[..end].trim_end_matches('.')),
        None => route,
    }
}

/// The values of a weight, seen in three dimensions.
pub(crate) fn three_dimensions(constant: Constant, shape: [usize; 3], name: &str) -> Result<Array3<f32>> {
    match constant.data {
        Data::Float(values) => values.as_standard_layout().into_owned().into_shape_with_order(shape).map_err(|_| {
            Error::new(ErrorKind::Malformed, format!("it has not the elements of {shape:?}")).at_tensor(name)
        }),
        Data::Integer(_) => Err(Error::new(ErrorKind::Malformed, "its elements are no floats").at_tensor(name)),
    }
}

/// Hash over the bit patterns, the same in one run of the program.
pub(crate) fn hash(values: &Array3<f32>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut buffer = Vec::with_capacity(4096);
    let slice = values.as_slice().expect("evaluated weights are in row-major order");
    for chunk in slice.chunks(1024) {
        buffer.clear();
        buffer.extend(chunk.iter().flat_map(|v| v.to_bits().to_le_bytes()));
        hasher.write(&buffer);
    }
    hasher.finish()
}
