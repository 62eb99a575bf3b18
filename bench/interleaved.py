"""Comparing callables fairly on a shared, noisy machine: round after round, each in turn, medians of all rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Subject = Callable[[], object]


def medians(subjects: Mapping[str, Subject], *, rounds: int = 30, batch: int = 50) -> dict[str, float]:
    """Median seconds of one call of each subject; `batch` calls in a row are timed together, `rounds` times, in turn."""
    for subject in subjects.values():
        subject()
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            started = time.perf_counter()
            for _ in range(batch):
                subject()
            samples[name].append((time.perf_counter() - started) / batch)
    return {name: statistics.median(times) for name, times in samples.items()}


def ratios(times: Mapping[str, float], *, to: str) -> dict[str, float]:
    """Every median divided by that of `to`."""
    return {name: round(seconds / times[to], 3) for name, seconds in times.items()}
