"""Telemetry over a real Mosquitto with TLS: two workers on one share group, a killed broker, acknowledged end to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet_io.mqtt import MqttTransport
from fleet_io.transport import Message
from fleet_protocol import telemetry, topics
from fleet_telemetry.service import Telemetry
from tests.support import asgi
from tests.support.mqtt import TestBroker, running_broker, start_and_wait
from tests.support.reports import TurnedClock, a_report, an_event
from tests.support.waiting import until

WORKERS = ("one.edgeward", "two.edgeward")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[TestBroker]:
    with running_broker(tmp_path) as made:
        made.trust(*WORKERS)
        yield made


@pytest.fixture
def workers(broker: TestBroker, tmp_path: Path) -> Iterator[list[Telemetry]]:
    """Two central processes' worth of telemetry over one database."""
    made = []
    for name in WORKERS:
        service = Telemetry(tmp_path / "telemetry.sqlite", clock=TurnedClock())
        service.prepare()
        transport = broker.client(name)
        service.attach(transport)
        service.start()
        start_and_wait(transport)
        made.append(service)
    yield made
    for service in made:
        service.stop()


class Device:
    """Sends each report again and again until it is acknowledged, as the agent's outbox does."""

    def __init__(self, broker: TestBroker, name: str) -> None:
        self.name = name
        self.waiting: dict[int, Message] = {}
        self._next = 0
        self._lock = threading.Lock()
        self.transport: MqttTransport = broker.client(name)
        self.transport.subscribe(topics.device(name, "ack"), self._hear, qos=1)
        start_and_wait(self.transport)

    def report(self, *, event: bool = False) -> None:
        make = an_event if event else a_report
        with self._lock:
            self.waiting[self._next] = make(device=self.name, sequence=self._next)
            self._next += 1

    def send(self) -> None:
        with self._lock:
            messages = list(self.waiting.values())
        for message in messages:
            self.transport.publish(message.topic, message.payload, qos=1)

    def _hear(self, message: Message) -> None:
        with self._lock:
            for sequence in telemetry.decode_acknowledged(message.payload).sequences:
                self.waiting.pop(sequence, None)


def totals(service: Telemetry) -> Any:
    return asgi.get(service.routes(), "/v1/telemetry/totals").json()


def test_two_workers_share_the_reports_and_count_each_once(broker: TestBroker, workers: list[Telemetry]) -> None:
    devices = [Device(broker, f"cam-{number}") for number in range(3)]
    for device in devices:
        for number in range(20):
            device.report(event=number % 5 == 0)
        device.send()
        device.send()
    until(lambda: not any(device.waiting for device in devices), "everything is acknowledged")
    until(lambda: totals(workers[0])["duplicates"] == 60, "the redeliveries are seen too")
    seen = totals(workers[0])
    assert (seen["accepted"], seen["events"], seen["rejected"]) == (60, 12, 0)
    assert seen["usage"]["inferences"] == 48 * 2


def test_reports_survive_a_killed_broker_and_a_stopped_worker(broker: TestBroker, workers: list[Telemetry]) -> None:
    device = Device(broker, "cam-1")
    for _ in range(10):
        device.report()
    device.send()
    broker.process.kill()
    workers[1].stop()
    device.send()
    broker.process.start()
    broker.trust(*WORKERS)

    def sent_until_acknowledged() -> bool:
        device.send()
        return not device.waiting

    until(sent_until_acknowledged, "everything is acknowledged", timeout_s=40)
    assert totals(workers[0])["accepted"] == 10
    assert totals(workers[0])["usage"]["inferences"] == 20
