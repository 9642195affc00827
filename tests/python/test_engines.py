"""onnxruntime judges as the command does: the same figures, checks, failures and warnings, up to the rounding of two engines."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dirnet
import models
from conftest import QUICK

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def verdicts(original, compressed, samples, **options):
    """What both engines say, and the warnings of both."""
    found, told = [], []
    for engine in ("tract", "onnxruntime"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                report = dirnet.verify(original, compressed, samples, engine=engine, progress=False, **options)
            except dirnet.CheckFailed as failed:
                report = failed.report
                assert str(failed) == "; ".join(report.verify.failures)
        told.append({str(entry.message) for entry in caught if entry.category is dirnet.DirnetWarning} | set(report.warnings))
        found.append(report.verify)
    return found, told


# What only the command computes.
COMMAND_ONLY = {"smoke_test", "snr_variance_db", "accuracy", "decides", "decisions", "worst", "spread", "course_db"}


def assert_same(original, compressed, samples, tolerance=2e-4, **options):
    """The verdicts of both engines are the same."""
    (ours, theirs), told = verdicts(original, compressed, samples, **options)
    assert ours.engine == "tract" and theirs.engine == "onnxruntime" and ours.scope == theirs.scope == "model"
    left_out = {"engine", "outputs", "gates", "failures"} | COMMAND_ONLY
    assert_close({k: v for k, v in ours.raw.items() if k not in left_out}, theirs.raw, tolerance)
    for mine, other in zip(ours.outputs, theirs.outputs):
        assert_close({k: v for k, v in mine.raw.items() if k not in {"profile"} | COMMAND_ONLY}, other.raw, tolerance)
    assert len(ours.outputs) == len(theirs.outputs) and len(ours.checks) == len(theirs.checks)
    for mine, other in zip(ours.checks, theirs.checks):
        assert_close(mine.raw, other.raw, tolerance)
    assert [line.split(" is ")[0].split(": ")[0] for line in ours.failures] == [
        line.split(" is ")[0].split(": ")[0] for line in theirs.failures
    ]
    assert told[0] == told[1]
    return ours, theirs


def assert_close(ours, theirs, tolerance, where=""):
    if isinstance(ours, dict):
        for key, value in ours.items():
            assert_close(value, theirs[key], tolerance, f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for mine, other in zip(ours, theirs):
            assert_close(mine, other, tolerance, where)
    elif isinstance(ours, float) and isinstance(theirs, float):
        # A figure of 1e-7 or below is made of the rounding of the engines.
        assert math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=1e-7), f"{where}: {ours} and {theirs}"
    else:
        assert ours == theirs, f"{where}: {ours} and {theirs}"


def test_the_classifier_is_judged_alike(classifier, small):
    samples = [{"features": clip} for clip in models.clips(4, seed=7)]
    checks = {"min_snr": 15, "min_agreement": {"logits": 0.5}, "max_kl": 0.5, "max_abs": {"probabilities": 1e-9}}
    ours, theirs = assert_same(classifier, small, samples, checks=checks)
    assert theirs["probabilities"].kl is not None and theirs["label"].agreement is not None
    assert not theirs["release"].reached and theirs["logits"].reached
    assert any("release" in entry["output"] for entry in theirs.unbound)
    assert not theirs.passed and ours.failures[0].startswith("output 'probabilities': max abs")


def test_the_last_fifth_of_calibration_samples_is_judged_alike(classifier):
    loaded = dirnet.load(classifier, calibration=[{"features": clip} for clip in models.clips(11, seed=8)])
    small = loaded.compress(ratio=5, **QUICK)
    ours, theirs = (loaded.verify(small, engine=engine, progress=False).verify for engine in ("tract", "onnxruntime"))
    assert ours.samples == theirs.samples == 2
    assert_close(ours.loss, theirs.loss, 1e-4)
    assert_close(small.report.loss, ours.loss, 1e-9)


def test_streams_are_judged_alike(streaming):
    steps = [{"frame": frame} for frame in models.frames(30, seed=4)]
    stream = {"state": "stateN"}
    loaded = dirnet.load(streaming, calibration=steps, stream=stream)
    small = loaded.compress(ratio=4, **QUICK)
    first = {"frame": steps[0]["frame"], "state": np.full((1, 1, models.HIDDEN), 0.5, np.float32)}
    for samples in (steps, [first, *steps[1:]], [steps[:10], steps[10:]]):
        assert_same(streaming, small, samples, stream=stream)
    cut = [loaded.verify(small, engine=engine, progress=False).verify.loss for engine in ("tract", "onnxruntime")]
    assert_close(cut[0], cut[1], 1e-4)
    with pytest.raises(dirnet.InputError, match="the model has no output 'nix'"):
        dirnet.verify(streaming, small, steps, stream={"state": "nix"}, engine="onnxruntime")


def disturbed(path, target):
    """A copy of a model whose float weights are not quite the same."""
    random = np.random.default_rng(5)
    model = onnx.load(path)

    def disturb(tensor):
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 3:
            noisy = array + (0.02 * np.std(array.astype(np.float64)) * random.normal(size=array.shape)).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(array.dtype), tensor.name))

    def visit(graph):
        for tensor in graph.initializer:
            disturb(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)
                if attribute.HasField("t"):
                    disturb(attribute.t)

    visit(model.graph)
    onnx.save(model, target)
    return target


STATES = {
    "graphs/branches.onnx": {"state": "stateN"},
    "graphs/step.onnx": {name: f"out_state1[{i}:{i + 1}]" for i, name in enumerate(["h1_in", "c1_in", "h2_in", "c2_in"])},
    "graphs/twins.onnx": {"h": "hn", "c": "cn"},
}


@pytest.mark.parametrize(
    ("model", "samples"),
    [
        ("graphs/branches.onnx", "graphs/branches.npz"),
        ("graphs/half.onnx", "graphs/half.npz"),
        ("graphs/indirect.onnx", "graphs/indirect.npz"),
        ("graphs/loop.onnx", "graphs/loop.npz"),
        ("graphs/scan.onnx", "graphs/scan.npz"),
        ("graphs/step.onnx", "graphs/step.npz"),
        ("graphs/tags.onnx", "graphs/tags.npz"),
        ("graphs/twins.onnx", "graphs/twins.npz"),
        ("graphs/split/model.onnx", "graphs/split.npz"),
        ("graphs/joined/model.onnx", "graphs/joined.npz"),
        ("graphs/given/model.onnx", "graphs/given/test_data_set_0"),
    ],
)
def test_fixtures_are_judged_alike(model, samples, tmp_path):
    original, other = FIXTURES / model, disturbed(FIXTURES / model, tmp_path / "other.onnx")
    tolerance = 0.02 if "half" in model else 2e-3
    checks = {"min_snr": 20, "min_agreement": 0.5}
    assert_same(original, other, FIXTURES / samples, tolerance, checks=checks, stream=STATES.get(model))


def tables(tmp_path, name, values, output="y", tail=None):
    """A model that gives rows of a table, so that every engine gives the same: `rows` to `y`."""
    nodes = [helper.make_node("Gather", ["table", "rows"], ["y" if tail is None else "found"])]
    if tail is not None:
        nodes.append(helper.make_node(tail, ["found"], ["y"], **({"axis": 1} if tail != "Identity" else {})))
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", kind, ["n", *values.shape[1:]])],
        [numpy_helper.from_array(values, "table")],
    )
    path = tmp_path / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("loss", ["nmse", "kl", "disagreement"])
@pytest.mark.parametrize(
    ("values", "change"),
    [
        (np.random.default_rng(1).normal(3, 1, (40, 5)), lambda v, r: v + 0.1 * r.normal(size=v.shape)),
        (np.ones((40, 5)), lambda v, r: v + 0.1),
        (np.zeros((40, 5)), lambda v, r: v + 0.1 * r.normal(size=v.shape)),
        (np.random.default_rng(1).normal(size=(40, 1)), lambda v, r: v * 1.1),
        (np.full((40, 5), 1e-200), lambda v, r: -v),
        (np.arange(200).reshape(40, 5), lambda v, r: np.where(r.random(v.shape) < 0.2, v + 1, v)),
        (np.arange(40), lambda v, r: v // 2),
        (np.full(40, 1 << 53), lambda v, r: v + (np.arange(40) % 2)),
        (np.array([[0.0, -np.inf, 1.0], [2.0, -np.inf, -np.inf]] * 20), lambda v, r: v * 1.1),
        (np.array([[0.0, np.nan, 1.0], [2.0, 1.0, 3.0]] * 20), lambda v, r: v * 1.1),
        (np.array([[0.0, np.inf, 1.0], [2.0, 1.0, 3.0]] * 20), lambda v, r: np.where(np.isinf(v), 0.0, v)),
        (np.full((40, 3), np.nan), lambda v, r: v),
    ],
    ids=["noise", "constant", "zero", "one class", "tiny", "integers", "labels", "large", "impossible", "nan", "lost", "all nan"],
)
def test_the_same_outputs_have_the_same_figures(tmp_path, values, change, loss):
    changed = np.asarray(change(values, np.random.default_rng(2))).astype(values.dtype)
    original, other = tables(tmp_path, "a.onnx", values), tables(tmp_path, "b.onnx", changed)
    samples = [{"rows": np.arange(start, 40, 3)} for start in range(3)]
    checks = {"min_snr": 12, "max_nmse": 0.02, "max_abs": 0.25, "min_agreement": 0.95, "max_kl": 0.01}
    ours, theirs = assert_same(original, other, samples, 1e-12, loss=loss, checks=checks)
    assert ours.failures == theirs.failures


@pytest.mark.parametrize("tail", ["Softmax", "LogSoftmax"])
def test_probabilities_are_judged_alike(tmp_path, tail):
    values = np.random.default_rng(1).normal(0, 3, (40, 6)).astype(np.float32)
    original = tables(tmp_path, "a.onnx", values, tail=tail)
    other = tables(tmp_path, "b.onnx", (values + np.float32(0.3) * np.cos(values)), tail=tail)
    _, theirs = assert_same(original, other, [{"rows": np.array([row])} for row in range(40)], 1e-4)
    assert theirs.loss == theirs["y"].kl


def test_what_does_not_differ_is_told(classifier):
    samples = [{"features": models.clips(1, seed=1)[0]}]
    (ours, theirs), told = verdicts(classifier, classifier, samples, checks={"min_snr": {"logits": 20}})
    assert ours.passed and theirs.passed and theirs.loss == 0.0
    assert told[0] == told[1] == {"the models do not differ in anything that computes"}


def with_outputs(path, outputs, noisy):
    """The classifier with other outputs, and with a weight that is not quite the same."""
    proto = onnx.load(models.write_classifier(path))
    proto.graph.node.append(helper.make_node("Add", ["features", "features"], ["double"]))
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "head")
    noise = np.random.default_rng(3).normal(0, noisy, weights.dims).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + noise, "head"))
    ports = [output for output in proto.graph.output if output.name in outputs]
    ports += [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name in ("double", "h")]
    del proto.graph.output[:]
    proto.graph.output.extend(ports)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("outputs", [["double", "h", "label"], ["double", "h"], ["double", "logits"]])
def test_an_output_that_nothing_reaches_meets_no_check_of_all(tmp_path, outputs):
    original, other = (with_outputs(tmp_path / name, outputs, noise) for name, noise in [("a.onnx", 0.0), ("b.onnx", 0.05)])
    samples = [{"features": models.clips(1, seed=1)[0]}]
    ours, theirs = assert_same(original, other, samples, checks={"min_snr": 10})
    assert theirs.passed == (outputs != ["double", "h", "label"]) and theirs.failures == ours.failures


def test_weights_that_are_no_numbers_fail_in_both(classifier, tmp_path):
    proto = onnx.load(classifier)
    weights = next(tensor for tensor in proto.graph.initializer if tensor.name == "R")
    array = numpy_helper.to_array(weights).copy()
    array[0, 3, 3] = np.inf
    weights.CopyFrom(numpy_helper.from_array(array, "R"))
    onnx.save(proto, tmp_path / "infinite.onnx")
    found, _ = verdicts(classifier, tmp_path / "infinite.onnx", [{"features": models.clips(1, seed=1)[0]}])
    for verdict in found:
        assert not verdict.passed and verdict.failures[-1].startswith("node 'lstm': R holds NaN or infinite values in the compressed model")


def test_errors_name_what_is_wrong(classifier, small, tmp_path):
    samples = [{"features": models.clips(1, seed=1)[0]}]

    def verify(other=small, feeds=samples, **options):
        return dirnet.verify(classifier, other, feeds, engine="onnxruntime", **options)

    for feeds, message in [
        (None, "makes up no inputs: give samples"),
        ([{"audio": samples[0]["features"]}], "the model has no input of this name, only features"),
        ([{"features": np.zeros((3, 1, 7), np.float32)}], "this sample cannot be run"),
        ([{"features": np.zeros((3, 7), np.float32)}], "the model takes 3 axes"),
        (tmp_path / "none.npz", "No such file or directory"),
        (tmp_path, "holds no .npz or .npy files"),
    ]:
        (tmp_path / "model.onnx").exists()
        with pytest.raises(dirnet.InputError, match=message):
            verify(feeds=feeds if feeds is not tmp_path else _empty(tmp_path))
    with pytest.raises(dirnet.InputError, match="--min-snr names 'nix', not an output that is compared, those are logits"):
        verify(checks={"min_snr": {"nix": 3}})
    with pytest.raises(dirnet.InputError, match="loss 'mse' is unknown"):
        verify(loss="mse")
    with pytest.raises(dirnet.InputError, match="needs this input"):
        verify(models.write_streaming(tmp_path / "vad.onnx"))
    with pytest.raises(dirnet.InputError, match="engine 'openvino' is unknown, expected tract or onnxruntime"):
        dirnet.verify(classifier, small, samples, engine="openvino")
    with pytest.raises(dirnet.InputError, match="has no option 'threads'"):
        verify(threads=1)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(dirnet.DirnetError, match=r"broken\.onnx"):
        verify(tmp_path / "broken.onnx")


def _empty(folder):
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    return empty


def test_reports_are_written(classifier, small, tmp_path):
    samples = [{"features": models.clips(1, seed=1)[0]}]
    files = [tmp_path / "r.json", tmp_path / "r.html"]
    report = dirnet.verify(classifier, small, samples, engine="onnxruntime", report=files)
    assert report.model.bytes_after == small.size and report.model.bytes_before == classifier.stat().st_size
    assert "onnxruntime" in files[0].read_text() and "logits" in files[1].read_text()
    assert "<iframe" in report._repr_html_()
