"""What `--from` and `--to` of `edgeward stream` name: a source and a destination, and the broker where one is needed."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import click

from edgeward.stream_mqtt import MqttItems, MqttResults
from fleet_io.clock import system_chance
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
_HINT: Final = {
    "--from": "dir:PATH, camera:NUMBER, camera:FILE, stdin or mqtt:TOPIC",
    "--to": "stdout, file:PATH or mqtt:TOPIC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for on the command line. `identity` None: the broker is asked without TLS."""

    source: tuple[str, str]
    results: tuple[str, str]
    broker: Broker
    client_id: str
    identity: Identity | None
    policy: Policy | None
    state: Path | None
    once: bool

    def seen(self) -> Path:
        """Where a directory's done files are remembered. Raises `StreamBroken` where there is no such directory."""
        return self.state or existing(Path(self.source[1])) / SEEN_FILE

    def chosen_policy(self) -> Policy:
        """That of the command line, else the newest frame of a live camera, and every item of anything else."""
        live = self.source[0] == "camera" and not Path(self.source[1]).is_file()
        return self.policy or ("latest" if live else "block")


def parsed(option: str, value: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    """`kind:place`, or a kind that needs no place. Raises `click.BadParameter`."""
    kind, _, place = value.partition(":")
    alone = kind in ("stdin", "stdout")
    if kind not in kinds or bool(place) == alone:
        raise click.BadParameter(f"{value!r} is none of {_HINT[option]}.", param_hint=option)
    if kind == "mqtt" and option == "--to" and set(place) & set("+#"):
        raise click.BadParameter(f"{place!r} is a filter; results go to one topic.", param_hint=option)
    if kind == "mqtt" and not _FILTER.fullmatch(place):
        raise click.BadParameter(f"{place!r}: + and # stand alone between slashes, and # only at the end.", param_hint=option)
    return kind, place


def broker(value: str) -> Broker:
    """`host:port`. Raises `click.BadParameter`."""
    found = _BROKER.fullmatch(value)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise click.BadParameter(f"{value!r} is no HOST:PORT, such as 127.0.0.1:1883.", param_hint="--broker")
    return Broker(found["host"].strip("[]"), int(found["port"]))


@contextmanager
def opened(wanted: Wanted, stop: threading.Event) -> Iterator[tuple[Source, Results]]:
    """Both ends, and the broker's connection for as long as they are needed. Raises `StreamBroken`."""
    with contextlib.ExitStack() as held:
        transport = None
        if "mqtt" in (wanted.source[0], wanted.results[0]):
            transport = MqttTransport(wanted.broker, wanted.identity, client_id=wanted.client_id, chance=system_chance())
            held.callback(transport.stop)
        if wanted.source[0] == "dir":
            _own(wanted.seen(), held)
        ends = _source(wanted, transport), _results(wanted, transport, stop)
        if transport is not None:
            transport.on_disconnected(lambda reason: click.echo(f"The broker is away: {reason}", err=True))
            transport.start()
        yield ends


def _own(seen: Path, held: contextlib.ExitStack) -> None:
    """Let no other stream remember its files there meanwhile. Raises `StreamBroken` or `AlreadyOwned`."""
    try:
        seen.touch()  # a lock would make missing directories
        held.enter_context(owning_file(seen, "stream"))
    except OSError as error:
        raise StreamBroken(f"{seen} cannot be kept: {error.strerror or error}. Choose another place with --state.") from error


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
