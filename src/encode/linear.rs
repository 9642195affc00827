//! The weights of linear nodes: decoded when the model is loaded, or, for a table that is looked up, row by row in each run.
//!
//! ```text
//! codes u8 [rows, P] - Cast int32 - Gather(atoms i8 [256, d] - Cast float) - Reshape - Mul(scales) - Concat - weight
//! ```
//! Atoms become floats before they are looked up: OpenVINO takes int8 that goes to float in front of a MatMul for weights of
//! its own quantisation, and quantises what they multiply. Every run of at most `RUN_WEIGHTS` weights is scaled by
//! itself and joined last, because tract folds no larger value.
//!
//! A matrix of integers has atoms of its own type and no scales; what becomes of it reads it as it was:
//!
//! ```text
//! codes u8 [rows, P] - Cast int32 - Gather(atoms [256, d]) - (Transpose to [P, d, rows]) - Reshape - weight
//! ```
//! Where it is read by columns, pieces are transposed before they take their shape: OpenVINO quantises what is multiplied by
//! integers that come out of a Transpose.
//!
//! A table that is looked up stays coded in memory: its codes are looked up first, and what they stand for after that.

use super::writer::{Home, Run, Writer, int, ints, runs};
use super::{Block, Stored, block};
use crate::dictionary::BlockCode;
use crate::linear::{LinearNode, LinearOp};
use crate::onnx::{ElementType, NodeProto, tensor};

/// Weights in one run of nodes, padding included, as in the [portable](super::portable) form.
const RUN_WEIGHTS: usize = 1 << 20;
/// Bytes of a value that tract folds: the indices of a run of integers, which are int32, and the run itself.
const RUN_BYTES: usize = 4 << 20;

/// Weights in one run of the nodes that decode a matrix.
fn run_weights(block: &Block<'_>) -> usize {
    match block {
        Block::Coded(BlockCode { codebook, grid: Some(_), .. }) => {
            (RUN_BYTES / size_of::<i32>() * codebook.spec.width).min(RUN_BYTES)
        }
        _ => RUN_WEIGHTS,
    }
}

fn is_of_integers(block: &Block<'_>) -> bool {
    matches!(block, Block::Coded(coded) if coded.grid.is_some())
}

/// How a node reads the rows of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    /// By columns.
    transposed: bool,
    /// The shape of the tensor.
    dims: Vec<usize>,
}

/// The value of a matrix in the views in which nodes read it: those of a place share what they can.
pub(super) struct Decoded<'s, 'a> {
    stored: &'s Stored<'a>,
    home: Home<'s>,
    /// Whether nodes look up codes of all rows, so that runs are cut out of those.
    whole: bool,
    views: Vec<(View, String)>,
}

impl<'s, 'a> Decoded<'s, 'a> {
    /// Of a matrix that `nodes` read.
    pub(super) fn new(stored: &'s Stored<'a>, home: Home<'s>, nodes: &[&LinearNode]) -> Self {
        let mut decoded = Decoded { stored, home, whole: false, views: Vec::new() };
        decoded.whole = nodes.iter().any(|node| decoded.looks_up(node));
        decoded
    }

    /// The name of the value that a node reads. A Gemm reads rows: the caller says so to the node.
    pub(super) fn value(&mut self, writer: &mut Writer<'_, '_>, node: &LinearNode) -> String {
        let rows = [self.stored.all_rows(), self.stored.columns];
        let view = match node.op {
            // What a DequantizeLinear makes of integers is read as it was.
            LinearOp::Gemm { .. } if node.grid.is_none() => View { transposed: false, dims: rows.to_vec() },
            _ => View { transposed: node.transposed, dims: node.source.dims.clone() },
        };
        self.view(writer, view)
    }

    fn view(&mut self, writer: &mut Writer<'_, '_>, view: View) -> String {
        if let Some((_, name)) = self.views.iter().find(|(known, _)| *known == view) {
            return name.clone();
        }
        let (name, rows) = (&self.stored.name, self.stored.all_rows());
        let value = if view.transposed && is_of_integers(&self.stored.blocks[0]) {
            self.columns(writer, &view.dims)
        } else if view.transposed {
            let matrix = View { transposed: false, dims: vec![rows, self.stored.columns] };
            let matrix = self.view(writer, matrix);
            let columns = writer.node("Transpose", &[&matrix], &format!("{name}t"), vec![]);
            let is_matrix = view.dims == [self.stored.columns, rows];
            if is_matrix { columns } else { self.reshaped(writer, &columns, &view.dims) }
        } else {
            self.rows(writer, &view.dims)
        };
        self.views.push((view, value.clone()));
        value
    }

