//! From a model to a smaller one: its weights, what a plan makes of them, and the graph that rebuilds them.
//!
//! ```text
//! Model -> Weights -> (second moments) -> Plan -> Coded units -> Model
//! ```
//! The size of a plan is not estimated: the graph is built with empty codes and its bytes are counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array3, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use crate::dictionary::{self, BlockSpec, Codebook, Coded, Matrix as CodedMatrix, Metric, ScaleCodes, ScaleFormat};
use crate::encode::portable::{Home, Writer};
use crate::encode::{Block, Stored};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{Model, Rewriter, Scope};
use crate::plan::{Choice, Plan, Sharing};
use crate::progress::Progress;
use crate::recurrent::{self, FindOptions, RecurrentNode, Survey, Unit, WeightUse};

/// The metadata entry that tells how a model was made.
pub const NOTE: &str = "dirnet";

/// The weights of a model that can be compressed, decoded, and their units.
pub struct Weights {
    /// Where they are.
    pub survey: Survey,
    /// `[directions, G*H, n]`, in the order of [`Survey::weights`].
    pub tensors: Vec<Array3<f32>>,
    /// The units of all tensors: tensor by tensor, then by direction, then by gate.
    pub units: Vec<WeightUnit>,
}

/// A gate block of one tensor of weights.
#[derive(Clone, Debug)]
pub struct WeightUnit {
    /// Index in [`Weights::tensors`].
    pub weight: usize,
    /// Its place, by the first node that uses it.
    pub unit: Unit,
}

impl WeightUnit {
    /// Its rows in a tensor of the shape of its weight.
    pub fn rows_mut<'t>(&self, tensor: &'t mut Array3<f32>) -> ArrayViewMut2<'t, f32> {
        let mut rows = tensor.index_axis_mut(Axis(0), self.unit.direction_index);
        rows.slice_axis_inplace(Axis(0), Slice::from(self.unit.rows()));
        rows
    }
}

impl Weights {
    /// Finds and decodes the weights.
    ///
    /// # Errors
    /// As [`recurrent::find`]; `NothingToDo` if there is nothing to compress, with the reasons.
    pub fn read(model: &Model, options: &FindOptions) -> Result<Weights> {
        Weights::of(model, Weights::find(model, options)?)
    }

    /// Decodes the weights that [`find`](Self::find) found.
    ///
    /// # Errors
    /// Those of reading their tensors.
    pub fn of(model: &Model, survey: Survey) -> Result<Weights> {
        let tensors: Vec<_> =
            survey.weights.par_iter().map(|w| survey.source(w).values(model)).collect::<Result<_>>()?;
        let units = survey.weights.iter().enumerate().flat_map(|(weight, w)| {
            let WeightUse { node, matrix } = w.uses[0];
            survey.nodes[node].units_of(matrix).into_iter().map(move |unit| WeightUnit { weight, unit })
        });
        let units = units.collect();
        Ok(Weights { survey, tensors, units })
    }

