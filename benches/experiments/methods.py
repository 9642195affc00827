"""Writes docs/methods.md and its plot: size against loss of both codecs and of the baselines, evaluated by onnxruntime.

    methods.py run     make the runs that have no record yet for this build of the tool (DIRNET_BIN names another), then the page
    methods.py         only the page, of what was run

Records are kept under target/methods; those of the baselines, which do not depend on the build, by the text of baselines.py.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import harness  # noqa: F401
import baselines
import results

import catalogue

RECORDS = catalogue.TARGET / "methods"
PAGE = catalogue.PROJECT / "docs" / "methods.md"
PLOT = catalogue.PROJECT / "docs" / "img" / "methods.svg"

CODECS = ("projection", "block", "auto")
CHARLM = "charlm lstm512"
RATIOS = {CHARLM: (4, 6.8, 8, 11.9, 16), "g2p_id encoder": (4, 8, 12), "libtashkeel BiGRU-96": (4, 6, 8)}
# What the loss of the others is: of the outputs, the worst.
KINDS = {"g2p_id encoder": "nmse", "libtashkeel BiGRU-96": "kl"}
LOSSES = {"nmse": "mean squared error over the variance of the original's output, the worse of two outputs", "kl": "mean KL from the original, in nats a character"}
# Rise of the cross-entropy that this project set itself as the most for the projection codec.
BARS = {6.8: 0.02, 11.9: 0.03}
COLOURS = ("#0b6e4f", "#d1495b", "#edae49", "#8d99ae", "#8d99ae", "#5c677d", "#30638e", "#003d5b", "#7768ae")


def judged(model):
    return results.charlm_judged if model.name == CHARLM else results.model_judged(model)


def figures(model, told):
    """Loss to show, and the rise of the cross-entropy where there are labels."""
    if model.name == CHARLM:
        return told["kl"], told["increase"]
    kind = ("nmse", "kl").index(KINDS[model.name])
    return max(figures[kind] for figures in told["outputs"].values() if figures[kind] is not None), None


def kept(key, make, may_run):
    path = RECORDS / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
    if not path.exists():
        if not may_run:
            return None
        path.write_text(json.dumps(make()))
        print(key[1:], path.read_text(), flush=True)
    return json.loads(path.read_text())


def codec_run(model, codec, ratio):
    arguments = ["--ratio", ratio, *model.sample_arguments(), "--codec", codec, "--tune", "off"]
    arguments += ["--loss", "kl"] if model.name == CHARLM else []
    record = results.run(model.path, [str(a) for a in arguments], judged(model))
    if not record.done:
        return {"message": record.message}
    loss, rise = figures(model, record.judged)
    return {"ratio": record.ratio, "loss": loss, "rise": rise}


def baseline_run(model, method, ratio):
    weights = baselines.Weights.read(model.path)
    made = baselines.METHODS[method](weights, 4 * weights.count() / ratio)
    if made is None:
        return {"message": "does not go so low"}
    tensors, size = made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "baseline.onnx"
        weights.save(tensors, path)
        loss, rise = figures(model, judged(model)(model.path, path, {"verify": {"outputs": []}}))
    return {"ratio": 4 * weights.count() / size, "loss": loss, "rise": rise}


def runs(may_run):
    """Model -> method -> ratio asked -> figures."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    tool = hashlib.sha256(catalogue.BINARY.read_bytes()).hexdigest()
    text = hashlib.sha256(Path(baselines.__file__).read_bytes()).hexdigest()
    models = {model.name: model for model in catalogue.read()[0]}
    found = {}
    for name, ratios in RATIOS.items():
        model = models[name]
        of_model = found.setdefault(name, {})
        for codec in CODECS:
            for ratio in ratios:
                record = kept([tool, name, KINDS.get(name), codec, ratio, *results.SCOPE], lambda: codec_run(model, codec, ratio), may_run)
                if record:
                    of_model.setdefault(codec, {})[ratio] = record
        for method in baselines.METHODS:
            # Rounding has one size only.
            for ratio in ratios[:1] if method in ("int8", "int4") else ratios:
                record = kept([text, name, KINDS.get(name), method, ratio], lambda: baseline_run(model, method, ratio), may_run)
                if record:
                    of_model.setdefault(method, {})[ratio] = record
    return found


def cell(record, rise):
    if record is None:
        return ""
    if "message" in record:
        return "–"
    value = f"{record['loss']:.3g}" + (f" ({record['rise']:+.4f})" if rise else "")
    return f"{record['ratio']:.1f}x: {value}"


