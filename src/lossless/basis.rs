//! The windowed DFT basis of a convolutional STFT, computed when a runtime loads the model instead of stored.
//!
//! Speech models have the short-time Fourier transform as a Conv of weight `[2 M, 1, N]`: row `k` is
//! `w(j) cos(2 pi k j / N)`, row `M + k` is `±w(j) sin(2 pi k j / N)`, and `w` is the periodic Hann window
//! `0.5 - 0.5 cos(2 pi j / N) = cos^2(pi (j - N/2) / N)` or 1. Sines are cosines that are shifted by a quarter of a period,
//! and `cos(2 pi r / N) = sin(2 pi (N/4 - |r|) / N)`, so that no angle exceeds pi/2 and its rounding error stays small:
//! ```text
//! k [M,1,1], j [N] = Range;  x = Concat(k j + N/2 + 0.5, k j + N/2 ± N/4 + 0.5)
//! r = x - N Floor(x / N) - N/2 - 0.5;  Sin((N/4 - |r|) 2 pi / N) * w
//! ```
//! OpenVINO does not fold Mod, so that Floor takes its place; the half keeps the quotient off the integers. All numbers are
//! multiples of 0.5 below 2^23, and therefore exact in float32. The table is evaluated here in float32, as a runtime does,
//! and generated only if no entry is off by more than [`TOLERANCE`].

use std::f64::consts::PI;

use super::constants::{Constant, free, may_rewrite};
use super::pieces::{integer, node};
use crate::error::Result;
use crate::onnx::{ElementType, Model, Rewriter, TensorProto, Values, tensor};

/// The largest difference of an entry, as a part of the largest entry: some units in the last place of a float32.
pub const TOLERANCE: f32 = 4e-7;

/// The first opset that has Range.
const RANGE: i64 = 11;
/// The longest window: rows times columns stay below 2^23.
const LONGEST: usize = 2048;
/// A basis shorter than this is not worth its nodes.
const SHORTEST: usize = 16;

/// What a table is computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Basis {
    /// Frequencies, `M`.
    rows: usize,
    /// Samples, `N`.
    columns: usize,
    /// Whether the rows of sines are negated, as in the Fourier transform.
    negated: bool,
    /// Whether the window is Hann's.
    hann: bool,
}

impl Basis {
    /// Values of a table `[2 M, 1, N]` in float32.
    fn values(&self) -> Vec<f32> {
        let Basis { rows, columns, hann, .. } = *self;
        let (length, half, quarter) = (columns as f32, (columns / 2) as f32, (columns / 4) as f32);
        let centre = self.centre();
        let wave = |j: usize| ((j as f32 - half) * self.half_step()).cos();
        let window: Vec<f32> = (0..columns).map(|j| if hann { wave(j) * wave(j) } else { 1.0 }).collect();
        let entry = move |k: usize, j: usize, shift: f32| {
            let x = k as f32 * j as f32 + shift;
            let r = x - (x * self.inverse()).floor() * length - centre;
            ((quarter - r.abs()) * self.step()).sin()
        };
        let rows_of = |shift: f32| (0..rows).flat_map(move |k| (0..columns).map(move |j| entry(k, j, shift)));
        let all = rows_of(centre).chain(rows_of(self.shift()));
        all.zip(window.iter().cycle()).map(|(value, window)| value * window).collect()
    }

    /// Radians a step.
    fn step(&self) -> f32 {
        (2.0 * PI / self.columns as f64) as f32
    }

    fn half_step(&self) -> f32 {
        (PI / self.columns as f64) as f32
    }

    fn inverse(&self) -> f32 {
        (1.0 / self.columns as f64) as f32
    }

    /// What is added to the product for the rows of cosines.
    fn centre(&self) -> f32 {
        (self.columns / 2) as f32 + 0.5
    }

    /// What is added to the product for the rows of sines.
    fn shift(&self) -> f32 {
        let (half, quarter) = (self.columns / 2, self.columns / 4);
        (if self.negated { half + quarter } else { half - quarter }) as f32 + 0.5
    }

    /// The basis that a table is, within the tolerance.
    fn of(shape: &[usize], table: &[f32]) -> Option<Basis> {
        let [both, 1, columns] = *shape else { return None };
        let rows = both / 2;
        let sensible = both.is_multiple_of(2)
            && (2..=columns / 2 + 1).contains(&rows)
            && (SHORTEST..=LONGEST).contains(&columns)
            && columns.is_multiple_of(4);
        if !sensible || !table.iter().all(|v| v.is_finite()) {
            return None;
        }
        // Row 0 is the window; a quarter of a period on, the sine of frequency 1 has its sign.
        let hann = table[0].abs() < 0.5;
        let negated = table[(rows + 1) * columns + columns / 4] < 0.0;
        let basis = Basis { rows, columns, negated, hann };
        let largest = table.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
        let near = |(a, b): (f32, &f32)| (a - b).abs() <= TOLERANCE * largest;
        (table.len() == 2 * rows * columns && basis.values().into_iter().zip(table).all(near)).then_some(basis)
    }
}

/// Replaces every basis that only Conv nodes read.
pub(super) fn generate(model: &mut Model) -> Result<()> {
    if !may_rewrite(model) || model.opset() < RANGE {
        return Ok(());
    }
    let source = model.clone();
    let values = Values::new(&source.proto)?;
    let mut rewriter = Rewriter::new(model);
    for constant in free(&source, &values) {
        let is_float = constant.tensor.data_type() == ElementType::Float as i32 && constant.tensor.dims.len() == 3;
        if !is_float || !constant.is_read_by(&source, |node, input| node.op_type() == "Conv" && input == 1) {
            continue;
        }
        let Ok(table) = source.floats(constant.tensor) else { continue };
        let found = table.as_slice().and_then(|values| Basis::of(table.shape(), values));
        if let Some(basis) = found {
            write(&mut rewriter, &constant, &basis);
        }
    }
    rewriter.finish()?;
    Ok(())
}

