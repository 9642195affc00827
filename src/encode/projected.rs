//! Rows of a projection dictionary: a product of two matrices, both rebuilt as the [portable](super::portable) form
//! rebuilds weights.
//!
//! ```text
//! codes [1, rows, k_1] -+
//!        ...            +- Concat - MatMul - rows [1, rows, n]
//! codes [1, rows, k_b] -+             |
//! atoms [1, k_1, n] .. [1, k_b, n] - Concat   (once for all rows that use these bands)
//! ```
//! Atoms are stored once, and decoded once in each graph that uses them, for all weights that share them.

use std::ops::Range;
use std::sync::Arc;

use super::writer::{Home, Run, Writer};
use super::{Block, Stored, StoredMatrix, portable};
use crate::dictionary::{Atoms, BlockCode, Projected, Scales};
use crate::onnx::ElementType;

/// Names for the units of a run.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Writes the nodes that rebuild `rows` of units that use the same bands of the same dictionaries, and returns the name of
/// the value `[1, rows, n]`.
pub(super) fn write(
    writer: &mut Writer<'_, '_>,
    stored: &Stored<'_>,
    run: &Run<'_>,
    rows: &[(&Projected, Range<usize>)],
    home: Home<'_>,
) -> String {
    let StoredMatrix::Weight(weight) = stored.of else { unreachable!("codes and atoms are coded in blocks") };
    let (stem, start) = (run.stem(stored), stored.start + run.range().start);
    let parts = &rows[0].0.parts;
    let products: Vec<String> = (0..parts.len())
        .map(|part| {
            let stem = if parts.len() == 1 { stem.clone() } else { format!("{stem}/{part}") };
            let atoms = atoms(writer, &parts[part].atoms, 0..parts[part].codes.len(), home);
            let codes = (0..parts[part].codes.len())
                .map(|band| {
                    let coded: Vec<BlockCode> =
                        rows.iter().map(|(unit, range)| cut(&unit.parts[part].codes[band], range)).collect();
                    let of = StoredMatrix::Codes { weight, part, band };
                    let coded: Vec<&BlockCode> = coded.iter().collect();
                    portable::write(writer, &matrix(of, start, format!("{stem}/z{band}"), &coded), home)
                })
                .collect();
            let codes = writer.concat(&format!("{stem}/z"), 2, codes);
            writer.node("MatMul", &[&codes, &atoms], &format!("{stem}/product"), vec![])
        })
        .collect();
    writer.concat(&format!("{stem}/rows"), 2, products)
}

/// Some bands of a dictionary, `[1, k, n]`.
fn atoms(writer: &mut Writer<'_, '_>, atoms: &Arc<Atoms>, bands: Range<usize>, home: Home<'_>) -> String {
    let number = writer.dictionary(atoms);
    if let Some(name) = writer.atoms(number, &bands) {
        return name;
    }
    let value = if bands.len() == 1 {
        portable::write(writer, &band(atoms, number, bands.start), shared(home))
    } else {
        let each = bands.clone().map(|band| self::atoms(writer, atoms, band..band + 1, home)).collect();
        writer.concat(&format!("dictionary/{number}"), 1, each)
    };
    writer.keep_atoms(number, bands, &value);
    value
}

/// A band of a dictionary, `[k, n]`, as it is stored.
pub(super) fn band(atoms: &Atoms, number: usize, band: usize) -> Stored<'_> {
    let of = StoredMatrix::Atoms { dictionary: number, band };
    matrix(of, 0, format!("dictionary/{number}.{band}"), &[&atoms.bands[band]])
}

/// Where the constants of a dictionary go: it serves whom codebooks serve.
pub(super) fn shared(home: Home<'_>) -> Home<'_> {
    Home { constants: home.codebooks, codebooks: home.codebooks }
}

/// Coded rows, one below the other, of which the first is row `start` of `of`.
pub(super) fn matrix<'a>(of: StoredMatrix, start: usize, name: String, coded: &[&'a BlockCode]) -> Stored<'a> {
    Stored {
        of,
        start,
        name,
        element: ElementType::Float,
        directions: 1,
        columns: coded[0].columns,
        blocks: coded.iter().map(|&coded| Block::Coded(coded)).collect(),
        gates: &NAMES[..coded.len()],
    }
}

/// Some rows.
fn cut(coded: &BlockCode, rows: &Range<usize>) -> BlockCode {
    let pieces = coded.codebook.spec.pieces(coded.columns);
    BlockCode {
        rows: rows.len(),
        columns: coded.columns,
        codes: coded.codes[rows.start * pieces..rows.end * pieces].to_vec(),
        scales: Scales { codes: coded.scales.codes[rows.clone()].to_vec(), step: coded.scales.step },
        codebook: coded.codebook.clone(),
        grid: None,
    }
}
