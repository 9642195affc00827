//! Tables for a terminal.
//!
//! They fit 80 columns: long names are cut in the middle, and the weight blocks of a node are listed below its name. Colour
//! adds no information.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::grid::{Grid, Kind, SHARE_LEGEND, bound, expectation, measured};
use super::quoted;
use super::size::{duration, figure, grouped, percent, times};
use super::units::Row;
use super::{
    Answer, Bench, Bytes, Command, EffortLevel, Grade, InspectedMatrix, InspectedValue, InspectedWeight, Inspection,
    Node, NodeForm, Report, Several, SkippedNode, Sweep, SweepPoint, Tuning, Unit,
};
use crate::error::Escaped;
use crate::verify::{Verdict, VerifyScope};

/// The width that tables fit.
const WIDTH: usize = 80;

/// A name that somebody will match with a pattern is cut only where nobody would: in hostile files.
const FULL: usize = 4 * WIDTH;

/// How to draw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether the terminal takes escape sequences for colour.
    pub colour: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn warning(&self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// Draws a grid: words to the left, figures to the right, indented, with a painted header.
fn grid(grid: &Grid, style: &Style, out: &mut String) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty().add_row(grid.columns.iter().map(|column| column.title));
    for row in &grid.rows {
        table.add_row(grid.columns.iter().zip(row).map(|(column, cell)| match column.kind {
            Kind::Name(width) => name(cell, width),
            Kind::Word | Kind::Number => Escaped(cell).to_string(),
        }));
    }
    for (column, drawn) in grid.columns.iter().zip(table.column_iter_mut()) {
        drawn.set_padding((0, 2));
        let right = column.kind == Kind::Number;
        drawn.set_cell_alignment(if right { CellAlignment::Right } else { CellAlignment::Left });
    }
    for (index, line) in table.lines().enumerate() {
        let line = format!("  {}", line.trim_end());
        line_of(out, if index == 0 { style.bold(&line) } else { line });
    }
}

/// The report of `compress`, `verify` or `plan`.
pub(super) fn report(report: &Report, style: &Style) -> String {
    let mut out = String::new();
    grid(&Grid::sizes(report), style, &mut out);
    if !report.lossless.is_empty() {
        out.push('\n');
        grid(&Grid::lossless(report), style, &mut out);
    }
    let loss: f64 = report.units.iter().filter_map(Unit::loss).sum();
    for units in report.units.chunk_by(|a, b| a.node == b.node) {
        node_units(units, loss, style, &mut out);
    }
    if loss > 0.0 {
        line_of(&mut out, format!("\n  {SHARE_LEGEND}"));
    }
    skipped(&report.skipped, style, &mut out);
    forms(&report.forms, style, &mut out);
    tuning(report.tuning.as_deref().unwrap_or_default(), style, &mut out);
    if let Some(verify) = &report.verify {
        verification(verify, style, &mut out);
        if let Some(expected) = expectation(report) {
            line_of(&mut out, format!("  {expected}"));
        }
    }
    if let Some(picked) = report.effort.as_ref().and_then(EffortLevel::picked) {
        wrapped("", &picked, &mut out);
    }
    warnings(&report.warnings, style, &mut out);
    closing(report, style, &mut out);
    out
}

/// The report of several models: what each got, then that of each.
pub(super) fn several(several: &Several, style: &Style) -> String {
    let mut out = String::new();
    grid(&several.grid(), style, &mut out);
    if let Some(gain) = several.gain() {
        wrapped("  ", &gain, &mut out);
    }
    for (model, share) in several.models.iter().zip(&several.shares) {
        line_of(&mut out, format!("\n{}\n", style.bold(&format!("== {} ==", name(&share.name, FULL)))));
        out += &report(model, style);
    }
    out
}

/// The weight blocks of one node. `loss` is the predicted loss of the model, the sum over all blocks.
fn node_units(units: &[Unit], loss: f64, style: &Style, out: &mut String) {
    node_heading(style, &units[0].node, &format!("({})", units[0].op), WIDTH, out);
    grid(&Grid::units(&Row::of(units, loss)), style, out);
}

