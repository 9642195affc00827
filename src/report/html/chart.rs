//! Charts as inline SVG: small enough to be read on a phone, coloured by the page's style sheet only.

use super::super::markup::Markup;

/// The drawing, in its own units; a page scales it to the room that there is.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;

/// How values become places along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
}

impl Scale {
    /// From zero to a little over `max`.
    pub fn from_zero(max: f64) -> Scale {
        let max = if max > 0.0 && max.is_finite() { max } else { 1.0 };
        Scale { from: 0.0, to: max * 1.06, logarithmic: false }
    }

    /// Around some values, with room at both ends; it need not begin at zero.
    pub fn around(values: impl Iterator<Item = f64>) -> Scale {
        let (from, to) = values.fold((f64::INFINITY, 0.0f64), |(from, to), value| (from.min(value), to.max(value)));
        let room = (to - from).max(to * 0.05).max(1.0) * 0.12;
        Scale { from: (from.min(to) - room).max(0.0), to: to + room, logarithmic: false }
    }

    /// From `from` to `to`, as they are.
    pub fn exact(from: f64, to: f64) -> Scale {
        Scale { from, to: if to > from { to } else { from + 1.0 }, logarithmic: false }
    }

    /// Around positive values, by powers of ten; none if there are none.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (mut from, mut to) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            (from, to) = (from.min(value), to.max(value));
        }
        (to > 0.0).then(|| {
            // At least a decade, so that there is always a label, and room at both ends.
            let spread = (to / from).max(10.0).powf(0.06);
            let middle = (from * to).sqrt();
            let (from, to) = (from.min(middle / 10f64.sqrt()), to.max(middle * 10f64.sqrt()));
            Scale { from: from / spread, to: to * spread, logarithmic: true }
        })
    }

    /// The place of a value, 0 to 1.
    fn place(self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.from).ln() - self.from.ln()) / (self.to.ln() - self.from.ln())
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }

    /// Round values to label.
    fn ticks(self) -> Vec<f64> {
        if self.logarithmic {
            let (first, last) = (self.from.log10().ceil() as i32, self.to.log10().floor() as i32);
            let every = usize::try_from((last - first) / 6 + 1).unwrap_or(1);
            return (first..=last).step_by(every).map(|exponent| 10f64.powi(exponent)).collect();
        }
        let raw = (self.to - self.from) / 5.0;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= raw).unwrap_or(raw);
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }
}

/// An axis: its scale, what it shows, and how a value on it is written.
pub struct Axis<'a> {
    pub scale: Scale,
    pub label: &'a str,
    pub format: fn(f64) -> String,
}

/// A chart with two axes.
pub struct Plot {
    x: Scale,
    y: Scale,
    svg: Markup,
}

impl Plot {
    /// An empty chart; `title` is what a screen reader says.
    pub fn new(title: &str, x: &Axis<'_>, y: &Axis<'_>) -> Plot {
        let mut plot = Plot { x: x.scale, y: y.scale, svg: Markup::new() };
        plot.svg.raw("<svg viewBox=\"0 0 440 270\" role=\"img\"").attribute("aria-label", title).raw(">");
        for value in y.scale.ticks() {
            let at = plot.at_y(value);
            plot.svg.raw("<line class=\"grid\"").place("x1", LEFT).place("x2", WIDTH - RIGHT);
            plot.svg.place("y1", at).place("y2", at).raw("/>");
            plot.label(LEFT - 8.0, at + 4.0, "end", &(y.format)(value));
        }
        for value in x.scale.ticks() {
            let at = plot.at_x(value);
            plot.svg.raw("<line class=\"axis\"").place("x1", at).place("x2", at);
            plot.svg.place("y1", HEIGHT - BOTTOM).place("y2", HEIGHT - BOTTOM + 4.0).raw("/>");
            plot.label(at, HEIGHT - BOTTOM + 18.0, "middle", &(x.format)(value));
        }
        plot.svg.raw("<line class=\"axis\"").place("x1", LEFT).place("x2", WIDTH - RIGHT);
        plot.svg.place("y1", HEIGHT - BOTTOM).place("y2", HEIGHT - BOTTOM).raw("/>");
        plot.label(4.0, 14.0, "start", y.label);
        plot.label(WIDTH - RIGHT, HEIGHT - 6.0, "end", x.label);
        plot
    }

