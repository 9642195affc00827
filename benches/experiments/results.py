"""Writes docs/results.md: gain of bit allocation and fine-tuning, and cost of a run, evaluated by onnxruntime on the holdout.

    results.py charlm|curves|models|time ...     make the runs of these sections, then the page of all that was ever run
    results.py                                   only the page

A run is made once for a build of the tool (DIRNET_BIN names another): its record is kept under target/results.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

import harness
import judge_charlm
import judge_g2p
import large

import catalogue
import judge

RECORDS = catalogue.TARGET / "results"
PAGE = catalogue.PROJECT / "docs" / "results.md"

UNIFORM, LOCAL, MEASURED, FAST, FULL = (
    ("--sensitivity", "none", "--tune", "off"), ("--sensitivity", "local", "--tune", "off"), ("--tune", "off"),
    ("--tune", "fast"), ("--tune", "full"),
)  # fmt: skip
LABELS = {UNIFORM: "uniform", LOCAL: "local", MEASURED: "measured", FAST: "tuned", FULL: "tuned full"}
# The tables are about recurrent layers: nothing else is coded.
SCOPE = ("--scope", "recurrent")
# Where samples are few, the same plan coded with another seed has another loss: all seeds are run and averaged, and
# where few of them tell nothing, many.
SEEDS, MANY_SEEDS = range(3), range(8)
FEW_SAMPLES = {"DTLN part 1", "pose GRU", "amplifier LSTM-24"}

# Upper bounds that this project set itself: cross-entropy rise in nats, mean KL from the original.
BARS = {
    (8, MEASURED): (0.001, 0.004), (12, MEASURED): (0.003, 0.006), (16, MEASURED): (0.009, 0.013), (22, MEASURED): (0.016, 0.034),
    (16, FAST): (None, 0.0115), (22, FAST): (None, 0.032), (16, FULL): (0.006, 0.010), (22, FULL): (None, 0.028),
}  # fmt: skip
CHARLM_RUNS = [(ratio, how) for ratio in (8, 12, 16, 22) for how in (UNIFORM, MEASURED, FAST)] + [(16, LOCAL), (16, FULL), (22, FULL)]

# Models of models.toml with real samples, and the ratio that uniform budgets are asked for.
REAL = {
    "Silero VAD v5": 10, "Silero VAD v4": 8, "DTLN part 1": 12, "DTLN part 2": 12, "g2p_id encoder": 12, "g2p_id decoder": 12,
    "libtashkeel BiGRU-96": 8, "libtashkeel BiGRU-48, QDQ": 8, "pose GRU": 8, "GTCRN, streaming, simplified": 2,
    "byte sentence BiLSTM": 12, "amplifier LSTM-24": 4,
}  # fmt: skip
# Models with samples enough to be tuned, the ratios at which their size is set against their loss, and the seeds.
CURVES = {"g2p_id encoder": ((8, 12, 16), 1), "g2p_id decoder": ((8, 12, 16), 1), "pose GRU": ((6, 8, 10), 4)}


@dataclass(frozen=True)
class Record:
    """One run of the tool, and what onnxruntime says of its output."""

    code: int
    message: str
    seconds: float
    processor_seconds: float
    peak_mb: float
    ratio: float | None = None
    bytes_after: int | None = None
    judged: dict | None = None

    @property
    def done(self):
        return self.code == 0


class Runs:
    """Runs of the tool, each made once; those of the sections that were not asked for are only looked up."""

    def __init__(self, sections):
        self.sections = sections
        self.tool = hashlib.sha256(catalogue.BINARY.read_bytes()).hexdigest()
        self.models = {model.name: model for model in catalogue.read()[0]}
        RECORDS.mkdir(parents=True, exist_ok=True)

    def compress(self, section, path, arguments, judged):
        """The record of a run, or None; `judged(original, compressed, report)` gives its figures."""
        arguments = [str(argument) for argument in arguments]
        key = json.dumps([section, self.tool, str(path), [*SCOPE, *arguments]])
        kept = RECORDS / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if kept.exists():
            return Record(**json.loads(kept.read_text()))
        if section not in self.sections:
            return None
        record = run(path, arguments, judged)
        kept.write_text(json.dumps(asdict(record), indent=1))
        print(path.parent.name, path.name, *(a for a in arguments if "/" not in a), record, flush=True)
        return record


def run(path, arguments, judged):
    with tempfile.TemporaryDirectory() as folder:
        out, report = Path(folder) / "small.onnx", Path(folder) / "report.json"
        command = [catalogue.BINARY, "compress", path, "-o", out, *SCOPE, *arguments, "--report", report, "-q"]
        begin = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        message = child.stderr.read().strip()
        _, status, usage = os.wait4(child.pid, 0)  # what this child alone took
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begin
        child.returncode = code
        taken = Record(code, message, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)
        if code != 0:
            return taken
        told = json.loads(report.read_text())
        sizes = told["recurrent"]
        return replace(taken, ratio=sizes["ratio"], bytes_after=sizes["bytes_after"], judged=judged(path, out, told))


# -- charlm ----------------------------------------------------------------------------------------------------------------


def charlm_judged(original, compressed, _report):
    tokens = np.load(judge_charlm.CHARLM / "holdout.npz")["tokens"]
    labels = np.load(judge_charlm.CHARLM / "holdout_labels.npz")["logits"]
    return judge_charlm.judge(original, compressed, tokens, labels)


def charlm_run(runs, section, ratio, how):
    model = runs.models["charlm lstm512"]
    return runs.compress(section, model.path, ["--ratio", ratio, *model.sample_arguments(), "--loss", "kl", *how], charlm_judged)


def verdict(ratio, how, record):
    """Which targets a run meets; empty if it has none."""
    names = ("rise", "KL")
    bars = [
        (name, bar, value)
        for name, bar, value in zip(names, BARS.get((ratio, how), ()), (record.judged["increase"], record.judged["kl"]))
        if bar is not None
    ]
    return ", ".join(f"{name} ≤ {bar:g} {'met' if value <= bar else '**missed**'}" for name, bar, value in bars)


def charlm_section(runs):
    rows, shown = [], {}
    for ratio, how in CHARLM_RUNS:
        record = charlm_run(runs, "charlm", ratio, how)
        if record is None:
            continue
        figures, shown[how] = record.judged, True
        rows.append([
            f"{ratio}", LABELS[how], f"{record.ratio:.2f}", f"{record.bytes_after:,}", f"{figures['increase']:+.4f}",
            f"{figures['kl']:.4f}", f"{record.processor_seconds:.0f}", f"{record.peak_mb:.0f}", verdict(ratio, how, record),
        ])  # fmt: skip
    if not rows:
        return None
    head = ["`--ratio`", "allocation", "ratio", "bytes", "rise, nats", "KL, nats", "processor s", "peak MB", "targets"]
    return f"""## charlm: two LSTM-512 layers

