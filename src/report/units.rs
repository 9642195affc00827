//! The units of a plan with their sizes and codecs, and the table rows that show them.

use std::collections::{BTreeMap, BTreeSet};

use super::{KindSizes, PlanOutcome, Unit, WeightSizes};
use crate::compress::Study;
use crate::onnx::operators;
use crate::plan::Choice;
use crate::sites::{PerSite, Site, SiteId, SitePlace, Sites, TensorId};

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
    /// Its weights.
    #[must_use]
    pub fn weights(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

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

/// All units, with their bytes in the `original`; their bytes after add up to `after`: codes and scales of their own,
/// codebooks in equal parts among those that share one, and the nodes of the graph in equal parts among those that are coded.
pub(super) fn of_plan(study: &Study<'_>, original: &Sites, outcome: &PlanOutcome<'_>, after: u64) -> Vec<Unit> {
    let sites = study.weights.sites();
    // What is coded may lack sites of the original, which are generated instead.
    let known = bytes_before(original);
    let before: BTreeMap<SitePlace, u64> =
        original.all.iter().map(|site| (original.place(site), known[site.id])).collect();
    let own = outcome.plan.payload(sites, &bytes_before(sites));
    let is_coded = |id: SiteId| outcome.plan.choices[id] != Choice::Dense;
    let mut rest = after.saturating_sub(own.values().sum());
    let mut takers = sites.ids().filter(|&id| is_coded(id)).count() as u64;
    let unit = |site: &Site| {
        let (id, place) = (site.id, sites.place(site));
        let mut bytes = own[id];
        if is_coded(id) {
            let part = rest / takers;
            (bytes, rest, takers) = (bytes + part, rest - part, takers - 1);
        }
        let bytes_before = before.get(&place).copied().unwrap_or(0);
        Unit {
            node: place.node,
            op: sites.first_reader(site.tensor).operator.to_owned(),
            tensor: place.tensor,
            direction: place.direction,
            gate: place.gate,
            shape: site.block.shape(),
            codec: outcome.plan.choices[id].label(),
            bits_per_weight: bytes as f64 * 8.0 / site.block.weights().max(1) as f64,
            bytes_before,
            bytes_after: bytes,
            sensitivity: outcome.sensitivity.map(|measured| measured[id]),
            distortion: outcome.distortion.map(|measured| measured[id]),
            energy: Some(study.energy(id)),
        }
    };
    sites.all.iter().map(unit).collect()
}

/// Bytes of all weights, and of each kind of nodes, before and after.
pub(super) fn totals(original: &Sites, parameters: u64, units: &[Unit], after: u64) -> WeightSizes {
    let known = bytes_before(original);
    let mut kinds: Vec<KindSizes> = Vec::new();
    let mut add = |kind: &'static str, before: u64, after: u64| {
        let place = kinds.iter().position(|known| known.kind == kind).unwrap_or_else(|| {
            kinds.push(KindSizes { kind, bytes_before: 0, bytes_after: 0 });
            kinds.len() - 1
        });
        kinds[place].bytes_before += before;
        kinds[place].bytes_after += after;
    };
    original.all.iter().for_each(|site| add(kind(original.first_reader(site.tensor).operator), known[site.id], 0));
    units.iter().for_each(|unit| add(kind(&unit.op), 0, unit.bytes_after));
    let bytes_before = original.stored_bytes();
    WeightSizes { bytes_before, bytes_after: after, ratio: super::ratio(bytes_before, after), parameters, kinds }
}

/// What nodes of an operator are called together.
pub(super) fn kind(op: &str) -> &'static str {
    if operators::is_recurrent(op) {
        return RECURRENT;
    }
    match operators::linear(op) {
        Some((_, "Conv" | "ConvTranspose")) => "convolution",
        Some((_, "Gather")) => "embedding",
        _ => "linear",
    }
}

/// The kind of recurrent nodes.
pub(super) const RECURRENT: &str = "recurrent";

/// Stored bytes of every site: those of its tensor, which count as often as it is stored, in equal parts.
fn bytes_before(sites: &Sites) -> PerSite<u64> {
    let tensors: Vec<u64> = sites.tensors().map(|tensor| tensor_bytes(sites, tensor)).collect();
    sites.map(|site| tensors[site.tensor.0] / sites.of_tensor(site.tensor).count() as u64)
}

fn tensor_bytes(sites: &Sites, tensor: TensorId) -> u64 {
    let mut stored = BTreeSet::new();
    let sources = sites.readers(tensor).map(|reader| reader.source);
    sources.filter(|source| stored.insert(&source.constants)).map(|source| source.stored_bytes()).sum()
}
