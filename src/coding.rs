//! From a model to a smaller one: its weights, what a plan makes of them, and the graph that rebuilds them.
//!
//! ```text
//! Model -> Weights -> (second moments) -> Plan -> Coded units -> Model
//! ```
//! The size of a plan is not estimated: the graph is built with empty codes and its bytes are counted.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use ndarray::{Array2, Array3, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;
use serde::Serialize;

use crate::dictionary::{
    self, Atoms, Band, Bands, BlockSpec, Codebook, Coded, Item, Matrix as CodedMatrix, Metric, Part, Projected,
    ScaleCodes, ScaleFormat,
};
use crate::encode::{
    self, Assigned, Block, Form, Home, Layer, Request, Storage, Stored, Subject, Work, Writer, fast, portable, vendor,
};
use crate::engine::{Engine, Overrides};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{Model, Rewriter, Scope, tensor};
use crate::plan::{ATOMS, Choice, Plan, Sharing};
use crate::progress::Progress;
use crate::recurrent::{
    self, Bias, Cell, FindOptions, Matrix, OwnBias, RecurrentNode, Survey, Unit, Weight, WeightUse,
};

/// The metadata entry that tells how a model was made.
pub const NOTE: &str = "dirnet";

/// The weights of a model that can be compressed, decoded, and their units.
pub struct Weights {
    /// Where they are.
    pub survey: Survey,
    /// `[directions, G*H, n]`, in the order of [`Survey::weights`].
    pub tensors: Vec<Arc<Array3<f32>>>,
    /// The units of all tensors: tensor by tensor, then by direction, then by gate.
    pub units: Vec<WeightUnit>,
    /// For each node of the survey its B, once a form asks for it: the portable one, and learning, do not.
    biases: OnceLock<Vec<Option<Bias>>>,
}

/// How a result is written.
#[derive(Clone, Debug, Default)]
pub struct Writing {
    /// The form of its recurrent nodes.
    pub request: Request,
    /// The text of the metadata entry [`NOTE`].
    pub note: String,
}

/// A gate block of one tensor of weights.
#[derive(Clone, Debug)]
pub struct WeightUnit {
    /// Index in [`Weights::tensors`].
    pub weight: usize,
    /// Its place, by the first node that uses it.
    pub unit: Unit,
    /// The vectors that its columns multiply, in the order of the columns: one, or one for each direction of the layer
    /// whose states it reads.
    pub sections: Vec<Section>,
}

/// Columns that multiply a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The first of them.
    pub start: usize,
    /// How many.
    pub columns: usize,
    /// Which vector: units with the same number multiply the same.
    pub vector: usize,
}

/// A vector that weights multiply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vector {
    /// X of the node that is the first to use this W.
    Input(usize),
    /// The states in a direction of the node that is the first to use this R.
    State(usize, usize),
}

