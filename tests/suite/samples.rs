//! Samples from files: those that people have, and those that should be refused with one line.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use dirnet::engine::Engine;
use dirnet::error::{Error, ErrorKind};
use dirnet::onnx::{ElementType, LoadOptions, Model};
use dirnet::samples::{AxisSize, Carry, Port, Samples, Signature, Tensor};
use ndarray::{Array1, Array2, Array3, ArrayD, IxDyn, array, s};
use ndarray_npy::{NpzWriter, WritableElement, WriteNpyExt, write_npy};
use proptest::prelude::*;

use crate::corpus;
use crate::made::{self, fixture};

/// `x [batch, 3]` of floats, `n [batch]` of 64-bit integers, `state [2, batch]` of floats.
fn signature() -> Signature {
    let port =
        |name: &str, element, dims: &[AxisSize]| Port { name: name.to_owned(), element, dims: Some(dims.to_vec()) };
    let batch = AxisSize::Symbol("batch".to_owned());
    Signature {
        inputs: vec![
            port("x", ElementType::Float, &[batch.clone(), AxisSize::Size(3)]),
            port("n", ElementType::Int64, std::slice::from_ref(&batch)),
            port("state", ElementType::Float, &[AxisSize::Size(2), batch.clone()]),
        ],
        closed: Vec::new(),
        outputs: vec![
            port("y", ElementType::Float, &[batch.clone(), AxisSize::Size(4)]),
            port("next", ElementType::Float, &[AxisSize::Size(2), batch]),
        ],
        states: Vec::new(),
    }
}

fn one_input() -> Signature {
    Signature { inputs: vec![signature().inputs.remove(0)], ..Signature::default() }
}

fn carry() -> Vec<Carry> {
    vec![Carry::parse("state=next").unwrap()]
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// An npz in the making.
struct Npz(NpzWriter<File>, PathBuf);

impl Npz {
    fn new(directory: &Path, name: &str) -> Npz {
        let path = directory.join(name);
        Npz(NpzWriter::new_compressed(File::create(&path).unwrap()), path)
    }

    fn with<T: WritableElement, D: ndarray::Dimension>(mut self, name: &str, array: ndarray::Array<T, D>) -> Npz {
        self.0.add_array(name, &array).unwrap();
        self
    }

    fn finish(self) -> PathBuf {
        self.0.finish().unwrap();
        self.1
    }
}

fn counted<const N: usize>(shape: [usize; N]) -> ArrayD<f32> {
    let n: usize = shape.iter().product();
    ArrayD::from_shape_vec(IxDyn(&shape), (0..n).map(|i| i as f32).collect()).unwrap()
}

fn read(path: impl Into<PathBuf>, signature: &Signature, carry: &[Carry]) -> Result<Samples, Error> {
    Samples::read(&[path.into()], signature, carry)
}

#[test]
fn samples_are_stacked_along_axis_0_and_what_is_not_is_the_same_for_all() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz")
        .with("x", counted([4, 2, 3]))
        .with("n", array![7i64, 8])
        .with("state", counted([4, 2, 2]))
        .finish();
    let samples = read(&path, &signature(), &[]).unwrap();
    assert_eq!((samples.len(), samples.describe()), (4, "4 samples".to_owned()));
    assert_eq!(samples.streams[3].origin, format!("{}[3]", path.display()));
    let feed = &samples.streams[3].feeds[0];
    assert_eq!(feed["x"].to_f32(), counted([4, 2, 3]).slice(s![3, .., ..]).into_dyn());
    assert_eq!(feed["n"], Tensor::from(array![7i64, 8].into_dyn()));
    assert_eq!(feed["x"].shape(), [2, 3]);
}

#[test]
fn arrays_of_the_inputs_rank_are_one_sample() {
    let dir = scratch();
    write_npy(dir.path().join("b.npy"), &counted([5, 3])).unwrap();
    write_npy(dir.path().join("a.npy"), &counted([2, 3])).unwrap();
    fs::write(dir.path().join("notes.txt"), "not a sample").unwrap();
    let samples = read(dir.path(), &one_input(), &[]).unwrap();
    let shapes: Vec<_> = samples.feeds().map(|f| f["x"].shape()).collect();
    assert_eq!(shapes, [[2, 3], [5, 3]], "in name order, sizes may differ");
}

