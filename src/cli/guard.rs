//! Commands that run models run them in a child process, so that nothing a model does to the engine takes the tool down.
//!
//! A hostile or unlucky model can make the engine allocate without end, overflow its stack, or never come back; none of
//! that can be caught inside a process. So the *supervisor*, the process that the user started, starts the same binary
//! with the same arguments once more, as the *worker*, and waits. The worker does the whole job within limits: its
//! allocator counts and refuses, and a watchdog looks at how long the engine has been at one call. All that passes
//! between the two are the worker's stdout, which it inherits, its exit code, and its stderr, where lines that begin with
//! [`MARK`] are messages (progress, why it stopped) and the others are for the user.
//!
//! A worker that was stopped wrote nothing: files appear whole or not at all. The supervisor then finds out whose fault
//! it was by running the original alone (a *probe*). If that can be done, the job ends with an error that names the
//! model that is to blame. What needs no run (a plan, a result that nobody asked to have verified) is then done by a last
//! worker on the layers alone, and says so.
//!
//! Invariant: models that could not be run within the limits never count as verified.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, process, thread};

use dirnet::engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::progress::Progress;
use dirnet::report::Bytes;

use super::args::Limits;
use super::progress::display;
use super::{BAD_INPUT, FAILED};
use crate::ALLOCATOR;

/// Tells a worker that it is one, and what is asked of it.
const ROLE: &str = "DIRNET_WORKER";
/// Tells a worker that its progress is shown.
const WATCHED: &str = "DIRNET_WORKER_WATCHED";
/// Begins a line of stderr that is a message for the supervisor. No other line has it: the tool escapes foreign text.
const MARK: char = '\u{1e}';
/// What a worker that was stopped by its own watchdog exits with.
const STOPPED: u8 = 3;
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(50);

/// A job that runs models.
pub struct Guarded<'a> {
    /// What running them may take.
    pub limits: Limits,
    /// The model that is judged by.
    pub original: &'a Path,
    /// The model that is judged, if it is a file.
    pub compressed: Option<&'a Path>,
    /// Whether it can be done without running the models.
    pub layers: bool,
    /// Shows no progress.
    pub quiet: bool,
}

/// What is asked of a worker.
enum Role {
    /// The job.
    Job,
    /// To run the original, and nothing else.
    Probe,
    /// The job without running the models, and why.
    Layers(String),
}

impl Role {
    fn current() -> Option<Role> {
        let text = env::var(ROLE).ok()?;
        Some(match text.split_once(':') {
            None if text == "probe" => Role::Probe,
            Some(("layers", reason)) => Role::Layers(reason.to_owned()),
            _ => Role::Job,
        })
    }

