//! Choices made by the user: sites that are stored as the user says, while the budget is divided among the rest.
//!
//! A plan is made for all sites and the pinned ones are replaced in it. The difference in bytes is subtracted from the
//! budget of the next plan, until the file just fits. A plan gives all its sites bytes at one price, so the rest are
//! stored as if they had been planned alone.

use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Choice, Plan, Sizing};
use crate::sites::{PerSite, SiteId};

/// Plans that are tried for a target.
const ROUNDS: usize = 8;

/// For each site what it is to be stored as, if that is not left to the allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins(pub PerSite<Option<Choice>>);

impl Pins {
    /// Whether everything is left to the allocation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(Option::is_none)
    }

    /// Sets what is pinned in a plan for the same sites.
    pub fn apply(&self, plan: &mut Plan) {
        for (id, pin) in self.0.iter() {
            plan.choices[id] = pin.unwrap_or(plan.choices[id]);
        }
    }

    /// The first site that a plan, made by hand perhaps, stores in another way than is pinned.
    #[must_use]
    pub fn contradicted(&self, plan: &Plan) -> Option<SiteId> {
        let differs = |(id, pin): &(SiteId, &Option<Choice>)| pin.is_some_and(|pin| pin != plan.choices[*id]);
        self.0.iter().find(differs).map(|(id, _)| id)
    }

    /// A plan for a file of at most `target` bytes with all pinned sites as they should be; `plan` makes one without.
    ///
    /// # Errors
    /// Those of `plan` and of counting bytes; [`ErrorKind::Target`] if the pinned sites leave no room, with the smallest that was seen.
    pub fn fit(&self, sizing: &Sizing<'_>, target: u64, plan: impl Fn(u64) -> Result<Plan>) -> Result<Plan> {
        if self.is_empty() {
            return plan(target);
        }
        let mut best: Option<(u64, Plan)> = None;
        let mut smallest = u64::MAX;
        let mut budget = target;
        for _ in 0..ROUNDS {
            let mut next = match plan(budget) {
                Ok(next) => next,
                // A budget below or above all that can be had: what was found so far is all there is.
                Err(error) if smallest < u64::MAX && is_out_of_range(&error) => break,
                Err(error) => return Err(error),
            };
            self.apply(&mut next);
            let bytes = sizing.bytes(&next)?;
            smallest = smallest.min(bytes);
            if bytes <= target && best.as_ref().is_none_or(|(most, _)| bytes > *most) {
                best = Some((bytes, next));
            }
            let corrected = (budget + target).saturating_sub(bytes);
            if corrected == budget {
                break;
            }
            budget = corrected;
        }
        best.map(|(_, plan)| plan).ok_or_else(|| {
            let message = format!(
                "cannot reach {target} bytes with the blocks that the configuration pins; the smallest file found has \
                 {smallest} bytes"
            );
            Error::new(ErrorKind::Target, message)
        })
    }
}

fn is_out_of_range(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Target | ErrorKind::NothingToDo)
}
