//! NumPy's array format: a header that is a Python literal, then the elements.
//!
//! Nothing is allocated on the header's word alone: the bytes that shape and element type call for must be those that
//! the file has left. Both byte orders and both element orders are read; Python objects never are.

use super::Tensor;
use crate::error::{self, Error, ErrorKind, Result};
use crate::limits;
use crate::onnx::{ElementType, tensor};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use ndarray_npy::npy::header;
use std::io::Read;

/// What an array file says about itself.
#[derive(Debug)]
pub(super) struct Header {
    pub element: ElementType,
    pub shape: Vec<usize>,
    big_endian: bool,
    fortran: bool,
    payload: usize,
    /// For strings.
    text: Option<Text>,
}

/// How NumPy stores strings: all of one width, those that are shorter filled up with zeros.
#[derive(Clone, Copy, Debug)]
struct Text {
    /// Bytes of a string.
    width: usize,
    /// Four bytes a character (`U`), not one (`S`).
    wide: bool,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Samples, message)
}

fn unreadable(e: &std::io::Error) -> Error {
    match e.raw_os_error() {
        Some(_) => bad(format!("cannot be read: {}", error::words(e))),
        // Of what unpacks a compressed archive.
        None => bad("is damaged: its compressed bytes or their checksum are wrong"),
    }
}

impl Header {
    /// Reads the header of an array that is `length` bytes long in all.
    pub fn read(reader: &mut impl Read, length: u64) -> Result<Header> {
        let (text, header_length) = header_bytes(reader)?;
        let parsed = header::Header::from_reader(&mut text.as_slice())
            .map_err(|_| bad("not a NumPy array: its header is not one that numpy.save writes, save it again"))?;
        let descr = parsed.type_descriptor.as_string().map_or("a structure", String::as_str);
        let text = Text::of(descr);
        let (element, big_endian) = match text {
            Some(_) => (ElementType::String, descr.starts_with('>')),
            None => element_type(descr)?,
        };
        let dims: Vec<i64> = parsed.shape.iter().map(|&d| i64::try_from(d).unwrap_or(-1)).collect();
        let count = tensor::element_count(&dims).ok();
        if text.is_some() && count.is_some_and(|n| n > limits::SAMPLE_STRINGS) {
            return Err(bad(format!("more than {} strings", limits::SAMPLE_STRINGS)));
        }
        let payload = count
            .and_then(|n| match text {
                Some(text) => n.checked_mul(text.width as u64),
                None => element.payload_bytes(n),
            })
            .ok_or_else(|| bad(format!("its header claims the impossible shape {:?}", parsed.shape)))?;
        let left = length.saturating_sub(header_length);
        if payload != left {
            let shape = &parsed.shape;
            return Err(bad(format!(
                "its header says {shape:?} of {descr}, which is {payload} bytes, but {left} bytes follow"
            )));
        }
        let payload = usize::try_from(payload).map_err(|_| bad("is larger than the memory of this machine"))?;
        Ok(Header { element, shape: parsed.shape, big_endian, fortran: parsed.layout.is_fortran(), payload, text })
    }

    /// Reads the elements that follow the header.
    pub fn read_elements(&self, reader: &mut impl Read) -> Result<Tensor> {
        let mut bytes = Vec::new();
        // One byte more than is due, so that a stream that is longer than it said is found out.
        let due = self.payload as u64;
        reader.take(due.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        if bytes.len() != self.payload {
            return Err(bad(format!("{} bytes of elements, but its header calls for {due}", bytes.len())));
        }
        let shape = IxDyn(&self.shape).set_f(self.fortran);
        let impossible = || bad(format!("its header claims the impossible shape {:?}", self.shape));
        if let Some(text) = self.text {
            let strings = bytes.chunks_exact(text.width).map(|bytes| text.string(bytes, self.big_endian));
            let strings = ArrayD::from_shape_vec(shape, strings.collect::<Result<Vec<_>>>()?);
            return Ok(strings.map_err(|_| impossible())?.into());
        }
        if self.big_endian {
            let size = self.element.bits().map_or(1, |bits| bits as usize / 8);
            bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Tensor::from_little_endian(self.element, shape, &bytes).ok_or_else(impossible)
    }
}

impl Text {
    /// `<U12`, `|S3`; none for other types, and for strings without characters.
    fn of(descr: &str) -> Option<Text> {
        let code = descr.strip_prefix(['<', '>', '|', '='])?;
        let wide = code.starts_with('U');
        let characters: usize = code.strip_prefix(['U', 'S'])?.parse().ok().filter(|&n| n > 0)?;
        Some(Text { width: characters.checked_mul(if wide { 4 } else { 1 })?, wide })
    }

    fn string(self, bytes: &[u8], big_endian: bool) -> Result<String> {
        let wrong = || bad("holds a string that is not Unicode");
        if !self.wide {
            let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
            return String::from_utf8(bytes[..end].to_vec()).map_err(|_| wrong());
        }
        let (chunks, _) = bytes.as_chunks::<4>();
        let code = |&b: &[u8; 4]| if big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) };
        let end = chunks.iter().rposition(|c| code(c) != 0).map_or(0, |last| last + 1);
        chunks[..end].iter().map(|c| char::from_u32(code(c)).ok_or_else(wrong)).collect()
    }
}

