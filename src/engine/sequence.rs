//! Sequences of tensors as tensors, where it shows in the graph what is in them.
//!
//! tract knows no sequences. Exporters make them of splits and of lists that are put together at once: an element then
//! is one of the tensors of the list, or a slice of the tensor that was split. What cannot be seen that way stays as it is,
//! and cannot be run.

use std::collections::HashMap;

use ndarray::IxDyn;

use super::lower::standard;
use crate::onnx::graph::is_standard;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, ElementType, GraphProto, Names, NodeProto, TensorProto, tensor};
use crate::samples::Tensor;

/// What a sequence is made of.
#[derive(Clone)]
enum Sequence {
    /// These tensors.
    List(Vec<String>),
    /// Slices of a tensor along an axis, each of so many elements; `keeps` the axis.
    Slices { of: String, axis: i64, each: i64, keeps: bool },
}

/// Replaces what reads sequences in a graph and the graphs in it.
pub(super) fn lower(graph: &mut GraphProto, names: &mut Names, opset: i64) {
    for body in graph.node.iter_mut().flat_map(|n| &mut n.attribute).flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
        lower(body, names, opset);
    }
    if !graph.node.iter().any(|node| makes(node) && is_standard(node.domain())) {
        return;
    }
    let mut lowering = Lowering { constants: constants(graph), known: HashMap::new(), names, opset, added: Vec::new() };
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        if !is_standard(node.domain()) || !lowering.make(&node) && lowering.read(&node, &mut nodes).is_none() {
            nodes.push(node);
        } else if makes(&node) {
            // Whoever reads it in a way that is not seen through needs it still.
            nodes.push(node);
        }
    }
    graph.node = nodes;
    graph.initializer.append(&mut lowering.added);
}

/// Whether a node makes a sequence.
fn makes(node: &NodeProto) -> bool {
    matches!(
        node.op_type(),
        "SequenceConstruct" | "SequenceEmpty" | "SequenceInsert" | "SequenceErase" | "SplitToSequence"
    )
}

/// The integers of small constants of the graph.
fn constants(graph: &GraphProto) -> HashMap<String, Vec<i64>> {
    let nodes = graph.node.iter().filter(|node| node.op_type() == "Constant");
    let nodes = nodes.filter_map(|n| Some((n.output.first()?.clone(), n.attribute.first()?.t.as_ref()?)));
    let all = graph.initializer.iter().map(|t| (t.name().to_owned(), t)).chain(nodes);
    all.filter_map(|(name, tensor)| Some((name, integers(tensor)?))).collect()
}

fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    // What is no small list of integers, or cannot be read here, is left to the engine.
    const LARGEST: u64 = 1024;
    tensor::element_count(&tensor.dims).ok().filter(|&count| count <= LARGEST)?;
    let shape = tensor::shape(tensor).ok()?;
    let payload = tensor::inline_payload(tensor).ok()?;
    let values = Tensor::from_little_endian(ElementType::of(tensor).ok()?, IxDyn(&shape), &payload)?.to_i64()?;
    // A list is told from a single number by its rank.
    (values.ndim() < 2).then(|| values.iter().copied().collect())
}

struct Lowering<'a> {
    constants: HashMap<String, Vec<i64>>,
    known: HashMap<String, Sequence>,
    names: &'a mut Names,
    opset: i64,
    added: Vec<TensorProto>,
}

