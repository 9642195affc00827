//! A model file (`ModelProto`): load, read, save.
//!
//! The file is read once into one buffer, and tensors with `raw_data` are slices of it: loading costs the size of the
//! file and little more, cloning a model copies no weights. Values in side files stay there until they are asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ndarray::{ArrayD, IxDyn};
use prost::Message;

use super::external_data::{self, DataRange, io};
use super::graph::{self, Definition, Origin, Values, is_standard};
use super::proto::{ModelProto, TensorProto};
use super::tensor::{self, ElementType, is_external};
use super::{atomic, foreign, serialize, wire};
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
    /// The decoded messages. What they compute is edited by [`Rewriter`](super::Rewriter) only; names, documentation and the
    /// fields that hold values by `lossless` too.
    pub proto: ModelProto,
    path: Option<PathBuf>,
    /// The file and its side files as loaded: never written to, whatever becomes of the messages.
    own_files: Vec<PathBuf>,
    bytes: u64,
}

impl<'m> From<&'m Model> for Cow<'m, Model> {
    fn from(model: &'m Model) -> Self {
        Cow::Borrowed(model)
    }
}

impl Model {
    /// Loads a model file and checks it.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io), [`Malformed`](ErrorKind::Malformed) for a file that is no sound ONNX model,
    /// [`Limit`](ErrorKind::Limit), or [`Unsupported`](ErrorKind::Unsupported) for a newer version; all name the file.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        let loaded = read_whole(path).and_then(|bytes| Self::decode(bytes, Some(path.to_owned()), options));
        loaded.map_err(|error| match foreign::recognised_file(path) {
            Some(kind) => Error::new(ErrorKind::Malformed, format!("not an ONNX model: it is {kind}")).in_file(path),
            None => error.in_file(path),
        })
    }

    /// Loads a model file of a version that this crate knows; [`load`](Self::load) has options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::load(path.as_ref(), &LoadOptions::default())
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
        let model = Model { proto, path: None, own_files: Vec::new(), bytes };
        model.check(options)?;
        Ok(model)
    }

    fn decode(bytes: Bytes, path: Option<PathBuf>, options: &LoadOptions) -> Result<Self> {
        wire::check_model(&bytes)?;
        let length = bytes.len() as u64;
        let proto = ModelProto::decode(bytes)
            .map_err(|e| Error::new(ErrorKind::Malformed, format!("not an ONNX model: {e}")))?;
        let own_files = path.iter().cloned().collect();
        let mut model = Model { proto, path, own_files, bytes: length };
        model.check(options)?;
        for (side_file, bytes) in model.check_external()? {
            model.own_files.push(side_file);
            model.bytes += bytes;
        }
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

    /// Makes [`bytes`](Self::bytes) those of the messages as they are now, when [`save`](Self::save) would write them.
    ///
    /// # Errors
    /// As [`saved_bytes`](Self::saved_bytes).
    pub fn measure(&mut self) -> Result<()> {
        self.bytes = self.saved_bytes()?;
        Ok(())
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
        let elements = tensor::element_count(&tensor.dims).map_err(|e| e.at_tensor(tensor.name()))?;
        if elements > limits::TENSOR_ELEMENTS {
            return Err(Error::new(ErrorKind::Limit, format!("{elements} elements are more than this tool reads"))
                .at_tensor(tensor.name()));
        }
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

    /// A copy in which these initializers, defined as [`Values::resolve`] says, are a single zero:
    /// for who needs the graph but has the values from elsewhere.
    pub fn without(&self, initializers: &[Definition]) -> Self {
        self.with_initializers(initializers, |_, tensor| *tensor = tensor::float(tensor.name(), &[], &[0.0]))
    }

    /// A copy in which `change` has changed the tensors of some initializers, by their place in the list.
    pub fn with_initializers(
        &self,
        initializers: &[Definition],
        mut change: impl FnMut(usize, &mut TensorProto),
    ) -> Self {
        let mut copy = self.clone();
        for (place, definition) in initializers.iter().enumerate() {
            let Origin::Initializer(index) = definition.origin else { continue };
            let tensor = graph::at_mut(&mut copy.proto, &definition.scope).and_then(|g| g.initializer.get_mut(index));
            if let Some(tensor) = tensor {
                change(place, tensor);
            }
        }
        copy
    }

    /// Fails if [`save`](Self::save) would refuse to write to `path`; to be asked before long work.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) if the target is this model's own file or side file, a directory, a link, a device,
    /// or in no directory; [`Io`](ErrorKind::Io) where the system would refuse, for a name that is too long for instance.
    /// A side file that this model would need is looked at as well.
    pub fn check_target(&self, path: &Path) -> Result<()> {
        atomic::check_target(path)?;
        for target in [path.to_owned(), side_path(path)] {
            if self.own_files.iter().any(|own| atomic::is_same(own, &target)) {
                return Err(
                    Error::new(ErrorKind::Usage, "this is the input; choose another output file").in_file(target)
                );
            }
        }
        if self.needs_side_file(limits::PROTOBUF_BYTES) {
            atomic::check_target(&side_path(path))?;
        }
        Ok(())
    }

    /// Writes the model atomically and returns the bytes written. Values that are in side files, and all large ones if
    /// the model would exceed what a message can hold, go to `<path>.data`.
    ///
    /// # Errors
    /// As [`check_target`](Self::check_target); [`Io`](ErrorKind::Io), and then no partial file stays.
    pub fn save(&self, path: &Path) -> Result<u64> {
        self.save_within(path, limits::PROTOBUF_BYTES)
    }

    /// Writes several models as [`save`](Self::save) does one, so that all files are on the disk before the first gets its name.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_all<'m>(models: impl IntoIterator<Item = (&'m Model, &'m Path)>) -> Result<u64> {
        let mut files = Vec::new();
        for (model, path) in models {
            files.extend(model.prepared_within(path, limits::PROTOBUF_BYTES)?);
        }
        atomic::commit(files)
    }

    /// Bytes that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// `Malformed` for a tensor in a side file whose size is not known.
    pub fn saved_bytes(&self) -> Result<u64> {
        // The name of the side file is not known yet; its length hardly matters.
        let (proto, end) = self.moved_out("model.onnx.data", limits::PROTOBUF_BYTES, &mut |_, _| Ok(()))?;
        Ok(proto.encoded_len() as u64 + end)
    }

    fn save_within(&self, path: &Path, limit: u64) -> Result<u64> {
        atomic::commit(self.prepared_within(path, limit)?)
    }

    /// The files of the model, on the disk, without their names: a side file first, if there is one.
    fn prepared_within(&self, path: &Path, limit: u64) -> Result<Vec<atomic::Pending>> {
        self.check_target(path)?;
        if !self.needs_side_file(limit) {
            return Ok(vec![atomic::prepare(path, |out| serialize::model(&self.proto, out))?]);
        }
        let side = side_path(path);
        let name = side.file_name().and_then(|n| n.to_str()).map(str::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "the name must be UTF-8, for the model to name its side file").in_file(path)
        })?;
        let mut proto = ModelProto::default();
        let side = atomic::prepare(&side, |out| {
            let mut end = 0;
            (proto, _) = self.moved_out(&name, limit, &mut |values, offset| {
                atomic::append_sparse(out, &vec![0; (offset - end) as usize])?;
                end = offset + values.write(out)?;
                Ok(())
            })?;
            Ok(())
        })?;
        if proto.encoded_len() as u64 > limit {
            return Err(
                Error::new(ErrorKind::Limit, "without its large tensors the model still exceeds 2 GiB").in_file(path)
            );
        }
        // Neither gets its name before both are on the disk.
        let main = atomic::prepare(path, |out| serialize::model(&proto, out))?;
        Ok(vec![side, main])
    }

    fn needs_side_file(&self, limit: u64) -> bool {
        let mut needed = self.proto.encoded_len() as u64 > limit;
        graph::for_each_tensor(&self.proto, |t| needed |= is_external(t));
        needed
    }

    /// The messages with the values that do not fit them in a side file called `name`, and the size of that file. `write` is
    /// called with what stands in it, and where, in the order of the file.
    ///
    /// Ranges of the model's side files that overlap are kept together, and stored once: tensors that share bytes (tied
    /// weights) share them again.
    fn moved_out(
        &self,
        name: &str,
        limit: u64,
        write: &mut dyn FnMut(SideValues, u64) -> Result<()>,
    ) -> Result<(ModelProto, u64)> {
        let mut proto = self.proto.clone();
        let too_large = proto.encoded_len() as u64 > limit;
        let mut pieces = self.pieces()?;
        let mut end = 0;
        graph::for_each_tensor_mut(&mut proto, &mut |tensor| {
            let place = if is_external(tensor) {
                let DataRange { location, offset, length: told } = DataRange::of(tensor)?;
                let length = self.side_bytes(tensor)?;
                let piece = pieces.get_mut(&relative(&location)).and_then(|pieces| {
                    let after = pieces.partition_point(|piece| piece.start <= offset);
                    pieces.get_mut(after.checked_sub(1)?)
                });
                let piece = piece.expect("every range in a side file is in a piece of it");
                let start = match piece.moved_to {
                    Some(start) => start,
                    None => {
                        let length = piece.end - piece.start;
                        let start = side_offset(end, length);
                        let source = DataRange { location, offset: piece.start, length: Some(length) };
                        let values = SideValues::Moved(self.directory().map(Path::to_owned), source);
                        write(values, start).map_err(|e| e.at_tensor(tensor.name()))?;
                        end = start + length;
                        piece.moved_to = Some(start);
                        start
                    }
                };
                // Without a length it ends where the file does: whether that stays so is known at the end.
                let is_known = offset + length < piece.end || tensor::payload_bytes(tensor).is_err();
                let length = told.or_else(|| is_known.then_some(length));
                DataRange { location: name.to_owned(), offset: start + (offset - piece.start), length }
            } else if too_large && tensor::stored_bytes(tensor) >= MOVED_BYTES {
                let length = tensor::payload_bytes(tensor)?;
                let offset = side_offset(end, length);
                write(SideValues::Inline(Box::new(tensor.clone())), offset)?;
                end = offset + length;
                DataRange { location: name.to_owned(), offset, length: Some(length) }
            } else {
                return Ok(());
            };
            place.write_to(tensor);
            Ok(())
        })?;
        graph::for_each_tensor_mut(&mut proto, &mut |tensor| {
            if let Some(place) = is_external(tensor).then(|| DataRange::of(tensor)).transpose()?
                && place.length.is_none()
                && let Ok(length) = tensor::payload_bytes(tensor)
                && place.offset + length < end
            {
                DataRange { length: Some(length), ..place }.write_to(tensor);
            }
            Ok(())
        })?;
        Ok((proto, end))
    }

    /// The parts of each side file that tensors read: ranges that do not overlap, in order.
    fn pieces(&self) -> Result<BTreeMap<PathBuf, Vec<Piece>>> {
        let mut ranges: BTreeMap<PathBuf, Vec<(u64, u64)>> = BTreeMap::new();
        let mut sound = Ok(());
        graph::for_each_tensor(&self.proto, |tensor| {
            if sound.is_ok() && is_external(tensor) {
                sound = DataRange::of(tensor).and_then(|place| {
                    let end = place.offset.checked_add(self.side_bytes(tensor)?).ok_or_else(|| {
                        Error::new(ErrorKind::Malformed, "external data: offset and length overflow")
                            .at_tensor(tensor.name())
                    })?;
                    ranges.entry(relative(&place.location)).or_default().push((place.offset, end));
                    Ok(())
                });
            }
        });
        sound?;
        let merged = |(path, mut ranges): (PathBuf, Vec<(u64, u64)>)| {
            ranges.sort_unstable();
            let mut pieces: Vec<Piece> = Vec::new();
            for (start, end) in ranges {
                match pieces.last_mut() {
                    Some(last) if start < last.end || start == last.start => last.end = last.end.max(end),
                    _ => pieces.push(Piece { start, end, moved_to: None }),
                }
            }
            (path, pieces)
        };
        Ok(ranges.into_iter().map(merged).collect())
    }

    /// Bytes of a tensor that is in a side file: what its dimensions call for, else what the file holds.
    fn side_bytes(&self, tensor: &TensorProto) -> Result<u64> {
        match tensor::payload_bytes(tensor) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Ok(external_data::open(self.directory(), tensor, None)?.length()),
        }
    }

    fn directory(&self) -> Option<&Path> {
        self.path.as_ref().map(|p| p.parent().unwrap_or(Path::new("")))
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

    /// Names are unique and defined, nothing depends on itself, and no node has attributes without end.
    pub(super) fn check_graphs(&self) -> Result<()> {
        let mut sound = Ok(());
        graph::for_each_graph(&self.proto, |_, graph| {
            let excessive = graph.node.iter().enumerate().find(|(_, n)| n.attribute.len() > limits::NODE_ATTRIBUTES);
            if let Some((index, node)) = excessive {
                let (found, most) = (node.attribute.len(), limits::NODE_ATTRIBUTES);
                let message = format!("{found} attributes are more than any operator has, expected at most {most}");
                sound = Err(Error::new(ErrorKind::Limit, message).at_node(graph::plain_name(node, index)));
            }
        });
        sound?;
        Values::new(&self.proto)?.check_acyclic(&self.proto)
    }

    /// Every tensor in a side file has a sound place; returns those files with their sizes.
    fn check_external(&self) -> Result<Vec<(PathBuf, u64)>> {
        let Some(directory) = self.directory() else { return Ok(Vec::new()) };
        let mut locations = BTreeSet::new();
        let mut sound = Ok(());
        graph::for_each_tensor(&self.proto, |tensor| {
            if sound.is_ok() && is_external(tensor) {
                sound = DataRange::of(tensor).and_then(|place| {
                    locations.insert(place.location);
                    external_data::open(Some(directory), tensor, tensor::payload_bytes(tensor).ok()).map(|_| ())
                });
            }
        });
        sound?;
        let look = |location| external_data::confined(directory, location).map(|(path, found)| (path, found.len()));
        let files: BTreeMap<_, _> = locations.iter().map(|l| look(l)).collect::<Result<_>>()?;
        Ok(files.into_iter().collect())
    }
}

