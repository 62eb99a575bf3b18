"""Passes over a finished graph: each takes a graph that computes the model and leaves one that computes the same, with less.

Factors and summands go into the weights before them, activations into the operation before them, reshapes of reshapes into
one, and what nobody reads away.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.graph import Activation, Array, Graph, Operation, Tensor
from converters.tflite.shapes import Shape

_CHANNEL_AXIS: Final = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Layers with constant weights: the axis of the weights that counts the results' channels."""

_INPUT_AXIS: Final = {"CONV_2D": 3, "FULLY_CONNECTED": 1}
"""The axis of the weights that counts the input's channels."""

_ACTIVATIONS: Final = {"RELU": Activation.RELU, "RELU6": Activation.RELU6, "RELU_N1_TO_1": Activation.RELU_N1_TO_1}

LARGEST_SIGNAL: Final = 9999.0
"""From about here on numbers mask others (−10000, −1e9, float32's least), and would take all steps of 8 bits for themselves."""

_KEY: Final = "fusedActivationFunction"


def finish(graph: Graph) -> Graph:
    """All passes, in the order in which one makes room for the next."""
    _drop_dead(graph)
    _merge_reshapes(graph)
    _fold_into_weights(graph)
    _sink_factors(graph)
    _fold_before_weights(graph)
    _fuse_activations(graph)
    _drop_dead(graph)
    return graph


def _drop_dead(graph: Graph) -> None:
    """Leave out what leads to no output."""
    wanted = {id(tensor) for _, tensor in graph.outputs}
    kept = []
    for operation in reversed(graph.operations):
        if any(id(tensor) in wanted for tensor in operation.outputs):
            kept.append(operation)
            wanted |= {id(tensor) for tensor in operation.inputs if tensor is not None}
    graph.operations = kept[::-1]


def _merge_reshapes(graph: Graph) -> None:
    producers = graph.producers()
    for operation in graph.operations:
        source = operation.inputs[0]
        while operation.kind == "RESHAPE" and source is not None:
            before = producers.get(id(source))
            if before is None or before.kind != "RESHAPE":
                break
            source = operation.inputs[0] = before.inputs[0]
    _drop_dead(graph)
    _drop_needless_reshapes(graph)


def _drop_needless_reshapes(graph: Graph) -> None:
    """Read a tensor itself where a reshape gives it back its own shape; an output's name needs its own tensor."""
    outputs = {id(tensor) for _, tensor in graph.outputs}
    same: dict[int, Tensor] = {}
    for operation in graph.operations:
        operation.inputs = [None if tensor is None else same.get(id(tensor), tensor) for tensor in operation.inputs]
        source, result = operation.inputs[0], operation.outputs[0]
        if operation.kind == "RESHAPE" and source is not None and source.shape == result.shape and id(result) not in outputs:
            same[id(result)] = source
    _drop_dead(graph)


def _fold_into_weights(graph: Graph) -> None:
    """Layer, then a factor or summand a channel: one layer."""
    for operation in list(graph.operations):
        if operation.kind not in _CHANNEL_AXIS:
            continue
        while operation.options[_KEY] == Activation.NONE:
            follower = _only_consumer(graph, operation.outputs[0])
            if follower is None or follower.kind not in ("MUL", "ADD", "SUB"):
                break
            numbers = _channel_numbers(follower, operation)
            if numbers is None or not _folded(operation, follower.kind, numbers):
                break
            operation.options[_KEY] = follower.options[_KEY]
            operation.outputs = follower.outputs
            graph.operations.remove(follower)


def _only_consumer(graph: Graph, tensor: Tensor) -> Operation | None:
    readers = graph.consumers().get(id(tensor), [])
    if len(readers) != 1 or any(tensor is output for _, output in graph.outputs):
        return None
    return readers[0]


def _channel_numbers(follower: Operation, layer: Operation) -> Array | None:
    """The constant operand as one number a channel, or None where it is none."""
    result = layer.outputs[0]
    left, right = follower.inputs
    assert left is not None
    assert right is not None
    constant = right if left is result else left
    if follower.kind == "SUB" and left is not result:
        return None
    channels = result.shape.sizes[-1]
    if constant.data is None or constant.data.dtype != np.float32 or follower.outputs[0].shape != result.shape:
        return None
    if constant.data.size != 1 and constant.data.shape != (channels,):
        return None
    if not (np.abs(constant.data) <= LARGEST_SIGNAL).all():
        return None
    return np.asarray(np.broadcast_to(constant.data.reshape(-1), [channels]), np.float32)


