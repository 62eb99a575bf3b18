"""The steps on numbers: scaling, types and axes before the model, softmax and sigmoid after it. Pure numpy, in float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import Arrange, Cast, Normalise, Quantize, Scale
from fleet_protocol.tensors import NUMPY_NAMES

Array = NDArray[Any]

_AXES: Final = {"NHWC": (0, 1, 2), "NCHW": (2, 0, 1), "NHW": (0, 1, 2), "NF": (0, 1, 2)}


def number(step: Scale | Normalise | Quantize | Cast, array: Array) -> Array:
    """One sample after one step."""
    match step:
        case Scale():
            return array.astype(np.float32) / np.float32(step.divide) + np.float32(step.add)
        case Normalise():
            return (array.astype(np.float32) - np.array(step.mean, np.float32)) / np.array(step.std, np.float32)
        case Quantize():
            scaled = np.rint(array.astype(np.float32) / np.float32(step.scale)) + step.zero_point
            return _bounded(scaled, np.dtype(NUMPY_NAMES[step.datatype]))
        case Cast():
            return _bounded(array, np.dtype(NUMPY_NAMES[step.datatype]))


def arrange(step: Arrange, array: Array) -> Array:
    """`[height, width, channels]` in the wanted order."""
    arranged = array.transpose(_AXES[step.order])
    if step.order == "NHW":
        return arranged[..., 0]
    return arranged.reshape(-1) if step.order == "NF" else arranged


def _bounded(array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f" or np.can_cast(array.dtype, dtype):
        return array.astype(dtype)
    bounds = np.iinfo(dtype)
    whole = np.rint(array) if array.dtype.kind == "f" else array
    # In float64, which holds every bound of 32 bits exactly, and pixels are never near those of 64.
    return np.clip(whole.astype(np.float64), bounds.min, float(bounds.max)).astype(dtype)


def dequantized(array: Array, scale: float, zero_point: int) -> Array:
    """float32, `(x − zero_point) · scale`."""
    return (array.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def softmax(array: Array) -> Array:
    """Over the last axis; rows sum to 1, whatever the size of the numbers."""
    real = array.astype(np.float32, copy=False)
    raised = np.exp(real - real.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def sigmoid(array: Array) -> Array:
    """`1 / (1 + exp(−x))`, without overflow for any x."""
    real = array.astype(np.float32, copy=False)
    small = np.exp(-np.abs(real))
    return np.asarray(np.where(real >= 0, 1.0 / (1.0 + small), small / (1.0 + small)), np.float32)


def best(scores: Array, k: int) -> NDArray[np.int64]:
    """The `k` best places of the last axis, best first, the lower one first among equals."""
    wide = scores.astype(np.float64) if scores.dtype.kind == "f" else scores.astype(np.int64)
    return np.argsort(-wide, axis=-1, kind="stable")[..., :k]
