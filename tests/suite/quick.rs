//! Codes that are learned in a moment, for tests of what is made of them.

use std::sync::Arc;

use dirnet::coding::{self, CodedUnits, Learning, Weights};
use dirnet::dictionary::{Metric, Options};
use dirnet::plan::Plan;
use dirnet::progress::Silent;
use ndarray::Array2;

/// The units of a plan, where all errors count alike and atoms have levels up to `peak`.
pub fn learn(weights: &Weights, plan: &Plan, peak: i8) -> CodedUnits {
    let eye = |columns: usize| Arc::new(Metric::new(Array2::<f32>::eye(columns).view(), 0.01).unwrap());
    let metrics: Vec<_> = weights.units.iter().map(|u| eye(u.unit.columns)).collect();
    let options = Options { rounds: 1, kmeans_iterations: 2, refit_steps: 1, sweeps: 0, ..Options::default() };
    let how = Learning { metrics: &metrics, options, peaks: vec![peak; metrics.len()] };
    coding::learn(weights, plan, &how, &Silent).unwrap().0
}
