"""The options of the commands that make a bundle, `convert` and `compress`: what the two call alike stands here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click

from converters.targets import Target
from edgeward.numbers import Number

Command = TypeVar("Command", bound=Callable[..., Any])

PATH: Final = click.Path(path_type=Path)
SHARE: Final = Number(0, 1)


def _names(_context: click.Context, _option: click.Parameter, said: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in said.split(",")) if said else ()


def _points(_context: click.Context, _option: click.Parameter, points: float) -> float:
    return points / 100


def given(command: Command) -> Command:
    """Adds `state` and `trust_pickle`: what some kinds of MODEL need to be opened."""
    state = click.option(
        "--state", type=PATH, help="State dict of a PyTorch module that MODEL names as package.module:factory."
    )
    trust = click.option("--trust-pickle", is_flag=True, help="Open pickles and saved code in MODEL, which can run anything.")
    return state(trust(command))


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


def processors(command: Command) -> Command:
    """Adds `target`: which processors the bundle is for."""
    return click.option(
        "--for",
        "target",
        type=click.Choice(get_args(Target)),
        default="any",
        show_default=True,
        help="Processors that the bundle is for; any: what saturates on AVX2 without VNNI is refused.",
    )(command)


def minutes(text: str) -> Callable[[Command], Command]:
    """Adds `minutes`, the most that the work may take; `text` helps."""
    return click.option("--minutes", type=Number(0, 24 * 60, min_open=True), help=text)


def seed(text: str) -> Callable[[Command], Command]:
    """Adds `seed`; `text` says of what."""
    return click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help=text)
