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
    top = click.Context(cli.cli, info_name="edgeward", terminal_width=WIDTH, **cli.cli.context_settings)
    for name in sorted(cli.COMMANDS):
        yield from _help(importlib.import_module(f"edgeward.commands.{name}").command, name, top)


def _help(command: click.Command, name: str, parent: click.Context) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=name, parent=parent)
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            child = command.get_command(context, below)
            if child is not None:
                yield from _help(child, below, context)


if __name__ == "__main__":
    click.echo(page(), nl=False)
