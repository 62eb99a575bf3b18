"""`ModelPool`: several models under one memory budget, each loaded when it is first asked for.

    pool = ModelPool(budget_bytes=200_000_000)
    pool.offer(sources.find(Path("digits.onnx")))
    pool.infer("digits", {"pixels": batch})        # loads it, once, however many ask

What a model takes is measured, in a child process, before it is loaded here for the first time. When there is no room, those
that were not asked for the longest time go (`runtime.hosting.eviction`); a model for which there can be no room is refused, and
nothing goes for it. A loaded model answers as in `ModelHost`, at the same cost. What requests take while they run is not in the
budget.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

from fleet_io.clock import Clock, SystemClock
from fleet_protocol.telemetry import ModelUsage
from runtime.engine import Array
from runtime.errors import ChildFailed, DeadlineExceeded, ModelRejected, NotServing, Overloaded, RuntimeFailure
from runtime.hosting import memory
from runtime.hosting.admission import Limits
from runtime.hosting.entrance import Place
from runtime.hosting.eviction import Newcomer, Resident, choose
from runtime.hosting.host import ModelHost, default_limits
from runtime.hosting.room import Inference, ModelIdentity, Observer, Served
from runtime.hosting.serving import Standing
from runtime.model import Model
from runtime.sources import Source

WEIGHING_TIMEOUT_S: Final = 120.0
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 60.0
"""After a load that failed, the next one is tried so much later: twice as long each time."""


class Loader(Protocol):
    """How models come into memory."""

    def weigh(self, source: Source) -> int:
        """Bytes of anonymous memory that it takes once it is loaded. Raises `RuntimeFailure`."""
        ...

    def open(self, source: Source) -> Model:
        """Load it. Raises `RuntimeFailure`."""
        ...


class InProcess:
    """Loads models into this process; see `Loader`. `threads` bounds the threads of one inference.

    `crowds`: many ask at once, and there is memory for a second engine of each model (`runtime.hosting.abreast`).
    """

    def __init__(self, *, threads: int | None = None, crowds: bool = False) -> None:
        self._threads = threads
        self._crowds = crowds

    def weigh(self, source: Source) -> int:
        """See `Loader`. In a child process, so that a model which crashes on loading crashes there."""
        from runtime.children import Child  # what only a memory budget needs
        from runtime.hosting import weighing_child
        from runtime.hosting.order import ToOpen

        order = ToOpen.of(source, source.path, threads=self._threads)
        try:
            with Child(weighing_child.__name__) as child:
                return child.ask(order, weighing_child.Weighed, timeout_s=WEIGHING_TIMEOUT_S).memory_bytes
        except ChildFailed as error:
            raise ModelRejected(f"{source.path} cannot be loaded: {error}") from error

    def open(self, source: Source) -> Model:
        """See `Loader`."""
        return (source.load_for_many if self._crowds else source.load)(threads=self._threads)


@dataclass(slots=True, eq=False)
class _Entry:
    """One model of the pool. Guarded by the pool's lock."""

    source: Source
    priority: int
    pinned: bool
    weight: int | None = None
    """What it takes, once that is known."""
    held: int = 0
    """What it takes now: its weight from the decision to load it until it goes."""
    loading: Future[None] | None = None
    rests_until: float = 0.0
    rest_s: float = _FIRST_REST_S
    failure: RuntimeFailure | None = None
    loads: int = 0
    evictions: int = 0


