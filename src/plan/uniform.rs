//! One rate for all sites: the plan without sensitivities, and the baseline of those with.

use super::curves::{self, Curves};
use super::{Choice, Plan, Sharing, Sizing};
use crate::dictionary::BlockSpec;
use crate::error::Result;
use crate::sites::{PerSite, SiteId};

/// One nominal rate for all sites, as few of them as needed one rate lower.
///
/// # Errors
/// [`ErrorKind::Target`](crate::error::ErrorKind) if even the lowest rate is too large, with the nearest that can be had.
pub fn uniform(sizing: &Sizing<'_>, equal: &PerSite<f64>, target: u64) -> Result<Plan> {
    let sites = sizing.sites;
    let mut order: Vec<SiteId> = sites.ids().collect();
    order.sort_by_key(|&id| std::cmp::Reverse(sites.get(id).block.weights()));
    let mixed = |sharing, high: BlockSpec, low: BlockSpec, moved: usize| {
        // Integers are of one byte as they are.
        let at = |id, spec: BlockSpec| match sites.grid(id) {
            Some(_) if spec.width == 1 => Choice::Dense,
            _ => Choice::Block { spec, sharing },
        };
        let mut plan = Plan::alike(Choice::Dense, equal);
        sites.ids().for_each(|id| plan.choices[id] = at(id, high));
        order[..moved].iter().for_each(|&id| plan.choices[id] = at(id, low));
        plan
    };
    let mut best: Option<(f64, Plan)> = None;
    let mut smallest = u64::MAX;
    for sharing in Sharing::ALL {
        let specs: Vec<_> = curves::specs().collect();
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
        // Of the numbers of moved sites that fit, the least: sizes fall with every site moved, up to a codebook's bytes.
        let (mut too_few, mut enough) = (0, if fits == 0 { 0 } else { sites.len() });
        while enough - too_few > 1 {
            let middle = (too_few + enough) / 2;
            if sizing.bytes(&mixed(sharing, high, low, middle))? <= target { enough = middle } else { too_few = middle }
        }
        let plan = mixed(sharing, high, low, enough);
        let bits = plan.code_bits(sites);
        if best.as_ref().is_none_or(|(most, _)| bits > *most) {
            best = Some((bits, plan));
        }
    }
    best.map(|(_, plan)| plan).ok_or_else(|| sizing.too_small(target, smallest))
}

/// Fails for a target that no plan meets, before anything is run or learned: what is smallest is known from shapes.
/// `one_rate` is for plans with one for all sites; `adjust` has the last word on a plan.
///
/// # Errors
/// [`ErrorKind::Target`](crate::error::ErrorKind), with the nearest that can be had.
pub fn check_target(sizing: &Sizing<'_>, target: u64, one_rate: bool, adjust: impl Fn(&mut Plan)) -> Result<()> {
    match smallest(sizing, target, one_rate, adjust)? {
        bytes if bytes <= target => Ok(()),
        bytes => Err(sizing.too_small(target, bytes)),
    }
}

/// The bytes of the smallest file that a plan makes, or of the first that is at most `target`, as for [`check_target`].
///
/// # Errors
/// Those of counting bytes.
pub fn smallest(sizing: &Sizing<'_>, target: u64, one_rate: bool, adjust: impl Fn(&mut Plan)) -> Result<u64> {
    let mut smallest = u64::MAX;
    for mut plan in floors(sizing, one_rate) {
        adjust(&mut plan);
        smallest = smallest.min(sizing.bytes(&plan)?);
        if smallest <= target {
            break;
        }
    }
    Ok(smallest)
}

/// The plans that allocations come down to under ever smaller targets.
fn floors(sizing: &Sizing<'_>, one_rate: bool) -> Vec<Plan> {
    let equal = sizing.sites.map(|_| 1.0);
    let alike = |spec, sharing| Plan::alike(Choice::Block { spec, sharing }, &equal);
    // The widest atoms make the fewest codes, but in small layers a codebook weighs more than its codes.
    let mut floors: Vec<Plan> =
        curves::specs().flat_map(|spec| Sharing::ALL.map(|sharing| alike(spec, sharing))).collect();
    // What is stored in fewer bytes already.
    if sizing.keeps_dense.values().all(|keeps| *keeps) {
        floors.push(Plan::alike(Choice::Dense, &equal));
    }
    if !one_rate {
        floors.extend(Curves::of_shapes(sizing.sites).floors(sizing));
    }
    floors
}
