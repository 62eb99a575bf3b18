"""gRPC's messages as classes, from `protos/*.proto`, in a pool of their own.

A program may hold these messages a second time: tritonclient and tensorflow-serving-api register the same names in protobuf's
default pool, which refuses a second definition; generated modules would also bind us to one major version of protobuf
(docs/adr/0012-grpc.md). `scripts/compile-protos` writes `descriptors.binpb`; a test holds it against the `.proto` files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

from runtime.errors import MalformedRequest

_DESCRIPTORS: Final = Path(__file__).with_name("protos") / "descriptors.binpb"

_Message = TypeVar("_Message")


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def message_class(name: str) -> Any:  # noqa: ANN401  # its fields are the .proto's
    """The class of messages of that full name, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def parsed(kind: Any, body: bytes) -> Any:  # noqa: ANN401  # a message of that class
    """The message in `body`. Raises `MalformedRequest`."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise MalformedRequest(f"The message is no {kind.DESCRIPTOR.full_name}: {error}.") from error


def filled(message: _Message, facts: object) -> _Message:
    """The message with what `facts` (plain data) says for its fields; what it has no field for is left out."""
    json_format.ParseDict(msgspec.to_builtins(facts), message, ignore_unknown_fields=True)  # type: ignore[type-var]  # any message
    return message
