//! Samples from files: `.npz` and `.npy` of NumPy, `test_data_set_N` of ONNX, and directories of them.
//!
//! Names, types and shapes are held against the model before any element is read, so that a file that does not fit
//! is refused at the cost of its headers.

use super::npy::Header;
use super::npz::Npz;
use super::{AxisSize, Carry, Feed, Port, Samples, Signature, Stream, Tensor};
use crate::error::{self, Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::{ElementType, foreign, model::decode_tensor, tensor};
use ndarray::IxDyn;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Reads files and directories in the order given; those of a directory in name order.
pub(super) fn read(paths: &[PathBuf], signature: &Signature, carry: &[Carry]) -> Result<Samples> {
    Carry::check(carry, signature)?;
    let mut reader = Reader { signature, carry, left: limits::SAMPLE_BYTES, streams: Vec::new(), notes: Vec::new() };
    for path in paths {
        reader.read_path(path, 0).map_err(|e| e.in_file(path))?;
    }
    let mut samples = Samples { streams: reader.streams, carry: carry.to_vec(), made_up: false, notes: reader.notes };
    super::batch::split(&mut samples, signature);
    Ok(samples)
}

/// Reads the one array of a file that is called `name`, or the only one.
pub(super) fn read_array(path: &Path, name: &str) -> Result<Tensor> {
    let read = || {
        let mut left = limits::SAMPLE_BYTES;
        if has_extension(path, "npy") {
            return read_npy(path, &mut left, |_| Ok(()));
        }
        let mut archive = Npz::open(path)?;
        let names = archive.names()?;
        let entry = match names.iter().position(|n| n == name) {
            Some(entry) => entry,
            None if names.len() == 1 => 0,
            None => {
                let known = error::listed(names.iter().map(String::as_str));
                return Err(bad(format!("has no array '{}', only {known}", error::Cut(name))));
            }
        };
        archive.read(entry, &mut left, |_| Ok(())).map_err(|e| e.at_tensor(&names[entry]))
    };
    read().map_err(|e| e.in_file(path))
}

pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Samples, message)
}

pub(super) fn io(e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, error::words(e))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

