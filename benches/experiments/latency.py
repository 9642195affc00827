"""Writes docs/latency.md: dense, quantized by onnxruntime, and in each form of dirnet, run by onnxruntime. Called by `latency`.

    latency.py [NAME...]                   the page, or the rows of models with NAME in their name
    latency.py --prepare [NAME...]         only the files that are measured: they are kept, and made once for a build of the tool
    latency.py --measure MODEL FEEDS       one session in a process of its own; prints JSON

Times are of the processor, with one thread, so that other work on the machine matters little; every figure is the median of
`PROCESSES` processes, a latency that of the medians of their runs. The variants of a model take turns.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

import harness

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "latency.md"
STEPS, RATIO, PROCESSES, SECONDS = 50, 16, 3, 2.0
RANDOM = [(op, hidden) for op in ("LSTM", "GRU") for hidden in (256, 512, 1024)]
REAL = ["charlm lstm512", "charlm gru256", "g2p_id encoder", "DTLN part 1", "Silero VAD v5, 16 kHz, opset 15"]

# Upper bounds that this project set itself, as shares of dense: (op, hidden, variant) -> what -> bound.
BARS = {
    ("LSTM", 1024, "fast"): {"latency": 0.30, "in_use": 0.5, "size": 1 / 12},  # a third of what quantize_dynamic leaves
    ("GRU", 1024, "fast"): {"latency": 0.38, "in_use": 0.5},
    ("LSTM", 512, "fast"): {"latency": 0.45},
    ("GRU", 512, "fast"): {"latency": 0.50},
    ("LSTM", 1024, "portable"): {"peak": 1.8, "session": 1.5, "in_use": 1.05},
}

# Where else the fast form is tried: processor time of a step, from sequences of so many steps.
ELSEWHERE = ["onnxruntime", "onnxruntime 1.17", "Node", "web", "OpenVINO", "OpenCV", "MNN", "ncnn", "rten", "tract"]
SHORT, LONG = 50, 1050


@dataclass(frozen=True)
class Figures:
    """Of one model file: bytes, processor milliseconds, and megabytes over a process that has only imported onnxruntime."""

    size: int
    latency: float
    session: float
    peak: float
    resident: float
    in_use: float
    nmse: float | None = None


# -- one process -----------------------------------------------------------------------------------------------------------


def resident(field):
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith(field + ":"))


def measure(model, feeds):
    import onnxruntime

    from adapters import adapter

    values = adapter.read(feeds)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    base, begin = resident("VmRSS"), time.process_time()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    created = time.process_time() - begin
    peak = resident("VmHWM") - base
    for _ in range(3):
        session.run(None, values)
    runs, until = [], time.process_time() + SECONDS
    while len(runs) < 20 or time.process_time() < until:
        begin = time.process_time()
        session.run(None, values)
        runs.append(time.process_time() - begin)
    told = {"latency": median(runs) * 1e3, "session": created * 1e3, "peak": max(peak, resident("VmHWM") - base)}
    told["resident"] = resident("VmRSS") - base
    ctypes.CDLL(None).malloc_trim(0)
    session.run(None, values)
    print(json.dumps(told | {"in_use": resident("VmRSS") - base}))


def figures(files, feeds):
    """Variant -> what its processes told, one after the other in turn."""
    told = {variant: [] for variant in files}
    for _ in range(PROCESSES):
        for variant, path in files.items():
            command = [sys.executable, __file__, "--measure", path, feeds]
            told[variant].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {variant: {key: median(t[key] for t in each) for key in each[0]} for variant, each in told.items()}


# -- models ----------------------------------------------------------------------------------------------------------------


def random_model(op, hidden, folder):
    """Two layers with random weights, as in large.py: path, feeds, arguments of dirnet."""
    path, feeds = folder / "model.onnx", folder / "feeds.safetensors"
    onnx.save(large.build(op, hidden), path)
    adapter.write(feeds, {"x": sequence(hidden, STEPS)})
    return path, feeds, ["--scope", "recurrent", "--ratio", RATIO, "--sensitivity", "none"]


def sequence(hidden, steps):
    return np.random.default_rng(1).standard_normal((steps, 1, hidden)).astype(np.float32)


def real_model(model, folder):
    feeds = folder / "feeds.safetensors"
    adapter.write(feeds, matrix.feed(model))
    return model.path, feeds, ["--scope", "recurrent", "--ratio", RATIO, *model.sample_arguments()]


def variants(path, arguments, folder):
    """Name -> file; a variant that cannot be made, or is the portable one, is absent."""
    made = {"dense": path, "quantize_dynamic": folder / "quantized.onnx"}
    if not made["quantize_dynamic"].exists():
        with contextlib.chdir(folder):  # it leaves a file where it is run
            quantize_dynamic(path, made["quantize_dynamic"], weight_type=QuantType.QInt8)
    for form, how in matrix.HOW.items():
        key = hashlib.sha256(repr([matrix.TOOL, arguments, path.read_bytes()]).encode()).hexdigest()[:16]
        out = folder / f"{form}-{key}.onnx"
        if not out.exists():
            run = catalogue.tool("compress", path, "-o", out, "--no-verify", "-q", *arguments, *how)
            if run.code != 0:
                print(f"{folder.name}, {form}: {run.message}", file=sys.stderr)
                continue
        if form == "portable" or matrix.has_form(out):
            made[form] = out
    return made


def nmse(dense, other, feeds):
    """The worst of the outputs, over the variance of the dense model's."""
    differences = judge.compare(judge.session(dense), judge.session(other), [[adapter.read(feeds)]])
    known = [d.figures()["nmse"] for d in differences.values()]
    return max((value for value in known if value is not None), default=None)


