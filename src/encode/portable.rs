//! The portable form: the recurrent node stays, and standard operators that every runtime folds rebuild its weights.
//!
//! ```text
//! codes u8 [rows, P] - Cast int32 - Gather(atoms i8 [256, d]) - Reshape [1, rows, P*d] - (Slice to n) - Cast float -+
//! ... one such run for each group of neighbouring gates with the same codebook ...                                  +- Concat - Mul(scales [1, G*H, 1]) - W
//! ```
//! The weights stay int8 up to the last Cast: onnxruntime keeps every intermediate of a constant-folding pass until the
//! pass ends, so the peak of memory while a model loads is the sum over these nodes. One Mul serves all gates, on
//! operands of three dimensions, so that no Unsqueeze copies the big tensor. An int8 Concat would be smaller still, but
//! rten has none.
//!
//! Row scales are f32, or bytes times a step for each gate: `scales = Cast(u8) * step`, on tensors too small to matter.
//! Nodes bear no names of their own (every runtime names them by their outputs): that halves the bytes of the graph.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Axis, Slice};

use super::{Block, Stored};
use crate::dictionary::{BlockSpec, Codebook, Coded};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::{AttributeProto, ElementType, NodeProto, Rewriter, Scope, TensorProto, tensor};

/// Weights in one run of nodes, padding included: tract folds a node only if its output takes at most 4 MiB or no more
/// than its inputs.
const RUN_WEIGHTS: usize = 1 << 20;
/// The first opset whose Slice takes its ranges as inputs.
const SLICE_INPUTS: i64 = 10;

/// Writes coded tensors into the graphs of one model.
pub struct Writer<'r, 'm> {
    rewriter: &'r mut Rewriter<'m>,
    opset: i64,
    codebooks: Vec<(Scope, Arc<Codebook>, String)>,
    integers: Vec<(Scope, Vec<i64>, String)>,
}

/// Where the parts of a tensor go.
pub struct Home<'a> {
    /// The graph of the codes and scales; seen from all of `nodes`.
    pub constants: &'a Scope,
    /// The graph of the codebooks that several tensors may use; seen from `constants`.
    pub codebooks: &'a Scope,
    /// The graph of the nodes.
    pub nodes: &'a Scope,
}

/// Neighbouring rows that one chain of nodes rebuilds: dense, or of one codebook.
struct Run<'a> {
    parts: Vec<(Block<'a>, Range<usize>)>,
    label: String,
}

impl<'r, 'm> Writer<'r, 'm> {
    /// A writer of new values through `rewriter`, of a model of at least [`FIRST_OPSET`](crate::limits::FIRST_OPSET).
    pub fn new(rewriter: &'r mut Rewriter<'m>) -> Self {
        let opset = rewriter.model().opset();
        Writer { rewriter, opset, codebooks: Vec::new(), integers: Vec::new() }
    }

