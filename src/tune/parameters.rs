//! The numbers of a coded stack: atoms, row scales and biases, moved by Adam (Kingma and Ba, 2015).
//!
//! What is tuned is what is stored: a weight is computed from atoms rounded to `i8` and scales rounded to
//! bytes, and the gradient is passed to the numbers before rounding as if there were none (the straight-through
//! estimator of Bengio et al., 2013). So there is nothing to lose when the numbers are stored in the end.
//!
//! Codes can be chosen again too: each piece then has a *latent*, a float copy of its weights. The gradient updates the
//! latent, and the piece takes the atom nearest to it. The latent starts at the stored weights and follows the updates of
//! atoms and scales, so a code changes only if the gradient points to another atom persistently.

use std::sync::Arc;

use rayon::prelude::*;

use super::schedule::{ATOM_RATE, BIAS_RATE, DECAY, SCALE_RATE};
use super::stack::{Stack, StackGradients};
use crate::code::{CodedSite, CodedSites};
use crate::dictionary::{BlockCode, BlockSpec, Codebook};
use crate::recurrent::Matrix;
use crate::sites::SiteId;

/// The codebook that has all levels for atoms.
const EVERY_LEVEL: BlockSpec = BlockSpec { width: 1 };

/// Where a site's rows are in a stack.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The site.
    pub(super) site: SiteId,
    pub(super) layer: usize,
    pub(super) direction: usize,
    pub(super) matrix: Matrix,
    /// Its first row in W or R.
    pub(super) row: usize,
}

/// Numbers that are moved together, each by at most `rate`.
struct Tuned {
    values: Vec<f32>,
    /// The largest step, by number.
    rates: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Tuned {
    fn new(values: Vec<f32>, rates: Vec<f32>) -> Tuned {
        let zeros = vec![0.0; values.len()];
        Tuned { values, rates, mean: zeros.clone(), square: zeros }
    }

    /// What is known of the gradients is forgotten.
    fn forget(&mut self) {
        self.mean.fill(0.0);
        self.square.fill(0.0);
    }

    /// A step of Adam, the `count`th.
    fn advance(&mut self, gradient: &[f32], share: f64, count: i32) {
        let [a, b] = DECAY;
        let [corrected_a, corrected_b] = DECAY.map(|d| 1.0 - f64::from(d).powi(count));
        for (i, &g) in gradient.iter().enumerate() {
            self.mean[i] = a * self.mean[i] + (1.0 - a) * g;
            self.square[i] = b * self.square[i] + (1.0 - b) * g * g;
            let size = (f64::from(self.square[i]) / corrected_b).sqrt();
            if size > 0.0 {
                let step = f64::from(self.mean[i]) / corrected_a / size;
                self.values[i] -= (share * step) as f32 * self.rates[i];
            }
        }
    }
}

struct Book {
    spec: BlockSpec,
    original: Arc<Codebook>,
    /// `None` if the atoms are to stay: they serve units elsewhere, or are all levels that there are.
    atoms: Option<Tuned>,
    /// The largest level that an atom had, which is the largest that it may have.
    peak: f32,
}

struct Member {
    place: Place,
    book: usize,
    rows: usize,
    columns: usize,
    codes: Vec<u8>,
    /// What one unit of the stored scale is worth.
    step: f32,
    /// In units of `step`.
    scales: Tuned,
    /// Where codes are chosen again.
    latent: Option<Latent>,
}

/// The weights that codes are chosen for.
struct Latent {
    weights: Tuned,
    /// What is stored, as of the last step.
    stored: Vec<f32>,
}

/// B of a layer in one direction, `[2*G*H]`.
struct Bias {
    layer: usize,
    direction: usize,
    values: Tuned,
}

/// All that is tuned of a stack.
pub(super) struct Parameters {
    books: Vec<Book>,
    members: Vec<Member>,
    biases: Vec<Bias>,
    count: i32,
}

impl Parameters {
    /// The parameters of the coded sites at `places` in `stack`, and the B of the layers that own theirs.
    pub(super) fn new(
        places: &[Place],
        coded: &CodedSites,
        stack: &Stack,
        owns_bias: &[bool],
        latent_rate: Option<f64>,
    ) -> Parameters {
        let mut books: Vec<Book> = Vec::new();
        let mut members = Vec::new();
        for &place in places {
            let Some(unit) = coded[place.site].as_ref().and_then(CodedSite::block) else { continue };
            let known = books.iter().position(|book| Arc::ptr_eq(&book.original, &unit.codebook));
            let book = known.unwrap_or_else(|| {
                let here = |other: SiteId| places.iter().any(|place| place.site == other);
                let elsewhere = coded.iter().any(|(other, coded)| {
                    let block = coded.as_ref().and_then(CodedSite::block);
                    block.is_some_and(|c| Arc::ptr_eq(&c.codebook, &unit.codebook)) && !here(other)
                });
                books.push(Book::new(&unit.codebook, elsewhere));
                books.len() - 1
            });
            members.push(Member::new(place, book, unit));
        }
        if let Some(rate) = latent_rate {
            members.par_iter_mut().for_each(|member| member.latent = member.latent(&books[member.book], rate));
        }
        let biases = (stack.layers.iter().enumerate())
            .filter(|(layer, _)| owns_bias[*layer])
            .flat_map(|(layer, directions)| directions.iter().enumerate().map(move |(d, it)| (layer, d, it)))
            .filter_map(|(layer, direction, it)| {
                let values = it.b.clone()?;
                let rates = vec![BIAS_RATE; values.len()];
                Some(Bias { layer, direction, values: Tuned::new(values, rates) })
            });
        Parameters { books, members, biases: biases.collect(), count: 0 }
    }

