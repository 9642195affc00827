"""Pairs of an original and a result, of which something was changed at random: `dirnet verify` passes none whose outputs are
further apart than the check allows, by onnxruntime. Called by `run`.

    pairs.py [--fast] [--pairs N] [--seed S] [--only K] [--keep FOLDER]

A pair is a small model, what `dirnet compress` makes of it (or the model itself), and one to three changes of the result, now and
then of the original too. Each pair has a seed of its own, S + K, so that one can be run again alone. Where onnxruntime
refuses one of the models there are no outputs to compare: that is counted apart. Ends with `N passed, N failed`, as `check.py`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import catalogue

ALL, FAST = 2000, 100
# What onnxruntime and the engine of the tool may differ by, where a figure is close to its limit.
SLACK_DB, SLACK = 1.0, 1.15
# Layers that are run alone say little of the outputs: only what is plainly no compression is held against them.
LAYERS_DB = 25.0
STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 8, 20


# ---- originals -------------------------------------------------------------------------------------------------------------


class Builder:
    """A graph in the making; constants by what they hold."""

    def __init__(self, rng, opset=17):
        self.rng, self.opset = rng, opset
        self.nodes, self.constants, self.inputs, self.outputs, self.domains = [], [], [], [], set()

    def constant(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, name, *shape, scale=0.4):
        return self.constant(name, (self.rng.normal(size=shape) * scale).astype(np.float32))

    def node(self, op, inputs, output, domain="", **attributes):
        self.domains.add(domain)
        outputs = output if isinstance(output, list) else [output]
        name = f"n{len(self.nodes)}_{op}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def layer(self, op, x, stem, inputs=INPUTS, hidden=HIDDEN, outputs=("Y",), **attributes):
        gates, directions = (4 if op == "LSTM" else 3) * hidden, 2 if attributes.get("direction") == "bidirectional" else 1
        names = [x, self.normal(f"{stem}_W", directions, gates, inputs), self.normal(f"{stem}_R", directions, gates, hidden)]
        names.append(self.normal(f"{stem}_B", directions, 2 * gates, scale=0.1))
        return self.node(op, names, [f"{stem}_{o}" if o else "" for o in outputs], hidden_size=hidden, **attributes)

    def flat(self, y, stem, width):
        self.constant(f"{stem}_shape", np.array([STEPS, BATCH, width], np.int64))
        y = self.node("Transpose", [y], f"{stem}_t", perm=[0, 2, 1, 3])
        return self.node("Reshape", [y, f"{stem}_shape"], f"{stem}_flat")

    def model(self):
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(self.domains - {""})]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def value(name, kind=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def classifier(b):
    """An LSTM, a Softmax over classes."""
    b.inputs = [value("x", shape=["T", "N", INPUTS])]
    y = b.flat(b.layer("LSTM", "x", "a"), "f", HIDDEN)
    y = b.node("Add", [b.node("MatMul", [y, b.normal("O", HIDDEN, 7)], "lin"), b.normal("bias", 7)], "logits")
    b.node("Softmax", [y], "y", axis=-1)
    b.outputs = [value("y")]


def tagger(b):
    """A bidirectional GRU with a label, a value and a constant beside it."""
    b.inputs = [value("x", shape=["T", "N", INPUTS])]
    y = b.flat(b.layer("GRU", "x", "a", direction="bidirectional", linear_before_reset=1), "f", 2 * HIDDEN)
    y = b.node("Tanh", [b.node("MatMul", [y, b.normal("O", 2 * HIDDEN, 5, scale=1.0)], "lin")], "score")
    b.node("ArgMax", [y], "label", axis=-1, keepdims=0)
    b.node("Identity", [b.constant("v", np.float32([3, 1, 4]))], "version")
    b.outputs = [value("score"), value("label", TensorProto.INT64), value("version")]


def tokens(b):
    """An embedding, two layers, a norm by hand, a mean over time."""
    b.inputs = [value("ids", TensorProto.INT64, [STEPS, BATCH])]
    x = b.node("Gather", [b.normal("E", 12, INPUTS, scale=1.0), "ids"], "x", axis=0)
    y = b.flat(b.layer("LSTM", x, "a"), "f", HIDDEN)
    y = b.flat(b.layer("GRU", y, "b", inputs=HIDDEN), "g", HIDDEN)
    mean = b.node("ReduceMean", [y], "mean", axes=[-1], keepdims=1)
    y = b.node("Div", [b.node("Sub", [y, mean], "centred"), b.constant("spread", np.float32(0.3))], "normed")
    b.node("ReduceMean", [y], "y", axes=[0], keepdims=0)
    b.node("Clip", [y, b.constant("low", np.float32(-1)), b.constant("high", np.float32(1))], "clipped")
    b.outputs = [value("y"), value("clipped")]


def attributes(b):
    """What cells can have: clip, activations, peepholes, an initial state; two inputs."""
    b.inputs = [value("x", shape=["T", "N", INPUTS]), value("h", shape=[1, "N", HIDDEN])]
    gates = 4 * HIDDEN
    names = ["x", b.normal("W", 1, gates, INPUTS), b.normal("R", 1, gates, HIDDEN), b.normal("B", 1, 2 * gates), "", "h"]
    names += [b.constant("c0", np.full((1, BATCH, HIDDEN), 0.5, np.float32)), b.normal("P", 1, 3 * HIDDEN)]
    y = b.node("LSTM", names, ["Y", "Y_h", "Y_c"], hidden_size=HIDDEN, clip=2.0, activations=["Sigmoid", "Tanh", "Relu"])
    b.node("LeakyRelu", [y], "y", alpha=0.2)
    b.outputs = [value("y"), value("Y_h"), value("Y_c")]


def branches(b):
    """A layer whose output goes through an If, and one inside of it."""
    b.inputs = [value("x", shape=["T", "N", INPUTS]), value("loud", TensorProto.BOOL, [])]
    y = b.layer("LSTM", "x", "a")
    inner = [
        helper.make_graph([helper.make_node(op, [y, k], [out], name=f"{out}_{op}")], out, [], [value(out)])
        for op, k, out in (("Mul", b.constant("twice", np.float32(2)), "then"), ("Add", b.constant("one", np.float32(0.1)), "other"))
    ]
    y = b.node("If", ["loud"], "chosen", then_branch=inner[0], else_branch=inner[1])
    b.node("Sigmoid", [y], "y")
    b.outputs = [value("y")]


def foreign(b):
    """An operator of onnxruntime behind the layer: the tool's engine cannot run it, and looks at layers."""
    b.inputs = [value("x", shape=["T", "N", INPUTS])]
    y = b.flat(b.layer("LSTM", "x", "a"), "f", HIDDEN)
    y = b.node("Mul", [y, b.constant("k", np.float32(1.5))], "scaled")
    y = b.node("FusedMatMul", [y, b.normal("O", 7, HIDDEN)], "lin", domain="com.microsoft", transB=1, alpha=0.5)
    b.node("Softmax", [y], "y", axis=-1)
    b.outputs = [value("y")]


