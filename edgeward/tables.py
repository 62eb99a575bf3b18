"""Tables that fit their terminal. Words and numbers stay whole while there is room; without it, each row is a paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

ATTEMPTS: Final = ((2, 24), (1, 24), (1, 10))
"""Spaces between columns, and letters of a word that stay together: what is tried, the most readable first."""


@dataclass(frozen=True)
class FittedTable:
    """Rows of cells, which may hold rich's markup. Columns named in `right` hold numbers, which are never broken."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = ()

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        for gap, word in ATTEMPTS:
            room = options.max_width - gap * (len(self.columns) - 1)
            widths = fitted([self._needs(at, word) for at in range(len(self.columns))], room)
            if widths is not None:
                yield self._table(widths, gap)
                return
        yield self._paragraphs()

    def _needs(self, at: int, word: int) -> tuple[int, int]:
        """The least width at which a column can be read, and the one that it fills."""
        head, cells = self.columns[at], [Text.from_markup(row[at]).plain for row in self.rows]
        lines = [cell_len(line) for cell in cells for line in cell.splitlines()]
        whole = lines if head in self.right else [min(cell_len(each), word) for cell in cells for each in cell.split()]
        return max([*map(len, head.split()), *whole, 1]), max([len(head), *lines, 1])

    def _table(self, widths: Sequence[int], gap: int) -> Table:
        made = Table(
            title=self.title,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, gap, 0, 0),
        )
        for column, width in zip(self.columns, widths, strict=True):
            made.add_column(column, justify="right" if column in self.right else "left", overflow="fold", width=width)
        for row in self.rows:
            made.add_row(*row)
        return made

    def _paragraphs(self) -> Table:
        made = Table.grid(padding=(0, 2, 0, 0))
        made.title, made.title_justify, made.title_style = self.title, "left", "bold"
        made.add_column(style="bold", max_width=12, overflow="fold")
        made.add_column(overflow="fold")
        for row in self.rows:
            for column, cell in zip(self.columns, row, strict=True):
                if cell:
                    made.add_row(column, cell)
            made.add_row("", "")
        return made


def fitted(needs: Sequence[tuple[int, int]], room: int) -> list[int] | None:
    """A width for each column, of what it needs at least and what it fills; None where `room` does not do for the least."""
    if sum(least for least, _ in needs) > room:
        return None
    widths = [full for _, full in needs]
    while sum(widths) > room:
        widest = max((at for at, (least, _) in enumerate(needs) if widths[at] > least), key=lambda at: widths[at])
        widths[widest] -= 1
    return widths