    /// Writes the nodes that rebuild `stored`, once for each home, and returns the name of the value in each. The codes
    /// are stored once.
    pub fn write(&mut self, stored: &Stored<'_>, homes: &[Home<'_>]) -> Vec<String> {
        let runs = runs(stored);
        let per_direction = stored.blocks.len() / stored.directions;
        let rows: usize = stored.blocks[..per_direction].iter().map(Block::rows).sum();
        let mut codes = vec![None; runs.len()];
        let mut scales = None;
        let mut values = Vec::with_capacity(homes.len());
        for home in homes {
            let mut parts: Vec<Vec<String>> = vec![Vec::new(); stored.directions];
            let whole = runs.len() == 1;
            let mut row = 0;
            for (run, codes) in runs.iter().zip(&mut codes) {
                let shape = match whole {
                    true => [stored.directions, rows],
                    false => [1, run.rows()],
                };
                let value = self.run(stored, run, shape, home, codes);
                parts[row / rows].push(value);
                row += run.rows();
            }
            let last = |element| {
                if element == stored.element { stored.name.clone() } else { format!("{}/float", stored.name) }
            };
            let joined: Vec<_> = parts
                .into_iter()
                .filter(|parts| !parts.is_empty())
                .enumerate()
                .map(|(direction, parts)| self.concat(home, &format!("{}/{direction}/levels", stored.name), 1, parts))
                .collect();
            let levels = self.concat(home, &format!("{}/levels", stored.name), 0, joined);
            let value = match self.scales(stored, rows, home, &mut scales) {
                Some(scales) => self.node(home, "Mul", &[&levels, &scales], &last(ElementType::Float), vec![]),
                None => levels,
            };
            values.push(match stored.element {
                ElementType::Float => value,
                element => self.cast(home, &value, element, &stored.name),
            });
        }
        values
    }

    /// The weights of one run, without their scales, as float of shape `[shape.., n]`.
    fn run(
        &mut self,
        stored: &Stored<'_>,
        run: &Run<'_>,
        shape: [usize; 2],
        home: &Home<'_>,
        codes: &mut Option<String>,
    ) -> String {
        let stem = match run.label.as_str() {
            "" => stored.name.clone(),
            label => format!("{}/{label}", stored.name),
        };
        let Block::Coded(Coded { codebook, .. }) = run.parts[0].0 else {
            return self.dense(stored, run, &stem, shape, home, codes);
        };
        let pieces = codebook.spec.pieces(stored.columns);
        let codes = self.once(codes, home.constants, &format!("{stem}/codes"), |name| {
            let codes: Vec<u8> =
                run.coded().flat_map(|(c, r)| &c.codes[r.start * pieces..r.end * pieces]).copied().collect();
            tensor::uint8(name, &[run.rows(), pieces], &codes)
        });
        let atoms = self.codebook(codebook, home, &stem);
        let indices = self.cast(home, &codes, ElementType::Int32, &format!("{stem}/indices"));
        let gathered = self.node(home, "Gather", &[&atoms, &indices], &format!("{stem}/pieces"), vec![int("axis", 0)]);
        let width = pieces * codebook.spec.width;
        let to = self.integers(home, &[shape[0], shape[1], width].map(|d| d as i64));
        let mut rows = self.node(home, "Reshape", &[&gathered, &to], &format!("{stem}/rows"), vec![]);
        if width > stored.columns {
            rows = self.slice(home, &rows, stored.columns as i64, &format!("{stem}/trimmed"));
        }
        self.cast(home, &rows, ElementType::Float, &format!("{stem}/levels"))
    }

    /// Rows that are stored as they are, in the element type that they had if a Cast to float keeps their values.
    fn dense(
        &mut self,
        stored: &Stored<'_>,
        run: &Run<'_>,
        stem: &str,
        shape: [usize; 2],
        home: &Home<'_>,
        name: &mut Option<String>,
    ) -> String {
        let half = stored.element == ElementType::Float16;
        let value = self.once(name, home.constants, &format!("{stem}/dense"), |name| {
            let values = run.parts.iter().flat_map(|(block, range)| match block {
                Block::Dense(rows) => rows.slice_axis(Axis(0), Slice::from(range.clone())).iter().copied().collect(),
                Block::Coded(_) => Vec::new(),
            });
            let shape = [shape[0], shape[1], stored.columns];
            if half {
                tensor::float16(name, &shape, &values.map(half::f16::from_f32).collect::<Vec<_>>())
            } else {
                tensor::float(name, &shape, &values.collect::<Vec<_>>())
            }
        });
        if half { self.cast(home, &value, ElementType::Float, &format!("{stem}/levels")) } else { value }
    }

    /// The scale of every row, `[directions, rows, 1]`; none if all rows are dense.
    fn scales(
        &mut self,
        stored: &Stored<'_>,
        rows: usize,
        home: &Home<'_>,
        names: &mut Option<(String, Option<String>)>,
    ) -> Option<String> {
        if stored.blocks.iter().all(|b| matches!(b, Block::Dense(_))) {
            return None;
        }
        let stem = &stored.name;
        let bytes = stored
            .blocks
            .iter()
            .all(|b| matches!(b, Block::Dense(_) | Block::Coded(Coded { scale_codes: Some(_), .. })));
        if !bytes {
            let (name, _) = names.get_or_insert_with(|| {
                let name = self.rewriter.fresh(&format!("{stem}/scales"));
                let scales: Vec<f32> = stored.blocks.iter().flat_map(float_scales).collect();
                self.rewriter
                    .add_constant(home.constants, tensor::float(&name, &[stored.directions, rows, 1], &scales));
                (name, None)
            });
            return Some(name.clone());
        }
        let steps: Vec<f32> = stored.blocks.iter().map(step).collect();
        let gates = stored.blocks.len() / stored.directions;
        let alike = steps.iter().all(|s| s.to_bits() == steps[0].to_bits());
        let (codes, step) = names
            .get_or_insert_with(|| {
                let codes: Vec<u8> = stored.blocks.iter().flat_map(byte_scales).collect();
                let name = self.rewriter.fresh(&format!("{stem}/scale_codes"));
                let step = self.rewriter.fresh(&format!("{stem}/scale_step"));
                let (shape, steps_shape): (&[usize], &[usize]) = match alike {
                    true => (&[stored.directions, rows, 1], &[]),
                    false => (&[stored.directions, gates, rows / gates, 1], &[stored.directions, gates, 1, 1]),
                };
                self.rewriter.add_constant(home.constants, tensor::uint8(&name, shape, &codes));
                let steps = if alike { &steps[..1] } else { &steps };
                self.rewriter.add_constant(home.constants, tensor::float(&step, steps_shape, steps));
                (name, Some(step))
            })
            .clone();
        let step = step.expect("byte scales have a step");
        let levels = self.cast(home, &codes, ElementType::Float, &format!("{stem}/scale_levels"));
        let scales = self.node(home, "Mul", &[&levels, &step], &format!("{stem}/scales"), vec![]);
        if alike {
            return Some(scales);
        }
        let to = self.integers(home, &[stored.directions as i64, rows as i64, 1]);
        Some(self.node(home, "Reshape", &[&scales, &to], &format!("{stem}/row_scales"), vec![]))
    }

    fn codebook(&mut self, codebook: &Arc<Codebook>, home: &Home<'_>, stem: &str) -> String {
        let known = self.codebooks.iter().find(|(scope, c, _)| Arc::ptr_eq(c, codebook) && scope == home.codebooks);
        if let Some((.., name)) = known {
            return name.clone();
        }
        let BlockSpec { width, atoms } = codebook.spec;
        let name = self.rewriter.fresh(&format!("{stem}/atoms"));
        self.rewriter.add_constant(home.codebooks, tensor::int8(&name, &[atoms, width], &codebook.atoms));
        self.codebooks.push((home.codebooks.clone(), codebook.clone(), name.clone()));
        name
    }

    fn concat(&mut self, home: &Home<'_>, name: &str, axis: i64, parts: Vec<String>) -> String {
        match <[String; 1]>::try_from(parts) {
            Ok([part]) => part,
            Err(parts) => {
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                self.node(home, "Concat", &parts, name, vec![int("axis", axis)])
            }
        }
    }

    fn slice(&mut self, home: &Home<'_>, value: &str, end: i64, name: &str) -> String {
        if self.opset < SLICE_INPUTS {
            let ranges = vec![ints("axes", &[2]), ints("ends", &[end]), ints("starts", &[0])];
            return self.node(home, "Slice", &[value], name, ranges);
        }
        let [start, end, axis] = [0, end, 2].map(|i| self.integers(home, &[i]));
        self.node(home, "Slice", &[value, &start, &end, &axis], name, vec![])
    }

    fn cast(&mut self, home: &Home<'_>, value: &str, to: ElementType, name: &str) -> String {
        self.node(home, "Cast", &[value], name, vec![int("to", to as i64)])
    }

    fn node(
        &mut self,
        home: &Home<'_>,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> String {
        let output = self.rewriter.fresh(output);
        self.rewriter.add_node(
            home.nodes,
            NodeProto {
                input: inputs.iter().map(|&i| i.to_owned()).collect(),
                output: vec![output.clone()],
                op_type: Some(op.to_owned()),
                attribute,
                ..NodeProto::default()
            },
        );
        output
    }

    /// A vector of int64, stored once per graph.
    fn integers(&mut self, home: &Home<'_>, values: &[i64]) -> String {
        if let Some((.., name)) = self.integers.iter().find(|(s, v, _)| s == home.constants && v == values) {
            return name.clone();
        }
        let text: Vec<_> = values.iter().map(i64::to_string).collect();
        let name = self.rewriter.fresh(&format!("dirnet/{}", text.join("x")));
        self.rewriter.add_constant(home.constants, tensor::int64(&name, &[values.len()], values));
        self.integers.push((home.constants.clone(), values.to_vec(), name.clone()));
        name
    }

    /// The name of a constant that is made at its first use.
    fn once(
        &mut self,
        known: &mut Option<String>,
        scope: &Scope,
        name: &str,
        make: impl FnOnce(&str) -> TensorProto,
    ) -> String {
        known
            .get_or_insert_with(|| {
                let name = self.rewriter.fresh(name);
                self.rewriter.add_constant(scope, make(&name));
                name
            })
            .clone()
    }
}

