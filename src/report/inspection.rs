//! The description of a model: the nodes whose weights can be compressed, the source of these, and what cannot be.

use std::collections::BTreeSet;

use serde::Serialize;

#[cfg(feature = "cli")]
use super::table;
use super::{SCHEMA, Show, SkippedNode, Tool};
use crate::compress;
use crate::dictionary::ATOMS;
use crate::encode;
use crate::error::Result;
use crate::expand::{self, is_coded};
use crate::onnx::{ElementType, Model, Values};
use crate::recurrent::{ConstantRef, Matrix, Source, Survey};
use crate::samples::{AxisSize, Carry, Port, Signature};
use crate::sites::Sites;

/// The report of `inspect`.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What made it.
    pub tool: Tool,
    /// The whole file.
    pub model: InspectedModel,
    /// The inputs of the model.
    pub inputs: Vec<InspectedValue>,
    /// The outputs of the model.
    pub outputs: Vec<InspectedValue>,
    /// Pairs of inputs and outputs that look like states, as arguments of `--stream`: `state=stateN`.
    pub states: Vec<String>,
    /// The weights that can be compressed.
    pub weights: InspectedWeights,
    /// Those of recurrent nodes among them.
    pub recurrent: InspectedWeights,
    /// The note of dirnet in the file's metadata, if dirnet compressed it.
    pub made_by: Option<serde_json::Value>,
    /// Whether dirnet compressed the file and another tool folded its weights back to dense.
    pub folded_back: bool,
    /// The ratio that is proposed, at most 8; none for weights that are coded already, or so small that a codebook
    /// takes more bytes than it saves.
    pub proposed_ratio: Option<f64>,
    /// Recurrent nodes that can be compressed, or are.
    pub nodes: Vec<Node>,
    /// Other nodes whose weights can be compressed, or are: Gemm, MatMul, Conv, ConvTranspose, those of integers, and Gather
    /// of a table.
    pub linear: Vec<InspectedMatrix>,
    /// Tables that are looked up in codes.
    pub coded_tables: usize,
    /// Nodes with constant weights that cannot.
    pub skipped: Vec<SkippedNode>,
}

/// The ratio that is proposed where the weights are not too small for it.
const PROPOSED: f64 = 8.0;

/// A model's file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InspectedModel {
    /// Where it is.
    pub path: String,
    /// Bytes with its external data.
    pub bytes: u64,
    /// The version of the default operator set.
    pub opset: i64,
    /// The version of the file format.
    pub ir_version: i64,
    /// The producer in its metadata.
    pub producer: Option<String>,
}

/// An input or output of the model.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedValue {
    /// Its name.
    pub name: String,
    /// `float`, `int64`, ...; null for what is not a tensor.
    pub element: Option<String>,
    /// Its sizes: a number, the name of a symbolic one, or `?`; null where not even their number is declared.
    pub shape: Option<Vec<serde_json::Value>>,
}

/// The weights of nodes that can be compressed, or are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct InspectedWeights {
    /// Stored bytes.
    pub bytes: u64,
    /// Weights; those that are equal bit for bit count once.
    pub parameters: u64,
    /// Stored bytes over the bytes of the file.
    pub share: Option<f64>,
}

/// A recurrent node that can be compressed.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// The node's name.
    pub node: String,
    /// `LSTM`, `GRU` or `RNN`.
    pub op: String,
    /// `forward`, `reverse` or `bidirectional`.
    pub direction: String,
    /// `I`.
    pub input_size: usize,
    /// `H`.
    pub hidden_size: usize,
    /// Attributes that differ from their defaults, as `clip = 3`.
    pub attributes: Vec<String>,
    /// The optional inputs that it reads, by their names in the operator's specification.
    pub reads: Vec<&'static str>,
    /// The operators whose bodies it is in, from the outside inwards.
    pub inside: Vec<String>,
    /// W and R.
    pub weights: Vec<InspectedWeight>,
}

