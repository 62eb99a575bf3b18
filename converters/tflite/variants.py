"""Makes the TFLite variants of one ONNX model for the conversion pipeline: emitted once, proved once, quantized by recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import onnx

from converters.errors import RecipeFailed
from converters.recipe import TfliteRecipe
from converters.tflite.calibrate import Ranges, ranges
from converters.tflite.emitter import emit
from converters.tflite.graph import Array
from converters.tflite.proof import prove
from converters.tflite.quantise import quantise, slim
from converters.tflite.source import prepare

Batches = Callable[[], Iterable[dict[str, Array]]]

_PROOF_SAMPLES: Final = 16


class TfliteMaker:
    """The variants of one model. `batches` gives the calibration samples, anew at each call."""

    def __init__(self, model: onnx.ModelProto, *, batches: Batches) -> None:
        self._model = model
        self._batches = batches
        self._float: bytes | None = None
        self._fault: RecipeFailed | None = None
        self._ranges: Ranges | None = None

    def apply(self, recipe: TfliteRecipe) -> bytes:
        """The variant's TFLite file. Raises `RecipeFailed`, or `UnsupportedOperator` which names the node."""
        content = self._emitted()
        if recipe.kind == "float":
            return slim(content)
        measured = self._measured(content) if recipe.kind == "static" else None
        return slim(quantise(content, recipe.kind, measured, integer_io=recipe.integer_io))

    def _emitted(self) -> bytes:
        if self._fault is not None:
            raise self._fault
        if self._float is None:
            try:
                self._float = self._proved()
            except RecipeFailed as error:
                self._fault = error
                raise
        return self._float

    def _proved(self) -> bytes:
        prepared = prepare(self._model)
        content = emit(prepared)
        batch = next(iter(self._batches()))
        prove(self._model, prepared, content, {name: values[:_PROOF_SAMPLES] for name, values in batch.items()})
        return content

    def _measured(self, content: bytes) -> Ranges:
        if self._ranges is None:
            self._ranges = ranges(content, self._batches())
        return self._ranges
