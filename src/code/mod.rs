//! From a plan to coded sites: the codebooks, dictionaries and codes of a plan are learned.

mod blank;

use std::collections::BTreeMap;
use std::sync::Arc;

use half::f16;
use ndarray::{Array2, Array3, ArrayD, IxDyn};
use rayon::prelude::*;

pub use blank::blank;

use crate::dictionary::{self, Bands, BlockCode, Item, Metric, Part, Projected, WeightMatrix};
use crate::engine::{Constant, ConstantId, Engine, Overrides, Probes};
use crate::error::Result;
use crate::linear::LinearNode;
use crate::onnx::{ElementType, Model, tensor};
use crate::plan::{DictionaryUse, Member, Plan, Storage};
use crate::progress::{self, Progress};
use crate::recurrent::{Constants, WeightUse};
use crate::samples::Tensor;
use crate::sites::{PerSite, SiteId, Sites, TensorId, Weights};

/// The codes of a site.
#[derive(Clone, Debug)]
pub enum CodedSite {
    /// Of a block dictionary.
    Block(BlockCode),
    /// Of projection dictionaries.
    Projection(Projected),
}

impl CodedSite {
    /// The rows `[rows, columns]` that the codes decode to.
    #[must_use]
    pub fn decode(&self) -> Array2<f32> {
        match self {
            CodedSite::Block(coded) => coded.decode(),
            CodedSite::Projection(projected) => projected.decode(),
        }
    }

    /// The codes, if they are of a block dictionary.
    #[must_use]
    pub fn block(&self) -> Option<&BlockCode> {
        match self {
            CodedSite::Block(coded) => Some(coded),
            _ => None,
        }
    }

    /// As [`block`](Self::block), to be changed.
    pub fn block_mut(&mut self) -> Option<&mut BlockCode> {
        match self {
            CodedSite::Block(coded) => Some(coded),
            _ => None,
        }
    }

    /// How it is stored, for the choice of forms.
    #[must_use]
    pub fn storage(&self) -> Storage {
        match self {
            CodedSite::Block(_) => Storage::Block,
            CodedSite::Projection(projected) => {
                let [part] = &projected.parts[..] else { return Storage::Projections };
                let dictionary = part.atoms.bands.iter().map(|band| (band.rows, band.codebook.spec.width)).collect();
                Storage::Projection { dictionary, used: part.codes.len() }
            }
        }
    }

    /// Whether it has a codebook or a dictionary in common with another.
    #[must_use]
    pub fn shares_with(&self, other: &CodedSite) -> bool {
        match (self, other) {
            (CodedSite::Block(a), CodedSite::Block(b)) => Arc::ptr_eq(&a.codebook, &b.codebook),
            (CodedSite::Projection(a), CodedSite::Projection(b)) => {
                a.parts.iter().any(|a| b.parts.iter().any(|b| Arc::ptr_eq(&a.atoms, &b.atoms)))
            }
            _ => false,
        }
    }
}

/// The sites of a model as stored; `None` for a dense one.
pub type CodedSites = PerSite<Option<CodedSite>>;

/// How sites are learned: what an error in them costs, and how much effort is made.
pub struct Learning<'a> {
    /// The metric of each site.
    pub metrics: &'a PerSite<Arc<Metric>>,
    /// Effort and seed.
    pub options: dictionary::LearnOptions,
    /// The largest level of the atoms of each site.
    pub peaks: PerSite<i8>,
}

/// Learns the codebooks and codes of a plan; a step of `progress` is a site. Returns the coded sites.
///
/// # Errors
/// As [`dictionary::learn`], naming the site.
pub fn learn(weights: &Weights, plan: &Plan, how: &Learning<'_>, progress: &dyn Progress) -> Result<CodedSites> {
    let groups = plan.codebooks(weights);
    let learned: Vec<_> = groups
        .par_iter()
        .map(|(spec, members)| {
            let matrix = |&id: &SiteId| WeightMatrix {
                weights: weights.rows(id),
                metric: &how.metrics[id],
                importance: plan.sensitivity[id],
                grid: weights.grid(id),
            };
            let matrices: Vec<_> = members.iter().map(matrix).collect();
            let options = options(how, members);
            let learned = dictionary::learn(&matrices, *spec, &options)
                .map_err(|e| e.at_node(weights.place(weights.get(members[0])).to_string()));
            progress::advance(progress, members.len() as u64)?;
            learned
        })
        .collect::<Result<_>>()?;
    let mut coded: CodedSites = weights.sites().map(|_| None);
    for ((_, members), learned) in groups.iter().zip(learned) {
        assert_eq!(learned.len(), members.len(), "each member of a codebook is coded");
        for (&id, one) in members.iter().zip(learned) {
            coded[id] = Some(CodedSite::Block(one));
        }
    }
    project(weights, plan, how, &mut coded, progress)?;
    Ok(coded)
}

/// `tr((W-Q) S (W-Q)^T)` of a coded site.
#[must_use]
pub fn distortion_of(weights: &Weights, metrics: &PerSite<Arc<Metric>>, id: SiteId, coded: &CodedSite) -> f64 {
    let error = &weights.rows(id) - &coded.decode();
    metrics[id].distortion(error.view())
}

fn options(how: &Learning<'_>, members: &[SiteId]) -> dictionary::LearnOptions {
    let peak = members.iter().map(|&id| how.peaks[id]).min().unwrap_or(i8::MAX);
    dictionary::LearnOptions { peak, ..how.options.clone() }
}

