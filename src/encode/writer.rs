//! What all forms have in common: constants that are stored once, and the nodes that make int8 levels of codes.
//!
//! ```text
//! codes u8 [rows, P] - Cast int32 - Gather(atoms i8 [256, d]) - Reshape [.., rows, P*d] - (Slice to n) - levels i8
//! ```
//! Nodes bear no names of their own (every runtime names them by their outputs): that halves the bytes of the graph.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Block, Stored, StoredMatrix};
use crate::dictionary::{ATOMS, Atoms, BlockCode, Codebook, Projected};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, ElementType, NodeProto, Rewriter, Scope, TensorProto, tensor};

/// The first opset whose Slice takes its ranges as inputs.
const SLICE_INPUTS: i64 = 10;

/// What the names of constants begin with that everything in a graph shares.
const SHARED: &str = "dirnet/";

/// Whether a constant of this name may serve several tensors.
pub(super) fn is_shared_constant(name: &str) -> bool {
    name.starts_with(SHARED)
}

/// Writes coded tensors into the graphs of one model. Constants go to the model at once; nodes gather until the caller
/// says where they go.
pub struct Writer<'r, 'm> {
    rewriter: &'r mut Rewriter<'m>,
    opset: i64,
    nodes: Vec<NodeProto>,
    /// Where the nodes to come will be placed.
    place: Scope,
    codebooks: Vec<(Scope, Arc<Codebook>, ElementType, String)>,
    /// Codebooks as floats, where nodes make them so.
    float_codebooks: Vec<(Scope, Arc<Codebook>, String)>,
    /// Projection dictionaries, by their number.
    dictionaries: Vec<Arc<Atoms>>,
    /// Bands of a dictionary, by its number, as a value of a graph.
    atoms: Vec<(Scope, usize, Range<usize>, String)>,
    integers: Vec<(Scope, Vec<i64>, String)>,
    indices: Vec<(Scope, usize, String)>,
    constants: HashMap<Held, String>,
}

/// What a constant is made of: some rows of a matrix, in the graph at `scope`. It is stored once, whoever reads it; a name
/// would not do, for that of one node may begin with that of another.
#[derive(PartialEq, Eq, Hash)]
struct Held {
    scope: Scope,
    of: StoredMatrix,
    rows: Range<usize>,
    what: String,
}

/// Where the constants of a tensor go.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    /// The graph of the codes and scales; seen from all nodes that read them.
    pub constants: &'a Scope,
    /// The graph of the codebooks that several tensors may use; seen from `constants`.
    pub codebooks: &'a Scope,
}

/// Neighbouring rows that one chain of nodes rebuilds: dense, or of one codebook.
pub(super) struct Run<'a> {
    pub parts: Vec<(Block<'a>, Range<usize>)>,
    /// Its first row in the tensor.
    first: usize,
    pub label: String,
}

impl<'r, 'm> Writer<'r, 'm> {
    /// A writer of new values through `rewriter`, of a model of at least [`FIRST_OPSET`](crate::limits::FIRST_OPSET).
    pub fn new(rewriter: &'r mut Rewriter<'m>) -> Self {
        let opset = rewriter.model().opset();
        Writer {
            rewriter,
            opset,
            nodes: Vec::new(),
            place: Scope::root(),
            codebooks: Vec::new(),
            float_codebooks: Vec::new(),
            dictionaries: Vec::new(),
            atoms: Vec::new(),
            integers: Vec::new(),
            indices: Vec::new(),
            constants: HashMap::new(),
        }
    }

    /// Says that the nodes to come will be placed in front of the graph at `scope`.
    pub fn enter(&mut self, scope: &Scope) {
        self.place = scope.clone();
    }

    /// The number of a projection dictionary.
    pub(super) fn dictionary(&mut self, atoms: &Arc<Atoms>) -> usize {
        self.dictionaries.iter().position(|known| Arc::ptr_eq(known, atoms)).unwrap_or_else(|| {
            self.dictionaries.push(atoms.clone());
            self.dictionaries.len() - 1
        })
    }

    /// The value of some bands of a dictionary where the nodes to come will be, if it is there.
    pub(super) fn atoms(&self, dictionary: usize, bands: &Range<usize>) -> Option<String> {
        let is = |(scope, d, b, _): &&(Scope, usize, Range<usize>, String)| {
            *scope == self.place && *d == dictionary && b == bands
        };
        self.atoms.iter().find(is).map(|(.., name)| name.clone())
    }

    /// Keeps such a value for those to come.
    pub(super) fn keep_atoms(&mut self, dictionary: usize, bands: Range<usize>, name: &str) {
        self.atoms.push((self.place.clone(), dictionary, bands, name.to_owned()));
    }

