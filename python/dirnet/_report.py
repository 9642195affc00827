"""The reports of the command as dataclasses.

The attributes are the keys of the JSON (``docs/ci.md`` lists them); a figure that was not measured is ``None``. Newer versions of
the command add keys: what has no attribute here is in ``raw``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import _notebook
from ._errors import MissingPackage

if TYPE_CHECKING:
    import os

    import pandas

Json = dict[str, Any]
_T = TypeVar("_T", bound="_Record")


@dataclass(frozen=True)
class _Record:
    """An object of the JSON."""

    #: All keys, as the command wrote them.
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls: type[_T], raw: Mapping[str, Any], **nested: Any) -> _T:
        """Reads the keys that have an attribute; those of objects within are given, already read."""
        names = {f.name for f in dataclasses.fields(cls)} - {"raw", "html"}
        known = {name: raw[name] for name in names if raw.get(name) is not None}
        return cls(**{"raw": dict(raw), **known, **nested})

    @classmethod
    def list_of(cls: type[_T], raw: list[Json] | None) -> list[_T]:
        """Reads a list of them."""
        return [cls.of(entry) for entry in raw or []]


@dataclass(frozen=True)
class FileSizes(_Record):
    """The file before and after."""

    path: str = ""
    output: str | None = None
    bytes_before: int = 0
    bytes_after: int | None = None
    ratio: float | None = None
    opset: int | None = None
    producer: str | None = None


@dataclass(frozen=True)
class KindSizes(_Record):
    """The weights of one kind of nodes: recurrent, convolution, linear or embedding."""

    kind: str = ""
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True)
class WeightSizes(_Record):
    """The weights in scope, before and after."""

    bytes_before: int = 0
    bytes_after: int = 0
    ratio: float | None = None
    parameters: int = 0
    kinds: list[KindSizes] = field(default_factory=list)

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> WeightSizes:
        return super().of(raw, kinds=KindSizes.list_of(raw.get("kinds")), **nested)


@dataclass(frozen=True)
class Unit(_Record):
    """A weight block: what has its own number of bits."""

    node: str = ""
    op: str = ""
    tensor: str = ""
    direction: str = ""
    gate: str = ""
    shape: list[int] = field(default_factory=list)
    codec: str = ""
    bits_per_weight: float | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    sensitivity: float | None = None
    distortion: float | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Skipped(_Record):
    """A recurrent node that is not compressed, and why."""

    node: str = ""
    op: str = ""
    reason: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Tradeoff(_Record):
    """Another size, and its loss."""

    ratio: float | None = None
    bytes_after: int = 0
    loss: float | None = None
    loss_mean: float | None = None
    loss_worst: float | None = None
    measured: bool = False


@dataclass(frozen=True)
class Figures(_Record):
    """The difference of one output from the original's."""

    name: str = ""
    max_abs: float | None = None
    rmse: float | None = None
    nmse: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    kl: float | None = None
    cross_entropy: Json | None = None
    elements: int = 0
    non_finite: int = 0
    nan: int = 0
    infinite: int = 0
    undecided: int = 0
    constant: bool = False
    reached: bool = True
    profile: Json | None = None


@dataclass(frozen=True)
class Checked(_Record):
    """A check as it was held against an output."""

    output: str = ""
    gate: str = ""
    limit: float = 0.0
    value: float | None = None
    passed: bool = False


@dataclass(frozen=True)
class Verdict(_Record):
    """The comparison of two models."""

    passed: bool = False
    failures: list[str] = field(default_factory=list)
    outputs: list[Figures] = field(default_factory=list)
    #: The key ``gates`` of the JSON.
    checks: list[Checked] = field(default_factory=list)
    unbound: list[Json] = field(default_factory=list)
    loss: float | None = None
    loss_worst: float | None = None
    loss_mean: float | None = None
    engine: str = ""
    scope: str = ""
    reason: str | None = None
    samples: int = 0
    calibrated_on: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> Verdict:
        outputs, checks = Figures.list_of(raw.get("outputs")), Checked.list_of(raw.get("gates"))
        return super().of(raw, outputs=outputs, checks=checks, **nested)

    def __getitem__(self, output: str) -> Figures:
        """The figures of an output."""
        for figures in self.outputs:
            if figures.name == output:
                return figures
        raise KeyError(output)


