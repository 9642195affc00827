//! What a search for the smallest file holds against each size that it tries.

use crate::error::Result;
use crate::loss::{Comparison, Judge};
use crate::verify::{self, Check, CheckKind};

/// What the smallest file has to keep.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Goal {
    /// A loss of at most this, in the worst output.
    Loss(f64),
    /// These checks.
    Checks(Vec<Check>),
}

impl Goal {
    /// The most that [`measure`](Self::measure) may be.
    pub fn bound(&self) -> f64 {
        match self {
            Goal::Loss(bound) => *bound,
            Goal::Checks(_) => 1.0,
        }
    }

    /// The loss, or how close the nearest check is to failing: above 1 it does.
    ///
    /// # Errors
    /// Those of the loss; a check that applies to no output.
    pub fn measure(&self, comparison: &Comparison) -> Result<f64> {
        match self {
            Goal::Loss(_) => comparison.worst_loss(),
            Goal::Checks(checks) => verify::strain(checks, &comparison.figures()),
        }
    }

    /// Has the figures measured that the checks are held against.
    pub fn prepare(&self, judge: &mut Judge) {
        let Goal::Checks(checks) = self else { return };
        for check in checks.iter().filter(|check| check.kind == CheckKind::MaxKl) {
            judge.measure_kl(check.output.as_deref());
        }
    }

    /// Why no size will do, where the best that was tried measured `least`.
    pub fn missed(&self, least: f64) -> String {
        match self {
            Goal::Loss(bound) => {
                format!("no plan keeps the loss at or under {bound}; the nearest is --max-loss {least:.3e}")
            }
            Goal::Checks(_) => format!(
                "no size passes all checks on samples held back from the calibration: at the best one, the error is \
                 {least:.3} times what the strictest of them allows; relax it, or add calibration samples"
            ),
        }
    }

    /// The warning where held-out samples do not confirm what was found on others.
    pub fn beyond(&self, loss: Option<f64>, passed: bool) -> Option<String> {
        match self {
            Goal::Loss(bound) => loss.filter(|loss| loss > bound).map(|loss| {
                format!(
                    "the loss on held-out samples is {loss:.2e}, above --max-loss {bound}, which was met on calibration \
                     samples: add calibration samples, or lower --max-loss"
                )
            }),
            Goal::Checks(_) => (!passed).then(|| {
                "the checks passed on the samples that the size was searched on, but not on the held-out ones: add \
                 calibration samples, or search with stricter checks"
                    .to_owned()
            }),
        }
    }

    /// The flag that asks for it.
    pub fn describe(&self) -> String {
        match self {
            Goal::Loss(bound) => format!("--max-loss {bound}"),
            Goal::Checks(_) => "--smallest".to_owned(),
        }
    }
}

/// What a search for the smallest file came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    /// The flag that asks for it: `--max-loss 0.01` or `--smallest`.
    pub goal: String,
    /// Samples that it was searched on.
    pub samples: usize,
    /// The loss of the worst output of the result on these samples.
    pub loss: f64,
    /// The next smaller size that was tried and did not do: bytes of its file, and the loss of its worst output, before
    /// fine-tuning; `None` if the result is the smallest that was tried.
    pub next_smaller: Option<(u64, f64)>,
}