struct Reader<'a> {
    signature: &'a Signature,
    carry: &'a [Carry],
    /// Bytes that may still be read.
    left: u64,
    streams: Vec<Stream>,
    notes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Reads a file, or a directory that is `depth` levels below the one that was given.
    fn read_path(&mut self, path: &Path, depth: usize) -> Result<()> {
        match fs::metadata(path).map_err(|e| io(&e))? {
            // Directories that link to themselves would be read without end.
            meta if meta.is_dir() && depth > DIRECTORY_DEPTH => Err(bad("directories are nested too deeply here")),
            meta if meta.is_dir() => self.read_directory(path, depth),
            _ if has_extension(path, "npz") => self.read_npz(path),
            _ if has_extension(path, "npy") => self.read_npy(path),
            _ => {
                let kind = foreign::recognised_file(path).map_or_else(String::new, |kind| format!(": it is {kind}"));
                Err(bad(format!("is neither .npz nor .npy nor a directory{kind}; save samples with numpy.savez")))
            }
        }
    }

    fn read_directory(&mut self, directory: &Path, depth: usize) -> Result<()> {
        let entries = fs::read_dir(directory).map_err(|e| io(&e))?;
        let paths: Vec<PathBuf> =
            entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(|e| io(&e))?;
        if paths.iter().any(|p| input_number(p).is_some()) {
            return self.read_data_set(directory, &paths);
        }
        let mut arrays: Vec<&PathBuf> =
            paths.iter().filter(|p| has_extension(p, "npz") || has_extension(p, "npy")).collect();
        arrays.sort();
        let mut sets: Vec<(u64, &PathBuf)> =
            paths.iter().filter_map(|p| Some((number(p, "test_data_set_", "")?, p))).collect();
        sets.sort();
        if arrays.is_empty() && sets.is_empty() {
            return Err(bad("holds no .npz or .npy files, no test_data_set_N directories, no input_0.pb"));
        }
        for path in arrays.into_iter().chain(sets.into_iter().map(|(_, path)| path)) {
            self.read_path(path, depth + 1).map_err(|e| e.in_file(path))?;
        }
        Ok(())
    }

    fn read_npz(&mut self, path: &Path) -> Result<()> {
        let mut archive = Npz::open(path)?;
        let names = archive.names()?;
        self.check_names(&names)?;
        let mut arrays = Feed::new();
        for (entry, name) in names.into_iter().enumerate().filter(|(_, name)| !self.signature.is_closed(name)) {
            let port = self.signature.input(&name).expect("its name was checked");
            let tensor = archive.read(entry, &mut self.left, |header| {
                check_type(port, header.element)?;
                check_stacked_shape(port, &header.shape)
            });
            let tensor = tensor.and_then(|t| self.converted(port, t, path)).map_err(|e| e.at_tensor(&name))?;
            arrays.insert(name, tensor);
        }
        self.add_arrays(path, arrays)
    }

    fn read_npy(&mut self, path: &Path) -> Result<()> {
        let [port] = self.required().collect::<Vec<_>>()[..] else {
            return Err(bad(format!(
                "the model has {} inputs, but an .npy file holds one: put them into an .npz under the inputs' names",
                self.required().count()
            )));
        };
        let name = port.name.clone();
        let tensor = read_npy(path, &mut self.left, |header| {
            check_type(port, header.element)?;
            check_stacked_shape(port, &header.shape)
        });
        let tensor = tensor.and_then(|t| self.converted(port, t, path)).map_err(|e| e.at_tensor(&name))?;
        self.add_arrays(path, Feed::from([(name, tensor)]))
    }

    /// Checks that the elements are finite, and converts NumPy's default float64 where the input takes float32, with a note.
    fn converted(&mut self, port: &Port, tensor: Tensor, path: &Path) -> Result<Tensor> {
        let tensor = check_finite(tensor)?;
        if tensor.element() == port.element || !may_convert(port.element, tensor.element()) {
            return Ok(tensor);
        }
        let note = format!("tensor '{}': float64 was converted to float32", error::Cut(&port.name));
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        // A float64 beyond the range of float32 becomes infinite.
        check_finite(tensor.to_f32().into()).map_err(|e| e.in_file(path))
    }

    /// One feed: `input_K.pb` is the input that its tensor names, else the K-th.
    fn read_data_set(&mut self, directory: &Path, paths: &[PathBuf]) -> Result<()> {
        let mut files: Vec<(u64, &PathBuf)> = paths.iter().filter_map(|p| Some((input_number(p)?, p))).collect();
        files.sort();
        let mut feed = Feed::new();
        let is_closed = |index: u64| self.signature.closed.iter().any(|closed| closed.place as u64 == index);
        // What is not a tensor cannot be read as one.
        files.retain(|(index, _)| !is_closed(*index));
        for (index, path) in files {
            let (name, tensor) = self.read_pb(path, index).map_err(|e| e.in_file(path))?;
            if feed.insert(name.clone(), tensor).is_some() {
                return Err(bad("a second tensor for the same input").at_tensor(name).in_file(path));
            }
        }
        self.check_names(&feed.keys().cloned().collect::<Vec<_>>())?;
        self.add_stream(directory.display().to_string(), vec![feed])
    }

    fn read_pb(&mut self, path: &Path, index: u64) -> Result<(String, Tensor)> {
        let (mut file, length) = open(path)?;
        spend(&mut self.left, length)?;
        let mut bytes = Vec::new();
        file.by_ref().take(length).read_to_end(&mut bytes).map_err(|e| io(&e))?;
        let proto = decode_tensor(bytes.into()).map_err(|e| bad(e.message()))?;
        let by_name = self.signature.input(proto.name());
        let by_index = || usize::try_from(index).ok().and_then(|i| self.signature.input_at(i));
        let port = by_name.or_else(by_index).ok_or_else(|| {
            bad(format!(
                "the model has no input {index} and none of this name, only {}",
                names_of(&self.signature.inputs)
            ))
            .at_tensor(proto.name())
        })?;
        let tensor = from_proto(&proto).and_then(|tensor| {
            check_type(port, tensor.element())?;
            match port.accepts(tensor.shape()) {
                true => self.converted(port, tensor, path),
                false => Err(shape_mismatch(port, tensor.shape())),
            }
        });
        Ok((port.name.clone(), tensor.map_err(|e| Error::new(ErrorKind::Samples, e.message()).at_tensor(&port.name))?))
    }

    /// The inputs that every file must have: those that no output is carried into.
    fn required(&self) -> impl Iterator<Item = &'a Port> + use<'a> {
        let (signature, carry) = (self.signature, self.carry);
        signature.inputs.iter().filter(|p| !carry.iter().any(|c| c.input == p.name))
    }

    fn check_names(&self, names: &[String]) -> Result<()> {
        let is_unknown = |name: &&String| self.signature.input(name).is_none() && !self.signature.is_closed(name);
        if let Some(name) = names.iter().find(is_unknown) {
            let known = names_of(&self.signature.inputs);
            let meant = error::meant(name, self.signature.inputs.iter().map(|port| port.name.as_str()));
            return Err(bad(format!("the model has no input of this name{meant}, only {known}")).at_tensor(name));
        }
        if let Some(port) = self.required().find(|p| !names.contains(&p.name)) {
            let state = self.signature.states.iter().find(|carry| carry.input == port.name);
            let way = state.map_or_else(String::new, |state| format!("; if it is a state, name it: --stream {state}"));
            return Err(bad(format!("there is no array for this input of the model{way}")).at_tensor(&port.name));
        }
        Ok(())
    }

    /// Arrays of a file: one sample each, or samples stacked along a further axis 0. An array without that axis is
    /// the same for every sample of its file.
    fn add_arrays(&mut self, path: &Path, arrays: Feed) -> Result<()> {
        let origin = path.display().to_string();
        let Some((lead, count)) = self.stack_height(&arrays) else {
            return self.add_stream(origin, vec![arrays]);
        };
        if count == 0 {
            return Err(bad("holds no samples: its axis 0 is empty").at_tensor(lead));
        }
        let is_stacked = |name: &String, tensor: &Tensor| match self.signature.input(name).and_then(Port::rank) {
            Some(rank) => tensor.shape().len() > rank,
            None => tensor.shape().first() == Some(&count),
        };
        // A header alone can claim any number of samples that have no elements.
        if arrays.iter().all(|(name, tensor)| !is_stacked(name, tensor) || tensor.is_empty()) {
            let message = format!("{count} samples without elements: an axis of size 0 leaves nothing to run");
            return Err(bad(message).at_tensor(lead));
        }
        let mut feeds = vec![Feed::new(); count];
        for (name, tensor) in &arrays {
            let stacked = is_stacked(name, tensor);
            if stacked && tensor.shape()[0] != count {
                let found = tensor.shape()[0];
                return Err(
                    bad(format!("holds {found} samples, but '{}' holds {count}", error::Cut(&lead))).at_tensor(name)
                );
            }
            for (i, feed) in feeds.iter_mut().enumerate() {
                feed.insert(name.clone(), if stacked { tensor.row(i) } else { tensor.clone() });
            }
        }
        if !self.carry.is_empty() {
            return self.add_stream(origin, feeds);
        }
        feeds.into_iter().enumerate().try_for_each(|(i, feed)| self.add_stream(format!("{origin}[{i}]"), vec![feed]))
    }

    /// An array that has one axis more than its input, and how many samples it holds.
    fn stack_height(&self, arrays: &Feed) -> Option<(String, usize)> {
        arrays.iter().find_map(|(name, tensor)| {
            let rank = self.signature.input(name)?.rank()?;
            (tensor.shape().len() == rank + 1).then(|| (name.clone(), tensor.shape()[0]))
        })
    }

    /// Adds a stream, its first feed with the states at the start: those of the file, else zeros.
    fn add_stream(&mut self, origin: String, mut feeds: Vec<Feed>) -> Result<()> {
        let without = feeds.iter().find(|feed| !feed.is_empty() && feed.values().all(Tensor::is_empty));
        if let Some((name, tensor)) = without.and_then(|feed| feed.first_key_value()) {
            let message = format!("shape {:?} has no elements, which leaves nothing to run", tensor.shape());
            return Err(bad(message).at_tensor(name));
        }
        for carry in self.carry {
            let port = self.signature.input(&carry.input).expect("the carries were checked");
            feeds.iter_mut().skip(1).for_each(|feed| drop(feed.remove(&carry.input)));
            if !feeds[0].contains_key(&carry.input) {
                let state = self.zero_state(port, &feeds[0]).map_err(|e| e.at_tensor(&port.name))?;
                spend(&mut self.left, state.bytes()).map_err(|e| e.at_tensor(&port.name))?;
                feeds[0].insert(carry.input.clone(), state);
            }
        }
        self.streams.push(Stream { origin, feeds, labels: Vec::new() });
        Ok(())
    }

    /// Zeros of the input's shape. A symbol has the size that it has in the feed's other inputs; whatever has no size
    /// is 1.
    fn zero_state(&self, port: &Port, feed: &Feed) -> Result<Tensor> {
        let dims = port
            .dims
            .as_ref()
            .ok_or_else(|| bad("is a state whose rank is not declared: add its initial value to the samples"))?;
        let sizes = symbol_sizes(self.signature, feed);
        let shape: Vec<usize> = dims
            .iter()
            .map(|dim| match dim {
                AxisSize::Size(size) => *size,
                AxisSize::Symbol(symbol) => sizes.get(symbol.as_str()).copied().unwrap_or(1),
                AxisSize::Unknown => 1,
            })
            .collect();
        if super::tensor::bytes(port.element, &shape).is_none_or(|bytes| bytes > limits::SAMPLE_BYTES) {
            let (gib, declared) = (limits::SAMPLE_BYTES >> 30, port.shape_text());
            return Err(bad(format!("a state of shape {shape:?} exceeds {gib} GiB: the model declares {declared}")));
        }
        Tensor::zeros(port.element, &shape)
            .ok_or_else(|| bad(format!("element type {} cannot be fed", port.element.as_str_name())))
    }
}

