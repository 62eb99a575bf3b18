"""`ModelHost`: where models answer while versions change under them.

A request takes the version that is active when it enters, is answered by that version alone and names it, whatever happens
meanwhile. A switch is one assignment; the old version is closed by its last user. So no request fails because of a switch,
and none is answered by two versions. Requests run on the caller's own thread: a queue would cost ten times a small model's run.
Only when as many run as may (`Limits`) does a request wait, in a bounded line, and beyond that it is refused at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from fleet_io.clock import Clock, SystemClock
from fleet_protocol.telemetry import ModelUsage
from runtime.device_facts import usable_cores
from runtime.engine import Array
from runtime.hosting.admission import WAITING, Limits
from runtime.hosting.entrance import Entrance, Place
from runtime.hosting.room import Inference, ModelIdentity, Observer, Room, Served
from runtime.hosting.serving import Standing
from runtime.hosting.usage import UsageCounter
from runtime.model import Model

__all__ = ["Inference", "ModelHost", "ModelIdentity", "Observer", "Served", "default_limits"]

_KEPT_USAGES: Final = 64
"""Usages of former versions that wait for `take_usage`; a host that nobody asks must not grow."""


def default_limits(*, waiting: int = WAITING) -> Limits:
    """One run more at once than this process has cores: one of them is always read, written, or handed to its thread."""
    return Limits(running=usable_cores() + 1, waiting=waiting)


class ModelHost:
    """The active version of each model. Every method may be called from any thread."""

    def __init__(self, clock: Clock | None = None, *, limits: Limits | None = None) -> None:
        self._clock = clock or SystemClock()
        self._limits = limits or default_limits()
        self._entrance = Entrance(self._clock)
        self._lock = self._entrance.lock
        self._rooms = self._entrance.rooms
        self._former: deque[Room] = deque(maxlen=_KEPT_USAGES)
        self._observers: dict[str, Observer] = {}

    def activate(
        self, identity: ModelIdentity, model: Model, labels: tuple[str, ...] = (), *, limits: Limits | None = None
    ) -> None:
        """Let `model` answer for `identity.model` from now on. The host owns it, and closes it when another replaces it."""
        usage = UsageCounter(model.inputs, model.outputs, labels, self._clock.now())
        room = Room(identity, model, labels, limits=limits or self._limits, usage=usage, settle=self._entrance.settle)
        room.observe(self._observers.get(identity.model))
        self._let_go(self._entrance.replace(identity.model, room))

    def deactivate(self, model_name: str) -> None:
        """Stop answering for that model; one that is not active is none to stop."""
        self._let_go(self._entrance.replace(model_name, None))

    def infer(
        self,
        model_name: str,
        inputs: Mapping[str, Array],
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Inference:
        """The active version's answer. `version`: only if that is the one that is active.

        It begins before `deadline` (seconds of the clock's `monotonic`, which is `time.monotonic`) or not at all; where
        requests wait, those of a larger `priority` go first. Raises `NotServing`, `InvalidInput` or `InferenceFailed`, and
        when too much is asked `Overloaded`, `DeadlineExceeded` or `ModelUnwell`.
        """
        room = self._rooms.get(model_name)
        if room is not None and version is None and deadline is None:
            began = room.enter()
            if began is not None:
                return room.answer(inputs, began, began)
        return self._entrance.wait_for(model_name, version=version, deadline=deadline, priority=priority).infer(inputs)

    def place(
        self,
        model_name: str,
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Place:
        """A place in which to `infer`, for who cannot wait on this thread; `Place.call` says when it is decided.

        Raises `NotServing`, `Overloaded`, `DeadlineExceeded` or `ModelUnwell`.
        """
        return self._entrance.place(model_name, version=version, deadline=deadline, priority=priority)

    def at_hand(self, model_name: str) -> bool:  # noqa: ARG002  # the same for all
        """See `runtime.hosting.serving.Serving`: what is active here is loaded."""
        return True

    def is_active(self, model_name: str) -> bool:
        """Whether any version of it answers."""
        return model_name in self._rooms

    def fetch(self, model_name: str, *, deadline: float | None = None) -> None:
        """See `runtime.hosting.serving.Serving`."""

    def standings(self) -> tuple[Standing, ...]:
        """See `runtime.hosting.serving.Serving`: here all models are loaded, and no budget bounds them."""
        return ()

    def observe(self, model_name: str, observer: Observer | None) -> None:
        """Tell `observer` that model's answers from now on, whichever version gives them; None: nobody."""
        with self._lock:
            if observer is None:
                self._observers.pop(model_name, None)
            else:
                self._observers[model_name] = observer
            if model_name in self._rooms:
                self._rooms[model_name].observe(observer)

    def observer(self, model_name: str) -> Observer | None:
        """Who is told that model's answers."""
        return self._observers.get(model_name)

    def describe(self, model_name: str, *, version: str | None = None) -> Served:
        """What is active under that name. Raises `NotServing`."""
        with self._lock:
            return self._entrance.active(model_name, version).served()

    def identities(self) -> tuple[ModelIdentity, ...]:
        """What is active now, ordered by model name."""
        with self._lock:
            return tuple(self._rooms[name].identity for name in sorted(self._rooms))

    def active(self) -> tuple[Served, ...]:
        """The same, described."""
        with self._lock:
            return tuple(self._rooms[name].served() for name in sorted(self._rooms))

    def healthy(self, model_name: str) -> int:
        """Requests answered well since the active version was activated; 0 when none is active."""
        room = self._rooms.get(model_name)
        return room.usage.healthy if room else 0

    def errors(self, model_name: str) -> int:
        """Requests that the active version itself failed (not those that were wrong) since it was activated."""
        room = self._rooms.get(model_name)
        return room.usage.faults if room else 0

    def take_usage(self, now: float) -> list[ModelUsage]:
        """What each version did since the last call (`now`: epoch seconds); versions that did nothing are left out."""
        with self._lock:
            rooms = [*self._former, *self._rooms.values()]
            working = [room for room in self._former if room.inside]
            usages = [room.usage.take(now, **_names(room.identity)) for room in rooms]
            self._former.clear()
            self._former.extend(working)
        return [usage for usage in usages if usage is not None]

    def _let_go(self, former: Room | None) -> None:
        if former is not None:
            with self._lock:
                self._former.append(former)


def _names(identity: ModelIdentity) -> dict[str, str]:
    return {
        "model": identity.model,
        "version": identity.version,
        "manifest": identity.manifest,
        "variant": identity.variant,
    }
