"""What the programs need of MQTT, as one narrow interface: `fleet_io.mqtt` for a broker, `fleet_io.simulated` for tests.

Handlers run on the transport's own thread. They put what they got into a queue and return; they never wait and never raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

QoS = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived."""

    topic: str
    payload: bytes
    retained: bool = False


Handler = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we vanish: retained, QoS 1."""

    topic: str
    payload: bytes


def unshared(topic_filter: str) -> str:
    """The filter that topics are matched against: without the `$share/group/` of MQTT 5 §4.8.2."""
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter


class Transport(Protocol):
    """A connection that is kept up. Messages sent while it is down are dropped: whoever needs more keeps an outbox."""

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: QoS) -> None:
        """Have messages of `topic_filter` handed to `handler`, now and after every reconnect."""
        ...

    def publish(self, topic: str, payload: bytes, *, qos: QoS, retain: bool = False) -> bool:
        """Send, without waiting. False: not connected, or too much is under way; nothing was sent."""
        ...

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every connect, once all subscriptions are granted."""
        ...

    def on_disconnected(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the reason when a connection ends or cannot be made."""
        ...

    def start(self) -> None:
        """Begin to connect, in a thread of its own."""
        ...

    def stop(self) -> None:
        """Disconnect cleanly and end the thread. The will is not sent."""
        ...
