//! Files that appear whole or not at all.
//!
//! Bytes go to a temporary sibling, are flushed to the disk, and the sibling is renamed onto the target: a reader, a
//! crash or a full disk never meets half a file.
//!
//! A sibling does not outlive its writer: one that gives up removes it, one that is asked to end calls [`abandon`], and
//! what a killed one left behind is removed by the next that writes the same target. Writers hold a lock on their
//! sibling, and the system takes the lock from the dead: a sibling without one belongs to nobody.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

use super::external_data::{io, same_file};
use crate::error::{self, Error, ErrorKind, Result};

/// What [`write()`] hands out to be written to.
pub type OutputFile<'f> = BufWriter<&'f mut File>;

/// Appends bytes, leaving a hole for zeros: a copy of a sparse file takes no more of the disk than the file.
///
/// # Errors
/// [`Io`](ErrorKind::Io).
pub fn append_sparse(out: &mut OutputFile<'_>, bytes: &[u8]) -> Result<()> {
    let done = if bytes.iter().all(|&b| b == 0) {
        out.seek(SeekFrom::Current(bytes.len() as i64)).map(|_| ())
    } else {
        out.write_all(bytes)
    };
    done.map_err(|e| Error::new(ErrorKind::Io, error::words(&e)))
}

/// Fails if [`write()`] would be refused at `path`: it is a directory, a link or a device, its directory is not there or may
/// not be written to, or the name is too long. To be asked before long work.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage), saying what stands in the way; [`Io`](ErrorKind::Io) where the system refuses.
pub fn check_target(path: &Path) -> Result<()> {
    check_place(path)?;
    // Whatever the system may have against it, it has against the temporary sibling too.
    Sibling::create(path).map(drop).map_err(|e| io(&e, path))
}

/// Fails if `path` is nothing that may be replaced.
fn check_place(path: &Path) -> Result<()> {
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
    write(path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::new(ErrorKind::Io, error::words(&e))))
}

