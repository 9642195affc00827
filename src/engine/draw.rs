//! Random operators, with draws of our own: two models that are compared get the same ones.
//!
//! The draws of a node follow from its first output's name, from the `seed` that the model may give it, from the inputs
//! of the run, and from how often the node ran before in the same run: a model agrees with itself, a model whose weights
//! were coded draws as its original does, and neither the number of threads nor the order of the runs matters.
//! Distributions are those of the ONNX specification; the draws are not those of any other runtime.

use std::cell::RefCell;
use std::collections::HashMap;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tract_onnx::model::{OnnxOpRegister, ParsingContext, optional_inputs, optional_outputs};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::kernel::{Facts, Kernel, Known, own};
use crate::samples::{Feed, Tensor as Sample};

/// tract's own reader of `Dropout`, kept under this name.
const PLAIN_DROPOUT: &str = "dirnet.Dropout";

/// The random operators of ONNX.
const OPERATORS: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"];

/// Whether an operator draws, or may.
pub fn is_random(operator: &str) -> bool {
    operator == "Dropout" || OPERATORS.contains(&operator)
}

/// Puts these operators in the place of tract's.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    for operator in OPERATORS {
        operators.insert(operator, read);
    }
    if let Some(&plain) = operators.0.get("Dropout") {
        operators.insert(PLAIN_DROPOUT, plain);
        operators.insert("Dropout", dropout);
    }
}

/// What a run begins with, beside the names of the nodes.
#[derive(Default)]
struct Run {
    salt: u64,
    /// How often each node drew, by its key.
    drawn: HashMap<u64, u64>,
}

thread_local! {
    static CURRENT: RefCell<Run> = RefCell::default();
}

/// Runs `work` with draws that follow from `salt`. A run happens on one thread from begin to end.
pub(super) fn during<T>(salt: u64, work: impl FnOnce() -> T) -> T {
    CURRENT.set(Run { salt, drawn: HashMap::new() });
    let result = work();
    CURRENT.take();
    result
}

/// A number that follows from what a model is fed with, and from the step of a stream.
pub(super) fn salt(feed: &Feed, step: usize) -> u64 {
    let mut hash = Hash::default();
    hash.number(step as u64);
    for (name, tensor) in feed {
        hash.bytes(name.as_bytes());
        match tensor {
            Sample::Float(a) => a.iter().for_each(|v| hash.number(v.to_bits().into())),
            other => other.to_f64().iter().for_each(|v| hash.number(v.to_bits())),
        }
    }
    hash.0
}

/// FNV-1a: the same on every machine and in every version.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xCBF2_9CE4_8422_2325)
    }
}

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.number(byte.into()));
    }

    fn number(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x0100_0000_01B3);
        self.0 ^= self.0 >> 29;
    }
}

