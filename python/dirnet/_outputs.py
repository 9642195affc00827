"""Which outputs of two models are compared, and how: found in the graphs, without running them.

An output of a Softmax or LogSoftmax holds probabilities, and is judged by its divergence. An output that both models compute from
the same values by the same nodes is not *reached* by what differs between them: to judge it says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from ._errors import InputError
from ._figures import LOSSES, Judged

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Loss = Union[str, Sequence[str], Mapping[str, str], None]

_STANDARD = ("", "ai.onnx")
_FLOATS = (1, 10, 11)  # float, float16, double
_RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
)


@dataclass(frozen=True)
class _Losses:
    """What the user chose: for all outputs, and for single ones."""

    default: str
    named: Mapping[str, str]

    @classmethod
    def parse(cls, loss: Loss) -> _Losses:
        if isinstance(loss, Mapping):
            texts = [f"{name}:{kind}" for name, kind in loss.items()]
        else:
            texts = [loss] if isinstance(loss, str) else list(loss or [])
        default, named = "", {}
        for text in texts:
            name, _, kind = text.rpartition(":")
            if kind not in LOSSES:
                raise InputError(f"loss '{text}' is unknown, expected KIND or NAME:KIND with one of {', '.join(LOSSES)}")
            if name:
                named[name] = kind
            else:
                default = kind
        return cls(default, named)


def judged(
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    names: Sequence[str],
    loss: Loss,
    states: Sequence[tuple[str, str]],
    kl: set[str],
) -> tuple[list[Judged], list[str]]:
    """The outputs ``names`` that are compared: all that are not fed back. ``kl`` names those whose divergence is measured anyway.

    ``states`` are the inputs that are fed back, each with the output that it comes from.
    """
    original = models[0]
    chosen = _Losses.parse(loss)
    fed_back = {output for _, output in states}
    kept = [name for name in names if name not in fed_back]
    if not kept:
        raise InputError("every output of the model is fed back by the stream, so there is none to compare")
    unknown = [name for name in chosen.named if name not in kept]
    if unknown:
        raise InputError(f"loss of '{unknown[0]}': not an output that is compared, those are {', '.join(kept)}")
    reached, warning = _reached(models, states, kept)
    types = {output.name: output.type.tensor_type.elem_type for output in original.graph.output}
    found = []
    for name in kept:
        content, axis, joined = "discrete", -1, False
        if types[name] in (*_FLOATS, 0):
            content, axis, joined = _content(original, [original.graph], name)
        is_distribution = "probabilities" in content
        usual = "disagreement" if content == "discrete" else chosen.default or ("kl" if is_distribution else "nmse")
        kind = chosen.named.get(name, usual)
        measured = kind == "kl" or is_distribution or name in kl
        found.append(Judged(name, content, axis, joined, kind, measured, name in reached))
    return found, warning


def _content(model: onnx.ModelProto, graphs: list[onnx.GraphProto], name: str) -> tuple[str, int, bool]:
    """What an output holds, and the axis of its classes. The graphs are those that the name is seen from, inner ones last."""
    values = "values", -1, False
    for depth in range(len(graphs), 0, -1):
        node = next((node for node in graphs[depth - 1].node if name in node.output), None)
        if node is not None:
            break
    else:
        return values
    if node.domain not in _STANDARD:
        return values
    if node.op_type in ("Softmax", "LogSoftmax"):
        content = "probabilities" if node.op_type == "Softmax" else "log-probabilities"
        # Before opset 13 the classes are those of all axes from this one.
        joined = _opset(model) < 13
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1 if joined else -1)
        return content, axis, joined
    if node.op_type in ("Identity", "Cast"):
        return _content(model, graphs[:depth], node.input[0])
    if node.op_type == "If":
        place = list(node.output).index(name)
        branches = {_content(model, [*graphs[:depth], body], body.output[place].name) for body in _bodies(node)}
        return branches.pop() if len(branches) == 1 else values
    return values


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=1)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _reached(
    models: tuple[onnx.ModelProto, onnx.ModelProto], states: Sequence[tuple[str, str]], kept: Sequence[str]
) -> tuple[set[str], list[str]]:
    """The outputs that are not known to be the same in both models and depend on what these are given; and a warning if there are none.

    Models that do not differ at all are judged by all outputs.
    """
    original, other = models
    ours = _Keys().graph(original.graph, {}, set())
    if _whole(original) != _whole(other):
        changed = set(ours)
    else:
        changed, before = set(), {""}
        # What is fed back changes inputs of the next step, until no more do.
        while changed != before:
            before = changed
            theirs = _Keys().graph(other.graph, {}, {name for name, output in states if output in changed})
            changed = {name for name, value in ours.items() if name not in theirs or theirs[name].key != value.key}
        if not changed:
            return set(ours), ["the models do not differ in anything that computes"]
    reached = {name for name in changed if ours[name].variable}
    if reached.isdisjoint(kept):
        return set(), ["no compared output depends on what differs between the models"]
    return reached, []


def _whole(model: onnx.ModelProto) -> tuple[dict[str, int], list[bytes]]:
    """What belongs to no node: versions of the standard operators, and functions."""
    return {"": _opset(model)}, [function.SerializeToString(deterministic=True) for function in model.functions]


@dataclass(frozen=True)
class _Value:
    """How a value is computed: equal keys, equal values. It is variable if it depends on an input or is drawn at random."""

    key: bytes
    variable: bool


class _Keys:
    """Keys of the values of a graph. Names of nodes and values, and the order of nodes, make no difference."""

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, _Value], changed: set[str]) -> dict[str, _Value]:
        """The values of the outputs of a model's graph, by name."""
        known = self._values(graph, outer, changed, by_name=True)
        return {output.name: known[output.name] for output in graph.output if output.name in known}

    def _values(self, graph: onnx.GraphProto, outer: Mapping[str, _Value], changed: set[str], by_name: bool) -> dict[str, _Value]:
        known = dict(outer)
        constants = {tensor.name for tensor in graph.initializer}
        for place, port in enumerate(graph.input):
            if port.name not in constants:
                is_changed = by_name and port.name in changed
                known[port.name] = _Value(_digest("input", port.name if by_name else place, is_changed), True)
        for tensor in graph.initializer:
            known[tensor.name] = _Value(_tensor(tensor), False)
        for sparse in graph.sparse_initializer:
            known[sparse.values.name] = _Value(_digest("sparse", sparse.SerializeToString(deterministic=True)), False)
        for node in graph.node:
            self._node(node, known)
        return known

    def _node(self, node: onnx.NodeProto, known: dict[str, _Value]) -> None:
        inputs = [known[name] for name in node.input if name in known]
        parts: list[object] = [node.domain if node.domain not in _STANDARD else "", node.op_type]
        # Inputs at the end that are left out may be written or not.
        names = list(node.input)
        while names and not names[-1]:
            names.pop()
        parts += [known[name].key if name in known else b"" for name in names]
        variable = any(value.variable for value in inputs) or node.op_type in _RANDOM
        for attribute in sorted(node.attribute, key=lambda attribute: attribute.name):
            bodies = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            if bodies:
                for body in bodies:
                    within = self._values(body, known, set(), by_name=False)
                    results = [within[output.name] for output in body.output if output.name in within]
                    parts += [attribute.name, *(result.key for result in results)]
                    variable = variable or any(result.variable for result in results)
            elif attribute.HasField("t"):
                parts += [attribute.name, _tensor(attribute.t)]
            else:
                parts += [attribute.name, _attribute(attribute)]
        key = self._constant(node, parts)
        for place, name in enumerate(node.output):
            if name:
                known[name] = _Value(key if len(node.output) == 1 and key else _digest(*parts, place), variable)

    @staticmethod
    def _constant(node: onnx.NodeProto, parts: list[object]) -> bytes:
        """The key of what a Constant node holds, which is that of an initializer; of others nothing."""
        is_tensor = node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].HasField("t")
        return parts[-1] if is_tensor and isinstance(parts[-1], bytes) else b""


def _tensor(tensor: onnx.TensorProto) -> bytes:
    """The key of a constant: its type, shape and values, however these are stored."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    return _digest("constant", tensor.data_type, array.shape, array.tobytes() if array.dtype != object else list(array.flat))


def _attribute(attribute: onnx.AttributeProto) -> bytes:
    import onnx

    plain = onnx.AttributeProto()
    plain.CopyFrom(attribute)
    plain.ClearField("doc_string")
    return bytes(plain.SerializeToString(deterministic=True))


def _digest(*parts: object) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.digest()


def load(path: Path) -> onnx.ModelProto:
    """A model with the values of its side files."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: No such file or directory") from error
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX model") from error


def stored_bytes(path: Path) -> int:
    """Bytes of a model's file and of its side files."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    entries = [entry for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location"]
    files = {path, *(path.parent / entry.value for entry in entries)}
    return sum(file.stat().st_size for file in files)