`lstm512.onnx` of `fixtures/README.md` (sha256 `{runs.models["charlm lstm512"].sha256()}`), 13,107,200 bytes of recurrent weights.
*rise* is the rise of the cross-entropy on the labelled holdout ({figures["characters"]:,} characters, {figures["cross_entropy_original"]:.4f} nats before),
*KL* the mean KL divergence from the original's prediction, on the same characters. *targets* are those that this project set itself.

    dirnet compress lstm512.onnx -o small.onnx --scope recurrent --ratio R --calibration calibration.npz --holdout holdout.npz --loss kl HOW
    python benches/experiments/judge_charlm.py lstm512.onnx small.onnx

{hows(shown)}

{table(head, rows)}

Fine-tuning that lowers the loss by less than 3 % is discarded. The rise varies by about 0.003 with `--seed`; at 22, seeds 0 and 1 of builds with the same
bit allocation gave 0.014 to 0.021.
"""


# -- size against loss, with and without tuning ----------------------------------------------------------------------------


def curves_section(runs):
    rows = []
    for name, (ratios, seeds) in CURVES.items():
        model = runs.models[name]
        for ratio in ratios:
            records = [[model_run(runs, model, ratio, how, seed, "curves") for seed in range(seeds)] for how in (MEASURED, FAST, FULL)]
            if any(record is None or not record.done for of_seeds in records for record in of_seeds):
                continue
            untuned, *tuned = ([record.judged["loss"] for record in of_seeds] for of_seeds in records)
            cells = [cell for losses in tuned for cell in (f"{mean(losses):.3g}", gain(untuned, losses))]
            seconds = " / ".join(f"{of_seeds[0].processor_seconds:.0f}" for of_seeds in records)
            first = records[0][0]
            rows.append([
                name, f"{first.ratio:.2f}", f"{seeds}", f"{first.bytes_after:,}", first.judged["kind"], f"{mean(untuned):.3g}", *cells, seconds,
            ])  # fmt: skip
    if not rows:
        return None
    head = ["model", "ratio", "seeds", "bytes", "loss", "measured", "tuned", "", "tuned full", "", "processor s"]
    return f"""## Size against loss, with and without tuning