impl<'a> Run<'a> {
    fn rows(&self) -> usize {
        self.parts.iter().map(|(_, range)| range.len()).sum()
    }

    fn coded(&self) -> impl Iterator<Item = (&'a Coded, &Range<usize>)> {
        self.parts.iter().filter_map(|(block, range)| match block {
            Block::Coded(coded) => Some((*coded, range)),
            Block::Dense(_) => None,
        })
    }
}

/// Cuts a tensor into runs: one if it is all alike and small enough, else runs within each direction.
fn runs<'a>(stored: &Stored<'a>) -> Vec<Run<'a>> {
    let total: usize = stored.blocks.iter().map(Block::rows).sum();
    let first = &stored.blocks[0];
    if stored.blocks.iter().all(|b| b.is_like(first)) && total <= first.rows_in_a_run(stored.columns) {
        let parts = stored.blocks.iter().map(|b| (*b, 0..b.rows())).collect();
        return vec![Run { parts, label: String::new() }];
    }
    let mut runs: Vec<Run<'a>> = Vec::new();
    let per_direction = stored.blocks.len() / stored.directions;
    for (i, (block, label)) in stored.blocks.iter().zip(&stored.labels).enumerate() {
        let most = block.rows_in_a_run(stored.columns);
        for start in (0..block.rows()).step_by(most) {
            let range = start..block.rows().min(start + most);
            let same_direction = i % per_direction != 0 || start > 0;
            match runs.last_mut() {
                Some(run) if same_direction && run.parts[0].0.is_like(block) && run.rows() + range.len() <= most => {
                    run.parts.push((*block, range));
                    if !run.label.ends_with(label.as_str()) {
                        run.label = format!("{}+{label}", run.label);
                    }
                }
                _ => runs.push(Run { parts: vec![(*block, range)], label: label.clone() }),
            }
        }
    }
    runs
}

