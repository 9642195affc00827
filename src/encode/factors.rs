//! Multiplication by a factored matrix without decoding it: `M x = Z (D x)`, by the dictionary and then by the codes. Its
//! multiply-adds, and the sizes for which it is faster.

use super::Form;
use crate::plan::Storage;
use crate::recurrent::Matrix;

/// What a product more than one costs in onnxruntime at each step, in multiply-adds of int8 at batch 1: quantising its
/// vector, scaling and adding what it gives takes some 5 microseconds, whatever its size.
const PRODUCT: u64 = 350_000;
/// A multiply-add of floats, which the portable form is left with, in those of int8.
const FLOAT: u64 = 2;

/// Multiply-adds of a matrix and a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// With the dense matrix.
    pub dense: u64,
    /// With the stored factors; the same as dense for codecs without factors.
    pub factored: u64,
    /// Products in addition to the one of the dense matrix.
    more: u64,
}

impl Work {
    /// Of the gates of one direction: rows and columns of each, and how it is stored. `vectors` is how many vectors they
    /// multiply in a step, some gates one and some another.
    pub fn of(units: &[([usize; 2], Storage)], vectors: usize) -> Work {
        let dense = units.iter().map(|([rows, columns], _)| rows * columns).sum::<usize>() as u64;
        let Some((dictionary, used)) = dictionary(units) else { return Work { dense, factored: dense, more: 0 } };
        let atoms: usize = dictionary[..used].iter().map(|(atoms, _)| atoms).sum();
        let rows: usize = units.iter().map(|([rows, _], _)| rows).sum();
        let factored = (atoms * (vectors * units[0].0[1] + rows)) as u64;
        Work { dense, factored, more: (vectors * used) as u64 }
    }

    /// Whether it was measured to be faster: `each_step` for R; W is multiplied with all steps at once.
    fn pays(self, each_step: bool) -> bool {
        let more = if each_step { PRODUCT * self.more } else { 0 };
        self.factored + more < FLOAT * self.dense
    }
}

/// The dictionary that all units share, and how many of its bands are used by any.
fn dictionary(units: &[([usize; 2], Storage)]) -> Option<(&[(usize, usize)], usize)> {
    let mut most = 0;
    let mut shared: Option<&[(usize, usize)]> = None;
    for (_, storage) in units {
        let Storage::Projection { dictionary, used } = storage else { return None };
        if shared.is_some_and(|shared| shared != dictionary.as_slice()) {
            return None;
        }
        (shared, most) = (Some(dictionary.as_slice()), most.max(*used));
    }
    Some((shared?, most))
}

/// Why the gates of one direction of a matrix cannot be multiplied with their vectors in a form. Without `measured` they need only take
/// fewer multiply-adds than they did.
pub fn obstacle(
    units: &[([usize; 2], Storage)],
    (matrix, vectors): (Matrix, usize),
    form: Form,
    measured: bool,
) -> Option<String> {
    if form == Form::Portable || units.iter().all(|(_, storage)| *storage == Storage::Block) {
        return None;
    }
    let Some((dictionary, used)) = dictionary(units).filter(|_| form == Form::Fast) else {
        return Some("some of its gates are not codes of a block dictionary".to_owned());
    };
    let work = Work::of(units, vectors);
    let pays = if measured { work.pays(matrix == Matrix::R) } else { work.factored < work.dense };
    (!pays).then(|| {
        let (atoms, columns) = (dictionary[..used].iter().map(|(atoms, _)| atoms).sum::<usize>(), units[0].0[1]);
        format!(
            "with {atoms} atoms in {used} bands, factored products are no faster than the {columns} columns of {matrix}"
        )
    })
}
