//! Constant folding: what one node of the standard domain computes from constant inputs.
//!
//! Covers the operators that exporters put between a stored tensor and the W or R of a recurrent node, and those by
//! which this crate rebuilds them: movement of elements, casts, and element-wise arithmetic. Floats are computed in
//! f32, rounded once where the type is narrower, as runtimes do.
//!
//! Invariant: a result's size is computed, checked, and charged to a [`Budget`] before memory is taken. The inputs come
//! from a file that nobody vouches for: a few bytes can ask for terabytes.

use half::{bf16, f16};
use ndarray::{ArcArray, Array3, ArrayD, ArrayViewD, Axis, IxDyn, Slice, concatenate};

use crate::onnx::proto::{AttributeProto, NodeProto};
use crate::onnx::{ElementType, Model};

/// Why a node could not be folded, as a clause that follows the node's name.
pub(crate) type Folded<T> = Result<T, String>;

/// A constant tensor. Views share memory, so that to transpose, slice or reshape costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Constant {
    pub element: ElementType,
    pub data: Data,
}

/// Elements of any float type as f32, of any integer type or bool as i64.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Float(ArcArray<f32, IxDyn>),
    Integer(ArcArray<i64, IxDyn>),
}

/// Applies the same expression to the array of either kind.
macro_rules! either {
    ($constant:expr, $array:ident => $body:expr) => {{
        let Constant { element, data } = $constant;
        let data = match data {
            Data::Float($array) => Data::Float($body),
            Data::Integer($array) => Data::Integer($body),
        };
        Constant { element, data }
    }};
}

impl Constant {
    pub fn shape(&self) -> &[usize] {
        match &self.data {
            Data::Float(a) => a.shape(),
            Data::Integer(a) => a.shape(),
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        match &self.data {
            Data::Float(a) => a.iter().all(|v| v.is_finite()),
            Data::Integer(_) => true,
        }
    }

    /// The elements in row-major order, integers as floats.
    pub fn floats(&self) -> ArrayD<f32> {
        match &self.data {
            Data::Float(values) => values.as_standard_layout().into_owned(),
            Data::Integer(values) => values.mapv(|v| v as f32).as_standard_layout().into_owned(),
        }
    }

    /// With floats in place of int8 and uint8.
    pub fn bytes_as_floats(self) -> Constant {
        match self.element {
            ElementType::Int8 | ElementType::Uint8 => {
                Constant { element: ElementType::Float, data: Data::Float(self.floats().into_shared()) }
            }
            _ => self,
        }
    }

    fn rank(&self) -> usize {
        self.shape().len()
    }

    fn vector(values: Vec<i64>) -> Constant {
        let data = Data::Integer(ArcArray::from_vec(values).into_dyn());
        Constant { element: ElementType::Int64, data }
    }

    /// The elements of an operand that is a list of integers.
    fn integers(&self) -> Folded<Vec<i64>> {
        match &self.data {
            Data::Integer(a) => Ok(a.iter().copied().collect()),
            Data::Float(_) => Err("has a float operand where it needs integers".to_owned()),
        }
    }
}

/// Elements that may still be read or made.
///
/// Real chains end near the size of what is stored, or, where a dictionary is decoded, at a fixed multiple of it. One
/// budget serves all weights of a search, so that neither one node nor a hundred thousand ask for more.
pub(crate) struct Budget {
    left: u128,
}

impl Budget {
    /// For a model of so many bytes.
    pub fn for_model(model: &Model) -> Budget {
        let growth = u128::from(crate::limits::FOLD_GROWTH) * u128::from(model.bytes());
        Budget { left: growth + u128::from(crate::limits::FOLD_ELEMENTS) }
    }

    /// Takes room for a tensor of this shape.
    pub fn charge(&mut self, shape: &[usize]) -> Folded<()> {
        match checked_product(shape).and_then(|n| self.left.checked_sub(n as u128)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(format!("would make a tensor of shape {shape:?}, far larger than what the model stores")),
        }
    }
}

/// A node of the standard domain with its constant inputs (`None`: absent), about to be folded.
pub(super) struct Operation<'a> {
    pub node: &'a NodeProto,
    pub opset: i64,
    pub inputs: Vec<Option<Constant>>,
    pub budget: &'a mut Budget,
}

