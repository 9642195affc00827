"""Reads samples from files as the command does: ``.npz``, ``.npy``, ``test_data_set_N``, and directories of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import InputError, MissingPackage

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# The command holds out the last of so many parts of the calibration samples.
_HELD_OUT = 5


@dataclass(frozen=True)
class Port:
    """An input of a model: its name, and its dimensions, which are numbers or symbols, or ``None`` if not even their number is known."""

    name: str
    dims: Sequence[int | str | None] | None
    dtype: str


@dataclass(frozen=True)
class State:
    """A state outside the model: output ``output`` of a step, or its slice along axis 0, is input ``input`` of the next."""

    input: str
    output: str
    part: slice | None

    @classmethod
    def parse(cls, name: str, text: str) -> State:
        match = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", text)
        if match is None:
            return cls(name, text, None)
        return cls(name, match[1], slice(int(match[2]), int(match[3])))


@dataclass(frozen=True)
class Stream:
    """Samples that belong together: the steps of a stream, or a single sample. ``number`` is that of the first among all."""

    origin: str
    feeds: list[Arrays]
    number: int


def read(paths: Sequence[Path], ports: Sequence[Port], states: Sequence[State]) -> list[Stream]:
    """The samples in files and directories, in the order given; those of a directory in name order."""
    needed = {state.input for state in states}
    streams: list[Stream] = []
    number = 0
    for origin, arrays in _files(paths, [port for port in ports if port.name not in needed], ports):
        _check_names(origin, arrays, ports, needed)
        feeds = _unstacked(origin, arrays, ports)
        runs = [feeds] if states else [[feed] for feed in feeds]
        for run in runs:
            streams.append(Stream(origin, _with_states(run, ports, states), number))
            number += len(run)
    if not streams:
        raise InputError("there are no samples")
    return streams


def held_out(streams: list[Stream], ports: Sequence[Port], states: Sequence[State]) -> list[Stream]:
    """The last fifth, which the command holds out of calibration samples. A stream is cut in time."""
    total = sum(len(stream.feeds) for stream in streams)
    if total < 2:
        return streams
    first = total - max(total // _HELD_OUT, 1)
    kept = []
    for stream in streams:
        skip = min(max(first - stream.number, 0), len(stream.feeds))
        feeds = [dict(feed) for feed in stream.feeds[skip:]]
        if feeds:
            kept.append(Stream(stream.origin, _with_states(feeds, ports, states), stream.number + skip))
    return kept


def _files(paths: Sequence[Path], required: Sequence[Port], ports: Sequence[Port]) -> Iterator[tuple[str, Arrays]]:
    for path in paths:
        if path.is_dir():
            yield from _directory(path, required, ports)
        elif not path.exists():
            raise InputError(f"{path}: No such file or directory")
        elif path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                yield str(path), {name: archive[name] for name in archive.files}
        elif path.suffix.lower() == ".npy":
            if len(required) != 1:
                raise InputError(
                    f"{path}: the model has {len(required)} inputs, but an .npy file holds one: "
                    "put them into an .npz under the inputs' names"
                )
            yield str(path), {required[0].name: np.load(path, allow_pickle=False)}
        else:
            raise InputError(f"{path}: is neither .npz nor .npy nor a directory; save samples with numpy.savez")


def _directory(path: Path, required: Sequence[Port], ports: Sequence[Port]) -> Iterator[tuple[str, Arrays]]:
    entries = list(path.iterdir())
    inputs = _numbered(entries, r"input_(\d+)\.pb")
    if inputs:
        yield str(path), dict(_message(file, number, ports) for number, file in inputs)
        return
    arrays = sorted(entry for entry in entries if entry.suffix.lower() in (".npz", ".npy"))
    sets = [entry for _, entry in _numbered(entries, r"test_data_set_(\d+)")]
    if not arrays and not sets:
        raise InputError(f"{path}: holds no .npz or .npy files, no test_data_set_N directories, no input_0.pb")
    yield from _files([*arrays, *sets], required, ports)


def _numbered(entries: Sequence[Path], pattern: str) -> list[tuple[int, Path]]:
    matches = [(re.fullmatch(pattern, entry.name), entry) for entry in entries]
    return sorted((int(match[1]), entry) for match, entry in matches if match)


def _message(file: Path, number: int, ports: Sequence[Port]) -> tuple[str, Array]:
    """A tensor in ONNX's own form: of the input that it names, else of that number."""
    try:
        import onnx
    except ImportError as error:
        raise MissingPackage("onnx", f"reading {file.name}") from error
    tensor = onnx.TensorProto.FromString(file.read_bytes())
    names = [port.name for port in ports]
    if tensor.name not in names and number >= len(names):
        raise InputError(f"{file}: the model has no input {number}, only {', '.join(names)}")
    array: Array = onnx.numpy_helper.to_array(tensor)
    return tensor.name if tensor.name in names else names[number], array


