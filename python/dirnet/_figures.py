"""How far apart the outputs of two models are: the figures of the command, in NumPy.

The definitions are those of ``src/loss/mod.rs``, and a test holds both against each other. With ``y`` the original's output and
``z`` the other's, over all elements of all samples:

- ``max_abs = max |y - z|``, ``rmse = sqrt(mean (y - z)^2)``
- ``nmse = sum (y - z)^2 / sum (y - mean y)^2``
- ``snr_db = 10 log10(sum y^2 / sum (y - z)^2)``
- ``cosine = sum y z / sqrt(sum y^2 sum z^2)``
- ``agreement``: the share of rows with the same largest class; of integers, the share of equal elements
- ``kl``: the mean over the rows of ``sum p ln(p / q)``, in nats

Elements that are not finite in either are counted and are in no figure; a row that holds NaN decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import InputError

Array = npt.NDArray[Any]

#: The smallest probability that is told from zero: the smallest normal single.
LEAST = float(np.finfo(np.float32).tiny)

#: What an output is judged by.
LOSSES = ("nmse", "kl", "disagreement", "cross-entropy")


@dataclass(frozen=True)
class Judged:
    """An output that is compared."""

    name: str
    #: ``values``, ``probabilities`` (of a Softmax), ``log-probabilities`` or ``discrete``.
    content: str
    #: The axis of the classes; with ``joined``, the classes are those of this axis and all behind it.
    axis: int
    joined: bool
    loss: str
    #: Whether the divergence is measured.
    kl: bool
    #: Whether it depends on what differs between the models.
    reached: bool

    def rows(self, values: Array) -> Array | None:
        """The values as rows of classes; ``None`` if there are no two classes."""
        axis = self.axis + values.ndim if self.axis < 0 else self.axis
        if self.joined and 0 <= axis <= values.ndim:
            outer = math.prod(values.shape[:axis])
            values = values.reshape(outer, math.prod(values.shape[axis:]))
            axis = 1
        if not 0 <= axis < values.ndim or values.shape[axis] < 2:
            return None
        return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])

    def log_probabilities(self, rows: Array) -> Array:
        """The logarithms of the probabilities of each class."""
        least = math.log(LEAST)
        if self.content == "probabilities":
            logs: Array = np.log(np.maximum(rows, LEAST))
            return logs
        if self.content == "log-probabilities":
            logs = np.maximum(rows, least)
            return logs
        largest = rows.max(axis=-1, keepdims=True)
        shift = largest + np.log(np.exp(rows - largest).sum(axis=-1, keepdims=True))
        logs = np.maximum(rows - shift, least)
        return logs


@dataclass
class Comparison:
    """Sums over the samples so far, for one output."""

    judged: Judged
    elements: int = 0
    non_finite: int = 0
    nan: int = 0
    infinite: int = 0
    undecided: int = 0
    discrete: bool = False
    max_abs: float = 0.0
    squared_error: float = 0.0
    original_energy: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    decisions: int = 0
    equal: int = 0
    divergence: float = 0.0
    diverging: int = 0
    labelled: int = 0
    surprises: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, original: Array, compressed: Array, labels: Array | None) -> None:
        """Adds one run of both models."""
        name = self.judged.name
        if original.dtype != compressed.dtype or original.shape != compressed.shape:
            ours, theirs = (f"{a.dtype} {list(a.shape)}" for a in (original, compressed))
            raise InputError(f"tensor '{name}': the original gives {ours}, the other {theirs}")
        if original.dtype.kind != "f":
            self._add_discrete(original, compressed)
            return
        y, z = original.astype(np.float64), compressed.astype(np.float64)
        self._add_elements(y, z)
        rows = self.judged.rows(y), self.judged.rows(z)
        if rows[0] is not None and rows[1] is not None:
            self._add_rows(rows[0], rows[1], self._checked_labels(labels, original))
        elif labels is not None:
            raise InputError(f"tensor '{name}': labels, but shape {list(original.shape)} holds no classes")

    def _add_discrete(self, original: Array, compressed: Array) -> None:
        equal = int(np.count_nonzero(original == compressed))
        self.discrete = True
        self.decisions += original.size
        self.equal += equal
        if original.dtype.kind in "biu":
            before = self.max_abs
            self._add_elements(original.astype(np.float64), compressed.astype(np.float64))
            # Two 64-bit integers that differ may be one number in double precision.
            if equal < original.size and before == 0.0 and self.max_abs == 0.0:
                self.max_abs = 1.0
        else:
            # Strings have no difference but that they are not equal.
            self._add_elements((original != compressed).astype(np.float64), np.zeros(original.shape))

    def _add_elements(self, y: Array, z: Array) -> None:
        finite = np.isfinite(y) & np.isfinite(z)
        if not finite.all():
            nan, same = np.isnan(y) & np.isnan(z), y == z
            self.nan += int(np.count_nonzero(nan))
            self.infinite += int(np.count_nonzero(same & ~finite))
            self.non_finite += int(np.count_nonzero(~(finite | nan | same)))
            y, z = y[finite], z[finite]
        if y.size == 0:
            return
        error = y - z
        self.max_abs = max(self.max_abs, float(np.abs(error).max()))
        self.squared_error += float(np.sum(error * error))
        self.original_energy += float(np.sum(y * y))
        self.energy += float(np.sum(z * z))
        self.product += float(np.sum(y * z))
        # Means and deviations of two parts, put together as Chan, Golub and LeVeque do.
        n, m, mean = self.elements, y.size, float(np.mean(y))
        apart = mean - self.mean
        self.mean += apart * m / (n + m)
        self.deviation += float(np.sum((y - mean) ** 2)) + apart * apart * n * m / (n + m)
        self.elements += m

    def _add_rows(self, y: Array, z: Array, labels: Array | None) -> None:
        decided = ~(np.isnan(y).any(axis=-1) | np.isnan(z).any(axis=-1))
        self.undecided += int(np.count_nonzero(~decided))
        y, z = y[decided], z[decided]
        self.decisions += len(y)
        self.equal += int(np.count_nonzero(y.argmax(axis=-1) == z.argmax(axis=-1)))
        if not self.judged.kl and labels is None:
            return
        proper = _has_probabilities(y) & _has_probabilities(z)
        log_p, log_q = self.judged.log_probabilities(y[proper]), self.judged.log_probabilities(z[proper])
        if self.judged.kl:
            terms = np.exp(log_p) * (log_p - log_q - 1.0) + np.exp(log_q)
            self.divergence += float(np.maximum(terms.sum(axis=-1), 0.0).sum())
            self.diverging += len(log_p)
        if labels is not None:
            self._add_labels(log_p, log_q, labels[decided][proper])

    def _add_labels(self, log_p: Array, log_q: Array, labels: Array) -> None:
        labelled = labels >= 0
        classes = log_p.shape[-1]
        if labels.size and labels.max() >= classes:
            raise InputError(f"tensor '{self.judged.name}': label {labels.max()}, but there are {classes} classes")
        for side, logs in enumerate((log_p[labelled], log_q[labelled])):
            self.surprises[side] -= float(np.take_along_axis(logs, labels[labelled][:, None], axis=-1).sum())
        self.labelled += int(np.count_nonzero(labelled))

    def _checked_labels(self, labels: Array | None, output: Array) -> Array | None:
        if labels is None:
            return None
        shape = list(output.shape)
        if not self.judged.joined:
            del shape[self.judged.axis]
            fits = list(labels.shape) == shape
        else:
            fits = labels.size == math.prod(output.shape[: self.judged.axis])
        if not fits:
            raise InputError(
                f"tensor '{self.judged.name}': labels of shape {list(labels.shape)}, but the output's less its classes is {shape}"
            )
        return labels.reshape(-1).astype(np.int64)

    def figures(self) -> dict[str, Any]:
        """The figures, under the keys of the JSON."""
        seen = self.elements > 0
        continuous = seen and self.judged.content != "discrete" and not self.discrete
        nmse = 0.0 if self.max_abs == 0.0 else _ratio(self.squared_error, self.deviation)
        signal = _ratio(self.original_energy, self.squared_error)
        cosine = _ratio(self.product, math.sqrt(self.original_energy * self.energy))
        labelled = self.labelled
        return {
            "name": self.judged.name,
            "max_abs": self.max_abs if seen else None,
            "rmse": math.sqrt(self.squared_error / self.elements) if continuous else None,
            "nmse": nmse if continuous else None,
            "snr_db": 10.0 * math.log10(signal) if continuous and signal else None,
            "cosine": min(max(cosine, -1.0), 1.0) if continuous and cosine is not None else None,
            "agreement": _ratio(self.equal, self.decisions),
            "kl": _ratio(self.divergence, self.diverging),
            "cross_entropy": {
                "original": self.surprises[0] / labelled,
                "compressed": self.surprises[1] / labelled,
            }
            if labelled
            else None,
            "non_finite": self.non_finite,
            "nan": self.nan,
            "infinite": self.infinite,
            "undecided": self.undecided,
            "elements": self.elements,
            "constant": continuous and self.elements > 1 and self.deviation == 0.0,
            "reached": self.judged.reached,
            "profile": None,
        }

    def loss(self) -> float | None:
        """The loss of the output; ``None`` where its kind is undefined."""
        if self.non_finite > 0:
            return None
        figures = self.figures()
        kind = self.judged.loss
        if self.discrete and kind in ("nmse", "kl"):
            kind = "disagreement"
        if kind == "kl":
            loss: float | None = figures["kl"]
        elif kind == "disagreement":
            loss = None if figures["agreement"] is None else 1.0 - figures["agreement"]
        elif kind == "cross-entropy":
            both = figures["cross_entropy"]
            loss = None if both is None else both["compressed"] - both["original"]
        elif figures["nmse"] is not None or figures["rmse"] is None:
            loss = figures["nmse"]
        elif self.original_energy > 0.0:
            # A constant output has no variance; the error relative to its size still orders models.
            loss = self.squared_error / self.original_energy
        else:
            loss = figures["rmse"] ** 2
        return loss


def losses(comparisons: list[Comparison]) -> tuple[float | None, float | None]:
    """The worst and the mean loss of the outputs that are reached; ``None`` where one of them is undefined."""
    found = [comparison.loss() for comparison in comparisons if comparison.judged.reached]
    known = [loss for loss in found if loss is not None]
    if not known or len(known) < len(found):
        return None, None
    return max(known), sum(known) / len(known)


def _ratio(over: float, under: float) -> float | None:
    return over / under if under > 0 else None


def _has_probabilities(rows: Array) -> Array:
    """Rows that can be read as classes: minus infinity is an impossible class, other values must be numbers."""
    finite = np.isfinite(rows)
    return np.asarray((finite | np.isneginf(rows)).all(axis=-1) & finite.any(axis=-1))
