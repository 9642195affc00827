//! Markdown for a comment on a pull request or the summary of a CI job: the verdict first, the details folded.

use std::fmt::Write;

use super::grid::{Grid, Kind, SHARE_LEGEND, expectation};
use super::size::duration;
use super::units::Row;
use super::{Answer, Command, EffortLevel, Grade, Report, Several, Sweep, Unit};
use crate::error::Escaped;
use crate::verify::{Verdict, VerifyScope};

/// The report of `compress`, `verify` or `plan`.
pub(super) fn report(report: &Report) -> String {
    let mut out = String::new();
    let (model, seconds) = (&report.model, duration(report.seconds.total));
    let after = model.output.as_deref().map_or_else(String::new, |output| format!(" \u{2192} {}", escape(output)));
    let status = match (&report.verify, report.command) {
        (Some(verdict), Command::Compress) if !verdict.passed && model.output.is_none() => {
            "\u{274c} **failed, not written**"
        }
        (Some(verdict), _) if !verdict.passed => "\u{274c} **failed**",
        (Some(verdict), _) if verdict.smoke_test => "smoke test only",
        _ if is_doubtful(report) => "\u{26a0} **doubtful**",
        (Some(verdict), _) if verdict.checks.is_empty() => "measured, no checks set",
        (Some(_), _) => "\u{2705} **passed**",
        (None, Command::Plan) => "plan, nothing written",
        (None, _) => "not verified",
    };
    line(&mut out, format!("### dirnet: {}{after}: {status}\n", escape(&model.path)));
    if let Some(verdict) = &report.verify {
        for failure in &verdict.failures {
            line(&mut out, format!("- {}", escape(failure)));
        }
        out.push_str(if verdict.failures.is_empty() { "" } else { "\n" });
    }
    if let Some(found) = &report.answer {
        answer(found, &mut out);
    }
    grid(&Grid::sizes(report), &mut out);
    if let Some(verdict) = &report.verify {
        verification(report, verdict, &mut out);
    }
    if let Some(picked) = report.effort.as_ref().and_then(EffortLevel::picked) {
        line(&mut out, format!("{}\n", escape(&picked)));
    }
    for warning in &report.warnings {
        line(&mut out, format!("> **Warning:** {}\n", escape(warning)));
    }
    if !report.lossless.is_empty() {
        details("Saved before coding", &mut out, |out| grid(&Grid::lossless(report), out));
    }
    if !report.units.is_empty() {
        details("Where the bytes went", &mut out, |out| units(&report.units, out));
    }
    if !report.tradeoff.is_empty() {
        details("Loss at other sizes", &mut out, |out| grid(&Grid::tradeoff(report), out));
    }
    if let Some(layers) = report.tuning.as_deref().filter(|layers| !layers.is_empty()) {
        details("Fine-tuning: loss on samples that are held back from tuning", &mut out, |out| {
            grid(&Grid::tuning(layers), out)
        });
    }
    if !report.skipped.is_empty() {
        details("Not compressed", &mut out, |out| {
            for node in &report.skipped {
                line(out, format!("- {} ({}): {}", escape(&node.node), escape(&node.op), escape(&node.reason)));
            }
            out.push('\n');
        });
    }
    line(&mut out, format!("<sub>dirnet {}, {seconds}</sub>", report.tool.version));
    out
}

/// The report of several models: what each got, then that of each.
pub(super) fn several(several: &Several) -> String {
    let mut out = String::new();
    let total = super::size::times(several.total.ratio);
    line(&mut out, format!("## dirnet: {} models, {total} smaller together\n", several.models.len()));
    grid(&several.grid(), &mut out);
    if let Some(gain) = several.gain() {
        line(&mut out, format!("{}\n", escape(&gain)));
    }
    for model in &several.models {
        out += &report(model);
        out.push('\n');
    }
    out
}

fn is_doubtful(report: &Report) -> bool {
    report.answer.as_ref().is_some_and(|answer| answer.grade == Grade::Doubtful)
}

/// The answer: what was found, what speaks against shipping, what to try.
fn answer(answer: &Answer, out: &mut String) {
    for finding in &answer.findings {
        line(out, format!("- {}", escape(finding)));
    }
    out.push('\n');
    for concern in &answer.concerns {
        line(out, format!("> **Warning:** {}\n", escape(concern)));
    }
    if !answer.advice.is_empty() {
        line(out, format!("Try {}.\n", escape(&answer.advice.join("; or "))));
    }
    if !answer.suggested_checks.is_empty() {
        line(out, format!("Checks that it passes with a margin: {}\n", escape(&answer.flags())));
    }
}

