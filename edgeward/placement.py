"""The options that say where a model runs, for the commands that run one: `--provider` and `--delegate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def options(command: Command) -> Command:
    """Adds `provider` and `delegate` to what the command takes; `runtime.sources.Source` has fields of these names."""
    provider = click.option(
        "--provider",
        metavar="NAME[:DEVICE]",
        help="Where an ONNX model runs: cpu, cuda, openvino, … or auto (docs/engines.md).  [default: cpu]",
    )
    delegate = click.option(
        "--delegate",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Library that runs a TFLite model.  [default: the engine's XNNPACK]",
    )
    return provider(delegate(command))
