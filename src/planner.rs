//! From a target to a plan: what to store for each unit so that the file hits a size from below.
//!
//! The bytes of candidates are first estimates (a codebook's bytes are split among the units that could share it, and
//! neighbours may share nodes); the exact size of a whole plan is then counted, and the budget that the allocation is
//! given is corrected until the file just fits.

mod projection;

use crate::budget::{self, Candidate};
use crate::coding::{self, CodedUnits, Learning, Weights, Writing};
use crate::dictionary::BlockSpec;
use crate::encode::{Form, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::Model;
use crate::plan::{Choice, Plan, Sharing};
use crate::progress::Progress;
use crate::recurrent::{Matrix, Unit};

pub use projection::Dictionaries;

/// Widths of pieces on offer, from 8 bits a weight to half a bit.
const WIDTHS: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16];
/// About what the nodes that decode one run of rows take in the file, with their names.
const NODES: u64 = 350;
/// How often the budget is corrected by the exact size of what it gave.
const CORRECTIONS: usize = 12;

/// A model and everything that decides the size of a plan for it.
pub struct Sizing<'a> {
    /// The model to be compressed.
    pub model: &'a Model,
    /// Its weights.
    pub weights: &'a Weights,
    /// The form and what else decides how the file is written.
    pub writing: &'a Writing,
}

impl Sizing<'_> {
    /// Bytes of the file that a plan makes.
    ///
    /// # Errors
    /// As [`coding::apply`].
    pub fn bytes(&self, plan: &Plan) -> Result<u64> {
        coding::size(self.model, self.weights, plan, self.writing)
    }

    /// The largest file in which the recurrent weights take `ratio` times fewer bytes than before.
    pub fn target(&self, ratio: f64) -> u64 {
        let before = self.weights.survey.stored_bytes();
        let file = self.model.bytes();
        (file.saturating_sub(before)) + (before as f64 / ratio) as u64
    }

    fn too_small(&self, target: u64, smallest: u64) -> Error {
        let before = self.weights.survey.stored_bytes();
        let kept = self.model.bytes().saturating_sub(before);
        let nearest = match smallest.checked_sub(kept) {
            Some(after) if after > 0 && after < before => {
                format!("the nearest is {smallest} bytes, --ratio {:.2}", floor2(before as f64 / after as f64))
            }
            _ => "its weights are too small for any codebook to pay".to_owned(),
        };
        Error::new(ErrorKind::Target, format!("no plan makes a file of at most {target} bytes; {nearest}"))
    }
}

fn floor2(x: f64) -> f64 {
    (x * 100.0).floor() / 100.0
}

/// The `count` widths of pieces nearest to `width`, itself first if it is on offer; never single weights, whose error is
/// too small to be told from noise.
pub(crate) fn widths_near(width: usize, count: usize) -> Vec<usize> {
    let mut near: Vec<usize> = WIDTHS.into_iter().filter(|&w| w > 1).collect();
    near.sort_by_key(|w| w.abs_diff(width));
    near.truncate(count);
    near
}

fn specs() -> impl Iterator<Item = BlockSpec> {
    WIDTHS.into_iter().map(|width| BlockSpec { width })
}

/// One nominal rate for all units, as few of them as needed one rate lower: the baseline.
///
/// # Errors
/// [`ErrorKind::Target`] if even the lowest rate is too large, with the nearest that can be had.
pub fn uniform(sizing: &Sizing<'_>, equal: &[f64], target: u64) -> Result<Plan> {
    let units = &sizing.weights.units;
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&u| std::cmp::Reverse(units[u].unit.shape().iter().product::<usize>()));
    let mixed = |sharing, high: BlockSpec, low: BlockSpec, moved: usize| {
        let mut choices = vec![Choice::Block { spec: high, sharing }; units.len()];
        order[..moved].iter().for_each(|&u| choices[u] = Choice::Block { spec: low, sharing });
        Plan { choices, sensitivity: equal.to_vec() }
    };
    let mut best: Option<(f64, Plan)> = None;
    let mut smallest = u64::MAX;
    for sharing in Sharing::ALL {
        let specs: Vec<_> = specs().collect();
        let mut fits = None;
        for (i, &spec) in specs.iter().enumerate() {
            let bytes = sizing.bytes(&mixed(sharing, spec, spec, 0))?;
            smallest = smallest.min(bytes);
            if bytes <= target {
                fits = Some(i);
                break;
            }
        }
        let Some(fits) = fits else { continue };
        let (high, low) = (specs[fits.saturating_sub(1)], specs[fits]);
        // Of the numbers of moved units that fit, the least: sizes fall with every unit moved, up to a codebook's bytes.
        let (mut too_few, mut enough) = (0, if fits == 0 { 0 } else { units.len() });
        while enough - too_few > 1 {
            let middle = (too_few + enough) / 2;
            if sizing.bytes(&mixed(sharing, high, low, middle))? <= target { enough = middle } else { too_few = middle }
        }
        let plan = mixed(sharing, high, low, enough);
        let bits = code_bits(sizing.weights, &plan);
        if best.as_ref().is_none_or(|(most, _)| bits > *most) {
            best = Some((bits, plan));
        }
    }
    best.map(|(_, plan)| plan).ok_or_else(|| sizing.too_small(target, smallest))
}

