"""A real Mosquitto with TLS for one test module, and clients of it that are always stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from edgeward.broker import Mosquitto, free_port
from fleet_io.clock import system_chance
from fleet_io.mqtt import Broker, Identity, MqttTransport
from fleet_io.transport import Transport, Will
from fleet_protocol import topics
from model_registry.authority import CENTRAL_NAME
from tests.support.certificates import TestAuthority
from tests.support.waiting import until


class TestBroker:
    """A running broker, its authority, and the clients that a test asked for."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.authority = TestAuthority(directory / "certificates")
        self._held = ExitStack()
        address = Broker("127.0.0.1", free_port())
        self.process = Mosquitto(directory / "broker", address, self.authority.server(), central=CENTRAL_NAME)

    @property
    def address(self) -> Broker:
        """Where it listens."""
        return self.process.broker

    def client(self, name: str, *, will: Will | None = None, identity: Identity | None = None) -> MqttTransport:
        """A client that is not yet started; stopped with the broker at the latest."""
        identity = identity or (self.authority.central() if name == CENTRAL_NAME else self.authority.device(name))
        made = MqttTransport(self.address, identity, client_id=name, chance=system_chance(), will=will)
        self._held.callback(made.stop)
        return made

    def connected(self, name: str) -> MqttTransport:
        """A started client without subscriptions that is connected."""
        made = self.client(name)
        return start_and_wait(made)

    def trust(self, *names: str) -> None:
        """Let these identities read and write every topic of ours, as the central one may: further central processes."""
        rules = "".join(f"\nuser {name}\ntopic readwrite {topics.ALL}\n" for name in names)
        access = self.process.log_path.with_name("access.conf")
        access.write_text(rules + access.read_text())
        self.connected(CENTRAL_NAME).stop()  # before its main loop runs, Mosquitto would die of the signal
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGHUP)

    def close(self) -> None:
        """Stop the clients, then the broker."""
        self._held.close()
        self.process.stop()


T = TypeVar("T", bound=Transport)


def start_and_wait(client: T) -> T:
    """Start a client and return once it is connected and its subscriptions are granted."""
    connects: list[bool] = []
    client.on_connected(lambda: connects.append(True))
    client.start()
    until(lambda: connects, "the client is connected")
    return client


@contextmanager
def running_broker(directory: Path) -> Iterator[TestBroker]:
    """A broker that runs for the length of the block."""
    broker = TestBroker(directory)
    try:
        broker.process.start()
        yield broker
    finally:
        broker.close()