fn write(rewriter: &mut Rewriter<'_>, constant: &Constant<'_>, basis: &Basis) {
    let scope = &constant.scope;
    let name = |rewriter: &mut Rewriter<'_>, what: &str| rewriter.fresh(&format!("{}/{what}", constant.name));
    let store = |rewriter: &mut Rewriter<'_>, what: &str, tensor: TensorProto| {
        let name = name(rewriter, what);
        rewriter.add_constant(scope, TensorProto { name: Some(name.clone()), ..tensor });
        name
    };
    let scalar = |rewriter: &mut Rewriter<'_>, what: &str, v: f32| store(rewriter, what, tensor::float("", &[], &[v]));
    let make = |rewriter: &mut Rewriter<'_>, operator: &str, inputs: &[&str], attributes| {
        let output = name(rewriter, &operator.to_lowercase());
        rewriter.add_node(scope, node(operator, inputs, &output, attributes));
        output
    };
    let zero = scalar(rewriter, "zero", 0.0);
    let one = scalar(rewriter, "one", 1.0);
    let rows = scalar(rewriter, "rows", basis.rows as f32);
    let length = scalar(rewriter, "length", basis.columns as f32);
    let inverse = scalar(rewriter, "inverse", basis.inverse());
    let centre = scalar(rewriter, "centre", basis.centre());
    let quarter = scalar(rewriter, "quarter", (basis.columns / 4) as f32);
    let shift = scalar(rewriter, "shift", basis.shift());
    let step = scalar(rewriter, "step", basis.step());
    let column = store(rewriter, "column", tensor::int64("", &[3], &[basis.rows as i64, 1, 1]));

    let k = make(rewriter, "Range", &[&zero, &rows, &one], vec![]);
    let k = make(rewriter, "Reshape", &[&k, &column], vec![]);
    let j = make(rewriter, "Range", &[&zero, &length, &one], vec![]);
    let product = make(rewriter, "Mul", &[&k, &j], vec![]);
    let cosines = make(rewriter, "Add", &[&product, &centre], vec![]);
    let sines = make(rewriter, "Add", &[&product, &shift], vec![]);
    let both = make(rewriter, "Concat", &[&cosines, &sines], vec![integer("axis", 0)]);
    let turns = make(rewriter, "Mul", &[&both, &inverse], vec![]);
    let turns = make(rewriter, "Floor", &[&turns], vec![]);
    let turns = make(rewriter, "Mul", &[&turns, &length], vec![]);
    let reduced = make(rewriter, "Sub", &[&both, &turns], vec![]);
    let centred = make(rewriter, "Sub", &[&reduced, &centre], vec![]);
    let distance = make(rewriter, "Abs", &[&centred], vec![]);
    let steps = make(rewriter, "Sub", &[&quarter, &distance], vec![]);
    let angle = make(rewriter, "Mul", &[&steps, &step], vec![]);
    let mut table = make(rewriter, "Sin", &[&angle], vec![]);
    if basis.hann {
        let half = scalar(rewriter, "half", (basis.columns / 2) as f32);
        let half_step = scalar(rewriter, "turn", basis.half_step());
        let centred = make(rewriter, "Sub", &[&j, &half], vec![]);
        let turn = make(rewriter, "Mul", &[&centred, &half_step], vec![]);
        let wave = make(rewriter, "Cos", &[&turn], vec![]);
        let window = make(rewriter, "Mul", &[&wave, &wave], vec![]);
        table = make(rewriter, "Mul", &[&table, &window], vec![]);
    }
    constant.replace(rewriter, &table);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(rows: usize, columns: usize, sign: f64, window: fn(f64) -> f64) -> Vec<f32> {
        let turn = |k: usize, j: usize| 2.0 * PI * (k * j) as f64 / columns as f64;
        let row = |k: usize, of: fn(f64) -> f64, sign: f64| {
            (0..columns).map(move |j| (sign * of(turn(k, j)) * window(turn(1, j))) as f32)
        };
        let cos = (0..rows).flat_map(|k| row(k, f64::cos, 1.0));
        cos.chain((0..rows).flat_map(|k| row(k, f64::sin, sign))).collect()
    }

    fn hann(turn: f64) -> f64 {
        0.5 - 0.5 * turn.cos()
    }

    #[test]
    fn bases_of_both_signs_and_windows_are_known() {
        for columns in [64, 128, 256, 512] {
            let rows = columns / 2 + 1;
            for sign in [1.0, -1.0] {
                let found = Basis::of(&[2 * rows, 1, columns], &exact(rows, columns, sign, hann)).unwrap();
                assert!(found.hann && found.negated == (sign < 0.0), "{columns}: {found:?}");
                let found = Basis::of(&[2 * rows, 1, columns], &exact(rows, columns, sign, |_| 1.0)).unwrap();
                assert!(!found.hann);
            }
        }
    }

    #[test]
    fn what_is_a_little_off_is_not_generated() {
        let (rows, columns) = (65, 128);
        let mut table = exact(rows, columns, -1.0, hann);
        table[70 * columns + 9] += 1e-6;
        assert_eq!(Basis::of(&[2 * rows, 1, columns], &table), None);
        let hamming = exact(rows, columns, -1.0, |turn| 0.54 - 0.46 * turn.cos());
        assert_eq!(Basis::of(&[2 * rows, 1, columns], &hamming), None);
        let mut table = exact(rows, columns, -1.0, hann);
        table[0] = f32::NAN;
        assert_eq!(Basis::of(&[2 * rows, 1, columns], &table), None);
    }
}
