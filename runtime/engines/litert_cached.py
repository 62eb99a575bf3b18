"""TFLite on weights that were packed when the model was prepared, and that are mapped from a file: a load that packs nothing.

Beside `LiteRtEngine` it holds Python's lock neither while it loads nor while it runs, and the weights of a second version are
pages of a file. A directory holds what it needs: the weights, and what the model takes and gives, since LiteRT's library tells
free axes only of some files. `write` makes that directory, in a child process only (`runtime.tuning.prepared`).

Packed weights that are damaged, or another model's, can end the process. So they are mapped only where they, and the model, are
the files that were seen when they were made.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet_protocol.tensors import DYNAMIC, NUMPY_NAMES, DataType, TensorSpec
from runtime.engine import Array
from runtime.engines import litert_library
from runtime.engines.litert_library import ALIGNMENT, MOST_AXES, Handle, Layout, Library, LiteRtRefused, TensorType
from runtime.errors import InferenceFailed, InvalidInput, ModelRejected
from runtime.seen_files import SeenFile, is_same, seen

WEIGHTS: Final = "weights.xnnpack"
DESCRIPTION: Final = "tensors.json"
FILES: Final = (WEIGHTS, DESCRIPTION)
"""Of the directory."""

_DESCRIPTION_BYTES: Final = 1 << 20
_SIGNATURE: Final = 0
"""The one signature of a model."""
_ALLOCATED: Final = True
"""The layouts of answers are wanted as they are after the inputs were resized."""
_UNWRITTEN: Final = 0xA5
"""Fills memory for answers: what the library should ever leave as it is, is then not taken for an answer of zeros."""

_SPARE: Final = 2
"""Times the memory that inputs and outputs of free sizes need at first: larger ones fit for a while."""

_ELEMENTS: Final[dict[DataType, int]] = {
    "FP32": 1,
    "INT32": 2,
    "UINT8": 3,
    "INT64": 4,
    "BOOL": 6,
    "INT16": 7,
    "INT8": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT64": 13,
    "UINT32": 16,
    "UINT16": 17,
}
"""LiteRtElementType."""

Shapes = Mapping[str, tuple[int, ...]]
_Tensors = dict[str, "_Tensor"]
"""By name."""


class _Description(msgspec.Struct, frozen=True, kw_only=True):
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: SeenFile
    weights: SeenFile


def write(path: Path, directory: Path, *, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Pack the weights of the model at `path`, and write what `CachedLiteRtEngine` needs into a directory that is there.

    `inputs` and `outputs` are what `LiteRtEngine` says of the model. Raises `ModelRejected`, or `OSError`.
    """
    _check_tensors(path, (*inputs, *outputs))
    library = litert_library.library()
    weights = directory / WEIGHTS
    try:
        model, _, _ = _opened(library, path)
        with weights.open("xb+") as file:
            compiled = _compiled(library, model, file.fileno(), threads=1)
    except LiteRtRefused as error:
        raise ModelRejected(f"{library.title} cannot pack the weights of {path}: {error}.") from error
    library.call("LiteRtDestroyCompiledModel", compiled)
    library.call("LiteRtDestroyModel", model)
    if not weights.stat().st_size:
        raise ModelRejected(f"XNNPACK packs no weights of {path}: there is nothing to keep.")
    description = _Description(inputs=inputs, outputs=outputs, model=seen(path), weights=seen(weights))
    (directory / DESCRIPTION).write_bytes(msgspec.json.encode(description))


