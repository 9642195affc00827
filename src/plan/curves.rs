//! Rate-distortion curves of sites, and the division of a target's bytes along them.
//!
//! The bytes of candidates are first estimates (a codebook's bytes are split among the sites that could share it, and
//! neighbours may share nodes); the exact size of a whole plan is then counted, and the budget that the allocation is
//! given is corrected until the file just fits.

use super::allocation::{self, Candidate};
use super::{Choice, Plan, Sharing, Sizing, uniform};
use crate::dictionary::{ATOMS, BlockSpec};
use crate::error::{ErrorKind, Result};
use crate::sites::{PerSite, Site, SiteId, SiteKind, Sites};

/// Widths of pieces on offer, from 8 bits a weight to half a bit.
const WIDTHS: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16];
/// Those that are learned where the others can be told from them.
const LEARNED: [usize; 5] = [1, 2, 4, 8, 16];
/// Pieces for each atom from which on no codebook knows them by heart, so that the distortion is smooth: its logarithm is
/// about linear in the bits of a weight. (From four on, what lies between those that are learned was 6 % off on average and 11 %
/// for the worst tenth, over seven models.)
const SMOOTH: usize = 8;
/// About what the nodes that decode one run of rows take in the file, with their names.
const NODES: u64 = 350;
/// How often the budget is corrected by the exact size of what it gave.
const CORRECTIONS: usize = 12;

/// The `count` widths of pieces nearest to `width`, itself first if it is on offer; never single weights, whose error is
/// too small to be told from noise.
#[must_use]
pub fn widths_near(width: usize, count: usize) -> Vec<usize> {
    let mut near: Vec<usize> = WIDTHS.into_iter().filter(|&w| w > 1).collect();
    near.sort_by_key(|w| w.abs_diff(width));
    near.truncate(count);
    near
}

pub(super) fn specs() -> impl Iterator<Item = BlockSpec> {
    WIDTHS.into_iter().map(|width| BlockSpec { width })
}

/// Whether a way is learned, whatever the sites.
#[must_use]
pub fn is_learned(choice: Choice) -> bool {
    !matches!(choice, Choice::Block { spec, .. } if !LEARNED.contains(&spec.width))
}

/// Whether the distortions of the sites that a codebook serves can be interpolated: small ones, whose codes cost little, are
/// learned in all ways.
#[must_use]
pub fn is_smooth(sites: &Sites, members: &[SiteId]) -> bool {
    let widest = BlockSpec { width: LEARNED[LEARNED.len() - 1] };
    let pieces = |&id: &SiteId| {
        let [rows, columns] = sites.get(id).block.shape();
        rows * widest.pieces(columns)
    };
    members.iter().map(pieces).all(|pieces| pieces >= SMOOTH * ATOMS)
}

/// `plan` with the codes of the sites of one kind a width coarser; `None` where they are as coarse as can be.
#[must_use]
pub fn coarser(sites: &Sites, plan: &Plan, of: SiteKind) -> Option<Plan> {
    let mut coarser = plan.clone();
    for (_, choice) in coarser.choices.iter_mut().filter(|(id, _)| sites.kind(sites.get(*id)) == of) {
        if let Choice::Block { spec, .. } = choice {
            spec.width = WIDTHS.into_iter().find(|&width| width > spec.width).unwrap_or(spec.width);
        }
    }
    (coarser != *plan).then_some(coarser)
}

/// What can be stored for each site, and what it costs.
#[derive(Clone, Debug)]
pub struct Curves {
    /// For each site its candidates, in the same order for all.
    pub points: PerSite<Vec<CurvePoint>>,
}

/// A point of a rate-distortion curve.
#[derive(Clone, Copy, Debug)]
pub struct CurvePoint {
    /// What is stored.
    pub choice: Choice,
    /// Estimated bytes.
    pub bytes: u64,
    /// `tr((W-Q) S (W-Q)^T)`.
    pub distortion: f64,
}

impl Curves {
    /// What is known before anything was learned: the bytes of every site in every way, at no distortion.
    #[must_use]
    pub fn of_shapes(sites: &Sites) -> Curves {
        let dense = sites.map(|site| sites.dense_bytes(site.id));
        let mut points: PerSite<Vec<CurvePoint>> = sites.map(|_| Vec::new());
        for choice in ways(sites).into_iter().chain([Choice::Dense]) {
            let payload = alike(sites, choice).payload(sites, &dense);
            for (id, points) in points.iter_mut() {
                let nodes = if choice == Choice::Dense { 0 } else { NODES };
                points.push(CurvePoint { choice, bytes: payload[id] + nodes, distortion: 0.0 });
            }
        }
        Curves { points }
    }

