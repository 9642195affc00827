//! Tensor values in side files (`TensorProto.external_data`), confined to the model's directory.
//!
//! A model names its side files, so a hostile model could name any file of the machine. What is read must lie in the
//! model's directory under a plain relative path, be a regular file, and be no link of any kind: a symbolic or hard
//! link inside the directory could stand for a file outside of it. Offsets and lengths are checked against the file
//! before anything is allocated. Where values are *written* is never taken from a model.

use std::fs::{File, Metadata};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::tensor_proto::DataLocation;
use super::proto::{StringStringEntryProto, TensorProto};
use super::tensor::is_external;
use crate::error::{self, Cut, Error, ErrorKind, Result};

/// Where a tensor says that its values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRange {
    /// Path of the side file, relative to the model's directory.
    pub location: String,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes; without it, all up to the end of the file.
    pub length: Option<u64>,
}

impl DataRange {
    /// Reads the entries of a tensor whose `data_location` is `EXTERNAL`.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) without a location, or for an offset or length that is not a plain number.
    pub fn of(tensor: &TensorProto) -> Result<Self> {
        let mut place = DataRange { location: String::new(), offset: 0, length: None };
        for entry in &tensor.external_data {
            let number = || {
                entry.value().parse::<u64>().map_err(|_| {
                    Error::new(
                        ErrorKind::Malformed,
                        format!("external data: {} '{}' is not a byte count", entry.key(), Cut(entry.value())),
                    )
                    .at_tensor(tensor.name())
                })
            };
            match entry.key() {
                "location" => place.location = entry.value().to_owned(),
                "offset" => place.offset = number()?,
                "length" => place.length = Some(number()?),
                _ => {}
            }
        }
        if place.location.is_empty() {
            return Err(Error::new(ErrorKind::Malformed, "external data without a location").at_tensor(tensor.name()));
        }
        Ok(place)
    }

    /// Makes `tensor` refer to this place instead of holding values.
    pub fn write_to(&self, tensor: &mut TensorProto) {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        // An offset of 0 is not said where it was not.
        let says_offset = |tensor: &TensorProto| tensor.external_data.iter().any(|entry| entry.key() == "offset");
        let offset = (self.offset > 0 || !is_external(tensor) || says_offset(tensor)).then(|| self.offset.to_string());
        tensor.external_data = vec![entry("location", self.location.clone())];
        tensor.external_data.extend(offset.map(|offset| entry("offset", offset)));
        tensor.external_data.extend(self.length.map(|n| entry("length", n.to_string())));
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.raw_data = None;
        tensor.float_data = Vec::new();
        tensor.double_data = Vec::new();
        tensor.int32_data = Vec::new();
        tensor.int64_data = Vec::new();
        tensor.uint64_data = Vec::new();
    }
}

/// A range of an open side file, known to lie within it.
#[derive(Debug)]
pub struct Range {
    file: File,
    path: PathBuf,
    offset: u64,
    length: u64,
}

impl Range {
    /// Number of bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The whole range.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if reading fails, [`Limit`](ErrorKind::Limit) if there is no memory for it.
    pub fn read(&self) -> Result<Bytes> {
        let no_memory =
            || Error::new(ErrorKind::Limit, format!("no memory for {} bytes", self.length)).in_file(&self.path);
        let length = usize::try_from(self.length).map_err(|_| no_memory())?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(length).map_err(|_| no_memory())?;
        buffer.resize(length, 0);
        self.read_at(0, &mut buffer)?;
        Ok(buffer.into())
    }

