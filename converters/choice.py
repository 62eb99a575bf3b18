"""Which variants ship, and in which order a device should prefer them. Pure: it decides from what was measured.

Shipped is what stays within the accuracy budget. Preferred is the smallest arithmetic that is not slower than float: first
`int8-static`, then `int8-weights`, then float; whatever was measured to be slower than float comes after it, and what is
clearly faster goes first. Among equal arithmetic, a smaller model that was trained from the given one comes first. Each
engine's variants are ordered so among themselves, since devices pass over engines that they do not have; then the two orders
are merged.
Devices decide again for themselves: their gate measures on their own processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from converters.errors import SettingsRejected
from converters.recipe import FLOAT, Preference

_AS_QUICK: Final = 1.01
"""Up to this latency over float's, where a model happens to lie in memory decides."""
_CLEARLY: Final = 0.95
"""A variant that takes less than this part of another's time goes before it, whatever their arithmetic: beyond the noise."""
_SMALL: Final = 0.95
"""What 8-bit weights are worth, as a part of the time: those with float weights are several times as large."""

_IN_FLOAT: Final = ("float32", "int8-weights", "float16-weights", "tflite-int8-weights", "tflite-float32")
"""What computes in float."""

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
    latency_low: float | None = None
    """The lower end of its latency's 95 % interval; None: the latency is exact."""

    @property
    def slower(self) -> bool:
        """Whether it is surely slower than float: the whole interval lies above 1, and the latency above that by a little."""
        if self.latency_ratio is None:
            return False
        low = self.latency_ratio if self.latency_low is None else self.latency_low
        return low > 1.0 and self.latency_ratio > _AS_QUICK

    @property
    def unsure(self) -> bool:
        """Whether it may be out of budget after all: arithmetic in float with 8-bit weights hardly ever is."""
        return bool(self.doubt) and (self.kind or self.name) not in _IN_FLOAT

    @property
    def cost(self) -> float | None:
        """Its latency over float's, less where its weights are small; None where that is unknown."""
        wide = "float" in (self.kind or self.name)
        return self.latency_ratio if wide or self.latency_ratio is None else _SMALL * self.latency_ratio

    @property
    def for_litert(self) -> bool:
        """Whether LiteRT runs it, and not ONNX Runtime."""
        return (self.kind or self.name).startswith("tflite")

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


def choose(candidates: Sequence[Candidate], prefer: Preference) -> Choice:
    """Order what may ship. Raises `SettingsRejected` when the variant that was asked for may not."""
    fit = [candidate for candidate in candidates if not candidate.fault]
    ordered = _merged(
        _by_speed([each for each in fit if not each.for_litert]), _by_speed([each for each in fit if each.for_litert])
    )
    if prefer == "auto":
        reason = _reason(ordered[0], candidates) + _elsewhere(ordered)
        return Choice(order=tuple(candidate.name for candidate in ordered), reason=reason)
    if prefer not in {candidate.name for candidate in fit}:
        fault = next((candidate.fault for candidate in candidates if candidate.name == prefer), "was not tried")
        raise SettingsRejected(f"{prefer} cannot be preferred: it {fault}. Allow a larger --budget, or prefer another variant.")
    ordered.sort(key=lambda candidate: candidate.name != prefer)
    return Choice(order=tuple(candidate.name for candidate in ordered), reason=f"{prefer} first, as asked for.")


def _by_speed(fit: Sequence[Candidate]) -> list[Candidate]:
    """By arithmetic, but that what is clearly faster than the first, and in no doubt, goes before it."""
    ordered = sorted(fit, key=lambda candidate: candidate.place)
    sure = [each for each in ordered if each.cost is not None and not each.unsure]
    fastest = min(sure, key=lambda each: each.cost or 0.0, default=None)
    if fastest is None or not _clearly_faster(fastest, ordered[0]):
        return ordered
    return [fastest, *(each for each in ordered if each is not fastest)]


def _merged(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> list[Candidate]:
    """Two engines' variants in one order, each engine's kept: of the two that come next, the clearly faster one goes first."""
    left, right, merged = list(ours), list(theirs), list[Candidate]()
    while left and right:
        behind = _goes_before(right[0], left[0])
        merged.append((right if behind else left).pop(0))
    return [*merged, *left, *right]


def _goes_before(one: Candidate, other: Candidate) -> bool:
    alike = (one.slower, one.unsure) == (other.slower, other.unsure)
    if alike and _clearly_faster(other, one):
        return False
    return (alike and _clearly_faster(one, other)) or one.place < other.place


def _clearly_faster(one: Candidate, other: Candidate) -> bool:
    return one.cost is not None and other.cost is not None and one.cost <= _CLEARLY * other.cost


def _elsewhere(ordered: Sequence[Candidate]) -> str:
    """What devices take that lack the first one's engine, where there is something for them."""
    first = ordered[0]
    other = next((each for each in ordered if each.for_litert != first.for_litert), None)
    if other is None or not first.for_litert:
        return ""
    return f" Devices without LiteRT take {other.name} first."


def _reason(first: Candidate, candidates: Sequence[Candidate]) -> str:
    passed_over = [
        f"{candidate.name} {why}"
        for candidate in candidates
        if candidate.rank < first.rank and (why := _why_not(candidate, first))
    ]
    because = f"; {', and '.join(passed_over)}" if passed_over else ""
    if first.slower:
        return f"{first.name} first: within the accuracy budget; slower than float on the machine that converted, as all are."
    if first.name == FLOAT.name:
        return f"{first.name} first{because}."
    return f"{first.name} first: within the accuracy budget and not slower than float{because}."


def _why_not(candidate: Candidate, first: Candidate) -> str:
    if candidate.fault or candidate.unsure:
        return candidate.fault or candidate.doubt
    if candidate.slower:
        return "was slower than float on the machine that converted"
    return "was clearly slower" if _clearly_faster(first, candidate) else ""
