//! The documents are true: every command in them runs, every link leads somewhere, every message is one of ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dirnet::onnx::proto::attribute_proto::AttributeType;
use dirnet::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use dirnet::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use dirnet::onnx::{ElementType, LoadOptions, Model, TensorProto, tensor};
use ndarray::{Array, ArrayD};
use ndarray_npy::NpzWriter;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and what is in docs, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md"), root().join("fixtures/README.md")];
    let docs = fs::read_dir(root().join("docs")).expect("there are docs");
    paths.extend(
        docs.map(|entry| entry.expect("a directory entry").path()).filter(|p| p.extension() == Some("md".as_ref())),
    );
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

/// The fenced blocks of a document of some languages.
fn blocks<'t>(text: &'t str, languages: &[&str]) -> Vec<Vec<&'t str>> {
    let mut found = Vec::new();
    let mut open: Option<Option<Vec<&str>>> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(languages.contains(&language).then(Vec::new)),
            (Some(_), Some(_)) => found.extend(open.take().flatten()),
            (None, Some(Some(block))) => block.push(line),
            (None, _) => {}
        }
    }
    found
}

/// The calls of the tool in a document: shell lines, continued lines joined, and the steps of CI recipes.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in blocks(text, &["sh", "yaml"]) {
        let joined = block.join("\n").replace("\\\n", " ");
        for line in joined.lines() {
            let line = line.trim().trim_start_matches("- ").trim_start_matches("run: ");
            let line = line.split("  #").next().unwrap_or(line).trim();
            if line.starts_with("dirnet ") {
                found.push(line.to_owned());
            }
        }
    }
    found
}

