"""Finds the command that the wheel installs, and runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Union

from ._errors import DirnetError, DirnetWarning, of_exit

#: Names the binary, where it is not the one that was installed with this module.
VARIABLE = "DIRNET_BINARY"

#: Where progress goes: a function of one line of text; ``None`` for stderr; ``False`` for nowhere.
Progress = Union[Callable[[str], object], bool, None]

# Seconds that a command may take to end after Ctrl-C, which a terminal sends to it too, and after it was told to end.
_GRACE = 1.0
_END = 5.0


def binary() -> Path:
    """The path of the ``dirnet`` command.

    It is the one that ``DIRNET_BINARY`` names, else the one that was installed with this module, else the first on ``PATH``.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise DirnetError(f"{VARIABLE} is {named}, which is not a file")
        return Path(named)
    for folder in _script_folders():
        for name in ("dirnet", "dirnet.exe"):
            if (folder / name).is_file():
                return folder / name
    found = shutil.which("dirnet")
    if found is None:
        raise DirnetError(f"the command dirnet is not installed: install the wheel again, or name it in {VARIABLE}")
    return Path(found)


def _script_folders() -> Iterator[Path]:
    """Where installers put commands: of this environment, of the user, and beside ``pip install --target``."""
    yield Path(sysconfig.get_path("scripts"))
    user = "nt_user" if os.name == "nt" else "posix_user"
    if user in sysconfig.get_scheme_names():
        yield Path(sysconfig.get_path("scripts", user))
    yield Path(__file__).resolve().parents[1] / "bin"


def run(arguments: Sequence[str], progress: Progress = None) -> list[str]:
    """Runs a command to its end, raises what it failed of, and returns its warnings, which have become Python warnings.

    If this is interrupted, by Ctrl-C or by an exception in ``progress``, the command is ended first; it removes what it had begun
    to write.
    """
    quiet = ["--quiet"] if progress is False else []
    command = [str(binary()), arguments[0], *quiet, *arguments[1:]]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        said = _Said(progress)
        assert child.stderr is not None
        for line in child.stderr:
            said.hear(line.rstrip("\n"))
        code = child.wait()
    except KeyboardInterrupt:
        _end(child, _GRACE)
        raise
    except BaseException:
        _end(child, 0.0)
        raise
    finally:
        if child.stderr is not None:
            child.stderr.close()
    for warning in said.warnings:
        warn(warning)
    if code != 0:
        # Popen gives the negative number of a signal that the command did not catch.
        code = code if code > 0 else 128 - code
        raise of_exit(code, said.error or f"dirnet ended with exit code {code}")
    return said.warnings


class _Said:
    """What a command says on stderr: progress, warnings, and an error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.warnings: list[str] = []
        self.error: str | None = None

    def hear(self, line: str) -> None:
        kind, _, text = line.partition(": ")
        if kind == "error":
            self.error = text
        elif kind == "warning":
            self.warnings.append(text)
        elif callable(self._progress):
            self._progress(line)
        elif self._progress is not False:
            print(line, file=sys.stderr, flush=True)


def _end(child: subprocess.Popen[str], grace: float) -> None:
    """Ends a command that may already be ending by itself, and waits for it."""
    if child.stderr is not None:
        # Nobody reads it any more: what the command still says must not block it.
        child.stderr.close()
    try:
        for seconds, end in [(grace, child.terminate), (_END, child.kill)]:
            try:
                child.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                end()
        child.wait()
    finally:
        if child.poll() is None:
            child.kill()


def warn(message: str) -> None:
    """Warns at the line that called this package."""
    warnings.warn(message, DirnetWarning, stacklevel=_outside())


def _outside() -> int:
    """The ``stacklevel`` of the code that called this package."""
    package = str(Path(__file__).parent)
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level
