//! The one integration test binary: every module tests one surface of the tool.

mod architecture;
mod broken;
mod cli;
mod compress;
mod corpus;
mod docs;
mod engine;
mod false_pass;
mod forms;
mod hostile;
#[cfg(unix)]
mod interrupted;
mod loss;
mod numerics;
mod onnx;
mod projection;
mod quick;
mod recurrent;
mod samples;
#[cfg(unix)]
mod side_files;
mod tune;
mod verify;