/// What stands in a side file that is written.
enum SideValues {
    /// A range of a side file of the model, which is in this directory.
    Moved(Option<PathBuf>, DataRange),
    /// The values of a tensor that has them in the message.
    Inline(Box<TensorProto>),
}

impl SideValues {
    /// Writes them, and returns how many bytes they are.
    fn write(&self, out: &mut atomic::OutputFile<'_>) -> Result<u64> {
        match self {
            SideValues::Moved(directory, place) => {
                let range = external_data::open_place(directory.as_deref(), place, place.length)?;
                range.for_each_chunk(|chunk| atomic::append_sparse(out, chunk))?;
                Ok(range.length())
            }
            SideValues::Inline(tensor) => {
                let bytes = tensor::inline_payload(tensor)?;
                atomic::append_sparse(out, &bytes)?;
                Ok(bytes.len() as u64)
            }
        }
    }
}

/// A range of a side file of the model, and where it begins in the side file that is written.
#[derive(Debug)]
struct Piece {
    start: u64,
    end: u64,
    moved_to: Option<u64>,
}

/// A location in its only form: `./a//b` is `a/b`.
fn relative(location: &str) -> PathBuf {
    Path::new(location).components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

/// Smallest tensor that leaves a message which is too large.
const MOVED_BYTES: u64 = 1024;

/// Tensors in a side file start at a page, so that readers may map them; small ones at a cache line, to waste nothing.
const PAGE: u64 = 4096;
const LINE: u64 = 64;
const PAGE_ALIGNED_BYTES: u64 = 1 << 20;

fn side_offset(end: u64, length: u64) -> u64 {
    end.next_multiple_of(if length >= PAGE_ALIGNED_BYTES { PAGE } else { LINE })
}

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

fn read_whole(path: &Path) -> Result<Bytes> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let metadata = path.metadata().map_err(|e| io(&e, path))?;
    if metadata.is_dir() {
        return Err(Error::new(ErrorKind::Malformed, "not a regular file but a directory: name the .onnx file in it"));
    }
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Malformed, "not a regular file"));
    }
    // What says to be empty is not read: files of the system (/proc) do, and some of them are waited for.
    if metadata.len() == 0 {
        return Err(Error::new(ErrorKind::Malformed, "the file is empty, not an ONNX model"));
    }
    if metadata.len() > limits::PROTOBUF_BYTES {
        let message = "larger than 2 GiB, which a model file without side files cannot be";
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let mut buffer = Vec::with_capacity(metadata.len() as usize);
    let file = File::open(path).map_err(|e| io(&e, path))?;
    file.take(metadata.len()).read_to_end(&mut buffer).map_err(|e| io(&e, path))?;
    Ok(buffer.into())
}

