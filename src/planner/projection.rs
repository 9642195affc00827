//! Plans with projection dictionaries: one price of a byte divides all dictionaries of a model
//! ([`dictionary::divide`]), and the price is found at which the file just fits.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Curves, Sizing};
use crate::coding::Weights;
use crate::dictionary::{self, Bands, Basis, Demand, Division, Matrix, Metric};
use crate::encode::{Form, Storage};
use crate::error::Result;
use crate::plan::{Choice, Plan};

/// About what the nodes that rebuild one band of one unit take in the file: units of a matrix have many in common.
const NODES: f64 = 250.0;
/// Prices that are tried for a target.
const PRICES: usize = 26;
/// The range of prices, in loss for a byte: what a file of one byte would save, down to where nothing more can be saved.
const DEAREST: f64 = 1.0;
const CHEAPEST: f64 = 1e-18;

/// The vectors that the weights of a model multiply, and what each unit has to gain by a dictionary for them.
pub struct Dictionaries<'a> {
    weights: &'a Weights,
    sensitivity: &'a [f64],
    vectors: Vec<Vector>,
    /// Vectors that units connect: a unit is coded with dictionaries for all of its columns or for none.
    stacks: Vec<Vec<usize>>,
}

/// What else units can be stored as.
struct Rivals<'r> {
    curves: &'r Curves,
    /// Stacks that dictionaries are not for.
    taken: &'r [bool],
}

/// A vector.
struct Vector {
    columns: usize,
    /// Units that multiply it, and in which of their sections.
    members: Vec<(usize, usize)>,
    demands: Vec<Demand>,
}

