"""A registry for tests: the real service and API over HTTP on a free port, bundles made on the spot, and devices that talk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key
from starlette.applications import Starlette

from fleet_io.bundle_directory import Bundle, describe, write_bundle
from fleet_io.clock import SystemClock
from fleet_io.http_server import HttpServer
from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_io.transport import Message
from fleet_protocol import codec, topics
from fleet_protocol.digests import digest_of
from fleet_protocol.manifest import Golden, Lineage, Manifest, Tolerance, Variant
from fleet_protocol.states import (
    Assignment,
    DesiredState,
    DeviceStatus,
    ModelReport,
    Refusal,
    ReportedState,
    Running,
    decode_desired,
)
from fleet_protocol.tensors import TensorSpec
from model_registry.layout import Layout
from model_registry.publishing import Outcome, PublisherKeys, publish
from model_registry.service import Registry, RegistrySettings

SPEC = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))


@dataclass
class SteppedClock:
    """Time that moves when a test says so; starts at the real time, because the TUF client reads the real clock."""

    at: float = field(default_factory=lambda: SystemClock().now())
    since: float = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.since

    def forward(self, seconds: float) -> None:
        self.at += seconds
        self.since += seconds


def make_bundle(
    directory: Path, model: str = "digits", version: str = "1.0.0", *, content: bytes = b"weights" * 100, chunk_size: int = 256
) -> Bundle:
    """A bundle whose files are bytes that nobody loads."""
    parts = directory.parent / f"{directory.name}-parts"
    parts.mkdir(parents=True)
    contents = {"model.onnx": content, "golden.npz": b"golden", "profile.json": b"{}", "parity.json": b"[]"}
    paths = {}
    for name, bytes_ in contents.items():
        (parts / name).write_bytes(bytes_)
        paths[name] = parts / name
    described = {
        name: describe(path, name=name, media_type="application/octet-stream", chunk_size=chunk_size)
        for name, path in paths.items()
    }
    variant = Variant(
        name="float32",
        format="onnx",
        precision="float32",
        file=described["model.onnx"],
        tolerance=Tolerance(min_sqnr_db=20.0),
    )
    manifest = Manifest(
        model=model,
        version=version,
        inputs=(SPEC,),
        outputs=(SPEC,),
        variants=(variant,),
        golden=Golden(file=described["golden.npz"], samples=1),
        profile=described["profile.json"],
        parity=described["parity.json"],
        lineage=Lineage(source=digest_of(content), data=digest_of(b"data")),
    )
    return write_bundle(directory, manifest, paths)


def request_pem(key: CertificateIssuerPrivateKeyTypes | None = None, *, name: str = "whatever") -> str:
    """A device's certificate request; what name it asks for must not matter."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return made.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@dataclass
