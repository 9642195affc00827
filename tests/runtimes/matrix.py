"""Every model in every runtime, compressed against dense: values, not mere loading. Called by `matrix`.

    matrix.py [--fast] [NAME...]     all models, a few, or those with NAME in their name

A model is compressed in every form, then expanded: the dense model that is compared with has the same weights, to the bit. Both
are run on the same feed in the same runtime. Ends with `N passed, N failed`; what a runtime
does not do with the dense model either does not count. Every run is kept, so that a matrix that was stopped goes on where it was.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np
import onnx

import catalogue
import generated
import judge
import runtimes
from adapters import adapter

CASES = runtimes.HOME / "cases"
STEP = 20  # of a stream: far enough that the states are not zero
# Largest difference from the dense model, over its largest output; where outputs are float16, one unit in their last place, for
# some runtimes compute in float32 what is declared float16, and so do not round the weights.
TOLERANCE, HALF = 1e-5, float(np.finfo(np.float16).eps)
# Decibels of the dense model's outputs over the differences from them, in forms that quantise activations. An operator that is
# computed wrongly (a zero point left out, sums that saturate) leaves less than 20, eight bits leave 35 and more.
SNR = 30
# Beyond this, a runtime computes something else from the dense model than onnxruntime does.
ALIKE = 1e-2
# The models of --fast, and those that slow runtimes are tried on.
FEW = ["GRU-64, opset 21", "LSTM-128 bidirectional, opset 17", "LSTM-64 in If, opset 11", "charlm gru256"]
# Models that are tried with projection dictionaries too.
PROJECTED = ["charlm lstm256", "charlm gru256", "byte sentence BiLSTM"]
WORKERS = 2
# Why there is no other form of a model.
STAYS_PORTABLE = "all nodes stay portable"


# How the tool is told, whatever the hidden size.
HOW = {form: ["--form", form, "--form-from", "1"] if form != "portable" else [] for form in ("portable", "fast", "ort")}


class Outcome(Enum):
    PASSED = "✓"
    FAILED = "✗"
    DENSE_TOO = "–"
    NOT_RUN = ""


@dataclass(frozen=True)
class Cell:
    """What one runtime made of one form of one model."""

    outcome: Outcome
    words: str = ""
    difference: float = 0.0
    unlike: float = 0.0  # of the dense model's outputs, from onnxruntime's


NOT_RUN = Cell(Outcome.NOT_RUN)


@dataclass
class Case:
    """A model, what it is fed, and the arguments that it is compressed with."""

    name: str
    path: Path
    feeds: Path
    arguments: list[str]
    forms: tuple[str, ...] = ("portable",)
    cells: dict = field(default_factory=dict)  # (form, runtime name) -> Cell
    refused: dict = field(default_factory=dict)  # form -> why the tool wrote no model

    @property
    def folder(self):
        return self.path.parent if self.path.is_relative_to(CASES) else CASES / slug(self.name)


def slug(name):
    return "".join(c if c.isalnum() or c in "=-" else "_" for c in name)


def forms(hidden):
    return tuple(HOW) if hidden >= 128 else ("portable",)


# -- cases -----------------------------------------------------------------------------------------------------------------


def generated_case(model):
    folder = CASES / slug(model.name)
    folder.mkdir(parents=True, exist_ok=True)
    path, feeds = folder / "model.onnx", folder / "feeds.safetensors"
    generated.write(model, path)
    adapter.write(feeds, model.feeds())
    return Case(model.name, path, feeds, [*model.arguments, "--sensitivity", "none"], forms(model.hidden))


def catalogue_case(model, how=None):
    """`how`: what the tool is told besides the ratio and the samples, if it does not matter how good the result is."""
    folder = CASES / slug(model.name)
    folder.mkdir(parents=True, exist_ok=True)
    feeds = folder / "feeds.safetensors"
    adapter.write(feeds, feed(model))
    # Local sensitivities give budgets of many kinds, soon; the models that have arguments of their own are tuned.
    how = how or model.fast_arguments or ["--sensitivity", "local" if model.calibration else "none", "--tune", "off"]
    return Case(model.name, model.path, feeds, ["--ratio", f"{model.ratio:g}", *model.sample_arguments(), *how], forms(256))


def projected(case):
    arguments = [*case.arguments, "--codec", "projection"]
    case = replace(case, name=f"{case.name}, projection", arguments=arguments, forms=("portable",), cells={}, refused={})
    case.folder.mkdir(parents=True, exist_ok=True)
    return case


def feed(model):
    """One feed of a model: a sample, or of a stream the step `STEP` with its states."""
    session = judge.session(model.path)
    stream = next(iter(model.streams(session)))[:STEP]
    names = [output.name for output in session.get_outputs()]
    declared = {i.name: i for i in session.get_inputs()}
    states = {carry.target: catalogue.samples.zeros(declared[carry.target]) for carry in model.carries}
    for step in stream[:-1]:
        result = dict(zip(names, session.run(names, step | states)))
        states = {carry.target: carry.take(result) for carry in model.carries}
    # Some runtimes tell [1] from a scalar, samples do not.
    shape = {i.name: () if not i.shape else None for i in session.get_inputs()}
    values = {name: np.asarray(value) for name, value in (stream[-1] | states).items()}
    return {name: np.array(v.reshape(shape[name]) if shape[name] is not None else v, order="C") for name, v in values.items()}


def paths(case, form):
    """Where the compressed model and the dense one that is expanded from it are, and what makes them with this build of the tool."""
    how = [*case.arguments, *HOW[form]]
    key = hashlib.sha256(repr([TOOL, how, case.path.read_bytes()]).encode()).hexdigest()[:16]
    return case.folder / f"{form}-{key}.onnx", case.folder / f"{form}-{key}.dense.onnx", how


def compressed(case, form):
    """The compressed model, made once for a build of the tool; or the tool's words."""
    small, _, how = paths(case, form)
    if not small.exists():
        run = catalogue.tool("compress", case.path, "-o", small, "--no-verify", "-q", *how)
        if run.code != 0:
            return None, runtimes.plain(run.message)
    if form != "portable" and not has_form(small):
        return None, STAYS_PORTABLE
    return small, None


