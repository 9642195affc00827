//! Tables for a terminal.
//!
//! They fit 80 columns: long names are cut in the middle, and the units of a node stand below its name. Colour only
//! underlines what the words say anyway.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::size::{figure, grouped, percent, times};
use super::{Bytes, Command, Inspection, Node, Point, Report, Skipped, Sweep, Tuning, Unit, Weight};
use crate::error::Escaped;
use crate::verify::{Scope, Verdict};

/// The width that tables fit.
const WIDTH: usize = 80;

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

/// Aligned columns: the first ones to the left, the others, which are numbers, to the right.
struct Columns {
    table: Table,
    left: usize,
}

impl Columns {
    fn new<const N: usize>(left: usize, header: [&str; N]) -> Self {
        let mut columns = Columns { table: Table::new(), left };
        columns.table.load_style(presets::NOTHING).force_no_tty().add_row(header);
        columns
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.table.add_row(cells);
    }

    /// The lines, indented, the first of them painted as the header.
    fn draw(mut self, style: &Style, out: &mut String) {
        for (index, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            column.set_cell_alignment(if index < self.left { CellAlignment::Left } else { CellAlignment::Right });
        }
        for (index, line) in self.table.lines().enumerate() {
            let line = format!("  {}", line.trim_end());
            line_of(out, if index == 0 { style.bold(&line) } else { line });
        }
    }
}

/// The report of `compress`, `verify` or `plan`.
pub(super) fn report(report: &Report, style: &Style) -> String {
    let mut out = String::new();
    sizes(report, style, &mut out);
    let loss: f64 = report.units.iter().filter_map(loss_of).sum();
    for units in report.units.chunk_by(|a, b| a.node == b.node) {
        node_units(units, loss, style, &mut out);
    }
    skipped(&report.skipped, style, &mut out);
    tuning(report.tuning.as_deref().unwrap_or_default(), style, &mut out);
    if let Some(verify) = &report.verify {
        verification(verify, style, &mut out);
        if let (Some(predicted), Some(measured)) = (report.predicted_loss, verify.loss) {
            let mean = if verify.outputs.len() > 1 { ", mean of the outputs" } else { "" };
            line_of(&mut out, format!("  loss{mean}: predicted {predicted:.2e}, measured {measured:.2e}"));
        }
    }
    warnings(&report.warnings, style, &mut out);
    closing(report, style, &mut out);
    out
}

fn sizes(report: &Report, style: &Style, out: &mut String) {
    let model = &report.model;
    let Some(after) = model.bytes_after else { return };
    let mut columns = Columns::new(1, ["", "before", "after", "ratio"]);
    if let Some(recurrent) = &report.recurrent {
        columns.row([
            "recurrent weights".to_owned(),
            Bytes(recurrent.bytes_before).to_string(),
            Bytes(recurrent.bytes_after).to_string(),
            times(recurrent.ratio),
        ]);
    }
    let whole = "whole file".to_owned();
    columns.row([whole, Bytes(model.bytes_before).to_string(), Bytes(after).to_string(), times(model.ratio)]);
    columns.draw(style, out);
}

/// The units of one node; neighbours of a matrix that are coded alike share a line. `loss` is what all units of the
/// model are predicted to cost.
fn node_units(units: &[Unit], loss: f64, style: &Style, out: &mut String) {
    heading(style, &format!("{} ({})", name(&units[0].node, 60), units[0].op), out);
    let mut columns = Columns::new(4, ["", "gate", "shape", "codec", "bits", "before", "after", "ratio", ""]);
    for group in units.chunk_by(coded_alike) {
        let unit = &group[0];
        let (before, after) = group.iter().fold((0, 0), |(b, a), unit| (b + unit.bytes_before, a + unit.bytes_after));
        let weights = group.len() * unit.shape[0] * unit.shape[1];
        let direction = if unit.direction == "reverse" { " reverse" } else { "" };
        let share = (loss > 0.0).then(|| group.iter().filter_map(loss_of).sum::<f64>() / loss);
        columns.row([
            format!("{}{direction}", unit.tensor),
            group.iter().map(|unit| unit.gate.as_str()).collect::<Vec<_>>().join(" "),
            format!("{} x {}", unit.shape[0], unit.shape[1]),
            unit.codec.clone(),
            format!("{:.2}", after as f64 * 8.0 / weights.max(1) as f64),
            Bytes(before).to_string(),
            Bytes(after).to_string(),
            times(super::ratio(before, after)),
            share.map_or_else(String::new, |share| format!("{} of loss", percent(Some(share)))),
        ]);
    }
    columns.draw(style, out);
}

