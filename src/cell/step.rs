//! One step forward of any cell over a batch: the recurrent product, then the cell's [`Formulas`].
//!
//! What is done to the gates of one sequence is a [`WithSimd`], not a closure: only the bodies of those are sure to be
//! compiled for the vector instructions that the CPU turns out to have.

use super::formulas::Formulas;
use super::product::add_product;
use super::{Activation, CellWeights, Output, Spec, int8};
use pulp::{Arch, Simd, WithSimd};

/// A cell ready to be stepped, with the buffers that its steps share.
pub(super) struct Step<'a> {
    forward: Forward<'a>,
    formulas: Box<dyn Formulas>,
    /// H as it is multiplied, `[B, H]`, where it is rounded to eight bits before; else empty.
    rounded: Vec<f32>,
}

/// What the formulas of a step forward refer to.
pub(super) struct Forward<'a> {
    pub spec: &'a Spec,
    pub weights: &'a CellWeights<'a>,
    /// The CPU's vector instructions.
    pub arch: Arch,
}

impl<'a> Step<'a> {
    pub(super) fn new(spec: &'a Spec, weights: &'a CellWeights<'a>, batch: usize, int8: bool) -> Self {
        let rounded = vec![0.; if int8 { batch * spec.hidden } else { 0 }];
        Step { forward: Forward { spec, weights, arch: Arch::new() }, formulas: spec.kind.formulas(), rounded }
    }

    /// The biases that are added outside the recurrence, `[G*H]`: all but the `Rb` that the cell adds itself.
    pub(super) fn input_bias(&self) -> Vec<f32> {
        let Forward { spec, weights, .. } = self.forward;
        let rows = spec.rows();
        let Some(b) = weights.b else { return vec![0.; rows] };
        let mut bias = b[..rows].to_vec();
        let outside = rows - self.formulas.own_biases() * spec.hidden;
        bias[..outside].iter_mut().zip(&b[rows..]).for_each(|(bias, rb)| *bias += rb);
        bias
    }

    /// What a trace keeps of the last step beside its gates, `[B, H]`.
    pub(super) fn inner<'s>(&'s self, out: &'s Output) -> Option<&'s [f32]> {
        self.formulas.inner(out)
    }

    /// Takes the states in `out` one step further. `gates [B, G*H]` comes in as `X W^T + bias` and is left as the
    /// activated gates. Sequences that are not `valid` at this step keep their state.
    pub(super) fn advance(&mut self, gates: &mut [f32], out: &mut Output, valid: impl Fn(usize) -> bool) {
        let Forward { spec, weights, .. } = self.forward;
        let (rows, hidden) = (spec.rows(), spec.hidden);
        let mut h = &out.h;
        if !self.rounded.is_empty() {
            self.rounded.copy_from_slice(h);
            int8::round(&mut self.rounded);
            h = &self.rounded;
        }
        let here = rows - self.formulas.own_products() * hidden;
        add_product(gates, rows, h, &weights.r[..here * hidden], here, hidden);
        self.formulas.step(&self.forward, gates, out, &valid);
    }
}

/// The activation of gates of one sequence, behind the clip.
pub(super) struct Activate<'a> {
    pub gates: &'a mut [f32],
    pub activation: Activation,
    pub clip: Option<f32>,
}

impl WithSimd for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        bound(self.gates, self.clip);
        self.activation.apply_inline(self.gates);
    }
}

#[inline(always)]
pub(super) fn bound(gate: &mut [f32], clip: Option<f32>) {
    if let Some(clip) = clip {
        gate.iter_mut().for_each(|v| *v = v.max(-clip).min(clip));
    }
}
