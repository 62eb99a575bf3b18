"""What a user gives for one request, in files and messages, as a model's inputs: by the declared processing, if there is any.

Files of tensors (`.npy`, `.npz`, `.json`) are forgiven what a program would not be: a missing batch axis, and numbers of
another width (float64 for FP32). Other files, and messages that are no JSON, are the encoded content that processing opens.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.lib import format as npy

from fleet_protocol.processing import Bytes, Tensor
from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput
from runtime.exact_arrays import exact_array, of_kind
from runtime.local_server import oip
from runtime.processing import Prepared, Processor
from runtime.processing.decoding import ENCODED_BYTES

_TENSORS: Final = (".npy", ".npz", ".json")
_BROKEN: Final = (
    ValueError,
    EOFError,
    SyntaxError,
    MemoryError,  # a header may claim any shape
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
    msgspec.MsgspecError,
)

Value = object
"""An array, or whatever stands in JSON."""


def from_files(paths: Sequence[Path], specs: tuple[TensorSpec, ...], processor: Processor | None) -> Prepared:
    """A request out of one file of tensors, or of one or more that processing opens, a sample each. Raises `InvalidInput`."""
    for path in paths:
        _check_there(path)
    tensors = [path for path in paths if _holds_tensors(path, processor)]
    if not tensors:
        opener = opening(processor)
        return opener.prepare([content_of(path, ends=opener.looked_at) for path in paths])
    if len(paths) > 1:
        raise InvalidInput(f"{tensors[0]} holds tensors, and goes alone.")
    return Prepared(read(tensors[0], specs, processor), [])


def _check_there(path: Path) -> None:
    """What is not there must not be refused for its kind."""
    try:
        path.stat()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error


def from_message(content: bytes, specs: tuple[TensorSpec, ...], processor: Processor | None) -> Prepared:
    """A request out of a message: JSON where it begins as an object or a list does, and else what processing opens.

    Where that is a file's bytes, it is never JSON; where it is numbers, always. Raises `InvalidInput`.
    """
    begins = content.lstrip()[:1] in (b"{", b"[") and not (processor and processor.takes(Bytes))
    if begins or (processor and processor.takes(Tensor) and not processor.encoded):
        return Prepared(from_json(content, specs, processor), [])
    return opening(processor).prepare([content])


def _holds_tensors(path: Path, processor: Processor | None) -> bool:
    """By its name; but any file is what it is where a file's bytes are opened."""
    return path.suffix.lower() in _TENSORS and not (processor and processor.takes(Bytes))


def opening(processor: Processor | None) -> Processor:
    """The processor that opens encoded content. Raises `InvalidInput` where none is declared."""
    if processor is None or not processor.encoded:
        raise InvalidInput(
            "Nothing says how this becomes the model's input. Convert the model with --processing, or give --processing here; "
            "or give the input as .npy, .npz or .json."
        )
    return processor


def content_of(path: Path, *, ends: int | None = None) -> bytes:
    """The file's bytes, at most one more than are opened; or so many bytes of each end. Raises `InvalidInput`."""
    try:
        with path.open("rb") as file:
            if ends is None:
                return file.read(ENCODED_BYTES + 1)
            first = file.read(ends)
            file.seek(max(len(first), file.seek(0, os.SEEK_END) - ends))
            return first + file.read(ends)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error


def read(path: Path, specs: tuple[TensorSpec, ...], processor: Processor | None = None) -> dict[str, Array]:
    """The arrays of a request, by input name, as near to `specs` as they can be brought without losing anything.

    `.npz` holds an array for each input; `.npy` the only one; `.json` an object of nested lists by input name, the nested
    lists of the only input, or a whole request of the Open Inference Protocol. Inputs that have steps are made from what these
    open; a request of the protocol holds the model's own tensors, unless it asks for processing. Raises `InvalidInput`.
    """
    try:
        if path.suffix.lower() == ".json":
            return _from_json(content_of(path), specs, str(path), processor)
        values = _arrays(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except _BROKEN as error:
        raise InvalidInput(f"{path} cannot be read as {path.suffix or 'a file without a suffix'}: {error}.") from error
    return _all_fitted(values, specs, str(path), processor)


def from_json(content: bytes, specs: tuple[TensorSpec, ...], processor: Processor | None = None) -> dict[str, Array]:
    """The same out of JSON itself. Raises `InvalidInput`."""
    try:
        return _from_json(content, specs, "The JSON", processor)
    except _BROKEN as error:
        raise InvalidInput(f"The JSON cannot be read: {error}.") from error


def _from_json(content: bytes, specs: tuple[TensorSpec, ...], what: str, processor: Processor | None) -> dict[str, Array]:
    if len(content) > ENCODED_BYTES:
        raise InvalidInput(f"{what} has more than {ENCODED_BYTES} bytes. Give less at a time, or arrays as .npz.")
    tree = msgspec.json.decode(content)
    if not (isinstance(tree, dict) and isinstance(tree.get("inputs"), list)):
        return _all_fitted(tree, specs, what, processor)
    request = oip.decode_request(content)
    if request.raw and processor is None:
        raise InvalidInput(f"{what} asks for processing, and the model declares none. Give its own tensors.")
    return _all_fitted(request.inputs, specs, what, processor if request.raw else None)


def _all_fitted(
    values: Mapping[str, Value] | Value, specs: tuple[TensorSpec, ...], what: str, processor: Processor | None
) -> dict[str, Array]:
    if not isinstance(values, Mapping):
        if len(specs) != 1:
            wanted = ", ".join(spec.name for spec in specs)
            raise InvalidInput(f"{what} holds one array and the model has the inputs {wanted}. Give arrays by their names.")
        values = {specs[0].name: values}
    known = {spec.name: spec for spec in specs}
    return {
        name: processor.rows(name, value) if processor and processor.opens(name, value) else _fitted(value, known.get(name))
        for name, value in values.items()
    }


def _arrays(path: Path) -> Mapping[str, Value] | Value:
    if path.suffix.lower() == ".npz":
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, or for an .npy
                raise ValueError("it is no archive of arrays, as numpy.savez makes one")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
    if path.suffix.lower() == ".npy":
        return array_of(path)
    raise InvalidInput(f"{path} is none of .npy, .npz and .json. Save the input as one of these.")


def array_of(path: Path) -> Array:
    """The array of an `.npy` file. Raises `InvalidInput`."""
    try:
        with path.open("rb") as file:
            array: Array = npy.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    except _BROKEN as error:
        raise InvalidInput(f"{path} cannot be read as .npy: {error}.") from error
    return array


def _fitted(value: Value, spec: TensorSpec | None) -> Array:
    """The value as the array that the spec wants; one of another kind as it is, for the model to refuse."""
    if spec is None:
        return np.asarray(value)
    array = value if isinstance(value, np.ndarray) and not of_kind(value, spec) else exact_array(value, spec)
    return array[np.newaxis] if array.ndim == len(spec.shape) - 1 else array