/// How a foldable operator reads its inputs: the first `n` carry the elements of the result, the rest only steer.
pub(super) fn data_inputs(op_type: &str) -> Option<usize> {
    Some(match op_type {
        "Constant" | "ConstantOfShape" | "Shape" => 0,
        "DequantizeLinear" | "Identity" | "Transpose" | "Cast" | "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten"
        | "Slice" | "Split" | "Expand" => 1,
        // The indices of a Gather are codes, where weights come from a dictionary.
        "Add" | "Sub" | "Mul" | "Div" | "Gather" | "MatMul" => 2,
        "Concat" => usize::MAX,
        _ => return None,
    })
}

impl Operation<'_> {
    /// The value of output `output`.
    pub fn fold(&mut self, output: usize) -> Folded<Constant> {
        if output > 0 && self.node.op_type() != "Split" {
            return Err(format!("has no output {output}"));
        }
        match self.node.op_type() {
            "Identity" => self.input(0),
            "Transpose" => self.transpose(),
            "Cast" => self.cast(),
            "Unsqueeze" => self.unsqueeze(),
            "Squeeze" => self.squeeze(),
            "Reshape" => self.reshape(),
            "Flatten" => self.flatten(),
            "Slice" => self.slice(),
            "Concat" => self.concat(),
            "Gather" => self.gather(),
            "Split" => self.split(output),
            "Expand" => self.expand(),
            "Shape" => self.shape(),
            "ConstantOfShape" => self.constant_of_shape(),
            "Add" => self.arithmetic(|a, b| a + b, |a, b| Some(a.wrapping_add(b))),
            "Sub" => self.arithmetic(|a, b| a - b, |a, b| Some(a.wrapping_sub(b))),
            "Mul" => self.arithmetic(|a, b| a * b, |a, b| Some(a.wrapping_mul(b))),
            "Div" => self.arithmetic(|a, b| a / b, i64::checked_div),
            "MatMul" => self.matmul(),
            "DequantizeLinear" => self.dequantize(),
            other => Err(format!("is of operator {other}, which is not supported")),
        }
    }

    fn optional(&self, index: usize) -> Option<&Constant> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    fn input(&self, index: usize) -> Folded<Constant> {
        self.optional(index).cloned().ok_or_else(|| format!("lacks input {index}"))
    }

    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.node.attribute.iter().find(|a| a.name() == name)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    /// A list that is an attribute up to some version, and input `index` from then on.
    fn list(&self, name: &str, index: usize, input_since: i64) -> Folded<Option<Vec<i64>>> {
        if self.opset >= input_since {
            self.optional(index).map(Constant::integers).transpose()
        } else {
            Ok(self.attribute(name).map(|a| a.ints.clone()))
        }
    }

    fn transpose(&self) -> Folded<Constant> {
        let x = self.input(0)?;
        let rank = x.rank();
        let order: Vec<usize> = match self.attribute("perm") {
            None => (0..rank).rev().collect(),
            Some(perm) => perm.ints.iter().map(|&p| axis(p, rank)).collect::<Folded<_>>()?,
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return Err(format!("has perm {order:?}, no permutation of {rank} axes"));
        }
        Ok(either!(x, a => a.permuted_axes(order)))
    }

    fn cast(&mut self) -> Folded<Constant> {
        let x = self.input(0)?;
        let to = i32::try_from(self.int("to", 0)).ok().and_then(|t| ElementType::try_from(t).ok());
        let Some(to) = to.filter(|t| *t != ElementType::Undefined) else {
            return Err("has no valid 'to'".to_owned());
        };
        if to == x.element {
            return Ok(x);
        }
        self.budget.charge(x.shape())?;
        convert(&x, to)
            .ok_or_else(|| format!("casts {} to {}, which is not supported", x.element.as_str_name(), to.as_str_name()))
    }

    /// `(x - zero) * scale`, with one scale for all or one for each index of an axis.
    fn dequantize(&mut self) -> Folded<Constant> {
        let (x, scale) = (self.input(0)?, self.input(1)?);
        let Data::Integer(levels) = &x.data else { return Err("dequantises what are no integers".to_owned()) };
        if self.int("block_size", 0) != 0 || !scale.element.is_float() {
            return Err("has scales of a kind that is not supported".to_owned());
        }
        let shape = levels.shape().to_vec();
        let each = |numbers: ArrayD<f32>| -> Folded<ArrayD<f32>> {
            let mut wide = vec![1; shape.len()];
            if numbers.len() != 1 {
                wide[axis(self.int("axis", 1), shape.len())?] = numbers.len();
            }
            let numbers = numbers.into_shape_with_order(wide).map_err(|_| "has scales of another shape")?;
            let fits = numbers.broadcast(shape.clone()).is_some();
            fits.then_some(numbers).ok_or_else(|| format!("has scales that do not fit {shape:?}"))
        };
        let scales = each(scale.floats())?;
        let zeros = self.optional(2).map(|zero| each(zero.floats())).transpose()?;
        self.budget.charge(&shape)?;
        let mut values = x.floats();
        if let Some(zeros) = zeros {
            values -= &zeros;
        }
        values *= &scales;
        values.mapv_inplace(|value| round(value, scale.element));
        Ok(Constant { element: scale.element, data: Data::Float(values.into_shared()) })
    }

    fn unsqueeze(&self) -> Folded<Constant> {
        let x = self.input(0)?;
        let axes = self.list("axes", 1, 13)?.ok_or("has no axes")?;
        let rank = x.rank().checked_add(axes.len()).filter(|&r| r <= MAX_RANK).ok_or("makes too many axes")?;
        let mut axes: Vec<usize> = axes.into_iter().map(|a| axis(a, rank)).collect::<Folded<_>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) {
            return Err(format!("has repeated axes {axes:?}"));
        }
        Ok(either!(x, a => axes.iter().fold(a, |a, &at| a.insert_axis(Axis(at)))))
    }

    fn squeeze(&self) -> Folded<Constant> {
        let x = self.input(0)?;
        let shape = x.shape();
        let mut axes: Vec<usize> = match self.list("axes", 1, 13)? {
            None => (0..shape.len()).filter(|&a| shape[a] == 1).collect(),
            Some(axes) => axes.into_iter().map(|a| axis(a, shape.len())).collect::<Folded<_>>()?,
        };
        axes.sort_unstable();
        axes.dedup();
        if let Some(&wide) = axes.iter().find(|&&a| shape[a] != 1) {
            return Err(format!("squeezes axis {wide} of shape {shape:?}"));
        }
        Ok(either!(x, a => axes.iter().rev().fold(a, |a, &at| a.index_axis_move(Axis(at), 0))))
    }

    fn reshape(&mut self) -> Folded<Constant> {
        let x = self.input(0)?;
        let wanted = self.list("shape", 1, 5)?.ok_or("has no shape")?;
        let shape = reshaped(x.shape(), &wanted, self.int("allowzero", 0) != 0)?;
        self.view_as(x, &shape)
    }

    fn flatten(&mut self) -> Folded<Constant> {
        let x = self.input(0)?;
        let rank = x.rank();
        let at = self.int("axis", 1);
        let at = if usize::try_from(at) == Ok(rank) { rank } else { axis(at, rank)? };
        let shape = [x.shape()[..at].iter().product(), x.shape()[at..].iter().product()];
        self.view_as(x, &shape)
    }

    /// The same elements in row-major order under another shape.
    fn view_as(&mut self, x: Constant, shape: &[usize]) -> Folded<Constant> {
        let old: Vec<usize> = x.shape().to_vec();
        if checked_product(&old) != checked_product(shape) || shape.len() > MAX_RANK {
            return Err(format!("reshapes {old:?} to {shape:?}"));
        }
        let contiguous = match &x.data {
            Data::Float(a) => a.is_standard_layout(),
            Data::Integer(a) => a.is_standard_layout(),
        };
        if !contiguous {
            self.budget.charge(shape)?;
        }
        Ok(either!(x, a => {
            let rows = if contiguous { a } else { a.as_standard_layout().into_owned().into_shared() };
            rows.into_shape_with_order(IxDyn(shape)).expect("as many elements, in row-major order")
        }))
    }

    fn slice(&self) -> Folded<Constant> {
        let x = self.input(0)?;
        let starts = self.list("starts", 1, 10)?.ok_or("has no starts")?;
        let ends = self.list("ends", 2, 10)?.ok_or("has no ends")?;
        let axes = self.list("axes", 3, 10)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = if self.opset >= 10 { self.optional(4).map(Constant::integers).transpose()? } else { None };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err("has starts, ends, axes and steps of different lengths".to_owned());
        }
        let shape = x.shape().to_vec();
        let mut parts = Vec::new();
        for i in 0..starts.len() {
            let at = axis(axes[i], shape.len())?;
            parts.push((Axis(at), slice_part(shape[at], starts[i], ends[i], steps[i])?));
        }
        Ok(either!(x, a => parts.iter().fold(a, |mut a, &(at, part)| {
            a.slice_axis_inplace(at, part);
            a
        })))
    }

    fn concat(&mut self) -> Folded<Constant> {
        let parts: Vec<Constant> = (0..self.inputs.len()).map(|i| self.input(i)).collect::<Folded<_>>()?;
        let first = parts.first().ok_or("has no inputs")?;
        let at = axis(self.int("axis", 1), first.rank())?;
        let mut shape = first.shape().to_vec();
        shape[at] = 0;
        for part in &parts {
            let fits = part.rank() == shape.len()
                && (0..shape.len()).all(|a| a == at || part.shape()[a] == first.shape()[a])
                && part.element == first.element;
            if !fits {
                return Err(format!("joins shapes {:?} and {:?} on axis {at}", first.shape(), part.shape()));
            }
            shape[at] = shape[at].checked_add(part.shape()[at]).ok_or("overflows")?;
        }
        self.budget.charge(&shape)?;
        let element = first.element;
        let data = if let Some(views) = float_views(&parts) {
            Data::Float(concatenate(Axis(at), &views).map_err(|e| e.to_string())?.into_shared())
        } else if let Some(views) = integer_views(&parts) {
            Data::Integer(concatenate(Axis(at), &views).map_err(|e| e.to_string())?.into_shared())
        } else {
            return Err("joins floats and integers".to_owned());
        };
        Ok(Constant { element, data })
    }

    fn gather(&mut self) -> Folded<Constant> {
        let x = self.input(0)?;
        let picks = self.input(1)?;
        let at = axis(self.int("axis", 0), x.rank())?;
        let size = x.shape()[at];
        let mut shape = x.shape()[..at].to_vec();
        shape.extend_from_slice(picks.shape());
        shape.extend_from_slice(&x.shape()[at + 1..]);
        self.budget.charge(&shape)?;
        let rows: Vec<usize> = picks
            .integers()?
            .into_iter()
            .map(|i| axis(i, size).map_err(|_| format!("picks element {i} of {size}")))
            .collect::<Folded<_>>()?;
        let rank = shape.len();
        if rank > MAX_RANK {
            return Err("makes too many axes".to_owned());
        }
        Ok(either!(x, a => {
            let picked = a.select(Axis(at), &rows);
            let rows = picked.as_standard_layout().into_owned();
            rows.into_shape_with_order(IxDyn(&shape)).expect("one slice for each index").into_shared()
        }))
    }

    fn split(&self, output: usize) -> Folded<Constant> {
        let x = self.input(0)?;
        let at = axis(self.int("axis", 0), x.rank())?;
        let size = x.shape()[at];
        let parts = match self.list("split", 1, 13)?.filter(|s| !s.is_empty()) {
            Some(parts) => parts.iter().map(|&p| usize::try_from(p).ok()).collect::<Option<Vec<_>>>(),
            None => Some(equal_parts(size, self.node.output.len())),
        };
        let parts = parts.filter(|p| p.iter().try_fold(0usize, |s, &p| s.checked_add(p)) == Some(size));
        let parts = parts.ok_or_else(|| format!("splits {size} into other parts than it has"))?;
        let length = *parts.get(output).ok_or("has fewer parts than outputs")?;
        let start: usize = parts[..output].iter().sum();
        Ok(either!(x, a => {
            let mut part = a;
            part.slice_axis_inplace(Axis(at), Slice::from(start..start + length));
            part
        }))
    }

    fn expand(&mut self) -> Folded<Constant> {
        let x = self.input(0)?;
        let wanted = sizes(&self.input(1)?.integers()?)?;
        let shape = broadcast_shape(x.shape(), &wanted)?;
        self.budget.charge(&shape)?;
        Ok(either!(x, a => {
            let wide = a.broadcast(IxDyn(&shape)).expect("the shape is that of the broadcast");
            wide.to_owned().into_shared()
        }))
    }

    fn shape(&self) -> Folded<Constant> {
        let x = self.input(0)?;
        let rank = x.rank() as i64;
        let bound = |name, default| {
            let at: i64 = self.int(name, default);
            usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0)
        };
        let (start, end) = (bound("start", 0), bound("end", rank));
        let dims = x.shape().get(start..end).unwrap_or(&[]);
        Ok(Constant::vector(dims.iter().map(|&d| d as i64).collect()))
    }

    fn constant_of_shape(&mut self) -> Folded<Constant> {
        let shape = sizes(&self.input(0)?.integers()?)?;
        self.budget.charge(&shape)?;
        if self.attribute("value").is_some() {
            return Err("fills with a value, which is not supported".to_owned());
        }
        let data = Data::Float(ArcArray::zeros(IxDyn(&shape)));
        Ok(Constant { element: ElementType::Float, data })
    }

    /// The product of two stacks of matrices of the same depth, 1 standing for any; their last two axes are the matrices.
    fn matmul(&mut self) -> Folded<Constant> {
        let (x, y) = (self.input(0)?, self.input(1)?);
        if x.element != ElementType::Float || y.element != ElementType::Float {
            return Err("multiplies matrices that are not float".to_owned());
        }
        let (Data::Float(a), Data::Float(b)) = (x.data, y.data) else {
            return Err("multiplies matrices of integers".to_owned());
        };
        let (rows, inner, columns) = match (a.shape(), b.shape()) {
            ([.., rows, inner], [.., other, columns]) if inner == other => (*rows, *inner, *columns),
            (a, b) => return Err(format!("multiplies matrices of shapes {a:?} and {b:?}")),
        };
        let mut shape = broadcast_shape(&a.shape()[..a.ndim() - 2], &b.shape()[..b.ndim() - 2])?;
        let depth = checked_product(&shape).ok_or("makes a tensor beyond all limits")?;
        let stacked = shape.clone();
        shape.extend([rows, columns]);
        for size in [[depth, rows, inner], [depth, inner, columns], [depth, rows, columns]] {
            self.budget.charge(&size)?;
        }
        self.budget.charge(&[depth, rows, columns, inner.div_ceil(PRODUCTS)])?;
        let stack = |m: &ArcArray<f32, IxDyn>, size: [usize; 2]| {
            let wide: Vec<usize> = stacked.iter().copied().chain(size).collect();
            let all = m.broadcast(IxDyn(&wide))?.as_standard_layout().into_owned();
            all.into_shape_with_order((depth, size[0], size[1])).ok()
        };
        let misfit = "multiplies stacks that do not fit";
        let (a, b) = (stack(&a, [rows, inner]).ok_or(misfit)?, stack(&b, [inner, columns]).ok_or(misfit)?);
        let mut out = Array3::zeros((depth, rows, columns));
        for ((mut out, a), b) in out.outer_iter_mut().zip(a.outer_iter()).zip(b.outer_iter()) {
            out.assign(&a.dot(&b));
        }
        let out = out.into_dyn().into_shape_with_order(IxDyn(&shape)).map_err(|_| misfit)?;
        Ok(Constant { element: ElementType::Float, data: Data::Float(out.into_shared()) })
    }

    fn arithmetic(
        &mut self,
        float: impl Fn(f32, f32) -> f32,
        integer: impl Fn(i64, i64) -> Option<i64>,
    ) -> Folded<Constant> {
        let (x, y) = (self.input(0)?, self.input(1)?);
        if x.element != y.element {
            return Err("combines two element types".to_owned());
        }
        if self.opset < 7 {
            return Err("broadcasts in the way of an old opset".to_owned());
        }
        let shape = broadcast_shape(x.shape(), y.shape())?;
        self.budget.charge(&shape)?;
        let wide = "the shape is that of the broadcast";
        let data = match (&x.data, &y.data) {
            (Data::Float(a), Data::Float(b)) => {
                let (a, b) = (a.broadcast(IxDyn(&shape)).expect(wide), b.broadcast(IxDyn(&shape)).expect(wide));
                let mut out = a.to_owned();
                out.zip_mut_with(&b, |a, &b| *a = round(float(*a, b), x.element));
                Data::Float(out.into_shared())
            }
            (Data::Integer(a), Data::Integer(b)) => {
                let (a, b) = (a.broadcast(IxDyn(&shape)).expect(wide), b.broadcast(IxDyn(&shape)).expect(wide));
                let mut fits = true;
                let mut out = a.to_owned();
                out.zip_mut_with(&b, |a, &b| match integer(*a, b).map(|v| (v, wrap(v, x.element))) {
                    Some((v, Some(w))) if v == w => *a = v,
                    _ => fits = false,
                });
                if !fits {
                    return Err("overflows or divides by zero".to_owned());
                }
                Data::Integer(out.into_shared())
            }
            _ => return Err("combines floats and integers".to_owned()),
        };
        Ok(Constant { element: x.element, data })
    }
}

