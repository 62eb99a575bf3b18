"""What the local server did, by model and version: outcomes, samples, where the time went, a latency histogram. Totals only.

The host counts deltas for telemetry, of whatever asks it; this counts requests over the network since the server started,
which is what Prometheus and the protocol's statistics want. Times come as arguments, in nanoseconds. Cheap: one lock and a
few additions a request. Versions come and go; only the last `KEPT` that answered are kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

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

    @property
    def spent(self) -> Spent:
        """Where the time of the requests that were answered went, all together."""
        return Spent(self.queue_ns, self.decode_ns, self.infer_ns, self.encode_ns)

    def copied(self) -> Totals:
        """The same numbers, which do not change any more."""
        return replace(self, outcomes=self.outcomes.copy(), buckets=self.buckets.copy())


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

    def record(self, model: str, version: str, outcome: Outcome, spent: Spent, *, samples: int, now: float) -> None:
        """Count one request that ended at `now` (epoch seconds)."""
        queue, decode, infer, encode = spent
        nanoseconds = queue + decode + infer + encode
        seconds = nanoseconds / _NS
        with self._lock:
            totals = self._totals.get((model, version)) or self._new((model, version))
            totals.outcomes[outcome] += 1
            totals.buckets[bisect_left(BOUNDS_S, seconds)] += 1
            totals.total_s += seconds
            if outcome == "answered":
                totals.samples += samples
                totals.queue_ns += queue
                totals.decode_ns += decode
                totals.infer_ns += infer
                totals.encode_ns += encode
                totals.last = now
            else:
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
        while len(self._totals) >= KEPT:
            del self._totals[next(iter(self._totals))]
        self._totals[key] = totals = Totals()
        return totals
