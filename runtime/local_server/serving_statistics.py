"""What the local server did, by model and version: outcomes, samples, where the time went, a latency histogram. Totals only.

The host counts deltas for telemetry, of whatever asks it; this counts requests over the network since the server started,
which is what Prometheus and the protocol's statistics want. Times come as arguments, in nanoseconds. Cheap: an answer's numbers
are only written down, and added up for many answers at once. Versions come and go; only the last `KEPT` that answered are kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import numpy as np

Outcome = Literal["answered", "non_finite", "invalid", "failed", "overloaded", "late", "unwell"]
"""How a request ended; `non_finite`: with NaN or infinity, whether it could be sent or not. Refused without being asked:
`overloaded`, too much was; `late`, its deadline was over; `unwell`, the model hangs or keeps crashing."""

BOUNDS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the latency histogram's buckets in seconds; one more holds the rest."""
KEPT: Final = 64
_NS: Final = 1_000_000_000
_NUMBERS: Final = 5
"""Are written down of one answer: the parts of its time, and its samples."""
_FOLD_AT: Final = 512 * _NUMBERS


class Spent(NamedTuple):
    """Where the time of one request went, in nanoseconds."""

    queue: int = 0
    decode: int = 0
    infer: int = 0
    encode: int = 0

    def total(self) -> int:
        """All of it."""
        return self.queue + self.decode + self.infer + self.encode


@dataclass(slots=True)
class Totals:
    """Everything that one version of one model did here. `last`: epoch seconds of its last answer, 0 before it."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    samples: int = 0
    queue_ns: int = 0
    """Of the requests that were answered, as are the other three parts of their time."""
    decode_ns: int = 0
    infer_ns: int = 0
    encode_ns: int = 0
    failed_ns: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    """Of all requests, by `BOUNDS_S`; not cumulative."""
    total_s: float = 0.0
    last: float = 0.0
    fresh: list[int] = field(default_factory=list)
    """Of answers that are not added up yet, `_NUMBERS` each. Threads add to it in one step, which needs no lock."""

    @property
    def spent(self) -> Spent:
        """Where the time of the requests that were answered went, all together."""
        return Spent(self.queue_ns, self.decode_ns, self.infer_ns, self.encode_ns)

    def copied(self) -> Totals:
        """The same numbers, which do not change any more."""
        self.fold()
        return replace(self, outcomes=self.outcomes.copy(), buckets=self.buckets.copy(), fresh=[])

    def fold(self) -> None:
        """Add up what is fresh. Under the lock."""
        count = len(self.fresh)
        answers = np.array(self.fresh[:count], np.int64).reshape(-1, _NUMBERS)
        del self.fresh[:count]  # what other threads add meanwhile stays
        seconds = answers[:, :-1].sum(axis=1) / _NS
        buckets = np.bincount(np.searchsorted(BOUNDS_S, seconds), minlength=len(self.buckets))
        self.buckets = (buckets + self.buckets).tolist()
        self.total_s += float(seconds.sum())
        self.outcomes["answered"] += len(answers)
        queue, decode, infer, encode, samples = answers.sum(axis=0).tolist()
        self.queue_ns += queue
        self.decode_ns += decode
        self.infer_ns += infer
        self.encode_ns += encode
        self.samples += samples


class ServingStatistics:
    """Totals by (model, version). Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[tuple[str, str], Totals] = {}
        self._refusals = Counter[int]()

    def refuse(self, status: int) -> None:
        """Count one response other than an answer, by its HTTP status or what corresponds to it."""
        with self._lock:
            self._refusals[status] += 1

    def refusals(self) -> Counter[int]:
        """The responses that were refusals, by status."""
        with self._lock:
            return self._refusals.copy()

    def answered(self, model: str, version: str, spent: tuple[int, int, int, int], *, samples: int, now: float) -> None:
        """Count one request that was answered at `now` (epoch seconds). `spent`: the parts of `Spent`."""
        totals = self._totals.get((model, version)) or self._new((model, version))
        totals.last = now
        fresh = totals.fresh
        fresh += (*spent, samples)
        if len(fresh) >= _FOLD_AT:
            with self._lock:
                totals.fold()

    def failed(self, model: str, version: str, outcome: Outcome, spent: tuple[int, int, int, int]) -> None:
        """Count one request that ended otherwise."""
        nanoseconds = sum(spent)
        totals = self._totals.get((model, version)) or self._new((model, version))
        with self._lock:
            totals.outcomes[outcome] += 1
            totals.buckets[bisect_left(BOUNDS_S, nanoseconds / _NS)] += 1
            totals.total_s += nanoseconds / _NS
            totals.failed_ns += nanoseconds

    def of(self, model: str, version: str) -> Totals:
        """One version's totals; all zero when it did nothing yet."""
        with self._lock:
            totals = self._totals.get((model, version))
            return totals.copied() if totals else Totals()

    def all(self) -> dict[tuple[str, str], Totals]:
        """The totals of everything that did something."""
        with self._lock:
            return {key: totals.copied() for key, totals in sorted(self._totals.items())}

    def _new(self, key: tuple[str, str]) -> Totals:
        with self._lock:
            while key not in self._totals and len(self._totals) >= KEPT:
                del self._totals[next(iter(self._totals))]
            return self._totals.setdefault(key, Totals())
