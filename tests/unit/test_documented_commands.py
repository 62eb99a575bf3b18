"""Every `edgeward …` line in the README and the docs is a command that exists, with options that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeward import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "digits" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
USAGE = re.compile(r"\[OPTIONS\]|\[ARGS\]|^Usage:")


def lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.strip()
                if words.startswith("edgeward ") and not USAGE.search(words):
                    yield page.name, words


LINES = sorted(set(lines()))


def parse(group: click.Group, context: click.Context, words: list[str]) -> None:
    """Walk down to the command, and let click read its options. Values are not converted."""
    name, *rest = words
    command = group.get_command(context, name)
    assert command is not None, f"there is no command {name!r}"
    inner = click.Context(command, info_name=name, parent=context, resilient_parsing=True)
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        parse(command, inner, rest)
        return
    command.make_parser(inner).parse_args(rest)


def test_the_pages_show_commands() -> None:
    assert len(LINES) > 40


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(re.split(r" [#|>] ", line, maxsplit=1)[0], comments=True)[1:]
    assert words, f"{page}: {line}"
    if words[0].startswith("-"):
        return
    parse(cli.cli, click.Context(cli.cli), words)
