"""What a stream's `from` and `to` name: a source and a destination, and the broker where one is needed.

The agent's settings and the options of `edgeward stream` name them alike.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from device_agent.stream_mqtt import MqttItems, MqttResults
from fleet_io.clock import system_chance
from fleet_io.errors import ConfigurationError
from fleet_io.mqtt import Broker, Identity, MqttTransport
from fleet_io.ownership import owning_file
from fleet_io.transport import Transport
from runtime.errors import StreamBroken
from runtime.streaming import Policy, Results, Source
from runtime.streaming.camera import CameraItems
from runtime.streaming.directory import DirectoryItems, Seen, existing
from runtime.streaming.lines import LineItems
from runtime.streaming.results import FileResults, StreamResults

SEEN_FILE: Final = ".edgeward-seen.jsonl"
_BROKER: Final = re.compile(r"(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")
_FILTER: Final = re.compile(r"(?:(?:\+|[^+#/\0]*)/)*(?:\+|#|[^+#/\0]*)")
"""MQTT 5, 4.7.1: what a broker takes; it answers another one by ending the connection."""
_PLACES: Final = {
    "dir": "dir:PATH",
    "camera": "camera:NUMBER, camera:FILE",
    "stdin": "stdin",
    "stdout": "stdout",
    "file": "file:PATH",
    "mqtt": "mqtt:TOPIC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for. `identity` None: no TLS is spoken; `once`: a directory's stream ends with its files."""

    source: tuple[str, str]
    results: tuple[str, str]
    broker: Broker
    client_id: str
    identity: Identity | None = None
    policy: Policy | None = None
    state: Path | None = None
    once: bool = False

    def seen(self) -> Path:
        """Where a directory's done files are remembered. Raises `StreamBroken` where there is no such directory."""
        return self.state or existing(Path(self.source[1])) / SEEN_FILE

    def chosen_policy(self) -> Policy:
        """The one that was asked for, else the newest frame of a live camera, and every item of anything else."""
        live = self.source[0] == "camera" and not Path(self.source[1]).is_file()
        return self.policy or ("latest" if live else "block")


def source_of(value: str, kinds: tuple[str, ...] = ("dir", "camera", "mqtt")) -> tuple[str, str]:
    """`kind:place`, or a kind that needs no place. Raises `ConfigurationError`."""
    return _parsed(value, kinds)


def results_of(value: str, kinds: tuple[str, ...] = ("file", "mqtt")) -> tuple[str, str]:
    """The same for where results go. Raises `ConfigurationError`."""
    kind, place = _parsed(value, kinds)
    if kind == "mqtt" and set(place) & set("+#"):
        raise ConfigurationError(f"{place!r} is a filter; results go to one topic.")
    return kind, place


def _parsed(value: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    kind, _, place = value.partition(":")
    alone = kind in ("stdin", "stdout")
    if kind not in kinds or bool(place) == alone:
        *first, last = (_PLACES[each] for each in kinds)
        raise ConfigurationError(f"{value!r} is none of {', '.join(first)} or {last}.")
    if kind == "mqtt" and not _FILTER.fullmatch(place):
        raise ConfigurationError(f"{place!r}: + and # stand alone between slashes, and # only at the end.")
    return kind, place


def broker_of(value: str) -> Broker:
    """`host:port`. Raises `ConfigurationError`."""
    found = _BROKER.fullmatch(value)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ConfigurationError(f"{value!r} is no HOST:PORT, such as 127.0.0.1:1883.")
    return Broker(found["host"].strip("[]"), int(found["port"]))


@contextmanager
def opened(wanted: Wanted, stop: threading.Event, tell: Callable[[str], None]) -> Iterator[tuple[Source, Results]]:
    """Both ends, and the broker's connection for as long as they are needed; `tell` hears when that is lost.

    Raises `StreamBroken`, or `fleet_io.errors.AlreadyOwned`.
    """
    ending = threading.Event()

    def lost(reason: str) -> None:
        if not ending.is_set():
            tell(f"The broker is away: {reason}")

    with contextlib.ExitStack() as held:
        transport = None
        if "mqtt" in (wanted.source[0], wanted.results[0]):
            transport = _transport(wanted)
            held.callback(transport.stop)
        if wanted.source[0] == "dir":
            _own(wanted.seen(), held)
        ends = _source(wanted, transport), _results(wanted, transport, stop)
        if transport is not None:
            transport.on_disconnected(lost)
            transport.start()
        try:
            yield ends
        finally:
            ending.set()


def _transport(wanted: Wanted) -> MqttTransport:
    """Raises `StreamBroken` where the files for TLS are not there, or not what they should be."""
    try:
        return MqttTransport(wanted.broker, wanted.identity, client_id=wanted.client_id, chance=system_chance())
    except OSError as error:  # of the disk, or of TLS
        raise StreamBroken(f"The files for TLS cannot be used: {error.strerror or error}. Check ca, cert and key.") from error


def _own(seen: Path, held: contextlib.ExitStack) -> None:
    """Let no other stream remember its files there meanwhile. Raises `StreamBroken` or `AlreadyOwned`."""
    try:
        seen.touch()  # a lock would make missing directories
        held.enter_context(owning_file(seen, "stream"))
    except OSError as error:
        raise StreamBroken(f"{seen} cannot be kept: {error.strerror or error}. Choose another place (`state`).") from error


def _source(wanted: Wanted, transport: Transport | None) -> Source:
    match wanted.source:
        case ("dir", place):
            return DirectoryItems(Path(place), Seen(wanted.seen()), follow=not wanted.once)
        case ("camera", place):
            return CameraItems(place)
        case ("mqtt", topic) if transport is not None:
            return MqttItems(transport, topic)
    return LineItems(_standard(sys.stdin, "stdin").fileno())


def _results(wanted: Wanted, transport: Transport | None, stop: threading.Event) -> Results:
    match wanted.results:
        case ("file", place):
            return FileResults(Path(place))
        case ("mqtt", topic) if transport is not None:
            return MqttResults(transport, topic, policy=wanted.chosen_policy(), stop=stop)
    return StreamResults(_standard(sys.stdout, "stdout").buffer)


def _standard(stream: TextIO | None, name: str) -> TextIO:
    """Python has none where the caller closed it. Raises `StreamBroken`."""
    if stream is None:
        raise StreamBroken(f"{name} is closed. Open it, or name another place.")
    return stream
