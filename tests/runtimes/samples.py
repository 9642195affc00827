"""Sample inputs, read as the command line reads them: streams of feeds, a feed being input name -> array.

A file whose arrays have one axis more than the model's inputs holds several samples along axis 0. With carried states one
file is one stream; without, every sample is a stream of its own. Independent of the tool: it shares no code with it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Carry:
    """Output `source` of a step is input `target` of the next, or its part `begin:end` along axis 0."""

    target: str
    source: str
    part: slice | None

    @classmethod
    def parse(cls, text):
        match = re.fullmatch(r"([^=]+)=(.+?)(?:\[(\d*):(\d*)\])?", text)
        if not match:
            raise SystemExit(f"--stream {text}: expected IN=OUT or IN=OUT[a:b]")
        target, source, begin, end = match.groups()
        part = slice(int(begin) if begin else None, int(end) if end else None) if begin is not None else None
        return cls(target, source, part)

    def take(self, outputs):
        value = outputs[self.source]
        return value if self.part is None else value[self.part]


def zeros(declared):
    """The first state of a stream: zeros, symbolic sizes 1."""
    shape = [size if isinstance(size, int) else 1 for size in declared.shape]
    return np.zeros(shape, TYPES[declared.type])


def load(paths, inputs, carries=()):
    """Streams of feeds from .npz, .npy, test_data_set directories, or directories of them."""
    carried = {carry.target for carry in carries}
    wanted = [i for i in inputs if i.name not in carried]
    files = [feeds for path in paths for feeds in _files(Path(path), wanted)]
    return files if carries else [[feed] for feeds in files for feed in feeds]


def seeded(inputs, dims, seed=0, count=4):
    """Random feeds for a model without samples; integers stay in 0..1, which every vocabulary has."""
    random = np.random.default_rng(seed)

    def value(declared):
        shape = [size if isinstance(size, int) else dims.get(size, 1) for size in declared.shape]
        dtype = TYPES[declared.type]
        return (random.standard_normal(shape) if dtype in (np.float16, np.float32, np.float64)
                else random.integers(0, 2, shape)).astype(dtype)  # fmt: skip

    return [[{i.name: value(i) for i in inputs}] for _ in range(count)]


def _files(path, inputs):
    if path.is_dir():
        if (path / "input_0.pb").exists():
            yield [_test_data_set(path, inputs)]
            return
        for child in sorted(path.iterdir()):
            if child.is_dir() or child.suffix in (".npz", ".npy"):
                yield from _files(child, inputs)
    elif path.suffix == ".npy":
        (only,) = inputs
        yield _split({only.name: np.load(path)}, inputs)
    else:
        with np.load(path) as arrays:
            yield _split({name: arrays[name] for name in arrays.files}, inputs)


def _test_data_set(path, inputs):
    def read(index):
        return numpy_helper.to_array(onnx.load_tensor(path / f"input_{index}.pb"))

    return {i.name: read(index) for index, i in enumerate(inputs)}


def _split(arrays, inputs):
    """One feed per sample; an array of the input's own rank is the same in all of them."""
    stacked = {i.name: arrays[i.name].ndim == len(i.shape) + 1 for i in inputs}
    counts = {len(arrays[name]) for name, several in stacked.items() if several} or {1}
    if len(counts) > 1:
        raise SystemExit(f"arrays hold different numbers of samples: {sorted(counts)}")
    return [
        {name: np.asarray(arrays[name][index] if several else arrays[name]) for name, several in stacked.items()}
        for index in range(counts.pop())
    ]
