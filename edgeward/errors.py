"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class FrontDoorError(Exception):
    """A command cannot do what it was asked; the message says why and what to do next."""


class BrokerUnavailable(FrontDoorError):
    """Mosquitto is not installed, or does not start."""


class NoAddressForDevices(FrontDoorError):
    """The central side listens everywhere, but no device would know where that is. Give it a name."""


class ServerUnreachable(FrontDoorError):
    """The central side does not answer. Start it, or point at another one."""


class ServerRefused(FrontDoorError):
    """The central side answered, and said no. `code` is its short name for the reason, `status` the HTTP status."""

    def __init__(self, message: str, *, code: str = "refused", status: int = 400, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.code = code
        self.status = status


class DemoFailed(FrontDoorError):
    """A step of the demo did not come out as it must."""