/// What the symbols of the inputs are in this feed.
fn symbol_sizes<'a>(signature: &'a Signature, feed: &Feed) -> BTreeMap<&'a str, usize> {
    let mut sizes = BTreeMap::new();
    for port in &signature.inputs {
        let (Some(dims), Some(tensor)) = (&port.dims, feed.get(&port.name)) else { continue };
        for (dim, &size) in dims.iter().zip(tensor.shape()) {
            if let AxisSize::Symbol(symbol) = dim {
                sizes.entry(symbol.as_str()).or_insert(size);
            }
        }
    }
    sizes
}

fn names_of(ports: &[Port]) -> String {
    error::listed(ports.iter().map(|p| p.name.as_str()))
}

/// Levels of directories that are read: one with `test_data_set_N`, and those.
const DIRECTORY_DEPTH: usize = 1;

/// The number in `prefix7suffix`.
fn number(path: &Path, prefix: &str, suffix: &str) -> Option<u64> {
    path.file_name().and_then(OsStr::to_str)?.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
}

fn input_number(path: &Path) -> Option<u64> {
    number(path, "input_", ".pb")
}

/// NumPy's default, where a model takes float32.
fn may_convert(takes: ElementType, found: ElementType) -> bool {
    (takes, found) == (ElementType::Float, ElementType::Double)
}

