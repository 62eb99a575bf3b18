"""Ctrl-C and SIGTERM as an event, for the commands that run until they are told to stop."""

from __future__ import annotations

import _thread
import signal
import threading


def on_signals() -> threading.Event:
    """Set by SIGINT and by SIGTERM from now on. On the main thread only."""
    stopping = threading.Event()

    def ask(*_signal: object) -> None:
        # Not set here: the signal may interrupt this thread inside the event, whose lock it would then wait for, for ever.
        # Nor through `threading`, which has a lock of its own.
        _thread.start_new_thread(stopping.set, ())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stopping
