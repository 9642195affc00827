"""How many words an encoder and decoder pair spells otherwise than the original pair: g2p_id, greedy decoding in onnxruntime.

    judge_g2p.py ENCODER DECODER        the compressed pair, against that of DIRNET_MODELS on the encoder's holdout words

Prints JSON: words, and those of them whose sequence of phonemes changed.
"""

import json
import sys

import numpy as np

import harness  # noqa: F401

import catalogue
import judge

LONGEST = 64


def spell(encoder, decoder, words, symbols):
    """The phonemes of each word up to the end symbol, by index."""
    encode, decode = judge.session(encoder), judge.session(decoder)
    h, c = encode.run(None, {encode.get_inputs()[0].name: words})
    names = [i.name for i in decode.get_inputs()]
    index = np.full(len(words), symbols["start"])
    sequences = []
    for _ in range(LONGEST):
        one_hot = np.eye(len(symbols["phonemes"]), dtype=np.float32)[index][:, None, :]
        probabilities, h, c = decode.run(None, dict(zip(names, (one_hot, h, c))))
        index = probabilities[:, 0].argmax(-1)
        sequences.append(index)
    end = symbols["end"]
    return [list(map(int, row[: list(row).index(end)] if end in row else row)) for row in np.stack(sequences, axis=1)]


def changed(encoder, decoder):
    folder = catalogue.MODELS / "g2p_id"
    words = np.concatenate(np.load(folder / "encoder_model.holdout.npz")["input_1"])
    symbols = json.loads((folder / "symbols.json").read_text())
    before = spell(folder / "encoder_model.onnx", folder / "decoder_model.onnx", words, symbols)
    after = spell(encoder, decoder, words, symbols)
    return {"words": len(words), "changed": sum(a != b for a, b in zip(before, after))}


if __name__ == "__main__":
    print(json.dumps(changed(*sys.argv[1:])))
