"""Who may run now, who waits, and who is refused: the bounded line before a model. Pure: times come as arguments.

A line decides and returns; who asks it (`runtime.hosting.room`) wakes those who may go and tells those who must. The more
important go first, and equals in the order in which they came. When the line is full, a more important request takes the place
of the least important that came last. A request whose deadline is over is never run. Seconds are of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Generic, NamedTuple, TypeVar

from runtime.errors import DeadlineExceeded, Overloaded, RuntimeFailure

WAITING: Final = 128
HANG_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one model is asked at once. `running`: so many at the same time (1 or more); `waiting`: so many behind them.

    A run that takes longer than `hang_s` seconds counts as hung; when all places are taken by such, requests are refused.
    """

    running: int
    waiting: int = WAITING
    hang_s: float = HANG_S
    aside: bool = False
    """Whether requests never run on an event loop's own thread, however quick the model is."""

    def __post_init__(self) -> None:
        if self.running < 1 or self.waiting < 0 or not self.hang_s > 0:
            raise ValueError(f"{self} admits nobody: running is at least 1, waiting at least 0, hang_s above 0.")

    def for_batches(self, most: int) -> Limits:
        """The same, for a model that runs up to `most` requests together: as many must be in, and none holds up a loop."""
        return replace(self, running=max(most, self.running), aside=True)


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in line. `deadline`: infinite when it has none; a larger `priority` goes first."""

    deadline: float = inf
    priority: int = 0


W = TypeVar("W", bound=Waiter)


class Sent(NamedTuple, Generic[W]):
    """One that must leave the line unanswered, and why."""

    waiter: W
    why: RuntimeFailure


class Line(Generic[W]):
    """Those who wait for one model, which people know as `name`; `places` bounds their number."""

    def __init__(self, name: str, places: int) -> None:
        self._name = name
        self._places = places
        self._waiting: list[W] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiter: W, now: float) -> list[Sent[W]]:
        """Stand in line, and who must leave it for that. Raises `Overloaded` or `DeadlineExceeded`: not even in line."""
        if waiter.deadline <= now:
            raise self._late()
        sent = self._expired(now) if len(self._waiting) >= self._places else []
        if len(self._waiting) >= self._places:
            last = min(reversed(self._waiting), key=_priority, default=None)
            if last is None or last.priority >= waiter.priority:
                raise self._full()
            self._waiting.remove(last)
            sent.append(Sent(last, self._full()))
        self._waiting.append(waiter)
        return sent

    def next(self, now: float) -> tuple[W | None, list[Sent[W]]]:
        """Who goes now (None: nobody waits), out of the line; and those for whom it is too late."""
        sent = self._expired(now)
        if not self._waiting:
            return None, sent
        first = max(self._waiting, key=_priority)
        self._waiting.remove(first)
        return first, sent

    def leave(self, waiter: W, now: float) -> DeadlineExceeded | None:
        """Take one out whose deadline is over; None when it is not, and it stands where it stood."""
        if waiter.deadline > now:
            return None
        self._waiting.remove(waiter)
        return self._late()

    def remove(self, waiter: W) -> None:
        """Take one out who waits no more."""
        self._waiting.remove(waiter)

    def empty(self) -> Sequence[W]:
        """Everybody out, in the order in which they would have gone."""
        everybody = sorted(self._waiting, key=_priority, reverse=True)
        self._waiting.clear()
        return everybody

    def _expired(self, now: float) -> list[Sent[W]]:
        sent = [Sent(each, self._late()) for each in self._waiting if each.deadline <= now]
        if sent:
            self._waiting = [each for each in self._waiting if each.deadline > now]
        return sent

    def _full(self) -> Overloaded:
        waiting = f"{self._places} requests wait for it already" if self._places else "no request may wait for it"
        return Overloaded(f"{self._name} is busy and {waiting}. Ask again in a second, or ask less often.")

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._name} could not begin this request before its deadline. Allow more time, or ask later."
        )


def _priority(waiter: Waiter) -> int:
    return waiter.priority
