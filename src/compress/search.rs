//! The smallest size within a bound on the loss, where each look at a loss is a run of the model.
//!
//! The logarithm of the loss falls about in a straight line with the logarithm of the size, so that the next size to try
//! is where the line through the two nearest looks meets the bound; halving the interval takes over where it does not.
//! Only what was measured within the bound is ever returned.

use std::ops::RangeInclusive;

use crate::error::Result;

/// A size within the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmallestSize {
    /// The size that was asked for.
    pub bytes: u64,
    /// The loss that was measured there.
    pub loss: f64,
}

/// Looks at most `looks` times for the smallest size in `range` whose loss is at most `bound`; `None` if not even the
/// largest has one. Stops when it is known to a hundredth.
///
/// # Errors
/// Those of `loss`; it may answer infinity for a size that cannot be had.
pub fn smallest(
    range: RangeInclusive<u64>,
    bound: f64,
    looks: usize,
    mut loss: impl FnMut(u64) -> Result<f64>,
) -> Result<Option<SmallestSize>> {
    let (mut low, mut high) = (Look { bytes: *range.start(), loss: None }, Look { bytes: *range.end(), loss: None });
    let mut found = None;
    for look in 0..looks {
        let bytes = match look {
            // Both ends first: the line between them is a good guess already, and where an end settles it, it is over.
            0 => low.bytes,
            1 if found.is_none() => high.bytes,
            _ => between(low, high, bound),
        };
        let seen = loss(bytes)?;
        if seen <= bound {
            found = Some(SmallestSize { bytes, loss: seen });
            high = Look { bytes, loss: Some(seen) };
        } else {
            low = Look { bytes, loss: Some(seen) };
        }
        if high.bytes <= low.bytes || (high.bytes - low.bytes) * 100 <= high.bytes {
            break;
        }
    }
    Ok(found)
}

#[derive(Clone, Copy)]
struct Look {
    bytes: u64,
    loss: Option<f64>,
}

/// Where the bound is to be expected between a size that is too small and one that will do.
fn between(low: Look, high: Look, bound: f64) -> u64 {
    let (a, b) = ((low.bytes.max(1) as f64).ln(), (high.bytes.max(1) as f64).ln());
    let logarithm = |loss: Option<f64>| loss.filter(|loss| *loss > 0.0 && loss.is_finite()).map(f64::ln);
    let share = match (logarithm(low.loss), logarithm(high.loss), logarithm(Some(bound))) {
        // Kept off the ends, where a look would tell little; on the larger side, as it is a find that is wanted.
        (Some(above), Some(below), Some(bound)) if above > below => ((above - bound) / (above - below)).clamp(0.1, 0.9),
        _ => 0.5,
    };
    (a + (b - a) * share).exp().round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_met_from_below_in_few_looks() {
        for (slope, bound) in [(1.0, 0.01), (2.0, 0.003), (0.7, 0.1), (3.0, 1e-4)] {
            let loss = |bytes: u64| (bytes as f64 / 1e4).powf(-slope);
            let mut looks = 0;
            let found = smallest(20_000..=10_000_000, bound, 12, |bytes| {
                looks += 1;
                Ok(loss(bytes))
            });
            let found = found.expect("no error").expect("within the range");
            let best = 1e4 * f64::powf(bound, -1.0 / slope);
            assert!(found.loss <= bound && (found.bytes as f64) < best * 1.02, "{slope} {bound}: {found:?} {best}");
            assert!(looks <= 9, "{looks}");
        }
    }

    #[test]
    fn steps_and_sizes_that_cannot_be_had() {
        let loss = |bytes: u64| {
            Ok(if bytes < 5000 {
                f64::INFINITY
            } else if bytes < 9000 {
                0.5
            } else {
                -0.1
            })
        };
        let found = smallest(1000..=100_000, 0.0, 20, loss).expect("no error").expect("from 9000 on");
        assert!((9000..=9100).contains(&found.bytes), "{found:?}");
        assert_eq!(smallest(1000..=8000, 0.0, 20, loss).expect("no error"), None);
        assert_eq!(smallest(10_000..=80_000, 0.0, 20, loss).expect("no error").map(|f| f.bytes), Some(10_000));
    }
}
