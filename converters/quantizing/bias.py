"""Bias correction: what 8 bits shift the mean of a layer's output by is taken back in its bias.

The empirical form of Nagel et al. 2019 (arXiv 1906.04721). Rounding a layer's weights moves each output channel by a constant
on average. Layers are corrected in the order of computation, each with those before it corrected, so that no shift is taken
back twice. It hurts some models (ResNet-8, measured), so it is a cure that a search tries, and not a habit.

Where weights alone are rounded, what that shifts is known without running the rounded model: the rounding errors times the
means of what the layer is given. That took an OCR model from 21.7 to 23.8 dB (measured), and is always done.
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
from converters.graphs.channel_flow import bias_of_matmul
from converters.graphs.graph_view import GraphView, Reader, attributes, output_axis
from converters.graphs.observe import Batch, observe, pieces, session
from converters.graphs.weights import packed_weights

_SAMPLES: Final = 32
"""Means of channels need no more, since every place of a picture counts."""
_AT_ONCE: Final = 8
_LAYERS: Final = 80
"""Larger models have the model run too often for what it gives."""
_BIAS: Final = 2
_MATRIX: Final = 2
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


def shift_biases(model: onnx.ModelProto, batches: Iterable[Batch], *, smallest: int) -> int:
    """Take, in place, into the float biases what `quantize_weights` will shift the means of layers by; say of how many layers.

    Raises `RecipeFailed` where the model does not run.
    """
    view, packed = GraphView(model), packed_weights(model, smallest=smallest)
    layers = [node for node in view.nodes if len(node.input) > 1 and node.input[1] in packed]
    places = {node.output[0]: place for node in layers if (place := _bias(view, node)) is not None}
    layers = [node for node in layers if node.output[0] in places]
    axes = {node.input[0]: _AXES.get(node.op_type, -1) for node in layers}
    given = {value: axis for value, axis in axes.items() if value not in view.inputs}
    some = list(pieces(batches, _AT_ONCE, at_most=_SAMPLES))
    means = _typical(observe(model, list(given), some), given) | _typical(
        some, {n: a for n, a in axes.items() if n not in given}
    )
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in layers:
        name = places[node.output[0]]
        lost = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float64) - packed[node.input[1]].unpacked()
        bias = numpy_helper.to_array(tensors[name])
        shifted = bias + _shift(node, lost, means[node.input[0]]).reshape(bias.shape)
        tensors[name].CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), name))
    return len(layers)


def _typical(shown: Iterable[Batch], axes: Mapping[str, int]) -> dict[str, Means]:
    """Each channel's mean over places, and over that half of the samples which lies in the middle: outliers have no say."""
    found: dict[str, list[Means]] = {name: [] for name in axes}
    for batch in shown:
        for name, axis in axes.items():
            values = np.moveaxis(batch[name], axis, -1)
            found[name].append(values.reshape(len(values), -1, values.shape[-1]).mean(axis=1, dtype=np.float64))
    means = {}
    for name, rows in found.items():
        ordered = np.sort(np.concatenate(rows), axis=0)
        cut = len(ordered) // 4
        means[name] = ordered[cut : len(ordered) - cut].mean(axis=0)
    return means


def _bias(view: GraphView, node: onnx.NodeProto) -> str | None:
    """The name of a layer's own float bias, one number an output; or None."""
    told, weights = attributes(node), view.operand(node, 1)
    if weights is None or told.get("transA") or {told.get("alpha", 1.0), told.get("beta", 1.0)} != {1.0}:
        return None
    if node.op_type not in (*_AXES, "MatMul") or (node.op_type == "MatMul" and weights.ndim > _MATRIX):
        return None
    place = bias_of_matmul(view, node) if node.op_type == "MatMul" else Reader(node, _BIAS)
    values = None if place is None else view.operand(place.node, place.position)
    if place is None or values is None or values.dtype != np.float32 or values.size != weights.shape[output_axis(node)]:
        return None
    name = place.node.input[place.position]
    return str(name) if len(view.readers(name)) == 1 else None


def _shift(node: onnx.NodeProto, lost: NDArray[np.float64], means: Means) -> Means:
    """What the lost part of the weights makes of inputs that are their means everywhere: float64[outputs]."""
    if node.op_type != "Conv":
        return means @ (lost.T if output_axis(node) == 0 else lost)
    groups = attributes(node).get("group", 1)
    taps = lost.reshape(groups, len(lost) // groups, lost.shape[1], -1).sum(axis=-1)
    return np.asarray(np.einsum("goi,gi->go", taps, means.reshape(groups, -1)).reshape(-1))


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
