//! dirnet makes ONNX models with LSTM and GRU layers 8 to 16 times smaller without retraining.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::exit))]

pub mod budget;
pub mod calibrate;
pub mod cell;
pub mod coding;
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
pub mod plan_file;
pub mod planner;
pub mod progress;
pub mod recurrent;
pub mod report;
pub mod samples;
pub mod search;
pub mod sensitivity;
pub mod tune;
pub mod verify;
