"""Matrix products: FULLY_CONNECTED where the right one is constant, BATCH_MATMUL else. Weights are transposed here."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import FLOAT, Call, Value
from converters.tflite.graph import Activation, Array, Options, Tensor
from converters.tflite.operators.elementwise import combine
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Layout, Shape, identity


def gemm(call: Call) -> Value:
    """Gemm: alpha and beta go into weights and bias."""
    left, right = call.value(0), call.value(1)
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    if call.attribute("transA", 0):
        left = _turned(call, left)
    if right.tensor.data is None:
        return _added(call, _product(call, left, right if not call.attribute("transB", 0) else _turned(call, right)))
    weights = right.tensor.data if call.attribute("transB", 0) else right.tensor.data.T
    bias = _bias(call, len(weights), beta)
    made = _fully_connected(call, left, weights * np.float32(alpha), bias)
    return made if bias is not None or not call.has(2) else _plus(call, made, beta)


def matmul(call: Call) -> Value:
    """MatMul; by a constant matrix it is a layer without a bias, which a following Add may bring."""
    left, right = call.value(0), call.value(1)
    data = right.tensor.data
    if data is not None and data.ndim == 2 and left.rank >= 2:
        return _fully_connected(call, left, data.T, None)
    return _product(call, left, right)


def _fully_connected(call: Call, left: Value, weights: Array, bias: Array | None) -> Value:
    """`weights` float32[results, features]."""
    if weights.dtype != np.float32:
        raise call.unsupported(f"its weights are {weights.dtype}; export the model as float32")
    if left.shuffle is not None:
        weights, stored = weights[:, left.shuffle], left.tensor
        layout: Layout = identity(2)
    else:
        layout = _rows(left)
        stored = call.emission.stored(left, layout)
    inputs = [
        stored,
        call.emission.constant(np.ascontiguousarray(weights, np.float32), f"{call.node.inputs[1]}/matrix"),
        call.emission.constant(np.zeros(len(weights), np.float32) if bias is None else bias, f"{call.node.name}/bias"),
    ]
    shape = call.result_shape().stored(layout)
    keep = len(layout) > 2
    made = call.emission.add(
        "FULLY_CONNECTED", inputs, shape, fusedActivationFunction=Activation.NONE, keepNumDims=keep, weightsFormat=0
    )
    return call.result(made, layout)


def _rows(value: Value) -> Layout:
    """The value's own layout where its last logical axis is stored last, else ONNX's."""
    return value.layout if value.layout[-1:] == (value.rank - 1,) else identity(value.rank)


def _product(call: Call, left: Value, right: Value) -> Value:
    """Both computed at run time, or a stack of constant matrices. A turned operand stays as it is stored."""
    inputs, turned = [], []
    for value in (left, right):
        swapped = (*range(value.rank - 2), value.rank - 1, value.rank - 2)
        as_is = value.shuffle is None and not value.is_constant and value.layout == swapped
        turned.append(as_is)
        inputs.append(value.tensor if as_is else call.emission.plain(value))
    shape = call.result_shape()
    options: Options = {"adjX": turned[0], "adjY": turned[1], "asymmetricQuantizeInputs": False}
    return call.result(call.emission.add("BATCH_MATMUL", inputs, shape, dtype=FLOAT, **options), identity(len(shape)))


def _turned(call: Call, value: Value) -> Value:
    """A matrix with its axes exchanged: only called otherwise."""
    if value.shuffle is not None:
        value = call.emission.rearranged(value, identity(2))
    shape = Shape(value.shape.sizes[::-1], value.shape.free[::-1])
    return Value(shape, value.tensor, tuple(None if axis is None else 1 - axis for axis in value.layout))


def _bias(call: Call, results: int, beta: float) -> Array | None:
    """Gemm's third operand as float32[results], or None where it is no such thing."""
    if not call.has(2):
        return None
    data = call.value(2).tensor.data
    if data is None or data.size not in (1, results) or (data.ndim == 2 and data.shape[0] != 1):
        return None
    return np.ascontiguousarray(np.broadcast_to(data.reshape(-1) * np.float32(beta), [results]))


def _added(call: Call, made: Value) -> Value:
    """Alpha · made + beta · third operand."""
    alpha = float(call.attribute("alpha", 1.0))
    if alpha != 1:
        made = combine(call.emission, "MUL", [made, _number(call, alpha)], made.shape)
    return _plus(call, made, float(call.attribute("beta", 1.0))) if call.has(2) else made


def _plus(call: Call, made: Value, beta: float) -> Value:
    third = call.value(2)
    if beta != 1:
        third = combine(call.emission, "MUL", [third, _number(call, beta)], third.shape)
    return combine(call.emission, "ADD", [made, third], made.shape)


def _number(call: Call, value: float) -> Value:
    tensor: Tensor = call.emission.scalar(value)
    return Value(tensor.shape, tensor, ())


TABLE: Final[Table] = {"Gemm": gemm, "MatMul": matmul}