#[test]
fn a_stream_begins_with_zeros_or_with_what_the_file_gives() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([4, 5, 3])).with("n", Array1::<i64>::zeros(5)).finish();
    let samples = read(&path, &signature(), &carry()).unwrap();
    assert_eq!((samples.len(), samples.describe()), (4, "4 steps in 1 stream".to_owned()));
    let feeds = &samples.streams[0].feeds;
    assert_eq!(feeds[0]["state"], Tensor::from(ArrayD::<f32>::zeros(IxDyn(&[2, 5]))), "batch as in x");
    assert!(!feeds[1].contains_key("state"));

    let path = Npz::new(dir.path(), "b.npz")
        .with("x", counted([4, 5, 3]))
        .with("n", Array1::<i64>::zeros(5))
        .with("state", counted([2, 5]))
        .finish();
    let samples = read(&path, &signature(), &carry()).unwrap();
    assert_eq!(samples.streams[0].feeds[0]["state"].to_f32(), counted([2, 5]));
    assert!(!samples.streams[0].feeds[1].contains_key("state"));
}

#[test]
fn the_last_fifth_is_held_out() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([12, 1, 3])).finish();
    let samples = read(&path, &one_input(), &[]).unwrap();
    let (rest, held) = samples.hold_out(5).unwrap();
    assert_eq!((rest.len(), held.len()), (10, 2));
    assert_eq!(held.streams[0].origin, format!("{}[10]", path.display()));
    assert!(samples.subset(1).hold_out(5).is_none(), "one sample cannot be both");
    let (rest, held) = samples.subset(2).hold_out(5).unwrap();
    assert_eq!((rest.len(), held.len()), (1, 1));
}

#[test]
fn a_single_stream_is_cut_in_time_and_begins_anew() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz")
        .with("x", counted([10, 5, 3]))
        .with("n", Array1::<i64>::zeros(5))
        .with("state", counted([2, 5]))
        .finish();
    let (rest, held) = read(&path, &signature(), &carry()).unwrap().hold_out(5).unwrap();
    assert_eq!((rest.len(), held.len(), held.streams.len()), (8, 2, 1));
    assert_eq!(held.streams[0].feeds[0]["state"], Tensor::from(ArrayD::<f32>::zeros(IxDyn(&[2, 5]))));
    assert_eq!(held.streams[0].feeds[1]["x"].to_f32(), counted([10, 5, 3]).slice(s![9, .., ..]).into_dyn());
}

#[test]
fn subsets_are_spread_over_all() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([10, 1, 3])).finish();
    let samples = read(&path, &one_input(), &[]).unwrap();
    let origins: Vec<_> = samples.subset(3).streams.into_iter().map(|s| s.origin).collect();
    assert_eq!(origins, [0, 3, 6].map(|i| format!("{}[{i}]", path.display())));
    assert_eq!(samples.subset(100), samples);
    let stream = Samples { streams: vec![join(&samples)], carry: carry(), made_up: false, notes: Vec::new() };
    assert_eq!(stream.subset(4).streams[0].feeds, stream.streams[0].feeds[..4]);
}

/// All feeds as one stream.
fn join(samples: &Samples) -> dirnet::samples::Stream {
    dirnet::samples::Stream { feeds: samples.feeds().cloned().collect(), ..Default::default() }
}

