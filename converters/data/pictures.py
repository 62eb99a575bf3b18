"""Samples from a directory of pictures, made into a model's input as the declared processing says: as devices will make it.

A picture in a subdirectory is of the class that the subdirectory is named after. Pictures are read in the order of their
names, so that the same directory gives the same samples. May not live here: what processing does (`runtime.processing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from converters.data.calibration import LABEL, Array
from converters.errors import DataRejected, SettingsRejected
from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import Processing, check_processing
from fleet_protocol.tensors import TensorSpec
from runtime.errors import DecoderMissing, InvalidInput
from runtime.processing.decoding import SUFFIXES
from runtime.processing.processor import processed

_DATA_BYTES: Final = 4 * 1024**3
_PICTURES: Final = 1_000_000


def read_pictures(directory: Path, processing: Processing | None, classes: Sequence[str]) -> dict[str, Array]:
    """The model's input by name, first axis the picture, and `label` where pictures lie in directories of classes.

    A directory's label is its place in `classes`; without them the number that is its name, or its place among the sorted
    names. Raises `DataRejected`.
    """
    if processing is None or len(processing.inputs) != 1:
        raise DataRejected(
            f"{directory} is a directory; pictures need processing that says how exactly one input is made of them. "
            "Give it with --processing, or an .npz file instead."
        )
    files = _files(directory)
    made = _made(files, processing)
    if files[0].parent == directory:
        return made
    numbers = _numbers(sorted({file.parent.name for file in files}), classes, directory)
    return {**made, LABEL: np.array([numbers[file.parent.name] for file in files], np.int64)}


def class_names(data: object) -> tuple[str, ...]:
    """The classes that a directory's subdirectories name, in their order; none where they are numbers or there are none.

    Raises `DataRejected`.
    """
    if not isinstance(data, Path) or not data.is_dir():
        return ()
    names = sorted({file.parent.name for file in _found(data) if file.parent != data})
    return () if all(name.isdecimal() for name in names) else tuple(names)


def check_fits(processing: Processing | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raises `SettingsRejected` where the processing is not for this model."""
    if processing is None:
        return
    try:
        check_processing(processing, inputs, outputs)
    except ProtocolError as error:
        raise SettingsRejected(f"The {error}. Correct the processing file.") from error


def _found(directory: Path) -> list[Path]:
    try:
        return sorted(each for each in (*directory.glob("*"), *directory.glob("*/*")) if each.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataRejected(f"{directory} cannot be read: {error.strerror or error}.") from error


def _files(directory: Path) -> list[Path]:
    """The pictures of all classes, or those of no class. Raises `DataRejected` where there are none, or both."""
    found = _found(directory)
    if not found or len(found) > _PICTURES:
        raise DataRejected(
            f"{directory} holds {len(found)} pictures ({', '.join(SUFFIXES)}), itself or in directories of classes; "
            f"wanted 1 to {_PICTURES}."
        )
    if len({each.parent == directory for each in found}) > 1:
        raise DataRejected(f"{directory} holds pictures both in directories of classes and beside them. Sort the others too.")
    return found


def _made(files: list[Path], processing: Processing) -> dict[str, Array]:
    [wanted] = processing.inputs
    batch: Array | None = None
    for at, file in enumerate(files):
        try:
            array, _ = processed(wanted, file.read_bytes())
        except DecoderMissing as error:
            raise DataRejected(str(error)) from error
        except (InvalidInput, OSError) as error:
            raise DataRejected(f"{file} is no picture that the model can be given: {error}") from error
        if batch is None:
            if array.nbytes * len(files) > _DATA_BYTES:
                raise DataRejected(
                    f"{len(files)} pictures take {array.nbytes * len(files)} bytes once processed; at most {_DATA_BYTES} are "
                    "held. Give fewer."
                )
            batch = np.empty((len(files), *array.shape), array.dtype)
        if array.shape != batch.shape[1:]:
            raise DataRejected(f"{file} becomes {list(array.shape)}, others {list(batch.shape[1:])}: processing must resize.")
        batch[at] = array
    assert batch is not None
    return {wanted.tensor: batch}


def _numbers(names: list[str], classes: Sequence[str], directory: Path) -> dict[str, int]:
    if classes:
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise DataRejected(f"{directory} has the directories {', '.join(unknown)}, which are none of the classes given.")
        return {name: list(classes).index(name) for name in names}
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    return {name: at for at, name in enumerate(names)}
