//! The only code that edits what a model's graphs compute.
//!
//! A [`Rewriter`] collects edits and applies them together. Every scope and index means the model *as it was* when the
//! rewriter was made: nothing shifts underneath the caller. What it ensures at the end: names are unique and defined,
//! no cycles, and of what the edits left without use nothing remains, while unrelated dead code is not touched.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::graph::{self, Definition, Names, Origin, Scope, Use, Values, bodies};
use super::model::Model;
use super::proto::attribute_proto::AttributeType;
use super::proto::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use super::tensor::ElementType;
use crate::error::Result;

/// Up to this IR version every initializer must be a graph input too.
const INITIALIZERS_ARE_INPUTS: i64 = 3;
/// The first opset whose Constant holds more than floating point.
const CONSTANTS_OF_ANY_TYPE: i64 = 9;

/// Collects edits of a model; [`finish`](Self::finish) applies them.
pub struct Rewriter<'m> {
    model: &'m mut Model,
    names: Names,
    edits: BTreeMap<Scope, Edits>,
    candidates: Vec<(Scope, String)>,
    frozen: BTreeSet<String>,
}

/// The edits of one graph, by its original indices.
#[derive(Default)]
struct Edits {
    constants: Vec<TensorProto>,
    front: Vec<NodeProto>,
    before: BTreeMap<usize, Vec<NodeProto>>,
    inputs: BTreeMap<(usize, usize), String>,
    dropped_nodes: BTreeSet<usize>,
    dropped_initializers: BTreeSet<usize>,
    dropped_sparse: BTreeSet<usize>,
}

/// What [`Rewriter::finish`] removed because nothing used it any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Initializers, with the scope that they had.
    pub initializers: Vec<(Scope, String)>,
    /// Number of nodes, Constant nodes among them.
    pub nodes: usize,
}

impl<'m> Rewriter<'m> {
    /// Starts with no edits.
    pub fn new(model: &'m mut Model) -> Self {
        let names = Names::new(&model.proto);
        Rewriter { model, names, edits: BTreeMap::new(), candidates: Vec::new(), frozen: BTreeSet::new() }
    }