/// Writes `path` atomically with what `fill` writes, and returns the number of bytes.
///
/// # Errors
/// Those of [`prepare`] and [`commit`].
pub fn write(path: &Path, fill: impl FnOnce(&mut OutputFile<'_>) -> Result<()>) -> Result<u64> {
    commit([prepare(path, fill)?])
}

/// A whole file, on the disk, that has not its name yet; dropped without [`commit`] it disappears.
#[derive(Debug)]
pub struct Pending {
    sibling: Sibling,
    target: PathBuf,
    bytes: u64,
}

/// Writes what `fill` writes to a temporary sibling of `path`.
///
/// # Errors
/// Those of [`check_target`] and `fill`, and [`Io`](ErrorKind::Io); no partial file stays.
pub fn prepare(path: &Path, fill: impl FnOnce(&mut OutputFile<'_>) -> Result<()>) -> Result<Pending> {
    check_place(path)?;
    let failed = |e: std::io::Error| io(&e, path);
    remove_stale(path);
    let mut sibling = Sibling::create(path).map_err(failed)?;
    let file = sibling.file.as_mut().expect("it has no name yet").as_file_mut();
    let mut writer = BufWriter::with_capacity(1 << 16, &mut *file);
    fill(&mut writer).map_err(|e| e.in_file(path))?;
    let bytes = writer.stream_position().map_err(failed)?;
    writer.flush().map_err(failed)?;
    drop(writer);
    file.set_len(bytes).map_err(failed)?; // a hole at the end counts too
    if let Ok(existing) = path.metadata() {
        file.set_permissions(existing.permissions()).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok(Pending { sibling, target: path.to_owned(), bytes })
}

/// Gives files their names, replacing what bore them, in this order, and returns the number of bytes. [`abandon`] comes
/// before all of them or after.
///
/// # Errors
/// [`Io`](ErrorKind::Io).
pub fn commit(files: impl Into<Vec<Pending>>) -> Result<u64> {
    let mut files = files.into();
    let held = under_way();
    let renamed = files.iter_mut().try_for_each(Pending::rename);
    drop(held); // dropping the files asks for it
    renamed?;
    Ok(files.iter().map(|file| file.bytes).sum())
}

impl Pending {
    fn rename(&mut self) -> Result<()> {
        if let Some(file) = self.sibling.file.take() {
            file.persist(&self.target).map_err(|e| io(&e.error, &self.target))?;
        }
        // The rename itself is on the disk only when the directory is; not every system can flush one.
        if let Ok(directory) = File::open(directory(&self.target)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// Removes what this process has begun to write, for one that is about to end: whoever writes afterwards waits for ever.
pub fn abandon() {
    let under_way = under_way();
    for path in under_way.iter() {
        // What cannot be removed now, the next writer removes.
        let _ = fs::remove_file(path);
    }
    std::mem::forget(under_way);
}

/// Removes what writers of `path` left behind that did not live to do it themselves.
pub fn remove_stale(path: &Path) {
    let Ok(entries) = fs::read_dir(directory(path)) else { return };
    let prefix = prefix(path);
    let is_sibling = |name: &str| {
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    for entry in entries.flatten().filter(|entry| is_sibling(&entry.file_name().to_string_lossy())) {
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // Still locked: a writer that made the file but has not locked it yet finds it gone.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What this process has begun to write, and has neither named nor removed.
static UNDER_WAY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn under_way() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

const SUFFIX: &str = ".tmp";
/// Random characters of a sibling's name.
const RANDOM: usize = 6;
/// Bytes of a file's name on the usual file systems.
const LONGEST_NAME: usize = 255;

/// What the names of the siblings of `path` begin with: its own name, without the end of one so long that the sibling's would
/// not be allowed.
fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kept = name.floor_char_boundary(LONGEST_NAME - RANDOM - SUFFIX.len() - 2);
    format!(".{}.", &name[..kept])
}

/// A temporary file beside its target, locked and listed in [`UNDER_WAY`].
#[derive(Debug)]
struct Sibling {
    path: PathBuf,
    /// None once it has its name.
    file: Option<NamedTempFile>,
}

impl Sibling {
    fn create(target: &Path) -> std::io::Result<Sibling> {
        let prefix = prefix(target);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any new file
        loop {
            let mut under_way = under_way();
            let file = builder.tempfile_in(directory(target))?;
            // Not every file system has locks; then nobody takes this one for stale either.
            let locked = file.as_file().lock().is_ok();
            // Another writer of the target may have come before the lock.
            if !locked || file.path().exists() {
                under_way.insert(file.path().to_owned());
                return Ok(Sibling { path: file.path().to_owned(), file: Some(file) });
            }
        }
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        let mut under_way = under_way();
        drop(self.file.take());
        under_way.remove(&self.path);
    }
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

    #[cfg(unix)]
    #[test]
    fn every_legal_name_can_be_written_and_others_are_refused_before() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["n".repeat(255), format!("{}x", "é".repeat(127))] {
            let path = directory.path().join(&name);
            check_target(&path).unwrap();
            write_text(&path, "whole").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
            fs::remove_file(&path).unwrap();
        }
        let error = check_target(&directory.path().join("n".repeat(256))).unwrap_err();
        assert!(error.message().contains("name too long"), "{error}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "to ask leaves nothing behind");
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let others =
            [".m.onnx.tmp", ".m.onnx.abcdefg.tmp", ".m.onnx.a-cdef.tmp", ".n.onnx.abcdef.tmp", "m.onnx.abcdef.tmp"];
        for name in others.iter().chain(&[".m.onnx.abcdef.tmp"]) {
            fs::write(at(name), "half a fi").unwrap();
        }
        fs::create_dir(at(".m.onnx.direct.tmp")).unwrap();
        let living = prepare(&at("m.onnx"), |_| Ok(())).unwrap();
        write_text(&at("m.onnx"), "whole").unwrap();
        assert!(living.sibling.path.exists(), "it has a lock");
        assert!(others.iter().all(|name| at(name).exists()) && at(".m.onnx.direct.tmp").exists());
        assert!(!at(".m.onnx.abcdef.tmp").exists());
        drop(living);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), others.len() + 2);
    }
}
