//! The surface of the command line: exit code, stdout and stderr together.
//!
//! A case is shown the way a user would see it, so that a change of any of the three is a change of the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dirnet::onnx::{LoadOptions, Model};
use dirnet::recurrent::FindOptions;
use dirnet::report::table::Style;
use dirnet::report::{Inspection, Show};
use dirnet::sites::Sites;

use crate::{corpus, forms};

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

/// What a run that ended well printed on stdout.
fn json_of(shown: &str) -> &str {
    let stdout = shown.strip_prefix("exit 0\n").and_then(|shown| shown.split("\n! ").next());
    stdout.unwrap_or_else(|| panic!("{shown}"))
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let directory = scratch();
    let gru = fixture("charlm/gru256.onnx").to_string_lossy().into_owned();
    for (arguments, line) in [
        (&[][..], "no command given; see 'dirnet --help'"),
        (&["shrink"], "unrecognized subcommand 'shrink'; see 'dirnet --help'"),
        (&["inspect"], "the following required arguments were not provided: <MODEL>; see 'dirnet inspect --help'"),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--ratio", "0.5"],
            "invalid value '0.5' for '--ratio <R>': expected a number above 1, such as 8 or 11.5; see 'dirnet compress --help'",
        ),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--ratio", "8", "--max-size", "2MB"],
            "the argument '--ratio <R>' cannot be used with '--max-size <SIZE>'; see 'dirnet compress --help'",
        ),
        (
            &["compress", "m.onnx", "-o", "s.onnx", "--no-verify", "--max-kl", "1"],
            "checks such as --min-snr need verification; remove --no-verify",
        ),
        (
            &["inspect", "m.onnx", "--threads", "0"],
            "invalid value '0' for '--threads <N>': 0 is not in 1..=512; see 'dirnet inspect --help'",
        ),
        (
            &["inspect", &gru, "--exclude", "/m/rnn/GRU_7"],
            &format!(
                "{gru}: --exclude '/m/rnn/GRU_7' is the name of no node with weights (did you mean '/m/rnn/GRU'?); there are \
                 '/m/rnn/GRU', '/m/rnn/GRU_1', '/m/emb/Gather', '/m/rnn/Gather' and 1 more"
            ),
        ),
        (
            &["compress", &gru, "-o", "s.onnx", "--include", "decoder"],
            &format!(
                "{gru}: --include 'decoder' is the name of no node with weights; there are '/m/rnn/GRU', '/m/rnn/GRU_1', \
                 '/m/emb/Gather', '/m/rnn/Gather' and 1 more"
            ),
        ),
        (
            &["inspect", "m.onnx", "--include", "a("],
            "invalid value 'a(' for '--include <RE>': unclosed group; see 'dirnet inspect --help'",
        ),
    ] {
        assert_eq!(run(directory.path(), arguments), format!("exit 2\n! error: {line}\n"), "{arguments:?}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let directory = scratch();
    assert_eq!(run(directory.path(), &["--version"]), format!("exit 0\ndirnet {}\n", env!("CARGO_PKG_VERSION")));
    let commands = run(directory.path(), &["--help"]);
    let commands =
        commands.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of them");
    // What begins further to the right is the end of a line that was too long.
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.len() > 8 && commands.contains(&"sweep"), "{commands:?}");
    for command in commands.into_iter().filter(|command| !["", "help"].contains(command)) {
        let help = run(directory.path(), &[command, "--help"]);
        assert!(help.starts_with("exit 0\n"), "{help}");
        assert!(help.contains("Example"), "{help}");
        assert!(!help.contains("\n! "), "{help}");
    }
}

/// `-h` lists a dozen options that most people need, `--help` all of them, in groups. What only runs models does not speak
/// of calibration.
#[test]
fn short_help_is_short_and_long_help_is_complete() {
    let directory = scratch();
    let options = |help: &str| {
        let is_option = |line: &&str| line.starts_with("      --") || line.starts_with("  -");
        help.lines().filter(is_option).count()
    };
    for command in ["inspect", "compress", "verify", "plan", "sweep", "bench"] {
        let [short, long] = ["-h", "--help"].map(|flag| run(directory.path(), &[command, flag]));
        assert!((3..=15).contains(&options(&short)), "{short}");
        assert!(options(&long) > options(&short), "{long}");
        let tests = ["verify", "bench"].contains(&command);
        assert_eq!(short.contains("--samples"), tests, "{short}");
        assert!(!tests || !short.contains("calibrat"), "{short}");
        // One name of a flag is shown, that of the examples; the other is accepted.
        assert_eq!(long.contains("--holdout "), !tests && command != "inspect", "{long}");
    }
    for command in ["compress", "expand"] {
        let usage = run(directory.path(), &[command, "-h"]);
        assert!(usage.contains("Usage: dirnet ") && usage.contains("> -o <OUT>\n"), "{usage}");
    }
    let long = run(directory.path(), &["compress", "--help"]);
    for heading in ["Target (one)", "Samples", "Compression", "Checks", "Nodes", "Execution", "Output"] {
        assert_eq!(long.matches(&format!("\n{heading}:\n")).count(), 1, "{heading}: {long}");
    }
}

