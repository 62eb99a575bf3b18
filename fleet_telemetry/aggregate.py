"""Adding up usages and summing them up for people. Pure: no IO, no clock; times are epoch seconds, durations seconds.

Adding is commutative, so that the order in which reports arrive does not matter, and exact, so that the fleet's p99 is that
of all its inferences and not a mean of means (DESIGN.md §6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from fleet_protocol import limits
from fleet_protocol.histogram import Histogram
from fleet_protocol.otlp import OTHER
from fleet_protocol.telemetry import ModelUsage

HOUR_S: Final = 3600
OLDEST_S: Final = 30 * 24 * HOUR_S
"""A report that says it is older is believed to have a wrong clock."""


class ReleaseKey(NamedTuple):
    """What a usage is about: one variant of one release."""

    model: str
    version: str
    manifest: str
    variant: str


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds; all None where nothing was measured."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    minimum: float | None = None
    maximum: float | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A tally for people: `failed` is the sum of `errors`; shares are fractions of 1."""

    inferences: int
    failed: int
    error_share: float
    errors: dict[str, int]
    latency: Latency
    predictions: dict[str, int]
    shares: dict[str, float]
    first: float | None
    last: float | None


class _Packed(msgspec.Struct, array_like=True):
    """A tally as it stands in the database."""

    buckets: dict[int, int]
    zeros: int
    total: float
    minimum: float
    maximum: float
    predictions: dict[str, int]
    errors: dict[str, int]
    first: float
    last: float


class Tally:
    """A sum of usages."""

    __slots__ = ("errors", "first", "last", "latency", "predictions")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.predictions: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.first = float("inf")
        self.last = float("-inf")

    def add(self, usage: ModelUsage, *, start: float, end: float) -> None:
        """Count a usage; its period is given by itself, because a device's clock is not believed blindly."""
        self.latency.merge(usage.latency)
        _add_counts(self.predictions, usage.predictions)
        _add_counts(self.errors, usage.errors)
        self._widen(start, end)

    def merge(self, other: Tally) -> None:
        """Count all that `other` counted."""
        self.latency.merge(other.latency)
        _add_counts(self.predictions, other.predictions)
        _add_counts(self.errors, other.errors)
        self._widen(other.first, other.last)

    def summary(self) -> Summary:
        """What to tell people."""
        failed = sum(self.errors.values())
        asked = self.latency.count + failed
        return Summary(
            inferences=self.latency.count,
            failed=failed,
            error_share=failed / asked if asked else 0.0,
            errors=dict(sorted(self.errors.items())),
            latency=_latency(self.latency),
            predictions=dict(sorted(self.predictions.items())),
            shares=shares(self.predictions),
            first=self.first if self.first <= self.last else None,
            last=self.last if self.first <= self.last else None,
        )

    def pack(self) -> bytes:
        """The tally as bytes, for `unpack`."""
        latency = self.latency
        return msgspec.msgpack.encode(
            _Packed(
                buckets=latency.buckets,
                zeros=latency.zeros,
                total=latency.total,
                minimum=latency.minimum,
                maximum=latency.maximum,
                predictions=self.predictions,
                errors=self.errors,
                first=self.first,
                last=self.last,
            )
        )

    def _widen(self, start: float, end: float) -> None:
        self.first = min(self.first, start)
        self.last = max(self.last, end)


def unpack(content: bytes) -> Tally:
    """The tally that `Tally.pack` wrote; empty bytes are an empty tally."""
    tally = Tally()
    if content:
        packed = msgspec.msgpack.decode(content, type=_Packed)
        tally.latency.add_buckets(packed.buckets, zeros=packed.zeros, total=packed.total)
        tally.latency.minimum, tally.latency.maximum = packed.minimum, packed.maximum
        tally.predictions, tally.errors = packed.predictions, packed.errors
        tally.first, tally.last = packed.first, packed.last
    return tally


def key_of(usage: ModelUsage) -> ReleaseKey:
    """What the usage is about."""
    return ReleaseKey(usage.model, usage.version, usage.manifest, usage.variant)


def believed_period(usage: ModelUsage, received: float) -> tuple[float, float]:
    """Start and end of a usage as far as they can be: what ends in the future or absurdly long ago ended on receipt."""
    end = believed_moment(usage.end, received)
    start = usage.start if end - OLDEST_S <= usage.start <= end else end
    return start, end


def believed_moment(moment: float, received: float) -> float:
    """When something happened, or when we heard of it if that cannot be."""
    return moment if received - OLDEST_S <= moment <= received else received


def hour_of(moment: float) -> int:
    """The start of the hour that holds `moment`."""
    return int(moment // HOUR_S) * HOUR_S


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Each count as a fraction of their sum, in order of the names; nothing of nothing."""
    total = sum(counts.values())
    return {name: count / total for name, count in sorted(counts.items())} if total else {}


def _latency(histogram: Histogram) -> Latency:
    if not histogram.count:
        return Latency()
    known = histogram.minimum <= histogram.maximum
    return Latency(
        mean=histogram.total / histogram.count,
        p50=histogram.quantile(0.5),
        p90=histogram.quantile(0.9),
        p99=histogram.quantile(0.99),
        minimum=histogram.minimum if known else None,
        maximum=histogram.maximum if known else None,
    )


def _add_counts(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add `more` to `total`, which keeps at most `limits.CLASSES` names; counts of later names go to `OTHER`."""
    for name, count in more.items():
        kept = name if name in total or len(total) < limits.CLASSES - 1 else OTHER
        total[kept] = total.get(kept, 0) + count
