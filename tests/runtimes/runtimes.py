"""The runtimes of docs/runtimes.md: how each is called, and one run of a model in one of them.

A run is a child process with a time and a memory limit, so that a crash is a result like any other. What it gave is kept under
target/runtimes/runs by the contents of model, feeds, adapter and environment: nothing is run twice.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import catalogue
from adapters import adapter

HERE = Path(__file__).parent / "adapters"
HOME = Path(os.environ.get("DIRNET_RUNTIMES", catalogue.TARGET / "runtimes"))
SECONDS, BYTES = 300, 6 << 30
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Python for aarch64 in qemu, which takes the libraries from the folder of its system. The processor is one that OpenBLAS of numpy
# has no kernels of its own for in this emulation, so it is told to use those for any.
SYSTEM = HOME / "aarch64" / "root"
EMULATED = [
    SYSTEM / "usr/bin/qemu-aarch64-static", "-L", SYSTEM, "-cpu", "cortex-a72",
    "-E", "OPENBLAS_CORETYPE=ARMV8", "-E", f"PYTHONPATH={HOME / 'aarch64' / 'site'}", SYSTEM / "usr/bin/python3.11",
]  # fmt: skip


@dataclass(frozen=True)
class Runtime:
    """`package` in `environment` (or the words for what the version is of), run by `command`."""

    name: str
    environment: str
    package: str
    adapter: str
    few: bool = False  # slow: tried on a few models only

    @property
    def command(self):
        match self.environment:
            case "node":
                return ["node", HERE / self.adapter]
            case "rten":
                return [HOME / "rten" / "release" / self.adapter]
            case "examples":
                return [catalogue.TARGET / "release" / "examples" / self.adapter]
            case "aarch64":
                return [*EMULATED, HERE / self.adapter]
        return [HOME / self.environment / "bin" / "python", HERE / self.adapter]

    @property
    def there(self):
        return Path(shutil.which(self.command[0]) or "").is_file() and (self.name != "Chromium" or CHROMIUM is not None)

    @property
    def version(self):
        return _version(self)


RUNTIMES = [
    Runtime("onnxruntime", "python", "onnxruntime", "run_onnxruntime.py"),
    Runtime("onnxruntime 1.17", "python-1.17", "onnxruntime", "run_onnxruntime.py"),
    Runtime("Node", "node", "onnxruntime-node", "run_node.mjs"),
    Runtime("web", "node", "onnxruntime-web", "run_web.mjs"),
    Runtime("Chromium", "node", "onnxruntime-web", "run_chromium.mjs", few=True),
    Runtime("OpenVINO", "python", "openvino", "run_openvino.py"),
    Runtime("OpenCV", "python", "opencv-python-headless", "run_opencv.py"),
    Runtime("MNN", "python", "mnn", "run_mnn.py"),
    Runtime("ncnn", "python", "ncnn", "run_ncnn.py"),
    Runtime("rten", "rten", "rten", "run_rten"),
    Runtime("tract", "examples", "tract-onnx", "run_tract"),
    Runtime("reference", "python", "onnx", "run_reference.py"),
    Runtime("checker", "python", "onnx", "run_checker.py"),
]
# Not a column of the page: `aarch64` compares it with the same version on this machine.
AARCH64 = Runtime("onnxruntime 1.17, aarch64", "aarch64", "onnxruntime", "run_onnxruntime.py")


@cache
def _version(runtime):
    """The version of the package that is installed or locked."""
    match runtime.environment:
        case "node":
            package = HOME / "node" / "node_modules" / runtime.package / "package.json"
            of_browser = f", {_said(CHROMIUM, '--version')}" if runtime.name == "Chromium" else ""
            return json.loads(package.read_text())["version"] + of_browser
        case "rten" | "examples":
            lock = HERE / "rten" / "Cargo.lock" if runtime.environment == "rten" else catalogue.PROJECT / "Cargo.lock"
            return re.search(f'name = "{runtime.package}"\nversion = "(.*)"', lock.read_text()).group(1)
    return _said(*runtime.command[:-1], "-c", f"import importlib.metadata as m; print(m.version('{runtime.package}'))")


def _said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Ran:
    """The outputs of a run, or the runtime's words on why there are none."""

    outputs: dict | None
    words: str | None = None


def is_kept(runtime, model, feeds):
    """Whether this run was made before."""
    kept = HOME / "runs" / _key(runtime, model, feeds)
    return any(kept.with_suffix(suffix).exists() for suffix in (".safetensors", ".txt"))


def run(runtime, model, feeds):
    """`feeds` is a safetensors file."""
    kept = HOME / "runs" / _key(runtime, model, feeds)
    outputs, words = kept.with_suffix(".safetensors"), kept.with_suffix(".txt")
    if not is_kept(runtime, model, feeds):
        kept.parent.mkdir(parents=True, exist_ok=True)
        said = attempt(runtime, model, feeds, kept.with_suffix(".part"))
        if said is None:
            kept.with_suffix(".part").rename(outputs)
        else:
            words.write_text(said)
    return Ran(adapter.read(outputs)) if outputs.exists() else Ran(None, words.read_text())


def _key(runtime, model, feeds):
    digest = hashlib.sha256()
    side = model.with_name(model.name + ".data")
    source = HERE / runtime.adapter if "." in runtime.adapter else Path(runtime.command[0])
    for file in filter(Path.exists, (model, side, feeds, source, HERE / "adapter.py")):
        digest.update(file.read_bytes())
    digest.update(f"{runtime.name} {runtime.version}".encode())
    return digest.hexdigest()[:32]


def attempt(runtime, model, feeds, outputs):
    """One run, kept nowhere: None if it gave outputs, else what was said."""
    command = [*runtime.command, model, feeds, outputs]
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "RTEN_NUM_THREADS": "1",
        "DIRNET_NODE_MODULES": str(HOME / "node" / "node_modules"), "DIRNET_CHROMIUM": CHROMIUM or "",
    }  # fmt: skip

    def limits():
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))  # not the address space, which engines only reserve
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=environment, preexec_fn=limits, process_group=0,
    )  # fmt: skip
    try:
        said, _ = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return f"no answer within {SECONDS} s"
    if child.returncode == 0:
        return None
    lines = [line for line in said.splitlines() if line.strip()]
    last = plain(lines[-1]) if lines else "no message"
    return last if child.returncode > 0 else f"{signal.Signals(-child.returncode).name}: {last}"


def plain(line):
    """Without what differs from run to run: paths, keys in names of files, addresses, times."""
    line = re.sub(r"(/[\w.+@-]+){2,}/", "", line)
    line = re.sub(r"-[0-9a-f]{16}\b", "", line)
    line = re.sub(r"0x[0-9a-f]{6,}", "0x…", line)
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]*", "", line)
    line = re.sub(r"\x1b\[[\d;]*m", "", line)
    # What is wrong is often said last.
    return line.strip() if len(line) <= 200 else f"{line[:70].strip()} … {line[-130:].strip()}"
