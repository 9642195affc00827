"""What single parts of the coder and the planner are worth: loss, bytes and processor seconds without each of them.

Needs a build with switches, which is not part of the product: `git apply benches/ablations.patch` on the commit that
docs/experiments.md names, then `cargo build --release`. That build calibrates a model once, and then plans and codes it
once for each variant. The losses are those of verification on the holdout samples.

    python benches/ablations.py run --dirnet DIRNET --models DIRECTORY --out results.tsv [--only amp,pose] [--seeds 0,1]
    python benches/ablations.py check --dirnet DIRNET --models DIRECTORY [--only pose]     # by onnxruntime
    python benches/ablations.py table results.tsv [--variants no-node,no-model]

`run` goes on where it was stopped: what is in results.tsv is not run again.
"""

import argparse
import collections
import math
import os
import pathlib
import subprocess
import sys
import tempfile

# Name: file, samples, ratios, and what a stream carries. Small models cannot become 8 times smaller: a codebook weighs more
# than their codes.
DTLN = "h1_in=out_state{0}[0:1] c1_in=out_state{0}[1:2] h2_in=out_state{0}[2:3] c2_in=out_state{0}[3:4]"
MODELS = {
    "amp": ("amp_lstm24/model", "npz", "4", "hin=hout cin=cout"),
    "gtcrn": (
        "gtcrn_stream/gtcrn_simple", "npz", "1.8",
        "conv_cache=conv_cache_out tra_cache=tra_cache_out inter_cache=inter_cache_out",
    ),
    "pose": ("pose_gru/gru_model", "npz", "8,12", ""),
    "silero5op15": ("silero_vad_v5_op15/silero_vad_16k_op15", "npz", "8,12", "state=stateN"),
    "g2p_encoder": ("g2p_id/encoder_model", "npz", "8,12", ""),
    "ecg": ("ecg_bilstm/lstm_model", "npz", "8", ""),
    "byte_bilstm": ("tract_byte_bilstm/model", "npz", "8,12", ""),
    "dtln1": ("dtln_pytorch/model_p1", "npz", "8,12", DTLN.format(1)),
    "dtln2": ("dtln_pytorch/model_p2", "npz", "8,12", DTLN.format(2)),
    "tashkeel96": ("tashkeel_gru96/model", "", "8,12", ""),
    "charlm_gru256": ("charlm/gru256", "charlm", "8,12", ""),
    "charlm_lstm256": ("charlm/lstm256", "charlm", "8,12", ""),
}


def command(arguments, name, seed, out):
    """The command for a model, and the ratios it is to be tried at."""
    model, samples, ratios, stream = MODELS[name]
    folder = pathlib.Path(arguments.models)
    place = "charlm/" if samples == "charlm" else f"{model}."
    ending = {"charlm": ".npz", "npz": ".npz", "": ""}[samples]
    files = [str(folder / f"{place}{kind}{ending}") for kind in ("calibration", "holdout")]
    flags = ["--calibration", files[0], "--holdout", files[1], "--seed", str(seed), "--threads", "1", "--tune", "off"]
    flags += ["--sensitivity", arguments.sensitivity, "--ratio", ratios.split(",")[0]]
    if stream:
        flags += ["--stream", *stream.split()]
    return [arguments.dirnet, "compress", str(folder / f"{model}.onnx"), "-o", str(out), "-q", *flags], ratios


def run(arguments):
    done = set()
    out = pathlib.Path(arguments.out)
    if out.exists():
        done = {tuple(line.split("\t")[:2]) for line in out.read_text().splitlines()}
    for seed in arguments.seeds.split(","):
        for name in arguments.only.split(",") if arguments.only else MODELS:
            if (name, seed) in done:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                words, ratios = command(arguments, name, seed, pathlib.Path(scratch) / "out.onnx")
                environment = os.environ | {"ABLATE_RATIOS": arguments.ratios or ratios}
                if arguments.variants:
                    environment["ABLATE_ONLY"] = arguments.variants
                running = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
                with out.open("a", buffering=1) as file:
                    file.writelines(f"{name}\t{seed}\t{line}" for line in running.stdout)
                if running.wait() != 0:
                    print(f"{name}: exit {running.returncode}", file=sys.stderr)


