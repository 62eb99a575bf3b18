"""`docs/tflite.md` lists the operators that there are."""

from __future__ import annotations

from pathlib import Path

from converters.tflite.operators import TABLE
from converters.tflite.rewriting import RULES

PAGE = Path(__file__).parents[3] / "docs" / "tflite.md"


def test_the_page_lists_every_operator_and_no_other() -> None:
    listed = PAGE.read_text(encoding="utf-8").split("## Operators")[1].split("\n\n")[2]
    assert [each.strip() for each in listed.rstrip(".\n").split(",")] == sorted({*TABLE, *RULES})
