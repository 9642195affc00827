"""What every adapter is: a program `ADAPTER MODEL FEEDS OUTPUTS` that runs a model once, in one runtime.

FEEDS and OUTPUTS are safetensors files, input or output name -> array: the one format that is read in a few lines in every
language. An adapter ends with 0 and the outputs, or with the runtime's own words as the last line of stderr. This module needs
nothing but numpy, for old runtimes ask for old ones.
"""

import json
import sys
from pathlib import Path

import numpy as np

TYPES = {
    "F32": np.float32, "F16": np.float16, "F64": np.float64, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}


def read(path):
    data = Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")

    def tensor(entry):
        a, b = entry["data_offsets"]
        values = np.frombuffer(data[begin + a : begin + b], TYPES[entry["dtype"]])
        return values.reshape(entry["shape"]).copy()  # OpenVINO takes no array that it could not write to

    return {name: tensor(entry) for name, entry in json.loads(data[8:begin]).items() if name != "__metadata__"}


def write(path, tensors):
    header, parts, end = {}, [], 0
    for name, value in tensors.items():
        value = np.asarray(value)
        parts.append(value.tobytes())  # in C order, whatever the strides
        offsets = [end, end := end + len(parts[-1])]
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def main(run):
    """`run(model, feeds) -> outputs` as a program."""
    model, feeds, outputs = sys.argv[1:]
    try:
        result = run(model, read(feeds))
    except Exception as error:  # every runtime has its own types
        sys.exit(" ".join(str(error).split()) or repr(error))
    write(outputs, result)