/// The sections of a unit, given the vectors known so far.
fn sections(survey: &Survey, weight: usize, unit: &Unit, known: &mut Vec<Vector>) -> Vec<Section> {
    let mut number = |vector| {
        known.iter().position(|&other| other == vector).unwrap_or_else(|| {
            known.push(vector);
            known.len() - 1
        })
    };
    let node = survey.weights[weight].uses[0].node;
    let feeder = survey.feeder(node).filter(|_| unit.matrix == Matrix::W);
    let Some((feeder, r)) = feeder.and_then(|node| Some((node, survey.weight_of(node, Matrix::R)?))) else {
        let vector = match unit.matrix {
            Matrix::W => Vector::Input(weight),
            Matrix::R => Vector::State(weight, unit.direction_index),
        };
        return vec![Section { start: 0, columns: unit.columns, vector: number(vector) }];
    };
    let attributes = &survey.nodes[feeder].attributes;
    let columns = attributes.hidden;
    let section = |d: usize| Section { start: d * columns, columns, vector: number(Vector::State(r, d)) };
    (0..attributes.direction.count()).map(section).collect()
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
        Weights::of(model, Weights::find(model, options)?, None)
    }

    /// Decodes the weights that [`find`](Self::find) found; those that `engine`, made of the same model, holds are shared
    /// with it.
    ///
    /// # Errors
    /// Those of reading their tensors.
    pub fn of(model: &Model, survey: Survey, engine: Option<&Engine>) -> Result<Weights> {
        let held = |weight: &Weight| {
            let WeightUse { node, matrix } = weight.uses[0];
            let node = &survey.nodes[node];
            engine.and_then(|engine| engine.weights(engine.number(&node.scope, node.index)?, matrix)).cloned()
        };
        let read = |weight| held(weight).map_or_else(|| survey.source(weight).values(model).map(Arc::new), Ok);
        let tensors = survey.weights.par_iter().map(read).collect::<Result<_>>()?;
        let units = Weights::units_of(&survey);
        Ok(Weights { survey, tensors, units, biases: OnceLock::new() })
    }

    /// The units of the weights that were found, as [`Weights::units`] has them.
    pub fn units_of(survey: &Survey) -> Vec<WeightUnit> {
        let units = survey.weights.iter().enumerate().flat_map(|(weight, w)| {
            let WeightUse { node, matrix } = w.uses[0];
            survey.nodes[node].units_of(matrix).into_iter().map(move |unit| (weight, unit))
        });
        let mut vectors = Vec::new();
        units
            .map(|(weight, unit)| {
                let sections = sections(survey, weight, &unit, &mut vectors);
                WeightUnit { weight, unit, sections }
            })
            .collect()
    }

    /// Finds the weights without decoding them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn find(model: &Model, options: &FindOptions) -> Result<Survey> {
        let survey = recurrent::find(model, options)?;
        if survey.nodes.is_empty() {
            let reason = match survey.skipped.first() {
                None => "the model has no LSTM, GRU or RNN node".to_owned(),
                Some(first) => {
                    format!("no recurrent node can be compressed; '{}' ({}): {}", first.node, first.op, first.reason)
                }
            };
            return Err(Error::new(ErrorKind::NothingToDo, format!("nothing to compress: {reason}")));
        }
        Ok(survey)
    }

    /// The form of every node where the units are stored as `storage` says.
    pub fn forms(&self, model: &Model, request: Request, storage: impl Fn(usize) -> Storage) -> Vec<Assigned> {
        let obstacle = |weight: usize, form: Form| {
            let directions = self.directions(weight, &storage);
            let product = (self.survey.weights[weight].uses[0].matrix, self.vectors(weight));
            directions.iter().find_map(|units| encode::obstacle(units, product, form, request.from.is_none()))
        };
        let bias = |node: usize| self.bias(model, node);
        encode::assign(&self.survey, model.opset(), request, &bias, obstacle)
    }

    /// The units of each direction of a weight: rows and columns, and how they are stored.
    fn directions(&self, weight: usize, storage: impl Fn(usize) -> Storage) -> Vec<Vec<([usize; 2], Storage)>> {
        let units: Vec<usize> = (0..self.units.len()).filter(|&u| self.units[u].weight == weight).collect();
        let directions =
            units.chunk_by(|&a, &b| self.units[a].unit.direction_index == self.units[b].unit.direction_index);
        directions.map(|units| units.iter().map(|&u| (self.units[u].unit.shape(), storage(u))).collect()).collect()
    }

    /// How many vectors a weight multiplies in a step: R of a GRU that resets before the product two, `H` and `r H`.
    fn vectors(&self, weight: usize) -> usize {
        let WeightUse { node, matrix } = self.survey.weights[weight].uses[0];
        let node = &self.survey.nodes[node];
        let resets_before = node.cell == Cell::Gru && !node.attributes.linear_before_reset;
        if resets_before && matrix == Matrix::R { 2 } else { 1 }
    }

    /// Multiply-adds of a step of all nodes under a plan, and which of them are done in another form than portable.
    pub fn work(&self, choices: &[Choice], forms: &[Assigned]) -> MultiplyAdds {
        let mut total = MultiplyAdds::default();
        for (weight, found) in self.survey.weights.iter().enumerate() {
            for units in self.directions(weight, |u| choices[u].storage()) {
                let work = Work::of(&units, self.vectors(weight));
                for used in &found.uses {
                    let is_portable = forms[used.node].form == Form::Portable;
                    total.before += work.dense;
                    total.after += if is_portable { work.dense } else { work.factored };
                    total.factored += work.factored;
                }
            }
        }
        total
    }

    fn bias(&self, model: &Model, node: usize) -> Option<&Bias> {
        self.biases.get_or_init(|| self.survey.biases(model))[node].as_ref()
    }

    /// For each unit the form of the nodes that use it where the units are stored as `storage` says.
    pub fn unit_forms(&self, model: &Model, request: Request, storage: impl Fn(usize) -> Storage) -> Vec<Form> {
        let forms = self.forms(model, request, storage);
        self.units.iter().map(|unit| forms[self.survey.weights[unit.weight].uses[0].node].form).collect()
    }

    /// The rows of a unit, `[H, n]`.
    pub fn rows(&self, unit: usize) -> ArrayView2<'_, f32> {
        let WeightUnit { weight, unit, .. } = &self.units[unit];
        let mut rows = self.tensors[*weight].index_axis(Axis(0), unit.direction_index);
        rows.slice_axis_inplace(Axis(0), Slice::from(unit.rows()));
        rows
    }

    /// The energy `tr(W S W^T)` of a unit: the distortion of storing nothing.
    pub fn energy(&self, unit: usize, metric: &Metric) -> f64 {
        metric.distortion(self.rows(unit))
    }

    /// The tensors that hold a unit for which `coded` has something, decoded, to be put in place of those of `engine`.
    pub fn overrides<'c>(&self, engine: &Engine, coded: impl Fn(usize) -> Option<&'c CodedUnit>) -> Overrides {
        let mut tensors: BTreeMap<usize, Array3<f32>> = BTreeMap::new();
        for (unit, coded) in (0..self.units.len()).filter_map(|unit| Some((&self.units[unit], coded(unit)?))) {
            let tensor = tensors.entry(unit.weight).or_insert_with(|| Array3::clone(&self.tensors[unit.weight]));
            unit.rows_mut(tensor).assign(&coded.decode());
        }
        let mut overrides = Overrides::default();
        for (weight, tensor) in tensors.into_iter().map(|(weight, tensor)| (weight, Arc::new(tensor))) {
            for WeightUse { node, matrix } in &self.survey.weights[weight].uses {
                let node = &self.survey.nodes[*node];
                if let Some(number) = engine.number(&node.scope, node.index) {
                    overrides.weights.insert((number, *matrix), tensor.clone());
                }
            }
        }
        overrides
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

    /// For each unit the number of units that share its codebook or dictionary under a plan; 0 for a dense one.
    pub fn sharers(&self, choices: &[Choice]) -> Vec<usize> {
        let mut sharers = vec![0; self.units.len()];
        for (_, units) in self.groups(choices) {
            units.iter().for_each(|&u| sharers[u] = units.len());
        }
        for shared in self.dictionaries(choices) {
            shared.members.iter().for_each(|&(u, ..)| sharers[u] = shared.members.len());
        }
        sharers
    }

    /// For each unit its part of the stored bytes of the projection dictionaries that it shares.
    pub fn dictionary_bytes(&self, choices: &[Choice]) -> Vec<u64> {
        let mut bytes = vec![0; self.units.len()];
        for Shared { columns, members } in self.dictionaries(choices) {
            let all = members[0].2.dictionary_bytes(columns);
            members.iter().for_each(|&(u, ..)| bytes[u] += (all / members.len()) as u64);
        }
        bytes
    }

    /// The projection dictionaries of a plan.
    fn dictionaries(&self, choices: &[Choice]) -> Vec<Shared> {
        let mut found: BTreeMap<(usize, Bands), Shared> = BTreeMap::new();
        for (unit, choice) in choices.iter().enumerate() {
            let Choice::Projection { parts } = choice else { continue };
            for (index, (section, bands)) in self.units[unit].sections.iter().zip(parts).enumerate() {
                let shared = || Shared { columns: section.columns, members: Vec::new() };
                let members = found.entry((section.vector, bands.dictionary())).or_insert_with(shared);
                members.members.push((unit, index, *bands));
            }
        }
        found.into_values().collect()
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

/// Multiply-adds of a step of all compressed nodes, at batch 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MultiplyAdds {
    /// Of the original.
    pub before: u64,
    /// Of the result: fewer where a node takes a form that multiplies by a dictionary, then by its codes.
    pub after: u64,
    /// If all that is coded with projection dictionaries were multiplied so.
    pub factored: u64,
}

/// Kind of sharing, which of its kind, and shape of the codebook.
type Group = (Sharing, usize, BlockSpec);

/// The codes of a unit.
#[derive(Clone, Debug)]
pub enum CodedUnit {
    /// Of a block dictionary.
    Block(Coded),
    /// Of projection dictionaries.
    Projection(Projected),
}

impl CodedUnit {
    /// The rows `[H, n]` that the codes stand for.
    pub fn decode(&self) -> Array2<f32> {
        match self {
            CodedUnit::Block(coded) => coded.decode(),
            CodedUnit::Projection(projected) => projected.decode(),
        }
    }

    /// The codes, if they are of a block dictionary.
    pub fn block(&self) -> Option<&Coded> {
        match self {
            CodedUnit::Block(coded) => Some(coded),
            CodedUnit::Projection(_) => None,
        }
    }

    /// As [`block`](Self::block), to be changed.
    pub fn block_mut(&mut self) -> Option<&mut Coded> {
        match self {
            CodedUnit::Block(coded) => Some(coded),
            CodedUnit::Projection(_) => None,
        }
    }

    /// How it is stored, for the choice of forms.
    fn storage(&self) -> Storage {
        match self {
            CodedUnit::Block(_) => Storage::Block,
            CodedUnit::Projection(projected) => Storage::from(projected),
        }
    }

    /// Whether it has a codebook or a dictionary in common with another.
    fn shares_with(&self, other: &CodedUnit) -> bool {
        match (self, other) {
            (CodedUnit::Block(a), CodedUnit::Block(b)) => Arc::ptr_eq(&a.codebook, &b.codebook),
            (CodedUnit::Projection(a), CodedUnit::Projection(b)) => {
                a.parts.iter().any(|a| b.parts.iter().any(|b| Arc::ptr_eq(&a.atoms, &b.atoms)))
            }
            _ => false,
        }
    }
}

/// A unit as stored; `None` if dense.
pub type CodedUnits = Vec<Option<CodedUnit>>;

/// Units that share a projection dictionary.
struct Shared {
    /// Numbers of an atom.
    columns: usize,
    /// The unit, which of its sections, and the bands as it uses them.
    members: Vec<(usize, usize, Bands)>,
}

/// How units are learned: what an error in them costs, and how much effort is made.
pub struct Learning<'a> {
    /// The metric of each unit.
    pub metrics: &'a [Arc<Metric>],
    /// Effort and seed.
    pub options: dictionary::Options,
    /// The largest level of the atoms of each unit.
    pub peaks: Vec<i8>,
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
            let peak = units.iter().map(|&u| how.peaks[u]).min().unwrap_or(i8::MAX);
            let options = dictionary::Options { peak, ..how.options.clone() };
            let learned = dictionary::learn(&matrices, *spec, &options)
                .map_err(|e| e.at_node(weights.units[units[0]].unit.to_string()));
            progress.advance(units.len() as u64);
            learned
        })
        .collect::<Result<_>>()?;
    let mut coded: CodedUnits = vec![None; plan.choices.len()];
    let mut distortion = vec![0.0; plan.choices.len()];
    for ((_, units), learned) in groups.iter().zip(learned) {
        for ((&unit, one), d) in units.iter().zip(learned.coded).zip(learned.distortion) {
            coded[unit] = Some(CodedUnit::Block(one));
            distortion[unit] = d;
        }
    }
    project(weights, plan, how, &mut coded, progress)?;
    for (unit, one) in coded.iter().enumerate() {
        if let Some(CodedUnit::Projection(projected)) = one {
            let error = &weights.rows(unit) - &projected.decode();
            distortion[unit] = how.metrics[unit].distortion(error.view());
        }
    }
    Ok((coded, distortion))
}

