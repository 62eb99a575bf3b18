"""`edgeward up` as a process of its own, for tests that need the whole central side."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edgeward import connection
from edgeward.broker import free_ports
from edgeward.errors import FrontDoorError
from tests.support.waiting import until

WAIT_S = 60.0


@dataclass
class CentralSide:
    """One data directory, and the process that serves it."""

    data: Path
    api_port: int
    mqtt_port: int
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    """The lines that it wrote to stderr."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api_port}"

    def spawn(self) -> subprocess.Popen[str]:
        """Start `edgeward up` on this directory and these ports, without waiting."""
        ports = ["--api-port", str(self.api_port), "--mqtt-port", str(self.mqtt_port)]
        return subprocess.Popen(
            [sys.executable, "-m", "edgeward", "up", "--data-dir", str(self.data), *ports],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self) -> None:
        """Start and wait until the API answers."""
        self.process = self.spawn()
        drain(self.process, self.said)
        until(self.answers, "the central side answers", timeout_s=WAIT_S)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the central side ended"
        with contextlib.suppress(FrontDoorError), contextlib.closing(connection.connect(self.data)) as central:
            return bool(central.request("GET", "/healthz"))
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(30)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        with contextlib.closing(connection.connect(self.data)) as central:
            return central.request(method, path, **arguments)

    def broker_pid(self) -> int:
        return int((self.data / "broker" / "mosquitto.pid").read_text())


def drain(process: subprocess.Popen[str], said: list[str]) -> None:
    """Read what the process says into `said`, so that it never waits for a reader."""

    def read() -> None:
        assert process.stderr is not None
        with contextlib.suppress(ValueError):
            said.extend(process.stderr)

    threading.Thread(target=read, daemon=True).start()


def edgeward(*arguments: object, stdin: IO[bytes] | None = None, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    """One command, as a user runs it."""
    command = [sys.executable, "-m", "edgeward", *map(str, arguments)]
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, timeout=timeout_s)


@contextmanager
def central_side(data: Path) -> Iterator[CentralSide]:
    """A central side that answers, ended with the block."""
    api_port, mqtt_port = free_ports(2)
    made = CentralSide(data, api_port, mqtt_port)
    made.start()
    try:
        yield made
    finally:
        assert made.process is not None
        if made.process.poll() is None:
            made.stop()
        elif made.process.stderr is not None:
            made.process.stderr.close()
