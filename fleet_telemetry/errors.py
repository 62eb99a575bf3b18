"""The errors of this package. Each class is a decision that a caller can make.

`message` says what happened to what; `hint` says what to do next. None of them knows HTTP: `api` gives each a status.
"""

from __future__ import annotations


class TelemetryError(Exception):
    """Telemetry cannot do what it was asked."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class StoreUnavailable(TelemetryError):
    """The database cannot be used right now: disk full, locked, gone. Nothing was stored; try again later."""


class ContentRefused(TelemetryError):
    """The database will never take this content. Drop it; the rest of its batch is fine."""


class InvalidQuery(TelemetryError):
    """A question makes no sense as it stands. Correct the value that the message names."""
