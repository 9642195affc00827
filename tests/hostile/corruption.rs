//! A sweep of damaged real models: every structural byte of the first 4 KiB and 2,000 random others of each, one at a
//! time.
//!
//! ```sh
//! cargo run --release --example corruption -- FOLDER [--python PYTHON] [--jobs N] [--others N] [--only PART-OF-A-PATH]
//! ```
//! Each damaged model is read, described, and, where its weights can still be followed, rewritten with codes of no
//! meaning, which is all of compressing but the learning. What comes out is given to onnx.checker (`--python`: an
//! interpreter that has the package onnx), and the damaged input too if it does not pass. Then N of the damaged models,
//! spread over those that load, go through the whole job of the `dirnet` binary, random inputs, runs and all.
//!
//! Counted as failures, which are printed and make the exit code 1: a panic; more than 10 s; an output that onnx.checker
//! refuses while it accepts the input; a job that ends in anything but 0, 1, 2, or in more than one line. A structural
//! byte is one that is not a value of a tensor.

use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dirnet::code::CodedSite;
use dirnet::dictionary::{BlockCode, BlockSpec, Codebook, Scales};
use dirnet::encode::{self, Writing};
use dirnet::onnx::graph::for_each_tensor;
use dirnet::onnx::{LoadOptions, Model};
use dirnet::recurrent::FindOptions;
use dirnet::report::Inspection;
use dirnet::samples::Signature;
use dirnet::sites::Sites;
use dirnet::sites::Weights;
use prost::Message;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Damaged structural bytes lie before this.
const HEAD: usize = 4096;
/// Damaged bytes elsewhere, unless `--others` says so.
const OTHERS: usize = 2000;
const ENDLESS: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Count {
    damaged: usize,
    loaded: usize,
    rewritten: usize,
    checked: usize,
    refused_both: usize,
    jobs: usize,
    failures: usize,
    slowest: Duration,
}

struct Sweep {
    checker: Option<Checker>,
    binary: PathBuf,
    directory: tempfile::TempDir,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("usage: corruption FOLDER"));
    let (mut python, mut jobs, mut others, mut only) = (None, 0, OTHERS, String::new());
    while let Some(flag) = arguments.next() {
        let value = arguments.next().expect("every flag has a value");
        match flag.as_str() {
            "--python" => python = Some(value),
            "--jobs" => jobs = value.parse().expect("a number"),
            "--others" => others = value.parse().expect("a number"),
            "--only" => only = value,
            other => panic!("unknown flag {other}"),
        }
    }
    std::panic::set_hook(Box::new(|_| {}));
    let executable = std::env::current_exe().expect("there is one");
    let release = executable.parent().and_then(Path::parent).expect("examples lie in a folder of the build's");
    let mut sweep = Sweep {
        checker: python.map(|python| Checker::start(&python)),
        binary: release.join("dirnet"),
        directory: tempfile::tempdir().expect("a temporary directory"),
    };
    let mut files = Vec::new();
    collect(&folder, &mut files);
    files.sort();
    let (mut total, start) = (Count::default(), Instant::now());
    for file in files.iter().filter(|file| file.to_string_lossy().contains(&only)) {
        let count = sweep.model(file, jobs, others);
        println!("{}: {}", file.strip_prefix(&folder).unwrap_or(file).display(), count.line());
        total.add(&count);
    }
    println!("all, in {:.0} s: {}", start.elapsed().as_secs_f64(), total.line());
    std::process::exit(i32::from(total.failures > 0));
}

impl Sweep {
    fn model(&mut self, file: &Path, jobs: usize, others: usize) -> Count {
        let whole = std::fs::read(file).expect("can be read");
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut count = Count::default();
        let mut loadable = Vec::new();
        for place in places(&whole, others, &mut random) {
            let flip = random.random_range(1..=255u8);
            let mut damaged = whole.clone();
            damaged[place] ^= flip;
            count.damaged += 1;
            let name = format!("{} byte {place} ^ {flip}", file.display());
            let start = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| examine(&damaged)));
            count.slowest = count.slowest.max(start.elapsed());
            let (loaded, output) = outcome.unwrap_or_else(|_| {
                count.fail(&name, "panics");
                (false, None)
            });
            if start.elapsed() > ENDLESS {
                count.fail(&name, "takes too long");
            }
            if loaded {
                count.loaded += 1;
                loadable.push((place, flip));
            }
            if let Some(output) = output {
                count.rewritten += 1;
                self.check(&damaged, &output, &name, &mut count);
            }
        }
        for n in 0..jobs.min(loadable.len()) {
            let (place, flip) = loadable[n * loadable.len() / jobs.min(loadable.len())];
            let mut damaged = whole.clone();
            damaged[place] ^= flip;
            self.job(&damaged, &format!("{} byte {place} ^ {flip}", file.display()), &mut count);
        }
        count
    }

    fn check(&mut self, input: &[u8], output: &[u8], name: &str, count: &mut Count) {
        let Some(checker) = &mut self.checker else { return };
        count.checked += 1;
        let answer = checker.ask(output);
        if answer != "ok" {
            match checker.ask(input).as_str() {
                "ok" => count.fail(name, &format!("the output does not pass onnx.checker: {answer}")),
                _ => count.refused_both += 1,
            }
        }
    }

    /// The whole job, by the binary.
    fn job(&self, damaged: &[u8], name: &str, count: &mut Count) {
        count.jobs += 1;
        let [input, output] = ["in.onnx", "out.onnx"].map(|name| self.directory.path().join(name));
        std::fs::write(&input, damaged).expect("can be written");
        let start = Instant::now();
        let done = Command::new(&self.binary)
            .arg("compress")
            .arg(&input)
            .arg("-o")
            .arg(&output)
            .args(["--ratio", "4", "--sensitivity", "none", "--verify-timeout", "8", "--verify-memory", "2GB", "-q"])
            .output()
            .expect("the binary is beside the examples: build it first");
        let error = String::from_utf8_lossy(&done.stderr);
        let sound = match done.status.code() {
            Some(0) => error.is_empty(),
            Some(1 | 2) => error.starts_with("error: ") && error.lines().count() == 1 && !error.contains("internal"),
            _ => false,
        };
        if !sound {
            count.fail(name, &format!("the job ends with {}: {error}", done.status));
        }
        // The three attempts of a job that had to be stopped.
        if start.elapsed() > 3 * ENDLESS {
            count.fail(name, "the job takes too long");
        }
        count.slowest = count.slowest.max(start.elapsed());
        if output.exists() && Model::load(&output, &LoadOptions::default()).is_err() {
            count.fail(name, "what the job wrote cannot be read");
        }
        let _ = std::fs::remove_file(output);
    }
}

