"""The steps that change the shape of one sample: lengths, axes, and the ends of a file. Pure numpy."""

from __future__ import annotations

import numpy as np

from fleet_protocol.processing import Ends, FitLength, Pieces, Reshape, ShapeStep, Transpose
from runtime.errors import InvalidInput
from runtime.processing.numbers import Array, check_numbers


def shaped(step: ShapeStep, array: Array) -> Array:
    """One sample after one step. Raises `InvalidInput`."""
    match step:
        case FitLength():
            return _fitted(step, array)
        case Reshape():
            return _reshaped(step, array)
        case Transpose():
            return array.transpose(step.axes)
        case Ends():
            return _ends(step, array.tobytes())


def cut(step: Pieces, array: Array) -> list[Array]:
    """A sample's pieces, which together hold all of it. Raises `InvalidInput`."""
    count = 1 + max(0, -(-(len(array) - step.length) // step.hop))
    check_numbers(count * step.length * (array.size // max(1, len(array))))
    filled = _fitted(FitLength(length=(count - 1) * step.hop + step.length, fill=step.fill), array)
    return [filled[at * step.hop : at * step.hop + step.length] for at in range(count)]


def _fitted(step: FitLength, array: Array) -> Array:
    """Cut or filled where `at` says; `both`: in equal parts, the odd one at the end."""
    axis, missing = step.axis, step.length - array.shape[step.axis]
    before = {"end": 0, "start": missing, "both": abs(missing) // 2 * (1 if missing > 0 else -1)}[step.at]
    if missing <= 0:
        return array.take(range(-before, step.length - before), axis)
    check_numbers(array.size // max(1, array.shape[axis]) * step.length)
    around = [(0, 0)] * array.ndim
    around[axis] = (before, missing - before)
    return np.pad(array, around, constant_values=array.dtype.type(step.fill))


def _reshaped(step: Reshape, array: Array) -> Array:
    try:
        return array.reshape(step.shape)
    except ValueError as error:
        raise InvalidInput(f"{list(array.shape)} has {array.size} numbers, which cannot become {list(step.shape)}.") from error


def _ends(step: Ends, content: bytes) -> Array:
    head, tail = content[: step.block], content[-step.block :]
    if step.strip:
        head, tail = head.lstrip(), tail.rstrip()
    first, last = head[: step.first], tail[max(0, len(tail) - step.last) :]
    made = np.full(step.first + step.last, step.fill, np.int32)
    made[: len(first)] = np.frombuffer(first, np.uint8)
    made[len(made) - len(last) :] = np.frombuffer(last, np.uint8)
    return made