#[test]
fn what_does_not_fit_is_one_line_that_names_file_and_array() {
    let dir = scratch();
    let d = dir.path();
    let x = || Array3::<f32>::zeros((4, 2, 3));
    let n = || Array2::<i64>::zeros((4, 2));
    let nan = array![[1f32, 2., 3.], [4., f32::NAN, 6.]];
    let cases = [
        (Npz::new(d, "1.npz").with("x", x()).with("m", n()).finish(), "'m': the model has no input of this name"),
        (
            Npz::new(d, "1b.npz").with("x_", x()).finish(),
            "'x_': the model has no input of this name (did you mean 'x'?), only ",
        ),
        (Npz::new(d, "2.npz").with("x", x()).finish(), "'n': there is no array for this input"),
        (
            Npz::new(d, "3.npz").with("x", x().mapv(|x| x as i64)).with("n", n()).finish(),
            "'x': element type INT64, but the model's input takes FLOAT",
        ),
        (
            Npz::new(d, "4.npz").with("x", Array3::<f32>::zeros((4, 2, 5))).with("n", n()).finish(),
            "'x': shape [4, 2, 5], but the model's input is [batch, 3]",
        ),
        (
            Npz::new(d, "5.npz").with("x", Array1::<f32>::zeros(3)).with("n", n()).finish(),
            "'x': shape [3], but the model's input is [batch, 3]",
        ),
        (
            Npz::new(d, "6.npz").with("x", x()).with("n", Array2::<i64>::zeros((3, 2))).finish(),
            "'x': holds 4 samples, but 'n' holds 3",
        ),
        (
            Npz::new(d, "7.npz").with("x", nan).with("n", Array1::<i64>::zeros(2)).finish(),
            "'x': the value at [1, 1] is NaN",
        ),
        (
            Npz::new(d, "8.npz")
                .with("x", Array3::<f32>::zeros((0, 2, 3)))
                .with("n", Array2::<i64>::zeros((0, 2)))
                .finish(),
            "holds no samples",
        ),
        (Npz::new(d, "9.npz").finish(), "holds no arrays"),
        (d.join("absent.npz"), "No such file"),
    ];
    write_npy(d.join("0.npy"), &Array2::<f32>::zeros((2, 3))).unwrap();
    for (path, want) in cases {
        let e = read(&path, &signature(), &carry()).unwrap_err();
        let line = e.to_string();
        assert!(line.contains(want) && line.starts_with(&d.display().to_string()) && !line.contains('\n'), "{line}");
        assert!(matches!(e.kind(), ErrorKind::Samples | ErrorKind::Io), "{line}");
    }
    let e = read(d.join("0.npy"), &signature(), &carry()).unwrap_err();
    assert!(e.message().contains("the model has 2 inputs, but an .npy file holds one"), "{e}");
}

#[test]
fn an_input_that_is_carried_must_be_of_the_model() {
    let wrong = [Carry::parse("stat=next").unwrap()];
    assert_eq!(read("nowhere.npz", &signature(), &wrong).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_zip_bomb_is_refused_before_it_is_unpacked() {
    let dir = scratch();
    let zeros = Array3::<f32>::zeros((5000, 4000, 3));
    let path = Npz::new(dir.path(), "bomb.npz").with("x", zeros).finish();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    let e = read(&path, &one_input(), &[]).unwrap_err();
    assert!(e.message().contains("zip bomb") && e.kind() == ErrorKind::Samples, "{e}");
}

#[test]
fn a_pickle_is_never_loaded() {
    let dir = scratch();
    let path = dir.path().join("objects.npy");
    let header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n";
    let mut file = File::create(&path).unwrap();
    file.write_all(b"\x93NUMPY\x01\x00").unwrap();
    file.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
    file.write_all(header).unwrap();
    file.write_all(b"\x80\x04\x95").unwrap();
    assert!(read(&path, &one_input(), &[]).unwrap_err().message().contains("Python objects"));
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    let dir = scratch();
    let path = dir.path().join("zero.npy");
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(read(&path, &one_input(), &[]).unwrap_err().message().contains("not a regular file"));
}

#[test]
fn labels_go_with_the_samples() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([10, 2, 3])).finish();
    let labels = Npz::new(dir.path(), "l.npz").with("y", Array2::from_shape_fn((10, 2), |(i, _)| i as i32)).finish();
    let mut samples = read(&path, &one_input(), &[]).unwrap();
    samples.add_labels("y", &labels).unwrap();
    let (_, held) = samples.hold_out(5).unwrap();
    assert_eq!(held.streams[0].labels[0]["y"], array![8i64, 8].into_dyn());
    let short = Npz::new(dir.path(), "s.npz").with("y", Array2::<i64>::zeros((9, 2))).finish();
    let floats = Npz::new(dir.path(), "f.npz").with("y", Array2::<f32>::zeros((10, 2))).finish();
    let two = Npz::new(dir.path(), "t.npz").with("a", array![1u8]).with("b", array![1u8]).finish();
    for (path, want) in [(short, "there are 10 samples"), (floats, "labels are integers"), (two, "has no array 'y'")] {
        assert!(samples.add_labels("y", &path).unwrap_err().message().contains(want));
    }
}

