//! The activation functions of ONNX's recurrent operators, over slices, in loops that the compiler vectorises.

use pulp::{Arch, Simd, WithSimd};

/// An activation with its `activation_alpha` and `activation_beta`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are the specification's alpha and beta")]
pub enum Activation {
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `(1 - e^-2x) / (1 + e^-2x)`
    Tanh,
    /// `max(0, x)`
    Relu,
    /// `alpha*x + beta`
    Affine { alpha: f32, beta: f32 },
    /// `x` if `x >= 0`, else `alpha*x`
    LeakyRelu { alpha: f32 },
    /// `x` if `x >= alpha`, else 0
    ThresholdedRelu { alpha: f32 },
    /// `alpha * tanh(beta*x)`
    ScaledTanh { alpha: f32, beta: f32 },
    /// `min(max(alpha*x + beta, 0), 1)`
    HardSigmoid { alpha: f32, beta: f32 },
    /// `x` if `x >= 0`, else `alpha*(e^x - 1)`
    Elu { alpha: f32 },
    /// `x / (1 + |x|)`
    Softsign,
    /// `log(1 + e^x)`
    Softplus,
}

impl Activation {
    /// The activation of that name in any case, as onnxruntime takes it; `alpha` and `beta` fall back to the
    /// defaults of the operator of the same name. `None` for a name that the specification does not have.
    pub fn named(name: &str, alpha: Option<f32>, beta: Option<f32>) -> Option<Activation> {
        let a = |default| alpha.unwrap_or(default);
        let b = |default| beta.unwrap_or(default);
        Some(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "relu" => Activation::Relu,
            "affine" => Activation::Affine { alpha: a(1.), beta: b(0.) },
            "leakyrelu" => Activation::LeakyRelu { alpha: a(0.01) },
            "thresholdedrelu" => Activation::ThresholdedRelu { alpha: a(1.) },
            "scaledtanh" => Activation::ScaledTanh { alpha: a(1.), beta: b(1.) },
            "hardsigmoid" => Activation::HardSigmoid { alpha: a(0.2), beta: b(0.5) },
            "elu" => Activation::Elu { alpha: a(1.) },
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => return None,
        })
    }

    /// How many of `activation_alpha` and `activation_beta` it takes: those attributes list values only for the
    /// activations that have one.
    pub fn parameters(self) -> (bool, bool) {
        use Activation::*;
        match self {
            Affine { .. } | ScaledTanh { .. } | HardSigmoid { .. } => (true, true),
            LeakyRelu { .. } | ThresholdedRelu { .. } | Elu { .. } => (true, false),
            Sigmoid | Tanh | Relu | Softsign | Softplus => (false, false),
        }
    }

    /// Applies it to every element.
    pub fn apply(self, x: &mut [f32]) {
        Arch::new().dispatch(Apply(self, x));
    }

    /// Whether no value comes from two arguments with different derivatives, so that the derivative follows from the
    /// value.
    pub fn has_slope_by_value(self) -> bool {
        match self {
            Activation::LeakyRelu { alpha } | Activation::Elu { alpha } => alpha >= 0.,
            _ => true,
        }
    }

    /// The derivative where the activation has the value `y`; 0 where it jumps. Where two arguments have that value, the
    /// root mean square of their derivatives.
    #[inline(always)]
    pub(super) fn slope(self, y: f32) -> f32 {
        let both = |a: f32, b: f32| ((a * a + b * b) / 2.).sqrt();
        match self {
            Activation::Sigmoid => y * (1. - y),
            Activation::Tanh => 1. - y * y,
            // Below the threshold the value is 0, and a threshold may be negative.
            Activation::Relu | Activation::ThresholdedRelu { .. } => f32::from(y != 0.),
            Activation::Affine { alpha, .. } => alpha,
            // 0 is what all negative arguments give where alpha is 0.
            Activation::LeakyRelu { alpha } => match y > 0. {
                true if alpha < 0. => both(1., alpha),
                true => 1.,
                false => alpha,
            },
            Activation::ScaledTanh { alpha, beta } => {
                if alpha == 0. {
                    0.
                } else {
                    beta * (alpha - y * y / alpha)
                }
            }
            Activation::HardSigmoid { alpha, .. } => {
                if y > 0. && y < 1. {
                    alpha
                } else {
                    0.
                }
            }
            Activation::Elu { alpha } => match y > 0. {
                true if y < -alpha => both(1., y + alpha),
                true => 1.,
                false => y + alpha,
            },
            Activation::Softsign => (1. - y.abs()) * (1. - y.abs()),
            Activation::Softplus => 1. - (-y).exp(),
        }
    }

    /// [`apply`](Self::apply) for callers that are inside a dispatch to the CPU's instructions already.
    #[inline(always)]
    pub(super) fn apply_inline(self, x: &mut [f32]) {
        match self {
            Activation::Sigmoid => each(x, sigmoid),
            Activation::Tanh => each(x, tanh),
            Activation::Relu => each(x, |v| v.max(0.)),
            Activation::Affine { alpha, beta } => each(x, |v| alpha * v + beta),
            Activation::LeakyRelu { alpha } => each(x, |v| if v >= 0. { v } else { alpha * v }),
            Activation::ThresholdedRelu { alpha } => each(x, |v| if v >= alpha { v } else { 0. }),
            Activation::ScaledTanh { alpha, beta } => each(x, |v| alpha * tanh(beta * v)),
            Activation::HardSigmoid { alpha, beta } => each(x, |v| (alpha * v + beta).clamp(0., 1.)),
            Activation::Elu { alpha } => each(x, |v| if v >= 0. { v } else { alpha * (exp(v) - 1.) }),
            Activation::Softsign => each(x, |v| v / (1. + v.abs())),
            Activation::Softplus => each(x, |v| v.max(0.) + (-v.abs()).exp().ln_1p()),
        }
    }
}

