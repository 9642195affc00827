//! The answer to the question that people come with: may I ship it?
//!
//! It is made of the figures of a report and nothing else, so that every printer gives the same one. A result is *good* if
//! nothing speaks against it, *doubtful* if an output is further from the original's than most uses allow ([`LEAST_SNR`],
//! [`LEAST_AGREEMENT`]), *failed* if a check failed, and a *smoke test* if the models were run on random inputs.

use serde::Serialize;

use super::size::{figure, grouped, percent};
use super::{Bytes, Command, Report, Search};
use crate::error::Escaped;
use crate::loss::{Decisions, Figures};
use crate::verify::{CheckKind, Checked, Verdict, VerifyScope, counts};

/// Decibels over the error, of the variance of an output, below which a result is doubtful: an error of a tenth.
const LEAST_SNR: f64 = 20.0;
/// The share of unchanged decisions below which a result is doubtful.
const LEAST_AGREEMENT: f64 = 0.95;
/// Standard errors between a figure and the check that is suggested for it: new samples of the kind stay within nearly
/// always.
const MARGIN: f64 = 2.0;

/// Whether a result may be shipped, why, and what to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// In a word.
    pub grade: Grade,
    /// What the outputs showed, in sentences.
    pub findings: Vec<String>,
    /// What speaks against shipping.
    pub concerns: Vec<String>,
    /// What to try about that.
    pub advice: Vec<String>,
    /// Checks that the result passes with a margin for other samples; none if it is not good.
    pub suggested_checks: Vec<SuggestedCheck>,
}

/// An answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Nothing speaks against it.
    Good,
    /// It differs more than most uses allow.
    Doubtful,
    /// A check failed.
    Failed,
    /// It was run on random inputs only.
    SmokeTest,
}

impl Grade {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Grade::Good => "good",
            Grade::Doubtful => "doubtful",
            Grade::Failed => "failed",
            Grade::SmokeTest => "smoke test only",
        }
    }
}

/// A check that a result passes with a margin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuggestedCheck {
    /// [`CheckKind::name`].
    pub check: &'static str,
    /// The output.
    pub output: String,
    /// The bound.
    pub limit: f64,
}

impl SuggestedCheck {
    /// What stands behind the flag: `logits:0.98`.
    #[must_use]
    pub fn value(&self) -> String {
        format!("{}:{}", self.output, self.limit)
    }
}

impl Answer {
    /// The answer of a report; `None` if nothing was run.
    #[must_use]
    pub fn of(report: &Report) -> Option<Answer> {
        let verdict = report.verify.as_ref()?;
        let judged = || verdict.outputs.iter().filter(|figures| counts(figures));
        let differing: Vec<String> = judged().filter_map(difference).collect();
        let grade = match verdict {
            Verdict { passed: false, .. } => Grade::Failed,
            Verdict { smoke_test: true, .. } => Grade::SmokeTest,
            _ if !differing.is_empty() => Grade::Doubtful,
            _ => Grade::Good,
        };
        let reservations = reservation(verdict).map(str::to_owned);
        let mut answer = Answer {
            grade,
            findings: judged().flat_map(findings).chain(searched(report, verdict)).collect(),
            concerns: differing.into_iter().chain(reservations).collect(),
            advice: Vec::new(),
            suggested_checks: Vec::new(),
        };
        match grade {
            Grade::Good => answer.suggested_checks = judged().flat_map(suggested).collect(),
            Grade::Failed | Grade::Doubtful => answer.advice = advice(report, verdict),
            Grade::SmokeTest => {
                let flag = if report.command == Command::Verify { "--samples" } else { "--calibration" };
                answer.advice.push(format!("give real inputs of the model with {flag}"));
            }
        }
        Some(answer)
    }

    /// The flags of the suggested checks, each output in quotes where a shell would read it.
    #[must_use]
    pub fn flags(&self) -> String {
        let flags = self.suggested_checks.iter().map(|it| format!("--{} {}", it.check, super::quoted(&it.value())));
        flags.collect::<Vec<_>>().join(" ")
    }
}

