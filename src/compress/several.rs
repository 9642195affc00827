//! Several models under one budget of bytes.
//!
//! For each model the loss at several sizes is measured with trial codes, which gives a curve. The bytes go where they take most
//! off the weighted sum of the losses: the lower convex hull of each curve is walked from its smallest size, and of all next
//! segments that with the most loss for a byte is taken, until the bytes are used up. For such curves this is the least sum.

use super::timed::Snapshot;
use super::{Codec, Compressed, Compressor, Look, SMALLEST, Target, within_reach};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;

/// Sizes at which the loss of a model is measured, and the largest of them: the ratio at which its weights are half as large.
const POINTS: usize = 12;
const LARGEST: f64 = 2.0;
/// Parts that a curve between two of them is cut into.
const PARTS: usize = 8;

/// What a model gets of the bytes of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Bytes of its file.
    pub bytes: u64,
    /// Its loss there by its curve; `None` if no model could be run.
    pub loss: Option<f64>,
    /// Bytes that it has where all models are compressed by the same ratio.
    pub bytes_alike: u64,
    /// Its loss there.
    pub loss_alike: Option<f64>,
    /// The curve: sizes and the losses of trial codes, smallest first.
    pub curve: Vec<Look>,
}

/// The curves of models, and the bytes that a target leaves all of them together.
struct Division {
    total: u64,
    /// Bytes of each where all are compressed by the same ratio.
    alike: Vec<u64>,
    curves: Vec<Vec<Look>>,
    /// Their hulls; `None` for a model that cannot be run.
    hulls: Vec<Option<Vec<Point>>>,
}

