//! The units of a plan: what each was, how it is stored, and what it takes of the file.

use std::collections::BTreeSet;

use super::{Outcome, Unit};
use crate::coding::Weights;
use crate::compress::Job;
use crate::dictionary::ScaleFormat;
use crate::plan::Choice;
use crate::recurrent::Survey;

/// All units, whose bytes after add up to `after`: codes and scales of their own, codebooks in equal parts among those
/// that share one, and so what is left, the nodes of the graph.
pub(super) fn of_plan(job: &Job<'_>, outcome: &Outcome<'_>, after: u64) -> Vec<Unit> {
    let weights = &job.weights;
    let before = bytes_before(weights);
    let sharers = weights.sharers(&outcome.plan.choices);
    let scale = match job.sizing().scales {
        ScaleFormat::Float => 4,
        ScaleFormat::Byte => 1,
    };
    let own: Vec<u64> = (0..weights.units.len())
        .map(|u| match outcome.plan.choices[u] {
            Choice::Dense => before[u],
            Choice::Block { spec, .. } => {
                let [rows, columns] = weights.units[u].unit.shape();
                (rows * (spec.row_bytes(columns) + scale) + spec.codebook_bytes() / sharers[u].max(1)) as u64
            }
        })
        .collect();
    let is_coded = |u: usize| outcome.plan.choices[u] != Choice::Dense;
    let mut rest = after.saturating_sub(own.iter().sum());
    let mut takers = (0..own.len()).filter(|&u| is_coded(u)).count() as u64;
    let unit = |u: usize| {
        let found = &weights.units[u].unit;
        let mut bytes = own[u];
        if is_coded(u) {
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
            codec: codec(outcome.plan.choices[u]),
            bits_per_weight: bytes as f64 * 8.0 / (rows * columns).max(1) as f64,
            bytes_before: before[u],
            bytes_after: bytes,
            sensitivity: outcome.sensitivity.map(|measured| measured[u]),
            distortion: outcome.distortion.map(|measured| measured[u]),
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
