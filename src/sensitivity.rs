//! What a unit's distortion costs at the model's output.
//!
//! The same distortion costs very different amounts in different gates. It is measured on the model itself: one unit
//! is replaced by a coarse version of itself, the model is run, and `s_u = loss / D_u` is the loss per distortion. For
//! small errors the loss is a quadratic form in the weights' errors, so that `sum_u s_u D_u` predicts the loss of a
//! plan. The engine takes the coarse weights in place of the model's, so that nothing is planned or built anew.
//!
//! One coarse version is one draw of an error, and what it costs in a small unit or on a short stream differs from draw to
//! draw by factors, now and then of a hundred: `s_u` is the geometric mean over all versions that differ.

use crate::coding::{CodedUnits, Weights};
use crate::engine::Engine;
use crate::error::Result;
use crate::loss::Reference;
use crate::progress::Progress;

/// Losses below this share of the median of units, or of the greatest of a unit's versions, are noise: nothing is believed
/// to matter less.
const FLOOR: f64 = 0.01;

/// The sensitivity of each unit, `None` where the samples never reach it.
///
/// `coarse` are versions of all units with their distortions; a unit that has none of either is not measured.
///
/// # Errors
/// Those of running the model.
pub fn measure(
    engine: &Engine,
    weights: &Weights,
    coarse: &[(CodedUnits, Vec<f64>)],
    reference: &Reference<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Option<f64>>> {
    progress.phase("sensitivity", (coarse.len() * weights.units.len()) as u64);
    let mut measured = Vec::with_capacity(weights.units.len());
    for unit in 0..weights.units.len() {
        let mut versions = Vec::with_capacity(coarse.len());
        for (i, (units, distortion)) in coarse.iter().enumerate() {
            // Where there are no more pieces than atoms, pieces of several widths rebuild the same weights.
            let known = coarse[..i].iter().any(|(_, before)| before[unit] == distortion[unit]);
            if let Some(coded) = &units[unit]
                && distortion[unit] > 0.0
                && !known
            {
                let overrides = weights.overrides(engine, |u| (u == unit).then_some(coded));
                let loss = reference.compare(engine, &overrides)?.mean_loss()?;
                versions.push((loss / distortion[unit]).max(0.0));
            }
            progress.advance(1);
        }
        measured.push((!versions.is_empty()).then(|| geometric_mean(&versions)));
    }
    progress.done();
    Ok(measured)
}

fn geometric_mean(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let shares = values.iter().map(|v| (v / greatest).max(FLOOR));
    greatest * shares.product::<f64>().powf(1.0 / values.len() as f64)
}

/// The loss of the model with all its units as `coded` has them.
///
/// # Errors
/// Those of running the model.
pub fn loss(engine: &Engine, weights: &Weights, coded: &CodedUnits, reference: &Reference<'_>) -> Result<f64> {
    reference.compare(engine, &weights.overrides(engine, |unit| coded[unit].as_ref()))?.mean_loss()
}

/// Fills the gaps: a unit that was not reached is taken to matter as the median of the same gate and matrix elsewhere,
/// or of all units. `scale` makes units comparable: sensitivities are compared times `scale`, the unit's energy.
pub fn complete(weights: &Weights, measured: &[Option<f64>], scale: &[f64]) -> Vec<f64> {
    let relative: Vec<Option<f64>> = measured.iter().zip(scale).map(|(s, e)| s.map(|s| s * e)).collect();
    let all = median(relative.iter().flatten().copied()).unwrap_or(1.0);
    let like = |unit: usize| {
        let this = &weights.units[unit].unit;
        let alike = relative
            .iter()
            .zip(&weights.units)
            .filter(|(_, other)| (other.unit.matrix, other.unit.gate) == (this.matrix, this.gate));
        median(alike.filter_map(|(s, _)| *s)).unwrap_or(all)
    };
    let fill = |unit: usize| {
        let relative = relative[unit].unwrap_or_else(|| like(unit)).max(FLOOR * all);
        if scale[unit] > 0.0 { relative / scale[unit] } else { 1.0 }
    };
    (0..measured.len()).map(fill).collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|v| *v > 0.0).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_geometric_mean_of_one_is_itself_and_nothing_counts_as_little() {
        assert_eq!(geometric_mean(&[0.3]), 0.3);
        assert!((geometric_mean(&[2.0, 8.0]) - 4.0).abs() < 1e-12);
        assert!((geometric_mean(&[0.0, 4.0]) - 0.4).abs() < 1e-12);
        assert!(geometric_mean(&[0.0, 0.0]) < 1e-300);
        assert!((geometric_mean(&[1e-90, 1e-90, 1e-90, 1e-90]) / 1e-90 - 1.0).abs() < 1e-12);
    }
}