/// R is the first input, X the second, W the third; in `given` the tensors have names and another order.
#[test]
fn data_sets_of_onnx_are_read_by_name_or_by_number() {
    for name in ["given", "numbered"] {
        let case = fixture(&format!("graphs/{name}"));
        let model = Model::load(&case.join("model.onnx"), &LoadOptions::default()).unwrap();
        let signature = Signature::of(&model).unwrap();
        let from_parent = read(&case, &signature, &[]).unwrap();
        let from_set = read(case.join("test_data_set_0"), &signature, &[]).unwrap();
        assert_eq!(from_parent.streams[0].feeds, from_set.streams[0].feeds);
        let feed = &from_set.streams[0].feeds[0];
        let shapes: Vec<_> = feed.iter().map(|(name, t)| (name.as_str(), t.shape().to_vec())).collect();
        assert_eq!(shapes, [("R", vec![1, 16, 4]), ("W", vec![1, 16, 6]), ("X", vec![1, 3, 6])], "{name}");
        let outputs = Engine::new(&model).unwrap().run(feed, None).unwrap();
        let wanted: ArrayD<f32> = made::array(&fixture(&format!("graphs/{name}.expected.npz")), "output/Y_h");
        assert!((outputs[0].1.to_f32() - wanted).iter().all(|off| off.abs() < 1e-5), "{name}");
    }
}

#[test]
fn data_sets_of_onnx_beside_real_models_are_read_by_name_or_by_number() {
    let Some(models) = corpus::models() else { return };
    let case = models.join("onnx_node_tests/test_lstm_defaults");
    let model = Model::load(&case.join("model.onnx"), &LoadOptions::default()).unwrap();
    let signature = Signature::of(&model).unwrap();
    let from_parent = read(&case, &signature, &[]).unwrap();
    let from_set = read(case.join("test_data_set_0"), &signature, &[]).unwrap();
    assert_eq!(from_parent.streams[0].feeds, from_set.streams[0].feeds);
    let feed = &from_set.streams[0].feeds[0];
    let shapes: Vec<_> = feed.iter().map(|(name, t)| (name.as_str(), t.shape().to_vec())).collect();
    assert_eq!(shapes, [("R", vec![1, 12, 3]), ("W", vec![1, 12, 2]), ("X", vec![1, 3, 2])]);
    assert_eq!(feed["X"].to_f32().as_slice().unwrap(), [1., 2., 3., 4., 5., 6.]);
}

#[test]
fn the_samples_of_every_made_model_fit_it() {
    let counts = [
        ("branches", (12, 1)),
        ("twins", (8, 1)),
        ("step", (10, 1)),
        ("loop", (1, 1)),
        ("half", (4, 4)),
        ("indirect", (3, 3)),
        ("scan", (2, 2)),
        ("tags", (6, 6)),
        ("split", (3, 3)),
        ("joined", (3, 3)),
        ("vendor", (2, 2)),
    ];
    let found = made::ALL.map(|made| {
        let samples = made.samples();
        (made.name, (samples.len(), samples.streams.len()))
    });
    assert_eq!(found, counts);
    // What all steps have in common is in each of them.
    let feeds = made::made("branches").samples().streams.remove(0).feeds;
    assert!(feeds.iter().all(|feed| feed["sr"].to_i64().unwrap().iter().eq(&[16000])));
}

