"""Which models must go to make room for another within a memory budget. Pure: it decides, and `runtime.hosting.pool` performs.

The least important go first, and of equals those that were not asked for the longest time; no more than needed. Pinned models,
models that are more important than the one that comes, and models that are answering now stay. Either there is room in the
end, or nothing goes at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import MemoryBudgetExceeded, Overloaded


@dataclass(frozen=True, slots=True)
class Resident:
    """One model in memory. `busy`: it is answering, or being loaded."""

    name: str
    memory_bytes: int
    priority: int = 0
    pinned: bool = False
    busy: bool = False
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A model that wants in."""

    name: str
    memory_bytes: int
    priority: int = 0


def choose(newcomer: Newcomer, residents: Iterable[Resident], budget_bytes: int) -> list[Resident]:
    """Who goes. Raises `MemoryBudgetExceeded` when there can be no room, and `Overloaded` when there is none just now."""
    residents = [each for each in residents if each.name != newcomer.name]
    needed = sum(each.memory_bytes for each in residents) + newcomer.memory_bytes - budget_bytes
    evictable = [each for each in residents if not each.pinned and each.priority <= newcomer.priority]
    if needed > sum(each.memory_bytes for each in evictable):
        raise MemoryBudgetExceeded(_no_room(newcomer, residents, evictable, budget_bytes))
    chosen: list[Resident] = []
    for each in sorted(evictable, key=lambda each: (each.priority, -each.idle_s)):
        if needed <= 0:
            break
        if not each.busy:
            chosen.append(each)
            needed -= each.memory_bytes
    if needed > 0:
        busy = ", ".join(each.name for each in evictable if each.busy)
        raise Overloaded(f"{newcomer.name} can be loaded only when one of these is idle: {busy}. Ask again in a second.")
    return _without_excess(chosen, -needed)


def _without_excess(chosen: list[Resident], spare: int) -> list[Resident]:
    """Those of the chosen that must really go: a small one chosen first may stay when a large one goes as well."""
    kept: list[Resident] = []
    for each in reversed(chosen):
        if each.memory_bytes <= spare:
            spare -= each.memory_bytes
        else:
            kept.append(each)
    return kept[::-1]


def _no_room(newcomer: Newcomer, residents: list[Resident], evictable: list[Resident], budget_bytes: int) -> str:
    staying = [each for each in residents if each not in evictable]
    held = f", of which {_mb(sum(each.memory_bytes for each in staying))} MB are kept for others" if staying else ""
    return (
        f"{newcomer.name} takes {_mb(newcomer.memory_bytes)} MB, and the budget is {_mb(budget_bytes)} MB{held}. "
        "Raise the memory budget, or use a smaller variant."
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
