"""`edgeward devices`: what every device runs, what it should run, and how it does."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from edgeward import connection, terminal
from edgeward.fleet_reading import ago, cut, local_time, presence_of, read_devices, safe, state_of
from edgeward.fleet_view import DeviceView, ModelOnDevice, device_views
from fleet_io.clock import SystemClock

COLUMNS: Final = ("device", "", "model", "runs", "wanted", "state", "answers", "p50", "p99", "errors")
NUMBERS: Final = ("answers", "p50", "p99", "errors")


@click.command("devices", short_help="Show what every device runs.")
@click.argument("name", required=False)
@click.option("--retry", is_flag=True, help="Let the device NAME try once more what it should run and has refused.")
@connection.data_option
@terminal.json_option
def command(*, name: str | None, retry: bool, data_dir: Path, as_json: bool) -> None:
    """Show what every device runs, what it should run, and how it does; with NAME, all that is known of one device.

    A device counts as committed only when the digest that it runs is the one that it should run. What each device refused last
    stands beneath the table, with the reason. It does not try that again by itself: --retry lets it, when the reason is gone.

    \b
    Examples:
      edgeward devices
      edgeward devices camera-1
      edgeward devices camera-1 --retry
      edgeward devices --json
    """
    now = SystemClock().now()
    with contextlib.closing(connection.connect(data_dir)) as central:
        if retry:
            _retry(central, name, as_json=as_json)
        elif name is None:
            devices = read_devices(central)
            terminal.print_json({"devices": devices}) if as_json else show_fleet(devices, now)
        else:
            known = central.request("GET", f"/v1/devices/{quote(name, safe='')}")
            reported = central.request("GET", f"/v1/telemetry/devices/{known['name']}")
            _show_one(known, reported, now, as_json=as_json)


def _retry(central: connection.Connection, name: str | None, *, as_json: bool) -> None:
    """Raises `click.UsageError` without a name."""
    if name is None:
        raise click.UsageError("--retry is for one device: name it.")
    answer = central.request("POST", f"/v1/devices/{quote(name, safe='')}/retry")
    models = ", ".join(answer["retried"])
    if as_json:
        terminal.print_json(answer)
    elif models:
        terminal.out.print(f"{name} tries {models} once more. See how it goes with `edgeward devices {name}`.")
    else:
        terminal.out.print(f"{name} has refused nothing that it should run.")


def show_fleet(devices: list[DeviceView], now: float) -> None:
    """The table of all devices, and beneath it what each refused last."""
    if not devices:
        terminal.out.print("No device has enrolled yet. Make a claim for one with `edgeward claim create`.")
        return
    terminal.out.print(terminal.table("Devices", COLUMNS, [row for each in devices for row in _rows(each, now)], right=NUMBERS))
    for line in _refusals(devices):
        terminal.out.print(line)


def _rows(device: DeviceView, now: float) -> list[tuple[object, ...]]:
    presence = presence_of(device, now)
    if not device.models:
        return [(device.device, presence, "–", "–", "–", "[dim]nothing assigned[/]", "", "", "", "")]
    rows = [_cells(model, online=device.online) for model in device.models]
    return [(device.device if at == 0 else "", presence if at == 0 else "", *cells) for at, cells in enumerate(rows)]


def _cells(model: ModelOnDevice, *, online: bool) -> tuple[object, ...]:
    numbers = (f"{model.inferences:,}", terminal.in_time(model.p50_s), terminal.in_time(model.p99_s), f"{model.failed:,}")
    return model.model, model.running or "–", model.wanted or "–", state_of(model, online=online), *numbers


def _refusals(devices: list[DeviceView]) -> list[str]:
    return [
        f"[red]{device.device} refused {model.model} {refusal.version}[/] ({refusal.phase}): {safe(cut(refusal.reason))}"
        for device in devices
        for model in device.models
        for refusal in model.refused[-1:]
    ]


def _show_one(known: dict[str, Any], reported: dict[str, Any], now: float, *, as_json: bool) -> None:
    view = device_views([known], {known["name"]: reported["usage"]})[0]
    if as_json:
        terminal.print_json({**reported, **known, "device": view})
        return
    terminal.out.print(terminal.table("", COLUMNS, _rows(view, now), right=NUMBERS))
    for title, text in _facts(view, reported, now):
        terminal.out.print(f"  {title:<12} {text}")
    for model in view.models:
        for refusal in model.refused:
            terminal.out.print(f"[red]Refused {model.model} {refusal.version}[/] while {refusal.phase}: {safe(refusal.reason)}")
    events = [(local_time(each["at"]), each["kind"], each["model"], safe(each["detail"])) for each in reported["events"]]
    if events:
        terminal.out.print(terminal.table("\nEvents", ("at", "event", "model", "detail"), events))


def _facts(view: DeviceView, reported: dict[str, Any], now: float) -> list[tuple[str, str]]:
    facts = [
        ("variants", ", ".join(f"{each.model} {safe(each.variant)}" for each in view.models if each.variant) or "–"),
        ("last heard", "never" if view.seen is None else f"{ago(view.seen, now)} ago"),
        ("answers on", safe(view.serving) or "–"),
        ("agent", safe(view.agent) or "–"),
        ("hardware", safe(", ".join(f"{key} {value}" for key, value in view.hardware.items())) or "–"),
        ("certificate", "–" if view.certificate_expires is None else f"good until {local_time(view.certificate_expires)}"),
    ]
    if reported["rejected"]:
        rejected = reported["rejected"]
        facts.append(("rejected", f"{rejected['count']} reports; the last one: {safe(rejected['reason'])}"))
    return facts
