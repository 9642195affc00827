"""What can go wrong, as exceptions: one class for each exit code of the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._report import Report


class DirnetError(Exception):
    """A command of dirnet failed. The text is its one-line message.

    ``code`` is the exit code of the command.
    """

    code = 1


class JobFailed(DirnetError):
    """A check failed, a target cannot be met, the model cannot be run, or there is nothing to compress (exit code 1)."""


class CheckFailed(JobFailed):
    """The outputs of the two models are further apart than a check allows (exit code 1).

    ``report`` has the figures, as far as they were measured.
    """

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


class InputError(DirnetError, ValueError):
    """An argument, a model or the samples are wrong (exit code 2)."""

    code = 2


class Stopped(DirnetError):
    """A signal ended the command (exit code 128 and the number of the signal)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class MissingPackage(DirnetError, ImportError):
    """A package that this call needs is not installed."""

    def __init__(self, package: str, what: str) -> None:
        super().__init__(f"{what} needs the package {package}: pip install {package}")


class DirnetWarning(UserWarning):
    """A warning of the command: the job was done, but its result may not be what was wanted."""


def of_exit(code: int, message: str) -> DirnetError:
    """The exception for an exit code other than 0. A failed check is told from others of code 1 by the report."""
    if code == 1:
        return JobFailed(message)
    if code == 2:
        return InputError(message)
    return Stopped(message, code)