    /// Finds the weights without decoding them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn find(model: &Model, options: &FindOptions) -> Result<Survey> {
        let survey = recurrent::find(model, options)?;
        if survey.nodes.is_empty() {
            let reason = match survey.skipped.first() {
                None => "the model has no LSTM or GRU node".to_owned(),
                Some(first) => {
                    format!("no recurrent node can be compressed; '{}' ({}): {}", first.node, first.op, first.reason)
                }
            };
            return Err(Error::new(ErrorKind::NothingToDo, format!("nothing to compress: {reason}")));
        }
        Ok(survey)
    }

    /// The rows of a unit, `[H, n]`.
    pub fn rows(&self, unit: usize) -> ArrayView2<'_, f32> {
        let WeightUnit { weight, unit } = &self.units[unit];
        let mut rows = self.tensors[*weight].index_axis(Axis(0), unit.direction_index);
        rows.slice_axis_inplace(Axis(0), Slice::from(unit.rows()));
        rows
    }

    /// The energy `tr(W S W^T)` of a unit: the distortion of storing nothing.
    pub fn energy(&self, unit: usize, metric: &Metric) -> f64 {
        metric.distortion(self.rows(unit))
    }

    /// The node that a unit is named after.
    pub fn node(&self, unit: usize) -> &RecurrentNode {
        &self.survey.nodes[self.survey.weights[self.units[unit].weight].uses[0].node]
    }

    /// Bytes of one weight of a unit as a dense value.
    pub fn element_bytes(&self, unit: usize) -> u64 {
        let source = self.survey.source(&self.survey.weights[self.units[unit].weight]);
        u64::from(source.element.bits().unwrap_or(32)) / 8
    }

    /// Weights in all units.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.len() as u64).sum()
    }

    /// Whom a unit shares its codebook with.
    fn group(&self, unit: usize, spec: BlockSpec, sharing: Sharing) -> Group {
        let WeightUnit { weight, .. } = self.units[unit];
        let reach = match sharing {
            Sharing::Unit => unit,
            Sharing::Matrix => weight,
            Sharing::Node => self.survey.weights[weight].uses[0].node,
            Sharing::Model => 0,
        };
        (sharing, reach, spec)
    }

    /// For each unit the number of units that share its codebook under a plan; 0 for a dense one.
    pub fn sharers(&self, choices: &[Choice]) -> Vec<usize> {
        let mut sharers = vec![0; self.units.len()];
        for (_, units) in self.groups(choices) {
            units.iter().for_each(|&u| sharers[u] = units.len());
        }
        sharers
    }

    /// The units that share a codebook under a plan.
    fn groups(&self, choices: &[Choice]) -> Vec<(BlockSpec, Vec<usize>)> {
        let mut groups: BTreeMap<Group, Vec<usize>> = BTreeMap::new();
        for (unit, &choice) in choices.iter().enumerate() {
            if let Choice::Block { spec, sharing } = choice {
                groups.entry(self.group(unit, spec, sharing)).or_default().push(unit);
            }
        }
        groups.into_iter().map(|((.., spec), units)| (spec, units)).collect()
    }
}

/// Kind of sharing, which of its kind, and shape of the codebook.
type Group = (Sharing, usize, BlockSpec);

/// A unit as stored; `None` if dense.
pub type CodedUnits = Vec<Option<Coded>>;

/// How units are learned: what an error in them costs, and how much effort is made.
pub struct Learning<'a> {
    /// The metric of each unit.
    pub metrics: &'a [Arc<Metric>],
    /// Effort and seed.
    pub options: dictionary::Options,
}

/// Learns the codebooks and codes of a plan; a step of `progress` is a unit. Returns the units and their distortions (0 for a dense one).
///
/// # Errors
/// As [`dictionary::learn`], naming the node.
pub fn learn(
    weights: &Weights,
    plan: &Plan,
    how: &Learning<'_>,
    progress: &dyn Progress,
) -> Result<(CodedUnits, Vec<f64>)> {
    let groups = weights.groups(&plan.choices);
    let learned: Vec<_> = groups
        .par_iter()
        .map(|(spec, units)| {
            let matrices: Vec<_> = units
                .iter()
                .map(|&u| CodedMatrix {
                    weights: weights.rows(u),
                    metric: &how.metrics[u],
                    importance: plan.sensitivity[u],
                })
                .collect();
            let learned = dictionary::learn(&matrices, *spec, &how.options)
                .map_err(|e| e.at_node(weights.units[units[0]].unit.to_string()));
            progress.advance(units.len() as u64);
            learned
        })
        .collect::<Result<_>>()?;
    let mut coded: CodedUnits = vec![None; plan.choices.len()];
    let mut distortion = vec![0.0; plan.choices.len()];
    for ((_, units), learned) in groups.iter().zip(learned) {
        for ((&unit, one), d) in units.iter().zip(learned.coded).zip(learned.distortion) {
            coded[unit] = Some(one);
            distortion[unit] = d;
        }
    }
    Ok((coded, distortion))
}