/// Learns the projection dictionaries of a plan, one after the other: the codes of a section of a unit make up for what
/// those of the sections before it got wrong.
fn project(
    weights: &Weights,
    plan: &Plan,
    how: &Learning<'_>,
    coded: &mut CodedUnits,
    progress: &dyn Progress,
) -> Result<()> {
    let dictionaries = weights.dictionaries(&plan.choices);
    let mut left: BTreeMap<usize, Array2<f32>> = BTreeMap::new();
    let mut parts: BTreeMap<usize, Vec<Part>> = BTreeMap::new();
    for &(unit, ..) in dictionaries.iter().flat_map(|shared| &shared.members) {
        left.entry(unit).or_insert_with(|| weights.rows(unit).to_owned());
    }
    for Shared { columns, members } in &dictionaries {
        let bands: Vec<Bands> = members.iter().map(|(_, _, bands)| *bands).collect();
        let items: Vec<Item<'_>> = left
            .iter_mut()
            .filter_map(|(&unit, left)| {
                let &(_, section, _) = members.iter().find(|(member, ..)| *member == unit)?;
                let sections = &weights.units[unit].sections;
                let start = sections[section].start;
                let coded = |at: usize| parts.get(&unit).is_some_and(|parts| parts.iter().any(|p| p.start == at));
                let later = sections.iter().filter(|other| other.start != start && !coded(other.start));
                let to_come = later.map(|other| other.start..other.start + other.columns).collect();
                let importance = plan.sensitivity[unit];
                Some(Item { left: left.view_mut(), metric: &how.metrics[unit], start, to_come, importance })
            })
            .collect();
        let first = &weights.units[members[0].0].unit;
        let peak = members.iter().map(|&(unit, ..)| how.peaks[unit]).min().unwrap_or(i8::MAX);
        let options = dictionary::Options { peak, ..how.options.clone() };
        let learned = dictionary::learn_projection(items, &bands, *columns, &options)
            .map_err(|e| e.at_node(first.to_string()))?;
        for (&(unit, ..), part) in members.iter().zip(learned) {
            let parts = parts.entry(unit).or_default();
            parts.push(part);
            progress.advance(u64::from(parts.len() == weights.units[unit].sections.len()));
        }
    }
    for (unit, mut parts) in parts {
        parts.sort_by_key(|part| part.start);
        let [rows, columns] = weights.units[unit].unit.shape();
        coded[unit] = Some(CodedUnit::Projection(Projected { rows, columns, parts }));
    }
    Ok(())
}

