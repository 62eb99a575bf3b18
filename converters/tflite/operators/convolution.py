"""Convolutions over one or two spatial axes: CONV_2D and DEPTHWISE_CONV_2D. Weights are transposed here.

Every one gets a bias, since quantizers and delegates are at home with one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation, Array, Options, Padding, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.operators.windows import Window, bordered, image_layout, padded, window_of
from converters.tflite.shapes import Shape


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
    """ConvTranspose as a convolution that computes every stride's phase as channels of its own, which then change places.

    TRANSPOSE_CONV must be told its result's shape, which a free number of samples makes known at run time only: it would
    take the rest of the graph from the delegate. This form does the same work on operations that every engine has.
    """
    image, weights = call.value(), _weights(call)
    layout = image_layout(call, image)
    if call.attribute("group", 1) != 1:
        raise call.unsupported("a transposed convolution in groups has no form. Use one group")
    if any(step != 1 for step in call.attribute("dilations", [1])):
        raise call.unsupported("a dilated transposed convolution has no form")
    one = [1] * (4 - image.rank)
    stride = one + list(call.attribute("strides", [1] * (image.rank - 2)))
    weights = weights.reshape(*weights.shape[:2], *one, *weights.shape[2:])
    tensor = _phases(call, call.emission.stored(image, layout), weights, stride)
    tensor = _interleaved(call, tensor, weights.shape[1], stride)
    begin = [0] * len(one) + _cut(call, image, list(weights.shape[2 + len(one) :]), stride[len(one) :])
    return call.result(_cut_out(call, tensor, begin, call.result_shape().stored(layout)), layout)


def _phases(call: Call, tensor: Tensor, weights: Array, stride: list[int]) -> Tensor:
    """For each place of the input and each phase of the stride, the sum of what it adds: phases are channels."""
    inputs, results, *kernel = weights.shape
    steps = [-(-size // step) for size, step in zip(kernel, stride, strict=True)]
    padded_weights = np.zeros((inputs, results, steps[0] * stride[0], steps[1] * stride[1]), np.float32)
    padded_weights[:, :, : kernel[0], : kernel[1]] = weights
    split = padded_weights.reshape(inputs, results, steps[0], stride[0], steps[1], stride[1])[:, :, ::-1, :, ::-1]
    filters = split.transpose(3, 5, 1, 2, 4, 0).reshape(-1, *steps, inputs)
    borders = [[0, 0], [steps[0] - 1] * 2, [steps[1] - 1] * 2, [0, 0]]
    if any(map(any, borders)):
        tensor = padded(call, tensor, borders)
    shape = tensor.shape
    for at in range(2):
        shape = shape.with_size(1 + at, shape.sizes[1 + at] - steps[at] + 1)
    window = Window((steps[0], steps[1]), (1, 1), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0))
    bias = call.emission.constant(np.tile(_bias_numbers(call, results), stride[0] * stride[1]), f"{call.node.name}/bias")
    return call.emission.add(
        "CONV_2D",
        [tensor, call.emission.constant(np.ascontiguousarray(filters), f"{call.node.inputs[1]}/filter"), bias],
        shape.with_size(3, len(filters)),
        **_options(window, Padding.VALID),
    )


def _interleaved(call: Call, tensor: Tensor, channels: int, stride: list[int]) -> Tensor:
    """Phases from channels to their places in the image."""
    count, height, width, _ = tensor.shape.sizes
    free = tensor.shape.free[0]
    if stride == [1, 1]:
        return tensor
    apart = Shape((count, height, width, *stride, channels), (free, *[False] * 5))
    tensor = call.emission.reshaped(tensor, apart)
    order = (0, 1, 3, 2, 4, 5)
    tensor = call.emission.add("TRANSPOSE", [tensor, call.emission.integers(order)], apart.stored(order))
    return call.emission.reshaped(tensor, Shape((count, height * stride[0], width * stride[1], channels), (free, *[False] * 3)))


def _cut_out(call: Call, tensor: Tensor, begin: list[int], wanted: Shape) -> Tensor:
    """The part that ONNX's pads leave; where its result reaches further than any window, zeros and the bias are there."""
    missing = [begin[at] + wanted.sizes[1 + at] - tensor.shape.sizes[1 + at] for at in range(2)]
    if max(missing) > 0:
        if call.has(2):
            raise call.unsupported("its output_padding reaches further than its windows. Use less")
        tensor = padded(call, tensor, [[0, 0], [0, max(0, missing[0])], [0, max(0, missing[1])], [0, 0]])
    if tensor.shape == wanted:
        return tensor
    first = call.emission.integers([0, *begin, 0])
    return call.emission.add("SLICE", [tensor, first, call.emission.integers(wanted.signature)], wanted)


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
    return found


def _weights(call: Call) -> Array:
    weights = call.constant(1, "weights")
    if weights.dtype != np.float32:
        raise call.unsupported(f"its weights are {weights.dtype}; export the model as float32")
    return weights


def _bias(call: Call, channels: int) -> Tensor:
    return call.emission.constant(_bias_numbers(call, channels), f"{call.node.name}/bias")


def _bias_numbers(call: Call, channels: int) -> Array:
    bias = call.optional(2, "bias")
    return np.zeros(channels, np.float32) if bias is None else bias.reshape(-1)


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
