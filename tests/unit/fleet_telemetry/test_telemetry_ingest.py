"""Ingest: what is acknowledged is stored, what is not stored is not acknowledged, and no device can stop the rest."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_io.transport import Message
from fleet_protocol import limits, telemetry, topics
from fleet_telemetry import schema
from fleet_telemetry.errors import ContentRefused, StoreUnavailable
from fleet_telemetry.ingest import Inbox, Ingest, read_message
from fleet_telemetry.reading import Reader
from fleet_telemetry.storage import Arrival, Retention, Storage, Stored
from tests.support.reports import BOOT, TurnedClock, a_report, a_usage, an_event, raw
from tests.support.waiting import until


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = schema.open_database(tmp_path / "telemetry.sqlite")
    yield made
    made.dispose()


class Fleet:
    """A broker in memory, the central client, and what each device was told."""

    def __init__(self) -> None:
        self.broker = SimulatedBroker()
        self.central = SimulatedTransport(self.broker, "central")
        self.acknowledged: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        self.device("cam-1")
        self.device("cam-2")

    def device(self, name: str) -> None:
        client, told = SimulatedTransport(self.broker, name), self.acknowledged.setdefault(name, [])

        def hear(message: Message) -> None:
            answer = telemetry.decode_acknowledged(message.payload)
            told.append((answer.boot, answer.sequences))

        client.subscribe(topics.device(name, "ack"), hear, qos=1)
        client.start()

    def send(self, message: Message) -> None:
        self.broker.deliver(message.topic, message.payload, retain=False)

    def sequences(self, device: str = "cam-1") -> list[int]:
        return [sequence for _, sequences in self.acknowledged[device] for sequence in sequences]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


class FailingStorage(Storage):
    """Storage that fails as told, and then works: a disk with room again, content that no database takes."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, Retention())
        self.outages = 0
        self.poison: set[int] = set()

    def store(self, arrivals: Sequence[Arrival], received: float, *, unreadable: Sequence[tuple[str, str]] = ()) -> Stored:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("The disk is full.")
        if any(each.sequence in self.poison and not each.rejected for each in arrivals):
            raise ContentRefused("No database takes this.")
        return super().store(arrivals, received, unreadable=unreadable)


@pytest.fixture
def storage(engine: Engine) -> FailingStorage:
    return FailingStorage(engine)


@pytest.fixture
def ingest(storage: FailingStorage, fleet: Fleet) -> Iterator[Ingest]:
    made = Ingest(storage, clock=TurnedClock())
    made.attach(fleet.central)
    fleet.central.start()
    yield made
    made.stop()


def test_every_frame_of_a_batch_is_acknowledged_to_its_own_device(ingest: Ingest, fleet: Fleet, engine: Engine) -> None:
    other_boot = bytes(16)
    ingest.process(
        [
            a_report(sequence=3),
            an_event(sequence=1),
            a_report(sequence=2, boot=other_boot),
            a_report(device="cam-2", sequence=7),
        ]
    )
    assert sorted(fleet.acknowledged["cam-1"]) == [(other_boot.hex(), (2,)), (BOOT.hex(), (1, 3))]
    assert fleet.acknowledged["cam-2"] == [(BOOT.hex(), (7,))]
    totals = Reader(engine).totals()
    assert (totals.accepted, totals.events, totals.devices) == (4, 1, 2)


def test_what_comes_again_is_acknowledged_again_and_not_counted(ingest: Ingest, fleet: Fleet, engine: Engine) -> None:
    for _ in range(3):
        ingest.process([a_report(sequence=1)])
    assert fleet.sequences() == [1, 1, 1]
    assert Reader(engine).totals().usage.inferences == 2


def test_the_device_is_the_topics_and_never_the_payloads(ingest: Ingest, engine: Engine) -> None:
    report = a_report(device="cam-1")
    ingest.process([Message(topics.device("cam-2", "telemetry"), report.payload)])
    assert list(Reader(engine).devices("", 10)) == ["cam-2"]


@pytest.mark.parametrize(
    "message",
    [
        raw(b"\xff\xff\xff"),
        raw(b"{}", lane=telemetry.Lane.EVENTS),
        raw(b'{"at":1,"kind":"invented","model":"digits"}', lane=telemetry.Lane.EVENTS),
        Message("ew/1/d/cam-1/telemetry", raw(b"x").payload[:-2]),
        Message("ew/1/d/cam-1/telemetry", raw(b"x").payload[:4] + b"\x09" + raw(b"x").payload[5:]),
    ],
    ids=["no protobuf", "no event", "an unknown kind", "cut short", "an unknown lane"],
)
def test_a_frame_with_a_broken_body_is_acknowledged_and_remembered_as_rejected(
    ingest: Ingest, fleet: Fleet, engine: Engine, message: Message
) -> None:
    ingest.process([message, a_report(sequence=5)])
    assert fleet.sequences() == [0, 5], "its device shall not send it for ever"
    totals = Reader(engine).totals()
    assert (totals.accepted, totals.rejected) == (1, 1)


@pytest.mark.parametrize(
    "message",
    [
        Message("ew/1/d/cam-1/telemetry", b""),
        Message("ew/1/d/cam-1/telemetry", b"EWT1 and then nothing"),
        Message("ew/1/d/cam-1/event", b"\x00" * 100),
    ],
)
def test_a_message_without_a_name_is_counted_and_dropped(
    ingest: Ingest, fleet: Fleet, engine: Engine, message: Message
) -> None:
    ingest.process([message])
    assert fleet.acknowledged["cam-1"] == []
    rejection = Reader(engine).rejection("cam-1")
    assert rejection is not None
    assert rejection.count == 1


