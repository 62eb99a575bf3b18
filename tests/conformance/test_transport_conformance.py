"""One suite over both transports: what a program may rely on holds on Mosquitto and in simulation alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_io.transport import Message, Transport, Will
from fleet_protocol import topics
from model_registry.authority import CENTRAL_NAME
from tests.support.mqtt import running_broker, start_and_wait
from tests.support.waiting import until

Join = Callable[..., Transport]
TELEMETRY, ACK = topics.device("cam-1", "telemetry"), topics.device("cam-1", "ack")


@contextmanager
def simulated(_directory: Path) -> Iterator[Join]:
    broker = SimulatedBroker()
    yield lambda name, will=None: SimulatedTransport(broker, name, will=will)


@contextmanager
def mosquitto(directory: Path) -> Iterator[Join]:
    with running_broker(directory) as broker:
        yield lambda name, will=None: broker.client(name, will=will)


@pytest.fixture(params=[simulated, mosquitto], ids=["simulated", "mosquitto"])
def join(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Join]:
    with request.param(tmp_path) as made:
        yield made


def started(client: Transport) -> Transport:
    start_and_wait(client)
    return client


def hearing(client: Transport, topic_filter: str) -> list[Message]:
    got: list[Message] = []
    client.subscribe(topic_filter, got.append, qos=1)
    return got


def settle(client: Transport) -> None:
    """Return once the broker has dealt with all that `client` sent before: its own echo comes after."""
    echo = topics.device("echo", "ack")
    got = hearing(client, echo)
    client.publish(echo, b"echo", qos=1)
    until(lambda: got, "the echo arrives")


def test_messages_reach_a_subscriber_in_the_order_in_which_one_client_sent_them(join: Join) -> None:
    central = join(CENTRAL_NAME)
    got = hearing(central, topics.every_device("telemetry"))
    started(central)
    device = started(join("cam-1"))
    for number in range(20):
        assert device.publish(TELEMETRY, b"%d" % number, qos=1)
    until(lambda: len(got) == 20, "all messages arrive")
    assert got == [Message(TELEMETRY, b"%d" % number) for number in range(20)]


def test_a_subscription_made_while_connected_holds_too_and_hears_what_was_retained(join: Join) -> None:
    central = started(join(CENTRAL_NAME))
    central.publish(ACK, b"kept", qos=1, retain=True)
    settle(central)
    device = started(join("cam-1"))
    got = hearing(device, ACK)
    until(lambda: got, "the retained message arrives")
    central.publish(ACK, b"new", qos=1)
    until(lambda: len(got) == 2, "the next one arrives")
    assert got == [Message(ACK, b"kept", retained=True), Message(ACK, b"new")]


def test_a_shared_subscription_gets_each_message_once(join: Join) -> None:
    """Whether it hears what was retained is left open: the specification says no, Mosquitto 2.0.11 sends it."""
    central = started(join(CENTRAL_NAME))
    got = hearing(central, topics.shared("ingest", topics.every_device("telemetry")))
    central.publish(TELEMETRY, b"new", qos=1)
    until(lambda: got, "the message arrives")
    settle(central)
    assert [message.payload for message in got] == [b"new"]


def test_an_empty_message_clears_what_was_retained(join: Join) -> None:
    central = started(join(CENTRAL_NAME))
    central.publish(ACK, b"kept", qos=1, retain=True)
    central.publish(ACK, b"", qos=1, retain=True)
    settle(central)
    device = join("cam-1")
    got = hearing(device, ACK)
    started(device)
    central.publish(ACK, b"mark", qos=1)
    until(lambda: got, "the mark arrives")
    assert [message.payload for message in got][-1:] == [b"mark"]
    assert b"kept" not in [message.payload for message in got]


def test_a_clean_stop_is_reported_and_sends_no_will(join: Join) -> None:
    central = join(CENTRAL_NAME)
    got = hearing(central, topics.every_device("status"))
    started(central)
    device = started(join("cam-1", Will(topics.device("cam-1", "status"), b"gone")))
    reasons: list[str] = []
    device.on_disconnected(reasons.append)
    device.stop()
    until(lambda: reasons, "the end is reported")
    assert not device.publish(TELEMETRY, b"x", qos=1)
    other = started(join("cam-2"))
    other.publish(topics.device("cam-2", "status"), b"mark", qos=1)
    until(lambda: got, "the mark arrives")
    assert [message.payload for message in got] == [b"mark"]


def test_nothing_is_sent_before_the_start(join: Join) -> None:
    device = join("cam-1")
    assert not device.publish(TELEMETRY, b"x", qos=1)
    assert not device.publish(TELEMETRY, b"x", qos=0)
    device.stop()
