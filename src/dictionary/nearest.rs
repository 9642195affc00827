//! Nearest-neighbour search among the atoms of a codebook: the inner loop of vector quantisation.
//!
//! `argmin_k |t - a_k|^2 = argmin_k (|a_k|^2 / 2 - t.a_k)`. The atoms are stored by component (`[d, K]`), so that
//! one vector register holds the scores of as many atoms as it has lanes. Of equally near atoms the first wins,
//! whatever the width of the registers.

use pulp::{Arch, Simd, WithSimd};

use super::MAX_WIDTH;
use super::vector::subtract;

/// Targets that are compared side by side.
const TOGETHER: usize = 4;

/// Atoms prepared for the search.
pub(super) struct Nearest {
    width: usize,
    /// `[d, K]`.
    components: Vec<f32>,
    /// `|a_k|^2 / 2`.
    half_norms: Vec<f32>,
}

impl Nearest {
    /// From atoms `[K, d]`, of which the first `width` components count, times the matrix `basis` `[width, width]`.
    pub fn new(atoms: &[f32], stride: usize, width: usize, basis: impl Fn(usize, usize) -> f32) -> Self {
        debug_assert!((1..=MAX_WIDTH).contains(&width) && width <= stride);
        let count = atoms.len() / stride;
        let mut components = vec![0.0; width * count];
        for j in 0..width {
            let column: [f32; MAX_WIDTH] = std::array::from_fn(|i| if i < width { basis(i, j) } else { 0.0 });
            for (out, atom) in components[j * count..][..count].iter_mut().zip(atoms.chunks_exact(stride)) {
                *out = atom.iter().zip(&column).map(|(a, b)| a * b).sum();
            }
        }
        let half_norms =
            (0..count).map(|k| (0..width).map(|j| components[j * count + k].powi(2)).sum::<f32>() / 2.0).collect();
        Nearest { width, components, half_norms }
    }

    /// Component `j` of prepared atom `k`.
    pub fn component(&self, k: usize, j: usize) -> f32 {
        self.components[j * self.half_norms.len() + k]
    }

    /// The `count` atoms nearest to a target `[width]`, the nearest first.
    pub fn nearest<'a>(&self, target: &[f32], count: usize, scores: &'a mut Scores) -> &'a [u8] {
        Arch::new().dispatch(Fill { scores, atoms: self, target });
        scores.take(count)
    }

    /// The index of the nearest atom for each of the `targets` `[m, width]`.
    pub fn find(&self, targets: &[f32], out: &mut [u8]) {
        debug_assert_eq!(targets.len(), out.len() * self.width);
        Arch::new().dispatch(Search { atoms: self, targets, out });
    }
}

/// Atoms in a group of [`Scores`].
const GROUP: usize = 16;

/// The scores of all atoms for one target; kept to save allocations.
#[derive(Default)]
pub(super) struct Scores {
    scores: Vec<f32>,
    /// The least score of each group of atoms.
    least: Vec<f32>,
    taken: Vec<u8>,
}

/// Computes the scores for a target.
struct Fill<'a> {
    scores: &'a mut Scores,
    atoms: &'a Nearest,
    target: &'a [f32],
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Scores { scores, least: group_least, .. } = self.scores;
        scores.clear();
        scores.extend_from_slice(&self.atoms.half_norms);
        for (&t, column) in self.target.iter().zip(self.atoms.components.chunks_exact(scores.len())) {
            subtract(simd, scores, t, column);
        }
        group_least.clear();
        group_least.extend(scores.chunks_exact(GROUP).map(least));
    }
}

impl Scores {
    /// The atoms with the least scores.
    fn take(&mut self, count: usize) -> &[u8] {
        self.taken.clear();
        for _ in 0..count {
            let first = |values: &[f32], value: f32| values.iter().position(|v| *v == value).unwrap_or(0);
            let group = first(&self.least, least(&self.least));
            let scores = &mut self.scores[group * GROUP..][..GROUP];
            let within = first(scores, self.least[group]);
            scores[within] = f32::INFINITY;
            self.least[group] = least(scores);
            self.taken.push((group * GROUP + within) as u8);
        }
        &self.taken
    }
}

#[inline(always)]
fn least(values: &[f32]) -> f32 {
    values.iter().fold(f32::INFINITY, |m, &v| if v < m { v } else { m })
}

struct Search<'a> {
    atoms: &'a Nearest,
    targets: &'a [f32],
    out: &'a mut [u8],
}

impl WithSimd for Search<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        macro_rules! of_width {
            ($($width:literal)*) => {
                match self.atoms.width {
                    $($width => search::<S, $width>(simd, self),)*
                    width => unreachable!("a piece of {width} weights: a spec bounds them"),
                }
            };
        }
        of_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
    }
}

