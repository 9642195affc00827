"""Results on Arm: original and result give on aarch64 what they give on x86-64, in the same onnxruntime. Called by `aarch64`.

    aarch64.py [NAME...]     all models, or those with NAME in their name

aarch64 is emulated by qemu, so that values are judged and times are not. A model is compressed in every form; what its outputs
differ by from one processor to the other is compared with the tolerance of the form, as in `matrix`: the largest difference in the
portable form; the signal-to-noise ratio in those that quantise activations, where the last bit of a sum decides how an activation
is rounded. Every run is kept, as those of `matrix`. Ends with `N passed, N failed`.
"""

import os
import sys
from dataclasses import dataclass

import catalogue
import generated
import matrix
import runtimes

X86 = next(runtime for runtime in runtimes.RUNTIMES if runtime.name == "onnxruntime 1.17")
ARM = runtimes.AARCH64
# Of the models that are made: every direction and body, both places of the reset gate, and one of each operator large enough
# that onnxruntime takes other kernels. 1.17 knows no opset after 20.
MADE = [
    "LSTM-64 in Loop, opset 11", "GRU-64 in Scan, opset 17", "LSTM-64 in If, opset 11", "LSTM-128 bidirectional, opset 17",
    "GRU-128 bidirectional, opset 17", "LSTM-128 reverse, opset 17", "GRU-128 (linear_before_reset=0), opset 17",
    "LSTM-512, opset 17", "GRU-512, opset 17",
]  # fmt: skip


# What a result loses does not matter here.
HOW = ["--sensitivity", "none", "--tune", "off"]


@dataclass(frozen=True)
class Apart:
    """What the outputs of a model differ by between the processors: at most, over the largest output, and in energy."""

    largest: float
    noise: float

    def holds(self, form):
        return self.largest <= matrix.TOLERANCE if form == "portable" else self.noise <= 10 ** (-matrix.SNR / 10)

    def told(self, form):
        snr = "" if form == "portable" else f", signal-to-noise ratio {matrix.told(form, self.noise)}"
        return f"{self.largest:.1g} of the largest output{snr}"


@dataclass(frozen=True)
class Row:
    """One form of one model, and the original model; or why they were not compared."""

    name: str
    form: str
    original: Apart | None = None
    result: Apart | None = None
    words: str = ""

    @property
    def failed(self):
        return self.result is None or not self.result.holds(self.form)

    @property
    def told(self):
        return self.words or f"{self.result.told(self.form)}; the original {self.original.largest:.1g}"


class Refused(Exception):
    """A runtime's words on a model that it does not run."""


def apart(model, feeds):
    """What the outputs of a model differ by between the processors."""
    here, there = (runtimes.run(runtime, model, feeds) for runtime in (X86, ARM))
    for runtime, ran in ((X86, here), (ARM, there)):
        if ran.outputs is None:
            raise Refused(f"{runtime.name}: {ran.words}")
    if here.outputs.keys() != there.outputs.keys():
        raise Refused(f"outputs are {sorted(there.outputs)}, on x86-64 {sorted(here.outputs)}")
    pairs = [(here.outputs[name], there.outputs[name]) for name in here.outputs]
    return Apart(*(max(measure(a, b) for a, b in pairs) for measure in (matrix.distance, matrix.noise)))


def judged(case, form):
    """The row of a form; None where all nodes of the model stay portable."""
    compressed, _, words = matrix.written(case, form)
    if words == matrix.STAYS_PORTABLE:
        return None
    if words is not None:
        return Row(case.name, form, words=words)
    try:
        return Row(case.name, form, apart(case.path, case.feeds), apart(compressed, case.feeds))
    except Refused as error:
        return Row(case.name, form, words=str(error))


def cases(names):
    here, away = catalogue.read()
    if away and "DIRNET_MODELS" in os.environ:
        sys.exit(f"error: not in DIRNET_MODELS ({catalogue.MODELS}): {', '.join(away)}")
    if away:
        print(f"skipped {len(away)} models that are not in {catalogue.MODELS}; DIRNET_MODELS names their folder")
    made = generated.models()
    found = [matrix.generated_case(made[name]) for name in MADE] + [matrix.generated_case(generated.LAYERS)]
    found += [matrix.catalogue_case(model, HOW) for model in here if model.outcome == "compressed"]
    return [case for case in found if not names or any(name in case.name for name in names)]


def main():
    rows = []
    for case in cases(sys.argv[1:]):
        for form in case.forms:
            row = judged(case, form)
            if row is None:
                continue
            rows.append(row)
            if row.failed:
                print(f"FAILED  {row.name}, {form}: {row.told}", flush=True)
            else:
                print(f"{row.name}, {form}: {row.told}", file=sys.stderr, flush=True)
    failed = sum(row.failed for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