def section(name, of_model):
    ratios, rise = RATIOS[name], name == CHARLM
    rows = [[method, *(cell(records.get(r), rise) for r in ratios)] for method, records in of_model.items()]
    what = "mean KL from the original in nats a character (in parentheses the rise of the cross-entropy, which varies by about 0.003 with `--seed`)" if rise else LOSSES[KINDS[name]]
    return f"""## {name}

Loss: {what}, on the holdout.

{results.table(["method", *(f"target {r:g}x" for r in ratios)], rows)}
"""


def bars(of_model):
    lines = []
    for ratio, most in BARS.items():
        record = of_model.get("projection", {}).get(ratio)
        if record and "rise" in record:
            met = "met" if record["rise"] <= most else "**missed**"
            lines.append(f"- at {record['ratio']:.1f}x the projection codec raises the cross-entropy by {record['rise']:+.4f}, target at most {most:g}: {met}")
    for ratio, record in of_model.get("projection", {}).items():
        for rival in ("LSTM-SVD, int8", "LSTM-ODL, int8"):
            other = of_model.get(rival, {}).get(ratio)
            if other and "loss" in other and "loss" in record:
                lines.append(f"- at {record['ratio']:.1f}x {rival} has {other['loss'] / record['loss']:.0f} times the loss of the projection codec")
    return "\n".join(lines)


