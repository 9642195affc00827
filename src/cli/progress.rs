//! Progress on stderr: bars on a terminal, elsewhere (a log, a CI job) lines; nothing with `-q`.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dirnet::progress::Progress;
use dirnet::report::duration;
use indicatif::{ProgressBar, ProgressStyle};

use crate::process::guard::{self, Message};
use crate::process::interrupt;

/// A phase that took longer says so in a log when it is over.
const LONG: Duration = Duration::from_secs(2);

/// A bar for the current phase, with the time that is left.
#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

/// A line where a phase begins, and one where it ends if it was long.
struct Lines<W>(Mutex<(W, Option<Phase>)>);

/// The phase that a log is in.
struct Phase {
    name: String,
    start: Instant,
}

/// What the library should report its progress to: this process shows none, but the one that waits for it may.
pub fn progress(quiet: bool) -> Box<dyn Progress> {
    Box::new(Reporter { shown: !quiet && guard::is_watched() })
}

/// Reports to the supervisor, if that shows progress, and cancels once the supervisor is gone.
struct Reporter {
    shown: bool,
}

impl Reporter {
    fn tell(&self, message: &Message) {
        if self.shown {
            guard::tell(message);
        }
    }
}

impl Progress for Reporter {
    fn phase(&self, name: &str, total: u64) {
        self.tell(&Message::Phase(name.to_owned(), total));
    }

    fn advance(&self, n: u64) -> ControlFlow<()> {
        self.tell(&Message::Advance(n));
        if interrupt::is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn done(&self) {
        self.tell(&Message::Done);
    }
}

/// Where a supervisor shows the progress of its worker.
pub fn display(quiet: bool) -> Option<Box<dyn Progress>> {
    if quiet {
        None
    } else if std::io::stderr().is_terminal() {
        Some(Box::new(Bar::default()))
    } else {
        Some(Box::new(Lines(Mutex::new((std::io::stderr(), None)))))
    }
}

impl Bar {
    fn replace(&self, bar: Option<ProgressBar>) {
        // A poisoned lock means that a worker panicked: the panic is the news, not the bar.
        if let Ok(mut current) = self.0.lock()
            && let Some(old) = std::mem::replace(&mut *current, bar)
        {
            old.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn phase(&self, name: &str, total: u64) {
        const KNOWN: &str = "{prefix:>10} {wide_bar} {pos}/{len}, {eta} left ";
        const UNKNOWN: &str = "{prefix:>10} {spinner} {elapsed} ";
        let style = ProgressStyle::with_template(if total > 0 { KNOWN } else { UNKNOWN })
            .expect("both templates are sound")
            .progress_chars("=> ");
        let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::new_spinner() };
        let bar = bar.with_style(style).with_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.replace(Some(bar));
    }

    fn advance(&self, n: u64) -> ControlFlow<()> {
        if let Ok(current) = self.0.lock()
            && let Some(bar) = &*current
        {
            bar.inc(n);
        }
        ControlFlow::Continue(())
    }

    fn done(&self) {
        self.replace(None);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.replace(None);
    }
}

impl<W: Write> Lines<W> {
    fn replace(&self, next: Option<Phase>) {
        let Ok(mut lines) = self.0.lock() else { return };
        let (out, current) = &mut *lines;
        let begins = next.as_ref().map(|phase| format!("{} ...\n", phase.name));
        let over = std::mem::replace(current, next).map(|phase| (phase.start.elapsed(), phase.name));
        let ends = over.filter(|(took, _)| *took > LONG);
        let ends = ends.map(|(took, name)| format!("{name}: done in {}\n", duration(took.as_secs_f64())));
        // A log that cannot be written is not what the job is about.
        let _ = out.write_all([ends, begins].into_iter().flatten().collect::<String>().as_bytes());
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn phase(&self, name: &str, _total: u64) {
        self.replace(Some(Phase { name: name.to_owned(), start: Instant::now() }));
    }

    fn advance(&self, _n: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn done(&self) {
        self.replace(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_names_phases_and_times_the_long_ones() {
        let lines = Lines(Mutex::new((Vec::new(), None)));
        lines.phase("calibrate", 3);
        assert!(lines.advance(3).is_continue());
        lines.done();
        lines.phase("learn", 0);
        lines.0.lock().unwrap().1.as_mut().unwrap().start -= LONG * 2;
        lines.phase("verify", 2);
        lines.done();
        let shown = String::from_utf8(lines.0.into_inner().unwrap().0).unwrap();
        assert_eq!(shown, "calibrate ...\nlearn ...\nlearn: done in 4.0 s\nverify ...\n");
    }
}
