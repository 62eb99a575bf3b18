"""Waiting for a condition with a timeout: what tests do instead of sleeping and hoping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TIMEOUT_S = 60.0
"""A machine that has much else to do must not fail a test; only one that fails waits so long."""


def until(condition: Callable[[], object], what: str, *, timeout_s: float = TIMEOUT_S) -> None:
    """Return when `condition` holds; fail the test, saying what was waited for, when it does not in time."""
    pause = threading.Event()
    deadline = time.perf_counter() + timeout_s
    while not condition():
        assert time.perf_counter() < deadline, f"waited {timeout_s:g} s in vain until {what}"
        pause.wait(0.01)
