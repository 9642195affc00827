//! The attributes of `LSTM`, `GRU` and `RNN`, read and checked as the ONNX operator specification has them (since
//! versions 1, 7, 14 and 22; GRU also 3).
//!
//! Invariant: an [`Attributes`] holds only values that the specification allows, with every default filled in, so that
//! nobody after this module has to ask again. A value or an attribute that is not known is refused by its name: to
//! guess would be to compute something else.

use crate::error::{Cut, Error, ErrorKind, Result};
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_proto::AttributeType};

/// Which recurrent operator a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cell {
    /// Long short-term memory: gates `i o f c`.
    Lstm,
    /// Gated recurrent unit: gates `z r h`.
    Gru,
    /// Plain recurrent layer: one gate `i`, whose value is the state.
    Rnn,
}

impl Cell {
    /// All of them.
    pub const ALL: [Cell; 3] = [Cell::Lstm, Cell::Gru, Cell::Rnn];

    /// The cell that an `op_type` of the standard domain names.
    pub fn of_operator(op_type: &str) -> Option<Cell> {
        Cell::ALL.into_iter().find(|cell| cell.operator() == op_type)
    }

    /// The `op_type` in the ONNX standard domain.
    pub fn operator(self) -> &'static str {
        match self {
            Cell::Lstm => "LSTM",
            Cell::Gru => "GRU",
            Cell::Rnn => "RNN",
        }
    }

    /// The gates in the order in which their rows lie in W and R.
    pub fn gates(self) -> &'static [&'static str] {
        match self {
            Cell::Lstm => &["i", "o", "f", "c"],
            Cell::Gru => &["z", "r", "h"],
            Cell::Rnn => &["i"],
        }
    }

    /// How many inputs the operator has: `X W R B sequence_lens initial_h`, and for an LSTM `initial_c P`.
    pub fn inputs(self) -> usize {
        match self {
            Cell::Lstm => 8,
            Cell::Gru | Cell::Rnn => 6,
        }
    }

    /// The states that a step hands to the next, by the letters of `initial_h` and `initial_c`.
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Cell::Lstm => &["h", "c"],
            Cell::Gru | Cell::Rnn => &["h"],
        }
    }

    /// Activation functions of one direction where the attribute is absent: `f g h` of LSTM, `f g` of GRU, `f` of RNN.
    fn default_activations(self) -> &'static [Function] {
        match self {
            Cell::Lstm => &[Function::Sigmoid, Function::Tanh, Function::Tanh],
            Cell::Gru => &[Function::Sigmoid, Function::Tanh],
            Cell::Rnn => &[Function::Tanh],
        }
    }

    /// Whether the operator has the attribute in the version that `opset` selects.
    fn has_attribute(self, name: &str, opset: i64) -> bool {
        match name {
            "activation_alpha" | "activation_beta" | "activations" | "clip" | "direction" | "hidden_size" => true,
            "input_forget" => self == Cell::Lstm,
            "linear_before_reset" => self == Cell::Gru && opset >= 3,
            "output_sequence" => opset < 7,
            "layout" => opset >= 14,
            _ => false,
        }
    }
}

/// The order in which a node walks the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From the last step to the first.
    Reverse,
    /// Both, each with weights of its own: direction 0 is forward, 1 is reverse.
    Bidirectional,
}

impl Direction {
    /// `num_directions` of the specification: the first dimension of W, R, B and P.
    pub fn count(self) -> usize {
        match self {
            Direction::Forward | Direction::Reverse => 1,
            Direction::Bidirectional => 2,
        }
    }

    /// The value of the attribute.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
            Direction::Bidirectional => "bidirectional",
        }
    }

    /// The one-way directions in the order of the first dimension of W and R.
    pub fn each(self) -> &'static [Direction] {
        match self {
            Direction::Forward => &[Direction::Forward],
            Direction::Reverse => &[Direction::Reverse],
            Direction::Bidirectional => &[Direction::Forward, Direction::Reverse],
        }
    }
}

/// An activation function by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Function {
    Relu,
    Tanh,
    Sigmoid,
    Affine,
    LeakyRelu,
    ThresholdedRelu,
    ScaledTanh,
    HardSigmoid,
    Elu,
    Softsign,
    Softplus,
}

/// Whether a function takes `alpha` or `beta`.
#[derive(Clone, Copy)]
enum Parameter {
    Unused,
    Default(f32),
    /// No default is specified (onnxruntime takes 0, which makes the gate constant).
    Required,
}

