//! Processes that are asked to end, or killed: what they leave behind. Each test is named after a mishap of
//! docs/security.md.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::flag::register_conditional_default;
use tempfile::TempDir;

use crate::hostile::{QUICK, dirnet, endless, fine, fixture, huge, names, run, shown, write};

/// Takes long enough to write that it can be met at it.
const LARGE: u64 = 2 << 30;

/// What a writer that was stopped leaves, from the name of its target.
fn temporaries(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name.starts_with('.') && name.ends_with(".tmp")).collect()
}

/// Children inherit which signals are ignored, and in the background of a script some are. What is handled here, as if it were
/// not, is not ignored there.
fn heed_signals() {
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM] {
        register_conditional_default(signal, Arc::new(AtomicBool::new(true))).unwrap();
    }
}

fn start(directory: &TempDir, arguments: &[&str]) -> Child {
    let mut command = dirnet();
    command.args(arguments).current_dir(directory.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn send(signal: &str, process: impl ToString) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// The worker of a process, other than `before`.
#[cfg(target_os = "linux")]
fn worker_of(process: u32, before: &str) -> String {
    wait("no worker was started", || {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        children.split_whitespace().find(|&child| child != before).map(str::to_owned)
    })
}

/// A job with a worker, one in the process itself; asked to end while they write.
#[test]
fn a_signal_leaves_nothing_behind() {
    heed_signals();
    let directory = TempDir::new().unwrap();
    huge(&directory, LARGE);
    let compress = [&["compress", "model.onnx", "-o", "out.onnx", "--no-verify", "-q"][..], &QUICK].concat();
    assert_eq!(run(directory.path(), &compress), (Some(0), String::new()));
    let before = names(directory.path());
    assert_eq!(before, ["huge", "model.onnx", "out.onnx", "out.onnx.data"]);
    let expand = ["expand", "out.onnx", "-o", "dense.onnx"];
    let again = compress.iter().map(|&word| if word == "out.onnx" { "again.onnx" } else { word }).collect::<Vec<_>>();
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        for arguments in [&again[..], &expand] {
            let child = start(&directory, arguments);
            wait("nothing is written", || temporaries(directory.path()).first().cloned());
            send(signal, child.id());
            assert_eq!(shown(&child.wait_with_output().unwrap()), (Some(code), String::new()), "{arguments:?}");
            assert_eq!(names(directory.path()), before, "{arguments:?}");
        }
    }
    // Those that batch systems send, and Ctrl-\.
    for (signal, number) in
        [("-QUIT", SIGQUIT), ("-XCPU", SIGXCPU), ("-USR1", SIGUSR1), ("-USR2", SIGUSR2), ("-ALRM", SIGALRM)]
    {
        let child = start(&directory, &expand);
        wait("nothing is written", || temporaries(directory.path()).first().cloned());
        send(signal, child.id());
        assert_eq!(shown(&child.wait_with_output().unwrap()), (Some(128 + number), String::new()), "{signal}");
        assert_eq!(names(directory.path()), before, "{signal}");
    }
}

/// `ulimit -f`, as CI and batch systems set it: whatever is written, by whichever command, is an error like a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    write(&directory, "fine.onnx", &fine());
    let compress = [&["compress", "fine.onnx", "-o", "small.onnx", "--no-verify", "-q"][..], &QUICK].concat();
    assert_eq!(run(directory.path(), &compress), (Some(0), String::new()));
    let before = names(directory.path());
    let again = compress.iter().map(|&word| if word == "small.onnx" { "out.onnx" } else { word }).collect::<Vec<_>>();
    let plan = [&["plan", "fine.onnx", "--save", "out.toml", "-q"][..], &QUICK].concat();
    let expand = ["expand", "small.onnx", "-o", "out.onnx", "-q"];
    let inspect = ["inspect", "fine.onnx", "--report", "out.html", "-q"];
    for (arguments, file) in
        [(&again[..], "out.onnx"), (&plan, "out.toml"), (&expand, "out.onnx"), (&inspect, "out.html")]
    {
        let script = format!("ulimit -f 0; exec {} \"$@\"", env!("CARGO_BIN_EXE_dirnet"));
        let limited =
            Command::new("sh").args(["-c", &script, "sh"]).args(arguments).current_dir(directory.path()).output();
        let (code, line) = shown(&limited.unwrap());
        assert_eq!(code, Some(2), "{line}");
        assert!(line.starts_with(&format!("error: {file}: File too large")) && line.contains("ulimit -f"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert_eq!(names(directory.path()), before, "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let directory = TempDir::new().unwrap();
    huge(&directory, LARGE);
    let compress = [&["compress", "model.onnx", "-o", "out.onnx", "--no-verify", "-q"][..], &QUICK].concat();
    let child = start(&directory, &compress);
    // The worker is killed, and its supervisor clears up; the last worker writes what the first did not.
    let worker = worker_of(child.id(), "");
    let left = wait("nothing is written", || temporaries(directory.path()).first().cloned());
    send("-9", worker);
    assert_eq!(shown(&child.wait_with_output().unwrap()), (Some(0), String::new()));
    assert!(!directory.path().join(left).exists());
    let before = names(directory.path());
    assert_eq!(before, ["huge", "model.onnx", "out.onnx", "out.onnx.data"]);
    // A process that nobody waits for.
    let mut child = start(&directory, &["expand", "out.onnx", "-o", "dense.onnx"]);
    let left = wait("nothing is written", || temporaries(directory.path()).first().cloned());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(directory.path().join(left).exists() && !directory.path().join("dense.onnx").exists());
    assert_eq!(run(directory.path(), &["expand", "out.onnx", "-o", "dense.onnx", "-q"]), (Some(0), String::new()));
    assert_eq!(
        names(directory.path()),
        [&["dense.onnx".to_owned(), "dense.onnx.data".to_owned()], &before[..]].concat()
    );
}

/// `nohup` has a process ignore SIGHUP: it goes on.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_to_be_ignored_is_ignored() {
    let directory = TempDir::new().unwrap();
    huge(&directory, LARGE);
    let script = format!("trap '' HUP; exec {} \"$@\"", env!("CARGO_BIN_EXE_dirnet"));
    let arguments = ["compress", "model.onnx", "-o", "out.onnx", "--no-verify", "-q"];
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).args(arguments).args(QUICK).current_dir(directory.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("nothing is written", || temporaries(directory.path()).first().cloned());
    send("-HUP", child.id());
    assert_eq!(shown(&child.wait_with_output().unwrap()), (Some(0), String::new()));
    assert_eq!(names(directory.path()), ["huge", "model.onnx", "out.onnx", "out.onnx.data"]);
}

/// The worker dies of something that nobody foresaw; then the user's process, of kill -9.
#[cfg(target_os = "linux")]
#[test]
fn an_engine_that_is_killed_is_an_error() {
    let directory = TempDir::new().unwrap();
    write(&directory, "endless.onnx", &endless());
    let start = || start(&directory, &["verify", "endless.onnx", "endless.onnx", "--random"]);
    let child = start();
    // The job, then the probe that asks whose fault it was.
    let mut killed = String::new();
    for _ in 0..2 {
        killed = worker_of(child.id(), &killed);
        send("-9", &killed);
    }
    let (code, line) = shown(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{line}");
    assert!(line.starts_with("error: endless.onnx: could not be verified: ") && line.contains("signal: 9"), "{line}");

    let mut child = start();
    let worker = worker_of(child.id(), "");
    child.kill().unwrap();
    // It returns when both ends of the pipe are closed: the worker does not stay behind.
    child.wait_with_output().unwrap();
    assert!(!Path::new(&format!("/proc/{worker}/exe")).exists());
}

#[test]
fn kill_9_leaves_nothing_or_the_whole_file() {
    let directory = TempDir::new().unwrap();
    let model = fixture("gru256.onnx");
    let out = directory.path().join("out.onnx");
    let compress = ["compress", &model, "-o", "out.onnx", "--sensitivity", "none", "--no-verify", "-q"];
    let start = || start(&directory, &compress);
    let begun = Instant::now();
    assert!(start().wait_with_output().unwrap().status.success());
    let (whole, taken) = (fs::read(&out).unwrap(), begun.elapsed());
    fs::remove_file(&out).unwrap();
    let moments = 10;
    for moment in 1..=moments {
        let mut child = start();
        std::thread::sleep(taken * moment / moments);
        child.kill().unwrap();
        child.wait_with_output().unwrap(); // the worker too: it holds the pipe
        if out.exists() {
            assert!(fs::read(&out).unwrap() == whole, "half a file");
            fs::remove_file(&out).unwrap();
        }
        // The worker, which has outlived its supervisor, cleared up.
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn a_bench_is_guarded_too() {
    let directory = TempDir::new().unwrap();
    write(&directory, "endless.onnx", &endless());
    write(&directory, "fine.onnx", &fine());
    // The arguments of the workers are those of the user, whatever stands where.
    let bench = ["bench", "--runs", "1", "--warm-up", "0", "--verify-timeout", "1", "-q", "--", "fine.onnx"];
    assert_eq!(run(directory.path(), &bench), (Some(0), String::new()));
    let (code, line) = run(directory.path(), &[&bench[..], &["endless.onnx"]].concat());
    let why = "could not be measured: inference exceeds 1 s; increase --verify-timeout";
    assert_eq!((code, line), (Some(1), format!("error: endless.onnx: {why}\n")));
}
