"""Functions of a number that TFLite has no operation for, put together from those that it has. The layout is handed on."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call
from converters.tflite.graph import Tensor
from converters.tflite.operators.activation import Maths, composed
from converters.tflite.operators.registry import Table

_ERF_SCALE: Final = 0.3275911
_ERF_FACTORS: Final = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: at most 1.5e-7 beside the error function."""


def _erf(_call: Call, maths: Maths, x: Tensor) -> Tensor:
    """Sign · (1 − polynomial in 1 / (1 + p·|x|) · exp(−x²))."""
    t = maths.inverse(maths.two("ADD", maths.two("MUL", maths.unary("ABS", x), _ERF_SCALE), 1.0))
    tail = maths.two("MUL", t, _ERF_FACTORS[0])
    for factor in _ERF_FACTORS[1:]:
        tail = maths.two("MUL", maths.two("ADD", tail, factor), t)
    fading = maths.unary("EXP", maths.unary("NEG", maths.two("MUL", x, x)))
    near = maths.two("ADD", maths.unary("NEG", maths.two("MUL", tail, fading)), 1.0)
    return maths.two("MUL", maths.unary("SIGN", x), near)


def _atan(call: Call, maths: Maths, x: Tensor) -> Tensor:
    """The angle of (1, x)."""
    one = call.emission.like("CAST", [maths.truth("EQUAL", x, x)], dtype=x.dtype)
    return call.emission.like("ATAN2", [x, one])


def _is_infinite(call: Call, maths: Maths, x: Tensor) -> Tensor:
    positive, negative = bool(call.attribute("detect_positive", 1)), bool(call.attribute("detect_negative", 1))
    if positive and negative:
        x = maths.unary("ABS", x)
    elif negative:
        x = maths.unary("NEG", x)
    bound = call.emission.scalar(np.inf if positive or negative else np.nan)
    return maths.truth("EQUAL", x, bound)


TABLE: Final[Table] = {"Atan": composed(_atan), "Erf": composed(_erf), "IsInf": composed(_is_infinite)}
