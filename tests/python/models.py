"""Small models that the tests make, and samples of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 20
HIDDEN = 48
CLASSES = 30


def _save(path, nodes, constants, inputs, outputs, opset=17):
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _normal(random, *shape, scale=0.2):
    return random.normal(0, scale, shape).astype(np.float32)


def _float(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write_classifier(path):
    """`features [seq, 1, 20]` to `logits`, `probabilities` and `label`, and to `version`, which is a constant."""
    random = np.random.default_rng(0)
    constants = {
        "W": _normal(random, 1, 4 * HIDDEN, SIZE, scale=0.4),
        "R": _normal(random, 1, 4 * HIDDEN, HIDDEN),
        "head": _normal(random, HIDDEN, CLASSES, scale=0.5),
        "one": np.array([1]),
        "version": np.array([1.0, 2.0], np.float32),
    }
    nodes = [
        helper.make_node("LSTM", ["features", "W", "R"], ["y"], name="lstm", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "one"], ["h"]),
        helper.make_node("MatMul", ["h", "head"], ["logits"], name="head"),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=-1, keepdims=0),
        helper.make_node("Identity", ["version"], ["release"]),
    ]
    outputs = [
        _float("logits", ["seq", 1, CLASSES]),
        _float("probabilities", ["seq", 1, CLASSES]),
        helper.make_tensor_value_info("label", TensorProto.INT64, ["seq", 1]),
        _float("release", [2]),
    ]
    return _save(path, nodes, constants, [_float("features", ["seq", 1, SIZE])], outputs)


def write_streaming(path):
    """`frame [1, 1, 20]` and `state [1, 1, 48]` to `speech` and `stateN`."""
    random = np.random.default_rng(1)
    constants = {
        "W": _normal(random, 1, 3 * HIDDEN, SIZE, scale=0.4),
        "R": _normal(random, 1, 3 * HIDDEN, HIDDEN),
    }
    nodes = [helper.make_node("GRU", ["frame", "W", "R", "", "", "state"], ["speech", "stateN"], name="gru", hidden_size=HIDDEN)]
    inputs = [_float("frame", [1, 1, SIZE]), _float("state", [1, 1, HIDDEN])]
    outputs = [_float("speech", [1, 1, 1, HIDDEN]), _float("stateN", [1, 1, HIDDEN])]
    return _save(path, nodes, constants, inputs, outputs)


def clips(count, seed, steps=12):
    """Samples of the classifier, one array each."""
    random = np.random.default_rng(seed)
    return [_normal(random, steps, 1, SIZE, scale=1.0) for _ in range(count)]


def frames(count, seed):
    """Samples of the streaming model, in the order of time."""
    random = np.random.default_rng(seed)
    return [_normal(random, 1, 1, SIZE, scale=1.0) for _ in range(count)]
