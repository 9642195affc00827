//! What happens when somebody asks the process to end: SIGINT (Ctrl-C), SIGTERM, SIGHUP, SIGQUIT, and the signals that
//! batch systems send before they kill (SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM).
//!
//! What has been begun to be written is removed, and the process leaves with 128 and the number of the signal, as shells
//! say it. A process that waits for a worker lets it end first, and the worker removes what is its own. A second signal
//! does not wait.
//!
//! SIGXFSZ (a limit on the size of files, `ulimit -f`) does not end the process: the write fails, and is an error like any
//! other.

use std::process::{self, ChildStdin};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(unix)]
use std::sync::Arc;

use dirnet::onnx::atomic;

/// The signal that was caught, or 0.
static CAUGHT: AtomicU8 = AtomicU8::new(0);

/// The stdin of the worker that this process waits for: it ends when that is closed.
static LIFELINE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Held while this process waits for a worker. Dropped, it leaves the process if that was asked for meanwhile.
pub struct Lifeline;

impl Lifeline {
    /// Keeps the worker alive.
    pub fn hold(stdin: Option<ChildStdin>) -> Lifeline {
        *LIFELINE.lock().unwrap_or_else(PoisonError::into_inner) = stdin;
        Lifeline
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        take();
        if let signal @ 1.. = CAUGHT.load(Ordering::SeqCst) {
            leave(128 + signal);
        }
    }
}

fn take() -> Option<ChildStdin> {
    LIFELINE.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Whether this worker is to end at the next occasion.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// How long a worker that was cancelled may take to the next occasion.
const GRACE: Duration = Duration::from_millis(500);

/// Whether the work was cancelled.
pub fn is_cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Cancels the work through its progress, and leaves if that takes too long: a call into the engine cannot be interrupted.
pub fn cancel(code: u8) -> ! {
    CANCELLED.store(true, Ordering::SeqCst);
    std::thread::sleep(GRACE);
    leave(code)
}

/// Leaves at once, with nothing half written behind.
pub fn leave(code: u8) -> ! {
    atomic::abandon();
    process::exit(code.into())
}

/// Watches for signals from now on. On systems that have none the process ends as it does there, and the next that writes
/// the same output removes what stayed behind.
#[cfg(unix)]
pub fn watch() {
    use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};
    // A handler that does nothing of importance: with any, the write that is too long returns an error.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let ignored = ignored();
    let ends = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM];
    let wanted = ends.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let Ok(mut signals) = signal_hook::iterator::Signals::new(wanted) else { return };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let signal = u8::try_from(signal).expect("those are small");
            CAUGHT.store(signal, Ordering::SeqCst);
            if take().is_none() {
                leave(128 + signal);
            }
        }
    });
}

#[cfg(not(unix))]
pub fn watch() {}

/// The signals that whoever started this process wants ignored, as a bit each: `nohup` does with SIGHUP, a shell with
/// SIGINT for what it starts in the background. Where the system does not tell, SIGHUP is taken to be one.
#[cfg(unix)]
fn ignored() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").ok();
    let mask = told.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    mask.unwrap_or(1 << (signal_hook::consts::SIGHUP - 1))
}