    /// Puts the nodes since the last call at the start of the graph at `scope`.
    pub fn place_in_front(&mut self, scope: &Scope) {
        self.take_nodes().into_iter().for_each(|node| self.rewriter.add_node(scope, node));
    }

    /// Puts the nodes since the last call before node `index` of the graph at `scope`.
    pub fn place_before(&mut self, scope: &Scope, index: usize) {
        self.take_nodes().into_iter().for_each(|node| self.rewriter.insert_before(scope, index, node));
    }

    /// The nodes since the last call, in an order in which they can run.
    pub(super) fn take_nodes(&mut self) -> Vec<NodeProto> {
        std::mem::take(&mut self.nodes)
    }

    /// Puts nodes that were taken back in front of those to come.
    pub(super) fn put_nodes(&mut self, nodes: Vec<NodeProto>) {
        self.nodes = nodes;
    }

    pub(super) fn opset(&self) -> i64 {
        self.opset
    }

    pub(super) fn fresh(&mut self, stem: &str) -> String {
        self.rewriter.fresh(stem)
    }

    /// A tensor `[directions, rows, n]` of runs of at most `most` weights, each of which `make` writes as
    /// `[directions, rows, n]` of its own.
    pub(super) fn joined(
        &mut self,
        stored: &Stored<'_>,
        most: usize,
        mut make: impl FnMut(&mut Self, &Run<'_>, [usize; 2]) -> String,
    ) -> String {
        let rows = stored.rows();
        let runs = runs(stored, most);
        if let [run] = &runs[..] {
            return make(self, run, [stored.directions, rows]);
        }
        let name = &stored.name;
        let directions: Vec<String> = (0..stored.directions)
            .map(|d| {
                let of_direction = runs.iter().filter(|run| run.first / rows == d);
                let parts = of_direction.map(|run| make(self, run, [1, run.rows()])).collect();
                self.concat(&format!("{name}/{d}/levels"), 1, parts)
            })
            .collect();
        self.concat(&format!("{name}/levels"), 0, directions)
    }

    /// The int8 levels of a run, `[shape.., n]`: the product of `shape` is its number of rows.
    pub(super) fn levels(&mut self, stored: &Stored<'_>, run: &Run<'_>, shape: &[usize], home: Home<'_>) -> String {
        let codebook = run.codebook().expect("rows without a codebook have no levels");
        let stem = run.stem(stored);
        let pieces = codebook.spec.pieces(stored.columns);
        let codes = self.codes(stored, run, home);
        let atoms = self.codebook(codebook, ElementType::Int8, home, &stem);
        let indices = self.cast(&codes, ElementType::Int32, &format!("{stem}/indices"));
        let gathered = self.node("Gather", &[&atoms, &indices], &format!("{stem}/pieces"), vec![int("axis", 0)]);
        let width = pieces * codebook.spec.width;
        let wide: Vec<i64> = shape.iter().chain([&width]).map(|&d| d as i64).collect();
        let to = self.integers(home.constants, &wide);
        let rows = self.node("Reshape", &[&gathered, &to], &format!("{stem}/rows"), vec![]);
        if width == stored.columns {
            return rows;
        }
        self.slice(&rows, shape.len(), 0..stored.columns, &format!("{stem}/trimmed"), home)
    }

    /// The codes of a run, `[rows, P]`.
    pub(super) fn codes(&mut self, stored: &Stored<'_>, run: &Run<'_>, home: Home<'_>) -> String {
        let codebook = run.codebook().expect("rows without a codebook have no codes");
        let pieces = codebook.spec.pieces(stored.columns);
        self.constant(home.constants, stored, run.range(), "codes", &run.stem(stored), |name| {
            let codes: Vec<u8> =
                run.coded().flat_map(|(c, r)| &c.codes[r.start * pieces..r.end * pieces]).copied().collect();
            tensor::uint8(name, &[run.rows(), pieces], &codes)
        })
    }

    /// A codebook as floats, `[256, d]`.
    pub(super) fn float_codebook(&mut self, codebook: &Arc<Codebook>, home: Home<'_>, stem: &str) -> String {
        let is =
            |(scope, known, _): &&(Scope, Arc<Codebook>, String)| Arc::ptr_eq(known, codebook) && *scope == self.place;
        if let Some((.., name)) = self.float_codebooks.iter().find(is) {
            return name.clone();
        }
        let atoms = self.codebook(codebook, ElementType::Int8, home, stem);
        let name = self.cast(&atoms, ElementType::Float, &format!("{stem}a"));
        self.float_codebooks.push((self.place.clone(), codebook.clone(), name.clone()));
        name
    }

    /// The scale of every row as float of shape `shape`; none if no rows have one.
    ///
    /// Scales are bytes times a step for each gate: `Cast(u8) * step`, on tensors too small to matter.
    pub(super) fn scales(&mut self, stored: &Stored<'_>, shape: &[usize], home: Home<'_>) -> Option<String> {
        if !stored.blocks.iter().any(|b| matches!(b, Block::Coded(_))) {
            return None;
        }
        let (stem, all) = (&stored.name, 0..stored.all_rows());
        let steps: Vec<f32> = stored.blocks.iter().map(Block::step).collect();
        let alike = steps.iter().all(|s| s.to_bits() == steps[0].to_bits());
        let gates = [steps.len(), stored.blocks[0].rows()];
        let codes = self.constant(home.constants, stored, all.clone(), "scale_codes", stem, |name| {
            let codes: Vec<u8> = stored.blocks.iter().flat_map(Block::scale_codes).collect();
            tensor::uint8(name, if alike { shape } else { &gates }, &codes)
        });
        let step = self.constant(home.constants, stored, all, "scale_step", stem, |name| match alike {
            true => tensor::float(name, &[], &steps[..1]),
            false => tensor::float(name, &[steps.len(), 1], &steps),
        });
        let levels = self.cast(&codes, ElementType::Float, &format!("{stem}/scale_levels"));
        let scales = self.node("Mul", &[&levels, &step], &format!("{stem}/scales"), vec![]);
        if alike {
            return Some(scales);
        }
        let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let to = self.integers(home.constants, &shape);
        Some(self.node("Reshape", &[&scales, &to], &format!("{stem}/row_scales"), vec![]))
    }

    /// A codebook `[256, d]` of int8, or of uint8: that of a matrix of such integers, of which levels are less by 128.
    pub(super) fn codebook(
        &mut self,
        codebook: &Arc<Codebook>,
        element: ElementType,
        home: Home<'_>,
        stem: &str,
    ) -> String {
        let is = |(scope, known, of, _): &&(Scope, Arc<Codebook>, ElementType, String)| {
            Arc::ptr_eq(known, codebook) && scope == home.codebooks && *of == element
        };
        if let Some((.., name)) = self.codebooks.iter().find(is) {
            return name.clone();
        }
        let (name, shape) = (self.rewriter.fresh(&format!("{stem}/atoms")), [ATOMS, codebook.spec.width]);
        let atoms = match element {
            ElementType::Uint8 => {
                let bytes = codebook.atoms.iter().map(|&level| level.wrapping_sub(i8::MIN) as u8);
                tensor::uint8(&name, &shape, &bytes.collect::<Vec<_>>())
            }
            _ => tensor::int8(&name, &shape, &codebook.atoms),
        };
        self.rewriter.add_constant(home.codebooks, atoms);
        self.codebooks.push((home.codebooks.clone(), codebook.clone(), element, name.clone()));
        name
    }

    /// `parts` one after the other, or the only one as it is.
    pub(super) fn concat(&mut self, name: &str, axis: i64, parts: Vec<String>) -> String {
        match <[String; 1]>::try_from(parts) {
            Ok([part]) => part,
            Err(parts) => {
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                self.node("Concat", &parts, name, vec![int("axis", axis)])
            }
        }
    }

    pub(super) fn slice(
        &mut self,
        value: &str,
        axis: usize,
        range: Range<usize>,
        name: &str,
        home: Home<'_>,
    ) -> String {
        let [start, end, axis] = [range.start, range.end, axis].map(|index| index as i64);
        if self.opset < SLICE_INPUTS {
            let ranges = vec![ints("axes", &[axis]), ints("ends", &[end]), ints("starts", &[start])];
            return self.node("Slice", &[value], name, ranges);
        }
        let [start, end, axis] = [start, end, axis].map(|i| self.integers(home.constants, &[i]));
        self.node("Slice", &[value, &start, &end, &axis], name, vec![])
    }

    pub(super) fn cast(&mut self, value: &str, to: ElementType, name: &str) -> String {
        self.node("Cast", &[value], name, vec![int("to", to as i64)])
    }

    /// A node of one output, whose name is about `output`.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> String {
        let output = self.rewriter.fresh(output);
        self.push(op, inputs, vec![output.clone()], attribute);
        output
    }

