//! The coded sites of a plan without content: all that the size of a file depends on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CodedSite, CodedSites};
use crate::dictionary::{Atoms, Band, BlockCode, BlockSpec, Codebook, Part, Projected, Scales};
use crate::plan::{DictionaryUse, Plan};
use crate::sites::Weights;

/// What a plan stores, without content.
#[must_use]
pub fn blank(weights: &Weights, plan: &Plan) -> CodedSites {
    let mut coded: CodedSites = weights.sites().map(|_| None);
    let mut blank = Blank { books: 0 };
    for (spec, members) in plan.codebooks(weights) {
        let book = blank.book(spec);
        for id in members {
            let [rows, columns] = weights.get(id).block.shape();
            let grid = weights.grid(id).cloned();
            coded[id] = Some(CodedSite::Block(BlockCode { grid, ..blank.coded(rows, columns, &book) }));
        }
    }
    for DictionaryUse { columns, members } in plan.dictionaries(weights) {
        let bands = members[0].bands.iter();
        let bands = bands.map(|band| {
            let book = blank.book(BlockSpec { width: usize::from(band.width) });
            blank.coded(usize::from(band.atoms), columns, &book)
        });
        let atoms = Arc::new(Atoms { columns, bands: bands.collect() });
        let mut books: BTreeMap<(usize, Band), Book> = BTreeMap::new();
        for member in members {
            let [rows, all] = weights.get(member.site).block.shape();
            let codes = member.bands.used().enumerate().map(|(index, band)| {
                let spec = BlockSpec { width: usize::from(band.codes) };
                let book = books.entry((index, band)).or_insert_with(|| blank.book(spec));
                blank.coded(rows, usize::from(band.atoms), book)
            });
            let start = weights.sections(member.site)[member.section].start;
            let part = Part { start, atoms: atoms.clone(), codes: codes.collect() };
            match &mut coded[member.site] {
                Some(CodedSite::Projection(projected)) => projected.parts.push(part),
                none => *none = Some(CodedSite::Projection(Projected { rows, columns: all, parts: vec![part] })),
            }
        }
    }
    coded
}

/// Makes codes without content.
struct Blank {
    books: usize,
}

/// A codebook and the step of the scales of all that are learned with it.
struct Book {
    codebook: Arc<Codebook>,
    step: f32,
}

impl Blank {
    fn book(&mut self, spec: BlockSpec) -> Book {
        self.books += 1;
        let codebook = Arc::new(Codebook { spec, atoms: vec![0; spec.codebook_bytes()] });
        // Steps differ between codebooks, as those that are learned do, and from the 1 of dense rows.
        Book { codebook, step: (self.books + 1) as f32 }
    }

    fn coded(&self, rows: usize, columns: usize, book: &Book) -> BlockCode {
        BlockCode {
            rows,
            columns,
            codes: vec![0; rows * book.codebook.spec.pieces(columns)],
            scales: Scales { codes: vec![1; rows], step: book.step },
            codebook: book.codebook.clone(),
            grid: None,
        }
    }
}
