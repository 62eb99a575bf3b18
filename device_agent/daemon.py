"""Puts an agent together on real parts and runs it until it is told to stop. Composition only.

The order is a promise: own the directory, load what ran, serve it on localhost, and only then speak to the network. So
inference goes on where there is no network, and no broker.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from device_agent import identity
from device_agent.agent import Agent, Surroundings
from device_agent.config import AgentConfig
from device_agent.content import ContentStore
from device_agent.errors import StateDirectoryUnusable
from device_agent.fetch import BlobFetcher, MetadataFetcher
from device_agent.identity import Enrolled
from device_agent.inputs import ServerHung, StopAsked
from device_agent.journal import Journal
from device_agent.link import ChunkLink, QueueInbox
from device_agent.outbox import Outbox
from device_agent.perform import Bounds, Parts, Performer, formats_at_hand
from device_agent.renewal import Renewal
from device_agent.reporter import Reporter, will_of
from device_agent.slots import Slots
from device_agent.streams import Streams
from device_agent.trust import Director, Releases
from device_agent.worker import ThreadWorker, Worker
from device_agent.workshop import Workshop
from fleet_io import durable
from fleet_io.clock import Chance, Clock, SystemClock, system_chance
from fleet_io.mqtt import MqttTransport
from fleet_io.ownership import owning
from fleet_io.transport import Transport
from runtime import ModelHost
from runtime.gate import examine
from runtime.hosting.host import default_limits
from runtime.local_server.server import LocalServer

log = logging.getLogger(__name__)

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Announce = Callable[[str], None]
"""Is told one line for people: where this device answers requests."""


def run(
    config: AgentConfig,
    *,
    announce: Announce,
    clock: Clock | None = None,
    chance: Chance | None = None,
    stopping: threading.Event | None = None,
    hung: Callable[[str], object] = log.critical,
) -> None:
    """Enrol when that was not done yet, then run until SIGTERM, SIGINT or `stopping`.

    `hung` is told why where an inference holds up the local server, after the journal knows: it should end the process, since
    nothing else ends the inference, and the server waits for it.

    Raises `EnrolmentFailed`, `StateDirectoryUnusable`, `fleet_io.errors.AlreadyOwned` or `ConfigurationError`, or
    `runtime.errors.CannotListen` or `ProtocolUnavailable`.
    """
    clock, chance, token = clock or SystemClock(), chance or system_chance(), config.token()
    with ExitStack() as held:
        directory = held.enter_context(owned_directory(config))
        _tidy(directory)
        enrolled = _identity(config)
        boot = secrets.token_bytes(16)
        transport = _transport(config, enrolled, boot, chance)
        host = ModelHost(clock, limits=dataclasses.replace(default_limits(), hang_s=config.hang_s))
        outbox = Outbox(directory / "outbox.sqlite", boot=boot, cap_bytes=config.outbox_bytes)
        held.callback(outbox.close)
        workers = ThreadWorker("agent-transfers"), ThreadWorker("agent-worker")
        agent = assemble(
            config,
            enrolled,
            transport=transport,
            workers=workers,
            host=host,
            outbox=outbox,
            boot=boot,
            clock=clock,
            chance=chance,
        )
        held.enter_context(_stopped_by(agent, stopping))
        agent.begin()
        agent.serving = held.enter_context(_served(config, host, token, announce, partial(_give_up, agent, hung)))
        held.enter_context(_streaming(config, host))
        for worker in workers:
            worker.start()
            held.callback(worker.stop)
        transport.start()
        held.callback(transport.stop)
        renewal = Renewal(enrolled, server=config.server or enrolled.server, clock=clock, chance=chance)
        renewal.start()
        held.callback(renewal.stop)
        agent.run()
        if agent.hung:
            hung(agent.hung)
        agent.end()


@contextmanager
def owned_directory(config: AgentConfig) -> Iterator[Path]:
    """The state directory, for this process alone. Raises `StateDirectoryUnusable` or `fleet_io.errors.AlreadyOwned`."""
    with ExitStack() as held:
        try:
            directory = durable.make_directory(config.directory, mode=0o700)
            held.enter_context(owning(directory, "agent"))
        except OSError as error:
            raise StateDirectoryUnusable(
                f"{config.state_dir} cannot be used as state directory: {error.strerror or error}. Name another."
            ) from error
        yield directory


def _tidy(directory: Path) -> None:
    """Remove what killed writes left behind; ours, and those of TUF's client."""
    for each in (directory, directory / "trust", directory / identity.DIRECTORY, *(directory / "models").glob("*")):
        durable.remove_leftovers(each)
    for path in (directory / "trust" / "metadata").glob("tmp*"):
        path.unlink(missing_ok=True)