#[test]
fn manual_pages() {
    let directory = scratch();
    let page = run(directory.path(), &["man", "compress"]);
    assert!(page.starts_with("exit 0\n") && page.contains(".TH") && page.contains("calibration"), "{page}");
    assert!(run(directory.path(), &["man", "shrink"]).starts_with("exit 2\n! error: there is no command 'shrink'"));
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
        (
            &["r.txt"][..],
            "r.txt: unknown type of report, expected a name that ends in .html, .md, .json or .xml (JUnit)",
        ),
        (&["m.json"], "m.json: this is the input; choose another output file"),
        (&["r.json", "r.json"], "r.json: is used for two outputs"),
        (&["no/r.json"], "no/r.json: cannot write there: its directory does not exist"),
    ] {
        let mut arguments = vec!["compress", "m.json", "-o", "s.onnx"];
        arguments.extend(reports.iter().flat_map(|report| ["--report", *report]));
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
        "exit 2\n! error: dirnet.toml:2: unknown key 'ratoi' (did you mean 'ratio'?); see 'dirnet compress --help'\n"
    );
    std::fs::write(directory.path().join("dirnet.toml"), "ratio = 0.5\n").expect("writes");
    assert_eq!(
        run(directory.path(), &arguments),
        "exit 2\n! error: dirnet.toml: invalid value '0.5' for '--ratio <R>': expected a number above 1, such as 8 or \
         11.5; see 'dirnet compress --help'\n"
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

inputs
  tokens  int64  [seq, batch]

outputs
  logits  float  [seq, batch, 65]

/m/rnn/LSTM (LSTM, forward, 64 -> 256)
     shape           stored  from           bytes  of file
  W  1 x 1024 x 64   float   initializer   262 KB    7.5 %
  R  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %

/m/rnn/LSTM_1 (LSTM, forward, 256 -> 256)
     shape           stored  from           bytes  of file
  W  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %
  R  1 x 1024 x 256  float   initializer  1.05 MB   29.9 %

other nodes
  Gather              65 x 64  16.6 KB, 0.5 %        /m/emb/Gather
  MatMul             65 x 256  66.6 KB, 1.9 %        /m/out/MatMul

4 nodes can be compressed: 872,768 weights in 3.49 MB, 99.4 % of the file
next: dirnet compress lstm256.onnx -o OUT --ratio 8 --calibration SAMPLES
";
    assert_eq!(run(&directory, &["inspect", "lstm256.onnx"]), shown);
    let quiet = run(&directory, &["inspect", "lstm256.onnx", "-q"]);
    assert_eq!(quiet, "exit 0\n");
}

/// Names that a pattern must match are shown in full, and states that the caller keeps are told.
#[test]
fn inspect_tells_how_a_stream_is_fed() {
    for (model, parts) in [
        (
            "branches",
            &[
                "\nthen/then/rnn/LSTM (LSTM, forward, 6 -> 4)\n",
                "\n  state  float  [2, batch, 4]\n",
                "--calibration SAMPLES \\\n        --stream state=stateN\n",
            ][..],
        ),
        ("twins", &["--stream h=hn \\\n        --stream c=cn\n"]),
        ("half", &["--calibration SAMPLES\n"]),
    ] {
        let model = Model::open(fixture("graphs").join(format!("{model}.onnx"))).expect("loads");
        let sites = Sites::all(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() })
            .expect("it can be read");
        let mut found = Inspection::new(&model, &sites).expect("it can be read");
        // Some are too small for a proposal.
        found.proposed_ratio = Some(8.0);
        let shown = found.table(&Style::default());
        parts.iter().for_each(|part| assert!(shown.contains(part), "{part}: {shown}"));
    }
}