/// Products that the budget counts as one element: to multiply is faster than to store.
pub(super) const PRODUCTS: usize = 256;

/// Axes of a tensor; deeper ones are an attempt at something else than weights.
const MAX_RANK: usize = 16;

/// An index that may count from the end.
fn axis(at: i64, rank: usize) -> Folded<usize> {
    let wrapped = if at < 0 { at.saturating_add(rank as i64) } else { at };
    match usize::try_from(wrapped) {
        Ok(a) if a < rank => Ok(a),
        _ => Err(format!("has axis {at} for rank {rank}")),
    }
}

fn sizes(dims: &[i64]) -> Folded<Vec<usize>> {
    if dims.len() > MAX_RANK {
        return Err("makes too many axes".to_owned());
    }
    dims.iter().map(|&d| usize::try_from(d).map_err(|_| format!("has dimension {d}"))).collect()
}

/// Elements of a shape; `None` where even the dimensions other than 0 overflow, which no array may have.
fn checked_product(shape: &[usize]) -> Option<usize> {
    let product = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d.max(1)))?;
    isize::try_from(product).ok()?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// The target of Reshape: 0 copies a dimension (unless `allow_zero`), -1 is inferred.
fn reshaped(old: &[usize], wanted: &[i64], allow_zero: bool) -> Folded<Vec<usize>> {
    let refuse = || format!("reshapes {old:?} to {wanted:?}");
    let mut shape = Vec::with_capacity(wanted.len().min(MAX_RANK));
    let mut inferred = None;
    if wanted.len() > MAX_RANK {
        return Err("makes too many axes".to_owned());
    }
    for (i, &dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            -1 if inferred.is_none() => {
                inferred = Some(i);
                1
            }
            0 if !allow_zero => *old.get(i).ok_or_else(refuse)?,
            _ => usize::try_from(dim).map_err(|_| refuse())?,
        });
    }
    if let Some(i) = inferred {
        let (total, known) = (checked_product(old).ok_or_else(refuse)?, checked_product(&shape).ok_or_else(refuse)?);
        shape[i] = total.checked_div(known).ok_or_else(refuse)?;
    }
    Ok(shape)
}

