//! Standard operators that tract lacks, or computes otherwise than ONNX says.
//!
//! - Missing: `ReverseSequence`, `Unique`, `Compress`, `LabelEncoder` (of `ai.onnx.ml`).
//! - Of too few types, or of constants only: `TopK`, `CumSum`, `OneHot`, `GatherND`, `ScatterND`, `Equal`, `Squeeze`.
//! - Of other operator sets than tract knows: `Upsample`, `Resize` of operator set 10.
//! - Wrong: `ReduceMax` and `ReduceMin` of infinite numbers and NaN, `Softplus` and `LogSoftmax`
//!   of large ones, `Celu` and `Swish` with a factor.

use std::cmp::Ordering;
use std::collections::HashMap;

use tract_onnx::model::{OnnxOpRegister, ParsingContext, optional_outputs};
use tract_onnx::pb;
use tract_onnx::tract_hir::internal::*;

use super::kernel::{Facts, Kernel, Known, axis, integers, own, own_or};

type Read = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

type Reader = fn(&ParsingContext, &pb::NodeProto) -> Read;

/// The operators, with their readers.
const OPERATORS: [(&str, Reader); 19] = [
    ("Celu", celu),
    ("Compress", compress),
    ("CumSum", cum_sum),
    ("Equal", |context, node| own_or_plain(context, node, Equal)),
    ("GatherND", gather_nd),
    ("LabelEncoder", label_encoder),
    ("LogSoftmax", log_softmax),
    ("OneHot", one_hot),
    ("ReduceMax", extreme),
    ("ReduceMin", extreme),
    ("Resize", resize),
    ("ReverseSequence", reverse_sequence),
    ("ScatterND", scatter_nd),
    ("Softplus", |_, _| Ok((own(Elementwise::Softplus), vec![]))),
    ("Squeeze", squeeze),
    ("Swish", swish),
    ("TopK", top_k),
    ("Unique", unique),
    ("Upsample", upsample),
];

/// The name under which tract's own reader of an operator is kept.
fn kept(operator: &str) -> String {
    format!("dirnet.{operator}")
}

/// Puts these operators in the place of tract's.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    for (operator, reader) in OPERATORS {
        if let Some(&plain) = operators.0.get(operator) {
            operators.0.insert(kept(operator), plain);
        }
        operators.insert(operator, reader);
    }
}

/// An operator as tract reads it.
fn plain(operator: &str, context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let reader = context.framework.op_register.0.get(&kept(operator));
    reader.with_context(|| format!("{operator} is not registered"))?(context, node)
}

/// A kernel, with tract's operator of that name for shapes that show only when the model runs.
fn own_or_plain(context: &ParsingContext, node: &pb::NodeProto, kernel: impl Kernel) -> Read {
    // Without tract's operator, unknown shapes are refused when the model is planned.
    let plain = plain(&node.op_type, context, node).ok().map(|(operator, _)| operator);
    Ok((own_or(kernel, plain), vec![]))
}

/// The elements of a tensor at some places in it, counted in row-major order.
fn picked(input: &Tensor, places: &[usize], shape: &[usize]) -> TractResult<Tensor> {
    fn of<T: Datum + Clone>(input: &Tensor, places: &[usize], shape: &[usize]) -> TractResult<Tensor> {
        let plain = input.try_as_plain_ram()?;
        let elements = plain.as_slice::<T>()?;
        let picked: Option<Vec<T>> = places.iter().map(|&place| elements.get(place).cloned()).collect();
        let picked = picked.context("an index is out of range")?;
        Ok(tract_ndarray::ArrayD::from_shape_vec(shape, picked)?.into_tensor())
    }
    dispatch_datum!(of(input.datum_type())(input, places, shape))
}

/// The elements as doubles.
fn doubles(tensor: &Tensor) -> TractResult<Vec<f64>> {
    Ok(tensor.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.to_vec())
}

/// A tensor of some type from doubles.
fn from_doubles(values: &[f64], shape: &[usize], datum_type: DatumType) -> TractResult<Tensor> {
    Ok(Tensor::from_shape(shape, values)?.cast_to_dt(datum_type)?.into_owned())
}

/// A shape around one axis: the product of what is before it, its size, the product of what is behind it.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}

/// An index of an axis of some size, counted from the front.
fn index(index: i64, size: usize) -> TractResult<usize> {
    let counted = if index < 0 { index + size as i64 } else { index };
    let found = usize::try_from(counted).ok().filter(|&i| i < size);
    found.with_context(|| format!("index {index} of an axis of {size}"))
}

/// How far apart neighbours of each axis are in row-major order.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// Each sequence from its last valid step to the first; the steps behind stay.
#[derive(Clone, Debug)]
struct ReverseSequence {
    time: usize,
    batch: usize,
}