impl Lowering<'_> {
    /// Notes what is in the sequence that a node makes. Whether it is known.
    fn make(&mut self, node: &NodeProto) -> bool {
        let made = self.made(node);
        let (Some(made), Some(name)) = (made, node.output.first()) else { return false };
        self.known.insert(name.clone(), made);
        true
    }

    fn made(&self, node: &NodeProto) -> Option<Sequence> {
        let input = |i: usize| node.input.get(i).filter(|name| !name.is_empty());
        let list = |i: usize| match self.known.get(input(i)?)? {
            Sequence::List(list) => Some(list.clone()),
            Sequence::Slices { .. } => None,
        };
        // A position counted from the front, of a list of so many elements.
        let position = |i: usize, default: usize, count: usize| match input(i) {
            None => Some(default),
            Some(name) => place(*self.constants.get(name)?.first()?, count),
        };
        Some(match node.op_type() {
            "SequenceConstruct" => Sequence::List(node.input.clone()),
            "SequenceEmpty" => Sequence::List(Vec::new()),
            "SequenceInsert" => {
                let mut list = list(0)?;
                let at = position(2, list.len(), list.len())?;
                list.insert(at, input(1)?.clone());
                Sequence::List(list)
            }
            "SequenceErase" => {
                let mut list = list(0)?;
                let at = position(1, list.len().checked_sub(1)?, list.len())?;
                if at == list.len() {
                    return None;
                }
                list.remove(at);
                Sequence::List(list)
            }
            "SplitToSequence" => {
                let attribute = |name: &str, default: i64| {
                    node.attribute.iter().find(|a| a.name() == name).map_or(default, AttributeProto::i)
                };
                let (each, keeps) = match input(1) {
                    None => (1, attribute("keepdims", 1) != 0),
                    Some(name) => match self.constants.get(name)?[..] {
                        [each] if each > 0 => (each, true),
                        _ => return None,
                    },
                };
                Sequence::Slices { of: input(0)?.clone(), axis: attribute("axis", 0), each, keeps }
            }
            _ => return None,
        })
    }

    /// Replaces a node that reads a sequence which is known; `None` if it is not that.
    fn read(&mut self, node: &NodeProto, nodes: &mut Vec<NodeProto>) -> Option<()> {
        let sequence = self.known.get(node.input.first()?)?.clone();
        let output = node.output.first()?;
        match (node.op_type(), sequence) {
            ("SequenceAt", Sequence::List(list)) => {
                let at = place(*self.constants.get(node.input.get(1)?)?.first()?, list.len())?;
                nodes.push(standard("Identity", vec![list.get(at)?.clone()], output));
            }
            ("SequenceAt", Sequence::Slices { of, axis, each, keeps }) => {
                let at = *self.constants.get(node.input.get(1)?)?.first()?;
                if !keeps {
                    let at = self.constant(output, &[], &[at]);
                    let gather = standard("Gather", vec![of, at], output);
                    nodes.push(NodeProto { attribute: vec![integer("axis", axis)], ..gather });
                } else if at >= 0 || each == 1 {
                    // The last slice may be shorter; the end is cut to the axis.
                    let end = if at == -1 { i64::MAX } else { at.checked_add(1)?.checked_mul(each)? };
                    let bounds = [at.checked_mul(each)?, end, axis].map(|v| self.constant(output, &[1], &[v]));
                    nodes.push(standard("Slice", std::iter::once(of).chain(bounds).collect(), output));
                } else {
                    return None;
                }
            }
            ("SequenceLength", Sequence::List(list)) => {
                let length = self.constant(output, &[], &[list.len() as i64]);
                nodes.push(standard("Identity", vec![length], output));
            }
            ("SequenceLength", Sequence::Slices { of, axis, each: 1, .. }) => {
                let shape = self.names.fresh(&format!("{output}/shape"));
                let at = self.constant(output, &[], &[axis]);
                nodes.push(standard("Shape", vec![of], &shape));
                nodes.push(standard("Gather", vec![shape, at], output));
            }
            ("ConcatFromSequence", sequence) => self.concat(node, sequence, nodes)?,
            _ => return None,
        }
        Some(())
    }

    fn concat(&mut self, node: &NodeProto, sequence: Sequence, nodes: &mut Vec<NodeProto>) -> Option<()> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i);
        let (axis, stacks) = (attribute("axis")?, attribute("new_axis").unwrap_or(0) != 0);
        let output = node.output.first()?;
        match sequence {
            Sequence::Slices { of, axis: split, keeps, .. } if split == axis && keeps != stacks => {
                nodes.push(standard("Identity", vec![of], output));
            }
            Sequence::Slices { .. } => return None,
            Sequence::List(list) if list.is_empty() => return None,
            Sequence::List(list) => {
                let parts =
                    if stacks { list.iter().map(|part| self.raised(part, axis, nodes)).collect() } else { list };
                nodes.push(NodeProto { attribute: vec![integer("axis", axis)], ..standard("Concat", parts, output) });
            }
        }
        Some(())
    }

    /// A tensor with a new axis.
    fn raised(&mut self, part: &str, axis: i64, nodes: &mut Vec<NodeProto>) -> String {
        let name = self.names.fresh(&format!("{part}/raised"));
        if self.opset < 13 {
            let axes = AttributeProto {
                ints: vec![axis],
                i: None,
                r#type: Some(AttributeType::Ints as i32),
                ..integer("axes", 0)
            };
            nodes.push(NodeProto { attribute: vec![axes], ..standard("Unsqueeze", vec![part.to_owned()], &name) });
        } else {
            let axes = self.constant(part, &[1], &[axis]);
            nodes.push(standard("Unsqueeze", vec![part.to_owned(), axes], &name));
        }
        name
    }

    fn constant(&mut self, stem: &str, shape: &[usize], values: &[i64]) -> String {
        let name = self.names.fresh(&format!("{stem}/constant"));
        self.added.push(tensor::int64(&name, shape, values));
        name
    }
}

/// A position counted from the front, at most at the end.
fn place(position: i64, count: usize) -> Option<usize> {
    let counted = if position < 0 { position + count as i64 } else { position };
    usize::try_from(counted).ok().filter(|&place| place <= count)
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}
