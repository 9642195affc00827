//! The one integration test binary: every module tests one surface of the tool.

mod architecture;
mod cli;
mod compress;
mod corpus;
mod engine;
mod onnx;
mod recurrent;
#[cfg(unix)]
mod side_files;