    /// Whether some codebook stays as it is because it serves other nodes too.
    pub(super) fn shares_outside(&self) -> bool {
        self.books.iter().any(|book| book.atoms.is_none() && book.spec.width > 1)
    }

    /// From here on codes stay as they are; all else begins anew from where it is.
    pub(super) fn keep_codes(&mut self) {
        self.count = 0;
        self.books.iter_mut().filter_map(|book| book.atoms.as_mut()).for_each(Tuned::forget);
        self.biases.iter_mut().for_each(|bias| bias.values.forget());
        for member in &mut self.members {
            member.scales.forget();
            member.latent = None;
        }
    }

    /// Moves everything against the gradients; `share` of the largest step.
    pub(super) fn advance(&mut self, gradients: &StackGradients, share: f64) {
        self.count += 1;
        let parts: Vec<(Vec<f32>, Vec<f32>)> = self
            .members
            .par_iter()
            .map(|member| member.gradients(member.part_of(gradients), &self.books[member.book]))
            .collect();
        for (index, book) in self.books.iter_mut().enumerate() {
            let Some(atoms) = &mut book.atoms else { continue };
            let mut sum = vec![0.0; atoms.values.len()];
            for (_, (part, _)) in self.members.iter().zip(&parts).filter(|(m, _)| m.book == index) {
                sum.iter_mut().zip(part).for_each(|(sum, g)| *sum += g);
            }
            atoms.advance(&sum, share, self.count);
            atoms.values.iter_mut().for_each(|v| *v = v.clamp(-book.peak, book.peak));
        }
        for bias in &mut self.biases {
            bias.values.advance(&gradients[bias.layer][bias.direction].b, share, self.count);
        }
        for (member, (_, gradient)) in self.members.iter_mut().zip(&parts) {
            member.scales.advance(gradient, share, self.count);
            member.scales.values.iter_mut().for_each(|s| *s = s.clamp(0.0, f32::from(u8::MAX)));
        }
        let (books, count) = (&self.books, self.count);
        self.members.par_iter_mut().for_each(|member| {
            if let Some(latent) = member.latent.take() {
                let gradient = member.part_of(gradients);
                member.latent = Some(member.recode(latent, &books[member.book], gradient, share, count));
            }
        });
    }