ORIGINALS = [classifier, tagger, tokens, attributes, branches, foreign]


def samples(model, rng, count=4):
    feeds = {}
    for port in model.graph.input:
        kind, shape = port.type.tensor_type.elem_type, []
        for dim in port.type.tensor_type.shape.dim:
            shape.append(dim.dim_value or {"T": STEPS, "N": BATCH}[dim.dim_param])
        array = {
            TensorProto.FLOAT: lambda s: rng.normal(size=s).astype(np.float32),
            TensorProto.INT64: lambda s: rng.integers(0, 12, s),
            TensorProto.BOOL: lambda s: rng.random(s) < 0.5,
        }[kind]([count, *shape])
        feeds[port.name] = array
    return feeds


# ---- changes ---------------------------------------------------------------------------------------------------------------


class Nothing(Exception):
    """There is nothing in the model that could be changed so."""


def graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def one(rng, items):
    items = list(items)
    if not items:
        raise Nothing
    return items[rng.integers(len(items))]


def nodes(model, wanted=lambda node: True):
    return [node for graph in graphs(model.graph) for node in graph.node if wanted(node)]


def constants(model, kinds):
    stored = [tensor for graph in graphs(model.graph) for tensor in graph.initializer]
    stored += [a.t for node in nodes(model) for a in node.attribute if a.name == "value"]
    return [tensor for tensor in stored if tensor.data_type in kinds and np.prod(tensor.dims, dtype=int) > 0]


