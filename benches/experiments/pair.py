"""Words that the g2p pair spells otherwise: one call for both files, against a call for each at the same ratio.

    pair.py [RATIO]... [-- FLAG...]      flags for all calls, such as --effort 2

Prints a table: bytes of both files together, and of the held-out words those that change. DIRNET_BIN names the tool, DIRNET_MODELS
the folder of the models.
"""

import sys
import tempfile
from pathlib import Path

import harness  # noqa: F401

import catalogue
import judge_g2p

PARTS = ("encoder_model", "decoder_model")
SOURCE = catalogue.MODELS / "g2p_id"


def run(*arguments):
    done = catalogue.tool("compress", *arguments, "--no-verify", "--no-config", "-q")
    if done.code != 0:
        raise SystemExit(done.message)


def together(ratio, flags, folder):
    """Both files in one call, whose samples are in folders by the names of the models."""
    samples = []
    for kind in ("calibration", "holdout"):
        (folder / kind).mkdir()
        for part in PARTS:
            (folder / kind / f"{part}.npz").symlink_to((SOURCE / f"{part}.{kind}.npz").resolve())
        samples += [f"--{kind}", folder / kind]
    files = [SOURCE / f"{part}.onnx" for part in PARTS]
    run(*files, "--out-dir", folder / "together", "--ratio", ratio, *samples, *flags)
    return folder / "together"


def apart(ratio, flags, folder):
    """Each file in a call of its own."""
    (folder / "apart").mkdir()
    for part in PARTS:
        samples = [word for kind in ("calibration", "holdout") for word in (f"--{kind}", SOURCE / f"{part}.{kind}.npz")]
        run(SOURCE / f"{part}.onnx", "-o", folder / "apart" / f"{part}.onnx", "--ratio", ratio, *samples, *flags)
    return folder / "apart"


def main():
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    ratios, flags = words[:cut] or ["8", "12", "16"], words[cut + 1 :]
    print("| ratio | calls | encoder | decoder | both | words changed |")
    print("|--:|---|--:|--:|--:|--:|")
    for ratio in ratios:
        for name, how in (("one", together), ("two", apart)):
            with tempfile.TemporaryDirectory() as folder:
                made = how(ratio, flags, Path(folder))
                files = [made / f"{part}.onnx" for part in PARTS]
                sizes = [file.stat().st_size for file in files]
                found = judge_g2p.changed(*files)
            cells = [*(f"{size:,}" for size in (*sizes, sum(sizes))), f"{found['changed']} of {found['words']}"]
            print(f"| {ratio} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
