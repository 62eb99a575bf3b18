"""Asks the central side for the fleet, and writes it as people read it: the part that `devices`, `models`, `status` share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape

from edgeward.connection import Connection
from edgeward.fleet_view import DeviceView, ModelOnDevice, ReleaseView, device_views, plain, release_views

PAGE: Final = 1000
REASON_CHARACTERS: Final = 100
COLOURS: Final = {"committed": "green", "refused": "red", "rolling_back": "red", "unknown": "dim", "waiting": "yellow"}


def read_devices(central: Connection) -> list[DeviceView]:
    """Every device, joined."""
    usage: dict[str, list[Any]] = {}
    after: str | None = ""
    while after is not None:
        page = central.request("GET", f"/v1/telemetry/devices?limit={PAGE}&after={after}")
        usage.update((each["device"], each["usage"]) for each in page["devices"])
        after = page["next"]
    return device_views(central.request("GET", "/v1/devices")["devices"], usage)


def read_releases(central: Connection, devices: list[DeviceView]) -> list[ReleaseView]:
    """Every published release, joined."""
    models = central.request("GET", "/v1/models")["models"]
    return release_views(models, central.request("GET", "/v1/telemetry/models")["models"], devices)


def safe(text: str) -> str:
    """Text from elsewhere, for a table: no markup, no control characters."""
    return escape(plain(text))


def state_of(model: ModelOnDevice, *, online: bool) -> str:
    """A state in its colour. What an offline device said last may be out of date, so it is never green."""
    said = model.state
    if said == "fetching":
        said = f"fetching {model.progress:.0%}"
    if model.state == "refused":
        said = f"refused {model.wanted}"
    if not online and model.state != "unknown":
        return f"[dim]was {said}[/]"
    return f"[{COLOURS.get(model.state, 'cyan')}]{said}[/]"


def presence_of(device: DeviceView, now: float) -> str:
    """Online, or since when not."""
    if device.online:
        return "[green]online[/]"
    return "[dim]never[/]" if device.seen is None else f"[yellow]offline {ago(device.seen, now)}[/]"


def ago(moment: float, now: float) -> str:
    """How long something is past: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0.0, now - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def local_time(moment: float) -> str:
    """A time as the reader's clock shows it."""
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def cut(text: str) -> str:
    """A reason that fits a table."""
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"
