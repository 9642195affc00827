//! Commands that run models run them in a child process, so that nothing a model does to the engine takes the tool down.
//!
//! A hostile or unlucky model can make the engine allocate without end, overflow its stack, or never come back; none of
//! that can be caught inside a process. So the *supervisor*, the process that the user started, starts the same binary
//! with the same arguments once more, as the *worker*, and waits. The worker does the whole job within limits: its
//! allocator counts and refuses, and a watchdog looks at how long the engine has been at one call. All that passes
//! between the two are arguments that the supervisor puts in front of the user's ([`enlist`]), the worker's stdout, which
//! it inherits, its exit code, and its stderr, where lines that begin with [`MARK`] are messages (progress, why it
//! stopped) and the others are for the user. No variable of the environment makes a process a worker, or changes what the
//! engine computes: a verdict must not depend on what some other program has exported.
//!
//! A worker that was stopped wrote nothing: files appear whole or not at all, and what it had begun to write is removed.
//! The supervisor then finds out whose fault it was by running the original alone (a *probe*). If that can be done, the
//! job ends with an error that names the model that is to blame. What needs no run (a plan, a result that nobody asked
//! to have verified) is then done by a last worker on the layers alone, and says so.
//!
//! `dirnet bench` starts a worker for each model, which sends its figures as one more message.
//!
//! Invariant: models that could not be run within the limits never count as verified.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, thread};

use dirnet::engine;
use dirnet::error::{Error, ErrorKind, words};
use dirnet::onnx::atomic;
use dirnet::progress::Progress;
use dirnet::report::Bytes;

use super::exit::{BAD_INPUT, FAILED, say};
use super::{ALLOCATOR, interrupt};

/// The first argument of a worker; the next two are its [`Role`], and whether its progress is shown.
const WORKER: &str = "__worker";
/// The third argument of a worker whose progress is shown, and of one whose is not.
const WATCHED: [&str; 2] = ["watched", "unwatched"];
/// What this process is, if it is a worker.
static ENLISTED: OnceLock<Enlisted> = OnceLock::new();
/// How the variables begin by which the engine could be tuned from outside: no worker gets them.
const ENGINE_VARIABLES: &str = "TRACT_";
/// Begins a line of stderr that is a message for the supervisor. No other line has it: the tool escapes foreign text.
const MARK: char = '\u{1e}';
/// What a worker that was stopped by its own watchdog exits with.
const STOPPED: u8 = 3;
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(50);

/// Limits on time and memory of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seconds that one run of a model, or its preparation, may take.
    pub seconds: u64,
    /// Bytes of memory that the whole job may take.
    pub bytes: u64,
}

/// What shows the progress of a worker, made anew for each; none for `-q`.
pub type Display = fn(quiet: bool) -> Option<Box<dyn Progress>>;

/// A job that runs models.
pub struct Guarded<'a> {
    /// What running them may take.
    pub limits: Limits,
    /// The model that is judged by.
    pub original: PathBuf,
    /// The model that is judged, if it is a file.
    pub compressed: Option<&'a Path>,
    /// Whether it can be done without running the models.
    pub layers: bool,
    /// The files that it writes.
    pub outputs: Vec<PathBuf>,
    /// Shows no progress.
    pub quiet: bool,
}

/// A worker's task.
struct Enlisted {
    role: Role,
    watched: bool,
}

/// Takes what a supervisor put in front of the user's arguments, if it did: this process is a worker from then on.
pub fn enlist(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.len() > 3 && arguments[1] == WORKER {
        let taken: Vec<OsString> = arguments.drain(1..4).collect();
        let enlisted = Enlisted { role: Role::parse(&taken[1].to_string_lossy()), watched: taken[2] == WATCHED[0] };
        // A process is started once.
        let _ = ENLISTED.set(enlisted);
    }
    arguments
}

/// What is asked of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// The job.
    Job,
    /// To run the original, and nothing else.
    Probe,
    /// The job without running the models, and why.
    Layers(String),
    /// To measure the model of this number.
    Measure(usize),
}

