"""The Open Inference Protocol's inference over gRPC: its messages to requests, answers to its messages. Pure.

Tensors come as raw bytes (`raw_input_contents`, one for each input, in order) or as typed contents; answers are raw, which is
what existing clients read. What a request may say is `runtime.local_server.oip`'s; malformed ones raise `MalformedRequest`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from fleet_protocol import limits
from fleet_protocol.tensors import NUMPY_NAMES, DataType
from runtime import oip_binary
from runtime.engine import Array
from runtime.errors import MalformedRequest
from runtime.hosting.room import Inference
from runtime.local_server import oip
from runtime.local_server.grpc_messages import message_class
from runtime.local_server.typed_values import narrowed, texts

Message = Any
"""A protobuf message; its fields are those of `protos/open_inference.proto`."""

InferMessage: Final = message_class("inference.ModelInferRequest")
InferAnswer: Final = message_class("inference.ModelInferResponse")

_CONTENTS: Final[dict[DataType, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where typed contents of a datatype lie; FP16 comes raw only."""
_HELD: Final[dict[str, str]] = {"int_contents": "int32", "uint_contents": "uint32"}
"""What the wider contents are held in until they are known to fit."""
_ID_LENGTH: Final = 1024


def read_wishes(message: Message) -> tuple[int | None, int, str | None] | None:
    """As `oip.read_wishes`. Raises `MalformedRequest` for values of another kind."""
    if not message.parameters:
        return None
    timeout, level = _whole_number(message, "timeout"), _whole_number(message, "priority")
    return timeout, level or 0, _text(message, oip.KEY)


def decode_request(message: Message) -> oip.InferRequest:
    """Read an inference request. Raises `MalformedRequest`."""
    given_inputs, wanted = message.inputs, message.outputs
    if len(given_inputs) > limits.TENSORS or len(wanted) > limits.TENSORS:
        raise MalformedRequest(f"The request has more than {limits.TENSORS} inputs or outputs.")
    if len(message.id) > _ID_LENGTH:
        raise MalformedRequest(f"The request's id is longer than {_ID_LENGTH} characters.")
    raw = message.raw_input_contents
    if raw and len(raw) != len(given_inputs):
        raise MalformedRequest(
            f"The request has {len(given_inputs)} inputs and {len(raw)} raw_input_contents. Send one for each input, or none."
        )
    inputs: dict[str, Array] = {}
    for index, given in enumerate(given_inputs):
        head = _head(index, given)
        if head.name in inputs:
            raise MalformedRequest(f"Input {head.name} is given twice.")
        inputs[head.name] = _raw(head, given, raw[index]) if raw else _typed(head, given)
    outputs = tuple([_wanted(each) for each in wanted]) if wanted else None
    return oip.InferRequest(
        inputs, outputs, message.id, binary=True, raw=_asks(message, oip.PROCESSING), results=_asks(message, oip.RESULTS)
    )


def encode_response(inference: Inference, message: Message, request: oip.InferRequest) -> bytes:
    """The response to `request`, which came as `message`. Raises `MalformedRequest` when it wants what is not there."""
    tensors = oip.chosen(inference.outputs, request, inference.labels)
    outputs = tuple([(wanted.name, oip.datatype_of(array), array.shape) for wanted, array in tensors])
    answer = InferAnswer(raw_output_contents=[oip_binary.packed(array) for _, array in tensors])
    if message.id:
        answer.id = message.id
    if message.parameters:
        for name, value in message.parameters.items():
            answer.parameters[name].CopyFrom(value)
    if not inference.finite:
        answer.parameters["finite"].bool_param = False
    # Protobuf reads two messages behind each other as one (its encoding, "last one wins"; repeated fields are joined).
    return _answer_head(inference.identity.model, inference.identity.version, outputs) + bytes(answer.SerializeToString())


@lru_cache(maxsize=64)
def _answer_head(model: str, version: str, outputs: tuple[tuple[str, DataType, tuple[int, ...]], ...]) -> bytes:
    """What answers of the same shapes have in common, as bytes: to make it anew for each takes a quarter of the writing."""
    head = InferAnswer(model_name=model, model_version=version)
    for name, datatype, shape in outputs:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    return bytes(head.SerializeToString())


def _asks(message: Message, name: str) -> bool:
    if name not in message.parameters:
        return False
    parameter = message.parameters[name]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise MalformedRequest(f"The request's parameter {name} is no truth value.")
    return bool(parameter.bool_param)


def _whole_number(message: Message, name: str) -> int | None:
    if name not in message.parameters:
        return None
    parameter = message.parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, choice) if choice in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise MalformedRequest(f"The request's parameter {name} is no whole number from 0.")
    return int(value)


def _text(message: Message, name: str) -> str | None:
    if name not in message.parameters:
        return None
    parameter = message.parameters[name]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise MalformedRequest(f"The request's parameter {name} is no string.")
    return str(parameter.string_param)


def _head(index: int, given: Message) -> oip.TensorHead:
    said = {"name": given.name, "shape": tuple(given.shape), "datatype": given.datatype}
    try:
        head = msgspec.convert(said, oip.TensorHead)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"Input {index}: {error}.") from error
    if "shared_memory_region" in given.parameters:
        raise MalformedRequest(f"Input {head.name}: shared memory is not spoken here; send the data itself.")
    return head


def _wanted(given: Message) -> oip.WantedOutput:
    if "shared_memory_region" in given.parameters:
        raise MalformedRequest(f"Output {given.name}: shared memory is not spoken here.")
    classes = 0
    if "classification" in given.parameters:
        classes = given.parameters["classification"].int64_param
        if not 0 <= classes <= limits.CLASSES:
            raise MalformedRequest(f"Output {given.name}: classification is {classes}; wanted 0 to {limits.CLASSES}.")
    return oip.WantedOutput(given.name, binary=True, classes=classes)


def _raw(head: oip.TensorHead, given: Message, raw: bytes) -> Array:
    if given.HasField("contents"):
        raise MalformedRequest(f"Input {head.name} has both contents and raw_input_contents. Send one of them.")
    return oip_binary.read(head.name, head.datatype, head.shape, memoryview(raw))


def _typed(head: oip.TensorHead, given: Message) -> Array:
    field = _CONTENTS.get(head.datatype)
    if field is None:
        raise MalformedRequest(f"Input {head.name}: {head.datatype} comes as raw_input_contents only.")
    values, wanted = getattr(given.contents, field), math.prod(head.shape)
    if len(values) != wanted:
        raise MalformedRequest(
            f"Input {head.name} has {len(values)} values in {field}; "
            f"{head.datatype} of shape {list(head.shape)} wants {wanted}."
        )
    flat = texts(values) if head.datatype == "BYTES" else _numbers(head, values, _HELD.get(field))
    try:
        return flat.reshape(head.shape)
    except ValueError as error:  # a shape such as [0, 2**40, 2**40], which numpy cannot hold
        raise MalformedRequest(f"Input {head.name} has the impossible shape {list(head.shape)}.") from error


def _numbers(head: oip.TensorHead, values: Message, held: str | None) -> Array:
    dtype = np.dtype(NUMPY_NAMES[head.datatype])
    array: Array = np.fromiter(values, held or dtype, len(values))
    return array if held is None else narrowed(head.name, array, dtype, head.datatype)
