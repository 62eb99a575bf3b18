"""Pooling over one or two spatial axes, and over all of them.

MAX_POOL_2D knows no border of −∞ but SAME's: where the numbers cannot be negative a border of zeros does the same, and else
one that mirrors what the window holds already. AVERAGE_POOL_2D leaves SAME's border out of its count, as ONNX does by default.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation, Array, Padding, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.operators.windows import Window, bordered, image_layout, window_of
from converters.tflite.shapes import Layout

_NOT_NEGATIVE: Final = frozenset({"RELU", "RELU6", "LOGISTIC", "RELU_0_TO_1", "SOFTMAX", "ABS", "EXP", "SQRT"})


def max_pool(call: Call) -> Value:
    """MaxPool; dilated windows and the second output have no form."""
    image = call.value()
    layout, window = image_layout(call, image), _window(call, image)
    if len([name for name in call.node.outputs if name]) > 1:
        raise call.unsupported("its second output (indices) has no form")
    tensor, padding = call.emission.stored(image, layout), window.padding
    if padding is None:
        tensor, padding = _bordered_for_maximum(call, tensor, window), Padding.VALID
    return _pool(call, tensor, layout, window, padding)


def average_pool(call: Call) -> Value:
    """AveragePool; where TFLite's count of elements differs from ONNX's, the result is corrected place by place."""
    image = call.value()
    layout, window = image_layout(call, image), _window(call, image)
    included = bool(call.attribute("count_include_pad", 0))
    tensor, padding = call.emission.stored(image, layout), window.padding
    if padding is not None and (padding == Padding.VALID or not included):
        return _pool(call, tensor, layout, window, padding)
    tensor = bordered(call, tensor, window)
    found = _pool(call, tensor, layout, window, Padding.VALID)
    factors = _corrections(window, included=included)
    if (factors == 1).all():
        return found
    correction = call.emission.constant(factors[None, :, :, None], "correction")
    made = call.emission.like("MUL", [found.tensor, correction], fusedActivationFunction=Activation.NONE)
    return call.same(found, made)


def global_pool(call: Call) -> Value:
    """GlobalAveragePool, GlobalMaxPool: a reduction over all spatial axes."""
    image = call.value()
    image = call.emission.with_axes(image, range(2, image.rank))
    kind = "MEAN" if call.node.op == "GlobalAveragePool" else "REDUCE_MAX"
    axes = sorted(image.position(axis) for axis in range(2, image.rank))
    shape = call.result_shape().stored(image.layout)
    made = call.emission.add(kind, [image.tensor, call.emission.integers(axes)], shape, keepDims=True)
    return call.result(made, image.layout)


def _window(call: Call, image: Value) -> Window:
    if any(step != 1 for step in call.attribute("dilations", [1])):
        raise call.unsupported(
            "a dilated pooling with auto_pad, with more than 64 elements in a window or of means with a border has no form"
        )
    return window_of(call, list(call.attribute("kernel_shape")), image.shape, call.result_shape())


def _pool(call: Call, tensor: Tensor, layout: Layout, window: Window, padding: Padding) -> Value:
    made = call.emission.add(
        "MAX_POOL_2D" if call.node.op == "MaxPool" else "AVERAGE_POOL_2D",
        [tensor],
        call.result_shape().stored(layout),
        padding=padding,
        strideH=window.stride[0],
        strideW=window.stride[1],
        filterHeight=window.kernel[0],
        filterWidth=window.kernel[1],
        fusedActivationFunction=Activation.NONE,
    )
    return call.result(made, layout)


def _bordered_for_maximum(call: Call, tensor: Tensor, window: Window) -> Tensor:
    if _is_never_negative(call, tensor):
        return bordered(call, tensor, window)
    border = max(*window.before, *window.after)
    if 2 * border <= min(kernel for kernel in window.kernel if kernel > 1) and border <= min(
        size for size, kernel in zip(window.size, window.kernel, strict=True) if kernel > 1
    ):
        return bordered(call, tensor, window, kind="SYMMETRIC")
    return bordered(call, tensor, window, kind="PADV2", fill=call.emission.scalar(float(np.finfo(np.float32).min)))


def _is_never_negative(call: Call, tensor: Tensor) -> bool:
    producers = call.emission.graph.producers()
    producer = producers.get(id(tensor))
    while producer is not None and producer.kind in ("TRANSPOSE", "RESHAPE"):
        producer = producers.get(id(producer.inputs[0]))
    return producer is not None and producer.kind in _NOT_NEGATIVE


def _corrections(window: Window, *, included: bool) -> Array:
    """float32[height, width]: elements in a window over those that ONNX counts there."""
    rows, columns = (_counts(window, at, included=included) for at in range(2))
    elements = window.kernel[0] * window.kernel[1]
    return np.asarray(elements / (rows[:, None] * columns[None, :]), np.float32)


def _counts(window: Window, at: int, *, included: bool) -> Array:
    """For each window along one axis, how many of its elements ONNX counts."""
    first, last = (-window.before[at], window.size[at] + window.given_after[at]) if included else (0, window.size[at])
    starts = np.arange(window.result[at]) * window.stride[at] - window.before[at]
    return np.minimum(starts + window.kernel[at], last) - np.maximum(starts, first)


TABLE: Final[Table] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
}
