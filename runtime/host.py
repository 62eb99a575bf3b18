"""`ModelHost`: the room where models answer while versions change under them.

A request takes the version that is active when it enters, is answered by that version alone and names it, whatever happens
meanwhile. A switch is one assignment; the old version is closed by its last user. So no request fails because of a switch,
and none is answered by two versions. Requests run on the caller's own thread: a queue would cost ten times a small model's run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from fleet_io.clock import Clock, SystemClock
from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput, NotServing
from runtime.model import Model
from runtime.usage import ErrorKind, UsageCounter, all_finite

_KEPT_USAGES: Final = 64
"""Usages of former versions that wait for `take_usage`; a host that nobody asks must not grow."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What answers: a release of a model, and which of its variants. `manifest` is the manifest's digest."""

    model: str
    version: str
    manifest: str
    variant: str


class Inference(NamedTuple):
    """One answer. `finite` is False when an output holds NaN or infinity: counted as an error, and not to be trusted.

    `labels` are the version's class names.
    """

    outputs: dict[str, Array]
    identity: ModelIdentity
    finite: bool = True
    labels: tuple[str, ...] = ()


class Observer(Protocol):
    """Is told every answer, on the thread that asked for it: it must be quick, raise nothing, and change no array."""

    def __call__(self, inputs: Mapping[str, Array], inference: Inference, seconds: float) -> None:
        """One answer, and the seconds that the model took for it."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model as it is active now. `typical_s` is its smoothed latency in seconds, None before the first answer."""

    identity: ModelIdentity
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    typical_s: float | None


@dataclass(slots=True, eq=False)
class _Room:
    """One activation: who is inside, and what was counted. Guarded by the host's lock."""

    identity: ModelIdentity
    model: Model
    labels: tuple[str, ...]
    usage: UsageCounter
    users: int = 0
    retired: bool = False
    owns: bool = True
    """Whether the model ends with this room; not when the next room took it over."""

    def is_over(self) -> bool:
        """Whether nobody is inside any more and the model can be closed."""
        return self.retired and self.owns and not self.users


class ModelHost:
    """The active version of each model. Every method may be called from any thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}
        self._former: deque[_Room] = deque(maxlen=_KEPT_USAGES)
        self._observers: dict[str, Observer] = {}

    def activate(self, identity: ModelIdentity, model: Model, labels: tuple[str, ...] = ()) -> None:
        """Let `model` answer for `identity.model` from now on. The host owns it, and closes it when another replaces it."""
        room = _Room(identity, model, labels, UsageCounter(model.outputs, labels, self._clock.now()))
        with self._lock:
            former = self._rooms.get(identity.model)
            self._rooms[identity.model] = room
            over = former is not None and self._retire(former, successor=model)
        if former is not None and over:
            former.model.close()

    def deactivate(self, model_name: str) -> None:
        """Stop answering for that model; one that is not active is none to stop."""
        with self._lock:
            former = self._rooms.pop(model_name, None)
            over = former is not None and self._retire(former, successor=None)
        if former is not None and over:
            former.model.close()

    def infer(self, model_name: str, inputs: Mapping[str, Array], *, version: str | None = None) -> Inference:
        """The active version's answer. `version`: only if that is the one that is active.

        Raises `NotServing`, `InvalidInput` or `InferenceFailed`.
        """
        room = self._enter(model_name, version)
        try:
            started = time.perf_counter()
            outputs = room.model(inputs)
            seconds = time.perf_counter() - started
            finite = all_finite(outputs)
            classes = room.usage.classes_of(outputs) if finite else None
            blame: ErrorKind = "non_finite" if finite or all_finite(inputs) else "invalid_input"
        except InvalidInput:
            self._leave_failed(room, "invalid_input")
            raise
        except BaseException:
            self._leave_failed(room, "failed")
            raise
        self._leave(room, seconds, classes, blame)
        inference = Inference(outputs, room.identity, finite, room.labels)
        if self._observers:
            self._observed(model_name, inputs, inference, seconds)
        return inference

    def observe(self, model_name: str, observer: Observer | None) -> None:
        """Tell `observer` that model's answers from now on, whichever version gives them; None: nobody."""
        with self._lock:
            if observer is None:
                self._observers.pop(model_name, None)
            else:
                self._observers[model_name] = observer

    def observer(self, model_name: str) -> Observer | None:
        """Who is told that model's answers."""
        return self._observers.get(model_name)

    def describe(self, model_name: str, *, version: str | None = None) -> Served:
        """What is active under that name. Raises `NotServing`."""
        with self._lock:
            room = self._active(model_name, version)
            model, typical_s = room.model, room.usage.typical_s
        return Served(room.identity, model.engine, model.inputs, model.outputs, room.labels, typical_s)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """What is active now, ordered by model name."""
        with self._lock:
            return tuple(self._rooms[name].identity for name in sorted(self._rooms))

    def healthy(self, model_name: str) -> int:
        """Requests answered well since the active version was activated; 0 when none is active."""
        with self._lock:
            room = self._rooms.get(model_name)
            return room.usage.healthy if room else 0

    def errors(self, model_name: str) -> int:
        """Requests that the active version itself failed (not those that were wrong) since it was activated."""
        with self._lock:
            room = self._rooms.get(model_name)
            return room.usage.faults if room else 0

    def take_usage(self, now: float) -> list[ModelUsage]:
        """What each version did since the last call (`now`: epoch seconds); versions that did nothing are left out."""
        with self._lock:
            rooms = [*self._former, *self._rooms.values()]
            usages = [room.usage.take(now, **_names(room.identity)) for room in rooms]
            working = [room for room in self._former if room.users]
            self._former.clear()
            self._former.extend(working)
        return [usage for usage in usages if usage is not None]

    def _observed(self, model_name: str, inputs: Mapping[str, Array], inference: Inference, seconds: float) -> None:
        observer = self._observers.get(model_name)
        if observer is not None:
            observer(inputs, inference, seconds)

    def _retire(self, room: _Room, *, successor: Model | None) -> bool:
        """Take the room out of use; whether nobody is inside, so that its model can be closed now."""
        room.retired = True
        room.owns = room.model is not successor
        self._former.append(room)
        return room.is_over()

    def _active(self, model_name: str, version: str | None) -> _Room:
        room = self._rooms.get(model_name)
        if room is None:
            there = ", ".join(sorted(self._rooms)) or "none"
            raise NotServing(f"No model {model_name!r} is active here. Active: {there}.")
        if version is not None and version != room.identity.version:
            raise NotServing(f"{model_name} {version} is not active here; {room.identity.version} is.")
        return room

    def _enter(self, model_name: str, version: str | None) -> _Room:
        with self._lock:
            room = self._active(model_name, version)
            room.users += 1
        return room

    def _leave(self, room: _Room, seconds: float, classes: list[int] | None, blame: ErrorKind) -> None:
        """Out of the room with an answer; `classes` None: one that is not finite, for which `blame` says whose fault it was."""
        with self._lock:
            if classes is None:
                room.usage.not_finite(seconds, blame)
            else:
                room.usage.answered(seconds, classes)
            room.users -= 1
            over = room.is_over()
        if over:
            room.model.close()

    def _leave_failed(self, room: _Room, kind: ErrorKind) -> None:
        with self._lock:
            room.usage.failed(kind)
            room.users -= 1
            over = room.is_over()
        if over:
            room.model.close()


def _names(identity: ModelIdentity) -> dict[str, str]:
    return {
        "model": identity.model,
        "version": identity.version,
        "manifest": identity.manifest,
        "variant": identity.variant,
    }
