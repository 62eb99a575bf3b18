"""Runs a candidate in the shadow of a live model: it gets copies of what clients ask, and no client ever hears of it.

    shadow = Shadow(host, "digits", runtime.sources.find(bundle))
    shadow.start()
    print(shadow.record().agreement)
    shadow.stop()

A request pays for a copy of its inputs and outputs when it is sampled, and for one subtraction when it is not: the chance of
each is drawn beforehand, as the number of requests until the next sample. The candidate runs in a process of its own with the
lowest priority, so its crashes, hangs and memory are not the live model's; a thread here hands it one copy after the other.
What shadowing costs is measured, in both processes, and kept below a share of one core; copies that wait are bounded in
number and bytes, and what does not fit is counted and let go.

May not live here: what is compared, and how (`runtime.shadowing.shadow_record`); whether a candidate is promoted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from fleet_io.clock import Chance, quick_chance
from runtime import tensor_file
from runtime.children import Child
from runtime.engine import Array
from runtime.errors import ChildFailed
from runtime.hosting.room import Inference
from runtime.hosting.serving import Serving
from runtime.shadowing.allowance import USUAL, Allowance
from runtime.shadowing.shadow_child import Open, Opened, Tried, Try
from runtime.shadowing.shadow_record import Comparison, CpuAccount, ShadowRecord, State, Tally
from runtime.sources import Source

__all__ = ["Allowance", "Shadow"]

log = logging.getLogger(__name__)

CHILD: Final = "runtime.shadowing.shadow_child"
_OPEN_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Copy:
    """One request and its live answer, as bytes."""

    order: Try
    content: list[bytes]
    live: str
    seconds: float


class Shadow:
    """One candidate beside one live model. Every method may be called from any thread; `start` and `stop` once each."""

    def __init__(
        self,
        host: Serving,
        model: str,
        candidate: Source,
        allowance: Allowance = USUAL,
        *,
        chance: Chance | None = None,
    ) -> None:
        """`model` is active on `host`, or will be. Raises `ValueError` when the allowance makes no sense."""
        if not (0 < allowance.share <= 1 and 0 < allowance.cpu_share <= 1):
            raise ValueError(f"share {allowance.share:g} and cpu_share {allowance.cpu_share:g} must lie in (0, 1].")
        self._host, self._model, self._candidate, self._allowance = host, model, candidate, allowance
        self._chance = chance or quick_chance()
        self._rarity = math.log1p(-allowance.share) if allowance.share < 1 else -math.inf
        """The logarithm of the chance that a request is not sampled."""
        self._changed = threading.Condition()
        self._waiting: deque[_Copy] = deque()
        self._held_bytes = 0
        self._taking = False
        self._state: State = "loading"
        self._why = ""
        self._tally = Tally()
        self._account: CpuAccount | None = None
        self._crashes = 0
        self._understudy: _Understudy | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"shadow-{model}", daemon=True)

    def start(self) -> None:
        """Load the candidate in its own process, off every request's way, and then take copies."""
        self._host.observe(self._model, self)
        self._thread.start()

    def stop(self) -> None:
        """Take no more copies, and end the candidate's process."""
        if self._host.observer(self._model) is self:
            self._host.observe(self._model, None)
        self._stopping.set()
        with self._changed:
            self._taking = False
            self._changed.notify_all()
            if self._understudy is not None:
                self._understudy.kill()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)

    def __call__(self, inputs: Mapping[str, Array], inference: Inference, seconds: float) -> int:
        """One live answer that was sampled; see `runtime.hosting.room.Observer`.

        Returns how many are not, till the next one: each by its own chance, whatever period the inputs have.
        """
        if not self._taking:
            if self._state == "running":  # what was spent is not earned yet
                self._let_go("over_cpu")
        elif inference.finite:
            self._offer(inputs, inference, seconds)
        return int(math.log(1 - self._chance()) / self._rarity)

    def record(self) -> ShadowRecord:
        """What was found out so far."""
        with self._changed:
            requests = dict(self._tally.requests)
            if self._waiting:
                requests["waiting"] = len(self._waiting)
            account, candidate = self._account, self._candidate.identity
            return ShadowRecord(
                model=self._model,
                live=self._tally.live,
                candidate=candidate.version,
                variant=candidate.variant,
                state=self._state,
                why=self._why or self._tally.why,
                requests=requests,
                cpu_s=account.spent if account else 0.0,
                cpu_share=account.share(time.perf_counter()) if account else 0.0,
                **self._tally.findings(),  # type: ignore[arg-type]  # its keys are fields
            )

    # On the thread of a live request

    def _offer(self, inputs: Mapping[str, Array], inference: Inference, seconds: float) -> None:
        arrays = (*inputs.values(), *inference.outputs.values())
        try:
            fits = self._has_room(sum(array.nbytes for array in arrays))
            copy = _copied(inputs, inference, seconds) if fits else None
        except (MemoryError, LookupError, TypeError, ValueError) as error:  # the live answer goes out all the same
            self._let_go("failed", f"the request could not be copied: {error!r}")
            return
        with self._changed:
            if copy is None or not self._has_room(copy.order.size):  # texts are larger than they say; others copied meanwhile
                self._tally.count("over_memory")
            elif self._taking:
                self._held_bytes += copy.order.size
                self._waiting.append(copy)
                self._changed.notify()

    def _has_room(self, size: int) -> bool:
        allowed = self._allowance
        return len(self._waiting) < allowed.queue_copies and self._held_bytes + size <= allowed.queue_bytes

    def _let_go(self, what: str, why: str = "") -> None:
        with self._changed:
            self._tally.count(what, why)

    # On the shadow's own thread

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                began = time.perf_counter()
                with _Understudy(self._candidate, self._allowance) as understudy:
                    try:
                        self._there_is(understudy)
                        self._check_inputs(understudy)
                        self._rehearse(understudy, began)
                    finally:
                        self._there_is(None)
        except (ChildFailed, OSError) as error:
            self._end(str(error))
        except Exception as error:  # a fault of ours must not be a silent end
            log.exception("the shadow of %s failed", self._model)
            self._end(f"internal error: {error!r}")
        else:
            self._end("it was stopped")

    def _there_is(self, understudy: _Understudy | None) -> None:
        with self._changed:
            self._understudy = understudy

    def _check_inputs(self, understudy: _Understudy) -> None:
        takes = {spec.name: spec.datatype for spec in understudy.inputs}
        for served in (each for each in self._host.identities() if each.model == self._model):
            live = {spec.name: spec.datatype for spec in self._host.describe(served.model).inputs}
            if takes != live:
                raise ChildFailed(f"The candidate takes {takes}, and {served.model} {served.version} takes {live}.")

    def _rehearse(self, understudy: _Understudy, began: float) -> None:
        """One copy after the other, until the process dies or the shadow is stopped. Raises `ChildFailed` for good."""
        account = self._opened_account(understudy, began)
        own = time.thread_time()
        while (copy := self._next(account)) is not None:
            began = time.perf_counter()
            died = self._tried(understudy, copy)
            own, before = time.thread_time(), own
            account.spend(understudy.spent_s() + own - before, began=began)
            if died is not None and not self._stopping.is_set():
                account.spend(time.perf_counter() - began, began=began)  # at most: it tells no more what it took
                self._count_crash(died)
                return

    def _opened_account(self, understudy: _Understudy, began: float) -> CpuAccount:
        """The account; the candidate's first load is free, and every other one is paid for."""
        with self._changed:
            if self._account is None:
                self._account, self._state = CpuAccount(self._allowance.cpu_share, now=time.perf_counter()), "running"
            else:
                self._account.spend(understudy.cpu_s, began=began)
            return self._account

    def _count_crash(self, died: str) -> None:
        self._crashes += 1
        if self._crashes >= self._allowance.crashes:
            raise ChildFailed(f"The candidate crashed or hung {self._crashes} times. {died}")
        log.warning("the candidate in the shadow of %s will be loaded again: %s", self._model, died)

    def _next(self, account: CpuAccount) -> _Copy | None:
        """The next copy, once what was spent is earned; None when the shadow stops."""
        self._take(now=False)
        self._stopping.wait(account.wait_s(time.perf_counter()))
        self._take(now=True)
        with self._changed:
            while not self._waiting and not self._stopping.is_set():
                self._changed.wait()
            return None if self._stopping.is_set() else self._waiting.popleft()

    def _take(self, *, now: bool) -> None:
        with self._changed:
            self._taking = now and not self._stopping.is_set()

    def _tried(self, understudy: _Understudy, copy: _Copy) -> str | None:
        """Why the candidate's process died on this copy; None when it lives."""
        try:
            comparison, died = understudy.ask(copy), None
        except ChildFailed as error:
            comparison, died = None, str(error)
        with self._changed:
            self._held_bytes -= copy.order.size
            if self._tally.live not in ("", copy.live):  # another version answers now, of which this says nothing
                self._tally = Tally()
            self._tally.live = copy.live
            if comparison is not None:
                self._tally.add(comparison, live_s=copy.seconds)
            elif not self._stopping.is_set():
                self._tally.count("crashed", died or "")
        return died

    def _end(self, why: str) -> None:
        if self._stopping.is_set():  # its process was killed for that
            why = "it was stopped"
        else:
            log.warning("the shadow of %s has ended; clients are answered as before: %s", self._model, why)
        with self._changed:
            self._taking, self._state, self._why = False, "ended", why
            self._waiting.clear()
            self._held_bytes = 0