/// The model with its weights replaced by what `coded` holds, in the form that `writing` asks for. A tensor all of whose
/// units are dense stays as it is.
///
/// # Errors
/// As [`Rewriter::finish`].
pub fn apply(model: &Model, weights: &Weights, coded: &CodedUnits, writing: &Writing) -> Result<Model> {
    let mut result = model.clone();
    let mut rewriter = Rewriter::new(&mut result);
    let survey = &weights.survey;
    let storage = |unit: usize| coded[unit].as_ref().map_or(Storage::Dense, CodedUnit::storage);
    let forms = weights.forms(model, writing.request, storage);
    let kept: Vec<Kept<'_>> = (0..survey.weights.len()).map(|weight| Kept::new(weights, coded, weight)).collect();
    let mut writer = Writer::new(&mut rewriter);
    let mut edits = Vec::new();
    for (weight, kept) in survey.weights.iter().zip(&kept) {
        if kept.is_dense() || forms[weight.uses[0].node].form != Form::Portable {
            continue;
        }
        for uses in anchors(survey, &weight.uses).into_values() {
            let place = common(survey, &uses);
            writer.enter(&place);
            let value = portable::write(&mut writer, &kept.stored, kept.home());
            writer.place_in_front(&place);
            edits.extend(uses.into_iter().map(|used| (used, value.clone())));
        }
    }
    let replaced: Vec<usize> = (0..survey.nodes.len()).filter(|&n| forms[n].form != Form::Portable).collect();
    // Not those that the forms were chosen by: this model may have others.
    let biases = replaced.iter().any(|&n| forms[n].form == Form::Fast).then(|| survey.biases(model));
    for &index in &replaced {
        let node = &survey.nodes[index];
        let [w, r] = Matrix::BOTH.map(|matrix| {
            let weight = survey.weight_of(index, matrix).expect("both weights of a found node are found");
            (&kept[weight].stored, kept[weight].home())
        });
        let layer = Layer {
            node,
            proto: model.node(&node.scope, node.index),
            w,
            r,
            bias: match forms[index].form {
                Form::Ort => None,
                _ => biases.as_ref().and_then(|biases| biases[index].as_ref()?.as_ref().ok()),
            },
        };
        match forms[index].form {
            Form::Ort => vendor::write(&mut writer, &layer),
            _ => fast::write(&mut writer, &layer),
        }
        writer.place_before(&node.scope, node.index);
    }
    for (WeightUse { node, matrix }, value) in edits {
        let node = &survey.nodes[node];
        rewriter.set_input(&node.scope, node.index, matrix.input(), &value);
        node.source(matrix).frozen.iter().for_each(|input| rewriter.freeze_input(input));
    }
    for index in replaced {
        let node = &survey.nodes[index];
        rewriter.remove_node(&node.scope, node.index);
        node.w.frozen.iter().chain(&node.r.frozen).for_each(|input| rewriter.freeze_input(input));
        if forms[index].form == Form::Ort {
            rewriter.import(vendor::DOMAIN, 1);
        }
    }
    rewriter.set_metadata(NOTE, &writing.note);
    rewriter.finish()?;
    Ok(result)
}