#[test]
fn the_samples_of_every_real_model_fit_it() {
    let Some(models) = corpus::models() else { return };
    /// Model, samples, what is carried, and how many feeds and streams there are.
    type Case = (&'static str, &'static str, &'static [&'static str], (usize, usize));
    let cases: [Case; 9] = [
        ("charlm/lstm256.onnx", "charlm/holdout.npz", &[], (16, 16)),
        ("tract_byte_bilstm/model.onnx", "tract_byte_bilstm/model.calibration.npz", &[], (6, 6)),
        ("g2p_id/decoder_model.onnx", "g2p_id/decoder_model.holdout.npz", &[], (22, 22)),
        ("silero_vad_v5/silero_vad.onnx", "silero_vad_v5/silero_vad.calibration.npz", &["state=stateN"], (300, 1)),
        ("silero_vad_v4/silero_vad.onnx", "silero_vad_v4/silero_vad.holdout.npz", &["h=hn", "c=cn"], (300, 1)),
        (
            "dtln_pytorch/model_p1.onnx",
            "dtln_pytorch/model_p1.holdout.npz",
            &["h1_in=out_state1[0:1]", "c1_in=out_state1[1:2]", "h2_in=out_state1[2:3]", "c2_in=out_state1[3:4]"],
            (300, 1),
        ),
        (
            "gtcrn_stream/gtcrn_simple.onnx",
            "gtcrn_stream/gtcrn_simple.holdout.npz",
            &["conv_cache=conv_cache_out", "tra_cache=tra_cache_out", "inter_cache=inter_cache_out"],
            (300, 1),
        ),
        ("amp_lstm24/model.onnx", "amp_lstm24/model.holdout.npz", &["hin=hout", "cin=cout"], (18, 1)),
        ("tashkeel_gru96/model.onnx", "tashkeel_gru96/model.calibration", &[], (5, 5)),
    ];
    for (model, path, carry, want) in cases {
        let model = Model::load(&models.join(model), &LoadOptions::default()).unwrap();
        let carry: Vec<Carry> = carry.iter().map(|c| Carry::parse(c).unwrap()).collect();
        let samples = read(models.join(path), &Signature::of(&model).unwrap(), &carry).unwrap();
        assert_eq!((samples.len(), samples.streams.len()), want, "{path}");
    }
}

/// An npz as NumPy would write it, small enough to break every byte of it.
fn small_npz() -> Vec<u8> {
    let dir = scratch();
    fs::read(Npz::new(dir.path(), "a.npz").with("x", counted([2, 2, 3])).with("n", array![1i64, 2]).finish()).unwrap()
}

#[test]
fn states_beyond_any_machine_are_refused() {
    let mut signature = signature();
    signature.inputs[2].dims = Some(vec![AxisSize::Size(2), AxisSize::Size(1 << 62)]);
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([4, 5, 3])).with("n", Array1::<i64>::zeros(5)).finish();
    let carry = [Carry::parse("state=y").unwrap()];
    signature.outputs[0].dims = None;
    let line = read(&path, &signature, &carry).unwrap_err().to_string();
    assert!(line.contains("'state': a state of shape [2, 4611686018427387904] exceeds 4 GiB"), "{line}");
    assert_eq!(Tensor::zeros(ElementType::Float, &[1 << 62, 4]), None);
}

#[test]
fn float64_becomes_float32_with_a_note() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", array![[[0.1f64, 2., 3.]], [[4., 5., 6.]]]).finish();
    let samples = read(&path, &one_input(), &[]).unwrap();
    assert_eq!(samples.notes, ["tensor 'x': float64 was converted to float32"]);
    assert_eq!(samples.streams[0].feeds[0]["x"], Tensor::from(array![[0.1f32, 2., 3.]].into_dyn()));
    let huge = Npz::new(dir.path(), "b.npz").with("x", array![[[1e300f64, 2., 3.]]]).finish();
    assert!(read(&huge, &one_input(), &[]).unwrap_err().to_string().contains("NaN or infinite"));
}