    /// B `[directions, 2*G*H]` by layer.
    pub(super) fn biases(&self) -> impl Iterator<Item = (usize, Arc<Vec<f32>>)> {
        let of_layer = |of_layer: &[Bias]| {
            let values = of_layer.iter().flat_map(|bias| bias.values.values.iter().copied());
            (of_layer[0].layer, Arc::new(values.collect()))
        };
        self.biases.chunk_by(|a, b| a.layer == b.layer).map(of_layer)
    }

    /// Puts the weights and biases that the parameters stand for into the stack.
    pub(super) fn write(&self, stack: &mut Stack) {
        for bias in &self.biases {
            stack.layers[bias.layer][bias.direction].b = Some(bias.values.values.clone());
        }
        let decoded: Vec<Vec<f32>> =
            self.members.par_iter().map(|member| member.decode(&self.books[member.book])).collect();
        for (member, decoded) in self.members.iter().zip(decoded) {
            let Place { layer, direction, matrix, row, .. } = member.place;
            let direction = &mut stack.layers[layer][direction];
            let all = if matrix == Matrix::W { &mut direction.w } else { &mut direction.r };
            all[row * member.columns..][..decoded.len()].copy_from_slice(&decoded);
        }
    }

    /// Stores the parameters in the sites.
    pub(super) fn store(&self, coded: &mut CodedSites) {
        let books: Vec<Arc<Codebook>> = self.books.iter().map(Book::stored).collect();
        for member in &self.members {
            let Some(unit) = coded[member.place.site].as_mut().and_then(CodedSite::block_mut) else { continue };
            unit.codebook = books[member.book].clone();
            unit.codes.clone_from(&member.codes);
            unit.scales.codes = member.scales.values.iter().map(|s| s.round() as u8).collect();
        }
    }
}

impl Book {
    fn new(codebook: &Arc<Codebook>, elsewhere: bool) -> Book {
        let every_level = codebook.spec == EVERY_LEVEL;
        let values: Vec<f32> = codebook.atoms.iter().map(|&level| f32::from(level)).collect();
        let rms = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt();
        let rates = vec![(ATOM_RATE * rms) as f32; values.len()];
        let atoms = (!elsewhere && !every_level).then(|| Tuned::new(values, rates));
        let peak = codebook.atoms.iter().map(|level| level.unsigned_abs()).max().unwrap_or(0).min(127);
        Book { spec: codebook.spec, original: codebook.clone(), atoms, peak: f32::from(peak) }
    }

    /// The levels as they will be stored.
    fn levels(&self) -> Vec<f32> {
        match &self.atoms {
            Some(atoms) => atoms.values.iter().map(|v| v.round()).collect(),
            None => self.original.atoms.iter().map(|&level| f32::from(level)).collect(),
        }
    }

    fn stored(&self) -> Arc<Codebook> {
        if self.atoms.is_none() {
            return self.original.clone();
        }
        Arc::new(Codebook { spec: self.spec, atoms: self.levels().iter().map(|&level| level as i8).collect() })
    }
}

impl Member {
    fn new(place: Place, book: usize, coded: &BlockCode) -> Member {
        let values: Vec<f32> = coded.scales.codes.iter().map(|&code| f32::from(code)).collect();
        let rates = values.iter().map(|v| v * SCALE_RATE as f32).collect();
        Member {
            place,
            book,
            rows: coded.rows,
            columns: coded.columns,
            codes: coded.codes.clone(),
            step: coded.scales.step,
            scales: Tuned::new(values, rates),
            latent: None,
        }
    }

