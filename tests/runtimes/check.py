"""What must hold of every file that the tool writes, by onnx.checker and onnxruntime: of the models of models.toml and of
RNN nodes made here. Called by `run`.

Per model: the checker and onnxruntime accept the result if they accept the original; compressed and expanded give the same
outputs to 1e-5 of the output's magnitude; onnxruntime folds the decoding away, so that its optimised graph has the operators
of the original's; the bytes that the report counts are those on disk. Ends with `N passed, N failed`.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx

import catalogue
import generated
import judge

EQUAL = 1e-5


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, model, what, holds, detail=""):
        self.passed += bool(holds)
        self.failed += not holds
        if not holds:
            print(f"FAILED  {model}: {what}{': ' if detail else ''}{detail}", flush=True)


def operators(path):
    """How many nodes of each type a model has, bodies included."""
    count = Counter()
    graphs = [onnx.load(path, load_external_data=False).graph]
    while graphs:
        for node in graphs.pop().node:
            count[node.domain, node.op_type] += 1
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
    return count


def checker(path):
    """None where onnx.checker accepts the model, else its words."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises a different type for each of its passes
        return str(error).strip().splitlines()[0][:160]


def check_written(tally, model, folder, report):
    """A compressed model against its original and against its expanded form."""
    compressed, expanded = folder / "compressed.onnx", folder / "expanded.onnx"

    if checker(model.path) is None:
        for path in (compressed, expanded):
            words = checker(path)
            tally.check(model.name, f"onnx.checker accepts the {path.stem} model", words is None, words)

    before, after = catalogue.stored_bytes(model.path), catalogue.stored_bytes(compressed)
    counted, recurrent = report["model"], report["recurrent"]
    tally.check(model.name, "the report's file sizes are those on disk",
                (counted["bytes_before"], counted["bytes_after"]) == (before, after), f"{counted} but {before} {after}")  # fmt: skip
    # Copies of weights and a generated DFT basis are counted by both.
    saved = recurrent["bytes_before"] - recurrent["bytes_after"] + sum(step["bytes"] for step in report["lossless"])
    tally.check(model.name, "what the parts save is what the file saves", saved >= before - after, f"{saved} but {before - after}")
    tally.check(model.name, f"the ratio is at least {model.ratio}", recurrent["ratio"] >= model.ratio, recurrent["ratio"])

    original, words = catalogue.open_or_reason(model.path, folder / "original.optimised.onnx")
    if original is None:
        print(f"skipped {model.name}: the original is refused, {words}")
        return
    ours, words = catalogue.open_or_reason(compressed, folder / "compressed.optimised.onnx")
    tally.check(model.name, "onnxruntime loads the compressed model", ours is not None, words)
    dense, words = catalogue.open_or_reason(expanded)
    tally.check(model.name, "onnxruntime loads the expanded model", dense is not None, words)
    if ours is None or dense is None:
        return

    had, has = (operators(folder / f"{which}.optimised.onnx") for which in ("original", "compressed"))
    # What is stored twice is computed once: some operators are fewer.
    changed = {op: (had[op], has[op]) for op in had | has if had[op] < has[op]}
    tally.check(model.name, "the decoding is folded away", not changed, f"(before, after): {changed}")

    differences = judge.compare(dense, ours, model.streams(original), model.carries)
    worst = max(difference.relative() for difference in differences.values())
    tally.check(model.name, f"compressed equals expanded to {EQUAL:g}", worst <= EQUAL, f"{worst:.2g}")


def check(tally, model, arguments):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        out = folder / "compressed.onnx"
        # The ratios and outcomes of models.toml are those of recurrent layers; their decoding is folded, tables are looked up in codes.
        run = catalogue.compress(model, out, "--no-verify", "--scope", "recurrent", *arguments, report=folder / "report.json")
        if model.outcome in ("nothing to compress", "too small"):
            tally.check(model.name, "exits 1 and writes nothing", run.code == 1 and not out.exists(), f"{run.code} {run.message}")
            return
        tally.check(model.name, "compresses", run.code == 0, f"exit {run.code}: {run.message[-300:]}")
        if run.code != 0:
            return
        expanded = catalogue.expand(out, folder / "expanded.onnx")
        tally.check(model.name, "expands", expanded.code == 0, f"exit {expanded.code}: {expanded.message[-300:]}")
        if expanded.code == 0:
            check_written(tally, model, folder, run.report)


def main():
    fast = "--fast" in sys.argv[1:]
    models, absent = catalogue.read(fast, [word for word in sys.argv[1:] if word != "--fast"])
    if absent:
        print(f"skipped {len(absent)} models that are not in DIRNET_MODELS ({catalogue.MODELS}): {', '.join(absent)}")
    tally = Tally()
    for model in models:
        print(f"checking {model.name}", file=sys.stderr, flush=True)
        check(tally, model, model.fast_arguments if fast else [])
    with tempfile.TemporaryDirectory() as folder:
        for number, made in enumerate(generated.RNN):
            path = Path(folder) / f"{number}.onnx"
            generated.write(made, path)
            entry = {"name": made.name, "file": str(path), "origin": "generated", "ratio": made.ratio}
            print(f"checking {made.name}", file=sys.stderr, flush=True)
            check(tally, catalogue.Model.of(entry), [])
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
