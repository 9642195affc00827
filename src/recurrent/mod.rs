//! The LSTM, GRU and RNN nodes of a model, in all its graphs: what they are, and where their weights come from.
//!
//! [`find`] gives a [`Survey`]: the nodes whose W and R are constant, the distinct weights among them, and the rest with
//! a reason each. A node has [`GateBlock`]s: one gate of W or R in one direction each.
//!
//! Invariant: every listed node was checked against the operator specification: attributes, and the shapes of W
//! `[num_directions, G * H, I]` and R `[num_directions, G * H, H]`.

mod attributes;
mod fold;
mod stack;
mod vector;
mod weights;
mod written_out;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

use ndarray::Array2;
use regex::Regex;

pub use attributes::{Attributes, Cell, Direction, Function, NamedActivation};
pub use vector::Vector;
pub use weights::{ConstantRef, Constants, Source, total_bytes};

use crate::error::{Cut, Error, ErrorKind, Result, meant};
use crate::limits;
use crate::onnx::ElementType;
use crate::onnx::graph::{bodies, is_standard, plain_name};
use crate::onnx::proto::tensor_shape_proto::dimension;
use crate::onnx::proto::{TensorProto, ValueInfoProto, type_proto};
use crate::onnx::tensor::{is_external, payload_bytes, shape};
use crate::onnx::{Definition, Model, NodeNames, NodeProto, Origin, Scope, Use, Values};
pub(crate) use fold::Budget;
pub(crate) use weights::{Integers, Stop, Traced, body_of, hash, operator, three_dimensions, trace};

/// B `[directions, 2*G*H]` of a node, or why it is not known before the model is run.
pub type Bias = std::result::Result<Array2<f32>, String>;

/// The input of a recurrent node that is B.
pub const BIAS: usize = 3;

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct FindOptions {
    /// Treat initializers that are also graph inputs as constants; their inputs are removed from the model.
    pub freeze_inputs: bool,
    /// Only nodes whose name matches; it is an error if none does.
    pub include: Option<Regex>,
    /// No nodes whose name matches; it is an error if none does.
    pub exclude: Option<Regex>,
    /// Nothing but recurrent nodes.
    pub recurrent_only: bool,
    /// No nodes whose name matches one of these either, if there are any.
    pub skip: Vec<Regex>,
}

/// The recurrent nodes of a model.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Nodes that can be compressed: outer graphs before inner ones, in the order of the nodes.
    pub nodes: Vec<RecurrentNode>,
    /// The distinct weights of these nodes, in the order of their first use.
    pub weights: Vec<Weight>,
    /// Recurrent nodes that are not compressed.
    pub skipped: Vec<Skipped>,
    /// For every node its W and R, by index in `weights`.
    weights_of: Vec<[usize; 2]>,
    /// For every node the one whose states it reads.
    feeders: Vec<Option<usize>>,
}

/// An LSTM, GRU or RNN whose W and R are constants.
#[derive(Clone, Debug)]
pub struct RecurrentNode {
    /// The graph that it is in.
    pub scope: Scope,
    /// Its index in that graph.
    pub index: usize,
    /// A unique, readable name.
    pub name: String,
    /// Which operator it is.
    pub cell: Cell,
    /// Its attributes.
    pub attributes: Attributes,
    /// I, the size of the vectors that it reads.
    pub input_size: usize,
    /// Its optional inputs.
    pub reads: Reads,
    /// The operators whose bodies it is in, from the outside inwards: `If`, `Loop` or `Scan`.
    pub bodies: Vec<String>,
    /// Where W comes from.
    pub w: Source,
    /// Where R comes from.
    pub r: Source,
}

/// Which optional inputs a node reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// B.
    pub bias: bool,
    /// sequence_lens.
    pub sequence_lens: bool,
    /// initial_h.
    pub initial_h: bool,
    /// initial_c (LSTM).
    pub initial_c: bool,
    /// P (LSTM): peepholes.
    pub peepholes: bool,
}

/// One tensor of weights, whichever nodes use it: the same value, or values that are equal bit for bit.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Who uses it, in the order of the nodes; at least one.
    pub uses: Vec<WeightUse>,
}

/// A use of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightUse {
    /// Index in [`Survey::nodes`].
    pub node: usize,
    /// As what the node reads it.
    pub matrix: Matrix,
}

