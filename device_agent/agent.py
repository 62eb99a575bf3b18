"""The agent: one loop over one queue that owns every model's state. Transport, worker and signals only put things into it.

What happens becomes an event of the machine; the new state is journalled; then its effects are carried out: slow ones on the
worker, which answers through the queue, small ones here. `handle` and `tick` never wait, so a simulation drives them as the
loop does.
"""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Final

from device_agent import inputs
from device_agent.errors import AgentError, IllegalEvent, MessageRejected
from device_agent.events import (
    Assigned,
    Cancel,
    DeleteUnused,
    Effect,
    EmitEvent,
    Event,
    Fetch,
    Hung,
    Lost,
    Report,
    Restarted,
    Stop,
    Tick,
    Verify,
    Work,
)
from device_agent.guards import Rules
from device_agent.inputs import Input
from device_agent.journal import Entry, Journal, from_slots
from device_agent.link import Cancellation
from device_agent.machine import step
from device_agent.model_state import ModelState, to_load
from device_agent.outbox import Outbox
from device_agent.perform import Performer
from device_agent.reporter import Reporter
from device_agent.slots import Slots
from device_agent.trust import Director
from device_agent.worker import Worker
from fleet_io.clock import Chance, Clock
from fleet_io.transport import Transport
from fleet_protocol import topics
from fleet_protocol.errors import ProtocolError
from fleet_protocol.states import DesiredState, DeviceEvent
from fleet_protocol.telemetry import Lane, decode_acknowledged
from runtime import ModelHost, RuntimeFailure
from runtime.errors import NotServing
from runtime.hosting.host import Served

log = logging.getLogger(__name__)

PROBATION_LOOK_S: Final = 0.25
PROGRESS_EVERY_S: Final = 1.0
RETRY_JOURNAL_S: Final = 2.0
OUTBOX_LOOK_S: Final = 5.0
LONGEST_PAUSE_S: Final = 60.0
STABLE_S: Final = 60.0
"""A process that lived for so long is not in a crash loop."""
OVERDUE_S: Final = 1.0
OVERDUE_TIMES: Final = 10.0
"""An inference that takes longer than this, and than so many usual ones, may hang: probation waits for what comes of it."""
STARTS_TRUSTED: Final = 5
"""After so many starts in a row that did not last, a child process tries each model before this one loads it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an agent works with; each part is owned by whoever made it."""

    transport: Transport
    transfers: Worker
    """Does what needs the network."""
    worker: Worker
    """Does the rest."""
    performer: Performer
    host: ModelHost
    journal: Journal
    slots: Slots
    outbox: Outbox
    reporter: Reporter
    director: Director
    clock: Clock
    chance: Chance


