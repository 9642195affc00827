//! A model file (`ModelProto`): load, read, save.
//!
//! The file is read once into one buffer, and tensors with `raw_data` are slices of it: loading costs the size of the
//! file and little more, cloning a model copies no weights. Values in side files stay there until they are asked for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ndarray::{ArrayD, IxDyn};
use prost::Message;

use super::external_data::{self, Place, io, same_file};
use super::graph::{self, Values, is_standard};
use super::proto::{ModelProto, TensorProto};
use super::tensor::{self, ElementType, is_external};
use super::{atomic, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// How tolerant [`Model::load`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Try models of a newer operator set or IR version than this crate was checked with.
    pub allow_newer: bool,
}

/// A model, and where it came from.
#[derive(Clone, Debug)]
pub struct Model {
    /// The decoded messages. Their graphs are edited by [`Rewriter`](super::Rewriter) only.
    pub proto: ModelProto,
    path: Option<PathBuf>,
    bytes: u64,
}

impl Model {
    /// Loads a model file and checks it.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), [`Malformed`](ErrorKind::Malformed) for a file that is no sound ONNX model,
    /// [`Limit`](ErrorKind::Limit), or [`Unsupported`](ErrorKind::Unsupported) for a newer version; all name the file.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        let load = || {
            let bytes = read_whole(path)?;
            Self::decode(bytes, Some(path.to_owned()), options)
        };
        load().map_err(|e| e.in_file(path))
    }

    /// Decodes a model from memory and checks it. Values in side files cannot be read.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(bytes: Bytes, options: &LoadOptions) -> Result<Self> {
        Self::decode(bytes, None, options)
    }

    /// Takes messages that were built in memory, and checks them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_proto(proto: ModelProto, options: &LoadOptions) -> Result<Self> {
        let bytes = proto.encoded_len() as u64;
        let model = Model { proto, path: None, bytes };
        model.check(options)?;
        Ok(model)
    }

    fn decode(bytes: Bytes, path: Option<PathBuf>, options: &LoadOptions) -> Result<Self> {
        wire::check_model(&bytes)?;
        let length = bytes.len() as u64;
        let proto = ModelProto::decode(bytes)
            .map_err(|e| Error::new(ErrorKind::Malformed, format!("not an ONNX model: {e}")))?;
        let mut model = Model { proto, path, bytes: length };
        model.check(options)?;
        model.bytes += model.check_external()?;
        Ok(model)
    }

    /// The file that the model was loaded from.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Bytes of the model's file and of the side files that it names, as loaded.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Version of the standard operator set; 1 for a model from before there were versions.
    pub fn opset(&self) -> i64 {
        let imports = self.proto.opset_import.iter();
        imports.filter(|o| is_standard(o.domain())).map(|o| o.version()).max().unwrap_or(1)
    }

    /// Version of the intermediate representation.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// The values of a tensor as little-endian bytes, wherever they are stored; not copied if they are in `raw_data`.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) if they do not match dimensions and element type, or their side file is not
    /// where one may be; [`Io`](ErrorKind::Io).
    pub fn payload(&self, tensor: &TensorProto) -> Result<Bytes> {
        if !is_external(tensor) {
            return tensor::inline_payload(tensor);
        }
        external_data::open(self.directory(), tensor, Some(tensor::payload_bytes(tensor)?))?.read()
    }

    /// The values of a float, float16, bfloat16 or double tensor.
    ///
    /// # Errors
    /// As [`payload`](Self::payload); [`Unsupported`](ErrorKind::Unsupported) for other types.
    pub fn floats(&self, tensor: &TensorProto) -> Result<ArrayD<f32>> {
        self.array(tensor, "floats", tensor::floats)
    }

    /// The values of an integer or boolean tensor.
    ///
    /// # Errors
    /// As [`payload`](Self::payload); [`Unsupported`](ErrorKind::Unsupported) for other types.
    pub fn integers(&self, tensor: &TensorProto) -> Result<ArrayD<i64>> {
        self.array(tensor, "integers", tensor::integers)
    }

    fn array<T>(
        &self,
        tensor: &TensorProto,
        wanted: &str,
        read: impl Fn(ElementType, &[u8]) -> Option<Vec<T>>,
    ) -> Result<ArrayD<T>> {
        let shape = tensor::shape(tensor)?;
        let elements = tensor::element_count(&tensor.dims)?;
        if elements > limits::TENSOR_ELEMENTS {
            return Err(Error::new(ErrorKind::Limit, format!("{elements} elements are more than this tool decodes"))
                .at_tensor(tensor.name()));
        }
        let element = ElementType::of(tensor)?;
        let values = read(element, &self.payload(tensor)?).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("values of type {} do not read as {wanted}", element.as_str_name()),
            )
            .at_tensor(tensor.name())
        })?;
        Ok(ArrayD::from_shape_vec(IxDyn(&shape), values).expect("the payload's length was checked against the shape"))
    }

    /// The messages with every side file's values inlined: what an engine needs that is given bytes.
    ///
    /// # Errors
    /// As [`payload`](Self::payload); [`Limit`](ErrorKind::Limit) if the result is more than a message can hold.
    pub fn self_contained(&self) -> Result<ModelProto> {
        let mut proto = self.proto.clone();
        let mut total = self.proto.encoded_len() as u64;
        graph::for_each_tensor_mut(&mut proto, &mut |tensor| {
            if !is_external(tensor) {
                return Ok(());
            }
            total = total.saturating_add(tensor::payload_bytes(tensor)?);
            if total > limits::PROTOBUF_BYTES {
                return Err(Error::new(ErrorKind::Limit, "with its side files the model exceeds 2 GiB"));
            }
            tensor.raw_data = Some(self.payload(tensor)?);
            tensor.external_data.clear();
            tensor.data_location = None;
            Ok(())
        })?;
        Ok(proto)
    }

    /// Fails if [`save`](Self::save) would refuse to write to `path`; to be asked before long work.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) if the target is this model's own file or side file, a directory, a link, a device,
    /// or in no directory.
    pub fn check_target(&self, path: &Path) -> Result<()> {
        atomic::check_target(path)?;
        for own in self.own_files() {
            for target in [path.to_owned(), side_path(path)] {
                if let (Ok(a), Ok(b)) = (own.metadata(), target.metadata())
                    && (same_file(&a, &b) && canonical_equal(&own, &target) || cfg!(unix) && same_file(&a, &b))
                {
                    return Err(
                        Error::new(ErrorKind::Usage, "this is the input; choose another output file").in_file(target)
                    );
                }
            }
        }
        Ok(())
    }

    /// Writes the model atomically and returns the bytes written. Values that are in side files, and all large ones if
    /// the model would exceed what a message can hold, go to `<path>.data`.
    ///
    /// # Errors
    /// As [`check_target`](Self::check_target); [`Io`](ErrorKind::Io), and then no partial file stays.
    pub fn save(&self, path: &Path) -> Result<u64> {
        self.check_target(path)?;
        let too_large = self.proto.encoded_len() as u64 > limits::PROTOBUF_BYTES;
        let mut any = too_large;
        graph::for_each_tensor(&self.proto, |t| any |= is_external(t));
        if !any {
            return write_message(path, &self.proto);
        }
        let side = side_path(path);
        let name = side
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| {
                Error::new(ErrorKind::Usage, "the file name is not UTF-8, but the model must name its side file")
                    .in_file(path)
            })?
            .to_owned();
        let mut proto = self.proto.clone();
        let side_bytes = atomic::write(&side, |out| {
            let mut end = 0u64;
            graph::for_each_tensor_mut(&mut proto, &mut |tensor| {
                if is_external(tensor) || too_large && tensor::stored_bytes(tensor) >= MOVED_BYTES {
                    end = self.move_out(tensor, &name, end, out)?;
                }
                Ok(())
            })
        })?;
        Ok(side_bytes + write_message(path, &proto)?)
    }

    /// Appends a tensor's values to the side file, of which `end` bytes are written, and returns its new end.
    fn move_out(&self, tensor: &mut TensorProto, name: &str, end: u64, out: &mut dyn std::io::Write) -> Result<u64> {
        let failed = |e: std::io::Error| Error::new(ErrorKind::Io, e.to_string());
        let need = tensor::payload_bytes(tensor).ok();
        let source = if is_external(tensor) {
            Err(external_data::open(self.directory(), tensor, need)?)
        } else {
            Ok(tensor::inline_payload(tensor)?)
        };
        let length = source.as_ref().map_or_else(|range| range.length(), |bytes| bytes.len() as u64);
        let align = if length >= PAGE_ALIGNED_BYTES { PAGE } else { LINE };
        let offset = end.next_multiple_of(align);
        out.write_all(&vec![0; (offset - end) as usize]).map_err(failed)?;
        match source {
            Ok(bytes) => out.write_all(&bytes).map_err(failed)?,
            Err(range) => range.for_each_chunk(|chunk| out.write_all(chunk).map_err(failed))?,
        }
        Place { location: name.to_owned(), offset, length: Some(length) }.write_to(tensor);
        Ok(offset + length)
    }

    fn directory(&self) -> Option<&Path> {
        self.path.as_ref().map(|p| p.parent().unwrap_or(Path::new("")))
    }

    /// The files that must not be written to.
    fn own_files(&self) -> Vec<PathBuf> {
        let mut files: BTreeSet<PathBuf> = self.path.iter().cloned().collect();
        if let Some(directory) = self.directory() {
            graph::for_each_tensor(&self.proto, |tensor| {
                if let (true, Ok(place)) = (is_external(tensor), Place::of(tensor)) {
                    files.insert(directory.join(place.location));
                }
            });
        }
        files.into_iter().collect()
    }

    fn check(&self, options: &LoadOptions) -> Result<()> {
        if self.proto.graph.is_none() {
            return Err(Error::new(ErrorKind::Malformed, "there is no graph in it: not an ONNX model"));
        }
        if !options.allow_newer {
            newer("IR version", self.ir_version(), limits::IR_VERSION)?;
            newer("operator set", self.opset(), limits::OPSET)?;
        }
        self.check_graphs()
    }

    /// Names are unique and defined, and nothing depends on itself.
    pub(super) fn check_graphs(&self) -> Result<()> {
        Values::new(&self.proto)?.check_acyclic(&self.proto)
    }

    /// Every tensor in a side file has a sound place; returns the bytes of all side files.
    fn check_external(&self) -> Result<u64> {
        let mut files = BTreeSet::new();
        let mut first_error = None;
        graph::for_each_tensor(&self.proto, |tensor| {
            if !is_external(tensor) || first_error.is_some() || self.directory().is_none() {
                return;
            }
            let check = || {
                let place = Place::of(tensor)?;
                external_data::open(self.directory(), tensor, tensor::payload_bytes(tensor).ok())?;
                Ok(place.location)
            };
            match check() {
                Ok(location) => {
                    files.insert(location);
                }
                Err(e) => first_error = Some(e),
            }
        });
        if let Some(e) = first_error {
            return Err(e);
        }
        let directory = self.directory().unwrap_or(Path::new(""));
        files.iter().map(|location| external_data::confined(directory, location).map(|(_, m)| m.len())).sum()
    }
}

