"""Samples as a user has them, written to files that the command reads.

One sample, a *feed*, is what one run of the model takes: a mapping of input names to arrays, or the arrays alone in the order of
the model's inputs. Labels that follow the inputs, as those of a data loader do, are left out.

========================================  =========================================================================
what is given                             what it is
========================================  =========================================================================
a path, or a list of paths                files and directories, as the command reads them
a mapping                                 samples stacked along a new first axis, as in an ``.npz`` file
an iterable of feeds                      a sample each; with ``stream``, the steps of one stream in their order
an iterable of lists of feeds             with ``stream``: a stream each
========================================  =========================================================================

Arrays are NumPy's, or tensors of PyTorch, or whatever ``numpy.asarray`` takes. They keep their element type.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Union

import numpy as np
import numpy.typing as npt

from ._errors import InputError

Array = npt.NDArray[Any]

#: One sample: arrays by the names of inputs, or in the order of the inputs.
Feed = Union[Mapping[str, Any], Sequence[Any], Any]

#: Samples; see the head of this module.
Feeds = Union[str, "os.PathLike[str]", Mapping[str, Any], Iterable[Any]]

#: A state outside the model: its input by the output that it comes from.
Stream = Mapping[str, str]


def write(feeds: Feeds, folder: Path, stream: Stream, inputs: Callable[[], Sequence[str]]) -> list[Path]:
    """The files that hold some samples: those that were given, or new ones in the folder.

    ``inputs`` tells the names of the model's inputs, and is asked only if a feed does not name its arrays.
    """
    if isinstance(feeds, (str, os.PathLike)):
        return [Path(feeds)]
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(feeds, Mapping):
        return [_save(folder / "samples.npz", _named(feeds, inputs))]
    if not isinstance(feeds, Iterable):
        raise InputError(f"samples are a path, a mapping of arrays or an iterable of them, not {type(feeds).__name__}")
    if isinstance(feeds, (list, tuple)) and feeds and all(isinstance(path, (str, os.PathLike)) for path in feeds):
        return [Path(path) for path in feeds]
    count = _write_streams(feeds, folder, stream, inputs) if stream else _write_samples(feeds, folder, inputs)
    if count == 0:
        raise InputError("there are no samples")
    return [folder]


def _write_samples(feeds: Iterable[Any], folder: Path, inputs: Callable[[], Sequence[str]]) -> int:
    """A file for each sample, so that their shapes may differ."""
    count = 0
    for count, feed in enumerate(feeds, 1):
        _save(_numbered(folder, count), _named(feed, inputs))
    return count


def _write_streams(feeds: Iterable[Any], folder: Path, stream: Stream, inputs: Callable[[], Sequence[str]]) -> int:
    """A file for each stream."""
    count = 0
    steps: list[dict[str, Array]] = []
    for item in feeds:
        if _is_stream(item):
            count += 1
            _save(_numbered(folder, count), _stacked([_named(feed, inputs) for feed in item], stream))
        else:
            steps.append(_named(item, inputs))
    if count and steps:
        raise InputError("some samples are lists of steps and others are steps: give only one kind")
    if steps:
        count = 1
        _save(_numbered(folder, count), _stacked(steps, stream))
    return count


def _is_stream(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(feed, Mapping) for feed in item)


def _stacked(steps: list[dict[str, Array]], stream: Stream) -> dict[str, Array]:
    """The steps of a stream as one array for each input. A state is that of the first step: others are computed."""
    stacked = {}
    for name, first in steps[0].items():
        if name in stream:
            stacked[name] = first
            continue
        missing = [number for number, step in enumerate(steps) if name not in step]
        if missing:
            raise InputError(f"step {missing[0]} of a stream has no input '{name}', which step 0 has")
        shapes = [step[name].shape for step in steps]
        if len(set(shapes)) > 1:
            other = next(shape for shape in shapes if shape != shapes[0])
            raise InputError(f"the steps of a stream differ in the shape of '{name}': {shapes[0]} and {other}")
        stacked[name] = np.stack([step[name] for step in steps])
    return stacked


def _named(feed: Feed, inputs: Callable[[], Sequence[str]]) -> dict[str, Array]:
    """The arrays of a feed by the names of inputs."""
    if isinstance(feed, Mapping):
        return {name: to_array(value, name) for name, value in feed.items()}
    arrays: tuple[Any, ...] = tuple(feed) if isinstance(feed, (list, tuple)) else (feed,)
    names = inputs()
    if len(arrays) < len(names):
        given, needed = len(arrays), ", ".join(names)
        raise InputError(f"a sample of {given} arrays, but the model has {len(names)} inputs: {needed}; name them in a dict")
    return {name: to_array(value, name) for name, value in zip(names, arrays)}


def to_array(value: Any, name: str) -> Array:
    """An array as it is stored: of NumPy, with elements that are no Python objects."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(entry, str) for entry in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biufUS":
        raise InputError(f"'{name}' holds {array.dtype}, not numbers, booleans or strings")
    return array


def _numbered(folder: Path, number: int) -> Path:
    """A name whose order is that of the numbers."""
    return folder / f"{number:08}.npz"


def _save(path: Path, arrays: Mapping[str, Array]) -> Path:
    """As ``numpy.savez``, which cannot store an array under every name that an input may have."""
    if not arrays:
        raise InputError("a sample holds no arrays")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, array, allow_pickle=False)
    return path
