"""Draws `docs/agent-machine.md` from the machine's table, so that the page cannot say anything else; a test keeps it equal.

Run `python -m device_agent.diagram > docs/agent-machine.md` after a change of the table.
"""

from __future__ import annotations

import sys
from typing import Final

from device_agent.machine import PHASES, SAME, TABLE, Row

INTRODUCTION: Final = """\
# The agent's machine

Drawn from the table in `device_agent/machine.py` by `python -m device_agent.diagram > docs/agent-machine.md`; a test keeps it
true. Each model on a device has one such machine. The new state is in the journal before its effects are carried out.

The picture leaves out what stays in its phase, and what the operator's wishes cut short; the tables have every row.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, _picture(), *(_table(phase) for phase in PHASES)])


def _picture() -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> idle"]
    seen: set[tuple[str, str, str]] = set()
    for row in TABLE:
        for phase in row.phases:
            arrow = (phase, row.to, row.event.__name__)
            if row.to in (SAME, phase) or arrow in seen or (row.event.__name__ == "Assigned" and phase != "idle"):
                continue
            seen.add(arrow)
            lines.append(f"    {phase} --> {row.to}: {row.event.__name__}")
    return "\n".join([*lines, "```", ""])


def _table(phase: str) -> str:
    rows = [_line(row, phase) for row in TABLE if phase in row.phases]
    return "\n".join([f"## {phase}", "", "| event | when | then | next |", "|---|---|---|---|", *rows, ""])


def _line(row: Row, phase: str) -> str:
    to = phase if row.to == SAME else row.to
    return f"| {row.event.__name__} | {_sentence(row.guard.__doc__)} | {_sentence(row.action.__doc__)} | {to} |"


def _sentence(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


if __name__ == "__main__":
    sys.stdout.write(page())