def measured(name, path, feeds, files):
    told = figures(files, feeds)
    found = {}
    for variant, file in files.items():
        apart = nmse(path, file, feeds) if variant != "dense" else None
        found[variant] = Figures(catalogue.stored_bytes(file), **told[variant], nmse=apart)
        print(name, variant, asdict(found[variant]), flush=True)
    return found


# -- other runtimes --------------------------------------------------------------------------------------------------------


def step_time(runtime, model, feeds):
    """Processor milliseconds of one step: what a long sequence takes beyond a short one. Else the runtime's words."""
    times = []
    for path in feeds:
        # The better of two: what else a process does is never less than nothing.
        each = []
        for _ in range(2):
            begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            words = runtimes.attempt(runtime, model, path, path.with_suffix(".out"))
            if words is not None:
                return words
            each.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin)
        times.append(min(each))
    return (times[1] - times[0]) / (LONG - SHORT) * 1e3


def elsewhere(op, hidden, folder, files):
    """Rows of the table: runtime, dense, fast."""
    feeds = [folder / f"{steps}.safetensors" for steps in (SHORT, LONG)]
    for path, steps in zip(feeds, (SHORT, LONG)):
        adapter.write(path, {"x": sequence(hidden, steps)})
    rows = []
    for runtime in runtimes.RUNTIMES:
        if runtime.name not in ELSEWHERE or not runtime.there:
            continue
        dense, fast = (step_time(runtime, files[variant], feeds) for variant in ("dense", "fast"))
        both = not isinstance(dense, str) and not isinstance(fast, str)
        cell = lambda value: f"{value:.2f}" if not isinstance(value, str) else f"`{value.replace('`', chr(39)).replace('|', '/')[:90]}`"
        rows.append(f"| {op}-{hidden} | {runtime.name} | {cell(dense)} | {cell(fast)} | {f'{fast / dense:.2f}×' if both else ''} |")
        print(rows[-1], flush=True)
    return rows


# -- the page --------------------------------------------------------------------------------------------------------------