/// A recurrent node that is not compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub node: String,
    /// Its operator, with the domain if that is not the standard one.
    pub op: String,
    /// Why, in words.
    pub reason: String,
    /// Whether the reason is a fault in the model rather than a missing feature.
    pub warning: bool,
}

/// Which of the two weight inputs of a recurrent node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// Input 1: multiplies the input vector X_t.
    W,
    /// Input 2: multiplies the hidden state H_(t-1).
    R,
}

impl Matrix {
    /// Both, in the order of the node's inputs.
    pub const BOTH: [Matrix; 2] = [Matrix::W, Matrix::R];

    /// Index of the node's input.
    pub fn input(self) -> usize {
        match self {
            Matrix::W => 1,
            Matrix::R => 2,
        }
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Matrix::W => "W",
            Matrix::R => "R",
        })
    }
}

/// One gate of W or R in one direction of one node: a matrix `[H, n]`, n being I for W and H for R.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateBlock {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub cell: Cell,
    /// W or R.
    pub matrix: Matrix,
    /// Forward or reverse.
    pub direction: Direction,
    /// Index in the first dimension of W and R.
    pub direction_index: usize,
    /// The gate's letter in the specification.
    pub gate: &'static str,
    /// Index of the gate.
    pub gate_index: usize,
    /// H.
    pub hidden: usize,
    /// n.
    pub columns: usize,
}

impl GateBlock {
    /// Its rows in the second dimension of W or R.
    pub fn rows(&self) -> Range<usize> {
        self.gate_index * self.hidden..(self.gate_index + 1) * self.hidden
    }

    /// `[H, n]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.hidden, self.columns]
    }
}

/// `node/W/forward/i`.
impl fmt::Display for GateBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.node, self.matrix, self.direction.name(), self.gate)
    }
}

impl RecurrentNode {
    /// Where W or R comes from.
    pub fn source(&self, matrix: Matrix) -> &Source {
        match matrix {
            Matrix::W => &self.w,
            Matrix::R => &self.r,
        }
    }

    fn bias(&self, model: &Model, constants: &mut Constants<'_>) -> Bias {
        let name = &model.node(&self.scope, self.index).input[BIAS];
        let values = constants.get(&self.scope, name).map_err(|error| error.to_string())?;
        let expected = [self.attributes.direction.count(), 2 * self.cell.gates().len() * self.attributes.hidden];
        let found = values.shape().to_vec();
        let bias = values.into_dimensionality().ok().filter(|_| found == expected);
        bias.ok_or_else(|| format!("tensor '{name}': has shape {found:?}, expected {expected:?}"))
    }

    /// The gate blocks of the node: W before R, then by direction, then by gate.
    pub fn blocks(&self) -> Vec<GateBlock> {
        Matrix::BOTH.iter().flat_map(|&matrix| self.blocks_of(matrix)).collect()
    }

    /// The gate blocks of W or of R, by direction, then by gate.
    pub fn blocks_of(&self, matrix: Matrix) -> Vec<GateBlock> {
        let columns = self.source(matrix).shape[2];
        let directions = self.attributes.direction.each().iter().enumerate();
        let block = |(direction_index, &direction), (gate_index, &gate)| GateBlock {
            node: self.name.clone(),
            cell: self.cell,
            matrix,
            direction,
            direction_index,
            gate,
            gate_index,
            hidden: self.attributes.hidden,
            columns,
        };
        directions.flat_map(|d| self.cell.gates().iter().enumerate().map(move |g| block(d, g))).collect()
    }
}

impl Survey {
    /// The weight that a node reads as W or R, by index in [`weights`](Self::weights).
    pub fn weight_of(&self, node: usize, matrix: Matrix) -> Option<usize> {
        Some(self.weights_of.get(node)?[matrix.input() - 1])
    }

    /// The B of every node that reads one, evaluated anew.
    pub fn biases(&self, model: &Model) -> Vec<Option<Bias>> {
        let mut constants = Constants::new(model);
        let mut bias = |node: &RecurrentNode| match &mut constants {
            Ok(constants) => node.bias(model, constants),
            Err(error) => Err(error.to_string()),
        };
        self.nodes.iter().map(|node| node.reads.bias.then(|| bias(node))).collect()
    }

