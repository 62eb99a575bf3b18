"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class AgentError(Exception):
    """The agent could not do what it was asked; the message says what happened and what to do next."""


class IllegalEvent(AgentError):
    """An event has no row in the machine's table for this state: a fault of this program, never of what came over the wire."""


class TryLater(AgentError):
    """Not now: the work is tried again by itself. What runs goes on running."""


class TransferFailed(TryLater):
    """A resource could not be pulled. What arrived is kept; the next try asks only for the rest."""


class NotServed(TransferFailed):
    """A worker says that it has no such resource."""


class DiskFull(TryLater):
    """The disk has no room above its reserve. Free some, or lower `disk_reserve_bytes`; the active model goes on."""


class ContentDamaged(TryLater):
    """A file on this device is not what its digest says. It was removed and will be fetched again."""


class Cancelled(TryLater):
    """The work is no longer wanted; its result would be thrown away."""


class ReleaseRefused(AgentError):
    """This release cannot run here; it is not tried again until the operator asks for another attempt."""


class Untrusted(ReleaseRefused):
    """Signatures, digests or names do not fit. Nothing of it was used."""


class MessageRejected(AgentError):
    """A desired state was not accepted: forged, for another device, older than the last, or expired. It is dropped."""


class StateDirectoryUnusable(AgentError):
    """The agent cannot keep anything where it shall. Name another directory, or give it the right to write there."""


class EnrolmentFailed(AgentError):
    """The device has no identity yet. Correct what the message names and start again."""


class ServerUnreachable(EnrolmentFailed):
    """Nobody answers at the server's address. Check the address and the network; trying again may help."""


class WrongAuthority(EnrolmentFailed):
    """The server shows another certificate authority than the claim names: do not talk to it."""


class ClaimRefused(EnrolmentFailed):
    """The server does not accept this claim. Ask the operator for a new one."""


class NotEnrolled(EnrolmentFailed):
    """This state directory holds no identity, and no claim was given."""