    /// The matrix as a tensor whose first axis is its rows, or one of another shape with the same order of elements.
    fn rows(&self, writer: &mut Writer<'_, '_>, dims: &[usize]) -> String {
        let stored = self.stored;
        let runs = runs(stored, run_weights(&stored.blocks[0]));
        let by_rows = dims[0] == stored.all_rows();
        // What is cut to size, or is no codes of blocks, is a matrix before it takes its shape.
        let plain =
            |run: &Run<'_>| matches!(run.parts[0].0, Block::Coded(coded) if coded.codebook.spec.fits(stored.columns));
        let direct = by_rows && runs.iter().all(plain);
        let shape = if direct { &dims[1..] } else { &[stored.columns][..] };
        let parts: Vec<String> = runs.iter().map(|run| self.run(writer, run, shape)).collect();
        let joined = writer.concat(&format!("{}m", stored.name), 0, parts);
        let value = if direct || dims.len() == 2 && by_rows { joined } else { self.reshaped(writer, &joined, dims) };
        if is_of_integers(&stored.blocks[0]) { value } else { self.in_element(writer, value) }
    }

    /// A matrix of integers by columns, as a tensor of some shape with that order of elements.
    fn columns(&self, writer: &mut Writer<'_, '_>, dims: &[usize]) -> String {
        let Decoded { stored, home, .. } = *self;
        let runs = runs(stored, run_weights(&stored.blocks[0]));
        let width = stored.blocks[0].width(stored.columns);
        let direct = runs.len() == 1 && width == stored.columns;
        let mut part = |run: &Run<'a>| {
            let (stem, pieces) = (run.stem(stored), self.pieces(writer, run));
            let pieces = writer.node("Transpose", &[&pieces], &format!("{stem}t"), vec![ints("perm", &[1, 2, 0])]);
            if direct {
                return self.reshaped(writer, &pieces, dims);
            }
            let columns = self.reshaped(writer, &pieces, &[width, run.rows()]);
            if width == stored.columns {
                return columns;
            }
            writer.slice(&columns, 0, 0..stored.columns, &format!("{stem}n"), home)
        };
        let parts = runs.iter().map(&mut part).collect();
        let joined = writer.concat(&format!("{}m", stored.name), 1, parts);
        let is_matrix = *dims == [stored.columns, stored.all_rows()];
        if direct || is_matrix { joined } else { self.reshaped(writer, &joined, dims) }
    }

    /// The atoms that the codes of a run stand for, `[rows, P, d]`.
    fn pieces(&self, writer: &mut Writer<'_, '_>, run: &Run<'a>) -> String {
        let (stored, home, stem) = (self.stored, self.home, run.stem(self.stored));
        let Block::Coded(coded) = run.parts[0].0 else { unreachable!("whoever asks for pieces knows of codes") };
        let indices = self.indices(writer, run);
        let atoms = match coded.grid {
            None => writer.float_codebook(&coded.codebook, home, &stem),
            Some(_) => writer.codebook(&coded.codebook, stored.element, home, &stem),
        };
        writer.node("Gather", &[&atoms, &indices], &format!("{stem}p"), vec![int("axis", 0)])
    }

    fn run(&self, writer: &mut Writer<'_, '_>, run: &Run<'a>, shape: &[usize]) -> String {
        let Decoded { stored, home, .. } = *self;
        let stem = run.stem(stored);
        let Block::Coded(coded) = run.parts[0].0 else {
            let value = block::float(writer, stored, run, [1, run.rows()], home);
            return self.reshaped(writer, &value, &[run.rows(), stored.columns]);
        };
        let width = coded.codebook.spec.pieces(stored.columns) * coded.codebook.spec.width;
        let pieces = self.pieces(writer, run);
        let padded = width != stored.columns;
        let wide: Vec<usize> = if padded { vec![width] } else { shape.to_vec() };
        let to: Vec<usize> = [run.rows()].iter().chain(&wide).copied().collect();
        let mut rows = self.reshaped(writer, &pieces, &to);
        if padded {
            rows = writer.slice(&rows, 1, 0..stored.columns, &format!("{stem}n"), home);
        }
        if coded.grid.is_some() {
            return rows;
        }
        let scales = self.scales(writer, run, shape.len());
        writer.node("Mul", &[&rows, &scales], &format!("{stem}w"), vec![])
    }

    /// The codes of a run as indices, `[rows, P]`.
    fn indices(&self, writer: &mut Writer<'_, '_>, run: &Run<'a>) -> String {
        let stem = run.stem(self.stored);
        let all = self.all();
        let codes = writer.codes(self.stored, if self.whole { &all } else { run }, self.home);
        let indices = writer.cast(&codes, ElementType::Int32, &format!("{stem}i"));
        self.cut(writer, indices, run)
    }

    /// All rows as one run.
    fn all(&self) -> Run<'a> {
        runs(self.stored, usize::MAX).pop().expect("a matrix has rows")
    }

    /// The rows of a run, of a value that has all rows if runs are cut out of it.
    fn cut(&self, writer: &mut Writer<'_, '_>, value: String, run: &Run<'a>) -> String {
        if !self.whole || run.rows() == self.stored.all_rows() {
            return value;
        }
        writer.slice(&value, 0, run.range(), &format!("{}x", run.stem(self.stored)), self.home)
    }

    /// The scale of every row of a run, `[rows, 1..]` with `axes` ones.
    fn scales(&self, writer: &mut Writer<'_, '_>, run: &Run<'a>, axes: usize) -> String {
        let stem = run.stem(self.stored);
        let all = self.all();
        let of = if self.whole { &all } else { run };
        let mut shape = vec![of.rows()];
        shape.resize(1 + axes, 1);
        let (codes, step) = self.scale_codes(writer, of, &shape);
        let levels = writer.cast(&codes, ElementType::Float, &format!("{stem}l"));
        let scales = writer.node("Mul", &[&levels, &step], &format!("{stem}s"), vec![]);
        self.cut(writer, scales, run)
    }

    /// The codes of the scales of a run, and what a code of 1 stands for.
    fn scale_codes(&self, writer: &mut Writer<'_, '_>, run: &Run<'a>, shape: &[usize]) -> (String, String) {
        let (stored, home, stem) = (self.stored, self.home, run.stem(self.stored));
        // Nodes that read the rows in other shapes have scales of their own.
        let what = if shape.len() == 2 { "c".to_owned() } else { format!("c{}", shape.len()) };
        let codes = writer.constant(home.constants, stored, run.range(), &what, &format!("{stem}r"), |name| {
            let of_run = run.parts.iter().flat_map(|(block, range)| block.scale_codes()[range.clone()].to_vec());
            tensor::uint8(name, shape, &of_run.collect::<Vec<u8>>())
        });
        let step = stored.blocks[0].step();
        let all = 0..stored.all_rows();
        let step = writer
            .constant(home.constants, stored, all, "step", &stored.name, |name| tensor::float(name, &[], &[step]));
        (codes, step)
    }

    fn reshaped(&self, writer: &mut Writer<'_, '_>, value: &str, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let to = writer.integers(self.home.constants, &dims);
        writer.node("Reshape", &[value, &to], &format!("{}v", self.stored.name), vec![])
    }

    /// In the element type that the nodes read.
    fn in_element(&self, writer: &mut Writer<'_, '_>, float: String) -> String {
        match self.stored.element {
            ElementType::Float => float,
            element => writer.cast(&float, element, &format!("{}h", self.stored.name)),
        }
    }

    /// Whether a node can look up the codes of this matrix: its pieces make whole rows, and the rank of the indices is known.
    pub(super) fn looks_up(&self, node: &LinearNode) -> bool {
        let [block] = &self.stored.blocks[..] else { return false };
        let fits = |coded: &BlockCode| coded.grid.is_none() && coded.codebook.spec.fits(self.stored.columns);
        let whole = matches!(block, Block::Coded(coded) if fits(coded));
        whole && matches!(node.op, LinearOp::Gather { rank: Some(_) })
    }

    /// The nodes that look up coded rows in place of `proto`, the Gather that looks up dense ones.
    pub(super) fn look_up(&self, writer: &mut Writer<'_, '_>, node: &LinearNode, proto: &NodeProto, atoms: &str) {
        let LinearOp::Gather { rank: Some(rank) } = node.op else { unreachable!("`looks_up` was asked") };
        let (stored, stem) = (self.stored, &self.stored.name);
        let (run, ids) = (&self.all(), &proto.input[1]);
        let gather = |writer: &mut Writer<'_, '_>, table: &str, ids: &str, name: &str| {
            writer.node("Gather", &[table, ids], &format!("{stem}{name}"), vec![int("axis", 0)])
        };
        let codes = writer.codes(stored, run, self.home);
        let codes = gather(writer, &codes, ids, "o");
        let codes = writer.cast(&codes, ElementType::Int32, &format!("{stem}j"));
        let pieces = gather(writer, atoms, &codes, "q");
        // The sizes of the indices stay, whatever they are.
        let mut to = vec![0; rank];
        to.push(stored.columns);
        let rows = self.reshaped(writer, &pieces, &to);
        let (scale_codes, step) = self.scale_codes(writer, run, &[stored.all_rows(), 1]);
        let levels = gather(writer, &scale_codes, ids, "k");
        let levels = writer.cast(&levels, ElementType::Float, &format!("{stem}l"));
        let scales = writer.node("Mul", &[&levels, &step], &format!("{stem}s"), vec![]);
        let output = proto.output[0].clone();
        if stored.element == ElementType::Float {
            return writer.push("Mul", &[&rows, &scales], vec![output], vec![]);
        }
        let float = writer.node("Mul", &[&rows, &scales], &format!("{stem}f"), vec![]);
        writer.push("Cast", &[&float], vec![output], vec![int("to", stored.element as i64)]);
    }
}