    fn text(&self) -> String {
        match self {
            Role::Job => "job".to_owned(),
            Role::Probe => "probe".to_owned(),
            Role::Layers(reason) => format!("layers:{reason}"),
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
        Some(Role::Layers(reason)) => Some(Error::new(ErrorKind::Limit, reason)),
        _ => None,
    }
}

/// Whether somebody sees the progress of this worker.
pub fn is_watched() -> bool {
    env::var_os(WATCHED).is_some()
}

/// What a worker tells its supervisor.
pub enum Message {
    /// [`Progress::phase`].
    Phase(String, u64),
    /// [`Progress::advance`].
    Advance(u64),
    /// [`Progress::done`].
    Done,
    /// It stopped itself, and why.
    Stopped(String),
}

impl Message {
    fn line(&self) -> String {
        match self {
            Message::Phase(name, total) => format!("{MARK}phase {total} {name}\n"),
            Message::Advance(n) => format!("{MARK}advance {n}\n"),
            Message::Done => format!("{MARK}done\n"),
            Message::Stopped(why) => format!("{MARK}stopped {why}\n"),
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
            "stopped" => Some(Message::Stopped(rest.to_owned())),
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
    let bytes = usize::try_from(limits.verify_memory).unwrap_or(usize::MAX);
    // It fails only if more is in use already: then the next allocation is refused, which is what is wanted.
    if ALLOCATOR.set_limit(bytes).is_err() {
        stop(&memory(limits));
    }
    thread::spawn(move || {
        let most = Duration::from_secs(limits.verify_timeout);
        loop {
            thread::sleep(LOOK);
            if engine::longest_call().is_some_and(|taken| taken > most) {
                stop(&format!("one run takes more than {} s; raise --verify-timeout if it may", limits.verify_timeout));
            }
        }
    });
    // The supervisor holds the other end: it is closed when the supervisor is gone, however that came.
    thread::spawn(|| {
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        process::exit(BAD_INPUT.into());
    });
}

fn stop(why: &str) -> ! {
    tell(&Message::Stopped(why.to_owned()));
    process::exit(STOPPED.into())
}

fn memory(limits: Limits) -> String {
    format!("it takes more than {} of memory; raise --verify-memory if it may", Bytes(limits.verify_memory))
}

/// Has a worker do what `arguments` ask for, and returns the exit code for this process.
pub fn supervise(job: &Guarded<'_>, arguments: &[OsString]) -> ExitCode {
    match attempts(job, arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: cannot start a process for the engine: {error}");
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn attempts(job: &Guarded<'_>, arguments: &[OsString]) -> io::Result<ExitCode> {
    let reason = match Worker::run(&Role::Job, job, arguments)? {
        End::Exit(code, text) => return Ok(shown(code, &text)),
        End::Died(reason) => reason,
    };
    if let End::Exit(0, _) = Worker::run(&Role::Probe, job, arguments)? {
        return Ok(match job.compressed {
            Some(compressed) => failed(compressed, &format!("could not be verified: {reason}")),
            None => failed(job.original, &format!("stopped, although the model by itself can be run: {reason}")),
        });
    }
    if !job.layers {
        return Ok(failed(job.original, &format!("could not be verified: {reason}")));
    }
    Ok(match Worker::run(&Role::Layers(reason), job, arguments)? {
        End::Exit(code, text) => shown(code, &text),
        End::Died(reason) => failed(job.original, &reason),
    })
}

fn shown(code: u8, text: &str) -> ExitCode {
    eprint!("{text}");
    ExitCode::from(code)
}

fn failed(file: &Path, message: &str) -> ExitCode {
    eprintln!("error: {}", Error::new(ErrorKind::Engine, message).in_file(file));
    ExitCode::from(FAILED)
}

/// How a worker ended.
enum End {
    /// By itself, with an exit code and lines for the user.
    Exit(u8, String),
    /// Because it was stopped, and why.
    Died(String),
}

/// A child that works.
struct Worker(Child);

impl Worker {
    /// Has a worker do something and waits for its end.
    fn run(role: &Role, job: &Guarded<'_>, arguments: &[OsString]) -> io::Result<End> {
        let progress = display(job.quiet).filter(|_| !matches!(role, Role::Probe));
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments.iter().skip(1)).env(ROLE, role.text()).env_remove(WATCHED);
        // Tells glibc to give large blocks back to the system when they are freed: its own threshold rises with use, and
        // half the peak would be memory that nobody uses. Others do not know the variable.
        command.env("MALLOC_MMAP_THRESHOLD_", "1048576");
        if progress.is_some() {
            command.env(WATCHED, "1");
        }
        let mut worker = Worker(command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        // Held open while the worker is waited for; waiting itself would close it first.
        let lifeline = worker.0.stdin.take();
        let (text, stopped) = worker.listen(progress.as_ref().map(|progress| progress as &dyn Progress))?;
        let status = worker.0.wait()?;
        drop(lifeline);
        Ok(match (status.code().and_then(|code| u8::try_from(code).ok()), stopped) {
            (_, Some(reason)) => End::Died(reason),
            (Some(code @ (0 | FAILED | BAD_INPUT)), None) => End::Exit(code, text),
            (_, None) => End::Died(cause(status, &text, job.limits)),
        })
    }

    /// Reads what the worker says until it has ended: the lines for the user, and why it stopped itself.
    fn listen(&mut self, progress: Option<&dyn Progress>) -> io::Result<(String, Option<String>)> {
        let (mut text, mut stopped) = (String::new(), None);
        let Some(stderr) = self.0.stderr.take() else { return Ok((text, stopped)) };
        let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
        while stderr.read_until(b'\n', &mut line)? > 0 {
            let read = String::from_utf8_lossy(&line);
            match (Message::parse(read.trim_end_matches('\n')), progress) {
                (None, _) => text.push_str(&read),
                (Some(Message::Stopped(why)), _) => stopped = Some(why),
                (Some(_), None) => {}
                (Some(Message::Phase(name, total)), Some(progress)) => progress.phase(&name, total),
                (Some(Message::Advance(n)), Some(progress)) => progress.advance(n),
                (Some(Message::Done), Some(progress)) => progress.done(),
            }
            line.clear();
        }
        Ok((text, stopped))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only an error on this side leaves a worker behind; one that has ended cannot be killed, which is no news.
        let _ = self.0.kill();
    }
}

/// What a worker died of that could not say so itself.
fn cause(status: ExitStatus, text: &str, limits: Limits) -> String {
    // The words of Rust's runtime before it aborts.
    if text.contains("memory allocation of ") {
        memory(limits)
    } else if text.contains("has overflowed its stack") {
        "it overflows the stack of the engine".to_owned()
    } else {
        format!("the process of the engine was killed ({status}), as a system does that has no memory left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_through_and_other_lines_are_none() {
        for message in [
            Message::Phase("compare plans".to_owned(), 7),
            Message::Advance(3),
            Message::Done,
            Message::Stopped("no more".to_owned()),
        ] {
            let line = message.line();
            assert_eq!(Message::parse(line.trim_end()).map(|m| m.line()), Some(line));
        }
        assert!(Message::parse("error: advance 3").is_none());
    }
}