class CachedLiteRtEngine:
    """One model on packed weights; see `Engine`. Runs take turns, since a compiled model holds the tensors of one run."""

    def __init__(self, path: Path, *, weight_cache: Path, threads: int | None) -> None:
        description = _described(path, weight_cache)
        self._library = litert_library.library()
        self._threads = threads or 1  # as the interpreter does that is told nothing
        self._turn = threading.Lock()
        self._run: _Run | None = None
        self._compiled: Handle | None = None
        self.inputs, self.outputs = description.inputs, description.outputs
        self.description = f"{self._library.title}, CPU with XNNPACK, packed weights mapped"
        self.choice = "its weights were packed for this processor when the model was prepared"
        try:
            self._model, self._given, self._wanted = _opened(self._library, path)
        except LiteRtRefused as error:
            raise ModelRejected(f"{path} is not a model that {self._library.title} can load: {error}.") from error
        self._weights = os.open(weight_cache / WEIGHTS, os.O_RDONLY | os.O_CLOEXEC)  # it may be removed while the model runs
        try:
            self._make_ready(path)
        except BaseException:
            self.close()
            raise

    def _make_ready(self, path: Path) -> None:
        called = [sorted(spec.name for spec in specs) for specs in (self.inputs, self.outputs)]
        if called != [sorted(self._given), sorted(self._wanted)]:
            raise ModelRejected(f"{path}: {self._library.title} calls its tensors otherwise than when it was prepared.")
        try:
            self._compiled = self._new()
        except LiteRtRefused as error:
            raise ModelRejected(f"{self._library.title} cannot load {path} on packed weights: {error}.") from error

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        with self._turn:
            run = self._run
            if run is None or any(run.inputs[name].shape != array.shape for name, array in inputs.items()):
                run = self._run = self._fitted({name: array.shape for name, array in inputs.items()})
            for name, array in inputs.items():
                np.copyto(run.inputs[name], array)
            if self._library.run(*run.arguments):
                raise InferenceFailed(f"{self._library.title} failed: {self._library.said(run.compiled)}")
            return [run.outputs[spec.name].copy() for spec in self.outputs]

    def close(self) -> None:
        """See `Engine`. Waits for the run that is under way."""
        with self._turn:
            self._let_go()
            self._library.call("LiteRtDestroyModel", self._model)
            os.close(self._weights)

    def _fitted(self, shapes: Shapes) -> _Run:
        """What runs inputs of these shapes. Raises `InvalidInput` or `InferenceFailed`."""
        if any(0 in shape for shape in shapes.values()):
            raise InvalidInput("A TFLite model takes no empty batch. Send at least one sample.")
        if self._run is not None:
            with contextlib.suppress(LiteRtRefused):  # they may need more memory, which a compiled model that ran does not take
                return self._resized(self._run.compiled, shapes, self._run)
            self._let_go()
        try:
            compiled = self._compiled = self._compiled or self._new()
        except (LiteRtRefused, OSError) as error:
            raise InferenceFailed(f"{self._library.title} cannot make room for these shapes: {error}.") from error
        try:
            return self._resized(compiled, shapes)
        except LiteRtRefused as error:
            said = self._library.said(compiled)
            self._let_go()
            raise InvalidInput(f"{self._library.title} cannot take these shapes together: {said} ({error}).") from error

    def _resized(self, compiled: Handle, shapes: Shapes, before: _Run | None = None) -> _Run:
        """In the memory of the run `before`, where there was one. Raises `LiteRtRefused`, where that does not suffice too."""
        library, layouts = self._library, (Layout * len(self._wanted))()
        for at, name in enumerate(self._given):
            if shape := shapes[name]:
                sizes = (ctypes.c_int * len(shape))(*shape)
                library.call("LiteRtCompiledModelResizeInputTensor", compiled, _SIGNATURE, at, sizes, len(sizes))
        library.call("LiteRtGetCompiledModelOutputTensorLayouts", compiled, _SIGNATURE, len(layouts), layouts, _ALLOCATED)
        answers = {name: layout.shape() for name, layout in zip(self._wanted, layouts, strict=True)}
        rooms: list[dict[str, Array]] = [{}, {}] if before is None else before.rooms()
        given = _tensors(library, self.inputs, shapes, rooms[0])
        wanted = _tensors(library, self.outputs, answers, rooms[1])
        return _Run(library, compiled, (given, wanted), (self._given, self._wanted))

    def _new(self) -> Handle:
        return _compiled(self._library, self._model, self._weights, threads=self._threads)

    def _let_go(self) -> None:
        if self._run is not None:
            self._run.close()
        if self._compiled is not None:
            self._library.call("LiteRtDestroyCompiledModel", self._compiled)
        self._run = self._compiled = None


class _Tensor:
    """Memory of one input or output: an array, and the same as a tensor buffer of the library.

    `room` is memory of before, which is taken again. Raises `LiteRtRefused` where it is too small.
    """

    def __init__(self, library: Library, spec: TensorSpec, shape: tuple[int, ...], room: Array | None) -> None:
        dtype = np.dtype(NUMPY_NAMES[spec.datatype])
        size = math.prod(shape) * dtype.itemsize
        self.room = _room(size * (_SPARE if DYNAMIC in spec.shape else 1)) if room is None else room
        if self.room.nbytes < size:
            raise LiteRtRefused(f"{spec.describe()} needs more memory than {self.room.nbytes} bytes")
        self.array = self.room[:size].view(dtype).reshape(shape)
        kind = TensorType(_ELEMENTS[spec.datatype], Layout(len(shape), (ctypes.c_int32 * MOST_AXES)(*shape)))
        memory = (self.room.ctypes.data, self.room.nbytes)
        self.buffer = library.made("LiteRtCreateTensorBufferFromHostMemory", ctypes.byref(kind), *memory, None)