    /// The model as it was.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// A name for a new value or node, close to `stem`, that occurs nowhere in the model.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.names.fresh(stem)
    }

    /// Adds a constant to the graph at `scope`, under the tensor's own name (take it from [`fresh`](Self::fresh)): an
    /// initializer, or a Constant node in models so old that every initializer is a graph input. Where such a node
    /// could not hold it either, the model's IR version rises to the first that has initializers of their own.
    pub fn add_constant(&mut self, scope: &Scope, tensor: TensorProto) {
        self.edit(scope).constants.push(tensor);
    }

    /// Adds a node at the start of the graph at `scope`, after those added before: for nodes that depend on constants,
    /// on values of the graphs around, and on each other only.
    pub fn add_node(&mut self, scope: &Scope, node: NodeProto) {
        self.edit(scope).front.push(node);
    }

    /// Adds a node before node `index` of the graph at `scope`, after those added there before.
    pub fn insert_before(&mut self, scope: &Scope, index: usize, node: NodeProto) {
        self.edit(scope).before.entry(index).or_default().push(node);
    }

    /// Makes input `input` of a node read `value`. What it read before goes, if nothing else uses it.
    pub fn set_input(&mut self, scope: &Scope, node: usize, input: usize, value: &str) {
        if let Some(old) = self.model.node(scope, node).input.get(input).filter(|old| !old.is_empty()) {
            self.candidates.push((scope.clone(), old.clone()));
        }
        self.edit(scope).inputs.insert((node, input), value.to_owned());
    }

    /// Removes a node, whose outputs new nodes must define or nothing may use. What it read goes, if nothing else uses
    /// it.
    pub fn remove_node(&mut self, scope: &Scope, node: usize) {
        let mut read = BTreeSet::new();
        graph::names_read(std::slice::from_ref(self.model.node(scope, node)), &mut read);
        self.candidates.extend(read.into_iter().map(|name| (scope.clone(), name.to_owned())));
        self.edit(scope).dropped_nodes.insert(node);
    }

    /// Removes the value that `name` is, seen from `scope`, and what only it depends on, if nothing uses it.
    pub fn drop_unused(&mut self, scope: &Scope, name: &str) {
        self.candidates.push((scope.clone(), name.to_owned()));
    }

    /// Makes an initializer that callers may override, being a graph input too, a constant: drops the input.
    pub fn freeze_input(&mut self, name: &str) {
        self.frozen.insert(name.to_owned());
    }

    /// Sets an entry of the model's `metadata_props`.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        let entries = &mut self.model.proto.metadata_props;
        match entries.iter_mut().find(|e| e.key() == key) {
            Some(entry) => entry.value = Some(value.to_owned()),
            None => entries.push(StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) }),
        }
    }

    /// Removes an entry of the model's `metadata_props`, if it is there.
    pub fn remove_metadata(&mut self, key: &str) {
        self.model.proto.metadata_props.retain(|e| e.key() != key);
    }

    /// Imports an operator domain, unless the model imports it already, in whatever version.
    pub fn import(&mut self, domain: &str, version: i64) {
        let imports = &mut self.model.proto.opset_import;
        if !imports.iter().any(|o| o.domain() == domain) {
            imports.push(OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) });
        }
    }

    /// Applies the edits.
    ///
    /// # Errors
    /// [`Malformed`](crate::error::ErrorKind::Malformed) if the edits left a value undefined or defined twice, or made
    /// a cycle: a mistake of the caller, and the model is then of no use.
    pub fn finish(mut self) -> Result<Dropped> {
        let dropped = self.drop_candidates()?;
        if self.model.ir_version() <= INITIALIZERS_ARE_INPUTS && self.needs_initializers() {
            self.model.proto.ir_version = Some(INITIALIZERS_ARE_INPUTS + 1);
        }
        let constants_as_nodes = self.model.ir_version() <= INITIALIZERS_ARE_INPUTS;
        // Inner graphs first: the path to them is made of indices of the outer ones.
        let mut edits: Vec<_> = self.edits.into_iter().collect();
        edits.sort_by_key(|(scope, _)| std::cmp::Reverse(scope.steps().len()));
        for (scope, edit) in edits {
            let graph = graph::at_mut(&mut self.model.proto, &scope).expect("edits are of scopes of this model");
            edit.apply(graph, constants_as_nodes);
        }
        if let Some(graph) = &mut self.model.proto.graph {
            graph.input.retain(|input| !self.frozen.contains(input.name()));
        }
        self.model.check_graphs()?;
        Ok(dropped)
    }

    /// Whether a new constant is of a type that no Constant node of this opset holds.
    fn needs_initializers(&self) -> bool {
        let floating = [ElementType::Float, ElementType::Float16, ElementType::Double].map(|t| t as i32);
        let mut constants = self.edits.values().flat_map(|edit| &edit.constants);
        self.model.opset() < CONSTANTS_OF_ANY_TYPE && constants.any(|t| !floating.contains(&t.data_type()))
    }

    fn edit(&mut self, scope: &Scope) -> &mut Edits {
        self.edits.entry(scope.clone()).or_default()
    }

    /// Marks for removal what nothing uses any more, starting from the candidates.
    fn drop_candidates(&mut self) -> Result<Dropped> {
        let mut dropped = Dropped::default();
        let mut queue = std::mem::take(&mut self.candidates);
        let values = Values::new(&self.model.proto)?;
        let read = self.definitions_read_by_edits(&values);
        let old_ir = self.model.ir_version() <= INITIALIZERS_ARE_INPUTS;
        while let Some((scope, name)) = queue.pop() {
            let Some(definition) = values.resolve(&scope, &name) else { continue };
            let may_be_read = values.is_ambiguous(&name);
            if may_be_read || is_used(&self.edits, &read, &values, &definition.scope, &name) {
                continue;
            }
            let Definition { scope, origin, is_input } = definition;
            let edit = self.edits.entry(scope.clone()).or_default();
            let is_constant = match *origin {
                Origin::Initializer(i) if !is_input || old_ir || self.frozen.contains(&name) => {
                    edit.dropped_initializers.insert(i)
                }
                Origin::SparseInitializer(i) if !is_input => edit.dropped_sparse.insert(i),
                Origin::Node { node, .. } if !edit.dropped_nodes.contains(&node) => {
                    let proto = self.model.node(scope, node);
                    let unused =
                        |output: &String| output.is_empty() || !is_used(&self.edits, &read, &values, scope, output);
                    if bodies(proto).next().is_none() && proto.output.iter().all(unused) {
                        self.edits.entry(scope.clone()).or_default().dropped_nodes.insert(node);
                        dropped.nodes += 1;
                        queue.extend(proto.input.iter().map(|input| (scope.clone(), input.clone())));
                    }
                    false
                }
                _ => false,
            };
            if is_constant {
                dropped.initializers.push((scope.clone(), name));
            }
        }
        Ok(dropped)
    }

    /// Existing values that new nodes and new inputs read, by scope and name of their definition.
    fn definitions_read_by_edits(&self, values: &Values<'_>) -> HashSet<(Scope, String)> {
        let mut read = HashSet::new();
        for (scope, edit) in &self.edits {
            let mut names = BTreeSet::new();
            graph::names_read(&edit.front, &mut names);
            edit.before.values().for_each(|nodes| graph::names_read(nodes, &mut names));
            names.extend(edit.inputs.values().map(String::as_str));
            for name in names {
                if let Some(definition) = values.resolve(scope, name) {
                    read.insert((definition.scope.clone(), name.to_owned()));
                }
            }
        }
        read
    }
}

