"""The steps on numbers: scaling, types and axes before the model, softmax and sigmoid after it. Pure numpy.

They compute in float32, and before the model in float64 where that is what came.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol import limits
from fleet_protocol.processing import Arrange, Cast, Clip, Normalise, NumberStep, Quantize, Scale
from fleet_protocol.tensors import NUMPY_NAMES
from runtime.errors import InvalidInput

Array = NDArray[Any]

_AXES: Final = {"NHWC": (0, 1, 2), "NCHW": (2, 0, 1), "NHW": (0, 1, 2), "NF": (0, 1, 2)}


def number(step: NumberStep, array: Array) -> Array:
    """One sample after one step. Raises `InvalidInput`."""
    if isinstance(step, Cast):
        return _bounded(array, np.dtype(NUMPY_NAMES[step.datatype]))
    real = array if array.dtype == np.float64 else array.astype(np.float32)
    kind = real.dtype.type
    match step:
        case Scale():
            return np.asarray(real / kind(step.divide) + kind(step.add))
        case Normalise():
            return np.asarray((real - np.array(step.mean, kind)) / np.array(step.std, kind))
        case Clip():
            return np.asarray(np.clip(real, step.low, step.high))
        case Quantize():
            return _bounded(np.rint(real / kind(step.scale)) + step.zero_point, np.dtype(NUMPY_NAMES[step.datatype]))


def check_numbers(count: int) -> None:
    """Raises `InvalidInput` where a step would make more of one sample than is taken for one."""
    if count > limits.SAMPLE_NUMBERS:
        raise InvalidInput(f"It becomes {count} numbers; at most {limits.SAMPLE_NUMBERS} are taken for one sample. Give less.")


def arrange(step: Arrange, array: Array) -> Array:
    """`[height, width, channels]` in the wanted order."""
    arranged = array.transpose(_AXES[step.order])
    if step.order == "NHW":
        return arranged[..., 0]
    return arranged.reshape(-1) if step.order == "NF" else arranged


_LAST_BELOW_2_63: Final = 2.0**63 - 1024
"""The largest float64 that fits 64 bits."""


def _bounded(array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f" or np.can_cast(array.dtype, dtype):
        return array.astype(dtype)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InvalidInput(f"It holds NaN, which is no {dtype.name}. Fill in what is missing.")
    bounds = np.iinfo(dtype)
    whole = np.rint(array) if array.dtype.kind == "f" else array
    # In float64, which holds every bound of 32 bits exactly.
    return np.clip(whole.astype(np.float64), bounds.min, min(float(bounds.max), _LAST_BELOW_2_63)).astype(dtype)


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
