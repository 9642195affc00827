//! A page for the browser: one file without scripts, fonts or network, for light and dark, phone and paper.
//!
//! Its order: size, accuracy, bytes of each gate, loss at other sizes, settings.

mod chart;

use chart::{Axis, Plot, Scale, cell, plain as number};

use super::grid::{Grid, Kind, SHARE, SHARE_LEGEND, expectation, loss_in_words, tradeoff};
use super::markup::Markup;
use super::size::{duration, figure, grouped, percent, times};
use super::units::Row;
use super::{
    Answer, Bytes, Command, EffortLevel, Grade, Report, Seconds, Several, SkippedNode, Sweep, Tool, Unit, WeightSizes,
};
use crate::error::Escaped;
use crate::loss::{Bin, Figures, Profile};
use crate::verify::{Verdict, VerifyScope};

/// Lines of the verdict that are shown at once.
const FINDINGS: usize = 16;
/// Nodes and outputs that are shown at once; the others are folded away.
const OPEN: usize = 8;

/// The report of several models: what each got, then that of each.
pub(super) fn several(several: &Several) -> String {
    let mut page = Markup::new();
    let count = several.models.len();
    page.raw("<header><h1>").text(&format!("{count} models under one budget")).raw("</h1></header>");
    page.raw("<section><h2>Sizes</h2>").append(grid(&several.grid()));
    if let Some(gain) = several.gain() {
        page.raw("<p class=\"lead\">").text(&gain).raw("</p>");
    }
    page.raw("</section>\n");
    several.models.iter().for_each(|report| body(report, &mut page));
    document(&format!("dirnet: {count} models"), &several.tool, page)
}

/// The report of `compress`, `verify` or `plan`.
pub(super) fn report(report: &Report) -> String {
    let mut page = Markup::new();
    body(report, &mut page);
    document(&format!("dirnet: {}", report.model.path), &report.tool, page)
}

fn body(report: &Report, page: &mut Markup) {
    header(report, page);
    cards(report, page);
    if let Some(found) = &report.answer {
        answer(found, page);
    }
    notes(report, page);
    if let Some(verdict) = &report.verify {
        quality(report, verdict, page);
    }
    if !report.units.is_empty() {
        bytes(report, page);
    }
    costs(report, page);
    making(report, page);
}

/// Size against loss.
pub(super) fn sweep(sweep: &Sweep) -> String {
    let mut page = Markup::new();
    page.raw("<header><h1>Size against loss: ").text(file_name(&sweep.model.path)).raw("</h1></header>");
    warnings(&sweep.warnings, &mut page);
    page.raw(
        "<section><h2>Loss at each size</h2><p class=\"lead\">Size of the whole file, and loss of the worst output on \
              held-out samples. Lower and further left is better.</p>",
    );
    let known = || sweep.points.iter().filter_map(|point| Some((point.bytes_after?, point.loss?, point.ratio)));
    let points: Vec<Dot> = known().map(|(bytes, loss, ratio)| Dot { bytes, loss, ratio, measured: true }).collect();
    page.raw("<div class=\"charts\">")
        .append(size_against_loss(&points, None, "loss of the worst output"))
        .raw("</div></section>");
    let outputs = sweep.points.iter().map(|point| point.outputs.len()).max().unwrap_or(0);
    for output in 0..outputs {
        page.raw("<section><h2>Output ");
        if let Some(found) = sweep.points.iter().find_map(|point| point.outputs.get(output)) {
            page.text(&found.name);
        }
        page.raw("</h2>").append(grid(&Grid::points(sweep, output))).raw("</section>");
    }
    let unreachable: Vec<_> = sweep.points.iter().filter(|point| point.reason.is_some()).collect();
    if !unreachable.is_empty() {
        page.raw("<section><h2>Targets that cannot be met</h2><dl>");
        for point in unreachable {
            page.element("dt", &times(Some(point.target)));
            page.element("dd", point.reason.as_deref().unwrap_or_default());
        }
        page.raw("</dl></section>");
    }
    document(&format!("dirnet sweep: {}", sweep.model.path), &sweep.tool, page)
}

