"""Exactly once: whatever the network does to reports and acknowledgements, each counts once, against a model of two lines."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Engine

from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_io.transport import Message
from fleet_protocol import telemetry, topics
from fleet_telemetry import schema
from fleet_telemetry.errors import StoreUnavailable
from fleet_telemetry.ingest import Ingest
from fleet_telemetry.reading import Reader
from fleet_telemetry.storage import Arrival, Retention, Storage, Stored
from tests.support.reports import TurnedClock, a_report, a_usage, an_event

DEVICES = ("cam-1", "cam-2")


class Unreliable(Storage):
    """Storage that fails when told to: before anything is stored."""

    failing = False

    def store(self, arrivals: Sequence[Arrival], received: float, *, unreadable: Sequence[tuple[str, str]] = ()) -> Stored:
        if self.failing:
            raise StoreUnavailable("No room.")
        return super().store(arrivals, received, unreadable=unreadable)


class ExactlyOnce(RuleBasedStateMachine):
    """Two devices, two ingest workers over one database, and a network that loses, doubles and reorders everything."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "telemetry.sqlite"
        self.broker = SimulatedBroker()
        self.workers: list[tuple[Engine, Unreliable, Ingest]] = []
        for name in ("one", "two"):
            self.workers.append(self.worker(name))
        self.sent: dict[tuple[str, int], Message] = {}
        self.inferences: dict[tuple[str, int], int] = {}
        self.acknowledged: set[tuple[str, int]] = set()
        self.lossy = False
        for device in DEVICES:
            client = SimulatedTransport(self.broker, device)
            client.subscribe(topics.device(device, "ack"), self.hear, qos=1)
            client.start()

    def worker(self, name: str) -> tuple[Engine, Unreliable, Ingest]:
        engine = schema.open_database(self.path)
        storage = Unreliable(engine, Retention())
        ingest = Ingest(storage, clock=TurnedClock())
        transport = SimulatedTransport(self.broker, name)
        transport.start()
        ingest._transport = transport
        return engine, storage, ingest

    def hear(self, message: Message) -> None:
        if self.lossy:
            return
        device = topics.parse_device(message.topic).device
        self.acknowledged |= {(device, sequence) for sequence in telemetry.decode_acknowledged(message.payload).sequences}

    @rule(device=st.sampled_from(DEVICES), count=st.integers(0, 5), event=st.booleans())
    def report(self, device: str, count: int, event: bool) -> None:
        """A device puts something into its outbox."""
        sequence = sum(1 for name, _ in self.sent if name == device)
        usage = a_usage((0.01,) * count, predictions={"7": count})
        message = an_event(device=device, sequence=sequence) if event else a_report(usage, device=device, sequence=sequence)
        self.sent[device, sequence] = message
        self.inferences[device, sequence] = 0 if event else count

    @precondition(lambda self: self.sent)
    @rule(
        data=st.data(),
        worker=st.integers(0, 1),
        full=st.booleans(),
        lossy=st.booleans(),
    )
    def deliver(self, data: st.DataObject, worker: int, full: bool, lossy: bool) -> None:
        """Some of what was ever sent reaches a worker: in any order, any of it twice, acknowledged before or not."""
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.sent)), min_size=1, max_size=6))
        _, storage, ingest = self.workers[worker]
        storage.failing, self.lossy = full, lossy
        before = set(self.acknowledged)
        try:
            ingest.process([self.sent[key] for key in chosen])
        except StoreUnavailable:
            assert self.acknowledged == before, "what was not stored is not acknowledged"
        finally:
            storage.failing = self.lossy = False
        self.stored = getattr(self, "stored", set()) | (set() if full else set(chosen))

    @rule(worker=st.integers(0, 1))
    def restart(self, worker: int) -> None:
        """A worker ends and another begins on the same database."""
        self.workers[worker][0].dispose()
        self.workers[worker] = self.worker(f"again-{worker}")

    @invariant()
    def each_stored_frame_counts_once(self) -> None:
        stored: set[tuple[str, int]] = getattr(self, "stored", set())
        totals = Reader(self.workers[0][0]).totals()
        assert totals.accepted == len(stored)
        assert totals.usage.inferences == sum(self.inferences[key] for key in stored)
        assert totals.usage.predictions.get("7", 0) == totals.usage.inferences
        assert totals.events == sum(self.sent[key].topic.endswith("event") for key in stored)
        assert self.acknowledged <= stored

    def teardown(self) -> None:
        for engine, _, _ in self.workers:
            engine.dispose()
        self.directory.cleanup()


ExactlyOnce.TestCase.settings = settings(max_examples=12, stateful_step_count=10, deadline=None)
test_each_report_counts_exactly_once = ExactlyOnce.TestCase
