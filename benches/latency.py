"""Writes docs/latency.md: dense, quantized by onnxruntime, and in each of our forms, by onnxruntime. Called by `latency`.

    latency.py [NAME...]                   the table, or the rows of models with NAME in their name
    latency.py --measure MODEL FEEDS       one session in a process of its own; prints JSON

Times are of the processor, with one thread, so that other work on the machine matters little; every figure is the median of
`PROCESSES` processes, a latency that of the medians of their runs.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "tests" / "runtimes")]

PAGE = PROJECT / "docs" / "latency.md"
STEPS, RATIO, PROCESSES, SECONDS = 50, 8, 3, 2.0
RANDOM = [(op, hidden) for op in ("LSTM", "GRU") for hidden in (256, 512, 1024)]
REAL = ["charlm lstm512", "charlm gru256", "g2p_id encoder", "DTLN part 1", "Silero VAD v5, 16 kHz, opset 15"]

# Upper bounds that this project set itself, as shares of dense: (op, hidden, variant) -> what -> bound.
BARS = {
    ("LSTM", 1024, "fast"): {"latency": 0.30, "steady": 0.5},
    ("GRU", 1024, "fast"): {"latency": 0.38, "steady": 0.5},
    ("LSTM", 512, "fast"): {"latency": 0.45},
    ("GRU", 512, "fast"): {"latency": 0.50},
    ("LSTM", 1024, "portable"): {"peak": 1.8, "session": 1.5},
}


@dataclass(frozen=True)
class Figures:
    """Of one model file: bytes, processor milliseconds, and megabytes over a process that has only imported onnxruntime."""

    size: int
    latency: float
    session: float
    peak: float
    steady: float
    nmse: float | None = None


# -- one process -----------------------------------------------------------------------------------------------------------


def resident(field):
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(field + ":"))


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
    peak = max(peak, resident("VmHWM") - base)
    told = {"latency": median(runs) * 1e3, "session": created * 1e3, "peak": peak, "steady": resident("VmRSS") - base}
    print(json.dumps(told))


def figures(path, feeds, nmse):
    command = [sys.executable, __file__, "--measure", path, feeds]
    told = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(PROCESSES)]
    return Figures(catalogue.stored_bytes(path), **{key: median(t[key] for t in told) for key in told[0]}, nmse=nmse)


# -- models ----------------------------------------------------------------------------------------------------------------


def random_model(op, hidden, folder):
    """Two layers with random weights, as in large.py: path, feeds, arguments of dirnet."""
    path, feeds = folder / "model.onnx", folder / "feeds.safetensors"
    onnx.save(large.build(op, hidden), path)
    x = np.random.default_rng(1).standard_normal((STEPS, 1, hidden)).astype(np.float32)
    adapter.write(feeds, {"x": x})
    return path, feeds, ["--ratio", RATIO, "--sensitivity", "none"]


def real_model(model, folder):
    feeds = folder / "feeds.safetensors"
    adapter.write(feeds, matrix.feed(model))
    return model.path, feeds, ["--ratio", RATIO, *model.sample_arguments()]


def variants(path, arguments, folder):
    """Name -> file; a variant that cannot be made is absent."""
    made = {"dense": path, "quantize_dynamic": folder / "quantized.onnx"}
    quantize_dynamic(path, made["quantize_dynamic"], weight_type=QuantType.QInt8)
    for form in ("portable", "fast", "ort") if matrix.FORMS else ("portable",):
        out = folder / f"{form}.onnx"
        how = ["--form", form] if form != "portable" else []
        run = catalogue.tool("compress", path, "-o", out, "--no-verify", "-q", *arguments, *how)
        if run.code == 0:
            made[form] = out
        else:
            print(f"{path.parent.name}, {form}: {run.message}", file=sys.stderr)
    return made


def nmse(dense, other, feeds):
    """The worst of the outputs, over the variance of the dense model's."""
    differences = judge.compare(judge.session(dense), judge.session(other), [[adapter.read(feeds)]])
    known = [d.figures()["nmse"] for d in differences.values()]
    return max((value for value in known if value is not None), default=None)


def measured(name, path, feeds, arguments, folder):
    found = {}
    for variant, file in variants(path, arguments, folder).items():
        found[variant] = figures(file, feeds, nmse(path, file, feeds) if variant != "dense" else None)
        print(name, variant, asdict(found[variant]), flush=True)
    return found


# -- the page --------------------------------------------------------------------------------------------------------------

HEAD = f"""# Size, latency and memory in onnxruntime

Dense, as `onnxruntime.quantization.quantize_dynamic` makes it (int8 weights), and in the forms of `dirnet compress --ratio {RATIO}`:
*portable*; *fast*, `--form fast`; *ort*, `--form ort`. Made by `benches/latency`; do not edit.

- **file**: bytes on disk, all side files counted; **latency** of one run: batch 1, {STEPS} steps in the models with random weights,
  one recorded input in the real ones; **session**: from the file to a session that can run. Processor milliseconds on one thread.
- **peak** and **steady** memory, over a process that has only imported onnxruntime: the highest while it loads and runs, and
  what is left after {SECONDS:g} s of runs.
- **nmse**: mean squared difference of the outputs from the dense model's, over their variance, on that input. Random weights are
  the hardest to compress: for them it is large, and says nothing of trained models.
"""


def table(every):
    head = ["model", "variant", "file", "", "latency ms", "", "session ms", "", "peak MB", "steady MB", "nmse"]
    lines = ["| " + " | ".join(head) + " |", "|---|---" + "|--:" * (len(head) - 2) + "|"]
    for name, found in every.items():
        dense = found["dense"]
        for variant, f in found.items():
            share = lambda key: f"{getattr(f, key) / getattr(dense, key):.2f}×" if f is not dense else ""
            cells = [
                name if f is dense else "", variant, f"{f.size:,}", share("size"), f"{f.latency:.2f}", share("latency"),
                f"{f.session:.0f}", share("session"), f"{f.peak:.0f}", f"{f.steady:.0f}", "" if f.nmse is None else f"{f.nmse:.1g}",
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
            lines.append(f"- {op}-{hidden}, {variant}, {what}: {share:.2f} of dense, bar {bound:.2f}: {'met' if share <= bound else '**missed**'}")
    return "\n".join(lines)


def random_name(op, hidden):
    return f"2 × {op}-{hidden}, random"


def main():
    makers = {random_name(*model): lambda folder, model=model: random_model(*model, folder) for model in RANDOM}
    models = {model.name: model for model in catalogue.read()[0]}
    makers |= {name: lambda folder, name=name: real_model(models[name], folder) for name in REAL if name in models}
    asked = sys.argv[1:]
    every = {}
    for name, make in makers.items():
        if asked and not any(word in name for word in asked):
            continue
        folder = runtimes.HOME / "latency" / matrix.slug(name)
        folder.mkdir(parents=True, exist_ok=True)
        every[name] = measured(name, *make(folder), folder)
    if asked:
        print(table(every))
        return
    machine = f"{matrix.processor()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}, one thread"
    parts = [HEAD, f"Measured on {machine}.\n", table(every), "\n## Bars that this project set itself\n", bars(every), ""]
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
