"""Exponential histograms at one fixed scale, so that a fleet's merge is exact.

OpenTelemetry data model, "ExponentialHistogram": at scale s the base is 2**(2**-s) and the bucket with index i holds the
values in (base**i, base**(i+1)]. Scale 5 bounds the relative error of a quantile by 1.08 % (DESIGN.md §6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

SCALE: Final = 5
_PER_OCTAVE: Final = 1 << SCALE
_LOG2_E_SCALED: Final = _PER_OCTAVE / math.log(2)


def bucket_of(value: float) -> int:
    """The index of the bucket that holds `value`, which must be positive and finite."""
    mantissa, exponent = math.frexp(value)
    if mantissa == 0.5:  # an exact power of two closes the bucket below it
        return ((exponent - 1) << SCALE) - 1
    return ((exponent - 1) << SCALE) + math.ceil(math.log(2 * mantissa) * _LOG2_E_SCALED) - 1


def upper_bound(index: int) -> float:
    """The largest value of a bucket."""
    return float(2.0 ** ((index + 1) / _PER_OCTAVE))


def midpoint(index: int) -> float:
    """The value that stands for a bucket: the geometric middle of its bounds."""
    return float(2.0 ** ((index + 0.5) / _PER_OCTAVE))


class Histogram:
    """Counts by bucket, with count, sum, smallest and largest value. Zero and negative values count as zero."""

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
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)
        if value <= 0:
            self.zeros += 1
        else:
            index = bucket_of(value)
            self.buckets[index] = self.buckets.get(index, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add all of `other`'s values: exact, commutative and associative."""
        self.add_buckets(other.buckets, zeros=other.zeros, total=other.total)
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def add_buckets(self, buckets: Mapping[int, int], *, zeros: int, total: float) -> None:
        """Add counts by bucket, as they come from the wire or a database row."""
        for index, count in buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count
        self.zeros += zeros
        self.count += zeros + sum(buckets.values())
        self.total += total

    def quantile(self, q: float) -> float | None:
        """The value below which a share `q` in [0, 1] lies, within 1.08 %; None when empty."""
        if not self.count:
            return None
        rank = min(self.count - 1, int(q * self.count))
        seen = self.zeros
        if rank < seen:
            return 0.0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if rank < seen:
                return min(max(midpoint(index), self.minimum), self.maximum)
        return self.maximum