/// Every structural byte of the head, and others at random.
fn places(whole: &[u8], wanted: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let bytes = Bytes::copy_from_slice(whole);
    let start = bytes.as_ptr() as usize;
    let model = Model::from_bytes(bytes, &LoadOptions { allow_newer: true }).expect("the model is sound");
    let mut structural = vec![true; whole.len()];
    // Values are slices of the file.
    for_each_tensor(&model.proto, |tensor| {
        let raw = tensor.raw_data();
        let from = (raw.as_ptr() as usize).wrapping_sub(start);
        if let Some(values) = structural.get_mut(from..from.saturating_add(raw.len())) {
            values.fill(false);
        }
    });
    let head = (0..whole.len().min(HEAD)).filter(|&place| structural[place]).collect::<Vec<_>>();
    let others: Vec<usize> = (0..whole.len()).filter(|&place| place >= HEAD || !structural[place]).collect();
    let chosen = (0..wanted.min(others.len())).map(|_| others[random.random_range(0..others.len())]);
    head.iter().copied().chain(chosen).collect()
}

/// Whether a damaged model can be read, and what becomes of it.
fn examine(damaged: &[u8]) -> (bool, Option<Vec<u8>>) {
    let Ok(model) = Model::from_bytes(Bytes::copy_from_slice(damaged), &LoadOptions::default()) else {
        return (false, None);
    };
    let _ = Signature::of(&model);
    if let Ok(sites) = Sites::all(&model, &FindOptions::default()) {
        let _ = Inspection::new(&model, &sites);
    }
    (true, rewritten(&model).map(|model| model.proto.encode_to_vec()))
}

/// The model with codes of no meaning.
fn rewritten(model: &Model) -> Option<Model> {
    let weights = Weights::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).ok()?;
    let spec = BlockSpec::new(2).ok()?;
    let codebook = Arc::new(Codebook { spec, atoms: vec![1; 512] });
    let coded = weights.sites().map(|unit| {
        let [rows, columns] = unit.block.shape();
        let codes = vec![7; rows * spec.pieces(columns)];
        let scales = Scales { codes: vec![1; rows], step: 0.5 };
        let coded = BlockCode { rows, columns, codes, scales, codebook: codebook.clone(), grid: None };
        Some(CodedSite::Block(coded))
    });
    let writing = Writing { note: "corruption".to_owned(), ..Writing::default() };
    encode::apply(model, &weights, &coded, &writing).ok()
}

/// onnx.checker in another process.
struct Checker {
    _child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Checker {
    fn start(python: &str) -> Checker {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/checker.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let requests = child.stdin.take().expect("is piped");
        let answers = BufReader::new(child.stdout.take().expect("is piped"));
        Checker { _child: child, requests, answers }
    }

    fn ask(&mut self, model: &[u8]) -> String {
        writeln!(self.requests, "{}", model.len()).expect("the checker lives");
        self.requests.write_all(model).and_then(|()| self.requests.flush()).expect("the checker lives");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the checker lives");
        assert!(!answer.is_empty(), "the checker died");
        answer.trim().to_owned()
    }
}

impl Count {
    fn fail(&mut self, name: &str, what: &str) {
        self.failures += 1;
        println!("FAILURE {name}: {what}");
    }

    fn add(&mut self, other: &Count) {
        let Count { damaged, loaded, rewritten, checked, refused_both, jobs, failures, slowest } = other;
        self.damaged += damaged;
        self.loaded += loaded;
        self.rewritten += rewritten;
        self.checked += checked;
        self.refused_both += refused_both;
        self.jobs += jobs;
        self.failures += failures;
        self.slowest = self.slowest.max(*slowest);
    }

    fn line(&self) -> String {
        let Count { damaged, loaded, rewritten, checked, refused_both, jobs, failures, slowest } = self;
        format!(
            "{damaged} damaged, {loaded} load, {rewritten} rewritten, {checked} checked ({refused_both} of bad inputs), \
             {jobs} jobs, slowest {:.1} s, {failures} failures",
            slowest.as_secs_f64()
        )
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            files.push(path);
        }
    }
}
