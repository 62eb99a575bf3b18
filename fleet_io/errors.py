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


class BundleDamaged(RimError):
    """A bundle directory is not whole, or not what was made. Get it again; use nothing of it."""


class BundleExists(RimError):
    """Something else stands where a bundle was to be written. It was left as it is; choose another place."""


class BundleUnwritable(RimError):
    """The disk did not take the bundle; nothing of it was left behind."""
