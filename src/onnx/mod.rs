//! The only code that knows protobuf: models, tensors, graphs and their rewriting.

#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod proto;
