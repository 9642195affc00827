//! The fast form: a Scan over int8 products in place of the recurrent node, in standard operators.
//!
//! ```text
//! X [T, B, I] - DynamicQuantizeLinear - MatMulInteger(W i8 [I, G*H]) - Cast - Mul(scales) - Add(bias) -> x [T, B, G*H]
//! body, for each step: h [B, H] - DynamicQuantizeLinear - MatMulInteger(R i8 [H, G*H]) - Cast - Mul(scales), then the
//! gates with x_t [B, G*H] -> h', c'
//! ```
//! No float copy of the weights exists when the model runs: runtimes fold the decoding nodes to int8 and fuse each
//! product to one operator. The vectors are quantised to eight bits at each step, so that the outputs differ from the
//! portable form's by some 1e-3 of their range. The nodes that decode R are outside of the body, which reads what they
//! compute: onnxruntime frees a weight once it has packed it for its products, but not one that is a body's own. OpenVINO
//! lets no body read a value that is computed outside, and so refuses the form.
//!
//! Weights that are codes of a projection dictionary are multiplied as the product that they are, `R h = Z (D h)`: first
//! by the atoms, then for each band by its codes, with the vector in between quantised anew. Where that does not
//! [pay](super::obstacle), the node stays portable.
//!
//! With `G*H` gates in ONNX's order, LSTM `i o f c`: `c' = f c + i tanh(c~)`, `h' = o tanh(c')`. GRU `z r h`:
//! `h' = n + z (h - n)`, where `n = tanh(x_h + r (R_h h + Rb_h))` if `linear_before_reset`, else
//! `n = tanh(x_h + R_h (r h) + Rb_h)`, for which `r h` is quantised anew.

use std::collections::BTreeSet;

use ndarray::{Array1, Array2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::found::{Found, changed, constant, dense, stacked};
use super::writer::{int, ints, runs};
use super::{Block, Home, Layer, Stored, StoredMatrix, Writer, projected};
use crate::dictionary::Projected;
use crate::error::Result;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
use crate::onnx::{AttributeProto, Definition, ElementType, GraphProto, Model, NodeProto, Scope, graph, tensor};
use crate::recurrent::{Bias, Cell, Constants, Direction, RecurrentNode};

/// Hidden size from which it was measured to be faster in onnxruntime; below, the overhead of the loop exceeds the gain of
/// int8.
pub const PAYS_FROM: usize = 384;
/// The first opset with DynamicQuantizeLinear.
const FIRST_OPSET: i64 = 11;
/// The first opset whose Split and Unsqueeze take sizes and axes as inputs.
const AXES_INPUTS: i64 = 13;

/// Why a node cannot be written so; `bias` gives its B, and is asked last.
pub(super) fn refusal<'b>(node: &RecurrentNode, opset: i64, bias: impl FnOnce() -> Option<&'b Bias>) -> Option<String> {
    let attributes = &node.attributes;
    let unusual = |is: bool, what: &str| is.then(|| format!("the fast form does not support {what}"));
    if opset < FIRST_OPSET {
        return Some(format!("opset {opset} has no DynamicQuantizeLinear: convert the model to {FIRST_OPSET}"));
    }
    unusual(node.reads.sequence_lens, "sequence_lens")
        .or_else(|| unusual(node.reads.peepholes, "peepholes"))
        .or_else(|| unusual(attributes.clip.is_some(), "clip"))
        .or_else(|| unusual(attributes.input_forget, "input_forget"))
        .or_else(|| unusual(attributes.layout == 1, "layout = 1"))
        .or_else(|| unusual(!attributes.has_default_activations(node.cell), "other activations"))
        .or_else(|| unusual(node.w.element != ElementType::Float, "float16 weights"))
        .or_else(|| Some(format!("the fast form needs a constant bias: {}", bias()?.as_ref().err()?)))
}

/// The names of an int8 matrix `[n, rows]` and of the scale of each of its columns.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Levels {
    levels: String,
    scales: String,
}

/// What a vector is multiplied with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Matrix {
    /// The matrix itself.
    Whole(Levels),
    /// Atoms `[n, k]`, and for each band of them codes `[k_b, rows]`, whose products are added.
    Factors {
        atoms: Levels,
        codes: Vec<Levels>,
        /// k_b of each band.
        #[serde(skip)]
        sizes: Vec<usize>,
    },
}

