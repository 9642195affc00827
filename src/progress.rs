//! How long-running work tells the outside how far it is, without printing.
//!
//! The library never prints. It names the *phase* it is in ("calibrate", "learn", ...) and counts steps of it; what
//! becomes of that (a bar, a log line, nothing) is the caller's affair. Phases do not nest: a new phase ends the one
//! before it.

/// Receives the progress of one piece of work. Called from several threads at once.
pub trait Progress: Sync {
    /// A phase of `total` steps begins; zero when their number is not known.
    fn phase(&self, name: &str, total: u64);
    /// `n` more steps of the current phase are done.
    fn advance(&self, n: u64);
    /// The current phase is over.
    fn done(&self);
}

/// Hears everything and says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: u64) {}
    fn advance(&self, _n: u64) {}
    fn done(&self) {}
}