    /// The stored tensors that are the B of nodes and nothing else: single-precision, in the file itself, and not open to
    /// the caller.
    ///
    /// # Errors
    /// As [`Values::new`].
    pub fn own_biases(&self, model: &Model) -> Result<Vec<OwnBias>> {
        let values = Values::new(&model.proto)?;
        let known: HashMap<(&Scope, usize), usize> =
            self.nodes.iter().enumerate().map(|(index, node)| ((&node.scope, node.index), index)).collect();
        let reader = |used: &Use| match used {
            Use::Node { scope, node, input: BIAS } => known.get(&(scope, *node)).copied(),
            _ => None,
        };
        let mut seen = BTreeSet::new();
        let mut own = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let name = model.node(&node.scope, node.index).input.get(BIAS).filter(|name| !name.is_empty());
            let Some((name, definition)) = name.and_then(|name| Some((name, values.resolve(&node.scope, name)?)))
            else {
                continue;
            };
            let is_plain = |tensor: &TensorProto| {
                let raw = tensor.raw_data.as_ref().map(|raw| raw.len() as u64);
                tensor.data_type() == ElementType::Float as i32
                    && !is_external(tensor)
                    && raw.is_some_and(|raw| payload_bytes(tensor).is_ok_and(|all| all == raw))
            };
            let fixed = definition.is_input || values.is_ambiguous(name);
            if seen.contains(&index) || fixed || !model.initializer(definition).is_some_and(is_plain) {
                continue;
            }
            let readers: Option<BTreeSet<usize>> = values.uses(&definition.scope, name).iter().map(reader).collect();
            if let Some(readers) = readers {
                own.push(OwnBias { definition: definition.clone(), nodes: readers.iter().copied().collect() });
                seen.extend(readers);
            }
        }
        Ok(own)
    }

    /// The node whose Y, all directions side by side, a node reads as X, by index in [`nodes`](Self::nodes).
    pub fn feeder(&self, node: usize) -> Option<usize> {
        self.feeders.get(node).copied().flatten()
    }

    /// Where a weight comes from: that of its first use.
    pub fn source(&self, weight: &Weight) -> &Source {
        let first = weight.uses[0];
        self.nodes[first.node].source(first.matrix)
    }

    /// Stored bytes of the W and R of all nodes: a tensor that several nodes share counts once, one that is stored
    /// twice counts twice, and of a tensor that holds more than weights only their part counts.
    pub fn stored_bytes(&self) -> u64 {
        total_bytes(self.sources())
    }

    /// The W and R of all nodes.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.nodes.iter().flat_map(|node| Matrix::BOTH.map(|matrix| node.source(matrix)))
    }
}

/// A stored tensor that is the B of nodes and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnBias {
    /// Where it is stored.
    pub definition: Definition,
    /// All that read it, by index in [`Survey::nodes`], in order.
    pub nodes: Vec<usize>,
}

/// Finds every recurrent node of a model, in all its graphs, and follows its weights.
///
/// # Errors
/// `Malformed` for a node that breaks the rules of its operator or whose weights cannot be read; the error names node
/// and tensor. What is merely not supported, or not constant, is [skipped](Survey::skipped).
pub fn find(model: &Model, options: &FindOptions) -> Result<Survey> {
    let names = NodeNames::new(&model.proto);
    let mut finder = Finder {
        model,
        options,
        values: Values::new(&model.proto)?,
        budget: Budget::for_model(model),
        vectors: Budget::for_model(model),
        survey: Survey::default(),
        sources: HashMap::new(),
        known: HashMap::new(),
    };
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate() {
            let name = names.get(&scope, index);
            finder.visit(&scope, index, name, node).map_err(|e| e.at_node(name))?;
        }
    }
    finder.visit_functions();
    if finder.survey.nodes.is_empty() {
        finder.survey.skipped.extend(written_out::find(model, &finder.values, &names));
    }
    finder.survey.feeders = stack::feeders(model, &finder.values, &finder.survey.nodes);
    Ok(finder.survey)
}

