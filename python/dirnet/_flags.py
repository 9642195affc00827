"""From keyword arguments to flags of the command: a keyword is the long flag with ``_`` in place of ``-``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Union

#: Bounds by check: a number for all outputs, or one for each output by its name.
Checks = Mapping[str, Union[float, Mapping[str, float]]]

#: What stands between name and value where a flag takes ``NAME=VALUE``; it is ``NAME:VALUE`` for the others.
_EQUALS = ("stream", "dim", "labels", "holdout_labels")


def flags(options: Mapping[str, object]) -> list[str]:
    """The flags of some options.

    ``None`` and ``False`` leave a flag out, ``True`` gives it without a value, a list gives it once for each entry, and a
    mapping once for each ``NAME=VALUE`` or ``NAME:VALUE``.
    """
    return [flag for name, value in options.items() for flag in _flag(name, value)]


def _flag(name: str, value: object) -> Iterable[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, Mapping):
        between = "=" if name in _EQUALS else ":"
        return [f"{flag}={key}{between}{_text(entry)}" for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        if name == "ratios":
            return [f"{flag}={','.join(map(_text, value))}"]
        return [f"{flag}={_text(entry)}" for entry in value]
    return [f"{flag}={_text(value)}"]


def _text(value: object) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    return str(value)