/// One axis of Slice, with the clamping of the specification.
fn slice_part(size: usize, start: i64, end: i64, step: i64) -> Folded<Slice> {
    let n = i64::try_from(size).map_err(|_| "overflows")?;
    let from_end = |at: i64| if at < 0 { at.saturating_add(n) } else { at };
    let step_size = usize::try_from(step.unsigned_abs()).map_err(|_| "overflows")?;
    if step == 0 || step == i64::MIN {
        return Err("has step 0".to_owned());
    }
    let (start, end) = if step > 0 {
        (from_end(start).clamp(0, n), from_end(end).clamp(0, n))
    } else {
        (from_end(start).clamp(0, (n - 1).max(0)), from_end(end).clamp(-1, n - 1))
    };
    let span = if step > 0 { end - start } else { start - end };
    if span <= 0 || n == 0 {
        return Ok(Slice::from(0..0));
    }
    let last = (span as usize - 1) / step_size * step_size;
    if step > 0 {
        return Ok(Slice::new(start as isize, Some(end as isize), step as isize));
    }
    // ndarray walks a range from its end for a negative step: the range must end at `start`
    Ok(Slice::new(start as isize - last as isize, Some(start as isize + 1), step as isize))
}

/// Parts of Split without sizes: equal, the last one smaller.
fn equal_parts(size: usize, parts: usize) -> Vec<usize> {
    let each = size.div_ceil(parts.max(1));
    (0..parts).map(|i| each.min(size.saturating_sub(each * i))).collect()
}

