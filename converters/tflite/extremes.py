"""Numbers that 8 bits cannot hold beside others: fill values of masks, and biases of channels that have next to no weights.

Both are found before a float file is quantized, from its constants and the ranges that its tensors take.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np

from converters.tflite import toolkit
from converters.tflite.calibrate import Ranges
from converters.tflite.graph import Array
from converters.tflite.passes import LARGEST_SIGNAL
from converters.tflite.serialise import pack

_STEPS: Final = 2**8 - 1
_WEIGHT_STEPS: Final = 2**7 - 1
_BIAS_STEPS: Final = 2**30
"""Half of what 32 bits hold, for what is added to it."""

_NARROWEST: Final = 1e-7

_MASKING: Final = ("ADD", "SUB", "MUL", "SELECT", "SELECT_V2", "MAXIMUM")
"""Operations that masks are made and laid over with, of those that the quantizer knows."""


def wide_enough(low: float, high: float) -> tuple[float, float]:
    """A tensor that was always 0 gets the scale of one up to 1: with none, the bias behind it would overflow."""
    return (low, high) if max(-low, high) > _NARROWEST else (0.0, 1.0)


def masking(content: bytes, ranges: Ranges) -> list[str]:
    """Results of operations that have to do with fill values of masks: these are to stay float."""
    model = toolkit.schema().ModelT.InitFromPackedBuf(content, 0)
    codes, graph = toolkit.schema().BuiltinOperator, model.subgraphs[0]
    kinds = {getattr(codes, kind) for kind in _MASKING}
    return [
        graph.tensors[operator.outputs[0]].name.decode("utf-8")
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode in kinds
        and any(_reaches(model, index, ranges) > LARGEST_SIGNAL for index in (*operator.inputs, *operator.outputs))
    ]


def _reaches(model: Any, index: int, ranges: Ranges) -> float:  # noqa: ANN401  # the schema has no types
    """The largest size of a number in a tensor."""
    values = _constant(model, index)
    if values is not None:
        return float(np.abs(values).max(initial=0))
    low, high = ranges.get(model.subgraphs[0].tensors[index].name.decode("utf-8"), (0.0, 0.0))
    return max(-low, high)


def with_room_for_biases(content: bytes, ranges: Ranges) -> bytes:
    """The float model with one weight raised in each channel whose bias drowns all of them.

    A bias is stored in steps of the input's scale times the channel's. Where a channel's weights are next to nothing (a factor
    of a batch normalisation that training drove to 0), so are its steps, their count does not fit into the bias' 32 bits, and
    the channel would answer anything. The raised weight makes the steps large enough, and adds 3e-5 of the bias at most.
    """
    model = toolkit.schema().ModelT.InitFromPackedBuf(content, 0)
    codes, graph, changed = toolkit.schema().BuiltinOperator, model.subgraphs[0], False
    axes = {codes.CONV_2D: 0, codes.FULLY_CONNECTED: 0, codes.DEPTHWISE_CONV_2D: 3}
    for operator in graph.operators:
        axis = axes.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        source = graph.tensors[operator.inputs[0]].name.decode("utf-8")
        if axis is None or source not in ranges or len(operator.inputs) < 3:
            continue
        weights, bias = (_constant(model, operator.inputs[at]) for at in (1, 2))
        raised = None if weights is None or bias is None else _raised(np.moveaxis(weights, axis, 0), bias, ranges[source])
        if raised is not None:
            operator.inputs = [operator.inputs[0], _changed(model, operator.inputs[1], np.moveaxis(raised, 0, axis)),
                               *operator.inputs[2:]]  # fmt: skip
            changed = True
    return pack(model) if changed else content


def _raised(weights: Array, bias: Array, bounds: tuple[float, float]) -> Array | None:
    """float32[channels, …] in which each channel's largest weight is large enough; None where all are."""
    low, high = wide_enough(*bounds)
    step = (max(high, 0.0) - min(low, 0.0)) / _STEPS
    least = np.abs(bias.astype(np.float64)) / _BIAS_STEPS / step * _WEIGHT_STEPS
    rows = weights.reshape(len(weights), -1).copy()
    faint = (np.abs(rows).max(axis=1) < least) & np.isfinite(least)
    rows[faint, 0] = least[faint]
    return rows.reshape(weights.shape) if faint.any() else None


def _constant(model: Any, index: int) -> Array | None:  # noqa: ANN401  # the schema has no types
    """A float32 constant, or None for what is none."""
    tensor = model.subgraphs[0].tensors[index] if index >= 0 else None
    if tensor is None or tensor.type != toolkit.schema().TensorType.FLOAT32 or model.buffers[tensor.buffer].data is None:
        return None
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)


def _changed(model: Any, index: int, values: Array) -> int:  # noqa: ANN401  # the schema has no types
    """Where the constant with these values stands: in its own place, unless others read it too, who see what they saw."""
    graph = model.subgraphs[0]
    readers = sum(int(each) == index for operator in graph.operators for each in operator.inputs)
    holders = sum(tensor.buffer == graph.tensors[index].buffer for tensor in graph.tensors)
    if readers > 1 or holders > 1:
        return _added(model, index, values)
    model.buffers[graph.tensors[index].buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    return index


def _added(model: Any, like: int, values: Array) -> int:  # noqa: ANN401  # the schema has no types
    """A new constant beside the one that others may read too."""
    tensors = model.subgraphs[0].tensors
    made, buffer = copy.copy(tensors[like]), toolkit.schema().BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    made.buffer, made.name = len(model.buffers), f"{tensors[like].name.decode('utf-8')}/kept{len(tensors)}"
    model.buffers.append(buffer)
    tensors.append(made)
    return len(tensors) - 1