/// A command is proposed only if it can succeed.
#[test]
fn inspect_proposes_nothing_for_layers_that_are_too_small() {
    let shown = run(&fixture("graphs"), &["inspect", "twins.onnx"]);
    assert!(shown.contains("\nnothing to gain: a codebook takes more bytes than it saves in "), "{shown}");
    assert!(!shown.contains("dirnet compress"), "{shown}");
    let directory = scratch();
    forms::model(&forms::GRU).save(&directory.path().join("m.onnx")).expect("writes");
    let shown = run(directory.path(), &["inspect", "m.onnx"]);
    let ratio = shown.split("--ratio ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a proposal");
    assert!(ratio.parse::<f64>().expect("a number") < 8.0, "{shown}");
    let compress = ["compress", "m.onnx", "-o", "s.onnx", "--ratio", ratio, "--dim", "T=4"];
    let shown = run(directory.path(), &[&compress[..], &["--dim", "B=2"]].concat());
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    // Random inputs are no calibration: the file is for trying out.
    assert!(shown.contains("next: compress again with --calibration") && !shown.contains("ship this file"), "{shown}");
}

#[test]
fn a_text_is_not_a_model() {
    let directory = scratch();
    std::fs::write(directory.path().join("m.onnx"), "ratio = 8\n").expect("writes");
    let shown = run(directory.path(), &["inspect", "m.onnx"]);
    assert!(shown.starts_with("exit 2\n! error: m.onnx: not an ONNX model: it is a text file"), "{shown}");
}

#[test]
fn inspect_tells_how_a_stream_of_real_models_is_fed() {
    for (model, parts) in [
        (
            "silero_vad_v5/silero_vad.onnx",
            &[
                "\nIf_0_else_branch__Inline_0__/decoder/rnn/LSTM (LSTM, forward, 128 -> 128)\n",
                "\n  state  float  [2, ?, 128]\n",
                "--calibration SAMPLES \\\n        --stream state=stateN\n",
            ][..],
        ),
        ("silero_vad_v4/silero_vad.onnx", &["--stream h=hn \\\n        --stream c=cn\n"]),
        ("pose_gru/gru_model.onnx", &["--calibration SAMPLES\n"]),
    ] {
        let Some(models) = corpus::models() else { return };
        let shown = run(&models, &["inspect", &models.join(model).to_string_lossy()]);
        parts.iter().for_each(|part| assert!(shown.contains(part), "{part}: {shown}"));
    }
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
    assert_eq!(found["inputs"], serde_json::json!([{"name": "tokens", "element": "int64", "shape": ["seq", "batch"]}]));
    assert_eq!(found["states"], serde_json::json!([]));
}

/// Every broken model gets one line; those that are merely unusual are shown.
#[test]
fn broken_models_get_one_line() {
    let mut seen = 0;
    for entry in std::fs::read_dir(crate::broken::folder()).expect("a folder of them") {
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
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} models");
}