#[test]
fn samples_without_elements_are_refused() {
    let dir = scratch();
    let names = |path: PathBuf| read(path, &one_input(), &[]).unwrap_err().to_string();
    let all = Npz::new(dir.path(), "a.npz").with("x", Array3::<f32>::zeros((1000, 0, 3))).finish();
    assert!(names(all).contains("tensor 'x': 1000 samples without elements"));
    let one = Npz::new(dir.path(), "b.npz").with("x", Array2::<f32>::zeros((0, 3))).finish();
    assert!(names(one).contains("tensor 'x': shape [0, 3] has no elements"));
    // Nothing in the file bounds the other axes: a header says them all.
    let mut open = one_input();
    open.inputs[0].dims = Some(["a", "b", "c"].map(|symbol| AxisSize::Symbol(symbol.to_owned())).to_vec());
    let wide = Npz::new(dir.path(), "c.npz").with("x", ArrayD::<f32>::zeros(IxDyn(&[1, 1 << 40, 0, 16]))).finish();
    let line = read(wide, &open, &[]).unwrap_err().to_string();
    assert!(
        line.contains("tensor 'x': shape [1, 1099511627776, 0, 16] has no elements, and axes that are too long"),
        "{line}"
    );
    // A cache that is empty at the start is none of these.
    let mut two = signature();
    two.inputs[2].dims = Some(vec![AxisSize::Size(2), AxisSize::Symbol("past".to_owned())]);
    let path = Npz::new(dir.path(), "d.npz")
        .with("x", counted([4, 3]))
        .with("n", array![1i64, 2, 3, 4])
        .with("state", Array2::<f32>::zeros((2, 0)))
        .finish();
    // Its four rows are samples.
    assert_eq!(read(path, &two, &[]).unwrap().len(), 4);
}

#[test]
fn two_arrays_of_one_name_are_refused() {
    let dir = scratch();
    let path = Npz::new(dir.path(), "a.npz").with("x", counted([4, 2, 3])).with("n", array![7i64, 8]).finish();
    let mut bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() - 5 {
        if bytes[at..].starts_with(b"n.npy") {
            bytes[at] = b'x';
        }
    }
    fs::write(&path, bytes).unwrap();
    assert!(read(&path, &signature(), &carry()).unwrap_err().message().contains("two arrays of one name"));
    // One with the ending that NumPy takes off, one without it.
    let path = dir.path().join("b.npz");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for name in ["x", "x.npy"] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        counted([2, 3]).write_npy(&mut archive).unwrap();
    }
    archive.finish().unwrap();
    let line = read(&path, &one_input(), &[]).unwrap_err().to_string();
    assert!(line.contains("two arrays of the name 'x'"), "{line}");
}

