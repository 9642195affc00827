//! Inputs and outputs of a model: names, element types and dimensions.
//!
//! Declared dimensions in a model file can be wrong. Numeric dimensions of inputs are checked against the samples; symbolic
//! ones accept any size.

use super::{Carry, state};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::proto::{tensor_shape_proto, type_proto};
use crate::onnx::{ElementType, Model, proto::ValueInfoProto};
use std::collections::HashSet;
use std::fmt;

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AxisSize {
    /// A fixed size.
    Size(usize),
    /// A symbolic size (`dim_param`).
    Symbol(String),
    /// Nothing is said about it.
    Unknown,
}

/// A graph input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub element: ElementType,
    /// Its dimensions; `None` where not even their number is declared.
    pub dims: Option<Vec<AxisSize>>,
}

/// A graph input that cannot be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its name.
    pub name: String,
    /// What it is: `a sequence`.
    pub what: &'static str,
    /// How many inputs without a default come before it.
    pub place: usize,
}

/// The inputs that a caller must give and the outputs, in the graph's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Graph inputs without a default (an initializer of the same name). An optional tensor is one that is given.
    pub inputs: Vec<Port>,
    /// Inputs that cannot be given.
    pub closed: Vec<Closed>,
    /// Graph outputs.
    pub outputs: Vec<Port>,
    /// What looks like states that the caller hands on from one call to the next.
    pub states: Vec<Carry>,
}

impl Signature {
    /// Reads it from a model.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an input without a type.
    pub fn of(model: &Model) -> Result<Signature> {
        let Some(graph) = &model.proto.graph else { return Ok(Signature::default()) };
        let defaults: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        let (mut inputs, mut closed) = (Vec::new(), Vec::new());
        for (place, info) in graph.input.iter().filter(|i| !defaults.contains(i.name())).enumerate() {
            match not_a_tensor(info) {
                Some(what) => closed.push(Closed { name: info.name().to_owned(), what, place }),
                None => inputs.push(Port::of(info)?),
            }
        }
        // An output of another type is not judged; that is found out when the model is run.
        let outputs: Vec<_> =
            graph.output.iter().map(|o| Port::of(o).unwrap_or_else(|_| Port::undeclared(o))).collect();
        let states = state::guess(model, &inputs, &outputs);
        Ok(Signature { inputs, closed, outputs, states })
    }

    /// Reads it from a model, to be shown: an input that is not a tensor is one of undefined type.
    pub fn shown(model: &Model) -> Signature {
        let Some(graph) = &model.proto.graph else { return Signature::default() };
        let defaults: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        let port = |info: &ValueInfoProto| Port::of(info).unwrap_or_else(|_| Port::undeclared(info));
        let inputs: Vec<_> = graph.input.iter().filter(|i| !defaults.contains(i.name())).map(port).collect();
        let outputs: Vec<_> = graph.output.iter().map(port).collect();
        let states = state::guess(model, &inputs, &outputs);
        Signature { inputs, closed: Vec::new(), outputs, states }
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// The input that is the K-th of those without a default; `None` if it cannot be given, and if there is none.
    pub fn input_at(&self, place: usize) -> Option<&Port> {
        if self.closed.iter().any(|closed| closed.place == place) {
            return None;
        }
        self.inputs.get(place - self.closed.iter().filter(|closed| closed.place < place).count())
    }

    /// Whether the input of that name cannot be given.
    pub fn is_closed(&self, name: &str) -> bool {
        self.closed.iter().any(|closed| closed.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|p| p.name == name)
    }
}

/// What a graph input is that no tensor can be given for; `None` for a tensor, an optional one, and an input without a
/// type.
pub(crate) fn not_a_tensor(info: &ValueInfoProto) -> Option<&'static str> {
    use type_proto::Value;
    match info.r#type.as_ref()?.value.as_ref()? {
        Value::TensorType(_) => None,
        Value::SequenceType(_) => Some("a sequence"),
        Value::MapType(_) => Some("a map"),
        Value::SparseTensorType(_) => Some("a sparse tensor"),
        Value::OptionalType(_) if tensor_type(info).is_some() => None,
        Value::OptionalType(_) => Some("an optional sequence"),
        Value::OpaqueType(_) => Some("of an opaque type"),
    }
}

/// The type of a tensor, or of a tensor that may be missing.
pub(crate) fn tensor_type(info: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    use type_proto::Value;
    match info.r#type.as_ref()?.value.as_ref()? {
        Value::TensorType(tensor) => Some(tensor),
        Value::OptionalType(optional) => match optional.elem_type.as_ref()?.value.as_ref()? {
            Value::TensorType(tensor) => Some(tensor),
            _ => None,
        },
        _ => None,
    }
}

impl Port {
    fn of(info: &ValueInfoProto) -> Result<Port> {
        let Some(tensor) = tensor_type(info) else {
            let message = "has no type of a tensor, but only tensors can be given";
            return Err(Error::new(ErrorKind::Unsupported, message).at_tensor(info.name()));
        };
        let element = ElementType::try_from(tensor.elem_type()).unwrap_or(ElementType::Undefined);
        let dims = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(AxisSize::of).collect());
        Ok(Port { name: info.name().to_owned(), element, dims })
    }

    fn undeclared(info: &ValueInfoProto) -> Port {
        Port { name: info.name().to_owned(), element: ElementType::Undefined, dims: None }
    }

    /// The number of axes, where it is declared.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Whether a value of this shape can be given: right rank, and right sizes where they are fixed.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.dims.as_ref().is_none_or(|dims| {
            dims.len() == shape.len() && dims.iter().zip(shape).all(|(d, &size)| d.fixed().is_none_or(|f| f == size))
        })
    }

    /// The declared shape as text: `[batch, ?, 128]`.
    pub fn shape_text(&self) -> String {
        match &self.dims {
            None => "of any rank".to_owned(),
            Some(dims) => format!("[{}]", dims.iter().map(AxisSize::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl AxisSize {
    fn of(dim: &tensor_shape_proto::Dimension) -> AxisSize {
        use tensor_shape_proto::dimension::Value;
        match &dim.value {
            // Exporters wrote 0 and -1 for "any" before there were symbols.
            Some(Value::DimValue(size)) if *size > 0 => {
                usize::try_from(*size).map_or(AxisSize::Unknown, AxisSize::Size)
            }
            Some(Value::DimParam(symbol)) if !symbol.is_empty() => AxisSize::Symbol(symbol.clone()),
            _ => AxisSize::Unknown,
        }
    }

    /// The size, where it is fixed.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            AxisSize::Size(size) => Some(*size),
            AxisSize::Symbol(_) | AxisSize::Unknown => None,
        }
    }
}

impl fmt::Display for AxisSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AxisSize::Size(size) => write!(f, "{size}"),
            AxisSize::Symbol(symbol) => f.write_str(symbol),
            AxisSize::Unknown => f.write_str("?"),
        }
    }
}
