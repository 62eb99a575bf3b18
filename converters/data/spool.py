"""Samples that come one batch after another: put on disk as they come, so that memory never holds them all.

An item is a mapping of arrays by input name (and `label`), one array, or a pair of either and labels. Its first axis counts
samples; where the label is a single number, it is one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.data.calibration import LABEL, UNNAMED
from converters.errors import DataRejected

Array = NDArray[Any]

_WAY: Final = "Give a mapping of arrays by input name, one array, or a pair of either and its labels; first axis the sample."


def spool(items: Iterable[object], directory: Path) -> dict[str, Array]:
    """All items' arrays, joined, as files in `directory` that are read where they are needed. Raises `DataRejected`."""
    if isinstance(items, str):
        raise DataRejected(f"The data is the text {items[:100]!r}. For a file or a directory give pathlib.Path of it.")
    columns: dict[str, _Column] = {}
    try:
        for at, item in enumerate(_walked(items)):
            arrays = _arrays(item, at)
            if at == 0:
                columns = {name: _Column(directory / f"{column}.samples") for column, name in enumerate(arrays)}
            if set(arrays) != set(columns):
                raise DataRejected(f"Item {at} of the data holds {sorted(arrays)}; the first one holds {sorted(columns)}.")
            for name, values in arrays.items():
                columns[name].add(values, f"{name!r} in item {at} of the data")
    finally:
        for column in columns.values():
            column.close()
    if not columns:
        raise DataRejected("The data is empty: its iterable gave nothing. A generator can be walked once only.")
    return {name: column.array() for name, column in columns.items()}


def _walked(items: Iterable[object]) -> Iterator[object]:
    """The items. What they cannot read is told apart from what cannot be written here."""
    try:
        yield from items
    except OSError as error:
        raise DataRejected(f"The data breaks off: its iterable raised {type(error).__name__}: {error}.") from error


class _Column:
    """One array that grows on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("wb")
        self._first: Array | None = None
        self._count = 0

    def add(self, values: Array, what: str) -> None:
        """Append samples. Raises `DataRejected` where they are of another kind than those before."""
        first = self._first
        if first is None:
            first = self._first = values[:0].copy()
        if values.dtype != first.dtype or values.shape[1:] != first.shape[1:]:
            raise DataRejected(
                f"{what} is {values.dtype.name}{list(values.shape)}; before it came {first.dtype.name}"
                f"{['?', *first.shape[1:]]}. All samples need one type and one shape."
            )
        self._file.write(np.ascontiguousarray(values).tobytes())
        self._count += len(values)

    def close(self) -> None:
        """No more samples come."""
        self._file.close()

    def array(self) -> Array:
        """What came, read from disk where it is needed."""
        assert self._first is not None
        shape = (self._count, *self._first.shape[1:])
        if not self._count or not self._first.itemsize or 0 in shape:
            return np.empty(shape, self._first.dtype)
        return np.memmap(self._path, self._first.dtype, mode="r", shape=shape)


def _arrays(item: object, at: int) -> dict[str, Array]:
    labels = None
    if isinstance(item, tuple) and len(item) == 2:
        item, labels = item
    named = dict(item) if isinstance(item, Mapping) else {UNNAMED: item}
    if labels is not None:
        named[LABEL] = labels
    arrays = {str(name): np.asarray(values) for name, values in named.items()}
    if LABEL in arrays and not arrays[LABEL].ndim:  # one sample
        arrays = {name: values[np.newaxis] for name, values in arrays.items()}
    counts = {name: len(values) if values.ndim else -1 for name, values in arrays.items()}
    if not arrays or -1 in counts.values() or any(values.dtype.hasobject for values in arrays.values()):
        raise DataRejected(f"Item {at} of the data is no batch of samples: it is a {type(item).__name__}. {_WAY}")
    if len(set(counts.values())) > 1:
        raise DataRejected(f"Item {at} of the data holds different numbers of samples: {counts}. {_WAY}")
    return arrays
