"""The options of `edgeward serve`, in the groups in which `edgeward.serving` puts them to use.

Each group is a decorator and adds parameters named as fields of `edgeward.serving.Settings`. May not live here: what becomes
of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, Final

import click

from edgeward.numbers import Number
from edgeward.serving import Settings

Command = Callable[..., Any]
_Option = Callable[[Command], Command]

_DEFAULTS: Final = Settings(models=())
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def _size(_context: click.Context, _option: click.Parameter, said: str | None) -> int | None:
    """Bytes of `200MB`, `1.5GiB` or `200000000`. Raises `click.BadParameter`."""
    if said is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]I?|)B?", said.upper())
    if found is None:
        raise click.BadParameter(f"{said!r} is no size. Give bytes, or a number with a unit: 200MB, 1.5GiB.")
    return int(float(found[1]) * _UNITS[found[2]])


def _group(*options: _Option) -> _Option:
    """One decorator of several; help lists them in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


def _a_file(name: str, **more: Any) -> _Option:  # noqa: ANN401  # click's own keywords
    return click.option(name, type=click.Path(path_type=Path), **more)


def _shown(name: str, kind: click.ParamType[Any], help_text: str) -> _Option:
    """An option whose default stands in its help."""
    return click.option(
        name, type=kind, default=getattr(_DEFAULTS, name[2:].replace("-", "_")), show_default=True, help=help_text
    )


listening: Final = _group(
    _shown("--port", click.IntRange(0, 65535), "Port; 0 takes a free one."),
    click.option("--address", default=_DEFAULTS.address, show_default=True, help="Address, or unix:PATH for a socket."),
    click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC; 0 takes a free one.  [default: no gRPC]"),
    click.option("--grpc-address", help="Address for gRPC, or unix:PATH for a socket.  [default: the same as --address]"),
    click.option(
        "--token-file", type=click.File(encoding="utf-8"), help="File with a token that clients must show.  [default: none]"
    ),
    click.option("--manage", is_flag=True, help="Let clients unload the model and load it again."),
)
"""Where it listens, and who may ask for what."""

running: Final = _group(
    click.option("--variant", help="Variant of a bundle.  [default: as tuned, else the publisher's first]"),
    click.option(
        "--threads", type=click.IntRange(min=1), help="Threads of one inference.  [default: as tuned, else the engine's]"
    ),
    click.option(
        "--batch",
        type=click.IntRange(1, 1024),
        help="Samples of waiting requests that are run together, at most.  [default: as tuned, else 1]",
    ),
    click.option("--isolate", is_flag=True, help="Run each model in a process of its own."),
)
"""How a model runs."""

crowd: Final = _group(
    click.option(
        "--memory-budget",
        metavar="SIZE",
        callback=_size,
        help="Memory of all models together, such as 200MB.  [default: no bound]",
    ),
    click.option("--pin", metavar="MODEL", multiple=True, help="Name of a model that never makes room for others; repeatable."),
    _shown("--max-waiting", click.IntRange(min=0), "Requests that may wait for a model; beyond them is a 503."),
    _shown("--timeout", Number(0, min_open=True), "Seconds that a request is given which does not say it itself."),
)
"""What several models and many requests may take."""

experiment: Final = _group(
    _a_file("--against", metavar="OTHER", help="Bundle or model that answers a part of the requests."),
    _shown("--against-share", Number(0, 1, min_open=True, max_open=True), "Share of the keys that the other answers."),
    click.option("--salt", default="", help="Tells experiments apart: another salt deals the keys anew.  [default: none]"),
)
"""A second version that answers too."""

shadow: Final = _group(
    _a_file("--shadow", metavar="CANDIDATE", help="Bundle or model that gets copies of requests."),
    _shown("--shadow-share", Number(0, 1, min_open=True), "Share of requests that the candidate gets."),
    _shown("--shadow-cpu", Number(0, 1, min_open=True), "Share of one core that the candidate may take."),
)
"""A candidate that nobody hears."""
