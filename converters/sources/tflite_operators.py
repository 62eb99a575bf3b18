"""How each TFLite operator is said in ONNX. An operator that is not here is named, with what to do.

Sizes are taken from the file, whose first axis is 1: it counts samples, and is left free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from converters.errors import SourceRejected
from converters.sources.tflite_graph import Array, Operator, Order, Tensor, Writer, element

_UNARY: Final = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "ELU": "Elu", "EXP": "Exp", "FLOOR": "Floor", "HARD_SWISH": "HardSwish",
    "LOG": "Log", "LOGISTIC": "Sigmoid", "NEG": "Neg", "RELU": "Relu", "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin",
    "SQRT": "Sqrt", "TANH": "Tanh",
}  # fmt: skip
_BINARY: Final = {
    "ADD": "Add", "DIV": "Div", "MAXIMUM": "Max", "MINIMUM": "Min", "MUL": "Mul", "POW": "Pow", "SUB": "Sub",
}  # fmt: skip
_REDUCING: Final = {"MEAN": "ReduceMean", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin", "SUM": "ReduceSum"}
_FUSED: Final = {0: "", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}
_SAME: Final = 0

Rule = Callable[[Writer, Operator], None]


def emit(writer: Writer, operator: Operator) -> None:
    """Add what an operator computes. Raises `SourceRejected`, which names it."""
    rule = _RULES.get(operator.kind)
    if rule is None:
        raise SourceRejected(f"{operator.describe()} is not read from TFLite. Give the model that the file was made from.")
    try:
        rule(writer, operator)
    except (TypeError, IndexError, ValueError, AttributeError, AssertionError) as error:
        raise SourceRejected(
            f"{operator.describe()} has a form that is not read from TFLite: {error}. Give the model it was made from."
        ) from error


def _done(writer: Writer, operator: Operator, value: str, order: Order = "last") -> None:
    """The operator's output, through the activation that is part of it."""
    fused = _FUSED[getattr(operator.options, "fusedActivationFunction", 0)]
    writer.give(operator.outputs[0], _activated(writer, fused, value), order)


def _activated(writer: Writer, kind: str, value: str) -> str:
    if kind in ("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"):
        low, high = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}[kind]
        return writer.add("Clip", [value, writer.keep(np.float32(low)), writer.keep(np.float32(high))])
    return writer.add(_UNARY[kind], [value]) if kind else value


def _order_of(writer: Writer, *tensors: int) -> Order:
    """Channels first where a value is there so only and all have four axes: then nothing need be turned."""
    if any(len(writer.tensors[at].shape) != 4 for at in tensors):
        return "last"
    made = [writer.orders(at) for at in tensors if writer.constant(at) is None]
    return "first" if made and any("last" not in each for each in made) else "last"


def _unary(writer: Writer, operator: Operator) -> None:
    given = operator.inputs[0]
    order = _order_of(writer, given)
    _done(writer, operator, writer.add(_UNARY[operator.kind], [writer.value(given, order)]), order)


def _clipped(writer: Writer, operator: Operator) -> None:
    given = operator.inputs[0]
    order = _order_of(writer, given)
    writer.give(operator.outputs[0], _activated(writer, operator.kind, writer.value(given, order)), order)


def _leaky(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, operator.inputs[0])
    value = writer.value(operator.inputs[0], order)
    writer.give(operator.outputs[0], writer.add("LeakyRelu", [value], alpha=float(operator.options.alpha)), order)


def _prelu(writer: Writer, operator: Operator) -> None:
    slope = writer.constant(operator.inputs[1])
    assert slope is not None, "its slope is computed"
    writer.give(operator.outputs[0], writer.add("PRelu", [writer.value(operator.inputs[0]), writer.keep(slope)]))


def _rsqrt(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, operator.inputs[0])
    root = writer.add("Sqrt", [writer.value(operator.inputs[0], order)])
    writer.give(operator.outputs[0], writer.add("Reciprocal", [root]), order)


