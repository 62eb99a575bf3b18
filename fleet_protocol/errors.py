"""The errors of this package. Each class is a decision that a caller can make."""

from __future__ import annotations


class ProtocolError(Exception):
    """These bytes or names are not Edgeward's wire format. Drop them, and say from where they came."""


class MalformedMessage(ProtocolError):
    """The content has the wrong structure, type or value. Sending the same bytes again cannot help."""


class LimitExceeded(ProtocolError):
    """The content is larger or deeper than `limits` allows. Nothing of it was kept."""


class InvalidName(ProtocolError):
    """A device, model, variant or version name breaks the naming rule. Choose another name."""


class InvalidTopic(ProtocolError):
    """A topic is none that Edgeward speaks. Ignore the message."""
