"""The chunk worker over a simulated broker: what it answers, to whom, and what it drops."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_io.transport import Message
from fleet_protocol import codec, topics
from fleet_protocol.digests import digest_of
from fleet_protocol.transfer import Answer, AnswerStatus, GetRequest, blob_resource, decode_answer, metadata_resource
from model_registry.blobs import DirectoryBlobStore
from model_registry.errors import NotFound
from model_registry.worker import ChunkWorker, WorkerLimits
from tests.support.registry_world import SteppedClock
from tests.support.waiting import until

CONTENT = bytes(range(256)) * 4
DIGEST = digest_of(CONTENT)
METADATA = {"timestamp.json": b'{"a": 1}', "1.root.json": b"root" * 100, "9.empty.json": b""}


def metadata(name: str) -> bytes:
    if name not in METADATA:
        raise NotFound(f"no {name}")
    return METADATA[name]


@dataclass
class Scene:
    """One worker, and one device that asks."""

    blobs: DirectoryBlobStore
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    broker: SimulatedBroker = field(default_factory=SimulatedBroker)
    clock: SteppedClock = field(default_factory=SteppedClock)
    received: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        central = SimulatedTransport(self.broker, "central")
        self.worker = ChunkWorker("worker-1", self.blobs, metadata, central, self.clock, self.limits)
        self.worker.attach()
        central.start()
        self.central = central
        self.device = SimulatedTransport(self.broker, "device")
        self.device.subscribe("ew/1/d/+/rx", self.received.append, qos=0)
        self.device.start()

    def ask(self, resource: str, *chunks: int, chunk_size: int = 256, topic: str = "ew/1/d/cam/get", number: int = 7) -> None:
        request = GetRequest(request=number, resource=resource, chunk_size=chunk_size, chunks=chunks)
        self.device.publish(topic, codec.encode(request), qos=1)

    def answers(self) -> list[Answer]:
        self.worker.serve_waiting()
        answers = [decode_answer(each.payload) for each in self.received]
        self.received.clear()
        return answers


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobStore:
    store = DirectoryBlobStore(tmp_path / "blobs")
    store.put(DIGEST, [CONTENT])
    return store


@pytest.fixture
def scene(blobs: DirectoryBlobStore) -> Scene:
    return Scene(blobs)


def test_each_chunk_is_answered_in_the_order_asked(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 2, 0, 3)
    answers = scene.answers()
    assert [(each.status, each.index, each.request, each.size) for each in answers] == [
        (AnswerStatus.CHUNK, index, 7, len(CONTENT)) for index in (2, 0, 3)
    ]
    assert [each.chunk for each in answers] == [CONTENT[at * 256 : (at + 1) * 256] for at in (2, 0, 3)]
    assert {each.worker for each in answers} == {"worker-1"}


def test_the_last_chunk_may_be_short(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 1, chunk_size=1000)
    assert scene.answers()[0].chunk == CONTENT[1000:]


def test_the_answer_goes_to_the_device_of_the_topic(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 0, topic="ew/1/d/other/get")
    scene.worker.serve_waiting()
    assert [each.topic for each in scene.received] == ["ew/1/d/other/rx"]


def test_a_device_may_stay_with_the_worker_that_answered(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 0, topic=topics.worker("worker-1", "cam"))
    scene.worker.serve_waiting()
    assert [each.topic for each in scene.received] == ["ew/1/d/cam/rx"]


def test_another_workers_inbox_is_not_ours(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 0, topic=topics.worker("worker-2", "cam"))
    assert scene.answers() == []
    assert scene.worker.served.dropped == 0


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json"])
def test_metadata_travel_as_blobs_do(scene: Scene, name: str) -> None:
    scene.ask(metadata_resource(name), 0, chunk_size=10_000)
    (answer,) = scene.answers()
    assert (answer.chunk, answer.size) == (METADATA[name], len(METADATA[name]))


def test_an_empty_resource_has_one_empty_chunk(scene: Scene) -> None:
    scene.ask(metadata_resource("9.empty.json"), 0)
    (answer,) = scene.answers()
    assert (answer.status, answer.size, answer.chunk) == (AnswerStatus.CHUNK, 0, b"")


@pytest.mark.parametrize("resource", [blob_resource(digest_of(b"unknown")), metadata_resource("2.root.json")])
def test_what_is_not_there_is_answered_once(scene: Scene, resource: str) -> None:
    scene.ask(resource, 4, 5, 6)
    assert [(each.status, each.index) for each in scene.answers()] == [(AnswerStatus.NOT_FOUND, 4)]


def test_a_chunk_past_the_end_is_refused_and_the_size_is_said(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 4, 2**32 - 1, 0)
    assert [(each.status, each.index, each.size) for each in scene.answers()] == [
        (AnswerStatus.REFUSED, 4, len(CONTENT)),
        (AnswerStatus.REFUSED, 2**32 - 1, len(CONTENT)),
        (AnswerStatus.CHUNK, 0, len(CONTENT)),
    ]


def test_when_too_much_waits_a_device_is_told_to_come_back(blobs: DirectoryBlobStore) -> None:
    scene = Scene(blobs, WorkerLimits(waiting=2, busy_retry_ms=700))
    for number in range(4):
        scene.ask(blob_resource(DIGEST), 1, number=number)
    at_once = [decode_answer(each.payload) for each in scene.received]
    assert [(each.status, each.request, each.retry_after_ms) for each in at_once] == [
        (AnswerStatus.RETRY_LATER, 2, 700),
        (AnswerStatus.RETRY_LATER, 3, 700),
    ]
    scene.received.clear()
    assert [each.request for each in scene.answers()] == [0, 1]


def test_more_bytes_than_the_broker_should_carry_are_put_off(blobs: DirectoryBlobStore) -> None:
    scene = Scene(blobs, WorkerLimits(bytes_per_s=256, burst_bytes=512))
    scene.ask(blob_resource(DIGEST), 0, 1, 2, 3)
    answers = scene.answers()
    assert [(each.status, each.index) for each in answers] == [
        (AnswerStatus.CHUNK, 0),
        (AnswerStatus.CHUNK, 1),
        (AnswerStatus.RETRY_LATER, 2),
    ]
    assert answers[-1].retry_after_ms == 1000
    scene.clock.forward(1.0)
    scene.ask(blob_resource(DIGEST), 2)
    assert [each.status for each in scene.answers()] == [AnswerStatus.CHUNK]


def test_a_worker_that_lost_its_broker_ends_the_request(scene: Scene) -> None:
    scene.ask(blob_resource(DIGEST), 0, 1, 2)
    scene.central.stop()
    assert scene.answers() == []
    assert scene.worker.served.chunks == 0


def test_a_fault_of_ours_is_a_retry_and_not_the_end_of_the_worker(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_name: str) -> bytes:
        raise ZeroDivisionError

    scene.worker.metadata = broken
    scene.ask(metadata_resource("timestamp.json"), 0)
    with caplog.at_level(logging.CRITICAL):
        assert [each.status for each in scene.answers()] == [AnswerStatus.RETRY_LATER]
    scene.ask(blob_resource(DIGEST), 0)
    assert [each.status for each in scene.answers()] == [AnswerStatus.CHUNK]


@pytest.mark.parametrize("topic", ["ew/1/d/cam/get", "ew/1/w/worker-1/cam"])
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"{}",
        b"\x00" * 50,
        b"[" * 5000,
        b'{"request":1,"resource":"blob/../../etc/passwd","chunk_size":1,"chunks":[0]}',
    ],
)
def test_what_is_no_request_is_dropped_with_a_line_in_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture, topic: str, payload: bytes
) -> None:
    scene.device.publish(topic, payload, qos=1)
    assert scene.answers() == []
    assert scene.worker.served.dropped == 1
    assert "dropped a chunk request" in caplog.text


RESOURCES = st.one_of(
    st.just(blob_resource(DIGEST)),
    st.just(metadata_resource("timestamp.json")),
    st.text(max_size=80),
    st.just("metadata/../x.json"),
)
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda **fields: codec.encode(GetRequest(**fields)),
        request=st.integers(-1, 2**33),
        resource=RESOURCES,
        chunk_size=st.integers(-1, 200_000),
        chunks=st.lists(st.integers(-1, 2**33), max_size=300).map(tuple),
    ),
)


@given(payloads=st.lists(PAYLOADS, max_size=5))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_payload_stops_the_worker_or_gets_an_answer_that_a_device_cannot_read(scene: Scene, payloads: list[bytes]) -> None:
    logging.getLogger("model_registry.worker").setLevel(logging.CRITICAL)
    for payload in payloads:
        scene.device.publish("ew/1/d/cam/get", payload, qos=1)
    for answer in scene.answers():
        assert answer.worker == "worker-1"
    scene.clock.forward(10.0)
    scene.ask(blob_resource(DIGEST), 0)
    assert scene.answers()[-1].chunk == CONTENT[:256]


def test_its_thread_serves_and_ends_cleanly(scene: Scene) -> None:
    scene.worker.start()
    scene.ask(blob_resource(DIGEST), 0, 1, 2)
    until(lambda: len(scene.received) == 3, "the worker's thread answers")
    scene.worker.stop()
    assert all(not each.name.startswith("worker-worker-1") for each in threading.enumerate())
