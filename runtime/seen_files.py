"""Files as they were when somebody read all of them: are they still the same? Mostly told without reading them again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol.digests import digest_of_stream

_READ_BYTES: Final = 1 << 20


class SeenFile(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a file."""

    digest: str
    size: int
    stamp: tuple[int, int]
    """Modification and change time in ns: as long as they are the same, nobody wrote to the file."""


def seen(path: Path) -> SeenFile:
    """Read all of it. Raises `OSError`."""
    status = path.stat()
    return SeenFile(digest=digest_of_stream(_pieces(path)), size=status.st_size, stamp=(status.st_mtime_ns, status.st_ctime_ns))


def is_same(path: Path, known: SeenFile, *, every_byte: bool = False, moved: bool = False) -> bool:
    """Whether it is the file that was seen: by its size and times, and by every byte where those differ, or where told.

    A file that may have been `moved` since, which changes the later of its times, is told by the earlier one. Raises `OSError`.
    """
    status = path.stat()
    if path.is_symlink() or status.st_size != known.size:
        return False
    untouched = status.st_mtime_ns == known.stamp[0] and (moved or status.st_ctime_ns == known.stamp[1])
    return (untouched and not every_byte) or seen(path).digest == known.digest


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece
