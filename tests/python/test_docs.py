"""The Python in README.md and docs/python.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
SIZE, HIDDEN, CLASSES = 40, 48, 60


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    random = np.random.default_rng(0)

    def write(path, nodes, constants, inputs, outputs):
        ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in all] for all in (inputs, outputs)]
        stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "page", *ports, stored)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)

    def weights(*shape):
        return random.normal(0, 0.2, shape).astype(np.float32)

    write(
        "model.onnx",
        [
            helper.make_node("LSTM", ["features", "W", "R"], ["y"], name="lstm", hidden_size=HIDDEN),
            helper.make_node("Squeeze", ["y", "one"], ["h"]),
            helper.make_node("MatMul", ["h", "head"], ["logits"], name="head"),
        ],
        {
            "W": weights(1, 4 * HIDDEN, SIZE),
            "R": weights(1, 4 * HIDDEN, HIDDEN),
            "head": weights(HIDDEN, CLASSES),
            "one": np.array([1]),
        },
        [("features", ["seq", 1, SIZE])],
        [("logits", ["seq", 1, CLASSES])],
    )
    write(
        "vad.onnx",
        [helper.make_node("GRU", ["frame", "W", "R", "", "", "state"], ["speech", "stateN"], hidden_size=HIDDEN)],
        {"W": weights(1, 3 * HIDDEN, SIZE), "R": weights(1, 3 * HIDDEN, HIDDEN)},
        [("frame", [1, 1, SIZE]), ("state", [1, 1, HIDDEN])],
        [("speech", [1, 1, 1, HIDDEN]), ("stateN", [1, 1, HIDDEN])],
    )
    clips = random.normal(size=(12, 20, 1, SIZE)).astype(np.float32)
    np.savez("samples.npz", features=clips)
    np.savez("holdout.npz", features=clips[:4])
    return tmp_path


@pytest.mark.parametrize(("page", "blocks"), [("README.md", 1), ("docs/python.md", 6)])
def test_the_python_of_a_page_runs(page, blocks, place):
    found = re.findall(r"```python test\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == blocks
    names = {}
    for number, block in enumerate(found):
        exec(compile(block, f"{page}: block {number}", "exec"), names)
    assert (place / "small.onnx").stat().st_size < (place / "model.onnx").stat().st_size / 3