fn coded_alike(a: &Unit, b: &Unit) -> bool {
    a.tensor == b.tensor
        && a.direction == b.direction
        && a.shape == b.shape
        && a.codec == b.codec
        && a.bytes_after.abs_diff(b.bytes_after) <= 8
}

fn loss_of(unit: &Unit) -> Option<f64> {
    Some(unit.sensitivity? * unit.distortion?)
}

fn verification(verdict: &Verdict, style: &Style, out: &mut String) {
    let samples = if verdict.samples == 1 { "1 sample".to_owned() } else { format!("{} samples", verdict.samples) };
    let seen = match verdict.calibrated_on.as_deref() {
        Some("same") => ", the very ones it was calibrated on",
        Some("random") => ", seeded random inputs",
        _ => "",
    };
    let scope = match verdict.scope {
        Scope::Model => "end to end",
        Scope::Layers => "layer by layer",
    };
    heading(style, &format!("verified {scope} in {} on {samples}{seen}", verdict.engine), out);
    let mut columns = Columns::new(1, ["output", "snr dB", "nmse", "max abs", "cosine", "agree", "kl"]);
    for output in &verdict.outputs {
        columns.row([
            name(&output.name, 24),
            output.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}")),
            figure(output.nmse),
            figure(output.max_abs),
            output.cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.5}")),
            percent(output.agreement),
            figure(output.kl),
        ]);
    }
    columns.draw(style, out);
    for gate in &verdict.gates {
        let verdict = if gate.passed { style.good("passed") } else { style.bad("FAILED") };
        let asked = if gate.gate.starts_with("min") { "at least" } else { "at most" };
        // Without a value it is infinite: nothing differs, or there is no signal to compare with.
        let none = if gate.passed { "an exact match" } else { "no signal" };
        let measured = gate.value.map_or_else(|| none.to_owned(), |value| figure(Some(value)));
        line_of(
            out,
            format!(
                "  {verdict}  {}: --{} {asked} {}, measured {measured}",
                name(&gate.output, 24),
                gate.gate,
                gate.limit
            ),
        );
    }
}

/// Layer by layer what tuning gave.
fn tuning(layers: &[Tuning], style: &Style, out: &mut String) {
    if layers.is_empty() {
        return;
    }
    heading(style, "tuned: loss on samples that were left out of it", out);
    let mut columns = Columns::new(2, ["layer", "against", "before", "after", ""]);
    for layer in layers {
        let more = if layer.nodes.len() > 1 { format!(" +{}", layer.nodes.len() - 1) } else { String::new() };
        columns.row([
            format!("{}{more}", first_of(layer)),
            name(&layer.target, 14),
            figure(layer.before),
            figure(layer.after),
            if layer.kept { "" } else { "not kept" }.to_owned(),
        ]);
    }
    columns.draw(style, out);
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

/// What to do next.
fn closing(report: &Report, style: &Style, out: &mut String) {
    out.push('\n');
    let passed = report.verify.as_ref().is_none_or(|verdict| verdict.passed);
    match (report.command, &report.model.output) {
        (Command::Compress, Some(written)) => {
            line_of(out, format!("wrote {} in {}", Escaped(written), duration(report.seconds.total)));
            if let Some(ratio) = report.recurrent.as_ref().and_then(|recurrent| recurrent.ratio) {
                let (finer, coarser) = ((ratio * 0.7).max(2.0).round(), (ratio * 1.5).round());
                line_of(
                    out,
                    "next: ship it as it is (optimisers that fold constants undo the gain), or try".to_owned(),
                );
                let tries = format!("--ratio {coarser} for a smaller file, --ratio {finer} for a more exact one");
                line_of(out, format!("      {tries}"));
            }
        }
        (Command::Compress, None) => {
            line_of(out, style.bad("nothing was written: a gate failed"));
            line_of(
                out,
                "next: a lower --ratio, more --calibration samples, or --keep-failed to look at it".to_owned(),
            );
        }
        (Command::Verify, _) if passed => {
            line_of(out, format!("{} in {}", style.good("passed"), duration(report.seconds.total)));
        }
        (Command::Verify, _) => line_of(out, style.bad("FAILED")),
        (Command::Plan, _) => {
            line_of(out, "next: dirnet compress with the same flags, or with --plan FILE after --save FILE".to_owned());
        }
    }
}

/// Size against loss.
pub(super) fn sweep(sweep: &Sweep, style: &Style) -> String {
    let mut out = String::new();
    let before = (Bytes(sweep.recurrent_bytes), Bytes(sweep.model.bytes_before));
    line_of(&mut out, format!("recurrent weights {}, whole file {}", before.0, before.1));
    let names = sweep.points.iter().map(|point| point.outputs.len()).max().unwrap_or(0);
    for output in 0..names {
        let at = |point: &Point| point.outputs.get(output).cloned();
        let title = sweep.points.iter().find_map(at).map_or_else(String::new, |figures| name(&figures.name, 60));
        heading(style, &format!("output {title}"), &mut out);
        let mut columns = Columns::new(0, ["ratio", "file", "of file", "snr dB", "nmse", "max abs", "agree", "kl"]);
        for (point, figures) in sweep.points.iter().filter_map(|point| Some((point, at(point)?))) {
            columns.row([
                times(point.ratio),
                point.bytes_after.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string()),
                percent(point.bytes_after.map(|bytes| bytes as f64 / sweep.model.bytes_before.max(1) as f64)),
                figures.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}")),
                figure(figures.nmse),
                figure(figures.max_abs),
                percent(figures.agreement),
                figure(figures.kl),
            ]);
        }
        columns.draw(style, &mut out);
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
        format!("next: dirnet compress with the ratio of your choice ({})", duration(sweep.seconds.total)),
    );
    out
}