def _square(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, operator.inputs[0])
    value = writer.value(operator.inputs[0], order)
    writer.give(operator.outputs[0], writer.add("Mul", [value, value]), order)


def _gelu(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, operator.inputs[0])
    value = writer.value(operator.inputs[0], order)
    half, one = writer.keep(np.float32(0.5)), writer.keep(np.float32(1))
    if operator.options.approximate:
        cube = writer.add("Mul", [writer.add("Mul", [value, value]), value])
        inner = writer.add("Add", [value, writer.add("Mul", [cube, writer.keep(np.float32(0.044715))])])
        bent = writer.add("Tanh", [writer.add("Mul", [inner, writer.keep(np.float32(np.sqrt(2 / np.pi)))])])
    else:
        bent = writer.add("Erf", [writer.add("Mul", [value, writer.keep(np.float32(np.sqrt(0.5)))])])
    scaled = writer.add("Mul", [writer.add("Mul", [value, half]), writer.add("Add", [bent, one])])
    writer.give(operator.outputs[0], scaled, order)


def _binary(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, *operator.inputs)
    _done(writer, operator, writer.add(_BINARY[operator.kind], [writer.value(at, order) for at in operator.inputs]), order)


def _squared_difference(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, *operator.inputs)
    apart = writer.add("Sub", [writer.value(at, order) for at in operator.inputs])
    writer.give(operator.outputs[0], writer.add("Mul", [apart, apart]), order)


def _convolution(writer: Writer, operator: Operator) -> None:
    given, weights, *bias = operator.inputs
    taps = writer.constant(weights)
    assert taps is not None, "its weights are computed"
    channels = writer.tensors[given].shape[3]
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    turned = np.transpose(taps, (3, 0, 1, 2)) if depthwise else np.transpose(taps, (0, 3, 1, 2))
    told = operator.options
    dilations = [told.dilationHFactor, told.dilationWFactor]
    made = writer.add(
        "Conv",
        [writer.value(given, "first"), writer.keep(turned), *_bias(writer, bias)],
        group=channels // turned.shape[1],
        kernel_shape=list(turned.shape[2:]),
        strides=[told.strideH, told.strideW],
        dilations=dilations,
        pads=_pads(writer.tensors[given], turned.shape[2:], told, dilations),
    )
    _done(writer, operator, made, "first")


def _bias(writer: Writer, bias: list[int]) -> list[str]:
    return [writer.value(at) for at in bias if at >= 0]


