//! The forms of a model's nodes under a plan, and what a step of the model takes in them.

use serde::Serialize;

use super::{Assigned, Form, Request, Work, assign, obstacle};
use crate::onnx::Model;
use crate::plan::{Choice, Storage};
use crate::recurrent::Bias;
use crate::sites::{PerSite, Site, SiteId, Sites, TensorId};
use std::sync::OnceLock;

/// Chooses the forms of a model's nodes.
pub struct Forms<'a> {
    model: &'a Model,
    sites: &'a Sites,
    /// For each node its B, read once a form needs it: the portable form does not.
    biases: OnceLock<Vec<Option<Bias>>>,
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

impl<'a> Forms<'a> {
    /// Of the nodes that have these sites.
    #[must_use]
    pub fn new(model: &'a Model, sites: &'a Sites) -> Self {
        Forms { model, sites, biases: OnceLock::new() }
    }

    /// The form of every node where the sites are stored as `storage` says.
    pub fn assign(&self, request: Request, storage: &dyn Fn(SiteId) -> Storage) -> Vec<Assigned> {
        let obstacle = |tensor: usize, form: Form| {
            let tensor = TensorId(tensor);
            let product = (self.sites.survey.weights[tensor.0].uses[0].matrix, self.sites.vectors(tensor));
            let directions = self.directions(tensor, storage);
            directions.iter().find_map(|blocks| obstacle(blocks, product, form, request.from.is_none()))
        };
        let bias = |node: usize| self.biases.get_or_init(|| self.sites.survey.biases(self.model))[node].as_ref();
        assign(&self.sites.survey, self.model.opset(), request, &bias, obstacle)
    }

    /// For each site the form of the nodes that use it: portable for those of linear nodes.
    pub fn of_sites(&self, request: Request, storage: &dyn Fn(SiteId) -> Storage) -> PerSite<Form> {
        let forms = self.assign(request, storage);
        let form = |site: &Site| {
            self.sites.weight(site.tensor).map_or(Form::Portable, |weight| forms[weight.uses[0].node].form)
        };
        self.sites.map(form)
    }

    /// Multiply-adds of a step of all recurrent nodes under a plan, and which of them are done in another form than portable.
    #[must_use]
    pub fn work(&self, choices: &PerSite<Choice>, forms: &[Assigned]) -> MultiplyAdds {
        let mut total = MultiplyAdds::default();
        for (tensor, weight) in self.sites.survey.weights.iter().enumerate() {
            let tensor = TensorId(tensor);
            for blocks in self.directions(tensor, &|id| choices[id].storage()) {
                let work = Work::of(&blocks, self.sites.vectors(tensor));
                for used in &weight.uses {
                    let is_portable = forms[used.node].form == Form::Portable;
                    total.before += work.dense;
                    total.after += if is_portable { work.dense } else { work.factored };
                    total.factored += work.factored;
                }
            }
        }
        total
    }

    /// The sites of each direction of a tensor: rows and columns, and how they are stored.
    fn directions(&self, tensor: TensorId, storage: &dyn Fn(SiteId) -> Storage) -> Vec<Vec<([usize; 2], Storage)>> {
        let sites: Vec<_> = self.sites.of_tensor(tensor).collect();
        let directions = sites.chunk_by(|a, b| a.block.plane == b.block.plane);
        directions.map(|sites| sites.iter().map(|site| (site.block.shape(), storage(site.id))).collect()).collect()
    }
}
