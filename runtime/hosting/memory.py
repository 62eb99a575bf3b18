"""This process' anonymous memory: how much it is, and giving back what was freed.

A C library keeps freed memory for itself; glibc can be told to return it. That takes milliseconds, so it happens on a thread of
its own, once for all who ask for it within `SETTLE_S`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

SETTLE_S: Final = 0.05
_pending = threading.Event()


def anonymous_bytes(pid: int | None = None) -> int:
    """Memory that only this process (or that of `pid`) has and that no file backs; else, all that is resident.

    Raises `psutil.Error` when there is no such process.
    """
    try:
        for line in Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil  # 20 ms that are spent where the system does not say it itself

    return int(psutil.Process(pid).memory_info().rss)


def give_back() -> None:
    """Return freed memory to the system, where the C library can."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def give_back_soon(settle_s: float = SETTLE_S) -> None:
    """The same, off the caller's thread, a little later, once for all who ask meanwhile."""
    if not _pending.is_set():
        _pending.set()
        threading.Thread(target=_settle, args=(settle_s,), name="memory", daemon=True).start()


def _settle(settle_s: float) -> None:
    threading.Event().wait(settle_s)
    _pending.clear()
    give_back()


@cache
def _malloc_trim() -> Callable[[int], object] | None:
    trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
