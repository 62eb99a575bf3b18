"""Exponential histograms at one fixed scale, so that a fleet's merge is exact.

OpenTelemetry data model, "ExponentialHistogram": at scale s the base is 2**(2**-s) and the bucket with index i holds the
values in (base**i, base**(i+1)]. Scale 5 bounds the relative error of a quantile by 1.09 % (DESIGN.md §6).

Values are kept within [0, 2**64], and at or below 2**-63 they count as zero: so a histogram never has more than
`limits.HISTOGRAM_BUCKETS` buckets, whatever is recorded, and none of its bounds overflows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

SCALE: Final = 5
_PER_OCTAVE: Final = 1 << SCALE
_BASE: Final = 2.0 ** (1 / _PER_OCTAVE)
LARGEST: Final = 2.0**64
"""What is larger counts as this."""
SMALLEST: Final = 2.0**-63
"""What is not larger counts as zero."""
LOWEST_BUCKET: Final = -63 * _PER_OCTAVE
HIGHEST_BUCKET: Final = 64 * _PER_OCTAVE - 1
_LOG2_E_SCALED: Final = _PER_OCTAVE / math.log(2)


def bucket_of(value: float) -> int:
    """The index of the bucket that holds `value`, which must lie in (`SMALLEST`, `LARGEST`]."""
    mantissa, exponent = math.frexp(value)
    if mantissa == 0.5:  # an exact power of two closes the bucket below it
        return ((exponent - 1) << SCALE) - 1
    within = math.ceil(math.log(2 * mantissa) * _LOG2_E_SCALED)
    return ((exponent - 1) << SCALE) + min(within, _PER_OCTAVE) - 1


def upper_bound(index: int) -> float:
    """The largest value of a bucket."""
    return float(2.0 ** ((index + 1) / _PER_OCTAVE))


def midpoint(index: int) -> float:
    """The value that stands for a bucket: the one whose relative error to both bounds is the same, and so the least."""
    return 2 * upper_bound(index) / (1 + _BASE)


class Histogram:
    """Counts by bucket, with count, sum, smallest and largest value. A negative value counts as zero."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "total", "zeros")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.zeros = 0
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    def record(self, value: float) -> None:
        """Add one value; one that is not finite is not counted."""
        if not math.isfinite(value):
            return
        value = min(max(value, 0.0), LARGEST)
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        if value <= SMALLEST:
            self.zeros += 1
        else:
            index = bucket_of(value)
            self.buckets[index] = self.buckets.get(index, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add all of `other`'s values. Counts are exact in any order; `total` is, but for the rounding of its last bits."""
        self.add_buckets(other.buckets, zeros=other.zeros, total=other.total)
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def add_buckets(self, buckets: Mapping[int, int], *, zeros: int, total: float) -> None:
        """Add counts by bucket, as they come from the wire or a database row; `minimum` and `maximum` are the caller's."""
        for index, count in buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count
        self.zeros += zeros
        self.count += zeros + sum(buckets.values())
        self.total += total

    def quantile(self, q: float) -> float | None:
        """The least recorded value that a share `q` in [0, 1] does not exceed, within 1.09 %; None when empty."""
        if not self.count:
            return None
        rank = min(max(math.ceil(q * self.count), 1), self.count)
        seen = self.zeros
        if rank <= seen:
            return 0.0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if rank <= seen:
                return self._within_extremes(midpoint(index))
        raise AssertionError("a histogram counts more values than its buckets hold")

    def _within_extremes(self, value: float) -> float:
        """`value`, moved to the smallest or largest recorded one if it lies beyond; they may be unknown."""
        if self.minimum > self.maximum:
            return value
        return min(max(value, self.minimum), self.maximum)