/// What nodes have in place of their B.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBias {
    /// The B.
    pub of: OwnBias,
    /// `[directions, 2*G*H]`, row-major.
    pub values: Arc<Vec<f32>>,
}

/// The model with other biases. Its size is the same.
///
/// # Errors
/// [`ErrorKind::Usage`] for one of another size than the B that it is to replace.
pub fn with_biases(model: &Model, biases: &[NewBias]) -> Result<Model> {
    for bias in biases {
        let tensor = model.initializer(&bias.of.definition);
        let stored = tensor.and_then(|tensor| tensor.raw_data.as_ref()).map_or(0, |raw| raw.len() / size_of::<f32>());
        if stored != bias.values.len() {
            let name = tensor.map_or("", |tensor| tensor.name());
            let message = format!("tensor '{name}': {} biases for the {stored} that it holds", bias.values.len());
            return Err(Error::new(ErrorKind::Usage, message));
        }
    }
    let definitions: Vec<_> = biases.iter().map(|bias| bias.of.definition.clone()).collect();
    Ok(model.with_initializers(&definitions, |place, tensor| {
        tensor.raw_data = tensor::float("", &[biases[place].values.len()], &biases[place].values).raw_data;
    }))
}

/// A weight as it is stored, and where.
struct Kept<'a> {
    stored: Stored<'a>,
    constants: Scope,
    codebooks: Scope,
}