def test_a_topic_of_no_device_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        assert read_message(Message("ew/1/d/BAD NAME/telemetry", b"")) is None


def test_what_cannot_be_stored_is_not_acknowledged(
    ingest: Ingest, fleet: Fleet, storage: FailingStorage, engine: Engine
) -> None:
    storage.outages = 1
    with pytest.raises(StoreUnavailable):
        ingest.process([a_report(sequence=1)])
    assert fleet.acknowledged["cam-1"] == []
    assert Reader(engine).totals().accepted == 0
    ingest.process([a_report(sequence=1)])
    assert fleet.sequences() == [1]


def test_one_frame_that_no_database_takes_costs_one_frame(
    ingest: Ingest, fleet: Fleet, storage: FailingStorage, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    storage.poison = {2}
    with caplog.at_level(logging.CRITICAL):
        ingest.process([a_report(sequence=number) for number in (1, 2, 3)])
    assert fleet.sequences() == [1, 2, 3]
    totals = Reader(engine).totals()
    assert (totals.accepted, totals.rejected) == (2, 1)


def test_the_thread_stores_what_arrives_and_goes_on_after_an_outage(
    ingest: Ingest, fleet: Fleet, storage: FailingStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.outages = 1
    with caplog.at_level(logging.CRITICAL):
        ingest.start()
        fleet.send(a_report(sequence=1))
        until(lambda: storage.outages == 0, "the outage is met")
        fleet.send(a_report(sequence=2))
        until(lambda: 2 in fleet.sequences(), "the next report is stored")
    assert fleet.sequences() == [2], "the first one is its device's to send again"
    ingest.stop()
    assert not any(thread.name == "telemetry-ingest" for thread in threading.enumerate())
    fleet.send(a_report(sequence=3))
    assert len(ingest.inbox) == 0


def test_a_fault_of_ours_does_not_end_ingest(fleet: Fleet, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Storage):
        def retain(self, now: float) -> None:
            raise LookupError("a programming error")

    ingest = Ingest(Broken(engine, Retention()), clock=TurnedClock())
    ingest.attach(fleet.central)
    fleet.central.start()
    with caplog.at_level(logging.CRITICAL):
        ingest.start()
        until(lambda: not ingest._thread.is_alive() or ingest._failures > 1, "it tries again")
    assert ingest._thread.is_alive()
    ingest.stop()


def test_the_database_is_tidied_now_and_then(fleet: Fleet, engine: Engine) -> None:
    calls: list[float] = []

    class Watched(Storage):
        def retain(self, now: float) -> None:
            calls.append(now)

    clock = TurnedClock()
    ingest = Ingest(Watched(engine, Retention()), clock=clock)
    for _ in range(3):
        ingest._retain_when_due()
    clock.time += 3601
    ingest._retain_when_due()
    assert len(calls) == 2


def test_acknowledgements_name_at_most_1024_frames_each(ingest: Ingest, fleet: Fleet) -> None:
    arrivals = [Arrival("cam-1", BOOT.hex(), number, usages=(a_usage(),)) for number in range(1500)]
    ingest._acknowledge(arrivals)
    assert [len(sequences) for _, sequences in fleet.acknowledged["cam-1"]] == [1024, 476]
    assert sorted(fleet.sequences()) == list(range(1500))


def test_an_inbox_is_bounded_in_messages_and_in_bytes_and_counts_what_it_drops() -> None:
    few, small = Inbox(messages=2), Inbox(size=100)
    assert [few.offer(Message("t", b"")) for _ in range(3)] == [True, True, False]
    assert [small.offer(Message("t", bytes(60))), small.offer(Message("t", bytes(60)))] == [True, False]
    assert (few.dropped, small.dropped) == (1, 1)
    assert len(few.take(10, 0)) == 2
    assert small.take(10, 0) == [Message("t", bytes(60))]
    assert small.offer(Message("t", bytes(limits.KIB // 16))), "there is room again"


def test_an_inbox_that_is_closed_wakes_whoever_waits_and_takes_nothing() -> None:
    inbox = Inbox()
    taken: list[list[Message]] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(1, 60)))
    thread.start()
    inbox.close()
    thread.join(10)
    assert taken == [[]]
    assert not inbox.offer(Message("t", b""))


KILLED_BEFORE_IT_ACKNOWLEDGES = """
import os, signal, sys
from pathlib import Path
from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_telemetry import schema
from fleet_telemetry.ingest import Ingest
from fleet_telemetry.storage import Retention, Storage
from tests.support.reports import TurnedClock, a_report

class Killed(SimulatedTransport):
    def publish(self, *arguments, **named):
        os.kill(os.getpid(), signal.SIGKILL)

ingest = Ingest(Storage(schema.open_database(Path(sys.argv[1])), Retention()), clock=TurnedClock())
ingest.attach(Killed(SimulatedBroker(), "central"))
ingest.process([a_report(sequence=1), a_report(sequence=2)])
"""


def test_killed_between_commit_and_acknowledgement_the_redelivery_is_acknowledged_and_counts_nothing(
    ingest: Ingest, fleet: Fleet, engine: Engine, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_IT_ACKNOWLEDGES, str(tmp_path / "telemetry.sqlite")],
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert ended.returncode == -9
    before = Reader(engine).totals()
    assert (before.accepted, before.usage.inferences) == (2, 4), "the commit was on the disk"
    ingest.process([a_report(sequence=2), a_report(sequence=1), a_report(sequence=3)])
    assert fleet.sequences() == [1, 2, 3]
    after = Reader(engine).totals()
    assert (after.accepted, after.duplicates, after.usage.inferences) == (3, 2, 6)