/// Fails for a target that no plan meets, before anything is run or learned: what is smallest is known from shapes.
/// `one_rate` is for plans with one for all units; `adjust` has the last word on a plan.
///
/// # Errors
/// [`ErrorKind::Target`], with the nearest that can be had.
pub fn check_target(sizing: &Sizing<'_>, target: u64, one_rate: bool, adjust: impl Fn(&mut Plan)) -> Result<()> {
    let mut smallest = u64::MAX;
    for mut plan in floors(sizing, one_rate) {
        adjust(&mut plan);
        smallest = smallest.min(sizing.bytes(&plan)?);
        if smallest <= target {
            return Ok(());
        }
    }
    Err(sizing.too_small(target, smallest))
}

/// The plans that allocations come down to under ever smaller targets.
fn floors(sizing: &Sizing<'_>, one_rate: bool) -> Vec<Plan> {
    let equal = vec![1.0; sizing.weights.units.len()];
    let alike = |spec, sharing| Plan {
        choices: vec![Choice::Block { spec, sharing }; equal.len()],
        sensitivity: equal.clone(),
    };
    // The widest atoms make the fewest codes, but in small layers a codebook weighs more than its codes.
    let mut floors: Vec<Plan> = specs().flat_map(|spec| Sharing::ALL.map(|sharing| alike(spec, sharing))).collect();
    if !one_rate {
        let curves = Curves::of_shapes(sizing.weights);
        let search = Search::new(&curves, sizing, &equal, 0);
        floors.extend(curves.divisions(sizing.weights).iter().map(|(groups, sharings)| search.floor(groups, sharings)));
    }
    floors
}

/// The matrix and gate of a unit: tuning makes about the same of the errors of all units of a kind.
pub type Kind = (Matrix, &'static str);

/// The kind of a unit.
pub fn kind(weights: &Weights, unit: usize) -> Kind {
    let Unit { matrix, gate, .. } = weights.units[unit].unit;
    (matrix, gate)
}

/// The kinds of all units, each once.
pub fn kinds(weights: &Weights) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = (0..weights.units.len()).map(|unit| kind(weights, unit)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// `plan` with the codes of the units of one kind a width coarser; `None` where they are as coarse as can be.
pub fn coarser(weights: &Weights, plan: &Plan, of: Kind) -> Option<Plan> {
    let mut coarser = plan.clone();
    let choices = coarser.choices.iter_mut().enumerate().filter(|(unit, _)| kind(weights, *unit) == of);
    for (_, choice) in choices {
        if let Choice::Block { spec, .. } = choice {
            spec.width = WIDTHS.into_iter().find(|&width| width > spec.width).unwrap_or(spec.width);
        }
    }
    (coarser != *plan).then_some(coarser)
}

/// Bits that go into codes, as opposed to codebooks and graph.
fn code_bits(weights: &Weights, plan: &Plan) -> f64 {
    let bits = |(unit, choice): (&coding::WeightUnit, &Choice)| match choice {
        Choice::Dense | Choice::Projection { .. } => 0.0,
        Choice::Block { spec, .. } => spec.bits_per_weight() * unit.unit.shape().iter().product::<usize>() as f64,
    };
    weights.units.iter().zip(&plan.choices).map(bits).sum()
}

/// What can be stored for each unit, and what it costs.
pub struct Curves {
    /// For each unit its candidates, in the same order for all.
    pub units: Vec<Vec<Point>>,
    /// Every unit at each of the coarse rates, and its distortion there.
    pub coarse: Vec<(CodedUnits, Vec<f64>)>,
}

/// Which points of the curves are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rates {
    /// All that plans may choose from.
    All,
    /// Those that sensitivities are measured at.
    Coarse,
}

/// A point of a rate-distortion curve.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// What is stored.
    pub choice: Choice,
    /// Estimated bytes.
    pub bytes: u64,
    /// `tr((W-Q) S (W-Q)^T)`.
    pub distortion: f64,
}

