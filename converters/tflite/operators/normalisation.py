"""Normalisations, put together from means and products. Batch normalisation becomes a factor and a summand a channel.

Where it follows a convolution or a matrix, the passes put both into the weights.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation, Array, Tensor
from converters.tflite.operators.activation import Maths
from converters.tflite.operators.elementwise import combine
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import channels_last


def batch_norm(call: Call) -> Value:
    """BatchNormalization at inference."""
    if call.attribute("training_mode", 0):
        raise call.unsupported("it is in training mode; export the model for inference")
    value = call.value()
    scale, shift = call.constant(1, "scales"), call.constant(2, "shifts")
    mean, variance = call.constant(3, "means"), call.constant(4, "variances")
    factor = scale / np.sqrt(variance + np.float32(call.attribute("epsilon", 1e-5)))
    return _affine(call, value, factor, shift - mean * factor)


def instance_norm(call: Call) -> Value:
    """InstanceNormalization: each channel of each sample by its own mean and variance."""
    value = call.value()
    axes = list(range(2, value.rank))
    value = call.emission.with_axes(value, [1, *axes])
    normal, _, _ = _normalised(call, value, axes)
    return _affine(call, normal, call.constant(1, "scales"), call.constant(2, "shifts"))


def layer_norm(call: Call) -> list[Value]:
    """LayerNormalization over the last axes, and the means and inverse deviations that it found."""
    value = call.value()
    axis = call.attribute("axis", -1) % value.rank
    value = call.emission.with_axes(value, range(axis, value.rank))
    found, mean, factor = _normalised(call, value, list(range(axis, value.rank)))
    found = combine(call.emission, "MUL", [found, call.value(1)], found.shape)
    found = combine(call.emission, "ADD", [found, call.value(2)], found.shape) if call.has(2) else found
    further = [(at, tensor) for at, tensor in ((1, mean), (2, factor)) if call.has_output(at)]
    return [found, *(call.result(tensor, value.layout, at) for at, tensor in further)]


def rms_norm(call: Call) -> Value:
    """RMSNormalization over the last axes."""
    value = call.value()
    axis = call.attribute("axis", -1) % value.rank
    value = call.emission.with_axes(value, range(axis, value.rank))
    maths = Maths(call)
    square = maths.two("MUL", value.tensor, value.tensor)
    factor = _inverse_root(call, _mean(call, square, value, list(range(axis, value.rank))))
    found = call.same(value, maths.two("MUL", value.tensor, factor))
    return combine(call.emission, "MUL", [found, call.value(1)], found.shape)


def local_response(call: Call) -> Value:
    """LRN across channels, of odd size."""
    value, size = call.value(), int(call.attribute("size"))
    if value.rank != 4 or size % 2 == 0:
        raise call.unsupported("only images and windows of odd size have a form")
    layout = channels_last(4)
    made = call.emission.like(
        "LOCAL_RESPONSE_NORMALIZATION",
        [call.emission.stored(value, layout)],
        radius=size // 2,
        bias=float(call.attribute("bias", 1.0)),
        alpha=float(call.attribute("alpha", 1e-4)) / size,
        beta=float(call.attribute("beta", 0.75)),
    )
    return call.result(made, layout)


def _affine(call: Call, value: Value, factor: Array, summand: Array) -> Value:
    """Value · factor + summand, one of each a channel (logical axis 1)."""
    ones = [1] * (value.rank - 2)
    for kind, numbers, name in (("MUL", factor, "factor"), ("ADD", summand, "summand")):
        data = np.ascontiguousarray(numbers, np.float32).reshape(-1, *ones)
        operand = call.emission.constant_value(data, f"{call.node.name}/{name}")
        value = combine(call.emission, kind, [value, operand], value.shape)
    return value


def _normalised(call: Call, value: Value, axes: list[int]) -> tuple[Value, Tensor, Tensor]:
    """(value − mean) / sqrt(variance + epsilon) along the logical axes; the mean and the factor of it."""
    maths = Maths(call)
    mean = _mean(call, value.tensor, value, axes)
    distance = call.emission.like("SQUARED_DIFFERENCE", [value.tensor, mean])
    factor = _inverse_root(call, _mean(call, distance, value, axes))
    return call.same(value, maths.two("MUL", maths.two("SUB", value.tensor, mean), factor)), mean, factor


def _mean(call: Call, tensor: Tensor, value: Value, axes: list[int]) -> Tensor:
    at = sorted(value.position(axis) for axis in axes)
    shape = tensor.shape
    for position in at:
        shape = shape.with_size(position, 1)
    return call.emission.add("MEAN", [tensor, call.emission.integers(at)], shape, keepDims=True)


def _inverse_root(call: Call, variance: Tensor) -> Tensor:
    epsilon = call.emission.scalar(float(call.attribute("epsilon", 1e-5)))
    raised = call.emission.like("ADD", [variance, epsilon], fusedActivationFunction=Activation.NONE)
    return call.emission.like("RSQRT", [raised])


TABLE: Final[Table] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "LRN": local_response,
}