/// Any table for the terminal, as it is.
pub(super) fn plain(table: &str) -> String {
    let mut page = Markup::new();
    page.raw("<section><pre>");
    for line in table.lines() {
        page.text(line).raw("\n");
    }
    page.raw("</pre></section>");
    document("dirnet", &Tool::default(), page)
}

fn document(title: &str, tool: &Tool, body: Markup) -> String {
    let mut page = Markup::new();
    page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">").element("title", title);
    page.raw("<style>\n").raw(include_str!("style.css")).raw("</style></head>\n<body><main>\n").append(body);
    page.raw("<footer>Made by ").text(tool.name).raw(" ").text(tool.version).raw(".</footer>\n</main></body></html>\n");
    page.finish()
}

fn header(report: &Report, page: &mut Markup) {
    page.raw("<header><h1>").text(file_name(&report.model.path));
    if let Some(output) = &report.model.output {
        page.raw(" \u{2192} ").text(file_name(output));
    }
    page.raw("</h1>");
    let written = report.command != Command::Compress || report.model.output.is_some();
    let badge = match (&report.verify, report.command) {
        (Some(verdict), _) if !verdict.passed && !written => {
            "<span class=\"badge bad\">\u{2717} failed, not written</span>"
        }
        (Some(verdict), _) if !verdict.passed => "<span class=\"badge bad\">\u{2717} failed</span>",
        (Some(verdict), _) if verdict.smoke_test => "<span class=\"badge plain\">smoke test only</span>",
        _ if is_doubtful(report) => "<span class=\"badge plain\">doubtful</span>",
        (Some(verdict), _) if verdict.checks.is_empty() => "<span class=\"badge plain\">measured, no checks set</span>",
        (Some(_), _) => "<span class=\"badge good\">\u{2713} all checks passed</span>",
        (None, Command::Plan) => "<span class=\"badge plain\">plan only, nothing written</span>",
        (None, _) => "<span class=\"badge plain\">not verified</span>",
    };
    page.raw(badge).raw("</header>\n");
}

fn is_doubtful(report: &Report) -> bool {
    report.answer.as_ref().is_some_and(|answer| answer.grade == Grade::Doubtful)
}

/// The answer: what was found, what speaks against shipping, what to try.
fn answer(answer: &Answer, page: &mut Markup) {
    page.raw("<section><h2>Verdict: ").text(answer.grade.words()).raw("</h2><ul>");
    answer.findings.iter().take(FINDINGS).for_each(|finding| {
        page.element("li", finding);
    });
    page.raw("</ul>");
    if answer.findings.len() > FINDINGS {
        page.raw("<details><summary>More outputs</summary><ul>");
        answer.findings.iter().skip(FINDINGS).for_each(|finding| {
            page.element("li", finding);
        });
        page.raw("</ul></details>");
    }
    for concern in &answer.concerns {
        page.raw("<p class=\"note\">").text(concern).raw("</p>");
    }
    if !answer.advice.is_empty() {
        page.raw("<p class=\"lead\">Try ").text(&answer.advice.join("; or ")).raw(".</p>");
    }
    if !answer.suggested_checks.is_empty() {
        page.raw("<p class=\"lead\">Checks that it passes with a margin: <code>")
            .text(&answer.flags())
            .raw("</code></p>");
    }
    page.raw("</section>\n");
}

