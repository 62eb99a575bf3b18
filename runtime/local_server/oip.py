"""The Open Inference Protocol v2 (kserve/open-inference-protocol): requests to arrays, arrays to responses. Pure.

Every malformed request raises `MalformedRequest` with a message that says where it is wrong; nothing else comes out, whatever
the bytes are. Nothing is allocated for what a request claims: data is read first, and then held against its shape.
Here are the JSON and the classification extension; raw tensors behind the JSON are `runtime.oip_binary`'s.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from fleet_protocol import limits
from fleet_protocol.tensors import NUMPY_NAMES, DataType, TensorName
from runtime import oip_binary
from runtime.engine import Array
from runtime.errors import InferenceFailed, MalformedRequest

KEY: Final = "edgeward_key"
"""The parameter that carries a request's key, as the header `edgeward-key` does; see `runtime.hosting.experiment`."""

PROCESSING: Final = "processing"
"""The parameter by which a request says that its tensors are what the declared processing opens, not the model's own."""

RESULTS: Final = "results"
"""The parameter by which a request wants the declared results, each a text of JSON a sample, and not the model's outputs."""

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    shared_memory_region: str | None = None


class TensorHead(msgspec.Struct, frozen=True):
    """What a request says of an input before its values."""

    name: TensorName
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=limits.TENSOR_RANK)]
    datatype: DataType


class _Input(TensorHead, frozen=True):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _InputParameters = _InputParameters()


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=0, le=limits.CLASSES)] = 0
    shared_memory_region: str | None = None


class _Output(msgspec.Struct, frozen=True):
    name: TensorName
    parameters: _OutputParameters = _OutputParameters()


class _Request(msgspec.Struct, frozen=True):
    inputs: Annotated[tuple[_Input, ...], msgspec.Meta(max_length=limits.TENSORS)]
    id: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    outputs: Annotated[tuple[_Output, ...], msgspec.Meta(max_length=limits.TENSORS)] | None = None
    parameters: dict[str, msgspec.Raw] = {}


class _Wished(msgspec.Struct, frozen=True):
    timeout: Annotated[int, msgspec.Meta(ge=0, le=2**62)] | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    edgeward_key: str | None = None


class _Tensor(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Tensor]
    id: str | None = None
    parameters: Mapping[str, Any] = {}


class WantedOutput(msgspec.Struct, frozen=True, gc=False):
    """An output that a request names. `classes`: so many best classes are wanted of it (0: the tensor itself)."""

    name: str
    binary: bool = False
    classes: int = 0


class InferRequest(msgspec.Struct, frozen=True, gc=False):
    """One request: arrays by input name, and the outputs that are wanted (None: all, in binary when `binary`).

    `parameters` are the request's own, which the response repeats. `raw`: its numbers are what declared processing opens.
    `results`: the declared results are wanted in place of the outputs, and `outputs` names some of them.
    """

    inputs: dict[str, Array]
    outputs: tuple[WantedOutput, ...] | None = None
    id: str | None = None
    binary: bool = False
    parameters: Mapping[str, msgspec.Raw] = {}
    raw: bool = False
    results: bool = False


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A response. `header_length`: so many bytes of it are JSON, and raw tensors follow; None: all of it is JSON."""

    content: bytes
    header_length: int | None


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not the JSON that was asked for."""
_DECODER: Final = msgspec.json.Decoder(_Request)
_BOOLEAN: Final = msgspec.json.Decoder(bool)
_NAMES: Final = {np.dtype(numpy_name): datatype for datatype, numpy_name in NUMPY_NAMES.items()}


class _Wishes(msgspec.Struct, frozen=True):
    parameters: _Wished = _Wished()


_WISHES: Final = msgspec.json.Decoder(_Wishes)


def read_wishes(body: bytes | memoryview, *, header_length: int | None = None) -> tuple[int | None, int, str | None] | None:
    """The request's parameters `timeout` (microseconds; None: it has none), `priority` (a level, 0: it has none) and `KEY`.

    None: it has no parameters at all. Its tensors are passed over. Raises `MalformedRequest` for values of another kind;
    what else is wrong with the request, `decode_request` tells.
    """
    head = bytes(body if header_length is None else body[:header_length])
    if b'"parameters"' not in head:
        return None
    try:
        wished = _WISHES.decode(head).parameters
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"The request's parameters: {error}.") from error
    except _UNREADABLE:
        return None
    return wished.timeout, wished.priority, wished.edgeward_key


