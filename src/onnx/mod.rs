//! The only code that knows protobuf: models, tensors, graphs and their rewriting.
//!
//! A [`Model`] is the decoded messages and where they came from. Everything that this module hands out was checked
//! once, at load: names are unique and defined within their graphs, nothing depends on itself, nesting is shallow, and
//! side files lie where they may. What a tensor holds is checked when it is read, because a model may carry tensors
//! of types that nobody here needs to understand.

pub mod atomic;
pub mod external_data;
pub mod foreign;
pub mod graph;
pub mod model;
pub mod operators;
#[rustfmt::skip] // checked in as it was generated
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto;
pub mod rewrite;
mod serialize;
pub mod tensor;
mod wire;

pub use graph::{Definition, Names, NodeInput, NodeNames, Origin, Scope, Step, Use, Values};
pub use model::{LoadOptions, Model};
pub use proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
pub use rewrite::{Dropped, Rewriter};
pub use serialize::{field_bytes, message_bytes};
pub use tensor::ElementType;
