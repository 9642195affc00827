//! Plans with projection dictionaries: one price of a byte divides all dictionaries of a model
//! ([`dictionary::divide`]), and the price is found at which the file just fits.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Choice, Curves, Plan, Sizing};
use crate::dictionary::{self, Bands, Basis, Demand, Division, Metric, WeightMatrix};
use crate::error::Result;
use crate::sites::{PerSite, Section, SiteId, Weights};

/// About what the nodes that rebuild one band of one unit take in the file: units of a matrix have many in common.
const NODES: f64 = 250.0;
/// Prices that are tried for a target.
const PRICES: usize = 26;
/// The range of prices, in loss for a byte: what a file of one byte would save, down to where nothing more can be saved.
const DEAREST: f64 = 1.0;
const CHEAPEST: f64 = 1e-18;

/// The vectors that the weights of a model multiply, and what each site has to gain by a dictionary for them.
pub struct Dictionaries<'a> {
    sensitivity: &'a PerSite<f64>,
    vectors: Vec<SharedVector>,
    /// Vectors that sites connect: a site is coded with dictionaries for all of its columns or for none.
    stacks: Vec<Vec<usize>>,
}

/// What else sites can be stored as.
struct Rivals<'r> {
    curves: &'r Curves,
    /// Stacks that dictionaries are not for.
    taken: &'r [bool],
}

/// A vector that several sites multiply, and what they gain by a dictionary for it.
struct SharedVector {
    columns: usize,
    /// Sites that multiply it, and in which of their sections.
    members: Vec<(SiteId, usize)>,
    demands: Vec<Demand>,
    /// Whether these sites are made of integers.
    of_integers: bool,
}

