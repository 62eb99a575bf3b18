"""Bias correction: what 8 bits shift the mean of a layer's output by is taken back in its bias.

The empirical form of Nagel et al. 2019 (arXiv 1906.04721). Rounding a layer's weights moves each output channel by a constant
on average. Layers are corrected in the order of computation, each with those before it corrected, so that no shift is taken
back twice. It hurts some models (ResNet-8, measured), so it is a cure that a search tries, and not a habit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.errors import RecipeFailed
from converters.graphs.graph_view import GraphView
from converters.graphs.observe import Batch, observe, pieces, session

_SAMPLES: Final = 32
"""Means of channels need no more, since every place of a picture counts."""
_AT_ONCE: Final = 8
_LAYERS: Final = 80
"""Larger models have the model run too often for what it gives."""
_BIAS: Final = 2
_AXES: Final = {"Conv": 1, "Gemm": -1}
"""Where the channels of a layer's output lie."""


Means = NDArray[np.float64]


@dataclass(frozen=True)
class _Layer:
    """A layer in integers: the names of its output in float's model and in its own, its packed bias and what unpacks it."""

    wanted: str
    made: str
    axis: int
    bias: str
    scale: NDArray[Any]


def correct_biases(before: onnx.ModelProto, after: onnx.ModelProto, batches: Iterable[Batch]) -> int:
    """Correct, in place, the biases of `after`, which is `before` in QDQ form; say of how many layers.

    Nodes have the same names in both. Raises `RecipeFailed` where a model does not run.
    """
    layers = _layers(GraphView(before), GraphView(after))
    if not layers or len(layers) > _LAYERS:
        return 0
    some = list(pieces(batches, _AT_ONCE, at_most=_SAMPLES))
    axes = {layer.wanted: layer.axis for layer in layers}
    wanted = _means(observe(before, list(axes), some), axes)
    biases = _corrected(after, layers, wanted, some)
    for tensor in after.graph.initializer:
        if tensor.name in biases:
            tensor.CopyFrom(numpy_helper.from_array(biases[tensor.name], tensor.name))
    return len(biases)


def _layers(before: GraphView, after: GraphView) -> list[_Layer]:
    wanted = {node.name: node.output[0] for node in before.nodes if node.op_type in _AXES}
    found = []
    for node in after.nodes:
        unpack = after.maker(node.input[_BIAS]) if node.name in wanted and len(node.input) > _BIAS else None
        if unpack is None or unpack.op_type != "DequantizeLinear" or len(after.readers(unpack.input[0])) != 1:
            continue
        packed, scale = after.operand(unpack, 0), after.operand(unpack, 1)
        if packed is not None and scale is not None and packed.dtype == np.int32:
            found.append(_Layer(wanted[node.name], node.output[0], _AXES[node.op_type], unpack.input[0], scale))
    return found


def _corrected(
    after: onnx.ModelProto, layers: Sequence[_Layer], wanted: Mapping[str, Means], batches: Sequence[Batch]
) -> dict[str, NDArray[np.int32]]:
    """The new biases by name. They are inputs of one engine here, so that each layer sees those before it corrected."""
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    biases = {layer.bias: numpy_helper.to_array(tensors[layer.bias]).copy() for layer in layers}
    engine = session(_opened(after, layers, biases).SerializeToString())
    limits = np.iinfo(np.int32)
    for layer in layers:
        try:
            made = ({layer.made: engine.run([layer.made], {**batch, **biases})[0]} for batch in batches)
            mean = _means(made, {layer.made: layer.axis})[layer.made]
        except Exception as error:
            raise RecipeFailed(f"fails on the data: {str(error).splitlines()[0]}") from error
        steps = np.rint((wanted[layer.wanted] - mean) / layer.scale)
        biases[layer.bias] = np.clip(biases[layer.bias] + steps, limits.min, limits.max).astype(np.int32)
    return biases


def _opened(after: onnx.ModelProto, layers: Sequence[_Layer], biases: Mapping[str, NDArray[np.int32]]) -> onnx.ModelProto:
    """The model with its packed biases as inputs and its layers' outputs as outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(after)
    there = {value.name for value in model.graph.output}
    for layer in layers:
        model.graph.input.append(helper.make_tensor_value_info(layer.bias, onnx.TensorProto.INT32, biases[layer.bias].shape))
        if layer.made not in there:
            model.graph.output.append(helper.make_empty_tensor_value_info(layer.made))
    return model


def _means(shown: Iterable[Batch], axes: Mapping[str, int]) -> dict[str, Means]:
    """Each channel's mean over samples and places, by value; its channels lie along the axis in `axes`."""
    sums, counts = dict[str, Means](), dict.fromkeys(axes, 0)
    for batch in shown:
        for name, axis in axes.items():
            channels = np.moveaxis(batch[name], axis, -1).reshape(-1, batch[name].shape[axis])
            sums[name] = sums.get(name, np.float64(0)) + channels.sum(axis=0, dtype=np.float64)
            counts[name] += len(channels)
    return {name: total / counts[name] for name, total in sums.items()}
