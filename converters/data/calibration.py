"""The samples: read safely from an `.npz`, held against the model's inputs, and split into parts that share none.

A file holds one array for each model input, named as the input, first axis the sample, and `label` (integers) where known;
further arrays are left alone. Pickles are never opened, and a header that claims more than its file can hold is refused
before memory is asked for.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from converters.errors import DataRejected, SourceRejected
from converters.sources.layouts import layout_hint
from fleet_protocol.digests import digest_of_stream
from fleet_protocol.tensors import NUMPY_NAMES, TensorSpec

Array = NDArray[Any]
Process = Callable[[dict[str, Array]], dict[str, Array]]
"""Makes a model's inputs of arrays as users have them (`converters.data.raw`)."""

LABEL: Final = "label"
UNNAMED: Final = "samples"
"""Where data is one array without a name: it goes to the model's only input."""
SAMPLES_AT_LEAST: Final = 32
"""Fewer cannot be split into calibration, golden and held-out samples that each say anything."""
EVALUATION_AT_LEAST: Final = 8

_LABEL_AT_MOST: Final = 2**31
_DATA_BYTES: Final = 4 * 1024**3
_PIECE_BYTES: Final = 32 * 1024**2
_DEFLATE_RATIO: Final = 1100
"""Deflate cannot shrink anything further than 1032 times."""
_CALIBRATION: Final = 512
_GOLDEN: Final = 64
_GOLDEN_AT_LEAST: Final = 4
_GOLDEN_BYTES: Final = 8 * 1024**2
"""Golden samples and their answers travel to every device."""


