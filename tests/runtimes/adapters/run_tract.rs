//! tract as its users call it: shapes from the feeds, optimised, none of dirnet's operators. An example of the main
//! package, whose engine is tract.

mod tensors;

use tensors::{Outcome, Raw};
use tract_onnx::prelude::*;

fn main() -> std::process::ExitCode {
    tensors::main(run)
}

fn run(path: &str, feeds: Vec<Raw>) -> Outcome<Vec<Raw>> {
    let mut model = tract_onnx::onnx().with_ignore_value_info(true).model_for_path(path)?;
    let mut inputs = TVec::new();
    for (index, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
        let name = &model.node(outlet.node).name;
        let value = tensor(feeds.iter().find(|f| &f.name == name).ok_or_else(|| format!("input {name} is not fed"))?)?;
        model.set_input_fact(index, value.datum_type().fact(value.shape()).into())?;
        inputs.push(value.into_tvalue());
    }
    let names = model.output_outlets()?.iter().map(|&outlet| model.outlet_label(outlet).unwrap_or("?").to_string());
    let names: Vec<String> = names.collect();
    let outputs = model.into_optimized()?.into_runnable()?.run(inputs)?;
    names.iter().zip(&*outputs).map(|(name, value)| raw(name, value)).collect()
}

fn tensor(feed: &Raw) -> Outcome<Tensor> {
    let shape = feed.shape.as_slice();
    Ok(match feed.dtype.as_str() {
        "F32" => Tensor::from_shape(shape, &feed.elements().map(f32::from_le_bytes).collect::<Vec<_>>())?,
        "F16" => Tensor::from_shape(shape, &feed.elements().map(f16::from_le_bytes).collect::<Vec<_>>())?,
        "I64" => Tensor::from_shape(shape, &feed.elements().map(i64::from_le_bytes).collect::<Vec<_>>())?,
        "I32" => Tensor::from_shape(shape, &feed.elements().map(i32::from_le_bytes).collect::<Vec<_>>())?,
        "BOOL" => Tensor::from_shape(shape, &feed.bytes.iter().map(|&b| b != 0).collect::<Vec<_>>())?,
        "U8" => Tensor::from_shape(shape, &feed.bytes)?,
        other => return Err(format!("input {} is of type {other}", feed.name).into()),
    })
}

fn raw(name: &str, value: &Tensor) -> Outcome<Raw> {
    let types = [
        (f32::datum_type(), "F32"),
        (f16::datum_type(), "F16"),
        (i64::datum_type(), "I64"),
        (i32::datum_type(), "I32"),
        (bool::datum_type(), "BOOL"),
        (u8::datum_type(), "U8"),
    ];
    let (_, dtype) = types
        .iter()
        .find(|(datum, _)| *datum == value.datum_type())
        .ok_or_else(|| format!("output {name} is of type {:?}", value.datum_type()))?;
    Ok(Raw { name: name.into(), dtype: dtype.to_string(), shape: value.shape().into(), bytes: value.as_bytes().into() })
}
