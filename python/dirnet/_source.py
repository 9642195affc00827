"""Models as a user has them: a path, bytes, or an ``onnx.ModelProto``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Union

from ._errors import InputError, MissingPackage
from ._folder import Folder

if TYPE_CHECKING:
    import onnx

    #: A model: a path, the bytes of a file, or a message of the package onnx.
    Source = Union[str, os.PathLike[str], bytes, onnx.ModelProto]
else:
    Source = Union[str, os.PathLike, bytes, object]

# What a message of protobuf can hold.
_MESSAGE_BYTES = (1 << 31) - 1


def model_file(source: Source) -> tuple[Path, Folder | None]:
    """A file with the model, and the temporary folder that it lies in if it was written for this."""
    if isinstance(source, (str, os.PathLike)):
        return Path(source), None
    folder = Folder()
    path = folder.path / "model.onnx"
    if isinstance(source, (bytes, bytearray, memoryview)):
        path.write_bytes(source)
    elif hasattr(source, "SerializeToString") and hasattr(source, "graph"):
        _write_message(source, path)
    else:
        raise InputError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    return path, folder


def _write_message(proto: onnx.ModelProto, path: Path) -> None:
    side_files = sorted({entry.value for entry in _locations(proto)})
    if side_files:
        raise InputError(
            f"the values of some tensors are in the file {side_files[0]}, which a message does not have with it: "
            "give the path of the model, or load it with onnx.load, which reads them"
        )
    if proto.ByteSize() <= _MESSAGE_BYTES:
        path.write_bytes(proto.SerializeToString())
        return
    try:
        import onnx
    except ImportError as error:
        raise MissingPackage("onnx", "a model of more than 2 GiB in memory") from error
    # Moving values out changes the message, which is the caller's.
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.save(copy, str(path), save_as_external_data=True, location="model.onnx.data")


def _locations(proto: onnx.ModelProto) -> list[onnx.StringStringEntryProto]:
    """Where initializers are stored that are not in the message. Its readers look for those in bodies."""
    tensors = [tensor for tensor in proto.graph.initializer if tensor.data_location == 1]
    return [entry for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
