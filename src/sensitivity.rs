//! What a unit's distortion costs at the model's output.
//!
//! The same distortion costs very different amounts in different gates. It is measured on the model itself: one unit
//! is replaced by a coarse version of itself, the model is run, and `s_u = loss / D_u` is the loss per distortion. For
//! small errors the loss is a quadratic form in the weights' errors, so that `sum_u s_u D_u` predicts the loss of a
//! plan. The engine takes the coarse weights in place of the model's, so that nothing is planned or built anew.
//!
//! One coarse version is one draw of an error, and what it costs in a small unit or on a short stream differs from draw to
//! draw by a factor of two: `s_u` is the mean over as many versions as there are.

use crate::coding::{CodedUnits, Weights};
use crate::engine::Engine;
use crate::error::Result;
use crate::loss::Reference;
use crate::progress::Progress;

/// Losses below this share of the median are noise: no unit is believed to matter less.
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
        let (mut sum, mut count) = (0.0, 0);
        for (units, distortion) in coarse {
            if let Some(coded) = &units[unit]
                && distortion[unit] > 0.0
            {
                let overrides = weights.overrides(engine, |u| (u == unit).then_some(coded));
                let loss = reference.compare(engine, &overrides)?.mean_loss()?;
                sum += (loss / distortion[unit]).max(0.0);
                count += 1;
            }
            progress.advance(1);
        }
        measured.push((count > 0).then(|| sum / f64::from(count)));
    }
    progress.done();
    Ok(measured)
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