/// Size against loss.
pub(super) fn sweep(sweep: &Sweep) -> String {
    let mut out = String::new();
    line(&mut out, format!("### dirnet: size against loss of {}\n", escape(&sweep.model.path)));
    let outputs = sweep.points.iter().map(|point| point.outputs.len()).max().unwrap_or(0);
    for output in 0..outputs {
        if let Some(found) = sweep.points.iter().find_map(|point| point.outputs.get(output)) {
            line(&mut out, format!("output {}\n", escape(&found.name)));
        }
        grid(&Grid::points(sweep, output), &mut out);
    }
    for point in &sweep.points {
        if let Some(reason) = &point.reason {
            line(&mut out, format!("- {}x: {}", point.target, escape(reason)));
        }
    }
    for warning in &sweep.warnings {
        line(&mut out, format!("> **Warning:** {}\n", escape(warning)));
    }
    line(&mut out, format!("<sub>dirnet {}, {}</sub>", sweep.tool.version, duration(sweep.seconds.total)));
    out
}

/// A table for the terminal, as it is.
pub(super) fn plain(table: &str) -> String {
    // A fence longer than any in the text cannot be closed by it.
    let longest = table.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", table.trim_end())
}

fn verification(report: &Report, verdict: &Verdict, out: &mut String) {
    let scope = match verdict.scope {
        VerifyScope::Model => "end to end",
        VerifyScope::Layers => "layer by layer",
    };
    let seen = match verdict.calibrated_on.as_deref() {
        _ if verdict.smoke_test => ", random inputs",
        Some("same") => " that were also used for calibration",
        _ => "",
    };
    let samples = verdict.samples;
    let plural = if samples == 1 { "" } else { "s" };
    line(out, format!("Verified {scope} in {} on {samples} sample{plural}{seen}.\n", verdict.engine));
    grid(&Grid::outputs(&verdict.outputs), out);
    if !verdict.checks.is_empty() {
        grid(&Grid::checks(&verdict.checks), out);
    }
    if let Some(expected) = expectation(report) {
        line(out, format!("{expected}\n"));
    }
}

fn units(units: &[Unit], out: &mut String) {
    let loss: f64 = units.iter().filter_map(Unit::loss).sum();
    for node in units.chunk_by(|a, b| a.node == b.node) {
        line(out, format!("{} ({})\n", escape(&node[0].node), escape(&node[0].op)));
        grid(&Grid::units(&Row::of(node, loss)), out);
    }
    if loss > 0.0 {
        line(out, format!("{SHARE_LEGEND}\n"));
    }
}

fn details(summary: &str, out: &mut String, body: impl FnOnce(&mut String)) {
    line(out, format!("<details><summary>{summary}</summary>\n"));
    body(out);
    line(out, "</details>\n".to_owned());
}

fn grid(grid: &Grid, out: &mut String) {
    let row = |cells: &mut dyn Iterator<Item = String>, out: &mut String| {
        line(out, format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
    };
    let columns = grid.page_columns();
    row(&mut columns.iter().map(|(_, column)| column.page_title.to_owned()), out);
    let rule = |kind| if kind == Kind::Number { "--:" } else { "---" }.to_owned();
    row(&mut columns.iter().map(|(_, column)| rule(column.kind)), out);
    for cells in &grid.rows {
        row(&mut columns.iter().map(|(index, _)| escape(&cells[*index])), out);
    }
    out.push('\n');
}

/// Foreign text that is read as itself: no markup, no mention, no link.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in Escaped(text).to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // A person or a ticket that a name seems to mention is not told of it.
            '@' => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn line(out: &mut String, text: String) {
    writeln!(out, "{text}").expect("a String takes every line");
}

#[cfg(test)]
mod tests {
    use super::super::{Show, example};
    use super::*;

    #[test]
    fn a_comment_begins_with_the_verdict() {
        let text = example::report().markdown();
        let first = text.lines().next().expect("a headline");
        assert_eq!(first, "### dirnet: model.onnx \u{2192} small.onnx: \u{274c} **failed**");
        assert!(text.contains("- output 'logits': snr 26.7 dB is below --min-snr 30 (by 3.3)"), "{text}");
        assert!(text.contains("| FAILED | logits | --min-snr | at least 30 | 26.7 |"), "{text}");
        assert!(text.contains("| whole file | 13.3 MB | 1.82 MB | 7.29x |"), "{text}");
    }

    #[test]
    fn every_column_has_a_title() {
        let text = example::report().markdown();
        let lines: Vec<&str> = text.lines().collect();
        let titles = lines.windows(2).filter(|pair| pair[1].starts_with("| -")).map(|pair| pair[0]);
        let mut count = 0;
        for title in titles {
            assert!(!title.contains("|  |"), "{title}");
            count += 1;
        }
        assert!(count >= 4, "{text}");
    }

    #[test]
    fn names_stay_names() {
        assert_eq!(escape("a|b*c_[d](e)@f<g>#1"), "a\\|b\\*c\\_\\[d\\](e)&#64;f&lt;g&gt;\\#1");
        assert!(plain("a ```` b").starts_with("`````text\n"));
    }
}
