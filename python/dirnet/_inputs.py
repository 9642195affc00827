"""The samples of a model: what it is calibrated with and judged on, as files that the command reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np

from . import _feeds
from ._feeds import Feeds
from ._folder import Folder
from ._outputs import Loss

#: Class labels by output: arrays, or files that hold one.
Labels = Mapping[str, Any]


@dataclass
class Inputs:
    """Samples, and how the outputs that they give are judged."""

    folder: Folder
    calibration: list[Path] | None = None
    holdout: list[Path] | None = None
    stream: Mapping[str, str] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    holdout_labels: dict[str, Path] = field(default_factory=dict)
    loss: Loss = None
    dim: Mapping[str, int] | None = None
    seed: int | None = None

    @classmethod
    def write(
        cls,
        names: Callable[[], Sequence[str]],
        calibration: Feeds | None = None,
        holdout: Feeds | None = None,
        stream: Mapping[str, str] | None = None,
        labels: Labels | None = None,
        holdout_labels: Labels | None = None,
        loss: Loss = None,
        dim: Mapping[str, int] | None = None,
        seed: int | None = None,
    ) -> Inputs:
        """Writes samples and labels to files. ``names`` tells the names of the model's inputs."""
        folder = Folder()
        states = stream or {}

        def written(feeds: Feeds | None, name: str) -> list[Path] | None:
            return None if feeds is None else _feeds.write(feeds, folder.path / name, states, names)

        def saved(given: Labels | None, name: str) -> dict[str, Path]:
            return _save_labels(given or {}, folder.path / name)

        return cls(
            folder,
            written(calibration, "calibration"),
            written(holdout, "holdout"),
            states,
            saved(labels, "labels"),
            saved(holdout_labels, "holdout_labels"),
            loss,
            dim,
            seed,
        )

    def flags(self) -> dict[str, object]:
        """The options of the command for them."""
        return {
            "calibration": self.calibration,
            "holdout": self.holdout,
            "labels": self.labels,
            "holdout_labels": self.holdout_labels,
            **self._shared(),
        }

    def test_flags(self) -> dict[str, object]:
        """The options of ``verify``: held-out samples, else those that the command holds out of the calibration samples."""
        if self.holdout is None:
            return {"calibration": self.calibration, "labels": self.labels, **self._shared()}
        return {"samples": self.holdout, "holdout_labels": self.holdout_labels, **self._shared()}

    def _shared(self) -> dict[str, object]:
        return {"stream": self.stream, "loss": self.loss, "dim": self.dim, "seed": self.seed}


def _save_labels(labels: Labels, folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for number, (output, value) in enumerate(labels.items()):
        if isinstance(value, (str, os.PathLike)):
            paths[output] = Path(value)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        paths[output] = folder / f"{number}.npy"
        np.save(paths[output], _feeds.to_array(value, output), allow_pickle=False)
    return paths
