"""`docs/commands.md` says what the commands say."""

from __future__ import annotations

from pathlib import Path

from edgeward import help_page

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_is_the_commands_own_help() -> None:
    assert PAGE.read_text(encoding="utf-8") == help_page.page(), "run: python -m edgeward.help_page > docs/commands.md"
