"""How commands show things: tables and progress to a person, JSON to a pipe. Nothing here knows what it shows."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

    from edgeward.tables import FittedTable

    out: Console
    err: Console

F = TypeVar("F", bound=Callable[..., object])

PIPE_WIDTH: Final = 120
"""Columns where there is no terminal to ask."""


def __getattr__(name: str) -> Console:
    """`out` and `err`, the consoles on stdout and stderr: made when they are wanted, since rich takes 80 ms to import."""
    if name in ("out", "err"):
        return _console(stderr=name == "err")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def speak_any_encoding() -> None:
    """From now on, what the terminal's encoding cannot say is shown as `?`; it would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def json_option(command: F) -> F:
    """`--json`: print one JSON document on stdout instead of tables."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")(command)


def print_json(value: object) -> None:
    """One indented JSON document on stdout, and nothing else: in UTF-8, whatever the terminal speaks."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> FittedTable:
    """A table in our one style; columns named in `right` hold numbers."""
    from edgeward.tables import FittedTable

    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return FittedTable(title, columns, cells, right)


@contextmanager
def progress(description: str, *, total: float | None = 1.0) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr while the block runs; in a pipe, nothing.

    Gives a function of (what is being done, how much of `total` is done).
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    err = _console(stderr=True)
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    ]
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(description, total=total)
        yield lambda text, done: bars.update(
            task, description=f"{description}: {text}" if text else description, completed=done
        )


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block runs, SIGTERM is as Ctrl-C is: what runs cleans up behind itself. On the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def in_bytes(count: float) -> str:
    """A size for people: `1.4 MB`, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def in_time(seconds: float | None) -> str:
    """A duration for people: `850 µs`, `12 ms`, `3.1 s`; a dash for none."""
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s"
