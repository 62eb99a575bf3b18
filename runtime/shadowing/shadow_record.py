"""What a shadow found out, and what it may spend: comparisons, their sums, and the account of its CPU time. Pure.

A comparison holds one answer of the candidate against the live one. Sums, not means, are kept, so that a record is exact
however many there were. Times come as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from fleet_protocol.histogram import Histogram
from runtime import parity
from runtime.engine import Array
from runtime.hosting.room import Observer
from runtime.hosting.usage import all_finite

Outcome = Literal["compared", "failed", "non_finite", "incomparable"]
"""How the candidate did on one copy; `incomparable`: its outputs have other names or shapes than the live ones."""
State = Literal["loading", "running", "ended"]

_REASON_CHARACTERS: Final = 300


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the candidate beside the live one."""

    outcome: Outcome
    why: str = ""
    seconds: float = 0.0
    """What the candidate took for it."""
    samples: int = 0
    """Samples whose class was compared; 0 where the answers are no classes."""
    agreed: int = 0
    signal: float = 0.0
    """Energy of the live floating-point outputs, and of the difference."""
    noise: float = 0.0
    max_difference: float = 0.0


@runtime_checkable
class Recording(Observer, Protocol):
    """An observer that can say what it found out so far: `runtime.shadowing.shadow.Shadow`."""

    def record(self) -> ShadowRecord:
        """What was found out so far."""
        ...


class ShadowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow found out since the live version became active. Seconds; shares and agreement in [0, 1]."""

    model: str
    live: str
    """The version that answers clients; empty before the first copy."""
    candidate: str
    variant: str
    state: State
    why: str
    """Why it ended, or the candidate's last failure, for people."""
    requests: dict[str, int]
    """Sampled requests by what became of them: an `Outcome`, `crashed`, `over_cpu`, `over_memory` or `waiting`."""
    agreement: float | None
    """Of classes, over all samples; None where the answers are no classes."""
    classes_compared: int
    sqnr_db: float | None
    """Of floating-point outputs; None before the first comparison."""
    max_difference: float | None
    live_p50_s: float | None
    live_p95_s: float | None
    candidate_p50_s: float | None
    candidate_p95_s: float | None
    cpu_s: float
    """CPU time that shadowing took, in the candidate's process and in this one, without the candidate's first load."""
    cpu_share: float
    """The same ÷ the time since the candidate was loaded: a share of one core."""


class Tally:
    """The sums for one live version."""

    def __init__(self) -> None:
        self.live = ""
        self.requests: dict[str, int] = {}
        self.why = ""
        self._live_s, self._candidate_s = Histogram(), Histogram()
        self._samples = self._agreed = 0
        self._signal = self._noise = self._max_difference = 0.0

    def count(self, what: str, why: str = "") -> None:
        """One sampled request more of which that became."""
        self.requests[what] = self.requests.get(what, 0) + 1
        self.why = why[:_REASON_CHARACTERS] or self.why

    def add(self, comparison: Comparison, *, live_s: float) -> None:
        """One comparison more; `live_s` is what the live version took for the same request."""
        self.count(comparison.outcome, comparison.why)
        if comparison.outcome in ("failed", "incomparable"):
            return
        self._live_s.record(live_s)
        self._candidate_s.record(comparison.seconds)
        self._samples += comparison.samples
        self._agreed += comparison.agreed
        self._signal += comparison.signal
        self._noise += comparison.noise
        self._max_difference = max(self._max_difference, comparison.max_difference)

    def findings(self) -> dict[str, float | int | None]:
        """The fields of a record that come from comparisons."""
        compared = self.requests.get("compared", 0)
        return {
            "agreement": self._agreed / self._samples if self._samples else None,
            "classes_compared": self._samples,
            "sqnr_db": _ratio_db(self._signal, self._noise) if compared else None,
            "max_difference": self._max_difference if compared else None,
            "live_p50_s": self._live_s.quantile(0.5),
            "live_p95_s": self._live_s.quantile(0.95),
            "candidate_p50_s": self._candidate_s.quantile(0.5),
            "candidate_p95_s": self._candidate_s.quantile(0.95),
        }


class CpuAccount:
    """Keeps what is spent below a share of one core: whoever spends must wait until it is earned again.

    `share` in (0, 1]; more cores than one cannot be allowed. Times are seconds of any clock that never goes back.
    """

    def __init__(self, share: float, *, now: float) -> None:
        self.spent = 0.0
        self._share = share
        self._opened = now
        self._earned_at = now

    def spend(self, cpu_s: float, *, began: float) -> None:
        """CPU seconds that work which began at `began` took."""
        self.spent += cpu_s
        self._earned_at = max(began, self._earned_at) + cpu_s / self._share

    def wait_s(self, now: float) -> float:
        """Seconds until work may begin again; 0 when it may."""
        return max(0.0, self._earned_at - now)

    def share(self, now: float) -> float:
        """What was spent, as a share of one core."""
        return self.spent / max(now - self._opened, 1e-9)


def compare(live: Mapping[str, Array], got: Mapping[str, Array], *, seconds: float) -> Comparison:
    """The candidate's outputs beside the live ones, which are finite."""
    if live.keys() != got.keys() or any(live[name].shape != got[name].shape for name in live):
        why = f"the candidate answers {_shapes(got)}; the live version {_shapes(live)}"
        return Comparison(outcome="incomparable", why=why, seconds=seconds)
    if not all_finite(got):
        return Comparison(outcome="non_finite", why="the candidate answered NaN or infinity", seconds=seconds)
    pairs = [(np.asarray(live[name], np.float64), np.asarray(got[name], np.float64)) for name in live if _is_number(live[name])]
    differences = [after - before for before, after in pairs if before.size]
    samples, agreed = _classes(live, got)
    return Comparison(
        outcome="compared",
        seconds=seconds,
        samples=samples,
        agreed=agreed,
        signal=sum(float(np.vdot(before, before)) for before, _ in pairs),
        noise=sum(float(np.vdot(each, each)) for each in differences),
        max_difference=max((float(np.abs(each).max()) for each in differences), default=0.0),
    )


def _classes(live: Mapping[str, Array], got: Mapping[str, Array]) -> tuple[int, int]:
    """Samples with a class, and how many agree, of the first output that has classes; texts count as classes."""
    for name, before in live.items():
        if before.dtype.kind == "O":
            return before.size, int((before == got[name]).sum())
        wanted, found = parity.classes(before), parity.classes(got[name])
        if wanted is not None and found is not None:
            return len(wanted), int((wanted == found).sum())
    return 0, 0


def _is_number(array: Array) -> bool:
    return array.dtype.kind == "f"


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _ratio_db(signal: float, noise: float) -> float:
    """As `parity.sqnr_db`, from sums."""
    if noise == 0:
        return parity.SQNR_LIMIT_DB
    if signal == 0:
        return -parity.SQNR_LIMIT_DB
    return float(np.clip(10 * np.log10(signal / noise), -parity.SQNR_LIMIT_DB, parity.SQNR_LIMIT_DB))
