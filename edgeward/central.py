"""The central side on one machine: Mosquitto, model registry, telemetry and the HTTPS API, from one data directory.

This is composition only. Each part keeps its own state in the data directory, so a central side that was stopped or killed
goes on where it was when it is started again.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeward import connection
from edgeward.broker import Mosquitto
from edgeward.errors import BrokerUnavailable, NoAddressForDevices
from fleet_io import durable
from fleet_io.clock import Clock, system_chance
from fleet_io.errors import ConfigurationError, ListenFailed
from fleet_io.http_server import HttpServer, ServerCertificate
from fleet_io.mqtt import Broker, MqttTransport
from fleet_io.ownership import owning
from fleet_io.transport import Message
from fleet_telemetry.service import Telemetry
from model_registry.authority import CENTRAL_NAME
from model_registry.service import Registry, RegistrySettings

log = logging.getLogger(__name__)


WATCH_S: Final = 0.5
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
BROKER_FIGURES: Final = ("bytes/received", "bytes/sent", "clients/connected")

LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""How this machine reaches what listens on all of its addresses."""

HostName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9:][A-Za-z0-9._:-]{0,252}$")]
"""A name or an address. It stands in a certificate, which takes no other letters; others' names have an `xn--` form."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


@dataclass(frozen=True)
class CentralSettings:
    """Where the central side keeps its state, and where it listens. Devices remember the ports, so none is chosen freely."""

    data_dir: Path = connection.DEFAULT_DATA
    host: HostName = "127.0.0.1"
    api_port: Port = 8443
    mqtt_port: Port = 8883
    hostnames: tuple[HostName, ...] = ()
    """Further names and addresses by which devices reach this machine; they stand in the server's certificate."""

    @property
    def for_devices(self) -> str:
        """The name or address that devices are given."""
        return self.hostnames[0] if self.hostnames else self.host


class Central:
    """A central side that runs from `with` to the end of the block."""

    def __init__(self, settings: CentralSettings, *, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._held = ExitStack()
        self._figures: dict[str, int] = {}
        self._broker: Mosquitto | None = None

    @property
    def url(self) -> str:
        """Where the API answers on this machine."""
        return _url(self._local_host, self.settings.api_port)

    @property
    def url_for_devices(self) -> str:
        """Where devices reach the API."""
        return _url(self.settings.for_devices, self.settings.api_port)

    @property
    def _local_host(self) -> str:
        return LOOPBACK.get(self.settings.host, self.settings.host)

    def __enter__(self) -> Self:
        """Start every part, the broker first. Raises what the part that cannot start raises, with all others stopped."""
        if self.settings.for_devices in LOOPBACK:
            raise NoAddressForDevices(
                f"{self.settings.host} means every address of this machine, and none that a device could be given. "
                "Name one by which devices reach it, as --hostname fleet.example.org."
            )
        if self.settings.api_port == self.settings.mqtt_port:
            raise ConfigurationError(f"api_port and mqtt_port are both {self.settings.api_port}. Give each a port of its own.")
        with self._held:
            self._held.enter_context(owning(durable.make_directory(self.settings.data_dir, mode=0o700), "`edgeward up`"))
            registry, telemetry = self._prepare()
            self._broker = self._start_broker(registry)
            transport = self._connect(registry)
            for part in (registry, telemetry):
                part.attach(transport)
                part.start()
                self._held.callback(part.stop)
            transport.start()
            self._held.callback(transport.stop)
            self._serve(registry, telemetry)
            self._held = self._held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop every part, the broker last."""
        self._held.close()

    def watch(self, stopping: threading.Event) -> None:
        """Keep the broker up until `stopping` is set: one that ends is started again, with growing pauses."""
        assert self._broker is not None
        pause = FIRST_PAUSE_S
        while not stopping.wait(WATCH_S):
            if self._broker.pid is not None:
                self._broker.turn_log_over()
                pause = FIRST_PAUSE_S
                continue
            log.warning("Mosquitto ended; starting it again")
            try:
                self._broker.start()
            except (BrokerUnavailable, ListenFailed, OSError) as error:  # the last of a full disk
                log.warning("%s Trying again in %.1f s.", error, pause)
                stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _prepare(self) -> tuple[Registry, Telemetry]:
        settings = self.settings
        registry = Registry(
            RegistrySettings(
                data=settings.data_dir / "registry",
                broker_host=settings.for_devices,
                broker_port=settings.mqtt_port,
                hostnames=(settings.host, *settings.hostnames),
            ),
            clock=self._clock,
        )
        registry.prepare()
        telemetry = Telemetry(settings.data_dir / "telemetry.sqlite", clock=self._clock)
        telemetry.prepare()
        return registry, telemetry

    def _start_broker(self, registry: Registry) -> Mosquitto:
        broker = Mosquitto(
            self.settings.data_dir / "broker",
            Broker(self.settings.host, self.settings.mqtt_port),
            registry.server_identity,
            central=CENTRAL_NAME,
        )
        broker.start()
        self._held.callback(broker.stop)
        return broker

    def _connect(self, registry: Registry) -> MqttTransport:
        transport = MqttTransport(
            Broker(self._local_host, self.settings.mqtt_port),
            registry.central_identity,
            client_id=CENTRAL_NAME,
            chance=system_chance(),
        )
        for figure in BROKER_FIGURES:
            transport.subscribe(f"$SYS/broker/{figure}", self._keep_figure, qos=0)
        return transport

    def _serve(self, registry: Registry, telemetry: Telemetry) -> None:
        identity = registry.server_identity
        application = Starlette(
            routes=[
                Route("/healthz", self._health),
                *registry.routes(),
                *registry.guarded([*telemetry.routes(), Route("/v1/broker", self._show_broker)]),
            ]
        )
        server = HttpServer(
            application,
            host=self.settings.host,
            port=self.settings.api_port,
            certificate=ServerCertificate(identity.certificate, identity.key),
        )
        server.start()
        self._held.callback(server.stop)
        profile = connection.OperatorProfile(
            url=self.url,
            authority=identity.authority.read_text(encoding="ascii"),
            token=registry.operator_token,
            for_devices=self.url_for_devices,
        )
        connection.write_profile(self.settings.data_dir, profile)

    def _keep_figure(self, message: Message) -> None:
        self._figures[message.topic.removeprefix("$SYS/broker/")] = int(message.payload)

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _show_broker(self, _request: Request) -> Response:
        figures = {name: self._figures.get(name, 0) for name in BROKER_FIGURES}
        return JSONResponse({name.replace("/", "_"): value for name, value in figures.items()})


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
