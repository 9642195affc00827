//! Vectors as eight bits, a scale and a zero point: ONNX's `DynamicQuantizeLinear`.

/// The number of steps between the least and the greatest value.
const STEPS: f32 = 255.0;

/// Replaces each value by the nearest 8-bit value `scale * (q - zero)`, with 0 exact and the range from the least to the
/// greatest value, with rounding to even as in the specification.
pub(super) fn round(values: &mut [f32]) {
    let (least, most) = values.iter().fold((0.0f32, 0.0f32), |(least, most), &v| (least.min(v), most.max(v)));
    let scale = (most - least) / STEPS;
    if scale == 0.0 || !scale.is_finite() {
        return;
    }
    let zero = (-least / scale).clamp(0.0, STEPS).round_ties_even();
    for value in values {
        let level = ((*value / scale).round_ties_even() + zero).clamp(0.0, STEPS);
        *value = (level - zero) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::round;

    /// The example of the specification's operator test: x = [0, 2, -3, -2.5, 1.34, 0.5] has a scale of 0.019607844 and
    /// a zero point of 153, and becomes [153, 255, 0, 26, 221, 179].
    #[test]
    fn as_in_the_specification() {
        let mut values = [0.0, 2.0, -3.0, -2.5, 1.34, 0.5];
        round(&mut values);
        let expected = [153, 255, 0, 26, 221, 179].map(|level: i32| (level - 153) as f32 * 0.019_607_844);
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
    }
}
