"""TensorFlow Serving's gRPC API as data: its messages to arrays and back, as its clients write and read them. Pure.

Tensors come as `tensor_content` or as typed values, of which fewer than the shape wants repeat the last, as TensorFlow does;
answers are `tensor_content` (texts: `string_val`). Every malformed request raises `MalformedRequest`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from fleet_protocol import limits
from fleet_protocol.tensors import NUMPY_NAMES, DataType, TensorSpec
from runtime import oip_binary
from runtime.engine import Array
from runtime.errors import MalformedRequest
from runtime.hosting.room import Inference, ModelIdentity
from runtime.local_server import oip, tfs
from runtime.local_server.exchange import BODY_BYTES
from runtime.local_server.grpc_messages import filled, message_class
from runtime.local_server.typed_values import narrowed, texts

Message = Any
"""A protobuf message; its fields are those of `protos/tensorflow_serving.proto`."""

PredictMessage: Final = message_class("tensorflow.serving.PredictRequest")
ClassifyMessage: Final = message_class("tensorflow.serving.ClassificationRequest")
RegressMessage: Final = message_class("tensorflow.serving.RegressionRequest")
MetadataMessage: Final = message_class("tensorflow.serving.GetModelMetadataRequest")
StatusMessage: Final = message_class("tensorflow.serving.GetModelStatusRequest")

_Prediction: Final = message_class("tensorflow.serving.PredictResponse")
_Classification: Final = message_class("tensorflow.serving.ClassificationResponse")
_Regression: Final = message_class("tensorflow.serving.RegressionResponse")
_Metadata: Final = message_class("tensorflow.serving.GetModelMetadataResponse")
_Signatures: Final = message_class("tensorflow.serving.SignatureDefMap")
_Status: Final = message_class("tensorflow.serving.GetModelStatusResponse")
_AVAILABLE: Final = 30
SIGNATURES: Final = "signature_def"
"""The only metadata that there is."""

_TYPE_NUMBERS: Final[dict[DataType, int]] = {
    name: message_class("tensorflow.TensorProto").DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name[said].number
    for name, said in tfs.TYPE_NAMES.items()
}
_DATATYPES: Final = {number: name for name, number in _TYPE_NUMBERS.items()}


class _Values(NamedTuple):
    """Where typed values of a datatype lie, and what they are held in until they are known to fit."""

    field: str
    held: str


_VALUES: Final[dict[DataType, _Values]] = {
    "BOOL": _Values("bool_val", "bool"),
    "INT8": _Values("int_val", "int32"),
    "INT16": _Values("int_val", "int32"),
    "INT32": _Values("int_val", "int32"),
    "INT64": _Values("int64_val", "int64"),
    "UINT8": _Values("int_val", "int32"),
    "UINT16": _Values("int_val", "int32"),
    "UINT32": _Values("uint32_val", "uint32"),
    "UINT64": _Values("uint64_val", "uint64"),
    "FP16": _Values("half_val", "int32"),
    "FP32": _Values("float_val", "float32"),
    "FP64": _Values("double_val", "float64"),
}
_FEATURES: Final = {"float_list": "fiub", "int64_list": "fiub", "bytes_list": "O"}
"""The kinds of numpy that each sort of feature can become."""


def asked_version(spec: Message) -> str | None:
    """The version that a `ModelSpec` names: Edgeward's own as `version_label`, or a number."""
    match spec.WhichOneof("version_choice"):
        case "version":
            return str(spec.version.value)
        case "version_label":
            return str(spec.version_label)
    return None


def decode_predict(message: Message) -> dict[str, Array]:
    """The arrays of a predict request, by input name. Raises `MalformedRequest`."""
    tfs.check_signature(message.model_spec.signature_name)
    if len(message.inputs) > limits.TENSORS:
        raise MalformedRequest(f"The request has more than {limits.TENSORS} inputs.")
    return {name: _array(name, tensor) for name, tensor in message.inputs.items()}


def encode_predict(inference: Inference, wanted: Sequence[str]) -> bytes:
    """The outputs in `wanted`, or all. Raises `MalformedRequest` when one is not there."""
    answer = _Prediction()
    _name_version(answer.model_spec, inference.identity)
    for name in wanted or inference.outputs:
        array = inference.outputs.get(name)
        if array is None:
            raise MalformedRequest(f"The model has no output {name}; it has {', '.join(inference.outputs)}.")
        _put(answer.outputs[name], array)
    return bytes(answer.SerializeToString())