impl Role {
    fn current() -> Option<&'static Role> {
        ENLISTED.get().map(|enlisted| &enlisted.role)
    }

    fn parse(text: &str) -> Role {
        match text.split_once(':') {
            None if text == "probe" => Role::Probe,
            Some(("layers", reason)) => Role::Layers(reason.to_owned()),
            Some(("measure", index)) => index.parse().map_or(Role::Job, Role::Measure),
            _ => Role::Job,
        }
    }

    fn text(&self) -> String {
        match self {
            Role::Job => "job".to_owned(),
            Role::Probe => "probe".to_owned(),
            Role::Layers(reason) => format!("layers:{reason}"),
            Role::Measure(index) => format!("measure:{index}"),
        }
    }
}

/// Whether this process is a worker.
pub fn is_worker() -> bool {
    Role::current().is_some()
}

/// Whether this worker is only asked if the original can be run.
pub fn is_probe() -> bool {
    matches!(Role::current(), Some(Role::Probe))
}

/// Why this worker must not run the models, if it must not.
pub fn refused() -> Option<Error> {
    match Role::current() {
        Some(Role::Layers(reason)) => Some(Error::new(ErrorKind::Limit, reason.as_str())),
        _ => None,
    }
}

/// The number of the model that this worker is to measure.
pub fn measured() -> Option<usize> {
    match Role::current() {
        Some(Role::Measure(index)) => Some(*index),
        _ => None,
    }
}

/// Whether somebody sees the progress of this worker.
pub fn is_watched() -> bool {
    ENLISTED.get().is_some_and(|enlisted| enlisted.watched)
}

/// What a worker tells its supervisor.
pub enum Message {
    /// [`Progress::phase`].
    Phase(String, u64),
    /// [`Progress::advance`].
    Advance(u64),
    /// [`Progress::done`].
    Done,
    /// It reads samples, or makes them up; or it has them, and the largest is of so many bytes.
    Samples(Option<u64>),
    /// It stopped itself, and why.
    Stopped(String),
    /// What it was asked for, on one line.
    Figures(String),
}

impl Message {
    fn line(&self) -> String {
        match self {
            Message::Phase(name, total) => format!("{MARK}phase {total} {name}\n"),
            Message::Advance(n) => format!("{MARK}advance {n}\n"),
            Message::Done => format!("{MARK}done\n"),
            Message::Samples(None) => format!("{MARK}samples begun\n"),
            Message::Samples(Some(bytes)) => format!("{MARK}samples {bytes}\n"),
            Message::Stopped(why) => format!("{MARK}stopped {why}\n"),
            Message::Figures(text) => format!("{MARK}figures {text}\n"),
        }
    }

    fn parse(line: &str) -> Option<Message> {
        let (kind, rest) = line.strip_prefix(MARK)?.split_once(' ').unwrap_or((&line[MARK.len_utf8()..], ""));
        match kind {
            "phase" => {
                rest.split_once(' ').and_then(|(n, name)| Some(Message::Phase(name.to_owned(), n.parse().ok()?)))
            }
            "advance" => rest.parse().ok().map(Message::Advance),
            "done" => Some(Message::Done),
            "samples" => Some(Message::Samples(rest.parse().ok())),
            "stopped" => Some(Message::Stopped(rest.to_owned())),
            "figures" => Some(Message::Figures(rest.to_owned())),
            _ => None,
        }
    }
}

/// Sends a message to the supervisor.
pub fn tell(message: &Message) {
    // One write, so that lines of several threads do not mix. A supervisor that is gone needs no news.
    let _ = io::stderr().lock().write_all(message.line().as_bytes());
}

