//! Which operators may be handed to tract, which looks at their names alone.
//!
//! The names of the standard domain, and those of a few operators of other domains that occur beside recurrent layers and
//! that are computed as their own documentation says. Every other operator is refused, naming it, its node and its
//! domain: tract would run `my.Relu` as a Relu.

use super::error;
use crate::error::{Error, Result};
use crate::onnx::graph::{is_standard, plain_name};
use crate::onnx::{GraphProto, NodeProto};

/// Operators of onnxruntime's domain that are run: lowered, of our own, or tract's after comparing with onnxruntime.
const MICROSOFT: [&str; 11] = [
    "BiasGelu",
    "DynamicQuantizeLSTM",
    "FastGelu",
    "FusedMatMul",
    "Gelu",
    "QLinearAdd",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QuickGelu",
    "SkipLayerNormalization",
];

/// Operators of the domain of classical machine learning that are run.
const LEARNING: [&str; 5] =
    ["ArrayFeatureExtractor", "LabelEncoder", "LinearClassifier", "LinearRegressor", "Normalizer"];

/// Operators that tract knows by name, but that are not in the standard domain.
const NOT_STANDARD: [&str; 19] = [
    "ArrayFeatureExtractor",
    "BiasGelu",
    "CategoryMapper",
    "DynamicQuantizeLSTM",
    "FastGelu",
    "FusedMatMul",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "LabelEncoder",
    "LinearClassifier",
    "LinearRegressor",
    "MatMulNBits",
    "MultiHeadAttention",
    "Normalizer",
    "QuickGelu",
    "Rsqrt",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "TreeEnsembleClassifier",
];

/// Operators that onnxruntime's optimiser makes of standard ones, besides all of its domain `com.microsoft.nchwc`.
const OPTIMISED: [&str; 12] = [
    "Attention",
    "ConvTransposeWithDynamicPads",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "EmbedLayerNormalization",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "FusedMatMulActivation",
    "MatMulIntegerToFloat",
    "QuickGelu",
    "SkipLayerNormalization",
];

/// Whether an operator of another domain than the standard one is run.
fn is_foreign(domain: &str, operator: &str) -> bool {
    match domain {
        "com.microsoft" => MICROSOFT.contains(&operator),
        "ai.onnx.ml" => LEARNING.contains(&operator),
        _ => false,
    }
}

/// Whether there is an operator of this name that a runtime may take instead of a function.
pub(super) fn is_known(domain: &str, operator: &str) -> bool {
    is_standard(domain) || is_foreign(domain, operator)
}

/// An operator with its domain: `my.Relu`.
pub(super) fn named(domain: &str, operator: &str) -> String {
    if is_standard(domain) { operator.to_owned() } else { format!("{domain}.{operator}") }
}

/// Whether a node may be handed to tract, whatever is inside it.
pub(super) fn runs(node: &NodeProto) -> bool {
    match is_standard(node.domain()) {
        true => !NOT_STANDARD.contains(&node.op_type()) && !node.op_type().starts_with("dirnet."),
        false => is_foreign(node.domain(), node.op_type()),
    }
}

/// Refuses a graph that holds, perhaps in a body, a node that may not be handed to tract.
///
/// # Errors
/// [`Engine`](crate::error::ErrorKind::Engine), naming operator, domain and node.
pub(super) fn check(graph: &GraphProto) -> Result<()> {
    for (index, node) in graph.node.iter().enumerate() {
        if !runs(node) {
            return Err(refused(node).at_node(plain_name(node, index)));
        }
        if let Some(attribute) = ignored(node) {
            let message = format!("cannot be run: operator {} with {attribute}", node.op_type());
            return Err(error(message).at_node(plain_name(node, index)));
        }
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).try_for_each(check)?;
        }
    }
    Ok(())
}

/// An attribute of a node that tract ignores or takes for something else.
fn ignored(node: &NodeProto) -> Option<&'static str> {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name);
    match node.op_type() {
        "ConvTranspose" => attribute("output_shape").map(|_| "output_shape"),
        // It takes powers of numbers, not of their magnitudes, and is far off for even ones too.
        "GlobalLpPool" => Some("any p"),
        "SpaceToDepth" => attribute("mode").filter(|a| a.s() != b"DCR").map(|_| "a mode"),
        _ => None,
    }
}

fn refused(node: &NodeProto) -> Error {
    let (domain, operator) = (node.domain(), node.op_type());
    let name = named(domain, operator);
    if domain == "com.microsoft.nchwc" || (domain == "com.microsoft" && OPTIMISED.contains(&operator)) {
        return error(format!(
            "cannot be run: operator {name}: this file was optimised by onnxruntime: take the file from before that"
        ));
    }
    if is_standard(domain) {
        return error(format!("cannot be run: operator {name} is not in ONNX's standard domain"));
    }
    error(format!("cannot be run: operator {name} of the domain '{domain}' is not one that this tool knows"))
}
