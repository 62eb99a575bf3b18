"""`edgeward stream`: a model over everything that comes from one place, its results into another, until it is told to stop."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import click

from device_agent.stream_places import Wanted, broker_of, opened, results_of, source_of
from edgeward import stopping, terminal
from edgeward.processing_file import read_processing
from fleet_io.errors import ConfigurationError
from fleet_io.mqtt import Identity
from runtime import ModelHost
from runtime.sources import find
from runtime.streaming import Counts, Policy, Stream

_PATH = click.Path(path_type=Path)
T = TypeVar("T")


@click.command()
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=_PATH)
@click.option("--from", "source", required=True, help="dir:PATH, camera:NUMBER, camera:FILE, stdin or mqtt:TOPIC.")
@click.option("--to", "results", default="stdout", show_default=True, help="stdout, file:PATH or mqtt:TOPIC.")
@click.option(
    "--policy",
    type=click.Choice(get_args(Policy)),
    help="When too much comes: let it wait, or take the latest.  [default: latest for cameras, else block]",
)
@click.option(
    "--waiting", type=click.IntRange(1, 1000), default=8, show_default=True, help="Items that may wait for the model."
)
@click.option("--state", type=_PATH, help="Where a directory's done files are remembered.  [default: in it]")
@click.option("--once", is_flag=True, help="End when every file of the directory is done.")
@click.option("--broker", "address", default="127.0.0.1:1883", show_default=True, help="HOST:PORT of the MQTT broker.")
@click.option("--client-id", help="Name at the broker.  [default: a new one each time]")
@click.option("--ca", type=_PATH, help="Authority of the broker's certificate (PEM); with --cert and --key, TLS is spoken.")
@click.option("--cert", type=_PATH, help="Our certificate (PEM).")
@click.option("--key", type=_PATH, help="Our certificate's key (PEM).")
@click.option("--variant", help="Variant of a bundle.  [default: the publisher's first]")
@click.option("--processing", type=_PATH, help="TOML file with processing, instead of the bundle's own.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of one inference.  [default: the engine's]")
def command(
    *,
    model: Path,
    source: str,
    results: str,
    policy: Policy | None,
    waiting: int,
    state: Path | None,
    once: bool,
    address: str,
    client_id: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    variant: str | None,
    processing: Path | None,
    threads: int | None,
) -> None:
    """Run a bundle, or an .onnx or .tflite file, on everything that comes from one place.

    Items are pictures, audio or whatever the bundle opens, or tensors: new files of a directory, frames of a camera or video,
    lines of JSON on stdin, messages of an MQTT topic. Each result is a line of JSON; an item that cannot be answered gets one
    with an error, and the stream goes on, until Ctrl-C or SIGTERM. At the end, stderr says how many were answered, failed and
    dropped.

    \b
    Examples:
      edgeward stream flowers-1.0.0 --from dir:inbox --to file:results.jsonl
      edgeward stream flowers-1.0.0 --from camera:0 --to mqtt:kitchen/seen --broker 192.168.1.5:1883
      edgeward stream words-1.0.0 --from dir:recordings
      edgeward stream digits-1.0.0 --from stdin < requests.jsonl
      edgeward stream flowers-1.0.0 --from mqtt:cameras/+/frame --to mqtt:results --policy latest
    """
    wanted = Wanted(
        source=_read("--from", source, lambda value: source_of(value, ("dir", "camera", "stdin", "mqtt"))),
        results=_read("--to", results, lambda value: results_of(value, ("stdout", "file", "mqtt"))),
        broker=_read("--broker", address, broker_of),
        client_id=client_id or f"edgeward-stream-{secrets.token_hex(6)}",
        identity=_identity(ca, cert, key),
        policy=policy,
        state=state,
        once=once,
    )
    found = find(model, variant=variant)
    if processing is not None:
        found = dataclasses.replace(found, processing=read_processing(processing))
    stop = stopping.on_signals()
    host, name = ModelHost(), found.identity.model
    host.activate(found.identity, found.load(threads=threads), found.labels)
    try:
        with opened(wanted, stop, lambda said: click.echo(said, err=True)) as (items, places):
            stream = Stream(host, name, items, places, policy=wanted.chosen_policy(), waiting=waiting)
            try:
                stream.run(stop)
            finally:
                terminal.err.print(_said(stream.counts()), soft_wrap=True)
    finally:
        host.deactivate(name)


def _read(option: str, value: str, read: Callable[[str], T]) -> T:
    """Raises `click.BadParameter`, which names the option."""
    try:
        return read(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _identity(ca: Path | None, cert: Path | None, key: Path | None) -> Identity | None:
    """Raises `click.UsageError` where some are missing."""
    if ca is None and cert is None and key is None:
        return None
    if ca is None or cert is None or key is None:
        raise click.UsageError("TLS needs all of --ca, --cert and --key.")
    return Identity(ca, cert, key)


def _said(counts: Counts) -> str:
    return (
        f"{counts.answered} answered, {counts.failed} failed, {counts.dropped} dropped before the model, "
        f"{counts.unwritten} results not taken, {counts.left} left waiting"
    )
