"""How fast to learn at which moment, and how many epochs fit into the time. Pure arithmetic."""

from __future__ import annotations

import math
from typing import Final

_WARM: Final = 0.05
"""Share of the training in which the learning rate rises."""


def learning_rate(largest: float, done: float) -> float:
    """The rate when `done` in [0, 1] of the training is done: up in a line, then down along a cosine, never quite zero."""
    if done < _WARM:
        return largest * (0.1 + 0.9 * done / _WARM)
    return largest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - _WARM) / (1 - _WARM))))


def epochs_that_fit(epochs: int, *, first_seconds: float, seconds: float | None) -> int:
    """Of `epochs`, how many fit into `seconds` in all when the first one took `first_seconds`; at least one."""
    if seconds is None or first_seconds <= 0:
        return epochs
    return max(1, min(epochs, int(seconds / first_seconds)))


def batches(samples: int, size: int) -> list[tuple[int, int]]:
    """Where each batch begins and ends; a last one of a single sample joins its neighbour, since it has no variance."""
    starts = list(range(0, samples, size))
    if len(starts) > 1 and samples - starts[-1] == 1:
        starts.pop()
    return [(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]
