//! Figures as rows and columns of text, before anyone has decided how to draw them: the terminal, Markdown and HTML
//! draw the same grids.

use super::size::{figure, grouped, percent, times};
use super::units::Row;
use super::{Bytes, KindSizes, Report, STATES, Several, Sweep, Tradeoff, Tuning};
use crate::loss::Figures;
use crate::verify::{Checked, Verdict};

/// The column with a weight block's share of the error, and what its figures are.
pub(super) const SHARE: &str = "of error";
pub(super) const SHARE_LEGEND: &str = "of error: share of the remaining error (forecast, before fine-tuning)";

/// A table.
#[derive(Clone, Debug, Default)]
pub(super) struct Grid {
    pub columns: Vec<Column>,
    /// As many cells each as there are columns; foreign names in them are as the file has them.
    pub rows: Vec<Vec<String>>,
}

/// A column of a grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub title: &'static str,
    /// The title in a page, where a column without one puzzles readers and screen readers.
    pub page_title: &'static str,
    pub kind: Kind,
}

/// What is in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Names out of a file, cut to so many characters where there is little room.
    Name(usize),
    /// Words.
    Word,
    /// Figures, which stand to the right.
    Number,
}

impl Grid {
    pub fn new<const N: usize>(columns: [(&'static str, Kind); N]) -> Grid {
        let column = |(title, kind)| Column { title, page_title: title, kind };
        Grid { columns: columns.map(column).to_vec(), rows: Vec::new() }
    }

    /// Gives the columns that have no title on a terminal one for pages, in order.
    fn with_page_titles<const N: usize>(mut self, titles: [&'static str; N]) -> Grid {
        let untitled = self.columns.iter_mut().filter(|column| column.title.is_empty());
        untitled.zip(titles).for_each(|(column, title)| column.page_title = title);
        self
    }

    /// The columns that a page shows, by index: those that hold something.
    pub fn page_columns(&self) -> Vec<(usize, Column)> {
        let is_empty = |index: usize| self.rows.iter().all(|row| row.get(index).is_none_or(String::is_empty));
        let shown = self.columns.iter().copied().enumerate();
        shown.filter(|(index, column)| !column.title.is_empty() || !is_empty(*index)).collect()
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.to_vec());
    }

    /// Bytes of the weights and of the file, before and after.
    pub fn sizes(report: &Report) -> Grid {
        use Kind::{Number, Word};
        let mut grid = Grid::new([("", Word), ("before", Number), ("after", Number), ("ratio", Number)])
            .with_page_titles(["part"]);
        let mut add = |what: &str, before: u64, after: u64, ratio| {
            grid.row([what.to_owned(), Bytes(before).to_string(), Bytes(after).to_string(), times(ratio)]);
        };
        if let Some(weights) = &report.weights {
            if let [kind] = &weights.kinds[..] {
                add(&format!("{} weights", kind.kind), weights.bytes_before, weights.bytes_after, weights.ratio);
            } else {
                add("weights", weights.bytes_before, weights.bytes_after, weights.ratio);
                for KindSizes { kind, bytes_before, bytes_after } in &weights.kinds {
                    add(&format!("  {kind}"), *bytes_before, *bytes_after, super::ratio(*bytes_before, *bytes_after));
                }
            }
        }
        if let Some(after) = report.model.bytes_after {
            if let Some(weights) = &report.weights {
                let [before, after] = [
                    report.model.bytes_before.saturating_sub(weights.bytes_before),
                    after.saturating_sub(weights.bytes_after),
                ];
                add("everything else", before, after, super::ratio(before, after));
            }
            add("whole file", report.model.bytes_before, after, report.model.ratio);
        }
        // Only projection dictionaries give a choice.
        let work = report.recurrent.as_ref().map(|weights| weights.multiply_adds);
        if let Some(work) = work.filter(|work| work.factored != work.before) {
            let mut add = |what: &str, after: u64| {
                let ratio = times(super::ratio(work.before, after));
                grid.row([what.to_owned(), grouped(work.before), grouped(after), ratio]);
            };
            add("multiply-adds per step", work.after);
            if work.after != work.factored {
                add("  by atoms, then by codes", work.factored);
            }
        }
        grid
    }

    /// The files of several models, and their sum.
    pub fn several(several: &Several) -> Grid {
        use Kind::{Name, Number};
        let mut grid = Grid::new([
            ("file", Name(32)),
            ("before", Number),
            ("after", Number),
            ("ratio", Number),
            ("loss", Number),
            ("with one ratio", Number),
        ]);
        for (report, share) in several.models.iter().zip(&several.shares) {
            let model = &report.model;
            grid.row([
                share.name.clone(),
                Bytes(model.bytes_before).to_string(),
                Bytes(model.bytes_after.unwrap_or(share.bytes)).to_string(),
                times(model.ratio),
                figure(report.verify.as_ref().and_then(|verdict| verdict.loss_mean)),
                Bytes(share.bytes_alike).to_string(),
            ]);
        }
        let total = &several.total;
        let mut add = |what: &str, before: u64, after: u64, ratio| {
            let [before, after] = [before, after].map(|bytes| Bytes(bytes).to_string());
            grid.row([what.to_owned(), before, after, times(ratio), String::new(), String::new()]);
        };
        add("all files", total.bytes_before, total.bytes_after, total.ratio);
        add("all weights", total.weight_bytes_before, total.weight_bytes_after, total.weight_ratio);
        grid
    }

    /// How the file was made smaller before anything was coded.
    pub fn lossless(report: &Report) -> Grid {
        let mut grid = Grid::new([("before coding", Kind::Word), ("saved", Kind::Number)]);
        for step in &report.lossless {
            let loss = if step.exact { "" } else { " (not exact)" };
            grid.row([format!("{}{loss}", step.step), Bytes(step.bytes).to_string()]);
        }
        grid
    }

    /// How each weight block is stored, and its share of the remaining error if that is known ([`SHARE_LEGEND`]).
    pub fn units(rows: &[Row]) -> Grid {
        use Kind::{Number, Word};
        let share = if rows.iter().any(|row| row.share.is_some()) { SHARE } else { "" };
        let mut grid = Grid::new([
            ("", Word),
            ("gate", Word),
            ("shape", Word),
            ("codec", Word),
            ("bits", Number),
            ("before", Number),
            ("after", Number),
            ("ratio", Number),
            (share, Number),
        ])
        .with_page_titles(["matrix"]);
        for row in rows {
            grid.row([
                row.matrix(),
                row.gates.clone(),
                format!("{} x {}", row.shape[0], row.shape[1]),
                row.codec.clone(),
                format!("{:.2}", row.bits()),
                Bytes(row.before).to_string(),
                Bytes(row.after).to_string(),
                times(super::ratio(row.before, row.after)),
                row.share.map_or_else(String::new, |share| percent(Some(share))),
            ]);
        }
        grid
    }

    /// The difference of each output from the original's.
    pub fn outputs(outputs: &[Figures]) -> Grid {
        let mut grid = Grid::new([("output", Kind::Name(24))]);
        grid.columns.extend(FIGURES);
        grid.rows = outputs.iter().map(|o| [vec![o.name.clone()], figures(o)].concat()).collect();
        grid
    }

    /// The checks, with the values measured for the outputs.
    pub fn checks(checks: &[Checked]) -> Grid {
        use Kind::{Name, Number, Word};
        let columns = [("", Word), ("output", Name(24)), ("check", Word), ("limit", Number), ("measured", Number)];
        let mut grid = Grid::new(columns).with_page_titles(["result"]);
        for check in checks {
            let passed = if check.passed { "passed" } else { "FAILED" };
            let limit = format!("{} {}", bound(check), check.limit);
            grid.row([passed.to_owned(), check.output.clone(), format!("--{}", check.check), limit, measured(check)]);
        }
        grid
    }

    /// One output of a sweep at every ratio.
    pub fn points(sweep: &Sweep, output: usize) -> Grid {
        use Kind::Number;
        let mut grid = Grid::new([("ratio", Number), ("file", Number), ("of file", Number)]);
        grid.columns.extend(FIGURES);
        for point in &sweep.points {
            let Some(found) = point.outputs.get(output) else { continue };
            let share = point.bytes_after.map(|bytes| bytes as f64 / sweep.model.bytes_before.max(1) as f64);
            let file = point.bytes_after.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string());
            grid.rows.push([vec![times(point.ratio), file, percent(share)], figures(found)].concat());
        }
        grid
    }

    /// Sizes and their losses, including the report's own.
    pub fn tradeoff(report: &Report) -> Grid {
        use Kind::{Number, Word};
        let mut grid = Grid::new([("ratio", Number), ("file", Number), (loss_in_words(report), Number), ("", Word)])
            .with_page_titles(["source"]);
        for point in tradeoff(report) {
            grid.row([
                times(point.ratio),
                Bytes(point.bytes_after).to_string(),
                figure(Some(point.loss)),
                if point.measured { "measured" } else { "forecast" }.to_owned(),
            ]);
        }
        grid
    }

    /// The gain of fine-tuning by layer.
    pub fn tuning(layers: &[Tuning]) -> Grid {
        use Kind::{Name, Number, Word};
        let columns = [("layer", Name(26)), ("target", Name(14)), ("before", Number), ("after", Number), ("", Word)];
        let mut grid = Grid::new(columns).with_page_titles(["result"]);
        for layer in layers {
            let more = if layer.nodes.len() > 1 { format!(" +{}", layer.nodes.len() - 1) } else { String::new() };
            grid.row([
                format!("{}{more}", layer.nodes.first().map_or("", String::as_str)),
                if layer.target == STATES { "hidden states".to_owned() } else { layer.target.clone() },
                figure(layer.before),
                figure(layer.after),
                outcome(layer).to_owned(),
            ]);
        }
        grid
    }
}

/// Whether the fine-tuned values of a layer are in the result, and why not.
fn outcome(layer: &Tuning) -> &'static str {
    match (layer.kept, layer.after, &layer.reason) {
        (true, ..) => "kept",
        (false, None, _) => "skipped",
        (false, Some(_), None) => "no gain, discarded",
        (false, Some(_), Some(_)) => "discarded",
    }
}