def decode_request(body: bytes | memoryview, *, header_length: int | None = None) -> InferRequest:
    """Read an inference request, of which the first `header_length` bytes are JSON (None: all). Raises `MalformedRequest`."""
    request, section = _opened(body, header_length)
    inputs: dict[str, Array] = {}
    for each in request.inputs:
        if each.name in inputs:
            raise MalformedRequest(f"Input {each.name} is given twice.")
        inputs[each.name] = _array(each, section)
    if section is not None:
        section.end()
    # The protocol lets a client list no outputs to get all of them.
    parameters = request.parameters
    binary = _binary_by_default(request, raw=section is not None)
    if "binary_data_output" in parameters:
        parameters = {name: value for name, value in parameters.items() if name != "binary_data_output"}
    wanted = tuple([_wanted(output, binary=binary) for output in request.outputs]) if request.outputs else None
    raw, results = (name in parameters and _boolean(parameters[name], name) for name in (PROCESSING, RESULTS))
    return InferRequest(inputs, wanted, request.id, binary, parameters, raw, results)


def encode_response(
    outputs: Mapping[str, Array],
    *,
    model: str,
    version: str,
    request: InferRequest,
    labels: tuple[str, ...] = (),
    finite: bool = True,
) -> Answer:
    """The response to `request`, with the outputs that it wants. `finite`: whether all numbers are.

    Where they are not, raw tensors carry them and the parameter `finite` is false; JSON has no NaN, so there it raises
    `InferenceFailed`. Raises `MalformedRequest` when the request wants an output that is not there, or classes of none.
    """
    tensors: list[_Tensor] = []
    raw: list[bytes | memoryview] = []
    for wanted, array in chosen(outputs, request, labels):
        if wanted.binary:
            raw.append(oip_binary.write(array))
            tensors.append(_raw_tensor(wanted.name, array, len(raw[-1])))
        elif finite or array.dtype.kind != "f" or np.isfinite(array).all():
            tensors.append(_tensor(wanted.name, array))
        else:
            raise InferenceFailed(f"{model} {version} answered NaN or infinity, which JSON cannot say.")
    parameters = request.parameters if finite else {**request.parameters, "finite": False}
    head = msgspec.json.encode(_Response(model, version, tensors, request.id, parameters))
    return Answer(b"".join([head, *raw]), len(head)) if raw else Answer(head, None)


def chosen(outputs: Mapping[str, Array], request: InferRequest, labels: tuple[str, ...]) -> list[tuple[WantedOutput, Array]]:
    """The outputs that the request wants, in its order, or else all. Raises `MalformedRequest`."""
    if request.outputs is None:
        return [(WantedOutput(name, request.binary), array) for name, array in outputs.items()]
    return [(wanted, _wanted_of(outputs, wanted, labels)) for wanted in request.outputs]


def _wanted_of(outputs: Mapping[str, Array], wanted: WantedOutput, labels: tuple[str, ...]) -> Array:
    array = outputs.get(wanted.name)
    if array is None:
        raise MalformedRequest(f"The model has no output {wanted.name}; it has {', '.join(outputs)}.")
    return _best_classes(wanted, array, labels) if wanted.classes else array


def datatype_of(array: Array) -> DataType:
    """The array's datatype as the protocol names it."""
    return _NAMES[array.dtype]


def _opened(body: bytes | memoryview, header_length: int | None) -> tuple[_Request, oip_binary.Section | None]:
    """The JSON, and what lies behind it."""
    if header_length is not None and header_length > len(body):
        raise MalformedRequest(f"Inference-Header-Content-Length is {header_length}, and the body has only {len(body)} bytes.")
    try:
        request = _DECODER.decode(body if header_length is None else bytes(body[:header_length]))
    except _UNREADABLE as error:
        raise MalformedRequest(f"The body is not an inference request: {error}.") from error
    return request, None if header_length is None else oip_binary.Section(memoryview(body)[header_length:])


def _binary_by_default(request: _Request, *, raw: bool) -> bool:
    """Whether outputs that say nothing of it are wanted raw: as the request says, or else as it came, when it names none."""
    said = request.parameters.get("binary_data_output")
    if said is None:
        return raw and not request.outputs
    return _boolean(said, "binary_data_output")


def _boolean(said: msgspec.Raw, name: str) -> bool:
    try:
        return _BOOLEAN.decode(said)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"Parameter {name}: {error}.") from error


def _wanted(output: _Output, *, binary: bool) -> WantedOutput:
    parameters = output.parameters
    if parameters.shared_memory_region is not None:
        raise MalformedRequest(f"Output {output.name}: shared memory is not spoken here; ask for binary data.")
    said = parameters.binary_data
    return WantedOutput(output.name, binary if said is None else said, parameters.classification)


