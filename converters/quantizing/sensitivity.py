"""Which nodes an int8 model suffers from: the noise of every activation, float against int8, in one run of each.

A node is blamed for the noise that its output has beyond that of its inputs. Ranking is pure; `node_noise` runs the models,
sample by sample, and keeps sums of squares only: the activations of one sample of a picture model may be hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from converters.graphs.graph_view import GraphView
from converters.graphs.observe import Batch, observe, pieces
from runtime import parity

_SAMPLES: Final = 8


@dataclass(frozen=True)
class NodeNoise:
    """One node: its output's signal-to-noise ratio in dB, and how much noise (a share of the signal) came in here."""

    node: str
    operator: str
    sqnr_db: float
    added: float


def node_noise(before: onnx.ModelProto, after: onnx.ModelProto, batches: Iterable[Batch]) -> list[NodeNoise]:
    """Every node of `before` whose output `after` computes too, worst first. Only the first samples are looked at.

    Raises `RecipeFailed` where a model does not run.
    """
    view, quantized = GraphView(before), GraphView(after)
    there = {name for node in quantized.nodes for name in node.output}
    places = {node.output[0]: _unpacked(quantized, node.output[0]) for node in view.nodes if node.output[0] in there}
    if not places:
        return []
    some = list(pieces(batches, 1, at_most=_SAMPLES))
    float_runs, int8_runs = observe(before, list(places), some), observe(after, list(places.values()), some)
    signals, noises = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0)
    for _ in some:
        one, other = next(float_runs), next(int8_runs)
        for name, place in places.items():
            if name in signals and one[name].dtype == np.float32 and one[name].shape == other[place].shape:
                signal, noise = parity.energies(one[name], other[place])
                signals[name], noises[name] = signals[name] + signal, noises[name] + noise
            else:
                signals.pop(name, None)
        del one, other  # before the next run makes as much again
    return rank(view.nodes, {name: parity.ratio_db(signal, noises[name]) for name, signal in signals.items()})


def _unpacked(view: GraphView, value: str) -> str:
    """Where a value stands as the nodes behind it see it: packed into 8 bits and out again.

    Before that it may be what a ReLU has not cut off yet: the packing does it instead.
    """
    for reader in view.readers(value):
        if reader.node.op_type == "QuantizeLinear" and reader.position == 0:
            for packed in view.readers(reader.node.output[0]):
                if packed.node.op_type == "DequantizeLinear":
                    return str(packed.node.output[0])
    return value


def rank(nodes: Sequence[onnx.NodeProto], sqnr_db: Mapping[str, float]) -> list[NodeNoise]:
    """The nodes whose outputs were measured, by the noise that each adds, most first; ties in order of computation."""
    found = []
    shares: dict[str, float] = {}
    for node in nodes:
        came = max((shares.get(each, 0.0) for each in node.input), default=0.0)
        for name in node.output:  # what was not measured passes on what came in
            shares[name] = _share(sqnr_db[name]) if name in sqnr_db else came
        name = node.output[0]
        if name in sqnr_db:
            found.append(NodeNoise(node.name, node.op_type, sqnr_db[name], max(0.0, shares[name] - came)))
    return sorted(found, key=lambda each: -each.added)


def _share(sqnr_db: float) -> float:
    """Noise energy over signal energy."""
    return float(10 ** (-sqnr_db / 10))
