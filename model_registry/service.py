"""The registry as one part of a central side: makes what is missing, then serves routes and a transport.

`prepare` is safe to run at every start: it makes keys, certificates, the TUF repository, the database and the operator's token
where they are missing, renews what grows old, and names the piece that is damaged. Composition only; each rule lives below.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner
from starlette.routing import BaseRoute

from fleet_io import durable
from fleet_io.clock import Clock
from fleet_io.mqtt import Identity
from fleet_io.transport import Transport
from model_registry import authority, keyring, trust
from model_registry.api import Api
from model_registry.blobs import DirectoryBlobStore
from model_registry.catalogue import Catalogue, open_catalogue
from model_registry.coordinator import Coordinator
from model_registry.enrolment import Enrolment
from model_registry.errors import Damaged
from model_registry.http_edge import Edge
from model_registry.layout import Layout
from model_registry.publication import Publication
from model_registry.rollout_control import RolloutControl
from model_registry.worker import ChunkWorker, WorkerLimits

CENTRAL_NAME: Final = authority.CENTRAL_NAME
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RegistrySettings:
    """`broker_host` and `broker_port` are what devices are told; `hostnames` stand in the server's certificate.

    `database` is a SQLAlchemy URL; empty: SQLite in `data`. `worker` names this process's chunk worker; empty: a random name.
    """

    data: Path
    broker_host: str = "127.0.0.1"
    broker_port: int = 8883
    hostnames: tuple[str, ...] = ()
    device_certificate_days: int = 365
    database: str = ""
    worker: str = ""
    worker_limits: WorkerLimits = field(default_factory=WorkerLimits)


class Registry:
    """In this order: `prepare`, then `routes` and `attach`, then `start`, and at the end `stop`."""

    def __init__(self, settings: RegistrySettings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._layout = Layout(settings.data)
        self._parts: _Parts | None = None
        self._worker: ChunkWorker | None = None

    @property
    def server_identity(self) -> Identity:
        """Certificate and key for the broker and the API."""
        return self._layout.identity("server")

    @property
    def central_identity(self) -> Identity:
        """Certificate and key of the central side's own MQTT client, whose name is `CENTRAL_NAME`."""
        return self._layout.identity("central")

    @property
    def authority_path(self) -> Path:
        """The certificate that devices and operators trust (PEM)."""
        return self._layout.authority

    @property
    def operator_token(self) -> str:
        """The bearer token of the API; after `prepare`."""
        return self._layout.operator_token.read_text(encoding="ascii").strip()

    def prepare(self) -> None:
        """Make what is missing and open what is there. Raises `Damaged`, `KeysMissing`, or `OSError` for the disk."""
        layout, now = self._layout, self._clock.now()
        for directory in (layout.root, layout.root / "keys", layout.offline_keys, layout.online_keys, layout.certificates):
            durable.make_directory(directory, mode=0o700)
            durable.remove_leftovers(directory)
        if not layout.operator_token.exists():
            durable.write_bytes(layout.operator_token, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
        issuer = _prepare_authority(layout, now)
        _prepare_certificates(layout, issuer, (*LOCAL_NAMES, *self._settings.hostnames), now)
        catalogue = open_catalogue(self._settings.database or f"sqlite:///{layout.database}")
        try:
            self._parts = self._assemble(issuer, catalogue, _prepare_trust(layout, catalogue, now))
        except BaseException:
            catalogue.close()
            raise

    def routes(self) -> list[BaseRoute]:
        """The HTTP API."""
        return self._prepared.api.routes()

    def guarded(self, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
        """Routes of other parts behind the operator's token."""
        return Edge(self.operator_token).guarded(routes)

    def attach(self, transport: Transport) -> None:
        """Subscribe everything; before the transport starts."""
        parts = self._prepared
        parts.coordinator.attach(transport)
        name = self._settings.worker or f"worker-{secrets.token_hex(4)}"
        self._worker = ChunkWorker(
            name, parts.blobs, parts.publication.metadata, transport, self._clock, self._settings.worker_limits
        )
        self._worker.attach()

    def start(self) -> None:
        """Begin to coordinate and to serve chunks."""
        self._prepared.coordinator.start()
        if self._worker is not None:
            self._worker.start()

    def wake(self) -> None:
        """Look at rollouts and assignments now, for whoever changed the database by another way than the API."""
        self._prepared.coordinator.wake()

    def work_once(self) -> None:
        """One round of all that the threads do, for callers that start none (simulations)."""
        self._prepared.coordinator.work(0)
        if self._worker is not None:
            self._worker.serve_waiting()

    def stop(self) -> None:
        """End all threads and close the database. Safe to call at any time, and twice."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._parts is not None:
            self._parts.coordinator.stop()
            self._parts.catalogue.close()
            self._parts = None

    @property
    def _prepared(self) -> _Parts:
        assert self._parts is not None, "prepare() comes first"
        return self._parts

    def _assemble(self, issuer: authority.Authority, catalogue: Catalogue, online: dict[str, CryptoSigner]) -> _Parts:
        settings, clock = self._settings, self._clock
        blobs = DirectoryBlobStore(self._layout.blobs)
        publication = Publication(catalogue, blobs, trust.OnlineKeys(online["snapshot"], online["timestamp"]), clock)
        publication.renew()
        coordinator = Coordinator(catalogue, publication, online["director"], clock)
        with catalogue.reading() as records:
            root = trust.load_repository(records.metadata).root
            tuf_root = records.metadata(trust.file_name("root", root.signed.version))
        assert tuf_root is not None
        api = Api(
            token=self.operator_token,
            authority=issuer,
            tuf_root=tuf_root.decode(),
            director_key=online["director"].public_key,
            broker=(settings.broker_host, settings.broker_port),
            catalogue=catalogue,
            blobs=blobs,
            publication=publication,
            enrolment=Enrolment(catalogue, issuer, clock, certificate_days=settings.device_certificate_days),
            rollouts=RolloutControl(catalogue, clock, coordinator.wake),
            coordinator=coordinator,
        )
        return _Parts(catalogue, blobs, publication, coordinator, api)


@dataclass(frozen=True, slots=True)
class _Parts:
    catalogue: Catalogue
    blobs: DirectoryBlobStore
    publication: Publication
    coordinator: Coordinator
    api: Api


def _prepare_authority(layout: Layout, now: float) -> authority.Authority:
    """The authority; made only when neither of its files is there: one without the other is damage.

    But for a first start that was killed between the two: then the authority has signed nothing, not even for ourselves.
    """
    has_signed = layout.identity("server").certificate.exists()
    if not layout.authority.exists() and not (has_signed and layout.authority_key.exists()):
        made = authority.create(now)
        durable.write_bytes(layout.authority_key, made.key_pem(), mode=0o600)
        durable.write_bytes(layout.authority, made.certificate)
    for path in (layout.authority, layout.authority_key):
        if not path.exists():
            raise Damaged(f"{path} is missing.", "Restore it from its copy; a new one would lock every device out.")
    return authority.load(layout.authority.read_bytes(), layout.authority_key.read_bytes())


def _prepare_certificates(layout: Layout, issuer: authority.Authority, hosts: tuple[str, ...], now: float) -> None:
    """Our own two certificates, made anew when they grow old or the machine's names change."""
    for name, wanted in (("server", hosts), ("central", ())):
        identity = layout.identity(name)
        if identity.certificate.exists() and identity.key.exists():
            kept = authority.KeyPair(identity.certificate.read_bytes(), identity.key.read_bytes())
            if not authority.needs_renewal(kept, wanted, now):
                continue
        pair = issuer.issue_server(wanted, now) if wanted else issuer.issue_central(now)
        durable.write_bytes(identity.key, pair.key, mode=0o600)
        durable.write_bytes(identity.certificate, pair.certificate)


def _prepare_trust(layout: Layout, catalogue: Catalogue, now: float) -> dict[str, CryptoSigner]:
    """The online keys, and the repository where there is none yet."""
    with catalogue.changing() as records:
        if records.metadata(trust.TIMESTAMP_FILE) is not None:
            return {name: keyring.load(layout.online_keys / f"{name}.pem") for name in keyring.ONLINE}
        online = keyring.create(layout.online_keys, keyring.ONLINE)
        offline = keyring.create(layout.offline_keys, keyring.OFFLINE)
        keys = trust.OnlineKeys(online["snapshot"], online["timestamp"])
        root = trust.new_root([offline[name] for name in keyring.ROOT_KEYS], keys, offline["targets"], now)
        records.keep_metadata(trust.new_repository(root, keys, offline["targets"], now))
        durable.write_bytes(layout.offline_keys / "root.json", root.to_bytes())
        durable.write_bytes(layout.offline_keys / "README.md", keyring.OFFLINE_README.encode())
    return online
