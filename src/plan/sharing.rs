//! What the sites of a plan have in common: codebooks and projection dictionaries.

use std::collections::BTreeMap;

use super::{Choice, Plan, Sharing};
use crate::dictionary::{Bands, BlockSpec};
use crate::sites::{PerSite, Site, SiteId, Sites};

/// A projection dictionary of a plan.
#[derive(Clone, Debug)]
pub struct DictionaryUse {
    /// Components of an atom.
    pub columns: usize,
    /// The sites that use it.
    pub members: Vec<Member>,
}

/// A site that uses a projection dictionary.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The site.
    pub site: SiteId,
    /// Which of its [`sections`](Sites::sections).
    pub section: usize,
    /// The bands of atoms as the site uses them.
    pub bands: Bands,
}

/// Kind of sharing, which of its kind, type of integers that the atoms have to be, and shape of the codebook.
type Group = (Sharing, usize, Option<i32>, BlockSpec);

fn group(sites: &Sites, site: &Site, spec: BlockSpec, sharing: Sharing) -> Group {
    let reach = match sharing {
        Sharing::Unit => site.id.0,
        Sharing::Matrix => site.tensor.0,
        // What no recurrent node reads is a node's only weight.
        Sharing::Node => match sites.weight(site.tensor) {
            Some(weight) => weight.uses[0].node,
            None => sites.survey.nodes.len() + site.tensor.0,
        },
        Sharing::Model => 0,
    };
    let integers = sites.grid(site.id).map(|_| sites.element(site.tensor) as i32);
    (sharing, reach, integers, spec)
}

impl Plan {
    /// The codebooks of the plan: their shape, and the sites that they serve.
    #[must_use]
    pub fn codebooks(&self, sites: &Sites) -> Vec<(BlockSpec, Vec<SiteId>)> {
        let mut groups: BTreeMap<Group, Vec<SiteId>> = BTreeMap::new();
        for (id, &choice) in self.choices.iter() {
            if let Choice::Block { spec, sharing } = choice {
                groups.entry(group(sites, sites.get(id), spec, sharing)).or_default().push(id);
            }
        }
        groups.into_iter().map(|((.., spec), sites)| (spec, sites)).collect()
    }

    /// The projection dictionaries of the plan.
    #[must_use]
    pub fn dictionaries(&self, sites: &Sites) -> Vec<DictionaryUse> {
        let mut found: BTreeMap<(usize, Bands), DictionaryUse> = BTreeMap::new();
        for (site, choice) in self.choices.iter() {
            let Choice::Projection { parts } = choice else { continue };
            for (section, (of, &bands)) in sites.sections(site).iter().zip(parts).enumerate() {
                let none = || DictionaryUse { columns: of.columns, members: Vec::new() };
                let dictionary = found.entry((of.shared, bands.dictionary())).or_insert_with(none);
                dictionary.members.push(Member { site, section, bands });
            }
        }
        found.into_values().collect()
    }

    /// Bytes of each site's codes and scales and of its equal part of the codebook or dictionaries that it shares: all but
    /// the nodes of the graph. `dense` are the bytes of the sites as they are.
    #[must_use]
    pub fn payload(&self, sites: &Sites, dense: &PerSite<u64>) -> PerSite<u64> {
        let scale = |id| usize::from(sites.grid(id).is_none());
        let mut bytes = self.choices.map(|id, choice| choice.code_bytes(&sites.get(id).block, scale(id), dense[id]));
        for (spec, members) in self.codebooks(sites) {
            members.iter().for_each(|&id| bytes[id] += (spec.codebook_bytes() / members.len()) as u64);
        }
        for DictionaryUse { columns, members } in self.dictionaries(sites) {
            let all = members[0].bands.dictionary_bytes(columns);
            members.iter().for_each(|member| bytes[member.site] += (all / members.len()) as u64);
        }
        bytes
    }
}
