"""`docs/commands.md` says what the commands say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_is_the_commands_own_help() -> None:
    # In a process of its own: click remembers a command's help option from whoever asked first.
    made = subprocess.run([sys.executable, "-m", "edgeward.help_page"], check=True, capture_output=True, text=True).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "run: python -m edgeward.help_page > docs/commands.md"