    /// A node whose outputs have exactly these names.
    pub(super) fn push(&mut self, op: &str, inputs: &[&str], output: Vec<String>, attribute: Vec<AttributeProto>) {
        self.push_node(NodeProto {
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output,
            op_type: Some(op.to_owned()),
            attribute,
            ..NodeProto::default()
        });
    }

    pub(super) fn push_node(&mut self, node: NodeProto) {
        self.nodes.push(node);
    }

    /// A vector of int64, stored once per graph.
    pub(super) fn integers(&mut self, scope: &Scope, values: &[i64]) -> String {
        if let Some((.., name)) = self.integers.iter().find(|(s, v, _)| s == scope && v == values) {
            return name.clone();
        }
        let text: Vec<_> = values.iter().map(i64::to_string).collect();
        let name = self.rewriter.fresh(&format!("{SHARED}{}", text.join("x")));
        self.rewriter.add_constant(scope, tensor::int64(&name, &[values.len()], values));
        self.integers.push((scope.clone(), values.to_vec(), name.clone()));
        name
    }

    /// An index, without dimensions, stored once per graph.
    pub(super) fn index(&mut self, scope: &Scope, index: usize) -> String {
        if let Some((.., name)) = self.indices.iter().find(|(s, i, _)| s == scope && *i == index) {
            return name.clone();
        }
        let name =
            self.own_constant(scope, &format!("{SHARED}index/{index}"), |n| tensor::int64(n, &[], &[index as i64]));
        self.indices.push((scope.clone(), index, name.clone()));
        name
    }

