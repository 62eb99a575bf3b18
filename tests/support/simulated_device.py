"""A device for the tuner that is made of given numbers: what each candidate costs, and how noisy the device is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from runtime.tuning.record import Burst, Candidate, Condition, Examined


@dataclass(frozen=True)
class Cost:
    """What one candidate costs here. `dies_after`: bursts until it no longer answers."""

    idle_s: float = 0.010
    busy_s: float = 0.020
    cpu_s: float = 0.010
    memory_bytes: int = 10_000_000
    failure: str | None = None
    dies_after: int | None = None

    def but(self, **changes: object) -> Cost:
        return replace(self, **changes)  # type: ignore[arg-type]  # tests name real fields


@dataclass
class SimulatedDevice:
    """See `runtime.tuning.tuner.Device`. Its clock moves by what each measurement takes; `noise` is the spread of each
    burst."""

    cost_of: Callable[[Candidate], Cost]
    noise: float = 0.0
    drift: float = 0.0
    """By how much everything gets slower a second, as a device that heats up does."""
    examine_s: float = 0.5
    seed: int = 0
    takes_batches: bool = False
    open: list[Candidate] = field(default_factory=list)
    most_open: int = 0
    bursts: list[tuple[Candidate, Condition]] = field(default_factory=list)
    _now: float = 0.0

    def __post_init__(self) -> None:
        self._chance = np.random.default_rng(self.seed)

    def elapsed(self) -> float:
        return self._now

    def examine(self, candidate: Candidate) -> Examined:
        self._now += self.examine_s
        self.open.append(candidate)
        self.most_open = max(self.most_open, len(self.open))
        cost = self.cost_of(candidate)
        return Examined(failure=cost.failure, load_s=0.1, memory_bytes=cost.memory_bytes, takes_batches=self.takes_batches)

    def burst(self, candidate: Candidate, condition: Condition, seconds: float) -> Burst | None:
        assert candidate in self.open, f"{candidate.describe()} is not open"
        self.bursts.append((candidate, condition))
        cost = self.cost_of(candidate)
        if cost.dies_after is not None and sum(each == candidate for each, _ in self.bursts) > cost.dies_after:
            return None
        real = (cost.idle_s if condition == "idle" else cost.busy_s) * (1 + self.drift * self._now)
        seen = real * float(np.exp(self._chance.normal(scale=self.noise)))
        self._now += max(seconds, seen)
        return Burst(p50_s=seen, p95_s=1.5 * seen)

    def cpu(self, candidate: Candidate) -> float | None:
        assert candidate in self.open, f"{candidate.describe()} is not open"
        self._now += 0.2
        return self.cost_of(candidate).cpu_s

    def batch_gains(self, candidate: Candidate, sizes: Sequence[int], seconds: float) -> dict[int, float]:
        assert candidate in self.open, f"{candidate.describe()} is not open"
        self._now += seconds
        return dict.fromkeys(sizes, 1.5)

    def pads(self, candidate: Candidate) -> bool:
        assert candidate in self.open, f"{candidate.describe()} is not open"
        return self.takes_batches

    def release(self, candidate: Candidate) -> None:
        if candidate in self.open:
            self.open.remove(candidate)