/// What a Scan stands for: the text of its `doc_string`, which the way back needs. Names are those of values.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Origin {
    /// The node.
    dirnet: String,
    operator: String,
    hidden: usize,
    direction: String,
    /// Which of the node's directions the Scan is.
    index: usize,
    linear_before_reset: bool,
    /// X, then the initial states.
    inputs: Vec<String>,
    outputs: Vec<String>,
    w: Matrix,
    /// All of R, or its parts.
    r: Vec<Matrix>,
    /// What is added outside and inside.
    bias: [Option<String>; 2],
}

/// A value as `DynamicQuantizeLinear` gives it: `u8`, scale, zero point.
type Quantised = [String; 3];

/// Writes the nodes that take the place of the layer's node. Its outputs keep their names.
pub fn write(writer: &mut Writer<'_, '_>, layer: &Layer<'_>) {
    Scribe { writer, layer, hidden: layer.node.attributes.hidden }.layer();
}

/// Writes one layer.
struct Scribe<'s, 'l, 'r, 'm> {
    writer: &'s mut Writer<'r, 'm>,
    layer: &'s Layer<'l>,
    hidden: usize,
}

/// The values that one direction computes: `Y [T, B, H]` if it is read, then the last states `[B, H]`.
struct Results {
    y: Option<String>,
    states: Vec<String>,
}

impl Scribe<'_, '_, '_, '_> {
    fn layer(&mut self) {
        let x = self.layer.input(0).expect("X was found when the node was").to_owned();
        let stem = self.layer.node.name.clone();
        let quantised = self.quantise(&x, &format!("{stem}/X"));
        let zeros = self.has_zero_state().then(|| self.zeros(&x, &stem));
        let directions = self.layer.node.attributes.direction.each();
        let results: Vec<Results> = directions
            .iter()
            .enumerate()
            .map(|(d, &direction)| {
                let stem = if directions.len() == 1 { stem.clone() } else { format!("{stem}/{}", direction.name()) };
                self.direction(d, direction, &stem, &quantised, zeros.as_deref())
            })
            .collect();
        if let Some(name) = self.layer.output(0) {
            let all = results.iter().map(|r| r.y.clone().expect("Y is read")).collect();
            self.stack(all, 1, name);
        }
        for state in 0..self.states() {
            if let Some(name) = self.layer.output(1 + state) {
                self.stack(results.iter().map(|r| r.states[state].clone()).collect(), 0, name);
            }
        }
    }

    fn states(&self) -> usize {
        self.layer.node.cell.states().len()
    }

    fn has_zero_state(&self) -> bool {
        (0..self.states()).any(|state| self.layer.input(5 + state).is_none())
    }

    /// `[B, H]` of zeros.
    fn zeros(&mut self, x: &str, stem: &str) -> String {
        let scope = &self.layer.node.scope;
        let (one, hidden) = (self.writer.integers(scope, &[1]), self.writer.integers(scope, &[self.hidden as i64]));
        let shape = self.writer.node("Shape", &[x], &format!("{stem}/X/shape"), vec![]);
        let batch = self.writer.node("Gather", &[&shape, &one], &format!("{stem}/batch"), vec![int("axis", 0)]);
        let shape =
            self.writer.node("Concat", &[&batch, &hidden], &format!("{stem}/state/shape"), vec![int("axis", 0)]);
        let value = AttributeProto {
            name: Some("value".to_owned()),
            r#type: Some(AttributeType::Tensor as i32),
            t: Some(tensor::float("", &[1], &[0.0])),
            ..AttributeProto::default()
        };
        self.writer.node("ConstantOfShape", &[&shape], &format!("{stem}/state/zeros"), vec![value])
    }

    /// Unsqueezes each of `values` at `axis` and joins them there, as `name`.
    fn stack(&mut self, values: Vec<String>, axis: i64, name: &str) {
        let stems = match &values[..] {
            [_] => vec![name.to_owned()],
            _ => values.iter().map(|v| self.writer.fresh(&format!("{v}/stacked"))).collect(),
        };
        for (value, output) in values.iter().zip(&stems) {
            if self.writer.opset() < AXES_INPUTS {
                self.writer.push("Unsqueeze", &[value], vec![output.clone()], vec![ints("axes", &[axis])]);
            } else {
                let axes = self.writer.integers(&self.layer.node.scope, &[axis]);
                self.writer.push("Unsqueeze", &[value, &axes], vec![output.clone()], vec![]);
            }
        }
        if stems.len() > 1 {
            let stems: Vec<&str> = stems.iter().map(String::as_str).collect();
            self.writer.push("Concat", &stems, vec![name.to_owned()], vec![int("axis", axis)]);
        }
    }

