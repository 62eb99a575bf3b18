"""Which variants ship, and in which order a device should prefer them. Pure: it decides from what was measured.

Shipped is what stays within the accuracy budget. Preferred is the smallest arithmetic that is not slower than float: first
`int8-static`, then `int8-weights`, then float, and where they were asked for, each kind's TFLite form behind its ONNX form;
whatever was measured to be slower than float comes after it. Among equal arithmetic, a smaller model that was trained from the
given one comes first. Devices decide again for themselves: they pass over engines
that they do not have, and their gate measures on their own processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from converters.errors import SettingsRejected
from converters.recipe import FLOAT, Preference

SLOWER: Final = 1.03
"""From this latency ratio to float a variant counts as slower: smaller differences are the measurement's own noise."""
SLOWER_IN_FLOAT: Final = 1.10
"""The same for variants that compute as float does, of which only a disturbed measurement says that they are slower."""
_CLEARLY: Final = 0.9
"""A variant that takes less than this part of another's time goes before it, whatever their arithmetic."""

_AS_FLOAT: Final = ("float32", "int8-weights", "float16-weights")

_SMALLER: Final = 0.95
"""From this ratio of sizes down a trained model counts as smaller."""

_RANK: Final = (
    "int8-static", "tflite-int8", "int8-dynamic", "int8-weights", "tflite-int8-weights", "tflite-int8-dynamic",
    "float16-weights", "float32", "tflite-float32",
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One variant as measured. `fault` goes on after its name and says why it may not ship; empty where it may."""

    name: str
    fault: str = ""
    latency_ratio: float | None = None
    """Latency over float's, on the machine that converted; None where it was not measured or may not decide."""
    kind: str = ""
    """The variant of the given model that does the same arithmetic, where this one is of a trained model; else empty."""
    size_ratio: float = 1.0
    """Its size over that variant's."""
    doubt: str = ""
    """Why it may be out of budget after all; empty where that is unlikely."""

    @property
    def slower(self) -> bool:
        """Whether it was measured to be slower than float."""
        return self.latency_ratio is not None and slower(self.kind or self.name, self.latency_ratio)

    @property
    def unsure(self) -> bool:
        """Whether it may be out of budget after all: arithmetic in float with 8-bit weights hardly ever is."""
        return bool(self.doubt) and (self.kind or self.name) not in _AS_FLOAT

    @property
    def rank(self) -> int:
        """Of its arithmetic, smallest first."""
        return _RANK.index(self.kind or self.name)

    @property
    def place(self) -> tuple[bool, bool, int, float, bool, str]:
        """Where it stands among the others: least first."""
        smaller = self.size_ratio if self.size_ratio < _SMALLER else 1.0
        return (self.slower, self.unsure, self.rank, smaller, bool(self.kind), self.name)


@dataclass(frozen=True)
class Choice:
    """Variants to ship, preferred first, and why in that order."""

    order: tuple[str, ...]
    reason: str


def slower(name: str, ratio: float) -> bool:
    """Whether a variant with this latency over float's counts as slower."""
    return ratio > (SLOWER_IN_FLOAT if name in _AS_FLOAT else SLOWER)


def choose(candidates: Sequence[Candidate], prefer: Preference) -> Choice:
    """Order what may ship. Raises `SettingsRejected` when the variant that was asked for may not."""
    fit = [candidate for candidate in candidates if not candidate.fault]
    if prefer == "auto":
        ordered = _by_speed(sorted(fit, key=lambda candidate: candidate.place))
        return Choice(order=tuple(candidate.name for candidate in ordered), reason=_reason(ordered[0], candidates))
    if prefer not in {candidate.name for candidate in fit}:
        fault = next((candidate.fault for candidate in candidates if candidate.name == prefer), "was not tried")
        raise SettingsRejected(f"{prefer} cannot be preferred: it {fault}. Allow a larger --budget, or prefer another variant.")
    ordered = sorted(fit, key=lambda candidate: (candidate.name != prefer, candidate.place))
    return Choice(order=tuple(candidate.name for candidate in ordered), reason=f"{prefer} first, as asked for.")


def _by_speed(ordered: Sequence[Candidate]) -> list[Candidate]:
    """The same order, but that what is clearly faster than the first, and in no doubt, goes before it."""
    first = ordered[0]
    sure = [each for each in ordered if each.latency_ratio is not None and not each.unsure]
    fastest = min(sure, key=lambda each: each.latency_ratio or 0.0, default=first)
    if first.latency_ratio is None or (fastest.latency_ratio or first.latency_ratio) > _CLEARLY * first.latency_ratio:
        return list(ordered)
    return [fastest, *(each for each in ordered if each is not fastest)]


def _reason(first: Candidate, candidates: Sequence[Candidate]) -> str:
    passed_over = [
        f"{candidate.name} {why}"
        for candidate in candidates
        if candidate.rank < first.rank and (why := _why_not(candidate, first))
    ]
    because = f"; {', and '.join(passed_over)}" if passed_over else ""
    if first.name == FLOAT.name:
        return f"{first.name} first{because}."
    return f"{first.name} first: within the accuracy budget and not slower than float{because}."


def _why_not(candidate: Candidate, first: Candidate) -> str:
    if candidate.fault or candidate.unsure:
        return candidate.fault or candidate.doubt
    if candidate.slower:
        return "was slower than float on the machine that converted"
    if candidate.latency_ratio is None or first.latency_ratio is None:
        return ""
    return "was clearly slower" if first.latency_ratio <= _CLEARLY * candidate.latency_ratio else ""