impl<'a> Dictionaries<'a> {
    /// Looks at all vectors.
    ///
    /// # Errors
    /// As [`Basis::mine`].
    pub fn mine(weights: &'a Weights, metrics: &[Arc<Metric>], sensitivity: &'a [f64]) -> Result<Dictionaries<'a>> {
        let sections = || weights.units.iter().flat_map(|unit| &unit.sections);
        let count = sections().map(|section| section.vector + 1).max().unwrap_or(0);
        let vectors: Vec<Vector> = (0..count)
            .into_par_iter()
            .map(|vector| {
                let members: Vec<(usize, usize)> = weights
                    .units
                    .iter()
                    .enumerate()
                    .flat_map(|(u, unit)| (0..unit.sections.len()).map(move |s| (u, s)))
                    .filter(|&(u, s)| weights.units[u].sections[s].vector == vector)
                    .collect();
                let section = |&(u, s): &(usize, usize)| weights.units[u].sections[s];
                let columns = members.first().map_or(0, |member| section(member).columns);
                let starts: Vec<usize> = members.iter().map(|member| section(member).start).collect();
                let matrix = |&(u, _): &(usize, usize)| Matrix {
                    weights: weights.rows(u),
                    metric: &metrics[u],
                    importance: sensitivity[u],
                };
                let matrices: Vec<_> = members.iter().map(matrix).collect();
                let demands = Basis::mine(&matrices, &starts, columns)?.demands;
                Ok(Vector { columns, members, demands })
            })
            .collect::<Result<_>>()?;
        let mut stacks: Vec<Vec<usize>> = (0..count).map(|vector| vec![vector]).collect();
        for unit in &weights.units {
            for pair in unit.sections.windows(2) {
                let [a, b] = [pair[0].vector, pair[1].vector].map(|vector| {
                    stacks.iter().position(|stack| stack.contains(&vector)).expect("every vector is in one")
                });
                if a != b {
                    let moved = stacks.remove(a.max(b));
                    stacks[a.min(b)].extend(moved);
                }
            }
        }
        Ok(Dictionaries { weights, sensitivity, vectors, stacks })
    }

    /// The plan of least predicted loss in a file of at most `target` bytes. With `rivals`, each stack of layers takes
    /// what is better at the price: dictionaries for its vectors, or what the curves have for each unit.
    ///
    /// # Errors
    /// [`ErrorKind::Target`](crate::error::ErrorKind) if no plan fits, with the nearest that does.
    pub fn allocate(&self, sizing: &Sizing<'_>, rivals: Option<&Curves>, target: u64) -> Result<Plan> {
        // What another form takes the place of is multiplied as int8: here that is left to block codes.
        let forms = sizing.weights.unit_forms(sizing.model, sizing.writing.request, |_| Storage::Block);
        let taken = |stack: &Vec<usize>| self.units(stack).into_iter().any(|unit| forms[unit] != Form::Portable);
        let taken: Vec<bool> = self.stacks.iter().map(taken).collect();
        let rivals = rivals.map(|curves| Rivals { curves, taken: &taken });
        let total: f64 = self.vectors.iter().flat_map(|v| &v.demands).map(energy).sum();
        let unit = if total > 0.0 && total.is_finite() { total } else { 1.0 };
        let (mut dear, mut cheap) = ((DEAREST * unit).ln(), (CHEAPEST * unit).ln());
        let mut best: Option<(f64, Plan)> = None;
        let mut smallest = u64::MAX;
        for step in 0..PRICES {
            let price = match step {
                0 => dear,
                1 => cheap,
                _ => (dear + cheap) / 2.0,
            };
            let (plan, loss) = self.at(price.exp(), rivals.as_ref());
            let bytes = sizing.bytes(&plan)?;
            smallest = smallest.min(bytes);
            if bytes > target {
                if step == 0 {
                    break;
                }
                cheap = price;
                continue;
            }
            dear = price;
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, plan));
            }
            if step == 1 {
                break;
            }
        }
        best.map(|(_, plan)| plan).ok_or_else(|| sizing.too_small(target, smallest))
    }

    /// The plan at a price, and its predicted loss.
    fn at(&self, price: f64, rivals: Option<&Rivals<'_>>) -> (Plan, f64) {
        let divide = |v: &Vector| dictionary::divide(&v.demands, v.columns, price, NODES);
        let divisions: Vec<Division> = self.vectors.par_iter().map(divide).collect();
        let mut choices = vec![Choice::Dense; self.weights.units.len()];
        let mut total = 0.0;
        for (index, stack) in self.stacks.iter().enumerate() {
            let loss: f64 = stack.iter().map(|&v| divisions[v].loss).sum();
            let bytes: f64 = stack.iter().map(|&v| divisions[v].bytes).sum();
            if let Some((rivals, (rival, picks))) =
                rivals.map(|rivals| (rivals, self.rival(rivals.curves, stack, price)))
                && (rivals.taken[index] || rival.0 + price * rival.1 < loss + price * bytes)
            {
                total += rival.0;
                picks.into_iter().for_each(|(unit, choice)| choices[unit] = choice);
                continue;
            }
            total += loss;
            for &vector in stack {
                let members = self.vectors[vector].members.iter().zip(&divisions[vector].bands);
                for (&(unit, section), &bands) in members {
                    let mut parts = match choices[unit] {
                        Choice::Projection { parts } => parts,
                        _ => [Bands::default(); 2],
                    };
                    parts[section] = bands;
                    choices[unit] = Choice::Projection { parts };
                }
            }
        }
        (Plan { choices, sensitivity: self.sensitivity.to_vec() }, total)
    }

    /// The units of a stack, in order.
    fn units(&self, stack: &[usize]) -> Vec<usize> {
        let mut units: Vec<usize> = stack.iter().flat_map(|&v| &self.vectors[v].members).map(|m| m.0).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    /// What the curves have for the units of a stack at a price: loss and bytes of all, and the choices.
    fn rival(&self, curves: &Curves, stack: &[usize], price: f64) -> ((f64, f64), Vec<(usize, Choice)>) {
        let (mut loss, mut bytes) = (0.0, 0.0);
        let pick = |unit: usize| {
            let cost = |point: &&super::Point| self.sensitivity[unit] * point.distortion + price * point.bytes as f64;
            let point = curves.units[unit].iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let point = point.expect("a curve has at least its dense point");
            loss += self.sensitivity[unit] * point.distortion;
            bytes += point.bytes as f64;
            (unit, point.choice)
        };
        let picks = self.units(stack).into_iter().map(pick).collect();
        ((loss, bytes), picks)
    }

    /// The distortion that each unit of a plan is predicted to have; infinite for choices of other codecs.
    pub fn promised(&self, plan: &Plan) -> Vec<f64> {
        let mut promised = vec![0.0; plan.choices.len()];
        for vector in &self.vectors {
            for (&(unit, section), demand) in vector.members.iter().zip(&vector.demands) {
                promised[unit] += match plan.choices[unit] {
                    Choice::Projection { parts } => {
                        dictionary::predicted_distortion(demand, &parts[section], vector.columns)
                    }
                    _ => f64::INFINITY,
                };
            }
        }
        promised
    }
}

fn energy(demand: &Demand) -> f64 {
    demand.importance * demand.energies.iter().sum::<f64>()
}