/// The measured loss of a report and the one that was expected, in a line; `None` where one of them is not known.
pub(super) fn expectation(report: &Report) -> Option<String> {
    let verdict = report.verify.as_ref()?;
    let mean = if verdict.outputs.len() > 1 { " (mean of the outputs)" } else { "" };
    let measured = figure(Some(verdict.loss?));
    let expected = match (report.predicted_range, report.predicted_loss) {
        (Some(range), _) => {
            let [least, most] = range.map(|bound| figure(Some(bound)));
            format!("{least} to {most} expected from the calibration samples")
        }
        (None, predicted) => format!("{} predicted by sensitivities", figure(Some(predicted?))),
    };
    Some(format!("loss{mean}: measured {measured}, {expected}"))
}

/// Whether the losses that are shown are those of the worst output: a search for a loss bounds that, while predictions are of
/// the mean.
pub(super) fn shows_worst(report: &Report) -> bool {
    report.tradeoff.iter().any(|point| point.loss_worst.is_some())
}

/// What the loss of the sizes is, in words.
pub(super) fn loss_in_words(report: &Report) -> &'static str {
    if shows_worst(report) { "loss of the worst output" } else { "mean loss of the outputs" }
}

/// The sizes that the report knows of, its own result among them, the largest first.
pub(super) fn tradeoff(report: &Report) -> Vec<Tradeoff> {
    let ratio = report.weights.as_ref().and_then(|weights| weights.ratio);
    let own = report.verify.as_ref().zip(report.model.bytes_after).and_then(|(verdict, bytes_after)| {
        let Verdict { loss_mean, loss_worst, .. } = *verdict;
        let loss = if shows_worst(report) { loss_worst } else { loss_mean }?;
        Some(Tradeoff { ratio, bytes_after, loss, loss_mean, loss_worst, measured: true })
    });
    let mut points: Vec<Tradeoff> = report.tradeoff.iter().copied().chain(own).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.bytes_after));
    points
}