/// The whole way: compress, inspect, verify, expand, and back again.
#[test]
fn a_model_goes_there_and_back() {
    let directory = scratch();
    let at = |name: &str| fixture("charlm").join(name).to_string_lossy().into_owned();
    let (model, calibration, holdout) = (at("gru256.onnx"), at("calibration.npz"), at("holdout.npz"));
    let dirnet = |arguments: &[&str]| run(directory.path(), arguments);

    let compress =
        ["compress", &model, "--sensitivity", "none", "--tune", "off", "--ratio", "8", "--calibration", &calibration];
    let reports =
        ["--report", "report.json", "--report", "report.html", "--report", "report.md", "--report", "report.xml"];
    let shown = dirnet(&[&compress[..], &["-o", "small.onnx", "--min-snr", "10", "-q"], &reports].concat());
    assert_eq!(shown, "exit 0\n");
    for (file, part) in [("html", "all checks passed"), ("md", "**passed**"), ("xml", "failures=\"0\"")] {
        let text = std::fs::read_to_string(directory.path().join(format!("report.{file}"))).expect("was written");
        assert!(text.contains(part) && text.contains("logits"), "{text}");
    }
    let report = std::fs::read_to_string(directory.path().join("report.json")).expect("was written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let bytes = std::fs::metadata(directory.path().join("small.onnx")).expect("was written").len();
    assert_eq!(report["model"]["bytes_after"], bytes);
    let (before, after) = (&report["weights"]["bytes_before"], &report["weights"]["bytes_after"]);
    let number = |value: &serde_json::Value| value.as_u64().expect("a count of bytes");
    let saved: u64 = report["lossless"].as_array().expect("steps").iter().map(|step| number(&step["bytes"])).sum();
    assert_eq!(number(&report["model"]["bytes_before"]) - bytes, number(before) - number(after) + saved);
    assert!(report["weights"]["ratio"].as_f64().expect("a ratio") >= 8.0);
    let kinds = report["weights"]["kinds"].as_array().expect("kinds");
    for (key, total) in [("bytes_before", before), ("bytes_after", after)] {
        assert_eq!(kinds.iter().map(|kind| number(&kind[key])).sum::<u64>(), number(total), "{kinds:?}");
        assert_eq!(number(&kinds[0][key]), number(&report["recurrent"][key]), "{kinds:?}");
    }
    let units = report["units"].as_array().expect("units");
    assert_eq!(units.len(), 14, "six gates of two layers, an embedding and the output layer");
    assert_eq!(units.iter().map(|unit| number(&unit["bytes_after"])).sum::<u64>(), number(after));
    assert_eq!(units.iter().map(|unit| number(&unit["bytes_before"])).sum::<u64>(), number(before));
    assert_eq!(report["verify"]["samples"], 3);
    let profile = &report["verify"]["outputs"][0]["profile"];
    assert_eq!(profile["along"], "axis 0 (seq)");
    assert_eq!(profile["rms"].as_array().map(Vec::len), Some(128), "an entry for each step");
    assert_eq!(report["verify"]["calibrated_on"], "calibration");

    let again = [&compress[..], &["-o", "again.onnx", "--threads", "1", "-q"]].concat();
    assert_eq!(dirnet(&again), "exit 0\n");
    let read = |name: &str| std::fs::read(directory.path().join(name)).expect("was written");
    assert!(read("small.onnx") == read("again.onnx"), "the bytes depend on the number of threads");

    let shown = dirnet(&["inspect", "small.onnx"]);
    assert!(shown.contains("compressed by dirnet: ") && shown.contains("  calibrated on  13 samples\n"), "{shown}");
    assert!(shown.contains("dirnet expand small.onnx"), "{shown}");
    let shown = dirnet(&["compress", "small.onnx", "-o", "smaller.onnx"]);
    assert!(shown.starts_with("exit 1\n! error: small.onnx: already compressed by dirnet"), "{shown}");

    assert_eq!(dirnet(&["expand", "small.onnx", "-o", "dense.onnx", "-q"]), "exit 0\n");
    let shown = dirnet(&["verify", "dense.onnx", "small.onnx", "--samples", &calibration, "--max-abs", "0"]);
    assert!(shown.starts_with("exit 0\n") && shown.contains("max-abs at most 0, measured 0"), "{shown}");

    // What tools that fold constants leave of it: dense weights, and the note.
    let load = |name: &str| Model::load(&directory.path().join(name), &LoadOptions::default()).expect("loads");
    let mut folded = load("dense.onnx");
    folded.proto.metadata_props = load("small.onnx").proto.metadata_props;
    folded.save(&directory.path().join("folded.onnx")).expect("writes");
    let shown = dirnet(&["inspect", "folded.onnx"]);
    assert!(shown.contains("\nfolded back: compressed by dirnet, but another tool made it dense again\n"), "{shown}");
    assert!(!dirnet(&["inspect", "dense.onnx"]).contains("folded back"));

    let shown = dirnet(&["verify", &model, "small.onnx", "--holdout", &holdout, "--min-snr", "logits:90"]);
    assert!(shown.starts_with("exit 1\n"), "{shown}");
    assert!(shown.contains("\n! error: output 'logits': snr "), "{shown}");
    assert!(shown.matches("FAILED").count() == 1 && shown.contains("\n1 of 1 checks failed in "), "{shown}");
    let shown = dirnet(&["verify", &model, "small.onnx", "--random", "--min-snr", "logit:20"]);
    assert!(shown.starts_with("exit 2\n! error: --min-snr names 'logit', not an output"), "{shown}");
}

/// What a CI system shows of a check that fails: the output, the check, and by how much.
#[test]
fn junit_names_the_check_that_failed() {
    let directory = scratch();
    let model = fixture("charlm/gru256.onnx").to_string_lossy().into_owned();
    let holdout = fixture("charlm/calibration.npz").to_string_lossy().into_owned();
    let verify = ["verify", &model, &model, "--holdout", &holdout, "--format", "junit"];
    let shown = run(directory.path(), &[&verify[..], &["--min-snr", "20"]].concat());
    assert!(shown.starts_with("exit 0\n<?xml") && shown.contains("name=\"--min-snr 20\""), "{shown}");
    // Each case bears its share of the time, or a CI system shows none.
    let times: Vec<&str> = shown.split(" time=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(times.len() == 4 && times.iter().all(|time| time.parse::<f64>().is_ok_and(|time| time > 0.0)), "{shown}");
    let shown = run(directory.path(), &[&verify[..], &["--max-abs=0", "--min-agreement=1"]].concat());
    assert!(shown.contains("tests=\"3\" skipped=\"0\" failures=\"0\""), "{shown}");
    let shown = run(directory.path(), &["sweep", &model, "--format", "junit"]);
    assert!(shown.starts_with("exit 2\n! error: JUnit output needs verification"), "{shown}");
}

/// A check that fails leaves no file, and `--keep-failed` does.
#[test]
fn a_failed_check_writes_nothing() {
    let directory = scratch();
    let (model, samples) = (fixture("charlm/gru256.onnx"), fixture("charlm/calibration.npz"));
    let arguments =
        ["compress", &model.to_string_lossy(), "-o", "small.onnx", "--sensitivity", "none", "--tune", "off"];
    let checks = ["--calibration", &samples.to_string_lossy(), "--max-abs", "1e-9"];
    let shown = run(directory.path(), &[&arguments[..], &checks].concat());
    assert!(shown.starts_with("exit 1\n") && shown.contains("nothing was written"), "{shown}");
    assert_eq!(std::fs::read_dir(directory.path()).expect("reads").count(), 0);
    let shown = run(directory.path(), &[&arguments[..], &checks, &["--keep-failed"]].concat());
    assert!(shown.starts_with("exit 1\n") && shown.contains("wrote small.onnx"), "{shown}");
    assert!(directory.path().join("small.onnx").exists());
}

#[test]
fn targets_that_cannot_be_met_exit_1_with_the_nearest() {
    let directory = scratch();
    let model = fixture("charlm/gru256.onnx");
    let samples = fixture("charlm/calibration.npz");
    let compress = |more: &[&str]| {
        let arguments = ["compress", &model.to_string_lossy(), "-o", "s.onnx", "--tune", "off", "--calibration"];
        run(directory.path(), &[&arguments[..], &[&samples.to_string_lossy()], more].concat())
    };
    let nearest = [&["--sensitivity", "none"][..], &[]].map(|how| {
        let shown = compress(&[how, &["--ratio", "400"]].concat());
        // The one line says that nothing was run before.
        assert!(shown.starts_with("exit 1\n! error: ") && shown.lines().count() == 2, "{shown}");
        assert!(shown.contains("gru256.onnx: --ratio 400 cannot be reached; the nearest is --ratio "), "{shown}");
        let ratio = shown.split("the nearest is --ratio ").nth(1).and_then(|it| it.split(',').next());
        ratio.unwrap_or_else(|| panic!("{shown}")).to_owned()
    });
    let shown = compress(&["--sensitivity", "none", "--ratio", &nearest[0]]);
    assert!(shown.starts_with("exit 0\n"), "{shown}");
    assert!(shown.contains("! calibrate ...\n"), "a log says what is being done: {shown}");
}

#[test]
fn a_wrong_name_is_told_with_the_right_ones() {
    let directory = scratch();
    let (model, samples) = (fixture("charlm/gru256.onnx"), fixture("charlm/calibration.npz"));
    let plan = ["plan", &model.to_string_lossy(), "--calibration", &samples.to_string_lossy()];
    let shown = run(directory.path(), &[&plan[..], &["--stream", "token=logits"]].concat());
    let error = "stream 'token=logits': the model has no input 'token' (did you mean 'tokens'?); its inputs are tokens, \
                 its outputs logits";
    assert_eq!(shown, format!("exit 2\n! error: {error}\n"));
    for (arguments, line) in [
        (&["inspect", "absent.onnx"][..], "absent.onnx: No such file or directory"),
        (&["plan", plan[1], "--calibration", "a.npz"], "--calibration: a.npz: No such file or directory"),
        (&["plan", plan[1], "--config", "a.toml"], "a.toml: cannot read: No such file or directory"),
    ] {
        assert_eq!(run(directory.path(), arguments), format!("exit 2\n! error: {line}\n"));
    }
}

/// A plan that was saved makes the same model as the flags that it was made from.
#[test]
fn a_saved_plan_is_applied() {
    let directory = scratch();
    let (model, samples) = (fixture("charlm/gru256.onnx"), fixture("charlm/calibration.npz"));
    let flags = [
        &model.to_string_lossy(),
        "--calibration",
        &*samples.to_string_lossy(),
        "--sensitivity",
        "none",
        "--tune",
        "off",
    ];
    let dirnet = |arguments: &[&str]| run(directory.path(), &[arguments, &flags[..]].concat());
    let shown = dirnet(&["plan", "--ratio", "10", "--save", "plan.toml"]);
    assert!(shown.starts_with("exit 0\n") && shown.contains("    recurrent  "), "{shown}");
    assert_eq!(dirnet(&["compress", "-o", "a.onnx", "--ratio", "10", "-q"]), "exit 0\n");
    assert_eq!(dirnet(&["compress", "-o", "b.onnx", "--plan", "plan.toml", "-q"]), "exit 0\n");
    let read = |name: &str| std::fs::read(directory.path().join(name)).expect("was written");
    assert!(read("a.onnx") == read("b.onnx"), "the plan makes another model");

    let plan = String::from_utf8(read("plan.toml")).expect("text");
    for (from, to, message) in [
        ("gate = \"z\"", "gate = \"q\"", "there is no [[unit]] for /m/rnn/GRU/W/forward/z"),
        (
            "codec = \"block\"",
            "codec = \"magic\"",
            "node '/m/rnn/GRU': codec 'magic' is unknown, expected block, projection or dense",
        ),
        ("version = 1", "version = 2", "plan of version 2, expected 1"),
        ("version = 1", "version = 1\nspeed = 3", "line 10: unknown field `speed`, expected `version` or `unit`"),
    ] {
        std::fs::write(directory.path().join("bad.toml"), plan.replacen(from, to, 1)).expect("writes");
        let shown = dirnet(&["compress", "-o", "c.onnx", "--plan", "bad.toml"]);
        assert!(shown.ends_with(&format!("\n! error: bad.toml: {message}\n")), "{shown}");
    }

    // What the configuration says of a gate is what the plan says, or nobody knows which of them is meant.
    for (bits, agrees) in [("dense", false), ("block", true)] {
        let width = plan.split("width = ").nth(1).and_then(|rest| rest.lines().next()).expect("a width");
        let sharing = plan.split("sharing = ").nth(1).and_then(|rest| rest.lines().next()).expect("a sharing");
        let how = if agrees { format!("width = {width}, sharing = {sharing}") } else { "codec = 'dense'".to_owned() };
        let config = format!("[nodes.'GRU$']\ngates.'W.z' = {{ {how} }}\n");
        std::fs::write(directory.path().join("dirnet.toml"), config).expect("writes");
        let shown = dirnet(&["compress", "-o", "d.onnx", "--plan", "plan.toml", "--config", "dirnet.toml"]);
        let refused = shown
            .contains("! error: plan.toml: /m/rnn/GRU/W/forward/z: the plan and [nodes] of the configuration disagree");
        assert_eq!((shown.starts_with("exit 0\n"), refused), (agrees, !agrees), "{bits}: {shown}");
    }
}

/// What the configuration says of a gate is what is stored; the rest makes room for it.
#[test]
fn gates_are_pinned_by_the_configuration() {
    let directory = scratch();
    let (model, samples) = (fixture("charlm/gru256.onnx"), fixture("charlm/calibration.npz"));
    let config = "sensitivity = 'none'\ntune = 'off'\nratio = 6\n[nodes.'GRU$']\ngates.'R.h' = { codec = 'dense' }\ngates.z = { bits = 8 }\n";
    std::fs::write(directory.path().join("dirnet.toml"), config).expect("writes");
    let arguments = ["plan", &model.to_string_lossy(), "--calibration", &*samples.to_string_lossy()];
    let shown = run(directory.path(), &[&arguments[..], &["--config", "dirnet.toml", "--format", "json"]].concat());
    let plan: serde_json::Value = serde_json::from_str(json_of(&shown)).expect("JSON");
    assert!(plan["weights"]["ratio"].as_f64().expect("a ratio") >= 6.0, "{shown}");
    let codec = |tensor: &str, gate: &str| {
        let mut units = plan["units"].as_array().expect("units").iter();
        let unit = units.find(|unit| unit["tensor"] == tensor && unit["gate"] == gate).expect("a unit");
        unit["codec"].as_str().expect("a name").to_owned()
    };
    assert_eq!(
        (codec("R", "h"), codec("W", "z"), codec("R", "z")),
        ("dense".into(), "block-1/unit".into(), "block-1/unit".into())
    );
    assert!(codec("R", "r").starts_with("block-") && codec("R", "r") != "block-1/unit");
    std::fs::write(directory.path().join("dirnet.toml"), "[nodes.'GRU']\ncodec = 'magic'\n").expect("writes");
    let shown = run(directory.path(), &[&arguments[..], &["--config", "dirnet.toml"]].concat());
    assert!(shown.contains("[nodes.\"GRU\"]: codec 'magic' is unknown, expected block or dense"), "{shown}");
    for (wrong, message) in [
        (
            "[nodes.'^/m/rnn/GRU_2$']\nbits = 4",
            "[nodes.\"^/m/rnn/GRU_2$\"]: no node with weights has such a name (did you mean '/m/rnn/GRU'?); there are \
             '/m/rnn/GRU', '/m/rnn/GRU_1', '/m/emb/Gather', '/m/out/MatMul'",
        ),
        (
            "[nodes.GRU]\ngates.'R.c' = { bits = 4 }",
            "[nodes.\"GRU\"]: there is no gate 'R.c'; gates are h, r, z, for one matrix W.h or R.h",
        ),
        ("[nodes.GRU]\ngates.q = { bits = 0 }", "[nodes.\"GRU\"]: gates.\"q\": 0 bits per weight, expected 0.5 to 8"),
        (
            "[nodes.GRU]\nskip = true\nbits = 4",
            "[nodes.\"GRU\"]: skip = true excludes all other settings: remove it or them",
        ),
    ] {
        std::fs::write(directory.path().join("dirnet.toml"), format!("seed = 1\n{wrong}\n")).expect("writes");
        for command in [&arguments[..], &["inspect", arguments[1]]] {
            let shown = run(directory.path(), &[command, &["--config", "dirnet.toml"]].concat());
            assert_eq!(shown, format!("exit 2\n! error: dirnet.toml:2: {message}\n"));
        }
    }
}

#[test]
fn nothing_to_do_exits_1() {
    let directory = scratch();
    let model = directory.path().join("relu.onnx");
    std::fs::write(&model, crate::broken::without_layers()).expect("writes");
    let model = model.to_string_lossy();
    let shown = run(directory.path(), &["compress", &model, "-o", "s.onnx"]);
    assert_eq!(
        shown,
        format!("exit 1\n! error: {model}: nothing to compress: the model has no node with enough constant weights\n")
    );
    assert!(run(directory.path(), &["inspect", &model]).starts_with("exit 0\n"));
}

#[test]
fn bench_measures_models_side_by_side() {
    let directory = scratch();
    let models = ["charlm/lstm256.onnx", "charlm/gru256.onnx"].map(|name| fixture(name).to_string_lossy().into_owned());
    let holdout = fixture("charlm/holdout.npz").to_string_lossy().into_owned();
    let arguments =
        ["bench", &models[0], &models[1], "--runs", "1", "--warm-up", "0", "--holdout", &holdout, "--format", "json"];
    let shown = run(directory.path(), &arguments);
    let found: serde_json::Value = serde_json::from_str(json_of(&shown)).expect("it is JSON");
    assert_eq!((&found["runs"], &found["samples"]), (&serde_json::json!(1), &serde_json::json!(16)));
    assert_eq!(found["models"].as_array().map(Vec::len), Some(2));
    for (measured, path) in found["models"].as_array().expect("a list").iter().zip(&models) {
        assert_eq!(measured["path"], *path);
        let latency = |key: &str| measured["latency_ms"][key].as_f64().expect("a time");
        assert!(0.0 < latency("min") && latency("min") <= latency("median") && latency("median") <= latency("max"));
    }
    let missing = run(directory.path(), &["bench", "absent.onnx"]);
    assert!(missing.starts_with("exit 2\n! error: absent.onnx: "), "{missing}");
}
