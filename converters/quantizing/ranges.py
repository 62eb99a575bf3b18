"""Ranges of activations for int8: what the samples showed, with outliers cut where that costs less than it saves.

Two passes over the samples: extremes, then a histogram of each value. No more than a histogram is ever kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from converters.graphs.observe import Batch, observe, pieces
from converters.recipe import Clipping

BINS: Final = 2048
PERCENTILE: Final = 99.99
_ENOUGH: Final = 2**20
"""Of so many elements a histogram says where 99.99 % of them lie: those of later samples are not counted."""
_STEPS: Final = 255
_AT_ONCE: Final = 8
_SHARES: Final = np.linspace(0.3, 1.0, 36)
"""Parts of the whole range that are tried for the least squared error."""

Range = tuple[float, float]


class Ranges:
    """What the samples show of a model's values. Each pass over the samples is made once, when it is first needed."""

    def __init__(self, model: onnx.ModelProto, batches: Callable[[], Iterable[Batch]]) -> None:
        self._model = model
        self._batches = batches
        self._seen: dict[str, Range] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}

    def of(self, values: Sequence[str], clipping: Clipping) -> dict[str, Range]:
        """The range of each value that is float32 and varies. Raises `RecipeFailed` where the model does not run."""
        fresh = [name for name in values if name not in self._seen]
        self._seen |= dict.fromkeys(fresh, (np.inf, -np.inf)) | extremes(self._model, fresh, self._batches())
        varying = {name: self._seen[name] for name in values if self._seen[name][1] > self._seen[name][0]}
        if clipping == "minmax":
            return varying
        uncounted = [name for name in varying if name not in self._counts]
        self._counts |= _histograms(self._model, {name: varying[name] for name in uncounted}, self._batches())
        return {name: clip(self._counts[name], each, clipping) for name, each in varying.items()}


def extremes(model: onnx.ModelProto, values: Sequence[str], batches: Iterable[Batch]) -> dict[str, Range]:
    """The least and the largest element of each value that is float32.

    Found inside the graph where the type is known, so that nothing large is handed out.
    """
    reduced = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in (*reduced.graph.value_info, *reduced.graph.output)}
    given = [value.name for value in model.graph.input if value.name in values]
    inner = [name for name in values if types.get(name) == onnx.TensorProto.FLOAT and name not in given]
    unknown = [name for name in values if name not in types and name not in given]
    ends = {name: (f"{name}/least", f"{name}/largest") for name in inner}
    for name, (least, largest) in ends.items():
        reduced.graph.node.append(helper.make_node("ReduceMin", [name], [least], keepdims=0))
        reduced.graph.node.append(helper.make_node("ReduceMax", [name], [largest], keepdims=0))
    found: dict[str, Range] = {}
    for batch, shown in _beside(batches, reduced, [*itertools.chain(*ends.values()), *unknown]):
        seen = {name: (shown[least], shown[largest]) for name, (least, largest) in ends.items()}
        seen |= {name: (batch[name], batch[name]) for name in given} | {name: (shown[name], shown[name]) for name in unknown}
        for name, (low, high) in seen.items():
            if low.dtype == np.float32 and low.size:
                before = found.get(name, (np.inf, -np.inf))
                found[name] = (min(before[0], float(low.min())), max(before[1], float(high.max())))
    return found


def _histograms(model: onnx.ModelProto, ranges: Mapping[str, Range], batches: Iterable[Batch]) -> dict[str, NDArray[np.int64]]:
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    given = {value.name for value in model.graph.input}
    inner = [name for name in ranges if name not in given]
    for batch, shown in _beside(pieces(batches, _AT_ONCE), model, inner):
        for name, span in ranges.items():
            if counts[name].sum() < _ENOUGH:
                counts[name] += _counted(batch[name] if name in given else shown[name], span)
    return counts


def _counted(values: NDArray[np.float32], span: Range) -> NDArray[np.int64]:
    """How many values, all within `span`, lie in each of its `BINS` equal parts: five times as fast as numpy's histogram."""
    places = np.subtract(values.reshape(-1), span[0], dtype=np.float64)
    places *= BINS / (span[1] - span[0])
    return np.bincount(np.clip(places, 0, BINS - 1).astype(np.intp), minlength=BINS)


def _beside(batches: Iterable[Batch], model: onnx.ModelProto, names: Sequence[str]) -> Iterator[tuple[Batch, Batch]]:
    """Each batch and what the model makes of it."""
    ahead, behind = itertools.tee(batches)
    return zip(behind, observe(model, names, ahead) if names else itertools.repeat({}), strict=False)


def clip(counts: NDArray[np.int64], seen: Range, clipping: Clipping) -> Range:
    """The range to quantize, within `seen` and around zero where that is inside; from counts of equal bins over `seen`."""
    if clipping == "minmax" or not counts.sum():
        return seen
    return _percentile(counts, seen) if clipping == "percentile" else _least_error(counts, seen)


def _percentile(counts: NDArray[np.int64], seen: Range) -> Range:
    edges = np.linspace(*seen, len(counts) + 1)
    share = np.cumsum(counts) / counts.sum()
    cut = (100 - PERCENTILE) / 100
    low = edges[int(np.searchsorted(share, cut, side="right"))] if seen[0] < 0 else seen[0]
    high = edges[int(np.searchsorted(share, 1 - cut)) + 1]
    return _around_zero(float(low), float(high), seen)


def _least_error(counts: NDArray[np.int64], seen: Range) -> Range:
    middles = (np.linspace(*seen, len(counts) + 1)[:-1] + np.linspace(*seen, len(counts) + 1)[1:]) / 2
    candidates = [_around_zero(seen[0] * share, seen[1] * share, seen) for share in _SHARES]
    errors = [_error(counts, middles, candidate) for candidate in candidates]
    return candidates[int(np.argmin(errors))]


def _error(counts: NDArray[np.int64], middles: NDArray[np.float64], candidate: Range) -> float:
    low, high = min(candidate[0], 0.0), max(candidate[1], 0.0)
    step = (high - low) / _STEPS
    rounded = np.clip(np.rint((middles - low) / step), 0, _STEPS) * step + low
    return float(counts @ (rounded - middles) ** 2)


def _around_zero(low: float, high: float, seen: Range) -> Range:
    """Never empty: a range that would be is what was seen."""
    return (low, high) if high > low else seen
