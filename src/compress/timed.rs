//! Compressing within a limit of time: level after level, as long as there is time, and the last that was completed is taken.
//!
//! What one level has measured is there for the next. A level that the limit ends leaves nothing behind, so that the result is
//! that of its level alone, byte for byte, and only the choice of the level depends on the machine.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::goal::{Goal, Searched};
use super::{Budgets, Compressed, Compressor, Level, Look, Options, Settings, Target, TimeBudget};
use crate::error::{ErrorKind, Result};
use crate::progress::Progress;

/// The warning where no level ends in time.
const LONGER: &str =
    "the lowest level that reaches the target takes longer than --time-budget allows: it was completed all the same";

/// Progress that a deadline cancels, too.
pub(super) struct Bounded<'a> {
    inner: &'a dyn Progress,
    end: Option<Instant>,
    /// Whether the deadline cancelled.
    is_late: AtomicBool,
}

impl<'a> Bounded<'a> {
    /// Without a deadline.
    pub fn new(inner: &'a dyn Progress) -> Self {
        Bounded { inner, end: None, is_late: AtomicBool::new(false) }
    }

    fn end_at(&mut self, end: Option<Instant>) {
        (self.end, self.is_late) = (end, AtomicBool::new(false));
    }

    fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }
}

impl Progress for Bounded<'_> {
    fn phase(&self, name: &str, total: u64) {
        self.inner.phase(name, total);
    }

    fn advance(&self, n: u64) -> ControlFlow<()> {
        self.inner.advance(n)?;
        if self.end.is_some_and(|end| Instant::now() >= end) {
            self.is_late.store(true, Ordering::Relaxed);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn done(&self) {
        self.inner.done();
    }
}

/// What belongs to a result beside what was measured once and for all.
pub(super) struct Snapshot {
    options: Options,
    budgets: Budgets,
    target: Option<u64>,
    goal: Option<Goal>,
    searched: Option<Searched>,
    looks: Vec<Look>,
    expected: Option<[f64; 2]>,
    correction: f64,
}

impl Compressor<'_> {
    /// The result of the highest level that ends in time. A level is begun only if there is as much time left as the one before
    /// it took: each takes longer than the one below.
    pub(super) fn within_time(&mut self, target: &Target, budget: TimeBudget) -> Result<Compressed> {
        let start = Instant::now();
        let (mut begun, end) = (start, start.checked_add(budget.limit));
        let mut best: Option<(Level, Snapshot, Compressed)> = None;
        let mut failure = None;
        for level in Level::all() {
            let options = self.options.clone().set(budget.by_hand.or(level.settings()));
            if best.as_ref().is_some_and(|(_, kept, _)| Settings::of(&kept.options) == Settings::of(&options)) {
                continue;
            }
            let took = begun.elapsed();
            begun = Instant::now();
            // Something has to come of it: there is no limit before the first result.
            let end = end.filter(|_| best.is_some());
            if end.is_some_and(|end| begun.checked_add(took).is_none_or(|earliest| earliest > end)) {
                break;
            }
            self.take(options);
            self.progress.end_at(end);
            let done = self.check_target(target).and_then(|()| self.compress_to(target));
            let is_late = self.progress.is_late();
            self.progress.end_at(None);
            match done {
                Ok(mut result) => {
                    let is_longer = best.is_none() && start.elapsed() > budget.limit;
                    result.warnings.extend(is_longer.then(|| LONGER.to_owned()));
                    best = Some((level, self.snapshot(), result));
                }
                Err(error) if error.kind() == ErrorKind::Cancelled && is_late => break,
                // What one rate for all cannot reach, a division of the bits may.
                Err(error) if error.kind() == ErrorKind::Target => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        let Some((level, kept, result)) = best else {
            return Err(failure.expect("a level without a result has failed"));
        };
        self.recover(kept);
        self.picked = Some(level);
        Ok(result)
    }

    /// Goes on with other options that cost time; what was measured stays where it is the same for them.
    fn take(&mut self, options: Options) {
        self.options = options;
        // The note in the file names them, and its length counts.
        self.sizes = Arc::default();
        let writing = self.writing();
        if let Some(study) = &mut self.study {
            study.write_as(writing, self.sizes.clone());
        }
        self.looks.clear();
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            options: self.options.clone(),
            budgets: self.budgets.clone(),
            target: self.target,
            goal: self.goal.clone(),
            searched: self.searched.clone(),
            looks: self.looks.clone(),
            expected: self.expected,
            correction: self.correction,
        }
    }

    pub(super) fn recover(&mut self, snapshot: Snapshot) {
        let Snapshot { options, budgets, target, goal, searched, looks, expected, correction } = snapshot;
        self.take(options);
        (self.budgets, self.target, self.goal, self.searched, self.looks) = (budgets, target, goal, searched, looks);
        (self.expected, self.correction) = (expected, correction);
    }
}