The rows of a model have about the same bytes of recurrent weights and the same bit allocation, except for small models with `--tune full`. The loss is that of the next table,
as the geometric mean over seeds.
Percentages are relative to no fine-tuning; *noise* marks those below two standard errors. Bytes and processor seconds are those of seed 0.

    dirnet compress MODEL -o small.onnx --scope recurrent --ratio R --calibration CALIBRATION --holdout HOLDOUT HOW
    python tests/runtimes/judge.py MODEL small.onnx --samples HOLDOUT

{hows((MEASURED, FAST, FULL))}

{table(head, rows)}
"""


# -- the other models ------------------------------------------------------------------------------------------------------


def model_judged(model):
    def judged(original, compressed, report):
        """The worst of the outputs: by KL if the tool found an output to be a distribution, else by nmse."""
        before, after = judge.session(original), judge.session(compressed)
        differences = judge.compare(before, after, model.streams(before), model.carries)
        distributions = {o["name"] for o in report["verify"]["outputs"] if o["kl"] is not None} & differences.keys()
        kind, names = ("kl", distributions) if distributions else ("nmse", differences.keys())
        figures = {name: differences[name].figures() for name in sorted(differences)}
        loss = max((figures[name][kind] for name in names if figures[name][kind] is not None), default=None)
        return {"kind": kind, "loss": loss, "outputs": {name: [f["nmse"], f["kl"]] for name, f in figures.items()}}

    return judged


def model_run(runs, model, ratio, how, seed, section="models"):
    arguments = ["--ratio", f"{ratio:.6g}", *model.sample_arguments(), *how, "--seed", seed]
    return runs.compress(section, model.path, arguments, model_judged(model))


def g2p_changed(runs, how):
    with tempfile.TemporaryDirectory() as folder:
        pair = [Path(folder) / "encoder.onnx", Path(folder) / "decoder.onnx"]
        for name, out in zip(("g2p_id encoder", "g2p_id decoder"), pair):
            model = runs.models[name]
            command = [catalogue.BINARY, "compress", model.path, "-o", out, *SCOPE, "--ratio", 12, *model.sample_arguments(), *how, "-q"]
            subprocess.run([str(argument) for argument in command], check=True, stdout=subprocess.DEVNULL)
        return judge_g2p.changed(*pair)


def g2p_section(runs):
    """The pair of g2p models, each by its own run."""
    kept = RECORDS / f"g2p-{runs.tool[:24]}.json"
    if "models" in runs.sections and not kept.exists():
        kept.write_text(json.dumps([g2p_changed(runs, how) for how in (UNIFORM, MEASURED, FAST)]))
    if not kept.exists():
        return ""
    rows = [
        [LABELS[how], f"{counts['changed']} of {counts['words']}", f"{counts['changed'] / counts['words']:.1%}"]
        for how, counts in zip((UNIFORM, MEASURED, FAST), json.loads(kept.read_text()))
    ]
    return f"""The g2p encoder and decoder together, both at `--ratio 12`: words of the encoder's holdout whose pronunciation by greedy decoding in onnxruntime differs from that of the
