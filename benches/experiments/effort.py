"""What each level of --effort costs and loses: makes the rows of the table in docs/guide.md.

    effort.py [LEVEL]...      levels; all of them if none is named

Every model is compressed at --ratio 8 with each level, and judged by onnxruntime on its held-out samples by the nmse of its first
output. Times are seconds of processor, of all threads, without verification. DIRNET_BIN names the tool, DIRNET_MODELS the folder of
the models that are not in this repository.
"""

import os
import sys
import tempfile
from pathlib import Path

import harness
import catalogue
import judge

MODELS = ["charlm gru256", "DTLN part 1", "Silero VAD v5, 16 kHz, opset 15", "byte sentence BiLSTM"]
LEVELS = ["0", "1", "2", "3", "4"]


def spent():
    """Seconds of processor that children have taken so far."""
    times = os.times()
    return times.children_user + times.children_system


def cell(model, level, folder):
    out = folder / "small.onnx"
    before = spent()
    size = ["--ratio", "8", "--effort", level]
    run = catalogue.tool("compress", model.path, "-o", out, *size, *model.sample_arguments(), "--no-verify", "-q")
    seconds = spent() - before
    if run.code != 0:
        return run.message.strip().splitlines()[-1]
    original = judge.session(model.path)
    compared = judge.compare(original, judge.session(out), model.streams(original), model.carries)
    nmse = next(iter(compared.values())).figures()["nmse"]
    return f"{seconds:.0f} s, {nmse:.1e}"


def main():
    levels = sys.argv[1:] or LEVELS
    models = {model.name: model for model in catalogue.read()[0]}
    print("| model | " + " | ".join(levels) + " |")
    print("|---|" + "--:|" * len(levels))
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            print(f"| {name} ", end="", flush=True)
            for level in levels:
                print(f"| {cell(models[name], level, Path(folder))} ", end="", flush=True)
            print("|")
    print(f"\nOn {harness.processor()}.")


if __name__ == "__main__":
    main()
