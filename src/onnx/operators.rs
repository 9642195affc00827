//! The operators of the standard domain that have weights: what reports name them for, and which of them are alike.

/// Operators whose states come back to them.
const RECURRENT: [&str; 3] = ["LSTM", "GRU", "RNN"];

/// Operators that multiply a constant matrix or look up rows of one, each with the one that it computes, with integers or
/// without.
const LINEAR: [(&str, &str); 9] = [
    ("Gemm", "Gemm"),
    ("MatMul", "MatMul"),
    ("Conv", "Conv"),
    ("ConvTranspose", "ConvTranspose"),
    ("Gather", "Gather"),
    ("QLinearMatMul", "MatMul"),
    ("MatMulInteger", "MatMul"),
    ("QLinearConv", "Conv"),
    ("ConvInteger", "Conv"),
];

/// Operators of which a weight is not coded, and the reason is told.
const OTHERS: [&str; 1] = ["Einsum"];

/// A linear operator and what it computes; `None` for any other.
#[must_use]
pub fn linear(operator: &str) -> Option<(&'static str, &'static str)> {
    LINEAR.into_iter().find(|(known, _)| *known == operator)
}

/// Whether an operator is recurrent.
#[must_use]
pub fn is_recurrent(operator: &str) -> bool {
    RECURRENT.contains(&operator)
}

/// Whether reports, patterns and plans may name a node of an operator.
#[must_use]
pub fn has_weights(operator: &str) -> bool {
    is_recurrent(operator) || linear(operator).is_some() || OTHERS.contains(&operator)
}