def check(arguments):
    """The loss of the first seed's results by onnxruntime: the nmse of each output on the holdout samples."""
    import numpy
    import onnxruntime

    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            words, ratios = command(arguments, name, 0, pathlib.Path(scratch) / "out.onnx")
            environment = os.environ | {"ABLATE_RATIOS": ratios, "ABLATE_SAVE": scratch, "ABLATE_ONLY": arguments.variants}
            shown = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
            print(shown, end="")
            sessions = {"original": onnxruntime.InferenceSession(words[2], providers=["CPUExecutionProvider"])}
            for path in sorted(pathlib.Path(scratch).glob("*-*.onnx")):
                sessions[path.stem] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            samples = numpy.load(words[words.index("--holdout") + 1])
            carry = [pair.split("=") for pair in MODELS[name][3].split()]
            runs = {key: outputs(session, samples, carry) for key, session in sessions.items()}
        for key, values in runs.items():
            if key != "original":
                for output, theirs in values.items():
                    ours = runs["original"][output]
                    loss = numpy.mean((ours - theirs) ** 2) / numpy.var(ours)
                    print(f"{name}\t{key}\tonnxruntime\t{output}\tnmse {loss:.4e}")


def outputs(session, samples, carry):
    """All outputs of a model on samples `[count, ..]`, states carried from one to the next."""
    import numpy

    names = [output.name for output in session.get_outputs()]
    types = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}
    shape = lambda given: [size if isinstance(size, int) else 1 for size in given.shape]
    states = {i.name: numpy.zeros(shape(i), types[i.type]) for i in session.get_inputs() if i.name not in samples}
    found = collections.defaultdict(list)
    for index in range(len(next(iter(samples.values())))):
        given = dict(zip(names, session.run(names, {key: samples[key][index] for key in samples} | states)))
        for into, source in carry:
            source, _, span = source.partition("[")
            first, last = map(int, span[:-1].split(":")) if span else (None, None)
            states[into] = given[source][first:last]
        for key, value in given.items():
            found[key].append(value)
    return {key: numpy.stack(values) for key, values in found.items()}


def table(arguments):
    losses, seconds = collections.defaultdict(dict), collections.defaultdict(dict)
    for line in pathlib.Path(arguments.results).read_text().splitlines():
        name, seed, ratio, variant, *rest = line.split("\t")
        if len(rest) >= 4 and variant not in ("study", "forecast", "forecast-seconds"):
            key = (name, seed, ratio)
            losses[variant][key] = float(rest[0])
            seconds[variant][key] = float(rest[2]) + float(rest[3])
    variants = arguments.variants.split(",") if arguments.variants else [v for v in losses if v != "all"]
    print("| model, ratio | loss | " + " | ".join(variants) + " |")
    print("|---|" + "---|" * (len(variants) + 1))
    cases = sorted({(name, ratio) for name, _, ratio in losses["all"]}, key=lambda c: (list(MODELS).index(c[0]), float(c[1])))
    columns = collections.defaultdict(list)
    for name, ratio in cases:
        keys = [key for key in losses["all"] if (key[0], key[2]) == (name, ratio)]
        cells = []
        for variant in variants:
            known = [key for key in keys if key in losses[variant]]
            if not known:
                cells.append("")
                continue
            factor = mean(losses[variant][key] / losses["all"][key] for key in known)
            columns[variant].append((factor, mean(seconds[variant][k] / seconds["all"][k] for k in known)))
            cells.append(f"{factor:.3f}")
        loss = mean(losses["all"][key] for key in keys)
        print(f"| {name}, {ratio} ({len(keys)} seeds) | {loss:.2e} | " + " | ".join(cells) + " |")
    for what, place in (("geometric mean", 0), ("seconds", 1)):
        cells = [f"{mean(column[place] for column in columns[variant]):.3f}" for variant in variants]
        print(f"| {what} | | " + " | ".join(cells) + " |")


def mean(values):
    """The geometric mean."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("check", check), ("table", table)):
        sub = commands.add_parser(name)
        sub.set_defaults(function=function)
        sub.add_argument("--variants", default="all" if name == "check" else "")
        if name == "table":
            sub.add_argument("results")
            continue
        sub.add_argument("--dirnet", required=True)
        sub.add_argument("--models", required=True)
        sub.add_argument("--sensitivity", default="measured")
        sub.add_argument("--only", default="" if name == "run" else "pose")
        if name == "run":
            sub.add_argument("--out", default="results.tsv")
            sub.add_argument("--seeds", default="0,1")
            sub.add_argument("--ratios", default="")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