/// Multidirectional broadcasting.
fn broadcast_shape(a: &[usize], b: &[usize]) -> Folded<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y || y == 1 => Ok(x),
            (1, y) => Ok(y),
            _ => Err(format!("combines shapes {a:?} and {b:?}")),
        })
        .collect()
}

fn float_views(parts: &[Constant]) -> Option<Vec<ArrayViewD<'_, f32>>> {
    parts
        .iter()
        .map(|part| match &part.data {
            Data::Float(a) => Some(a.view()),
            Data::Integer(_) => None,
        })
        .collect()
}

fn integer_views(parts: &[Constant]) -> Option<Vec<ArrayViewD<'_, i64>>> {
    parts
        .iter()
        .map(|part| match &part.data {
            Data::Integer(a) => Some(a.view()),
            Data::Float(_) => None,
        })
        .collect()
}

/// Cast between the types that are followed; `None` for others.
fn convert(x: &Constant, to: ElementType) -> Option<Constant> {
    let data = match &x.data {
        Data::Float(a) if to.is_float() => Data::Float(a.mapv(|v| round(v, to)).into_shared()),
        Data::Integer(a) if to.is_float() => Data::Float(a.mapv(|v| round_integer(v, to)).into_shared()),
        Data::Integer(a) => {
            wrap(0, to)?;
            Data::Integer(a.mapv(|v| wrap(v, to).unwrap_or(0)).into_shared())
        }
        Data::Float(a) => {
            // out of range is undefined in the specification
            wrap(0, to)?;
            if a.iter().any(|&v| wrap(v as i64, to) != Some(v as i64)) {
                return None;
            }
            Data::Integer(a.mapv(|v| v as i64).into_shared())
        }
    };
    Some(Constant { element: to, data })
}