fn verification(verdict: &Verdict, style: &Style, out: &mut String) {
    let samples = if verdict.samples == 1 { "1 sample".to_owned() } else { format!("{} samples", verdict.samples) };
    let seen = match verdict.calibrated_on.as_deref() {
        _ if verdict.smoke_test => ", random inputs",
        Some("same") => " that were also used for calibration",
        _ => "",
    };
    let scope = match verdict.scope {
        VerifyScope::Model => "end to end",
        VerifyScope::Layers => "layer by layer",
    };
    heading(style, &format!("verified {scope} in {} on {samples}{seen}", verdict.engine), out);
    grid(&Grid::outputs(&verdict.outputs), style, out);
    for check in &verdict.checks {
        let verdict = if check.passed { style.good("passed") } else { style.bad("FAILED") };
        let (output, limit) = (name(&check.output, 24), check.limit);
        let held = format!("--{} {} {limit}, measured {}", check.check, bound(check), measured(check));
        line_of(out, format!("  {verdict}  {output}: {held}"));
    }
}

/// The gain of fine-tuning by layer.
fn tuning(layers: &[Tuning], style: &Style, out: &mut String) {
    if layers.is_empty() {
        return;
    }
    heading(style, "fine-tuned: loss on samples that are held back from tuning", out);
    grid(&Grid::tuning(layers), style, out);
    for (layer, reason) in layers.iter().filter_map(|layer| Some((layer, layer.reason.as_ref()?))) {
        line_of(out, format!("  {}: {}", first_of(layer), Escaped(reason)));
    }
}

fn first_of(layer: &Tuning) -> String {
    name(layer.nodes.first().map_or("", String::as_str), 32)
}

fn warnings(warnings: &[String], style: &Style, out: &mut String) {
    if !warnings.is_empty() {
        out.push('\n');
    }
    for warning in warnings {
        line_of(out, format!("{} {}", style.warning("warning:"), Escaped(warning)));
    }
}

/// The answer, and what to do next.
fn closing(report: &Report, style: &Style, out: &mut String) {
    out.push('\n');
    if let Some(answer) = &report.answer {
        verdict(answer, style, out);
    }
    let took = duration(report.seconds.total);
    let grade = report.answer.as_ref().map(|answer| answer.grade);
    match (report.command, &report.model.output) {
        (Command::Compress, Some(written)) => {
            let bytes = report.model.bytes_after.map_or_else(String::new, |bytes| format!(": {}", Bytes(bytes)));
            let loss = report.verify.as_ref().and_then(|verdict| verdict.loss);
            let loss = loss.map_or_else(String::new, |loss| format!(", loss {}", figure(Some(loss))));
            line_of(out, format!("wrote {}{bytes}{loss}, in {took}", Escaped(written)));
            if let Some(side) = &report.model.output_data {
                line_of(out, format!("  and its data to {}: keep both files together", Escaped(side)));
            }
            next(report, grade, out);
        }
        (Command::Compress, None) => {
            line_of(out, style.bad("nothing was written: a check failed"));
            line_of(out, "next: as above; --keep-failed writes the result anyway".to_owned());
        }
        (Command::Verify, _) if grade == Some(Grade::SmokeTest) => {
            line_of(out, format!("measured in {took}"));
            line_of(out, "next: verify with real inputs of the model: --samples SAMPLES".to_owned());
        }
        (Command::Verify, _) if grade != Some(Grade::Failed) => {
            if report.verify.as_ref().is_some_and(|verdict| verdict.checks.is_empty()) {
                line_of(out, format!("measured in {took}; no check was set"));
                line_of(out, "next: add a check, such as --min-snr 20, so that a bad result fails your CI".to_owned());
            } else {
                line_of(out, format!("{} in {took}", style.good("passed")));
            }
        }
        (Command::Verify, _) => {
            let (failed, all) =
                (failed_checks(report), report.verify.as_ref().map_or(0, |verdict| verdict.checks.len()));
            let failed = if failed > 0 { format!("{failed} of {all} checks failed") } else { "failed".to_owned() };
            line_of(out, format!("{} in {took}", style.bad(&failed)));
            line_of(out, "next: compress with a lower --ratio or more --calibration samples".to_owned());
        }
        (Command::Plan, _) => {
            let edit = if report.units.is_empty() { "" } else { "; to edit the bits first, save the plan" };
            line_of(out, format!("next: dirnet compress with the same flags{edit}"));
            if !report.units.is_empty() {
                line_of(out, "      with --save FILE and compress with --plan FILE".to_owned());
            }
        }
    }
}