class _Run:
    """A compiled model with memory for inputs of one shape; `order` is the library's, of inputs and of outputs."""

    def __init__(
        self, library: Library, compiled: Handle, tensors: tuple[_Tensors, _Tensors], order: tuple[list[str], list[str]]
    ) -> None:
        self.compiled = compiled
        self.inputs, self.outputs = ({name: tensor.array for name, tensor in side.items()} for side in tensors)
        self._library, self._tensors = library, tensors
        given, wanted = (
            (Handle * len(names))(*(side[name].buffer.value for name in names))
            for side, names in zip(tensors, order, strict=True)
        )
        self.arguments = (compiled, _SIGNATURE, len(given), given, len(wanted), wanted)
        """Of the function that runs."""

    def rooms(self) -> list[dict[str, Array]]:
        """The memory of its inputs and of its outputs, for a run that takes its place; this one is over."""
        rooms = [{name: tensor.room for name, tensor in side.items()} for side in self._tensors]
        self.close()
        return rooms

    def close(self) -> None:
        """Nobody runs it any more. To close it twice is to close it once."""
        for tensor in [*self._tensors[0].values(), *self._tensors[1].values()]:
            self._library.call("LiteRtDestroyTensorBuffer", tensor.buffer)
        self._tensors = ({}, {})


def _tensors(library: Library, specs: tuple[TensorSpec, ...], shapes: Shapes, rooms: Mapping[str, Array]) -> _Tensors:
    return {spec.name: _Tensor(library, spec, shapes[spec.name], rooms.get(spec.name)) for spec in specs}


def _opened(library: Library, path: Path) -> tuple[Handle, list[str], list[str]]:
    """The model, with the names of its inputs and outputs in the library's order. Raises `LiteRtRefused` or `ModelRejected`."""
    model = library.made("LiteRtCreateModelFromFile", library.environment, os.fsencode(path))
    try:
        if library.count_of_signatures(model) > 1:
            raise ModelRejected(f"{path} has several signatures, with which only LiteRT's interpreter runs it.")
        signature = library.made("LiteRtGetModelSignature", model, _SIGNATURE)
        return model, library.names(signature, "Input"), library.names(signature, "Output")
    except BaseException:
        library.call("LiteRtDestroyModel", model)
        raise


def _compiled(library: Library, model: Handle, weights: int, *, threads: int) -> Handle:
    """The model on the weights of a file that is open. Raises `LiteRtRefused` or `OSError`."""
    given = os.dup(weights)
    before = os.fstat(given)
    try:
        return library.compiled(model, threads=threads, weights=given)
    except LiteRtRefused:
        with contextlib.suppress(OSError):  # it is closed already, where the library came so far as to take it
            if os.path.samestat(before, os.fstat(given)):
                os.close(given)
        raise


def _described(path: Path, weight_cache: Path) -> _Description:
    """Raises `ModelRejected` where the files are not those of when the weights were packed."""
    try:
        with (weight_cache / DESCRIPTION).open("rb") as file:
            description = msgspec.json.decode(file.read(_DESCRIPTION_BYTES), type=_Description)
        whole = is_same(weight_cache / WEIGHTS, description.weights)
        fits = is_same(path, description.model, moved=True)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelRejected(f"{weight_cache} cannot be read: {error}. Prepare the model again.") from error
    if not whole:
        raise ModelRejected(f"{weight_cache / WEIGHTS} is not as it was written. Prepare the model again.")
    if not fits:
        raise ModelRejected(f"{path} is not the model whose weights are in {weight_cache}. Prepare it again.")
    return description


def _check_tensors(path: Path, specs: tuple[TensorSpec, ...]) -> None:
    for spec in specs:
        if spec.datatype not in _ELEMENTS or len(spec.shape) > MOST_AXES:
            raise ModelRejected(f"{path}: {spec.describe()} is for LiteRT's interpreter only.")


def _room(size: int) -> Array:
    """So many aligned bytes."""
    room = np.full(size + ALIGNMENT, _UNWRITTEN, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
