"""Models and samples that several tests use, and the binary that they run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import dirnet
import models

#: What makes a job as short as it gets.
QUICK = {"sensitivity": "none", "tune": "off", "progress": False}


@pytest.fixture(scope="session", autouse=True)
def tested_binary():
    """The tests run what they are told to run: never a command that happens to be on PATH."""
    binary = dirnet.binary()
    if "DIRNET_BINARY" in os.environ:
        assert binary == Path(os.environ["DIRNET_BINARY"])
    else:
        assert Path(dirnet.__file__).parent.parent.name == "site-packages", "without DIRNET_BINARY, install the wheel"
    return binary


@pytest.fixture
def classifier(tmp_path):
    """The path of the classifier."""
    return models.write_classifier(tmp_path / "model.onnx")


@pytest.fixture
def streaming(tmp_path):
    """The path of the streaming model."""
    return models.write_streaming(tmp_path / "vad.onnx")


@pytest.fixture
def loaded(classifier):
    """The classifier with its samples."""
    calibration = [{"features": clip} for clip in models.clips(8, seed=1)]
    holdout = [{"features": clip} for clip in models.clips(3, seed=2)]
    return dirnet.load(classifier, calibration=calibration, holdout=holdout)


@pytest.fixture
def small(loaded):
    """The classifier, compressed."""
    return loaded.compress(ratio=5, **QUICK)
