"""What one device's certificate opens at the broker: its own topics, by direction, whatever name it claims."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fleet_io.mqtt import MqttTransport
from fleet_io.transport import Message
from fleet_protocol import topics
from fleet_protocol.topics import DeviceChannel
from model_registry.authority import CENTRAL_NAME
from tests.support.mqtt import TestBroker, running_broker, start_and_wait
from tests.support.waiting import until

SENTINEL = b"the last message"
ORDERS: tuple[DeviceChannel, ...] = ("desired", "rx", "ack")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    with running_broker(tmp_path_factory.mktemp("rules")) as made:
        yield made


class Listener:
    """The central side, which hears every device."""

    def __init__(self, broker: TestBroker) -> None:
        self.heard: list[Message] = []
        self.client = broker.client(CENTRAL_NAME)
        for channel in ("reported", "status", "get", "telemetry", "event"):
            self.client.subscribe(topics.every_device(channel), self.heard.append, qos=1)
        self.client.subscribe(topics.worker_inbox("worker-1"), self.heard.append, qos=1)
        start_and_wait(self.client)

    def topics_until_sentinel(self) -> set[str]:
        until(lambda: any(message.payload == SENTINEL for message in self.heard), "the sentinel arrives")
        return {message.topic for message in self.heard}


def publish(client: MqttTransport, topic: str, payload: bytes = b"x") -> None:
    assert client.publish(topic, payload, qos=1)


def test_a_device_writes_its_own_channels_and_no_other_devices(broker: TestBroker) -> None:
    listener = Listener(broker)
    thief = broker.connected("thief")
    victims: tuple[DeviceChannel, ...] = ("reported", "status", "get", "telemetry", "event")
    for channel in victims:
        publish(thief, topics.device("victim", channel))
        publish(thief, topics.device("thief", channel))
    publish(thief, topics.worker("worker-1", "victim"))
    publish(thief, topics.device("thief", "event"), SENTINEL)
    heard = listener.topics_until_sentinel()
    assert heard == {topics.device("thief", channel) for channel in victims}
    listener.client.stop()


def test_a_device_cannot_give_orders_not_even_to_itself(broker: TestBroker) -> None:
    device = broker.client("shelf-1")
    heard: list[Message] = []
    for channel in ORDERS:
        device.subscribe(topics.device("shelf-1", channel), heard.append, qos=1)
    start_and_wait(device)
    central = broker.connected(CENTRAL_NAME)
    for channel in ORDERS:
        publish(device, topics.device("shelf-1", channel), b"forged")
    until(lambda: device.publish(topics.device("shelf-1", "event"), b"after the forgeries", qos=1), "it is still connected")
    publish(central, topics.device("shelf-1", "ack"), SENTINEL)
    until(lambda: any(message.payload == SENTINEL for message in heard), "the sentinel arrives")
    assert {message.payload for message in heard} == {SENTINEL}
    central.stop()


def test_a_device_hears_nothing_that_is_meant_for_another(broker: TestBroker) -> None:
    spy = broker.client("spy")
    heard: list[Message] = []
    for topic_filter in (topics.device("victim", "desired"), topics.every_device("desired"), topics.ALL, "#"):
        spy.subscribe(topic_filter, heard.append, qos=1)
    spy.subscribe(topics.device("spy", "desired"), heard.append, qos=1)
    start_and_wait(spy)
    central = broker.connected(CENTRAL_NAME)
    publish(central, topics.device("victim", "desired"), b"secret")
    publish(central, topics.device("spy", "desired"), SENTINEL)
    until(lambda: any(message.payload == SENTINEL for message in heard), "the sentinel arrives")
    assert {message.payload for message in heard} == {SENTINEL}
    central.stop()


def test_with_another_devices_certificate_a_client_is_that_other_device(broker: TestBroker) -> None:
    listener = Listener(broker)
    stolen = broker.authority.device("owner")
    borrower = start_and_wait(broker.client("borrower", identity=stolen))
    publish(borrower, topics.device("borrower", "event"))
    publish(borrower, topics.device("owner", "event"), SENTINEL)
    assert listener.topics_until_sentinel() == {topics.device("owner", "event")}
    listener.client.stop()


def test_a_log_that_has_grown_large_begins_anew_and_the_broker_writes_on(
    broker: TestBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosquitto = broker.process
    broker.connected("first-comer").stop()
    until(lambda: b"first-comer" in mosquitto.log_path.read_bytes(), "the log names who came")
    mosquitto.turn_log_over()
    assert b"first-comer" in mosquitto.log_path.read_bytes(), "it is not large yet"
    monkeypatch.setattr("edgeward.broker.LOG_BYTES", 10)
    mosquitto.turn_log_over()
    assert b"first-comer" not in mosquitto.log_path.read_bytes()
    assert b"first-comer" in mosquitto.log_path.with_name("mosquitto.log.1").read_bytes()
    broker.connected("second-comer").stop()
    until(lambda: b"second-comer" in mosquitto.log_path.read_bytes(), "the broker writes on")
    assert b"\0" not in mosquitto.log_path.read_bytes(), "it appends"
