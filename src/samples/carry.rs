//! A state outside the model: an output of one step is an input of the next.

use super::{AxisSize, Port, Signature};
use crate::error::{self, Cut, Error, ErrorKind, Result};
use std::collections::HashSet;
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

    /// Holds carries against the model: names, element types, and shapes as far as they are declared.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for the first that does not fit.
    pub fn check(carries: &[Carry], signature: &Signature) -> Result<()> {
        let mut fed = HashSet::new();
        carries.iter().try_for_each(|carry| {
            if !fed.insert(&carry.input) {
                return Err(carry.unfit(format!("input '{}' is given twice", carry.input)));
            }
            carry.check_one(signature)
        })
    }

    fn check_one(&self, signature: &Signature) -> Result<()> {
        let missing = |what: &str, name: &str, known: &[Port]| {
            let meant = error::meant(name, known.iter().map(|port| port.name.as_str()));
            let [inputs, outputs] = [&signature.inputs, &signature.outputs].map(|ports| names(ports));
            self.unfit(format!(
                "the model has no {what} '{}'{meant}; its inputs are {inputs}, its outputs {outputs}",
                Cut(name)
            ))
        };
        let Some(input) = signature.input(&self.input) else {
            return Err(missing("input", &self.input, &signature.inputs));
        };
        let Some(output) = signature.output(&self.output) else {
            return Err(missing("output", &self.output, &signature.outputs));
        };
        if input.element != output.element {
            let (takes, gives) = (input.element.as_str_name(), output.element.as_str_name());
            return Err(self.unfit(format!("the input takes {takes}, the output gives {gives}")));
        }
        if !self.fits(input, output) {
            let (takes, gives) = (input.shape_text(), output.shape_text());
            return Err(self.unfit(format!("the input takes {takes}, which is not that part of the output {gives}")));
        }
        Ok(())
    }

    /// Whether element types and shapes, as far as they are declared, let this part of `output` be `input`.
    pub(super) fn fits(&self, input: &Port, output: &Port) -> bool {
        let (Some(takes), Some(gives)) = (&input.dims, &output.dims) else { return input.element == output.element };
        input.element == output.element && self.dims_fit(takes, gives)
    }

    /// Whether the carried part of an output of shape `gives` can be an input of shape `takes`.
    fn dims_fit(&self, takes: &[AxisSize], gives: &[AxisSize]) -> bool {
        let fits = |takes: &AxisSize, gives: Option<usize>| match (takes.fixed(), gives) {
            (Some(takes), Some(gives)) => takes == gives,
            _ => true,
        };
        let first = |takes: &AxisSize, gives: &AxisSize| match &self.range {
            None => fits(takes, gives.fixed()),
            Some(range) => gives.fixed().is_none_or(|size| range.end <= size) && fits(takes, Some(range.len())),
        };
        takes.len() == gives.len()
            && (self.range.is_none() || !takes.is_empty())
            && takes.iter().zip(gives).enumerate().all(|(axis, (takes, gives))| match axis {
                0 => first(takes, gives),
                _ => fits(takes, gives.fixed()),
            })
    }

    fn unfit(&self, why: String) -> Error {
        Error::new(ErrorKind::Usage, format!("stream '{self}': {why}"))
    }
}

fn names(ports: &[Port]) -> String {
    error::listed(ports.iter().map(|port| port.name.as_str()))
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

    fn signature() -> Signature {
        let port = |name: &str, dims: Vec<AxisSize>| Port {
            name: name.to_owned(),
            element: crate::onnx::ElementType::Float,
            dims: Some(dims),
        };
        let (one, batch) = (AxisSize::Size(1), AxisSize::Symbol("batch".to_owned()));
        Signature {
            inputs: vec![
                port("h", vec![one.clone(), batch.clone(), AxisSize::Size(8)]),
                port("x", vec![batch.clone()]),
            ],
            closed: Vec::new(),
            outputs: vec![port("states", vec![AxisSize::Size(4), one, AxisSize::Size(8)]), port("y", vec![batch])],
            states: Vec::new(),
        }
    }

    #[test]
    fn is_held_against_the_model() {
        let check = |texts: &[&str]| {
            let carries: Vec<Carry> = texts.iter().map(|t| Carry::parse(t).unwrap()).collect();
            Carry::check(&carries, &signature()).map_err(|e| e.message().to_owned())
        };
        assert_eq!(check(&["h=states[3:4]", "x=y"]), Ok(()));
        for (texts, want) in [
            (vec!["h=states"], "is not that part"),
            (vec!["h=states[3:5]"], "is not that part"),
            (vec!["h=states[4:5]"], "is not that part"),
            (vec!["h=y"], "is not that part"),
            (vec!["g=y"], "no input 'g'; its inputs are h, x, its outputs states, y"),
            (vec!["h=state"], "no output 'state' (did you mean 'states'?)"),
            (vec!["x=y", "x=y"], "given twice"),
        ] {
            assert!(check(&texts).unwrap_err().contains(want), "{texts:?}");
        }
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "=", "a=", "=b", "a", "a=b[1]", "a=b[1:1]", "a=b[2:1]", "a=b[-1:1]", "a=[0:1]", "a=b[x:1]"] {
            assert_eq!(Carry::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
