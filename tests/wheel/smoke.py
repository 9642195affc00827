"""Tries an installed dirnet: the commands of a new user, and the Python blocks of docs/guide.md that are marked as tests."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


def write_model(path):
    """The model that the guide speaks of: `features [seq, 1, 40]` to `logits [seq, 1, 64]`."""
    random = np.random.default_rng(0)
    hidden, size, classes = 64, 40, 64
    constants = {
        "W": random.normal(0, 0.2, (1, 4 * hidden, size)),
        "R": random.normal(0, 0.1, (1, 4 * hidden, hidden)),
        "head": random.normal(0, 0.1, (hidden, classes)),
    }
    initializers = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([1]), "one"))
    nodes = [
        helper.make_node("LSTM", ["features", "W", "R"], ["y"], name="lstm", hidden_size=hidden),
        helper.make_node("Squeeze", ["y", "one"], ["h"]),
        helper.make_node("MatMul", ["h", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "guide",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["seq", 1, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["seq", 1, classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main():
    tool = Path(sys.executable).parent / "dirnet"

    def dirnet(*arguments, code=0):
        run = subprocess.run([tool, *arguments], capture_output=True, text=True)
        assert run.returncode == code, f"dirnet {arguments}: exit {run.returncode}\n{run.stdout}{run.stderr}"
        return run.stdout + run.stderr

    prepare, use = re.findall(r"```python test\n(.*?)```", (ROOT / "docs/guide.md").read_text(), re.S)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(dirnet("--version").strip())
        write_model("model.onnx")
        exec(compile(prepare, "guide.md: samples", "exec"), {})
        assert "2 nodes can be compressed" in dirnet("inspect", "model.onnx")
        samples = ["--calibration", "samples.npz", "--holdout", "holdout.npz"]
        print(dirnet("compress", "model.onnx", "-o", "small.onnx", "--ratio", "6", *samples, "--report", "report.html"))
        exec(compile(use, "guide.md: session", "exec"), {})
        dirnet("verify", "model.onnx", "small.onnx", "--holdout", "holdout.npz", "--min-snr", "10")
        assert "is below --min-snr 200" in dirnet("verify", "model.onnx", "small.onnx", "--min-snr", "200", code=1)
        assert "see 'dirnet verify --help'" in dirnet("verify", code=2)
    print("the wheel works")


main()
