"""Removes channels that answer the same whatever the input is: their constant goes into the next layer's bias. No training.

A channel goes only where it is constant at every layer that sums over it, only where its constant is zero or no window sees a
border's padding, and only together with all channels that meet it in a sum. Layers keep a multiple of four channels, which
engines' blocked kernels want, and never none. Pure but for the model, changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.graphs.channel_flow import Channels, Cut, End, Flow, bias_of_matmul
from converters.graphs.graph_view import Array, GraphView, Reader, output_axis
from converters.graphs.terse import drop_unread

MULTIPLE: Final = 4

_NOISE: Final = 2.0**-24
"""What is smaller than this share of a value's largest element is lost in float32 sums with it."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Removed:
    """What one layer lost."""

    layer: str
    channels: int
    of: int


def remove_dead_channels(model: onnx.ModelProto, largest: Mapping[str, float]) -> list[Removed]:
    """Change `model` in place, whose inner shapes are inferred; say what each layer lost.

    `largest` holds the largest magnitudes that samples showed, by value; channels that differ by less than float32 can carry
    beside them then count as constant, as long as inner values stay within 1000 times of what was seen. Empty: only what no
    input can change counts.
    """
    view = GraphView(model)
    channels = Flow(view, largest).channels()
    kept = _keep(channels, _dead(channels, largest))
    editor = _Editor(model, view)
    for end in channels.ends:
        editor.end(end, kept[end.lane.ids[end.lane.columns]], _constant(end, largest)[1][end.lane.columns])
    for cut in channels.cuts:
        editor.cut(cut, kept[cut.ids])
    removed = []
    for producer in channels.producers:
        if not kept[producer.ids].all():
            editor.producer(producer.node, kept[producer.ids])
            lost = int((~kept[producer.ids]).sum())
            removed.append(Removed(producer.node.name or producer.node.output[0], lost, len(producer.ids)))
    editor.finish()
    return removed


def _dead(channels: Channels, largest: Mapping[str, float]) -> Mask:
    """Which channels are constant at every end, with a constant that each end can take into its bias."""
    dead = np.zeros(channels.count, bool)
    for end in channels.ends:
        dead[end.lane.ids] = True
    for ids in channels.held:
        dead[ids] = False
    for end in channels.ends:
        still, values = _constant(end, largest)
        dead[end.lane.ids] &= still & (end.foldable | (values == 0))
    return dead


def _constant(end: End, largest: Mapping[str, float]) -> tuple[Mask, NDArray[np.float64]]:
    """Which channels of an end's lane are constant, and their values."""
    return end.lane.interval.constant(_NOISE * largest.get(end.lane.value, 0.0))


def _keep(channels: Channels, dead: Mask) -> Mask:
    """The living channels and all that are bound to them, every layer filled up to a multiple of `MULTIPLE` with dead ones."""
    kept = ~dead
    while True:
        before = int(kept.sum())
        for one, other in channels.bonds:
            kept[one] = kept[other] = kept[one] | kept[other]
        for producer in channels.producers:
            _fill(kept, producer.ids)
        if int(kept.sum()) == before:
            return kept


def _fill(kept: Mask, ids: NDArray[np.int64]) -> None:
    living = int(kept[ids].sum())
    wanted = min(len(ids), max(1, -(-living // MULTIPLE)) * MULTIPLE)
    kept[ids[~kept[ids]][: wanted - living]] = True


class _Editor:
    """Changes constants of one model. Each place gets a copy of its own, so that constants with several readers stay right."""

    def __init__(self, model: onnx.ModelProto, view: GraphView) -> None:
        self._graph = model.graph
        self._view = view
        self._changed: dict[tuple[str, int], Array] = {}

    def finish(self) -> None:
        """Put the changed constants into the graph, and drop what nothing reads any more."""
        for (output, position), values in self._changed.items():
            node = self._view.maker(output)
            assert node is not None
            name = f"{output}/{position}"
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
            node.input.extend([""] * (position + 1 - len(node.input)))
            node.input[position] = name
        drop_unread(self._graph)
        if self._changed:
            del self._graph.value_info[:]

    def _value(self, node: onnx.NodeProto, position: int) -> Array | None:
        changed = self._changed.get((node.output[0], position))
        return self._view.operand(node, position) if changed is None else changed

    def _change(self, node: onnx.NodeProto, position: int, change: Callable[[Array], Array]) -> None:
        values = self._value(node, position)
        if values is not None:
            self._changed[node.output[0], position] = change(values)

    def producer(self, node: onnx.NodeProto, kept: Mask) -> None:
        """Take the outputs that are not `kept` out of a layer."""
        self._change(node, 1, lambda values: np.compress(kept, values, axis=output_axis(node)))
        self._change(node, 2, lambda values: values if values.size == 1 else np.compress(kept, values, axis=-1))

    def cut(self, cut: Cut, kept: Mask) -> None:
        """Take what belongs to positions that are not `kept` out of a constant on the way."""
        axis = cut.axis
        if kept.all():
            return
        if axis is None:
            width = int(kept.sum())
            self._change(cut.node, cut.position, lambda target: np.array([target[0], width], np.int64))
        else:
            self._change(cut.node, cut.position, lambda values: np.compress(kept, values, axis=axis))
            _set_groups(cut.node, int(kept.sum()))

    def end(self, end: End, kept: Mask, values: NDArray[np.float64]) -> None:
        """Take the inputs that are not `kept` out of a layer; `values`, their constants, go into its bias."""
        node = end.node
        weights = self._value(node, 1)
        if kept.all() or weights is None:
            return
        axis = 1 - output_axis(node)
        gone = np.compress(~kept, weights, axis=axis).astype(np.float64)
        summed = np.moveaxis(gone, axis, 0).sum(axis=tuple(range(2, weights.ndim)))
        shift = values[~kept] @ summed
        self._change(node, 1, lambda matrix: np.compress(kept, matrix, axis=axis))
        if shift.any():
            self._shift(node, shift)

    def _shift(self, node: onnx.NodeProto, shift: NDArray[np.float64]) -> None:
        """Add to a layer's bias, which it may not have yet. A MatMul's stands in the Add behind it."""
        place = bias_of_matmul(self._view, node) if node.op_type == "MatMul" else Reader(node, 2)
        assert place is not None
        bias = self._value(place.node, place.position)
        before = np.zeros(1, np.float64) if bias is None else bias.astype(np.float64)
        self._changed[place.node.output[0], place.position] = (before.reshape(-1) + shift).astype(np.float32)


def _set_groups(node: onnx.NodeProto, groups: int) -> None:
    """A depthwise layer has as many groups as channels."""
    for attribute in node.attribute:
        if attribute.name == "group":
            attribute.i = groups
