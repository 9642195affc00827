//! The model with coded sites: their constants are replaced by subgraphs that decode them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::linear::Decoded;
use super::writer::int;
use super::{Block, Form, Forms, Home, Layer, Request, Stored, StoredMatrix, Writer, fast, portable, vendor};
use crate::code::{CodedSite, CodedSites};
use crate::dictionary::Codebook;
use crate::error::{Error, ErrorKind, Result};
use crate::linear::LinearNode;
use crate::onnx::proto::ModelProto;
use crate::onnx::{Model, NodeProto, Rewriter, Scope, tensor};
use crate::plan::Storage;
use crate::recurrent::{Cell, Matrix, OwnBias, Weight, WeightUse};
use crate::sites::{Reader, Site, SiteId, Sites, TensorId, Weights};

/// The metadata entry that says how a model was made.
pub const NOTE: &str = "dirnet";

/// How a result is written.
#[derive(Clone, Debug, Default)]
pub struct Writing {
    /// The form of its recurrent nodes.
    pub request: Request,
    /// The text of the metadata entry [`NOTE`].
    pub note: String,
    /// Whether names of new values are short, instead of beginning with the name of the node: they weigh in small files.
    pub short_names: bool,
}

/// The model with its weights replaced by what `coded` holds, in the form that `writing` asks for. A tensor all of whose
/// sites are dense stays as it is.
///
/// # Errors
/// As [`Rewriter::finish`].
pub fn apply(model: &Model, weights: &Weights, coded: &CodedSites, writing: &Writing) -> Result<Model> {
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let survey = &weights.survey;
    let storage = |id: SiteId| coded[id].as_ref().map_or(Storage::Dense, CodedSite::storage);
    let forms = Forms::new(model, weights).assign(writing.request, &storage);
    let kept: Vec<Kept<'_>> = weights.tensors().map(|tensor| Kept::new(weights, coded, tensor, writing)).collect();
    let mut writer = Writer::new(&mut rewriter);
    let mut edits = Vec::new();
    let mut replaced_gathers = Vec::new();
    for (tensor, kept) in weights.tensors().zip(&kept) {
        let portable = |weight: &Weight| forms[weight.uses[0].node].form == Form::Portable;
        if kept.is_dense() || !weights.weight(tensor).is_none_or(portable) {
            continue;
        }
        for readers in anchors(weights, tensor).into_values() {
            let place = common(readers.iter().map(|reader| reader.scope));
            writer.enter(&place);
            if weights.weight(tensor).is_some() {
                let value = portable::write(&mut writer, &kept.stored, kept.home());
                writer.place_in_front(&place);
                edits.extend(readers.into_iter().map(|reader| (reader, value.clone())));
                continue;
            }
            let nodes: Vec<&LinearNode> =
                weights.linear_uses(tensor).iter().map(|&node| &weights.linear[node]).collect();
            let mut decoded = Decoded::new(&kept.stored, kept.home(), &nodes);
            for reader in readers {
                let is_reader =
                    |node: &&&LinearNode| (&node.weight.scope, node.weight.node) == (reader.scope, reader.index);
                let node = nodes.iter().find(is_reader);
                let &node = node.expect("what is no weight of recurrent nodes is read by linear ones");
                if decoded.looks_up(node) {
                    replaced_gathers.push((tensor, node, place.clone()));
                } else {
                    edits.push((reader, decoded.value(&mut writer, node)));
                }
            }
            writer.place_in_front(&place);
        }
    }
    for (tensor, node, place) in &replaced_gathers {
        let kept = &kept[tensor.0];
        writer.enter(place);
        let atoms = writer.float_codebook(kept.codebook(), kept.home(), &kept.stored.name);
        writer.place_in_front(place);
        let decoded = Decoded::new(&kept.stored, kept.home(), &[node]);
        decoded.look_up(&mut writer, node, model.node(&node.scope, node.index), &atoms);
        writer.place_before(&node.scope, node.index);
    }
    let replaced: Vec<usize> = (0..survey.nodes.len()).filter(|&n| forms[n].form != Form::Portable).collect();
    // Not those that the forms were chosen by: this model may have others.
    let biases = replaced.iter().any(|&n| forms[n].form == Form::Fast).then(|| survey.biases(model));
    for &index in &replaced {
        let node = &survey.nodes[index];
        let [w, r] = Matrix::BOTH.map(|matrix| {
            let weight = survey.weight_of(index, matrix).expect("both weights of a found node are found");
            (&kept[weight].stored, kept[weight].home())
        });
        let layer = Layer {
            node,
            proto: model.node(&node.scope, node.index),
            w,
            r,
            bias: match forms[index].form {
                Form::Ort => None,
                _ => biases.as_ref().and_then(|biases| biases[index].as_ref()?.as_ref().ok()),
            },
        };
        match forms[index].form {
            Form::Ort => vendor::write(&mut writer, &layer),
            _ => fast::write(&mut writer, &layer),
        }
        writer.place_before(&node.scope, node.index);
    }
    for (reader, value) in edits {
        let proto = model.node(reader.scope, reader.index);
        if proto.op_type() == "Gemm" {
            // It reads rows now.
            rewriter.remove_node(reader.scope, reader.index);
            rewriter.insert_before(reader.scope, reader.index, by_rows(proto, &value));
        } else {
            rewriter.set_input(reader.scope, reader.index, reader.input, &value);
        }
        reader.source.frozen.iter().for_each(|input| rewriter.freeze_input(input));
    }
    for (_, node, _) in replaced_gathers {
        rewriter.remove_node(&node.scope, node.index);
        node.source.frozen.iter().for_each(|input| rewriter.freeze_input(input));
    }
    for index in replaced {
        let node = &survey.nodes[index];
        rewriter.remove_node(&node.scope, node.index);
        node.w.frozen.iter().chain(&node.r.frozen).for_each(|input| rewriter.freeze_input(input));
        if forms[index].form == Form::Ort {
            rewriter.import(vendor::DOMAIN, 1);
        }
    }
    rewriter.set_metadata(NOTE, &writing.note);
    rewriter.finish()?;
    Ok(result)
}

