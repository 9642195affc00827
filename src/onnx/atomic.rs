//! Files that appear whole or not at all.
//!
//! Bytes go to a temporary sibling, are flushed to the disk, and the sibling is renamed onto the target: a reader, a
//! crash or a full disk never meets half a file.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::external_data::{io, same_file};
use crate::error::{Error, ErrorKind, Result};

/// What [`write()`] hands out to be written to.
pub type Output<'f> = BufWriter<&'f mut File>;

/// Appends bytes, leaving a hole for zeros: a copy of a sparse file takes no more of the disk than the file.
///
/// # Errors
/// [`Io`](ErrorKind::Io).
pub fn append_sparse(out: &mut Output<'_>, bytes: &[u8]) -> Result<()> {
    let done = if bytes.iter().all(|&b| b == 0) {
        out.seek(SeekFrom::Current(bytes.len() as i64)).map(|_| ())
    } else {
        out.write_all(bytes)
    };
    done.map_err(|e| Error::new(ErrorKind::Io, e.to_string()))
}

/// Fails if `path` is nothing that may be replaced: a directory, a link, a device, or in a directory that is not there.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage), saying what stands in the way.
pub fn check_target(path: &Path) -> Result<()> {
    let refused = |why: &str| Err(Error::new(ErrorKind::Usage, format!("cannot write there: {why}")).in_file(path));
    if path.file_name().is_none() {
        return refused("it is not the name of a file");
    }
    let directory = directory(path);
    if !directory.is_dir() {
        return refused("its directory does not exist");
    }
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => refused("it is a symbolic link; name the file that it points to"),
        Ok(found) if found.is_dir() => refused("it is a directory; name a file in it"),
        Ok(found) if !found.is_file() => refused("it is not a regular file"),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io(&e, path)),
    }
}

/// Whether two paths lead to one file, be it there already or not: `a.json` and `./b/../a.json` do.
pub fn is_same(a: &Path, b: &Path) -> bool {
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata())
        && cfg!(unix)
    {
        return same_file(&a, &b);
    }
    let place = |path: &Path| {
        let whole = path.canonicalize().ok();
        whole.or_else(|| Some(directory(path).canonicalize().ok()?.join(path.file_name()?)))
    };
    a == b || place(a).is_some_and(|place_of_a| place(b) == Some(place_of_a))
}

/// Writes a text atomically, and returns the number of bytes.
///
/// # Errors
/// As [`write`](write()).
pub fn write_text(path: &Path, text: &str) -> Result<u64> {
    write(path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::new(ErrorKind::Io, e.to_string())))
}

/// Writes `path` atomically with what `fill` writes, and returns the number of bytes.
///
/// # Errors
/// Those of [`prepare`] and [`Pending::commit`].
pub fn write(path: &Path, fill: impl FnOnce(&mut Output<'_>) -> Result<()>) -> Result<u64> {
    prepare(path, fill)?.commit()
}

/// A whole file, on the disk, that has not its name yet; dropped without [`commit`](Self::commit) it disappears.
#[derive(Debug)]
pub struct Pending {
    temporary: NamedTempFile,
    target: PathBuf,
    bytes: u64,
}

/// Writes what `fill` writes to a temporary sibling of `path`.
///
/// # Errors
/// Those of [`check_target`] and `fill`, and [`Io`](ErrorKind::Io); no partial file stays.
pub fn prepare(path: &Path, fill: impl FnOnce(&mut Output<'_>) -> Result<()>) -> Result<Pending> {
    check_target(path)?;
    let failed = |e: std::io::Error| io(&e, path);
    let mut temporary = sibling(path).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
    fill(&mut writer).map_err(|e| e.in_file(path))?;
    let bytes = writer.stream_position().map_err(failed)?;
    writer.flush().map_err(failed)?;
    drop(writer);
    temporary.as_file().set_len(bytes).map_err(failed)?; // a hole at the end counts too
    if let Ok(existing) = path.metadata() {
        temporary.as_file().set_permissions(existing.permissions()).map_err(failed)?;
    }
    temporary.as_file().sync_all().map_err(failed)?;
    Ok(Pending { temporary, target: path.to_owned(), bytes })
}

impl Pending {
    /// Gives the file its name, replacing what bore it, and returns the number of bytes.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub fn commit(self) -> Result<u64> {
        self.temporary.persist(&self.target).map_err(|e| io(&e.error, &self.target))?;
        // The rename itself is on the disk only when the directory is; not every system can flush one.
        if let Ok(directory) = File::open(directory(&self.target)) {
            let _ = directory.sync_all();
        }
        Ok(self.bytes)
    }
}

fn sibling(path: &Path) -> std::io::Result<NamedTempFile> {
    let prefix = format!(".{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any new file
    builder.tempfile_in(directory(path))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_many_paths() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir(at("sub")).unwrap();
        assert!(is_same(&at("new.json"), &at("sub/../new.json")), "one that is not there yet");
        assert!(!is_same(&at("new.json"), &at("sub/new.json")));
        std::fs::write(at("old"), "").unwrap();
        assert!(is_same(&at("old"), &at("./sub/../old")) && !is_same(&at("old"), &at("new.json")));
        #[cfg(unix)]
        {
            std::fs::hard_link(at("old"), at("twin")).unwrap();
            std::os::unix::fs::symlink(at("sub"), at("link")).unwrap();
            assert!(is_same(&at("old"), &at("twin")) && is_same(&at("link/x"), &at("sub/x")));
        }
    }

    #[test]
    fn what_is_written_is_whole_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        for text in ["a long first text", "second"] {
            assert_eq!(write_text(&path, text).unwrap(), text.len() as u64);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "no temporary file stays");
    }
}