    fn direction(&mut self, d: usize, direction: Direction, stem: &str, x: &Quantised, zeros: Option<&str>) -> Results {
        let gates = self.layer.node.cell.gates().len();
        let (w, home) = self.layer.w;
        let part = w.part(d, 0..gates, self.name_of(w, d));
        let w = self.matrix(&part, home);
        let r = self.recurrent_parts(d);
        let [outside, inside] = self.biases(d, stem);
        let projected = self.product(x, &w, outside.as_deref(), &format!("{stem}/x"));
        let mut inputs: Vec<String> = (0..self.states()).map(|state| self.initial(d, state, stem, zeros)).collect();
        inputs.push(projected);

        let outer = self.writer.take_nodes();
        let body = self.body(stem, &r, inside.as_deref());
        let node = self.writer.take_nodes();
        self.writer.put_nodes(outer);
        let origin = self.origin(d, w, r, [outside, inside]);
        self.scan(GraphProto { node, ..body }, direction, inputs, stem, &origin)
    }

    /// What names of one direction of a weight begin with.
    fn name_of(&self, stored: &Stored<'_>, d: usize) -> String {
        if stored.directions == 1 { stored.name.clone() } else { format!("{}/{d}", stored.name) }
    }

    fn origin(&self, index: usize, w: Matrix, r: Vec<Matrix>, bias: [Option<String>; 2]) -> Origin {
        let RecurrentNode { name, cell, attributes, .. } = self.layer.node;
        let input = |index: usize| self.layer.input(index).unwrap_or_default().to_owned();
        Origin {
            dirnet: name.clone(),
            operator: cell.operator().to_owned(),
            hidden: self.hidden,
            direction: attributes.direction.name().to_owned(),
            index,
            linear_before_reset: attributes.linear_before_reset,
            inputs: [0, 5, 6].map(input)[..1 + self.states()].to_vec(),
            outputs: self.layer.proto.output.clone(),
            w,
            r,
            bias,
        }
    }

