"""Runs both models in the user's own onnxruntime, and judges their outputs with the figures and checks of dirnet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _checks, _figures, _finite, _outputs, _samples
from ._errors import InputError, JobFailed, MissingPackage
from ._flags import Checks
from ._outputs import Loss

Array = npt.NDArray[Any]
Json = dict[str, Any]

# Types of onnxruntime's tensors in words of NumPy.
_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "string": "str",
}


def session(path: Path, providers: Sequence[Any] | None = None, options: Any = None) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file, on the processor unless providers are given."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "running a model in onnxruntime") from error
    if not path.is_file():
        raise InputError(f"{path}: No such file or directory")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers or ["CPUExecutionProvider"]))
    # onnxruntime has an exception class for each of its status codes, without a common one but this.
    except Exception as error:
        raise JobFailed(f"{path}: onnxruntime cannot load the model: {_line(error)}") from error


def compare(
    models: tuple[Path, Path],
    paths: Sequence[Path],
    *,
    is_calibration: bool,
    stream: Mapping[str, str],
    labels: Mapping[str, Path],
    loss: Loss,
    checks: Checks | None,
    providers: Sequence[Any] | None,
    session_options: Any,
) -> Json:
    """The report of a comparison, with the keys of the command's JSON.

    ``is_calibration``: the samples are those of a calibration, of which only the last fifth is run.
    """
    start = time.monotonic()
    parsed = _checks.parse(checks)
    protos = _protos(models)
    sessions = tuple(session(path, providers, session_options) for path in models)
    ports = _ports(sessions[0])
    _same_interface(sessions)
    states = [_samples.State.parse(name, output) for name, output in stream.items()]
    _check_states(states, sessions[0])
    streams = _samples.read(paths, ports, states)
    if is_calibration:
        streams = _samples.held_out(streams, ports, states)
    outputs = [output.name for output in sessions[0].get_outputs() if _dtype(output) is not None]
    kl = {output or name for check in parsed if check.kind == "max-kl" for name in outputs for output in [check.output]}
    judged, warnings = _outputs.judged(protos, outputs, loss, [(state.input, state.output) for state in states], kl)
    _check_names(parsed, judged)
    arrays = {name: _labels(path) for name, path in labels.items()}
    comparisons = [_figures.Comparison(output) for output in judged]
    load = time.monotonic() - start
    for run in streams:
        _run(run, sessions, states, comparisons, arrays)
    total = time.monotonic() - start
    faults = [_finite.fault(protos[0], "original"), _finite.fault(protos[1], "compressed model")]
    verdict = _verdict(comparisons, parsed, sum(len(run.feeds) for run in streams), [fault for fault in faults if fault])
    warnings += _checks.warnings(parsed, verdict["unbound"], verdict["outputs"])
    return {
        "schema": 1,
        "command": "verify",
        "model": _sizes(models, protos[0]),
        "verify": verdict,
        "warnings": warnings,
        "seconds": {"load": load, "verify": total - load, "total": total},
    }


def _protos(models: tuple[Path, Path]) -> tuple[Any, Any]:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingPackage("onnx", "verifying in onnxruntime") from error
    return _outputs.load(models[0]), _outputs.load(models[1])


def _run(
    run: _samples.Stream,
    sessions: tuple[Any, ...],
    states: Sequence[_samples.State],
    comparisons: list[_figures.Comparison],
    labels: Mapping[str, Array],
) -> None:
    """Runs both models over a stream, each feeding back its own states."""
    fed_back: list[dict[str, Array]] = [{}, {}]
    for step, feed in enumerate(run.feeds):
        results = []
        for side, model in enumerate(sessions):
            names = [output.name for output in model.get_outputs()]
            try:
                values = dict(zip(names, model.run(names, {**feed, **fed_back[side]})))
            except Exception as error:
                raise _at_fault(run, side, error) from error
            results.append(values)
            fed_back[side] = {
                state.input: values[state.output] if state.part is None else values[state.output][state.part] for state in states
            }
        for comparison in comparisons:
            name = comparison.judged.name
            of_step = labels[name][run.number + step] if name in labels else None
            comparison.add(np.asarray(results[0][name]), np.asarray(results[1][name]), of_step)


def _at_fault(run: _samples.Stream, side: int, error: Exception) -> Exception:
    if side == 0:
        return InputError(f"{run.origin}: this sample cannot be run: {_line(error)}")
    return JobFailed(f"the original can be run, the compressed model cannot: {run.origin}: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _ports(model: Any) -> list[_samples.Port]:
    ports = []
    for port in model.get_inputs():
        dtype = _dtype(port)
        if dtype is None:
            raise InputError(f"tensor '{port.name}': the input is {port.type}, which no sample holds")
        ports.append(_samples.Port(port.name, port.shape, dtype))
    return ports


def _dtype(port: Any) -> str | None:
    """The element type of a tensor; ``None`` for sequences and maps, and for types that NumPy has not."""
    kind = port.type
    return _DTYPES.get(kind[len("tensor(") : -1]) if kind.startswith("tensor(") else None


def _same_interface(sessions: tuple[Any, ...]) -> None:
    """Refuses models that a caller could not run on the same inputs, or that give other outputs."""
    ours, theirs = sessions
    inputs = [{port.name: port.type for port in model.get_inputs()} for model in sessions]
    for name, kind in inputs[1].items():
        if name not in inputs[0]:
            raise InputError(f"tensor '{name}': the compressed model needs this input, the original does not")
        if kind != inputs[0][name]:
            raise InputError(f"tensor '{name}': the original takes {inputs[0][name]}, the compressed model takes {kind}")
    for name in inputs[0]:
        if name not in inputs[1]:
            raise InputError(f"tensor '{name}': the compressed model has no such input, the original has")
    given = {output.name for output in theirs.get_outputs()}
    for output in ours.get_outputs():
        if output.name not in given:
            raise InputError(f"tensor '{output.name}': the compressed model does not give this output")


def _check_states(states: Sequence[_samples.State], model: Any) -> None:
    inputs = [port.name for port in model.get_inputs()]
    outputs = [port.name for port in model.get_outputs()]
    for state in states:
        for what, name, known in [("input", state.input, inputs), ("output", state.output, outputs)]:
            if name not in known:
                raise InputError(
                    f"stream '{state.input}={state.output}': the model has no {what} '{name}'; "
                    f"its inputs are {', '.join(inputs)}, its outputs {', '.join(outputs)}"
                )


def _check_names(checks: Sequence[_checks.Check], judged: Sequence[_figures.Judged]) -> None:
    names = [output.name for output in judged]
    for check in checks:
        if check.output is not None and check.output not in names:
            known = ", ".join(names)
            raise InputError(f"--{check.kind} names '{check.output}', not an output that is compared, those are {known}")


def _labels(path: Path) -> Array:
    array = np.load(path, allow_pickle=False)
    return array if isinstance(array, np.ndarray) else array[array.files[0]]


def _verdict(comparisons: list[_figures.Comparison], checks: Sequence[_checks.Check], samples: int, faults: list[str]) -> Json:
    outputs = [comparison.figures() for comparison in comparisons]
    held = _checks.hold(checks, outputs)
    failures = held["failures"] + [line for line in map(_checks.incomparable, outputs) if line is not None]
    compared = ("elements", "nan", "infinite", "non_finite")
    if outputs and all(sum(figures[key] for key in compared) == 0 for figures in outputs):
        failures.append("every output is empty in every sample: nothing was compared")
    failures += faults
    worst, mean = _figures.losses(comparisons)
    return {
        "engine": "onnxruntime",
        "scope": "model",
        "reason": None,
        "samples": samples,
        "calibrated_on": None,
        "outputs": outputs,
        "loss": mean,
        "loss_worst": worst,
        "loss_mean": mean,
        **held,
        "passed": not failures,
        "failures": failures,
    }


def _sizes(models: tuple[Path, Path], original: Any) -> Json:
    before, after = (_outputs.stored_bytes(path) for path in models)
    opset = max((entry.version for entry in original.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    return {
        "path": str(models[0]),
        "output": str(models[1]),
        "bytes_before": before,
        "bytes_after": after,
        "ratio": before / after if after else None,
        "opset": opset,
        "producer": f"{original.producer_name} {original.producer_version}".strip() or None,
    }
