"""TensorFlow Serving's REST API as data: its JSON to arrays and back, as its clients write and read it. Pure.

A predict request is in rows (`instances`: one element a sample) or in columns (`inputs`: whole tensors), and is answered in
kind. Values are read by the model's own datatypes and ranks, so that nothing is guessed; texts may be `{"b64": "…"}`.
Every malformed request raises `MalformedRequest` with a message that says where it is wrong.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import GenericAlias
from typing import Annotated, Any, Final, TypeVar

import msgspec
import numpy as np

from fleet_protocol.tensors import DYNAMIC, NUMPY_NAMES, DataType, TensorSpec
from runtime import oip_binary
from runtime.engine import Array
from runtime.errors import MalformedRequest

SIGNATURE: Final = "serving_default"
"""The only signature that a model has here; a request may leave it out."""
BYTES_SUFFIX: Final = "_bytes"
"""Texts of an output whose name ends so are answered as base64."""

TYPE_NAMES: Final[dict[DataType, str]] = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}
_Value = TypeVar("_Value")
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    b64: str


class _Predict(msgspec.Struct, frozen=True):
    signature_name: str = ""
    instances: msgspec.Raw = msgspec.Raw()
    inputs: msgspec.Raw = msgspec.Raw()


class _Examples(msgspec.Struct, frozen=True):
    examples: list[dict[str, msgspec.Raw]]
    context: dict[str, msgspec.Raw] = {}
    signature_name: str = ""


_PREDICT: Final = msgspec.json.Decoder(_Predict)
_EXAMPLES: Final = msgspec.json.Decoder(_Examples)
_NAMED: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ONE_TEXT: Final = msgspec.json.Decoder(_Base64)
_ONLY_TEXTS: Final = msgspec.json.Decoder(list[_Base64])
_NAMED_ROWS: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Arrays by input name. `rows`: so many instances were given, and the answer is in rows too; None: in columns."""

    inputs: dict[str, Array]
    rows: int | None


def decode_predict(body: bytes, specs: Sequence[TensorSpec]) -> PredictRequest:
    """Read a predict request for a model with such inputs. Raises `MalformedRequest`."""
    request = _read(_PREDICT, body, "a predict request")
    check_signature(request.signature_name)
    instances, inputs = bytes(request.instances), bytes(request.inputs)
    if bool(instances) == bool(inputs):
        raise MalformedRequest("A predict request has either `instances` (rows) or `inputs` (columns).")
    if inputs:
        return PredictRequest(_columns(inputs, specs), None)
    arrays = _rows(instances, specs)
    counts = {len(array) for array in arrays.values()}
    if counts == {0} or not counts:
        raise MalformedRequest("`instances` is empty. Give one element for each sample.")
    return PredictRequest(arrays, counts.pop())


def given_as(body: bytes, specs: Sequence[TensorSpec], encoded: Collection[str]) -> Sequence[TensorSpec]:
    """What the request gives: one picture or file a sample at the inputs `encoded`, where it holds base64, else tensors."""
    if not encoded or b'"b64"' not in body:
        return specs
    return [TensorSpec(name=spec.name, datatype="BYTES", shape=(DYNAMIC,)) if spec.name in encoded else spec for spec in specs]


def encode_predict(outputs: Mapping[str, Array], *, rows: int | None) -> bytes:
    """The answer: in `rows`, or in columns. All numbers are finite.

    Raises `MalformedRequest` when rows are wanted and an output has not one for each instance.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if rows is None:
        return msgspec.json.encode({"outputs": values if len(values) != 1 else next(iter(values.values()))})
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise MalformedRequest(
                f"Output {name} of shape {list(array.shape)} has no row for each of {rows} instances. "
                "Ask in columns: `inputs` instead of `instances`."
            )
    if len(values) == 1:
        return msgspec.json.encode({"predictions": next(iter(values.values()))})
    return msgspec.json.encode(
        {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}
    )


def decode_examples(body: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read a classify or regress request: `examples` of named features, and what they share in `context`.

    A feature is a number or text, a flat list as tf.Example has it, or nested as the input's shape says.
    """
    request = _read(_EXAMPLES, body, "a classify or regress request")
    check_signature(request.signature_name)
    if not request.examples:
        raise MalformedRequest("`examples` is empty. Give one object of features for each sample.")
    rows = [{**request.context, **example} for example in request.examples]
    return columns(rows, specs, _feature)


