//! The one integration test binary: every module tests one surface of the tool.

mod architecture;
mod attributes;
mod broken;
mod cli;
mod compress;
mod compressor;
mod corpus;
mod decode;
mod docs;
mod effort;
mod engine;
mod false_pass;
mod forms;
mod hostile;
#[cfg(unix)]
mod integers;
mod interrupted;
mod linear;
mod loss;
mod lossless;
mod made;
mod numerics;
mod onnx;
mod projection;
mod quick;
mod recurrent;
mod rnn;
mod samples;
mod several;
#[cfg(unix)]
mod side_files;
mod sizes;
mod tune;
mod verify;
