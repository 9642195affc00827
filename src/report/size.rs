//! Byte counts and figures for people.

use std::fmt;

/// Shows a number of bytes in powers of ten with three digits, as file managers do: `416 B`, `1.23 KB`, `13.3 MB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
        if self.0 < 1000 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1e3;
        let mut unit = 0;
        // 999.5 would be shown as 1000 of the smaller unit.
        while value >= 999.5 && unit + 1 < UNITS.len() {
            value /= 1e3;
            unit += 1;
        }
        f.pad(&format!("{} {}", three_digits(value), UNITS[unit]))
    }
}

/// Three significant digits, or scientific where that would be long; `-` for what was not measured.
pub(super) fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if !value.is_finite() => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value.abs() < 1e-3 || value.abs() >= 1e5 => format!("{value:.1e}"),
        Some(value) if value.abs() < 0.1 => format!("{value:.4}"),
        Some(value) if value.abs() < 1.0 => format!("{value:.3}"),
        Some(value) => three_digits(value),
    }
}

/// A share as a percentage that does not round up to everything: 99.97 % is not 100 %.
pub(super) fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(share) if share >= 1.0 => "100 %".to_owned(),
        Some(share) if share > 0.999 => format!("{:.3} %", (share * 1e5).floor() / 1e3),
        Some(share) => format!("{:.1} %", share * 100.0),
    }
}

/// A ratio: `8.05x`.
pub(super) fn times(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{}x", three_digits(ratio)))
}

/// A count with its thousands apart: `851,968`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds, and minutes where there are any.
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let seconds = seconds.round();
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 KB"),
            (9_994, "9.99 KB"),
            (99_960, "100 KB"),
            (999_499, "999 KB"),
            (999_500, "1.00 MB"),
            (13_294_085, "13.3 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Bytes(5)), "     5 B|");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 851_968].map(grouped), ["0", "999", "1,000", "851,968"]);
    }

    #[test]
    fn figures() {
        for (value, text) in [
            (None, "-"),
            (Some(f64::NAN), "-"),
            (Some(0.0), "0"),
            (Some(0.00012), "1.2e-4"),
            (Some(0.0123), "0.0123"),
            (Some(26.34), "26.3"),
            (Some(-3.0), "-3.00"),
        ] {
            assert_eq!(figure(value), text);
        }
        assert_eq!(percent(Some(0.99999)), "99.999 %");
        assert_eq!(percent(Some(1.0)), "100 %");
        assert_eq!(percent(Some(0.5)), "50.0 %");
    }
}
