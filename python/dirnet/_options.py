"""The options that are flags of the command by the same name, for type checkers and editors.

A keyword that is not listed is handed to the command as well, which refuses what it does not know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypedDict, Union

_Path = Union[str, "os.PathLike[str]"]

#: A report file, or several: ``.html``, ``.md``, ``.json`` or ``.xml``.
Reports = Union[_Path, Sequence[_Path], None]


class RunOptions(TypedDict, total=False):
    """How the command runs."""

    config: _Path
    threads: int
    allow_newer: bool
    verify_timeout: int
    verify_memory: str


class VerifyOptions(RunOptions, total=False):
    """How outputs are compared."""

    loss: str | Sequence[str] | Mapping[str, str]
    dim: Mapping[str, int]
    seed: int


class CompressionOptions(RunOptions, total=False):
    """How a model is compressed."""

    effort: int | str
    form: str
    form_from: int
    keep_names: bool
    no_generate_dft: bool
    codec: str
    sensitivity: str
    tune: str
    scope: str
    include: str
    exclude: str
    freeze_inputs: bool


class TargetOptions(CompressionOptions, total=False):
    """How small or how good, for ``plan``."""

    max_size: str
    max_loss: float


class CompressOptions(TargetOptions, total=False):
    """All of ``compress``."""

    plan: _Path
    lossless: bool
    time_budget: str
    smallest: bool
    no_verify: bool
    keep_failed: bool


class InspectOptions(TypedDict, total=False):
    """What ``inspect`` looks at."""

    scope: str
    include: str
    exclude: str
    freeze_inputs: bool
    config: _Path
    threads: int
    allow_newer: bool
