//! The protobuf wire format, walked before it is decoded.
//!
//! prost drops fields that it does not know, and trusts the file for how much it allocates. This walk knows the number
//! of every field of every message in `proto/onnx.proto` (a test compares the two) and refuses, by name, what would be
//! lost or would cost too much: unknown fields, truncated messages, graphs nested too deep, and a file whose many tiny
//! messages would decode to far more memory than the file has bytes.

use std::mem::size_of;

use super::proto;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// A message of the schema: the numbers of its fields by what they cost to decode.
struct Message {
    name: &'static str,
    /// Bytes of the decoded struct itself.
    size: usize,
    /// Integers and enumerations; several may be packed into one field.
    integers: &'static [u32],
    /// Floats and doubles; several may be packed into one field.
    floats: &'static [u32],
    /// Strings and bytes.
    texts: &'static [u32],
    messages: &'static [(u32, &'static Message)],
}

/// Bytes of a decoded empty string, the larger of `String` and `Bytes`.
const TEXT_SIZE: usize = size_of::<bytes::Bytes>();

/// Bytes that an integer decodes to, at most.
const INTEGER_SIZE: usize = 8;

macro_rules! messages {
    ($($ident:ident $name:literal $type:ty { $integers:tt $floats:tt $texts:tt $messages:tt })*) => {
        $(static $ident: Message = Message {
            name: $name,
            size: size_of::<$type>(),
            integers: &$integers,
            floats: &$floats,
            texts: &$texts,
            messages: &$messages,
        };)*
        #[cfg(test)]
        static ALL: &[&Message] = &[$(&$ident),*];
    };
}

// Integers, floats, texts, messages.
messages! {
    MODEL "ModelProto" proto::ModelProto {
        [1, 5] [] [2, 3, 4, 6]
        [(7, &GRAPH), (8, &OPERATOR_SET), (14, &ENTRY), (20, &TRAINING), (25, &FUNCTION), (26, &DEVICES)]
    }
    OPERATOR_SET "OperatorSetIdProto" proto::OperatorSetIdProto { [2] [] [1] [] }
    ENTRY "StringStringEntryProto" proto::StringStringEntryProto { [] [] [1, 2] [] }
    GRAPH "GraphProto" proto::GraphProto {
        [] [] [2, 10]
        [
            (1, &NODE), (5, &TENSOR), (11, &VALUE), (12, &VALUE), (13, &VALUE), (14, &ANNOTATION), (15, &SPARSE),
            (16, &ENTRY)
        ]
    }
    NODE "NodeProto" proto::NodeProto {
        [] [] [1, 2, 3, 4, 6, 7, 8]
        [(5, &ATTRIBUTE), (9, &ENTRY), (10, &NODE_DEVICES)]
    }
    ATTRIBUTE "AttributeProto" proto::AttributeProto {
        [3, 8, 20] [2, 7] [1, 4, 9, 13, 21]
        [(5, &TENSOR), (6, &GRAPH), (10, &TENSOR), (11, &GRAPH), (14, &TYPE), (15, &TYPE), (22, &SPARSE), (23, &SPARSE)]
    }
    VALUE "ValueInfoProto" proto::ValueInfoProto { [] [] [1, 3] [(2, &TYPE), (4, &ENTRY)] }
    TENSOR "TensorProto" proto::TensorProto {
        [1, 2, 5, 7, 11, 14] [4, 10] [6, 8, 9, 12]
        [(3, &SEGMENT), (13, &ENTRY), (16, &ENTRY)]
    }
    SEGMENT "TensorProto.Segment" proto::tensor_proto::Segment { [1, 2] [] [] [] }
    SPARSE "SparseTensorProto" proto::SparseTensorProto { [3] [] [] [(1, &TENSOR), (2, &TENSOR)] }
    ANNOTATION "TensorAnnotation" proto::TensorAnnotation { [] [] [1] [(2, &ENTRY)] }
    SHAPE "TensorShapeProto" proto::TensorShapeProto { [] [] [] [(1, &DIMENSION)] }
    DIMENSION "TensorShapeProto.Dimension" proto::tensor_shape_proto::Dimension { [1] [] [2, 3] [] }
    TYPE "TypeProto" proto::TypeProto {
        [] [] [6]
        [
            (1, &TYPE_TENSOR), (4, &TYPE_SEQUENCE), (5, &TYPE_MAP), (7, &TYPE_OPAQUE), (8, &TYPE_SPARSE),
            (9, &TYPE_OPTIONAL)
        ]
    }
    TYPE_TENSOR "TypeProto.Tensor" proto::type_proto::Tensor { [1] [] [] [(2, &SHAPE)] }
    TYPE_SEQUENCE "TypeProto.Sequence" proto::type_proto::Sequence { [] [] [] [(1, &TYPE)] }
    TYPE_MAP "TypeProto.Map" proto::type_proto::Map { [1] [] [] [(2, &TYPE)] }
    TYPE_OPTIONAL "TypeProto.Optional" proto::type_proto::Optional { [] [] [] [(1, &TYPE)] }
    TYPE_SPARSE "TypeProto.SparseTensor" proto::type_proto::SparseTensor { [1] [] [] [(2, &SHAPE)] }
    TYPE_OPAQUE "TypeProto.Opaque" proto::type_proto::Opaque { [] [] [1, 2] [] }
    FUNCTION "FunctionProto" proto::FunctionProto {
        [] [] [1, 4, 5, 6, 8, 10, 13]
        [(7, &NODE), (9, &OPERATOR_SET), (11, &ATTRIBUTE), (12, &VALUE), (14, &ENTRY)]
    }
    TRAINING "TrainingInfoProto" proto::TrainingInfoProto {
        [] [] []
        [(1, &GRAPH), (2, &GRAPH), (3, &ENTRY), (4, &ENTRY)]
    }
    DEVICES "DeviceConfigurationProto" proto::DeviceConfigurationProto { [2] [] [1, 3] [] }
    NODE_DEVICES "NodeDeviceConfigurationProto" proto::NodeDeviceConfigurationProto { [3] [] [1] [(2, &SHARDING)] }
    SHARDING "ShardingSpecProto" proto::ShardingSpecProto { [2] [] [1] [(3, &DEVICE_GROUP), (4, &SHARDED)] }
    DEVICE_GROUP "IntIntListEntryProto" proto::IntIntListEntryProto { [1, 2] [] [] [] }
    SHARDED "ShardedDimProto" proto::ShardedDimProto { [1] [] [] [(2, &SIMPLE_SHARDED)] }
    SIMPLE_SHARDED "SimpleShardedDimProto" proto::SimpleShardedDimProto { [1, 3] [] [2] [] }
}

