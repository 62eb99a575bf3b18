"""Counts what one version of one model does: latency, predicted classes, errors by kind. Pure: times come as arguments.

Recording is on the hot path, so of a small answer it only keeps a copy of the bytes: whether they are finite and which class
they name is found out for a thousand answers at once, which costs a tenth. That happens when somebody asks for a number, or
when enough has gathered. Every method may be called from any thread.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np

from fleet_protocol import limits
from fleet_protocol.histogram import SCALE, Histogram
from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import NUMPY_NAMES, TensorSpec
from runtime.engine import Array

ErrorKind = Literal["invalid_input", "failed", "non_finite"]
"""Why a request was not answered well. The first is the caller's fault, the others are the model's."""

_FOLD_AT: Final = 3 * 1024
"""Three things are kept of one answer."""
_SMALL_BYTES: Final = 1024
"""Of a request and its answer together: so much is copied and looked at later."""
_RECENT: Final = 8
"""Answers whose mean is the typical latency."""
_LABEL_CHARACTERS: Final = 200


def looks_like_scores(spec: TensorSpec) -> bool:
    """Whether an output is class scores: numbers of shape [batch, classes] with at least two classes."""
    return len(spec.shape) == 2 and 2 <= spec.shape[1] <= limits.CLASSES and spec.datatype not in ("BOOL", "BYTES")


def all_finite(arrays: Mapping[str, Array]) -> bool:
    """Whether no floating-point array holds NaN or infinity."""
    for array in arrays.values():  # noqa: SIM110  # a third quicker than all()
        if array.dtype.kind == "f" and not _finite(array):
            return False
    return True


def _finite(array: Array) -> bool:
    # The dot product is 4x cheaper than isfinite().all() on small arrays; only when it overflows is the exact test needed.
    return math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())


def add_all(histogram: Histogram, values: Sequence[float]) -> None:
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


class _Plain(msgspec.Struct, frozen=True):
    """A model of one input and one output of numbers: what is needed to look at its answers later."""

    given: str
    answered: str
    given_dtype: np.dtype[Any]
    answered_dtype: np.dtype[Any]
    row_bytes: int
    """Of one sample's scores; of one number where outputs are no scores."""