def encode_classification(scores: Array, labels: Sequence[str]) -> bytes:
    """For each example the pairs of label and score: [batch, classes]."""
    names = class_names(scores.shape[1], labels)
    return msgspec.json.encode({"results": [list(zip(names, row, strict=True)) for row in scores.tolist()]})


def class_names(count: int, labels: Sequence[str]) -> list[str]:
    """What so many classes are called. One without a label is named by its number."""
    return [labels[index] if index < len(labels) else str(index) for index in range(count)]


def encode_regression(values: Array) -> bytes:
    """For each example its number: [batch] or [batch, 1]."""
    return msgspec.json.encode({"results": values.ravel().tolist()})


def status(version: str) -> dict[str, object]:
    """What the model status says of a version that answers."""
    healthy = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": healthy}]}


def metadata(name: str, version: str, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> dict[str, object]:
    """A model's metadata: its one signature."""
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, object]:
    dimensions = [{"size": str(size), "name": ""} for size in spec.shape]
    shape = {"dim": dimensions, "unknown_rank": False}
    return {"dtype": TYPE_NAMES[spec.datatype], "tensor_shape": shape, "name": spec.name}


def check_signature(name: str) -> None:
    """Raises `MalformedRequest` when that is not the one signature that there is."""
    if name not in ("", SIGNATURE):
        raise MalformedRequest(f"There is no signature {name!r}; the only one is {SIGNATURE}.")


def _read(decoder: msgspec.json.Decoder[Any], content: bytes, what: str) -> Any:  # noqa: ANN401  # what the decoder makes
    try:
        return decoder.decode(content)
    except _UNREADABLE as error:
        raise MalformedRequest(f"This is not {what}: {error}.") from error