/// The answer in lines: the grade, what was found, what speaks against shipping, what to try.
fn verdict(answer: &Answer, style: &Style, out: &mut String) {
    let grade = match answer.grade {
        Grade::Good => style.good(answer.grade.words()),
        Grade::Doubtful | Grade::SmokeTest => style.warning(answer.grade.words()),
        Grade::Failed => style.bad(answer.grade.words()),
    };
    line_of(out, format!("{} {grade}", style.bold("verdict:")));
    for finding in answer.findings.iter().take(FINDINGS) {
        wrapped("  ", finding, out);
    }
    if answer.findings.len() > FINDINGS {
        line_of(out, format!("  and {} more, in a report", answer.findings.len() - FINDINGS));
    }
    for concern in &answer.concerns {
        wrapped(&format!("{} ", style.warning("warning:")), concern, out);
    }
    if !answer.advice.is_empty() && answer.grade != Grade::SmokeTest {
        wrapped("  try ", &answer.advice.join("; or "), out);
    }
    if !answer.suggested_checks.is_empty() {
        wrapped("  checks that it passes with a margin: ", &answer.flags(), out);
    }
}

/// Findings that are shown where there are many outputs.
const FINDINGS: usize = 16;

/// What to do with a file that was written.
fn next(report: &Report, grade: Option<Grade>, out: &mut String) {
    let Some(ratio) = report.weights.as_ref().and_then(|weights| weights.ratio) else { return };
    if is_of_random(report) {
        line_of(
            out,
            "next: compress again with --calibration SAMPLES, real inputs of the model: this file is".to_owned(),
        );
        line_of(out, "      calibrated on random ones".to_owned());
        return;
    }
    let finer = (ratio * 0.7).max(2.0).round();
    if matches!(grade, Some(Grade::Doubtful | Grade::Failed)) {
        line_of(out, "next: do not ship this file as it is; see the verdict".to_owned());
        return;
    }
    line_of(out, "next: ship this file. Do not run onnxsim or an optimiser on it: they expand the".to_owned());
    line_of(out, "      weights again.".to_owned());
    if report.search.is_some() {
        return;
    }
    // Nothing is proposed that cannot be reached.
    let coarser = report.smallest_ratio.map_or((ratio * 1.5).round(), |most| (ratio * 1.5).round().min(floor1(most)));
    let smaller = (coarser > ratio * 1.1).then(|| format!("--ratio {coarser} (smaller)"));
    let better = (finer < ratio).then(|| format!("--ratio {finer} (more accurate)"));
    let trades: Vec<String> = smaller.into_iter().chain(better).collect();
    if !trades.is_empty() {
        line_of(out, format!("      To trade: {}", trades.join(" or ")));
    }
}

fn floor1(value: f64) -> f64 {
    (value * 10.0).floor() / 10.0
}

/// A text on lines of at most [`WIDTH`] columns, the further ones indented.
fn wrapped(start: &str, text: &str, out: &mut String) {
    let plain = start.replace("\x1b[33m", "").replace("\x1b[0m", "");
    let (mut line, mut width) = (start.to_owned(), plain.chars().count());
    let mut is_first = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_first && width + 1 + length > WIDTH {
            line_of(out, std::mem::replace(&mut line, "    ".to_owned()));
            (width, is_first) = (4, true);
        }
        if !is_first {
            line.push(' ');
            width += 1;
        }
        line.push_str(word);
        (width, is_first) = (width + length, false);
    }
    line_of(out, line);
}

/// Whether the model was calibrated on random inputs.
fn is_of_random(report: &Report) -> bool {
    let noted = report.settings.as_ref().and_then(|settings| settings.get("calibrated_on")?.as_str());
    let judged = report.verify.as_ref().and_then(|verdict| verdict.calibrated_on.as_deref());
    judged == Some("random") || noted.is_some_and(|noted| noted.starts_with("random "))
}

fn failed_checks(report: &Report) -> usize {
    report.verify.iter().flat_map(|verdict| &verdict.checks).filter(|check| !check.passed).count()
}

/// Size against loss.
pub(super) fn sweep(sweep: &Sweep, style: &Style) -> String {
    let mut out = String::new();
    let before = (Bytes(sweep.recurrent_bytes), Bytes(sweep.model.bytes_before));
    line_of(&mut out, format!("weights {}, whole file {}", before.0, before.1));
    let names = sweep.points.iter().map(|point| point.outputs.len()).max().unwrap_or(0);
    for output in 0..names {
        let at = |point: &SweepPoint| point.outputs.get(output).cloned();
        let title = sweep.points.iter().find_map(at).map_or_else(String::new, |figures| name(&figures.name, 60));
        heading(style, &format!("output {title}"), &mut out);
        grid(&Grid::points(sweep, output), style, &mut out);
    }
    for point in &sweep.points {
        if let Some(reason) = &point.reason {
            line_of(&mut out, format!("{}: {}", times(Some(point.target)), Escaped(reason)));
        }
    }
    warnings(&sweep.warnings, style, &mut out);
    out.push('\n');
    line_of(
        &mut out,
        format!("next: dirnet compress with the --ratio of your choice (took {})", duration(sweep.seconds.total)),
    );
    out
}

