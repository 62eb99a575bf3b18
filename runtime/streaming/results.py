"""Where results go that needs no network: a file of JSON lines, an open stream such as stdout, a function."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from runtime.errors import StreamBroken
from runtime.streaming.places import Answered

_PIECE_BYTES: Final = 65536


class FileResults:
    """Appends to a file, each line on the disk before the next item is begun. A line that a crash cut short is removed."""

    def __init__(self, path: Path) -> None:
        """Raises `StreamBroken`."""
        self._path = path
        try:
            self._file = path.open("ab+")
            self._file.truncate(_whole(self._file))
        except OSError as error:
            raise StreamBroken(f"{path} cannot be written: {error.strerror or error}. Choose another file.") from error

    def write(self, answered: Answered) -> bool:
        """See `Results`."""
        try:
            self._file.write(msgspec.json.encode(answered) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StreamBroken(f"{self._path} cannot be written: {error.strerror or error}. Free space there.") from error
        return True

    def close(self) -> None:
        """See `Results`."""
        with contextlib.suppress(OSError):  # it would try again what `write` has said cannot be written
            self._file.close()


class StreamResults:
    """Lines on an open binary stream, such as stdout; whoever reads it slowly holds the stream back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, answered: Answered) -> bool:
        """See `Results`."""
        try:
            self._stream.write(msgspec.json.encode(answered) + b"\n")
            self._stream.flush()
        except BrokenPipeError as error:
            raise StreamBroken("Nobody reads the results any more.") from error
        except OSError as error:
            raise StreamBroken(f"The results cannot be written: {error.strerror or error}.") from error
        return True

    def close(self) -> None:
        """It is not ours to close."""


class CalledResults:
    """Gives each result to a function, which says whether it took it."""

    def __init__(self, take: Callable[[Answered], bool | None]) -> None:
        self._take = take

    def write(self, answered: Answered) -> bool:
        """See `Results`. Only False means no."""
        return self._take(answered) is not False

    def close(self) -> None:
        """There is nothing to close."""


def _whole(file: BinaryIO) -> int:
    """Bytes up to the last line's end."""
    at = file.seek(0, os.SEEK_END)
    while at > 0:
        start = max(0, at - _PIECE_BYTES)
        file.seek(start)
        end = file.read(at - start).rfind(b"\n")
        if end >= 0:
            return start + end + 1
        at = start
    return 0