fn reverse_sequence(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let time = node.get_attr_opt("time_axis")?.unwrap_or(0usize);
    let batch = node.get_attr_opt("batch_axis")?.unwrap_or(1usize);
    ensure!(
        [time, batch] == [0, 1] || [time, batch] == [1, 0],
        "time_axis {time} and batch_axis {batch}, expected 0 and 1"
    );
    own_or_plain(context, node, ReverseSequence { time, batch })
}

impl Kernel for ReverseSequence {
    fn name(&self) -> &'static str {
        "ReverseSequence"
    }

    fn keeps_shape(&self) -> bool {
        true
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [x, lengths] = inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        ensure!(x.shape.len() >= 2, "the input is of shape {:?}, expected 2 dimensions or more", x.shape);
        let batch = x.shape[self.batch];
        ensure!(*lengths.shape == [batch], "sequence_lens is of shape {:?}, expected [{batch}]", lengths.shape);
        Ok(Some(tvec![(x.datum_type, x.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let shape = x.shape();
        let steps = shape[self.time];
        let lengths: Vec<usize> =
            integers(&inputs[1])?.into_iter().map(|l| usize::try_from(l).unwrap_or(usize::MAX)).collect();
        ensure!(lengths.iter().all(|&l| l <= steps), "sequence_lens holds {lengths:?}, expected 0 to {steps}");
        let inner: usize = shape[2..].iter().product();
        let mut places = Vec::with_capacity(x.len());
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                let (t, b) = if self.time == 0 { (i, j) } else { (j, i) };
                let from = if t < lengths[b] { lengths[b] - 1 - t } else { t };
                let row = if self.time == 0 { from * shape[1] + b } else { b * shape[1] + from };
                places.extend(row * inner..(row + 1) * inner);
            }
        }
        Ok(tvec![picked(x, &places, shape)?])
    }
}

/// Largest or smallest elements along an axis; of equal ones that of the lower index comes first.
#[derive(Clone, Debug)]
struct TopK {
    axis: i64,
    largest: bool,
    /// Where the number is given, if the node does not say.
    k: Option<usize>,
    /// Whether values and indices are given out.
    outputs: [bool; 2],
}

fn top_k(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let mut outputs = optional_outputs(node).map(|slot| slot.is_some());
    let outputs = [outputs.next().unwrap_or(false), outputs.next().unwrap_or(false)];
    let axis = node.get_attr_opt("axis")?.unwrap_or(-1);
    let largest = node.get_attr_opt::<i64>("largest")?.unwrap_or(1) != 0;
    own_or_plain(context, node, TopK { axis, largest, k: node.get_attr_opt("k")?, outputs })
}

impl TopK {
    fn count(&self, given: Option<i64>) -> TractResult<Option<usize>> {
        match (self.k, given) {
            (Some(k), _) => Ok(Some(k)),
            (None, Some(k)) => Ok(Some(usize::try_from(k).with_context(|| format!("K is {k}"))?)),
            (None, None) => Ok(None),
        }
    }

    fn order(&self, x: &Tensor) -> TractResult<Box<dyn Fn(usize, usize) -> Ordering>> {
        let largest = self.largest;
        let turned = move |order: Ordering| if largest { order.reverse() } else { order };
        if x.datum_type().is_float() {
            let values = doubles(x)?;
            return Ok(Box::new(move |a, b| {
                turned(values[a].partial_cmp(&values[b]).unwrap_or_else(|| values[a].total_cmp(&values[b])))
            }));
        }
        let values = integers(x)?;
        Ok(Box::new(move |a, b| turned(values[a].cmp(&values[b]))))
    }
}

impl Kernel for TopK {
    fn name(&self) -> &'static str {
        "TopK"
    }

    fn outputs(&self) -> usize {
        self.outputs.iter().filter(|&&given| given).count()
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        let axis = axis(self.axis, x.shape.len())?;
        let given = inputs.get(1).map(Known::integer).transpose()?.flatten();
        let Some(k) = self.count(given)? else { return Ok(None) };
        ensure!(k <= x.shape[axis], "K is {k}, but the axis has {} elements", x.shape[axis]);
        let mut shape = x.shape.clone();
        shape[axis] = k;
        let both = [(x.datum_type, shape.clone()), (i64::datum_type(), shape)];
        Ok(Some(both.into_iter().zip(self.outputs).filter(|(_, given)| *given).map(|(fact, _)| fact).collect()))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let axis = axis(self.axis, x.rank())?;
        let given = inputs.get(1).map(|k| integers(k)?.first().copied().context("K is empty")).transpose()?;
        let k = self.count(given)?.context("K is not given")?;
        let [outer, size, inner] = around(x.shape(), axis);
        ensure!(k <= size, "K is {k}, but the axis has {size} elements");
        let order = self.order(x)?;
        let mut places = vec![0; outer * k * inner];
        let mut indices = vec![0i64; outer * k * inner];
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let place = |index: usize| (o * size + index) * inner + i;
            let mut sorted: Vec<usize> = (0..size).collect();
            sorted.sort_by(|&a, &b| order(place(a), place(b)));
            for (rank, &index) in sorted[..k].iter().enumerate() {
                places[(o * k + rank) * inner + i] = place(index);
                indices[(o * k + rank) * inner + i] = index as i64;
            }
        }
        let mut shape: TVec<usize> = x.shape().into();
        shape[axis] = k;
        let both = [picked(x, &places, &shape)?, Tensor::from_shape(&shape, &indices)?];
        Ok(both.into_iter().zip(self.outputs).filter(|(_, given)| *given).map(|(tensor, _)| tensor).collect())
    }
}

