"""The options that say where and how a model runs, for the commands that run one, and what is known of that on this device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from runtime.sources import find
from runtime.tuning.advice import Advice, advise_on, advise_where

Command = TypeVar("Command", bound=Callable[..., Any])

CACHE: Final = "~/.cache/edgeward"
"""The directory in which `edgeward tune` keeps what it finds, unless it is told another."""


def options(command: Command) -> Command:
    """Adds `provider` and `delegate` to what the command takes; `runtime.sources.Source` has fields of these names."""
    provider = click.option(
        "--provider",
        metavar="NAME[:DEVICE]",
        help="Where an ONNX model runs: cpu, cuda, openvino, … or auto (docs/engines.md).  [default: as tuned, else cpu]",
    )
    delegate = click.option(
        "--delegate",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Library that runs a TFLite model.  [default: the engine's XNNPACK]",
    )
    return provider(delegate(command))


def tuned_options(command: Command) -> Command:
    """Adds `tuned` and `cache`: whether, and where, to look for what is known of running the model here."""
    tuned = click.option(
        "--tuned/--no-tuned", default=True, show_default=True, help="Run it as `edgeward tune` found best on this device."
    )
    return tuned(cache_option(command))


def cache_option(command: Command) -> Command:
    """Adds `cache`: the directory of what was found."""
    add = click.option("--cache", type=click.Path(path_type=Path), help=f"Directory that keeps results.  [default: {CACHE}]")
    return add(command)


def directory(cache: Path | None) -> Path:
    """The directory of what was found: the one that was named, or the usual one."""
    return cache or Path(CACHE).expanduser()


def advice(
    path: Path, *, variant: str | None, tuned: bool, cache: Path | None, provider: str | None, delegate: Path | None
) -> Advice:
    """How to run that bundle or model here. Who says where it runs gets no advice. Raises `ModelRejected`."""
    if tuned and provider is None and delegate is None:
        return advise_on(path, variant=variant, cache=directory(cache))
    wanted = dataclasses.replace(find(path, variant=variant), provider=provider, delegate=delegate)
    return advise_where(wanted, directory(cache))