/// Decodes a file that holds one tensor, as in `test_data_set_0/input_0.pb`.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed).
pub fn decode_tensor(bytes: Bytes) -> Result<TensorProto> {
    wire::check_tensor(&bytes)?;
    TensorProto::decode(bytes).map_err(|e| Error::new(ErrorKind::Malformed, format!("not an ONNX tensor: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::proto::GraphProto;
    use super::*;

    #[test]
    fn a_model_that_exceeds_a_message_goes_to_a_side_file_and_comes_back() {
        let values: Vec<f32> = (0..1000).map(|v| v as f32).collect();
        let typed = TensorProto {
            dims: vec![500],
            data_type: Some(ElementType::Float as i32),
            name: Some("typed".to_owned()),
            float_data: values[..500].to_vec(),
            ..Default::default()
        };
        let initializer = vec![tensor::float("raw", &[1000], &values), typed, tensor::int64("small", &[1], &[7])];
        let graph = GraphProto { initializer, ..Default::default() };
        let proto = ModelProto { ir_version: Some(8), graph: Some(graph), ..Default::default() };
        let model = Model::from_proto(proto, &LoadOptions::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.onnx");

        let written = model.save_within(&path, 5000).unwrap();
        let back = Model::load(&path, &LoadOptions::default()).unwrap();
        assert_eq!(written, back.bytes());
        assert_eq!(side_path(&path).metadata().unwrap().len(), 4000 + 32 + 2000, "the second tensor starts at a line");
        let tensors = &back.proto.graph.as_ref().unwrap().initializer;
        assert_eq!(tensors.iter().map(is_external).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(back.floats(&tensors[0]).unwrap().as_slice().unwrap(), values);
        assert_eq!(back.floats(&tensors[1]).unwrap().as_slice().unwrap(), &values[..500]);
        assert_eq!(back.self_contained().unwrap().graph.unwrap().initializer[0].raw_data().len(), 4000);

        assert_eq!(model.save_within(&path, 60).unwrap_err().kind(), ErrorKind::Limit, "nothing left to move out");
        assert!(Model::load(&path, &LoadOptions::default()).is_ok(), "the file of before is still whole");
    }
}