def put(tensor, array):
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def weight(model, rng, other):
    """Floats are scaled, moved, negated, shuffled or set to zero."""
    tensor = one(rng, constants(model, {TensorProto.FLOAT}))
    array = numpy_helper.to_array(tensor).copy()
    size = 10.0 ** rng.uniform(-5, 0.5)
    change = one(rng, [
        lambda a: a * np.float32(1 + size),
        lambda a: (a + rng.normal(size=a.shape) * size * (np.abs(a).mean() + 1e-6)).astype(np.float32),
        lambda a: -a,
        lambda a: a * 0,
        lambda a: rng.permutation(a.reshape(-1)).reshape(a.shape),
        lambda a: np.where(rng.random(a.shape) < 0.02, a + np.float32(size * 10), a).astype(np.float32),
    ])  # fmt: skip
    put(tensor, np.asarray(change(array), np.float32).reshape(array.shape))


def codes(model, rng, other):
    """Codes and levels of coded weights are moved."""
    tensor = one(rng, constants(model, {TensorProto.UINT8, TensorProto.INT8}))
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    flat[rng.integers(0, flat.size, max(1, int(flat.size * rng.uniform(0, 0.3))))] = rng.integers(0, 4)
    put(tensor, array)


def integer(model, rng, other):
    """A size, an axis or an index."""
    tensor = one(rng, constants(model, {TensorProto.INT64, TensorProto.INT32}))
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    at = rng.integers(flat.size)
    flat[at] = one(rng, [flat[at] + 1, flat[at] - 1, -1, 0, 1, 2])
    put(tensor, array)


def attribute(model, rng, other):
    """A value of an attribute."""
    found = one(rng, [a for node in nodes(model) for a in node.attribute if a.type in (1, 2, 3, 6, 7, 8)])
    if found.type == onnx.AttributeProto.FLOAT:
        found.f = one(rng, [found.f * 1.5, found.f + 0.1, -found.f, 0.0, found.f * 1.0001])
    elif found.type == onnx.AttributeProto.INT:
        found.i = one(rng, [found.i + 1, found.i - 1, 0, 1, -1, -2])
    elif found.type == onnx.AttributeProto.STRING:
        found.s = one(rng, [b"forward", b"reverse", b"bidirectional"])
    elif found.type == onnx.AttributeProto.STRINGS:
        found.strings[rng.integers(len(found.strings))] = one(rng, [b"Sigmoid", b"Tanh", b"Relu", b"HardSigmoid", b"Softsign"])
    elif found.ints:
        found.ints[:] = one(rng, [list(rng.permutation(list(found.ints))), [i + 1 for i in found.ints], [0], [-1]])
    else:
        raise Nothing


def new_attribute(model, rng, other):
    """An attribute that was at its default; some change nothing."""
    node = one(rng, nodes(model))
    had = {a.name for a in node.attribute}
    choice = {
        "LSTM": [("direction", "reverse"), ("clip", 0.05), ("clip", 50.0), ("input_forget", 1), ("layout", 1), ("activations", ["Sigmoid", "Relu", "Relu"])],
        "GRU": [("direction", "reverse"), ("clip", 0.05), ("linear_before_reset", 1), ("activations", ["HardSigmoid", "Tanh"])],
        "Softmax": [("axis", 0), ("axis", 1)],
        "Gather": [("axis", 0)],
        "Reshape": [("allowzero", 1)],
        "ArgMax": [("select_last_index", 1)],
        "Cast": [("saturate", 0)],
        "ReduceMean": [("keepdims", 0), ("noop_with_empty_axes", 1)],
        "Clip": [("min", 0.0)],
        "Mul": [("axis", 1), ("broadcast", 1)],
        "FusedMatMul": [("transA", 1), ("transBatchB", 1)],
    }.get(node.op_type, [("alpha", 2.0), ("unknown", 1)])  # fmt: skip
    name, setting = one(rng, [c for c in choice if c[0] not in had])
    node.attribute.append(helper.make_attribute(name, setting))