/// A path without its folders.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// How small, how good.
fn cards(report: &Report, page: &mut Markup) {
    page.raw("<div class=\"cards\">");
    let model = &report.model;
    if let Some(after) = model.bytes_after {
        let sizes = format!("{} \u{2192} {}", Bytes(model.bytes_before), Bytes(after));
        card("Whole file", &times(model.ratio), "smaller", &sizes, page);
    }
    if let Some(weights) = &report.weights {
        let WeightSizes { bytes_before, bytes_after, ratio, parameters, .. } = *weights;
        let bits = bytes_after as f64 * 8.0 / parameters.max(1) as f64;
        let sizes = format!(
            "{} \u{2192} {}, {bits:.2} bits for each of {} weights",
            Bytes(bytes_before),
            Bytes(bytes_after),
            grouped(parameters)
        );
        card("Weights", &times(ratio), "smaller", &sizes, page);
    }
    if let Some(worst) = report.verify.as_ref().and_then(|verdict| worst(&verdict.outputs)) {
        let mut more = format!("output {}", Escaped(&worst.name));
        if let Some(agreement) = worst.agreement.filter(|_| worst.decides) {
            more += &format!(", {} of decisions the same", percent(Some(agreement)));
        }
        let count = report.verify.as_ref().map_or(0, |verdict| verdict.outputs.len());
        let title = if count > 1 { "SNR against the variance, worst output" } else { "SNR against the variance" };
        match worst.snr_variance_db {
            Some(db) => card(title, &format!("{db:.1}"), "dB", &more, page),
            None if worst.max_abs == Some(0.0) => card(title, "exact", "", &more, page),
            None => card("Largest error", &figure(worst.max_abs), "", &more, page),
        }
    }
    page.raw("</div>\n");
}

fn card(title: &str, value: &str, unit: &str, more: &str, page: &mut Markup) {
    page.raw("<div class=\"card\">").element("span", title).raw("<b>").text(value).raw(" ").element("small", unit);
    page.raw("</b>").element("span", more).raw("</div>");
}

/// The output with the least signal over its error; an exact one has the most.
fn worst(outputs: &[Figures]) -> Option<&Figures> {
    let key = |output: &&Figures| output.snr_variance_db.unwrap_or(f64::INFINITY);
    outputs.iter().min_by(|a, b| key(a).total_cmp(&key(b)))
}

fn notes(report: &Report, page: &mut Markup) {
    let failures = report.verify.as_ref().map_or(&[][..], |verdict| &verdict.failures);
    let layers = report.verify.as_ref().filter(|verdict| verdict.scope == VerifyScope::Layers);
    if failures.is_empty() && report.warnings.is_empty() && layers.is_none() {
        return;
    }
    if !failures.is_empty() {
        page.raw("<section><h2>Failed checks</h2>");
        for failure in failures {
            page.raw("<p class=\"note bad\">\u{2717} ").text(failure).raw("</p>");
        }
        page.raw("</section>\n");
    }
    if report.warnings.is_empty() && layers.is_none() {
        return;
    }
    page.raw("<section><h2>Warnings</h2>");
    if let Some(verdict) = layers {
        page.raw("<p class=\"note\">The whole model could not be run, so each compressed layer was run by itself: ");
        page.text(verdict.reason.as_deref().unwrap_or_default()).raw("</p>");
    }
    for warning in &report.warnings {
        page.raw("<p class=\"note\">").text(warning).raw("</p>");
    }
    page.raw("</section>\n");
}

fn warnings(warnings: &[String], page: &mut Markup) {
    if !warnings.is_empty() {
        page.raw("<section><h2>Warnings</h2>");
        warnings.iter().for_each(|warning| {
            page.raw("<p class=\"note\">").text(warning).raw("</p>");
        });
        page.raw("</section>\n");
    }
}

