"""`edgeward status`: the fleet at a glance, and what needs a person."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from edgeward import connection, terminal
from edgeward.fleet_reading import ago, cut, read_devices, read_releases, safe
from edgeward.fleet_view import DeviceCounts, DeviceView, ReleaseView, count_devices
from fleet_io.clock import SystemClock

CERTIFICATE_WARNING_S: Final = 14 * 86400
SHOWN: Final = 10


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgeward status --json` prints. `attention` is written for people."""

    devices: DeviceCounts
    releases: tuple[ReleaseView, ...]
    """Those that run somewhere or are wanted somewhere."""
    rollouts: tuple[dict[str, Any], ...]
    """Those that are under way."""
    telemetry: dict[str, Any]
    attention: tuple[str, ...]


@click.command("status", short_help="Show the fleet at a glance.")
@connection.data_option
@terminal.json_option
def command(*, data_dir: Path, as_json: bool) -> None:
    """Show the fleet at a glance: devices, what runs, rollouts under way, and what needs a person.

    \b
    Examples:
      edgeward status
      edgeward status --json
    """
    now = SystemClock().now()
    with contextlib.closing(connection.connect(data_dir)) as central:
        devices = read_devices(central)
        releases = read_releases(central, devices)
        rollouts = central.request("GET", "/v1/rollouts")["rollouts"]
        telemetry = central.request("GET", "/v1/telemetry/totals")
    overview = Overview(
        devices=count_devices(devices),
        releases=tuple(each for each in releases if each.running or each.wanted),
        rollouts=tuple(each for each in rollouts if each["state"] == "running"),
        telemetry=telemetry,
        attention=tuple(needs_attention(devices, telemetry, now)),
    )
    if as_json:
        terminal.print_json(overview)
    else:
        _show(overview)


def needs_attention(devices: list[DeviceView], telemetry: dict[str, Any], now: float) -> list[str]:
    """What a person should look at, the worst first."""
    found = [
        f"{device.device} refused {model.model} {model.wanted}: {cut(model.refused[-1].reason)}"
        for device in devices
        for model in device.models
        if model.state == "refused"
    ]
    found += [
        f"{device.device} is offline" + (f" since {ago(device.seen, now)}" if device.seen is not None else "")
        for device in devices
        if not device.online
    ]
    found += [
        f"the certificate of {device.device} ends in {max(0.0, device.certificate_expires - now) / 86400:.0f} days"
        for device in devices
        if device.certificate_expires is not None and device.certificate_expires - now < CERTIFICATE_WARNING_S
    ]
    if telemetry["dropped"]:
        found.append(f"{telemetry['dropped']} reports found no room; their devices send them again")
    if telemetry["rejected"]:
        found.append(f"{telemetry['rejected']} reports could not be read; see `edgeward devices NAME`")
    return found


def _show(overview: Overview) -> None:
    counts, usage = overview.devices, overview.telemetry["usage"]
    terminal.out.print(
        f"[bold]{counts.total}[/] devices, {counts.online} online: [green]{counts.committed} committed[/], "
        f"{counts.changing} changing, " + (f"[red]{counts.refused} refused[/]" if counts.refused else "0 refused")
    )
    terminal.out.print(
        f"[bold]{usage['inferences']:,}[/] inferences, {usage['error_share']:.2%} errors, "
        f"p50 {terminal.in_time(usage['latency']['p50'])}, p99 {terminal.in_time(usage['latency']['p99'])}"
    )
    if overview.releases:
        rows = [(each.model, each.version, each.running, each.wanted, each.refused) for each in overview.releases]
        columns = ("model", "version", "runs on", "wanted on", "refused by")
        terminal.out.print(terminal.table("\nReleases", columns, rows, right=columns[2:]))
    for rollout in overview.rollouts:
        done = rollout["counts"]
        terminal.out.print(
            f"\n[cyan]Rollout {rollout['id']}[/] of {rollout['model']} {rollout['version']}: "
            f"{done['committed']} of {done['members']} committed, {done['failed']} failed"
        )
    if overview.attention:
        terminal.out.print("\n[bold]Needs attention[/]")
        for line in overview.attention[:SHOWN]:
            terminal.out.print(f"  {safe(line)}")
        if len(overview.attention) > SHOWN:
            terminal.out.print(f"  … and {len(overview.attention) - SHOWN} more (`edgeward status --json`)")