    /// The member's rows of gradients in the weights.
    fn part_of<'g>(&self, gradients: &'g StackGradients) -> &'g [f32] {
        let gradients = &gradients[self.place.layer][self.place.direction];
        let all = if self.place.matrix == Matrix::W { &gradients.w } else { &gradients.r };
        &all[self.place.row * self.columns..][..self.rows * self.columns]
    }

    /// Latent weights that are what is stored; none where every level is an atom.
    fn latent(&self, book: &Book, rate: f64) -> Option<Latent> {
        if book.spec == EVERY_LEVEL {
            return None;
        }
        let stored = self.decode(book);
        let rates = stored.chunks_exact(self.columns).flat_map(|row| {
            let energy: f64 = row.iter().map(|w| f64::from(*w).powi(2)).sum();
            std::iter::repeat_n((rate * (energy / row.len() as f64).sqrt()) as f32, row.len())
        });
        let weights = Tuned::new(stored.clone(), rates.collect());
        Some(Latent { weights, stored })
    }

    /// Moves the latent weights along with what is stored and against the gradient, and gives each piece the atom that is
    /// nearest to its latent.
    fn recode(&mut self, mut latent: Latent, book: &Book, gradient: &[f32], share: f64, count: i32) -> Latent {
        let now = self.decode(book);
        let moved = now.iter().zip(&latent.stored).map(|(now, before)| now - before);
        latent.weights.values.iter_mut().zip(moved).for_each(|(w, moved)| *w += moved);
        latent.weights.advance(gradient, share, count);
        let (levels, width) = (book.levels(), book.spec.width);
        let reach = reach(&levels, width);
        let rows = latent.weights.values.chunks_exact(self.columns);
        let scales = self.stored_scales();
        for ((row, codes), scale) in rows.zip(self.codes.chunks_exact_mut(book.spec.pieces(self.columns))).zip(scales) {
            if scale <= 0.0 {
                continue;
            }
            for (piece, code) in row.chunks(width).zip(codes) {
                let distance = |atom: &[f32]| -> f32 {
                    piece.iter().zip(atom).map(|(w, level)| (w / scale - level) * (w / scale - level)).sum()
                };
                let own = usize::from(*code);
                let mut least = distance(&levels[own * width..]);
                if piece.len() == width && least < reach[own] {
                    continue;
                }
                for (other, atom) in levels.chunks_exact(width).enumerate() {
                    let distance = distance(atom);
                    if distance < least {
                        (least, *code) = (distance, other as u8);
                    }
                }
            }
        }
        latent.stored = self.decode(book);
        latent
    }

    /// The scales as they will be decoded.
    fn stored_scales(&self) -> Vec<f32> {
        self.scales.values.iter().map(|s| s.round() * self.step).collect()
    }

    fn rows_of_codes(&self, spec: BlockSpec) -> std::slice::ChunksExact<'_, u8> {
        self.codes.chunks_exact(spec.pieces(self.columns))
    }

    fn decode(&self, book: &Book) -> Vec<f32> {
        let levels = book.levels();
        let mut out = vec![0.0; self.rows * self.columns];
        let rows = out.chunks_exact_mut(self.columns).zip(self.rows_of_codes(book.spec));
        for ((row, codes), scale) in rows.zip(self.stored_scales()) {
            for (piece, &code) in row.chunks_mut(book.spec.width).zip(codes) {
                let atom = &levels[usize::from(code) * book.spec.width..];
                piece.iter_mut().zip(atom).for_each(|(w, level)| *w = level * scale);
            }
        }
        out
    }

    /// From gradients in the weights `[rows, n]` to those in the atoms and in the scales.
    fn gradients(&self, weights: &[f32], book: &Book) -> (Vec<f32>, Vec<f32>) {
        let levels = book.levels();
        let width = book.spec.width;
        let mut atoms = vec![0.0; levels.len()];
        let mut scales = vec![0.0; self.rows];
        let rows = weights.chunks_exact(self.columns).zip(self.rows_of_codes(book.spec));
        for (((row, codes), scale), of_scale) in rows.zip(self.stored_scales()).zip(&mut scales) {
            for (piece, &code) in row.chunks(width).zip(codes) {
                let at = usize::from(code) * width;
                let atom = levels[at..].iter().zip(&mut atoms[at..]);
                for (g, (level, of_atom)) in piece.iter().zip(atom) {
                    *of_scale += g * level;
                    *of_atom += g * scale;
                }
            }
        }
        scales.iter_mut().for_each(|g| *g *= self.step);
        (atoms, scales)
    }
}

