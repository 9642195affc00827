//! Weighted k-means with k-means++ seeding (Arthur and Vassilvitskii 2007): the first atoms of a codebook.
//!
//! It ignores correlations between neighbouring pieces; the rounds of [`super::block`] take them into account.

use pulp::{Arch, Simd, WithSimd};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::nearest::Nearest;

/// Points with weights.
pub(super) struct Points {
    /// Components of a point.
    pub width: usize,
    /// `[m, width]`.
    pub values: Vec<f32>,
    /// `[m]`, not negative.
    pub weights: Vec<f32>,
}

/// Points that the seeding looks at, for each atom: more change nothing that k-means would not mend.
const SEEDING_POINTS_PER_ATOM: usize = 24;

/// `count` atoms `[count, width]` for `points`; those that the points do not need are zero.
pub(super) fn kmeans(points: &Points, count: usize, iterations: usize, seed: u64) -> Vec<f32> {
    let width = points.width;
    let mut atoms = seeding(points, count, seed);
    let mut nearest = vec![0; points.weights.len()];
    for _ in 0..iterations {
        Nearest::new(&atoms, width, width, |i, j| f32::from(u8::from(i == j))).find(&points.values, &mut nearest);
        if !update(points, &nearest, &mut atoms) {
            break;
        }
    }
    atoms
}

/// Moves each atom to the weighted mean of its points; false if nothing moved.
fn update(points: &Points, nearest: &[u8], atoms: &mut [f32]) -> bool {
    let width = points.width;
    let mut sums = vec![0.0f64; atoms.len()];
    let mut weights = vec![0.0f64; atoms.len() / width];
    for ((point, &weight), &k) in points.values.chunks_exact(width).zip(&points.weights).zip(nearest) {
        let k = usize::from(k);
        weights[k] += f64::from(weight);
        for (sum, &x) in sums[k * width..][..width].iter_mut().zip(point) {
            *sum += f64::from(weight * x);
        }
    }
    let mut moved = false;
    for ((atom, sum), &weight) in atoms.chunks_exact_mut(width).zip(sums.chunks_exact(width)).zip(&weights) {
        if weight > 0.0 {
            for (a, s) in atom.iter_mut().zip(sum) {
                let mean = (s / weight) as f32;
                moved |= mean != *a;
                *a = mean;
            }
        }
    }
    moved
}

/// Each next atom is a point, drawn with a probability that is its weight times its squared distance from the
/// nearest atom so far.
fn seeding(points: &Points, count: usize, seed: u64) -> Vec<f32> {
    let width = points.width;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let total = points.weights.len();
    let kept = total.min(count * SEEDING_POINTS_PER_ATOM);
    // A stride over the points, which the caller shuffled or took in the order of the matrix.
    let chosen: Vec<usize> = (0..kept).map(|i| i * total / kept).collect();
    let component = |j| chosen.iter().map(|&i| points.values[i * width + j]).collect::<Vec<f32>>();
    let components: Vec<Vec<f32>> = (0..width).map(component).collect();
    let weights: Vec<f32> = chosen.iter().map(|&i| points.weights[i]).collect();

    let mut atoms = vec![0.0; count * width];
    let mut distances = vec![f32::INFINITY; kept];
    let mut mass = weights.clone();
    for atom in atoms.chunks_exact_mut(width) {
        let Some(found) = draw(&mass, &mut rng) else { break };
        for (a, column) in atom.iter_mut().zip(&components) {
            *a = column[found];
        }
        let (distances, mass) = (&mut distances[..], &mut mass[..]);
        Arch::new().dispatch(Spread { atom, components: &components, weights: &weights, distances, mass });
    }
    atoms
}

/// Takes a new atom into account: `mass = weight * distance` with the squared distance from the nearest atom.
struct Spread<'a> {
    atom: &'a [f32],
    /// The points by component.
    components: &'a [Vec<f32>],
    weights: &'a [f32],
    distances: &'a mut [f32],
    mass: &'a mut [f32],
}

impl WithSimd for Spread<'_> {
    type Output = ();

    /// Plain loops, which the compiler turns into those of the CPU's vectors.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.mass.fill(0.0);
        for (&a, column) in self.atom.iter().zip(self.components) {
            for (sum, &x) in self.mass.iter_mut().zip(column) {
                *sum += (x - a) * (x - a);
            }
        }
        for ((mass, nearest), &weight) in self.mass.iter_mut().zip(self.distances).zip(self.weights) {
            *nearest = nearest.min(*mass);
            *mass = weight * *nearest;
        }
    }
}

/// An index with probability proportional to its mass; none if there is no mass.
fn draw(mass: &[f32], rng: &mut ChaCha8Rng) -> Option<usize> {
    let total: f64 = mass.iter().map(|&m| f64::from(m)).sum();
    if !(total > 0.0 && total.is_finite()) {
        return None;
    }
    let mut left = rng.random::<f64>() * total;
    let mut last = None;
    for (i, &m) in mass.iter().enumerate().filter(|(_, m)| **m > 0.0) {
        last = Some(i);
        left -= f64::from(m);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_separate_clusters() {
        let centres = [-8.0f32, -1.0, 3.0, 11.0];
        let values = (0..400).map(|i| centres[i % 4] + (i / 4) as f32 * 1e-3).collect();
        let mut atoms = kmeans(&Points { width: 1, values, weights: vec![1.0; 400] }, 16, 50, 0);
        atoms.sort_by(f32::total_cmp);
        for centre in centres {
            assert!(atoms.iter().any(|a| (a - centre).abs() < 0.1), "{centre} in {atoms:?}");
        }
    }

    #[test]
    fn fewer_points_than_atoms_and_no_weight() {
        let points = Points { width: 2, values: vec![1.0, 2.0, 1.0, 2.0], weights: vec![1.0, 1.0] };
        let atoms = kmeans(&points, 16, 5, 0);
        assert_eq!(atoms[..2], [1.0, 2.0]);
        let nothing = Points { width: 1, values: vec![1.0], weights: vec![0.0] };
        assert!(kmeans(&nothing, 16, 5, 0).iter().all(|a| *a == 0.0));
    }
}
