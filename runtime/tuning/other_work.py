"""How much of the processor other processes take: what is measured beside them is not what an idle device does."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MUCH: Final = 0.1
"""Of all cores together: with two, a fifth of one of them."""
_STATISTICS: Final = Path("/proc/stat")
_IDLE: Final = slice(3, 5)
"""Where the line of all cores tells of doing nothing, and of waiting for a disk (proc_stat(5)); first come eight numbers that
add up to the time."""
_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds up to some moment, of all cores together."""

    passed_s: float
    busy_s: float
    """With any work, that of a hypervisor's other guests included."""
    ours_s: float
    """Of `busy_s`, this process's and that of its children that have ended."""


def spent() -> Spent | None:
    """Up to now; None where the system does not tell (it is no Linux)."""
    try:
        line = _STATISTICS.read_text().partition("\n")[0]
    except OSError:
        return None
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return read(line, ticks_a_second=os.sysconf("SC_CLK_TCK"), ours_s=sum(each.ru_utime + each.ru_stime for each in ours))


def read(line: str, *, ticks_a_second: int, ours_s: float) -> Spent:
    """What the first line of /proc/stat says."""
    ticks = [int(each) for each in line.split()[1 : 1 + _PARTS]]
    passed, idle = sum(ticks), sum(ticks[_IDLE])
    return Spent(passed / ticks_a_second, (passed - idle) / ticks_a_second, ours_s)


def others_share(before: Spent, after: Spent) -> float:
    """What others took between the two, in [0, 1] of all cores together."""
    passed_s = after.passed_s - before.passed_s
    others_s = (after.busy_s - before.busy_s) - (after.ours_s - before.ours_s)
    return min(1.0, max(0.0, others_s / passed_s)) if passed_s > 0 else 0.0


def warning(before: Spent | None, after: Spent | None) -> str:
    """What to say of it, for people; empty where it was little, or is not known."""
    share = 0.0 if before is None or after is None else others_share(before, after)
    if share < MUCH:
        return ""
    return f" Other processes took {share:.0%} of the processor meanwhile: tune again when the device is quiet."
