"""Small convolutional models made by hand, so that a test knows which channels are dead and which weights are large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support.models import IR_VERSION, OPSET

Tensors = dict[str, NDArray[np.float32]]


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Any],
    *,
    x: Sequence[int | str],
    y: Sequence[int | str],
) -> onnx.ModelProto:
    """A model from `x` to `y`, both float32."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(y))],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def separable_tensors(seed: int = 0, *, first: int = 16, second: int = 24, classes: int = 5) -> Tensors:
    """Weights of `separable`: every channel alive."""
    chance = np.random.default_rng(seed)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return np.asarray(chance.normal(size=shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    return {
        "w1": drawn(first, 3, 3, 3), "b1": np.full(first, 0.1, np.float32),
        "wd": drawn(first, 1, 3, 3), "bd": np.full(first, 0.1, np.float32),
        "w2": drawn(second, first, 1, 1), "b2": np.full(second, 0.1, np.float32),
        "w3": drawn(classes, second), "b3": np.zeros(classes, np.float32),
    }  # fmt: skip


def separable(tensors: Tensors, *, pad: int = 1, clip: bool = False) -> onnx.ModelProto:
    """Convolution, depthwise, pointwise, mean, dense, Softmax: `x` float32[?, 3, 8, 8] to `y` float32[?, classes]."""
    pads = [pad] * 4
    channels = len(tensors["wd"])

    def active(before: str, after: str) -> onnx.NodeProto:
        return (
            helper.make_node("Clip", [before, "zero", "six"], [after]) if clip else helper.make_node("Relu", [before], [after])
        )

    limits = {"zero": np.float32(0), "six": np.float32(6)} if clip else {}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", kernel_shape=[3, 3], pads=pads),
        active("c1", "a1"),
        helper.make_node("Conv", ["a1", "wd", "bd"], ["cd"], name="depthwise", kernel_shape=[3, 3], pads=pads, group=channels),
        active("cd", "ad"),
        helper.make_node("Conv", ["ad", "w2", "b2"], ["c2"], name="pointwise", kernel_shape=[1, 1]),
        active("c2", "a2"),
        helper.make_node("GlobalAveragePool", ["a2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="dense", transB=1),
        helper.make_node("Softmax", ["logits"], ["y"], axis=1),
    ]
    return graph_of(nodes, {**tensors, **limits}, x=["n", 3, 8, 8], y=["n", len(tensors["w3"])])


def images(count: int = 16, *, seed: int = 0) -> NDArray[np.float32]:
    """float32[count, 3, 8, 8]."""
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)
