"""MNN through its Python binding: converted by the extension `_tools`, run by `MNN.nn`.

In two processes, for the converter and the interpreter crash in one. Neither the command `mnnconvert` nor the module
`MNN.tools` is used: both install packages when they are called.
"""

import subprocess
import sys
import tempfile

import numpy as np
import onnx

import adapter

# With MNN's own LSTM: the default, which writes a loop, ends in a crash of the converter on any LSTM.
CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--bizCode', 'x', '--useOriginRNNImpl', '--modelFile', *sys.argv[1:]])"


def run(model, feeds):
    with tempfile.NamedTemporaryFile(suffix=".mnn") as converted:
        command = [sys.executable, "-c", CONVERT, model, "--MNNModel", converted.name]
        said = subprocess.run(command, capture_output=True, text=True)
        if said.returncode or "Converted Success" not in said.stdout:
            raise RuntimeError(f"converter ends with {said.returncode}: {worst_line(said.stdout + said.stderr)}")
        graph = onnx.load(model, load_external_data=False).graph
        return interpret(converted.name, feeds, [output.name for output in graph.output])


def worst_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line or "support" in line.split(":")[0]), lines[-1] if lines else "")


def interpret(path, feeds, outputs):
    import MNN

    net = MNN.nn.load_module_from_file(path, list(feeds), outputs)
    if net is None:
        raise RuntimeError("load_module_from_file gives nothing")
    results = net.forward([variable(MNN, value) for value in feeds.values()])
    plain = [MNN.expr.convert(result, MNN.expr.NCHW) for result in results]
    return {name: np.array(value.read()) for name, value in zip(outputs, plain)}


def variable(mnn, value):
    """MNN has float and int variables of 32 bits."""
    is_float = np.issubdtype(value.dtype, np.floating)
    value = np.ascontiguousarray(value, np.float32 if is_float else np.int32)
    return mnn.expr.const(value, list(value.shape), mnn.expr.NCHW, mnn.expr.float if is_float else mnn.expr.int)


adapter.main(run)