def _pads(given: Tensor, kernel: tuple[int, ...], told: Any, dilations: list[int]) -> list[int]:  # noqa: ANN401  # the schema has no types
    if told.padding != _SAME:
        return [0, 0, 0, 0]
    before, after = [], []
    for size, width, stride, dilation in zip(given.shape[1:3], kernel, (told.strideH, told.strideW), dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        before.append(total // 2)
        after.append(total - total // 2)
    return [*before, *after]


def _transposed_convolution(writer: Writer, operator: Operator) -> None:
    _, weights, given, *bias = operator.inputs
    taps, told = writer.constant(weights), operator.options
    assert taps is not None, "its weights are computed"
    turned = np.transpose(taps, (3, 0, 1, 2))
    sizes, strides = writer.tensors[operator.outputs[0]].shape[1:3], (told.strideH, told.strideW)
    full = [
        (had - 1) * step + width
        for had, step, width in zip(writer.tensors[given].shape[1:3], strides, taps.shape[1:3], strict=True)
    ]
    cut = [max(0, whole - size) for whole, size in zip(full, sizes, strict=True)]
    made = writer.add(
        "ConvTranspose",
        [writer.value(given, "first"), writer.keep(turned), *_bias(writer, bias)],
        kernel_shape=list(turned.shape[2:]),
        strides=list(strides),
        pads=[*(each // 2 for each in cut), *(each - each // 2 for each in cut)],
        output_padding=[max(0, size - whole) for whole, size in zip(full, sizes, strict=True)],
    )
    _done(writer, operator, made, "first")


def _pool(writer: Writer, operator: Operator) -> None:
    told, given = operator.options, operator.inputs[0]
    kernel = (told.filterHeight, told.filterWidth)
    kind = "MaxPool" if operator.kind == "MAX_POOL_2D" else "AveragePool"
    pads = _pads(writer.tensors[given], kernel, told, [1, 1])
    value = writer.value(given, "first")
    _done(
        writer,
        operator,
        writer.add(kind, [value], kernel_shape=list(kernel), strides=[told.strideH, told.strideW], pads=pads),
        "first",
    )


def _fully_connected(writer: Writer, operator: Operator) -> None:
    given, weights, *bias = operator.inputs
    matrix = writer.constant(weights)
    assert matrix is not None, "its weights are computed"
    shape = writer.tensors[given].shape
    if len(shape) == 2 or not operator.options.keepNumDims:
        flat = writer.value(given)
        if len(shape) != 2:
            flat = writer.add("Reshape", [flat, writer.keep(np.array([-1, matrix.shape[1]], np.int64))])
        _done(writer, operator, writer.add("Gemm", [flat, writer.keep(matrix), *_bias(writer, bias)], transB=1))
        return
    made = writer.add("MatMul", [writer.value(given), writer.keep(matrix.T)])
    for each in _bias(writer, bias):
        made = writer.add("Add", [made, each])
    _done(writer, operator, made)


def _reshape(writer: Writer, operator: Operator) -> None:
    given, made = writer.tensors[operator.inputs[0]], writer.tensors[operator.outputs[0]]
    data = writer.constant(given.at)
    if data is not None:
        writer.give(made.at, writer.keep(data.reshape(made.shape)))
        return
    whole = bool(made.shape) and made.shape[0] == 1
    sizes = [-1 if whole and axis == 0 else size for axis, size in enumerate(made.shape)]
    assert whole, f"it mixes samples: {list(given.shape)} becomes {list(made.shape)}"
    writer.give(made.at, writer.add("Reshape", [writer.value(given.at), writer.keep(np.array(sizes, np.int64))]))


def _softmax(writer: Writer, operator: Operator) -> None:
    value = writer.value(operator.inputs[0])
    beta = getattr(operator.options, "beta", 1.0)
    if operator.kind == "SOFTMAX" and beta != 1.0:
        value = writer.add("Mul", [value, writer.keep(np.float32(beta))])
    writer.give(operator.outputs[0], writer.add("Softmax" if operator.kind == "SOFTMAX" else "LogSoftmax", [value], axis=-1))


def _reduced(writer: Writer, operator: Operator) -> None:
    given, axes = operator.inputs
    found = writer.constant(axes)
    assert found is not None, "its axes are computed"
    rank = len(writer.tensors[given].shape)
    which = sorted(int(axis) % rank for axis in found.reshape(-1))
    assert 0 not in which, "it mixes samples"
    keep = int(bool(operator.options.keepDims))
    if operator.kind == "SUM":  # the first of them whose axes became an input
        made = writer.add("ReduceSum", [writer.value(given), writer.keep(np.array(which, np.int64))], keepdims=keep)
    else:
        made = writer.add(_REDUCING[operator.kind], [writer.value(given)], axes=which, keepdims=keep)
    writer.give(operator.outputs[0], made)


def _pad(writer: Writer, operator: Operator) -> None:
    amounts = writer.constant(operator.inputs[1])
    assert amounts is not None, "its amounts are computed"
    pads = writer.keep(amounts.T.reshape(-1).astype(np.int64))
    value = writer.value(operator.inputs[0])
    if operator.kind == "MIRROR_PAD":
        assert operator.options.mode == 0, "it repeats the border itself"
        made = writer.add("Pad", [value, pads], mode="reflect")
    else:
        filling = writer.constant(operator.inputs[2]) if len(operator.inputs) > 2 else np.float32(0)
        assert filling is not None, "its value is computed"
        made = writer.add("Pad", [value, pads, writer.keep(np.asarray(filling).reshape(()))])
    writer.give(operator.outputs[0], made)


def _concatenation(writer: Writer, operator: Operator) -> None:
    order, axis = _order_of(writer, *operator.inputs), operator.options.axis
    if order == "first":
        axis = (0, 2, 3, 1)[axis % 4]
    assert all(writer.constant(at) is None for at in operator.inputs), "one of its inputs is a constant"
    _done(writer, operator, writer.add("Concat", [writer.value(at, order) for at in operator.inputs], axis=axis), order)


def _transpose(writer: Writer, operator: Operator) -> None:
    order = writer.constant(operator.inputs[1])
    assert order is not None, "its order is computed"
    writer.give(
        operator.outputs[0], writer.add("Transpose", [writer.value(operator.inputs[0])], perm=[int(each) for each in order])
    )


def _slice(writer: Writer, operator: Operator) -> None:
    begin, size = (writer.constant(at) for at in operator.inputs[1:3])
    assert begin is not None, "its begin is computed"
    assert size is not None, "its size is computed"
    ends = np.where(size < 0, np.iinfo(np.int32).max, begin + size)
    _sliced(writer, operator, begin, ends, step=np.ones_like(begin))


def _strided_slice(writer: Writer, operator: Operator) -> None:
    begin, end, step = (writer.constant(at) for at in operator.inputs[1:4])
    assert begin is not None, "its begin is computed"
    assert end is not None, "its end is computed"
    assert step is not None, "its step is computed"
    told = operator.options
    assert not told.ellipsisMask, "it skips axes"
    assert not told.newAxisMask, "it adds axes"
    assert not told.shrinkAxisMask & 1, "it takes one sample"
    first, last = np.array(begin, np.int64), np.array(end, np.int64)
    for axis in range(len(first)):
        if told.beginMask >> axis & 1 or axis == 0:
            first[axis] = 0 if step[axis] > 0 else np.iinfo(np.int32).max
        if told.endMask >> axis & 1 or axis == 0:
            last[axis] = np.iinfo(np.int32).max if step[axis] > 0 else np.iinfo(np.int32).min
        if told.shrinkAxisMask >> axis & 1:
            last[axis] = first[axis] + 1 if first[axis] != -1 else np.iinfo(np.int32).max
    shrunk = [axis for axis in range(len(first)) if told.shrinkAxisMask >> axis & 1]
    _sliced(writer, operator, first, last, step=np.asarray(step), shrunk=shrunk)


def _sliced(
    writer: Writer, operator: Operator, begin: Array, end: Array, *, step: Array, shrunk: list[int] | None = None
) -> None:
    axes = np.arange(1, len(begin), dtype=np.int64)  # the first counts samples, of which all are taken
    parts = [np.asarray(each, np.int64)[1:] for each in (begin, end)]
    made = writer.value(operator.inputs[0])
    if len(axes):
        numbers = (*parts, axes, np.asarray(step, np.int64)[1:])
        made = writer.add("Slice", [made, *(writer.keep(each) for each in numbers)])
    if shrunk:
        made = writer.add("Squeeze", [made, writer.keep(np.array(shrunk, np.int64))])
    writer.give(operator.outputs[0], made)


def _gather(writer: Writer, operator: Operator) -> None:
    table, indices = operator.inputs
    assert not operator.options.batchDims, "it looks up batch by batch"
    assert operator.options.axis or writer.constant(table) is not None, "it takes some samples"
    made = writer.add("Gather", [writer.value(table), writer.value(indices)], axis=operator.options.axis)
    writer.give(operator.outputs[0], made)


def _cast(writer: Writer, operator: Operator) -> None:
    order = _order_of(writer, operator.inputs[0])
    wanted = element(writer.tensors[operator.outputs[0]])
    writer.give(operator.outputs[0], writer.add("Cast", [writer.value(operator.inputs[0], order)], to=wanted), order)


def _extreme(writer: Writer, operator: Operator) -> None:
    axis = writer.constant(operator.inputs[1])
    assert axis is not None, "its axis is computed"
    kind = "ArgMax" if operator.kind == "ARG_MAX" else "ArgMin"
    found = writer.add(kind, [writer.value(operator.inputs[0])], axis=int(axis.reshape(-1)[0]), keepdims=0)
    wanted = element(writer.tensors[operator.outputs[0]])
    writer.give(operator.outputs[0], writer.add("Cast", [found], to=wanted))


def _split_unevenly(writer: Writer, operator: Operator) -> None:
    given, sizes, axis = operator.inputs
    found, at = writer.constant(sizes), writer.constant(axis)
    assert found is not None, "its sizes are computed"
    assert at is not None, "its axis is computed"
    parts = writer.keep(found.astype(np.int64))
    number = int(at.reshape(-1)[0])
    names = writer.add_several("Split", [writer.value(given), parts], len(operator.outputs), axis=number)
    for output, name in zip(operator.outputs, names, strict=True):
        writer.give(output, name)


def _split(writer: Writer, operator: Operator) -> None:
    axis = writer.constant(operator.inputs[0])
    assert axis is not None, "its axis is computed"
    at = int(axis.reshape(-1)[0])
    names = writer.add_several("Split", [writer.value(operator.inputs[1])], len(operator.outputs), axis=at)
    for output, name in zip(operator.outputs, names, strict=True):
        writer.give(output, name)


def _batch_matmul(writer: Writer, operator: Operator) -> None:
    values = []
    for at, turned in zip(operator.inputs, (operator.options.adjX, operator.options.adjY), strict=True):
        rank = len(writer.tensors[at].shape)
        value = writer.value(at)
        values.append(writer.add("Transpose", [value], perm=[*range(rank - 2), rank - 1, rank - 2]) if turned else value)
    writer.give(operator.outputs[0], writer.add("MatMul", values))


def _resize(writer: Writer, operator: Operator) -> None:
    told, linear = operator.options, operator.kind == "RESIZE_BILINEAR"
    given, made = (writer.tensors[at].shape for at in (operator.inputs[0], operator.outputs[0]))
    how = "align_corners" if told.alignCorners else "half_pixel" if told.halfPixelCenters else "asymmetric"
    scales = np.array([1, 1, made[1] / given[1], made[2] / given[2]], np.float32)
    rounding = {} if linear else {"nearest_mode": "floor" if how == "asymmetric" else "round_prefer_ceil"}
    value = writer.value(operator.inputs[0], "first")
    mode = "linear" if linear else "nearest"
    made_value = writer.add(
        "Resize", [value, "", writer.keep(scales)], mode=mode, coordinate_transformation_mode=how, **rounding
    )
    writer.give(operator.outputs[0], made_value, "first")


def _depth_to_space(writer: Writer, operator: Operator) -> None:
    kind = "DepthToSpace" if operator.kind == "DEPTH_TO_SPACE" else "SpaceToDepth"
    value = writer.value(operator.inputs[0], "first")
    writer.give(operator.outputs[0], writer.add(kind, [value], blocksize=operator.options.blockSize), "first")


def _dequantize(writer: Writer, operator: Operator) -> None:
    """Weights that are stored in half precision."""
    data = writer.constant(operator.inputs[0])
    assert data is not None, "its input is computed"
    assert data.dtype == np.float16, f"its input is {data.dtype}"
    at = operator.outputs[0]
    tensor = writer.tensors[at]
    writer.tensors = [*writer.tensors]
    writer.tensors[at] = Tensor(at, tensor.name, tensor.shape, "float32", data.astype(np.float32), scaled=False)


_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCING, _reduced),
    **dict.fromkeys(("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"), _clipped),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), _reshape),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX"), _softmax),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN"), _extreme),
    "BATCH_MATMUL": _batch_matmul,
    "CAST": _cast,
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _depth_to_space,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "GELU": _gelu,
    "LEAKY_RELU": _leaky,
    "PRELU": _prelu,
    "RSQRT": _rsqrt,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _depth_to_space,
    "SPLIT": _split,
    "SPLIT_V": _split_unevenly,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transposed_convolution,
}