@dataclass(frozen=True)
class Dataset:
    """Samples that fit a model. `inputs` by name, first axis the sample; `labels` int64[samples] or None."""

    inputs: dict[str, Array]
    labels: NDArray[np.int64] | None
    digest: str

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """These samples, in this order."""
        return Dataset(
            inputs={name: _taken(values, indices) for name, values in self.inputs.items()},
            labels=None if self.labels is None else self.labels[indices],
            digest=self.digest,
        )

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """All samples in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield {name: values[start : start + size] for name, values in self.inputs.items()}

    def sample_bytes(self) -> int:
        """Bytes of one sample's inputs."""
        return max(1, sum(values.nbytes for values in self.inputs.values()) // len(self))


@dataclass(frozen=True)
class Parts:
    """Disjoint samples, each for one purpose."""

    calibration: Dataset
    golden: Dataset
    held_out: Dataset


def split(data: Dataset, evaluation: Dataset | None, *, seed: int, answer_bytes: int = 0) -> Parts:
    """Deal the samples out by `seed`: a third (at most 512) calibrates, up to 64 are golden, all others are held out.

    Golden ones are fewer where a sample and its answer, of `answer_bytes`, are large. With a separate `evaluation` set, that
    one is held out and `data` only calibrates and gives the golden samples. Raises `DataRejected` when there are too few.
    """
    if len(data) < SAMPLES_AT_LEAST:
        raise DataRejected(
            f"The data has {len(data)} samples; at least {SAMPLES_AT_LEAST} are needed, and some hundreds are better: they "
            "calibrate, become the golden samples, and measure the accuracy."
        )
    order = np.random.default_rng(seed).permutation(len(data))
    golden = max(_GOLDEN_AT_LEAST, min(_GOLDEN, len(data) // 4, _GOLDEN_BYTES // (data.sample_bytes() + answer_bytes)))
    rest = len(data) - golden
    calibration = min(_CALIBRATION, len(data) // 3 if evaluation is None else rest)
    first, second = golden, golden + calibration
    return Parts(
        golden=data.take(order[:first]),
        calibration=data.take(order[first:second]),
        held_out=data.take(order[second:]) if evaluation is None else evaluation,
    )


def load_dataset(path: Path, specs: tuple[TensorSpec, ...], process: Process = dict) -> Dataset:
    """Read the arrays that a model with inputs `specs` needs, and `label`, and `process` them. Raises `DataRejected`."""
    try:
        arrays = _read_arrays(path, {*(spec.name for spec in specs), LABEL})
        with path.open("rb") as file:
            digest = digest_of_stream(iter(lambda: file.read(1 << 20), b""))
    except OSError as error:
        raise DataRejected(f"{path} cannot be read: {error.strerror or error}.") from error
    return _fit(process(arrays), specs, digest=digest, what=str(path))


def make_dataset(arrays: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> Dataset:
    """The same from arrays in memory. Raises `DataRejected`."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        values = _contiguous(arrays[name])
        state.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        for start in range(0, len(values) if values.ndim else 0, _rows(values)):
            state.update(values[start : start + _rows(values)].tobytes())
    return _fit(dict(arrays), specs, digest=f"sha256:{state.hexdigest()}", what="The data")


def peek(given: Path | Mapping[str, Array], count: int) -> dict[str, Array]:
    """The first samples of every array but the labels, at most `count`: for readers, which try a model before its inputs are
    known. What is no array of numbers is left out. Raises `DataRejected`.
    """
    if not isinstance(given, Path):
        found = {name: np.asarray(values) for name, values in given.items() if name != LABEL}
        return {name: np.ascontiguousarray(values[:count]) for name, values in found.items() if values.ndim}
    _check_kind(given)
    with _damage_told(given), zipfile.ZipFile(given) as archive:
        names = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        return {
            name: values
            for name, entry in names.items()
            if name != LABEL and (values := _read_first(archive, entry, given, count)) is not None
        }


def _fit(arrays: dict[str, Array], specs: tuple[TensorSpec, ...], *, digest: str, what: str) -> Dataset:
    inputs = {}
    if not specs:
        raise SourceRejected("The model has no inputs, so samples change nothing. Export it with its input free.")
    for spec in specs:
        if spec.name not in arrays:
            raise DataRejected(_missing(what, spec, arrays))
        inputs[spec.name] = _fit_input(arrays[spec.name], spec, what)
    counts = {name: len(values) for name, values in inputs.items()}
    if len(set(counts.values())) > 1:
        raise DataRejected(f"{what}: the inputs have different numbers of samples: {counts}.")
    count = next(iter(counts.values()))
    labels = None
    if LABEL in arrays and LABEL not in inputs:
        labels = _fit_labels(arrays[LABEL], count, what)
    return Dataset(inputs=inputs, labels=labels, digest=digest)


def _missing(what: str, spec: TensorSpec, arrays: Mapping[str, Array]) -> str:
    names = sorted(arrays)
    near = difflib.get_close_matches(spec.name, names, n=1)
    hint = f" Did you mean to name {near[0]!r} so?" if near else ""
    held = f"it holds {', '.join(map(repr, names))}" if names else "it holds no arrays"
    return f"{what} has no array {spec.name!r} for the model's input {spec.describe()}; {held}.{hint}"


def _fit_input(values: Array, spec: TensorSpec, what: str) -> Array:
    wanted = NUMPY_NAMES[spec.datatype]
    if spec.datatype == "BYTES":
        raise SourceRejected(f"The model takes text: {spec.describe()}. Give the part of it that computes with numbers.")
    if not spec.shape or spec.shape[0] > 1:
        has = "fixes its first axis" if spec.shape else "has no axis"
        raise SourceRejected(
            f"The model's input {spec.describe()} {has}, so nothing counts samples. Export the model with a free batch axis "
            "first, or with 1; an input that is the same for all samples, such as a sample rate, as a constant."
        )
    if values.dtype.name != wanted:
        raise DataRejected(
            f"{what}: {spec.name!r} is {values.dtype.name}; the model takes {spec.describe()}. "
            f"Store it with .astype({wanted!r})."
        )
    if values.ndim == 0 or values.shape[0] == 0:
        raise DataRejected(f"{what}: {spec.name!r} holds no samples; its first axis must count them.")
    if not spec.accepts((max(spec.shape[0], 1), *values.shape[1:])):
        raise DataRejected(
            f"{what}: {spec.name!r} has shape {list(values.shape)}; the model takes {spec.describe()}, so each sample must "
            f"have the shape {['?' if d < 0 else d for d in spec.shape[1:]]}."
            f"{layout_hint(values.shape, tuple(None if size < 0 else size for size in spec.shape[1:]))}"
        )
    if values.dtype.kind == "f":
        _refuse_not_finite(values, spec, what)
    return _contiguous(values)


def _contiguous(values: Array) -> Array:
    """As it is where it can be: numpy's own function makes an array in memory of one on disk."""
    return values if values.flags.c_contiguous and isinstance(values, np.ndarray) else np.ascontiguousarray(values)


def _rows(values: Array) -> int:
    """So many samples are looked at together."""
    return max(1, _PIECE_BYTES // max(1, values.nbytes // max(1, len(values))))


def _taken(values: Array, indices: NDArray[np.int64]) -> Array:
    """These samples; beside the others on disk where they come from there and are many."""
    if not isinstance(values, np.memmap) or len(indices) <= _rows(values) or values.filename is None:
        return values[indices]
    with tempfile.NamedTemporaryFile(dir=Path(values.filename).parent, suffix=".samples", delete=False) as file:
        for start in range(0, len(indices), _rows(values)):
            file.write(values[indices[start : start + _rows(values)]].tobytes())
    return np.memmap(file.name, values.dtype, mode="r", shape=(len(indices), *values.shape[1:]))


def _refuse_not_finite(values: Array, spec: TensorSpec, what: str) -> None:
    pieces = (values[start : start + _rows(values)] for start in range(0, len(values), _rows(values)))
    fine = np.concatenate([np.isfinite(piece).reshape(len(piece), -1).all(axis=1) for piece in pieces])
    if not fine.all():
        raise DataRejected(
            f"{what}: {spec.name!r} holds NaN or infinity in {int((~fine).sum())} of {len(values)} samples, first in sample "
            f"{int(fine.argmin())}. Clean the data first."
        )


def _fit_labels(values: Array, count: int, what: str) -> NDArray[np.int64]:
    if values.dtype.kind not in "iu":
        raise DataRejected(f"{what}: {LABEL!r} is {values.dtype.name}; class numbers are wanted, such as int64.")
    if values.shape != (count,):
        raise DataRejected(f"{what}: {LABEL!r} has shape {list(values.shape)}; {count} samples need the shape [{count}].")
    if values.size and int(values.min()) < 0:
        raise DataRejected(f"{what}: {LABEL!r} holds {int(values.min())}; classes count from 0.")
    if values.size and int(values.max()) > _LABEL_AT_MOST:
        raise DataRejected(f"{what}: {LABEL!r} holds {int(values.max())}; no model has so many classes.")
    return values.astype(np.int64)


def _read_arrays(path: Path, wanted: set[str]) -> dict[str, Array]:
    """The wanted arrays, and empty ones in place of the others, whose names still help an error message."""
    _check_kind(path)
    with _damage_told(path), zipfile.ZipFile(path) as archive:
        arrays: dict[str, Array] = {}
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            arrays[name] = _read_array(archive, entry, path) if name in wanted else np.empty(0)
        return arrays


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataRejected(f"{path} is damaged or not an .npz file: {error}. Write it again with numpy.savez.") from error


def _read_first(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, count: int) -> Array | None:
    """The first rows of one array, and no more of the file than that; None where it has none or holds no numbers."""
    with archive.open(entry) as file:
        shape, dtype = _read_header(file, path, entry.filename)
        if dtype.hasobject or not shape:
            return None
        rows = min(count, shape[0])
        content = file.read(rows * math.prod(shape[1:]) * dtype.itemsize)
        if len(content) < rows * math.prod(shape[1:]) * dtype.itemsize:
            raise ValueError(f"{entry.filename} breaks off")
        return np.frombuffer(content, dtype).reshape(rows, *shape[1:])


def _check_kind(path: Path) -> None:
    if path.is_dir():
        raise DataRejected(f"{path} is a directory; an .npz file is wanted.")
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except FileNotFoundError as error:
        raise DataRejected(f"{path} does not exist.") from error
    if head == b"\x93NUMPY":
        raise DataRejected(f"{path} holds one array without a name. Store it with numpy.savez(path, INPUT_NAME=array).")
    if head[:1] == b"\x80":
        raise DataRejected(f"{path} is a pickle, which could run code when opened. Store the arrays with numpy.savez.")
    if head[:2] != b"PK":
        raise DataRejected(f"{path} is not an .npz file. Store the arrays with numpy.savez.")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Array:
    if entry.file_size > min(_DATA_BYTES, _DEFLATE_RATIO * entry.compress_size + 1024):
        raise DataRejected(f"{path}: {entry.filename} claims {entry.file_size} bytes, more than it can hold or is read.")
    with archive.open(entry) as file:
        shape, dtype = _read_header(file, path, entry.filename)
        if dtype.hasobject:
            raise DataRejected(f"{path}: {entry.filename} holds pickled Python objects, which could run code. Store numbers.")
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > entry.file_size:
            raise DataRejected(
                f"{path}: {entry.filename} claims {claimed} bytes of numbers and has {entry.file_size}: damaged or forged."
            )
    with archive.open(entry) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
        return array


def _read_header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(file)
    else:
        raise DataRejected(f"{path}: {name} is of .npy format {version}; store plain arrays of numbers.")
    return shape, dtype
