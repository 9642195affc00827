"""What other tools make of our output: the conversion to .ort, onnxsim and onnxslim. Called by `optimisers`.

    optimisers.py [--write]      --write puts the tables into docs/deployment.md

Per tool and setting: whether the codes are still in the file, as the page says; and that what was written gives the values of the
file that dirnet wrote, in onnxruntime, and an .ort file also in Node and as WebAssembly. Ends with `N passed, N failed`.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import onnx

import catalogue
import generated
import judge
import matrix
import runtimes
from adapters import adapter

PAGE = catalogue.PROJECT / "docs" / "deployment.md"
BEGIN, END = "<!-- tests/runtimes/optimisers --write: {} -->", "<!-- end -->"
# Of the size of the file that dirnet wrote: what keeps the codes stays below the first (.ort stores the graph in more bytes than
# .onnx), what writes weights is above the second.
KEPT, DENSE = 1.3, 1.6
LEVELS = ("disable", "basic", "extended", "layout", "all")
STYLES = ("Fixed", "Runtime")
# Settings by what is written in the page, and whether they leave the codes in the file.
SETTINGS = {
    "onnxsim": False,
    "onnxsim --no-large-tensor 1KB": False,
    "onnxsim --skip-constant-folding": True,
    "onnxsim --initializers-as-non-constants": True,
    "onnxslim": False,
    "onnxslim --size-threshold 1024": True,
    "onnxslim --skip-optimizations constant_folding": True,
}
SECONDS = 1.0  # that a run is repeated for, to time it


@dataclass
class Result:
    """A form of a model as dirnet wrote it, beside the original."""

    case: matrix.Case
    form: str
    original: Path
    path: Path

    @property
    def title(self):
        return f"{self.case.name}, `{self.form}`"


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, detail=""):
        self.passed += bool(holds)
        self.failed += not holds
        if not holds:
            print(f"FAILED  {what}{': ' if detail else ''}{detail}", flush=True)

    def kept(self, what, result, written, keeps):
        times = written.stat().st_size / result.path.stat().st_size
        self.check(f"{what} {'keeps the codes' if keeps else 'writes dense weights'}", times < KEPT if keeps else times > DENSE, f"{times:.2f} times the file")

    def same(self, what, runtime, result, written):
        """In a runtime, what was written gives the values of the file that dirnet wrote."""
        ours, theirs = (runtimes.run(runtime, path, result.case.feeds) for path in (result.path, written))
        if ours.outputs is None or theirs.outputs is None:
            self.check(f"{what} runs in {runtime.name}", False, ours.words or theirs.words)
            return
        apart = max(matrix.distance(ours.outputs[name], theirs.outputs[name]) for name in ours.outputs)
        # With fewer optimisations, the products are summed in another order; forms that quantise round that.
        holds = apart <= matrix.TOLERANCE if result.form == "portable" else noise(ours, theirs) <= 10 ** (-matrix.SNR / 10)
        self.check(f"{what} gives the same values in {runtime.name}", holds, f"{apart:.1g} of the largest output")


def noise(ours, theirs):
    return max(matrix.noise(ours.outputs[name], theirs.outputs[name]) for name in ours.outputs)


# -- what is looked at -----------------------------------------------------------------------------------------------------


def results():
    """A language model with recurrent layers, a table and an output layer; recurrent layers alone, larger; and no recurrent layer."""
    charlm = [model for model in catalogue.read()[0] if model.name in ("charlm lstm256", "charlm gru256")]
    how = ["--sensitivity", "none", "--tune", "off"]  # what a result loses does not matter here
    cases = {model.name: matrix.catalogue_case(model, how) for model in charlm}
    for model in (generated.models()["LSTM-512, opset 17"], generated.LAYERS):
        cases[model.name] = matrix.generated_case(model)
    for case in cases.values():
        for form in case.forms:
            path, _, words = matrix.written(case, form)
            if words == matrix.STAYS_PORTABLE or form == "ort" and "gru" in case.name:
                continue  # GRU in the form `ort` is that of `fast`
            if words is not None:
                sys.exit(f"error: {case.name}, {form}: {words}")
            yield Result(case, form, case.path, path)


# -- .ort ------------------------------------------------------------------------------------------------------------------


def converted(model, level, style, folder):
    """The .ort file of a model, and the operators that a minimal build needs for it."""
    folder = folder / f"{level}-{style}-{model.parent.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = folder / "model.onnx"
    source.write_bytes(model.read_bytes())
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", source, "--optimization_style", style]
    environment = os.environ | {"ORT_CONVERT_ONNX_MODELS_TO_ORT_OPTIMIZATION_LEVEL": level}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    (written,), (config,) = folder.glob("*.ort"), folder.glob("*.config")
    return written, operators(config)


def operators(config):
    """Operators of a configuration of a minimal build, whose lines are `domain;opset;names`."""
    lines = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    return {f"{domain}:{name}".removeprefix("ai.onnx:") for domain, _, names in (l.split(";") for l in lines) for name in names.split(",")}


def milliseconds(path, feeds):
    """The fastest of the runs of a second: other work on the machine only makes runs slower."""
    session, feeds = judge.session(path), adapter.read(feeds)
    session.run(None, feeds)
    times, until = [], time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times) < 5:
        begin = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def kilobytes(size):
    return f"{size / 1000:,.0f}"


def deflated(path):
    """Bytes in a zip archive, such as an APK or IPA."""
    return len(zlib.compress(path.read_bytes(), 9))


def row(title, files, slower):
    """Of an .onnx file and its .ort files with the codes and without."""
    return [title, *(kilobytes(path.stat().st_size) for path in files), kilobytes(deflated(files[-1])), slower]


def ort_rows(checks, folder, asked):
    """The table of .ort files, and by form what operators they need that the original's do not."""
    rows, needed, known = [], {}, {}
    for result in asked:
        print(f".ort of {result.title}", file=sys.stderr, flush=True)
        if result.original not in known:
            of_level = {level: converted(result.original, level, "Fixed", folder / "original") for level in ("disable", "all")}
            known[result.original] = {level: used for level, (_, used) in of_level.items()}
            kept, dense = (of_level[level][0] for level in ("disable", "all"))
            rows.append(row(f"{result.case.name}, original", [result.original, kept, dense], ""))
        files = {}
        for level in LEVELS:
            for style in STYLES:
                written, used = converted(result.path, level, style, folder / matrix.slug(result.title))
                files[level, style] = written
                what = f".ort of {result.title}, {level}, {style}"
                checks.kept(what, result, written, keeps=level == "disable")
                for runtime in asked_runtimes() if style == "Fixed" and level in ("disable", "all") else [runtimes.RUNTIMES[0]]:
                    checks.same(what, runtime, result, written)
                if style == "Fixed" and level in ("disable", "all"):
                    new = used - known[result.original][level]
                    needed.setdefault((result.form, level), set()).update(new)
        sizes = [files[level, style].stat().st_size for level in LEVELS[1:] for style in STYLES]
        checks.check(f".ort of {result.title}: levels above disable and styles differ by less than 2 %", max(sizes) < 1.02 * min(sizes), sizes)
        said = catalogue.tool("inspect", files["all", "Fixed"], "-q").message
        checks.check(f"inspect names the format of {result.title}", "onnxruntime's own format (.ort)" in said, said)
        kept, dense = files["disable", "Fixed"], files["all", "Fixed"]
        slower = milliseconds(kept, result.case.feeds) / milliseconds(dense, result.case.feeds)
        rows.append(row(result.title, [result.path, kept, dense], f"{slower:.2g}"))
    return rows, needed


