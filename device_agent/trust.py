"""What this device believes: desired states signed by the director, and releases signed with TUF. Everything else is dropped.

A desired state only chooses among releases that TUF metadata names. Time for all expiries is the clock, but never less than
the latest time that signed words have shown (the floor), so that a device without a clock does not live in 1970. Expiry
stops new installs; it never stops what runs.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer import Key
from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.updater import Updater

from device_agent.errors import MessageRejected, TransferFailed, TryLater, Untrusted
from device_agent.fetch import MetadataFetcher
from device_agent.link import Cancellation
from fleet_io import durable
from fleet_io.clock import Clock
from fleet_protocol import codec, limits
from fleet_protocol.digests import hex_of
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import MANIFEST_FILE
from fleet_protocol.states import DESIRED_PAYLOAD_TYPE, Assignment, DesiredState, decode_desired

log = logging.getLogger(__name__)

ENVELOPE_BYTES: Final = 2 * limits.DESIRED_BYTES
"""Base64 and signatures around `limits.DESIRED_BYTES`."""
METADATA_URL: Final = "mqtt://workers/metadata/"
"""Never resolved: `MetadataFetcher` looks at the file name alone."""
PLAUSIBLE: Final = 1_735_689_600.0
"""The start of 2025: a clock that shows less was never set."""
AHEAD_S: Final = 24 * 3600.0
_FILE: Final = "accepted.json"


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The last desired state that was believed, and the time floor (epoch seconds)."""

    sequence: int = 0
    expires: int = 0
    floor: float = 0.0


class Director:
    """Believes desired states of one device, and remembers the last, durably."""

    def __init__(self, directory: Path, device: str, key: Key, *, clock: Clock) -> None:
        self._path = durable.make_directory(directory) / _FILE
        self._device = device
        self._key = key
        self._clock = clock
        self._accepted = self._load()

    def now(self) -> float:
        """Epoch seconds, never before the floor."""
        return max(self._clock.now(), self._accepted.floor)

    def expired(self) -> bool:
        """Whether the last desired state is too old to begin new installs with."""
        return self._accepted.expires <= self.now()

    def accept(self, payload: bytes) -> DesiredState:
        """The content of a signed desired state, which is the last from now on. Raises `MessageRejected`."""
        content = self._verified(payload)
        try:
            state = decode_desired(content)
        except ProtocolError as error:
            raise MessageRejected(f"the director signed what cannot be read: {error}") from error
        self._check(state)
        floor = max(self._accepted.floor, self._believable(state.issued))
        accepted = Accepted(sequence=state.sequence, expires=state.expires, floor=floor)
        if accepted != self._accepted:
            durable.write_bytes(self._path, codec.encode(accepted), mode=0o600)
            self._accepted = accepted
        return state

    def _believable(self, issued: float) -> float:
        """A device with a clock does not let one message from the far future expire all that come after it."""
        now = self._clock.now()
        return min(issued, now + AHEAD_S) if now >= PLAUSIBLE else issued

    def _verified(self, payload: bytes) -> bytes:
        if len(payload) > ENVELOPE_BYTES:
            raise MessageRejected(f"desired state has {len(payload)} bytes; at most {ENVELOPE_BYTES} are read")
        try:
            envelope = Envelope.from_dict(json.loads(payload))
            envelope.verify([self._key], 1)
        except VerificationError as error:
            raise MessageRejected("desired state is not signed by this fleet's director") from error
        except (ValueError, KeyError, TypeError, AttributeError, FormatError, RecursionError) as error:
            raise MessageRejected(f"desired state is no signed envelope: {error}") from error
        if envelope.payload_type != DESIRED_PAYLOAD_TYPE:
            raise MessageRejected(f"desired state is signed as {envelope.payload_type!r}, which is something else")
        return bytes(envelope.payload)

    def _check(self, state: DesiredState) -> None:
        if state.device != self._device:
            raise MessageRejected(f"desired state is for {state.device}, and this is {self._device}")
        if state.sequence < self._accepted.sequence:
            raise MessageRejected(f"desired state {state.sequence} is older than {self._accepted.sequence}, which was accepted")
        if state.expires <= self.now():
            raise MessageRejected(f"desired state {state.sequence} has expired; what runs goes on")

    def _load(self) -> Accepted:
        try:
            return codec.decode(self._path.read_bytes(), Accepted, limit=4096, what="last accepted desired state")
        except FileNotFoundError:
            return Accepted()
        except ProtocolError as error:
            log.warning("%s: %s; the next signed word is taken as the first", self._path, error)
            return Accepted()


class Releases:
    """Believes releases: TUF metadata from a bootstrap root, over the chunk lane."""

    def __init__(self, directory: Path, root: bytes, fetcher: MetadataFetcher, director: Director) -> None:
        self._directory = durable.make_directory(directory)
        self._root = root
        self._fetcher = fetcher
        self._director = director

    def confirm(self, assignment: Assignment, cancellation: Cancellation) -> int:
        """Check that signed metadata names this release with this digest; return the manifest's size in bytes.

        Raises `Untrusted`, or `TryLater` when metadata cannot be had now or has expired.
        """
        self._fetcher.cancellation = cancellation
        path = f"{assignment.model}/{assignment.version}/{MANIFEST_FILE}"
        try:
            target = self._updater().get_targetinfo(path)
        except DownloadError as error:
            raise TransferFailed(f"signed metadata cannot be fetched: {error}") from error
        except ExpiredMetadataError as error:
            raise TryLater(f"signed metadata has expired ({error}); nothing new is installed until it is renewed") from error
        except RepositoryError as error:
            raise TryLater(f"signed metadata does not verify: {error}") from error
        except OSError as error:
            raise TryLater(f"signed metadata cannot be kept on this disk: {error}") from error
        return _matching(target, assignment, path)

    def _updater(self) -> Updater:
        config = UpdaterConfig(prefix_targets_with_hash=False, targets_max_length=limits.METADATA_BYTES)
        updater = Updater(str(self._directory), METADATA_URL, fetcher=self._fetcher, config=config, bootstrap=self._root)
        # python-tuf reads the system's clock in a constructor, and offers no way to give it another time.
        trusted: Any = updater._trusted_set  # noqa: SLF001 - see above; a test keeps it true
        trusted.reference_time = datetime.fromtimestamp(self._director.now(), UTC)
        return updater


def _matching(target: TargetFile | None, assignment: Assignment, path: str) -> int:
    if target is None:
        raise TryLater(f"signed metadata names no {path} yet")
    if target.hashes.get("sha256") != hex_of(assignment.manifest):
        raise Untrusted(f"{assignment.manifest} is not what the publisher signed as {path}; it is not installed")
    if target.length > limits.MANIFEST_BYTES:
        raise Untrusted(f"{path} has {target.length} bytes; at most {limits.MANIFEST_BYTES} are read")
    return int(target.length)