/// The model with its weights replaced by what `coded` holds. A tensor all of whose units are dense stays as it is.
///
/// # Errors
/// As [`Rewriter::finish`].
pub fn apply(model: &Model, weights: &Weights, coded: &CodedUnits, note: &str) -> Result<Model> {
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let survey = &weights.survey;
    let mut edits = Vec::new();
    let mut writer = Writer::new(&mut rewriter);
    for (index, weight) in survey.weights.iter().enumerate() {
        let members: Vec<usize> = (0..weights.units.len()).filter(|&u| weights.units[u].weight == index).collect();
        if members.iter().all(|&u| coded[u].is_none()) {
            continue;
        }
        let source = survey.source(weight);
        let first = weight.uses[0];
        let stored = Stored {
            name: format!("{}/{}", survey.nodes[first.node].name, first.matrix),
            element: source.element,
            directions: source.shape[0],
            columns: source.shape[2],
            blocks: members
                .iter()
                .map(|&u| coded[u].as_ref().map_or(Block::Dense(weights.rows(u)), Block::Coded))
                .collect(),
            labels: members.iter().map(|&u| label(&weights.units[u].unit, source.shape[0])).collect(),
        };
        let anchors = anchors(survey, &weight.uses);
        let scopes: Vec<Scope> = anchors.values().map(|uses| common(survey, uses)).collect();
        let constants = common(survey, &weight.uses);
        let root = Scope::root();
        let codebooks = if members.iter().any(|&u| is_shared(weights, coded, u)) { &root } else { &constants };
        let homes: Vec<_> = scopes.iter().map(|nodes| Home { constants: &constants, codebooks, nodes }).collect();
        let values = writer.write(&stored, &homes);
        for (uses, value) in anchors.into_values().zip(values) {
            edits.extend(uses.into_iter().map(|u| (u, value.clone())));
        }
    }
    for (WeightUse { node, matrix }, value) in edits {
        let node = &survey.nodes[node];
        rewriter.set_input(&node.scope, node.index, matrix.input(), &value);
        for input in &node.source(matrix).frozen {
            rewriter.freeze_input(input);
        }
    }
    rewriter.set_metadata(NOTE, note);
    rewriter.finish()?;
    Ok(result)
}

/// Bytes of the file that a plan makes, exactly.
///
/// # Errors
/// As [`apply`].
pub fn size(model: &Model, weights: &Weights, plan: &Plan, scales: ScaleFormat, note: &str) -> Result<u64> {
    let mut coded: CodedUnits = vec![None; plan.choices.len()];
    for (group, (spec, units)) in weights.groups(&plan.choices).into_iter().enumerate() {
        let codebook = Arc::new(Codebook { spec, atoms: vec![0; spec.atoms * spec.width] });
        for unit in units {
            let [rows, columns] = weights.units[unit].unit.shape();
            // Steps differ between codebooks, as those that are learned do, and from the 1 of dense rows.
            let step = (group + 2) as f32;
            coded[unit] = Some(Coded {
                rows,
                columns,
                codes: vec![0; rows * spec.pieces(columns)],
                scales: vec![step; rows],
                scale_codes: (scales == ScaleFormat::Byte).then(|| ScaleCodes { codes: vec![1; rows], step }),
                codebook: codebook.clone(),
            });
        }
    }
    apply(model, weights, &coded, note)?.saved_bytes()
}

/// Whether a unit of another tensor uses the codebook of this one too.
fn is_shared(weights: &Weights, coded: &CodedUnits, unit: usize) -> bool {
    let Some(this) = &coded[unit] else { return false };
    weights.units.iter().zip(coded).any(|(other, coded)| {
        other.weight != weights.units[unit].weight
            && coded.as_ref().is_some_and(|c| Arc::ptr_eq(&c.codebook, &this.codebook))
    })
}

/// A short name of a unit within its tensor.
fn label(unit: &Unit, directions: usize) -> String {
    if directions == 1 { unit.gate.to_owned() } else { format!("{}.{}", unit.direction.name(), unit.gate) }
}

/// Uses by the innermost Loop or Scan body that they are in. Values must be computed inside such a body: not every
/// runtime lets one capture a value that a node outside computes.
fn anchors(survey: &Survey, uses: &[WeightUse]) -> BTreeMap<Scope, Vec<WeightUse>> {
    let mut anchors: BTreeMap<Scope, Vec<WeightUse>> = BTreeMap::new();
    for &used in uses {
        let node = &survey.nodes[used.node];
        let depth = node.bodies.iter().rposition(|op| op != "If").map_or(0, |i| i + 1);
        let body = node.scope.steps()[..depth].iter().fold(Scope::root(), |scope, &step| scope.child(step));
        anchors.entry(body).or_default().push(used);
    }
    anchors
}

/// The innermost graph around all uses.
pub(crate) fn common(survey: &Survey, uses: &[WeightUse]) -> Scope {
    let mut scopes = uses.iter().map(|u| &survey.nodes[u.node].scope);
    let first = scopes.next().cloned().unwrap_or_default();
    scopes.fold(first, |common, scope| common.common(scope))
}
