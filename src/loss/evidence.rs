//! What single samples show, which a mean over all of them hides: changed decisions, the worst sample, the spread.
//!
//! A sample here is what is independent of the others: one run of the model, or a whole stream. The lower bound on the
//! share of unchanged decisions is that of Clopper and Pearson (1934), one-sided at 95 %: the `p` for which `k` or more of
//! `n` decisions would be unchanged with a probability of 5 %. It is given only where each sample is one decision, because
//! the frames of a sequence depend on each other and would make it too high.

use std::sync::Arc;

use serde::Serialize;

/// Samples with changed decisions that are named.
const NAMED: usize = 5;
/// What a bound may be wrong by: one time in twenty.
const DOUBT: f64 = 0.05;

/// Decisions of both models: the largest class of each row, or each element of integers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decisions {
    /// Those that were compared.
    pub total: u64,
    /// Those that are the same in both models.
    pub same: u64,
    /// With 95 % confidence, at least this share of decisions is the same, of inputs like these (Clopper-Pearson,
    /// one-sided); `None` where a sample holds several decisions.
    pub at_least: Option<f64>,
    /// Samples with a changed decision.
    pub changed_samples: u64,
    /// The first of them by the number of changed decisions.
    pub changed: Vec<ChangedSample>,
}

/// A sample with changed decisions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedSample {
    /// Its file, with its row where the file holds several.
    pub sample: String,
    /// Its decisions.
    pub decisions: u64,
    /// Those that changed.
    pub changed: u64,
}

/// The share of decisions that are the labels'.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// Of the original.
    pub original: f64,
    /// Of the compressed model.
    pub compressed: f64,
    /// Decisions with a label.
    pub labels: u64,
}

/// The sample with the largest error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstSample {
    /// Its file, with its row where the file holds several.
    pub sample: String,
    /// Its mean squared error over the variance of the output in all samples.
    pub nmse: f64,
}

/// Standard errors of means over samples, `s / sqrt(n)`; `None` for a single sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Of the error over the variance.
    pub nmse: Option<f64>,
    /// Of the share of unchanged decisions.
    pub agreement: Option<f64>,
}

/// The sums of one sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SampleSums {
    pub origin: Arc<str>,
    pub elements: u64,
    pub squared_error: f64,
    pub decisions: u64,
    pub equal: u64,
}

/// The decisions of all samples; `None` without any.
pub(super) fn decisions(samples: &[SampleSums]) -> Option<Decisions> {
    let sum = |of: fn(&SampleSums) -> u64| samples.iter().map(of).sum::<u64>();
    let (total, same) = (sum(|sample| sample.decisions), sum(|sample| sample.equal));
    let mut changed: Vec<&SampleSums> = samples.iter().filter(|sample| sample.equal < sample.decisions).collect();
    let changed_samples = changed.len() as u64;
    // A stable sort: those with as many changes stay in the order of the samples.
    changed.sort_by_key(|sample| std::cmp::Reverse(sample.decisions - sample.equal));
    let single = samples.iter().all(|sample| sample.decisions <= 1);
    let named = changed.iter().take(NAMED).map(|sample| ChangedSample {
        sample: sample.origin.to_string(),
        decisions: sample.decisions,
        changed: sample.decisions - sample.equal,
    });
    (total > 0).then(|| Decisions {
        total,
        same,
        at_least: single.then(|| lower_bound(same, total)),
        changed_samples,
        changed: named.collect(),
    })
}

/// The sample with the largest error, of several.
pub(super) fn worst(samples: &[SampleSums], variance: Option<f64>) -> Option<WorstSample> {
    let variance = variance?;
    let known = samples.iter().filter(|sample| sample.elements > 0);
    let worst = known.max_by(|a, b| mean_error(a).total_cmp(&mean_error(b)))?;
    (samples.len() > 1).then(|| WorstSample { sample: worst.origin.to_string(), nmse: mean_error(worst) / variance })
}