class ModelPool:
    """Models by name, some of them loaded. Every method may be called from any thread; `budget_bytes` None: no bound."""

    def __init__(
        self,
        *,
        budget_bytes: int | None = None,
        loader: Loader | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._loader = loader or InProcess()
        self._clock = clock or SystemClock()
        self._limits = limits or default_limits()
        self._host = ModelHost(self._clock, limits=self._limits)
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def offer(self, source: Source, *, priority: int = 0, pinned: bool = False) -> None:
        """Answer for this model from now on; it is loaded when it is asked for. One of the same name is replaced.

        It never takes the room of a model of larger `priority`, and a `pinned` one never goes for another.
        """
        with self._lock:
            self._entries[source.identity.model] = _Entry(source, priority, pinned)
        self._host.deactivate(source.identity.model)

    def withdraw(self, model_name: str) -> None:
        """Answer for it no more; one that is not here is none to withdraw."""
        with self._lock:
            self._entries.pop(model_name, None)
        self._host.deactivate(model_name)
        memory.give_back_soon()

    def infer(
        self,
        model_name: str,
        inputs: Mapping[str, Array],
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Inference:
        """See `ModelHost.infer`; loads the model where that is needed.

        Raises `MemoryBudgetExceeded` or `ModelRejected` as well.
        """
        while True:
            try:
                return self._host.infer(model_name, inputs, version=version, deadline=deadline, priority=priority)
            except NotServing:
                self._check_version(model_name, version)
                self.fetch(model_name, deadline=deadline)

    def place(
        self,
        model_name: str,
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: int = 0,
    ) -> Place:
        """See `ModelHost.place`, of a model that is at hand."""
        try:
            return self._host.place(model_name, version=version, deadline=deadline, priority=priority)
        except NotServing:
            self._check_version(model_name, version)
            raise Overloaded(f"{model_name} had to make room for another model just now. Ask again.") from None

    def at_hand(self, model_name: str) -> bool:
        """See `runtime.hosting.serving.Serving`."""
        return model_name not in self._entries or self._host.is_active(model_name)

    def fetch(self, model_name: str, *, deadline: float | None = None) -> None:
        """Load the model, or wait while another thread does. Raises `RuntimeFailure`."""
        with self._lock:
            entry = self._entry(model_name)
            if self._host.is_active(model_name):
                return
            loading, mine = entry.loading, entry.loading is None
            if loading is None:
                if entry.failure is not None and self._clock.monotonic() < entry.rests_until:
                    raise type(entry.failure)(str(entry.failure))  # anew: one that is raised again keeps all its tracebacks
                loading = entry.loading = Future()
        if mine:
            self._load(model_name, entry, loading)
        try:
            loading.result(None if deadline is None else max(0.0, deadline - self._clock.monotonic()))
        except TimeoutError:
            raise DeadlineExceeded(f"{model_name} is still being loaded. Allow more time, or ask later.") from None

    def reload(self, source: Source) -> None:
        """Load `source` and let it answer for its name, as important as before. Raises `RuntimeFailure`: all is as it was."""
        name = source.identity.model
        with self._lock:
            known = self._entries.get(name)
        entry = _Entry(source, known.priority, known.pinned) if known else _Entry(source, 0, pinned=False)
        self._bring_in(name, entry, replacing=known)

    def describe(self, model_name: str, *, version: str | None = None) -> Served:
        """What answers under that name; loads it where that is needed. Raises `RuntimeFailure`."""
        while True:
            try:
                return self._host.describe(model_name, version=version)
            except NotServing:
                self._check_version(model_name, version)
                self.fetch(model_name)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Everything that answers when asked, ordered by model name."""
        with self._lock:
            return tuple(self._entries[name].source.identity for name in sorted(self._entries))

    def active(self) -> tuple[Served, ...]:
        """Everything that is loaded, ordered by model name."""
        return self._host.active()

    def standings(self) -> tuple[Standing, ...]:
        """Everything that answers when asked, ordered by model name."""
        with self._lock:
            entries = [self._entries[name] for name in sorted(self._entries)]
            return tuple(Standing(each.source.identity, each.held, each.loads, each.evictions) for each in entries)

    def observe(self, model_name: str, observer: Observer | None) -> None:
        """See `ModelHost.observe`."""
        self._host.observe(model_name, observer)

    def observer(self, model_name: str) -> Observer | None:
        """See `ModelHost.observer`."""
        return self._host.observer(model_name)

    def take_usage(self, now: float) -> list[ModelUsage]:
        """See `ModelHost.take_usage`."""
        return self._host.take_usage(now)

    def close(self) -> None:
        """Let go of all models."""
        for identity in self.identities():
            self.withdraw(identity.model)

    def _entry(self, model_name: str) -> _Entry:
        entry = self._entries.get(model_name)
        if entry is None:
            there = ", ".join(sorted(self._entries)) or "none"
            raise NotServing(f"No model {model_name!r} is offered here. Offered: {there}.")
        return entry

    def _check_version(self, model_name: str, version: str | None) -> None:
        with self._lock:
            there = self._entry(model_name).source.identity.version
        if version not in (None, there):
            raise NotServing(f"{model_name} {version} is not active here; {there} is.")

    def _load(self, name: str, entry: _Entry, loading: Future[None]) -> None:
        """Load it on this thread; whoever waits for `loading` hears how it went."""
        try:
            self._bring_in(name, entry, replacing=entry)
        except RuntimeFailure as error:
            self._rest(entry, error)
            loading.set_exception(error)
        except BaseException as error:
            self._rest(entry, ModelRejected(f"{name} cannot be loaded: {error!r}"))
            loading.set_exception(error)
            raise
        else:
            with self._lock:
                entry.loading, entry.failure, entry.rest_s = None, None, _FIRST_REST_S
            loading.set_result(None)

    def _rest(self, entry: _Entry, error: RuntimeFailure) -> None:
        with self._lock:
            entry.loading, entry.held = None, 0
            if isinstance(error, ModelRejected):  # where room is wanting, the next one may find some
                entry.failure, entry.rests_until = error, self._clock.monotonic() + entry.rest_s
                entry.rest_s = min(2 * entry.rest_s, _LONGEST_REST_S)

    def _bring_in(self, name: str, entry: _Entry, *, replacing: _Entry | None) -> None:
        source = entry.source
        source.check_unchanged()
        if self.budget_bytes is not None:
            if entry.weight is None:
                entry.weight = self._loader.weigh(source)
            self._make_room(name, entry, entry.weight, self.budget_bytes)
        model = self._loader.open(source)
        with self._lock:
            wanted = self._entries.get(name) is replacing
            if wanted:
                self._entries[name] = entry
                entry.loads += 1
                limits = self._limits if source.batch == 1 else self._limits.for_batches(source.batch)
                self._host.activate(source.identity, model, source.labels, limits=limits)
        if not wanted:
            model.close()
            raise NotServing(f"{name} was withdrawn while it was loaded. Offer it again.")

    def _make_room(self, name: str, entry: _Entry, weight: int, budget_bytes: int) -> None:
        with self._lock:
            loaded = {served.identity.model: served for served in self._host.active()}
            residents = [_resident(other, each, loaded.get(other)) for other, each in self._entries.items() if each.held]
            leaving = choose(Newcomer(name, weight, entry.priority), residents, budget_bytes)
            for each in leaving:
                self._entries[each.name].held = 0
                self._entries[each.name].evictions += 1
                self._host.deactivate(each.name)
            entry.held = weight
        if leaving:
            memory.give_back()


def _resident(name: str, entry: _Entry, served: Served | None) -> Resident:
    if served is None:  # it is being loaded
        return Resident(name, entry.held, entry.priority, entry.pinned, busy=True)
    busy = bool(served.running or served.waiting)
    return Resident(name, entry.held, entry.priority, entry.pinned, busy=busy, idle_s=served.idle_s)
