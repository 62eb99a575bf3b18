"""The table of operators: each ONNX operator's function, by its name. One module for each kind; see docs/tflite.md."""

from __future__ import annotations

from typing import Final

from converters.tflite.operators import (
    activation,
    convolution,
    elementwise,
    functions,
    indexing,
    matrix,
    normalisation,
    places,
    pooling,
    recurrent,
    reduction,
    resizing,
    shaping,
)
from converters.tflite.operators.registry import Table

TABLE: Final[Table] = {
    **activation.TABLE,
    **convolution.TABLE,
    **elementwise.TABLE,
    **functions.TABLE,
    **indexing.TABLE,
    **matrix.TABLE,
    **normalisation.TABLE,
    **places.TABLE,
    **pooling.TABLE,
    **recurrent.TABLE,
    **reduction.TABLE,
    **resizing.TABLE,
    **shaping.TABLE,
}
