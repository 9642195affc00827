"""Whether codes of projection dictionaries would be smaller as positions and values.

    dirnet compress MODEL -o fine.onnx --scope recurrent --ratio 4 --codec projection --tune off ...
    dirnet compress MODEL -o small.onnx --scope recurrent --ratio 12 --codec projection --tune off --report small.json ...
    sparse_codes.py fine.onnx small.json

The fine codes stand for the exact ones. For each gate whose R or W has all its atoms in the fine file: the distortion at the
bits that the small file gives to it, and what is lost if as many bits go to the largest codes of each row, 12 bits for each
(8 for the place, 4 for the value, whose rounding is not counted). Atoms are orthonormal in the metric: what is dropped is lost.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

BITS = 12


def codes(path):
    """`node/W` or `node/R` -> codes `[rows, k]` of files whose layers are unidirectional."""
    model = onnx.load(path)
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.output[0].endswith("/product")]
    # Everything behind the products is constant: they make a model without inputs.
    outputs = [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None) for node in products]
    needed, nodes = {output.name for output in outputs}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.insert(0, node)
    graph = helper.make_graph(nodes, "codes", [], outputs, [i for i in model.graph.initializer if i.name in needed])
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(None, {})
    return {node.output[0].removesuffix("/product"): value[0] for node, value in zip(products, values)}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    exact, units = codes(sys.argv[1]), json.loads(open(sys.argv[2]).read())["units"]
    print(f"codes that are zero: {np.mean(np.concatenate([z.ravel() for z in exact.values()]) == 0):.1%}")
    for unit in units:
        rows, columns = unit["shape"]
        name = f"{unit['node']}/{unit['tensor']}"
        gates = [other["gate"] for other in units if (other["node"], other["tensor"]) == (unit["node"], unit["tensor"])]
        if name not in exact or exact[name].shape != (rows * len(gates), columns):
            continue
        at = gates.index(unit["gate"]) * rows
        energy = np.sort(exact[name][at : at + rows].astype(np.float64) ** 2, axis=1)[:, ::-1]
        kept = int(unit["bits_per_weight"] * columns / BITS)
        lost = energy[:, kept:].sum()
        print(
            f"{name} {unit['gate']}: {unit['bits_per_weight']:.2f} bits, distortion {unit['distortion']:.3g};",
            f"{kept} of {columns} kept: {lost:.3g}, {lost / unit['distortion']:.1f} times",
        )


if __name__ == "__main__":
    main()
