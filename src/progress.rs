//! Progress of long-running work: reported without printing, and the way to cancel it.
//!
//! The library never prints. It names the *phase* it is in ("calibrate", "learn", ...) and counts steps of it; the caller
//! shows that as it likes (a bar, a log line, nothing), and may cancel at any step. Phases do not nest: a new phase ends the
//! one before it.

use std::ops::ControlFlow;

use crate::error::{Error, ErrorKind, Result};

/// Receives the progress of one piece of work. Called from several threads at once.
pub trait Progress: Sync {
    /// A phase of `total` steps begins; zero when their number is not known.
    fn phase(&self, name: &str, total: u64);
    /// `n` more steps of the current phase are done. [`ControlFlow::Break`] cancels the work, which then ends with an error
    /// of kind [`ErrorKind::Cancelled`] at the next occasion.
    fn advance(&self, n: u64) -> ControlFlow<()>;
    /// The current phase is over.
    fn done(&self);
}

/// Reports nothing and never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: u64) {}
    fn advance(&self, _n: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn done(&self) {}
}

/// Reports `n` more steps.
///
/// # Errors
/// [`ErrorKind::Cancelled`] if the caller cancels.
pub(crate) fn advance(progress: &dyn Progress, n: u64) -> Result<()> {
    match progress.advance(n) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
    }
}
