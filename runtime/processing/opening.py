"""What a user gives, opened as the first step says: pictures, numbers, audio, bytes. One sample at a time.

The forms that are taken: encoded content as `bytes`, or as a text (base64 of pictures and audio; of `bytes` the text itself),
or as `{"b64": text}`; numbers as arrays, or as lists out of JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

import numpy as np

from fleet_protocol.processing import Audio, Bytes, Decode, Ends, InputProcessing, Opener, Tensor
from fleet_protocol.tensors import TensorSpec
from runtime.errors import InvalidInput
from runtime.exact_arrays import exact_array
from runtime.processing import wav
from runtime.processing.decoding import ENCODED_BYTES, decode, from_array
from runtime.processing.numbers import Array, check_numbers

Given = object
"""One sample in any of the forms above, or a batch of them where a batch is wanted; whatever else it is, it is refused."""

_BASE64_KEY: Final = "b64"


def opened(wanted: InputProcessing, given: Given) -> Array:
    """One sample. Raises `InvalidInput`, or `DecoderMissing` where nothing here decodes or resamples it."""
    first = wanted.first
    match first:
        case Decode():
            return (
                from_array(given, first.colour)
                if isinstance(given, np.ndarray)
                else decode(_content(first, given), first.colour)
            )
        case Tensor():
            return _numbers(first, wanted.tensor, given)
        case Audio():
            listed = _listed(given)
            return (
                wav.samples(_content(first, given), first.rate, resample=first.resample)
                if listed is None
                else wav.from_array(listed)
            )
        case Bytes():
            listed = _listed(given)
            return np.frombuffer(_content(first, given), np.uint8) if listed is None else _as_bytes(listed)


def looked_at(wanted: InputProcessing) -> int | None:
    """So many bytes at each end of a file are all that the steps look at; None: they look at all of it."""
    return next((step.block for step in wanted.steps[1:2] if isinstance(step, Ends)), None)


def samples(first: Opener, value: Given) -> list[Given]:
    """The samples of a batch; what is one sample is a batch of one. Raises `InvalidInput`."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        return list(value.flat)
    if not isinstance(first, Tensor) and is_encoded(value):
        return value if isinstance(value, list) else [value]
    rank = len(first.shape) if isinstance(first, Tensor) else 3 if isinstance(first, Decode) else 1
    depth = _depth(value)
    if depth not in (rank, rank + 1):
        raise InvalidInput(f"It has {depth} dimensions; one sample has {rank}, and a batch one more.")
    return list(value) if depth == rank + 1 and isinstance(value, list | np.ndarray) else [value]


def is_encoded(value: object) -> bool:
    """Whether it is encoded content rather than numbers, or a batch of such."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OSU"
    several = value if isinstance(value, list) and value else [value]
    return all(isinstance(each, str | bytes | bytearray | memoryview | Mapping) for each in several)


def _depth(value: object) -> int:
    """How deep lists are nested, along their first elements."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth + (value.ndim if isinstance(value, np.ndarray) else 0)


def _content(first: Opener, given: object) -> bytes | bytearray | memoryview:
    if isinstance(given, Mapping):
        if list(given) != [_BASE64_KEY] or not isinstance(given[_BASE64_KEY], str):
            raise InvalidInput(f'It is an object of {sorted(map(str, given))[:5]}; wanted {{"b64": "…"}}.')
        return _decoded(given[_BASE64_KEY])
    if isinstance(given, str):
        return _of_text(first, given)
    if isinstance(given, bytes | bytearray | memoryview):
        if len(given) > ENCODED_BYTES:
            raise InvalidInput(f"It has {len(given)} bytes; at most {ENCODED_BYTES} are opened.")
        return given
    raise InvalidInput(f"It holds a {type(given).__name__}; wanted encoded content, as bytes or base64.")


def _of_text(first: Opener, text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    if isinstance(first, Bytes):
        return raw
    try:
        return _decoded(text)
    except InvalidInput:  # raw bytes that happened to be a text: some BMP and PPM files are
        return raw


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInput(f"{text[:40]!r} is not base64: {error}.") from error


def _listed(given: object) -> Array | None:
    """Numbers as an array; None for encoded content. Raises `InvalidInput`."""
    if isinstance(given, np.ndarray):
        return given
    if not isinstance(given, list):
        return None
    try:
        return np.asarray(given)
    except (ValueError, OverflowError) as error:  # lists of unequal lengths
        raise InvalidInput(f"It is no list of numbers: {error}.") from error


def _as_bytes(array: Array) -> Array:
    whole = array.dtype.kind in "iu" and array.ndim == 1 and array.size <= ENCODED_BYTES
    if not whole or (array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255):
        raise InvalidInput(f"It is {array.dtype.name}{list(array.shape)}; wanted bytes, or one list of numbers from 0 to 255.")
    return array.astype(np.uint8)


def _numbers(first: Tensor, name: str, given: object) -> Array:
    spec = TensorSpec(name=name, datatype=first.datatype, shape=first.shape)
    array = exact_array(given, spec)
    if not spec.accepts(array.shape):
        raise InvalidInput(f"One sample has the shape {list(array.shape)}; wanted {spec.describe()}.")
    check_numbers(array.size)
    return array
