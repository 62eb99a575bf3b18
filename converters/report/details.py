"""What the report tells beyond figures: classes that changed, samples that suffered most, layers before and after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from converters.graphs.graph_view import GraphView
from converters.judging.evaluation import Outputs, Quality
from converters.judging.trial import Reference, Trial
from converters.quantizing.sensitivity import NodeNoise
from converters.report.parity import ClassChange, LayerReport, NodeReport, ScoreReport, WorstSample
from runtime import parity

_WORST: Final = 8
_NODES: Final = 12
_LAYERS: Final = 400


def score_change(trial: Trial, reference: Reference) -> ScoreReport | None:
    """The metric that is not accuracy, where there is one."""
    quality = trial.held_out
    if quality is None or quality.score is None or reference.metric is None:
        return None
    before = reference.own().score or 0.0
    told = ScoreReport(metric=reference.metric.name, value=round(quality.score, 5), change=round(quality.score - before, 5))
    if reference.metric.change is None or trial.outputs is None:
        return told
    sure = reference.metric.change(dict(trial.outputs), reference.parts.held_out, dict(reference.held_out))
    return msgspec.structs.replace(told, change_low=round(sure.low, 5), change_high=round(sure.high, 5))


def class_changes(before: Quality | None, after: Quality | None, labels: NDArray[np.int64] | None) -> tuple[ClassChange, ...]:
    """Each class of which some sample turned right or wrong, the one that lost most first."""
    if before is None or after is None or before.right is None or after.right is None or labels is None:
        return ()
    found = []
    for label in np.unique(labels):
        of = labels == label
        worse, better = int((before.right & ~after.right)[of].sum()), int((after.right & ~before.right)[of].sum())
        if worse or better:
            right = float(before.right[of].mean())
            found.append(
                ClassChange(label=int(label), samples=int(of.sum()), before=right, newly_wrong=worse, newly_right=better)
            )
    return tuple(sorted(found, key=lambda each: (each.newly_right - each.newly_wrong, each.label)))


def worst_samples(trial: Trial, reference: Reference) -> tuple[WorstSample, ...]:
    """Held-out samples whose answers changed, then those with the most noise; by their place among the held-out ones."""
    outputs = trial.outputs
    if outputs is None or trial.recipe.precision == "float32":
        return ()
    name = reference.classes or next(iter(reference.held_out))
    wanted, got = reference.held_out[name], outputs[name]
    changed, noise = _changed(reference, outputs), _noise(wanted, got)
    order = np.lexsort((np.arange(len(noise)), -noise, ~changed))[:_WORST]
    labels, classes = reference.parts.held_out.labels, [parity.classes(each) for each in (wanted, got)]
    told = reference.classes is not None
    return tuple(
        WorstSample(
            index=int(at),
            label=None if labels is None or not told else int(labels[at]),
            wanted=None if classes[0] is None or not told else int(classes[0][at]),
            got=None if classes[1] is None or not told else int(classes[1][at]),
            sqnr_db=round(parity.sqnr_db(wanted[at], got[at]), 1),
        )
        for at in order
        if noise[at] > 0 or changed[at]
    )


def _changed(reference: Reference, outputs: Outputs) -> NDArray[np.bool_]:
    count = len(reference.parts.held_out)
    if reference.classes is None:
        return np.zeros(count, bool)
    before, after = (parity.classes(each[reference.classes]) for each in (reference.held_out, outputs))
    return np.zeros(count, bool) if before is None or after is None else before != after


def _noise(wanted: NDArray[Any], got: NDArray[Any]) -> NDArray[np.float64]:
    """Each sample's share of noise in its answer."""
    parts = [parity.energies(*pair) for pair in zip(wanted, got, strict=True)]
    return np.array([noise / max(signal, 1e-30) for signal, noise in parts])


def nodes(noise: Sequence[NodeNoise]) -> tuple[NodeReport, ...]:
    """The nodes at which most noise comes in."""
    return tuple(
        NodeReport(node=each.node, operator=each.operator, sqnr_db=round(each.sqnr_db, 1))
        for each in noise[:_NODES]
        if each.added > 0
    )


def layers(before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[LayerReport, ...]:
    """Every layer with weights, as given and as it is without dead channels; empty where the two do not match one to one."""
    one, other = _weights(before), _weights(after)
    kinds = [[kind for kind, _ in each] for each in (one, other)]
    if len(one) > _LAYERS or kinds[0] != kinds[1]:
        return ()
    return tuple(
        LayerReport(operator=kind, given=shape, kept=kept) for (kind, shape), (_, kept) in zip(one, other, strict=True)
    )


_KINDS: Final = {"Gemm": "dense", "MatMul": "dense", "Gather": "table", "Conv": "convolution", "ConvTranspose": "transposed"}


def _weights(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...]]]:
    view, found = GraphView(model), []
    for node in view.nodes:
        values = view.operand(node, 0 if node.op_type == "Gather" else 1) if node.op_type in _KINDS else None
        if values is not None and values.ndim > 1:
            found.append((_KINDS[node.op_type], tuple(int(size) for size in values.shape)))
    return found
