//! The surface of the command line: exit code, stdout and stderr together.
//!
//! A case is shown the way a user would see it, so that a change of any of the three is a change of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run shows: the exit code, then both streams.
fn run(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dirnet"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the tool writes UTF-8");
    let code = output.status.code().map_or_else(|| "killed".to_owned(), |code| code.to_string());
    let shown: String = [("", text(output.stdout)), ("! ", text(output.stderr))]
        .iter()
        .flat_map(|(mark, stream)| stream.lines().map(move |line| format!("{mark}{line}\n")))
        .collect();
    format!("exit {code}\n{shown}")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Material outside the repository: models, and beside them broken ones.
fn shared() -> PathBuf {
    let models = std::env::var_os("DIRNET_MODELS").map(PathBuf::from);
    let models = models.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models"));
    models.parent().expect("it is inside a folder").to_owned()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let directory = scratch();
    for (arguments, line) in [
        (&[][..], "no command given; see 'dirnet --help'"),
        (&["shrink"], "unrecognized subcommand 'shrink'; see 'dirnet --help'"),
        (&["inspect"], "the following required arguments were not provided: <MODEL>; see 'dirnet inspect --help'"),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--ratio", "0.5"],
            "invalid value '0.5' for '--ratio <R>': expected a number above 1, such as 8 or 11.5; see 'dirnet --help'",
        ),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--ratio", "8", "--max-size", "2MB"],
            "the argument '--ratio <R>' cannot be used with '--max-size <SIZE>'; see 'dirnet compress --help'",
        ),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--no-verify", "--max-kl", "1"],
            "a gate needs the models to be run; drop it or --no-verify",
        ),
        (
            &["inspect", "m.onnx", "--threads", "0"],
            "invalid value '0' for '--threads <N>': 0 is not in 1..=65535; see 'dirnet --help'",
        ),
        (
            &["inspect", "m.onnx", "--include", "a("],
            "invalid value 'a(' for '--include <RE>': unclosed group; see 'dirnet --help'",
        ),
    ] {
        assert_eq!(run(directory.path(), arguments), format!("exit 2\n! error: {line}\n"), "{arguments:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let directory = scratch();
    assert_eq!(run(directory.path(), &["--version"]), format!("exit 0\ndirnet {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["inspect", "compress", "verify", "expand", "completions"] {
        let help = run(directory.path(), &[command, "--help"]);
        assert!(help.starts_with("exit 0\n"), "{help}");
        assert!(help.contains("Example"), "{help}");
        assert!(!help.contains("\n! "), "{help}");
    }
}

#[test]
fn completions_for_every_shell() {
    let directory = scratch();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(directory.path(), &["completions", shell]);
        assert!(script.starts_with("exit 0\n") && script.contains("compress"), "{script}");
    }
}

#[test]
fn an_output_that_would_destroy_something_is_refused() {
    let directory = scratch();
    let at = |name: &str| directory.path().join(name);
    let model = fixture("charlm/gru256.onnx");
    for name in ["m.onnx", "x.data"] {
        std::fs::copy(&model, at(name)).expect("copies");
    }
    std::fs::create_dir(at("folder")).expect("makes a directory");
    let mut cases = vec![
        ("m.onnx", "m.onnx", "m.onnx: this is the input; choose another output file"),
        ("m.onnx", "./folder/../m.onnx", "./folder/../m.onnx: this is the input; choose another output file"),
        ("x.data", "x", "x.data: this is the input; choose another output file"),
        ("m.onnx", "folder", "folder: cannot write there: it is a directory; name a file in it"),
        ("m.onnx", "nowhere/s.onnx", "nowhere/s.onnx: cannot write there: its directory does not exist"),
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(at("m.onnx"), at("link.onnx")).expect("links");
        std::fs::hard_link(at("m.onnx"), at("twin.onnx")).expect("links");
        cases.push((
            "m.onnx",
            "link.onnx",
            "link.onnx: cannot write there: it is a symbolic link; name the file that it points to",
        ));
        cases.push(("m.onnx", "twin.onnx", "twin.onnx: this is the input; choose another output file"));
    }
    for (input, out, message) in cases {
        for command in ["compress", "expand"] {
            let shown = run(directory.path(), &[command, input, "-o", out]);
            assert_eq!(shown, format!("exit 2\n! error: {message}\n"), "{command} {input} -o {out}");
        }
    }
    assert_eq!(std::fs::read(at("m.onnx")).expect("reads"), std::fs::read(model).expect("reads"));
}

#[test]
fn a_report_that_cannot_be_written_is_refused_first() {
    let directory = scratch();
    std::fs::copy(fixture("charlm/gru256.onnx"), directory.path().join("m.json")).expect("copies");
    for (reports, message) in [
        (&["r.txt"][..], "r.txt: unknown type of report, expected a name that ends in .json"),
        (&["m.json"], "m.json: this is the input; choose another output file"),
        (&["r.json", "r.json"], "r.json: is an output twice"),
        (&["no/r.json"], "no/r.json: cannot write there: its directory does not exist"),
    ] {
        let mut arguments = vec!["compress", "m.json", "-o", "s.onnx", "--report"];
        arguments.extend(reports);
        assert_eq!(run(directory.path(), &arguments), format!("exit 2\n! error: {message}\n"));
    }
}

#[test]
fn a_configuration_error_names_file_and_line() {
    let directory = scratch();
    std::fs::write(directory.path().join("dirnet.toml"), "ratio = 8\nratoi = 8\n").expect("writes");
    let arguments = ["compress", "m.onnx", "-o", "s.onnx", "--config", "dirnet.toml"];
    assert_eq!(
        run(directory.path(), &arguments),
        "exit 2\n! error: dirnet.toml:2: unknown key 'ratoi'; see 'dirnet compress --help'\n"
    );
    std::fs::write(directory.path().join("dirnet.toml"), "ratio = 0.5\n").expect("writes");
    assert_eq!(
        run(directory.path(), &arguments),
        "exit 2\n! error: dirnet.toml: invalid value '0.5' for '--ratio <R>': expected a number above 1, such as 8 or \
         11.5; see 'dirnet --help'\n"
    );
}

/// A reader that stops early, as `head` does, is no error.
#[test]
fn a_broken_pipe_is_quiet() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dirnet"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // Closed before anything is read.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn inspect_shows_nodes_and_where_their_weights_come_from() {
    let directory = fixture("charlm");
    let shown = "\
exit 0
lstm256.onnx
3.51 MB, opset 17, IR version 8, made by pytorch 2.15.0

/m/rnn/LSTM (LSTM, forward, 64 -> 256)
     shape           stored  from           bytes  of file
  W  1 x 1024 x 64   float   initializer   262 KB    7.5 %
  R  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %

/m/rnn/LSTM_1 (LSTM, forward, 256 -> 256)
     shape           stored  from           bytes  of file
  W  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %
  R  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %

2 nodes can be compressed: 851,968 weights in 3.41 MB, 97.0 % of the file
next: dirnet compress lstm256.onnx -o OUT --ratio 8 --calibration SAMPLES
";
    assert_eq!(run(&directory, &["inspect", "lstm256.onnx"]), shown);
    let quiet = run(&directory, &["inspect", "lstm256.onnx", "-q"]);
    assert_eq!(quiet, "exit 0\n");
}