/// An activation over a slice, compiled for the CPU's vector instructions.
struct Apply<'a>(Activation, &'a mut [f32]);

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        self.0.apply_inline(self.1);
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for v in x {
        *v = f(*v);
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1. / (1. + exp(-x))
}

/// `tanh` by the quotient of odd and even polynomials that Eigen made common; it is 1 to the last bit past the clamp.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_1e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];
    // Not `clamp`, which keeps NaN too but compiles to branches.
    let v = if x > 7.905_311 { 7.905_311 } else { x };
    let v = if v < -7.905_311 { -7.905_311 } else { v };
    let square = v * v;
    let odd = ODD.iter().fold(0., |sum, &k| sum * square + k);
    let even = EVEN.iter().fold(0., |sum, &k| sum * square + k);
    v * odd / even
}

/// `e^x` to 2 ulp: `2^n * e^r` with `|r| <= ln 2 / 2`, after Cephes. Saturates at about 1e-38 and 2e38; keeps NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.; // 1.5 * 2^23: adding it rounds to a whole number, left in the low bits
    let v = if x > 88. { 88. } else { x };
    let v = if v < -87. { -87. } else { v };
    let shifted = v * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = v - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let tail = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]
        .iter()
        .fold(0., |sum, &k| sum * r + k);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (tail * r * r + r + 1.) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(activation: Activation, truth: impl Fn(f64) -> f64) -> f64 {
        (-2000..=2000)
            .map(|i| {
                let x = i as f32 * 0.01;
                let mut y = [x];
                activation.apply(&mut y);
                (f64::from(y[0]) - truth(f64::from(x))).abs()
            })
            .fold(0., f64::max)
    }

    #[test]
    fn values_are_right_to_single_precision() {
        assert!(worst(Activation::Sigmoid, |x| 1. / (1. + (-x).exp())) < 1.5e-7);
        assert!(worst(Activation::Tanh, f64::tanh) < 4e-7);
        assert!(worst(Activation::Softplus, |x| x.exp().ln_1p()) < 2e-6);
        assert!(worst(Activation::Softsign, |x| x / (1. + x.abs())) < 1e-7);
        assert!(worst(Activation::Elu { alpha: 1.5 }, |x| if x >= 0. { x } else { 1.5 * x.exp_m1() }) < 3e-7);
        assert!(worst(Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, |x| (0.2 * x + 0.5).clamp(0., 1.)) < 1e-6);
    }

    #[test]
    fn extremes_saturate_and_nan_stays() {
        let mut x = [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY, f32::NAN];
        Activation::Sigmoid.apply(&mut x);
        assert!(x[0] < 1e-37 && x[1] < 1e-37 && x[2] == 1. && x[3] == 1. && x[4].is_nan());
        let mut x = [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY, f32::NAN];
        Activation::Tanh.apply(&mut x);
        assert!((x[0] + 1.).abs() < 1e-6 && x[0] == x[1] && (x[3] - 1.).abs() < 1e-6 && x[4].is_nan());
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(
            Activation::named("hardSigmoid", None, Some(0.25)),
            Some(Activation::HardSigmoid { alpha: 0.2, beta: 0.25 })
        );
        assert_eq!(Activation::named("Gelu", None, None), None);
    }
}
