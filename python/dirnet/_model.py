"""Models and their compressed forms, as objects for a notebook."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Union

from . import _binary, _checks, _notebook, _onnxruntime, _page
from ._binary import Progress
from ._command import report_files, reported
from ._errors import CheckFailed, InputError, MissingPackage
from ._feeds import Feeds
from ._flags import Checks, flags
from ._folder import Folder
from ._inputs import Inputs, Labels
from ._options import Reports
from ._outputs import Loss
from ._report import Inspection, Report, Sweep
from ._source import Source, model_file

if TYPE_CHECKING:
    import onnx
    import pandas
    from typing_extensions import Unpack

    from ._options import CompressionOptions, CompressOptions, InspectOptions, RunOptions, TargetOptions

PathLike = Union[str, "os.PathLike[str]"]

#: What judges a model for a user: a function of an ``onnxruntime.InferenceSession``.
Metric = Callable[[Any], float]

#: The ratios of a sweep if none are given.
RATIOS = (4.0, 8.0, 12.0, 16.0)


class _File:
    """A model in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def inspect(self, **options: Unpack[InspectOptions]) -> Inspection:
        """What is in the model, what can be compressed, and why other recurrent nodes cannot."""
        raw, page = reported(["inspect", *flags(options), "--", str(self.path)], None, False)
        return Inspection.of(raw, html=page)

    def session(self, providers: Sequence[Any] | None = None, session_options: Any = None) -> Any:
        """An ``onnxruntime.InferenceSession`` of the model, on the processor unless providers are given."""
        return _onnxruntime.session(self.path, providers, session_options)

    def read_bytes(self) -> bytes:
        """The bytes of the file."""
        return self.path.read_bytes()

    def to_onnx(self) -> onnx.ModelProto:
        """The model as a message of the package onnx."""
        try:
            import onnx
        except ImportError as error:
            raise MissingPackage("onnx", "to_onnx()") from error
        return onnx.load(str(self.path))

    def __repr__(self) -> str:
        return f"<dirnet.{type(self).__name__} {self.path}>"