def assemble(
    config: AgentConfig,
    enrolled: Enrolled,
    *,
    transport: Transport,
    workers: tuple[Worker, Worker],
    host: ModelHost,
    outbox: Outbox,
    boot: bytes,
    clock: Clock,
    chance: Chance,
) -> Agent:
    """An agent on the files of its state directory. `workers`: for transfers, and for the rest."""
    directory = config.directory
    link = ChunkLink(
        transport,
        config.device,
        clock=clock,
        inbox=QueueInbox(),
        first_request=secrets.randbits(32),
        stall_s=config.transfer_stall_s,
    )
    store = ContentStore(directory, reserve_bytes=config.disk_reserve_bytes)
    slots = Slots(directory / "models")
    director = Director(directory / "trust", config.device, enrolled.director_key, clock=clock)
    releases = Releases(directory / "trust" / "metadata", enrolled.tuf_root, MetadataFetcher(link), director)
    gate = partial(examine, timeout_s=config.gate_timeout_s, memory_bytes=config.gate_memory_bytes)
    workshop = Workshop(directory, store, config.effort())
    parts = Parts(store, slots, BlobFetcher(link, store), releases, director, host, gate, chance, workshop)
    bounds = Bounds(config.threads or None, formats_at_hand())
    around = Surroundings(
        transport=transport,
        transfers=workers[0],
        worker=workers[1],
        performer=Performer(parts, bounds),
        host=host,
        journal=Journal(directory),
        slots=slots,
        outbox=outbox,
        reporter=Reporter(transport, config.device, boot.hex()),
        director=director,
        clock=clock,
        chance=chance,
    )
    return Agent(config.device, around, rules=config.rules(), telemetry_interval_s=config.telemetry_interval_s)


def _identity(config: AgentConfig) -> Enrolled:
    """The identity that is there, or a new one; an enrolled device starts without what only enrolment needs."""
    enrolled = identity.load(config.directory / identity.DIRECTORY, config.device)
    if enrolled is not None:
        return enrolled
    from device_agent import enrolment

    return enrolment.enrol(config.directory / identity.DIRECTORY, config.device, server=config.server, claim=config.claim)


def _transport(config: AgentConfig, enrolled: Enrolled, boot: bytes, chance: Chance) -> MqttTransport:
    will = will_of(config.device, boot.hex())
    return MqttTransport(enrolled.broker, enrolled.identity, client_id=config.device, chance=chance, will=will)


@contextmanager
def _served(
    config: AgentConfig, host: ModelHost, token: str | None, announce: Announce, hung: Callable[[str], object]
) -> Iterator[str]:
    """The local server for as long as the block runs, and its address. Raises `CannotListen` or `ProtocolUnavailable`."""
    server = LocalServer(
        host,
        address=config.address,
        port=config.port,
        token=token,
        grpc=config.grpc_address or None,
        hung=hung,
        hang_s=config.hang_s,
    )
    server.start()
    try:
        if server.grpc_address is not None:
            announce(f"{config.device} answers gRPC at {server.grpc_address}")
        announce(f"{config.device} answers requests at {server.url}")
        yield server.url
    finally:
        server.stop()


def _give_up(agent: Agent, hung: Callable[[str], object], reason: str) -> None:
    """Let the agent write down what hangs and end; one that was stopped already waits for the server, and cannot."""
    if agent.is_running:
        agent.inputs.put(ServerHung(reason))
    else:
        hung(reason)


@contextmanager
def _streaming(config: AgentConfig, host: ModelHost) -> Iterator[None]:
    """The streams for as long as the block runs. What they wait for is their own matter."""
    streams = Streams(config.stream, host, device=config.device, directory=config.directory)
    streams.start()
    try:
        yield
    finally:
        streams.stop()


@contextmanager
def _stopped_by(agent: Agent, stopping: threading.Event | None) -> Iterator[None]:
    """While the block runs, signals (in the main thread) or `stopping` end the agent's loop."""

    def ask(*_signal: object) -> None:
        agent.inputs.put(StopAsked())

    if stopping is not None:
        threading.Thread(target=_ask_after, args=(stopping, ask), name="agent-stop", daemon=True).start()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask_after(stopping: threading.Event, ask: Callable[[], None]) -> None:
    stopping.wait()
    ask()