/// The share of each model of the bytes that a target leaves all of them together: a ratio over the weights of all, or a size of
/// all files. `weights` say how much the loss of each counts.
///
/// Where a model cannot be run, all are compressed by the same ratio.
///
/// # Errors
/// [`ErrorKind::Target`] if the bytes are too few, with the nearest that are enough; [`ErrorKind::Usage`] for another target;
/// those of running the models.
pub fn shares(compressors: &mut [Compressor<'_>], weights: &[f64], target: &Target) -> Result<Vec<Share>> {
    Ok(Division::measure(compressors, target)?.shares(weights))
}

/// Compresses models to their [`shares`].
///
/// Fine-tuning takes more off the loss of some models than of others, which trial codes do not show. So where models are tuned, the
/// bytes are divided once more by what is left of each loss, and what has the lower sum on calibration samples is taken.
///
/// # Errors
/// As [`shares`] and [`Compressor::compress`].
pub fn compress_all(
    compressors: &mut [Compressor<'_>],
    weights: &[f64],
    target: &Target,
) -> Result<Vec<(Share, Compressed)>> {
    let division = Division::measure(compressors, target)?;
    let first = to_shares(compressors, division.shares(weights))?;
    if first.iter().all(|(_, result)| result.tuning.is_none()) {
        return Ok(first);
    }
    let left =
        |(share, result): &(Share, Compressed)| Some(result.planned.predicted_loss? / share.loss.filter(|l| *l > 0.0)?);
    let moved = first.iter().zip(weights).map(|(shared, weight)| Some(weight * left(shared)?));
    let Some(moved) = moved.collect::<Option<Vec<f64>>>() else { return Ok(first) };
    let others = division.shares(&moved);
    let differs =
        |((share, _), other): (&(Share, Compressed), &Share)| share.bytes.abs_diff(other.bytes) * 100 > share.bytes;
    if !first.iter().zip(&others).any(differs) {
        return Ok(first);
    }
    let snapshots: Vec<Snapshot> = compressors.iter().map(Compressor::snapshot).collect();
    let second = to_shares(compressors, others)?;
    let sum = |shared: &[(Share, Compressed)]| {
        let losses = shared.iter().zip(weights);
        losses.map(|((_, result), weight)| Some(weight * result.planned.predicted_loss?)).sum::<Option<f64>>()
    };
    if sum(&second).is_some_and(|loss| sum(&first).is_none_or(|before| loss < before)) {
        return Ok(second);
    }
    compressors.iter_mut().zip(snapshots).for_each(|(compressor, snapshot)| compressor.recover(snapshot));
    Ok(first)
}

fn to_shares(compressors: &mut [Compressor<'_>], shares: Vec<Share>) -> Result<Vec<(Share, Compressed)>> {
    let of_share = |(compressor, share): (&mut Compressor<'_>, Share)| {
        // Where all of it fits, less has to be asked for: what is no smaller is refused.
        let bytes = share.bytes.min(compressor.original.bytes().saturating_sub(1));
        Ok((share, compressor.compress(&Target::MaxSize(bytes))?))
    };
    compressors.iter_mut().zip(shares).map(of_share).collect()
}

impl Division {
    fn measure(compressors: &mut [Compressor<'_>], target: &Target) -> Result<Division> {
        let (mut kept, mut before) = (Vec::new(), Vec::new());
        for compressor in &mut *compressors {
            let study = compressor.calibrated()?;
            kept.push(study.sized(|sizing| sizing.kept()));
            before.push(study.before);
        }
        let (all_kept, all_before) = (kept.iter().sum::<u64>(), before.iter().sum::<u64>());
        let total = match *target {
            Target::Ratio(ratio) => all_kept + (all_before as f64 / ratio) as u64,
            Target::MaxSize(bytes) => bytes,
            _ => {
                let message =
                    "several models are compressed by --ratio, over the weights of all, or --max-size, of all files";
                return Err(Error::new(ErrorKind::Usage, message));
            }
        };
        let ratio_of = |bytes: u64| all_before as f64 / bytes.saturating_sub(all_kept).max(1) as f64;
        let ratio = ratio_of(total);
        let mut curves = Vec::new();
        for compressor in &mut *compressors {
            curves.push(compressor.curve(ratio).map_err(|error| super::located(compressor.original, error))?);
        }
        let fewest: u64 = curves.iter().filter_map(|curve| curve.first()).map(|look| look.bytes).sum();
        if fewest > total || curves.iter().any(Vec::is_empty) {
            let (count, nearest) = (curves.len(), (ratio_of(fewest) * 100.0).floor() / 100.0);
            let message = format!(
                "{count} models cannot be made so small; the nearest is {fewest} bytes for all files, --ratio {nearest:.2}"
            );
            return Err(Error::new(ErrorKind::Target, message));
        }
        let alike = kept.iter().zip(&before).map(|(kept, before)| kept + (*before as f64 / ratio) as u64).collect();
        let hulls = curves.iter().map(|curve| points(curve)).collect();
        Ok(Division { total, alike, curves, hulls })
    }

    fn shares(&self, weights: &[f64]) -> Vec<Share> {
        let weighted = self.hulls.iter().zip(weights).map(|(hull, weight)| {
            let hull = hull.as_ref()?;
            Some(hull.iter().map(|point| Point { loss: point.loss * weight, ..*point }).collect::<Vec<_>>())
        });
        let bytes = match weighted.collect::<Option<Vec<_>>>() {
            Some(hulls) => divide(&hulls, self.total),
            None => self.alike.clone(),
        };
        let at = |hull: &Option<Vec<Point>>, bytes: u64| hull.as_ref().map(|hull| loss_at(hull, bytes));
        let models = bytes.into_iter().zip(&self.alike).zip(self.curves.iter().zip(&self.hulls));
        let share = models.map(|((bytes, &bytes_alike), (curve, hull))| Share {
            bytes,
            loss: at(hull, bytes),
            bytes_alike,
            loss_alike: at(hull, bytes_alike),
            curve: curve.clone(),
        });
        share.collect()
    }
}

impl Compressor<'_> {
    /// The sizes that plans reach, smallest first, with the losses of trial codes on the samples that plans are chosen by; one that
    /// cannot be run has no losses. What is measured for the plans is measured at the rate of `ratio`.
    fn curve(&mut self, ratio: f64) -> Result<Vec<Look>> {
        let most = self.smallest_ratio().unwrap_or(SMALLEST).max(ratio.min(SMALLEST));
        let mut sizes: Vec<u64> = self.calibrated()?.sized(|sizing| {
            let at = |i: usize| LARGEST * (most / LARGEST).powf(i as f64 / (POINTS - 1) as f64);
            (0..POINTS).map(|i| sizing.target(at(i))).collect()
        });
        sizes.sort_unstable();
        sizes.dedup();
        let is_blind = self.allocation() == super::Allocation::Uniform;
        let budgets = match is_blind {
            true => None,
            false => {
                let target = self.calibrated()?.sized(|sizing| sizing.target(ratio));
                Some(self.measure(target)?)
            }
        };
        let mut plans: Vec<Plan> = Vec::new();
        for size in sizes {
            let study = self.study.as_ref().expect("calibrated above");
            let plan = match &budgets {
                Some((curves, sensitivity)) => self.budgeted(study, Codec::Block, (curves, sensitivity), size),
                None => self.blind(size),
            };
            plans.extend(within_reach(plan)?.filter(|plan| plans.iter().all(|known| known.choices != plan.choices)));
        }
        let study = self.study.as_ref().expect("calibrated above");
        let bytes = plans.iter().map(|plan| study.bytes(plan)).collect::<Result<Vec<u64>>>()?;
        let losses: Vec<Option<f64>> = match &self.engine {
            Some(_) => self.tried(plans)?.into_iter().map(|(loss, _)| Some(loss)).collect(),
            None => vec![None; bytes.len()],
        };
        let look = |(bytes, loss): (u64, Option<f64>)| Look {
            bytes,
            loss_mean: loss,
            loss_worst: None,
            measured: loss.is_some(),
        };
        let mut looks: Vec<Look> = bytes.into_iter().zip(losses).map(look).collect();
        looks.sort_by_key(|look| look.bytes);
        Ok(looks)
    }
}

/// A size and its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    bytes: u64,
    loss: f64,
}

/// The lower convex hull of a curve, smallest first, so that each further byte takes no more off the loss than the one before. What is
/// between two measured sizes is on a straight line in logarithms, as losses are.
fn points(curve: &[Look]) -> Option<Vec<Point>> {
    let measured = curve.iter().map(|look| Some(Point { bytes: look.bytes, loss: look.loss_mean? }));
    let measured = measured.collect::<Option<Vec<Point>>>()?;
    let mut fine: Vec<Point> = measured.first().copied().into_iter().collect();
    for pair in measured.windows(2) {
        fine.extend((1..=PARTS).map(|part| between(pair[0], pair[1], part as f64 / PARTS as f64)));
    }
    let mut hull: Vec<Point> = Vec::new();
    for point in fine {
        while let [.., before, last] = hull[..] {
            // In whole numbers of bytes, slopes are compared without a division by nothing.
            let bends_up = gain(before, last) * width(last, point) >= gain(last, point) * width(before, last);
            if bends_up {
                break;
            }
            hull.pop();
        }
        // A larger file that is no better is of no use.
        if hull.last().is_none_or(|last| point.bytes > last.bytes && point.loss < last.loss) {
            hull.push(point);
        }
    }
    Some(hull)
}

fn between(a: Point, b: Point, share: f64) -> Point {
    let mean = |a: f64, b: f64| match a > 0.0 && b > 0.0 {
        true => (a.ln() + (b.ln() - a.ln()) * share).exp(),
        false => a + (b - a) * share,
    };
    let bytes = mean(a.bytes as f64, b.bytes as f64).round() as u64;
    if share >= 1.0 { b } else { Point { bytes, loss: mean(a.loss, b.loss) } }
}

fn gain(from: Point, to: Point) -> f64 {
    from.loss - to.loss
}

fn width(from: Point, to: Point) -> f64 {
    to.bytes.saturating_sub(from.bytes) as f64
}

/// The bytes of each model, of convex curves that begin within the total.
fn divide(hulls: &[Vec<Point>], total: u64) -> Vec<u64> {
    let mut bytes: Vec<u64> = hulls.iter().map(|hull| hull[0].bytes).collect();
    let mut left = total.saturating_sub(bytes.iter().sum());
    let segments = hulls.iter().enumerate().flat_map(|(model, hull)| hull.windows(2).map(move |pair| (model, pair)));
    let mut segments: Vec<(usize, &[Point])> = segments.collect();
    let slope = |pair: &[Point]| gain(pair[0], pair[1]) / width(pair[0], pair[1]).max(1.0);
    // Stable: equal slopes keep the order of a curve, and of the models.
    segments.sort_by(|(_, a), (_, b)| slope(b).total_cmp(&slope(a)));
    for (model, pair) in segments {
        let taken = (pair[1].bytes - pair[0].bytes).min(left);
        bytes[model] += taken;
        left -= taken;
    }
    bytes
}

/// The loss of a curve at a size; outside of it, that of its end.
fn loss_at(hull: &[Point], bytes: u64) -> f64 {
    let Some(next) = hull.iter().position(|point| point.bytes >= bytes) else {
        return hull.last().map_or(f64::NAN, |last| last.loss);
    };
    let (to, Some(from)) = (hull[next], next.checked_sub(1).map(|before| hull[before])) else { return hull[next].loss };
    let share = width(from, Point { bytes, ..to }) / width(from, to).max(1.0);
    from.loss + (to.loss - from.loss) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u64, f64)]) -> Vec<Look> {
        let look = |&(bytes, loss)| Look { bytes, loss_mean: Some(loss), loss_worst: None, measured: true };
        points.iter().map(look).collect()
    }

    /// Losses that fall with the square of the size, one from 16 times as high.
    fn square(factor: f64) -> Vec<Look> {
        let sizes = [100, 141, 200, 283, 400, 566, 800, 1131, 1600];
        curve(&sizes.map(|bytes| (bytes, factor / (bytes as f64).powi(2))))
    }

    #[test]
    fn bytes_go_where_they_take_most_off_the_loss() {
        let hulls: Vec<_> = [square(1.0), square(27.0)].iter().map(|curve| points(curve).expect("measured")).collect();
        // By calculus: 1 / a^3 = 27 / b^3, so that b = 3 a.
        let found = divide(&hulls, 1200);
        assert_eq!(found.iter().sum::<u64>(), 1200);
        assert!((found[0] as f64 - 300.0).abs() < 20.0, "{found:?}");
        let sum = |a: u64| loss_at(&hulls[0], a) + loss_at(&hulls[1], 1200 - a);
        let least = (100..=1100).map(sum).fold(f64::INFINITY, f64::min);
        assert!(sum(found[0]) <= least * (1.0 + 1e-12), "{} {least}", sum(found[0]));
    }

    #[test]
    fn hulls_are_convex_and_fall() {
        let bumpy = curve(&[(10, 8.0), (20, 9.0), (30, 4.0), (40, 4.0), (50, 3.9), (60, 0.0)]);
        let hull = points(&bumpy).expect("measured");
        assert_eq!((hull[0].bytes, hull.last().map(|last| (last.bytes, last.loss))), (10, Some((60, 0.0))));
        for three in hull.windows(3) {
            let [a, b] = [&three[..2], &three[1..]].map(|pair| gain(pair[0], pair[1]) / width(pair[0], pair[1]));
            assert!(a >= b && b > 0.0, "{hull:?}");
        }
        assert_eq!(points(&[Look { loss_mean: None, ..bumpy[0] }]), None);
    }

    #[test]
    fn no_more_bytes_than_there_are_and_no_fewer_than_the_smallest() {
        let hulls: Vec<_> = [square(1.0), square(1.0)].iter().map(|curve| points(curve).expect("measured")).collect();
        assert_eq!(divide(&hulls, 200), [100, 100]);
        assert_eq!(divide(&hulls, 10_000), [1600, 1600]);
        for total in (200..3200).step_by(37) {
            assert_eq!(divide(&hulls, total).iter().sum::<u64>(), total);
        }
    }
}