#[inline(always)]
fn search<S: Simd, const D: usize>(simd: S, Search { atoms, targets, out }: Search<'_>) {
    let count = atoms.half_norms.len();
    // Counts of atoms are multiples of 16, the most lanes that there are: no remainders.
    let (norms, rest) = S::as_simd_f32s(&atoms.half_norms);
    debug_assert!(rest.is_empty());
    let mut columns: [&[S::f32s]; D] = [&[]; D];
    for (j, column) in columns.iter_mut().enumerate() {
        *column = &S::as_simd_f32s(&atoms.components[j * count..][..count]).0[..norms.len()];
    }
    let mut groups = targets.chunks_exact(TOGETHER * D);
    let mut outs = out.chunks_exact_mut(TOGETHER);
    for (group, out) in groups.by_ref().zip(outs.by_ref()) {
        scan::<S, D, TOGETHER>(simd, norms, &columns, group, out);
    }
    for (target, out) in groups.remainder().chunks_exact(D).zip(outs.into_remainder()) {
        scan::<S, D, 1>(simd, norms, &columns, target, std::slice::from_mut(out));
    }
}

/// `N` targets side by side: the comparisons of one target wait for each other, those of several do not.
#[inline(always)]
fn scan<S: Simd, const D: usize, const N: usize>(
    simd: S,
    norms: &[S::f32s],
    columns: &[&[S::f32s]; D],
    targets: &[f32],
    out: &mut [u8],
) {
    let mut splat = [[simd.splat_f32s(0.0); D]; N];
    for (splat, &t) in splat.as_flattened_mut().iter_mut().zip(targets) {
        *splat = simd.splat_f32s(-t);
    }
    let mut best = [simd.splat_f32s(f32::INFINITY); N];
    let mut best_at = [simd.splat_u32s(0); N];
    for (v, &norm) in norms.iter().enumerate() {
        let mut score = [norm; N];
        for j in 0..D {
            let column = columns[j][v];
            for i in 0..N {
                score[i] = simd.mul_add_f32s(splat[i][j], column, score[i]);
            }
        }
        let at = simd.splat_u32s(v as u32);
        for i in 0..N {
            let better = simd.less_than_f32s(score[i], best[i]);
            best[i] = simd.select_f32s(better, score[i], best[i]);
            best_at[i] = simd.select_u32s(better, at, best_at[i]);
        }
    }
    for (out, (best, best_at)) in out.iter_mut().zip(best.iter().zip(&best_at)) {
        *out = first_of_lanes::<S>(best, best_at);
    }
}

/// The atom with the lowest score over the lanes; of equals the lowest index.
#[inline(always)]
fn first_of_lanes<S: Simd>(best: &S::f32s, best_at: &S::u32s) -> u8 {
    let scores: &[f32] = pulp::bytemuck::cast_slice(std::slice::from_ref(best));
    let at: &[u32] = pulp::bytemuck::cast_slice(std::slice::from_ref(best_at));
    let lanes = scores.len() as u32;
    let mut found = (f32::INFINITY, 0);
    for (lane, (&score, &v)) in (0..lanes).zip(scores.iter().zip(at)) {
        let index = v * lanes + lane;
        if score < found.0 || (score == found.0 && index < found.1) {
            found = (score, index);
        }
    }
    found.1 as u8
}

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn agrees_with_the_definition_at_every_width() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (width, count) in (1..=MAX_WIDTH).flat_map(|w| [(w, 16), (w, 256)]) {
            // Small integers, so that ties occur and no rounding does.
            let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-3i8..=3).into()).collect::<Vec<f32>>();
            let atoms = draw(count * width);
            let targets = draw(100 * width);
            let search = Nearest::new(&atoms, width, width, |i, j| f32::from(u8::from(i == j)));
            let mut found = vec![0; 100];
            search.find(&targets, &mut found);
            let mut scores = Scores::default();
            for (target, &found) in targets.chunks(width).zip(&found) {
                let distance = |k: usize| (0..width).map(|j| (target[j] - atoms[k * width + j]).powi(2)).sum::<f32>();
                let best = (0..count).fold(0, |b, k| if distance(k) < distance(b) { k } else { b });
                assert_eq!(usize::from(found), best);
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
                let nearest = search.nearest(target, 5, &mut scores);
                assert!(nearest.iter().zip(order).all(|(&k, o)| usize::from(k) == o), "{nearest:?}");
            }
        }
    }

    #[test]
    fn targets_that_are_not_numbers_get_some_atom() {
        let search = Nearest::new(&[1.0; 16], 1, 1, |_, _| 1.0);
        let mut found = [9; 2];
        search.find(&[f32::NAN, f32::INFINITY], &mut found);
        assert_eq!(found, [0, 0]);
    }
}