HEAD = f"""# Size, latency and memory in onnxruntime

Dense, as `onnxruntime.quantization.quantize_dynamic` makes it (int8 weights), and in the forms of `dirnet compress --scope recurrent --ratio {RATIO}`:
*portable*; *fast*, `--form fast --form-from 1`; *ort*, `--form ort --form-from 1`: in all layers that support the form, also in those that dirnet by
default leaves portable because they are too small to run faster. Generated by `benches/experiments/latency`; do not edit.

- **file**: bytes on disk, all side files counted; **latency** of one run: batch 1, {STEPS} steps in the models with random weights,
  one recorded input in the real ones; **session**: time to create a session from the file. Both in processor milliseconds on one thread.
- Memory in addition to that of a process that has only imported onnxruntime: **peak**, the maximum while it loads and runs; **resident**, the resident
  memory after {SECONDS:g} s of runs; **in use**, the part of it that remains after `malloc_trim`. glibc keeps freed memory, up to the peak of loading, for
  later allocations: the difference between the last two can be reused by the process, but not by others.
- **nmse**: mean squared difference of the outputs from the dense model's, over their variance, on that input. Random weights are
  the hardest to compress: their nmse is large and does not predict that of trained models.
"""


def table(every):
    head = ["model", "variant", "file", "", "latency ms", "", "session ms", "", "peak MB", "", "resident MB", "in use MB", "", "nmse"]
    lines = ["| " + " | ".join(head) + " |", "|---|---" + "|--:" * (len(head) - 2) + "|"]
    for name, found in every.items():
        dense = found["dense"]
        for variant, f in found.items():
            share = lambda key: f"{getattr(f, key) / getattr(dense, key):.2f}×" if f is not dense else ""
            cells = [
                name if f is dense else "", variant, f"{f.size:,}", share("size"), f"{f.latency:.2f}", share("latency"),
                f"{f.session:.0f}", share("session"), f"{f.peak:.0f}", share("peak"), f"{f.resident:.0f}", f"{f.in_use:.0f}", share("in_use"),
                "" if f.nmse is None else f"{f.nmse:.1g}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(every):
    lines = []
    for (op, hidden, variant), bounds in BARS.items():
        found = every.get(random_name(op, hidden), {})
        if variant not in found:
            continue
        for what, bound in bounds.items():
            share = getattr(found[variant], what) / getattr(found["dense"], what)
            name = what.replace("_", " ")
            lines.append(f"- {op}-{hidden}, {variant}, {name}: {share:.2f} of dense, target at most {bound:.2f}: {'met' if share <= bound else '**missed**'}")
    return "\n".join(lines)


def random_name(op, hidden):
    return f"2 × {op}-{hidden}, random"


OTHERS = f"""
## The fast form in other runtimes

Processor milliseconds of one step: (time of {LONG} steps - time of {SHORT} steps) / {LONG - SHORT}, measured with the adapters of `tests/runtimes`.
The times of several threads are added. Each is measured only twice, on a busy machine: differences below a factor of two are not significant. Instead of a
time, the table shows the error message of a runtime that does not run the model.

| model | runtime | dense | fast | |
|---|---|--:|--:|--:|
"""


def main():
    makers = {random_name(*model): lambda folder, model=model: random_model(*model, folder) for model in RANDOM}
    models = {model.name: model for model in catalogue.read()[0]}
    makers |= {name: lambda folder, name=name: real_model(models[name], folder) for name in REAL if name in models}
    asked = [word for word in sys.argv[1:] if word != "--prepare"]
    wanted = [name for name in makers if not asked or any(word in name for word in asked)]
    folders = {name: runtimes.HOME / "latency" / matrix.slug(name) for name in wanted}
    made = {}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        path, feeds, arguments = makers[name](folder)
        made[name] = path, feeds, variants(path, arguments, folder)
        print(f"{name}: {', '.join(made[name][2])}", file=sys.stderr, flush=True)
    if "--prepare" in sys.argv[1:]:
        return
    every = {name: measured(name, *files) for name, files in made.items()}
    large_ones = {(op, hidden): random_name(op, hidden) for op, hidden in RANDOM if hidden == max(h for _, h in RANDOM)}
    rows = [elsewhere(*model, folders[name], made[name][2]) for model, name in large_ones.items() if name in made]
    others = OTHERS + "\n".join(sum(rows, []))
    if asked:
        print(table(every), others, bars(every), sep="\n")
        return
    machine = f"{harness.processor()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}, one thread"
    parts = [HEAD, f"Measured on {machine}.\n", table(every), "\n## Targets that this project set itself\n", bars(every), others, ""]
    PAGE.write_text("\n".join(parts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        import catalogue
        import judge
        import large
        import matrix
        import runtimes
        from adapters import adapter

        main()