/// The report of `inspect`.
pub(super) fn inspection(found: &Inspection, style: &Style) -> String {
    let mut out = String::new();
    let model = &found.model;
    let producer = model.producer.as_deref().map_or_else(String::new, |by| format!(", made by {}", name(by, 30)));
    line_of(&mut out, style.bold(&name(&model.path, WIDTH)));
    line_of(
        &mut out,
        format!("{}, opset {}, IR version {}{producer}", Bytes(model.bytes), model.opset, model.ir_version),
    );
    values("inputs", &found.inputs, style, &mut out);
    values("outputs", &found.outputs, style, &mut out);
    for node in &found.nodes {
        inspected_node(node, style, &mut out);
    }
    linear(&found.linear, style, &mut out);
    skipped(&found.skipped, style, &mut out);
    out.push('\n');
    if found.nodes.is_empty() && found.linear.is_empty() && found.coded_tables == 0 {
        line_of(&mut out, "nothing to compress: no node with constant float weights of some size".to_owned());
        return out;
    }
    let weights = &found.weights;
    let coded = found.nodes.iter().flat_map(|node| &node.weights).any(|weight| weight.coded);
    if coded || found.coded_tables > 0 || found.linear.iter().any(|matrix| matrix.codec.is_some()) {
        let (count, bytes) = (grouped(weights.parameters), Bytes(weights.bytes));
        let bits = weights.bytes as f64 * 8.0 / weights.parameters.max(1) as f64;
        let by = if found.made_by.is_some() { " by dirnet" } else { "" };
        line_of(&mut out, format!("compressed{by}: {count} weights in {bytes}, {bits:.2} bits each"));
        line_of(&mut out, "  (codes, codebooks and scales; reports of compress also count the added nodes)".to_owned());
        for (name, value) in found.made_by.as_ref().map(facts).unwrap_or_default() {
            line_of(&mut out, format!("  {:14} {}", Escaped(&name).to_string(), Escaped(&value)));
        }
        line_of(&mut out, format!("next: dirnet expand {} -o OUT for dense weights", Escaped(&model.path)));
        return out;
    }
    if found.folded_back {
        let mark = style.warning("folded back:");
        line_of(&mut out, format!("{mark} compressed by dirnet, but another tool made it dense again"));
        line_of(
            &mut out,
            "  onnxslim, onnxsim, onnxruntime (saving optimised models) and .ort files do so.".to_owned(),
        );
        line_of(&mut out, "next: compress last, and ship the file that dirnet wrote".to_owned());
        return out;
    }
    let Some(ratio) = found.proposed_ratio else {
        let (weights, bytes) = (grouped(weights.parameters), Bytes(weights.bytes));
        line_of(
            &mut out,
            format!("nothing to gain: a codebook takes more bytes than it saves in {weights} weights, {bytes}"),
        );
        return out;
    };
    let count = found.nodes.len() + found.linear.len();
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    line_of(
        &mut out,
        format!(
            "{nodes} can be compressed: {} weights in {}, {} of the file",
            grouped(weights.parameters),
            Bytes(weights.bytes),
            percent(weights.share)
        ),
    );
    let command = format!("next: dirnet compress {} -o OUT --ratio {ratio} --calibration SAMPLES", quoted(&model.path));
    if found.states.is_empty() {
        line_of(&mut out, command);
        return out;
    }
    line_of(&mut out, format!("{command} \\"));
    let streams: Vec<String> = found.states.iter().map(|state| format!("--stream {}", quoted(state))).collect();
    line_of(&mut out, format!("        {}", streams.join(" \\\n        ")));
    line_of(&mut out, "      if these are states that the caller hands from one call to the next".to_owned());
    out
}