/// The matrix of a node that is not recurrent.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedMatrix {
    /// The node's name.
    pub node: String,
    /// `Gemm`, `MatMul`, `Conv`, `ConvTranspose`, `Gather`, or one of integers: `QLinearConv`, `ConvInteger`,
    /// `QLinearMatMul` or `MatMulInteger`.
    pub op: &'static str,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// How it is stored: `float`, `float16`, ...
    pub element: String,
    /// Stored bytes.
    pub bytes: u64,
    /// Stored bytes over the bytes of the file.
    pub share: Option<f64>,
    /// Its codec, if it is coded.
    pub codec: Option<&'static str>,
    /// The first node whose matrix is the same, bit for bit: it is coded once.
    pub same_as: Option<String>,
}

/// W or R of a node.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedWeight {
    /// `W` or `R`.
    pub tensor: String,
    /// `[directions, gates * H, I or H]`.
    pub shape: [usize; 3],
    /// How it is stored: `float`, `float16`, ...
    pub element: String,
    /// Whether it is stored in a side file.
    pub external: bool,
    /// Stored bytes.
    pub bytes: u64,
    /// Stored bytes over the bytes of the file.
    pub share: Option<f64>,
    /// Whether it is coded: decoded from a dictionary when the model is loaded.
    pub coded: bool,
    /// Its codec: `block` or `projection`.
    pub codec: Option<&'static str>,
    /// The widths of its codebooks (weights in an atom), one entry for each, if it is coded.
    pub codebooks: Vec<u64>,
    /// Stored bits of a weight.
    pub bits_per_weight: f64,
    /// How the constant reaches the node.
    pub route: String,
    /// The first node whose weights are the same, bit for bit: they are coded once.
    pub same_as: Option<String>,
}

impl Inspection {
    /// Describes a model that has these sites.
    ///
    /// # Errors
    /// Those of reading the weights, which show what ratio they can be compressed by.
    pub fn new(model: &Model, sites: &Sites) -> Result<Self> {
        let survey = &sites.survey;
        let file = model.bytes();
        let share = |bytes: u64| (file > 0).then(|| bytes as f64 / file as f64);
        let values = Values::new(&model.proto)?;
        let bytes = stored_bytes(model, &values, survey);
        let parameters = survey.weights.iter().map(|weight| survey.source(weight).elements() as u64).sum();
        let nodes = survey.nodes.iter().enumerate().map(|(index, node)| Node {
            node: node.name.clone(),
            op: node.cell.operator().to_owned(),
            direction: node.attributes.direction.name().to_owned(),
            input_size: node.input_size,
            hidden_size: node.attributes.hidden,
            attributes: node.attributes.unusual(node.cell),
            reads: node.reads.names(),
            inside: node.bodies.clone(),
            weights: Matrix::BOTH
                .iter()
                .map(|&matrix| weight((model, &values), survey, index, matrix, share))
                .collect(),
        });
        let linear: Vec<InspectedMatrix> =
            (0..sites.linear.len()).map(|node| matrix((model, &values), sites, node)).collect();
        let tables = encode::find_tables(model).map_or(0, |tables| tables.len());
        let coded = survey.weights.iter().any(|weight| is_coded(model, &values, survey.source(weight)))
            || linear.iter().any(|matrix| matrix.codec.is_some())
            || tables > 0;
        let proposed_ratio = match coded || sites.is_empty() {
            true => None,
            false => compress::reachable(model, sites, PROPOSED)?,
        };
        let all = match coded {
            true => {
                bytes + linear.iter().filter(|matrix| matrix.same_as.is_none()).map(|matrix| matrix.bytes).sum::<u64>()
            }
            false => sites.stored_bytes(),
        };
        let signature = Signature::shown(model);
        Ok(Inspection {
            inputs: signature.inputs.iter().map(InspectedValue::from).collect(),
            outputs: signature.outputs.iter().map(InspectedValue::from).collect(),
            states: signature.states.iter().map(Carry::to_string).collect(),
            schema: SCHEMA,
            tool: Tool::default(),
            model: InspectedModel {
                path: super::path_of(model),
                bytes: file,
                opset: model.opset(),
                ir_version: model.ir_version(),
                producer: super::producer_of(model),
            },
            folded_back: made_by(model).is_some() && !sites.is_empty() && !coded,
            made_by: made_by(model),
            weights: InspectedWeights { bytes: all, parameters: sites.parameters(), share: share(all) },
            recurrent: InspectedWeights { bytes, parameters, share: share(bytes) },
            nodes: nodes.collect(),
            linear,
            coded_tables: tables,
            skipped: survey.skipped.iter().map(SkippedNode::from).collect(),
            proposed_ratio,
        })
    }
}

