"""Recognises what an exporter took apart and TFLite has as one operation, and drops nodes that lead nowhere. Pure.

So far: the exact GELU, x · ½ · (1 + erf(x / √2)), in the orders in which exporters multiply it, hard swish,
x · hard sigmoid(x), and softmax, exp(x − m) / Σ exp(x − m).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from converters.tflite.source import Node, Prepared

_TOLERANCE: Final = 1e-3


def recognise(prepared: Prepared, *, keep: Sequence[str] = ()) -> list[Node]:
    """The model's nodes with these put together; those that make the tensors `keep`, and what these need."""
    nodes = [node for node in prepared.nodes if node.op != "Constant"]
    finder = _Finder(prepared, nodes, frozenset(keep))
    replaced = {id(last): whole for last, whole in (*finder.gelus(), *finder.hard_swishes(), *finder.softmaxes())}
    return _needed([replaced.get(id(node), node) for node in nodes], keep)


def _needed(nodes: Sequence[Node], keep: Sequence[str]) -> list[Node]:
    wanted, kept = set(keep), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs)
    return kept[::-1]


class _Finder:
    def __init__(self, prepared: Prepared, nodes: Sequence[Node], watched: frozenset[str]) -> None:
        self._prepared = prepared
        self._nodes = nodes
        self._watched = watched
        self._maker = {name: node for node in nodes for name in node.outputs}
        self._readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)

    def gelus(self) -> list[tuple[Node, Node]]:
        """Each GELU's last node, and the one that stands for all."""
        return [found for node in self._nodes if node.op == "Erf" and (found := self._gelu(node))]

    def hard_swishes(self) -> list[tuple[Node, Node]]:
        """Each hard swish's last node, and the one that stands for both."""
        found = []
        for node in self._nodes:
            last = self._next(node.outputs[0], "Mul") if node.op == "HardSigmoid" else None
            if last is None or self._other(last, node.outputs[0]) != node.inputs[0]:
                continue
            alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
            if math.isclose(alpha, 1 / 6, rel_tol=_TOLERANCE) and beta == 0.5:
                found.append((last, Node("HardSwish", last.name, (node.inputs[0],), last.outputs, {})))
        return found

    def softmaxes(self) -> list[tuple[Node, Node]]:
        """Each softmax's last node, and the one that stands for all."""
        return [found for node in self._nodes if node.op in ("Div", "Mul") and (found := self._softmax(node))]

    def _softmax(self, last: Node) -> tuple[Node, Node] | None:
        raised, total = self._maker.get(last.inputs[0]), self._behind_reshapes(last.inputs[1])
        if last.op == "Mul":
            total = self._behind_reshapes(total.inputs[0]) if total is not None and total.op == "Reciprocal" else None
        if raised is None or raised.op != "Exp" or total is None or total.op != "ReduceSum":
            return None
        shape = self._prepared.shapes[raised.outputs[0]]
        axis = self._only_axis(total, len(shape))
        if total.inputs[0] != raised.outputs[0] or axis is None or shape.free[axis]:
            return None
        if self._prepared.shapes[last.inputs[1]] != shape.with_size(axis, 1) or not self._has_axis(axis, len(shape)):
            return None
        source = self._unshifted(raised.inputs[0], axis)
        return last, Node("Softmax", last.name, (source,), last.outputs, {"axis": axis})

    def _behind_reshapes(self, name: str) -> Node | None:
        """Who makes the tensor, before it was given back an axis of size 1."""
        node = self._maker.get(name)
        while node is not None and node.op in ("Reshape", "Unsqueeze", "Identity"):
            node = self._maker.get(node.inputs[0])
        return node

    def _only_axis(self, total: Node, rank: int) -> int | None:
        given = total.attributes.get("axes")
        if given is None and len(total.inputs) > 1:
            given = self._prepared.constants.get(total.inputs[1])
        axes = [] if given is None else np.atleast_1d(np.asarray(given)).tolist()
        return int(axes[0]) % rank if len(axes) == 1 else None

    def _has_axis(self, axis: int, rank: int) -> bool:
        """Whether Softmax can say so: before opset 13 it took all axes from this one on."""
        return self._prepared.opset >= 13 or axis == rank - 1

    def _unshifted(self, name: str, axis: int) -> str:
        """What was shifted, by the same along the axis (its maximum, as a rule), which changes no softmax."""
        node, shape = self._maker.get(name), self._prepared.shapes[name]
        if node is None or node.op != "Sub" or self._prepared.shapes[node.inputs[0]] != shape:
            return name
        shift = self._prepared.shapes[node.inputs[1]]
        at = axis - len(shape) + len(shift)
        return node.inputs[0] if at < 0 or shift.is_unit(at) else name

    def _gelu(self, erf: Node) -> tuple[Node, Node] | None:
        source = self._scaled_source(erf.inputs[0])
        raised = self._next(erf.outputs[0], "Add")
        if source is None or raised is None or not self._is(self._other(raised, erf.outputs[0]), 1.0):
            return None
        first = self._next(raised.outputs[0], "Mul")
        if first is None:
            return None
        last = self._last_product(first, self._other(first, raised.outputs[0]), source)
        if last is None:
            return None
        made = Node("Gelu", last.name, (source,), last.outputs, {"approximate": "none"})
        return last, made

    def _last_product(self, first: Node, factor: str, source: str) -> Node | None:
        """The multiplication that makes x · ½ · (1 + erf) whole, given the other factor of the first one."""
        maker = self._maker.get(factor)
        if maker is not None and maker.op == "Mul" and source in maker.inputs and self._is(self._other(maker, source), 0.5):
            return first
        if factor != source and not self._is(factor, 0.5):
            return None
        second = self._next(first.outputs[0], "Mul")
        if second is None:
            return None
        other = self._other(second, first.outputs[0])
        fits = self._is(other, 0.5) if factor == source else other == source
        return second if fits else None

    def _scaled_source(self, name: str) -> str | None:
        """The tensor that was divided by √2."""
        node = self._maker.get(name)
        if node is None or node.op not in ("Div", "Mul"):
            return None
        constant = math.sqrt(2) if node.op == "Div" else math.sqrt(0.5)
        if self._is(node.inputs[1], constant):
            return node.inputs[0]
        return node.inputs[1] if node.op == "Mul" and self._is(node.inputs[0], constant) else None

    def _next(self, name: str, op: str) -> Node | None:
        """The only reader of a tensor, if it is of this kind."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op == op and name not in self._watched else None

    def _other(self, node: Node, name: str) -> str:
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def _is(self, name: str, value: float) -> bool:
        """Whether the tensor is this number throughout."""
        data = self._prepared.constants.get(name)
        return data is not None and data.size == 1 and math.isclose(float(data.reshape(-1)[0]), value, rel_tol=_TOLERANCE)
