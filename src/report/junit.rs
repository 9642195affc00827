//! JUnit XML, which every CI system reads: a test case for each check and output, so that the one that failed is named.

use super::grid::{bound, measured};
use super::markup::Markup;
use super::{Command, Report};
use crate::error::{Error, ErrorKind, Result};
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
    let Some(verdict) = &report.verify else {
        return Err(Error::new(ErrorKind::Usage, "JUnit shows what was judged, and the models were not run"));
    };
    let cases = cases(verdict);
    let failed = cases.iter().filter(|case| case.failure.is_some()).count();
    let name = match report.command {
        Command::Compress => "dirnet compress",
        Command::Verify => "dirnet verify",
        Command::Plan => "dirnet plan",
    };
    let seconds = format!("{:.3}", report.seconds.verify.unwrap_or(report.seconds.total));
    let mut xml = Markup::new();
    xml.raw("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    for tag in ["<testsuites", "  <testsuite"] {
        xml.raw(tag).attribute("name", name).attribute("tests", &cases.len().to_string());
        xml.attribute("failures", &failed.to_string()).attribute("errors", "0").attribute("time", &seconds).raw(">\n");
    }
    xml.raw("    <properties>\n");
    for (name, value) in [
        ("model", report.model.path.clone()),
        ("engine", verdict.engine.to_owned()),
        ("samples", verdict.samples.to_string()),
        ("bytes_before", report.model.bytes_before.to_string()),
        ("bytes_after", report.model.bytes_after.map_or_else(String::new, |bytes| bytes.to_string())),
    ] {
        xml.raw("      <property").attribute("name", name).attribute("value", &value).raw("/>\n");
    }
    xml.raw("    </properties>\n");
    for case in cases {
        xml.raw("    <testcase").attribute("classname", case.output).attribute("name", &case.name);
        xml.attribute("time", "0").raw(">\n");
        if let Some(failure) = case.failure {
            xml.raw("      <failure").attribute("message", failure).attribute("type", "check").raw(">");
            xml.text(&case.told).raw("</failure>\n");
        } else {
            xml.raw("      <system-out>").text(&case.told).raw("</system-out>\n");
        }
        xml.raw("    </testcase>\n");
    }
    xml.raw("  </testsuite>\n</testsuites>\n");
    Ok(xml.finish())
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
        let start = format!("output '{}': --{} ", check.output, check.check);
        let failure = if check.passed { None } else { take(&|failure| failure.starts_with(&start)) };
        let failure = failure.or((!check.passed).then_some("the check does not hold"));
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
        assert!(xml.contains("<testcase classname=\"logits\" name=\"--min-snr 30\" time=\"0\">"), "{xml}");
        assert!(xml.contains("message=\"output &#39;logits&#39;: --min-snr 30 is missed by 3.3: 26.7\""), "{xml}");
        assert!(xml.contains("tests=\"2\" failures=\"1\" errors=\"0\""), "{xml}");
        report.verify = None;
        assert!(report.junit().is_err());
    }
}
