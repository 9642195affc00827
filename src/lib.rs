//! dirnet makes ONNX models with LSTM and GRU layers 8 to 16 times smaller without retraining.
//!
//! The weights W and R of the recurrent nodes are replaced by codes, codebooks and standard operators that decode them when
//! a runtime loads the model; everything else in the file stays the same. The crate is the library behind the command line
//! tool of the same name. `docs/how-it-works.md` explains the method, `docs/glossary.md` the terms.
//!
//! # Usage
//! Load, plan, code, verify:
//! ```
//! use dirnet::coding::Weights;
//! use dirnet::compress::Job;
//! use dirnet::engine::Engine;
//! use dirnet::loss::LossSpec;
//! use dirnet::onnx::{LoadOptions, Model};
//! use dirnet::planner;
//! use dirnet::progress::Silent;
//! use dirnet::recurrent::FindOptions;
//! use dirnet::samples::{Samples, Signature};
//! use dirnet::verify::{Settings, verify};
//!
//! # fn main() -> dirnet::error::Result<()> {
//! let model = Model::load("fixtures/charlm/gru256.onnx".as_ref(), &LoadOptions::default())?;
//! let weights = Weights::read(&model, &FindOptions::default())?;
//! let all = Samples::read(&["fixtures/charlm/calibration.npz".into()], &Signature::of(&model)?, &[])?;
//! let (calibration, holdout) = all.hold_out(5).expect("there are several samples");
//!
//! // The second moments of the layers' inputs on calibration samples weight the errors of their weights.
//! let engine = Engine::new(&model)?;
//! let mut job = Job::new(&model, weights, Some((&engine, &calibration)), 0, &Silent)?;
//! // The same number of bits for all gates; `Job::curves` and `Job::sensitivity` measure how to allocate them.
//! let plan = planner::uniform(&job.sizing(), &job.equal(), job.sizing().target(8.0))?;
//! let coded = job.code(plan, &Silent)?;
//!
//! let loss = LossSpec::default();
//! let settings = Settings { samples: &holdout, calibrated_on: None, loss: &loss, checks: &[], seed: 0 };
//! let verdict = verify(&model, &coded.model, &settings, &Silent)?;
//! assert!(verdict.outputs[0].snr_db > Some(20.0));
//! assert!(coded.model.saved_bytes()? * 6 < model.bytes());
//! # Ok(())
//! # }
//! ```
//! `coded.model.save(path)` writes the file: to a temporary sibling first, which is then renamed.
//!
//! # Design
//! Modules import one another in one direction only, from bytes to reports: only [`onnx`] uses protobuf, only [`engine`]
//! uses the inference runtime, and [`dictionary`] is numerics on plain matrices. The library never prints and never
//! exits; long work reports to a [`progress::Progress`]. Errors name file, node and tensor ([`error::Error`]).
//! The same input, settings and version give the same bytes for any number of threads.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::exit))]

pub mod bench;
pub mod calibrate;
pub mod cell;
pub mod code;
pub mod compress;
pub mod dictionary;
pub mod encode;
pub mod engine;
pub mod error;
pub mod expand;
pub mod limits;
pub mod loss;
pub mod onnx;
pub mod plan;
pub mod progress;
pub mod recurrent;
pub mod report;
pub mod samples;
pub mod sites;
pub mod tune;
pub mod verify;