/// How much the figures vary over the samples.
pub(super) fn spread(samples: &[SampleSums], variance: Option<f64>) -> Spread {
    let errors = samples.iter().filter(|sample| sample.elements > 0).map(mean_error).collect::<Vec<_>>();
    let decided = samples.iter().filter(|sample| sample.decisions > 0);
    let shares = decided.map(|sample| sample.equal as f64 / sample.decisions as f64).collect::<Vec<_>>();
    Spread {
        nmse: variance.zip(standard_error(&errors)).map(|(variance, error)| error / variance),
        agreement: standard_error(&shares),
    }
}

fn mean_error(sample: &SampleSums) -> f64 {
    sample.squared_error / sample.elements as f64
}

fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}

/// The lower end of the one-sided interval of Clopper and Pearson for `k` successes in `n` trials.
fn lower_bound(k: u64, n: u64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, k as f64 / n as f64);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if log_tail(k, n, middle) < DOUBT.ln() { low = middle } else { high = middle }
    }
    low
}

/// `ln P(X >= k)` for a binomial `X` of `n` trials with success `p`: from the last term down, relative to it.
fn log_tail(k: u64, n: u64, p: f64) -> f64 {
    let odds = ((1.0 - p) / p).ln();
    let last = n as f64 * p.ln();
    let mut term = 0.0_f64;
    let (mut largest, mut sum) = (0.0_f64, 1.0_f64);
    for j in (k..n).rev() {
        term += ((j + 1) as f64 / (n - j) as f64).ln() + odds;
        if term > largest {
            (sum, largest) = (sum * (largest - term).exp() + 1.0, term);
        } else {
            sum += (term - largest).exp();
        }
    }
    last + largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_where_the_binomial_tail_is_a_twentieth() {
        // Python: the p for which sum(comb(n, j) * p**j * (1 - p)**(n - j) for j in range(k, n + 1)) is 0.05, by bisection.
        for (k, n, expected) in [
            (200, 200, 0.985_132_6),
            (199, 200, 0.976_501_5),
            (6, 6, 0.606_962_2),
            (0, 10, 0.0),
            (1, 10, 0.005_116_2),
            (4900, 5000, 0.976_427_0),
        ] {
            let found = lower_bound(k, n);
            assert!((found - expected).abs() < 1e-6, "{k} of {n}: {found} instead of {expected}");
        }
    }

    fn sample(origin: &str, decisions: u64, equal: u64, squared_error: f64) -> SampleSums {
        SampleSums { origin: origin.into(), elements: 10, squared_error, decisions, equal }
    }

    #[test]
    fn samples_that_changed_are_named_and_counted() {
        let samples = [sample("a", 1, 1, 0.1), sample("b", 1, 0, 0.5), sample("c", 1, 1, 0.2)];
        let found = decisions(&samples).expect("three decisions");
        assert_eq!((found.total, found.same, found.changed_samples), (3, 2, 1));
        assert_eq!(found.changed, [ChangedSample { sample: "b".to_owned(), decisions: 1, changed: 1 }]);
        // 1 - P(X < 2) = 3 p^2 - 2 p^3 = 0.05
        assert!((found.at_least.expect("one decision a sample") - 0.135_35).abs() < 1e-5, "{found:?}");
        let worst = worst(&samples, Some(0.5)).expect("several samples");
        assert_eq!((worst.sample.as_str(), worst.nmse), ("b", 0.1));
    }

    #[test]
    fn frames_of_a_sequence_give_no_bound() {
        let found = decisions(&[sample("a", 40, 39, 0.0), sample("b", 40, 38, 0.0)]).expect("decisions");
        assert_eq!((found.at_least, found.changed[0].sample.as_str()), (None, "b"));
        assert_eq!(decisions(&[sample("a", 0, 0, 0.0)]), None);
    }

    #[test]
    fn the_spread_is_a_standard_error() {
        let samples = [sample("a", 4, 4, 1.0), sample("b", 4, 2, 3.0)];
        let Spread { nmse, agreement } = spread(&samples, Some(0.1));
        assert!((nmse.expect("two samples") - 1.0).abs() < 1e-12 && (agreement.expect("two") - 0.25).abs() < 1e-12);
        assert_eq!(spread(&samples[..1], Some(0.1)), Spread::default());
    }
}