/// Learns the projection dictionaries of a plan, one after the other: the codes of a section of a site are chosen to
/// compensate the error of the sections coded before.
fn project(
    weights: &Weights,
    plan: &Plan,
    how: &Learning<'_>,
    coded: &mut CodedSites,
    progress: &dyn Progress,
) -> Result<()> {
    let dictionaries = plan.dictionaries(weights);
    let mut left: BTreeMap<SiteId, Array2<f32>> = BTreeMap::new();
    let mut parts: BTreeMap<SiteId, Vec<Part>> = BTreeMap::new();
    for member in dictionaries.iter().flat_map(|shared| &shared.members) {
        left.entry(member.site).or_insert_with(|| weights.rows(member.site).to_owned());
    }
    for DictionaryUse { columns, members } in &dictionaries {
        let bands: Vec<Bands> = members.iter().map(|member| member.bands).collect();
        let items: Vec<Item<'_>> = left
            .iter_mut()
            .filter_map(|(&id, left)| {
                let Member { section, .. } = members.iter().find(|member| member.site == id)?;
                let sections = weights.sections(id);
                let start = sections[*section].start;
                let coded = |at: usize| parts.get(&id).is_some_and(|parts| parts.iter().any(|p| p.start == at));
                let later = sections.iter().filter(|other| other.start != start && !coded(other.start));
                let to_come = later.map(|other| other.start..other.start + other.columns).collect();
                let importance = plan.sensitivity[id];
                Some(Item { left: left.view_mut(), metric: &how.metrics[id], start, to_come, importance })
            })
            .collect();
        let ids: Vec<SiteId> = members.iter().map(|member| member.site).collect();
        let learned = dictionary::learn_projection(items, &bands, *columns, &options(how, &ids))
            .map_err(|e| e.at_node(weights.place(weights.get(ids[0])).to_string()))?;
        assert_eq!(ids.len(), learned.len(), "each member of a dictionary is coded");
        for (id, part) in ids.into_iter().zip(learned) {
            let parts = parts.entry(id).or_default();
            parts.push(part);
            progress::advance(progress, u64::from(parts.len() == weights.sections(id).len()))?;
        }
    }
    for (id, mut parts) in parts {
        parts.sort_by_key(|part| part.start);
        let [rows, columns] = weights.get(id).block.shape();
        coded[id] = Some(CodedSite::Projection(Projected { rows, columns, parts }));
    }
    Ok(())
}

/// What `engine` has to use in place of the model's own constants so that it runs with `coded` sites.
pub fn overrides<'c>(
    weights: &Weights,
    engine: &Engine,
    coded: impl IntoIterator<Item = (SiteId, &'c CodedSite)>,
) -> Overrides {
    let mut tensors: BTreeMap<TensorId, Array3<f32>> = BTreeMap::new();
    for (id, coded) in coded {
        let site = weights.get(id);
        let tensor = tensors.entry(site.tensor).or_insert_with(|| Array3::clone(weights.values(site.tensor)));
        site.block.of_mut(tensor).assign(&coded.decode());
    }
    let mut overrides = Overrides::default();
    for (tensor, values) in tensors.into_iter().map(|(tensor, values)| (tensor, Arc::new(values))) {
        for WeightUse { node, matrix } in weights.weight(tensor).into_iter().flat_map(|weight| &weight.uses) {
            let node = &weights.survey.nodes[*node];
            if let Some(number) = engine.number(&node.scope, node.index) {
                overrides.weights.insert((number, *matrix), values.clone());
            }
        }
        for &node in weights.linear_uses(tensor) {
            let value = Constant::from(&as_read(&weights.linear[node], &values));
            overrides.constants.insert(ConstantId(node), value);
        }
    }
    overrides
}

/// A matrix as the tensor that a linear node reads.
fn as_read(node: &LinearNode, matrix: &Array3<f32>) -> Tensor {
    let dims = IxDyn(&node.source.dims);
    let values = ArrayD::from_shape_vec(dims, node.tensor(matrix)).expect("a matrix has the elements of its tensor");
    match node.source.element {
        ElementType::Float16 => Tensor::from(values.mapv(f16::from_f32)),
        ElementType::Int8 => Tensor::from(values.mapv(|value| value as i8)),
        ElementType::Uint8 => Tensor::from(values.mapv(|value| value as u8)),
        _ => Tensor::from(values),
    }
}

/// What an engine has to show and to let be replaced, so that it can be calibrated for sites and run with coded ones: taps
/// are numbered as [`Sites::shown`], constants as the linear nodes. Recurrent nodes need none.
///
/// # Errors
/// Those of reading the weights.
pub fn probes(model: &Model, sites: &Sites) -> Result<Probes> {
    let mut constants = Constants::new(model)?;
    let mut probes = Probes::default();
    for node in &sites.linear {
        let values = constants.values(&node.source)?;
        let values = values.as_slice().expect("weights are in row-major order");
        let tensor = tensor::rounded("", node.source.element, &node.source.dims, values);
        probes.weights.push((node.weight.clone(), tensor));
    }
    probes.inputs = sites.shown().into_iter().map(|(input, _)| input.clone()).collect();
    Ok(probes)
}

/// The sites that are coded.
pub fn stored(coded: &CodedSites) -> impl Iterator<Item = (SiteId, &CodedSite)> {
    coded.iter().filter_map(|(id, coded)| Some((id, coded.as_ref()?)))
}