class Model(_File):
    """A model and its samples. ``dirnet.load`` makes one.

    Samples that are not files are written to a temporary folder once, for all that is done with the model.
    """

    def __init__(
        self,
        source: AnyModel,
        *,
        calibration: Feeds | None = None,
        holdout: Feeds | None = None,
        stream: Mapping[str, str] | None = None,
        labels: Labels | None = None,
        holdout_labels: Labels | None = None,
        loss: Loss = None,
        dim: Mapping[str, int] | None = None,
        seed: int | None = None,
    ) -> None:
        self._source = source
        self._folder: Folder | None = None
        if isinstance(source, _File):
            path = source.path
        else:
            path, self._folder = model_file(source)
        super().__init__(path)
        self._inputs = Inputs.write(self._input_names, calibration, holdout, stream, labels, holdout_labels, loss, dim, seed)

    def _input_names(self) -> list[str]:
        return [port["name"] for port in self.inspect().inputs]

    def compress(
        self,
        output: PathLike | None = None,
        *,
        ratio: float | None = None,
        checks: Checks | None = None,
        report: Reports = None,
        progress: Progress = None,
        **options: Unpack[CompressOptions],
    ) -> Compressed:
        """Compresses the model, runs both models on the held-out samples, and compares their outputs.

        Args:
            output: The file to write; a temporary one, which is there as long as the result is, if none is given.
            ratio: Makes the weights at least so many times smaller (8 if there is no other target).
            checks: Bounds on the difference of the outputs: ``{"min_snr": 20}`` for all outputs, or
                ``{"min_snr": {"logits": 20}}`` for one. If one fails, nothing is written.
            report: Report files to write: ``.html``, ``.md``, ``.json``, ``.xml`` (JUnit).
            progress: A function that is called with each line of progress; ``False`` for none. Without it they go to stderr.
            **options: Any other flag of ``dirnet compress``, with ``_`` for ``-``.

        Raises:
            CheckFailed: A check failed.
            JobFailed: The target cannot be met, or there is nothing to compress.
            InputError: Something that was given is wrong.
        """
        folder = None
        if output is None:
            if options.get("keep_failed"):
                raise InputError("keep_failed needs an output: a temporary file would be lost with the exception")
            folder = Folder()
            output = folder.path / "small.onnx"
        _known_checks(checks)
        given = {"output": output, "ratio": ratio, **(checks or {}), **self._inputs.flags(), **options}
        raw, page = reported(["compress", *flags(given), "--", str(self.path)], report, progress)
        return Compressed(Path(output), self, Report.of(raw, html=page), folder)

    def plan(
        self,
        *,
        ratio: float | None = None,
        save: PathLike | None = None,
        report: Reports = None,
        progress: Progress = None,
        **options: Unpack[TargetOptions],
    ) -> Report:
        """The bits that each gate of a recurrent layer, and each weight of another node, would get; nothing is compressed.

        ``save`` writes the plan to a TOML file, to be edited and given to ``compress`` as ``plan=``.
        """
        given = {"ratio": ratio, "save": save, **self._inputs.flags(), **options}
        raw, page = reported(["plan", *flags(given), "--", str(self.path)], report, progress)
        return Report.of(raw, html=page)

    def sweep(
        self,
        ratios: Sequence[float] = RATIOS,
        *,
        report: Reports = None,
        progress: Progress = None,
        **options: Unpack[CompressionOptions],
    ) -> Sweep:
        """Compresses at several ratios and measures the loss of each; nothing is written."""
        given = {"ratios": list(ratios), **self._inputs.flags(), **options}
        raw, page = reported(["sweep", *flags(given), "--", str(self.path)], report, progress)
        return Sweep.of(raw, html=page)

    def verify(
        self,
        compressed: AnyModel,
        *,
        checks: Checks | None = None,
        engine: str = "tract",
        providers: Sequence[Any] | None = None,
        session_options: Any = None,
        report: Reports = None,
        progress: Progress = None,
        **options: Unpack[RunOptions],
    ) -> Report:
        """Runs this model and a compressed form of it on the held-out samples, and compares their outputs.

        Without held-out samples they are the last fifth of the calibration samples, as for ``compress``.

        Args:
            compressed: The other model.
            checks: Bounds on the difference of the outputs, as for ``compress``.
            engine: ``"tract"``, which the command brings, or ``"onnxruntime"``: the one that is installed here. The figures
                are defined in the same way for both.
            providers: Execution providers of onnxruntime.
            session_options: ``onnxruntime.SessionOptions``.
            report: Report files to write.
            progress: As for ``compress``.
            **options: Any other flag of ``dirnet verify``.

        Raises:
            CheckFailed: A check failed; ``report`` of the exception has the figures.
        """
        other, held = (compressed.path, None) if isinstance(compressed, _File) else model_file(compressed)
        _known_checks(checks)
        if engine == "tract":
            given = {**(checks or {}), **self._inputs.test_flags(), **options}
            raw, page = reported(["verify", *flags(given), "--", str(self.path), str(other)], report, progress)
            found = Report.of(raw, html=page)
        elif engine == "onnxruntime":
            if options:
                raise InputError(f"engine 'onnxruntime' has no option '{next(iter(options))}'")
            found = self._compare(other, checks, providers, session_options, report)
        else:
            raise InputError(f"engine '{engine}' is unknown, expected tract or onnxruntime")
        del held
        return found

    def _compare(
        self,
        other: Path,
        checks: Checks | None,
        providers: Sequence[Any] | None,
        session_options: Any,
        report: Reports,
    ) -> Report:
        inputs = self._inputs
        paths = inputs.calibration if inputs.holdout is None else inputs.holdout
        if paths is None:
            raise InputError("engine 'onnxruntime' makes up no inputs: give samples")
        raw = _onnxruntime.compare(
            (self.path, other),
            paths,
            is_calibration=inputs.holdout is None,
            stream=inputs.stream,
            labels=inputs.labels if inputs.holdout is None else inputs.holdout_labels,
            loss=inputs.loss,
            checks=checks,
            providers=providers,
            session_options=session_options,
        )
        found = Report.of(raw, html=_page.comparison(raw))
        for file in report_files(report):
            found.save(file)
        for warning in found.warnings:
            _binary.warn(warning)
        failures = raw["verify"]["failures"]
        if failures:
            raise CheckFailed("; ".join(failures), found)
        return found

    def judge(
        self,
        metric: Metric,
        *compressed: Compressed,
        ratios: Sequence[float] = RATIOS,
        progress: Progress = None,
        **options: Unpack[CompressionOptions],
    ) -> Judgement:
        """Measures this model and compressed forms of it by a metric of your own.

        Args:
            metric: A function of an ``onnxruntime.InferenceSession`` that returns a number.
            *compressed: What is judged; if none are given, the model is compressed at each of ``ratios``.
            ratios: The ratios to compress at.
            progress: As for ``compress``.
            **options: As for ``compress``.
        """
        points = [JudgedModel("original", None, _stored(self.path), float(metric(self.session())))]
        for small in compressed or (self.compress(ratio=ratio, progress=progress, **options) for ratio in ratios):
            ratio = small.report.weights.ratio if small.report.weights is not None else None
            points.append(JudgedModel(f"ratio {ratio:.3g}" if ratio else "", ratio, small.size, small._measure(metric)))
        return Judgement(points)


