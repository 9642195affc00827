"""What notebooks show."""

from __future__ import annotations

import html
from typing import Any

from ._errors import MissingPackage


def frame(page: str) -> str:
    """A page within a notebook, whose styles stay its own."""
    return f'<iframe srcdoc="{html.escape(page)}" sandbox style="width: 100%; height: 36rem; border: 0"></iframe>'


def axes(what: str) -> Any:
    """New axes of matplotlib."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingPackage("matplotlib", what) from error
    return pyplot.subplots()[1]
