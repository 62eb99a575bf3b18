"""Ranges of activations for int8: what the samples showed, with outliers cut where that costs less than it saves.

Two passes over the samples: extremes, then a histogram of each value. No more than a histogram is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.observe import Batch, observe
from converters.recipe import Clipping

BINS: Final = 2048
PERCENTILE: Final = 99.99
_STEPS: Final = 255
_SHARES: Final = np.linspace(0.3, 1.0, 36)
"""Parts of the whole range that are tried for the least squared error."""

Range = tuple[float, float]


def measured_ranges(
    model: onnx.ModelProto, values: Sequence[str], batches: Callable[[], Iterable[Batch]], clipping: Clipping
) -> dict[str, Range]:
    """The range of each value that is float32 and varies. Raises `RecipeFailed` where the model does not run."""
    seen: dict[str, Range] = {}
    for shown in observe(model, values, batches()):
        for name, array in shown.items():
            if array.dtype == np.float32 and array.size:
                low, high = seen.get(name, (np.inf, -np.inf))
                seen[name] = (min(low, float(array.min())), max(high, float(array.max())))
    varying = {name: each for name, each in seen.items() if each[1] > each[0]}
    counts = {name: np.zeros(BINS, np.int64) for name in varying}
    for shown in observe(model, list(varying), batches()):
        for name, array in shown.items():
            counts[name] += np.histogram(array, BINS, varying[name])[0]
    return {name: clip(counts[name], each, clipping) for name, each in varying.items()}


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
