//! Bytes of plans are added up from parts; here the sum is held to the file, to the byte.

use dirnet::encode::{self, Form, Measured, Request, Sizes, Writing};
use dirnet::onnx::{LoadOptions, Model};
use dirnet::plan::{Choice, Plan, Sharing};
use dirnet::recurrent::FindOptions;
use dirnet::sites::Weights;

use crate::{made, quick};

/// Plans of one model whose sites are stored in all kinds of ways, each from the number of the plan.
fn plans(weights: &Weights) -> Vec<Plan> {
    let sensitivity = weights.sites().map(|_| 1.0);
    let of = |choose: &dyn Fn(usize) -> Choice| Plan {
        choices: weights.sites().map(|site| choose(site.id.0)),
        sensitivity: sensitivity.clone(),
    };
    let mut plans = Vec::new();
    for seed in 0..6usize {
        let draw = move |site: usize| (site * 7919 + seed * 104_729 + site * site * 31) / 13;
        plans.push(of(&|site| match draw(site) % 5 {
            0 => Choice::Dense,
            n => {
                quick::block(1 + draw(site) % 6, [Sharing::Unit, Sharing::Matrix, Sharing::Unit, Sharing::Node][n - 1])
            }
        }));
        // Whole matrices stay as they are, and the others share.
        plans.push(of(&|site| match weights.all[site].tensor.0 % 2 == seed % 2 {
            true => Choice::Dense,
            false => quick::block(2 + seed, Sharing::ALL[seed % 4]),
        }));
    }
    plans.push(Plan {
        choices: weights.sites().map(|site| quick::projected(site, weights.sections(site.id))),
        sensitivity: sensitivity.clone(),
    });
    plans.push(Plan { choices: weights.sites().map(|site| quick::mixed(site, &[])), sensitivity });
    plans
}

#[test]
fn the_sum_of_the_parts_is_the_size_of_the_file() {
    let mut compared = 0;
    for path in made::model_files() {
        let model = Model::load(&path, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let Ok(weights) = Weights::find(&model, &FindOptions { recurrent_only: true, ..FindOptions::default() }) else {
            continue;
        };
        for form in Form::ALL {
            let request = Request { form, from: Some(1) };
            let writing = Writing { request, note: "how it was made".to_owned(), ..Writing::default() };
            let measured = Measured::default();
            let sizes = Sizes::new(&model, &weights, &writing, &measured);
            for (number, plan) in plans(&weights).iter().enumerate() {
                let place = format!("{} {form:?} plan {number}", path.display());
                let built = encode::size(&model, &weights, plan, &writing).unwrap_or_else(|e| panic!("{place}: {e}"));
                // Each time one more part is known, until all are.
                for known in 0..=weights.survey.weights.len() {
                    let added = sizes.bytes(plan).unwrap_or_else(|e| panic!("{place}: {e}"));
                    assert_eq!(added, built, "{place}, {known} parts known");
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 300, "{compared} plans");
}
