"""Whether the constants that recurrent nodes read are numbers.

What a runtime makes of a weight that is NaN or infinite is its own: one keeps NaN, another clamps it to the end of an activation, so
that outputs may agree here and be apart elsewhere. To run such models shows nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

# The inputs of a recurrent node that may be constants of floats, by their names in the specification.
_FLOATS = {1: "W", 2: "R", 3: "B", 5: "initial_h", 6: "initial_c", 7: "P"}


def fault(model: onnx.ModelProto, which: str) -> str | None:
    """Why no run of a model can be trusted, if its recurrent layers are not made of numbers."""
    for graphs, node, index in _nodes([model.graph]):
        if node.op_type not in ("LSTM", "GRU", "RNN") or node.domain not in ("", "ai.onnx"):
            continue
        for place, letter in _FLOATS.items():
            name = node.input[place] if place < len(node.input) else ""
            if name and not all(map(_is_finite, _behind(graphs, name))):
                node_name = next((text for text in (node.name, *node.output) if text), f"{node.op_type}#{index}")
                return f"node '{node_name}': {letter} holds NaN or infinite values in the {which}, of which runtimes make what they like"
    return None


def _nodes(graphs: list[onnx.GraphProto]) -> Iterator[tuple[list[onnx.GraphProto], onnx.NodeProto, int]]:
    """All nodes, with the graphs that their inputs are seen from, inner ones last."""
    for index, node in enumerate(graphs[-1].node):
        yield graphs, node, index
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _nodes([*graphs, body])


def _behind(graphs: list[onnx.GraphProto], name: str) -> list[onnx.TensorProto]:
    """The stored tensors that a value is computed from; none if it is computed from an input too."""
    seen: set[str] = set()
    pending, found = [name], []
    while pending:
        name = pending.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        for graph in reversed(graphs):
            stored = [tensor for tensor in graph.initializer if tensor.name == name]
            makers = [node for node in graph.node if name in node.output]
            if stored or makers:
                found += stored
                found += [attribute.t for node in makers for attribute in node.attribute if attribute.HasField("t")]
                pending += [value for node in makers for value in node.input]
                break
            if any(port.name == name for port in graph.input):
                return []
    return found


def _is_finite(tensor: onnx.TensorProto) -> bool:
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
