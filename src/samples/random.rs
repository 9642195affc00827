//! Seeded random inputs, used if there are no samples.
//!
//! Floats are drawn from N(0, 1). The range of integers is derived from the graph: an index of a Gather is below the size
//! of the axis, an operand that an Equal compares with a constant is that constant, and `sequence_lens` of a recurrent node
//! is the full length. Each guess is reported.

use super::batch::{is_nameless, names_batch};
use super::{AxisSize, Carry, Feed, Port, Samples, Signature, Stream, Tensor};
use crate::error::{Cut, Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::{ElementType, Model, NodeProto, Origin, Scope, TensorProto, Use, Values};
use half::f16;
use ndarray::{ArrayD, IxDyn};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Size of a dimension that nothing is known about: long enough for a recurrent state to settle.
const LENGTH: usize = 32;

/// Generated samples, and the guesses that were necessary.
#[derive(Clone, Debug)]
pub struct Random {
    /// The samples.
    pub samples: Samples,
    /// One line for each guess.
    pub guesses: Vec<String>,
}

/// Number and shape of generated samples.
#[derive(Clone, Copy, Debug)]
pub struct RandomOptions<'a> {
    /// Sizes of symbolic dimensions, by symbol, or by `INPUT[AXIS]` for one without a symbol.
    pub dims: &'a [(String, usize)],
    /// Outputs that are fed back; the samples then are the steps of one stream.
    pub carry: &'a [Carry],
    /// The same seed gives the same samples.
    pub seed: u64,
    /// How many.
    pub count: usize,
}

impl Random {
    /// Generates samples for a model. Inputs that cannot be given, or whose element type cannot be drawn, are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a dimension or a carry that the model does not have, for an input of unknown rank, and for sizes
    /// beyond [`limits::SAMPLE_BYTES`].
    pub fn new(model: &Model, options: &RandomOptions) -> Result<Random> {
        let signature = Signature::of(model)?;
        Carry::check(options.carry, &signature)?;
        let mut guesses: Vec<String> = Vec::new();
        let closed = signature.closed.iter();
        guesses.extend(closed.map(|c| format!("nothing can be drawn for input '{}': it is {}", c.name, c.what)));
        let shapes = shapes(&signature, options.dims, &mut guesses)?;
        let graph = Indexed { model, values: Values::new(&model.proto)? };
        let mut inputs = Vec::new();
        for (port, shape) in signature.inputs.iter().zip(&shapes) {
            if Tensor::zeros(port.element, &[]).is_none() {
                let element = port.element.as_str_name();
                guesses.push(format!("nothing can be drawn for input '{}' of element type {element}", port.name));
                continue;
            }
            let content = match options.carry.iter().any(|c| c.input == port.name) {
                true => Content::Zeros,
                false => graph.content(port, &signature, &shapes, &mut guesses),
            };
            inputs.push(Input { port, shape, content });
        }
        check_bytes(&inputs, options)?;
        let feeds: Vec<Feed> = (0..options.count).map(|i| feed(&inputs, options.seed, i)).collect();
        let stream = |i: usize, feeds| Stream { origin: format!("random[{i}]"), feeds, labels: Vec::new() };
        let streams = match options.carry {
            [] => feeds.into_iter().enumerate().map(|(i, feed)| stream(i, vec![feed])).collect(),
            _ => vec![stream(0, feeds)],
        };
        Ok(Random {
            samples: Samples { streams, carry: options.carry.to_vec(), made_up: true, notes: Vec::new() },
            guesses,
        })
    }
}

/// How many entries the shortest axis has that the integers of an input index; `None` if they index nothing that is known.
///
/// # Errors
/// Those of [`Values::new`].
pub fn indexed(model: &Model, input: &str) -> Result<Option<i64>> {
    Ok(Indexed { model, values: Values::new(&model.proto)? }.clues(input).indexed)
}

