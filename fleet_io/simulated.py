"""A broker in memory with faults on demand, behind the same `Transport` interface: for simulation, and only there.

Delivery is synchronous and in order until a `Fault` says otherwise. It holds retained messages, honours wildcards and shared
subscriptions, and forgets a client's subscriptions when it is cut, as a clean session does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fleet_io.transport import Handler, Message, QoS, Will, unshared

Fault = Callable[[str, Message], list[Message]]
"""Given the receiving client and a message, what it gets instead: nothing (lost), the same twice, or other bytes."""


def no_fault(_client: str, message: Message) -> list[Message]:
    """Every message arrives once, unchanged."""
    return [message]


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5 §4.7: whether `topic` falls under `topic_filter`; a `$share/group/` prefix is passed over."""
    wanted = unshared(topic_filter).split("/")
    given = topic.split("/")
    for at, part in enumerate(wanted):
        if part == "#":
            return True
        if at >= len(given) or part not in ("+", given[at]):
            return False
    return len(wanted) == len(given)


@dataclass
class SimulatedBroker:
    """Retained messages and connected clients."""

    fault: Fault = no_fault
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: list[SimulatedTransport] = field(default_factory=list)
    sent_bytes: int = 0

    def deliver(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Hand a message to every subscription, and to one member of each shared group."""
        if retain:
            self.retained[topic] = payload
            if not payload:
                del self.retained[topic]
        self.sent_bytes += len(payload)
        served_groups: set[str] = set()
        for client in list(self.clients):
            for topic_filter, handler in list(client.subscriptions.items()):
                if not matches(topic_filter, topic) or topic_filter in served_groups:
                    continue
                if topic_filter.startswith("$share/"):
                    served_groups.add(topic_filter)
                for message in self.fault(client.name, Message(topic, payload)):
                    handler(message)


class SimulatedTransport:
    """One client of a `SimulatedBroker`."""

    def __init__(self, broker: SimulatedBroker, name: str, *, will: Will | None = None) -> None:
        self.name = name
        self.subscriptions: dict[str, Handler] = {}
        self.connected = False
        self._broker = broker
        self._will = will
        self._connected: list[Callable[[], None]] = []
        self._disconnected: list[Callable[[str], None]] = []

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: QoS) -> None:
        """See `Transport`."""
        self.subscriptions[topic_filter] = handler
        if self.connected:
            self._send_retained(topic_filter, handler)

    def publish(self, topic: str, payload: bytes, *, qos: QoS, retain: bool = False) -> bool:
        """See `Transport`."""
        if not self.connected:
            return False
        self._broker.deliver(topic, payload, retain=retain)
        return True

    def on_connected(self, callback: Callable[[], None]) -> None:
        """See `Transport`."""
        self._connected.append(callback)

    def on_disconnected(self, callback: Callable[[str], None]) -> None:
        """See `Transport`."""
        self._disconnected.append(callback)

    def start(self) -> None:
        """See `Transport`."""
        self.connected = True
        self._broker.clients.append(self)
        for topic_filter, handler in list(self.subscriptions.items()):
            self._send_retained(topic_filter, handler)
        for callback in self._connected:
            callback()

    def stop(self) -> None:
        """See `Transport`."""
        if self.connected:
            self._leave("stopped")

    def cut(self) -> None:
        """Lose the connection as a pulled cable does: the broker sends the will."""
        if not self.connected:
            return
        self._leave("cut")
        if self._will is not None:
            self._broker.deliver(self._will.topic, self._will.payload, retain=True)

    def _leave(self, reason: str) -> None:
        self.connected = False
        self._broker.clients.remove(self)
        for callback in self._disconnected:
            callback(reason)

    def _send_retained(self, topic_filter: str, handler: Handler) -> None:
        if topic_filter.startswith("$share/"):
            return
        for topic, payload in list(self._broker.retained.items()):
            if matches(topic_filter, topic):
                handler(Message(topic, payload, retained=True))
