"""Recognises what an exporter took apart and TFLite has as one operation, and drops nodes that lead nowhere. Pure.

So far: the exact GELU, x · ½ · (1 + erf(x / √2)), in the orders in which exporters multiply it, and hard swish,
x · hard sigmoid(x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from converters.tflite.source import Node, Prepared

_TOLERANCE: Final = 1e-3


def recognise(prepared: Prepared, *, keep: Sequence[str] = ()) -> list[Node]:
    """The model's nodes with GELUs put together; those that make the tensors `keep`, and what these need."""
    nodes = [node for node in prepared.nodes if node.op != "Constant"]
    finder = _Finder(prepared, nodes, frozenset(keep))
    replaced = {id(last): whole for last, whole in (*finder.gelus(), *finder.hard_swishes())}
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
