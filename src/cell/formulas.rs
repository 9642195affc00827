//! What a cell has to say so that the passes of this module run it: its [`Formulas`].
//!
//! A pass owns the loops over steps, the projection of X, the product with the state and the gradients of W; the cell
//! computes one step of all sequences at once. It is called once for each step, never for each number, so that its loops
//! are compiled as if they stood in the pass.

use super::backward::{Pass, State, Steps, add_outer, add_rows, matrix};
use super::effect::{Effect, SequenceStep};
use super::step::Forward;
use super::{Input, Output};

/// The formulas of one cell, and the memory that they need from step to step of one pass.
///
/// The gates of a step, `[B, G*H]`, have the gates in the order of the rows of W and R.
pub(super) trait Formulas {
    /// One step forward: takes the states in `out` one step further. `gates [B, G*H]` comes in as `X W^T + H R^T + b`, as
    /// far as [`own_products`](Self::own_products) and [`own_biases`](Self::own_biases) do not say otherwise, and is left
    /// as the activated gates. A sequence that is not `valid` keeps its state.
    fn step(&mut self, at: &Forward<'_>, gates: &mut [f32], out: &mut Output, valid: &dyn Fn(usize) -> bool);

    /// One step backward: from `state`, the gradients in the states after step `t`, to `gradients [B, G*H]` in what goes
    /// into the gates, which comes in as zeros, and to the gradients in the states before the step. Those of a sequence
    /// that is not valid at `t` pass.
    fn step_back(&mut self, pass: &Pass<'_>, t: usize, gradients: &mut [f32], state: &mut State);

    /// Adds `(dH'/da_g)^2`, summed over the hidden units, to `sums[g]` for each gate `g`, where `a_g` is what goes into
    /// its activation.
    fn add_squares(&mut self, of: &Effect<'_>, step: &SequenceStep<'_>, sums: &mut [f64]);

    /// How many of the last gates get `H R^T` from [`step`](Self::step) itself.
    fn own_products(&self) -> usize {
        0
    }

    /// How many of the last gates get their `Rb` from [`step`](Self::step) itself.
    fn own_biases(&self) -> usize {
        0
    }

    /// How many of the last gates have an R that multiplies another vector than `H`.
    fn other_vectors(&self) -> usize {
        0
    }

    /// What [`Trace::inner`](super::Trace::inner) holds of the step that was taken last, `[B, H]`; nothing if `None`.
    fn inner<'a>(&'a self, _out: &'a Output) -> Option<&'a [f32]> {
        None
    }

    /// Adds the gradients in R and Rb over all steps: by default those of gates that all multiply `H` and add `Rb`.
    fn add_recurrent(&self, r: &mut [f32], rb: &mut [f32], steps: Steps<'_>, _input: &Input<'_>) {
        let (rows, hidden) = (steps.spec.rows(), steps.spec.hidden);
        add_outer(r, matrix(steps.gradients, steps.count, rows), matrix(&steps.states, steps.count, hidden));
        add_rows(rb, steps.gradients, rows);
    }
}