impl Block<'_> {
    /// Whether one chain of nodes can rebuild both.
    fn is_like(&self, other: &Block<'_>) -> bool {
        match (self, other) {
            (Block::Coded(a), Block::Coded(b)) => Arc::ptr_eq(&a.codebook, &b.codebook),
            (Block::Dense(_), Block::Dense(_)) => true,
            _ => false,
        }
    }

    fn rows_in_a_run(&self, columns: usize) -> usize {
        let width = match self {
            Block::Coded(coded) => coded.codebook.spec.pieces(columns) * coded.codebook.spec.width,
            Block::Dense(_) => columns,
        };
        (RUN_WEIGHTS / width.max(1)).max(1)
    }
}

fn float_scales(block: &Block<'_>) -> Vec<f32> {
    match block {
        Block::Coded(coded) => coded.scales.clone(),
        Block::Dense(rows) => vec![1.0; rows.nrows()],
    }
}

fn byte_scales(block: &Block<'_>) -> Vec<u8> {
    match block {
        Block::Coded(Coded { scale_codes: Some(scales), .. }) => scales.codes.clone(),
        block => vec![1; block.rows()],
    }
}

fn step(block: &Block<'_>) -> f32 {
    match block {
        Block::Coded(Coded { scale_codes: Some(scales), .. }) => scales.step,
        _ => 1.0,
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}