/// Walks a model file.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) for what is not a whole ONNX model in the known schema,
/// [`Limit`](ErrorKind::Limit) for nesting or tiny messages beyond the limits.
pub(super) fn check_model(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, "the file is empty, not an ONNX model"));
    }
    Walk { messages: 0, graphs: 0, decoded: 0 }.message(bytes, &MODEL)
}

/// Walks a file that holds one `TensorProto`, as in `test_data_set_0/input_0.pb`. Errors as [`check_model`].
pub(super) fn check_tensor(bytes: &[u8]) -> Result<()> {
    Walk { messages: 0, graphs: 0, decoded: 0 }.message(bytes, &TENSOR)
}

/// How deep the walk is, and what decoding all that it has seen will cost beyond the file.
struct Walk {
    messages: usize,
    graphs: usize,
    decoded: usize,
}

impl Walk {
    fn message(&mut self, bytes: &[u8], message: &'static Message) -> Result<()> {
        let is_graph = std::ptr::eq(message, &GRAPH);
        self.messages += 1;
        self.graphs += usize::from(is_graph);
        if self.graphs > limits::GRAPH_DEPTH || self.messages > limits::MESSAGE_DEPTH {
            let what = if is_graph { "graphs" } else { "messages" };
            return Err(Error::new(ErrorKind::Limit, format!("{what} nested too deep, in {}", message.name)));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.field(rest, message)?;
        }
        self.messages -= 1;
        self.graphs -= usize::from(is_graph);
        Ok(())
    }

