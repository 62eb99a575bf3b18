"""TFLite behind `Engine`: LiteRT, or tflite-runtime (`runtime.engines.litert_package`), with XNNPACK or an external delegate.

An interpreter holds the tensors of one run, so runs take turns; a request of another shape resizes it first. Operators that
the package does not have (custom ones, TensorFlow's own) fail on opening.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from fleet_protocol.tensors import DYNAMIC, NUMPY_NAMES, DataType, TensorSpec
from runtime.engine import Array
from runtime.engines import litert_package
from runtime.engines.litert_package import Package
from runtime.errors import EngineUnavailable, InferenceFailed, InvalidInput, ModelRejected

_DATATYPES: Final[dict[str, DataType]] = {name: kind for kind, name in NUMPY_NAMES.items() if kind != "BYTES"}

_PACKING: Final = "XNNPACK packs the weights at each load, since none that were packed before are given"

_COPIED_BYTES: Final = 1 << 20
"""Models up to this size are copied, which takes about a tenth of a millisecond: the package maps its file, and one that is
cut or overwritten in place under it ends the process."""
_DESCRIPTORS: Final = Path("/proc/self/fd")

_Details = dict[str, Any]
"""What the interpreter says of a tensor: index, name, dtype, shape, shape_signature."""


class LiteRtEngine:
    """One interpreter; see `Engine`."""

    def __init__(self, path: Path, *, threads: int | None, delegate: Path | None = None) -> None:
        package = litert_package.find()
        loaded = [] if delegate is None else [_delegate(package, delegate)]
        try:
            with _unchanging(path) as file:
                self._interpreter = package.interpreter(
                    model_path=str(file), num_threads=threads, experimental_delegates=loaded or None
                )
            if delegate is not None:  # before XNNPACK takes the rest, on allocation
                check_taken(self._interpreter._get_ops_details(), delegate)  # noqa: SLF001  # nothing else tells
            self._interpreter.allocate_tensors()
            given, wanted = _tensors(self._interpreter)
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelRejected(f"{path} is not a model that {package.title} can load: {_said(error)}") from error
        self._called = package.title
        self._turn = threading.Lock()
        self._index = {name: int(details["index"]) for name, details in given.items()}
        self._shapes = {name: tuple(map(int, details["shape"])) for name, details in given.items()}
        self._answers = [int(details["index"]) for details in wanted.values()]
        self.inputs = tuple(_spec(name, details, path) for name, details in given.items())
        self.outputs = tuple(_spec(name, details, path) for name, details in wanted.items())
        self.description = f"{package.title}, " + ("CPU with XNNPACK" if delegate is None else f"delegate {delegate.name}")
        self.choice = f"{package.choice}; {_PACKING if delegate is None else f'the delegate {delegate} was asked for'}"

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        with self._turn:
            self._resize(inputs)
            try:
                for name, array in inputs.items():
                    self._interpreter.set_tensor(self._index[name], array)
                self._interpreter.invoke()
                return [self._interpreter.get_tensor(index) for index in self._answers]
            except (ValueError, RuntimeError) as error:
                raise InferenceFailed(f"{self._called} failed: {_said(error)}") from error

    def close(self) -> None:
        """See `Engine`. Waits for the run that is under way."""
        with self._turn:
            del self._interpreter

    def _resize(self, inputs: dict[str, Array]) -> None:
        changed = {name: array.shape for name, array in inputs.items() if array.shape != self._shapes[name]}
        if not changed:
            return
        if any(0 in shape for shape in changed.values()):
            raise InvalidInput("A TFLite model takes no empty batch. Send at least one sample.")
        try:
            for name, shape in changed.items():
                self._interpreter.resize_tensor_input(self._index[name], shape)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            self._shapes = dict.fromkeys(self._shapes, ())  # unknown now: the next run resizes everything
            raise InvalidInput(f"{self._called} cannot take these shapes together: {_said(error)}") from error
        self._shapes |= changed


@contextlib.contextmanager
def _unchanging(path: Path) -> Iterator[Path]:
    """The file, or of a small one a copy in memory, for the package to map. Raises `OSError`.

    It is not handed over as bytes: tflite-runtime looks closely at files only, and dies of bytes that are no model.
    """
    if path.stat().st_size > _COPIED_BYTES or not hasattr(os, "memfd_create") or not _DESCRIPTORS.is_dir():
        yield path
        return
    descriptor = os.memfd_create("model")
    try:
        with open(descriptor, "wb", closefd=False) as file:  # a descriptor
            file.write(path.read_bytes())
        yield _DESCRIPTORS / str(descriptor)
    finally:
        os.close(descriptor)


def _delegate(package: Package, path: Path) -> Any:  # noqa: ANN401  # the package has no types
    if not path.is_file():
        raise EngineUnavailable(f"There is no delegate {path}. Give the path of its library, such as libedgetpu.so.1.")
    try:
        # Looked at before the package does: its own class prints a traceback when it gives up.
        ctypes.CDLL(str(path.resolve())).tflite_plugin_create_delegate  # noqa: B018
        return package.load_delegate(str(path.resolve()))
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        raise EngineUnavailable(
            f"{path} cannot be loaded as a delegate of {package.title}: {_said(error) or type(error).__name__}. "
            "It must export tflite_plugin_create_delegate, be built for this processor, and find its device."
        ) from error


def check_taken(operators: Sequence[_Details], delegate: Path) -> None:
    """Raises `EngineUnavailable` when the delegate left every operator to others, as it does without its device."""
    if all(each["op_name"] != "DELEGATE" for each in operators):
        raise EngineUnavailable(
            f"The delegate {delegate} takes none of the model's {len(operators)} operators; all would run on the CPU. "
            "Use a variant that was compiled for it, or no delegate."
        )


def _tensors(interpreter: Any) -> tuple[dict[str, _Details], dict[str, _Details]]:  # noqa: ANN401  # the package has no types
    """Inputs and outputs by name, in the model's own order. The names are the one signature's, where there is one."""
    given, wanted = interpreter.get_input_details(), interpreter.get_output_details()
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return _in_order(runner.get_input_details(), given), _in_order(runner.get_output_details(), wanted)
    return {details["name"]: details for details in given}, {details["name"]: details for details in wanted}


def _in_order(named: dict[str, _Details], tensors: list[_Details]) -> dict[str, _Details]:
    """A signature comes sorted by name; which output is the first one, says the model."""
    order = [int(details["index"]) for details in tensors]
    return dict(sorted(named.items(), key=lambda each: order.index(int(each[1]["index"]))))


def _spec(name: str, details: _Details, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(np.dtype(details["dtype"]).name)
    if datatype is None:
        raise ModelRejected(f"{path}: tensor {name} is a {np.dtype(details['dtype']).name}, which does not travel.")
    signature = details["shape_signature"]
    shape = [int(dim) if dim >= 0 else DYNAMIC for dim in signature]
    try:
        return msgspec.convert({"name": name, "datatype": datatype, "shape": shape}, TensorSpec)
    except msgspec.ValidationError as error:
        raise ModelRejected(f"{path}: tensor {name!r} with shape {shape} is out of bounds: {error}.") from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