fn check_type(port: &Port, element: ElementType) -> Result<()> {
    if port.element == element || may_convert(port.element, element) {
        return Ok(());
    }
    let (takes, found) = (port.element.as_str_name(), element.as_str_name());
    Err(bad(format!("element type {found}, but the model's input takes {takes}: convert the samples")))
}

/// A shape of the input, with or without a further axis 0 for the samples.
fn check_stacked_shape(port: &Port, shape: &[usize]) -> Result<()> {
    // An axis of size 0 lets the others have any size at no cost in the file; what is made of it has them too.
    let others =
        shape.iter().filter(|&&size| size > 0).try_fold(1u64, |product, &size| product.checked_mul(size as u64));
    if shape.contains(&0) && others.is_none_or(|others| others > limits::EMPTY_AXES) {
        return Err(bad(format!("shape {shape:?} has no elements, and axes that are too long to run")));
    }
    if port.accepts(shape) || shape.split_first().is_some_and(|(_, shape)| port.accepts(shape)) {
        return Ok(());
    }
    Err(shape_mismatch(port, shape))
}

fn shape_mismatch(port: &Port, shape: &[usize]) -> Error {
    bad(format!("shape {shape:?}, but the model's input is {}", port.shape_text()))
}

fn check_finite(tensor: Tensor) -> Result<Tensor> {
    match tensor.find_non_finite() {
        None => Ok(tensor),
        Some(index) => Err(bad(format!("the value at {index:?} is NaN or infinite"))),
    }
}

