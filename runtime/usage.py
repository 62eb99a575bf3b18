"""Counts what one version of one model does: latency, predicted classes, errors by kind. Pure: times come as arguments.

Recording is on the hot path, so it only appends; `take` folds what was appended into a histogram. Nothing here locks: the
host calls it under its own lock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from fleet_protocol import limits
from fleet_protocol.histogram import SCALE, Histogram
from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array

ErrorKind = Literal["invalid_input", "failed", "non_finite"]
"""Why a request was not answered well. The first is the caller's fault, the others are the model's."""

_FOLD_AT: Final = 1024
_SMOOTHING: Final = 0.1
_LABEL_CHARACTERS: Final = 200


def looks_like_scores(spec: TensorSpec) -> bool:
    """Whether an output is class scores: numbers of shape [batch, classes] with at least two classes."""
    return len(spec.shape) == 2 and 2 <= spec.shape[1] <= limits.CLASSES and spec.datatype not in ("BOOL", "BYTES")


def all_finite(arrays: Mapping[str, Array]) -> bool:
    """Whether no floating-point array holds NaN or infinity."""
    return all(_finite(array) for array in arrays.values() if array.dtype.kind == "f")


def _finite(array: Array) -> bool:
    # The dot product is 4x cheaper than isfinite().all() on small arrays; only when it overflows is the exact test needed.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def add_all(histogram: Histogram, values: list[float]) -> None:
    """Record many values (finite, not negative) at once: 30 times faster than one by one.

    A value within rounding of a bucket's bound may fall on its other side.
    """
    if not values:
        return
    array = np.array(values)
    positive = array[array > 0]
    indexes, counts = np.unique(np.ceil(np.log2(positive) * (1 << SCALE)).astype(np.int64) - 1, return_counts=True)
    buckets = dict(zip(indexes.tolist(), counts.tolist(), strict=True))
    histogram.add_buckets(buckets, zeros=len(values) - len(positive), total=float(array.sum()))
    histogram.minimum = min(histogram.minimum, float(array.min()))
    histogram.maximum = max(histogram.maximum, float(array.max()))


class UsageCounter:
    """The counts of one activation. `started` is epoch seconds."""

    def __init__(self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], started: float) -> None:
        self._scores = outputs[0].name if outputs and looks_like_scores(outputs[0]) else None
        self._labels = labels
        self._started = started
        self._seconds: list[float] = []
        self._classes: list[int] = []
        self._latency = Histogram()
        self._predictions: Counter[int] = Counter()
        self._errors: Counter[ErrorKind] = Counter()
        self.healthy = 0
        """Requests answered well."""
        self.faults = 0
        """Requests that the model itself failed."""
        self.typical_s: float | None = None
        """A smoothed latency in seconds; None before the first answer."""

    def classes_of(self, outputs: dict[str, Array]) -> list[int]:
        """The predicted class of each sample; empty where outputs are not class scores."""
        if self._scores is None:
            return []
        scores = outputs[self._scores]
        if scores.ndim != 2 or not scores.size:
            return []
        return [int(scores.argmax())] if len(scores) == 1 else scores.argmax(axis=1).tolist()

    def answered(self, seconds: float, classes: list[int]) -> None:
        """Count one good answer."""
        self.healthy += 1
        self._timed(seconds)
        self._classes += classes
        if len(self._seconds) >= _FOLD_AT or len(self._classes) >= _FOLD_AT:
            self._fold()

    def not_finite(self, seconds: float, blame: ErrorKind) -> None:
        """Count one answer with NaN or infinity in it: it took its time and it is an error, the model's or its input's."""
        self._timed(seconds)
        self.failed(blame)

    def failed(self, kind: ErrorKind) -> None:
        """Count one request without a good answer."""
        self._errors[kind] += 1
        if kind != "invalid_input":
            self.faults += 1

    def take(self, now: float, *, model: str, version: str, manifest: str, variant: str) -> ModelUsage | None:
        """What was counted since the last take, or None when that is nothing."""
        self._fold()
        latency, predictions, errors, start = self._latency, self._predictions, self._errors, self._started
        if not latency.count and not errors:
            return None
        self._latency, self._predictions, self._errors, self._started = Histogram(), Counter(), Counter(), now
        named: Counter[str] = Counter()
        for index, count in predictions.items():
            named[self._label(index)] += count
        return ModelUsage(
            model=model,
            version=version,
            manifest=manifest,
            variant=variant,
            start=start,
            end=max(start, now),
            latency=latency,
            predictions=dict(named),
            errors={str(kind): count for kind, count in errors.items()},
        )

    def _timed(self, seconds: float) -> None:
        self._seconds.append(seconds)
        before = self.typical_s
        self.typical_s = seconds if before is None else before + _SMOOTHING * (seconds - before)

    def _fold(self) -> None:
        add_all(self._latency, self._seconds)
        self._predictions.update(self._classes)
        self._seconds.clear()
        self._classes.clear()

    def _label(self, index: int) -> str:
        return self._labels[index][:_LABEL_CHARACTERS] if index < len(self._labels) else str(index)
