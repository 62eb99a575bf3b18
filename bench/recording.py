"""What telemetry costs the hot path: recording one latency, against the least that a program could do (appending to a list)."""

from __future__ import annotations

from bench.interleaved import medians, ratios
from fleet_protocol.histogram import Histogram


def measure() -> dict[str, object]:
    """Seconds and ratios for one record."""
    histogram, kept = Histogram(), list[float]()

    def append() -> None:
        kept.append(0.00123)
        kept.clear()

    times = medians({"histogram": lambda: histogram.record(0.00123), "append": append}, rounds=50, batch=2000)
    return {"seconds": times, "ratio_to_append": ratios(times, to="append")}
