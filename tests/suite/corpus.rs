//! Models that are not part of the project: real ones and operator cases, beside it on the disk.
//!
//! `DIRNET_MODELS` names the folder of the real models; `rnn_cases` is its sibling. A test that needs them has
//! `real_model` in its name, and a twin that does not need them ([`crate::made`]). Where they are absent it prints that
//! it was skipped and why; where the environment says `CI`, it fails.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of real models.
pub fn models() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
    let folder = std::env::var_os("DIRNET_MODELS").map_or_else(default, PathBuf::from);
    there(folder, "no models")
}

/// A folder beside the models: `rnn_cases`.
pub fn beside_models(name: &str) -> Option<PathBuf> {
    there(models()?.parent()?.join(name), "no cases")
}

/// Every `.onnx` file of the real models, in order.
pub fn model_files() -> Option<Vec<PathBuf>> {
    let folder = models()?;
    let mut files = Vec::new();
    collect(&folder, &mut files);
    assert!(!files.is_empty(), "no models in {}", folder.display());
    files.sort();
    Some(files)
}

/// The folder, if it is there: else the test that calls is over, in CI as a failure.
fn there(folder: PathBuf, what: &str) -> Option<PathBuf> {
    if folder.is_dir() {
        return Some(folder);
    }
    let why = format!("{what} at {} (set DIRNET_MODELS)", folder.display());
    assert!(!is_ci(std::env::var_os("CI").as_deref()), "{why}; CI skips no test, unset CI to skip it");
    skipped(&why);
    None
}

/// Whether `CI` says so, as services that run tests have it.
fn is_ci(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !["", "0", "false"].iter().any(|no| value == *no))
}

/// Says that the test that calls does not test anything here. Unlike what `println!` says, it is seen when tests pass.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{} skipped: {why}", thread.name().unwrap_or("a test"));
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

#[test]
fn ci_is_what_services_set() {
    for (value, yes) in [
        (None, false),
        (Some(""), false),
        (Some("0"), false),
        (Some("false"), false),
        (Some("true"), true),
        (Some("1"), true),
    ] {
        assert_eq!(is_ci(value.map(OsStr::new)), yes, "{value:?}");
    }
}

/// Runs every test that needs the real models where there are none (so this one must not be called like them): in CI each of them fails, elsewhere each says that it
/// was skipped.
#[test]
fn absence_is_no_green_test_in_ci() {
    let run = |ci: Option<&str>| {
        let mut tests = Command::new(std::env::current_exe().unwrap());
        tests.args(["real_model", "--test-threads", "2"]).env("DIRNET_MODELS", "/nowhere").env_remove("CI");
        let output = tests.envs(ci.map(|value| ("CI", value))).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (passed, said, notices) = run(None);
    assert!(passed, "{said}");
    let names = said.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    let names: Vec<&str> = names.collect();
    assert!(names.len() >= 15, "{said}");
    for name in &names {
        let notice = format!("{name} skipped: no models at /nowhere");
        assert!(notices.contains(&notice), "{name} says nothing: {notices}");
    }
    let (passed, said, _) = run(Some("true"));
    assert!(!passed && said.contains(&format!("0 passed; {} failed", names.len())), "{said}");
}
