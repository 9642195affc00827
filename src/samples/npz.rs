//! NumPy's archives: zip files whose members are arrays in the npy format.
//!
//! The directory of a zip file is at its end. It is looked for in as many bytes as the format lets follow it, and what opening
//! an archive reads is bounded: a file without a directory is refused at once, however long it is. What its members claim
//! to hold is added up before any is unpacked.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use zip::ZipArchive;
use zip::result::ZipError;

use super::Tensor;
use super::npy::Header;
use super::read::{bad, io as system, open, spend};
use crate::error::{Cut, Result};
use crate::limits;
use crate::onnx::foreign;

/// An archive whose directory was read.
pub(super) struct Npz(ZipArchive<Metered>);

impl Npz {
    /// Opens an archive, and refuses what is none, what names an array twice, and a zip bomb.
    pub fn open(path: &Path) -> Result<Npz> {
        let (mut file, length) = open(path)?;
        let Some(entries) = entries(&mut file, length)? else {
            let kind = foreign::recognised_file(path)
                .filter(|kind| !["zip archive", ".npz"].iter().any(|own| kind.contains(own)));
            let what =
                kind.map_or_else(|| "it is cut off, or something else".to_owned(), |kind| format!("it is {kind}"));
            return Err(bad(format!("not an npz file: {what}")));
        };
        let left = Rc::new(Cell::new(limits::NPZ_DIRECTORY_BYTES));
        let not_npz = |e: ZipError| bad(format!("not an npz file: {}", words(&e)));
        let mut archive = ZipArchive::new(Metered { file, left: Rc::clone(&left) }).map_err(not_npz)?;
        if archive.is_empty() {
            return Err(bad("holds no arrays"));
        }
        // Members of one name are one to the reader, which gives the last.
        if entries.is_some_and(|entries| entries != archive.len()) {
            return Err(bad("holds two arrays of one name: save it again"));
        }
        let allowed = length.saturating_mul(limits::NPZ_RATIO).max(limits::NPZ_FREE_BYTES);
        let mut claimed = 0u64;
        for entry in 0..archive.len() {
            left.set(limits::NPZ_DIRECTORY_BYTES);
            claimed = claimed.saturating_add(archive.by_index_raw(entry).map_err(not_npz)?.size());
        }
        if claimed > allowed {
            return Err(bad(format!(
                "{length} bytes that claim to hold {claimed}, as a zip bomb does; if it is sound, save it uncompressed (np.savez)"
            )));
        }
        left.set(u64::MAX);
        Ok(Npz(archive))
    }

    /// Names of the arrays, in the order of the archive's members.
    pub fn names(&self) -> Result<Vec<String>> {
        let name = |i| self.0.name_for_index(i).unwrap_or_default();
        let names: Vec<String> =
            (0..self.0.len()).map(name).map(|n| n.strip_suffix(".npy").unwrap_or(n).to_owned()).collect();
        let mut seen = HashSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(bad(format!("holds two arrays of the name '{}': save it again", Cut(twice)))),
            None => Ok(names),
        }
    }

    /// Reads a member whose header `check` accepts, and takes its bytes from what is `left`.
    pub fn read(&mut self, entry: usize, left: &mut u64, check: impl Fn(&Header) -> Result<()>) -> Result<Tensor> {
        let unpacking = |e: ZipError| bad(format!("cannot be unpacked: {}", words(&e)));
        let mut file = self.0.by_index(entry).map_err(unpacking)?;
        let length = file.size();
        let header = Header::read(&mut file, length)?;
        check(&header)?;
        spend(left, length)?;
        header.read_elements(&mut file)
    }
}

/// How many members the end of a zip file claims: `Some(None)` where they are too many for its field (zip64), and `None` where
/// there is no such end.
fn entries(file: &mut BufReader<File>, length: u64) -> Result<Option<Option<usize>>> {
    /// Bytes of the record at the end, and of the longest comment that may follow it.
    const RECORD: usize = 22;
    const COMMENT: u64 = u16::MAX as u64;
    let start = length.saturating_sub(RECORD as u64 + COMMENT);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(start)).map_err(|e| system(&e))?;
    file.by_ref().take(length - start).read_to_end(&mut tail).map_err(|e| system(&e))?;
    file.rewind().map_err(|e| system(&e))?;
    let number = |at: usize| u16::from_le_bytes([tail[at], tail[at + 1]]);
    let ends = (0..(tail.len() + 1).saturating_sub(RECORD))
        .rev()
        .find(|&at| tail[at..].starts_with(b"PK\x05\x06") && at + RECORD + usize::from(number(at + 20)) <= tail.len());
    Ok(ends.map(|at| Some(usize::from(number(at + 10))).filter(|&count| count < usize::from(u16::MAX))))
}

/// What is wrong with an archive, in words for a person.
fn words(error: &ZipError) -> String {
    match error {
        ZipError::Io(e) if e.raw_os_error().is_some() => crate::error::words(e),
        ZipError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
        ZipError::UnsupportedArchive(why) if *why == ZipError::PASSWORD_REQUIRED => "it is encrypted".to_owned(),
        ZipError::UnsupportedArchive(_) => {
            "it is packed in a way that NumPy does not use: save it again with numpy.savez".to_owned()
        }
        _ => "it is damaged or cut off".to_owned(),
    }
}

/// A file of which no more may be read than is left.
struct Metered {
    file: BufReader<File>,
    left: Rc<Cell<u64>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let done = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(done as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("its directory is not where it should be"))?);
        Ok(done)
    }
}

impl Seek for Metered {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