#[test]
fn inspect_speaks_json() {
    let shown = run(&fixture("charlm"), &["inspect", "gru256.onnx", "--format", "json", "--exclude", "GRU_1"]);
    let found: serde_json::Value = serde_json::from_str(shown.strip_prefix("exit 0\n").expect("done")).expect("JSON");
    assert_eq!(found["schema"], 1);
    assert_eq!(found["model"]["path"], "gru256.onnx");
    assert_eq!(found["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["nodes"][0]["weights"][1]["shape"], serde_json::json!([1, 768, 256]));
    assert_eq!(found["skipped"][0]["reason"], "excluded by --exclude");
    assert_eq!(found["recurrent"]["bytes"], 4 * 768 * (64 + 256));
}

/// Every broken model gets one line; those that are merely unusual are shown.
#[test]
fn broken_models_get_one_line() {
    let bad = shared().join("bad");
    let Ok(entries) = std::fs::read_dir(&bad) else {
        return println!("skipped: there is no {}", bad.display());
    };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let fine =
            ["ok", "all_zero_W", "nan_inf_weights", "contrib_lstm", "custom_domain", "bomb_constantofshape_32GB"];
        for model in std::fs::read_dir(&path).expect("a folder each") {
            let model = model.expect("a directory entry").path();
            if model.extension().is_none_or(|extension| extension != "onnx") {
                continue;
            }
            let file = model.file_name().expect("a name").to_string_lossy().into_owned();
            let shown = run(&path, &["inspect", &file]);
            if fine.contains(&name.as_str()) {
                assert!(shown.starts_with("exit 0\n"), "{name}: {shown}");
            } else {
                assert!(shown.starts_with("exit 2\n! error: ") && shown.lines().count() == 2, "{name}: {shown}");
                assert!(shown.contains("model.onnx: ") || shown.contains(".data: "), "{name}: {shown}");
            }
        }
    }
}