/// Numbers between -1 and 1.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn info(name: &str, dims: &[Value]) -> ValueInfoProto {
    let dim = |value: &Value| Dimension { value: Some(value.clone()), ..Dimension::default() };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(ElementType::Float as i32), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, i64)]) -> NodeProto {
    let attribute = |(name, value): &(&str, i64)| AttributeProto {
        name: Some((*name).to_owned()),
        i: Some(*value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    };
    NodeProto {
        name: Some(format!("/{}", op.to_lowercase())),
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute: attributes.iter().map(attribute).collect(),
        ..NodeProto::default()
    }
}

fn save(path: &Path, nodes: Vec<NodeProto>, constants: Vec<TensorProto>, ports: [Vec<ValueInfoProto>; 2]) {
    let [input, output] = ports;
    let graph = GraphProto {
        name: Some("example".to_owned()),
        node: nodes,
        initializer: constants,
        input,
        output,
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let proto =
        ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() };
    Model::from_proto(proto, &LoadOptions::default()).expect("sound").save(path).expect("writes");
}

const SIZE: usize = 40;
const HIDDEN: usize = 96;
const CLASSES: usize = 800;

fn weights(name: &str, seed: u64, shape: &[usize], scale: f32) -> TensorProto {
    let values: Vec<f32> = noise(seed, shape.iter().product()).into_iter().map(|v| v * scale).collect();
    tensor::float(name, shape, &values)
}

/// The model of the guide: `features [seq, 1, 40]` to `logits [seq, 1, 800]`.
fn write_model(path: &Path) {
    let seq = || Value::DimParam("seq".to_owned());
    let size = |n: usize| Value::DimValue(n as i64);
    let nodes = vec![
        node("LSTM", &["features", "W", "R"], &["y"], &[("hidden_size", HIDDEN as i64)]),
        node("Squeeze", &["y", "one"], &["h"], &[]),
        node("MatMul", &["h", "head"], &["logits"], &[]),
    ];
    let constants = vec![
        weights("W", 1, &[1, 4 * HIDDEN, SIZE], 0.3),
        weights("R", 2, &[1, 4 * HIDDEN, HIDDEN], 0.2),
        weights("head", 3, &[HIDDEN, CLASSES], 0.1),
        tensor::int64("one", &[1], &[1]),
    ];
    let input = info("features", &[seq(), size(1), size(SIZE)]);
    let output = info("logits", &[seq(), size(1), size(CLASSES)]);
    save(path, nodes, constants, [vec![input], vec![output]]);
}

/// The streaming model: `frame [1, 1, 40]` and `state [1, 1, 96]` to `speech [1, 1, 1, 96]` and `stateN`.
pub fn write_streaming(path: &Path) {
    let shape = |sizes: &[usize]| sizes.iter().map(|&n| Value::DimValue(n as i64)).collect::<Vec<_>>();
    let state = shape(&[1, 1, HIDDEN]);
    let gru =
        node("GRU", &["frame", "W", "R", "", "", "state"], &["speech", "stateN"], &[("hidden_size", HIDDEN as i64)]);
    let constants = vec![weights("W", 4, &[1, 3 * HIDDEN, SIZE], 0.3), weights("R", 5, &[1, 3 * HIDDEN, HIDDEN], 0.2)];
    let inputs = vec![info("frame", &shape(&[1, 1, SIZE])), info("state", &state)];
    let outputs = vec![info("speech", &shape(&[1, 1, 1, HIDDEN])), info("stateN", &state)];
    save(path, vec![gru], constants, [inputs, outputs]);
}

fn write_samples(path: &Path, name: &str, shape: &[usize], seed: u64) {
    let array: ArrayD<f32> =
        Array::from_shape_vec(shape.to_vec(), noise(seed, shape.iter().product())).expect("as many values");
    let mut file = NpzWriter::new(fs::File::create(path).expect("creates"));
    file.add_array(name, &array).expect("writes");
    file.finish().expect("writes");
}

/// A folder with every file that the documents name.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| folder.path().join(name);
    write_model(&at("model.onnx"));
    write_streaming(&at("vad.onnx"));
    write_samples(&at("samples.npz"), "features", &[8, 20, 1, SIZE], 6);
    write_samples(&at("holdout.npz"), "features", &[3, 20, 1, SIZE], 7);
    write_samples(&at("frames.npz"), "frame", &[60, 1, 1, SIZE], 8);
    for command in [
        "dirnet compress model.onnx -o small.onnx --ratio 6 --sensitivity none --calibration samples.npz -q",
        "dirnet plan model.onnx --ratio 6 --sensitivity none --calibration samples.npz --save plan.toml -q",
    ] {
        assert_eq!(shell(folder.path(), command).0, Some(0), "{command}");
    }
    fs::copy(root().join("docs/dirnet.toml"), at("dirnet.toml")).expect("copies");
    folder
}

