"""Samples as users have them become files that the command reads."""

from __future__ import annotations

import numpy as np
import pytest

import models
from conftest import QUICK
from dirnet import InputError, _feeds, compress, load


def write(feeds, folder, stream=None, names=("x", "y")):
    return _feeds.write(feeds, folder / "samples", stream or {}, lambda: list(names))


def stored(paths):
    """What the files hold, in the order in which the command reads them."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [dict(np.load(file)) for file in files]


def test_paths_stay_paths(tmp_path):
    assert write("a.npz", tmp_path) == [_feeds.Path("a.npz")]
    assert write(["a.npz", _feeds.Path("b")], tmp_path) == [_feeds.Path("a.npz"), _feeds.Path("b")]
    assert not (tmp_path / "samples").exists() or not any((tmp_path / "samples").iterdir())


def test_a_mapping_is_samples_that_are_stacked(tmp_path):
    (arrays,) = stored(write({"x": np.zeros((5, 2)), "rate": 8000}, tmp_path))
    assert arrays["x"].shape == (5, 2) and arrays["rate"] == 8000


def test_feeds_may_differ_in_length(tmp_path):
    found = stored(write(({"x": np.full((n, 2), n)} for n in range(1, 13)), tmp_path))
    assert [len(arrays["x"]) for arrays in found] == list(range(1, 13))


def test_names_of_inputs_may_be_anything(tmp_path):
    names = ["file", "a/b", "input:0", "é ", "self"]
    (arrays,) = stored(write([{name: np.ones(2) for name in names}], tmp_path))
    assert sorted(arrays) == sorted(names)


class Tensor:
    """What a tensor of PyTorch is here."""

    def __init__(self, array):
        self._array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._array


def test_a_data_loader_gives_tensors_in_the_order_of_inputs(tmp_path):
    batches = ([Tensor(np.full((4, 2), n, np.float32)), Tensor(np.arange(4))] for n in range(3))
    found = stored(write(batches, tmp_path, names=["x"]))
    assert [arrays["x"][0, 0] for arrays in found] == [0, 1, 2] and set(found[0]) == {"x"}, "labels are left out"
    assert found[0]["x"].dtype == np.float32
    with pytest.raises(InputError, match="a sample of 1 arrays, but the model has 2 inputs: x, y"):
        write([np.zeros(3)], tmp_path)


def test_element_types_are_kept_and_objects_are_refused(tmp_path):
    values = {"i": np.int32(3), "b": np.array([True]), "h": np.ones(2, np.float16), "s": np.array(["ab", "c"], object)}
    (arrays,) = stored(write([values], tmp_path))
    assert [arrays[name].dtype.str for name in "ibhs"] == ["<i4", "|b1", "<f2", "<U2"]
    with pytest.raises(InputError, match="'x' holds object"):
        write([{"x": np.array([None])}], tmp_path)


def test_steps_become_one_stream(tmp_path):
    steps = [{"x": np.full((1, 2), n), "state": np.full(3, n)} for n in range(4)]
    (arrays,) = stored(write(steps, tmp_path, {"state": "stateN"}))
    assert arrays["x"].shape == (4, 1, 2) and arrays["x"][:, 0, 0].tolist() == [0, 1, 2, 3]
    assert arrays["state"].tolist() == [0, 0, 0], "the state of the first step"
    two = stored(write([steps[:2], steps[2:]], tmp_path, {"state": "stateN"}))
    assert [arrays["x"].shape[0] for arrays in two] == [2, 2]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "there are no samples"),
        (iter(()), "there are no samples"),
        (3, "samples are a path, a mapping of arrays or an iterable"),
        ([{}], "a sample holds no arrays"),
        ([{"x": np.ones(2)}, {"x": np.ones(3)}], r"differ in the shape of 'x': \(2,\) and \(3,\)"),
        ([{"x": np.ones(2), "y": np.ones(2)}, {"x": np.ones(2)}], "step 1 of a stream has no input 'y'"),
        ([[{"x": np.ones(2)}], {"x": np.ones(2)}], "some samples are lists of steps and others are steps"),
    ],
)
def test_what_is_no_stream_is_refused(tmp_path, feeds, message):
    with pytest.raises(InputError, match=message):
        write(feeds, tmp_path, {"state": "stateN"})


def test_all_kinds_of_samples_give_the_same_bytes(classifier, tmp_path):
    arrays = models.clips(6, seed=3)
    np.savez(tmp_path / "samples.npz", features=np.stack(arrays))
    kinds = [
        tmp_path / "samples.npz",
        [str(tmp_path / "samples.npz")],
        {"features": np.stack(arrays)},
        [{"features": array} for array in arrays],
        ((Tensor(array), Tensor(np.zeros(1))) for array in arrays),
        arrays,
    ]
    results = {compress(classifier, ratio=5, calibration=kind, **QUICK).read_bytes() for kind in kinds}
    assert len(results) == 1


def test_streams_carry_their_state(streaming):
    frames = models.frames(40, seed=4)
    stream = {"state": "stateN"}
    steps = [{"frame": frame} for frame in frames]
    whole = compress(streaming, ratio=4, calibration=steps, stream=stream, **QUICK)
    stacked = compress(streaming, ratio=4, calibration={"frame": np.stack(frames)}, stream=stream, **QUICK)
    assert whole.read_bytes() == stacked.read_bytes()
    assert [figures.name for figures in whole.report.verify.outputs] == ["speech"], "a state is not judged"
    assert whole.report.verify.outputs[0].profile["along"] == "step of the stream"


def test_what_the_model_does_not_take_is_an_error_of_the_command(classifier):
    with pytest.raises(InputError, match="the model has no input of this name"):
        compress(classifier, calibration=[{"audio": np.zeros((3, 1, 20), np.float32)}], **QUICK)
    with pytest.raises(InputError, match="INT64"):
        load(classifier, calibration=[{"features": np.zeros((3, 1, 20), np.int64)}]).plan(**QUICK)
