"""Who gets into which model's room: places, the line before them, and what becomes of both when a version changes.

Deciding is `runtime.hosting.admission`'s; here is the lock, and those who wait are told. A place is asked for and had at once,
or is told later, on whatever thread somebody leaves. Nobody is told anything while the lock is held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Final

from fleet_io.clock import Clock
from runtime.engine import Array
from runtime.errors import NotServing, RuntimeFailure
from runtime.hosting import memory
from runtime.hosting.admission import Sent, Waiter
from runtime.hosting.room import Inference, Room

_LEAST_PATIENCE_S: Final = 0.001


class Place(Waiter):
    """One request's place in a model's room: it has one, waits for one, or was refused. Made by `Entrance.place`.

    Once it is decided, call `infer`, or `give_back`, once; `give_back` at any time ends it.
    """

    __slots__ = ("_began", "_entrance", "_why", "_woken", "room", "version")

    def __init__(self, entrance: Entrance, version: str | None, deadline: float, priority: int) -> None:
        self.deadline, self.priority = deadline, priority
        self.version = version
        self.room: Room | None = None
        """Which it is in, or waits for."""
        self._entrance = entrance
        self._woken: Callable[[], object] | None = None
        self._began: float | None = None
        self._why: RuntimeFailure | None = None

    @property
    def decided(self) -> bool:
        """Whether the wait is over, well or not."""
        return self._began is not None or self._why is not None

    def call(self, woken: Callable[[], object]) -> None:
        """Call `woken` when it is decided, on whatever thread that happens; ask afterwards whether it was already."""
        self._woken = woken

    def patience(self) -> float | None:
        """After how many seconds to look again if nobody was told anything till then; None when it is decided."""
        return None if self.decided else self._entrance.look(self)

    def entered(self) -> Room:
        """What it is a place in. Raises why there is none."""
        if self._why is not None:
            raise self._why
        assert self.room is not None
        return self.room

    def infer(self, inputs: Mapping[str, Array]) -> Inference:
        """The model's answer; the place is given back. Raises why there is none, or what `ModelHost.infer` raises."""
        room, began = self.entered(), self._began
        assert began is not None, "asked before it was decided"
        self._began, self._why = None, _SPENT
        return room.answer(inputs, began, time.perf_counter())

    def give_back(self) -> None:
        """Leave without an answer, from inside or from the line. Does nothing when there is nothing to leave."""
        if self._why is not None:
            return
        began = self._entrance.withdraw(self)
        if began is not None and self.room is not None:
            self.room.step_out(began)

    def take(self, room: Room, began: float) -> None:
        """It has a place. For the entrance."""
        self.room, self._began = room, began

    def refuse(self, why: RuntimeFailure) -> None:
        """It gets none. For the entrance, under its lock."""
        self._why = why

    def tell(self) -> None:
        """Wake who waits for the decision. For the entrance, without its lock."""
        if self._woken is not None:
            self._woken()

    def release(self) -> float | None:
        """When it went inside, if it is there; it is over now. For the entrance, under its lock."""
        began, self._began = self._began, None
        self._why = self._why or _SPENT
        return began


_SPENT: Final = NotServing("This place was given back. Ask for another one.")


