"""Signals end a command at whatever moment they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, threading
from edgeward import stopping

event = stopping.on_signals()

def interrupt(frame, what, _value):
    if frame.f_code is threading.Condition.wait.__code__:  # the event's lock is held here
        sys.settrace(None)
        signal.raise_signal(signal.{name})
    return interrupt

sys.settrace(interrupt)
print(event.wait(30))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_interrupts_the_wait_for_it_is_heard(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(name=name)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"True\n"), done.stderr.decode()