/// Whether something uses the value `name` of the graph at `home` after the edits.
fn is_used(
    edits: &BTreeMap<Scope, Edits>,
    read: &HashSet<(Scope, String)>,
    values: &Values<'_>,
    home: &Scope,
    name: &str,
) -> bool {
    let stays = |scope: &Scope, node: usize, input: usize| {
        let dropped = |s: &Scope, n| edits.get(s).is_some_and(|e| e.dropped_nodes.contains(&n));
        let rewired = edits.get(scope).is_some_and(|e| e.inputs.contains_key(&(node, input)));
        !rewired && !scope.outwards().any(|s| dropped(&s, s.node_around(scope, node)))
    };
    read.contains(&(home.clone(), name.to_owned()))
        || values.uses(home, name).iter().any(|site| match site {
            Use::Node { scope, node, input } => stays(scope, *node, *input),
            Use::Output { scope, .. } => {
                // The output of a body goes with the node that the body belongs to.
                let owner = scope.parent().zip(scope.steps().last());
                owner.is_none_or(|(outer, step)| stays(&outer, step.node, usize::MAX))
            }
            Use::Training => true,
        })
}

impl Edits {
    fn apply(mut self, graph: &mut GraphProto, constants_as_nodes: bool) {
        for ((node, input), value) in self.inputs {
            let inputs = &mut graph.node[node].input;
            if inputs.len() <= input {
                inputs.resize(input + 1, String::new());
            }
            inputs[input] = value;
        }
        let mut gone: HashSet<String> = HashSet::new();
        for &i in &self.dropped_initializers {
            gone.insert(graph.initializer[i].name().to_owned());
        }
        for &i in &self.dropped_sparse {
            gone.extend(graph.sparse_initializer[i].values.as_ref().map(|t| t.name().to_owned()));
        }
        graph.input.retain(|v| !gone.contains(v.name()));
        for &i in &self.dropped_nodes {
            gone.extend(graph.node[i].output.iter().cloned());
        }
        retain_indices(&mut graph.initializer, &self.dropped_initializers);
        retain_indices(&mut graph.sparse_initializer, &self.dropped_sparse);

        let old = std::mem::take(&mut graph.node);
        let end = old.len();
        if constants_as_nodes {
            graph.node.extend(self.constants.into_iter().map(constant_node));
        } else {
            graph.initializer.extend(self.constants);
        }
        graph.node.extend(self.front);
        for (i, node) in old.into_iter().enumerate() {
            graph.node.extend(self.before.remove(&i).unwrap_or_default());
            if !self.dropped_nodes.contains(&i) {
                graph.node.push(node);
            }
        }
        graph.node.extend(self.before.remove(&end).unwrap_or_default());

        // A replaced node's outputs have new definitions: their annotations stay true.
        for node in &graph.node {
            node.output.iter().for_each(|o| {
                gone.remove(o);
            });
        }
        graph.value_info.retain(|v: &ValueInfoProto| !gone.contains(v.name()));
        graph.quantization_annotation.retain(|a| !gone.contains(a.tensor_name()));
    }
}