/// For each atom the squared distance within which no other atom can be nearer.
fn reach(levels: &[f32], width: usize) -> Vec<f32> {
    let atoms = || levels.chunks_exact(width).enumerate();
    let distance = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
    let nearest = |(own, atom): (usize, &[f32])| {
        atoms().filter(|(other, _)| *other != own).map(|(_, other)| distance(atom, other)).fold(f32::INFINITY, f32::min)
    };
    atoms().map(|atom| nearest(atom) / 4.0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::schedule::LATENT_RATE;
    use super::*;
    use crate::cell::Gradients;
    use crate::dictionary::{ATOMS, Scales};

    /// A row of three pieces, the last one short, of atoms at 0, 10, 20, 30 in both directions; the others are far away.
    fn row(codes: [u8; 3]) -> (Member, Book) {
        let mut atoms: Vec<i8> = (0..16).flat_map(|i| [10 * (i / 4), 10 * (i % 4)]).collect();
        atoms.resize(2 * ATOMS, -127);
        let codebook = Arc::new(Codebook { spec: BlockSpec { width: 2 }, atoms });
        let coded = BlockCode {
            rows: 1,
            columns: 5,
            codes: codes.to_vec(),
            scales: Scales { codes: vec![1], step: 0.5 },
            codebook: codebook.clone(),
            grid: None,
        };
        let place = Place { site: SiteId(0), layer: 0, direction: 0, matrix: Matrix::W, row: 0 };
        (Member::new(place, 0, &coded), Book::new(&codebook, false))
    }

    #[test]
    fn a_code_changes_where_the_gradient_keeps_asking_for_it() {
        let (mut member, mut book) = row([5, 5, 4]);
        let mut latent = member.latent(&book, LATENT_RATE).unwrap();
        let gradient = [0.0, -1.0, 0.0, 0.0, 1.0];
        for count in 1..=300 {
            latent = member.recode(latent, &book, &gradient, 1.0, count);
        }
        assert_eq!(member.codes, [6, 5, 0]);
        assert_eq!(latent.stored, [5.0, 10.0, 5.0, 5.0, 0.0]);

        // Atoms that move take their pieces along, however far.
        book.atoms.as_mut().unwrap().values.iter_mut().for_each(|level| *level += 40.0);
        member.recode(latent, &book, &[0.0; 5], 1.0, 301);
        assert_eq!(member.codes[..2], [6, 5]);
    }

    #[test]
    fn codes_that_are_kept_stay_while_atoms_move() {
        let gradients = || vec![vec![Gradients { w: vec![0.0, -1.0, 0.0, 0.0, 1.0], r: Vec::new(), b: Vec::new() }]];
        let after = |kept: bool| {
            let (mut member, book) = row([5, 5, 4]);
            member.latent = member.latent(&book, LATENT_RATE);
            let mut parameters = Parameters { books: vec![book], members: vec![member], biases: Vec::new(), count: 0 };
            if kept {
                parameters.keep_codes();
            }
            (0..300).for_each(|_| parameters.advance(&gradients(), 1.0));
            (parameters.members[0].codes.clone(), parameters.books[0].levels())
        };
        let ((codes, levels), (others, _)) = (after(true), after(false));
        assert_eq!(codes, [5, 5, 4]);
        assert_ne!(others, codes);
        assert!(levels[11] > 10.0, "{levels:?}");
    }

    #[test]
    fn atoms_reach_halfway_to_the_nearest_other() {
        assert_eq!(reach(&[0.0, 0.0, 0.0, 6.0, 8.0, 0.0], 2), [9.0, 9.0, 16.0]);
    }
}