/// The bytes of the header, and how many they are.
///
/// The parser behind it recurses and trusts the length; both are bounded here.
fn header_bytes(reader: &mut impl Read) -> Result<(Vec<u8>, u64)> {
    let mut bytes = vec![0; 10];
    read_exactly(reader, &mut bytes)?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(bad("not a NumPy array: it does not start with \\x93NUMPY"));
    }
    let length = match bytes[6] {
        1 => usize::from(u16::from_le_bytes([bytes[8], bytes[9]])),
        _ => {
            bytes.resize(12, 0);
            read_exactly(reader, &mut bytes[10..])?;
            u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize
        }
    };
    if length > limits::NPY_HEADER_BYTES {
        return Err(bad(format!("a header of {length} bytes, at most {} are read", limits::NPY_HEADER_BYTES)));
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    read_exactly(reader, &mut bytes[start..])?;
    // A plain array's header holds one dict and one tuple; a nested dtype is refused anyway.
    if bytes[start..].iter().filter(|b| b"([{".contains(b)).count() > 8 {
        return Err(bad("a structured dtype, which no ONNX tensor has"));
    }
    let read = bytes.len() as u64;
    Ok((bytes, read))
}

fn read_exactly(reader: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    reader.read_exact(buffer).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => bad("not a NumPy array: it ends within its header"),
        _ => unreadable(&e),
    })
}

/// Element type and whether it is big endian, of a NumPy type string.
fn element_type(descr: &str) -> Result<(ElementType, bool)> {
    let (order, code) = descr.split_at_checked(1).unwrap_or_default();
    if order == "|" && code.starts_with('O') {
        return Err(bad("holds Python objects (a pickle), which are never loaded: save it with a numeric dtype"));
    }
    let holds = match code.as_bytes().first() {
        Some(b'U' | b'S') => "texts",
        Some(b'c') => "complex numbers",
        Some(b'M' | b'm') => "dates or times",
        Some(b'V') => "raw bytes",
        _ => "elements of another kind",
    };
    let element = match code {
        "f2" => ElementType::Float16,
        "f4" => ElementType::Float,
        "f8" => ElementType::Double,
        "i1" => ElementType::Int8,
        "i2" => ElementType::Int16,
        "i4" => ElementType::Int32,
        "i8" => ElementType::Int64,
        "u1" => ElementType::Uint8,
        "u2" => ElementType::Uint16,
        "u4" => ElementType::Uint32,
        "u8" => ElementType::Uint64,
        "b1" => ElementType::Bool,
        _ => {
            let shown = shortened(descr);
            let message =
                format!("dtype {shown} cannot be fed to a model: {holds}, expected numbers; convert it with astype()");
            return Err(bad(message));
        }
    };
    if !matches!(order, "<" | ">" | "|") {
        return Err(bad(format!("dtype {} has no byte order", shortened(descr))));
    }
    Ok((element, order == ">"))
}