def plot(of_model):
    """Loss against ratio, both on a logarithmic scale."""
    from math import log10

    width, height, left, right, top, bottom = 760, 440, 64, 170, 24, 48
    points = [r for records in of_model.values() for r in records.values() if r.get("loss")]
    losses, ratios = [max(r["loss"], 1e-6) for r in points], [r["ratio"] for r in points]
    low, high = log10(min(losses)) - 0.1, log10(max(losses)) + 0.1
    first, last = log10(min(ratios)) - 0.03, log10(max(ratios)) + 0.03
    x = lambda ratio: left + (log10(ratio) - first) / (last - first) * (width - left - right)
    y = lambda loss: top + (high - log10(max(loss, 1e-6))) / (high - low) * (height - top - bottom)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for power in range(-6, 3):
        if low <= power <= high:
            at = y(10.0**power)
            parts.append(f'<path d="M{left} {at:.1f}H{width - right}" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for ratio in (4, 6, 8, 12, 16):
        if first <= log10(ratio) <= last:
            parts.append(f'<path d="M{x(ratio):.1f} {top}V{height - bottom}" stroke="#eee"/>')
            parts.append(f'<text x="{x(ratio):.1f}" y="{height - bottom + 18}" text-anchor="middle">{ratio}x</text>')
    parts.append(f'<text x="{left}" y="{height - 10}">times smaller (stored bytes of W and R)</text>')
    parts.append(f'<text x="{left}" y="{top - 8}">mean KL, nats a character</text>')
    # What takes the better of two lies under them.
    for index, (method, records) in sorted(enumerate(of_model.items()), key=lambda entry: entry[1][0] != "auto"):
        line = [(x(r["ratio"]), y(r["loss"])) for _, r in sorted(records.items()) if r.get("loss")]
        if not line:
            continue
        colour, at = COLOURS[index % len(COLOURS)], top + 16 + 20 * index
        more = "" if method in CODECS else ' stroke-dasharray="5 3"'
        more = ' stroke-opacity="0.5"' if method == "auto" else more
        thick = 7 if method == "auto" else 2
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{thick}"{more}/>')
        parts.extend(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in line)
        parts.append(f'<path d="M{width - right + 14} {at - 4}h22" stroke="{colour}" stroke-width="{thick}"{more}/>')
        parts.append(f'<text x="{width - right + 42}" y="{at}">{method}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


HEAD = """# Methods compared

Both codecs of `dirnet` against the baselines of the literature, on the same models at the same stored bytes.
Nothing is retrained or fine-tuned (`--tune off`). Evaluated by onnxruntime on held-out samples; generated by
`benches/experiments/methods.py`, do not edit.

    python benches/experiments/methods.py run
    dirnet compress MODEL -o small.onnx --scope recurrent --ratio R --codec block|projection|auto --tune off --calibration CALIBRATION --holdout HOLDOUT

Ratios are of the bytes of W and R. For the codecs they include all bytes in the file, also graph nodes. For the baselines (`benches/experiments/baselines.py`) they include
codes, factors, scales, positions and masks, but no graph nodes.

- *block*, *projection*, *auto*: `--codec`.
- *int8*, *int4*: rounding to nearest with a scale for each row; one size only.
- *pruned*: the smallest weights are set to zero; stored are a mask of one bit for each weight and one byte for each weight that is kept.
- *LSTM-SVD*: R of a layer and W of the next share a projection; the ranks explain the same share of the energy in all layers (Prabhavalkar et al., 2016); factors
  in float, or in int8.
- *LSTM-ODL*: the same matrices as sparse codes of a dictionary that is learned online (Mairal et al., 2009), with as many atoms as columns; atoms and
  values in int8, positions in the minimal number of bits. Learning is limited to 4 passes over the rows in batches of 256, 40 steps of FISTA
  for a batch and 120 at the end, and the number of atoms is not adapted to the size. A longer optimisation would give better results than those below.

The codecs use calibration samples, the baselines do not. This explains part of the difference.
"""

AFTER = """## When to use the projection dictionary

{wins}

So `block` is the default. `--codec auto` chooses another plan only if both the measured loss on calibration samples and the predicted loss are lower, because
measured losses on few samples are noisy. It can therefore miss a small gain, as at 6.8x on charlm lstm512. The projection
dictionary can be better at rates between those of block codes (8, 4, 2.67 bits a weight), because its bands mix rates within a row. It also allows to
multiply without decoding the matrix: `dirnet plan` shows the multiply-adds of a step by atoms and then by codes. With `--form fast`
a layer is written in this way if it was measured to be faster in onnxruntime (one thread, batch 1, microseconds a step, int8 products; each band is one more
product, some 5 µs):

    python benches/experiments/factors.py

| hidden size | atoms | whole | 1 band | 2 bands | 3 bands |
| --- | --- | --- | --- | --- | --- |
| 512 | 153 | 18 µs | 13 µs | 19 µs | 24 µs |
| 1024 | 307 | 57 µs | 30 µs | 40 µs | 49 µs |
| 2048 | 614 | 210 µs | 92 µs | 110 µs | 128 µs |

On a real model of hidden size 512 (charlm lstm512 at 16x) the second layer has 404 atoms for W and 144 in 4 bands for R, and is written in the fast form; the first has 404 in 6
bands for R and stays portable. With at most 164 atoms everywhere (21x, +0.036 nats) both layers take 2.5 times fewer multiply-adds and 0.5 to 0.75 of the
original's time in onnxruntime, on a busy machine. Block codes with int8 products of the whole matrix (`--form fast` without projection) took
0.3 to 0.45 in the same test: at this size block codes have both the lower loss and the lower latency.

    dirnet compress lstm512.onnx -o fast.onnx --scope recurrent --ratio 16 --codec projection --form fast --calibration calibration.npz

**Sparse codes.** Codes are dense within their bands and zero outside. Storing positions and values would be worse: only 1 % of the stored codes are zero, and at
12x, keeping the largest codes of each row at 12 bits each gives 2.0 to 11.8 times the loss of bands at the same bits, in all 16 gates of charlm lstm512.

    python benches/experiments/sparse_codes.py fine.onnx small.json

## Comparison with the paper

DirNet (Zhang et al., IJCAI 2018) reports models 8 times smaller with negligible loss, ahead of LSTM-SVD and LSTM-ODL, and retrains after coding.
Here nothing is retrained, the samples have no labels, and the models are different, so the tables do not reproduce its results. They show
that its order of methods holds on these models: at the same bytes, a shared dictionary with adaptive codes has a lower loss than
truncated SVD or online dictionary learning. At 8x, without retraining, the cross-entropy of charlm lstm512 moves by {eight} nats.
"""


def after(found):
    """What the figures say of projection against block."""
    lines = []
    for name, of_model in found.items():
        shares = []
        for ratio, ours in of_model.get("projection", {}).items():
            block = of_model.get("block", {}).get(ratio)
            if block and ours.get("loss") and block.get("loss"):
                shares.append(f"{ours['loss'] / block['loss']:.2g} at {ratio:g}x")
        lines.append(f"- {name}: {', '.join(shares)}")
    wins = "Loss of the projection dictionary divided by that of block codes, at the same target size (below 1: projection is better):\n\n" + "\n".join(lines)
    eight = found[CHARLM].get("projection", {}).get(8, {}).get("rise")
    return AFTER.format(wins=wins, eight="-" if eight is None else f"{eight:+.4f}")


def main():
    if len(sys.argv) > 2 or sys.argv[1:] not in ([], ["run"]):
        sys.exit(__doc__)
    found = runs(bool(sys.argv[1:]))
    sections = [section(name, of_model) for name, of_model in found.items() if of_model]
    if not sections:
        sys.exit("nothing was run yet: methods.py run")
    if found[CHARLM]:
        PLOT.write_text(plot(found[CHARLM]))
        sections.insert(1, f"![Loss against size on {CHARLM}](img/methods.svg)\n\n{bars(found[CHARLM])}\n")
    PAGE.write_text("\n".join([HEAD, f"Measured on {results.machine()}.\n", *sections, after(found)]))


if __name__ == "__main__":
    main()
