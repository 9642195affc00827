"""Cross-entropy and divergence of the character models on the labelled holdout, by onnxruntime.

    judge_charlm.py ORIGINAL COMPRESSED [--holdout holdout.npz --labels holdout_labels.npz]

Prints JSON: nats a character of both models, their difference, and the mean KL of the original's prediction from the
compressed one's, over every character of the holdout. Shares no code with the tool.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import harness  # noqa: F401

from catalogue import FIXTURES
from judge import session

CHARLM = FIXTURES / "charlm"


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def judge(original, compressed, tokens, labels):
    """Figures over tokens and labels, both [samples, seq, batch]."""
    sessions = [session(original), session(compressed)]
    entropies, divergence = [0.0, 0.0], 0.0
    for sample, label in zip(tokens, labels, strict=True):
        p, q = (log_softmax(running.run(["logits"], {"tokens": sample})[0]) for running in sessions)
        for index, prediction in enumerate((p, q)):
            entropies[index] -= np.take_along_axis(prediction, label[..., None], -1).sum()
        divergence += (np.exp(p) * (p - q)).sum()
    before, after = (float(entropy) / labels.size for entropy in entropies)
    return {
        "characters": labels.size,
        "cross_entropy_original": before,
        "cross_entropy_compressed": after,
        "increase": after - before,
        "kl": float(divergence) / labels.size,
    }


def main():
    parser = argparse.ArgumentParser(description="Cross-entropy in nats a character on the labelled holdout.")
    parser.add_argument("original", type=Path)
    parser.add_argument("compressed", type=Path)
    parser.add_argument("--holdout", type=Path, default=CHARLM / "holdout.npz")
    parser.add_argument("--labels", type=Path, default=CHARLM / "holdout_labels.npz")
    arguments = parser.parse_args()
    tokens, labels = np.load(arguments.holdout)["tokens"], np.load(arguments.labels)["logits"]
    sizes = {"bytes_original": arguments.original.stat().st_size, "bytes_compressed": arguments.compressed.stat().st_size}
    print(json.dumps(sizes | judge(arguments.original, arguments.compressed, tokens, labels), indent=1))


if __name__ == "__main__":
    main()
