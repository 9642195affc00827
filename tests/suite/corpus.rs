//! Models that are not part of the project: real ones, operator cases and broken files, beside it on the disk.
//!
//! `DIRNET_MODELS` names the folder of the real models; the other folders are its siblings. Where they are absent, a
//! test that needs them prints a notice and passes.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of real models.
pub fn models() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    let folder = std::env::var_os("DIRNET_MODELS").map_or_else(default, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    skipped(&format!("no models at {} (set DIRNET_MODELS)", folder.display()));
    None
}

/// A folder beside the models: `rnn_cases`.
pub fn beside_models(name: &str) -> Option<PathBuf> {
    let folder = models()?.parent()?.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    skipped(&format!("there is no {}", folder.display()));
    None
}

/// Says that the test that calls does not test anything here. Unlike what `println!` says, it is seen when tests pass.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{} skipped: {why}", thread.name().unwrap_or("a test"));
}

/// Every `.onnx` file of the real models, in order.
pub fn model_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(folder) = models() {
        collect(&folder, &mut files);
        assert!(!files.is_empty(), "no models in {}", folder.display());
    }
    files.sort();
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            files.push(path);
        }
    }
}
