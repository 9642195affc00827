"""Runs a command and reads its reports."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from . import _binary
from ._binary import Progress
from ._errors import CheckFailed, JobFailed
from ._flags import flags
from ._folder import Folder
from ._options import Reports
from ._report import Report


def reported(arguments: Sequence[str], report: Reports, progress: Progress) -> tuple[dict[str, Any], str]:
    """The JSON of a command's result, and the page for the browser. ``report`` names files that are written as well.

    A check that fails is raised with the figures that it failed of.
    """
    with Folder() as folder:
        data, page = folder.path / "report.json", folder.path / "report.html"
        own = flags({"report": [*report_files(report), data, page]})
        try:
            heard = _binary.run([arguments[0], *own, *arguments[1:]], progress)
        except JobFailed as error:
            if not data.is_file():
                raise
            raw = json.loads(data.read_text(encoding="utf-8"))
            failed = raw.get("verify") is not None and not raw["verify"].get("passed", True)
            if not failed:
                raise
            found = Report.of(raw, html=page.read_text(encoding="utf-8"))
            raise CheckFailed(str(error), found) from None
        raw = json.loads(data.read_text(encoding="utf-8"))
        # The command shows most of its warnings in the table on stdout, which nobody sees here.
        for warning in raw.get("warnings", []):
            if warning not in heard:
                _binary.warn(warning)
        return raw, page.read_text(encoding="utf-8")


def report_files(report: Reports) -> list[str]:
    """Report files as a list."""
    if report is None:
        return []
    if isinstance(report, (str, os.PathLike)):
        return [os.fspath(report)]
    return [os.fspath(path) for path in report]
