"""What a step of an LSTM takes in onnxruntime if R is multiplied whole, and if by atoms and then by codes: `Z (D h)`.

    benches/experiments/factors.py [HIDDEN ...]

Int8 products as the fast form of the tool writes them, one thread, batch 1; the least of some runs of 50 steps.
"""

import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

STEPS, RUNS = 50, 30
SHARE = 0.3  # atoms of the hidden size


class Body:
    """The nodes of a step, and the constants outside of it."""

    def __init__(self):
        self.nodes, self.constants = [], []
        self.random = np.random.default_rng(0)

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, output if isinstance(output, list) else [output], **attributes))
        return output

    def product(self, value, name, rows, columns):
        quantised, scale, zero = self.node("DynamicQuantizeLinear", [value], [f"{name}/{part}" for part in "qsz"])
        levels = self.constant(f"{name}/levels", self.random.integers(-60, 60, (rows, columns)).astype(np.int8))
        scales = self.constant(f"{name}/scales", np.full(columns, 1e-4, np.float32))
        sums = self.node("MatMulInteger", [quantised, levels, zero], f"{name}/sums")
        sums = self.node("Cast", [sums], f"{name}/float", to=TensorProto.FLOAT)
        return self.node("Mul", [sums, self.node("Mul", [scale, scales], f"{name}/both")], f"{name}/product")

    def split(self, value, sizes, outputs):
        sizes = self.constant(f"{value}/sizes", np.array(sizes, np.int64))
        return self.node("Split", [value, sizes], outputs, axis=1)


def model(hidden, atoms=0, bands=1):
    body = Body()
    if atoms:
        seen = body.product("h", "atoms", hidden, atoms)
        sizes = [atoms // bands] * (bands - 1) + [atoms - atoms // bands * (bands - 1)]
        parts = [seen] if bands == 1 else body.split(seen, sizes, [f"part{band}" for band in range(bands)])
        products = [body.product(part, f"z{band}", size, 4 * hidden) for band, (part, size) in enumerate(zip(parts, sizes))]
        recurrent = products[0]
        for band, other in enumerate(products[1:]):
            recurrent = body.node("Add", [recurrent, other], f"sum{band}")
    else:
        recurrent = body.product("h", "r", hidden, 4 * hidden)
    body.split(body.node("Add", [recurrent, "x"], "gates"), [3 * hidden, hidden], ["iof_in", "c_in"])
    body.split(body.node("Sigmoid", ["iof_in"], "iof"), [hidden] * 3, ["i", "o", "f"])
    body.node("Mul", ["i", body.node("Tanh", ["c_in"], "candidate")], "new")
    body.node("Add", [body.node("Mul", ["f", "c"], "kept"), "new"], "next_c")
    body.node("Mul", ["o", body.node("Tanh", ["next_c"], "squashed")], "next_h")
    body.node("Identity", ["next_h"], "y_t")
    value = lambda name, columns: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, columns])
    inputs = [value("h", hidden), value("c", hidden), value("x", 4 * hidden)]
    step = helper.make_graph(body.nodes, "step", inputs, [value(name, hidden) for name in ("next_h", "next_c", "y_t")])
    scan = helper.make_node("Scan", ["h0", "c0", "X"], ["last_h", "last_c", "Y"], body=step, num_scan_inputs=1)
    zeros = [numpy_helper.from_array(np.zeros((1, hidden), np.float32), name) for name in ("h0", "c0")]
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1, 4 * hidden])
    y = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    graph = helper.make_graph([scan], "layer", [x], [y], zeros + body.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def microseconds(proto, hidden):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"X": np.random.default_rng(1).standard_normal((STEPS, 1, 4 * hidden)).astype(np.float32)}
    least = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(None, feed)
        least = min(least, time.perf_counter() - start)
    return least * 1e6 / STEPS


def main():
    print("| hidden size | atoms | whole | 1 band | 2 bands | 3 bands |\n| --- | --- | --- | --- | --- | --- |")
    for hidden in map(int, sys.argv[1:] or (512, 1024, 2048)):
        atoms = int(SHARE * hidden)
        cells = [model(hidden)] + [model(hidden, atoms, bands) for bands in (1, 2, 3)]
        print(f"| {hidden} | {atoms} |", " | ".join(f"{microseconds(cell, hidden):.0f} µs" for cell in cells), "|")


if __name__ == "__main__":
    main()
