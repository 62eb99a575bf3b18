"""Tables on wide and narrow terminals."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgeward import terminal
from edgeward.tables import fitted

COLUMNS = ("device", "", "model", "state", "answers", "p99")
ROWS = [
    ("shelf-1", "[green]online[/]", "digits", "committed", "1,178", "263 µs"),
    ("shelf-2", "offline 30 min", "digits", "was committed", "0", "–"),
]


def shown(width: int, rows: Sequence[tuple[str, ...]] = ROWS) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(terminal.table("Devices", COLUMNS, rows, right=("answers", "p99")))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_where_there_is_room_each_row_is_a_line() -> None:
    assert shown(100) == [
        "Devices",
        "device                   model   state          answers     p99",
        "shelf-1  online          digits  committed        1,178  263 µs",
        "shelf-2  offline 30 min  digits  was committed        0       –",
    ]


@pytest.mark.parametrize("width", [50, 55, 60])
def test_with_less_room_it_breaks_between_words(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert words == {word for row in (COLUMNS, ("Devices", "online"), *ROWS) for cell in row for word in cell.split()} - {
        "[green]online[/]"
    }


def test_without_room_each_row_is_a_paragraph() -> None:
    assert shown(30)[:8] == [
        "Devices",
        "device   shelf-1",
        "         online",
        "model    digits",
        "state    committed",
        "answers  1,178",
        "p99      263 µs",
        "",
    ]


def test_a_word_that_no_line_holds_is_cut_and_nothing_else() -> None:
    lines = shown(60, [("shelf-1", "online", "digits", "x" * 64, "1,178", "263 µs")])
    assert max(map(len, lines)) <= 60
    assert "".join(lines).count("x") == 64
    assert lines[2].split()[-3:] == ["1,178", "263", "µs"]


def test_a_table_without_rows_is_its_head() -> None:
    assert shown(80, [])[1].split() == [name for name in COLUMNS if name]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), min_size=1, max_size=9), st.integers(1, 200))
def test_widths_are_between_what_is_needed_and_what_is_filled(drawn: list[tuple[int, int]], room: int) -> None:
    needs = [(least, least + more) for least, more in drawn]
    widths = fitted(needs, room)
    if widths is None:
        assert sum(least for least, _ in needs) > room
    else:
        assert all(least <= width <= full for width, (least, full) in zip(widths, needs, strict=True))
        assert sum(widths) == min(room, sum(full for _, full in needs))