/// Refuses inputs that are too large together, naming the largest and whoever chose its size.
fn check_bytes(inputs: &[Input], options: &RandomOptions) -> Result<()> {
    let bytes = |input: &Input| -> u64 {
        let count = if input.content == Content::Zeros { 1 } else { options.count as u64 };
        let one = super::tensor::bytes(input.port.element, input.shape);
        one.and_then(|bytes| bytes.checked_mul(count)).unwrap_or(u64::MAX)
    };
    if inputs.iter().fold(0u64, |sum, input| sum.saturating_add(bytes(input))) <= limits::SAMPLE_BYTES {
        return Ok(());
    }
    let largest = inputs.iter().max_by_key(|input| bytes(input)).expect("no inputs have no bytes");
    // What the model declares by itself: its open dimensions are at least 1.
    let declared: Vec<usize> = largest.port.dims.iter().flatten().map(|dim| dim.fixed().unwrap_or(1)).collect();
    let least = super::tensor::bytes(largest.port.element, &declared);
    let way = if least.is_none_or(|bytes| bytes > limits::SAMPLE_BYTES / options.count.max(1) as u64) {
        "the model declares such sizes, so give samples"
    } else {
        "choose smaller sizes with --dim"
    };
    let message = format!(
        "{} random inputs of shape {:?} exceed the {} GiB that samples may take; {way}",
        options.count,
        largest.shape,
        limits::SAMPLE_BYTES >> 30
    );
    Err(Error::new(ErrorKind::Usage, message).at_tensor(&largest.port.name))
}

/// A size for every dimension of every input.
fn shapes(signature: &Signature, given: &[(String, usize)], guesses: &mut Vec<String>) -> Result<Vec<Vec<usize>>> {
    let given: BTreeMap<&str, usize> = given.iter().map(|(name, size)| (name.as_str(), *size)).collect();
    let mut unused: BTreeSet<&str> = given.keys().copied().collect();
    let mut guessed = BTreeSet::new();
    let mut shapes = Vec::new();
    for port in &signature.inputs {
        let Some(dims) = &port.dims else {
            let message = "its rank is not declared, so that nothing can be drawn for it: give samples";
            return Err(Error::new(ErrorKind::Usage, message).at_tensor(&port.name));
        };
        let mut size = |(axis, dim): (usize, &AxisSize)| {
            let name = match dim {
                AxisSize::Size(size) => return *size,
                AxisSize::Symbol(symbol) => symbol.clone(),
                AxisSize::Unknown => format!("{}[{axis}]", port.name),
            };
            unused.remove(name.as_str());
            given.get(name.as_str()).copied().unwrap_or_else(|| {
                let size = likely_size(dim, axis + 1 == dims.len());
                guessed.insert(format!("{name}={size}"));
                size
            })
        };
        shapes.push(dims.iter().enumerate().map(&mut size).collect());
    }
    if let Some(name) = unused.first() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("no input of the model has a dimension '{}' to be sized: --dim", Cut(name)),
        ));
    }
    if !guessed.is_empty() {
        let list = guessed.iter().map(|guess| Cut(guess).to_string()).collect::<Vec<_>>().join(" ");
        guesses.push(format!("sizes of symbolic dimensions were guessed (--dim sets them): {list}"));
    }
    Ok(shapes)
}

/// 1 for what looks like a batch, else [`LENGTH`].
fn likely_size(dim: &AxisSize, last: bool) -> usize {
    match dim {
        AxisSize::Symbol(symbol) if names_batch(symbol) => 1,
        // Before other axes, what has no telling name is a batch more often than anything else.
        AxisSize::Symbol(symbol) if is_nameless(symbol) && !last => 1,
        AxisSize::Symbol(_) => LENGTH,
        _ if last => LENGTH,
        _ => 1,
    }
}

struct Input<'a> {
    port: &'a Port,
    shape: &'a [usize],
    content: Content,
}

/// What an input is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    /// Floats from N(0, 1).
    Normal,
    /// Integers from 0 to below this; booleans are below 2.
    Below(i64),
    /// This integer everywhere.
    Always(i64),
    /// The state at the start of a stream; absent in later steps.
    Zeros,
}

/// Every input of every sample has a random stream of its own, so that no input's values depend on another's shape.
fn feed(inputs: &[Input], seed: u64, index: usize) -> Feed {
    let tensor = |(i, input): (usize, &Input)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream((index * inputs.len() + i) as u64);
        let tensor = match input.content {
            Content::Zeros if index > 0 => return None,
            Content::Zeros => Tensor::zeros(input.port.element, input.shape),
            Content::Normal => floats(input.port.element, input.shape, || normal(&mut rng)),
            Content::Below(end) => integers(input.port.element, input.shape, || rng.random_range(0..end)),
            Content::Always(value) => integers(input.port.element, input.shape, || value),
        };
        Some((input.port.name.clone(), tensor.expect("the element type was checked")))
    };
    inputs.iter().enumerate().filter_map(tensor).collect()
}