ALIKE = [
    ["Sigmoid", "Tanh", "Relu", "Identity", "Neg", "Abs", "HardSigmoid", "Elu", "Softsign", "Exp", "Floor", "Round", "Softplus"],
    ["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Mod"],
    ["Softmax", "LogSoftmax", "Hardmax"],
    ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2"],
    ["ArgMax", "ArgMin"],
    ["LeakyRelu", "Elu", "ThresholdedRelu", "Selu"],
]


def operator(model, rng, other):
    """Another operator of the same form."""
    node = one(rng, nodes(model, lambda node: any(node.op_type in group for group in ALIKE)))
    group = next(group for group in ALIKE if node.op_type in group)
    node.op_type = one(rng, [op for op in group if op != node.op_type])


def domain(model, rng, other):
    """The same name in another domain, with or without a function of that name."""
    node = one(rng, nodes(model, lambda node: node.op_type not in ("If", "Constant")))
    node.domain = one(rng, ["my", "com.microsoft", "nowhere", "ai.onnx"])
    if node.domain not in {o.domain for o in model.opset_import} and rng.random() < 0.9:
        model.opset_import.append(helper.make_opsetid(node.domain, one(rng, [1, 17])))
    if node.domain == "my":
        inputs, outputs = [f"i{i}" for i in range(len(node.input))], [f"o{i}" for i in range(len(node.output))]
        body = [helper.make_node(one(rng, ["Neg", "Identity", "Tanh"]), [inputs[0]], [out]) for out in outputs]
        function = helper.make_function("my", node.op_type, inputs, outputs, body, [helper.make_opsetid("", 17)])
        model.functions.append(function)
        del node.attribute[:]


def wiring(model, rng, other):
    """An input of a node is another value."""
    graph = one(rng, graphs(model.graph))
    at = int(rng.integers(len(graph.node)))
    node = graph.node[at]
    slot = one(rng, range(len(node.input)))
    known = [i.name for i in model.graph.input] + [t.name for t in model.graph.initializer]
    known += [out for before in graph.node[:at] for out in before.output if out]
    node.input[slot] = one(rng, [name for name in known if name != node.input[slot]])


def extra(model, rng, other):
    """A node between two others."""
    graph = one(rng, graphs(model.graph))
    node = one(rng, [node for node in graph.node if any(node.output)])
    slot = one(rng, [i for i, name in enumerate(node.output) if name])
    old = node.output[slot]
    node.output[slot] = f"{old}/before"
    scale = numpy_helper.from_array(np.float32(1 + 10.0 ** rng.uniform(-6, 0)), f"{old}/scale")
    graph.initializer.append(scale)
    new = one(rng, [
        [helper.make_node(one(rng, ["Identity", "Neg", "Relu", "Tanh", "Abs", "Floor"]), [f"{old}/before"], [old])],
        [helper.make_node("Mul", [f"{old}/before", scale.name], [old])],
        [helper.make_node("Cast", [f"{old}/before"], [f"{old}/half"], to=TensorProto.FLOAT16),
         helper.make_node("Cast", [f"{old}/half"], [old], to=TensorProto.FLOAT)],
        [helper.make_node("Dropout", [f"{old}/before"], [old])],
        [helper.make_node("Cast", [f"{old}/before"], [f"{old}/int"], to=TensorProto.INT32),
         helper.make_node("Cast", [f"{old}/int"], [old], to=TensorProto.FLOAT)],
        [helper.make_node("Cast", [f"{old}/before"], [f"{old}/double"], to=TensorProto.DOUBLE),
         helper.make_node("Cast", [f"{old}/double"], [old], to=TensorProto.FLOAT)],
    ])  # fmt: skip
    at = list(graph.node).index(node) + 1
    for offset, inserted in enumerate(new):
        graph.node.insert(at + offset, inserted)