def decode_examples(message: Message, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays of a classify or regress request: its examples, and what they share in a context."""
    tfs.check_signature(message.model_spec.signature_name)
    kind = message.input.WhichOneof("kind")
    if kind is None:
        raise MalformedRequest("The request has no examples.")
    given = getattr(message.input, kind)
    shared = dict(given.context.features.feature) if kind == "example_list_with_context" else {}
    rows = [{**shared, **each.features.feature} for each in given.examples]
    if not rows:
        raise MalformedRequest("The list of examples is empty. Give one for each sample.")
    return tfs.columns(rows, specs, _feature)


def encode_classification(inference: Inference, output: str) -> bytes:
    """For each example every class with its score."""
    answer, scores = _Classification(), inference.outputs[output]
    _name_version(answer.model_spec, inference.identity)
    names = tfs.class_names(scores.shape[1], inference.labels)
    for row in scores.tolist():
        classes = answer.result.classifications.add().classes
        for name, score in zip(names, row, strict=True):
            classes.add(label=name, score=score)
    return bytes(answer.SerializeToString())


def encode_regression(inference: Inference, output: str) -> bytes:
    """For each example its number."""
    answer = _Regression()
    _name_version(answer.model_spec, inference.identity)
    for value in inference.outputs[output].ravel().tolist():
        answer.result.regressions.add(value=value)
    return bytes(answer.SerializeToString())


def encode_metadata(identity: ModelIdentity, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    """The model's one signature."""
    said = tfs.metadata(identity.model, identity.version, inputs, outputs)
    answer = _Metadata()
    _name_version(answer.model_spec, identity)
    facts: Any = said["metadata"]
    packed = answer.metadata[SIGNATURES]
    packed.type_url = f"type.googleapis.com/{_Signatures.DESCRIPTOR.full_name}"
    packed.value = filled(_Signatures(), facts[SIGNATURES]).SerializeToString(deterministic=True)
    return bytes(answer.SerializeToString())


def encode_status(identity: ModelIdentity) -> bytes:
    """That this version answers; one that is no number is 0 here."""
    answer = _Status()
    answer.model_version_status.add(version=_number(identity.version) or 0, state=_AVAILABLE).status.SetInParent()
    return bytes(answer.SerializeToString())


def _name_version(spec: Message, identity: ModelIdentity) -> None:
    spec.name, spec.signature_name = identity.model, tfs.SIGNATURE
    number = _number(identity.version)
    if number is None:
        spec.version_label = identity.version
    else:
        spec.version.value = number


def _number(version: str) -> int | None:
    fits = version.isascii() and version.isdigit() and str(int(version)) == version and int(version) < 2**63
    return int(version) if fits else None


def _array(name: str, tensor: Message) -> Array:
    datatype = _DATATYPES.get(tensor.dtype)
    if datatype is None:
        raise MalformedRequest(f"Input {name} has the type {tensor.dtype}, which models here do not take.")
    shape = tuple(each.size for each in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or len(shape) > limits.TENSOR_RANK or any(not 0 <= size < 2**40 for size in shape):
        raise MalformedRequest(f"Input {name} has the impossible shape {list(shape)[: limits.TENSOR_RANK]}.")
    if tensor.tensor_content:
        if datatype == "BYTES":
            raise MalformedRequest(f"Input {name}: texts come as string_val, not as tensor_content.")
        return oip_binary.read(name, datatype, shape, memoryview(tensor.tensor_content))
    flat = texts(tensor.string_val) if datatype == "BYTES" else _numbers(name, datatype, tensor)
    try:
        return _repeated(name, flat, shape).reshape(shape)
    except ValueError as error:  # a shape such as [0, 2**39, 2**39], which numpy cannot hold
        raise MalformedRequest(f"Input {name} has the impossible shape {list(shape)}.") from error


def _repeated(name: str, flat: Array, shape: tuple[int, ...]) -> Array:
    """The values, the last of them again until there are as many as the shape wants."""
    wanted = math.prod(shape)
    if len(flat) == wanted:
        return flat
    if not 0 < len(flat) < wanted or wanted * flat.dtype.itemsize > BODY_BYTES:
        raise MalformedRequest(f"Input {name} has {len(flat)} values; its shape {list(shape)} wants {wanted}.")
    return np.concatenate([flat, np.repeat(flat[-1:], wanted - len(flat))])


def _numbers(name: str, datatype: DataType, tensor: Message) -> Array:
    where, dtype = _VALUES[datatype], np.dtype(NUMPY_NAMES[datatype])
    values = getattr(tensor, where.field)
    array: Array = np.fromiter(values, where.held, len(values))
    if datatype == "FP16":
        return narrowed(name, array, np.dtype(np.uint16), datatype).view(np.float16)
    return narrowed(name, array, dtype, datatype)


def _feature(feature: Message, spec: TensorSpec) -> Array:
    kind = feature.WhichOneof("kind")
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    if kind is None or dtype.kind not in _FEATURES[kind]:
        raise MalformedRequest(f"Feature {spec.name} is {kind or 'empty'}; wanted {spec.describe()}.")
    values = getattr(feature, kind).value
    if kind == "bytes_list":
        return tfs.as_sample(texts(values), spec)
    held: Array = np.fromiter(values, "float32" if kind == "float_list" else "int64", len(values))
    with np.errstate(over="ignore", invalid="ignore"):
        array = held.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(array, held):
        raise MalformedRequest(f"Feature {spec.name} has a value outside of {spec.datatype}.")
    return tfs.as_sample(array, spec)


def _put(tensor: Message, array: Array) -> None:
    datatype = oip.datatype_of(array)
    tensor.dtype = _TYPE_NUMBERS[datatype]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if not array.shape:
        tensor.tensor_shape.SetInParent()
    if datatype == "BYTES":
        tensor.string_val.extend([each if isinstance(each, bytes) else str(each).encode() for each in array.flat])
    else:
        tensor.tensor_content = oip_binary.packed(array)
