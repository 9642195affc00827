//! Values of flags that are more than a number: sizes, ratios, bindings of names.
//!
//! Names of a model's values may hold any character, `:` and `=` included (`output:0` is common), so a pair is cut at
//! the last `:` or `=` before a value and at the first `=` before a file.

use std::path::PathBuf;
use std::time::Duration;

use dirnet::compress::Level;

/// A file size as people write it: `800KB` and `2MB` are powers of ten, `1.5MiB` of two, a bare number is bytes.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 8] = [
        ("KIB", 1024.0),
        ("MIB", 1048576.0),
        ("GIB", 1073741824.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
        ("", 1.0),
    ];
    let text = text.trim().to_ascii_uppercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number.trim(), unit)))
        .expect("the empty suffix always matches");
    let bytes = number.parse::<f64>().map_err(|_| "expected a size such as 800KB, 2MB or 1.5MiB".to_owned())? * unit;
    if !(1.0..=9e15).contains(&bytes) {
        return Err("expected a size of at least one byte".to_owned());
    }
    Ok(bytes.floor() as u64)
}

/// A level of effort.
pub fn effort(text: &str) -> Result<Level, String> {
    Level::parse(text.trim()).ok_or_else(|| format!("expected 0 to {}, or max", Level::MAX))
}

/// A time as people write it: `90s`, `5min`, `1.5h`; a bare number is seconds.
pub fn time(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("min", 60.0), ("m", 60.0), ("h", 3600.0), ("s", 1.0), ("", 1.0)];
    let text = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number.trim(), unit)))
        .expect("the empty suffix always matches");
    let seconds = number.parse::<f64>().map(|number| number * unit);
    let seconds = seconds.ok().filter(|seconds| (1.0..=1e7).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a time of at least a second, such as 90s, 5min or 1h".to_owned())
}

/// A compression ratio: a finite number above 1; `8` and `8x` are the same.
pub fn ratio(text: &str) -> Result<f64, String> {
    match text.trim().trim_end_matches(['x', 'X']).parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio > 1.0 => Ok(ratio),
        _ => Err("expected a number above 1, such as 8 or 11.5".to_owned()),
    }
}

/// A number that is finite and not negative.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("expected a number of at least 0".to_owned()),
    }
}

/// The threshold of a check, for every output or for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// The output that it is for; none: all.
    pub output: Option<String>,
    pub value: f64,
}

impl Limit {
    fn parse(text: &str, number: fn(&str) -> Result<f64, String>) -> Result<Limit, String> {
        match text.rsplit_once(':') {
            Some(("", _)) => Err("expected VALUE or NAME:VALUE".to_owned()),
            Some((output, value)) => Ok(Limit { output: Some(output.to_owned()), value: number(value)? }),
            None => Ok(Limit { output: None, value: number(text)? }),
        }
    }
}

/// `VALUE` or `NAME:VALUE` with a value of at least 0.
pub fn limit(text: &str) -> Result<Limit, String> {
    Limit::parse(text, not_negative)
}

/// `DB` or `NAME:DB`, any finite number of decibels.
pub fn decibels(text: &str) -> Result<Limit, String> {
    Limit::parse(text, |number| match number.trim().parse::<f64>() {
        Ok(db) if db.is_finite() => Ok(db),
        _ => Err("expected decibels, such as 20".to_owned()),
    })
}

/// `F` or `NAME:F`, a share between 0 and 1.
pub fn share(text: &str) -> Result<Limit, String> {
    Limit::parse(text, |number| match number.trim().parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share between 0 and 1, such as 0.99".to_owned()),
    })
}

/// `NAME=SIZE` of a symbolic dimension.
pub fn dimension(text: &str) -> Result<(String, usize), String> {
    let expected = || "expected NAME=SIZE with a size of at least 1, such as batch=1".to_owned();
    let (name, size) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
    match size.trim().parse::<usize>() {
        Ok(size) if size > 0 => Ok((name.to_owned(), size)),
        _ => Err(expected()),
    }
}

/// `NAME=FILE` of the labels of an output.
pub fn labels(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), PathBuf::from(file))),
        _ => Err("expected NAME=FILE.npz with the name of an output".to_owned()),
    }
}

/// A regular expression that compiles.
pub fn pattern(text: &str) -> Result<regex::Regex, String> {
    // The crate's message shows the pattern over several lines, the last of which says what is wrong.
    regex::Regex::new(text).map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("2MB", 2_000_000), ("800KB", 800_000), ("1.5MiB", 1_572_864), ("12", 12), ("3 kib", 3072), ("7b", 7)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1MB", "0", "nan", "inf", "1e300GB", "2 parsecs"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ratios() {
        assert_eq!(ratio("8"), Ok(8.0));
        assert_eq!(ratio("11.5x"), Ok(11.5));
        for text in ["1", "0", "-3", "inf", "nan", "", "x"] {
            assert!(ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_cut_at_the_last_colon() {
        assert_eq!(limit("0.5"), Ok(Limit { output: None, value: 0.5 }));
        assert_eq!(limit("out:0:0.5"), Ok(Limit { output: Some("out:0".into()), value: 0.5 }));
        assert_eq!(decibels("-3"), Ok(Limit { output: None, value: -3.0 }));
        for text in ["", ":1", "a:", "-1", "nan", "a:inf"] {
            assert!(limit(text).is_err(), "{text}");
        }
        assert!(share("1.1").is_err());
    }

    #[test]
    fn bindings() {
        assert_eq!(dimension("batch=4"), Ok(("batch".into(), 4)));
        assert_eq!(labels("logits=a=b.npz"), Ok(("logits".into(), "a=b.npz".into())));
        assert!(dimension("batch=0").is_err() && dimension("=3").is_err() && dimension("batch").is_err());
    }

    #[test]
    fn a_bad_pattern_is_one_line() {
        let error = pattern("a(").expect_err("an open group");
        assert_eq!(error, "unclosed group");
    }
}