    /// Walks one field and returns what follows it.
    fn field<'b>(&mut self, bytes: &'b [u8], message: &'static Message) -> Result<&'b [u8]> {
        let truncated =
            || Error::new(ErrorKind::Malformed, format!("the file is cut off or corrupt, in {}", message.name));
        let (key, rest) = varint(bytes).ok_or_else(truncated)?;
        let number = u32::try_from(key >> 3).unwrap_or(u32::MAX);
        let nested = message.messages.iter().find(|(n, _)| *n == number).map(|(_, m)| *m);
        let is_text = message.texts.contains(&number);
        let is_integer = message.integers.contains(&number);
        if nested.is_none() && !is_text && !is_integer && !message.floats.contains(&number) {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("unknown field {number} in {}: not an ONNX model, or newer than this tool", message.name),
            ));
        }
        let delimited = key & 7 == 2;
        if (nested.is_some() || is_text) && !delimited {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("field {number} in {} has wire type {}: not an ONNX model", message.name, key & 7),
            ));
        }
        match key & 7 {
            0 => {
                self.spend(INTEGER_SIZE)?;
                varint(rest).map(|(_, rest)| rest).ok_or_else(truncated)
            }
            1 | 5 => {
                self.spend(INTEGER_SIZE)?;
                rest.get(if key & 7 == 1 { 8 } else { 4 }..).ok_or_else(truncated)
            }
            2 => {
                let (length, rest) = varint(rest).ok_or_else(truncated)?;
                let length = usize::try_from(length).ok().filter(|&n| n <= rest.len()).ok_or_else(truncated)?;
                let (body, rest) = rest.split_at(length);
                match nested {
                    Some(nested) => {
                        self.spend(nested.size)?;
                        self.message(body, nested)?;
                    }
                    None if is_text => self.spend(TEXT_SIZE)?,
                    // Packed: every integer ends in a byte below 0x80, and floats are as large here as in memory.
                    None if is_integer => self.spend(body.iter().filter(|&&b| b < 0x80).count() * INTEGER_SIZE)?,
                    None => {}
                }
                Ok(rest)
            }
            other => Err(Error::new(
                ErrorKind::Malformed,
                format!("wire type {other} in {}: not an ONNX model", message.name),
            )),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        self.decoded = self.decoded.saturating_add(bytes);
        if self.decoded as u64 > limits::DECODED_BYTES {
            return Err(Error::new(
                ErrorKind::Limit,
                "so many small fields that decoding them would take gigabytes: not a plausible model",
            ));
        }
        Ok(())
    }
}

/// Splits a base-128 varint off: at most ten bytes.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field of the schema, under the same message and kind, and no other.
    #[test]
    fn tables_match_the_schema() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let files = protox::compile([root.join("onnx.proto")], [&root]).unwrap();
        let mut schema = Vec::new();
        for message in &files.file[0].message_type {
            schema.push((message.name().to_owned(), message.clone()));
            for nested in &message.nested_type {
                schema.push((format!("{}.{}", message.name(), nested.name()), nested.clone()));
            }
        }
        assert_eq!(schema.len(), ALL.len());
        for (name, descriptor) in schema {
            let table = ALL.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} is missing"));
            let mut expected: (Vec<u32>, Vec<u32>, Vec<(u32, String)>) = Default::default();
            let mut floats = Vec::new();
            for field in &descriptor.field {
                let number = field.number() as u32;
                match field.r#type().as_str_name() {
                    "TYPE_MESSAGE" => {
                        expected.2.push((number, field.type_name().trim_start_matches(".onnx.").to_owned()));
                    }
                    "TYPE_FLOAT" | "TYPE_DOUBLE" => floats.push(number),
                    "TYPE_STRING" | "TYPE_BYTES" => expected.1.push(number),
                    _ => expected.0.push(number),
                }
            }
            floats.sort();
            expected.0.sort();
            expected.1.sort();
            expected.2.sort();
            assert_eq!((table.integers, table.floats), (&expected.0[..], &floats[..]), "{name}");
            assert_eq!(table.texts, expected.1, "{name}");
            let messages: Vec<_> = table.messages.iter().map(|(n, m)| (*n, m.name.to_owned())).collect();
            assert_eq!(messages, expected.2, "{name}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_by_number() {
        // Field 15 of ModelProto, a varint.
        let e = check_model(&[0x08, 0x08, 0x78, 0x01]).unwrap_err();
        assert!(e.to_string().contains("unknown field 15 in ModelProto"), "{e}");
    }

    #[test]
    fn every_prefix_of_a_message_ends_in_an_error_or_at_a_field() {
        let whole = [0x08, 0x96, 0x01, 0x3a, 0x04, 0x12, 0x02, b'g', b'h'];
        assert!(check_model(&whole).is_ok());
        let sound: Vec<usize> = (0..whole.len()).filter(|&n| check_model(&whole[..n]).is_ok()).collect();
        assert_eq!(sound, [3]);
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut graph: Vec<u8> = Vec::new();
        let wrap = |tag: u8, body: &[u8]| {
            let mut out = vec![tag << 3 | 2];
            prost::encoding::encode_varint(body.len() as u64, &mut out);
            out.extend_from_slice(body);
            out
        };
        for depth in 1..200 {
            let model = wrap(7, &graph);
            assert_eq!(check_model(&model).is_ok(), depth <= limits::GRAPH_DEPTH, "depth {depth}");
            graph = wrap(1, &wrap(5, &wrap(6, &graph)));
        }
    }

    #[test]
    fn swarms_of_tiny_messages_are_refused() {
        // A graph of two-byte nodes: each would decode to a hundred times its size.
        let nodes = [0x0a, 0x00].repeat(20_000_000);
        let mut model = vec![0x3a];
        prost::encoding::encode_varint(nodes.len() as u64, &mut model);
        model.extend(nodes);
        assert_eq!(check_model(&model).unwrap_err().kind(), ErrorKind::Limit);
    }
}
