"""What the whole job takes, of two builds in turn: prints a table of jobs and one of their phases.

    whole_job BEFORE AFTER [--repeat N] [--job NAME]...

BEFORE and AFTER are two binaries of dirnet, of which the first is what the second is compared with. Every job is run by the one
and then the other, N times (3 by default), and medians are shown: seconds of processor (of all threads), seconds, peak memory,
bytes of the file, and the loss on held-out samples. DIRNET_MODELS names the folder of the models that are not in this repository.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "experiments"))
import harness  # noqa: E402
import catalogue  # noqa: E402
import large  # noqa: E402

# Name, model and flags; the first is the command that README begins with.
JOBS = [
    ("README, charlm lstm256 at 8", "charlm lstm256", ["--ratio", "8"]),
    ("charlm lstm512 at 16, untuned", "charlm lstm512", ["--ratio", "16", "--tune", "off"]),
    ("charlm lstm512 at 16", "charlm lstm512", ["--ratio", "16"]),
    ("charlm lstm512 at 16, full", "charlm lstm512", ["--ratio", "16", "--tune", "full"]),
    ("two LSTM-1500, random", "large", ["--ratio", "8", "--tune", "off"]),
    ("g2p encoder at 12, full", "g2p_id encoder", ["--ratio", "12", "--tune", "full"]),
    ("g2p encoder at 12", "g2p_id encoder", ["--ratio", "12"]),
    ("Silero VAD v5 at 8", "Silero VAD v5", ["--ratio", "8"]),
    ("DTLN part 1 at 8", "DTLN part 1", ["--ratio", "8"]),
    ("byte BiLSTM at 8", "byte sentence BiLSTM", ["--ratio", "8"]),
]
PHASES = ["calibrate", "learn", "allocate", "tune", "verify"]


class Run:
    """One job done once."""

    def __init__(self, binary, arguments, out):
        report = out.with_suffix(".json")
        command = [str(binary), "compress", *map(str, arguments), "-o", str(out), "--report", str(report), "-q", "--no-config"]
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(command)}\n{said}")
        self.wall = time.monotonic() - start
        # Workers are children of the child, which waits for them: their seconds are in its own, and so is their peak.
        self.processor, self.peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
        measured = json.loads(report.read_text())
        self.bytes, self.loss = out.stat().st_size, measured["verify"]["loss_mean"]
        self.phases = measured["seconds"]
        out.unlink()


def median(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def cells(runs):
    return [
        f"{median(runs, 'processor'):.0f}", f"{median(runs, 'wall'):.0f}", f"{median(runs, 'peak') / 1e6:.0f}",
        f"{median(runs, 'bytes') / 1e3:.0f}", f"{median(runs, 'loss'):.1e}",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--job", action="append", help="a part of a job's name")
    given = parser.parse_args()
    models = {model.name: model for model in catalogue.read()[0]}
    jobs = [job for job in JOBS if not given.job or any(part in job[0] for part in given.job)]
    head = ["processor s", "s", "peak MB", "KB", "loss"]
    print("| job | " + " | ".join(f"{of} {column}" for column in head for of in ("before:", "after:")) + " | processor |")
    print("|---|" + "--:|" * (2 * len(head) + 1))
    phases = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, model, flags in jobs:
            if model == "large":
                path, samples = large.paths(folder)
                large.write(path, samples)
                arguments = [path, "--calibration", samples, *flags]
            else:
                arguments = [models[model].path, *models[model].sample_arguments(), *flags]
            runs = {given.before: [], given.after: []}
            for _ in range(given.repeat):
                for binary in runs:
                    runs[binary].append(Run(binary.resolve(), arguments, folder / "small.onnx"))
            before, after = cells(runs[given.before]), cells(runs[given.after])
            share = median(runs[given.after], "processor") / median(runs[given.before], "processor")
            both = [cell for pair in zip(before, after) for cell in pair]
            print(f"| {name} | " + " | ".join(both) + f" | {share:.2f} |", flush=True)
            seconds = runs[given.after][-1].phases
            phases.append((name, [seconds.get(phase) or 0.0 for phase in PHASES], seconds["total"]))
    print("\n| job | " + " | ".join(PHASES) + " | rest | total s |")
    print("|---|" + "--:|" * (len(PHASES) + 2))
    for name, of, total in phases:
        print(f"| {name} | " + " | ".join(f"{s:.1f}" for s in [*of, max(total - sum(of), 0.0), total]) + " |")
    print(f"\nOn {harness.processor()}, {os.cpu_count()} threads.")


if __name__ == "__main__":
    main()
