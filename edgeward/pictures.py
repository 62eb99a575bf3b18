"""Pictures, and what is done to them, as files that a person names on the command line."""

from __future__ import annotations

from pathlib import Path

from edgeward.errors import FrontDoorError
from fleet_protocol import limits
from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import Processing, decode_processing
from runtime.processing.decoding import ENCODED_BYTES, SUFFIXES


class PicturesUnusable(FrontDoorError):
    """A picture cannot be used in this way; the message says what can be."""


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


def is_picture(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in SUFFIXES


def read_picture(path: Path) -> bytes:
    """The file's bytes, at most one more than are decoded. Raises `PicturesUnusable`."""
    try:
        with path.open("rb") as file:
            return file.read(ENCODED_BYTES + 1)
    except OSError as error:
        raise PicturesUnusable(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
