"""Tensors that go from one process to another on the same device: raw bytes in a file that lies in memory, named in a message.

Both ends stand here. What is read is held against the file and against itself, since the other process may have gone mad.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fleet_protocol.tensors import NUMPY_NAMES, DataType
from runtime import oip_binary
from runtime.engine import Array

MEMORY_FILES: Final = Path("/dev/shm")  # noqa: S108 - memory where the system has such a place, else the temporary directory
_DATATYPES: Final[dict[str, DataType]] = {name: datatype for datatype, name in NUMPY_NAMES.items()}


class Tensor(msgspec.Struct, frozen=True):
    """One tensor in the file: raw bytes as `oip_binary` writes them, from byte `at` on."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    at: int
    size: int


def create() -> Any:  # noqa: ANN401  # tempfile's wrapper has no public type
    """A file of this kind with a name; closing it removes it. Raises `OSError`."""
    with contextlib.suppress(OSError):
        if MEMORY_FILES.is_dir():
            return tempfile.NamedTemporaryFile(prefix="edgeward-", dir=MEMORY_FILES)
    return tempfile.NamedTemporaryFile(prefix="edgeward-")


def write(file: int, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """Put the arrays into the file, from its beginning. Raises `OSError`."""
    tensors = []
    for each, raw in _laid_out(arrays.items()):
        tensors.append(each)
        _write_all(file, raw, each.at)
    return tuple(tensors)


def packed(arrays: Iterable[tuple[str, Array]]) -> tuple[tuple[Tensor, ...], list[bytes]]:
    """Copies of the arrays as they will lie in a file, once `put` there; names may repeat."""
    tensors, content = [], []
    for each, raw in _laid_out(arrays):
        tensors.append(each)
        content += [bytes(raw), bytes(_padding(len(raw)))]
    return tuple(tensors), content


def put(file: int, content: Iterable[bytes]) -> None:
    """Write what was packed into the file, from its beginning. Raises `OSError`."""
    at = 0
    for piece in content:
        _write_all(file, memoryview(piece), at)
        at += len(piece)


def read(file: int, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """The arrays, each of its own memory. Raises `MalformedRequest`, or `OSError`."""
    there = os.fstat(file).st_size
    arrays: dict[str, Array] = {}
    for each in tensors:
        size = max(0, min(each.size, there - each.at)) if each.at >= 0 else 0
        content = bytearray(size)
        read_bytes = os.preadv(file, [content], each.at) if size else 0
        arrays[each.name] = oip_binary.read(each.name, each.datatype, each.shape, memoryview(content)[:read_bytes])
    return arrays


def _laid_out(arrays: Iterable[tuple[str, Array]]) -> Iterator[tuple[Tensor, memoryview]]:
    at = 0
    for name, given in arrays:
        array = given.astype(object) if given.dtype.kind in "US" else given
        raw = memoryview(oip_binary.write(array))
        yield Tensor(name, _DATATYPES[array.dtype.name], array.shape, at, len(raw)), raw
        at += len(raw) + _padding(len(raw))


def _padding(size: int) -> int:
    """Bytes behind so many, so that the next tensor's numbers can be used where they lie."""
    return -size % oip_binary.ALIGNMENT


def _write_all(file: int, raw: memoryview, at: int) -> None:
    while raw:
        written = os.pwrite(file, raw, at)
        raw, at = raw[written:], at + written