/// Sums of all elements up to each along an axis.
#[derive(Clone, Debug)]
struct CumSum {
    exclusive: bool,
    reverse: bool,
}

fn cum_sum(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let flag = |name: &str| Ok::<_, TractError>(node.get_attr_opt::<i64>(name)?.unwrap_or(0) != 0);
    own_or_plain(context, node, CumSum { exclusive: flag("exclusive")?, reverse: flag("reverse")? })
}

impl CumSum {
    fn sums<T: Copy>(&self, x: &[T], [outer, size, inner]: [usize; 3], zero: T, add: impl Fn(T, T) -> T) -> Vec<T> {
        let mut sums = vec![zero; x.len()];
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let mut total = zero;
            for step in 0..size {
                let at = if self.reverse { size - 1 - step } else { step };
                let place = (o * size + at) * inner + i;
                let with = add(total, x[place]);
                sums[place] = if self.exclusive { total } else { with };
                total = with;
            }
        }
        sums
    }
}

impl Kernel for CumSum {
    fn name(&self) -> &'static str {
        "CumSum"
    }

    fn keeps_shape(&self) -> bool {
        true
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        ensure!(inputs.len() == 2, "{} inputs, expected 2", inputs.len());
        Ok(Some(tvec![(inputs[0].datum_type, inputs[0].shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        ensure!(inputs[1].len() == 1, "the axis is of shape {:?}", inputs[1].shape());
        let parts = around(x.shape(), axis(integers(&inputs[1])?[0], x.rank())?);
        if x.datum_type().is_float() {
            let sums = self.sums(&doubles(x)?, parts, 0.0, |a, b| a + b);
            return Ok(tvec![from_doubles(&sums, x.shape(), x.datum_type())?]);
        }
        let sums = self.sums(&integers(x)?, parts, 0, i64::wrapping_add);
        Ok(tvec![Tensor::from_shape(x.shape(), &sums)?.cast_to_dt(x.datum_type())?.into_owned()])
    }
}

/// The elements without repetitions, of the flattened input.
#[derive(Clone, Debug)]
struct Unique {
    sorted: bool,
    /// Whether values, first places, places of each element and counts are given out.
    outputs: [bool; 4],
}

fn unique(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    ensure!(node.get_attr_opt::<i64>("axis")?.is_none(), "Unique along an axis is not computed");
    let mut given = optional_outputs(node).map(|slot| slot.is_some());
    let outputs = [(); 4].map(|()| given.next().unwrap_or(false));
    own_or_plain(context, node, Unique { sorted: node.get_attr_opt::<i64>("sorted")?.unwrap_or(1) != 0, outputs })
}

impl Unique {
    fn of(&self, x: &Tensor) -> TractResult<TVec<Tensor>> {
        let bits: Vec<u64> = if x.datum_type().is_float() {
            // An order of bits that is that of the numbers; zeros are equal.
            let key = |v: f64| {
                let bits = (if v == 0.0 { 0.0 } else { v }).to_bits();
                if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
            };
            doubles(x)?.into_iter().map(key).collect()
        } else {
            integers(x)?.into_iter().map(|v| (v as u64) ^ (1 << 63)).collect()
        };
        let mut places: HashMap<u64, usize> = HashMap::new();
        let (mut first, mut counts, mut inverse) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &key) in bits.iter().enumerate() {
            let group = *places.entry(key).or_insert_with(|| {
                first.push(place);
                counts.push(0i64);
                first.len() - 1
            });
            counts[group] += 1;
            inverse.push(group);
        }
        let mut order: Vec<usize> = (0..first.len()).collect();
        if self.sorted {
            order.sort_by_key(|&group| bits[first[group]]);
        }
        let mut rank = vec![0i64; order.len()];
        order.iter().enumerate().for_each(|(place, &group)| rank[group] = place as i64);
        let chosen: Vec<usize> = order.iter().map(|&group| first[group]).collect();
        let whole = |values: Vec<i64>| tensor1(&values);
        let all = [
            picked(x, &chosen, &[chosen.len()])?,
            whole(chosen.iter().map(|&place| place as i64).collect()),
            whole(inverse.iter().map(|&group| rank[group]).collect()),
            whole(order.iter().map(|&group| counts[group]).collect()),
        ];
        Ok(all.into_iter().zip(self.outputs).filter(|(_, given)| *given).map(|(tensor, _)| tensor).collect())
    }
}

impl Kernel for Unique {
    fn name(&self) -> &'static str {
        "Unique"
    }

    fn outputs(&self) -> usize {
        self.outputs.iter().filter(|&&given| given).count()
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let Some(value) = &inputs.first().context("no input")?.value else { return Ok(None) };
        Ok(Some(self.of(value)?.iter().map(|tensor| (tensor.datum_type(), tensor.shape().into())).collect()))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        self.of(&inputs[0])
    }
}

/// The slices of an axis, or the elements, for which a flag is set.
#[derive(Clone, Debug)]
struct Compress {
    axis: Option<i64>,
}

fn compress(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    own_or_plain(context, node, Compress { axis: node.get_attr_opt("axis")? })
}

impl Compress {
    /// The shape around the axis, and the indices that are kept.
    fn kept(&self, shape: &[usize], flags: &Tensor) -> TractResult<([usize; 3], Vec<usize>)> {
        let parts = match self.axis {
            Some(a) => around(shape, axis(a, shape.len())?),
            None => [1, shape.iter().product(), 1],
        };
        let kept: Vec<usize> =
            integers(flags)?.iter().enumerate().filter(|(_, flag)| **flag != 0).map(|(i, _)| i).collect();
        ensure!(kept.last().is_none_or(|&last| last < parts[1]), "{} flags for {} elements", flags.len(), parts[1]);
        Ok((parts, kept))
    }

    fn shape(&self, shape: &[usize], kept: usize) -> TractResult<TVec<usize>> {
        let Some(a) = self.axis else { return Ok(tvec![kept]) };
        let mut shape: TVec<usize> = shape.into();
        let a = axis(a, shape.len())?;
        shape[a] = kept;
        Ok(shape)
    }
}

impl Kernel for Compress {
    fn name(&self) -> &'static str {
        "Compress"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [x, flags] = inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        let Some(flags) = &flags.value else { return Ok(None) };
        let (_, kept) = self.kept(&x.shape, flags)?;
        Ok(Some(tvec![(x.datum_type, self.shape(&x.shape, kept.len())?)]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let ([outer, size, inner], kept) = self.kept(x.shape(), &inputs[1])?;
        let mut places = Vec::new();
        for o in 0..outer {
            kept.iter().for_each(|k| places.extend((o * size + k) * inner..(o * size + k + 1) * inner));
        }
        Ok(tvec![picked(x, &places, &self.shape(x.shape(), kept.len())?)?])
    }
}

/// A new axis with one value at the index and another elsewhere; indices out of range have none.
#[derive(Clone, Debug)]
struct OneHot {
    axis: i64,
}

fn one_hot(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    own_or_plain(context, node, OneHot { axis: node.get_attr_opt("axis")?.unwrap_or(-1) })
}

impl Kernel for OneHot {
    fn name(&self) -> &'static str {
        "OneHot"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [indices, depth, values] = inputs else { bail!("{} inputs, expected 3", inputs.len()) };
        ensure!(*values.shape == [2], "values is of shape {:?}, expected [2]", values.shape);
        let Some(depth) = depth.integer()? else { return Ok(None) };
        let depth = usize::try_from(depth).with_context(|| format!("depth is {depth}"))?;
        let mut shape = indices.shape.clone();
        shape.insert(axis(self.axis, shape.len() + 1)?, depth);
        Ok(Some(tvec![(values.datum_type, shape)]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let depth = integers(&inputs[1])?[0];
        let indices = integers(&inputs[0])?;
        let at = axis(self.axis, inputs[0].rank() + 1)?;
        let inner: usize = inputs[0].shape()[at..].iter().product();
        let mut shape: TVec<usize> = inputs[0].shape().into();
        shape.insert(at, usize::try_from(depth)?);
        let mut chosen = vec![0; shape.iter().product()];
        for (place, &index) in indices.iter().enumerate() {
            let index = if index < 0 { index + depth } else { index };
            let Ok(index) = usize::try_from(index) else { continue };
            if index < shape[at] {
                chosen[(place / inner * shape[at] + index) * inner + place % inner] = 1;
            }
        }
        Ok(tvec![picked(&inputs[2], &chosen, &shape)?])
    }
}

/// Slices at the index tuples along the last axis of the indices.
#[derive(Clone, Debug)]
struct GatherNd {
    batch: usize,
}

fn gather_nd(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    own_or_plain(context, node, GatherNd { batch: node.get_attr_opt("batch_dims")?.unwrap_or(0) })
}

impl Kernel for GatherNd {
    fn name(&self) -> &'static str {
        "GatherND"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [x, indices] = inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        let tuple = *indices.shape.last().context("the indices have no dimension")?;
        let rank = indices.shape.len();
        ensure!(
            self.batch < rank
                && self.batch + tuple <= x.shape.len()
                && x.shape[..self.batch] == indices.shape[..self.batch],
            "indices of shape {:?} into an input of shape {:?}",
            indices.shape,
            x.shape
        );
        let rest = &x.shape[self.batch + tuple..];
        Ok(Some(tvec![(x.datum_type, indices.shape[..rank - 1].iter().chain(rest).copied().collect())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let (x, tuples) = (&inputs[0], integers(&inputs[1])?);
        let shape = inputs[1].shape();
        let tuple = shape[shape.len() - 1];
        let steps = strides(x.shape());
        let batches: usize = shape[..self.batch].iter().product();
        let each: usize = shape[self.batch..shape.len() - 1].iter().product();
        let whole: usize = x.shape()[self.batch..].iter().product();
        let inner: usize = x.shape()[self.batch + tuple..].iter().product();
        let mut places = Vec::with_capacity(batches * each * inner);
        for row in 0..batches * each {
            let mut start = row / each * whole;
            for (i, &at) in tuples[row * tuple..][..tuple].iter().enumerate() {
                start += index(at, x.shape()[self.batch + i])? * steps[self.batch + i];
            }
            places.extend(start..start + inner);
        }
        let result: TVec<usize> =
            shape[..shape.len() - 1].iter().chain(&x.shape()[self.batch + tuple..]).copied().collect();
        Ok(tvec![picked(x, &places, &result)?])
    }
}

/// The data with slices replaced, at the index tuples along the last axis of the indices.
#[derive(Clone, Debug)]
struct ScatterNd;

fn scatter_nd(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    if node.get_attr_opt::<&str>("reduction")?.is_none_or(|reduction| reduction == "none") {
        return own_or_plain(context, node, ScatterNd);
    }
    plain("ScatterND", context, node)
}

impl Kernel for ScatterNd {
    fn name(&self) -> &'static str {
        "ScatterND"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [x, indices, updates] = inputs else { bail!("{} inputs, expected 3", inputs.len()) };
        let (tuple, rows) = indices.shape.split_last().context("the indices have no dimension")?;
        ensure!(*tuple <= x.shape.len(), "indices of {tuple} numbers into an input of shape {:?}", x.shape);
        let expected: TVec<usize> = rows.iter().chain(&x.shape[*tuple..]).copied().collect();
        ensure!(updates.shape == expected, "updates are of shape {:?}, expected {expected:?}", updates.shape);
        Ok(Some(tvec![(x.datum_type, x.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let (x, tuples, updates) = (&inputs[0], integers(&inputs[1])?, &inputs[2]);
        let shape = inputs[1].shape();
        let tuple = shape[shape.len() - 1];
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let steps = strides(x.shape());
        let inner: usize = x.shape()[tuple..].iter().product();
        // Places in the data followed by the updates.
        let mut places: Vec<usize> = (0..x.len()).collect();
        for row in 0..rows {
            let mut start = 0;
            for (i, &at) in tuples[row * tuple..][..tuple].iter().enumerate() {
                start += index(at, x.shape()[i])? * steps[i];
            }
            (0..inner).for_each(|i| places[start + i] = x.len() + row * inner + i);
        }
        let flat = |tensor: &Tensor| tensor.clone().into_shape(&[tensor.len()]);
        let both = Tensor::stack_tensors(0, &[flat(x)?, flat(updates)?])?;
        Ok(tvec![picked(&both, &places, x.shape())?])
    }
}

/// Equality of tensors that are broadcast against one another; of flags and strings too.
#[derive(Clone, Debug)]
struct Equal;

/// The shape that two shapes are broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> TractResult<TVec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let one = |i: usize| match (size(a, i), size(b, i)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => bail!("shapes {a:?} and {b:?} do not go together"),
    };
    (0..rank).map(one).collect()
}

/// For each element of the broadcast shape, in row-major order, the place in a tensor of a shape.
fn broadcast_places(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let skipped = to.len() - from.len();
    let mut places = vec![0];
    for (i, &size) in to.iter().enumerate() {
        let step = i.checked_sub(skipped).map_or(0, |i| if from[i] == 1 { 0 } else { own[i] });
        places = places.iter().flat_map(|place| (0..size).map(move |j| place + j * step)).collect();
    }
    places
}

impl Kernel for Equal {
    fn name(&self) -> &'static str {
        "Equal"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let [a, b] = inputs else { bail!("{} inputs, expected 2", inputs.len()) };
        Ok(Some(tvec![(bool::datum_type(), broadcast(&a.shape, &b.shape)?)]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        fn equal<T: Datum + PartialEq>(a: &Tensor, b: &Tensor, shape: &[usize]) -> TractResult<Tensor> {
            let (plain_a, plain_b) = (a.try_as_plain_ram()?, b.try_as_plain_ram()?);
            let (values_a, values_b) = (plain_a.as_slice::<T>()?, plain_b.as_slice::<T>()?);
            let places = broadcast_places(a.shape(), shape).into_iter().zip(broadcast_places(b.shape(), shape));
            Tensor::from_shape(shape, &places.map(|(i, j)| values_a[i] == values_b[j]).collect::<Vec<bool>>())
        }
        let (a, b) = (&inputs[0], &inputs[1]);
        ensure!(a.datum_type() == b.datum_type(), "{:?} is compared with {:?}", a.datum_type(), b.datum_type());
        let shape = broadcast(a.shape(), b.shape())?;
        Ok(tvec![dispatch_datum!(equal(a.datum_type())(a, b, &shape))?])
    }
}

/// `Squeeze` of all axes of size 1.
#[derive(Clone, Debug)]
struct SqueezeAll;

fn squeeze(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let axes =
        node.input.get(1).is_some_and(|name| !name.is_empty()) || node.get_attr_opt_vec::<i64>("axes")?.is_some();
    if axes { plain("Squeeze", context, node) } else { own_or_plain(context, node, SqueezeAll) }
}

impl Kernel for SqueezeAll {
    fn name(&self) -> &'static str {
        "Squeeze"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        Ok(Some(tvec![(x.datum_type, x.shape.iter().copied().filter(|&size| size != 1).collect())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let shape: Vec<usize> = inputs[0].shape().iter().copied().filter(|&size| size != 1).collect();
        Ok(tvec![inputs[0].clone().into_tensor().into_shape(&shape)?])
    }
}

/// The largest or smallest elements over some axes: infinite ones, NaN and flags too.
#[derive(Clone, Debug)]
struct Extreme {
    largest: bool,
    /// Where they are attributes.
    axes: Option<Vec<i64>>,
    keeps: bool,
    /// No axes are none, not all.
    none_is_none: bool,
}

fn extreme(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let flag = |name: &str, default: i64| Ok::<_, TractError>(node.get_attr_opt(name)?.unwrap_or(default) != 0);
    let (keeps, none_is_none) = (flag("keepdims", 1)?, flag("noop_with_empty_axes", 0)?);
    let axes = node.get_attr_opt_vec("axes")?;
    own_or_plain(context, node, Extreme { largest: node.op_type == "ReduceMax", axes, keeps, none_is_none })
}

impl Extreme {
    /// For each axis whether it is reduced.
    fn reduced(&self, rank: usize, given: &[i64]) -> TractResult<Vec<bool>> {
        let axes = self.axes.as_deref().unwrap_or(given);
        let mut reduced = vec![axes.is_empty() && !self.none_is_none; rank];
        for &a in axes {
            reduced[axis(a, rank)?] = true;
        }
        Ok(reduced)
    }

    fn shape(&self, shape: &[usize], reduced: &[bool]) -> TVec<usize> {
        let sizes = shape.iter().zip(reduced);
        sizes.filter_map(|(&size, &gone)| if gone { self.keeps.then_some(1) } else { Some(size) }).collect()
    }

    /// The extremes of values, at places in a result of some length that begins as `first`.
    fn of<T: Copy>(values: &[T], places: &[usize], len: usize, first: T, better: impl Fn(T, T) -> bool) -> Vec<T> {
        let mut best = vec![first; len];
        for (&value, &place) in values.iter().zip(places) {
            if better(value, best[place]) {
                best[place] = value;
            }
        }
        best
    }
}

impl Kernel for Extreme {
    fn name(&self) -> &'static str {
        if self.largest { "ReduceMax" } else { "ReduceMin" }
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        let given = match inputs.get(1) {
            None => Vec::new(),
            Some(Known { value: Some(axes), .. }) => integers(axes)?,
            Some(_) => return Ok(None),
        };
        let reduced = self.reduced(x.shape.len(), &given)?;
        Ok(Some(tvec![(x.datum_type, self.shape(&x.shape, &reduced))]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let given = inputs.get(1).map(|axes| integers(axes)).transpose()?.unwrap_or_default();
        let reduced = self.reduced(x.rank(), &given)?;
        // With the axes kept, so that places can be told.
        let kept: Vec<usize> =
            x.shape().iter().zip(&reduced).map(|(&size, &gone)| if gone { 1 } else { size }).collect();
        let (places, len) = (broadcast_places(&kept, x.shape()), kept.iter().product());
        let shape = self.shape(x.shape(), &reduced);
        let largest = self.largest;
        if x.datum_type().is_float() {
            let first = if largest { f64::NEG_INFINITY } else { f64::INFINITY };
            let better = |new: f64, old: f64| new.is_nan() || (largest && new > old) || (!largest && new < old);
            let best = Extreme::of(&doubles(x)?, &places, len, first, better);
            return Ok(tvec![from_doubles(&best, &shape, x.datum_type())?]);
        }
        let first = match (x.datum_type() == bool::datum_type(), largest) {
            (true, _) => i64::from(!largest),
            (false, true) => i64::MIN,
            (false, false) => i64::MAX,
        };
        let better = |new: i64, old: i64| if largest { new > old } else { new < old };
        let best = Extreme::of(&integers(x)?, &places, len, first, better);
        Ok(tvec![Tensor::from_shape(&shape, &best)?.cast_to_dt(x.datum_type())?.into_owned()])
    }
}

/// Operator set 10 does not say how to round; runtimes round down where they enlarge.
fn resize(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    if context.onnx_operator_set_version != 10 {
        return plain("Resize", context, node);
    }
    upsample(context, node)
}

/// `Upsample`, with its scales as an input, is the `Resize` of operator set 10.
fn upsample(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let mut node = node.clone();
    node.attribute.push(pb::AttributeProto {
        name: "nearest_mode".to_owned(),
        s: b"floor".to_vec(),
        r#type: pb::attribute_proto::AttributeType::String as i32,
        ..Default::default()
    });
    plain("Resize", &ParsingContext { onnx_operator_set_version: 10, ..context.clone() }, &node)
}

/// `x - max - log(sum(exp(x - max)))`, over an axis, or before operator set 13 over all axes from it on.
#[derive(Clone, Debug)]
struct LogSoftmax {
    axis: i64,
    flattens: bool,
}

fn log_softmax(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let flattens = context.onnx_operator_set_version < 13;
    let axis = node.get_attr_opt("axis")?.unwrap_or(if flattens { 1 } else { -1 });
    Ok((own(LogSoftmax { axis, flattens }), vec![]))
}

impl Kernel for LogSoftmax {
    fn name(&self) -> &'static str {
        "LogSoftmax"
    }

    fn keeps_shape(&self) -> bool {
        true
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        Ok(Some(tvec![(x.datum_type, x.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let x = &inputs[0];
        let axis = axis(self.axis, x.rank())?;
        let [outer, size, inner] = match self.flattens {
            true => [x.shape()[..axis].iter().product(), x.shape()[axis..].iter().product(), 1],
            false => around(x.shape(), axis),
        };
        let mut values = doubles(x)?;
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let place = |at: usize| (o * size + at) * inner + i;
            let most = (0..size).map(|at| values[place(at)]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..size).map(|at| (values[place(at)] - most).exp()).sum();
            (0..size).for_each(|at| values[place(at)] -= most + sum.ln());
        }
        Ok(tvec![from_doubles(&values, x.shape(), x.datum_type())?])
    }
}

/// Functions of single numbers.
#[derive(Clone, Debug)]
enum Elementwise {
    Softplus,
    Celu { alpha: f64 },
    Swish { alpha: f64 },
}

fn celu(_context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let alpha = f64::from(node.get_attr_opt::<f32>("alpha")?.unwrap_or(1.0));
    Ok((own(Elementwise::Celu { alpha }), vec![]))
}

fn swish(_context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let alpha = f64::from(node.get_attr_opt::<f32>("alpha")?.unwrap_or(1.0));
    Ok((own(Elementwise::Swish { alpha }), vec![]))
}

impl Elementwise {
    fn of(&self, x: f64) -> f64 {
        match self {
            Elementwise::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Elementwise::Celu { alpha } => x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0),
            Elementwise::Swish { alpha } => x / (1.0 + (-alpha * x).exp()),
        }
    }
}

impl Kernel for Elementwise {
    fn name(&self) -> &'static str {
        match self {
            Elementwise::Softplus => "Softplus",
            Elementwise::Celu { .. } => "Celu",
            Elementwise::Swish { .. } => "Swish",
        }
    }

    fn keeps_shape(&self) -> bool {
        true
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        Ok(Some(tvec![(x.datum_type, x.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let values: Vec<f64> =
            doubles(&inputs[0])?.into_iter().map(|x| if x.is_nan() { x } else { self.of(x) }).collect();
        Ok(tvec![from_doubles(&values, inputs[0].shape(), inputs[0].datum_type())?])
    }
}

/// Keys or values of a `LabelEncoder`.
#[derive(Clone, Debug)]
enum Labels {
    Strings(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

impl Labels {
    /// `keys_strings`, `keys_int64s` or `keys_floats` for `keys`.
    fn read(node: &pb::NodeProto, stem: &str) -> TractResult<Labels> {
        if let Some(strings) = node.get_attr_opt_slice::<Vec<u8>>(&format!("{stem}_strings"))? {
            let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone());
            return Ok(Labels::Strings(strings.iter().map(text).collect::<Result<_, _>>()?));
        }
        if let Some(integers) = node.get_attr_opt_vec(&format!("{stem}_int64s"))? {
            return Ok(Labels::Integers(integers));
        }
        let floats = node.get_attr_opt_vec(&format!("{stem}_floats"))?;
        Ok(Labels::Floats(floats.with_context(|| format!("{stem} are not given as attributes of a list"))?))
    }

    fn len(&self) -> usize {
        match self {
            Labels::Strings(all) => all.len(),
            Labels::Integers(all) => all.len(),
            Labels::Floats(all) => all.len(),
        }
    }

    fn datum_type(&self) -> DatumType {
        match self {
            Labels::Strings(_) => String::datum_type(),
            Labels::Integers(_) => i64::datum_type(),
            Labels::Floats(_) => f32::datum_type(),
        }
    }

    /// Each as something that can be looked up.
    fn keys(&self) -> Vec<Key> {
        match self {
            Labels::Strings(all) => all.iter().cloned().map(Key::Text).collect(),
            Labels::Integers(all) => all.iter().copied().map(Key::Number).collect(),
            Labels::Floats(all) => all.iter().copied().map(Key::float).collect(),
        }
    }

    fn tensor(&self) -> Tensor {
        match self {
            Labels::Strings(all) => tensor1(all),
            Labels::Integers(all) => tensor1(all),
            Labels::Floats(all) => tensor1(all),
        }
    }

    /// With a default at the end.
    fn with_default(mut self, node: &pb::NodeProto) -> TractResult<Labels> {
        match &mut self {
            Labels::Strings(all) => {
                all.push(node.get_attr_opt("default_string")?.unwrap_or_else(|| "_Unused".to_owned()))
            }
            Labels::Integers(all) => all.push(node.get_attr_opt("default_int64")?.unwrap_or(-1)),
            Labels::Floats(all) => all.push(node.get_attr_opt("default_float")?.unwrap_or(-0.0)),
        }
        Ok(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    Number(i64),
    Bits(u32),
}

impl Key {
    /// Zeros are equal, and NaN is itself.
    fn float(value: f32) -> Key {
        let value = if value.is_nan() { f32::NAN } else { value };
        Key::Bits((if value == 0.0 { 0.0 } else { value }).to_bits())
    }
}

/// A table from labels to labels.
#[derive(Clone, Debug)]
struct LabelEncoder {
    table: HashMap<Key, usize>,
    from: DatumType,
    /// The default at the end.
    values: Labels,
}

fn label_encoder(context: &ParsingContext, node: &pb::NodeProto) -> Read {
    let (keys, values) = match node.get_attr_opt_slice::<Vec<u8>>("classes_strings")? {
        Some(_) => bail!("LabelEncoder of its first version is not computed"),
        None => (Labels::read(node, "keys")?, Labels::read(node, "values")?),
    };
    ensure!(keys.len() == values.len(), "{} keys for {} values", keys.len(), values.len());
    // Of a key that is listed twice, the first place counts.
    let table = keys.keys().into_iter().enumerate().rev().map(|(place, key)| (key, place)).collect();
    own_or_plain(context, node, LabelEncoder { table, from: keys.datum_type(), values: values.with_default(node)? })
}

impl Kernel for LabelEncoder {
    fn name(&self) -> &'static str {
        "LabelEncoder"
    }

    fn facts(&self, inputs: &[Known]) -> TractResult<Option<Facts>> {
        let x = inputs.first().context("no input")?;
        ensure!(x.datum_type == self.from, "the input is {:?}, the keys are {:?}", x.datum_type, self.from);
        Ok(Some(tvec![(self.values.datum_type(), x.shape.clone())]))
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<TVec<Tensor>> {
        let plain = inputs[0].try_as_plain_ram()?;
        let keys: Vec<Key> = match self.from {
            DatumType::String => plain.as_slice::<String>()?.iter().cloned().map(Key::Text).collect(),
            DatumType::I64 => plain.as_slice::<i64>()?.iter().copied().map(Key::Number).collect(),
            _ => plain.as_slice::<f32>()?.iter().copied().map(Key::float).collect(),
        };
        let default = self.values.len() - 1;
        let places: Vec<usize> = keys.iter().map(|key| self.table.get(key).copied().unwrap_or(default)).collect();
        Ok(tvec![picked(&self.values.tensor(), &places, inputs[0].shape())?])
    }
}