/// Refuses a pattern that matches none of the names of the nodes with weights: it would be obeyed by doing nothing, or
/// everything.
///
/// # Errors
/// [`ErrorKind::Usage`], with a name that may be meant.
pub fn check_patterns(names: &[&str], options: &FindOptions) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let given = [("--include", &options.include), ("--exclude", &options.exclude)];
    let mut given = given.into_iter().filter_map(|(flag, pattern)| Some((flag, pattern.as_ref()?)));
    let idle = |pattern: &Regex| !names.iter().any(|name| pattern.is_match(name));
    let Some((flag, pattern)) = given.find(|(_, pattern)| idle(pattern)) else { return Ok(()) };
    let (pattern, listed) = (pattern.as_str(), listed(names));
    let meant = meant(pattern.trim_matches(['^', '$']), names.iter().copied());
    let message = format!("{flag} '{}' is the name of no node with weights{meant}; there are {listed}", Cut(pattern));
    Err(Error::new(ErrorKind::Usage, message))
}

/// A few of some names, quoted.
pub fn listed(names: &[&str]) -> String {
    const FEW: usize = 4;
    let more = if names.len() > FEW { format!(" and {} more", names.len() - FEW) } else { String::new() };
    let few: Vec<String> = names.iter().take(FEW).map(|name| format!("'{}'", Cut(name))).collect();
    format!("{}{more}", few.join(", "))
}

/// Why a node is not taken: a reason for the report, or an error in the model.
enum Refusal {
    Skip { reason: String, warning: bool },
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Failed(error)
    }
}

fn skip<T>(reason: impl Into<String>) -> std::result::Result<T, Refusal> {
    Err(Refusal::Skip { reason: reason.into(), warning: false })
}

/// Whether a weight may be equal to another: shape, element type, H (which divides the rows into gates), and hash.
type Likeness = ([usize; 3], i32, usize, u64);

struct Finder<'m, 'o> {
    model: &'m Model,
    options: &'o FindOptions,
    values: Values<'m>,
    budget: Budget,
    /// As `budget`, for what is only looked at.
    vectors: Budget,
    survey: Survey,
    /// What was followed already, by graph and name: an unrolled model reads one weight a thousand times.
    sources: HashMap<(Scope, String), Source>,
    /// Weights that may be equal, by index.
    known: HashMap<Likeness, Vec<usize>>,
}