def _folded(layer: Operation, kind: str, numbers: Array) -> bool:
    """Put the numbers into weights and bias; False where they are not constant."""
    weights, bias = layer.inputs[1], layer.inputs[2]
    if weights is None or weights.data is None or bias is None or bias.data is None:
        return False
    summand = bias.data
    if kind == "MUL":
        shape = [1] * weights.data.ndim
        shape[_CHANNEL_AXIS[layer.kind]] = -1
        layer.inputs[1] = _replaced(weights, weights.data * numbers.reshape(shape))
        summand = summand * numbers
    layer.inputs[2] = _replaced(bias, {"MUL": summand, "ADD": summand + numbers, "SUB": summand - numbers}[kind])
    return True


def _replaced(tensor: Tensor, data: Array) -> Tensor:
    found = np.ascontiguousarray(data, np.float32)
    return Tensor(tensor.name, Shape.fixed(found.shape), found.dtype, found)


def _sink_factors(graph: Graph) -> None:
    """A factor and then a move: the same move and then the factor, which a layer behind it may take."""
    for operation in list(graph.operations):
        if operation.kind != "MUL" or operation.options[_KEY] != Activation.NONE:
            continue
        follower = _only_consumer(graph, operation.outputs[0])
        source, factor = _source_and_factor(operation)
        if follower is None or follower.kind not in ("RESHAPE", "TRANSPOSE") or factor.data is None or factor.data.size != 1:
            continue
        moved = Tensor(f"{source.name}/moved", follower.outputs[0].shape, source.dtype)
        follower.inputs[0] = source
        operation.inputs, operation.outputs, follower.outputs = [moved, factor], follower.outputs, [moved]
        graph.operations.remove(operation)
        graph.operations.insert(graph.operations.index(follower) + 1, operation)


def _source_and_factor(operation: Operation) -> tuple[Tensor, Tensor]:
    """What is computed, and the other operand, of a product."""
    left, right = operation.inputs
    assert left is not None
    assert right is not None
    return (right, left) if left.data is not None else (left, right)


def _fold_before_weights(graph: Graph) -> None:
    """A factor, then layers that read nothing else: layers with the factor in their weights (inputs scaled by 1/255, say)."""
    for operation in list(graph.operations):
        if operation.kind != "MUL" or operation.options[_KEY] != Activation.NONE:
            continue
        source, factor = _source_and_factor(operation)
        layers = graph.consumers().get(id(operation.outputs[0]), [])
        if factor.data is None or source.data is not None or any(operation.outputs[0] is each for _, each in graph.outputs):
            continue
        if source.shape != operation.outputs[0].shape or not all(_takes(layer, operation, factor) for layer in layers):
            continue
        for layer in layers:
            weights = layer.inputs[1]
            assert weights is not None
            assert weights.data is not None
            layer.inputs[0] = source
            layer.inputs[1] = _replaced(weights, weights.data * _along_inputs(factor.data))
        graph.operations.remove(operation)


def _takes(layer: Operation, scaled: Operation, factor: Tensor) -> bool:
    """Whether a layer's weights can take the factor on its input."""
    weights = layer.inputs[1] if layer.kind in _CHANNEL_AXIS else None
    if weights is None or weights.data is None or factor.data is None or layer.inputs[0] is not scaled.outputs[0]:
        return False
    if factor.data.size == 1:
        return True
    axis = _INPUT_AXIS.get(layer.kind)
    return axis is not None and factor.data.shape == (weights.data.shape[axis],) == (scaled.outputs[0].shape.sizes[-1],)


def _along_inputs(factor: Array) -> Array:
    return factor.reshape(-1) if factor.size > 1 else factor.reshape(())


def _fuse_activations(graph: Graph) -> None:
    for operation in list(graph.operations):
        if operation.options.get(_KEY) != Activation.NONE or operation.kind in ("CONCATENATION", "TRANSPOSE_CONV"):
            continue
        follower = _only_consumer(graph, operation.outputs[0])
        if follower is None or follower.kind not in _ACTIVATIONS or operation.outputs[0].dtype != np.float32:
            continue
        operation.options[_KEY] = _ACTIVATIONS[follower.kind]
        operation.outputs = follower.outputs
        graph.operations.remove(follower)
