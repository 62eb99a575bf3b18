"""The demo's child processes: the `edgeward` commands, each with a log file, all gone when the block ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from edgeward.errors import DemoFailed
from fleet_io.clock import Clock

STOP_TIMEOUT_S: Final = 15.0
COMMAND_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.1


@dataclass
class Troupe:
    """The programs that run, by name, and where they write."""

    directory: Path
    environment: Mapping[str, str]
    clock: Clock
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        """Start `edgeward ARGUMENTS` in the background."""
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "edgeward", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, **(environment or {})},
                start_new_session=True,
            )

    def run(self, arguments: Sequence[str]) -> Any:  # noqa: ANN401
        """Run `edgeward ARGUMENTS --json` to its end and return what it printed. Raises `DemoFailed`."""
        done = subprocess.run(
            [sys.executable, "-m", "edgeward", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(self.environment),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"`edgeward {' '.join(arguments)}` ended with {done.returncode}:\n{done.stderr.decode().strip()}")
        return msgspec.json.decode(done.stdout)

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self.directory / f"{name}.log"

    def wait_until(self, what: str, condition: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until `condition` holds. Raises `DemoFailed` when it does not in time, or when a program has ended."""
        deadline = self.clock.monotonic() + timeout_s
        pause = threading.Event()
        while not condition():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise DemoFailed(f"{name} ended with {process.returncode} while waiting until {what}:\n{self._tail(name)}")
            if self.clock.monotonic() > deadline:
                raise DemoFailed(f"{timeout_s:.0f} s went by, and it is still not so that {what}. Logs: {self.directory}")
            pause.wait(POLL_S)

    def stop(self) -> None:
        """End every program cleanly, the last one started first; by force what does not end in time."""
        for process in reversed(self.running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in reversed(self.running.values()):
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
        self.running.clear()

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


@contextmanager
def troupe(directory: Path, clock: Clock, *, keep: bool, environment: Mapping[str, str]) -> Iterator[Troupe]:
    """A troupe whose programs end with the block, unless `keep` is set and nothing went wrong."""
    made = Troupe(directory, {**environment, "PYTHONUNBUFFERED": "1"}, clock)
    try:
        yield made
    except BaseException:
        made.stop()
        raise
    if not keep:
        made.stop()
