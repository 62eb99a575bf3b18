"""`edgeward agent`: one device's agent, its enrolment, and what it knows. Needs no converters and no registry."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from device_agent import daemon, identity
from device_agent.config import AgentConfig, load
from device_agent.status import DeviceSummary, summary
from device_agent.streams import StreamStatus
from edgeward import hanging, terminal

F = TypeVar("F", bound=Callable[..., object])


def settings_options(wrapped: F) -> F:
    """The settings that every subcommand needs to find its state directory."""
    for option in (
        click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with settings."),
        click.option("--state-dir", type=click.Path(file_okay=False), help="Where this device keeps everything."),
        click.option("--device", help="The device's name in the fleet."),
    ):
        wrapped = option(wrapped)
    return wrapped


def enrolment_options(wrapped: F) -> F:
    """What is needed once, to become one of the fleet."""
    for option in (
        click.option("--claim", help="Claim token from `edgeward claim create`; better given as EDGEWARD_AGENT_CLAIM."),
        click.option("--server", help="https://host:port of the central side."),
    ):
        wrapped = option(wrapped)
    return wrapped


@click.group()
def command() -> None:
    """Run the agent of one device.

    Every setting may stand in a TOML file (--config), in the environment as EDGEWARD_AGENT_…, or on the command line; the
    latter win. `docs/agent.md` lists them.

    \b
    Examples:
      edgeward agent run --device kitchen --state-dir /var/lib/edgeward --server https://fleet:8443 --claim ew1.…
      edgeward agent status --device kitchen --state-dir /var/lib/edgeward
    """


@command.command("run")
@settings_options
@enrolment_options
@click.option("--address", help="Where applications ask for predictions; unix:PATH for a socket.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port for applications; 0 takes a free one.  [default: 0]")
@click.option("--grpc-address", help="Where they ask over gRPC: HOST:PORT, or unix:PATH.  [default: nowhere]")
@click.option("--token-file", help="File with a token that applications must show.  [default: none]")
def run(file: Path | None, **flags: str | int | None) -> None:
    """Enrol on the first start, then run until SIGTERM or Ctrl-C.

    What ran before answers again before the network is asked for anything. On its first start the device needs --server and
    --claim; afterwards it knows them.

    \b
    Examples:
      edgeward agent run --device kitchen --state-dir ./kitchen --server https://127.0.0.1:8443 --claim ew1.…
      edgeward agent run --device kitchen --state-dir ./kitchen --port 8000
      edgeward agent run --device kitchen --state-dir ./kitchen --address unix:/run/edgeward.sock --token-file token
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    daemon.run(_settings(file, flags), announce=click.echo, hung=hanging.end)


@command.command("enrol")
@settings_options
@enrolment_options
def enrol(file: Path | None, **flags: str | None) -> None:
    """Get this device's identity and keep it; a device that has one keeps it.

    \b
    Examples:
      edgeward agent enrol --device kitchen --state-dir ./kitchen --server https://127.0.0.1:8443 --claim ew1.…
    """
    from device_agent import enrolment

    config = _settings(file, flags)
    with daemon.owned_directory(config) as directory:
        enrolled = enrolment.enrol(directory / identity.DIRECTORY, config.device, server=config.server, claim=config.claim)
    click.echo(f"{enrolled.device} is enrolled; its broker is {enrolled.broker.host}:{enrolled.broker.port}.")


@command.command("status")
@settings_options
@terminal.json_option
def status(file: Path | None, as_json: bool, **flags: str | None) -> None:  # noqa: FBT001 - click passes flags by name
    """Show what this device runs and what it is doing, from its state directory; the agent may run or not.

    \b
    Examples:
      edgeward agent status --device kitchen --state-dir ./kitchen
      edgeward agent status --device kitchen --state-dir ./kitchen --json
    """
    found = summary(_settings(file, flags))
    if as_json:
        terminal.print_json(found)
        return
    columns = ("model", "runs", "variant", "phase", "wanted", "refused")
    terminal.out.print(terminal.table(f"Device {found.device}", columns, _rows(found)))
    if found.streams:
        headings = ("stream", "model", "from", "to", "state", "answered", "failed", "dropped", "reason")
        terminal.out.print(terminal.table("Streams", headings, map(_stream_row, found.streams)))
    terminal.out.print(f"{'enrolled' if found.enrolled else 'not enrolled'}; {terminal.in_bytes(found.bytes)} of model files")


def _rows(found: DeviceSummary) -> Iterator[tuple[str, ...]]:
    for each in found.models:
        runs = (each.running.version, each.running.variant) if each.running else ("nothing", "")
        wanted = "none" if each.removed else each.wanted.version if each.wanted else "not known"
        refused = "; ".join(f"{refusal.version} ({refusal.phase}): {refusal.reason}" for refusal in each.refused)
        yield (each.model, *runs, each.phase, wanted, refused)


def _stream_row(each: StreamStatus) -> tuple[str, ...]:
    counts = each.counts
    numbers = (counts.answered, counts.failed, counts.dropped + counts.unwritten)
    return (each.name, each.model, each.source, each.results, each.state, *map(str, numbers), each.reason)


def _settings(file: Path | None, flags: dict[str, str | int | None] | dict[str, str | None]) -> AgentConfig:
    return load(file=file, environ=os.environ, flags=flags)  # noqa: TID251 - a program reads its environment once, here
