//! Bit allocation within a projection dictionary: bands of atoms, and a rate for the codes of each band.
//!
//! Atoms are ordered by the energy that they explain, so neighbouring atoms have similar optimal rates. A band of atoms has
//! one rate for its atoms, and for each matrix one rate for its codes, which can be zero: atoms that explain too little
//! for their bytes are not stored, and a matrix with low sensitivity uses fewer bands. A single price of a byte determines
//! all of this (reverse water-filling over the available rates).

use super::{ATOMS, BlockSpec};

/// Bands of a dictionary at most.
pub const MAX_BANDS: usize = 8;

/// Available widths of the pieces of atoms and of codes: `8 / width` bits a number.
const ATOM_WIDTHS: [u8; 7] = [1, 2, 3, 4, 5, 6, 8];
const CODE_WIDTHS: [u8; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, COARSEST];
const COARSEST: u8 = 16;
/// Iterations of the allocation; each uses the error of the atoms ([`Bands::spill`]) that the previous one gives.
const SPILLS: usize = 3;

/// The loss of numbers that are stored in 255 levels between the largest and its negative, in parts of the energy of the
/// largest: `(1 / 127)^2 / 12`.
const LEVELS: f64 = 5.2e-6;
/// The square of the largest of some hundred normal numbers, over their variance.
const PEAK: f64 = 7.0;

/// What is lost of the codes of `atoms` atoms that explain `energy`, the most any of them alone explains being `peak`.
/// Single codes are levels, whose step follows from the largest of a row.
fn lost_codes(width: u8, atoms: usize, energy: f64, peak: f64) -> f64 {
    match width {
        1 => (LEVELS * (atoms as f64 * peak + PEAK * energy)).min(energy),
        _ => energy * lost(width),
    }
}

/// Relative distortion of a band whose pieces have this width: about the measured one of block dictionaries of 256
/// atoms on normal numbers.
fn lost(width: u8) -> f64 {
    match width {
        0 => 1.0,
        1 => 2e-4,
        2 => 0.009,
        3 => 0.042,
        4 => 0.095,
        5 => 0.15,
        6 => 0.205,
        7 => 0.26,
        8 => 0.305,
        10 => 0.385,
        12 => 0.45,
        _ => 0.55,
    }
}

/// Atoms in a row, stored alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Band {
    /// How many atoms; 0 for no band.
    pub atoms: u16,
    /// Width of the pieces of an atom: numbers in a piece.
    pub width: u8,
    /// Width of the pieces of a row of codes: codes in a piece; 0 if the matrix does not use the band.
    pub codes: u8,
}

/// The bands of a dictionary as one matrix uses them: those that it uses come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bands([Band; MAX_BANDS]);

impl Bands {
    /// From at most [`MAX_BANDS`] bands; `None` if there are more, if one has no atoms or a width that the codec does not
    /// have, or if one is used after one that is not.
    pub fn new(bands: &[Band]) -> Option<Bands> {
        let mut all = [Band::default(); MAX_BANDS];
        all.get_mut(..bands.len())?.copy_from_slice(bands);
        let fits = |width: u8| (1..=super::MAX_WIDTH).contains(&usize::from(width));
        let sound = bands.iter().all(|b| b.atoms > 0 && fits(b.width) && (b.codes == 0 || fits(b.codes)));
        let prefix = bands.windows(2).all(|pair| pair[0].codes > 0 || pair[1].codes == 0);
        (sound && prefix).then_some(Bands(all))
    }

    /// All bands of the dictionary.
    pub fn iter(&self) -> impl Iterator<Item = Band> + '_ {
        self.0.iter().copied().take_while(|band| band.atoms > 0)
    }

    /// The bands that the matrix uses.
    pub fn used(&self) -> impl Iterator<Item = Band> + '_ {
        self.iter().take_while(|band| band.codes > 0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The bands without the widths of this matrix's codes: matrices for which they are equal can share the dictionary.
    pub fn dictionary(&self) -> Bands {
        Bands(self.0.map(|band| Band { codes: 0, ..band }))
    }

    /// Atoms of all bands.
    pub fn atoms(&self) -> usize {
        self.iter().map(|band| usize::from(band.atoms)).sum()
    }

    /// The share of an error in the atoms that is lost. Such an error points anywhere in the space of `columns` dimensions:
    /// what falls in the span of a band is coded with it, and lost as what is coded there is.
    fn spill(&self, columns: usize) -> f64 {
        let kept: f64 = self.used().map(|band| f64::from(band.atoms) * (1.0 - lost(band.codes))).sum();
        (1.0 - kept / columns.max(1) as f64).clamp(0.0, 1.0)
    }

    /// Stored bytes of a row of codes, with its scales.
    pub fn row_bytes(&self) -> usize {
        self.used().map(|band| usize::from(band.atoms).div_ceil(usize::from(band.codes)) + 1).sum()
    }

    /// Stored bytes of the atoms `[k, n]`, with their scales and codebooks.
    pub fn dictionary_bytes(&self, columns: usize) -> usize {
        let bytes = |b: Band| usize::from(b.atoms) * (columns.div_ceil(usize::from(b.width)) + 1) + codebook(b.width);
        self.iter().map(bytes).sum()
    }
}

