"""Takes ONNX operators apart that TFLite has no form of, into ONNX operators that it has: ONNX in, ONNX out. Pure.

A rule (`RULES`, by operator) gets a `Site` and returns the names of tensors that take the place of the node's results, or None
where the node can stay. A rule may count on sizes and constants that are known; where it misses one (`NotKnown`) the node is
left for a later round, after more was folded, or for the emitter, which refuses it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx
from onnx import helper

from converters.tflite.rewriting import algebra, definitions, functions, images, places, sampling, signals, tables, volumes
from converters.tflite.rewriting.site import Known, NotKnown, Site

Rule = Callable[[Site], Sequence[str] | str | None]

RULES: Final[Mapping[str, Rule]] = {
    **algebra.RULES,
    **definitions.RULES,
    **functions.RULES,
    **images.RULES,
    **places.RULES,
    **sampling.RULES,
    **signals.RULES,
    **tables.RULES,
    **volumes.RULES,
}

NEEDS: Final[Mapping[str, str]] = {
    "CenterCropPad": "a constant shape",
    "DFT": "a constant length, the axis' own, and no one-sided inverse",
    "Einsum": "each letter once in an operand, and no axis that is broadcast",
    "GridSample": "images, the mode nearest or linear, and no reflection",
    "OneHot": "a constant depth",
    "STFT": "a real signal, and a constant step, window and length",
    "Trilu": "a constant diagonal",
    "ai.onnx.ml.Imputer": "float32 and imputed_value_floats",
    "ai.onnx.ml.LinearClassifier": "whole numbers as labels, or none read, and scores as they are, LOGISTIC or SOFTMAX",
    "ai.onnx.ml.LinearRegressor": "the answers as they are",
    "ai.onnx.ml.Normalizer": "the norm L1 or L2",
}
"""What an operator must have that the emitter has no form of its own for; all others only sizes that are known."""


def taken_apart(model: onnx.ModelProto, shapes: onnx.GraphProto) -> onnx.ModelProto | None:
    """The model with all nodes replaced that a rule replaces, or None where there is none. `shapes`: its graph, inferred."""
    known = Known(model, shapes)
    sites = [_replaced(known, node) for node in model.graph.node]
    if not any(sites):
        return None
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:]
    if not any(entry.domain in ("", "ai.onnx") for entry in found.opset_import):
        found.opset_import.append(helper.make_opsetid("", known.opset))
    for node, site in zip(model.graph.node, sites, strict=True):
        found.graph.node.extend([node] if site is None else site.nodes)
        found.graph.initializer.extend([] if site is None else site.constants)
    return found


def _replaced(known: Known, node: onnx.NodeProto) -> Site | None:
    rule = RULES.get(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
    if rule is None:
        return None
    site = Site(known, node)
    try:
        results = rule(site)
    except NotKnown:
        return None
    if results is None:
        return None
    for ours, theirs in zip([results] if isinstance(results, str) else results, node.output, strict=False):
        if ours and theirs:
            site.nodes.append(helper.make_node("Identity", [ours], [theirs], name=f"{theirs}/result"))
    return site
