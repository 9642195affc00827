//! The choice of a form for each recurrent node.
//!
//! The requested form is for the whole model and decided for each node: if the form cannot compute the node, or would not
//! be faster, the node is written in the portable form, and the report shows the reason.

use super::{fast, vendor};
use crate::recurrent::{Bias, Cell, Matrix, RecurrentNode, Survey};

/// A way to write a recurrent node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The node with weights that are decoded when the model is loaded: [`portable`](super::portable).
    #[default]
    Portable,
    /// A Scan over int8 products, of standard operators: [`fast`].
    Fast,
    /// onnxruntime's own quantised LSTM, and the fast form for other cells that have one: [`vendor`].
    Ort,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 3] = [Form::Portable, Form::Fast, Form::Ort];

    /// Its name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Form::Portable => "portable",
            Form::Fast => "fast",
            Form::Ort => "ort",
        }
    }

    /// The largest level that atoms may have. CPUs without VNNI add the products of a byte and a level in pairs of 16
    /// bits, which 255 times 127, twice, does not fit in: the sums would be wrong there, and there alone.
    pub fn peak(self) -> i8 {
        match self {
            Form::Portable => i8::MAX,
            Form::Fast | Form::Ort => i8::MAX / 2,
        }
    }

    /// The form that a node of this cell takes where this one is asked for; `None` for a cell that has the portable form
    /// only.
    fn of_cell(self, cell: Cell) -> Option<Form> {
        match (self, cell) {
            (Form::Portable, _) => Some(Form::Portable),
            (Form::Ort, Cell::Lstm) => Some(Form::Ort),
            (Form::Fast | Form::Ort, Cell::Lstm | Cell::Gru) => Some(Form::Fast),
            (Form::Fast | Form::Ort, _) => None,
        }
    }

    /// Hidden size from which the form was measured to be faster.
    fn pays_from(self) -> usize {
        match self {
            Form::Portable => 0,
            Form::Fast => fast::PAYS_FROM,
            Form::Ort => vendor::PAYS_FROM,
        }
    }
}

/// The requested form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The form.
    pub form: Form,
    /// The smallest hidden size of a node for which the form is used; `None`: the size from which it was measured to be faster.
    pub from: Option<usize>,
}

/// The form of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The form.
    pub form: Form,
    /// Why it is not the requested one.
    pub reason: Option<String>,
}

/// The form of every node of `survey`. `bias` gives a node's B and is asked only where a form needs it, `obstacle` why a
/// weight (by index in [`Survey::weights`]) cannot be multiplied in a form.
pub fn assign<'b>(
    survey: &Survey,
    opset: i64,
    request: Request,
    bias: &dyn Fn(usize) -> Option<&'b Bias>,
    obstacle: impl Fn(usize, Form) -> Option<String>,
) -> Vec<Assigned> {
    let weights = |node: usize| Matrix::BOTH.iter().filter_map(move |&matrix| survey.weight_of(node, matrix));
    let mut assigned: Vec<Assigned> = (0..survey.nodes.len())
        .map(|index| {
            let node = &survey.nodes[index];
            let Some(form) = request.form.of_cell(node.cell) else {
                let reason = format!("{} nodes have the portable form only", node.cell.operator());
                return Assigned { form: Form::Portable, reason: Some(reason) };
            };
            match refusal(node, form, opset, request.from, || bias(index))
                .or_else(|| weights(index).find_map(|weight| obstacle(weight, form)))
            {
                None => Assigned { form, reason: None },
                reason => Assigned { form: Form::Portable, reason },
            }
        })
        .collect();
    // A weight is stored in one way: who shares one with a portable node is portable too.
    while let Some((node, other)) = survey.weights.iter().find_map(|weight| {
        let portable = weight.uses.iter().find(|u| assigned[u.node].form == Form::Portable)?;
        let odd = weight.uses.iter().find(|u| assigned[u.node].form != Form::Portable)?;
        Some((odd.node, portable.node))
    }) {
        let reason = format!("it shares weights with '{}', which is portable", survey.nodes[other].name);
        assigned[node] = Assigned { form: Form::Portable, reason: Some(reason) };
    }
    assigned
}

/// Why a form cannot compute a node, or would not be faster.
fn refusal<'b>(
    node: &RecurrentNode,
    form: Form,
    opset: i64,
    from: Option<usize>,
    bias: impl FnOnce() -> Option<&'b Bias>,
) -> Option<String> {
    if form == Form::Portable {
        return None;
    }
    let (hidden, from) = (node.attributes.hidden, from.unwrap_or(form.pays_from()));
    if hidden < from {
        return Some(format!("hidden size {hidden} is below {from}, where this form starts to be faster"));
    }
    if form == Form::Fast { fast::refusal(node, opset, bias) } else { vendor::refusal(node) }
}
