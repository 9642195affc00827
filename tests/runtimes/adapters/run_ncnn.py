"""ncnn, fed by its converter pnnx; in float32. ncnn has no batch: axes of size 1 are dropped from what it is fed."""

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import ncnn
import numpy as np

import adapter

# Not imported: the module asks for torch, the program in it does not.
PNNX = Path(importlib.util.find_spec("pnnx").origin).with_name("pnnx")
TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "u8", "int8": "i8", "uint8": "u8"}


def run(model, feeds):
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        # pnnx writes beside its input.
        for file in (Path(model), Path(model).with_name(Path(model).name + ".data")):
            if file.exists():
                (base.with_suffix(".onnx") if file.suffix == ".onnx" else Path(folder) / file.name).symlink_to(file.resolve())
        shapes = ",".join(f"[{','.join(map(str, v.shape))}]{TYPES[str(v.dtype)]}" for v in feeds.values())
        command = [PNNX, "model.onnx", "fp16=0", f"inputshape={shapes}"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        param = base.with_suffix(".ncnn.param")
        if said.returncode or not param.exists():
            lines = (said.stderr + said.stdout).strip().splitlines()
            raise RuntimeError(f"pnnx ends with {said.returncode}: {lines[-1] if lines else ''}")
        return interpret(base, param.read_text(), feeds)


def interpret(base, param, feeds):
    net = ncnn.Net()
    for option in ("use_fp16_storage", "use_fp16_arithmetic", "use_fp16_packed", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(str(base.with_suffix(".ncnn.param"))) or net.load_model(str(base.with_suffix(".ncnn.bin"))):
        raise RuntimeError("ncnn does not load what pnnx wrote")
    extractor = net.create_extractor()
    values = [np.ascontiguousarray(np.squeeze(v), np.float32) for v in feeds.values()]
    kept = [ncnn.Mat(np.atleast_1d(value)) for value in values]  # a Mat does not own its numbers
    for index, value in enumerate(kept):
        extractor.input(f"in{index}", value)
    outputs = {}
    while f" out{len(outputs)}" in param:
        name = f"out{len(outputs)}"
        code, value = extractor.extract(name)
        if code:
            raise RuntimeError(f"ncnn: extract {name} gives {code}")
        outputs[name] = np.array(value)
    return outputs


adapter.main(run)
