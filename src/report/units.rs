//! The units of a plan with their sizes and codecs, and the table rows that show them.

use std::collections::BTreeSet;

use super::{Outcome, Unit};
use crate::coding::Weights;
use crate::compress::Job;
use crate::dictionary::{Bands, ScaleFormat};
use crate::plan::Choice;
use crate::recurrent::Survey;

/// Neighbouring units of a matrix that are stored alike: one line of a table.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub tensor: String,
    pub direction: String,
    /// The gates, as `i o f`.
    pub gates: String,
    /// Rows and columns of each gate.
    pub shape: [usize; 2],
    pub codec: String,
    /// Weights of all gates.
    pub weights: usize,
    pub before: u64,
    pub after: u64,
    /// Share of the predicted loss of the model, 0 to 1.
    pub share: Option<f64>,
}

impl Row {
    /// The rows of some units of one node. `loss` is the predicted loss of the model, the sum over all units.
    pub fn of(units: &[Unit], loss: f64) -> Vec<Row> {
        let row = |group: &[Unit]| {
            let unit = &group[0];
            let lost: Vec<f64> = group.iter().filter_map(Unit::loss).collect();
            Row {
                tensor: unit.tensor.clone(),
                direction: unit.direction.clone(),
                gates: group.iter().map(|unit| unit.gate.as_str()).collect::<Vec<_>>().join(" "),
                shape: unit.shape,
                codec: unit.codec.clone(),
                weights: group.len() * unit.shape[0] * unit.shape[1],
                before: group.iter().map(|unit| unit.bytes_before).sum(),
                after: group.iter().map(|unit| unit.bytes_after).sum(),
                share: (loss > 0.0 && !lost.is_empty()).then(|| lost.iter().sum::<f64>() / loss),
            }
        };
        units.chunk_by(stored_alike).map(row).collect()
    }

    /// `R`, or `R reverse`.
    pub fn matrix(&self) -> String {
        let direction = if self.direction == "reverse" { " reverse" } else { "" };
        format!("{}{direction}", self.tensor)
    }

    /// Stored bits of a weight.
    pub fn bits(&self) -> f64 {
        self.after as f64 * 8.0 / self.weights.max(1) as f64
    }
}

fn stored_alike(a: &Unit, b: &Unit) -> bool {
    a.tensor == b.tensor
        && a.direction == b.direction
        && a.shape == b.shape
        && a.codec == b.codec
        && a.bytes_after.abs_diff(b.bytes_after) <= 8
}

impl Unit {
    /// Its predicted loss at the output, `s D`.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        Some(self.sensitivity? * self.distortion?)
    }

    /// The predicted loss at the output if all its weights were zero, `s tr(W S W^T)`.
    #[must_use]
    pub fn importance(&self) -> Option<f64> {
        Some(self.sensitivity? * self.energy?)
    }
}

/// All units; their bytes add up to `after`. A unit has the bytes of its codes and scales, an equal part of each codebook
/// that it shares, and an equal part of the rest, the nodes of the graph.
pub(super) fn of_plan(job: &Job<'_>, outcome: &Outcome<'_>, after: u64) -> Vec<Unit> {
    let weights = &job.weights;
    let before = bytes_before(weights);
    let sharers = weights.sharers(&outcome.plan.choices);
    let dictionaries = weights.dictionary_bytes(&outcome.plan.choices);
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
            Choice::Projection { parts } => {
                let [rows, _] = weights.units[u].unit.shape();
                (rows * parts.iter().map(Bands::row_bytes).sum::<usize>()) as u64 + dictionaries[u]
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
            energy: Some(job.energy(u)),
        }
    };
    (0..weights.units.len()).map(unit).collect()
}

/// `block-4/matrix`: codec, width and sharing; or `projection-96`: codec and number of atoms that the unit uses.
fn codec(choice: Choice) -> String {
    match choice {
        Choice::Block { spec, sharing } => format!("{}-{}/{}", choice.codec(), spec.width, sharing.name()),
        Choice::Projection { parts } => {
            let used = parts.iter().flat_map(Bands::used).map(|band| usize::from(band.atoms)).sum::<usize>();
            format!("{}-{used}", choice.codec())
        }
        Choice::Dense => choice.codec().to_owned(),
    }
}

/// Stored bytes of each unit: an equal part of the bytes of its tensor, counted as often as the tensor is stored.
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