@dataclass(frozen=True)
class _Page(_Record):
    """A report that a notebook shows."""

    #: The report as a page for the browser; it needs no network.
    html: str = field(default="", repr=False, compare=False)

    def _repr_html_(self) -> str:
        return _notebook.frame(self.html)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report: ``.html`` for the browser, ``.json`` for scripts."""
        path = Path(path)
        if path.suffix == ".html":
            path.write_text(self.html, encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(self.raw, indent=2) + "\n", encoding="utf-8")
        else:
            raise ValueError(f"{path}: unknown type of report, expected a name that ends in .html or .json")


@dataclass(frozen=True)
class Report(_Page):
    """What ``compress``, ``verify`` and ``plan`` found."""

    schema: int = 1
    command: str = ""
    model: FileSizes = field(default_factory=FileSizes)
    weights: WeightSizes | None = None
    recurrent: Json | None = None
    lossless: list[Json] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    forms: list[Json] = field(default_factory=list)
    predicted_loss: float | None = None
    tuning: list[Json] = field(default_factory=list)
    tradeoff: list[Tradeoff] = field(default_factory=list)
    #: The level of ``effort=``, the flags in force, and the time budget.
    effort: Json | None = None
    settings: Json | None = None
    warnings: list[str] = field(default_factory=list)
    verify: Verdict | None = None
    seconds: Json = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> Report:
        weights, verify = raw.get("weights"), raw.get("verify")
        return super().of(
            raw,
            model=FileSizes.of(raw.get("model") or {}),
            weights=None if weights is None else WeightSizes.of(weights),
            units=Unit.list_of(raw.get("units")),
            skipped=Skipped.list_of(raw.get("skipped")),
            tradeoff=Tradeoff.list_of(raw.get("tradeoff")),
            verify=None if verify is None else Verdict.of(verify),
            **nested,
        )

    @property
    def loss(self) -> float | None:
        """The measured loss: the mean of the outputs."""
        return None if self.verify is None else self.verify.loss


@dataclass(frozen=True)
class Inspection(_Page):
    """What is in a model, and what can be compressed."""

    schema: int = 1
    model: Json = field(default_factory=dict)
    inputs: list[Json] = field(default_factory=list)
    outputs: list[Json] = field(default_factory=list)
    states: list[Json] = field(default_factory=list)
    weights: Json | None = None
    recurrent: Json | None = None
    nodes: list[Json] = field(default_factory=list)
    linear: list[Json] = field(default_factory=list)
    coded_tables: int | None = None
    skipped: list[Skipped] = field(default_factory=list)
    made_by: Json | None = None
    #: Whether an optimiser wrote the decoded weights back: the file is large again.
    folded_back: bool = False
    proposed_ratio: float | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> Inspection:
        return super().of(raw, skipped=Skipped.list_of(raw.get("skipped")), **nested)


@dataclass(frozen=True)
class SweepPoint(_Record):
    """One ratio of a sweep. If it cannot be reached, ``reason`` says why."""

    target: float = 0.0
    ratio: float | None = None
    bytes_after: int | None = None
    reason: str | None = None
    loss: float | None = None
    loss_mean: float | None = None
    outputs: list[Figures] = field(default_factory=list)

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> SweepPoint:
        return super().of(raw, outputs=Figures.list_of(raw.get("outputs")), **nested)


@dataclass(frozen=True)
class Sweep(_Page):
    """Size against loss, at several ratios."""

    schema: int = 1
    model: FileSizes = field(default_factory=FileSizes)
    recurrent_bytes: int = 0
    points: list[SweepPoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: Json = field(default_factory=dict)

    @classmethod
    def of(cls, raw: Mapping[str, Any], **nested: Any) -> Sweep:
        model, points = FileSizes.of(raw.get("model") or {}), SweepPoint.list_of(raw.get("points"))
        return super().of(raw, model=model, points=points, **nested)

    def measured(self) -> list[SweepPoint]:
        """The points that were reached and have a loss, from the largest file to the smallest."""
        points = [p for p in self.points if p.ratio is not None and p.loss is not None]
        return sorted(points, key=lambda p: p.ratio or 0.0)

    def knee(self) -> SweepPoint:
        """The point before the loss rises steeply.

        With ratio and loss each scaled to run from 0 to 1 over the sweep, it is the point farthest below the straight line from
        the first point to the last: the largest ``ratio - loss``. Of fewer than three points it is the first.
        """
        points = self.measured()
        if not points:
            raise ValueError("no point of the sweep has a loss")
        if len(points) < 3:
            return points[0]
        ratios = [p.ratio or 0.0 for p in points]
        losses = [p.loss or 0.0 for p in points]
        scaled = zip(_scaled(ratios), _scaled(losses))
        gains = [ratio - loss for ratio, loss in scaled]
        return points[gains.index(max(gains))]

    def to_pandas(self) -> pandas.DataFrame:
        """The points as a table of pandas, a row each."""
        try:
            import pandas
        except ImportError as error:
            raise MissingPackage("pandas", "to_pandas()") from error
        names = ["target", "ratio", "bytes_after", "loss", "loss_mean", "reason"]
        return pandas.DataFrame([{name: getattr(point, name) for name in names} for point in self.points])

    def plot(self, ax: Any = None) -> Any:
        """Draws loss over ratio with matplotlib, the knee marked, and returns the axes."""
        points = self.measured()
        ax = ax or _notebook.axes("plot()")
        ax.plot([p.ratio for p in points], [p.loss for p in points], marker="o")
        if points:
            knee = self.knee()
            ax.plot([knee.ratio], [knee.loss], marker="o", linestyle="none", label=f"knee: {knee.ratio:.3g}")
            ax.legend()
        if all((p.loss or 0.0) > 0.0 for p in points):
            ax.set_yscale("log")
        ax.set_xlabel("ratio (bytes of the weights before / after)")
        ax.set_ylabel("loss of the worst output")
        return ax


def _scaled(values: list[float]) -> list[float]:
    """From 0 to 1."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