class _Understudy:
    """The candidate's process, and the file through which it gets its copies."""

    def __init__(self, candidate: Source, allowance: Allowance) -> None:
        """Raises `ChildFailed` or `OSError`."""
        self._timeout_s = allowance.timeout_s
        with contextlib.ExitStack() as held:
            self._child = held.enter_context(Child(CHILD))
            with tensor_file.create() as exchange:
                order = Open(
                    model=str(candidate.path),
                    session_options=dict(candidate.session_options),
                    threads=allowance.threads,
                    memory_bytes=allowance.memory_bytes,
                    exchange=exchange.name,
                    processing=candidate.processing,
                )
                opened = self._child.ask(order, Opened, timeout_s=_OPEN_TIMEOUT_S)
                self._exchange = os.dup(exchange.fileno())
            held.callback(os.close, self._exchange)
            self._held = held.pop_all()
        self.inputs = opened.inputs
        self.cpu_s = self._known_s = opened.cpu_s
        """All CPU time that the process has told of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def kill(self) -> None:
        """End the process, whatever it is doing; whoever waits for its answer gets `ChildFailed`."""
        os.kill(self._child.pid, signal.SIGKILL)

    def ask(self, copy: _Copy) -> Comparison:
        """Hand it one copy. Raises `ChildFailed` when it dies of it."""
        tensor_file.put(self._exchange, copy.content)
        tried = self._child.ask(copy.order, Tried, timeout_s=self._timeout_s)
        self.cpu_s = tried.cpu_s
        return tried.comparison

    def spent_s(self) -> float:
        """CPU seconds since the last time."""
        spent, self._known_s = self.cpu_s - self._known_s, self.cpu_s
        return spent


def _copied(inputs: Mapping[str, Array], inference: Inference, seconds: float) -> _Copy:
    tensors, content = tensor_file.packed((*inputs.items(), *inference.outputs.items()))
    count = len(inputs)
    order = Try(inputs=tensors[:count], live=tensors[count:], size=sum(map(len, content)))
    return _Copy(order, content, inference.identity.version, seconds)