/// Every function that the specification names, with its `alpha` and `beta`.
const FUNCTIONS: [(&str, Function, Parameter, Parameter); 11] = {
    use Parameter::{Default, Required, Unused};
    [
        ("Relu", Function::Relu, Unused, Unused),
        ("Tanh", Function::Tanh, Unused, Unused),
        ("Sigmoid", Function::Sigmoid, Unused, Unused),
        ("Affine", Function::Affine, Required, Required),
        ("LeakyRelu", Function::LeakyRelu, Default(0.01), Unused),
        ("ThresholdedRelu", Function::ThresholdedRelu, Default(1.0), Unused),
        ("ScaledTanh", Function::ScaledTanh, Required, Required),
        ("HardSigmoid", Function::HardSigmoid, Default(0.2), Default(0.5)),
        ("Elu", Function::Elu, Default(1.0), Unused),
        ("Softsign", Function::Softsign, Unused, Unused),
        ("Softplus", Function::Softplus, Unused, Unused),
    ]
};

/// An activation function with its parameters; those that it does not take are 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedActivation {
    /// Which function.
    pub function: Function,
    /// `alpha` of the specification.
    pub alpha: f32,
    /// `beta` of the specification.
    pub beta: f32,
}

impl NamedActivation {
    /// `Sigmoid`, the default of the gates.
    pub const SIGMOID: NamedActivation = NamedActivation { function: Function::Sigmoid, alpha: 0.0, beta: 0.0 };
    /// `Tanh`, the default of the cell and hidden activations.
    pub const TANH: NamedActivation = NamedActivation { function: Function::Tanh, alpha: 0.0, beta: 0.0 };

    /// The value at `x`, by the formulas of the specification.
    pub fn apply(self, x: f32) -> f32 {
        let NamedActivation { function, alpha, beta } = self;
        match function {
            Function::Relu => x.max(0.0),
            Function::Tanh => x.tanh(),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Affine => alpha * x + beta,
            Function::LeakyRelu => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x
                }
            }
            Function::ThresholdedRelu => {
                if x >= alpha {
                    x
                } else {
                    0.0
                }
            }
            Function::ScaledTanh => alpha * (beta * x).tanh(),
            Function::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
            Function::Elu => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Function::Softsign => x / (1.0 + x.abs()),
            // log(1 + e^x) without overflow of e^x
            Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }

    /// The name in the specification.
    pub fn name(self) -> &'static str {
        let found = FUNCTIONS.iter().find(|entry| entry.1 == self.function);
        found.expect("the table lists every function").0
    }
}

/// The attributes of one recurrent node, checked, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    /// `hidden_size`, H; at least 1.
    pub hidden: usize,
    /// `direction`.
    pub direction: Direction,
    /// `activations` with their parameters: 3 (LSTM: f, g, h), 2 (GRU: f, g) or 1 (RNN: f) for each direction in turn.
    pub activations: Vec<NamedActivation>,
    /// `clip`: the input of every activation is clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// `input_forget` (LSTM): the forget gate is `1 - i`.
    pub input_forget: bool,
    /// `linear_before_reset` (GRU): the reset gate multiplies after the recurrent product, not before.
    pub linear_before_reset: bool,
    /// `layout`: 0 has the sequence first in X and Y, 1 the batch. W and R have the same shape in both.
    pub layout: i64,
}

impl Attributes {
    /// Reads the attributes of `node`, a recurrent operator of the standard domain at version `opset`.
    ///
    /// # Errors
    /// `Malformed` where a value is missing, of the wrong type or not allowed; `Unsupported` for an attribute that the
    /// operator does not have in this opset. The caller names the node.
    pub fn read(node: &NodeProto, cell: Cell, opset: i64) -> Result<Attributes> {
        let attributes = Reader(node);
        attributes.refuse_unknown(cell, opset)?;
        let direction = attributes.direction()?;
        Ok(Attributes {
            hidden: attributes.hidden()?,
            direction,
            activations: attributes.activations(cell, direction)?,
            clip: attributes.clip()?,
            input_forget: attributes.flag("input_forget")?,
            linear_before_reset: attributes.flag("linear_before_reset")?,
            layout: i64::from(attributes.flag("layout")?),
        })
    }

    /// What differs from the operator's defaults besides direction and size, as `clip = 3`: for people.
    pub fn unusual(&self, cell: Cell) -> Vec<String> {
        let mut told = Vec::new();
        if !self.has_default_activations(cell) {
            let names: Vec<&str> = self.activations.iter().map(|a| a.name()).collect();
            told.push(format!("activations = {}", names.join(" ")));
        }
        told.extend(self.clip.map(|clip| format!("clip = {clip}")));
        let flags = [
            ("input_forget", self.input_forget),
            ("linear_before_reset", self.linear_before_reset),
            ("layout", self.layout == 1),
        ];
        told.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name} = 1")));
        told
    }

    /// Whether the activations are those of the operator's definition.
    pub fn has_default_activations(&self, cell: Cell) -> bool {
        self.activations == default_activations(cell, self.direction)
    }
}

