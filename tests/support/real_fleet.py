"""Registry, HTTPS API and Mosquitto with TLS in this process; agents as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from edgeward.broker import Mosquitto, free_port
from fleet_io.bundle_directory import write_bundle
from fleet_io.clock import SystemClock, system_chance
from fleet_io.http_server import HttpServer, ServerCertificate
from fleet_io.mqtt import Broker, MqttTransport
from model_registry.publishing import PublisherKeys, publish
from model_registry.service import CENTRAL_NAME, Registry, RegistrySettings
from tests.support.releases import Release
from tests.support.waiting import until

QUICK = {
    "EDGEWARD_AGENT_PROBATION_S": "1",
    "EDGEWARD_AGENT_TELEMETRY_INTERVAL_S": "0.5",
    "EDGEWARD_AGENT_FIRST_RETRY_S": "0.5",
    "EDGEWARD_AGENT_TRANSFER_STALL_S": "5",
    "EDGEWARD_AGENT_DISK_RESERVE_BYTES": "0",
    "EDGEWARD_AGENT_TUNE_S": "0",
}


class RealFleet:
    """A central side without telemetry. Use through `real_fleet`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held = ExitStack()
        port = free_port()
        settings = RegistrySettings(data=directory / "registry", broker_port=port)
        self.registry = Registry(settings, clock=SystemClock())
        self.registry.prepare()
        self._held.callback(self.registry.stop)
        identity = self.registry.server_identity
        self.broker = Mosquitto(directory / "broker", Broker("127.0.0.1", port), identity, central=CENTRAL_NAME)
        certificate = ServerCertificate(identity.certificate, identity.key)
        self._http = HttpServer(Starlette(routes=self.registry.routes()), host="127.0.0.1", port=0, certificate=certificate)

    def start(self) -> None:
        self.broker.start()
        self._held.callback(self.broker.stop)
        transport = MqttTransport(
            self.broker.broker, self.registry.central_identity, client_id=CENTRAL_NAME, chance=system_chance()
        )
        self.registry.attach(transport)
        self.registry.start()
        transport.start()
        self._held.callback(transport.stop)
        self.serve()

    def serve(self) -> None:
        """Only the HTTPS API, where a test needs no broker."""
        self._http.start()
        self._held.callback(self._http.stop)
        self.client = self._held.enter_context(
            httpx.Client(
                base_url=self._http.url,
                verify=_context(self.registry.authority_path),
                headers={"authorization": f"Bearer {self.registry.operator_token}"},
                trust_env=False,
            )
        )

    @property
    def url(self) -> str:
        return self._http.url

    def close(self) -> None:
        self._held.close()

    def claim(self, device: str, *, replace: bool = False) -> str:
        token: str = self._ask("POST", "/v1/claims", {"device": device, "replace": replace})["claim"]
        return token

    def publish(self, release: Release) -> None:
        bundle = self.directory / "published" / f"{release.manifest.model}-{release.manifest.version}"
        paths = {each.path: release.files[each.digest] for each in release.manifest.files()}
        write_bundle(bundle, release.manifest, paths)
        keys = PublisherKeys(self.directory / "registry" / "keys" / "offline")
        publish(bundle, client=self.client, keys=keys, now=SystemClock().now())

    def roll_out(self, version: str, *, model: str = "digits", max_failures: int = 0) -> int:
        body = {"model": model, "version": version, "max_failures": max_failures}
        return int(self._ask("POST", "/v1/rollouts", body)["id"])

    def rollout(self, number: int) -> Any:
        return self._ask("GET", f"/v1/rollouts/{number}")

    def device(self, name: str) -> Any:
        return self._ask("GET", f"/v1/devices/{name}")

    def model_of(self, name: str, model: str = "digits") -> Any:
        """What the device reports of one model; None when it does not."""
        return next((each for each in self.device(name)["models"] if each["model"] == model), None)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        answer = self.client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()


@dataclass
class AgentProcess:
    """`edgeward agent run` for one device."""

    fleet: RealFleet
    device: str
    claim: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    settings: Path | None = None
    """A TOML file, for what the environment cannot say."""
    process: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.fleet.directory / self.device

    @property
    def url(self) -> str:
        """Where it answers, as it printed last."""
        return next(line for line in reversed(self.lines) if "answers requests at" in line).split()[-1]

    def start(self) -> None:
        """Start, and wait until it answers requests (for what it already has)."""
        seen = len(self.lines)
        command = [sys.executable, "-m", "edgeward", "agent", "run", "--server", self.fleet.url]
        self.process = subprocess.Popen(
            [
                *command,
                *(("--config", str(self.settings)) if self.settings else ()),
                "--device",
                self.device,
                "--state-dir",
                str(self.state_dir),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **QUICK, **self.environment, "EDGEWARD_AGENT_CLAIM": self.claim, "PYTHONUNBUFFERED": "1"},  # noqa: TID251
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        until(lambda: any("answers requests at" in line for line in self.lines[seen:]) or self.ended(), "the agent serves")
        assert not self.ended(), self.log()

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal, and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def log(self) -> str:
        return "".join(self.lines)

    def infer(self, inputs: dict[str, Any], model: str = "digits") -> Any:
        """Ask over HTTP; the parsed answer. Raises for a status that is no success."""
        tensors = [
            {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
            for name, array in inputs.items()
        ]
        answer = httpx.post(f"{self.url}/v2/models/{model}/infer", json={"inputs": tensors}, trust_env=False, timeout=10)
        answer.raise_for_status()
        return json.loads(answer.content)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            self.lines.extend(iter(process.stdout.readline, ""))


def _context(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


@contextmanager
def real_fleet(directory: Path) -> Iterator[RealFleet]:
    """A fleet that runs for the length of the block."""
    made = RealFleet(directory)
    try:
        made.start()
        yield made
    finally:
        made.close()


@contextmanager
def agent_process(fleet: RealFleet, device: str, settings: Path | None = None, /, **environment: str) -> Iterator[AgentProcess]:
    """An enrolled and running agent, ended with the block."""
    made = AgentProcess(fleet, device, fleet.claim(device), environment, settings)
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and not made.ended():
            with contextlib.suppress(subprocess.TimeoutExpired):
                made.stop()
            if not made.ended():
                made.kill()
