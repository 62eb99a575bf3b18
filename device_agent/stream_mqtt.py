"""MQTT topics as a stream's source and destination. The runtime knows nothing of MQTT, so they stand here.

A broker cannot be held back by one subscriber: a message that comes while the line is full is dropped and counted, and so is
every older one with the policy `latest`. Results wait for the broker with `block`, and are dropped and counted with `latest`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import msgspec

from fleet_io.transport import Message, Transport
from runtime.streaming import Answered, Item, Policy

_PATIENCE_S: Final = 0.2


class MqttItems:
    """Messages of a topic (filter): JSON, or encoded pictures. Retained ones too, which are from before."""

    can_wait = False

    def __init__(self, transport: Transport, topic: str) -> None:
        self._transport, self._topic = transport, topic
        self._give: Callable[[Item], bool] | None = None
        self._number = 0

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        """See `runtime.streaming.Source`. Goes on until the stream stops, through every loss of the connection."""
        self._give = give
        self._transport.subscribe(self._topic, self._receive, qos=1)
        stop.wait()

    def settle(self, item: Item) -> None:
        """The broker was told that it arrived, when it did."""

    def _receive(self, message: Message) -> None:
        self._number += 1
        if self._give is not None:
            self._give(Item(f"{message.topic} {self._number}", message.payload))


class MqttResults:
    """Publishes each result with QoS 1."""

    def __init__(self, transport: Transport, topic: str, *, policy: Policy, stop: threading.Event) -> None:
        self._transport, self._topic = transport, topic
        self._policy, self._stop = policy, stop

    def write(self, answered: Answered) -> bool:
        """See `runtime.streaming.Results`."""
        payload = msgspec.json.encode(answered)
        while not self._transport.publish(self._topic, payload, qos=1):
            if self._policy == "latest" or self._stop.wait(_PATIENCE_S):
                return False
        return True

    def close(self) -> None:
        """The connection may serve the source as well; whoever made it ends it."""
