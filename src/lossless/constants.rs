//! Constant tensors that may be stored in another way: initializers, and Constant nodes that hold a tensor.
//!
//! A constant is *free* if nothing but nodes of scopes reads it. One that is a graph output, a default of a graph input, read
//! by training, named by a quantization annotation or of an ambiguous name is not.

use std::collections::BTreeSet;

use super::{INITIALIZERS_ARE_INPUTS, pieces};
use crate::error::Result;
use crate::limits;
use crate::onnx::graph::is_standard;
use crate::onnx::{
    Definition, ElementType, Model, NodeProto, Origin, Rewriter, Scope, TensorProto, Use, Values, tensor,
};

/// The first opset and IR version are those of [`Rewriter`]: below, a constant may have to be an input.
pub(super) fn may_rewrite(model: &Model) -> bool {
    model.ir_version() > INITIALIZERS_ARE_INPUTS
}

/// Whether nodes may take the place of a constant: older operator sets lack a Cast or a Reshape as these are written.
pub(super) fn may_decode(model: &Model) -> bool {
    may_rewrite(model) && model.opset() >= limits::FIRST_OPSET
}

/// A constant tensor that only nodes read.
pub(super) struct Constant<'m> {
    /// The graph that it is in.
    pub scope: Scope,
    /// The name of its value.
    pub name: &'m str,
    /// Its tensor. That of a Constant node may have another name.
    pub tensor: &'m TensorProto,
    /// The index of the Constant node that holds it.
    pub node: Option<usize>,
    /// Scope, node and input of all that read it.
    pub uses: Vec<(Scope, usize, usize)>,
}

impl Constant<'_> {
    /// Whether every reader is a node for which `accepts` says so, given the node and the index of the input.
    pub fn is_read_by(&self, model: &Model, accepts: impl Fn(&NodeProto, usize) -> bool) -> bool {
        let accepted = |(scope, node, input): &(Scope, usize, usize)| {
            let node = model.node(scope, *node);
            is_standard(node.domain()) && accepts(node, *input)
        };
        !self.uses.is_empty() && self.uses.iter().all(accepted)
    }

    /// Makes all readers read `value`; the constant goes.
    pub fn replace(&self, rewriter: &mut Rewriter<'_>, value: &str) {
        self.uses.iter().for_each(|(scope, node, input)| rewriter.set_input(scope, *node, *input, value));
        rewriter.drop_unused(&self.scope, self.name);
    }
}

/// All free constants, in the order of graphs, initializers before nodes.
pub(super) fn free<'m>(model: &'m Model, values: &Values<'m>) -> Vec<Constant<'m>> {
    let annotated = annotated(model);
    let mut found = Vec::new();
    for (scope, graph) in model.graphs() {
        let initializers = graph.initializer.iter().map(|tensor| (tensor.name(), tensor, None));
        let nodes = graph.node.iter().enumerate();
        let nodes = nodes.filter_map(|(index, node)| Some((node.output.first()?.as_str(), held(node)?, Some(index))));
        for (name, tensor, node) in initializers.chain(nodes) {
            let is_bound = annotated.contains(name) || values.is_ambiguous(name) || overridable(values, &scope, name);
            if name.is_empty() || is_bound {
                continue;
            }
            let uses: Option<Vec<_>> = values.uses(&scope, name).iter().map(node_of).collect();
            if let Some(uses) = uses {
                found.push(Constant { scope: scope.clone(), name, tensor, node, uses });
            }
        }
    }
    found
}

fn node_of(site: &Use) -> Option<(Scope, usize, usize)> {
    match site {
        Use::Node { scope, node, input } => Some((scope.clone(), *node, *input)),
        _ => None,
    }
}

/// Whether an initializer is the default of a graph input. In models so old that every initializer has to be an input it
/// is one only by form, but removing it would change the inputs.
fn overridable(values: &Values<'_>, scope: &Scope, name: &str) -> bool {
    values.resolve(scope, name).is_none_or(|definition| definition.is_input || definition.scope != *scope)
}

