//! Every size and depth limit, each with its reason: bad input ends in an error, not in exhausted memory or stack.

/// Nesting of graphs inside graphs (If, Loop and Scan bodies). Real models stay below five; each level costs stack.
pub const GRAPH_DEPTH: usize = 32;

/// Attributes of one node. Operators have below twenty; each takes half a kilobyte in memory, and two bytes in a file.
pub const NODE_ATTRIBUTES: usize = 256;

/// Weights of one constant of a node that is not recurrent: a larger one stays as it is, because coding it takes several times
/// its bytes of memory.
pub const LINEAR_WEIGHTS: usize = 1 << 27;
/// Elements of one tensor whose values are read: as floats 4 GiB, the recurrent weights of an LSTM of width 16384.
pub const TENSOR_ELEMENTS: u64 = 1 << 30;

/// Protocol buffers hold at most 2 GiB in one message, and every ONNX reader keeps to that.
pub const PROTOBUF_BYTES: u64 = (1 << 31) - 1;

/// The newest IR version whose fields are all in `proto/onnx.proto`.
pub const IR_VERSION: i64 = 14;

/// The oldest operator set with what decoding needs: Gather, Cast to a number, and Reshape by an input.
pub const FIRST_OPSET: i64 = 7;

/// The newest version of the standard operator set that this crate was checked against.
pub const OPSET: i64 = 27;

/// Nesting of protocol buffer messages: what prost itself allows. [`GRAPH_DEPTH`] graphs with all that can stand in
/// the innermost stay just below it.
pub const MESSAGE_DEPTH: usize = 100;

/// Memory that the decoded messages of one file may take beyond the file itself. A node of a real model takes about
/// a kilobyte, so this is a million of them; a hostile file could otherwise ask for a hundred times its own size.
pub const DECODED_BYTES: u64 = 2 << 30;

/// Nodes in a row between a stored tensor and the W or R that is computed from it. Exporters need below ten.
pub const FOLD_DEPTH: usize = 64;

/// Elements that folding constants may make, whatever the size of the model: 64 MiB of floats.
pub const FOLD_ELEMENTS: u64 = 1 << 24;

/// Elements that folding constants may make on top for each byte of the model: a dictionary of one bit a weight makes
/// eight, a few times over.
pub const FOLD_GROWTH: u64 = 64;

/// Magnitude of a weight that is coded: beyond about the root of what single precision holds, squares are infinite.
pub const WEIGHT: f32 = 1e15;

/// Bytes of all samples of one call, decompressed: they are held in memory.
pub const SAMPLE_BYTES: u64 = 4 << 30;

/// Decompressed bytes that an npz file may hold whatever its own size; more only up to [`NPZ_RATIO`] times that size.
/// One-hot and padded samples compress well, but nobody keeps gigabytes of them in a file of a few kilobytes.
pub const NPZ_FREE_BYTES: u64 = 128 << 20;

/// See [`NPZ_FREE_BYTES`]. Deflate itself reaches 1032.
pub const NPZ_RATIO: u64 = 100;

/// Product of the other axes of an array of samples with an axis of size 0: they cost nothing in the file, but what is
/// computed from it may have them without the empty one.
pub const EMPTY_AXES: u64 = 1 << 20;

/// Bytes that are read to open an npz file, before any array: a hundred thousand arrays have directories of less. A file
/// without a directory would be searched to its first byte, and a sparse one can have terabytes.
pub const NPZ_DIRECTORY_BYTES: u64 = 16 << 20;

/// Header of an npy file. NumPy writes about a hundred bytes and itself refuses more than ten thousand.
pub const NPY_HEADER_BYTES: usize = 10_000;

/// Strings in one array of samples: in memory each takes far more than its characters.
pub const SAMPLE_STRINGS: u64 = 1 << 24;

/// Elements of one tensor while a model is run: 2 GiB of floats, far beyond what a recurrent model makes at a time.
pub const RUN_ELEMENTS: u64 = 1 << 29;

/// Nodes that calls of functions may make when a model is run, and their bytes: functions that call functions could make
/// any number from a small file.
pub const INLINED_NODES: usize = 1 << 18;

/// See [`INLINED_NODES`].
pub const INLINED_BYTES: usize = 512 << 20;