/// The nodes that are not recurrent: more than `SHOWN` in a row are counted.
fn linear(matrices: &[InspectedMatrix], style: &Style, out: &mut String) {
    const SHOWN: usize = 24;
    if matrices.is_empty() {
        return;
    }
    out.push('\n');
    line_of(out, style.bold("other nodes"));
    for matrix in matrices.iter().take(SHOWN) {
        let [rows, columns] = matrix.shape;
        let shape = format!("{rows} x {columns}");
        let how = match (&matrix.same_as, matrix.codec) {
            (Some(same), _) => format!("as {}", name(same, 24)),
            (None, Some(codec)) => format!("{codec}, {}", Bytes(matrix.bytes)),
            (None, None) => format!("{}, {}", Bytes(matrix.bytes), percent(matrix.share)),
        };
        line_of(out, format!("  {:13} {shape:>13}  {how:<20}  {}", matrix.op, name(&matrix.node, 26)));
    }
    if matrices.len() > SHOWN {
        line_of(out, format!("  and {} more", matrices.len() - SHOWN));
    }
}

/// Inputs or outputs of a model.
fn values(title: &str, values: &[InspectedValue], style: &Style, out: &mut String) {
    use Kind::Word;
    if values.is_empty() {
        return;
    }
    let mut found = Grid::new([("", Kind::Name(40)), ("", Word), ("", Word)]);
    for value in values {
        let size = |size: &serde_json::Value| size.as_str().map_or_else(|| size.to_string(), str::to_owned);
        let shape = value.shape.as_ref().map(|sizes| sizes.iter().map(size).collect::<Vec<_>>().join(", "));
        found.row([
            value.name.clone(),
            value.element.clone().unwrap_or_else(|| "not a tensor".to_owned()),
            shape.map_or_else(String::new, |sizes| format!("[{sizes}]")),
        ]);
    }
    heading(style, title, out);
    let mut rows = String::new();
    grid(&found, style, &mut rows);
    out.push_str(rows.split_once('\n').map_or("", |(_, rows)| rows));
}

/// The entries of a note, in words.
fn facts(note: &serde_json::Value) -> Vec<(String, String)> {
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match note.as_object() {
        Some(entries) => entries.iter().map(|(key, value)| (key.replace('_', " "), plain(value))).collect(),
        None => vec![("note".to_owned(), plain(note))],
    }
}

fn inspected_node(node: &Node, style: &Style, out: &mut String) {
    let Node { op, direction, input_size, hidden_size, .. } = node;
    node_heading(style, &node.node, &format!("({op}, {direction}, {input_size} -> {hidden_size})"), FULL, out);
    if !node.inside.is_empty() {
        line_of(out, format!("  in the body of {}", Escaped(&node.inside.join(" / "))));
    }
    let origins: Vec<String> = node.weights.iter().map(origin).collect();
    // A column where they fit, else a line each: a long way is the interesting one.
    let in_column = origins.iter().all(|origin| origin.chars().count() <= 26);
    use Kind::{Number, Word};
    let from = if in_column { "from" } else { "" };
    let columns =
        [("", Word), ("shape", Word), ("stored", Word), (from, Kind::Name(26)), ("bytes", Number), ("of file", Number)];
    let mut found = Grid::new(columns);
    for (weight, origin) in node.weights.iter().zip(&origins) {
        let [directions, rows, n] = weight.shape;
        found.row([
            weight.tensor.clone(),
            format!("{directions} x {rows} x {n}"),
            if weight.coded { format!("{:.2} bits", weight.bits_per_weight) } else { weight.element.clone() },
            if in_column { origin.clone() } else { String::new() },
            Bytes(weight.bytes).to_string(),
            percent(weight.share),
        ]);
    }
    grid(&found, style, out);
    if !in_column {
        for (weight, origin) in node.weights.iter().zip(&origins) {
            line_of(out, format!("  {}: {}", weight.tensor, name(origin, WIDTH - 5)));
        }
    }
}

/// Where W or R comes from, in words.
fn origin(weight: &InspectedWeight) -> String {
    match &weight.same_as {
        Some(twin) => format!("same as in {}", Escaped(twin)),
        None if weight.codec == Some("projection") => format!("projection: {}", dictionaries(&weight.codebooks)),
        None if weight.coded => dictionaries(&weight.codebooks),
        None => Escaped(&weight.route).to_string(),
    }
}

/// The codebooks of a weight by width: `block-1, 2 x block-2`.
fn dictionaries(widths: &[u64]) -> String {
    let mut sorted = widths.to_vec();
    sorted.sort_unstable();
    let named = sorted.chunk_by(|a, b| a == b).map(|alike| match alike.len() {
        1 => format!("block-{}", alike[0]),
        count => format!("{count} x block-{}", alike[0]),
    });
    named.collect::<Vec<_>>().join(", ")
}