/// What an output showed.
fn findings(figures: &Figures) -> Vec<String> {
    let name = Escaped(&figures.name);
    let mut lines = Vec::new();
    match (&figures.decisions, figures.snr_variance_db, figures.max_abs) {
        (Some(decisions), ..) => lines.push(format!("{name}: {}", unchanged(decisions))),
        (None, Some(db), _) => lines.push(format!("{name}: SNR {db:.1} dB against the variance of the output")),
        (None, None, Some(0.0)) => lines.push(format!("{name}: the same values in both models")),
        (None, None, largest) => lines.push(format!("{name}: largest error {}", figure(largest))),
    }
    if let Some(accuracy) = figures.accuracy {
        let (before, after) = (percent(Some(accuracy.original)), percent(Some(accuracy.compressed)));
        let mut line = format!("{name}: accuracy {before} before, {after} after ({} labels)", grouped(accuracy.labels));
        if let Some(entropy) = figures.cross_entropy {
            line += &format!("; cross-entropy {:.4} before, {:.4} after", entropy.original, entropy.compressed);
        }
        lines.push(line);
    }
    if let Some(decisions) = figures.decisions.as_ref().filter(|decisions| !decisions.changed.is_empty()) {
        lines.push(format!("{name}: decisions changed in {}", changed(decisions)));
    }
    if let Some(worst) = figures.worst.as_ref().filter(|worst| worst.nmse > 0.0) {
        let db = -10.0 * worst.nmse.log10();
        lines.push(format!("{name}: largest error in sample {}: {db:.1} dB", file_name(&worst.sample)));
    }
    if let (None, Some(profile), [_, _, _]) = (&figures.decisions, &figures.profile, &figures.course_db[..])
        && profile.is_of_time()
    {
        let course = figures.course_db.iter().map(|db| db.map_or_else(|| "exact".to_owned(), |db| format!("{db:.1}")));
        let course = course.collect::<Vec<_>>().join(", ");
        lines.push(format!("{name}: SNR over time ({}), in thirds: {course} dB", Escaped(&profile.along)));
    }
    lines
}

/// What a search for the smallest file did.
fn searched(report: &Report, verdict: &Verdict) -> Option<String> {
    let Search { goal, samples, loss, next_smaller } = report.search.as_ref()?;
    let next = next_smaller.map_or_else(String::new, |smaller| {
        format!("; the next smaller file tried, {}, has {}", Bytes(smaller.bytes_after), figure(Some(smaller.loss)))
    });
    let (own, holdout) = (figure(Some(*loss)), figure(verdict.loss_worst));
    Some(format!("{goal}: loss {own} on {samples} samples held back for the search, {holdout} on held-out ones{next}"))
}

/// `198 of 200 decisions unchanged (99.0 %; with 95 % confidence at least 96.9 %)`
fn unchanged(decisions: &Decisions) -> String {
    let Decisions { total, same, .. } = *decisions;
    let share = (same < total).then(|| percent(Some(same as f64 / total as f64)));
    let bound = decisions.at_least.map(|bound| format!("95 %: at least {:.1} %", (bound * 1000.0).floor() / 10.0));
    let notes: Vec<String> = share.into_iter().chain(bound).collect();
    let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
    format!("{} of {} decisions unchanged{notes}", grouped(same), grouped(total))
}

/// The samples whose decisions changed, the most changed first.
fn changed(decisions: &Decisions) -> String {
    let several = decisions.at_least.is_none();
    let named = decisions.changed.iter().map(|it| {
        let count = if several { format!(" ({} of {})", it.changed, it.decisions) } else { String::new() };
        format!("{}{count}", file_name(&it.sample))
    });
    let named: Vec<String> = named.collect();
    let more = decisions.changed_samples - named.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// A sample without its folders, for one line.
fn file_name(sample: &str) -> Escaped<'_> {
    Escaped(sample.rsplit(['/', '\\']).next().unwrap_or(sample))
}

