//! rten, which keeps integers of 64 bits and booleans as i32: they are fed so, and written as they come.

mod tensors;

use rten::{Model, Value};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use tensors::{Outcome, Raw};

fn main() -> std::process::ExitCode {
    tensors::main(run)
}

fn run(model: &str, feeds: Vec<Raw>) -> Outcome<Vec<Raw>> {
    let model = Model::load_file(model)?;
    let mut inputs = Vec::new();
    for feed in feeds {
        inputs.push((model.node_id(&feed.name)?, value(&feed)?.into()));
    }
    let values = model.run(inputs, model.output_ids(), None)?;
    let names = model.output_ids().iter().map(|&id| model.node_info(id).and_then(|info| info.name()).unwrap_or("?"));
    names.zip(&values).map(|(name, value)| raw(name, value)).collect()
}

fn value(feed: &Raw) -> Outcome<Value> {
    let shape = feed.shape.as_slice();
    let integers = |values: Vec<i32>| Value::from(Tensor::from_data(shape, values));
    Ok(match feed.dtype.as_str() {
        "F32" => Tensor::from_data(shape, feed.elements().map(f32::from_le_bytes).collect::<Vec<_>>()).into(),
        "I64" => integers(feed.elements().map(|e| i64::from_le_bytes(e) as i32).collect()),
        "I32" => integers(feed.elements().map(i32::from_le_bytes).collect()),
        "U8" => Value::from(Tensor::from_data(shape, feed.bytes.clone())),
        "BOOL" => integers(feed.bytes.iter().map(|&b| b.into()).collect()),
        other => return Err(format!("rten has no type {other} (input {})", feed.name).into()),
    })
}

fn raw(name: &str, value: &Value) -> Outcome<Raw> {
    let (dtype, shape, bytes) = match value {
        Value::FloatTensor(t) => ("F32", t.shape().to_vec(), t.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Value::Int32Tensor(t) => ("I32", t.shape().to_vec(), t.iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => return Err(format!("output {name} is neither float nor i32").into()),
    };
    Ok(Raw { name: name.into(), dtype: dtype.into(), shape, bytes })
}
