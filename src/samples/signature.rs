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
pub enum Dim {
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
    pub dims: Option<Vec<Dim>>,
}

/// The inputs that a caller must give and the outputs, in the graph's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Graph inputs without a default (an initializer of the same name).
    pub inputs: Vec<Port>,
    /// Graph outputs.
    pub outputs: Vec<Port>,
    /// What looks like states that the caller hands on from one call to the next.
    pub states: Vec<Carry>,
}

impl Signature {
    /// Reads it from a model.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for an input that is not a tensor (a sequence, a map, an optional).
    pub fn of(model: &Model) -> Result<Signature> {
        let Some(graph) = &model.proto.graph else { return Ok(Signature::default()) };
        let defaults: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        let inputs = graph.input.iter().filter(|i| !defaults.contains(i.name())).map(Port::of);
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        // An output of another type is not judged; that is found out when the model is run.
        let outputs: Vec<_> =
            graph.output.iter().map(|o| Port::of(o).unwrap_or_else(|_| Port::undeclared(o))).collect();
        let states = state::guess(model, &inputs, &outputs);
        Ok(Signature { inputs, outputs, states })
    }

    /// Reads it from a model, to be shown: an input that is not a tensor is one of undefined type.
    pub fn shown(model: &Model) -> Signature {
        let Some(graph) = &model.proto.graph else { return Signature::default() };
        let defaults: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        let port = |info: &ValueInfoProto| Port::of(info).unwrap_or_else(|_| Port::undeclared(info));
        let inputs: Vec<_> = graph.input.iter().filter(|i| !defaults.contains(i.name())).map(port).collect();
        let outputs: Vec<_> = graph.output.iter().map(port).collect();
        let states = state::guess(model, &inputs, &outputs);
        Signature { inputs, outputs, states }
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|p| p.name == name)
    }
}

impl Port {
    fn of(info: &ValueInfoProto) -> Result<Port> {
        let fail = |what: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("{what}, but only tensors can be given"))
                .at_tensor(info.name()))
        };
        let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => tensor,
            Some(_) => return fail("is a sequence, a map or an optional"),
            None => return fail("has no type"),
        };
        let element = ElementType::try_from(tensor.elem_type()).unwrap_or(ElementType::Undefined);
        let dims = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(Dim::of).collect());
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
            Some(dims) => format!("[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")),
        }
    }
}

impl Dim {
    fn of(dim: &tensor_shape_proto::Dimension) -> Dim {
        use tensor_shape_proto::dimension::Value;
        match &dim.value {
            // Exporters wrote 0 and -1 for "any" before there were symbols.
            Some(Value::DimValue(size)) if *size > 0 => usize::try_from(*size).map_or(Dim::Unknown, Dim::Size),
            Some(Value::DimParam(symbol)) if !symbol.is_empty() => Dim::Symbol(symbol.clone()),
            _ => Dim::Unknown,
        }
    }

    /// The size, where it is fixed.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Size(size) => Some(*size),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Size(size) => write!(f, "{size}"),
            Dim::Symbol(symbol) => f.write_str(symbol),
            Dim::Unknown => f.write_str("?"),
        }
    }
}
