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
    image, weights, groups = call.value(), _weights(call), call.attribute("group", 1)
    layout, spatial = image_layout(call, image), image.rank - 2
    wanted = call.result_shape().stored(layout)
    one = [1] * (2 - spatial)
    stride = one + list(call.attribute("strides", [1] * spatial))
    weights = weights.reshape(*weights.shape[:2], *one, *weights.shape[2:])
    weights = _dilated(weights, one + list(call.attribute("dilations", [1] * spatial)))
    begin = [0] * len(one) + _cut(call, image, list(weights.shape[2 + len(one) :]), stride[len(one) :])
    tensor = call.emission.stored(image, layout)
    ends = [tensor.shape.sizes[1 + at] * stride[at] + _surplus(weights.shape[2 + at], stride[at]) for at in range(2)]
    border = [[max(0, -begin[at]), max(0, begin[at] + wanted.sizes[1 + at] - ends[at])] for at in range(2)]
    bias, late = _bias_numbers(call, groups * weights.shape[1]), any(map(any, border))
    tensor = _phases(call, tensor, weights, stride, np.zeros_like(bias) if late else bias)
    tensor = _interleaved(call, tensor, groups * weights.shape[1], stride)
    if late:  # beyond all windows there is the bias alone
        tensor = padded(call, tensor, [[0, 0], *border, [0, 0]])
    made = _cut_out(call, tensor, [start + pair[0] for start, pair in zip(begin, border, strict=True)], wanted)
    if late and call.has(2):
        made = call.emission.like("ADD", [made, call.emission.constant(bias, "bias")], fusedActivationFunction=Activation.NONE)
    return call.result(made, layout)


def _dilated(weights: Array, steps: list[int]) -> Array:
    """The kernel with zeros between its elements."""
    if steps == [1, 1]:
        return weights
    sizes = [(size - 1) * step + 1 for size, step in zip(weights.shape[2:], steps, strict=True)]
    wide = np.zeros((*weights.shape[:2], *sizes), np.float32)
    wide[:, :, :: steps[0], :: steps[1]] = weights
    return wide


def _surplus(kernel: int, stride: int) -> int:
    """How many places all phases have beyond one for each stride of the input."""
    return (-(-kernel // stride) - 1) * stride


def _phases(call: Call, tensor: Tensor, weights: Array, stride: list[int], bias: Array) -> Tensor:
    """For each place of the input and each phase of the stride, the sum of what it adds: phases are channels."""
    inputs, results, *kernel = weights.shape
    groups = call.attribute("group", 1)
    steps = [-(-size // step) for size, step in zip(kernel, stride, strict=True)]
    whole = np.zeros((inputs, results, steps[0] * stride[0], steps[1] * stride[1]), np.float32)
    whole[:, :, : kernel[0], : kernel[1]] = weights
    split = whole.reshape(groups, inputs // groups, results, steps[0], stride[0], steps[1], stride[1])[:, :, :, ::-1, :, ::-1]
    filters = split.transpose(0, 4, 6, 2, 3, 5, 1).reshape(-1, *steps, inputs // groups)  # first group, phases, results
    biases = np.broadcast_to(bias.reshape(groups, 1, results), (groups, stride[0] * stride[1], results)).reshape(-1)
    borders = [[0, 0], [steps[0] - 1] * 2, [steps[1] - 1] * 2, [0, 0]]
    if any(map(any, borders)):
        tensor = padded(call, tensor, borders)
    made = _summed(call, tensor, filters, biases, groups)
    if groups == 1:
        return made
    order = np.arange(len(filters)).reshape(groups, -1, results).transpose(1, 0, 2).reshape(-1)
    where = call.emission.constant(order.astype(np.int32), "order")
    return call.emission.like("GATHER", [made, where], axis=3, batchDims=0)


def _summed(call: Call, tensor: Tensor, filters: Array, biases: Array, groups: int) -> Tensor:
    """The stored image under these filters, float32[results, height, width, channels of a group], without a border."""
    shape = tensor.shape.with_size(3, len(filters))
    for at in (1, 2):
        shape = shape.with_size(at, shape.sizes[at] - filters.shape[at] + 1)
    window = Window(filters.shape[1:3], (1, 1), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0))
    depthwise = groups > 1 and filters.shape[3] == 1
    stored = filters.transpose(3, 1, 2, 0) if depthwise else filters
    name = f"{call.node.inputs[1]}/filter"
    inputs = [tensor, call.emission.constant(np.ascontiguousarray(stored), name)]
    inputs.append(call.emission.constant(np.ascontiguousarray(biases), f"{call.node.name}/bias"))
    options = _options(window, Padding.VALID)
    if depthwise:
        return call.emission.add("DEPTHWISE_CONV_2D", inputs, shape, **options, depthMultiplier=len(filters) // groups)
    return call.emission.add("CONV_2D", inputs, shape, **options)


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
    """The part that ONNX's pads leave."""
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
            max(0, stride[at] * (sizes[at] - 1) + extra[at] + kernel[at] - results[at]) for at in range(spatial)
        ]  # fmt: skip
        return [total - total // 2 if scheme == "SAME_LOWER" else total // 2 for total in totals]
    return [0] * spatial if scheme == "VALID" else list(pads[:spatial])


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
