"""Time and chance: the only module where the system's clock and random numbers may be read (a lint rule keeps it so)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

Chance = Callable[[], float]
"""Gives a number in [0, 1), each time another."""


class Clock(Protocol):
    """Where time comes from. `SystemClock` is real; simulations bring their own."""

    def now(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""
        ...


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some start."""
        return time.monotonic()


def quick_chance() -> Chance:
    """Random numbers at a tenth of the cost, seeded by the operating system: for samples drawn while a client waits."""
    return random.Random().random  # noqa: S311  # no secret


def system_chance() -> Chance:
    """Random numbers from the operating system, for jitter; never for secrets (`secrets` is for those)."""
    return random.SystemRandom().random
