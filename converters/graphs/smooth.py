"""SmoothQuant: a product's weights take over a part of what makes its activations hard to store in 8 bits. Exact in float.

Activations of transformers have a few channels that are many times larger than the others. Dividing each input channel by a
factor, and multiplying its row of weights by it, changes no product, and both sides then fit 8 bits. Products that share one
input share its factors, so that one division serves them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.graphs.graph_view import GraphView, Reader, attributes
from converters.graphs.observe import Batch, observe
from converters.graphs.terse import drop_unread

_LEAST: Final = 1e-5
_MOST: Final = 1e4


def factors(activations: NDArray[np.float64], weights: NDArray[np.float64], alpha: float) -> NDArray[np.float32]:
    """One factor an input channel, from the largest magnitudes of its activations and of its weights: float32[channels].

    A channel that was never active, or has no weights, is left alone.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = activations**alpha / weights ** (1 - alpha)
    usable = (activations > 0) & (weights > 0) & np.isfinite(found)
    return np.where(usable, np.clip(found, _LEAST, _MOST), 1.0).astype(np.float32)


def smooth(model: onnx.ModelProto, batches: Sequence[Batch], alpha: float) -> int:
    """Smooth, in place, the inputs of all products with constant weights; say how many inputs that were."""
    view = GraphView(model)
    groups: dict[str, list[Reader]] = defaultdict(list)
    for node in view.nodes:
        if _fits(view, node):
            groups[node.input[0]].append(Reader(node, 0))
    largest = _largest(model, list(groups), batches)
    for value, readers in groups.items():
        rows = np.max([np.abs(_rows(view, reader.node)).max(axis=1) for reader in readers], axis=0)
        if value in largest and largest[value].shape == rows.shape:
            _apply(model, view, value, readers, factors(largest[value], rows.astype(np.float64), alpha))
    drop_unread(model.graph)
    return len(largest)


def _fits(view: GraphView, node: onnx.NodeProto) -> bool:
    weights = view.operand(node, 1)
    if weights is None or weights.ndim != 2 or weights.dtype != np.float32 or view.constant(node.input[0]) is not None:
        return False
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes(node).get("transA"))


def _rows(view: GraphView, node: onnx.NodeProto) -> NDArray[np.float32]:
    """A product's weights [inputs, outputs]."""
    weights = view.operand(node, 1)
    assert weights is not None
    return weights.T if node.op_type == "Gemm" and attributes(node).get("transB") else weights


def _largest(model: onnx.ModelProto, values: Sequence[str], batches: Sequence[Batch]) -> dict[str, NDArray[np.float64]]:
    given = {value.name for value in model.graph.input}
    found: dict[str, NDArray[np.float64]] = {}
    for shown in observe(model, [name for name in values if name not in given], batches):
        for name, array in shown.items():
            seen = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0).astype(np.float64)
            found[name] = np.maximum(found.get(name, 0.0), seen)
    return found


def _apply(model: onnx.ModelProto, view: GraphView, value: str, readers: Sequence[Reader], scale: NDArray[np.float32]) -> None:
    graph, name = model.graph, f"{value}/smooth"
    graph.initializer.append(numpy_helper.from_array(1 / scale, f"{name}/scale"))
    at = min(list(graph.node).index(reader.node) for reader in readers)
    for number, reader in enumerate(readers):
        rows = _rows(view, reader.node) * scale[:, None]
        turned = reader.node.op_type == "Gemm" and attributes(reader.node).get("transB")
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows.T if turned else rows), f"{name}/{number}"))
        reader.node.input[0], reader.node.input[1] = name, f"{name}/{number}"
    graph.node.insert(at, helper.make_node("Mul", [value, f"{name}/scale"], [name], name=name))