impl<'a> Dictionaries<'a> {
    /// Looks at all vectors.
    ///
    /// # Errors
    /// As [`Basis::mine`].
    pub fn mine(
        weights: &Weights,
        metrics: &PerSite<Arc<Metric>>,
        sensitivity: &'a PerSite<f64>,
    ) -> Result<Dictionaries<'a>> {
        let count = weights.inputs.iter().flat_map(|input| &input.sections).map(|s| s.shared + 1).max().unwrap_or(0);
        let vectors: Vec<SharedVector> = (0..count)
            .into_par_iter()
            .map(|shared| {
                let members: Vec<(SiteId, usize)> = weights
                    .ids()
                    .flat_map(|id| (0..weights.sections(id).len()).map(move |s| (id, s)))
                    .filter(|&(id, s)| weights.sections(id)[s].shared == shared)
                    .collect();
                let section = |&(id, s): &(SiteId, usize)| weights.sections(id)[s];
                let columns = members.first().map_or(0, |member| section(member).columns);
                let starts: Vec<usize> = members.iter().map(|member| section(member).start).collect();
                let matrix = |&(id, _): &(SiteId, usize)| WeightMatrix {
                    weights: weights.rows(id),
                    metric: &metrics[id],
                    importance: sensitivity[id],
                    grid: None,
                };
                let matrices: Vec<_> = members.iter().map(matrix).collect();
                let demands = Basis::mine(&matrices, &starts, columns)?.demands;
                let of_integers = members.iter().any(|&(id, _)| weights.grid(id).is_some());
                Ok(SharedVector { columns, members, demands, of_integers })
            })
            .collect::<Result<_>>()?;
        let mut stacks: Vec<Vec<usize>> = (0..count).map(|vector| vec![vector]).collect();
        for sections in weights.inputs.iter().map(|input| &input.sections) {
            let pairs = sections.windows(2).map(|pair: &[Section]| [pair[0].shared, pair[1].shared]);
            for pair in pairs {
                let [a, b] = pair.map(|vector| {
                    stacks.iter().position(|stack| stack.contains(&vector)).expect("every vector is in one")
                });
                if a != b {
                    let moved = stacks.remove(a.max(b));
                    stacks[a.min(b)].extend(moved);
                }
            }
        }
        Ok(Dictionaries { sensitivity, vectors, stacks })
    }

    /// The plan of least predicted loss in a file of at most `target` bytes. With `rivals`, each stack of layers takes
    /// what is better at the price: dictionaries for its vectors, or what the curves have for each site.
    ///
    /// # Errors
    /// [`ErrorKind::Target`](crate::error::ErrorKind) if no plan fits, with the nearest that does.
    pub fn allocate(&self, sizing: &Sizing<'_>, rivals: Option<&Curves>, target: u64) -> Result<Plan> {
        // What another form takes the place of is multiplied as int8: here that is left to block codes.
        let taken = |stack: &Vec<usize>| {
            self.is_of_integers(stack) || self.sites(stack).into_iter().any(|id| !sizing.keeps_dense[id])
        };
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
        let divide = |v: &SharedVector| dictionary::divide(&v.demands, v.columns, price, NODES);
        let divisions: Vec<Division> = self.vectors.par_iter().map(divide).collect();
        let mut plan = Plan::alike(Choice::Dense, self.sensitivity);
        let choices = &mut plan.choices;
        let mut total = 0.0;
        for (index, stack) in self.stacks.iter().enumerate() {
            let loss: f64 = stack.iter().map(|&v| divisions[v].loss).sum();
            let bytes: f64 = stack.iter().map(|&v| divisions[v].bytes).sum();
            if let Some((rivals, (rival, picks))) =
                rivals.map(|rivals| (rivals, self.rival(rivals.curves, stack, price)))
                && (rivals.taken[index] || rival.0 + price * rival.1 < loss + price * bytes)
            {
                total += rival.0;
                picks.into_iter().for_each(|(id, choice)| choices[id] = choice);
                continue;
            }
            // Integers have to be decoded to integers: without another codec they stay as they are.
            if self.is_of_integers(stack) {
                continue;
            }
            total += loss;
            for &vector in stack {
                let members = self.vectors[vector].members.iter().zip(&divisions[vector].bands);
                for (&(id, section), &bands) in members {
                    let mut parts = match choices[id] {
                        Choice::Projection { parts } => parts,
                        _ => [Bands::default(); 2],
                    };
                    parts[section] = bands;
                    choices[id] = Choice::Projection { parts };
                }
            }
        }
        (plan, total)
    }

    /// Whether the vectors of a stack are multiplied by integers.
    fn is_of_integers(&self, stack: &[usize]) -> bool {
        stack.iter().any(|&vector| self.vectors[vector].of_integers)
    }

    /// The sites of a stack, in order.
    fn sites(&self, stack: &[usize]) -> Vec<SiteId> {
        let mut sites: Vec<SiteId> = stack.iter().flat_map(|&v| &self.vectors[v].members).map(|m| m.0).collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// What the curves have for the sites of a stack at a price: loss and bytes of all, and the choices.
    fn rival(&self, curves: &Curves, stack: &[usize], price: f64) -> ((f64, f64), Vec<(SiteId, Choice)>) {
        let (mut loss, mut bytes) = (0.0, 0.0);
        let pick = |id: SiteId| {
            let cost =
                |point: &&super::CurvePoint| self.sensitivity[id] * point.distortion + price * point.bytes as f64;
            let point = curves.points[id].iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let point = point.expect("a curve has at least its dense point");
            loss += self.sensitivity[id] * point.distortion;
            bytes += point.bytes as f64;
            (id, point.choice)
        };
        let picks = self.sites(stack).into_iter().map(pick).collect();
        ((loss, bytes), picks)
    }

    /// The distortion that each site of a plan is predicted to have; infinite for choices of other codecs.
    #[must_use]
    pub fn promised(&self, plan: &Plan) -> PerSite<f64> {
        let mut promised = plan.choices.map(|_, _| 0.0);
        for vector in &self.vectors {
            assert_eq!(vector.members.len(), vector.demands.len(), "each member of a dictionary has its demand");
            for (&(id, section), demand) in vector.members.iter().zip(&vector.demands) {
                promised[id] += match plan.choices[id] {
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
