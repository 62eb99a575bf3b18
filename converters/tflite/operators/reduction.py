"""Reductions along axes: sums, means, extremes, norms, and where the extreme stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation, Tensor
from converters.tflite.operators.activation import Maths
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Layout, Shape

_OF_TRUTHS: Final = {"REDUCE_MAX": "REDUCE_ANY", "REDUCE_MIN": "REDUCE_ALL"}
_MOST_AXES: Final = 5
"""XNNPACK promises to reduce a tensor of more, and then fails."""


def reduction(kind: str, *, before: str = "", after: str = "") -> Callable[[Call], Value]:
    """A reduction, with a function of each element before it and of the result after it."""

    def emit(call: Call) -> Value:
        value, axes = _reduced(call)
        truths = value.tensor.dtype == np.bool_
        tensor = _applied(call, before, value.tensor)
        if not axes:
            return call.same(value, _applied(call, after, tensor))
        keep = bool(call.attribute("keepdims", 1))
        layout = _kept(value, axes, keep=keep)
        at = call.emission.integers(sorted(value.position(axis) for axis in axes))
        made = call.emission.add(
            _OF_TRUTHS[kind] if truths else kind, [tensor, at], call.result_shape().stored(layout), keepDims=keep
        )
        return call.result(_applied(call, after, made), layout)

    return emit


def log_sum_exp(call: Call) -> Value:
    """ReduceLogSumExp, shifted by the maximum so that it does not overflow."""
    value, axes = _reduced(call)
    at = call.emission.integers(sorted(value.position(axis) for axis in axes))
    maths, shape = Maths(call), value.tensor.shape
    narrow = shape
    for axis in axes:
        narrow = Shape(narrow.sizes, narrow.free).with_size(value.position(axis), 1)
    largest = call.emission.add("REDUCE_MAX", [value.tensor, at], narrow, keepDims=True)
    shifted = maths.unary("EXP", maths.two("SUB", value.tensor, largest))
    total = call.emission.add("SUM", [shifted, at], narrow, keepDims=True)
    made = maths.two("ADD", maths.unary("LOG", total), largest)
    layout = _kept(value, axes, keep=bool(call.attribute("keepdims", 1)))
    return call.result(call.emission.reshaped(made, call.result_shape().stored(layout)), layout)


def extreme(kind: str) -> Callable[[Call], Value]:
    """ArgMax, ArgMin: the first place of the extreme."""

    def emit(call: Call) -> Value:
        value = call.value()
        axis = call.attribute("axis", 0) % value.rank
        value = call.emission.with_axes(value, [axis])
        at = value.position(axis)
        keep = bool(call.attribute("keepdims", 1))
        narrow = _kept(value, [axis], keep=False)
        stored = [each for each in range(len(value.layout)) if each != at]
        shape = value.tensor.shape.stored(tuple(stored))
        where = call.emission.constant(np.array(at, np.int32), "axis")
        made = call.emission.add(kind, [value.tensor, where], shape, dtype=np.dtype(np.int64), outputType=4)
        layout = narrow if not keep else tuple(each for each in value.layout if each != axis)
        return call.result(made, layout)

    return emit


def _reduced(call: Call) -> tuple[Value, list[int]]:
    """The input in a layout that has the axes, and the axes, not negative."""
    value = call.value()
    axes = call.integers(1, "axes")
    if not axes:
        axes = [] if call.attribute("noop_with_empty_axes", 0) else list(range(value.rank))
    axes = sorted(axis % value.rank for axis in axes)
    if any(value.shape.free[axis] for axis in axes):
        raise call.unsupported("it reduces the axis of samples")
    if value.rank > _MOST_AXES:
        raise call.unsupported(f"it reduces a tensor of more than {_MOST_AXES} axes. Use Reshape before it")
    return call.emission.with_axes(value, axes), axes


def _kept(value: Value, axes: list[int], *, keep: bool) -> Layout:
    """The layout of the result: reduced axes stay with size 1, or are gone and the others renumbered."""
    if keep:
        return value.layout
    names = [axis for axis in range(value.rank) if axis not in axes]
    return tuple(None if axis is None else names.index(axis) for axis in value.layout if axis not in axes)


def _applied(call: Call, what: str, tensor: Tensor) -> Tensor:
    if not what:
        return tensor
    if what == "SQUARE":
        return call.emission.like("MUL", [tensor, tensor], fusedActivationFunction=Activation.NONE)
    return call.emission.like(what, [tensor])


TABLE: Final[Table] = {
    "ReduceMean": reduction("MEAN"),
    "ReduceSum": reduction("SUM"),
    "ReduceMax": reduction("REDUCE_MAX"),
    "ReduceMin": reduction("REDUCE_MIN"),
    "ReduceProd": reduction("REDUCE_PROD"),
    "ReduceL1": reduction("SUM", before="ABS"),
    "ReduceL2": reduction("SUM", before="SQUARE", after="SQRT"),
    "ReduceSumSquare": reduction("SUM", before="SQUARE"),
    "ReduceLogSum": reduction("SUM", after="LOG"),
    "ReduceLogSumExp": log_sum_exp,
    "ArgMax": extreme("ARG_MAX"),
    "ArgMin": extreme("ARG_MIN"),
}