def removed_input(model, rng, other):
    """An optional input, or a graph input that becomes a constant."""
    if rng.random() < 0.3 and len(model.graph.input) > 1:
        port = one(rng, model.graph.input)
        shape = [d.dim_value or {"T": STEPS, "N": BATCH}.get(d.dim_param, 1) for d in port.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, kind), port.name))
        if rng.random() < 0.7:
            model.graph.input.remove(port)
        return
    node = one(rng, nodes(model, lambda node: node.op_type in ("LSTM", "GRU", "Clip", "Slice") and len(node.input) > 3 - (node.op_type == "Clip")))
    slot = one(rng, [i for i in range(1 if node.op_type == "Clip" else 3, len(node.input)) if node.input[i]])
    node.input[slot] = ""


def outputs(model, rng, other):
    """Outputs change places, are taken from elsewhere, are renamed, declared in another way or go."""
    graph = model.graph
    port = one(rng, graph.output)
    what = rng.integers(5)
    if what == 0:
        swapped = one(rng, [o for o in graph.output if o.name != port.name])
        for node in graph.node:
            for i, name in enumerate(node.output):
                node.output[i] = {port.name: swapped.name, swapped.name: port.name}.get(name, name)
    elif what == 1:
        source = one(rng, [out for node in graph.node for out in node.output if out and out != port.name])
        for node in graph.node:
            for i, name in enumerate(node.output):
                if name == port.name:
                    node.output[i] = f"{name}/unused"
        graph.node.append(helper.make_node("Identity", [source], [port.name]))
    elif what == 2:
        graph.output.remove(port)
    elif what == 3:
        port.type.tensor_type.elem_type = one(rng, [TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE])
    else:
        graph.output.insert(0, value("further", port.type.tensor_type.elem_type))
        graph.node.append(helper.make_node("Identity", [port.name], ["further"]))


def declared(model, rng, other):
    """An input is of another type or size, or one more is needed."""
    port = one(rng, model.graph.input)
    what = rng.integers(4)
    if what == 0:
        port.type.tensor_type.elem_type = one(rng, [TensorProto.DOUBLE, TensorProto.INT32, TensorProto.FLOAT16])
    elif what == 1:
        one(rng, port.type.tensor_type.shape.dim).dim_value = int(rng.integers(1, 9))
    elif what == 2:
        one(rng, port.type.tensor_type.shape.dim).dim_param = one(rng, ["T", "N", "other"])
    else:
        model.graph.input.append(value("further", shape=[1]))


def opset(model, rng, other):
    """The version of the operators."""
    one(rng, model.opset_import).version = int(one(rng, [1, 9, 11, 12, 13, 14, 15, 16, 18, 21]))


def nan(model, rng, other):
    """NaN or infinity in a constant, now and then of both models."""
    kind = np.float32(one(rng, [np.nan, np.nan, np.inf, -np.inf]))
    name = one(rng, constants(model, {TensorProto.FLOAT})).name
    both = rng.random() < 0.6
    share = rng.random() ** 2
    for changed in (model, other) if both else (model,):
        rng_of_both = np.random.default_rng(len(name))
        for tensor in constants(changed, {TensorProto.FLOAT}):
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                put(tensor, np.where(rng_of_both.random(array.shape) <= share, kind, array).astype(np.float32))


def root_of_negatives(model, rng, other):
    """NaN in outputs of both models, where they are negative or below something."""
    port = one(rng, [o for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT])
    below = numpy_helper.from_array(np.float32(one(rng, [9, 0.5, 0.1, 0])), "below")
    for changed in (model, other):
        for node in changed.graph.node:
            for i, name in enumerate(node.output):
                if name == port.name:
                    node.output[i] = "plain"
        changed.graph.initializer.append(below)
        changed.graph.node.append(helper.make_node("Sub", ["plain", "below"], ["under"]))
        changed.graph.node.append(helper.make_node("Sqrt", ["under"], [port.name]))


def nothing(model, rng, other):
    """The pair as it is."""


CHANGES = [
    weight, weight, codes, integer, attribute, attribute, new_attribute, new_attribute, operator, operator, domain, wiring,
    wiring, extra, extra, removed_input, outputs, declared, opset, nan, root_of_negatives, nothing,
]  # fmt: skip


# ---- judging ---------------------------------------------------------------------------------------------------------------