/// How far each output is from the original's, in figures, in time and by size.
fn quality(report: &Report, verdict: &Verdict, page: &mut Markup) {
    page.raw("<section class=\"long\"><h2>Accuracy: the outputs compared with the original's</h2><p class=\"lead\">");
    let samples = if verdict.samples == 1 { "1 sample".to_owned() } else { format!("{} samples", verdict.samples) };
    page.raw(match verdict.scope {
        VerifyScope::Model => "Both models were run from end to end by ",
        VerifyScope::Layers => "Each compressed layer was run by itself by ",
    });
    page.text(verdict.engine).raw(" on ").text(&samples).raw(match verdict.calibrated_on.as_deref() {
        _ if verdict.smoke_test => ", random inputs",
        Some("same") => " that were also used for calibration",
        Some(_) => ", held out from compression",
        None => "",
    });
    page.raw(
        ". <b>nmse</b>: squared error over the variance of the output. <b>agree</b>: share of equal decisions \
              (largest class). <b>kl</b>: divergence of the probabilities, in nats.</p>",
    );
    page.append(grid(&Grid::outputs(&verdict.outputs)));
    if let Some(expected) = expectation(report) {
        page.raw("<p class=\"lead\">").text(&expected).raw("</p>");
    }
    if !verdict.checks.is_empty() {
        page.raw("<h3>Checks</h3>").append(grid(&Grid::checks(&verdict.checks)));
    }
    let profiled = || verdict.outputs.iter().filter_map(|output| Some((output, output.profile.as_ref()?)));
    for (index, (output, profile)) in profiled().enumerate() {
        if index == OPEN {
            page.raw("<details><summary>More outputs</summary>");
        }
        page.raw("<h3>").text(&output.name).raw("</h3><div class=\"charts\">");
        page.append(over_time(output, profile)).append(histogram(output, profile)).raw("</div>");
    }
    page.raw(if profiled().count() > OPEN { "</details></section>\n" } else { "</section>\n" });
}

fn over_time(output: &Figures, profile: &Profile) -> Markup {
    let values = profile.rms.iter().chain(&profile.max_abs).copied().chain(profile.deviation);
    let mut figure = Markup::new();
    figure.raw("<figure>");
    match Scale::logarithmic(values).filter(|_| profile.rms.len() > 1 && profile.max_abs.iter().any(|e| *e > 0.0)) {
        None => {
            let exact = profile.max_abs.iter().all(|error| *error == 0.0);
            let text = if exact {
                "All values are equal."
            } else {
                "There is only one position, so there is no error to follow."
            };
            figure.raw("<p class=\"lead\">").text(text).raw("</p></figure>");
            return figure;
        }
        Some(scale) => {
            let last = ((profile.rms.len() - 1) * profile.stride) as f64;
            let x = Axis { scale: Scale::exact(0.0, last), label: &profile.along, format: number };
            let y = Axis { scale, label: "absolute error", format: number };
            let mut plot = Plot::new(&format!("error of {} along {}", output.name, profile.along), &x, &y);
            let course = |values: &[f64]| -> Vec<(f64, f64)> {
                values.iter().enumerate().map(|(i, value)| ((i * profile.stride) as f64, *value)).collect()
            };
            profile.deviation.into_iter().for_each(|deviation| plot.level(deviation));
            plot.line("l-mark", course(&profile.max_abs).into_iter());
            plot.line("l-after", course(&profile.rms).into_iter());
            figure.append(plot.finish());
        }
    }
    figure.raw("<figcaption>").append(key_line("l-after", "typical (root mean square)"));
    figure.append(key_line("l-mark", "largest")).append(key_line("l-dash", "standard deviation of the output"));
    figure.raw(match profile.is_of_time() {
        true => "<br>If the error rises to the right, errors accumulate over time.</figcaption></figure>",
        false => "<br>Peaks are positions or samples with larger errors than the others.</figcaption></figure>",
    });
    figure
}

fn histogram(output: &Figures, profile: &Profile) -> Markup {
    let mut out = Markup::new();
    let total = profile.histogram.iter().map(|bin| bin.count).sum::<u64>() + profile.exact;
    // A thousandth on the left is left out: it may be ten decades long and says nothing.
    let mut tail = 0;
    let bins = profile.histogram.iter().filter(|bin| {
        tail += bin.count;
        tail * 1000 > total
    });
    let bins: Vec<&Bin> = bins.collect();
    let edges = bins.iter().flat_map(|bin| [bin.from, bin.to]).chain(profile.deviation);
    let Some(scale) = Scale::logarithmic(edges).filter(|_| !bins.is_empty()) else { return out };
    let share = |count: u64| count as f64 * 100.0 / total.max(1) as f64;
    let most = bins.iter().map(|bin| share(bin.count)).fold(0.0, f64::max);
    let x = Axis { scale, label: "absolute error of one element", format: number };
    let y = Axis { scale: Scale::from_zero(most), label: "% of elements", format: number };
    let mut plot = Plot::new(&format!("histogram of the error of {}", output.name), &x, &y);
    for bin in bins {
        let title = format!("{:.2e} to {:.2e}: {:.2} %", bin.from, bin.to, share(bin.count));
        plot.bar("f-after", bin.from, bin.to, share(bin.count), &title);
    }
    profile.deviation.into_iter().for_each(|deviation| plot.upright(deviation, "deviation of the output"));
    out.raw("<figure>").append(plot.finish()).raw(
        "<figcaption>Errors left of the dashed line are smaller than the \
             output's own standard deviation. ",
    );
    out.text(&grouped(total)).raw(" elements");
    if profile.exact > 0 {
        out.raw(", ").text(&percent(Some(profile.exact as f64 / total.max(1) as f64))).raw(" of them exact");
    }
    out.raw(".</figcaption></figure>");
    out
}

