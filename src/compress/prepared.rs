//! A model after what makes its file smaller without coding, and its sites.

use std::borrow::Cow;

use super::Options;
use crate::engine::Engine;
use crate::error::Result;
use crate::lossless::{self, Saving};
use crate::onnx::Model;
use crate::sites::Sites;

/// The sites of a model, and what is coded in place of it.
pub struct Prepared {
    /// The sites of the model that is coded.
    sites: Sites,
    /// What is coded, where it is not the model itself.
    changed: Option<Changed>,
}

/// A model whose file was made smaller.
struct Changed {
    /// With the names of its nodes: what is run, and what messages speak of.
    model: Model,
    /// What is written; the same nodes in the same places.
    written: Model,
    steps: Vec<Saving>,
    /// The sites of the model as the user has it.
    original: Sites,
}

impl Prepared {
    /// Takes the steps that `options` ask for, and finds the sites of what comes out.
    ///
    /// # Errors
    /// As [`Compressor::new`](super::Compressor::new).
    pub fn new(model: &Model, options: &Options) -> Result<Prepared> {
        // A file of which nothing but tables is coded has no sites.
        let sites = Sites::all(model, &options.nodes)?;
        super::refuse_coded(model, &sites)?;
        let sites = sites.not_empty(&options.nodes)?;
        let Some(lossless) = options.lossless else { return Ok(Prepared { sites, changed: None }) };
        let (changed, mut steps) = exact_unless_run(model, &lossless)?;
        let found = Sites::find(&changed, &options.nodes)?;
        // The recurrent nodes of reports and plans are those of the original; a matrix may be generated instead.
        if found.survey.weights.len() != sites.survey.weights.len() {
            return Ok(Prepared { sites, changed: None });
        }
        let mut written = changed.clone();
        if !lossless.keep_names {
            steps.extend(lossless::clear_node_names(&mut written)?);
        }
        let changed = Changed { model: changed, written, steps, original: sites };
        Ok(Prepared { sites: found, changed: Some(changed) })
    }

    /// Sites that were found in the model itself, which is coded as it is.
    pub fn unchanged(sites: Sites) -> Prepared {
        Prepared { sites, changed: None }
    }

    /// The sites.
    #[must_use]
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Model with names, model to write, steps, sites and those of the original.
    pub(super) fn parts<'a>(self, model: &'a Model) -> Parts<'a> {
        match self.changed {
            None => Parts {
                model: model.into(),
                written: model.into(),
                steps: Vec::new(),
                before: self.sites.clone(),
                sites: self.sites,
            },
            Some(Changed { model, written, steps, original }) => Parts {
                model: Cow::Owned(model),
                written: Cow::Owned(written),
                steps,
                before: original,
                sites: self.sites,
            },
        }
    }
}

/// What a compressor keeps of it.
pub(super) struct Parts<'a> {
    pub model: Cow<'a, Model>,
    pub written: Cow<'a, Model>,
    pub steps: Vec<Saving>,
    pub before: Sites,
    pub sites: Sites,
}

/// Takes the steps; the one that is not exact only if the engine can run the model, for it is verified by nothing else.
fn exact_unless_run(model: &Model, options: &lossless::LosslessOptions) -> Result<(Model, Vec<Saving>)> {
    let (result, steps) = lossless::apply(model, options)?;
    if steps.iter().all(|step| step.exact) || Engine::new(&result).is_ok() {
        return Ok((result, steps));
    }
    lossless::apply(model, &lossless::LosslessOptions { generate_dft: false, ..*options })
}

/// The model with nothing coded, and what each step saved.
///
/// # Errors
/// As [`lossless::apply`]; [`ErrorKind::NothingToDo`](crate::error::ErrorKind::NothingToDo) if the file gets no smaller.
pub fn without_coding(model: &Model, options: &lossless::LosslessOptions) -> Result<(Model, Vec<Saving>)> {
    let (mut result, mut steps) = exact_unless_run(model, options)?;
    if !options.keep_names {
        steps.extend(lossless::clear_node_names(&mut result)?);
    }
    super::refuse_larger(model, result.saved_bytes()?, "use the original, or compress its weights (--ratio)")
        .map_err(|error| super::located(model, error))?;
    Ok((result, steps))
}
