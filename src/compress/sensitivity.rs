//! Sensitivity: the loss at the model's output per distortion of a site.
//!
//! The same distortion has very different effects in different gates. It is measured on the model itself: one site at a
//! time is quantised coarsely, the model is run, and `s_u = loss / D_u`. For small errors the loss is a quadratic form in
//! the errors of the weights, so that `sum_u s_u D_u` predicts the loss of a plan. The engine takes the coarse weights in
//! place of the model's, so that nothing is planned or built anew.
//!
//! One coarse version is one draw of an error, and the loss that it causes in a small site or on a short stream differs
//! from draw to draw by factors, now and then of a hundred: `s_u` is the geometric mean over all versions that differ.

use std::sync::Arc;

use rayon::prelude::*;

use super::study::CodedVersion;
use crate::code::{self, CodedSites};
use crate::engine::Engine;
use crate::error::Result;
use crate::loss::Reference;
use crate::progress::{self, Progress};
use crate::sites::{PerSite, SiteId, Sites, Weights};

/// Losses below this share of the median of sites, or of the greatest of a site's versions, are noise: no site is taken to
/// be less sensitive.
const FLOOR: f64 = 0.01;

/// The sensitivity of each site, `None` where the samples never reach it.
///
/// `coarse` are versions of all sites with their distortions; a site that has none of either is not measured.
///
/// # Errors
/// Those of running the model.
pub fn measure(
    engine: &Engine,
    weights: &Weights,
    coarse: &[Arc<CodedVersion>],
    reference: &Reference<'_>,
    progress: &dyn Progress,
) -> Result<PerSite<Option<f64>>> {
    progress.phase("sensitivity", (coarse.len() * weights.len()) as u64);
    let of_site = |id: SiteId| -> Result<Option<f64>> {
        let mut versions = Vec::with_capacity(coarse.len());
        for (i, version) in coarse.iter().enumerate() {
            let (sites, distortion) = &**version;
            // Where there are no more pieces than atoms, pieces of several widths decode to the same weights.
            let known = coarse[..i].iter().any(|before| before.1[id] == distortion[id]);
            if let Some(coded) = &sites[id]
                && distortion[id] > 0.0
                && !known
            {
                let overrides = code::overrides(weights, engine, [(id, coded)]);
                let loss = reference.compare(engine, &overrides)?.mean_loss()?;
                versions.push((loss / distortion[id]).max(0.0));
            }
            progress::advance(progress, 1)?;
        }
        Ok((!versions.is_empty()).then(|| geometric_mean(&versions)))
    };
    // A single stream is run by one thread.
    let measured = weights.ids().collect::<Vec<_>>().into_par_iter().map(of_site).collect::<Result<Vec<_>>>()?;
    progress.done();
    Ok(measured.into())
}

/// The loss that each coded site adds to that of all others, per distortion.
///
/// # Errors
/// Those of running the model.
pub fn added(
    engine: &Engine,
    weights: &Weights,
    (coded, distortion): (&CodedSites, &PerSite<f64>),
    reference: &Reference<'_>,
    progress: &dyn Progress,
) -> Result<PerSite<Option<f64>>> {
    progress.phase("sensitivity", weights.len() as u64);
    let all = loss(engine, weights, coded, reference)?;
    let of_site = |id: SiteId| -> Result<Option<f64>> {
        let mut without = coded.clone();
        let added = match without[id].take() {
            Some(_) if distortion[id] > 0.0 => {
                Some(((all - loss(engine, weights, &without, reference)?) / distortion[id]).max(0.0))
            }
            _ => None,
        };
        progress::advance(progress, 1)?;
        Ok(added)
    };
    let measured = weights.ids().collect::<Vec<_>>().into_par_iter().map(of_site).collect::<Result<Vec<_>>>()?;
    progress.done();
    Ok(measured.into())
}

fn geometric_mean(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let shares = values.iter().map(|v| (v / greatest).max(FLOOR));
    greatest * shares.product::<f64>().powf(1.0 / values.len() as f64)
}

/// The loss of the model with all its sites as `coded` has them.
///
/// # Errors
/// Those of running the model.
pub fn loss(engine: &Engine, weights: &Weights, coded: &CodedSites, reference: &Reference<'_>) -> Result<f64> {
    reference.compare(engine, &code::overrides(weights, engine, code::stored(coded)))?.mean_loss()
}

/// Fills the gaps: a site that was not reached gets the median of the sites of the same kind, or of all. Sites are
/// compared by their sensitivity times `energy`, their distortion if they were zeroed.
pub fn complete(sites: &Sites, measured: &PerSite<Option<f64>>, energy: &PerSite<f64>) -> PerSite<f64> {
    let relative: PerSite<Option<f64>> = measured.map(|id, s| s.map(|s| s * energy[id]));
    let all = median(relative.values().flatten().copied()).unwrap_or(1.0);
    let alike = |kind| {
        let alike = sites.all.iter().filter(|other| sites.kind(other) == kind);
        median(alike.filter_map(|other| relative[other.id])).unwrap_or(all)
    };
    sites.map(|site| {
        let relative = relative[site.id].unwrap_or_else(|| alike(sites.kind(site))).max(FLOOR * all);
        if energy[site.id] > 0.0 { relative / energy[site.id] } else { 1.0 }
    })
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