def onnxruntime_outputs(path, feeds):
    """For each sample the outputs by name, or None where onnxruntime refuses the model or a sample."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # What is folded early may be folded otherwise: the operators as they are written.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        count = len(next(iter(feeds.values())))
        return [dict(zip(names, session.run(None, {n: np.asarray(a[i]) for n, a in feeds.items()}))) for i in range(count)]
    except Exception:  # onnxruntime's own exception types share no base but this one
        return None


def joined(runs, name):
    return np.concatenate([np.asarray(run[name]).reshape(-1) for run in runs])


def figures(ours, theirs, name):
    """The figures of an output as the tool's documentation defines them; None for an output that cannot be compared."""
    if any(name not in run for run in theirs):
        return {"missing": True}
    if any(a[name].shape != b[name].shape or a[name].dtype != b[name].dtype for a, b in zip(ours, theirs)):
        return {"unlike": True}
    y, z = joined(ours, name), joined(theirs, name)
    found = {"elements": y.size}
    if not np.issubdtype(y.dtype, np.floating):
        return found | {"agreement": float((y == z).mean()) if y.size else None, "max_abs": float(np.abs(y.astype(float) - z.astype(float)).max(initial=0))}
    y, z = y.astype(np.float64), z.astype(np.float64)
    finite = np.isfinite(y) & np.isfinite(z)
    found["one_only"] = int((~finite & ~((y == z) | (np.isnan(y) & np.isnan(z)))).sum())
    found["nothing"] = not finite.any()
    if not finite.any():
        return found
    y, z = y[finite], z[finite]
    error, energy = ((y - z) ** 2).sum(), (y**2).sum()
    deviation = ((y - y.mean()) ** 2).sum()
    found["max_abs"] = float(np.abs(y - z).max())
    found["snr"] = np.inf if error == 0 else -np.inf if energy == 0 else 10 * np.log10(energy / error)
    found["nmse"] = 0.0 if error == 0 else np.inf if deviation == 0 else error / deviation
    rows = [
        (a, b)
        for run, other in zip(ours, theirs)
        if run[name].ndim and run[name].shape[-1] > 1
        for a, b in zip(run[name].reshape(-1, run[name].shape[-1]), other[name].reshape(-1, other[name].shape[-1]))
        if not (np.isnan(a).any() or np.isnan(b).any())
    ]
    found["agreement"] = float(np.mean([np.argmax(a) == np.argmax(b) for a, b in rows])) if rows else None
    return found


def broken(check, limit, found, layers):
    """Why a check that was said to be passed is not, by these figures."""
    if found.get("missing") or found.get("unlike"):
        return "the outputs are of other shapes or types"
    if not layers and found.get("one_only"):
        return f"{found['one_only']} elements are finite in one only"
    if check == "min-snr" and "snr" in found:
        slack = LAYERS_DB if layers else SLACK_DB
        return f"snr {found['snr']:.2f}" if found["snr"] < limit - slack else None
    if layers:
        return None
    if check == "max-nmse" and "nmse" in found:
        return f"nmse {found['nmse']:.3g}" if found["nmse"] > limit * SLACK else None
    if check == "max-abs" and "max_abs" in found:
        return f"max_abs {found['max_abs']:.3g}" if found["max_abs"] > limit * SLACK + 1e-5 else None
    if check == "min-agreement" and found.get("agreement") is not None:
        # Where two classes are as good as equal, engines may differ in which is the larger.
        return f"agreement {found['agreement']:.3f}" if found["agreement"] < limit - 0.06 else None
    return None


# ---- pairs -----------------------------------------------------------------------------------------------------------------


