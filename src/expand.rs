//! The inverse of [`encode::apply`]: dense weights again, for tools that want them.
//!
//! The decoding nodes are evaluated by constant folding, so the values are those that a runtime decodes, for any codec;
//! only [`codec`] knows one from the other. A node that was replaced by another form is
//! restored with float weights.

use ndarray::Array3;

use crate::encode::{self, Found, FoundTable, NOTE, common};
use crate::error::{Error, ErrorKind, Result};
use crate::linear;
use crate::onnx::{ElementType, Model, NodeProto, Rewriter, TensorProto, tensor};
use crate::recurrent::{self, Constants, FindOptions, Source};
use crate::sites::{Reader, Sites};

/// The model with each coded weight decoded to one dense constant.
///
/// # Errors
/// `NothingToDo` if no weight is coded; as [`recurrent::find`].
pub fn expand(model: &Model) -> Result<Model> {
    let survey = recurrent::find(model, &FindOptions::default())?;
    let linear = linear::find(model, &FindOptions::default())?;
    let sites = Sites::of(model, survey, linear)?;
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let mut expanded = false;
    let mut constants = Constants::new(model)?;
    let coded = sites.tensors().filter(|&tensor| is_coded(model, sites.first_reader(tensor).source));
    for tensor in coded {
        // Those that read a matrix by rows and by columns have a tensor each.
        let mut readers: Vec<Reader<'_>> = sites.readers(tensor).collect();
        readers.sort_by(|a, b| a.source.dims.cmp(&b.source.dims));
        for alike in readers.chunk_by(|a, b| a.source.dims == b.source.dims && a.source.hash == b.source.hash) {
            let source = alike[0].source;
            let name = rewriter.fresh(&format!("{}/dense", source.value));
            let dense = dense(&name, source, &constants.values(source)?)?;
            rewriter.add_constant(&common(alike.iter().map(|reader| reader.scope)), dense);
            alike.iter().for_each(|reader| rewriter.set_input(reader.scope, reader.index, reader.input, &name));
        }
        expanded = true;
    }
    for found in encode::find(model)? {
        restore(&mut rewriter, found);
        expanded = true;
    }
    for found in encode::find_tables(model)? {
        restore_table(&mut rewriter, found);
        expanded = true;
    }
    if !expanded {
        return Err(Error::new(ErrorKind::NothingToDo, "nothing to expand: this model has no compressed weights"));
    }
    rewriter.remove_metadata(NOTE);
    rewriter.finish()?;
    Ok(result)
}

/// Replaces another form by the dense recurrent node.
fn restore(rewriter: &mut Rewriter<'_>, found: Found) {
    let Found { scope, nodes, before, mut node, w, r, bias } = found;
    let mut add = |input: &str, shape: &[usize], values: Vec<f32>| {
        let name = rewriter.fresh(&format!("{}/{input}/dense", node.name()));
        rewriter.add_constant(&scope, tensor::float(&name, shape, &values));
        name
    };
    let weights = [("W", &w), ("R", &r)].map(|(name, all)| add(name, all.shape(), all.iter().copied().collect()));
    let bias = bias.map(|all| add("B", all.shape(), all.iter().copied().collect()));
    for (input, name) in weights.into_iter().chain(bias).enumerate() {
        let input = input + 1;
        node.input.resize(node.input.len().max(input + 1), String::new());
        node.input[input] = name;
    }
    rewriter.insert_before(&scope, before, node);
    nodes.into_iter().for_each(|index| rewriter.remove_node(&scope, index));
}

/// Replaces nodes that look up a table in codes by a Gather of dense rows.
fn restore_table(rewriter: &mut Rewriter<'_>, found: FoundTable) {
    let FoundTable { scope, nodes, before, indices, output, table, element } = found;
    let name = rewriter.fresh(&format!("{output}/table"));
    let values: Vec<f32> = table.iter().copied().collect();
    rewriter.add_constant(&scope, tensor::rounded(&name, element, table.shape(), &values));
    let gather = NodeProto {
        op_type: Some("Gather".to_owned()),
        input: vec![name, indices],
        output: vec![output],
        ..NodeProto::default()
    };
    rewriter.insert_before(&scope, before, gather);
    nodes.into_iter().for_each(|node| rewriter.remove_node(&scope, node));
}

/// Whether a codec decodes a weight.
pub fn is_coded(model: &Model, source: &Source) -> bool {
    codec(model, source).is_some()
}

/// The name of the codec of a weight, as in plans; `None` for a dense weight.
pub fn codec(model: &Model, source: &Source) -> Option<&'static str> {
    encode::codec(model, source)
}

fn dense(name: &str, source: &Source, values: &Array3<f32>) -> Result<TensorProto> {
    let flat: Vec<f32> = values.iter().copied().collect();
    match source.element {
        element @ (ElementType::Float | ElementType::Float16 | ElementType::Int8 | ElementType::Uint8) => {
            Ok(tensor::rounded(name, element, &source.dims, &flat))
        }
        other => {
            Err(Error::new(ErrorKind::Unsupported, format!("weights of type {other:?} are not supported"))
                .at_tensor(name))
        }
    }
}