fn skipped(skipped: &[SkippedNode], style: &Style, out: &mut String) {
    if skipped.is_empty() {
        return;
    }
    heading(style, "not compressed", out);
    for node in skipped {
        line_of(out, format!("  {} ({})", name(&node.node, 60), Escaped(&node.op)));
        let mark = if node.warning { style.warning("warning: ") } else { String::new() };
        line_of(out, format!("    {mark}{}", Escaped(&node.reason)));
    }
}

/// The table of `bench`.
pub(super) fn bench(bench: &Bench, style: &Style) -> String {
    use Kind::{Name, Number};
    let mut out = String::new();
    let mut found = Grid::new([
        ("", Name(24)),
        ("file", Number),
        ("load", Number),
        ("median", Number),
        ("p10", Number),
        ("p90", Number),
        ("vs first", Number),
        ("peak", Number),
        ("resident", Number),
    ]);
    let first = bench.models.first().map(|model| model.latency_ms.median);
    let memory = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string());
    for model in &bench.models {
        let latency = &model.latency_ms;
        found.row([
            model.path.clone(),
            Bytes(model.bytes).to_string(),
            format!("{} s", figure(Some(model.load_seconds))),
            format!("{} ms", figure(Some(latency.median))),
            figure(Some(latency.p10)),
            figure(Some(latency.p90)),
            times(first.and_then(|first| (first > 0.0).then(|| latency.median / first))),
            memory(model.peak_bytes),
            memory(model.resident_bytes),
        ]);
    }
    grid(&found, style, &mut out);
    let (samples, runs, warm_up) = (bench.samples, bench.runs, bench.warm_up);
    line_of(&mut out, format!("  {} on one thread; median, p10, p90: ms per sample, over {runs} passes", bench.engine));
    line_of(&mut out, format!("  (samples in a pass: {samples}; passes before measuring: {warm_up})"));
    line_of(&mut out, "  peak, resident: memory of the process at its highest and at the end".to_owned());
    warnings(&bench.warnings, style, &mut out);
    out
}

/// If a form other than portable was requested: the nodes that have it, and the reasons of those that do not.
fn forms(forms: &[NodeForm], style: &Style, out: &mut String) {
    if forms.iter().all(|node| node.form == "portable" && node.reason.is_none()) {
        return;
    }
    heading(style, "forms", out);
    for node in forms {
        let reason = node.reason.as_ref().map(|reason| format!(": {}", Escaped(reason))).unwrap_or_default();
        line_of(out, format!("  {} ({}) {}{reason}", name(&node.node, 40), Escaped(&node.op), node.form));
    }
}

/// A node's name and what it is, on two lines where they do not fit one.
fn node_heading(style: &Style, node: &str, what: &str, longest: usize, out: &mut String) {
    let node = name(node, longest);
    let fits = node.chars().count() + 1 + what.chars().count() <= WIDTH;
    out.push('\n');
    line_of(out, format!("{}{}{what}", style.bold(&node), if fits { " " } else { "\n  " }));
}

fn heading(style: &Style, text: &str, out: &mut String) {
    out.push('\n');
    line_of(out, style.bold(text));
}

fn line_of(out: &mut String, line: String) {
    writeln!(out, "{line}").expect("a String takes every line");
}

/// A foreign name on one line, its middle left out if it is longer than `width`.
fn name(text: &str, width: usize) -> String {
    let shown: Vec<char> = Escaped(text).to_string().chars().collect();
    if shown.len() <= width {
        return shown.into_iter().collect();
    }
    let tail = (width - 1) / 2;
    let head = width - 1 - tail;
    shown[..head].iter().chain(&['\u{2026}']).chain(&shown[shown.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Show, example};
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_is_quoted() {
        assert_eq!(quoted("models/h_in=h_out"), "models/h_in=h_out");
        assert_eq!(quoted("h;reboot;=it's"), r"'h;reboot;=it'\''s'");
    }

    #[test]
    fn tables_fit_eighty_columns() {
        let text = example::report().table(&Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        println!("{text}");
    }

    #[test]
    fn colour_changes_no_word() {
        let plain = example::report().table(&Style::default());
        let mut painted = example::report().table(&Style { colour: true });
        assert_ne!(plain, painted);
        for code in ["1", "32", "33", "1;31", "0"] {
            painted = painted.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, painted);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = example::report().json().expect("writes");
        let value: serde_json::Value = serde_json::from_str(&json).expect("reads");
        assert!(value["verify"]["outputs"][0]["kl"].is_null());
        assert!(value["seconds"]["learn"].is_null());
        assert_eq!(value["schema"], 1);
    }
}
