"""From MQTT into the database, and the acknowledgement back: bounded inbox, batches, commit, and only then "these are stored".

The transport's handler only puts messages into the inbox. One thread takes them out in batches. What does not fit, or cannot be
stored now, is not acknowledged, so its device keeps it and sends it again. Whose report it is says the topic, which the broker
checked against the device's certificate, and never the payload.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from fleet_io.clock import Clock
from fleet_io.transport import Message, Transport
from fleet_protocol import codec, limits, otlp, telemetry, topics
from fleet_protocol.errors import ProtocolError
from fleet_protocol.states import decode_event
from fleet_telemetry.errors import ContentRefused, StoreUnavailable
from fleet_telemetry.storage import Arrival, Storage

log = logging.getLogger(__name__)

GROUP: Final = "ingest"
"""The shared subscription: each frame reaches one of all ingest processes."""
INBOX_MESSAGES: Final = 10_000
INBOX_BYTES: Final = 64 * limits.MIB
BATCH: Final = 500
ACKNOWLEDGED_AT_ONCE: Final = 1024
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
RETAIN_EVERY_S: Final = 3600.0
IDLE_S: Final = 60.0


class Inbox:
    """Messages between two threads, bounded in number and bytes."""

    def __init__(self, messages: int = INBOX_MESSAGES, size: int = INBOX_BYTES) -> None:
        self._room = messages
        self._size = size
        self._held: deque[Message] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0
        """Messages that found no room."""

    def __len__(self) -> int:
        return len(self._held)

    def offer(self, message: Message) -> bool:
        """Take the message in, or say that there is no room."""
        with self._changed:
            if self._closed or len(self._held) >= self._room or self._bytes + len(message.payload) > self._size:
                self.dropped += 1
                return False
            self._held.append(message)
            self._bytes += len(message.payload)
            self._changed.notify()
            return True

    def take(self, most: int, timeout_s: float) -> list[Message]:
        """Up to `most` messages; none when none came in time, or the inbox was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._closed, timeout_s)
            taken = [self._held.popleft() for _ in range(min(most, len(self._held)))]
            self._bytes -= sum(len(message.payload) for message in taken)
            return taken

    def close(self) -> None:
        """Take in nothing more, and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Ingest:
    """One worker of the shared subscription."""

    def __init__(self, storage: Storage, *, clock: Clock, inbox: Inbox | None = None) -> None:
        self.inbox = inbox or Inbox()
        self._storage = storage
        self._clock = clock
        self._transport: Transport | None = None
        self._stopping = threading.Event()
        self._retained_at: float | None = None
        self._failures = 0
        self._thread = threading.Thread(target=self._work, name="telemetry-ingest", daemon=True)

    def attach(self, transport: Transport) -> None:
        """Subscribe. Messages wait in the inbox until `start`."""
        self._transport = transport
        for channel in ("telemetry", "event"):
            transport.subscribe(topics.shared(GROUP, topics.every_device(channel)), self._receive, qos=1)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch under way. What waits is not acknowledged, and comes again."""
        self._stopping.set()
        self.inbox.close()
        if self._thread.is_alive():
            self._thread.join()

    def process(self, messages: Sequence[Message]) -> None:
        """Store a batch, then acknowledge it. Raises `StoreUnavailable`; then nothing is acknowledged."""
        arrivals: list[Arrival] = []
        unreadable: list[tuple[str, str]] = []
        for message in messages:
            read = read_message(message)
            if isinstance(read, Arrival):
                arrivals.append(read)
            elif read is not None:
                unreadable.append(read)
        self._store(arrivals, unreadable)
        self._acknowledge(arrivals)

    def _receive(self, message: Message) -> None:
        self.inbox.offer(message)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._retain_when_due()
                batch = self.inbox.take(BATCH, IDLE_S)
                if batch:
                    self.process(batch)
                self._failures = 0
            except StoreUnavailable as error:
                self._pause(f"{error} Reports are not acknowledged, so the devices keep them.")
            except Exception:  # a fault of ours must not end ingest for the whole fleet
                log.exception("telemetry ingest failed")
                self._pause("Reports are not acknowledged, so the devices keep them.")

    def _pause(self, why: str) -> None:
        """Say why, and wait longer after each failure in a row."""
        wait = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        log.error("%s Trying again in %.1f s.", why, wait)
        self._stopping.wait(wait)

    def _retain_when_due(self) -> None:
        now = self._clock.monotonic()
        if self._retained_at is None or now - self._retained_at >= RETAIN_EVERY_S:
            self._storage.retain(self._clock.now())
            self._retained_at = now

    def _store(self, arrivals: Sequence[Arrival], unreadable: Sequence[tuple[str, str]]) -> None:
        """Store a batch; when the database refuses its content, each by itself, so that one frame costs one frame."""
        now = self._clock.now()
        try:
            self._storage.store(arrivals, now, unreadable=unreadable)
        except ContentRefused:
            self._storage.store((), now, unreadable=unreadable)
            for arrival in arrivals:
                self._store_one(arrival, now)

    def _store_one(self, arrival: Arrival, now: float) -> None:
        try:
            self._storage.store([arrival], now)
        except ContentRefused as error:
            log.warning("a frame of %s counts for nothing: %s", arrival.device, error)
            rejected = Arrival(arrival.device, arrival.boot, arrival.sequence, rejected="the database does not take it")
            self._storage.store([rejected], now)

    def _acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Tell each device what is stored. A lost answer costs a redelivery, which is acknowledged again and not counted."""
        assert self._transport is not None, "attach() comes before start()"
        stored: dict[tuple[str, str], set[int]] = defaultdict(set)
        for arrival in arrivals:
            stored[arrival.device, arrival.boot].add(arrival.sequence)
        for (device, boot), sequences in stored.items():
            ordered = sorted(sequences)
            for start in range(0, len(ordered), ACKNOWLEDGED_AT_ONCE):
                answer = telemetry.Acknowledged(boot=boot, sequences=tuple(ordered[start : start + ACKNOWLEDGED_AT_ONCE]))
                self._transport.publish(topics.device(device, "ack"), codec.encode(answer), qos=1)


def read_message(message: Message) -> Arrival | tuple[str, str] | None:
    """One message as an arrival; (device, reason) when it has no name to acknowledge; None when no device sent it."""
    try:
        device = topics.parse_device(message.topic).device
    except ProtocolError:
        log.warning("a message on %r is none of a device", message.topic)
        return None
    try:
        boot, sequence = telemetry.frame_name(message.payload)
    except ProtocolError as error:
        return device, str(error)
    try:
        return _read_body(device, boot, sequence, message.payload)
    except ProtocolError as error:
        return Arrival(device, boot, sequence, rejected=str(error))


def _read_body(device: str, boot: str, sequence: int, payload: bytes) -> Arrival:
    frame = telemetry.decode_frame(payload)
    if frame.lane is telemetry.Lane.EVENTS:
        return Arrival(device, boot, sequence, event=decode_event(frame.body))
    return Arrival(device, boot, sequence, usages=tuple(otlp.decode_usage(frame.body)))
