"""Takes out of a file what it says needlessly: attributes that have their operator's default value, zero points of biases.

ONNX's specification defines what is meant where they are absent, so every engine computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from converters.graphs.graph_view import Array, GraphView, has_subgraphs, is_standard

_WINDOWS: Final = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")
_ALONG_AXES: Final = {"strides": 1, "dilations": 1, "pads": 0}
"""What windows have along each axis where nothing is said; ONNX's schemas tell it in prose only."""


def strip_defaults(model: onnx.ModelProto) -> None:
    """Drop, in place, the attributes that say what is meant without them."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for node in model.graph.node:
        if is_standard(node):
            defaults = dict(_defaults(node, opset))
            kept = [each for each in node.attribute if not _is(each, defaults.get(each.name))]
            del node.attribute[:]
            node.attribute.extend(kept)


def _defaults(node: onnx.NodeProto, opset: int) -> Iterator[tuple[str, Any]]:
    if onnx.defs.has(node.op_type, opset, ""):
        for name, told in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
            if told.default_value.name and not told.required:
                yield name, helper.get_attribute_value(told.default_value)
    if node.op_type in _WINDOWS:
        yield from _ALONG_AXES.items()


def _is(attribute: onnx.AttributeProto, default: Any) -> bool:  # noqa: ANN401  # of any attribute's type
    """Whether an attribute has this value; a number stands for a list of any length of it."""
    if default is None or attribute.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH):
        return False
    value = helper.get_attribute_value(attribute)
    alike = isinstance(default, int | float) and isinstance(value, list)
    return bool(all(each == default for each in value) if alike else value == default)


def strip_zero_points(model: onnx.ModelProto) -> None:
    """Drop, in place, the zero points of 32-bit biases, which are 0: one a channel, as large as the bias itself.

    Those of 8-bit weights stay: without them ONNX Runtime 1.20 fails, and later ones compute dense layers in float.
    """
    if has_subgraphs(model):  # they may read a constant too, unseen from here
        return
    view = GraphView(model)
    for node in view.nodes:
        if node.op_type == "DequantizeLinear" and _is_bias(view.operand(node, 0)) and _is_zero(view.operand(node, 2)):
            del node.input[2]
    drop_unread(model.graph)


def _is_bias(values: Array | None) -> bool:
    return values is not None and values.dtype == np.int32


def _is_zero(values: Array | None) -> bool:
    return values is not None and not values.any()


def drop_unread(graph: onnx.GraphProto) -> None:
    """Drop, in place, the constants that no node reads and that are no output."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