/// How an output differs more than most uses allow.
fn difference(figures: &Figures) -> Option<String> {
    let name = Escaped(&figures.name);
    if let Some(agreement) = figures.agreement.filter(|share| figures.decides && *share < LEAST_AGREEMENT) {
        let (found, least) = (percent(Some(agreement)), LEAST_AGREEMENT * 100.0);
        return Some(format!("output '{name}': {found} of decisions unchanged, under {least:.0} %"));
    }
    let db = figures.snr_variance_db.filter(|db| *db < LEAST_SNR)?;
    let share = percent(figures.nmse);
    Some(format!(
        "output '{name}': SNR {db:.1} dB is under {LEAST_SNR} dB: the error is {share} of the variance of the output"
    ))
}

/// Why figures show less than they seem to.
fn reservation(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict { scope: VerifyScope::Layers, .. } => {
            Some("smoke test: each layer was run alone on random inputs, so that no output of the model was seen")
        }
        Verdict { smoke_test: true, .. } => Some(
            "smoke test: the inputs were random. Real ones bring the model into other states, where the error may be \
             several times as large",
        ),
        Verdict { calibrated_on: Some(on), .. } if on == "same" => {
            Some("it was judged on the sample that it was calibrated on, which flatters it: give a second one")
        }
        _ => None,
    }
}

/// Checks with a margin from the spread over the samples.
fn suggested(figures: &Figures) -> Vec<SuggestedCheck> {
    let of = |kind: CheckKind, limit: f64| SuggestedCheck { check: kind.name(), output: figures.name.clone(), limit };
    let mut checks = Vec::new();
    if let (Some(decisions), Some(agreement)) = (&figures.decisions, figures.agreement) {
        let margin = figures.spread.agreement.map_or(0.02, |error| MARGIN * error);
        let least = decisions.at_least.unwrap_or(agreement - margin);
        checks.push(of(CheckKind::MinAgreement, (least * 100.0).floor() / 100.0));
    }
    if let (Some(db), Some(nmse)) = (figures.snr_db, figures.nmse.filter(|nmse| *nmse > 0.0)) {
        // One sample has no spread: twice the error then.
        let more = figures.spread.nmse.map_or(2.0, |error| 1.0 + MARGIN * error / nmse);
        checks.push(of(CheckKind::MinSnr, (db - 10.0 * more.log10()).floor()));
    }
    checks.retain(|check| check.limit > 0.0);
    checks
}

/// What to try about a result that failed or is doubtful.
fn advice(report: &Report, verdict: &Verdict) -> Vec<String> {
    let lower = match expected_ratio(report, verdict) {
        Some(ratio) => format!("--ratio {ratio}, from which the curve of this report expects enough"),
        None => "a lower --ratio".to_owned(),
    };
    let setting = |key: &str| report.settings.as_ref().and_then(|settings| settings.get(key)?.as_str());
    let other = match (setting("sensitivity"), setting("tune")) {
        // It tries all the others.
        (Some("auto"), Some("fast")) => Some("--tune full"),
        (Some("auto"), _) | (None, _) => None,
        (Some(_), _) => Some("--sensitivity auto"),
    };
    let more = "more --calibration samples, of all kinds that users have".to_owned();
    [lower, more].into_iter().chain(other.map(str::to_owned)).collect()
}

/// The largest ratio at which the curve of a report expects all checks to pass, and no output to be doubtful.
///
/// The curve says how the loss changes from size to size; the result itself says by how much it has to fall.
#[must_use]
pub fn expected_ratio(report: &Report, verdict: &Verdict) -> Option<f64> {
    let failed = verdict.checks.iter().filter(|check| !check.passed).map(Checked::strain);
    let doubtful = verdict.outputs.iter().filter(|figures| counts(figures)).map(doubt_excess);
    let excess = failed.chain(doubtful).fold(1.0, f64::max);
    let own = report.weights.as_ref().and_then(|weights| weights.ratio)?;
    let measured = report.tradeoff.iter().any(|point| point.measured);
    let loss = if measured { verdict.loss_worst } else { report.predicted_loss }?;
    let points = report.tradeoff.iter().filter(|point| point.measured == measured);
    let mut curve: Vec<(f64, f64)> = points.filter_map(|point| Some((point.ratio?, point.loss))).collect();
    curve.push((own, loss));
    ratio_at(curve, own, loss / excess)
}

