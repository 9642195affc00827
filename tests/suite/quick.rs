//! Codes that are learned in a moment, for tests of what is made of them. What tests of coded models need of the stages
//! between a model and its coded form is here, so that a change of these stages is one change of the tests.

use std::sync::Arc;

use dirnet::code::{self, CodedSite, CodedSites, Learning};
use dirnet::dictionary::{Band, Bands, BlockCode, BlockSpec, LearnOptions, Metric};
use dirnet::encode::{self, Writing};
use dirnet::encode::{Assigned, Form, Forms, Request};
use dirnet::onnx::{ElementType, Model};
use dirnet::plan::{Choice, Plan, Sharing, Storage};
use dirnet::progress::Silent;
use dirnet::recurrent::{FindOptions, Matrix};
use dirnet::sites::{Section, Site, SiteId, Weights};
use ndarray::{Array2, Axis, Slice};

/// The units of a plan, where all errors count alike and atoms have levels up to `peak`.
pub fn learn(weights: &Weights, plan: &Plan, peak: i8) -> CodedSites {
    let eye = |columns: usize| Arc::new(Metric::new(Array2::<f32>::eye(columns).view(), 0.01).unwrap());
    let metrics = weights.sites().map(|site| eye(site.block.columns));
    let options =
        LearnOptions { rounds: 1, kmeans_iterations: 2, refit_steps: 1, sweeps: 0, ..LearnOptions::default() };
    let how = Learning { metrics: &metrics, options, peaks: weights.sites().map(|_| peak) };
    code::learn(weights, plan, &how, &Silent).unwrap()
}

/// The forms of a model's nodes where its sites are stored as `storage` says.
pub fn forms(weights: &Weights, model: &Model, request: Request, storage: impl Fn(SiteId) -> Storage) -> Vec<Assigned> {
    Forms::new(model, weights).assign(request, &storage)
}

/// A model whose weights were coded.
pub struct Compressed {
    /// The coded model.
    pub model: Model,
    /// What its codes stand for.
    pub blocks: Vec<Decoded>,
}

/// One gate of W or R in one direction of one node, and the rows that its codes stand for.
pub struct Decoded {
    pub node: String,
    pub matrix: Matrix,
    pub direction: usize,
    /// The first of its rows within the direction.
    pub first: usize,
    /// `[H, n]`, by the definition of the codes, in the element type that the model stores.
    pub rows: Array2<f32>,
    /// Whether its bits are defined: a product of matrices may be summed in any order.
    pub exact: bool,
}

/// `model` in the portable form, each unit stored as `choose` says of it and its number.
pub fn compressed(model: &Model, choose: impl Fn(&Site, &[Section]) -> Choice) -> Compressed {
    let weights = Weights::find(model, &FindOptions { recurrent_only: true, ..FindOptions::default() }).unwrap();
    let choices = weights.sites().map(|site| choose(site, weights.sections(site.id)));
    let plan = Plan { choices, sensitivity: weights.sites().map(|_| 1.0) };
    let coded = learn(&weights, &plan, 127);
    let writing = Writing {
        note: "test".to_owned(),
        request: Request { form: Form::Portable, from: None },
        ..Writing::default()
    };
    let written = encode::apply(model, &weights, &coded, &writing).unwrap();
    let mut blocks = Vec::new();
    for (unit, coded) in weights.all.iter().map(|site| (site, &coded[site.id])) {
        let weight = &weights.survey.weights[unit.tensor.0];
        let half = weights.survey.source(weight).element != ElementType::Float;
        let (rows, exact) = match coded {
            None => (weights.rows(unit.id).to_owned(), true),
            Some(CodedSite::Block(coded)) => (stands_for(coded), true),
            Some(CodedSite::Projection(projected)) => {
                let mut rows = Array2::zeros((projected.rows, projected.columns));
                for part in &projected.parts {
                    let columns = Slice::from(part.start..part.start + part.atoms.columns);
                    for (codes, atoms) in part.codes.iter().zip(&part.atoms.bands) {
                        let [codes, atoms] = [codes, atoms].map(|coded| stands_for(coded).mapv(f64::from));
                        let mut target = rows.slice_axis_mut(Axis(1), columns);
                        target += &codes.dot(&atoms).mapv(|v| v as f32);
                    }
                }
                (rows, false)
            }
        };
        let rows = if half { rows.mapv(|v| half::f16::from_f32(v).to_f32()) } else { rows };
        for used in &weight.uses {
            blocks.push(Decoded {
                node: weights.survey.nodes[used.node].name.clone(),
                matrix: used.matrix,
                direction: unit.block.plane,
                first: unit.block.rows.clone().start,
                rows: rows.clone(),
                exact,
            });
        }
    }
    Compressed { model: written, blocks }
}

/// Block codes by their definition: weight `j` of row `i` is level `j mod d` of the atom of its piece, times the scale of
/// the row, which is a byte times a step. Not by the function that the product has for it.
fn stands_for(coded: &BlockCode) -> Array2<f32> {
    let width = coded.codebook.spec.width;
    let pieces = coded.columns.div_ceil(width);
    Array2::from_shape_fn((coded.rows, coded.columns), |(i, j)| {
        let atom = usize::from(coded.codes[i * pieces + j / width]);
        let scale = f32::from(coded.scales.codes[i]) * coded.scales.step;
        f32::from(coded.codebook.atoms[atom * width + j % width]) * scale
    })
}

/// Pieces of one width, with codebooks that serve whom `sharing` says.
pub fn block(width: usize, sharing: Sharing) -> Choice {
    Choice::Block { spec: BlockSpec { width }, sharing }
}

/// Widths of all kinds next to one another, of which some do not divide a row, and dense gates among coded ones.
pub fn mixed(unit: &Site, _: &[Section]) -> Choice {
    let index = unit.id.0;
    let widths = [1, 2, 3, 4, 2, 5];
    match (index + unit.gate().map_or(0, |gate| gate.gate_index)) % 7 {
        6 => Choice::Dense,
        _ => block(widths[index % 6], Sharing::ALL[(index / 2) % 4]),
    }
}

/// Projection dictionaries of two bands, the second of which every other gate leaves out.
pub fn projected(unit: &Site, sections: &[Section]) -> Choice {
    let mut parts = [Bands::default(); 2];
    for (part, section) in parts.iter_mut().zip(sections) {
        let codes = if unit.gate().map_or(0, |gate| gate.gate_index) % 2 == 1 { 0 } else { 3 };
        let atoms = (section.columns / 2).max(1) as u16;
        let bands = [Band { atoms, width: 1, codes: 1 }, Band { atoms: 1, width: 2, codes }];
        *part = Bands::new(&bands).expect("sound bands");
    }
    Choice::Projection { parts }
}