/// The generator for the next run of a node.
fn generator(key: u64) -> ChaCha8Rng {
    let (salt, count) = CURRENT.with_borrow_mut(|run| {
        let count = run.drawn.entry(key).or_default();
        *count += 1;
        (run.salt, *count)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(key ^ salt.rotate_left(32));
    rng.set_stream(count);
    rng
}

/// One draw from N(0, 1), by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[derive(Clone, Debug)]
enum Draw {
    Normal {
        mean: f64,
        scale: f64,
    },
    Uniform {
        low: f64,
        high: f64,
    },
    /// The input is the probability of 1.
    Bernoulli,
    /// The input is log-probabilities `[batch, classes]`, not normalised.
    Multinomial {
        samples: usize,
    },
}

/// Any random operator but `Dropout`.
#[derive(Clone, Debug)]
struct Random {
    key: u64,
    draw: Draw,
    /// None for the type of the input.
    datum_type: Option<DatumType>,
    /// None for the shape of the input.
    shape: Option<TVec<usize>>,
}

fn key(node: &pb::NodeProto) -> u64 {
    let mut hash = Hash::default();
    hash.bytes(node.output.first().map_or("", String::as_str).as_bytes());
    // A float, but an integer in Dropout.
    if let Some(seed) = node.attribute.iter().find(|attribute| attribute.name == "seed") {
        hash.number(seed.f.to_bits().into());
        hash.number(seed.i as u64);
    }
    hash.0
}

fn read(_context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let number = |name: &str, default: f32| Ok::<_, TractError>(f64::from(node.get_attr_opt(name)?.unwrap_or(default)));
    let draw = match &*node.op_type {
        "RandomNormal" | "RandomNormalLike" => {
            Draw::Normal { mean: number("mean", 0.0)?, scale: number("scale", 1.0)? }
        }
        "RandomUniform" | "RandomUniformLike" => Draw::Uniform { low: number("low", 0.0)?, high: number("high", 1.0)? },
        "Bernoulli" => Draw::Bernoulli,
        _ => Draw::Multinomial { samples: node.get_attr_opt("sample_size")?.unwrap_or(1usize) },
    };
    let default = match draw {
        Draw::Multinomial { .. } => Some(DatumType::I32),
        _ if node.input.is_empty() => Some(DatumType::F32),
        _ => None,
    };
    let shape: Option<Vec<usize>> = if node.input.is_empty() { Some(node.get_attr_vec("shape")?) } else { None };
    let datum_type = node.get_attr_opt("dtype")?.or(default);
    let shape = shape.map(TVec::from);
    Ok((own(Random { key: key(node), draw, datum_type, shape }), vec![]))
}

impl Kernel for Random {
    fn name(&self) -> &'static str {
        match self.draw {
            Draw::Normal { .. } => "RandomNormal",
            Draw::Uniform { .. } => "RandomUniform",
            Draw::Bernoulli => "Bernoulli",
            Draw::Multinomial { .. } => "Multinomial",
        }
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let like = inputs.first();
        let datum_type = self.datum_type.or(like.map(|input| input.datum_type)).context("no element type is given")?;
        let shape = self.shape.clone().or(like.map(|input| input.shape.clone())).context("no shape is given")?;
        let Draw::Multinomial { samples } = self.draw else { return Ok(Some(tvec![(datum_type, shape)])) };
        ensure!(shape.len() == 2, "the input is of shape {shape:?}, expected [batch, classes]");
        ensure!(shape[1] > 0, "there are no classes to draw from");
        Ok(Some(tvec![(datum_type, tvec![shape[0], samples])]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let known = inputs.iter().map(|input| Known {
            datum_type: input.datum_type(),
            shape: input.shape().into(),
            value: None,
        });
        let (datum_type, shape) = self.facts(&known.collect::<Vec<_>>())?.context("shapes are known")?.remove(0);
        let mut rng = generator(self.key);
        let count = shape.iter().product();
        let drawn: Vec<f64> = match self.draw {
            Draw::Normal { mean, scale } => (0..count).map(|_| mean + scale * normal(&mut rng)).collect(),
            Draw::Uniform { low, high } => (0..count).map(|_| low + (high - low) * rng.random::<f64>()).collect(),
            Draw::Bernoulli => {
                let bits = floats(&inputs[0])?.into_iter().map(|p| f64::from(u8::from(rng.random::<f64>() < p)));
                bits.collect()
            }
            Draw::Multinomial { samples } => {
                let classes = inputs[0].shape()[1];
                let rows = floats(&inputs[0])?;
                rows.chunks_exact(classes).flat_map(|row| classes_of(row, samples, &mut rng)).collect()
            }
        };
        Ok(tvec![Tensor::from_shape(&shape, &drawn)?.cast_to_dt(datum_type)?.into_owned()])
    }
}

fn floats(tensor: &Tensor) -> TractResult<Vec<f64>> {
    Ok(tensor.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}

/// Draws by inverting the cumulated distribution: where two models' probabilities are close, so are their draws.
fn classes_of(row: &[f64], samples: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0;
    let cumulated: Vec<f64> = row
        .iter()
        .map(|v| {
            total += (v - most).exp();
            total
        })
        .collect();
    let class = |at: f64| cumulated.iter().position(|&c| at < c).unwrap_or(row.len() - 1) as f64;
    (0..samples).map(|_| class(rng.random::<f64>() * total)).collect()
}

/// `Dropout` whose mode is an input.
#[derive(Clone, Debug)]
struct Dropout {
    key: u64,
    ratio: Option<usize>,
    training: usize,
    /// Whether output and mask are given out.
    outputs: [bool; 2],
}

fn dropout(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let mut inputs = optional_inputs(node).skip(1);
    let (ratio, training) = (inputs.next().flatten(), inputs.next().flatten());
    let Some(training) = training else {
        let plain = context.framework.op_register.0.get(PLAIN_DROPOUT).context("Dropout is not registered")?;
        return plain(context, node);
    };
    let mut outputs = optional_outputs(node).map(|slot| slot.is_some());
    let outputs = [outputs.next().unwrap_or(false), outputs.next().unwrap_or(false)];
    Ok((own(Dropout { key: key(node), ratio, training, outputs }), vec![]))
}

impl Kernel for Dropout {
    fn name(&self) -> &'static str {
        "Dropout"
    }

    fn outputs(&self) -> usize {
        self.outputs.iter().filter(|&&given| given).count()
    }

    fn is_pure(&self) -> bool {
        false
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let all = [inputs[0].datum_type, DatumType::Bool];
        let given = all.into_iter().zip(self.outputs).filter(|(_, given)| *given);
        Ok(Some(given.map(|(datum_type, _)| (datum_type, inputs[0].shape.clone())).collect()))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let training = inputs[self.training].cast_to_scalar::<bool>()?;
        let ratio = self.ratio.map_or(Ok(0.5), |slot| inputs[slot].cast_to_scalar::<f64>())?;
        let mut rng = generator(self.key);
        let keep: Vec<bool> = (0..x.len()).map(|_| !training || rng.random::<f64>() >= ratio).collect();
        let y = if training && ratio > 0.0 {
            let scale = 1.0 / (1.0 - ratio);
            let scaled = floats(x)?.into_iter().zip(&keep).map(|(v, &keep)| if keep { v * scale } else { 0.0 });
            Tensor::from_shape(x.shape(), &scaled.collect::<Vec<_>>())?.cast_to_dt(x.datum_type())?.into_owned()
        } else {
            x.clone().into_tensor()
        };
        let mask = Tensor::from_shape(x.shape(), &keep)?;
        let given = [y, mask].into_iter().zip(self.outputs).filter(|(_, given)| *given);
        Ok(given.map(|(tensor, _)| tensor).collect())
    }
}
