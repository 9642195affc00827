//! Small models of the shapes that real ones have, made by `fixtures/graphs.py`, with samples and with what is known of
//! them without this crate: onnxruntime's outputs, and the weights that their constants were made from.

use std::fs::File;
use std::path::{Path, PathBuf};

use dirnet::onnx::{LoadOptions, Model};
use dirnet::samples::{Carry, Samples, Signature};
use ndarray::{Array, Array3, ArrayD, Dimension};
use ndarray_npy::{NpzReader, ReadableElement};

/// One of the models.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub name: &'static str,
    /// What of a stream comes back, as `--stream` has it.
    pub carry: &'static [&'static str],
}

const fn plain(name: &'static str) -> Made {
    Made { name, carry: &[] }
}

const STEP: [&str; 4] =
    ["h1_in=out_state1[0:1]", "c1_in=out_state1[1:2]", "h2_in=out_state1[2:3]", "c2_in=out_state1[3:4]"];

/// Those that have samples.
pub const ALL: [Made; 11] = [
    Made { name: "branches", carry: &["state=stateN"] },
    Made { name: "twins", carry: &["h=hn", "c=cn"] },
    Made { name: "step", carry: &STEP },
    plain("loop"),
    plain("half"),
    plain("indirect"),
    plain("scan"),
    plain("tags"),
    plain("split"),
    plain("joined"),
    plain("vendor"),
];

/// One of them by name.
pub fn made(name: &str) -> Made {
    *ALL.iter().find(|made| made.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

/// A file or folder of the fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Every `.onnx` file of the fixtures, in order.
pub fn model_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ALL.iter().map(Made::path).collect();
    files.extend(["given", "numbered"].map(|name| fixture(&format!("graphs/{name}/model.onnx"))));
    files.extend(["lstm", "gru"].map(|name| fixture(&format!("recurrent/{name}.onnx"))));
    files.extend(["lstm256", "gru256"].map(|name| fixture(&format!("charlm/{name}.onnx"))));
    files
}

impl Made {
    /// The model file.
    pub fn path(&self) -> PathBuf {
        let file = fixture(&format!("graphs/{}.onnx", self.name));
        if file.exists() { file } else { fixture(&format!("graphs/{}/model.onnx", self.name)) }
    }

    /// The model.
    pub fn model(&self) -> Model {
        Model::load(&self.path(), &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// What is fed back.
    pub fn carry(&self) -> Vec<Carry> {
        self.carry.iter().map(|text| Carry::parse(text).unwrap()).collect()
    }

    /// The file of its samples.
    pub fn samples_path(&self) -> PathBuf {
        fixture(&format!("graphs/{}.npz", self.name))
    }

    /// Its samples.
    pub fn samples(&self) -> Samples {
        let signature = Signature::of(&self.model()).unwrap();
        Samples::read(&[self.samples_path()], &signature, &self.carry()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// What onnxruntime gives for the first sample, or at the last step of the stream.
    pub fn output(&self, name: &str) -> ArrayD<f64> {
        self.known(&format!("output/{name}"))
    }

    /// W or R of a recurrent node, `[directions, rows, columns]`.
    pub fn weight(&self, node: &str, matrix: &str) -> Array3<f32> {
        array(&self.expected(), &format!("weight/{node}/{matrix}"))
    }

    /// The recurrent nodes whose weights are known, in no order.
    pub fn nodes(&self) -> Vec<String> {
        let names = NpzReader::new(File::open(self.expected()).unwrap()).unwrap().names().unwrap();
        let of_w = |name: &String| Some(name.strip_prefix("weight/")?.strip_suffix("/W")?.to_owned());
        names.iter().filter_map(of_w).collect()
    }

    fn expected(&self) -> PathBuf {
        fixture(&format!("graphs/{}.expected.npz", self.name))
    }

    fn known(&self, name: &str) -> ArrayD<f64> {
        let mut file = NpzReader::new(File::open(self.expected()).unwrap()).unwrap();
        if let Ok(integers) = file.by_name::<ndarray::OwnedRepr<i64>, ndarray::IxDyn>(name) {
            return integers.mapv(|v| v as f64);
        }
        array::<f32, _>(&self.expected(), name).mapv(f64::from)
    }
}

/// An array of an npz.
pub fn array<T: ReadableElement, D: Dimension>(path: &Path, name: &str) -> Array<T, D> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let found = NpzReader::new(file).unwrap().by_name::<ndarray::OwnedRepr<T>, D>(name);
    found.unwrap_or_else(|e| panic!("{}: {name}: {e}", path.display()))
}
