"""The functions of the module: each is a model and one thing that is done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _binary
from ._binary import Progress
from ._feeds import Feeds
from ._flags import Checks, flags
from ._inputs import Labels
from ._model import RATIOS, AnyModel, Compressed, Model, PathLike
from ._options import Reports
from ._outputs import Loss
from ._report import Inspection, Report, Sweep

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import CompressionOptions, CompressOptions, InspectOptions, RunOptions, TargetOptions


def load(
    model: AnyModel,
    *,
    calibration: Feeds | None = None,
    holdout: Feeds | None = None,
    stream: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    holdout_labels: Labels | None = None,
    loss: Loss = None,
    dim: Mapping[str, int] | None = None,
    seed: int | None = None,
) -> Model:
    """A model and its samples, for several things to be done with them.

    Args:
        model: A path, bytes, or an ``onnx.ModelProto``.
        calibration: Samples to calibrate with: a path or several; a list, or another iterable such as a PyTorch
            ``DataLoader``, of dicts of arrays; or a dict of arrays with the samples stacked along a new first axis.
            Without them the inputs are random and the loss is larger.
        holdout: Samples to verify on; the last fifth of the calibration samples if none are given.
        stream: ``{"state": "stateN"}`` if the samples are steps of a stream: output ``stateN`` of a step is input ``state``
            of the next. ``"states[0:1]"`` takes a slice of the output.
        labels: Class labels of the calibration samples by output, as arrays or files, for the loss ``cross-entropy``.
        holdout_labels: Those of the held-out samples.
        loss: ``"nmse"``, ``"kl"``, ``"disagreement"`` or ``"cross-entropy"``; a dict for single outputs.
        dim: Sizes of symbolic dimensions, for random inputs.
        seed: The random seed.
    """
    return Model(
        model,
        calibration=calibration,
        holdout=holdout,
        stream=stream,
        labels=labels,
        holdout_labels=holdout_labels,
        loss=loss,
        dim=dim,
        seed=seed,
    )


def compress(
    model: AnyModel,
    output: PathLike | None = None,
    *,
    ratio: float | None = None,
    calibration: Feeds | None = None,
    holdout: Feeds | None = None,
    stream: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    holdout_labels: Labels | None = None,
    loss: Loss = None,
    dim: Mapping[str, int] | None = None,
    seed: int | None = None,
    checks: Checks | None = None,
    report: Reports = None,
    progress: Progress = None,
    **options: Unpack[CompressOptions],
) -> Compressed:
    """Compresses a model, runs both models on the held-out samples, and compares their outputs.

    The samples are described at ``load``, the rest at ``Model.compress``.
    """
    loaded = load(
        model,
        calibration=calibration,
        holdout=holdout,
        stream=stream,
        labels=labels,
        holdout_labels=holdout_labels,
        loss=loss,
        dim=dim,
        seed=seed,
    )
    return loaded.compress(output, ratio=ratio, checks=checks, report=report, progress=progress, **options)


def plan(
    model: AnyModel,
    *,
    ratio: float | None = None,
    save: PathLike | None = None,
    calibration: Feeds | None = None,
    holdout: Feeds | None = None,
    stream: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    loss: Loss = None,
    dim: Mapping[str, int] | None = None,
    seed: int | None = None,
    report: Reports = None,
    progress: Progress = None,
    **options: Unpack[TargetOptions],
) -> Report:
    """The bits that each gate of a recurrent layer, and each weight of another node, would get: see ``Model.plan``."""
    loaded = load(model, calibration=calibration, holdout=holdout, stream=stream, labels=labels, loss=loss, dim=dim, seed=seed)
    return loaded.plan(ratio=ratio, save=save, report=report, progress=progress, **options)


def sweep(
    model: AnyModel,
    ratios: Sequence[float] = RATIOS,
    *,
    calibration: Feeds | None = None,
    holdout: Feeds | None = None,
    stream: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    holdout_labels: Labels | None = None,
    loss: Loss = None,
    dim: Mapping[str, int] | None = None,
    seed: int | None = None,
    report: Reports = None,
    progress: Progress = None,
    **options: Unpack[CompressionOptions],
) -> Sweep:
    """Size against loss at several ratios: see ``Model.sweep``."""
    loaded = load(
        model,
        calibration=calibration,
        holdout=holdout,
        stream=stream,
        labels=labels,
        holdout_labels=holdout_labels,
        loss=loss,
        dim=dim,
        seed=seed,
    )
    return loaded.sweep(ratios, report=report, progress=progress, **options)


def verify(
    original: AnyModel,
    compressed: AnyModel,
    samples: Feeds | None = None,
    *,
    stream: Mapping[str, str] | None = None,
    labels: Labels | None = None,
    loss: Loss = None,
    dim: Mapping[str, int] | None = None,
    seed: int | None = None,
    checks: Checks | None = None,
    engine: str = "tract",
    providers: Sequence[Any] | None = None,
    session_options: Any = None,
    report: Reports = None,
    progress: Progress = None,
    **options: Unpack[RunOptions],
) -> Report:
    """Runs two models on the same samples, and compares their outputs: see ``Model.verify``.

    ``engine="onnxruntime"`` runs them in the onnxruntime that is installed here.
    """
    loaded = load(original, holdout=samples, stream=stream, holdout_labels=labels, loss=loss, dim=dim, seed=seed)
    return loaded.verify(
        compressed,
        checks=checks,
        engine=engine,
        providers=providers,
        session_options=session_options,
        report=report,
        progress=progress,
        **options,
    )


def inspect(model: AnyModel, **options: Unpack[InspectOptions]) -> Inspection:
    """What is in a model, what can be compressed, and why other recurrent nodes cannot."""
    return load(model).inspect(**options)


def expand(compressed: AnyModel, output: PathLike, *, progress: Progress = None, **options: Unpack[RunOptions]) -> Path:
    """Turns a compressed model back into one with dense weights, and returns the path of ``output``."""
    loaded = load(compressed)
    _binary.run(["expand", *flags({"output": output, **options}), "--", str(loaded.path)], progress)
    return Path(output)
