"""How far two models are apart, by onnxruntime: a second opinion that shares no code with the tool.

    judge.py ORIGINAL COMPRESSED --samples holdout.npz [--stream IN=OUT[a:b] ...]

Prints JSON, per output: max_abs, nmse (mean squared error over the variance of the original output over all samples),
snr_db, agreement (equal argmax over the last axis), kl (mean over rows of the last axis, of the original from the other;
an output whose rows sum to 1 is taken as probabilities, any other as logits). A figure without meaning is null.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

import samples


def session(model, optimised=None):
    """An onnxruntime session as an application would make it: CPU, all optimisations, errors only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def outputs(running, streams, carries=()) -> Iterator[dict]:
    """Output name -> array of every step of every stream; the model feeds back its own states."""
    names = [output.name for output in running.get_outputs()]
    declared = {i.name: i for i in running.get_inputs()}
    for feeds in streams:
        states = {carry.target: samples.zeros(declared[carry.target]) for carry in carries}
        for feed in feeds:
            result = dict(zip(names, running.run(names, feed | states)))
            states = {carry.target: carry.take(result) for carry in carries}
            yield result


class Difference:
    """Sums over all steps of one output, from which the figures follow."""

    def __init__(self):
        self.count = self.rows = self.equal = self.divergent_rows = 0
        self.sum = self.squares = self.error = self.divergence = self.max_abs = self.peak = 0.0

    def add(self, original, other):
        if original.shape != other.shape:
            raise SystemExit(f"shapes differ: {original.shape} and {other.shape}")
        is_float = np.issubdtype(original.dtype, np.floating)
        a, b = original.astype(np.float64), other.astype(np.float64)
        self.count += a.size
        self.sum += a.sum()
        self.squares += (a**2).sum()
        self.error += ((a - b) ** 2).sum()
        # A NaN on one side only is infinitely far, on both sides it is equal.
        distance = np.where(np.isnan(a) & np.isnan(b), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
        self.max_abs = max(self.max_abs, distance.max(initial=0.0))
        self.peak = max(self.peak, np.abs(a).max(initial=0.0))
        if not is_float:
            self.rows += a.size
            self.equal += int((a == b).sum())
        elif a.ndim and a.shape[-1] > 1:
            p, q = _log_probabilities(a), _log_probabilities(b, like=a)
            self.rows += p[..., 0].size
            self.equal += int((a.argmax(-1) == b.argmax(-1)).sum())
            self.divergence += float((np.exp(p) * (p - q)).sum())
            self.divergent_rows += p[..., 0].size

    def figures(self):
        variance = self.squares / self.count - (self.sum / self.count) ** 2 if self.count else 0.0
        nmse = self.error / self.count / variance if variance > 0 else None
        return {
            "max_abs": self.max_abs,
            "rmse": (self.error / self.count) ** 0.5 if self.count else None,
            "nmse": nmse,
            "snr_db": 10 * float(np.log10(self.squares / self.error)) if self.error and self.squares else None,
            "agreement": self.equal / self.rows if self.rows else None,
            "kl": self.divergence / self.divergent_rows if self.divergent_rows else None,
        }

    def relative(self):
        """Largest difference over the largest magnitude of the original output."""
        return self.max_abs / self.peak if self.peak else self.max_abs


def _log_probabilities(values, like=None):
    reference = values if like is None else like
    if (reference >= 0).all() and np.allclose(reference.sum(-1), 1, atol=1e-3):
        return np.log(np.maximum(values, 1e-12))
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def compare(original, other, streams, carries=()):
    """Output name -> Difference of two sessions; outputs that are fed back are not judged."""
    fed_back = {carry.source for carry in carries}
    differences = {}
    for ours, theirs in zip(outputs(original, streams, carries), outputs(other, streams, carries)):
        for name in ours.keys() - fed_back:
            differences.setdefault(name, Difference()).add(ours[name], theirs[name])
    return dict(sorted(differences.items()))


def main():
    parser = argparse.ArgumentParser(description="How far two models are apart, by onnxruntime.")
    parser.add_argument("original", type=Path)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("--samples", nargs="+", required=True, metavar="PATH")
    parser.add_argument("--stream", nargs="+", default=[], metavar="IN=OUT[a:b]")
    arguments = parser.parse_args()
    carries = [samples.Carry.parse(text) for text in arguments.stream]
    original, compressed = session(arguments.original), session(arguments.compressed)
    streams = samples.load(arguments.samples, original.get_inputs(), carries)
    differences = compare(original, compressed, streams, carries)
    print(json.dumps({
        "original": {"bytes": arguments.original.stat().st_size},
        "compressed": {"bytes": arguments.compressed.stat().st_size},
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "steps": sum(len(feeds) for feeds in streams),
        "outputs": {name: difference.figures() for name, difference in differences.items()},
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
