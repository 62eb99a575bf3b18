"""Pulling a resource in chunks: the request that a device sends, and the answer's binary header.

A resource is a blob by digest, or a TUF metadata file by name. A device asks for the chunks that it lacks, up to a window;
a worker answers each with one QoS 0 message on the device's `rx`. The answer names the worker, so that the device can stay
with it.

Answer, little-endian::

    4  magic "EWC1"
    1  status (AnswerStatus)
    1  length of the worker's name, n
    2  reserved, zero
    4  request number, as the device chose it
    4  chunk index
    8  size of the whole resource in bytes
    4  retry after, milliseconds (status RETRY_LATER only)
    n  worker's name
    …  the raw chunk
"""

from __future__ import annotations

import enum
import re
import struct
from typing import Annotated, Final

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.digests import DIGEST_PATTERN
from fleet_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from fleet_protocol.names import check_name

METADATA_PATTERN: Final = r"(timestamp|([1-9][0-9]{0,8}\.)?[a-z0-9][a-z0-9_-]{0,62})\.json\Z"
RESOURCE_PATTERN: Final = rf"^(blob/{DIGEST_PATTERN[1:]}|metadata/{METADATA_PATTERN})"

Resource = Annotated[str, msgspec.Meta(pattern=RESOURCE_PATTERN)]
"""`blob/sha256:<hex>` or `metadata/<TUF file name>`."""

_RESOURCE = re.compile(RESOURCE_PATTERN)
_MAGIC: Final = b"EWC1"
_HEADER: Final = struct.Struct("<4sBBHIIQI")
_U32: Final = 0xFFFF_FFFF

ANSWER_OVERHEAD: Final = _HEADER.size + 63
"""The most bytes that the header and a worker's name add to a chunk."""


class AnswerStatus(enum.IntEnum):
    """What a worker has to say about a chunk."""

    CHUNK = 0
    NOT_FOUND = 1
    RETRY_LATER = 2
    REFUSED = 3


class GetRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A device asks for chunks of a resource. `chunks` are indexes in the order wanted; at most a window of them."""

    request: Annotated[int, msgspec.Meta(ge=0, le=_U32)]
    resource: Resource
    chunk_size: Annotated[int, msgspec.Meta(ge=1, le=limits.CHUNK_BYTES)]
    chunks: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=_U32)], ...], msgspec.Meta(min_length=1, max_length=limits.WINDOW_CHUNKS)
    ]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One message on `rx`. `size` is the whole resource's; `chunk` is empty unless `status` is CHUNK."""

    status: AnswerStatus
    request: int
    index: int = 0
    size: int = 0
    retry_after_ms: int = 0
    worker: str
    chunk: bytes = b""


def blob_resource(digest: str) -> str:
    """The resource of a blob. Raises `MalformedMessage` when `digest` is none."""
    return _checked(f"blob/{digest}")


def metadata_resource(name: str) -> str:
    """The resource of a TUF metadata file such as `timestamp.json` or `3.digits.json`. Raises `MalformedMessage`."""
    return _checked(f"metadata/{name}")


def _checked(resource: str) -> str:
    if not _RESOURCE.match(resource):
        raise MalformedMessage(f"{resource!r} is not a resource that a worker serves")
    return resource


def decode_request(payload: bytes) -> GetRequest:
    """Raises `ProtocolError`."""
    return codec.decode(payload, GetRequest, limit=limits.REQUEST_BYTES, what="chunk request")


def encode_answer(answer: Answer) -> bytes:
    """The bytes for `rx`. Raises `LimitExceeded` when the chunk or a number is too large, `InvalidName` for the worker."""
    if len(answer.chunk) > limits.CHUNK_BYTES:
        raise LimitExceeded(f"chunk has {len(answer.chunk)} bytes; at most {limits.CHUNK_BYTES} travel in one message")
    name = check_name(answer.worker, "worker name").encode()
    numbers = (answer.request, answer.index, answer.size, answer.retry_after_ms)
    try:
        header = _HEADER.pack(_MAGIC, answer.status, len(name), 0, *numbers)
    except struct.error as error:
        raise LimitExceeded(f"answer's request, index, size or delay does not fit its field: {numbers}") from error
    return header + name + answer.chunk


def decode_answer(payload: bytes) -> Answer:
    """Raises `ProtocolError`, whatever the bytes are."""
    if len(payload) > limits.MESSAGE_BYTES:
        raise LimitExceeded(f"answer has {len(payload)} bytes; at most {limits.MESSAGE_BYTES} are read")
    if len(payload) < _HEADER.size:
        raise MalformedMessage(f"answer has {len(payload)} bytes; its header alone has {_HEADER.size}")
    magic, status, name_length, reserved, request, index, size, retry_after = _HEADER.unpack_from(payload)
    body = _HEADER.size + name_length
    if magic != _MAGIC or reserved or len(payload) < body:
        raise MalformedMessage("answer has no valid header")
    try:
        worker = check_name(payload[_HEADER.size : body].decode("ascii"), "worker name")
        kind = AnswerStatus(status)
    except (ProtocolError, ValueError) as error:
        raise MalformedMessage(f"answer has no valid header: {error}") from error
    if size > limits.BLOB_BYTES or len(payload) - body > limits.CHUNK_BYTES:
        raise LimitExceeded("answer speaks of more bytes than are read")
    if kind is not AnswerStatus.CHUNK and len(payload) > body:
        raise MalformedMessage(f"answer with status {kind.name} carries a chunk")
    return Answer(
        status=kind, request=request, index=index, size=size, retry_after_ms=retry_after, worker=worker, chunk=payload[body:]
    )