def _check_names(origin: str, arrays: Mapping[str, Array], ports: Sequence[Port], fed_back: set[str]) -> None:
    names = [port.name for port in ports]
    for name in arrays:
        if name not in names:
            raise InputError(f"{origin}: tensor '{name}': the model has no input of this name, only {', '.join(names)}")
    for name in names:
        if name not in arrays and name not in fed_back:
            raise InputError(f"{origin}: tensor '{name}': there is no array for this input of the model")


def _unstacked(origin: str, arrays: Arrays, ports: Sequence[Port]) -> list[Arrays]:
    """The samples of a file: one, or those that are stacked along a further axis 0. An array without it is that of all samples."""
    ranks = {port.name: None if port.dims is None else len(port.dims) for port in ports}
    leading = [name for name, array in arrays.items() if ranks[name] is not None and array.ndim == (ranks[name] or 0) + 1]
    for name, array in arrays.items():
        rank = ranks[name]
        if rank is not None and array.ndim not in (rank, rank + 1):
            raise InputError(f"{origin}: tensor '{name}': shape {list(array.shape)}, but the model takes {rank} axes")
    if not leading:
        return [arrays]
    count = len(arrays[leading[0]])
    if count == 0:
        raise InputError(f"{origin}: tensor '{leading[0]}': holds no samples: its axis 0 is empty")
    unranked = [name for name, array in arrays.items() if ranks[name] is None and array.shape[:1] == (count,)]
    stacked = {*leading, *unranked}
    for name in leading:
        if len(arrays[name]) != count:
            raise InputError(f"{origin}: tensor '{name}': holds {len(arrays[name])} samples, but '{leading[0]}' holds {count}")
    return [{name: array[i] if name in stacked else array for name, array in arrays.items()} for i in range(count)]


def _with_states(feeds: list[Arrays], ports: Sequence[Port], states: Sequence[State]) -> list[Arrays]:
    """The steps of a stream, the first with the states at the start: those of the file, else zeros."""
    for state in states:
        for feed in feeds[1:]:
            feed.pop(state.input, None)
        if state.input not in feeds[0]:
            port = next(port for port in ports if port.name == state.input)
            feeds[0][state.input] = _zeros(port, ports, feeds[0])
    return feeds


def _zeros(port: Port, ports: Sequence[Port], feed: Arrays) -> Array:
    """Zeros of the input's shape. A symbol has the size that it has in the other inputs; whatever has no size is 1."""
    if port.dims is None:
        raise InputError(f"tensor '{port.name}': is a state whose rank is not declared: add its initial value to the samples")
    sizes: dict[str, int] = {}
    for other in ports:
        if other.dims is not None and other.name in feed:
            symbols = zip(other.dims, feed[other.name].shape)
            sizes.update({dim: size for dim, size in symbols if isinstance(dim, str) and dim not in sizes})
    shape = [dim if isinstance(dim, int) else sizes.get(dim or "", 1) for dim in port.dims]
    return np.zeros(shape, port.dtype)
