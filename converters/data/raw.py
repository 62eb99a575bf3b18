"""Samples as users have them, made into a model's inputs as the declared processing says: as devices will make them.

They come as a directory of pictures, audio or other files, each a sample, or as arrays by name. A file in a subdirectory is of
the class that the subdirectory is named after. Files are read in the order of their names, so that the same directory gives
the same samples. May not live here: what processing does (`runtime.processing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from converters.data.calibration import LABEL, UNNAMED, Array
from converters.errors import DataRejected, SettingsRejected
from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import Audio, Bytes, Decode, InputProcessing, Opener, Processing, Tensor
from fleet_protocol.processing_fit import check_processing
from fleet_protocol.tensors import TensorSpec
from runtime.errors import DecoderMissing, InvalidInput
from runtime.inputs import array_of, content_of
from runtime.processing import wav
from runtime.processing.decoding import SUFFIXES
from runtime.processing.opening import looked_at
from runtime.processing.steps import processed

_DATA_BYTES: Final = 4 * 1024**3
_FILES: Final = 1_000_000


def read_directory(directory: Path, processing: Processing | None, classes: Sequence[str]) -> dict[str, Array]:
    """The model's input by name, first axis the file, and `label` where files lie in directories of classes.

    A directory's label is its place in `classes`; without them the number that is its name, or its place among the sorted
    names. Raises `DataRejected`.
    """
    if processing is None or len(processing.inputs) != 1:
        raise DataRejected(
            f"{directory} is a directory; pictures and other files need processing that says how exactly one input is made of "
            "them. Give it with --processing, or an .npz file instead."
        )
    [wanted] = processing.inputs
    files = _files(directory, wanted.first)
    read = array_of if isinstance(wanted.first, Tensor) else partial(content_of, ends=looked_at(wanted))
    made = {wanted.tensor: _made(wanted, map(read, files), [str(each) for each in files])}
    if files[0].parent == directory:
        return made
    numbers = _numbers(sorted({file.parent.name for file in files}), classes, directory)
    return {**made, LABEL: np.array([numbers[file.parent.name] for file in files], np.int64)}


def process_arrays(arrays: Mapping[str, Array], processing: Processing | None) -> dict[str, Array]:
    """The arrays, and in place of each that has steps what these make of it, sample by sample.

    Where pictures are opened, numbers are the model's own tensor. Raises `DataRejected`.
    """
    made = dict(arrays)
    wanted = [] if processing is None else [each for each in processing.inputs if not isinstance(each.first, Decode)]
    for each in wanted:
        name = UNNAMED if UNNAMED in made and len(wanted) == 1 else each.tensor
        if name in made and np.ndim(made[name]):
            rows = np.asarray(made.pop(name))
            made[each.tensor] = _made(each, rows, [f"Sample {at} of {each.tensor!r}" for at in range(len(rows))])
    return made


def class_names(data: object, processing: Processing | None) -> tuple[str, ...]:
    """The classes that a directory's subdirectories name, in their order; none where they are numbers or there are none.

    Raises `DataRejected`.
    """
    if not isinstance(data, Path) or not data.is_dir() or processing is None or not processing.inputs:
        return ()
    found = _found(data, processing.inputs[0].first)
    names = sorted({file.parent.name for file in found if file.parent != data})
    return () if all(name.isdecimal() for name in names) else tuple(names)


def check_fits(processing: Processing | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raises `SettingsRejected` where the processing is not for this model."""
    if processing is None:
        return
    try:
        check_processing(processing, inputs, outputs)
    except ProtocolError as error:
        raise SettingsRejected(f"The {error}. Correct the processing file.") from error


def _suffixes(first: Opener) -> tuple[str, ...]:
    """Of the files that are samples; `""`: of any."""
    match first:
        case Decode():
            return SUFFIXES
        case Audio():
            return wav.SUFFIXES
        case Tensor():
            return (".npy",)
        case Bytes():
            return ("",)


def _found(directory: Path, first: Opener) -> list[Path]:
    try:
        there = sorted((*directory.glob("*"), *directory.glob("*/*")))
        return [
            each
            for each in there
            if each.name.lower().endswith(_suffixes(first)) and not each.name.startswith(".") and each.is_file()
        ]
    except OSError as error:
        raise DataRejected(f"{directory} cannot be read: {error.strerror or error}.") from error


def _files(directory: Path, first: Opener) -> list[Path]:
    """The samples of all classes, or those of no class. Raises `DataRejected` where there are none, or both."""
    found, suffixes = _found(directory, first), _suffixes(first)
    what = "pictures" if isinstance(first, Decode) else "samples"
    if not found or len(found) > _FILES:
        raise DataRejected(
            f"{directory} holds {len(found)} {what} ({', '.join(suffixes) or 'files'}), itself or in directories of classes; "
            f"wanted 1 to {_FILES}."
        )
    if len({each.parent == directory for each in found}) > 1:
        raise DataRejected(f"{directory} holds {what} both in directories of classes and beside them. Sort the others too.")
    return found


def _made(wanted: InputProcessing, given: Iterable[object], names: Sequence[str]) -> Array:
    """All samples after their steps; `names` say which one is bad."""
    batch: Array | None = None
    samples = iter(given)
    for at, name in enumerate(names):
        try:
            rows = processed(wanted, next(samples))
        except DecoderMissing as error:
            raise DataRejected(str(error)) from error
        except InvalidInput as error:
            raise DataRejected(f"{name} cannot be given to the model: {error}") from error
        if len(rows) != 1:
            raise DataRejected(f"{name} is cut into {len(rows)} pieces; here each sample must be one, as it has one class.")
        array = rows[0][0]
        if batch is None:
            batch = _room(len(names), array)
        if array.shape != batch.shape[1:]:
            raise DataRejected(
                f"{name} becomes {list(array.shape)}, others {list(batch.shape[1:])}: all must become alike, by `resize` or "
                "`fit_length`."
            )
        batch[at] = array
    if batch is None:
        raise DataRejected(f"There are no samples for the input {wanted.tensor!r}.")
    return batch


def _room(count: int, array: Array) -> Array:
    """Raises `DataRejected` where so many samples are too much."""
    if array.nbytes * count > _DATA_BYTES:
        raise DataRejected(
            f"{count} samples take {array.nbytes * count} bytes once processed; at most {_DATA_BYTES} are held. Give fewer."
        )
    return np.empty((count, *array.shape), array.dtype)


def _numbers(names: list[str], classes: Sequence[str], directory: Path) -> dict[str, int]:
    if classes:
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise DataRejected(f"{directory} has the directories {', '.join(unknown)}, which are none of the classes given.")
        return {name: list(classes).index(name) for name in names}
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    return {name: at for at, name in enumerate(names)}
