//! Progress of long phases on stderr, for people: nothing when stderr is not a terminal or `-q` is given.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use dirnet::progress::{Progress, Silent};
use indicatif::{ProgressBar, ProgressStyle};

use super::guard::{self, Message};

/// A bar for the current phase, with the time that is left.
#[derive(Default)]
struct Bar(Mutex<Option<ProgressBar>>);

/// What the library should report its progress to: this process shows none, but the one that waits for it may.
pub fn progress(quiet: bool) -> Box<dyn Progress> {
    if quiet || !guard::is_watched() { Box::new(Silent) } else { Box::new(Reporter) }
}

/// Tells the supervisor.
struct Reporter;

impl Progress for Reporter {
    fn phase(&self, name: &str, total: u64) {
        guard::tell(&Message::Phase(name.to_owned(), total));
    }

    fn advance(&self, n: u64) {
        guard::tell(&Message::Advance(n));
    }

    fn done(&self) {
        guard::tell(&Message::Done);
    }
}

/// Where a supervisor shows the progress of its worker.
pub fn display(quiet: bool) -> Option<impl Progress> {
    (!quiet && std::io::stderr().is_terminal()).then(Bar::default)
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

    fn advance(&self, n: u64) {
        if let Ok(current) = self.0.lock()
            && let Some(bar) = &*current
        {
            bar.inc(n);
        }
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
