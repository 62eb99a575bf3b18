"""The errors of this package. Each class is a decision that a caller can make.

`message` says what happened to what; `hint` says what to do next. None of them knows HTTP: `api` gives each a status.
"""

from __future__ import annotations


class RegistryError(Exception):
    """The registry, or publishing to it, cannot do what it was asked."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class InvalidRequest(RegistryError):
    """What was asked makes no sense as it stands. Correct the value that the message names."""


class NotFound(RegistryError):
    """There is no such model, version, device, rollout or file. Ask for one that is listed."""


class BlobMissing(NotFound):
    """The store has no content of that digest. Upload it first."""


class BlobRefused(RegistryError):
    """The uploaded bytes are not those that their digest promises, or too many. Nothing was kept."""


class StoreFailed(RegistryError):
    """The disk refused: full, read-only or broken. Nothing was changed; make room and try again."""


class Damaged(RegistryError):
    """A file of the data directory is not what was written. Restore the piece that the message names."""


class MetadataRefused(RegistryError):
    """The signed metadata break a rule of trust. Signing the same again cannot help."""


class PublishedMeanwhile(RegistryError):
    """Somebody else published in between. Fetch the newest metadata, sign again and try once more."""


class VersionTaken(RegistryError):
    """That version is published with other bytes, and a published version never changes. Choose a new version."""


class ClaimRefused(RegistryError):
    """The claim token is wrong, used up, expired, or meant for another device. Ask the operator for a new one."""


class RenewalRefused(RegistryError):
    """Only the key with which a device is enrolled gets a new certificate. Enrol the device with a claim."""


class DeviceNameTaken(RegistryError):
    """Another device has that name. Choose another name, or have a claim made that allows replacing."""


class TooManyAttempts(RegistryError):
    """Too much was asked in a short time. Wait and try again."""


class RolloutRefused(RegistryError):
    """The rollout cannot start, or cannot be aborted, in the state that the message names."""


class AccessRefused(RegistryError):
    """The bearer token is missing or wrong."""


class KeysMissing(RegistryError):
    """A signing key is not where it was looked for, or is not the one that the repository trusts."""


class RegistryUnreachable(RegistryError):
    """The registry did not answer. Start it, or check the address."""


class RegistryAnsweredNo(RegistryError):
    """The registry refused what the publisher sent, for the reason in the message; `code` is its short name."""

    def __init__(self, message: str, hint: str = "", *, code: str = "refused") -> None:
        super().__init__(message, hint)
        self.code = code