impl Curves {
    /// Learns every unit at these rates, with codebooks of every reach that may pay. Keeps the codes of pieces of as many
    /// weights as `coarse` lists.
    ///
    /// # Errors
    /// As [`coding::learn`].
    pub fn learn(
        weights: &Weights,
        how: &Learning<'_>,
        equal: &[f64],
        coarse: &[usize],
        rates: Rates,
        progress: &dyn Progress,
    ) -> Result<Curves> {
        let mut curves = Curves::of_shapes(weights);
        let units = weights.units.len();
        let is_coarse = |choice: &Choice| matches!(choice, Choice::Block { spec, sharing: Sharing::Unit } if coarse.contains(&spec.width));
        let mut ways: Vec<(usize, Choice)> = ways(weights).into_iter().enumerate().collect();
        if rates == Rates::Coarse {
            let points = curves.units.iter_mut().flatten().filter(|point| point.choice != Choice::Dense);
            points.for_each(|point| point.distortion = f64::INFINITY);
            ways.retain(|(_, choice)| is_coarse(choice));
        }
        progress.phase("curves", (ways.len() * units) as u64);
        for (way, choice) in ways {
            let plan = Plan { choices: vec![choice; units], sensitivity: equal.to_vec() };
            let (coded, distortions) = coding::learn(weights, &plan, how, progress)?;
            curves
                .units
                .iter_mut()
                .zip(&distortions)
                .for_each(|(points, &distortion)| points[way].distortion = distortion);
            if is_coarse(&choice) {
                curves.coarse.push((coded, distortions));
            }
        }
        progress.done();
        Ok(curves)
    }

    /// What is known before anything was learned: the bytes of every unit in every way, at no distortion.
    fn of_shapes(weights: &Weights) -> Curves {
        let count = weights.units.len();
        let mut units = vec![Vec::new(); count];
        for choice in ways(weights).into_iter().chain([Choice::Dense]) {
            let sharers = weights.sharers(&vec![choice; count]);
            for (u, points) in units.iter_mut().enumerate() {
                let [rows, columns] = weights.units[u].unit.shape();
                let bytes = match choice {
                    Choice::Dense => (rows * columns) as u64 * weights.element_bytes(u),
                    Choice::Block { spec, .. } => {
                        unit_bytes(weights, u, spec) + (spec.codebook_bytes() / sharers[u]) as u64
                    }
                    Choice::Projection { .. } => unreachable!("ways are of codebooks"),
                };
                points.push(Point { choice, bytes, distortion: 0.0 });
            }
        }
        Curves { units, coarse: Vec::new() }
    }

    /// The plan of least predicted loss `sum_u s_u D_u` in a file of at most `target` bytes.
    ///
    /// Budgets for single units compete with budgets for whole matrices, which need fewer nodes, and with one rate for
    /// all: the finer choice is not the better one where graph and codebooks weigh more than codes.
    ///
    /// # Errors
    /// [`ErrorKind::Target`] if no plan fits, with the nearest that does.
    pub fn allocate(&self, sizing: &Sizing<'_>, sensitivity: &[f64], target: u64) -> Result<Plan> {
        let mut search = Search::new(self, sizing, sensitivity, target);
        for (groups, sharings) in self.divisions(sizing.weights) {
            search.divide(&groups, &sharings)?;
        }
        match uniform(sizing, sensitivity, target) {
            Ok(plan) => {
                search.offer(plan)?;
            }
            Err(error) if error.kind() == ErrorKind::Target => {}
            Err(error) => return Err(error),
        }
        let (_, plan) = search.best.ok_or_else(|| sizing.too_small(target, search.smallest))?;
        if plan.choices.iter().all(|choice| *choice == Choice::Dense) {
            let message = format!("nothing to do: the model as it is fits {target} bytes");
            return Err(Error::new(ErrorKind::NothingToDo, message));
        }
        Ok(plan)
    }