/// A Gemm that reads the rows of its matrix, `[N, K]`: OpenCV is slow with a computed one that lies by columns.
fn by_rows(gemm: &NodeProto, weight: &str) -> NodeProto {
    let mut gemm = gemm.clone();
    gemm.input[1] = weight.to_owned();
    gemm.attribute.retain(|attribute| attribute.name() != "transB");
    gemm.attribute.push(int("transB", 1));
    gemm
}

/// What a model says of how it was made, if this tool made it.
#[must_use]
pub fn note(model: &Model) -> Option<&str> {
    Some(model.proto.metadata_props.iter().find(|entry| entry.key() == NOTE)?.value())
}

/// A model's message with the note.
pub(super) fn note_of(model: &Model, note: &str) -> ModelProto {
    let mut noted = model.clone();
    Rewriter::new(&mut noted).set_metadata(NOTE, note);
    noted.proto
}

/// What nodes have in place of their B.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBias {
    /// The B.
    pub of: OwnBias,
    /// `[directions, 2*G*H]`, row-major.
    pub values: Arc<Vec<f32>>,
}

/// The model with other biases. Its size is the same.
///
/// # Errors
/// [`ErrorKind::Usage`] for one of another size than the B that it is to replace.
pub fn with_biases(model: &Model, biases: &[NewBias]) -> Result<Model> {
    for bias in biases {
        let tensor = model.initializer(&bias.of.definition);
        let stored = tensor.and_then(|tensor| tensor.raw_data.as_ref()).map_or(0, |raw| raw.len() / size_of::<f32>());
        if stored != bias.values.len() {
            let name = tensor.map_or("", |tensor| tensor.name());
            let message = format!("tensor '{name}': {} biases for the {stored} that it holds", bias.values.len());
            return Err(Error::new(ErrorKind::Usage, message));
        }
    }
    let definitions: Vec<_> = biases.iter().map(|bias| bias.of.definition.clone()).collect();
    Ok(model.with_initializers(&definitions, |place, tensor| {
        tensor.raw_data = tensor::float("", &[biases[place].values.len()], &biases[place].values).raw_data;
    }))
}