impl Band {
    /// How its atoms are coded.
    pub(super) fn atoms_spec(self) -> BlockSpec {
        BlockSpec { width: usize::from(self.width) }
    }
}

fn codebook(width: u8) -> usize {
    ATOMS * usize::from(width)
}

/// The energy that a matrix can represent with a dictionary, and the weight of its distortion.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Rows of the matrix.
    pub rows: usize,
    /// Loss per distortion.
    pub importance: f64,
    /// The energy of its rows along each atom of the basis.
    pub energies: Vec<f64>,
}

/// A dictionary as it is divided at some price.
#[derive(Clone, Debug)]
pub struct Division {
    /// One for each matrix.
    pub bands: Vec<Bands>,
    /// Predicted loss, in the terms of the importances.
    pub loss: f64,
    /// Estimated bytes.
    pub bytes: f64,
}

/// Divides a dictionary of `columns` numbers to an atom so that loss and bytes times `price` are least. `nodes` is what
/// the nodes that rebuild one band of one matrix take in a file.
///
/// What errors in the atoms cost depends on how all bands are coded (`Bands::spill`): it is taken from one division for
/// the next, and the best of them is kept.
pub fn divide(demands: &[Demand], columns: usize, price: f64, nodes: f64) -> Division {
    let sums: Vec<Vec<f64>> = demands
        .iter()
        .map(|d| {
            let sum = |sum: &mut f64, e: &f64| {
                *sum += e.max(0.0) * d.importance;
                Some(*sum)
            };
            [0.0].into_iter().chain(d.energies.iter().scan(0.0, sum)).collect()
        })
        .collect();
    let peaks: Vec<Vec<f64>> = demands
        .iter()
        .map(|d| {
            let mut peaks: Vec<f64> = d.energies.iter().map(|e| e.max(0.0) * d.importance).collect();
            (1..peaks.len()).rev().for_each(|i| peaks[i - 1] = peaks[i - 1].max(peaks[i]));
            peaks
        })
        .collect();
    let mut pricing =
        Pricing { demands, sums: &sums, peaks: &peaks, spill: vec![1.0; demands.len()], columns, price, nodes };
    let mut best: Option<Division> = None;
    for _ in 0..SPILLS {
        let division = pricing.division(&pricing.pieces());
        pricing.spill = division.bands.iter().map(|bands| bands.spill(columns)).collect();
        let cost = |division: &Division| division.loss + price * division.bytes;
        if best.as_ref().is_none_or(|least| cost(&division) < cost(least)) {
            best = Some(division);
        }
    }
    best.expect("there is one more round than none")
}

/// The distortion that a matrix is predicted to have with these bands of atoms of `columns` numbers.
pub fn predicted_distortion(demand: &Demand, bands: &Bands, columns: usize) -> f64 {
    let spill = bands.spill(columns);
    let mut first = 0;
    let mut left: f64 = demand.energies.iter().map(|e| e.max(0.0)).sum();
    for band in bands.used() {
        let end = (first + usize::from(band.atoms)).min(demand.energies.len());
        let energy: f64 = demand.energies[first.min(end)..end].iter().map(|e| e.max(0.0)).sum();
        let peak = demand.energies[first.min(end)..].iter().fold(0.0f64, |m, e| m.max(*e));
        let atoms = usize::from(band.atoms);
        left -= energy * (1.0 - lost(band.width) * spill) - lost_codes(band.codes, atoms, energy, peak);
        first = end;
    }
    left.max(0.0)
}

struct Pricing<'a> {
    demands: &'a [Demand],
    /// Sums of the energies of the first atoms, times the importance.
    sums: &'a [Vec<f64>],
    /// The most that an atom explains of those from each on, times the importance.
    peaks: &'a [Vec<f64>],
    /// [`Bands::spill`] of each matrix.
    spill: Vec<f64>,
    columns: usize,
    price: f64,
    nodes: f64,
}