class Bases:
    """Originals and what the tool makes of them."""

    def __init__(self, folder):
        self.bases = []
        for number, build in enumerate(ORIGINALS):
            rng = np.random.default_rng(number)
            builder = Builder(rng)
            build(builder)
            original = builder.model()
            path = folder / f"{build.__name__}.onnx"
            onnx.save(original, path)
            feeds, held = samples(original, rng), samples(original, rng)
            np.savez(folder / f"{build.__name__}.npz", **feeds)
            np.savez(folder / f"{build.__name__}.held.npz", **held)
            assert onnxruntime_outputs(path, held), f"onnxruntime refuses {build.__name__}"
            results = [original]
            for form in ("portable", "fast"):
                out = folder / f"{build.__name__}.{form}.onnx"
                how = ["--form", form] + ([] if form == "portable" else ["--form-from", "1"])
                run = catalogue.tool("compress", path, "-o", out, "--calibration", folder / f"{build.__name__}.npz", "--ratio", "1.05",
                                     "--tune", "off", "--sensitivity", "none", "--no-verify", "-q", *how)  # fmt: skip
                if run.code == 0:
                    results.append(onnx.load(out))
                elif form == "portable":
                    print(f"note: {build.__name__} was not compressed: {run.message}", file=sys.stderr)
            self.bases.append((build.__name__, original, results, held, folder / f"{build.__name__}.held.npz"))


CHECKS = [("min-snr", 20), ("min-snr", 40), ("max-nmse", 0.02), ("max-abs", 0.05), ("min-agreement", 0.9), ("max-nmse", 1e-4)]


def pair(bases, seed, folder):
    """Makes and judges one pair: what came of it, and a line if it is a fault."""
    rng = np.random.default_rng(seed)
    name, original, results, held, sample_path = one(rng, bases.bases)
    original, result = [onnx.ModelProto.FromString(m.SerializeToString()) for m in (original, one(rng, results))]
    done = []
    for _ in range(one(rng, [1, 1, 1, 2, 3])):
        change = one(rng, CHANGES)
        try:
            change(result, rng, original)
            done.append(change.__name__)
        except Nothing:
            pass
        except (ValueError, TypeError, KeyError, OverflowError):
            done.append(f"{change.__name__} (in part)")
    if rng.random() < 0.03:
        original, result = result, original
        done.append("exchanged")
    check, limit = one(rng, CHECKS)
    paths = [folder / f"{seed}.{which}.onnx" for which in ("a", "b")]
    for path, model in zip(paths, (original, result)):
        path.write_bytes(model.SerializeToString())
    command = [str(catalogue.BINARY), "verify", *map(str, paths), "--holdout", str(sample_path), f"--{check}", str(limit), "-q"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = f"pair {seed} ({name}: {', '.join(done) or 'nothing'}; --{check} {limit})"
    lines = run.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    layers = any(line.startswith("warning: ") for line in lines)
    if run.returncode not in (0, 1, 2) or run.returncode and (len(errors) != 1 or "internal error" in errors[0]):
        return "crashed", f"{told}: exit {run.returncode}: {run.stderr.strip()[-300:]}"
    if run.returncode:
        return ("failed" if run.returncode == 1 else "refused"), None
    ours, theirs = [onnxruntime_outputs(path, held) for path in paths]
    if ours is None:
        return "passed, the original is not onnxruntime's", None
    if theirs is None:
        return "passed, the result is not onnxruntime's", None
    kind = "passed layer by layer" if layers else "passed"
    bound = False
    for output in ours[0]:
        found = figures(ours, theirs, output)
        why = broken(check, limit, found, layers)
        bound = bound or not found.get("nothing", False)
        if why:
            return "fault", f"{told}: {kind}, but output '{output}': {why}"
    if not bound:
        return "fault", f"{told}: {kind}, but there was nothing to compare"
    for path in paths:
        path.unlink()
    return kind, None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path)
    arguments, _ = parser.parse_known_args()
    count = arguments.pairs or (FAST if arguments.fast else ALL)
    numbers = [arguments.only] if arguments.only is not None else range(count)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        bases = Bases(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(lambda k: pair(bases, arguments.seed + k, folder), numbers))
        if arguments.keep:
            shutil.copytree(folder, arguments.keep, dirs_exist_ok=True)
    tally = Counter(kind for kind, _ in results)
    faults = [line for _, line in results if line]
    for line in faults:
        print(f"FAILED  {line}", flush=True)
    print("; ".join(f"{number} {kind}" for kind, number in sorted(tally.items())), file=sys.stderr)
    print(f"{len(results) - len(faults)} passed, {len(faults)} failed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
