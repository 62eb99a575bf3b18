"""Prometheus's text format: the fleet by model, version and variant. Never by device: at a million devices that would end it.

The exact histograms become classic ones with bounds at powers of two, which are bounds of our own buckets too, so that nothing
is estimated on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fleet_protocol.histogram import SCALE, Histogram
from fleet_telemetry.aggregate import ReleaseKey, Tally
from fleet_telemetry.reading import Totals

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
SMALLEST_OCTAVE: Final = -20
LARGEST_OCTAVE: Final = 6
"""Bounds from 2**-20 s (1 µs) to 2**6 s (64 s)."""

_LABELS: Final = ("model", "version", "variant")

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def exposition(usages: Iterable[tuple[ReleaseKey, Tally]], totals: Totals, waiting: int, dropped: int) -> bytes:
    """The page that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Fleet(_by_labels(usages), totals, waiting, dropped))
    return generate_latest(registry)


class _Fleet(Collector):
    """What is known at one moment, as metric families."""

    def __init__(self, usages: dict[tuple[str, ...], Tally], totals: Totals, waiting: int, dropped: int) -> None:
        self._usages = usages
        self._totals = totals
        self._waiting = waiting
        self._dropped = dropped

    def collect(self) -> Iterator[Family]:
        """All families."""
        duration = HistogramMetricFamily(
            "edgeward_inference_duration_seconds", "Time to answer one request on a device.", labels=_LABELS
        )
        errors = CounterMetricFamily("edgeward_inference_errors", "Requests not answered well.", labels=(*_LABELS, "type"))
        for labels, tally in sorted(self._usages.items()):
            duration.add_metric(labels, classic_buckets(tally.latency), tally.latency.total)
            for kind, count in sorted(tally.errors.items()):
                errors.add_metric((*labels, kind), count)
        yield duration
        yield errors
        yield from self._own()

    def _own(self) -> Iterator[Family]:
        """How ingest itself does."""
        frames = CounterMetricFamily(
            "edgeward_telemetry_frames", "Reports of devices by what became of them.", labels=("result",)
        )
        for result in ("accepted", "duplicates", "rejected"):
            frames.add_metric((result,), getattr(self._totals, result))
        yield frames
        yield GaugeMetricFamily("edgeward_telemetry_waiting", "Messages that wait to be stored.", value=self._waiting)
        yield CounterMetricFamily("edgeward_telemetry_dropped", "Messages that found no room to wait.", value=self._dropped)
        yield GaugeMetricFamily("edgeward_telemetry_devices", "Devices that have reported.", value=self._totals.devices)


def classic_buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """(upper bound, how many values are not above it) for each power of two, then all of them."""
    per_octave = 1 << SCALE
    at_or_below = {octave: float(histogram.zeros) for octave in range(SMALLEST_OCTAVE, LARGEST_OCTAVE + 1)}
    for index, count in histogram.buckets.items():
        closed_by = -(-(index + 1) // per_octave)  # the first power of two that no value of the bucket exceeds
        for octave in range(max(closed_by, SMALLEST_OCTAVE), LARGEST_OCTAVE + 1):
            at_or_below[octave] += count
    return [(repr(2.0**octave), count) for octave, count in at_or_below.items()] + [("+Inf", float(histogram.count))]


def _by_labels(usages: Iterable[tuple[ReleaseKey, Tally]]) -> dict[tuple[str, ...], Tally]:
    found: dict[tuple[str, ...], Tally] = {}
    for key, tally in usages:
        found.setdefault((key.model, key.version, key.variant), Tally()).merge(tally)
    return found
