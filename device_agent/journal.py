"""What the machine knew when the process died: every model's state, in one durable file, saved before effects are performed.

A journal that cannot be read is set aside under a name that says so, and the states are rebuilt from what the slots say:
never a crash loop, and never a model taken away.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from device_agent.model_state import ModelState
from fleet_io import durable
from fleet_protocol import codec
from fleet_protocol.errors import ProtocolError
from fleet_protocol.limits import ASSIGNMENTS, MIB

log = logging.getLogger(__name__)

FILE: Final = "journal.json"
DAMAGED: Final = "journal.damaged.json"
_LIMIT: Final = 4 * MIB


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The journal's content. `clean`: the agent was stopped, it did not die; `desired`: the sequence that it acts on.

    `starts` counts starts since the agent last lived for a while: many mean that what runs kills it.
    """

    schema: Literal["edgeward.journal/1"] = "edgeward.journal/1"
    clean: bool = False
    desired: int = 0
    starts: int = 0
    models: tuple[ModelState, ...] = ()


class Journal:
    """One file in the state directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._damaged = directory / DAMAGED

    def save(self, entry: Entry) -> None:
        """Make `entry` what the next start reads. Raises `OSError`, and then the last entry stands."""
        body = codec.encode(entry)
        durable.write_bytes(self._path, _sum_of(body) + b"\n" + body, mode=0o600)

    def peek(self) -> Entry | None:
        """The last saved entry, for a look from outside; None where there is none that can be read."""
        try:
            return _decode(self._path.read_bytes())
        except (FileNotFoundError, ProtocolError):
            return None

    def load(self) -> Entry | None:
        """The last saved entry; None where there is none, or where it was damaged and set aside."""
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ProtocolError as error:
            log.warning("%s is damaged (%s); it is kept as %s, and the slots say what runs", self._path, error, DAMAGED)
            durable.rename(self._path, self._damaged)
            return None


def from_slots(running: Iterable[ModelState]) -> Entry:
    """What a lost journal is replaced by."""
    return Entry(models=tuple(running)[:ASSIGNMENTS])


def _decode(content: bytes) -> Entry:
    total, _, body = content.partition(b"\n")
    if total != _sum_of(body):
        raise ProtocolError("its checksum does not fit")
    return codec.decode(body, Entry, limit=_LIMIT, what="journal")


def _sum_of(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
