"""A device's report as OTLP metrics, delta temporality, in a small frame.

The body is an OTLP `ExportMetricsServiceRequest` (opentelemetry-proto), deflated, so that a backend can forward it unchanged
to any OpenTelemetry Collector. Which device sent it comes from the authenticated topic and never from the body.

Frame, little-endian::

     4  magic "EWT1"
     1  lane (Lane)
     3  reserved, zero
    16  boot id
     8  sequence within the boot
     …  deflated body: OTLP protobuf (lane METRICS) or a DeviceEvent as JSON (lane EVENTS)

A report is acknowledged end to end: the backend names (boot, sequence) on the device's `ack` once it is committed
(docs/adr/0006-telemetry-is-acknowledged-end-to-end.md).
"""

from __future__ import annotations

import enum
import struct
import zlib
from typing import Annotated, Final

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.errors import LimitExceeded, MalformedMessage
from fleet_protocol.histogram import Histogram

_MAGIC: Final = b"EWT1"
_BOOT_BYTES: Final = 16
_HEADER: Final = struct.Struct("<4sB3x16sQ")
_LARGEST_SEQUENCE: Final = 2**63 - 1

Sequence = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_SEQUENCE)]
"""Rises with every frame of a boot, over both lanes."""


class Lane(enum.IntEnum):
    """What a frame carries. Events are kept when reports must be merged or dropped."""

    METRICS = 0
    EVENTS = 1


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the telemetry or event topic. `body` is not deflated here."""

    lane: Lane
    boot: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    sequence: Sequence
    body: bytes


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The backend's answer on `ack`: "these are stored". `boot` is 32 hex digits."""

    boot: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    sequences: Annotated[tuple[Sequence, ...], msgspec.Meta(max_length=1024)]


class ModelUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of one model did between `start` and `end` (epoch seconds)."""

    model: str
    version: str
    manifest: str
    variant: str
    start: float
    end: float
    latency: Histogram
    """Seconds."""
    predictions: dict[str, int] = {}
    errors: dict[str, int] = {}


def encode_frame(frame: Frame) -> bytes:
    """The MQTT payload. Raises `LimitExceeded` or `MalformedMessage` for what `decode_frame` would not take."""
    if len(frame.boot) != _BOOT_BYTES or not 0 <= frame.sequence <= _LARGEST_SEQUENCE:
        raise MalformedMessage(f"telemetry frame has a boot of {len(frame.boot)} bytes or the sequence {frame.sequence}")
    if len(frame.body) > limits.TELEMETRY_INFLATED_BYTES:
        raise LimitExceeded(f"telemetry body has {len(frame.body)} bytes; at most {limits.TELEMETRY_INFLATED_BYTES} are sent")
    payload = _HEADER.pack(_MAGIC, frame.lane, frame.boot, frame.sequence) + zlib.compress(frame.body, 6)
    if len(payload) > limits.MESSAGE_BYTES:
        raise LimitExceeded(f"telemetry frame has {len(payload)} bytes; at most {limits.MESSAGE_BYTES} are sent")
    return payload


def frame_name(payload: bytes) -> tuple[str, int]:
    """Boot (32 hex digits) and sequence of a frame whose body may be anything. Raises `ProtocolError`.

    What can be named can be acknowledged, even when it counts for nothing: its sender need not send it again.
    """
    _, boot, sequence = _read_header(payload)
    return boot.hex(), sequence


def decode_frame(payload: bytes) -> Frame:
    """Raises `ProtocolError`, whatever the bytes are; inflates at most `limits.TELEMETRY_INFLATED_BYTES`."""
    if len(payload) > limits.MESSAGE_BYTES:
        raise LimitExceeded(f"telemetry frame has {len(payload)} bytes; at most {limits.MESSAGE_BYTES} are read")
    lane, boot, sequence = _read_header(payload)
    try:
        kind = Lane(lane)
    except ValueError as error:
        raise MalformedMessage(f"telemetry frame names the unknown lane {lane}") from error
    return Frame(lane=kind, boot=boot, sequence=sequence, body=_inflate(payload[_HEADER.size :]))


def _read_header(payload: bytes) -> tuple[int, bytes, int]:
    """Lane, boot and sequence."""
    if len(payload) < _HEADER.size:
        raise MalformedMessage(f"telemetry frame has {len(payload)} bytes; its header alone has {_HEADER.size}")
    magic, lane, boot, sequence = _HEADER.unpack_from(payload)
    if magic != _MAGIC or sequence > _LARGEST_SEQUENCE:
        raise MalformedMessage("telemetry frame has no valid header")
    return lane, boot, sequence


def _inflate(deflated: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(deflated, limits.TELEMETRY_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise MalformedMessage(f"telemetry body cannot be inflated: {error}") from error
    if len(body) > limits.TELEMETRY_INFLATED_BYTES:
        raise LimitExceeded(f"telemetry body inflates to more than {limits.TELEMETRY_INFLATED_BYTES} bytes")
    if not stream.eof or stream.unused_data:
        raise MalformedMessage("telemetry body is cut short, or followed by something else")
    return body


def decode_acknowledged(payload: bytes) -> Acknowledged:
    """Raises `ProtocolError`."""
    return codec.decode(payload, Acknowledged, limit=limits.REQUEST_BYTES, what="acknowledgement")