impl<'a> Kept<'a> {
    fn new(weights: &'a Weights, coded: &'a CodedUnits, weight: usize) -> Self {
        let survey = &weights.survey;
        let WeightUse { node, matrix } = survey.weights[weight].uses[0];
        let source = survey.source(&survey.weights[weight]);
        let members: Vec<usize> = (0..weights.units.len()).filter(|&u| weights.units[u].weight == weight).collect();
        let block = |u: usize| match &coded[u] {
            None => Block::Dense(weights.rows(u)),
            Some(CodedUnit::Block(coded)) => Block::Coded(coded),
            Some(CodedUnit::Projection(projected)) => Block::Projected(projected),
        };
        let stored = Stored {
            of: Subject::Weight(weight),
            start: 0,
            name: format!("{}/{matrix}", survey.nodes[node].name),
            element: source.element,
            directions: source.shape[0],
            columns: source.shape[2],
            blocks: members.iter().map(|&u| block(u)).collect(),
            gates: survey.nodes[node].cell.gates(),
        };
        let constants = common(survey, &survey.weights[weight].uses);
        let shared = members.iter().any(|&u| is_shared(weights, coded, u));
        Kept { stored, codebooks: if shared { Scope::root() } else { constants.clone() }, constants }
    }

    fn home(&self) -> Home<'_> {
        Home { constants: &self.constants, codebooks: &self.codebooks }
    }

    fn is_dense(&self) -> bool {
        self.stored.blocks.iter().all(|block| matches!(block, Block::Dense(_)))
    }
}

