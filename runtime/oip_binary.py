"""The binary tensor extension of the Open Inference Protocol: tensors as raw bytes behind the JSON. Pure.

A request or response is JSON of `Inference-Header-Content-Length` bytes, then the raw tensors in the order in which the JSON
names them, each of its `binary_data_size`: numbers little-endian and row-major, BOOL as bytes 0 and 1, each element of BYTES
behind its length as 4 bytes. Numbers are not copied where they lie aligned. Nothing is allocated for what a request claims:
sizes are held against the bytes that are there. Every malformed section raises `MalformedRequest`.
"""

from __future__ import annotations

import math
import struct
import sys
from typing import Any, Final

import numpy as np

from fleet_protocol.tensors import NUMPY_NAMES, DataType
from runtime.engine import Array
from runtime.errors import MalformedRequest

HEADER: Final = b"inference-header-content-length"
ALIGNMENT: Final = 16
"""Suits every number that there is; bytearrays begin at its multiples."""
_LENGTH_DIGITS: Final = 19
_NATIVE: Final = sys.byteorder == "little"
_COUNT: Final = struct.Struct("<I")
_WIRE: Final[dict[DataType, np.dtype[Any]]] = {
    datatype: np.dtype(name) if sys.byteorder == "little" else np.dtype(name).newbyteorder("<")
    for datatype, name in NUMPY_NAMES.items()
    if datatype != "BYTES"
}


def header_length(value: bytes) -> int:
    """What the HTTP header says. Raises `MalformedRequest`."""
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        shown = value[:40].decode("latin-1")
        raise MalformedRequest(f"Inference-Header-Content-Length is {shown!r}; wanted the JSON's length in bytes.")
    return int(value)


def lead_in(length: int) -> int:
    """How far behind a multiple of `ALIGNMENT` a body with so much JSON must begin for its tensors to lie aligned."""
    return -length % ALIGNMENT


class Section:
    """The raw bytes behind a request's JSON, handed out in order."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self._at = 0

    def take(self, name: str, size: int) -> memoryview:
        """The next `size` bytes, which are input `name`'s."""
        left = len(self._raw) - self._at
        if size > left:
            raise MalformedRequest(f"Input {name} claims {size} bytes of binary data; {left} are left in the request.")
        self._at += size
        return self._raw[self._at - size : self._at]

    def end(self) -> None:
        """Raises `MalformedRequest` when there are bytes that no input claimed."""
        left = len(self._raw) - self._at
        if left:
            raise MalformedRequest(
                f"{left} bytes of binary data are of no input. Give each input its `binary_data_size`, in the bytes' order."
            )


def read(name: str, datatype: DataType, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Input `name` from its raw bytes: an array of `shape` over `raw` itself where that can be. Sizes are not negative."""
    flat = _texts(name, shape, raw) if datatype == "BYTES" else _numbers(name, datatype, shape, raw)
    try:
        return flat.reshape(shape)
    except ValueError as error:  # a shape such as [0, 2**40, 2**40], which numpy cannot hold
        raise MalformedRequest(f"Input {name} has the impossible shape {list(shape)}.") from error


def write(array: Array) -> bytes | memoryview:
    """The raw bytes of an output."""
    if array.dtype.kind == "O":
        return b"".join(part for text in array.flat for part in _counted(text))
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def packed(array: Array) -> bytes:
    """The same as bytes of their own."""
    return array.tobytes() if _NATIVE and array.dtype.kind != "O" else bytes(write(array))


def _numbers(name: str, datatype: DataType, shape: tuple[int, ...], raw: memoryview) -> Array:
    wire = _WIRE[datatype]
    wanted = math.prod(shape) * wire.itemsize
    if len(raw) != wanted:
        raise MalformedRequest(
            f"Input {name} has {len(raw)} bytes of binary data; {datatype} of shape {list(shape)} wants {wanted}."
        )
    if datatype == "BOOL" and raw and np.frombuffer(raw, np.uint8).max() > 1:
        raise MalformedRequest(f"Input {name} of BOOL has a byte that is neither 0 nor 1.")
    array: Array = np.frombuffer(raw, wire)
    if not array.flags.aligned:  # behind a tensor of odd length; engines may read numbers only where they belong
        array = array.copy()
    return array if sys.byteorder == "little" else array.astype(NUMPY_NAMES[datatype])


def _texts(name: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    wanted, at, texts = math.prod(shape), 0, list[str | bytes]()
    while at < len(raw):
        if len(raw) - at < _COUNT.size:
            raise MalformedRequest(f"Input {name} of BYTES breaks off in the length of element {len(texts)}.")
        size: int = _COUNT.unpack_from(raw, at)[0]
        at += _COUNT.size
        if size > len(raw) - at:
            raise MalformedRequest(
                f"Input {name} of BYTES: element {len(texts)} claims {size} bytes; {len(raw) - at} are left."
            )
        texts.append(text(raw[at : at + size]))
        at += size
    if len(texts) != wanted:
        raise MalformedRequest(f"Input {name} has {len(texts)} elements; its shape {list(shape)} wants {wanted}.")
    return np.array(texts, np.object_)


def text(raw: bytes | memoryview) -> str | bytes:
    """A text, or a picture or whatever it is: a model that takes only texts refuses other bytes itself."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return bytes(raw)


def _counted(text: object) -> tuple[bytes, bytes]:
    encoded = text if isinstance(text, bytes) else str(text).encode()
    return _COUNT.pack(len(encoded)), encoded