original pair.

    python benches/experiments/judge_g2p.py small_encoder.onnx small_decoder.onnx

{table(["allocation", "changed", ""], rows)}
"""


def rounded_down(ratio):
    """Of a ratio that was reached: what is asked for to get the same bytes."""
    return math.floor(ratio * 1000) / 1000


def models_section(runs):
    rows, all_runs = [], True
    for name, ratio in REAL.items():
        model = runs.models[name]
        seeds = MANY_SEEDS if name in FEW_SAMPLES else SEEDS
        records = {UNIFORM: [model_run(runs, model, ratio, UNIFORM, seed) for seed in seeds]}
        if None in records[UNIFORM]:
            continue
        reached = rounded_down(records[UNIFORM][0].ratio)
        for how in (MEASURED, FAST):
            records[how] = [model_run(runs, model, reached, how, seed) for seed in seeds]
        if any(None in runs_of for runs_of in records.values()):
            continue
        sizes = " / ".join(f"{runs_of[0].bytes_after:,}" for runs_of in records.values())
        losses = {how: [record.judged["loss"] for record in runs_of] for how, runs_of in records.items()}
        cells = [f"{mean(losses[UNIFORM]):.3g}", spread(losses[UNIFORM])]
        for how in (MEASURED, FAST):
            cells += [f"{mean(losses[how]):.3g}", spread(losses[how]), gain(losses[UNIFORM], losses[how])]
        rows.append([name, f"{reached:.2f}", f"{len(seeds)}", sizes, records[UNIFORM][0].judged["kind"], *cells])
    if not rows:
        return None
    head = ["model", "ratio", "seeds", "bytes", "loss", "uniform", "", "measured", "", "", "tuned", "", ""]
    return f"""## Other models, at equal bytes

The ratio that uniform allocation reaches is the target of the others (*bytes*: uniform / measured / tuned, of the recurrent weights).
The loss is the worst of the outputs that are not fed back, on the holdout, in onnxruntime: KL in nats where the output is a distribution, else the
mean squared error over the variance of the original's output. It is that of {len(SEEDS)} seeds, or {len(MANY_SEEDS)} where samples
are few and seeds differ most (geometric mean, least to largest). The percentages are relative to uniform; *noise* marks those below two standard
errors. Origins, checksums and `--stream` of each model are in `docs/models.md`.

    dirnet compress MODEL -o small.onnx --scope recurrent --ratio R --calibration CALIBRATION --holdout HOLDOUT [--stream ...] --seed SEED HOW
    python tests/runtimes/judge.py MODEL small.onnx --samples HOLDOUT [--stream ...]

{hows((UNIFORM, MEASURED, FAST))}

{table(head, rows)}

- Models that are run as one stream of 300 frames (Silero, DTLN, GTCRN) are not fine-tuned: a gain on held-out parts of one stream is
  often a loss on another stream.
- On libtashkeel BiGRU-96 allocation by sensitivity is worse than uniform allocation (`--sensitivity none`).
- The losses of the pose GRU and of Silero v4 are too small for a comparison. The gates of GTCRN are too small for a ratio above 2.

