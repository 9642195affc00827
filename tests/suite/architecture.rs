//! The shape of the source: imports of the library run one way, and what one place knows stays in one place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, each of which may import those before it.
const ORDER: [&str; 26] = [
    "error",
    "limits",
    "progress",
    "dictionary",
    "onnx",
    "recurrent",
    "samples",
    "cell",
    "engine",
    "loss",
    "calibrate",
    "encode",
    "budget",
    "plan",
    "coding",
    "sensitivity",
    "tune",
    "expand",
    "plan_file",
    "search",
    "planner",
    "pins",
    "compress",
    "verify",
    "bench",
    "report",
];

/// Every source file of the library with the module that it belongs to, and its text.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let inside = path.strip_prefix(&root).expect("found under it").with_extension("");
            let module = inside.iter().next().expect("a name").to_string_lossy().into_owned();
            if matches!(module.as_str(), "cli" | "main" | "lib") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is text");
                found.push((module, path, text));
            }
        }
    }
    found.sort();
    found
}

/// The part of a file that is not its tests.
fn product(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_run_one_way() {
    let rank: BTreeMap<&str, usize> = ORDER.iter().enumerate().map(|(index, name)| (*name, index)).collect();
    let place = |module: &str, path: &Path| {
        *rank.get(module).unwrap_or_else(|| panic!("{}: give '{module}' a place in the order", path.display()))
    };
    for (module, path, text) in sources() {
        let own = place(&module, &path);
        for line in product(&text) {
            for import in line.split("crate::").skip(1) {
                let name: String = import.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if name.is_empty() {
                    continue;
                }
                assert!(place(&name, &path) <= own, "{}: imports backwards: {line}", path.display());
                let pure = module != "dictionary" || ["error", "limits", "progress", "dictionary"].contains(&&*name);
                assert!(pure, "{}: a dictionary knows no model: {line}", path.display());
            }
        }
    }
}

#[test]
fn one_place_knows_each_foreign_format() {
    for (module, path, text) in sources() {
        for line in product(&text) {
            // The engine takes a model as bytes, which it has to make.
            let encodes = module == "onnx" || module == "engine";
            assert!(encodes || !line.contains("prost::"), "{}: only onnx knows protobuf", path.display());
            assert!(module == "engine" || !line.contains("tract_"), "{}: only engine knows tract", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (_, path, text) in sources() {
        assert!(text.starts_with("//!") || path.ends_with("proto.rs"), "{}: open with //!", path.display());
    }
}

/// The table of attacks in docs/security.md has no open row: each names tests, and each test is there.
#[test]
fn every_attack_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).expect("the page can be read");
    let mut folders = vec![root.join("tests/suite"), root.join("src")];
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("can be read") {
            let path = entry.expect("can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                code += &fs::read_to_string(path).expect("source is text");
            }
        }
    }
    let (_, table) = page.split_once("## Attacks").expect("the table has this title");
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack"));
    let mut count = 0;
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> =
            tests.split('`').skip(1).step_by(2).filter_map(|path| path.rsplit("::").next()).collect();
        assert!(!names.is_empty(), "no test: {row}");
        for name in names {
            let found = [format!("fn {name}("), format!("mod {name} "), format!("property!({name},")];
            assert!(found.iter().any(|text| code.contains(text)), "there is no test '{name}'");
        }
        count += 1;
    }
    assert!(count > 30, "{count} rows");
}