impl Finder<'_, '_> {
    fn visit(&mut self, scope: &Scope, index: usize, name: &str, node: &NodeProto) -> Result<()> {
        if !is_recurrent(node) {
            return Ok(());
        }
        match self.examine(scope, index, name, node) {
            Ok(found) => self.add(found),
            Err(Refusal::Skip { reason, warning }) => {
                self.survey.skipped.push(Skipped { node: name.to_owned(), op: operator(node), reason, warning });
                Ok(())
            }
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    fn examine(
        &mut self,
        scope: &Scope,
        index: usize,
        name: &str,
        node: &NodeProto,
    ) -> std::result::Result<RecurrentNode, Refusal> {
        if self.options.exclude.iter().chain(&self.options.skip).any(|pattern| pattern.is_match(name)) {
            return skip("excluded by --exclude");
        }
        if self.options.include.as_ref().is_some_and(|i| !i.is_match(name)) {
            return skip("not among those of --include");
        }
        let cell = supported_cell(node)?;
        let attributes = Attributes::read(node, cell, self.model.opset())?;
        let reads = Reads::of(node, cell)?;
        self.check_vectors(scope, node, cell, &attributes)?;
        // All that stands in the way is told at once: who clears one obstacle should not meet the next.
        let mut obstacles = Vec::new();
        let mut warning = false;
        let mut seen = |obstacle: Refusal| match obstacle {
            Refusal::Skip { reason, warning: faulty } => {
                warning |= faulty;
                obstacles.push(reason);
                Ok(None)
            }
            failed => Err(failed),
        };
        let w = self.source(scope, node, Matrix::W, cell, &attributes).map(Some).or_else(&mut seen)?;
        let r = self.source(scope, node, Matrix::R, cell, &attributes).map(Some).or_else(&mut seen)?;
        if let Some(obstacle) = self.unfit_vectors(scope, node) {
            seen(obstacle)?;
        }
        if let (Some(w), Some(r)) = (&w, &r) {
            if w.element != r.element {
                let (w, r) = (w.element.as_str_name(), r.element.as_str_name());
                return Err(Error::new(ErrorKind::Malformed, format!("W is {w} but R is {r}")).into());
            }
            self.check_input(scope, node, w.shape[2])?;
            if !matches!(w.element, ElementType::Float | ElementType::Float16) {
                let found = w.element.as_str_name();
                obstacles.push(format!(
                    "weights of type {found} are not supported: convert the model to FLOAT or FLOAT16 and export it again"
                ));
            }
        }
        if self.model.opset() < limits::FIRST_OPSET {
            let (opset, first) = (self.model.opset(), limits::FIRST_OPSET);
            obstacles.push(format!(
                "opset {opset} lacks operators that decode weights: convert the model to {first}, with \
                 onnx.version_converter or a new export"
            ));
        }
        obstacles.dedup();
        let (Some(w), Some(r), true) = (w, r, obstacles.is_empty()) else {
            return Err(Refusal::Skip { reason: obstacles.join("; "), warning });
        };
        Ok(RecurrentNode {
            scope: scope.clone(),
            index,
            name: name.to_owned(),
            cell,
            attributes,
            input_size: w.shape[2],
            reads,
            bodies: self.bodies(scope),
            w,
            r,
        })
    }

    /// B and P, where they are stored as they are read.
    fn check_vectors(&self, scope: &Scope, node: &NodeProto, cell: Cell, attributes: &Attributes) -> Result<()> {
        let directions = attributes.direction.count();
        for (index, name, blocks) in [(BIAS, "B", 2 * cell.gates().len()), (7, "P", 3)] {
            let value = node.input.get(index).filter(|v| !v.is_empty());
            let Some(value) = value else { continue };
            let definition = self.values.resolve(scope, value);
            let Some(tensor) = definition.and_then(|d| self.model.initializer(d)) else { continue };
            let (found, expected) = (shape(tensor)?, [directions, blocks.saturating_mul(attributes.hidden)]);
            if found != expected {
                let message = format!("{name} has shape {found:?}, expected {expected:?}");
                return Err(Error::new(ErrorKind::Malformed, message).at_tensor(value));
            }
        }
        Ok(())
    }

    /// Why values of B, P or the initial states leave the node alone, where they are constants. They have a budget of their own:
    /// those that are too large to be looked at are left to the runtime.
    fn unfit_vectors(&mut self, scope: &Scope, node: &NodeProto) -> Option<Refusal> {
        for (index, name) in [(BIAS, "B"), (5, "initial_h"), (6, "initial_c"), (7, "P")] {
            let Some(value) = node.input.get(index).filter(|v| !v.is_empty()) else { continue };
            let traced = trace(self.model, &self.values, scope, value, true, Integers::Dequantised, &mut self.vectors);
            if traced.is_ok_and(|traced| !traced.constant.is_finite()) {
                return Some(Refusal::Skip { reason: format!("{name} holds NaN or infinite values"), warning: true });
            }
        }
        None
    }

    /// The size of X, where it is an input of the model that tells it: engines do not all look.
    fn check_input(&self, scope: &Scope, node: &NodeProto, input_size: usize) -> Result<()> {
        let definition = self.values.resolve(scope, &node.input[0]).filter(|d| d.scope.is_root());
        let Some(Origin::Input(index)) = definition.map(|d| d.origin) else { return Ok(()) };
        let Some(size) = last_dimension(&self.model.graph(&Scope::root()).input[index]) else { return Ok(()) };
        if size != input_size as i64 {
            let message = format!("X has vectors of {size}, but W is for vectors of {input_size}");
            return Err(Error::new(ErrorKind::Malformed, message).at_tensor(&node.input[0]));
        }
        Ok(())
    }

    fn bodies(&self, scope: &Scope) -> Vec<String> {
        let mut kinds: Vec<String> =
            scope.outwards().filter_map(|s| Some(body_of(self.model, &s)?.op_type().to_owned())).collect();
        kinds.reverse();
        kinds
    }

    fn source(
        &mut self,
        scope: &Scope,
        node: &NodeProto,
        matrix: Matrix,
        cell: Cell,
        attributes: &Attributes,
    ) -> std::result::Result<Source, Refusal> {
        let Some(value) = node.input.get(matrix.input()).filter(|v| !v.is_empty()) else {
            return Err(Error::new(ErrorKind::Malformed, format!("input {matrix} is missing")).into());
        };
        let definition = self.values.resolve(scope, value);
        let expected = Expected { matrix, value, cell, attributes };
        let key = (scope.clone(), value.clone());
        if let Some(source) = self.sources.get(&key) {
            expected.check(&source.shape)?;
            return Ok(source.clone());
        }
        if let Some(tensor) = definition.and_then(|d| self.model.initializer(d)) {
            // before anything is read: the dimensions say how much that would be
            expected.check(&shape(tensor).map_err(|e| e.at_tensor(value))?)?;
        }
        let freeze_inputs = self.options.freeze_inputs;
        let integers = Integers::Dequantised;
        let traced = match trace(self.model, &self.values, scope, value, freeze_inputs, integers, &mut self.budget) {
            Ok(traced) => traced,
            Err(Stop::Failed(error)) => return Err(error.into()),
            Err(Stop::NotConstant(what)) => {
                let direct = !matches!(definition.map(|d| d.origin), Some(Origin::Node { .. }));
                return skip(format!("{matrix} is {}{what}", if direct { "" } else { "computed from " }));
            }
        };
        let shape = expected.check(traced.constant.shape())?;
        let element = traced.constant.element;
        let values = three_dimensions(traced.constant, shape, value)?;
        if values.is_empty() {
            return skip(format!("{matrix} is empty"));
        }
        if !values.iter().all(|v| v.is_finite()) {
            let reason = format!("{matrix} holds NaN or infinite values");
            return Err(Refusal::Skip { reason, warning: true });
        }
        // What was coded already may decode to a little more than what it was coded from.
        let decoded = traced.constants.iter().any(|c| c.element == ElementType::Int8);
        if !decoded && values.iter().any(|v| v.abs() > limits::WEIGHT) {
            let reason = format!("{matrix} holds values beyond {:e}, which no trained layer has", limits::WEIGHT);
            return Err(Refusal::Skip { reason, warning: true });
        }
        let source = Source {
            value: value.clone(),
            scope: scope.clone(),
            home: definition.map_or_else(|| scope.clone(), |d| d.scope.clone()),
            dims: shape.to_vec(),
            shape,
            element,
            route: traced.route,
            constants: traced.constants.into_iter().collect(),
            parameters: traced.parameters.into_iter().collect(),
            frozen: traced.frozen.into_iter().collect(),
            hash: hash(&values),
        };
        self.sources.insert(key, source.clone());
        Ok(source)
    }

    /// Lists a node, and counts its weights to those that are known or as new ones.
    fn add(&mut self, node: RecurrentNode) -> Result<()> {
        self.survey.nodes.push(node);
        let node = self.survey.nodes.len() - 1;
        let mut weights = [0; 2];
        for (matrix, weight) in Matrix::BOTH.into_iter().zip(&mut weights) {
            *weight = self.weight(node, matrix)?;
        }
        self.survey.weights_of.push(weights);
        Ok(())
    }

    /// Index of the weight that the last node reads as `matrix`, after counting this use of it.
    fn weight(&mut self, node: usize, matrix: Matrix) -> Result<usize> {
        let found = &self.survey.nodes[node];
        let source = found.source(matrix).clone();
        let likeness = (source.shape, source.element as i32, found.attributes.hidden, source.hash);
        let usage = WeightUse { node, matrix };
        for candidate in self.known.get(&likeness).cloned().unwrap_or_default() {
            let other = self.survey.source(&self.survey.weights[candidate]).clone();
            if self.same(&other, &source)? {
                self.survey.weights[candidate].uses.push(usage);
                return Ok(candidate);
            }
        }
        self.survey.weights.push(Weight { uses: vec![usage] });
        let new = self.survey.weights.len() - 1;
        self.known.entry(likeness).or_default().push(new);
        Ok(new)
    }

    /// Whether two values of the same likeness are equal bit for bit.
    fn same(&mut self, a: &Source, b: &Source) -> Result<bool> {
        if a.home == b.home && a.value == b.value {
            return Ok(true);
        }
        let mut evaluate = |source: &Source| source.evaluate(self.model, &self.values, &mut self.budget);
        let (a, b) = match (evaluate(a), evaluate(b)) {
            (Ok(a), Ok(b)) => (a, b),
            // the budget is spent: to code equal weights twice is no fault
            (Err(e), _) | (_, Err(e)) if e.kind() == ErrorKind::Unsupported => return Ok(false),
            (Err(e), _) | (_, Err(e)) => return Err(e),
        };
        Ok(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()))
    }

    /// Nodes in model-local functions are told of but not followed: a function may be called with other weights.
    fn visit_functions(&mut self) {
        fn walk(nodes: &[NodeProto], function: &str, skipped: &mut Vec<Skipped>) {
            for (index, node) in nodes.iter().enumerate() {
                if is_recurrent(node) {
                    let reason =
                        format!("it is in the model-local function '{function}'; inline the model's functions first");
                    let name = format!("{function}/{}", plain_name(node, index));
                    skipped.push(Skipped { node: name, op: operator(node), reason, warning: false });
                }
                bodies(node).for_each(|(_, _, body)| walk(&body.node, function, skipped));
            }
        }
        for function in &self.model.proto.functions {
            let name = match function.domain() {
                "" => function.name().to_owned(),
                domain => format!("{domain}.{}", function.name()),
            };
            walk(&function.node, &name, &mut self.survey.skipped);
        }
    }
}

/// The last of three dimensions of a graph input, if it is told and fixed.
fn last_dimension(input: &ValueInfoProto) -> Option<i64> {
    let type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()? else { return None };
    match &tensor.shape.as_ref()?.dim[..] {
        [_, _, size] => match size.value.as_ref()? {
            dimension::Value::DimValue(size) => Some(*size),
            dimension::Value::DimParam(_) => None,
        },
        _ => None,
    }
}

/// Whether a node is an LSTM, GRU or RNN that the survey should tell of. Those of foreign domains are not ours, but for
/// the variants that onnxruntime makes of ONNX's.
fn is_recurrent(node: &NodeProto) -> bool {
    let op = node.op_type();
    match node.domain() {
        domain if is_standard(domain) => Cell::of_operator(op).is_some(),
        "com.microsoft" => op.contains("LSTM") || op.contains("GRU"),
        _ => false,
    }
}

fn supported_cell(node: &NodeProto) -> std::result::Result<Cell, Refusal> {
    let op = node.op_type();
    match Cell::of_operator(op) {
        Some(cell) if is_standard(node.domain()) => Ok(cell),
        _ if op.contains("Quantize") => {
            skip(format!("already quantised ({}): compress the float model that it was made from", operator(node)))
        }
        _ => skip(format!("{} is not supported; LSTM, GRU and RNN of ONNX are", operator(node))),
    }
}

impl Reads {
    /// The inputs that are read, by their names in the specification.
    pub fn names(self) -> Vec<&'static str> {
        let inputs = [
            ("B", self.bias),
            ("sequence_lens", self.sequence_lens),
            ("initial_h", self.initial_h),
            ("initial_c", self.initial_c),
            ("P", self.peepholes),
        ];
        inputs.into_iter().filter(|(_, read)| *read).map(|(name, _)| name).collect()
    }

