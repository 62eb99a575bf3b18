"""`edgeward rollout`: starts, shows and ends rollouts. What follows from a rollout is decided by the registry."""

from __future__ import annotations

import contextlib
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape

from edgeward import connection, terminal
from edgeward.errors import ServerUnreachable

WATCH_S: Final = 0.5
OUTAGE_S: Final = 60.0
AWAY: Final = "[yellow]The central side does not answer; this is what it said last.[/]"
COLOURS: Final = {"succeeded": "green", "committed": "green", "failed": "red", "aborted": "red", "running": "cyan"}


def read_shares(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """The shares of `0.1,0.5,1`; whether they make sense is the registry's to say."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a list of shares such as 0.1,0.5,1") from error


def names_of(cohort: str) -> list[str]:
    """The devices that a cohort names; none for `all`."""
    return [] if cohort == "all" else [name.strip() for name in cohort.split(",")]


@click.group("rollout", short_help="Bring a release to a cohort, and watch it.")
def command() -> None:
    """Bring a release to a cohort of devices, step by step, and watch it.

    \b
    Examples:
      edgeward rollout start digits 1.1.0 --cohort all
      edgeward rollout status 1 --watch
      edgeward rollout abort 1
    """


@command.command("start")
@click.argument("model")
@click.argument("version")
@click.option("--cohort", default="all", show_default=True, help="all, or device names with commas between them.")
@click.option(
    "--steps", callback=read_shares, default="1", show_default=True, help="Rising shares of the cohort, such as 0.1,0.5,1."
)
@click.option(
    "--max-failures", type=click.IntRange(0), default=0, show_default=True, help="Devices that may fail before all go back."
)
@connection.data_option
@terminal.json_option
def start(
    *, model: str, version: str, cohort: str, steps: tuple[float, ...], max_failures: int, data_dir: Path, as_json: bool
) -> None:
    """Bring VERSION of MODEL to a cohort.

    The next step begins when every device of the steps before runs the release and has committed to it. When more devices fail
    than allowed, all go back to what they ran before. A rollout of the same model that still runs is superseded.

    \b
    Examples:
      edgeward rollout start digits 1.1.0 --cohort all
      edgeward rollout start digits 1.2.0 --steps 0.1,0.5,1 --max-failures 2
      edgeward rollout start digits 1.2.0 --cohort camera-1,camera-2
    """
    body = {"model": model, "version": version, "cohort": cohort, "steps": steps, "max_failures": max_failures}
    with contextlib.closing(connection.connect(data_dir)) as central:
        begun = central.request("POST", "/v1/rollouts", json=body)
    if as_json:
        terminal.print_json(begun)
    else:
        terminal.out.print(f"Rollout {begun['id']} of {model} {version} to {begun['counts']['members']} devices has begun.")
        for number in begun["superseded"]:
            terminal.out.print(f"  ends     rollout {number} of {model}, which ran; it is superseded")
        terminal.out.print(f"  watch    edgeward rollout status {begun['id']} --watch")
        unknown = sorted(set(names_of(cohort)) - {each["device"] for each in begun["devices"]})
        if unknown:
            named = escape(", ".join(unknown))
            terminal.err.print(f"[yellow]Not enrolled: {named}.[/] Is it spelt right? A device that enrols later gets it then.")


@command.command("list")
@connection.data_option
@terminal.json_option
def list_rollouts(*, data_dir: Path, as_json: bool) -> None:
    """List all rollouts, newest first.

    \b
    Examples:
      edgeward rollout list
      edgeward rollout list --json
    """
    with contextlib.closing(connection.connect(data_dir)) as central:
        found = central.request("GET", "/v1/rollouts")
    if as_json:
        terminal.print_json(found)
        return
    columns = ("id", "release", "state", "cohort", "run it now", "failed", "begun", "detail")
    rows = [
        (
            each["id"],
            f"{each['model']} {each['version']}",
            in_colour(each["state"]),
            each["cohort"],
            f"{each['counts']['committed']} of {each['counts']['members']}",
            each["counts"]["failed"],
            in_local_time(each["created"]),
            escape(each["detail"]),
        )
        for each in found["rollouts"]
    ]
    terminal.out.print(terminal.table("Rollouts", columns, rows, right=("id", "failed")))


@command.command("status")
@click.argument("number", type=int)
@click.option("--watch", is_flag=True, help="Stay until it has ended; exit with 1 when it did not succeed.")
@connection.data_option
@terminal.json_option
def status(*, number: int, watch: bool, data_dir: Path, as_json: bool) -> None:
    """Show rollout NUMBER and each of its devices.

    \b
    Examples:
      edgeward rollout status 3
      edgeward rollout status 3 --watch
    """
    with contextlib.closing(connection.connect(data_dir)) as central:
        seen = follow(central, number, show=not as_json) if watch else central.request("GET", f"/v1/rollouts/{number}")
    if as_json:
        terminal.print_json(seen)
    elif not watch:
        terminal.out.print(picture(seen))
    if watch and seen["state"] != "succeeded":
        sys.exit(1)


@command.command("abort")
@click.argument("number", type=int)
@connection.data_option
@terminal.json_option
def abort(*, number: int, data_dir: Path, as_json: bool) -> None:
    """End rollout NUMBER; every device that it has reached goes back to what it ran before.

    \b
    Examples:
      edgeward rollout abort 3
    """
    with contextlib.closing(connection.connect(data_dir)) as central:
        ended = central.request("POST", f"/v1/rollouts/{number}/abort")
    if as_json:
        terminal.print_json(ended)
    else:
        terminal.out.print(f"Rollout {number} is aborted; {ended['counts']['assigned']} devices go back.")


def follow(central: connection.Connection, number: int, *, show: bool) -> dict[str, Any]:
    """Look again and again until the rollout has ended. A central side that is being started again is waited for.

    Raises `ServerUnreachable` once it was silent for `OUTAGE_S`.
    """
    pause, silent_s = threading.Event(), 0.0
    seen: dict[str, Any] = central.request("GET", f"/v1/rollouts/{number}")
    with Live(picture(seen), console=terminal.out, auto_refresh=False) if show else contextlib.nullcontext() as live:
        while seen["state"] == "running":
            pause.wait(WATCH_S)
            try:
                seen, silent_s = central.request("GET", f"/v1/rollouts/{number}"), 0.0
            except ServerUnreachable:
                silent_s += WATCH_S
                if silent_s > OUTAGE_S:
                    raise
            if live is not None:
                live.update(Group(picture(seen), *([AWAY] if silent_s else [])), refresh=True)
    return seen


def picture(seen: dict[str, Any]) -> RenderableType:
    """One rollout for people."""
    counts, steps = seen["counts"], seen["steps"]
    head = (
        f"[bold]Rollout {seen['id']}[/]  {seen['model']} {seen['version']}  {in_colour(seen['state'])}  "
        f"step {seen['step'] + 1} of {len(steps)} ({steps[seen['step']]:.0%} of {seen['cohort']})\n"
        f"{counts['committed']} committed, {counts['failed']} failed, {counts['pending']} at work, "
        f"{counts['offline']} offline, {counts['waiting']} not reached"
        + (f"\n{escape(seen['detail'])}" if seen["detail"] else "")
    )
    rows = [
        (each["device"], in_colour(each["state"]), each["phase"], each["running"] or "–", escape(each["detail"]))
        for each in seen["devices"]
    ]
    return Group(head, terminal.table("", ("device", "state", "phase", "runs", "detail"), rows))


def in_colour(state: str) -> str:
    """A state in the colour that it has everywhere."""
    colour = COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def in_local_time(at: float) -> str:
    """A time as the reader's clock shows it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