/// One draw from N(0, 1), by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn filled<T>(shape: &[usize], mut value: impl FnMut() -> T) -> ArrayD<T> {
    ArrayD::from_shape_simple_fn(IxDyn(shape), &mut value)
}

fn floats(element: ElementType, shape: &[usize], mut value: impl FnMut() -> f64) -> Option<Tensor> {
    Some(match element {
        ElementType::Float => filled(shape, || value() as f32).into(),
        ElementType::Float16 => filled(shape, || f16::from_f64(value())).into(),
        ElementType::Double => filled(shape, value).into(),
        _ => return None,
    })
}

fn integers(element: ElementType, shape: &[usize], mut value: impl FnMut() -> i64) -> Option<Tensor> {
    Some(match element {
        ElementType::Int8 => filled(shape, || value() as i8).into(),
        ElementType::Int16 => filled(shape, || value() as i16).into(),
        ElementType::Int32 => filled(shape, || value() as i32).into(),
        ElementType::Int64 => filled(shape, value).into(),
        ElementType::Uint8 => filled(shape, || value() as u8).into(),
        ElementType::Uint16 => filled(shape, || value() as u16).into(),
        ElementType::Uint32 => filled(shape, || value() as u32).into(),
        ElementType::Uint64 => filled(shape, || value() as u64).into(),
        ElementType::Bool => filled(shape, || value() != 0).into(),
        _ => return None,
    })
}

/// A model whose values can be followed to their uses.
struct Indexed<'m> {
    model: &'m Model,
    values: Values<'m>,
}

/// What the graph tells about an integer input.
#[derive(Default)]
struct Clues {
    /// The shortest axis that it indexes.
    indexed: Option<i64>,
    /// A constant that it is compared with.
    compared: Option<i64>,
    /// A recurrent node takes it as the length of each sequence.
    lengths: bool,
}

impl Indexed<'_> {
    fn content(&self, port: &Port, signature: &Signature, shapes: &[Vec<usize>], guesses: &mut Vec<String>) -> Content {
        match port.element {
            ElementType::Float | ElementType::Float16 | ElementType::Double => return Content::Normal,
            ElementType::Bool => return Content::Below(2),
            _ => {}
        }
        let largest = integer_range(port.element);
        let clues = self.clues(&port.name);
        if let Some(end) = clues.indexed {
            return Content::Below(end.clamp(1, largest));
        }
        if clues.lengths || port.name.to_ascii_lowercase().contains("len") {
            return Content::Always((full_length(port, signature, shapes) as i64).min(largest));
        }
        if let Some(value) = clues.compared.filter(|v| (0..=largest).contains(v)) {
            return Content::Always(value);
        }
        let name = Cut(&port.name);
        guesses.push(format!("integers of input '{name}' index nothing that is known: 0 and 1 were drawn"));
        Content::Below(2)
    }

    /// Follows an input through operators that only move its values.
    fn clues(&self, input: &str) -> Clues {
        let mut clues = Clues::default();
        let mut seen = HashSet::new();
        let mut open = vec![(Scope::root(), input.to_owned())];
        while let Some((scope, name)) = open.pop() {
            for used in self.values.uses(&scope, &name) {
                let Use::Node { scope, node, input } = used else { continue };
                let proto = self.model.node(scope, *node);
                if !is_standard(proto.domain()) {
                    continue;
                }
                self.note(&mut clues, scope, proto, *input);
                if moves_values(proto.op_type(), *input) && seen.insert((scope.clone(), *node)) {
                    open.extend(proto.output.iter().map(|o| (scope.clone(), o.clone())));
                }
            }
        }
        clues
    }

    fn note(&self, clues: &mut Clues, scope: &Scope, node: &NodeProto, input: usize) {
        match (node.op_type(), input) {
            ("Gather", 1) => {
                let end = self.gathered_size(scope, node);
                clues.indexed = [clues.indexed, end].into_iter().flatten().min();
            }
            ("OneHot", 0) => clues.indexed = clues.indexed.or(self.integer(scope, node, 1)),
            ("Equal", i) => clues.compared = clues.compared.or(self.integer(scope, node, 1 - i.min(1))),
            ("LSTM" | "GRU" | "RNN", 4) => clues.lengths = true,
            _ => {}
        }
    }

    /// Size of the axis that a Gather indexes, where its data is a stored constant.
    fn gathered_size(&self, scope: &Scope, node: &NodeProto) -> Option<i64> {
        let data = self.constant(scope, node.input.first()?)?;
        let axis = node.attribute.iter().find(|a| a.name() == "axis").map_or(0, |a| a.i());
        let axis = if axis < 0 { axis + data.dims.len() as i64 } else { axis };
        data.dims.get(usize::try_from(axis).ok()?).copied()
    }

    /// The first value of an integer constant.
    fn integer(&self, scope: &Scope, node: &NodeProto, input: usize) -> Option<i64> {
        let constant = self.constant(scope, node.input.get(input)?)?;
        self.model.integers(constant).ok()?.first().copied()
    }

    /// The constant behind a value, also through a Cast or a DequantizeLinear: the shape is the same.
    fn constant(&self, scope: &Scope, name: &str) -> Option<&TensorProto> {
        let definition = self.values.resolve(scope, name)?;
        let Origin::Node { node, .. } = definition.origin else { return self.model.initializer(definition) };
        let proto = self.model.node(&definition.scope, node);
        match proto.op_type() {
            "Constant" => proto.attribute.iter().find(|a| a.name() == "value")?.t.as_ref(),
            "Identity" | "Cast" | "DequantizeLinear" => {
                let behind = self.values.resolve(&definition.scope, proto.input.first()?)?;
                self.model.initializer(behind)
            }
            _ => None,
        }
    }
}

