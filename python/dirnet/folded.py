"""Fails on compressed models that an optimiser folded back to dense: ``python -m dirnet.folded small.onnx ...``.

For a pre-commit hook or a CI job. Such a file works, but is as large as the original. Files that dirnet did not make pass.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ._api import inspect
from ._errors import DirnetError


def main(files: Sequence[str]) -> int:
    """Prints a line for each file that is folded back or cannot be read, and returns the exit code: 1 if there is any."""
    faults = [fault for fault in map(_fault, files) if fault is not None]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _fault(file: str) -> str | None:
    try:
        folded = inspect(file).folded_back
    except DirnetError as error:
        return str(error)
    if not folded:
        return None
    return f"{file}: an optimiser folded the compressed weights back to dense; commit the file that dirnet wrote"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
