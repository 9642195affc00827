"""Writes docs/models.md: every model of models.toml compressed, verified by the tool and judged by onnxruntime.

    models_table.py [OUTPUT.md]
"""

import math
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

import harness  # noqa: F401

import catalogue
import judge

HEAD = """# Models

Real and derived models, compressed by `dirnet compress` with the settings below and judged twice: by the tool itself, and by
onnxruntime, which shares no code with it. Made by `benches/experiments/models_table.py`; do not edit.

- **ratio**: stored bytes of the recurrent weights before and after; **file**: bytes of the whole file.
- **verified**: how the tool compared the two models, `model` (all of it was run) or `layers` (each rewritten layer by itself).
- **nmse**: mean squared error over the variance of the original's output, the worst of all outputs that are not fed back,
  on samples that were not calibrated on where the model has such (else on seeded random inputs, marked *random*).
- **expanded**: the largest difference in onnxruntime between the compressed model and the one that `dirnet expand` makes of it,
  over the largest output.
"""


@dataclass
class Row:
    model: catalogue.Model
    cells: list[str]


def number(value):
    return "-" if value is None else "0" if value == 0 else f"{value:.2g}" if abs(value) >= 0.01 else f"{value:.1e}"


def worst(values):
    known = [value for value in values if value is not None and not math.isnan(value)]
    return max(known) if known else None


def refusal(run):
    """Why nothing was written, in the tool's words without the path."""
    line = run.message.splitlines()[0] if run.message else "no message"
    return line.split(": ", 2)[-1] if ": " in line else line


def row(model):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        out, expanded = folder / "compressed.onnx", folder / "expanded.onnx"
        run = catalogue.compress(model, out, report=folder / "report.json")
        if run.code != 0:
            return Row(model, ["-", "-", f"{catalogue.stored_bytes(model.path):,}", "-", f"not compressed: {refusal(run)}", "-", "-"])
        catalogue.expand(out, expanded)
        report = run.report
        verify, recurrent, sizes = report["verify"], report["recurrent"], report["model"]
        random = "" if model.calibration else " *random*"
        scope = f"{verify['scope']}, {verify['samples']} samples" if verify else "not verified"
        cells = [
            f"{len({unit['node'] for unit in report['units']})}",
            f"{recurrent['ratio']:.2f}",
            f"{sizes['bytes_before']:,} → {sizes['bytes_after']:,}",
            scope,
            number(worst(output["nmse"] for output in verify["outputs"])) + random if verify else "-",
        ]
        return Row(model, cells + judged(model, out, expanded))


def judged(model, compressed, expanded):
    """Worst nmse, and compressed against expanded, in onnxruntime."""
    original, words = catalogue.open_or_reason(model.path)
    if original is None:
        return ["the original is refused", "-"]
    streams = model.streams(original)
    ours, dense = judge.session(compressed), judge.session(expanded)
    against_original = judge.compare(original, ours, streams, model.carries)
    against_expanded = judge.compare(dense, ours, streams, model.carries)
    return [
        number(worst(difference.figures()["nmse"] for difference in against_original.values())),
        number(worst(difference.relative() for difference in against_expanded.values())),
    ]


def table(rows):
    head = ["model", "nodes", "ratio", "file", "verified", "nmse", "nmse (onnxruntime)", "expanded"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join([row.model.name, *row.cells]) + " |" for row in rows]
    return "\n".join(lines)


def origins(models):
    lines = ["| model | from | sha256 | settings |", "|---|---|---|---|"]
    for model in models:
        settings = [f"`--ratio {model.ratio:g}`"] + [f"`--stream {carry}`" for carry in model.stream]
        lines.append(f"| {model.name} | {model.origin} | `{model.sha256()}` | {' '.join(settings)} |")
    return "\n".join(lines)


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else catalogue.PROJECT / "docs" / "models.md"
    models, absent = catalogue.read()
    if absent:
        sys.exit(f"{len(absent)} models are not in DIRNET_MODELS ({catalogue.MODELS}): {', '.join(absent)}")
    rows = []
    for model in models:
        rows.append(row(model))
        print(model.name, *rows[-1].cells, sep=" | ", flush=True)
    machine = f"{platform.machine()}, onnxruntime {onnxruntime.__version__}"
    output.parent.mkdir(exist_ok=True)
    output.write_text(f"{HEAD}\nMeasured on {machine}.\n\n{table(rows)}\n\n## Where they are from\n\n{origins(models)}\n")


if __name__ == "__main__":
    main()