class Agent:
    """One device's agent. `begin` first; then `run`, or `handle` and `tick`."""

    def __init__(self, device: str, around: Surroundings, *, rules: Rules, telemetry_interval_s: float) -> None:
        self.states: dict[str, ModelState] = {}
        self.serving = ""
        """Where applications ask this device; put in by whoever started the server."""
        self.hung = ""
        """Why this process must end at once, where an inference holds up the local server."""
        self.inputs: queue.SimpleQueue[Input] = queue.SimpleQueue()
        """Takes what a signal's handler puts in too, at whatever moment that interrupts: no other kind of queue does."""
        self._device = device
        self._around = around
        self._rules = rules
        self._interval = telemetry_interval_s
        self._desired = 0
        self._unkept: bytes | None = None
        """A desired state that the full disk did not take: it is tried again."""
        self._starts = 0
        self._plain = False
        """The last process died soon after it began: what runs is loaded as it is, in case its prepared form was the reason."""
        self._stable_at = 0.0
        self._online = False
        self._why_offline = ""
        self._running = True
        self._hanging: frozenset[str] = frozenset()
        """Models of which an inference hangs, as the fleet was told."""
        self._progress: dict[str, float] = {}
        self._reported_at = float("-inf")
        self._report_due = False
        self._next_telemetry = 0.0
        self._waiting_room: deque[tuple[str, Event]] = deque()
        """Events whose state could not be journalled: a full disk. They are tried again, in their order."""
        self._retry_at = 0.0
        self._unwritable = False
        """The journal could not be written when it was tried last."""
        self._cancellations: dict[str, Cancellation] = {}

    @property
    def is_running(self) -> bool:
        """Whether `run` still takes what comes."""
        return self._running

    def begin(self) -> None:
        """Read the journal, recover every model, and let what should run answer requests. Needs no network."""
        around = self._around
        entry = around.journal.load() or from_slots(around.slots.states())
        self._desired, self._starts = entry.desired, entry.starts + 1
        self._plain = not entry.clean and self._starts > 1
        self._stable_at = around.clock.monotonic() + STABLE_S
        self.states = {each.model: each for each in entry.models}
        self._next_telemetry = around.clock.monotonic() + self._interval * around.chance()
        pending = [(model, self._advance(model, Restarted(crashed=not entry.clean))) for model in sorted(self.states)]
        self._save_if_possible(clean=False)
        for model, effects in pending:
            self._load(model)
            self._perform(model, effects)
        around.transfers.submit(self._delete_unused)
        self._subscribe()

    def run(self) -> None:
        """Work until `inputs.Stop` comes."""
        while self._running:
            with contextlib.suppress(queue.Empty):
                self.handle(self.inputs.get(timeout=self.pause()))
            self.tick()

    def end(self) -> None:
        """Say farewell, and note in the journal that this was no crash."""
        for cancellation in self._cancellations.values():
            cancellation.cancel()
        self._starts = 0
        self._take_usage()
        self._drain()
        if self._online:
            self._around.reporter.say_farewell()
        self._save_if_possible(clean=True)

    def handle(self, item: Input) -> None:
        """Take one thing out of the queue. Never waits, and raises only what is a fault of this program."""
        if isinstance(item, inputs.DesiredArrived):
            self._take_desired(item.payload)
        elif isinstance(item, inputs.Acknowledgement):
            self._take_acknowledgement(item.payload)
        elif isinstance(item, inputs.Online):
            self._go_online()
        elif isinstance(item, inputs.Offline):
            self._go_offline(item.reason)
        elif isinstance(item, inputs.WorkDone):
            self._happen(item.model, item.result)
        elif isinstance(item, inputs.Progressed):
            self._progress[item.model] = item.share
            self._report_due = True
        elif isinstance(item, inputs.ServerHung):
            self._take_hang(item.reason)
        else:
            assert isinstance(item, inputs.StopAsked)
            self._running = False

    def tick(self) -> None:
        """Do what time asks for."""
        now = self._around.clock.monotonic()
        if now >= self._retry_at:
            self._try_again()
        for model, state in list(self.states.items()):
            if state.phase == "probation" or (state.waiting and now >= state.at):
                self._happen(model, self._tick_of(model))
        self._tell_hanging()
        if now >= self._next_telemetry:
            self._next_telemetry = now + self._interval
            self._take_usage()
        if self._starts and now >= self._stable_at:
            self._starts = 0
            self._save_if_possible(clean=False)
        self._drain()
        if self._report_due and now - self._reported_at >= PROGRESS_EVERY_S:
            self._report()

    def pause(self) -> float:
        """Seconds until `tick` has something to do, when nothing else happens."""
        now = self._around.clock.monotonic()
        moments = [self._next_telemetry, now + LONGEST_PAUSE_S]
        ready = [each for each in self.states.values() if not self._is_waiting(each.model)]
        moments += [now + PROBATION_LOOK_S for each in ready if each.phase == "probation"]
        moments += [each.at for each in ready if each.waiting]
        if self._report_due:
            moments.append(self._reported_at + PROGRESS_EVERY_S)
        if self._waiting_room or self._unkept is not None:
            moments.append(self._retry_at)
        if self._starts:
            moments.append(self._stable_at)
        if self._online and not self._around.outbox.is_empty():
            moments.append(now + OUTBOX_LOOK_S)
        return max(0.01, min(moments) - now)

    # Models

    def _happen(self, model: str, event: Event) -> None:
        """Step one model: journal first, then act. What cannot be journalled has not happened yet."""
        before = self.states.get(model)
        if before is None:
            return
        if self._is_waiting(model):
            if not isinstance(event, Tick):
                self._waiting_room.append((model, event))
            return
        try:
            effects = self._advance(model, event)
        except IllegalEvent as error:
            log.warning("passed over: %s", error)
            return
        if self.states[model] != before:
            try:
                self._save()
            except OSError:
                self.states[model] = before
                self._waiting_room.append((model, event))
                self._retry_at = self._around.clock.monotonic() + RETRY_JOURNAL_S
                return
        self._perform(model, effects)

    def _try_again(self) -> None:
        """What the disk did not take before."""
        for model, event in [self._waiting_room.popleft() for _ in range(len(self._waiting_room))]:
            self._happen(model, event)
        if self._unkept is not None:
            self._take_desired(self._unkept)

    def _tick_of(self, model: str) -> Tick:
        host = self._around.host
        try:
            served = host.describe(model)
        except NotServing:
            return Tick()
        return Tick(host.healthy(model), host.errors(model), served.hung, _is_overdue(served))

    def _tell_hanging(self) -> None:
        """Tell the fleet, once, of inferences of a committed model that hang beside others that are answered."""
        hanging = [each for each in self._around.host.active() if each.hung]
        for served in hanging:
            model, state = served.identity.model, self.states.get(served.identity.model)
            if model not in self._hanging and state is not None and state.phase != "probation":
                self._emit(model, EmitEvent("alert", f"{served.hung} inferences of {served.identity.version} hang"))
        self._hanging = frozenset(each.identity.model for each in hanging)

    def _take_hang(self, reason: str) -> None:
        """What hangs is held against the models that are at it; the journal says so before the process ends."""
        for served in self._around.host.active():
            if served.hung or _is_overdue(served):
                self._happen(served.identity.model, Hung(reason))
        self._drain()
        self.hung = reason
        self._running = False

    def _is_waiting(self, model: str) -> bool:
        return any(each == model for each, _ in self._waiting_room)

    def _advance(self, model: str, event: Event) -> tuple[Effect, ...]:
        state, effects = step(self.states[model], event, self._around.clock.monotonic(), self._rules)
        self.states[model] = state
        return effects

    def _save(self, *, clean: bool = False) -> None:
        models = tuple(self.states.values())
        try:
            self._around.journal.save(Entry(clean=clean, desired=self._desired, starts=self._starts, models=models))
        except OSError as error:
            if not self._unwritable:
                log.warning("the journal cannot be written (%s); every model stays where it is until it can", error)
            self._unwritable = True
            raise
        if self._unwritable:
            log.info("the journal can be written again")
        self._unwritable = False

    def _save_if_possible(self, *, clean: bool) -> None:
        """A full disk must not keep the device from starting or ending."""
        with contextlib.suppress(OSError):
            self._save(clean=clean)

    def _perform(self, model: str, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Work):
                if effect.work == self.states[model].work:
                    self._order(model, effect)
            elif isinstance(effect, EmitEvent):
                self._emit(model, effect)
            elif isinstance(effect, Report):
                self._report()
            elif isinstance(effect, Cancel):
                self._cancel(model)
            elif isinstance(effect, Stop):
                self._around.worker.submit(partial(self._around.performer.stop, model))
            else:
                assert isinstance(effect, DeleteUnused)
                self._around.transfers.submit(self._delete_unused)
                self._around.worker.submit(self._around.performer.tidy_workshop)

    def _order(self, model: str, work: Work) -> None:
        """Hand slow work to the worker; its result comes back through the queue."""
        cancellation = self._cancellations[model] = Cancellation()
        self._progress.pop(model, None)

        def tell(share: float) -> None:
            self.inputs.put(inputs.Progressed(model, share))

        def job() -> None:
            self.inputs.put(inputs.WorkDone(model, self._around.performer.do(model, work, tell, cancellation)))

        (self._around.transfers if isinstance(work, Fetch | Verify) else self._around.worker).submit(job)

    def _cancel(self, model: str) -> None:
        cancellation = self._cancellations.pop(model, None)
        if cancellation is not None:
            cancellation.cancel()

    def _delete_unused(self) -> None:
        """Between two transfers, so that none loses its files; everything else that is under way is named by a state."""
        self._around.performer.delete_unused(list(self.states.values()))

    def _load(self, model: str) -> None:
        state = self.states[model]
        running = to_load(state)
        if state.phase == "idle":
            self._settle_slots(state)
        if running is None:
            return
        try:
            warily = self._starts > STARTS_TRUSTED
            fault = self._around.performer.load(model, running, warily=warily, plain=self._plain)
            log.info("%s %s (%s) answers requests", model, running.version, running.variant)
            if fault:
                self._emit(model, EmitEvent("alert", fault))
        except (AgentError, RuntimeFailure, ProtocolError, OSError) as error:
            log.warning("%s %s cannot be loaded any more: %s", model, running.version, error)
            self._happen(model, Lost(f"{running.version} cannot be loaded any more: {error}"))

    def _settle_slots(self, state: ModelState) -> None:
        """A full disk must not keep a model from answering: the journal, which was read, says the same."""
        try:
            self._around.performer.settle_slots(state)
        except OSError as error:
            log.warning("the slots of %s cannot be written: %s", state.model, error)

    # Messages

    def _subscribe(self) -> None:
        transport, put = self._around.transport, self.inputs.put
        transport.subscribe(
            topics.device(self._device, "desired"), lambda message: put(inputs.DesiredArrived(message.payload)), qos=1
        )
        transport.subscribe(
            topics.device(self._device, "ack"), lambda message: put(inputs.Acknowledgement(message.payload)), qos=1
        )
        transport.on_connected(lambda: put(inputs.Online()))
        transport.on_disconnected(lambda reason: put(inputs.Offline(reason)))

    def _take_desired(self, payload: bytes) -> None:
        try:
            desired = self._around.director.accept(payload)
        except MessageRejected as error:
            log.warning("%s", error)
            if payload == self._unkept:
                self._unkept = None
            return
        except OSError as error:
            if self._unkept is None:
                log.warning("a desired state could not be kept and is not followed yet: %s", error)
            self._unkept = payload
            self._retry_at = self._around.clock.monotonic() + RETRY_JOURNAL_S
            return
        self._unkept = None
        self._desired = desired.sequence
        self._follow(desired)

    def _follow(self, desired: DesiredState) -> None:
        for assignment in desired.assignments:
            self.states.setdefault(assignment.model, ModelState(model=assignment.model))
            self._happen(assignment.model, Assigned(assignment))
        for model, state in list(self.states.items()):
            if desired.assignment(model) is not None:
                continue
            if state.removed and state.phase == "idle" and state.running is None:
                del self.states[model]
            else:
                self._happen(model, Assigned(None))
        self._report_due = True

    def _take_acknowledgement(self, payload: bytes) -> None:
        try:
            self._around.outbox.acknowledge(decode_acknowledged(payload))
        except ProtocolError as error:
            log.warning("%s", error)

    def _go_online(self) -> None:
        log.info("connected")
        self._online = True
        self._around.outbox.forget_sent()
        self._around.reporter.be_born()
        self._report()
        self._drain()

    def _go_offline(self, reason: str) -> None:
        if self._online or reason != self._why_offline:
            log.warning("not connected: %s", reason)
        self._online, self._why_offline = False, reason

    def _report(self) -> None:
        """Publish what is, or remember that it changed until a connection is there."""
        self._report_due = False
        self._reported_at = self._around.clock.monotonic()
        if not self._online:
            return
        self._around.reporter.report(
            (self.states[model] for model in sorted(self.states)),
            desired=self._desired,
            healthy={model: self._around.host.healthy(model) for model in self.states},
            progress=self._progress,
            serving=self.serving,
        )

    def _emit(self, model: str, effect: EmitEvent) -> None:
        log.info("%s: %s %s", model, effect.kind, effect.detail)
        about = effect.assignment
        self._around.outbox.add_event(
            DeviceEvent(
                at=max(0, int(self._around.clock.now())),
                kind=effect.kind,
                model=model,
                manifest=about.manifest if about else None,
                version=about.version if about else None,
                detail=effect.detail[:1000],
            )
        )

    def _take_usage(self) -> None:
        now = self._around.clock.now()
        self._around.outbox.add_usage(self._around.host.take_usage(now), now=now)

    def _drain(self) -> None:
        """Send what waits, as far as the connection takes it."""
        if not self._online:
            return
        now = self._around.clock.monotonic()
        for waiting in self._around.outbox.due(now):
            channel = topics.device(self._device, "event" if waiting.lane is Lane.EVENTS else "telemetry")
            # Marked first: a frame that may have left is never merged into another, or a crash in between would count it twice.
            self._around.outbox.sent(waiting, now=now)
            if not self._around.transport.publish(channel, waiting.payload, qos=1):
                return


def _is_overdue(served: Served) -> bool:
    return served.longest_s > max(OVERDUE_S, OVERDUE_TIMES * (served.typical_s or 0.0))