    fn scan(
        &mut self,
        body: GraphProto,
        direction: Direction,
        inputs: Vec<String>,
        stem: &str,
        origin: &Origin,
    ) -> Results {
        let mut states: Vec<String> = vec![self.writer.fresh(&format!("{stem}/last_h"))];
        if self.states() == 2 {
            states.push(self.writer.fresh(&format!("{stem}/last_c")));
        }
        let y = self.layer.output(0).map(|_| self.writer.fresh(&format!("{stem}/steps")));
        let graph = AttributeProto {
            name: Some("body".to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(body),
            ..AttributeProto::default()
        };
        let mut attribute = vec![graph, int("num_scan_inputs", 1)];
        if direction == Direction::Reverse {
            attribute.push(ints("scan_input_directions", &[1]));
            attribute.extend(y.is_some().then(|| ints("scan_output_directions", &[1])));
        }
        self.writer.push_node(NodeProto {
            op_type: Some("Scan".to_owned()),
            input: inputs,
            output: states.iter().chain(&y).cloned().collect(),
            attribute,
            doc_string: Some(serde_json::to_string(origin).expect("names and numbers")),
            ..NodeProto::default()
        });
        Results { y, states }
    }

    /// What is added to `W x` and what to `R h`, `[G*H]`: both to the former, but for the `Rb` that a reset gate scales.
    fn biases(&mut self, d: usize, stem: &str) -> [Option<String>; 2] {
        let Some(bias) = self.layer.bias else { return [None, None] };
        let rows = bias.ncols() / 2;
        let (w, r) = bias.row(d).split_at(Axis(0), rows);
        let apart = self.layer.node.cell == Cell::Gru && self.layer.node.attributes.linear_before_reset;
        let (outside, inside) = if apart { (w.to_vec(), Some(r.to_vec())) } else { ((&w + &r).to_vec(), None) };
        let mut add = |name: &str, values: Vec<f32>| {
            let name = format!("{stem}/{name}");
            self.writer
                .own_constant(&self.layer.node.scope, &name, |name| tensor::float(name, &[values.len()], &values))
        };
        [Some(add("bias", outside)), inside.map(|values| add("inner_bias", values))]
    }

    /// The first state `[B, H]` of one direction.
    fn initial(&mut self, d: usize, state: usize, stem: &str, zeros: Option<&str>) -> String {
        let Some(given) = self.layer.input(5 + state) else {
            return zeros.expect("made where an initial state is missing").to_owned();
        };
        let index = self.writer.index(&self.layer.node.scope, d);
        let which = ["h", "c"][state];
        self.writer.node("Gather", &[given, &index], &format!("{stem}/initial_{which}"), vec![int("axis", 0)])
    }

    /// Writes the nodes of the body, and returns the graph without them.
    fn body(&mut self, stem: &str, r: &[Matrix], bias: Option<&str>) -> GraphProto {
        let hidden = self.hidden;
        let rows = self.layer.node.cell.gates().len() * hidden;
        let [h, c, x] = ["h", "c", "x_t"].map(|name| self.writer.fresh(&format!("{stem}/{name}")));
        let mut outputs = match (self.layer.node.cell, r) {
            (Cell::Lstm, [r]) => self.lstm(stem, r, [&h, &c, &x]),
            (Cell::Gru, [r]) => self.gru_after(stem, r, [&h, &x], bias),
            (Cell::Gru, [r_zr, r_n]) => self.gru_before(stem, [r_zr, r_n], [&h, &x]),
            _ => unreachable!("an RNN stays portable, and R is in the parts that `recurrent_parts` gives"),
        };
        if self.layer.output(0).is_some() {
            let y = self.writer.node("Identity", &[&outputs[0]], &format!("{stem}/y_t"), vec![]);
            outputs.push(y);
        }
        let mut input = vec![matrix_info(&h, hidden)];
        if self.states() == 2 {
            input.push(matrix_info(&c, hidden));
        }
        input.push(matrix_info(&x, rows));
        GraphProto {
            name: Some("step".to_owned()),
            input,
            output: outputs.iter().map(|name| matrix_info(name, hidden)).collect(),
            ..GraphProto::default()
        }
    }

    fn lstm(&mut self, stem: &str, r: &Matrix, [h, c, x]: [&str; 3]) -> Vec<String> {
        let recurrent = self.recurrent(r, h, None, &format!("{stem}/h"));
        let gates = self.op("Add", &[&recurrent, x], stem, "gates");
        let [iof, candidate] = self.split(&gates, [3, 1], stem, ["iof_in", "c_in"]);
        let iof = self.op("Sigmoid", &[&iof], stem, "iof");
        let [i, o, f] = self.split(&iof, [1, 1, 1], stem, ["i", "o", "f"]);
        let candidate = self.op("Tanh", &[&candidate], stem, "candidate");
        let kept = self.op("Mul", &[&f, c], stem, "kept");
        let new = self.op("Mul", &[&i, &candidate], stem, "new");
        let cell = self.op("Add", &[&kept, &new], stem, "next_c");
        let squashed = self.op("Tanh", &[&cell], stem, "squashed");
        let state = self.op("Mul", &[&o, &squashed], stem, "next_h");
        vec![state, cell]
    }

    fn gru_after(&mut self, stem: &str, r: &Matrix, [h, x]: [&str; 2], bias: Option<&str>) -> Vec<String> {
        let recurrent = self.recurrent(r, h, bias, &format!("{stem}/h"));
        let [x_zr, x_n] = self.split(x, [2, 1], stem, ["x_zr", "x_n"]);
        let [h_zr, h_n] = self.split(&recurrent, [2, 1], stem, ["h_zr", "h_n"]);
        let [z, r] = self.first_gates(&x_zr, &h_zr, stem);
        let reset = self.op("Mul", &[&r, &h_n], stem, "reset");
        self.blend(h, &z, &x_n, &reset, stem)
    }

    fn gru_before(&mut self, stem: &str, [r_zr, r_n]: [&Matrix; 2], [h, x]: [&str; 2]) -> Vec<String> {
        let h_zr = self.recurrent(r_zr, h, None, &format!("{stem}/h/zr"));
        let [x_zr, x_n] = self.split(x, [2, 1], stem, ["x_zr", "x_n"]);
        let [z, r] = self.first_gates(&x_zr, &h_zr, stem);
        let reset = self.op("Mul", &[&r, h], stem, "reset");
        let h_n = self.recurrent(r_n, &reset, None, &format!("{stem}/h/h"));
        self.blend(h, &z, &x_n, &h_n, stem)
    }

    fn first_gates(&mut self, x: &str, h: &str, stem: &str) -> [String; 2] {
        let gates = self.op("Add", &[x, h], stem, "zr_in");
        let gates = self.op("Sigmoid", &[&gates], stem, "zr");
        self.split(&gates, [1, 1], stem, ["z", "r"])
    }

    /// `n = tanh(x + h_n)`, `h' = n + z (h - n)`.
    fn blend(&mut self, h: &str, z: &str, x: &str, h_n: &str, stem: &str) -> Vec<String> {
        let n = self.op("Add", &[x, h_n], stem, "n_in");
        let n = self.op("Tanh", &[&n], stem, "n");
        let change = self.op("Sub", &[h, &n], stem, "change");
        let kept = self.op("Mul", &[z, &change], stem, "kept");
        vec![self.op("Add", &[&n, &kept], stem, "next_h")]
    }

    fn op(&mut self, op: &str, inputs: &[&str], stem: &str, name: &str) -> String {
        self.writer.node(op, inputs, &format!("{stem}/{name}"), vec![])
    }

    /// The matrices that the body multiplies with: all of R, or where the reset gate comes first, `z r` and `h` apart.
    fn recurrent_parts(&mut self, d: usize) -> Vec<Matrix> {
        let (r, home) = self.layer.r;
        let name = self.name_of(r, d);
        let parts = match self.layer.node.cell {
            Cell::Gru if !self.layer.node.attributes.linear_before_reset => {
                vec![r.part(d, 0..2, format!("{name}/zr")), r.part(d, 2..3, format!("{name}/h"))]
            }
            _ => vec![r.part(d, 0..r.gates.len(), name)],
        };
        parts.iter().map(|part| self.matrix(part, home)).collect()
    }

    /// `R h`, or that of some gates, `[B, rows]`.
    fn recurrent(&mut self, matrix: &Matrix, h: &str, bias: Option<&str>, stem: &str) -> String {
        let quantised = self.quantise(h, stem);
        self.product(&quantised, matrix, bias, stem)
    }

    fn quantise(&mut self, value: &str, stem: &str) -> Quantised {
        let names = ["quantised", "scale", "zero"].map(|name| self.writer.fresh(&format!("{stem}/{name}")));
        self.writer.push("DynamicQuantizeLinear", &[value], names.to_vec(), vec![]);
        names
    }

    fn matrix(&mut self, stored: &Stored<'_>, home: Home<'_>) -> Matrix {
        let projected = stored.blocks.iter().map(|block| match block {
            Block::Projected(projected) => Some(*projected),
            _ => None,
        });
        match projected.collect::<Option<Vec<&Projected>>>() {
            Some(units) => self.factors(stored, &units, home),
            None => Matrix::Whole(self.levels(stored, home)),
        }
    }

    /// Coded rows.
    fn levels(&mut self, stored: &Stored<'_>, home: Home<'_>) -> Levels {
        let levels = self.runs(stored, home);
        let scales = self.writer.scales(stored, &[stored.rows()], home).expect("all rows are coded");
        self.transposed(levels, scales, &stored.name)
    }

    fn runs(&mut self, stored: &Stored<'_>, home: Home<'_>) -> Vec<String> {
        let runs = runs(stored, usize::MAX);
        runs.iter().map(|run| self.writer.levels(stored, run, &[run.rows()], home)).collect()
    }

    fn transposed(&mut self, levels: Vec<String>, scales: String, name: &str) -> Levels {
        let levels = self.writer.concat(&format!("{name}/levels"), 0, levels);
        let perm = vec![ints("perm", &[1, 0])];
        let levels = self.writer.node("Transpose", &[&levels], &format!("{name}/transposed"), perm);
        Levels { levels, scales }
    }

    /// The two matrices that gates of one dictionary are the product of.
    fn factors(&mut self, stored: &Stored<'_>, units: &[&Projected], home: Home<'_>) -> Matrix {
        let StoredMatrix::Weight(weight) = stored.of else { unreachable!("codes and atoms are coded in blocks") };
        let atoms = &units[0].parts[0].atoms;
        let number = self.writer.dictionary(atoms);
        let used = units.iter().map(|unit| unit.parts[0].codes.len()).max().unwrap_or(0);
        let codes = (0..used).map(|band| {
            let of = StoredMatrix::Codes { weight, part: 0, band };
            let name = format!("{}/z{band}", stored.name);
            self.codes(of, stored, units, &name, home)
        });
        let codes = codes.collect();
        let sizes = atoms.bands[..used].iter().map(|band| band.rows).collect();
        let bands: Vec<Stored<'_>> = (0..used).map(|band| projected::band(atoms, number, band)).collect();
        let atoms = self.atoms(&bands, &format!("{}/atoms", stored.name), projected::shared(home));
        Matrix::Factors { atoms, codes, sizes }
    }

    /// The atoms of some bands. Portable layers may share their scales, and have them in three dimensions.
    fn atoms(&mut self, bands: &[Stored<'_>], name: &str, home: Home<'_>) -> Levels {
        let (mut levels, mut scales) = (Vec::new(), Vec::new());
        for band in bands {
            levels.extend(self.runs(band, home));
            scales.push(self.writer.scales(band, &[1, band.rows(), 1], home).expect("all rows are coded"));
        }
        let scales = self.writer.concat(&format!("{name}/all_scales"), 1, scales);
        let flat = self.writer.integers(home.constants, &[-1]);
        let scales = self.writer.node("Reshape", &[&scales, &flat], &format!("{name}/flat_scales"), vec![]);
        self.transposed(levels, scales, name)
    }

    /// The codes of one band for all gates; zeros for a gate that does not use it.
    fn codes(
        &mut self,
        of: StoredMatrix,
        stored: &Stored<'_>,
        units: &[&Projected],
        name: &str,
        home: Home<'_>,
    ) -> Levels {
        let StoredMatrix::Codes { band, .. } = of else { unreachable!("codes are asked for") };
        let (mut levels, mut scales) = (Vec::new(), Vec::new());
        let mut start = stored.start;
        for (unit, gate) in units.iter().zip(stored.gates) {
            match unit.parts[0].codes.get(band) {
                Some(coded) => {
                    let part = projected::matrix(of, start, format!("{name}/{gate}"), &[coded]);
                    levels.extend(self.runs(&part, home));
                    scales.push(self.writer.scales(&part, &[unit.rows], home).expect("all rows are coded"));
                }
                None => {
                    let atoms = unit.parts[0].atoms.bands[band].rows;
                    let name = format!("{name}/{gate}");
                    let zeros = self.nothing(&[unit.rows, atoms], &format!("{name}/none"), home);
                    levels.push(self.writer.cast(&zeros, ElementType::Int8, &format!("{name}/levels")));
                    scales.push(self.nothing(&[unit.rows], &format!("{name}/scales"), home));
                }
            }
            start += unit.rows;
        }
        let scales = self.writer.concat(&format!("{name}/all_scales"), 0, scales);
        self.transposed(levels, scales, name)
    }

    /// Float zeros.
    fn nothing(&mut self, shape: &[usize], name: &str, home: Home<'_>) -> String {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let shape = self.writer.integers(home.constants, &shape);
        let zeros = self.writer.node("ConstantOfShape", &[&shape], &format!("{name}/zeros"), vec![]);
        // Which are not float everywhere without being told: tract has f64.
        self.writer.cast(&zeros, ElementType::Float, name)
    }

    /// `value * matrix + bias` in float.
    fn product(&mut self, value: &Quantised, matrix: &Matrix, bias: Option<&str>, stem: &str) -> String {
        let product = match matrix {
            Matrix::Whole(levels) => self.one_product(value, levels, stem),
            Matrix::Factors { atoms, codes, sizes } => {
                let seen = self.one_product(value, atoms, &format!("{stem}/atoms"));
                let parts = self.cut(&seen, sizes, &format!("{stem}/atoms"));
                let products: Vec<String> = parts
                    .iter()
                    .zip(codes)
                    .enumerate()
                    .map(|(band, (part, codes))| {
                        let stem = format!("{stem}/z{band}");
                        let part = self.quantise(part, &stem);
                        self.one_product(&part, codes, &stem)
                    })
                    .collect();
                let add = |sum: String, next: String| self.op("Add", &[&sum, &next], stem, "sum");
                products.into_iter().reduce(add).expect("a dictionary has bands")
            }
        };
        match bias {
            Some(bias) => self.writer.node("Add", &[&product, bias], &format!("{stem}/biased"), vec![]),
            None => product,
        }
    }

    fn one_product(&mut self, value: &Quantised, matrix: &Levels, stem: &str) -> String {
        let [levels, scale, zero] = value;
        let sums = self.writer.node("MatMulInteger", &[levels, &matrix.levels, zero], &format!("{stem}/sums"), vec![]);
        let sums = self.writer.cast(&sums, ElementType::Float, &format!("{stem}/float"));
        let scales = self.writer.node("Mul", &[scale, &matrix.scales], &format!("{stem}/scales"), vec![]);
        self.writer.node("Mul", &[&sums, &scales], &format!("{stem}/product"), vec![])
    }

    /// Cuts `[B, ..]` into parts of so many times H columns.
    fn split<const N: usize>(&mut self, value: &str, parts: [usize; N], stem: &str, names: [&str; N]) -> [String; N] {
        let outputs = names.map(|name| self.writer.fresh(&format!("{stem}/{name}")));
        self.split_into(value, &parts.map(|part| part * self.hidden), outputs.to_vec());
        outputs
    }

    /// Cuts along the last axis; what is one part stays as it is.
    fn cut(&mut self, value: &str, sizes: &[usize], stem: &str) -> Vec<String> {
        if sizes.len() == 1 {
            return vec![value.to_owned()];
        }
        let outputs: Vec<String> = (0..sizes.len()).map(|i| self.writer.fresh(&format!("{stem}/{i}"))).collect();
        self.split_into(value, sizes, outputs.clone());
        outputs
    }

    fn split_into(&mut self, value: &str, sizes: &[usize], outputs: Vec<String>) {
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        if self.writer.opset() < AXES_INPUTS {
            self.writer.push("Split", &[value], outputs, vec![int("axis", -1), ints("split", &sizes)]);
        } else {
            let sizes = self.writer.integers(&self.layer.node.scope, &sizes);
            self.writer.push("Split", &[value, &sizes], outputs, vec![int("axis", -1)]);
        }
    }
}

/// A float matrix of any number of rows.
fn matrix_info(name: &str, columns: usize) -> ValueInfoProto {
    let dimension = |value| tensor_shape_proto::Dimension { value, ..Default::default() };
    let columns = tensor_shape_proto::dimension::Value::DimValue(columns as i64);
    let shape = TensorShapeProto { dim: vec![dimension(None), dimension(Some(columns))] };
    let tensor = type_proto::Tensor { elem_type: Some(ElementType::Float as i32), shape: Some(shape) };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value, ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// The nodes that were written so.
pub(super) fn find(model: &Model, constants: &mut Constants<'_>) -> Result<Vec<Found>> {
    let mut layers: Vec<(Scope, Vec<(usize, Origin)>)> = Vec::new();
    for (scope, graph) in model.graphs() {
        for (index, node) in graph.node.iter().enumerate().filter(|(_, node)| node.op_type() == "Scan") {
            let Ok(origin) = serde_json::from_str::<Origin>(node.doc_string()) else { continue };
            match layers.last_mut() {
                Some((of, scans)) if *of == scope && scans[0].1.dirnet == origin.dirnet => scans.push((index, origin)),
                _ => layers.push((scope.clone(), vec![(index, origin)])),
            }
        }
    }
    layers.iter().map(|(scope, scans)| restore(constants, scope, scans)).collect()
}

/// The node that some Scans, one for each direction, stand for.
fn restore(constants: &mut Constants<'_>, scope: &Scope, scans: &[(usize, Origin)]) -> Result<Found> {
    let (before, first) = &scans[0];
    let directions = if first.direction == Direction::Bidirectional.name() { 2 } else { 1 };
    if scans.len() != directions || scans.iter().enumerate().any(|(d, (_, origin))| origin.index != d) {
        return Err(changed(&format!("the loops of '{}' are not all there", first.dirnet)));
    }
    let (mut w, mut r, mut bias) = (Vec::new(), Vec::new(), Vec::new());
    for (_, origin) in scans {
        let mut matrix = |matrix: &Matrix| weights(constants, scope, matrix);
        w.push(matrix(&origin.w)?);
        let parts = origin.r.iter().map(&mut matrix).collect::<Result<Vec<_>>>()?;
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let whole = concatenate(Axis(0), &parts).map_err(|_| changed("the parts of R do not fit"))?;
        if let Some(outside) = &origin.bias[0] {
            let mut vector = |name: &String| -> Result<Array1<f32>> {
                constant(constants, scope, name)?.into_dimensionality().map_err(|_| changed("a bias is no vector"))
            };
            let inside = origin.bias[1].as_ref().map(&mut vector).transpose()?;
            let both = [vector(outside)?, inside.unwrap_or_else(|| Array1::zeros(whole.nrows()))];
            let both = concatenate(Axis(0), &[both[0].view(), both[1].view()]).expect("vectors can be joined");
            bias.push(both.insert_axis(Axis(0)));
        }
        r.push(whole);
    }
    let bias: Vec<_> = bias.iter().map(|one| one.view()).collect();
    let bias = (!bias.is_empty()).then(|| concatenate(Axis(0), &bias).map_err(|_| changed("the biases do not fit")));
    let maker = |name: &String| match constants.index().resolve(scope, name)? {
        Definition { scope: home, origin: graph::Origin::Node { node, .. }, .. } if home == scope => Some(*node),
        _ => None,
    };
    let nodes: BTreeSet<usize> =
        scans.iter().map(|(index, _)| *index).chain(first.outputs.iter().filter_map(maker)).collect();
    let state = |index: usize| first.inputs.get(index).cloned().unwrap_or_default();
    let mut input = vec![state(0), String::new(), String::new(), String::new(), String::new(), state(1), state(2)];
    while input.len() > 3 && input.last().is_some_and(String::is_empty) {
        input.pop();
    }
    let mut attribute = vec![int("hidden_size", first.hidden as i64), text("direction", &first.direction)];
    attribute.extend(first.linear_before_reset.then(|| int("linear_before_reset", 1)));
    let node = NodeProto {
        name: Some(first.dirnet.clone()),
        op_type: Some(first.operator.clone()),
        input,
        output: first.outputs.clone(),
        attribute,
        ..NodeProto::default()
    };
    let (w, r, bias) = (stacked(&w)?, stacked(&r)?, bias.transpose()?);
    let rows = Cell::of_operator(&first.operator).and_then(|cell| cell.gates().len().checked_mul(first.hidden));
    let rows = rows.ok_or_else(|| changed(&format!("'{}' is no layer", first.dirnet)))?;
    let fits = w.shape()[..2] == [directions, rows]
        && r.shape() == [directions, rows, first.hidden]
        && bias.as_ref().is_none_or(|bias| bias.shape() == [directions, 2 * rows]);
    if !fits {
        return Err(changed(&format!("the weights of '{}' are not of its shape", first.dirnet)));
    }
    let nodes = nodes.into_iter().collect();
    Ok(Found { scope: scope.clone(), nodes, before: *before, node, w, r, bias })
}

/// The weights `[rows, n]` that a matrix stands for.
fn weights(constants: &mut Constants<'_>, scope: &Scope, matrix: &Matrix) -> Result<Array2<f32>> {
    let mut whole = |matrix: &Levels| {
        dense(constant(constants, scope, &matrix.levels)?, constant(constants, scope, &matrix.scales)?)
    };
    let (atoms, codes) = match matrix {
        Matrix::Whole(levels) => return whole(levels),
        Matrix::Factors { atoms, codes, .. } => (whole(atoms)?, codes),
    };
    let codes = codes.iter().map(whole).collect::<Result<Vec<_>>>()?;
    let codes: Vec<_> = codes.iter().map(|band| band.view()).collect();
    let codes = concatenate(Axis(1), &codes).map_err(|_| changed("the codes of bands do not fit"))?;
    if codes.ncols() != atoms.nrows() {
        return Err(changed("there are not as many codes as atoms"));
    }
    let (rows, inner) = codes.dim();
    let charged = constants.charge_product(rows, inner, atoms.ncols());
    charged.map_err(|error| changed(&error.to_string()))?;
    Ok(codes.dot(&atoms))
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        s: Some(value.to_owned().into_bytes().into()),
        r#type: Some(AttributeType::String as i32),
        ..AttributeProto::default()
    }
}