/// What `inspect` found.
pub(super) fn inspection(found: &Inspection, style: &Style) -> String {
    let mut out = String::new();
    let model = &found.model;
    let producer = model.producer.as_deref().map_or_else(String::new, |by| format!(", made by {}", name(by, 30)));
    line_of(&mut out, style.bold(&name(&model.path, WIDTH)));
    line_of(
        &mut out,
        format!("{}, opset {}, IR version {}{producer}", Bytes(model.bytes), model.opset, model.ir_version),
    );
    for node in &found.nodes {
        inspected_node(node, style, &mut out);
    }
    skipped(&found.skipped, style, &mut out);
    out.push('\n');
    if found.nodes.is_empty() {
        line_of(&mut out, "nothing to compress: no LSTM or GRU with constant float weights".to_owned());
        return out;
    }
    let weights = &found.recurrent;
    if found.nodes.iter().flat_map(|node| &node.weights).any(|weight| weight.coded) {
        let made =
            found.made_by.as_ref().map_or_else(String::new, |note| format!(" by dirnet, {}", Escaped(&facts(note))));
        line_of(&mut out, format!("compressed{made}"));
        let (count, bytes) = (grouped(weights.parameters), Bytes(weights.bytes));
        let bits = weights.bytes as f64 * 8.0 / weights.parameters.max(1) as f64;
        line_of(&mut out, format!("{count} weights in {bytes}, {bits:.2} bits each"));
        line_of(&mut out, format!("next: dirnet expand {} -o OUT for dense weights", Escaped(&model.path)));
        return out;
    }
    let nodes = if found.nodes.len() == 1 { "1 node".to_owned() } else { format!("{} nodes", found.nodes.len()) };
    line_of(
        &mut out,
        format!(
            "{nodes} can be compressed: {} weights in {}, {} of the file",
            grouped(weights.parameters),
            Bytes(weights.bytes),
            percent(weights.share)
        ),
    );
    let command = format!("next: dirnet compress {} -o OUT --ratio 8 --calibration SAMPLES", Escaped(&model.path));
    line_of(&mut out, command);
    out
}

/// A note as words: `calibrated_on 16 samples, codec block, ...`.
fn facts(note: &serde_json::Value) -> String {
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match note.as_object() {
        Some(entries) => {
            let facts: Vec<String> =
                entries.iter().map(|(key, value)| format!("{} {}", key.replace('_', " "), plain(value))).collect();
            facts.join(", ")
        }
        None => plain(note),
    }
}

fn inspected_node(node: &Node, style: &Style, out: &mut String) {
    let Node { op, direction, input_size, hidden_size, .. } = node;
    heading(style, &format!("{} ({op}, {direction}, {input_size} -> {hidden_size})", name(&node.node, 40)), out);
    if !node.inside.is_empty() {
        line_of(out, format!("  in the body of {}", Escaped(&node.inside.join(" / "))));
    }
    let origins: Vec<String> = node.weights.iter().map(origin).collect();
    // A column where they fit, else a line each: a long way is the interesting one.
    let in_column = origins.iter().all(|origin| origin.chars().count() <= 26);
    let mut columns = Columns::new(4, ["", "shape", "stored", if in_column { "from" } else { "" }, "bytes", "of file"]);
    for (weight, origin) in node.weights.iter().zip(&origins) {
        let [directions, rows, n] = weight.shape;
        columns.row([
            weight.tensor.clone(),
            format!("{directions} x {rows} x {n}"),
            if weight.coded { "coded".to_owned() } else { weight.element.clone() },
            if in_column { origin.clone() } else { String::new() },
            Bytes(weight.bytes).to_string(),
            percent(weight.share),
        ]);
    }
    columns.draw(style, out);
    if !in_column {
        for (weight, origin) in node.weights.iter().zip(&origins) {
            line_of(out, format!("  {}: {}", weight.tensor, name(origin, WIDTH - 5)));
        }
    }
}

