"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class RimError(Exception):
    """Something outside the program is not as it must be; the message says what to do."""


class ConfigurationError(RimError):
    """The configuration is wrong. Stop, and let a person correct the key that the message names."""


class AlreadyOwned(RimError):
    """Another process works in this directory. Stop it, or use another directory."""


class TransportError(RimError):
    """The broker cannot be reached, or refuses this identity."""


class ListenFailed(RimError):
    """An address is taken or not ours. Choose another port, or stop the program that has it."""