def _best_classes(wanted: WantedOutput, scores: Array, labels: tuple[str, ...]) -> Array:
    """The best classes along the last axis as texts, `score:index` or `score:index:label`: the classification extension."""
    if not scores.ndim or scores.dtype.kind not in "fiu":
        raise MalformedRequest(f"Output {wanted.name} is no list of scores, so it has no best classes.")
    order = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[..., : wanted.classes]
    texts = np.empty(order.shape, np.object_)
    for at, index in np.ndenumerate(order):
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[at] = f"{float(scores[at[:-1]][index]):f}:{index}{label}"
    return texts


def _tensor(name: str, array: Array) -> _Tensor:
    return _Tensor(name, datatype_of(array), array.shape, array.ravel().tolist())


def _raw_tensor(name: str, array: Array, size: int) -> _Tensor:
    return _Tensor(name, datatype_of(array), array.shape, parameters={"binary_data_size": size})


def _array(given: _Input, section: oip_binary.Section | None) -> Array:
    if given.parameters.shared_memory_region is not None:
        raise MalformedRequest(f"Input {given.name}: shared memory is not spoken here; send binary data.")
    size = given.parameters.binary_data_size
    if size is not None:
        return _raw_array(given, size, section)
    if given.data is msgspec.UNSET:
        raise MalformedRequest(f"Input {given.name} has no `data`.")
    kind = _KINDS[given.datatype]
    values, wanted = _values(given, given.data, kind), math.prod(given.shape)
    if len(values) != wanted:
        raise MalformedRequest(f"Input {given.name} has {len(values)} values; its shape {list(given.shape)} wants {wanted}.")
    try:
        return kind.array(values, given).reshape(given.shape)
    except ValueError as error:  # a shape such as [0, 2**40, 2**40], which numpy cannot hold
        raise MalformedRequest(f"Input {given.name} has the impossible shape {list(given.shape)}.") from error


def _raw_array(given: _Input, size: int, section: oip_binary.Section | None) -> Array:
    if section is None:
        raise MalformedRequest(
            f"Input {given.name} has a `binary_data_size`, and the request has no Inference-Header-Content-Length."
        )
    if given.data is not msgspec.UNSET:
        raise MalformedRequest(f"Input {given.name} has both `data` and a `binary_data_size`. Send one of them.")
    return oip_binary.read(given.name, given.datatype, given.shape, section.take(given.name, size))


def _values(given: _Input, data: msgspec.Raw, kind: _Kind) -> list[Any]:
    """The tensor's elements in row-major order; `data` may be flat, or nested as the shape says."""
    try:
        return kind.decoder.decode(data)
    except msgspec.ValidationError as error:
        return _nested(given, data, kind, error)
    except _UNREADABLE as error:
        raise MalformedRequest(f"Input {given.name}: its data cannot be read: {error}.") from error


def _nested(given: _Input, data: msgspec.Raw, kind: _Kind, flat_error: msgspec.ValidationError) -> list[Any]:
    try:
        tree = msgspec.json.decode(data)
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


class _Kind:
    """How elements of one datatype are read from JSON and become an array."""

    def __init__(self, datatype: DataType) -> None:
        self._dtype = np.dtype(NUMPY_NAMES[datatype])
        self._packed_as = _PACKED_AS.get(datatype)
        self._elements: Any = _ELEMENTS[self._dtype.kind]
        self.decoder: msgspec.json.Decoder[list[Any]] = msgspec.json.Decoder(self._elements)

    def convert(self, leaves: list[object]) -> list[Any]:
        """Check elements that were decoded without a type. Raises `msgspec.ValidationError`."""
        checked: list[Any] = msgspec.convert(leaves, self._elements)
        return checked

    def array(self, values: list[Any], given: TensorHead) -> Array:
        """The elements as a flat array. Raises `MalformedRequest` for a number that the datatype cannot hold."""
        if self._packed_as is None:
            return np.array(values, self._dtype)
        try:  # in half of numpy's time; and numpy would make infinity of what is too large
            packed = struct.pack(f"={len(values)}{self._packed_as}", *values)
        except (struct.error, OverflowError) as error:
            raise MalformedRequest(f"Input {given.name} has a value outside of {given.datatype}{self._bounds()}.") from error
        return np.frombuffer(packed, self._dtype)

    def _bounds(self) -> str:
        if self._dtype.kind == "f":
            return ""
        bounds = np.iinfo(self._dtype)
        return f": {bounds.min} to {bounds.max}"


_PACKED_AS: Final[dict[DataType, str]] = {
    "BOOL": "?",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
}
"""Numbers as `struct` names them."""
_ELEMENTS: Final = {"f": list[float], "i": list[int], "u": list[int], "b": list[bool], "O": list[str]}
"""By numpy's kinds."""
_KINDS: Final = {datatype: _Kind(datatype) for datatype in NUMPY_NAMES}
