"""Looks into an ONNX file before the engine does: external data may only lie beside the model, and nothing is compiled in it.

A walk over the protobuf wire format that reads field headers and passes over the weights; the `onnx` package is not needed on
a device. Files without external data cost one search for the word `location`. Newer versions of onnxruntime check paths as
well; the oldest that we support does not.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.errors import ModelRejected

MAX_FIELDS: Final = 4_000_000
"""Fields that are looked at, over all messages; a real graph of 100,000 nodes has fewer."""
MAX_DEPTH: Final = 100

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_TREE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""onnx.proto3 (IR version 13): the fields through which a TensorProto's `external_data` entries can be reached."""

_COMPILED: Final = b"\x22\x09EPContext"
"""A NodeProto's `op_type` (field 4) as it is on the wire."""

Span = tuple[int, int]


def check_external_data(path: Path) -> None:
    """Raises `ModelRejected` when the model names external data outside its directory, or such as is not there."""
    for location in sorted(external_files(path)):
        _check_location(path, location)


def check_not_compiled(path: Path) -> None:
    """Raises `ModelRejected` for a model that holds an EPContext node, whose bytes a provider's library would run as they are.

    Those that we make ourselves, on this device, are not looked at (`runtime.tuning.compiled`).
    """
    with path.open("rb") as file:
        if path.stat().st_size and mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(_COMPILED) >= 0:
            raise ModelRejected(
                f"{path} holds code that was compiled for one processor (EPContext), which only its library can check. "
                "Publish the model that it was compiled from: devices compile it themselves."
            )


def external_files(path: Path) -> set[str]:
    """Every file that the model says it keeps weights in, as it names them. Raises `ModelRejected` for what is no ONNX."""
    if path.stat().st_size == 0:
        return set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"location") < 0:
            return set()
        try:
            return set(_Walk(content).locations())
        except (_NotProtobuf, UnicodeDecodeError) as error:
            raise ModelRejected(f"{path} is not an ONNX model: {error}.") from error


def _check_location(path: Path, location: str) -> None:
    directory = path.parent.resolve()
    target = (directory / location).resolve()
    if Path(location).is_absolute() or "\\" in location or not target.is_relative_to(directory):
        raise ModelRejected(f"{path} keeps weights in {location!r}, outside its own directory. Save it as one file.")
    if not target.is_file():
        raise ModelRejected(f"{path} keeps weights in {location!r}, and there is no such file beside it. Fetch both.")


class _NotProtobuf(Exception):
    """The bytes break the wire format."""


class _Walk:
    """One pass over a file's messages."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._fields_left = MAX_FIELDS

    def locations(self) -> Iterator[str]:
        """The value of every `location` entry."""
        yield from self._search("model", (0, len(self._content)), MAX_DEPTH)

    def _search(self, kind: str, span: Span, depth: int) -> Iterator[str]:
        if not depth:
            raise _NotProtobuf("its graphs are nested too deep")
        if kind == "entry":
            yield from self._location(span)
            return
        for field, part in self._messages(span):
            inner = _TREE[kind].get(field)
            if inner is not None:
                yield from self._search(inner, part, depth - 1)

    def _location(self, span: Span) -> Iterator[str]:
        texts = {field: self._content[start:end] for field, (start, end) in self._messages(span)}
        if texts.get(1) == b"location":
            yield texts.get(2, b"").decode()

    def _messages(self, span: Span) -> Iterator[tuple[int, Span]]:
        """The length-delimited fields of a message; the others are passed over."""
        at, end = span
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _NotProtobuf(f"it has more than {MAX_FIELDS} fields")
            tag, at = self._varint(at, end)
            wire = tag & 7
            if wire == _BYTES:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise _NotProtobuf("it is cut short")
                yield tag >> 3, (at, at + length)
                at += length
            elif wire == _VARINT:
                _, at = self._varint(at, end)
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            else:
                raise _NotProtobuf(f"it holds a field of wire type {wire}")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise _NotProtobuf("it is cut short")
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _NotProtobuf("it holds a number that does not end")
