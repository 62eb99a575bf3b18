"""Which nodes an int8 model suffers from: the noise of every activation, float against int8, in one run of each.

A node is blamed for the noise that its output has beyond that of its inputs. Ranking is pure; `node_noise` runs the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from converters.graph_view import GraphView
from converters.observe import Batch, observe
from runtime import parity

_LIMIT_DB: Final = parity.SQNR_LIMIT_DB


@dataclass(frozen=True)
class NodeNoise:
    """One node: its output's signal-to-noise ratio in dB, and how much noise (a share of the signal) came in here."""

    node: str
    operator: str
    sqnr_db: float
    added: float


def node_noise(before: onnx.ModelProto, after: onnx.ModelProto, batches: Iterable[Batch]) -> list[NodeNoise]:
    """Every node of `before` whose output `after` computes too, worst first. Only the first batch is looked at.

    Raises `RecipeFailed` where a model does not run.
    """
    first = next(iter(batches))
    view = GraphView(before)
    there = {name for node in after.graph.node for name in node.output}
    names = [node.output[0] for node in view.nodes if node.output[0] in there]
    one, other = ({} if not names else next(observe(model, names, [first])) for model in (before, after))
    ratios = {
        name: parity.sqnr_db(one[name], other[name])
        for name in names
        if one[name].dtype == np.float32 and one[name].shape == other[name].shape
    }
    return rank(view.nodes, ratios)


def rank(nodes: Sequence[onnx.NodeProto], sqnr_db: Mapping[str, float]) -> list[NodeNoise]:
    """The nodes whose outputs were measured, by the noise that each adds, most first; ties in order of computation."""
    found = []
    for node in nodes:
        name = node.output[0]
        if name in sqnr_db:
            came = max((_share(sqnr_db.get(each, _LIMIT_DB)) for each in node.input), default=0.0)
            found.append(NodeNoise(node.name, node.op_type, sqnr_db[name], max(0.0, _share(sqnr_db[name]) - came)))
    return sorted(found, key=lambda each: -each.added)


def _share(sqnr_db: float) -> float:
    """Noise energy over signal energy."""
    return float(10 ** (-sqnr_db / 10))