/// The columns of the figures of an output.
const FIGURES: [Column; 6] = [
    Column { title: "nmse", page_title: "nmse", kind: Kind::Number },
    Column { title: "snr dB", page_title: "snr dB", kind: Kind::Number },
    Column { title: "max abs", page_title: "max abs", kind: Kind::Number },
    Column { title: "cosine", page_title: "cosine", kind: Kind::Number },
    Column { title: "agree", page_title: "agree", kind: Kind::Number },
    Column { title: "kl", page_title: "kl", kind: Kind::Number },
];

fn figures(output: &Figures) -> Vec<String> {
    vec![
        figure(output.nmse),
        output.snr_db.map_or_else(|| "-".to_owned(), |db| format!("{db:.1}")),
        figure(output.max_abs),
        output.cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.5}")),
        percent(output.agreement.filter(|_| output.decides)),
        figure(output.kl),
    ]
}

/// Whether a check bounds from below or from above, in words.
pub(super) fn bound(check: &Checked) -> &'static str {
    if check.check.starts_with("min") { "at least" } else { "at most" }
}

/// The measured value of a check. Without one it is infinite: the outputs are equal, or the signal is zero.
pub(super) fn measured(check: &Checked) -> String {
    let none = if check.passed { "an exact match" } else { "no signal" };
    check.value.map_or_else(|| none.to_owned(), |value| figure(Some(value)))
}
