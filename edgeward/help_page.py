"""`docs/commands.md`, made from the commands' own help, so that it cannot say anything else; a test keeps it equal."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click

from edgeward import cli

WIDTH = 100

INTRODUCTION = """\
# Commands

Made from the commands' own help by `python -m edgeward.help_page > docs/commands.md`.

Every command exits with 0 when it did what it says, 1 when it could not (one line says why and what to do), 2 on wrong
usage, and 130 when interrupted. `--json` prints one JSON document on stdout.
"""


def page() -> str:
    """The whole page."""
    sections = [f"## `{name}`\n\n```\n{text}\n```\n" for name, text in _helps()]
    return "\n".join([INTRODUCTION, *sections])


def _helps() -> Iterator[tuple[str, str]]:
    for name in sorted(cli.COMMANDS):
        yield from _help(importlib.import_module(f"edgeward.commands.{name}").command, f"edgeward {name}")


def _help(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
    yield path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _help(child, f"{path} {name}")


if __name__ == "__main__":
    click.echo(page(), nl=False)
