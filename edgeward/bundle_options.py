"""The options of the commands that make a bundle, `convert` and `compress`: what the two call alike stands here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from edgeward.numbers import Number

Command = TypeVar("Command", bound=Callable[..., Any])

PATH: Final = click.Path(path_type=Path)
SHARE: Final = Number(0, 1)


def _names(_context: click.Context, _option: click.Parameter, said: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in said.split(",")) if said else ()


def _points(_context: click.Context, _option: click.Parameter, points: float) -> float:
    return points / 100


def release(command: Command) -> Command:
    """Adds `model`, `version` and `out`: which release it is, and where it is put."""
    name = click.option("--name", "model", required=True, help="Name of the model in the fleet, such as digits.")
    version = click.option("--version", required=True, help="Version of this release, such as 1.0.0.")
    out = click.option("--out", required=True, type=PATH, help="Directory to make; nothing else may lie there.")
    return name(version(out(command)))


def budget(text: str) -> Callable[[Command], Command]:
    """Adds `budget`, said in points and given as a share; `text` helps."""
    return click.option("--budget", default=0.5, show_default=True, type=Number(0, 100), callback=_points, help=text)


def fleet(command: Command) -> Command:
    """Adds `max_regression` and `classes`, which devices are told."""
    regression = click.option(
        "--max-regression",
        default=0.1,
        show_default=True,
        type=SHARE,
        help="Share of accuracy that a device may lose against what it runs, before its gate refuses.",
    )
    classes = click.option("--classes", default="", callback=_names, help="Names of the classes in order, separated by commas.")
    return regression(classes(command))
