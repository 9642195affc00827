//! Where a command may write: checked before hours of work, not after.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use dirnet::error::{Error, ErrorKind};

/// Refuses an output that could destroy something: an input, a directory, a symlink; or that cannot be: no directory
/// to hold it. The side file of external data counts as output.
pub fn check_output(output: &Path, inputs: &[&Path]) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Usage, message).in_file(output).into());
    if output.file_name().is_none() {
        return refuse("the output is not a file name".to_owned());
    }
    if let Ok(found) = output.symlink_metadata() {
        if found.is_symlink() {
            return refuse("the output is a symlink; name the file itself".to_owned());
        }
        if !found.is_file() {
            return refuse("the output exists and is not a regular file".to_owned());
        }
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return refuse(format!("there is no directory '{}' to write it to", parent.display()));
    }
    for written in [output.to_owned(), side_file(output)] {
        if let Some(input) = inputs.iter().find(|input| is_same(&written, input)) {
            return refuse(format!("the output would overwrite the input '{}'; name another file", input.display()));
        }
    }
    Ok(())
}

/// Where the external data of a model goes.
fn side_file(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".data");
    PathBuf::from(name)
}

/// Whether two paths lead to one existing file.
fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b || is_hard_link(&a, &b),
        _ => false,
    }
}

#[cfg(unix)]
fn is_hard_link(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_hard_link(_a: &Path, _b: &Path) -> bool {
    false
}

/// Checks the reports of a command: their types are known, and none is written over an input, the output or another.
pub fn check_reports(reports: &[PathBuf], inputs: &[&Path], output: Option<&Path>) -> Result<()> {
    for (index, report) in reports.iter().enumerate() {
        dirnet::report::FileFormat::of(report)?;
        check_output(report, inputs)?;
        if reports[..index].contains(report) || output == Some(report) {
            bail!("{}: named as output twice", report.display());
        }
    }
    Ok(())
}