class Entrance:
    """The rooms of one host, by model name. Every method may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        self.rooms: dict[str, Room] = {}
        """Read without the lock; changed under it."""
        self.lock = threading.Lock()
        self._clock = clock

    def place(
        self,
        model: str,
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Place:
        """A place, had at once or waited for. Raises `NotServing`, `Overloaded`, `DeadlineExceeded` or `ModelUnwell`."""
        place = Place(self, version, inf if deadline is None else deadline, priority)
        now = self._clock.monotonic()
        room = self.rooms.get(model)
        if room is not None and version in (None, room.identity.version) and place.deadline > now:
            began = room.enter()
            if began is not None:
                place.take(room, began)
                return place
        with self.lock:
            room = self.active(model, version)
            if place.deadline > now and _walk_in(room, place):
                return place
            unwell = room.unwell()
            if unwell is not None:
                raise unwell
            place.room = room
            told = _sent(room.line.join(place, now))
            told += _let_in(room, now)
        _tell(told)
        return place

    def wait_for(self, model: str, *, version: str | None, deadline: float | None, priority: int) -> Place:
        """A place in which to run now; this thread waits for it. Raises what `place` raises, when one infers."""
        place = self.place(model, version=version, deadline=deadline, priority=priority)
        if place.decided:
            return place
        turn = threading.Event()
        place.call(turn.set)
        try:
            while (patience := place.patience()) is not None:
                turn.wait(patience)
        except BaseException:
            place.give_back()
            raise
        return place

    def look(self, place: Place) -> float | None:
        """See `Place.patience`: whether its deadline is over, or the room hangs."""
        now = self._clock.monotonic()
        with self.lock:
            if place.decided or place.room is None:
                return None
            late = place.room.line.leave(place, now)
            if late is not None:
                place.refuse(late)
                return None
            unwell = place.room.unwell()
            if unwell is not None:
                place.room.line.remove(place)
                place.refuse(unwell)
                return None
            return max(_LEAST_PATIENCE_S, min(place.deadline - now, place.room.until_hung()))

    def withdraw(self, place: Place) -> float | None:
        """Take it out of the line; when it went inside, if it is there."""
        with self.lock:
            if not place.decided and place.room is not None:
                place.room.line.remove(place)
            return place.release()

    def settle(self, room: Room) -> None:
        """Somebody left: let the next in, or close what is over."""
        with self.lock:
            told = _let_in(room, self._clock.monotonic())
            over = room.is_over()
            room.closed = room.closed or over
        _tell(told)
        if over:
            room.model.close()
            memory.give_back_soon()

    def replace(self, model: str, room: Room | None) -> Room | None:
        """Let `room` answer for the model from now on, those who wait too (None: nobody does). The former room, if any."""
        now = self._clock.monotonic()
        with self.lock:
            former = self.rooms.pop(model, None)
            if room is not None:
                self.rooms[model] = room
            told = [] if former is None else _moved(former, room, now)
        _tell(told)
        if former is not None:
            self.settle(former)
        return former

    def active(self, model: str, version: str | None) -> Room:
        """The room that answers now. Raises `NotServing`. Under the lock."""
        room = self.rooms.get(model)
        if room is None:
            there = ", ".join(sorted(self.rooms)) or "none"
            raise NotServing(f"No model {model!r} is active here. Active: {there}.")
        if version is not None and version != room.identity.version:
            raise _another(room, version)
        return room


def _walk_in(room: Room, place: Place) -> bool:
    """Take a free place, if nobody waits for one."""
    if room.line:
        return False
    began = time.perf_counter()
    room.inside.append(began)
    if len(room.inside) > room.places:
        room.inside.remove(began)
        return False
    place.take(room, began)
    return True


def _let_in(room: Room, now: float) -> list[Place]:
    """Those who are told: who goes in, and for whom it is too late."""
    told: list[Place] = []
    room.alert = True  # before looking who is inside: whoever leaves from now on asks again
    while room.line and len(room.inside) < room.places:
        place, late = room.line.next(now)
        told += _sent(late)
        if place is not None:
            began = time.perf_counter()
            room.inside.append(began)
            place.take(room, began)
            told.append(place)
    room.alert = room.retired or bool(room.line)
    return told


def _moved(former: Room, room: Room | None, now: float) -> list[Place]:
    """The former room is retired, and who waits before it goes over to the new one."""
    former.alert = former.retired = True
    former.owns = room is None or former.model is not room.model
    told: list[Place] = []
    for place in former.line.empty():
        try:
            if room is None:
                raise NotServing(f"{former.identity.model} was switched off while this request waited. Activate it again.")
            if place.version not in (None, room.identity.version):
                raise _another(room, place.version)
            place.room = room
            told += _sent(room.line.join(place, now))
        except RuntimeFailure as why:
            place.refuse(why)
            told.append(place)
    return told if room is None else told + _let_in(room, now)


def _sent(away: list[Sent[Place]]) -> list[Place]:
    for place, why in away:
        place.refuse(why)
    return [place for place, _ in away]


def _tell(places: list[Place]) -> None:
    for place in places:
        place.tell()


def _another(room: Room, version: str | None) -> NotServing:
    return NotServing(f"{room.identity.model} {version} is not active here; {room.identity.version} is.")
