//! Budgets: which candidate of every unit's rate-distortion curve is stored, under one byte target.
//!
//! With sensitivities `s_u` the loss of a plan is about `sum_u s_u D_u(rate)`: it adds up over units, so the best plan
//! under a byte target is a multiple-choice knapsack. Units are few (tens to a few hundred) and curves short, so the
//! knapsack is solved by dynamic programming over the bytes instead of by a Lagrange multiplier: a multiplier reaches
//! only the convex hull and leaves part of the target unused, which is several percent where units are large.

/// One way to store a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// All bytes that the unit adds to the file.
    pub bytes: u64,
    /// What this costs at the output, in whatever unit the caller minimises; finite, not negative.
    pub loss: f64,
}

/// Most cells of the dynamic programme's table: bounds its memory to 128 MiB.
const CELLS: usize = 1 << 26;
/// Most steps that the target is divided into; finer than this is below a file's overhead.
const STEPS: usize = 1 << 13;

/// The plan of least total loss within `budget` bytes: an index into each curve, or `None` where even the smallest
/// candidates do not fit. Ties go to the smaller candidate, then to the earlier, so the result depends on nothing but the arguments.
pub fn allocate(curves: &[Vec<Candidate>], budget: u64) -> Option<Vec<usize>> {
    let floor: u64 = curves.iter().map(|c| c.iter().map(|c| c.bytes).min().unwrap_or(0)).sum();
    if floor > budget || curves.iter().any(Vec::is_empty) {
        return None;
    }
    let spare = budget - floor;
    let steps = STEPS.min(CELLS / curves.len().max(1)).max(1).min(usize::try_from(spare).unwrap_or(STEPS));
    // Costs are counted above each unit's smallest candidate and rounded to the nearest step, which keeps the rounding
    // of many units from adding up to a bias; the repair below makes the bytes exact.
    let step = spare as f64 / steps.max(1) as f64;
    let cost = |curve: &[Candidate], c: &Candidate| {
        let least = curve.iter().map(|c| c.bytes).min().unwrap_or(0);
        if c.bytes == least { 0 } else { ((c.bytes - least) as f64 / step).round() as usize }
    };
    let mut best = vec![0.0f64; steps + 1];
    let mut picks = Vec::with_capacity(curves.len());
    for curve in curves {
        let mut next = vec![f64::INFINITY; steps + 1];
        let mut pick = vec![0u16; steps + 1];
        // Of equal losses the one of fewer bytes.
        let mut order: Vec<(usize, &Candidate)> = curve.iter().enumerate().collect();
        order.sort_by_key(|(_, candidate)| candidate.bytes);
        let mut least = f64::INFINITY;
        // One that loses no less than a smaller one is never picked.
        order.retain(|(_, candidate)| {
            let loss = bounded(candidate.loss);
            let is_better = loss < least;
            least = least.min(loss);
            is_better
        });
        for (i, candidate) in order {
            let cost = cost(curve, candidate);
            for spent in cost..=steps {
                let loss = best[spent - cost] + bounded(candidate.loss);
                if loss < next[spent] {
                    next[spent] = loss;
                    pick[spent] = i as u16;
                }
            }
        }
        best = next;
        picks.push(pick);
    }
    let mut left = steps;
    let mut plan = vec![0; curves.len()];
    for (u, curve) in curves.iter().enumerate().rev() {
        plan[u] = picks[u][left] as usize;
        left -= cost(curve, &curve[plan[u]]);
    }
    repair(curves, budget, &mut plan);
    Some(plan)
}

/// A loss that can be added up and compared: weights of size 1e30 have distortions beyond all numbers, and a plan is
/// wanted all the same.
fn bounded(loss: f64) -> f64 {
    const MOST: f64 = 1e300;
    if loss < MOST { loss } else { MOST }
}