/// Whether an operator hands on the values of this input, rearranged perhaps.
fn moves_values(op: &str, input: usize) -> bool {
    let moves = ["Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Expand"].contains(&op)
        || ["Slice", "Gather", "TopK", "Tile", "Split"].contains(&op);
    (moves && input == 0) || op == "Concat"
}

/// The largest value of an integer type, as far as `i64` goes.
fn integer_range(element: ElementType) -> i64 {
    match element {
        ElementType::Int8 => i8::MAX.into(),
        ElementType::Int16 => i16::MAX.into(),
        ElementType::Int32 => i32::MAX.into(),
        ElementType::Uint8 => u8::MAX.into(),
        ElementType::Uint16 => u16::MAX.into(),
        ElementType::Uint32 => u32::MAX.into(),
        _ => i64::MAX,
    }
}

/// Length of the sequences whose lengths `port` gives: of the first other input with two axes or more, the size of the
/// first axis that is not the axis of `port` (the batch).
fn full_length(port: &Port, signature: &Signature, shapes: &[Vec<usize>]) -> usize {
    let batch = port.dims.as_ref().and_then(|d| d.first());
    let lengths = signature.inputs.iter().zip(shapes).filter(|(p, s)| p.name != port.name && s.len() >= 2);
    let mut sizes = lengths.filter_map(|(p, shape)| {
        let dims = p.dims.as_ref()?;
        let is_batch = |axis: usize| matches!(dims[axis], AxisSize::Symbol(_)) && batch == Some(&dims[axis]);
        Some(shape[usize::from(is_batch(0))])
    });
    sizes.next().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, ModelProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
    use crate::onnx::{AttributeProto, LoadOptions, proto, tensor};

    fn info(name: &str, element: ElementType, dims: &[&str]) -> ValueInfoProto {
        use tensor_shape_proto::{Dimension, dimension::Value};
        let dim = |d: &&str| Dimension {
            value: match d.parse() {
                Ok(size) => Some(Value::DimValue(size)),
                Err(_) if d.is_empty() => None,
                Err(_) => Some(Value::DimParam((*d).to_owned())),
            },
            ..Default::default()
        };
        let shape = proto::TensorShapeProto { dim: dims.iter().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(element as i32), shape: Some(shape) };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
    }

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        NodeProto { op_type: Some(op.to_owned()), input: own(inputs), output: own(outputs), ..Default::default() }
    }

    /// tokens index an embedding of 10 rows, lengths are those of sequences, rate is compared with 16000.
    fn model() -> Model {
        let mut gather = node("Gather", &["table", "wide"], &["e"]);
        let axis = AttributeProto { name: Some("axis".to_owned()), i: Some(0), r#type: Some(2), ..Default::default() };
        gather.attribute.push(axis);
        let graph = GraphProto {
            name: Some("g".to_owned()),
            node: vec![
                node("Cast", &["tokens"], &["wide"]),
                gather,
                node("Equal", &["rate", "hz"], &["eq"]),
                node("LSTM", &["x", "w", "r", "", "lengths"], &["y"]),
                node("Abs", &["odd"], &["o"]),
            ],
            initializer: vec![
                tensor::float("table", &[10, 2], &[0.0; 20]),
                tensor::int64("hz", &[], &[16000]),
                tensor::float("w", &[1, 4, 3], &[0.0; 12]),
                tensor::float("r", &[1, 4, 1], &[0.0; 4]),
            ],
            input: vec![
                info("tokens", ElementType::Uint8, &["batch", "time"]),
                info("x", ElementType::Float, &["time", "batch", "3"]),
                info("lengths", ElementType::Int32, &["batch"]),
                info("rate", ElementType::Int64, &[]),
                info("odd", ElementType::Int64, &["", "2"]),
            ],
            output: vec![info("y", ElementType::Float, &["a", "b", "c", "d"])],
            ..Default::default()
        };
        let import = proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
        let proto =
            ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![import], ..Default::default() };
        Model::from_proto(proto, &LoadOptions::default()).unwrap()
    }

    fn random(dims: &[(&str, usize)], seed: u64) -> Result<Random> {
        let dims: Vec<(String, usize)> = dims.iter().map(|&(n, s)| (n.to_owned(), s)).collect();
        Random::new(&model(), &RandomOptions { dims: &dims, carry: &[], seed, count: 3 })
    }

    #[test]
    fn integers_are_what_the_graph_takes_them_for() {
        let made = random(&[("time", 50), ("batch", 4)], 7).unwrap();
        assert_eq!(made.samples.len(), 3);
        for feed in made.samples.feeds() {
            let tokens = feed["tokens"].to_i64().unwrap();
            assert_eq!(tokens.shape(), [4, 50]);
            assert!(tokens.iter().all(|t| (0..10).contains(t)) && tokens.iter().any(|&t| t == 9));
            assert_eq!(feed["lengths"], Tensor::from(ArrayD::from_elem(IxDyn(&[4]), 50i32)));
            assert_eq!(feed["rate"], Tensor::from(ArrayD::from_elem(IxDyn(&[]), 16000i64)));
            assert_eq!(feed["odd"].shape(), [1, 2]);
        }
        assert_eq!(made.guesses.len(), 2, "{:?}", made.guesses);
        assert!(made.guesses[0].contains("odd[0]=1") && made.guesses[1].contains("'odd'"));
    }

    #[test]
    fn floats_are_standard_normal() {
        let made = random(&[("time", 5000), ("batch", 1)], 0).unwrap();
        let x = made.samples.streams[0].feeds[0]["x"].to_f64();
        let (mean, variance) = (x.mean().unwrap(), x.var(0.0));
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(random(&[], 1).unwrap().samples, random(&[], 1).unwrap().samples);
        assert_ne!(random(&[], 1).unwrap().samples, random(&[], 2).unwrap().samples);
        let one = random(&[], 1).unwrap().samples;
        assert_ne!(one.streams[0].feeds, one.streams[1].feeds);
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out_and_said() {
        let mut proto = model().proto;
        let graph = proto.graph.as_mut().unwrap();
        graph.input.push(info("word", ElementType::String, &["1"]));
        let mut sequence = info("list", ElementType::Float, &["1"]);
        let element = sequence.r#type.take().map(Box::new);
        let of = type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: element }));
        sequence.r#type = Some(TypeProto { value: Some(of), ..Default::default() });
        graph.input.insert(0, sequence);
        let model = Model::from_proto(proto, &LoadOptions::default()).unwrap();
        let signature = Signature::of(&model).unwrap();
        assert!(signature.is_closed("list") && signature.input_at(0).is_none());
        assert_eq!(signature.input_at(1).unwrap().name, "tokens");
        let made = Random::new(&model, &RandomOptions { dims: &[], carry: &[], seed: 0, count: 1 }).unwrap();
        let feed = made.samples.feeds().next().unwrap();
        assert!(!feed.contains_key("word") && !feed.contains_key("list") && feed.contains_key("tokens"));
        assert!(made.guesses.iter().any(|g| g == "nothing can be drawn for input 'list': it is a sequence"));
        assert!(made.guesses.iter().any(|g| g.contains("'word' of element type STRING")));
    }

    #[test]
    fn an_unknown_dimension_is_named() {
        assert!(random(&[("tiem", 3)], 0).unwrap_err().message().contains("'tiem'"));
        assert!(random(&[("odd[0]", 3)], 0).is_ok());
    }
}
