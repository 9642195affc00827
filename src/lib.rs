//! dirnet makes the weights of ONNX models several times smaller without retraining.
//!
//! The weights of LSTM, GRU, RNN, Conv, ConvTranspose, Gemm and MatMul nodes and the tables of Gather nodes (embeddings)
//! are replaced by codes, codebooks and standard operators, and so are the int8 and uint8 weights of models that were
//! quantised before. A runtime decodes the weights when it loads the model; of a
//! table it may decode only the rows that a run looks up. Everything else that computes stays as it is, in a smaller
//! file ([`lossless`]). The crate is the library behind the command line tool of the same name.
//!
//! # Usage
//! Load, compress, verify, save: what `dirnet compress` does by default, to the same bytes.
//! ```
//! use dirnet::{Compressor, Inputs, Model, Options, Samples, Target};
//!
//! # fn main() -> dirnet::error::Result<()> {
//! # let out = std::env::temp_dir().join(format!("dirnet-doctest-{}.onnx", std::process::id()));
//! let model = Model::open("fixtures/charlm/gru256.onnx")?;
//! let samples = Samples::open(&model, "fixtures/charlm/calibration.npz")?;
//! let mut compressor = Compressor::new(&model, Inputs::new(samples, None), Options::default())?;
//! let small = compressor.compress(&Target::Ratio(8.0))?;
//! let verdict = compressor.verify(&small.model, &[])?;
//! assert!(verdict.passed && verdict.outputs[0].snr_db > Some(30.0));
//! small.model.save(&out)?;
//! # assert!(small.model.saved_bytes()? * 6 < model.bytes());
//! # std::fs::remove_file(out).expect("it was written");
//! # Ok(())
//! # }
//! ```
//! [`report::Report`] says what was done, as a table, JSON, HTML or Markdown; [`Compressor::plan`] and
//! [`Compressor::sweep`] say what it would cost; [`expand()`] goes back to dense weights.
//!
//! # Design
//! Data flows one way: `Model -> sites -> samples, second moments -> curves -> Plan -> coded sites -> Model -> verification ->
//! report`, and modules import one another in that order only. [`onnx`] is the only one that knows protobuf, the engine the
//! only one that knows the runtime, the dictionary is numerics and knows no model. The library never prints and never exits;
//! long work tells a [`progress::Progress`] how far it is, which may cancel it. Errors name file, node and tensor
//! ([`error::Error`]). The same input, options and version give the same bytes for any number of threads.
//!
//! The engine turns panics of the runtime into errors, so the crate must be built with `panic = "unwind"` (the default).
//! The first run of a model wraps the process's panic hook, once, so that the messages of panics that are caught do not reach
//! stderr; all other panics go to the hook that was there. A program that sets a hook of its own does so before that.
//!
//! # Features
//! `cli` (default) builds the binary. A library build without it (`default-features = false`) has no dependencies for
//! arguments, progress bars and terminals.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::exit))]

pub mod compress;
pub mod error;
pub mod loss;
pub mod lossless;
pub mod onnx;
pub mod progress;
pub mod report;
pub mod samples;
pub mod verify;

// The stages in between. They are public for the tests, benches and fuzz targets of this repository, and may change.
#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod calibrate;
#[doc(hidden)]
pub mod cell;
#[doc(hidden)]
pub mod code;
#[doc(hidden)]
pub mod dictionary;
#[doc(hidden)]
pub mod encode;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod expand;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod linear;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod recurrent;
#[doc(hidden)]
pub mod sites;
#[doc(hidden)]
pub mod tune;

pub use compress::{Compressed, Compressor, Inputs, Options, Planned, Target};
pub use error::{Error, ErrorKind, Result};
pub use expand::expand;
pub use onnx::Model;
pub use plan::Plan;
pub use report::Report;
pub use samples::Samples;
pub use verify::{Check, Verdict};
