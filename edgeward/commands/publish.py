"""`edgeward publish`: signs a bundle with the publisher's keys and hands it to the registry. Decides nothing."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

import click

from edgeward import connection, terminal
from fleet_io.clock import SystemClock
from model_registry.layout import Layout
from model_registry.publishing import Outcome, PublisherKeys, publish


@click.command("publish", short_help="Sign a bundle and hand it to the registry.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--keys",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="EDGEWARD_KEYS",
    show_envvar=True,
    help="Directory with publisher.pem, root.json and, for a new model, targets.pem.  [default: those of --data-dir]",
)
@connection.data_option
@terminal.json_option
def command(*, bundle: Path, keys: Path | None, data_dir: Path, as_json: bool) -> None:
    """Verify the directory BUNDLE, upload what the registry lacks, sign the release on this machine, and publish it.

    A published version never changes: the same bundle again is no error and changes nothing; another one under the same version
    is refused.

    \b
    Examples:
      edgeward publish digits-1.0.0
      edgeward publish digits-1.1.0 --keys /media/usb/publisher --json
    """
    used = keys if keys is not None else Layout(data_dir / "registry").offline_keys
    with (
        contextlib.closing(connection.connect(data_dir)) as central,
        terminal.progress(f"Publishing {bundle.name}") as progress,
    ):
        outcome = publish(bundle, client=central.client, keys=PublisherKeys(used), now=SystemClock().now(), progress=progress)
    if as_json:
        terminal.print_json(asdict(outcome))
    else:
        terminal.out.print(describe(outcome), soft_wrap=True)


def describe(outcome: Outcome) -> str:
    """What came of it, in one line and a hint."""
    release = f"{outcome.model} {outcome.version}"
    if not outcome.created and outcome.uploaded:
        restored = terminal.in_bytes(outcome.uploaded)
        return f"{release} was published before with exactly this content; the registry had lost {restored} of it."
    if not outcome.created:
        return f"{release} was published before with exactly this content; nothing changed."
    return (
        f"[green]Published[/] {release}, {terminal.in_bytes(outcome.uploaded)} uploaded.\n  digest   {outcome.manifest}\n"
        f"  next     edgeward rollout start {release} --cohort all"
    )
