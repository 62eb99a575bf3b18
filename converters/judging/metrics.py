"""How good outputs are and how sure that is: worst output's noise, confidence intervals. Pure arithmetic on arrays.

The arithmetic that a device's gate repeats (SQNR, agreement, accuracy) is `runtime.parity`'s: one definition for both ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from runtime import parity

Outputs = Mapping[str, NDArray[Any]]

_Z: Final = 1.959964  # 95 % of a normal distribution
_FEW: Final = 100
_IMAGENET: Final = (1000, 1001)


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def all_finite(outputs: Outputs) -> bool:
    """Whether no output holds NaN or infinity."""
    return all(values.dtype.kind != "f" or bool(np.isfinite(values).all()) for values in outputs.values())


def worst_sqnr_db(reference: Outputs, outputs: Outputs) -> float:
    """The least SQNR in dB of any floating-point output, as a device's gate measures it. All values are finite."""
    each = [parity.sqnr_db(values, outputs[name]) for name, values in reference.items() if values.dtype.kind == "f"]
    return min(each, default=parity.SQNR_LIMIT_DB)


def wilson(successes: int, count: int) -> Interval:
    """The Wilson score interval of a share: sound for few samples and for shares near 0 and 1."""
    if count == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / count, _Z * _Z
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(p * (1 - p) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return Interval(max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def paired_difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Interval:
    """95 % interval of (accuracy after − accuracy before) on the same samples: only samples that changed speak (Agresti–Min).

    Half a sample is added to each of the two kinds of change, so that no change is not mistaken for certainty.
    """
    count = len(before) + 2
    gained = int((after & ~before).sum()) + 0.5
    lost = int((before & ~after).sum()) + 0.5
    difference = (gained - lost) / count
    half = _Z * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / count)) / count
    return Interval(difference - half, difference + half)


def area_under_curve(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """How well scores tell label 1 from label 0: the chance that one of each is in the right order; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    positive = labels == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def paired_area_difference(before: NDArray[Any], after: NDArray[Any], labels: NDArray[Any]) -> Interval:
    """95 % interval of (area by `after` − area by `before`) over the same samples (DeLong, DeLong and Clarke-Pearson 1988).

    Changes of no sample's order leave no doubt; with one sample of a label nothing is known, and the interval is [−1, 1].
    """
    positive = labels == 1
    if min(int(positive.sum()), int((~positive).sum())) < 2:
        return Interval(-1.0, 1.0)
    (one, other), (ones, others) = (_parts(scores, positive) for scores in (before, after))
    gained, lost = ones - one, others - other
    variance = gained.var(ddof=1) / len(gained) + lost.var(ddof=1) / len(lost)
    half = _Z * math.sqrt(variance)
    return Interval(float(gained.mean() - half), float(gained.mean() + half))


def _parts(scores: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each sample's part of the area: for label 1 the share of label 0 below it, for label 0 the share of label 1 above it."""
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    below = (np.searchsorted(low, scores[positive], "left") + np.searchsorted(low, scores[positive], "right")) / 2
    above = (
        len(high) - (np.searchsorted(high, scores[~positive], "left") + np.searchsorted(high, scores[~positive], "right")) / 2
    )
    return below / len(low), above / len(high)


def mean_interval(values: NDArray[np.float64]) -> Interval:
    """95 % interval of a mean, from values of independent samples; of a single one nothing is known but that."""
    middle = float(values.mean())
    half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Interval(middle - half, middle + half)


def median_interval(values: NDArray[np.float64]) -> Interval:
    """95 % interval of a median, by the order of independent values: it asks nothing of how they are distributed.

    Of six values or more; fewer cannot be so sure, and the interval is from the least to the largest.
    """
    ordered, count = np.sort(values), len(values)
    cut = max(0, math.floor(count / 2 - _Z * math.sqrt(count) / 2))
    return Interval(float(ordered[cut]), float(ordered[count - 1 - cut]))


def looks_like_scores(answers: NDArray[Any]) -> bool:
    """Whether rows may be class scores before a softmax: few columns, or as many as ImageNet has, and not all of length 1."""
    if answers.ndim != 2 or answers.dtype.kind != "f" or not (2 <= answers.shape[1] <= _FEW or answers.shape[1] in _IMAGENET):
        return False
    return not np.allclose(np.linalg.norm(answers.astype(np.float64), axis=1), 1.0, atol=1e-3)


def looks_like_probabilities(scores: NDArray[Any]) -> bool:
    """Whether every row is a distribution over two classes or more."""
    if scores.ndim != 2 or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return False
    return bool((scores >= -1e-6).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3))
