//! A state that the caller keeps: an output of one step is an input of the next.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::ops::Range;

/// One `IN=OUT` or `IN=OUT[a:b]`: output `OUT` of a step, or its slice along axis 0, is input `IN` of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carry {
    /// The graph input that receives the state.
    pub input: String,
    /// The graph output that the state comes from.
    pub output: String,
    /// The part of the output along axis 0; `None` for all of it.
    pub range: Option<Range<usize>>,
}

impl Carry {
    /// Reads `IN=OUT` or `IN=OUT[a:b]`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where it has another form or an empty slice.
    pub fn parse(text: &str) -> Result<Carry> {
        let bad = |why: &str| {
            Err(Error::new(ErrorKind::Usage, format!("stream '{text}': {why}, expected IN=OUT or IN=OUT[a:b]")))
        };
        let Some((input, output)) = text.split_once('=') else { return bad("no '='") };
        let (output, range) = match output.strip_suffix(']').and_then(|o| o.rsplit_once('[')) {
            None => (output, None),
            Some((output, slice)) => {
                let Some(range) = parse_range(slice) else { return bad("the slice is not two whole numbers") };
                if range.is_empty() {
                    return bad("the slice is empty");
                }
                (output, Some(range))
            }
        };
        if input.is_empty() || output.is_empty() {
            return bad("a name is empty");
        }
        Ok(Carry { input: input.to_owned(), output: output.to_owned(), range })
    }
}

fn parse_range(slice: &str) -> Option<Range<usize>> {
    let (start, end) = slice.split_once(':')?;
    Some(start.trim().parse().ok()?..end.trim().parse().ok()?)
}

impl fmt::Display for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.input, self.output)?;
        match &self.range {
            Some(r) => write!(f, "[{}:{}]", r.start, r.end),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_slices() {
        let whole = Carry::parse("state=stateN").unwrap();
        assert_eq!((whole.input.as_str(), whole.output.as_str(), whole.range), ("state", "stateN", None));
        assert_eq!(Carry::parse("h1_in=out_state1[0:1]").unwrap().range, Some(0..1));
        for text in ["h=o[0:2]", "h=o", "a=b[c][1:3]"] {
            assert_eq!(Carry::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "=", "a=", "=b", "a", "a=b[1]", "a=b[1:1]", "a=b[2:1]", "a=b[-1:1]", "a=[0:1]", "a=b[x:1]"] {
            assert_eq!(Carry::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
