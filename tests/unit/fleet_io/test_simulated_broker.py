"""The simulated broker keeps MQTT's rules, so that what works in simulation works on Mosquitto."""

from __future__ import annotations

import pytest

from fleet_io.simulated import SimulatedBroker, SimulatedTransport, matches
from fleet_io.transport import Message, Will


def joined(
    broker: SimulatedBroker, name: str, *filters: str, will: Will | None = None
) -> tuple[SimulatedTransport, list[Message]]:
    client, got = SimulatedTransport(broker, name, will=will), list[Message]()
    for topic_filter in filters:
        client.subscribe(topic_filter, got.append, qos=1)
    client.start()
    return client, got


@pytest.mark.parametrize(
    ("topic_filter", "topic", "fits"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("+/+", "/b", True),
        ("#", "a/b", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("$share/group/a/+", "a/b", True),
        ("$share/group/a/+", "group/a/b", False),
    ],
)
def test_filters_match_as_mqtt_says(topic_filter: str, topic: str, fits: bool) -> None:
    assert matches(topic_filter, topic) is fits


def test_a_retained_message_comes_to_later_subscribers_marked_and_an_empty_one_clears_it() -> None:
    broker = SimulatedBroker()
    sender, _ = joined(broker, "sender")
    _, early = joined(broker, "early", "t")
    sender.publish("t", b"1", qos=1, retain=True)
    _, late = joined(broker, "late", "t")
    assert early == [Message("t", b"1", retained=False)]
    assert late == [Message("t", b"1", retained=True)]
    sender.publish("t", b"", qos=1, retain=True)
    assert joined(broker, "latest", "t")[1] == []


def test_one_member_of_a_shared_group_gets_each_message_and_none_that_was_retained() -> None:
    broker = SimulatedBroker()
    sender, _ = joined(broker, "sender")
    sender.publish("t", b"old", qos=1, retain=True)
    _, one = joined(broker, "one", "$share/g/t")
    _, two = joined(broker, "two", "$share/g/t")
    _, other = joined(broker, "other", "$share/h/t")
    sender.publish("t", b"new", qos=1)
    assert len(one) + len(two) == 1
    assert [message.payload for message in other] == [b"new"]


def test_nothing_is_sent_or_received_while_cut_and_the_will_speaks() -> None:
    broker = SimulatedBroker()
    _, watcher = joined(broker, "watcher", "status")
    device, got = joined(broker, "device", "t", will=Will("status", b"gone"))
    other, _ = joined(broker, "other")
    reasons: list[str] = []
    device.on_disconnected(reasons.append)
    device.cut()
    assert not device.publish("t", b"x", qos=1)
    other.publish("t", b"lost", qos=1)
    assert got == []
    assert [message.payload for message in watcher] == [b"gone"]
    assert reasons == ["cut"]
    device.start()
    other.publish("t", b"back", qos=1)
    assert [message.payload for message in got] == [b"back"]
    device.stop()
    assert [message.payload for message in watcher] == [b"gone"], "a clean stop has no will"


def test_a_fault_loses_doubles_or_changes_what_one_client_gets() -> None:
    def fault(client: str, message: Message) -> list[Message]:
        return {"lossy": [], "double": [message, message]}.get(client, [message])

    broker = SimulatedBroker(fault=fault)
    sender, _ = joined(broker, "sender")
    received = {name: joined(broker, name, "t")[1] for name in ("lossy", "double", "plain")}
    sender.publish("t", b"x", qos=0)
    assert {name: len(got) for name, got in received.items()} == {"lossy": 0, "double": 2, "plain": 1}
    assert broker.sent_bytes == 1