/// Takes the bytes of an array from what may still be read.
pub(super) fn spend(left: &mut u64, bytes: u64) -> Result<()> {
    *left = left
        .checked_sub(bytes)
        .ok_or_else(|| bad(format!("with it the samples exceed {} GiB: use fewer", limits::SAMPLE_BYTES >> 30)))?;
    Ok(())
}

/// A regular file and its length. Anything else could block or never end, as could what says to be empty: files of the system
/// (`/proc`) do.
pub(super) fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let found = fs::metadata(path).map_err(|e| io(&e))?;
    if !found.is_file() {
        return Err(bad("is not a regular file"));
    }
    if found.len() == 0 {
        return Err(bad("is an empty file"));
    }
    let file = File::open(path).map_err(|e| io(&e))?;
    let length = file.metadata().map_err(|e| io(&e))?.len();
    if length > limits::SAMPLE_BYTES {
        let (found, most) = (length >> 30, limits::SAMPLE_BYTES >> 30);
        return Err(bad(format!("{found} GiB, but samples may have {most} GiB in all: use fewer")));
    }
    Ok((BufReader::with_capacity(1 << 16, file), length))
}

fn read_npy(path: &Path, left: &mut u64, check: impl Fn(&Header) -> Result<()>) -> Result<Tensor> {
    let (mut file, length) = open(path)?;
    let read = Header::read(&mut file, length);
    let header = read.map_err(|error| match foreign::recognised_file(path) {
        // Where it is what it is called, the header says best what is wrong.
        Some(kind) if !kind.contains(".npy") => bad(format!("not a NumPy array: it is {kind}")),
        _ => error,
    })?;
    check(&header)?;
    spend(left, length)?;
    header.read_elements(&mut file)
}

/// The value of a tensor in ONNX's own form.
pub(super) fn from_proto(proto: &crate::onnx::TensorProto) -> Result<Tensor> {
    if tensor::is_external(proto) {
        return Err(bad("its values are in a side file"));
    }
    let element = ElementType::of(proto)?;
    let shape = tensor::shape(proto)?;
    if element == ElementType::String {
        let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec());
        let strings = proto.string_data.iter().map(text).collect::<std::result::Result<Vec<_>, _>>();
        let strings = strings.map_err(|_| bad("holds a string that is not Unicode"))?;
        let strings = ndarray::ArrayD::from_shape_vec(IxDyn(&shape), strings);
        return Ok(strings.map_err(|_| bad(format!("its strings are not of shape {shape:?}")))?.into());
    }
    Tensor::from_little_endian(element, IxDyn(&shape), &tensor::inline_payload(proto)?)
        .ok_or_else(|| bad(format!("{} of shape {shape:?} cannot be fed", element.as_str_name())))
}