def written(case, form):
    """The compressed model and the dense one that is expanded from it; or the tool's words."""
    small, words = compressed(case, form)
    if words is not None:
        return None, None, words
    dense = paths(case, form)[1]
    if not dense.exists():
        run = catalogue.expand(small, dense)
        if run.code != 0:
            return None, None, runtimes.plain(run.message)
    return small, dense, None


def has_form(path):
    """Whether a node of a model was replaced. (A Scan of the model's own has no note.)"""
    graphs = [onnx.load(path, load_external_data=False).graph]
    while graphs:
        for node in graphs.pop().node:
            if node.op_type == "DynamicQuantizeLSTM" or node.op_type == "Scan" and "dirnet" in node.doc_string:
                return True
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
    return False


# -- comparison ------------------------------------------------------------------------------------------------------------


def distance(a, b):
    """Largest difference of two arrays over the largest value of the first; NaN on both sides is equal."""
    if a.size != b.size:
        return np.inf
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    apart = np.where((np.isnan(a) & np.isnan(b)) | (a == b), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
    peak = np.nan_to_num(np.abs(a)).max(initial=0.0)
    return apart.max(initial=0.0) / (peak or 1.0)


def noise(a, b):
    """Energy of the difference of two arrays over that of the first."""
    if a.size != b.size:
        return np.inf
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    error, energy = ((a - b) ** 2).sum(), (a**2).sum()
    return error / energy if energy else error


def judged(form, dense, ours, known):
    """`known`: what onnxruntime computes from the dense model."""
    if ours.outputs is None:
        return Cell(Outcome.DENSE_TOO if dense.outputs is None else Outcome.FAILED, ours.words)
    if dense.outputs is None:
        return Cell(Outcome.PASSED, f"the dense model is refused: {dense.words}")
    if dense.outputs.keys() != ours.outputs.keys():
        return Cell(Outcome.FAILED, f"outputs are {sorted(ours.outputs)}, of the dense model {sorted(dense.outputs)}")
    half = known is not None and any(value.dtype == np.float16 for value in known.values())
    measure, bound = (distance, HALF if half else TOLERANCE) if form == "portable" else (noise, 10 ** (-SNR / 10))
    difference = max((measure(dense.outputs[name], ours.outputs[name]) for name in dense.outputs), default=0.0)
    elsewhere = max((distance(a, b) for a, b in zip(known.values(), dense.outputs.values())), default=0.0) if known else 0.0
    if not difference <= bound and elsewhere > ALIKE:
        # The dense model is computed otherwise than in onnxruntime: the other form may be right alone.
        right = max((measure(a, b) for a, b in zip(known.values(), ours.outputs.values())), default=0.0)
        if right <= bound:
            return Cell(Outcome.PASSED, "the dense model gives other values than in onnxruntime", right)
    if not difference <= bound:
        off = f"values differ by {told(form, difference)}" if form == "portable" else f"signal-to-noise ratio {told(form, difference)}"
        return Cell(Outcome.FAILED, off, difference)
    return Cell(Outcome.PASSED, "", difference, elsewhere)


def told(form, difference):
    """A difference in words."""
    if form == "portable":
        return f"{difference:.1g} of the largest output"
    return f"{-10 * np.log10(difference):.0f} dB" if difference > 0 else "infinite"


def asked_of(case, ran):
    return [runtime for runtime in ran if not runtime.few or case.name in FEW]


def was_run(case, form, ran):
    """Whether everything is known of a form of a case."""
    models, asked = paths(case, form)[:2], asked_of(case, ran)
    if form != "portable" and models[0].exists() and not has_form(models[0]):
        return True  # there is nothing to run
    return all(model.exists() and all(runtimes.is_kept(r, model, case.feeds) for r in asked) for model in models)


def is_counted(form, runtime):
    """A form for onnxruntime need not run elsewhere; the portable one must."""
    return form == "portable" or runtime in ("onnxruntime", "onnxruntime 1.17", "Node", "web", "Chromium")


def fill(case, form, ran):
    compressed, dense, words = written(case, form)
    if words is not None:
        case.refused[form] = words
        print(f"{case.name}, {form}: not written: {words}", flush=True)
        return
    known = runtimes.run(runtimes.RUNTIMES[0], dense, case.feeds).outputs

    def cell(runtime):
        both = [runtimes.run(runtime, model, case.feeds) for model in (dense, compressed)]
        return judged(form, *both, known)

    asked = asked_of(case, ran)
    with ThreadPoolExecutor(WORKERS) as pool:
        for runtime, made in zip(asked, pool.map(cell, asked)):
            case.cells[form, runtime.name] = made
            if made.outcome is Outcome.FAILED and is_counted(form, runtime.name):
                print(f"FAILED  {case.name}, {form}, {runtime.name}: {made.words}", flush=True)
    marks = " ".join(f"{runtime.name} {case.cells[form, runtime.name].outcome.value}" for runtime in asked)
    print(f"{case.name}, {form}: {marks}", file=sys.stderr, flush=True)


def prepared(fast=False, names=()):
    """The cases that are asked for, the runtimes that are here and those that are not, and models that are not there."""
    here, away = catalogue.read()
    makers = {model.name: lambda m=model: catalogue_case(m) for model in here if model.outcome == "compressed"}
    makers |= {name: lambda m=model: generated_case(m) for name, model in generated.models().items()}
    makers |= {f"{name}, projection": lambda n=name: projected(makers[n]()) for name in PROJECTED if name in makers}
    wanted = [name for name in makers if (name in FEW if fast else not names or any(word in name for word in names))]
    asked = [runtime for runtime in runtimes.RUNTIMES if not (fast and runtime.few)]
    ran = [runtime for runtime in asked if runtime.there]
    absent = [runtime.name for runtime in asked if not runtime.there]
    return [makers[name]() for name in wanted], ran, absent, away


def main():
    fast = "--fast" in sys.argv[1:]
    cases, ran, absent, _ = prepared(fast, [word for word in sys.argv[1:] if word != "--fast"])
    if absent:
        print(f"skipped: {', '.join(absent)} cannot be had here")
    # The portable form of all models first: it is the one that must run everywhere.
    for form in HOW:
        for case in cases:
            if form in case.forms:
                fill(case, form, ran)
    counted = [cell for case in cases for key, cell in case.cells.items() if is_counted(*key)]
    failed = sum(cell.outcome is Outcome.FAILED for cell in counted) + sum("portable" in case.refused for case in cases)
    print(f"{sum(cell.outcome is Outcome.PASSED for cell in counted)} passed, {failed} failed")
    sys.exit(1 if failed else 0)


TOOL = hashlib.sha256(catalogue.BINARY.read_bytes()).hexdigest()

if __name__ == "__main__":
    main()
