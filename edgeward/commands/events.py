"""`edgeward events`: what happened on the devices, newest last, as a log is read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import click

from edgeward import connection, terminal
from edgeward.fleet_reading import local_time, safe

COLOURS: Final = {
    "committed": "green",
    "gate_passed": "green",
    "prepared": "green",
    "gate_refused": "red",
    "rolled_back": "red",
    "alert": "red",
}


@click.command("events", short_help="Show what happened on the devices.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many of the newest.")
@click.option("--device", help="Only those of this device.")
@click.option("--model", help="Only those of this model.")
@connection.data_option
@terminal.json_option
def command(*, limit: int, device: str | None, model: str | None, data_dir: Path, as_json: bool) -> None:
    """Show what happened on the devices: phases, gate verdicts, commits, rollbacks and alerts. The newest stand last.

    \b
    Examples:
      edgeward events
      edgeward events --device camera-1 --limit 200
      edgeward events --model digits --json
    """
    asked = {"limit": limit, "device": device, "model": model}
    query = urlencode({key: value for key, value in asked.items() if value is not None})
    with contextlib.closing(connection.connect(data_dir)) as central:
        found = central.request("GET", f"/v1/telemetry/events?{query}")
    if as_json:
        terminal.print_json(found)
        return
    if not found["events"]:
        terminal.out.print("Nothing has happened yet.")
        return
    rows = [
        (
            local_time(each["at"]),
            each["device"],
            f"[{COLOURS.get(each['kind'], 'cyan')}]{each['kind'].replace('_', ' ')}[/]",
            f"{each['model']} {each['version'] or ''}",
            safe(each["detail"]),
        )
        for each in reversed(found["events"])
    ]
    terminal.out.print(terminal.table("Events", ("at", "device", "event", "model", "detail"), rows))
