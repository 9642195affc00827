//! Progress of long-running work, without printing.
//!
//! The library never prints. It reports the current *phase* ("calibrate", "learn", ...) and counts its steps; the caller
//! shows them as a bar, as log lines, or not at all. Phases do not nest: a new phase ends the one before it.

/// Receives the progress of one piece of work. Called from several threads at once.
pub trait Progress: Sync {
    /// A phase of `total` steps begins; zero when their number is not known.
    fn phase(&self, name: &str, total: u64);
    /// `n` more steps of the current phase are done.
    fn advance(&self, n: u64);
    /// The current phase is over.
    fn done(&self);
}

/// Ignores all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn done(&self) {}
}
