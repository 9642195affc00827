//! Files that appear whole or not at all.
//!
//! Bytes go to a temporary sibling, are flushed to the disk, and the sibling is renamed onto the target: a reader, a
//! crash or a full disk never meets half a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::external_data::io;
use crate::error::{Error, ErrorKind, Result};

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

/// Writes `path` atomically with what `fill` writes, and returns the number of bytes.
///
/// # Errors
/// Those of [`check_target`] and `fill`, and [`Io`](ErrorKind::Io); no partial file stays.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    check_target(path)?;
    let failed = |e: &std::io::Error| io(e, path);
    let name = path.file_name().expect("check_target refuses paths without one").to_string_lossy();
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{name}.");
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any new file
    let mut temporary = builder.tempfile_in(directory(path)).map_err(|e| failed(&e))?;
    let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
    fill(&mut writer).map_err(|e| e.in_file(path))?;
    writer.flush().map_err(|e| failed(&e))?;
    drop(writer);
    if let Ok(existing) = path.metadata() {
        temporary.as_file().set_permissions(existing.permissions()).map_err(|e| failed(&e))?;
    }
    temporary.as_file().sync_all().map_err(|e| failed(&e))?;
    let bytes = temporary.as_file().metadata().map_err(|e| failed(&e))?.len();
    temporary.persist(path).map_err(|e| failed(&e.error))?;
    // The rename itself is on the disk only when the directory is; not every system can flush one.
    if let Ok(directory) = File::open(directory(path)) {
        let _ = directory.sync_all();
    }
    Ok(bytes)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
