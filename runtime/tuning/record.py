"""The words of tuning: candidates, what was measured of them, the declared objective, and the result. Pure data.

Ratios are always to the default: the way in which `runtime.load` runs the publisher's preferred variant without advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from runtime.device_facts import DeviceFacts
from runtime.engines.providers import CPU

EngineName = Literal["onnxruntime", "litert"]
Spinning = Literal["off", "10 µs", "briefly", "500 µs", "on"]
"""How long waiting threads burn their core: never; for so long; for a moment (ours, `runtime.engines.onnx_engine.SPIN_US`); or
for some 50 ms, after every run too (onnxruntime's default)."""
Level = Literal["all", "extended", "basic"]
"""onnxruntime's graph optimisation; `all` adds processor-specific memory layouts."""
Condition = Literal["idle", "busy"]
"""Alone on the device, or beside a process that burns one core."""
Goal = Literal["latency", "cpu", "memory"]
Percentile = Literal["p50", "p95"]

_SPINNING: Final[dict[Spinning, dict[str, str]]] = {
    "off": {"session.intra_op.allow_spinning": "0"},
    "10 µs": {"session.intra_op.spin_duration_us": "10"},
    "briefly": {},
    "500 µs": {"session.intra_op.spin_duration_us": "500"},
    "on": {"session.intra_op.allow_spinning": "1"},
}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way of running the model. `threads` None leaves the number to the engine; `provider` is for ONNX variants only."""

    variant: str
    engine: EngineName = "onnxruntime"
    threads: int | None = None
    spinning: Spinning = "briefly"
    level: Level = "all"
    provider: str = CPU

    def session_options(self, of_variant: Mapping[str, str]) -> dict[str, str]:
        """The options to load with: the variant's own, and this candidate's on top."""
        if self.engine == "litert":
            return dict(of_variant)
        level = {} if self.level == "all" else {"graph_optimization_level": self.level}
        return {**of_variant, **_SPINNING[self.spinning], **level}

    @property
    def provider_to_load(self) -> str | None:
        """The provider as `runtime.load` takes it: TFLite models have none."""
        return self.provider if self.engine == "onnxruntime" else None

    def describe(self) -> str:
        """For people: `float32 · 2 threads · spinning off · extended optimisation`."""
        parts = [self.variant, "engine's threads" if self.threads is None else _counted(self.threads, "thread")]
        if self.provider != CPU:
            parts.insert(1, f"on {self.provider}")
        if self.spinning != "briefly":
            parts.append(f"spinning {self.spinning}")
        if self.level != "all":
            parts.append(f"{self.level} optimisation")
        return " · ".join(parts)


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted. The default: the least median latency on an idle device, within a CPU budget.

    `rate_hz` is how often the application asks; `cpu_budget` how much more CPU time an inference at that rate may cost than
    that of the thriftiest candidate (1.0 or more); `max_memory_bytes` bounds anonymous memory.
    """

    goal: Goal = "latency"
    condition: Condition = "idle"
    percentile: Percentile = "p50"
    rate_hz: float = 10.0
    cpu_budget: float = 2.0
    max_memory_bytes: int | None = None

    def describe(self) -> str:
        """For people."""
        what = {
            "latency": f"least {self.percentile} latency, {_PLACES[self.condition]}",
            "cpu": f"least CPU time at {self.rate_hz:g} inferences a second, not slower than the default",
            "memory": "least anonymous memory, not slower than the default",
        }[self.goal]
        limits = f"CPU time at {self.rate_hz:g}/s at most {self.cpu_budget:g}× the thriftiest candidate's"
        memory = "" if self.max_memory_bytes is None else f", at most {self.max_memory_bytes / 1e6:.0f} MB"
        return f"{what}; {limits}{memory}"


_PLACES: Final[dict[Condition, str]] = {"idle": "on an idle device", "busy": "beside a busy neighbour"}


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """Runs in a row: seconds of one."""

    p50_s: float
    p95_s: float

    def at(self, percentile: Percentile) -> float:
        """One of the two."""
        return self.p50_s if percentile == "p50" else self.p95_s


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a candidate before any race. With a `failure` (for people) it is out."""

    failure: str | None = None
    load_s: float | None = None
    memory_bytes: int | None = None
    """Anonymous memory that loading and the first runs took."""
    engine: str | None = None
    """What ran it, for people; nodes that the provider left to the CPU are named."""
    takes_batches: bool = False
    finite: bool = True
    """Whether its answers hold neither NaN nor infinity. Where there are golden samples, such answers are a failure."""

    @property
    def doubt(self) -> str:
        """What speaks against it and is no failure, for people: it follows the reason why it was chosen."""
        if self.finite:
            return ""
        return (
            " Mind that it answers NaN or infinity to the numbers that were made up for it, so nothing shows that its answers "
            "are right: tune a bundle, which has golden samples."
        )


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a candidate, its medians, and what became of it."""

    candidate: Candidate
    verdict: str
    idle: Burst | None = None
    busy: Burst | None = None
    idle_ratio: float | None = None
    busy_ratio: float | None = None
    noise: float | None = None
    """Half the width of the uncertainty of `idle_ratio`, or of `busy_ratio` where the objective is that."""
    cpu_s: float | None = None
    """CPU seconds of one inference at the objective's rate, what spins between them included."""
    memory_bytes: int | None = None
    load_s: float | None = None
    engine: str | None = None
    """As in `Examined`."""


class TuningKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a result is true for; when any of it changes, the model is tuned again."""

    layout: int = 4
    digest: str
    """Of the bundle's manifest, or of the bare model file."""
    objective: Objective
    device: DeviceFacts


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The result: how to run the model on this device, why, and all that was measured."""

    chosen: Candidate
    reason: str
    rows: tuple[Row, ...]
    batch_gains: dict[int, float]
    """Batch size to throughput ÷ that of single requests, of the chosen candidate; empty where requests cannot be merged."""
    pads: bool = False
    """Whether padding sequences changed none of its answers, so that those of different lengths can be merged."""
    seconds: float
    """How long tuning took."""

    @property
    def row(self) -> Row:
        """The chosen candidate's line."""
        return next(row for row in self.rows if row.candidate == self.chosen)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
