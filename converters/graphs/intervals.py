"""Between which two values each channel can lie, for every input: interval arithmetic through one operator. Pure.

An interval is float64 [channels] low and high. Widening for the engine's own rounding is part of each sum, so that what is
called constant here is constant there. `HUGE` stands for no bound; zero times it is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

HUGE: Final = 1e200
_ROUNDING: Final = 2.0**-20
"""Float32 sums of some thousand terms err by less than this share of the terms' magnitudes."""
_HALF_STEP: Final = 2.0**-24


@dataclass(frozen=True)
class Interval:
    """Each channel's bounds."""

    low: Vector
    high: Vector

    def clamp(self, largest: float) -> Interval:
        """The part of it within ±`largest`."""
        return Interval(np.clip(self.low, -largest, largest), np.clip(self.high, -largest, largest))

    def with_value(self, value: float) -> Interval:
        """The least interval that also holds `value`, such as a border's padding."""
        return Interval(np.minimum(self.low, value), np.maximum(self.high, value))

    def take(self, places: NDArray[np.int64]) -> Interval:
        """The bounds at these places."""
        return Interval(self.low[places], self.high[places])

    def varying(self) -> Vector:
        """The largest magnitude of each channel that changes; a constant one is rounded the same way each time."""
        return np.where(self.high > self.low, np.maximum(np.abs(self.low), np.abs(self.high)), 0.0)

    def constant(self, floor: float) -> tuple[NDArray[np.bool_], Vector]:
        """Which channels never change by more than float32's own rounding plus `floor`, and their values."""
        with np.errstate(over="ignore", invalid="ignore"):
            middle = (self.low + self.high) / 2
            largest = np.maximum(np.abs(self.low), np.abs(self.high))
            still = (self.high - self.low) <= _HALF_STEP * largest + floor
        return still & (largest < HUGE), np.where(largest <= floor, 0.0, middle)


def unbounded(channels: int) -> Interval:
    """Nothing is known."""
    return Interval(np.full(channels, -HUGE), np.full(channels, HUGE))


def summed(one: Interval, other: Interval) -> Interval:
    """Channel by channel the sum of two intervals, as wide as rounding can make it."""
    spread = _ROUNDING * (one.varying() + other.varying())
    return Interval(one.low + other.low - spread, one.high + other.high + spread)


def multiplied(one: Interval, other: Interval) -> Interval:
    """Channel by channel the product. What is zero stays zero, whatever it is multiplied with."""
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.stack([a * b for a in (one.low, one.high) for b in (other.low, other.high)])
    found = Interval(np.nan_to_num(corners.min(axis=0), nan=-HUGE), np.nan_to_num(corners.max(axis=0), nan=HUGE))
    return Interval(np.maximum(found.low, -HUGE), np.minimum(found.high, HUGE))


def joined(parts: Sequence[Interval]) -> Interval:
    """The channels of all parts, one after another."""
    return Interval(np.concatenate([part.low for part in parts]), np.concatenate([part.high for part in parts]))


def weighted_sum(given: Interval, weights: NDArray[Any], bias: NDArray[Any], *, padded: bool) -> Interval:
    """What a layer with `weights` [outputs, inputs, …taps] and `bias` [outputs] makes of its inputs' intervals."""
    if padded:
        given = given.with_value(0.0)
    flat = weights.astype(np.float64).reshape(weights.shape[0], weights.shape[1], -1)
    up, down = np.maximum(flat, 0).sum(axis=2), np.minimum(flat, 0).sum(axis=2)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = (up - down) @ given.varying() * _ROUNDING
        low = bias + up @ given.low + down @ given.high - spread
        high = bias + up @ given.high + down @ given.low + spread
    return Interval(np.nan_to_num(low, nan=-HUGE), np.nan_to_num(high, nan=HUGE))


def per_channel(given: Interval, weights: NDArray[Any], bias: NDArray[Any], *, padded: bool) -> Interval:
    """The same for a depthwise layer: `weights` [channels, 1, …taps], each channel by itself."""
    if padded:
        given = given.with_value(0.0)
    flat = weights.astype(np.float64).reshape(weights.shape[0], -1)
    up, down = np.maximum(flat, 0).sum(axis=1), np.minimum(flat, 0).sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = (up - down) * given.varying() * _ROUNDING
        low = bias + up * given.low + down * given.high - spread
        high = bias + up * given.high + down * given.low + spread
    return Interval(np.nan_to_num(low, nan=-HUGE), np.nan_to_num(high, nan=HUGE))


def scaled(given: Interval, factor: Vector | float, shift: Vector | float) -> Interval:
    """`factor` times the interval plus `shift`, each a number or one a channel."""
    with np.errstate(over="ignore", invalid="ignore"):
        one, other = given.low * factor + shift, given.high * factor + shift
    return Interval(np.nan_to_num(np.minimum(one, other), nan=-HUGE), np.nan_to_num(np.maximum(one, other), nan=HUGE))


def activated(given: Interval, operator: str, attributes: Mapping[str, Any]) -> Interval | None:
    """The interval after a function of each element by itself; None where `operator` is none that is known."""
    if operator == "HardSwish":
        return _hard_swish(given)
    with np.errstate(over="ignore"):
        low, high = (_rising(end, operator, attributes) for end in (given.low, given.high))
    return None if low is None or high is None else Interval(low, high)


def _hard_swish(given: Interval) -> Interval:
    """It falls from 0 at −3 to −3/8 at −3/2, and rises from there."""
    ends = [end * np.clip(end / 6 + 0.5, 0, 1) for end in (given.low, given.high)]
    least = np.where((given.low < -1.5) & (given.high > -1.5), -0.375, np.minimum(*ends))
    return Interval(least, np.maximum(*ends))


def _rising(x: Vector, operator: str, attributes: Mapping[str, Any]) -> Vector | None:
    if operator == "Relu":
        return np.maximum(x, 0)
    if operator in ("Identity", "Dropout"):
        return x
    if operator == "Sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))
    if operator == "Tanh":
        return np.tanh(x)
    return _sloped(x, operator, attributes)


def _sloped(x: Vector, operator: str, attributes: Mapping[str, Any]) -> Vector | None:
    alpha = float(attributes.get("alpha", 0.2 if operator == "HardSigmoid" else 0.01))
    if operator == "LeakyRelu" and alpha >= 0:
        return np.where(x < 0, alpha * x, x)
    if operator == "HardSigmoid" and alpha >= 0:
        return np.clip(alpha * x + float(attributes.get("beta", 0.5)), 0, 1)
    return None