/// Where a curve of ratios and losses comes down to `bound`, below `own`; a straight line in logarithms between points.
fn ratio_at(mut curve: Vec<(f64, f64)>, own: f64, bound: f64) -> Option<f64> {
    curve.retain(|(ratio, loss)| *ratio <= own && *loss > 0.0 && loss.is_finite());
    curve.sort_by(|a, b| b.0.total_cmp(&a.0));
    let pair = curve.windows(2).find(|pair| pair[1].1 <= bound)?;
    let [(from, above), (to, below)] = [pair[0], pair[1]];
    let share = if above > bound && above > below { (above / bound).ln() / (above / below).ln() } else { 1.0 };
    let ratio = (from.ln() + (to.ln() - from.ln()) * share).exp();
    // What logarithms make of a round number is no less than it.
    Some((ratio * 10.0 + 1e-9).floor() / 10.0).filter(|ratio| *ratio > 1.0 && *ratio < own)
}

/// By how much the squared error of an output has to fall for it not to be doubtful.
fn doubt_excess(figures: &Figures) -> f64 {
    let noise = figures.snr_variance_db.map_or(0.0, |db| 10.0_f64.powf((LEAST_SNR - db) / 10.0));
    let changed = figures.agreement.filter(|_| figures.decides).map_or(0.0, |share| 1.0 - share);
    noise.max((changed / (1.0 - LEAST_AGREEMENT)).powi(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_read_between_its_points() {
        // The loss falls with the cube of the ratio: an eighth at half of it.
        let curve = vec![(16.0, 8.0), (8.0, 1.0), (4.0, 0.125)];
        assert_eq!(ratio_at(curve.clone(), 16.0, 1.0), Some(8.0));
        assert_eq!(ratio_at(curve.clone(), 16.0, 2.0), Some(10.0), "8 * 2^(1/3) = 10.08");
        assert_eq!(ratio_at(curve.clone(), 8.0, 0.5), Some(6.3), "8 / 2^(1/3) = 6.35");
        assert_eq!(ratio_at(curve, 16.0, 0.1), None);
    }

    #[test]
    fn suggestions_leave_a_margin() {
        let decisions = Decisions { total: 200, same: 200, at_least: Some(0.985), changed_samples: 0, changed: vec![] };
        let spread = crate::loss::Spread { nmse: Some(0.5e-4), agreement: Some(0.0) };
        let figures = Figures {
            name: "logits".to_owned(),
            agreement: Some(1.0),
            decides: true,
            decisions: Some(decisions),
            snr_db: Some(41.9),
            nmse: Some(1e-4),
            spread,
            ..Figures::default()
        };
        let found: Vec<String> = suggested(&figures).iter().map(SuggestedCheck::value).collect();
        // 41.9 dB less 10 log10(1 + 2 * 0.5) = 3.01 dB
        assert_eq!(found, ["logits:0.98", "logits:38"]);
        let line = &findings(&figures)[0];
        assert_eq!(line, "logits: 200 of 200 decisions unchanged (95 %: at least 98.5 %)");
    }

    #[test]
    fn masks_and_states_have_no_decisions() {
        let mask = Figures {
            name: "mask".to_owned(),
            agreement: Some(0.4),
            nmse: Some(1e-3),
            snr_variance_db: Some(30.0),
            ..Figures::default()
        };
        assert_eq!(findings(&mask), ["mask: SNR 30.0 dB against the variance of the output"]);
        assert_eq!(difference(&mask), None);
        let far = Figures { snr_variance_db: Some(14.2), nmse: Some(0.038), ..mask.clone() };
        assert!(difference(&far).is_some_and(|why| why.contains("SNR 14.2 dB is under 20 dB")));
        let classes = Figures { decides: true, ..mask };
        assert!(difference(&classes).is_some_and(|why| why.contains("40.0 % of decisions unchanged, under 95 %")));
    }
}