/// Where W or R comes from, in words.
fn origin(weight: &Weight) -> String {
    match &weight.same_as {
        Some(twin) => format!("same as in {}", Escaped(twin)),
        None if weight.coded => "dictionary".to_owned(),
        None => Escaped(&weight.route).to_string(),
    }
}

fn skipped(skipped: &[Skipped], style: &Style, out: &mut String) {
    if skipped.is_empty() {
        return;
    }
    heading(style, "left as they are", out);
    for node in skipped {
        line_of(out, format!("  {} ({})", name(&node.node, 60), Escaped(&node.op)));
        let mark = if node.warning { style.warning("warning: ") } else { String::new() };
        line_of(out, format!("    {mark}{}", Escaped(&node.reason)));
    }
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

fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, Recurrent, SCHEMA, Seconds, Show, Tool};
    use super::*;
    use crate::loss::Figures;
    use crate::verify::Checked;

    fn unit(node: &str, gate: &str, bits: u64) -> Unit {
        Unit {
            node: node.to_owned(),
            op: "LSTM".to_owned(),
            tensor: "R".to_owned(),
            direction: "forward".to_owned(),
            gate: gate.to_owned(),
            shape: [512, 512],
            codec: "block d=2".to_owned(),
            bits_per_weight: bits as f64,
            bytes_before: 1_048_576,
            bytes_after: 512 * 512 * bits / 8,
            sensitivity: Some(1e-5),
            distortion: Some(20.0),
        }
    }

    fn sample() -> Report {
        let node = "encoder\x1b[2J/a/very/deep/scope/that/goes/on/and/on/and/on/for/more/than/a/line/LSTM_1";
        Report {
            schema: SCHEMA,
            tool: Tool::default(),
            command: Command::Compress,
            model: Model {
                path: "model.onnx".to_owned(),
                output: Some("small.onnx".to_owned()),
                bytes_before: 13_294_085,
                bytes_after: Some(1_824_000),
                ratio: super::super::ratio(13_294_085, 1_824_000),
                opset: 17,
                producer: Some("pytorch".to_owned()),
            },
            recurrent: Some(Recurrent {
                bytes_before: 4 * 1_048_576,
                bytes_after: 540_000,
                ratio: super::super::ratio(4 * 1_048_576, 540_000),
                parameters: 4 * 512 * 512,
            }),
            predicted_loss: Some(0.0018),
            tuning: Some(vec![Tuning {
                nodes: vec![node.to_owned(), "b".to_owned()],
                target: "states".to_owned(),
                kept: true,
                before: Some(0.0123),
                after: Some(0.00987),
                steps: Some(250),
                reason: None,
            }]),
            units: vec![unit(node, "i", 4), unit(node, "o", 4), unit(node, "f", 2), unit(node, "c", 8)],
            skipped: vec![super::super::Skipped {
                node: "gru".to_owned(),
                op: "GRU".to_owned(),
                reason: "W is computed from an input".to_owned(),
                warning: false,
            }],
            warnings: vec!["no samples".to_owned()],
            verify: Some(Verdict {
                engine: "tract",
                scope: Scope::Model,
                reason: None,
                samples: 12,
                calibrated_on: Some("same".to_owned()),
                loss: Some(0.0021),
                outputs: vec![Figures {
                    name: "logits".to_owned(),
                    max_abs: Some(0.81),
                    rmse: Some(0.05),
                    nmse: Some(0.0021),
                    snr_db: Some(26.7),
                    cosine: Some(0.99892),
                    agreement: Some(0.97913),
                    kl: Some(f64::NAN),
                    ..Figures::default()
                }],
                gates: vec![Checked {
                    output: "logits".to_owned(),
                    gate: "min-snr",
                    limit: 30.0,
                    value: Some(26.7),
                    passed: false,
                }],
                passed: false,
                failures: Vec::new(),
            }),
            seconds: Seconds { total: 12.3, ..Seconds::default() },
        }
    }

    #[test]
    fn tables_fit_eighty_columns() {
        let text = sample().table(&Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        println!("{text}");
    }

    #[test]
    fn colour_changes_no_word() {
        let plain = sample().table(&Style::default());
        let mut painted = sample().table(&Style { colour: true });
        assert_ne!(plain, painted);
        for code in ["1", "32", "33", "1;31", "0"] {
            painted = painted.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, painted);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = sample().json().expect("writes");
        let value: serde_json::Value = serde_json::from_str(&json).expect("reads");
        assert!(value["verify"]["outputs"][0]["kl"].is_null());
        assert!(value["seconds"]["learn"].is_null());
        assert_eq!(value["schema"], 1);
    }
}