/// A weight as it is stored, and where.
struct Kept<'a> {
    stored: Stored<'a>,
    constants: Scope,
    codebooks: Scope,
}

impl<'a> Kept<'a> {
    fn new(weights: &'a Weights, coded: &'a CodedSites, tensor: TensorId, writing: &Writing) -> Self {
        let reader = weights.first_reader(tensor);
        let block = |site: &Site| Block::new(coded[site.id].as_ref(), weights.rows(site.id));
        let (name, gates) = match weights.weight(tensor).map(|weight| weight.uses[0]) {
            Some(WeightUse { node, matrix }) => {
                (format!("{}/{matrix}", reader.name), weights.survey.nodes[node].cell.gates())
            }
            None => (format!("{}/weight", reader.name), &[""][..]),
        };
        let name = if writing.short_names { format!("w{}", tensor.0) } else { name };
        let [directions, _, columns] = *<&[usize; 3]>::try_from(weights.values(tensor).shape()).expect("three axes");
        let stored = Stored {
            of: StoredMatrix::Weight(tensor.0),
            start: 0,
            name,
            element: reader.source.element,
            directions,
            columns,
            blocks: weights.of_tensor(tensor).map(block).collect(),
            gates,
        };
        let constants = common(weights.readers(tensor).map(|reader| reader.scope));
        let shared = weights.of_tensor(tensor).any(|site| is_shared(weights, coded, site));
        Kept { stored, codebooks: if shared { Scope::root() } else { constants.clone() }, constants }
    }

    fn home(&self) -> Home<'_> {
        Home { constants: &self.constants, codebooks: &self.codebooks }
    }

    fn is_dense(&self) -> bool {
        self.stored.blocks.iter().all(Block::is_dense)
    }

    /// The codebook of its first block.
    fn codebook(&self) -> &'a Arc<Codebook> {
        match self.stored.blocks[0] {
            Block::Coded(coded) => &coded.codebook,
            _ => unreachable!("what is looked up is coded in blocks"),
        }
    }
}

/// Whether a site of another tensor uses the codebook or dictionary of this one too.
fn is_shared(weights: &Weights, coded: &CodedSites, site: &Site) -> bool {
    let Some(this) = &coded[site.id] else { return false };
    let shares = |other: &Site| coded[other.id].as_ref().is_some_and(|coded| coded.shares_with(this));
    weights.all.iter().any(|other| other.tensor != site.tensor && shares(other))
}

/// The readers of a tensor by the innermost Loop or Scan body that they are in. Values must be computed inside such a body: not every
/// runtime lets one capture a value that a node outside computes. For a GRU the same holds of the branches of an If, where
/// MNN crashes.
fn anchors(sites: &Sites, tensor: TensorId) -> BTreeMap<Scope, Vec<Reader<'_>>> {
    let mut anchors: BTreeMap<Scope, Vec<Reader<'_>>> = BTreeMap::new();
    for reader in sites.readers(tensor) {
        let captures = |op: &String| op == "If" && reader.operator != Cell::Gru.operator();
        let depth = reader.bodies.iter().rposition(|op| !captures(op)).map_or(0, |i| i + 1);
        let body = reader.scope.steps()[..depth].iter().fold(Scope::root(), |scope, &step| scope.child(step));
        anchors.entry(body).or_default().push(reader);
    }
    anchors
}

/// The innermost graph around all of some graphs.
pub(crate) fn common<'s>(mut scopes: impl Iterator<Item = &'s Scope>) -> Scope {
    let first = scopes.next().cloned().unwrap_or_default();
    scopes.fold(first, |common, scope| common.common(scope))
}