/// Where the bytes went, and what decided it.
fn bytes(report: &Report, page: &mut Markup) {
    page.raw("<section class=\"long\"><h2>Where the bytes went</h2>");
    if let (Some(after), Some(weights)) = (report.model.bytes_after, &report.weights) {
        whole_file(report.model.bytes_before, after, weights, page);
    }
    let units = &report.units;
    let loss: f64 = units.iter().filter_map(Unit::loss).sum();
    if loss > 0.0 {
        page.raw("<p class=\"lead\">").text(SHARE_LEGEND).raw("</p>");
    }
    if let Some(chart) = budgets(units) {
        page.raw("<h3>Bits and effect of each gate</h3>").append(chart);
    }
    let nodes: Vec<&[Unit]> = units.chunk_by(|a, b| a.node == b.node).collect();
    let rows: Vec<Vec<Row>> = nodes.iter().map(|node| Row::of(node, loss)).collect();
    let most = rows.iter().flatten().map(|row| row.before).max().unwrap_or(0);
    let worst = rows.iter().flatten().filter_map(|row| row.share).fold(0.0, f64::max);
    for (index, (node, rows)) in nodes.iter().zip(&rows).enumerate() {
        if index == OPEN {
            page.raw("<details><summary>More nodes</summary>");
        }
        page.raw("<h3>").text(&node[0].node).raw(" <small>").text(&node[0].op).raw("</small></h3>");
        page.append(node_table(rows, most, worst));
    }
    page.raw(if nodes.len() > OPEN { "</details></section>\n" } else { "</section>\n" });
}

fn whole_file(before: u64, after: u64, weights: &WeightSizes, page: &mut Markup) {
    page.raw("<div class=\"scroll\"><table>");
    for (name, total, coded) in [("before", before, weights.bytes_before), ("after", after, weights.bytes_after)] {
        let rest = total.saturating_sub(coded);
        page.raw("<tr>").element("td", name).raw("<td class=\"n\">").text(&Bytes(total).to_string()).raw("</td><td>");
        // The rest is drawn over the start of the whole.
        page.append(cell(total as f64, rest as f64, before as f64, ["f-after", "f-before"], 420.0)).raw("</td></tr>");
    }
    page.raw("</table></div><p class=\"lead\">").append(key("f-after", "weights"));
    page.append(key("f-before", "everything else")).raw("</p>");
}

