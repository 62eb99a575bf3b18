"""Declared processing as a file that a person names on the command line."""

from __future__ import annotations

from pathlib import Path

from edgeward.errors import FrontDoorError
from fleet_protocol import limits
from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import Processing, decode_processing


class ProcessingUnreadable(FrontDoorError):
    """The file does not declare processing. Correct it; the message says where."""


def read_processing(path: Path) -> Processing:
    """The processing that a TOML file declares. Raises `ProcessingUnreadable`."""
    try:
        with path.open("rb") as file:
            return decode_processing(file.read(limits.PROCESSING_BYTES + 1))
    except OSError as error:
        raise ProcessingUnreadable(f"{path} cannot be read: {error.strerror or error}.") from error
    except ProtocolError as error:
        raise ProcessingUnreadable(f"{path}: {error}") from error