/// Exit code and what was printed on stderr.
fn shell(folder: &Path, command: &str) -> (Option<i32>, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_dirnet")).parent().expect("is in a folder");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(binary.to_owned()).chain(std::env::split_paths(&paths));
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .env("PATH", std::env::join_paths(paths).expect("paths without colons"))
        .current_dir(folder)
        .output()
        .expect("there is a shell");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Whatever is copied from a document works: it parses, finds what it names, and ends well or at one of its checks.
#[test]
#[cfg(unix)]
fn every_command_runs() {
    let folder = workplace();
    let mut seen = BTreeSet::new();
    for (path, text) in documents() {
        for command in commands(&text) {
            if !seen.insert(command.clone()) {
                continue;
            }
            // The example is for one model, and would be found for all of them.
            let config = folder.path().join("dirnet.toml");
            match command.contains("dirnet.toml") {
                true => drop(fs::copy(root().join("docs/dirnet.toml"), &config).expect("copies")),
                false => drop(fs::remove_file(&config)),
            }
            let (code, errors) = shell(folder.path(), &command);
            let has_checks = ["--min-", "--max-kl", "--max-nmse", "--max-abs", "--config"];
            let has_checks = has_checks.iter().any(|flag| command.contains(flag));
            let at_a_check = code == Some(1) && errors.contains("output '") && errors.contains(" --");
            let ended_well = code == Some(0) || has_checks && at_a_check;
            assert!(ended_well, "{}: {command}: exit {code:?}\n{errors}", path.display());
        }
    }
    assert!(seen.len() > 15, "the documents show how to use the tool: {seen:?}");
}

/// The model of the guide, and a second layer that reads the same input.
fn write_two_layers(path: &Path, model: &Path) {
    let mut proto = Model::load(model, &LoadOptions::default()).expect("the model of the guide").proto;
    let graph = proto.graph.as_mut().expect("a graph");
    graph.node.push(node("LSTM", &["features", "W2", "R2"], &["other"], &[("hidden_size", HIDDEN as i64)]));
    graph.node.last_mut().expect("it was added").name = Some("/other".to_owned());
    graph.initializer.push(weights("W2", 8, &[1, 4 * HIDDEN, SIZE], 0.3));
    graph.initializer.push(weights("R2", 9, &[1, 4 * HIDDEN, HIDDEN], 0.2));
    let size = |n: usize| Value::DimValue(n as i64);
    graph.output.push(info("other", &[Value::DimParam("seq".to_owned()), size(1), size(1), size(HIDDEN)]));
    Model::from_proto(proto, &LoadOptions::default()).expect("sound").save(path).expect("writes");
}

/// The keys of the JSON that the documents name are there, each one, and no others are.
#[test]
#[cfg(unix)]
fn the_json_is_as_documented() {
    let folder = workplace();
    fs::remove_file(folder.path().join("dirnet.toml")).expect("it is there, and would be found");
    write_two_layers(&folder.path().join("two.onnx"), &folder.path().join("model.onnx"));
    // Every list has an entry: a layer that is left out, a check, a layer that was tuned.
    let command = "dirnet compress two.onnx -o s.onnx --ratio 4 --sensitivity local --calibration samples.npz --exclude other \
                   --min-snr logits:1 -q --report r.json";
    assert_eq!(shell(folder.path(), command), (Some(0), String::new()));
    let text = fs::read_to_string(folder.path().join("r.json")).expect("was written");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let documented = fs::read_to_string(root().join("docs/ci.md")).expect("text");
    let table = documented.split("### The JSON").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let mut top = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let (keys, fields) = row.trim_matches('|').split_once('|').expect("two cells");
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        // What is in parentheses or after a semicolon explains; `field{its, fields}` is an object.
        let mut depth = 0;
        let mut named = String::new();
        for c in fields.chars() {
            depth += i32::from(c == '(');
            match c {
                ';' if depth == 0 => break,
                c if depth == 0 => named.push(c),
                _ => {}
            }
            depth -= i32::from(c == ')');
        }
        let fields: Vec<String> =
            words(&named).iter().map(|field| field.split('{').next().unwrap_or(field).to_owned()).collect();
        for key in words(keys) {
            top.extend(key.split(['.', '[']).next().map(str::to_owned));
            let mut value = &report;
            for part in key.split('.') {
                value = value.get(part.trim_end_matches("[]")).unwrap_or_else(|| panic!("there is no {key}"));
            }
            assert_eq!(value.is_array(), key.ends_with("[]"), "{key} is {value}");
            if fields.is_empty() {
                continue;
            }
            let Some(object) = value.get(0).unwrap_or(value).as_object() else {
                assert!(!value.is_array(), "{key}: an empty list shows no fields");
                continue;
            };
            let known: BTreeSet<&str> = fields.iter().map(|field| field.trim_end_matches("[]")).collect();
            let missing: Vec<&&str> = known.iter().filter(|field| !object.contains_key(**field)).collect();
            assert!(missing.is_empty(), "{key} has no {missing:?}, but {:?}", object.keys());
            let own_row = |field: &str| documented.contains(&format!("| `{key}.{field}[]` |"));
            let untold: Vec<&String> =
                object.keys().filter(|field| !known.contains(field.as_str()) && !own_row(field)).collect();
            assert!(untold.is_empty(), "{key}: docs/ci.md says nothing of {untold:?}");
        }
    }
    let untold: Vec<&String> =
        report.as_object().expect("an object").keys().filter(|key| !top.contains(*key)).collect();
    assert!(untold.is_empty(), "docs/ci.md says nothing of {untold:?}");
}