def asked_runtimes():
    return [r for r in runtimes.RUNTIMES if r.name in ("onnxruntime", "Node", "web") and r.there]


# -- optimisers ------------------------------------------------------------------------------------------------------------


def setting_rows(checks, folder, asked):
    asked = [result for result in asked if result.form == "portable"]
    rows = [["as dirnet wrote it", *(kilobytes(result.path.stat().st_size) for result in asked)]]
    for setting, keeps in SETTINGS.items():
        print(setting, file=sys.stderr, flush=True)
        program, *options = setting.split()
        cells = []
        for result in asked:
            written = folder / f"{matrix.slug(setting)}-{matrix.slug(result.title)}.onnx"
            command = [Path(sys.executable).parent / program, result.path, written, *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            what = f"{setting}, {result.title}"
            checks.check(f"{what}: writes a file", written.exists(), (done.stdout + done.stderr)[-200:])
            if not written.exists():
                cells.append("refused")
                continue
            onnx.checker.check_model(str(written))
            checks.kept(what, result, written, keeps)
            checks.same(what, runtimes.RUNTIMES[0], result, written)
            cells.append(f"{kilobytes(written.stat().st_size)}, {'codes' if keeps else 'dense'}")
        rows.append([f"`{setting}`", *cells])
    return ["", *(result.case.name for result in asked)], rows


# -- the page --------------------------------------------------------------------------------------------------------------


def table(head, rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] + ["--:"] * (len(head) - 1), *rows])


def listed(needed):
    forms = dict.fromkeys(form for form, _ in needed)
    lines = [
        f"- `{form}`, level `{level}`: {', '.join(f'`{name}`' for name in sorted(needed[form, level])) or 'none'}" for form in forms for level in ("all", "disable")
    ]
    return "\n".join(lines)


def put(page, part, text):
    """A page with the text between the marks of a part replaced."""
    before, mark, rest = page.partition(BEGIN.format(part))
    if not mark or END not in rest:
        sys.exit(f"error: {PAGE}: no marks of {part}")
    return f"{before}{mark}\n{text}\n{rest[rest.index(END):]}"


def main():
    checks = Checks()
    asked = list(results())
    with tempfile.TemporaryDirectory() as folder:
        rows, needed = ort_rows(checks, Path(folder), asked)
        head, settings = setting_rows(checks, Path(folder), asked)
    names = ["onnxruntime", "onnxsim", "onnxslim"]
    here = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    there = ", ".join(f"{r.package} {r.version}" for r in asked_runtimes()[1:])
    ort_head = ["kB", "`.onnx`", "`.ort`, level `disable`", "`.ort`, level `all`", "the latter in a zip archive", "time of a run, `disable` over `all`"]
    parts = {
        "ort": table(ort_head, rows),
        "operators": listed(needed),
        "optimisers": table(["kB", *head[1:]], settings),
        "versions": f"Measured with {here}{f'; the `.ort` files ran in {there}, too' if there else ''}.",
    }
    print("\n\n".join(parts.values()))
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text()
        for part, text in parts.items():
            page = put(page, part, text)
        PAGE.write_text(page)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
