"""An int8 .tflite file that others publish, asked as the float model is: floats go in and come out, samples in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.engines import litert_package
from runtime.errors import InvalidInput, ModelRejected

_Details = dict[str, Any]


def load(path: Path, like: runtime.Model) -> runtime.Model:
    """The file with the inputs and outputs of `like`, matched in their order. Raises `ModelRejected`: it has others.

    Such files often take and give int8, one sample at a time: both are undone here, and timed with the run.
    """
    return runtime.Model(_OfficialInt8(path, like.inputs, like.outputs))


class _OfficialInt8:
    """One interpreter on one thread; see `runtime.engine.Engine`."""

    def __init__(self, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        package = litert_package.find()
        self.inputs: Final = inputs
        self.outputs: Final = outputs
        self.description: Final = package.title
        self.choice: Final = package.choice
        try:
            self._interpreter = package.interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelRejected(f"{path} is not a model that {package.title} can load: {error}") from error
        self._given: list[_Details] = self._interpreter.get_input_details()
        self._wanted: list[_Details] = self._interpreter.get_output_details()
        if (len(self._given), len(self._wanted)) != (len(inputs), len(outputs)):
            raise ModelRejected(f"{path} has other inputs or outputs than the float model. Give the int8 file of that model.")

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        count = len(next(iter(inputs.values())))
        answers = [self._one([inputs[spec.name][at : at + 1] for spec in self.inputs]) for at in range(count)]
        return [np.concatenate(each) for each in zip(*answers, strict=True)]

    def _one(self, sample: list[Array]) -> list[Array]:
        for details, values in zip(self._given, sample, strict=True):
            if tuple(details["shape"]) != values.shape:
                raise InvalidInput(f"The int8 file takes {list(details['shape'])}, the float model {list(values.shape)}.")
            self._interpreter.set_tensor(details["index"], _stored(values, details))
        self._interpreter.invoke()
        return [_real(self._interpreter.get_tensor(details["index"]), details) for details in self._wanted]

    def close(self) -> None:
        del self._interpreter


def _stored(values: Array, details: _Details) -> Array:
    scale, zero_point = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    bounds = np.iinfo(details["dtype"])
    stored: Array = np.clip(np.rint(values / scale) + zero_point, bounds.min, bounds.max).astype(details["dtype"])
    return stored


def _real(values: Array, details: _Details) -> Array:
    scale, zero_point = details["quantization"]
    return ((values.astype(np.float32) - zero_point) * np.float32(scale)) if scale else values
