"""Writes docs/runtimes.md: what every runtime made of every model. Called by `runtimes`, after `tests/runtimes/matrix`.

Only what was run before with this build of the tool is in the page, which says what is not.
"""

import os
import platform
from collections import defaultdict

import harness

import catalogue
import matrix
from matrix import ALIKE, HALF, HOW, NOT_RUN, SNR, STEP, TOLERANCE, Outcome, told

PAGE = catalogue.PROJECT / "docs" / "runtimes.md"

HEAD = """# Runtimes

What other people's runtimes make of the files that `dirnet compress` writes. Every model is compressed, then expanded again by
`dirnet expand`; both files hold the same weights, and both are run in each runtime on the same inputs. What is compared is the values of
all outputs. Made by `benches/experiments/runtimes`
of what `tests/runtimes/matrix` ran; do not edit.

- ✓ the values are those of the dense model: to {tolerance:g} of the largest output in the portable form (float16: {half:.1g}). The other
  forms quantise activations to eight bits: they pass where the outputs are {snr} dB above their differences from the dense model's in the same runtime
- – the runtime does not run the dense model either
- ✗ the runtime runs the dense model, but not the compressed one, or gets other values. Of the fast form and that for onnxruntime this
  is to be expected wherever an operator is missing: they are for those who run onnxruntime

Of a model that is fed step by step, step {step} of its stream was run. ncnn is fed by pnnx, MNN by its converter; *web* is
onnxruntime-web in Node, *Chromium* the same in a page, tried on a few; *reference* is ONNX's ReferenceEvaluator, *checker* `onnx.checker` with
shape inference, which computes nothing.
"""


def table(head, rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] + [":-:"] * (len(head) - 1), *rows])


def form_section(form, cases, ran):
    title = {"portable": "Portable form", "fast": "Fast form, `--form fast`", "ort": "onnxruntime's form, `--form ort`"}[form]
    rows = []
    for case in cases:
        if any((form, runtime.name) in case.cells for runtime in ran):
            rows.append([case.name, *(case.cells.get((form, runtime.name), NOT_RUN).outcome.value for runtime in ran)])
    if not rows:
        return ""
    worst = max((c.cells[form, r.name].difference for c in cases for r in ran if passed(c, form, r)), default=0.0)
    exact = sum(c.cells[form, r.name].difference == 0 for c in cases for r in ran if passed(c, form, r))
    count = sum(passed(c, form, r) for c in cases for r in ran)
    said = f"{count} runs give the values of the dense model; the largest difference is {told(form, worst)}."
    if form == "portable":
        said = said.replace(";", f", {exact} of them to the bit;")
    parts = [f"## {title}", said, table(["model", *(runtime.name for runtime in ran)], rows), exceptions(form, cases, ran)]
    if refused := [f"- {case.name}: {case.refused[form]}" for case in cases if form in case.refused]:
        parts.append("Not written by the tool:\n\n" + "\n".join(refused))
    return "\n\n".join(filter(None, parts)) + "\n"


def passed(case, form, runtime):
    cell = case.cells.get((form, runtime.name))
    return cell is not None and cell.outcome is Outcome.PASSED


def exceptions(form, cases, ran):
    """The runtimes' own words, each once, with the models that they are about."""
    notes = {"✗": defaultdict(list), "–": defaultdict(list), "only": defaultdict(list), "unlike": defaultdict(list)}
    for case in cases:
        for runtime in ran:
            cell = case.cells.get((form, runtime.name), NOT_RUN)
            if cell.outcome in (Outcome.FAILED, Outcome.DENSE_TOO):
                notes[cell.outcome.value][runtime.name, general(cell.words)].append(case.name)
            elif cell.words:
                notes["only"][runtime.name, general(cell.words)].append(case.name)
            elif cell.unlike > ALIKE:
                notes["unlike"][runtime.name, ""].append(case.name)
    heads = {
        "✗": "### ✗",
        "–": "### – in the runtime's own words",
        "only": "### Only the compressed model is right",
        "unlike": f"### Both alike, but unlike onnxruntime by more than {ALIKE:g}",
    }
    parts = []
    for kind, found in notes.items():
        lines = [
            f"- **{name}**{': `' + words.replace('`', chr(39)) + '`' if words else ''}: {'; '.join(models)}"
            for (name, words), models in found.items()
        ]
        if lines:
            parts.append("\n\n".join([heads[kind], "\n".join(lines)]))
    return "\n\n".join(parts)


def general(words):
    """Words that differ only in where they were said are the same."""
    return " ".join(words.split())[:210]


def page(cases, ran, absent, left_out):
    versions = "; ".join(f"{runtime.name}: {runtime.package} {runtime.version}" for runtime in ran)
    made = f"Made on {harness.processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, with: {versions}."
    missing = f"\nNot there when this was made: {', '.join(absent)}." if absent else ""
    missing += f"\nNot run when this was made: {'; '.join(left_out)}." if left_out else ""
    head = HEAD.format(tolerance=TOLERANCE, half=HALF, snr=SNR, step=STEP)
    sections = ["", *filter(None, (form_section(form, cases, ran) for form in HOW))]
    PAGE.write_text("\n".join([head, made, missing, *sections]))


def main():
    cases, ran, absent, left_out = matrix.prepared()
    for form in HOW:
        for case in cases:
            if form not in case.forms:
                continue
            if matrix.was_run(case, form, ran):
                matrix.fill(case, form, ran)
            else:
                left_out.append(f"{case.name}, {form}")
    page(cases, ran, absent, left_out)


if __name__ == "__main__":
    main()
