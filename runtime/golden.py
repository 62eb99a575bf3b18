"""Reads golden files: an `.npz` from outside, so never pickled, and no array before its size is known.

The layout is `fleet_protocol.manifest.Golden`'s: `input/<tensor>`, `output/<tensor>`, `label`, first axis the sample.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.lib import format as npy

from fleet_protocol import limits
from runtime.engine import Array
from runtime.errors import InvalidGolden

INFLATED_BYTES: Final = 4 * limits.GOLDEN_BYTES
"""All arrays together; a small file must not become a large one."""
_KINDS: Final = "biufU"
_BROKEN: Final = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What zipfile and zlib raise on bytes that are no golden file, and we ourselves."""


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Golden samples by tensor name; every array's first axis is the sample. `labels` is int64[samples], or None."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    labels: Array | None

    @property
    def samples(self) -> int:
        """How many samples there are; at least 1."""
        return len(next(iter(self.inputs.values())))


def read(path: Path) -> GoldenSet:
    """The content of a golden file. Raises `InvalidGolden`, whatever the bytes are."""
    try:
        size = path.stat().st_size
        if size > limits.GOLDEN_BYTES:
            raise InvalidGolden(f"The golden file {path} has {size} bytes; at most {limits.GOLDEN_BYTES} are read.")
        with zipfile.ZipFile(path) as archive:
            arrays = _arrays(archive, path)
    except _BROKEN as error:
        raise InvalidGolden(f"The golden file {path} cannot be read: {error}.") from error
    return _sorted_out(arrays, path)


def _arrays(archive: zipfile.ZipFile, path: Path) -> dict[str, Array]:
    members = archive.infolist()
    if len(members) > 2 * limits.TENSORS + 1:
        raise InvalidGolden(f"The golden file {path} holds {len(members)} arrays; at most {2 * limits.TENSORS + 1} are read.")
    total = sum(member.file_size for member in members)
    if total > INFLATED_BYTES:
        raise InvalidGolden(f"The golden file {path} inflates to {total} bytes; at most {INFLATED_BYTES} are read.")
    arrays = {}
    for member in members:
        with archive.open(member) as file:
            arrays[member.filename.removesuffix(".npy")] = _array(file, member)
    return arrays


def _array(file: IO[bytes], member: zipfile.ZipInfo) -> Array:
    """One array, allocated only after its header was held against the member's size: a header can claim anything."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{member.filename} has the npy version {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read_header(file)
    except Exception as error:  # numpy hands odd headers to Python's own parser and tokenizer, which raise what they like
        raise ValueError(f"{member.filename} has no npy header: {error}") from error
    if dtype.kind not in _KINDS or fortran_order:
        raise ValueError(f"{member.filename} holds {dtype} in {'Fortran' if fortran_order else 'C'} order")
    size = math.prod(shape) * dtype.itemsize
    if size != member.file_size - file.tell():
        raise ValueError(f"{member.filename} claims {size} bytes and holds {member.file_size - file.tell()}")
    array: Array = np.frombuffer(file.read(size), dtype).reshape(shape)
    return array


def _sorted_out(arrays: dict[str, Array], path: Path) -> GoldenSet:
    golden = GoldenSet(
        inputs={name.removeprefix("input/"): value for name, value in arrays.items() if name.startswith("input/")},
        outputs={name.removeprefix("output/"): value for name, value in arrays.items() if name.startswith("output/")},
        labels=arrays.get("label"),
    )
    known = len(golden.inputs) + len(golden.outputs) + ("label" in arrays)
    if known != len(arrays) or not golden.inputs or not golden.outputs:
        raise InvalidGolden(
            f"The golden file {path} holds {', '.join(sorted(arrays))}; wanted input/…, output/… and label only."
        )
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or counts == {0}:
        raise InvalidGolden(f"The golden file {path} holds arrays of {sorted(counts)} samples; wanted one number, at least 1.")
    if golden.labels is not None and (golden.labels.ndim != 1 or golden.labels.dtype.kind not in "iu"):
        raise InvalidGolden(f"The golden file {path} has labels of type {golden.labels.dtype}; wanted int64[samples].")
    for name, array in golden.outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidGolden(f"The golden file {path} wants NaN or infinity in output {name}.")
    return golden
