"""The order of events, told in plain words: a good release, a better one, and a broken one that no device lets in."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgeward import connection, terminal
from edgeward.broker import free_ports
from edgeward.demo import facts as outcome
from edgeward.demo.processes import Troupe
from edgeward.demo.traffic import Application
from edgeward.errors import DemoFailed, FrontDoorError
from edgeward.fleet_reading import read_devices
from fleet_io.clock import Clock

MODEL: Final = "digits"
GOOD, BETTER, BROKEN = "1.0.0", "1.1.0", "1.2.0"
DEVICES: Final = ("shelf-1", "shelf-2", "shelf-3")
TENSOR: Final = "pixels"
START_TIMEOUT_S: Final = 60.0
ROLLOUT_TIMEOUT_S: Final = 120.0
AFTERMATH_ANSWERS: Final = 50
"""So many more answers of each device are waited for after the broken release was refused."""

PHASES: Final = ("idle", "fetching", "verifying", "staged", "gating", "preparing", "activating", "probation")


@dataclass
class Demo:
    """One performance. `examples` holds the digits; `work` is where everything is written."""

    troupe: Troupe
    examples: Path
    work: Path
    console: Console
    clock: Clock
    applications: list[Application] = field(default_factory=list)
    bundles: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The central side's data directory."""
        return self.work / "central"

    def play(self) -> outcome.Facts:
        """All of it, in order. Raises `DemoFailed` at the first thing that does not come out as it must."""
        started = self.clock.monotonic()
        self.start_central()
        self.release(GOOD, self.examples / "digits-v1.onnx", "A first model")
        self.start_devices()
        self.roll_out(GOOD, "succeeded")
        self.start_applications()
        self.release(BETTER, self.examples / "digits-v2.onnx", "A better model, while the devices answer")
        self.roll_out(BETTER, "succeeded")
        self.release(BROKEN, self.damaged(), "A model whose weights were damaged after training, published all the same")
        self.roll_out(BROKEN, "failed", "--max-failures", str(len(DEVICES) - 1))
        self.outlive_the_broken_release()
        for application in self.applications:
            application.stop()
        return self.gather(self.clock.monotonic() - started)

    def say(self, title: str, detail: str = "") -> None:
        """One step, for people."""
        self.console.print(f"\n[bold]› {title}[/]" + (f"\n  {detail}" if detail else ""))

    def edgeward(self, *arguments: str) -> Any:  # noqa: ANN401
        """One command against the demo's central side."""
        return self.troupe.run([*arguments, "--data-dir", str(self.data)])

    def start_central(self) -> None:
        """`edgeward up`, on free ports."""
        api, mqtt = free_ports(2)
        self.say(
            "The central side starts", "Mosquitto with TLS, the model registry, telemetry and the API, from one directory."
        )
        ports = ["--api-port", str(api), "--mqtt-port", str(mqtt)]
        self.troupe.start("central", ["up", "--data-dir", str(self.data), *ports])
        self.troupe.wait_until("the central side answers", self.central_answers, timeout_s=START_TIMEOUT_S)

    def central_answers(self) -> bool:
        """Whether the API is there."""
        if not (self.data / connection.OPERATOR_FILE).exists():
            return False
        with contextlib.suppress(FrontDoorError):
            return bool(self.ask("/healthz"))
        return False

    def release(self, version: str, source: Path, what: str) -> None:
        """`edgeward convert`, then `edgeward publish`."""
        self.say(f"{what}: {MODEL} {version}", "Converted to int8, compared with float on held-out digits, signed, published.")
        bundle = self.work / f"{MODEL}-{version}"
        with self.bar(f"convert {version}"):
            data = ["--data", str(self.examples / "digits.npz")]
            name = ["--name", MODEL, "--version", version]
            self.bundles[version] = self.troupe.run(["convert", str(source), *data, *name, "--out", str(bundle)])["report"]
        with self.bar(f"publish {version}"):
            self.edgeward("publish", str(bundle))
        for line in described(self.bundles[version]):
            self.console.print(line)

    def damaged(self) -> Path:
        """The better model with noise on every weight: `examples/digits/damage.py`."""
        spec = importlib.util.spec_from_file_location("damage", self.examples / "damage.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        target = self.work / "digits-v3-damaged.onnx"
        module.damage(self.examples / "digits-v2.onnx", target)
        return target

    def start_devices(self) -> None:
        """`edgeward agent run`, three times, each with a claim of its own."""
        self.say("Three devices join", "Each brings a claim, gets a certificate, and from then on speaks MQTT over TLS.")
        url = connection.connect(self.data).profile.url
        for device in DEVICES:
            claim = self.edgeward("claim", "create", "--device", device)["claim"]
            arguments = ["agent", "run", "--server", url, "--device", device, "--state-dir", str(self.work / device)]
            self.troupe.start(device, arguments, environment={"EDGEWARD_AGENT_CLAIM": claim, **QUICK})
        self.troupe.wait_until("all devices are online", self.all_online, timeout_s=START_TIMEOUT_S)

    def all_online(self) -> bool:
        """Whether the registry has heard from every device."""
        return sum(bool(device["online"]) for device in self.devices()) == len(DEVICES)

    def ask(self, path: str) -> Any:  # noqa: ANN401
        """One look at the central side."""
        with contextlib.closing(connection.connect(self.data)) as central:
            return central.request("GET", path)

    def devices(self) -> list[dict[str, Any]]:
        """What the registry knows of every device."""
        listed: list[dict[str, Any]] = self.ask("/v1/devices")["devices"]
        return listed

    def roll_out(self, version: str, expected: str, *options: str) -> None:
        """`edgeward rollout start`, and the way of every device until the rollout has ended as `expected`."""
        self.say(f"{MODEL} {version} is rolled out to all devices")
        rollout = self.edgeward("rollout", "start", MODEL, version, "--cohort", "all", *options)["id"]
        with Progress(
            TextColumn("  {task.description:<10}"), BarColumn(), TextColumn("{task.fields[phase]}"), console=self.console
        ) as bars:
            tasks = {device: bars.add_task(device, total=len(PHASES), phase="idle") for device in DEVICES}
            with contextlib.closing(connection.connect(self.data)) as central:
                watched = Watch(central, rollout, lambda device, **seen: bars.update(tasks[device], **seen))
                self.troupe.wait_until(f"the rollout of {version} ends", watched.ended, timeout_s=ROLLOUT_TIMEOUT_S)
        self.outcomes[version] = watched.state
        if watched.state != expected:
            raise DemoFailed(f"The rollout of {version} {watched.state}: {watched.why}. Logs: {self.troupe.directory}")
        self.console.print(f"  The rollout {watched.state}{', as it should' if expected == 'failed' else ''}: {watched.why}.")

    def start_applications(self) -> None:
        """One application on every device asks for answers from now on to the end."""
        self.say("Applications on the devices begin to ask", "One digit after another, over HTTP on localhost, until the end.")
        with np.load(self.examples / "digits.npz", allow_pickle=False) as data:
            pixels, labels = data["pixels"], data["label"]
        serving = {device["name"]: device["serving"] for device in self.devices()}
        self.applications = [Application(name, serving[name], MODEL, pixels, labels, TENSOR) for name in DEVICES]
        for application in self.applications:
            application.start()

    def outlive_the_broken_release(self) -> None:
        """The devices go on with what ran before, and say so."""
        self.say(f"Every device refused {BROKEN} and goes on with {BETTER}")
        before = {application.device: application.answered for application in self.applications}
        self.troupe.wait_until(
            "every device still answers",
            lambda: all(each.answered >= before[each.device] + AFTERMATH_ANSWERS for each in self.applications),
            timeout_s=ROLLOUT_TIMEOUT_S,
        )
        self.troupe.wait_until("every device runs what it should", self.all_settled, timeout_s=ROLLOUT_TIMEOUT_S)

    def all_settled(self) -> bool:
        """Whether every device runs the better release, and is told to."""
        return all(
            model["committed"] and model["running"]["version"] == BETTER
            for device in self.devices()
            for model in device["models"]
        )

    def gather(self, seconds: float) -> outcome.Facts:
        """What came of it."""
        answers = outcome.answers_by_version(self.applications)
        nothing = {"answered": 0, "right": 0.0}
        shipped = {variant["name"]: variant for variant in self.bundles[BETTER]["variants"] if variant["shipped"]}
        preferred = next(each for each in shipped.values() if each["precision"].startswith("int8"))
        broker = self.ask("/v1/broker")
        with contextlib.closing(connection.connect(self.data)) as central:
            devices = read_devices(central)
        return outcome.Facts(
            devices=devices,
            requests=outcome.tally(self.applications),
            models={
                MODEL: {
                    version: {"outcome": state, **answers.get(version, nothing)} for version, state in self.outcomes.items()
                }
            },
            bytes_on_wire=broker["bytes_received"] + broker["bytes_sent"],
            accuracy=outcome.Accuracy(reference=shipped["float32"]["accuracy"]["value"], int8=preferred["accuracy"]["value"]),
            sizes={name: variant["size"] for name, variant in shipped.items()},
            seconds=round(seconds, 1),
        )

    @contextmanager
    def bar(self, what: str) -> Iterator[None]:
        """A bar that moves while one command runs."""
        columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            bars.add_task(what, total=None)
            yield


QUICK: Final = {
    "EDGEWARD_AGENT_PROBATION_S": "3",
    "EDGEWARD_AGENT_TELEMETRY_INTERVAL_S": "2",
    "EDGEWARD_AGENT_TUNE_S": "0",
}
"""A fleet takes its time; a demo does not, and devices that share one processor have nothing to tune for."""


@dataclass
class Watch:
    """Follows one rollout, and moves the devices' bars."""

    central: connection.Connection
    rollout: str
    move: Callable[..., None]
    state: str = "running"
    why: str = ""

    def ended(self) -> bool:
        """Look once. True when the rollout has ended."""
        seen = self.central.request("GET", f"/v1/rollouts/{self.rollout}")
        self.state, self.why = seen["state"], seen.get("detail", "")
        for device in seen["devices"]:
            phase = device["outcome"] if device["outcome"] != "pending" else device["phase"]
            done = len(PHASES) if device["outcome"] != "pending" else PHASES.index(phase) if phase in PHASES else 0
            self.move(device["device"], completed=done, phase="refused" if phase == "failed" else phase)
        return self.state != "running"


def described(report: dict[str, Any]) -> Iterator[str]:
    """A bundle's variants, the preferred one first, and what the converter warns of."""
    for each in report["variants"]:
        yield f"  {each['name']:<20}{terminal.in_bytes(each['size']):>9}   accuracy {each['accuracy']['value']:.1%}"
    for warning in report["warnings"]:
        yield f"  [yellow]The converter warns:[/] {warning}"
