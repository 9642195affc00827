"""Makes a large model to time the tool on: two LSTM-1500 layers, 144 MB of random weights, and random samples.

    large.py FOLDER      writes FOLDER/large.onnx and FOLDER/large.npz

Weights are uniform in ±1/sqrt(hidden), as LSTM layers are initialised; the same bytes every time.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, STEPS, BATCH, SAMPLES = 1500, 64, 4, 8
WEIGHT_BYTES = 2 * 2 * 4 * HIDDEN * HIDDEN * 4  # layers, W and R, gates, float32


def build(op="LSTM", hidden=HIDDEN):
    gates = {"LSTM": 4, "GRU": 3}[op]
    random = np.random.default_rng(0)
    bound = hidden**-0.5

    def tensor(name, *shape):
        return numpy_helper.from_array(random.uniform(-bound, bound, shape).astype(np.float32), name)

    attributes = {"hidden_size": hidden} | ({"linear_before_reset": 1} if op == "GRU" else {})
    nodes, initializers, value = [], [], "x"
    for layer in ("first", "second"):
        weights = [
            tensor(f"{layer}/W", 1, gates * hidden, hidden),
            tensor(f"{layer}/R", 1, gates * hidden, hidden),
            tensor(f"{layer}/B", 1, 2 * gates * hidden),
        ]
        initializers += weights
        inputs = [value, *(w.name for w in weights)]
        nodes += [
            helper.make_node(op, inputs, [f"{layer}/Y"], name=layer, **attributes),
            helper.make_node("Squeeze", [f"{layer}/Y", "direction"], [f"{layer}/y"]),
        ]
        value = f"{layer}/y"
    initializers.append(numpy_helper.from_array(np.array([1], np.int64), "direction"))
    shape = ["seq", "batch", hidden]
    graph = helper.make_graph(
        nodes, "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        initializers,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def paths(folder):
    return folder / "large.onnx", folder / "large.npz"


def write(model, samples):
    onnx.save(build(), model)
    np.savez(samples, x=np.random.default_rng(1).normal(size=(SAMPLES, STEPS, BATCH, HIDDEN)).astype(np.float32))


if __name__ == "__main__":
    write(*paths(Path(sys.argv[1])))