    /// What a plan is predicted to lose. Infinite for a choice that is not on the curves.
    pub fn predicted_loss(&self, plan: &Plan, sensitivity: &[f64]) -> f64 {
        let of_unit = |((points, choice), s): ((&Vec<Point>, &Choice), &f64)| {
            points.iter().find(|p| p.choice == *choice).map_or(f64::INFINITY, |p| s * p.distortion)
        };
        self.units.iter().zip(&plan.choices).zip(sensitivity).map(of_unit).sum()
    }

    /// The groups of units that get one choice, and how far their codebooks may reach: single units, and whole matrices,
    /// which need fewer nodes.
    fn divisions(&self, weights: &Weights) -> Vec<(Vec<Vec<usize>>, Vec<Sharing>)> {
        let units: Vec<usize> = (0..weights.units.len()).collect();
        let single: Vec<Vec<usize>> = units.iter().map(|&u| vec![u]).collect();
        let weight = |u: &usize| weights.units[*u].weight;
        let matrices: Vec<Vec<usize>> = units.chunk_by(|a, b| weight(a) == weight(b)).map(<[usize]>::to_vec).collect();
        let of_reach = |reach| [(single.clone(), vec![reach, Sharing::Unit]), (matrices.clone(), vec![reach])];
        self.reaches().into_iter().flat_map(of_reach).collect()
    }

    fn reaches(&self) -> Vec<Sharing> {
        let mut reaches: Vec<Sharing> = self.units[0].iter().filter_map(|p| p.choice.sharing()).collect();
        reaches.dedup();
        reaches
    }
}

/// The search for the best plan under a target.
struct Search<'a> {
    curves: &'a Curves,
    sizing: &'a Sizing<'a>,
    sensitivity: &'a [f64],
    target: u64,
    /// Whether a unit may stay dense: where it is to be multiplied as int8, it may not.
    keeps_dense: Vec<bool>,
    best: Option<(f64, Plan)>,
    smallest: u64,
}

impl<'a> Search<'a> {
    fn new(curves: &'a Curves, sizing: &'a Sizing<'a>, sensitivity: &'a [f64], target: u64) -> Self {
        let forms = sizing.weights.unit_forms(sizing.model, sizing.writing.request, |_| Storage::Block);
        let keeps_dense = forms.into_iter().map(|form| form == Form::Portable).collect();
        Search { curves, sizing, sensitivity, target, keeps_dense, best: None, smallest: u64::MAX }
    }

    /// A point of a unit's curve; the finest of those that are coded stands in where dense is not on offer.
    fn point(&self, unit: usize, index: usize) -> &Point {
        let points = &self.curves.units[unit];
        let point = &points[index];
        if point.choice != Choice::Dense || self.keeps_dense[unit] {
            return point;
        }
        let coded = points.iter().filter(|p| p.choice.sharing() == Some(Sharing::Unit));
        coded.min_by(|a, b| a.distortion.total_cmp(&b.distortion)).unwrap_or(point)
    }

    /// Divides the bytes among groups of units, each of which gets one choice.
    fn divide(&mut self, groups: &[Vec<usize>], sharings: &[Sharing]) -> Result<()> {
        let points = self.points(sharings);
        let candidates = self.candidates(groups, &points);
        let floor = candidates.iter().flat_map(|c| c.iter().map(|c| c.bytes).min()).sum();
        let kept = self.sizing.model.bytes().saturating_sub(self.sizing.weights.survey.stored_bytes());
        let mut budget = self.target.saturating_sub(kept).max(floor);
        for _ in 0..CORRECTIONS {
            let Some(picks) = budget::allocate(&candidates, budget) else { break };
            let bytes = self.offer(self.plan(groups, &points, &picks))?;
            let corrected = (budget + self.target).saturating_sub(bytes);
            if corrected == budget || bytes > self.target && budget == floor {
                break;
            }
            budget = corrected.max(floor);
        }
        Ok(())
    }