{g2p_section(runs)}"""


# Float32 outputs can tell no smaller losses, and give negative ones now and then: they count as this.
LEAST = 1e-9


def logarithms(losses):
    return np.log(np.maximum(losses, LEAST))


def mean(losses):
    return math.exp(logarithms(losses).mean())


def spread(losses):
    least, greatest = (f"{loss:.2g}" if loss > LEAST else f"under {LEAST}" for loss in (min(losses), max(losses)))
    return f"{least} to {greatest}" if len(losses) > 1 else ""


def gain(some, others):
    """How far the mean of `others` is from that of `some`; two standard errors, where known, are the least that is no noise."""
    a, b = logarithms(some), logarithms(others)
    change = b.mean() - a.mean()
    is_noise = a.size > 1 and abs(change) < 2 * math.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size)
    return f"{100 * math.expm1(change):+.0f} %{' (noise)' if is_noise else ''}"


# -- time and memory -------------------------------------------------------------------------------------------------------


def time_section(runs):
    rows = []
    for how, seconds, megabytes in ((UNIFORM, 30, 500), (MEASURED, 90, 700), (FAST, 180, 1000)):
        if record := charlm_run(runs, "time", 16, how):
            rows.append(timed(f"charlm lstm512, {LABELS[how]}", record, seconds, megabytes))
    model, samples = large.paths(RECORDS)
    if "time" in runs.sections:
        large.write(model, samples)
    size = large.WEIGHT_BYTES / 1e6
    for how in (UNIFORM, MEASURED, FAST):
        if record := runs.compress("time", model, ["--ratio", 16, "--calibration", samples, *how], lambda *_: {}):
            rows.append(timed(f"two LSTM-1500 layers ({size:.0f} MB), {LABELS[how]}", record, 300, 2.5 * size + 300))
    if not rows:
        return None
    head = ["job", "seconds", "target", "processor s", "peak MB", "target", ""]
    return f"""## Time and memory

The whole run from reading the file to the verified result, at `--scope recurrent --ratio 16`. The large model has random weights and random inputs (`benches/experiments/large.py`), so only its
time and memory are meaningful. Other jobs ran on the machine, so the seconds
are an upper bound; processor seconds hardly depend on that.

{table(head, rows)}
"""


def timed(name, record, seconds, megabytes):
    met = record.done and record.seconds <= seconds and record.peak_mb <= megabytes
    cells = [f"{record.seconds:.0f}", f"{seconds}", f"{record.processor_seconds:.0f}", f"{record.peak_mb:.0f}", f"{megabytes:.0f}"]
    return [name, *cells, "met" if met else "**missed**"]


# -- the page --------------------------------------------------------------------------------------------------------------


def hows(hows):
    return "\n".join(f"- *{LABELS[how]}*: `{' '.join(how)}`" for how in hows)


def table(head, rows):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def machine():
    return f"{harness.processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, onnxruntime {onnxruntime.__version__}"


HEAD = """# Results

Results of `dirnet compress` on real models with three ways to allocate bits: the same number for all gates (*uniform*), by sensitivity (*measured*), and by
sensitivity with fine-tuning (*tuned*). Evaluated by onnxruntime on held-out samples; generated by `benches/experiments/results.py`, do not edit. Only
recurrent layers are compressed (`--scope recurrent`), and ratios are of their weights, including codebooks, scales and the extra graph nodes. Processor seconds are the sum over all cores.

**[Methods compared](methods.md)**: size against loss of the codecs, pruning, rounding, LSTM-SVD and LSTM-ODL at equal bytes, table and plot.

**[Latency](latency.md)**: size, latency, time to load, peak and steady memory in onnxruntime: dense, `quantize_dynamic`, and each form of dirnet.
"""
SECTIONS = {"charlm": charlm_section, "curves": curves_section, "models": models_section, "time": time_section}


def main():
    asked = set(sys.argv[1:])
    if unknown := asked - SECTIONS.keys():
        sys.exit(f"no such section: {', '.join(unknown)}")
    runs = Runs(asked)
    sections = [text for section in SECTIONS.values() if (text := section(runs))]
    if not sections:
        sys.exit("nothing was run yet with this build of the tool")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join([HEAD, f"Measured on {machine()}.\n", *sections]))


if __name__ == "__main__":
    main()