fn node_table(rows: &[Row], most: u64, worst: f64) -> Markup {
    let lossy = rows.iter().any(|row| row.share.is_some());
    let mut out = Markup::new();
    out.raw("<div class=\"scroll\"><table><tr><th></th><th>gate</th><th class=\"wide\">shape</th>");
    out.raw(
        "<th class=\"wide\">codec</th><th class=\"n\">bits</th><th class=\"n\">before</th><th class=\"n\">after</th>",
    );
    out.raw("<th class=\"wide\">of before</th>");
    if lossy {
        out.raw("<th class=\"n\">").text(SHARE).raw("</th><th></th>");
    }
    out.raw("</tr>");
    for row in rows {
        out.raw("<tr>").element("td", &row.matrix()).element("td", &row.gates);
        out.raw("<td class=\"wide\">").text(&format!("{} \u{d7} {}", row.shape[0], row.shape[1])).raw("</td>");
        out.raw("<td class=\"wide\">").element("code", &row.codec).raw("</td>");
        for cell in [format!("{:.2}", row.bits()), Bytes(row.before).to_string(), Bytes(row.after).to_string()] {
            out.raw("<td class=\"n\">").text(&cell).raw("</td>");
        }
        out.raw("<td class=\"wide\">");
        out.append(cell(row.before as f64, row.after as f64, most as f64, ["f-before", "f-after"], 150.0)).raw("</td>");
        if lossy {
            out.raw("<td class=\"n\">").text(&percent(row.share)).raw("</td><td>");
            out.append(cell(0.0, row.share.unwrap_or(0.0), worst, ["f-before", "f-mark"], 60.0)).raw("</td>");
        }
        out.raw("</tr>");
    }
    out.raw("</table></div>");
    out
}

/// Bits of each weight block against its effect on the outputs.
fn budgets(units: &[Unit]) -> Option<Markup> {
    let known = || units.iter().filter_map(|unit| Some((unit, unit.importance().filter(|value| *value > 0.0)?)));
    let most = units.iter().map(|unit| unit.bits_per_weight).fold(0.0, f64::max);
    let x = Axis {
        scale: Scale::logarithmic(known().map(|(_, importance)| importance))?,
        label: "forecast loss if the gate's weights were zero",
        format: number,
    };
    let y = Axis { scale: Scale::from_zero(most), label: "bits per weight", format: number };
    let mut plot = Plot::new("bits per weight against the effect of each gate on the outputs", &x, &y);
    for (unit, importance) in known() {
        let title =
            format!("{} {} {} {}: {:.2} bits", unit.node, unit.tensor, unit.direction, unit.gate, unit.bits_per_weight);
        plot.mark(gate_class(&unit.gate), importance, unit.bits_per_weight, unit.tensor == "R", &title);
    }
    let mut figure = Markup::new();
    figure.raw("<figure class=\"charts\">").append(plot.finish()).raw("<figcaption>");
    let mut gates: Vec<&str> = Vec::new();
    for unit in units {
        if !gates.contains(&unit.gate.as_str()) {
            gates.push(&unit.gate);
            figure.append(key(gate_class(&unit.gate), &format!("gate {}", unit.gate)));
        }
    }
    figure.raw("<br>Round: W, which multiplies the input. Square: R, which multiplies the state.<br>Each point is a \
                gate of a layer. x: forecast loss at the outputs if the gate's weights were zero. y: stored bits per weight. \
                Gates with a larger effect (right) get more bits (top), as far as the target size allows.</figcaption></figure>");
    Some(figure)
}

/// Its colour, the same for the gates of the same name everywhere.
fn gate_class(gate: &str) -> &'static str {
    match gate {
        "i" | "z" => "dot g0",
        "o" | "r" => "dot g1",
        "f" | "h" => "dot g2",
        _ => "dot g3",
    }
}

/// The loss at other sizes.
fn costs(report: &Report, page: &mut Markup) {
    if report.tradeoff.is_empty() {
        return;
    }
    page.raw(
        "<section><h2>Loss at other sizes</h2><p class=\"lead\">Filled points were measured by running the model. \
              Hollow points are forecasts from the sensitivities of single weight blocks and the loss of this file; \
              <code>dirnet sweep</code> measures them.",
    );
    page.raw("</p><div class=\"charts\">");
    let dots: Vec<Dot> = tradeoff(report)
        .into_iter()
        .map(|point| Dot { bytes: point.bytes_after, loss: point.loss, ratio: point.ratio, measured: point.measured })
        .collect();
    page.append(size_against_loss(&dots, report.model.bytes_after, loss_in_words(report)))
        .append(grid(&Grid::tradeoff(report)));
    page.raw("</div></section>\n");
}

/// A size and its loss.
struct Dot {
    bytes: u64,
    loss: f64,
    ratio: Option<f64>,
    measured: bool,
}