class Compressed(_File):
    """A compressed model. ``dirnet.compress`` makes one.

    Attributes:
        path: The file.
        report: What was done, and how far the outputs are from the original's.
        original: The model that it was made of.
    """

    def __init__(self, path: Path, original: Model, report: Report, folder: Folder | None = None) -> None:
        super().__init__(path)
        self.original = original
        self.report = report
        # The file is there as long as this is.
        self._folder = folder

    @property
    def size(self) -> int:
        """Bytes of the file, with its side file if it has one."""
        return _stored(self.path)

    def check(
        self,
        *,
        engine: str = "tract",
        providers: Sequence[Any] | None = None,
        session_options: Any = None,
        report: Reports = None,
        progress: Progress = None,
        **checks: float | Mapping[str, float],
    ) -> Report:
        """Compares the outputs with the original's again, and raises ``CheckFailed`` if a check fails.

        ``small.check(min_snr=20, min_agreement={"logits": 0.98})`` in the engine of the command;
        ``small.check(engine="onnxruntime", min_snr=20)`` in your onnxruntime.
        """
        return self.original.verify(
            self,
            checks=checks,
            engine=engine,
            providers=providers,
            session_options=session_options,
            report=report,
            progress=progress,
        )

    def judge(self, metric: Metric) -> Judgement:
        """Measures the original and this by a metric of your own: a function of an ``onnxruntime.InferenceSession``."""
        return self.original.judge(metric, self)

    def _measure(self, metric: Metric) -> float:
        return float(metric(self.session()))

    def expand(self, output: PathLike, *, progress: Progress = None, **options: Unpack[RunOptions]) -> Path:
        """Writes the model with dense weights, and returns the path."""
        _binary.run(["expand", *flags({"output": output, **options}), "--", str(self.path)], progress)
        return Path(output)

    def save(self, path: PathLike) -> Path:
        """Copies the model to a file, and returns the path."""
        if _side_file(self.path).exists():
            raise InputError("the model has a side file, which it names: give 'output' where you compress it")
        shutil.copyfile(self.path, path)
        return Path(path)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class JudgedModel:
    """A model and its value of the metric."""

    name: str
    #: Bytes of the weights before over after; ``None`` of the original.
    ratio: float | None
    #: Bytes of the file.
    bytes: int
    value: float


@dataclass(frozen=True)
class Judgement:
    """The original and compressed forms of it by a metric of the user's own; the original is the first."""

    points: list[JudgedModel]

    @property
    def original(self) -> float:
        """The metric of the original."""
        return self.points[0].value

    @property
    def changes(self) -> list[float]:
        """What each compressed form has more than the original."""
        return [point.value - self.original for point in self.points[1:]]

    def to_pandas(self) -> pandas.DataFrame:
        """The models as a table of pandas, a row each."""
        try:
            import pandas
        except ImportError as error:
            raise MissingPackage("pandas", "to_pandas()") from error
        rows = [(p.name, p.ratio, p.bytes, p.value, p.value - self.original) for p in self.points]
        return pandas.DataFrame(rows, columns=["name", "ratio", "bytes", "value", "change"])

    def plot(self, ax: Any = None) -> Any:
        """Draws the metric over the bytes of the file with matplotlib, and returns the axes."""
        ax = ax or _notebook.axes("plot()")
        ax.plot([p.bytes for p in self.points], [p.value for p in self.points], marker="o")
        ax.axhline(self.original, linestyle=":")
        ax.set_xlabel("bytes of the file")
        ax.set_ylabel("metric")
        return ax


#: A model as it can be given: a path, bytes, an ``onnx.ModelProto``, or what this module returned.
AnyModel = Union[Source, Model, Compressed]


def _known_checks(checks: Checks | None) -> None:
    """Refuses checks that are none, before anything is run."""
    _checks.parse(checks)


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def _stored(path: Path) -> int:
    files = [file for file in (path, _side_file(path)) if file.exists()]
    return sum(file.stat().st_size for file in files)
