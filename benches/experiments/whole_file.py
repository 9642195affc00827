"""The whole file under one budget, against recurrent layers only, at the same size of file: makes docs/whole-file.md.

    whole_file.py [--write] [NAME]...      models with NAME in their name; --write replaces the page

Every model is compressed with default flags and --max-size, once with --scope all and once with --scope recurrent, and judged
by onnxruntime on its held-out samples. DIRNET_BIN names the tool, DIRNET_MODELS the folder of the models that are not in this
repository.
"""

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import catalogue
import judge

PAGE = catalogue.PROJECT / "docs" / "whole-file.md"
# Each model and how many times smaller its file is to be.
TARGETS = [
    ("Silero VAD v5, 16 kHz, opset 15", (6, 8, 12)),
    ("Silero VAD v5", (8,)),
    ("Silero VAD v4", (8,)),
    ("DTLN part 1", (5,)),
    ("DTLN part 2", (5,)),
    ("GTCRN, streaming, simplified", (4,)),
    ("byte sentence BiLSTM", (8, 12)),
    ("g2p_id encoder", (8,)),
    ("charlm lstm256", (12,)),
]
HEAD = """# The whole file

Files of published models, compressed by `dirnet compress --max-size` with default flags (`--scope all`), and with
`--scope recurrent` at the same size of file. The figures are those of the first output, by onnxruntime, on samples that the
tool was not calibrated on; *nmse* is the squared error over the variance of the original's output, *agreement* the share of
equal decisions (argmax over the last axis), where the output has several elements. *unreachable*: no plan makes so small a
file, and the smallest that can be made is named.

    python benches/experiments/whole_file.py --write

| model | file before | asked | file after | scope | nmse | snr dB | largest difference | agreement |
|---|---|---|---|---|---|---|---|---|
"""


def number(value, form):
    return "" if value is None or not math.isfinite(value) else format(value, form)


def row(model, times, scope, folder):
    before = catalogue.stored_bytes(model.path)
    out = folder / "small.onnx"
    out.unlink(missing_ok=True)
    size = ["--max-size", str(int(before / times)), "--scope", scope]
    run = catalogue.tool("compress", model.path, "-o", out, *size, *model.sample_arguments(), "--no-verify", "-q")
    head = f"| {model.name} | {before:,} | {times}x |"
    if run.code != 0:
        words = run.message.strip().splitlines()[-1]
        nearest = words.partition("the nearest is ")[2].partition(" bytes")[0]
        why = f"unreachable: {int(nearest):,}" if nearest.isdigit() else words
        return f"{head} {why} | {scope} | | | | |"
    after = catalogue.stored_bytes(out)
    original = judge.session(model.path)
    compared = judge.compare(original, judge.session(out), model.streams(original), model.carries)
    found = next(iter(compared.values())).figures()
    return (
        f"{head} {after:,} ({before / after:.2f}x) | {scope} | {number(found['nmse'], '.2e')} | {number(found['snr_db'], '.1f')} | "
        f"{number(found['max_abs'], '.2e')} | {number(found['agreement'], '.4f')} |"
    )


def main():
    names = [word for word in sys.argv[1:] if word != "--write"]
    models = {model.name: model for model in catalogue.read()[0]}
    page = HEAD
    with tempfile.TemporaryDirectory() as folder:
        for name, targets in TARGETS:
            if name not in models or names and not any(word in name for word in names):
                continue
            for times in targets:
                for scope in ("all", "recurrent"):
                    line = row(models[name], times, scope, Path(folder))
                    print(line, flush=True)
                    page += line + "\n"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=catalogue.PROJECT)
    page += f"\nMade by the build of commit {commit.stdout.strip()}, on {harness.processor()}.\n"
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
