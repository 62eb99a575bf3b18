"""What other threads put into the agent's queue: frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from device_agent.events import Result


@dataclass(frozen=True, slots=True)
class Input:
    """Something for the agent's loop."""


@dataclass(frozen=True, slots=True)
class DesiredArrived(Input):
    """A message on `desired`, not yet believed."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Acknowledgement(Input):
    """A message on `ack`."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Online(Input):
    """The transport is connected, and all subscriptions are granted."""


@dataclass(frozen=True, slots=True)
class Offline(Input):
    """The transport is not connected."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkDone(Input):
    """The worker's result."""

    model: str
    result: Result


@dataclass(frozen=True, slots=True)
class Progressed(Input):
    """The share of a model's files that is at hand, 0 to 1."""

    model: str
    share: float


@dataclass(frozen=True, slots=True)
class ServerHung(Input):
    """An inference holds up the local server for ever."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopAsked(Input):
    """The process shall end."""
