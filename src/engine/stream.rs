//! Models that keep their state outside: the caller hands an output of one step back as an input of the next.

use super::{Engine, Outputs, Overrides, Tap};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::proto::tensor_shape_proto::dimension;
use crate::onnx::proto::type_proto;
use crate::onnx::{ElementType, Model};
use crate::samples::{Carry, Feed, Stream, Tensor};
use half::f16;
use ndarray::{ArrayD, Axis, IxDyn};
use std::collections::HashMap;

/// What an input of the graph is declared as; sizes that are not numbers are 1.
pub(super) type Declared = HashMap<String, (ElementType, Vec<usize>)>;

/// The declared types of the model's inputs that are tensors.
pub(super) fn declared(model: &Model) -> Declared {
    let Some(graph) = &model.proto.graph else { return Declared::new() };
    let one = |input: &crate::onnx::proto::ValueInfoProto| {
        let type_proto::Value::TensorType(tensor) = input.r#type.as_ref()?.value.as_ref()? else { return None };
        let element = ElementType::try_from(tensor.elem_type()).ok()?;
        let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
        let size = |value: &Option<dimension::Value>| match value {
            Some(dimension::Value::DimValue(n)) => usize::try_from(*n).unwrap_or(1),
            _ => 1,
        };
        Some((input.name().to_owned(), (element, dims.iter().map(|d| size(&d.value)).collect())))
    };
    graph.input.iter().filter_map(one).collect()
}

impl Engine {
    /// Runs the steps of a stream in order. Each carried input is zeros at the first step, of the declared shape with
    /// 1 for sizes that are not numbers, and from then on what the step before gave.
    ///
    /// # Errors
    /// As [`run`](Engine::run); [`ErrorKind::Usage`] where a carry names an input or output that the model does not
    /// have or a slice beyond the output.
    pub fn run_stream(
        &self,
        stream: &Stream,
        carry: &[Carry],
        overrides: &Overrides,
        tap: Option<&dyn Tap>,
    ) -> Result<Vec<Outputs>> {
        let mut state = Feed::new();
        for c in carry.iter().filter(|c| stream.feeds.first().is_some_and(|feed| !feed.contains_key(&c.input))) {
            state.insert(c.input.clone(), self.zeros(&c.input)?);
        }
        let mut steps = Vec::with_capacity(stream.feeds.len());
        for feed in &stream.feeds {
            let mut whole = state.clone();
            whole.extend(feed.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
            let outputs = self.run_with(&whole, overrides, tap)?;
            for c in carry {
                state.insert(c.input.clone(), carried(c, &outputs)?);
            }
            steps.push(outputs);
        }
        Ok(steps)
    }

    fn zeros(&self, input: &str) -> Result<Tensor> {
        let Some((element, shape)) = self.declared.get(input) else {
            return Err(usage("the model has no such input to carry a state into").at_tensor(input));
        };
        let shape = IxDyn(shape);
        Ok(match element {
            ElementType::Float => ArrayD::<f32>::zeros(shape).into(),
            ElementType::Float16 => ArrayD::from_elem(shape, f16::ZERO).into(),
            ElementType::Double => ArrayD::<f64>::zeros(shape).into(),
            ElementType::Int8 => ArrayD::<i8>::zeros(shape).into(),
            ElementType::Uint8 => ArrayD::<u8>::zeros(shape).into(),
            ElementType::Int16 => ArrayD::<i16>::zeros(shape).into(),
            ElementType::Uint16 => ArrayD::<u16>::zeros(shape).into(),
            ElementType::Int32 => ArrayD::<i32>::zeros(shape).into(),
            ElementType::Uint32 => ArrayD::<u32>::zeros(shape).into(),
            ElementType::Int64 => ArrayD::<i64>::zeros(shape).into(),
            ElementType::Uint64 => ArrayD::<u64>::zeros(shape).into(),
            ElementType::Bool => ArrayD::from_elem(shape, false).into(),
            other => {
                return Err(
                    usage(format!("a state of type {} cannot be carried", other.as_str_name())).at_tensor(input)
                );
            }
        })
    }
}

fn carried(carry: &Carry, outputs: &Outputs) -> Result<Tensor> {
    let Some((_, output)) = outputs.iter().find(|(name, _)| *name == carry.output) else {
        let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        return Err(
            usage(format!("not an output of the model; its outputs are {}", names.join(", "))).at_tensor(&carry.output)
        );
    };
    let Some(range) = &carry.range else { return Ok(output.clone()) };
    if output.shape().first().is_none_or(|&rows| range.end > rows) {
        let message = format!("the slice [{}:{}] is beyond the shape {:?}", range.start, range.end, output.shape());
        return Err(usage(message).at_tensor(&carry.output));
    }
    macro_rules! sliced {
        ($($variant:ident),*) => {
            match output {
                $(Tensor::$variant(a) => {
                    a.slice_axis(Axis(0), ndarray::Slice::from(range.clone())).to_owned().into()
                })*
            }
        };
    }
    Ok(sliced!(Float, Float16, Double, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool))
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}
