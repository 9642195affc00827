"""Whether two builds of the tool write the same bytes: every model of models.toml, at one ratio, without fine-tuning.

    same_bytes.py BEFORE AFTER [--ratio 8] [NAME...]

BEFORE and AFTER are binaries. Prints a line for each model (same, DIFFERENT with both sizes, or the message of a model that
neither build compresses) and exits with 1 if any differs. NAME restricts it to models with that in their name.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import harness  # noqa: F401

from catalogue import read


def written(binary, model, ratio, out):
    command = [binary, "compress", model.path, "-o", out, "--ratio", ratio, "--tune", "off", "--no-verify", "--quiet"]
    done = subprocess.run(list(map(str, command)) + model.sample_arguments(), capture_output=True, text=True)
    if not out.exists():
        return None, done.stderr.strip().splitlines()[-1][:120] if done.stderr else f"exit {done.returncode}"
    data = b"".join(path.read_bytes() for path in sorted(out.parent.glob(f"{out.name}*")))
    return hashlib.sha256(data).hexdigest(), f"{len(data):,} bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    different = 0
    models, absent = read(names=asked.names)
    for name in absent:
        print(f"not there  {name}")
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            results = []
            for build, binary in (("before", asked.before), ("after", asked.after)):
                place = Path(folder) / build
                place.mkdir()
                results.append(written(binary.resolve(), model, asked.ratio, place / "out.onnx"))
        (before, was), (after, now) = results
        if before == after:
            print(f"same       {model.name}: {now}", flush=True)
        else:
            different += 1
            print(f"DIFFERENT  {model.name}: {was}, then {now}", flush=True)
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