impl From<&Port> for InspectedValue {
    fn from(port: &Port) -> InspectedValue {
        let size = |dim: &AxisSize| dim.fixed().map_or_else(|| dim.to_string().into(), Into::into);
        let is_tensor = port.element != ElementType::Undefined;
        InspectedValue {
            name: port.name.clone(),
            element: is_tensor.then(|| port.element.as_str_name().to_ascii_lowercase()),
            shape: port.dims.as_ref().map(|dims| dims.iter().map(size).collect()),
        }
    }
}

/// Stored bytes of all weights; of coded ones those of codes, codebooks and scales.
fn stored_bytes(model: &Model, values: &Values<'_>, survey: &Survey) -> u64 {
    let sources = || survey.weights.iter().map(|weight| survey.source(weight));
    if !sources().any(|source| is_coded(model, values, source)) {
        return survey.stored_bytes();
    }
    let constants: BTreeSet<&ConstantRef> = sources().flat_map(|source| &source.constants).collect();
    constants.into_iter().map(|constant| constant.bytes).sum()
}

/// The note of dirnet in the file's metadata, as JSON if it is that, else as text.
#[must_use]
pub fn made_by(model: &Model) -> Option<serde_json::Value> {
    let note = encode::note(model)?;
    Some(serde_json::from_str(note).unwrap_or_else(|_| serde_json::Value::String(note.to_owned())))
}

fn weight(
    (model, values): (&Model, &Values<'_>),
    survey: &Survey,
    node: usize,
    matrix: Matrix,
    share: impl Fn(u64) -> Option<f64>,
) -> InspectedWeight {
    let source = survey.nodes[node].source(matrix);
    let stored = source.constants.first().map_or(source.element, |constant| constant.element);
    let first = survey.weight_of(node, matrix).map(|weight| survey.weights[weight].uses[0]);
    let twin = first.filter(|first| first.node != node || first.matrix != matrix);
    let codec = expand::codec(model, values, source);
    let coded = codec.is_some();
    let bytes = match coded {
        true => source.constants.iter().map(|constant| constant.bytes).sum(),
        false => source.stored_bytes(),
    };
    InspectedWeight {
        tensor: matrix.to_string(),
        shape: source.shape,
        element: stored.as_str_name().to_ascii_lowercase(),
        external: source.constants.iter().any(|constant| constant.external),
        bytes,
        share: share(bytes),
        coded,
        codec,
        codebooks: if coded { codebooks(source) } else { Vec::new() },
        bits_per_weight: bytes as f64 * 8.0 / source.elements().max(1) as f64,
        route: source.route.clone(),
        same_as: twin.map(|twin| survey.nodes[twin.node].name.clone()),
    }
}

/// What is known of the matrix of a linear node.
fn matrix((model, values): (&Model, &Values<'_>), sites: &Sites, index: usize) -> InspectedMatrix {
    let node = &sites.linear[index];
    let source = &node.source;
    let first = sites.matrices.iter().find(|nodes| nodes.contains(&index)).map_or(index, |nodes| nodes[0]);
    let codec = expand::codec(model, values, source);
    let bytes = match codec {
        Some(_) => source.constants.iter().map(|constant| constant.bytes).sum(),
        None => source.stored_bytes(),
    };
    let file = model.bytes();
    let stored = source.constants.first().map_or(source.element, |constant| constant.element);
    InspectedMatrix {
        node: node.name.clone(),
        op: node.operator,
        shape: node.shape(),
        element: stored.as_str_name().to_ascii_lowercase(),
        bytes,
        share: (file > 0).then(|| bytes as f64 / file as f64),
        codec,
        same_as: (first != index).then(|| sites.linear[first].name.clone()),
    }
}

/// The widths of the codebooks of a coded weight.
fn codebooks(source: &Source) -> Vec<u64> {
    let atoms = source.constants.iter().filter(|constant| constant.element == ElementType::Int8);
    atoms.map(|constant| constant.elements / ATOMS as u64).collect()
}

impl Show for Inspection {
    #[cfg(feature = "cli")]
    fn table(&self, style: &table::Style) -> String {
        table::inspection(self, style)
    }

    fn json(&self) -> Result<String> {
        super::json::text(self)
    }
}