fn default_activations(cell: Cell, direction: Direction) -> Vec<NamedActivation> {
    let one = cell.default_activations().iter().map(|&function| NamedActivation { function, alpha: 0.0, beta: 0.0 });
    std::iter::repeat_n(one, direction.count()).flatten().collect()
}

/// Typed access to the attributes of a node.
struct Reader<'a>(&'a NodeProto);

impl<'a> Reader<'a> {
    fn refuse_unknown(&self, cell: Cell, opset: i64) -> Result<()> {
        let mut seen: Vec<&str> = Vec::new();
        for attribute in &self.0.attribute {
            let name = attribute.name.as_deref().unwrap_or("");
            if !cell.has_attribute(name, opset) {
                let message = format!("{} has no attribute '{}' in opset {opset}", cell.operator(), Cut(name));
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            if seen.contains(&name) {
                return malformed(format!("attribute '{name}' is given twice"));
            }
            seen.push(name);
        }
        Ok(())
    }

    /// The attribute, if present, provided that it says to be of the wanted type (files older than IR 2 do not say).
    fn get(&self, name: &str, wanted: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(attribute) = self.0.attribute.iter().find(|a| a.name.as_deref() == Some(name)) else {
            return Ok(None);
        };
        match attribute.r#type {
            None | Some(0) => Ok(Some(attribute)),
            Some(found) if found == wanted as i32 => Ok(Some(attribute)),
            Some(found) => {
                let found = AttributeType::try_from(found).map_or("unknown", |t| t.as_str_name());
                malformed(format!("attribute '{name}' is of type {found}, expected {}", wanted.as_str_name()))
            }
        }
    }

    fn hidden(&self) -> Result<usize> {
        let found = self.get("hidden_size", AttributeType::Int)?.and_then(|a| a.i);
        match found {
            None => malformed("attribute 'hidden_size' is missing".to_owned()),
            // a dimension of R, and G * H must not overflow: the tensor check does the rest
            Some(size) if (1..=i64::from(u32::MAX)).contains(&size) => {
                usize::try_from(size).map_err(|_| Error::new(ErrorKind::Limit, format!("hidden_size {size}")))
            }
            Some(size) => malformed(format!("attribute 'hidden_size' is {size}, expected a positive size")),
        }
    }

    fn direction(&self) -> Result<Direction> {
        let Some(attribute) = self.get("direction", AttributeType::String)? else {
            return Ok(Direction::default());
        };
        match attribute.s.as_deref().unwrap_or_default() {
            b"forward" => Ok(Direction::Forward),
            b"reverse" => Ok(Direction::Reverse),
            b"bidirectional" => Ok(Direction::Bidirectional),
            other => malformed(format!(
                "direction '{}' is none of forward, reverse, bidirectional",
                Cut(&String::from_utf8_lossy(other))
            )),
        }
    }

    fn activations(&self, cell: Cell, direction: Direction) -> Result<Vec<NamedActivation>> {
        let names = self.get("activations", AttributeType::Strings)?.map_or(&[][..], |a| &a.strings[..]);
        let mut alphas = self.floats("activation_alpha")?.iter().copied();
        let mut betas = self.floats("activation_beta")?.iter().copied();
        if names.is_empty() {
            return Ok(default_activations(cell, direction));
        }
        let expected = cell.default_activations().len() * direction.count();
        // The default in RNN's definition is a name for each of two directions; files that spell it out have both for one.
        let names = if cell == Cell::Rnn && names.len() == 2 { &names[..expected] } else { names };
        if names.len() != expected {
            return malformed(format!(
                "{} activations, expected {expected} for {} {}",
                names.len(),
                direction.name(),
                cell.operator()
            ));
        }
        names.iter().map(|name| activation(name, &mut alphas, &mut betas)).collect()
    }

    fn floats(&self, name: &str) -> Result<&'a [f32]> {
        Ok(self.get(name, AttributeType::Floats)?.map_or(&[], |a| &a.floats))
    }

    fn clip(&self) -> Result<Option<f32>> {
        match self.get("clip", AttributeType::Float)?.and_then(|a| a.f) {
            Some(clip) if clip > 0.0 => Ok(Some(clip)),
            Some(clip) => malformed(format!("attribute 'clip' is {clip}, expected a positive threshold")),
            None => Ok(None),
        }
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name, AttributeType::Int)?.and_then(|a| a.i) {
            None | Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => malformed(format!("attribute '{name}' is {other}, expected 0 or 1")),
        }
    }
}