    /// Calls `sink` with the range piece by piece, for copying what need not be in memory at once.
    ///
    /// # Errors
    /// Those of reading and of `sink`.
    pub fn for_each_chunk(&self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < self.length {
            let n = (self.length - done).min(buffer.len() as u64) as usize;
            self.read_at(done, &mut buffer[..n])?;
            sink(&buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    fn read_at(&self, start: u64, buffer: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, buffer, self.offset + start).map_err(|e| io(&e, &self.path))
    }
}

/// Opens the values of `tensor`. `need` is how many bytes its dimensions call for, if that is known.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) for a place outside of `directory` or of the file, and for a length other than
/// needed; [`Io`](ErrorKind::Io) if the file cannot be read.
pub fn open(directory: Option<&Path>, tensor: &TensorProto, need: Option<u64>) -> Result<Range> {
    let place = DataRange::of(tensor)?;
    open_place(directory, &place, need).map_err(|e| e.at_tensor(tensor.name()))
}

/// As [`open`], of a place that need not be that of one tensor.
pub(super) fn open_place(directory: Option<&Path>, place: &DataRange, need: Option<u64>) -> Result<Range> {
    let Some(directory) = directory else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "its values are in a side file '{}', but the model was not loaded from a file",
                Cut(&place.location)
            ),
        ));
    };
    let (path, found) = confined(directory, &place.location)?;
    let file = File::open(&path).map_err(|e| io(&e, &path))?;
    let opened = file.metadata().map_err(|e| io(&e, &path))?;
    if !same_file(&found, &opened) {
        return Err(Error::new(ErrorKind::Malformed, "the side file changed while it was opened").in_file(&path));
    }
    let outside = |what: String| Error::new(ErrorKind::Malformed, format!("external data: {what}")).in_file(&path);
    let size = opened.len();
    let available = size
        .checked_sub(place.offset)
        .ok_or_else(|| outside(format!("offset {} is beyond the end of the file ({size} bytes)", place.offset)))?;
    let length = place.length.unwrap_or(available);
    if length > available {
        return Err(outside(format!(
            "{length} bytes at offset {} are beyond the end of the file ({size} bytes)",
            place.offset
        )));
    }
    if let Some(need) = need.filter(|&need| need != length) {
        return Err(outside(format!("{length} bytes, but its dimensions need {need}")));
    }
    Ok(Range { file, path, offset: place.offset, length })
}

/// Bytes of a path: what systems allow.
const LONGEST_LOCATION: usize = 4096;

/// Path and metadata of a side file that may be read.
///
/// # Errors
/// As [`open`].
pub fn confined(directory: &Path, location: &str) -> Result<(PathBuf, Metadata)> {
    let refused = |why: &str| {
        Error::new(
            ErrorKind::Malformed,
            format!("external data location '{}' {why}: only plain files beside the model are read", Cut(location)),
        )
    };
    if location.len() > LONGEST_LOCATION {
        return Err(refused("is longer than any path"));
    }
    let relative = Path::new(location);
    let mut path = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_owned() };
    let mut found = None;
    for component in relative.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            Component::ParentDir => return Err(refused("leads out of the model's directory")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("is not relative")),
        }
        // Every step is looked at before the next one is taken, and without following it.
        let metadata = path.symlink_metadata().map_err(|e| io(&e, &path))?;
        if metadata.is_symlink() {
            return Err(refused("is or contains a symbolic link"));
        }
        found = Some(metadata);
    }
    let metadata = found.filter(Metadata::is_file).ok_or_else(|| refused("is not a regular file"))?;
    if links(&metadata) > 1 {
        return Err(refused("has more than one hard link"));
    }
    let root = directory_of(directory).canonicalize().map_err(|e| io(&e, directory))?;
    let real = path.canonicalize().map_err(|e| io(&e, &path))?;
    if !real.starts_with(&root) {
        return Err(refused("leads out of the model's directory"));
    }
    Ok((path, metadata))
}

fn directory_of(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// An error of the operating system.
pub(super) fn io(error: &std::io::Error, path: &Path) -> Error {
    Error::new(ErrorKind::Io, error::words(error)).in_file(path)
}

#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &Metadata) -> u64 {
    1
}

/// Whether two looks saw the same file; where the system gives files no number, that they are of the same size.
#[cfg(unix)]
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
pub(super) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.modified().ok() == b.modified().ok()
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, buffer, offset)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[n..];
        offset += n as u64;
    }
    Ok(())
}