    /// The plan that [`divide`](Self::divide) comes down to under ever smaller targets.
    fn floor(&self, groups: &[Vec<usize>], sharings: &[Sharing]) -> Plan {
        let points = self.points(sharings);
        let candidates = self.candidates(groups, &points);
        let least = |of_group: &Vec<Candidate>| (0..of_group.len()).min_by_key(|&i| of_group[i].bytes).unwrap_or(0);
        self.plan(groups, &points, &candidates.iter().map(least).collect::<Vec<_>>())
    }

    /// The points of the curves whose codebooks reach so far.
    fn points(&self, sharings: &[Sharing]) -> Vec<usize> {
        let allowed = |choice: Choice| choice.sharing().is_none_or(|sharing| sharings.contains(&sharing));
        (0..self.curves.units[0].len()).filter(|&i| allowed(self.curves.units[0][i].choice)).collect()
    }

    fn candidates(&self, groups: &[Vec<usize>], points: &[usize]) -> Vec<Vec<Candidate>> {
        groups.iter().map(|group| points.iter().map(|&i| self.candidate(group, i)).collect()).collect()
    }

    /// The plan that gives each group its pick among the points.
    fn plan(&self, groups: &[Vec<usize>], points: &[usize], picks: &[usize]) -> Plan {
        let choices = vec![Choice::Dense; self.curves.units.len()];
        let mut plan = Plan { choices, sensitivity: self.sensitivity.to_vec() };
        for (group, &pick) in groups.iter().zip(picks) {
            group.iter().for_each(|&u| plan.choices[u] = self.point(u, points[pick]).choice);
        }
        plan
    }

    /// Keeps a plan if it fits and is the best so far; returns its bytes.
    fn offer(&mut self, plan: Plan) -> Result<u64> {
        let bytes = self.sizing.bytes(&plan)?;
        self.smallest = self.smallest.min(bytes);
        let loss = self.curves.predicted_loss(&plan, self.sensitivity);
        if bytes <= self.target && self.best.as_ref().is_none_or(|(least, _)| loss < *least) {
            self.best = Some((loss, plan));
        }
        Ok(bytes)
    }

    /// One choice for a group of units: those that share a codebook are rebuilt by one run of nodes.
    fn candidate(&self, group: &[usize], point: usize) -> Candidate {
        let points = group.iter().map(|&u| self.point(u, point));
        let bytes: u64 = points.clone().map(|p| p.bytes).sum();
        let saved = match points.clone().next().and_then(|p| p.choice.sharing()) {
            Some(Sharing::Unit) | None => 0,
            Some(_) => (group.len() as u64 - 1) * NODES,
        };
        let loss = group.iter().zip(points).map(|(&u, p)| self.sensitivity[u] * p.distortion).sum();
        Candidate { bytes: bytes - saved, loss }
    }
}

/// All ways in which units are coded, in the order of the curves.
fn ways(weights: &Weights) -> Vec<Choice> {
    let all = |sharing| specs().map(move |spec| Choice::Block { spec, sharing });
    reaches(weights).into_iter().flat_map(all).collect()
}

/// Kinds of sharing that may pay: a wider one is tried only where codebooks weigh against codes.
fn reaches(weights: &Weights) -> Vec<Sharing> {
    let middle = BlockSpec { width: 4 };
    let mut reaches = Vec::new();
    for sharing in Sharing::ALL {
        reaches.push(sharing);
        let sharers = weights.sharers(&vec![Choice::Block { spec: middle, sharing }; weights.units.len()]);
        let light = |(u, sharers): (usize, &usize)| {
            let [rows, columns] = weights.units[u].unit.shape();
            middle.codebook_bytes() * 50 <= rows * middle.pieces(columns) * sharers
        };
        if sharers.iter().enumerate().all(light) {
            break;
        }
    }
    reaches
}

/// Bytes of a unit's codes and scales, and of about the nodes that decode it.
fn unit_bytes(weights: &Weights, unit: usize, spec: BlockSpec) -> u64 {
    let [rows, columns] = weights.units[unit].unit.shape();
    (rows * (spec.pieces(columns) + 1)) as u64 + NODES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_near_a_width_are_the_nearest_on_offer() {
        assert_eq!(widths_near(5, 1), [5]);
        assert_eq!(widths_near(4, 5), [4, 3, 5, 2, 6]);
        assert_eq!(widths_near(3, 4), [3, 2, 4, 5]);
        assert_eq!(widths_near(8, 3), [8, 7, 6]);
    }
}
