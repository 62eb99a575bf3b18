"""JSON in and out of typed, frozen values: one decoder for every text message, one error for everything that can be wrong.

Built on msgspec (docs/adr/0005-msgspec.md). Encoding is deterministic: the same value gives the same bytes.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from fleet_protocol import limits
from fleet_protocol.errors import LimitExceeded, MalformedMessage

T = TypeVar("T")

_NO_BRACKET: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^]\[{}"]++', re.DOTALL)
"""A whole string, or what stands between strings and brackets."""
_OPEN: Final = b"[{"


def encode(value: msgspec.Struct) -> bytes:
    """The value as compact JSON."""
    return msgspec.json.encode(value, order="deterministic")


def encode_readable(value: msgspec.Struct) -> bytes:
    """The value as indented JSON with a final newline, for files that people open."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def decode(content: bytes, kind: type[T], *, limit: int, what: str) -> T:
    """Read `content` as a `kind`.

    `limit` is the most bytes that are looked at; `what` names the message in errors, such as "desired state".
    Raises `LimitExceeded` or `MalformedMessage`, never anything else.
    """
    if len(content) > limit:
        raise LimitExceeded(f"{what} has {len(content)} bytes; at most {limit} are read")
    if _depth(content) > limits.NESTING:
        raise LimitExceeded(f"{what} is nested deeper than {limits.NESTING}")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise MalformedMessage(f"{what} cannot be read: {error}") from error


def _depth(content: bytes) -> int:
    """The deepest nesting of brackets outside strings; at most `limits.NESTING` brackets cannot be too deep."""
    if content.count(b"[") + content.count(b"{") <= limits.NESTING:
        return 0
    depth = deepest = 0
    for byte in _NO_BRACKET.sub(b"", content):
        depth += 1 if byte in _OPEN else -1
        deepest = max(deepest, depth)
    return deepest