/// One activation; a parameter is taken from its list only by a function that has it, in order. Names are matched
/// without regard to case, as runtimes do.
fn activation(
    name: &[u8],
    alphas: &mut impl Iterator<Item = f32>,
    betas: &mut impl Iterator<Item = f32>,
) -> Result<NamedActivation> {
    let Some((name, function, alpha, beta)) = FUNCTIONS.iter().find(|f| f.0.as_bytes().eq_ignore_ascii_case(name))
    else {
        return malformed(format!("activation '{}' is not known", Cut(&String::from_utf8_lossy(name))));
    };
    let missing = |which| {
        let message = format!("activation '{name}' has no activation_{which}, and no default is specified for it");
        Error::new(ErrorKind::Unsupported, message)
    };
    let parameter = |kind, given: &mut dyn Iterator<Item = f32>, which| match kind {
        Parameter::Unused => Ok(0.0),
        Parameter::Default(default) => Ok(given.next().unwrap_or(default)),
        Parameter::Required => given.next().ok_or_else(|| missing(which)),
    };
    Ok(NamedActivation {
        function: *function,
        alpha: parameter(*alpha, alphas, "alpha")?,
        beta: parameter(*beta, betas, "beta")?,
    })
}

fn malformed<T>(message: String) -> Result<T> {
    Err(Error::new(ErrorKind::Malformed, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn int(name: &str, value: i64) -> AttributeProto {
        AttributeProto { name: Some(name.into()), i: Some(value), r#type: Some(2), ..Default::default() }
    }

    fn text(name: &str, value: &'static str) -> AttributeProto {
        let s = Some(Bytes::from_static(value.as_bytes()));
        AttributeProto { name: Some(name.into()), s, r#type: Some(3), ..Default::default() }
    }

    fn float(name: &str, value: f32) -> AttributeProto {
        AttributeProto { name: Some(name.into()), f: Some(value), r#type: Some(1), ..Default::default() }
    }

    fn floats(name: &str, values: &[f32]) -> AttributeProto {
        AttributeProto { name: Some(name.into()), floats: values.to_vec(), r#type: Some(6), ..Default::default() }
    }

    fn strings(name: &str, values: &[&'static str]) -> AttributeProto {
        let strings = values.iter().map(|v| Bytes::from_static(v.as_bytes())).collect();
        AttributeProto { name: Some(name.into()), strings, r#type: Some(8), ..Default::default() }
    }

    fn read(cell: Cell, opset: i64, attribute: Vec<AttributeProto>) -> Result<Attributes> {
        Attributes::read(&NodeProto { attribute, ..Default::default() }, cell, opset)
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let lstm = read(Cell::Lstm, 7, vec![int("hidden_size", 3)]).unwrap();
        assert_eq!(lstm.activations, [NamedActivation::SIGMOID, NamedActivation::TANH, NamedActivation::TANH]);
        assert_eq!((lstm.hidden, lstm.direction, lstm.clip, lstm.layout), (3, Direction::Forward, None, 0));
        let both = vec![int("hidden_size", 3), text("direction", "bidirectional")];
        let gru = read(Cell::Gru, 22, both).unwrap();
        assert_eq!(
            gru.activations,
            [NamedActivation::SIGMOID, NamedActivation::TANH, NamedActivation::SIGMOID, NamedActivation::TANH],
            "two for each direction"
        );
        assert!(gru.has_default_activations(Cell::Gru));
        assert_eq!(read(Cell::Rnn, 14, vec![int("hidden_size", 3)]).unwrap().activations, [NamedActivation::TANH]);
    }

    #[test]
    fn parameters_go_only_to_functions_that_take_them() {
        let attributes = vec![
            int("hidden_size", 3),
            strings("activations", &["HardSigmoid", "tanh", "LeakyRelu"]),
            floats("activation_alpha", &[0.3, 0.4]),
            floats("activation_beta", &[0.1]),
        ];
        let lstm = read(Cell::Lstm, 14, attributes).unwrap();
        assert_eq!(
            lstm.activations,
            [
                NamedActivation { function: Function::HardSigmoid, alpha: 0.3, beta: 0.1 },
                NamedActivation::TANH,
                NamedActivation { function: Function::LeakyRelu, alpha: 0.4, beta: 0.0 },
            ]
        );
        assert_eq!(lstm.unusual(Cell::Lstm), ["activations = HardSigmoid Tanh LeakyRelu"]);
    }

    #[test]
    fn what_is_not_allowed_is_refused_by_name() {
        use Cell::{Gru, Lstm, Rnn};
        let h = || int("hidden_size", 3);
        let cases: Vec<(Cell, i64, Vec<AttributeProto>, &str)> = vec![
            (Lstm, 17, vec![], "hidden_size"),
            (Lstm, 17, vec![int("hidden_size", -8)], "-8"),
            (Lstm, 17, vec![int("hidden_size", 0)], "hidden_size"),
            (Lstm, 17, vec![int("hidden_size", i64::MAX)], "hidden_size"),
            (Lstm, 17, vec![float("hidden_size", 3.0)], "FLOAT"),
            (Lstm, 17, vec![h(), h()], "twice"),
            (Lstm, 17, vec![h(), text("direction", "backward")], "backward"),
            (Lstm, 17, vec![h(), float("clip", -1.0)], "clip"),
            (Lstm, 17, vec![h(), float("clip", f32::NAN)], "clip"),
            (Lstm, 17, vec![h(), int("input_forget", 2)], "input_forget"),
            (Gru, 17, vec![h(), int("input_forget", 1)], "input_forget"),
            (Lstm, 17, vec![h(), int("linear_before_reset", 1)], "linear_before_reset"),
            (Gru, 13, vec![h(), int("layout", 0)], "layout"),
            (Gru, 14, vec![h(), int("layout", 2)], "layout"),
            (Lstm, 17, vec![h(), int("output_sequence", 1)], "output_sequence"),
            (Lstm, 17, vec![h(), int("gates", 1)], "gates"),
            (Lstm, 17, vec![h(), strings("activations", &["Sigmoid", "Tanh"])], "2 activations"),
            (Gru, 17, vec![h(), strings("activations", &["Sigmoid", "Gelu"])], "Gelu"),
            (Gru, 17, vec![h(), strings("activations", &["Sigmoid", "Affine"])], "Affine"),
            (Rnn, 17, vec![h(), strings("activations", &["Tanh", "Tanh", "Tanh"])], "3 activations"),
            (Rnn, 17, vec![h(), strings("activations", &["ScaledTanh"])], "ScaledTanh"),
            (Rnn, 17, vec![h(), int("linear_before_reset", 1)], "linear_before_reset"),
            (Rnn, 13, vec![h(), int("layout", 0)], "layout"),
        ];
        for (cell, opset, attributes, wanted) in cases {
            let error = read(cell, opset, attributes).expect_err(wanted);
            assert!(error.to_string().contains(wanted), "'{error}' does not name {wanted}");
        }
    }

    #[test]
    fn older_and_newer_opsets_have_their_own_attributes() {
        let h = || int("hidden_size", 3);
        assert!(read(Cell::Lstm, 6, vec![h(), int("output_sequence", 1)]).is_ok());
        assert!(read(Cell::Gru, 9, vec![h(), int("linear_before_reset", 1)]).unwrap().linear_before_reset);
        assert_eq!(read(Cell::Gru, 22, vec![h(), int("layout", 1)]).unwrap().layout, 1);
    }

    #[test]
    fn functions_follow_their_formulas() {
        let cases = [
            (Function::Relu, 0.0, 0.0, [0.0, 2.0]),
            (Function::Affine, 2.0, 0.5, [-1.5, 4.5]),
            (Function::LeakyRelu, 0.1, 0.0, [-0.1, 2.0]),
            (Function::ThresholdedRelu, 3.0, 0.0, [0.0, 0.0]),
            (Function::ScaledTanh, 2.0, 0.5, [-0.924_234_3, 1.523_188_4]),
            (Function::HardSigmoid, 0.2, 0.5, [0.3, 0.9]),
            (Function::Elu, 1.0, 0.0, [-0.632_120_55, 2.0]),
            (Function::Softsign, 0.0, 0.0, [-0.5, 0.666_666_7]),
            (Function::Softplus, 0.0, 0.0, [0.313_261_7, 2.126_928]),
            (Function::Sigmoid, 0.0, 0.0, [0.268_941_43, 0.880_797_1]),
            (Function::Tanh, 0.0, 0.0, [-0.761_594_2, 0.964_027_6]),
        ];
        for (function, alpha, beta, expected) in cases {
            for (x, expected) in [-1.0, 2.0].into_iter().zip(expected) {
                let found = NamedActivation { function, alpha, beta }.apply(x);
                assert!((found - expected).abs() < 1e-6, "{function:?}({x}) = {found}, expected {expected}");
            }
        }
        assert_eq!(NamedActivation { function: Function::Softplus, alpha: 0.0, beta: 0.0 }.apply(1e4), 1e4);
    }
}