    /// Fills in distortions that are infinite, between those of codebooks that reach as far.
    pub fn interpolate(&mut self) {
        let log = |distortion: f64| distortion.max(f64::MIN_POSITIVE).ln();
        for (_, points) in self.points.iter_mut() {
            let known = points.clone();
            let bits = |point: &CurvePoint| match point.choice {
                Choice::Block { spec, sharing } => Some((sharing, 8.0 / spec.width as f64)),
                _ => None,
            };
            for point in points.iter_mut().filter(|point| point.distortion.is_infinite()) {
                let Some((sharing, at)) = bits(point) else { continue };
                let learned = known.iter().filter(|known| known.distortion.is_finite());
                let learned = learned.filter_map(|known| Some((bits(known)?, log(known.distortion))));
                let mut alike: Vec<_> = learned.filter(|((of, _), _)| *of == sharing).collect();
                alike.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
                let above = alike.partition_point(|((_, bits), _)| *bits < at);
                if above == 0 || above == alike.len() {
                    continue;
                }
                let [((_, less), coarse), ((_, more), fine)] = [alike[above - 1], alike[above]];
                point.distortion = (coarse + (fine - coarse) * (at - less) / (more - less)).exp();
            }
        }
    }

    /// The plan of least predicted loss `sum_u s_u D_u` in a file of at most `target` bytes.
    ///
    /// Budgets for single sites compete with budgets for whole matrices, which need fewer nodes, and with one rate for
    /// all: the finer choice is not the better one where graph and codebooks weigh more than codes.
    ///
    /// # Errors
    /// [`ErrorKind::Target`] if no plan fits, with the nearest that does.
    pub fn allocate(&self, sizing: &Sizing<'_>, sensitivity: &PerSite<f64>, target: u64) -> Result<Plan> {
        let mut search = Search::new(self, sizing, sensitivity, target);
        for (groups, sharings) in self.divisions(sizing.sites) {
            search.divide(&groups, &sharings)?;
        }
        match uniform(sizing, sensitivity, target) {
            Ok(plan) => {
                search.offer(plan)?;
            }
            Err(error) if error.kind() == ErrorKind::Target => {}
            Err(error) => return Err(error),
        }
        let (_, _, plan) = search.best.ok_or_else(|| sizing.too_small(target, search.smallest))?;
        Ok(plan)
    }

    /// What a plan is predicted to lose. Infinite for a choice that is not on the curves.
    #[must_use]
    pub fn predicted_loss(&self, plan: &Plan, sensitivity: &PerSite<f64>) -> f64 {
        Plan::predicted_loss(sensitivity, &plan.choices.map(|id, choice| self.distortion(id, *choice)))
    }

    /// The distortion of a site stored in a way; infinite for one that is not on its curve.
    #[must_use]
    pub fn distortion(&self, site: SiteId, choice: Choice) -> f64 {
        self.points[site].iter().find(|p| p.choice == choice).map_or(f64::INFINITY, |p| p.distortion)
    }

    /// The plans that [`allocate`](Self::allocate) comes down to under ever smaller targets.
    pub(super) fn floors(&self, sizing: &Sizing<'_>) -> Vec<Plan> {
        let equal = sizing.sites.map(|_| 1.0);
        let search = Search::new(self, sizing, &equal, 0);
        self.divisions(sizing.sites).iter().map(|(groups, sharings)| search.floor(groups, sharings)).collect()
    }

    /// The groups of sites that get one choice, and how far their codebooks may reach: single sites, and whole matrices,
    /// which need fewer nodes.
    fn divisions(&self, sites: &Sites) -> Vec<(Vec<Vec<SiteId>>, Vec<Sharing>)> {
        let single: Vec<Vec<SiteId>> = sites.ids().map(|id| vec![id]).collect();
        let ids = |of: &[Site]| of.iter().map(|site| site.id).collect();
        let matrices: Vec<Vec<SiteId>> = sites.by_tensor().map(ids).collect();
        let of_reach = |reach| [(single.clone(), vec![reach, Sharing::Unit]), (matrices.clone(), vec![reach])];
        self.reaches().into_iter().flat_map(of_reach).collect()
    }

    /// The ways of all curves, in order.
    fn ways(&self) -> impl Iterator<Item = Choice> + '_ {
        self.points.values().next().into_iter().flatten().map(|point| point.choice)
    }

    fn reaches(&self) -> Vec<Sharing> {
        let mut reaches: Vec<Sharing> = self.ways().filter_map(Choice::sharing).collect();
        reaches.dedup();
        reaches
    }
}

/// The search for the best plan under a target.
struct Search<'a> {
    curves: &'a Curves,
    sizing: &'a Sizing<'a>,
    sensitivity: &'a PerSite<f64>,
    target: u64,
    /// Its loss and bytes.
    best: Option<(f64, u64, Plan)>,
    smallest: u64,
}

