"""Convolutions: CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV, over one or two spatial axes. Weights are transposed here.

Every one gets a bias, since quantizers and delegates are at home with one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import FLOAT, Call, Value
from converters.tflite.graph import Activation, Array, Options, Padding, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.operators.windows import Window, bordered, image_layout, window_of


def conv(call: Call) -> Value:
    """Conv: groups become a depthwise or a grouped convolution."""
    image, weights = call.value(), _weights(call)
    layout, groups = image_layout(call, image), call.attribute("group", 1)
    channels = image.shape.sizes[1]
    window = window_of(call, list(weights.shape[2:]), image.shape, call.result_shape())
    tensor, padding = call.emission.stored(image, layout), window.padding
    if padding is None:
        tensor, padding = bordered(call, tensor, window), Padding.VALID
    weights = weights if weights.ndim == 4 else weights[:, :, None, :]
    inputs = [tensor, None, _bias(call, len(weights))]
    shape = call.result_shape().stored(layout)
    name = f"{call.node.inputs[1]}/filter"
    if groups == channels and groups > 1:
        inputs[1] = call.emission.constant(weights.transpose(1, 2, 3, 0), name)
        options = {**_options(window, padding), "depthMultiplier": len(weights) // channels}
        made = call.emission.add("DEPTHWISE_CONV_2D", inputs, shape, **options)
    else:
        inputs[1] = call.emission.constant(weights.transpose(0, 2, 3, 1), name)
        made = call.emission.add("CONV_2D", inputs, shape, **_options(window, padding))
    return call.result(made, layout)


def conv_transpose(call: Call) -> Value:
    """ConvTranspose: TFLite computes it without a border, and what ONNX's pads would not give is cut off."""
    image, weights = call.value(), _weights(call)
    layout, shape = image_layout(call, image), call.result_shape()
    if call.attribute("group", 1) != 1:
        raise call.unsupported("a transposed convolution in groups has no form. Use one group")
    if any(step != 1 for step in call.attribute("dilations", [1])):
        raise call.unsupported("a dilated transposed convolution has no form")
    spatial = image.rank - 2
    stride = [1] * (2 - spatial) + list(call.attribute("strides", [1] * spatial))
    kernel = [1] * (2 - spatial) + list(weights.shape[2:])
    before = _cut(call, image, kernel[2 - spatial :], stride[2 - spatial :])
    weights = weights if weights.ndim == 4 else weights[:, :, None, :]
    stored = shape.stored(layout)
    whole = stored
    for at in range(2):
        full = (image.shape.stored(layout).sizes[1 + at] - 1) * stride[at] + kernel[at]
        whole = whole.with_size(1 + at, max(full, before[at] + stored.sizes[1 + at]))
    made = call.emission.add(
        "TRANSPOSE_CONV",
        [
            call.emission.sizes(whole),
            call.emission.constant(weights.transpose(1, 2, 3, 0), f"{call.node.inputs[1]}/filter"),
            call.emission.stored(image, layout),
        ],
        whole,
        dtype=FLOAT,
        padding=Padding.VALID,
        strideH=stride[0],
        strideW=stride[1],
        fusedActivationFunction=Activation.NONE,
    )
    if whole != stored:
        begin = call.emission.integers([0, *before, 0])
        made = call.emission.add("SLICE", [made, begin, call.emission.integers([-1, *stored.sizes[1:]])], stored)
    if call.has(2):
        made = call.emission.like("ADD", [made, _bias(call, weights.shape[1])], fusedActivationFunction=Activation.NONE)
    return call.result(made, layout)


def _cut(call: Call, image: Value, kernel: list[int], stride: list[int]) -> list[int]:
    """What is cut off at the beginning of each axis, as ONNX computes it where only the size of the result is given."""
    spatial = len(kernel)
    pads = call.attribute("pads", [0] * (2 * spatial))
    scheme = call.attribute("auto_pad", "NOTSET")
    extra = call.attribute("output_padding", [0] * spatial)
    if scheme in ("SAME_UPPER", "SAME_LOWER") or call.attribute("output_shape") is not None:
        sizes, results = image.shape.sizes[2:], call.result_shape().sizes[2:]
        totals = [
            stride[at] * (sizes[at] - 1) + extra[at] + kernel[at] - results[at] for at in range(spatial)
        ]  # fmt: skip
        found = [total - total // 2 if scheme == "SAME_LOWER" else total // 2 for total in totals]
    else:
        found = [0] * spatial if scheme == "VALID" else list(pads[:spatial])
    if min(found) < 0:
        raise call.unsupported("its pads are negative")
    return [0] * (2 - spatial) + found


def _weights(call: Call) -> Array:
    weights = call.constant(1, "weights")
    if weights.dtype != np.float32:
        raise call.unsupported(f"its weights are {weights.dtype}; export the model as float32")
    return weights


def _bias(call: Call, channels: int) -> Tensor:
    bias = call.optional(2, "bias")
    return call.emission.constant(
        np.zeros(channels, np.float32) if bias is None else bias.reshape(-1), f"{call.node.name}/bias"
    )


def _options(window: Window, padding: Padding) -> Options:
    return {
        "padding": padding,
        "strideH": window.stride[0],
        "strideW": window.stride[1],
        "dilationHFactor": window.dilation[0],
        "dilationWFactor": window.dilation[1],
        "fusedActivationFunction": Activation.NONE,
    }


TABLE: Final[Table] = {"Conv": conv, "ConvTranspose": conv_transpose}
