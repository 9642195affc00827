//! The one integration test binary: every module tests one surface of the tool.
mod architecture;
mod cli;
mod corpus;
mod onnx;
mod recurrent;