    fn at_x(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn label(&mut self, x: f64, y: f64, anchor: &'static str, text: &str) {
        self.svg.raw("<text").place("x", x).place("y", y).attribute("text-anchor", anchor).raw(">");
        self.svg.text(text).raw("</text>");
    }

    /// A line through points.
    pub fn line(&mut self, class: &'static str, points: impl Iterator<Item = (f64, f64)>) {
        self.svg.raw("<polyline").attribute("class", class).raw(" points=\"");
        for (x, y) in points {
            let (x, y) = (self.at_x(x), self.at_y(y));
            self.svg.number(x).raw(",").number(y).raw(" ");
        }
        self.svg.raw("\"/>");
    }

    /// A round or square mark that tells what it is when it is pointed at.
    pub fn mark(&mut self, class: &'static str, x: f64, y: f64, square: bool, title: &str) {
        let (x, y) = (self.at_x(x), self.at_y(y));
        if square {
            self.svg.raw("<rect").place("x", x - 4.5).place("y", y - 4.5).raw(" width=\"9\" height=\"9\"");
        } else {
            self.svg.raw("<circle").place("cx", x).place("cy", y).raw(" r=\"5\"");
        }
        self.svg.attribute("class", class).raw("><title>").text(title).raw("</title>");
        self.svg.raw(if square { "</rect>" } else { "</circle>" });
    }

    /// Words beside a point.
    pub fn beside(&mut self, x: f64, y: f64, text: &str) {
        let (x, y) = (self.at_x(x), self.at_y(y));
        // To the left where the right has no room.
        let room = WIDTH - x - 9.0;
        let (at, anchor) = if text.chars().count() as f64 * 7.5 > room { (x - 9.0, "end") } else { (x + 9.0, "start") };
        self.svg.raw("<text class=\"strong\"").place("x", at).place("y", (y - 8.0).max(TOP - 4.0));
        self.svg.attribute("text-anchor", anchor).raw(">").text(text).raw("</text>");
    }

    /// A bar from the bottom, `from` to `to` wide.
    pub fn bar(&mut self, class: &'static str, from: f64, to: f64, height: f64, title: &str) {
        let (left, right, top) = (self.at_x(from), self.at_x(to), self.at_y(height));
        self.svg.raw("<rect").attribute("class", class).place("x", left + 0.5).place("y", top);
        self.svg.place("width", (right - left - 1.0).max(0.5)).place("height", (HEIGHT - BOTTOM - top).max(0.0));
        self.svg.raw("><title>").text(title).raw("</title></rect>");
    }

    /// A dashed line from top to bottom, with a word at its upper end.
    pub fn upright(&mut self, x: f64, text: &str) {
        let at = self.at_x(x);
        self.svg.raw("<line class=\"l-dash\"").place("x1", at).place("x2", at);
        self.svg.place("y1", TOP - 6.0).place("y2", HEIGHT - BOTTOM).raw("/>");
        let anchor = if at > WIDTH / 2.0 { ("end", -5.0) } else { ("start", 5.0) };
        self.label(at + anchor.1, TOP + 4.0, anchor.0, text);
    }

    /// A dashed line from left to right.
    pub fn level(&mut self, y: f64) {
        let at = self.at_y(y);
        self.svg.raw("<line class=\"l-dash\"").place("x1", LEFT).place("x2", WIDTH - RIGHT);
        self.svg.place("y1", at).place("y2", at).raw("/>");
    }

    pub fn finish(mut self) -> Markup {
        self.svg.raw("</svg>");
        self.svg
    }
}

/// A bar within a row of a table: a part of a whole, on a scale of `most`. The width is in pixels.
pub fn cell(whole: f64, part: f64, most: f64, classes: [&'static str; 2], width: f64) -> Markup {
    let mut svg = Markup::new();
    svg.raw("<svg height=\"12\" aria-hidden=\"true\"").place("width", width).raw(">");
    for (value, class) in [whole, part].into_iter().zip(classes) {
        let length = if most > 0.0 { (value / most).clamp(0.0, 1.0) * width } else { 0.0 };
        if length > 0.0 {
            svg.raw("<rect y=\"1\" height=\"10\" rx=\"2\"").attribute("class", class);
            svg.place("width", length.max(1.5)).raw("/>");
        }
    }
    svg.raw("</svg>");
    svg
}

/// A number on an axis.
pub fn plain(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::from_zero(9.0).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(Scale::exact(0.0, 255.0).ticks(), [0.0, 100.0, 200.0]);
        let scale = Scale::logarithmic([0.002, 0.3].into_iter()).expect("positive values");
        assert_eq!(scale.ticks().iter().map(|tick| plain(*tick)).collect::<Vec<_>>(), ["0.01", "0.1"]);
        assert!(Scale::logarithmic([0.0, f64::NAN].into_iter()).is_none());
    }

    #[test]
    fn one_value_has_an_axis_too() {
        let scale = Scale::logarithmic([0.05].into_iter()).expect("a positive value");
        assert!(!scale.ticks().is_empty());
        assert!((scale.place(0.05) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn places_stay_on_the_chart() {
        let scale = Scale::exact(1.0, 1.0);
        assert_eq!((scale.place(-5.0), scale.place(9.0)), (0.0, 1.0));
        let scale = Scale::logarithmic([1.0, 100.0].into_iter()).expect("positive values");
        assert_eq!((scale.place(0.0), scale.place(f64::INFINITY)), (0.0, 1.0));
    }
}
