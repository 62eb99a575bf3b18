"""Mosquitto as a child process: its configuration from our topic table, its start, its watch, its clean end.

The configuration follows what DESIGN.md §7 lists as tested on Mosquitto 2.0.11: one certificate for each client, the identity
from the certificate, the client id forced to it, access by pattern. Nothing a client says about itself is believed.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Final

import psutil

from edgeward.errors import BrokerUnavailable
from fleet_io import durable
from fleet_io.http_server import listening_socket
from fleet_io.mqtt import Broker, Identity
from fleet_protocol import limits, topics

log = logging.getLogger(__name__)

PROGRAM: Final = "mosquitto"
INSTALL_HINT: Final = "Install it with `apt install mosquitto`, `brew install mosquitto` or `apk add mosquitto`."
START_TIMEOUT_S: Final = 15.0
STOP_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
LOG_BYTES: Final = 16 * limits.MIB
"""Of the log, and of the one before it: it grows by some lines with every connection."""
MEMORY: Final = "mosquitto.db"
MEMORY_DAMAGED: Final = "mosquitto.db.damaged"
UNREADABLE: Final = "Unable to restore persistent database"
"""What Mosquitto says of a memory that it cannot read, before it ends."""


def find_program() -> str:
    """The path of Mosquitto. Raises `BrokerUnavailable` with the command that installs it."""
    found = shutil.which(PROGRAM, path=os.pathsep.join((os.defpath, "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))) or (
        shutil.which(PROGRAM)
    )
    if found is None:
        raise BrokerUnavailable(f"Mosquitto, the MQTT broker, is not installed. {INSTALL_HINT}")
    return found


def access_rules(central: str) -> str:
    """The broker's access list: a device its own topics by direction, the central side all of ours, nobody else anything."""
    lines = [f"user {central}", f"topic readwrite {topics.ALL}", "topic read $SYS/broker/#", ""]
    lines += [f"pattern read {topic}" for topic in (*topics.DEVICE_READS, *topics.EVERY_DEVICE_READS)]
    lines += [f"pattern write {topic}" for topic in topics.DEVICE_WRITES]
    return "\n".join(lines) + "\n"


def configuration(directory: Path, broker: Broker, identity: Identity) -> str:
    """`mosquitto.conf` for one TLS listener with required client certificates.

    Started by root, Mosquitto would become the user `mosquitto`, who cannot read our keys: it is told to stay.
    """
    return f"""\
# Written by `edgeward up`; changed here, it is written over at the next start.
per_listener_settings false
listener {broker.port} {broker.host}
cafile {identity.authority}
certfile {identity.certificate}
keyfile {identity.key}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {directory / "access.conf"}
set_tcp_nodelay true
sys_interval 1
max_packet_size {limits.MESSAGE_BYTES + 4096}
max_inflight_messages 200
max_queued_messages 1000
persistence true
persistence_location {directory}/
autosave_interval 30
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
user {getpass.getuser()}
"""


class Mosquitto:
    """One broker process. `identity` is the server's certificate, `central` the name of the client that may do all."""

    def __init__(self, directory: Path, broker: Broker, identity: Identity, *, central: str) -> None:
        self.broker = broker
        self._directory = directory.resolve()
        self._identity = identity
        self._central = central
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def _conf_path(self) -> Path:
        return self._directory / "mosquitto.conf"

    @property
    def _pid_path(self) -> Path:
        return self._directory / "mosquitto.pid"

    @property
    def log_path(self) -> Path:
        """What the broker has to say."""
        return self._directory / "mosquitto.log"

    def start(self) -> None:
        """Start and wait until it listens. Raises `BrokerUnavailable`, or `ListenFailed` when the port is taken."""
        program = find_program()
        durable.make_directory(self._directory, mode=0o700)
        self._end_orphan()
        listening_socket(self.broker.host, self.broker.port).close()
        durable.write_bytes(self._directory / "access.conf", access_rules(self._central).encode(), mode=0o600)
        written = configuration(self._directory, self.broker, self._identity)
        durable.write_bytes(self._conf_path, written.encode(), mode=0o600)
        try:
            self._launch(program)
        except BrokerUnavailable:
            if not self._set_memory_aside():
                raise
            self._launch(program)

    def _launch(self, program: str) -> None:
        with self.log_path.open("ab") as said:
            self._process = subprocess.Popen(
                [program, "-c", str(self._conf_path)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                process_group=0,
            )
        durable.write_bytes(self._pid_path, str(self._process.pid).encode())
        self._await_listening()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """End it cleanly; by force when it does not listen."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        if not self.wait(STOP_TIMEOUT_S):
            self.kill()
        self._process = None
        self._pid_path.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it as a power cut does (tests and the last resort)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)

    def turn_log_over(self) -> None:
        """Where the log has grown large, keep it as `mosquitto.log.1` and let it begin anew; the broker only ever appends."""
        with contextlib.suppress(OSError):
            if self.log_path.stat().st_size > LOG_BYTES:
                with contextlib.suppress(OSError):  # a full disk takes no copy, and has room again without the log
                    shutil.copyfile(self.log_path, self.log_path.with_name(f"{self.log_path.name}.1"))
                os.truncate(self.log_path, 0)

    def _set_memory_aside(self) -> bool:
        """Keep a memory that Mosquitto cannot read under another name: it is only a hint, and everything is sent again."""
        if UNREADABLE not in self._last_words():
            return False
        log.warning("Mosquitto's memory is damaged; it is kept as %s, and a new one begins", MEMORY_DAMAGED)
        durable.rename(self._directory / MEMORY, self._directory / MEMORY_DAMAGED)
        return True

    def _end_orphan(self) -> None:
        """End the broker that an `edgeward up` which was killed left behind: it has our port, and nobody owns it any more."""
        try:
            process = psutil.Process(int(self._pid_path.read_text(encoding="ascii")))
            if str(self._conf_path) not in process.cmdline():
                return  # the number belongs to somebody else by now
            process.terminate()
            process.wait(STOP_TIMEOUT_S)
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return  # it is gone, or the number is another user's by now
        except psutil.TimeoutExpired:
            process.kill()

    def _await_listening(self) -> None:
        """Wait until a TLS handshake is answered."""
        assert self._process is not None
        waiting = threading.Event()
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            if self._process.poll() is not None:
                raise BrokerUnavailable(f"Mosquitto ended at once: {self._last_words()} (log: {self.log_path})")
            if listens(self.broker.host, self.broker.port):
                return
            waiting.wait(POLL_S)
        self.stop()
        raise BrokerUnavailable(f"Mosquitto did not listen within {START_TIMEOUT_S:.0f} s (log: {self.log_path})")

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "; ".join(lines[-3:]) or "it said nothing"


def listens(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that are free right now, each another: all are held until the last is found."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free right now."""
    return free_ports(1, host)[0]
