"""What `dirnet compress --lossless` saves, step by step, and whether onnxruntime computes the same.

    lossless.py [MODEL.onnx | FOLDER]...      by default all of ../shared/models

Prints a line for each step of each model. Then checks: onnx.checker accepts what it accepted before, inputs and outputs are
declared alike, the outputs of onnxruntime are equal bit for bit with --no-generate-dft, and the nodes that are left after
its optimisation are as many of each operator (so that all that was added is folded). With the generated DFT basis the
largest difference is printed. Samples are the recorded ones beside a model, else seeded noise. Exit code 1 if a check fails.
DIRNET_BIN names the tool.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

PROJECT = Path(__file__).resolve().parents[2]
DIRNET = os.environ.get("DIRNET_BIN", str(PROJECT / "target" / "release" / "dirnet"))
STEPS = 40
TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}  # fmt: skip


def session(path, optimised=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def signature(of):
    return [(value.name, value.type, value.shape) for value in of.get_inputs() + of.get_outputs()]


def samples(path, inputs):
    """Feeds of recorded samples, the states among the inputs as they are or zero; else noise."""
    names = {value.name for value in inputs}
    files = [path.parent / "holdout.npz", *sorted(path.parent.glob(f"*{path.stem}*holdout*.npz"))]
    files += sorted(path.parent.glob("*holdout*.npz"))
    for file in files:
        if not file.exists():
            continue
        recorded = np.load(file)
        given = names & set(recorded.files)
        if not given:
            continue
        ranks = {value.name: len(value.shape) for value in inputs}
        stacked = [name for name in given if recorded[name].ndim > ranks[name]]
        count = min((len(recorded[name]) for name in stacked), default=1)
        for index in range(min(count, STEPS)):
            feed = {}
            for value in inputs:
                shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
                array = recorded[value.name] if value.name in given else np.zeros(shape)
                array = array[index] if value.name in stacked else array
                feed[value.name] = np.asarray(array, TYPES[value.type])
            yield feed
        return
    random = np.random.default_rng(0)
    for _ in range(3):
        feed = {}
        for value in inputs:
            shape = [size if isinstance(size, int) and size > 0 else 4 for size in value.shape]
            is_float = TYPES[value.type] in (np.float16, np.float32, np.float64)
            array = random.standard_normal(shape) if is_float else np.full(shape, 3)
            feed[value.name] = np.asarray(array, TYPES[value.type])
        yield feed


def operators(path):
    count = collections.Counter()

    def walk(graph):
        for node in graph.node:
            count[node.op_type] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(onnx.load(path, load_external_data=False).graph)
    return count


def accepted(path):
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        return str(error).splitlines()[0]
    return None


def difference(original, result, feeds):
    """Runs, whether all outputs are equal bit for bit, and the largest difference."""
    runs, equal, largest = 0, True, 0.0
    for feed in feeds:
        try:
            ours = original.run(None, feed)
        except Exception:  # the feed does not fit the model
            continue
        runs += 1
        for a, b in zip(ours, result.run(None, feed), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            equal &= a.shape == b.shape and a.tobytes() == b.tobytes()
            if a.dtype.kind == "f" and a.size:
                largest = max(largest, float(np.nanmax(np.abs(a.astype(np.float64) - b))))
    return runs, equal, largest


def check(path, folder):
    """Lines about a model, and what is wrong with it."""
    faults, lines, generated = [], [], True
    for flags in ([], ["--no-generate-dft"]):
        if flags and not generated:
            break
        out, report = folder / "small.onnx", folder / "report.json"
        command = [DIRNET, "compress", path, "-o", out, "--lossless", "--no-verify", "--quiet", "--report", report, *flags]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return [], [f"exit code {done.returncode}: {done.stderr.strip()}"]
        record = json.loads(report.read_text())
        generated = not all(step["exact"] for step in record["lossless"])
        if not flags:
            lines += [f"    {step['step']:32} {step['bytes']:9,}" for step in record["lossless"]]
            before, after = record["model"]["bytes_before"], record["model"]["bytes_after"]
            lines += [f"    {before:,} -> {after:,} bytes, {before / after:.2f}x"]
        refused = accepted(out)
        if refused and not accepted(path):
            faults.append(f"onnx.checker: {refused}")
        try:
            original = session(path, folder / "a.onnx")
        except Exception:
            return [*lines, "    onnxruntime does not run the original"], faults
        result = session(out, folder / "b.onnx")
        if signature(original) != signature(result):
            faults.append("other inputs or outputs")
        more = operators(folder / "b.onnx") - operators(folder / "a.onnx")
        if more:
            faults.append(f"not folded: {dict(more)}")
        runs, equal, largest = difference(session(path), session(out), samples(path, original.get_inputs()))
        how = "with the generated basis" if generated else "bit for bit"
        lines.append(f"    {runs} runs {how}: " + ("equal" if equal else f"largest difference {largest:.2e}"))
        if not equal and not generated:
            faults.append(f"outputs differ by {largest:.2e}")
    return lines, faults


def main():
    given = [Path(argument) for argument in sys.argv[1:]] or [PROJECT.parent / "shared" / "models"]
    paths = [path for each in given for path in (sorted(each.rglob("*.onnx")) if each.is_dir() else [each])]
    failed = False
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            lines, faults = check(path, Path(folder))
        print("/".join(path.parts[-2:]), *lines, *(f"    FAULT {fault}" for fault in faults), sep="\n", flush=True)
        failed |= bool(faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
