//! Matrices of integers of eight bits: weights that were quantised before.

/// What the integers of a matrix stand for: `q` in row `r` is `step[r] * (q - zero[r])`.
///
/// Levels `q` are int8. A matrix of uint8 has levels that are less by 128, and so are its zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// The distance of two levels in each row, above 0.
    pub steps: Vec<f32>,
    /// The level of each row that stands for 0.
    pub zeros: Vec<i8>,
}

impl Grid {
    /// What a level in a row stands for.
    #[must_use]
    pub fn value(&self, row: usize, level: i8) -> f32 {
        self.steps[row] * (f32::from(level) - f32::from(self.zeros[row]))
    }

    /// The level in a row that is nearest to a value.
    #[must_use]
    pub fn level(&self, row: usize, value: f32) -> i8 {
        // A cast of a float saturates.
        (value / self.steps[row] + f32::from(self.zeros[row])).round() as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_comes_back_from_its_value() {
        let grid = Grid { steps: vec![0.1, 3.7e-30, 1.0, 2.5e30], zeros: vec![0, -128, 127, -3] };
        for row in 0..grid.steps.len() {
            for level in i8::MIN..=i8::MAX {
                assert_eq!(grid.level(row, grid.value(row, level)), level, "row {row}");
            }
        }
        assert_eq!((grid.level(0, 99.0), grid.level(0, -99.0)), (127, -128));
    }
}