fn retain_indices<T>(list: &mut Vec<T>, dropped: &BTreeSet<usize>) {
    let mut index = 0;
    list.retain(|_| {
        index += 1;
        !dropped.contains(&(index - 1))
    });
}

/// A Constant node whose output bears the tensor's name.
pub fn constant_node(tensor: TensorProto) -> NodeProto {
    NodeProto {
        name: Some(tensor.name().to_owned()),
        output: vec![tensor.name().to_owned()],
        op_type: Some("Constant".to_owned()),
        attribute: vec![AttributeProto {
            name: Some("value".to_owned()),
            r#type: Some(AttributeType::Tensor as i32),
            t: Some(tensor),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::Step;
    use super::super::model::LoadOptions;
    use super::super::proto::ModelProto;
    use super::super::tensor;
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&s| s.to_owned()).collect(),
            output: outputs.iter().map(|&s| s.to_owned()).collect(),
            ..Default::default()
        }
    }

    fn infos(names: &[&str]) -> Vec<ValueInfoProto> {
        names.iter().map(|&n| ValueInfoProto { name: Some(n.to_owned()), ..Default::default() }).collect()
    }

    /// Outer constant `c` -> Slice -> `s`; the If's body computes `w = Unsqueeze(s, k)` and reads it in an LSTM; `c` is
    /// read by a second body too if `shared`. `dead` is unused from the start.
    fn model(ir: i64, shared: bool) -> Model {
        let body = |prefix: &str, reads: &str| {
            let name = |n: &str| format!("{prefix}{n}");
            GraphProto {
                node: vec![
                    node("Unsqueeze", &[reads, &name("k")], &[&name("w")]),
                    node("LSTM", &["x", &name("w")], &[&name("y")]),
                ],
                initializer: vec![tensor::int64(&name("k"), &[1], &[0])],
                output: infos(&[&name("y")]),
                value_info: infos(&[&name("w")]),
                ..Default::default()
            }
        };
        let mut branch = node("If", &["cond"], &["y"]);
        for (prefix, reads) in [("then_", "s"), ("else_", if shared { "s" } else { "x" })] {
            branch.attribute.push(AttributeProto { g: Some(body(prefix, reads)), ..Default::default() });
        }
        let graph = GraphProto {
            node: vec![node("Slice", &["c"], &["s"]), branch, node("Neg", &["x"], &["dead"])],
            initializer: vec![tensor::float("c", &[2], &[1.0, 2.0]), tensor::float("unrelated", &[1], &[0.0])],
            input: infos(if ir < 4 { &["x", "cond", "c"] } else { &["x", "cond"] }),
            output: infos(&["y"]),
            ..Default::default()
        };
        let proto = ModelProto { ir_version: Some(ir), graph: Some(graph), ..Default::default() };
        Model::from_proto(proto, &LoadOptions::default()).unwrap()
    }

    fn body(attribute: usize) -> Scope {
        Scope::root().child(Step { node: 1, attribute, graph: None })
    }

    fn rewire(model: &mut Model, bodies: &[usize]) -> Dropped {
        let root = Scope::root();
        let mut rewriter = Rewriter::new(model);
        let codes = rewriter.fresh("W/codes");
        let decoded = rewriter.fresh("W");
        rewriter.add_constant(&root, tensor::uint8(&codes, &[1], &[3]));
        rewriter.add_node(&root, node("Cast", &[&codes], &[&decoded]));
        for &attribute in bodies {
            rewriter.set_input(&body(attribute), 1, 1, &decoded);
        }
        rewriter.set_metadata("tool", "test");
        rewriter.finish().unwrap()
    }

    #[test]
    fn what_only_fed_a_replaced_input_goes_across_scopes() {
        let mut model = model(8, false);
        let dropped = rewire(&mut model, &[0]);
        assert_eq!(dropped.initializers, [(body(0), "then_k".to_owned()), (Scope::root(), "c".to_owned())]);
        assert_eq!(dropped.nodes, 2);
        let graph = model.proto.graph.as_ref().unwrap();
        assert_eq!(graph.node.iter().map(|n| n.op_type()).collect::<Vec<_>>(), ["Cast", "If", "Neg"]);
        assert_eq!(graph.initializer.iter().map(|t| t.name()).collect::<Vec<_>>(), ["unrelated", "W/codes"]);
        let then = graph.node[1].attribute[0].g.as_ref().unwrap();
        assert_eq!(then.node.len(), 1);
        assert_eq!(then.node[0].input, ["x", "W"]);
        assert!(then.value_info.is_empty(), "no annotation of a value that is gone");
        assert_eq!(graph.node[1].attribute[1].g.as_ref().unwrap().node.len(), 2, "the other body is as it was");
        assert_eq!(model.proto.metadata_props.len(), 1);
    }

    #[test]
    fn what_another_body_reads_stays() {
        let mut first = model(8, true);
        assert_eq!(rewire(&mut first, &[0]).nodes, 1, "Slice feeds the other body");
        let mut both = model(8, true);
        assert_eq!(rewire(&mut both, &[0, 1]).nodes, 3);
    }

    #[test]
    fn in_old_models_constants_are_nodes_and_inputs_go_along() {
        let rewired = |opset| {
            let mut model = model(3, false);
            model.proto.opset_import = vec![OperatorSetIdProto { version: Some(opset), ..Default::default() }];
            rewire(&mut model, &[0]);
            let graph = model.proto.graph.take().unwrap();
            assert_eq!(graph.input.iter().map(|v| v.name()).collect::<Vec<_>>(), ["x", "cond"]);
            (model.ir_version(), graph)
        };
        let (version, graph) = rewired(9);
        assert_eq!((version, graph.node[0].op_type()), (3, "Constant"));
        assert_eq!(graph.node[0].output, ["W/codes"]);
        let (version, graph) = rewired(8);
        assert_eq!(version, 4, "there is no Constant of uint8");
        assert!(graph.initializer.iter().any(|t| t.name() == "W/codes"));
    }

    #[test]
    fn overridable_initializers_stay_unless_frozen() {
        let overridable = || {
            let mut model = model(8, false);
            model.proto.graph.as_mut().unwrap().input.extend(infos(&["c"]));
            model
        };
        let mut kept = overridable();
        assert!(!rewire(&mut kept, &[0]).initializers.iter().any(|(_, n)| n == "c"));
        let mut frozen = overridable();
        let mut rewriter = Rewriter::new(&mut frozen);
        rewriter.freeze_input("c");
        rewriter.remove_node(&Scope::root(), 2);
        rewriter.finish().unwrap();
        let graph = frozen.proto.graph.as_ref().unwrap();
        assert_eq!(graph.input.len(), 2);
        assert_eq!(graph.initializer[0].name(), "c", "still used");
    }

    #[test]
    fn a_node_can_be_replaced_by_others_with_its_outputs() {
        let mut model = model(8, false);
        let mut rewriter = Rewriter::new(&mut model);
        rewriter.insert_before(&body(0), 1, node("MatMul", &["x", "then_w"], &["p"]));
        rewriter.insert_before(&body(0), 1, node("Tanh", &["p"], &["then_y"]));
        rewriter.remove_node(&body(0), 1);
        assert_eq!(rewriter.finish().unwrap(), Dropped::default(), "what the new nodes read is used");
        let ops: Vec<_> = model.graph(&body(0)).node.iter().map(|n| n.op_type()).collect();
        assert_eq!(ops, ["Unsqueeze", "MatMul", "Tanh"]);
    }

    #[test]
    fn removing_a_node_with_bodies_frees_what_they_read() {
        let mut model = model(8, true);
        let mut rewriter = Rewriter::new(&mut model);
        rewriter.insert_before(&Scope::root(), 1, node("Neg", &["x"], &["y"]));
        rewriter.remove_node(&Scope::root(), 1);
        let dropped = rewriter.finish().unwrap();
        assert_eq!(dropped.initializers, [(Scope::root(), "c".to_owned())]);
    }

    #[test]
    fn mistakes_are_noticed() {
        let mut undefined = model(8, false);
        let mut rewriter = Rewriter::new(&mut undefined);
        rewriter.set_input(&body(0), 1, 1, "nowhere");
        assert!(rewriter.finish().is_err());
        let mut needed = model(8, false);
        let mut rewriter = Rewriter::new(&mut needed);
        rewriter.remove_node(&Scope::root(), 0);
        assert!(rewriter.finish().is_err());
    }

    #[test]
    fn no_edits_change_nothing() {
        let mut edited = model(8, true);
        Rewriter::new(&mut edited).finish().unwrap();
        assert_eq!(edited.proto, model(8, true).proto);
    }
}