/// Bytes of the file that a plan makes, exactly.
///
/// # Errors
/// As [`apply`].
pub fn size(model: &Model, weights: &Weights, plan: &Plan, scales: ScaleFormat, writing: &Writing) -> Result<u64> {
    let mut coded: CodedUnits = vec![None; plan.choices.len()];
    let mut blank = Blank { books: 0, scales };
    for (spec, units) in weights.groups(&plan.choices) {
        let book = blank.book(spec);
        for unit in units {
            let [rows, columns] = weights.units[unit].unit.shape();
            coded[unit] = Some(CodedUnit::Block(blank.coded(rows, columns, &book)));
        }
    }
    for Shared { columns, members } in weights.dictionaries(&plan.choices) {
        let bands = members[0].2.iter();
        let bands = bands.map(|band| {
            let book = blank.book(BlockSpec { width: usize::from(band.width), atoms: ATOMS });
            blank.coded(usize::from(band.atoms), columns, &book)
        });
        let atoms = Arc::new(Atoms { columns, bands: bands.collect() });
        let mut books: BTreeMap<(usize, Band), Book> = BTreeMap::new();
        for (unit, section, bands) in members {
            let [rows, all] = weights.units[unit].unit.shape();
            let codes = bands.used().enumerate().map(|(index, band)| {
                let spec = BlockSpec { width: usize::from(band.codes), atoms: ATOMS };
                let book = books.entry((index, band)).or_insert_with(|| blank.book(spec));
                blank.coded(rows, usize::from(band.atoms), book)
            });
            let start = weights.units[unit].sections[section].start;
            let part = Part { start, atoms: atoms.clone(), codes: codes.collect() };
            match &mut coded[unit] {
                Some(CodedUnit::Projection(projected)) => projected.parts.push(part),
                none => *none = Some(CodedUnit::Projection(Projected { rows, columns: all, parts: vec![part] })),
            }
        }
    }
    apply(model, weights, &coded, writing)?.saved_bytes()
}

/// Makes codes without content.
struct Blank {
    books: usize,
    scales: ScaleFormat,
}

/// A codebook and the step of the scales of all that are learned with it.
struct Book {
    codebook: Arc<Codebook>,
    step: f32,
}

impl Blank {
    fn book(&mut self, spec: BlockSpec) -> Book {
        self.books += 1;
        let codebook = Arc::new(Codebook { spec, atoms: vec![0; spec.atoms * spec.width] });
        // Steps differ between codebooks, as those that are learned do, and from the 1 of dense rows.
        Book { codebook, step: (self.books + 1) as f32 }
    }

    fn coded(&self, rows: usize, columns: usize, book: &Book) -> Coded {
        let step = book.step;
        Coded {
            rows,
            columns,
            codes: vec![0; rows * book.codebook.spec.pieces(columns)],
            scales: vec![step; rows],
            scale_codes: (self.scales == ScaleFormat::Byte).then(|| ScaleCodes { codes: vec![1; rows], step }),
            codebook: book.codebook.clone(),
        }
    }
}

/// Whether a unit of another tensor uses the codebook or dictionary of this one too.
fn is_shared(weights: &Weights, coded: &CodedUnits, unit: usize) -> bool {
    let Some(this) = &coded[unit] else { return false };
    weights.units.iter().zip(coded).any(|(other, coded)| {
        other.weight != weights.units[unit].weight && coded.as_ref().is_some_and(|c| c.shares_with(this))
    })
}

/// Uses by the innermost Loop or Scan body that they are in. Values must be computed inside such a body: not every
/// runtime lets one capture a value that a node outside computes. For a GRU the same holds of the branches of an If, where
/// MNN crashes.
fn anchors(survey: &Survey, uses: &[WeightUse]) -> BTreeMap<Scope, Vec<WeightUse>> {
    let mut anchors: BTreeMap<Scope, Vec<WeightUse>> = BTreeMap::new();
    for &used in uses {
        let node = &survey.nodes[used.node];
        let captures = |op: &String| op == "If" && node.cell != Cell::Gru;
        let depth = node.bodies.iter().rposition(|op| !captures(op)).map_or(0, |i| i + 1);
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