/// Puts this worker under its limits, for good.
pub fn arm(limits: Limits) {
    let bytes = usize::try_from(limits.bytes).unwrap_or(usize::MAX);
    // It fails only if more is in use already: then the next allocation is refused, which is what is wanted.
    if ALLOCATOR.set_limit(bytes).is_err() {
        stop(&memory(limits));
    }
    thread::spawn(move || {
        let most = Duration::from_secs(limits.seconds);
        loop {
            thread::sleep(LOOK);
            if engine::longest_call().is_some_and(|taken| taken > most) {
                stop(&format!("inference exceeds {} s; increase --verify-timeout", limits.seconds));
            }
        }
    });
    // The supervisor holds the other end: it is closed when the supervisor is gone, however that came.
    thread::spawn(|| {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        interrupt::cancel(BAD_INPUT);
    });
}

fn stop(why: &str) -> ! {
    tell(&Message::Stopped(why.to_owned()));
    interrupt::leave(STOPPED)
}

fn memory(limits: Limits) -> String {
    format!("it takes more than {} of memory; increase --verify-memory", Bytes(limits.bytes))
}

/// Has a worker do what `arguments` ask for, and returns the exit code for this process.
pub fn supervise(job: &Guarded<'_>, display: Display, arguments: &[OsString]) -> ExitCode {
    match attempts(job, display, arguments) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: cannot start a process for the engine: {}\n", words(&error)));
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn attempts(job: &Guarded<'_>, display: Display, arguments: &[OsString]) -> io::Result<ExitCode> {
    let run = |role: Role| {
        let progress = display(job.quiet).filter(|_| role != Role::Probe);
        let end = Worker::run(&role, job.limits, progress.as_deref(), arguments)?;
        if let End::Died(_) = end {
            job.outputs.iter().for_each(|output| atomic::remove_stale(output));
        }
        io::Result::Ok(end)
    };
    let reason = match run(Role::Job)? {
        End::Exit(code, said) => return Ok(shown(code, &said.text)),
        End::Samples(reason) => {
            say(&format!("error: {reason}\n"));
            return Ok(ExitCode::from(BAD_INPUT));
        }
        End::Died(reason) => reason,
    };
    if let End::Exit(0, _) = run(Role::Probe)? {
        return Ok(match job.compressed {
            Some(compressed) => failed(compressed, &format!("could not be verified: {reason}")),
            None => failed(&job.original, &format!("compression stopped, although the model can be run: {reason}")),
        });
    }
    if !job.layers {
        return Ok(failed(&job.original, &format!("could not be verified: {reason}")));
    }
    Ok(match run(Role::Layers(reason))? {
        End::Exit(code, said) => shown(code, &said.text),
        End::Died(reason) | End::Samples(reason) => failed(&job.original, &reason),
    })
}

/// Has a worker of its own measure the model of this number, and returns its figures.
pub fn measure(index: usize, model: &Path, limits: Limits, arguments: &[OsString]) -> anyhow::Result<String> {
    let failed = |kind, message: &str| Err(Error::new(kind, message).in_file(model).into());
    match Worker::run(&Role::Measure(index), limits, None, arguments)? {
        End::Exit(0, Said { figures: Some(figures), .. }) => Ok(figures),
        // It names the file itself; its own exit code is kept: whether the model cannot be run, or the input is wrong.
        End::Exit(code, Said { text, .. }) => {
            let message = text.trim().trim_start_matches("error: ").to_owned();
            let kind = if code == BAD_INPUT { ErrorKind::Usage } else { ErrorKind::Engine };
            Err(Error::new(kind, message).into())
        }
        End::Samples(reason) => Err(Error::new(ErrorKind::Samples, reason).into()),
        End::Died(reason) => failed(ErrorKind::Engine, &format!("could not be measured: {reason}")),
    }
}

fn shown(code: u8, text: &str) -> ExitCode {
    say(text);
    ExitCode::from(code)
}

fn failed(file: &Path, message: &str) -> ExitCode {
    say(&format!("error: {}\n", Error::new(ErrorKind::Engine, message).in_file(file)));
    ExitCode::from(FAILED)
}

/// How a worker ended.
enum End {
    /// By itself, with an exit code.
    Exit(u8, Said),
    /// Because it was stopped, and why.
    Died(String),
    /// Because samples need more memory than it may take, in words: no model is to blame.
    Samples(String),
}

/// What a worker said.
#[derive(Default)]
struct Said {
    /// Lines for the user.
    text: String,
    /// Whether it was at reading samples.
    at_samples: bool,
    /// Bytes of the largest sample.
    sample: u64,
    /// Why it stopped itself.
    stopped: Option<String>,
    /// What it was asked for.
    figures: Option<String>,
}

/// A child that works.
struct Worker(Child);

impl Worker {
    /// Has a worker do something and waits for its end. Does not return if this process was asked to end meanwhile.
    fn run(role: &Role, limits: Limits, progress: Option<&dyn Progress>, arguments: &[OsString]) -> io::Result<End> {
        let mut command = Command::new(env::current_exe()?);
        let watched = WATCHED[usize::from(progress.is_none())];
        // No argument can hold the end of a string; a reason does not need it.
        command.arg(WORKER).arg(role.text().replace('\0', " ")).arg(watched).args(arguments.iter().skip(1));
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(ENGINE_VARIABLES)) {
            command.env_remove(name);
        }
        if !matches!(role, Role::Measure(_)) {
            // Tells glibc from which size on a block is given back to the system when it is freed, and how much of what is free
            // it keeps for the next: its own thresholds rise with use, and half the peak would be memory that nobody uses,
            // while blocks of megabytes that are mapped at each step cost a third of the time of fine-tuning. Others do not
            // know the variables. Giving back takes time, which is not to be measured.
            command.env("MALLOC_MMAP_THRESHOLD_", "4194304").env("MALLOC_TRIM_THRESHOLD_", "33554432");
        }
        let mut worker = Worker(command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        // Held open while the worker is waited for; waiting itself would close it first.
        let held = interrupt::Lifeline::hold(worker.0.stdin.take());
        let said = worker.listen(progress)?;
        let status = worker.0.wait()?;
        drop(held);
        Ok(match (status.code().and_then(|code| u8::try_from(code).ok()), said) {
            (_, Said { stopped: Some(reason), .. }) => End::Died(reason),
            (Some(code @ (0 | FAILED | BAD_INPUT)), said) => End::Exit(code, said),
            // It was asked to end, by a signal that it heard.
            (Some(code @ 129..), said) => End::Exit(code, said),
            (_, said) if said.at_samples && is_out_of_memory(&said.text) => {
                let most = Bytes(limits.bytes);
                End::Samples(format!(
                    "the samples take more than {most} of memory; use fewer or smaller ones (--dim, where there are none), or \
                     increase --verify-memory"
                ))
            }
            (_, said) => End::Died(cause(status, &said, limits)),
        })
    }

    /// Reads what the worker says until it has ended.
    fn listen(&mut self, progress: Option<&dyn Progress>) -> io::Result<Said> {
        let mut said = Said::default();
        let Some(stderr) = self.0.stderr.take() else { return Ok(said) };
        let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
        while stderr.read_until(b'\n', &mut line)? > 0 {
            let read = String::from_utf8_lossy(&line);
            match (Message::parse(read.trim_end_matches('\n')), progress) {
                (None, _) => said.text.push_str(&read),
                (Some(Message::Samples(bytes)), _) => {
                    (said.at_samples, said.sample) = (bytes.is_none(), bytes.unwrap_or(0));
                }
                (Some(Message::Stopped(why)), _) => said.stopped = Some(why),
                (Some(Message::Figures(text)), _) => said.figures = Some(text),
                (Some(_), None) => {}
                (Some(Message::Phase(name, total)), Some(progress)) => progress.phase(&name, total),
                (Some(Message::Advance(n)), Some(progress)) => drop(progress.advance(n)),
                (Some(Message::Done), Some(progress)) => progress.done(),
            }
            line.clear();
        }
        Ok(said)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only an error on this side leaves a worker behind; one that has ended cannot be killed, which is no news.
        let _ = self.0.kill();
    }
}

/// Whether the allocator refused: the words of Rust's runtime before it aborts.
fn is_out_of_memory(text: &str) -> bool {
    text.contains("memory allocation of ")
}

/// What a worker died of that could not say so itself.
fn cause(status: ExitStatus, said: &Said, limits: Limits) -> String {
    /// What a model makes of a sample may be this many times as large, and no fault of the model.
    const GROWTH: u64 = 64;
    let text = &said.text;
    if is_out_of_memory(text) && said.sample.saturating_mul(GROWTH) > limits.bytes {
        let (sample, most) = (Bytes(said.sample), Bytes(limits.bytes));
        return format!(
            "on samples of up to {sample} it takes more than {most} of memory; use smaller ones (--dim, where there are \
             none), or increase --verify-memory"
        );
    }
    if is_out_of_memory(text) {
        return memory(limits);
    }
    if text.contains("has overflowed its stack") {
        return "it overflows the stack of the engine".to_owned();
    }
    match signal(status) {
        Some(Signal::Kill) => {
            format!("the engine process was killed ({status}), probably out of memory")
        }
        Some(Signal::Fault) => format!("the engine crashed ({status}): this is a bug in it, please report it"),
        Some(Signal::Other) => format!("the engine process was stopped from outside ({status})"),
        None => format!("the engine process ended without a result ({status})"),
    }
}

/// What a signal that ended a process says of its end.
enum Signal {
    /// The system may have sent it.
    Kill,
    /// The processor, or the C library, refused to go on.
    Fault,
    Other,
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<Signal> {
    use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV};
    std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| match signal {
        SIGKILL => Signal::Kill,
        SIGABRT | SIGBUS | SIGFPE | SIGILL | SIGSEGV => Signal::Fault,
        _ => Signal::Other,
    })
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<Signal> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn memory_is_blamed_on_samples_where_they_are_large() {
        let limits = Limits { seconds: 1, bytes: 1 << 30 };
        let of = |sample| {
            let said = Said { text: "memory allocation of 7 bytes failed".to_owned(), sample, ..Said::default() };
            cause(std::os::unix::process::ExitStatusExt::from_raw(6), &said, limits)
        };
        assert!(of(1 << 20).starts_with("it takes more than"), "{}", of(1 << 20));
        assert!(of(1 << 26).starts_with("on samples of up to 67.1 MB it takes more than"), "{}", of(1 << 26));
    }

    #[cfg(unix)]
    #[test]
    fn only_kill_is_taken_for_a_lack_of_memory() {
        let limits = Limits { seconds: 1, bytes: 1 };
        let of = |signal: i32| cause(std::os::unix::process::ExitStatusExt::from_raw(signal), &Said::default(), limits);
        assert!(of(9).contains("probably out of memory"), "{}", of(9));
        for (signal, words) in [(11, "the engine crashed"), (6, "the engine crashed"), (25, "from outside")] {
            let line = of(signal);
            assert!(line.contains(words) && !line.contains("memory"), "{line}");
        }
    }

    #[test]
    fn messages_come_through_and_other_lines_are_none() {
        for message in [
            Message::Phase("compare plans".to_owned(), 7),
            Message::Advance(3),
            Message::Done,
            Message::Samples(None),
            Message::Samples(Some(5)),
            Message::Stopped("no more".to_owned()),
            Message::Figures("{}".to_owned()),
        ] {
            let line = message.line();
            assert_eq!(Message::parse(line.trim_end()).map(|m| m.line()), Some(line));
        }
        assert!(Message::parse("error: advance 3").is_none());
        for role in [Role::Job, Role::Probe, Role::Layers("a: b".to_owned()), Role::Measure(7)] {
            assert_eq!(Role::parse(&role.text()), role);
        }
    }
}