def _columns(content: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    if len(specs) == 1 and (content[:1] != b"{" or _is_one_text(content, specs[0])):
        return {specs[0].name: _tensor(content, specs[0], len(specs[0].shape))}
    named = _read(_NAMED, content, "a tensor for each input by its name")
    found = {name: spec_of(name, specs) for name in named}
    return {name: _tensor(bytes(value), found[name], len(found[name].shape)) for name, value in named.items()}


def _is_one_text(content: bytes, spec: TensorSpec) -> bool:
    """Whether this object is a text as base64, and not inputs by name."""
    return spec.datatype == "BYTES" and spec.name != "b64" and _decodes(_ONE_TEXT, content)


def _rows(content: bytes, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    for spec in specs:
        if not spec.shape:
            raise MalformedRequest(f"Input {spec.name} is a single value, which has no rows. Ask in columns: `inputs`.")
    if len(specs) == 1 and not _are_named(content, specs[0]):
        return {specs[0].name: _tensor(content, specs[0], len(specs[0].shape))}
    rows = _read(_NAMED_ROWS, content, "a list of objects, one for each instance")
    return columns(rows, specs, _instance)


def _are_named(rows: bytes, spec: TensorSpec) -> bool:
    """Whether the rows are objects of named values, and not texts as base64."""
    texts = spec.datatype == "BYTES" and spec.name != "b64" and _decodes(_ONLY_TEXTS, rows)
    return not texts and _decodes(_NAMED_ROWS, rows)


def _decodes(decoder: msgspec.json.Decoder[Any], content: bytes) -> bool:
    try:
        decoder.decode(content)
    except _UNREADABLE:
        return False
    return True


def columns(
    rows: Sequence[Mapping[str, _Value]], specs: Sequence[TensorSpec], read: Callable[[_Value, TensorSpec], Array]
) -> dict[str, Array]:
    """Named values row by row, as one array for each input. Raises `MalformedRequest`."""
    for index, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise MalformedRequest(f"Row {index} has {_listed(row)}, where row 0 has {_listed(rows[0])}. Rows must be alike.")
    arrays = {}
    for name in rows[0] if rows else ():
        spec = spec_of(name, specs)
        values = [read(row[name], spec) for row in rows]
        if len({value.shape for value in values}) > 1:
            raise MalformedRequest(f"Input {name} has rows of different shapes.")
        arrays[name] = np.stack(values)
    return arrays


def _instance(content: msgspec.Raw, spec: TensorSpec) -> Array:
    return _tensor(bytes(content), spec, len(spec.shape) - 1)


def _feature(raw: msgspec.Raw, spec: TensorSpec) -> Array:
    content = bytes(raw)
    rank = max(len(spec.shape) - 1, 0)
    if content[:1] != b"[":
        value = _tensor(content, spec, 0)
    elif rank > 1 and content[1:].lstrip()[:1] == b"[":
        value = _tensor(content, spec, rank)
    else:
        value = _tensor(content, spec, 1)
    return as_sample(value, spec)


def as_sample(value: Array, spec: TensorSpec) -> Array:
    """An example's values in the shape of one sample. Raises `MalformedRequest`."""
    try:
        return value.reshape(spec.shape[1:])
    except ValueError as error:
        raise MalformedRequest(f"Input {spec.name} has {value.size} values; wanted {spec.describe()}.") from error


def spec_of(name: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    """The input of that name. Raises `MalformedRequest`."""
    for spec in specs:
        if spec.name == name:
            return spec
    raise MalformedRequest(f"The model has no input {name}; it has {', '.join(spec.name for spec in specs)}.")


def _listed(row: Mapping[str, object]) -> str:
    return ", ".join(sorted(row)) or "nothing"


def _tensor(content: bytes, spec: TensorSpec, rank: int) -> Array:
    """One value of so many dimensions, of the input's datatype."""
    try:
        values = _decoder(spec.datatype, rank).decode(content)
    except _UNREADABLE as error:
        raise MalformedRequest(f"Input {spec.name} ({spec.describe()}): {error}.") from error
    try:
        array = np.array(values, _HELD.get(spec.datatype, NUMPY_NAMES[spec.datatype]))
    except OverflowError as error:
        raise MalformedRequest(f"Input {spec.name} has a value outside of {spec.datatype}.") from error
    except ValueError as error:
        raise MalformedRequest(f"Input {spec.name} has lists of different lengths.") from error
    if array.ndim != rank:
        raise MalformedRequest(f"Input {spec.name} is ragged or empty; wanted {spec.describe()}.")
    return _texts(array, spec.name) if spec.datatype == "BYTES" else _narrowed(array, spec)


def _narrowed(array: Array, spec: TensorSpec) -> Array:
    with np.errstate(over="ignore"):
        array = array.astype(NUMPY_NAMES[spec.datatype], copy=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise MalformedRequest(f"Input {spec.name} has a value outside of {spec.datatype}.")
    return array


def _texts(array: Array, name: str) -> Array:
    flat = np.empty(array.size, np.object_)
    for index, element in enumerate(array.flat):
        flat[index] = _unpacked(element.b64, name) if isinstance(element, _Base64) else element
    return flat.reshape(array.shape)


def _unpacked(text: str, name: str) -> str | bytes:
    try:
        return oip_binary.text(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise MalformedRequest(f"Input {name}: {text[:40]!r} is not base64.") from error


def _plain(name: str, array: Array) -> Any:  # noqa: ANN401  # nested lists of numbers or texts
    if array.dtype.kind == "O" and name.endswith(BYTES_SUFFIX):
        packed = np.empty(array.size, np.object_)
        packed[:] = [_Base64(base64.b64encode(str(text).encode()).decode()) for text in array.flat]
        array = packed.reshape(array.shape)
    return array.tolist()


def _elements(datatype: DataType) -> Any:  # noqa: ANN401  # a type as a value
    kind = np.dtype(NUMPY_NAMES[datatype])
    if kind.kind in "fbO":
        return {"f": float, "b": bool, "O": str | _Base64}[kind.kind]
    if datatype in ("INT64", "UINT64"):  # beyond what msgspec compares; numpy raises OverflowError
        return int
    bounds = np.iinfo(kind)
    return Annotated[int, msgspec.Meta(ge=int(bounds.min), le=int(bounds.max))]


@lru_cache(maxsize=256)
def _decoder(datatype: DataType, rank: int) -> msgspec.json.Decoder[Any]:
    kind = _elements(datatype)
    for _ in range(rank):
        kind = GenericAlias(list, (kind,))
    return msgspec.json.Decoder(kind)


_HELD: Final[dict[DataType, str]] = {"FP16": "float64", "FP32": "float64"}
"""What numbers are held in until they are known to fit."""