class RegistryWorld:
    """A prepared registry whose coordinator and worker do their rounds when a test says `settle`."""

    directory: Path
    clock: SteppedClock = field(default_factory=SteppedClock)
    broker: SimulatedBroker = field(default_factory=SimulatedBroker)
    registry: Registry = field(init=False)
    transport: SimulatedTransport = field(init=False)
    client: httpx.Client = field(init=False)
    _server: HttpServer = field(init=False)

    def open(self) -> None:
        """Prepare, attach, and listen on a free port. The threads are not started: rounds are the test's."""
        settings = RegistrySettings(self.directory, broker_host="broker.example", broker_port=18883, worker="worker-1")
        self.registry = Registry(settings, clock=self.clock)
        self.registry.prepare()
        self.transport = SimulatedTransport(self.broker, "central")
        self.registry.attach(self.transport)
        self._server = HttpServer(Starlette(routes=self.registry.routes()), host="127.0.0.1", port=0)
        self._server.start()
        headers = {"authorization": f"Bearer {self.registry.operator_token}"}
        self.client = httpx.Client(base_url=self._server.url, headers=headers, trust_env=False)
        self.transport.start()

    def close(self) -> None:
        """Stop listening and close the database."""
        self.transport.stop()
        self.client.close()
        self._server.stop()
        self.registry.stop()

    def again(self) -> None:
        """Close and open on the same directory, as after a restart."""
        self.close()
        self.open()

    @property
    def layout(self) -> Layout:
        return Layout(self.directory)

    @property
    def keys(self) -> PublisherKeys:
        return PublisherKeys(self.layout.offline_keys)

    def settle(self, rounds: int = 3) -> None:
        """Let the coordinator and the worker do all that waits."""
        for _ in range(rounds):
            self.registry.work_once()

    def publish(self, bundle: Bundle) -> Outcome:
        return publish(bundle.directory, client=self.client, keys=self.keys, now=self.clock.now())

    def release(self, model: str = "digits", version: str = "1.0.0", **more: Any) -> Bundle:
        """Make and publish a bundle."""
        bundle = make_bundle(self.directory.parent / f"{model}-{version}", model, version, **more)
        self.publish(bundle)
        return bundle

    def ask(self, method: str, path: str, *, status: int = 200, **more: Any) -> Any:
        """The API's JSON, when it answers with this status."""
        answer = self.client.request(method, path, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def claim(self, **more: Any) -> str:
        token: str = self.ask("POST", "/v1/claims", status=201, json=more)["claim"]
        return token


@contextmanager
def registry_world(directory: Path, *, fresh: bool = False) -> Iterator[RegistryWorld]:
    """A world for one test. Its keys are those of every other world of the test run, unless it is `fresh`."""
    world = RegistryWorld(directory / "registry")
    if not fresh:
        shutil.copytree(_template(directory.parent), world.directory)
    world.open()
    with contextlib.closing(world):
        yield world


def _template(directory: Path) -> Path:
    """A prepared registry, made once and copied from then on: making keys and syncing them takes longer than most tests."""
    template = directory / "registry-template"
    if not template.exists():
        made = Registry(RegistrySettings(template), clock=SystemClock())
        made.prepare()
        made.stop()
    return template


@dataclass
class TalkingDevice:
    """A device that says over the simulated broker what a test wants it to say, and hears what it is told."""

    name: str
    broker: SimulatedBroker
    director: Key
    boot: str = "0" * 32
    sequence: int = 0
    session: str = "s1"
    told: list[DesiredState] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    transport: SimulatedTransport = field(init=False)

    def __post_init__(self) -> None:
        self.transport = SimulatedTransport(self.broker, self.name)
        self.transport.subscribe(topics.device(self.name, "desired"), self._hear, qos=1)
        self.transport.subscribe(topics.device(self.name, "rx"), self.answers.append, qos=0)

    @property
    def assigned(self) -> dict[str, Assignment]:
        """What it should run, by its newest word."""
        return {} if not self.told else {each.model: each for each in self.told[-1].assignments}

    def connect(self) -> None:
        self.transport.start()
        self.say_status(online=True)

    def say_status(self, *, online: bool, session: str | None = None) -> None:
        status = DeviceStatus(online=online, session=session or self.session)
        self.transport.publish(topics.device(self.name, "status"), codec.encode(status), qos=1, retain=True)

    def report(self, *models: ModelReport, speaks_for: str | None = None) -> None:
        self.sequence += 1
        state = ReportedState(
            device=speaks_for or self.name,
            boot=self.boot,
            sequence=self.sequence,
            desired=self.told[-1].sequence if self.told else 0,
            agent="test",
            models=models,
        )
        self.transport.publish(topics.device(self.name, "reported"), codec.encode(state), qos=1, retain=True)

    def run(self, model: str = "digits") -> None:
        """Do as told, and report it committed."""
        self.report(runs(self.assigned[model]))

    def refuse(self, model: str = "digits", *, instead: Assignment | None = None, reason: str = "gate: too wrong") -> None:
        """Refuse what it was told, and go on with `instead`."""
        told = self.assigned[model]
        refused = Refusal(version=told.version, manifest=told.manifest, attempt=told.attempt, phase="gating", reason=reason)
        kept = None if instead is None else runs(instead).running
        self.report(ModelReport(model=model, phase="idle", running=kept, refused=(refused,)))

    def _hear(self, message: Message) -> None:
        envelope = Envelope.from_dict(msgspec.json.decode(message.payload))
        envelope.verify([self.director], 1)
        self.told.append(decode_desired(envelope.payload))


def runs(assignment: Assignment) -> ModelReport:
    """The report of a device that runs an assignment and has committed to it."""
    running = Running(version=assignment.version, manifest=assignment.manifest, variant="float32", file=digest_of(b"file"))
    return ModelReport(model=assignment.model, phase="idle", running=running)
