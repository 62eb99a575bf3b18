"""The agent's end of the chunk lane: carries out a `TransferPlan` over a `Transport`, one transfer at a time.

Answers arrive on the transport's thread and only go into an inbox; whoever runs a transfer takes them out. Which chunks to
ask for is the plan's to decide, where they are kept is the caller's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from device_agent.errors import Cancelled, NotServed, TransferFailed
from device_agent.transfer_plan import REQUEST_NUMBERS, Ask, Piece, TransferPlan, Wanted
from fleet_io.clock import Clock
from fleet_io.transport import Message, Transport
from fleet_protocol import codec, topics
from fleet_protocol.errors import ProtocolError
from fleet_protocol.transfer import Answer, decode_answer

LONGEST_WAIT_S = 0.25
"""How often a transfer looks whether it was cancelled."""

OFFLINE_WAIT_S = 0.1


class Inbox(Protocol):
    """Where answers wait: a queue between two threads, or a simulation's own."""

    def put(self, answer: Answer) -> None:
        """Add an answer. Never blocks."""
        ...

    def get(self, timeout_s: float) -> Answer | None:
        """The next answer; None when none came in time."""
        ...


class QueueInbox:
    """The real one. When nobody takes answers out, new ones are dropped: they will be asked for again."""

    def __init__(self, most: int = 512) -> None:
        self._queue: queue.Queue[Answer] = queue.Queue(most)

    def put(self, answer: Answer) -> None:
        """See `Inbox`."""
        try:
            self._queue.put_nowait(answer)
        except queue.Full:
            return

    def get(self, timeout_s: float) -> Answer | None:
        """See `Inbox`."""
        try:
            return self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None


class Cancellation:
    """Whether somebody still waits for the work. Set from any thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._event.set()

    def check(self) -> None:
        """Raises `Cancelled`."""
        if self._event.is_set():
            raise Cancelled("this work is no longer wanted")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the lane has carried, for reports: bytes of chunks taken, and chunks that arrived corrupt."""

    bytes: int = 0
    corrupt: int = 0


class ChunkLink:
    """Transfers over MQTT for one device. `first_request` is a random number below 2**32, so that boots do not mix."""

    def __init__(
        self, transport: Transport, device: str, *, clock: Clock, inbox: Inbox, first_request: int, stall_s: float
    ) -> None:
        self._transport = transport
        self._device = device
        self._clock = clock
        self._inbox = inbox
        self._next_request = first_request
        self._stall_s = stall_s
        self._one_at_a_time = threading.Lock()
        self.traffic = Traffic()
        transport.subscribe(topics.device(device, "rx"), self._take, qos=0)

    def pull(
        self, wanted: Wanted, write: Callable[[Piece], None], cancellation: Cancellation, *, have: Iterable[int] = ()
    ) -> TransferPlan:
        """Get all missing chunks, handing each good one to `write`. Raises `TransferFailed` or `Cancelled`."""
        with self._one_at_a_time:
            now = self._clock.monotonic()
            plan = TransferPlan(wanted, now=now, first_request=self._next_request, stall_s=self._stall_s, have=have)
            try:
                self._run(plan, write, cancellation)
            finally:
                self._next_request = (self._next_request + plan.requests) % REQUEST_NUMBERS
                self.traffic = Traffic(self.traffic.bytes, self.traffic.corrupt + plan.corrupt)
            return plan

    def _run(self, plan: TransferPlan, write: Callable[[Piece], None], cancellation: Cancellation) -> None:
        while not plan.complete:
            cancellation.check()
            self._turn(plan, write)
            if plan.ending is not None:
                raise (NotServed if plan.ending.not_served else TransferFailed)(plan.ending.reason)

    def _turn(self, plan: TransferPlan, write: Callable[[Piece], None]) -> None:
        """Send what is due, then take what comes until nothing is left or it is time to ask again."""
        unsent = [ask for ask in plan.due(self._clock.monotonic()) if not self._send(ask)]
        for ask in unsent:
            plan.not_sent(ask)
        wait = OFFLINE_WAIT_S if unsent else min(plan.wait(self._clock.monotonic()), LONGEST_WAIT_S)
        answer = self._inbox.get(wait)
        while answer is not None:
            piece = plan.received(answer, self._clock.monotonic())
            if piece is not None:
                write(piece)
                self.traffic = Traffic(self.traffic.bytes + len(piece.content), self.traffic.corrupt)
            answer = None if plan.complete or plan.ending else self._inbox.get(0.0)

    def _send(self, ask: Ask) -> bool:
        """Whether it went out."""
        topic = topics.device(self._device, "get") if ask.worker is None else topics.worker(ask.worker, self._device)
        return self._transport.publish(topic, codec.encode(ask.request), qos=1)

    def _take(self, message: Message) -> None:
        try:
            answer = decode_answer(message.payload)
        except ProtocolError:
            return  # damaged on the way: the same as lost
        self._inbox.put(answer)
