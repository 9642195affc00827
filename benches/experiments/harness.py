"""What the programs here have in common. Makes the modules of tests/runtimes, which run the tool and other people's runtimes,
importable: import this before them.
"""

import platform
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "runtimes"))


def processor():
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