/// The nearest value that the float type holds, as f32 (which is all that is kept of a double).
fn round(v: f32, to: ElementType) -> f32 {
    match to {
        ElementType::Float16 => f16::from_f32(v).to_f32(),
        ElementType::Bfloat16 => bf16::from_f32(v).to_f32(),
        _ => v,
    }
}

fn round_integer(v: i64, to: ElementType) -> f32 {
    match to {
        ElementType::Float16 => f16::from_f64(v as f64).to_f32(),
        ElementType::Bfloat16 => bf16::from_f64(v as f64).to_f32(),
        _ => v as f32,
    }
}

/// The value as it is read back from an integer type (two's complement); `None` for types that are not followed.
fn wrap(v: i64, to: ElementType) -> Option<i64> {
    Some(match to {
        ElementType::Int64 => v,
        ElementType::Int32 => (v as i32).into(),
        ElementType::Int16 => (v as i16).into(),
        ElementType::Int8 => (v as i8).into(),
        ElementType::Uint32 => (v as u32).into(),
        ElementType::Uint16 => (v as u16).into(),
        ElementType::Uint8 => (v as u8).into(),
        ElementType::Bool => (v != 0).into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const OPERATORS: [&str; 19] = [
        "DequantizeLinear",
        "Identity",
        "Transpose",
        "Cast",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Flatten",
        "Slice",
        "Concat",
        "Gather",
        "Split",
        "Expand",
        "Shape",
        "ConstantOfShape",
        "Add",
        "Mul",
        "Div",
        "MatMul",
    ];

    /// Numbers at which index arithmetic goes wrong.
    fn number() -> impl Strategy<Value = i64> {
        select(vec![i64::MIN, -(1 << 33), -4, -3, -2, -1, 0, 1, 2, 3, 4, 9, 1 << 33, i64::MAX])
    }

    fn constant() -> impl Strategy<Value = Option<Constant>> {
        let numbers = vec(number(), 0..4).prop_map(|v| Some(Constant::vector(v)));
        let array = vec(0usize..4, 0..4).prop_map(|shape| {
            let values = (0..shape.iter().product::<usize>()).map(|i| i as f32 - 3.0).collect();
            let array = ndarray::Array::from_shape_vec(IxDyn(&shape), values).expect("as many values");
            Some(Constant { element: ElementType::Float, data: Data::Float(array.into_shared()) })
        });
        prop_oneof![1 => Just(None), 4 => numbers, 4 => array]
    }

    fn attribute() -> impl Strategy<Value = AttributeProto> {
        let names = ["axis", "axes", "perm", "starts", "ends", "split", "to", "allowzero", "start", "end", "shape"];
        (select(names.to_vec()), number(), vec(number(), 0..4)).prop_map(|(name, i, ints)| AttributeProto {
            name: Some(name.to_owned()),
            i: Some(i),
            ints,
            ..Default::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Whatever a file says, folding ends in a value of checked size or in a reason.
        #[test]
        fn no_node_makes_folding_panic(
            op in select(OPERATORS.to_vec()),
            opset in 1i64..24,
            inputs in vec(constant(), 0..6),
            attribute in vec(attribute(), 0..6),
            outputs in 0usize..4,
            output in 0usize..4,
        ) {
            let output_names = vec![String::new(); outputs];
            let op_type = Some(op.to_owned());
            let node = NodeProto { op_type, attribute, output: output_names, ..Default::default() };
            let mut budget = Budget { left: 1 << 16 };
            if let Ok(found) = (Operation { node: &node, opset, inputs, budget: &mut budget }).fold(output) {
                prop_assert!(checked_product(found.shape()).is_some_and(|n| n <= 1 << 16));
            }
        }
    }

    #[test]
    fn slices_are_clamped_as_specified() {
        // numpy: start, end, step of a list of 10, and what is left
        let cases: [(i64, i64, i64, &[i64]); 10] = [
            (0, 3, 1, &[0, 1, 2]),
            (-3, i64::MAX, 1, &[7, 8, 9]),
            (1, 8, 3, &[1, 4, 7]),
            (20, 30, 1, &[]),
            (5, 2, 1, &[]),
            (-1, i64::MIN, -1, &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
            (8, 1, -3, &[8, 5, 2]),
            (99, 6, -1, &[9, 8, 7]),
            (2, 2, -1, &[]),
            (9, 0, -4, &[9, 5, 1]),
        ];
        for (start, end, step, expected) in cases {
            let mut line = ndarray::Array1::from_iter(0..10i64);
            line.slice_axis_inplace(Axis(0), slice_part(10, start, end, step).unwrap());
            assert_eq!(line.to_vec(), expected, "[{start}:{end}:{step}]");
        }
        assert!(slice_part(10, 0, 1, 0).is_err());
    }

    #[test]
    fn integers_are_dequantised_by_axis() {
        let integers = |shape: &[usize], values: &[i64]| Constant {
            element: ElementType::Int8,
            data: Data::Integer(ArcArray::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap()),
        };
        let floats = |shape: &[usize], values: &[f32]| Constant {
            element: ElementType::Float,
            data: Data::Float(ArcArray::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap()),
        };
        let dequantize = |axis: i64, inputs: Vec<Constant>| {
            let attribute = vec![AttributeProto { name: Some("axis".to_owned()), i: Some(axis), ..Default::default() }];
            let node = NodeProto { op_type: Some("DequantizeLinear".into()), attribute, ..Default::default() };
            let inputs = inputs.into_iter().map(Some).collect();
            (Operation { node: &node, opset: 13, inputs, budget: &mut Budget { left: 99 } }).fold(0)
        };
        let x = || integers(&[2, 3], &[-128, 0, 1, 2, 3, 127]);
        let scales = || floats(&[3], &[1.0, 0.5, 2.0]);
        let one = dequantize(1, vec![x(), floats(&[], &[0.5]), integers(&[], &[1])]).unwrap();
        assert_eq!(one, floats(&[2, 3], &[-64.5, -0.5, 0.0, 0.5, 1.0, 63.0]));
        let columns = dequantize(-1, vec![x(), scales(), integers(&[3], &[0, 1, 0])]).unwrap();
        assert_eq!(columns, floats(&[2, 3], &[-128.0, -0.5, 2.0, 2.0, 1.0, 254.0]));
        let rows = dequantize(0, vec![x(), floats(&[2], &[1.0, 10.0])]).unwrap();
        assert_eq!(rows, floats(&[2, 3], &[-128.0, 0.0, 1.0, 20.0, 30.0, 1270.0]));
        assert!(dequantize(0, vec![x(), scales()]).is_err());
        assert!(dequantize(5, vec![x(), scales()]).is_err());
        assert!(dequantize(1, vec![floats(&[1], &[1.0]), scales()]).is_err());
    }

    #[test]
    fn casts_round_once_and_wrap() {
        let cast = |values: &[f32], to| {
            let data = Data::Float(ArcArray::from_vec(values.to_vec()).into_dyn());
            convert(&Constant { element: ElementType::Float, data }, to).map(|c| c.data)
        };
        let floats = |v: &[f32]| Some(Data::Float(ArcArray::from_vec(v.to_vec()).into_dyn()));
        assert_eq!(cast(&[0.1, 65520.0], ElementType::Float16), floats(&[0.099_975_586, f32::INFINITY]));
        assert_eq!(cast(&[0.1], ElementType::Bfloat16), floats(&[0.100_097_656]));
        assert_eq!(cast(&[1.9, -1.9], ElementType::Int8), Some(Constant::vector(vec![1, -1]).data));
        assert_eq!(cast(&[300.0], ElementType::Int8), None, "undefined by the specification");
        assert_eq!(wrap(200, ElementType::Int8), Some(-56));
    }
}