class UsageCounter:
    """The counts of one activation. `started` is epoch seconds."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], started: float
    ) -> None:
        scores = outputs[0] if outputs and looks_like_scores(outputs[0]) else None
        self._scores = None if scores is None else scores.name
        self._plain = _plain(inputs, outputs)
        self._labels = labels
        self._started = started
        self._lock = threading.Lock()
        self._kept: list[Any] = []
        """Of each small answer that was not looked at yet: seconds, the input's bytes, the output's. One list, to which all
        three are added in one step: other threads do the same, and tuples would be the garbage collector's work."""
        self._latency = Histogram()
        self._predictions: Counter[int] = Counter()
        self._errors: Counter[ErrorKind] = Counter()
        self._healthy = 0
        self._faults = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        """Seconds of the last answers that were looked at."""

    @property
    def typical_s(self) -> float | None:
        """The mean latency of the last few answers in seconds; None before the first one."""
        recent = self._kept[-3 * _RECENT :: 3] or list(self._recent)
        return sum(recent) / len(recent) if recent else None

    @property
    def healthy(self) -> int:
        """Requests answered well."""
        with self._lock:
            self._fold()
            return self._healthy

    @property
    def faults(self) -> int:
        """Requests that the model itself failed."""
        with self._lock:
            self._fold()
            return self._faults

    def note(self, seconds: float, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> bool | None:
        """Count one answer. Whether its numbers are finite; None when that is found out later."""
        plain = self._plain
        if plain is not None:
            given, answered = inputs[plain.given], outputs[plain.answered]
            if (
                answered.dtype is plain.answered_dtype
                and given.dtype is plain.given_dtype  # not texts of pictures, nor another byte order
                and answered.nbytes + given.nbytes <= _SMALL_BYTES
            ):
                kept = self._kept
                kept += (seconds, given.tobytes(), answered.tobytes())
                if len(kept) >= _FOLD_AT:
                    with self._lock:
                        self._fold()
                return None
        return self._note_now(seconds, inputs, outputs)

    def failed(self, kind: ErrorKind) -> None:
        """Count one request without a good answer."""
        with self._lock:
            self._blame(kind)

    def take(self, now: float, *, model: str, version: str, manifest: str, variant: str) -> ModelUsage | None:
        """What was counted since the last take, or None when that is nothing."""
        with self._lock:
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

    def _note_now(self, seconds: float, inputs: Mapping[str, Array], outputs: dict[str, Array]) -> bool:
        finite = all_finite(outputs)
        classes = self._classes(outputs) if finite else []
        spoilt = not finite and not all_finite(inputs)
        with self._lock:
            self._latency.record(seconds)
            self._recent.append(seconds)
            if finite:
                self._healthy += 1
                self._predictions.update(classes)
            else:
                self._blame("invalid_input" if spoilt else "non_finite")
        return finite

    def _classes(self, outputs: dict[str, Array]) -> list[int]:
        """The predicted class of each sample; empty where outputs are not class scores."""
        if self._scores is None:
            return []
        scores = outputs[self._scores]
        if scores.ndim != 2 or not scores.size:
            return []
        return [int(scores.argmax())] if len(scores) == 1 else scores.argmax(axis=1).tolist()

    def _blame(self, kind: ErrorKind) -> None:
        self._errors[kind] += 1
        if kind != "invalid_input":
            self._faults += 1

    def _fold(self) -> None:
        """Look at what was kept."""
        plain, count = self._plain, len(self._kept)
        if not count or plain is None:
            return
        kept = self._kept[:count]
        del self._kept[:count]  # what other threads append meanwhile stays
        seconds, given, answers = kept[0::3], kept[1::3], kept[2::3]
        add_all(self._latency, seconds)
        self._recent.extend(seconds[-_RECENT:])
        if _are_finite(b"".join(answers), plain.answered_dtype):
            self._healthy += len(answers)
        else:
            answers = list(self._sifted(given, answers, plain))
        if self._scores is not None:
            self._count_classes(answers, plain)

    def _sifted(self, given: list[bytes], answers: list[bytes], plain: _Plain) -> Iterator[bytes]:
        """The good answers; the others are blamed on the model or on their input."""
        for asked, answered in zip(given, answers, strict=True):
            if _are_finite(answered, plain.answered_dtype):
                self._healthy += 1
                yield answered
            else:
                self._blame("non_finite" if _are_finite(asked, plain.given_dtype) else "invalid_input")

    def _count_classes(self, answers: list[bytes], plain: _Plain) -> None:
        if any(size % plain.row_bytes for size in set(map(len, answers))):
            answers = [each for each in answers if not len(each) % plain.row_bytes]
        rows = np.frombuffer(b"".join(answers), plain.answered_dtype)
        counts = np.bincount(rows.reshape(-1, plain.row_bytes // plain.answered_dtype.itemsize).argmax(axis=1))
        self._predictions.update({int(index): int(counts[index]) for index in counts.nonzero()[0]})

    def _label(self, index: int) -> str:
        return self._labels[index][:_LABEL_CHARACTERS] if index < len(self._labels) else str(index)


def _plain(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> _Plain | None:
    if len(inputs) != 1 or len(outputs) != 1 or "BYTES" in (inputs[0].datatype, outputs[0].datatype):
        return None
    given, answered = (np.dtype(NUMPY_NAMES[spec.datatype]) for spec in (inputs[0], outputs[0]))
    classes = outputs[0].shape[1] if looks_like_scores(outputs[0]) else 1
    return _Plain(inputs[0].name, outputs[0].name, given, answered, classes * answered.itemsize)


def _are_finite(numbers: bytes, dtype: np.dtype[Any]) -> bool:
    return dtype.kind != "f" or bool(np.isfinite(np.frombuffer(numbers, dtype)).all())