fn size_against_loss(dots: &[Dot], own: Option<u64>, label: &'static str) -> Markup {
    let mut figure = Markup::new();
    let Some(scale) = Scale::logarithmic(dots.iter().map(|dot| dot.loss)) else { return figure };
    let x = Axis {
        scale: Scale::around(dots.iter().map(|dot| dot.bytes as f64)),
        label: "bytes of the file",
        format: |bytes| Bytes(bytes as u64).to_string().replace(".00 ", " ").replace("0 B", "0"),
    };
    let y = Axis { scale, label, format: number };
    let mut plot = Plot::new("loss against the size of the file", &x, &y);
    // The result stands beside the line of what was predicted.
    let is_own = |dot: &Dot| dot.measured && own == Some(dot.bytes);
    let mut line: Vec<(f64, f64)> =
        dots.iter().filter(|dot| !is_own(dot)).map(|dot| (dot.bytes as f64, dot.loss)).collect();
    line.sort_by(|a, b| a.0.total_cmp(&b.0));
    plot.line("l-dash", line.into_iter());
    for dot in dots {
        let title = format!("{}, {}: loss {}", times(dot.ratio), Bytes(dot.bytes), figure_of(dot.loss));
        let class = if dot.measured { "f-mark" } else { "hollow" };
        plot.mark(class, dot.bytes as f64, dot.loss, false, &title);
        if is_own(dot) {
            plot.beside(dot.bytes as f64, dot.loss, "this file");
        } else if own.is_none_or(|own| own.abs_diff(dot.bytes) * 50 > own || dot.measured) {
            plot.beside(dot.bytes as f64, dot.loss, &times(dot.ratio));
        }
    }
    figure.raw("<figure>").append(plot.finish()).raw("</figure>");
    figure
}

fn figure_of(value: f64) -> String {
    figure(Some(value))
}

/// How it was made: settings, what was left alone, tuning, time.
fn making(report: &Report, page: &mut Markup) {
    page.raw("<section><h2>How it was made</h2><dl>");
    let mut entry = |name: &str, value: &str| {
        page.element("dt", name).element("dd", value);
    };
    entry("original", &report.model.path);
    if let Some(output) = &report.model.output {
        entry("result", output);
    }
    entry("opset", &report.model.opset.to_string());
    if let Some(producer) = &report.model.producer {
        entry("original made by", producer);
    }
    if let Some(settings) = report.settings.as_ref().and_then(serde_json::Value::as_object) {
        for (name, value) in settings {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            entry(&name.replace('_', " "), &value);
        }
    }
    if let Some(picked) = report.effort.as_ref().and_then(EffortLevel::picked) {
        entry("time budget", &picked);
    }
    entry("time", &phases(&report.seconds));
    page.raw("</dl>");
    if !report.lossless.is_empty() {
        page.raw("<h3>Saved before coding</h3>").append(grid(&Grid::lossless(report)));
    }
    if let Some(layers) = report.tuning.as_deref().filter(|layers| !layers.is_empty()) {
        page.raw("<h3>Fine-tuning: loss on samples that are held back from tuning</h3>")
            .append(grid(&Grid::tuning(layers)));
        for (layer, reason) in layers.iter().filter_map(|layer| Some((layer.nodes.first()?, layer.reason.as_ref()?))) {
            page.raw("<p>").text(layer).raw(": ").text(reason).raw("</p>");
        }
    }
    if !report.skipped.is_empty() {
        page.raw("<h3>Not compressed</h3><dl>");
        for SkippedNode { node, op, reason, .. } in &report.skipped {
            page.raw("<dt>").text(node).raw(" (").text(op).raw(")</dt>").element("dd", reason);
        }
        page.raw("</dl>");
    }
    page.raw("</section>\n");
}

