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

SLOWER: Final = 1.10
"""From this latency ratio to float a variant counts as slower: smaller differences are the measurement's own noise."""

_SMALLER: Final = 0.95
"""From this ratio of sizes down a trained model counts as smaller."""

_RANK: Final = (
    "int8-static", "tflite-int8", "int8-dynamic", "int8-weights", "tflite-int8-weights", "tflite-int8-dynamic", "float32",
    "tflite-float32",
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

    @property
    def slower(self) -> bool:
        """Whether it was measured to be slower than float."""
        return self.latency_ratio is not None and self.latency_ratio > SLOWER

    @property
    def rank(self) -> int:
        """Of its arithmetic, smallest first."""
        return _RANK.index(self.kind or self.name)

    @property
    def place(self) -> tuple[bool, int, float, bool, str]:
        """Where it stands among the others: least first."""
        smaller = self.size_ratio if self.size_ratio < _SMALLER else 1.0
        return (self.slower, self.rank, smaller, bool(self.kind), self.name)


@dataclass(frozen=True)
class Choice:
    """Variants to ship, preferred first, and why in that order."""

    order: tuple[str, ...]
    reason: str


def choose(candidates: Sequence[Candidate], prefer: Preference) -> Choice:
    """Order what may ship. Raises `SettingsRejected` when the variant that was asked for may not."""
    fit = [candidate for candidate in candidates if not candidate.fault]
    if prefer == "auto":
        ordered = sorted(fit, key=lambda candidate: candidate.place)
        return Choice(order=tuple(candidate.name for candidate in ordered), reason=_reason(ordered[0], candidates))
    if prefer not in {candidate.name for candidate in fit}:
        fault = next((candidate.fault for candidate in candidates if candidate.name == prefer), "was not tried")
        raise SettingsRejected(f"{prefer} cannot be preferred: it {fault}. Allow a larger --budget, or prefer another variant.")
    ordered = sorted(fit, key=lambda candidate: (candidate.name != prefer, candidate.place))
    return Choice(order=tuple(candidate.name for candidate in ordered), reason=f"{prefer} first, as asked for.")


def _reason(first: Candidate, candidates: Sequence[Candidate]) -> str:
    passed_over = [
        f"{candidate.name} {candidate.fault or 'was slower than float on the machine that converted'}"
        for candidate in candidates
        if candidate.rank < first.rank and (candidate.fault or candidate.slower)
    ]
    because = f"; {', and '.join(passed_over)}" if passed_over else ""
    if first.name == FLOAT.name:
        return f"{first.name} first{because}."
    return f"{first.name} first: within the accuracy budget and not slower than float{because}."
