"""The models of models.toml, and the tool run on one of them.

Models outside the repository are looked for in DIRNET_MODELS (default: ../shared/models beside the project); who asks for
them says what was not there. The tool is DIRNET_BIN, or target/release/dirnet.
"""

import hashlib
import json
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

import judge
import samples

PROJECT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
BINARY = Path(os.environ.get("DIRNET_BIN", TARGET / "release" / "dirnet"))
MODELS = Path(os.environ.get("DIRNET_MODELS", PROJECT.parent / "shared" / "models"))
FIXTURES = PROJECT / "fixtures"


@dataclass(frozen=True)
class Model:
    """One entry of models.toml, its paths made absolute."""

    name: str
    path: Path
    origin: str
    fast: bool
    fast_arguments: list[str]
    ratio: float
    loss: str | None
    outcome: str
    calibration: list[Path]
    holdout: list[Path]
    stream: list[str]
    dims: dict[str, int]

    @classmethod
    def of(cls, entry):
        folder = FIXTURES if entry.get("fixture") else MODELS
        return cls(
            name=entry["name"],
            path=folder / entry["file"],
            origin=entry["origin"],
            fast=entry.get("fast", False),
            fast_arguments=entry.get("fast_arguments", []),
            ratio=entry.get("ratio", 8),
            loss=entry.get("loss"),
            outcome=entry.get("outcome", "compressed"),
            calibration=[folder / path for path in entry.get("calibration", [])],
            holdout=[folder / path for path in entry.get("holdout", [])],
            stream=entry.get("stream", []),
            dims=entry.get("dims", {}),
        )

    @property
    def carries(self):
        return [samples.Carry.parse(text) for text in self.stream]

    def sha256(self):
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def streams(self, session):
        """What the model is judged on: the holdout, else the calibration, else seeded inputs."""
        paths = self.holdout or self.calibration
        if paths:
            return samples.load(paths, session.get_inputs(), self.carries)
        return samples.seeded(session.get_inputs(), self.dims)

    def sample_arguments(self):
        arguments = []
        for flag, values in (("--calibration", self.calibration), ("--holdout", self.holdout)):
            arguments += [word for value in values for word in (flag, str(value))]
        dims = [f"{name}={size}" for name, size in self.dims.items()]
        for flag, values in (("--stream", self.stream), ("--dim", dims)):
            arguments += [word for value in values for word in (flag, value)]
        return arguments


def read(fast=False, names=()):
    """Models that are there, and the names of those that are not: all, the fast ones, or those with one of `names` in theirs."""
    entries = tomllib.loads((Path(__file__).parent / "models.toml").read_text())["model"]
    models = [model for model in map(Model.of, entries) if model.fast or not fast]
    models = [model for model in models if not names or any(name in model.name for name in names)]
    return [m for m in models if m.path.exists()], [m.name for m in models if not m.path.exists()]


@dataclass(frozen=True)
class Run:
    """What a run of the tool left: exit code, what it said, the JSON report if it wrote one."""

    code: int
    message: str
    output: str
    report: dict | None


def tool(*arguments, report=None):
    """Runs the tool; an outcome of 0 to 2 is the caller's business, anything else (a signal, a panic) is not."""
    command = [str(BINARY), *map(str, arguments)] + (["--report", str(report)] if report else [])
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    written = json.loads(report.read_text()) if report and report.exists() else None
    return Run(done.returncode, done.stderr.strip(), done.stdout, written)


def compress(model, out, *more, report=None):
    return tool("compress", model.path, "-o", out, "--ratio", model.ratio, *model.sample_arguments(), *more, "-q", report=report)


def expand(compressed, out):
    return tool("expand", compressed, "-o", out, "-q")


def stored_bytes(path):
    """A model file and the side files in which it keeps tensors."""
    proto = onnx.load(path, load_external_data=False)
    sides = {ExternalDataInfo(t).location for t in _get_all_tensors(proto) if uses_external_data(t)}
    return path.stat().st_size + sum((path.parent / side).stat().st_size for side in sides)


def open_or_reason(path, optimised=None):
    """An onnxruntime session, or its words."""
    try:
        return judge.session(path, optimised), None
    except Exception as error:  # onnxruntime's own exception types share no base but this one
        return None, f"onnxruntime {onnxruntime.__version__}: {str(error).splitlines()[0][:160]}"
