"""`edgeward models`: published models and how they do in the fleet."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

import click

from edgeward import connection, terminal
from edgeward.errors import ServerRefused
from edgeward.fleet_reading import local_time, read_devices, read_releases, safe
from edgeward.fleet_view import ReleaseView

COLUMNS: Final = ("model", "version", "published", "accuracy", "runs on", "wanted on", "inferences", "p50", "p99", "errors")
NUMBERS: Final = ("accuracy", "runs on", "wanted on", "inferences", "p50", "p99", "errors")
VARIANT_COLUMNS: Final = ("version", "variant", "precision", "size", "accuracy", "inferences", "p50", "p99", "errors")
MOST_CLASSES: Final = 20


@click.command("models", short_help="Show published models and how they do in the fleet.")
@click.argument("name", required=False)
@connection.data_option
@terminal.json_option
def command(*, name: str | None, data_dir: Path, as_json: bool) -> None:
    """Show published models and how they do in the fleet; with NAME, each variant of one model and what it predicts.

    Latencies are those of all inferences of all devices, merged exactly. Errors are shown as a share of all requests.

    \b
    Examples:
      edgeward models
      edgeward models digits
      edgeward models digits --json
    """
    with contextlib.closing(connection.connect(data_dir)) as central:
        releases = read_releases(central, read_devices(central))
        if name is None:
            _show_all(releases, as_json=as_json)
            return
        chosen = [each for each in releases if each.model == name]
        if not chosen:
            raise ServerRefused(f"There is no model {name!r}.", code="not_found", status=404, hint="See `edgeward models`.")
        _show_one(chosen, central.request("GET", f"/v1/telemetry/models/{chosen[0].model}"), as_json=as_json)


def _show_all(releases: list[ReleaseView], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"models": releases})
    elif not releases:
        terminal.out.print("No model is published yet. Make a bundle with `edgeward convert`, then `edgeward publish` it.")
    else:
        terminal.out.print(terminal.table("Models", COLUMNS, [_row(each) for each in releases], right=NUMBERS))


def _row(release: ReleaseView) -> tuple[object, ...]:
    refused = f" [red]({release.refused} refused)[/]" if release.refused else ""
    return (
        release.model,
        release.version,
        local_time(release.published),
        _accuracy(next(iter(release.variants), {})),
        release.running,
        f"{release.wanted}{refused}",
        f"{release.inferences:,}",
        terminal.in_time(release.p50_s),
        terminal.in_time(release.p99_s),
        f"{release.error_share:.2%}",
    )


def _show_one(releases: list[ReleaseView], reported: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"model": releases[0].model, "releases": releases, "telemetry": reported})
        return
    _show_all(releases, as_json=False)
    rows = [row for release in releases for row in _variant_rows(release, reported)]
    terminal.out.print(terminal.table("\nVariants", VARIANT_COLUMNS, rows, right=VARIANT_COLUMNS[3:]))
    predicted = [each for each in releases if each.predictions]
    if predicted:
        classes = sorted({label for each in predicted for label in each.predictions})[:MOST_CLASSES]
        shown = [(safe(label), *(_share(each, label) for each in predicted)) for label in classes]
        versions = [each.version for each in predicted]
        terminal.out.print("\n[bold]Predicted classes[/]")
        terminal.out.print(terminal.table("", ("class", *versions), shown, right=versions))


def _variant_rows(release: ReleaseView, reported: dict[str, Any]) -> list[tuple[object, ...]]:
    did = {
        variant["variant"]: variant
        for each in reported["releases"]
        if each["manifest"] == release.manifest
        for variant in each["variants"]
    }
    rows: list[tuple[object, ...]] = []
    for variant in release.variants:
        used = did.get(variant["name"])
        latency = {} if used is None else used["latency"]
        rows.append(
            (
                release.version,
                variant["name"],
                safe(variant["precision"]),
                terminal.in_bytes(variant["size"]),
                _accuracy(variant),
                "–" if used is None else f"{used['inferences']:,}",
                terminal.in_time(latency.get("p50")),
                terminal.in_time(latency.get("p99")),
                "–" if used is None else f"{used['error_share']:.2%}",
            )
        )
    return rows


def _accuracy(variant: dict[str, Any]) -> str:
    return "–" if variant.get("accuracy") is None else f"{variant['accuracy']:.2%}"


def _share(release: ReleaseView, label: str) -> str:
    return f"{release.predictions.get(label, 0) / sum(release.predictions.values()):.1%}"
