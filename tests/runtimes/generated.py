"""Models made for the runtimes: LSTM and GRU in every shape in which exporters write them, RNN, and layers of the other kinds;
random weights.

Weights are uniform in ±1/sqrt(hidden), as layers are initialised; the same bytes every time.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEPS, WIDTH, CHUNKS = 7, 256, 3
IR_VERSION = {7: 3, 9: 4, 11: 6, 13: 7, 17: 8, 21: 10, 23: 11}  # of the onnx release that brought the opset
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OFTEN = ("LSTM", "GRU")


@dataclass(frozen=True)
class Generated:
    op: str
    hidden: int = 64
    opset: int = 17
    direction: str = "forward"
    body: str | None = None  # If, Loop or Scan
    linear_before_reset: int = 1
    ratio: float = 8

    @property
    def name(self):
        direction = "" if self.direction == "forward" else f" {self.direction}"
        reset = " (linear_before_reset=0)" if self.op == "GRU" and not self.linear_before_reset else ""
        return f"{self.op}-{self.hidden}{direction}{reset}{f' in {self.body}' if self.body else ''}, opset {self.opset}"

    @property
    def arguments(self):
        """What `dirnet compress` is told besides: weights that a caller may override are not touched unless it is told so."""
        return ["--ratio", f"{self.ratio:g}"] + (["--freeze-inputs"] if IR_VERSION[self.opset] < 4 else [])

    def feeds(self):
        random = np.random.default_rng(1)
        chunks = [CHUNKS] if self.body in ("Loop", "Scan") else []
        feeds = {"x": random.standard_normal([*chunks, STEPS, 1, WIDTH]).astype(np.float32)}
        return feeds | ({"condition": np.array(True)} if self.body == "If" else {})

    def build(self):
        graph = _Graph(self)
        outer = {"If": graph.branches, "Loop": graph.loop, "Scan": graph.scan, None: graph.plain}[self.body]()
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(outer, opset_imports=[opset], ir_version=IR_VERSION[self.opset])
        if IR_VERSION[self.opset] < 4:  # there, every initializer is an input
            shapes = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
            model.graph.input.extend(shapes)
        return model


class _Graph:
    """The nodes of one model. A recurrent node and what follows it, as torch.onnx writes them, take `x` to `y`."""

    def __init__(self, of):
        self.of = of
        self.initializers = []
        self.directions = 2 if of.direction == "bidirectional" else 1
        random = np.random.default_rng(0)
        bound = of.hidden**-0.5
        rows = GATES[of.op] * of.hidden
        for name, shape in {"W": (rows, WIDTH), "R": (rows, of.hidden), "B": (2 * rows,)}.items():
            self.constant(f"rnn.{name}", random.uniform(-bound, bound, (self.directions, *shape)).astype(np.float32))

    def constant(self, name, value):
        if all(known.name != name for known in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def recurrent(self, x, y):
        attributes = {"hidden_size": self.of.hidden, "direction": self.of.direction}
        if self.of.op == "GRU":
            attributes["linear_before_reset"] = self.of.linear_before_reset
        node = helper.make_node(self.of.op, [x, "rnn.W", "rnn.R", "rnn.B"], [f"{y}.Y"], name=f"{y}.rnn", **attributes)
        if self.directions == 2:
            shape = self.constant("shape", np.array([0, 0, -1]))
            swap = helper.make_node("Transpose", [f"{y}.Y"], [f"{y}.swapped"], perm=[0, 2, 1, 3])
            return [node, swap, helper.make_node("Reshape", [f"{y}.swapped", shape], [y])]
        if self.of.opset < 13:
            return [node, helper.make_node("Squeeze", [f"{y}.Y"], [y], axes=[1])]
        return [node, helper.make_node("Squeeze", [f"{y}.Y", self.constant("direction", np.array([1]))], [y])]

    def value(self, name, *shape, of=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, of, shape)

    def x(self, name="x", *chunks):
        return self.value(name, *chunks, STEPS, 1, WIDTH)

    def y(self, name="y", *chunks):
        return self.value(name, *chunks, STEPS, 1, self.directions * self.of.hidden)

    def graph(self, nodes, inputs, outputs):
        return helper.make_graph(nodes, "model", inputs, outputs, self.initializers)

    def plain(self):
        return self.graph(self.recurrent("x", "y"), [self.x()], [self.y()])

    def branches(self):
        negated = helper.make_node("Neg", ["x"], ["negated"])
        then = helper.make_graph(self.recurrent("x", "then"), "then", [], [self.y("then")])
        other = helper.make_graph([negated, *self.recurrent("negated", "else")], "else", [], [self.y("else")])
        node = helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other)
        return self.graph([node], [self.x(), self.value("condition", of=TensorProto.BOOL)], [self.y()])

    def loop(self):
        take = helper.make_node("Gather", ["x", "turn"], ["chunk"], axis=0)
        go_on = helper.make_node("Identity", ["going"], ["go_on"])
        inputs = [self.value("turn", of=TensorProto.INT64), self.value("going", of=TensorProto.BOOL)]
        outputs = [self.value("go_on", of=TensorProto.BOOL), self.y("part")]
        body = helper.make_graph([take, *self.recurrent("chunk", "part"), go_on], "body", inputs, outputs)
        turns, true = self.constant("turns", np.array(CHUNKS)), self.constant("true", np.array(True))
        node = helper.make_node("Loop", [turns, true], ["y"], body=body)
        return self.graph([node], [self.x("x", CHUNKS)], [self.y("y", CHUNKS)])

    def scan(self):
        body = helper.make_graph(self.recurrent("chunk", "part"), "body", [self.x("chunk")], [self.y("part")])
        node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
        return self.graph([node], [self.x("x", CHUNKS)], [self.y("y", CHUNKS)])


@dataclass(frozen=True)
class Layers:
    """One layer of every kind that is not recurrent: a table, Conv, ConvTranspose, Gemm and MatMul."""

    opset: int = 17
    hidden: int = 0  # none that has another form

    @property
    def name(self):
        return f"Gather, Conv, ConvTranspose, Gemm, MatMul, opset {self.opset}"

    @property
    def arguments(self):
        return ["--ratio", "4"]

    def feeds(self):
        return {"ids": np.random.default_rng(1).integers(0, 500, [1, 32])}

    def build(self):
        random = np.random.default_rng(0)
        shapes = {"table": (500, 96), "conv.W": (128, 96, 3), "up.W": (128, 64, 4), "gemm.W": (256, 64), "out.W": (256, 40)}
        weights = {name: random.uniform(-1, 1, shape) / 8 for name, shape in shapes.items()}
        constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["channels"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["channels", "conv.W"], ["conv"], pads=[1, 1]),
            helper.make_node("Tanh", ["conv"], ["bent"]),
            helper.make_node("ConvTranspose", ["bent", "up.W"], ["up"], strides=[2]),
            helper.make_node("ReduceMax", ["up"], ["largest"], axes=[2], keepdims=0),
            helper.make_node("Gemm", ["largest", "gemm.W"], ["gemm"], transB=1),
            helper.make_node("Tanh", ["gemm"], ["bent_again"]),
            helper.make_node("MatMul", ["bent_again", "out.W"], ["y"]),
        ]
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 32])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40])
        graph = helper.make_graph(nodes, "model", [ids], [y], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSION[self.opset])


LAYERS = Layers()
# What `check.py` looks at in onnxruntime; the matrix of runtimes has none of them.
RNN = [Generated("RNN", 128, opset, direction, ratio=4) for opset, direction in ((9, "forward"), (17, "bidirectional"))]


def models():
    each = [
        *(Generated(op, opset=opset) for op in OFTEN for opset in IR_VERSION),
        *(Generated(op, hidden) for op in OFTEN for hidden in (16, 256, 512, 1024)),
        *(Generated(op, 128, opset, "bidirectional", ratio=12) for op in OFTEN for opset in (9, 17)),
        *(Generated(op, 128, direction="reverse", ratio=5) for op in OFTEN),
        Generated("GRU", 128, linear_before_reset=0),
        *(Generated(op, opset=opset, body=body) for op, opset in (("LSTM", 11), ("GRU", 17)) for body in ("If", "Loop", "Scan")),
    ]
    return {model.name: model for model in each}


def write(model, path):
    onnx.save(model.build(), path)
