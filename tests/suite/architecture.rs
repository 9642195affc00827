//! The shape of the source: imports of the library run one way, and what one place knows stays in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the library, one a line, each of which may import those before it.
const LAYERS: &[&str] = &[
    "error",
    "limits",
    "progress",
    "dictionary",
    "onnx",
    "lossless",
    "recurrent",
    "linear",
    "sites",
    "samples",
    "cell",
    "engine",
    "loss",
    "calibrate",
    "plan",
    "code",
    "encode",
    "expand",
    "tune",
    "verify",
    "compress",
    "bench",
    "report",
];

/// Modules that may import these only: a dictionary knows no model.
const ALONE: &[(&str, &[&str])] = &[("dictionary", &["error", "limits", "progress"])];

/// Names of crates, and the modules that may use them. The engine takes a model as bytes, which it has to make.
const FOREIGN: &[(&str, &[&str])] = &[("prost::", &["onnx", "engine"]), ("tract_", &["engine"])];

/// The modules of the binary in the same way, after those of the library.
const BINARY: &[&str] = &["process", "cli", "main"];

/// The root of the library, which names all its modules.
const ROOT: &str = "lib";

struct Source {
    /// The first name of its path in `src`.
    module: String,
    path: PathBuf,
    text: String,
}

/// Every source file of some folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        let top = root.join(folder);
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("it can be read") {
                let path = entry.expect("it can be read").path();
                let inside = path.strip_prefix(&top).expect("found under it").with_extension("");
                let module = inside.iter().next().expect("a name").to_string_lossy().into_owned();
                if path.is_dir() {
                    // `fuzz/target` is where cargo builds.
                    folders.extend((module != "target").then_some(path));
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.push(Source { module, text: fs::read_to_string(&path).expect("source is text"), path });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn library() -> Vec<Source> {
    let mut found = sources(&["src"]);
    found.retain(|source| source.module != ROOT && !BINARY.contains(&&*source.module));
    found
}

/// The lines of a file that are neither comments nor tests. What `#[cfg(test)]` marks is one line that ends in `;`, or all
/// up to the brace that closes it.
fn product(text: &str) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("#[cfg(test)]") {
            let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#[")).unwrap_or_default();
            if !item.ends_with(';') {
                let closes = |line: &&str| {
                    line.trim_end().strip_suffix('}').is_some_and(|l| l.trim().is_empty() && l.len() == indent)
                };
                lines.by_ref().find(closes);
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push(line);
        }
    }
    kept
}

/// The modules that a file imports or names by `crate::`, also several in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let joined = product(text).join("\n");
    let mut found = BTreeSet::new();
    for rest in joined.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if c.is_whitespace() => {}
                _ if start => {
                    found.insert(name(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    // A type of the crate's root has no module.
    found.remove("");
    found
}

#[test]
fn imports_run_one_way() {
    let layers = LAYERS.iter().chain(BINARY);
    let rank: BTreeMap<&str, usize> = layers.clone().enumerate().map(|(index, name)| (*name, index)).collect();
    let mut used = BTreeSet::new();
    for source in sources(&["src"]).into_iter().filter(|source| source.module != ROOT) {
        let path = source.path.display();
        let place = |module: &str| {
            *rank.get(module).unwrap_or_else(|| panic!("{path}: give '{module}' a place in LAYERS or BINARY"))
        };
        let own = place(&source.module);
        let alone = ALONE.iter().find(|(module, _)| *module == source.module);
        for name in imports(&source.text) {
            assert!(place(&name) <= own, "{path}: '{}' imports '{name}', which comes after it", source.module);
            let may = alone.is_none_or(|(module, only)| name == *module || only.contains(&&*name));
            assert!(may, "{path}: '{}' may not import '{name}'", source.module);
        }
        used.insert(source.module);
    }
    let gone: Vec<_> = layers.filter(|module| !used.contains(**module)).collect();
    assert!(gone.is_empty(), "LAYERS or BINARY names {gone:?}, which src does not have");
}

/// The reader of the lines above, which has to see what rustfmt makes of them.
#[test]
fn imports_are_seen_in_every_form() {
    let text = "
//! of crate::comment
use crate::alpha::{self, Beta};
use crate::{gamma, delta::{one, two::crateless},
    epsilon::Zeta,
};
#[cfg(test)]
mod noise;
#[cfg(test)]
mod tests {
    use crate::tests_only;
    fn f() {
    }
}
fn f() -> crate::eta::Theta {
    #[cfg(test)]
    {
        crate::tests_too::f();
    }
    crate::Root::f(crate::iota::g)
}
";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["alpha", "delta", "epsilon", "eta", "gamma", "iota"]);
}

#[test]
fn one_place_knows_each_foreign_format() {
    for source in library() {
        for (name, modules) in FOREIGN {
            let knows = product(&source.text).iter().any(|line| line.contains(name));
            let may = modules.contains(&&*source.module);
            assert!(!knows || may, "{}: only {} knows {name}", source.path.display(), modules.join(" and "));
        }
    }
}

/// What a machine wrote has no such line.
#[test]
fn every_file_says_what_it_is() {
    let all = sources(&["src", "tests", "benches", "examples", "fuzz"]);
    assert!(all.len() > 100);
    for source in all.iter().filter(|source| !source.path.ends_with("onnx/proto.rs")) {
        assert!(source.text.starts_with("//!"), "{}: open with //!", source.path.display());
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

/// Whoever reads `Point` should not have to ask which. The messages of the ONNX format keep the format's names.
#[test]
fn no_two_public_types_share_a_name() {
    let mut known = BTreeMap::new();
    for source in library().into_iter().filter(|source| !source.path.ends_with("onnx/proto.rs")) {
        for line in product(&source.text) {
            let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
            let Some(rest) = line.trim().strip_prefix("pub ") else { continue };
            let Some(rest) = kinds.iter().find_map(|kind| rest.strip_prefix(kind)) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
            if let Some(first) = known.insert(name.clone(), source.path.clone()) {
                panic!("{name} is in {} and {}", first.display(), source.path.display());
            }
        }
    }
    assert!(known.len() > 100, "{}", known.len());
}