/// Brings a plan exactly under the budget and then spends what is left.
fn repair(curves: &[Vec<Candidate>], budget: u64, plan: &mut [usize]) {
    let bytes = |plan: &[usize]| -> u64 { plan.iter().zip(curves).map(|(&i, c)| c[i].bytes).sum() };
    let mut used = bytes(plan);
    // Each move takes the exchange of one unit's candidate with the best loss per byte.
    while used > budget {
        let Some((u, i)) = best_move(curves, plan, |now, other| {
            (other.bytes < now.bytes).then(|| (other.loss - now.loss) / (now.bytes - other.bytes) as f64)
        }) else {
            return;
        };
        used = used - curves[u][plan[u]].bytes + curves[u][i].bytes;
        plan[u] = i;
    }
    while let Some((u, i)) = best_move(curves, plan, |now, other| {
        let fits = used - now.bytes + other.bytes <= budget;
        (fits && other.loss < now.loss)
            .then(|| (other.loss - now.loss) / other.bytes.saturating_sub(now.bytes).max(1) as f64)
    }) {
        used = used - curves[u][plan[u]].bytes + curves[u][i].bytes;
        plan[u] = i;
    }
}

/// The exchange `(unit, candidate)` with the smallest price, if any is allowed.
fn best_move(
    curves: &[Vec<Candidate>],
    plan: &[usize],
    price: impl Fn(&Candidate, &Candidate) -> Option<f64>,
) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (u, curve) in curves.iter().enumerate() {
        for (i, other) in curve.iter().enumerate() {
            if let Some(price) = price(&curve[plan[u]], other)
                && best.is_none_or(|(least, ..)| price < least)
            {
                best = Some((price, u, i));
            }
        }
    }
    best.map(|(_, u, i)| (u, i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(points: &[(u64, f64)]) -> Vec<Candidate> {
        points.iter().map(|&(bytes, loss)| Candidate { bytes, loss }).collect()
    }

    #[test]
    fn losses_beyond_all_numbers_are_planned() {
        let curve = |loss: f64| vec![Candidate { bytes: 100, loss }, Candidate { bytes: 10, loss }];
        for loss in [f64::INFINITY, f64::NAN, f64::MAX] {
            let curves = [curve(loss), curve(1.0), curve(loss)];
            assert_eq!(allocate(&curves, 30), Some(vec![1, 1, 1]));
            assert!(allocate(&curves, 150).is_some());
        }
    }

    #[test]
    fn the_sensitive_unit_gets_the_bytes() {
        let curves = [curve(&[(10, 80.0), (20, 8.0)]), curve(&[(10, 8.0), (20, 0.8)])];
        assert_eq!(allocate(&curves, 30), Some(vec![1, 0]));
        assert_eq!(allocate(&curves, 19), None);
        assert_eq!(allocate(&curves, 40), Some(vec![1, 1]));
    }

    #[test]
    fn a_point_inside_the_convex_hull_is_reachable() {
        // (15, 9) lies above the line from (10, 10) to (20, 1): no multiplier picks it, but only it fits.
        let curves = [curve(&[(10, 10.0), (15, 9.0), (20, 1.0)])];
        assert_eq!(allocate(&curves, 17), Some(vec![1]));
    }

    proptest! {
        #[test]
        fn allocation_is_as_good_as_trying_everything(
            points in prop::collection::vec(prop::collection::vec((1u64..60, 0.0f64..9.0), 1..5), 1..5),
            budget in 1u64..250,
        ) {
            let curves: Vec<_> = points.iter().map(|p| curve(p)).collect();
            let mut best: Option<f64> = None;
            let mut plan = vec![0; curves.len()];
            'all: loop {
                let bytes: u64 = plan.iter().zip(&curves).map(|(&i, c)| c[i].bytes).sum();
                let loss: f64 = plan.iter().zip(&curves).map(|(&i, c)| c[i].loss).sum();
                if bytes <= budget && best.is_none_or(|b| loss < b) {
                    best = Some(loss);
                }
                for u in 0..plan.len() {
                    plan[u] += 1;
                    if plan[u] < curves[u].len() { continue 'all; }
                    plan[u] = 0;
                }
                break;
            }
            let got = allocate(&curves, budget)
                .map(|plan| plan.iter().zip(&curves).map(|(&i, c)| c[i].loss).sum::<f64>());
            prop_assert_eq!(got.is_some(), best.is_some());
            if let (Some(got), Some(best)) = (got, best) {
                prop_assert!((got - best).abs() < 1e-9);
            }
        }
    }
}