/// Smallest tensor that leaves a message which is too large.
const MOVED_BYTES: u64 = 1024;

/// Tensors in a side file start at a page, so that readers may map them; small ones at a cache line, to waste nothing.
const PAGE: u64 = 4096;
const LINE: u64 = 64;
const PAGE_ALIGNED_BYTES: u64 = 1 << 20;

fn newer(what: &str, found: i64, known: i64) -> Result<()> {
    if found <= known {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("{what} {found} is newer than {known}, the newest that this tool knows (--allow-newer to try)"),
    ))
}

/// `<path>.data`, where the values that do not fit the model's file go.
pub fn side_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".data");
    name.into()
}

fn canonical_equal(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn read_whole(path: &Path) -> Result<Bytes> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let metadata = path.metadata().map_err(|e| io(&e, path))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Malformed, "not a regular file"));
    }
    let too_large =
        || Error::new(ErrorKind::Limit, "larger than 2 GiB, which a model file without side files cannot be");
    if metadata.len() > limits::PROTOBUF_BYTES {
        return Err(too_large());
    }
    let mut buffer = Vec::with_capacity(metadata.len() as usize + 1);
    let file = File::open(path).map_err(|e| io(&e, path))?;
    file.take(limits::PROTOBUF_BYTES + 1).read_to_end(&mut buffer).map_err(|e| io(&e, path))?;
    if buffer.len() as u64 > limits::PROTOBUF_BYTES {
        return Err(too_large());
    }
    Ok(buffer.into())
}

fn write_message(path: &Path, proto: &ModelProto) -> Result<u64> {
    if proto.encoded_len() as u64 > limits::PROTOBUF_BYTES {
        return Err(Error::new(ErrorKind::Limit, "the model's structure alone exceeds 2 GiB").in_file(path));
    }
    atomic::write(path, |out| {
        out.write_all(&proto.encode_to_vec()).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))
    })
}

/// Decodes a file that holds one tensor, as in `test_data_set_0/input_0.pb`.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed).
pub fn decode_tensor(bytes: Bytes) -> Result<TensorProto> {
    wire::check_tensor(&bytes)?;
    TensorProto::decode(bytes).map_err(|e| Error::new(ErrorKind::Malformed, format!("not an ONNX tensor: {e}")))
}