/// The keys that the example leaves commented out are real ones too. Of the model of the guide, which has no state and no
/// decoder, three of them are errors, which say so.
#[test]
#[cfg(unix)]
fn the_example_configuration_is_complete() {
    let folder = workplace();
    let text = fs::read_to_string(root().join("docs/dirnet.toml")).expect("text");
    let is_flag = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let unfitting = [
        ("stream", "error: stream 'state=stateN': the model has no input 'state'"),
        ("include", "error: model.onnx: --include '^/decoder/' is the name of no node with weights"),
        ("exclude", "error: model.onnx: --exclude 'head' is the name of no node with weights"),
    ];
    let mut seen = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_flag) {
        let config = format!("calibration = [\"samples.npz\"]\nsensitivity = \"none\"\nmax_size = \"400KB\"\n{line}\n");
        let config = if line.starts_with("max_") && !line.starts_with("max_kl") && !line.starts_with("max_abs") {
            config.replace("max_size = \"400KB\"\n", "")
        } else {
            config
        };
        fs::write(folder.path().join("one.toml"), config).expect("writes");
        let (code, errors) = shell(folder.path(), "dirnet plan model.onnx --config one.toml");
        let key = line.split(' ').next().unwrap_or_default();
        seen.push(key);
        match unfitting.iter().find(|(unfitting, _)| *unfitting == key) {
            Some((_, error)) => assert!(code != Some(0) && errors.contains(error), "{line}: {code:?} {errors}"),
            None => assert_eq!(code, Some(0), "{line}: {errors}"),
        }
    }
    assert!(seen.len() >= 11 && unfitting.iter().all(|(key, _)| seen.contains(key)), "{seen:?}");
}

#[test]
fn every_link_leads_somewhere() {
    for (path, text) in documents() {
        let folder = path.parent().expect("is in a folder");
        let prose: String = outside_fences(&text);
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if file.starts_with("http") {
                continue;
            }
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(file.exists(), "{}: {target} does not exist", path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&file).expect("text");
                let anchors: Vec<String> = text.lines().filter(|line| line.starts_with('#')).map(anchor_of).collect();
                assert!(anchors.iter().any(|known| known == anchor), "{}: {target}: {anchors:?}", path.display());
            }
        }
    }
}

fn outside_fences(text: &str) -> String {
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// The anchor that a heading gets.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Names and figures in messages of the troubleshooting page.
const EXAMPLES: [&str; 9] = ["N", "X", "Y", "GiB", "at", "output", "features", "logits", "[seq,"];

/// What people search for when something failed is what the program says.
#[test]
fn messages_in_troubleshooting_are_ours() {
    let mut source = String::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                source += &fs::read_to_string(path).expect("source is text").replace("\\\n", "").replace("\\\"", "\"");
            }
        }
    }
    let source: String = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("text");
    let messages: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("**`")?.split("`**").next()).collect();
    assert!(messages.len() > 14, "{messages:?}");
    for message in messages {
        // What stands between the names and numbers of the case at hand: a run of three words is said as it stands, unless
        // one of these is among them.
        let text = message.replace("'s ", "\u{2019}s ");
        let parts = text.split(['\u{2026}', ':', ';', '\'']).flat_map(|part| part.split("...")).map(str::trim);
        let mut checked = false;
        for part in parts {
            let words: Vec<&str> = part.split(' ').collect();
            let is_example = |word: &&str| EXAMPLES.contains(word) || word.contains(|c: char| c.is_ascii_digit());
            for three in words.windows(3).filter(|three| !three.iter().any(is_example)) {
                checked = true;
                let three = three.join(" ").replace('\u{2019}', "'");
                assert!(source.contains(&three), "'{three}' of '{message}' is not said by the program");
            }
        }
        assert!(checked, "nothing of '{message}' was looked for");
    }
}