impl Pricing<'_> {
    fn energy(&self, matrix: usize, start: usize, end: usize) -> f64 {
        let sums = &self.sums[matrix];
        sums[end.min(sums.len() - 1)] - sums[start.min(sums.len() - 1)]
    }

    fn code_bytes(&self, matrix: usize, atoms: usize, width: u8) -> f64 {
        if width == 0 {
            return 0.0;
        }
        let row = atoms.div_ceil(usize::from(width)) + 1;
        (self.demands[matrix].rows * row) as f64 + self.nodes + codebook(width) as f64 / self.demands.len() as f64
    }

    fn atom_bytes(&self, atoms: usize, width: u8) -> f64 {
        (atoms * (self.columns.div_ceil(usize::from(width)) + 1) + codebook(width)) as f64 + self.nodes
    }

    /// The first atom of each band of the best division, and the first of the next.
    fn pieces(&self) -> Vec<(usize, usize)> {
        let most = self.demands.iter().map(|d| d.energies.len()).max().unwrap_or(0).min(usize::from(u16::MAX));
        let grid = most.div_ceil(128).max(1);
        let marks: Vec<usize> = (0..most).step_by(grid).chain([most]).collect();
        // best[b][j]: the least cost of the first marks[j] atoms in b bands.
        let mut best = vec![vec![f64::INFINITY; marks.len()]; MAX_BANDS + 1];
        let mut from = vec![vec![0; marks.len()]; MAX_BANDS + 1];
        best[0][0] = 0.0;
        for end in 1..marks.len() {
            for start in 0..end {
                let cost = self.band(marks[start], marks[end], None);
                for bands in 0..MAX_BANDS {
                    let cost = best[bands][start] + cost;
                    if cost < best[bands + 1][end] {
                        best[bands + 1][end] = cost;
                        from[bands + 1][end] = start;
                    }
                }
            }
        }
        // What is not in a band is lost; at least one is stored: what is nothing needs no dictionary.
        let lost = |end: usize| -> f64 { (0..self.demands.len()).map(|m| self.energy(m, marks[end], most)).sum() };
        let cost = |&(bands, end): &(usize, usize)| best[bands][end] + lost(end);
        let ends = (1..=MAX_BANDS).flat_map(|bands| (1..marks.len()).map(move |end| (bands, end)));
        let Some((mut bands, mut end)) = ends.min_by(|a, b| cost(a).total_cmp(&cost(b))) else { return Vec::new() };
        let mut pieces = Vec::new();
        while bands > 0 {
            let start = from[bands][end];
            pieces.push((marks[start], marks[end]));
            (bands, end) = (bands - 1, start);
        }
        pieces.reverse();
        pieces
    }

    /// The least cost of a band; tells the widths of the codes if asked to.
    fn band(&self, start: usize, end: usize, mut widths: Option<&mut Vec<u8>>) -> f64 {
        let mut cost = 0.0;
        let mut coded = 0.0;
        for matrix in 0..self.demands.len() {
            let energy = self.energy(matrix, start, end);
            let mut least = (energy, 0, 0.0);
            for width in CODE_WIDTHS {
                let lost = lost_codes(width, end - start, energy, self.peaks[matrix][start]);
                let cost = lost + self.price * self.code_bytes(matrix, end - start, width);
                if cost < least.0 {
                    least = (cost, width, energy * self.spill[matrix]);
                }
            }
            cost += least.0;
            coded += least.2;
            if let Some(widths) = &mut widths {
                widths.push(least.1);
            }
        }
        cost + self.atoms(end - start, coded).0
    }

    /// The least cost of storing so many atoms, of whose errors `energy` is lost, and the width of their pieces.
    fn atoms(&self, atoms: usize, energy: f64) -> (f64, u8) {
        let cost = |width: u8| energy * lost(width) + self.price * self.atom_bytes(atoms, width);
        let all = ATOM_WIDTHS.map(|width| (cost(width), width));
        all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("widths are several")
    }

    /// The bands of all matrices for these pieces of the basis.
    fn division(&self, pieces: &[(usize, usize)]) -> Division {
        let mut all: Vec<Vec<Band>> = vec![Vec::new(); self.demands.len()];
        let mut bytes = 0.0;
        for &(start, end) in pieces {
            let mut widths = Vec::new();
            self.band(start, end, Some(&mut widths));
            let coded = (0..widths.len()).filter(|&m| widths[m] > 0);
            let (_, width) = self.atoms(end - start, coded.map(|m| self.energy(m, start, end) * self.spill[m]).sum());
            bytes += self.atom_bytes(end - start, width);
            for (matrix, &codes) in widths.iter().enumerate() {
                let codes = if start == 0 && codes == 0 { COARSEST } else { codes };
                let previous = all[matrix].last().is_none_or(|band| band.codes > 0);
                // Bands that a matrix uses come first: one in between is used at the lowest rate that there is.
                if codes > 0 && !previous {
                    all[matrix].iter_mut().filter(|band| band.codes == 0).for_each(|band| band.codes = COARSEST);
                }
                all[matrix].push(Band { atoms: (end - start) as u16, width, codes });
                bytes += self.code_bytes(matrix, end - start, codes);
            }
        }
        let bands = all.iter().map(|bands| Bands::new(bands).expect("as many bands as fit, of widths on offer"));
        let bands: Vec<Bands> = bands.collect();
        let loss =
            self.demands.iter().zip(&bands).map(|(d, b)| d.importance * predicted_distortion(d, b, self.columns)).sum();
        Division { bands, loss, bytes }
    }
}