fn phases(seconds: &Seconds) -> String {
    let Seconds { load, calibrate, learn, allocate, tune, encode, verify, total } = *seconds;
    let phases = [
        ("load", load),
        ("calibrate", calibrate),
        ("learn", learn),
        ("allocate", allocate),
        ("tune", tune),
        ("encode", encode),
        ("verify", verify),
    ];
    let long = phases.iter().filter_map(|(name, time)| Some((name, (*time).filter(|time| *time >= 0.05)?)));
    let long: Vec<String> = long.map(|(name, time)| format!("{name} {}", duration(time))).collect();
    let of = if long.is_empty() { String::new() } else { format!(": {}", long.join(", ")) };
    format!("{}{of}", duration(total))
}

fn grid(grid: &Grid) -> Markup {
    let mut out = Markup::new();
    let class = |kind| match kind {
        Kind::Number => " class=\"n\">",
        Kind::Name(_) => " class=\"name\">",
        Kind::Word => ">",
    };
    out.raw("<div class=\"scroll\"><table><tr>");
    let columns = grid.page_columns();
    for (_, column) in &columns {
        out.raw("<th").raw(class(column.kind)).text(column.page_title).raw("</th>");
    }
    out.raw("</tr>");
    for row in &grid.rows {
        out.raw("<tr>");
        for (index, column) in &columns {
            let cell = &row[*index];
            let verdict = match cell.as_str() {
                "passed" if column.kind == Kind::Word => " class=\"good\">\u{2713} ",
                "FAILED" if column.kind == Kind::Word => " class=\"bad\">\u{2717} ",
                _ => class(column.kind),
            };
            out.raw("<td").raw(verdict).text(cell).raw("</td>");
        }
        out.raw("</tr>");
    }
    out.raw("</table></div>");
    out
}

/// An entry of a legend.
fn key(class: &'static str, text: &str) -> Markup {
    let mut out = Markup::new();
    out.raw("<span class=\"key\"><svg width=\"11\" height=\"11\" aria-hidden=\"true\"><rect width=\"11\" height=\"11\" rx=\"2\"");
    out.attribute("class", class).raw("/></svg>").text(text).raw("</span> ");
    out
}

fn key_line(class: &'static str, text: &str) -> Markup {
    let mut out = Markup::new();
    out.raw(
        "<span class=\"key\"><svg width=\"22\" height=\"8\" aria-hidden=\"true\"><line x2=\"22\" y1=\"4\" y2=\"4\"",
    );
    out.attribute("class", class).raw("/></svg>").text(text).raw("</span> ");
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Show, example};

    #[test]
    fn a_page_needs_nothing_but_itself() {
        let page = example::report().html();
        for foreign in ["<script", "http://", "https://", "<link", "<img", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for part in [
            "7.29x",
            "failed",
            "Bits and effect of each gate",
            "this file",
            "axis 0 (seq)",
            "of error",
            "too few samples",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn exact_elements_are_told_only_if_there_are_some() {
        let mut report = example::report();
        assert!(report.html().contains("103 elements, 2.9 % of them exact."), "{}", report.html());
        let verdict = report.verify.as_mut().expect("the example has a verdict");
        verdict.outputs[0].profile.as_mut().expect("and a profile").exact = 0;
        assert!(report.html().contains("100 elements."), "{}", report.html());
    }

    #[test]
    fn names_cannot_become_markup() {
        let mut report = example::report();
        let evil = "</title><script>alert(1)</script>\"'&";
        report.model.path = evil.to_owned();
        report.model.output = Some(evil.to_owned());
        report.warnings.push(evil.to_owned());
        report.skipped[0].node = evil.to_owned();
        report.units.iter_mut().for_each(|unit| (unit.node, unit.codec) = (evil.to_owned(), evil.to_owned()));
        let verdict = report.verify.as_mut().expect("the example has a verdict");
        verdict.outputs[0].name = evil.to_owned();
        verdict.outputs[0].profile.as_mut().expect("and a profile").along = evil.to_owned();
        verdict.checks[0].output = evil.to_owned();
        verdict.failures.push(evil.to_owned());
        for text in [report.html(), report.markdown(), report.junit().expect("was judged")] {
            assert!(!text.contains("<script") && !text.contains("&<"), "{text}");
        }
        assert!(!report.html().contains("\"'&"), "a quote ends an attribute");
    }
}
