//! The second moments of the inputs of sites: those that were measured, and what replaces those that were not.

use std::borrow::Cow;
use std::cell::RefCell;

use crate::calibrate::{self, Moment, SecondMoments};
use crate::recurrent::{Matrix, RecurrentNode};
use crate::sites::{InputOf, InputVector, Site, TensorId, Weights};

/// What calibration measured, by input of a site.
pub(super) struct Moments<'a> {
    pub weights: &'a Weights,
    pub measured: SecondMoments,
    /// The engine's number of each node of the survey.
    pub numbers: Vec<Option<usize>>,
    pub seed: u64,
    /// A warning for each node that no sample reaches.
    pub stand_ins: RefCell<Vec<String>>,
}

impl Moments<'_> {
    /// The moment of an input over all nodes that multiply it.
    pub fn of_input(&self, input: &InputVector) -> Cow<'_, Moment> {
        let vector = match &input.of {
            InputOf::Recurrent { vector, .. } => *vector,
            InputOf::Linear(nodes) => return self.of_linear(nodes, input.size),
        };
        let InputOf::Recurrent { nodes, .. } = &input.of else { unreachable!("seen above") };
        let of_node = |node: usize| self.measured.get(self.numbers[node]?, vector);
        let mut found = nodes.iter().filter_map(|&node| of_node(node));
        if let Some(first) = found.next() {
            let mut total = Cow::Borrowed(first);
            found.for_each(|moment| total.to_mut().merge(moment));
            return total;
        }
        let survey = &self.weights.survey;
        let number = nodes[0];
        let node = &survey.nodes[number];
        let is_twin = |other: &RecurrentNode| {
            (other.cell, other.attributes.hidden, other.input_size, other.attributes.direction)
                == (node.cell, node.attributes.hidden, node.input_size, node.attributes.direction)
        };
        let twin = survey.nodes.iter().enumerate().filter(|(_, other)| is_twin(other));
        if let Some((name, moment)) = twin.filter_map(|(i, other)| Some((&other.name, of_node(i)?))).next() {
            self.warn(format!("no sample reaches node '{}': calibrated with the inputs of '{name}'", node.name));
            return Cow::Borrowed(moment);
        }
        self.warn(format!("no sample reaches node '{}': calibrated with seeded random inputs", node.name));
        let [w, r] = Matrix::BOTH.map(|m| {
            let weight = survey.weight_of(number, m).expect("both weights of a found node are found");
            self.weights.values(TensorId(weight))
        });
        let seeded = calibrate::seeded(node, number, w, r, self.seed);
        Cow::Owned(seeded.get(number, vector).expect("a run of a node shows all its vectors").clone())
    }

    /// The moment of what linear nodes multiply. Tables have none: an error in any component counts alike there, as it does
    /// where no sample shows a vector.
    fn of_linear(&self, nodes: &[usize], size: usize) -> Cow<'_, Moment> {
        let mut found = nodes.iter().filter_map(|&node| self.measured.of_linear(node));
        let Some(first) = found.next() else { return Cow::Owned(Moment::alike(size)) };
        let mut total = Cow::Borrowed(first);
        found.for_each(|moment| total.to_mut().merge(moment));
        total
    }

    /// The sensitivity of a site from the derivatives of its gate, over all nodes that use it.
    pub fn local(&self, site: &Site) -> Option<f64> {
        let gate = site.gate()?;
        let InputOf::Recurrent { nodes, .. } = &self.weights.inputs[site.input.0].of else { return None };
        let slopes = nodes.iter().filter_map(|&node| self.measured.slopes(self.numbers[node]?, gate.direction_index));
        let slopes: Vec<f64> = slopes.map(|s| s.relative(gate.gate_index)).collect();
        (!slopes.is_empty()).then(|| slopes.iter().sum())
    }

    fn warn(&self, text: String) {
        let mut stand_ins = self.stand_ins.borrow_mut();
        if !stand_ins.contains(&text) {
            stand_ins.push(text);
        }
    }
}
