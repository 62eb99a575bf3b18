"""Reads one request for a model from a file that a person wrote: `.npy`, `.npz` or `.json`.

Such files are forgiven what a program would not be: a missing batch axis, and numbers of another width (float64 for FP32).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput
from runtime.exact_arrays import exact_array, of_kind
from runtime.local_server import oip

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
"""An array, or nested lists out of JSON."""


def read(path: Path, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """The arrays of a request, by input name, as near to `specs` as they can be brought without losing anything.

    `.npz` holds an array for each input; `.npy` the only one; `.json` an object of nested lists by input name, the nested
    lists of the only input, or a whole request of the Open Inference Protocol. Raises `InvalidInput`.
    """
    try:
        values = _values(path)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except _BROKEN as error:
        raise InvalidInput(f"{path} cannot be read as {path.suffix or 'a file without a suffix'}: {error}.") from error
    return _all_fitted(values, specs, str(path))


def from_json(content: bytes, specs: tuple[TensorSpec, ...], *, pictured: Collection[str] = ()) -> dict[str, Array]:
    """The same out of JSON itself. The inputs `pictured` may be pictures: a base64 text, or a list of them.

    Raises `InvalidInput`.
    """
    try:
        values = _from_json(content)
    except _BROKEN as error:
        raise InvalidInput(f"The JSON cannot be read: {error}.") from error
    return _all_fitted(values, specs, "The JSON", pictured)


def _all_fitted(
    values: Mapping[str, Value] | Value, specs: tuple[TensorSpec, ...], what: str, pictured: Collection[str] = ()
) -> dict[str, Array]:
    if not isinstance(values, Mapping):
        if len(specs) != 1:
            wanted = ", ".join(spec.name for spec in specs)
            raise InvalidInput(f"{what} holds one array and the model has the inputs {wanted}. Give arrays by their names.")
        values = {specs[0].name: values}
    known = {spec.name: spec for spec in specs}
    return {
        name: _texts(value) if name in pictured and _is_text(value) else _fitted(value, known.get(name))
        for name, value in values.items()
    }


def _is_text(value: Value) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value))


def _texts(value: Value) -> Array:
    return np.array(value if isinstance(value, list) else [value], object)


def _values(path: Path) -> Mapping[str, Value] | Value:
    if path.suffix == ".npz":
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    if path.suffix == ".npy":
        array: Array = np.load(path, allow_pickle=False)
        return array
    if path.suffix == ".json":
        return _from_json(path.read_bytes())
    raise InvalidInput(f"{path} is none of .npy, .npz and .json. Save the input as one of these.")


def _from_json(content: bytes) -> Mapping[str, Value] | Value:
    tree = msgspec.json.decode(content)
    return oip.decode_request(content).inputs if isinstance(tree, dict) and isinstance(tree.get("inputs"), list) else tree


def _fitted(value: Value, spec: TensorSpec | None) -> Array:
    """The value as the array that the spec wants; one of another kind as it is, for the model to refuse."""
    if spec is None:
        return np.asarray(value)
    array = value if isinstance(value, np.ndarray) and not of_kind(value, spec) else exact_array(value, spec)
    return array[np.newaxis] if array.ndim == len(spec.shape) - 1 else array
