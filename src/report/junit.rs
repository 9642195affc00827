//! JUnit XML, which every CI system reads: a test case for each check and output, so that the one that failed is named.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use super::grid::{bound, measured};
use super::{Command, Report};
use crate::error::{Error, ErrorKind, Escaped, Result};
use crate::loss::Figures;
use crate::verify::{Checked, Verdict};

/// A case of the suite: its class, its name, and the reason if it fails.
struct Case<'a> {
    output: &'a str,
    name: String,
    failure: Option<&'a str>,
    told: String,
}

/// The verdict of a report.
///
/// # Errors
/// [`ErrorKind::Usage`] if nothing was verified.
pub(super) fn report(report: &Report) -> Result<String> {
    let name = name(report.command);
    text(name, vec![suite(name, report)?])
}

/// The verdicts of several models, a suite each.
///
/// # Errors
/// As [`report`].
pub(super) fn several(reports: &[Report]) -> Result<String> {
    let name = name(Command::Compress);
    let suites = reports.iter().map(|report| suite(&format!("{name} {}", shown(&report.model.path)), report));
    text(name, suites.collect::<Result<_>>()?)
}

fn name(command: Command) -> &'static str {
    match command {
        Command::Compress => "dirnet compress",
        Command::Verify => "dirnet verify",
        Command::Plan => "dirnet plan",
    }
}

fn text(name: &str, suites: Vec<TestSuite>) -> Result<String> {
    let mut all = quick_junit::Report::new(name);
    let time = suites.iter().filter_map(|suite| suite.time).sum();
    all.set_time(time).add_test_suites(suites);
    all.to_string().map_err(|error| Error::new(ErrorKind::Io, format!("JUnit cannot be written: {error}")))
}

fn suite(name: &str, report: &Report) -> Result<TestSuite> {
    let Some(verdict) = &report.verify else {
        return Err(Error::new(
            ErrorKind::Usage,
            "JUnit output needs verification, and the models were not run: remove --no-verify",
        ));
    };
    let seconds = report.seconds.verify.unwrap_or(report.seconds.total);
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let mut suite = TestSuite::new(name);
    suite.set_time(time);
    let properties = [
        ("model", shown(&report.model.path)),
        ("engine", verdict.engine.to_owned()),
        ("samples", verdict.samples.to_string()),
        ("bytes_before", report.model.bytes_before.to_string()),
        ("bytes_after", report.model.bytes_after.map_or_else(String::new, |bytes| bytes.to_string())),
    ];
    suite.add_properties(properties.map(|(name, value)| Property::new(name, value)));
    // All are judged by one run of the models, of which each bears an equal share, so that they add up to it.
    let cases = cases(verdict);
    let share = time / u32::try_from(cases.len().max(1)).unwrap_or(u32::MAX);
    suite.add_test_cases(cases.iter().map(|case| case.junit(share)));
    Ok(suite)
}

impl Case<'_> {
    fn junit(&self, time: Duration) -> TestCase {
        let status = match self.failure {
            None => TestCaseStatus::success(),
            Some(failure) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(shown(failure)).set_type("check").set_description(shown(&self.told));
                status
            }
        };
        let passed = self.failure.is_none();
        let mut case = TestCase::new(shown(&self.name), status);
        case.set_classname(shown(self.output)).set_time(time);
        if passed {
            case.set_system_out(shown(&self.told));
        }
        case
    }
}

/// Text with control characters escaped as everywhere else: the crate would drop them, and two names could become one.
/// What XML has no way to write becomes U+FFFD.
fn shown(text: &str) -> String {
    Escaped(text).to_string().replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// A case for each output, which fails for numbers that are not finite, then one for each check, then what remains.
fn cases(verdict: &Verdict) -> Vec<Case<'_>> {
    let mut left: Vec<&str> = verdict.failures.iter().map(String::as_str).collect();
    let mut take = |is_it: &dyn Fn(&str) -> bool| {
        let found = left.iter().position(|failure| is_it(failure))?;
        Some(left.remove(found))
    };
    let mut cases = Vec::new();
    for output in &verdict.outputs {
        let start = format!("output '{}': ", output.name);
        let failure = take(&|failure| failure.starts_with(&start) && failure.contains("NaN or infinite"));
        cases.push(Case { output: &output.name, name: "runs".to_owned(), failure, told: figures(output) });
    }
    for check in &verdict.checks {
        let (start, flag) = (format!("output '{}': ", check.output), format!(" --{} ", check.check));
        let is_its = |failure: &str| failure.strip_prefix(&start).is_some_and(|rest| rest.contains(&flag));
        let failure = if check.passed { None } else { take(&is_its) };
        let failure = failure.or((!check.passed).then_some("the check failed"));
        let name = format!("--{} {}", check.check, check.limit);
        cases.push(Case { output: &check.output, name, failure, told: told(check) });
    }
    let rest = left.into_iter();
    cases.extend(rest.map(|failure| Case {
        output: "checks",
        name: failure.split(' ').next().unwrap_or_default().to_owned(),
        failure: Some(failure),
        told: String::new(),
    }));
    cases
}

fn told(check: &Checked) -> String {
    format!("{} {} {}, measured {}", check.check, bound(check), check.limit, measured(check))
}

fn figures(output: &Figures) -> String {
    let known = [
        ("snr_db", output.snr_db),
        ("nmse", output.nmse),
        ("max_abs", output.max_abs),
        ("agreement", output.agreement),
        ("kl", output.kl),
    ];
    let known = known.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?)));
    known.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{Show, example};

    #[test]
    fn the_check_that_failed_is_named() {
        let mut report = example::report();
        let xml = report.junit().expect("was judged");
        assert!(xml.contains("<testcase name=\"--min-snr 30\" classname=\"logits\" time=\"6.150\">"), "{xml}");
        assert!(
            xml.contains("message=\"output &apos;logits&apos;: snr 26.7 dB is below --min-snr 30 (by 3.3)\""),
            "{xml}"
        );
        assert!(xml.contains("tests=\"2\" skipped=\"0\" failures=\"1\" errors=\"0\""), "{xml}");
        let verdict = report.verify.as_mut().expect("was judged");
        verdict.outputs[0].name = "a\u{1b}[1m<b>\u{ffff}".to_owned();
        let xml = report.junit().expect("was judged");
        assert!(xml.contains("classname=\"a\\u{1b}[1m&lt;b&gt;\u{fffd}\""), "{xml}");
        report.verify = None;
        assert!(report.junit().is_err());
    }
}
