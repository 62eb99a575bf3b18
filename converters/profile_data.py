"""Computes the reference profile: what inputs and predictions look like on held-out data. Pure arithmetic on arrays.

Bin i of a feature holds the values v for which i of its edges are ≤ v. Edges are quantiles, so repeated values give repeated
edges and empty bins between them; that is as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converters.judging.metrics import looks_like_probabilities
from fleet_protocol.profile import BINS, FeatureProfile, ReferenceProfile
from runtime import parity

ELEMENTS: Final = 256
"""Tensors with more elements a sample are profiled as a whole only."""


def make_profile(
    inputs: Mapping[str, NDArray[Any]],
    answers: NDArray[Any] | None,
    *,
    variant: str,
    classes: Sequence[str] = (),
) -> ReferenceProfile:
    """Profile samples and the preferred variant's class scores or class numbers for them (None: outputs are not classes).

    Confidence is counted only where the scores are probabilities.
    """
    features = [feature for name, values in inputs.items() for feature in _features(name, values)]
    counted: dict[str, int] = {}
    confidence: tuple[int, ...] = ()
    told = None if answers is None else parity.classes(answers)
    if answers is not None and told is not None:
        predicted, counts = np.unique(told, return_counts=True)
        for index, count in zip(predicted.tolist(), counts.tolist(), strict=True):
            counted[classes[index] if index < len(classes) else str(index)] = count
        if looks_like_probabilities(answers):
            bins = np.minimum((answers.max(axis=1) * BINS).astype(np.int64), BINS - 1)
            confidence = tuple(np.bincount(bins, minlength=BINS).tolist())
    samples = len(next(iter(inputs.values())))
    return ReferenceProfile(
        samples=samples, variant=variant, features=tuple(features), classes=counted, confidence_counts=confidence
    )


def _features(name: str, values: NDArray[Any]) -> list[FeatureProfile]:
    if values.dtype.kind not in "fiub" or values.size == 0:
        return []
    flat = values.reshape(len(values), -1).astype(np.float64)
    whole = [_feature(name, None, flat.ravel())]
    if 1 < flat.shape[1] <= ELEMENTS:
        return whole + [_feature(name, index, flat[:, index]) for index in range(flat.shape[1])]
    return whole


def _feature(name: str, index: int | None, values: NDArray[np.float64]) -> FeatureProfile:
    edges = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=BINS)
    return FeatureProfile(
        tensor=name,
        index=index,
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )
