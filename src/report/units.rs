//! The units of a job: what each was, how it is stored, and what it takes of the file.

use std::collections::BTreeSet;

use super::Unit;
use crate::coding::Weights;
use crate::compress::{Coded, Job};
use crate::dictionary;
use crate::plan::Choice;
use crate::recurrent::Survey;

/// All units, whose bytes after add up to `after`: codes and scales of their own, codebooks in equal parts among those
/// that share one, and so what is left, the nodes of the graph.
pub(super) fn of_job(job: &Job<'_>, coded: &Coded, sensitivity: Option<&[f64]>, after: u64) -> Vec<Unit> {
    let weights = &job.weights;
    let before = bytes_before(weights);
    let dense: Vec<bool> = coded.units.iter().map(Option::is_none).collect();
    let sharers = weights.sharers(&coded.plan);
    let own: Vec<u64> = (0..weights.units.len())
        .map(|u| match &coded.units[u] {
            Some(unit) => stored_bytes(unit) + (unit.codebook.spec.codebook_bytes() / sharers[u].max(1)) as u64,
            None => before[u],
        })
        .collect();
    let mut rest = after.saturating_sub(own.iter().sum());
    let mut takers = dense.iter().filter(|dense| !**dense).count() as u64;
    let unit = |u: usize| {
        let found = &weights.units[u].unit;
        let mut bytes = own[u];
        if !dense[u] {
            let part = rest / takers;
            (bytes, rest, takers) = (bytes + part, rest - part, takers - 1);
        }
        let [rows, columns] = found.shape();
        Unit {
            node: found.node.clone(),
            op: weights.node(u).cell.operator().to_owned(),
            tensor: found.matrix.to_string(),
            direction: found.direction.name().to_owned(),
            gate: found.gate.to_owned(),
            shape: found.shape(),
            codec: codec(coded.plan.choices[u]),
            bits_per_weight: bytes as f64 * 8.0 / (rows * columns).max(1) as f64,
            bytes_before: before[u],
            bytes_after: bytes,
            sensitivity: sensitivity.map(|measured| measured[u]),
            distortion: Some(coded.distortion[u]),
        }
    };
    (0..weights.units.len()).map(unit).collect()
}

/// `block-4/matrix`: the codec, the weights that an atom stands for, and whom its codebook serves.
fn codec(choice: Choice) -> String {
    match choice {
        Choice::Block { spec, sharing } => format!("{}-{}/{}", choice.codec(), spec.width, sharing.name()),
        Choice::Dense => choice.codec().to_owned(),
    }
}

/// Codes and scales.
fn stored_bytes(unit: &dictionary::Coded) -> u64 {
    let scales = if unit.scale_codes.is_some() { unit.rows } else { unit.rows * 4 };
    (unit.rows * unit.codebook.spec.row_bytes(unit.columns) + scales) as u64
}

/// Stored bytes of every unit: those of its tensor, which count as often as it is stored, in equal parts.
fn bytes_before(weights: &Weights) -> Vec<u64> {
    let tensors: Vec<u64> = (0..weights.survey.weights.len()).map(|w| tensor_bytes(&weights.survey, w)).collect();
    let units = |weight: usize| weights.units.iter().filter(|unit| unit.weight == weight).count() as u64;
    weights.units.iter().map(|unit| tensors[unit.weight] / units(unit.weight)).collect()
}

fn tensor_bytes(survey: &Survey, weight: usize) -> u64 {
    let mut stored = BTreeSet::new();
    let uses = survey.weights[weight].uses.iter().map(|used| survey.nodes[used.node].source(used.matrix));
    uses.filter(|source| stored.insert(&source.constants)).map(|source| source.stored_bytes()).sum()
}
