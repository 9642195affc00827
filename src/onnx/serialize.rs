//! Messages to bytes, without a second copy of the weights.
//!
//! prost encodes into memory, which for a model means its whole size again. Here nodes and initializers are encoded one
//! by one, and the payload of an initializer goes straight from its buffer to the file. The bytes are exactly those of
//! prost: fields in the order of their numbers. The messages taken apart are named field by field, so that a new field
//! of the schema cannot be forgotten: it does not compile.

use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::proto::{GraphProto, ModelProto, TensorProto};
use crate::error::{self, Error, ErrorKind, Result};

/// Writes a model.
///
/// # Errors
/// [`Io`](ErrorKind::Io).
pub(super) fn model(model: &ModelProto, out: &mut dyn Write) -> Result<()> {
    let ModelProto {
        ir_version,
        producer_name,
        producer_version,
        domain,
        model_version,
        doc_string,
        graph: main_graph,
        opset_import,
        metadata_props,
        training_info,
        functions,
        configuration,
    } = model;
    let head = ModelProto {
        ir_version: *ir_version,
        producer_name: producer_name.clone(),
        producer_version: producer_version.clone(),
        domain: domain.clone(),
        model_version: *model_version,
        doc_string: doc_string.clone(),
        ..Default::default()
    };
    let tail = ModelProto {
        opset_import: opset_import.clone(),
        metadata_props: metadata_props.clone(),
        training_info: training_info.clone(),
        functions: functions.clone(),
        configuration: configuration.clone(),
        ..Default::default()
    };
    write(&head.encode_to_vec(), out)?;
    if let Some(main_graph) = main_graph {
        prefix(7, main_graph.encoded_len(), out)?;
        graph(main_graph, out)?;
    }
    write(&tail.encode_to_vec(), out)
}

fn graph(graph: &GraphProto, out: &mut dyn Write) -> Result<()> {
    let GraphProto {
        node,
        name,
        initializer,
        doc_string,
        input,
        output,
        value_info,
        quantization_annotation,
        sparse_initializer,
        metadata_props,
    } = graph;
    for node in node {
        prefix(1, node.encoded_len(), out)?;
        write(&node.encode_to_vec(), out)?;
    }
    write(&GraphProto { name: name.clone(), ..Default::default() }.encode_to_vec(), out)?;
    for initializer in initializer {
        prefix(5, initializer.encoded_len(), out)?;
        tensor(initializer, out)?;
    }
    let tail = GraphProto {
        doc_string: doc_string.clone(),
        input: input.clone(),
        output: output.clone(),
        value_info: value_info.clone(),
        quantization_annotation: quantization_annotation.clone(),
        sparse_initializer: sparse_initializer.clone(),
        metadata_props: metadata_props.clone(),
        ..Default::default()
    };
    write(&tail.encode_to_vec(), out)
}

fn tensor(tensor: &TensorProto, out: &mut dyn Write) -> Result<()> {
    let TensorProto {
        dims,
        data_type,
        segment,
        float_data,
        int32_data,
        string_data,
        int64_data,
        name,
        raw_data,
        double_data,
        uint64_data,
        doc_string,
        external_data,
        data_location,
        metadata_props,
    } = tensor;
    let head = TensorProto {
        dims: dims.clone(),
        data_type: *data_type,
        segment: *segment,
        float_data: float_data.clone(),
        int32_data: int32_data.clone(),
        string_data: string_data.clone(),
        int64_data: int64_data.clone(),
        name: name.clone(),
        ..Default::default()
    };
    let tail = TensorProto {
        double_data: double_data.clone(),
        uint64_data: uint64_data.clone(),
        doc_string: doc_string.clone(),
        external_data: external_data.clone(),
        data_location: *data_location,
        metadata_props: metadata_props.clone(),
        ..Default::default()
    };
    write(&head.encode_to_vec(), out)?;
    if let Some(raw) = raw_data {
        prefix(9, raw.len(), out)?;
        write(raw, out)?;
    }
    write(&tail.encode_to_vec(), out)
}

/// Bytes of a message in a file, without its key and length.
pub fn message_bytes(message: &impl Message) -> i64 {
    message.encoded_len() as i64
}

/// Bytes of a field that holds `length` bytes: its key, if its number is below 16, its length and itself.
pub fn field_bytes(length: i64) -> i64 {
    let written = u64::try_from(length).unwrap_or(0);
    1 + encoded_len_varint(written) as i64 + length
}

/// Key and length of a field that holds `length` bytes.
fn prefix(field: u32, length: usize, out: &mut dyn Write) -> Result<()> {
    let mut bytes = Vec::with_capacity(16);
    encode_key(field, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    write(&bytes, out)
}

fn write(bytes: &[u8], out: &mut dyn Write) -> Result<()> {
    out.write_all(bytes).map_err(|e| Error::new(ErrorKind::Io, error::words(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_prost() {
        let entry = super::super::proto::StringStringEntryProto { key: Some("k".into()), value: None };
        let tensor = TensorProto {
            dims: vec![2, 300],
            data_type: Some(1),
            name: Some("t".into()),
            raw_data: Some(vec![1; 2400].into()),
            float_data: vec![1.0],
            uint64_data: vec![9],
            external_data: vec![entry.clone()],
            ..Default::default()
        };
        let graph = GraphProto {
            node: vec![Default::default(); 2],
            name: Some("g".into()),
            initializer: vec![tensor, Default::default()],
            metadata_props: vec![entry.clone()],
            ..Default::default()
        };
        let proto = ModelProto {
            ir_version: Some(8),
            doc_string: Some(String::new()),
            graph: Some(graph),
            metadata_props: vec![entry],
            functions: vec![Default::default()],
            ..Default::default()
        };
        let mut out = Vec::new();
        model(&proto, &mut out).unwrap();
        assert_eq!(out, proto.encode_to_vec());
    }
}