/// Foreign text that may be as long as the header, cut to what fits a line.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use ndarray::array;
    use ndarray_npy::WriteNpyExt;

    fn read(bytes: &[u8]) -> Result<Tensor> {
        let mut reader = bytes;
        Header::read(&mut reader, bytes.len() as u64)?.read_elements(&mut reader)
    }

    fn npy(dict: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&u16::try_from(dict.len() + 1).unwrap().to_le_bytes());
        bytes.extend_from_slice(dict.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(payload);
        bytes
    }

    fn dict(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
    }

    #[test]
    fn reads_what_the_format_s_other_implementation_writes() {
        let mut bytes = Vec::new();
        array![[1.5f32, -2.], [3., 4.]].write_npy(&mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), Tensor::from(array![[1.5f32, -2.], [3., 4.]].into_dyn()));
        bytes.clear();
        array![true, false].write_npy(&mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), Tensor::from(array![true, false].into_dyn()));
    }

    #[test]
    fn reads_both_byte_orders_and_both_element_orders() {
        let want = Tensor::from(array![[1i16, 2], [3, 4]].into_dyn());
        let little = [1, 0, 2, 0, 3, 0, 4, 0];
        let big_by_columns = [0, 1, 0, 3, 0, 2, 0, 4];
        assert_eq!(read(&npy(&dict("<i2", "False", "(2, 2)"), &little)).unwrap(), want);
        assert_eq!(read(&npy(&dict(">i2", "True", "(2, 2)"), &big_by_columns)).unwrap(), want);
    }

    #[test]
    fn reads_half_precision_scalars_and_empty_axes() {
        let half = Tensor::from(ndarray::arr0(f16::from_f32(0.5)).into_dyn());
        assert_eq!(read(&npy(&dict("<f2", "False", "()"), &[0, 0x38])).unwrap(), half);
        assert_eq!(read(&npy(&dict("<f4", "False", "(0, 3)"), &[])).unwrap().shape(), [0, 3]);
    }

    #[test]
    fn reads_strings_of_both_widths() {
        let words =
            |all: &[&str]| Tensor::from(ndarray::Array1::from_iter(all.iter().map(|&s| s.to_owned())).into_dyn());
        let wide = |big: bool| {
            "ä".chars()
                .chain(['\0', 'b', 'c'])
                .flat_map(move |c| if big { (c as u32).to_be_bytes() } else { (c as u32).to_le_bytes() })
        };
        let want = words(&["ä", "bc"]);
        assert_eq!(read(&npy(&dict("<U2", "False", "(2,)"), &wide(false).collect::<Vec<_>>())).unwrap(), want);
        assert_eq!(read(&npy(&dict(">U2", "False", "(2,)"), &wide(true).collect::<Vec<_>>())).unwrap(), want);
        assert_eq!(read(&npy(&dict("|S3", "False", "(2,)"), b"ab\0\0\0\0")).unwrap(), words(&["ab", ""]));
        assert!(read(&npy(&dict("|S1", "False", "(1,)"), &[0xFF])).unwrap_err().message().contains("not Unicode"));
        assert!(
            read(&npy(&dict("<U1", "False", "(1,)"), &[0, 0xD8, 0, 0])).unwrap_err().message().contains("not Unicode")
        );
    }

    #[test]
    fn refuses_headers_that_lie() {
        let cases = [
            (dict("<f4", "False", "(3,)"), "its header says [3] of <f4, which is 12 bytes, but 8 bytes follow"),
            (dict("<f4", "False", "(1,)"), "its header says [1] of <f4, which is 4 bytes, but 8 bytes follow"),
            (dict("<f4", "False", "(4611686018427387904, 4)"), "impossible shape"),
            (dict("<f4", "False", "(-2,)"), "not a NumPy array"),
            (dict("|O", "False", "(1,)"), "Python objects"),
            (dict("<c8", "False", "(1,)"), "dtype <c8 cannot be fed to a model"),
            (dict("<U0", "False", "(1,)"), "dtype <U0 cannot be fed to a model"),
            (dict("", "False", "(1,)"), "dtype"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }".to_owned(), "a structure"),
            ("(".repeat(9000), "structured dtype"),
        ];
        for (dict, want) in cases {
            let e = read(&npy(&dict, &[0; 8])).unwrap_err();
            assert!(e.message().contains(want) && e.kind() == ErrorKind::Samples, "{e}");
        }
        assert!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").unwrap_err().message().contains("at most"));
        assert!(read(b"PK\x03\x04 something else").unwrap_err().message().contains("NUMPY"));
        assert!(read(b"\x93NU").unwrap_err().message().contains("ends within"));
    }
}