    /// The name of `what` of some rows of a tensor, counted from its first, which is made at its first use.
    pub(super) fn constant(
        &mut self,
        scope: &Scope,
        stored: &Stored<'_>,
        rows: Range<usize>,
        what: &str,
        stem: &str,
        make: impl FnOnce(&str) -> TensorProto,
    ) -> String {
        let rows = stored.start + rows.start..stored.start + rows.end;
        let held = Held { scope: scope.clone(), of: stored.of, rows, what: what.to_owned() };
        if let Some(name) = self.constants.get(&held) {
            return name.clone();
        }
        let name = self.own_constant(scope, &format!("{stem}/{what}"), make);
        self.constants.insert(held, name.clone());
        name
    }

    /// The name of a constant that nothing else has.
    pub(super) fn own_constant(&mut self, scope: &Scope, stem: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.rewriter.fresh(stem);
        self.rewriter.add_constant(scope, make(&name));
        name
    }
}

impl<'a> Run<'a> {
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|(_, range)| range.len()).sum()
    }

    /// Its rows in the tensor.
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.rows()
    }

    fn codebook(&self) -> Option<&'a Arc<Codebook>> {
        self.coded().next().map(|(coded, _)| &coded.codebook)
    }

    /// The rows of projected units; empty for other runs.
    pub fn projected(&self) -> Vec<(&'a Projected, Range<usize>)> {
        let projected = self.parts.iter().filter_map(|(block, range)| match block {
            Block::Projected(projected) => Some((*projected, range.clone())),
            _ => None,
        });
        projected.collect()
    }

    fn coded(&self) -> impl Iterator<Item = (&'a BlockCode, &Range<usize>)> {
        self.parts.iter().filter_map(|(block, range)| match block {
            Block::Coded(coded) => Some((*coded, range)),
            _ => None,
        })
    }

    /// What the names of its values begin with.
    pub fn stem(&self, stored: &Stored<'_>) -> String {
        match self.label.as_str() {
            "" => stored.name.clone(),
            label => format!("{}/{label}", stored.name),
        }
    }
}

/// Cuts a tensor into runs of at most `most` weights, padding included: one if it is all alike and small enough, else
/// runs within each direction.
pub(super) fn runs<'a>(stored: &Stored<'a>, most: usize) -> Vec<Run<'a>> {
    let total: usize = stored.blocks.iter().map(Block::rows).sum();
    let first = &stored.blocks[0];
    let rows_in_a_run = |block: &Block<'_>| (most / block.width(stored.columns).max(1)).max(1);
    let one = stored.directions == 1 || !matches!(first, Block::Projected(_));
    if one && stored.blocks.iter().all(|b| b.is_like(first)) && total <= rows_in_a_run(first) {
        let parts = stored.blocks.iter().map(|b| (*b, 0..b.rows())).collect();
        return vec![Run { parts, first: 0, label: String::new() }];
    }
    let mut runs: Vec<Run<'a>> = Vec::new();
    let mut first = 0;
    let per_direction = stored.gates.len();
    for (i, block) in stored.blocks.iter().enumerate() {
        let label = match (stored.directions, stored.gates[i % per_direction]) {
            (1, gate) => gate.to_owned(),
            (_, gate) => format!("{}.{gate}", i / per_direction),
        };
        let most = rows_in_a_run(block);
        for start in (0..block.rows()).step_by(most) {
            let range = start..block.rows().min(start + most);
            let length = range.len();
            let same_direction = i % per_direction != 0 || start > 0;
            match runs.last_mut() {
                Some(run) if same_direction && run.parts[0].0.is_like(block) && run.rows() + range.len() <= most => {
                    run.parts.push((*block, range));
                    if !run.label.ends_with(label.as_str()) {
                        run.label = format!("{}+{label}", run.label);
                    }
                }
                _ => {
                    let label = if start > 0 { format!("{label}.{start}") } else { label.clone() };
                    runs.push(Run { parts: vec![(*block, range)], first, label });
                }
            }
            first += length;
        }
    }
    runs
}

pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}
