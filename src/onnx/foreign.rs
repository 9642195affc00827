//! Files of other formats, recognised by their first bytes, so that whoever gives one is told what it is and what to do.
//!
//! Nothing is decoded: the bytes that formats begin with ("magic numbers") decide, and in an archive the names in it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes that are looked at: the first members of an archive are named there.
const HEAD: u64 = 64 << 10;

/// Formats by the bytes at a place.
const MAGIC: [(usize, &[u8], &str); 27] = [
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run 'git lfs pull'"),
    (4, b"ORTM", "a model in onnxruntime's own format (.ort): give the .onnx file that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model: export the model that it was made from to ONNX (tf2onnx --tflite reads it)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras saves models (.h5): export the model to ONNX with tf2onnx"),
    (0, b"\x80\x02}q", PICKLE),
    (0, b"\x80\x02\x8a\nl\xfc\x9c", PICKLE),
    (0, b"\x80\x03", PICKLE),
    (0, b"\x80\x04\x95", PICKLE),
    (0, b"\x80\x05\x95", PICKLE),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it first (gunzip)"),
    (0, b"BZh", "compressed with bzip2: unpack it first (bunzip2)"),
    (0, b"\xfd7zXZ\0", "compressed with xz: unpack it first (unxz)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first (unzstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (0, b"Rar!\x1a\x07", "a RAR archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first (tar -x)"),
    (0, b"\x93NUMPY", "a NumPy array (.npy), which holds samples, not a model"),
    (0, b"GGUF", "a GGUF file, which holds weights without a graph that this tool reads: take the ONNX export"),
    (0, b"ptrt", TENSORRT),
    (0, b"ftrt", TENSORRT),
    (0, b"<?xml", "an XML file, as OpenVINO saves models (.xml): give the .onnx file that it was made from"),
    (0, b"<!DOCTYPE", WEB_PAGE),
    (0, b"<!doctype", WEB_PAGE),
    (0, b"<html", WEB_PAGE),
    (0, b"7767517\n", "an ncnn model (.param): give the .onnx file that it was made from"),
    (0, b"\x7fELF", "a program, not a model"),
    (0, b"<\n  ir_version", "ONNX as text: convert it with onnx.parser.parse_model and save it as .onnx"),
];
const PICKLE: &str = "a Python pickle, as PyTorch saved models before 1.6 (.pt, .pth), which is never loaded: export the \
                      model to ONNX with torch.onnx.export";
const TENSORRT: &str = "a TensorRT engine: give the .onnx file that it was built from";
const WEB_PAGE: &str = "a web page, not the file itself: the download failed, or the link was to a page about it";

/// Archives in zip's format by the name of a member.
const MEMBERS: [(&[u8], &str); 4] = [
    (
        b"data.pkl",
        "a PyTorch file (.pt, .pth): export the model to ONNX with torch.onnx.export (PyTorch alone can read this one)",
    ),
    (
        b"model.weights.h5",
        "a Keras model (.keras): export it with model.export('model.onnx', format='onnx') or tf2onnx",
    ),
    (b".onnx", "a zip archive with an ONNX model in it: unpack it first (unzip)"),
    (b".npy", "a NumPy archive (.npz), which holds samples, not a model"),
];

/// What a file is that begins with these bytes, and what to do; `None` if nothing is known of it.
#[must_use]
pub fn recognised(head: &[u8]) -> Option<&'static str> {
    let begins = |&&(at, magic, _): &&(usize, &[u8], &str)| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, kind)) = MAGIC.iter().find(begins) {
        return Some(kind);
    }
    if head.starts_with(b"PK\x03\x04") {
        let holds = |name: &[u8]| head.windows(name.len()).any(|window| window == name);
        let member = MEMBERS.iter().find(|(name, _)| holds(name));
        return Some(member.map_or("a zip archive: unpack it first (unzip)", |(_, kind)| kind));
    }
    if is_safetensors(head) {
        return Some("a safetensors file, which holds weights without a graph: export the model itself to ONNX");
    }
    is_text(head).then_some("a text file, not the binary file that an export to ONNX writes: check the path")
}

/// As [`recognised`], of a regular file; `None` also if it cannot be read.
#[must_use]
pub fn recognised_file(path: &Path) -> Option<&'static str> {
    if !path.metadata().is_ok_and(|found| found.is_file() && found.len() > 0) {
        return None;
    }
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
    recognised(&head)
}

/// The length of a header in JSON, then the header.
fn is_safetensors(head: &[u8]) -> bool {
    let Some((length, header)) = head.split_first_chunk::<8>() else { return false };
    (2..1 << 28).contains(&u64::from_le_bytes(*length)) && header.starts_with(b"{\"")
}

/// Text in UTF-8, cut off anywhere. A model begins with a control character: the number of its first field.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
        Err(_) => "",
    };
    !valid.is_empty() && !valid.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        let zip = |name: &str| [b"PK\x03\x04 22 bytes of a header", name.as_bytes(), b" and its data"].concat();
        let tar = [vec![b'm'; 257], b"ustar\0".to_vec()].concat();
        let cases: [(&[u8], &str); 13] = [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"\x18\0\0\0ORTM\0", ".ort"),
            (b"\x1c\0\0\0TFL3", "Lite"),
            (b"\x89HDF\r\n\x1a\n\0", "Keras"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch.onnx.export"),
            (&zip("archive/data.pkl"), "torch.onnx.export"),
            (&zip("model.onnx"), "unzip"),
            (&zip("readme.txt"), "a zip archive"),
            (b"\x1f\x8b\x08", "gunzip"),
            (&tar, "tar -x"),
            (b"\x40\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\"", "safetensors"),
            (b"some text\n", "a text file"),
            ("{\"name\": \"\u{fc}".as_bytes().split_last().expect("has a last byte").1, "a text file"),
        ];
        for (head, words) in cases {
            let kind = recognised(head).unwrap_or_else(|| panic!("{words} is not recognised"));
            assert!(kind.contains(words), "{kind}");
        }
        for head in [&b""[..], b"\x08\x08\x12\x04", b"\x08\x08", b"text and \xff"] {
            assert_eq!(recognised(head), None);
        }
    }
}
