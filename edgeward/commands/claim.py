"""`edgeward claim`: makes the token with which a device enrols."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from edgeward import connection, terminal
from edgeward.numbers import Number


@click.group("claim", short_help="Make the token with which a device enrols.")
def command() -> None:
    """Make the token with which a device enrols.

    \b
    Examples:
      edgeward claim create --device camera-7
    """


@command.command("create")
@click.option("--device", help="The only device that may use it; without: any device.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many devices may enrol with it.")
@click.option("--hours", type=Number(0, min_open=True), default=24.0, show_default=True, help="How long it is good.")
@click.option("--replace", is_flag=True, help="Let it give an existing device's name to a new key, as after a repair.")
@connection.data_option
@terminal.json_option
def create(*, device: str | None, uses: int, hours: float, replace: bool, data_dir: Path, as_json: bool) -> None:
    """Make a claim token. It is shown once: whoever has it can enrol as a device, so hand it over as you would a password.

    \b
    Examples:
      edgeward claim create --device camera-7
      edgeward claim create --uses 500 --hours 8
      edgeward claim create --device camera-7 --replace
    """
    body = {"device": device, "uses": uses, "expires_s": hours * 3600, "replace": replace}
    with contextlib.closing(connection.connect(data_dir)) as central:
        made = central.request("POST", "/v1/claims", json=body)
        server = central.profile.for_devices or central.profile.url
    if as_json:
        terminal.print_json(made)
        return
    whose = f"for {device}" if device else f"for {uses} device{'s' if uses > 1 else ''}"
    terminal.err.print(f"A claim {whose}, good for {hours:g} h. On the device:")
    name = device or "NAME"
    click.echo(f"edgeward agent run --server {server} --device {name} --state-dir {name} --claim {made['claim']}")
