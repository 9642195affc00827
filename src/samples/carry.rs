//! A state outside the model: an output of one step is an input of the next.

use super::{Dim, Port, Signature};
use crate::error::{self, Error, ErrorKind, Result};
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

    /// What looks like a state that the caller keeps: an input whose shape is an output's, and whose name differs from it
    /// by no more than `state` does from `stateN`, `hin` from `hout`, or `cache` from `new_cache`.
    pub fn guess(signature: &Signature) -> Vec<Carry> {
        let carry =
            |input: &Port, output: &Port| Carry { input: input.name.clone(), output: output.name.clone(), range: None };
        let of_input = |input: &Port| {
            let of_both = stem(&input.name);
            let alike = signature.outputs.iter().filter(|o| !of_both.is_empty() && stem(&o.name) == of_both);
            let mut fitting = alike.map(|output| carry(input, output)).filter(|it| it.check_one(signature).is_ok());
            input.dims.as_ref().and(fitting.next())
        };
        // A state comes beside what is new at every step.
        if signature.inputs.len() < 2 {
            return Vec::new();
        }
        signature.inputs.iter().filter_map(of_input).collect()
    }

    /// Checks carries against the model: names, element types, and shapes as far as they are declared.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for the first that does not fit.
    pub fn check(carries: &[Carry], signature: &Signature) -> Result<()> {
        let mut fed = HashSet::new();
        carries.iter().try_for_each(|carry| {
            if !fed.insert(&carry.input) {
                return Err(carry.unfit(format!("input '{}' is carried twice", carry.input)));
            }
            carry.check_one(signature)
        })
    }

    fn check_one(&self, signature: &Signature) -> Result<()> {
        let missing = |what: &str, name: &str, known: &[Port]| {
            let meant = error::meant(name, known.iter().map(|port| port.name.as_str()));
            let [inputs, outputs] = [&signature.inputs, &signature.outputs].map(|ports| names(ports));
            self.unfit(format!(
                "the model has no {what} '{name}'{meant}; its inputs are {inputs}, its outputs {outputs}"
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
        let (Some(takes), Some(gives)) = (&input.dims, &output.dims) else { return Ok(()) };
        if !self.dims_fit(takes, gives) {
            let (takes, gives) = (input.shape_text(), output.shape_text());
            return Err(self.unfit(format!("the input takes {takes}, which is not that part of the output {gives}")));
        }
        Ok(())
    }

    /// Whether the carried part of an output of shape `gives` can be an input of shape `takes`.
    fn dims_fit(&self, takes: &[Dim], gives: &[Dim]) -> bool {
        let fits = |takes: &Dim, gives: Option<usize>| match (takes.fixed(), gives) {
            (Some(takes), Some(gives)) => takes == gives,
            _ => true,
        };
        let first = |takes: &Dim, gives: &Dim| match &self.range {
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

/// A name without what tells the state that goes in from the one that comes out.
fn stem(name: &str) -> String {
    const BEFORE: [&str; 6] = ["in_", "out_", "new_", "next_", "prev_", "old_"];
    const AFTER: [&str; 10] = ["_in", "_out", "_new", "_next", "_prev", "_n", "out", "in", "n", "0"];
    let name = name.to_ascii_lowercase();
    let bare = BEFORE.iter().find_map(|word| name.strip_prefix(word)).unwrap_or(&name);
    let bare = AFTER.iter().find_map(|word| bare.strip_suffix(word)).unwrap_or(bare);
    bare.trim_matches('_').to_owned()
}

fn names(ports: &[Port]) -> String {
    ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ")
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
        let port = |name: &str, dims: Vec<Dim>| Port {
            name: name.to_owned(),
            element: crate::onnx::ElementType::Float,
            dims: Some(dims),
        };
        let (one, batch) = (Dim::Size(1), Dim::Symbol("batch".to_owned()));
        Signature {
            inputs: vec![port("h", vec![one.clone(), batch.clone(), Dim::Size(8)]), port("x", vec![batch.clone()])],
            outputs: vec![port("states", vec![Dim::Size(4), one, Dim::Size(8)]), port("y", vec![batch])],
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
            (vec!["x=y", "x=y"], "carried twice"),
        ] {
            assert!(check(&texts).unwrap_err().contains(want), "{texts:?}");
        }
    }

    #[test]
    fn states_are_guessed_by_name_and_shape() {
        let port = |name: &str, sizes: &[usize]| Port {
            name: name.to_owned(),
            element: crate::onnx::ElementType::Float,
            dims: Some(sizes.iter().map(|&size| Dim::Size(size)).collect()),
        };
        let guess = |inputs: &[&str], outputs: &[&str]| {
            let ports = |names: &[&str]| names.iter().map(|name| port(name, &[1, 4])).collect();
            let carries = Carry::guess(&Signature { inputs: ports(inputs), outputs: ports(outputs) });
            carries.iter().map(Carry::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(guess(&["input", "state"], &["output", "stateN"]), "state=stateN");
        assert_eq!(guess(&["x", "h", "c"], &["prob", "hn", "cn"]), "h=hn c=cn");
        assert_eq!(guess(&["x", "hin"], &["y", "hout"]), "hin=hout");
        assert_eq!(guess(&["mix", "conv_cache"], &["enh", "conv_cache_out"]), "conv_cache=conv_cache_out");
        assert_eq!(guess(&["cached_key_0", "cached_key_1"], &["new_cached_key_0"]), "cached_key_0=new_cached_key_0");
        assert_eq!(guess(&["features"], &["logits"]), "");
        let other_shape = Signature { inputs: vec![port("h", &[1, 4])], outputs: vec![port("hn", &[4])] };
        assert_eq!(Carry::guess(&other_shape), []);
    }

    #[test]
    fn refuses_other_forms() {
        for text in ["", "=", "a=", "=b", "a", "a=b[1]", "a=b[1:1]", "a=b[2:1]", "a=b[-1:1]", "a=[0:1]", "a=b[x:1]"] {
            assert_eq!(Carry::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