/// A file without a directory at its end is not searched to its first byte: a sparse one has terabytes.
#[test]
fn a_sparse_archive_is_not_searched() {
    let dir = scratch();
    let path = dir.path().join("sparse.npz");
    let record = |entries: u8| {
        let mut record = b"PK\x05\x06\0\0\0\0".to_vec();
        record.extend([entries, 0, entries, 0, 46, 0, 0, 0, 77, 0, 0, 0, 0, 0]);
        record
    };
    for (length, end, words) in [
        (3 << 30, vec![], "not an npz file: it is cut off"),
        (3 << 30, record(1), "not an npz file"),
        (3 << 30, [record(1), vec![0; 60_000]].concat(), "not an npz file"),
        (1 << 40, record(1), "1024 GiB, but samples may have 4 GiB in all"),
    ] {
        let mut file = File::create(&path).unwrap();
        file.write_all(b"PK\x03\x04").unwrap();
        file.set_len(length).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
        file.write_all(&end).unwrap();
        let start = std::time::Instant::now();
        let line = read(&path, &one_input(), &[]).unwrap_err().to_string();
        assert!(line.contains(words), "{line}");
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn damaged_archives_are_described_in_plain_words() {
    let dir = scratch();
    let whole = fs::read(Npz::new(dir.path(), "a.npz").with("x", counted([20, 2, 3])).finish()).unwrap();
    let of = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        read(&path, &one_input(), &[]).unwrap_err().message().to_owned()
    };
    assert_eq!(of("cut.npz", &whole[..whole.len() / 2]), "not an npz file: it is cut off, or something else");
    let directory = whole.windows(4).position(|window| window == b"PK\x01\x02").expect("an archive has a directory");
    let mut flipped = whole.clone();
    flipped[directory + 16] ^= 255; // of the checksum
    assert_eq!(of("flipped.npz", &flipped), "is damaged: its compressed bytes or their checksum are wrong");
    assert!(of("pointer.npz", b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(of("pickle.npy", b"\x80\x04\x95\0\0\0\0\0\0\0\0").contains("a Python pickle"));
    assert!(of("x.pt", b"PK\x03\x04 x/data.pkl").contains("a PyTorch file"));
    assert!(of("empty.npz", b"").contains("is an empty file"));
}

#[cfg(unix)]
#[test]
fn directories_that_link_to_themselves_end() {
    let dir = scratch();
    for name in ["test_data_set_0", "test_data_set_1", "a.npz"] {
        std::os::unix::fs::symlink(".", dir.path().join(name)).unwrap();
    }
    assert!(read(dir.path(), &one_input(), &[]).unwrap_err().message().contains("directories are nested too deeply"));
}

/// Files of the system say to be empty, and some of them are waited for.
#[cfg(target_os = "linux")]
#[test]
fn files_of_the_system_are_not_waited_for() {
    let dir = scratch();
    let path = dir.path().join("log.npy");
    std::os::unix::fs::symlink("/proc/kmsg", &path).unwrap();
    assert!(read(&path, &one_input(), &[]).is_err());
    assert!(Model::load("/proc/kmsg".as_ref(), &LoadOptions::default()).is_err());
}

mod states {
    use super::*;
    use crate::hostile::targets::{int, node, of};
    use crate::hostile::typed;
    use dirnet::onnx::{GraphProto, NodeProto, tensor};

    fn lstm(name: &str, inputs: &[&str], outputs: [&str; 3]) -> NodeProto {
        let mut lstm = node("LSTM", inputs, "", vec![int("hidden_size", 4)]);
        lstm.output = outputs.map(str::to_owned).to_vec();
        lstm.name = Some(name.to_owned());
        lstm
    }

    fn guessed(nodes: Vec<NodeProto>, inputs: &[(&str, i32, &[i64])], outputs: &[(&str, i32, &[i64])]) -> String {
        let ports =
            |all: &[(&str, i32, &[i64])]| all.iter().map(|(name, kind, shape)| typed(name, *kind, shape)).collect();
        let weights = [("W", vec![1, 16, 4]), ("R", vec![1, 16, 4])];
        let mut initializer: Vec<_> =
            weights.iter().map(|(name, shape)| tensor::float(name, shape, &vec![0.1; 64])).collect();
        initializer.extend([("zero", 0), ("one", 1), ("two", 2)].map(|(name, v)| tensor::int64(name, &[1], &[v])));
        let graph =
            GraphProto { node: nodes, initializer, input: ports(inputs), output: ports(outputs), ..Default::default() };
        let model = Model::from_proto(of(graph), &LoadOptions::default()).unwrap();
        let states = Signature::of(&model).unwrap().states;
        assert_eq!(Signature::shown(&model).states, states);
        states.iter().map(Carry::to_string).collect::<Vec<_>>().join(" ")
    }

    /// As tf2onnx writes a Keras model with states: h and c in one tensor, and names that say nothing.
    #[test]
    fn a_state_is_known_by_the_node_that_it_goes_into_and_comes_from() {
        let slice = |from: &str, to: &str, output: &str| node("Slice", &["input_3", from, to, "zero"], output, vec![]);
        let nodes = vec![
            slice("zero", "one", "h"),
            slice("one", "two", "c"),
            lstm("lstm", &["input_2", "W", "R", "", "", "h", "c"], ["y", "hn", "cn"]),
            node("Squeeze", &["y", "one"], "activation_2", vec![]),
            node("Concat", &["hn", "cn"], "tf_op_layer_stack_2", vec![int("axis", 0)]),
        ];
        let inputs: &[(&str, i32, &[i64])] = &[("input_2", 1, &[1, 1, 4]), ("input_3", 1, &[2, 1, 4])];
        let outputs: &[(&str, i32, &[i64])] =
            &[("activation_2", 1, &[1, 1, 4]), ("tf_op_layer_stack_2", 1, &[2, 1, 4])];
        assert_eq!(guessed(nodes, inputs, outputs), "input_3=tf_op_layer_stack_2");
    }

    #[test]
    fn h_and_c_of_one_shape_are_told_apart_and_so_are_parts_of_an_output() {
        let of = |outputs: &[(&str, i32, &[i64])]| {
            let nodes = vec![
                lstm("lstm", &["x", "W", "R", "", "", "a", "b"], ["y", "p", "q"]),
                node("Concat", &["p", "q"], "both", vec![int("axis", 0)]),
            ];
            guessed(nodes, &[("x", 1, &[1, 1, 4]), ("b", 1, &[1, 1, 4]), ("a", 1, &[1, 1, 4])], outputs)
        };
        assert_eq!(of(&[("q", 1, &[1, 1, 4]), ("p", 1, &[1, 1, 4])]), "b=q a=p");
        assert_eq!(of(&[("both", 1, &[2, 1, 4])]), "b=both[1:2] a=both[0:1]");
    }

    #[test]
    fn a_mask_is_no_state_and_a_cache_is() {
        let of = |nodes: Vec<NodeProto>, kind: i32| {
            let ports: [&[(&str, i32, &[i64])]; 2] =
                [&[("x", 1, &[1, 4]), ("in", kind, &[1, 4])], &[("y", 1, &[1, 4]), ("out", kind, &[1, 4])]];
            let [mut inputs, mut outputs] = ports.map(<[_]>::to_vec);
            (inputs[1].0, outputs[1].0) = ("mask_in", "mask_out");
            guessed([vec![node("Mul", &["x", "x"], "y", vec![])], nodes].concat(), &inputs, &outputs)
        };
        let node = |op: &str, inputs: &[&str]| node(op, inputs, "mask_out", vec![]);
        assert_eq!(of(vec![node("Identity", &["mask_in"])], 1), "", "it is handed on");
        assert_eq!(of(vec![node("Abs", &["mask_in"])], 1), "", "nothing new goes into it");
        assert_eq!(of(vec![node("And", &["mask_in", "mask_in"])], 9), "", "no state is made of truths");
        assert_eq!(of(vec![node("Max", &["mask_in", "x"])], 1), "mask_in=mask_out", "the graph decides, not the name");
        assert_eq!(of(vec![node("Add", &["mask_in", "one"])], 7), "mask_in=mask_out", "a counter of steps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_archives_never_panic(cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), keep in any::<prop::sample::Index>()) {
        let mut bytes = small_npz();
        for (at, value) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(keep.index(2 * bytes.len()).max(1));
        let dir = scratch();
        let path = dir.path().join("broken.npz");
        fs::write(&path, &bytes).unwrap();
        let _ = read(&path, &signature(), &carry());
    }

    #[test]
    fn broken_arrays_never_panic(header in "[ -~]{0,80}", shape in "\\([0-9, ]{0,30}\\)", payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let dir = scratch();
        let path = dir.path().join("broken.npy");
        for text in [header, format!("{{'descr': '<f4', 'fortran_order': True, 'shape': {shape}, }}")] {
            let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
            bytes.extend_from_slice(&(text.len() as u16 + 1).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(b'\n');
            bytes.extend_from_slice(&payload);
            fs::write(&path, &bytes).unwrap();
            let _ = read(&path, &one_input(), &[]);
        }
    }
}