    fn of(node: &NodeProto, cell: Cell) -> Result<Reads> {
        let present = |index| node.input.get(index).is_some_and(|v: &String| !v.is_empty());
        let most = cell.inputs();
        if node.input.len() > most {
            let message = format!("{} inputs, but {} has at most {most}", node.input.len(), cell.operator());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        let outputs = 1 + cell.states().len();
        if node.output.len() > outputs {
            let message = format!("{} outputs, but {} has at most {outputs}", node.output.len(), cell.operator());
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        if !present(0) {
            return Err(Error::new(ErrorKind::Malformed, "input X is missing"));
        }
        Ok(Reads {
            bias: present(3),
            sequence_lens: present(4),
            initial_h: present(5),
            initial_c: present(6),
            peepholes: present(7),
        })
    }
}

/// What the shape of W or R must be.
struct Expected<'a> {
    matrix: Matrix,
    value: &'a str,
    cell: Cell,
    attributes: &'a Attributes,
}

impl Expected<'_> {
    fn check(&self, shape: &[usize]) -> Result<[usize; 3]> {
        let Expected { matrix, value, cell, attributes } = self;
        let hidden = attributes.hidden;
        let (directions, rows) = (attributes.direction.count(), cell.gates().len().saturating_mul(hidden));
        if let &[d, g, n] = shape
            && (d, g) == (directions, rows)
            && (*matrix == Matrix::W || n == hidden)
        {
            return Ok([d, g, n]);
        }
        let columns = match matrix {
            Matrix::W => "input size".to_owned(),
            Matrix::R => hidden.to_string(),
        };
        let message = format!(
            "{matrix} has shape {shape:?}, expected [{directions}, {rows}, {columns}] for hidden_size {hidden}, {}",
            attributes.direction.name()
        );
        Err(Error::new(ErrorKind::Malformed, message).at_tensor(*value))
    }
}

#[cfg(test)]
mod tests;
