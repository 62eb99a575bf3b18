"""The Open Inference Protocol v2 (kserve/open-inference-protocol) as JSON: requests to arrays, arrays to responses. Pure.

Every malformed request raises `MalformedRequest` with a message that says where it is wrong; nothing else comes out, whatever
the bytes are. Nothing is allocated for what a request claims: data is read first, and then held against its shape.
The binary tensor extension is not spoken, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from fleet_protocol import limits
from fleet_protocol.tensors import NUMPY_NAMES, DataType, TensorName
from runtime.engine import Array
from runtime.errors import MalformedRequest

_Parameters = dict[str, msgspec.Raw]
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Input(msgspec.Struct, frozen=True):
    name: TensorName
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=limits.TENSOR_RANK)]
    datatype: DataType
    data: msgspec.Raw = msgspec.Raw()
    parameters: _Parameters = {}


class _Output(msgspec.Struct, frozen=True):
    name: TensorName
    parameters: _Parameters = {}


class _Request(msgspec.Struct, frozen=True):
    inputs: Annotated[tuple[_Input, ...], msgspec.Meta(max_length=limits.TENSORS)]
    id: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    outputs: Annotated[tuple[_Output, ...], msgspec.Meta(max_length=limits.TENSORS)] | None = None


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _Response(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Tensor]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request: arrays by input name, and the outputs that are wanted (None: all)."""

    inputs: dict[str, Array]
    outputs: tuple[str, ...] | None = None
    id: str | None = None


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not the JSON that was asked for."""
_DECODER: Final = msgspec.json.Decoder(_Request)
_NAMES: Final = {numpy_name: datatype for datatype, numpy_name in NUMPY_NAMES.items()}


def decode_request(body: bytes) -> InferRequest:
    """Read an inference request. Raises `MalformedRequest`."""
    try:
        request = _DECODER.decode(body)
    except _UNREADABLE as error:
        raise MalformedRequest(f"The body is not an inference request: {error}.") from error
    inputs: dict[str, Array] = {}
    for each in request.inputs:
        if each.name in inputs:
            raise MalformedRequest(f"Input {each.name} is given twice.")
        inputs[each.name] = _array(each)
    for output in request.outputs or ():
        if "classification" in output.parameters:
            raise MalformedRequest(
                f"Output {output.name}: the classification extension is not spoken here; ask for the scores."
            )
    # The protocol lets a client list no outputs to get all of them.
    wanted = tuple(output.name for output in request.outputs) if request.outputs else None
    return InferRequest(inputs, wanted, request.id)


def encode_response(outputs: Mapping[str, Array], *, model: str, version: str, request: InferRequest) -> bytes:
    """The response to `request`, with the outputs that it wants. All values are finite: JSON has no NaN.

    Raises `MalformedRequest` when the request wants an output that is not there.
    """
    wanted = request.outputs or tuple(outputs)
    for name in wanted:
        if name not in outputs:
            raise MalformedRequest(f"The model has no output {name}; it has {', '.join(outputs)}.")
    tensors = [_tensor(name, outputs[name]) for name in wanted]
    return msgspec.json.encode(_Response(model, version, tensors, request.id))


def _tensor(name: str, array: Array) -> _Tensor:
    return _Tensor(name, _NAMES[array.dtype.name], array.shape, array.ravel().tolist())


def _array(given: _Input) -> Array:
    if "binary_data_size" in given.parameters:
        raise MalformedRequest(f"Input {given.name}: binary tensor data is not spoken here; send it as JSON in `data`.")
    kind = _KINDS[np.dtype(NUMPY_NAMES[given.datatype]).kind]
    values = _values(given, kind)
    if len(values) != math.prod(given.shape):
        raise MalformedRequest(
            f"Input {given.name} has {len(values)} values; its shape {list(given.shape)} wants {math.prod(given.shape)}."
        )
    try:
        return kind.to_array(values, given).reshape(given.shape)
    except ValueError as error:  # a shape such as [0, 2**40, 2**40], which numpy cannot hold
        raise MalformedRequest(f"Input {given.name} has the impossible shape {list(given.shape)}.") from error


def _values(given: _Input, kind: _Kind) -> list[Any]:
    """The tensor's elements in row-major order; `data` may be flat, or nested as the shape says."""
    if not bytes(given.data):
        raise MalformedRequest(f"Input {given.name} has no `data`.")
    try:
        return kind.decoder.decode(given.data)
    except msgspec.ValidationError as error:
        return _nested(given, kind, error)
    except _UNREADABLE as error:
        raise MalformedRequest(f"Input {given.name}: its data cannot be read: {error}.") from error


def _nested(given: _Input, kind: _Kind, flat_error: msgspec.ValidationError) -> list[Any]:
    try:
        tree = msgspec.json.decode(given.data)
    except _UNREADABLE as error:
        raise MalformedRequest(f"Input {given.name}: its data cannot be read: {error}.") from error
    if not (isinstance(tree, list) and tree and isinstance(tree[0], list)):
        raise MalformedRequest(f"Input {given.name} of {given.datatype}: {flat_error}.")
    leaves: list[object] = []
    _gather(tree, given, given.shape, leaves)
    try:
        return kind.convert(leaves)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"Input {given.name} of {given.datatype}: {error}.") from error


def _gather(tree: object, given: _Input, shape: tuple[int, ...], into: list[object]) -> None:
    if not shape:
        into.append(tree)
        return
    if not isinstance(tree, list) or len(tree) != shape[0]:
        raise MalformedRequest(f"Input {given.name}: its data is not nested as its shape {list(given.shape)} says.")
    for branch in tree:
        _gather(branch, given, shape[1:], into)


def _integers(values: list[int], given: _Input) -> Array:
    dtype = np.dtype(NUMPY_NAMES[given.datatype])
    bounds = np.iinfo(dtype)
    if values and not (bounds.min <= min(values) and max(values) <= bounds.max):
        raise MalformedRequest(f"Input {given.name} has a value outside of {given.datatype}: {bounds.min} to {bounds.max}.")
    return np.array(values, dtype)


def _floats(values: list[float], given: _Input) -> Array:
    with np.errstate(over="ignore"):
        array = np.array(values, np.float64).astype(NUMPY_NAMES[given.datatype])
    if not np.isfinite(array).all():
        raise MalformedRequest(f"Input {given.name} has a value outside of {given.datatype}.")
    return array


def _booleans(values: list[bool], _given: _Input) -> Array:
    return np.array(values, np.bool_)


def _texts(values: list[str], _given: _Input) -> Array:
    return np.array(values, np.object_)


class _Kind:
    """How elements of one sort are read from JSON and become an array."""

    def __init__(self, elements: Any, to_array: Callable[[list[Any], _Input], Array]) -> None:  # noqa: ANN401  # `list[float]` as a value
        self.decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(elements)
        self.to_array = to_array
        self._elements = elements

    def convert(self, leaves: list[object]) -> list[Any]:
        """Check elements that were decoded without a type. Raises `msgspec.ValidationError`."""
        checked: list[Any] = msgspec.convert(leaves, self._elements)
        return checked


_INTEGERS: Final = _Kind(list[int], _integers)
_KINDS: Final = {
    "f": _Kind(list[float], _floats),
    "i": _INTEGERS,
    "u": _INTEGERS,
    "b": _Kind(list[bool], _booleans),
    "O": _Kind(list[str], _texts),
}
"""By numpy's kind of the datatype."""
