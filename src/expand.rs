//! The inverse of [`encode::apply`]: dense weights again, for tools that want them.
//!
//! The decoding nodes are evaluated by constant folding, so the values are those that a runtime decodes, for any codec;
//! only [`codec`] knows one from the other. A node that was replaced by another form is
//! restored with float weights.

use std::collections::BTreeMap;

use ndarray::{Array3, ArrayView2, Axis};

use crate::encode::{self, Found, FoundTable, NOTE, common};
use crate::error::{Error, ErrorKind, Result};
use crate::linear;
use crate::onnx::{ElementType, Model, NodeProto, Rewriter, Scope, TensorProto, Values, tensor};
use crate::recurrent::{self, Constants, FindOptions, Source};
use crate::sites::{Reader, Sites, TensorId};

/// The model with each coded weight decoded to one dense constant.
///
/// # Errors
/// `NothingToDo` if no weight is coded; as [`recurrent::find`].
pub fn expand(model: &Model) -> Result<Model> {
    let survey = recurrent::find(model, &FindOptions::default())?;
    let linear = linear::find(model, &FindOptions::default())?.nodes;
    let sites = Sites::of(model, survey, linear)?;
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let mut constants = Constants::new(model)?;
    let mut tables = encode::find_tables(model)?;
    let coded: Vec<TensorId> = sites
        .tensors()
        .filter(|&tensor| is_coded(model, constants.index(), sites.first_reader(tensor).source))
        .collect();
    let mut expanded = !(coded.is_empty() && tables.is_empty());
    for tensor in coded {
        restore_tensor(&mut rewriter, &sites, tensor, &mut tables, &mut constants)?;
    }
    while let Some(first) = tables.first().cloned() {
        let alike = taken(&mut tables, first.element, &first.table.view());
        restore_tables(&mut rewriter, alike);
    }
    for found in encode::find(model)? {
        restore(&mut rewriter, found);
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

/// How a tensor holds a matrix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    /// By columns.
    transposed: bool,
    dims: Vec<usize>,
}

/// Gives the readers of a coded tensor one dense one, which those that want it in another way transpose and reshape. Of `tables`
/// those are taken that have its rows.
fn restore_tensor(
    rewriter: &mut Rewriter<'_>,
    sites: &Sites,
    tensor: TensorId,
    tables: &mut Vec<FoundTable>,
    constants: &mut Constants<'_>,
) -> Result<()> {
    let nodes = sites.linear_uses(tensor).iter().map(|&node| &sites.linear[node]);
    let mut readers: BTreeMap<View, Vec<Reader<'_>>> = BTreeMap::new();
    // Recurrent nodes all read theirs by rows.
    let transposed = nodes.clone().map(|node| node.transposed).chain(std::iter::repeat(false));
    for (reader, transposed) in sites.readers(tensor).zip(transposed) {
        readers.entry(View { transposed, dims: reader.source.dims.clone() }).or_default().push(reader);
    }
    let first = sites.first_reader(tensor).source;
    let name = rewriter.fresh(&format!("{}/dense", first.value));
    let (mut shape, mut looked_up) = ([0; 2], Vec::new());
    if let Some(node) = nodes.clone().next() {
        shape = node.shape();
        let rows = node.matrix(constants.values(&node.source)?);
        looked_up = taken(tables, first.element, &rows.index_axis(Axis(0), 0));
    }
    let (known, of) = readers.first_key_value().expect("a tensor is one that a node reads");
    let scopes =
        readers.values().flatten().map(|reader| reader.scope).chain(looked_up.iter().map(|found| &found.scope));
    let home = common(scopes);
    // A Gather looks up rows: where there are some, the tensor is of rows.
    let stored = match looked_up.first() {
        Some(found) => {
            rewriter.add_constant(&home, table(&name, found));
            View { transposed: false, dims: shape.to_vec() }
        }
        None => {
            rewriter.add_constant(&home, dense(&name, of[0].source, &constants.values(of[0].source)?)?);
            known.clone()
        }
    };
    for (view, readers) in &readers {
        let value = seen(rewriter, &home, (&name, &stored), view, shape);
        readers.iter().for_each(|reader| rewriter.set_input(reader.scope, reader.index, reader.input, &value));
    }
    looked_up.into_iter().for_each(|found| gather(rewriter, found, &name));
    Ok(())
}

/// Takes those tables out that have these rows, bit for bit.
fn taken(tables: &mut Vec<FoundTable>, element: ElementType, rows: &ArrayView2<'_, f32>) -> Vec<FoundTable> {
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits();
    let is = |found: &FoundTable| {
        found.element == element
            && found.table.dim() == rows.dim()
            && found.table.iter().zip(rows).all(|(a, b)| same(a, b))
    };
    let (own, others) = std::mem::take(tables).into_iter().partition(is);
    *tables = others;
    own
}

/// The value that holds a matrix of `shape` in the wanted way, made of `name`, which holds it as stored.
fn seen(
    rewriter: &mut Rewriter<'_>,
    home: &Scope,
    (name, stored): (&str, &View),
    wanted: &View,
    [rows, columns]: [usize; 2],
) -> String {
    let flat = |transposed| if transposed { [columns, rows] } else { [rows, columns] };
    let (mut value, mut dims) = (name.to_owned(), stored.dims.clone());
    if stored.transposed != wanted.transposed {
        value = reshaped(rewriter, home, value, &mut dims, &flat(stored.transposed));
        value = node(rewriter, home, "Transpose", vec![value]);
        dims = flat(wanted.transposed).to_vec();
    }
    reshaped(rewriter, home, value, &mut dims, &wanted.dims)
}

fn reshaped(
    rewriter: &mut Rewriter<'_>,
    home: &Scope,
    value: String,
    dims: &mut Vec<usize>,
    wanted: &[usize],
) -> String {
    if *dims == wanted {
        return value;
    }
    *dims = wanted.to_vec();
    let shape = rewriter.fresh(&format!("{value}/shape"));
    let numbers: Vec<i64> = wanted.iter().map(|&dim| dim as i64).collect();
    rewriter.add_constant(home, tensor::int64(&shape, &[numbers.len()], &numbers));
    node(rewriter, home, "Reshape", vec![value, shape])
}

/// Adds a node of constants, and names what it makes.
fn node(rewriter: &mut Rewriter<'_>, home: &Scope, op: &str, input: Vec<String>) -> String {
    let output = rewriter.fresh(&input[0]);
    let (op_type, name) = (Some(op.to_owned()), Some(output.clone()));
    rewriter.add_node(home, NodeProto { op_type, name, input, output: vec![output.clone()], ..NodeProto::default() });
    output
}

/// Replaces nodes that look up one table in codes by Gathers of one of dense rows.
fn restore_tables(rewriter: &mut Rewriter<'_>, alike: Vec<FoundTable>) {
    let name = rewriter.fresh(&format!("{}/table", alike[0].output));
    rewriter.add_constant(&common(alike.iter().map(|found| &found.scope)), table(&name, &alike[0]));
    alike.into_iter().for_each(|found| gather(rewriter, found, &name));
}

fn table(name: &str, found: &FoundTable) -> TensorProto {
    let values: Vec<f32> = found.table.iter().copied().collect();
    tensor::rounded(name, found.element, found.table.shape(), &values)
}

/// Replaces nodes that look up a table in codes by a Gather of its dense rows.
fn gather(rewriter: &mut Rewriter<'_>, found: FoundTable, table: &str) {
    let FoundTable { scope, nodes, before, indices, output, .. } = found;
    let gather = NodeProto {
        op_type: Some("Gather".to_owned()),
        input: vec![table.to_owned(), indices],
        output: vec![output],
        ..NodeProto::default()
    };
    rewriter.insert_before(&scope, before, gather);
    nodes.into_iter().for_each(|node| rewriter.remove_node(&scope, node));
}

/// Whether a codec decodes a weight of a model that has these values.
pub fn is_coded(model: &Model, values: &Values<'_>, source: &Source) -> bool {
    codec(model, values, source).is_some()
}

/// The name of the codec of a weight, as in plans; `None` for a dense weight.
pub fn codec(model: &Model, values: &Values<'_>, source: &Source) -> Option<&'static str> {
    encode::codec(model, values, source)
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
