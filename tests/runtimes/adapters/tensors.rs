//! safetensors files as the adapters exchange them: input or output name -> element type, shape and little-endian bytes.

use std::error::Error;

use serde_json::{Map, Value, json};

/// What can go wrong; its text becomes the adapter's last line.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// One array of a file.
pub struct Raw {
    /// The input or output.
    pub name: String,
    /// `F32`, `I64` and so on.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements, in C order.
    pub bytes: Vec<u8>,
}

impl Raw {
    /// The elements, `N` bytes each.
    pub fn elements<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> {
        self.bytes.chunks_exact(N).map(|chunk| chunk.try_into().expect("chunks_exact gives N bytes"))
    }
}

/// Runs an adapter with the arguments of the program: model, feeds, outputs.
pub fn main(run: impl FnOnce(&str, Vec<Raw>) -> Outcome<Vec<Raw>>) -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, feeds, outputs] = arguments.as_slice() else {
        eprintln!("usage: ADAPTER MODEL FEEDS OUTPUTS");
        return 2.into();
    };
    match read(feeds).and_then(|feeds| run(model, feeds)).and_then(|values| write(outputs, &values)) {
        Ok(()) => 0.into(),
        Err(error) => {
            eprintln!("{}", error.to_string().replace('\n', " "));
            1.into()
        }
    }
}

fn read(path: &str) -> Outcome<Vec<Raw>> {
    let file = std::fs::read(path)?;
    let begin = 8 + u64::from_le_bytes(file[..8].try_into()?) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..begin])?;
    let raw = |(name, entry): (String, Value)| {
        let numbers = |key: &str| entry[key].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let offsets: Vec<usize> = numbers("data_offsets").map(|n| begin + n as usize).collect();
        Raw {
            name,
            dtype: entry["dtype"].as_str().unwrap_or_default().into(),
            shape: numbers("shape").map(|n| n as usize).collect(),
            bytes: file[offsets[0]..offsets[1]].to_vec(),
        }
    };
    Ok(header.into_iter().map(raw).collect())
}

fn write(path: &str, values: &[Raw]) -> Outcome<()> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Raw { name, dtype, shape, bytes } in values {
        let end = data.len() + bytes.len();
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [data.len(), end] }));
        data.extend(bytes);
    }
    let header = serde_json::to_vec(&header)?;
    Ok(std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat())?)
}