impl<'a> Search<'a> {
    fn new(curves: &'a Curves, sizing: &'a Sizing<'a>, sensitivity: &'a PerSite<f64>, target: u64) -> Self {
        Search { curves, sizing, sensitivity, target, best: None, smallest: u64::MAX }
    }

    /// A point of a site's curve; the finest of those that are coded stands in where dense is not on offer.
    fn point(&self, site: SiteId, index: usize) -> &CurvePoint {
        let points = &self.curves.points[site];
        let point = &points[index];
        if point.choice != Choice::Dense || self.sizing.keeps_dense[site] {
            return point;
        }
        let coded = points.iter().filter(|p| p.choice.sharing() == Some(Sharing::Unit));
        coded.min_by(|a, b| a.distortion.total_cmp(&b.distortion)).unwrap_or(point)
    }

    /// Divides the bytes among groups of sites, each of which gets one choice.
    fn divide(&mut self, groups: &[Vec<SiteId>], sharings: &[Sharing]) -> Result<()> {
        let points = self.points(sharings);
        let candidates = self.candidates(groups, &points);
        let floor = candidates.iter().flat_map(|c| c.iter().map(|c| c.bytes).min()).sum();
        let mut budget = self.target.saturating_sub(self.sizing.kept()).max(floor);
        for _ in 0..CORRECTIONS {
            let Some(picks) = allocation::allocate(&candidates, budget) else { break };
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
    fn floor(&self, groups: &[Vec<SiteId>], sharings: &[Sharing]) -> Plan {
        let points = self.points(sharings);
        let candidates = self.candidates(groups, &points);
        let least = |of_group: &Vec<Candidate>| (0..of_group.len()).min_by_key(|&i| of_group[i].bytes).unwrap_or(0);
        self.plan(groups, &points, &candidates.iter().map(least).collect::<Vec<_>>())
    }

    /// The points of the curves whose codebooks reach so far.
    fn points(&self, sharings: &[Sharing]) -> Vec<usize> {
        let allowed = |choice: Choice| choice.sharing().is_none_or(|sharing| sharings.contains(&sharing));
        self.curves.ways().enumerate().filter(|(_, choice)| allowed(*choice)).map(|(index, _)| index).collect()
    }

    fn candidates(&self, groups: &[Vec<SiteId>], points: &[usize]) -> Vec<Vec<Candidate>> {
        groups.iter().map(|group| points.iter().map(|&i| self.candidate(group, i)).collect()).collect()
    }

    /// The plan that gives each group its pick among the points.
    fn plan(&self, groups: &[Vec<SiteId>], points: &[usize], picks: &[usize]) -> Plan {
        let mut plan = Plan::alike(Choice::Dense, self.sensitivity);
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
        let is_better = |best: &(f64, u64, Plan)| loss < best.0 || loss == best.0 && bytes < best.1;
        if bytes <= self.target && self.best.as_ref().is_none_or(is_better) {
            self.best = Some((loss, bytes, plan));
        }
        Ok(bytes)
    }

    /// One choice for a group of sites: those that share a codebook are rebuilt by one run of nodes.
    fn candidate(&self, group: &[SiteId], point: usize) -> Candidate {
        let points = group.iter().map(|&id| self.point(id, point));
        let bytes: u64 = points.clone().map(|p| p.bytes).sum();
        let saved = match points.clone().next().and_then(|p| p.choice.sharing()) {
            Some(Sharing::Unit) | None => 0,
            Some(_) => (group.len() as u64 - 1) * NODES,
        };
        let loss = group.iter().zip(points).map(|(&u, p)| self.sensitivity[u] * p.distortion).sum();
        Candidate { bytes: bytes - saved, loss }
    }
}

/// All ways in which sites are coded, in the order of the curves.
fn ways(sites: &Sites) -> Vec<Choice> {
    let all = |sharing| specs().map(move |spec| Choice::Block { spec, sharing });
    reaches(sites).into_iter().flat_map(all).collect()
}

fn alike(sites: &Sites, choice: Choice) -> Plan {
    Plan::alike(choice, &sites.map(|_| 1.0))
}

/// Kinds of sharing that may pay: a wider one is tried only where codebooks weigh against codes.
fn reaches(sites: &Sites) -> Vec<Sharing> {
    let middle = BlockSpec { width: 4 };
    let mut reaches = Vec::new();
    for sharing in Sharing::ALL {
        reaches.push(sharing);
        let codebooks = alike(sites, Choice::Block { spec: middle, sharing }).codebooks(sites);
        let light = |(_, members): &(BlockSpec, Vec<SiteId>)| {
            members.iter().all(|&id| {
                let [rows, columns] = sites.get(id).block.shape();
                middle.codebook_bytes() * 50 <= rows * middle.pieces(columns) * members.len()
            })
        };
        if codebooks.iter().all(light) {
            break;
        }
    }
    reaches
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