/// Names that quantization annotations speak of.
pub(super) fn annotated(model: &Model) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, graph) in model.graphs() {
        for annotation in &graph.quantization_annotation {
            names.insert(annotation.tensor_name().to_owned());
            names.extend(annotation.quant_parameter_tensor_names.iter().map(|entry| entry.value().to_owned()));
        }
    }
    names
}

/// The tensor of a Constant node that holds one and nothing else.
pub(super) fn held(node: &NodeProto) -> Option<&TensorProto> {
    let [attribute] = &node.attribute[..] else { return None };
    let plain = node.op_type() == "Constant" && is_standard(node.domain()) && attribute.ref_attr_name().is_empty();
    if plain && attribute.name() == "value" && node.output.len() == 1 { attribute.t.as_ref() } else { None }
}

/// Turns Constant nodes into initializers of the same graph: a name, a type and an attribute less each.
pub(super) fn as_initializers(model: &mut Model) -> Result<()> {
    if !may_rewrite(model) {
        return Ok(());
    }
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let mut rewriter = Rewriter::new(model);
    for constant in free(&source, &values) {
        let Some(node) = constant.node.filter(|_| !constant.uses.is_empty()) else { continue };
        rewriter.remove_node(&constant.scope, node);
        let tensor = TensorProto { name: Some(constant.name.to_owned()), ..constant.tensor.clone() };
        rewriter.add_constant(&constant.scope, tensor);
    }
    rewriter.finish()?;
    Ok(())
}

/// The tensor that a value is which [`apply`](super::apply) writes as a few nodes: narrow integers behind a Cast, and pieces
/// behind a Gather. `None` for any other value.
pub fn restored(model: &Model, values: &Values<'_>, definition: &Definition) -> Option<TensorProto> {
    let Origin::Node { node, .. } = definition.origin else { return None };
    let node = model.node(&definition.scope, node);
    if !is_standard(node.domain()) {
        return None;
    }
    match node.op_type() {
        "Cast" => {
            let stored = stored(model, values, &definition.scope, node.input.first()?)?;
            let [to] = &node.attribute[..] else { return None };
            let to = Some(to).filter(|a| a.name() == "to")?.i();
            let integers = model.integers(stored).ok()?;
            let shape = tensor::shape(stored).ok()?;
            let wide: Vec<i64> = integers.iter().copied().collect();
            match ElementType::try_from(i32::try_from(to).ok()?).ok()? {
                ElementType::Int64 => Some(tensor::int64("", &shape, &wide)),
                ElementType::Int32 => {
                    let wide: Option<Vec<i32>> = wide.iter().map(|&v| i32::try_from(v).ok()).collect();
                    Some(tensor::int32("", &shape, &wide?))
                }
                _ => None,
            }
        }
        "Reshape" | "Concat" => pieces::joined(model, values, &definition.scope, node),
        _ => None,
    }
}

/// The tensor that is stored under a name.
pub(super) fn stored<'m>(model: &'m Model, values: &Values<'_>, scope: &Scope, name: &str) -> Option<&'m TensorProto> {
    let definition = values.resolve(scope, name).filter(|definition| !definition.is_input)?;
    match definition.origin {
        Origin::Node { node, .. } => held(model.node(&definition.scope, node)),
        _ => model.initializer(definition),
    }
}

/// The node of the standard domain and this operator that gives a value, and its graph.
pub(super) fn maker<'m>(
    model: &'m Model,
    values: &Values<'_>,
    scope: &Scope,
    name: &str,
    operator: &str,
) -> Option<(Scope, &'m NodeProto)> {
    let definition = values.resolve(scope, name)?;
    let Origin::Node { node, .. } = definition.origin else { return None };
    let node = model.node(&definition.scope, node);
    let is = node.op_type() == operator && is_standard(node.domain());
    is.then(|| (definition.scope.clone(), node))
}
