"""`edgeward up`: the central side on this machine, until it is told to stop."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

import click

from edgeward import stopping, terminal
from edgeward.central import Central, CentralSettings
from fleet_io import config
from fleet_io.clock import SystemClock


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where all state is kept.  [default: .edgeward]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--api-port", type=int, help="Port of the HTTPS API.  [default: 8443]")
@click.option("--mqtt-port", type=int, help="Port of the MQTT broker.  [default: 8883]")
@click.option(
    "--hostname",
    "hostnames",
    multiple=True,
    help="A name or address by which devices reach this machine; the first is given to them. May be repeated.",
)
@click.option("--config", "file", type=click.Path(dir_okay=False, path_type=Path), help="TOML file with the same settings.")
def command(file: Path | None, hostnames: tuple[str, ...], **flags: str | int | None) -> None:
    """Start the central side on this machine: broker, model registry, telemetry and API.

    Everything is kept in one data directory. Stop it with Ctrl-C or SIGTERM; started again on the same directory, it goes on
    where it was. Settings come from the TOML file, then from EDGEWARD_UP_… in the environment, then from the command line.

    \b
    Examples:
      edgeward up
      edgeward up --data-dir /var/lib/edgeward --host 0.0.0.0 --hostname fleet.example.org
      EDGEWARD_UP_API_PORT=9443 edgeward up --config up.toml
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = config.load(
        CentralSettings,
        file=file,
        prefix="EDGEWARD_UP",
        environ=os.environ,  # noqa: TID251 - a program reads its environment once, here
        flags={**flags, "hostnames": hostnames or None},
    )
    asked_to_stop = stopping.on_signals()
    with Central(settings, clock=SystemClock()) as central:
        data = settings.data_dir
        terminal.err.print("[bold green]The central side is up.[/] Stop it with Ctrl-C.")
        terminal.err.print(
            f"  API      {central.url}\n  MQTT     mqtts://{settings.host}:{settings.mqtt_port}\n  data     {data}"
        )
        if data != CentralSettings.data_dir:
            terminal.err.print(f"  first    export EDGEWARD_DATA={shlex.quote(str(data))}", markup=False, soft_wrap=True)
        terminal.err.print("  next     edgeward publish BUNDLE · edgeward claim create · edgeward devices")
        central.watch(asked_to_stop)
    terminal.err.print("The central side has stopped.")
