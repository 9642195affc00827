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
    """What outputs differ by: at most, over the largest output, and in energy."""

    largest: float
    noise: float

    @classmethod
    def of(cls, ours, theirs):
        pairs = [(ours[name], theirs[name]) for name in ours]
        return cls(*(max(measure(a, b) for a, b in pairs) for measure in (matrix.distance, matrix.noise)))


@dataclass(frozen=True)
class Row:
    """One form of one model: what the original and the result differ by between the processors, or why they were not compared.

    A result may differ as much as the tolerance of its form allows. Beyond that, it may differ twice as much as the original does;
    and a form that quantises activations as much as, on this processor, from the dense model with the same weights.
    """

    name: str
    form: str
    original: Apart | None = None
    result: Apart | None = None
    quantised: Apart | None = None
    words: str = ""

    @property
    def is_refused_form(self):
        """A form that the tool does not write need not run."""
        return self.form != "portable" and self.result is None and self.words.startswith("error: ")

    @property
    def failed(self):
        if self.result is None:
            return True
        if self.quantised is None:
            return not self.result.largest <= max(matrix.TOLERANCE, 2 * self.original.largest)
        return not self.result.noise <= max(10 ** (-matrix.SNR / 10), self.quantised.noise)

    @property
    def told(self):
        if self.result is None:
            return self.words
        if self.quantised is None:
            return f"{self.result.largest:.1g}"
        return f"{self.result.largest:.1g}, {matrix.told(self.form, self.result.noise)}"


class Refused(Exception):
    """A runtime's words on a model that it does not run."""


def outputs(runtime, model, feeds):
    ran = runtimes.run(runtime, model, feeds)
    if ran.outputs is None:
        raise Refused(f"{runtime.name}: {ran.words}")
    return ran.outputs


def apart(model, feeds):
    """What the outputs of a model differ by between the processors."""
    here, there = (outputs(runtime, model, feeds) for runtime in (X86, ARM))
    if here.keys() != there.keys():
        raise Refused(f"outputs are {sorted(there)}, on x86-64 {sorted(here)}")
    return Apart.of(here, there)


def judged(case, form):
    """The row of a form; None where all nodes of the model stay portable."""
    compressed, words = matrix.compressed(case, form)
    dense = None
    if words is None and form != "portable":
        _, dense, words = matrix.written(case, form)
    if words == matrix.STAYS_PORTABLE:
        return None
    if words is not None:
        return Row(case.name, form, words=words)
    try:
        quantised = dense and Apart.of(*(outputs(X86, model, case.feeds) for model in (dense, compressed)))
        return Row(case.name, form, apart(case.path, case.feeds), apart(compressed, case.feeds), quantised)
    except Refused as error:
        return Row(case.name, form, words=str(error))


def rows(names=()):
    for case in cases(names):
        yield from filter(None, (judged(case, form) for form in case.forms))


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
    passed = failed = 0
    for row in rows(sys.argv[1:]):
        if row.is_refused_form:
            print(f"not written: {row.name}, {row.form}: {row.words}", flush=True)
            continue
        failed += row.failed
        passed += not row.failed
        if row.failed:
            print(f"FAILED  {row.name}, {row.form}: {row.told}{'' if row.original is None else f', the original {row.original.largest:.1g}'}", flush=True)
        else:
            print(f"{row.name}, {row.form}: {row.told}", file=sys.stderr, flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
