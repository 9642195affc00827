//! A batch is not a sample: rows of an array that a model runs together are samples of their own.
//!
//! Where the only sample has a batch along axis 0 of its inputs, it is cut into its rows, each a batch of one. An axis 0 is
//! that of a batch if it may have any size, and either its symbol says so, or it has no telling name and is not followed by
//! an axis of size 1, as the time of a recurrent layer is. Nothing is cut where the symbol is the size of another axis, too.

use super::{AxisSize, Feed, Port, Samples, Signature, Stream};

/// Symbols of exporters that say nothing: `unk__12`, `s0`, `dim_3`, `?`.
const NAMELESS: [&str; 4] = ["unk", "s", "dim", "d"];

/// Whether a symbol is the size of a batch by its name.
pub(super) fn names_batch(symbol: &str) -> bool {
    let symbol = symbol.to_ascii_lowercase();
    symbol.contains("batch") || matches!(symbol.as_str(), "n" | "b" | "bs")
}

/// Whether a symbol says nothing about what has its size.
pub(super) fn is_nameless(symbol: &str) -> bool {
    let name = symbol.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_').to_ascii_lowercase();
    symbol == "?" || (name.len() < symbol.len() && NAMELESS.contains(&name.as_str()))
}

/// Cuts the only sample into the rows of its batch, and notes that.
pub(super) fn split(samples: &mut Samples, signature: &Signature) {
    let [stream] = &samples.streams[..] else { return };
    let (true, [feed]) = (samples.carry.is_empty(), &stream.feeds[..]) else { return };
    let batched = |port: &&Port| is_batched(port, signature);
    let ports: Vec<&Port> = signature.inputs.iter().filter(batched).filter(|p| feed.contains_key(&p.name)).collect();
    let sizes: Vec<usize> = ports.iter().filter_map(|port| feed[&port.name].shape().first().copied()).collect();
    let Some(&rows) = sizes.first().filter(|&&rows| rows > 1 && sizes.iter().all(|size| *size == rows)) else { return };
    // Another input may belong to the rows one by one: where it may be as long, or is declared to be.
    let may_belong = |port: &&Port| match port.dims.as_deref() {
        None => true,
        Some([]) => false,
        Some(dims) => !matches!(dims[0], AxisSize::Size(_)) || dims.contains(&AxisSize::Size(rows)),
    };
    if signature.inputs.iter().filter(|port| !is_batched(port, signature)).any(|port| may_belong(&port)) {
        return;
    }
    let row = |index: usize| -> Feed {
        let cut = |(name, tensor): (&String, &super::Tensor)| {
            let is_cut = ports.iter().any(|port| port.name == *name);
            (name.clone(), if is_cut { tensor.slice(index..index + 1) } else { tensor.clone() })
        };
        feed.iter().map(cut).collect()
    };
    let origin = &stream.origin;
    let streams = (0..rows).map(|index| Stream {
        origin: format!("{origin}[{index}]"),
        feeds: vec![row(index)],
        labels: Vec::new(),
    });
    let streams: Vec<Stream> = streams.collect();
    samples.notes.push(format!("{origin}: axis 0 is a batch of {rows}: taken as {rows} samples of 1"));
    samples.streams = streams;
}

/// Whether axis 0 of an input is that of a batch.
fn is_batched(port: &Port, signature: &Signature) -> bool {
    let Some([first, rest @ ..]) = port.dims.as_deref() else { return false };
    let may_be_time = matches!(rest, [AxisSize::Size(1), _, ..]);
    match first {
        AxisSize::Size(_) => false,
        AxisSize::Unknown => !rest.is_empty() && !may_be_time,
        AxisSize::Symbol(symbol) => {
            let by_name = names_batch(symbol) || is_nameless(symbol) && !rest.is_empty() && !may_be_time;
            let elsewhere = |port: &Port| port.dims.iter().flatten().skip(1).any(|dim| dim == first);
            by_name && !signature.inputs.iter().any(elsewhere)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::ElementType;
    use crate::samples::Tensor;
    use ndarray::{ArrayD, IxDyn};

    fn symbol(name: &str) -> AxisSize {
        AxisSize::Symbol(name.to_owned())
    }

    fn port(name: &str, dims: Vec<AxisSize>) -> Port {
        Port { name: name.to_owned(), element: ElementType::Float, dims: Some(dims) }
    }

    /// How many samples come of one feed with these inputs and shapes.
    fn samples(inputs: Vec<(Port, &[usize])>) -> usize {
        let feed = inputs
            .iter()
            .map(|(port, shape)| (port.name.clone(), Tensor::from(ArrayD::<f32>::zeros(IxDyn(shape)))))
            .collect();
        let signature =
            Signature { inputs: inputs.into_iter().map(|(port, _)| port).collect(), ..Signature::default() };
        let stream = Stream { origin: "x.npz".to_owned(), feeds: vec![feed], labels: Vec::new() };
        let mut samples = Samples { streams: vec![stream], ..Samples::default() };
        split(&mut samples, &signature);
        assert_eq!(samples.notes.len(), usize::from(samples.len() > 1));
        assert!(samples.feeds().all(|feed| samples.len() == 1 || feed["x"].shape()[0] == 1));
        samples.len()
    }

    #[test]
    fn a_batch_is_cut_and_time_is_not() {
        use AxisSize::{Size, Unknown};
        let one = |first: AxisSize, rest: &[AxisSize], shape| {
            samples(vec![(port("x", [vec![first], rest.to_vec()].concat()), shape)])
        };
        for first in [symbol("batch"), symbol("batch_size"), symbol("N"), symbol("s0"), symbol("unk__7"), Unknown] {
            assert_eq!(one(first.clone(), &[Size(60), Size(40)], &[32, 60, 40]), 32, "{first:?}");
            assert_eq!(one(first, &[Size(60), Size(40)], &[1, 60, 40]), 1);
        }
        for first in [symbol("seq"), symbol("time"), symbol("frames"), Size(32)] {
            assert_eq!(one(first.clone(), &[Size(60), Size(40)], &[32, 60, 40]), 1, "{first:?}");
        }
        assert_eq!(one(symbol("s0"), &[Size(1), Size(40)], &[50, 1, 40]), 1, "time before a batch of one");
    }

    #[test]
    fn inputs_are_cut_together_or_not_at_all() {
        use AxisSize::Size;
        let batch = || symbol("batch");
        let x = || (port("x", vec![batch(), Size(4)]), &[3, 4][..]);
        assert_eq!(samples(vec![x(), (port("rate", vec![]), &[])]), 3, "a scalar is the same for all");
        assert_eq!(samples(vec![x(), (port("y", vec![batch(), Size(2)]), &[3, 2])]), 3);
        assert_eq!(samples(vec![x(), (port("h", vec![Size(1), batch(), Size(8)]), &[1, 3, 8])]), 1);
        assert_eq!(samples(vec![x(), (port("state", vec![Size(3), Size(8)]), &[3, 8])]), 1, "a state of each row");
        assert_eq!(samples(vec![x(), (port("ids", vec![symbol("tokens")]), &[3])]), 1);
    }
}
